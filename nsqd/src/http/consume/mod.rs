//! Consuming over HTTP, for clients that do not speak NSQ's protocol.
//!
//! - `take`: long poll; a request waits as a consumer of its own and gets messages with leases
//! - `settle`: finishes, requeues and touches messages by their leases
//! - `events`: server-sent events; the request is a consumer as long as it is connected
//! - `websocket`: NSQ's protocol in a WebSocket
//! - [`tickets`]: for browsers, which cannot send a token with a WebSocket or events
//! - `message`: the JSON form of a message; `settle_body`: pure; the body of a request with leases
//! - this file: what they share
//!
//! Messages that `take` hands out have no connection. One consumer per channel holds them ([`crate::channel::leases`]), which
//! `/stats` shows as `http-leases`. It stays for [`LEASE_LINGER`] after it was used, so that an ephemeral channel outlives
//! the time between two requests.

mod events;
mod message;
mod settle;
mod settle_body;
mod take;
pub mod tickets;
mod websocket;

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nsq_daemon::go_duration;
use nsq_daemon::http::{HttpError, Query, Request};
use nsq_daemon::metrics::Counter;
use nsq_protocol::{ChannelName, StartAt, TopicName};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub use self::events::events;
pub use self::settle::{finish, requeue, touch};
pub use self::take::take;
use self::tickets::Tickets;
pub use self::tickets::ticket;
pub use self::websocket::websocket;
use super::{EXITING, HttpContext, not_stored, required, topic_parameter};
use crate::channel::{Channel, HolderUse, Taken};
use crate::client_info::{ClientInfo, Identity};
use crate::clock::{self, Nanos};
use crate::config::Config;
use crate::connection::ConnectionContext;
use crate::connection::consume::{SubscribeError, SubscribeOptions, Subscription};
use crate::engine::Engine;
use crate::lease::{KEY_BYTES, LeaseKey};
use crate::log::chunk;
use crate::storage::{ChannelNumber, TopicNumber};
use crate::topic::Topic;
use crate::topic::registry::Registry;

/// How long the consumer that holds leased messages stays without leases and without waiting requests.
pub const LEASE_LINGER: Duration = Duration::from_secs(60);

/// As in IDENTIFY.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest `client_id`, in bytes.
const MAX_CLIENT_ID: usize = 256;

/// How a client consumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Take,
    Events,
    WebSocket,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Take, Self::Events, Self::WebSocket];

    /// The value of the label in `/metrics`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Take => "take",
            Self::Events => "events",
            Self::WebSocket => "websocket",
        }
    }
}

/// Shared by all requests that consume.
pub struct HttpConsumers {
    lease_key: LeaseKey,
    pub tickets: Tickets,
    /// `--max-http-consumers`
    max_consumers: usize,
    /// `--max-http-leases`
    max_leases: u64,
    /// By [`Kind`].
    counts: [AtomicUsize; Kind::ALL.len()],
    /// Requests that `max_consumers` refused.
    pub refused_consumers: Counter,
    /// Requests that `max_leases` refused.
    pub refused_leases: Counter,
    /// Channels with a consumer that holds leases.
    leasing: Mutex<HashMap<(TopicNumber, ChannelNumber), Weak<Channel>>>,
    /// Settings of the connections in WebSockets.
    connection: Arc<ConnectionContext>,
    /// nsqd stops: requests end.
    stop: CancellationToken,
}

impl HttpConsumers {
    pub fn new(config: &Config, connection: Arc<ConnectionContext>, stop: CancellationToken) -> Self {
        Self {
            lease_key: LeaseKey::new(random::<KEY_BYTES>()),
            tickets: Tickets::default(),
            max_consumers: config.max_http_consumers,
            max_leases: config.max_http_leases,
            counts: Default::default(),
            refused_consumers: Counter::default(),
            refused_leases: Counter::default(),
            leasing: Mutex::default(),
            connection,
            stop,
        }
    }

    /// Number of waiting requests or connections.
    pub fn count(&self, kind: Kind) -> usize {
        self.counts[kind as usize].load(Relaxed)
    }

    /// Number of messages that are leased now.
    pub fn lease_count(&self) -> u64 {
        let channels: Vec<_> = self.leasing.lock().values().filter_map(Weak::upgrade).collect();
        channels.iter().map(|channel| channel.lease_count()).sum()
    }

    /// Counts a client until the result is dropped. Waiting requests and event streams share one limit; a WebSocket
    /// has the limits of a TCP connection.
    fn enter(self: &Arc<Self>, kind: Kind) -> Result<Entered, HttpError> {
        let entered = Entered { consumers: self.clone(), kind };
        self.counts[kind as usize].fetch_add(1, Relaxed);
        let count = self.count(Kind::Take) + self.count(Kind::Events);
        if kind != Kind::WebSocket && count > self.max_consumers {
            self.refused_consumers.add(1);
            let limit = self.max_consumers;
            return Err(too_many(format!(
                "TOO_MANY_HTTP_CONSUMERS: {limit} requests wait for messages already; see --max-http-consumers"
            )));
        }
        Ok(entered)
    }

    /// Removes the consumer that holds leases once it is unused.
    fn watch_holder(self: &Arc<Self>, registry: &Arc<Registry>, topic: &Arc<Topic>, channel: &Arc<Channel>) {
        let id = (topic.number(), channel.number());
        self.leasing.lock().insert(id, Arc::downgrade(channel));
        let (consumers, registry) = (self.clone(), Arc::downgrade(registry));
        let (topic, channel) = (Arc::downgrade(topic), Arc::downgrade(channel));
        tokio::spawn(async move {
            let watching = watch_holder(registry, topic, channel);
            tokio::select! {
                () = watching => {}
                () = consumers.stop.cancelled() => {}
            }
            // Another task may watch a new one by now; its channel still has leases.
            let mut leasing = consumers.leasing.lock();
            leasing.retain(|known, channel| {
                *known != id || channel.upgrade().is_some_and(|channel| channel.has_holder())
            });
        });
    }
}

/// Waits until the holder is unused, and removes it. Holds nothing meanwhile.
async fn watch_holder(registry: Weak<Registry>, topic: Weak<Topic>, channel: Weak<Channel>) {
    let linger = clock::nanos(LEASE_LINGER);
    loop {
        let until = {
            let Some(channel) = channel.upgrade() else { return };
            match channel.drop_unused_holder(linger) {
                HolderUse::Until(until) => until,
                HolderUse::Gone { was_last } => {
                    if was_last && let (Some(registry), Some(topic)) = (registry.upgrade(), topic.upgrade()) {
                        registry.consumer_left(&topic, &channel).await;
                    }
                    return;
                }
            }
        };
        tokio::time::sleep_until(clock::instant(until).into()).await;
    }
}

/// A client that is counted.
pub(super) struct Entered {
    consumers: Arc<HttpConsumers>,
    kind: Kind,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.consumers.counts[self.kind as usize].fetch_sub(1, Relaxed);
    }
}

/// A request's consumer. Dropping it unsubscribes: messages in flight to it are handed out again.
struct HttpConsumer {
    /// `None` only while it is dropped.
    subscription: Option<Subscription>,
    registry: Arc<Registry>,
    _entered: Entered,
}

impl HttpConsumer {
    /// Subscribes with RDY 0, as SUB does.
    async fn subscribe(
        context: &HttpContext,
        request: &Request,
        kind: Kind,
        options: &ConsumerOptions,
    ) -> Result<Self, HttpError> {
        let entered = context.consumers.enter(kind)?;
        let info = Arc::new(client_info(context, request, options));
        let ConsumerOptions { topic, channel, .. } = options;
        let registry = &context.registry;
        let subscription = Subscription::open(registry, topic, channel, &info, options.subscribe).await;
        let subscription = subscription.map_err(|error| match error {
            SubscribeError::Refused(error) => not_stored(context, error),
            SubscribeError::TooManyConsumers { .. } => {
                too_many(format!("TOO_MANY_CONSUMERS: {error}; see --max-channel-consumers"))
            }
            SubscribeError::Deleted => EXITING,
        })?;
        Ok(Self { subscription: Some(subscription), registry: context.registry.clone(), _entered: entered })
    }

    fn subscription(&self) -> &Subscription {
        match &self.subscription {
            Some(subscription) => subscription,
            None => unreachable!("taken only by drop"),
        }
    }
}

impl Drop for HttpConsumer {
    fn drop(&mut self) {
        if let Some(subscription) = self.subscription.take() {
            subscription.leave_at_once(&self.registry);
        }
    }
}

/// Counts what was taken, as [`crate::delivery::deliver`] does, and starts to read from disk if necessary.
fn note_taken(engine: &Engine, taken: &mut Taken, frames: &[u8]) {
    if taken.count > 0 {
        let metrics = engine.metrics();
        metrics.delivered_messages.add(taken.count);
        if let Some(published_at) = chunk::first_delivery(frames) {
            let latency = clock::wall_at(taken.at).saturating_sub(published_at);
            metrics.deliveries.record_ns(u64::try_from(latency).unwrap_or(0));
        }
    }
    if let Some(request) = taken.request.take() {
        engine.log_context.disk_work.read(move || request.execute());
    }
}

/// Parameters that all consumers have.
struct ConsumerOptions {
    topic: TopicName,
    channel: ChannelName,
    subscribe: SubscribeOptions,
    client_id: Option<String>,
    topology_region: String,
    topology_zone: String,
}

impl ConsumerOptions {
    /// Their names.
    const NAMES: [&str; 7] =
        ["topic", "channel", "timeout", "start", "client_id", "topology_region", "topology_zone"];

    fn parse(context: &HttpContext, query: &Query<'_>) -> Result<Self, HttpError> {
        let (topic, channel) = names(query)?;
        let config = &context.config;
        let longest = config.max_msg_timeout;
        let timeout = duration(query, "timeout", MIN_TIMEOUT.min(longest)..=longest)?;
        let channel_start = match query.get("start") {
            None => StartAt::Latest,
            Some(text) => text.parse().map_err(|_| {
                bad_request(format!(
                    "INVALID_ARG_START: start={text}: expected earliest, latest, a sequence number, a time or an age"
                ))
            })?,
        };
        let client_id = query.get("client_id").map(|id| id.into_owned());
        if client_id.as_ref().is_some_and(|id| id.is_empty() || id.len() > MAX_CLIENT_ID) {
            return Err(bad_request(format!("INVALID_ARG_CLIENT_ID: expected 1 to {MAX_CLIENT_ID} bytes")));
        }
        let text = |key| query.get(key).unwrap_or_default().chars().take(MAX_CLIENT_ID).collect();
        Ok(Self {
            topic,
            channel,
            subscribe: SubscribeOptions {
                message_timeout: clock::nanos(timeout.unwrap_or(config.msg_timeout)),
                sample_rate: 0,
                channel_start,
            },
            client_id,
            topology_region: text("topology_region"),
            topology_zone: text("topology_zone"),
        })
    }
}

/// What `/stats` shows for a request.
fn client_info(context: &HttpContext, request: &Request, options: &ConsumerOptions) -> ClientInfo {
    let info = ClientInfo::new(request.remote.to_string(), clock::wall_ns() / 1_000_000_000);
    let host = info.identity();
    let user_agent = request.headers.get(http::header::USER_AGENT).map(|value| value.as_bytes());
    let user_agent =
        String::from_utf8_lossy(user_agent.unwrap_or_default()).chars().take(MAX_CLIENT_ID).collect();
    info.identify(Identity {
        client_id: options.client_id.clone().unwrap_or(host.client_id),
        hostname: host.hostname,
        user_agent,
        sample_rate: 0,
        topology_zone: options.topology_zone.clone(),
        topology_region: options.topology_region.clone(),
        locality: context
            .consumers
            .connection
            .location
            .as_ref()
            .map(|location| location.locality(&options.topology_region, &options.topology_zone)),
    });
    if let Some(tls) = &request.tls {
        info.upgrade(|upgrades| upgrades.tls = Some((**tls).clone()));
    }
    info.set_state(crate::connection::state::ConnectionState::Subscribed as u8);
    info
}

/// The valid names of topic and channel, which need not exist.
fn names(query: &Query<'_>) -> Result<(TopicName, ChannelName), HttpError> {
    let topic = TopicName::new(&*topic_parameter(query)?);
    let topic = topic.map_err(|_| HttpError::bad_request("INVALID_ARG_TOPIC"))?;
    let channel = ChannelName::new(&*required(query, "channel", "MISSING_ARG_CHANNEL")?);
    let channel = channel.map_err(|_| HttpError::bad_request("INVALID_ARG_CHANNEL"))?;
    Ok((topic, channel))
}

/// A duration such as `20s`; `None` if the parameter is missing.
fn duration(
    query: &Query<'_>,
    key: &str,
    range: RangeInclusive<Duration>,
) -> Result<Option<Duration>, HttpError> {
    let Some(text) = query.get(key) else { return Ok(None) };
    match go_duration::parse(&text).ok().filter(|duration| range.contains(duration)) {
        Some(duration) => Ok(Some(duration)),
        None => {
            let (least, most) = (go_duration::format(*range.start()), go_duration::format(*range.end()));
            let name = key.to_uppercase();
            Err(bad_request(format!(
                "INVALID_ARG_{name}: {key}={text}: expected a duration from {least} to {most}, such as {key}={}",
                go_duration::format((*range.end()).min(Duration::from_secs(20)))
            )))
        }
    }
}

fn bad_request(word: String) -> HttpError {
    HttpError { word: word.into(), ..HttpError::INVALID_REQUEST }
}

fn too_many(word: String) -> HttpError {
    HttpError { word: word.into(), ..HttpError::TOO_MANY_REQUESTS }
}

/// Random bytes that nobody can guess.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let filled = rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes);
    // As for TLS, there is no way to continue safely without it.
    assert!(filled.is_ok(), "the operating system provides random numbers");
    bytes
}

/// The time of the wall clock at a deadline, in nanoseconds.
fn wall_deadline(deadline: Nanos) -> i64 {
    let now = clock::monotonic();
    clock::wall_ns().saturating_add_unsigned(deadline.saturating_sub(now))
}
