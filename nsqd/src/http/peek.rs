//! `/channel/peek` and `/topic/peek`: messages as lines of JSON.
//!
//! The work is done in short steps, so that other large answers get their turns in between.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use nsq_daemon::http::{HttpError, Query, Request, Response, response};
use nsq_protocol::{PeekLine, TopicName};

use super::admin::{CHANNEL_NOT_FOUND, INVALID_TOPIC, channel_parameters, find_topic};
use super::dead_letters::{bad_request, number, only};
use super::{HttpContext, topic_parameter};
use crate::peek::request::{BodyPattern, From, PeekRequest, PeekState};
use crate::peek::{Peek, Place};

const CHANNEL: [&str; 7] = ["topic", "channel", "state", "from", "limit", "match", "header"];
const TOPIC: [&str; 5] = ["topic", "from", "limit", "match", "header"];
const LIMITS: RangeInclusive<u64> = 1..=1000;
const DEFAULT_LIMIT: u64 = 20;
/// Maximum number of `header` conditions.
const MAX_HEADERS: usize = 16;
/// Time of a step.
const STEP: Duration = Duration::from_millis(50);

/// `GET /channel/peek?topic=&channel=[&state=][&from=][&limit=][&match=][&header=]`
pub async fn channel(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let (place, request) = {
        let query = request.query_without_body().await?;
        only(&query, &CHANNEL)?;
        let (topic, name) = channel_parameters(context, &query)?;
        let channel = topic.channel(name.as_str()).ok_or(CHANNEL_NOT_FOUND)?;
        (Place::Channel(channel), peek_request(&query, false)?)
    };
    answer(context, place, request).await
}

/// `GET /topic/peek?topic=[&from=][&limit=][&match=][&header=]`: what the topic has stored.
pub async fn topic(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let (place, request) = {
        let query = request.query_without_body().await?;
        only(&query, &TOPIC)?;
        let name = TopicName::new(&*topic_parameter(&query)?).map_err(|_| INVALID_TOPIC)?;
        (Place::Topic(find_topic(context, name.as_str())?), peek_request(&query, true)?)
    };
    answer(context, place, request).await
}

async fn answer(context: &HttpContext, place: Place, request: PeekRequest) -> Result<Response, HttpError> {
    let mut peek = context.heavy.run(move || Peek::new(place, request)).await?;
    let mut more = true;
    while more {
        let step = move || {
            let until = Instant::now() + STEP;
            loop {
                let more = peek.advance();
                if !more || Instant::now() >= until {
                    return (peek, more);
                }
            }
        };
        (peek, more) = context.heavy.run(step).await?;
    }
    let end = PeekLine::End { end: peek.end() };
    let messages = peek.messages.into_iter().map(|message| PeekLine::Message(Box::new(message)));
    let mut lines = Vec::new();
    for line in messages.chain([end]) {
        serde_json::to_writer(&mut lines, &line).map_err(|_| HttpError::INTERNAL_ERROR)?;
        lines.push(b'\n');
    }
    let mut response = response::text(lines);
    response.headers_mut().insert(response::CONTENT_TYPE, response::JSON_LINES);
    Ok(response)
}

fn peek_request(query: &Query<'_>, is_history: bool) -> Result<PeekRequest, HttpError> {
    let limit = number(query, "limit", &LIMITS)?.unwrap_or(DEFAULT_LIMIT);
    let from = match query.get("from") {
        None => From::Head,
        Some(text) => text.parse().map_err(|()| {
            bad_request(format!(
                "INVALID_ARG_FROM: from={text}: expected head, tail, seq:NUMBER, before:NUMBER or time:TIME (RFC 3339 or \
                 Unix time), such as from=time:2030-01-31T12:00:00Z"
            ))
        })?,
    };
    let state = match query.get("state") {
        None => None,
        Some(text) => Some(text.parse::<PeekState>().map_err(|()| {
            bad_request(format!(
                "INVALID_ARG_STATE: state={text}: expected waiting, in_flight, deferred, dead_letter_pending or finished"
            ))
        })?),
    };
    let matching = match query.get("match") {
        None => None,
        Some(text) => Some(text.parse::<BodyPattern>().map_err(|reason| {
            bad_request(format!(
                "INVALID_ARG_MATCH: match={text}: {reason}; expected a regular expression, such as match=tenant.*acme"
            ))
        })?),
    };
    let mut headers = Vec::new();
    for (_, condition) in query.iter().filter(|(key, _)| key == "header") {
        let (name, value) = match condition.split_once(':') {
            Some((name, value)) => (name, Some(value.trim().to_owned())),
            None => (&*condition, None),
        };
        if name.is_empty() || headers.len() >= MAX_HEADERS {
            return Err(bad_request(format!(
                "INVALID_ARG_HEADER: header={condition}: expected at most {MAX_HEADERS} conditions NAME:VALUE or NAME, such \
                 as header=tenant:acme"
            )));
        }
        headers.push((name.to_owned(), value));
    }
    Ok(PeekRequest { state, from, limit: limit as usize, matching, headers, is_history })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_key_value_and_what_is_expected() {
        let refused =
            |raw: &str| peek_request(&Query::parse(raw).unwrap(), false).unwrap_err().word.into_owned();
        for (raw, expected) in [
            ("limit=0", "INVALID_ARG_LIMIT: limit=0: expected a number from 1 to 1000"),
            ("from=yesterday", "INVALID_ARG_FROM: from=yesterday: expected head, tail, seq:NUMBER, before:"),
            ("state=lost", "INVALID_ARG_STATE: state=lost: expected waiting, in_flight, deferred,"),
            ("match=(", "INVALID_ARG_MATCH: match=(: unclosed group; expected a regular expression"),
            ("header=:x", "INVALID_ARG_HEADER: header=:x: expected at most 16 conditions NAME:VALUE"),
        ] {
            assert!(refused(raw).starts_with(expected), "{}", refused(raw));
        }
    }

    #[test]
    fn conditions_on_headers_are_collected() {
        let request = peek_request(&Query::parse("header=a:b:c&header=d&from=tail").unwrap(), false).unwrap();
        let expected = [("a".to_owned(), Some("b:c".to_owned())), ("d".to_owned(), None)];
        assert_eq!((request.headers.as_slice(), request.limit, request.is_back()), (&expected[..], 20, true));
    }
}
