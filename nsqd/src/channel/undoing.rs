//! Pure: what an empty or a move forward finished, so that it can be undone while the topic retains the messages.
//!
//! ```text
//!   empty, move forward --note--> (which messages were unfinished) --undo--> the cursor is before the first of them;
//!                                          |                                 what was finished is skipped
//!                                          +-- move back, undo: forgotten
//! ```
//!
//! Only the last such action with any unfinished messages can be undone. Which ones they were is kept as ranges, up to
//! [`MAX_RANGES`]. Recovery notes the same when it replays the action, so no record says which they were.

use super::outstanding::{Place, Recall};
use super::state::ChannelState;
use crate::log::Mark;
use crate::log::retention::merged;
use crate::storage::SequenceRange;
use crate::storage::checkpoint::LossCheckpoint;

/// Number of ranges up to which an action can be undone: 160 KB for a channel.
pub const MAX_RANGES: usize = 10_000;

/// An action that finishes messages without a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossKind {
    Emptied,
    MovedForward,
}

/// What the last such action finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    pub kind: LossKind,
    /// When it happened, wall clock, nanoseconds. `None` if only the journal says that it did.
    pub at_ns: Option<i64>,
    /// The messages that were not finished, in order. `None` if they are too many ranges.
    pub runs: Option<Vec<SequenceRange>>,
}

/// Why an action cannot be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UndoError {
    #[error("the channel was neither emptied nor moved forward, or that was undone already")]
    NothingToUndo,
    #[error("the topic retains no finished messages, so they cannot come back")]
    NothingRetained,
    #[error("{lost} of {count} messages are no longer retained; partial=true restores the others")]
    NoLongerRetained { lost: u64, count: u64 },
    #[error("the messages are more than {MAX_RANGES} ranges, which nsqd does not remember")]
    TooMany,
}

/// What [`Loss::retained_from`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retained {
    /// Not empty.
    pub runs: Vec<SequenceRange>,
    /// Messages in them.
    pub count: u64,
    /// Messages that are no longer retained.
    pub lost: u64,
}

impl LossKind {
    pub fn as_str(self) -> &'static str {
        match self {
            LossKind::Emptied => "empty",
            LossKind::MovedForward => "seek",
        }
    }
}

impl Loss {
    /// The messages that are still there if those before `oldest` are not. With `is_partial`, some may be missing.
    pub fn retained_from(&self, oldest: u64, is_partial: bool) -> Result<Retained, UndoError> {
        let runs = self.runs.as_ref().ok_or(UndoError::TooMany)?;
        let kept = runs.iter().map(|run| run.intersect(SequenceRange::new(oldest, u64::MAX)));
        let kept: Vec<SequenceRange> = kept.filter(|run| !run.is_empty()).collect();
        let sum = |runs: &[SequenceRange]| runs.iter().map(|run| run.len()).sum::<u64>();
        let (count, all) = (sum(&kept), sum(runs));
        if count == 0 || (count < all && !is_partial) {
            return Err(UndoError::NoLongerRetained { lost: all - count, count: all });
        }
        Ok(Retained { runs: kept, count, lost: all - count })
    }

    pub(super) fn save(&self) -> LossCheckpoint {
        LossCheckpoint {
            is_move: self.kind == LossKind::MovedForward,
            at_ns: self.at_ns,
            runs: self.runs.clone(),
        }
    }

    pub(super) fn restore(saved: &LossCheckpoint) -> Self {
        let kind = if saved.is_move { LossKind::MovedForward } else { LossKind::Emptied };
        let runs = saved.runs.as_ref();
        let runs = runs.map(|runs| merged(runs.iter().copied().filter(|run| !run.is_empty()).collect()));
        Loss { kind, at_ns: saved.at_ns, runs }
    }
}

impl ChannelState {
    /// Call before an action that finishes all messages before `up_to`, if the topic retains messages. If none is
    /// unfinished, the action before it can still be undone.
    pub fn note_loss(&mut self, kind: LossKind, up_to: u64, at_ns: Option<i64>) {
        let up_to = up_to.min(self.end);
        let is_unfinished = |sequence: &u64| {
            let slot = self.outstanding.find(*sequence);
            slot.is_some_and(|slot| self.outstanding.entry(slot).recall != Recall::Finish)
        };
        let outstanding = self.outstanding.between(0, up_to, usize::MAX).into_iter().filter(is_unfinished);
        let ahead = self.skipped.gaps(self.cursor, up_to.max(self.cursor));
        let runs = merged(outstanding.map(SequenceRange::one).chain(ahead).collect());
        if !runs.is_empty() {
            let runs = (runs.len() <= MAX_RANGES).then_some(runs);
            self.loss = Some(Box::new(Loss { kind, at_ns, runs }));
        }
    }

    /// What can be undone.
    pub fn loss(&self) -> Option<&Loss> {
        self.loss.as_deref()
    }

    /// Forgets what can be undone if no message from `oldest` on is part of it.
    pub fn forget_loss_before(&mut self, oldest: u64) {
        let is_gone = |loss: &Loss| {
            loss.runs.as_ref().is_some_and(|runs| runs.last().is_none_or(|last| last.to <= oldest))
        };
        self.loss.take_if(|loss| is_gone(loss));
    }

    /// Undone: these messages, in order, which are all behind the cursor, are unfinished again. They are handed out before
    /// all others, with attempts from 1. `marks` are the ranges among them that are not handed out in order.
    pub fn undo(&mut self, unfinished: &[SequenceRange], marks: &[Mark]) {
        self.loss = None;
        let behind = unfinished.iter().map(|run| run.intersect(SequenceRange::new(0, self.cursor)));
        let behind = merged(behind.filter(|run| !run.is_empty()).collect());
        let Some(low) = behind.first().map(|run| run.from) else { return };
        self.cursor_moves += 1;
        for run in &behind {
            for sequence in self.outstanding.between(run.from, run.to, usize::MAX) {
                if let Some(slot) = self.outstanding.find(sequence) {
                    let entry = self.outstanding.entry_mut(slot);
                    if entry.place == Place::InFlight && entry.recall == Recall::Finish {
                        entry.recall = Recall::No;
                    }
                }
            }
        }
        let mut all = Vec::new();
        let mut at = low;
        for run in &behind {
            all.push(Mark::Skipped { from: at, to: run.from });
            at = run.to;
        }
        all.push(Mark::Skipped { from: at, to: self.cursor });
        all.extend(self.skipped.iter().map(|SequenceRange { from, to }| Mark::Skipped { from, to }));
        for mark in marks {
            let clipped = behind.iter().map(|run| run.intersect(mark.sequences()));
            all.extend(clipped.map(|SequenceRange { from, to }| match *mark {
                Mark::Deferred { due, .. } => Mark::Deferred { from, to, due },
                Mark::Skipped { .. } | Mark::Targeted { .. } | Mark::Adopted { .. } => {
                    Mark::Skipped { from, to }
                }
            }));
        }
        all.retain(|mark| mark.from() < mark.to());
        // Waiting messages are handed out first.
        self.waiting.limit_turns(&mut self.outstanding, low);
        self.cursor = low;
        self.put_ahead(low, &all);
        self.begin_order();
    }

    /// Undone, during a replay: the cursor was at `cursor`, so all messages before it had been handed out, except these.
    pub fn replay_undo(&mut self, cursor: u64, unfinished: &[SequenceRange], marks: &[Mark]) {
        let at = self.cursor;
        let to = cursor.min(self.end);
        let mut handed_out_to = at;
        for run in unfinished {
            let run = run.intersect(SequenceRange::new(handed_out_to, to));
            if !run.is_empty() {
                self.replay_handed_out(run.from);
                self.skip_ahead_to(run.to);
                handed_out_to = run.to;
            }
        }
        self.replay_handed_out(to);
        self.undo(unfinished, marks);
    }

    /// Moves the cursor over messages that stay unknown.
    fn skip_ahead_to(&mut self, to: u64) {
        self.cursor = self.cursor.max(to);
        self.pass_skipped();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::ConsumerKey;
    use crate::channel::saved::Clocks;
    use crate::clock::Nanos;
    use crate::locality::Locality;

    const TIMEOUT: Nanos = 1_000;

    /// A channel with `count` messages, and a consumer that takes all.
    fn channel(count: u64) -> (ChannelState, ConsumerKey) {
        let mut state = ChannelState::new(0, TIMEOUT);
        state.release(count, &[], None);
        let key = state.add_consumer(TIMEOUT, 0, Locality::default());
        state.set_ready_count(key, 1000);
        (state, key)
    }

    /// Supplies every message.
    struct All(Vec<u64>);

    impl crate::log::Source for All {
        fn first(&mut self, sequence: u64, most: u64) -> crate::log::Supply {
            self.0.extend(sequence..sequence + most);
            crate::log::Supply::Given(most)
        }

        fn again(&mut self, sequence: u64, _: u16) -> crate::log::Supply {
            self.0.push(sequence);
            crate::log::Supply::Given(1)
        }
    }

    fn take(state: &mut ChannelState, key: ConsumerKey) -> Vec<u64> {
        let mut source = All(Vec::new());
        while state.take(key, 0, &mut source).0 > 0 {}
        source.0
    }

    fn finish(state: &mut ChannelState, key: ConsumerKey, sequences: &[u64]) {
        let now = Clocks { monotonic: 0, wall_ns: 0 };
        sequences.iter().for_each(|&sequence| state.finish(key, sequence, now).unwrap());
    }

    fn undo(state: &mut ChannelState) -> u64 {
        let retained = state.loss().unwrap().retained_from(0, false).unwrap();
        state.undo(&retained.runs, &[]);
        retained.count
    }

    #[test]
    fn exactly_the_unfinished_messages_come_back() {
        let (mut state, key) = channel(6);
        state.set_ready_count(key, 4);
        assert_eq!(take(&mut state, key), [0, 1, 2, 3]);
        finish(&mut state, key, &[0, 2]);
        state.note_loss(LossKind::Emptied, 6, Some(1));
        drop(state.empty());
        state.release(9, &[], None);
        state.set_ready_count(key, 2);
        assert_eq!(take(&mut state, key), [6, 7]);
        finish(&mut state, key, &[6]);
        assert_eq!(undo(&mut state), 4);
        assert_eq!((state.depth(), state.in_flight_count()), (5, 1));
        assert!(state.loss().is_none(), "it can be undone once");
        state.set_ready_count(key, 100);
        assert_eq!(take(&mut state, key), [1, 3, 4, 5, 8]);
        finish(&mut state, key, &[7, 1, 3, 4, 5, 8]);
        assert_eq!((state.depth(), state.lowest_needed()), (0, 9));
    }

    #[test]
    fn messages_in_flight_during_a_move_forward_are_kept_by_an_undo() {
        let (mut state, key) = channel(3);
        state.set_ready_count(key, 1);
        assert_eq!(take(&mut state, key), [0]);
        state.note_loss(LossKind::MovedForward, 3, None);
        state.move_forward(3);
        assert_eq!(undo(&mut state), 3);
        assert_eq!(state.depth(), 2);
        // It comes back instead of being finished.
        assert!(state.remove_consumer(key, 10));
        assert_eq!(state.depth(), 3);
    }

    #[test]
    fn an_action_without_effect_does_not_hide_the_one_before() {
        let (mut state, _) = channel(3);
        state.note_loss(LossKind::Emptied, 3, Some(1));
        drop(state.empty());
        let noted = state.loss().cloned();
        state.note_loss(LossKind::Emptied, 3, Some(2));
        drop(state.empty());
        assert_eq!(state.loss().cloned(), noted);
        state.move_back(0, &[]);
        assert!(state.loss().is_none(), "all messages are there again");
    }

    #[test]
    fn what_is_not_retained_is_refused_unless_a_part_is_enough() {
        let runs = Some(vec![SequenceRange::new(2, 4), SequenceRange::new(6, 9)]);
        let loss = Loss { kind: LossKind::Emptied, at_ns: None, runs };
        assert_eq!(loss.retained_from(2, false).unwrap().count, 5);
        assert_eq!(loss.retained_from(7, false), Err(UndoError::NoLongerRetained { lost: 3, count: 5 }));
        let part = loss.retained_from(7, true).unwrap();
        assert_eq!((part.runs, part.count, part.lost), (vec![SequenceRange::new(7, 9)], 2, 3));
        assert!(loss.retained_from(9, true).is_err());
        let loss = Loss { runs: None, ..loss };
        assert_eq!(loss.retained_from(0, true), Err(UndoError::TooMany));
    }

    #[test]
    fn replay_leads_to_the_same_messages_once_and_again() {
        let messages = |state: &ChannelState| -> Vec<u64> {
            state.needed(0, state.end(), usize::MAX).iter().flat_map(|range| range.iter()).collect()
        };
        let runs = [SequenceRange::new(1, 3), SequenceRange::new(4, 5)];
        let mut state = ChannelState::new(0, TIMEOUT);
        state.release(8, &[], None);
        state.replay_finish(SequenceRange::one(3));
        state.move_forward(5);
        // Message 5 was handed out before the undo.
        state.replay_undo(6, &runs, &[]);
        assert_eq!(messages(&state), [1, 2, 4, 5, 6, 7]);
        assert_eq!((state.attempts_of(5), state.attempts_of(1), state.cursor()), (1, 0, 1));
        // As if a checkpoint contained the record already.
        state.replay_undo(6, &runs, &[]);
        assert_eq!(messages(&state), [1, 2, 4, 5, 6, 7]);
        assert_eq!((state.attempts_of(5), state.attempts_of(1), state.cursor()), (1, 0, 1));
    }
}
