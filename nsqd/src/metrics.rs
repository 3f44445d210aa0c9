//! What a running daemon counts as it works, once per batch and not per message; what exists anyway is looked up when
//! somebody asks ([`crate::http::metrics`]).

use nsq_daemon::metrics::{Counter, Histogram, RequestCounts};

/// See the module.
#[derive(Debug, Default)]
pub struct Metrics {
    /// TCP connections that were accepted.
    pub connections_opened: Counter,
    /// Of those, how many have ended.
    pub connections_closed: Counter,
    /// Bytes read from TCP connections.
    pub received_bytes: Counter,
    /// Bytes written to TCP connections.
    pub sent_bytes: Counter,
    /// Messages accepted.
    pub published_messages: Counter,
    /// Bytes of their bodies.
    pub published_bytes: Counter,
    /// Batches that could not be made as durable as asked.
    pub refused_publishes: Counter,
    /// Messages handed to consumers, repetitions included.
    pub delivered_messages: Counter,
    /// FINs that succeeded.
    pub finished_messages: Counter,
    /// REQs that succeeded.
    pub requeued_messages: Counter,
    /// From a publish over TCP to its OK; one record for all that came in one read.
    pub tcp_publishes: Histogram,
    /// From a publish over HTTP to its answer.
    pub http_publishes: Histogram,
    /// From publishing to the first handing out, of the oldest message of each batch.
    pub deliveries: Histogram,
    /// Requests over HTTP.
    pub http_requests: RequestCounts,
}
