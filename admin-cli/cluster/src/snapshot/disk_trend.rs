//! Pure: how fast the free space of a volume shrinks.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time over which the trend is measured.
const WINDOW: Duration = Duration::from_secs(10 * 60);
/// Time between two measurements that are kept: shorter changes are noise.
const STEP: Duration = Duration::from_secs(15);
/// Time that must be measured before there is a trend.
const LEAST: Duration = Duration::from_secs(30);

/// Measurements of the free space in the last minutes.
#[derive(Debug, Default)]
pub(crate) struct DiskTrend {
    /// At most [`WINDOW`] / [`STEP`] + 1.
    measured: VecDeque<(Instant, u64)>,
}

impl DiskTrend {
    /// Adds a measurement. Returns the bytes per second by which the space has shrunk; `None` without a trend yet.
    pub(crate) fn add(&mut self, at: Instant, free_bytes: u64) -> Option<f32> {
        while self.measured.front().is_some_and(|(then, _)| at.duration_since(*then) > WINDOW) {
            self.measured.pop_front();
        }
        if self.measured.back().is_none_or(|(then, _)| at.duration_since(*then) >= STEP) {
            self.measured.push_back((at, free_bytes));
        }
        let (then, before) = self.measured.front()?;
        let time = at.duration_since(*then);
        (time >= LEAST).then(|| ((*before as f64 - free_bytes as f64) / time.as_secs_f64()) as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trend_follows_the_last_minutes() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut trend = DiskTrend::default();
        assert_eq!(trend.add(at(0), 10_000), None);
        assert_eq!(trend.add(at(20), 8_000), None);
        assert_eq!(trend.add(at(40), 6_000), Some(100.0));
        // Files were deleted.
        assert_eq!(trend.add(at(80), 12_000), Some(-25.0));
        for second in 81..5000 {
            trend.add(at(second), 1_000_000 - second);
        }
        assert_eq!(trend.add(at(5000), 995_000), Some(1.0));
        assert!(trend.measured.len() <= 41, "{}", trend.measured.len());
    }
}
