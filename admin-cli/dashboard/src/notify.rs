//! Tells an HTTP endpoint of each action. A queue with a limit: an endpoint that is down never delays an action.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nsq_daemon::log::Logger;
use nsq_daemon::{info, warn};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::outgoing::Outgoing;

/// Notifications that wait; the oldest is dropped beyond this.
const MAX_QUEUED: usize = 1000;
/// Attempts to deliver one notification.
const ATTEMPTS: u32 = 5;
/// Delay after the first failed attempt; doubles with each one.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// What the endpoint receives. The first ten fields are nsqadmin's.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Notification {
    pub action: String,
    pub topic: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub channel: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    pub timestamp: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    pub remote_ip: String,
    pub user_agent: String,
    pub url: String,
    pub via: String,
    /// `done` or `partial`.
    pub outcome: &'static str,
    /// The nodes that were changed.
    pub nodes: Vec<String>,
    /// The user that the ACL header names.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub acl_user: String,
    pub request_id: String,
}

/// Sends notifications in the background. Cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    inner: Option<Arc<Inner>>,
}

struct Inner {
    endpoint: String,
    outgoing: Outgoing,
    queue: Mutex<VecDeque<Notification>>,
    arrived: Notify,
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    last_error: Mutex<Option<String>>,
    logger: Logger,
}

/// Counters of a notifier.
#[derive(Debug, Clone, Default, Serialize)]
pub struct NotifierStats {
    pub sent: u64,
    /// Given up after all attempts.
    pub failed: u64,
    /// Dropped because too many waited.
    pub dropped: u64,
    pub queued: usize,
    pub last_error: Option<String>,
}

impl Notifier {
    /// Starts the task that sends. Without an endpoint, nothing is sent.
    pub fn start(
        endpoint: Option<String>,
        outgoing: Outgoing,
        logger: Logger,
        stop: CancellationToken,
    ) -> Self {
        let Some(endpoint) = endpoint else { return Notifier { inner: None } };
        let inner = Arc::new(Inner {
            endpoint,
            outgoing,
            queue: Mutex::default(),
            arrived: Notify::new(),
            sent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            last_error: Mutex::default(),
            logger,
        });
        let sender = inner.clone();
        tokio::spawn(async move { stop.run_until_cancelled(sender.run()).await });
        Notifier { inner: Some(inner) }
    }

    /// Queues a notification.
    pub fn send(&self, notification: Notification) {
        let Some(inner) = &self.inner else { return };
        let mut queue = inner.queue.lock();
        if queue.len() >= MAX_QUEUED {
            queue.pop_front();
            inner.dropped.fetch_add(1, Ordering::Relaxed);
        }
        queue.push_back(notification);
        drop(queue);
        inner.arrived.notify_one();
    }

    /// Counters; `None` without an endpoint.
    pub fn stats(&self) -> Option<NotifierStats> {
        let inner = self.inner.as_ref()?;
        Some(NotifierStats {
            sent: inner.sent.load(Ordering::Relaxed),
            failed: inner.failed.load(Ordering::Relaxed),
            dropped: inner.dropped.load(Ordering::Relaxed),
            queued: inner.queue.lock().len(),
            last_error: inner.last_error.lock().clone(),
        })
    }
}

impl Inner {
    async fn run(&self) {
        loop {
            let next = self.queue.lock().pop_front();
            match next {
                Some(notification) => self.deliver(&notification).await,
                None => self.arrived.notified().await,
            }
        }
    }

    async fn deliver(&self, notification: &Notification) {
        let Ok(body) = serde_json::to_vec(notification) else { return };
        let body = Bytes::from(body);
        info!(self.logger, "POSTing notification to {}", self.endpoint);
        let mut delay = FIRST_RETRY;
        for attempt in 1..=ATTEMPTS {
            match self.outgoing.post_json(&self.endpoint, body.clone()).await {
                Ok(()) => {
                    self.sent.fetch_add(1, Ordering::Relaxed);
                    *self.last_error.lock() = None;
                    return;
                }
                Err(error) => {
                    warn!(self.logger, "failed to POST notification (attempt {attempt}) - {error}");
                    *self.last_error.lock() = Some(error);
                }
            }
            if attempt < ATTEMPTS {
                tokio::time::sleep(delay).await;
                delay *= 2;
            }
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}
