//! Where one publish's result arrives.
//!
//! ```text
//!            write                 complete
//!  Queued ─────────▶ Written ─────────────────▶ Done
//!    │  ◀── retry ──────┼───────────────────────┘
//!    └── cancel ──▶ Cancelled ◀── cancel ── Written
//! ```
//!
//! One lock decides between writing and cancelling, so a publish that was given up in time is certain not
//! to be sent, and one that was not is certain to be reported as possibly sent.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::Disconnect;

/// How a publish failed at one node.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    NotSent(Disconnect),
    Refused { code: String, description: String },
    Unknown(Disconnect),
    TooBig { size: usize, max: usize },
}

pub(super) type SlotResult = Result<(), Failure>;

#[derive(Debug)]
enum State {
    Queued(Option<Waker>),
    Written(Option<Waker>),
    Done(SlotResult),
    Cancelled,
}

/// What a publish had come to when it was cancelled.
#[derive(Debug)]
pub(super) enum Cancelled {
    /// It will not be sent.
    NotSent,
    /// It was sent; whatever the answer is, nobody will hear it.
    Written,
    Done(SlotResult),
}

pub(super) struct Slot {
    state: Mutex<State>,
    /// Its share of what may be pending: given back with the final result, whether or not anybody looks at it.
    room: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Slot {
    pub(super) fn new(room: OwnedSemaphorePermit) -> Arc<Self> {
        Arc::new(Slot { state: Mutex::new(State::Queued(None)), room: Mutex::new(Some(room)) })
    }

    /// About to be written. False if it must not be, because it was cancelled.
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
        // What may be retried is still pending.
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

    /// Ready for another node, after a failure.
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
            // Only its owner cancels, and does not ask afterwards.
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
    async fn what_is_cancelled_in_time_is_not_written() {
        let slot = slot().await;
        assert!(matches!(slot.cancel(), Cancelled::NotSent));
        assert!(!slot.write());
    }

    #[tokio::test]
    async fn what_was_written_is_not_called_unsent() {
        let slot = slot().await;
        assert!(slot.write());
        assert!(!slot.write(), "only once");
        assert!(matches!(slot.cancel(), Cancelled::Written));
        slot.complete(Ok(()));
    }

    #[tokio::test]
    async fn a_result_wakes_and_survives_cancelling() {
        let slot = slot().await;
        slot.write();
        let waiting = tokio::spawn({
            let slot = Arc::clone(&slot);
            async move { std::future::poll_fn(|context| slot.poll(context)).await }
        });
        tokio::task::yield_now().await;
        slot.complete(Ok(()));
        assert!(waiting.await.unwrap().is_ok());
        assert!(matches!(slot.cancel(), Cancelled::Done(Ok(()))));
    }
}
