//! Publishing: each publish has its own result.
//!
//! ```text
//! publish ──▶ node queue ──many per write──▶ nsqd
//!    ▲            │ pending                   │
//!    └── result ──┴──── answers, in order ◀───┘
//! ```
//!
//! In reading order: `builder`, this file, `topic` and `typed` (public calls), `message` and `publication` (one command),
//! `pending` (a publish under way), `pool` (the nodes, retries, deadlines), `choice` (which node), `node` (queue and
//! connection), `batching` (which publishes share an MPUB), `discovery` (nodes from lookupds).

mod batching;
mod builder;
mod choice;
mod discovery;
mod message;
mod node;
mod pending;
mod pool;
mod publication;
mod topic;
mod typed;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nsq_protocol::MessageId;
use nsq_protocol::headers::{self, Form};
use tokio::sync::TryAcquireError;
use tokio_util::sync::CancellationToken;

use crate::addresses::Addresses;
use crate::error::{BatchError, ConfigError, ConnectError, ConnectStage, Disconnect, PublishError};
use crate::handshake::{ASSUMED_MAX_BODY_SIZE, ASSUMED_MAX_MSG_SIZE, ServerInfo};
use crate::spans::Span;
use crate::time;
pub use builder::{Guarantee, ProducerBuilder, Strategy};
pub(crate) use choice::stable_hash;
pub use message::NewMessage;
use node::Status;
use pending::Pending;
use pool::Pool;
use publication::{Publication, SizeLimits, TopicText, with_headers};
pub use topic::Topic;
pub use typed::TypedTopic;

/// An acknowledged publish.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The address of the nsqd that has the message.
    pub node: Arc<str>,
    /// The number of attempts, including the successful one.
    pub attempts: u32,
    /// What nsqd says of the message. `None` for a batch, without [`Config::pub_ids`](crate::Config::pub_ids), and if the nsqd is NSQ's own.
    pub message: Option<PublishedMessage>,
}

/// A published message, as nsqd sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublishedMessage {
    /// The id that consumers see. For a duplicate, that of the message that nsqd has.
    pub id: MessageId,
    /// nsqd did not store the message, because its topic remembers the same `nsq-id`: see
    /// [`Producer::publish_with_id`].
    pub is_duplicate: bool,
}

/// Publishes messages. Cheap to clone; clones share connections.
///
/// Every call checks topic and sizes before it writes anything, and waits for nsqd's OK. It reconnects and retries
/// until `publish_timeout`; then the error says whether nsqd may have the message. Concurrent calls share writes, and
/// none waits for the answer to another.
///
/// A publish goes on when its future is dropped: see [`PublishFuture`]. When the last handle is dropped, what is queued is
/// still sent, for at most `publish_timeout`; [`close`](Producer::close) waits for it.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Arc<Pool>,
    /// Cancelled with the last handle.
    abandoned: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.abandoned.cancel();
    }
}

impl Producer {
    /// Returns a builder with default settings.
    pub fn builder() -> ProducerBuilder {
        ProducerBuilder::default()
    }

    /// Builds a producer with default settings. An address is `host:port`, or the path of a unix socket. Fails outside of
    /// a tokio runtime.
    pub fn new(nsqd: impl Addresses) -> Result<Producer, ConfigError> {
        Producer::builder().nsqd(nsqd).build()
    }

    /// Publishes one message. The future that waits for room or for the answer may be dropped; once queued, the message is
    /// sent nevertheless.
    pub async fn publish(
        &self,
        topic: impl AsRef<str>,
        message: impl Into<NewMessage>,
    ) -> Result<Receipt, PublishError> {
        let topic = TopicText::new(topic.as_ref())?;
        self.publish_now(self.publication(topic, message.into())?).await
    }

    /// A publish of one message, with the trace context if it is to be sent.
    fn publication(&self, topic: TopicText, message: NewMessage) -> Result<Publication, PublishError> {
        #[cfg(feature = "otel")]
        let message = match self.pool().config.trace_headers {
            true => message.traced(),
            false => message,
        };
        Publication::new(topic, message)
    }

    /// Publishes one message that nsqd delivers after `delay`, which is rounded up to whole milliseconds.
    pub async fn publish_deferred(
        &self,
        topic: impl AsRef<str>,
        delay: Duration,
        body: impl Into<Bytes>,
    ) -> Result<Receipt, PublishError> {
        self.publish(topic, NewMessage::new(body).delay(delay)).await
    }

    /// Publishes one message with headers, given as pairs of name and value. A name has 1 to 256 of
    /// `a-z A-Z 0-9 . _ - #`. Names that begin with `nsq-` are nsqd's; a producer may set `nsq-ttl`, `nsq-key` and
    /// `nsq-id`. Only consumers that [request them](crate::Config::headers) see headers. Fails with
    /// [`PublishError::HeadersUnsupported`] if the nsqd is NSQ's own.
    pub async fn publish_with_headers<K: AsRef<str>, V: AsRef<str>>(
        &self,
        topic: impl AsRef<str>,
        headers: impl IntoIterator<Item = (K, V)>,
        body: impl Into<Bytes>,
    ) -> Result<Receipt, PublishError> {
        self.publish(topic, message_with(headers, body)).await
    }

    /// Publishes one message with an id of 1 to 128 bytes. If the topic has the setting `dedupe`, its nsqd stores only the
    /// first of several messages with the same id; with [`Config::pub_ids`](crate::Config::pub_ids), the receipt says whether this one is a
    /// duplicate. Each nsqd remembers the ids of its own messages only. Otherwise as
    /// [`publish_with_headers`](Producer::publish_with_headers).
    pub async fn publish_with_id(
        &self,
        topic: impl AsRef<str>,
        id: impl AsRef<str>,
        body: impl Into<Bytes>,
    ) -> Result<Receipt, PublishError> {
        self.publish_with_headers(topic, [(headers::ID, id)], body).await
    }

    /// Like [`publish_deferred`](Producer::publish_deferred), with headers as in
    /// [`publish_with_headers`](Producer::publish_with_headers).
    pub async fn publish_deferred_with_headers<K: AsRef<str>, V: AsRef<str>>(
        &self,
        topic: impl AsRef<str>,
        delay: Duration,
        headers: impl IntoIterator<Item = (K, V)>,
        body: impl Into<Bytes>,
    ) -> Result<Receipt, PublishError> {
        self.publish(topic, message_with(headers, body).delay(delay)).await
    }

    /// Like [`publish_many`](Producer::publish_many), for messages that are given as pairs of headers and body; see
    /// [`publish_with_headers`](Producer::publish_with_headers).
    pub async fn publish_many_with_headers<K: AsRef<str>, V: AsRef<str>, B: Into<Bytes>>(
        &self,
        topic: impl AsRef<str>,
        messages: impl IntoIterator<Item = (impl IntoIterator<Item = (K, V)>, B)>,
    ) -> Result<(), BatchError> {
        let messages: Result<Vec<Bytes>, PublishError> =
            messages.into_iter().map(|(headers, body)| with_headers(headers, &body.into())).collect();
        let messages = messages.map_err(|error| BatchError { acknowledged: 0, error })?;
        self.publish_batches(topic.as_ref(), messages, Form::WithHeaders).await
    }

    /// Publishes several messages to one topic. nsqd accepts all or none of them if they fit into one batch (5 MiB,
    /// unless nsqd reports another limit). More are sent as several batches, one after the other, each with its own
    /// `publish_timeout`.
    pub async fn publish_many<B: Into<Bytes>>(
        &self,
        topic: impl AsRef<str>,
        bodies: impl IntoIterator<Item = B>,
    ) -> Result<(), BatchError> {
        let bodies = bodies.into_iter().map(Into::into).collect();
        self.publish_batches(topic.as_ref(), bodies, Form::Plain).await
    }

    async fn publish_batches(&self, topic: &str, bodies: Vec<Bytes>, form: Form) -> Result<(), BatchError> {
        let mut acknowledged = 0;
        let fail = |acknowledged, error| BatchError { acknowledged, error };
        let topic = TopicText::new(topic).map_err(|e| fail(0, e))?;
        let limits = self.limits_for(&bodies).await;
        let batches = Publication::batches(topic, bodies, form, &limits).map_err(|e| fail(0, e))?;
        for (count, batch) in batches {
            self.publish_now(batch).await.map_err(|e| fail(acknowledged, e))?;
            acknowledged += count;
        }
        Ok(())
    }

    /// Publishes several messages, each with its own result, in the order of the results: one that is too big or refused
    /// fails alone. They share commands as those of [`send`](Producer::send) do. Waits for room as needed.
    pub async fn publish_each<M: Into<NewMessage>>(
        &self,
        topic: impl AsRef<str>,
        messages: impl IntoIterator<Item = M>,
    ) -> Vec<Result<Receipt, PublishError>> {
        let topic = topic.as_ref();
        let mut queued = Vec::new();
        for (index, message) in messages.into_iter().enumerate() {
            queued.push((index, self.enqueue(topic, message).await));
        }
        let mut results = Vec::with_capacity(queued.len());
        for (at, queued) in queued {
            let result = match queued {
                Ok(result) => result.await,
                Err(error) => Err(error),
            };
            results.push(result.map_err(|error| match error {
                PublishError::TooBig { topic, size, limit, .. } => {
                    PublishError::TooBig { index: at, topic, size, limit }
                }
                other => other,
            }));
        }
        results
    }

    /// Queues one message without waiting, and returns a future for the result. Messages are sent in the order of these
    /// calls, many of one topic in one MPUB. Returns [`PublishError::Full`] if too many publishes are pending:
    /// [`enqueue`](Producer::enqueue) waits for room instead.
    pub fn send(
        &self,
        topic: impl AsRef<str>,
        message: impl Into<NewMessage>,
    ) -> Result<PublishFuture, PublishError> {
        self.send_to(TopicText::new(topic.as_ref())?, message.into())
    }

    fn send_to(&self, topic: TopicText, message: NewMessage) -> Result<PublishFuture, PublishError> {
        let publication = self.publication(topic, message)?.batchable(true);
        let cost = self.pool().cost(publication.body_bytes());
        match self.pool().room.try_acquire_many(cost) {
            Ok(room) => room.forget(),
            Err(TryAcquireError::NoPermits) => return Err(PublishError::Full),
            Err(TryAcquireError::Closed) => return Err(PublishError::Closed),
        }
        Ok(self.queue(publication, self.deadline(), cost))
    }

    /// Waits until there is room, queues one message, and returns a future for the result. Otherwise as
    /// [`send`](Producer::send). Fails after `publish_timeout`. Dropping this future before it is ready publishes nothing.
    pub async fn enqueue(
        &self,
        topic: impl AsRef<str>,
        message: impl Into<NewMessage>,
    ) -> Result<PublishFuture, PublishError> {
        let topic = TopicText::new(topic.as_ref())?;
        self.wait_and_queue(self.publication(topic, message.into())?.batchable(true)).await
    }

    /// Returns a handle for one topic, whose name is checked now and not with each publish.
    pub fn topic(&self, topic: impl AsRef<str>) -> Result<Topic, PublishError> {
        Ok(Topic::new(self.clone(), TopicText::new(topic.as_ref())?))
    }

    /// Connects to the first nsqd, unless it is connected, and returns what it reports about itself. Fails if the
    /// connection attempt fails, or if no lookupd has listed an nsqd yet; does not retry.
    pub async fn ping(&self) -> Result<ServerInfo, ConnectError> {
        let node = self.pool().nodes().first().cloned();
        let Some(node) = node else {
            let cause = Disconnect::Protocol("no nsqlookupd has listed an nsqd yet".into());
            return Err(ConnectError { node: Arc::from("unknown"), stage: ConnectStage::Resolve, cause });
        };
        node.ensure_connected().await.map(|server| (*server).clone())
    }

    /// Waits until every publish queued before has its result. Ends a [`linger`](ProducerBuilder::linger). Every publish
    /// has its result after `publish_timeout` at the latest. Cancel safe.
    pub async fn flush(&self) {
        self.pool().flush().await;
    }

    /// Waits for the results of pending publishes, at most until `deadline`, and closes the connections. New publishes
    /// fail. Returns whether all pending publishes had their result in time; the others fail.
    pub async fn close(&self, deadline: Duration) -> bool {
        let flushed = tokio::time::timeout(deadline, self.pool().flush()).await.is_ok();
        self.pool().room.close();
        self.pool().stop.cancel();
        flushed
    }

    fn pool(&self) -> &Arc<Pool> {
        &self.inner.pool
    }

    fn deadline(&self) -> Instant {
        time::now() + self.pool().config.publish_timeout
    }

    async fn publish_now(&self, publication: Publication) -> Result<Receipt, PublishError> {
        let may_batch = !self.pool().config.linger.is_zero();
        let queued = self.wait_and_queue(publication.batchable(may_batch)).await?;
        queued.await
    }

    async fn wait_and_queue(&self, publication: Publication) -> Result<PublishFuture, PublishError> {
        let deadline = self.deadline();
        let pool = self.pool();
        let cost = pool.cost(publication.body_bytes());
        let room = match pool.room.try_acquire_many(cost) {
            Err(TryAcquireError::NoPermits) => {
                match tokio::time::timeout_at(deadline.into(), pool.room.acquire_many(cost)).await {
                    Ok(room) => room.map_err(|_| PublishError::Closed)?,
                    Err(_) => return Err(self.no_room()),
                }
            }
            room => room.map_err(|_| PublishError::Closed)?,
        };
        room.forget();
        Ok(self.queue(publication, deadline, cost))
    }

    fn no_room(&self) -> PublishError {
        let after = self.pool().config.publish_timeout;
        match self.pool().any_node() {
            Some(node) => {
                let node = Arc::clone(&node.address);
                PublishError::NotSent { node, reason: Disconnect::Timeout(after) }
            }
            None => PublishError::NoNodes { after },
        }
    }

    /// Queues a publish that has its share of the pending limit.
    fn queue(&self, publication: Publication, deadline: Instant, cost: u32) -> PublishFuture {
        let span = Span::publish(publication.topic(), publication.messages(), publication.body_bytes());
        let pending = Pending::new(publication, deadline, cost);
        self.pool().dispatch(Arc::clone(&pending), None);
        PublishFuture { pending, producer: self.clone(), span }
    }

    /// Returns the limits for splitting a batch. Connects only if NSQ's default limits are not sufficient.
    async fn limits_for(&self, bodies: &[Bytes]) -> SizeLimits {
        let assumed = SizeLimits { max_msg_size: ASSUMED_MAX_MSG_SIZE, max_body_size: ASSUMED_MAX_BODY_SIZE };
        let max_msg_size = self.pool().config.max_msg_size;
        let Some(node) = self.pool().any_node() else { return assumed };
        match node.status() {
            Status::Connected(server) => SizeLimits::of(&server, max_msg_size),
            _ if bodies.iter().all(|body| body.len() <= assumed.max_msg_size) => assumed,
            _ => match tokio::time::timeout_at(self.deadline().into(), node.ensure_connected()).await {
                Ok(Ok(server)) => SizeLimits::of(&server, max_msg_size),
                // Sending fails for the same reason and reports it.
                _ => SizeLimits { max_msg_size: usize::MAX, ..assumed },
            },
        }
    }
}

fn message_with<K: AsRef<str>, V: AsRef<str>>(
    headers: impl IntoIterator<Item = (K, V)>,
    body: impl Into<Bytes>,
) -> NewMessage {
    let add = |message: NewMessage, (name, value): (K, V)| message.header(name.as_ref(), value.as_ref());
    headers.into_iter().fold(NewMessage::new(body), add)
}

/// The result of a queued publish, from [`Producer::send`] or [`Producer::enqueue`].
///
/// Dropping it does not cancel the publish: the producer sends the message, repeats it as its
/// [`Guarantee`] allows, and discards the result. [`cancel`](PublishFuture::cancel) cancels it.
#[must_use = "the future tells whether the message was published; `.detach()` ignores that"]
pub struct PublishFuture {
    pending: Arc<Pending>,
    producer: Producer,
    span: Span,
}

impl PublishFuture {
    /// Cancels the publish if it is not written yet. Returns whether it was: then the message is not published. Otherwise
    /// it may be, or the result is known.
    pub fn cancel(self) -> bool {
        let cost = self.pending.finish_unwritten(|_| Err(PublishError::Closed));
        self.producer.pool().give_back(cost);
        cost > 0
    }

    /// Lets the publish go on without a result.
    pub fn detach(self) {}
}

impl Future for PublishFuture {
    type Output = Result<Receipt, PublishError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.pending.poll(context);
        match &polled {
            Poll::Ready(Ok(receipt)) => {
                self.span.record("server.address", &receipt.node);
                self.span.record("nsq.attempts", receipt.attempts);
                if let Some(message) = &receipt.message {
                    self.span.record("messaging.message.id", message.id);
                }
            }
            Poll::Ready(Err(error)) => self.span.record("error", error),
            Poll::Pending => {}
        }
        polled
    }
}

impl std::fmt::Debug for PublishFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublishFuture")
            .field("topic", &self.pending.publication.topic())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes = self.pool().nodes();
        let nodes: Vec<&str> = nodes.iter().map(|node| &*node.address).collect();
        f.debug_struct("Producer").field("nodes", &nodes).finish_non_exhaustive()
    }
}
