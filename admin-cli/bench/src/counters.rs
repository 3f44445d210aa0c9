//! Counters of messages and their times, written by many threads and read by one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A clock that all threads share.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Starts the clock.
    pub fn start() -> Self {
        Clock { origin: Instant::now() }
    }

    /// Nanoseconds since the start.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }
}

/// The counts of one thread. It has its own cache lines, so that counting does not disturb other threads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counter {
    messages: AtomicU64,
    redelivered: AtomicU64,
    last_ns: AtomicU64,
}

impl Counter {
    /// Adds `messages`, of which `redelivered` were handed out before. `now_ns` is when they were done.
    pub fn add(&self, messages: u64, redelivered: u64, now_ns: u64) {
        if messages > 0 {
            self.last_ns.store(now_ns, Ordering::Relaxed);
            self.redelivered.fetch_add(redelivered, Ordering::Relaxed);
            // Stored last, with release: a reader that sees the count also sees its time.
            self.messages.fetch_add(messages, Ordering::Release);
        }
    }
}

/// A number of messages, and the time from the phase's start to the last of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flow {
    pub messages: u64,
    pub redelivered: u64,
    pub seconds: f64,
}

impl Flow {
    /// The sum of several counters.
    pub fn sum(counters: &[Counter], start_ns: u64) -> Self {
        let mut flow = Flow::default();
        let mut last_ns = start_ns;
        for counter in counters {
            flow.messages += counter.messages.load(Ordering::Acquire);
            flow.redelivered += counter.redelivered.load(Ordering::Relaxed);
            last_ns = last_ns.max(counter.last_ns.load(Ordering::Relaxed));
        }
        Flow { seconds: (last_ns - start_ns) as f64 / 1e9, ..flow }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flow_ends_with_its_last_message() {
        let counters = [Counter::default(), Counter::default(), Counter::default()];
        assert_eq!(Flow::sum(&counters, 7), Flow::default());
        counters[0].add(3, 1, 2_000_000_007);
        counters[1].add(4, 0, 1_000_000_007);
        counters[1].add(0, 0, 9_000_000_007);
        assert_eq!(Flow::sum(&counters, 7), Flow { messages: 7, redelivered: 1, seconds: 2.0 });
    }
}
