//! Pure: which parts do not work at the moment, and why. Parts are independent: when one works again, the state of the
//! others does not change.

use std::collections::BTreeMap;

use crate::damage::ReadsFail;
use crate::storage::journal::JournalError;

/// Parts that may fail temporarily. The first in this order is reported first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The data directory: it is in its place and writable.
    DataDir,
    /// Writing the journal.
    Journal,
    /// Files in the data directory that someone removed or replaced.
    Files,
    /// Syncing in the background failed. This lasts until the next start.
    FailedSync,
    /// Syncing in the background: files cannot be opened. Nothing is lost, the next attempt syncs them.
    Syncing,
    /// Moving messages from memory to disk.
    Spilling,
    /// Checkpoints and deletion of files.
    Upkeep,
}

impl Part {
    /// Advice for a failure of this part.
    pub fn remedy(self) -> &'static str {
        match self {
            Part::DataDir => "nsqd retries by itself, no restart is needed",
            Part::Files => "do not remove files from the data directory while nsqd runs",
            Part::Journal | Part::Spilling | Part::Upkeep => {
                "free space or repair the disk; nsqd retries by itself, no restart is needed"
            }
            Part::Syncing => {
                "raise the limit of open files or repair the disk; nsqd retries by itself, no restart is needed"
            }
            Part::FailedSync => AFTER_FAILED_SYNC,
        }
    }
}

/// Advice after a failed sync. The state on disk is unknown until a start has read it.
pub const AFTER_FAILED_SYNC: &str = "repair the disk, then restart nsqd; nsqd stays unhealthy until then";

/// Why nsqd is unhealthy.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unhealthy {
    /// The journal cannot be written. Acknowledgements made meanwhile may not be recorded.
    #[error("{}{}", journal_failure(error), not_recorded(*forgotten_count))]
    Journal { error: JournalError, forgotten_count: u64 },
    #[error("{cause}")]
    Part { part: Part, cause: String },
    #[error(transparent)]
    Reads(#[from] ReadsFail),
}

/// Describes the failure and what to do about it.
pub fn journal_failure(error: &JournalError) -> String {
    match error {
        JournalError::Sync(_) => format!("{error}; publishes are refused; {AFTER_FAILED_SYNC}"),
        _ => format!("{error}; {}", Part::Journal.remedy()),
    }
}

fn not_recorded(forgotten_count: u64) -> String {
    match forgotten_count {
        0 => String::new(),
        count => format!(" ({count} acknowledgements not recorded)"),
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Health {
    causes: BTreeMap<Part, String>,
}

impl Health {
    /// Records a failure. Returns whether it is new.
    pub fn failed(&mut self, part: Part, cause: &str) -> bool {
        let is_news = self.causes.get(&part).is_none_or(|known| known != cause);
        if is_news {
            self.causes.insert(part, cause.to_owned());
        }
        is_news
    }

    /// Records that a part works (again). Returns whether it had failed.
    pub fn works(&mut self, part: Part) -> bool {
        self.causes.remove(&part).is_some()
    }

    /// The failure to report; `None` if all parts work.
    pub fn failure(&self) -> Option<Unhealthy> {
        let (&part, cause) = self.causes.first_key_value()?;
        Some(Unhealthy::Part { part, cause: cause.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_parts_are_independent() {
        let mut health = Health::default();
        let cause = |health: &Health| health.failure().map(|failure| failure.to_string());
        assert_eq!(cause(&health), None);
        assert!(health.failed(Part::Spilling, "full"));
        assert!(!health.failed(Part::Spilling, "full"));
        assert!(health.failed(Part::Spilling, "broken"));
        assert!(health.failed(Part::Syncing, "gone"));
        health.works(Part::Upkeep);
        assert_eq!(cause(&health).as_deref(), Some("gone"));
        health.works(Part::Syncing);
        assert_eq!(cause(&health).as_deref(), Some("broken"));
        health.works(Part::Spilling);
        assert_eq!(cause(&health), None);
    }
}
