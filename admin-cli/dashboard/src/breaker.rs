//! Which daemons are not asked for a while because they failed repeatedly. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Failures in a row after which a daemon is skipped.
const FAILURES: u32 = 3;
/// How long it is skipped.
const PAUSE: Duration = Duration::from_secs(30);

/// The failures of each daemon, by address. Holds only daemons whose last request failed.
#[derive(Debug, Default)]
pub struct Breaker {
    failing: HashMap<String, (u32, Instant)>,
}

impl Breaker {
    /// Whether the daemon is skipped now. After the pause, one request may try it.
    pub fn is_open(&self, address: &str, now: Instant) -> bool {
        self.failing
            .get(address)
            .is_some_and(|(failures, last)| *failures >= FAILURES && now.duration_since(*last) < PAUSE)
    }

    /// Records that the daemon answered, even with an error.
    pub fn answered(&mut self, address: &str) {
        self.failing.remove(address);
    }

    /// Records that the daemon could not be reached in time.
    pub fn failed(&mut self, address: &str, now: Instant) {
        let (failures, last) = self.failing.entry(address.to_owned()).or_insert((0, now));
        *failures = failures.saturating_add(1);
        *last = now;
    }

    /// Forgets daemons that have not been asked for long.
    pub fn forget_old(&mut self, now: Instant) {
        self.failing.retain(|_, (_, last)| now.duration_since(*last) < 10 * PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_in_a_row_open_the_breaker_for_a_while() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        breaker.failed("a:1", now);
        breaker.failed("a:1", now);
        breaker.answered("a:1");
        for _ in 0..FAILURES {
            assert!(!breaker.is_open("a:1", now));
            breaker.failed("a:1", now);
        }
        assert!(breaker.is_open("a:1", now) && !breaker.is_open("b:1", now));
        assert!(!breaker.is_open("a:1", now + PAUSE));
        breaker.forget_old(now + 11 * PAUSE);
        assert!(breaker.failing.is_empty());
    }
}
