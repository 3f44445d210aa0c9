//! A batch between append and release. Publishers wait for [`Publication::committed`] before they answer OK.

use std::sync::Arc;

use nsq_protocol::message_id::MessageId;

use super::deduplicating::{Once, outcome_of};
use super::{PublishError, Topic};
use crate::engine::StorageError;
use crate::storage::SequenceRange;
use crate::storage::journal::{Commit, JournalError, Ticket};

/// A published batch; see the module. Dropping it before it is committed (an HTTP client disconnected) loses nothing:
/// the messages are in the journal, so a separate task waits for the commit and releases them.
#[must_use = "the messages are released when it is committed"]
pub struct Publication {
    topic: Arc<Topic>,
    sequences: SequenceRange,
    waiting: Waiting,
    /// Only a separate task waits for it.
    orphaned: bool,
    /// For messages with ids.
    once: Option<Box<Once>>,
    /// The outcome of its own messages, if it is known before [`Publication::committed`].
    settled: Option<Box<Result<(), PublishError>>>,
}

/// What the producer of a message may learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedMessage {
    /// The id of the message, or of the one that has the same `nsq-id`.
    pub id: MessageId,
    /// Whether the message was not stored, because the topic has one with the same `nsq-id`.
    pub is_duplicate: bool,
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
    pub(super) fn new(
        topic: Arc<Topic>,
        (sequences, ticket): (SequenceRange, Option<Ticket>),
        once: Option<Once>,
    ) -> Self {
        Publication {
            topic,
            sequences,
            waiting: ticket.map_or(Waiting::Nothing, Waiting::Write),
            orphaned: false,
            once: once.map(Box::new),
            settled: None,
        }
    }

    /// A publication that stores nothing.
    pub(super) fn of_duplicates(
        topic: Arc<Topic>,
        answers: Vec<(u64, bool)>,
        others: Vec<super::deduplicating::Outcome>,
    ) -> Self {
        Publication {
            topic,
            sequences: SequenceRange::default(),
            waiting: Waiting::Completed,
            orphaned: false,
            once: Some(Box::new(Once { answers, outcome: None, others })),
            settled: Some(Box::new(Ok(()))),
        }
    }

    /// Its message at `index`; `None` if an ephemeral topic had no room for it.
    pub fn message(&self, index: usize) -> Option<PublishedMessage> {
        let (sequence, is_duplicate) = match &self.once {
            Some(once) => *once.answers.get(index)?,
            None => (
                Some(self.sequences.from + index as u64).filter(|&sequence| sequence < self.sequences.to)?,
                false,
            ),
        };
        Some(PublishedMessage { id: MessageId::from_u64(self.topic.log().id_of(sequence)), is_duplicate })
    }

    /// Whether it has duplicates whose messages are in other publications that are not settled. The owner of several
    /// publications must then settle all of them before it waits for one: two owners could otherwise wait for each
    /// other.
    pub fn depends_on_others(&self) -> bool {
        self.once.as_ref().is_some_and(|once| !once.others.is_empty())
    }

    /// Does the part of [`Publication::committed`] that depends on no other publication.
    pub async fn settle(&mut self) {
        if self.settled.is_none() {
            let result = self.journal_result().await;
            self.settled = Some(Box::new(self.complete(result)));
        }
    }

    /// Waits until the batch is as durable as configured, then releases it to the channels. Then waits for the disk if
    /// it is slower than the publishers. Dropping the future after the release changes nothing. Its duplicates must be
    /// in messages that are as durable: if such a message is refused, so is the publication.
    pub async fn committed(mut self) -> Result<(), PublishError> {
        match self.settled.take() {
            Some(result) => (*result)?,
            None => {
                let result = self.journal_result().await;
                self.complete(result)?;
            }
        }
        if let Some(once) = self.once.take() {
            for other in once.others {
                outcome_of(other).await?;
            }
        }
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
        let result = match result {
            Ok(()) => {
                self.topic.release(self.sequences.to);
                Ok(())
            }
            Err(error) => {
                self.topic.engine.metrics().refused_publishes.add(1);
                self.topic.refuse(self.sequences.from, self.sequences.to);
                Err(StorageError::of_commit(&error, "the message may be delivered later,").into())
            }
        };
        if let Some(outcome) = self.once.as_mut().and_then(|once| once.outcome.take()) {
            self.topic.settle_ids(self.sequences.from, result.is_ok());
            outcome.send_replace(Some(result.clone()));
        }
        result
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
            let mut once = self.once.take();
            if let Some(once) = &mut once {
                once.others.clear();
            }
            let sequences = self.sequences;
            let rest = Publication { topic, sequences, waiting, orphaned: true, once, settled: None };
            // No one waits for the result any more.
            drop(runtime.spawn(rest.committed()));
        }
    }
}
