//! Lines about how long deliveries took: after every N of them, percentiles over the last N. Pure.

use std::fmt;
use std::time::Duration;

/// Below this number, percentiles say little.
pub const MIN_ACCURATE: usize = 100;

/// Collects durations.
#[derive(Debug)]
pub struct Timings {
    prefix: String,
    every: usize,
    times: Vec<Duration>,
}

/// The percentiles of the last durations.
#[derive(Debug, PartialEq, Eq)]
pub struct Summary {
    pub prefix: String,
    pub count: usize,
    pub p99: Duration,
    pub p95: Duration,
    pub average: Duration,
}

impl Timings {
    /// Collects `every` durations per line; 0 collects none.
    pub fn new(prefix: String, every: usize) -> Self {
        Timings { prefix, every, times: Vec::new() }
    }

    /// Adds a duration. Returns a summary when there are enough, and starts over.
    pub fn add(&mut self, took: Duration) -> Option<Summary> {
        if self.every == 0 {
            return None;
        }
        self.times.push(took);
        if self.times.len() < self.every {
            return None;
        }
        let count = self.times.len();
        let average = self.times.iter().sum::<Duration>() / u32::try_from(count).unwrap_or(u32::MAX);
        self.times.sort_unstable();
        let (p99, p95) = (self.percentile(99), self.percentile(95));
        self.times.clear();
        Some(Summary { prefix: self.prefix.clone(), count, p99, p95, average })
    }

    fn percentile(&self, percent: usize) -> Duration {
        // As NSQ's tools round it: the next index after the fraction and a half.
        let index = (2 * percent * self.times.len() + 100).div_ceil(200);
        self.times[index.min(self.times.len() - 1)]
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        let Summary { prefix, count, p99, p95, average } = self;
        let (p99, p95, average) = (ms(*p99), ms(*p95), ms(*average));
        write!(f, "{prefix} finished {count} - 99th: {p99:.2}ms - 95th: {p95:.2}ms - avg: {average:.2}ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_comes_after_every_so_many() {
        let mut timings = Timings::new("[aggregate]:".to_owned(), 200);
        let lines: Vec<String> = (1..=400)
            .filter_map(|ms| timings.add(Duration::from_millis(ms)))
            .map(|s| s.to_string())
            .collect();
        assert_eq!(
            lines,
            [
                "[aggregate]: finished 200 - 99th: 200.00ms - 95th: 192.00ms - avg: 100.50ms",
                "[aggregate]: finished 200 - 99th: 400.00ms - 95th: 392.00ms - avg: 300.50ms"
            ]
        );
        let mut none = Timings::new(String::new(), 0);
        assert_eq!(none.add(Duration::ZERO), None);
    }
}
