//! The segments of one topic: files that only grow, for messages that leave memory.
//!
//! - [`SegmentStore`] here: append blocks, release files;
//! - `file`: one file, opened on demand; a [`BlockRef`] reads from it without the store;
//! - [`index`]: for reading a few frames of a block without the others; pure;
//! - `reader`: reads the files at start.
//!
//! Messages that must be kept when their segment should be deleted (survivors) are appended again. So
//! blocks are in the order in which they were written, which need not be that of their sequence numbers.
//! After a crash, two blocks may contain the same messages.

mod file;
pub mod index;
mod reader;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use self::file::SegmentFile;
pub use self::file::{FILE_HEADER_BYTES, file_name};
pub use self::{
    file::{BlockKey, BlockRef, LoadedBlock, ReadError},
    index::BlockIndex,
    reader::{SegmentDamage, SegmentReport},
};
use super::{
    Storage, SyncError,
    block::{BLOCK_HEADER_BYTES, BlockHeader},
};

/// Default of [`SegmentStore::max_file_bytes`].
pub const DEFAULT_MAX_FILE_BYTES: u64 = 100 << 20;

/// Messages to append: consecutive from `first_sequence` on, as encoded frames back to back.
#[derive(Clone, Copy, Debug)]
pub struct NewBlock<'a> {
    /// Sequence number of the first message.
    pub first_sequence: u64,
    /// Number of messages; not 0.
    pub count: u32,
    pub frames: &'a [u8],
}

/// What reclaiming space needs to know about a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFileInfo {
    /// The file's number; later files have greater ones.
    pub number: u64,
    /// The lowest sequence number in it.
    pub first_sequence: u64,
    /// One more than the highest sequence number in it.
    pub end_sequence: u64,
    /// Number of messages in it.
    pub message_count: u64,
    /// Length of the file.
    pub bytes: u64,
}

/// One topic's segment files.
pub struct SegmentStore {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    max_file_bytes: u64,
    files: BTreeMap<u64, FileState>,
    /// Number of the file to which blocks are appended.
    writing: Option<u64>,
    next_number: u64,
    /// Written to since the last sync.
    unsynced: Vec<Arc<SegmentFile>>,
    /// The directory is known to exist.
    dir_exists: bool,
    names_unsynced: bool,
    /// See [`SegmentStore::bytes_gauge`].
    bytes: Arc<AtomicU64>,
}

struct FileState {
    file: Arc<SegmentFile>,
    info: SegmentFileInfo,
}

impl SegmentStore {
    /// The store of a topic that has no segments yet. Makes no disk access.
    pub fn new(storage: Arc<dyn Storage>, dir: impl Into<PathBuf>, max_file_bytes: u64) -> Self {
        Self {
            storage,
            dir: dir.into(),
            max_file_bytes,
            files: BTreeMap::new(),
            writing: None,
            next_number: 1,
            unsynced: Vec::new(),
            dir_exists: false,
            names_unsynced: false,
            bytes: Arc::default(),
        }
    }

    /// Finds the topic's segments in `dir` (which need not exist), reading block headers only.
    ///
    /// Returns the blocks in the order in which they were written. A torn tail is cut, damage is skipped and
    /// reported. New blocks go to a new file.
    pub fn open(
        storage: Arc<dyn Storage>,
        dir: impl Into<PathBuf>,
        max_file_bytes: u64,
    ) -> io::Result<(Self, Vec<BlockRef>, SegmentReport)> {
        let mut store = Self::new(storage, dir, max_file_bytes);
        let names = match store.storage.list(&store.dir) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((store, Vec::new(), SegmentReport::default()));
            }
            Err(error) => return Err(error),
        };
        store.dir_exists = true;
        let mut found = reader::read_all(&store.storage, &store.dir, &names)?;
        store.next_number = found.next_number;
        for block in &found.blocks {
            note_block(&mut store.files, block);
        }
        for (file, bytes) in found.files {
            match store.files.get_mut(&file.number()) {
                Some(state) => {
                    state.info.bytes = bytes;
                    // A killed process may have written it and never synced it.
                    store.unsynced.push(file);
                    store.names_unsynced = true;
                }
                // It contains no readable block.
                None => reader::put_away(&*store.storage, file.path(), bytes, &mut found.report)?,
            }
        }
        store.bytes.store(store.files().map(|info| info.bytes).sum(), Relaxed);
        Ok((store, found.blocks, found.report))
    }

    /// Appends one block with one write.
    pub fn append(&mut self, first_sequence: u64, count: u32, frames: &[u8]) -> io::Result<BlockRef> {
        let mut refs = self.append_blocks(&[NewBlock { first_sequence, count, frames }])?;
        refs.pop().ok_or_else(invalid_block)
    }

    /// Appends several blocks with one write, all or none. Survivors consist of many small runs.
    pub fn append_blocks(&mut self, blocks: &[NewBlock<'_>]) -> io::Result<Vec<BlockRef>> {
        let headers = blocks
            .iter()
            .map(|block| BlockHeader::new(block.first_sequence, block.count, block.frames))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(invalid_block)?;
        if blocks.is_empty() {
            return Ok(Vec::new());
        }
        let len = blocks.iter().map(|block| (BLOCK_HEADER_BYTES + block.frames.len()) as u64).sum();
        let (file, end) = self.file_for(len)?;
        match file.append(end, blocks, &headers) {
            Ok(_) if !file.has_name() => {
                self.writing = None;
                Err(removed(&file))
            }
            Ok(refs) => {
                for block in &refs {
                    note_block(&mut self.files, block);
                }
                if let Some(state) = self.files.get_mut(&file.number()) {
                    let before = std::mem::replace(&mut state.info.bytes, end.max(FILE_HEADER_BYTES) + len);
                    self.bytes.fetch_add(state.info.bytes - before, Relaxed);
                }
                if !self.unsynced.iter().any(|unsynced| unsynced.number() == file.number()) {
                    self.unsynced.push(file);
                }
                Ok(refs)
            }
            Err(error) => {
                self.undo(&file, end);
                Err(error)
            }
        }
    }

    /// Returns once everything appended is on stable storage. After an error, what is on disk is unknown.
    pub fn sync(&mut self) -> io::Result<()> {
        for file in &self.unsynced {
            file.sync()?;
            if !file.has_name() {
                return Err(removed(file));
            }
        }
        self.unsynced.clear();
        if self.names_unsynced {
            match self.sync_names() {
                // Someone removed the directory, and no file in it is needed.
                Err(SyncError::NotOpened(error))
                    if error.kind() == io::ErrorKind::NotFound && self.files.is_empty() =>
                {
                    self.dir_exists = false;
                }
                synced => synced?,
            }
            self.names_unsynced = false;
        }
        Ok(())
    }

    fn sync_names(&self) -> Result<(), SyncError> {
        self.storage.sync_dir(&self.dir)?;
        self.dir.parent().map_or(Ok(()), |parent| self.storage.sync_dir(parent))
    }

    /// All files, oldest first.
    pub fn files(&self) -> impl Iterator<Item = SegmentFileInfo> + '_ {
        self.files.values().map(|state| state.info)
    }

    /// The file to which blocks are appended, if there is one.
    pub fn writing(&self) -> Option<SegmentFileInfo> {
        self.writing.and_then(|number| self.files.get(&number)).map(|state| state.info)
    }

    /// The next append goes to a new file.
    pub fn close_file(&mut self) {
        self.writing = None;
    }

    /// As [`SegmentStore::close_file`], if blocks are appended to this file.
    pub fn close_file_if_writing(&mut self, number: u64) {
        self.writing.take_if(|writing| *writing == number);
    }

    /// A new file is begun when an append would make the current one larger than this.
    pub fn max_file_bytes(&self) -> u64 {
        self.max_file_bytes
    }

    pub fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Removes the files that hold only messages below `sequence`. Returns the freed bytes.
    pub fn release_below(&mut self, sequence: u64) -> io::Result<u64> {
        let done: Vec<u64> =
            self.files().filter(|info| info.end_sequence <= sequence).map(|info| info.number).collect();
        let mut bytes = 0;
        for number in done {
            bytes += self.release_file(number)?;
        }
        Ok(bytes)
    }

    /// Removes a file in which everything is finished or was appended again. Returns the freed bytes.
    pub fn release_file(&mut self, number: u64) -> io::Result<u64> {
        let Some(state) = self.files.get(&number) else { return Ok(0) };
        match self.storage.remove(state.file.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let bytes = state.info.bytes;
        self.file_is_gone(number, true);
        // If the file came back after a power failure, with damaged blocks, a start could prefer them to good copies.
        // That does no harm while the journal has the messages, and it is retired only after the next sync.
        self.names_unsynced = true;
        Ok(bytes)
    }

    /// The files that someone removed or replaced.
    pub fn gone(&self) -> Vec<SegmentFileInfo> {
        self.files.values().filter(|state| !state.file.has_name()).map(|state| state.info).collect()
    }

    /// Stops using a file that has lost its name: it is not written or synced any more. If `done`, nothing in it is
    /// needed, and the store forgets it.
    pub fn file_is_gone(&mut self, number: u64, done: bool) {
        if done && let Some(state) = self.files.remove(&number) {
            self.bytes.fetch_sub(state.info.bytes, Relaxed);
            self.storage.forget(state.file.path());
        }
        self.unsynced.retain(|file| file.number() != number);
        self.writing.take_if(|writing| *writing == number);
    }

    /// Removes all files and the directory. The store can be used again.
    pub fn remove_all(&mut self) -> io::Result<()> {
        match self.storage.remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.files.clear();
        self.unsynced.clear();
        self.writing = None;
        self.dir_exists = false;
        self.bytes.store(0, Relaxed);
        Ok(())
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// As [`SegmentStore::bytes`], for callers that must not wait for the store.
    pub fn bytes_gauge(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes)
    }

    /// Closes files that nobody is reading or writing. They are reopened when needed.
    pub fn close_idle(&self) {
        for state in self.files.values() {
            state.file.close();
        }
    }

    /// The file to append to, and its end. A new file if `len` more bytes would make the current one too large.
    fn file_for(&mut self, len: u64) -> io::Result<(Arc<SegmentFile>, u64)> {
        if let Some(state) = self.writing.and_then(|number| self.files.get(&number))
            && state.info.bytes + len <= self.max_file_bytes
        {
            return Ok((Arc::clone(&state.file), state.info.bytes));
        }
        if !self.dir_exists {
            self.storage.create_dir_all(&self.dir)?;
            self.dir_exists = true;
        }
        let number = self.next_number;
        let create = || SegmentFile::create(&self.storage, &self.dir, number);
        let file = match create() {
            // Someone removed the directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.storage.create_dir_all(&self.dir)?;
                for above in self.dir.ancestors().skip(1).take(2) {
                    self.storage.sync_dir(above)?;
                }
                create()?
            }
            created => created?,
        };
        let file = Arc::new(file);
        self.next_number += 1;
        self.writing = Some(number);
        self.names_unsynced = true;
        Ok((file, 0))
    }

    /// Removes what a failed append to `file` may have left behind its `end`.
    fn undo(&mut self, file: &SegmentFile, end: u64) {
        if end > 0 && file.truncate(end).is_ok() {
            return;
        }
        // The file is not written to any more. If a new file cannot be removed either, the next
        // start finds at most blocks that are also in another file.
        self.writing = None;
        if end == 0 {
            let _ = self.storage.remove(file.path());
        }
    }
}

/// The number of a segment file. `None` if `path` does not have the name of one.
pub fn file_number_of(path: &std::path::Path) -> Option<u64> {
    file::file_number(path.file_name()?.to_str()?)
}

impl std::fmt::Debug for SegmentStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentStore").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// The error for a file that no start would find.
fn removed(file: &SegmentFile) -> io::Error {
    io::Error::other(format!("{} was removed or replaced", file.path().display()))
}

fn note_block(files: &mut BTreeMap<u64, FileState>, block: &BlockRef) {
    let state = files.entry(block.file_number()).or_insert_with(|| FileState {
        file: block.file(),
        info: SegmentFileInfo {
            number: block.file_number(),
            first_sequence: u64::MAX,
            end_sequence: 0,
            message_count: 0,
            bytes: 0,
        },
    });
    let info = &mut state.info;
    info.first_sequence = info.first_sequence.min(block.first_sequence);
    info.end_sequence = info.end_sequence.max(block.end_sequence());
    info.message_count += u64::from(block.count);
}

fn invalid_block() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a valid block of messages")
}
