//! Pure: sequence numbers of finished or skipped messages as ranges. Nearly always these are few and long.

use std::collections::VecDeque;

use crate::storage::SequenceRange;

/// Half-open ranges of sequence numbers in the order in which they were added; neighbours are merged.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Runs {
    ranges: VecDeque<SequenceRange>,
    count: u64,
}

impl Runs {
    /// Appends a range, and merges it with the newest one if they touch.
    pub fn push(&mut self, range: SequenceRange) {
        if range.is_empty() {
            return;
        }
        self.count += range.len();
        if let Some(newest) = self.ranges.back_mut() {
            if newest.to == range.from {
                newest.to = range.to;
                return;
            }
            if newest.from == range.to {
                newest.from = range.from;
                return;
            }
        }
        self.ranges.push_back(range);
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
        let index = self.ranges.partition_point(|range| range.to <= sequence);
        self.ranges.get(index).is_some_and(|range| range.from <= sequence)
    }

    /// The oldest range.
    pub fn first(&self) -> Option<SequenceRange> {
        self.ranges.front().copied()
    }

    /// Removes the oldest range.
    pub fn pop_first(&mut self) -> Option<SequenceRange> {
        let range = self.ranges.pop_front()?;
        self.count -= range.len();
        Some(range)
    }

    /// The ranges, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = SequenceRange> + '_ {
        self.ranges.iter().copied()
    }

    pub fn clear(&mut self) {
        self.ranges.clear();
        self.count = 0;
    }
}

impl FromIterator<SequenceRange> for Runs {
    fn from_iter<T: IntoIterator<Item = SequenceRange>>(ranges: T) -> Self {
        let mut runs = Runs::default();
        for range in ranges {
            runs.push(range);
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_neighbours_in_both_directions() {
        let ranges = [(5, 6), (6, 9), (4, 5), (20, 21), (3, 3)];
        let runs: Runs = ranges.into_iter().map(|(from, to)| SequenceRange { from, to }).collect();
        assert_eq!(runs.iter().collect::<Vec<_>>(), [SequenceRange::new(4, 9), SequenceRange::new(20, 21)]);
        assert_eq!(runs.count(), 6);
    }
}
