//! The only room that touches a disk.
//!
//! It knows bytes, numbers and files. It does not know what a topic or a channel does with
//! them, nor the wire, nor the clock that messages are stamped with. In reading order:
//!
//! - [`mod@file`]: real files behind the [`Storage`] trait; `faulty`: their twin for tests, which
//!   fails on demand and shows what a crash leaves behind; [`overlay`]: real files that are only looked at;
//!   [`measured`]: any files, watched; [`anchored`]: any files, as long as their directory is where it was;
//!   [`open_files`]: few segment files open at a time;
//! - [`data_dir`]: the layout of the data directory, its lock and its format version;
//! - [`record`]: the kinds of journal record and their bytes;
//! - [`seal`]: what ties bytes to one place in one file, so that stale bytes are never taken for new;
//! - [`journal`]: one sequence of files for all topics, with group commit;
//! - [`block`] and [`segment`]: what outlives memory, one set of files per topic;
//! - [`checkpoint`]: saved state, from which reading the journal goes on.
//!
//! The bytes are described, and the recovery argued, in `docs/DATA_FORMAT.md`.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

pub mod anchored;
#[cfg(test)]
pub mod faulty;
pub mod file;
pub mod measured;
pub mod open_files;
pub mod overlay;

pub mod data_dir;
pub mod record;
pub mod seal;

pub mod journal;

pub mod block;
pub mod segment;

pub mod checkpoint;
pub mod outstanding_list;

/// A topic's number in this data directory. Never used again for another topic.
pub type TopicNumber = u32;

/// A channel's number in this data directory. Never used again for another channel.
pub type ChannelNumber = u32;

/// The files and directories that the room works on.
///
/// All calls block. Paths are used as they are given.
pub trait Storage: Send + Sync + 'static {
    /// Creates a file with room for `preallocate_bytes` (its length, all zeros). Fails if it exists.
    fn create(&self, path: &Path, preallocate_bytes: u64) -> io::Result<Arc<dyn StorageFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>>;
    /// Creates a directory and those above it, unless they are there.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// The names of the entries of a directory, in no particular order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and all that is in it.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Renames a file, replacing `to` if it exists.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes created, renamed and removed names in `dir` survive a power failure.
    fn sync_dir(&self, dir: &Path) -> Result<(), SyncError>;
    /// Which file or directory has this name now.
    fn identity(&self, path: &Path) -> io::Result<Identity>;
    /// The room on the volume of `dir`, if it is known.
    fn space(&self, dir: &Path) -> Option<Space>;
    /// Takes the exclusive lock on a directory, without waiting: `WouldBlock` if somebody has it.
    fn lock_dir(&self, dir: &Path) -> io::Result<DirLock>;
    /// Fails unless files can be created in `dir`; changes nothing.
    fn check_writable(&self, dir: &Path) -> io::Result<()>;
    /// What was seen of reads, writes and syncs, if anybody watches.
    fn metrics(&self) -> Option<&measured::DiskMetrics> {
        None
    }
    /// Makes everything written so far survive a power failure, if anybody knows what that is. What could not be
    /// synced is tried again by the next call.
    fn sync_written(&self) -> Result<(), SyncError> {
        Ok(())
    }
    /// Somebody else has removed or replaced a file, and nothing in it is needed: it need not be synced.
    fn forget(&self, _path: &Path) {}
    /// Somebody has moved a directory: what was opened in it is found at `to` from now on.
    fn moved(&self, _from: &Path, _to: &Path) {}
    /// Fails if the data directory is not where it was, if anybody knows where that is.
    fn check_home(&self) -> io::Result<()> {
        Ok(())
    }
}

/// An open file, used by position only, so that readers and a writer need no lock between them.
pub trait StorageFile: Send + Sync {
    /// Reads at most `buf.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `buf`. After an error any part of it may have been written.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Writes the buffers one after the other, in one call if possible.
    fn write_all_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()>;
    /// Returns when everything written is on stable storage.
    fn sync_data(&self) -> io::Result<()>;
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Sets the file's length.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Which file this is, whatever its name is now.
    fn identity(&self) -> io::Result<Identity>;
}

/// A file or directory, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The device that it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
}

/// Room on a volume, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total_bytes: u64,
    /// What we may still take.
    pub available_bytes: u64,
}

/// Why something does not survive a power failure yet.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The sync failed. What is on disk is unknown, whatever a second attempt reports: only a start that reads it knows.
    #[error(transparent)]
    Failed(io::Error),
    /// It could not be opened, so nothing was synced. A later attempt may work.
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

/// Whether the system refused to take more: the volume, a quota, or the limit for the size of files.
pub fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Holds a directory's lock until it is dropped.
#[derive(Debug)]
pub struct DirLock {
    held: Box<dyn HeldDir>,
}

/// Whatever releases a lock when it is dropped.
pub trait HeldDir: fmt::Debug + Send + Sync {
    /// The path of the locked directory now, even if it was moved. `None` if it was removed.
    fn path(&self) -> Option<PathBuf>;
}

impl DirLock {
    /// Wraps whatever releases the lock when it is dropped.
    pub fn new(held: impl HeldDir + 'static) -> Self {
        Self { held: Box::new(held) }
    }

    /// See [`HeldDir::path`].
    pub fn path(&self) -> Option<PathBuf> {
        self.held.path()
    }
}

/// When a publish is acknowledged; named by what it survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Acknowledged in memory. Survives a clean stop; there is no journal.
    Overflow,
    /// Acknowledged when its journal record was handed to the kernel. Survives the death of the process.
    #[default]
    Write,
    /// Acknowledged when its journal record is on stable storage. Survives power loss.
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

/// The word is none of the durability levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be one of overflow, write, sync")]
pub struct UnknownDurability;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durability_levels_have_one_word_each() {
        for level in [Durability::Overflow, Durability::Write, Durability::Sync] {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert_eq!("fsync".parse::<Durability>(), Err(UnknownDurability));
    }
}
