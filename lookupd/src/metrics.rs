//! The counters of a running nsqlookupd and its Prometheus page. `docs/METRICS.md` lists every metric.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nsq_daemon::NSQ_VERSION;
use nsq_daemon::log::dropped_lines;
use nsq_daemon::metrics::{Counter, Exposition, Kind, RequestCounts, process};

use crate::registry::RegistryCounts;

/// The counters of a running nsqlookupd.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) connections_opened: Counter,
    pub(crate) connections_closed: Counter,
    /// Commands from nodes, by command.
    pub(crate) identify: Counter,
    pub(crate) register: Counter,
    pub(crate) unregister: Counter,
    pub(crate) ping: Counter,
    pub(crate) stats: Counter,
    /// Connections closed because of an invalid magic or command.
    pub(crate) refused: Counter,
    pub(crate) requests: RequestCounts,
    started_at: Duration,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            connections_opened: Counter::default(),
            connections_closed: Counter::default(),
            identify: Counter::default(),
            register: Counter::default(),
            unregister: Counter::default(),
            ping: Counter::default(),
            stats: Counter::default(),
            refused: Counter::default(),
            requests: RequestCounts::default(),
            started_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }
}

impl Metrics {
    pub(crate) fn page(&self, registry: &RegistryCounts) -> Exposition {
        let mut page = Exposition::default();
        let help = "1, with the version and the version of NSQ that it follows.";
        page.family("nsqlookupd_build_info", Kind::Gauge, help)
            .sample(&[("version", env!("CARGO_PKG_VERSION")), ("nsq_version", NSQ_VERSION)], 1.0);
        let help = "Start time of the daemon, in seconds since 1970.";
        page.gauge("nsqlookupd_start_time_seconds", help, self.started_at.as_secs_f64());
        let help = "Known topics, with or without nodes.";
        page.gauge("nsqlookupd_topics", help, registry.topics as f64);
        let help = "Known channels of all topics.";
        page.gauge("nsqlookupd_channels", help, registry.channels as f64);
        let help = "Connected nodes: active, or inactive because they were silent for too long.";
        page.family("nsqlookupd_nodes", Kind::Gauge, help)
            .sample(&[("state", "active")], registry.active_nodes as f64)
            .sample(&[("state", "inactive")], registry.inactive_nodes as f64);
        let help = "Registrations of a node for a topic, tombstoned or not.";
        page.gauge("nsqlookupd_producers", help, registry.producers as f64);
        let help = "Registrations of a node for a topic that a tombstone hides.";
        page.gauge("nsqlookupd_tombstones", help, registry.tombstones as f64);
        let (opened, closed) = (self.connections_opened.get(), self.connections_closed.get());
        page.gauge("nsqlookupd_connections", "TCP connections.", opened.saturating_sub(closed) as f64);
        page.counter("nsqlookupd_connections_opened_total", "TCP connections accepted.", opened);
        page.family("nsqlookupd_commands_total", Kind::Counter, "Commands received from nodes.")
            .sample(&[("command", "IDENTIFY")], self.identify.get() as f64)
            .sample(&[("command", "REGISTER")], self.register.get() as f64)
            .sample(&[("command", "UNREGISTER")], self.unregister.get() as f64)
            .sample(&[("command", "PING")], self.ping.get() as f64)
            .sample(&[("command", "STATS")], self.stats.get() as f64);
        let help = "Connections closed because the node sent an invalid magic or command.";
        page.counter("nsqlookupd_refused_total", help, self.refused.get());
        self.requests.expose(&mut page, "nsqlookupd_http_requests_total");
        let help = "Log lines dropped because stderr was not read or could not be written.";
        page.counter("nsqlookupd_log_lines_dropped_total", help, dropped_lines());
        process::expose(&mut page);
        page
    }
}
