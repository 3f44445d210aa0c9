//! Pure: the headers of messages that are published over HTTP.
//!
//! | of the request | header of its messages |
//! |---|---|
//! | header `X-NSQ-<name>` | `<name>` in lower case |
//! | headers `traceparent`, `tracestate` | the same |
//! | parameters `ttl`, `key`, `id` | `nsq-ttl`, `nsq-key`, `nsq-id` |
//! | header `Idempotency-Key`, with or without quotes | `nsq-id` |
//!
//! An id names one message, so a request with several messages has none.

use std::borrow::Cow;

use nsq_daemon::http::{HeaderMap, HttpError, Query};
use nsq_protocol::Limits;
use nsq_protocol::headers::{self, HeadersBuf, put_published};

use super::publish::{BODY_TOO_BIG, MSG_TOO_BIG};

const PREFIX: &str = "x-nsq-";
const TRACE_PARENT: &str = "traceparent";
const TRACE_STATE: &str = "tracestate";
/// Parameters, and the headers that they become.
const PARAMETERS: [(&str, &str); 3] = [("ttl", "nsq-ttl"), ("key", headers::KEY), ("id", headers::ID)];

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// How many messages a request publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Messages {
    One,
    Many,
}

/// The headers for the messages of a request; `None` if it has none.
pub(super) fn of_request(
    headers: &HeaderMap,
    query: &Query<'_>,
    messages: Messages,
) -> Result<Option<HeadersBuf>, HttpError> {
    let mut pairs: Vec<(&str, Cow<'_, str>)> = Vec::new();
    for (name, value) in headers {
        let name = name.as_str();
        let key = match name.strip_prefix(PREFIX) {
            Some(key) => key,
            None if name == TRACE_PARENT || name == TRACE_STATE => name,
            None => continue,
        };
        let value = std::str::from_utf8(value.as_bytes())
            .map_err(|_| invalid(format_args!("header {key:?} is not UTF-8")))?;
        match pairs.iter_mut().find(|(other, _)| *other == key) {
            // Tracers may split this header, as HTTP permits for lists.
            Some((_, list)) if name == TRACE_STATE => *list = format!("{list},{value}").into(),
            _ => pairs.push((key, value.into())),
        }
    }
    for (parameter, key) in PARAMETERS {
        pairs.extend(query.get(parameter).map(|value| (key, value)));
    }
    add_idempotency_key(&mut pairs, headers)?;
    if messages == Messages::Many && pairs.iter().any(|(key, _)| *key == headers::ID) {
        return Err(invalid(
            "several messages cannot have one nsq-id; publish each with /pub, or all with MPUB_EXT",
        ));
    }
    if pairs.is_empty() {
        return Ok(None);
    }
    let pairs = pairs.iter().map(|(key, value)| (*key, &**value));
    HeadersBuf::of_producer(pairs).map(Some).map_err(invalid)
}

/// Adds the id in the header `Idempotency-Key`, unless the request gives the same id in another way.
fn add_idempotency_key<'a>(
    pairs: &mut Vec<(&'a str, Cow<'a, str>)>,
    headers: &'a HeaderMap,
) -> Result<(), HttpError> {
    for value in headers.get_all(IDEMPOTENCY_KEY) {
        let value = std::str::from_utf8(value.as_bytes())
            .map_err(|_| invalid("header \"idempotency-key\" is not UTF-8"))?;
        let id = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        match pairs.iter().find(|(key, _)| *key == headers::ID) {
            None => pairs.push((headers::ID, id.into())),
            Some((_, other)) if *other == id => {}
            Some(_) => return Err(invalid("Idempotency-Key and another id of the request differ")),
        }
    }
    Ok(())
}

/// The messages in the form in which a producer sends them, each with these headers. Headers count in all limits.
pub(super) fn with_headers(
    headers: &HeadersBuf,
    bodies: &[&[u8]],
    limits: &Limits,
) -> Result<Vec<Vec<u8>>, HttpError> {
    let mut messages = Vec::with_capacity(bodies.len());
    let mut total_bytes = 0;
    for body in bodies {
        let mut message = Vec::new();
        put_published(&mut message, headers.as_headers(), body);
        if message.len() > limits.max_msg_size {
            return Err(MSG_TOO_BIG);
        }
        // Without this limit, many small messages with large headers would need any amount of memory.
        total_bytes += message.len();
        if total_bytes > limits.max_batch_bytes() {
            return Err(BODY_TOO_BIG);
        }
        messages.push(message);
    }
    Ok(messages)
}

fn invalid(reason: impl std::fmt::Display) -> HttpError {
    HttpError { word: Cow::Owned(format!("INVALID_HEADER: {reason}")), ..HttpError::bad_request("") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&str, &[u8])], query: &str) -> Result<Option<String>, String> {
        read_for(Messages::One, headers, query)
    }

    fn read_for(
        messages: Messages,
        headers: &[(&str, &[u8])],
        query: &str,
    ) -> Result<Option<String>, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            map.append(name, http::HeaderValue::from_bytes(value).unwrap());
        }
        let read = of_request(&map, &Query::parse(query).unwrap(), messages);
        let text = |headers: HeadersBuf| String::from_utf8(headers.as_headers().as_bytes().to_vec()).unwrap();
        read.map(|headers| headers.map(text)).map_err(|error| error.word.into_owned())
    }

    #[test]
    fn headers_come_from_named_headers_and_parameters() {
        assert_eq!(read(&[("host", b"x"), ("x-nsqd", b"x")], "topic=t&defer=1"), Ok(None));
        let traced: &[(&str, &[u8])] = &[
            ("X-NSQ-Tenant", b"a b"),
            ("traceparent", b"00-1"),
            ("tracestate", b"a=1"),
            ("tracestate", b"b=2"),
        ];
        let expected = r#"{"tenant":"a b","traceparent":"00-1","tracestate":"a=1,b=2"}"#;
        assert_eq!(read(traced, "topic=t"), Ok(Some(expected.to_owned())));
        let expected = r#"{"nsq-ttl":"5s","nsq-key":"a/b","nsq-id":"7"}"#;
        assert_eq!(read(&[], "id=7&key=a%2Fb&ttl=5s"), Ok(Some(expected.to_owned())));
    }

    #[test]
    fn invalid_headers_are_refused_with_the_reason() {
        let twice = Err("INVALID_HEADER: header \"a\" is given twice".to_owned());
        assert_eq!(read(&[("x-nsq-a", b"1"), ("x-nsq-a", b"2")], ""), twice);
        let twice = Err("INVALID_HEADER: header \"nsq-key\" is given twice".to_owned());
        assert_eq!(read(&[("x-nsq-nsq-key", b"1")], "key=2"), twice);
        let unreadable = Err("INVALID_HEADER: header \"a\" is not UTF-8".to_owned());
        assert_eq!(read(&[("x-nsq-a", b"\xff")], ""), unreadable);
        for name in ["x-nsq-", "x-nsq-a!", "x-nsq-nsq-dead-reason"] {
            assert!(read(&[(name, b"1")], "").unwrap_err().starts_with("INVALID_HEADER: header "), "{name}");
        }
    }

    #[test]
    fn an_idempotency_key_is_the_id_of_one_message() {
        let id = |id: &str| Ok(Some(format!(r#"{{"nsq-id":"{id}"}}"#)));
        assert_eq!(read(&[("Idempotency-Key", b"a-1")], ""), id("a-1"));
        assert_eq!(read(&[("Idempotency-Key", b"\"a-1\"")], "id=a-1"), id("a-1"));
        assert_eq!(read(&[("Idempotency-Key", b"a"), ("x-nsq-nsq-id", b"a")], ""), id("a"));
        let differ = Err("INVALID_HEADER: Idempotency-Key and another id of the request differ".to_owned());
        assert_eq!(read(&[("Idempotency-Key", b"a-1")], "id=a-2"), differ);
        assert_eq!(read(&[("Idempotency-Key", b"a"), ("idempotency-key", b"b")], ""), differ);
        for (length, refused) in [(0, true), (1, false), (128, false), (129, true)] {
            assert_eq!(read(&[("Idempotency-Key", &vec![b'x'; length])], "").is_err(), refused, "{length}");
            assert_eq!(read(&[], &format!("id={}", "x".repeat(length))).is_err(), refused, "{length}");
        }
        for (headers, query) in [(&[][..], "id=a"), (&[("Idempotency-Key", &b"a"[..])], "")] {
            let refused = read_for(Messages::Many, headers, query).unwrap_err();
            assert!(
                refused.starts_with("INVALID_HEADER: several messages cannot have one nsq-id"),
                "{refused}"
            );
        }
    }

    #[test]
    fn headers_count_in_the_limits() {
        let limits = Limits { max_msg_size: 20, max_body_size: 60, ..Limits::default() };
        let headers = HeadersBuf::of_producer([("a", "b")]).unwrap();
        let messages = |bodies: &[&[u8]]| with_headers(&headers, bodies, &limits).map_err(|error| error.word);
        assert_eq!(messages(&[b"x"]), Ok(vec![b"\0\x09{\"a\":\"b\"}x".to_vec()]));
        assert_eq!(messages(&[&[b'x'; 9]]).map(|messages| messages[0].len()), Ok(20));
        assert_eq!(messages(&[&[b'x'; 10]]), Err("MSG_TOO_BIG".into()));
        assert_eq!(messages(&[&b"x"[..]; 6]).map(|messages| messages.len()), Ok(6));
        assert_eq!(messages(&[&b"x"[..]; 7]), Err("BODY_TOO_BIG".into()));
    }
}
