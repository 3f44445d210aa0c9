//! `/pub` and `/mpub`.
//!
//! Messages without headers are appended directly from the request's buffer, without a copy. The answer is sent once
//! they are as durable as `--durability` demands.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nsq_daemon::http::{BodyError, Encoding, HttpError, Query, Request, Response, response};
use nsq_protocol::headers::{Form, HeadersBuf};
use nsq_protocol::{BatchError, BatchPart, MessageBatch, TopicName};

use super::publish_headers::Messages;
use super::{HttpContext, publish_headers, refused, topic_parameter};
use crate::clock;
use crate::topic::{PublishError, PublishedMessage, Topic};

pub(super) const MSG_TOO_BIG: HttpError = HttpError::too_large("MSG_TOO_BIG");
const MSG_EMPTY: HttpError = HttpError::bad_request("MSG_EMPTY");
const INVALID_TOPIC: HttpError = HttpError::bad_request("INVALID_TOPIC");
const INVALID_DEFER: HttpError = HttpError::bad_request("INVALID_DEFER");
const INVALID_RETURN: HttpError = HttpError::bad_request("INVALID_RETURN");
pub(super) const BODY_TOO_BIG: HttpError = HttpError::too_large("BODY_TOO_BIG");
const BAD_BODY: HttpError = HttpError::too_large("BAD_BODY");
const BAD_MESSAGE: HttpError = HttpError::too_large("BAD_MESSAGE");

/// `POST /pub?topic=[&defer=<ms>][&ttl=][&key=][&id=][&return=id]`: the body is the message. `publish_headers` adds
/// headers. With `return=id`, the answer is JSON with the message's id.
pub async fn one(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let body = read(request, context.config.max_msg_size, MSG_TOO_BIG).await?;
    if body.is_empty() {
        return Err(MSG_EMPTY);
    }
    let query = request.query()?;
    let headers = publish_headers::of_request(&request.headers, &query, Messages::One)?;
    let returns_id = returns_id(&query)?;
    let topic = topic(context, &query).await?;
    // The topic stays even if the delay is wrong, as in NSQ.
    let delay = match query.get("defer") {
        Some(text) => delay(&text, context.config.max_req_timeout)?,
        None => None,
    };
    let published = match headers {
        None => publish(context, &topic, Form::Plain, std::iter::once(&body[..]), body.len(), delay).await?,
        Some(headers) => publish_with_headers(context, &topic, &headers, &[&body], delay).await?,
    };
    match published {
        Some(PublishedMessage { id, is_duplicate }) if returns_id => {
            let answer = Published { id: id.to_string(), duplicate: is_duplicate };
            Ok(response::value(Encoding::accepted(&request.headers), &answer))
        }
        _ => Ok(response::text("OK")),
    }
}

/// The answer to `return=id`.
#[derive(serde::Serialize)]
struct Published {
    id: String,
    /// The message was not stored, because the topic has one with the same `nsq-id`.
    duplicate: bool,
}

/// Whether the answer contains the id of the message.
fn returns_id(query: &Query<'_>) -> Result<bool, HttpError> {
    match query.get("return").as_deref() {
        None => Ok(false),
        Some("id") => Ok(true),
        Some(_) => Err(INVALID_RETURN),
    }
}

/// `POST /mpub?topic=[&binary=true][&ttl=][&key=]`: the body holds one message per line, or a batch as in MPUB.
/// All get the same headers.
pub async fn many(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let limits = context.config.limits();
    if request.body.content_length().is_some_and(|length| length > limits.max_body_size as u64) {
        return Err(BODY_TOO_BIG);
    }
    let query = request.query()?;
    let headers = publish_headers::of_request(&request.headers, &query, Messages::Many)?;
    let topic = topic(context, &query).await?;
    let binary = query.get("binary").is_some_and(|value| match &*value {
        "true" | "1" => true,
        "false" | "0" => false,
        other => {
            nsq_daemon::warn!(context.logger, "HTTP: deprecated value {other:?} for binary taken as true");
            true
        }
    });
    if binary {
        let body = read(request, limits.max_batch_bytes(), BODY_TOO_BIG).await?;
        let (batch, _) = MessageBatch::parse_binary(&body, &limits).map_err(refuse_batch)?;
        match headers {
            None => publish(context, &topic, Form::Plain, batch.iter(), batch.body_bytes(), None).await?,
            Some(headers) => {
                let bodies: Vec<&[u8]> = batch.iter().collect();
                publish_with_headers(context, &topic, &headers, &bodies, None).await?
            }
        };
        return Ok(response::text("OK"));
    }
    let body = read(request, limits.max_body_size, BODY_TOO_BIG).await?;
    let (messages, body_bytes) = lines(&body, limits.max_msg_size)?;
    if messages.is_empty() {
        return Ok(response::text("OK"));
    }
    match headers {
        None => publish(context, &topic, Form::Plain, messages.into_iter(), body_bytes, None).await?,
        Some(headers) => publish_with_headers(context, &topic, &headers, &messages, None).await?,
    };
    Ok(response::text("OK"))
}

async fn read(request: &mut Request, limit: usize, too_big: HttpError) -> Result<Bytes, HttpError> {
    request.body.read_limited(limit).await.map_err(|error| match error {
        BodyError::TooBig => too_big,
        BodyError::Busy => HttpError::BUSY,
        BodyError::Unreadable(_) => HttpError::INTERNAL_ERROR,
    })
}

/// Finds the named topic, or creates it.
async fn topic(context: &HttpContext, query: &Query<'_>) -> Result<Arc<Topic>, HttpError> {
    let name = topic_parameter(query)?;
    // Every topic in the registry has a valid name.
    if let Some(topic) = context.registry.get(&name) {
        return Ok(topic);
    }
    let name = TopicName::new(&*name).map_err(|_| INVALID_TOPIC)?;
    context.registry.get_or_create(&name).await.map_err(|error| refused(&error))
}

async fn publish_with_headers(
    context: &HttpContext,
    topic: &Topic,
    headers: &HeadersBuf,
    bodies: &[&[u8]],
    delay: Option<Duration>,
) -> Result<Option<PublishedMessage>, HttpError> {
    let messages = publish_headers::with_headers(headers, bodies, &context.config.limits())?;
    let bytes = messages.iter().map(Vec::len).sum();
    publish(context, topic, Form::WithHeaders, messages.iter().map(Vec::as_slice), bytes, delay).await
}

/// Publishes messages. Returns what is known of the first.
async fn publish<'a>(
    context: &HttpContext,
    topic: &Topic,
    form: Form,
    bodies: impl ExactSizeIterator<Item = &'a [u8]>,
    body_bytes: usize,
    delay: Option<Duration>,
) -> Result<Option<PublishedMessage>, HttpError> {
    let began = clock::monotonic();
    context.registry.engine().wait_for_room().await;
    let publication = topic.append_as(form, bodies, body_bytes, delay).map_err(|error| {
        if matches!(error, PublishError::Full(_)) {
            context.registry.engine().metrics().publishes_over_bound.add(1);
        }
        refused(&error)
    })?;
    let first = publication.message(0);
    publication.committed().await.map_err(|error| refused(&error))?;
    let took = clock::monotonic().saturating_sub(began);
    context.registry.engine().metrics().http_publishes.record_ns(took);
    Ok(first)
}

/// Parses milliseconds from 0 to `max`; 0 means no delay.
fn delay(text: &str, max: Duration) -> Result<Option<Duration>, HttpError> {
    let milliseconds: i64 = text.parse().map_err(|_| INVALID_DEFER)?;
    let delay = Duration::from_millis(u64::try_from(milliseconds).map_err(|_| INVALID_DEFER)?);
    if delay > max {
        return Err(INVALID_DEFER);
    }
    Ok((!delay.is_zero()).then_some(delay))
}

/// Returns one message per line, and their total bytes. Skips empty lines.
fn lines(body: &[u8], max_msg_size: usize) -> Result<(Vec<&[u8]>, usize), HttpError> {
    let mut messages = Vec::new();
    let mut body_bytes = 0;
    let mut rest = body;
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        if line.len() > max_msg_size {
            return Err(MSG_TOO_BIG);
        }
        if !line.is_empty() {
            body_bytes += line.len();
            messages.push(line);
        }
    }
    Ok((messages, body_bytes))
}

fn refuse_batch(error: BatchError) -> HttpError {
    match error {
        BatchError::InvalidCount(_) | BatchError::Incomplete { part: BatchPart::Count, .. } => BAD_BODY,
        BatchError::BatchTooBig { .. } => BODY_TOO_BIG,
        _ => BAD_MESSAGE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nsq_protocol::Limits;

    #[test]
    fn delays_are_milliseconds_up_to_the_limit() {
        let max = Duration::from_secs(3600);
        assert_eq!(delay("0", max), Ok(None));
        assert_eq!(delay("+250", max), Ok(Some(Duration::from_millis(250))));
        assert_eq!(delay("3600000", max), Ok(Some(max)));
        for bad in ["", "-1", "3600001", "1s", "1.5", "9223372036854775807", "9223372036854775808"] {
            assert_eq!(delay(bad, max), Err(INVALID_DEFER), "{bad}");
        }
    }

    #[test]
    fn each_line_is_a_message_and_empty_lines_are_skipped() {
        let split = |body: &'static [u8]| lines(body, 4);
        assert_eq!(split(b""), Ok((vec![], 0)));
        assert_eq!(split(b"\n\n"), Ok((vec![], 0)));
        assert_eq!(split(b"a\r\n\nbcde\nf"), Ok((vec![&b"a\r"[..], b"bcde", b"f"], 7)));
        assert_eq!(split(b"abcd\n"), Ok((vec![&b"abcd"[..]], 4)));
        assert_eq!(split(b"a\nabcde"), Err(MSG_TOO_BIG));
    }

    #[test]
    fn invalid_batches_get_nsqs_errors() {
        let limits = Limits { max_msg_size: 4, max_body_size: 24, ..Limits::default() };
        let refuse = |body: &[u8]| refuse_batch(MessageBatch::parse_binary(body, &limits).unwrap_err()).word;
        assert_eq!(refuse(b""), "BAD_BODY");
        assert_eq!(refuse(b"\0\0\0\0"), "BAD_BODY");
        assert_eq!(refuse(b"\xff\xff\xff\xff"), "BAD_BODY");
        assert_eq!(refuse(b"\0\0\0\x05"), "BAD_BODY", "more messages than fit into the limit");
        assert_eq!(refuse(b"\0\0\0\x01"), "BAD_MESSAGE");
        assert_eq!(refuse(b"\0\0\0\x01\0\0\0\0"), "BAD_MESSAGE");
        assert_eq!(refuse(b"\0\0\0\x01\0\0\0\x05abcde"), "BAD_MESSAGE");
        assert_eq!(refuse(b"\0\0\0\x01\0\0\0\x02a"), "BAD_MESSAGE");
    }
}
