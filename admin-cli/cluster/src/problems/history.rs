//! Pure: since when conditions hold, and when counters last rose.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::rises::Rises;
use super::rules::{self, ConditionKey};
use super::thresholds::Thresholds;
use crate::snapshot::Snapshot;

/// What earlier snapshots showed. Its size follows the conditions that hold and the rises of the last minutes, not the
/// number of snapshots.
#[derive(Debug, Default)]
pub struct History {
    since: HashMap<ConditionKey, SystemTime>,
    rises: Rises,
}

impl History {
    /// A history that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a snapshot, which must be newer than those before.
    pub fn observe(&mut self, snapshot: &Snapshot, thresholds: &Thresholds) {
        self.rises.observe(snapshot, thresholds.recent);
        let keys = rules::conditions(snapshot, self, thresholds).into_iter().map(|condition| condition.key());
        let since = keys
            .map(|key| {
                let since = self.since.get(&key).copied().unwrap_or(snapshot.taken_at);
                (key, since)
            })
            .collect();
        self.since = since;
    }

    pub(super) fn since(&self, key: &ConditionKey) -> Option<SystemTime> {
        self.since.get(key).copied()
    }

    pub(super) fn rises(&self) -> &Rises {
        &self.rises
    }

    /// For how long the conditions of the last snapshot have been remembered at most.
    pub fn span(&self, now: SystemTime) -> Duration {
        let oldest = self.since.values().min().copied().unwrap_or(now);
        now.duration_since(oldest).unwrap_or_default()
    }
}
