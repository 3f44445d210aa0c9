//! A batch between append and release. Publishers wait for [`Publication::committed`] before they answer OK.

use std::sync::Arc;

use super::{PublishError, Topic};
use crate::engine::StorageError;
use crate::storage::journal::{Commit, JournalError, Ticket};

/// A published batch; see the module. Dropping it before it is committed (an HTTP client disconnected) loses nothing:
/// the messages are in the journal, so a separate task waits for the commit and releases them.
#[must_use = "the messages are released when it is committed"]
pub struct Publication {
    topic: Arc<Topic>,
    from: u64,
    to: u64,
    waiting: Waiting,
    /// Only a separate task waits for it.
    orphaned: bool,
}

enum Waiting {
    /// The write is not requested yet.
    Write(Ticket),
    /// The write is requested.
    Commit(Commit),
    /// There is no journal for this topic.
    Nothing,
    /// Released or refused.
    Completed,
}

impl Publication {
    pub(super) fn new(topic: Arc<Topic>, (from, to): (u64, u64), ticket: Option<Ticket>) -> Self {
        Publication {
            topic,
            from,
            to,
            waiting: ticket.map_or(Waiting::Nothing, Waiting::Write),
            orphaned: false,
        }
    }

    /// Waits until the batch is as durable as configured, then releases it to the channels. Then waits for the disk if
    /// it is slower than the publishers. Dropping the future after the release changes nothing.
    pub async fn committed(mut self) -> Result<(), PublishError> {
        let result = self.journal_result().await;
        self.complete(result)?;
        self.topic.relieve_memory().await;
        Ok(())
    }

    /// Dropping the future keeps the pending commit in `self`.
    async fn journal_result(&mut self) -> Result<(), JournalError> {
        let Some(journal) = self.topic.engine.store.journal.clone() else { return Ok(()) };
        if let Waiting::Write(ticket) = &self.waiting
            && ticket.should_yield()
        {
            tokio::task::yield_now().await;
        }
        if let Waiting::Write(ticket) = std::mem::replace(&mut self.waiting, Waiting::Nothing) {
            match journal.try_commit(ticket) {
                Ok(result) => return result,
                Err(ticket) => self.waiting = Waiting::Commit(journal.commit(ticket)),
            }
        }
        match &mut self.waiting {
            Waiting::Commit(commit) => commit.await,
            Waiting::Write(_) | Waiting::Nothing | Waiting::Completed => Ok(()),
        }
    }

    fn complete(&mut self, result: Result<(), JournalError>) -> Result<(), PublishError> {
        self.waiting = Waiting::Completed;
        match result {
            Ok(()) => {
                self.topic.release(self.to);
                Ok(())
            }
            Err(error) => {
                self.topic.engine.metrics().refused_publishes.add(1);
                self.topic.refuse(self.from, self.to);
                Err(StorageError::of_commit(&error, "the message may be delivered later,").into())
            }
        }
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        let waiting = std::mem::replace(&mut self.waiting, Waiting::Completed);
        if matches!(waiting, Waiting::Completed) || self.orphaned {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let topic = self.topic.clone();
            let rest = Publication { topic, from: self.from, to: self.to, waiting, orphaned: true };
            // No one waits for the result any more.
            drop(runtime.spawn(rest.committed()));
        }
    }
}
