//! Delay before the next attempt to connect. Pure.

use std::time::Duration;

/// Doubles from `min` to `max` with every failure.
#[derive(Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// The first delay is `min`.
    pub fn new(min: Duration, max: Duration) -> Self {
        Backoff { min, max, next: min }
    }

    /// Returns the next delay. `jitter`, 0 to 1, shortens it by up to half, so that the nodes of a cluster do not all
    /// reconnect to a restarted nsqlookupd at the same moment.
    pub fn delay(&mut self, jitter: f64) -> Duration {
        let delay = self.next.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0);
        self.next = (self.next * 2).min(self.max);
        delay.max(self.min)
    }

    /// Returns to `min` after a success.
    pub fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_up_to_the_maximum() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(15));
        let delays: Vec<u128> = (0..10).map(|_| backoff.delay(0.0).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 15000, 15000]);
        backoff.reset();
        assert_eq!(backoff.delay(0.0).as_millis(), 100);
        assert_eq!(backoff.delay(1.0).as_millis(), 100);
        assert_eq!(backoff.delay(1.0).as_millis(), 200);
    }
}
