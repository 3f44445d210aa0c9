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

use super::fates::Fate;
use super::outstanding::{Entry, Place, Recall, Slot};
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
        self.fates.note(SequenceRange::new(self.lowest_needed().min(to), to), Fate::Skipped);
        for (sequence, slot, place) in self.entries() {
            match place {
                Place::InFlight if sequence < to => self.outstanding.entry_mut(slot).recall = Recall::Finish,
                Place::Deferred | Place::Waiting | Place::Exhausted if sequence < to => self.forget(slot),
                _ => {}
            }
        }
        self.forget_departures(|sequence| sequence >= to);
        self.cursor = self.cursor.max(to);
        self.pass_skipped();
        self.begin_order();
    }

    /// Moves the cursor back to `to`: all messages from there on are handed out (again). `marks` are the ranges from
    /// `to` on that are not handed out in order.
    pub fn move_back(&mut self, to: u64, marks: &[Mark]) {
        self.cursor_moves += 1;
        self.loss = None;
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
        self.forget_departures(|sequence| sequence < to);
        // Waiting messages are older than all that are ahead now.
        self.waiting.limit_turns(&mut self.outstanding, to);
        self.cursor = to;
        self.put_ahead(to, marks);
        self.begin_order();
    }

    /// What [`ChannelState::depth`] would be after a move. `marks` are as for [`ChannelState::move_back`].
    pub fn depth_after_move(&self, to: u64, forward: bool, marks: &[Mark]) -> u64 {
        let queued = self.waiting.iter(&self.outstanding).map(|(_, slot)| slot);
        let waiting = queued.chain(self.waiting_in_order()).map(|slot| self.outstanding.entry(slot).sequence);
        if forward {
            let cursor = self.cursor.max(to);
            let ahead: u64 = self.skipped.gaps(cursor, self.end.max(cursor)).map(|range| range.len()).sum();
            return ahead + waiting.filter(|&sequence| sequence >= to).count() as u64;
        }
        let stays = |entry: &&Entry| {
            let is_deferred = entry.place == Place::Deferred && entry.attempts == 0;
            entry.sequence >= to && (entry.place == Place::InFlight || is_deferred)
        };
        let elsewhere = self.outstanding.iter().filter(stays).map(|entry| SequenceRange::one(entry.sequence));
        let elsewhere = merged(elsewhere.chain(marks.iter().map(Mark::sequences)).collect());
        let elsewhere: u64 = elsewhere.iter().map(|range| range.len()).sum();
        (self.end - to).saturating_sub(elsewhere) + waiting.filter(|&sequence| sequence < to).count() as u64
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
    pub(super) fn put_ahead(&mut self, from: u64, marks: &[Mark]) {
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

    /// The caller must call [`ChannelState::begin_order`] afterwards.
    fn forget(&mut self, slot: Slot) {
        self.unqueue(slot);
        self.outstanding.remove(slot);
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
                self.remove(slot);
            }
            Recall::HandOut if self.order.is_some() => self.wait_in_log_order(slot),
            Recall::HandOut => {
                let entry = self.outstanding.entry_mut(slot);
                let turn = entry.sequence;
                entry.place = Place::Waiting;
                self.waiting.insert(&mut self.outstanding, turn, slot);
            }
        }
    }
}
