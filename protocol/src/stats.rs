//! nsqd's JSON over HTTP: `/stats` and `/info`.
//!
//! The order of fields, what is left out when zero, and where an absent list is `null` and where `[]`,
//! are as in NSQ. To be written with [`json::to_json`](crate::json::to_json); reading is lenient, since
//! tools talk to nodes of several versions.

use serde::{Deserialize, Serialize, Serializer};

use crate::json::lenient;

/// `/stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// nsqd's version.
    #[serde(deserialize_with = "lenient")]
    pub version: String,
    /// `OK`, or `NOK - ` and why.
    #[serde(deserialize_with = "lenient")]
    pub health: String,
    /// When it started, in seconds since 1970.
    #[serde(deserialize_with = "lenient")]
    pub start_time: i64,
    /// Its topics by name. None if the one that was asked for does not exist.
    pub topics: Option<Vec<TopicStats>>,
    /// Its memory, unless excluded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryStats>,
    /// Connections that have published. None, not empty, if there are none.
    pub producers: Option<Vec<ClientStats>>,
    /// Bytes written to disk that a power failure may take. None if not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsynced_bytes: Option<u64>,
}

/// A topic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TopicStats {
    /// Its name.
    #[serde(deserialize_with = "lenient")]
    pub topic_name: String,
    /// Its channels by name.
    #[serde(deserialize_with = "lenient")]
    pub channels: Vec<ChannelStats>,
    /// Messages not yet released to the channels.
    #[serde(deserialize_with = "lenient")]
    pub depth: i64,
    /// The part of them that is only on disk.
    #[serde(deserialize_with = "lenient")]
    pub backend_depth: i64,
    /// Messages published since the start.
    #[serde(deserialize_with = "lenient")]
    pub message_count: u64,
    /// Bytes of their bodies.
    #[serde(deserialize_with = "lenient")]
    pub message_bytes: u64,
    /// Whether it holds messages back from its channels.
    #[serde(deserialize_with = "lenient")]
    pub paused: bool,
    /// Over all channels.
    #[serde(deserialize_with = "lenient")]
    pub e2e_processing_latency: E2eLatency,
    /// What it keeps of finished messages. Absent if it keeps none; NSQ does not know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionStats>,
}

/// What a topic keeps of its messages though they are finished.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetentionStats {
    /// Limit of age, nanoseconds; 0 for none.
    #[serde(deserialize_with = "lenient")]
    pub retain_for: i64,
    /// Limit of bytes; 0 for none.
    #[serde(deserialize_with = "lenient")]
    pub retain_bytes: u64,
    /// Messages kept, finished or not.
    #[serde(deserialize_with = "lenient")]
    pub retained_count: u64,
    /// Their bytes, with headers.
    #[serde(deserialize_with = "lenient")]
    pub retained_bytes: u64,
    /// When the oldest of them was published, nanoseconds since 1970; 0 if there is none or it is not known yet.
    #[serde(deserialize_with = "lenient")]
    pub oldest_retained_at: i64,
    /// Its sequence number.
    #[serde(deserialize_with = "lenient")]
    pub oldest_retained_sequence: u64,
}

/// `/channel/seek`: where the channel stands now. NSQ does not know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SeekResponse {
    /// Sequence number of the first message that it will hand out.
    #[serde(deserialize_with = "lenient")]
    pub sequence: u64,
    /// More was asked for than the topic keeps: it is the oldest message that it does.
    #[serde(deserialize_with = "lenient")]
    pub clamped: bool,
    /// Messages that can be handed out.
    #[serde(deserialize_with = "lenient")]
    pub depth: u64,
}

/// A channel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChannelStats {
    /// Its name.
    #[serde(deserialize_with = "lenient")]
    pub channel_name: String,
    /// Messages that can be handed out.
    #[serde(deserialize_with = "lenient")]
    pub depth: i64,
    /// The part of them that is only on disk.
    #[serde(deserialize_with = "lenient")]
    pub backend_depth: i64,
    /// Messages in flight.
    #[serde(deserialize_with = "lenient")]
    pub in_flight_count: i64,
    /// Messages deferred.
    #[serde(deserialize_with = "lenient")]
    pub deferred_count: i64,
    /// Messages that ever entered.
    #[serde(deserialize_with = "lenient")]
    pub message_count: u64,
    /// Messages delivered within the zone.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub zone_local_msg_count: u64,
    /// Messages delivered within the region.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub region_local_msg_count: u64,
    /// Messages delivered elsewhere.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub global_msg_count: u64,
    /// REQ commands.
    #[serde(deserialize_with = "lenient")]
    pub requeue_count: u64,
    /// Messages that timed out in flight.
    #[serde(deserialize_with = "lenient")]
    pub timeout_count: u64,
    /// Consumers, also when they are not listed.
    #[serde(deserialize_with = "lenient")]
    pub client_count: i64,
    /// Consumers. None if excluded.
    pub clients: Option<Vec<ClientStats>>,
    /// Whether it hands out nothing.
    #[serde(deserialize_with = "lenient")]
    pub paused: bool,
    /// From publishing to FIN.
    #[serde(deserialize_with = "lenient")]
    pub e2e_processing_latency: E2eLatency,
}

/// How long messages took from publishing to FIN.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct E2eLatency {
    /// Samples in the window.
    #[serde(deserialize_with = "lenient")]
    pub count: i64,
    /// None if the feature is off.
    pub percentiles: Option<Vec<Percentile>>,
}

/// One percentile of a latency.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Percentile {
    /// Which, from 0 to 1.
    #[serde(deserialize_with = "lenient", serialize_with = "number")]
    pub quantile: f64,
    /// Nanoseconds; 0 without samples.
    #[serde(deserialize_with = "lenient", serialize_with = "number")]
    pub value: f64,
}

/// A connection, as consumer or as producer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientStats {
    /// From IDENTIFY; without it, the remote host.
    #[serde(deserialize_with = "lenient")]
    pub client_id: String,
    /// The same.
    #[serde(deserialize_with = "lenient")]
    pub hostname: String,
    /// Of the protocol: `V2`.
    #[serde(deserialize_with = "lenient")]
    pub version: String,
    /// `ip:port`.
    #[serde(deserialize_with = "lenient")]
    pub remote_address: String,
    /// 0 connected, 3 subscribed, 4 closing.
    #[serde(deserialize_with = "lenient")]
    pub state: i64,
    /// RDY count.
    #[serde(deserialize_with = "lenient")]
    pub ready_count: i64,
    /// Messages in flight to it.
    #[serde(deserialize_with = "lenient")]
    pub in_flight_count: i64,
    /// Messages sent to it.
    #[serde(deserialize_with = "lenient")]
    pub message_count: u64,
    /// Messages sent within the zone.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub zone_local_msg_count: u64,
    /// Messages sent within the region.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub region_local_msg_count: u64,
    /// Messages sent elsewhere.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub global_msg_count: u64,
    /// FIN commands.
    #[serde(deserialize_with = "lenient")]
    pub finish_count: u64,
    /// REQ commands.
    #[serde(deserialize_with = "lenient")]
    pub requeue_count: u64,
    /// When it connected, in seconds since 1970.
    #[serde(deserialize_with = "lenient")]
    pub connect_ts: i64,
    /// Percent of messages it gets; 0 for all.
    #[serde(deserialize_with = "lenient")]
    pub sample_rate: i64,
    /// Whether it uses deflate.
    #[serde(deserialize_with = "lenient")]
    pub deflate: bool,
    /// Whether it uses snappy.
    #[serde(deserialize_with = "lenient")]
    pub snappy: bool,
    /// Its library.
    #[serde(deserialize_with = "lenient")]
    pub user_agent: String,
    /// Whether AUTH succeeded.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_false")]
    pub authed: bool,
    /// Who it is for the auth server.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub auth_identity: String,
    /// Where to read more about that.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub auth_identity_url: String,
    /// Zone that it is in.
    #[serde(deserialize_with = "lenient")]
    pub topology_zone: String,
    /// Region that it is in.
    #[serde(deserialize_with = "lenient")]
    pub topology_region: String,
    /// What it has published.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Vec::is_empty")]
    pub pub_counts: Vec<PubCount>,
    /// Whether it uses TLS.
    #[serde(deserialize_with = "lenient")]
    pub tls: bool,
    /// Name of the cipher suite, or `Unknown ` and its number.
    #[serde(deserialize_with = "lenient")]
    pub tls_cipher_suite: String,
    /// `TLS1.2` and the like; empty without TLS.
    #[serde(deserialize_with = "lenient")]
    pub tls_version: String,
    /// Result of ALPN.
    #[serde(deserialize_with = "lenient")]
    pub tls_negotiated_protocol: String,
    /// True with TLS.
    #[serde(deserialize_with = "lenient")]
    pub tls_negotiated_protocol_is_mutual: bool,
}

/// How much a connection has published to a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PubCount {
    /// The topic.
    #[serde(deserialize_with = "lenient")]
    pub topic: String,
    /// Messages.
    #[serde(deserialize_with = "lenient")]
    pub count: u64,
}

/// Memory, in the terms of a garbage collector; what has no meaning here is 0.
#[allow(missing_docs)] // The names are NSQ's, and the unit is in them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryStats {
    #[serde(deserialize_with = "lenient")]
    pub heap_objects: u64,
    #[serde(deserialize_with = "lenient")]
    pub heap_idle_bytes: u64,
    #[serde(deserialize_with = "lenient")]
    pub heap_in_use_bytes: u64,
    #[serde(deserialize_with = "lenient")]
    pub heap_released_bytes: u64,
    #[serde(deserialize_with = "lenient")]
    pub gc_pause_usec_100: u64,
    #[serde(deserialize_with = "lenient")]
    pub gc_pause_usec_99: u64,
    #[serde(deserialize_with = "lenient")]
    pub gc_pause_usec_95: u64,
    #[serde(deserialize_with = "lenient")]
    pub next_gc_bytes: u64,
    #[serde(deserialize_with = "lenient")]
    pub gc_total_runs: u64,
}

/// `/info`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InfoResponse {
    /// nsqd's version.
    #[serde(deserialize_with = "lenient")]
    pub version: String,
    /// Address that clients are to use.
    #[serde(deserialize_with = "lenient")]
    pub broadcast_address: String,
    /// Its host.
    #[serde(deserialize_with = "lenient")]
    pub hostname: String,
    /// Port it listens on for HTTP; -1 for a Unix socket, 0 for none.
    #[serde(deserialize_with = "lenient")]
    pub http_port: i64,
    /// Port it listens on for clients; -1 for a Unix socket.
    #[serde(deserialize_with = "lenient")]
    pub tcp_port: i64,
    /// When it started, in seconds since 1970.
    #[serde(deserialize_with = "lenient")]
    pub start_time: i64,
    /// In nanoseconds.
    #[serde(deserialize_with = "lenient")]
    pub max_heartbeat_interval: i64,
    /// In bytes.
    #[serde(deserialize_with = "lenient")]
    pub max_output_buffer_size: i64,
    /// In nanoseconds.
    #[serde(deserialize_with = "lenient")]
    pub max_output_buffer_timeout: i64,
    /// Highest level of deflate.
    #[serde(deserialize_with = "lenient")]
    pub max_deflate_level: i64,
    /// Zone that it is in.
    #[serde(deserialize_with = "lenient")]
    pub topology_zone: String,
    /// Region that it is in.
    #[serde(deserialize_with = "lenient")]
    pub topology_region: String,
}

// Not public, but serde calls them by reference.
fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A number that is whole is written as an integer: `1`, not `1.0`.
fn number<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    // Up to here an f64 holds every integer, so nothing is lost.
    const WHOLE_UP_TO: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= WHOLE_UP_TO {
        serializer.serialize_i64(*number as i64)
    } else {
        serializer.serialize_f64(*number)
    }
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
