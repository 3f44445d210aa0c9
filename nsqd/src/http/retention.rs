//! `/topic/retain` and `/channel/seek`.

use nsq_daemon::go_duration;
use nsq_daemon::http::{HttpError, Query, Request, Response, response};
use nsq_protocol::{SeekResponse, StartAt};

use super::admin::{CHANNEL_NOT_FOUND, INVALID_TOPIC, channel_parameters, find_topic, persisted};
use super::{HttpContext, required, topic_parameter, undo};
use crate::clock;
use crate::log::retention::Retention;
use crate::topic::retention::RetentionError;

/// `POST /topic/retain?topic=[&for=DURATION][&bytes=N]`: a missing parameter sets no limit; `for=default` restores the
/// limits that the flags set.
pub async fn retain(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let query = request.query_without_body().await?;
    let name = topic_parameter(&query)?;
    if !nsq_protocol::is_valid_name(name.as_bytes()) {
        return Err(INVALID_TOPIC);
    }
    let limits = limits(&query)?;
    find_topic(context, &name)?.set_retention(limits).map_err(refused)?;
    persisted(context).await
}

/// `None` restores the limits of the flags.
fn limits(query: &Query<'_>) -> Result<Option<Retention>, HttpError> {
    let (age, bytes) = (query.get("for"), query.get("bytes"));
    if age.is_none() && bytes.is_none() {
        return Err(HttpError::bad_request("MISSING_ARG_FOR"));
    }
    if age.as_deref() == Some("default") && bytes.is_none() {
        return Ok(None);
    }
    let age = age.map_or(Ok(std::time::Duration::ZERO), |text| go_duration::parse(&text));
    let bytes = bytes.map_or(Ok(0), |text| text.parse());
    Ok(Some(Retention {
        age: clock::nanos(age.map_err(|_| HttpError::bad_request("INVALID_ARG_FOR"))?),
        bytes: bytes.map_err(|_| HttpError::bad_request("INVALID_ARG_BYTES"))?,
    }))
}

/// `POST /channel/seek?topic=&channel=&to=[&dry_run=true]`: answers with the channel's new position.
pub async fn seek(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let (topic, channel, place, dry_run) = {
        let query = request.query_without_body().await?;
        let (topic, name) = channel_parameters(context, &query)?;
        let place = required(&query, "to", "MISSING_ARG_TO")?;
        let place: StartAt = place.parse().map_err(|_| HttpError::bad_request("INVALID_ARG_TO"))?;
        let channel = topic.channel(name.as_str()).ok_or(CHANNEL_NOT_FOUND)?;
        (topic, channel, place, undo::is_dry_run(&query)?)
    };
    let (placed, depth) = match dry_run {
        true => topic.plan_move(&channel, place).await.map_err(refused)?,
        false => topic.move_channel(&channel, place).await.map_err(refused)?,
    };
    if !dry_run {
        persisted(context).await?;
    }
    let answer = SeekResponse { sequence: placed.sequence, clamped: placed.clamped, depth, dry_run };
    Ok(response::value(encoding, &answer))
}

/// The answer when retention or a position in a topic is refused.
pub(super) fn refused(error: RetentionError) -> HttpError {
    HttpError::bad_request(match error {
        RetentionError::Ephemeral => "EPHEMERAL_TOPIC",
        RetentionError::NothingRetained => "NOTHING_RETAINED",
        RetentionError::UnknownId => "UNKNOWN_MESSAGE_ID",
    })
}
