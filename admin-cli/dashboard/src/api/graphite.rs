//! `/render`, a proxy for Graphite, and `/api/graphite`, one rate.

use std::sync::Arc;

use axum::extract::{Query, RawQuery, State as Shared};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::json;

use super::reply::{ApiError, ApiResult, ok};
use crate::graphite;
use crate::state::State;

/// Content types of Graphite that pass. Anything else could be a page that runs in the dashboard's origin.
const PASSED_TYPES: [&str; 6] =
    ["image/png", "application/json", "text/plain", "text/csv", "application/pdf", "application/pickle"];

pub async fn render(Shared(state): Shared<Arc<State>>, RawQuery(query): RawQuery) -> Response {
    let Some(url) = state.settings.graphite_url.as_ref().filter(|_| state.settings.proxy_graphite) else {
        return ApiError::new(404, "NOT_FOUND").into_response();
    };
    match state.outgoing.get(&format!("{url}/render?{}", query.unwrap_or_default())).await {
        Ok(answer) => {
            let kind =
                answer.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            let is_passed = PASSED_TYPES.contains(&kind.split(';').next().unwrap_or_default().trim());
            let kind = if is_passed { kind.to_owned() } else { "application/octet-stream".to_owned() };
            let headers = [(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-store".to_owned())];
            (answer.status, headers, answer.body).into_response()
        }
        Err(error) => ApiError::new(502, format!("UPSTREAM_ERROR: {error}")).into_response(),
    }
}

#[derive(Deserialize)]
pub struct RateQuery {
    metric: Option<String>,
    target: Option<String>,
}

pub async fn rate(Shared(state): Shared<Arc<State>>, Query(query): Query<RateQuery>) -> ApiResult {
    if query.metric.as_deref() != Some("rate") {
        return Err(ApiError::new(400, "INVALID_ARG_METRIC"));
    }
    let target = query.target.ok_or_else(|| ApiError::new(400, "INVALID_ARG_TARGET"))?;
    let failed = || ApiError::new(500, "INTERNAL_ERROR");
    let url = state.settings.graphite_url.as_ref().ok_or_else(failed)?;
    let seconds = state.settings.statsd_interval.as_secs();
    let target = utf8_percent_encode(&target, NON_ALPHANUMERIC);
    let query = format!("from=-{}sec&until=-{seconds}sec&format=json&target={target}", seconds * 2);
    let answer = state.outgoing.get(&format!("{url}/render?{query}")).await.map_err(|error| {
        nsq_daemon::error!(state.logger, "graphite request failed - {error}");
        failed()
    })?;
    let reply = serde_json::from_slice(&answer.body).map_err(|_| failed())?;
    let rate = graphite::rate(&reply, seconds).map_or_else(|| "N/A".to_owned(), |rate| format!("{rate:.2}"));
    ok(&json!({ "rate": rate }))
}
