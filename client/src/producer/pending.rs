//! One publish that is under way, from the call to its result: a single allocation that the caller, the queue of a node
//! and the list of unanswered publishes share.
//!
//! ```text
//!            write               finish
//!  Queued ─────────▶ Written ─────────────▶ Done
//!    │  ◀── retry ──────┘                     ▲
//!    └── cancel, deadline ────────────────────┘
//! ```
//!
//! One lock decides between writing and cancelling. So a publish that is cancelled before it is written is never sent,
//! and one whose deadline passes later is always reported as possibly sent.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use parking_lot::Mutex;

use super::publication::Publication;
use super::{PublishedMessage, Receipt};
use crate::error::{Disconnect, PublishError};

/// How a publish failed at one node.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    NotSent(Disconnect),
    Refused {
        code: String,
        description: String,
    },
    /// nsqd refused a batch, perhaps because of another message in it.
    BatchRefused {
        code: String,
        description: String,
    },
    Unknown(Disconnect),
    TooBig {
        index: usize,
        size: usize,
        limit: usize,
    },
    HeadersUnsupported,
}

impl Failure {
    /// What the refusal of a batch means for one of its messages: it is sent alone.
    pub(super) fn of_batch(self) -> Self {
        match self {
            Failure::Refused { code, description } => Failure::BatchRefused { code, description },
            other => other,
        }
    }
}

/// What nsqd says of a published message, if it was asked to.
pub(super) type Answer = Option<PublishedMessage>;
pub(super) type NodeResult = Result<Answer, Failure>;

/// The result for the caller.
pub(super) type Outcome = Result<Receipt, PublishError>;

#[derive(Debug)]
enum Step {
    Queued,
    Written,
    Done(Outcome),
    /// The caller has the result.
    Taken,
}

#[derive(Debug)]
struct State {
    step: Step,
    attempts: u32,
    /// nsqd refused a batch with this message: it is sent alone.
    alone: bool,
    waker: Option<Waker>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) publication: Publication,
    pub(super) deadline: Instant,
    /// The share of the pending limit. The code that finishes the publish gives it back.
    pub(super) cost: u32,
    state: Mutex<State>,
}

impl Pending {
    pub(super) fn new(publication: Publication, deadline: Instant, cost: u32) -> Arc<Self> {
        let state = State { step: Step::Queued, attempts: 1, alone: false, waker: None };
        Arc::new(Pending { publication, deadline, cost, state: Mutex::new(state) })
    }

    /// Marks the publish as written. Returns false if it has its result already.
    pub(super) fn write(&self) -> bool {
        let mut state = self.state.lock();
        let is_queued = matches!(state.step, Step::Queued);
        if is_queued {
            state.step = Step::Written;
        }
        is_queued
    }

    /// Whether the publish may share an MPUB with others.
    pub(super) fn may_batch(&self) -> bool {
        self.publication.may_batch && !self.state.lock().alone
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.state.lock().step, Step::Done(_) | Step::Taken)
    }

    pub(super) fn attempts(&self) -> u32 {
        self.state.lock().attempts
    }

    /// Prepares another attempt. Returns false if the publish has its result already.
    pub(super) fn retry(&self, alone: bool) -> bool {
        let mut state = self.state.lock();
        if matches!(state.step, Step::Done(_) | Step::Taken) {
            return false;
        }
        state.step = Step::Queued;
        state.attempts += 1;
        state.alone |= alone;
        true
    }

    /// Sets the result, which `outcome` makes from the number of attempts. Returns the share of the pending limit to give
    /// back, and 0 if the publish had its result already.
    pub(super) fn finish(&self, outcome: impl FnOnce(u32) -> Outcome) -> u32 {
        self.finish_if(|step| matches!(step, Step::Queued | Step::Written), outcome)
    }

    /// Like [`finish`](Pending::finish), unless the publish is written: then nsqd may have it.
    pub(super) fn finish_unwritten(&self, outcome: impl FnOnce(u32) -> Outcome) -> u32 {
        self.finish_if(|step| matches!(step, Step::Queued), outcome)
    }

    fn finish_if(&self, may: impl FnOnce(&Step) -> bool, outcome: impl FnOnce(u32) -> Outcome) -> u32 {
        let waker = {
            let mut state = self.state.lock();
            if !may(&state.step) {
                return 0;
            }
            state.step = Step::Done(outcome(state.attempts));
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        self.cost
    }

    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.state.lock();
        match &state.step {
            Step::Done(_) => match std::mem::replace(&mut state.step, Step::Taken) {
                Step::Done(outcome) => Poll::Ready(outcome),
                _ => Poll::Ready(Err(PublishError::Closed)),
            },
            // A future must not be polled after it was ready.
            Step::Taken => Poll::Ready(Err(PublishError::Closed)),
            Step::Queued | Step::Written => {
                if !state.waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
                    state.waker = Some(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::super::publication::TopicText;
    use super::*;

    fn pending() -> Arc<Pending> {
        let publication = Publication::new(TopicText::new("t").unwrap(), "body".into()).unwrap();
        Pending::new(publication, Instant::now(), 7)
    }

    fn closed(_: u32) -> Outcome {
        Err(PublishError::Closed)
    }

    #[test]
    fn publish_cancelled_in_the_queue_is_not_written() {
        let pending = pending();
        assert_eq!(pending.finish_unwritten(closed), 7);
        assert!(!pending.write());
        assert_eq!(pending.finish(closed), 0, "its share is given back once");
    }

    #[test]
    fn written_publish_cannot_be_cancelled() {
        let pending = pending();
        assert!(pending.write());
        assert!(!pending.write(), "a publish is written once per attempt");
        assert_eq!(pending.finish_unwritten(closed), 0);
        assert!(!pending.is_done());
        assert!(pending.retry(true) && !pending.may_batch());
        assert_eq!(pending.attempts(), 2);
        assert_eq!(pending.finish_unwritten(closed), 7);
        assert!(!pending.retry(false), "it has its result");
    }

    #[tokio::test]
    async fn result_wakes_the_waiter() {
        let pending = pending();
        let waiting = tokio::spawn({
            let pending = Arc::clone(&pending);
            async move { poll_fn(|context| pending.poll(context)).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(pending.finish(closed), 7);
        assert!(matches!(waiting.await.unwrap(), Err(PublishError::Closed)));
    }
}
