//! Pure: the figures of topics and channels, of one node or added up over several.

use std::time::Duration;

use nsq_protocol::{ChannelStats, DedupeStats, E2eLatency, TopicStats};
use serde::Serialize;

/// Events per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Messages that came in: published to a topic, or entered a channel.
    pub ingress: f32,
    /// Messages that left a channel: finished, or dropped. For a topic, of all its channels.
    pub egress: f32,
    /// Messages that consumers requeued. For a topic, of all its channels.
    pub requeue: f32,
    /// Messages that timed out in flight. For a topic, of all its channels.
    pub timeout: f32,
    /// Growth of the depth; negative if it shrinks. For a topic, of its own depth.
    pub depth: f32,
    /// Growth of the part of the depth that is only on disk.
    pub backend_depth: f32,
}

impl Rates {
    /// Deliveries per second: each ends as finished, requeued or timed out.
    pub fn delivery(&self) -> f32 {
        self.egress + self.requeue + self.timeout
    }

    /// Adds the rates of another part.
    pub fn add(&mut self, other: &Rates) {
        self.ingress += other.ingress;
        self.egress += other.egress;
        self.requeue += other.requeue;
        self.timeout += other.timeout;
        self.depth += other.depth;
        self.backend_depth += other.backend_depth;
    }
}

/// The slowest value of each quantile of a latency, in nanoseconds. Percentiles of several nodes have no mean.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WorstLatency(pub Vec<(f64, f64)>);

impl WorstLatency {
    /// The latency of one node; `None` if it does not measure any.
    pub(crate) fn of(latency: &E2eLatency) -> Option<Box<Self>> {
        let percentiles = latency.percentiles.as_ref().filter(|_| latency.count > 0)?;
        Some(Box::new(WorstLatency(percentiles.iter().map(|p| (p.quantile, p.value)).collect())))
    }

    fn add(&mut self, other: &WorstLatency) {
        for (quantile, value) in &other.0 {
            match self.0.iter_mut().find(|(known, _)| known == quantile) {
                Some((_, worst)) => *worst = worst.max(*value),
                None => self.0.push((*quantile, *value)),
            }
        }
    }
}

/// The figures of a topic.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TopicFigures {
    /// Messages not yet released to channels.
    pub depth: i64,
    /// The part of `depth` that is only on disk.
    pub backend_depth: i64,
    /// Messages ever published.
    pub message_count: u64,
    /// Bytes of their bodies.
    pub message_bytes: u64,
    /// Whether it is paused, on any node.
    pub paused: bool,
    /// Body bytes published per second; `None` like `rates`.
    pub ingress_bytes: Option<f32>,
    /// `None` until two samples of the same run of the node exist.
    pub rates: Option<Rates>,
    /// Latency from publishing to FIN, of the worst node; `None` if not measured.
    pub latency: Option<Box<WorstLatency>>,
    /// Retained messages and their bytes; `None` if none is retained. Not in NSQ.
    pub retained: Option<Retained>,
    /// Messages dropped because the topic held back too many. Not in NSQ.
    pub overflow_count: u64,
    /// Messages that were not stored because their id was remembered. Not in NSQ.
    pub duplicate_count: u64,
    /// The ids that are remembered; `None` if none is. Not in NSQ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedupe: Option<Box<DedupeStats>>,
}

/// The messages that a topic retains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Retained {
    /// Number of messages, finished or not.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the oldest was published, in nanoseconds since 1970; 0 if there is none or it is unknown.
    pub oldest_at: i64,
}

/// The figures of a channel.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChannelFigures {
    /// Messages that can be handed out.
    pub depth: i64,
    /// The part of `depth` that is only on disk.
    pub backend_depth: i64,
    /// Messages in flight.
    pub in_flight_count: i64,
    /// Messages deferred.
    pub deferred_count: i64,
    /// Messages that ever entered.
    pub message_count: u64,
    /// REQ commands.
    pub requeue_count: u64,
    /// Messages that timed out in flight.
    pub timeout_count: u64,
    /// Consumers.
    pub client_count: i64,
    /// Whether it is paused, on any node.
    pub paused: bool,
    /// `None` until two samples of the same run of the node exist.
    pub rates: Option<Rates>,
    /// Latency from publishing to FIN, of the worst node; `None` if not measured.
    pub latency: Option<Box<WorstLatency>>,
    /// Age of the oldest message that waits or is in flight, at least; `None` if there is none, or the node does not report
    /// it. Not in NSQ.
    pub oldest_age: Option<Duration>,
    /// What only some channels have; `None` if all of it is zero.
    pub extra: Option<Box<ChannelExtra>>,
}

/// Figures that most channels do not have.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChannelExtra {
    /// Messages delivered within the zone.
    pub zone_local_msg_count: u64,
    /// Messages delivered within the region.
    pub region_local_msg_count: u64,
    /// Messages delivered outside the region.
    pub global_msg_count: u64,
    /// Messages moved to the dead-letter topic. Not in NSQ, like all that follow.
    pub dead_lettered_count: u64,
    /// Messages to be moved there next.
    pub dead_letter_pending: u64,
    /// Messages that expired.
    pub expired_count: u64,
    /// Messages dropped because the channel held too many.
    pub overflow_count: u64,
    /// Messages that did not match the channel's filter.
    pub filtered_count: u64,
    /// Messages that were cancelled.
    pub cancelled_count: u64,
    /// Whether publishes are refused because of the channel.
    pub is_full: bool,
    /// Whether messages wait because the channel's rate is used up.
    pub throttled: bool,
    /// Whether as many messages are in flight as the channel allows.
    pub in_flight_limit_reached: bool,
    /// Messages that wait for others of their key.
    pub held_count: u64,
    /// Keys with such messages.
    pub blocked_key_count: u64,
    /// Whether the channel reads no further, because it holds too many of them.
    pub reading_stopped: bool,
}

impl TopicFigures {
    pub(crate) fn of(stats: &TopicStats) -> Self {
        TopicFigures {
            depth: stats.depth,
            backend_depth: stats.backend_depth,
            message_count: stats.message_count,
            message_bytes: stats.message_bytes,
            paused: stats.paused,
            ingress_bytes: None,
            rates: None,
            latency: WorstLatency::of(&stats.e2e_processing_latency),
            retained: stats.retention.as_ref().map(|retained| Retained {
                count: retained.retained_count,
                bytes: retained.retained_bytes,
                oldest_at: retained.oldest_retained_at,
            }),
            overflow_count: stats.overflow_count,
            duplicate_count: stats.dedupe.map_or(0, |dedupe| dedupe.duplicate_count),
            dedupe: stats.dedupe.map(Box::new),
        }
    }

    /// Adds the figures of another node.
    pub fn add(&mut self, other: &TopicFigures) {
        self.depth += other.depth;
        self.backend_depth += other.backend_depth;
        self.message_count += other.message_count;
        self.message_bytes += other.message_bytes;
        self.paused |= other.paused;
        if let Some(rate) = other.ingress_bytes {
            *self.ingress_bytes.get_or_insert_default() += rate;
        }
        add_rates(&mut self.rates, other.rates.as_ref());
        add_latency(&mut self.latency, other.latency.as_deref());
        if let Some(retained) = &other.retained {
            let sum = self.retained.get_or_insert_default();
            sum.count += retained.count;
            sum.bytes += retained.bytes;
            let known = [sum.oldest_at, retained.oldest_at].into_iter().filter(|at| *at > 0);
            sum.oldest_at = known.min().unwrap_or(0);
        }
        self.overflow_count += other.overflow_count;
        self.duplicate_count += other.duplicate_count;
        if let Some(dedupe) = &other.dedupe {
            let sum = self.dedupe.get_or_insert_default();
            sum.id_count += dedupe.id_count;
            sum.duplicate_count += dedupe.duplicate_count;
            sum.dropped_id_count += dedupe.dropped_id_count;
        }
    }

    /// Sets the rates since an earlier sample of the same run, without the channels'.
    pub(crate) fn set_rates(&mut self, before: &TopicFigures, seconds: f64) {
        // A smaller counter: the topic was deleted and created again.
        if seconds > 0.0 && self.message_count >= before.message_count {
            let ingress = per_second(before.message_count.into(), self.message_count.into(), seconds);
            self.rates = Some(Rates {
                ingress,
                depth: growth(before.depth, self.depth, seconds),
                backend_depth: growth(before.backend_depth, self.backend_depth, seconds),
                ..Rates::default()
            });
            self.ingress_bytes =
                Some(per_second(before.message_bytes.into(), self.message_bytes.into(), seconds));
        }
    }
}

impl ChannelFigures {
    pub(crate) fn of(stats: &ChannelStats) -> Self {
        let order = stats.order.as_ref();
        let extra = ChannelExtra {
            zone_local_msg_count: stats.zone_local_msg_count,
            region_local_msg_count: stats.region_local_msg_count,
            global_msg_count: stats.global_msg_count,
            dead_lettered_count: stats.dead_lettered_count,
            dead_letter_pending: stats.dead_letter_pending,
            expired_count: stats.expired_count,
            overflow_count: stats.overflow_count,
            filtered_count: stats.filtered_count,
            cancelled_count: stats.cancelled_count,
            is_full: stats.is_full,
            throttled: stats.throttled,
            in_flight_limit_reached: stats.in_flight_limit_reached,
            held_count: order.map_or(0, |order| order.held_count),
            blocked_key_count: order.map_or(0, |order| order.blocked_key_count),
            reading_stopped: order.is_some_and(|order| order.reading_stopped),
        };
        ChannelFigures {
            depth: stats.depth,
            backend_depth: stats.backend_depth,
            in_flight_count: stats.in_flight_count,
            deferred_count: stats.deferred_count,
            message_count: stats.message_count,
            requeue_count: stats.requeue_count,
            timeout_count: stats.timeout_count,
            client_count: stats.client_count,
            paused: stats.paused,
            rates: None,
            latency: WorstLatency::of(&stats.e2e_processing_latency),
            oldest_age: stats.oldest_age_ms.map(Duration::from_millis),
            extra: (extra != ChannelExtra::default()).then(|| Box::new(extra)),
        }
    }

    /// Adds the figures of another node.
    pub fn add(&mut self, other: &ChannelFigures) {
        self.depth += other.depth;
        self.backend_depth += other.backend_depth;
        self.in_flight_count += other.in_flight_count;
        self.deferred_count += other.deferred_count;
        self.message_count += other.message_count;
        self.requeue_count += other.requeue_count;
        self.timeout_count += other.timeout_count;
        self.client_count += other.client_count;
        self.paused |= other.paused;
        add_rates(&mut self.rates, other.rates.as_ref());
        add_latency(&mut self.latency, other.latency.as_deref());
        self.oldest_age = self.oldest_age.max(other.oldest_age);
        if let Some(extra) = &other.extra {
            self.extra.get_or_insert_default().add(extra);
        }
    }

    /// Sets the rates since an earlier sample of the same run.
    pub(crate) fn set_rates(&mut self, before: &ChannelFigures, seconds: f64) {
        // A smaller counter: the channel was deleted and created again.
        if seconds > 0.0 && self.message_count >= before.message_count {
            let rate = |then: i128, now: i128| per_second(then, now, seconds);
            self.rates = Some(Rates {
                ingress: rate(before.message_count.into(), self.message_count.into()),
                egress: rate(before.left_count(), self.left_count()),
                requeue: rate(before.requeue_count.into(), self.requeue_count.into()),
                timeout: rate(before.timeout_count.into(), self.timeout_count.into()),
                depth: growth(before.depth, self.depth, seconds),
                backend_depth: growth(before.backend_depth, self.backend_depth, seconds),
            });
        }
    }

    /// Messages that are not finished.
    pub fn unfinished_count(&self) -> i64 {
        self.depth + self.in_flight_count + self.deferred_count
    }

    /// Messages that entered and left again. The value may be negative, as after messages were recovered at start; its
    /// differences are right nevertheless.
    fn left_count(&self) -> i128 {
        let there = [self.depth, self.in_flight_count, self.deferred_count];
        i128::from(self.message_count) - there.map(i128::from).iter().sum::<i128>()
    }
}

impl ChannelExtra {
    fn add(&mut self, other: &ChannelExtra) {
        self.zone_local_msg_count += other.zone_local_msg_count;
        self.region_local_msg_count += other.region_local_msg_count;
        self.global_msg_count += other.global_msg_count;
        self.dead_lettered_count += other.dead_lettered_count;
        self.dead_letter_pending += other.dead_letter_pending;
        self.expired_count += other.expired_count;
        self.overflow_count += other.overflow_count;
        self.filtered_count += other.filtered_count;
        self.cancelled_count += other.cancelled_count;
        self.is_full |= other.is_full;
        self.throttled |= other.throttled;
        self.in_flight_limit_reached |= other.in_flight_limit_reached;
        self.held_count += other.held_count;
        self.blocked_key_count += other.blocked_key_count;
        self.reading_stopped |= other.reading_stopped;
    }
}

fn add_rates(sum: &mut Option<Rates>, other: Option<&Rates>) {
    if let Some(rates) = other {
        sum.get_or_insert_default().add(rates);
    }
}

fn add_latency(sum: &mut Option<Box<WorstLatency>>, other: Option<&WorstLatency>) {
    if let Some(latency) = other {
        sum.get_or_insert_default().add(latency);
    }
}

/// Events per second; a counter that decreased counts none.
fn per_second(then: i128, now: i128, seconds: f64) -> f32 {
    ((now - then).max(0) as f64 / seconds) as f32
}

fn growth(then: i64, now: i64, seconds: f64) -> f32 {
    ((now - then) as f64 / seconds) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_counters_and_are_never_negative() {
        let before = ChannelFigures { message_count: 10, depth: 10, ..ChannelFigures::default() };
        let mut now =
            ChannelFigures { message_count: 30, depth: 5, in_flight_count: 1, ..ChannelFigures::default() };
        now.set_rates(&before, 2.0);
        assert_eq!(now.rates, Some(Rates { ingress: 10.0, egress: 12.0, depth: -2.5, ..Rates::default() }));
        // Moved back: more messages than have entered since.
        let mut back = ChannelFigures { message_count: 10, depth: 50, ..ChannelFigures::default() };
        back.set_rates(&before, 2.0);
        assert_eq!(back.rates, Some(Rates { depth: 20.0, ..Rates::default() }));
        let mut recreated = ChannelFigures { message_count: 3, ..ChannelFigures::default() };
        recreated.set_rates(&before, 2.0);
        assert_eq!(recreated.rates, None);
        let mut at_once = before.clone();
        at_once.set_rates(&before, 0.0);
        assert_eq!(at_once.rates, None);
    }

    #[test]
    fn sums_keep_what_is_unknown_apart_from_zero() {
        let mut sum = ChannelFigures::default();
        sum.add(&ChannelFigures { depth: 2, ..ChannelFigures::default() });
        assert_eq!((sum.rates, sum.oldest_age, sum.extra.is_none()), (None, None, true));
        let rates = Some(Rates { egress: 1.0, ..Rates::default() });
        let age = Some(Duration::from_secs(9));
        sum.add(&ChannelFigures { depth: 3, rates, oldest_age: age, paused: true, ..sum.clone() });
        assert_eq!((sum.depth, sum.rates, sum.oldest_age, sum.paused), (5, rates, age, true));
    }

    #[test]
    fn latencies_of_nodes_become_the_worst() {
        let mut sum = None;
        add_latency(&mut sum, Some(&WorstLatency(vec![(1.0, 5.0), (0.5, 2.0)])));
        add_latency(&mut sum, Some(&WorstLatency(vec![(0.5, 3.0), (0.9, 1.0)])));
        assert_eq!(sum.unwrap().0, [(1.0, 5.0), (0.5, 3.0), (0.9, 1.0)]);
    }
}
