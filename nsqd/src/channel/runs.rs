//! Pure: sequence numbers of finished or skipped messages as ranges. Nearly always these are few and long.

use std::collections::VecDeque;

/// Half-open ranges of sequence numbers in the order in which they were added; neighbours are merged.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Runs {
    ranges: VecDeque<(u64, u64)>,
    count: u64,
}

impl Runs {
    /// Appends `from..to`, and merges it with the newest range if they touch.
    pub fn push(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        self.count += to - from;
        if let Some((start, end)) = self.ranges.back_mut() {
            if *end == from {
                *end = to;
                return;
            }
            if *start == to {
                *start = from;
                return;
            }
        }
        self.ranges.push_back((from, to));
    }

    /// Number of sequence numbers in all ranges.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether `sequence` is in a range. The ranges must have been added in order.
    pub fn contains(&self, sequence: u64) -> bool {
        let index = self.ranges.partition_point(|&(_, to)| to <= sequence);
        self.ranges.get(index).is_some_and(|&(from, _)| from <= sequence)
    }

    /// The oldest range.
    pub fn first(&self) -> Option<(u64, u64)> {
        self.ranges.front().copied()
    }

    /// Removes the oldest range.
    pub fn pop_first(&mut self) -> Option<(u64, u64)> {
        let range = self.ranges.pop_front()?;
        self.count -= range.1 - range.0;
        Some(range)
    }

    /// The ranges, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().copied()
    }

    pub fn clear(&mut self) {
        self.ranges.clear();
        self.count = 0;
    }
}

impl FromIterator<(u64, u64)> for Runs {
    fn from_iter<T: IntoIterator<Item = (u64, u64)>>(ranges: T) -> Self {
        let mut runs = Runs::default();
        for (from, to) in ranges {
            runs.push(from, to);
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_neighbours_in_both_directions() {
        let runs: Runs = [(5, 6), (6, 9), (4, 5), (20, 21), (3, 3)].into_iter().collect();
        assert_eq!(runs.iter().collect::<Vec<_>>(), [(4, 9), (20, 21)]);
        assert_eq!(runs.count(), 6);
    }
}
