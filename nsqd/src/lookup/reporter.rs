//! Collects statistics of all topics for the nsqlookupds that want them with heartbeats. One pass serves all of them;
//! without such an nsqlookupd, no pass is made.

use std::sync::Arc;
use std::time::Duration;

use nsq_protocol::heartbeat::StatsReport;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use super::ledger::{Ledger, Progress};
use super::node_stats::NodeStats;
use crate::blocking;

/// Collects statistics and produces reports from them.
pub(super) struct Reporter {
    stats: Arc<dyn NodeStats>,
    ledger: Mutex<Ledger>,
    last_pass: tokio::sync::Mutex<LastPass>,
}

/// When the last pass began, and when the next one may begin: passes take at most a tenth of the time.
struct LastPass {
    began: Option<Instant>,
    next: Instant,
}

impl Reporter {
    /// Collects nothing yet.
    pub fn new(stats: Arc<dyn NodeStats>) -> Self {
        let last_pass = LastPass { began: None, next: Instant::now() };
        Reporter { stats, ledger: Mutex::default(), last_pass: tokio::sync::Mutex::new(last_pass) }
    }

    /// Makes a pass, unless the latest one began at `not_before` or later. Dropping the future loses nothing.
    pub async fn refresh(&self, not_before: Instant) {
        let mut last_pass = self.last_pass.lock().await;
        if last_pass.began.is_some_and(|began| began >= not_before) {
            return;
        }
        sleep_until(last_pass.next).await;
        let began = Instant::now();
        let stats = self.stats.clone();
        // Fifty thousand topics take long, so connections must not wait for the pass.
        let seen = blocking::run(move || stats.snapshot()).await;
        if let Ok(Some((node, topics))) = seen {
            self.ledger.lock().update(node, topics);
        }
        let took = began.elapsed();
        *last_pass = LastPass { began: Some(began), next: Instant::now() + took * 9 };
    }

    /// Begins a round of reports to one nsqlookupd. Call it after [`refresh`](Self::refresh).
    pub fn begin_round(&self, progress: &mut Progress, refresh: u64) {
        self.ledger.lock().begin_round(progress, refresh);
    }

    /// Returns the next report of the round, or `None` at its end.
    pub fn next_report(&self, progress: &mut Progress) -> Option<StatsReport> {
        self.ledger.lock().next_report(progress, |name| self.stats.topic(name))
    }
}

/// A heartbeat uses a pass that is at most this old.
pub(super) const RECENT: Duration = Duration::from_secs(1);
