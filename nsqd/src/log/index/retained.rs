//! Pure: retained messages in the index.

use nsq_protocol::MESSAGE_FRAME_OVERHEAD;

use super::{Location, LogIndex};
use crate::log::Mark;
use crate::log::Ranges;
use crate::log::chunk::Chunk;
use crate::log::retained::spread;
use crate::log::retention::{Piece, PiecePlace, gaps, merged};
use crate::log::sizes::{Amount, Sizes};
use crate::storage::segment::BlockRef;
use crate::storage::{ChannelNumber, SequenceRange};

impl LogIndex {
    /// Seals the open chunk if `closes` returns true for its first timestamp and its bytes.
    pub fn seal_if(&mut self, closes: impl FnOnce(i64, u64) -> bool) {
        if self.open.oldest_timestamp().is_some_and(|oldest| closes(oldest, self.open.len_bytes() as u64)) {
            self.seal();
        }
    }

    /// The chunks that are only in memory, in order.
    pub fn pieces_in_memory(&self) -> Vec<Piece> {
        let chunks = self.only_in_memory().filter(|chunk| !chunk.is_empty());
        let piece = |chunk: &Chunk| Piece {
            end_sequence: chunk.end_sequence(),
            bytes: chunk.len_bytes() as u64,
            place: PiecePlace::Memory(chunk.newest_timestamp().unwrap_or(i64::MIN)),
        };
        chunks.map(piece).collect()
    }

    fn only_in_memory(&self) -> impl Iterator<Item = &Chunk> {
        let sealed = self.sealed.iter().filter(|sealed| !sealed.on_disk).map(|sealed| &*sealed.chunk);
        sealed.chain(std::iter::once(&self.open))
    }

    /// Notes how many bytes the messages of each block and chunk have.
    pub fn note_sizes(&self, sizes: &mut Sizes) {
        let body_bytes =
            |frames: u64, count: u64| frames.saturating_sub(count * MESSAGE_FRAME_OVERHEAD as u64);
        let blocks = self.blocks.iter().map(|block| {
            (
                block.first_sequence,
                block.end_sequence(),
                body_bytes(u64::from(block.bytes), u64::from(block.count)),
            )
        });
        let chunks = self.only_in_memory().map(|chunk| {
            (
                chunk.first_sequence(),
                chunk.end_sequence(),
                body_bytes(chunk.len_bytes() as u64, chunk.count()),
            )
        });
        for (first, end, bytes) in blocks.chain(chunks) {
            sizes.note(first, 0);
            if first < end {
                sizes.note(end, bytes);
            }
        }
    }

    /// Sequence numbers and timestamps of about `count` messages of each chunk that is only in memory, with the last one.
    pub fn timestamps_in_memory(&self, count: u64) -> Vec<(u64, i64)> {
        let chunks = self.only_in_memory().filter(|chunk| !chunk.is_empty());
        let numbers = chunks.flat_map(|chunk| {
            let all = spread(chunk.first_sequence(), chunk.end_sequence() - 1, count);
            all.filter_map(|sequence| Some((sequence, chunk.timestamp_of(sequence)?)))
        });
        numbers.collect()
    }

    /// The blocks of one segment file, in order.
    pub fn blocks_of_file(&self, file_number: u64) -> Vec<BlockRef> {
        self.blocks.iter().filter(|block| block.file_number() == file_number).cloned().collect()
    }

    /// All blocks, in order.
    pub fn blocks(&self) -> Vec<BlockRef> {
        self.blocks.iter().cloned().collect()
    }

    /// The oldest message in the log, or the next one if there is none.
    pub fn first_present(&self) -> u64 {
        self.oldest_block().into_iter().chain([self.memory_start()]).min().unwrap_or_default()
    }

    /// The ranges of `within` that are in the log, in order, including void ones.
    fn present(&self, within: SequenceRange) -> Ranges {
        let blocks = self.blocks.since(within.from).map(BlockRef::sequences);
        let chunks = self.only_in_memory().map(Chunk::sequences);
        let ranges = blocks.take_while(|block| block.from < within.to).chain(chunks);
        let ranges = ranges.map(|range| range.intersect(within)).filter(|range| !range.is_empty());
        merged(ranges.collect())
    }

    /// The ranges of `from..to` without messages (missing or void), in order.
    pub fn absent(&self, from: u64, to: u64) -> Ranges {
        let within = SequenceRange { from, to };
        let gaps = gaps(within, self.present(within));
        merged(gaps.into_iter().chain(self.void_in(within)).collect())
    }

    /// The oldest retained message, or the end of the log if there is none.
    pub fn oldest_retained(&self) -> u64 {
        let end = self.next_sequence();
        let mut at = self.retained_marks.retained_from;
        while at < end {
            at = match self.locate(at) {
                Location::Missing(next) => next.unwrap_or(end),
                _ => match self.retained_marks.void_until(at) {
                    Some(to) => to,
                    None => return at,
                },
            };
        }
        end
    }

    /// Number of retained messages, and the bytes of the blocks and chunks that hold them.
    pub fn retained(&self) -> Amount {
        self.amount(self.retained_marks.retained_from, self.next_sequence())
    }

    /// Number of messages of `from..to`, and the bytes of the blocks and chunks that end there.
    pub fn amount(&self, from: u64, to: u64) -> Amount {
        let to = to.min(self.next_sequence());
        if from >= to {
            return Amount::default();
        }
        let absent: u64 = self.absent(from, to).iter().map(|range| range.len()).sum();
        let ends_there = |end: u64| end > from && end <= to;
        let on_disk = self.blocks.iter().filter(|block| ends_there(block.end_sequence()));
        let in_memory = self.only_in_memory().filter(|chunk| ends_there(chunk.end_sequence()));
        let bytes = on_disk.map(|block| u64::from(block.bytes)).sum::<u64>()
            + in_memory.map(|chunk| chunk.len_bytes() as u64).sum::<u64>();
        Amount { messages: to - from - absent, bytes }
    }

    /// When a message was published, if it is in memory.
    pub fn timestamp_in_memory(&self, sequence: u64) -> Option<i64> {
        match self.locate(sequence) {
            Location::Memory(chunk) => chunk.timestamp_of(sequence),
            _ => None,
        }
    }

    /// The first message in memory that was published at or after `time_ns`.
    pub fn first_in_memory_since(&self, time_ns: i64) -> Option<u64> {
        let chunks = self.sealed.iter().map(|sealed| &*sealed.chunk).chain(std::iter::once(&self.open));
        let mut since =
            chunks.filter(|chunk| chunk.newest_timestamp().is_some_and(|newest| newest >= time_ns));
        since.next().and_then(|chunk| chunk.first_since(time_ns))
    }

    /// See [`super::super::TopicLog::marks_between`].
    pub fn marks_between(&self, from: u64, to: u64, channel: Option<ChannelNumber>) -> Vec<Mark> {
        if from >= to {
            return Vec::new();
        }
        self.marks_in(SequenceRange { from, to }, channel, self.absent(from, to))
    }

    /// Like [`LogIndex::marks_between`], but skips only void sequence numbers, not missing messages.
    pub fn void_marks_between(&self, from: u64, to: u64, channel: Option<ChannelNumber>) -> Vec<Mark> {
        let within = SequenceRange { from, to };
        self.marks_in(within, channel, self.void_in(within).collect())
    }

    fn marks_in(
        &self,
        within: SequenceRange,
        channel: Option<ChannelNumber>,
        mut skipped: Vec<SequenceRange>,
    ) -> Vec<Mark> {
        let of_others = self.retained_marks.targeted().filter(|&(_, target)| Some(target) != channel);
        let before = skipped.len();
        skipped.extend(of_others.map(|(range, _)| range.intersect(within)).filter(|range| !range.is_empty()));
        if skipped.len() > before {
            skipped = merged(skipped);
        }
        let deferred = (self.retained_marks.deferred())
            .map(|(range, due)| (range.intersect(within), due))
            .filter(|(range, _)| !range.is_empty())
            .flat_map(|(range, due)| {
                let left =
                    gaps(range, skipped.iter().copied().skip_while(move |other| other.to <= range.from));
                left.into_iter().map(move |SequenceRange { from, to }| Mark::Deferred { from, to, due })
            })
            .collect::<Vec<_>>();
        let skipped = skipped.into_iter().map(|SequenceRange { from, to }| Mark::Skipped { from, to });
        let mut marks: Vec<Mark> = skipped.chain(deferred).collect();
        marks.sort_by_key(Mark::from);
        marks
    }

    fn void_in(&self, within: SequenceRange) -> impl Iterator<Item = SequenceRange> + '_ {
        self.retained_marks.void().map(move |void| void.intersect(within)).filter(|void| !void.is_empty())
    }
}
