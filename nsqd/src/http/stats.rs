//! `/ping`, `/info` and `/stats`.

use std::time::Duration;

use nsq_daemon::http::{Encoding, HttpError, Query, Request, Response, StatusCode, response};
use nsq_daemon::{NSQ_VERSION, log};
use nsq_protocol::{InfoResponse, render_text};

use super::HttpContext;
use crate::stats::{self, StatsRequest};

/// `GET /ping`
pub async fn ping(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    request.body.discard().await?;
    let engine = context.registry.engine();
    let status = match engine.health() {
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
        Ok(()) if engine.is_leaving() => StatusCode::SERVICE_UNAVAILABLE,
        Ok(()) => StatusCode::OK,
    };
    Ok(response::plain(status, stats::health(engine)))
}

/// `GET /info`
pub async fn info(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    request.body.discard().await?;
    let config = &context.config;
    let info = InfoResponse {
        version: NSQ_VERSION.to_owned(),
        broadcast_address: config.broadcast_address.clone(),
        hostname: config.hostname.clone(),
        http_port: context.http_port,
        tcp_port: context.tcp_port,
        start_time: start_time(context),
        max_heartbeat_interval: nanoseconds(config.max_heartbeat_interval),
        max_output_buffer_size: i64::try_from(config.max_output_buffer_size).unwrap_or(i64::MAX),
        max_output_buffer_timeout: nanoseconds(config.max_output_buffer_timeout),
        max_deflate_level: config.max_deflate_level.into(),
        topology_zone: config.topology_zone.clone(),
        topology_region: config.topology_region.clone(),
    };
    Ok(response::value(request.encoding, &info))
}

/// `GET /stats[?format=json][&topic=][&channel=][&include_clients=][&include_mem=]`; MessagePack for who accepts it.
/// With `include_storage=true` also how much is not on stable storage.
pub async fn stats(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let query = request.query_without_body().await?;
    let (topic, channel) = (query.get("topic"), query.get("channel"));
    let wanted = StatsRequest {
        topic: topic.as_deref().filter(|name| !name.is_empty()),
        channel: channel.as_deref().filter(|name| !name.is_empty()),
        include_clients: unless_denied(&query, "include_clients"),
        include_memory: unless_denied(&query, "include_mem"),
        include_storage: query.get("include_storage").is_some_and(|value| ["true", "1"].contains(&&*value)),
    };
    let stats = stats::collect(&context.registry, &context.producers, start_time(context), wanted);
    if encoding == Encoding::MessagePack || query.get("format").as_deref() == Some("json") {
        return Ok(response::value(encoding, &stats));
    }
    // Negative only if somebody has set the clock back.
    let uptime = context.started_at.elapsed().unwrap_or_default();
    let start_time = log::local_rfc3339(stats.start_time);
    Ok(response::text(render_text(&stats, uptime, &start_time, "rustc")))
}

/// True but for the two words of denial.
fn unless_denied(query: &Query<'_>, key: &str) -> bool {
    !query.get(key).is_some_and(|value| ["false", "0"].contains(&&*value))
}

fn start_time(context: &HttpContext) -> i64 {
    stats::start_time(context.started_at)
}

/// As NSQ's JSON has durations.
pub(super) fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
