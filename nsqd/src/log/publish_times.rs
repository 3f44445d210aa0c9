//! Pure: when messages were published, on the monotonic clock, from their timestamps.
//!
//! Timestamps are wall time, and someone may set the wall clock. So it is noted how far the wall clock was ahead of the
//! monotonic clock, whenever that has changed. Messages of earlier runs count by how far it was ahead at the start; those from
//! the future count as published then. A message never counts as older than it is, unless the wall clock was set between
//! two runs.

use std::collections::VecDeque;

use super::ages::{Moment, moment};
use crate::clock::Nanos;

/// A change of the wall clock by less than this is not noted, and messages count as younger by this, in nanoseconds.
const TOLERANCE: i64 = 1_000_000;
/// Maximum number of notes. Beyond it, older messages count as younger than they are.
const MAX_NOTES: usize = 1000;

/// From this message on, the wall clock was ahead of the monotonic clock by this many nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Note {
    first: u64,
    ahead: i64,
}

/// See the module.
#[derive(Debug)]
pub struct PublishTimes {
    /// Wall time at the start, in nanoseconds.
    start_ns: i64,
    ahead_at_start: i64,
    notes: VecDeque<Note>,
}

impl PublishTimes {
    /// For a log that starts now, at `now_ns` of wall time.
    pub fn new(now_ns: i64, now: Nanos) -> Self {
        PublishTimes {
            start_ns: now_ns,
            ahead_at_start: now_ns.saturating_sub(moment(now)),
            notes: VecDeque::new(),
        }
    }

    /// The messages from `first` on are published now, and get the timestamp `now_ns`.
    pub fn note(&mut self, first: u64, now_ns: i64, now: Nanos) {
        let ahead = now_ns.saturating_sub(moment(now));
        if self.notes.back().is_some_and(|last| last.ahead.abs_diff(ahead) < TOLERANCE as u64) {
            return;
        }
        self.notes.push_back(Note { first, ahead });
        if self.notes.len() > MAX_NOTES
            && let Some(oldest) = self.notes.pop_front()
            && let Some(next) = self.notes.front_mut()
        {
            *next = Note { first: oldest.first, ahead: oldest.ahead.min(next.ahead) };
        }
    }

    /// When a message with this timestamp was published, or up to two milliseconds later.
    pub fn published_at(&self, sequence: u64, timestamp_ns: i64) -> Moment {
        let later = self.notes.partition_point(|note| note.first <= sequence);
        let (timestamp_ns, ahead) = match later.checked_sub(1) {
            Some(index) => (timestamp_ns, self.notes[index].ahead),
            None => (timestamp_ns.min(self.start_ns), self.ahead_at_start),
        };
        timestamp_ns.saturating_sub(ahead).saturating_add(TOLERANCE)
    }

    /// Forgets what only messages before `sequence` need.
    pub fn forget_before(&mut self, sequence: u64) {
        while self.notes.get(1).is_some_and(|next| next.first <= sequence) {
            self.notes.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600_000_000_000;
    const MS: i64 = 1_000_000;

    #[test]
    fn setting_the_wall_clock_changes_no_age() {
        let mut times = PublishTimes::new(1000 * HOUR, 5);
        times.note(10, 1000 * HOUR + 50, 55);
        // An hour forward, then two hours back.
        times.note(20, 1001 * HOUR + 100, 105);
        times.note(30, 999 * HOUR + 200, 205);
        for (sequence, timestamp, published_at) in
            [(10, 1000 * HOUR + 50, 55), (25, 1001 * HOUR + 110, 115), (30, 999 * HOUR + 200, 205)]
        {
            assert_eq!(times.published_at(sequence, timestamp), published_at + TOLERANCE);
        }
        times.forget_before(29);
        assert_eq!(times.notes.len(), 2);
        assert_eq!(times.published_at(29, 1001 * HOUR + 110), 115 + TOLERANCE);
    }

    #[test]
    fn messages_of_earlier_runs_count_by_the_clock_at_the_start() {
        let mut times = PublishTimes::new(1000 * HOUR, 7);
        times.note(50, 1001 * HOUR, 8);
        assert_eq!(times.published_at(49, 999 * HOUR), 7 - HOUR + TOLERANCE);
        assert_eq!(times.published_at(49, 2000 * HOUR), 7 + TOLERANCE, "it cannot be from the future");
    }

    proptest! {
        /// The naive model knows when each message was published.
        #[test]
        fn no_message_counts_as_older_than_it_is(
            steps in prop::collection::vec((0i64..5 * MS, prop_oneof![4 => -2 * MS..2 * MS, 1 => -HOUR..HOUR]), 1..2500),
        ) {
            let mut times = PublishTimes::new(1000 * HOUR, 0);
            let (mut now, mut wall, mut published) = (0, 1000 * HOUR, Vec::new());
            for (sequence, &(passed, set)) in steps.iter().enumerate() {
                now += passed;
                wall += passed + set;
                times.note(sequence as u64, wall, now as Nanos);
                published.push((wall, now));
            }
            prop_assert!(times.notes.len() <= MAX_NOTES);
            for (sequence, &(timestamp, at)) in published.iter().enumerate() {
                let counts_as = times.published_at(sequence as u64, timestamp);
                prop_assert!(counts_as >= at, "{sequence}: {counts_as} instead of {at}");
                if times.notes.len() < MAX_NOTES {
                    prop_assert!(counts_as <= at + 2 * TOLERANCE);
                }
            }
        }
    }
}
