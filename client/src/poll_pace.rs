//! How long to wait between two rounds of lookups. Pure.

use std::time::Duration;

/// The pause after the first round that finds nothing. It doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Asks often while there is nothing to connect to, and at the configured interval otherwise.
#[derive(Clone, Debug)]
pub(crate) struct PollPace {
    interval: Duration,
    /// Rounds in a row that found nothing.
    empty_rounds: u32,
}

impl PollPace {
    pub(crate) fn new(interval: Duration) -> Self {
        PollPace { interval, empty_rounds: 0 }
    }

    /// The pause before the next round. `found` tells whether a node is known.
    pub(crate) fn next_pause(&mut self, found: bool) -> Duration {
        if found {
            self.empty_rounds = 0;
            return self.interval;
        }
        let factor = 1u32.checked_shl(self.empty_rounds).unwrap_or(u32::MAX);
        self.empty_rounds = self.empty_rounds.saturating_add(1);
        FIRST_PAUSE.saturating_mul(factor).min(self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_interval_while_nothing_is_found() {
        let mut pace = PollPace::new(Duration::from_secs(60));
        let pauses: Vec<u64> = (0..9).map(|_| pace.next_pause(false).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pace.next_pause(true).as_secs(), 60);
        assert_eq!(pace.next_pause(false).as_secs(), 1, "the topic was deleted");
        let mut short = PollPace::new(Duration::from_millis(20));
        assert_eq!(short.next_pause(false), Duration::from_millis(20));
        for _ in 0..100 {
            assert!(pace.next_pause(false) <= Duration::from_secs(60));
        }
    }
}
