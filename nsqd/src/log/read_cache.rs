//! Pure: messages that one channel has read from disk and hands out soon.
//!
//! First deliveries come from the block at the read cursor and the one after it. Redelivered messages are spread over
//! many blocks: the cache holds only their frames, in batches.

use std::collections::VecDeque;
use std::sync::Arc;

use super::chunk::Chunk;
use super::read_memory::{HeldBytes, HeldChunk};

/// A channel's cache; see the module.
#[derive(Debug, Default)]
pub struct ReadCache {
    ahead: Option<Arc<HeldChunk>>,
    next: Option<Arc<HeldChunk>>,
    /// In the order in which they were read.
    again: VecDeque<Gathered>,
    /// The block at the cursor changed: the one after it should be read.
    wants_next: bool,
    /// A batch arrived: another one should be read.
    wants_batch: bool,
}

/// Batches in the cache: the current one and the one read ahead.
const MAX_BATCHES: usize = 2;

impl ReadCache {
    /// Keeps the block that contains the cursor.
    pub fn put_block(&mut self, block: Arc<HeldChunk>) {
        self.ahead = Some(block);
        self.wants_next = true;
    }

    /// Keeps a block that was read ahead.
    pub fn put_next(&mut self, block: Arc<HeldChunk>) {
        self.next = Some(block);
    }

    /// Keeps redelivered messages.
    pub fn put_batch(&mut self, batch: Gathered) {
        if batch.is_empty() {
            return;
        }
        if self.again.len() == MAX_BATCHES {
            self.again.pop_front();
        }
        self.again.push_back(batch);
        self.wants_batch = true;
    }

    /// The block with this message, which is at the cursor.
    pub fn first(&mut self, sequence: u64) -> Option<&Chunk> {
        if self.next.as_ref().is_some_and(|block| block.chunk.holds(sequence)) {
            self.ahead = self.next.take();
            self.wants_next = true;
        }
        self.ahead.as_ref().map(|block| &block.chunk).filter(|chunk| chunk.holds(sequence))
    }

    /// Appends a redelivered message to `out`. Returns false if it is not in the cache.
    pub fn again(&mut self, sequence: u64, attempts: u16, out: &mut Vec<u8>) -> bool {
        for index in 0..self.again.len() {
            let Some(frame) = self.again[index].take(sequence) else { continue };
            Chunk::copy_frame_again(frame, attempts, out);
            if self.again[index].is_empty() {
                self.again.remove(index);
            }
            return true;
        }
        let blocks = [&self.ahead, &self.next].into_iter().flatten().map(|block| &block.chunk);
        let Some(chunk) = { blocks }.find(|chunk| chunk.holds(sequence)) else { return false };
        chunk.copy_again(sequence, attempts, out);
        true
    }

    /// Whether a batch has this message.
    pub fn has_gathered(&self, sequence: u64) -> bool {
        self.again.iter().any(|batch| batch.find(sequence).is_some())
    }

    /// The message whose block should be read ahead now; returned once per block.
    pub fn take_wants_next(&mut self) -> Option<u64> {
        let wants = std::mem::take(&mut self.wants_next) && self.next.is_none();
        self.ahead.as_ref().filter(|_| wants).map(|block| block.chunk.end_sequence())
    }

    /// Whether another batch should be read ahead now; true once per batch.
    pub fn take_wants_batch(&mut self) -> bool {
        std::mem::take(&mut self.wants_batch) && self.again.len() < MAX_BATCHES
    }

    /// Drops blocks and batches before `floor`, the oldest needed message.
    pub fn trim(&mut self, floor: u64) {
        for place in [&mut self.ahead, &mut self.next] {
            place.take_if(|block| block.chunk.end_sequence() <= floor);
        }
        self.again.retain(|batch| batch.end_sequence() > floor);
    }

    pub fn is_empty(&self) -> bool {
        self.ahead.is_none() && self.next.is_none() && self.again.is_empty()
    }
}

/// Frames of single messages. Each can be taken once.
#[derive(Debug, Default)]
pub struct Gathered {
    frames: Vec<u8>,
    /// Ordered by sequence number once complete.
    places: Vec<Place>,
    left: usize,
    _held: Option<HeldBytes>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    sequence: u64,
    start: u32,
    bytes: u32,
}

impl Gathered {
    /// Adds a message that is not in the batch.
    pub fn push(&mut self, sequence: u64, frame: &[u8]) {
        self.places.push(Place { sequence, start: self.frames.len() as u32, bytes: frame.len() as u32 });
        self.frames.extend_from_slice(frame);
    }

    /// Ends adding; from now on messages can be taken. `count` counts the bytes held.
    pub fn complete(&mut self, count: impl FnOnce(usize) -> HeldBytes) {
        self.places.sort_unstable_by_key(|place| place.sequence);
        self.places.dedup_by_key(|place| place.sequence);
        self.left = self.places.len();
        self._held = Some(count(self.frames.len()));
    }

    /// The messages that were not taken, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.places.iter().filter(|place| place.bytes > 0).map(|place| {
            let start = place.start as usize;
            (place.sequence, &self.frames[start..start + place.bytes as usize])
        })
    }

    /// The frames, back to back.
    pub fn frames(&self) -> &[u8] {
        &self.frames
    }

    /// Bytes of the frames.
    pub fn bytes(&self) -> usize {
        self.frames.len()
    }

    /// Whether all were taken.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    fn end_sequence(&self) -> u64 {
        self.places.last().map_or(0, |place| place.sequence + 1)
    }

    fn find(&self, sequence: u64) -> Option<usize> {
        let index = self.places.binary_search_by_key(&sequence, |place| place.sequence).ok()?;
        Some(index).filter(|&index| self.places[index].bytes > 0)
    }

    fn take(&mut self, sequence: u64) -> Option<&[u8]> {
        let index = self.find(sequence)?;
        let bytes = std::mem::take(&mut self.places[index].bytes) as usize;
        let start = self.places[index].start as usize;
        self.left -= 1;
        self.frames.get(start..start + bytes)
    }
}

#[cfg(test)]
mod tests {
    use nsq_protocol::headers::Form;

    use super::*;
    use crate::log::read_memory::ReadMemory;

    fn block(memory: &Arc<ReadMemory>, first: u64, count: u64) -> Arc<HeldChunk> {
        let mut chunk = Chunk::new(first);
        (0..count).for_each(|index| chunk.push(1, first + index, Form::Plain, b"body"));
        memory.hold(chunk)
    }

    fn batch(memory: &Arc<ReadMemory>, sequences: &[u64]) -> Gathered {
        let mut batch = Gathered::default();
        for &sequence in sequences {
            batch.push(sequence, block(memory, sequence, 1).chunk.frames());
        }
        batch.complete(|bytes| memory.count(bytes));
        batch
    }

    #[test]
    fn block_read_ahead_replaces_the_one_at_the_cursor() {
        let memory = Arc::new(ReadMemory::default());
        let mut cache = ReadCache::default();
        assert!(cache.first(10).is_none());
        cache.put_block(block(&memory, 10, 5));
        assert_eq!((cache.take_wants_next(), cache.take_wants_next()), (Some(15), None));
        cache.put_next(block(&memory, 15, 5));
        assert!(cache.first(14).is_some_and(|chunk| chunk.first_sequence() == 10));
        assert_eq!(cache.take_wants_next(), None);
        assert!(cache.first(15).is_some_and(|chunk| chunk.first_sequence() == 15));
        assert!(cache.first(14).is_none());
        assert_eq!(cache.take_wants_next(), Some(20));
        cache.trim(20);
        assert!(cache.is_empty());
        assert_eq!(memory.bytes(), 0);
    }

    #[test]
    fn batch_is_dropped_when_its_last_message_is_taken() {
        let memory = Arc::new(ReadMemory::default());
        let mut cache = ReadCache::default();
        let mut out = Vec::new();
        cache.put_batch(batch(&memory, &[9, 3, 7]));
        assert!(cache.take_wants_batch() && !cache.take_wants_batch());
        cache.put_batch(batch(&memory, &[100]));
        assert!(!cache.take_wants_batch(), "one batch is already read ahead");
        assert!(cache.has_gathered(100) && !cache.has_gathered(4));
        for sequence in [7, 3, 9] {
            assert!(cache.again(sequence, 2, &mut out));
            assert!(!cache.again(sequence, 2, &mut out), "a message can be taken only once");
        }
        assert!(cache.again(100, 2, &mut out) && cache.is_empty());
        let mut expected = block(&memory, 7, 1).chunk.frames().to_vec();
        nsq_protocol::set_attempts(&mut expected, 2);
        assert_eq!(out[..expected.len()], expected);
        assert_eq!(memory.bytes(), 0);
    }

    #[test]
    fn old_batches_make_room_for_new_ones() {
        let memory = Arc::new(ReadMemory::default());
        let mut cache = ReadCache::default();
        for sequence in 1..10 {
            cache.put_batch(batch(&memory, &[sequence, sequence + 100]));
        }
        assert!(!cache.has_gathered(7) && cache.has_gathered(8) && cache.has_gathered(109));
        cache.trim(109);
        assert!(!cache.has_gathered(108) && cache.has_gathered(109));
        cache.trim(110);
        assert!(cache.is_empty());
        assert!(cache.take_wants_batch());
        cache.put_batch(Gathered::default());
        assert!(cache.is_empty() && !cache.take_wants_batch());
    }
}
