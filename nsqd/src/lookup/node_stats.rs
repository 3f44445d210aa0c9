//! The source of the statistics that heartbeats carry. The node implements it, so that this module needs no statistics.

use nsq_protocol::TopicName;
use nsq_protocol::heartbeat::{NodeSummary, TopicSummary};

use super::ledger::TopicSnapshot;

/// Statistics of the node and its topics.
pub trait NodeStats: Send + Sync {
    /// The node and all topics, in any order; `None` once the node has stopped.
    fn snapshot(&self) -> Option<(NodeSummary, Vec<TopicSnapshot>)>;
    /// One topic; `None` if it does not exist.
    fn topic(&self, name: &TopicName) -> Option<TopicSummary>;
}
