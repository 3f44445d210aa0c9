//! `POST /channel/take?topic=&channel=[&max=][&wait=][&timeout=][&start=][&client_id=]`: long poll.
//!
//! The request waits as a consumer with RDY `max`, so it gets its share like any other, and is woken when there are messages.
//! It gets what there is, up to `max` messages or about 256 KiB, and leaves; the channel's holder keeps the messages in
//! flight for `timeout`. A client that is gone before that gets nothing.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use nsq_daemon::http::{Hangup, HttpError, Request, Response, response};
use serde::Serialize;

use super::message::{Leases, TakenMessage};
use super::{ConsumerOptions, HttpConsumer, HttpConsumers, Kind, duration, note_taken, too_many};
use crate::channel::signal::Call;
use crate::channel::{ChannelClosed, TakeEnd};
use crate::client_info::{ClientInfo, Identity};
use crate::clock;
use crate::connection::consume::Subscription;
use crate::delivery::OUTPUT_BYTES;
use crate::engine::Engine;
use crate::http::dead_letters::{number, only};
use crate::http::{EXITING, HttpContext};
use crate::log::chunk;

const WAITS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(300);
/// How long a request that does not wait still waits for messages that are on disk.
const DISK_WAIT: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Answer {
    messages: Vec<TakenMessage>,
}

/// See the module.
pub async fn take(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let hangup = request.hangup();
    request.body.discard().await?;
    let query = request.query()?;
    only(&query, &[&ConsumerOptions::NAMES[..], &["max", "wait"]].concat())?;
    let options = ConsumerOptions::parse(context, &query)?;
    let most = number(&query, "max", &(1..=context.config.max_rdy_count.max(1)))?.unwrap_or(1);
    let wait = duration(&query, "wait", WAITS)?.unwrap_or_default();
    let consumer = HttpConsumer::subscribe(context, request, Kind::Take, &options).await?;
    let leasing = Leasing::begin(context, consumer.subscription())?;
    let waiting = Waiting { engine: context.registry.engine(), consumers: &context.consumers, most, wait };
    let messages = waiting.take(consumer.subscription(), options.subscribe.message_timeout, &hangup).await;
    drop(leasing);
    Ok(response::value(encoding, &Answer { messages: messages? }))
}

/// The request may take messages for the channel's holder until this is dropped.
struct Leasing<'a>(&'a Subscription);

impl<'a> Leasing<'a> {
    fn begin(context: &HttpContext, subscription: &'a Subscription) -> Result<Self, HttpError> {
        let channel = &subscription.channel;
        match channel.begin_leasing(holder_info) {
            Ok(false) => {}
            Ok(true) => context.consumers.watch_holder(&context.registry, subscription.topic(), channel),
            Err(ChannelClosed) => return Err(EXITING),
        }
        Ok(Self(subscription))
    }
}

impl Drop for Leasing<'_> {
    fn drop(&mut self) {
        self.0.channel.end_leasing();
    }
}

/// What `/stats` shows for the consumer that holds leased messages.
fn holder_info() -> Arc<ClientInfo> {
    let info = ClientInfo::new("@".to_owned(), clock::wall_ns() / 1_000_000_000);
    info.identify(Identity {
        client_id: "http-leases".to_owned(),
        hostname: "http-leases".to_owned(),
        user_agent: format!("nsqd/{}", env!("CARGO_PKG_VERSION")),
        ..Identity::default()
    });
    info.set_state(crate::connection::state::ConnectionState::Subscribed as u8);
    Arc::new(info)
}

struct Waiting<'a> {
    engine: &'a Engine,
    consumers: &'a HttpConsumers,
    most: u64,
    wait: Duration,
}

impl Waiting<'_> {
    /// Waits for messages. Returns none at the end of the wait, and if the client is gone or nsqd stops.
    async fn take(
        &self,
        subscription: &Subscription,
        timeout: clock::Nanos,
        hangup: &Hangup,
    ) -> Result<Vec<TakenMessage>, HttpError> {
        let Subscription { channel, key, signal, .. } = subscription;
        let began = tokio::time::Instant::now();
        let mut ended = std::pin::pin!(tokio::time::sleep_until(began + self.wait));
        let mut gone = std::pin::pin!(hangup.wait());
        let mut frames = Vec::new();
        loop {
            if signal.answer() == Call::Close {
                return Err(EXITING);
            }
            let max_leases = self.consumers.max_leases;
            let taken = channel.take_leased(*key, self.most, max_leases, &mut frames, OUTPUT_BYTES);
            let Some(mut taken) = taken else {
                self.consumers.refused_leases.add(1);
                return Err(too_many(format!(
                    "TOO_MANY_LEASES: the channel has {max_leases} leased messages; finish some, or see --max-http-leases"
                )));
            };
            note_taken(self.engine, &mut taken, &frames);
            if taken.count > 0 {
                let leases = Leases { key: &self.consumers.lease_key, taken_at: taken.at, timeout };
                let messages = chunk::split(&frames);
                return Ok(messages
                    .filter_map(|frame| TakenMessage::new(frame, subscription, Some(&leases)))
                    .collect());
            }
            if taken.end == TakeEnd::OnDisk && ended.deadline() < began + DISK_WAIT {
                ended.as_mut().reset(began + DISK_WAIT);
            }
            if taken.end == TakeEnd::Parked && self.wait.is_zero() {
                return Ok(Vec::new());
            }
            tokio::select! {
                biased;
                // The client is gone: it must not get messages.
                () = &mut gone => return Ok(Vec::new()),
                () = signal.called() => {}
                () = &mut ended => return Ok(Vec::new()),
                () = self.consumers.stop.cancelled() => return Ok(Vec::new()),
            }
        }
    }
}
