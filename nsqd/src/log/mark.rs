//! Pure: sequence numbers that are not plain messages.
//!
//! Publishing leaves a mark in the log for each such range. A release takes the marks before its end and passes them to
//! the channels. Recovery restores marks that no release has taken, and adds new ones from the journal.

use crate::clock::Nanos;
use crate::storage::record::AdoptedState;
use crate::storage::{ChannelNumber, SequenceRange};

/// A range of sequence numbers that is not handed out in order. Not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// These sequence numbers have no messages (refused, emptied or lost).
    Skipped {
        /// First sequence number.
        from: u64,
        /// One past the last sequence number.
        to: u64,
    },
    /// These were published deferred.
    Deferred {
        /// First sequence number.
        from: u64,
        /// One past the last sequence number.
        to: u64,
        /// When they are due.
        due: Nanos,
    },
    /// Only one channel receives these; for all others they are skipped.
    Targeted {
        /// First sequence number.
        from: u64,
        /// One past the last sequence number.
        to: u64,
        /// The channel.
        channel: ChannelNumber,
    },
    /// Another node had these. As [`Mark::Targeted`], and the channel continues where the other node stopped.
    Adopted {
        /// First sequence number.
        from: u64,
        /// One past the last sequence number.
        to: u64,
        /// The channel.
        channel: ChannelNumber,
        /// Deliveries so far.
        attempts: u16,
        /// Failed deliveries, if they were counted.
        failures: u16,
        /// When they are due; `None` if they can be handed out.
        due: Option<Nanos>,
    },
}

impl Mark {
    /// First sequence number.
    pub fn from(&self) -> u64 {
        match *self {
            Mark::Skipped { from, .. }
            | Mark::Deferred { from, .. }
            | Mark::Targeted { from, .. }
            | Mark::Adopted { from, .. } => from,
        }
    }

    /// One past the last sequence number.
    pub fn to(&self) -> u64 {
        match *self {
            Mark::Skipped { to, .. }
            | Mark::Deferred { to, .. }
            | Mark::Targeted { to, .. }
            | Mark::Adopted { to, .. } => to,
        }
    }

    /// The sequence numbers.
    pub fn sequences(&self) -> SequenceRange {
        SequenceRange::new(self.from(), self.to())
    }

    /// Cuts the mark at `at`, which must be within it. Returns the rest.
    pub fn split_off(&mut self, at: u64) -> Mark {
        let mut rest = *self;
        match self {
            Mark::Skipped { to, .. }
            | Mark::Deferred { to, .. }
            | Mark::Targeted { to, .. }
            | Mark::Adopted { to, .. } => *to = at,
        }
        match &mut rest {
            Mark::Skipped { from, .. }
            | Mark::Deferred { from, .. }
            | Mark::Targeted { from, .. }
            | Mark::Adopted { from, .. } => *from = at,
        }
        rest
    }

    /// The marks of messages that another node had, from `first` on, in the order of `states`. With `channel`, only this
    /// one receives them. `due` converts a wall time; `None` if it has passed.
    pub fn of_adopted(
        first: u64,
        channel: Option<ChannelNumber>,
        states: impl Iterator<Item = AdoptedState>,
        due: impl Fn(i64) -> Option<Nanos>,
    ) -> Vec<Mark> {
        let mut marks = Vec::new();
        let mut to = first;
        for AdoptedState { count, attempts, failures, due_ns } in states {
            let from = to;
            to = from.saturating_add(count.into());
            let due = due_ns.and_then(&due);
            match (channel, due) {
                (Some(_), None) if attempts == 0 && failures == 0 => {}
                (Some(channel), due) => {
                    marks.push(Mark::Adopted { from, to, channel, attempts, failures, due });
                }
                (None, Some(due)) => marks.push(Mark::Deferred { from, to, due }),
                (None, None) => {}
            }
        }
        if let Some(channel) = channel.filter(|_| first < to) {
            marks.push(Mark::Targeted { from: first, to, channel });
        }
        marks
    }

    /// What the mark means for a channel; `None` if its messages are plain ones there. `channel` is `None` for a channel
    /// that does not exist yet.
    pub fn for_channel(self, channel: Option<ChannelNumber>) -> Option<Mark> {
        match self {
            Mark::Targeted { channel: target, .. } if channel == Some(target) => None,
            Mark::Adopted { channel: target, .. } if channel == Some(target) => Some(self),
            Mark::Targeted { from, to, .. } | Mark::Adopted { from, to, .. } => {
                Some(Mark::Skipped { from, to })
            }
            mark => Some(mark),
        }
    }

    /// Whether other channels than its own skip the messages.
    pub fn is_of_one_channel(&self) -> bool {
        matches!(self, Mark::Targeted { .. } | Mark::Adopted { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adopted_messages_have_marks_only_where_they_differ_from_new_ones() {
        let (new, ours) = (AdoptedState { count: 3, ..AdoptedState::default() }, ChannelNumber(7));
        let tried = AdoptedState { count: 2, attempts: 4, failures: 1, due_ns: None };
        let later = AdoptedState { count: 1, due_ns: Some(100), ..AdoptedState::default() };
        let past = AdoptedState { count: 1, due_ns: Some(1), ..AdoptedState::default() };
        let due = |due_ns: i64| (due_ns > 50).then_some(9);
        let states = [new, tried, later, past];
        let marks = Mark::of_adopted(10, Some(ours), states.into_iter(), due);
        let of = |from, to, attempts, failures, due| Mark::Adopted {
            from,
            to,
            channel: ours,
            attempts,
            failures,
            due,
        };
        let targeted = Mark::Targeted { from: 10, to: 17, channel: ours };
        assert_eq!(marks, [of(13, 15, 4, 1, None), of(15, 16, 0, 0, Some(9)), targeted]);
        assert_eq!(marks[0].for_channel(Some(ours)), Some(marks[0]));
        assert_eq!(marks[0].for_channel(Some(ChannelNumber(8))), Some(Mark::Skipped { from: 13, to: 15 }));
        // Of all channels.
        let marks = Mark::of_adopted(10, None, [new, later].into_iter(), due);
        assert_eq!(marks, [Mark::Deferred { from: 13, to: 14, due: 9 }]);
        assert_eq!(Mark::of_adopted(10, Some(ours), [].into_iter(), due), []);
    }

    #[test]
    fn a_mark_is_cut_in_two() {
        let mut mark =
            Mark::Adopted { from: 1, to: 9, channel: ChannelNumber(1), attempts: 2, failures: 0, due: None };
        let rest = mark.split_off(4);
        assert_eq!(
            (mark.sequences(), rest.sequences()),
            (SequenceRange::new(1, 4), SequenceRange::new(4, 9))
        );
        assert!(mark.is_of_one_channel() && rest.is_of_one_channel());
    }
}
