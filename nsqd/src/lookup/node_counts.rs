//! How many nodes carry a topic, for rates that all nodes share. Asks only while a channel has such a rate.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use futures_util::future::join_all;
use nsq_protocol::TopicName;
use tokio::time::timeout;

use super::{LookupPeers, query};
use crate::topic::registry::Registry;

impl LookupPeers {
    /// Sets the number of nodes of each topic that needs it, now and at intervals. Does not keep the registry alive.
    pub(super) fn follow_node_counts(self: &Arc<Self>, registry: &Arc<Registry>) {
        let (peers, registry) = (Arc::downgrade(self), Arc::downgrade(registry));
        let (stop, interval) = (self.stop.clone(), self.timing.ping_interval);
        let follow = async move {
            while let Some(engine) = registry.upgrade().map(|registry| registry.engine().clone()) {
                let is_needed = refresh(&peers, &registry).await;
                let changed = engine.total_rates.notified();
                if is_needed {
                    // The number may have changed meanwhile.
                    let _ = timeout(interval, changed).await;
                } else {
                    changed.await;
                }
            }
        };
        tokio::spawn(async move { stop.run_until_cancelled(follow).await });
    }

    /// How many nodes carry the topic: all that any nsqlookupd lists, and 1 without any nsqlookupd. `None` if none answers.
    async fn count_nodes(&self, topic: &TopicName) -> Option<u64> {
        let peers: Vec<_> =
            self.peers.lock().tasks.iter().map(|task| (task.address.clone(), task.state.clone())).collect();
        if peers.is_empty() {
            return Some(1);
        }
        let asked = peers.into_iter().map(|(address, state)| async move {
            let http = self.http_address(state).await?;
            match query::nodes_of(&http, topic, self.query_limits()).await {
                Ok(nodes) => Some(nodes),
                Err(error) => {
                    nsq_daemon::warn!(
                        self.options.logger,
                        "LOOKUPD({address}): cannot query the nodes of topic {topic}: {error}"
                    );
                    None
                }
            }
        });
        let answers: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        if answers.is_empty() {
            return None;
        }
        let nodes: BTreeSet<(String, u16)> =
            answers.into_iter().flatten().map(|node| (node.broadcast_address, node.tcp_port)).collect();
        Some((nodes.len() as u64).max(1))
    }
}

/// Returns whether any topic needs the number. A topic keeps its last number if no nsqlookupd answers.
async fn refresh(peers: &Weak<LookupPeers>, registry: &Weak<Registry>) -> bool {
    let Some(topics) = registry.upgrade().map(|registry| registry.all_unsorted()) else { return false };
    let mut is_needed = false;
    for topic in topics.into_iter().filter(|topic| topic.has_total_rates()) {
        is_needed = true;
        let Some(peers) = peers.upgrade() else { return false };
        if let Some(nodes) = peers.count_nodes(topic.name()).await {
            topic.set_node_count(nodes);
        }
    }
    is_needed
}
