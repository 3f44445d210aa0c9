//! The index of a block: where the pieces of its frames are, each with its checksum. Pure.
//!
//! A block has one checksum for all its frames. Once the whole block has been read and verified, its index allows
//! reading and verifying a single piece: a few frames, about a page.

/// A piece ends once it has this many bytes, the page size of most disks. A single frame may exceed it.
const PIECE_BYTES: usize = 4096;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockIndex {
    pieces: Box<[Piece]>,
    end: Piece,
}

/// Consecutive frames of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    /// Number of its first frame in the block.
    first: u32,
    /// Offset in the block's frames.
    start: u32,
    /// CRC-32C of its bytes.
    checksum: u32,
}

/// Adjacent pieces, to be read with one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pieces: std::ops::Range<usize>,
    /// Offset in the block's frames.
    pub start: u32,
    /// Its length in bytes.
    pub bytes: u32,
}

impl BlockIndex {
    /// Indexes a verified block. `offsets` are the offsets of its frames, followed by the end of the last one.
    pub fn new(frames: &[u8], offsets: &[u32]) -> Self {
        let mut pieces = Vec::new();
        let mut first = 0;
        for (index, pair) in offsets.windows(2).enumerate() {
            let (start, end) = (offsets[first] as usize, pair[1] as usize);
            if end - start >= PIECE_BYTES || index + 2 == offsets.len() {
                let checksum = crc32c::crc32c(&frames[start..end]);
                pieces.push(Piece { first: first as u32, start: start as u32, checksum });
                first = index + 1;
            }
        }
        let end = Piece { first: first as u32, start: frames.len() as u32, checksum: 0 };
        Self { pieces: pieces.into(), end }
    }

    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.pieces.len() * size_of::<Piece>()
    }

    /// The spans to read for the frames with the numbers `wanted`, which must be in ascending order.
    pub(super) fn spans(&self, wanted: &[u32]) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for &number in wanted.iter().filter(|&&number| number < self.end.first) {
            let piece = self.pieces.partition_point(|piece| piece.first <= number) - 1;
            match spans.last_mut() {
                Some(span) if piece < span.pieces.end => continue,
                Some(span) if piece == span.pieces.end => span.pieces.end += 1,
                _ => spans.push(Span { pieces: piece..piece + 1, start: self.piece(piece).start, bytes: 0 }),
            }
            if let Some(span) = spans.last_mut() {
                span.bytes = self.piece(span.pieces.end).start - span.start;
            }
        }
        spans
    }

    /// Verifies the bytes of a span piece by piece and passes the wanted frames to `take`. Returns false if the bytes
    /// are not those that were indexed; frames of earlier pieces may have been passed by then.
    pub(super) fn take(
        &self,
        span: &Span,
        bytes: &[u8],
        wanted: &[u32],
        mut take: impl FnMut(u32, &[u8]),
    ) -> bool {
        if bytes.len() != span.bytes as usize {
            return false;
        }
        let mut wanted =
            wanted.iter().copied().skip_while(|&number| number < self.piece(span.pieces.start).first);
        let mut next = wanted.next();
        for piece in span.pieces.clone() {
            let (this, after) = (self.piece(piece), self.piece(piece + 1));
            let mut rest = &bytes[(this.start - span.start) as usize..(after.start - span.start) as usize];
            if crc32c::crc32c(rest) != this.checksum {
                return false;
            }
            for number in this.first..after.first {
                let Some(size) = rest.first_chunk().map(|size| u32::from_be_bytes(*size) as usize) else {
                    return false;
                };
                let Some((frame, behind)) = rest.split_at_checked(4 + size) else { return false };
                if next == Some(number) {
                    take(number, frame);
                    next = wanted.next();
                }
                rest = behind;
            }
        }
        true
    }

    /// A piece, or the end mark behind the last one.
    fn piece(&self, index: usize) -> Piece {
        self.pieces.get(index).copied().unwrap_or(self.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Frames with bodies of these sizes, and their offsets.
    fn block(sizes: &[usize]) -> (Vec<u8>, Vec<u32>) {
        let (mut frames, mut offsets) = (Vec::new(), vec![0]);
        for (number, &size) in sizes.iter().enumerate() {
            frames.extend_from_slice(&(size as u32).to_be_bytes());
            frames.extend(std::iter::repeat_n(number as u8, size));
            offsets.push(frames.len() as u32);
        }
        (frames, offsets)
    }

    #[test]
    fn small_frames_share_a_piece_and_a_large_one_has_its_own() {
        let (frames, offsets) = block(&[100, 100, 9000, 10]);
        let index = BlockIndex::new(&frames, &offsets);
        assert_eq!(index.pieces.iter().map(|piece| piece.first).collect::<Vec<_>>(), [0, 3]);
        assert_eq!(index.spans(&[0, 2]).len(), 1);
        assert_eq!(index.spans(&[0, 1, 2, 3]), [Span { pieces: 0..2, start: 0, bytes: frames.len() as u32 }]);
        assert_eq!(index.spans(&[4, 100]), []);
        assert_eq!(BlockIndex::new(&[], &[0]).spans(&[0]), []);
    }

    proptest! {
        #[test]
        fn wanted_frames_are_read_without_the_others(
            sizes in prop::collection::vec(prop_oneof![4 => 0_usize..300, 1 => 3000_usize..9000], 1..200),
            picks in prop::collection::btree_set(0_u32..220, 0..40),
            flip in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let (frames, offsets) = block(&sizes);
            let index = BlockIndex::new(&frames, &offsets);
            let wanted: Vec<u32> = picks.into_iter().collect();
            let mut damaged = frames.clone();
            let flipped = flip.map(|at| at.index(frames.len()));
            flipped.into_iter().for_each(|at| damaged[at] ^= 1);
            let mut found = Vec::new();
            for span in index.spans(&wanted) {
                let bytes = span.start as usize..(span.start + span.bytes) as usize;
                let is_hit = flipped.is_some_and(|at| bytes.contains(&at));
                let mut here = Vec::new();
                let is_sound = index.take(&span, &damaged[bytes], &wanted, |number, frame| {
                    here.push((number, frame.to_vec()));
                });
                prop_assert_eq!(is_sound, !is_hit);
                // Frames that were passed before the damage was found are correct as well.
                found.extend(here);
            }
            for (number, frame) in &found {
                let range = offsets[*number as usize] as usize..offsets[*number as usize + 1] as usize;
                prop_assert_eq!(frame, &frames[range]);
            }
            if flipped.is_none() {
                let numbers: Vec<u32> = found.iter().map(|(number, _)| *number).collect();
                let there: Vec<u32> = wanted.into_iter().filter(|&n| (n as usize) < sizes.len()).collect();
                prop_assert_eq!(numbers, there);
            }
        }
    }
}
