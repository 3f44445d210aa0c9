//! Pure: sequence numbers that are not plain messages.
//!
//! Publishing leaves a mark in the log for each such range. A release takes the marks before its end and passes them to
//! the channels. Recovery restores marks that no release has taken, and adds new ones from the journal.

use crate::clock::Nanos;
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
}

impl Mark {
    /// First sequence number.
    pub fn from(&self) -> u64 {
        match *self {
            Mark::Skipped { from, .. } | Mark::Deferred { from, .. } | Mark::Targeted { from, .. } => from,
        }
    }

    /// One past the last sequence number.
    pub fn to(&self) -> u64 {
        match *self {
            Mark::Skipped { to, .. } | Mark::Deferred { to, .. } | Mark::Targeted { to, .. } => to,
        }
    }

    /// The sequence numbers.
    pub fn sequences(&self) -> SequenceRange {
        SequenceRange::new(self.from(), self.to())
    }

    /// Cuts the mark at `at`, which must be within it. Returns the rest.
    pub fn split_off(&mut self, at: u64) -> Mark {
        match self {
            Mark::Skipped { to, .. } => Mark::Skipped { from: at, to: std::mem::replace(to, at) },
            Mark::Deferred { to, due, .. } => {
                Mark::Deferred { from: at, to: std::mem::replace(to, at), due: *due }
            }
            Mark::Targeted { to, channel, .. } => {
                Mark::Targeted { from: at, to: std::mem::replace(to, at), channel: *channel }
            }
        }
    }

    /// What the mark means for a channel; `None` if its messages are plain ones there. `channel` is `None` for a channel
    /// that does not exist yet.
    pub fn for_channel(self, channel: Option<ChannelNumber>) -> Option<Mark> {
        match self {
            Mark::Targeted { channel: target, .. } if channel == Some(target) => None,
            Mark::Targeted { from, to, .. } => Some(Mark::Skipped { from, to }),
            mark => Some(mark),
        }
    }
}
