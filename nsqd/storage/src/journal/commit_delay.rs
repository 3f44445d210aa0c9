//! How long the journal's thread waits before a sync, and for how many publishers. Those that were just answered are
//! likely to publish again, and one sync costs the same for all. Without waiting, publishers that each wait for their
//! answer split into two halves, and each sync serves only one half. No I/O, no clock.

use std::time::Duration;

/// Maximum wait, however long a sync takes.
const MAX_WAIT: Duration = Duration::from_millis(5);
/// After this many failed attempts in a row, the pauses between attempts stop growing.
const MAX_FAILED_ATTEMPTS: u32 = 5;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct CommitDelay {
    /// Number of publishers when the last sync ended: served by it, or waiting for the next.
    publishers: usize,
    /// Duration of the last sync, at most [`MAX_WAIT`]. A longer wait would cost more than another sync.
    max_wait: Duration,
    /// Attempts in a row to which fewer publishers came than were expected.
    failed_attempts: u32,
    /// Syncs until the next attempt.
    pause: u32,
}

impl CommitDelay {
    /// Records a sync: its duration, the number of publishers it `served`, and the number now `waiting`.
    pub(super) fn record_sync(&mut self, took: Duration, served: usize, waiting: usize) {
        self.publishers = served + waiting;
        self.max_wait = took.min(MAX_WAIT);
    }

    /// How many publishers to wait for, and how long, if `waiting` are there already. `None` if it does not pay.
    pub(super) fn next_wait(&mut self, waiting: usize) -> Option<(usize, Duration)> {
        // The slowest of many publishers may take long.
        let enough = self.publishers - self.publishers / 8;
        // With nobody waiting, only lazy records are written.
        if waiting == 0 || waiting >= enough {
            return None;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        Some((enough, self.max_wait))
    }

    /// Records whether all expected publishers came.
    pub(super) fn record_outcome(&mut self, all: bool) {
        self.failed_attempts = if all { 0 } else { (self.failed_attempts + 1).min(MAX_FAILED_ATTEMPTS) };
        self.pause = (1 << self.failed_attempts) - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC: Duration = Duration::from_micros(200);

    #[test]
    fn a_single_publisher_waits_for_nobody() {
        let mut commit_delay = CommitDelay::default();
        assert_eq!(commit_delay.next_wait(1), None);
        commit_delay.record_sync(SYNC, 1, 0);
        assert_eq!(commit_delay.next_wait(1), None);
    }

    #[test]
    fn two_halves_of_publishers_join_in_one_sync() {
        let mut commit_delay = CommitDelay::default();
        commit_delay.record_sync(SYNC, 4, 4);
        assert_eq!(commit_delay.next_wait(4), Some((7, SYNC)));
        commit_delay.record_outcome(true);
        commit_delay.record_sync(Duration::from_secs(1), 8, 0);
        assert_eq!((commit_delay.next_wait(8), commit_delay.next_wait(0)), (None, None));
        assert_eq!(commit_delay.next_wait(1), Some((7, MAX_WAIT)));
    }

    #[test]
    fn attempts_become_rarer_while_nobody_comes() {
        let mut commit_delay = CommitDelay::default();
        commit_delay.record_sync(SYNC, 4, 4);
        let mut attempts = 0;
        for _ in 0..320 {
            if commit_delay.next_wait(4).is_some() {
                attempts += 1;
                commit_delay.record_outcome(false);
            }
        }
        assert!((10..=16).contains(&attempts), "{attempts}");
        while commit_delay.next_wait(4).is_none() {}
        commit_delay.record_outcome(true);
        assert!(commit_delay.next_wait(4).is_some());
    }
}
