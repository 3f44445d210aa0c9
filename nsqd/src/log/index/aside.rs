//! Pure: messages that only ephemeral names need, after their chunk has left the topic's memory.
//!
//! They are never on disk, so they stay in memory, within a separate bound. If most of a chunk is needed, it is kept as
//! a whole. Otherwise the needed messages are copied into small chunks.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::log::Ranges;
use crate::log::chunk::Chunk;
use crate::storage::SequenceRange;

/// Approximate bytes that a chunk needs besides its frames.
const CHUNK_OVERHEAD_BYTES: usize = 160;

/// Messages set aside; see the module.
#[derive(Debug, Default)]
pub struct Aside {
    /// By first sequence number; without overlaps.
    chunks: BTreeMap<u64, Arc<Chunk>>,
    bytes: usize,
}

impl Aside {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes needed to keep these messages.
    pub fn cost(chunk: &Chunk, ranges: &[SequenceRange]) -> usize {
        let cost = |&SequenceRange { from, to }: &SequenceRange| {
            chunk.bytes_between(from, to) + CHUNK_OVERHEAD_BYTES
        };
        ranges.iter().map(cost).sum::<usize>().min(chunk.len_bytes() + CHUNK_OVERHEAD_BYTES)
    }

    /// Which of these messages of a chunk fit into `room` bytes, oldest first, and which do not.
    pub fn fit(chunk: &Chunk, ranges: &[SequenceRange], room: usize) -> (Ranges, Ranges) {
        if Self::cost(chunk, ranges) <= room {
            return (ranges.to_vec(), Vec::new());
        }
        let (mut kept, mut dropped, mut room) = (Vec::new(), Vec::new(), room);
        for &SequenceRange { from, to } in ranges {
            let left = room.saturating_sub(CHUNK_OVERHEAD_BYTES);
            let end = (from..=to).rev().find(|&end| chunk.bytes_between(from, end) <= left).unwrap_or(from);
            if from < end {
                kept.push(SequenceRange::new(from, end));
                room = left - chunk.bytes_between(from, end);
            }
            if end < to {
                dropped.push(SequenceRange::new(end, to));
                room = 0;
            }
        }
        (kept, dropped)
    }

    /// Keeps these messages, which must be in the chunk.
    pub fn keep(&mut self, chunk: &Arc<Chunk>, ranges: &[SequenceRange]) {
        if Self::is_most(chunk, ranges) {
            self.insert(chunk.clone());
        } else {
            ranges.iter().for_each(|range| self.insert(Arc::new(chunk.part(range.from, range.to))));
        }
    }

    fn is_most(chunk: &Chunk, ranges: &[SequenceRange]) -> bool {
        2 * Self::cost(chunk, ranges) > chunk.len_bytes()
    }

    fn insert(&mut self, chunk: Arc<Chunk>) {
        self.bytes += chunk.len_bytes() + CHUNK_OVERHEAD_BYTES;
        if let Some(before) = self.chunks.insert(chunk.first_sequence(), chunk) {
            self.bytes -= before.len_bytes() + CHUNK_OVERHEAD_BYTES;
        }
    }

    fn remove(&mut self, first_sequence: u64) -> Option<Arc<Chunk>> {
        let chunk = self.chunks.remove(&first_sequence)?;
        self.bytes -= chunk.len_bytes() + CHUNK_OVERHEAD_BYTES;
        Some(chunk)
    }

    /// The chunk that has this message.
    pub fn find(&self, sequence: u64) -> Option<&Chunk> {
        let (_, chunk) = self.chunks.range(..=sequence).next_back()?;
        chunk.holds(sequence).then_some(&**chunk)
    }

    /// Start of the first chunk at or after `sequence`.
    pub fn next_after(&self, sequence: u64) -> Option<u64> {
        self.chunks.range(sequence..).next().map(|(&first, _)| first)
    }

    /// End of the first chunk.
    pub fn first_end(&self) -> Option<u64> {
        self.chunks.first_key_value().map(|(_, chunk)| chunk.end_sequence())
    }

    /// Bytes of chunks with messages from `sequence` on.
    pub fn bytes_since(&self, sequence: u64) -> usize {
        let since = self.chunks.values().rev().take_while(|chunk| chunk.end_sequence() > sequence);
        since.map(|chunk| chunk.len_bytes() + CHUNK_OVERHEAD_BYTES).sum()
    }

    /// The ranges of all messages.
    pub fn ranges(&self) -> impl Iterator<Item = SequenceRange> + '_ {
        self.chunks.values().map(|chunk| chunk.sequences())
    }

    /// Drops chunks that end at or before `floor`.
    pub fn trim(&mut self, floor: u64) {
        while let Some((&first, chunk)) = self.chunks.first_key_value()
            && chunk.end_sequence() <= floor
        {
            self.remove(first);
        }
    }

    /// Keeps only these messages of the chunk that begins at `first_sequence`, unless they are most of it.
    pub fn thin(&mut self, first_sequence: u64, needed: &[SequenceRange]) {
        let Some(chunk) = self.chunks.get(&first_sequence) else { return };
        if !needed.is_empty() && Self::is_most(chunk, needed) {
            return;
        }
        if let Some(chunk) = self.remove(first_sequence) {
            self.keep(&chunk, needed);
        }
    }
}

#[cfg(test)]
mod tests {
    use nsq_protocol::headers::Form;

    use super::*;

    fn chunk(first: u64, count: u64) -> Arc<Chunk> {
        let mut chunk = Chunk::new(first);
        (0..count).for_each(|index| chunk.push(1, first + index, Form::Plain, &[0; 1000]));
        Arc::new(chunk)
    }

    #[test]
    fn copies_needed_messages_and_not_the_chunk() {
        let mut aside = Aside::default();
        aside.keep(&chunk(100, 100), &[SequenceRange::new(110, 112), SequenceRange::new(150, 151)]);
        assert_eq!(
            aside.ranges().collect::<Vec<_>>(),
            [SequenceRange::new(110, 112), SequenceRange::new(150, 151)]
        );
        assert!(aside.bytes() < 4000, "{} bytes for 3 messages", aside.bytes());
        assert_eq!(aside.find(111).map(Chunk::first_sequence), Some(110));
        assert!(aside.find(112).is_none());
        assert_eq!(aside.next_after(112), Some(150));
        aside.keep(&chunk(200, 100), &[SequenceRange::new(200, 290)]);
        assert_eq!(
            aside.ranges().last(),
            Some(SequenceRange::new(200, 300)),
            "a mostly needed chunk is kept as a whole"
        );
        aside.thin(200, &[SequenceRange::new(205, 206)]);
        assert_eq!(aside.ranges().last(), Some(SequenceRange::new(205, 206)));
        aside.trim(151);
        assert_eq!(aside.ranges().collect::<Vec<_>>(), [SequenceRange::new(205, 206)]);
        aside.thin(205, &[]);
        assert_eq!(aside.bytes(), 0);
    }

    #[test]
    fn keeps_the_oldest_that_fit() {
        let chunk = chunk(100, 100);
        let frame = chunk.bytes_between(100, 101);
        let ranges = [SequenceRange::new(100, 110), SequenceRange::new(120, 130)];
        assert_eq!(Aside::fit(&chunk, &ranges, 100 * frame), (ranges.to_vec(), vec![]));
        let room = 12 * frame + 2 * CHUNK_OVERHEAD_BYTES;
        assert_eq!(
            Aside::fit(&chunk, &ranges, room),
            (
                vec![SequenceRange::new(100, 110), SequenceRange::new(120, 122)],
                vec![SequenceRange::new(122, 130)]
            )
        );
        assert_eq!(Aside::fit(&chunk, &ranges, 0), (vec![], ranges.to_vec()));
    }
}
