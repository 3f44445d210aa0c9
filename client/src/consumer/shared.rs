//! The state that the engine, the connections, the messages and the application's handles share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::drain::{Drain, DrainReport};
use super::link::Link;
use super::message::{Answer, Requeue};
use super::queue::MessageQueue;
use crate::backoff::{Backoff, BackoffOptions, BackoffState, Epoch, Signal};
use crate::config::Config;
use crate::error::{Disconnect, LookupError, StartError};

/// An event for logs and monitoring. A slow reader misses events: see [`Consumer::events`](super::Consumer::events).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The consumer has subscribed at an nsqd.
    Connected {
        /// The address of the nsqd.
        node: Arc<str>,
    },
    /// A connection has ended, or could not be opened. The consumer retries unless it stops or forgets the node.
    Disconnected {
        /// The address of the nsqd.
        node: Arc<str>,
        /// Why the connection ended or could not be opened.
        reason: Disconnect,
    },
    /// A query to a lookupd has failed.
    LookupFailed(LookupError),
    /// nsqd has rejected an answer to a message, usually because it came too late.
    AnswerFailed {
        /// The address of the nsqd.
        node: Arc<str>,
        /// `E_FIN_FAILED`, `E_REQ_FAILED` or `E_TOUCH_FAILED`.
        code: String,
        /// nsqd's description of the error, with the message id.
        description: String,
    },
    /// A message was given up: finished after more than `max_attempts` deliveries, or by
    /// [`Outcome::GiveUp`](super::Outcome::GiveUp).
    GaveUp {
        /// The id of the message.
        id: nsq_protocol::MessageId,
        /// How often the message was delivered.
        attempts: u16,
    },
    /// A handler has panicked; its message was requeued.
    HandlerPanicked {
        /// The id of the message.
        id: nsq_protocol::MessageId,
    },
    /// Handling has failed: the consumer requests no messages for a while.
    BackingOff {
        /// The level of the backoff: up by one with each failure, down by one with each success.
        level: u32,
        /// The length of the pause.
        pause: Duration,
    },
    /// Handling works again, and the backoff has ended.
    Recovered,
}

/// The state of a consumer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConsumerState {
    /// No lookup has completed yet.
    Starting,
    /// The lookupds list no nsqd for the topic.
    NoNodes,
    /// The first connections are being opened.
    Connecting,
    /// Nothing is connected, and the last attempt failed. The consumer keeps trying.
    Failing(StartError),
    /// The consumer is subscribed to at least one nsqd.
    Running,
    /// Handling fails, so the consumer requests no messages, or one at a time.
    BackingOff {
        /// The level of the backoff: up by one with each failure, down by one with each success.
        level: u32,
    },
    /// The consumer is paused by [`Consumer::pause`](super::Consumer::pause), or because `max_in_flight` is 0.
    Paused,
    /// The consumer is shutting down and finishes the messages in flight.
    Draining,
    /// The consumer has shut down.
    Stopped,
}

/// Counters since the start, and gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerStats {
    /// Subscribed connections.
    pub connections: u64,
    /// Messages received and not yet answered, on open connections.
    pub in_flight: u64,
    /// Messages that wait for a handler or for the stream to be read.
    pub queued: u64,
    /// Messages received.
    pub received: u64,
    /// Messages finished, those given up included.
    pub finished: u64,
    /// Messages requeued.
    pub requeued: u64,
    /// Messages left to time out, because they were not taken in time or on purpose.
    pub timed_out: u64,
    /// Messages given up.
    pub gave_up: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) received: AtomicU64,
    pub(super) finished: AtomicU64,
    pub(super) requeued: AtomicU64,
    pub(super) timed_out: AtomicU64,
    pub(super) gave_up: AtomicU64,
}

pub(super) struct Shared {
    pub(super) queue: MessageQueue,
    pub(super) counters: Counters,
    /// Wakes the engine.
    pub(super) wake: Notify,
    /// The next answer wakes the engine.
    pub(super) watch_answers: AtomicBool,
    pub(super) max_in_flight: AtomicU64,
    pub(super) paused: AtomicBool,
    pub(super) max_attempts: u16,
    /// Signals a shutdown to handlers.
    pub(super) stopping: CancellationToken,
    /// Ends all connections at once.
    pub(super) connections_stop: CancellationToken,
    pub(super) state: watch::Sender<ConsumerState>,
    pub(super) report: watch::Sender<Option<DrainReport>>,
    /// The live connections.
    pub(super) links: Mutex<Vec<Arc<Link>>>,
    events: broadcast::Sender<Event>,
    drain: Mutex<Option<Drain>>,
    backoff: Mutex<Backoff>,
    /// `backing_off` and `epoch` are copies of the state in `backoff`, so that messages need not take its lock.
    backing_off: AtomicBool,
    epoch: AtomicU32,
    /// Dropping an unanswered message leaves it to time out, instead of requeueing it.
    leave_dropped: AtomicBool,
    default_requeue_delay: Duration,
    max_requeue_delay: Duration,
}

const EVENT_CAPACITY: usize = 256;

impl Shared {
    pub(super) fn new(config: &Config) -> Self {
        let backoff = Backoff::new(BackoffOptions {
            strategy: config.backoff_strategy,
            multiplier: config.backoff_multiplier,
            max: config.max_backoff_duration,
            fast_recovery: config.backoff_fast_recovery,
        });
        Shared {
            queue: MessageQueue::default(),
            counters: Counters::default(),
            wake: Notify::new(),
            watch_answers: AtomicBool::new(false),
            max_in_flight: AtomicU64::new(config.effective_max_in_flight()),
            paused: AtomicBool::new(false),
            max_attempts: config.max_attempts,
            stopping: CancellationToken::new(),
            connections_stop: CancellationToken::new(),
            state: watch::Sender::new(ConsumerState::Starting),
            report: watch::Sender::new(None),
            links: Mutex::new(Vec::new()),
            events: broadcast::Sender::new(EVENT_CAPACITY),
            drain: Mutex::new(None),
            backoff: Mutex::new(backoff),
            backing_off: AtomicBool::new(false),
            epoch: AtomicU32::new(0),
            leave_dropped: AtomicBool::new(false),
            default_requeue_delay: config.default_requeue_delay,
            max_requeue_delay: config.max_requeue_delay,
        }
    }

    pub(super) fn emit(&self, event: Event) {
        // An error only means that there is no receiver.
        let _ = self.events.send(event);
    }

    pub(super) fn subscribe_events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    pub(super) fn requeue_delay(&self, delay: Requeue, attempts: u16) -> Duration {
        match delay {
            Requeue::Now => Duration::ZERO,
            Requeue::After(delay) => delay,
            Requeue::Auto => {
                self.default_requeue_delay.saturating_mul(u32::from(attempts)).min(self.max_requeue_delay)
            }
        }
    }

    pub(super) fn answered(&self, answer: Answer, signal: Signal, epoch: Epoch, now: Instant) {
        let counter = match answer {
            Answer::Finish => &self.counters.finished,
            Answer::Requeue(_) => &self.counters.requeued,
            Answer::Nothing => &self.counters.timed_out,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if signal == Signal::Failure || self.backing_off.load(Ordering::Acquire) {
            self.signal_backoff(signal, epoch, now);
        }
        if self.watch_answers.load(Ordering::SeqCst) && self.watch_answers.swap(false, Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    fn signal_backoff(&self, signal: Signal, epoch: Epoch, now: Instant) {
        let mut backoff = self.backoff.lock();
        if !backoff.answered(signal, epoch, now, fastrand::f64()) {
            return;
        }
        let state = backoff.state();
        self.epoch.store(backoff.epoch().0, Ordering::Release);
        self.backing_off.store(state != BackoffState::Normal, Ordering::Release);
        drop(backoff);
        match state {
            BackoffState::Paused { level, until } => {
                self.emit(Event::BackingOff { level, pause: until.saturating_duration_since(now) });
            }
            _ => self.emit(Event::Recovered),
        }
        self.wake.notify_one();
    }

    /// Ends a pause that is over, and returns the state.
    pub(super) fn backoff_state(&self, now: Instant) -> BackoffState {
        let mut backoff = self.backoff.lock();
        backoff.tick(now);
        backoff.state()
    }

    /// Asks the engine to shut down. The first request decides how.
    pub(super) fn request_drain(&self, drain: Drain) {
        self.drain.lock().get_or_insert(drain);
        self.wake.notify_one();
    }

    pub(super) fn requested_drain(&self) -> Option<Drain> {
        *self.drain.lock()
    }

    pub(super) fn leave_dropped(&self) {
        self.leave_dropped.store(true, Ordering::Release);
    }

    pub(super) fn answer_when_dropped(&self) -> Answer {
        match self.leave_dropped.load(Ordering::Acquire) {
            true => Answer::Nothing,
            false => Answer::Requeue(Requeue::Now),
        }
    }

    pub(super) fn stats(&self) -> ConsumerStats {
        let (connections, in_flight) = {
            let links = self.links.lock();
            (links.len() as u64, links.iter().map(|link| link.in_flight()).sum())
        };
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ConsumerStats {
            connections,
            in_flight,
            queued: self.queue.len() as u64,
            received: get(&self.counters.received),
            finished: get(&self.counters.finished),
            requeued: get(&self.counters.requeued),
            timed_out: get(&self.counters.timed_out),
            gave_up: get(&self.counters.gave_up),
        }
    }
}

impl ConsumerState {
    /// Whether an observer sees no difference.
    pub(super) fn is_same_as(&self, other: &ConsumerState) -> bool {
        match (self, other) {
            (ConsumerState::Failing(a), ConsumerState::Failing(b)) => a.to_string() == b.to_string(),
            (ConsumerState::BackingOff { level: a }, ConsumerState::BackingOff { level: b }) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}
