//! Segment files that somebody has removed or replaced while nsqd runs: what was in them is written again, from memory or
//! from the file as long as it is open.

use std::io;

use super::TopicLog;
use crate::storage::segment::{BlockRef, NewBlock, SegmentFileInfo, SegmentStore};

/// What came of files that are gone.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// So many files are gone.
    pub files: usize,
    /// So many messages may be needed, were only there, and cannot be read.
    pub unreadable: u64,
}

impl TopicLog {
    /// Looks whether all segment files are still there, and writes again what was in those that are not. Blocks.
    ///
    /// A file with messages that cannot be read is looked at again by the next call: somebody may put it back.
    pub fn replace_gone_files(&self) -> io::Result<Gone> {
        let Some(mut segments) = self.segments.try_lock() else { return Ok(Gone::default()) };
        if self.is_deleted() {
            return Ok(Gone::default());
        }
        let mut result = Gone::default();
        let gone = segments.gone();
        // What is written again must not go to a file that is gone as well.
        if segments.writing().is_some_and(|writing| gone.iter().any(|file| file.number == writing.number)) {
            segments.close_file();
        }
        for file in gone {
            let unreadable = self.replace_gone_file(&mut segments, &file)?;
            segments.file_is_gone(file.number, unreadable == 0);
            if unreadable == 0 {
                self.tail.lock().forget_copies_in(file.number);
            }
            result.files += 1;
            result.unreadable += unreadable;
        }
        if result.files > 0 {
            segments.sync()?;
        }
        Ok(result)
    }

    /// Returns how many messages cannot be read.
    fn replace_gone_file(&self, segments: &mut SegmentStore, file: &SegmentFileInfo) -> io::Result<u64> {
        let in_memory = self.tail.lock().take_back(file.number);
        while let Some(last) = in_memory {
            let Some(chunk) = self.tail.lock().unwritten_up_to(last) else { break };
            if !self.write_needed(segments, &chunk)? {
                self.leave_memory(&chunk);
            }
        }
        let mut unreadable = 0;
        let blocks = self.tail.lock().blocks_of_file(file.number);
        for block in &blocks {
            let is_kept = block.end_sequence() > self.retained_from();
            if !is_kept && !self.holders.need_any(block.first_sequence, block.end_sequence()) {
                self.replace_block(block, None);
            } else if !self.copy_block(segments, block)? {
                unreadable += u64::from(block.count);
            }
        }
        Ok(unreadable)
    }

    /// False if the block cannot be read.
    fn copy_block(&self, segments: &mut SegmentStore, block: &BlockRef) -> io::Result<bool> {
        let Ok(loaded) = block.read() else { return Ok(false) };
        let (first_sequence, count) = (block.first_sequence, block.count);
        let new = segments.append_blocks(&[NewBlock { first_sequence, count, frames: &loaded.frames }])?;
        self.replace_block(block, new.into_iter().next());
        Ok(true)
    }

    fn replace_block(&self, old: &BlockRef, new: Option<BlockRef>) {
        let mut tail = self.tail.lock();
        tail.replace_block(old, new);
        self.publish_numbers(&tail);
    }
}
