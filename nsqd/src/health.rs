//! Pure: what does not work just now, and why. Each part of the daemon speaks for itself: one that works again says nothing about the
//! others.

use std::collections::BTreeMap;

/// Parts that may fail for a while. The first in this order is reported first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The data directory: it is where it was, and can be written to.
    DataDir,
    /// Writing the journal.
    Journal,
    /// Files in the data directory that somebody has removed or replaced.
    Files,
    /// Syncing in the background. Once it has failed, it stays so until the next start.
    Syncing,
    /// Moving messages from memory to disk.
    Spilling,
    /// Checkpoints, and letting go of files.
    Upkeep,
}

impl Part {
    /// What to do about a failure.
    pub fn remedy(self) -> &'static str {
        match self {
            Part::DataDir => "nsqd retries by itself, no restart is needed",
            Part::Files => "remove nothing from the data directory while nsqd runs",
            Part::Journal | Part::Spilling | Part::Upkeep => {
                "free space or repair the disk; nsqd retries by itself, no restart is needed"
            }
            Part::Syncing => AFTER_FAILED_SYNC,
        }
    }
}

/// What to do after a failed sync. What is on disk is unknown until a start has read it.
pub const AFTER_FAILED_SYNC: &str = "repair the disk, then restart nsqd: this lasts until then";

/// See the module.
#[derive(Debug, Default)]
pub struct Health {
    causes: BTreeMap<Part, String>,
}

impl Health {
    /// A part has failed. Returns whether that is news.
    pub fn failed(&mut self, part: Part, cause: &str) -> bool {
        let is_news = self.causes.get(&part).is_none_or(|known| known != cause);
        if is_news {
            self.causes.insert(part, cause.to_owned());
        }
        is_news
    }

    /// A part works (again). Returns whether that is news.
    pub fn works(&mut self, part: Part) -> bool {
        self.causes.remove(&part).is_some()
    }

    /// Why not all is well.
    pub fn cause(&self) -> Option<&str> {
        self.causes.values().next().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_speaks_for_itself() {
        let mut health = Health::default();
        assert_eq!(health.cause(), None);
        assert!(health.failed(Part::Spilling, "full"));
        assert!(!health.failed(Part::Spilling, "full"));
        assert!(health.failed(Part::Spilling, "broken"));
        assert!(health.failed(Part::Syncing, "gone"));
        health.works(Part::Upkeep);
        assert_eq!(health.cause(), Some("gone"));
        health.works(Part::Syncing);
        assert_eq!(health.cause(), Some("broken"));
        health.works(Part::Spilling);
        assert_eq!(health.cause(), None);
    }
}
