//! How long the journal's thread waits before a sync, and for how many: those who were just answered are likely to come
//! again, and a sync costs the same for all. Without that, publishers that each wait for their answer fall into two halves,
//! of which one is served by each sync. No I/O, no clock.

use std::time::Duration;

/// However long a sync takes, others are not waited for longer.
const MAX_PATIENCE: Duration = Duration::from_millis(5);
/// After so many disappointments in a row, the pauses between two attempts grow no more.
const MAX_DISAPPOINTMENTS: u32 = 5;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// So many publishers were there when the last sync was over: served by it, or waiting for the next.
    publishers: usize,
    /// How long the last sync took. Waiting for longer would cost more than a sync more does.
    patience: Duration,
    /// Attempts in a row that fewer came than were waited for.
    disappointments: u32,
    /// Syncs until the next attempt.
    pause: u32,
}

impl Gathering {
    /// A sync is over. It took so long and served so many; `waiting` have come meanwhile.
    pub(super) fn learn(&mut self, took: Duration, served: usize, waiting: usize) {
        self.publishers = served + waiting;
        self.patience = took.min(MAX_PATIENCE);
    }

    /// For how many to wait, and how long, now that `waiting` have come. `None` if it does not pay.
    pub(super) fn wanted(&mut self, waiting: usize) -> Option<(usize, Duration)> {
        // The last of many may be on their way for long.
        let wanted = self.publishers - self.publishers / 8;
        // With nobody waiting, only acknowledgements are written.
        if waiting == 0 || waiting >= wanted {
            return None;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        Some((wanted, self.patience))
    }

    /// Whether all that were waited for have come.
    pub(super) fn met(&mut self, all: bool) {
        self.disappointments = if all { 0 } else { (self.disappointments + 1).min(MAX_DISAPPOINTMENTS) };
        self.pause = (1 << self.disappointments) - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC: Duration = Duration::from_micros(200);

    #[test]
    fn who_is_alone_waits_for_nobody() {
        let mut gathering = Gathering::default();
        assert_eq!(gathering.wanted(1), None);
        gathering.learn(SYNC, 1, 0);
        assert_eq!(gathering.wanted(1), None);
    }

    #[test]
    fn two_halves_become_one() {
        let mut gathering = Gathering::default();
        gathering.learn(SYNC, 4, 4);
        assert_eq!(gathering.wanted(4), Some((7, SYNC)));
        gathering.met(true);
        gathering.learn(Duration::from_secs(1), 8, 0);
        assert_eq!((gathering.wanted(8), gathering.wanted(0)), (None, None));
        assert_eq!(gathering.wanted(1), Some((7, MAX_PATIENCE)));
    }

    #[test]
    fn those_who_do_not_come_are_waited_for_ever_less_often() {
        let mut gathering = Gathering::default();
        gathering.learn(SYNC, 4, 4);
        let mut attempts = 0;
        for _ in 0..320 {
            if gathering.wanted(4).is_some() {
                attempts += 1;
                gathering.met(false);
            }
        }
        assert!((10..=16).contains(&attempts), "{attempts}");
        while gathering.wanted(4).is_none() {}
        gathering.met(true);
        assert!(gathering.wanted(4).is_some());
    }
}
