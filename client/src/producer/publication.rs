//! The content of one publish, and its wire form.

use std::time::Duration;

use bytes::Bytes;
use nsq_protocol::headers::{Form, HeadersBuf, put_published};
use nsq_protocol::{Command, is_valid_name, put_mpub, put_mpub_ext};

use super::slot::Failure;
use crate::error::PublishError;
use crate::handshake::ServerInfo;

/// One PUB, DPUB or MPUB, or one of their forms with headers.
#[derive(Debug)]
pub(super) struct Publication {
    topic: Box<str>,
    form: Form,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Single(Bytes),
    Deferred(u64, Bytes),
    Batch(Vec<Bytes>),
}

impl Publication {
    pub(super) fn single(topic: &str, body: Bytes) -> Result<Self, PublishError> {
        Ok(Publication {
            topic: check_topic(topic)?,
            form: Form::Plain,
            content: Content::Single(check_body(body)?),
        })
    }

    pub(super) fn deferred(topic: &str, delay: Duration, body: Bytes) -> Result<Self, PublishError> {
        // Round up, so that the delay is never too short.
        let delay_ms = u64::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        Ok(Publication {
            topic: check_topic(topic)?,
            form: Form::Plain,
            content: Content::Deferred(delay_ms, check_body(body)?),
        })
    }

    /// Splits messages into as few batches as the limits allow, in order. Returns each with its number of messages.
    pub(super) fn batches(
        topic: &str,
        bodies: Vec<Bytes>,
        limits: &SizeLimits,
    ) -> Result<Vec<(usize, Self)>, PublishError> {
        let topic = check_topic(topic)?;
        if bodies.is_empty() {
            return Err(PublishError::Empty);
        }
        // Check all messages before any is sent, so that an invalid one does not fail after others are published.
        for body in &bodies {
            if body.is_empty() {
                return Err(PublishError::Empty);
            }
            if body.len() > limits.max_msg_size {
                return Err(PublishError::TooBig { size: body.len(), max: limits.max_msg_size });
            }
        }
        let mut batches = Vec::new();
        let mut batch = Vec::new();
        let mut batch_bytes = BATCH_COUNT_BYTES;
        for body in bodies {
            let body_bytes = BATCH_SIZE_BYTES + body.len();
            if batch_bytes + body_bytes > limits.max_body_size && !batch.is_empty() {
                batches.push(std::mem::take(&mut batch));
                batch_bytes = BATCH_COUNT_BYTES;
            }
            batch_bytes += body_bytes;
            batch.push(body);
        }
        batches.push(batch);
        let publication =
            |batch| Publication { topic: topic.clone(), form: Form::Plain, content: Content::Batch(batch) };
        Ok(batches.into_iter().map(|batch| (batch.len(), publication(batch))).collect())
    }

    /// Sets the form of all its messages; those with headers come from [`with_headers`].
    pub(super) fn in_form(self, form: Form) -> Self {
        Publication { form, ..self }
    }

    pub(super) fn body_bytes(&self) -> usize {
        match &self.content {
            Content::Single(body) | Content::Deferred(_, body) => body.len(),
            Content::Batch(bodies) => bodies.iter().map(Bytes::len).sum(),
        }
    }

    /// Fails if nsqd would refuse the publish and close the connection, which all publishes share.
    pub(super) fn check(&self, limits: &SizeLimits, accepts_headers: bool) -> Result<(), Failure> {
        if self.form == Form::WithHeaders && !accepts_headers {
            return Err(Failure::HeadersUnsupported);
        }
        let (size, max) = match &self.content {
            Content::Single(body) | Content::Deferred(_, body) => (body.len(), limits.max_msg_size),
            Content::Batch(bodies) => {
                let largest = bodies.iter().map(Bytes::len).max().unwrap_or(0);
                if largest > limits.max_msg_size {
                    (largest, limits.max_msg_size)
                } else {
                    let framing = BATCH_COUNT_BYTES + BATCH_SIZE_BYTES * bodies.len();
                    (framing + self.body_bytes(), limits.max_body_size)
                }
            }
        };
        if size > max { Err(Failure::TooBig { size, max }) } else { Ok(()) }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let topic = &*self.topic;
        match (&self.content, self.form) {
            (Content::Single(body), Form::Plain) => Command::Pub { topic, body }.encode(out),
            (Content::Single(message), Form::WithHeaders) => Command::PubExt { topic, message }.encode(out),
            (&Content::Deferred(delay_ms, ref body), Form::Plain) => {
                Command::Dpub { topic, delay_ms, body }.encode(out)
            }
            (&Content::Deferred(delay_ms, ref message), Form::WithHeaders) => {
                Command::DpubExt { topic, delay_ms, message }.encode(out)
            }
            (Content::Batch(bodies), Form::Plain) => put_mpub(out, topic, bodies),
            (Content::Batch(messages), Form::WithHeaders) => put_mpub_ext(out, topic, messages),
        }
    }
}

/// The message in the form in which it is sent with headers.
pub(super) fn with_headers<K: AsRef<str>, V: AsRef<str>>(
    headers: impl IntoIterator<Item = (K, V)>,
    body: &[u8],
) -> Result<Bytes, PublishError> {
    if body.is_empty() {
        return Err(PublishError::Empty);
    }
    let pairs: Vec<(K, V)> = headers.into_iter().collect();
    let headers = HeadersBuf::of_producer(pairs.iter().map(|(key, value)| (key.as_ref(), value.as_ref())))
        .map_err(|error| PublishError::InvalidHeaders { reason: error.to_string() })?;
    let mut message = Vec::new();
    put_published(&mut message, headers.as_headers(), body);
    Ok(message.into())
}

/// The bytes before a batch (its number of messages), and before each message (its size).
const BATCH_COUNT_BYTES: usize = 4;
const BATCH_SIZE_BYTES: usize = 4;

/// The size limits of an nsqd, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct SizeLimits {
    pub(super) max_msg_size: usize,
    pub(super) max_body_size: usize,
}

impl SizeLimits {
    /// Returns the limits that the server reports, else those that the application sets, else NSQ's defaults.
    pub(super) fn of(server: &ServerInfo, configured_max_msg_size: u32) -> Self {
        if server.sizes_known || configured_max_msg_size == 0 {
            return SizeLimits { max_msg_size: server.max_msg_size, max_body_size: server.max_body_size };
        }
        let max_msg_size = configured_max_msg_size as usize;
        let smallest_batch = max_msg_size + BATCH_COUNT_BYTES + BATCH_SIZE_BYTES;
        SizeLimits { max_msg_size, max_body_size: server.max_body_size.max(smallest_batch) }
    }
}

fn check_topic(topic: &str) -> Result<Box<str>, PublishError> {
    match is_valid_name(topic.as_bytes()) {
        true => Ok(topic.into()),
        false => Err(PublishError::InvalidTopic { topic: topic.to_owned() }),
    }
}

fn check_body(body: Bytes) -> Result<Bytes, PublishError> {
    if body.is_empty() { Err(PublishError::Empty) } else { Ok(body) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SizeLimits = SizeLimits { max_msg_size: 10, max_body_size: 30 };

    fn bodies(sizes: &[usize]) -> Vec<Bytes> {
        sizes.iter().map(|size| Bytes::from(vec![b'x'; *size])).collect()
    }

    #[test]
    fn batches_are_split_at_the_limit_and_keep_their_order() {
        let split = |sizes: &[usize]| -> Vec<usize> {
            let batches = Publication::batches("t", bodies(sizes), &LIMITS).unwrap();
            for (_, batch) in &batches {
                assert!(batch.check(&LIMITS, false).is_ok());
            }
            batches.iter().map(|(count, _)| *count).collect()
        };
        assert_eq!(split(&[1]), [1]);
        assert_eq!(split(&[9, 9]), [2], "exactly full");
        assert_eq!(split(&[9, 10]), [1, 1]);
        assert_eq!(split(&[1; 12]), [5, 5, 2]);
    }

    #[test]
    fn invalid_publishes_are_rejected_before_sending() {
        assert!(matches!(Publication::single("a b", "x".into()), Err(PublishError::InvalidTopic { .. })));
        assert!(matches!(Publication::single("t", Bytes::new()), Err(PublishError::Empty)));
        assert!(matches!(Publication::batches("t", vec![], &LIMITS), Err(PublishError::Empty)));
        assert!(matches!(Publication::batches("t", bodies(&[1, 0]), &LIMITS), Err(PublishError::Empty)));
        let too_big = Publication::batches("t", bodies(&[1, 11]), &LIMITS);
        assert!(matches!(too_big, Err(PublishError::TooBig { size: 11, max: 10 })));
        let single = Publication::single("t", bodies(&[11]).remove(0)).unwrap();
        assert!(matches!(single.check(&LIMITS, true), Err(Failure::TooBig { size: 11, max: 10 })));
    }

    #[test]
    fn headers_need_an_nsqd_that_accepts_them() {
        let message = with_headers([("a", "b")], b"body").unwrap();
        let publication = Publication::single("t", message.clone()).unwrap().in_form(Form::WithHeaders);
        assert!(matches!(publication.check(&LIMITS, false), Err(Failure::HeadersUnsupported)));
        assert!(matches!(publication.check(&LIMITS, true), Err(Failure::TooBig { size: 15, max: 10 })));
        let mut out = Vec::new();
        publication.encode(&mut out);
        assert_eq!(out, b"PUB_EXT t\n\0\0\0\x0f\0\x09{\"a\":\"b\"}body");
        out.clear();
        let delay = Duration::from_millis(7);
        Publication::deferred("t", delay, message.clone())
            .unwrap()
            .in_form(Form::WithHeaders)
            .encode(&mut out);
        assert!(out.starts_with(b"DPUB_EXT t 7\n\0\0\0\x0f\0\x09"));
        out.clear();
        let limits = SizeLimits { max_msg_size: 20, ..LIMITS };
        let mut batches = Publication::batches("t", vec![message], &limits).unwrap();
        batches.remove(0).1.in_form(Form::WithHeaders).encode(&mut out);
        assert!(out.starts_with(b"MPUB_EXT t\n\0\0\0\x17\0\0\0\x01\0\0\0\x0f\0\x09"));
    }

    #[test]
    fn invalid_headers_are_rejected_before_sending() {
        let reason = |pairs: &[(&str, &str)]| match with_headers(pairs.iter().copied(), b"x") {
            Err(PublishError::InvalidHeaders { reason }) => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason(&[("a b", "c")]).contains("header name"));
        assert!(reason(&[("nsq-dead-reason", "c")]).contains("reserved"));
        assert!(matches!(with_headers([("a", "b")], b""), Err(PublishError::Empty)));
    }

    #[test]
    fn delays_are_rounded_up() {
        let mut out = Vec::new();
        Publication::deferred("t", Duration::from_micros(1500), "b".into()).unwrap().encode(&mut out);
        assert_eq!(out, b"DPUB t 2\n\0\0\0\x01b");
    }
}
