//! Files in memory. Targets write valid files with nsqd's code, change their bytes, and let nsqd read them again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nsqd::storage::{DirLock, HeldDir, Identity, Space, Storage, StorageFile, SyncError};

/// Directories and files in memory. [`MemoryStorage::copy`] copies their bytes.
#[derive(Default)]
pub struct MemoryStorage {
    tree: Mutex<Tree>,
}

#[derive(Default)]
struct Tree {
    dirs: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, Arc<MemoryFile>>,
}

struct MemoryFile {
    inode: u64,
    bytes: Mutex<Vec<u8>>,
}

static NEXT_INODE: AtomicU64 = AtomicU64::new(2);

impl MemoryFile {
    fn new(bytes: Vec<u8>) -> Arc<Self> {
        let inode = NEXT_INODE.fetch_add(1, Ordering::Relaxed);
        Arc::new(MemoryFile { inode, bytes: Mutex::new(bytes) })
    }
}

impl MemoryStorage {
    /// An empty directory.
    pub fn with_dir(dir: impl Into<PathBuf>) -> Arc<Self> {
        let storage = MemoryStorage::default();
        locked(&storage.tree).dirs.insert(dir.into());
        Arc::new(storage)
    }

    /// A storage of its own with the same directories and files.
    pub fn copy(&self) -> Arc<Self> {
        let tree = locked(&self.tree);
        let files = tree
            .files
            .iter()
            .map(|(path, file)| (path.clone(), MemoryFile::new(locked(&file.bytes).clone())));
        let copy = Tree { dirs: tree.dirs.clone(), files: files.collect() };
        Arc::new(MemoryStorage { tree: Mutex::new(copy) })
    }

    /// All files and their bytes.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let tree = locked(&self.tree);
        tree.files.iter().map(|(path, file)| (path.clone(), locked(&file.bytes).clone())).collect()
    }

    /// Creates or replaces a file.
    pub fn put(&self, path: impl Into<PathBuf>, bytes: Vec<u8>) {
        locked(&self.tree).files.insert(path.into(), MemoryFile::new(bytes));
    }

    /// Removes a file, if it exists, and returns its bytes.
    pub fn take(&self, path: &Path) -> Option<Vec<u8>> {
        let file = locked(&self.tree).files.remove(path)?;
        let bytes = std::mem::take(&mut *locked(&file.bytes));
        Some(bytes)
    }

    fn file(&self, path: &Path) -> io::Result<Arc<MemoryFile>> {
        locked(&self.tree).files.get(path).cloned().ok_or_else(not_found)
    }
}

impl Storage for MemoryStorage {
    fn create(&self, path: &Path, preallocate_bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        let mut tree = locked(&self.tree);
        if !path.parent().is_some_and(|dir| tree.dirs.contains(dir)) {
            return Err(not_found());
        }
        if tree.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = MemoryFile::new(vec![0; preallocate_bytes as usize]);
        tree.files.insert(path.to_owned(), file.clone());
        Ok(file)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.file(path)?)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        locked(&self.tree).dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let tree = locked(&self.tree);
        if !tree.dirs.contains(dir) {
            return Err(not_found());
        }
        let here = tree.files.keys().chain(&tree.dirs).filter(|path| path.parent() == Some(dir));
        Ok(here.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        locked(&self.tree).files.remove(path).map(drop).ok_or_else(not_found)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut tree = locked(&self.tree);
        if !tree.dirs.contains(dir) {
            return Err(not_found());
        }
        tree.dirs.retain(|path| !path.starts_with(dir));
        tree.files.retain(|path, _| !path.starts_with(dir));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut tree = locked(&self.tree);
        let file = tree.files.remove(from).ok_or_else(not_found)?;
        tree.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> Result<(), SyncError> {
        Ok(())
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        if locked(&self.tree).dirs.contains(path) {
            return Ok(Identity { device: 1, inode: 1 });
        }
        self.file(path)?.identity()
    }

    fn space(&self, _dir: &Path) -> Option<Space> {
        None
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<DirLock> {
        match locked(&self.tree).dirs.contains(dir) {
            true => Ok(DirLock::new(NotHeld(dir.to_owned()))),
            false => Err(not_found()),
        }
    }

    fn check_writable(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl StorageFile for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = locked(&self.bytes);
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = locked(&self.bytes);
        let end = offset as usize + buf.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(buf);
        Ok(())
    }

    fn write_all_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        self.write_all_at(&bufs.concat(), offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(locked(&self.bytes).len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        locked(&self.bytes).resize(len as usize, 0);
        Ok(())
    }

    fn identity(&self) -> io::Result<Identity> {
        Ok(Identity { device: 1, inode: self.inode })
    }
}

/// Each storage has one user, so a lock need not exclude others.
#[derive(Debug)]
struct NotHeld(PathBuf);

impl HeldDir for NotHeld {
    fn path(&self) -> Option<PathBuf> {
        Some(self.0.clone())
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

/// A target that failed while it held the lock has already been reported.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
