//! Pure: what recovery concludes from records about messages of a channel.
//!
//! A running channel hands a message to a consumer, and records what became of it. Recovery sees only the record: the
//! message, and all before it, had been handed out. Those not known to be finished count as delivered once, and wait.
//!
//! Acknowledgements continue while a checkpoint is taken, so recovery may see a record that the checkpoint already
//! contains. It then changes nothing, or is followed by the records that lead to the same state again.
//!
//! During a replay there are no consumers, and no message is in a queue: finishing a message would have to search it
//! there. [`ChannelState::settle`] keeps the queues empty, and [`ChannelState::recovered`] fills them. The topic must
//! have released the messages of a record before the record is replayed.

use super::outstanding::{Entry, Place};
use super::state::ChannelState;
use crate::clock::Nanos;
use crate::storage::SequenceRange;

impl ChannelState {
    /// These messages were finished.
    pub fn replay_finish(&mut self, SequenceRange { from, to }: SequenceRange) {
        // A finished message that was deferred ahead of the cursor says nothing about the messages before it.
        let in_turn = self.skipped.gaps(from.max(self.cursor), to).last();
        if let Some(in_turn) = in_turn {
            self.replay_handed_out(in_turn.to);
        }
        for sequence in self.outstanding.between(from, to, usize::MAX) {
            if let Some(slot) = self.outstanding.find(sequence) {
                self.outstanding.remove(slot);
                self.departures.forget(sequence);
            }
        }
    }

    /// A message was requeued after `attempts` deliveries, and is due at `due`; `None` if it is due now. A record for a
    /// message that is already finished has no effect. With 0 attempts, the message was delivered before the cursor was
    /// moved back over it, and was deferred after that.
    pub fn replay_requeue(&mut self, sequence: u64, attempts: u16, failures: u16, due: Option<Nanos>) {
        if attempts == 0 {
            self.replay_defer_ahead(sequence);
        } else if !self.skipped.contains(sequence) {
            self.replay_handed_out(sequence + 1);
        }
        if let Some(slot) = self.outstanding.find(sequence) {
            let entry = self.outstanding.entry_mut(slot);
            entry.attempts = attempts;
            entry.hold_until(due);
            if failures > 0 {
                self.departures.set_failures(sequence, failures);
            }
        }
    }

    /// All messages before `to` were handed out at some time. Those not known to be finished were in flight, with one
    /// attempt.
    pub fn replay_handed_out(&mut self, to: u64) {
        let to = to.min(self.end);
        while self.cursor < to {
            let until = self.skipped.first().map_or(to, |range| range.from.min(to));
            for sequence in self.cursor..until {
                self.outstanding.insert_ahead(Entry::new(sequence, 1, Place::Waiting));
            }
            self.cursor = until;
            self.pass_skipped();
        }
    }

    /// Call after each change that may defer messages. Those due at `now` wait; none is in a queue.
    pub fn settle(&mut self, now: Nanos) {
        for (due, slot) in self.deferred.drain(&mut self.outstanding) {
            if due <= now {
                self.outstanding.entry_mut(slot).hold_until(None);
            }
        }
    }

    /// Ends the replay: puts the outstanding messages into the queues.
    pub fn recovered(&mut self) {
        let mut entries: Vec<_> =
            self.outstanding.iter().map(|entry| (entry.sequence, entry.place, entry.deadline)).collect();
        entries.sort_unstable_by_key(|&(sequence, ..)| sequence);
        for (sequence, place, deadline) in entries {
            let Some(slot) = self.outstanding.find(sequence) else { continue };
            match place {
                Place::Deferred => self.deferred.push(&mut self.outstanding, deadline, slot),
                _ => {
                    // Handed out never, and behind the cursor: it was deferred. When it was due is not known any more.
                    if self.outstanding.entry(slot).attempts == 0 {
                        self.departures.note_due_before_start(sequence);
                    }
                    // They came before the messages that are ahead of the cursor now.
                    self.waiting.push_back(&mut self.outstanding, 0, slot);
                }
            }
        }
    }

    /// Makes a message outstanding that the cursor has not reached.
    fn replay_defer_ahead(&mut self, sequence: u64) {
        if sequence < self.cursor || sequence >= self.end || self.skipped.contains(sequence) {
            return;
        }
        self.outstanding.insert_ahead(Entry::new(sequence, 0, Place::Waiting));
        self.skipped.insert(SequenceRange::one(sequence));
        self.pass_skipped();
    }
}
