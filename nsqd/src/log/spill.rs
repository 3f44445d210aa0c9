//! Moves messages out of memory: the needed messages of a chunk go to a segment. For ephemeral names, they are set
//! aside in memory.
//!
//! Messages that only ephemeral names need are never written. If little of a chunk is needed, only that is written, so
//! disk usage follows the unfinished messages.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::TopicLog;
use super::chunk::Chunk;
use super::holder::{Floors, Of, Ranges};
use super::retention::gaps;
use crate::storage::SequenceRange;
use crate::storage::block::BLOCK_HEADER_BYTES;
use crate::storage::segment::{NewBlock, SegmentStore};

/// A chunk is written as a whole if at least one in this many of its bytes is needed.
const WHOLE_SHARE: usize = 2;
/// After a search for room in the memory set aside freed too little, the next search is this many chunks later.
const FULL_CHUNKS: u32 = 32;

impl TopicLog {
    /// Moves the oldest messages out of memory while it exceeds its bound. Returns the number of chunks written to
    /// disk. Blocks on the disk.
    pub fn spill(&self) -> io::Result<usize> {
        self.spill_up_to(usize::MAX)
    }

    /// Like [`TopicLog::spill`], but for at most `max_chunks` chunks.
    pub fn spill_up_to(&self, max_chunks: usize) -> io::Result<usize> {
        if !self.should_spill() {
            self.spill_failed.store(false, Ordering::Relaxed);
            return Ok(0);
        }
        let mut segments = self.segments.lock();
        if self.is_deleted() {
            self.index.lock().clear();
            return Ok(0);
        }
        let mut written = 0;
        for _ in 0..max_chunks {
            let Some((chunk, is_on_disk)) = self.index.lock().next_to_spill() else { break };
            if !is_on_disk {
                written += usize::from(self.write_needed(&mut segments, &chunk)?);
            }
            self.leave_memory(&chunk);
        }
        self.spill_failed.store(false, Ordering::Relaxed);
        Ok(written)
    }

    /// Whether memory exceeds its bound.
    pub fn should_spill(&self) -> bool {
        self.index.lock().is_over(1)
    }

    /// Whether so much waits to be written that publishers should wait too.
    pub fn is_spill_behind(&self) -> bool {
        self.index.lock().is_far_over()
    }

    /// Whether memory exceeds twice its bound because writing to disk failed. Then publishes must be refused.
    pub fn is_stuck(&self) -> bool {
        self.spill_failed.load(Ordering::Relaxed) && self.index.lock().is_over(2)
    }

    /// Whether the last attempt to free memory failed.
    pub fn has_failed_to_spill(&self) -> bool {
        self.spill_failed.load(Ordering::Relaxed)
    }

    /// Writes to segments all needed messages up to `sequence` that are only in memory (and in the journal).
    pub fn persist_up_to(&self, sequence: u64, sync: bool) -> io::Result<()> {
        let mut segments = self.segments.lock();
        if self.is_deleted() || self.holders.are_in_memory_only() {
            return Ok(());
        }
        let Floors { all: floor, durable: disk_floor } = self.holders.floors();
        self.trim_index(floor, disk_floor);
        loop {
            let Some(chunk) = self.index.lock().unwritten_up_to(sequence) else { break };
            if !self.write_needed(&mut segments, &chunk)? {
                self.leave_memory(&chunk);
            }
        }
        if sync { segments.sync() } else { Ok(()) }
    }

    /// The messages of `from..to` that are needed by holders whose messages may be on disk.
    pub(super) fn needed_on_disk(&self, from: u64, to: u64) -> Ranges {
        self.without_refused(self.holders.needed(Of::Durable, from, to))
    }

    /// Removes messages that were refused and not released since. The release point counts them as needed, but a
    /// release skips them, so no channel looks for them.
    pub(super) fn without_refused(&self, needed: Ranges) -> Ranges {
        let (Some(first), Some(last)) = (needed.first(), needed.last()) else { return needed };
        if !self.has_marks.load(Ordering::Acquire) {
            return needed;
        }
        let refused = self.index.lock().refused_between(first.from, last.to);
        let rest = |range: SequenceRange| {
            let first = refused.partition_point(|refused| refused.to <= range.from);
            let refused = refused[first..].iter().copied();
            gaps(range, refused.take_while(move |refused| refused.from < range.to))
        };
        needed.into_iter().flat_map(rest).collect()
    }

    /// Writes the needed messages of a chunk, or the whole chunk if at least half of it is needed. If none is needed,
    /// it writes nothing and returns false. Such a chunk is still in memory if an older straggler kept it from being
    /// trimmed.
    pub(super) fn write_needed(&self, segments: &mut SegmentStore, chunk: &Chunk) -> io::Result<bool> {
        let (first, end) = (chunk.first_sequence(), chunk.end_sequence());
        let is_retained = end > self.retained_from();
        if self.holders.are_in_memory_only() {
            return Ok(false);
        }
        let mut needed = if is_retained { vec![chunk.sequences()] } else { self.needed_on_disk(first, end) };
        if needed.is_empty() {
            return Ok(false);
        }
        let needed_bytes: usize =
            needed.iter().map(|range| chunk.bytes_between(range.from, range.to) + BLOCK_HEADER_BYTES).sum();
        if WHOLE_SHARE * needed_bytes >= chunk.len_bytes() {
            needed = vec![chunk.sequences()];
        }
        self.write_ranges(segments, chunk, &needed).map(|()| true)
    }

    fn write_ranges(
        &self,
        segments: &mut SegmentStore,
        chunk: &Chunk,
        ranges: &[SequenceRange],
    ) -> io::Result<()> {
        if self.is_retaining() {
            self.close_file_in_time(segments, chunk);
        }
        let blocks: Vec<NewBlock<'_>> = (ranges.iter())
            .map(|range| NewBlock {
                first_sequence: range.from,
                count: range.len() as u32,
                frames: chunk.frames_between(range.from, range.to),
            })
            .collect();
        let written = segments.append_blocks(&blocks);
        self.spill_failed.store(written.is_err(), Ordering::Relaxed);
        let blocks = written?;
        let mut index = self.index.lock();
        index.written(chunk, blocks);
        self.store_watermarks(&index);
        Ok(())
    }

    /// Removes a chunk from memory after its needed messages were written to disk. Sets aside the messages that
    /// ephemeral names need.
    pub(super) fn leave_memory(&self, chunk: &Arc<Chunk>) {
        let (first, end) = (chunk.first_sequence(), chunk.end_sequence());
        // Retained messages are on disk for ephemeral channels too.
        let is_retained = end > self.retained_from();
        let needed = if is_retained { Ranges::new() } else { self.holders.needed(Of::Ephemeral, first, end) };
        if !needed.is_empty() && self.index.lock().is_aside_full(chunk, &needed) {
            self.thin_aside();
        }
        let mut index = self.index.lock();
        let dropped = if needed.is_empty() { needed } else { index.set_aside(chunk, &needed) };
        index.forget(chunk);
        self.store_watermarks(&index);
        drop(index);
        if !dropped.is_empty() {
            self.drop_ephemeral(&dropped);
        }
    }

    /// Frees messages set aside that are finished by now, although an earlier one is not.
    fn thin_aside(&self) {
        let remaining = self.chunks_until_thinning.load(Ordering::Relaxed);
        if remaining > 0 {
            self.chunks_until_thinning.store(remaining - 1, Ordering::Relaxed);
            return;
        }
        let (before, ranges) = {
            let index = self.index.lock();
            (index.aside_bytes(), index.set_aside_ranges())
        };
        for SequenceRange { from, to } in ranges {
            let needed = self.holders.needed(Of::Ephemeral, from, to);
            self.index.lock().thin_aside(from, &needed);
        }
        if self.index.lock().aside_bytes() > before / 2 {
            self.chunks_until_thinning.store(FULL_CHUNKS, Ordering::Relaxed);
        }
    }

    /// Drops these messages: there is no memory for them, and only ephemeral names need them.
    fn drop_ephemeral(&self, ranges: &[SequenceRange]) {
        if self.holders.are_in_memory_only() {
            // For messages that are not released yet. Channels drop the others themselves.
            ranges.iter().for_each(|range| self.skip(range.from, range.to));
        }
        self.holders.dropped(ranges);
    }
}

#[cfg(test)]
mod tests {
    use nsq_protocol::headers::Form;

    use super::*;
    use crate::log::LogContext;
    use crate::log::index::{LogIndex, MemoryBound};
    use crate::storage::faulty::FaultyStorage;

    #[test]
    fn unreleased_refused_messages_are_not_needed() {
        let bound = MemoryBound { messages: 1000, bytes: 1 << 20, chunk_bytes: 1 << 20 };
        let segments = SegmentStore::new(Arc::new(FaultyStorage::default()), "/d/t", 1 << 20);
        let log = TopicLog::new(LogIndex::new(0, 0, bound), segments, "t", LogContext::default());
        let release_point = log.hold(0);
        for _ in 0..3 {
            let bodies = [&b"body"[..]; 10];
            log.append(bodies.into_iter(), (Form::Plain, 10, 40), 0, None, |_, _| Ok::<_, ()>(())).unwrap();
        }
        assert_eq!(log.needed_on_disk(0, 30), [SequenceRange::new(0, 30)]);
        log.skip(10, 20);
        assert_eq!(log.needed_on_disk(0, 30), [SequenceRange::new(0, 10), SequenceRange::new(20, 30)]);
        assert_eq!(log.needed_on_disk(15, 30), [SequenceRange::new(20, 30)]);
        assert_eq!(log.needed_on_disk(12, 18), []);
        // The release passes the marks to the channels, which then report what they need.
        log.take_marks(30);
        assert_eq!(log.needed_on_disk(0, 30), [SequenceRange::new(0, 30)]);
        release_point.store(30, Ordering::Release);
        assert_eq!(log.needed_on_disk(0, 40), [SequenceRange::new(30, 40)]);
    }
}
