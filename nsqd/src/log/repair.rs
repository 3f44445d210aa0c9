//! Repairing a log at start: blocks that a power failure has left in part.
//!
//! A segment is not synced when it is written: the journal has the same messages, and keeps them until it is. So after a
//! power failure a block may be missing, or have its header and not its content, although later blocks are whole. What
//! the journal holds as well is therefore not believed before it was read, and what is missing is taken from the
//! journal once more.

use std::io;

use super::TopicLog;
use crate::damage::Finding;
use crate::storage::block;
use crate::storage::segment::{BlockRef, NewBlock, ReadError};

/// What [`TopicLog::check_block_of`] found.
#[derive(Debug)]
pub enum CheckedBlock {
    /// There is no block with this message; the first message of the next block.
    Missing(Option<u64>),
    /// It is as it was written; the sequence number that follows it.
    Good(u64),
    /// It is not, and was forgotten. A copy may have taken its place.
    Bad,
}

impl TopicLog {
    /// Reads the block that has this message, if there is one. A damaged one is forgotten.
    pub fn check_block_of(&self, sequence: u64) -> io::Result<CheckedBlock> {
        let (block, next) = {
            let tail = self.tail.lock();
            (tail.block_of(sequence), tail.next_block_after(sequence))
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

    /// A block is damaged: it is reported, and a copy takes its place. Returns what is left nowhere.
    pub(super) fn forget_damaged(&self, block: &BlockRef, error: &ReadError) -> Vec<(u64, u64)> {
        let mut tail = self.tail.lock();
        let Some(lost) = tail.remove_damaged(block) else { return Vec::new() };
        self.publish_numbers(&tail);
        drop(tail);
        let mut finding = Finding::damage("the messages of a block are damaged");
        if let ReadError::Damaged { path, offset } = error {
            finding = finding.at(path, *offset, u64::from(block.bytes));
        }
        self.damage.found(finding.of(&self.name).with_messages(block.first_sequence, block.end_sequence()));
        lost
    }

    /// What was asked of a block could not be read. A damaged block is given up, once for all channels.
    pub fn read_failed(&self, block: &BlockRef, error: &ReadError) {
        match error {
            ReadError::Io { .. } => self.damage.read_failed(&error.to_string()),
            ReadError::Damaged { .. } => {
                for (from, to) in self.forget_damaged(block, error) {
                    self.damage.lost(&self.name, from, to);
                }
            }
        }
    }

    /// A block was read.
    pub fn read_worked(&self) {
        self.damage.read_worked();
    }

    /// Messages of blocks that were found to be damaged, and stand nowhere else.
    pub fn damaged(&self) -> Vec<(u64, u64)> {
        self.tail.lock().damaged().to_vec()
    }

    /// Sequence numbers before the end that stand neither in memory nor in a segment.
    pub fn gaps(&self) -> Vec<(u64, u64)> {
        self.tail.lock().gaps()
    }

    /// Writes those messages of a batch to a segment that lie in one of `gaps`. Returns how many.
    pub fn restore(
        &self,
        first_sequence: u64,
        count: u32,
        frames: &[u8],
        gaps: &[(u64, u64)],
    ) -> io::Result<u64> {
        let Some(offsets) = block::frame_offsets(frames, count) else { return Ok(0) };
        let end = first_sequence + u64::from(count);
        let mut restored = 0;
        for &(from, to) in gaps {
            let (from, to) = (from.max(first_sequence), to.min(end));
            if from >= to {
                continue;
            }
            let offset = |sequence: u64| offsets[(sequence - first_sequence) as usize] as usize;
            let frames = &frames[offset(from)..offset(to)];
            let new = NewBlock { first_sequence: from, count: (to - from) as u32, frames };
            let blocks = self.segments.lock().append_blocks(&[new])?;
            let mut tail = self.tail.lock();
            blocks.into_iter().for_each(|block| tail.insert_restored(block));
            self.publish_numbers(&tail);
            restored += to - from;
        }
        Ok(restored)
    }
}
