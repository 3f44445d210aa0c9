//! Where the statistics that ride on heartbeats come from.

use std::sync::{Arc, Weak};

use nsq_protocol::heartbeat::{NodeSummary, TopicSummary};
use nsq_protocol::{TopicName, TopicStats};

use super::ledger::Seen;
use crate::stats::{self, StatsRequest};
use crate::topic::Topic;
use crate::topic::registry::Registry;

/// The node's topics, as far as their statistics go.
pub(super) trait Figures: Send + Sync {
    /// The node as a whole, and all topics in any order; none when the node has stopped.
    fn look(&self) -> Option<(NodeSummary, Vec<Seen>)>;
    /// One topic.
    fn topic(&self, name: &TopicName) -> Option<TopicSummary>;
}

/// Those of a registry, which is not kept alive.
pub(super) struct RegistryFigures {
    registry: Weak<Registry>,
    start_time: i64,
}

impl RegistryFigures {
    /// `start_time` is in unix seconds.
    pub fn new(registry: &Arc<Registry>, start_time: i64) -> Self {
        RegistryFigures { registry: Arc::downgrade(registry), start_time }
    }
}

impl Figures for RegistryFigures {
    fn look(&self) -> Option<(NodeSummary, Vec<Seen>)> {
        let registry = self.registry.upgrade()?;
        let topics = registry.all_unsorted();
        let stats = stats::of_node(registry.engine(), self.start_time);
        let node = NodeSummary {
            version: stats.version,
            health: stats.health,
            start_time: stats.start_time,
            heap_in_use_bytes: stats.memory.map_or(0, |memory| memory.heap_in_use_bytes),
            topic_count: topics.len() as u64,
        };
        // One at a time: fifty thousand of them at once would be memory that is not given back.
        let seen = topics.iter().filter_map(|topic| {
            let stats = of_topic(&registry, topic)?;
            Some(Seen::new(topic.number(), TopicSummary::new(&stats)?, stats.channels.len()))
        });
        Some((node, seen.collect()))
    }

    fn topic(&self, name: &TopicName) -> Option<TopicSummary> {
        let registry = self.registry.upgrade()?;
        let topic = registry.get(name.as_str())?;
        TopicSummary::new(&of_topic(&registry, &topic)?)
    }
}

fn of_topic(registry: &Registry, topic: &Topic) -> Option<TopicStats> {
    let request = StatsRequest { include_clients: false, ..StatsRequest::default() };
    stats::topic_stats(registry.engine(), topic, request)
}
