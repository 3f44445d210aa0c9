//! Several topics with one handler, one client for lookups and one shutdown.

use std::future::Future;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::Semaphore;

use super::drain::{Drain, DrainReport};
use super::handler::{Handler, IntoOutcome, Outcome, WithState};
use super::message::Delivery;
use super::{Consumer, ConsumerBuilder, ConsumerStats};
use crate::error::{HandlerError, StartError};

/// The settings of a group that has not started: from [`ConsumerBuilder::topics`].
#[must_use = "a group starts with `handler(..).start()`"]
pub struct GroupBuilder {
    pub(super) builder: ConsumerBuilder,
    pub(super) topics: Vec<String>,
}

impl GroupBuilder {
    /// Sets the handler of all topics. [`Delivery::topic`] tells them apart.
    pub fn handler<H: Handler>(self, handler: H) -> HandlerGroupBuilder<H> {
        HandlerGroupBuilder { group: self, handler }
    }

    /// Sets a function or closure as the handler: see [`ConsumerBuilder::handler_fn`].
    pub fn handler_fn<F, Fut>(self, function: F) -> HandlerGroupBuilder<F>
    where
        F: Fn(Delivery) -> Fut + Send + Sync + 'static,
        Fut: Future + Send,
        Fut::Output: IntoOutcome + Send,
    {
        HandlerGroupBuilder { group: self, handler: function }
    }

    /// Sets a function or closure with state as the handler: see [`ConsumerBuilder::handler_with`].
    pub fn handler_with<S, F, Fut>(self, state: S, function: F) -> HandlerGroupBuilder<WithState<S, F>>
    where
        S: Clone + Send + Sync + 'static,
        F: Fn(S, Delivery) -> Fut + Send + Sync + 'static,
        Fut: Future + Send,
        Fut::Output: IntoOutcome + Send,
    {
        HandlerGroupBuilder { group: self, handler: WithState { state, function } }
    }
}

/// The settings and the handler of a group that has not started.
#[must_use = "a group starts with `start()`"]
pub struct HandlerGroupBuilder<H> {
    group: GroupBuilder,
    handler: H,
}

impl<H: Handler> HandlerGroupBuilder<H> {
    /// Starts one consumer per topic. Fails without starting any if a setting or name is not valid. `concurrency` applies to
    /// the whole group, `max_in_flight` to each topic.
    pub fn start(self) -> Result<ConsumerGroup, StartError> {
        let GroupBuilder { builder, topics } = self.group;
        let builder = builder.sharing_lookups()?;
        for topic in &topics {
            builder.clone().with_topic(topic).check()?;
        }
        let running = Arc::new(Semaphore::new(builder.concurrency_setting() as usize));
        let handler = Arc::new(Shared { handler: self.handler, running });
        let start = |topic: String| builder.clone().with_topic(&topic).handler(Arc::clone(&handler)).start();
        Ok(ConsumerGroup { consumers: topics.into_iter().map(start).collect::<Result<_, _>>()? })
    }
}

/// Runs the handler within the concurrency of the group.
struct Shared<H> {
    handler: H,
    running: Arc<Semaphore>,
}

impl<H: Handler> Handler for Shared<H> {
    type Output = Outcome;

    async fn handle(&self, message: Delivery) -> Outcome {
        // The semaphore is never closed.
        let Ok(_running) = self.running.acquire().await else { return Outcome::Forget };
        if message.remaining().is_zero() {
            // It timed out while other topics were handled, and nsqd delivers it again.
            return Outcome::Forget;
        }
        self.handler.handle(message).await.into_outcome()
    }

    async fn gave_up(&self, message: Delivery) -> Result<(), HandlerError> {
        self.handler.gave_up(message).await
    }
}

/// Running consumers of several topics. Dropping the last handle shuts them down in the background: see [`Consumer`].
#[derive(Clone, Debug)]
pub struct ConsumerGroup {
    consumers: Vec<Consumer>,
}

impl ConsumerGroup {
    /// The consumers, in the order of the topics.
    pub fn consumers(&self) -> &[Consumer] {
        &self.consumers
    }

    /// The sums over all topics.
    pub fn stats(&self) -> ConsumerStats {
        self.consumers.iter().map(Consumer::stats).fold(ConsumerStats::default(), |sum, next| ConsumerStats {
            connections: sum.connections + next.connections,
            in_flight: sum.in_flight + next.in_flight,
            queued: sum.queued + next.queued,
            received: sum.received + next.received,
            finished: sum.finished + next.finished,
            requeued: sum.requeued + next.requeued,
            rejected: sum.rejected + next.rejected,
            failed: sum.failed + next.failed,
            refused_answers: sum.refused_answers + next.refused_answers,
            lost_answers: sum.lost_answers + next.lost_answers,
            timed_out: sum.timed_out + next.timed_out,
            gave_up: sum.gave_up + next.gave_up,
            duplicates: sum.duplicates + next.duplicates,
        })
    }

    /// Pauses all topics.
    pub fn pause(&self) {
        self.consumers.iter().for_each(Consumer::pause);
    }

    /// Ends a [`pause`](ConsumerGroup::pause).
    pub fn resume(&self) {
        self.consumers.iter().for_each(Consumer::resume);
    }

    /// Shuts all consumers down at the same time: see [`Consumer::shutdown`]. Returns the sums, and the longest duration.
    pub async fn shutdown(&self, drain: impl Into<Drain>) -> DrainReport {
        let drain = drain.into();
        let reports = join_all(self.consumers.iter().map(|consumer| consumer.shutdown(drain))).await;
        reports.into_iter().fold(DrainReport::default(), |sum, next| DrainReport {
            finished: sum.finished + next.finished,
            requeued: sum.requeued + next.requeued,
            abandoned: sum.abandoned + next.abandoned,
            took: sum.took.max(next.took),
        })
    }

    /// Waits for `signal`, then shuts all consumers down.
    pub async fn run_until(&self, signal: impl Future, drain: impl Into<Drain>) -> DrainReport {
        signal.await;
        self.shutdown(drain).await
    }
}
