//! One subscribed connection: a task whose two halves run independently, and the state that it shares with messages
//! and the engine.
//!
//! The reading half never waits for the application: it puts messages into the consumer's queue, which RDY bounds. So
//! busy handlers delay neither heartbeats nor answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nsq_protocol::{Command, ErrorCode, Frame, FrameType};
use tokio_util::sync::CancellationToken;

use super::message::{Answer, Delivery, Message, Requeue};
use super::outbox::Outbox;
use super::shared::{Event, Shared};
use crate::backoff::{Epoch, Signal};
use crate::connect::Established;
use crate::error::{Disconnect, split_error};
use crate::frame_reader::FrameReader;
use crate::rdy::ConnectionId;
use crate::time;

/// The part of a connection that messages and the engine use.
pub(super) struct Link {
    pub(super) id: ConnectionId,
    pub(super) node: Arc<str>,
    pub(super) outbox: Outbox,
    pub(super) max_rdy_count: u64,
    pub(super) msg_timeout: Duration,
    pub(super) max_msg_timeout: Duration,
    pub(super) shared: Arc<Shared>,
    /// Messages that are received and not answered.
    in_flight: AtomicU64,
    /// When the last message arrived, in nanoseconds after `opened_at`, plus one; 0 if none has arrived.
    last_message: AtomicU64,
    opened_at: Instant,
    /// The next message wakes the engine.
    watch_messages: AtomicBool,
    /// nsqd has confirmed CLS.
    close_wait: AtomicBool,
    stop: CancellationToken,
}

impl Link {
    pub(super) fn new(id: ConnectionId, established: &Established, shared: Arc<Shared>) -> Self {
        let server = &established.server;
        Link {
            id,
            node: Arc::clone(&established.node),
            outbox: Outbox::default(),
            max_rdy_count: server.max_rdy_count,
            msg_timeout: server.msg_timeout,
            max_msg_timeout: server.max_msg_timeout,
            stop: shared.connections_stop.child_token(),
            shared,
            in_flight: AtomicU64::new(0),
            last_message: AtomicU64::new(0),
            opened_at: time::now(),
            watch_messages: AtomicBool::new(false),
            close_wait: AtomicBool::new(false),
        }
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

    pub(super) fn set_rdy(&self, count: u64) {
        // If the connection has ended, the engine gets a report.
        let _ = self.outbox.push(|out| Command::Rdy { count }.encode(out));
    }

    pub(super) fn send_cls(&self) {
        let _ = self.outbox.push(|out| Command::Cls.encode(out));
    }

    /// Records that a message of this connection was answered or left to time out.
    pub(super) fn answered(&self, answer: Answer, signal: Signal, epoch: Epoch, now: Instant) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.shared.answered(answer, signal, epoch, now);
    }

    fn received(self: &Arc<Self>, messages: &mut Vec<Message>, now: Instant) {
        self.in_flight.fetch_add(messages.len() as u64, Ordering::SeqCst);
        let offset = now.saturating_duration_since(self.opened_at).as_nanos();
        self.last_message.store(u64::try_from(offset).unwrap_or(u64::MAX - 1) + 1, Ordering::SeqCst);
        self.shared.counters.received.fetch_add(messages.len() as u64, Ordering::Relaxed);
        for late in self.shared.queue.push(messages, now) {
            // The consumer is stopping: let nsqd deliver the message to another one.
            let _ = late.requeue_without_backoff(Requeue::Now);
        }
        if self.watch_messages.swap(false, Ordering::SeqCst) {
            self.shared.wake.notify_one();
        }
    }

    /// Runs the connection until it ends, and returns the reason.
    pub(super) async fn run(self: Arc<Self>, established: Established, timeouts: Timeouts) -> Disconnect {
        let Established { mut reader, mut writer, .. } = established;
        let reading = self.read(&mut reader, timeouts.silence);
        tokio::pin!(reading);
        let why = tokio::select! {
            why = &mut reading => why,
            () = self.stop.cancelled() => Disconnect::Stopped,
            written = self.outbox.write_to(&mut writer, timeouts.write) => match written {
                // All answers are written. Read until nsqd closes the connection too.
                Ok(()) => tokio::select! {
                    why = &mut reading => why,
                    () = self.stop.cancelled() => Disconnect::Stopped,
                },
                Err(why) => why,
            },
        };
        self.outbox.close();
        // nsqd delivers these messages again, and answers to them can no longer be sent. So do not handle them now.
        self.shared.queue.discard_of(self.id);
        why
    }

    async fn read(self: &Arc<Self>, reader: &mut FrameReader, silence: Option<Duration>) -> Disconnect {
        let mut messages = Vec::new();
        loop {
            let now = time::now();
            let epoch = self.shared.epoch();
            let outcome = loop {
                match reader.buffered() {
                    Ok(Some(Frame { kind: FrameType::Message, data })) => {
                        let Some(message) = nsq_protocol::Message::parse(data) else {
                            break Some(Disconnect::Protocol(
                                "nsqd sent a message frame that is shorter than its header".into(),
                            ));
                        };
                        let delivery = Delivery::new(message, now, epoch, Arc::clone(self));
                        messages.push(Message::new(delivery));
                    }
                    Ok(Some(frame)) => {
                        if let Err(why) = self.handle_response(&frame) {
                            break Some(why);
                        }
                    }
                    Ok(None) => break None,
                    Err(why) => break Some(why),
                }
            };
            if !messages.is_empty() {
                self.received(&mut messages, now);
            }
            if let Some(why) = outcome {
                return why;
            }
            if let Err(why) = reader.fill(silence).await {
                return why;
            }
        }
    }

    fn handle_response(&self, frame: &Frame) -> Result<(), Disconnect> {
        if frame.is_heartbeat() {
            let _ = self.outbox.push(|out| Command::Nop.encode(out));
            return Ok(());
        }
        if frame.kind == FrameType::Response {
            if &frame.data[..] == nsq_protocol::frame::CLOSE_WAIT {
                self.close_wait.store(true, Ordering::Release);
                self.shared.wake.notify_one();
            }
            return Ok(());
        }
        let (code, description) = split_error(&frame.data);
        let about_one_message =
            [ErrorCode::FinFailed, ErrorCode::ReqFailed, ErrorCode::TouchFailed].map(ErrorCode::as_str);
        if about_one_message.contains(&code.as_str()) {
            self.shared.emit(Event::AnswerFailed { node: Arc::clone(&self.node), code, description });
            return Ok(());
        }
        Err(Disconnect::Refused { code, description })
    }
}

/// Limits for the silence of a connection, and for one write.
#[derive(Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) silence: Option<Duration>,
    pub(super) write: Duration,
}
