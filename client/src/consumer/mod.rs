//! Consuming: connections to all nsqds of a topic, one flow of messages out of them.
//!
//! ```text
//! engine ──RDY──▶ link (one per nsqd) ──messages──▶ queue ──▶ workers (handler) or stream
//!                      ◀──FIN, REQ, TOUCH── outbox ◀──────────────┘
//! ```
//!
//! The application's side: [`ConsumerBuilder`], [`Handler`] or [`MessageStream`], [`Message`], and the
//! handle [`Consumer`]. Behind it, in reading order: `shared` (what all parts see), `link` (a connection),
//! `outbox` and `queue` (its two directions), `engine` (decides), `drain` (stops).

mod builder;
mod drain;
mod engine;
mod handler;
mod link;
mod message;
mod outbox;
mod queue;
mod shared;
mod stream;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::broadcast;

pub use builder::{ConsumerBuilder, HandlerConsumerBuilder};
pub use drain::{Drain, DrainReport, Unfinished};
pub use handler::{Handler, IntoOutcome, Outcome};
pub use message::{Delivery, Message, Requeue};
pub use shared::{ConsumerState, ConsumerStats, Event};
pub use stream::MessageStream;

use crate::error::StartError;
use shared::Shared;

/// A running consumer: to look at, pause and shut down. Cheap to clone.
///
/// Dropping the last handle stops the consumer in the background with a second's patience;
/// [`shutdown`](Consumer::shutdown) is the way to stop it on purpose.
#[derive(Clone)]
pub struct Consumer {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
}

/// When nobody is there to wait for it.
const BACKGROUND_DRAIN: Drain = Drain { deadline: Duration::from_secs(1), then: Unfinished::Requeue };

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.request_drain(BACKGROUND_DRAIN);
    }
}

impl Consumer {
    /// Prepares a consumer of `channel` on `topic`.
    pub fn builder(topic: impl Into<String>, channel: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(topic.into(), channel.into())
    }

    fn new(shared: Arc<Shared>) -> Self {
        Consumer { inner: Arc::new(Inner { shared }) }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// Returns once a subscription stands, or with the reason why all that was tried so far failed, or
    /// after `timeout`. The consumer goes on in any case.
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
            Err(_) => Err(StartError::Timeout(timeout)),
        }
    }

    /// What it is doing.
    pub fn state(&self) -> ConsumerState {
        self.shared().state.borrow().clone()
    }

    /// To wait for changes of [`state`](Consumer::state).
    pub fn watch(&self) -> tokio::sync::watch::Receiver<ConsumerState> {
        self.shared().state.subscribe()
    }

    /// What happens from here on. The channel is bounded: who reads too slowly misses events.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared().subscribe_events()
    }

    /// Counters and gauges.
    pub fn stats(&self) -> ConsumerStats {
        self.shared().stats()
    }

    /// Asks for no more messages until [`resume`](Consumer::resume). What is in flight goes on.
    pub fn pause(&self) {
        self.shared().paused.store(true, Ordering::Relaxed);
        self.shared().wake.notify_one();
    }

    /// Ends a [`pause`](Consumer::pause).
    pub fn resume(&self) {
        self.shared().paused.store(false, Ordering::Relaxed);
        self.shared().wake.notify_one();
    }

    /// How many messages may be in flight from now on, over all connections. 0 pauses.
    pub fn set_max_in_flight(&self, max_in_flight: u32) {
        self.shared().max_in_flight.store(max_in_flight.into(), Ordering::Relaxed);
        self.shared().wake.notify_one();
    }

    /// Stops: no more messages; what is being handled may finish until the deadline; then all answers are
    /// written and the connections closed. If a shutdown is under way already, waits for that one.
    pub async fn shutdown(&self, drain: impl Into<Drain>) -> DrainReport {
        self.shared().request_drain(drain.into());
        self.stopped().await
    }

    /// Returns when the consumer has stopped, whoever stopped it.
    pub async fn stopped(&self) -> DrainReport {
        let mut reports = self.shared().report.subscribe();
        // The sender lives as long as `self`.
        match reports.wait_for(Option::is_some).await {
            Ok(report) => report.unwrap_or_default(),
            Err(_) => DrainReport::default(),
        }
    }

    /// Consumes until `signal` comes, and shuts down then.
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

/// The stream's side of `max_attempts`: there is no handler to tell, only an event.
fn gave_up_silently(shared: &Shared, message: Message) -> Option<Message> {
    if shared.max_attempts == 0 || message.attempts() <= shared.max_attempts {
        return Some(message);
    }
    shared.counters.gave_up.fetch_add(1, Ordering::Relaxed);
    shared.emit(Event::GaveUp { id: message.id(), attempts: message.attempts() });
    // If the connection is gone the message comes again, to be given up then.
    let _ = message.give_up();
    None
}
