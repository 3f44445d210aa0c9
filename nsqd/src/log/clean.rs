//! Cleaning: copies the survivors of segment files that are at least half finished, and deletes these files.
//!
//! So a topic uses at most about twice the disk space of its unfinished messages. Each copied byte frees another one,
//! so all copying together writes no more than the backlog once did. Many small files of a topic become one. Files are
//! read block by block, and copied in pieces.

use std::collections::HashMap;
use std::io;

use super::TopicLog;
use crate::storage::SequenceRange;
use crate::storage::block::BLOCK_HEADER_BYTES;
use crate::storage::segment::{BlockRef, NewBlock, ReadError, SegmentFileInfo};

/// A file is deleted if at most one in this many of its bytes is needed.
const NEEDED_SHARE: u64 = 2;
/// A file that would free less than this is kept: file systems allocate space in units of this size.
const LEAST_WASTE_BYTES: u64 = 4096;
/// Files smaller than this may be merged.
const SMALL_FILE_BYTES: u64 = 64 << 10;
/// If a topic has more small files than this, they are merged into one.
const MOST_SMALL_FILES: usize = 8;
/// With a low maximum file size, a file is small if it has less than one in this many of the maximum bytes.
const SMALL_FILE_SHARE: u64 = 16;
/// Number of blocks checked at a time.
const PAGE_BLOCKS: usize = 64;
/// Survivors are written in pieces of about this size.
const PIECE_BYTES: usize = 1 << 20;

/// The result of [`TopicLog::clean`].
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Cleaned {
    /// Bytes freed.
    pub freed_bytes: u64,
    /// Bytes of survivors copied.
    pub copied_bytes: u64,
    /// There are segment files, so a later call may free more.
    pub has_files: bool,
    /// The call ended early, because it reached its budget.
    pub has_more: bool,
}

/// A segment file, and how much of it is needed.
#[derive(Debug, Clone, Copy)]
struct FileUse {
    number: u64,
    bytes: u64,
    needed_bytes: u64,
    is_written_to: bool,
}

impl FileUse {
    fn is_wasteful(&self, least_waste: u64) -> bool {
        let waste = self.bytes.saturating_sub(self.needed_bytes);
        self.needed_bytes == 0 || (self.needed_bytes * NEEDED_SHARE <= self.bytes && waste >= least_waste)
    }
}

/// Chooses the files to delete.
fn choose(files: &[FileUse], max_file_bytes: u64) -> Vec<u64> {
    let least_waste = LEAST_WASTE_BYTES.min(max_file_bytes / SMALL_FILE_SHARE);
    let small_bytes = SMALL_FILE_BYTES.min(max_file_bytes / SMALL_FILE_SHARE);
    let is_small = |file: &FileUse| !file.is_written_to && file.bytes < small_bytes;
    let merges = files.iter().filter(|file| is_small(file)).count() > MOST_SMALL_FILES;
    let is_chosen = |file: &&FileUse| file.is_wasteful(least_waste) || (merges && is_small(file));
    files.iter().filter(is_chosen).map(|file| file.number).collect()
}

/// Survivors to be copied to another file.
#[derive(Default)]
struct Piece {
    /// The blocks of the survivors, in order, including blocks without survivors.
    old: Vec<BlockRef>,
    /// First message, count, and end of their frames.
    runs: Vec<(u64, u32, usize)>,
    frames: Vec<u8>,
}

impl Piece {
    fn new_blocks(&self) -> Vec<NewBlock<'_>> {
        let mut start = 0;
        let block = |&(first_sequence, count, end): &(u64, u32, usize)| {
            let frames = &self.frames[start..end];
            start = end;
            NewBlock { first_sequence, count, frames }
        };
        self.runs.iter().map(block).collect()
    }
}

impl TopicLog {
    /// Deletes segment files with few or no needed messages, after copying these messages: at most about
    /// `budget_bytes`. Blocks on the disk.
    ///
    /// `before_release` runs before a file is deleted. It must store what was finished so far: after a crash, no one
    /// may look for a deleted message.
    pub fn clean(
        &self,
        budget_bytes: u64,
        before_release: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Cleaned> {
        let (files, max_file_bytes, writing) = {
            let Some(segments) = self.segments.try_lock() else {
                return Ok(Cleaned { has_files: true, ..Cleaned::default() });
            };
            let writing = segments.writing().map(|file| file.number);
            (segments.files().collect::<Vec<_>>(), segments.max_file_bytes(), writing)
        };
        let mut cleaned = Cleaned { has_files: !files.is_empty(), ..Cleaned::default() };
        if files.is_empty() {
            return Ok(cleaned);
        }
        let retained_from = self.retained_from();
        let needed = self.needed_bytes_by_file();
        let uses: Vec<FileUse> = (files.iter())
            .filter(|file| file.end_sequence <= retained_from)
            .map(|file| FileUse {
                number: file.number,
                bytes: file.bytes,
                needed_bytes: needed.get(&file.number).copied().unwrap_or(0),
                is_written_to: writing == Some(file.number),
            })
            .collect();
        let chosen = choose(&uses, max_file_bytes);
        let mut to_delete = Vec::new();
        let mut failure = None;
        for file in self.close_files(&chosen) {
            if cleaned.copied_bytes >= budget_bytes {
                cleaned.has_more = true;
                break;
            }
            match self.check_originals(file.number).and_then(|()| self.copy_survivors(&file)) {
                Ok(bytes) => {
                    cleaned.copied_bytes += bytes;
                    to_delete.push(file.number);
                }
                // A full disk has no room for copies, but deleting a file without survivors makes room.
                Err(error) => failure = Some(error),
            }
        }
        if !to_delete.is_empty() {
            before_release()?;
        }
        cleaned.freed_bytes = self.release_files(&to_delete)?;
        failure.map_or(Ok(cleaned), Err)
    }

    /// Ensures that nothing more is written to these files, neither from memory nor survivors of one another. Returns
    /// their final information.
    fn close_files(&self, numbers: &[u64]) -> Vec<SegmentFileInfo> {
        let mut segments = self.segments.lock();
        numbers.iter().for_each(|&number| segments.close_file_if_writing(number));
        segments.files().filter(|file| numbers.contains(&file.number)).collect()
    }

    /// Approximate needed bytes of each file.
    fn needed_bytes_by_file(&self) -> HashMap<u64, u64> {
        let ahead_from = self.holders.ahead_from();
        let mut needed_bytes: HashMap<u64, u64> = HashMap::new();
        let mut at = 0;
        loop {
            let page = self.index.lock().blocks_from(at, PAGE_BLOCKS);
            let (Some(first), Some(last)) = (page.first(), page.last()) else { break };
            let (first, end) = (first.first_sequence, last.end_sequence());
            let needed = if first >= ahead_from {
                self.without_refused(vec![SequenceRange::new(first, end)])
            } else {
                self.needed_on_disk(first, end)
            };
            for block in &page {
                *needed_bytes.entry(block.file_number()).or_default() += share(block, &needed);
            }
            at = end;
        }
        needed_bytes
    }

    /// Reads the blocks that have copies in this file. A damaged one is replaced by its copy, which is a survivor then.
    /// A start checks only the headers of blocks, and there are copies only after a crash, so this is rare.
    fn check_originals(&self, file_number: u64) -> io::Result<()> {
        let originals = self.index.lock().originals_of_copies_in(file_number);
        for block in originals {
            match block.read() {
                Ok(_) => {}
                Err(_) if !self.index.lock().has_block(&block) => {}
                Err(error @ ReadError::Io { .. }) => return Err(io::Error::other(error)),
                Err(error) => self.read_failed(&block, &error),
            }
        }
        Ok(())
    }

    /// Copies the needed messages of a file. Returns the bytes copied.
    fn copy_survivors(&self, file: &SegmentFileInfo) -> io::Result<u64> {
        let mut copied = 0;
        let mut piece = Piece::default();
        let mut at = file.first_sequence;
        while at < file.end_sequence {
            let page = self.index.lock().blocks_from(at, PAGE_BLOCKS);
            let Some(last) = page.last() else { break };
            at = last.end_sequence();
            for block in page.into_iter().filter(|block| block.file_number() == file.number) {
                self.add_survivors(&mut piece, block)?;
                if piece.frames.len() >= PIECE_BYTES {
                    copied += self.write_piece(std::mem::take(&mut piece))?;
                }
            }
        }
        Ok(copied + self.write_piece(piece)?)
    }

    fn add_survivors(&self, piece: &mut Piece, block: BlockRef) -> io::Result<()> {
        let (first, end) = (block.first_sequence, block.end_sequence());
        let needed = self.needed_on_disk(first, end);
        if !needed.is_empty() {
            let loaded = match block.read() {
                Ok(loaded) => loaded,
                // The block was freed meanwhile, and its file with it.
                Err(_) if !self.index.lock().has_block(&block) => return Ok(()),
                Err(error @ ReadError::Io { .. }) => return Err(io::Error::other(error)),
                Err(error) => {
                    self.read_failed(&block, &error);
                    return Ok(());
                }
            };
            for range in needed {
                let indices = (range.from - first) as usize..(range.to - first) as usize;
                indices.filter_map(|index| loaded.frame(index)).for_each(|f| piece.frames.extend(f));
                piece.runs.push((range.from, range.len() as u32, piece.frames.len()));
            }
        }
        piece.old.push(block);
        Ok(())
    }

    /// Writes the survivors. From now on, the log reads them from their new place.
    fn write_piece(&self, piece: Piece) -> io::Result<u64> {
        if piece.old.is_empty() {
            return Ok(0);
        }
        let mut segments = self.segments.lock();
        if self.is_deleted() {
            return Ok(0);
        }
        let copies = segments.append_blocks(&piece.new_blocks())?;
        let mut index = self.index.lock();
        index.replace_blocks(&piece.old, copies);
        self.store_watermarks(&index);
        Ok((piece.frames.len() + piece.runs.len() * BLOCK_HEADER_BYTES) as u64)
    }

    fn release_files(&self, numbers: &[u64]) -> io::Result<u64> {
        if numbers.is_empty() {
            return Ok(0);
        }
        let mut segments = self.segments.lock();
        if self.is_deleted() {
            return Ok(0);
        }
        // The copies must be on disk before the originals are deleted, in case the power fails in between. The copies
        // may be from an earlier attempt that failed halfway.
        segments.sync()?;
        let mut freed = 0;
        for &number in numbers {
            self.index.lock().forget_copies_in(number);
            freed += segments.release_file(number)?;
        }
        Ok(freed)
    }
}

/// The bytes of these messages (in order) within a block, with the headers that they would have in separate blocks.
fn share(block: &BlockRef, needed: &[SequenceRange]) -> u64 {
    let block_range = block.sequences();
    let start = needed.partition_point(|range| range.to <= block_range.from);
    let (mut count, mut runs) = (0, 0);
    for range in needed[start..].iter().take_while(|range| range.from < block_range.to) {
        count += range.intersect(block_range).len();
        runs += 1;
    }
    u64::from(block.bytes) * count / u64::from(block.count) + runs * BLOCK_HEADER_BYTES as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nsq_protocol::headers::Form;
    use parking_lot::Mutex;

    use super::*;
    use crate::log::chunk::Chunk;
    use crate::log::index::{LogIndex, MemoryBound};
    use crate::log::{Holder, LogContext, Ranges};
    use crate::storage::faulty::{Fault, FaultyStorage, Op};
    use crate::storage::segment::SegmentStore;

    const MIB: u64 = 1 << 20;

    fn file(number: u64, bytes: u64, needed_bytes: u64) -> FileUse {
        FileUse { number, bytes, needed_bytes, is_written_to: false }
    }

    /// Needs only these messages.
    struct Needs(Mutex<Ranges>);

    impl Holder for Needs {
        fn floor(&self) -> u64 {
            self.0.lock()[0].from
        }
        fn ahead_from(&self) -> u64 {
            u64::MAX
        }
        fn needed(&self, from: u64, to: u64) -> Ranges {
            let within = SequenceRange { from, to };
            self.0
                .lock()
                .iter()
                .map(|range| range.intersect(within))
                .filter(|range| !range.is_empty())
                .collect()
        }
        fn needs_any(&self, from: u64, to: u64) -> bool {
            !self.needed(from, to).is_empty()
        }
    }

    #[test]
    fn full_disk_deletes_files_without_survivors() {
        let storage = FaultyStorage::default();
        let bound = MemoryBound { messages: 1000, bytes: 1 << 20, chunk_bytes: 1000 };
        // Four messages fill a file.
        let segments = SegmentStore::new(Arc::new(storage.clone()), "/d/t", 40 << 10);
        let log = TopicLog::new(LogIndex::new(0, 0, bound), segments, "t", LogContext::default());
        let needs = Arc::new(Needs(Mutex::new(vec![SequenceRange::new(0, 12)])));
        log.add_holder(&(needs.clone() as Arc<dyn Holder>));
        for _ in 0..12 {
            let body = [b'x'; 8 << 10];
            let batch = (Form::Plain, 1, body.len());
            log.append([&body[..]].into_iter(), batch, 0, None, |_, _| Ok::<_, ()>(())).unwrap();
        }
        log.persist_up_to(12, false).unwrap();
        let files = |log: &TopicLog| log.segments.lock().files().map(|file| file.number).collect::<Vec<_>>();
        assert_eq!(files(&log), [1, 2, 3]);
        *needs.0.lock() = vec![SequenceRange::new(0, 1), SequenceRange::new(8, 12)];
        storage.plan(Fault::next(Op::Create, 1, io::ErrorKind::StorageFull));
        assert_eq!(log.clean(u64::MAX, || Ok(())).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(files(&log), [1, 3], "only the file without survivors is deleted");
        let cleaned = log.clean(u64::MAX, || Ok(())).unwrap();
        assert!(cleaned.freed_bytes > 4 * (8 << 10) && cleaned.copied_bytes > 8 << 10, "{cleaned:?}");
        assert_eq!(files(&log), [3, 4]);
        assert_eq!(log.index.lock().block_of(0).map(|block| block.file_number()), Some(4));
    }

    /// A power failure left a damaged block; its messages were written again, and then the journal forgot them.
    #[test]
    fn copies_of_a_damaged_block_are_kept() {
        let storage = FaultyStorage::default();
        let mut chunk = Chunk::new(0);
        (0..10).for_each(|number| chunk.push(0, number, Form::Plain, b"body"));
        let mut written = SegmentStore::new(Arc::new(storage.clone()), "/d/t", 1 << 20);
        for number in [1, 2] {
            written.append(0, 10, chunk.frames()).unwrap();
            written.close_file_if_writing(number);
        }
        drop(written);
        let damaged = storage.paths().into_iter().next().unwrap();
        storage.tamper(&damaged, |bytes| *bytes.last_mut().unwrap() ^= 1);

        let (segments, blocks, _) = SegmentStore::open(Arc::new(storage), "/d/t", 1 << 20).unwrap();
        let bound = MemoryBound { messages: 1000, bytes: 1 << 20, chunk_bytes: 1000 };
        let mut index = LogIndex::new(0, 0, bound);
        index.adopt_blocks(blocks);
        let log = TopicLog::new(index, segments, "t", LogContext::default());
        let needs: Arc<dyn Holder> = Arc::new(Needs(Mutex::new(vec![SequenceRange::new(0, 10)])));
        log.add_holder(&needs);
        log.clean(u64::MAX, || Ok(())).unwrap();
        let block = log.index.lock().block_of(0).unwrap();
        assert_eq!(block.read().unwrap().frames, chunk.frames());
        log.clean(u64::MAX, || Ok(())).unwrap();
        assert_eq!(log.segments.lock().files().count(), 1, "the damaged file is deleted later");
    }

    #[test]
    fn half_finished_files_are_deleted_and_others_kept() {
        let files = [
            file(1, 100 * MIB, 50 * MIB),
            file(2, 100 * MIB, 51 * MIB),
            file(3, 100, 0),
            file(4, 4000, 100),
            file(5, 5000, 100),
            FileUse { is_written_to: true, ..file(6, MIB, 1000) },
        ];
        assert_eq!(choose(&files, 100 * MIB), [1, 3, 5, 6]);
    }

    #[test]
    fn many_small_files_become_one() {
        let files: Vec<FileUse> = (1..=9).map(|number| file(number, 2000, 1900)).collect();
        assert_eq!(choose(&files, 100 * MIB).len(), 9);
        assert!(choose(&files[..8], 100 * MIB).is_empty());
        let mut written_to = files;
        written_to[8].is_written_to = true;
        assert!(choose(&written_to, 100 * MIB).is_empty());
    }
}
