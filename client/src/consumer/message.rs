//! A message in the application's hands, and the ways to answer it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use nsq_protocol::{Command, MessageId};

use super::link::Link;
use crate::backoff::{Epoch, Signal};
use crate::error::AnswerError;
use crate::rdy::ConnectionId;
use crate::time;

/// How long a requeued message should stay away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    /// `default_requeue_delay` times the number of attempts, at most `max_requeue_delay`.
    Auto,
    /// Not at all.
    Now,
    /// This long; nsqd limits it to its `max-req-timeout`.
    After(Duration),
}

impl From<Duration> for Requeue {
    fn from(delay: Duration) -> Self {
        Requeue::After(delay)
    }
}

/// One delivery of a message: what it says and when its time is up.
///
/// This is what a [`Handler`](super::Handler) gets; the handler's return value is the answer. Cloning is
/// cheap, the body is shared.
pub struct Delivery {
    id: MessageId,
    body: Bytes,
    timestamp_ns: i64,
    attempts: u16,
    received_at: Instant,
    /// From `received_at` to the deadline; touching moves it.
    time_limit_ms: AtomicU64,
    epoch: Epoch,
    link: Arc<Link>,
}

impl Delivery {
    pub(super) fn new(
        message: nsq_protocol::Message,
        received_at: Instant,
        epoch: Epoch,
        link: Arc<Link>,
    ) -> Self {
        let time_limit_ms = AtomicU64::new(as_ms(link.msg_timeout));
        let nsq_protocol::Message { timestamp_ns, attempts, id, body } = message;
        Delivery { id, body, timestamp_ns, attempts, received_at, time_limit_ms, epoch, link }
    }

    /// The message's id: 16 bytes, hexadecimal with every known nsqd.
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// What was published. A slice of the read buffer: keeping a small body for long keeps up to 128 KiB
    /// alive, so copy what should outlive the message.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// When it was published, by nsqd's clock, in nanoseconds since 1970.
    pub fn timestamp_ns(&self) -> i64 {
        self.timestamp_ns
    }

    /// When it was published, by nsqd's clock.
    pub fn timestamp(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(u64::try_from(self.timestamp_ns).unwrap_or(0))
    }

    /// How often it was delivered on this channel, this time included.
    pub fn attempts(&self) -> u16 {
        self.attempts
    }

    /// The nsqd it came from, as `host:port` or as the path of its unix socket.
    pub fn node(&self) -> &str {
        &self.link.node
    }

    /// When it arrived here.
    pub fn received_at(&self) -> Instant {
        self.received_at
    }

    /// When nsqd will give up waiting for the answer, unless the message is touched.
    pub fn deadline(&self) -> Instant {
        self.received_at + Duration::from_millis(self.time_limit_ms.load(Ordering::Relaxed))
    }

    /// The latest time that touching can move the deadline to.
    pub fn hard_deadline(&self) -> Instant {
        self.received_at + self.link.max_msg_timeout
    }

    /// How much time is left for the answer.
    pub fn remaining(&self) -> Duration {
        self.deadline().saturating_duration_since(time::now())
    }

    /// Asks nsqd for another full timeout, up to [`hard_deadline`](Delivery::hard_deadline).
    pub fn touch(&self) -> Result<(), AnswerError> {
        let now = time::now();
        let late = now > self.deadline();
        if !self.link.outbox.push_if_room(|out| Command::Touch { id: self.id }.encode(out)) {
            return Err(AnswerError::ConnectionLost);
        }
        if late {
            return Err(AnswerError::Late);
        }
        let used = now.saturating_duration_since(self.received_at);
        let limit = (used + self.link.msg_timeout).min(self.link.max_msg_timeout);
        self.time_limit_ms.fetch_max(as_ms(limit), Ordering::Relaxed);
        Ok(())
    }

    /// Whether the consumer is shutting down, so that long work should come to an end.
    pub fn is_stopping(&self) -> bool {
        self.link.shared.stopping.is_cancelled()
    }

    /// Returns when the consumer begins to shut down.
    pub async fn stopping(&self) {
        self.link.shared.stopping.cancelled().await;
    }

    pub(super) fn connection(&self) -> ConnectionId {
        self.link.id
    }

    pub(super) fn is_expired(&self, now: Instant) -> bool {
        now > self.deadline()
    }

    /// Sends the answer, if it has a wire form, and accounts for it.
    fn answer(&self, answer: Answer, signal: Signal) -> Result<(), AnswerError> {
        let now = time::now();
        let sent = match answer {
            Answer::Finish => self.link.outbox.push(|out| Command::Fin { id: self.id }.encode(out)),
            Answer::Requeue(delay) => {
                let delay_ms = as_ms(self.link.shared.requeue_delay(delay, self.attempts));
                self.link.outbox.push(|out| Command::Req { id: self.id, delay_ms }.encode(out))
            }
            Answer::Nothing => true,
        };
        self.link.answered(answer, signal, self.epoch, now);
        if !sent {
            Err(AnswerError::ConnectionLost)
        } else if self.is_expired(now) {
            Err(AnswerError::Late)
        } else {
            Ok(())
        }
    }
}

impl Clone for Delivery {
    fn clone(&self) -> Self {
        Delivery {
            id: self.id,
            body: self.body.clone(),
            timestamp_ns: self.timestamp_ns,
            attempts: self.attempts,
            received_at: self.received_at,
            time_limit_ms: AtomicU64::new(self.time_limit_ms.load(Ordering::Relaxed)),
            epoch: self.epoch,
            link: Arc::clone(&self.link),
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("id", &self.id)
            .field("attempts", &self.attempts)
            .field("node", &self.link.node)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

/// How a message leaves the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Finish,
    Requeue(Requeue),
    /// Its time is up, or its fate is left to nsqd: nothing is sent.
    Nothing,
}

/// A message that must be answered: [finish](Message::finish) it or [requeue](Message::requeue) it.
///
/// Answers never block: they are queued for the connection's next write. **Dropping an unanswered message
/// requeues it at once** and counts as a failure; [`forget`](Message::forget) leaves it to its timeout.
/// What a message says is read through [`Delivery`], which it dereferences to.
#[must_use = "dropping an unanswered message requeues it"]
pub struct Message {
    delivery: Delivery,
    answered: bool,
}

impl Message {
    pub(super) fn new(delivery: Delivery) -> Self {
        Message { delivery, answered: false }
    }

    /// Done: nsqd forgets the message.
    pub fn finish(mut self) -> Result<(), AnswerError> {
        self.answer(Answer::Finish, Signal::Success)
    }

    /// Failed: nsqd shall deliver it again, and the consumer backs off.
    pub fn requeue(mut self, delay: impl Into<Requeue>) -> Result<(), AnswerError> {
        self.answer(Answer::Requeue(delay.into()), Signal::Failure)
    }

    /// Not now, but nothing is wrong: nsqd shall deliver it again, and the consumer does not back off.
    pub fn requeue_without_backoff(mut self, delay: impl Into<Requeue>) -> Result<(), AnswerError> {
        self.answer(Answer::Requeue(delay.into()), Signal::Neutral)
    }

    /// Leaves the message to nsqd's timeout.
    pub fn forget(mut self) {
        // Nothing is sent, so nothing can fail.
        let _ = self.answer(Answer::Nothing, Signal::Neutral);
    }

    pub(super) fn give_up(mut self) -> Result<(), AnswerError> {
        self.answer(Answer::Finish, Signal::Neutral)
    }

    fn answer(&mut self, answer: Answer, signal: Signal) -> Result<(), AnswerError> {
        self.answered = true;
        self.delivery.answer(answer, signal)
    }
}

impl Deref for Message {
    type Target = Delivery;

    fn deref(&self) -> &Delivery {
        &self.delivery
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        if !self.answered {
            let answer = self.delivery.link.shared.answer_when_dropped();
            // Whoever dropped it is not there to be told.
            let _ = self.answer(answer, Signal::Failure);
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Message").field(&self.delivery).finish()
    }
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
