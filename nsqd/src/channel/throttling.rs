//! Pure: the limits of a channel's rate and of its messages in flight.

use super::rate::{Throttle, ThrottleReport};
use super::state::ChannelState;
use crate::clock::Nanos;

impl ChannelState {
    /// What limits the hand-out; `None` if nothing does.
    pub fn throttle_report(&self, now: Nanos) -> Option<ThrottleReport> {
        self.throttle.as_ref().map(|throttle| throttle.report(self.in_flight_count as u64, now))
    }

    /// Whether consumers wait because of the rate.
    #[inline]
    pub fn is_throttled(&self) -> bool {
        self.throttle.as_ref().is_some_and(|throttle| throttle.deadline().is_some())
    }

    /// Whether no message can be handed out or looked at, so that no consumer is woken.
    #[cfg(test)]
    pub(super) fn wake_would_be_idle(&self) -> bool {
        self.available() == 0
    }

    /// Whether the rate of the channel is one of all nodes together.
    pub fn has_total_rate(&self) -> bool {
        self.policy.limits.rate.is_some_and(|rate| rate.is_total)
    }

    /// Sets between how many nodes a total rate is divided.
    pub fn set_node_count(&mut self, nodes: u64, now: Nanos) {
        if nodes != self.node_count {
            self.node_count = nodes;
            self.change_limits(now);
        }
    }

    /// Applies the limits of the policy.
    pub(super) fn change_limits(&mut self, now: Nanos) {
        let before = self.throttle.take().map(|throttle| *throttle);
        let throttle = Throttle::new(self.policy.limits, self.node_count, before, now);
        self.throttle = throttle.map(Box::new);
    }

    /// At most this many messages may be handed out now.
    pub(super) fn throttle_room(&mut self, now: Nanos) -> u64 {
        let in_flight = self.in_flight_count as u64;
        self.throttle.as_mut().map_or(u64::MAX, |throttle| throttle.room(now, in_flight))
    }

    /// These messages were handed out.
    pub(super) fn throttle_took(&mut self, count: u64, now: Nanos) {
        let has_more = self.available() > 0;
        if let Some(throttle) = &mut self.throttle {
            throttle.took(count, has_more, now);
        }
    }
}
