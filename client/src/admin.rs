//! Typed calls to the HTTP interfaces of nsqd and nsqlookupd.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use nsq::admin::{LookupdClient, NsqdClient, StatsQuery};
//!
//! let lookupd = LookupdClient::new("127.0.0.1:4161")?;
//! for node in lookupd.nodes().await?.producers {
//!     let nsqd = NsqdClient::new(format!("{}:{}", node.broadcast_address, node.http_port))?;
//!     let stats = nsqd.stats(&StatsQuery::default()).await?;
//!     println!("{}: {} topics", nsqd.base_url(), stats.topics.unwrap_or_default().len());
//! }
//! # Ok(())
//! # }
//! ```

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, StatusCode};
use nsq_protocol::{MessageBatch, PeekLine, discovery};
// The types of the answers.
pub use nsq_protocol::{
    ChangedMessage, ChannelStats, ChannelsResponse, ClientStats, ClusterNode, ClusterStatsResponse,
    DeadDeleteResponse, DeadLetterGroup, DeadLettersResponse, DeadMessage, DeadMessagesResponse, DedupeStats,
    DrainStatus, DryRunChannel, DryRunResponse, E2eLatency, ExplainedSetting, InfoResponse, LookupResponse,
    MemoryStats, MessageResponse, Node, NodesResponse, PeekEnd, PeekedConsumer, PeekedMessage, Percentile,
    PolicyExplainResponse, PolicyTestResponse, PolicyWarning, Producer as ListedProducer, PubCount,
    RedriveDestination, RedrivePlanResponse, RedriveResponse, RetentionStats, SeekResponse, StartAt, Stats,
    StorageStats, TestedChannel, TestedRetention, TestedTopic, TopicStats, TopicsResponse, UndoResponse,
    UndoneChannel, WhyCause, WhyResponse,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::config::Secret;
use crate::error::ConfigError;
use crate::http::{HttpClient, HttpError, OnlyHttps, base_url, url};
use crate::tls::Tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const USER_AGENT: &str = concat!("nsq-rs/", env!("CARGO_PKG_VERSION"));

/// What [`NsqdClient::peek`] looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeekQuery {
    /// `waiting`, `in_flight`, `deferred`, `dead_letter_pending` or `finished`. [default: all that are not finished]
    pub state: Option<String>,
    /// `head`, `tail`, `seq:NUMBER`, `before:NUMBER` or `time:TIME`. [default: `head`]
    pub from: Option<String>,
    /// Maximum number of messages. [default: 20, at most 1000]
    pub limit: Option<u64>,
    /// A regular expression that the body matches.
    pub matching: Option<String>,
    /// Headers that the message has: `NAME:VALUE`, or `NAME` for any value.
    pub headers: Vec<String>,
}

/// A page of messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeekPage {
    /// The messages that match.
    pub messages: Vec<PeekedMessage>,
    /// Why the page ends, and where the next one begins.
    pub end: PeekEnd,
}

/// A call to a daemon's HTTP interface failed.
#[derive(Debug, Clone, Error)]
#[error("{method} {url}: {kind}")]
pub struct AdminError {
    /// GET, POST, PUT or DELETE.
    pub method: &'static str,
    /// The URL of the request, without user and password.
    pub url: String,
    /// Why the call failed.
    pub kind: AdminErrorKind,
}

impl AdminError {
    /// Whether the daemon reported that the topic, channel or node does not exist.
    pub fn is_not_found(&self) -> bool {
        self.is_status(404) && !self.is_unsupported()
    }

    /// Whether the daemon does not support the call. NSQ's own daemons lack the calls that this project has added.
    pub fn is_unsupported(&self) -> bool {
        self.is_status(404)
            && matches!(&self.kind, AdminErrorKind::Refused { word, .. } if word == "NOT_FOUND")
    }

    fn is_status(&self, expected: u16) -> bool {
        matches!(&self.kind, AdminErrorKind::Refused { status, .. } if *status == expected)
    }
}

/// Why a call failed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum AdminErrorKind {
    /// The connection could not be opened, or it broke.
    #[error("{0}")]
    Unreachable(String),
    /// The daemon did not answer within this time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The daemon answered with an error.
    #[error("{word} (status {status})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The error word, such as `TOPIC_NOT_FOUND`, or the start of an answer in another form, at most 200 bytes.
        word: String,
    },
    /// The answer cannot be parsed, or is too large.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
}

/// An answer as the daemon sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawResponse {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

/// The part that both clients share.
#[derive(Clone, Debug)]
struct Daemon {
    http: HttpClient,
    base_url: String,
}

impl Daemon {
    fn new(address: &str) -> Result<Self, ConfigError> {
        let http = HttpClient::new(CONNECT_TIMEOUT, REQUEST_TIMEOUT, USER_AGENT, Tls::default());
        Ok(Daemon { http, base_url: base_url(address)? })
    }

    fn set_timeouts(&mut self, connect: Duration, request: Duration) {
        self.http = self.http.with_timeouts(connect, request);
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Bytes, AdminError> {
        let url = url(&self.base_url, path, query);
        let name = method_name(&method);
        let kind = match self.http.send(method, &url, body).await {
            Ok((StatusCode::OK, body)) => return Ok(body),
            Ok((status, body)) => {
                AdminErrorKind::Refused { status: status.as_u16(), word: error_word(&body) }
            }
            Err(HttpError::Timeout(after)) => AdminErrorKind::Timeout(after),
            Err(HttpError::TooBig) => AdminErrorKind::Unexpected(HttpError::TooBig.to_string()),
            Err(error) => AdminErrorKind::Unreachable(error.to_string()),
        };
        Err(AdminError { method: name, url, kind })
    }

    async fn raw(&self, method: &str, path: &str, body: Bytes) -> Result<RawResponse, AdminError> {
        let url = format!("{}{path}", self.base_url);
        let failed = |name, kind| AdminError { method: name, url: url.clone(), kind };
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| {
            failed("GET", AdminErrorKind::Unexpected(format!("{method:?} is no HTTP method")))
        })?;
        let name = method_name(&method);
        match self.http.send(method, &url, body).await {
            Ok((status, body)) => Ok(RawResponse { status: status.as_u16(), body }),
            Err(HttpError::Timeout(after)) => Err(failed(name, AdminErrorKind::Timeout(after))),
            Err(HttpError::TooBig) => {
                Err(failed(name, AdminErrorKind::Unexpected(HttpError::TooBig.to_string())))
            }
            Err(error) => Err(failed(name, AdminErrorKind::Unreachable(error.to_string()))),
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, AdminError> {
        self.ask(Method::GET, path, query).await
    }

    /// A call without a body whose answer is JSON.
    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, AdminError> {
        self.ask_with(method, path, query, Bytes::new()).await
    }

    /// A call whose answer is JSON.
    async fn ask_with<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Bytes,
    ) -> Result<T, AdminError> {
        let body = self.call(method.clone(), path, query, body).await?;
        discovery::parse(&body).map_err(|error| AdminError {
            method: method_name(&method),
            url: url(&self.base_url, path, query),
            kind: AdminErrorKind::Unexpected(error.to_string()),
        })
    }

    async fn post(&self, path: &str, query: &[(&str, &str)]) -> Result<(), AdminError> {
        self.call(Method::POST, path, query, Bytes::new()).await.map(drop)
    }

    async fn ping(&self) -> Result<(), AdminError> {
        self.call(Method::GET, "/ping", &[], Bytes::new()).await.map(drop)
    }

    async fn time(&self) -> Result<Option<SystemTime>, AdminError> {
        let url = url(&self.base_url, "/ping", &[]);
        match self.http.exchange(Method::GET, &url, Bytes::new()).await {
            Ok(reply) => Ok(reply.date),
            Err(HttpError::Timeout(after)) => {
                Err(AdminError { method: "GET", url, kind: AdminErrorKind::Timeout(after) })
            }
            Err(error) => {
                Err(AdminError { method: "GET", url, kind: AdminErrorKind::Unreachable(error.to_string()) })
            }
        }
    }
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "GET",
    }
}

/// Returns WORD of `{"message":"WORD"}`, or the text itself, at most 200 bytes.
fn error_word(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct ErrorBody {
        message: String,
    }
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(error) => error.message,
        Err(_) => String::from_utf8_lossy(&body[..body.len().min(200)]).trim().to_owned(),
    }
}

/// Methods that both clients have.
macro_rules! common_calls {
    () => {
        /// Sets the timeouts of connecting [default: 2 s] and of a whole call [default: 10 s].
        #[must_use]
        pub fn timeouts(mut self, connect: Duration, request: Duration) -> Self {
            self.daemon.set_timeouts(connect, request);
            self
        }

        /// Sets the certificates for `https://` addresses, and for daemons that answer HTTP with `TLS_REQUIRED`.
        #[must_use]
        #[cfg(feature = "tls")]
        pub fn tls(mut self, tls: Tls) -> Self {
            self.daemon.http = self.daemon.http.with_tls(tls);
            self
        }

        /// The start of every URL: `http://host:port` or `https://host:port`, with the path prefix if there is one;
        /// `unix:PATH:` for a unix socket.
        pub fn base_url(&self) -> &str {
            &self.daemon.base_url
        }

        /// Sends any request: `path` begins with a slash, and may have a query. An answer with any status is `Ok`.
        pub async fn raw(
            &self,
            method: &str,
            path: &str,
            body: impl Into<Bytes>,
        ) -> Result<RawResponse, AdminError> {
            self.daemon.raw(method, path, body.into()).await
        }

        /// Checks that the daemon is healthy. If it is not, the error says why.
        pub async fn ping(&self) -> Result<(), AdminError> {
            self.daemon.ping().await
        }

        /// Returns the daemon's time, in whole seconds, also from an unhealthy one; `None` if it does not send its time.
        pub async fn time(&self) -> Result<Option<SystemTime>, AdminError> {
            self.daemon.time().await
        }

        /// Creates a topic if it does not exist.
        pub async fn create_topic(&self, topic: &str) -> Result<(), AdminError> {
            self.daemon.post("/topic/create", &[("topic", topic)]).await
        }

        /// Deletes a topic and its channels.
        pub async fn delete_topic(&self, topic: &str) -> Result<(), AdminError> {
            self.daemon.post("/topic/delete", &[("topic", topic)]).await
        }

        /// Creates a channel if it does not exist.
        pub async fn create_channel(&self, topic: &str, channel: &str) -> Result<(), AdminError> {
            self.daemon.post("/channel/create", &[("topic", topic), ("channel", channel)]).await
        }

        /// Deletes a channel and its messages.
        pub async fn delete_channel(&self, topic: &str, channel: &str) -> Result<(), AdminError> {
            self.daemon.post("/channel/delete", &[("topic", topic), ("channel", channel)]).await
        }
    };
}

/// Which statistics to return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsQuery {
    /// Include only this topic.
    pub topic: Option<String>,
    /// Include only this channel.
    pub channel: Option<String>,
    /// Include every connection. [`LookupdClient::cluster_stats`] ignores this.
    pub clients: bool,
    /// Include memory statistics. [`LookupdClient::cluster_stats`] ignores this.
    pub memory: bool,
    /// Include the disk. NSQ's own nsqd and [`LookupdClient::cluster_stats`] ignore this.
    pub storage: bool,
}

impl Default for StatsQuery {
    /// All topics and channels, without connections and memory.
    fn default() -> Self {
        StatsQuery { topic: None, channel: None, clients: false, memory: false, storage: false }
    }
}

/// How to undo an empty or a seek.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UndoOptions {
    /// Restore what is still retained, even if that is not everything.
    pub partial: bool,
    /// Change nothing.
    pub dry_run: bool,
}

/// How to drain an nsqd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainOptions {
    /// How long to wait for consumers. `None` for no limit, or with `to` for nsqd's `--drain-timeout`.
    pub timeout: Option<Duration>,
    /// The HTTP address of another nsqd, to which what is left after the timeout moves.
    pub to: Option<String>,
}

/// Which dead letters are meant. By default, all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadSelection {
    /// Only those whose headers match: conditions `NAME=GLOB` or `NAME!=GLOB`, separated by commas, that must all hold.
    pub filter: Option<String>,
    /// Only the one of this id, in the dead-letter topic or where it died: 16 hexadecimal digits.
    pub id: Option<String>,
    /// At most this many, the oldest ones.
    pub max: Option<u64>,
}

impl DeadSelection {
    fn parameters<'a>(&'a self, topic: &'a str, max: Option<&'a str>) -> Vec<(&'static str, &'a str)> {
        let mut query = vec![("topic", topic)];
        query.extend(self.filter.as_deref().map(|filter| ("filter", filter)));
        query.extend(self.id.as_deref().map(|id| ("id", id)));
        query.extend(max.map(|max| ("max", max)));
        query
    }
}

/// How to move dead letters back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedriveOptions {
    /// Which dead letters to move.
    pub selection: DeadSelection,
    /// Messages per second; `None` or 0 for as fast as possible.
    pub rate: Option<u64>,
    /// `TOPIC` or `TOPIC/CHANNEL`, which must exist. `None`: the channel in which each message died.
    pub to: Option<String>,
}

/// What [`NsqdClient::test_policy`] examines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyTestOptions {
    /// Only this topic, which must exist.
    pub topic: Option<String>,
    /// Examine messages for duplicates that were published during this time [default: 24 h].
    pub since: Option<Duration>,
    /// Maximum number of messages that nsqd reads [default: 1,000,000].
    pub limit: Option<u64>,
    /// Test the values of the file as own settings of topics and channels. Otherwise these have precedence.
    pub as_settings: bool,
}

/// A client for nsqd's HTTP interface (port 4151).
#[derive(Clone, Debug)]
pub struct NsqdClient {
    daemon: Daemon,
}

impl NsqdClient {
    /// Creates a client for `host:port`, `http://host:port`, `https://host:port`, or the path of a unix socket. Does
    /// not connect.
    pub fn new(address: impl AsRef<str>) -> Result<Self, ConfigError> {
        Ok(NsqdClient { daemon: Daemon::new(address.as_ref())? })
    }

    common_calls!();

    /// Sets the token for an nsqd whose HTTP interface requires one. Every call sends it, over plain HTTP too. A token
    /// that is not a valid header value is not sent.
    #[must_use]
    pub fn token(mut self, token: Option<Secret>) -> Self {
        self.daemon.http = self.daemon.http.with_secret(token.as_ref(), OnlyHttps(false));
        self
    }

    /// Returns nsqd's version, addresses and limits.
    pub async fn info(&self) -> Result<InfoResponse, AdminError> {
        self.daemon.get("/info", &[]).await
    }

    /// Returns counters and gauges of topics, channels and connections.
    pub async fn stats(&self, query: &StatsQuery) -> Result<Stats, AdminError> {
        let yes_no = |yes: bool| if yes { "true" } else { "false" };
        let mut parameters = vec![
            ("format", "json"),
            ("include_clients", yes_no(query.clients)),
            ("include_mem", yes_no(query.memory)),
        ];
        parameters.extend(query.storage.then_some(("include_storage", "true")));
        parameters.extend(query.topic.as_deref().map(|topic| ("topic", topic)));
        parameters.extend(query.channel.as_deref().map(|channel| ("channel", channel)));
        self.daemon.get("/stats", &parameters).await
    }

    /// Begins a drain, or replaces the one that is under way: nsqd refuses publishes, and consumers go on. It does not
    /// stop at the end.
    pub async fn begin_drain(&self, options: &DrainOptions) -> Result<DrainStatus, AdminError> {
        let timeout = options.timeout.map(|timeout| format!("{}ns", timeout.as_nanos()));
        let timeout = timeout.as_deref().map(|timeout| ("timeout", timeout));
        let to = options.to.as_deref().map(|to| ("to", to));
        let query: Vec<_> = timeout.into_iter().chain(to).collect();
        self.daemon.ask(Method::PUT, "/config/drain", &query).await
    }

    /// Ends a drain: nsqd accepts publishes again.
    pub async fn end_drain(&self) -> Result<DrainStatus, AdminError> {
        self.daemon.ask(Method::DELETE, "/config/drain", &[]).await
    }

    /// Returns whether nsqd drains, and how far it is.
    pub async fn drain_status(&self) -> Result<DrainStatus, AdminError> {
        self.daemon.get("/config/drain", &[]).await
    }

    /// Publishes one message.
    pub async fn publish(&self, topic: &str, body: impl Into<Bytes>) -> Result<(), AdminError> {
        self.daemon.call(Method::POST, "/pub", &[("topic", topic)], body.into()).await.map(drop)
    }

    /// Publishes one message that nsqd delivers after `delay`, which is truncated to whole milliseconds.
    pub async fn publish_deferred(
        &self,
        topic: &str,
        delay: Duration,
        body: impl Into<Bytes>,
    ) -> Result<(), AdminError> {
        let delay_ms = delay.as_millis().to_string();
        let query = [("topic", topic), ("defer", &delay_ms)];
        self.daemon.call(Method::POST, "/pub", &query, body.into()).await.map(drop)
    }

    /// Publishes several messages as one batch: nsqd accepts all or none.
    pub async fn publish_many<B: AsRef<[u8]>>(&self, topic: &str, bodies: &[B]) -> Result<(), AdminError> {
        let mut batch = Vec::new();
        MessageBatch::encode_bodies(bodies, &mut batch);
        let query = [("topic", topic), ("binary", "true")];
        self.daemon.call(Method::POST, "/mpub", &query, batch.into()).await.map(drop)
    }

    /// Creates a channel that starts at a position among the topic's retained messages, if it does not exist.
    pub async fn create_channel_at(
        &self,
        topic: &str,
        channel: &str,
        start: StartAt,
    ) -> Result<(), AdminError> {
        let query = [("topic", topic), ("channel", channel), ("start", &start.to_string())];
        self.daemon.post("/channel/create", &query).await
    }

    /// Moves a channel to another position. Moving back delivers messages again; moving forward finishes those passed.
    pub async fn seek_channel(
        &self,
        topic: &str,
        channel: &str,
        to: StartAt,
    ) -> Result<SeekResponse, AdminError> {
        let query = [("topic", topic), ("channel", channel), ("to", &to.to_string())];
        self.daemon.ask(Method::POST, "/channel/seek", &query).await
    }

    /// Returns what [`seek_channel`](NsqdClient::seek_channel) would return. Changes nothing.
    pub async fn plan_seek(
        &self,
        topic: &str,
        channel: &str,
        to: StartAt,
    ) -> Result<SeekResponse, AdminError> {
        let query = [("topic", topic), ("channel", channel), ("to", &to.to_string()), ("dry_run", "true")];
        self.daemon.ask(Method::POST, "/channel/seek", &query).await
    }

    /// Undoes the last empty or seek forward of a channel, or of all channels of the topic: the messages that were not
    /// finished then come back, if the topic retains them.
    pub async fn undo(
        &self,
        topic: &str,
        channel: Option<&str>,
        options: UndoOptions,
    ) -> Result<UndoResponse, AdminError> {
        let mut query = vec![("topic", topic)];
        query.extend(channel.map(|channel| ("channel", channel)));
        query.extend(options.partial.then_some(("partial", "true")));
        query.extend(options.dry_run.then_some(("dry_run", "true")));
        let path = if channel.is_some() { "/channel/undo" } else { "/topic/undo" };
        self.daemon.ask(Method::POST, path, &query).await
    }

    /// Sets for how long, and up to how many bytes, a topic retains finished messages. Zero is no limit; if both are
    /// zero, the topic retains nothing. With `None`, nsqd's flags apply to the topic.
    pub async fn retain_topic(&self, topic: &str, limits: Option<(Duration, u64)>) -> Result<(), AdminError> {
        let Some((age, bytes)) = limits else {
            return self.daemon.post("/topic/retain", &[("topic", topic), ("for", "default")]).await;
        };
        let (age, bytes) = (format!("{}ns", age.as_nanos()), bytes.to_string());
        self.daemon.post("/topic/retain", &[("topic", topic), ("for", &age), ("bytes", &bytes)]).await
    }

    /// Changes settings of a topic, such as `("retain_for", "24h")`; the value `default` removes one. If any is
    /// invalid, none is changed.
    pub async fn set_topic(&self, topic: &str, settings: &[(&str, &str)]) -> Result<(), AdminError> {
        self.daemon.post("/topic/set", &[&[("topic", topic)], settings].concat()).await
    }

    /// Changes settings of a channel, like [`set_topic`](NsqdClient::set_topic).
    pub async fn set_channel(
        &self,
        topic: &str,
        channel: &str,
        settings: &[(&str, &str)],
    ) -> Result<(), AdminError> {
        let query = [&[("topic", topic), ("channel", channel)], settings].concat();
        self.daemon.post("/channel/set", &query).await
    }

    /// Every setting of a topic, or of a channel if one is given, and where its value comes from. Neither has to exist.
    pub async fn explain_policy(
        &self,
        topic: &str,
        channel: Option<&str>,
    ) -> Result<PolicyExplainResponse, AdminError> {
        let query: Vec<_> =
            [("topic", topic)].into_iter().chain(channel.map(|name| ("channel", name))).collect();
        self.daemon.get("/policy/explain", &query).await
    }

    /// What a policy file, given as its text, would do with the messages that nsqd has. Changes nothing. Takes up to 8 s;
    /// set the [timeouts](NsqdClient::timeouts) accordingly.
    pub async fn test_policy(
        &self,
        file: impl Into<Bytes>,
        options: &PolicyTestOptions,
    ) -> Result<PolicyTestResponse, AdminError> {
        let PolicyTestOptions { topic, since, limit, as_settings } = options;
        let since = since.map(|since| format!("{}ns", since.as_nanos()));
        let limit = limit.map(|limit| limit.to_string());
        let mut query: Vec<(&str, &str)> = Vec::new();
        query.extend(topic.as_deref().map(|topic| ("topic", topic)));
        query.extend(since.as_deref().map(|since| ("since", since)));
        query.extend(limit.as_deref().map(|limit| ("limit", limit)));
        query.extend(as_settings.then_some(("as", "settings")));
        self.daemon.ask_with(Method::POST, "/policy/test", &query, file.into()).await
    }

    /// A page of messages of a channel, or of what the topic has stored if `channel` is `None`. Changes nothing.
    pub async fn peek(
        &self,
        topic: &str,
        channel: Option<&str>,
        query: &PeekQuery,
    ) -> Result<PeekPage, AdminError> {
        let limit = query.limit.map(|limit| limit.to_string());
        let mut parameters = vec![("topic", topic)];
        parameters.extend(channel.map(|channel| ("channel", channel)));
        parameters.extend(query.state.as_deref().map(|state| ("state", state)));
        parameters.extend(query.from.as_deref().map(|from| ("from", from)));
        parameters.extend(limit.as_deref().map(|limit| ("limit", limit)));
        parameters.extend(query.matching.as_deref().map(|pattern| ("match", pattern)));
        parameters.extend(query.headers.iter().map(|header| ("header", header.as_str())));
        let path = if channel.is_some() { "/channel/peek" } else { "/topic/peek" };
        let body = self.daemon.call(Method::GET, path, &parameters, Bytes::new()).await?;
        let unexpected = |reason: String| AdminError {
            method: "GET",
            url: url(&self.daemon.base_url, path, &parameters),
            kind: AdminErrorKind::Unexpected(reason),
        };
        let mut page = PeekPage::default();
        let mut has_end = false;
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line).map_err(|error| unexpected(error.to_string()))? {
                PeekLine::Message(message) => page.messages.push(*message),
                PeekLine::End { end } => (page.end, has_end) = (end, true),
            }
        }
        // A connection that breaks ends the answer early.
        if has_end { Ok(page) } else { Err(unexpected("the last line is missing".to_owned())) }
    }

    /// Finishes a message that is not in flight, in one channel or in all; with `dry_run`, only says where it stands. If
    /// no channel has it, the error [is "not found"](AdminError::is_not_found).
    pub async fn cancel_message(
        &self,
        topic: &str,
        channel: Option<&str>,
        id: &str,
        dry_run: bool,
    ) -> Result<MessageResponse, AdminError> {
        let mut query = vec![("topic", topic), ("id", id)];
        query.extend(channel.map(|channel| ("channel", channel)));
        query.extend(dry_run.then_some(("dry_run", "true")));
        self.daemon.ask(Method::POST, "/message/cancel", &query).await
    }

    /// Defers a message that is not in flight, or hands it out behind all that wait if `delay` is zero; with `dry_run`,
    /// only says where it stands. If the channel does not have it, the error [is "not found"](AdminError::is_not_found).
    pub async fn requeue_message(
        &self,
        topic: &str,
        channel: &str,
        id: &str,
        delay: Duration,
        dry_run: bool,
    ) -> Result<MessageResponse, AdminError> {
        let delay = delay.as_millis().to_string();
        let mut query = vec![("topic", topic), ("channel", channel), ("id", id), ("delay", &*delay)];
        query.extend(dry_run.then_some(("dry_run", "true")));
        self.daemon.ask(Method::POST, "/message/requeue", &query).await
    }

    /// Why a channel, or the message of this id, does not move.
    pub async fn why(&self, topic: &str, channel: &str, id: Option<&str>) -> Result<WhyResponse, AdminError> {
        let mut query = vec![("topic", topic), ("channel", channel)];
        query.extend(id.map(|id| ("id", id)));
        self.daemon.get("/channel/why", &query).await
    }

    /// Counts the dead letters of a dead-letter topic by cause. nsqd examines at most `limit` [default: 10000]. If the
    /// topic has no dead letters because it is no dead-letter topic, the error
    /// [is "not found"](AdminError::is_not_found).
    pub async fn dead_letters(
        &self,
        topic: &str,
        limit: Option<u64>,
    ) -> Result<DeadLettersResponse, AdminError> {
        let limit = limit.map(|limit| limit.to_string());
        let query: Vec<_> =
            [("topic", topic)].into_iter().chain(limit.as_deref().map(|limit| ("limit", limit))).collect();
        self.daemon.get("/topic/dead", &query).await
    }

    /// A page of dead letters that match, oldest first, from this sequence number on. `selection.max` limits their
    /// number [default: 20, at most 1000].
    pub async fn dead_messages(
        &self,
        topic: &str,
        selection: &DeadSelection,
        from: u64,
    ) -> Result<DeadMessagesResponse, AdminError> {
        let (limit, from) = (selection.max.map(|max| max.to_string()), from.to_string());
        let mut query = vec![("topic", topic), ("from", &*from)];
        query.extend(limit.as_deref().map(|limit| ("limit", limit)));
        query.extend(selection.filter.as_deref().map(|filter| ("filter", filter)));
        query.extend(selection.id.as_deref().map(|id| ("id", id)));
        self.daemon.get("/topic/dead/messages", &query).await
    }

    /// Deletes dead letters for good; with `dry_run`, only counts them.
    pub async fn delete_dead_letters(
        &self,
        topic: &str,
        selection: &DeadSelection,
        dry_run: bool,
    ) -> Result<DeadDeleteResponse, AdminError> {
        let max = selection.max.map(|max| max.to_string());
        let mut query = selection.parameters(topic, max.as_deref());
        query.extend(dry_run.then_some(("dry_run", "true")));
        self.daemon.ask(Method::POST, "/topic/dead/delete", &query).await
    }

    /// Starts to move dead letters back, each into the channel in which it died, or to `options.to`. nsqd moves them in
    /// the background; [`redrive`](NsqdClient::redrive) returns the progress.
    pub async fn start_redrive(
        &self,
        topic: &str,
        options: &RedriveOptions,
    ) -> Result<RedriveResponse, AdminError> {
        self.ask_to_redrive(topic, options, false).await
    }

    /// What [`start_redrive`](NsqdClient::start_redrive) would do. Moves nothing.
    pub async fn plan_redrive(
        &self,
        topic: &str,
        options: &RedriveOptions,
    ) -> Result<RedrivePlanResponse, AdminError> {
        self.ask_to_redrive(topic, options, true).await
    }

    async fn ask_to_redrive<T: DeserializeOwned>(
        &self,
        topic: &str,
        options: &RedriveOptions,
        dry_run: bool,
    ) -> Result<T, AdminError> {
        let RedriveOptions { selection, rate, to } = options;
        let (max, rate) = (selection.max.map(|max| max.to_string()), rate.map(|rate| rate.to_string()));
        let mut query = selection.parameters(topic, max.as_deref());
        query.extend(rate.as_deref().map(|rate| ("rate", rate)));
        query.extend(to.as_deref().map(|to| ("to", to)));
        query.extend(dry_run.then_some(("dry_run", "true")));
        self.daemon.ask(Method::POST, "/topic/redrive", &query).await
    }

    /// The redrive of a dead-letter topic that was started last, and its progress. If there was none since nsqd started,
    /// the error [is "not found"](AdminError::is_not_found).
    pub async fn redrive(&self, topic: &str) -> Result<RedriveResponse, AdminError> {
        self.daemon.get("/topic/redrive", &[("topic", topic)]).await
    }

    /// Stops a redrive. Returns what it has done.
    pub async fn stop_redrive(&self, topic: &str) -> Result<RedriveResponse, AdminError> {
        self.daemon.ask(Method::DELETE, "/topic/redrive", &[("topic", topic)]).await
    }

    /// Drops the messages that wait in the topic itself, not those in its channels.
    pub async fn empty_topic(&self, topic: &str) -> Result<(), AdminError> {
        self.daemon.post("/topic/empty", &[("topic", topic)]).await
    }

    /// Stops releasing messages to the topic's channels.
    pub async fn pause_topic(&self, topic: &str) -> Result<(), AdminError> {
        self.daemon.post("/topic/pause", &[("topic", topic)]).await
    }

    /// Ends [`pause_topic`](NsqdClient::pause_topic).
    pub async fn unpause_topic(&self, topic: &str) -> Result<(), AdminError> {
        self.daemon.post("/topic/unpause", &[("topic", topic)]).await
    }

    /// Drops all messages of the channel.
    pub async fn empty_channel(&self, topic: &str, channel: &str) -> Result<(), AdminError> {
        self.daemon.post("/channel/empty", &[("topic", topic), ("channel", channel)]).await
    }

    /// Stops sending the channel's messages to consumers.
    pub async fn pause_channel(&self, topic: &str, channel: &str) -> Result<(), AdminError> {
        self.daemon.post("/channel/pause", &[("topic", topic), ("channel", channel)]).await
    }

    /// Ends [`pause_channel`](NsqdClient::pause_channel).
    pub async fn unpause_channel(&self, topic: &str, channel: &str) -> Result<(), AdminError> {
        self.daemon.post("/channel/unpause", &[("topic", topic), ("channel", channel)]).await
    }

    /// Returns the value of a setting: plain text for a string, JSON for any other type.
    pub async fn config(&self, option: &str) -> Result<String, AdminError> {
        let body = self.daemon.call(Method::GET, &config_path(option), &[], Bytes::new()).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Changes a setting and returns its new value. nsqd can change two settings while it runs: `log_level`, and
    /// `nsqlookupd_tcp_addresses` (a JSON list).
    pub async fn set_config(&self, option: &str, value: impl Into<Bytes>) -> Result<String, AdminError> {
        let body = self.daemon.call(Method::PUT, &config_path(option), &[], value.into()).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

fn config_path(option: &str) -> String {
    format!("/config/{}", percent_encoding::utf8_percent_encode(option, percent_encoding::NON_ALPHANUMERIC))
        // Option names contain `_`, which needs no encoding.
        .replace("%5F", "_")
}

/// The answer of lookupd's `/info`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LookupdInfo {
    /// The version of lookupd.
    pub version: String,
}

/// A client for lookupd's HTTP interface (port 4161).
#[derive(Clone, Debug)]
pub struct LookupdClient {
    daemon: Daemon,
}

impl LookupdClient {
    /// Creates a client for `host:port`, `http://host:port`, `https://host:port`, or the path of a unix socket. Does
    /// not connect.
    pub fn new(address: impl AsRef<str>) -> Result<Self, ConfigError> {
        Ok(LookupdClient { daemon: Daemon::new(address.as_ref())? })
    }

    common_calls!();

    /// Returns lookupd's version.
    pub async fn info(&self) -> Result<LookupdInfo, AdminError> {
        self.daemon.get("/info", &[]).await
    }

    /// Returns all registered topics.
    pub async fn topics(&self) -> Result<Vec<String>, AdminError> {
        Ok(self.daemon.get::<TopicsResponse>("/topics", &[]).await?.topics)
    }

    /// Returns all registered channels of a topic.
    pub async fn channels(&self, topic: &str) -> Result<Vec<String>, AdminError> {
        Ok(self.daemon.get::<ChannelsResponse>("/channels", &[("topic", topic)]).await?.channels)
    }

    /// Returns the nsqds that have a topic. If the topic is not registered, the error
    /// [is "not found"](AdminError::is_not_found).
    pub async fn lookup(&self, topic: &str) -> Result<LookupResponse, AdminError> {
        self.daemon.get("/lookup", &[("topic", topic)]).await
    }

    /// Returns all live nsqds with their topics.
    pub async fn nodes(&self) -> Result<NodesResponse, AdminError> {
        self.daemon.get("/nodes", &[]).await
    }

    /// Returns the statistics that nsqds report with their heartbeats, without connections. With `refresh`, lookupd
    /// first requests new reports. NSQ's own nsqd reports no statistics, and for NSQ's own nsqlookupd the error
    /// [is "unsupported"](AdminError::is_unsupported).
    pub async fn cluster_stats(
        &self,
        query: &StatsQuery,
        refresh: bool,
    ) -> Result<ClusterStatsResponse, AdminError> {
        let mut parameters = vec![("refresh", if refresh { "true" } else { "false" })];
        parameters.extend(query.topic.as_deref().map(|topic| ("topic", topic)));
        parameters.extend(query.channel.as_deref().map(|channel| ("channel", channel)));
        self.daemon.get("/cluster/stats", &parameters).await
    }

    /// Hides an nsqd (`broadcast_address:http_port`) from lookups of a topic for a while, so that no consumer
    /// discovers it.
    pub async fn tombstone(&self, topic: &str, node: &str) -> Result<(), AdminError> {
        self.daemon.post("/topic/tombstone", &[("topic", topic), ("node", node)]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_word_is_read_from_json_and_from_text() {
        assert_eq!(error_word(br#"{"message":"TOPIC_NOT_FOUND"}"#), "TOPIC_NOT_FOUND");
        assert_eq!(error_word(b"NOK - disk full\n"), "NOK - disk full");
    }

    #[test]
    fn config_path_encodes_the_option_name() {
        assert_eq!(config_path("log_level"), "/config/log_level");
        assert_eq!(config_path("../x"), "/config/%2E%2E%2Fx");
    }
}
