//! Pure: moving a channel's read cursor, back to what was handed out before or forward over what was not.
//!
//! A message that is in flight at that moment stays so: its consumer has it, and will answer. What becomes of it then
//! is its [`Recall`]. So an answer to an old delivery never finishes a new one, and is no error.
//!
//! ```text
//!  forward to x: what lies before x is finished
//!      ahead, deferred, waiting -> finished        in flight -> finished, however it comes back
//!  back to x: what lies from x on is to be handed out again, in order, with attempts from 1
//!      finished, waiting, requeued with a delay -> ahead
//!      in flight -> handed out again in its turn, once it comes back
//!      published deferred and not due -> still deferred
//!      what lies before x stays as it is
//! ```

use std::collections::BinaryHeap;

use super::outstanding::{Place, Recall, Slot};
use super::state::{ChannelState, Mark};
use crate::clock::Nanos;
use crate::log::retention::merged;

impl ChannelState {
    /// A channel that starts at `cursor`, in a topic that was released up to `end`. `marks` tell what of that is not to
    /// be handed out in turn.
    pub fn starting_at(cursor: u64, end: u64, marks: &[Mark], max_message_timeout: Nanos) -> Self {
        let mut state = ChannelState::new(cursor, max_message_timeout);
        state.end = end.max(cursor);
        let skipped: u64 = (marks.iter())
            .map(|mark| if let Mark::Skipped { from, to } = mark { to - from } else { 0 })
            .sum();
        state.counters.message_count = state.end - cursor - skipped;
        state.come_again(cursor, marks);
        state
    }

    /// Moves the cursor forward to `to`, at most the end: everything before it is finished.
    pub fn move_forward(&mut self, to: u64) {
        self.upheavals += 1;
        for (sequence, slot, place) in self.entries() {
            match place {
                Place::InFlight if sequence < to => self.outstanding.entry_mut(slot).recall = Recall::Finish,
                Place::Deferred | Place::Waiting if sequence < to => self.forget(slot),
                _ => {}
            }
        }
        self.leave_queues();
        self.cursor = self.cursor.max(to);
        self.pass_skipped();
    }

    /// Moves the cursor back to `to`: everything from there on is handed out (again). `marks` tell what of that is not to
    /// be handed out in turn.
    pub fn move_back(&mut self, to: u64, marks: &[Mark]) {
        self.upheavals += 1;
        for (sequence, slot, place) in self.entries() {
            let entry = self.outstanding.entry_mut(slot);
            match place {
                Place::InFlight if sequence >= to => {
                    entry.recall = Recall::HandOut;
                    entry.attempts = 0;
                }
                // Published deferred: never handed out.
                Place::Deferred if entry.attempts == 0 => {}
                Place::Deferred | Place::Waiting if sequence >= to => self.forget(slot),
                _ => {}
            }
        }
        self.leave_queues();
        // They are older than all that comes now.
        self.waiting.iter_mut().for_each(|(after, _)| *after = to.min(*after));
        self.cursor = to;
        self.come_again(to, marks);
    }

    /// Does without what lies ahead and before `sequence`; what is outstanding stays.
    pub fn skip_to(&mut self, sequence: u64) {
        self.cursor = self.cursor.max(sequence.min(self.end));
        self.pass_skipped();
    }

    /// These sequence numbers, in order, are ahead and stand for nothing.
    pub fn skip_absent(&mut self, absent: &[(u64, u64)]) {
        if !absent.is_empty() {
            self.skipped =
                merged(self.skipped.iter().chain(absent.iter().copied()).collect()).into_iter().collect();
            self.pass_skipped();
        }
    }

    /// The messages published deferred that are not due, in no order.
    pub fn published_deferred(&self) -> Vec<(u64, Nanos)> {
        let deferred =
            self.outstanding.iter().filter(|entry| entry.place == Place::Deferred && entry.attempts == 0);
        deferred.map(|entry| (entry.sequence, entry.deadline)).collect()
    }

    /// Everything from `from` on comes (again), but for what `marks` say and what is outstanding.
    fn come_again(&mut self, from: u64, marks: &[Mark]) {
        let mut skipped: Vec<(u64, u64)> =
            self.outstanding.iter().map(|entry| (entry.sequence, entry.sequence + 1)).collect();
        skipped.retain(|&(sequence, _)| sequence >= from);
        for mark in marks {
            let (Mark::Skipped { from, to } | Mark::Deferred { from, to, .. }) = *mark;
            skipped.push((from, to));
            if let Mark::Deferred { due, .. } = *mark {
                let new = (from..to).filter(|&sequence| self.outstanding.find(sequence).is_none());
                new.collect::<Vec<_>>().into_iter().for_each(|sequence| self.defer_ahead(sequence, 0, due));
            }
        }
        self.skipped = merged(skipped).into_iter().collect();
        self.pass_skipped();
    }

    fn entries(&self) -> Vec<(u64, Slot, Place)> {
        let entries = self.outstanding.iter();
        entries
            .filter_map(|entry| Some((entry.sequence, self.outstanding.find(entry.sequence)?, entry.place)))
            .collect()
    }

    /// Leaves the entry in its queue, from which [`ChannelState::leave_queues`] takes it.
    fn forget(&mut self, slot: Slot) {
        self.outstanding.remove(slot);
    }

    /// Takes what is no longer outstanding out of the queues.
    pub(super) fn leave_queues(&mut self) {
        let outstanding = &self.outstanding;
        self.sorted_count = 0;
        self.waiting.retain(|&(_, slot)| outstanding.entry(slot).place == Place::Waiting);
        let deferred = std::mem::take(&mut self.deferred).into_iter();
        self.deferred = deferred
            .filter(|entry| outstanding.entry(entry.0.1).place == Place::Deferred)
            .collect::<BinaryHeap<_>>();
    }

    /// A message that was in flight comes back without being finished: it waits, unless it was recalled.
    pub(super) fn come_back(&mut self, slot: Slot) {
        let entry = self.outstanding.entry_mut(slot);
        match std::mem::take(&mut entry.recall) {
            Recall::No => self.wait(slot),
            Recall::Finish => drop(self.outstanding.remove(slot)),
            Recall::HandOut => {
                let turn = entry.sequence;
                entry.place = Place::Waiting;
                let index = self.waiting.partition_point(|&(after, _)| after <= turn);
                self.waiting.insert(index, (turn, slot));
            }
        }
    }
}
