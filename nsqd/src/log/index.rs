//! Pure: where a topic's messages are: the newest in memory chunks, older ones in the blocks of its segments.
//!
//! Appending assigns sequence numbers. The open chunk grows; sealed chunks are immutable and shared. So a sealed chunk
//! can be written to a segment without the lock that readers and publishers need.

mod aside;
mod blocks;
mod retained;

use std::collections::VecDeque;
use std::sync::Arc;

use nsq_protocol::headers::Form;

use self::aside::Aside;
use self::blocks::Blocks;
use super::chunk::{self, Chunk};
use super::retention::{RetainedMarks, merged};
use super::{Mark, Ranges};
use crate::storage::segment::BlockRef;
use crate::storage::{SEQUENCE_BITS, SequenceRange};

/// Memory limits per topic, besides the open chunk.
#[derive(Debug, Clone, Copy)]
pub struct MemoryBound {
    /// Messages (`--mem-queue-size`).
    pub messages: u64,
    /// Bytes of their frames (`--mem-queue-bytes`).
    pub bytes: usize,
    /// A chunk is sealed at about this many bytes. One batch may exceed it, because a batch is never split.
    pub chunk_bytes: usize,
}

/// Number of chunks that may wait to be written beyond any bound, because writing takes some time.
const CHUNKS_BEHIND: usize = 4;

/// Where a message is.
pub enum Location<'a> {
    /// In this chunk.
    Memory(&'a Chunk),
    /// In this block of a segment.
    Disk(BlockRef),
    /// It was in a damaged block, as were the messages after it and before this number.
    Damaged(u64),
    /// It is nowhere. Contains the next message that is somewhere, if any.
    Missing(Option<u64>),
}

#[derive(Debug)]
struct Sealed {
    chunk: Arc<Chunk>,
    /// Set once its needed messages are also in a segment.
    on_disk: bool,
}

/// Which chunk or block holds a message; see the module.
#[derive(Debug)]
pub struct LogIndex {
    sealed: VecDeque<Sealed>,
    sealed_messages: u64,
    sealed_bytes: usize,
    open: Chunk,
    bound: MemoryBound,
    /// Messages that only ephemeral names need, of chunks no longer in `sealed`.
    aside: Aside,
    blocks: Blocks,
    /// Blocks whose messages are also in `blocks`, in case those are damaged. There are few: from a crash while
    /// survivors were copied, or from repairs after a crash.
    copies: Vec<BlockRef>,
    /// Messages that were in damaged blocks and are nowhere else.
    damaged: Vec<SequenceRange>,
    /// An id has the node number in the upper ten bits and the sequence number below.
    id_base: u64,
    /// Marks that the next release must pass to the channels, in order of sequence numbers.
    marks: Vec<Mark>,
    /// Retention, and void and deferred messages.
    pub retained_marks: RetainedMarks,
}

impl LogIndex {
    /// Creates an empty log that starts at `next_sequence`, on a node of this number (0..1024).
    pub fn new(next_sequence: u64, node_id: u16, bound: MemoryBound) -> Self {
        LogIndex {
            bound,
            sealed: VecDeque::new(),
            sealed_messages: 0,
            sealed_bytes: 0,
            open: Chunk::new(next_sequence),
            aside: Aside::default(),
            blocks: Blocks::default(),
            copies: Vec::new(),
            damaged: Vec::new(),
            id_base: u64::from(node_id) << SEQUENCE_BITS,
            marks: Vec::new(),
            retained_marks: RetainedMarks::default(),
        }
    }

    /// The node number in the ids of new messages, in the upper ten bits.
    pub fn id_base(&self) -> u64 {
        self.id_base
    }

    /// The sequence number that the next message gets.
    pub fn next_sequence(&self) -> u64 {
        self.open.end_sequence()
    }

    /// Appends a batch. Returns the first sequence number, and the frames in memory.
    pub fn append<'a>(
        &mut self,
        bodies: impl Iterator<Item = &'a [u8]>,
        form: Form,
        count: usize,
        body_bytes: usize,
        timestamp_ns: i64,
    ) -> (u64, &[u8]) {
        self.make_room(body_bytes);
        let first = self.open.end_sequence();
        self.open.reserve(count, body_bytes);
        for (index, body) in bodies.enumerate() {
            self.open.push(timestamp_ns, self.id_base | (first + index as u64), form, body);
        }
        (first, if self.open.end_sequence() == first { &[] } else { self.open.frames_from(first) })
    }

    /// Removes the newest batch, which no one has read yet.
    pub fn undo(&mut self, first_sequence: u64) {
        self.open.truncate(first_sequence);
    }

    /// Appends the messages of a batch from the journal that are after those in segments. A gap before `first_sequence`
    /// stays a gap. Returns false if the frames are invalid.
    pub fn append_recovered(&mut self, first_sequence: u64, count: u32, frames: &[u8]) -> bool {
        let end = first_sequence + u64::from(count);
        if end <= self.next_sequence() {
            return true;
        }
        if first_sequence < self.next_sequence() {
            if !self.open.is_empty() || !self.sealed.is_empty() {
                return false;
            }
            let on_disk = self.blocks.last().map_or(0, BlockRef::end_sequence);
            if on_disk > first_sequence {
                // Only some messages of this batch were needed when it was written to a segment.
                let Some(frames) = chunk::skip_frames(frames, on_disk - first_sequence) else { return false };
                return self.append_recovered(on_disk, (end - on_disk) as u32, frames);
            }
            // This is the first batch of which anything is needed. Its earlier messages are added too.
            self.open.reset(first_sequence);
        }
        self.skip_to(first_sequence);
        self.make_room(frames.len());
        self.open.push_frames(frames) == Some(count)
    }

    /// Continues with a later sequence number. There are no messages in between.
    pub fn skip_to(&mut self, next_sequence: u64) {
        if next_sequence > self.next_sequence() {
            self.seal();
            self.open.reset(next_sequence);
        }
    }

    fn make_room(&mut self, bytes: usize) {
        if !self.open.is_empty() && self.open.len_bytes() + bytes > self.bound.chunk_bytes {
            self.seal_and_continue_with(self.open.following());
        }
    }

    /// Seals the open chunk, unless it is empty.
    pub fn seal(&mut self) {
        self.seal_and_continue_with(Chunk::new(self.open.end_sequence()));
    }

    fn seal_and_continue_with(&mut self, next: Chunk) {
        if self.open.is_empty() {
            return;
        }
        let chunk = std::mem::replace(&mut self.open, next);
        self.sealed_messages += chunk.count();
        self.sealed_bytes += chunk.len_bytes();
        self.sealed.push_back(Sealed { chunk: Arc::new(chunk), on_disk: false });
    }

    /// Finds a message.
    pub fn locate(&self, sequence: u64) -> Location<'_> {
        if self.open.holds(sequence) {
            return Location::Memory(&self.open);
        }
        let index = self.sealed.partition_point(|sealed| sealed.chunk.end_sequence() <= sequence);
        let in_memory = self.sealed.get(index).map(|sealed| &*sealed.chunk);
        if let Some(chunk) = in_memory.filter(|chunk| chunk.holds(sequence)) {
            return Location::Memory(chunk);
        }
        if let Some(chunk) = self.aside.find(sequence) {
            return Location::Memory(chunk);
        }
        if let Some(block) = self.block_of(sequence) {
            return Location::Disk(block);
        }
        if let Some(&SequenceRange { to, .. }) = self.damaged.iter().find(|range| range.contains(sequence)) {
            return Location::Damaged(to);
        }
        let on_disk = self.blocks.since(sequence).next();
        let next_open = (!self.open.is_empty() && self.open.first_sequence() > sequence)
            .then(|| self.open.first_sequence());
        let nexts = [
            on_disk.map(|block| block.first_sequence),
            in_memory.map(Chunk::first_sequence),
            self.aside.next_after(sequence),
            next_open,
        ];
        Location::Missing(nexts.into_iter().flatten().min())
    }

    /// Drops chunks and blocks that end before `needed`, the oldest unfinished message, unless they are retained.
    /// Retained messages on disk need not be in memory as well. On disk, only messages from `needed_on_disk` on are
    /// needed: ephemeral names need nothing there.
    pub fn trim(&mut self, needed: u64, needed_on_disk: u64) {
        let floor = needed.min(self.retained_marks.retained_from);
        while let Some(sealed) = self.sealed.front()
            && sealed.chunk.end_sequence() <= if sealed.on_disk { needed } else { floor }
        {
            self.drop_oldest_sealed();
        }
        self.aside.trim(needed);
        let disk_floor = needed_on_disk.min(self.retained_marks.retained_from);
        self.blocks.trim(disk_floor);
        self.copies.retain(|block| block.end_sequence() > disk_floor);
        self.damaged.retain(|range| range.to > floor);
        if !self.open.is_empty() && self.open.end_sequence() <= floor {
            self.open.reset(self.open.end_sequence());
        }
        self.retained_marks.forget_before(floor);
    }

    fn drop_oldest_sealed(&mut self) {
        if let Some(sealed) = self.sealed.pop_front() {
            self.sealed_messages -= sealed.chunk.count();
            self.sealed_bytes -= sealed.chunk.len_bytes();
        }
    }

    /// While memory exceeds the bound: the chunk that must leave it, and whether it is on disk already.
    pub fn next_to_spill(&self) -> Option<(Arc<Chunk>, bool)> {
        if !self.is_over(1) {
            return None;
        }
        self.sealed.front().map(|sealed| (sealed.chunk.clone(), sealed.on_disk))
    }

    /// Whether memory exceeds `times` times the bound.
    pub fn is_over(&self, times: u8) -> bool {
        let times = usize::from(times);
        self.sealed_messages > self.bound.messages.saturating_mul(times as u64)
            || self.sealed_bytes > self.bound.bytes.saturating_mul(times)
    }

    /// Whether more than twice the bound, and more than `CHUNKS_BEHIND` chunks, wait to be written.
    pub fn is_far_over(&self) -> bool {
        if !self.is_over(2) {
            return false;
        }
        let unwritten = self.sealed.iter().rev().take_while(|sealed| !sealed.on_disk);
        let (messages, bytes) = unwritten.fold((0, 0), |(messages, bytes), sealed| {
            (messages + sealed.chunk.count(), bytes + sealed.chunk.len_bytes())
        });
        let over =
            messages > self.bound.messages.saturating_mul(2) || bytes > self.bound.bytes.saturating_mul(2);
        over && bytes > CHUNKS_BEHIND * self.bound.chunk_bytes
    }

    /// The oldest chunk with messages up to `sequence` that is in no segment yet. Seals the open chunk if it has such
    /// messages.
    pub fn unwritten_up_to(&mut self, sequence: u64) -> Option<Arc<Chunk>> {
        if !self.open.is_empty() && self.open.first_sequence() <= sequence {
            self.seal();
        }
        let sealed = self.sealed.iter().find(|sealed| !sealed.on_disk)?;
        (sealed.chunk.first_sequence() <= sequence).then(|| sealed.chunk.clone())
    }

    /// Records that the needed messages of a chunk are in these blocks now.
    pub fn written(&mut self, chunk: &Chunk, blocks: Vec<BlockRef>) {
        blocks.into_iter().for_each(|block| self.blocks.insert(block));
        let first = chunk.first_sequence();
        if let Some(sealed) = self.sealed.iter_mut().find(|sealed| sealed.chunk.first_sequence() == first) {
            sealed.on_disk = true;
        }
    }

    /// Handles a missing segment file: chunks in memory that had messages in it count as unwritten again. Returns the
    /// last message of these chunks.
    pub fn take_back(&mut self, file_number: u64) -> Option<u64> {
        let mut last = None;
        for sealed in self.sealed.iter_mut().filter(|sealed| sealed.on_disk) {
            let (first, end) = (sealed.chunk.first_sequence(), sealed.chunk.end_sequence());
            let within = |block: &&BlockRef| block.first_sequence >= first && block.end_sequence() <= end;
            let blocks: Vec<BlockRef> = (self.blocks.since(first))
                .take_while(|block| block.first_sequence < end)
                .filter(within)
                .cloned()
                .collect();
            if blocks.iter().any(|block| block.file_number() == file_number) {
                // Also blocks in other files: the whole chunk is written again.
                blocks.iter().for_each(|block| _ = self.blocks.remove(block));
                sealed.on_disk = false;
                last = Some(end - 1);
            }
        }
        last
    }

    /// Replaces a block with another one or nothing, unless it was removed meanwhile.
    pub fn replace_block(&mut self, old: &BlockRef, new: Option<BlockRef>) {
        if self.blocks.remove(old) {
            new.into_iter().for_each(|block| self.blocks.insert(block));
        }
    }

    /// Removes a sealed chunk that no one needs any more.
    pub fn forget(&mut self, chunk: &Chunk) {
        let first = chunk.first_sequence();
        if let Some(index) = self.sealed.iter().position(|sealed| sealed.chunk.first_sequence() == first) {
            self.sealed.remove(index);
            self.sealed_messages -= chunk.count();
            self.sealed_bytes -= chunk.len_bytes();
        }
    }

    /// Replaces the `old` blocks with `survivors`. An old block that was removed meanwhile had nothing needed, or was
    /// damaged; its copies are not added either.
    pub fn replace_blocks(&mut self, old: &[BlockRef], survivors: Vec<BlockRef>) {
        let replaced: Vec<&BlockRef> = old.iter().filter(|block| self.blocks.remove(block)).collect();
        for block in survivors {
            let index = replaced.partition_point(|old| old.end_sequence() <= block.first_sequence);
            if replaced.get(index).is_some_and(|old| old.first_sequence <= block.first_sequence) {
                self.blocks.insert(block);
            }
        }
    }

    /// The blocks that have copies in this segment file.
    pub fn originals_of_copies_in(&self, file_number: u64) -> Vec<BlockRef> {
        let copies = self.copies.iter().filter(|copy| copy.file_number() == file_number);
        let overlaps = |copy: &BlockRef| {
            let end = copy.end_sequence();
            self.blocks.since(copy.first_sequence).take_while(move |block| block.first_sequence < end)
        };
        copies.flat_map(overlaps).cloned().collect()
    }

    /// Forgets copies in a segment file that is deleted, because nothing in it is needed.
    pub fn forget_copies_in(&mut self, file_number: u64) {
        self.copies.retain(|block| block.file_number() != file_number);
    }

    /// Whether this block is still in the log.
    pub fn has_block(&self, block: &BlockRef) -> bool {
        self.blocks.holding(block.first_sequence).is_some_and(|known| known.is(block))
    }

    /// Up to `limit` blocks from a message on.
    pub fn blocks_from(&self, sequence: u64, limit: usize) -> Vec<BlockRef> {
        self.blocks.since(sequence).take(limit).cloned().collect()
    }

    /// Sets aside these messages of a chunk for ephemeral names, within the bound in bytes. Returns those for which
    /// there was no room.
    pub fn set_aside(&mut self, chunk: &Arc<Chunk>, needed: &[SequenceRange]) -> Ranges {
        let room = self.bound.bytes.saturating_sub(self.aside.bytes());
        let (kept, dropped) = Aside::fit(chunk, needed, room);
        self.aside.keep(chunk, &kept);
        dropped
    }

    /// Bytes set aside.
    pub fn aside_bytes(&self) -> usize {
        self.aside.bytes()
    }

    /// Whether there is no room to set aside these messages of a chunk.
    pub fn is_aside_full(&self, chunk: &Chunk, needed: &[SequenceRange]) -> bool {
        self.aside.bytes() + Aside::cost(chunk, needed) > self.bound.bytes
    }

    /// Messages set aside for ephemeral names.
    pub fn set_aside_ranges(&self) -> Ranges {
        self.aside.ranges().collect()
    }

    /// Keeps only these messages of the chunk set aside that begins at `first_sequence`.
    pub fn thin_aside(&mut self, first_sequence: u64, needed: &[SequenceRange]) {
        self.aside.thin(first_sequence, needed);
    }

    /// Approximate bytes in memory of messages from `sequence` on.
    pub fn bytes_since(&self, sequence: u64) -> usize {
        let index = self.sealed.partition_point(|sealed| sealed.chunk.end_sequence() <= sequence);
        let sealed: usize = self.sealed.range(index..).map(|sealed| sealed.chunk.len_bytes()).sum();
        let open = if self.open.end_sequence() > sequence { self.open.len_bytes() } else { 0 };
        sealed + open + self.aside.bytes_since(sequence)
    }

    /// Frees everything, because the topic is deleted.
    pub fn clear(&mut self) {
        let LogIndex { bound, id_base, .. } = *self;
        let next = self.next_sequence();
        *self = LogIndex { id_base, ..LogIndex::new(next, 0, bound) };
    }

    /// Removes a damaged block. If there are copies, they replace it. Returns the messages that are lost, which are
    /// [`Location::Damaged`] from now on. Returns `None` if the block was removed before.
    pub fn remove_damaged(&mut self, bad: &BlockRef) -> Option<Ranges> {
        if !self.blocks.remove(bad) {
            return None;
        }
        // Newest first: an older copy may be what a newer one replaced.
        for copy in std::mem::take(&mut self.copies).into_iter().rev() {
            if self.blocks.overlap(&copy) { self.copies.insert(0, copy) } else { self.blocks.insert(copy) }
        }
        let within = |gap: SequenceRange| gap.intersect(bad.sequences());
        let lost: Ranges = self.gaps().into_iter().map(within).filter(|lost| !lost.is_empty()).collect();
        self.damaged.extend(&lost);
        Some(lost)
    }

    /// Adds a block with messages that were damaged and found elsewhere.
    pub fn insert_restored(&mut self, block: BlockRef) {
        let found = block.sequences();
        let damaged = std::mem::take(&mut self.damaged);
        let rest = damaged.into_iter().flat_map(|SequenceRange { from, to }| {
            [SequenceRange::new(from, to.min(found.from)), SequenceRange::new(from.max(found.to), to)]
        });
        self.damaged = rest.filter(|range| !range.is_empty()).collect();
        self.blocks.insert(block);
    }

    /// The messages that were in damaged blocks and are nowhere else.
    pub fn damaged(&self) -> &[SequenceRange] {
        &self.damaged
    }

    /// Sequence numbers before the end that are neither in memory nor on disk.
    pub fn gaps(&self) -> Ranges {
        let blocks = self.blocks.iter().map(BlockRef::sequences);
        let chunks = self.sealed.iter().map(|sealed| &*sealed.chunk).chain([&self.open]);
        let chunks = chunks.map(Chunk::sequences);
        let mut runs: Vec<SequenceRange> = blocks.chain(chunks).chain(self.aside.ranges()).collect();
        runs.sort_unstable();
        let mut end = 0;
        let mut gaps = Vec::new();
        for run in runs {
            if end < run.from {
                gaps.push(SequenceRange::new(end, run.from));
            }
            end = end.max(run.to);
        }
        gaps
    }

    /// The block that has this message.
    pub fn block_of(&self, sequence: u64) -> Option<BlockRef> {
        self.blocks.holding(sequence).cloned()
    }

    /// The first message on disk after this one.
    pub fn next_block_after(&self, sequence: u64) -> Option<u64> {
        self.blocks.since(sequence + 1).map(|block| block.first_sequence).find(|&first| first > sequence)
    }

    /// Sets the blocks found in the segments at start, in the order in which they were written. A crash may leave both
    /// the survivors that were copied forward and the original file. Messages in two blocks are used only once.
    pub fn adopt_blocks(&mut self, mut blocks: Vec<BlockRef>) {
        blocks.sort_by_key(|block| (block.first_sequence, std::cmp::Reverse(block.count)));
        let mut end = 0;
        self.blocks.clear();
        self.copies.clear();
        for block in blocks {
            let is_new = block.first_sequence >= end;
            end = end.max(block.end_sequence());
            if is_new {
                self.blocks.insert(block);
            } else {
                self.copies.push(block);
            }
        }
        if let Some(end) = self.blocks.last().map(BlockRef::end_sequence) {
            self.skip_to(end);
        }
    }

    /// Adds a mark that the next release must pass to the channels.
    pub fn mark(&mut self, mark: Mark) {
        let index = self.marks.partition_point(|other| other.from() < mark.from());
        self.marks.insert(index, mark);
    }

    /// Takes the marks before `to`. Cuts those that end after it.
    pub fn take_marks(&mut self, to: u64) -> Vec<Mark> {
        let rest = self.marks.split_off(self.marks.partition_point(|mark| mark.from() < to));
        let mut taken = std::mem::replace(&mut self.marks, rest);
        let after = taken.iter_mut().filter(|mark| mark.to() > to).map(|mark| mark.split_off(to));
        self.marks.splice(0..0, after);
        taken
    }

    /// The marks that no release has taken yet.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// The messages of `from..to` that the next release skips, in order.
    pub fn refused_between(&self, from: u64, to: u64) -> Ranges {
        let mut first = self.marks.partition_point(|mark| mark.from() < from);
        // Marks cover whole batches: one that begins before `from` may end after it.
        while first > 0 && self.marks[first - 1].to() > from {
            first -= 1;
        }
        let marks = self.marks[first..].iter().take_while(|mark| mark.from() < to);
        let refused = marks.filter_map(|mark| match *mark {
            Mark::Skipped { from, to } => Some(SequenceRange { from, to }),
            Mark::Deferred { .. } | Mark::Targeted { .. } | Mark::Adopted { .. } => None,
        });
        merged(refused.collect())
    }

    /// The oldest message in memory (or the next, if none is).
    pub fn memory_start(&self) -> u64 {
        self.sealed.front().map_or(self.open.first_sequence(), |sealed| sealed.chunk.first_sequence())
    }

    /// The lowest floor at which [`LogIndex::trim`] frees something. Retained messages are not freed by a floor.
    pub fn first_release(&self) -> u64 {
        let unless_retained =
            |end: u64| if end <= self.retained_marks.retained_from { end } else { u64::MAX };
        let chunk = self.sealed.front().map(|sealed| {
            let end = sealed.chunk.end_sequence();
            if sealed.on_disk { end } else { unless_retained(end) }
        });
        let first = chunk.into_iter().chain(self.aside.first_end()).min();
        first.unwrap_or_else(|| unless_retained(self.open.end_sequence()))
    }

    /// Like [`LogIndex::first_release`], for messages on disk.
    pub fn first_block_release(&self) -> u64 {
        let retained_from = self.retained_marks.retained_from;
        let end = self.blocks.first().map(BlockRef::end_sequence);
        end.filter(|&end| end <= retained_from).unwrap_or(u64::MAX)
    }

    /// Number of the file with the oldest block.
    pub fn oldest_file(&self) -> Option<u64> {
        self.blocks.first().map(BlockRef::file_number)
    }

    /// First message of the oldest block.
    pub fn oldest_block(&self) -> Option<u64> {
        self.blocks.first().map(|block| block.first_sequence)
    }

    /// Frees the memory of an empty open chunk.
    pub fn shrink(&mut self) {
        self.open.shrink();
    }
}

/// The sequence number in an id, for any node.
pub fn sequence_of(id: u64) -> u64 {
    id & ((1 << SEQUENCE_BITS) - 1)
}
