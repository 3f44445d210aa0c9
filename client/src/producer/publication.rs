//! The content of one publish, and its wire form.

use std::fmt;

use bytes::Bytes;
use nsq_protocol::headers::{Form, HeadersBuf, put_published};
use nsq_protocol::{Command, MAX_NAME_BYTES, is_valid_name, put_mpub, put_mpub_ext};

use super::batching::{BATCH_COUNT_BYTES, BATCH_SIZE_BYTES};
use super::message::NewMessage;
use super::pending::Failure;
use crate::error::PublishError;
use crate::handshake::ServerInfo;

/// A valid topic name, stored in place: a publish must not allocate for it.
#[derive(Clone, Copy)]
pub(super) struct TopicText {
    length: u8,
    bytes: [u8; MAX_NAME_BYTES],
}

impl TopicText {
    pub(super) fn new(topic: &str) -> Result<Self, PublishError> {
        let name = topic.as_bytes();
        if !is_valid_name(name) {
            return Err(PublishError::InvalidTopic { topic: topic.to_owned() });
        }
        let mut bytes = [0; MAX_NAME_BYTES];
        bytes[..name.len()].copy_from_slice(name);
        Ok(TopicText { length: name.len() as u8, bytes })
    }

    pub(super) fn as_str(&self) -> &str {
        // A valid name is ASCII.
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl fmt::Debug for TopicText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// One PUB, DPUB or MPUB, or one of their forms with headers.
#[derive(Debug)]
pub(super) struct Publication {
    topic: TopicText,
    form: Form,
    content: Content,
    /// Hash of the message's key.
    pub(super) key: Option<u64>,
    /// Whether it may share an MPUB with others.
    pub(super) may_batch: bool,
}

#[derive(Debug)]
enum Content {
    Single(Bytes),
    Deferred(u64, Bytes),
    /// With the position of its first message in the caller's list.
    Batch(Vec<Bytes>, usize),
}

impl Publication {
    pub(super) fn new(topic: TopicText, message: NewMessage) -> Result<Self, PublishError> {
        let NewMessage { body, headers, delay, key } = message;
        if body.is_empty() {
            return Err(PublishError::Empty);
        }
        let (form, body) = match headers.is_empty() {
            true => (Form::Plain, body),
            false => (Form::WithHeaders, with_headers(headers, &body)?),
        };
        let content = match delay {
            None => Content::Single(body),
            // Round up, so that the delay is never too short.
            Some(delay) => {
                let delay_ms = u64::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
                Content::Deferred(delay_ms, body)
            }
        };
        Ok(Publication { topic, form, content, key, may_batch: false })
    }

    /// Lets the publish share an MPUB with others, if it is of a kind that can.
    pub(super) fn batchable(self, may_batch: bool) -> Self {
        let may_batch = may_batch && matches!(self.content, Content::Single(_));
        Publication { may_batch, ..self }
    }

    pub(super) fn topic(&self) -> &str {
        self.topic.as_str()
    }

    /// Whether `next` may be in the same MPUB. Both must be batchable.
    pub(super) fn may_join(&self, next: &Publication) -> bool {
        self.form == next.form && self.topic() == next.topic()
    }

    /// Encodes single messages of one topic and form as one MPUB.
    pub(super) fn encode_together<'a>(
        publications: impl ExactSizeIterator<Item = &'a Publication> + Clone,
        out: &mut Vec<u8>,
    ) {
        let Some(first) = publications.clone().next() else { return };
        let bodies: Vec<&[u8]> = publications
            .filter_map(|publication| match &publication.content {
                Content::Single(body) => Some(&body[..]),
                Content::Deferred(..) | Content::Batch(..) => None,
            })
            .collect();
        match first.form {
            Form::Plain => put_mpub(out, first.topic(), &bodies),
            Form::WithHeaders => put_mpub_ext(out, first.topic(), &bodies),
        }
    }

    /// Splits messages into as few batches as the limits allow, in order. Returns each with its number of messages.
    pub(super) fn batches(
        topic: TopicText,
        bodies: Vec<Bytes>,
        form: Form,
        limits: &SizeLimits,
    ) -> Result<Vec<(usize, Self)>, PublishError> {
        if bodies.is_empty() {
            return Err(PublishError::Empty);
        }
        // Check all messages before any is sent, so that an invalid one does not fail after others are published.
        for (index, body) in bodies.iter().enumerate() {
            if body.is_empty() {
                return Err(PublishError::Empty);
            }
            let (size, limit) = (body.len(), limits.max_msg_size);
            if size > limit {
                return Err(PublishError::TooBig { index, topic: topic.as_str().to_owned(), size, limit });
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
        let mut first = 0;
        let publication = |batch: Vec<Bytes>| {
            let count = batch.len();
            let content = Content::Batch(batch, first);
            first += count;
            (count, Publication { topic, form, content, key: None, may_batch: false })
        };
        Ok(batches.into_iter().map(publication).collect())
    }

    pub(super) fn messages(&self) -> usize {
        match &self.content {
            Content::Single(_) | Content::Deferred(..) => 1,
            Content::Batch(bodies, _) => bodies.len(),
        }
    }

    pub(super) fn body_bytes(&self) -> usize {
        match &self.content {
            Content::Single(body) | Content::Deferred(_, body) => body.len(),
            Content::Batch(bodies, _) => bodies.iter().map(Bytes::len).sum(),
        }
    }

    /// Fails if nsqd would refuse the publish and close the connection, which all publishes share.
    pub(super) fn check(&self, limits: &SizeLimits, accepts_headers: bool) -> Result<(), Failure> {
        if self.form == Form::WithHeaders && !accepts_headers {
            return Err(Failure::HeadersUnsupported);
        }
        let (index, size, limit) = match &self.content {
            Content::Single(body) | Content::Deferred(_, body) => (0, body.len(), limits.max_msg_size),
            Content::Batch(bodies, first) => {
                match bodies.iter().position(|body| body.len() > limits.max_msg_size) {
                    Some(at) => (first + at, bodies[at].len(), limits.max_msg_size),
                    None => {
                        let framing = BATCH_COUNT_BYTES + BATCH_SIZE_BYTES * bodies.len();
                        (*first, framing + self.body_bytes(), limits.max_body_size)
                    }
                }
            }
        };
        if size > limit { Err(Failure::TooBig { index, size, limit }) } else { Ok(()) }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let topic = self.topic();
        match (&self.content, self.form) {
            (Content::Single(body), Form::Plain) => Command::Pub { topic, body }.encode(out),
            (Content::Single(message), Form::WithHeaders) => Command::PubExt { topic, message }.encode(out),
            (&Content::Deferred(delay_ms, ref body), Form::Plain) => {
                Command::Dpub { topic, delay_ms, body }.encode(out)
            }
            (&Content::Deferred(delay_ms, ref message), Form::WithHeaders) => {
                Command::DpubExt { topic, delay_ms, message }.encode(out)
            }
            (Content::Batch(bodies, _), Form::Plain) => put_mpub(out, topic, bodies),
            (Content::Batch(messages, _), Form::WithHeaders) => put_mpub_ext(out, topic, messages),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn topic() -> TopicText {
        TopicText::new("t").unwrap()
    }

    fn publication(message: impl Into<NewMessage>) -> Result<Publication, PublishError> {
        Publication::new(topic(), message.into())
    }

    const LIMITS: SizeLimits = SizeLimits { max_msg_size: 10, max_body_size: 30 };

    fn bodies(sizes: &[usize]) -> Vec<Bytes> {
        sizes.iter().map(|size| Bytes::from(vec![b'x'; *size])).collect()
    }

    #[test]
    fn batches_are_split_at_the_limit_and_keep_their_order() {
        let split = |sizes: &[usize]| -> Vec<usize> {
            let batches = Publication::batches(topic(), bodies(sizes), Form::Plain, &LIMITS).unwrap();
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
        assert!(matches!(TopicText::new("a b"), Err(PublishError::InvalidTopic { .. })));
        assert!(matches!(publication(""), Err(PublishError::Empty)));
        assert!(matches!(
            Publication::batches(topic(), vec![], Form::Plain, &LIMITS),
            Err(PublishError::Empty)
        ));
        assert!(matches!(
            Publication::batches(topic(), bodies(&[1, 0]), Form::Plain, &LIMITS),
            Err(PublishError::Empty)
        ));
        let too_big = Publication::batches(topic(), bodies(&[1, 11]), Form::Plain, &LIMITS);
        assert!(matches!(too_big, Err(PublishError::TooBig { index: 1, size: 11, limit: 10, .. })));
        let single = publication(bodies(&[11]).remove(0)).unwrap();
        assert!(matches!(
            single.check(&LIMITS, true),
            Err(Failure::TooBig { index: 0, size: 11, limit: 10 })
        ));
        let batches = Publication::batches(topic(), bodies(&[9, 9, 9, 8]), Form::Plain, &LIMITS).unwrap();
        let smaller = SizeLimits { max_msg_size: 8, ..LIMITS };
        assert!(
            matches!(
                batches[1].1.check(&smaller, true),
                Err(Failure::TooBig { index: 2, size: 9, limit: 8 })
            ),
            "the index is that of the caller's list"
        );
    }

    #[test]
    fn headers_need_an_nsqd_that_accepts_them() {
        let message = || NewMessage::new("body").header("a", "b");
        let single = publication(message()).unwrap();
        assert!(matches!(single.check(&LIMITS, false), Err(Failure::HeadersUnsupported)));
        assert!(matches!(single.check(&LIMITS, true), Err(Failure::TooBig { size: 15, limit: 10, .. })));
        let mut out = Vec::new();
        single.encode(&mut out);
        assert_eq!(out, b"PUB_EXT t\n\0\0\0\x0f\0\x09{\"a\":\"b\"}body");
        out.clear();
        publication(message().delay(Duration::from_millis(7))).unwrap().encode(&mut out);
        assert!(out.starts_with(b"DPUB_EXT t 7\n\0\0\0\x0f\0\x09"));
        out.clear();
        let limits = SizeLimits { max_msg_size: 20, ..LIMITS };
        let encoded = with_headers([("a", "b")], b"body").unwrap();
        let mut batches = Publication::batches(topic(), vec![encoded], Form::WithHeaders, &limits).unwrap();
        batches.remove(0).1.encode(&mut out);
        let expected = b"MPUB_EXT t\n\0\0\0\x17\0\0\0\x01\0\0\0\x0f\0\x09";
        assert!(out.starts_with(expected));
        out.clear();
        Publication::encode_together([&single].into_iter(), &mut out);
        assert!(out.starts_with(expected));
    }

    #[test]
    fn messages_of_one_topic_and_form_share_a_batch() {
        let [one, two] = ["1", "2"].map(|body| publication(body).unwrap().batchable(true));
        assert!(one.may_batch && one.may_join(&two));
        let mut out = Vec::new();
        Publication::encode_together([&one, &two].into_iter(), &mut out);
        assert_eq!(out, b"MPUB t\n\0\0\0\x0e\0\0\0\x02\0\0\0\x011\0\0\0\x012");
        let other = Publication::new(TopicText::new("u").unwrap(), "3".into()).unwrap();
        assert!(!one.may_join(&other));
        assert!(!one.may_join(&publication(NewMessage::new("4").header("a", "b")).unwrap()));
        let deferred = publication(NewMessage::new("5").delay(Duration::ZERO)).unwrap();
        assert!(!deferred.batchable(true).may_batch);
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
        publication(NewMessage::new("b").delay(Duration::from_micros(1500))).unwrap().encode(&mut out);
        assert_eq!(out, b"DPUB t 2\n\0\0\0\x01b");
    }
}
