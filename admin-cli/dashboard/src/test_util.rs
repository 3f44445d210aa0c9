//! For tests.

use nsq_cluster::Reach;
use nsq_cluster::snapshot::{NodeView, Totals};

/// A node that answers and has nothing.
pub fn node(key: &str) -> NodeView {
    NodeView {
        address: key.to_owned(),
        tcp_address: None,
        key: key.to_owned(),
        hostname: "h".to_owned(),
        broadcast_address: "h".to_owned(),
        version: "1.3.0".to_owned(),
        zone: String::new(),
        region: String::new(),
        reach: Reach::Up,
        age: None,
        error: None,
        is_skipped: false,
        lookupds: Vec::new(),
        is_configured: false,
        health: "OK".to_owned(),
        started_at: None,
        restarted_at: None,
        clock_ahead: None,
        round_trip: None,
        drain: None,
        storage: None,
        memory_bytes: None,
        totals: Totals::default(),
    }
}
