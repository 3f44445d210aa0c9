//! Repairing a log at start: blocks that a power failure has left in part.
//!
//! A segment is not synced when it is written: the journal has the same messages, and keeps them until it is. So after a
//! power failure a block may be missing, or have its header and not its content, although later blocks are whole. What
//! the journal holds as well is therefore not believed before it was read, and what is missing is taken from the
//! journal once more.

use std::io;

use super::TopicLog;
use crate::storage::block;
use crate::storage::segment::{NewBlock, ReadError};

/// What [`TopicLog::check_block_of`] found.
#[derive(Debug)]
pub enum CheckedBlock {
    /// There is no block with this message.
    Missing,
    /// It is as it was written; the sequence number that follows it.
    Good(u64),
    /// It is not, and was forgotten.
    Bad {
        /// Its first message.
        from: u64,
        /// One past its last.
        to: u64,
        /// Which block, for the log.
        error: String,
    },
}

impl TopicLog {
    /// Reads the block that has this message, if there is one. A damaged one is forgotten.
    pub fn check_block_of(&self, sequence: u64) -> io::Result<CheckedBlock> {
        let Some(block) = self.tail.lock().block_of(sequence) else { return Ok(CheckedBlock::Missing) };
        let (from, to) = (block.first_sequence, block.end_sequence());
        match block.read() {
            Ok(_) => Ok(CheckedBlock::Good(to)),
            Err(ReadError::Io { error, .. }) => Err(error),
            Err(error @ ReadError::Damaged { .. }) => {
                self.tail.lock().remove_block(&block);
                Ok(CheckedBlock::Bad { from, to, error: error.to_string() })
            }
        }
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
            blocks.into_iter().for_each(|block| tail.insert_block(block));
            self.publish_numbers(&tail);
            restored += to - from;
        }
        Ok(restored)
    }
}
