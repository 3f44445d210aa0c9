//! The task of one subscribed connection. Its two halves run independently.
//!
//! The reading half never waits for the application: it puts messages into the consumer's queue, which RDY bounds. So
//! busy handlers delay neither heartbeats nor answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nsq_protocol::{Command, ErrorCode, Frame, FrameType};

use super::answer::Requeue;
use super::feedback::Event;
use super::link::Link;
use super::message::{Delivery, Message};
use super::shared::Shared;
use crate::connect::Established;
use crate::error::{Disconnect, split_error};
use crate::frame_reader::FrameReader;
use crate::time;

/// See the module.
pub(super) struct Connection {
    pub(super) link: Arc<Link>,
    pub(super) shared: Arc<Shared>,
    pub(super) timeouts: Timeouts,
}

/// Limits for the silence of a connection, and for one write.
#[derive(Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) silence: Option<Duration>,
    pub(super) write: Duration,
}

impl Connection {
    /// Runs the connection until it ends, and returns the reason.
    pub(super) async fn run(self, established: Established) -> Disconnect {
        let Established { mut reader, mut writer, .. } = established;
        let stop = self.shared.connections_stop.child_token();
        let reading = self.read(&mut reader);
        tokio::pin!(reading);
        let why = tokio::select! {
            why = &mut reading => why,
            () = stop.cancelled() => Disconnect::Stopped,
            written = self.link.outbox.write_to(&mut writer, self.timeouts.write) => match written {
                // All answers are written. Read until nsqd closes the connection too.
                Ok(()) => tokio::select! {
                    why = &mut reading => why,
                    () = stop.cancelled() => Disconnect::Stopped,
                },
                Err(why) => why,
            },
        };
        self.link.outbox.close();
        // nsqd delivers these messages again, and answers to them can no longer be sent. So do not handle them now.
        self.shared.queue.discard_of(self.link.id);
        if let Some(by_key) = &self.shared.lanes {
            let gone = by_key.lanes.lock().remove(|message| message.connection() == self.link.id);
            gone.into_iter().for_each(Message::forget);
        }
        why
    }

    async fn read(&self, reader: &mut FrameReader) -> Disconnect {
        let mut messages = Vec::new();
        loop {
            let now = time::now();
            let epoch = self.link.feedback.epoch();
            let outcome = loop {
                match reader.buffered() {
                    Ok(Some(Frame { kind: FrameType::Message, data })) => {
                        let message = nsq_protocol::Message::parse(data);
                        let Some((message, headers)) = message.and_then(|m| self.link.split_headers(m))
                        else {
                            break Some(Disconnect::Protocol(
                                "nsqd sent a message frame that is shorter than its header".into(),
                            ));
                        };
                        let delivery = Delivery::new(message, headers, now, epoch, Arc::clone(&self.link));
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
            if let Err(why) = reader.fill(self.timeouts.silence).await {
                return why;
            }
        }
    }

    fn received(&self, messages: &mut Vec<Message>, now: Instant) {
        self.link.received(messages.len() as u64, now);
        for late in self.shared.queue.push(messages, now) {
            // The consumer is stopping: let nsqd deliver the message to another one.
            let _ = late.requeue_without_backoff(Requeue::Now);
        }
        self.link.wake_watcher();
    }

    fn handle_response(&self, frame: &Frame) -> Result<(), Disconnect> {
        if frame.is_heartbeat() {
            let _ = self.link.outbox.push(|out| Command::Nop.encode(out));
            return Ok(());
        }
        if frame.kind == FrameType::Response {
            if &frame.data[..] == nsq_protocol::frame::CLOSE_WAIT {
                self.link.confirm_close();
            }
            return Ok(());
        }
        let (code, description) = split_error(&frame.data);
        let about_one_message =
            [ErrorCode::FinFailed, ErrorCode::ReqFailed, ErrorCode::TouchFailed, ErrorCode::RejFailed];
        if about_one_message.iter().any(|about| about.as_str() == code) {
            let node = Arc::clone(&self.link.node);
            self.link.feedback.refused(&code);
            self.link.feedback.emit(Event::AnswerFailed { node, code, description });
            return Ok(());
        }
        Err(Disconnect::Refused { code, description })
    }
}
