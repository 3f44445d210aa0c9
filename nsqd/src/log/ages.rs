//! Pure: how old messages are, by marks in the order of sequence numbers.
//!
//! A mark says that all messages before a sequence number were published at or before a time. Marks are a thousandth of
//! the shortest time to live apart, so their number is bounded, and a message expires at most that much late. Times are of
//! the monotonic clock, so someone who sets the wall clock changes nothing. They may be negative: before the start.

use std::collections::VecDeque;

use crate::clock::Nanos;

/// Marks per time to live.
const PARTS: i64 = 1000;
/// Marks are at least this far apart, in nanoseconds.
const LEAST_RESOLUTION: i64 = 1_000_000;

/// A time on the monotonic clock in nanoseconds, which may be before the start.
pub type Moment = i64;

/// All messages before `end` were published at or before `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AgeMark {
    end: u64,
    /// When its first and its last message were published.
    from: Moment,
    to: Moment,
}

/// Messages that were taken over from NSQ. Their timestamps are NSQ's, but their age counts from the takeover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenOver {
    /// All messages before this one.
    pub before: u64,
    /// When they were taken over: wall time in nanoseconds.
    pub at_ns: i64,
}

impl TakenOver {
    /// The wall time from which the age of a message counts.
    pub fn counts_from(&self, sequence: u64, published_ns: i64) -> i64 {
        if sequence < self.before { published_ns.max(self.at_ns) } else { published_ns }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Ages {
    marks: VecDeque<AgeMark>,
    resolution: Moment,
    /// Whether the ages of the messages before the first mark were looked up.
    knows_older: bool,
}

impl Ages {
    /// Sets the shortest time to live for which ages are needed; 0 for none, which forgets everything.
    pub fn set_shortest(&mut self, ttl: Nanos) {
        if ttl == 0 {
            *self = Ages::default();
            return;
        }
        self.resolution = (moment(ttl) / PARTS).max(LEAST_RESOLUTION);
    }

    /// The messages before `end` are published now.
    pub fn note(&mut self, end: u64, now: Moment) {
        match self.marks.back_mut() {
            Some(last) if end <= last.end => {}
            Some(last) if now < last.from.saturating_add(self.resolution) => {
                last.end = end;
                last.to = last.to.max(now);
            }
            last => {
                let now = last.map_or(now, |last| last.to.max(now));
                self.marks.push_back(AgeMark { end, from: now, to: now });
            }
        }
    }

    /// Whether [`Ages::add_older`] is to be called.
    pub fn wants_older(&self) -> bool {
        self.resolution > 0 && !self.knows_older
    }

    /// Adds what is known about messages before the first mark: pairs of a sequence number and a time at or before which
    /// all messages before it were published, in order.
    pub fn add_older(&mut self, older: impl DoubleEndedIterator<Item = (u64, Moment)>) {
        self.knows_older = true;
        for (end, at) in older.rev() {
            let first = self.marks.front();
            if first.is_none_or(|first| end < first.end) {
                // The wall clock, from which these times come, may have been set.
                let at = first.map_or(at, |first| at.min(first.from));
                self.marks.push_front(AgeMark { end, from: at, to: at });
            }
        }
    }

    /// The end of the messages that are at least `ttl` old at `now`.
    pub fn expired_before(&self, now: Moment, ttl: Nanos) -> u64 {
        let latest = now.saturating_sub(moment(ttl));
        let count = self.marks.partition_point(|mark| mark.to <= latest);
        count.checked_sub(1).map_or(0, |last| self.marks[last].end)
    }

    /// Forgets marks that only tell apart messages before `sequence`.
    pub fn forget_before(&mut self, sequence: u64) {
        while self.marks.get(1).is_some_and(|mark| mark.end <= sequence) {
            self.marks.pop_front();
        }
    }
}

/// A duration or a time of the monotonic clock as a [`Moment`].
pub fn moment(at: Nanos) -> Moment {
    Moment::try_from(at).unwrap_or(Moment::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Moment = 1_000_000;
    const TTL: Nanos = 10_000 * MS as Nanos;

    fn ages() -> Ages {
        let mut ages = Ages::default();
        ages.set_shortest(TTL);
        ages
    }

    #[test]
    fn messages_expire_after_their_time_and_not_before() {
        let mut ages = ages();
        assert_eq!(ages.expired_before(i64::MAX, TTL), 0);
        ages.note(10, 0);
        ages.note(12, 5 * MS);
        ages.note(20, 10 * MS);
        assert_eq!(ages.expired_before(10_005 * MS - 1, TTL), 0);
        assert_eq!(ages.expired_before(10_005 * MS, TTL), 12);
        assert_eq!(ages.expired_before(10_010 * MS, TTL), 20);
        ages.forget_before(15);
        assert_eq!(ages.expired_before(10_009 * MS, TTL), 12);
        ages.forget_before(20);
        assert_eq!(ages.expired_before(10_010 * MS, TTL), 20);
    }

    #[test]
    fn older_messages_have_the_times_that_were_found() {
        let mut ages = ages();
        ages.note(100, 7 * MS);
        assert!(ages.wants_older());
        // The last one is from the future: the wall clock was set back.
        ages.add_older([(10, -9000 * MS), (20, -5000 * MS), (30, 900 * MS)].into_iter());
        assert!(!ages.wants_older());
        assert_eq!(ages.expired_before(1000 * MS, TTL), 10);
        assert_eq!(ages.expired_before(5000 * MS, TTL), 20);
        assert_eq!(ages.expired_before(10_007 * MS - 1, TTL), 20);
        assert_eq!(ages.expired_before(10_007 * MS, TTL), 100);
    }

    #[test]
    fn messages_that_were_taken_over_count_from_then() {
        let taken_over = TakenOver { before: 10, at_ns: 500 };
        assert_eq!(taken_over.counts_from(9, 3), 500);
        assert_eq!(taken_over.counts_from(9, 600), 600, "the clock of NSQ was ahead");
        assert_eq!(taken_over.counts_from(10, 3), 3, "published later, after the clock was set back");
    }

    proptest! {
        /// The naive model knows when each message was published.
        #[test]
        fn no_message_expires_early_or_more_than_a_thousandth_late(
            publishes in prop::collection::vec((1u64..5, 0i64..30), 1..200),
            probes in prop::collection::vec(0i64..20_000, 1..20),
        ) {
            let mut ages = ages();
            let (mut end, mut now, mut published) = (0, 0, Vec::new());
            for (count, pause) in publishes {
                now += pause * MS / 2;
                end += count;
                published.extend(std::iter::repeat_n(now, count as usize));
                ages.note(end, now);
            }
            prop_assert!(ages.marks.len() as i64 <= now / (10 * MS) + 2);
            for probe in probes {
                let probe = probe * MS;
                let expired = ages.expired_before(probe, TTL) as usize;
                let at_most = published.partition_point(|at| at + TTL as i64 <= probe);
                let at_least = published.partition_point(|at| at + TTL as i64 + 10 * MS <= probe);
                prop_assert!((at_least..=at_most).contains(&expired), "{at_least} {expired} {at_most}");
            }
        }
    }
}
