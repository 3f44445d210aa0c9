//! A topic's retention of finished messages, and channels that start in the past or are moved.

use std::fmt;
use std::sync::Arc;

use nsq_protocol::StartAt;

use super::{State, Topic};
use crate::channel::{Channel, CursorMove};
use crate::clock;
use crate::log::retention::Retention;
use crate::storage::SequenceRange;
use crate::storage::record::Record;

/// Why a topic cannot retain messages, or why a position in it is not available.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RetentionError {
    /// Ephemeral topics are never on disk.
    #[error("an ephemeral topic cannot retain messages")]
    Ephemeral,
    /// Messages behind the cursor may be deleted already.
    #[error("the topic retains no finished messages; set its retention first")]
    NothingRetained,
    /// The position is a message of another node or topic.
    #[error("this topic has no message of that id on this node")]
    UnknownId,
}

/// A position in a topic, independent of any channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The first message at or after the position. 0 for the oldest retained message, beyond the end for none.
    sequence: u64,
    /// The position is before all messages in the log.
    is_before_all: bool,
}

/// The position that a channel was set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The first message that it will hand out.
    pub sequence: u64,
    /// The requested position was before the oldest available message, so `sequence` is that one.
    pub clamped: bool,
}

impl Topic {
    /// Applies the limits of retention that are in force now.
    pub(super) fn update_retention(&self, state: &mut State) {
        if self.name.is_ephemeral() {
            return;
        }
        let policy = self.engine.policy_sources().of_topic(self.name.as_str(), state.topic.own());
        let known = Some(self.log.retained_from()).filter(|_| self.log.is_retaining());
        let from = known.unwrap_or_else(|| self.log.needed_from());
        state.topic.set_retention(policy.retention, from);
        if self.log.is_retaining() {
            self.engine.upkeep_hints.set_retains();
        }
    }

    pub(super) fn record_retention(&self, state: &State, from: u64) {
        if let Some(journal) = self.engine.journal_for(self.name.is_ephemeral()) {
            journal.append_lazy(&self.retention_record(state, from));
        }
    }

    pub(super) fn retention_record(&self, state: &State, from: u64) -> Record<'static> {
        let own = state.topic.own().retention();
        let Retention { age, bytes } = own.unwrap_or_default();
        Record::TopicRetention { topic: self.number, own: own.is_some(), for_ns: age, bytes, from }
    }

    /// Deletes messages beyond the limits. Works on files. Returns the bytes freed.
    pub fn retain(&self) -> std::io::Result<u64> {
        let before = self.log.retained_from();
        let freed = self.log.retain(clock::wall_ns(), clock::monotonic())?;
        let state = self.state.lock();
        let from = self.log.retained_from();
        if from != before && self.log.is_retaining() {
            // Otherwise the next start would assume that the deleted messages are still retained.
            self.record_retention(&state, from);
        }
        drop(state);
        if self.log.is_retaining() {
            for channel in self.channels() {
                channel.forget_loss_before(from);
                if channel.is_ephemeral() {
                    channel.skip_to(from);
                }
            }
        }
        Ok(freed)
    }

    /// Finds a position in the topic. For times and ids, it may read from disk and block.
    fn look_up(&self, place: StartAt) -> Result<Found, RetentionError> {
        let at = |sequence| Found { sequence, is_before_all: false };
        Ok(match place {
            StartAt::Earliest => at(0),
            StartAt::Latest => at(u64::MAX),
            StartAt::Sequence(sequence) => at(sequence),
            StartAt::Message(id) => at(self.log.find_id(id).ok_or(RetentionError::UnknownId)?),
            StartAt::Time(time_ns) => {
                let (sequence, is_before_all) = self.log.find_time(time_ns);
                Found { sequence, is_before_all }
            }
        })
    }

    /// Like [`Topic::look_up`], but reads from disk on another thread.
    pub(super) async fn find(self: &Arc<Self>, place: StartAt) -> Result<Found, RetentionError> {
        if !matches!(place, StartAt::Time(_) | StartAt::Message(_)) {
            return self.look_up(place);
        }
        let topic = self.clone();
        let (found_tx, found_rx) = tokio::sync::oneshot::channel();
        self.engine.log_context.disk_work.read(move || {
            // The client may have disconnected.
            let _ = found_tx.send(topic.look_up(place));
        });
        // The lookup panicked. The panic hook has reported it.
        found_rx.await.unwrap_or(Ok(Found { sequence: u64::MAX, is_before_all: false }))
    }

    /// Moves a channel's read cursor back, so that all messages from there on are handed out again, or forward, so that
    /// all messages before it are finished. Returns the new position and the channel's depth.
    pub async fn move_channel(
        self: &Arc<Self>,
        channel: &Channel,
        place: StartAt,
    ) -> Result<(Placed, u64), RetentionError> {
        let found = self.find(place).await?;
        let mut clamped = false;
        let moved = channel.move_to(|ahead| self.choose_move(found, ahead, &mut clamped))?;
        let placed = Placed { sequence: moved.to, clamped };
        crate::log_info!(
            self.engine,
            "TOPIC({}): channel {} moved to {place}: message {placed}, depth {}",
            self.name,
            channel.name(),
            moved.depth
        );
        Ok((placed, moved.depth))
    }

    /// What [`Topic::move_channel`] would return. Changes nothing.
    pub async fn plan_move(
        self: &Arc<Self>,
        channel: &Channel,
        place: StartAt,
    ) -> Result<(Placed, u64), RetentionError> {
        let found = self.find(place).await?;
        let mut clamped = false;
        let moved = channel.plan_move(|ahead| self.choose_move(found, ahead, &mut clamped))?;
        Ok((Placed { sequence: moved.to, clamped }, moved.depth))
    }

    fn choose_move(
        &self,
        found: Found,
        SequenceRange { from: cursor, to: end }: SequenceRange,
        clamped: &mut bool,
    ) -> Result<CursorMove, RetentionError> {
        if found.sequence > cursor || found.sequence >= end {
            return Ok(CursorMove { to: found.sequence.min(end), forward: true });
        }
        if !self.log.is_retaining() && found.sequence < cursor {
            return Err(RetentionError::NothingRetained);
        }
        let oldest = self.log.oldest_retained().min(cursor);
        *clamped = found.is_clamped_to(oldest);
        Ok(CursorMove { to: found.sequence.max(oldest), forward: false })
    }

    /// The start of a new channel that is requested at `found`: not before the oldest retained message, and not after
    /// the release point.
    pub(super) fn start_of(&self, state: &State, found: Found) -> Placed {
        let released = state.topic.point().released();
        if found.sequence >= released {
            return Placed { sequence: released, clamped: false };
        }
        let oldest =
            if self.log.is_retaining() { self.log.oldest_retained().min(released) } else { released };
        Placed { sequence: found.sequence.max(oldest), clamped: found.is_clamped_to(oldest) }
    }
}

impl Found {
    fn is_clamped_to(self, oldest: u64) -> bool {
        self.sequence > 0 && (self.sequence < oldest || (self.is_before_all && self.sequence == oldest))
    }
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.sequence, if self.clamped { " (the oldest available)" } else { "" })
    }
}
