//! Pure: how much a bounded channel holds, readable without its lock.
//!
//! A publish is admitted under the log's lock, before its messages are released. So the gauge does not store how much the
//! channel holds but how that differs from the end of the log: messages that are appended and not released count at once.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use nsq_protocol::ChannelName;

use crate::log::sizes::Amount;
use crate::policy::bounds::Bound;

/// See the module.
#[derive(Debug)]
pub struct Gauge {
    /// `None` for messages that a topic holds back.
    channel: Option<ChannelName>,
    bound: Bound,
    /// Unfinished messages minus all messages of the log.
    messages: AtomicI64,
    /// Unfinished bytes minus all bytes of the log.
    bytes: AtomicI64,
    is_full: AtomicBool,
}

impl Gauge {
    /// Of a channel; `None` for messages that a topic holds back. [`Gauge::set`] must follow.
    pub fn new(channel: Option<ChannelName>, bound: Bound) -> Self {
        Gauge {
            channel,
            bound,
            messages: AtomicI64::new(0),
            bytes: AtomicI64::new(0),
            is_full: AtomicBool::new(false),
        }
    }

    pub fn channel(&self) -> Option<&ChannelName> {
        self.channel.as_ref()
    }

    pub fn bound(&self) -> Bound {
        self.bound
    }

    /// Sets how much of the log before `end` is unfinished. `end` are the messages and bytes before a place in the log.
    pub fn set(&self, held: Amount, end: Amount) {
        self.messages.store(held.messages.wrapping_sub(end.messages).cast_signed(), Ordering::Release);
        self.bytes.store(held.bytes.wrapping_sub(end.bytes).cast_signed(), Ordering::Release);
    }

    /// How much is unfinished if the log ends there.
    pub fn held(&self, end: Amount) -> Amount {
        let held = |end: u64, offset: &AtomicI64| {
            u64::try_from(end.cast_signed().wrapping_add(offset.load(Ordering::Acquire))).unwrap_or(0)
        };
        Amount { messages: held(end.messages, &self.messages), bytes: held(end.bytes, &self.bytes) }
    }

    /// Whether this much can be appended to a log that ends there. Once that was refused, nothing is admitted until the
    /// channel is below 95 % of its bound.
    pub fn admits(&self, end: Amount, more: Amount) -> bool {
        if self.is_full(end) {
            return false;
        }
        let held = self.held(end);
        let is_full = self
            .bound
            .is_exceeded(held.messages.saturating_add(more.messages), held.bytes.saturating_add(more.bytes));
        self.is_full.store(is_full, Ordering::Relaxed);
        !is_full
    }

    /// Whether a log that ends there admits nothing, because a publish was refused before.
    pub fn is_full(&self, end: Amount) -> bool {
        let held = self.held(end);
        self.is_full.load(Ordering::Relaxed) && !self.bound.has_room_again(held.messages, held.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::bounds::Overflow;

    fn amount(messages: u64) -> Amount {
        Amount { messages, bytes: messages * 10 }
    }

    #[test]
    fn full_gauge_admits_again_below_95_percent() {
        let gauge = Gauge::new(None, Bound { max_depth: 100, max_bytes: 0, overflow: Overflow::Reject });
        gauge.set(amount(0), amount(50));
        assert_eq!(gauge.held(amount(140)), amount(90));
        assert!(gauge.admits(amount(140), amount(10)));
        assert!(!gauge.admits(amount(150), amount(1)) && gauge.is_full(amount(150)));
        gauge.set(amount(95), amount(150));
        assert!(!gauge.admits(amount(150), amount(1)));
        gauge.set(amount(94), amount(150));
        assert!(!gauge.is_full(amount(150)) && gauge.is_full(amount(151)));
        assert!(gauge.admits(amount(150), amount(6)) && !gauge.is_full(amount(156)));
    }

    #[test]
    fn bytes_are_bounded_too_and_a_publish_is_admitted_whole() {
        let gauge = Gauge::new(None, Bound { max_depth: 0, max_bytes: 100, overflow: Overflow::Reject });
        gauge.set(amount(3), amount(3));
        assert!(gauge.admits(amount(3), amount(7)));
        assert!(!gauge.admits(amount(3), amount(8)));
        assert!(gauge.admits(amount(3), amount(1)), "there was room for less");
        gauge.set(amount(0), amount(5));
        assert_eq!(gauge.held(amount(3)), amount(0));
    }
}
