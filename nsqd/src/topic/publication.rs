//! A batch between append and release. Whoever published waits for [`Publication::committed`] before saying OK.

use std::sync::Arc;

use super::{PublishError, Topic};
use crate::engine::StorageError;
use crate::storage::journal::Ticket;

/// See the module. Dropping it before it is committed (an HTTP client went away) loses nothing: the messages are in
/// the journal's order already, so a task of its own waits for the journal and releases them.
#[must_use = "the messages are released when it is committed"]
pub struct Publication {
    topic: Arc<Topic>,
    from: u64,
    to: u64,
    ticket: Option<Ticket>,
    settled: bool,
}

impl Publication {
    pub(super) fn new(topic: Arc<Topic>, (from, to): (u64, u64), ticket: Option<Ticket>) -> Self {
        Publication { topic, from, to, ticket, settled: false }
    }

    /// Waits until the batch is as durable as asked, then releases it to the channels.
    pub async fn committed(mut self) -> Result<(), PublishError> {
        let result = match (self.topic.engine.journal.as_ref(), self.ticket.take()) {
            (Some(journal), Some(ticket)) => match journal.try_commit(ticket) {
                Ok(result) => result,
                Err(ticket) => journal.commit(ticket).await,
            },
            _ => Ok(()),
        };
        self.settle(result.map_err(StorageError::from))
    }

    fn settle(&mut self, result: Result<(), StorageError>) -> Result<(), PublishError> {
        self.settled = true;
        match result {
            Ok(()) => {
                self.topic.release(self.to);
                self.topic.spill();
                Ok(())
            }
            Err(error) => {
                self.topic.refuse(self.from, self.to);
                Err(error.into())
            }
        }
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let (topic, from, to) = (self.topic.clone(), self.from, self.to);
        // A ticket that is given up stays in its place: what is flushed after it, is written after it.
        let ticket = self.ticket.take();
        let finish = move || {
            drop(ticket);
            let flushed = topic.engine.journal.as_ref().map_or(Ok(()), |journal| journal.flush());
            // Nobody is left to be told.
            let _ = Publication { topic, from, to, ticket: None, settled: true }
                .settle(flushed.map_err(StorageError::from));
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(finish)),
            Err(_) => finish(),
        }
    }
}
