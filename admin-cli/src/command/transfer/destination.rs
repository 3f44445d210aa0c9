//! Where messages are published, and when: after each other at the given rate.

use std::time::Duration;

use bytes::Bytes;
use nsq::{Producer, PublishError};
use tokio::time::Instant;

use super::TransferFlags;
use crate::command::Context;
use crate::exit_status::Failure;
use crate::sources::{self, Purpose};

/// A producer with the topic, and the pace.
#[derive(Debug)]
pub struct Destination {
    producer: Producer,
    topic: String,
    pause: Duration,
}

impl Destination {
    /// Connects to the same cluster, or to the given nsqds.
    pub async fn open(context: &Context, flags: &TransferFlags) -> Result<Self, Failure> {
        let nsqds = match flags.to_nsqd_tcp.is_empty() {
            true => sources::find(&context.targets, Purpose::Publish).await?.nsqds,
            false => flags.to_nsqd_tcp.clone(),
        };
        let producer = Producer::builder()
            .nsqd(&nsqds)
            .config(context.targets.security.config.clone())
            .publish_timeout(context.targets.timeout)
            .build()?;
        let pause = flags.rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate);
        Ok(Destination { producer, topic: flags.destination.clone(), pause })
    }

    /// Publishes one message, and waits for the acknowledgement.
    pub fn publish(
        &self,
        body: Bytes,
        headers: Vec<(String, String)>,
    ) -> impl Future<Output = Result<(), PublishError>> + Send + use<> {
        let (producer, topic) = (self.producer.clone(), self.topic.clone());
        async move {
            match headers.is_empty() {
                true => producer.publish(topic, body).await.map(drop),
                false => {
                    let pairs = headers.iter().map(|(name, value)| (name, value));
                    producer.publish_with_headers(topic, pairs, body).await.map(drop)
                }
            }
        }
    }

    /// When the message after one at `now` may be published.
    pub fn after(&self, now: Instant) -> Instant {
        now + self.pause
    }

    pub async fn close(self, deadline: Duration) {
        self.producer.close(deadline).await;
    }
}
