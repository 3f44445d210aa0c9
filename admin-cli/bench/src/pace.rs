//! Due times at a fixed rate.

/// A schedule: item `n` is due at `start + n / rate`, whatever happened to earlier items.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    start_ns: u64,
    interval_ns: f64,
}

impl Pace {
    /// The first item is due at `start_ns`.
    pub fn new(start_ns: u64, items_per_second: f64) -> Self {
        Pace { start_ns, interval_ns: 1e9 / items_per_second }
    }

    /// When item `n` (from 0) is due.
    pub fn due_ns(&self, n: u64) -> u64 {
        self.start_ns + (n as f64 * self.interval_ns) as u64
    }

    /// How many items are due by `now_ns`.
    pub fn due_count(&self, now_ns: u64) -> u64 {
        let Some(elapsed) = now_ns.checked_sub(self.start_ns) else { return 0 };
        let mut count = (elapsed as f64 / self.interval_ns) as u64 + 1;
        // Because of rounding, the quotient may disagree with `due_ns` by an item.
        while count > 0 && self.due_ns(count - 1) > now_ns {
            count -= 1;
        }
        while self.due_ns(count) <= now_ns {
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_due_at_even_intervals() {
        let pace = Pace::new(1_000, 50.0);
        assert_eq!([0, 1, 50].map(|n| pace.due_ns(n)), [1_000, 20_001_000, 1_000_001_000]);
        assert_eq!(pace.due_count(999), 0);
        assert_eq!(pace.due_count(1_000), 1);
        assert_eq!(pace.due_count(20_000_999), 1);
        assert_eq!(pace.due_count(20_001_000), 2);
    }

    #[test]
    fn due_count_agrees_with_due_ns() {
        for rate in [0.3, 7.0, 333.3, 49_999.7, 12_345_678.9] {
            let pace = Pace::new(77, rate);
            for n in (0..2_000_000).step_by(997) {
                let due = pace.due_ns(n);
                assert!(pace.due_count(due) > n, "item {n} at {rate}/s");
                assert!(due == 77 || pace.due_count(due - 1) <= n, "item {n} at {rate}/s");
            }
        }
    }
}
