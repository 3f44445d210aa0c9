//! A topic: its log, its release point, and its channels.
//!
//! Publishing appends to the log and to the journal, in the same order. Once the journal has made the messages as
//! durable as configured, they are released to all channels. Lock order: the topic's state, a channel, the log.
//!
//! - [`release`]: pure; the release point
//! - [`registry`]: all topics by name; creating and deleting
//! - `creation`: new channels
//! - [`retention`]: retention of finished messages; channels that start in the past or are moved
//! - [`publication`]: a batch between append and release

mod creation;
pub mod retention;
pub mod publication;
pub mod registry;
pub mod release;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nsq_protocol::{ChannelName, TopicName};
use parking_lot::Mutex;
use tokio::sync::Notify;

pub use self::publication::Publication;
use self::release::ReleasePoint;
use self::retention::RetentionError;
use crate::channel::Channel;
use crate::channel::saved::{Clocks, CursorMoved, SavedChannel, Saving};
use crate::clock;
use crate::engine::{Engine, StorageError};
use crate::health::Part;
use crate::log::retention::Retention;
use crate::log::{Floor, Holder, Mark, TopicLog};
use crate::storage::TopicNumber;
use crate::storage::checkpoint::{ChannelCheckpoint, TopicCheckpoint};
use crate::storage::journal::Ticket;
use crate::storage::record::Record;

/// Chunks that a topic moves to disk before other topics get their turn.
const CHUNKS_AT_A_TIME: usize = 16;

/// Why a publish was refused. None of its messages was or will be delivered, unless [`StorageError::is_in_doubt`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// The topic is being deleted, or nsqd is stopping.
    #[error("exiting")]
    Exiting,
    /// The messages could not be made as durable as configured, or memory is full because writing to disk failed.
    #[error("{0}")]
    Storage(#[from] StorageError),
    /// A new channel cannot start at the requested position.
    #[error("{0}")]
    NoSuchPlace(#[from] RetentionError),
}

/// The end of every channel is the release point. Code that moves it must update all channels under this lock.
struct State {
    point: ReleasePoint,
    channels: BTreeMap<ChannelName, Arc<Channel>>,
    /// The topic's own retention; `None` for the limits of nsqd's flags.
    own_retention: Option<Retention>,
    /// The release point recorded in the journal, while all channels are ephemeral.
    recorded: u64,
}

/// The topic's own depth, which `/stats` reports apart from the depths of its channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicDepth {
    /// Committed messages that no channel has received yet, without those that the next release skips.
    pub depth: u64,
    /// Committed messages that no channel has received yet and that are only on disk, including those that the next
    /// release skips. So it may exceed `depth`.
    pub backend_depth: u64,
    /// Whether an operator paused the topic: it then releases no messages.
    pub paused: bool,
}

/// A topic; see the module.
pub struct Topic {
    name: TopicName,
    number: TopicNumber,
    engine: Arc<Engine>,
    log: Arc<TopicLog>,
    state: Mutex<State>,
    /// The release point as a floor of the log.
    floor: Floor,
    message_count: AtomicU64,
    message_bytes: AtomicU64,
    closed: AtomicBool,
    /// Moving messages to disk is running or queued.
    is_spilling: AtomicBool,
    /// Notified when moving messages to disk has ended, successfully or not.
    spilled: Notify,
    this: Weak<Topic>,
}

/// The arguments of [`Topic::new`], for a new or recovered topic.
pub struct TopicParts {
    pub name: TopicName,
    /// The topic's number in the journal and in checkpoints.
    pub number: TopicNumber,
    pub log: Arc<TopicLog>,
    pub point: ReleasePoint,
    /// Messages and body bytes accepted so far.
    pub counters: (u64, u64),
    /// The topic's own retention; `None` for the limits of nsqd's flags.
    pub own_retention: Option<Retention>,
}

impl Topic {
    /// Creates a topic without channels.
    pub fn new(engine: Arc<Engine>, parts: TopicParts) -> Arc<Self> {
        let floor = parts.log.hold(parts.point.released());
        Arc::new_cyclic(|this| Topic {
            name: parts.name,
            number: parts.number,
            engine,
            floor,
            log: parts.log,
            state: Mutex::new(State {
                recorded: parts.point.released(),
                point: parts.point,
                channels: BTreeMap::new(),
                own_retention: parts.own_retention,
            }),
            message_count: AtomicU64::new(parts.counters.0),
            message_bytes: AtomicU64::new(parts.counters.1),
            closed: AtomicBool::new(false),
            is_spilling: AtomicBool::new(false),
            spilled: Notify::new(),
            this: this.clone(),
        })
    }

    pub fn name(&self) -> &TopicName {
        &self.name
    }

    pub fn number(&self) -> TopicNumber {
        self.number
    }

    pub fn log(&self) -> &Arc<TopicLog> {
        &self.log
    }

    /// Whether the topic is closed: it was deleted (look it up again), or nsqd is stopping.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Appends a batch, deferred by `delay` if it is given. `body_bytes` is the sum over `bodies`.
    /// [`Publication::committed`] releases the messages; wait for it before answering OK.
    pub fn append<'a>(
        &self,
        bodies: impl ExactSizeIterator<Item = &'a [u8]>,
        body_bytes: usize,
        delay: Option<Duration>,
    ) -> Result<Publication, PublishError> {
        if self.is_closed() {
            return Err(PublishError::Exiting);
        }
        let topic = self.this.upgrade().ok_or(PublishError::Exiting)?;
        if self.log.is_stuck() {
            self.engine.metrics().refused_publishes.add(1);
            return Err(self
                .engine
                .storage_error("memory is full and messages cannot be moved to disk; free disk space, and nsqd then continues by itself")
                .into());
        }
        if self.engine.is_data_dir_missing() && !self.name.is_ephemeral() {
            self.engine.metrics().refused_publishes.add(1);
            return Err(self.engine.storage_error("the data directory is missing; put it back").into());
        }
        let offered = bodies.len();
        let count = self.room_for(offered, body_bytes);
        let bodies = bodies.take(count);
        let wall_ns = clock::wall_ns();
        let due = delay.map(clock::nanos);
        let due_ns = due.map(|delay| wall_ns.saturating_add_unsigned(delay));
        let deadline = due.map(|delay| clock::monotonic().saturating_add(delay));
        let appended =
            self.log.append(bodies, (count, body_bytes), wall_ns, deadline, |first_sequence, frames| {
                let ticket = self.journal(&Record::Publish {
                    topic: self.number,
                    first_sequence,
                    count: count as u32,
                    due_ns,
                    frames,
                })?;
                // Under the log's lock: a checkpoint counts the messages before the end that it names, and no others.
                self.message_count.fetch_add(offered as u64, Ordering::Relaxed);
                self.message_bytes.fetch_add(body_bytes as u64, Ordering::Relaxed);
                Ok::<_, StorageError>(ticket)
            });
        let metrics = self.engine.metrics();
        let (_, end, ticket) = appended.inspect_err(|_| metrics.refused_publishes.add(1))?;
        metrics.published_messages.add(offered as u64);
        metrics.published_bytes.add(body_bytes as u64);
        Ok(Publication::new(topic, (end - count as u64, end), ticket))
    }

    /// How many of `count` messages are accepted: all, unless the topic is ephemeral, holds messages back, and reaches
    /// its memory bounds.
    fn room_for(&self, count: usize, body_bytes: usize) -> usize {
        if !self.name.is_ephemeral() {
            return count;
        }
        let state = self.state.lock();
        if state.point.is_releasing() {
            return count;
        }
        let (released, limits) = (state.point.released(), &self.engine.limits);
        drop(state);
        let held = self.log.end().saturating_sub(released);
        let held_bytes = if held > 0 { self.log.memory_bytes_since(released) } else { 0 };
        if held_bytes.saturating_add(body_bytes) > limits.mem_queue_bytes {
            return 0;
        }
        count.min(limits.mem_queue_size.saturating_sub(held) as usize)
    }

    fn journal(&self, record: &Record<'_>) -> Result<Option<Ticket>, StorageError> {
        match self.engine.journal_for(self.name.is_ephemeral()) {
            Some(journal) => Ok(Some(journal.append(record)?)),
            None => Ok(None),
        }
    }

    /// Releases the messages before `to`, which are durable, unless the topic holds them back. Wakes consumers.
    fn release(&self, to: u64) {
        let mut state = self.state.lock();
        state.point.commit(to);
        self.advance(&mut state);
    }

    fn advance(&self, state: &mut State) {
        let Some((_, to)) = state.point.advance() else { return };
        let marks = self.log.take_marks(to);
        for channel in state.channels.values() {
            channel.release(to, &marks);
        }
        self.floor.store(to, Ordering::Release);
        self.record_release(state, to);
    }

    /// Records the release point now and then, if all channels are ephemeral. Without this, after a crash, the topic
    /// would hold back all messages that it ever released for the next channel.
    fn record_release(&self, state: &mut State, released: u64) {
        const EVERY: u64 = 1000;
        if released - state.recorded >= EVERY && state.channels.values().all(|channel| channel.is_ephemeral())
        {
            self.record_state(state);
        }
    }

    fn record_state(&self, state: &mut State) {
        state.recorded = state.point.released();
        if let Some(journal) = self.engine.journal_for(self.name.is_ephemeral()) {
            journal.append_lazy(&Record::TopicState {
                topic: self.number,
                paused: state.point.is_paused(),
                released: state.point.released(),
                releasing: state.channels.values().any(|channel| !channel.is_ephemeral())
                    && !state.point.is_paused(),
            });
        }
    }

    /// Skips the messages `from..to`, which could not be made durable and were refused.
    fn refuse(&self, from: u64, to: u64) {
        self.log.skip(from, to);
    }

    /// Starts moving messages beyond the memory bound to disk. If too many wait for that already, the caller waits too.
    async fn relieve_memory(&self) {
        while self.log.should_spill() {
            let spilled = self.spilled.notified();
            self.begin_spilling();
            let is_under_way = self.is_spilling.load(Ordering::Acquire);
            if !is_under_way || !self.log.is_spill_behind() {
                return;
            }
            spilled.await;
            if self.log.has_failed_to_spill() {
                return;
            }
        }
    }

    fn begin_spilling(&self) {
        if self.log.is_in_memory_only() {
            // This only drops messages or sets them aside: there is no disk access.
            return self.spill();
        }
        if !self.is_spilling.swap(true, Ordering::AcqRel)
            && let Some(topic) = self.this.upgrade()
        {
            self.engine.log_context.disk_work.write(move || topic.spill_some());
        }
    }

    /// Moves a part of the messages at a time, so that other topics get their turn.
    fn spill_some(&self) {
        self.spill();
        self.is_spilling.store(false, Ordering::Release);
        self.spilled.notify_waiters();
        if self.log.should_spill() && !self.log.has_failed_to_spill() {
            self.begin_spilling();
        }
    }

    /// Moves messages beyond the memory bound to disk. A failure shows in the health.
    fn spill(&self) {
        if self.is_closed() && self.log.is_deleted() {
            // The messages were published while the topic was being deleted.
            return self.log.discard();
        }
        match self.log.spill_up_to(CHUNKS_AT_A_TIME) {
            Ok(0) => {}
            // Success is not reported here, because another topic may still be stuck. The next round over all topics
            // reports it.
            Ok(_) => self.engine.set_has_segments(true),
            Err(error) => self.engine.set_failed(Part::Spilling, &format!("cannot write segment: {error}")),
        }
    }

    /// Retries moving messages to disk, if that failed. Publishers do not retry it, because they are refused meanwhile.
    /// Returns whether it still fails.
    pub fn retry_spill(&self) -> bool {
        if self.log.has_failed_to_spill() {
            self.spill();
        }
        self.log.has_failed_to_spill()
    }

    /// Allows releasing messages. Call when the topic's channels are known.
    pub fn start(&self) {
        let mut state = self.state.lock();
        state.point.started();
        self.advance(&mut state);
    }

    pub fn channel(&self, name: &str) -> Option<Arc<Channel>> {
        self.state.lock().channels.get(name).cloned()
    }

    pub fn channel_count(&self) -> usize {
        self.state.lock().channels.len()
    }

    /// All channels, sorted by name.
    pub fn channels(&self) -> Vec<Arc<Channel>> {
        self.state.lock().channels.values().cloned().collect()
    }

    /// Deletes a channel and its messages, and ends its consumers' connections. Returns whether it was the last
    /// channel; `None` if there is no such channel.
    pub fn delete_channel(&self, name: &str) -> Option<bool> {
        let mut state = self.state.lock();
        let channel = state.channels.remove(name)?;
        channel.discard();
        if let Some(journal) = self.engine.journal_for(self.name.is_ephemeral() || channel.is_ephemeral()) {
            journal.append_lazy(&Record::ChannelDeleted { topic: self.number, channel: channel.number() });
        }
        let last = state.channels.is_empty();
        if last {
            state.point.set_has_channels(false);
            self.record_state(&mut state);
        }
        drop(state);
        drop(channel);
        self.log.trim();
        crate::log_info!(self.engine, "TOPIC({}): deleting channel {}", self.name, name);
        self.engine.topology_changed();
        Some(last)
    }

    /// Deletes an ephemeral channel after its last consumer left, unless another consumer has subscribed meanwhile.
    /// Returns the same as [`Topic::delete_channel`].
    pub fn delete_channel_if_unused(&self, channel: &Arc<Channel>) -> Option<bool> {
        let unused = channel.inspect(|state, _| state.consumers().is_empty());
        let same =
            self.channel(channel.name().as_str()).is_some_and(|current| Arc::ptr_eq(&current, channel));
        if unused && same { self.delete_channel(channel.name().as_str()) } else { None }
    }

    /// Pauses or resumes releasing messages to channels.
    pub fn set_paused(&self, paused: bool) {
        let mut state = self.state.lock();
        state.point.set_paused(paused);
        self.record_state(&mut state);
        self.advance(&mut state);
    }

    /// Drops the messages that are not released to channels yet.
    pub fn empty(&self) {
        let mut state = self.state.lock();
        let (from, to) = state.point.empty();
        if from < to {
            self.log.take_marks(to);
            self.log.add_void(from, to);
            for channel in state.channels.values() {
                channel.release(to, &[Mark::Skipped { from, to }]);
            }
            self.floor.store(to, Ordering::Release);
            if let Some(journal) = self.engine.journal_for(self.name.is_ephemeral()) {
                journal.append_lazy(&Record::TopicSkipped { topic: self.number, from, to });
            }
        }
        drop(state);
        self.log.trim();
    }

    /// Closes the topic because it is deleted or nsqd stops: publishes are refused, and consumers' connections end.
    pub fn close(&self) {
        let state = self.state.lock();
        self.closed.store(true, Ordering::Release);
        for channel in state.channels.values() {
            channel.close();
        }
    }

    /// Closes a deleted topic like [`Topic::close`], and frees its memory and its channels at once, even if others
    /// still hold the topic.
    pub fn discard(&self) {
        self.close();
        let channels = std::mem::take(&mut self.state.lock().channels);
        channels.values().for_each(|channel| channel.discard());
        self.log.discard();
    }

    /// The messages that the topic holds back from its channels.
    pub fn depth(&self) -> TopicDepth {
        let state = self.state.lock();
        let (released, committed) = (state.point.released(), state.point.committed());
        let paused = state.point.is_paused();
        let skipped: u64 = (self.log.marks().iter())
            .map(|mark| match *mark {
                Mark::Skipped { from, to } => to.min(committed).saturating_sub(from.max(released)),
                Mark::Deferred { .. } => 0,
            })
            .sum();
        TopicDepth {
            depth: (committed - released).saturating_sub(skipped),
            backend_depth: self.log.memory_start().min(committed).saturating_sub(released),
            paused,
        }
    }

    /// Messages and body bytes accepted.
    pub fn counters(&self) -> (u64, u64) {
        (self.message_count.load(Ordering::Relaxed), self.message_bytes.load(Ordering::Relaxed))
    }

    /// Records the topic and its channels in the journal again: their names, and the first messages that they need. If
    /// recovery already knows them, these records change nothing.
    pub fn record_names(&self) {
        let Some(journal) = self.engine.journal_for(self.name.is_ephemeral()) else { return };
        let mut state = self.state.lock();
        if self.is_closed() {
            return;
        }
        let needed =
            state.channels.values().filter(|channel| !channel.is_ephemeral()).map(|c| c.floor()).min();
        let released = state.point.released();
        let first_sequence = needed.into_iter().chain([self.log.retained_from()]).fold(released, u64::min);
        journal.append_lazy(&Record::TopicCreated {
            topic: self.number,
            name: self.name.as_str(),
            first_sequence,
        });
        for channel in state.channels.values().filter(|channel| !channel.is_ephemeral()) {
            channel.record_name();
        }
        if state.own_retention.is_some() {
            self.record_retention(&state, self.log.retained_from());
        }
        self.record_state(&mut state);
    }

    /// Like [`Topic::save_while`], but without slices.
    pub fn save(&self, clocks: Clocks) -> TopicCheckpoint {
        self.save_while(clocks, usize::MAX, &mut || {})
    }

    /// Saves the topic for a checkpoint. Topic and channels are saved as of one moment, except for their outstanding
    /// messages. These are saved in slices of about `slice`; after each one, the lock is released and `between` is
    /// called. See [`crate::channel::saved`].
    pub fn save_while(&self, clocks: Clocks, slice: usize, between: &mut dyn FnMut()) -> TopicCheckpoint {
        let mut attempts = 0;
        loop {
            attempts += 1;
            // If channels are moved all the time, the save delays others a little instead of never ending.
            let slice = if attempts < SAVE_ATTEMPTS { slice } else { usize::MAX };
            let (mut saved, channels) = self.begin_saving(clocks);
            let channels: Result<_, CursorMoved> = (channels.into_iter())
                .map(|(channel, saving)| Ok(saved_channel(&channel, channel.save(saving, slice, between)?)))
                .collect();
            if let Ok(channels) = channels {
                saved.channels = channels;
                return saved;
            }
        }
    }

    /// The topic's part of a checkpoint, without its channels, and the started saves of its channels.
    fn begin_saving(&self, clocks: Clocks) -> (TopicCheckpoint, Vec<(Arc<Channel>, Saving)>) {
        let state = self.state.lock();
        let released = state.point.released();
        let mut skipped = Vec::new();
        let mut unreleased_deferred = Vec::new();
        let (next_sequence, (message_count, message_bytes)) = self.log.with_marks_and_end(|marks, end| {
            for mark in marks {
                match *mark {
                    Mark::Skipped { from, to } => skipped.push((from, to)),
                    Mark::Deferred { from, to, due } => {
                        unreleased_deferred
                            .extend((from..to).map(|sequence| (sequence, clocks.to_wall(due))));
                    }
                }
            }
            (end, self.counters())
        });
        let channels = (state.channels.values().filter(|channel| !channel.is_ephemeral()))
            .map(|channel| (channel.clone(), channel.begin_saving(clocks)))
            .collect();
        let saved = TopicCheckpoint {
            number: self.number,
            name: self.name.to_string(),
            paused: state.point.is_paused(),
            next_sequence,
            released,
            releasing: state.point.is_releasing(),
            skipped,
            unreleased_deferred,
            message_count,
            message_bytes,
            channels: Vec::new(),
            retention: self.save_retention(&state, clocks),
            published_before: None,
        };
        (saved, channels)
    }
}

/// From this attempt on, a topic's channels are saved without slices, because they were moved during earlier attempts.
const SAVE_ATTEMPTS: u32 = 4;

fn saved_channel(channel: &Channel, saved: SavedChannel) -> ChannelCheckpoint {
    ChannelCheckpoint {
        number: channel.number(),
        name: channel.name().to_string(),
        paused: saved.paused,
        cursor: saved.cursor,
        skipped_ahead: saved.skipped,
        outstanding: saved.outstanding,
        message_count: saved.counters.message_count,
        requeue_count: saved.counters.requeue_count,
        timeout_count: saved.counters.timeout_count,
    }
}
