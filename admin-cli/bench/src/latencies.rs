//! Latency histograms, and the stamp in a message that says when it was due.

use std::sync::{Mutex, PoisonError};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Length of the stamp at the start of a body: the run's mark and the due time, eight bytes each.
pub const STAMP_BYTES: usize = 16;

/// Writes the stamp. Does nothing if `body` is too short.
pub fn put_stamp(body: &mut [u8], mark: u64, due_ns: u64) {
    if let Some((stamp, _)) = body.split_first_chunk_mut::<STAMP_BYTES>() {
        stamp[..8].copy_from_slice(&mark.to_be_bytes());
        stamp[8..].copy_from_slice(&due_ns.to_be_bytes());
    }
}

/// When the message was due; `None` if it is not from this run.
pub fn read_stamp(mark: u64, body: &[u8]) -> Option<u64> {
    let (theirs, rest) = body.split_first_chunk::<8>()?;
    let (due_ns, _) = rest.split_first_chunk::<8>()?;
    (u64::from_be_bytes(*theirs) == mark).then(|| u64::from_be_bytes(*due_ns))
}

/// Times of each message, measured from the moment it was due.
#[derive(Debug)]
pub struct Latencies {
    /// Until a consumer read it.
    pub delivered: Mutex<Histogram<u64>>,
    /// Until it was acknowledged.
    pub acknowledged: Mutex<Histogram<u64>>,
    /// Until it was sent: the generator's share of both.
    pub sent: Mutex<Histogram<u64>>,
}

impl Default for Latencies {
    fn default() -> Self {
        let [delivered, acknowledged, sent] = [(); 3].map(|()| Mutex::new(histogram()));
        Latencies { delivered, acknowledged, sent }
    }
}

/// Maximum time in a histogram: more than any run waits. Longer times count as this one.
const MAX_NS: u64 = 3_600 * 1_000_000_000;

/// A histogram of nanoseconds, with three significant digits.
fn histogram() -> Histogram<u64> {
    // With fixed bounds, recording is one addition, and merging is one addition per bucket.
    Histogram::new_with_bounds(1, MAX_NS, 3).unwrap_or_else(|_| unreachable!("the bounds are valid"))
}

/// A thread's own histogram. Dropping it adds it to the common one.
pub struct Recorder<'a> {
    own: Histogram<u64>,
    common: &'a Mutex<Histogram<u64>>,
}

impl<'a> Recorder<'a> {
    /// An empty recorder.
    pub fn new(common: &'a Mutex<Histogram<u64>>) -> Self {
        Recorder { own: histogram(), common }
    }

    /// Records one message.
    #[inline]
    pub fn record(&mut self, due_ns: u64, now_ns: u64) {
        self.own.saturating_record(now_ns.saturating_sub(due_ns));
    }
}

impl Drop for Recorder<'_> {
    fn drop(&mut self) {
        let mut common = self.common.lock().unwrap_or_else(PoisonError::into_inner);
        // Both have the same bounds, so this cannot fail.
        let _ = common.add(&self.own);
    }
}

/// Summary of a histogram, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    pub count: u64,
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    #[serde(rename = "p99.9")]
    pub p999: f64,
    pub max: f64,
}

impl Quantiles {
    /// Summarizes a histogram of nanoseconds.
    pub fn of(histogram: &Mutex<Histogram<u64>>) -> Self {
        let histogram = histogram.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
        let (min, max) = (histogram.min() as f64 / 1e6, histogram.max() as f64 / 1e6);
        let mean = histogram.mean() / 1e6;
        Quantiles {
            count: histogram.len(),
            min,
            mean,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pace::Pace;
    use super::*;

    #[test]
    fn stamp_is_read_only_with_its_mark() {
        let mut body = vec![b'x'; 20];
        put_stamp(&mut body, 77, 123_456);
        assert_eq!(read_stamp(77, &body), Some(123_456));
        assert_eq!(read_stamp(78, &body), None);
        assert_eq!(read_stamp(77, &body[..15]), None);
        assert_eq!(&body[16..], b"xxxx");
    }

    #[test]
    fn stall_counts_for_every_message_due_in_it() {
        // 1000 messages at 1000/s. The server takes 0.1 ms for each, but stalls from 400 to 500 ms.
        let pace = Pace::new(0, 1000.0);
        let latencies = Latencies::default();
        let mut recorder = Recorder::new(&latencies.delivered);
        for n in 0..1000 {
            let due_ns = pace.due_ns(n);
            let taken_up = if (400_000_000..500_000_000).contains(&due_ns) { 500_000_000 } else { due_ns };
            recorder.record(due_ns, taken_up + 100_000);
        }
        drop(recorder);
        let quantiles = Quantiles::of(&latencies.delivered);
        let near = |value: f64, expected: f64| (value - expected).abs() < expected * 0.01;
        // A generator that waits for each answer would have seen one slow message in 900: a p99 of 0.1 ms.
        assert!(near(quantiles.p50, 0.1), "{quantiles:?}");
        assert!(near(quantiles.p99, 90.1), "{quantiles:?}");
        assert!(near(quantiles.max, 100.1), "{quantiles:?}");
        assert_eq!(quantiles.count, 1000);
    }

    #[test]
    fn empty_histogram_has_zero_quantiles() {
        assert_eq!(Quantiles::of(&Latencies::default().sent), Quantiles::default());
    }
}
