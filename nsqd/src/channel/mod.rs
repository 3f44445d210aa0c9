//! A channel: a read cursor into its topic's log, and the messages behind it that are not finished.
//!
//! [`ChannelState`] decides, under the channel's one lock; this door adds what a decision needs from outside: the log
//! to copy from, the journal to remember acknowledgements in, the consumers to wake, the timer to be woken by.
//! A consumer never gets messages pushed into a queue: it is woken, and *takes*.
//!
//! - [`state`]: pure; every transition of a message, with a picture
//! - [`take`]: pure; handing them out
//! - [`moving`]: pure; moving the read cursor
//! - [`outstanding`], [`in_flight`], [`consumers`], [`runs`], [`skipped`]: pure; its parts
//! - [`signal`]: how a consumer is woken, and passed over while it is busy with something else
//! - `acknowledging`: a run of FIN, REQ and TOUCH under one lock
//! - [`reading`]: what must be read from disk before it can be taken
//! - [`latency`]: pure; from publishing to FIN, if that is measured
//! - [`saved`]: pure; to and from a checkpoint, and replaying the journal

mod acknowledging;
pub mod consumers;
pub mod in_flight;
pub mod latency;
pub mod moving;
pub mod outstanding;
pub mod reading;
pub mod runs;
pub mod saved;
pub mod signal;
pub mod skipped;
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

pub use self::acknowledging::Acknowledging;
pub use self::consumers::ConsumerKey;
pub use self::reading::ReadRequest;
use self::reading::Reading;
use self::saved::{Clocks, Overtaken, SavedChannel, Saving};
pub use self::signal::ConsumerSignal;
pub use self::state::{AckError, ChannelState, Counters, Mark};
pub use self::take::{Source, Supply, TakeEnd};
use crate::client_info::ClientInfo;
use crate::clock::{self, Nanos};
use crate::log::read_cache::ReadCache;
use crate::log::reader::LogReader;
use crate::log::{Holder, Ranges, TopicLog};
use crate::storage::journal::Journal;
use crate::storage::record::Record;
use crate::storage::{ChannelNumber, TopicNumber};
use crate::timers::{Expire, Timer, Timers};

/// So many messages are put back under one lock, when many come back at once: about 100 microseconds.
const SLICE: usize = 1000;

struct Inner {
    state: ChannelState,
    cache: ReadCache,
    reading: Reading,
    signals: Vec<Option<(Arc<ConsumerSignal>, Arc<ClientInfo>)>>,
    /// Set not after the next deadline.
    timer: Timer,
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
    /// What exceeds this depth is dropped: by ephemeral channels, and by all channels of ephemeral topics.
    pub bound: Option<u64>,
}

/// See the module.
pub struct Channel {
    parts: ChannelParts,
    /// A copy of the oldest number that the state needs.
    floor: AtomicU64,
    inner: Mutex<Inner>,
    /// It needs no messages any more.
    deleted: AtomicBool,
    this: Weak<Channel>,
}

/// What came of [`Channel::take`].
pub struct Taken {
    /// Messages put into the output.
    pub count: u64,
    /// Why no more.
    pub end: TakeEnd,
    /// What is to be read: with [`TakeEnd::OnDisk`] before more can be taken, unless somebody reads it already; else ahead
    /// of need.
    pub request: Option<ReadRequest>,
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
        let channel = Arc::new_cyclic(|this: &Weak<Channel>| Channel {
            floor: AtomicU64::new(state.lowest_needed()),
            inner: Mutex::new(Inner {
                state,
                cache: ReadCache::default(),
                reading: Reading::default(),
                signals: Vec::new(),
                timer: parts.timers.timer(this.clone()),
                closed: false,
            }),
            deleted: AtomicBool::new(false),
            this: this.clone(),
            parts,
        });
        let holder: Arc<dyn Holder> = channel.clone();
        channel.parts.log.add_holder(&holder);
        channel.inner.lock().schedule(deadline);
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
            inner.schedule_next();
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
        loop {
            let mut inner = self.inner.lock();
            let is_gone = inner.state.remove_consumer(key, SLICE);
            if is_gone && let Some(signal) = inner.signals.get_mut(key as usize) {
                *signal = None;
            }
            let last = inner.state.consumers().is_empty();
            self.settle(inner);
            if is_gone {
                return last;
            }
        }
    }

    /// The consumer was called and cannot come: the next is called in its place. It looks by itself when it is back.
    pub fn pass_on(&self, key: ConsumerKey) {
        let mut inner = self.inner.lock();
        inner.state.pass_on(key);
        self.settle(inner);
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
        let missing = reader.missing();
        let request = self.read_request(inner, missing, now);
        if count > 0 {
            inner.schedule_next();
        }
        self.settle(guard);
        Taken { count, end, request, at: now }
    }

    /// Drops all messages.
    pub fn empty(&self) {
        let mut inner = self.inner.lock();
        let emptied = inner.state.empty();
        self.record(&Record::ChannelEmptied {
            topic: self.parts.topic_number,
            channel: self.parts.number,
            up_to: inner.state.cursor(),
        });
        // Consumers that were full have room again: let them park.
        inner.signals.iter().flatten().for_each(|(signal, _)| signal.call_and_wake());
        self.settle(inner);
        drop(emptied);
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
        inner.schedule_next();
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
        inner.signals.iter().flatten().for_each(|(signal, _)| signal.close());
    }

    /// The channel is deleted: as [`Channel::close`], and what it knows of messages goes at once, however long its
    /// consumers' connections take to end.
    pub fn discard(&self) {
        self.close();
        self.deleted.store(true, Ordering::Release);
        let mut inner = self.inner.lock();
        let emptied = inner.state.empty();
        inner.cache = ReadCache::default();
        drop(inner);
        drop(emptied);
    }

    /// Runs `look` on the state and the consumers' connections, for statistics.
    pub fn inspect<T>(&self, look: impl FnOnce(&ChannelState, Infos<'_>) -> T) -> T {
        let inner = self.inner.lock();
        look(&inner.state, Infos(&inner.signals))
    }

    /// Begins to save it for a checkpoint.
    pub fn begin_saving(&self, clocks: Clocks) -> Saving {
        self.inner.lock().state.begin_saving(clocks)
    }

    /// Saves the rest, about `slice` messages under one lock; others have their turn in between, and so has `between`.
    pub fn save(
        &self,
        mut saving: Saving,
        slice: usize,
        between: &mut dyn FnMut(),
    ) -> Result<SavedChannel, Overtaken> {
        loop {
            let inner = self.inner.lock();
            let has_more = saving.go_on(&inner.state, slice)?;
            MutexGuard::unlock_fair(inner);
            if !has_more {
                return Ok(saving.complete());
            }
            between();
        }
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
    /// consumer that can take at once is woken if there is something for it (it wakes the next, if it leaves some).
    fn settle(&self, mut guard: MutexGuard<'_, Inner>) {
        let inner = &mut *guard;
        let signal = inner.call_next();
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
    /// All of them.
    pub fn iter(self) -> impl Iterator<Item = (ConsumerKey, &'a Arc<ClientInfo>)> {
        self.0.iter().enumerate().filter_map(|(key, signal)| Some((key as ConsumerKey, &signal.as_ref()?.1)))
    }
}

impl Inner {
    /// Of the parked consumers the next that can take at once, called and to be woken. Those that are away are called as
    /// well: they take when they are back.
    fn call_next(&mut self) -> Option<Arc<ConsumerSignal>> {
        while let Some(key) = self.state.wake_next() {
            match self.signals.get(key as usize) {
                Some(Some((signal, _))) if signal.call() => return Some(signal.clone()),
                _ => self.state.pass_on(key),
            }
        }
        None
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

    fn dropped(&self, ranges: &[(u64, u64)]) {
        let mut inner = self.inner.lock();
        inner.state.drop_messages(ranges);
        let floor = inner.state.lowest_needed();
        self.floor.store(floor, Ordering::Release);
    }
}

impl Expire for Channel {
    fn expire(&self, now: Nanos) {
        let mut inner = self.inner.lock();
        let owners = inner.state.expire(now, SLICE);
        for key in owners {
            // The owner has room again, and may be the only one who can take what timed out.
            if let Some(Some((signal, _))) = inner.signals.get(key as usize) {
                signal.call_and_wake();
            }
        }
        let reading = self.expire_reading(&mut inner, now);
        // What is left over is due at once, but behind what others have to do.
        let next = inner.state.next_deadline().map(|deadline| deadline.max(now));
        inner.timer.set(next.into_iter().chain(reading).min());
        self.settle(inner);
    }
}
