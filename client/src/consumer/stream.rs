//! Messages as a stream. The application answers each one.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;

use super::message::Message;
use super::{Consumer, gave_up_silently};

/// The messages of a consumer, in the order of their arrival. Ends when the consumer stops.
///
/// Each message must be answered; dropping one requeues it. `max_in_flight` limits the number of unanswered messages.
/// Dropping the stream shuts the consumer down, with a deadline of one second for messages that are still unanswered.
#[must_use = "dropping the stream stops the consumer"]
pub struct MessageStream {
    consumer: Consumer,
}

impl MessageStream {
    pub(super) fn new(consumer: Consumer) -> Self {
        MessageStream { consumer }
    }

    /// Waits for the next message; `None` once the consumer shuts down. Cancel safe: no message is lost.
    pub async fn next(&mut self) -> Option<Message> {
        std::future::poll_fn(|context| self.poll_message(context)).await
    }

    /// Waits for a message and takes the others that have arrived, up to `max` in total. Returns how many were appended
    /// to `messages`; 0 once the consumer shuts down, or if `max` is 0. Cancel safe.
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
            // Apply the checks for single messages to these too.
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

    /// Returns the handle of the consumer, to observe, pause or shut it down.
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
        // Other handles may remain, but nothing can take messages any more.
        self.consumer.stop_in_background();
    }
}
