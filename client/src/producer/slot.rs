//! The place for the result of one publish.
//!
//! ```text
//!            write                 complete
//!  Queued ─────────▶ Written ─────────────────▶ Done
//!    │  ◀── retry ──────┼───────────────────────┘
//!    └── cancel ──▶ Cancelled ◀── cancel ── Written
//! ```
//!
//! One lock decides between writing and cancelling. So a publish that is cancelled before it is written is never sent,
//! and one that is cancelled later is always reported as possibly sent.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use super::PublishedMessage;
use crate::error::Disconnect;

/// How a publish failed at one node.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    NotSent(Disconnect),
    Refused { code: String, description: String },
    Unknown(Disconnect),
    TooBig { size: usize, max: usize },
    HeadersUnsupported,
}

/// What nsqd says of a published message, if it was asked to.
pub(super) type Answer = Option<PublishedMessage>;
pub(super) type SlotResult = Result<Answer, Failure>;

#[derive(Debug)]
enum State {
    Queued(Option<Waker>),
    Written(Option<Waker>),
    Done(SlotResult),
    Cancelled,
}

/// The state of a publish when it was cancelled.
#[derive(Debug)]
pub(super) enum Cancelled {
    /// The publish will not be sent.
    NotSent,
    /// The publish was sent, and its answer is discarded.
    Written,
    Done(SlotResult),
}

pub(super) struct Slot {
    state: Mutex<State>,
    /// The share of the pending limit. The final result releases it, even if nothing polls for the result.
    room: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Slot {
    pub(super) fn new(room: OwnedSemaphorePermit) -> Arc<Self> {
        Arc::new(Slot { state: Mutex::new(State::Queued(None)), room: Mutex::new(Some(room)) })
    }

    /// Marks the publish as written. Returns false if it must not be written, because it was cancelled.
    pub(super) fn write(&self) -> bool {
        let mut state = self.state.lock();
        match &mut *state {
            State::Queued(waker) => {
                *state = State::Written(waker.take());
                true
            }
            _ => false,
        }
    }

    pub(super) fn complete(&self, result: SlotResult) {
        // A publish that may be retried is still pending.
        let is_final = !matches!(result, Err(Failure::NotSent(_) | Failure::Unknown(_)));
        let waker = {
            let mut state = self.state.lock();
            match &mut *state {
                State::Queued(waker) | State::Written(waker) => {
                    let waker = waker.take();
                    *state = State::Done(result);
                    waker
                }
                State::Done(_) | State::Cancelled => None,
            }
        };
        if is_final {
            drop(self.room.lock().take());
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn cancel(&self) -> Cancelled {
        match std::mem::replace(&mut *self.state.lock(), State::Cancelled) {
            State::Queued(_) => Cancelled::NotSent,
            State::Written(_) | State::Cancelled => Cancelled::Written,
            State::Done(result) => Cancelled::Done(result),
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        matches!(&*self.state.lock(), State::Cancelled)
    }

    /// Resets the slot for another attempt after a failure.
    pub(super) fn retry(&self) {
        *self.state.lock() = State::Queued(None);
    }

    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<SlotResult> {
        match &mut *self.state.lock() {
            State::Done(result) => Poll::Ready(result.clone()),
            State::Queued(waker) | State::Written(waker) => {
                if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
                    *waker = Some(context.waker().clone());
                }
                Poll::Pending
            }
            // Only the owner cancels, and it does not poll afterwards.
            State::Cancelled => Poll::Ready(Err(Failure::Unknown(Disconnect::Stopped))),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    async fn slot() -> Arc<Slot> {
        Slot::new(Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap())
    }

    #[tokio::test]
    async fn publish_cancelled_in_the_queue_is_not_written() {
        let slot = slot().await;
        assert!(matches!(slot.cancel(), Cancelled::NotSent));
        assert!(!slot.write());
    }

    #[tokio::test]
    async fn publish_cancelled_after_writing_is_reported_as_written() {
        let slot = slot().await;
        assert!(slot.write());
        assert!(!slot.write(), "a publish is written only once");
        assert!(matches!(slot.cancel(), Cancelled::Written));
        slot.complete(Ok(None));
    }

    #[tokio::test]
    async fn result_wakes_the_waiter_and_survives_cancelling() {
        let slot = slot().await;
        slot.write();
        let waiting = tokio::spawn({
            let slot = Arc::clone(&slot);
            async move { std::future::poll_fn(|context| slot.poll(context)).await }
        });
        tokio::task::yield_now().await;
        slot.complete(Ok(None));
        assert!(waiting.await.unwrap().is_ok());
        assert!(matches!(slot.cancel(), Cancelled::Done(Ok(None))));
    }
}
