//! Pure: moving a channel's read cursor back over messages that were handed out, or forward over ones that were not.
//!
//! A message in flight at that moment stays in flight: its consumer has it and will answer. Its [`Recall`] says what
//! happens then. So an answer to an old delivery never finishes a new one, and is no error.
//!
//! ```text
//!  forward to x: messages before x become finished
//!      ahead, deferred, waiting -> finished        in flight -> finished when it comes back, in any way
//!  back to x: messages from x on are handed out again, in order, with attempts from 1
//!      finished, waiting, requeued with a delay -> ahead
//!      in flight -> handed out again in order, after it comes back
//!      published deferred and not due -> still deferred
//!      messages before x do not change
//! ```

use std::collections::BinaryHeap;

use super::outstanding::{Place, Recall, Slot};
use super::state::ChannelState;
use crate::clock::Nanos;
use crate::log::Mark;
use crate::log::retention::merged;
use crate::policy::dead_letter::Reason;
use crate::storage::SequenceRange;

impl ChannelState {
    /// Creates a channel that starts at `cursor`, in a topic that has released all messages before `end`. `marks` are
    /// the ranges from `cursor` on that are not handed out in order.
    pub fn starting_at(cursor: u64, end: u64, marks: &[Mark], max_message_timeout: Nanos) -> Self {
        let mut state = ChannelState::new(cursor, max_message_timeout);
        state.end = end.max(cursor);
        let skipped: u64 = (marks.iter())
            .map(|mark| if let Mark::Skipped { from, to } = mark { to - from } else { 0 })
            .sum();
        state.counters.message_count = state.end - cursor - skipped;
        state.put_ahead(cursor, marks);
        state
    }

    /// Moves the cursor forward to `to`, which must not be beyond the end. All messages before it are finished.
    pub fn move_forward(&mut self, to: u64) {
        self.cursor_moves += 1;
        for (sequence, slot, place) in self.entries() {
            match place {
                Place::InFlight if sequence < to => self.outstanding.entry_mut(slot).recall = Recall::Finish,
                Place::Deferred | Place::Waiting | Place::Exhausted if sequence < to => self.forget(slot),
                _ => {}
            }
        }
        self.leave_queues();
        self.forget_departures(|sequence| sequence >= to);
        self.cursor = self.cursor.max(to);
        self.pass_skipped();
    }

    /// Moves the cursor back to `to`: all messages from there on are handed out (again). `marks` are the ranges from
    /// `to` on that are not handed out in order.
    pub fn move_back(&mut self, to: u64, marks: &[Mark]) {
        self.cursor_moves += 1;
        for (sequence, slot, place) in self.entries() {
            let entry = self.outstanding.entry_mut(slot);
            match place {
                Place::InFlight if sequence >= to => {
                    entry.recall = Recall::HandOut;
                    entry.attempts = 0;
                    self.departures.forget(sequence);
                }
                // Published deferred: never handed out.
                Place::Deferred if entry.attempts == 0 => {}
                Place::Deferred | Place::Waiting | Place::Exhausted if sequence >= to => self.forget(slot),
                _ => {}
            }
        }
        self.leave_queues();
        self.forget_departures(|sequence| sequence < to);
        // Waiting messages are older than all that are ahead now.
        self.waiting.iter_mut().for_each(|(after, _)| *after = to.min(*after));
        self.cursor = to;
        self.put_ahead(to, marks);
    }

    /// Skips the messages that are ahead of the cursor and before `sequence`. Outstanding messages do not change.
    pub fn skip_to(&mut self, sequence: u64) {
        self.cursor = self.cursor.max(sequence.min(self.end));
        self.pass_skipped();
    }

    /// Skips sequence numbers (in order, ahead of the cursor) that have no messages.
    pub fn skip_absent(&mut self, absent: &[SequenceRange]) {
        if !absent.is_empty() {
            self.skipped =
                merged(self.skipped.iter().chain(absent.iter().copied()).collect()).into_iter().collect();
            self.pass_skipped();
        }
    }

    /// Messages that were published deferred and are not due, with their due times, unordered.
    pub fn published_deferred(&self) -> Vec<(u64, Nanos)> {
        let deferred =
            self.outstanding.iter().filter(|entry| entry.place == Place::Deferred && entry.attempts == 0);
        deferred.map(|entry| (entry.sequence, entry.deadline)).collect()
    }

    /// Puts all messages from `from` on ahead (again), except those in `marks` and outstanding ones.
    fn put_ahead(&mut self, from: u64, marks: &[Mark]) {
        let mut skipped: Vec<SequenceRange> =
            self.outstanding.iter().map(|entry| SequenceRange::one(entry.sequence)).collect();
        skipped.retain(|range| range.from >= from);
        for mark in marks {
            let range = mark.sequences();
            skipped.push(range);
            if let Mark::Deferred { due, .. } = *mark {
                let new = range.iter().filter(|&sequence| self.outstanding.find(sequence).is_none());
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

    /// Removes a message, but not from its queue: the caller must call [`ChannelState::leave_queues`].
    fn forget(&mut self, slot: Slot) {
        self.outstanding.remove(slot);
    }

    /// Removes messages that are no longer outstanding from the queues.
    pub(super) fn leave_queues(&mut self) {
        let outstanding = &self.outstanding;
        self.sorted_count = 0;
        self.waiting.retain(|&(_, slot)| outstanding.entry(slot).place == Place::Waiting);
        let deferred = std::mem::take(&mut self.deferred).into_iter();
        self.deferred = deferred
            .filter(|entry| outstanding.entry(entry.0.1).place == Place::Deferred)
            .collect::<BinaryHeap<_>>();
    }

    /// Handles a message that was in flight and comes back: it waits, unless it was recalled.
    pub(super) fn come_back(&mut self, slot: Slot) {
        let recall = std::mem::take(&mut self.outstanding.entry_mut(slot).recall);
        match recall {
            // Its attempts may have been used up by a change of the policy.
            Recall::No if self.minds_failures && self.has_exhausted(slot) => {
                self.exhaust(slot, Reason::Attempts);
            }
            Recall::No => self.wait(slot),
            Recall::Finish => {
                let dropped = self.outstanding.remove(slot);
                self.departures.forget(dropped.sequence);
            }
            Recall::HandOut => {
                let entry = self.outstanding.entry_mut(slot);
                let turn = entry.sequence;
                entry.place = Place::Waiting;
                let index = self.waiting.partition_point(|&(after, _)| after <= turn);
                self.waiting.insert(index, (turn, slot));
            }
        }
    }
}
