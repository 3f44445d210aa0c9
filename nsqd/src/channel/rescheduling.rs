//! Pure: what an operator or a producer does with one message: cancels it, or changes when it is handed out.
//!
//! ```text
//!   ahead, waiting, deferred, set aside --cancel--> finished
//!   ahead, waiting, deferred --reschedule(delay)--> deferred
//!   deferred --reschedule(0)--> waiting
//! ```
//!
//! A message in flight belongs to its consumer and does not change.

use super::consumers::ConsumerKey;
use super::fates::Fate;
use super::outstanding::Place;
use super::peeking::Standing;
use super::state::ChannelState;
use crate::clock::Nanos;
use crate::storage::SequenceRange;

/// Why a message was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotChanged {
    /// The channel does not have it: it is finished, or never entered.
    Unknown,
    /// It is in flight to this consumer.
    InFlight(ConsumerKey),
    /// It is about to become a dead letter or to move to another topic.
    Leaving,
    /// An ephemeral topic or channel has no room for it.
    NoRoom,
}

/// What became of a rescheduled message, for the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rescheduled {
    /// Its deliveries so far.
    pub attempts: u16,
    /// Its failed deliveries, if the channel counts them.
    pub failures: u16,
    /// When it is due; `None` if it waits to be handed out.
    pub due: Option<Nanos>,
}

impl ChannelState {
    /// Where a message stands that may be cancelled.
    pub fn can_cancel(&self, sequence: u64) -> Result<Standing, NotChanged> {
        match self.standing(sequence) {
            None => Err(NotChanged::Unknown),
            Some(Standing::InFlight { owner, .. }) => Err(NotChanged::InFlight(owner)),
            Some(Standing::Departing) => Err(NotChanged::Leaving),
            Some(standing) => Ok(standing),
        }
    }

    /// Finishes a message that is not in flight. Returns where it stood.
    pub fn cancel(&mut self, sequence: u64) -> Result<Standing, NotChanged> {
        let standing = self.can_cancel(sequence)?;
        match self.outstanding.find(sequence) {
            Some(slot) => {
                self.unqueue(slot);
                self.remove(slot);
                self.departures.forget_set_aside(sequence);
            }
            None => self.skip_ahead([SequenceRange::one(sequence)].into_iter()),
        }
        self.departures.note_removed(SequenceRange::one(sequence));
        self.counters.cancelled_count += 1;
        self.fates.note(SequenceRange::one(sequence), Fate::Cancelled);
        Ok(standing)
    }

    /// Where a message stands that may be rescheduled by this delay.
    pub fn can_reschedule(&self, sequence: u64, delay: Nanos) -> Result<Standing, NotChanged> {
        match self.can_cancel(sequence)? {
            Standing::SetAside(_) => Err(NotChanged::Leaving),
            Standing::Deferred { .. } if delay == 0 && self.is_full() => Err(NotChanged::NoRoom),
            Standing::Ahead | Standing::Waiting if delay > 0 && !self.has_room_to_defer() => {
                Err(NotChanged::NoRoom)
            }
            standing => Ok(standing),
        }
    }

    /// Defers a message that is not in flight by `delay`, or hands it out behind all that are there now if the delay is 0.
    /// Returns where it stood, and what to record: nothing if it can be handed out already.
    pub fn reschedule(
        &mut self,
        sequence: u64,
        delay: Nanos,
        now: Nanos,
    ) -> Result<(Standing, Option<Rescheduled>), NotChanged> {
        let standing = self.can_reschedule(sequence, delay)?;
        let due = (delay > 0).then(|| now.saturating_add(delay));
        match (self.outstanding.find(sequence), due) {
            (Some(slot), Some(due)) => {
                self.unqueue(slot);
                let was_handed_out = self.outstanding.entry(slot).attempts > 0;
                if let Some(order) = &mut self.order {
                    order.put_off(sequence, was_handed_out);
                }
                self.defer(slot, due);
            }
            (Some(slot), None) if self.outstanding.entry(slot).place == Place::Deferred => {
                self.unqueue(slot);
                // Its age counts from now, if it was never handed out.
                self.outstanding.entry_mut(slot).deadline = now;
                self.note_due(slot);
                self.wait_in_turn(slot);
            }
            (None, Some(due)) => {
                self.skip_ahead([SequenceRange::one(sequence)].into_iter());
                self.defer_ahead(sequence, 0, due);
            }
            (_, None) => return Ok((standing, None)),
        }
        let attempts = self.attempts_of(sequence);
        Ok((standing, Some(Rescheduled { attempts, failures: self.failures_of(sequence), due })))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::channel::outstanding::Entry;
    use crate::log::Mark;

    /// One million deferred messages.
    fn many_deferred(count: u64) -> ChannelState {
        let mut state = ChannelState::new(1, u64::MAX);
        for sequence in 1..=count {
            let due = 1_000_000 + (sequence * 7919) % count;
            state.release(sequence + 1, &[Mark::Deferred { from: sequence, to: sequence + 1, due }], None);
        }
        state
    }

    #[test]
    fn work_per_call_does_not_grow_with_the_number_of_messages() {
        let count = 1_000_000;
        let mut state = many_deferred(count);
        assert_eq!(state.deferred_count() as u64, count);
        let start = Instant::now();
        for number in 0..10_000 {
            let (_, rescheduled) = state.reschedule(1 + number * 97, 1 + number, 5_000_000).unwrap();
            assert_eq!(rescheduled.unwrap().due, Some(5_000_001 + number));
        }
        let deferred = start.elapsed();
        for number in 0..10_000 {
            state.reschedule(1 + number * 97, 0, 5_000_000).unwrap();
        }
        for number in 0..10_000 {
            state.cancel(1 + number * 97).unwrap();
        }
        let all = start.elapsed();
        assert_eq!((state.deferred_count() as u64, state.depth()), (count - 10_000, 0));
        // With work that grows with the number of messages, this takes minutes.
        assert!(all.as_secs() < 20, "{deferred:?}, {all:?}");
    }

    #[test]
    fn messages_ahead_of_many_gaps_are_cancelled_and_deferred_fast() {
        // Every other message is deferred.
        let count = 1_000_000;
        let mut state = ChannelState::new(0, u64::MAX);
        let marks: Vec<Mark> =
            (0..count / 2).map(|n| Mark::Deferred { from: 2 * n, to: 2 * n + 1, due: 9 }).collect();
        state.release(count, &marks, None);
        let start = Instant::now();
        for number in 0..10_000 {
            state.cancel(501_001 - number * 50).unwrap();
            state.reschedule(501_003 + number * 40, 5, 0).unwrap();
        }
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
        assert_eq!(state.depth(), count / 2 - 20_000);
        assert_eq!(state.deferred_count() as u64, count / 2 + 10_000);
    }

    #[test]
    fn a_message_in_flight_or_unknown_does_not_change() {
        let mut state = ChannelState::new(1, u64::MAX);
        state.release(3, &[], None);
        let key = state.add_consumer(10, 0, crate::locality::Locality::default());
        state.outstanding.insert(Entry { owner: key, ..Entry::new(1, 1, Place::InFlight) });
        state.cursor = 2;
        assert_eq!(state.cancel(1), Err(NotChanged::InFlight(key)));
        assert_eq!(state.reschedule(1, 5, 0), Err(NotChanged::InFlight(key)));
        for unknown in [0, 3, 4] {
            assert_eq!(state.cancel(unknown), Err(NotChanged::Unknown));
            assert_eq!(state.reschedule(unknown, 0, 0), Err(NotChanged::Unknown));
        }
        assert_eq!(state.reschedule(2, 0, 0), Ok((Standing::Ahead, None)), "it can be handed out already");
        assert_eq!(state.cancel(2), Ok(Standing::Ahead));
        assert_eq!((state.cursor(), state.counters().cancelled_count), (3, 1));
    }

    #[test]
    fn an_ephemeral_channel_without_room_refuses() {
        let mut state = ChannelState::new(1, u64::MAX);
        state.release(2, &[Mark::Deferred { from: 1, to: 2, due: 50 }], Some(1));
        state.release(3, &[], Some(1));
        assert_eq!(state.reschedule(1, 0, 0), Err(NotChanged::NoRoom));
        assert_eq!(state.reschedule(2, 9, 0), Err(NotChanged::NoRoom));
        state.cancel(1).unwrap();
        assert_eq!(state.reschedule(2, 9, 0).unwrap().0, Standing::Ahead);
        assert_eq!((state.depth(), state.deferred_count()), (0, 1));
    }
}
