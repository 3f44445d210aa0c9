//! Publishing: each publish has its own result.
//!
//! ```text
//! publish ──▶ node queue ──many per write──▶ nsqd
//!    ▲            │ slot                      │
//!    └── result ──┴──── answers, in order ◀───┘
//! ```
//!
//! In reading order: `builder`, this file (public calls, choice of the node, retries), `publication` (one command),
//! `slot` (its result), `node` (queue and connection).

mod builder;
mod node;
mod publication;
mod slot;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use nsq_protocol::headers::{self, Form};
use nsq_protocol::{MessageId, is_topic_full};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::addresses::Addresses;
use crate::config::Config;
use crate::error::{BatchError, ConfigError, ConnectError, Disconnect, PublishError};
use crate::handshake::{ASSUMED_MAX_BODY_SIZE, ASSUMED_MAX_MSG_SIZE, ServerInfo};
pub use builder::{Guarantee, ProducerBuilder, Strategy};
use node::{Node, Status};
use publication::{Publication, SizeLimits, with_headers};
use slot::{Cancelled, Failure, Slot, SlotResult};

/// An acknowledged publish.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The address of the nsqd that has the message.
    pub node: Arc<str>,
    /// The number of attempts, including the successful one.
    pub attempts: u32,
    /// What nsqd says of the message. `None` for a batch, without [`Config::pub_ids`], and if the nsqd is NSQ's own.
    pub message: Option<PublishedMessage>,
}

/// A published message, as nsqd sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
/// Dropping the future of a publish before the message is written cancels the publish. After that, the message is sent
/// and the answer is discarded.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Inner>,
}

struct Inner {
    nodes: Vec<Arc<Node>>,
    /// One permit per byte that may be pending; see [`Inner::room_for`].
    room: Arc<Semaphore>,
    config: Arc<Config>,
    guarantee: Guarantee,
    strategy: Strategy,
    next: AtomicUsize,
    stop: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Producer {
    /// Returns a builder with default settings.
    pub fn builder() -> ProducerBuilder {
        ProducerBuilder::default()
    }

    /// Builds a producer with default settings. An address is `host:port`, or the path of a unix socket. Must be called
    /// within a tokio runtime.
    pub fn new(nsqd: impl Addresses) -> Result<Producer, ConfigError> {
        Producer::builder().nsqd(nsqd).build()
    }

    /// Publishes one message.
    pub async fn publish(
        &self,
        topic: impl AsRef<str>,
        body: impl Into<Bytes>,
    ) -> Result<Receipt, PublishError> {
        let publication = Publication::single(topic.as_ref(), body.into())?;
        self.publish_now(publication, self.deadline()).await
    }

    /// Publishes one message that nsqd delivers after `delay`, which is rounded up to whole milliseconds.
    pub async fn publish_deferred(
        &self,
        topic: impl AsRef<str>,
        delay: Duration,
        body: impl Into<Bytes>,
    ) -> Result<Receipt, PublishError> {
        let publication = Publication::deferred(topic.as_ref(), delay, body.into())?;
        self.publish_now(publication, self.deadline()).await
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
        let message = with_headers(headers, &body.into())?;
        let publication = Publication::single(topic.as_ref(), message)?.in_form(Form::WithHeaders);
        self.publish_now(publication, self.deadline()).await
    }

    /// Publishes one message with an id of 1 to 128 bytes. If the topic has the setting `dedupe`, its nsqd stores only the
    /// first of several messages with the same id; with [`Config::pub_ids`], the receipt says whether this one is a
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
        let message = with_headers(headers, &body.into())?;
        let publication = Publication::deferred(topic.as_ref(), delay, message)?.in_form(Form::WithHeaders);
        self.publish_now(publication, self.deadline()).await
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
        let limits = self.limits_for(&bodies).await;
        let batches = Publication::batches(topic, bodies, &limits).map_err(|e| fail(0, e))?;
        for (count, batch) in batches {
            let batch = batch.in_form(form);
            self.publish_now(batch, self.deadline()).await.map_err(|e| fail(acknowledged, e))?;
            acknowledged += count;
        }
        Ok(())
    }

    /// Queues one message without waiting, and returns a future for the result. Messages are sent in the order of these
    /// calls, unless one is retried. Returns [`PublishError::Full`] if too many publishes are pending.
    pub fn send(
        &self,
        topic: impl AsRef<str>,
        body: impl Into<Bytes>,
    ) -> Result<PublishFuture, PublishError> {
        let publication = Arc::new(Publication::single(topic.as_ref(), body.into())?);
        let room =
            match Arc::clone(&self.inner.room).try_acquire_many_owned(self.inner.room_for(&publication)) {
                Ok(room) => room,
                Err(TryAcquireError::NoPermits) => return Err(PublishError::Full),
                Err(TryAcquireError::Closed) => return Err(PublishError::Closed),
            };
        let deadline = self.deadline();
        let ticket = Ticket::issue(&self.inner, publication, room);
        let producer = self.clone();
        Ok(PublishFuture(Box::pin(async move { producer.inner.resolve(ticket, deadline).await })))
    }

    /// Connects to the first nsqd, unless it is connected, and returns what it reports about itself. Fails if the
    /// connection attempt fails; does not retry.
    pub async fn ping(&self) -> Result<ServerInfo, ConnectError> {
        self.inner.nodes[0].ensure_connected().await.map(|server| (*server).clone())
    }

    /// Waits until every publish queued before has its result. A publish is retried by its future, so a future that is
    /// held and never polled can block this.
    pub async fn flush(&self) {
        // Permits are granted in the order of requests, so holding all means that no older publish is pending.
        // An error means that the producer is closed and nothing is pending.
        let _ = self.inner.room.acquire_many(self.inner.config.max_pending_bytes).await;
    }

    /// Waits for the results of pending publishes, at most until `deadline`, and closes the connections. New publishes
    /// fail. Returns whether all pending publishes had their result in time; the others fail.
    pub async fn close(&self, deadline: Duration) -> bool {
        let all = self.inner.config.max_pending_bytes;
        let flushed = tokio::time::timeout(deadline, self.inner.room.acquire_many(all)).await.is_ok();
        self.inner.room.close();
        self.inner.stop.cancel();
        flushed
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.inner.config.publish_timeout
    }

    async fn publish_now(
        &self,
        publication: Publication,
        deadline: Instant,
    ) -> Result<Receipt, PublishError> {
        let publication = Arc::new(publication);
        let cost = self.inner.room_for(&publication);
        let acquire = Arc::clone(&self.inner.room).acquire_many_owned(cost);
        let room = match tokio::time::timeout_at(deadline, acquire).await {
            Ok(Ok(room)) => room,
            Ok(Err(_)) => return Err(PublishError::Closed),
            Err(_) => {
                let node = Arc::clone(&self.inner.pick(None).address);
                let reason = Disconnect::Timeout(self.inner.config.publish_timeout);
                return Err(PublishError::NotSent { node, reason });
            }
        };
        let ticket = Ticket::issue(&self.inner, publication, room);
        self.inner.resolve(ticket, deadline).await
    }

    /// Returns the limits for splitting a batch. Connects only if NSQ's default limits are not sufficient.
    async fn limits_for(&self, bodies: &[Bytes]) -> SizeLimits {
        let assumed = SizeLimits { max_msg_size: ASSUMED_MAX_MSG_SIZE, max_body_size: ASSUMED_MAX_BODY_SIZE };
        let node = self.inner.pick(None);
        let max_msg_size = self.inner.config.max_msg_size;
        match node.status() {
            Status::Connected(server) => SizeLimits::of(&server, max_msg_size),
            _ if bodies.iter().all(|body| body.len() <= assumed.max_msg_size) => assumed,
            _ => {
                let connecting = tokio::time::timeout_at(self.deadline(), node.ensure_connected());
                match connecting.await {
                    Ok(Ok(server)) => SizeLimits::of(&server, max_msg_size),
                    // Sending fails for the same reason and reports it.
                    _ => SizeLimits { max_msg_size: usize::MAX, ..assumed },
                }
            }
        }
    }
}

/// The result of [`Producer::send`].
#[must_use = "dropping the future can cancel the publish"]
pub struct PublishFuture(Pin<Box<dyn Future<Output = Result<Receipt, PublishError>> + Send>>);

impl Future for PublishFuture {
    type Output = Result<Receipt, PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

impl std::fmt::Debug for PublishFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublishFuture").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes: Vec<&str> = self.inner.nodes.iter().map(|node| &*node.address).collect();
        f.debug_struct("Producer").field("nodes", &nodes).finish_non_exhaustive()
    }
}

impl Inner {
    /// The number of permits for one publish. It is at least `max_pending_bytes / max_pending`, so that one semaphore
    /// bounds both bytes and number. It is at most all permits, so that a huge publish is sent alone instead of never.
    fn room_for(&self, publication: &Publication) -> u32 {
        let max_bytes = self.config.max_pending_bytes;
        let least = (max_bytes / self.config.max_pending).max(1);
        u32::try_from(publication.body_bytes()).unwrap_or(u32::MAX).clamp(least, max_bytes)
    }

    /// Chooses the node for the next publish. `failed` is the node that has just failed.
    fn pick(&self, failed: Option<&Arc<Node>>) -> &Arc<Node> {
        let count = self.nodes.len();
        let first = match (self.strategy, failed) {
            (Strategy::RoundRobin, _) => self.next.fetch_add(1, Ordering::Relaxed),
            (Strategy::Failover, None) => 0,
            (Strategy::Failover, Some(failed)) => self
                .nodes
                .iter()
                .position(|node| Arc::ptr_eq(node, failed))
                .map_or(0, |position| position + 1),
        };
        let in_order = || (0..count).map(move |offset| &self.nodes[(first + offset) % count]);
        let usable =
            |node: &&Arc<Node>| !node.has_failed() && failed.is_none_or(|failed| !Arc::ptr_eq(node, failed));
        let connected = match self.strategy {
            Strategy::Failover => in_order().find(|node| usable(node) && node.is_connected()),
            // Nodes that are not connected also get their turn, which connects them.
            Strategy::RoundRobin => None,
        };
        connected.or_else(|| in_order().find(usable)).unwrap_or(&self.nodes[first % count])
    }

    /// Waits for the result, and retries what may be retried.
    async fn resolve(&self, mut ticket: Ticket, deadline: Instant) -> Result<Receipt, PublishError> {
        let mut attempts = 1;
        loop {
            let result = match tokio::time::timeout_at(deadline, ticket.result()).await {
                Ok(result) => result,
                Err(_) => {
                    let timeout = Disconnect::Timeout(self.config.publish_timeout);
                    match ticket.slot.cancel() {
                        Cancelled::Done(result) => result,
                        Cancelled::Written => Err(Failure::Unknown(timeout)),
                        // The connection error says more than the timeout.
                        Cancelled::NotSent => Err(Failure::NotSent(match ticket.node.status() {
                            Status::Failed(error) => error.cause,
                            _ => timeout,
                        })),
                    }
                }
            };
            match result {
                Ok(message) => {
                    return Ok(Receipt { node: Arc::clone(&ticket.node.address), attempts, message });
                }
                Err(failure) if self.may_retry(&failure, attempts) && Instant::now() < deadline => {
                    attempts += 1;
                    ticket.retry_at(Arc::clone(self.pick(Some(&ticket.node))));
                }
                Err(failure) => return Err(publish_error(failure, &ticket.node.address)),
            }
        }
    }

    fn may_retry(&self, failure: &Failure, attempts: u32) -> bool {
        if self.stop.is_cancelled() {
            return false;
        }
        match failure {
            Failure::NotSent(_) => true,
            Failure::Unknown(_) => self.guarantee == Guarantee::AtLeastOnce,
            // There may be room at another node. If not, the caller must slow down.
            Failure::Refused { code, description } if is_topic_full(code, description) => {
                (attempts as usize) < self.nodes.len()
            }
            // nsqd could not store it. Another node, or a later attempt, may succeed. A batch may be stored in part.
            Failure::Refused { code, .. } => match code.as_str() {
                "E_PUB_FAILED" | "E_DPUB_FAILED" => true,
                "E_MPUB_FAILED" => self.guarantee == Guarantee::AtLeastOnce,
                _ => false,
            },
            Failure::TooBig { .. } | Failure::HeadersUnsupported => false,
        }
    }
}

fn publish_error(failure: Failure, node: &Arc<str>) -> PublishError {
    let node = Arc::clone(node);
    match failure {
        Failure::NotSent(Disconnect::Stopped) => PublishError::Closed,
        Failure::NotSent(reason) => PublishError::NotSent { node, reason },
        Failure::Unknown(reason) => PublishError::Unknown { node, reason },
        Failure::Refused { code, description } => PublishError::Refused { node, code, description },
        Failure::TooBig { size, max } => PublishError::TooBig { size, max },
        Failure::HeadersUnsupported => PublishError::HeadersUnsupported { node },
    }
}

/// A publish that has no final result. Dropping it cancels the publish if it is not written.
struct Ticket {
    publication: Arc<Publication>,
    slot: Arc<Slot>,
    node: Arc<Node>,
}

impl Ticket {
    fn issue(inner: &Inner, publication: Arc<Publication>, room: OwnedSemaphorePermit) -> Self {
        let slot = Slot::new(room);
        let node = Arc::clone(inner.pick(None));
        node.enqueue(Arc::clone(&publication), Arc::clone(&slot));
        Ticket { publication, slot, node }
    }

    fn retry_at(&mut self, node: Arc<Node>) {
        self.slot.retry();
        self.node = node;
        self.node.enqueue(Arc::clone(&self.publication), Arc::clone(&self.slot));
    }

    async fn result(&self) -> SlotResult {
        std::future::poll_fn(|context| self.slot.poll(context)).await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.slot.cancel();
    }
}
