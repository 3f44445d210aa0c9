//! What a release passes to the channels besides plain messages.

use crate::clock::Nanos;

/// A part of a release that is not handed out in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// These sequence numbers have no messages (refused or emptied).
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
}
