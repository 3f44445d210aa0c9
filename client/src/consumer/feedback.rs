//! What the answers to messages act on: counters, backoff, events, and the engine's wake-up.
//!
//! Connections and messages refer to it. It refers to neither.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, Requeue};
use crate::backoff::{Backoff, BackoffOptions, BackoffState, Epoch, Signal};
use crate::config::Config;
use crate::error::{Disconnect, HandlerError, LookupError};
use crate::meters::ConsumerMeter;

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
        /// `E_FIN_FAILED`, `E_REQ_FAILED`, `E_TOUCH_FAILED` or `E_REJ_FAILED`.
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
        /// Why.
        reason: String,
    },
    /// A message that should be given up was requeued, because [`Handler::gave_up`](super::Handler::gave_up) or publishing
    /// the dead letter failed.
    GiveUpFailed {
        /// The id of the message.
        id: nsq_protocol::MessageId,
        /// The address of the nsqd.
        node: Arc<str>,
        /// How often the message was delivered.
        attempts: u16,
        /// Why.
        error: HandlerError,
    },
    /// A handler returned an error, or exceeded `handler_timeout`. Its message was requeued, or given up if the error is
    /// permanent.
    HandlerFailed {
        /// The id of the message.
        id: nsq_protocol::MessageId,
        /// The address of the nsqd.
        node: Arc<str>,
        /// How often the message was delivered.
        attempts: u16,
        /// The error.
        error: HandlerError,
    },
    /// A message was answered after its deadline: nsqd may have delivered it again, and it is handled twice. Set
    /// `keep_alive`, or a longer `msg_timeout`.
    Late {
        /// The id of the message.
        id: nsq_protocol::MessageId,
        /// The address of the nsqd.
        node: Arc<str>,
        /// How often the message was delivered.
        attempts: u16,
        /// How long after the deadline.
        late_by: Duration,
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

#[derive(Default)]
pub(super) struct Counters {
    pub(super) received: AtomicU64,
    pub(super) finished: AtomicU64,
    pub(super) requeued: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) timed_out: AtomicU64,
    pub(super) gave_up: AtomicU64,
    pub(super) duplicates: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) refused_answers: AtomicU64,
    pub(super) lost_answers: AtomicU64,
}

/// See the module.
pub(crate) struct Feedback {
    pub(super) counters: Counters,
    pub(super) meter: ConsumerMeter,
    /// Wakes the engine.
    pub(super) wake: Notify,
    /// The next answer wakes the engine.
    pub(super) watch_answers: AtomicBool,
    /// Signals a shutdown to handlers.
    pub(super) stopping: CancellationToken,
    events: broadcast::Sender<Event>,
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

impl Feedback {
    pub(crate) fn new(config: &Config, topic: &str, channel: &str) -> Self {
        let backoff = Backoff::new(BackoffOptions {
            strategy: config.backoff_strategy,
            multiplier: config.backoff_multiplier,
            max: config.max_backoff_duration,
            fast_recovery: config.backoff_fast_recovery,
        });
        Feedback {
            counters: Counters::default(),
            meter: ConsumerMeter::new(topic, channel),
            wake: Notify::new(),
            watch_answers: AtomicBool::new(false),
            stopping: CancellationToken::new(),
            events: broadcast::Sender::new(EVENT_CAPACITY),
            backoff: Mutex::new(backoff),
            backing_off: AtomicBool::new(false),
            epoch: AtomicU32::new(0),
            leave_dropped: AtomicBool::new(false),
            default_requeue_delay: config.default_requeue_delay,
            max_requeue_delay: config.max_requeue_delay,
        }
    }

    pub(super) fn emit(&self, event: Event) {
        #[cfg(feature = "tracing")]
        super::log::log(&event);
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

    pub(super) fn answered(
        &self,
        answer: Answer<'_>,
        signal: Signal,
        epoch: Epoch,
        now: Instant,
        sent: bool,
    ) {
        let (counter, count) = match answer {
            _ if !sent => (&self.counters.lost_answers, &self.meter.lost),
            Answer::Finish => (&self.counters.finished, &self.meter.finished),
            Answer::Requeue(_) => (&self.counters.requeued, &self.meter.requeued),
            Answer::Reject(_) => (&self.counters.rejected, &self.meter.rejected),
            Answer::Nothing => (&self.counters.timed_out, &self.meter.expired),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        count.one();
        self.meter.answered();
        if signal == Signal::Failure || self.backing_off.load(Ordering::Acquire) {
            self.signal_backoff(signal, epoch, now);
        }
        if self.watch_answers.load(Ordering::SeqCst) && self.watch_answers.swap(false, Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    /// Takes back the count of an answer that nsqd refuses.
    pub(super) fn refused(&self, code: &str) {
        let counter = match code {
            "E_FIN_FAILED" => &self.counters.finished,
            "E_REQ_FAILED" => &self.counters.requeued,
            "E_REJ_FAILED" => &self.counters.rejected,
            _ => return,
        };
        let taken_back =
            counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
        if taken_back.is_ok() {
            self.counters.refused_answers.fetch_add(1, Ordering::Relaxed);
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
                self.meter.backoff(level);
                self.emit(Event::BackingOff { level, pause: until.saturating_duration_since(now) });
            }
            _ => {
                self.meter.backoff(0);
                self.emit(Event::Recovered);
            }
        }
        self.wake.notify_one();
    }

    /// Ends a pause that is over, and returns the state.
    pub(super) fn backoff_state(&self, now: Instant) -> BackoffState {
        let mut backoff = self.backoff.lock();
        backoff.tick(now);
        backoff.state()
    }

    pub(super) fn leave_dropped(&self) {
        self.leave_dropped.store(true, Ordering::Release);
    }

    pub(super) fn answer_when_dropped(&self) -> Answer<'static> {
        match self.leave_dropped.load(Ordering::Acquire) {
            true => Answer::Nothing,
            false => Answer::Requeue(Requeue::Now),
        }
    }
}
