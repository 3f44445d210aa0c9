//! Pure: messages that are leased to clients without a connection.
//!
//! Such a client takes messages as a consumer of its own, which leaves at once. Another consumer, the *holder*, keeps its
//! messages in flight. A delivery is known by its message and the moment when it was handed out: once the message
//! has timed out, or is handed out again, that delivery does not exist any more.

use super::consumers::ConsumerKey;
use super::outstanding::Place;
use super::state::{AckError, ChannelState};
use crate::clock::Nanos;

impl ChannelState {
    /// Moves the messages in flight of one consumer to another, with their deadlines.
    pub fn hand_over(&mut self, from: ConsumerKey, to: ConsumerKey) {
        self.consumers.hand_over(from, to, &mut self.outstanding);
    }

    /// The consumer that has the message in flight since `delivered_at`.
    pub fn owner_since(&self, sequence: u64, delivered_at: Nanos) -> Result<ConsumerKey, AckError> {
        let slot = self.outstanding.find(sequence).ok_or(AckError::NotInFlight)?;
        let entry = self.outstanding.entry(slot);
        match entry.place {
            Place::InFlight if entry.delivered_at == delivered_at => Ok(entry.owner),
            _ => Err(AckError::NotInFlight),
        }
    }

    /// Number of messages in flight to a consumer.
    pub fn held_by(&self, key: ConsumerKey) -> u64 {
        self.consumers.get(key).map_or(0, |consumer| consumer.in_flight_count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::saved::Clocks;
    use super::*;
    use crate::locality::Locality;
    use crate::log::{Source, Supplied, Supply};

    /// Supplies everything.
    struct All;

    impl Source for All {
        fn first(&mut self, _: u64, max_count: u64) -> Supply {
            Supply::Given(max_count)
        }

        fn again(&mut self, _: u64, _: u16) -> Supply {
            Supply::Given(1)
        }

        fn timestamps(&self, _: impl FnMut(i64)) {}

        fn may_have_own_ttl(&self, _: u64) -> bool {
            false
        }

        fn retain(&mut self, _: u64, _: impl FnMut(Supplied<'_>) -> bool) -> usize {
            0
        }
    }

    const SECOND: Nanos = 1_000_000_000;
    const CLOCKS: Clocks = Clocks { monotonic: 9, wall_ns: 9 };

    /// A channel with ten messages, and its holder.
    fn channel() -> (ChannelState, ConsumerKey) {
        let mut state = ChannelState::new(0, 10 * SECOND);
        state.release(10, &[], None);
        let holder = state.add_consumer(SECOND, 0, Locality::Global);
        (state, holder)
    }

    /// Leases `count` messages for `timeout`.
    fn lease(state: &mut ChannelState, holder: ConsumerKey, count: u64, timeout: Nanos, now: Nanos) {
        let taker = state.add_consumer(timeout, 0, Locality::Global);
        state.set_ready_count(taker, count);
        assert_eq!(state.take(taker, now, &mut All).0, count);
        state.hand_over(taker, holder);
        assert!(state.remove_consumer(taker, 10));
    }

    #[test]
    fn holder_keeps_what_the_taker_took() {
        let (mut state, holder) = channel();
        lease(&mut state, holder, 3, 5 * SECOND, 1);
        lease(&mut state, holder, 2, SECOND, 2);
        assert_eq!((state.held_by(holder), state.in_flight_count(), state.depth()), (5, 5, 5));
        assert_eq!(state.consumers().get(holder).map(|holder| holder.message_count), Some(5));
        assert_eq!(state.consumers().message_count(Locality::Global), 5, "each message counts once");
        assert_eq!(state.next_deadline(), Some(2 + SECOND), "each take has its own timeout");
        assert_eq!(state.expire(2 + SECOND, 100), [holder]);
        assert_eq!((state.held_by(holder), state.depth()), (3, 7));
    }

    #[test]
    fn delivery_ends_with_its_timeout() {
        let (mut state, holder) = channel();
        lease(&mut state, holder, 1, SECOND, 5);
        assert_eq!(state.owner_since(0, 5), Ok(holder));
        assert_eq!(state.owner_since(0, 6), Err(AckError::NotInFlight));
        assert_eq!(state.owner_since(1, 5), Err(AckError::NotInFlight), "it was never handed out");
        state.expire(5 + SECOND, 100);
        assert_eq!(state.owner_since(0, 5), Err(AckError::NotInFlight));
        lease(&mut state, holder, 10, SECOND, 6 + SECOND);
        assert_eq!(state.owner_since(0, 5), Err(AckError::NotInFlight), "the old delivery");
        assert_eq!(state.owner_since(0, 6 + SECOND), Ok(holder));
        assert_eq!(state.finish(holder, 0, CLOCKS), Ok(()));
        assert_eq!(state.owner_since(0, 6 + SECOND), Err(AckError::NotInFlight));
    }

    #[test]
    fn extended_deadline_has_the_limit_of_a_touch() {
        let (mut state, holder) = channel();
        lease(&mut state, holder, 1, SECOND, 5);
        assert_eq!(state.extend(holder, 0, 3 * SECOND, 6), Ok(6 + 3 * SECOND));
        assert_eq!(state.extend(holder, 0, 60 * SECOND, 7), Ok(5 + 10 * SECOND));
    }

    #[test]
    fn nothing_is_lost_without_a_holder() {
        let (mut state, holder) = channel();
        assert!(state.remove_consumer(holder, 10));
        let taker = state.add_consumer(SECOND, 0, Locality::Global);
        state.set_ready_count(taker, 4);
        assert_eq!(state.take(taker, 1, &mut All).0, 4);
        state.hand_over(taker, 77);
        assert_eq!(state.held_by(taker), 4);
        assert!(state.remove_consumer(taker, 10));
        assert_eq!(state.depth(), 10);
    }
}
