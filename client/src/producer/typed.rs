//! A handle for publishing values of one type to one topic.

use std::fmt;
use std::marker::PhantomData;

use super::{NewMessage, PublishFuture, Receipt, Topic};
use crate::codec::EncodeBody;
use crate::error::PublishError;

/// Publishes values of one type: from [`Topic::of`]. Cheap to clone.
pub struct TypedTopic<B> {
    topic: Topic,
    values: PhantomData<fn(&B)>,
}

impl<B: EncodeBody> TypedTopic<B> {
    pub(super) fn new(topic: Topic) -> Self {
        TypedTopic { topic, values: PhantomData }
    }

    /// As [`Topic::publish`]. For a header or a delay, publish [`NewMessage::encode`] to [`topic`](TypedTopic::topic).
    pub async fn publish(&self, value: &B) -> Result<Receipt, PublishError> {
        self.topic.publish(NewMessage::encode(value)?).await
    }

    /// As [`Topic::publish_each`].
    pub async fn publish_each<'a>(
        &self,
        values: impl IntoIterator<Item = &'a B>,
    ) -> Result<Vec<Result<Receipt, PublishError>>, PublishError>
    where
        B: 'a,
    {
        let messages: Vec<NewMessage> =
            values.into_iter().map(NewMessage::encode).collect::<Result<_, _>>()?;
        Ok(self.topic.publish_each(messages).await)
    }

    /// As [`Topic::send`].
    pub fn send(&self, value: &B) -> Result<PublishFuture, PublishError> {
        self.topic.send(NewMessage::encode(value)?)
    }

    /// As [`Topic::enqueue`].
    pub async fn enqueue(&self, value: &B) -> Result<PublishFuture, PublishError> {
        self.topic.enqueue(NewMessage::encode(value)?).await
    }

    /// The topic, for messages of any form.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }
}

impl<B> Clone for TypedTopic<B> {
    fn clone(&self) -> Self {
        TypedTopic { topic: self.topic.clone(), values: PhantomData }
    }
}

impl<B> fmt::Debug for TypedTopic<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedTopic").field("topic", &self.topic).finish_non_exhaustive()
    }
}
