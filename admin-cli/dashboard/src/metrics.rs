//! `/metrics`: the cluster's figures, and the dashboard's own.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use nsq_cluster::{Reach, Severity};
use nsq_daemon::metrics::{Exposition, Kind, process};

use crate::state::{MAX_EVENT_STREAMS, State};

pub async fn page(Shared(state): Shared<Arc<State>>) -> Response {
    let snapshot = state.sampler().latest();
    let mut page = Exposition::default();
    let is_up = |reach: Reach| f64::from(u8::from(matches!(reach, Reach::Up | Reach::Late)));
    let mut nodes = page.family("nsq_cluster_node_up", Kind::Gauge, "Whether an nsqd answers.");
    for node in &snapshot.nodes {
        nodes.sample(&[("node", &node.key)], is_up(node.reach));
    }
    let mut lookupds = page.family("nsq_cluster_lookupd_up", Kind::Gauge, "Whether an nsqlookupd answers.");
    for lookupd in &snapshot.lookupds {
        lookupds.sample(&[("lookupd", &lookupd.address)], is_up(lookupd.reach));
    }
    let mut problems = page.family("nsq_cluster_problems", Kind::Gauge, "Problems by severity.");
    for severity in [Severity::Info, Severity::Warning, Severity::Critical] {
        let count = snapshot.problems.iter().filter(|problem| problem.severity == severity).count();
        problems.sample(&[("severity", &severity.to_string())], count as f64);
    }
    let totals = &snapshot.totals;
    page.gauge("nsq_cluster_topics", "Topics of the cluster.", totals.topic_count as f64);
    page.gauge("nsq_cluster_channels", "Channels of the cluster.", totals.channel_count as f64);
    page.gauge("nsq_cluster_depth", "Depth of all topics and channels.", totals.depth as f64);
    page.gauge("nsq_cluster_in_flight", "Messages in flight.", totals.in_flight_count as f64);
    page.gauge("nsq_cluster_consumers", "Consumers.", totals.client_count as f64);
    let rates = totals.rates.unwrap_or_default();
    page.gauge("nsq_cluster_publish_rate", "Messages published per second.", f64::from(rates.ingress));
    page.gauge("nsq_cluster_finish_rate", "Messages finished per second.", f64::from(rates.egress));
    page.gauge("nsqadmin_sample_number", "Samples taken.", snapshot.number as f64);
    page.gauge("nsqadmin_sample_seconds", "Duration of the last sample.", snapshot.took.as_secs_f64());
    let (history_bytes, history_limit) = {
        let sampler = state.sampler();
        let series = sampler.series();
        (series.bytes(), series.limit())
    };
    page.gauge("nsqadmin_series_bytes", "Memory of the history of figures.", history_bytes as f64);
    page.gauge("nsqadmin_series_limit_bytes", "Limit of nsqadmin_series_bytes.", history_limit as f64);
    let streams = MAX_EVENT_STREAMS.saturating_sub(state.events.available_permits());
    page.gauge("nsqadmin_event_streams", "Browsers that receive live updates.", streams as f64);
    let requests = state.counters.requests.load(Ordering::Relaxed);
    page.counter("nsqadmin_requests_total", "HTTP requests.", requests);
    let refused = state.counters.refused.load(Ordering::Relaxed);
    page.counter(
        "nsqadmin_refused_requests_total",
        "Requests without the rights, or from other sites.",
        refused,
    );
    if let Some(stats) = state.notifier.stats() {
        page.counter("nsqadmin_notifications_total", "Notifications delivered.", stats.sent);
        page.counter("nsqadmin_notifications_failed_total", "Notifications given up.", stats.failed);
        page.counter(
            "nsqadmin_notifications_dropped_total",
            "Notifications dropped: too many waited.",
            stats.dropped,
        );
        page.gauge("nsqadmin_notifications_queued", "Notifications that wait.", stats.queued as f64);
    }
    process::expose(&mut page);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.into_text()).into_response()
}
