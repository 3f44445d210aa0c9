//! A received message, and the ways to answer it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use nsq_protocol::headers::Headers;
use nsq_protocol::{Command, MessageId, as_reason};

use super::answer::{Answer, Requeue};
use super::feedback::Event;
use super::link::Link;
use super::outbox::NotQueued;
use crate::backoff::{Epoch, Signal};
use crate::error::{AnswerError, HandlerError};
use crate::rdy::ConnectionId;
use crate::time;

/// One delivery of a message: its content and its deadline.
///
/// A [`Handler`](super::Handler) receives it and answers with its return value. Cloning is cheap, because clones share
/// everything, the [`deadline`](Delivery::deadline) too.
#[derive(Clone)]
pub struct Delivery {
    content: Arc<Content>,
}

struct Content {
    id: MessageId,
    /// The JSON of the headers; empty without headers.
    headers: Bytes,
    body: Bytes,
    timestamp_ns: i64,
    attempts: u16,
    received_at: Instant,
    /// Time from `received_at` to the deadline. `touch` extends it.
    time_limit_ms: AtomicU64,
    /// One of the constants below.
    answering: AtomicU8,
    epoch: Epoch,
    link: Arc<Link>,
}

/// The [`Message`] is answered by who has it.
const OWNED: u8 = 0;
/// A handler runs, and may take the answer over.
const LENT: u8 = 1;
/// The handler has taken the answer over.
const TAKEN: u8 = 2;

impl Delivery {
    pub(crate) fn new(
        message: nsq_protocol::Message,
        headers: Bytes,
        received_at: Instant,
        epoch: Epoch,
        link: Arc<Link>,
    ) -> Self {
        let time_limit_ms = AtomicU64::new(as_ms(link.msg_timeout));
        let nsq_protocol::Message { timestamp_ns, attempts, id, body } = message;
        let answering = AtomicU8::new(OWNED);
        let content = Content {
            id,
            headers,
            body,
            timestamp_ns,
            attempts,
            received_at,
            time_limit_ms,
            answering,
            epoch,
            link,
        };
        Delivery { content: Arc::new(content) }
    }

    /// The topic that the message was published to.
    pub fn topic(&self) -> &str {
        self.link().topic.as_str()
    }

    /// The channel that the message came from.
    pub fn channel(&self) -> &str {
        self.link().channel.as_str()
    }

    fn link(&self) -> &Link {
        &self.content.link
    }

    /// The id of the message: 16 bytes, which are hexadecimal digits with every known nsqd.
    pub fn id(&self) -> MessageId {
        self.content.id
    }

    /// The published bytes, as a slice of the read buffer. A small body can keep up to 128 KiB allocated, so copy a
    /// body that you keep for long.
    pub fn body(&self) -> &Bytes {
        &self.content.body
    }

    /// The value that the body holds as JSON. The error is [permanent](HandlerError::permanent), so a handler that returns it
    /// gives the message up: no redelivery makes the body valid.
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, HandlerError> {
        serde_json::from_slice(self.body())
            .map_err(|error| HandlerError::permanent(format!("the body is not the expected JSON: {error}")))
    }

    /// The headers of the message. `None` if it was published without headers, or the consumer did not request them
    /// with the option `headers`, or the nsqd has none.
    pub fn headers(&self) -> Option<Headers<'_>> {
        (!self.content.headers.is_empty()).then(|| Headers::trusted(&self.content.headers))
    }

    /// When the message was published, by nsqd's clock, in nanoseconds since 1970.
    pub fn timestamp_ns(&self) -> i64 {
        self.content.timestamp_ns
    }

    /// When the message was published, by nsqd's clock.
    pub fn timestamp(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(u64::try_from(self.content.timestamp_ns).unwrap_or(0))
    }

    /// How often the message was delivered on this channel, including this delivery.
    pub fn attempts(&self) -> u16 {
        self.content.attempts
    }

    /// The address of the nsqd that delivered the message: `host:port`, or the path of a unix socket.
    pub fn node(&self) -> &str {
        &self.link().node
    }

    /// When the message arrived at this client.
    pub fn received_at(&self) -> Instant {
        self.content.received_at
    }

    /// When the message times out at nsqd unless it is answered or touched.
    pub fn deadline(&self) -> Instant {
        self.content.received_at + Duration::from_millis(self.content.time_limit_ms.load(Ordering::Relaxed))
    }

    /// The latest deadline that [`touch`](Delivery::touch) can set.
    pub fn hard_deadline(&self) -> Instant {
        self.content.received_at + self.link().max_msg_timeout
    }

    /// The time until [`deadline`](Delivery::deadline); zero when it has passed.
    pub fn remaining(&self) -> Duration {
        self.deadline().saturating_duration_since(time::now())
    }

    /// Asks nsqd to restart the message timeout, up to [`hard_deadline`](Delivery::hard_deadline). Returns
    /// [`AnswerError::ConnectionLost`] if the connection has ended, [`AnswerError::Crowded`] if too many bytes wait to be
    /// sent on it, and [`AnswerError::Late`] if the deadline has passed.
    pub fn touch(&self) -> Result<(), AnswerError> {
        let now = time::now();
        let late = now > self.deadline();
        let queued =
            self.link().outbox.push_if_room(|out| Command::Touch { id: self.content.id }.encode(out));
        queued.map_err(|reason| match reason {
            NotQueued::Ended => AnswerError::ConnectionLost,
            NotQueued::Crowded => AnswerError::Crowded,
        })?;
        if late {
            return Err(AnswerError::Late);
        }
        let used = now.saturating_duration_since(self.content.received_at);
        let limit = (used + self.link().msg_timeout).min(self.link().max_msg_timeout);
        self.content.time_limit_ms.fetch_max(as_ms(limit), Ordering::Relaxed);
        Ok(())
    }

    /// Takes the answer over from the handler that received this delivery: what the handler returns does not count any more,
    /// and the message is answered later, from any task. Until then it is in flight and may time out; `keep_alive` does not
    /// apply any more. Returns `None` the second time, after the handler has ended, and outside of a handler.
    ///
    /// ```no_run
    /// # fn example(jobs: tokio::sync::mpsc::Sender<nsq::Message>) -> Result<(), nsq::StartError> {
    /// let consumer = nsq::Consumer::builder("jobs", "workers")
    ///     .nsqd("127.0.0.1:4150")
    ///     .max_in_flight(100)
    ///     .handler_with(jobs, |jobs, job| async move {
    ///         if let Some(job) = job.take_answer() {
    ///             // The task that receives it calls `finish` or `requeue`. If there is none, it is requeued.
    ///             let _ = jobs.send(job).await;
    ///         }
    ///     })
    ///     .start()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn take_answer(&self) -> Option<Message> {
        let answering = &self.content.answering;
        answering.compare_exchange(LENT, TAKEN, Ordering::AcqRel, Ordering::Acquire).ok()?;
        Some(Message::new(self.clone()))
    }

    /// Whether the nsqd that delivered the message accepts [`Message::reject`]. NSQ's own does not.
    pub fn can_reject(&self) -> bool {
        self.link().can_reject
    }

    /// Whether the consumer is shutting down. Long work should then end soon.
    pub fn is_stopping(&self) -> bool {
        self.link().feedback.stopping.is_cancelled()
    }

    /// Waits until the consumer starts to shut down. Cancel safe.
    pub async fn stopping(&self) {
        self.link().feedback.stopping.cancelled().await;
    }

    /// Whether the handler has taken the answer over.
    pub(super) fn is_taken(&self) -> bool {
        self.content.answering.load(Ordering::Acquire) == TAKEN
    }

    pub(super) fn connection(&self) -> ConnectionId {
        self.link().id
    }

    /// What identifies the message among those of all nsqds.
    pub(super) fn key(&self) -> (Arc<str>, MessageId) {
        (Arc::clone(&self.link().node), self.id())
    }

    /// The time from the delivery to the deadline.
    pub(super) fn time_limit(&self) -> Duration {
        Duration::from_millis(self.content.time_limit_ms.load(Ordering::Relaxed))
    }

    pub(super) fn is_expired(&self, now: Instant) -> bool {
        now > self.deadline()
    }

    /// Sends the answer, if it has a wire form, and counts it.
    fn answer(&self, answer: Answer<'_>, signal: Signal) -> Result<(), AnswerError> {
        let now = time::now();
        let sent = match answer {
            Answer::Finish => self.link().outbox.push(|out| Command::Fin { id: self.content.id }.encode(out)),
            Answer::Requeue(delay) => {
                let delay_ms = as_ms(self.link().feedback.requeue_delay(delay, self.content.attempts));
                self.link().outbox.push(|out| Command::Req { id: self.content.id, delay_ms }.encode(out))
            }
            Answer::Reject(reason) => self
                .link()
                .outbox
                .push(|out| Command::Rej { id: self.content.id, reason: &as_reason(reason) }.encode(out)),
            Answer::Nothing => true,
        };
        let late_by = now.checked_duration_since(self.deadline()).filter(|late| sent && !late.is_zero());
        self.link().answered(answer, signal, self.content.epoch, now, sent);
        if let (Some(late_by), false) = (late_by, answer == Answer::Nothing) {
            let node = Arc::clone(&self.link().node);
            let (id, attempts) = (self.id(), self.attempts());
            self.link().feedback.emit(Event::Late { id, node, attempts, late_by });
        }
        if !sent {
            Err(AnswerError::ConnectionLost)
        } else if late_by.is_some() {
            Err(AnswerError::Late)
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("id", &self.id())
            .field("attempts", &self.attempts())
            .field("node", &self.node())
            .field("body_bytes", &self.body().len())
            .finish()
    }
}

/// A message that must be answered: [finish](Message::finish), [requeue](Message::requeue) or
/// [reject](Message::reject) it.
///
/// Answers never block: they are queued for the connection's next write. **Dropping an unanswered message
/// requeues it at once** and counts as a failure; [`forget`](Message::forget) leaves it to its timeout.
/// A message dereferences to [`Delivery`], which has its content.
///
/// An [`AnswerError`] means that nsqd delivers the message again, or may do so.
#[must_use = "dropping an unanswered message requeues it"]
pub struct Message {
    delivery: Delivery,
    answered: bool,
    /// A handler has the delivery, and may take the answer over.
    lent: bool,
}

impl Message {
    pub(crate) fn new(delivery: Delivery) -> Self {
        Message { delivery, answered: false, lent: false }
    }

    /// Finishes the message: nsqd does not deliver it again.
    pub fn finish(mut self) -> Result<(), AnswerError> {
        self.answer(Answer::Finish, Signal::Success)
    }

    /// Requeues the message after a failure: nsqd delivers it again, and the consumer backs off.
    pub fn requeue(mut self, delay: impl Into<Requeue>) -> Result<(), AnswerError> {
        self.answer(Answer::Requeue(delay.into()), Signal::Failure)
    }

    /// Requeues the message without a failure: nsqd delivers it again, and the consumer does not back off.
    pub fn requeue_without_backoff(mut self, delay: impl Into<Requeue>) -> Result<(), AnswerError> {
        self.answer(Answer::Requeue(delay.into()), Signal::Neutral)
    }

    /// Rejects the message, because it can never succeed: nsqd moves it to the channel's dead-letter topic at once, with
    /// `reason` in the header `nsq-dead-error`. This is no failure for backoff.
    ///
    /// nsqd takes one line of at most 1,024 bytes: control characters of `reason` are sent as blanks, and a longer text is
    /// cut. If nsqd does not accept rejections ([`can_reject`](Delivery::can_reject)), the message is requeued like a failed
    /// one, and the error is [`AnswerError::CannotReject`]. If the channel has no topic for dead letters, nsqd reports
    /// `E_REJ_FAILED` ([`Event::AnswerFailed`](super::Event::AnswerFailed)), and the message times out.
    pub fn reject(mut self, reason: impl AsRef<str>) -> Result<(), AnswerError> {
        if self.can_reject() {
            return self.answer(Answer::Reject(reason.as_ref()), Signal::Neutral);
        }
        self.answer(Answer::Requeue(Requeue::Auto), Signal::Failure)?;
        Err(AnswerError::CannotReject)
    }

    /// Sends no answer: nsqd delivers the message again when it times out.
    pub fn forget(mut self) {
        // Nothing is sent, so the result has no meaning.
        let _ = self.answer(Answer::Nothing, Signal::Neutral);
    }

    /// Returns a delivery for a handler, which may take the answer over.
    pub(super) fn lend(&mut self) -> Delivery {
        self.lent = true;
        self.delivery.content.answering.store(LENT, Ordering::Release);
        self.delivery.clone()
    }

    /// Returns the message after the handler; `None` if the handler has taken the answer over.
    pub(super) fn take_back(mut self) -> Option<Message> {
        let is_taken = self.delivery.content.answering.swap(OWNED, Ordering::AcqRel) == TAKEN;
        self.lent = false;
        self.answered = is_taken;
        (!is_taken).then_some(self)
    }

    pub(super) fn give_up(mut self) -> Result<(), AnswerError> {
        self.answer(Answer::Finish, Signal::Neutral)
    }

    fn answer(&mut self, answer: Answer<'_>, signal: Signal) -> Result<(), AnswerError> {
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
        // The handler whose future was dropped may have taken the answer over.
        let is_taken = self.lent && self.delivery.is_taken();
        if !self.answered && !is_taken {
            let answer = self.delivery.link().feedback.answer_when_dropped();
            // A drop has no caller that could take the error.
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
