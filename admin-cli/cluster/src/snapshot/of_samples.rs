//! Pure: a snapshot of samples that a command took itself, once or twice.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::node_sample::NodeSample;
use super::{NodeInput, NodeView, Reach, Snapshot, SnapshotInput, Totals, build};
use crate::names::Names;
use crate::samples::Samples;

impl Snapshot {
    /// The figures of all nodes, with rates if there are earlier samples. Only the nodes' addresses and figures are known:
    /// the snapshot has no time, no errors and no nsqlookupds.
    pub fn of_samples(before: Option<&Samples>, now: &Samples) -> Self {
        let Some(last) = now.values().map(|sample| sample.taken_at).max() else {
            return Snapshot::empty(Duration::ZERO);
        };
        let mut names = Names::default();
        let mut nodes = Vec::with_capacity(now.len());
        for (address, sample) in now {
            let mut figures = NodeSample::of(&sample.stats, sample.taken_at, &mut names);
            if let Some(before) = before.and_then(|before| before.get(address)) {
                figures.set_rates(&NodeSample::of(&before.stats, before.taken_at, &mut names));
            }
            nodes.push(NodeInput { view: view(address, &figures), sample: Some(Arc::new(figures)) });
        }
        build(SnapshotInput {
            number: 1,
            taken_at: SystemTime::UNIX_EPOCH,
            now: last,
            took: Duration::ZERO,
            interval: Duration::ZERO,
            lookupds: Vec::new(),
            nodes,
        })
    }
}

fn view(address: &str, figures: &NodeSample) -> NodeView {
    NodeView {
        address: address.to_owned(),
        tcp_address: None,
        key: address.to_owned(),
        hostname: String::new(),
        broadcast_address: String::new(),
        version: figures.version.clone(),
        zone: String::new(),
        region: String::new(),
        reach: Reach::Up,
        age: None,
        error: None,
        is_skipped: false,
        lookupds: Vec::new(),
        is_configured: true,
        health: figures.health.clone(),
        started_at: None,
        restarted_at: None,
        clock_ahead: None,
        round_trip: None,
        drain: figures.drain.clone(),
        storage: None,
        memory_bytes: figures.memory_bytes,
        totals: Totals::default(),
    }
}
