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
    /// Whether a publish must fit as a whole. Otherwise it is admitted while there is any room.
    counts_whole: bool,
    /// Whether it is in force.
    is_on: AtomicBool,
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
            counts_whole: true,
            is_on: AtomicBool::new(true),
            messages: AtomicI64::new(0),
            bytes: AtomicI64::new(0),
            is_full: AtomicBool::new(false),
        }
    }

    /// For a channel that removes what exceeds `bound`: refuses publishes only if it cannot remove as fast as messages come,
    /// so that this much more is there.
    pub fn with_slack(channel: ChannelName, bound: Bound, slack: Amount) -> Self {
        let more = |most: u64, slack: u64| if most == 0 { 0 } else { most.saturating_add(slack) };
        let bound = Bound {
            max_depth: more(bound.max_depth, slack.messages),
            max_bytes: more(bound.max_bytes, slack.bytes),
            ..bound
        };
        Gauge { counts_whole: false, ..Gauge::new(Some(channel), bound) }
    }

    /// Puts it in force, or not.
    pub fn set_on(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::Relaxed);
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
        if !self.is_on.load(Ordering::Relaxed) {
            return true;
        }
        if self.is_full(end) {
            return false;
        }
        let (held, more) = (self.held(end), if self.counts_whole { more } else { Amount::default() });
        let is_full = self
            .bound
            .is_exceeded(held.messages.saturating_add(more.messages), held.bytes.saturating_add(more.bytes));
        self.is_full.store(is_full, Ordering::Relaxed);
        !is_full
    }

    /// Whether this much exceeds the bound even of an empty channel.
    pub fn never_admits(&self, more: Amount) -> bool {
        self.counts_whole && self.bound.is_exceeded(more.messages, more.bytes)
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
    fn gauge_with_slack_refuses_only_far_beyond_the_bound() {
        let bound = Bound { max_depth: 10, max_bytes: 0, overflow: Overflow::DeadLetter };
        let gauge = Gauge::with_slack(ChannelName::new("c").unwrap(), bound, amount(90));
        gauge.set(amount(0), amount(0));
        assert!(gauge.admits(amount(100), amount(1000)), "a batch is admitted while there is room");
        assert!(!gauge.admits(amount(101), amount(1)) && !gauge.admits(amount(96), amount(1)));
        assert!(gauge.admits(amount(94), amount(1)));
        gauge.set_on(false);
        assert!(gauge.admits(amount(1000), amount(1000)));
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
