//! Counters that a running daemon updates, once per batch and not per message. [`crate::http::metrics`] reads other
//! values on request.

use nsq_daemon::metrics::{Counter, Histogram, RequestCounts};

/// See the module.
#[derive(Debug, Default)]
pub struct Metrics {
    /// TCP connections that were accepted.
    pub connections_opened: Counter,
    /// Accepted connections that have ended.
    pub connections_closed: Counter,
    /// Bytes read from TCP connections.
    pub received_bytes: Counter,
    /// Bytes written to TCP connections.
    pub sent_bytes: Counter,
    /// Messages accepted from publishers.
    pub published_messages: Counter,
    /// Bytes of their bodies.
    pub published_bytes: Counter,
    /// Batches that could not be stored at the requested durability.
    pub refused_publishes: Counter,
    /// Publishes that exceeded a bound.
    pub publishes_over_bound: Counter,
    /// Publishes that were refused because the node drains.
    pub publishes_while_draining: Counter,
    /// Messages that another node's drain moved here.
    pub adopted_messages: Counter,
    /// Messages that a drain moved to another node.
    pub moved_messages: Counter,
    /// Messages handed to consumers, including redeliveries.
    pub delivered_messages: Counter,
    /// FINs that succeeded.
    pub finished_messages: Counter,
    /// REQs that succeeded.
    pub requeued_messages: Counter,
    /// Time from a publish over TCP to its OK; one sample for all publishes of one read.
    pub tcp_publishes: Histogram,
    /// Time from a publish over HTTP to its response.
    pub http_publishes: Histogram,
    /// Time from publish to first delivery, of the oldest message of each batch.
    pub deliveries: Histogram,
    pub http_requests: RequestCounts,
}
