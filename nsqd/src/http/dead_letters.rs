//! `/topic/dead`, `/topic/dead/messages`, `/topic/dead/delete` and `/topic/redrive`.
//!
//! A call examines a limited number of dead letters, for a limited time. A redrive runs in the background.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nsq_daemon::http::{HttpError, Query, Request, Response, StatusCode, response};
use nsq_protocol::{
    ChannelName, DeadDeleteResponse, DeadLettersResponse, DeadMessage, DeadMessagesResponse, PeekedMessage,
    RedriveDestination, RedrivePlanResponse, RedriveResponse, TopicName,
};

use super::admin::{INVALID_TOPIC, find_topic};
use super::{HttpContext, not_stored, topic_parameter};
use crate::peek::shown;
use crate::policy::setting::{Setting, Value};
use crate::topic::dead_lettering::MoveError;
use crate::topic::dead_summary::DeadSummary;
use crate::topic::redrive::{
    DeadLetters, Destination, Planned, Redrive, RedriveError, RedriveOptions, RedriveState, Selection,
};

/// A call stops to examine dead letters after this time.
const MAX_TIME: Duration = Duration::from_secs(5);
/// Maximum number of messages read at once.
const BATCH: usize = 1000;
/// How long `DELETE /topic/redrive` waits for the batch that is being moved.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

const SUMMARY_LIMITS: RangeInclusive<u64> = 1..=1_000_000;
const DEFAULT_SUMMARY_LIMIT: u64 = 10_000;
const PAGE_LIMITS: RangeInclusive<u64> = 1..=1000;
const DEFAULT_PAGE_LIMIT: u64 = 20;
/// Maximum number of dead letters that are examined for a page.
const MAX_EXAMINED: u64 = 100_000;
/// A page is full once its messages have this size.
const MAX_PAGE_BYTES: usize = 4 << 20;
const RATES: RangeInclusive<u64> = 0..=1_000_000;

const REDRIVE_NOT_FOUND: HttpError = HttpError::not_found("REDRIVE_NOT_FOUND");
const SELECTION: [&str; 5] = ["topic", "filter", "id", "max", "dry_run"];
const REDRIVE: [&str; 7] = ["topic", "filter", "id", "max", "dry_run", "rate", "to"];

/// `GET /topic/dead?topic=[&limit=]`: counts by cause.
pub async fn summary(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let query = request.query_without_body().await?;
    let topic = topic_name(&query)?;
    let limit = number(&query, "limit", &SUMMARY_LIMITS)?.unwrap_or(DEFAULT_SUMMARY_LIMIT);
    let mut letters = letters(context, &topic, 0)?;
    let total = letters
        .channel()
        .inspect(|state, _| state.depth() + state.in_flight_count() as u64 + state.deferred_count() as u64);
    let mut summary = DeadSummary::default();
    let stop_at = Instant::now() + MAX_TIME;
    while summary.count() < limit && Instant::now() < stop_at {
        let most = usize::try_from(limit - summary.count()).map_or(BATCH, |left| left.min(BATCH));
        let Some(batch) = letters.next(most).await.map_err(|error| not_moved(context, &error))? else {
            break;
        };
        batch.iter().for_each(|(_, frame)| summary.add(frame));
    }
    let own = find_topic(context, topic.as_str())?.own_settings();
    let (oldest_at, newest_at) = summary.period();
    let answer = DeadLettersResponse {
        topic_name: topic.to_string(),
        dead_letters_of: own.get(Setting::DeadLettersOf).map(Value::text).map(str::to_owned),
        total,
        examined: summary.count(),
        more: letters.next_sequence().is_some(),
        oldest_at: oldest_at.map(str::to_owned),
        newest_at: newest_at.map(str::to_owned),
        other_count: summary.other_count(),
        groups: summary.into_groups(),
    };
    Ok(response::value(encoding, &answer))
}

/// `GET /topic/dead/messages?topic=[&limit=][&from=][&filter=][&id=]`
pub async fn messages(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let query = request.query_without_body().await?;
    let topic = topic_name(&query)?;
    let limit = number(&query, "limit", &PAGE_LIMITS)?.unwrap_or(DEFAULT_PAGE_LIMIT);
    let from = number(&query, "from", &(0..=u64::MAX))?.unwrap_or(0);
    let selection = selection(&query)?;
    let mut letters = letters(context, &topic, from)?;
    let is_all = selection.filter.is_none() && selection.id.is_none();
    // Reading more than what is shown is in vain.
    let most = if is_all { limit.min(BATCH as u64) as usize } else { BATCH };
    let (mut page, mut next) = (Page::new(limit), letters.next_sequence());
    let mut examined = 0;
    let stop_at = Instant::now() + MAX_TIME;
    while !page.is_full() && examined < MAX_EXAMINED && Instant::now() < stop_at {
        let Some(batch) = letters.next(most).await.map_err(|error| not_moved(context, &error))? else {
            break;
        };
        next = letters.next_sequence();
        for (sequence, frame) in batch {
            if page.is_full() {
                next = Some(sequence);
                break;
            }
            examined += 1;
            if selection.matches(&frame) {
                page.add(sequence, &frame);
            }
        }
    }
    let answer = DeadMessagesResponse { topic_name: topic.to_string(), messages: page.messages, next };
    Ok(response::value(encoding, &answer))
}

/// `POST /topic/dead/delete?topic=[&filter=][&id=][&max=][&dry_run=]`
pub async fn delete(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let query = request.query_without_body().await?;
    only(&query, &SELECTION)?;
    let topic = topic_name(&query)?;
    let (selection, dry_run) = (selection(&query)?, dry_run(&query)?);
    let deleted = context.registry.delete_dead_letters(&topic, &selection, dry_run).await;
    let deleted = deleted.map_err(|error| refused(context, &topic, error))?;
    Ok(response::value(encoding, &DeadDeleteResponse { topic_name: topic.to_string(), dry_run, deleted }))
}

/// `POST /topic/redrive?topic=[&filter=][&id=][&rate=][&max=][&to=TOPIC[/CHANNEL]][&dry_run=]`
pub async fn start_redrive(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let query = request.query_without_body().await?;
    only(&query, &REDRIVE)?;
    let topic = topic_name(&query)?;
    let (selection, dry_run) = (selection(&query)?, dry_run(&query)?);
    let rate = number(&query, "rate", &RATES)?.unwrap_or(0);
    let destination = match query.get("to") {
        Some(to) => destination(context, &topic, &to)?,
        None => Destination::Origin,
    };
    let options = RedriveOptions { selection, destination, rate };
    if dry_run {
        let plan = context.registry.plan_redrive(&topic, &options).await;
        let plan = plan.map_err(|error| refused(context, &topic, error))?;
        return Ok(response::value(encoding, &plan_answer(&topic, plan)));
    }
    let started = context.registry.start_redrive(&topic, options);
    let redrive = started.map_err(|error| refused(context, &topic, error))?;
    Ok(response::value(encoding, &redrive_answer(&topic, &redrive)))
}

/// `GET /topic/redrive?topic=`: the redrive that was started last.
pub async fn redrive(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let query = request.query_without_body().await?;
    let topic = topic_name(&query)?;
    Ok(response::value(encoding, &redrive_answer(&topic, &*last_redrive(context, &topic)?)))
}

/// `DELETE /topic/redrive?topic=`: stops it after the batch that is being moved.
pub async fn stop_redrive(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let query = request.query_without_body().await?;
    let topic = topic_name(&query)?;
    let redrive = last_redrive(context, &topic)?;
    redrive.stop();
    // If it takes longer, the answer says that it is running.
    let _ = tokio::time::timeout(STOP_TIMEOUT, redrive.ended()).await;
    Ok(response::value(encoding, &redrive_answer(&topic, &redrive)))
}

fn last_redrive(context: &HttpContext, topic: &TopicName) -> Result<Arc<Redrive>, HttpError> {
    find_topic(context, topic.as_str())?;
    context.registry.redrive_of(topic.as_str()).ok_or(REDRIVE_NOT_FOUND)
}

/// A page of dead letters.
struct Page {
    messages: Vec<DeadMessage>,
    limit: u64,
    bytes: usize,
}

impl Page {
    fn new(limit: u64) -> Self {
        Page { messages: Vec::new(), limit, bytes: 0 }
    }

    fn is_full(&self) -> bool {
        self.messages.len() as u64 >= self.limit || self.bytes >= MAX_PAGE_BYTES
    }

    fn add(&mut self, sequence: u64, frame: &[u8]) {
        let PeekedMessage { id, timestamp, headers, body, body_base64, .. } = shown::message(sequence, frame);
        self.bytes += frame.len();
        self.messages.push(DeadMessage { id, sequence, timestamp, headers, body, body_base64 });
    }
}

fn redrive_answer(topic: &TopicName, redrive: &Redrive) -> RedriveResponse {
    let RedriveOptions { selection, destination, rate } = &redrive.options;
    let (state, error) = match redrive.state() {
        RedriveState::Running => ("running", None),
        RedriveState::Completed => ("completed", None),
        RedriveState::Stopped => ("stopped", None),
        RedriveState::Failed(reason) => ("failed", Some(reason)),
    };
    RedriveResponse {
        topic_name: topic.to_string(),
        state: state.to_owned(),
        error,
        started_at: redrive.started_at,
        total: redrive.total,
        examined: redrive.examined.load(Ordering::Relaxed),
        moved: redrive.moved.load(Ordering::Relaxed),
        without_channel: redrive.without_channel.load(Ordering::Relaxed),
        filter: selection.filter.as_ref().map(ToString::to_string),
        id: selection.id.map(|id| format!("{id:016x}")),
        max: selection.max,
        rate: Some(*rate).filter(|rate| *rate > 0),
        to: match destination {
            Destination::Origin => None,
            Destination::Topic(topic, None) => Some(topic.to_string()),
            Destination::Topic(topic, Some(channel)) => Some(format!("{topic}/{channel}")),
        },
    }
}

fn plan_answer(topic: &TopicName, plan: Vec<Planned>) -> RedrivePlanResponse {
    let sum = |exists: bool| {
        plan.iter().filter(|planned| planned.exists == exists).map(|planned| planned.count).sum()
    };
    let (moved, without_channel) = (sum(true), sum(false));
    let destination = |Planned { target, exists, count }| {
        let (topic_name, channel_name) = target.unwrap_or_default();
        RedriveDestination { topic_name, channel_name, exists, count }
    };
    RedrivePlanResponse {
        topic_name: topic.to_string(),
        dry_run: true,
        moved,
        without_channel,
        destinations: plan.into_iter().map(destination).collect(),
    }
}

// Parameters

fn topic_name(query: &Query<'_>) -> Result<TopicName, HttpError> {
    TopicName::new(&*topic_parameter(query)?).map_err(|_| INVALID_TOPIC)
}

/// Refuses unknown parameters: a misspelled `filter` would select everything.
pub(super) fn only(query: &Query<'_>, known: &[&str]) -> Result<(), HttpError> {
    match query.iter().find(|(key, _)| !known.contains(&key.as_ref())) {
        None => Ok(()),
        Some((key, _)) => {
            Err(bad_request(format!("UNKNOWN_ARG: {key:?}; parameters are {}", known.join(", "))))
        }
    }
}

fn selection(query: &Query<'_>) -> Result<Selection, HttpError> {
    let filter = query.get("filter").map(|text| {
        text.parse().map_err(|error| {
            bad_request(format!(
                "INVALID_ARG_FILTER: filter={text}: {error}; expected conditions separated by commas, such as \
                 filter=nsq-dead-channel=billing"
            ))
        })
    });
    let max = number(query, "max", &(1..=u64::MAX))?;
    Ok(Selection { filter: filter.transpose()?, id: super::messages::id(query)?, max })
}

/// A number; `None` if the parameter is missing.
pub(super) fn number(
    query: &Query<'_>,
    key: &str,
    range: &RangeInclusive<u64>,
) -> Result<Option<u64>, HttpError> {
    let Some(text) = query.get(key) else { return Ok(None) };
    match text.parse().ok().filter(|number| range.contains(number)) {
        Some(number) => Ok(Some(number)),
        None => {
            let word = format!("INVALID_ARG_{}", key.to_uppercase());
            let (least, most) = (range.start(), range.end());
            let expected = match *most {
                u64::MAX => format!("a number from {least}"),
                most => format!("a number from {least} to {most}"),
            };
            Err(bad_request(format!("{word}: {key}={text}: expected {expected}")))
        }
    }
}

pub(super) fn dry_run(query: &Query<'_>) -> Result<bool, HttpError> {
    match query.get("dry_run").as_deref() {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1") => Ok(true),
        Some(text) => {
            Err(bad_request(format!("INVALID_ARG_DRY_RUN: dry_run={text}: expected true or false")))
        }
    }
}

/// The topic or channel of `to`, which must exist.
fn destination(context: &HttpContext, source: &TopicName, to: &str) -> Result<Destination, HttpError> {
    let invalid = |reason: &str| bad_request(format!("INVALID_ARG_TO: to={to}: {reason}"));
    let (topic, channel) = match to.split_once('/') {
        None => (to, None),
        Some((topic, channel)) => (topic, Some(channel)),
    };
    let expected = "expected TOPIC or TOPIC/CHANNEL";
    let name = TopicName::new(topic).map_err(|_| invalid(expected))?;
    let channel = channel.map(ChannelName::new).transpose().map_err(|_| invalid(expected))?;
    if name == *source {
        return Err(invalid("the messages are in this topic already"));
    }
    let topic = context.registry.get(topic).ok_or_else(|| invalid("no such topic; create it first"))?;
    if channel.as_ref().is_some_and(|channel| topic.channel(channel.as_str()).is_none()) {
        return Err(invalid("the topic has no such channel; create it first"));
    }
    Ok(Destination::Topic(name, channel))
}

fn letters(context: &HttpContext, topic: &TopicName, from: u64) -> Result<DeadLetters, HttpError> {
    DeadLetters::of(&context.registry, topic.as_str(), from).map_err(|error| refused(context, topic, error))
}

pub(super) fn bad_request(word: String) -> HttpError {
    HttpError { word: Cow::Owned(word), ..HttpError::bad_request("") }
}

fn refused(context: &HttpContext, topic: &TopicName, error: RedriveError) -> HttpError {
    match error {
        RedriveError::NoTopic => HttpError::not_found("TOPIC_NOT_FOUND"),
        RedriveError::NoDeadLetters => no_dead_letters(context, topic),
        RedriveError::Running => HttpError {
            word: Cow::Owned(format!("REDRIVE_RUNNING: {error}")),
            ..HttpError::new(StatusCode::CONFLICT, "")
        },
        RedriveError::Move(error) => not_moved(context, &error),
    }
}

/// Names the topics that have the dead letters of this one.
fn no_dead_letters(context: &HttpContext, topic: &TopicName) -> HttpError {
    let is_of = |value: &Value| value.text() == topic.as_str();
    let others: Vec<String> = (context.registry.all().iter())
        .filter(|other| other.own_settings().get(Setting::DeadLettersOf).is_some_and(is_of))
        .map(|other| other.name().to_string())
        .collect();
    let hint = match others.as_slice() {
        [] => String::new(),
        others => format!("; the dead letters of {topic} are in {}", others.join(", ")),
    };
    let word = format!("NO_DEAD_LETTERS: {}{hint}", RedriveError::NoDeadLetters);
    HttpError { word: Cow::Owned(word), ..HttpError::not_found("") }
}

fn not_moved(context: &HttpContext, error: &MoveError) -> HttpError {
    match error {
        MoveError::Publish(error) => not_stored(context, error.clone()),
        MoveError::Read => {
            nsq_daemon::error!(context.logger, "HTTP: dead letters: {error}");
            HttpError::INTERNAL_ERROR
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal<T: std::fmt::Debug>(
        raw: &str,
        parse: impl FnOnce(&Query<'_>) -> Result<T, HttpError>,
    ) -> String {
        parse(&Query::parse(raw).unwrap()).unwrap_err().word.into_owned()
    }

    #[test]
    fn refusals_name_key_value_and_what_is_expected() {
        assert_eq!(
            refusal("limit=0", |query| number(query, "limit", &PAGE_LIMITS)),
            "INVALID_ARG_LIMIT: limit=0: expected a number from 1 to 1000"
        );
        assert_eq!(refusal("max=-1", selection), "INVALID_ARG_MAX: max=-1: expected a number from 1");
        assert!(refusal("id=12", selection).starts_with("INVALID_ARG_ID: id=12: expected 16 hexadecimal"));
        assert!(
            refusal("filter=red", selection).starts_with(
                "INVALID_ARG_FILTER: filter=red: \"red\" is not NAME=GLOB or NAME!=GLOB; expected"
            )
        );
        assert_eq!(
            refusal("dry_run=yes", dry_run),
            "INVALID_ARG_DRY_RUN: dry_run=yes: expected true or false"
        );
        assert_eq!(
            refusal("topic=t&fliter=a=b", |query| only(query, &SELECTION)),
            "UNKNOWN_ARG: \"fliter\"; parameters are topic, filter, id, max, dry_run"
        );
    }

    #[test]
    fn a_selection_has_what_was_given() {
        let query = Query::parse("filter=nsq-dead-channel=b*&id=000000000000002a&max=7").unwrap();
        let Selection { filter, id, max } = selection(&query).unwrap();
        assert_eq!(filter.unwrap().to_string(), "nsq-dead-channel=b*");
        assert_eq!((id, max), (Some(42), Some(7)));
    }
}
