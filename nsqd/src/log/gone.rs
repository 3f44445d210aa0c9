//! Segment files that someone deleted or replaced while nsqd runs: their messages are written again, from memory, or
//! from the file while it is still open.

use std::io;

use super::TopicLog;
use crate::storage::segment::{BlockRef, NewBlock, SegmentFileInfo, SegmentStore};

/// The result of [`TopicLog::replace_gone_files`].
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// Number of missing files.
    pub files: usize,
    /// Number of messages that may be needed, were only in these files, and cannot be read.
    pub unreadable: u64,
}

impl TopicLog {
    /// Checks that all segment files are still there, and writes the messages of missing ones again. Blocks on the
    /// disk.
    ///
    /// The next call checks a file with unreadable messages again: someone may put it back.
    pub fn replace_gone_files(&self) -> io::Result<Gone> {
        let Some(mut segments) = self.segments.try_lock() else { return Ok(Gone::default()) };
        if self.is_deleted() {
            return Ok(Gone::default());
        }
        let mut result = Gone::default();
        let gone = segments.gone();
        // Do not write the messages to a file that is missing too.
        if segments.writing().is_some_and(|writing| gone.iter().any(|file| file.number == writing.number)) {
            segments.close_file();
        }
        for file in gone {
            let unreadable = self.replace_gone_file(&mut segments, &file)?;
            segments.file_is_gone(file.number, unreadable == 0);
            if unreadable == 0 {
                self.index.lock().forget_copies_in(file.number);
            }
            result.files += 1;
            result.unreadable += unreadable;
        }
        if result.files > 0 {
            segments.sync()?;
        }
        Ok(result)
    }

    /// Returns the number of messages that cannot be read.
    fn replace_gone_file(&self, segments: &mut SegmentStore, file: &SegmentFileInfo) -> io::Result<u64> {
        let in_memory = self.index.lock().take_back(file.number);
        while let Some(last) = in_memory {
            let Some(chunk) = self.index.lock().unwritten_up_to(last) else { break };
            if !self.write_needed(segments, &chunk)? {
                self.leave_memory(&chunk);
            }
        }
        let mut unreadable = 0;
        let blocks = self.index.lock().blocks_of_file(file.number);
        for block in &blocks {
            let is_retained = block.end_sequence() > self.retained_from();
            if !is_retained && !self.holders.need_any(block.first_sequence, block.end_sequence()) {
                self.replace_block(block, None);
            } else if !self.copy_block(segments, block)? {
                unreadable += u64::from(block.count);
            }
        }
        Ok(unreadable)
    }

    /// Returns false if the block cannot be read.
    fn copy_block(&self, segments: &mut SegmentStore, block: &BlockRef) -> io::Result<bool> {
        let Ok(loaded) = block.read() else { return Ok(false) };
        let (first_sequence, count) = (block.first_sequence, block.count);
        let new = segments.append_blocks(&[NewBlock { first_sequence, count, frames: &loaded.frames }])?;
        self.replace_block(block, new.into_iter().next());
        Ok(true)
    }

    fn replace_block(&self, old: &BlockRef, new: Option<BlockRef>) {
        let mut index = self.index.lock();
        index.replace_block(old, new);
        self.store_watermarks(&index);
    }
}
