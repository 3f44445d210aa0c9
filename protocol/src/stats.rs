//! nsqd's JSON over HTTP: `/stats` and `/info`.
//!
//! As in NSQ: the order of fields, which fields are omitted when zero, and whether an absent list is `null` or `[]`.
//! Write it with [`json::to_json`](crate::json::to_json). Reading is lenient, because tools talk to nodes of several
//! versions.

use serde::{Deserialize, Serialize, Serializer};

use crate::json::lenient;

/// `/stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// nsqd's version.
    #[serde(deserialize_with = "lenient")]
    pub version: String,
    /// `OK`, or `NOK - ` and the reason.
    #[serde(deserialize_with = "lenient")]
    pub health: String,
    /// When nsqd started, in seconds since 1970.
    #[serde(deserialize_with = "lenient")]
    pub start_time: i64,
    /// Topics ordered by name; `None` if the requested topic does not exist.
    pub topics: Option<Vec<TopicStats>>,
    /// Memory of nsqd; `None` if excluded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryStats>,
    /// Connections that have published; `None`, not empty, if there are none.
    pub producers: Option<Vec<ClientStats>>,
    /// Bytes written to disk that a power failure could lose; `None` if not requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsynced_bytes: Option<u64>,
    /// The volume of the data directory; `None` if not requested, or unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageStats>,
    /// The state of the drain; `None` if nsqd does not drain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<crate::drain::DrainStatus>,
    /// The archive of the node; `None` without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<crate::archive::ArchiveStats>,
}

/// The volume of nsqd's data directory. Not in NSQ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageStats {
    /// Free bytes.
    #[serde(deserialize_with = "lenient")]
    pub free_bytes: u64,
    /// Size in bytes.
    #[serde(deserialize_with = "lenient")]
    pub size_bytes: u64,
    /// Bytes of nsqd's journal.
    #[serde(deserialize_with = "lenient")]
    pub journal_bytes: u64,
}

/// A topic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TopicStats {
    /// Name of the topic.
    #[serde(deserialize_with = "lenient")]
    pub topic_name: String,
    /// Channels ordered by name.
    #[serde(deserialize_with = "lenient")]
    pub channels: Vec<ChannelStats>,
    /// Messages not yet released to the channels.
    #[serde(deserialize_with = "lenient")]
    pub depth: i64,
    /// The part of `depth` that is only on disk.
    #[serde(deserialize_with = "lenient")]
    pub backend_depth: i64,
    /// Messages ever published to the topic.
    #[serde(deserialize_with = "lenient")]
    pub message_count: u64,
    /// Bytes of the bodies of these messages.
    #[serde(deserialize_with = "lenient")]
    pub message_bytes: u64,
    /// Whether the topic is paused: it releases no messages to its channels.
    #[serde(deserialize_with = "lenient")]
    pub paused: bool,
    /// Latency over all channels.
    #[serde(deserialize_with = "lenient")]
    pub e2e_processing_latency: E2eLatency,
    /// Retained messages; absent if the topic retains none. Not in NSQ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionStats>,
    /// Remembered ids of messages; absent if the topic remembers none. Not in NSQ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedupe: Option<DedupeStats>,
    /// Messages that the topic dropped since the start because it held back too many. Not in NSQ.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub overflow_count: u64,
}

/// The ids of messages that a topic remembers, so that it stores no second message with the same id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DedupeStats {
    /// Number of ids remembered now.
    #[serde(deserialize_with = "lenient")]
    pub id_count: u64,
    /// Messages that were not stored because their id was remembered, since the start or the setting.
    #[serde(deserialize_with = "lenient")]
    pub duplicate_count: u64,
    /// Ids forgotten within the window because there were too many, since the start or the setting.
    #[serde(deserialize_with = "lenient")]
    pub dropped_id_count: u64,
}

/// The retention limits of a topic, and the messages that it retains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetentionStats {
    /// Age limit, in nanoseconds; 0 for none.
    #[serde(deserialize_with = "lenient")]
    pub retain_for: i64,
    /// Size limit, in bytes; 0 for none.
    #[serde(deserialize_with = "lenient")]
    pub retain_bytes: u64,
    /// Number of retained messages, finished or not.
    #[serde(deserialize_with = "lenient")]
    pub retained_count: u64,
    /// Bytes of the retained messages, with headers.
    #[serde(deserialize_with = "lenient")]
    pub retained_bytes: u64,
    /// When the oldest retained message was published, in nanoseconds since 1970; 0 if there is none or the time is not
    /// known yet.
    #[serde(deserialize_with = "lenient")]
    pub oldest_retained_at: i64,
    /// Sequence number of the oldest retained message.
    #[serde(deserialize_with = "lenient")]
    pub oldest_retained_sequence: u64,
}

/// `/channel/seek`: the new position of the channel. Not in NSQ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SeekResponse {
    /// Sequence number of the first message that the channel will hand out.
    #[serde(deserialize_with = "lenient")]
    pub sequence: u64,
    /// Whether the requested position was clamped to the oldest retained message.
    #[serde(deserialize_with = "lenient")]
    pub clamped: bool,
    /// Messages that can be handed out.
    #[serde(deserialize_with = "lenient")]
    pub depth: u64,
    /// Whether nothing was changed.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_false")]
    pub dry_run: bool,
}

/// A channel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChannelStats {
    /// Name of the channel.
    #[serde(deserialize_with = "lenient")]
    pub channel_name: String,
    /// Messages that can be handed out.
    #[serde(deserialize_with = "lenient")]
    pub depth: i64,
    /// The part of `depth` that is only on disk.
    #[serde(deserialize_with = "lenient")]
    pub backend_depth: i64,
    /// Messages in flight.
    #[serde(deserialize_with = "lenient")]
    pub in_flight_count: i64,
    /// Messages deferred.
    #[serde(deserialize_with = "lenient")]
    pub deferred_count: i64,
    /// Messages that ever entered the channel.
    #[serde(deserialize_with = "lenient")]
    pub message_count: u64,
    /// Messages delivered within the zone.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub zone_local_msg_count: u64,
    /// Messages delivered within the region.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub region_local_msg_count: u64,
    /// Messages delivered outside the region.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub global_msg_count: u64,
    /// Number of REQ commands.
    #[serde(deserialize_with = "lenient")]
    pub requeue_count: u64,
    /// Messages that timed out in flight.
    #[serde(deserialize_with = "lenient")]
    pub timeout_count: u64,
    /// Number of consumers, even if `clients` is excluded.
    #[serde(deserialize_with = "lenient")]
    pub client_count: i64,
    /// Consumers; `None` if excluded.
    pub clients: Option<Vec<ClientStats>>,
    /// Whether the channel is paused: it hands out no messages.
    #[serde(deserialize_with = "lenient")]
    pub paused: bool,
    /// Latency from publishing to FIN.
    #[serde(deserialize_with = "lenient")]
    pub e2e_processing_latency: E2eLatency,
    /// Messages that were moved to the dead-letter topic. Not in NSQ.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub dead_lettered_count: u64,
    /// Messages that will be moved there next: their attempts are used up. Not in NSQ.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub dead_letter_pending: u64,
    /// Messages that expired and were dropped. Not in NSQ.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub expired_count: u64,
    /// Messages that were dropped because the channel held too many. Not in NSQ.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub overflow_count: u64,
    /// Messages that did not match the channel's filter, and were finished without being delivered. Not in NSQ.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub filtered_count: u64,
    /// Messages that were cancelled. Not in NSQ.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub cancelled_count: u64,
    /// Whether publishes are refused because of this channel. Not in NSQ.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_false")]
    pub is_full: bool,
    /// Whether messages wait because the channel's rate is used up. Not in NSQ.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_false")]
    pub throttled: bool,
    /// How long messages waited because of that, in milliseconds, since the start or the setting. Not in NSQ.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub throttled_ms: u64,
    /// Whether as many messages are in flight as the channel allows. Not in NSQ.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_false")]
    pub in_flight_limit_reached: bool,
    /// Age of the oldest message that can be handed out or is in flight, in milliseconds; deferred ones before it count too.
    /// If it is only on disk, it is older than this. `None` if there is none, or if it is not requested. Not in NSQ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_age_ms: Option<u64>,
    /// What the channel holds back, if it is ordered or fair. Not in NSQ.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderStats>,
}

/// What an ordered or fair channel holds back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OrderStats {
    /// Messages that were read and wait for others of their key. They are part of `depth`.
    #[serde(deserialize_with = "lenient")]
    pub held_count: u64,
    /// Keys with such messages.
    #[serde(deserialize_with = "lenient")]
    pub blocked_key_count: u64,
    /// Whether the channel reads no further, because it holds too many.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_false")]
    pub reading_stopped: bool,
    /// The key with most messages held; `None` without any.
    pub blocked_key: Option<String>,
    /// How many messages of it are held.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub blocked_key_held_count: u64,
    /// The id of the message that these wait for.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub blocked_by: String,
    /// The remote address of the consumer that has it in flight.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub blocked_by_client: String,
}

/// How long messages took from publishing to FIN.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct E2eLatency {
    /// Number of samples in the window.
    #[serde(deserialize_with = "lenient")]
    pub count: i64,
    /// `None` if the feature is disabled.
    pub percentiles: Option<Vec<Percentile>>,
}

/// One percentile of a latency.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Percentile {
    /// The quantile, from 0 to 1.
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
    /// Client id from IDENTIFY; without it, the remote host.
    #[serde(deserialize_with = "lenient")]
    pub client_id: String,
    /// Host name from IDENTIFY; without it, the remote host.
    #[serde(deserialize_with = "lenient")]
    pub hostname: String,
    /// Version of the protocol: `V2`.
    #[serde(deserialize_with = "lenient")]
    pub version: String,
    /// Remote address, `ip:port`.
    #[serde(deserialize_with = "lenient")]
    pub remote_address: String,
    /// 0 connected, 3 subscribed, 4 closing.
    #[serde(deserialize_with = "lenient")]
    pub state: i64,
    /// RDY count.
    #[serde(deserialize_with = "lenient")]
    pub ready_count: i64,
    /// Messages in flight to the connection.
    #[serde(deserialize_with = "lenient")]
    pub in_flight_count: i64,
    /// Messages sent to the connection.
    #[serde(deserialize_with = "lenient")]
    pub message_count: u64,
    /// Messages sent within the zone.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub zone_local_msg_count: u64,
    /// Messages sent within the region.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub region_local_msg_count: u64,
    /// Messages sent outside the region.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub global_msg_count: u64,
    /// Number of FIN commands.
    #[serde(deserialize_with = "lenient")]
    pub finish_count: u64,
    /// Number of REQ commands.
    #[serde(deserialize_with = "lenient")]
    pub requeue_count: u64,
    /// When the client connected, in seconds since 1970.
    #[serde(deserialize_with = "lenient")]
    pub connect_ts: i64,
    /// Percentage of messages delivered; 0 for all.
    #[serde(deserialize_with = "lenient")]
    pub sample_rate: i64,
    /// Whether the connection uses deflate.
    #[serde(deserialize_with = "lenient")]
    pub deflate: bool,
    /// Whether the connection uses snappy.
    #[serde(deserialize_with = "lenient")]
    pub snappy: bool,
    /// Library of the client.
    #[serde(deserialize_with = "lenient")]
    pub user_agent: String,
    /// Whether AUTH succeeded.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_false")]
    pub authed: bool,
    /// Identity of the client according to the auth server.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub auth_identity: String,
    /// URL of a page about the identity.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub auth_identity_url: String,
    /// Zone of the client.
    #[serde(deserialize_with = "lenient")]
    pub topology_zone: String,
    /// Region of the client.
    #[serde(deserialize_with = "lenient")]
    pub topology_region: String,
    /// Number of messages published per topic.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Vec::is_empty")]
    pub pub_counts: Vec<PubCount>,
    /// Whether the connection uses TLS.
    #[serde(deserialize_with = "lenient")]
    pub tls: bool,
    /// Name of the cipher suite, or `Unknown ` and its number.
    #[serde(deserialize_with = "lenient")]
    pub tls_cipher_suite: String,
    /// `TLS1.2` and the like; empty without TLS.
    #[serde(deserialize_with = "lenient")]
    pub tls_version: String,
    /// Protocol that ALPN negotiated.
    #[serde(deserialize_with = "lenient")]
    pub tls_negotiated_protocol: String,
    /// True with TLS.
    #[serde(deserialize_with = "lenient")]
    pub tls_negotiated_protocol_is_mutual: bool,
}

/// Number of messages that a connection has published to a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PubCount {
    /// The topic.
    #[serde(deserialize_with = "lenient")]
    pub topic: String,
    /// Number of messages.
    #[serde(deserialize_with = "lenient")]
    pub count: u64,
}

/// Memory, in the terms of a garbage collector; fields without a meaning here are 0.
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
    /// Address at which clients reach nsqd.
    #[serde(deserialize_with = "lenient")]
    pub broadcast_address: String,
    /// Host name of nsqd.
    #[serde(deserialize_with = "lenient")]
    pub hostname: String,
    /// HTTP port; -1 for a Unix socket, 0 for none.
    #[serde(deserialize_with = "lenient")]
    pub http_port: i64,
    /// TCP port; -1 for a Unix socket.
    #[serde(deserialize_with = "lenient")]
    pub tcp_port: i64,
    /// When nsqd started, in seconds since 1970.
    #[serde(deserialize_with = "lenient")]
    pub start_time: i64,
    /// Longest heartbeat interval, in nanoseconds.
    #[serde(deserialize_with = "lenient")]
    pub max_heartbeat_interval: i64,
    /// Largest output buffer, in bytes.
    #[serde(deserialize_with = "lenient")]
    pub max_output_buffer_size: i64,
    /// Longest output buffer timeout, in nanoseconds.
    #[serde(deserialize_with = "lenient")]
    pub max_output_buffer_timeout: i64,
    /// Highest deflate level.
    #[serde(deserialize_with = "lenient")]
    pub max_deflate_level: i64,
    /// Zone of nsqd.
    #[serde(deserialize_with = "lenient")]
    pub topology_zone: String,
    /// Region of nsqd.
    #[serde(deserialize_with = "lenient")]
    pub topology_region: String,
    /// Whether nsqd refuses publishes because it drains.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_false")]
    pub draining: bool,
    /// Whether it drains and no message is left for consumers.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_false")]
    pub drained: bool,
}

// serde passes references.
fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// Writes a whole number as an integer: `1`, not `1.0`.
fn number<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    // Up to here an f64 represents every integer exactly.
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
