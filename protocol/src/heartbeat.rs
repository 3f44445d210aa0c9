//! Statistics that ride on an nsqd's heartbeats to nsqlookupd, if both have agreed on it.
//!
//! nsqd offers [`HEARTBEAT_STATS`] in its IDENTIFY, an nsqlookupd that wants them answers with the same; one that
//! does not know the field ignores it and gets plain PINGs. From then on nsqd may send `STATS` with a [`StatsReport`] in
//! MessagePack, and nsqlookupd may, unasked, send a response `REFRESH n`: nsqd is to report at once, and
//! to name the `n`.
//!
//! A report tells what has changed since the one before it. What does not fit into one goes into several: the last of
//! them says so, and then nsqlookupd knows all.
//!
//! Structs are arrays in MessagePack, in the order of their fields: that order is the format.

use serde::{Deserialize, Serialize};

use crate::name::{ChannelName, TopicName};
use crate::stats::{ChannelStats, MemoryStats, Stats, TopicStats};

/// The version of all this, in both directions of IDENTIFY; 0 or nothing is "not at all".
pub const HEARTBEAT_STATS: u8 = 1;

/// Longest report that is read.
pub const MAX_REPORT_BYTES: usize = 1 << 20;

/// A report is full when its topics may have reached this size, but for one topic that is larger by itself.
pub const REPORT_BYTES: usize = 64 << 10;

/// Channels of one topic that are told.
pub const MAX_CHANNELS_PER_TOPIC: usize = 4096;

/// Topics and channels of one node that are told and kept.
pub const MAX_ENTRIES: usize = 250_000;

/// Names are at most 64 bytes, numbers at most 9.
const MAX_CHANNEL_BYTES: usize = 160;
const MAX_TOPIC_BYTES: usize = 160;

const _: () = assert!(
    REPORT_BYTES + MAX_TOPIC_BYTES + MAX_CHANNELS_PER_TOPIC * MAX_CHANNEL_BYTES <= MAX_REPORT_BYTES,
    "whatever nsqd sends is read"
);

/// What STATS carries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsReport {
    /// Forget what was told before.
    pub is_first: bool,
    /// With this report, all is told.
    pub is_last: bool,
    /// There is more than is ever told: see the limits.
    pub is_cut: bool,
    /// The number of the latest REFRESH that came before these figures were taken; 0 for none.
    pub refresh: u64,
    /// The node as a whole.
    pub node: NodeSummary,
    /// Topics that are new or have changed.
    pub topics: Vec<TopicSummary>,
    /// Topics that are no more.
    pub removed: Vec<TopicName>,
}

/// A node as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSummary {
    /// nsqd's version.
    pub version: String,
    /// `OK`, or `NOK - ` and why.
    pub health: String,
    /// When nsqd started, in seconds since 1970.
    pub start_time: i64,
    /// Memory that it holds for itself.
    pub heap_in_use_bytes: u64,
    /// All its topics, told or not.
    pub topic_count: u64,
}

/// A topic; see [`TopicStats`].
#[allow(missing_docs)]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TopicSummary {
    pub topic_name: TopicName,
    pub depth: i64,
    pub backend_depth: i64,
    pub message_count: u64,
    pub message_bytes: u64,
    pub paused: bool,
    pub channels: Vec<ChannelSummary>,
}

/// A channel; see [`ChannelStats`].
#[allow(missing_docs)]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChannelSummary {
    pub channel_name: ChannelName,
    pub depth: i64,
    pub backend_depth: i64,
    pub in_flight_count: i64,
    pub deferred_count: i64,
    pub message_count: u64,
    pub zone_local_msg_count: u64,
    pub region_local_msg_count: u64,
    pub global_msg_count: u64,
    pub requeue_count: u64,
    pub timeout_count: u64,
    pub client_count: i64,
    pub paused: bool,
}

/// A report that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Not MessagePack, or not of the right types, or with a name that cannot be one.
    #[error("not a report: {0}")]
    Malformed(String),
    /// See [`MAX_CHANNELS_PER_TOPIC`] and [`MAX_ENTRIES`].
    #[error("more topics or channels than are kept")]
    TooMany,
    /// What is kept of all nodes would take too much memory.
    #[error("no memory is left for the figures of this node; ask the node itself")]
    NoMemory,
}

impl StatsReport {
    /// As MessagePack.
    pub fn encode(&self) -> Vec<u8> {
        // Numbers and strings can always be written.
        rmp_serde::to_vec(self).unwrap_or_default()
    }

    /// From MessagePack.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReportError> {
        let malformed = |text: String| ReportError::Malformed(text.chars().take(200).collect());
        let mut rest = bytes;
        let report: Self = rmp_serde::from_read(&mut rest).map_err(|error| malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed(format!("{} bytes too many", rest.len())));
        }
        if report.topics.iter().any(|topic| topic.channels.len() > MAX_CHANNELS_PER_TOPIC) {
            return Err(ReportError::TooMany);
        }
        Ok(report)
    }
}

impl TopicSummary {
    /// From what nsqd knows of a topic; none if its name is none. Channels above the limit are left out.
    pub fn new(stats: &TopicStats) -> Option<Self> {
        let channels = stats.channels.iter().take(MAX_CHANNELS_PER_TOPIC);
        Some(TopicSummary {
            topic_name: TopicName::new(&stats.topic_name).ok()?,
            depth: stats.depth,
            backend_depth: stats.backend_depth,
            message_count: stats.message_count,
            message_bytes: stats.message_bytes,
            paused: stats.paused,
            channels: channels.filter_map(ChannelSummary::new).collect(),
        })
    }

    /// As MessagePack.
    pub fn encode(&self) -> Vec<u8> {
        // Numbers and strings can always be written.
        rmp_serde::to_vec(self).unwrap_or_default()
    }

    /// From what [`TopicSummary::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(bytes).ok()
    }

    /// It and its channels, for the limit on both.
    pub fn entries(&self) -> usize {
        1 + self.channels.len()
    }

    /// No less than it takes in a report.
    pub fn max_encoded_bytes(&self) -> usize {
        MAX_TOPIC_BYTES + self.channels.len() * MAX_CHANNEL_BYTES
    }

    /// As `/stats` shows it, without connections.
    pub fn stats(&self) -> TopicStats {
        TopicStats {
            topic_name: self.topic_name.to_string(),
            channels: self.channels.iter().map(ChannelSummary::stats).collect(),
            depth: self.depth,
            backend_depth: self.backend_depth,
            message_count: self.message_count,
            message_bytes: self.message_bytes,
            paused: self.paused,
            ..TopicStats::default()
        }
    }
}

impl ChannelSummary {
    fn new(stats: &ChannelStats) -> Option<Self> {
        Some(ChannelSummary {
            channel_name: ChannelName::new(&stats.channel_name).ok()?,
            depth: stats.depth,
            backend_depth: stats.backend_depth,
            in_flight_count: stats.in_flight_count,
            deferred_count: stats.deferred_count,
            message_count: stats.message_count,
            zone_local_msg_count: stats.zone_local_msg_count,
            region_local_msg_count: stats.region_local_msg_count,
            global_msg_count: stats.global_msg_count,
            requeue_count: stats.requeue_count,
            timeout_count: stats.timeout_count,
            client_count: stats.client_count,
            paused: stats.paused,
        })
    }

    /// As `/stats` shows it, without connections.
    pub fn stats(&self) -> ChannelStats {
        ChannelStats {
            channel_name: self.channel_name.to_string(),
            depth: self.depth,
            backend_depth: self.backend_depth,
            in_flight_count: self.in_flight_count,
            deferred_count: self.deferred_count,
            message_count: self.message_count,
            zone_local_msg_count: self.zone_local_msg_count,
            region_local_msg_count: self.region_local_msg_count,
            global_msg_count: self.global_msg_count,
            requeue_count: self.requeue_count,
            timeout_count: self.timeout_count,
            client_count: self.client_count,
            paused: self.paused,
            ..ChannelStats::default()
        }
    }
}

impl NodeSummary {
    /// As `/stats` shows it, with these topics.
    pub fn stats(&self, topics: Option<Vec<TopicStats>>) -> Stats {
        Stats {
            version: self.version.clone(),
            health: self.health.clone(),
            start_time: self.start_time,
            topics,
            memory: Some(MemoryStats { heap_in_use_bytes: self.heap_in_use_bytes, ..MemoryStats::default() }),
            ..Stats::default()
        }
    }
}

/// The data of the response by which nsqlookupd asks for a report.
pub fn refresh_request(number: u64) -> Vec<u8> {
    format!("REFRESH {number}").into_bytes()
}

/// The number of such a request; None if the response is another one.
pub fn parse_refresh_request(data: &[u8]) -> Option<u64> {
    std::str::from_utf8(data.strip_prefix(b"REFRESH ")?).ok()?.parse().ok()
}

#[cfg(test)]
#[path = "heartbeat_tests.rs"]
mod tests;
