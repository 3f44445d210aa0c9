//! One subscribed connection: a task whose two halves run independently, and what messages and the engine
//! share with it.
//!
//! The reading half never waits for the application: messages go to the consumer's queue, which RDY bounds.
//! So heartbeats are answered and answers are written however busy the handlers are.

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

/// What messages and the engine need of a connection.
pub(super) struct Link {
    pub(super) id: ConnectionId,
    pub(super) node: Arc<str>,
    pub(super) outbox: Outbox,
    pub(super) max_rdy_count: u64,
    pub(super) msg_timeout: Duration,
    pub(super) max_msg_timeout: Duration,
    pub(super) shared: Arc<Shared>,
    /// Received and not answered.
    in_flight: AtomicU64,
    /// Nanoseconds after `opened_at`, plus one; 0 is never.
    last_message: AtomicU64,
    opened_at: Instant,
    /// The engine wants to know of the next message.
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
        // If the connection is gone the engine will hear of it.
        let _ = self.outbox.push(|out| Command::Rdy { count }.encode(out));
    }

    pub(super) fn send_cls(&self) {
        let _ = self.outbox.push(|out| Command::Cls.encode(out));
    }

    /// A message of this connection was answered, or its answer left to nsqd.
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
            // The consumer is stopping: somebody else shall have it.
            let _ = late.requeue_without_backoff(Requeue::Now);
        }
        if self.watch_messages.swap(false, Ordering::SeqCst) {
            self.shared.wake.notify_one();
        }
    }

    /// Runs the connection until it ends, and says why.
    pub(super) async fn run(self: Arc<Self>, established: Established, timeouts: Timeouts) -> Disconnect {
        let Established { mut reader, mut writer, .. } = established;
        let reading = self.read(&mut reader, timeouts.silence);
        tokio::pin!(reading);
        let why = tokio::select! {
            why = &mut reading => why,
            () = self.stop.cancelled() => Disconnect::Stopped,
            written = self.outbox.write_to(&mut writer, timeouts.write) => match written {
                // All is said; what nsqd still sends is read until it closes as well.
                Ok(()) => tokio::select! {
                    why = &mut reading => why,
                    () = self.stop.cancelled() => Disconnect::Stopped,
                },
                Err(why) => why,
            },
        };
        self.outbox.close();
        // Their answers could not be sent, and nsqd delivers them again: handling them would be a repeat.
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
                                "a message frame without a whole header".into(),
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

/// How long a connection may be silent, and a write may take.
#[derive(Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) silence: Option<Duration>,
    pub(super) write: Duration,
}
