//! Handlers: the application's code for a message. The return value decides how the message is answered.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use nsq_protocol::ErrorCode;

use super::answer::Requeue;
use super::feedback::Event;
use super::message::{Delivery, Message};
use super::shared::Shared;
use crate::error::AnswerError;

/// How to answer a message.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Give the message up, because it can never succeed: call [`Handler::gave_up`], then finish the message. This does
    /// not count as a success.
    GiveUp,
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

/// A type that a handler may return.
///
/// `()` finishes the message. `Ok(value)` acts as `value`. `Err(_)` requeues with [`Requeue::Auto`] and backs off. An
/// [`Outcome`] says exactly what to do.
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

impl<T: IntoOutcome, E> IntoOutcome for Result<T, E> {
    fn into_outcome(self) -> Outcome {
        match self {
            Ok(outcome) => outcome.into_outcome(),
            Err(_) => Outcome::Requeue { delay: Requeue::Auto, backoff: true },
        }
    }
}

/// Handles messages, up to `concurrency` at a time.
///
/// Functions and closures `Fn(Delivery) -> impl Future` are handlers, and so are `async` closures:
///
/// ```
/// # fn handler(_: impl nsq::Handler) {}
/// handler(async |message: nsq::Delivery| println!("{:?}", message.body()));
/// handler(|message: nsq::Delivery| async move { String::from_utf8(message.body().to_vec()).map(drop) });
/// ```
///
/// The future of an `async` closure must not borrow the closure's captured variables. Clone them into an `async move`
/// block as in the second line, or implement the trait for a struct that owns them.
///
/// A panic is caught: the message is requeued and counts as failed. At the deadline of a shutdown, the handler's future
/// is dropped at its current await, and the message is requeued or left to time out: see [`Drain`](super::Drain).
pub trait Handler: Send + Sync + 'static {
    /// Handles one message.
    fn handle(&self, message: Delivery) -> impl Future<Output = impl IntoOutcome + Send> + Send;

    /// Receives a message that is given up, after `max_attempts` or by [`Outcome::GiveUp`], before it is finished. It
    /// can store the message elsewhere. If it panics, the message is requeued instead.
    fn gave_up(&self, message: Delivery) -> impl Future<Output = ()> + Send {
        drop(message);
        std::future::ready(())
    }
}

impl<F, Fut, O> Handler for F
where
    F: Fn(Delivery) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = O> + Send,
    O: IntoOutcome + Send,
{
    fn handle(&self, message: Delivery) -> impl Future<Output = impl IntoOutcome + Send> + Send {
        self(message)
    }
}

/// Takes messages and runs the handler for one at a time, until the queue is closed. Dropping this future drops the
/// handler's future and the message, which is then requeued or left to time out.
pub(super) async fn work<H: Handler>(handler: Arc<H>, shared: Arc<Shared>) {
    while let Some(message) = shared.queue.pop().await {
        let is_exhausted = shared.max_attempts > 0 && message.attempts() > shared.max_attempts;
        let delivery = Delivery::clone(&message);
        let outcome = if is_exhausted {
            Ok(Outcome::GiveUp)
        } else {
            // Concurrent calls share the handler anyway, so it must tolerate a call that ends early.
            let handling = async { handler.handle(delivery).await.into_outcome() };
            AssertUnwindSafe(handling).catch_unwind().await
        };
        match outcome {
            Ok(outcome) => answer(&*handler, &shared, message, outcome).await,
            Err(_) => {
                shared.feedback.emit(Event::HandlerPanicked { id: message.id() });
                let _ = message.requeue(Requeue::Auto);
            }
        }
    }
}

async fn answer<H: Handler>(handler: &H, shared: &Shared, message: Message, outcome: Outcome) {
    // nsqd reports an answer that comes too late, and the consumer emits an event for it.
    let _ = match outcome {
        Outcome::Finish => message.finish(),
        Outcome::Requeue { delay, backoff: true } => message.requeue(delay),
        Outcome::Requeue { delay, backoff: false } => message.requeue_without_backoff(delay),
        Outcome::Reject { reason } => {
            let node = message.node().into();
            let rejected = message.reject(reason);
            if let Err(error @ AnswerError::CannotReject) = &rejected {
                let (code, description) = (ErrorCode::RejFailed.as_str().to_owned(), error.to_string());
                shared.feedback.emit(Event::AnswerFailed { node, code, description });
            }
            rejected
        }
        Outcome::Forget => {
            message.forget();
            Ok(())
        }
        Outcome::GiveUp => {
            let giving_up = AssertUnwindSafe(handler.gave_up(Delivery::clone(&message))).catch_unwind();
            if giving_up.await.is_err() {
                shared.feedback.emit(Event::HandlerPanicked { id: message.id() });
                // The handler may not have stored the message, so it must not be lost here.
                let _ = message.requeue(Requeue::Auto);
                return;
            }
            shared.feedback.counters.gave_up.fetch_add(1, Ordering::Relaxed);
            shared.feedback.emit(Event::GaveUp { id: message.id(), attempts: message.attempts() });
            message.give_up()
        }
    };
}
