//! `/ping`, `/info` and `/stats`; `stats_page` writes the pages of `/stats`.

use std::time::Duration;

use nsq_daemon::NSQ_VERSION;
use nsq_daemon::http::{Encoding, HttpError, Query, Request, Response, StatusCode, response};
use nsq_protocol::InfoResponse;

use super::HttpContext;
use super::auth::Scope;
use super::stats_page::StatsPage;
use crate::stats::{self, StatsRequest};

/// `GET /ping`
pub async fn ping(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    request.body.discard().await?;
    let engine = context.registry.engine();
    let status = match engine.health() {
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
        Ok(()) if engine.status.is_leaving() || engine.status.is_draining() => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Ok(()) => StatusCode::OK,
    };
    Ok(response::plain(status, stats::health(engine)))
}

/// `GET /info`
pub async fn info(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    request.body.discard().await?;
    let config = &context.config;
    let drain = context.drainer.status();
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
        draining: drain.draining,
        drained: drain.drained,
    };
    Ok(response::value(request.encoding, &info))
}

/// `GET /stats[?format=json][&topic=][&channel=][&include_clients=][&include_mem=]`; MessagePack if the client
/// accepts it. With `include_storage=true`, the answer has the number of bytes that are not on stable storage.
pub async fn stats(
    context: &HttpContext,
    request: &mut Request,
    scope: Scope,
) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let query = request.query_without_body().await?;
    let name = |key| query.get(key).filter(|name| !name.is_empty()).map(|name| name.into_owned());
    let is_text = encoding == Encoding::Json && query.get("format").as_deref() != Some("json");
    let page = StatsPage {
        registry: context.registry.clone(),
        producers: context.producers.clone(),
        started_at: context.started_at,
        topic: name("topic"),
        channel: name("channel"),
        flags: StatsRequest {
            topic: None,
            channel: None,
            include_clients: unless_denied(&query, "include_clients"),
            include_memory: unless_denied(&query, "include_mem"),
            include_storage: query
                .get("include_storage")
                .is_some_and(|value| ["true", "1"].contains(&&*value)),
            only_asked: scope == Scope::Asked,
        },
    };
    let content_type = if is_text { response::TEXT } else { encoding.content_type() };
    let is_small = page.is_small();
    let write = move |out| async move {
        match is_text {
            true => page.write_text(out).await,
            false => page.write_encoded(encoding, out).await,
        }
    };
    context.heavy.answer(content_type, is_small, write).await
}

/// True unless the value is `false` or `0`.
fn unless_denied(query: &Query<'_>, key: &str) -> bool {
    !query.get(key).is_some_and(|value| ["false", "0"].contains(&&*value))
}

fn start_time(context: &HttpContext) -> i64 {
    stats::start_time(context.started_at)
}

/// The form of durations in NSQ's JSON.
pub(super) fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
