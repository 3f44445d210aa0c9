//! Pure: the ranges ahead of a channel's cursor that are not handed out in order. Copies for checkpoints must be cheap:
//! there may be a million ranges, when every other message was deferred.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::storage::SequenceRange;

/// Half-open ranges of sequence numbers in order, without overlaps; neighbours are merged.
#[derive(Debug, Default, Clone)]
pub struct Skipped {
    /// Pieces are shared with copies and copied on write. No piece is empty.
    pieces: VecDeque<Arc<Vec<SequenceRange>>>,
    /// Number of ranges removed from the front of the first piece.
    popped_count: usize,
    count: u64,
}

/// Ranges per piece; few in tests, which then have many pieces.
const PIECE: usize = if cfg!(test) { 4 } else { 256 };

impl Skipped {
    /// Appends a range.
    pub fn push(&mut self, range: SequenceRange) {
        if range.is_empty() {
            return;
        }
        self.count += range.len();
        if let Some(last) = self.pieces.back_mut() {
            let is_neighbour = last.last().is_some_and(|newest| newest.to == range.from);
            if is_neighbour || last.len() < PIECE {
                let last = Arc::make_mut(last);
                match last.last_mut().filter(|_| is_neighbour) {
                    Some(newest) => newest.to = range.to,
                    None => last.push(range),
                }
                return;
            }
        }
        self.pieces.push_back(Arc::new(vec![range]));
    }

    /// Adds a range anywhere. It must not overlap others. Changes one piece.
    pub fn insert(&mut self, range: SequenceRange) {
        if range.is_empty() {
            return;
        }
        let is_before = |known: Option<&SequenceRange>| known.is_some_and(|known| known.to < range.from);
        let index = self.pieces.partition_point(|piece| is_before(piece.last()));
        if index == self.pieces.len() {
            return self.push(range);
        }
        self.count += range.len();
        let popped_count = if index == 0 { self.popped_count } else { 0 };
        let piece = Arc::make_mut(&mut self.pieces[index]);
        if popped_count > 0 {
            piece.drain(..popped_count);
            self.popped_count = 0;
        }
        let at = piece.partition_point(|known| is_before(Some(known)));
        match piece.get_mut(at) {
            Some(before) if before.to == range.from => {
                before.to = range.to;
                let to = range.to;
                let follows = piece.get(at + 1).copied().filter(|next| next.from == to);
                if let Some(next) = follows {
                    piece[at].to = next.to;
                    piece.remove(at + 1);
                } else if at + 1 == piece.len() {
                    self.join_with_next(index);
                }
            }
            Some(after) if after.from == range.to => after.from = range.from,
            _ => piece.insert(at, range),
        }
        let piece = Arc::make_mut(&mut self.pieces[index]);
        if piece.len() > 2 * PIECE {
            let rest = piece.split_off(piece.len() / 2);
            self.pieces.insert(index + 1, Arc::new(rest));
        }
    }

    /// Merges the last range of a piece with the first one of the next, if they touch.
    fn join_with_next(&mut self, index: usize) {
        let Some(next) = self.pieces.get(index + 1).and_then(|piece| piece.first()).copied() else { return };
        if self.pieces[index].last().is_none_or(|last| last.to != next.from) {
            return;
        }
        if let Some(last) = Arc::make_mut(&mut self.pieces[index]).last_mut() {
            last.to = next.to;
        }
        let piece = Arc::make_mut(&mut self.pieces[index + 1]);
        piece.remove(0);
        if piece.is_empty() {
            self.pieces.remove(index + 1);
        }
    }

    /// Number of sequence numbers in all ranges.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Whether `sequence` is in a range.
    pub fn contains(&self, sequence: u64) -> bool {
        let is_before = |range: Option<&SequenceRange>| range.is_some_and(|range| range.to <= sequence);
        let index = self.pieces.partition_point(|piece| is_before(piece.last()));
        let Some(piece) = self.pieces.get(index) else { return false };
        let piece = &piece[if index == 0 { self.popped_count } else { 0 }..];
        let index = piece.partition_point(|range| is_before(Some(range)));
        piece.get(index).is_some_and(|range| range.from <= sequence)
    }

    /// The parts of `from..to` that are in no range.
    pub fn gaps(&self, from: u64, to: u64) -> impl Iterator<Item = SequenceRange> + '_ {
        let index = self.pieces.partition_point(|piece| piece.last().is_some_and(|range| range.to <= from));
        let popped_count = if index == 0 { self.popped_count } else { 0 };
        let ranges = self.pieces.range(index..).flat_map(|piece| piece.iter().copied()).skip(popped_count);
        let ranges =
            ranges.skip_while(move |range| range.to <= from).take_while(move |range| range.from < to);
        let mut at = from;
        let end = to.max(from);
        ranges.chain([SequenceRange::new(end, end)]).filter_map(move |range| {
            let gap = SequenceRange::new(at, range.from);
            at = at.max(range.to);
            (!gap.is_empty()).then_some(gap)
        })
    }

    /// Like [`Skipped::gaps`], the last part first.
    pub fn gaps_back(&self, from: u64, to: u64) -> impl Iterator<Item = SequenceRange> + '_ {
        let index = self.pieces.partition_point(|piece| piece.first().is_some_and(|range| range.from < to));
        let popped_count = self.popped_count;
        let ranges = self.pieces.range(..index).enumerate().rev().flat_map(move |(index, piece)| {
            piece[if index == 0 { popped_count } else { 0 }..].iter().rev().copied()
        });
        let ranges =
            ranges.skip_while(move |range| range.from >= to).take_while(move |range| range.to > from);
        let (start, mut at) = (from.min(to), to);
        ranges.chain([SequenceRange::new(start, start)]).filter_map(move |range| {
            let gap = SequenceRange::new(range.to.min(at).max(start), at);
            at = at.min(range.from);
            (!gap.is_empty()).then_some(gap)
        })
    }

    /// The oldest range.
    pub fn first(&self) -> Option<SequenceRange> {
        self.pieces.front()?.get(self.popped_count).copied()
    }

    /// Removes the oldest range.
    pub fn pop_first(&mut self) -> Option<SequenceRange> {
        let range = self.first()?;
        self.count -= range.len();
        self.popped_count += 1;
        if self.pieces.front().is_some_and(|piece| piece.len() == self.popped_count) {
            self.pieces.pop_front();
            self.popped_count = 0;
        }
        Some(range)
    }

    /// The ranges, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = SequenceRange> + '_ {
        self.pieces.iter().flat_map(|piece| piece.iter().copied()).skip(self.popped_count)
    }

    pub fn clear(&mut self) {
        *self = Skipped::default();
    }
}

impl FromIterator<SequenceRange> for Skipped {
    fn from_iter<T: IntoIterator<Item = SequenceRange>>(ranges: T) -> Self {
        let mut skipped = Skipped::default();
        for range in ranges {
            skipped.push(range);
        }
        skipped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_list_and_copies_do_not_change(steps in proptest::collection::vec((0u64..3, 1u64..4, 0u8..8), 0..150)) {
            let (mut skipped, mut model) = (Skipped::default(), VecDeque::<SequenceRange>::new());
            let mut copies = Vec::new();
            let mut end = 0;
            for (gap, length, action) in steps {
                match action {
                    0 => prop_assert_eq!(skipped.pop_first(), model.pop_front()),
                    1 if copies.len() < 5 => copies.push((skipped.clone(), model.clone())),
                    _ => {
                        let range = SequenceRange::new(end + gap, end + gap + length);
                        match model.back_mut().filter(|last| last.to == range.from) {
                            Some(last) => last.to = range.to,
                            None => model.push_back(range),
                        }
                        skipped.push(range);
                        end = range.to;
                    }
                }
                prop_assert_eq!(skipped.first(), model.front().copied());
                let holds = |sequence| model.iter().any(|range| range.contains(sequence));
                for sequence in [end, end.saturating_sub(1), end / 2, end / 3] {
                    prop_assert_eq!(skipped.contains(sequence), holds(sequence));
                }
            }
            copies.push((skipped, model));
            for (copy, model) in copies {
                prop_assert_eq!(copy.count(), model.iter().map(|range| range.len()).sum::<u64>());
                prop_assert_eq!(copy.is_empty(), model.is_empty());
                prop_assert_eq!(copy.iter().collect::<Vec<_>>(), Vec::from(model));
            }
        }
    }

    proptest! {
        #[test]
        fn ranges_can_be_added_anywhere(
            steps in proptest::collection::vec((0u64..200, 1u64..4, any::<bool>()), 1..150),
        ) {
            let (mut skipped, mut model) = (Skipped::default(), std::collections::BTreeSet::new());
            let mut first = 0;
            for (from, length, pops) in steps {
                if pops
                    && from.is_multiple_of(5)
                    && let Some(range) = skipped.pop_first()
                {
                    range.iter().for_each(|sequence| assert!(model.remove(&sequence)));
                    first = range.to;
                }
                let range = SequenceRange::new(from, from + length);
                let is_new = from >= first && !range.iter().any(|sequence| model.contains(&sequence));
                if is_new {
                    skipped.insert(range);
                    model.extend(range.iter());
                }
                let all: Vec<SequenceRange> = skipped.iter().collect();
                prop_assert!(all.windows(2).all(|pair| pair[0].to < pair[1].from), "{:?}", all);
                prop_assert_eq!(all.iter().flat_map(|range| range.iter()).collect::<Vec<_>>(),
                    model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(skipped.count(), model.len() as u64);
                for sequence in [from, from + length, from / 2] {
                    prop_assert_eq!(skipped.contains(sequence), model.contains(&sequence));
                }
                let (from, to) = (from / 2, from + 20);
                let gaps: Vec<u64> = skipped.gaps(from, to).flat_map(|range| range.iter()).collect();
                prop_assert_eq!(&gaps, &(from..to).filter(|at| !model.contains(at)).collect::<Vec<_>>());
                let mut back: Vec<SequenceRange> = skipped.gaps_back(from, to).collect();
                back.reverse();
                prop_assert_eq!(back, skipped.gaps(from, to).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn gaps_are_outside_all_ranges() {
        let skipped: Skipped = [SequenceRange::new(5, 9), SequenceRange::one(20)].into_iter().collect();
        let as_pair = |range: SequenceRange| (range.from, range.to);
        let gaps = |from, to| skipped.gaps(from, to).map(as_pair).collect::<Vec<_>>();
        assert_eq!(gaps(0, 30), [(0, 5), (9, 20), (21, 30)]);
        assert_eq!(gaps(6, 20), [(9, 20)]);
        assert_eq!(gaps(6, 9), []);
        assert_eq!(gaps(9, 9), []);
        assert_eq!(gaps(9, 5), []);
        assert_eq!(gaps(25, 26), [(25, 26)]);
        let many: Skipped = (0..100).map(|number| SequenceRange::new(number * 10, number * 10 + 5)).collect();
        assert_eq!(many.gaps(500, 521).map(as_pair).collect::<Vec<_>>(), [(505, 510), (515, 520)]);
    }
}
