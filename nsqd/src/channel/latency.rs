//! Pure: the time from publishing to FIN, over a recent window.
//!
//! A message's timestamp is in its frame, so a take knows it and FIN does not. While latencies are measured, a take
//! stores the timestamp under the message's slot. Otherwise nothing is stored.

use hdrhistogram::Histogram;

use super::outstanding::Slot;
use super::saved::Clocks;
use crate::clock::Nanos;

/// Resolution of latencies, in nanoseconds.
const RESOLUTION_NS: u64 = 1_000;
/// The relative error of a value is less than 10 to the power of minus this.
const SIGNIFICANT_DIGITS: u8 = 2;

/// Why adding to a histogram cannot fail.
pub const TAKES_ALL: &str = "a resizable histogram accepts all values";

/// A histogram of latencies in nanoseconds.
pub type LatencyHistogram = Histogram<u32>;

/// An empty histogram.
pub fn no_latencies() -> LatencyHistogram {
    let mut histogram = Histogram::new_with_bounds(RESOLUTION_NS, 2 * RESOLUTION_NS, SIGNIFICANT_DIGITS)
        .expect("the bounds are constant and valid");
    histogram.auto(true);
    histogram
}

/// Measured latencies. Keeps two halves of the window, as NSQ does: when the newer half ends, the older one is dropped.
/// So the result covers between half a window and a whole window.
#[derive(Debug)]
pub struct Latencies {
    /// Timestamps of outstanding messages, by slot.
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

    /// Stores the timestamp of the message in `slot`, which was handed out.
    pub fn handed_out(&mut self, slot: Slot, published_at: i64) {
        let index = slot as usize;
        if index >= self.published_at.len() {
            self.published_at.resize(index + 1, 0);
        }
        self.published_at[index] = published_at;
    }

    /// Adds the latency of the message in `slot`, which was finished.
    pub fn finished(&mut self, slot: Slot, now: Clocks) {
        let Some(&published_at) = self.published_at.get(slot as usize) else { return };
        if now.monotonic >= self.newer_ends {
            self.rotate(now.monotonic);
        }
        // Negative only if the clock was set back.
        let latency = u64::try_from(now.wall_ns.saturating_sub(published_at)).unwrap_or(0);
        self.newer.record(latency).expect(TAKES_ALL);
    }

    /// Starts a new half when the newer one has ended.
    fn rotate(&mut self, now: Nanos) {
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
    fn quantiles_are_within_one_percent() {
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
    fn latencies_older_than_the_window_are_dropped() {
        let mut latencies = Latencies::new(WINDOW);
        finish_at(&mut latencies, 10, 1);
        assert_eq!(count_at(&latencies, 10), 1);
        finish_at(&mut latencies, 600, 1);
        assert_eq!(count_at(&latencies, 1_000), 2, "the older half counts until the newer one ends");
        assert_eq!(count_at(&latencies, 1_100), 1);
        assert_eq!(count_at(&latencies, 1_600), 0);
        finish_at(&mut latencies, 9_000, 1);
        assert_eq!(count_at(&latencies, 9_000), 1, "after a long silence, old latencies do not count");
    }

    #[test]
    fn clock_set_back_and_unknown_slot_are_tolerated() {
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
