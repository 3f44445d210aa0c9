//! Pure: how long messages took from publishing to FIN, over the newest part of the past.
//!
//! A message's timestamp stands in its frame, so a take knows it and FIN does not. While latencies are measured, takes
//! note it beside the in-flight record, by the same slot; otherwise there is nothing of all this.

use hdrhistogram::Histogram;

use super::outstanding::Slot;
use super::saved::Clocks;
use crate::clock::Nanos;

/// Shorter latencies are not told apart, in nanoseconds.
const RESOLUTION_NS: u64 = 1_000;
/// A value is off by less than one part in 10 to the power of this.
const SIGNIFICANT_DIGITS: u8 = 2;

/// Why adding to a histogram cannot fail.
pub const TAKES_ALL: &str = "a histogram that resizes itself takes all values";

/// Latencies in nanoseconds, by their frequency.
pub type LatencyHistogram = Histogram<u32>;

/// A histogram of no latencies.
pub fn no_latencies() -> LatencyHistogram {
    let mut histogram = Histogram::new_with_bounds(RESOLUTION_NS, 2 * RESOLUTION_NS, SIGNIFICANT_DIGITS)
        .expect("the bounds are constant and valid");
    histogram.auto(true);
    histogram
}

/// See the module. Keeps two halves of the window, as NSQ does: when the newer one is over, the older one goes. So it
/// tells of the last half to whole window.
#[derive(Debug)]
pub struct Latencies {
    /// By slot: the timestamp of the message that is outstanding there.
    published_at: Vec<i64>,
    half: Nanos,
    newer_ends: Nanos,
    newer: LatencyHistogram,
    older: LatencyHistogram,
}

impl Latencies {
    /// Measures over windows of this length.
    pub fn new(window: Nanos) -> Self {
        let half = (window / 2).max(1);
        Latencies {
            published_at: Vec::new(),
            half,
            newer_ends: 0,
            newer: no_latencies(),
            older: no_latencies(),
        }
    }

    /// The message in `slot` was handed out, and this is its timestamp.
    pub fn handed_out(&mut self, slot: Slot, published_at: i64) {
        let index = slot as usize;
        if index >= self.published_at.len() {
            self.published_at.resize(index + 1, 0);
        }
        self.published_at[index] = published_at;
    }

    /// The message in `slot` was finished.
    pub fn finished(&mut self, slot: Slot, now: Clocks) {
        let Some(&published_at) = self.published_at.get(slot as usize) else { return };
        if now.monotonic >= self.newer_ends {
            self.turn(now.monotonic);
        }
        // Negative only if somebody has set the clock back.
        let latency = u64::try_from(now.wall_ns.saturating_sub(published_at)).unwrap_or(0);
        self.newer.record(latency).expect(TAKES_ALL);
    }

    /// The newer half is over.
    fn turn(&mut self, now: Nanos) {
        let both_over = now >= self.newer_ends.saturating_add(self.half);
        std::mem::swap(&mut self.newer, &mut self.older);
        self.newer.reset();
        if both_over {
            self.older.reset();
        }
        self.newer_ends = now.saturating_add(self.half);
    }

    /// Adds the window's latencies to `sum`.
    pub fn add_to(&self, sum: &mut LatencyHistogram, now: Nanos) {
        let over_since = now.checked_sub(self.newer_ends);
        let halves = match over_since {
            None => &[&self.newer, &self.older][..],
            Some(since) if since < self.half => &[&self.newer],
            Some(_) => &[],
        };
        for half in halves.iter().filter(|half| !half.is_empty()) {
            sum.add(*half).expect(TAKES_ALL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Nanos = 1_000;

    fn finish_at(latencies: &mut Latencies, monotonic: Nanos, took: i64) {
        latencies.handed_out(3, 5_000_000);
        latencies.finished(3, Clocks { monotonic, wall_ns: 5_000_000 + took });
    }

    fn count_at(latencies: &Latencies, now: Nanos) -> u64 {
        let mut sum = no_latencies();
        latencies.add_to(&mut sum, now);
        sum.len()
    }

    #[test]
    fn quantiles_are_close_to_the_truth() {
        let mut latencies = Latencies::new(WINDOW);
        for took in 1..=10_000 {
            finish_at(&mut latencies, 10, took * 10_000);
        }
        let mut sum = no_latencies();
        latencies.add_to(&mut sum, 10);
        assert_eq!(sum.len(), 10_000);
        for (quantile, truth) in [(0.5, 50e6), (0.99, 99e6), (0.999, 99.9e6), (1.0, 100e6)] {
            let value = sum.value_at_quantile(quantile) as f64;
            assert!((value - truth).abs() / truth < 0.01, "{quantile}: {value} is not {truth}");
        }
    }

    #[test]
    fn what_is_older_than_the_window_goes() {
        let mut latencies = Latencies::new(WINDOW);
        finish_at(&mut latencies, 10, 1);
        assert_eq!(count_at(&latencies, 10), 1);
        finish_at(&mut latencies, 600, 1);
        assert_eq!(count_at(&latencies, 1_000), 2, "the older half counts until the newer one is over");
        assert_eq!(count_at(&latencies, 1_100), 1);
        assert_eq!(count_at(&latencies, 1_600), 0);
        finish_at(&mut latencies, 9_000, 1);
        assert_eq!(count_at(&latencies, 9_000), 1, "after a long silence nothing old comes back");
    }

    #[test]
    fn a_clock_that_was_set_back_and_an_unknown_slot_do_no_harm() {
        let mut latencies = Latencies::new(WINDOW);
        finish_at(&mut latencies, 10, -7_000);
        latencies.finished(99, Clocks { monotonic: 10, wall_ns: 0 });
        finish_at(&mut latencies, 10, i64::MAX - 5_000_000);
        let mut sum = no_latencies();
        latencies.add_to(&mut sum, 10);
        assert_eq!(sum.len(), 2);
        assert_eq!(sum.min(), 0);
    }
}
