//! Uses a directory without changing it: reads go to its files, changes stay in this process.
//!
//! So everything that a start does (cutting torn tails, renaming, recycling, moving messages to segments) can run with
//! the same code to see what it would find, while the files stay as they are. The medium may be read-only.
//! New files are temporary files without a name, which disappear with the process however it ends. A change to an
//! existing file takes memory for the pages that it touches.
//!
//! The lock is not held: it is taken for a moment only, to check whether a daemon uses the directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use rustix::fs::FlockOperation;

use super::{
    DirLock, HeldDir, Identity, Space, Storage, StorageFile, SyncError,
    file::{FileStorage, RealFile},
};

/// See the module.
#[derive(Default)]
pub struct OverlayStorage {
    names: Mutex<Names>,
}

/// Names that differ from the directory.
#[derive(Default)]
struct Names {
    files: BTreeMap<PathBuf, Entry>,
    dirs: BTreeSet<PathBuf>,
    removed_dirs: BTreeSet<PathBuf>,
}

#[derive(Clone)]
enum Entry {
    Removed,
    /// Created in the overlay.
    New(Arc<RealFile>),
    /// A file of the directory, possibly under another name.
    Original(Arc<Original>),
}

/// A file of the directory, and its changes.
struct Original {
    path: PathBuf,
    changes: Mutex<Changes>,
}

/// Unused while `len` is `None`.
#[derive(Default)]
struct Changes {
    len: Option<u64>,
    /// How many bytes of the file itself are still visible.
    original_len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE_BYTES]>>,
}

const PAGE_BYTES: usize = 4096;

impl OverlayStorage {
    /// Whether a daemon, ours or NSQ's, holds the directory's lock now.
    pub fn is_in_use(dir: &Path) -> io::Result<bool> {
        let dir = File::open(dir)?;
        match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    fn entry(&self, path: &Path) -> io::Result<Entry> {
        let mut names = self.names.lock();
        if let Some(entry) = names.files.get(path) {
            return Ok(entry.clone());
        }
        if names.is_removed(path) {
            return Ok(Entry::Removed);
        }
        std::fs::symlink_metadata(path)?;
        let entry = Entry::Original(Arc::new(Original { path: path.to_owned(), changes: Mutex::default() }));
        names.files.insert(path.to_owned(), entry.clone());
        Ok(entry)
    }
}

impl Names {
    /// Whether the path is below a directory that was removed here. Files created there later have their own entries.
    fn is_removed(&self, path: &Path) -> bool {
        path.ancestors().any(|dir| self.removed_dirs.contains(dir))
    }
}

impl Storage for OverlayStorage {
    fn create(&self, path: &Path, preallocate_bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        match self.entry(path) {
            Ok(Entry::Removed) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) => return Err(error),
        }
        let file = tempfile::tempfile()?;
        file.set_len(preallocate_bytes)?;
        let file = Arc::new(RealFile(file));
        self.names.lock().files.insert(path.to_owned(), Entry::New(file.clone()));
        Ok(file)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        Ok(match self.entry(path)? {
            Entry::Removed => return Err(io::ErrorKind::NotFound.into()),
            Entry::New(file) => file,
            Entry::Original(original) => {
                Arc::new(OverlayFile { file: RealFile(File::open(&original.path)?), original })
            }
        })
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut names = self.names.lock();
        names.dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = self.names.lock();
        let original = match names.is_removed(dir) {
            true => Err(io::ErrorKind::NotFound.into()),
            false => FileStorage.list(dir),
        };
        let mut listed: BTreeSet<String> = match original {
            Err(error) if error.kind() == io::ErrorKind::NotFound && names.dirs.contains(dir) => {
                BTreeSet::new()
            }
            found => found?.into_iter().collect(),
        };
        let here = |path: &Path| {
            let name = path.file_name()?.to_str()?;
            (path.parent() == Some(dir)).then(|| name.to_owned())
        };
        listed.retain(|name| !names.removed_dirs.contains(&dir.join(name)));
        listed.extend(names.dirs.iter().filter_map(|path| here(path)));
        // In this order, everything below a directory follows it directly.
        for (path, entry) in names.files.range(dir.to_owned()..).take_while(|(path, _)| path.starts_with(dir))
        {
            match (here(path), entry) {
                (Some(name), Entry::Removed) => _ = listed.remove(&name),
                (Some(name), _) => _ = listed.insert(name),
                (None, _) => {}
            }
        }
        Ok(listed.into_iter().collect())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.entry(path)? {
            Entry::Removed => Err(io::ErrorKind::NotFound.into()),
            _ => {
                self.names.lock().files.insert(path.to_owned(), Entry::Removed);
                Ok(())
            }
        }
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.list(dir)?;
        let mut names = self.names.lock();
        names.files.retain(|path, _| !path.starts_with(dir));
        names.dirs.retain(|path| !path.starts_with(dir));
        names.removed_dirs.insert(dir.to_owned());
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let entry = self.entry(from)?;
        if matches!(entry, Entry::Removed) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut names = self.names.lock();
        names.files.insert(to.to_owned(), entry);
        names.files.insert(from.to_owned(), Entry::Removed);
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> Result<(), SyncError> {
        Ok(())
    }

    /// The identity of the file itself, because nobody else sees its changes. All directories created here share one.
    fn identity(&self, path: &Path) -> io::Result<Identity> {
        let names = self.names.lock();
        match names.files.get(path) {
            Some(Entry::New(file)) => file.identity(),
            Some(Entry::Original(original)) => FileStorage.identity(&original.path),
            Some(Entry::Removed) => Err(io::ErrorKind::NotFound.into()),
            None if names.is_removed(path) => Err(io::ErrorKind::NotFound.into()),
            None => match FileStorage.identity(path) {
                Err(_) if names.dirs.contains(path) => Ok(Identity { device: 0, inode: 0 }),
                found => found,
            },
        }
    }

    /// Unknown: nothing is written to the volume, so nothing has to fit.
    fn space(&self, _dir: &Path) -> Option<Space> {
        None
    }

    /// Checks the lock but does not hold it, so that a daemon can start meanwhile.
    fn lock_dir(&self, dir: &Path) -> io::Result<DirLock> {
        match Self::is_in_use(dir)? {
            true => Err(rustix::io::Errno::WOULDBLOCK.into()),
            false => Ok(DirLock::new(NotHeld)),
        }
    }

    fn check_writable(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct NotHeld;

impl HeldDir for NotHeld {
    fn path(&self) -> Option<PathBuf> {
        None
    }
}

/// A file of the directory, opened for reading, together with its changes.
struct OverlayFile {
    file: RealFile,
    original: Arc<Original>,
}

impl OverlayFile {
    fn begin(&self, changes: &mut Changes) -> io::Result<u64> {
        if let Some(len) = changes.len {
            return Ok(len);
        }
        changes.original_len = self.file.len()?;
        Ok(*changes.len.insert(changes.original_len))
    }

    fn change(&self, changes: &mut Changes, buf: &[u8], offset: u64) -> io::Result<()> {
        let len = self.begin(changes)?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let start = at - at % PAGE_BYTES as u64;
            let inside = (at - start) as usize;
            let count = rest.len().min(PAGE_BYTES - inside);
            self.page(changes, start)?[inside..inside + count].copy_from_slice(&rest[..count]);
            (at, rest) = (at + count as u64, &rest[count..]);
        }
        changes.len = Some(len.max(offset + buf.len() as u64));
        Ok(())
    }

    fn page<'c>(&self, changes: &'c mut Changes, start: u64) -> io::Result<&'c mut [u8; PAGE_BYTES]> {
        let mut page = Box::new([0; PAGE_BYTES]);
        if !changes.pages.contains_key(&start) {
            let known = changes.original_len.saturating_sub(start).min(PAGE_BYTES as u64) as usize;
            self.file.read_at(&mut page[..known], start)?;
        }
        Ok(changes.pages.entry(start).or_insert(page))
    }
}

impl StorageFile for OverlayFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let changes = self.original.changes.lock();
        let Some(len) = changes.len else {
            drop(changes);
            return self.file.read_at(buf, offset);
        };
        let room = len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let buf = &mut buf[..room];
        let known = changes.original_len.saturating_sub(offset).min(room as u64) as usize;
        let filled = self.file.read_at(&mut buf[..known], offset)?;
        buf[filled..].fill(0);
        let end = offset + room as u64;
        let first_page = offset - offset % PAGE_BYTES as u64;
        for (&start, page) in changes.pages.range(first_page..end.max(first_page)) {
            let (from, to) = (start.max(offset), (start + PAGE_BYTES as u64).min(end));
            buf[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&page[(from - start) as usize..(to - start) as usize]);
        }
        Ok(room)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.change(&mut self.original.changes.lock(), buf, offset)
    }

    fn write_all_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut changes = self.original.changes.lock();
        let mut at = offset;
        for buf in bufs {
            self.change(&mut changes, buf, at)?;
            at += buf.len() as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let changes = self.original.changes.lock();
        changes.len.map_or_else(|| self.file.len(), Ok)
    }

    fn identity(&self) -> io::Result<Identity> {
        self.file.identity()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut changes = self.original.changes.lock();
        self.begin(&mut changes)?;
        changes.len = Some(len);
        // The cut bytes must not come back when the file grows again.
        changes.original_len = changes.original_len.min(len);
        changes.pages.retain(|&start, _| start < len);
        if let Some((start, page)) = changes.pages.iter_mut().next_back()
            && let Some(rest) = page.get_mut((len - start) as usize..)
        {
            rest.fill(0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(storage: &dyn Storage, path: &Path) -> io::Result<Vec<u8>> {
        let file = storage.open(path)?;
        let mut bytes = vec![1; file.len()? as usize + 10];
        let filled = file.read_at(&mut bytes, 0)?;
        bytes.truncate(filled);
        Ok(bytes)
    }

    #[test]
    fn changes_of_names_do_not_reach_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("a"), "one").unwrap();
        std::fs::write(path("b"), "two").unwrap();
        std::fs::create_dir_all(path("d/e")).unwrap();
        std::fs::write(path("d/e/f"), "three").unwrap();
        let storage = OverlayStorage::default();
        let list = |name: &str| storage.list(&path(name)).map(|names| names.join(" "));

        storage.rename(&path("a"), &path("c")).unwrap();
        storage.remove(&path("b")).unwrap();
        assert_eq!(storage.remove(&path("b")).unwrap_err().kind(), io::ErrorKind::NotFound);
        storage.create(&path("n"), 4).unwrap();
        assert_eq!(storage.create(&path("c"), 4).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(list("").unwrap(), "c d n");
        assert_eq!(text(&storage, &path("c")).unwrap(), b"one");
        assert_eq!(text(&storage, &path("n")).unwrap(), [0; 4]);
        assert_eq!(text(&storage, &path("a")).unwrap_err().kind(), io::ErrorKind::NotFound);

        storage.remove_dir_all(&path("d")).unwrap();
        assert_eq!(list("d").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(text(&storage, &path("d/e/f")).unwrap_err().kind(), io::ErrorKind::NotFound);
        storage.create_dir_all(&path("d/g")).unwrap();
        storage.create(&path("d/g/h"), 0).unwrap();
        assert_eq!((list("").unwrap(), list("d/g").unwrap()), ("c d n".to_owned(), "h".to_owned()));

        assert_eq!(std::fs::read(path("a")).unwrap(), b"one");
        assert_eq!(std::fs::read(path("d/e/f")).unwrap(), b"three");
        assert_eq!(FileStorage.list(dir.path()).unwrap().len(), 3);
    }

    #[test]
    fn the_overlay_does_not_hold_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let looking = OverlayStorage::default().lock_dir(dir.path()).unwrap();
        let owner = FileStorage.lock_dir(dir.path()).unwrap();
        let refused = OverlayStorage::default().lock_dir(dir.path());
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop((looking, owner));
        OverlayStorage::default().lock_dir(dir.path()).unwrap();
    }

    proptest! {
        #[test]
        fn reads_see_changes_that_do_not_reach_the_file(
            original in prop::collection::vec(any::<u8>(), 0..12_000),
            steps in prop::collection::vec((0_usize..14_000, prop::option::of(1_usize..6000), any::<u8>()), 1..8),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("file");
            std::fs::write(&path, &original).unwrap();
            let storage = OverlayStorage::default();
            let file = storage.open(&path).unwrap();
            let mut expected = original.clone();
            for (at, count, byte) in steps {
                if let Some(count) = count {
                    file.write_all_at(&vec![byte; count], at as u64).unwrap();
                    expected.resize(expected.len().max(at + count), 0);
                    expected[at..at + count].fill(byte);
                } else {
                    file.truncate(at as u64).unwrap();
                    expected.resize(at, 0);
                }
                prop_assert_eq!(&text(&storage, &path).unwrap(), &expected);
                let mut part = [1; 100];
                let filled = file.read_at(&mut part, at as u64 / 2).unwrap();
                let from = expected.len().min(at / 2);
                prop_assert_eq!(&part[..filled], &expected[from..expected.len().min(from + 100)]);
            }
            prop_assert_eq!(std::fs::read(&path).unwrap(), original);
        }
    }
}
