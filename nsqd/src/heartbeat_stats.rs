//! The statistics that heartbeats to nsqlookupd carry, from the registry.

use std::sync::{Arc, Weak};

use nsq_protocol::heartbeat::{NodeSummary, TopicSummary};
use nsq_protocol::{TopicName, TopicStats};

use crate::lookup::{NodeStats, TopicSnapshot};
use crate::stats::{self, StatsRequest};
use crate::topic::Topic;
use crate::topic::registry::Registry;

/// Statistics of a registry. Does not keep the registry alive.
pub struct RegistryStats {
    registry: Weak<Registry>,
    start_time: i64,
}

impl RegistryStats {
    /// `start_time` is in Unix seconds.
    pub fn new(registry: &Arc<Registry>, start_time: i64) -> Self {
        RegistryStats { registry: Arc::downgrade(registry), start_time }
    }
}

impl NodeStats for RegistryStats {
    fn snapshot(&self) -> Option<(NodeSummary, Vec<TopicSnapshot>)> {
        let registry = self.registry.upgrade()?;
        let topics = registry.all_unsorted();
        let stats = stats::of_node(registry.engine(), self.start_time);
        let node = NodeSummary {
            version: stats.version,
            health: stats.health,
            start_time: stats.start_time,
            heap_in_use_bytes: stats.memory.map_or(0, |memory| memory.heap_in_use_bytes),
            topic_count: topics.len() as u64,
            draining: registry.engine().status.is_draining(),
        };
        // One at a time: the statistics of fifty thousand topics would take memory that is never returned.
        let snapshots = topics.iter().filter_map(|topic| {
            let stats = of_topic(&registry, topic)?;
            Some(TopicSnapshot::new(topic.number(), TopicSummary::new(&stats)?, stats.channels.len()))
        });
        Some((node, snapshots.collect()))
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
