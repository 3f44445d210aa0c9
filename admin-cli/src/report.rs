//! Topics and channels on all nodes, in the form in which commands print them: the sums of a [`Snapshot`]. Pure.

use std::collections::BTreeSet;

use nsq_cluster::snapshot::{ChannelView, Rates, TopicFigures, TopicView};
use nsq_cluster::{Samples, Snapshot};
use nsq_protocol::DedupeStats;
use serde::{Serialize, Serializer};

use crate::names::Object;

/// A topic on all nodes. Rates are per second. They are absent without an earlier sample.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TopicReport {
    pub topic_name: String,
    /// Number of nodes that have the topic.
    pub node_count: usize,
    /// Messages not yet released to channels.
    pub depth: i64,
    /// The part of `depth` that is only on disk.
    pub backend_depth: i64,
    /// Messages published since the nodes started.
    pub message_count: u64,
    /// Body bytes of these messages.
    pub message_bytes: u64,
    /// Whether the topic is paused on some node.
    pub paused: bool,
    /// Messages published per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_rate: Option<Rate>,
    /// The channels, sorted by name.
    pub channels: Vec<ChannelReport>,
    /// Finished messages that are retained; `None` if no node retains any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retained: Option<RetainedReport>,
    /// The ids that are remembered; `None` if no node remembers any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedupe: Option<DedupeStats>,
}

/// The finished messages of a topic that all nodes retain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct RetainedReport {
    /// Retained messages.
    pub retained_count: u64,
    /// Bytes of these messages, with headers.
    pub retained_bytes: u64,
    /// When the oldest was published, in nanoseconds since 1970; 0 if there is none or it is unknown.
    pub oldest_retained_at: i64,
}

/// A channel on all nodes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ChannelReport {
    pub channel_name: String,
    /// Number of nodes that have the channel.
    pub node_count: usize,
    /// Messages that can be handed out.
    pub depth: i64,
    /// The part of `depth` that is only on disk.
    pub backend_depth: i64,
    /// Messages in flight.
    pub in_flight_count: i64,
    /// Messages deferred.
    pub deferred_count: i64,
    /// Messages that ever entered the channel.
    pub message_count: u64,
    /// Messages delivered within the nodes' zones.
    #[serde(skip_serializing_if = "is_zero")]
    pub zone_local_msg_count: u64,
    /// Messages delivered within the nodes' regions.
    #[serde(skip_serializing_if = "is_zero")]
    pub region_local_msg_count: u64,
    /// Messages delivered elsewhere.
    #[serde(skip_serializing_if = "is_zero")]
    pub global_msg_count: u64,
    /// REQ commands.
    pub requeue_count: u64,
    /// Messages that timed out in flight.
    pub timeout_count: u64,
    /// Consumers.
    pub client_count: i64,
    /// Whether the channel is paused on some node.
    pub paused: bool,
    /// Messages that became dead letters.
    #[serde(skip_serializing_if = "is_zero")]
    pub dead_lettered_count: u64,
    /// Messages that will be moved to the dead-letter topic next.
    #[serde(skip_serializing_if = "is_zero")]
    pub dead_letter_pending: u64,
    /// Messages that expired and were dropped.
    #[serde(skip_serializing_if = "is_zero")]
    pub expired_count: u64,
    /// Messages that were dropped because the channel held too many.
    #[serde(skip_serializing_if = "is_zero")]
    pub overflow_count: u64,
    /// Messages that did not match the channel's filter.
    #[serde(skip_serializing_if = "is_zero")]
    pub filtered_count: u64,
    /// Messages that were cancelled.
    #[serde(skip_serializing_if = "is_zero")]
    pub cancelled_count: u64,
    /// Whether some node refuses publishes because of the channel.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_full: bool,
    /// Whether messages wait at some node because of a rate or a limit of messages in flight.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_throttled: bool,
    /// Whether some node reads no further because too many messages wait for others of their key.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reading_stopped: bool,
    /// Messages that wait for others of their key.
    #[serde(skip_serializing_if = "is_zero")]
    pub held_count: u64,
    /// Messages that entered, per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_rate: Option<Rate>,
    /// Messages that left, per second: finished, or dropped by an operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_rate: Option<Rate>,
    /// Messages requeued per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requeue_rate: Option<Rate>,
    /// Messages that timed out per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_rate: Option<Rate>,
}

/// Events per second, serialized with one decimal.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rate(pub f64);

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64((self.0 * 10.0).round() / 10.0)
    }
}

/// Adds up the samples of all nodes. With earlier samples, computes the rates since then; a node that is new or has
/// restarted adds nothing to them.
pub fn report(before: Option<&Samples>, now: &Samples) -> Vec<TopicReport> {
    let snapshot = Snapshot::of_samples(before, now);
    snapshot.topics.iter().map(|topic| TopicReport::of(topic, before.is_some())).collect()
}

impl TopicReport {
    fn of(topic: &TopicView, has_earlier: bool) -> Self {
        let TopicFigures { depth, backend_depth, message_count, message_bytes, paused, rates, .. } =
            topic.sum;
        TopicReport {
            topic_name: topic.name.to_string(),
            node_count: topic.parts.len(),
            depth,
            backend_depth,
            message_count,
            message_bytes,
            paused,
            ingress_rate: rate(has_earlier, rates, |rates| rates.ingress),
            channels: topic.channels.iter().map(|channel| ChannelReport::of(channel, has_earlier)).collect(),
            retained: topic.sum.retained.map(|retained| RetainedReport {
                retained_count: retained.count,
                retained_bytes: retained.bytes,
                oldest_retained_at: retained.oldest_at,
            }),
            dedupe: topic.sum.dedupe.as_deref().copied(),
        }
    }
}

impl ChannelReport {
    fn of(channel: &ChannelView, has_earlier: bool) -> Self {
        let sum = &channel.sum;
        let extra = sum.extra.as_deref().cloned().unwrap_or_default();
        let rate = |figure| rate(has_earlier, sum.rates, figure);
        ChannelReport {
            channel_name: channel.name.to_string(),
            node_count: channel.parts.len(),
            depth: sum.depth,
            backend_depth: sum.backend_depth,
            in_flight_count: sum.in_flight_count,
            deferred_count: sum.deferred_count,
            message_count: sum.message_count,
            zone_local_msg_count: extra.zone_local_msg_count,
            region_local_msg_count: extra.region_local_msg_count,
            global_msg_count: extra.global_msg_count,
            requeue_count: sum.requeue_count,
            timeout_count: sum.timeout_count,
            client_count: sum.client_count,
            paused: sum.paused,
            dead_lettered_count: extra.dead_lettered_count,
            dead_letter_pending: extra.dead_letter_pending,
            expired_count: extra.expired_count,
            overflow_count: extra.overflow_count,
            filtered_count: extra.filtered_count,
            cancelled_count: extra.cancelled_count,
            is_full: extra.is_full,
            is_throttled: extra.throttled || extra.in_flight_limit_reached,
            reading_stopped: extra.reading_stopped,
            held_count: extra.held_count,
            ingress_rate: rate(|rates| rates.ingress),
            egress_rate: rate(|rates| rates.egress),
            requeue_rate: rate(|rates| rates.requeue),
            timeout_rate: rate(|rates| rates.timeout),
        }
    }
}

/// Zero if no node has a rate although there are earlier samples.
fn rate(has_earlier: bool, rates: Option<Rates>, figure: fn(&Rates) -> f32) -> Option<Rate> {
    has_earlier.then(|| Rate(rates.as_ref().map_or(0.0, figure).into()))
}

/// Keeps only the wanted topics and channels. Returns those that are missing; an empty `wanted` keeps all.
pub fn select(topics: &mut Vec<TopicReport>, wanted: &[Object]) -> Vec<Object> {
    if wanted.is_empty() {
        return Vec::new();
    }
    let has = |object: &Object| {
        let topic = topics.iter().find(|topic| topic.topic_name == object.topic);
        topic.is_some_and(|topic| {
            let mut channels = topic.channels.iter();
            object.channel.as_ref().is_none_or(|channel| channels.any(|known| known.channel_name == *channel))
        })
    };
    let missing = wanted.iter().filter(|object| !has(object)).cloned().collect();
    topics.retain_mut(|topic| {
        let mine: Vec<&Object> = wanted.iter().filter(|object| object.topic == topic.topic_name).collect();
        if mine.iter().all(|object| object.channel.is_some()) {
            let names: BTreeSet<&String> = mine.iter().filter_map(|object| object.channel.as_ref()).collect();
            topic.channels.retain(|channel| names.contains(&channel.channel_name));
            return !topic.channels.is_empty();
        }
        true
    });
    missing
}

// Serde requires a reference.
fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
