//! Pure: saves a channel's state to a checkpoint, restores it, and replays the journal's records onto it.
//!
//! Replaying is idempotent: FINs and REQs continue while a checkpoint is taken, so records from before it may be
//! replayed. A message that was handed out and is not known to be finished counts as delivered, and waits.
//!
//! A channel may have millions of outstanding messages. So they are saved in slices, and the channel continues to work
//! in between ([`Saving`]). For each message that was behind the cursor when saving began, the checkpoint holds the
//! state at the time of its slice. The journal holds what happened since then, and some of what happened before.
//! Messages that were ahead of the cursor are saved as ahead.

use std::cmp::Reverse;

use super::outstanding::{Entry, Place, Recall};
use super::skipped::Skipped;
use super::state::{ChannelState, Counters};
use crate::clock::Nanos;
use crate::log::Mark;
use crate::log::retention::merged;
use crate::storage::checkpoint::OutstandingCheckpoint;
use crate::storage::outstanding_list::OutstandingList;

/// Both clocks at one moment, to turn saved wall time into deadlines and back.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    /// Monotonic.
    pub monotonic: Nanos,
    /// Wall time, ns since the epoch.
    pub wall_ns: i64,
}

impl Clocks {
    /// The wall time of a deadline.
    pub fn to_wall(self, deadline: Nanos) -> i64 {
        self.wall_ns.saturating_add_unsigned(deadline).saturating_sub_unsigned(self.monotonic)
    }

    /// The deadline for a saved wall time: now if it has passed, and at most `longest` away, even if the wall clock has
    /// jumped.
    pub fn to_deadline(self, wall_ns: i64, longest: Nanos) -> Nanos {
        let left = u64::try_from(wall_ns.saturating_sub(self.wall_ns)).unwrap_or(0);
        self.monotonic + left.min(longest)
    }
}

/// A channel's part of a checkpoint, without names and numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedChannel {
    /// First sequence number never handed out.
    pub cursor: u64,
    /// Ranges from the cursor on that are not handed out in order.
    pub skipped: Vec<(u64, u64)>,
    pub outstanding: OutstandingList,
    pub paused: bool,
    pub counters: Counters,
}

/// A save in progress; see the module.
#[derive(Debug)]
pub struct Saving {
    cursor: u64,
    skipped: Skipped,
    paused: bool,
    counters: Counters,
    outstanding: OutstandingList,
    clocks: Clocks,
    /// Messages before this are saved. `None` if all are.
    next: Option<u64>,
    cursor_moves: u64,
}

/// The channel was moved or emptied during the save, so the slices are not consistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CursorMoved;

impl Saving {
    /// Saves about `most` outstanding messages. Returns whether there are more.
    pub fn save_slice(&mut self, state: &ChannelState, most: usize) -> Result<bool, CursorMoved> {
        if state.cursor_moves != self.cursor_moves {
            return Err(CursorMoved);
        }
        let Some(from) = self.next else { return Ok(false) };
        let (cursor, clocks) = (self.cursor, self.clocks);
        let (skipped, outstanding) = (&self.skipped, &mut self.outstanding);
        self.next = state.outstanding.slice(from, most, |entry| {
            let was_outstanding = entry.sequence < cursor || skipped.contains(entry.sequence);
            if was_outstanding && entry.recall != Recall::Finish {
                let due_ns = if entry.place == Place::Deferred { clocks.to_wall(entry.deadline) } else { 0 };
                outstanding.push(OutstandingCheckpoint {
                    sequence: entry.sequence,
                    attempts: entry.attempts,
                    due_ns,
                });
            }
        });
        Ok(self.next.is_some())
    }

    /// Ends the save. Call after [`Saving::save_slice`] returned `false`.
    pub fn complete(self) -> SavedChannel {
        SavedChannel {
            cursor: self.cursor,
            skipped: self.skipped.iter().collect(),
            outstanding: self.outstanding,
            paused: self.paused,
            counters: self.counters,
        }
    }
}

impl ChannelState {
    /// Starts a save for a checkpoint. Its duration does not depend on the number of outstanding messages.
    pub fn begin_saving(&self, clocks: Clocks) -> Saving {
        Saving {
            cursor: self.cursor,
            skipped: self.skipped.clone(),
            paused: self.paused,
            counters: self.counters,
            outstanding: OutstandingList::default(),
            clocks,
            next: Some(0),
            cursor_moves: self.cursor_moves,
        }
    }

    /// Saves the whole state at once.
    pub fn save(&self, clocks: Clocks) -> SavedChannel {
        let mut saving = self.begin_saving(clocks);
        while saving.save_slice(self, usize::MAX) == Ok(true) {}
        saving.complete()
    }

    /// Restores a channel from a checkpoint, in a topic that has released all messages before `released`. Outstanding
    /// messages are in no queue until [`ChannelState::recovered`].
    pub fn restore(
        saved: &SavedChannel,
        released: u64,
        max_message_timeout: Nanos,
        clocks: Clocks,
        longest_delay: Nanos,
    ) -> Self {
        let mut state = ChannelState::new(saved.cursor, max_message_timeout);
        state.skipped = saved.skipped.iter().copied().collect();
        state.end = released.max(saved.cursor);
        state.paused = saved.paused;
        state.counters = saved.counters;
        for entry in &saved.outstanding {
            state.replay_insert(entry.sequence, entry.attempts);
            state.replay_defer(entry.sequence, entry.due_ns, clocks, longest_delay);
        }
        state
    }

    /// Replays a Finish record.
    pub fn replay_finish(&mut self, from: u64, to: u64) {
        // A finished message that was deferred ahead of the cursor says nothing about the messages before it.
        let in_turn = self.skipped.gaps(from.max(self.cursor), to).last();
        if let Some((_, end)) = in_turn {
            self.replay_handed_out(end);
        }
        self.drop_outstanding(from, to);
    }

    /// Removes the outstanding messages of `from..to`, however many numbers these are.
    fn drop_outstanding(&mut self, from: u64, to: u64) {
        let finished: Vec<u64> = if to - from <= self.outstanding.len() as u64 {
            (from..to).collect()
        } else {
            let all = self.outstanding.iter().map(|entry| entry.sequence);
            all.filter(|sequence| (from..to).contains(sequence)).collect()
        };
        for sequence in finished {
            if let Some(slot) = self.outstanding.find(sequence) {
                self.outstanding.remove(slot);
            }
        }
    }

    /// Replays a ChannelCreated record, in a topic that has released all messages before `end`.
    pub fn replay_start(cursor: u64, end: u64, marks: &[Mark], max_message_timeout: Nanos) -> Self {
        let mut state = ChannelState::starting_at(cursor, end, marks, max_message_timeout);
        state.deferred.clear();
        state
    }

    /// Replays a ChannelMoved record.
    pub fn replay_move(&mut self, to: u64, forward: bool, marks: &[Mark]) {
        self.end = self.end.max(to);
        if forward {
            self.move_forward(to);
        } else {
            // The cursor was at least here: messages before `to` that are not known to be finished were in flight.
            self.replay_handed_out(to);
            self.move_back(to, marks);
        }
        // No message is in a queue until the replay is complete.
        self.deferred.clear();
    }

    /// Replays a Requeue record. A record for a message that is already finished has no effect. With 0 attempts, the
    /// message was delivered before the cursor was moved back over it, and was deferred after that.
    pub fn replay_requeue(
        &mut self,
        sequence: u64,
        attempts: u16,
        due_ns: i64,
        clocks: Clocks,
        longest: Nanos,
    ) {
        if attempts == 0 {
            self.replay_defer_ahead(sequence);
        } else if !self.skipped.contains(sequence) {
            self.replay_handed_out(sequence + 1);
        }
        if let Some(slot) = self.outstanding.find(sequence) {
            self.outstanding.entry_mut(slot).attempts = attempts;
            self.replay_defer(sequence, due_ns, clocks, longest);
        }
    }

    /// Replays a deferred publish to this channel. Messages that the checkpoint already has are ignored.
    pub fn replay_deferred_publish(
        &mut self,
        from: u64,
        to: u64,
        due_ns: i64,
        clocks: Clocks,
        longest: Nanos,
    ) {
        for sequence in from.max(self.end)..to {
            self.replay_insert(sequence, 0);
            self.replay_defer(sequence, due_ns, clocks, longest);
        }
        if to > self.end {
            self.skipped.push(from.max(self.end), to);
            self.counters.message_count += to - from.max(self.end);
            self.end = to;
            self.pass_skipped();
        }
    }

    /// Replays a plain publish to this channel or, with `skip`, sequence numbers without messages.
    pub fn replay_release(&mut self, to: u64, skip: bool) {
        if to > self.end {
            if skip {
                self.skipped.push(self.end, to);
            } else {
                self.counters.message_count += to - self.end;
            }
            self.end = to;
            self.pass_skipped();
        }
    }

    /// Replays a ChannelEmptied record.
    pub fn replay_empty(&mut self, up_to: u64) {
        self.drop_outstanding(0, up_to);
        self.cursor = self.cursor.max(up_to);
        self.end = self.end.max(up_to);
        self.pass_skipped();
    }

    /// Ends the replay: puts the outstanding messages into the queues.
    pub fn recovered(&mut self) {
        let mut entries: Vec<_> =
            self.outstanding.iter().map(|entry| (entry.sequence, entry.place, entry.deadline)).collect();
        entries.sort_unstable_by_key(|&(sequence, ..)| sequence);
        for (sequence, place, deadline) in entries {
            let Some(slot) = self.outstanding.find(sequence) else { continue };
            match place {
                Place::Deferred => self.deferred.push(Reverse((deadline, slot))),
                // They came before the messages that are ahead of the cursor now.
                _ => self.waiting.push_back((0, slot)),
            }
        }
    }

    /// All messages before `to` were handed out at some time before the end of the journal. Those not known to be
    /// finished were in flight, with one attempt.
    fn replay_handed_out(&mut self, to: u64) {
        while self.cursor < to {
            let until = self.skipped.first().map_or(to, |(from, _)| from.min(to));
            for sequence in self.cursor..until {
                self.replay_insert(sequence, 1);
            }
            if until > self.end {
                self.counters.message_count += until - self.end.max(self.cursor);
            }
            self.cursor = until;
            self.end = self.end.max(self.cursor);
            self.pass_skipped();
        }
    }

    fn replay_insert(&mut self, sequence: u64, attempts: u16) {
        if self.outstanding.find(sequence).is_none() {
            self.outstanding.insert_ahead(Entry::new(sequence, attempts, Place::Waiting));
        }
    }

    /// Makes a message outstanding that the cursor has not reached.
    fn replay_defer_ahead(&mut self, sequence: u64) {
        if sequence < self.cursor || sequence >= self.end || self.skipped.contains(sequence) {
            return;
        }
        self.replay_insert(sequence, 0);
        self.skipped =
            merged(self.skipped.iter().chain([(sequence, sequence + 1)]).collect()).into_iter().collect();
        self.pass_skipped();
    }

    fn replay_defer(&mut self, sequence: u64, due_ns: i64, clocks: Clocks, longest: Nanos) {
        let Some(slot) = self.outstanding.find(sequence) else { return };
        let entry = self.outstanding.entry_mut(slot);
        if due_ns > clocks.wall_ns {
            entry.place = Place::Deferred;
            entry.deadline = clocks.to_deadline(due_ns, longest);
        } else {
            entry.place = Place::Waiting;
        }
    }
}
