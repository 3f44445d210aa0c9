//! A counter that threads update without sharing a cache line.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// More threads than this share stripes, which only costs time.
pub(super) const STRIPES: usize = 8;

/// The stripe of the current thread.
pub(super) fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Relaxed) % STRIPES;
    }
    MINE.with(|mine| *mine)
}

/// A counter in its own cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line(AtomicU64);

/// A count that only grows.
///
/// ```
/// let bytes = nsq_daemon::metrics::Counter::default();
/// bytes.add(3);
/// bytes.add(4);
/// assert_eq!(bytes.get(), 7);
/// ```
#[derive(Debug, Default)]
pub struct Counter([Line; STRIPES]);

impl Counter {
    /// Adds `count`; wraps around on overflow.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0[stripe()].0.fetch_add(count, Relaxed);
    }

    /// The sum of all additions so far, of all threads.
    pub fn get(&self) -> u64 {
        self.0.iter().fold(0, |sum, line| sum.wrapping_add(line.0.load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_threads_add_up() {
        let counter = Counter::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * STRIPES {
                scope.spawn(|| (0..1000).for_each(|_| counter.add(2)));
            }
        });
        assert_eq!(counter.get(), 2 * STRIPES as u64 * 2000);
    }
}
