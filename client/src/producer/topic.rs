//! A handle for publishing to one topic.

use std::time::Duration;

use bytes::Bytes;

use super::publication::TopicText;
use super::{NewMessage, Producer, PublishFuture, Receipt, TypedTopic};
use crate::codec::EncodeBody;
use crate::error::{BatchError, PublishError};

/// Publishes to one topic: from [`Producer::topic`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Topic {
    producer: Producer,
    name: TopicText,
}

impl Topic {
    pub(super) fn new(producer: Producer, name: TopicText) -> Self {
        Topic { producer, name }
    }

    /// The name of the topic.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Returns a handle for publishing values of one type, such as [`Json<Order>`](crate::Json).
    ///
    /// ```no_run
    /// # async fn example(producer: nsq::Producer) -> Result<(), nsq::PublishError> {
    /// let orders = producer.topic("orders")?.of::<nsq::Json<(&str, u32)>>();
    /// orders.publish(&nsq::Json(("apple", 3))).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn of<B: EncodeBody>(&self) -> TypedTopic<B> {
        TypedTopic::new(self.clone())
    }

    /// As [`Producer::publish`].
    pub async fn publish(&self, message: impl Into<NewMessage>) -> Result<Receipt, PublishError> {
        self.producer.publish_now(self.producer.publication(self.name, message.into())?).await
    }

    /// As [`Producer::publish_deferred`].
    pub async fn publish_deferred(
        &self,
        delay: Duration,
        body: impl Into<Bytes>,
    ) -> Result<Receipt, PublishError> {
        self.publish(NewMessage::new(body).delay(delay)).await
    }

    /// As [`Producer::publish_many`].
    pub async fn publish_many<B: Into<Bytes>>(
        &self,
        bodies: impl IntoIterator<Item = B>,
    ) -> Result<(), BatchError> {
        self.producer.publish_many(self.name(), bodies).await
    }

    /// As [`Producer::publish_each`].
    pub async fn publish_each<M: Into<NewMessage>>(
        &self,
        messages: impl IntoIterator<Item = M>,
    ) -> Vec<Result<Receipt, PublishError>> {
        self.producer.publish_each(self.name(), messages).await
    }

    /// As [`Producer::send`].
    pub fn send(&self, message: impl Into<NewMessage>) -> Result<PublishFuture, PublishError> {
        self.producer.send_to(self.name, message.into())
    }

    /// As [`Producer::enqueue`].
    pub async fn enqueue(&self, message: impl Into<NewMessage>) -> Result<PublishFuture, PublishError> {
        self.producer
            .wait_and_queue(self.producer.publication(self.name, message.into())?.batchable(true))
            .await
    }
}
