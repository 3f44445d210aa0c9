//! Pure: a circuit breaker, which skips a daemon that fails repeatedly.

use std::time::{Duration, Instant};

/// For how long it is skipped.
pub(crate) const SKIP_FOR: Duration = Duration::from_secs(30);

/// The state of one daemon.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: u32,
    skip_until: Option<Instant>,
}

impl Breaker {
    /// Whether to ask the daemon.
    pub(crate) fn permits(&self, now: Instant) -> bool {
        self.skip_until.is_none_or(|until| now >= until)
    }

    pub(crate) fn succeeded(&mut self) {
        *self = Breaker::default();
    }

    /// Counts a failure; the daemon is skipped after this many in a row. After the time, one more failure suffices to skip
    /// it again.
    pub(crate) fn failed(&mut self, now: Instant, limit: u32) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= limit {
            self.skip_until = Some(now + SKIP_FOR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_skip_and_one_answer_ends_it() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            assert!(breaker.permits(start));
            breaker.failed(start, 3);
        }
        assert!(!breaker.permits(start + SKIP_FOR / 2));
        assert!(breaker.permits(start + SKIP_FOR));
        breaker.failed(start + SKIP_FOR, 3);
        assert!(!breaker.permits(start + SKIP_FOR + SKIP_FOR / 2));
        breaker.succeeded();
        breaker.failed(start, 3);
        assert!(breaker.permits(start));
    }
}
