//! Durations counted in buckets of powers of two.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::counter::{STRIPES, stripe};

/// Number of bounded buckets. Upper bounds are 1 µs, 2 µs, 4 µs and so on, up to 67 s; one more bucket has no bound.
const BOUNDS: usize = 27;

#[derive(Debug)]
#[repr(align(64))]
struct Stripe {
    buckets: [AtomicU64; BOUNDS + 1],
    sum_ns: AtomicU64,
}

/// Counts durations by bucket; any thread may record.
#[derive(Debug)]
pub struct Histogram(Box<[Stripe; STRIPES]>);

/// A histogram at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Buckets {
    /// Number of durations in each bucket, not cumulative; the last bucket has no bound.
    pub counts: Vec<u64>,
    /// Sum of all durations.
    pub sum: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram(Box::new(std::array::from_fn(|_| Stripe {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            sum_ns: AtomicU64::new(0),
        })))
    }
}

impl Histogram {
    /// Records a duration in nanoseconds.
    #[inline]
    pub fn record_ns(&self, ns: u64) {
        let stripe = &self.0[stripe()];
        stripe.buckets[bucket(ns)].fetch_add(1, Relaxed);
        stripe.sum_ns.fetch_add(ns, Relaxed);
    }

    /// Records a duration of at most `u64::MAX` nanoseconds; a longer one counts as that.
    #[inline]
    pub fn record(&self, duration: Duration) {
        self.record_ns(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// All durations recorded so far.
    pub fn buckets(&self) -> Buckets {
        let mut counts = vec![0; BOUNDS + 1];
        let mut sum_ns = 0_u64;
        for stripe in self.0.iter() {
            for (count, bucket) in counts.iter_mut().zip(&stripe.buckets) {
                *count += bucket.load(Relaxed);
            }
            sum_ns = sum_ns.wrapping_add(stripe.sum_ns.load(Relaxed));
        }
        Buckets { counts, sum: Duration::from_nanos(sum_ns) }
    }
}

/// The first bucket whose bound is at least `ns`.
#[inline]
fn bucket(ns: u64) -> usize {
    let microseconds = ns.div_ceil(1000);
    let log2_rounded_up = u64::BITS - microseconds.saturating_sub(1).leading_zeros();
    (log2_rounded_up as usize).min(BOUNDS)
}

/// The upper bounds of all buckets except the last, in seconds.
pub(super) fn bounds() -> impl Iterator<Item = f64> {
    (0..BOUNDS).map(|power| (1_u64 << power) as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_counts_in_the_first_bucket_that_holds_it() {
        for (ns, expected) in
            [(0, 0), (1, 0), (1000, 0), (1001, 1), (2000, 1), (2001, 2), (4000, 2), (4001, 3)]
        {
            assert_eq!(bucket(ns), expected, "{ns} ns");
        }
        assert_eq!(bucket(u64::MAX), BOUNDS);
        for (index, bound) in bounds().enumerate() {
            let ns = (bound * 1e9).round() as u64;
            assert_eq!((bucket(ns), bucket(ns + 1)), (index, index + 1));
        }
    }

    #[test]
    fn buckets_hold_what_was_recorded() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_micros(3));
        histogram.record_ns(3000);
        histogram.record(Duration::from_secs(100));
        let Buckets { counts, sum } = histogram.buckets();
        assert_eq!((counts[2], counts[BOUNDS], counts.iter().sum::<u64>()), (2, 1, 3));
        assert_eq!(sum, Duration::from_secs(100) + Duration::from_micros(6));
    }
}
