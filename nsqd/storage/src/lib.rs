//! nsqd's files. No other part of nsqd reads or writes messages on disk.
//!
//! It knows bytes, numbers and files. It does not know what a topic or a channel does with
//! them, nor the wire protocol, nor the clock that stamps messages. In reading order:
//!
//! - [`mod@file`]: real files behind the [`Storage`] trait; `faulty`: the implementation for tests, which
//!   fails on demand and shows what a crash leaves behind; [`overlay`]: real files whose changes stay in memory;
//!   [`unsynced`]: knows what a power failure may lose; [`anchored`]: changes nothing once the data directory has moved;
//!   [`open_files`]: limits the number of open segment files;
//! - `numbers` and `sequence_range`: the types of the numbers of topics and channels, and of ranges of sequence numbers;
//! - [`file_kind`]: names of files; [`data_dir`]: the layout of the data directory, its lock and its format version;
//! - [`record`]: the kinds of journal record and their bytes; [`record_batch`]: several that are read together;
//! - [`seal`]: ties bytes to one place in one file, so that stale bytes are never read as new;
//! - [`journal`]: one sequence of files for all topics, with group commit;
//! - [`block`] and [`segment`]: messages that leave memory, one set of files per topic;
//! - [`checkpoint`]: saved state, from which reading the journal continues.
//!
//! `docs/DATA_FORMAT.md` describes the bytes and explains why recovery is correct.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

pub mod anchored;
#[cfg(any(test, feature = "faulty"))]
pub mod faulty;
pub mod file;
pub mod file_kind;
pub mod open_files;
pub mod overlay;
pub mod unsynced;

mod numbers;
mod sequence_range;

pub use numbers::{ChannelNumber, TopicNumber};
pub use sequence_range::SequenceRange;

pub mod data_dir;
pub mod record;
pub mod record_batch;
pub mod seal;

pub mod journal;

pub mod block;
pub mod segment;

pub mod checkpoint;
pub mod id_list;
pub mod outstanding_list;

/// Number of bits of a sequence number. The other bits of a message id are the node's.
pub const SEQUENCE_BITS: u32 = 54;

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteRange {
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
}

/// The files and directories that this module works on.
///
/// All calls block. Paths are used as given.
pub trait Storage: Send + Sync + 'static {
    /// Creates a file of `preallocate_bytes` zeros and allocates its space. Fails if the file exists.
    fn create(&self, path: &Path, preallocate_bytes: u64) -> io::Result<Arc<dyn StorageFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>>;
    /// Creates a directory and its parents if they are missing.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// The names of the entries of a directory, in no particular order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and everything in it.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Renames a file, replacing `to` if it exists.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes created, renamed and removed names in `dir` survive a power failure.
    fn sync_dir(&self, dir: &Path) -> Result<(), SyncError>;
    /// Identifies the file or directory that has this name now.
    fn identity(&self, path: &Path) -> io::Result<Identity>;
    /// The space on the volume of `dir`, if known.
    fn space(&self, dir: &Path) -> Option<Space>;
    /// Takes the exclusive lock on a directory without waiting. Fails with `WouldBlock` if another process holds it.
    fn lock_dir(&self, dir: &Path) -> io::Result<DirLock>;
    /// Fails unless files can be created in `dir`; changes nothing.
    fn check_writable(&self, dir: &Path) -> io::Result<()>;
    /// Says that someone else removed or replaced a file and nothing in it is needed, so it need not be synced.
    fn forget(&self, _path: &Path) {}
    /// Says that someone moved a directory: files opened in it are found at `to` from now on.
    fn moved(&self, _from: &Path, _to: &Path) {}
    /// Fails if the data directory was removed, moved or replaced. A storage that does not track it never fails.
    fn check_home(&self) -> io::Result<()> {
        Ok(())
    }
}

/// An open file, used by position only, so readers and a writer need no lock between them.
pub trait StorageFile: Send + Sync {
    /// Reads at most `buf.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `buf`. After an error any part of it may have been written.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Writes the buffers one after the other, in one call if possible.
    fn write_all_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()>;
    /// Returns once everything written is on stable storage.
    fn sync_data(&self) -> io::Result<()>;
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Identifies this file, whatever its name is now.
    fn identity(&self) -> io::Result<Identity>;
}

/// Identifies a file or directory independently of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub device: u64,
    pub inode: u64,
}

/// Space on a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub total_bytes: u64,
    /// Bytes that nsqd may still use.
    pub available_bytes: u64,
}

/// Why data may not survive a power failure.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The sync failed. What is on disk is unknown until a start reads it, even if a later sync succeeds.
    #[error(transparent)]
    Failed(io::Error),
    /// The file or directory could not be opened, so nothing was synced. A later attempt may work.
    #[error(transparent)]
    NotOpened(io::Error),
}

impl From<SyncError> for io::Error {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Failed(error) | SyncError::NotOpened(error) => error,
        }
    }
}

/// Whether the error means that the volume, a quota or the file size limit is exhausted.
pub fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Holds a directory's lock until it is dropped.
#[derive(Debug)]
pub struct DirLock {
    held: Box<dyn HeldDir>,
}

/// Releases the lock of a directory when dropped.
pub trait HeldDir: fmt::Debug + Send + Sync {
    /// The current path of the locked directory, even if it was moved. `None` if it was removed.
    fn path(&self) -> Option<PathBuf>;
}

impl DirLock {
    /// `held` must release the lock when dropped.
    pub fn new(held: impl HeldDir + 'static) -> Self {
        Self { held: Box::new(held) }
    }

    /// See [`HeldDir::path`].
    pub fn path(&self) -> Option<PathBuf> {
        self.held.path()
    }
}

/// When a publish is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Acknowledged once in memory. Survives a clean stop. There is no journal.
    Overflow,
    /// Acknowledged once the kernel has its journal record. Survives the death of the process.
    #[default]
    Write,
    /// Acknowledged once its journal record is on stable storage. Survives power loss.
    Sync,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Overflow => "overflow",
            Durability::Write => "write",
            Durability::Sync => "sync",
        })
    }
}

impl FromStr for Durability {
    type Err = UnknownDurability;

    fn from_str(word: &str) -> Result<Self, UnknownDurability> {
        match word {
            "overflow" => Ok(Durability::Overflow),
            "write" => Ok(Durability::Write),
            "sync" => Ok(Durability::Sync),
            _ => Err(UnknownDurability),
        }
    }
}

/// The text names no durability level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be one of overflow, write, sync")]
pub struct UnknownDurability;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durability_levels_round_trip_as_text() {
        for level in [Durability::Overflow, Durability::Write, Durability::Sync] {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert_eq!("fsync".parse::<Durability>(), Err(UnknownDurability));
    }
}
