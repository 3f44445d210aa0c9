//! Looking at all topics for those nsqlookupds that want statistics with their heartbeats: one look serves them all,
//! and none is made while nobody wants any.

use std::sync::Arc;
use std::time::Duration;

use nsq_protocol::heartbeat::StatsReport;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use super::figures::Figures;
use super::ledger::{Ledger, Progress};
use crate::blocking;

/// See the module.
pub(super) struct Reporter {
    figures: Arc<dyn Figures>,
    ledger: Mutex<Ledger>,
    looked: tokio::sync::Mutex<Looked>,
}

/// When the last look began and when the next one may: looks take a tenth of the time at most.
struct Looked {
    began: Option<Instant>,
    next: Instant,
}

impl Reporter {
    /// Nothing is looked at yet.
    pub fn new(figures: Arc<dyn Figures>) -> Self {
        let looked = Looked { began: None, next: Instant::now() };
        Reporter { figures, ledger: Mutex::default(), looked: tokio::sync::Mutex::new(looked) }
    }

    /// Sees to it that the latest look began at `not_before` or later. Dropping the future loses nothing.
    pub async fn look(&self, not_before: Instant) {
        let mut looked = self.looked.lock().await;
        if looked.began.is_some_and(|began| began >= not_before) {
            return;
        }
        sleep_until(looked.next).await;
        let began = Instant::now();
        let figures = self.figures.clone();
        // Fifty thousand topics take a while, during which connections should go on.
        let seen = blocking::run(move || figures.look()).await;
        if let Ok(Some((node, topics))) = seen {
            self.ledger.lock().update(node, topics);
        }
        let took = began.elapsed();
        *looked = Looked { began: Some(began), next: Instant::now() + took * 9 };
    }

    /// Begins to report to one nsqlookupd, after a look.
    pub fn begin_round(&self, progress: &mut Progress, refresh: u64) {
        self.ledger.lock().begin_round(progress, refresh);
    }

    /// The next report of the round.
    pub fn next_report(&self, progress: &mut Progress) -> Option<StatsReport> {
        self.ledger.lock().next_report(progress, |name| self.figures.topic(name))
    }
}

/// A heartbeat need not look again at what was looked at for somebody else just now.
pub(super) const RECENT: Duration = Duration::from_secs(1);
