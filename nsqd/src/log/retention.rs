//! Pure: which finished messages a topic retains, and for how long.
//!
//! Messages are deleted in *pieces*: segment files, and chunks that are only in memory. A piece holds at most an eighth
//! of what is retained; this is the accuracy of the limits.

use std::collections::BTreeMap;

use crate::clock::Nanos;
use crate::log::Ranges;
use crate::storage::{ChannelNumber, SequenceRange};

/// Limits of retention. A piece is deleted when it exceeds any limit that is set. Without a limit, nothing is retained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// `--retain-for`, nanoseconds; 0 for no limit.
    pub age: Nanos,
    /// `--retain-bytes`; 0 for no limit.
    pub bytes: u64,
}

/// A piece holds at most one in this many parts of what is retained.
const PIECES: u64 = 8;

/// A unit that is retained or deleted as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// One past its newest message.
    pub end_sequence: u64,
    pub bytes: u64,
    pub place: PiecePlace,
}

/// Where a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PiecePlace {
    /// The segment file of this number.
    File(u64),
    /// In memory; with the timestamp of the newest message.
    Memory(i64),
}

impl Retention {
    /// Whether nothing is retained.
    pub fn is_off(&self) -> bool {
        self.age == 0 && self.bytes == 0
    }

    /// Whether a piece that begins at `oldest_ns` and has `bytes` must not take `more_bytes` with messages up to
    /// `newest_ns`.
    pub fn closes(&self, oldest_ns: i64, bytes: u64, newest_ns: i64, more_bytes: u64) -> bool {
        let too_old = self.age > 0 && oldest_ns < newest_ns.saturating_sub_unsigned(self.age / PIECES);
        too_old || (self.bytes > 0 && bytes + more_bytes > self.bytes / PIECES)
    }

    /// The first retained message at `now_ns`, if it was `from` before. `pieces` are all pieces, ordered by their ends.
    /// `newest_ns` returns the timestamp of the newest message of a piece; it is called for the oldest pieces only. A
    /// piece without messages (`None`) does not advance the result: its messages may be in a later piece.
    pub fn advance<E>(
        &self,
        from: u64,
        now_ns: i64,
        pieces: &[Piece],
        mut newest_ns: impl FnMut(&Piece) -> Result<Option<i64>, E>,
    ) -> Result<u64, E> {
        let retained = &pieces[pieces.partition_point(|piece| piece.end_sequence <= from)..];
        let mut bytes: u64 = retained.iter().map(|piece| piece.bytes).sum();
        let mut from = from;
        for piece in retained {
            let too_many = self.bytes > 0 && bytes > self.bytes;
            if !too_many && self.age == 0 {
                break;
            }
            if let Some(newest_ns) = newest_ns(piece)? {
                if !too_many && newest_ns >= now_ns.saturating_sub_unsigned(self.age) {
                    break;
                }
                from = piece.end_sequence;
            }
            bytes -= piece.bytes;
        }
        Ok(from)
    }
}

/// What a log remembers for channels that reach messages later than others.
#[derive(Debug)]
pub struct RetainedMarks {
    /// Finished messages from here on are retained; `u64::MAX` if none are.
    pub retained_from: u64,
    /// Void sequence numbers (from, to): refused or emptied. They must not be delivered, though the log may hold them.
    /// These ranges are not empty, and neither overlap nor touch.
    void: BTreeMap<u64, u64>,
    /// Published deferred and not due yet: from, to and due time.
    deferred: BTreeMap<u64, (u64, Nanos)>,
    /// Only one channel receives these: from, to and the channel.
    targeted: BTreeMap<u64, (u64, ChannelNumber)>,
}

impl Default for RetainedMarks {
    fn default() -> Self {
        RetainedMarks {
            retained_from: u64::MAX,
            void: BTreeMap::new(),
            deferred: BTreeMap::new(),
            targeted: BTreeMap::new(),
        }
    }
}

impl RetainedMarks {
    /// Marks the messages `from..to` as void.
    pub fn add_void(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        self.deferred.retain(|first, (end, _)| *first < from || *end > to);
        let (mut from, mut to) = (from, to);
        while let Some((&start, &end)) = self.void.range(..=to).next_back()
            && end >= from
        {
            self.void.remove(&start);
            (from, to) = (from.min(start), to.max(end));
        }
        self.void.insert(from, to);
    }

    /// Records that the messages `from..to` are due at `due`, if finished messages are retained.
    pub fn add_deferred(&mut self, from: u64, to: u64, due: Nanos) {
        if self.retained_from != u64::MAX && self.void_until(from).is_none() {
            self.deferred.insert(from, (to, due));
        }
    }

    /// Records that only this channel receives the messages `from..to`.
    pub fn add_targeted(&mut self, from: u64, to: u64, channel: ChannelNumber) {
        if from >= to {
            return;
        }
        match self.targeted.range_mut(..=from).next_back() {
            Some((_, (end, of))) if *end >= from && *of == channel => *end = to.max(*end),
            _ => _ = self.targeted.insert(from, (to, channel)),
        }
    }

    /// Messages that only one channel receives, in order.
    pub fn targeted(&self) -> impl Iterator<Item = (SequenceRange, ChannelNumber)> + '_ {
        self.targeted.iter().map(|(&from, &(to, channel))| (SequenceRange { from, to }, channel))
    }

    /// Void ranges, in order.
    pub fn void(&self) -> impl Iterator<Item = SequenceRange> + '_ {
        self.void.iter().map(|(&from, &to)| SequenceRange { from, to })
    }

    /// The end of the void range that contains this sequence number.
    pub fn void_until(&self, sequence: u64) -> Option<u64> {
        let (_, &to) = self.void.range(..=sequence).next_back()?;
        (to > sequence).then_some(to)
    }

    /// Messages that are not due yet, in order, with their due times.
    pub fn deferred(&self) -> impl Iterator<Item = (SequenceRange, Nanos)> + '_ {
        self.deferred.iter().map(|(&from, &(to, due))| (SequenceRange { from, to }, due))
    }

    /// Forgets ranges that end at or before `sequence`.
    pub fn forget_before(&mut self, sequence: u64) {
        while let Some(first) = self.void.first_entry()
            && *first.get() <= sequence
        {
            first.remove();
        }
        while let Some(first) = self.deferred.first_entry()
            && first.get().0 <= sequence
        {
            first.remove();
        }
        while let Some(first) = self.targeted.first_entry()
            && first.get().0 <= sequence
        {
            first.remove();
        }
    }

    /// Forgets messages that are due at `now`.
    pub fn forget_due(&mut self, now: Nanos) {
        self.deferred.retain(|_, (_, due)| *due > now);
    }
}

/// The parts of `within` that are in none of `ranges`, which are in order but may overlap.
pub fn gaps(within: SequenceRange, ranges: impl IntoIterator<Item = SequenceRange>) -> Ranges {
    let mut gaps = Vec::new();
    let mut at = within.from;
    for range in ranges {
        let start = range.from.min(within.to);
        if start > at {
            gaps.push(SequenceRange::new(at, start));
        }
        at = at.max(range.to);
    }
    if at < within.to {
        gaps.push(SequenceRange::new(at, within.to));
    }
    gaps
}

/// Sorts and merges ranges, so that they do not overlap.
pub fn merged(mut ranges: Vec<SequenceRange>) -> Ranges {
    ranges.sort_unstable();
    let mut merged = Ranges::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.to >= range.from => last.to = last.to.max(range.to),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    /// Pieces of 100 bytes and ten messages, one a second.
    fn pieces(count: u64) -> Vec<Piece> {
        (1..=count)
            .map(|index| Piece {
                end_sequence: index * 10,
                bytes: 100,
                place: PiecePlace::Memory(index as i64 * SECOND),
            })
            .collect()
    }

    fn advance(retention: Retention, from: u64, now_s: i64, pieces: &[Piece]) -> u64 {
        let newest = |piece: &Piece| match piece.place {
            PiecePlace::Memory(newest) => Ok::<_, Infallible>(Some(newest)),
            PiecePlace::File(_) => Ok(None),
        };
        let Ok(from) = retention.advance(from, now_s * SECOND, pieces, newest);
        from
    }

    #[test]
    fn first_limit_reached_applies() {
        let age = Retention { age: 3 * SECOND as u64, bytes: 0 };
        assert_eq!(advance(age, 0, 8, &pieces(8)), 40);
        assert_eq!(advance(age, 60, 8, &pieces(8)), 60, "the result never moves back");
        assert_eq!(advance(age, 0, 100, &pieces(8)), 80, "in the end, everything is deleted");
        let bytes = Retention { age: 0, bytes: 250 };
        assert_eq!(advance(bytes, 0, 8, &pieces(8)), 60);
        let both = Retention { age: 3 * SECOND as u64, bytes: 250 };
        assert_eq!(advance(both, 0, 8, &pieces(8)), 60);
        assert_eq!(advance(both, 0, 12, &pieces(8)), 80);
        assert_eq!(advance(both, 0, 5, &[]), 0);
    }

    #[test]
    fn file_without_messages_does_not_advance() {
        let mut pieces = pieces(4);
        // Its only block was damaged, and its messages were restored to the file after it.
        pieces.insert(0, Piece { end_sequence: 10, bytes: 100, place: PiecePlace::File(1) });
        let age = Retention { age: 10 * SECOND as u64, bytes: 0 };
        assert_eq!(advance(age, 0, 5, &pieces), 0);
        assert_eq!(advance(age, 0, 12, &pieces), 10);
        let bytes = Retention { age: 0, bytes: 400 };
        assert_eq!(advance(bytes, 0, 5, &pieces), 0);
        assert_eq!(advance(bytes, 0, 5, &pieces[1..]), 0);
        assert_eq!(advance(Retention { age: 0, bytes: 399 }, 0, 5, &pieces), 10);
    }

    #[test]
    fn a_file_takes_an_eighth_of_either_limit() {
        let retention = Retention { age: 80 * SECOND as u64, bytes: 8000 };
        assert!(!retention.closes(0, 500, 10 * SECOND, 500));
        assert!(retention.closes(0, 500, 10 * SECOND + 1, 500));
        assert!(retention.closes(0, 500, 10 * SECOND, 501));
        assert!(!Retention { age: 0, bytes: 8000 }.closes(0, 0, i64::MAX, 1000));
    }

    proptest! {
        #[test]
        fn void_and_gaps_are_sets(ranges in prop::collection::vec((0u64..60, 1u64..10), 0..12), from in 0u64..40, length in 0u64..40) {
            let set: BTreeSet<u64> = ranges.iter().flat_map(|&(from, length)| from..from + length).collect();
            let mut retained_marks = RetainedMarks::default();
            ranges.iter().for_each(|&(from, length)| retained_marks.add_void(from, from + length));
            let void: Ranges = retained_marks.void().collect();
            prop_assert!(void.windows(2).all(|pair| pair[0].to < pair[1].from), "{void:?}");
            prop_assert_eq!(&void.iter().flat_map(|range| range.iter()).collect::<BTreeSet<u64>>(), &set);
            for sequence in 0..75 {
                let until = (sequence..).find(|n| !set.contains(n)).filter(|&end| end > sequence);
                prop_assert_eq!(retained_marks.void_until(sequence), until);
            }
            let within = SequenceRange::new(from, from + length);
            let all = merged(ranges.iter().map(|&(from, length)| SequenceRange::new(from, from + length)).collect());
            let gaps: BTreeSet<u64> = gaps(within, all).into_iter().flat_map(SequenceRange::iter).collect();
            prop_assert_eq!(gaps, within.iter().filter(|n| !set.contains(n)).collect::<BTreeSet<u64>>());
        }
    }
}
