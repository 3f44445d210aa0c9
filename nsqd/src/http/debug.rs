//! `/debug/*` except the profiler's pages: two settings of Go's runtime.

use nsq_daemon::http::{BodyError, HttpError, Query, Request, Response, StatusCode, response};

use super::HttpContext;

/// Enough for a form with one number.
const MAX_FORM_BYTES: usize = 4096;

/// `PUT /debug/setblockrate?rate=`, or the rate in a form. nsqd has no block profile, so a valid rate has no effect.
pub async fn set_block_rate(request: &mut Request) -> Result<Response, HttpError> {
    let form = request.body.read_limited(MAX_FORM_BYTES).await.map_err(|error| match error {
        BodyError::TooBig => HttpError::too_large("BODY_TOO_BIG"),
        BodyError::Busy => HttpError::BUSY,
        BodyError::Unreadable(_) => HttpError::INVALID_REQUEST,
    })?;
    let form = std::str::from_utf8(&form).unwrap_or_default();
    let in_form = Query::parse(form).ok().and_then(|form| form.get("rate"));
    let rate = match in_form {
        Some(rate) => rate,
        None => request.query()?.get("rate").unwrap_or_default(),
    };
    match rate.parse::<i64>() {
        Ok(_) => Ok(response::plain(StatusCode::OK, "OK")),
        Err(error) => {
            Ok(response::plain(StatusCode::BAD_REQUEST, format!("invalid block rate : {rate:?}: {error}")))
        }
    }
}

/// `POST /debug/freememory`: topics free their reserve memory.
pub async fn free_memory(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    request.body.discard().await?;
    for topic in context.registry.all() {
        topic.log().shrink();
    }
    Ok(response::plain(StatusCode::OK, "OK"))
}
