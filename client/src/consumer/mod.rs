//! Consuming: connects to all nsqds of a topic and merges their messages.
//!
//! ```text
//! engine ──RDY──▶ link (one per nsqd) ──messages──▶ queue ──▶ workers (handler) or stream
//!                      ◀──FIN, REQ, TOUCH── outbox ◀──────────────┘
//! ```
//!
//! The application uses [`ConsumerBuilder`], [`Handler`] or [`MessageStream`], [`Message`], and the handle
//! [`Consumer`]. The implementation, lowest first: `answer`, `feedback` (what answers act on), `outbox` and `link` (a
//! connection, as messages use it), `message`, `queue` and `lanes` (order by key), `shared` (common state), `connection` (the task of a link),
//! `engine` (control), `drain` (its shutdown). Above the queue: `handler` and `dead_letter`, `extract` (arguments) and `service` (tower), `stream` and `batches`, `group`.
//!
//! A message holds its link, and a link holds the feedback. Neither holds the common state, whose queue holds messages:
//! so nothing keeps itself alive.

mod answer;
mod batches;
mod builder;
mod connection;
mod dead_letter;
mod drain;
mod engine;
mod extract;
mod feedback;
mod group;
mod handler;
mod lanes;
mod link;
#[cfg(feature = "tracing")]
mod log;
mod message;
mod outbox;
mod queue;
mod rate_limit;
mod recent;
#[cfg(feature = "tower")]
pub(crate) mod service;
mod shared;
mod stream;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::broadcast;

pub use answer::Requeue;
pub use batches::{Batch, Batches};
pub use builder::{ConsumerBuilder, HandlerConsumerBuilder};
pub use dead_letter::DeadLetter;
pub use drain::{Drain, DrainReport, Unfinished};
pub use extract::{Call, FromDelivery, WithArguments, arguments};
pub use feedback::Event;
#[cfg(feature = "test-util")]
pub(crate) use feedback::Feedback;
pub use group::{ConsumerGroup, GroupBuilder, HandlerGroupBuilder};
pub use handler::{Handler, IntoOutcome, Outcome, WithState};
#[cfg(feature = "test-util")]
pub(crate) use link::Link;
pub use message::{Delivery, Message};
pub use shared::{ConsumerState, ConsumerStats};
pub use stream::MessageStream;

use crate::error::StartError;
use shared::Shared;

/// A handle of a running consumer, to observe, pause and shut it down. Cheap to clone.
///
/// Dropping the last handle shuts the consumer down in the background, with a deadline of one second. Use
/// [`shutdown`](Consumer::shutdown) to choose the deadline and to wait for the end.
#[derive(Clone)]
pub struct Consumer {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
}

/// The shutdown that starts when the last handle is dropped.
const BACKGROUND_DRAIN: Drain = Drain { deadline: Duration::from_secs(1), then: Unfinished::Requeue };

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.request_drain(BACKGROUND_DRAIN);
    }
}

impl Consumer {
    /// Returns a builder for a consumer of `channel` on `topic`. The names are checked at the start.
    pub fn builder(topic: impl Into<String>, channel: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(topic.into(), channel.into())
    }

    /// Returns a builder for consumers of `channel` on several topics, which
    /// [`topics`](ConsumerBuilder::topics) sets.
    pub fn group(channel: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(String::new(), channel.into())
    }

    fn new(shared: Arc<Shared>) -> Self {
        Consumer { inner: Arc::new(Inner { shared }) }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// Waits for the first subscription. Fails if every attempt so far has failed, after `timeout`, or if the consumer
    /// has stopped. The consumer keeps trying after a failure or a timeout. Cancel safe.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<(), StartError> {
        let mut states = self.shared().state.subscribe();
        let waiting = async {
            loop {
                match &*states.borrow_and_update() {
                    ConsumerState::Running | ConsumerState::BackingOff { .. } | ConsumerState::Paused => {
                        return Ok(());
                    }
                    ConsumerState::Failing(error) => return Err(error.clone()),
                    ConsumerState::Draining | ConsumerState::Stopped => return Err(StartError::Stopped),
                    ConsumerState::Starting | ConsumerState::NoNodes | ConsumerState::Connecting => {}
                }
                if states.changed().await.is_err() {
                    return Err(StartError::Stopped);
                }
            }
        };
        match tokio::time::timeout(timeout, waiting).await {
            Ok(ready) => ready,
            Err(_) => Err(self.shared().sources.timeout(timeout)),
        }
    }

    /// Returns the current state.
    pub fn state(&self) -> ConsumerState {
        self.shared().state.borrow().clone()
    }

    /// Returns a receiver for changes of [`state`](Consumer::state).
    pub fn watch(&self) -> tokio::sync::watch::Receiver<ConsumerState> {
        self.shared().state.subscribe()
    }

    /// Returns a receiver for all events from now on. It holds at most 256 events: a slow reader misses the oldest.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared().feedback.subscribe_events()
    }

    /// Returns counters and gauges.
    pub fn stats(&self) -> ConsumerStats {
        self.shared().stats()
    }

    /// Whether a connection has in flight at least 85 % of what it may have: its nsqd sends little or nothing more until
    /// messages are answered. An application that collects messages, to answer them together, should answer now.
    pub fn is_starved(&self) -> bool {
        self.shared().links.lock().iter().any(|link| link.is_starved())
    }

    /// Requests no more messages until [`resume`](Consumer::resume). Messages in flight are still handled.
    pub fn pause(&self) {
        self.shared().paused.store(true, Ordering::Relaxed);
        self.shared().feedback.wake.notify_one();
    }

    /// Ends a [`pause`](Consumer::pause).
    pub fn resume(&self) {
        self.shared().paused.store(false, Ordering::Relaxed);
        self.shared().feedback.wake.notify_one();
    }

    /// Changes the maximum number of messages in flight, over all connections. 0 pauses the consumer.
    pub fn set_max_in_flight(&self, max_in_flight: u32) {
        self.shared().max_in_flight.store(max_in_flight.into(), Ordering::Relaxed);
        self.shared().feedback.wake.notify_one();
    }

    /// Changes how many messages are handled at the same time, from 1 on. Handlers that run are not interrupted.
    /// `max_in_flight` does not change: set it to at least the same number. Has no effect on a stream.
    pub fn set_concurrency(&self, concurrency: u32) {
        self.shared().concurrency.send_replace(concurrency.max(1));
        self.shared().feedback.wake.notify_one();
    }

    /// Shuts the consumer down: requests no more messages, lets handlers finish until the deadline, writes all answers,
    /// and closes the connections. If a shutdown has already started, waits for that one. Dropping this future does not
    /// stop the shutdown.
    pub async fn shutdown(&self, drain: impl Into<Drain>) -> DrainReport {
        self.shared().request_drain(drain.into());
        self.stopped().await
    }

    /// Waits until the consumer has stopped, for any reason. Cancel safe.
    pub async fn stopped(&self) -> DrainReport {
        let mut reports = self.shared().report.subscribe();
        // The sender lives as long as `self`.
        match reports.wait_for(Option::is_some).await {
            Ok(report) => report.unwrap_or_default(),
            Err(_) => DrainReport::default(),
        }
    }

    /// Waits for `signal`, then shuts the consumer down. Returns earlier if the consumer stops for another reason.
    pub async fn run_until(&self, signal: impl Future, drain: impl Into<Drain>) -> DrainReport {
        tokio::select! {
            _ = signal => self.shutdown(drain).await,
            report = self.stopped() => report,
        }
    }

    fn stop_in_background(&self) {
        self.shared().request_drain(BACKGROUND_DRAIN);
    }
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("state", &self.state()).field("stats", &self.stats()).finish()
    }
}

/// Applies `max_attempts` to a message of a stream: returns it, or gives it up with an event.
fn gave_up_silently(shared: &Shared, message: Message) -> Option<Message> {
    if shared.max_attempts == 0 || message.attempts() <= shared.max_attempts {
        return Some(message);
    }
    shared.feedback.counters.gave_up.fetch_add(1, Ordering::Relaxed);
    let reason = too_many_attempts(message.attempts());
    shared.feedback.emit(Event::GaveUp { id: message.id(), attempts: message.attempts(), reason });
    // If the connection has ended, nsqd delivers the message again, and the next delivery is given up.
    let _ = message.give_up();
    None
}

/// Why a message beyond `max_attempts` is given up.
fn too_many_attempts(attempts: u16) -> String {
    format!("delivered {attempts} times, more than max_attempts")
}
