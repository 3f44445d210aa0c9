//! Pure: messages that come from another node, and messages that a drain moves there.
//!
//! While a channel moves out, it hands nothing out, and nothing expires: consumers finish or give back what they have. A
//! batch that is on its way to the other node stays in the channel. It departs when the other node has it:
//!
//! ```text
//!   ahead, waiting, deferred --send--> in transit --settle--> (the caller lets it depart)
//!                                          |
//!            as before <---------- nothing came of it
//! ```

use super::outstanding::Place;
use super::state::ChannelState;
use crate::clock::Nanos;

/// A message that can move, with its attempts, failures and due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Movable {
    pub sequence: u64,
    /// Deliveries so far.
    pub attempts: u16,
    /// Failed deliveries, if the channel counts them.
    pub failures: u16,
    /// When it is due; `None` if it can be handed out.
    pub due: Option<Nanos>,
}

impl ChannelState {
    /// Adds a message ahead of the cursor that another node had handed out or deferred. It waits if it is not deferred.
    pub(super) fn adopt_ahead(&mut self, sequence: u64, attempts: u16, failures: u16, due: Option<Nanos>) {
        // One that is due already takes its place when deadlines are checked.
        self.defer_ahead(sequence, attempts, due.unwrap_or(0));
        self.departures.set_failures(sequence, failures);
        if attempts > 0
            && let Some(order) = &mut self.order
        {
            order.add_unlearned(sequence, true);
        }
    }

    /// Sets whether the messages move to another node.
    pub fn set_moving_out(&mut self, is_moving_out: bool) {
        self.is_moving_out = is_moving_out;
        if !is_moving_out {
            self.in_transit = Vec::new();
        }
    }

    /// Whether a drain moves the messages to another node, so that nothing is handed out.
    pub fn is_moving_out(&self) -> bool {
        self.is_moving_out
    }

    /// Messages from `from` on that can move, in order, at most `most`, and where to continue; `None` at the end. Leaves
    /// out those in flight and those that become dead letters.
    pub fn movable(&self, from: u64, most: usize) -> (Vec<Movable>, Option<u64>) {
        let (sequences, next) = self.departable(from, self.end, most);
        let movable = sequences.into_iter().filter_map(|sequence| {
            let Some(slot) = self.outstanding.find(sequence) else {
                return Some(Movable { sequence, attempts: 0, failures: 0, due: None });
            };
            let entry = self.outstanding.entry(slot);
            let due = match entry.place {
                Place::Waiting => None,
                Place::Deferred => Some(entry.deadline),
                Place::InFlight | Place::Exhausted | Place::Free => return None,
            };
            let failures = self.departures.failures_of(sequence);
            Some(Movable { sequence, attempts: entry.attempts, failures, due })
        });
        (movable.collect(), next)
    }

    /// These messages, in order, are on their way to the other node; none if the outcome is known.
    pub fn set_in_transit(&mut self, sequences: Vec<u64>) {
        self.in_transit = sequences;
    }

    /// Whether a message is on its way to another node.
    pub(super) fn is_in_transit(&self, sequence: u64) -> bool {
        !self.in_transit.is_empty() && self.in_transit.binary_search(&sequence).is_ok()
    }

    /// Takes at most `most` messages in flight from their consumers, as if these had left. Returns whether there are more.
    pub fn recall_in_flight(&mut self, most: usize) -> bool {
        let mut left = most;
        while left > 0
            && let Some(key) = self.consumers.due(Nanos::MAX)
        {
            while left > 0
                && let Some(slot) = self.first_in_flight(key)
            {
                self.leave_flight(slot, |_| {});
                self.come_back(slot);
                left -= 1;
            }
            self.consumers.update_due(key, &self.outstanding);
        }
        self.in_flight_count > 0
    }

    /// Number of times the cursor was moved or the channel emptied.
    pub fn cursor_moves(&self) -> u64 {
        self.cursor_moves
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::peeking::Standing;
    use crate::channel::rescheduling::NotChanged;
    use crate::locality::Locality;
    use crate::log::{Mark, Source, Supply};
    use crate::storage::ChannelNumber;

    const SECOND: Nanos = 1_000_000_000;

    /// Every message is in memory.
    struct InMemory;

    impl Source for InMemory {
        fn first(&mut self, _: u64, most: u64) -> Supply {
            Supply::Given(most)
        }

        fn again(&mut self, _: u64, _: u16) -> Supply {
            Supply::Given(1)
        }
    }

    fn channel() -> ChannelState {
        let mut state = ChannelState::new(0, 900 * SECOND);
        let channel = ChannelNumber(1);
        let of =
            |from, to, attempts, failures, due| Mark::Adopted { from, to, channel, attempts, failures, due };
        state.release(10, &[of(2, 4, 5, 2, None), of(6, 7, 0, 0, Some(9 * SECOND))], None);
        state
    }

    #[test]
    fn adopted_messages_continue_where_the_other_node_stopped() {
        let mut state = channel();
        state.expire(SECOND, 1000);
        assert_eq!((state.depth(), state.deferred_count()), (9, 1));
        assert_eq!((state.attempts_of(2), state.failures_of(3)), (5, 2));
        assert_eq!(state.standing(3), Some(Standing::Waiting));
        assert_eq!(state.standing(6), Some(Standing::Deferred { due: 9 * SECOND }));
        let key = state.add_consumer(60 * SECOND, 0, Locality::default());
        state.set_ready_count(key, 100);
        while state.take(key, SECOND, &mut InMemory).0 > 0 {}
        assert_eq!((state.attempts_of(2), state.attempts_of(4)), (6, 1));
        assert_eq!(state.in_flight_count(), 9);
        state.expire(10 * SECOND, 1000);
        assert_eq!(state.standing(6), Some(Standing::Waiting));
    }

    #[test]
    fn a_channel_that_moves_out_hands_nothing_out() {
        let mut state = channel();
        state.expire(SECOND, 1000);
        let key = state.add_consumer(60 * SECOND, 0, Locality::default());
        state.set_ready_count(key, 4);
        while state.take(key, SECOND, &mut InMemory).0 > 0 {}
        assert_eq!(state.in_flight_count(), 4);
        state.set_moving_out(true);
        state.set_ready_count(key, 100);
        assert_eq!((state.take(key, SECOND, &mut InMemory).0, state.wake_next()), (0, None));
        let (movable, next) = state.movable(0, 100);
        assert_eq!((movable.len(), next), (6, None));
        assert!(movable.contains(&Movable { sequence: 6, attempts: 0, failures: 0, due: Some(9 * SECOND) }));
        // In parts.
        let (first, next) = state.movable(0, 3);
        assert!(first.len() <= 3 && next.is_some(), "{first:?}");

        assert!(state.recall_in_flight(3));
        assert!(!state.recall_in_flight(3));
        assert_eq!((state.movable(0, 100).0.len(), state.in_flight_count()), (10, 0));
        state.set_moving_out(false);
        assert!(state.take(key, SECOND, &mut InMemory).0 > 0);
    }

    #[test]
    fn a_message_in_transit_cannot_be_cancelled() {
        let mut state = channel();
        state.set_moving_out(true);
        state.set_in_transit(vec![4, 6]);
        assert_eq!(state.standing(4), Some(Standing::Departing));
        assert_eq!(
            (state.can_cancel(6), state.can_cancel(5)),
            (Err(NotChanged::Leaving), Ok(Standing::Ahead))
        );
        state.set_moving_out(false);
        assert_eq!(state.can_cancel(4), Ok(Standing::Ahead));
    }
}
