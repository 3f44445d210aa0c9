//! One subscribed connection, as messages and the engine use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nsq_protocol::headers::split_delivered;
use nsq_protocol::{ChannelName, Command, TopicName};

use super::answer::Answer;
use super::feedback::Feedback;
use super::outbox::Outbox;
use crate::backoff::{Epoch, Signal};
use crate::handshake::ServerInfo;
use crate::rdy::ConnectionId;
use crate::time;

/// See the module. It outlives the connection while messages are handled.
pub(crate) struct Link {
    pub(super) id: ConnectionId,
    pub(super) node: Arc<str>,
    pub(super) topic: TopicName,
    pub(super) channel: ChannelName,
    pub(crate) outbox: Outbox,
    pub(super) max_rdy_count: u64,
    pub(super) msg_timeout: Duration,
    pub(super) max_msg_timeout: Duration,
    /// Messages arrive with their headers.
    with_headers: bool,
    /// nsqd accepts REJ.
    pub(super) can_reject: bool,
    pub(super) feedback: Arc<Feedback>,
    /// Messages that are received and not answered.
    in_flight: AtomicU64,
    /// The RDY count that was sent last.
    rdy: AtomicU64,
    /// When the last message arrived, in nanoseconds after `opened_at`, plus one; 0 if none has arrived.
    last_message: AtomicU64,
    opened_at: Instant,
    /// The next message wakes the engine.
    watch_messages: AtomicBool,
    /// nsqd has confirmed CLS.
    close_wait: AtomicBool,
}

impl Link {
    pub(crate) fn new(
        id: ConnectionId,
        node: Arc<str>,
        server: &ServerInfo,
        (topic, channel): (TopicName, ChannelName),
        feedback: Arc<Feedback>,
    ) -> Self {
        Link {
            id,
            node,
            topic,
            channel,
            outbox: Outbox::default(),
            max_rdy_count: server.max_rdy_count,
            msg_timeout: server.msg_timeout,
            max_msg_timeout: server.max_msg_timeout,
            with_headers: server.headers,
            can_reject: server.reject,
            feedback,
            in_flight: AtomicU64::new(0),
            rdy: AtomicU64::new(0),
            last_message: AtomicU64::new(0),
            opened_at: time::now(),
            watch_messages: AtomicBool::new(false),
            close_wait: AtomicBool::new(false),
        }
    }

    /// Separates the headers, empty if there are none, from the body. `None` if the frame is too short.
    pub(super) fn split_headers(
        &self,
        mut message: nsq_protocol::Message,
    ) -> Option<(nsq_protocol::Message, Bytes)> {
        if !self.with_headers {
            return Some((message, Bytes::new()));
        }
        let (headers, body) = split_delivered(&message.body)?;
        let headers = headers.map_or(Bytes::new(), |headers| message.body.slice_ref(headers.as_bytes()));
        message.body = message.body.slice_ref(body);
        Some((message, headers))
    }

    pub(super) fn in_flight(&self) -> u64 {
        // Ordered against the watch flags: see `Engine::apply_rdy`.
        self.in_flight.load(Ordering::SeqCst)
    }

    pub(super) fn last_message_at(&self) -> Option<Instant> {
        let offset = self.last_message.load(Ordering::SeqCst).checked_sub(1)?;
        Some(self.opened_at + Duration::from_nanos(offset))
    }

    pub(super) fn watch_messages(&self) {
        self.watch_messages.store(true, Ordering::SeqCst);
    }

    pub(super) fn has_close_wait(&self) -> bool {
        self.close_wait.load(Ordering::Acquire)
    }

    /// Whether nsqd can send few more messages, or none, until some are answered.
    pub(super) fn is_starved(&self) -> bool {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        in_flight > 0 && in_flight.saturating_mul(100) >= self.rdy.load(Ordering::Relaxed).saturating_mul(85)
    }

    pub(super) fn set_rdy(&self, count: u64) {
        self.rdy.store(count, Ordering::Relaxed);
        // If the connection has ended, the engine gets a report.
        let _ = self.outbox.push(|out| Command::Rdy { count }.encode(out));
    }

    pub(super) fn send_cls(&self) {
        let _ = self.outbox.push(|out| Command::Cls.encode(out));
    }

    /// Records that a message of this connection was answered or left to time out. `sent` tells whether the answer could be
    /// queued.
    pub(super) fn answered(
        &self,
        answer: Answer<'_>,
        signal: Signal,
        epoch: Epoch,
        now: Instant,
        sent: bool,
    ) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.feedback.answered(answer, signal, epoch, now, sent);
    }

    /// Counts messages that have arrived. Call it before the application can answer them.
    pub(crate) fn received(&self, count: u64, now: Instant) {
        self.in_flight.fetch_add(count, Ordering::SeqCst);
        let offset = now.saturating_duration_since(self.opened_at).as_nanos();
        self.last_message.store(u64::try_from(offset).unwrap_or(u64::MAX - 1) + 1, Ordering::SeqCst);
        self.feedback.counters.received.fetch_add(count, Ordering::Relaxed);
        self.feedback.meter.received(count);
    }

    /// Wakes the engine if it watches for messages. Call it after [`received`](Link::received).
    pub(super) fn wake_watcher(&self) {
        if self.watch_messages.swap(false, Ordering::SeqCst) {
            self.feedback.wake.notify_one();
        }
    }

    pub(super) fn confirm_close(&self) {
        self.close_wait.store(true, Ordering::Release);
        self.feedback.wake.notify_one();
    }
}
