//! `/metrics`: the page for Prometheus. `docs/METRICS.md` lists every metric.
//!
//! - `series`: topics and channels, up to `--metrics-max-series`
//! - `archive`: the archive
//! - this file: the daemon, its connections, its disk

mod archive;
mod series;

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use nsq_daemon::NSQ_VERSION;
use nsq_daemon::http::{HttpError, Request, Response};
use nsq_daemon::log::dropped_lines;
use nsq_daemon::metrics::{Exposition, Kind, process};
use nsq_protocol::MoveState;

use self::series::Series;
use super::consume::tickets::MAX_TICKETS;
use super::consume::{HttpConsumers, Kind as ConsumerKind};
use super::{HttpContext, LookupdAddresses};
use crate::disk_metrics::{DiskMetrics, FileMetrics};
use crate::engine::Engine;
use crate::metrics::Metrics;
use crate::producers::Producers;
use crate::storage::file_kind::FileKind;
use crate::topic::registry::Registry;

/// `GET /metrics`
pub async fn metrics(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    request.body.discard().await?;
    let source = Source {
        registry: context.registry.clone(),
        producers: context.producers.clone(),
        lookupds: context.lookupd_addresses.clone(),
        consumers: context.consumers.clone(),
        start_seconds: context.started_at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
        max_series: context.config.metrics_max_series,
    };
    // Many topics take long, and reading a segment's size may wait for the disk.
    context.heavy.run(move || source.page()).await.map(Exposition::into_response)
}

struct Source {
    registry: Arc<Registry>,
    producers: Arc<Producers>,
    lookupds: Arc<dyn LookupdAddresses>,
    consumers: Arc<HttpConsumers>,
    start_seconds: f64,
    max_series: u64,
}

impl Source {
    fn page(&self) -> Exposition {
        let engine = self.registry.engine();
        let mut page = Exposition::default();
        page.family(
            "nsq_build_info",
            Kind::Gauge,
            "1, with the version and the version of NSQ that it follows.",
        )
        .sample(&[("version", env!("CARGO_PKG_VERSION")), ("nsq_version", NSQ_VERSION)], 1.0);
        let help = "When the daemon started, seconds since 1970.";
        page.gauge("nsq_start_time_seconds", help, self.start_seconds);
        let help = "1 as long as publishing works, else 0; /ping says why.";
        page.gauge("nsq_healthy", help, f64::from(u8::from(engine.health().is_ok())));
        self.put_lookupds(&mut page);
        put_drain(&mut page, engine);
        put_traffic(&mut page, engine.metrics());
        let help = "TCP connections that have published.";
        page.gauge("nsq_producers", help, self.producers.all().len() as f64);
        let help = "Redrives of dead letters that are running.";
        let transfers: usize = self.registry.all_unsorted().iter().map(|topic| topic.adoption_count()).sum();
        let open_help = "Transfers from other nodes that are not complete.";
        page.gauge("nsq_transfers_open", open_help, transfers as f64);
        page.gauge("nsq_redrives_running", help, self.registry.running_redrives() as f64);
        put_http_consumers(&mut page, &self.consumers);
        put_storage(&mut page, engine);
        archive::put(&mut page, engine);
        Series::collect(&self.registry, self.max_series).put(&mut page);
        let help = "Log lines dropped because stderr was not read or could not be written.";
        page.counter("nsq_log_lines_dropped_total", help, dropped_lines());
        process::expose(&mut page);
        page
    }

    fn put_lookupds(&self, page: &mut Exposition) {
        let help = "1 for each nsqlookupd that this node is registered at, 0 for one that it cannot reach.";
        let mut family = page.family("nsq_lookupd_connected", Kind::Gauge, help);
        for (address, connected) in self.lookupds.connected() {
            family.sample(&[("address", &address)], f64::from(u8::from(connected)));
        }
    }
}

fn put_drain(page: &mut Exposition, engine: &Engine) {
    let drain = engine.status.with_drain(|drain| drain.status()).unwrap_or_default();
    let seconds = |nanoseconds: Option<i64>| nanoseconds.map_or(0.0, |at| at as f64 / 1e9);
    let help = "1 while nsqd refuses publishes because it drains, else 0.";
    page.gauge("nsq_draining", help, f64::from(u8::from(drain.draining)));
    let help = "Messages that a drain waits for; 0 without a drain.";
    page.gauge("nsq_drain_remaining_messages", help, drain.remaining_count as f64);
    let help = "Dead letters without a consumer and messages of topics without channels, during a drain.";
    page.gauge("nsq_drain_held_messages", help, drain.held_count as f64);
    let help = "When the drain began, seconds since 1970; 0 without a drain.";
    page.gauge("nsq_drain_start_time_seconds", help, seconds(drain.started_at));
    let help = "When the drain no longer waits for consumers, seconds since 1970; 0 for never.";
    page.gauge("nsq_drain_deadline_seconds", help, seconds(drain.deadline_at));
    let help = "Publishes that were refused because nsqd drained.";
    page.counter("nsq_publishes_draining_total", help, engine.metrics().publishes_while_draining.get());
    let help = "1 while a drain moves messages to another node, else 0.";
    let is_moving = drain.moving.is_some_and(|moving| moving.state == MoveState::Moving);
    page.gauge("nsq_drain_moving", help, f64::from(u8::from(is_moving)));
    let help = "Messages that drains of this node moved to another node.";
    page.counter("nsq_messages_moved_total", help, engine.metrics().moved_messages.get());
    let help = "Messages that drains of other nodes moved here.";
    page.counter("nsq_messages_adopted_total", help, engine.metrics().adopted_messages.get());
}

fn put_traffic(page: &mut Exposition, metrics: &Metrics) {
    let (opened, closed) = (metrics.connections_opened.get(), metrics.connections_closed.get());
    page.gauge("nsq_connections", "TCP connections.", opened.saturating_sub(closed) as f64);
    page.counter("nsq_connections_opened_total", "TCP connections accepted.", opened);
    let help = "Bytes read from TCP connections.";
    page.counter("nsq_received_bytes_total", help, metrics.received_bytes.get());
    page.counter("nsq_sent_bytes_total", "Bytes written to TCP connections.", metrics.sent_bytes.get());
    page.counter("nsq_messages_published_total", "Messages accepted.", metrics.published_messages.get());
    let help = "Bytes of the bodies of accepted messages.";
    page.counter("nsq_message_bytes_published_total", help, metrics.published_bytes.get());
    let help = "Batches of messages that were refused because they could not be stored.";
    page.counter("nsq_publishes_refused_total", help, metrics.refused_publishes.get());
    let help = "Publishes that were refused because a channel or topic held too much.";
    page.counter("nsq_publishes_over_bound_total", help, metrics.publishes_over_bound.get());
    let help = "Messages handed to consumers, including repetitions.";
    page.counter("nsq_messages_delivered_total", help, metrics.delivered_messages.get());
    page.counter("nsq_messages_finished_total", "FINs that succeeded.", metrics.finished_messages.get());
    page.counter("nsq_messages_requeued_total", "REQs that succeeded.", metrics.requeued_messages.get());
    let help = "From a publish to its answer. All publishes in one read of a TCP connection count once.";
    page.family("nsq_publish_duration_seconds", Kind::Histogram, help)
        .histogram(&[("protocol", "tcp")], &metrics.tcp_publishes.buckets())
        .histogram(&[("protocol", "http")], &metrics.http_publishes.buckets());
    let help = "From publish to first delivery, for the oldest message of each batch.";
    page.family("nsq_delivery_latency_seconds", Kind::Histogram, help)
        .histogram(&[], &metrics.deliveries.buckets());
    metrics.http_requests.expose(page, "nsq_http_requests_total");
}

fn put_http_consumers(page: &mut Exposition, consumers: &HttpConsumers) {
    let help = "Clients that consume over HTTP: waiting long polls, event streams, and WebSockets.";
    let mut family = page.family("nsq_http_consumers", Kind::Gauge, help);
    for kind in ConsumerKind::ALL {
        family.sample(&[("kind", kind.as_str())], consumers.count(kind) as f64);
    }
    let help = "Requests to consume that --max-http-consumers refused.";
    page.counter("nsq_http_consumers_refused_total", help, consumers.refused_consumers.get());
    let help = "Messages that are leased to long polls.";
    page.gauge("nsq_http_leases", help, consumers.lease_count() as f64);
    let help = "Long polls that --max-http-leases refused.";
    page.counter("nsq_http_leases_refused_total", help, consumers.refused_leases.get());
    let help = "Tickets that are neither used nor expired.";
    page.gauge("nsq_http_tickets", help, consumers.tickets.count() as f64);
    let help = format!("Tickets that were refused because {MAX_TICKETS} were not used yet.");
    page.counter("nsq_http_tickets_refused_total", &help, consumers.tickets.refused.get());
}

fn put_storage(page: &mut Exposition, engine: &Engine) {
    let damage = engine.damage.counts();
    let help = "Damaged parts of the journal, blocks of segments and whole files that were found.";
    page.counter("nsq_damaged_blocks_total", help, damage.damaged_blocks);
    let help = "Messages that were needed but could not be read.";
    page.counter("nsq_damaged_messages_total", help, damage.damaged_messages);
    let help = "Bytes of torn writes after a crash, cut at the start.";
    page.counter("nsq_cut_bytes_total", help, damage.cut_bytes);
    if let Some(journal) = &engine.store.journal {
        let (files, bytes) = journal.size();
        page.gauge("nsq_journal_files", "Journal files in use.", files as f64);
        page.gauge("nsq_journal_bytes", "Bytes of the journal files on disk.", bytes as f64);
    }
    if let Ok(disk) = rustix::fs::statvfs(engine.store.data_dir.path()) {
        let help = "Free space in the file system of the data directory.";
        page.gauge("nsq_data_free_bytes", help, (disk.f_bavail * disk.f_frsize) as f64);
        let help = "Size of the file system of the data directory.";
        page.gauge("nsq_data_size_bytes", help, (disk.f_blocks * disk.f_frsize) as f64);
    }
    let help = "Bytes written that are not on stable storage: a power failure may lose them.";
    let mut family = page.family("nsq_unsynced_bytes", Kind::Gauge, help);
    for kind in [FileKind::Journal, FileKind::Segment] {
        family.sample(&[("file", kind.as_str())], engine.store.unsynced.bytes(kind) as f64);
    }
    if let Some(disk) = engine.disk_metrics() {
        put_disk(page, disk);
    }
}

fn put_disk(page: &mut Exposition, disk: &DiskMetrics) {
    type Value = fn(&FileMetrics) -> u64;
    let counters: [(&str, &str, Value); 5] = [
        ("nsq_disk_written_bytes_total", "Bytes written to files.", |file| file.written_bytes.get()),
        ("nsq_disk_read_bytes_total", "Bytes read from files.", |file| file.read_bytes.get()),
        ("nsq_disk_write_errors_total", "Writes that failed.", |file| file.write_errors.get()),
        ("nsq_disk_read_errors_total", "Reads that failed.", |file| file.read_errors.get()),
        ("nsq_disk_sync_errors_total", "Syncs that failed.", |file| file.sync_errors.get()),
    ];
    for (name, help, value) in counters {
        let mut family = page.family(name, Kind::Counter, help);
        for kind in FileKind::ALL {
            family.sample(&[("file", kind.as_str())], value(disk.of(kind)) as f64);
        }
    }
    let histograms = [
        ("nsq_disk_write_duration_seconds", "How long writes to files took."),
        ("nsq_disk_read_duration_seconds", "How long reads from files took."),
        ("nsq_disk_sync_duration_seconds", "How long syncing written bytes to stable storage took."),
    ];
    for (index, (name, help)) in histograms.into_iter().enumerate() {
        let mut family = page.family(name, Kind::Histogram, help);
        for kind in [FileKind::Journal, FileKind::Segment] {
            let file = disk.of(kind);
            let buckets = [&file.writes, &file.reads, &file.syncs][index].buckets();
            family.histogram(&[("file", kind.as_str())], &buckets);
        }
    }
}
