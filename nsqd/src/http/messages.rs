//! `/message/cancel` and `/message/requeue`: change one message that is not in flight.
//!
//! A change is in the journal before nsqd answers. Without `channel`, a cancel concerns all channels: if the message is in
//! flight in one of them, nothing changes.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use nsq_daemon::http::{HttpError, Query, Request, Response, StatusCode, response};
use nsq_protocol::message_id::MessageId;
use nsq_protocol::{ChangedMessage, ChannelName, MessageResponse, TopicName, start_at};

use super::admin::{CHANNEL_NOT_FOUND, find_topic, persisted};
use super::dead_letters::{bad_request, dry_run, only};
use super::{HttpContext, required, topic_parameter};
use crate::channel::Channel;
use crate::channel::intervening::Refused;
use crate::channel::peeking::Standing;
use crate::clock;
use crate::peek::shown;
use crate::topic::Topic;

const CANCEL: [&str; 4] = ["topic", "channel", "id", "dry_run"];
const REQUEUE: [&str; 5] = ["topic", "channel", "id", "delay", "dry_run"];

/// `POST /message/cancel?topic=&id=[&channel=][&dry_run=]`
pub async fn cancel(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let query = request.query_without_body().await?;
    only(&query, &CANCEL)?;
    let (topic, id) = topic_and_id(context, &query)?;
    let channels = match channel(&topic, &query)? {
        Some(channel) => vec![channel],
        None => topic.channels(),
    };
    let dry_run = dry_run(&query)?;
    let sequence = sequence(context, &topic, id).await?;
    // Nothing changes if it is in flight somewhere.
    let there = outcomes(&channels, |channel| channel.cancel(sequence, true));
    refuse(&topic, id, &there, &[])?;
    let cancelled = match dry_run {
        true => there,
        false => outcomes(&channels, |channel| channel.cancel(sequence, false)),
    };
    let changed: Vec<ChangedMessage> = (cancelled.iter())
        .filter_map(|(channel, outcome)| Some(changed(channel, outcome.as_ref().ok()?, "cancelled", None)))
        .collect();
    if !dry_run && !changed.is_empty() {
        persisted(context).await?;
    }
    // Otherwise a consumer took it, or finished it, in between.
    refuse(&topic, id, &cancelled, &changed)?;
    Ok(response::value(encoding, &answer(&topic, id, dry_run, changed)))
}

/// `POST /message/requeue?topic=&channel=&id=&delay=[&dry_run=]`
pub async fn requeue(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let query = request.query_without_body().await?;
    only(&query, &REQUEUE)?;
    let (topic, id) = topic_and_id(context, &query)?;
    let channel = channel(&topic, &query)?.ok_or(HttpError::bad_request("MISSING_ARG_CHANNEL"))?;
    let delay = delay(&query, context.config.max_req_timeout)?;
    let dry_run = dry_run(&query)?;
    let sequence = sequence(context, &topic, id).await?;
    let due = delay.map(|delay| clock::wall_ns().saturating_add_unsigned(clock::nanos(delay)));
    let nanos = delay.map_or(0, clock::nanos);
    let outcome = [(channel.clone(), channel.reschedule(sequence, nanos, dry_run))];
    refuse(&topic, id, &outcome, &[])?;
    let state = if due.is_some() { "deferred" } else { "waiting" };
    let changed = (outcome.iter())
        .filter_map(|(channel, outcome)| Some(changed(channel, outcome.as_ref().ok()?, state, due)))
        .collect();
    if !dry_run {
        persisted(context).await?;
    }
    Ok(response::value(encoding, &answer(&topic, id, dry_run, changed)))
}

type Outcome = (Arc<Channel>, Result<Standing, Refused>);

fn outcomes(
    channels: &[Arc<Channel>],
    change: impl Fn(&Channel) -> Result<Standing, Refused>,
) -> Vec<Outcome> {
    channels.iter().map(|channel| (channel.clone(), change(channel))).collect()
}

fn changed(channel: &Channel, was: &Standing, state: &str, due_at: Option<i64>) -> ChangedMessage {
    ChangedMessage {
        channel_name: channel.name().to_string(),
        was: shown::state(was).to_owned(),
        state: state.to_owned(),
        due_at,
    }
}

fn answer(topic: &Topic, id: u64, dry_run: bool, channels: Vec<ChangedMessage>) -> MessageResponse {
    MessageResponse { topic_name: topic.name().to_string(), id: format!("{id:016x}"), dry_run, channels }
}

/// The error if a channel refused, or if none has the message.
fn refuse(topic: &Topic, id: u64, outcomes: &[Outcome], done: &[ChangedMessage]) -> Result<(), HttpError> {
    let topic_name = topic.name();
    for (channel, outcome) in outcomes {
        let channel_name = channel.name();
        let reason = match outcome {
            Ok(_) | Err(Refused::Unknown) => continue,
            Err(Refused::InFlight { consumer, until }) => format!(
                "MESSAGE_IN_FLIGHT: message {id:016x} is in flight in {topic_name}/{channel_name} to {consumer} until {}; \
                 wait until it is finished or times out",
                start_at::rfc3339(*until)
            ),
            Err(Refused::Leaving) => format!(
                "MESSAGE_LEAVING: message {id:016x} of {topic_name}/{channel_name} is about to become a dead letter or to \
                 move; see nsq dead"
            ),
            Err(Refused::NoRoom) => format!(
                "NO_ROOM: {topic_name}/{channel_name} is ephemeral and has no room for message {id:016x} there"
            ),
        };
        let done: Vec<&str> = done.iter().map(|changed| changed.channel_name.as_str()).collect();
        let reason = match done.is_empty() {
            true => reason,
            false => format!("{reason}; it was cancelled in {}", done.join(", ")),
        };
        return Err(HttpError { word: Cow::Owned(reason), ..HttpError::new(StatusCode::CONFLICT, "") });
    }
    if outcomes.iter().any(|(_, outcome)| outcome.is_ok()) || !done.is_empty() {
        return Ok(());
    }
    let sequence = topic.log().sequence_of_id(id);
    if sequence.is_some_and(|sequence| (topic.released_to()..topic.committed()).contains(&sequence)) {
        let reason = format!(
            "MESSAGE_HELD: topic {topic_name} is paused or has no channel, so message {id:016x} is in no channel yet"
        );
        return Err(HttpError { word: Cow::Owned(reason), ..HttpError::new(StatusCode::CONFLICT, "") });
    }
    let reason = format!(
        "MESSAGE_NOT_FOUND: no unfinished message {id:016x} in {}; it is finished, or of another topic or node",
        match outcomes {
            [(channel, _)] => format!("{topic_name}/{}", channel.name()),
            _ => format!("any channel of {topic_name}"),
        }
    );
    Err(HttpError { word: Cow::Owned(reason), ..HttpError::not_found("") })
}

/// The sequence number of a message. Reads from disk if the id was given by a node with another number.
pub(super) async fn sequence(context: &HttpContext, topic: &Arc<Topic>, id: u64) -> Result<u64, HttpError> {
    let known = topic.log().sequence_of_id(id);
    let found = match known {
        Some(sequence) => Some(sequence),
        None => {
            let topic = topic.clone();
            context.heavy.run(move || topic.log().find_id(id)).await?
        }
    };
    found.ok_or_else(|| {
        let reason = format!("MESSAGE_NOT_FOUND: message {id:016x} was not published on this node");
        HttpError { word: Cow::Owned(reason), ..HttpError::not_found("") }
    })
}

// Parameters

/// The `id` parameter.
pub(super) fn id(query: &Query<'_>) -> Result<Option<u64>, HttpError> {
    let Some(text) = query.get("id") else { return Ok(None) };
    match MessageId::from_slice(text.as_bytes()).and_then(MessageId::to_u64) {
        Some(id) => Ok(Some(id)),
        None => Err(bad_request(format!(
            "INVALID_ARG_ID: id={text}: expected 16 hexadecimal digits in lower case, such as id=0a1b2c3d4e5f6071"
        ))),
    }
}

fn topic_and_id(context: &HttpContext, query: &Query<'_>) -> Result<(Arc<Topic>, u64), HttpError> {
    let topic = TopicName::new(&*topic_parameter(query)?).map_err(|_| super::admin::INVALID_TOPIC)?;
    required(query, "id", "MISSING_ARG_ID")?;
    let id = id(query)?.ok_or(HttpError::bad_request("MISSING_ARG_ID"))?;
    Ok((find_topic(context, topic.as_str())?, id))
}

fn channel(topic: &Topic, query: &Query<'_>) -> Result<Option<Arc<Channel>>, HttpError> {
    let Some(name) = query.get("channel") else { return Ok(None) };
    let name = ChannelName::new(&*name).map_err(|_| HttpError::bad_request("INVALID_ARG_CHANNEL"))?;
    topic.channel(name.as_str()).map(Some).ok_or(CHANNEL_NOT_FOUND)
}

/// The `delay`: milliseconds as in REQ, or a duration. `None` for 0.
fn delay(query: &Query<'_>, longest: Duration) -> Result<Option<Duration>, HttpError> {
    let text = required(query, "delay", "MISSING_ARG_DELAY")?;
    let parsed = match text.parse::<u64>() {
        Ok(milliseconds) => Some(Duration::from_millis(milliseconds)),
        Err(_) => nsq_daemon::go_duration::parse_with_days(&text).ok(),
    };
    match parsed {
        Some(delay) if delay <= longest => Ok(Some(delay).filter(|delay| !delay.is_zero())),
        _ => Err(bad_request(format!(
            "INVALID_ARG_DELAY: delay={text}: expected 0, milliseconds or a duration up to {} (--max-req-timeout), such \
             as delay=10m",
            nsq_daemon::go_duration::format(longest)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_in_milliseconds_or_a_duration() {
        let hour = Duration::from_secs(3600);
        let parsed = |raw: &str| {
            let parsed = delay(&Query::parse(raw).unwrap(), hour);
            parsed.map_err(|error| error.word.into_owned())
        };
        assert_eq!(parsed("delay=0"), Ok(None));
        assert_eq!(parsed("delay=1500"), Ok(Some(Duration::from_millis(1500))));
        assert_eq!(parsed("delay=10m"), Ok(Some(Duration::from_secs(600))));
        assert_eq!(parsed("delay=1h"), Ok(Some(hour)));
        assert_eq!(parsed(""), Err("MISSING_ARG_DELAY".to_owned()));
        for raw in ["delay=", "delay=-1", "delay=61m", "delay=soon"] {
            let refused = parsed(raw).unwrap_err();
            assert!(
                refused.starts_with("INVALID_ARG_DELAY: delay=") && refused.contains("up to 1h"),
                "{refused}"
            );
        }
    }
}
