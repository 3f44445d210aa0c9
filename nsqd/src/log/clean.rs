//! Cleaning: an old segment file of which little is still needed goes, and its survivors are copied forward.
//!
//! One message deferred for a week must not pin gigabytes. A file that is mostly a backlog stays as it is.

use std::io;

use super::TopicLog;
use crate::storage::segment::{LoadedBlock, NewBlock, ReadError, SegmentFileInfo, SegmentStore};

/// A file goes if at most one in so many of its messages is needed.
const SURVIVOR_SHARE: u64 = 16;
/// More than so many survivors are not copied in one go, whatever their share.
const MAX_SURVIVORS: usize = 10_000;

impl TopicLog {
    /// Looks at all segment files but the newest, and lets go of those that hold little or nothing that is needed.
    /// Returns the bytes that came free. Reads and writes the disk.
    pub fn clean(&self) -> io::Result<u64> {
        let Some(mut segments) = self.segments.try_lock() else { return Ok(0) };
        if self.is_deleted() {
            return Ok(0);
        }
        let files: Vec<SegmentFileInfo> = segments.files().collect();
        let Some((_newest, old)) = files.split_last() else { return Ok(0) };
        let mut freed = 0;
        let retained_from = self.retained_from();
        for file in old.iter().filter(|file| file.end_sequence <= retained_from) {
            let limit = ((file.message_count / SURVIVOR_SHARE) as usize).min(MAX_SURVIVORS);
            if let Some(survivors) = self.holders.survivors(file.first_sequence, file.end_sequence, limit) {
                freed += self.release_file(&mut segments, file, &survivors)?;
            }
        }
        Ok(freed)
    }

    fn release_file(
        &self,
        segments: &mut SegmentStore,
        file: &SegmentFileInfo,
        survivors: &[u64],
    ) -> io::Result<u64> {
        let mut copies: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut loaded: Option<LoadedBlock> = None;
        for &sequence in survivors {
            let Some(block) = self.tail.lock().block_of(sequence) else { continue };
            // It may stand in another file, or be in memory as well.
            if block.file_number() != file.number {
                continue;
            }
            if loaded.as_ref().is_none_or(|loaded| loaded.first_sequence != block.first_sequence) {
                loaded = match block.read() {
                    Ok(block) => Some(block),
                    Err(error @ ReadError::Io { .. }) => return Err(io::Error::other(error)),
                    Err(error) => {
                        self.read_failed(&block, &error);
                        continue;
                    }
                };
            }
            let frame =
                loaded.as_ref().and_then(|loaded| loaded.frame((sequence - block.first_sequence) as usize));
            copies.extend(frame.map(|frame| (sequence, frame.to_vec())));
        }
        let blocks: Vec<_> = (copies.iter())
            .map(|(sequence, frame)| NewBlock { first_sequence: *sequence, count: 1, frames: frame })
            .collect();
        let copied = segments.append_blocks(&blocks)?;
        // The copies must be there before what they are copies of goes, even if the power fails in between.
        if !copied.is_empty() {
            segments.sync()?;
        }
        let mut tail = self.tail.lock();
        tail.replace_blocks(file.number, copied);
        self.publish_numbers(&tail);
        drop(tail);
        segments.release_file(file.number)
    }
}
