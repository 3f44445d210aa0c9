//! `/api/v2`: what NSQ's nsqadmin does not have.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Extension;
use axum::extract::{Query, State as Shared};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use nsq_cluster::SeriesKey;
use nsq_cluster::series::Resolution;
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::{ApiError, ApiResult, ok};
use super::v1::body;
use crate::actions::{self, Order};
use crate::listing::{TopicQuery, rows};
use crate::state::State;
use crate::{actions as acts, figures};

type App = Shared<Arc<State>>;

pub async fn overview(Shared(state): App) -> ApiResult {
    let snapshot = state.sampler().latest();
    let detail = state.sampler().series().detail();
    ok(&json!({
        "number": snapshot.number,
        "taken_at": figures::rfc3339(snapshot.taken_at),
        "interval_ms": figures::millis(snapshot.interval),
        "nodes_up": snapshot.up_count(),
        "nodes": snapshot.nodes.iter().map(|node| json!({
            "address": node.address, "hostname": node.hostname, "reach": node.reach,
            "age_ms": node.age.map(figures::millis), "error": node.error.as_ref().map(|e| e.message.clone()),
        })).collect::<Vec<_>>(),
        "lookupds": snapshot.lookupds.iter().map(|lookupd| json!({
            "address": lookupd.address, "reach": lookupd.reach, "age_ms": lookupd.age.map(figures::millis),
            "error": lookupd.error.as_ref().map(|e| e.message.clone()),
        })).collect::<Vec<_>>(),
        "totals": snapshot.totals,
        "problems": snapshot.problems,
        "timers": state.timers.list(),
        "notifications": state.notifier.stats(),
        "history": detail,
    }))
}

pub async fn topics(Shared(state): App, Query(query): Query<TopicQuery>) -> ApiResult {
    let snapshot = state.sampler().latest();
    let page = rows(&snapshot, &query);
    let topics: Vec<Value> = page.rows.iter().map(|row| row.json(&snapshot)).collect();
    ok(&json!({ "topics": topics, "total": page.total, "matching": page.matching, "cursor": page.next }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeriesQuery {
    topic: Option<String>,
    channel: Option<String>,
    node: Option<String>,
    metric: Option<String>,
    /// Seconds since 1970.
    from: Option<u64>,
    resolution: Option<String>,
}

pub async fn series(Shared(state): App, Query(query): Query<SeriesQuery>) -> ApiResult {
    let key = match (query.topic, query.channel, query.node) {
        (Some(topic), Some(channel), None) => SeriesKey::Channel(topic.into(), channel.into()),
        (Some(topic), None, None) => SeriesKey::Topic(topic.into()),
        (None, None, Some(node)) => SeriesKey::Node(node.into()),
        (None, None, None) => SeriesKey::Cluster,
        _ => return Err(ApiError::new(400, "INVALID_ARG: give topic, topic and channel, or node")),
    };
    let resolution = match query.resolution.as_deref() {
        None | Some("fine") => Resolution::Fine,
        Some("minute") => Resolution::Coarse,
        Some(_) => return Err(ApiError::new(400, "INVALID_ARG_RESOLUTION: fine or minute")),
    };
    let from = UNIX_EPOCH + Duration::from_secs(query.from.unwrap_or(0).min(1 << 40));
    let sampler = state.sampler();
    let (points, marks) = {
        let series = sampler.series();
        (series.points(&key, resolution), series.marks().cloned().collect::<Vec<_>>())
    };
    let number = |value: f32| if value.is_finite() { json!(value) } else { Value::Null };
    let mut unknown = None;
    let points: Vec<Value> = points
        .into_iter()
        .filter(|(at, _)| *at >= from)
        .map(|(at, point)| {
            let all = [
                ("depth", point.depth),
                ("in_flight_count", point.in_flight_count),
                ("ingress", point.ingress),
                ("egress", point.egress),
                ("requeue", point.requeue),
                ("timeout", point.timeout),
            ];
            let mut one = json!({ "at": figures::rfc3339(at) });
            for (name, value) in all {
                if query.metric.as_deref().is_none_or(|metric| metric == name) {
                    one[name] = number(value);
                }
            }
            if let Some(metric) = &query.metric
                && !all.iter().any(|(name, _)| name == metric)
            {
                unknown = Some(metric.clone());
            }
            one
        })
        .collect();
    if unknown.is_some() {
        return Err(ApiError::new(
            400,
            "INVALID_ARG_METRIC: depth, in_flight_count, ingress, egress, requeue or timeout",
        ));
    }
    let marks: Vec<Value> = marks
        .iter()
        .map(|mark| json!({ "at": figures::rfc3339(mark.at), "node": mark.node, "kind": mark.kind }))
        .collect();
    ok(&json!({ "points": points, "marks": marks }))
}

pub async fn clients(Shared(state): App) -> ApiResult {
    let sample = state.sampler().latest().number;
    let found = state.connections.at(&state, sample).await?;
    ok(&json!({ "connections": found.value, "warnings": found.warnings }))
}

pub async fn discovery(Shared(state): App) -> ApiResult {
    let snapshot = state.sampler().latest();
    let lookupds: Vec<Value> = snapshot
        .lookupds
        .iter()
        .map(|lookupd| {
            let nodes: Vec<Value> = lookupd
                .nodes
                .iter()
                .filter_map(|listing| {
                    let node = snapshot.nodes.get(listing.node)?;
                    Some(json!({
                        "node": node.key, "remote_address": listing.remote_address,
                        "topics": listing.topics.iter().map(|name| name.to_string()).collect::<Vec<_>>(),
                        "tombstones": listing.tombstones.iter().map(|name| name.to_string()).collect::<Vec<_>>(),
                    }))
                })
                .collect();
            json!({ "address": lookupd.address, "reach": lookupd.reach, "nodes": nodes })
        })
        .collect();
    let differences = crate::discovery::differences(&snapshot);
    ok(&json!({ "lookupds": lookupds, "differences": differences }))
}

pub async fn audit(Shared(state): App) -> ApiResult {
    ok(&json!({ "entries": state.audit.recent(), "file": state.audit.path() }))
}

pub async fn act(
    Shared(state): App,
    Extension(request): Extension<Arc<actions::Request>>,
    bytes: Bytes,
) -> ApiResult {
    let order: Order = body(&bytes)?;
    let verb = order.check().map_err(|word| ApiError::new(400, word))?;
    if request.caller.role < verb.role() {
        return Err(ApiError::new(403, "FORBIDDEN"));
    }
    if order.dry_run {
        let command = order.command(verb);
        if verb.has_preview() {
            let outcomes = acts::preview(&state, &order).await?;
            return ok(&json!({ "dry_run": true, "outcomes": outcomes, "command": command }));
        }
        let plan = acts::plan_of(&state, verb, &order).await?;
        return ok(&json!({ "dry_run": true, "plan": plan, "command": command }));
    }
    let done = acts::execute(&state, &order, &request, true).await?;
    ok(&done)
}

/// Sends an event for each sample.
pub async fn events(Shared(state): App) -> Response {
    let Ok(permit) = state.itself.upgrade().map(|state| SlotOf::take(&state)).unwrap_or(Err(())) else {
        return ApiError::new(503, "TOO_MANY_STREAMS: ask again instead").into_response();
    };
    let receiver = state.sampler().subscribe();
    let stop = state.stop.clone();
    let events =
        stream::unfold((receiver, stop, permit, true), async |(mut receiver, stop, permit, is_first)| {
            if !is_first {
                let changed = stop.run_until_cancelled(receiver.changed()).await;
                // The dashboard stops, or uses another sampler: the browser connects again.
                if !matches!(changed, Some(Ok(()))) {
                    return None;
                }
            }
            let snapshot = receiver.borrow_and_update().clone();
            let data = json!({
                "number": snapshot.number,
                "taken_at_ms": figures::unix_millis(snapshot.taken_at),
                "interval_ms": figures::millis(snapshot.interval),
                "problems": snapshot.problems.len(),
            });
            let event =
                Event::default().event("sample").id(snapshot.number.to_string()).data(data.to_string());
            Some((Ok::<_, Infallible>(event), (receiver, stop, permit, false)))
        });
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15));
    Sse::new(events).keep_alive(keep_alive).into_response()
}

/// One of the places for event streams.
struct SlotOf(Arc<State>);

impl SlotOf {
    fn take(state: &Arc<State>) -> Result<Self, ()> {
        state.events.try_acquire().map_err(drop)?.forget();
        Ok(SlotOf(state.clone()))
    }
}

impl Drop for SlotOf {
    fn drop(&mut self) {
        self.0.events.add_permits(1);
    }
}

/// 200 if a daemon answered lately.
pub async fn healthz(Shared(state): App) -> Response {
    let snapshot = state.sampler().latest();
    let limit = snapshot.interval * 6;
    let is_fresh = |age: Option<Duration>| age.is_some_and(|age| age < limit);
    let age = SystemTime::now().duration_since(snapshot.taken_at).unwrap_or_default();
    let answers = snapshot.nodes.iter().map(|node| node.age).chain(snapshot.lookupds.iter().map(|l| l.age));
    let is_healthy = snapshot.number > 0 && age < limit && answers.into_iter().any(is_fresh);
    let upstream = |address: &str, age: Option<Duration>, reach: nsq_cluster::Reach| json!({ "address": address, "reach": reach, "age_ms": age.map(figures::millis) });
    let body = json!({
        "healthy": is_healthy,
        "nodes": snapshot.nodes.iter().map(|n| upstream(&n.address, n.age, n.reach)).collect::<Vec<_>>(),
        "lookupds": snapshot.lookupds.iter().map(|l| upstream(&l.address, l.age, l.reach)).collect::<Vec<_>>(),
    });
    let status = if is_healthy { http::StatusCode::OK } else { http::StatusCode::SERVICE_UNAVAILABLE };
    super::reply::reply(status, &body)
}
