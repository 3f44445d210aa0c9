//! Stopping without losing or repeating what can be finished.
//!
//! | step | |
//! |---|---|
//! | 1 | CLS on every connection: nsqd sends nothing more; what arrives nevertheless is requeued at once |
//! | 2 | messages that wait for a handler are requeued at once, and not counted as failures |
//! | 3 | what is being handled goes on; handlers are told; heartbeats and answers flow |
//! | 4 | at the deadline handlers are dropped, and their messages requeued or left to time out |
//! | 5 | all answers are written, our side is closed, and nsqd gets a second to close its side |

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::link::Link;
use super::message::Requeue;
use super::shared::ConsumerState;
use crate::time;

/// How long nsqd may take to confirm CLS, and later to close.
const NSQD_PATIENCE: Duration = Duration::from_secs(1);

/// What happens at the deadline to messages that are still being handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// They are requeued at once.
    Requeue,
    /// They are left to nsqd's timeout.
    Leave,
}

/// How to shut a consumer down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long messages that are being handled may take.
    pub deadline: Duration,
    /// What becomes of those that took longer.
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

/// What became of the messages that were there when the shutdown began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Finished.
    pub finished: u64,
    /// Requeued.
    pub requeued: u64,
    /// Not answered by the deadline, or on a connection that was lost: nsqd delivers them again.
    pub abandoned: u64,
    /// How long it took.
    pub took: Duration,
}

impl Engine {
    pub(super) async fn drain(&mut self, drain: Drain) {
        let started_at = time::now();
        let shared = Arc::clone(self.shared());
        let finished_before = shared.counters.finished.load(Ordering::Relaxed);
        let requeued_before = shared.counters.requeued.load(Ordering::Relaxed);

        shared.state.send_replace(ConsumerState::Draining);
        for link in self.links() {
            link.send_cls();
        }
        // Before handlers are told, so that none takes another message.
        let waiting = shared.queue.close();
        for message in waiting {
            let _ = message.requeue_without_backoff(Requeue::Now);
        }
        shared.stopping.cancel();

        self.wait_for_answers(started_at, drain.deadline).await;
        if drain.then == Unfinished::Leave {
            shared.leave_dropped();
        }
        self.stop_workers().await;

        let unanswered: u64 = self.links().iter().map(|link| link.in_flight()).sum();
        for link in self.links() {
            link.outbox.finish();
        }
        self.wait_for_closes(time::now() + NSQD_PATIENCE).await;
        shared.connections_stop.cancel();
        self.wait_for_closes(time::now() + NSQD_PATIENCE).await;

        let report = DrainReport {
            finished: shared.counters.finished.load(Ordering::Relaxed) - finished_before,
            requeued: shared.counters.requeued.load(Ordering::Relaxed) - requeued_before,
            abandoned: unanswered,
            took: time::now().saturating_duration_since(started_at),
        };
        // Links refer to what refers to them.
        shared.links.lock().clear();
        shared.state.send_replace(ConsumerState::Stopped);
        shared.report.send_replace(Some(report));
    }

    /// Until every message is answered and every nsqd has confirmed CLS.
    async fn wait_for_answers(&mut self, started_at: Instant, patience: Duration) {
        let deadline = started_at + patience;
        let confirm_deadline = (started_at + NSQD_PATIENCE).min(deadline);
        loop {
            let now = time::now();
            self.shared().watch_answers.store(true, Ordering::SeqCst);
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
