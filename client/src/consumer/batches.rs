//! Messages in batches, for bulk writes.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::Consumer;
use super::answer::Requeue;
use super::message::Message;
use super::stream::MessageStream;
use crate::error::AnswerError;
use crate::time;

/// The messages of a consumer in batches: from [`ConsumerBuilder::batches`](super::ConsumerBuilder::batches). Ends when the
/// consumer stops.
#[must_use = "dropping it stops the consumer"]
pub struct Batches {
    stream: MessageStream,
    max: usize,
    max_wait: Duration,
    /// The batch that is being filled. It stays here when the future of `next` is dropped.
    filling: Vec<Message>,
}

impl Batches {
    pub(super) fn new(stream: MessageStream, max: usize, max_wait: Duration) -> Self {
        Batches { stream, max, max_wait, filling: Vec::new() }
    }

    /// Waits for the next batch, which is never empty; `None` once the consumer shuts down and all batches are taken. Cancel
    /// safe: no message is lost.
    pub async fn next(&mut self) -> Option<Batch> {
        while self.filling.len() < self.max {
            let Some(oldest) = self.filling.first() else {
                let message = self.stream.next().await?;
                self.filling.push(message);
                continue;
            };
            if self.is_starved() {
                break;
            }
            // A message may not time out while it waits here.
            let until =
                (oldest.received_at() + self.max_wait).min(oldest.received_at() + oldest.time_limit() / 2);
            match tokio::time::timeout_at(until.into(), self.stream.next()).await {
                Ok(Some(message)) => self.filling.push(message),
                Ok(None) | Err(_) => break,
            }
        }
        // What had timed out before it was taken is delivered again.
        let now = time::now();
        let (expired, batch): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.filling).into_iter().partition(|message| message.is_expired(now));
        expired.into_iter().for_each(Message::forget);
        if batch.is_empty() { Box::pin(self.next()).await } else { Some(Batch { messages: batch }) }
    }

    /// Whether no more messages can come before some are answered.
    fn is_starved(&self) -> bool {
        let shared = self.stream.consumer().shared();
        let stats = shared.stats();
        let max_in_flight = shared.max_in_flight.load(std::sync::atomic::Ordering::Relaxed);
        stats.queued == 0 && stats.in_flight >= max_in_flight
    }

    /// Returns the handle of the consumer, to observe, pause or shut it down.
    pub fn consumer(&self) -> &Consumer {
        self.stream.consumer()
    }
}

/// Messages that are answered together or one by one. Dropping the batch requeues the unanswered ones.
#[derive(Debug)]
#[must_use = "dropping unanswered messages requeues them"]
pub struct Batch {
    messages: Vec<Message>,
}

impl Batch {
    /// Finishes all messages. Returns the first error; the other messages are finished nevertheless.
    pub fn finish(self) -> Result<(), AnswerError> {
        all(self.messages.into_iter().map(Message::finish))
    }

    /// Requeues all messages after a failure. Returns the first error; the other messages are requeued nevertheless.
    pub fn requeue(self, delay: impl Into<Requeue>) -> Result<(), AnswerError> {
        let delay = delay.into();
        all(self.messages.into_iter().map(|message| message.requeue(delay)))
    }

    /// The messages, to answer each one.
    pub fn into_messages(self) -> Vec<Message> {
        self.messages
    }
}

fn all(answers: impl Iterator<Item = Result<(), AnswerError>>) -> Result<(), AnswerError> {
    answers.fold(Ok(()), Result::and)
}

impl Deref for Batch {
    type Target = Vec<Message>;

    fn deref(&self) -> &Vec<Message> {
        &self.messages
    }
}

impl DerefMut for Batch {
    fn deref_mut(&mut self) -> &mut Vec<Message> {
        &mut self.messages
    }
}

impl IntoIterator for Batch {
    type Item = Message;
    type IntoIter = std::vec::IntoIter<Message>;

    fn into_iter(self) -> Self::IntoIter {
        self.messages.into_iter()
    }
}
