//! Messages as a stream, answered one by one.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;

use super::message::Message;
use super::{Consumer, gave_up_silently};

/// The messages of a consumer, in the order of their arrival. Ends when the consumer stops.
///
/// Each message must be answered; one that is dropped is requeued. `max_in_flight` bounds how many can be
/// unanswered. Dropping the stream stops the consumer: what is unanswered by then can still be answered
/// for a second.
#[must_use = "dropping the stream stops the consumer"]
pub struct MessageStream {
    consumer: Consumer,
}

impl MessageStream {
    pub(super) fn new(consumer: Consumer) -> Self {
        MessageStream { consumer }
    }

    /// The next message; `None` when the consumer has stopped. Cancel safe: no message is lost.
    pub async fn next(&mut self) -> Option<Message> {
        std::future::poll_fn(|context| self.poll_message(context)).await
    }

    /// Waits for a message and takes what else is there, up to `max` in all. Returns how many were appended
    /// to `messages`; 0 when the consumer has stopped. Cancel safe.
    pub async fn next_many(&mut self, messages: &mut Vec<Message>, max: usize) -> usize {
        if max == 0 {
            return 0;
        }
        let Some(first) = self.next().await else { return 0 };
        let before = messages.len();
        messages.push(first);
        while messages.len() < before + max {
            let seen = messages.len();
            self.consumer.shared().queue.take_into(messages, before + max - seen);
            if messages.len() == seen {
                break;
            }
            // The rule for single messages holds for these as well.
            let taken: Vec<Message> = messages.drain(seen..).collect();
            let now = crate::time::now();
            for message in taken {
                if message.is_expired(now) {
                    message.forget();
                } else if let Some(message) = gave_up_silently(self.consumer.shared(), message) {
                    messages.push(message);
                }
            }
        }
        messages.len() - before
    }

    /// The consumer: to pause, look at, or shut down.
    pub fn consumer(&self) -> &Consumer {
        &self.consumer
    }

    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Option<Message>> {
        loop {
            match self.consumer.shared().queue.poll_pop(context) {
                Poll::Ready(Some(message)) => {
                    if let Some(message) = gave_up_silently(self.consumer.shared(), message) {
                        return Poll::Ready(Some(message));
                    }
                }
                other => return other,
            }
        }
    }
}

impl Stream for MessageStream {
    type Item = Message;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        self.get_mut().poll_message(context)
    }
}

impl Drop for MessageStream {
    fn drop(&mut self) {
        // Other handles may live on, but nobody will ever take a message again.
        self.consumer.stop_in_background();
    }
}
