//! `/config/:opt`: reads any option, changes two of them.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State as Shared};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use nsq_daemon::listen::Remote;
use serde_json::{Value, json};

use super::reply::{ApiError, ApiResult, ok};
use crate::access::{Caller, Role};
use crate::settings::{check_address, parse_level};
use crate::state::State;

/// Largest value.
const MAX_VALUE_BYTES: usize = 1 << 20;

pub async fn read(
    Shared(state): Shared<Arc<State>>,
    Extension(peer): Extension<Remote>,
    Path(option): Path<String>,
) -> ApiResult {
    permit(&state, &peer)?;
    answer(&state, &option)
}

pub async fn write(
    Shared(state): Shared<Arc<State>>,
    Extension(peer): Extension<Remote>,
    Extension(caller): Extension<Caller>,
    Path(option): Path<String>,
    bytes: Bytes,
) -> ApiResult {
    permit(&state, &peer)?;
    if !state.settings.rules.are_open() && caller.role < Role::Admin && caller.via != "none" {
        return Err(ApiError::new(403, "FORBIDDEN"));
    }
    if bytes.is_empty() || bytes.len() > MAX_VALUE_BYTES {
        return Err(ApiError::new(413, "INVALID_VALUE"));
    }
    let invalid = || ApiError::new(400, "INVALID_VALUE");
    match option.as_str() {
        "log_level" => state.logger.set_level(parse_level(&bytes).ok_or_else(invalid)?),
        "nsqlookupd_http_addresses" => {
            let addresses: Vec<String> = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
            let addresses: Vec<String> =
                addresses.into_iter().filter(|address| !address.is_empty()).collect();
            let checked = addresses.clone();
            let check =
                move || checked.iter().try_for_each(|address| check_address("lookupd-http-address", address));
            let checked =
                tokio::task::spawn_blocking(check).await.map_err(|_| ApiError::new(500, "INTERNAL_ERROR"))?;
            if checked.is_err() || addresses.is_empty() || !state.upstream.has_lookupds() {
                return Err(invalid());
            }
            state.set_lookupds(addresses).map_err(|_| invalid())?;
        }
        _ => return Err(ApiError::new(400, "INVALID_OPTION")),
    }
    answer(&state, &option)
}

fn permit(state: &State, peer: &Remote) -> Result<(), ApiError> {
    let Some(network) = &state.settings.config_network else { return Ok(()) };
    let address = peer.ip().ok_or_else(|| ApiError::new(400, "INVALID_REMOTE_ADDR"))?;
    if network.contains(address) { Ok(()) } else { Err(ApiError::new(403, "FORBIDDEN")) }
}

fn answer(state: &State, option: &str) -> ApiResult {
    let value = match option {
        "log_level" => json!(state.logger.level() as u8),
        "nsqlookupd_http_addresses" => json!(*state.upstream.lookupds()),
        option => {
            let value = state.settings.shown.get(option).cloned();
            value.ok_or_else(|| ApiError::new(400, "INVALID_OPTION"))?
        }
    };
    match value {
        Value::String(text) => Ok(plain(text)),
        other => ok(&other),
    }
}

/// Bare text, as NSQ answers strings.
fn plain(text: String) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (
            http::header::HeaderName::from_static("x-nsq-content-type"),
            HeaderValue::from_static("nsq; version=1.0"),
        ),
    ];
    (headers, text).into_response()
}
