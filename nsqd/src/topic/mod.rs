//! A topic: its log, its release point, and its channels.
//!
//! Publishing appends to the log and to the journal, in the same order. Once the journal has made the messages as
//! durable as configured, they are released to all channels. Lock order: the topic's state, a channel, the log.
//!
//! - [`state`]: pure; what the topic's journal records mean, for the running topic and for recovery
//! - [`release`]: pure; the release point
//! - [`registry`]: all topics by name; creating and deleting
//! - [`dedupe`]: pure; the ids of messages that are stored once
//! - `creation`: new channels
//! - [`retention`]: retention of finished messages; channels that start in the past or are moved
//! - [`publication`]: a batch between append and release
//! - [`adoptions`]: pure; which messages of other nodes the topic has; `adopting`: stores them
//! - `moving_out`: gives messages to a drain that moves them to another node
//! - [`dead_letter`]: pure; the headers of dead letters
//! - [`dead_summary`]: pure; counts dead letters by cause
//! - [`dead_lettering`]: moves messages that are set aside to dead-letter topics
//! - [`redrive`]: moves dead letters back, or deletes them
//! - `deduplicating`: storing the messages of an id once
//! - [`bounds`]: pure; whether there is room for a publish; `bounding`: applies bounds
//! - `watching`: channels without consumers
//! - `remaining`: counts what a drain waits for
//! - `settings`: changing settings of the topic and its channels
//! - [`saved`]: the topic's part of a checkpoint

pub mod adopting;
pub mod adoptions;
pub mod bounds;
mod bounding;
mod creation;
pub mod dead_letter;
pub mod dead_lettering;
pub mod dead_summary;
pub mod dedupe;
mod deduplicating;
pub mod retention;
pub mod publication;
pub mod redrive;
pub mod registry;
pub mod release;
mod moving_out;
mod remaining;
pub mod saved;
mod settings;
pub mod state;
mod watching;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nsq_protocol::headers::Form;
use nsq_protocol::{ChannelName, TopicName};
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::adopting::Adopting;
use self::adoptions::Adoptions;
use self::bounds::{Bounds, TopicFull};
use self::dedupe::LearnedIds;
use self::deduplicating::Ids;
pub use self::publication::{Publication, PublishedMessage};
use self::release::ReleasePoint;
use self::retention::RetentionError;
use self::state::TopicState;
use crate::channel::{Channel, PauseNote};
use crate::clock;
use crate::engine::{Engine, StorageError};
use crate::health::Part;
use crate::log::{Floor, Holder, Mark, TopicLog};
use crate::policy::settings::Settings;
use crate::storage::journal::Ticket;
use crate::storage::record::Record;
use crate::storage::{ChannelNumber, SequenceRange, TopicNumber};

/// Chunks that a topic moves to disk before other topics get their turn.
const CHUNKS_AT_A_TIME: usize = 16;

/// Why a publish was refused. None of its messages was or will be delivered, unless [`StorageError::is_in_doubt`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// The topic is being deleted, or nsqd is stopping.
    #[error("exiting")]
    Exiting,
    /// The node drains. Another node may accept it.
    #[error("exiting")]
    Draining,
    /// The messages could not be made as durable as configured, or memory is full because writing to disk failed.
    #[error("{0}")]
    Storage(#[from] StorageError),
    /// It exceeds a bound. Later there may be room.
    #[error("{0}")]
    Full(Box<TopicFull>),
    /// A new channel cannot start at the requested position.
    #[error("{0}")]
    NoSuchPlace(#[from] RetentionError),
}

impl From<Box<TopicFull>> for PublishError {
    fn from(full: Box<TopicFull>) -> Self {
        PublishError::Full(full)
    }
}

/// Where messages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// A client publishes them.
    Producer,
    /// They were in a channel of this node, and move.
    Node,
}

/// The part of a topic that its lock protects.
struct State {
    topic: TopicState<ChannelName, Arc<Channel>>,
    /// The release point recorded in the journal, while all channels are ephemeral.
    recorded: u64,
    /// Who paused it and when, if that was since the start.
    paused_by: Option<PauseNote>,
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
    ids: Ids,
    adopting: Adopting,
    bounds: Bounds,
    /// Held-back messages that were dropped.
    overflow_count: AtomicU64,
    /// How many nodes carry the topic, if a channel has a rate of all of them together.
    node_count: AtomicU64,
}

/// What was ever published to a topic, and accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TopicCounters {
    pub message_count: u64,
    /// Bytes of the bodies.
    pub message_bytes: u64,
}

/// The arguments of [`Topic::new`], for a new or recovered topic.
pub struct TopicParts {
    pub name: TopicName,
    /// The topic's number in the journal and in checkpoints.
    pub number: TopicNumber,
    pub log: Arc<TopicLog>,
    pub point: ReleasePoint,
    /// Messages and body bytes accepted so far.
    pub counters: TopicCounters,
    /// The topic's own settings.
    pub own: Settings,
    /// Ids of messages, in case the topic remembers them.
    pub ids: LearnedIds,
    /// Messages of other nodes.
    pub adoptions: Adoptions,
}

impl Topic {
    /// Creates a topic without channels.
    pub fn new(engine: Arc<Engine>, parts: TopicParts) -> Arc<Self> {
        let floor = parts.log.hold(parts.point.released());
        let policy = engine.policy_sources().of_topic(parts.name.as_str(), &parts.own);
        Arc::new_cyclic(|this| Topic {
            name: parts.name,
            number: parts.number,
            engine,
            floor,
            log: parts.log.clone(),
            state: Mutex::new(State {
                recorded: parts.point.released(),
                paused_by: None,
                topic: TopicState::new(parts.log, parts.point, parts.own),
            }),
            message_count: AtomicU64::new(parts.counters.message_count),
            message_bytes: AtomicU64::new(parts.counters.message_bytes),
            closed: AtomicBool::new(false),
            is_spilling: AtomicBool::new(false),
            spilled: Notify::new(),
            this: this.clone(),
            ids: Ids::new(policy.dedupe, parts.ids),
            adopting: Adopting::new(parts.adoptions),
            bounds: Bounds::default(),
            overflow_count: AtomicU64::new(0),
            node_count: AtomicU64::new(1),
        })
    }

    pub fn name(&self) -> &TopicName {
        &self.name
    }

    pub fn number(&self) -> TopicNumber {
        self.number
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub fn log(&self) -> &Arc<TopicLog> {
        &self.log
    }

    /// Whether the topic is closed: it was deleted (look it up again), or nsqd is stopping.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Appends a batch of messages without headers; see [`Topic::append_as`].
    pub fn append<'a>(
        &self,
        bodies: impl ExactSizeIterator<Item = &'a [u8]>,
        body_bytes: usize,
        delay: Option<Duration>,
    ) -> Result<Publication, PublishError> {
        self.append_as(Form::Plain, bodies, body_bytes, delay)
    }

    /// Appends a batch, all in one form, deferred by `delay` if it is given. `body_bytes` is the sum over `bodies`;
    /// headers count as part of a body. [`Publication::committed`] releases the messages; wait for it before answering
    /// OK.
    pub fn append_as<'a>(
        &self,
        form: Form,
        bodies: impl ExactSizeIterator<Item = &'a [u8]>,
        body_bytes: usize,
        delay: Option<Duration>,
    ) -> Result<Publication, PublishError> {
        let topic = self.can_append(Origin::Producer)?;
        if form == Form::WithHeaders && self.ids.is_on() {
            return self.append_once(topic, bodies.collect(), body_bytes, delay);
        }
        let offered = bodies.len();
        let count = self.room_for(offered, body_bytes);
        let stored = self.store(form, bodies.take(count), (offered, body_bytes), delay)?;
        Ok(Publication::new(topic, stored, None))
    }

    /// Appends messages to the log and to the journal. `offered` and `body_bytes` also count messages that an ephemeral
    /// topic has no room for. Returns the sequence numbers and what to wait for.
    fn store<'a>(
        &self,
        form: Form,
        bodies: impl ExactSizeIterator<Item = &'a [u8]>,
        (offered, body_bytes): (usize, usize),
        delay: Option<Duration>,
    ) -> Result<(SequenceRange, Option<Ticket>), PublishError> {
        let count = bodies.len();
        let wall_ns = clock::wall_ns();
        let due = delay.map(clock::nanos);
        let due_ns = due.map(|delay| wall_ns.saturating_add_unsigned(delay));
        let deadline = due.map(|delay| clock::monotonic().saturating_add(delay));
        let appended = self.log.append(
            bodies,
            (form, count, body_bytes),
            wall_ns,
            deadline,
            |first_sequence, frames| {
                self.admit(first_sequence, count, body_bytes)?;
                let ticket = self.journal(&Record::Publish {
                    topic: self.number,
                    first_sequence,
                    count: count as u32,
                    due_ns,
                    only: None,
                    frames,
                })?;
                // Under the log's lock: a checkpoint counts the messages before the end that it names, and no others.
                self.message_count.fetch_add(offered as u64, Ordering::Relaxed);
                self.message_bytes.fetch_add(body_bytes as u64, Ordering::Relaxed);
                Ok::<_, PublishError>(ticket)
            },
        );
        let metrics = self.engine.metrics();
        let (sequences, ticket) = appended.inspect_err(|error| {
            if !matches!(error, PublishError::Full(_)) {
                metrics.refused_publishes.add(1);
            }
        })?;
        metrics.published_messages.add(offered as u64);
        metrics.published_bytes.add(body_bytes as u64);
        Ok((sequences, ticket))
    }

    /// Appends a batch in one journal batch with another record: a later start reads both or neither. With `only`, no
    /// other channel receives the messages. Otherwise as [`Topic::append_as`].
    ///
    /// Takes no lock but the log's, so the caller may hold the locks of a topic and a channel.
    pub fn append_with<'a>(
        &self,
        form: Form,
        bodies: &[&'a [u8]],
        only: Option<ChannelNumber>,
        other: Option<Record<'a>>,
    ) -> Result<Publication, PublishError> {
        let topic = self.can_append(Origin::Node)?;
        let (count, body_bytes) = (bodies.len(), bodies.iter().map(|body| body.len()).sum());
        let journal = |first_sequence, frames: &[u8]| {
            let publish = Record::Publish {
                topic: self.number,
                first_sequence,
                count: count as u32,
                due_ns: None,
                only,
                frames,
            };
            let ticket = match (self.engine.journal_for(self.name.is_ephemeral()), other) {
                (Some(journal), Some(other)) => Some(journal.append_batch(&[publish, other])?),
                (Some(journal), None) => Some(journal.append(&publish)?),
                (None, Some(other)) => match self.engine.journal_for(false) {
                    Some(journal) => Some(journal.append(&other)?),
                    None => None,
                },
                (None, None) => None,
            };
            self.count_published(count as u64, body_bytes as u64);
            Ok::<_, StorageError>(ticket)
        };
        let wall_ns = clock::wall_ns();
        let bodies = bodies.iter().copied();
        let stored = self.log.append_targeted(bodies, (form, count, body_bytes), wall_ns, only, journal)?;
        Ok(Publication::new(topic, stored, None))
    }

    /// Counts accepted messages. Call it under the lock of the log's index.
    fn count_published(&self, messages: u64, body_bytes: u64) {
        self.message_count.fetch_add(messages, Ordering::Relaxed);
        self.message_bytes.fetch_add(body_bytes, Ordering::Relaxed);
    }

    /// Calls `append` with the number of a channel, while the channel cannot be deleted. `None` if there is no such
    /// channel.
    pub fn with_channel_number<T>(&self, name: &str, append: impl FnOnce(ChannelNumber) -> T) -> Option<T> {
        let state = self.state.lock();
        let number = state.topic.channels().get(name)?.number();
        Some(append(number))
    }

    fn can_append(&self, origin: Origin) -> Result<Arc<Topic>, PublishError> {
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
        if self.engine.status.may_refuse_publishes() {
            self.check_refusals(origin)?;
        }
        Ok(topic)
    }

    #[cold]
    fn check_refusals(&self, origin: Origin) -> Result<(), PublishError> {
        if origin == Origin::Producer && self.engine.status.is_draining() {
            self.engine.metrics().publishes_while_draining.add(1);
            return Err(PublishError::Draining);
        }
        if self.engine.status.is_data_dir_missing() && !self.name.is_ephemeral() {
            self.engine.metrics().refused_publishes.add(1);
            return Err(self.engine.storage_error("the data directory is missing; put it back").into());
        }
        Ok(())
    }

    /// How many of `count` messages are accepted: all, unless the topic is ephemeral, holds messages back, and reaches
    /// its memory bounds.
    fn room_for(&self, count: usize, body_bytes: usize) -> usize {
        if !self.name.is_ephemeral() {
            return count;
        }
        let state = self.state.lock();
        if state.topic.point().is_releasing() {
            return count;
        }
        let (released, limits) = (state.topic.point().released(), &self.engine.limits);
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
        let moved_to = state.topic.commit(to);
        self.released(&mut state, moved_to);
        if moved_to.is_none() {
            self.shed_held(&mut state);
        }
    }

    fn advance(&self, state: &mut State) {
        let moved_to = state.topic.advance();
        self.released(state, moved_to);
    }

    /// Ends every release: lets the log free what the topic held back.
    fn released(&self, state: &mut State, moved_to: Option<u64>) {
        let Some(to) = moved_to else { return };
        self.floor.store(to, Ordering::Release);
        self.update_gauge(state);
        self.record_release(state, to);
    }

    /// Records the release point now and then, if all channels are ephemeral. Without this, after a crash, the topic
    /// would hold back all messages that it ever released for the next channel.
    fn record_release(&self, state: &mut State, released: u64) {
        const EVERY: u64 = 1000;
        if released - state.recorded >= EVERY
            && state.topic.channels().values().all(|channel| channel.is_ephemeral())
        {
            self.record_state(state);
        }
    }

    fn record_state(&self, state: &mut State) {
        let point = state.topic.point();
        state.recorded = point.released();
        if let Some(journal) = self.engine.journal_for(self.name.is_ephemeral()) {
            let has_durable = state.topic.channels().values().any(|channel| !channel.is_ephemeral());
            journal.append_lazy(&Record::TopicState {
                topic: self.number,
                paused: point.is_paused(),
                released: point.released(),
                releasing: has_durable && !point.is_paused(),
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
            Ok(_) => self.engine.upkeep_hints.set_has_segments(true),
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
        state.topic.started();
        self.advance(&mut state);
        self.update_gauge(&state);
    }

    pub fn channel(&self, name: &str) -> Option<Arc<Channel>> {
        self.state.lock().topic.channels().get(name).cloned()
    }

    pub fn channel_count(&self) -> usize {
        self.state.lock().topic.channels().len()
    }

    /// All channels, sorted by name.
    pub fn channels(&self) -> Vec<Arc<Channel>> {
        self.state.lock().topic.channels().values().cloned().collect()
    }

    /// Deletes a channel and its messages, and ends its consumers' connections. Returns whether it was the last
    /// channel; `None` if there is no such channel.
    pub fn delete_channel(&self, name: &str) -> Option<bool> {
        let mut state = self.state.lock();
        let channel = state.topic.remove(name)?;
        self.bounds.remove(name);
        channel.discard();
        if let Some(journal) = self.engine.journal_for(self.name.is_ephemeral() || channel.is_ephemeral()) {
            journal.append_lazy(&Record::ChannelDeleted { topic: self.number, channel: channel.number() });
        }
        let last = state.topic.channels().is_empty();
        if last {
            self.record_state(&mut state);
            self.update_gauge(&state);
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
        self.set_paused_by(paused, "");
    }

    /// Pauses or resumes releasing messages to channels, as somebody at this address asked.
    pub fn set_paused_by(&self, paused: bool, by: &str) {
        let mut state = self.state.lock();
        // A second pause does not change who paused it.
        if !paused || !state.topic.point().is_paused() {
            state.paused_by = PauseNote::now(paused, by);
        }
        state.topic.set_paused(paused);
        self.record_state(&mut state);
        self.advance(&mut state);
        self.update_gauge(&state);
    }

    /// Drops the messages that are not released to channels yet, and forgets the ids of all messages.
    pub fn empty(&self) {
        let mut state = self.state.lock();
        let (from, to) = (state.topic.point().released(), state.topic.point().committed());
        if from < to {
            state.topic.skip(from, to);
            self.floor.store(to, Ordering::Release);
            self.update_gauge(&state);
        }
        let skipped = (from < to).then_some(Record::TopicSkipped { topic: self.number, from, to });
        let records: Vec<Record<'_>> = skipped.into_iter().chain(self.forget_ids()).collect();
        if let Some(journal) = self.engine.journal_for(self.name.is_ephemeral())
            && !records.is_empty()
        {
            journal.append_lazy_batch(&records);
        }
        drop(state);
        self.log.trim();
    }

    /// Closes the topic because it is deleted or nsqd stops: publishes are refused, and consumers' connections end.
    pub fn close(&self) {
        let state = self.state.lock();
        self.closed.store(true, Ordering::Release);
        for channel in state.topic.channels().values() {
            channel.close();
        }
    }

    /// Closes a deleted topic like [`Topic::close`], and frees its memory and its channels at once, even if others
    /// still hold the topic.
    pub fn discard(&self) {
        self.close();
        self.ids.discard();
        let channels = self.state.lock().topic.take_channels();
        channels.values().for_each(|channel| channel.discard());
        self.log.discard();
    }

    /// Who paused the topic, if it is paused and that was since the start.
    pub fn paused_by(&self) -> Option<PauseNote> {
        self.state.lock().paused_by.clone()
    }

    /// Messages before this are released to the channels.
    pub fn released_to(&self) -> u64 {
        self.state.lock().topic.point().released()
    }

    /// Messages before this are durable.
    pub fn committed(&self) -> u64 {
        self.state.lock().topic.point().committed()
    }

    /// The messages that the topic holds back from its channels.
    pub fn depth(&self) -> TopicDepth {
        let state = self.state.lock();
        let point = state.topic.point();
        let (released, committed, paused) = (point.released(), point.committed(), point.is_paused());
        let skipped: u64 = (self.log.marks().iter())
            .map(|mark| match *mark {
                Mark::Skipped { from, to } => to.min(committed).saturating_sub(from.max(released)),
                Mark::Deferred { .. } | Mark::Targeted { .. } | Mark::Adopted { .. } => 0,
            })
            .sum();
        TopicDepth {
            depth: (committed - released).saturating_sub(skipped),
            backend_depth: self.log.memory_start().min(committed).saturating_sub(released),
            paused,
        }
    }

    /// What was published so far.
    pub fn counters(&self) -> TopicCounters {
        TopicCounters {
            message_count: self.message_count.load(Ordering::Relaxed),
            message_bytes: self.message_bytes.load(Ordering::Relaxed),
        }
    }

    /// Records the topic and its channels in the journal again: their names, and the first messages that they need. If
    /// recovery already knows them, these records change nothing.
    pub fn record_names(&self) {
        let Some(journal) = self.engine.journal_for(self.name.is_ephemeral()) else { return };
        let mut state = self.state.lock();
        if self.is_closed() {
            return;
        }
        let durable = || state.topic.channels().values().filter(|channel| !channel.is_ephemeral());
        let needed = durable().map(|channel| channel.floor()).min();
        let released = state.topic.point().released();
        let first_sequence = needed.into_iter().chain([self.log.retained_from()]).fold(released, u64::min);
        journal.append_lazy(&Record::TopicCreated {
            topic: self.number,
            name: self.name.as_str(),
            first_sequence,
        });
        durable().for_each(|channel| channel.record_name());
        if !state.topic.own().is_empty() {
            self.record_settings(&state, None);
        }
        self.record_state(&mut state);
    }
}
