//! Pure: how many bytes lie before a message of a log, by marks in the order of sequence numbers.
//!
//! A mark is a sequence number and the bytes of all messages before it, counted from an arbitrary start. Between two marks
//! the messages count as equally large. Marks are at most about [`Sizes::set_smallest`]` / 1000` bytes apart while the
//! bytes that are asked for are within a few times that; the more there is, the further apart they become, so that their
//! number is bounded.

use std::collections::VecDeque;

/// Marks per bound.
const PARTS: u64 = 1000;
/// Maximum number of marks. Beyond it, every other mark is dropped and the distance is doubled.
const MOST_MARKS: usize = 16 * 1024;

/// A number of messages and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    pub messages: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SizeMark {
    sequence: u64,
    bytes: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Sizes {
    /// There is always a last one, at the end of the log, once anything is noted.
    marks: VecDeque<SizeMark>,
    /// Bytes between marks; 0 if nothing is to be known.
    resolution: u64,
}

impl Sizes {
    /// Sets the smallest number of bytes that matters; 0 for none, which forgets everything. Returns whether what is in
    /// the log already has to be noted, with [`Sizes::note`].
    #[must_use]
    pub fn set_smallest(&mut self, bytes: u64) -> bool {
        if bytes == 0 {
            *self = Sizes::default();
            return false;
        }
        let was_off = self.resolution == 0;
        let resolution = (bytes / PARTS).max(1);
        self.resolution = if was_off { resolution } else { self.resolution.min(resolution) };
        was_off
    }

    /// The messages from the end of the log up to `end` have this many bytes. The first call says where the log begins.
    pub fn note(&mut self, end: u64, bytes: u64) {
        let Some(last) = self.marks.back().copied() else {
            self.marks.push_back(SizeMark { sequence: end, bytes: 0 });
            return;
        };
        let new = SizeMark { sequence: end.max(last.sequence), bytes: last.bytes.saturating_add(bytes) };
        let before = self.marks.len().checked_sub(2).map(|index| self.marks[index]);
        // What is noted at once is one mark, however large it is.
        match before {
            Some(before) if new.bytes - before.bytes <= self.resolution => {
                if let Some(last) = self.marks.back_mut() {
                    *last = new;
                }
            }
            _ => self.marks.push_back(new),
        }
        if self.marks.len() > MOST_MARKS {
            self.thin();
        }
    }

    fn thin(&mut self) {
        self.resolution = self.resolution.saturating_mul(2);
        let last = self.marks.len() - 1;
        let mut index = 0;
        self.marks.retain(|_| {
            index += 1;
            index % 2 == 1 || index > last
        });
    }

    /// Bytes of all messages, from the same start as [`Sizes::before`].
    pub fn total(&self) -> u64 {
        self.marks.back().map_or(0, |last| last.bytes)
    }

    /// Bytes of the messages before `sequence`, from an arbitrary start.
    pub fn before(&self, sequence: u64) -> u64 {
        let index = self.marks.partition_point(|mark| mark.sequence <= sequence);
        let Some(from) = index.checked_sub(1).map(|index| self.marks[index]) else {
            return self.marks.front().map_or(0, |first| first.bytes);
        };
        let Some(to) = self.marks.get(index) else { return from.bytes };
        let (part, whole) = (u128::from(sequence - from.sequence), u128::from(to.sequence - from.sequence));
        let bytes = u128::from(to.bytes - from.bytes) * part / whole.max(1);
        from.bytes + u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Bytes of the messages `from..to`.
    pub fn between(&self, from: u64, to: u64) -> u64 {
        self.before(to).saturating_sub(self.before(from))
    }

    /// The first message with at least `bytes` before it, in the count of [`Sizes::before`].
    pub fn sequence_at(&self, bytes: u64) -> u64 {
        let index = self.marks.partition_point(|mark| mark.bytes < bytes);
        let Some(to) = self.marks.get(index) else {
            return self.marks.back().map_or(0, |last| last.sequence);
        };
        let Some(from) = index.checked_sub(1).map(|index| self.marks[index]) else { return to.sequence };
        let (part, whole) = (u128::from(bytes - from.bytes), u128::from(to.bytes - from.bytes));
        let messages = (u128::from(to.sequence - from.sequence) * part).div_ceil(whole.max(1));
        from.sequence + u64::try_from(messages).unwrap_or(u64::MAX)
    }

    /// Forgets marks that only say what lies before `sequence`.
    pub fn forget_before(&mut self, sequence: u64) {
        while self.marks.get(1).is_some_and(|mark| mark.sequence <= sequence) {
            self.marks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sizes(smallest: u64) -> Sizes {
        let mut sizes = Sizes::default();
        assert!(sizes.set_smallest(smallest));
        sizes
    }

    #[test]
    fn bytes_of_equal_messages_are_exact() {
        let mut sizes = sizes(100_000);
        sizes.note(7, 0);
        (8..=1007).for_each(|end| sizes.note(end, 50));
        assert_eq!((sizes.before(7), sizes.between(7, 1007), sizes.between(107, 207)), (0, 50_000, 5000));
        assert_eq!((sizes.sequence_at(0), sizes.sequence_at(50), sizes.sequence_at(51)), (7, 8, 9));
        assert_eq!((sizes.before(0), sizes.before(2000), sizes.sequence_at(u64::MAX)), (0, 50_000, 1007));
        assert!(sizes.marks.len() < 510, "two messages per mark");
        sizes.forget_before(507);
        assert_eq!(sizes.between(507, 1007), 25_000);
        assert!(sizes.marks.len() < 260);
        assert!(!sizes.set_smallest(10));
        assert_eq!(sizes.resolution, 1);
        assert!(!sizes.set_smallest(0));
        assert_eq!((sizes.total(), sizes.marks.len()), (0, 0));
    }

    #[test]
    fn number_of_marks_is_bounded() {
        let mut sizes = sizes(1);
        sizes.note(0, 0);
        (1..=100_000).for_each(|end| sizes.note(end, 10));
        assert!(sizes.marks.len() <= MOST_MARKS);
        assert_eq!((sizes.total(), sizes.between(0, 50_000)), (1_000_000, 500_000));
    }

    proptest! {
        #[test]
        fn error_is_within_the_resolution(
            batches in prop::collection::vec((1u64..5, 0u64..300), 1..200),
            smallest in 1u64..100_000,
            at in 0usize..1000,
        ) {
            let mut sizes = sizes(smallest);
            sizes.note(0, 0);
            let (mut end, mut exact) = (0, vec![0]);
            let mut largest = 0;
            for (count, size) in batches {
                end += count;
                sizes.note(end, count * size);
                exact.extend((0..count).map(|_| size));
                largest = largest.max(count * size);
            }
            let total: u64 = exact.iter().sum();
            prop_assert_eq!(sizes.total(), total);
            let sequence = (at % exact.len()) as u64;
            let before: u64 = exact[..=sequence as usize].iter().sum();
            let error = sizes.before(sequence).abs_diff(before);
            prop_assert!(error <= (smallest / PARTS).max(1) + largest, "{} off", error);
            // The first message with that much before it, and not one later.
            let bytes = sizes.before(sequence);
            let found = sizes.sequence_at(bytes);
            prop_assert!(found <= sequence && sizes.before(found) >= bytes, "{} {}", found, sequence);
        }
    }
}
