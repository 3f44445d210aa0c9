//! The statistics that nodes send with their heartbeats, and requests for fresh ones.
//!
//! A node's statistics live as long as its connection. A request for fresh statistics increments a number; the
//! connections send it to their nodes, and the nodes' next reports contain it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use nsq_protocol::heartbeat::{ReportError, StatsReport};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::node_stats::NodeStats;
use crate::registry::{Moment, NodeId};

/// Maximum memory for the statistics of all nodes. Beyond it, a node's report is rejected and its statistics are
/// dropped.
const MAX_BYTES: usize = 256 << 20;

/// Maximum time to wait for nodes that do not answer a request for fresh statistics.
const REFRESH_TIMEOUT: Duration = Duration::from_millis(1500);

/// The statistics of all nodes that send them.
#[derive(Debug, Default)]
pub(crate) struct StatsStore {
    nodes: DashMap<NodeId, Arc<StoredStats>>,
    /// Estimated memory for all nodes, in bytes.
    bytes: Arc<AtomicUsize>,
    last_refresh: AtomicU64,
}

/// The statistics of one node.
#[derive(Debug)]
pub(crate) struct StoredStats {
    stats: Mutex<NodeStats>,
    /// Estimated memory for all nodes, in bytes.
    bytes: Arc<AtomicUsize>,
    /// Number of the latest request for fresh statistics.
    requested: watch::Sender<u64>,
    /// Number of the latest answered request.
    answered: watch::Sender<u64>,
}

impl StatsStore {
    /// Adds a node that negotiated heartbeat statistics.
    pub(crate) fn add(&self, id: NodeId) -> Arc<StoredStats> {
        let stats = Arc::new(StoredStats {
            stats: Mutex::default(),
            bytes: Arc::clone(&self.bytes),
            requested: watch::Sender::new(0),
            answered: watch::Sender::new(0),
        });
        self.nodes.insert(id, Arc::clone(&stats));
        stats
    }

    /// Removes a node that disconnected.
    pub(crate) fn remove(&self, id: NodeId) {
        self.nodes.remove(&id);
    }

    /// The statistics of a node; `None` if it sends none.
    pub(crate) fn get(&self, id: NodeId) -> Option<Arc<StoredStats>> {
        self.nodes.get(&id).map(|entry| Arc::clone(&entry))
    }

    /// Estimated memory for all statistics, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Requests fresh statistics from all nodes and waits for them, at most `REFRESH_TIMEOUT`.
    pub(crate) async fn refresh(&self) {
        let number = self.last_refresh.fetch_add(1, Ordering::Relaxed) + 1;
        let nodes: Vec<_> = self.nodes.iter().map(|entry| Arc::clone(&entry)).collect();
        for node in &nodes {
            node.requested.send_modify(|requested| *requested = number.max(*requested));
        }
        let deadline = Instant::now() + REFRESH_TIMEOUT;
        for node in &nodes {
            let mut answered = node.answered.subscribe();
            // A node that does not answer keeps its old statistics, which carry their age.
            let _ = timeout_at(deadline, answered.wait_for(|answered| *answered >= number)).await;
        }
    }
}

impl StoredStats {
    /// Applies a report. A rejected report discards all statistics of the node.
    pub(crate) fn report(&self, body: &[u8], now: Moment) -> Result<(), ReportError> {
        let report = StatsReport::decode(body);
        let mut stats = self.stats.lock();
        let before = stats.bytes();
        let mut applied = report.and_then(|report| stats.apply(report, now));
        let of_others = self.bytes.fetch_add(stats.bytes(), Ordering::Relaxed) - before;
        let counted = before + stats.bytes();
        if applied.is_ok() && of_others + stats.bytes() > MAX_BYTES {
            applied = Err(ReportError::NoMemory);
        }
        if applied.is_err() {
            *stats = NodeStats::default();
        }
        self.bytes.fetch_sub(counted - stats.bytes(), Ordering::Relaxed);
        let answered = stats.answered();
        drop(stats);
        self.answered.send_if_modified(|known| {
            let is_news = answered > *known;
            *known = answered.max(*known);
            is_news
        });
        applied
    }

    /// Reads the node's statistics under their lock.
    pub(crate) fn inspect<T>(&self, read: impl FnOnce(&NodeStats) -> T) -> T {
        read(&self.stats.lock())
    }

    /// Requests for fresh statistics, for the node's connection to forward.
    pub(crate) fn refresh_requests(&self) -> watch::Receiver<u64> {
        self.requested.subscribe()
    }
}

impl Drop for StoredStats {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.stats.get_mut().bytes(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nsq_protocol::heartbeat::TopicSummary;
    use nsq_protocol::{ChannelStats, TopicStats};

    const NOW: Moment = Moment { elapsed: Duration::ZERO, unix_ns: 0 };

    /// A large report: 3 topics with 4000 channels each.
    fn large_report(is_first: bool, number: usize) -> Vec<u8> {
        let channel =
            |channel| ChannelStats { channel_name: format!("{channel:060}"), ..ChannelStats::default() };
        let topics = (0..3).map(|topic| {
            let channels = (0..4000).map(channel).collect();
            TopicSummary::new(&TopicStats {
                topic_name: format!("{number}-{topic}"),
                channels,
                ..TopicStats::default()
            })
        });
        let topics = topics.map(Option::unwrap).collect();
        StatsReport { is_first, is_last: true, topics, ..StatsReport::default() }.encode()
    }

    #[test]
    fn statistics_of_all_nodes_have_a_memory_limit() {
        let store = StatsStore::default();
        let mut nodes = Vec::new();
        let refused = 'nodes: loop {
            let node = store.add(NodeId(nodes.len() as u64));
            nodes.push(Arc::clone(&node));
            for number in 0..20 {
                if let Err(error) = node.report(&large_report(number == 0, number), NOW) {
                    break 'nodes error;
                }
            }
        };
        assert_eq!(refused, ReportError::NoMemory);
        assert!(store.bytes() > MAX_BYTES * 9 / 10 && store.bytes() <= MAX_BYTES, "{}", store.bytes());
        let last = nodes.pop().unwrap();
        assert_eq!(last.inspect(NodeStats::bytes), 0);
        let first = nodes.remove(0);
        store.remove(NodeId(0));
        drop(first);
        assert_eq!(last.report(&large_report(true, 0), NOW), Ok(()));
        assert!(last.report(b"no report", NOW).is_err());
        for (number, node) in nodes.into_iter().chain([last]).enumerate() {
            store.remove(NodeId(number as u64 + 1));
            drop(node);
        }
        assert_eq!(store.bytes(), 0);
    }
}
