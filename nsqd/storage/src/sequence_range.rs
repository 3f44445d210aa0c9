//! Pure: ranges of sequence numbers.

use std::{fmt, ops::Range};

use serde::{Deserialize, Serialize};

/// The sequence numbers from `from` on, before `to`. Empty unless `from` is less than `to`.
///
/// Ordered by `from`, then `to`. A checkpoint holds it as an array of both. In the journal, [`RunList`] encodes it.
///
/// [`RunList`]: super::record::RunList
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SequenceRange {
    pub from: u64,
    /// One past the last sequence number.
    pub to: u64,
}

impl SequenceRange {
    pub const fn new(from: u64, to: u64) -> Self {
        Self { from, to }
    }

    /// The range that contains only `sequence`, which must be less than `u64::MAX`.
    pub const fn one(sequence: u64) -> Self {
        Self { from: sequence, to: sequence + 1 }
    }

    /// Number of sequence numbers.
    pub const fn len(self) -> u64 {
        self.to.saturating_sub(self.from)
    }

    pub const fn is_empty(self) -> bool {
        self.from >= self.to
    }

    pub const fn contains(self, sequence: u64) -> bool {
        self.from <= sequence && sequence < self.to
    }

    /// The sequence numbers that are in both ranges.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), to: self.to.min(other.to) }
    }

    /// The sequence numbers, in order.
    pub const fn iter(self) -> Range<u64> {
        self.from..self.to
    }
}

impl fmt::Debug for SequenceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.from, self.to)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_sets(a in (0u64..20, 0u64..20), b in (0u64..20, 0u64..20)) {
            let (a, b) = (SequenceRange::new(a.0, a.1), SequenceRange::new(b.0, b.1));
            let set = |range: SequenceRange| range.iter().collect::<BTreeSet<u64>>();
            prop_assert_eq!(a.len(), set(a).len() as u64);
            prop_assert_eq!(a.is_empty(), set(a).is_empty());
            prop_assert_eq!(set(a.intersect(b)), set(a).intersection(&set(b)).copied().collect());
            for sequence in 0..21 {
                prop_assert_eq!(a.contains(sequence), set(a).contains(&sequence));
            }
        }
    }

    #[test]
    fn a_checkpoint_holds_a_range_as_an_array_of_both_ends() {
        let ranges = vec![SequenceRange::one(7), SequenceRange::new(1 << 40, u64::MAX)];
        let bytes = rmp_serde::to_vec(&ranges).unwrap();
        assert_eq!(bytes, rmp_serde::to_vec(&[(7_u64, 8_u64), (1 << 40, u64::MAX)]).unwrap());
        assert_eq!(rmp_serde::from_slice::<Vec<SequenceRange>>(&bytes).unwrap(), ranges);
        assert_eq!(format!("{ranges:?}"), format!("[7..8, {}..{}]", 1_u64 << 40, u64::MAX));
    }
}
