//! Metrics of topics and channels. A node may have very many, so the number of their series is limited; totals always
//! cover all of them.

use std::collections::HashMap;

use nsq_daemon::metrics::{Exposition, Kind};
use nsq_protocol::{ChannelStats, E2eLatency, TopicStats};

use crate::stats::{self, StatsRequest};
use crate::topic::Topic;
use crate::topic::registry::Registry;

/// A metric of each topic, or of each channel.
struct Metric<T> {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    value: fn(&T) -> f64,
}

const fn counter<T>(name: &'static str, help: &'static str, value: fn(&T) -> f64) -> Metric<T> {
    Metric { name, kind: Kind::Counter, help, value }
}

const fn gauge<T>(name: &'static str, help: &'static str, value: fn(&T) -> f64) -> Metric<T> {
    Metric { name, kind: Kind::Gauge, help, value }
}

const TOPIC: [Metric<TopicSeries>; 11] = [
    counter("nsq_topic_messages_total", "Messages published.", |topic| topic.stats.message_count as f64),
    counter("nsq_topic_message_bytes_total", "Bytes of the bodies of published messages.", |topic| {
        topic.stats.message_bytes as f64
    }),
    gauge("nsq_topic_depth", "Messages that no channel has yet.", |topic| topic.stats.depth as f64),
    gauge("nsq_topic_backend_depth", "The part of nsq_topic_depth that is only on disk.", |topic| {
        topic.stats.backend_depth as f64
    }),
    gauge("nsq_topic_segment_bytes", "Bytes of the topic's segment files.", |topic| {
        topic.segment_bytes as f64
    }),
    gauge("nsq_topic_retained_messages", "Messages that retention keeps, finished or not.", |topic| {
        topic.stats.retention.as_ref().map_or(0.0, |retention| retention.retained_count as f64)
    }),
    gauge("nsq_topic_retained_bytes", "Bytes of the messages that retention keeps.", |topic| {
        topic.stats.retention.as_ref().map_or(0.0, |retention| retention.retained_bytes as f64)
    }),
    gauge("nsq_topic_paused", "1 if the topic is paused and releases no messages, else 0.", |topic| {
        f64::from(u8::from(topic.stats.paused))
    }),
    gauge("nsq_topic_dedupe_ids", "Ids of messages that the topic remembers.", |topic| {
        topic.stats.dedupe.map_or(0.0, |dedupe| dedupe.id_count as f64)
    }),
    counter(
        "nsq_topic_dedupe_duplicates_total",
        "Messages that were not stored because the topic remembers their id.",
        |topic| topic.stats.dedupe.map_or(0.0, |dedupe| dedupe.duplicate_count as f64),
    ),
    counter(
        "nsq_topic_dedupe_dropped_ids_total",
        "Ids that the topic forgot within its window, because of --dedupe-max-ids.",
        |topic| topic.stats.dedupe.map_or(0.0, |dedupe| dedupe.dropped_id_count as f64),
    ),
];

const CHANNEL: [Metric<ChannelSeries>; 25] = [
    counter("nsq_channel_messages_total", "Messages that have entered the channel.", |channel| {
        channel.stats.message_count as f64
    }),
    counter("nsq_channel_deliveries_total", "Messages handed out, including repetitions.", |channel| {
        channel.more.deliveries as f64
    }),
    counter("nsq_channel_finishes_total", "FINs.", |channel| channel.more.finishes as f64),
    counter("nsq_channel_requeues_total", "REQs.", |channel| channel.stats.requeue_count as f64),
    counter("nsq_channel_timeouts_total", "Messages that timed out in flight.", |channel| {
        channel.stats.timeout_count as f64
    }),
    counter(
        "nsq_channel_lost_messages_total",
        "Messages that could not be read back from disk.",
        |channel| channel.more.lost as f64,
    ),
    counter("nsq_channel_dead_letters_total", "Messages moved to the dead-letter topic.", |channel| {
        channel.stats.dead_lettered_count as f64
    }),
    gauge(
        "nsq_channel_dead_letters_pending",
        "Messages that nsqd will move to the dead-letter topic next.",
        |channel| channel.stats.dead_letter_pending as f64,
    ),
    counter("nsq_channel_expired_total", "Messages that expired and were dropped.", |channel| {
        channel.stats.expired_count as f64
    }),
    counter(
        "nsq_channel_overflow_total",
        "Messages that were dropped because the channel held too many.",
        |channel| channel.stats.overflow_count as f64,
    ),
    counter(
        "nsq_channel_filtered_total",
        "Messages that did not match the channel's filter and were finished.",
        |channel| channel.stats.filtered_count as f64,
    ),
    counter("nsq_channel_cancelled_total", "Messages that were cancelled.", |channel| {
        channel.stats.cancelled_count as f64
    }),
    gauge("nsq_channel_full", "1 if publishes are refused because of this channel, else 0.", |channel| {
        f64::from(u8::from(channel.stats.is_full))
    }),
    gauge(
        "nsq_channel_throttled",
        "1 if messages wait because the channel's rate is used up, else 0.",
        |channel| f64::from(u8::from(channel.stats.throttled)),
    ),
    counter(
        "nsq_channel_throttled_seconds_total",
        "Time for which messages waited because the channel's rate was used up.",
        |channel| channel.stats.throttled_ms as f64 / 1000.0,
    ),
    gauge(
        "nsq_channel_in_flight_limit_reached",
        "1 if as many messages are in flight as the channel allows, else 0.",
        |channel| f64::from(u8::from(channel.stats.in_flight_limit_reached)),
    ),
    gauge("nsq_channel_held", "Messages that wait for others of their key.", |channel| {
        channel.stats.order.as_ref().map_or(0.0, |order| order.held_count as f64)
    }),
    gauge("nsq_channel_blocked_keys", "Keys with messages that wait for others of their key.", |channel| {
        channel.stats.order.as_ref().map_or(0.0, |order| order.blocked_key_count as f64)
    }),
    gauge(
        "nsq_channel_reading_stopped",
        "1 if the channel reads no further because too many messages wait for others of their key, else 0.",
        |channel| {
            f64::from(u8::from(channel.stats.order.as_ref().is_some_and(|order| order.reading_stopped)))
        },
    ),
    gauge("nsq_channel_depth", "Messages that can be handed out.", |channel| channel.stats.depth as f64),
    gauge("nsq_channel_backend_depth", "The part of nsq_channel_depth that is only on disk.", |channel| {
        channel.stats.backend_depth as f64
    }),
    gauge("nsq_channel_in_flight", "Messages in flight.", |channel| channel.stats.in_flight_count as f64),
    gauge("nsq_channel_deferred", "Messages held back until they are due.", |channel| {
        channel.stats.deferred_count as f64
    }),
    gauge("nsq_channel_consumers", "Consumers.", |channel| channel.stats.client_count as f64),
    gauge("nsq_channel_paused", "1 if the channel is paused and hands out no messages, else 0.", |channel| {
        f64::from(u8::from(channel.stats.paused))
    }),
];

struct TopicSeries {
    stats: TopicStats,
    segment_bytes: u64,
    channels: Vec<ChannelSeries>,
}

struct ChannelSeries {
    stats: ChannelStats,
    more: More,
}

/// Counters of a channel that NSQ's `/stats` lacks.
#[derive(Default)]
struct More {
    deliveries: u64,
    finishes: u64,
    lost: u64,
}

/// Totals over all topics, including those without series.
#[derive(Default)]
struct Totals {
    topics: u64,
    channels: u64,
    consumers: i64,
    topic_depth: i64,
    depth: i64,
    in_flight: i64,
    deferred: i64,
    segment_bytes: u64,
}

/// The series of topics and channels, and their totals.
pub(super) struct Series {
    topics: Vec<TopicSeries>,
    totals: Totals,
    omitted_topics: u64,
    omitted_channels: u64,
}

impl Series {
    /// Collects at most `max_series` series, ordered by name, so that each scrape returns the same ones.
    pub(super) fn collect(registry: &Registry, max_series: u64) -> Self {
        let quantiles = registry.engine().latency().map_or(0, |options| options.quantiles.len());
        let per_channel = (CHANNEL.len() + quantiles) as u64;
        let mut room = max_series;
        let mut series =
            Series { topics: Vec::new(), totals: Totals::default(), omitted_topics: 0, omitted_channels: 0 };
        for topic in registry.all() {
            let Some(mut topic) = topic_series(registry, &topic) else { continue };
            series.totals.add(&topic);
            let channels = topic.channels.len() as u64;
            if room < TOPIC.len() as u64 {
                series.omitted_topics += 1;
                series.omitted_channels += channels;
                continue;
            }
            room -= TOPIC.len() as u64;
            let included = channels.min(room / per_channel);
            room -= included * per_channel;
            series.omitted_channels += channels - included;
            topic.channels.truncate(included as usize);
            series.topics.push(topic);
        }
        series
    }

    /// Writes them to a page.
    pub(super) fn put(&self, page: &mut Exposition) {
        self.put_totals(page);
        for metric in &TOPIC {
            let mut family = page.family(metric.name, metric.kind, metric.help);
            for topic in &self.topics {
                family.sample(&[("topic", &topic.stats.topic_name)], (metric.value)(topic));
            }
        }
        for metric in &CHANNEL {
            let mut family = page.family(metric.name, metric.kind, metric.help);
            for (topic, channel) in self.channels() {
                let labels = [("topic", topic), ("channel", &*channel.stats.channel_name)];
                family.sample(&labels, (metric.value)(channel));
            }
        }
        let help = "From publishing to FIN, by --e2e-processing-latency-percentile.";
        let mut family = page.family("nsq_channel_end_to_end_latency_seconds", Kind::Summary, help);
        for (topic, channel) in self.channels() {
            let E2eLatency { percentiles, .. } = &channel.stats.e2e_processing_latency;
            for percentile in percentiles.iter().flatten() {
                let quantile = percentile.quantile.to_string();
                let channel = &*channel.stats.channel_name;
                let labels = [("topic", topic), ("channel", channel), ("quantile", &*quantile)];
                family.sample(&labels, percentile.value / 1e9);
            }
        }
    }

    fn channels(&self) -> impl Iterator<Item = (&str, &ChannelSeries)> {
        self.topics
            .iter()
            .flat_map(|topic| topic.channels.iter().map(|channel| (&*topic.stats.topic_name, channel)))
    }

    fn put_totals(&self, page: &mut Exposition) {
        let totals = &self.totals;
        page.gauge("nsq_topics", "Topics.", totals.topics as f64);
        page.gauge("nsq_channels", "Channels.", totals.channels as f64);
        page.gauge("nsq_consumers", "Consumers of all channels.", totals.consumers as f64);
        let help = "Messages that no channel has yet, of all topics.";
        page.gauge("nsq_topics_depth", help, totals.topic_depth as f64);
        page.gauge(
            "nsq_channels_depth",
            "Messages that can be handed out, of all channels.",
            totals.depth as f64,
        );
        page.gauge("nsq_channels_in_flight", "Messages in flight, of all channels.", totals.in_flight as f64);
        let help = "Messages held back until they are due, of all channels.";
        page.gauge("nsq_channels_deferred", help, totals.deferred as f64);
        page.gauge("nsq_segment_bytes", "Bytes of all segment files.", totals.segment_bytes as f64);
        let help = "Topics without series of their own, because of --metrics-max-series.";
        page.gauge("nsq_omitted_topics", help, self.omitted_topics as f64);
        let help = "Channels without series of their own, because of --metrics-max-series.";
        page.gauge("nsq_omitted_channels", help, self.omitted_channels as f64);
    }
}

impl Totals {
    fn add(&mut self, topic: &TopicSeries) {
        self.topics += 1;
        self.topic_depth += topic.stats.depth;
        self.segment_bytes += topic.segment_bytes;
        for ChannelSeries { stats, .. } in &topic.channels {
            self.channels += 1;
            self.consumers += stats.client_count;
            self.depth += stats.depth;
            self.in_flight += stats.in_flight_count;
            self.deferred += stats.deferred_count;
        }
    }
}

fn topic_series(registry: &Registry, topic: &Topic) -> Option<TopicSeries> {
    let request = StatsRequest { include_clients: false, include_memory: false, ..StatsRequest::default() };
    let mut stats = stats::topic_stats(registry.engine(), topic, request)?;
    let more = |channel: &std::sync::Arc<crate::channel::Channel>| {
        channel.inspect(|state, _| {
            let counters = state.counters();
            let deliveries = state.consumers().delivered_count();
            More { deliveries, finishes: counters.finish_count, lost: counters.lost_count }
        })
    };
    let mut all: HashMap<String, More> =
        topic.channels().iter().map(|channel| (channel.name().to_string(), more(channel))).collect();
    let channels = std::mem::take(&mut stats.channels).into_iter().map(|stats| {
        let more = all.remove(&stats.channel_name).unwrap_or_default();
        ChannelSeries { stats, more }
    });
    let channels = channels.collect();
    Some(TopicSeries { stats, segment_bytes: topic.log().segment_bytes(), channels })
}
