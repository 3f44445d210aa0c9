//! When the next message may be handled, with a limit per second. Pure.

use std::time::{Duration, Instant};

/// What was not used in this time may be used at once.
const BURST: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(super) struct RateLimit {
    interval: Duration,
    /// When the next message would be due if the limit was always used up.
    next: Option<Instant>,
}

impl RateLimit {
    /// At most `per_second` messages, more than 0.
    pub(super) fn new(per_second: f64) -> Self {
        RateLimit { interval: Duration::from_secs_f64(1.0 / per_second), next: None }
    }

    /// Takes the next place. Returns when it is due.
    pub(super) fn reserve(&mut self, now: Instant) -> Instant {
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let due = self.next.unwrap_or(now).max(earliest);
        self.next = Some(due + self.interval);
        due.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_spread_over_the_second() {
        let start = Instant::now();
        let mut limit = RateLimit::new(10.0);
        let dues: Vec<u128> = (0..4).map(|_| (limit.reserve(start) - start).as_millis()).collect();
        assert_eq!(dues, [0, 100, 200, 300]);
        // After a pause, only a tenth of a second can be made up for.
        let later = start + Duration::from_secs(60);
        let dues: Vec<u128> = (0..3).map(|_| (limit.reserve(later) - later).as_millis()).collect();
        assert_eq!(dues, [0, 0, 100]);
        let mut slow = RateLimit::new(0.5);
        slow.reserve(start);
        assert_eq!(slow.reserve(start) - start, Duration::from_secs(2));
    }
}
