//! How a channel gets messages from the log: by number, copied into the output of one consumer.

/// Supplies the messages that a channel hands out; implemented for the topic's log.
pub trait Source {
    /// Supplies at most `max_count` messages, starting with `from`, for their first delivery.
    fn first(&mut self, from: u64, max_count: u64) -> Supply;
    /// Supplies one message for redelivery, with its attempts set.
    fn again(&mut self, sequence: u64, attempts: u16) -> Supply;
    /// Calls `visit` with the timestamp of each message supplied last, in order, if known.
    fn timestamps(&self, _visit: impl FnMut(i64)) {}
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
