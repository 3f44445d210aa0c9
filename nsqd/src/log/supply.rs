//! How a channel gets messages from the log: by number, copied into the output of one consumer.

use nsq_protocol::headers::Headers;

use super::ages::{Moment, moment};
use crate::clock::Nanos;

/// Supplies the messages that a channel hands out; implemented for the topic's log.
pub trait Source {
    /// Supplies at most `max_count` messages, starting with `from`, for their first delivery.
    fn first(&mut self, from: u64, max_count: u64) -> Supply;
    /// Supplies one message for redelivery, with its attempts set.
    fn again(&mut self, sequence: u64, attempts: u16) -> Supply;
    /// Calls `visit` with the timestamp of each message supplied last, in order, if known.
    fn timestamps(&self, _visit: impl FnMut(i64)) {}
    /// Whether any message from `sequence` on may have a time to live of its own. Call after messages were supplied: it
    /// then holds for these.
    fn may_have_own_ttl(&self, _sequence: u64) -> bool {
        false
    }
    /// Passes each message supplied last to `is_kept`, in order, and takes those back for which it returns false. `first` is
    /// the sequence number of the first one; the others follow it without a gap. Returns the bytes taken back.
    fn retain(&mut self, _first: u64, _is_kept: impl FnMut(Supplied<'_>) -> bool) -> usize {
        0
    }
}

/// A message that was supplied, but is not handed out yet.
#[derive(Debug, Clone, Copy)]
pub struct Supplied<'a> {
    pub sequence: u64,
    pub headers: Option<Headers<'a>>,
    /// Its own time to live.
    pub own_ttl: Option<OwnTtl>,
}

/// The time to live of a message, from its header `nsq-ttl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnTtl {
    /// When the message was published, or a little later.
    pub published_at: Moment,
    pub ttl: Nanos,
}

impl OwnTtl {
    /// Whether the message is too old at `now`. `due_at` is when it was due, if it was published deferred.
    pub fn has_passed(self, due_at: Option<Nanos>, now: Nanos) -> bool {
        let since = due_at.map_or(self.published_at, |due_at| self.published_at.max(moment(due_at)));
        since.saturating_add(moment(self.ttl)) <= moment(now)
    }
}

/// The answer of a [`Source`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supply {
    /// Number of messages supplied, at least one.
    Given(u64),
    /// The messages before this sequence number cannot be read. Continue there.
    Lost(u64),
    /// There are no messages before this sequence number: they were dropped, or finished before a restart that lost
    /// this fact.
    Gone(u64),
    /// The messages are on disk and must be read first.
    OnDisk,
    /// The consumer's output has no room now.
    Full,
}
