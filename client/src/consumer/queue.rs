//! The queue between the connections and the application.
//!
//! RDY bounds its length, with one exception: if the application blocks for longer than the message timeout, nsqd
//! delivers messages again. So the queue drops messages that have timed out: they would be handled twice, and they
//! would accumulate.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::message::Message;
use crate::rdy::ConnectionId;
use crate::time;

#[derive(Default)]
pub(super) struct MessageQueue {
    state: Mutex<State>,
    /// Wakes one worker. A worker that takes a message and leaves others wakes the next.
    worker_wake: Notify,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Message>,
    closed: bool,
    stream_waker: Option<Waker>,
}

impl MessageQueue {
    /// Queues all of `arrived`. Returns them instead if the queue is closed.
    pub(super) fn push(&self, arrived: &mut Vec<Message>, now: Instant) -> Vec<Message> {
        let mut expired = Vec::new();
        let waker = {
            let mut state = self.state.lock();
            if state.closed {
                return std::mem::take(arrived);
            }
            while state.messages.front().is_some_and(|message| message.is_expired(now)) {
                expired.extend(state.messages.pop_front());
            }
            state.messages.extend(arrived.drain(..));
            state.stream_waker.take()
        };
        match waker {
            Some(waker) => waker.wake(),
            None => self.worker_wake.notify_one(),
        }
        discard(expired);
        Vec::new()
    }

    /// Waits for the next message; `None` once the queue is closed. Cancel safe.
    pub(super) async fn pop(&self) -> Option<Message> {
        loop {
            match self.try_pop(None) {
                Poll::Ready(next) => return next,
                Poll::Pending => self.worker_wake.notified().await,
            }
        }
    }

    /// Like [`pop`](MessageQueue::pop), for a stream.
    pub(super) fn poll_pop(&self, context: &mut Context<'_>) -> Poll<Option<Message>> {
        self.try_pop(Some(context))
    }

    /// Moves up to `max` messages to the end of `messages`, without waiting.
    pub(super) fn take_into(&self, messages: &mut Vec<Message>, max: usize) {
        let mut state = self.state.lock();
        let count = state.messages.len().min(max);
        messages.extend(state.messages.drain(..count));
    }

    fn try_pop(&self, context: Option<&mut Context<'_>>) -> Poll<Option<Message>> {
        let now = time::now();
        let mut expired = Vec::new();
        let (next, more) = {
            let mut state = self.state.lock();
            let next = loop {
                match state.messages.pop_front() {
                    Some(message) if message.is_expired(now) => expired.push(message),
                    other => break other,
                }
            };
            if next.is_none() && !state.closed {
                if let Some(context) = context {
                    state.stream_waker = Some(context.waker().clone());
                }
                drop(state);
                discard(expired);
                return Poll::Pending;
            }
            (next, !state.messages.is_empty() || state.closed)
        };
        if more {
            self.worker_wake.notify_one();
        }
        discard(expired);
        Poll::Ready(next)
    }

    /// Drops the messages of a connection that has ended.
    pub(super) fn discard_of(&self, connection: ConnectionId) {
        let gone: Vec<Message> = {
            let mut state = self.state.lock();
            let messages = std::mem::take(&mut state.messages);
            let (gone, kept): (VecDeque<_>, VecDeque<_>) =
                messages.into_iter().partition(|message| message.connection() == connection);
            state.messages = kept;
            Vec::from(gone)
        };
        discard(gone);
    }

    pub(super) fn len(&self) -> usize {
        self.state.lock().messages.len()
    }

    /// Closes the queue and returns the messages in it.
    pub(super) fn close(&self) -> VecDeque<Message> {
        let (messages, waker) = {
            let mut state = self.state.lock();
            state.closed = true;
            (std::mem::take(&mut state.messages), state.stream_waker.take())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        self.worker_wake.notify_one();
        messages
    }
}

/// Must be called without the lock, because answering wakes other tasks.
fn discard(expired: Vec<Message>) {
    for message in expired {
        message.forget();
    }
}
