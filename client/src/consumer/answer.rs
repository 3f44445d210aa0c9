//! The final answers to a message.

use std::time::Duration;

/// The final answer to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer<'a> {
    Finish,
    Requeue(Requeue),
    /// With the reason.
    Reject(&'a str),
    /// Nothing is sent: the message has timed out, or is left to time out.
    Nothing,
}

/// When nsqd delivers a requeued message again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Requeue {
    /// After `default_requeue_delay` times the number of attempts, at most `max_requeue_delay`.
    Auto,
    /// At once.
    Now,
    /// After this time. nsqd limits it to its `--max-req-timeout`.
    After(Duration),
}

impl From<Duration> for Requeue {
    fn from(delay: Duration) -> Self {
        Requeue::After(delay)
    }
}
