//! Pure: saves a channel's state to a checkpoint, and restores it.
//!
//! A channel may have millions of outstanding messages. So they are saved in slices, and the channel continues to work
//! in between ([`Saving`]). For each message that was behind the cursor when saving began, the checkpoint holds the
//! state at the time of its slice. The journal holds what happened since then, and some of what happened before.
//! Messages that were ahead of the cursor are saved as ahead.

use super::outstanding::{Entry, Place, Recall};
use super::skipped::Skipped;
use super::state::{ChannelState, Counters};
use super::undoing::Loss;
use crate::clock::Nanos;
use crate::log::retention::merged;
use crate::policy::settings::Settings;
use crate::storage::SequenceRange;
use crate::storage::checkpoint::{ChannelCheckpoint, LossCheckpoint, OutstandingCheckpoint};
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

    /// Like [`Clocks::to_deadline`]; `None` if the time has passed.
    pub fn to_future(self, wall_ns: i64, longest: Nanos) -> Option<Nanos> {
        (wall_ns > self.wall_ns).then(|| self.to_deadline(wall_ns, longest))
    }
}

/// A save in progress; see the module.
#[derive(Debug)]
pub struct Saving {
    cursor: u64,
    skipped: Skipped,
    paused: bool,
    counters: Counters,
    outstanding: OutstandingList,
    failures: Vec<(u64, u16)>,
    settings: String,
    loss: Option<LossCheckpoint>,
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
        let failures = &mut self.failures;
        self.next = state.outstanding.slice(from, most, |entry| {
            let was_outstanding = entry.sequence < cursor || skipped.contains(entry.sequence);
            if was_outstanding && entry.recall != Recall::Finish {
                let due_ns = if entry.place == Place::Deferred { clocks.to_wall(entry.deadline) } else { 0 };
                outstanding.push(OutstandingCheckpoint {
                    sequence: entry.sequence,
                    attempts: entry.attempts,
                    due_ns,
                });
                match state.failures_of(entry.sequence) {
                    0 => {}
                    count => failures.push((entry.sequence, count)),
                }
            }
        });
        Ok(self.next.is_some())
    }

    /// Ends the save. Call after [`Saving::save_slice`] returned `false`. The result has no name and no number.
    pub fn complete(self) -> ChannelCheckpoint {
        ChannelCheckpoint {
            paused: self.paused,
            cursor: self.cursor,
            skipped_ahead: self.skipped.iter().collect(),
            outstanding: self.outstanding,
            message_count: self.counters.message_count,
            requeue_count: self.counters.requeue_count,
            timeout_count: self.counters.timeout_count,
            dead_letter_count: self.counters.dead_letter_count,
            expired_count: self.counters.expired_count,
            overflow_count: self.counters.overflow_count,
            filtered_count: self.counters.filtered_count,
            cancelled_count: self.counters.cancelled_count,
            failures: self.failures,
            settings: self.settings,
            loss: self.loss,
            ..ChannelCheckpoint::default()
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
            failures: Vec::new(),
            settings: self.own_settings().to_string(),
            loss: self.loss().map(Loss::save),
            clocks,
            next: Some(0),
            cursor_moves: self.cursor_moves,
        }
    }

    /// Saves the whole state at once.
    pub fn save(&self, clocks: Clocks) -> ChannelCheckpoint {
        let mut saving = self.begin_saving(clocks);
        while saving.save_slice(self, usize::MAX) == Ok(true) {}
        saving.complete()
    }

    /// Restores a channel from a checkpoint, in a topic that has released all messages before `released`. `due` returns
    /// when a message that was deferred until a wall time is due; `None` if it is due now. Outstanding messages are in
    /// no queue until [`ChannelState::recovered`].
    pub fn restore(
        saved: &ChannelCheckpoint,
        released: u64,
        max_message_timeout: Nanos,
        due: impl Fn(i64) -> Option<Nanos>,
    ) -> Self {
        let mut state = ChannelState::new(saved.cursor, max_message_timeout);
        state.end = released.max(saved.cursor);
        let ahead = SequenceRange::new(saved.cursor, state.end);
        let skipped = saved.skipped_ahead.iter().map(|range| range.intersect(ahead));
        state.skipped = merged(skipped.filter(|range| !range.is_empty()).collect()).into_iter().collect();
        state.paused = saved.paused;
        state.set_own_settings(Settings::parse(&saved.settings).0);
        state.counters = Counters {
            message_count: saved.message_count,
            requeue_count: saved.requeue_count,
            timeout_count: saved.timeout_count,
            dead_letter_count: saved.dead_letter_count,
            expired_count: saved.expired_count,
            overflow_count: saved.overflow_count,
            filtered_count: saved.filtered_count,
            cancelled_count: saved.cancelled_count,
            ..Counters::default()
        };
        for entry in &saved.outstanding {
            // A message ahead of the cursor is outstanding only if the cursor skips it.
            let is_behind = entry.sequence < state.cursor || state.skipped.contains(entry.sequence);
            if is_behind && state.outstanding.find(entry.sequence).is_none() {
                let mut restored = Entry::new(entry.sequence, entry.attempts, Place::Waiting);
                restored.hold_until(due(entry.due_ns));
                state.outstanding.insert_ahead(restored);
            }
        }
        state.restore_failures(&saved.failures);
        state.loss = saved.loss.as_ref().map(|loss| Box::new(Loss::restore(loss)));
        state
    }
}
