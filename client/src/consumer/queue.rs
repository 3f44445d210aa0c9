//! Messages between the connections that receive and the application that handles.
//!
//! RDY bounds what can be here, with one exception: when the application is stuck for longer than the
//! message timeout, nsqd delivers again. So messages whose time is up are dropped here: they would be
//! handled twice for nothing, and they would pile up.

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
    /// Wakes one worker; whoever takes a message and leaves others wakes the next.
    worker_wake: Notify,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Message>,
    closed: bool,
    stream_waker: Option<Waker>,
}

impl MessageQueue {
    /// Takes all of `arrived`. Returns them if the queue is closed.
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

    /// The next message, waiting for it; `None` once the queue is closed. Cancel safe.
    pub(super) async fn pop(&self) -> Option<Message> {
        loop {
            match self.try_pop(None) {
                Poll::Ready(next) => return next,
                Poll::Pending => self.worker_wake.notified().await,
            }
        }
    }

    /// The same for a stream.
    pub(super) fn poll_pop(&self, context: &mut Context<'_>) -> Poll<Option<Message>> {
        self.try_pop(Some(context))
    }

    /// As many as are there, up to `max`, appended to `messages`.
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

    /// Drops the messages of a connection that is gone.
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

    /// Nothing goes in any more; returns what was there.
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

/// Outside of the lock, since answering wakes others.
fn discard(expired: Vec<Message>) {
    for message in expired {
        message.forget();
    }
}
