//! What a caller holds until its record is written: a ticket, then a future.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use super::{
    JournalError,
    group::{Group, Progress},
};

/// Represents an appended record until its outcome is known.
///
/// Dropping it ignores the outcome; the record is still written.
#[must_use = "a publish is acknowledged only after its ticket was committed"]
pub struct Ticket {
    group: Arc<Group>,
    batch: u64,
    resolved: bool,
    /// Others were likely to append to the same batch.
    others_may_come: bool,
}

impl Ticket {
    pub(super) fn new(group: Arc<Group>, batch: u64, others_may_come: bool) -> Self {
        Self { group, batch, resolved: false, others_may_come }
    }

    /// Whether it pays to let other tasks run before this is committed: they are likely to append to the same
    /// batch, which is written once for all. Only a hint.
    #[inline]
    pub fn should_yield(&self) -> bool {
        self.others_may_come && !self.group.surely_written(self.batch)
    }

    /// See [`Journal::try_commit`](super::Journal::try_commit).
    pub(super) fn try_commit(mut self) -> Result<Result<(), JournalError>, Self> {
        let outcome = match self.progress() {
            Progress::Done(outcome) => Some(outcome),
            Progress::Wait(_) => None,
        };
        outcome.ok_or(self)
    }

    #[inline]
    fn progress(&mut self) -> Progress<'_> {
        let progress = self.group.progress(self.batch);
        self.resolved = matches!(progress, Progress::Done(_));
        progress
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.resolved {
            self.group.abandon(self.batch);
        }
    }
}

/// The future of [`Journal::commit`](super::Journal::commit).
///
/// Cancel safety: dropping it loses only the outcome.
#[must_use = "futures do nothing unless polled"]
pub struct Commit {
    ticket: Ticket,
    /// The waiter's number, once it waits.
    waiter: Option<u64>,
}

impl Commit {
    pub(super) fn new(ticket: Ticket) -> Self {
        Self { ticket, waiter: None }
    }
}

impl Future for Commit {
    type Output = Result<(), JournalError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { ticket, waiter } = self.get_mut();
        if waiter.is_some() {
            ticket.group.wake_the_rest();
        }
        match ticket.progress() {
            Progress::Done(outcome) => {
                *waiter = None;
                Poll::Ready(outcome)
            }
            Progress::Wait(turn) => {
                *waiter = Some(turn.wait(*waiter, cx.waker()));
                Poll::Pending
            }
        }
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            self.ticket.group.leave(waiter);
        }
    }
}

/// Blocks the thread until the commit is done.
pub(super) fn block_on(commit: Commit) -> Result<(), JournalError> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut commit = std::pin::pin!(commit);
    loop {
        if let Poll::Ready(outcome) = commit.as_mut().poll(&mut Context::from_waker(&waker)) {
            return outcome;
        }
        thread::park();
    }
}
