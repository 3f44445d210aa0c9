//! The figures of all nodes that tell them with their heartbeats, and asking for fresh ones.
//!
//! A node's place here is its connection's: what it has told goes with it. Whoever wants fresh figures raises a number,
//! the connections pass it on, and the nodes' next reports name it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use nsq_protocol::heartbeat::{ReportError, StatsReport};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::node_stats::NodeStats;
use crate::registry::{Moment, NodeId};

/// How long a request for fresh figures waits for nodes that do not answer.
const REFRESH_TIMEOUT: Duration = Duration::from_millis(1500);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    nodes: DashMap<NodeId, Arc<NodeFigures>>,
    last_refresh: AtomicU64,
}

/// One node's.
#[derive(Debug)]
pub(crate) struct NodeFigures {
    stats: Mutex<NodeStats>,
    /// The latest request for fresh figures.
    wanted: watch::Sender<u64>,
    /// The latest that was answered.
    answered: watch::Sender<u64>,
}

impl Figures {
    /// A node has agreed to tell.
    pub(crate) fn add(&self, id: NodeId) -> Arc<NodeFigures> {
        let figures = Arc::new(NodeFigures {
            stats: Mutex::default(),
            wanted: watch::Sender::new(0),
            answered: watch::Sender::new(0),
        });
        self.nodes.insert(id, Arc::clone(&figures));
        figures
    }

    /// It has left.
    pub(crate) fn remove(&self, id: NodeId) {
        self.nodes.remove(&id);
    }

    /// What a node has told, if it does.
    pub(crate) fn get(&self, id: NodeId) -> Option<Arc<NodeFigures>> {
        self.nodes.get(&id).map(|entry| Arc::clone(&entry))
    }

    /// Asks all nodes for fresh figures and waits until they have come; not for ever.
    pub(crate) async fn refresh(&self) {
        let number = self.last_refresh.fetch_add(1, Ordering::Relaxed) + 1;
        let nodes: Vec<_> = self.nodes.iter().map(|entry| Arc::clone(&entry)).collect();
        for node in &nodes {
            node.wanted.send_modify(|wanted| *wanted = number.max(*wanted));
        }
        let deadline = Instant::now() + REFRESH_TIMEOUT;
        for node in &nodes {
            let mut answered = node.answered.subscribe();
            // Who does not answer keeps the figures of before, which show their age.
            let _ = timeout_at(deadline, answered.wait_for(|answered| *answered >= number)).await;
        }
    }
}

impl NodeFigures {
    /// A report has come. One that is none forgets all.
    pub(crate) fn report(&self, body: &[u8], now: Moment) -> Result<(), ReportError> {
        let report = StatsReport::decode(body);
        let mut stats = self.stats.lock();
        let applied = report.and_then(|report| stats.apply(report, now));
        if applied.is_err() {
            *stats = NodeStats::default();
        }
        let answered = stats.answered();
        drop(stats);
        self.answered.send_if_modified(|known| {
            let is_news = answered > *known;
            *known = answered.max(*known);
            is_news
        });
        applied
    }

    /// Looks at what the node has told.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&NodeStats) -> T) -> T {
        look(&self.stats.lock())
    }

    /// The requests for fresh figures, for the node's connection to pass on.
    pub(crate) fn wanted(&self) -> watch::Receiver<u64> {
        self.wanted.subscribe()
    }
}
