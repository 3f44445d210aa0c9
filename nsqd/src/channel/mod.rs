//! A channel: a read cursor into its topic's log, and the messages behind it that are not finished.
//!
//! [`ChannelState`] decides, under the channel's one lock; this door adds what a decision needs from outside: the log
//! to copy from, the journal to remember acknowledgements in, the consumers to wake, the timer to be woken by.
//! A consumer never gets messages pushed into a queue: it is woken, and *takes*.
//!
//! - [`state`]: pure; every transition of a message, with a picture
//! - [`take`]: pure; handing them out
//! - [`moving`]: pure; moving the read cursor
//! - [`outstanding`], [`in_flight`], [`consumers`], [`runs`]: pure; its parts
//! - [`latency`]: pure; from publishing to FIN, if that is measured
//! - [`saved`]: pure; to and from a checkpoint, and replaying the journal

pub mod consumers;
pub mod in_flight;
pub mod latency;
pub mod moving;
pub mod outstanding;
pub mod runs;
pub mod saved;
pub mod state;
pub mod take;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod topology_tests;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use nsq_protocol::ChannelName;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

pub use self::consumers::ConsumerKey;
use self::saved::Clocks;
pub use self::state::{AckError, ChannelState, Counters, Mark};
pub use self::take::{Source, Supply, TakeEnd};
use crate::client_info::ClientInfo;
use crate::clock::{self, Nanos};
use crate::log::chunk::Chunk;
use crate::log::reader::{BlockCache, BlockRequest, LogReader};
use crate::log::{Holder, TopicLog};
use crate::storage::journal::Journal;
use crate::storage::record::Record;
use crate::storage::segment::ReadError;
use crate::storage::{ChannelNumber, TopicNumber};
use crate::timers::{Expire, Timers};

/// After the disk could not be read, this long passes before it is tried again, twice as long each time it fails.
const FIRST_READ_RETRY: Nanos = 100_000_000;
/// But never longer than this.
const LAST_READ_RETRY: Nanos = 5_000_000_000;

/// How a channel reaches one consumer's connection.
#[derive(Debug, Default)]
pub struct ConsumerSignal {
    /// There may be something to take, or `closed` was set.
    pub wake: Notify,
    /// The channel is gone: the connection must end.
    pub closed: AtomicBool,
}

struct Inner {
    state: ChannelState,
    cache: BlockCache,
    signals: Vec<Option<(Arc<ConsumerSignal>, Arc<ClientInfo>)>>,
    /// The earliest wake-up asked of the timers and not come yet.
    scheduled: Nanos,
    /// The disk could not be read: when it is tried again, and how long was waited for that.
    retry: Option<(Nanos, Nanos)>,
    closed: bool,
}

/// What a channel is made with.
pub struct ChannelParts {
    /// Its name.
    pub name: ChannelName,
    /// Its number in journal and checkpoint.
    pub number: ChannelNumber,
    /// Its topic's number.
    pub topic_number: TopicNumber,
    /// Its topic's messages.
    pub log: Arc<TopicLog>,
    /// Where acknowledgements are remembered; none for what is never on disk.
    pub journal: Option<Arc<Journal>>,
    /// Who wakes it at deadlines.
    pub timers: Arc<Timers>,
    /// Ephemeral channels drop what exceeds this depth.
    pub bound: Option<u64>,
}

/// See the module.
pub struct Channel {
    parts: ChannelParts,
    /// A copy of the oldest number that the state needs.
    floor: AtomicU64,
    inner: Mutex<Inner>,
    this: Weak<Channel>,
}

/// What came of [`Channel::take`].
pub struct Taken {
    /// Messages put into the output.
    pub count: u64,
    /// Why no more.
    pub end: TakeEnd,
    /// With [`TakeEnd::OnDisk`]: what to load before taking again.
    pub request: Option<BlockRequest>,
    /// When it was.
    pub at: Nanos,
}

/// What came of [`Channel::move_to`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Where the read cursor was put.
    pub to: u64,
    /// Messages that can be handed out now.
    pub depth: u64,
}

/// The channel was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelClosed;

impl Channel {
    /// A channel with a state of its own (new or recovered).
    pub fn new(parts: ChannelParts, state: ChannelState) -> Arc<Self> {
        let deadline = state.next_deadline();
        let channel = Arc::new_cyclic(|this| Channel {
            parts,
            floor: AtomicU64::new(state.lowest_needed()),
            inner: Mutex::new(Inner {
                state,
                cache: BlockCache::default(),
                signals: Vec::new(),
                scheduled: Nanos::MAX,
                retry: None,
                closed: false,
            }),
            this: this.clone(),
        });
        let holder: Weak<Channel> = Arc::downgrade(&channel);
        channel.parts.log.add_holder(holder);
        channel.schedule(&mut channel.inner.lock(), deadline);
        channel
    }

    /// Its name.
    pub fn name(&self) -> &ChannelName {
        &self.parts.name
    }

    /// Its number in journal and checkpoint.
    pub fn number(&self) -> ChannelNumber {
        self.parts.number
    }

    /// Whether it goes with its last consumer and is never on disk.
    pub fn is_ephemeral(&self) -> bool {
        self.parts.name.is_ephemeral()
    }

    /// The topic has released its messages up to `to`.
    pub fn release(&self, to: u64, marks: &[Mark]) {
        let mut inner = self.inner.lock();
        // What the topic keeps is there for ephemeral channels, too.
        let bound = self.parts.bound.filter(|_| !self.parts.log.is_retaining());
        inner.state.release(to, marks, bound);
        if !marks.is_empty() {
            let deadline = inner.state.next_deadline();
            self.schedule(&mut inner, deadline);
        }
        self.settle(inner);
    }

    /// A consumer subscribes, with RDY 0. `limit` (0: none) bounds how many there may be; the error is `Ok(false)`
    /// turned around: `Ok(None)` when the limit is reached.
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
        if limit > 0 && inner.state.consumers().len() >= limit {
            return Ok(None);
        }
        let locality = info.locality().unwrap_or_default();
        let key = inner.state.add_consumer(message_timeout, sample_rate, locality);
        let signal = Arc::new(ConsumerSignal::default());
        if inner.signals.len() <= key as usize {
            inner.signals.resize_with(key as usize + 1, || None);
        }
        inner.signals[key as usize] = Some((signal.clone(), info));
        Ok(Some((key, signal)))
    }

    /// A consumer leaves; what it had in flight is handed out again at once. Returns whether it was the last one.
    pub fn unsubscribe(&self, key: ConsumerKey) -> bool {
        let mut inner = self.inner.lock();
        inner.state.remove_consumer(key);
        if let Some(signal) = inner.signals.get_mut(key as usize) {
            *signal = None;
        }
        let last = inner.state.consumers().is_empty();
        self.settle(inner);
        last
    }

    /// RDY.
    pub fn set_ready(&self, key: ConsumerKey, ready_count: u64) {
        let mut inner = self.inner.lock();
        inner.state.set_ready(key, ready_count);
        self.settle(inner);
    }

    /// CLS: the consumer takes no more, keeps what it has.
    pub fn close_consumer(&self, key: ConsumerKey) {
        let mut inner = self.inner.lock();
        inner.state.close_consumer(key);
        self.settle(inner);
    }

    /// Puts a share of what there is into `out`, about `room` bytes at most.
    pub fn take(&self, key: ConsumerKey, out: &mut Vec<u8>, room: usize) -> Taken {
        let now = clock::monotonic();
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let mut reader = LogReader::new(&self.parts.log, &mut inner.cache, out, room);
        let (count, end) = inner.state.take(key, now, &mut reader);
        let request = reader.request();
        if count > 0 {
            let deadline = inner.state.next_deadline_of(key);
            self.schedule(inner, deadline);
        }
        self.settle(guard);
        Taken { count, end, request, at: now }
    }

    /// What [`Taken::request`] asked for was read, or not. A damaged block is given up. If the system could not read
    /// it, nothing is handed out for a while, and then it is tried again.
    pub fn loaded(&self, request: &BlockRequest, result: Result<Chunk, ReadError>) {
        match result {
            Ok(chunk) => {
                self.parts.log.read_worked();
                let mut inner = self.inner.lock();
                inner.cache.put(request, chunk);
                inner.retry = None;
            }
            Err(error) => {
                self.parts.log.read_failed(&request.block, &error);
                if matches!(error, ReadError::Io { .. }) {
                    self.suspend();
                }
            }
        }
    }

    fn suspend(&self) {
        let mut inner = self.inner.lock();
        let waited = inner.retry.map_or(0, |(_, waited)| waited);
        let wait = waited.saturating_mul(2).clamp(FIRST_READ_RETRY, LAST_READ_RETRY);
        let at = clock::monotonic().saturating_add(wait);
        inner.retry = Some((at, wait));
        inner.state.set_suspended(true);
        self.schedule(&mut inner, Some(at));
    }

    /// Begins a run of FIN, REQ and TOUCH by one consumer; what follows from them happens once, when the run ends.
    pub fn acknowledge(&self, key: ConsumerKey) -> Acknowledging<'_> {
        let monotonic = clock::monotonic();
        let now = Clocks { monotonic, wall_ns: clock::wall_at(monotonic) };
        Acknowledging { channel: self, key, now, inner: Some(self.inner.lock()) }
    }

    /// Drops all messages.
    pub fn empty(&self) {
        let mut inner = self.inner.lock();
        inner.state.empty();
        self.record(&Record::ChannelEmptied {
            topic: self.parts.topic_number,
            channel: self.parts.number,
            up_to: inner.state.cursor(),
        });
        // Consumers that were full have room again: let them park.
        for (signal, _) in inner.signals.iter().flatten() {
            signal.wake.notify_one();
        }
        self.settle(inner);
    }

    /// Moves the read cursor to where `choose` says, and forward or back as it says; it is told cursor and end.
    pub fn move_to<E>(&self, choose: impl FnOnce(u64, u64) -> Result<(u64, bool), E>) -> Result<Moved, E> {
        let mut inner = self.inner.lock();
        let (to, forward) = choose(inner.state.cursor(), inner.state.end())?;
        if forward {
            inner.state.move_forward(to);
        } else {
            let marks = self.parts.log.marks_between(to, inner.state.end());
            inner.state.move_back(to, &marks);
        }
        self.record(&Record::ChannelMoved {
            topic: self.parts.topic_number,
            channel: self.parts.number,
            to,
            forward,
        });
        let deadline = inner.state.next_deadline();
        self.schedule(&mut inner, deadline);
        let moved = Moved { to, depth: inner.state.depth() };
        self.settle(inner);
        Ok(moved)
    }

    /// Does without what lies ahead and before `sequence`.
    pub fn skip_to(&self, sequence: u64) {
        let mut inner = self.inner.lock();
        inner.state.skip_to(sequence);
        self.settle(inner);
    }

    /// Stops or resumes handing out.
    pub fn set_paused(&self, paused: bool) {
        let mut inner = self.inner.lock();
        inner.state.set_paused(paused);
        self.record(&Record::ChannelPaused {
            topic: self.parts.topic_number,
            channel: self.parts.number,
            paused,
        });
        self.settle(inner);
    }

    /// The channel is deleted (or the daemon stops): its consumers' connections end, and it takes no new ones.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        for (signal, _) in inner.signals.iter().flatten() {
            signal.closed.store(true, Ordering::Release);
            signal.wake.notify_one();
        }
    }

    /// Runs `look` on the state and the consumers' connections, for statistics and checkpoints.
    pub fn inspect<T>(&self, look: impl FnOnce(&ChannelState, &[(ConsumerKey, Arc<ClientInfo>)]) -> T) -> T {
        let inner = self.inner.lock();
        let infos: Vec<_> = (inner.signals.iter().enumerate())
            .filter_map(|(key, signal)| Some((key as ConsumerKey, signal.as_ref()?.1.clone())))
            .collect();
        look(&inner.state, &infos)
    }

    /// From now on it is measured how long messages take from publishing to FIN, over windows of this length.
    pub fn measure_latencies(&self, window: Nanos) {
        self.inner.lock().state.measure_latencies(window);
    }

    /// Tells the journal once more that this channel exists, and that it needs nothing before its floor.
    pub fn record_name(&self) {
        let inner = self.inner.lock();
        let (topic, channel) = (self.parts.topic_number, self.parts.number);
        let cursor = inner.state.lowest_needed();
        self.record(&Record::ChannelCreated { topic, channel, name: self.parts.name.as_str(), cursor });
        if inner.state.is_paused() {
            self.record(&Record::ChannelPaused { topic, channel, paused: true });
        }
    }

    fn record(&self, record: &Record<'_>) {
        if let Some(journal) = &self.parts.journal {
            journal.append_lazy(record);
        }
    }

    /// After any change: the journal learns what was finished, memory below the floor is freed, and one parked
    /// consumer is woken if there is something for it (it wakes the next, if it leaves some).
    fn settle(&self, mut guard: MutexGuard<'_, Inner>) {
        let inner = &mut *guard;
        let woken = inner.state.wake_next();
        let signal =
            woken.and_then(|key| inner.signals.get(key as usize)?.as_ref()).map(|(signal, _)| signal.clone());
        let mut trim = false;
        if let Some(runs) = inner.state.drain_finished() {
            let runs: Vec<(u64, u64)> = runs.iter().map(|(from, to)| (from, to - from)).collect();
            self.record(&Record::Finish {
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
        drop(guard);
        if let Some(signal) = signal {
            signal.wake.notify_one();
        }
        if trim {
            self.parts.log.trim();
        }
    }

    fn schedule(&self, inner: &mut Inner, deadline: Option<Nanos>) {
        if let Some(deadline) = deadline
            && deadline < inner.scheduled
        {
            inner.scheduled = deadline;
            let this: Weak<Channel> = self.this.clone();
            self.parts.timers.schedule(deadline, this);
        }
    }
}

impl Holder for Channel {
    fn floor(&self) -> u64 {
        self.floor.load(Ordering::Acquire)
    }

    fn needed(&self, from: u64, to: u64, limit: usize) -> Vec<u64> {
        self.inner.lock().state.needed(from, to, limit)
    }
}

impl Expire for Channel {
    fn expire(&self, now: Nanos) {
        let mut inner = self.inner.lock();
        let owners = inner.state.expire(now);
        for key in owners {
            // The owner has room again, and may be the only one who can take what timed out.
            if let Some(Some((signal, _))) = inner.signals.get(key as usize) {
                signal.wake.notify_one();
            }
        }
        // A later wake-up may be on its way from before an earlier one was asked for; one too many does no harm.
        inner.scheduled = Nanos::MAX;
        let retry = inner.retry.map(|(at, _)| at);
        if retry.is_some_and(|at| at <= now) {
            inner.state.set_suspended(false);
        }
        let deadline = inner.state.next_deadline().into_iter().chain(retry.filter(|at| *at > now)).min();
        self.schedule(&mut inner, deadline);
        self.settle(inner);
    }
}

/// A run of acknowledgements by one consumer, under the channel's lock. Ends when dropped.
pub struct Acknowledging<'a> {
    channel: &'a Channel,
    key: ConsumerKey,
    now: Clocks,
    inner: Option<MutexGuard<'a, Inner>>,
}

impl Acknowledging<'_> {
    /// FIN.
    pub fn finish(&mut self, sequence: u64) -> Result<(), AckError> {
        let (key, now) = (self.key, self.now);
        self.state().finish(key, sequence, now)
    }

    /// REQ, at once or after a delay.
    pub fn requeue(&mut self, sequence: u64, delay: Nanos) -> Result<(), AckError> {
        let (key, now) = (self.key, self.now.monotonic);
        if let Some(attempts) = self.state().requeue(key, sequence, delay, now)? {
            self.channel.record(&Record::Requeue {
                topic: self.channel.parts.topic_number,
                channel: self.channel.parts.number,
                sequence,
                attempts,
                due_ns: if delay == 0 { 0 } else { clock::wall_ns().saturating_add_unsigned(delay) },
            });
        }
        if delay > 0
            && let Some(inner) = &mut self.inner
        {
            self.channel.schedule(inner, Some(now.saturating_add(delay)));
        }
        Ok(())
    }

    /// TOUCH.
    pub fn touch(&mut self, sequence: u64) -> Result<(), AckError> {
        let (key, now) = (self.key, self.now.monotonic);
        self.state().touch(key, sequence, now)?;
        if let Some(inner) = &mut self.inner {
            let deadline = inner.state.next_deadline_of(key);
            self.channel.schedule(inner, deadline);
        }
        Ok(())
    }

    fn state(&mut self) -> &mut ChannelState {
        match &mut self.inner {
            Some(inner) => &mut inner.state,
            None => unreachable!("the guard is taken only by drop"),
        }
    }
}

impl Drop for Acknowledging<'_> {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            self.channel.settle(inner);
        }
    }
}
