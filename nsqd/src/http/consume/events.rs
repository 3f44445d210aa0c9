//! `GET /channel/events?topic=&channel=[&ack=auto|lease][&max_in_flight=][&timeout=]`: server-sent events.
//!
//! The request is a consumer until it ends. The next events are taken only once the previous ones have been written to the
//! socket, so a client that does not read gets no more messages.
//!
//! - `ack=auto` (default): a message is finished when it is written. If the client does not get it, it is lost.
//! - `ack=lease`: each event has a lease. `/channel/finish` makes room for the next message. When the client disconnects, its
//!   messages are delivered again at once, and their leases end.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nsq_daemon::http::response::CONTENT_TYPE;
use nsq_daemon::http::{AnswerBody, Hangup, HttpError, LiveSource, Request, Response, response};
use nsq_protocol::json::to_json;

use super::message::{Leases, TakenMessage};
use super::{ConsumerOptions, HttpConsumer, HttpConsumers, Kind, bad_request, note_taken};
use crate::channel::signal::{Away, Call};
use crate::clock::Nanos;
use crate::connection::consume::Subscription;
use crate::http::HttpContext;
use crate::http::dead_letters::{number, only};
use crate::log::chunk;

/// A comment is sent after this time without an event, so that proxies keep the connection.
pub(super) const COMMENT_INTERVAL: Duration = Duration::from_secs(15);
const COMMENT: &[u8] = b": \n\n";
/// Sent first, so that the client and proxies see the response.
const GREETING: &[u8] = b": events of nsqd\n\n";
/// Messages are taken up to this size at a time. One message may exceed it.
const EVENTS_BYTES: usize = 64 << 10;
const DEFAULT_MAX_IN_FLIGHT: u64 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ack {
    Auto,
    Lease,
}

/// See the module.
pub async fn events(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let hangup = request.hangup();
    request.body.discard().await?;
    let query = request.query()?;
    only(&query, &[&ConsumerOptions::NAMES[..], &["ack", "max_in_flight", "ticket"]].concat())?;
    let options = ConsumerOptions::parse(context, &query)?;
    let ack = match query.get("ack").as_deref() {
        None | Some("auto") => Ack::Auto,
        Some("lease") => Ack::Lease,
        Some(text) => {
            return Err(bad_request(format!("INVALID_ARG_ACK: ack={text}: expected auto or lease")));
        }
    };
    let counts: RangeInclusive<u64> = 1..=context.config.max_rdy_count.max(1);
    let max_in_flight = number(&query, "max_in_flight", &counts)?.unwrap_or(DEFAULT_MAX_IN_FLIGHT);
    let consumer = HttpConsumer::subscribe(context, request, Kind::Events, &options).await?;
    let subscription = consumer.subscription();
    subscription.channel.set_ready_count(subscription.key, max_in_flight);
    let source = EventSource {
        consumers: context.consumers.clone(),
        away: Some(away(subscription)),
        consumer,
        hangup,
        ack,
        timeout: options.subscribe.message_timeout,
        written: Vec::new(),
        has_begun: false,
    };
    let mut response = response::empty();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, http::HeaderValue::from_static("text/event-stream"));
    headers.insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    // nginx would keep events back.
    headers.insert("x-accel-buffering", http::HeaderValue::from_static("no"));
    *response.body_mut() = AnswerBody::live(source);
    Ok(response)
}

struct EventSource {
    consumers: Arc<HttpConsumers>,
    /// While events are written, the channel calls other consumers. Dropped before the consumer.
    away: Option<Away>,
    consumer: HttpConsumer,
    hangup: Hangup,
    ack: Ack,
    timeout: Nanos,
    /// Messages of the last piece, to finish once it is written.
    written: Vec<u64>,
    has_begun: bool,
}

fn away(subscription: &Subscription) -> Away {
    Away::begin(subscription.signal.clone(), || subscription.channel.pass_on(subscription.key))
}

impl LiveSource for EventSource {
    async fn next_piece(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.has_begun, true) {
            return Some(Bytes::from_static(GREETING));
        }
        self.away = None;
        self.finish_written();
        let piece = self.wait().await?;
        self.away = Some(away(self.consumer.subscription()));
        Some(piece)
    }
}

impl EventSource {
    /// Waits for messages, or until a comment is due.
    async fn wait(&mut self) -> Option<Bytes> {
        let mut comment = std::pin::pin!(tokio::time::sleep(COMMENT_INTERVAL));
        loop {
            let signal = self.consumer.subscription().signal.clone();
            if signal.answer() == Call::Close {
                return None;
            }
            if let Some(piece) = self.take() {
                return Some(piece);
            }
            tokio::select! {
                biased;
                () = self.hangup.wait() => return None,
                () = signal.called() => {}
                () = &mut comment => return Some(Bytes::from_static(COMMENT)),
                () = self.consumers.stop.cancelled() => return None,
            }
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        let subscription = self.consumer.subscription();
        let mut frames = Vec::new();
        let mut taken = subscription.channel.take(subscription.key, &mut frames, EVENTS_BYTES);
        note_taken(self.consumer.registry.engine(), &mut taken, &frames);
        if taken.count == 0 {
            return None;
        }
        let leases = match self.ack {
            Ack::Auto => None,
            Ack::Lease => {
                Some(Leases { key: &self.consumers.lease_key, taken_at: taken.at, timeout: self.timeout })
            }
        };
        let mut piece = Vec::with_capacity(frames.len() + frames.len() / 4);
        for frame in chunk::split(&frames) {
            let Some(message) = TakenMessage::new(frame, subscription, leases.as_ref()) else { continue };
            let Ok(json) = to_json(&message) else { continue };
            piece.extend_from_slice(b"id: ");
            piece.extend_from_slice(message.id().as_bytes());
            piece.extend_from_slice(b"\ndata: ");
            piece.extend_from_slice(&json);
            piece.extend_from_slice(b"\n\n");
            if self.ack == Ack::Auto {
                let log = subscription.topic().log();
                self.written.extend(chunk::id(frame).and_then(|id| log.sequence_of_id(id)));
            }
        }
        Some(piece.into())
    }

    /// Finishes the messages that have been written. One that has timed out meanwhile is delivered again.
    fn finish_written(&mut self) {
        if self.written.is_empty() {
            return;
        }
        let subscription = self.consumer.subscription();
        let mut acknowledging = subscription.channel.acknowledge(subscription.key);
        let finished =
            self.written.drain(..).filter(|sequence| acknowledging.finish(*sequence).is_ok()).count();
        drop(acknowledging);
        self.consumer.registry.engine().metrics().finished_messages.add(finished as u64);
    }
}
