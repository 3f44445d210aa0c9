//! Shuts a consumer down without losing or repeating messages that can be finished.
//!
//! | step | |
//! |---|---|
//! | 1 | Send CLS on every connection, so that nsqd sends no more messages. Requeue late arrivals at once. |
//! | 2 | Requeue messages that wait for a handler at once, without counting them as failures. |
//! | 3 | Signal the shutdown to handlers and let them finish. Heartbeats and answers continue. |
//! | 4 | At the deadline, drop the handlers, and requeue their messages or leave them to time out. |
//! | 5 | Write all answers, close our side of the connections, and give nsqd a second to close its side. |

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::answer::Requeue;
use super::engine::Engine;
use super::link::Link;
use super::shared::ConsumerState;
use crate::time;

/// How long nsqd may take to confirm CLS, and later to close.
const NSQD_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What happens at the deadline to messages that are still being handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unfinished {
    /// Requeue them at once.
    Requeue,
    /// Leave them to time out at nsqd.
    Leave,
}

/// How to shut a consumer down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long messages that are being handled may still take.
    pub deadline: Duration,
    /// What happens to messages that take longer.
    pub then: Unfinished,
}

impl Default for Drain {
    /// 30 seconds, then requeue.
    fn default() -> Self {
        Drain { deadline: Duration::from_secs(30), then: Unfinished::Requeue }
    }
}

impl From<Duration> for Drain {
    fn from(deadline: Duration) -> Self {
        Drain { deadline, ..Drain::default() }
    }
}

/// The result of a shutdown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Messages finished during the shutdown.
    pub finished: u64,
    /// Messages requeued during the shutdown.
    pub requeued: u64,
    /// Messages that were unanswered when the consumer closed its connections. nsqd delivers them again.
    pub abandoned: u64,
    /// The duration of the shutdown.
    pub took: Duration,
}

impl Engine {
    pub(super) async fn drain(&mut self, drain: Drain) {
        let started_at = time::now();
        let shared = Arc::clone(self.shared());
        let finished_before = shared.feedback.counters.finished.load(Ordering::Relaxed);
        let requeued_before = shared.feedback.counters.requeued.load(Ordering::Relaxed);

        shared.state.send_replace(ConsumerState::Draining);
        for link in self.links() {
            link.send_cls();
        }
        // Close the queue before the signal to handlers, so that none takes another message.
        let waiting = shared.queue.close();
        let held_back = shared.lanes.as_ref().map(|by_key| by_key.lanes.lock().close()).unwrap_or_default();
        for message in waiting.into_iter().chain(held_back) {
            let _ = message.requeue_without_backoff(Requeue::Now);
        }
        shared.feedback.stopping.cancel();

        self.wait_for_answers(started_at, drain.deadline).await;
        if drain.then == Unfinished::Leave {
            shared.feedback.leave_dropped();
        }
        self.stop_workers().await;

        let unanswered: u64 = self.links().iter().map(|link| link.in_flight()).sum();
        for link in self.links() {
            link.outbox.finish();
        }
        self.wait_for_closes(time::now() + NSQD_CLOSE_TIMEOUT).await;
        shared.connections_stop.cancel();
        self.wait_for_closes(time::now() + NSQD_CLOSE_TIMEOUT).await;

        let report = DrainReport {
            finished: shared
                .feedback
                .counters
                .finished
                .load(Ordering::Relaxed)
                .saturating_sub(finished_before),
            requeued: shared
                .feedback
                .counters
                .requeued
                .load(Ordering::Relaxed)
                .saturating_sub(requeued_before),
            abandoned: unanswered,
            took: time::now().saturating_duration_since(started_at),
        };
        // A connection that nsqd has not closed in time is no longer live.
        shared.links.lock().clear();
        shared.state.send_replace(ConsumerState::Stopped);
        shared.report.send_replace(Some(report));
    }

    /// Waits, at most `limit` long, until every message is answered and every nsqd has confirmed CLS.
    async fn wait_for_answers(&mut self, started_at: Instant, limit: Duration) {
        let deadline = started_at + limit;
        let confirm_deadline = (started_at + NSQD_CLOSE_TIMEOUT).min(deadline);
        loop {
            let now = time::now();
            self.shared().feedback.watch_answers.store(true, Ordering::SeqCst);
            let is_quiet = |link: &Arc<Link>| {
                link.in_flight() == 0 && (link.has_close_wait() || now >= confirm_deadline)
            };
            let quiet = self.links().iter().all(is_quiet) && self.lingering_in_flight() == 0;
            if quiet || now >= deadline {
                return;
            }
            let until = if now < confirm_deadline { confirm_deadline } else { deadline };
            self.wait_for_event(Some(until)).await;
        }
    }

    async fn wait_for_closes(&mut self, deadline: Instant) {
        while !self.links().is_empty() && time::now() < deadline {
            self.wait_for_event(Some(deadline)).await;
        }
    }
}
