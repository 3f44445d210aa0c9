//! What an application does with messages: a handler whose return value is the answer.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;

use super::message::{Delivery, Message, Requeue};
use super::shared::{Event, Shared};

/// The verdict on a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done: nsqd forgets the message.
    Finish,
    /// Deliver it again.
    Requeue {
        /// When.
        delay: Requeue,
        /// Whether this is a failure that the consumer should back off for.
        backoff: bool,
    },
    /// It will never succeed: finish it, but do not take that for a success. Calls
    /// [`Handler::gave_up`].
    GiveUp,
    /// Say nothing and let it time out.
    Forget,
}

/// What a handler may return. `()` and `Ok(_)` finish; `Err(_)` requeues with the computed delay and backs
/// off; an [`Outcome`] says exactly what to do.
pub trait IntoOutcome {
    /// The verdict this stands for.
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
/// Functions and closures `Fn(Delivery) -> impl Future` are handlers, so an `async` closure will do:
///
/// ```
/// # fn handler(_: impl nsq::Handler) {}
/// handler(async |message: nsq::Delivery| println!("{:?}", message.body()));
/// handler(|message: nsq::Delivery| async move { String::from_utf8(message.body().to_vec()).map(drop) });
/// ```
///
/// An `async` closure that uses captured variables must not borrow them from itself: clone them into an
/// `async move` block as in the second line, or implement the trait for a struct that owns them.
///
/// A panic is caught: the message is requeued and counts as failed. If the consumer stops and its patience
/// ends, the handler's future is dropped where it stands, and the message requeued.
pub trait Handler: Send + Sync + 'static {
    /// Handles one message.
    fn handle(&self, message: Delivery) -> impl Future<Output = impl IntoOutcome + Send> + Send;

    /// Told of a message that is given up, after `max_attempts` or by [`Outcome::GiveUp`], before it is
    /// finished. This is the place to keep it elsewhere.
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

/// Takes messages and has them handled, one at a time, until the queue is closed. Dropping this future
/// drops the handler's, and with it the message, which is then requeued.
pub(super) async fn work<H: Handler>(handler: Arc<H>, shared: Arc<Shared>) {
    while let Some(message) = shared.queue.pop().await {
        let hopeless = shared.max_attempts > 0 && message.attempts() > shared.max_attempts;
        let delivery = Delivery::clone(&message);
        let outcome = if hopeless {
            Ok(Outcome::GiveUp)
        } else {
            // A handler is shared with its other calls anyway, so it must cope with one that broke off.
            let handling = async { handler.handle(delivery).await.into_outcome() };
            AssertUnwindSafe(handling).catch_unwind().await
        };
        match outcome {
            Ok(outcome) => answer(&*handler, &shared, message, outcome).await,
            Err(_) => {
                shared.emit(Event::HandlerPanicked { id: message.id() });
                let _ = message.requeue(Requeue::Auto);
            }
        }
    }
}

async fn answer<H: Handler>(handler: &H, shared: &Shared, message: Message, outcome: Outcome) {
    // Answers that come too late are reported by nsqd and end as events.
    let _ = match outcome {
        Outcome::Finish => message.finish(),
        Outcome::Requeue { delay, backoff: true } => message.requeue(delay),
        Outcome::Requeue { delay, backoff: false } => message.requeue_without_backoff(delay),
        Outcome::Forget => {
            message.forget();
            Ok(())
        }
        Outcome::GiveUp => {
            let keeping = AssertUnwindSafe(handler.gave_up(Delivery::clone(&message))).catch_unwind();
            if keeping.await.is_err() {
                shared.emit(Event::HandlerPanicked { id: message.id() });
                // It was not kept elsewhere, so it must not be lost here.
                let _ = message.requeue(Requeue::Auto);
                return;
            }
            shared.counters.gave_up.fetch_add(1, Ordering::Relaxed);
            shared.emit(Event::GaveUp { id: message.id(), attempts: message.attempts() });
            message.give_up()
        }
    };
}
