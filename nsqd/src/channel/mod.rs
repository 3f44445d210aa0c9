//! A channel: a read cursor into its topic's log, and the messages behind it that are not finished.
//!
//! [`ChannelState`] makes all decisions, under the channel's one lock. This module connects it to the topic's log, the
//! journal, the consumers' connections and the timers. Messages are never pushed into a queue per consumer: the channel
//! wakes a consumer, and the consumer *takes* messages.
//!
//! - [`state`]: pure; the state of messages and its transitions, with a diagram
//! - [`take`]: pure; handing out messages
//! - [`screening`]: pure; messages that are taken back before they are handed out
//! - [`moving`]: pure; moving the read cursor
//! - [`order`]: pure; which messages wait for others of their key; `ordering` hands messages out by it
//! - [`undoing`]: pure; what an empty or a move forward finished, and undoing it
//! - [`departures`]: pure; messages that leave otherwise than by a FIN
//! - [`policy_test`]: pure; what a policy would do with the messages
//! - [`rate`]: pure; how many messages may be handed out now; `throttling` applies it
//! - [`rejecting`]: pure; REJ
//! - [`rescheduling`]: pure; cancelling a message, or changing when it is handed out
//! - [`peeking`]: pure; looking at messages without changing anything
//! - [`fates`]: pure; why messages left recently, otherwise than by a FIN
//! - [`outstanding`], [`in_flight`], [`waiting`], [`due_times`], [`consumers`], [`runs`], [`skipped`]: pure; parts of the state.
//!   `number_map`: pure; a map by sequence number or hash
//! - [`intervening`]: cancels and reschedules messages, for operators and producers
//! - [`signal`]: wakes a consumer's connection, or skips the consumer while it is busy
//! - [`overflow`]: pure; how much the channel holds, and removing what exceeds its bound; [`gauge`]: pure; makes it readable
//!   without the lock
//! - `bounding`: what the channel does by its bound and without consumers
//! - `acknowledging`: a run of FIN, REQ, TOUCH and REJ under one lock
//! - [`leases`]: pure; messages that are leased to clients without a connection. `leasing`: takes and settles these
//! - `departing`: takes messages out of the channel, in one journal record with what becomes of them
//! - [`reading`]: reads messages from disk before consumers take them
//! - [`transfer`]: pure; messages that come from another node, or go there. `moving_out`: takes them out for a drain
//! - [`latency`]: pure; measures the time from publishing to FIN, if enabled
//! - [`saved`]: pure; saves the state to a checkpoint, and restores it
//! - [`replayed`]: pure; what recovery concludes from records about messages

mod acknowledging;
mod bounding;
pub mod consumers;
pub mod departures;
mod departing;
pub mod due_times;
pub mod fates;
pub mod gauge;
pub mod in_flight;
pub mod intervening;
pub mod latency;
pub mod leases;
mod leasing;
pub mod moving;
mod number_map;
pub mod order;
mod ordering;
pub mod outstanding;
pub mod overflow;
pub mod policy_test;
pub mod peeking;
pub mod rate;
pub mod reading;
pub mod rejecting;
pub mod replayed;
pub mod rescheduling;
pub mod runs;
pub mod saved;
pub mod screening;
pub mod signal;
pub mod skipped;
pub mod state;
pub mod take;
pub mod waiting;
mod moving_out;
mod throttling;
pub mod transfer;
pub mod undoing;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod topology_tests;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use nsq_protocol::{ChannelName, TopicName};
use parking_lot::{Mutex, MutexGuard};

pub use self::acknowledging::Acknowledging;
use self::bounding::OverflowReport;
pub use self::consumers::ConsumerKey;
pub use self::departing::ExhaustedChannels;
use self::gauge::Gauge;
use self::leasing::LeaseHolder;
pub use self::leasing::{HolderUse, Settling};
pub use self::reading::ReadRequest;
use self::reading::Reading;
use self::saved::{Clocks, CursorMoved, Saving};
pub use self::signal::ConsumerSignal;
use self::state::HeldBack;
pub use self::state::{AckError, ChannelState, Counters};
pub use self::take::TakeEnd;
pub use self::undoing::{LossKind, UndoError};
use crate::client_info::ClientInfo;
use crate::clock::{self, Nanos};
use crate::log::read_cache::ReadCache;
use crate::log::reader::LogReader;
use crate::log::{Holder, Mark, Ranges, TopicLog};
use crate::policy::effective::ChannelPolicy;
use crate::policy::setting::Setting;
use crate::policy::settings::{Change, Settings};
use crate::storage::checkpoint::ChannelCheckpoint;
use crate::storage::journal::Journal;
use crate::storage::record::Record;
use crate::storage::{ChannelNumber, SequenceRange, TopicNumber};
use crate::timers::{Expire, Timer, Timers};

/// Maximum number of messages put back under one lock. That many take about 100 microseconds.
const SLICE: usize = 1000;

struct Inner {
    state: ChannelState,
    cache: ReadCache,
    reading: Reading,
    signals: Vec<Option<(Arc<ConsumerSignal>, Arc<ClientInfo>)>>,
    /// Set to the next deadline or earlier.
    timer: Timer,
    closed: bool,
    /// The channel was added to [`ExhaustedChannels`].
    is_known_exhausted: bool,
    /// Follows how much the channel holds, if publishes are refused by that.
    gauge: Option<Arc<Gauge>>,
    overflow_report: OverflowReport,
    /// When it was reported last that messages cannot become dead letters.
    refused_reported_at: Option<Nanos>,
    /// When the last consumer left.
    idle_since: Nanos,
    /// Who paused it and when, if that was since the start.
    paused_by: Option<PauseNote>,
    /// Holds messages that are leased to clients without a connection.
    holder: Option<LeaseHolder>,
}

/// Who paused a topic or channel, and when. In memory only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PauseNote {
    /// Wall clock, nanoseconds.
    pub at_ns: i64,
    /// The address that the request came from; empty if nobody asked over HTTP.
    pub by: String,
}

impl PauseNote {
    /// A note of this moment, unless a pause ends.
    pub fn now(paused: bool, by: &str) -> Option<Self> {
        paused.then(|| PauseNote { at_ns: clock::wall_ns(), by: by.to_owned() })
    }
}

/// The arguments of [`Channel::new`].
pub struct ChannelParts {
    pub name: ChannelName,
    /// The channel's number in the journal and in checkpoints.
    pub number: ChannelNumber,
    pub topic: TopicName,
    pub topic_number: TopicNumber,
    pub log: Arc<TopicLog>,
    /// Records the channel's changes. `None` if the channel is never on disk.
    pub journal: Option<Arc<Journal>>,
    pub timers: Arc<Timers>,
    /// Where the channel adds itself when it has messages to dead-letter.
    pub exhausted: Arc<ExhaustedChannels>,
    /// Ephemeral channels, and all channels of ephemeral topics, drop messages beyond this depth.
    pub bound: Option<u64>,
}

/// A channel; see the module.
pub struct Channel {
    parts: ChannelParts,
    /// Copy of [`ChannelState::lowest_needed`], readable without the lock.
    floor: AtomicU64,
    inner: Mutex<Inner>,
    /// Set when the channel is deleted: it needs no messages any more.
    deleted: AtomicBool,
    this: Weak<Channel>,
}

/// The result of [`Channel::take`].
pub struct Taken {
    /// Number of messages put into the output.
    pub count: u64,
    /// Why the take ended.
    pub end: TakeEnd,
    /// A read to execute. With [`TakeEnd::OnDisk`], more messages can be taken only after a read; `None` then means
    /// that this read is already in progress. Otherwise the request is a read-ahead.
    pub request: Option<ReadRequest>,
    /// When the take ran.
    pub at: Nanos,
}

/// How to move a read cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CursorMove {
    pub to: u64,
    /// Forward: all messages before `to` are finished. Otherwise all messages from `to` on are handed out again.
    pub forward: bool,
}

/// The result of [`Channel::move_to`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Where the read cursor was put.
    pub to: u64,
    /// Messages that can be handed out now.
    pub depth: u64,
}

/// The result of [`Channel::undo`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undone {
    /// What was undone.
    pub kind: LossKind,
    /// When that happened, if it is known.
    pub at_ns: Option<i64>,
    /// Messages that came back.
    pub count: u64,
    /// Messages that are no longer retained.
    pub lost: u64,
    /// Messages that can be handed out now.
    pub depth: u64,
}

/// The channel is closed: it was deleted, or nsqd is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelClosed;

impl Channel {
    /// Creates a channel with a new or recovered state, and adds it to the holders of the log.
    pub fn new(parts: ChannelParts, state: ChannelState) -> Arc<Self> {
        let deadline = state.next_deadline();
        let channel = Arc::new_cyclic(|this: &Weak<Channel>| Channel {
            floor: AtomicU64::new(state.lowest_needed()),
            inner: Mutex::new(Inner {
                state,
                cache: ReadCache::default(),
                reading: Reading::default(),
                signals: Vec::new(),
                timer: parts.timers.timer(this.clone()),
                closed: false,
                is_known_exhausted: false,
                gauge: None,
                overflow_report: OverflowReport::default(),
                refused_reported_at: None,
                idle_since: clock::monotonic(),
                paused_by: None,
                holder: None,
            }),
            deleted: AtomicBool::new(false),
            this: this.clone(),
            parts,
        });
        let holder: Arc<dyn Holder> = channel.clone();
        channel.parts.log.add_holder(&holder);
        let mut inner = channel.inner.lock();
        inner.schedule(deadline);
        channel.after_change(inner);
        channel
    }

    /// The log of the channel's topic.
    pub fn log(&self) -> &TopicLog {
        &self.parts.log
    }

    pub fn name(&self) -> &ChannelName {
        &self.parts.name
    }

    pub fn number(&self) -> ChannelNumber {
        self.parts.number
    }

    /// Whether the channel is ephemeral: never on disk, and deleted with its last consumer.
    pub fn is_ephemeral(&self) -> bool {
        self.parts.name.is_ephemeral()
    }

    /// Adds the messages before `to`, which the topic has released.
    pub fn release(&self, to: u64, marks: &[Mark]) {
        let mut inner = self.inner.lock();
        // No bound if the topic retains messages: the log keeps them for ephemeral channels too.
        let bound = self.parts.bound.filter(|_| !self.parts.log.is_retaining());
        inner.state.release(to, marks, bound);
        if !marks.is_empty() {
            inner.schedule_next();
        }
        self.after_change(inner);
    }

    /// Adds a consumer with RDY 0. `limit` is the maximum number of consumers (0: no limit). Returns `Ok(None)` at the
    /// limit.
    pub fn subscribe(
        &self,
        info: Arc<ClientInfo>,
        message_timeout: Nanos,
        sample_rate: u8,
        limit: usize,
    ) -> Result<Option<(ConsumerKey, Arc<ConsumerSignal>)>, ChannelClosed> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(ChannelClosed);
        }
        if limit > 0 && inner.client_count() >= limit {
            return Ok(None);
        }
        let locality = info.locality().unwrap_or_default();
        let key = inner.state.add_consumer(message_timeout, sample_rate, locality);
        let signal = Arc::new(ConsumerSignal::default());
        inner.set_signal(key, signal.clone(), info);
        Ok(Some((key, signal)))
    }

    /// Removes a consumer and puts its messages in flight back at once. Returns whether it was the last consumer.
    pub fn unsubscribe(&self, key: ConsumerKey) -> bool {
        loop {
            let mut inner = self.inner.lock();
            let is_removed = inner.state.remove_consumer(key, SLICE);
            inner.holder.take_if(|holder| is_removed && holder.is(key));
            if is_removed && let Some(signal) = inner.signals.get_mut(key as usize) {
                *signal = None;
            }
            let last = inner.state.consumers().is_empty();
            if last {
                inner.idle_since = clock::monotonic();
            }
            self.after_change(inner);
            if is_removed {
                return last;
            }
        }
    }

    /// Wakes the next consumer instead of this one, which was called but is busy. This one takes by itself when it is
    /// back.
    pub fn pass_on(&self, key: ConsumerKey) {
        let mut inner = self.inner.lock();
        inner.state.pass_on(key);
        self.after_change(inner);
    }

    /// RDY: sets how many messages may be in flight to the consumer.
    pub fn set_ready_count(&self, key: ConsumerKey, ready_count: u64) {
        let mut inner = self.inner.lock();
        inner.state.set_ready_count(key, ready_count);
        self.after_change(inner);
    }

    /// CLS: the consumer takes no more messages and keeps those in flight.
    pub fn close_consumer(&self, key: ConsumerKey) {
        let mut inner = self.inner.lock();
        inner.state.close_consumer(key);
        self.after_change(inner);
    }

    /// Appends the consumer's share of the available messages to `out`, at most about `room` bytes.
    pub fn take(&self, key: ConsumerKey, out: &mut Vec<u8>, room: usize) -> Taken {
        let now = clock::monotonic();
        let mut guard = self.inner.lock();
        let taken = self.take_from(&mut guard, key, now, out, room);
        self.after_change(guard);
        taken
    }

    #[inline(always)]
    fn take_from(
        &self,
        inner: &mut Inner,
        key: ConsumerKey,
        now: Nanos,
        out: &mut Vec<u8>,
        room: usize,
    ) -> Taken {
        if inner.state.ttl() > 0 {
            inner.state.expire_before(self.parts.log.expired_before(now, inner.state.ttl()));
        }
        let mut reader = LogReader::new(&self.parts.log, &mut inner.cache, out, room);
        let (count, end) = inner.state.take(key, now, &mut reader);
        let missing = reader.missing();
        let request = self.read_request(inner, missing, now);
        if count > 0 || inner.state.is_throttled() {
            inner.schedule_next();
        }
        Taken { count, end, request, at: now }
    }

    /// How long messages are delivered after they were published; 0 for no limit.
    pub fn ttl(&self) -> Nanos {
        self.inner.lock().state.ttl()
    }

    /// Removes messages that are too old at `now`.
    pub fn expire_old(&self, now: Nanos) {
        let mut inner = self.inner.lock();
        let ttl = inner.state.ttl();
        if ttl > 0 {
            inner.state.expire_before(self.parts.log.expired_before(now, ttl));
            inner.state.expire_waiting(now);
            self.after_change(inner);
        }
    }

    /// Drops all messages.
    pub fn empty(&self) {
        self.empty_locked(self.inner.lock());
    }

    fn empty_locked(&self, mut inner: MutexGuard<'_, Inner>) {
        if self.parts.log.is_retaining() {
            let end = inner.state.end();
            inner.state.note_loss(LossKind::Emptied, end, Some(clock::wall_ns()));
        }
        let emptied = inner.state.empty();
        self.record(&Record::ChannelEmptied {
            topic: self.parts.topic_number,
            channel: self.parts.number,
            up_to: inner.state.cursor(),
        });
        // Consumers at their RDY count have room again. Wake them so that they park.
        inner.signals.iter().flatten().for_each(|(signal, _)| signal.call_and_wake());
        self.after_change(inner);
        drop(emptied);
    }

    /// Moves the read cursor. `choose` gets the messages that are ahead: their range starts at the cursor.
    pub fn move_to<E>(
        &self,
        choose: impl FnOnce(SequenceRange) -> Result<CursorMove, E>,
    ) -> Result<Moved, E> {
        let mut inner = self.inner.lock();
        let CursorMove { to, forward } = choose(SequenceRange::new(inner.state.cursor(), inner.state.end()))?;
        if forward {
            if self.parts.log.is_retaining() {
                inner.state.note_loss(LossKind::MovedForward, to, Some(clock::wall_ns()));
            }
            inner.state.move_forward(to);
        } else {
            self.forget_transfer(&mut inner.state);
            let marks = self.parts.log.marks_between(to, inner.state.end(), Some(self.parts.number));
            inner.state.move_back(to, &marks);
        }
        self.record(&Record::ChannelMoved {
            topic: self.parts.topic_number,
            channel: self.parts.number,
            to,
            forward,
        });
        inner.schedule_next();
        let moved = Moved { to, depth: inner.state.depth() };
        self.after_change(inner);
        Ok(moved)
    }

    /// What [`Channel::move_to`] would return. Changes nothing.
    pub fn plan_move<E>(
        &self,
        choose: impl FnOnce(SequenceRange) -> Result<CursorMove, E>,
    ) -> Result<Moved, E> {
        let inner = self.inner.lock();
        let end = inner.state.end();
        let CursorMove { to, forward } = choose(SequenceRange::new(inner.state.cursor(), end))?;
        let marks = match forward {
            true => Vec::new(),
            false => self.parts.log.marks_between(to, end, Some(self.parts.number)),
        };
        Ok(Moved { to, depth: inner.state.depth_after_move(to, forward, &marks) })
    }

    /// Undoes the last empty or move forward: exactly the messages come back that were not finished then. With
    /// `is_partial`, only those that are still retained. With `is_dry_run`, changes nothing.
    pub fn undo(&self, is_partial: bool, is_dry_run: bool) -> Result<Undone, UndoError> {
        let mut inner = self.inner.lock();
        let Some(loss) = inner.state.loss() else { return Err(UndoError::NothingToUndo) };
        if !self.parts.log.is_retaining() {
            return Err(UndoError::NothingRetained);
        }
        let retained = loss.retained_from(self.parts.log.oldest_retained(), is_partial)?;
        let (kind, at_ns, cursor) = (loss.kind, loss.at_ns, inner.state.cursor());
        if !is_dry_run {
            let runs = retained.runs.as_slice();
            let (low, end) = (runs[0].from, runs[runs.len() - 1].to);
            let marks = self.parts.log.marks_between(low, end, Some(self.parts.number));
            self.forget_transfer(&mut inner.state);
            inner.state.undo(runs, &marks);
            self.record(&Record::ChannelUndone {
                topic: self.parts.topic_number,
                channel: self.parts.number,
                cursor,
                runs: runs.into(),
            });
            inner.schedule_next();
        }
        let undone = Undone {
            kind,
            at_ns,
            count: retained.count,
            lost: retained.lost,
            depth: inner.state.depth() + if is_dry_run { retained.count } else { 0 },
        };
        self.after_change(inner);
        Ok(undone)
    }

    /// Forgets what cannot be undone any more, because no message of it is retained.
    pub fn forget_loss_before(&self, oldest: u64) {
        let mut inner = self.inner.lock();
        if inner.state.loss().is_some() {
            inner.state.forget_loss_before(oldest);
        }
    }

    /// Skips the messages that are ahead of the cursor and before `sequence`.
    pub fn skip_to(&self, sequence: u64) {
        let mut inner = self.inner.lock();
        inner.state.skip_to(sequence);
        self.after_change(inner);
    }

    /// Pauses or resumes hand-out.
    pub fn set_paused(&self, paused: bool) {
        self.set_paused_by(paused, "");
    }

    /// Pauses or resumes hand-out, as somebody at this address asked.
    pub fn set_paused_by(&self, paused: bool, by: &str) {
        let mut inner = self.inner.lock();
        // A second pause does not change who paused it.
        if !paused || !inner.state.is_paused() {
            inner.paused_by = PauseNote::now(paused, by);
        }
        inner.state.set_paused(paused);
        self.record(&Record::ChannelPaused {
            topic: self.parts.topic_number,
            channel: self.parts.number,
            paused,
        });
        self.after_change(inner);
    }

    /// Closes the channel because it is deleted or nsqd stops: its consumers' connections end, and it accepts no new
    /// consumers.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.signals.iter().flatten().for_each(|(signal, _)| signal.close());
    }

    /// Closes a deleted channel like [`Channel::close`], and frees its state at once. It does not wait for the
    /// consumers' connections to end.
    pub fn discard(&self) {
        self.close();
        self.deleted.store(true, Ordering::Release);
        let mut inner = self.inner.lock();
        let emptied = inner.state.empty();
        inner.cache = ReadCache::default();
        drop(inner);
        drop(emptied);
    }

    /// Runs `read` on the state and the consumers' connections, for statistics.
    pub fn inspect<T>(&self, read: impl FnOnce(&ChannelState, Infos<'_>) -> T) -> T {
        let inner = self.inner.lock();
        read(&inner.state, Infos(&inner.signals))
    }

    /// Who paused the channel, if it is paused and that was since the start.
    pub fn paused_by(&self) -> Option<PauseNote> {
        self.inner.lock().paused_by.clone()
    }

    /// Starts saving the channel for a checkpoint.
    pub fn begin_saving(&self, clocks: Clocks) -> Saving {
        self.inner.lock().state.begin_saving(clocks)
    }

    /// Completes the save, without the channel's name and number, in slices of about `slice` messages. After each slice
    /// it releases the lock to waiting threads and calls `between`.
    pub fn save(
        &self,
        mut saving: Saving,
        slice: usize,
        between: &mut dyn FnMut(),
    ) -> Result<ChannelCheckpoint, CursorMoved> {
        loop {
            let inner = self.inner.lock();
            let has_more = saving.save_slice(&inner.state, slice)?;
            MutexGuard::unlock_fair(inner);
            if !has_more {
                return Ok(saving.complete());
            }
            between();
        }
    }

    /// Starts measuring the time from publishing to FIN, over windows of this length.
    pub fn measure_latencies(&self, window: Nanos) {
        self.inner.lock().state.measure_latencies(window);
    }

    /// Records the channel's name, its oldest needed message and its pause in the journal again.
    pub fn record_name(&self) {
        let inner = self.inner.lock();
        let (topic, channel) = (self.parts.topic_number, self.parts.number);
        let cursor = inner.state.lowest_needed();
        self.record(&Record::ChannelCreated { topic, channel, name: self.parts.name.as_str(), cursor });
        if inner.state.is_paused() {
            self.record(&Record::ChannelPaused { topic, channel, paused: true });
        }
        if !inner.state.own_settings().is_empty() {
            self.record_settings(&inner.state);
        }
    }

    /// Records the messages that timed out and are held back by the retry schedule, so that they stay so after a
    /// restart.
    fn record_held_back(&self, state: &mut ChannelState) {
        let held_back = state.drain_held_back();
        if held_back.is_empty() {
            return;
        }
        let Some(journal) = &self.parts.journal else { return };
        let clocks = Clocks { monotonic: clock::monotonic(), wall_ns: clock::wall_ns() };
        let requeue = |HeldBack { sequence, attempts, failures, due }| Record::Requeue {
            topic: self.parts.topic_number,
            channel: self.parts.number,
            sequence,
            attempts,
            failures,
            due_ns: due.map_or(0, |due| clocks.to_wall(due)),
        };
        journal.append_lazy_batch(&held_back.into_iter().map(requeue).collect::<Vec<_>>());
    }

    /// The settings that the channel has of its own.
    pub fn own_settings(&self) -> Settings {
        self.inner.lock().state.own_settings().clone()
    }

    /// Changes the channel's own settings. `policy` returns what follows from them.
    pub fn change_settings(&self, change: &Change, policy: impl FnOnce(&Settings) -> ChannelPolicy) {
        let mut inner = self.inner.lock();
        let mut own = inner.state.own_settings().clone();
        own.apply(change);
        inner.state.set_policy(policy(&own), clock::monotonic());
        inner.state.set_own_settings(own);
        self.record_settings(&inner.state);
        self.after_change(inner);
    }

    /// Applies changed policies. `policy` returns what follows from them and from the channel's own settings.
    pub fn apply_policy(&self, policy: impl FnOnce(&Settings) -> ChannelPolicy) {
        let mut inner = self.inner.lock();
        let policy = policy(inner.state.own_settings());
        inner.state.set_policy(policy, clock::monotonic());
        self.after_change(inner);
    }

    /// Messages are handed out again. A later drain must not take them for those that it moved before.
    fn forget_transfer(&self, state: &mut ChannelState) {
        if state.own_settings().get(Setting::MovingTo).is_some() {
            let mut own = state.own_settings().clone();
            own.apply(&Change::removing(Setting::MovingTo));
            state.set_own_settings(own);
            self.record_settings(state);
        }
    }

    fn record_settings(&self, state: &ChannelState) {
        self.record(&Record::ChannelSettings {
            topic: self.parts.topic_number,
            channel: self.parts.number,
            settings: &state.own_settings().to_string(),
        });
    }

    fn record(&self, record: &Record<'_>) {
        if let Some(journal) = &self.parts.journal {
            journal.append_lazy(record);
        }
    }

    /// Ends every change: removes messages beyond the bound, records finished messages in the journal, frees memory below
    /// the floor, and wakes one parked consumer that can take at once, if messages are available. That consumer's take wakes
    /// the next one, if it leaves messages.
    fn after_change(&self, mut guard: MutexGuard<'_, Inner>) {
        let inner = &mut *guard;
        self.shed(inner);
        let signal = inner.call_next();
        let mut trim = false;
        if let Some(runs) = inner.state.drain_finished() {
            let runs: Vec<SequenceRange> = runs.iter().collect();
            self.record(&Record::Finish {
                topic: self.parts.topic_number,
                channel: self.parts.number,
                runs: runs.as_slice().into(),
            });
        }
        if let Some(runs) = inner.state.drain_removed() {
            let runs: Vec<SequenceRange> = runs.iter().collect();
            self.record(&Record::Removed {
                topic: self.parts.topic_number,
                channel: self.parts.number,
                runs: runs.as_slice().into(),
            });
        }
        let floor = inner.state.lowest_needed();
        if floor != self.floor.load(Ordering::Relaxed) {
            self.floor.store(floor, Ordering::Release);
            inner.cache.trim(floor);
            trim = self.parts.log.worth_trimming(floor);
        }
        self.update_gauge(inner);
        let is_newly_exhausted = !inner.is_known_exhausted && inner.state.exhausted_count() > 0;
        inner.is_known_exhausted |= is_newly_exhausted;
        drop(guard);
        if is_newly_exhausted && let Some(channel) = self.this.upgrade() {
            self.parts.exhausted.push(channel);
        }
        if let Some(signal) = signal {
            signal.wake();
        }
        if trim {
            self.parts.log.trim();
        }
    }
}

/// The connections of a channel's consumers.
#[derive(Clone, Copy)]
pub struct Infos<'a>(&'a [Option<(Arc<ConsumerSignal>, Arc<ClientInfo>)>]);

impl<'a> Infos<'a> {
    pub fn iter(self) -> impl Iterator<Item = (ConsumerKey, &'a Arc<ClientInfo>)> {
        self.0.iter().enumerate().filter_map(|(key, signal)| Some((key as ConsumerKey, &signal.as_ref()?.1)))
    }

    /// Whether the connection of a consumer waits for one thing only, and so cannot take.
    pub fn is_away(self, key: ConsumerKey) -> bool {
        let signal = self.0.get(key as usize).and_then(Option::as_ref);
        signal.is_some_and(|(signal, _)| signal.is_away())
    }
}

impl Inner {
    /// Calls parked consumers in turn until one can take at once. Returns its signal, which the caller must wake.
    /// Consumers that are away are called too: they take when they are back.
    fn call_next(&mut self) -> Option<Arc<ConsumerSignal>> {
        while let Some(key) = self.state.wake_next() {
            match self.signals.get(key as usize) {
                Some(Some((signal, _))) if signal.call() => return Some(signal.clone()),
                _ => self.state.pass_on(key),
            }
        }
        None
    }

    fn set_signal(&mut self, key: ConsumerKey, signal: Arc<ConsumerSignal>, info: Arc<ClientInfo>) {
        if self.signals.len() <= key as usize {
            self.signals.resize_with(key as usize + 1, || None);
        }
        self.signals[key as usize] = Some((signal, info));
    }

    fn schedule_next(&mut self) {
        let deadline = self.state.next_deadline();
        self.schedule(deadline);
    }

    fn schedule(&mut self, deadline: Option<Nanos>) {
        if let Some(deadline) = deadline {
            self.timer.set_at_latest(deadline);
        }
    }
}

impl Holder for Channel {
    fn floor(&self) -> u64 {
        if self.deleted.load(Ordering::Acquire) { u64::MAX } else { self.floor.load(Ordering::Acquire) }
    }

    fn ahead_from(&self) -> u64 {
        if self.deleted.load(Ordering::Acquire) { u64::MAX } else { self.inner.lock().state.cursor() }
    }

    fn needed(&self, from: u64, to: u64) -> Ranges {
        match self.deleted.load(Ordering::Acquire) {
            true => Ranges::new(),
            false => self.inner.lock().state.needed(from, to, usize::MAX),
        }
    }

    fn needs_any(&self, from: u64, to: u64) -> bool {
        !self.deleted.load(Ordering::Acquire) && self.inner.lock().state.needs_any(from, to)
    }

    fn is_ephemeral(&self) -> bool {
        self.parts.name.is_ephemeral()
    }

    fn dropped(&self, ranges: &[SequenceRange]) {
        let mut inner = self.inner.lock();
        inner.state.drop_messages(ranges);
        let floor = inner.state.lowest_needed();
        self.floor.store(floor, Ordering::Release);
    }
}

impl Expire for Channel {
    fn expire(&self, now: Nanos) {
        let mut inner = self.inner.lock();
        inner.state.set_has_own_ttls(self.parts.log.may_have_own_ttls());
        let owners = inner.state.expire(now, SLICE);
        self.record_held_back(&mut inner.state);
        for key in owners {
            // The owner has room again. It may be the only consumer that can take the timed-out messages.
            if let Some(Some((signal, _))) = inner.signals.get(key as usize) {
                signal.call_and_wake();
            }
        }
        let reading = self.expire_reading(&mut inner, now);
        // Messages beyond the slice are due now, but after the work of other timers.
        let next = inner.state.next_deadline().map(|deadline| deadline.max(now));
        inner.timer.set(next.into_iter().chain(reading).min());
        self.after_change(inner);
    }
}
