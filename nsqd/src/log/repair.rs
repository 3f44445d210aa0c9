//! Repairs a log at start: blocks that a power failure left incomplete.
//!
//! Segments are not synced when they are written: the journal keeps the same messages until they are. So after a power
//! failure, a block may be missing, or may have a header without its content, although later blocks are complete.
//! Therefore blocks whose messages are also in the journal are read before they are trusted, and missing messages are
//! restored from the journal.

use std::io;

use super::{Ranges, TopicLog};
use crate::damage::Finding;
use crate::storage::SequenceRange;
use crate::storage::block;
use crate::storage::segment::{BlockRef, NewBlock, ReadError};

/// What [`TopicLog::check_block_of`] found.
#[derive(Debug)]
pub enum CheckedBlock {
    /// No block has this message. Contains the first message of the next block, if there is one.
    Missing(Option<u64>),
    /// The block is intact. Contains the sequence number after it.
    Good(u64),
    /// The block is damaged and was removed from the log. A copy may have replaced it.
    Bad,
}

impl TopicLog {
    /// Reads the block that has this message, if there is one. Removes a damaged block from the log.
    pub fn check_block_of(&self, sequence: u64) -> io::Result<CheckedBlock> {
        let (block, next) = {
            let index = self.index.lock();
            (index.block_of(sequence), index.next_block_after(sequence))
        };
        let Some(block) = block else { return Ok(CheckedBlock::Missing(next)) };
        match block.read() {
            Ok(_) => Ok(CheckedBlock::Good(block.end_sequence())),
            Err(ReadError::Io { error, .. }) => Err(error),
            Err(error @ ReadError::Damaged { .. }) => {
                self.forget_damaged(&block, &error);
                Ok(CheckedBlock::Bad)
            }
        }
    }

    /// Reports a damaged block, and replaces it with copies if there are any. Returns the messages that are lost.
    pub(super) fn forget_damaged(&self, block: &BlockRef, error: &ReadError) -> Ranges {
        let mut index = self.index.lock();
        let Some(lost) = index.remove_damaged(block) else { return Ranges::new() };
        self.store_watermarks(&index);
        drop(index);
        let mut finding = Finding::damage("the messages of a block are damaged");
        if let ReadError::Damaged { path, offset } = error {
            finding = finding.at(path, *offset, u64::from(block.bytes));
        }
        self.damage.found(finding.of(&self.name).with_messages(block.sequences()));
        lost
    }

    /// Handles a failed read of a block. A damaged block is removed, once for all channels.
    pub fn read_failed(&self, block: &BlockRef, error: &ReadError) {
        match error {
            ReadError::Io { .. } => self.damage.read_failed(&error.to_string()),
            ReadError::Damaged { .. } => {
                for lost in self.forget_damaged(block, error) {
                    self.damage.lost(&self.name, lost);
                }
            }
        }
    }

    /// Reports that a block was read.
    pub fn read_worked(&self) {
        self.damage.read_worked();
    }

    /// Messages of damaged blocks that are nowhere else.
    pub fn damaged(&self) -> Vec<SequenceRange> {
        self.index.lock().damaged().to_vec()
    }

    /// Sequence numbers before the end that are neither in memory nor in a segment.
    pub fn gaps(&self) -> Ranges {
        self.index.lock().gaps()
    }

    /// Writes the messages of a batch that are in one of `gaps` to a segment. Returns how many.
    pub fn restore(
        &self,
        first_sequence: u64,
        count: u32,
        frames: &[u8],
        gaps: &[SequenceRange],
    ) -> io::Result<u64> {
        let Some(offsets) = block::frame_offsets(frames, count) else { return Ok(0) };
        let batch = SequenceRange::new(first_sequence, first_sequence + u64::from(count));
        let mut restored = 0;
        for gap in gaps {
            let missing = gap.intersect(batch);
            if missing.is_empty() {
                continue;
            }
            let offset = |sequence: u64| offsets[(sequence - first_sequence) as usize] as usize;
            let frames = &frames[offset(missing.from)..offset(missing.to)];
            let new = NewBlock { first_sequence: missing.from, count: missing.len() as u32, frames };
            let blocks = self.segments.lock().append_blocks(&[new])?;
            let mut index = self.index.lock();
            blocks.into_iter().for_each(|block| index.insert_restored(block));
            self.store_watermarks(&index);
            restored += missing.len();
        }
        Ok(restored)
    }
}
