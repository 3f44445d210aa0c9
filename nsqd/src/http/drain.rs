//! `/config/drain`.

use std::time::Duration;

use nsq_daemon::go_duration;
use nsq_daemon::http::{HttpError, Query, Request, Response, response};

use super::HttpContext;
use super::dead_letters::bad_request;
use crate::drain::receiver::Target;
use crate::engine::draining::DrainRequest;

/// `GET /config/drain`: the state of the drain.
pub async fn get(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    request.body.discard().await?;
    Ok(response::value(request.encoding, &context.drainer.status()))
}

/// `PUT /config/drain[?timeout=DURATION][&to=ADDRESS]`: begins a drain, or replaces the one that is under way. nsqd does not stop.
pub async fn begin(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let wanted = {
        let query = request.query_without_body().await?;
        drain_request(&query, context.config.drain_timeout)?
    };
    if context.drainer.status().stops {
        return Err(conflict("STOPPING: nsqd stops when it is drained; send it SIGTERM to stop it at once"));
    }
    context.drainer.begin(wanted);
    Ok(response::value(encoding, &context.drainer.status()))
}

/// `DELETE /config/drain`: accepts publishes again. Without a drain, changes nothing.
pub async fn end(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    request.body.discard().await?;
    if context.drainer.status().stops {
        return Err(conflict("STOPPING: a drain that SIGTERM began cannot be ended"));
    }
    context.drainer.end();
    Ok(response::value(request.encoding, &context.drainer.status()))
}

fn conflict(text: &'static str) -> HttpError {
    HttpError::new(nsq_daemon::http::StatusCode::CONFLICT, text)
}

/// With a target, the time limit is `--drain-timeout` unless another one is given: at its end, messages move.
fn drain_request(query: &Query<'_>, default_timeout: Duration) -> Result<DrainRequest, HttpError> {
    let timeout = match query.get("timeout") {
        None => None,
        Some(text) => Some(go_duration::parse(&text).map_err(|_| {
            HttpError::bad_request("INVALID_ARG_TIMEOUT: must be a duration, such as 90s or 5m")
        })?),
    };
    let move_to = match query.get("to") {
        None => None,
        Some(text) => match Target::parse(&text) {
            Ok(_) => Some(text.into_owned()),
            Err(error) => return Err(bad_request(format!("INVALID_ARG_TO: to={text}: {error}"))),
        },
    };
    let timeout = timeout.or_else(|| move_to.is_some().then_some(default_timeout));
    let timeout = timeout.filter(|timeout| !timeout.is_zero());
    if move_to.is_some() && timeout.is_none() {
        let reason = "INVALID_ARG_TIMEOUT: to needs a timeout greater than 0, such as timeout=5m: messages move when it is over";
        return Err(bad_request(reason.to_owned()));
    }
    Ok(DrainRequest { timeout, stops: false, move_to })
}
