//! Which journal files there are, and what was published in each.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use super::{JournalOptions, Lsn, format};
use crate::{Identity, Storage, TopicNumber, file_kind};

/// What reclaiming space needs to know about a journal file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalFileInfo {
    pub number: u64,
    /// Place of its first record.
    pub first_lsn: Lsn,
    /// Bytes on disk.
    pub bytes: u64,
    /// For each topic, the last sequence number published in it; ordered by topic.
    pub topics: Vec<(TopicNumber, u64)>,
}

/// Maximum number of retired files that are kept for reuse.
const MAX_SPARES: usize = 2;
/// The oldest files should be retired when all files take more than this many of the usual size. Until then consumers
/// can finish the messages in them, so that few have to be moved to segments.
const KEPT_FILES: u64 = 4;

pub(super) struct Catalog {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    file_bytes: u64,
    has_little_room: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    files: VecDeque<FileEntry>,
    /// File names of retired files, all of the usual size.
    spares: Vec<String>,
    position: Lsn,
    next_spare: u64,
}

/// A file and what was published in it.
#[derive(Debug)]
pub(super) struct FileEntry {
    pub number: u32,
    pub bytes: u64,
    pub topics: BTreeMap<TopicNumber, u64>,
    /// Nothing is written to it any more.
    pub sealed: bool,
    /// Part of it could not be read: it is renamed to `*.damaged` and not recycled.
    pub damaged: bool,
    /// The file's identity, once known.
    pub identity: Option<Identity>,
    /// Someone removed or replaced it: what it held must be stored elsewhere.
    pub lost: bool,
}

impl Catalog {
    pub(super) fn new(
        storage: &Arc<dyn Storage>,
        options: &JournalOptions,
        files: VecDeque<FileEntry>,
        spares: Vec<String>,
        next_number: u32,
    ) -> Self {
        let next_spare = spares.iter().filter_map(|name| spare_number(name)).max().map_or(0, |n| n + 1);
        Self {
            storage: Arc::clone(storage),
            dir: options.dir.clone(),
            file_bytes: options.file_bytes,
            has_little_room: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                files,
                spares,
                position: format::lsn(next_number, format::FILE_HEADER_BYTES),
                next_spare,
            }),
        }
    }

    pub(super) fn position(&self) -> Lsn {
        self.inner.lock().position
    }

    /// Number of files, and their bytes.
    pub(super) fn size(&self) -> (usize, u64) {
        let inner = self.inner.lock();
        (inner.files.len(), inner.files.iter().map(|entry| entry.bytes).sum())
    }

    pub(super) fn files(&self) -> Vec<JournalFileInfo> {
        let info = |entry: &FileEntry| {
            let topics = entry.topics.iter().map(|(&topic, &last)| (topic, last)).collect();
            JournalFileInfo {
                number: u64::from(entry.number),
                first_lsn: format::lsn(entry.number, format::FILE_HEADER_BYTES),
                bytes: entry.bytes,
                topics,
            }
        };
        self.inner.lock().files.iter().map(info).collect()
    }

    /// Numbers of all files, in order.
    pub(super) fn numbers(&self) -> Vec<u64> {
        self.inner.lock().files.iter().map(|entry| u64::from(entry.number)).collect()
    }

    /// The usual size of a file.
    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Bytes of all files and spares.
    pub(super) fn footprint(&self) -> u64 {
        let inner = self.inner.lock();
        let spares = inner.spares.len() as u64 * self.file_bytes;
        inner.files.iter().map(|entry| entry.bytes).sum::<u64>() + spares
    }

    /// How many of the oldest files should be retired, because there are many or some are lost.
    pub(super) fn excess(&self) -> usize {
        let inner = self.inner.lock();
        let Some(newest) = inner.files.len().checked_sub(1) else { return 0 };
        let mut left: u64 = inner.files.iter().map(|entry| entry.bytes).sum();
        let mut excess = 0;
        for (index, entry) in inner.files.iter().enumerate().take(newest) {
            if left > KEPT_FILES * self.file_bytes || entry.lost {
                excess = index + 1;
            }
            left -= entry.bytes;
        }
        excess
    }

    /// Records whether little space was left on the volume when a file was created.
    pub(super) fn set_little_room(&self, has_little_room: bool) {
        self.has_little_room.store(has_little_room, Ordering::Relaxed);
    }

    pub(super) fn is_tight(&self) -> bool {
        self.has_little_room.load(Ordering::Relaxed) && self.excess() > 0
    }

    /// Checks whether all files still exist.
    pub(super) fn check_files(&self) {
        let known: Vec<_> = {
            let inner = self.inner.lock();
            inner.files.iter().map(|entry| (entry.number, entry.identity)).collect()
        };
        for (number, known) in known {
            // Only `NotFound` shows that the file is missing. Other errors say nothing about it.
            let found = match self.storage.identity(&self.dir.join(file_name(number))) {
                Ok(found) => Some(found),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(_) => continue,
            };
            let mut inner = self.inner.lock();
            let Some(entry) = inner.files.iter_mut().find(|entry| entry.number == number) else { continue };
            entry.lost = found.is_none() || known.is_some_and(|known| found != Some(known));
            entry.identity = known.or(found);
        }
    }

    /// Whether someone removed or replaced the newest file.
    pub(super) fn has_lost_newest(&self) -> bool {
        self.inner.lock().files.back().is_some_and(|entry| entry.lost)
    }

    /// Marks a file as removed or replaced.
    pub(super) fn set_lost(&self, number: u32) {
        let mut inner = self.inner.lock();
        if let Some(entry) = inner.files.iter_mut().find(|entry| entry.number == number) {
            entry.lost = true;
        }
    }

    /// The files that someone removed or replaced.
    pub(super) fn lost(&self) -> Vec<u64> {
        let inner = self.inner.lock();
        inner.files.iter().filter(|entry| entry.lost).map(|entry| u64::from(entry.number)).collect()
    }

    /// Records a successful write that ended at `end` in the newest file. `published` lists its batches.
    pub(super) fn written(&self, end: Lsn, published: &[(TopicNumber, u64)]) {
        let mut inner = self.inner.lock();
        inner.position = end;
        if let Some(entry) = inner.files.back_mut() {
            for &(topic, last) in published {
                let highest = entry.topics.entry(topic).or_insert(last);
                *highest = last.max(*highest);
            }
        }
    }

    /// Adds a new file, in which writing continues.
    pub(super) fn started(&self, number: u32, bytes: u64, identity: Identity) {
        let mut inner = self.inner.lock();
        if let Some(before) = inner.files.back_mut() {
            before.sealed = true;
        }
        inner.position = format::lsn(number, format::FILE_HEADER_BYTES);
        inner.files.push_back(FileEntry {
            number,
            bytes,
            topics: BTreeMap::new(),
            sealed: false,
            damaged: false,
            identity: Some(identity),
            lost: false,
        });
    }

    /// Drops the newest file, which held no record and was removed.
    pub(super) fn removed_newest(&self, number: u32) {
        let mut inner = self.inner.lock();
        if inner.files.back().is_some_and(|entry| entry.number == number) {
            inner.files.pop_back();
        }
    }

    /// Takes a retired file for reuse.
    pub(super) fn take_spare(&self) -> Option<String> {
        self.inner.lock().spares.pop()
    }

    /// A name for a new file that has no number yet.
    pub(super) fn new_spare_name(&self) -> String {
        let mut inner = self.inner.lock();
        inner.next_spare += 1;
        spare_name(inner.next_spare - 1)
    }

    /// Returns a spare that could not be used.
    pub(super) fn return_spare(&self, name: String) {
        self.inner.lock().spares.push(name);
    }

    /// Removes the spares. Returns whether there were any.
    pub(super) fn remove_spares(&self) -> bool {
        let spares = std::mem::take(&mut self.inner.lock().spares);
        for name in &spares {
            // The next start finds a spare that cannot be removed now.
            let _ = self.storage.remove(&self.dir.join(name));
        }
        !spares.is_empty()
    }

    pub(super) fn retire_oldest(&self, number: u64) -> io::Result<()> {
        let (oldest, spare) = self.take_oldest(number)?;
        // Without the lock: removing a large file takes a while, and writers need the lock.
        let path = self.dir.join(file_name(oldest.number));
        let outcome = match &spare {
            // A file that someone else put there is not nsqd's to remove.
            _ if oldest.damaged || oldest.lost => {
                match self.storage.rename(&path, &self.dir.join(damaged_name(oldest.number))) {
                    Err(error) if oldest.lost && error.kind() == io::ErrorKind::NotFound => {
                        self.storage.forget(&path);
                        Ok(())
                    }
                    renamed => renamed,
                }
            }
            Some(spare) => self.storage.rename(&path, &self.dir.join(spare)),
            None => self.storage.remove(&path),
        };
        let mut inner = self.inner.lock();
        match outcome {
            Ok(()) => inner.spares.extend(spare),
            Err(_) => inner.files.push_front(oldest),
        }
        outcome
    }

    /// Removes the oldest file from the list. Returns it, with a spare name if it can be recycled.
    fn take_oldest(&self, number: u64) -> io::Result<(FileEntry, Option<String>)> {
        let mut inner = self.inner.lock();
        // The last file stays even if it is sealed, because it keeps the numbering.
        let retirable = inner.files.len() > 1
            && inner.files.front().is_some_and(|oldest| u64::from(oldest.number) == number && oldest.sealed);
        let oldest = if retirable { inner.files.pop_front() } else { None };
        let Some(oldest) = oldest else {
            let text = "not the oldest journal file, or still in use";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        };
        let recycle = !oldest.damaged
            && !oldest.lost
            && oldest.bytes == self.file_bytes
            && inner.spares.len() < MAX_SPARES;
        let spare = recycle.then(|| {
            inner.next_spare += 1;
            spare_name(inner.next_spare - 1)
        });
        Ok((oldest, spare))
    }
}

pub(super) fn file_name(number: u32) -> String {
    file_kind::numbered(number.into(), file_kind::JOURNAL)
}

/// `None` if this is not the name of a journal file.
pub(super) fn file_number(name: &str) -> Option<u32> {
    file_kind::number_of(name, file_kind::JOURNAL)?.try_into().ok()
}

/// The name of a file that is kept because part of it could not be read.
pub(super) fn damaged_name(number: u32) -> String {
    format!("{}.{}", file_name(number), file_kind::DAMAGED)
}

/// `None` if this is not the name of a damaged journal file.
pub(super) fn damaged_number(name: &str) -> Option<u32> {
    file_number(name.strip_suffix(file_kind::DAMAGED)?.strip_suffix('.')?)
}

/// The name of a retired file.
pub(super) fn spare_name(number: u64) -> String {
    format!("{number}.{}", file_kind::SPARE)
}

/// `None` if this is not the name of a retired file.
pub(super) fn spare_number(name: &str) -> Option<u64> {
    name.strip_suffix(file_kind::SPARE)?.strip_suffix('.')?.parse().ok()
}
