//! The content of one publish, and its wire form.

use std::time::Duration;

use bytes::Bytes;
use nsq_protocol::{Command, is_valid_name, put_mpub};

use super::slot::Failure;
use crate::error::PublishError;
use crate::handshake::ServerInfo;

/// One PUB, DPUB or MPUB.
#[derive(Debug)]
pub(super) struct Publication {
    topic: Box<str>,
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
        Ok(Publication { topic: check_topic(topic)?, content: Content::Single(check_body(body)?) })
    }

    pub(super) fn deferred(topic: &str, delay: Duration, body: Bytes) -> Result<Self, PublishError> {
        // Round up, so that the delay is never too short.
        let delay_ms = u64::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        Ok(Publication {
            topic: check_topic(topic)?,
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
        let publications = batches
            .into_iter()
            .map(|batch| (batch.len(), Publication { topic: topic.clone(), content: Content::Batch(batch) }));
        Ok(publications.collect())
    }

    pub(super) fn body_bytes(&self) -> usize {
        match &self.content {
            Content::Single(body) | Content::Deferred(_, body) => body.len(),
            Content::Batch(bodies) => bodies.iter().map(Bytes::len).sum(),
        }
    }

    /// Fails if nsqd would refuse the publish and close the connection, which all publishes share.
    pub(super) fn check_size(&self, limits: &SizeLimits) -> Result<(), Failure> {
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
        match &self.content {
            Content::Single(body) => Command::Pub { topic, body }.encode(out),
            Content::Deferred(delay_ms, body) => {
                Command::Dpub { topic, delay_ms: *delay_ms, body }.encode(out)
            }
            Content::Batch(bodies) => put_mpub(out, topic, bodies),
        }
    }
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
                assert!(batch.check_size(&LIMITS).is_ok());
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
        assert!(matches!(single.check_size(&LIMITS), Err(Failure::TooBig { size: 11, max: 10 })));
    }

    #[test]
    fn delays_are_rounded_up() {
        let mut out = Vec::new();
        Publication::deferred("t", Duration::from_micros(1500), "b".into()).unwrap().encode(&mut out);
        assert_eq!(out, b"DPUB t 2\n\0\0\0\x01b");
    }
}
