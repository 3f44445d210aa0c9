//! Statistics that nsqd sends with its heartbeats to nsqlookupd, if both negotiate them.
//!
//! nsqd offers [`HEARTBEAT_STATS`] in its IDENTIFY. An nsqlookupd that wants the statistics answers with the same
//! version. One that does not know the field ignores it and gets plain PINGs. After that, nsqd may send `STATS` with a
//! [`StatsReport`] in MessagePack. nsqlookupd may send an unsolicited response `REFRESH n`; nsqd then reports at once
//! and includes `n`.
//!
//! A report contains the changes since the previous one. Changes that do not fit into one report are split into
//! several. The last of them is marked; from then on nsqlookupd knows the complete state.
//!
//! Structs are arrays in MessagePack, in the order of their fields: that order is the format.

use serde::{Deserialize, Serialize};

use crate::name::{ChannelName, TopicName};
use crate::stats::{ChannelStats, MemoryStats, Stats, TopicStats};

/// Version of these statistics, in both directions of IDENTIFY; 0 or a missing field means none. nsqd offers its version,
/// nsqlookupd answers with the lower one of both. Version 2 adds [`Departures`], version 3 [`NodeSummary::draining`], version 4
/// [`Departures::held_up`].
pub const HEARTBEAT_STATS: u8 = 4;

/// The first version with [`Departures`].
#[cfg(feature = "heartbeat")]
const WITH_DEPARTURES: u8 = 2;

/// The first version with [`NodeSummary::draining`].
#[cfg(feature = "heartbeat")]
const WITH_DRAINING: u8 = 3;

/// The first version with [`Departures::held_up`].
#[cfg(feature = "heartbeat")]
const WITH_HELD_UP: u8 = 4;

/// Maximum size of an accepted report, in bytes.
pub const MAX_REPORT_BYTES: usize = 1 << 20;

/// A report is full once its topics may have reached this size, in bytes. Its last topic may exceed the size.
pub const REPORT_BYTES: usize = 64 << 10;

/// Maximum number of channels reported per topic.
pub const MAX_CHANNELS_PER_TOPIC: usize = 4096;

/// Maximum number of topics and channels reported and kept per node.
pub const MAX_ENTRIES: usize = 250_000;

/// Upper bounds of encoded sizes, in bytes: names take at most 64, numbers at most 9.
const MAX_CHANNEL_BYTES: usize = 238;
const MAX_TOPIC_BYTES: usize = 160;

const _: () = assert!(
    REPORT_BYTES + MAX_TOPIC_BYTES + MAX_CHANNELS_PER_TOPIC * MAX_CHANNEL_BYTES <= MAX_REPORT_BYTES,
    "nsqlookupd accepts every report that nsqd sends"
);

/// The body of STATS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsReport {
    /// Discard all earlier reports.
    pub is_first: bool,
    /// This report completes the node's state.
    pub is_last: bool,
    /// The node exceeds the limits, so its reports omit topics or channels.
    pub is_cut: bool,
    /// Number of the latest REFRESH received before these statistics were taken; 0 for none.
    pub refresh: u64,
    /// The node as a whole.
    pub node: NodeSummary,
    /// Topics that are new or have changed.
    pub topics: Vec<TopicSummary>,
    /// Topics that no longer exist.
    pub removed: Vec<TopicName>,
}

/// The statistics of a node as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSummary {
    /// nsqd's version.
    pub version: String,
    /// `OK`, or `NOK - ` and the reason.
    pub health: String,
    /// When nsqd started, in seconds since 1970.
    pub start_time: i64,
    /// Heap memory in use by nsqd, in bytes.
    pub heap_in_use_bytes: u64,
    /// Number of all topics, reported or not.
    pub topic_count: u64,
    /// The node refuses publishes because it drains. Left out if not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
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
    /// Left out if all are 0.
    #[serde(default, skip_serializing_if = "Departures::is_zero")]
    pub departures: Departures,
}

/// Messages that left a channel otherwise than by a FIN, and whether it is full; see [`ChannelStats`].
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Departures {
    pub dead_lettered_count: u64,
    pub dead_letter_pending: u64,
    pub expired_count: u64,
    pub overflow_count: u64,
    pub filtered_count: u64,
    pub is_full: bool,
    /// Left out if all are 0.
    #[serde(default, skip_serializing_if = "HeldUp::is_zero")]
    pub held_up: HeldUp,
}

/// What operators and limits do to a channel; see [`ChannelStats`].
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeldUp {
    pub cancelled_count: u64,
    pub throttled_ms: u64,
    pub throttled: bool,
    pub in_flight_limit_reached: bool,
}

impl HeldUp {
    fn is_zero(&self) -> bool {
        *self == HeldUp::default()
    }
}

impl Departures {
    fn is_zero(&self) -> bool {
        *self == Departures::default()
    }
}

/// Why a report is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Not MessagePack, or with wrong types or an invalid name.
    #[error("not a report: {0}")]
    Malformed(String),
    /// The node's statistics exceed a limit, such as [`MAX_CHANNELS_PER_TOPIC`] or [`MAX_ENTRIES`].
    #[error("too many topics or channels for the statistics of one node")]
    TooMany,
    /// The statistics of all nodes would exceed the memory limit.
    #[error("no memory is left for the statistics of this node; query the node directly")]
    NoMemory,
}

#[cfg(feature = "heartbeat")]
impl StatsReport {
    /// Encodes `self` as MessagePack.
    pub fn encode(&self) -> Vec<u8> {
        // Encoding numbers and strings cannot fail.
        rmp_serde::to_vec(self).unwrap_or_default()
    }

    /// Encodes `self` for a receiver of this version: without what it would refuse.
    pub fn encode_for(mut self, version: u8) -> Vec<u8> {
        if version < WITH_DEPARTURES {
            let channels = self.topics.iter_mut().flat_map(|topic| &mut topic.channels);
            channels.for_each(|channel| channel.departures = Departures::default());
        }
        if version < WITH_HELD_UP {
            let channels = self.topics.iter_mut().flat_map(|topic| &mut topic.channels);
            channels.for_each(|channel| channel.departures.held_up = HeldUp::default());
        }
        if version < WITH_DRAINING {
            self.node.draining = false;
        }
        self.encode()
    }

    /// Decodes a report from MessagePack.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReportError> {
        let malformed = |text: String| ReportError::Malformed(text.chars().take(200).collect());
        let mut rest = bytes;
        let report: Self = rmp_serde::from_read(&mut rest).map_err(|error| malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed(format!("{} bytes after the end of the report", rest.len())));
        }
        if report.topics.iter().any(|topic| topic.channels.len() > MAX_CHANNELS_PER_TOPIC) {
            return Err(ReportError::TooMany);
        }
        Ok(report)
    }
}

impl TopicSummary {
    /// Summarizes a topic; `None` if its name is invalid. Channels beyond the limit are left out.
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

    /// Encodes `self` as MessagePack.
    #[cfg(feature = "heartbeat")]
    pub fn encode(&self) -> Vec<u8> {
        // Encoding numbers and strings cannot fail.
        rmp_serde::to_vec(self).unwrap_or_default()
    }

    /// Decodes the output of [`TopicSummary::encode`]; `None` if it is invalid.
    #[cfg(feature = "heartbeat")]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(bytes).ok()
    }

    /// Number of entries that count toward [`MAX_ENTRIES`]: the topic and its channels.
    pub fn entries(&self) -> usize {
        1 + self.channels.len()
    }

    /// Upper bound of the topic's size in a report, in bytes.
    pub fn max_encoded_bytes(&self) -> usize {
        MAX_TOPIC_BYTES + self.channels.len() * MAX_CHANNEL_BYTES
    }

    /// The form of `/stats`, without connections.
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
            departures: Departures {
                dead_lettered_count: stats.dead_lettered_count,
                dead_letter_pending: stats.dead_letter_pending,
                expired_count: stats.expired_count,
                overflow_count: stats.overflow_count,
                filtered_count: stats.filtered_count,
                is_full: stats.is_full,
                held_up: HeldUp {
                    cancelled_count: stats.cancelled_count,
                    throttled_ms: stats.throttled_ms,
                    throttled: stats.throttled,
                    in_flight_limit_reached: stats.in_flight_limit_reached,
                },
            },
        })
    }

    /// The form of `/stats`, without connections.
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
            dead_lettered_count: self.departures.dead_lettered_count,
            dead_letter_pending: self.departures.dead_letter_pending,
            expired_count: self.departures.expired_count,
            overflow_count: self.departures.overflow_count,
            filtered_count: self.departures.filtered_count,
            is_full: self.departures.is_full,
            cancelled_count: self.departures.held_up.cancelled_count,
            throttled_ms: self.departures.held_up.throttled_ms,
            throttled: self.departures.held_up.throttled,
            in_flight_limit_reached: self.departures.held_up.in_flight_limit_reached,
            ..ChannelStats::default()
        }
    }
}

impl NodeSummary {
    /// The form of `/stats`, with these topics.
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

/// The data of the response by which nsqlookupd requests a report.
pub fn refresh_request(number: u64) -> Vec<u8> {
    format!("REFRESH {number}").into_bytes()
}

/// The number of such a request; `None` for any other response.
pub fn parse_refresh_request(data: &[u8]) -> Option<u64> {
    std::str::from_utf8(data.strip_prefix(b"REFRESH ")?).ok()?.parse().ok()
}

#[cfg(all(test, feature = "heartbeat"))]
#[path = "heartbeat_tests.rs"]
mod tests;
