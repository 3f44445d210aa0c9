//! Sums of the statistics of all nodes, per topic and channel, with rates between two samples. Pure.

use std::collections::{BTreeMap, BTreeSet};

use nsq_cluster::{Sample, Samples};
use nsq_protocol::{ChannelStats, DedupeStats, TopicStats};
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
    let mut topics: BTreeMap<&str, (TopicReport, BTreeMap<&str, ChannelReport>)> = BTreeMap::new();
    for (node, sample) in now {
        let before_here = before.map(|before| before.get(node).filter(|before| is_same_run(before, sample)));
        for topic in sample.stats.topics.iter().flatten() {
            let topic_before =
                before_here.map(|before| before.and_then(|before| Earlier::topic(before, sample, topic)));
            let (sum, channels) = topics.entry(&topic.topic_name).or_default();
            add_topic(sum, topic, topic_before.as_ref());
            for channel in &topic.channels {
                let channel_before = topic_before.as_ref().map(|earlier| {
                    let (seconds, topic) = earlier.as_ref().map(|earlier| (earlier.seconds, earlier.then))?;
                    let mut channels = topic.channels.iter();
                    let then = channels.find(|then| then.channel_name == channel.channel_name)?;
                    Some(Earlier { seconds, then })
                });
                add_channel(
                    channels.entry(&channel.channel_name).or_default(),
                    channel,
                    channel_before.as_ref(),
                );
            }
        }
    }
    let merged = topics.into_values();
    merged
        .map(|(topic, channels)| TopicReport { channels: channels.into_values().collect(), ..topic })
        .collect()
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

/// The same topic or channel in the earlier sample.
struct Earlier<'a, T> {
    /// Seconds between the two samples.
    seconds: f64,
    then: &'a T,
}

impl<'a> Earlier<'a, TopicStats> {
    fn topic(before: &'a Sample, now: &Sample, topic: &TopicStats) -> Option<Self> {
        let seconds = now.taken_at.saturating_duration_since(before.taken_at).as_secs_f64();
        let mut topics = before.stats.topics.iter().flatten();
        let then = topics.find(|then| then.topic_name == topic.topic_name)?;
        Some(Earlier { seconds, then })
    }
}

impl<T> Earlier<'_, T> {
    /// Events per second. Counters that decreased were reset: the topic was deleted and created again.
    fn rate(&self, then: i128, now: i128) -> f64 {
        if self.seconds > 0.0 { (now - then).max(0) as f64 / self.seconds } else { 0.0 }
    }
}

fn is_same_run(before: &Sample, now: &Sample) -> bool {
    before.stats.start_time == now.stats.start_time
}

/// `earlier` is `None` without earlier samples, and `Some(None)` if this node's earlier sample lacks the topic.
fn add_topic(sum: &mut TopicReport, topic: &TopicStats, earlier: Option<&Option<Earlier<'_, TopicStats>>>) {
    sum.topic_name.clone_from(&topic.topic_name);
    sum.node_count += 1;
    sum.depth += topic.depth;
    sum.backend_depth += topic.backend_depth;
    sum.message_count += topic.message_count;
    sum.message_bytes += topic.message_bytes;
    sum.paused |= topic.paused;
    if let Some(retained) = &topic.retention {
        let sum = sum.retained.get_or_insert_default();
        sum.retained_count += retained.retained_count;
        sum.retained_bytes += retained.retained_bytes;
        let known = [sum.oldest_retained_at, retained.oldest_retained_at].into_iter().filter(|at| *at > 0);
        sum.oldest_retained_at = known.min().unwrap_or(0);
    }
    if let Some(dedupe) = &topic.dedupe {
        let sum = sum.dedupe.get_or_insert_default();
        sum.id_count += dedupe.id_count;
        sum.duplicate_count += dedupe.duplicate_count;
        sum.dropped_id_count += dedupe.dropped_id_count;
    }
    let Some(earlier) = earlier else { return };
    let rate = earlier.as_ref().map(|e| e.rate(e.then.message_count.into(), topic.message_count.into()));
    add_rate(&mut sum.ingress_rate, rate);
}

fn add_channel(
    sum: &mut ChannelReport,
    channel: &ChannelStats,
    earlier: Option<&Option<Earlier<'_, ChannelStats>>>,
) {
    sum.channel_name.clone_from(&channel.channel_name);
    sum.node_count += 1;
    sum.depth += channel.depth;
    sum.backend_depth += channel.backend_depth;
    sum.in_flight_count += channel.in_flight_count;
    sum.deferred_count += channel.deferred_count;
    sum.message_count += channel.message_count;
    sum.zone_local_msg_count += channel.zone_local_msg_count;
    sum.region_local_msg_count += channel.region_local_msg_count;
    sum.global_msg_count += channel.global_msg_count;
    sum.requeue_count += channel.requeue_count;
    sum.timeout_count += channel.timeout_count;
    sum.client_count += channel.client_count;
    sum.paused |= channel.paused;
    sum.dead_lettered_count += channel.dead_lettered_count;
    sum.dead_letter_pending += channel.dead_letter_pending;
    sum.expired_count += channel.expired_count;
    sum.overflow_count += channel.overflow_count;
    sum.filtered_count += channel.filtered_count;
    sum.cancelled_count += channel.cancelled_count;
    sum.is_full |= channel.is_full;
    sum.is_throttled |= channel.throttled || channel.in_flight_limit_reached;
    if let Some(order) = &channel.order {
        sum.reading_stopped |= order.reading_stopped;
        sum.held_count += order.held_count;
    }
    let Some(earlier) = earlier else { return };
    let rate = |count: fn(&ChannelStats) -> i128| {
        earlier.as_ref().map(|earlier| earlier.rate(count(earlier.then), count(channel)))
    };
    add_rate(&mut sum.ingress_rate, rate(|channel| channel.message_count.into()));
    add_rate(&mut sum.egress_rate, rate(left_count));
    add_rate(&mut sum.requeue_rate, rate(|channel| channel.requeue_count.into()));
    add_rate(&mut sum.timeout_rate, rate(|channel| channel.timeout_count.into()));
}

// Serde requires a reference.
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Messages that entered and left again. The value may be negative, as after messages were recovered at start; its
/// differences are right nevertheless.
fn left_count(channel: &ChannelStats) -> i128 {
    let there = [channel.depth, channel.in_flight_count, channel.deferred_count];
    i128::from(channel.message_count) - there.map(i128::from).iter().sum::<i128>()
}

fn add_rate(sum: &mut Option<Rate>, rate: Option<f64>) {
    sum.get_or_insert_default().0 += rate.unwrap_or(0.0);
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
