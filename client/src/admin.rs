//! Typed calls to the HTTP interfaces of both daemons.
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

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use nsq_protocol::{
    ChannelsResponse, ClusterStatsResponse, InfoResponse, LookupResponse, MessageBatch, NodesResponse,
    SeekResponse, StartAt, Stats, TopicsResponse, discovery,
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

/// A call to a daemon's HTTP interface failed.
#[derive(Debug, Clone, Error)]
#[error("{method} {url}: {kind}")]
pub struct AdminError {
    /// GET, POST or PUT.
    pub method: &'static str,
    /// What was asked.
    pub url: String,
    /// What happened.
    pub kind: AdminErrorKind,
}

impl AdminError {
    /// Whether the daemon answered that the topic, channel or node does not exist.
    pub fn is_not_found(&self) -> bool {
        self.is_status(404) && !self.is_unsupported()
    }

    /// Whether the daemon does not know the call at all, as NSQ's own daemons do not know what only this project's can do.
    pub fn is_unsupported(&self) -> bool {
        self.is_status(404)
            && matches!(&self.kind, AdminErrorKind::Refused { word, .. } if word == "NOT_FOUND")
    }

    fn is_status(&self, expected: u16) -> bool {
        matches!(&self.kind, AdminErrorKind::Refused { status, .. } if *status == expected)
    }
}

/// What happened to a call.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum AdminErrorKind {
    /// No connection, or it broke.
    #[error("{0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The daemon said no.
    #[error("{word} (status {status})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The error word, such as `TOPIC_NOT_FOUND`, or what else the answer said.
        word: String,
    },
    /// The answer is not what it should be.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
}

/// The part that both daemons have in common.
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
        let name = match method {
            Method::POST => "POST",
            Method::PUT => "PUT",
            _ => "GET",
        };
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

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, AdminError> {
        let body = self.call(Method::GET, path, query, Bytes::new()).await?;
        discovery::parse(&body).map_err(|error| AdminError {
            method: "GET",
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
}

/// `{"message":"WORD"}`, or the text as it is.
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

/// Calls that both daemons take.
macro_rules! common_calls {
    () => {
        /// Sets how long connecting, and a whole call, may take: 2 and 10 seconds unless set.
        #[must_use]
        pub fn timeouts(mut self, connect: Duration, request: Duration) -> Self {
            self.daemon.set_timeouts(connect, request);
            self
        }

        /// Sets what to trust and who to be when the address is `https://`, or when the daemon insists on it.
        #[must_use]
        pub fn tls(mut self, tls: Tls) -> Self {
            self.daemon.http = self.daemon.http.with_tls(tls);
            self
        }

        /// `http://host:port`, and the path in front of the daemon's own if there is one; of a unix socket `unix:PATH:`.
        pub fn base_url(&self) -> &str {
            &self.daemon.base_url
        }

        /// Whether the daemon is healthy; if not, the error says why.
        pub async fn ping(&self) -> Result<(), AdminError> {
            self.daemon.ping().await
        }

        /// Creates a topic, if it is not there.
        pub async fn create_topic(&self, topic: &str) -> Result<(), AdminError> {
            self.daemon.post("/topic/create", &[("topic", topic)]).await
        }

        /// Deletes a topic with its channels.
        pub async fn delete_topic(&self, topic: &str) -> Result<(), AdminError> {
            self.daemon.post("/topic/delete", &[("topic", topic)]).await
        }

        /// Creates a channel, if it is not there.
        pub async fn create_channel(&self, topic: &str, channel: &str) -> Result<(), AdminError> {
            self.daemon.post("/channel/create", &[("topic", topic), ("channel", channel)]).await
        }

        /// Deletes a channel.
        pub async fn delete_channel(&self, topic: &str, channel: &str) -> Result<(), AdminError> {
            self.daemon.post("/channel/delete", &[("topic", topic), ("channel", channel)]).await
        }
    };
}

/// What `/stats` should contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsQuery {
    /// Only this topic.
    pub topic: Option<String>,
    /// Only this channel.
    pub channel: Option<String>,
    /// With every connection.
    pub clients: bool,
    /// With figures about memory.
    pub memory: bool,
}

impl Default for StatsQuery {
    /// All topics and channels, without connections and memory.
    fn default() -> Self {
        StatsQuery { topic: None, channel: None, clients: false, memory: false }
    }
}

/// An nsqd's HTTP interface (port 4151).
#[derive(Clone, Debug)]
pub struct NsqdClient {
    daemon: Daemon,
}

impl NsqdClient {
    /// For `host:port`, `http://host:port`, `https://host:port`, or the path of a unix socket.
    pub fn new(address: impl AsRef<str>) -> Result<Self, ConfigError> {
        Ok(NsqdClient { daemon: Daemon::new(address.as_ref())? })
    }

    common_calls!();

    /// Sets the token for an nsqd whose HTTP interface asks for one; sent with every call, also in the clear.
    #[must_use]
    pub fn token(mut self, token: Option<Secret>) -> Self {
        self.daemon.http = self.daemon.http.with_secret(token.as_ref(), OnlyHttps(false));
        self
    }

    /// Version, addresses and limits.
    pub async fn info(&self) -> Result<InfoResponse, AdminError> {
        self.daemon.get("/info", &[]).await
    }

    /// Counters and gauges of topics, channels and connections.
    pub async fn stats(&self, query: &StatsQuery) -> Result<Stats, AdminError> {
        let yes_no = |yes: bool| if yes { "true" } else { "false" };
        let mut parameters = vec![
            ("format", "json"),
            ("include_clients", yes_no(query.clients)),
            ("include_mem", yes_no(query.memory)),
        ];
        parameters.extend(query.topic.as_deref().map(|topic| ("topic", topic)));
        parameters.extend(query.channel.as_deref().map(|channel| ("channel", channel)));
        self.daemon.get("/stats", &parameters).await
    }

    /// Publishes one message.
    pub async fn publish(&self, topic: &str, body: impl Into<Bytes>) -> Result<(), AdminError> {
        self.daemon.call(Method::POST, "/pub", &[("topic", topic)], body.into()).await.map(drop)
    }

    /// Publishes one message that no consumer gets before `delay` has passed.
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

    /// Publishes many messages, all or none.
    pub async fn publish_many<B: AsRef<[u8]>>(&self, topic: &str, bodies: &[B]) -> Result<(), AdminError> {
        let mut batch = Vec::new();
        MessageBatch::encode_bodies(bodies, &mut batch);
        let query = [("topic", topic), ("binary", "true")];
        self.daemon.call(Method::POST, "/mpub", &query, batch.into()).await.map(drop)
    }

    /// Creates a channel that starts at a place among the messages that the topic keeps, if the channel is not there.
    pub async fn create_channel_at(
        &self,
        topic: &str,
        channel: &str,
        start: StartAt,
    ) -> Result<(), AdminError> {
        let query = [("topic", topic), ("channel", channel), ("start", &start.to_string())];
        self.daemon.post("/channel/create", &query).await
    }

    /// Moves a channel: back, so that messages are delivered again, or forward, so that they are finished.
    pub async fn seek_channel(
        &self,
        topic: &str,
        channel: &str,
        to: StartAt,
    ) -> Result<SeekResponse, AdminError> {
        let query = [("topic", topic), ("channel", channel), ("to", &to.to_string())];
        let body = self.daemon.call(Method::POST, "/channel/seek", &query, Bytes::new()).await?;
        discovery::parse(&body).map_err(|error| AdminError {
            method: "POST",
            url: url(&self.daemon.base_url, "/channel/seek", &query),
            kind: AdminErrorKind::Unexpected(error.to_string()),
        })
    }

    /// Sets how long, and how many bytes of, finished messages a topic keeps; zero is no limit, and both zero is
    /// nothing. Without limits of its own it follows nsqd's flags.
    pub async fn retain_topic(&self, topic: &str, limits: Option<(Duration, u64)>) -> Result<(), AdminError> {
        let Some((age, bytes)) = limits else {
            return self.daemon.post("/topic/retain", &[("topic", topic), ("for", "default")]).await;
        };
        let (age, bytes) = (format!("{}ns", age.as_nanos()), bytes.to_string());
        self.daemon.post("/topic/retain", &[("topic", topic), ("for", &age), ("bytes", &bytes)]).await
    }

    /// Drops the messages that wait in the topic itself.
    pub async fn empty_topic(&self, topic: &str) -> Result<(), AdminError> {
        self.daemon.post("/topic/empty", &[("topic", topic)]).await
    }

    /// Stops handing messages to the topic's channels.
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

    /// A setting's value as nsqd writes it: text for strings, JSON for all else.
    pub async fn config(&self, option: &str) -> Result<String, AdminError> {
        let body = self.daemon.call(Method::GET, &config_path(option), &[], Bytes::new()).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Changes a setting; returns its new value. nsqd knows two that can be changed while it runs:
    /// `log_level`, and `nsqlookupd_tcp_addresses` (a JSON list).
    pub async fn set_config(&self, option: &str, value: impl Into<Bytes>) -> Result<String, AdminError> {
        let body = self.daemon.call(Method::PUT, &config_path(option), &[], value.into()).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

fn config_path(option: &str) -> String {
    format!("/config/{}", percent_encoding::utf8_percent_encode(option, percent_encoding::NON_ALPHANUMERIC))
        // The one character of option names that needs no encoding.
        .replace("%5F", "_")
}

/// What `/info` of a lookupd says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LookupdInfo {
    /// Its version.
    pub version: String,
}

/// A lookupd's HTTP interface (port 4161).
#[derive(Clone, Debug)]
pub struct LookupdClient {
    daemon: Daemon,
}

impl LookupdClient {
    /// For `host:port`, `http://host:port`, `https://host:port`, or the path of a unix socket.
    pub fn new(address: impl AsRef<str>) -> Result<Self, ConfigError> {
        Ok(LookupdClient { daemon: Daemon::new(address.as_ref())? })
    }

    common_calls!();

    /// Its version.
    pub async fn info(&self) -> Result<LookupdInfo, AdminError> {
        self.daemon.get("/info", &[]).await
    }

    /// All topics it knows.
    pub async fn topics(&self) -> Result<Vec<String>, AdminError> {
        Ok(self.daemon.get::<TopicsResponse>("/topics", &[]).await?.topics)
    }

    /// All channels it knows of a topic.
    pub async fn channels(&self, topic: &str) -> Result<Vec<String>, AdminError> {
        Ok(self.daemon.get::<ChannelsResponse>("/channels", &[("topic", topic)]).await?.channels)
    }

    /// The nsqds that have a topic. An error that [is "not found"](AdminError::is_not_found) if it does not
    /// know the topic.
    pub async fn lookup(&self, topic: &str) -> Result<LookupResponse, AdminError> {
        self.daemon.get("/lookup", &[("topic", topic)]).await
    }

    /// All nsqds that are alive, with their topics.
    pub async fn nodes(&self) -> Result<NodesResponse, AdminError> {
        self.daemon.get("/nodes", &[]).await
    }

    /// The figures that its nodes tell it with their heartbeats; with `refresh`, it has them tell at once. Nodes and
    /// lookupds of another make do not know that: a node then has none, a lookupd's error
    /// [is "not found"](AdminError::is_not_found). Connections are never among the figures.
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

    /// Hides an nsqd (`broadcast_address:http_port`) from lookups of a topic for a while, so that consumers
    /// leave it.
    pub async fn tombstone(&self, topic: &str, node: &str) -> Result<(), AdminError> {
        self.daemon.post("/topic/tombstone", &[("topic", topic), ("node", node)]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_words() {
        assert_eq!(error_word(br#"{"message":"TOPIC_NOT_FOUND"}"#), "TOPIC_NOT_FOUND");
        assert_eq!(error_word(b"NOK - disk full\n"), "NOK - disk full");
    }

    #[test]
    fn config_paths() {
        assert_eq!(config_path("log_level"), "/config/log_level");
        assert_eq!(config_path("../x"), "/config/%2E%2E%2Fx");
    }
}
