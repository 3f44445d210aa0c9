//! Handlers: the application's code for a message. The return value decides how the message is answered.

use std::borrow::Cow;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use nsq_protocol::ErrorCode;

use super::answer::Requeue;
use super::dead_letter::{self, DeadLetter};
use super::feedback::Event;
use super::lanes::Entered;
use super::message::{Delivery, Message};
use super::shared::Shared;
use super::too_many_attempts;
use crate::error::{AnswerError, HandlerError};
use crate::meters;
use crate::spans::Span;
use crate::time;
#[cfg(feature = "otel")]
use crate::trace_context;

/// How to answer a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Finish the message: nsqd does not deliver it again.
    Finish,
    /// Requeue the message: nsqd delivers it again.
    Requeue {
        /// When nsqd delivers it again.
        delay: Requeue,
        /// Whether this counts as a failure for backoff.
        backoff: bool,
    },
    /// Handling failed: report the error with [`Event::HandlerFailed`](super::Event::HandlerFailed), and requeue the message
    /// with [`Requeue::Auto`] and backoff. If the error is [permanent](HandlerError::permanent), give the message up.
    Fail(HandlerError),
    /// Give the message up, because it can never succeed, for this reason: call [`Handler::gave_up`], make it a dead letter
    /// if there is a [`DeadLetter`], then finish it. This does not count as a success.
    GiveUp(Cow<'static, str>),
    /// Reject the message, because it can never succeed: nsqd makes it a dead letter. See
    /// [`Message::reject`](super::Message::reject). With an nsqd that does not accept this, the message is requeued, and
    /// the consumer emits [`Event::AnswerFailed`](super::Event::AnswerFailed).
    Reject {
        /// Why; one line.
        reason: String,
    },
    /// Send no answer: the message times out, and nsqd delivers it again.
    Forget,
}

impl Outcome {
    /// [`Outcome::GiveUp`] with a reason.
    pub fn give_up(reason: impl Into<Cow<'static, str>>) -> Self {
        Outcome::GiveUp(reason.into())
    }
}

/// A type that a handler may return.
///
/// `()` finishes the message. `Ok(value)` acts as `value`. `Err(error)` reports the error, requeues with [`Requeue::Auto`]
/// and backs off: see [`Outcome::Fail`]. An [`Outcome`] says exactly what to do.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say how to answer a message",
    label = "the handler returns this",
    note = "return `()`, `nsq::Outcome`, or a `Result` of one of them whose error is an error type, a text or `nsq::HandlerError`"
)]
pub trait IntoOutcome {
    /// Converts the return value of a handler.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Outcome::Finish
    }
}

impl<T: IntoOutcome, E: Into<HandlerError>> IntoOutcome for Result<T, E> {
    fn into_outcome(self) -> Outcome {
        match self {
            Ok(outcome) => outcome.into_outcome(),
            Err(error) => Outcome::Fail(error.into()),
        }
    }
}

/// Handles messages, up to `concurrency` at a time.
///
/// Functions and closures `Fn(Delivery) -> impl Future` are handlers, and so are `async` closures that capture nothing.
/// [`ConsumerBuilder::handler_fn`](super::ConsumerBuilder::handler_fn) infers their argument's type, and
/// [`handler_with`](super::ConsumerBuilder::handler_with) passes them a clone of a state. A type that owns what it needs
/// implements the trait:
///
/// ```
/// use nsq::{Delivery, Handler, HandlerError};
///
/// struct Billing { url: String }
///
/// impl Handler for Billing {
///     type Output = Result<(), HandlerError>;
///
///     async fn handle(&self, order: Delivery) -> Result<(), HandlerError> {
///         let order = std::str::from_utf8(order.body())?;
///         println!("POST {} {order}", self.url);
///         Ok(())
///     }
/// }
/// ```
///
/// A panic is caught: the message is requeued and counts as failed. At the deadline of a shutdown, the handler's future
/// is dropped at its current await, and the message is requeued or left to time out: see [`Drain`](super::Drain).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler of messages",
    label = "not a handler",
    note = "a handler is a type that implements `nsq::Handler`, or `Fn(nsq::Delivery) -> impl Future<Output: IntoOutcome> + Send`",
    note = "for a closure, write `.handler_fn(|message| async move {{ .. }})`; for one with captured state, `.handler_with(state, |state, message| async move {{ .. }})`"
)]
pub trait Handler: Send + Sync + 'static {
    /// What [`handle`](Handler::handle) returns.
    type Output: IntoOutcome + Send;

    /// Handles one message.
    fn handle(&self, message: Delivery) -> impl Future<Output = Self::Output> + Send;

    /// Receives a message that is given up, after `max_attempts` or by [`Outcome::GiveUp`], before it is finished. It
    /// can store the message elsewhere. If it returns an error or panics, the message is requeued instead.
    fn gave_up(&self, message: Delivery) -> impl Future<Output = Result<(), HandlerError>> + Send {
        drop(message);
        std::future::ready(Ok(()))
    }
}

impl<F, Fut, O> Handler for F
where
    F: Fn(Delivery) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = O> + Send,
    O: IntoOutcome + Send,
{
    type Output = O;

    fn handle(&self, message: Delivery) -> impl Future<Output = O> + Send {
        self(message)
    }
}

impl<H: Handler> Handler for Arc<H> {
    type Output = H::Output;

    fn handle(&self, message: Delivery) -> impl Future<Output = H::Output> + Send {
        H::handle(self, message)
    }

    fn gave_up(&self, message: Delivery) -> impl Future<Output = Result<(), HandlerError>> + Send {
        H::gave_up(self, message)
    }
}

/// A handler function with state: from [`ConsumerBuilder::handler_with`](super::ConsumerBuilder::handler_with).
#[derive(Clone, Debug)]
pub struct WithState<S, F> {
    pub(super) state: S,
    pub(super) function: F,
}

impl<S, F, Fut> Handler for WithState<S, F>
where
    S: Clone + Send + Sync + 'static,
    F: Fn(S, Delivery) -> Fut + Send + Sync + 'static,
    Fut: Future + Send,
    Fut::Output: IntoOutcome + Send,
{
    type Output = Fut::Output;

    fn handle(&self, message: Delivery) -> impl Future<Output = Fut::Output> + Send {
        (self.function)(self.state.clone(), message)
    }
}

/// The share of the message timeout after which a message is touched.
const KEEP_ALIVE_SHARE: f64 = 0.6;

/// How a call of the handler ended.
enum Ended {
    With(Outcome),
    Panicked,
    TimedOut(Duration),
}

/// Takes messages and runs the handler for one at a time, until the queue is closed or the concurrency is at most
/// `number`. Dropping this future drops the handler's future and the message, which is then requeued or left to time out.
pub(super) async fn work<H: Handler>(
    handler: Arc<H>,
    dead_letter: Option<DeadLetter>,
    shared: Arc<Shared>,
    number: u32,
) {
    let mut concurrency = shared.concurrency.subscribe();
    loop {
        shared.wait_for_rate().await;
        let next = tokio::select! {
            biased;
            _ = concurrency.wait_for(|concurrency| *concurrency <= number) => return,
            next = shared.queue.pop() => next,
        };
        let Some(message) = next else { return };
        let worker = Worker { handler: &*handler, dead_letter: dead_letter.as_ref(), shared: &shared };
        let Some(by_key) = &shared.lanes else {
            worker.process(message).await;
            continue;
        };
        let Some(key) = (by_key.key)(&message) else {
            worker.process(message).await;
            continue;
        };
        let entered = by_key.lanes.lock().enter(key, message);
        let mut next = match entered {
            Entered::Free(message) => Some(message),
            Entered::Waits => None,
            Entered::Closed(message) => {
                let _ = message.requeue_without_backoff(Requeue::Now);
                None
            }
        };
        while let Some(message) = next {
            if message.is_expired(time::now()) {
                message.forget();
            } else {
                worker.process(message).await;
            }
            next = by_key.lanes.lock().next(key);
            if next.is_some() {
                shared.wait_for_rate().await;
            }
        }
    }
}

/// The call of a handler, as traces and metrics show it.
struct Processing {
    span: Span,
    #[cfg(feature = "otel")]
    context: opentelemetry::Context,
    begun_at: Option<Instant>,
}

impl Processing {
    fn begin(message: &Delivery, shared: &Shared) -> Self {
        if meters::ON {
            let lag = SystemTime::now().duration_since(message.timestamp()).unwrap_or_default();
            let wait = time::now().saturating_duration_since(message.received_at());
            shared.feedback.meter.begins(lag, wait);
        }
        let begun_at = meters::ON.then(time::now);
        #[cfg(feature = "otel")]
        let context = trace_context::of(message.headers());
        // The parent of the span is the one in the headers of the message.
        #[cfg(feature = "otel")]
        let _guard = context.clone().attach();
        let span = Span::process(message);
        Processing {
            span,
            #[cfg(feature = "otel")]
            context,
            begun_at,
        }
    }

    fn around<F: Future<Output = Ended> + Send>(
        &self,
        handling: F,
    ) -> impl Future<Output = Ended> + Send + use<F> {
        let handling = self.span.around(handling);
        #[cfg(feature = "otel")]
        let handling = opentelemetry::context::FutureExt::with_context(handling, self.context.clone());
        handling
    }

    fn end(&self, ended: &Ended, shared: &Shared) {
        if let Some(begun_at) = self.begun_at {
            shared.feedback.meter.handled(time::now().saturating_duration_since(begun_at));
        }
        let outcome = match ended {
            Ended::Panicked => "panicked",
            Ended::TimedOut(_) => "timed_out",
            Ended::With(outcome) => match outcome {
                Outcome::Finish => "finished",
                Outcome::Requeue { .. } => "requeued",
                Outcome::Fail(error) => {
                    self.span.record("error", error);
                    "failed"
                }
                Outcome::GiveUp(_) => "gave_up",
                Outcome::Reject { .. } => "rejected",
                Outcome::Forget => "forgotten",
            },
        };
        self.span.record("nsq.outcome", outcome);
    }
}

/// Runs a handler's future: touches its message as `keep_alive` says, and ends it after `handler_timeout`.
async fn supervise(handling: impl Future<Output = Outcome>, message: &Delivery, shared: &Shared) -> Ended {
    let mut handling = pin!(AssertUnwindSafe(handling).catch_unwind());
    let ended = |result: Result<Outcome, _>| result.map_or(Ended::Panicked, Ended::With);
    if !shared.keep_alive && shared.handler_timeout.is_none() {
        return ended(handling.await);
    }
    let started_at = time::now();
    let mut touch_at = shared.keep_alive.then(|| next_touch(message, started_at)).flatten();
    let end_at = shared.handler_timeout.map(|timeout| (started_at + timeout, timeout));
    loop {
        let wake_at = touch_at.into_iter().chain(end_at.map(|(at, _)| at)).min();
        let sleep = async {
            match wake_at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            result = &mut handling => return ended(result),
            () = sleep => {}
        }
        let now = time::now();
        if let Some((at, timeout)) = end_at
            && at <= now
        {
            return Ended::TimedOut(timeout);
        }
        if touch_at.is_some_and(|at| at <= now) {
            let touched = if message.is_taken() { Err(AnswerError::Late) } else { message.touch() };
            touch_at = match touched {
                Ok(()) | Err(AnswerError::Crowded) => next_touch(message, now),
                // Too late, the connection has ended, or the handler has taken the answer over.
                Err(_) => None,
            };
        }
    }
}

/// When to touch a message; `None` if that cannot extend its deadline.
fn next_touch(message: &Delivery, now: Instant) -> Option<Instant> {
    let deadline = message.deadline();
    let left = deadline.saturating_duration_since(now);
    (deadline < message.hard_deadline() && !left.is_zero()).then(|| now + left.mul_f64(KEEP_ALIVE_SHARE))
}

/// What a worker needs to answer a message.
struct Worker<'a, H> {
    handler: &'a H,
    dead_letter: Option<&'a DeadLetter>,
    shared: &'a Shared,
}

impl<H: Handler> Worker<'_, H> {
    /// Runs the handler for a message and answers it.
    async fn process(&self, mut message: Message) {
        let shared = self.shared;
        if shared.recent.as_ref().is_some_and(|recent| recent.lock().contains(&message.key())) {
            shared.feedback.counters.duplicates.fetch_add(1, Ordering::Relaxed);
            let _ = message.finish();
            return;
        }
        if shared.max_attempts > 0 && message.attempts() > shared.max_attempts {
            let reason = too_many_attempts(message.attempts());
            return self.give_up(message, &reason).await;
        }
        let delivery = message.lend();
        // Concurrent calls share the handler anyway, so it must tolerate a call that ends early.
        let handling = async { self.handler.handle(delivery).await.into_outcome() };
        let processing = Processing::begin(&message, shared);
        let ended = processing.around(supervise(handling, &message, shared)).await;
        processing.end(&ended, shared);
        let Some(message) = message.take_back() else { return };
        match ended {
            Ended::With(outcome) => self.answer(message, outcome).await,
            Ended::Panicked => {
                shared.feedback.counters.failed.fetch_add(1, Ordering::Relaxed);
                shared.feedback.meter.panicked.one();
                shared.feedback.emit(Event::HandlerPanicked { id: message.id() });
                let _ = message.requeue(Requeue::Auto);
            }
            Ended::TimedOut(after) => {
                let error = format!("the handler did not end within {after:?} (handler_timeout)");
                self.answer(message, Outcome::Fail(error.into())).await;
            }
        }
    }

    async fn answer(&self, message: Message, outcome: Outcome) {
        let feedback = &self.shared.feedback;
        // nsqd reports an answer that comes too late, and the consumer emits an event for it.
        let _ = match outcome {
            Outcome::Finish => {
                self.remember(&message);
                message.finish()
            }
            Outcome::Requeue { delay, backoff: true } => message.requeue(delay),
            Outcome::Requeue { delay, backoff: false } => message.requeue_without_backoff(delay),
            Outcome::Fail(error) => {
                feedback.counters.failed.fetch_add(1, Ordering::Relaxed);
                feedback.meter.failed.one();
                let (id, node, attempts) = (message.id(), message.node().into(), message.attempts());
                feedback.emit(Event::HandlerFailed { id, node, attempts, error: error.clone() });
                if error.is_permanent() {
                    return self.give_up(message, &error.to_string()).await;
                }
                message.requeue(Requeue::Auto)
            }
            Outcome::Reject { reason } => self.reject(message, &reason),
            Outcome::Forget => {
                message.forget();
                Ok(())
            }
            Outcome::GiveUp(reason) => return self.give_up(message, &reason).await,
        };
    }

    /// So that a delivery after a lost answer is not handled again.
    fn remember(&self, message: &Message) {
        if let Some(recent) = &self.shared.recent {
            recent.lock().add(message.key());
        }
    }

    fn reject(&self, message: Message, reason: &str) -> Result<(), AnswerError> {
        let node = message.node().into();
        let rejected = message.reject(reason);
        if let Err(error @ AnswerError::CannotReject) = &rejected {
            let (code, description) = (ErrorCode::RejFailed.as_str().to_owned(), error.to_string());
            self.shared.feedback.emit(Event::AnswerFailed { node, code, description });
        }
        rejected
    }

    /// The message is finished only after the hook and the dead letter have succeeded, so it is never lost here.
    async fn give_up(&self, message: Message, reason: &str) {
        let feedback = &self.shared.feedback;
        let (id, attempts) = (message.id(), message.attempts());
        let storing = async {
            self.handler.gave_up(Delivery::clone(&message)).await?;
            match self.dead_letter {
                Some(DeadLetter::Topic(topic)) => dead_letter::publish(topic, &message, reason).await,
                Some(DeadLetter::Server) | None => Ok(()),
            }
        };
        match AssertUnwindSafe(storing).catch_unwind().await {
            Err(_) => {
                feedback.emit(Event::HandlerPanicked { id });
                let _ = message.requeue(Requeue::Auto);
                return;
            }
            Ok(Err(error)) => {
                let node = message.node().into();
                feedback.emit(Event::GiveUpFailed { id, node, attempts, error });
                let _ = message.requeue(Requeue::Auto);
                return;
            }
            Ok(Ok(())) => {}
        }
        let given_up = match self.dead_letter {
            Some(DeadLetter::Server) => self.reject(message, reason),
            _ => {
                self.remember(&message);
                message.give_up()
            }
        };
        if given_up != Err(AnswerError::CannotReject) {
            feedback.counters.gave_up.fetch_add(1, Ordering::Relaxed);
            feedback.meter.gave_up.one();
            feedback.emit(Event::GaveUp { id, attempts, reason: reason.to_owned() });
        }
    }
}

#[cfg(all(test, feature = "otel", feature = "test-util"))]
mod tests {
    use opentelemetry::Context;
    use opentelemetry::trace::TraceContextExt;

    use super::*;
    use crate::producer::NewMessage;
    use crate::test_util::FakeDelivery;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[tokio::test]
    async fn handlers_continue_the_trace_of_the_message() {
        let shared = Shared::new(&crate::Config::new(), 0, Default::default(), None);
        let message = FakeDelivery::new("x").header("traceparent", PARENT).build();
        let handling = async {
            let context = Context::current();
            let span = context.span().span_context().clone();
            assert_eq!(span.trace_id().to_string(), PARENT[3..35]);
            // What the handler publishes belongs to the same trace.
            let published = NewMessage::new("y").traced();
            assert_eq!(published.headers, [("traceparent".to_owned(), PARENT.to_owned())]);
            let own = NewMessage::new("y").header("traceparent", "mine").traced();
            assert_eq!(own.headers.len(), 1);
            Ended::With(Outcome::Finish)
        };
        let processing = Processing::begin(&message, &shared);
        let ended = processing.around(handling).await;
        assert!(matches!(ended, Ended::With(Outcome::Finish)));
        processing.end(&ended, &shared);
        assert!(NewMessage::new("z").traced().headers.is_empty(), "the trace ends with the handler");
    }
}
