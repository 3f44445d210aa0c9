//! The state that the engine, the connections and the application's handles share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::drain::{Drain, DrainReport};
use super::feedback::Feedback;
use super::lanes::Lanes;
use super::link::Link;
use super::message::{Delivery, Message};
use super::queue::MessageQueue;
use super::rate_limit::RateLimit;
use super::recent::Recent;
use crate::config::Config;
use crate::error::StartError;
use crate::time;

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
    /// Messages finished, those given up included. An answer that nsqd refuses, because it came too late, does not count
    /// here nor below, but in `refused_answers`.
    pub finished: u64,
    /// Messages requeued.
    pub requeued: u64,
    /// Messages rejected: they became dead letters.
    pub rejected: u64,
    /// Calls of the handler that returned an error, exceeded `handler_timeout` or panicked.
    pub failed: u64,
    /// Answers that nsqd refused: it delivers the message again, or has done so.
    pub refused_answers: u64,
    /// Answers that could not be sent, because their connection had ended: nsqd delivers the message again.
    pub lost_answers: u64,
    /// Messages left to time out, because they were not taken in time or on purpose.
    pub timed_out: u64,
    /// Messages given up.
    pub gave_up: u64,
    /// Messages that were delivered again after they had been finished, and were finished without being handled: see
    /// [`Config::remember_finished`](crate::Config::remember_finished).
    pub duplicates: u64,
}

pub(super) struct Shared {
    pub(super) feedback: Arc<Feedback>,
    pub(super) queue: MessageQueue,
    pub(super) max_in_flight: AtomicU64,
    pub(super) paused: AtomicBool,
    pub(super) max_attempts: u16,
    pub(super) keep_alive: bool,
    pub(super) handler_timeout: Option<Duration>,
    pub(super) rate_limit: Option<Mutex<RateLimit>>,
    /// With order by key.
    pub(super) lanes: Option<ByKey>,
    /// The messages that handlers have finished last.
    pub(super) recent: Option<Mutex<Recent>>,
    /// What the consumer connects to, for errors.
    pub(super) sources: Sources,
    /// How many messages are handled at the same time.
    pub(super) concurrency: watch::Sender<u32>,
    /// Ends all connections at once.
    pub(super) connections_stop: CancellationToken,
    pub(super) state: watch::Sender<ConsumerState>,
    pub(super) report: watch::Sender<Option<DrainReport>>,
    /// The live connections.
    pub(super) links: Mutex<Vec<Arc<Link>>>,
    drain: Mutex<Option<Drain>>,
}

/// Order by key.
pub(super) struct ByKey {
    pub(super) key: KeyOf,
    pub(super) lanes: Mutex<Lanes<Message>>,
}

/// Returns the hash of a message's key; `None` if it has none.
pub(super) type KeyOf = Arc<dyn Fn(&Delivery) -> Option<u64> + Send + Sync>;

/// What a consumer connects to.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) topic: String,
    pub(super) channel: String,
    pub(super) lookupds: Vec<String>,
    /// The nsqds that the application set and that lookupds listed.
    pub(super) nsqds: Mutex<Vec<String>>,
}

impl Sources {
    pub(super) fn timeout(&self, after: Duration) -> StartError {
        let (topic, lookupds) = (self.topic.clone(), self.lookupds.clone());
        StartError::Timeout { after, topic, lookupds, nsqds: self.nsqds.lock().clone() }
    }
}

impl Shared {
    pub(super) fn new(config: &Config, max_attempts: u16, sources: Sources, key: Option<KeyOf>) -> Self {
        Shared {
            feedback: Arc::new(Feedback::new(config, &sources.topic, &sources.channel)),
            queue: MessageQueue::default(),
            max_in_flight: AtomicU64::new(config.effective_max_in_flight()),
            paused: AtomicBool::new(false),
            max_attempts,
            keep_alive: config.keep_alive,
            handler_timeout: (!config.handler_timeout.is_zero()).then_some(config.handler_timeout),
            rate_limit: (config.rate_limit > 0.0).then(|| Mutex::new(RateLimit::new(config.rate_limit))),
            lanes: key.map(|key| ByKey { key, lanes: Mutex::default() }),
            recent: (config.remember_finished > 0)
                .then(|| Mutex::new(Recent::new(config.remember_finished as usize))),
            sources,
            concurrency: watch::Sender::new(config.concurrency),
            connections_stop: CancellationToken::new(),
            state: watch::Sender::new(ConsumerState::Starting),
            report: watch::Sender::new(None),
            links: Mutex::new(Vec::new()),
            drain: Mutex::new(None),
        }
    }

    /// Waits for the next place of the rate limit.
    pub(super) async fn wait_for_rate(&self) {
        if let Some(limit) = &self.rate_limit {
            let due = limit.lock().reserve(time::now());
            tokio::time::sleep_until(due.into()).await;
        }
    }

    /// Asks the engine to shut down. The first request decides how.
    pub(super) fn request_drain(&self, drain: Drain) {
        self.drain.lock().get_or_insert(drain);
        self.feedback.wake.notify_one();
    }

    pub(super) fn requested_drain(&self) -> Option<Drain> {
        *self.drain.lock()
    }

    pub(super) fn stats(&self) -> ConsumerStats {
        let (connections, in_flight) = {
            let links = self.links.lock();
            (links.len() as u64, links.iter().map(|link| link.in_flight()).sum())
        };
        let counters = &self.feedback.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ConsumerStats {
            connections,
            in_flight,
            queued: (self.queue.len() + self.lanes.as_ref().map_or(0, |by_key| by_key.lanes.lock().len()))
                as u64,
            received: get(&counters.received),
            finished: get(&counters.finished),
            requeued: get(&counters.requeued),
            rejected: get(&counters.rejected),
            timed_out: get(&counters.timed_out),
            gave_up: get(&counters.gave_up),
            duplicates: get(&counters.duplicates),
            failed: get(&counters.failed),
            refused_answers: get(&counters.refused_answers),
            lost_answers: get(&counters.lost_answers),
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
