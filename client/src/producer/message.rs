//! A message to publish.

use std::time::Duration;

use bytes::Bytes;
use nsq_protocol::headers;

use super::choice::stable_hash;
use crate::codec::{EncodeBody, Json};
use crate::error::PublishError;
#[cfg(feature = "otel")]
use crate::trace_context;

/// A message to publish: its body, and optionally headers, a delay, an id and a key.
///
/// Everything that converts to [`Bytes`] is a message with that body, so a text or a vector can be published directly.
///
/// ```
/// use std::time::Duration;
/// let plain: nsq::NewMessage = "one body".into();
/// let message = nsq::NewMessage::new("body").header("trace", "1").delay(Duration::from_secs(60)).key("customer 7");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a message is sent by `Producer::publish` and its siblings"]
pub struct NewMessage {
    pub(super) body: Bytes,
    pub(crate) headers: Vec<(String, String)>,
    pub(super) delay: Option<Duration>,
    pub(super) key: Option<u64>,
}

impl NewMessage {
    /// A message with this body.
    pub fn new(body: impl Into<Bytes>) -> Self {
        NewMessage { body: body.into(), headers: Vec::new(), delay: None, key: None }
    }

    /// A message whose body is this value as JSON.
    pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self, PublishError> {
        NewMessage::encode(&Json(value))
    }

    /// A message whose body holds this value: see [`EncodeBody`].
    pub fn encode(value: &impl EncodeBody) -> Result<Self, PublishError> {
        let body = value.encode_body().map_err(|error| PublishError::Encode { reason: error.to_string() })?;
        Ok(NewMessage::new(body))
    }

    /// Adds a header: see [`Producer::publish_with_headers`](super::Producer::publish_with_headers).
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        if name == headers::KEY {
            self.key.get_or_insert(stable_hash(value.as_bytes()));
        }
        self.headers.push((name, value));
        self
    }

    /// Sets the id by which the topic recognises duplicates: see
    /// [`Producer::publish_with_id`](super::Producer::publish_with_id).
    pub fn id(self, id: impl Into<String>) -> Self {
        self.header(headers::ID, id)
    }

    /// Adds the current trace context, unless the message has one.
    #[cfg(feature = "otel")]
    pub(crate) fn traced(mut self) -> Self {
        let has_own = self.headers.iter().any(|(name, _)| name == trace_context::PARENT);
        if let (false, Some((parent, state))) = (has_own, trace_context::headers()) {
            self.headers.push((trace_context::PARENT.to_owned(), parent));
            self.headers.extend(state.map(|state| (trace_context::STATE.to_owned(), state)));
        }
        self
    }

    /// Makes nsqd deliver the message after `delay`, which is rounded up to whole milliseconds.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Sets the key that chooses the nsqd with [`Strategy::PartitionByKey`](super::Strategy::PartitionByKey). It is not
    /// sent. A header `nsq-key`, by which channels order messages, also chooses the nsqd, if no key is set.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(stable_hash(key.as_ref()));
        self
    }
}

impl<B: Into<Bytes>> From<B> for NewMessage {
    fn from(body: B) -> Self {
        NewMessage::new(body)
    }
}
