//! Knows what a power failure may lose: the files with bytes that are not on stable storage, and the directories whose
//! names changed since they were synced.
//!
//! Every engine writes through this layer. Durability levels that acknowledge before a sync rely on it:
//! [`Unsynced::sync_written`] must find everything that was written.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use super::file_kind::{FileKind, is_retired};
use super::{DirLock, Identity, Space, Storage, StorageFile, SyncError};

/// See the module.
pub struct Unsynced {
    inner: Arc<dyn Storage>,
    /// Files with their unsynced bytes, except retired and removed files.
    files: Mutex<HashMap<PathBuf, Arc<Written>>>,
    /// Directories whose names changed since their last sync.
    changed_dirs: Mutex<HashSet<PathBuf>>,
    /// Directories whose sync failed.
    failed_dirs: Mutex<HashSet<PathBuf>>,
    written_bytes: Arc<AtomicU64>,
}

/// How many bytes of a file are not on stable storage.
struct Written {
    kind: FileKind,
    unsynced: AtomicU64,
    /// A sync failed. The kernel reports that only once, so a later success proves nothing.
    sync_failed: AtomicBool,
    /// The open file. It may be closed while some of its bytes are not synced.
    file: Mutex<Weak<dyn StorageFile>>,
}

impl Unsynced {
    /// Tracks what is written to `inner` from now on.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self {
            inner,
            files: Mutex::default(),
            changed_dirs: Mutex::default(),
            failed_dirs: Mutex::default(),
            written_bytes: Arc::default(),
        }
    }

    /// Bytes of files of this kind that may be lost if the power fails now.
    pub fn bytes(&self, kind: FileKind) -> u64 {
        let files = self.files.lock();
        files.values().filter(|file| file.kind == kind).map(|file| file.unsynced.load(Relaxed)).sum()
    }

    /// Bytes written to journal and segment files since the start, synced or not.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Relaxed)
    }

    /// Makes everything written so far survive a power failure. The next call retries what could not be opened; a
    /// failed sync stays failed.
    pub fn sync_written(&self) -> Result<(), SyncError> {
        let files: Vec<(PathBuf, Arc<Written>)> = {
            let files = self.files.lock();
            let written = files.iter().filter(|(_, file)| file.unsynced.load(Relaxed) > 0);
            written.map(|(path, file)| (path.clone(), Arc::clone(file))).collect()
        };
        // A file that cannot be synced must not prevent the others from being synced.
        let files = files.iter().map(|(path, written)| self.sync_file(path, written).map_err(named(path)));
        let outcomes: Vec<_> = files.filter_map(Result::err).collect();
        let dirs: Vec<_> = self.changed_dirs.lock().iter().cloned().collect();
        let dirs = dirs.iter().map(|dir| self.sync_changed_dir(dir).map_err(named(dir)));
        let mut outcomes: Vec<_> = outcomes.into_iter().chain(dirs.filter_map(Result::err)).collect();
        let is_final = |error: &SyncError| matches!(error, SyncError::Failed(_));
        let first = outcomes.iter().position(is_final).unwrap_or(0);
        if outcomes.is_empty() { Ok(()) } else { Err(outcomes.swap_remove(first)) }
    }

    fn sync_file(&self, path: &Path, written: &Written) -> Result<(), SyncError> {
        let open = written.file.lock().upgrade();
        let file = match open.map_or_else(|| self.inner.open(path), Ok) {
            Ok(file) => file,
            // nsqd itself removed it meanwhile.
            Err(_) if !self.files.lock().contains_key(path) => return Ok(()),
            Err(error) => return Err(SyncError::NotOpened(error)),
        };
        sync(&*file, written).map_err(SyncError::Failed)?;
        if self.inner.identity(path).ok() == file.identity().ok() || !self.files.lock().contains_key(path) {
            return Ok(());
        }
        Err(SyncError::NotOpened(io::Error::new(io::ErrorKind::NotFound, "the file was removed or replaced")))
    }

    fn sync_changed_dir(&self, dir: &Path) -> Result<(), SyncError> {
        match self.sync_dir(dir) {
            // Someone removed it with all names in it. Syncing its files reports those that are needed.
            Err(SyncError::NotOpened(error)) if error.kind() == io::ErrorKind::NotFound => {
                self.changed_dirs.lock().remove(dir);
                Ok(())
            }
            synced => synced,
        }
    }

    fn watch(&self, path: &Path, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        let kind = FileKind::of(path);
        let handle = Arc::downgrade(&file);
        let mut files = self.files.lock();
        let written = files.entry(path.to_owned()).or_insert_with(|| {
            let file = Mutex::new(handle.clone());
            Arc::new(Written { kind, unsynced: AtomicU64::new(0), sync_failed: AtomicBool::new(false), file })
        });
        *written.file.lock() = handle;
        let written = Arc::clone(written);
        Arc::new(WatchedFile { inner: file, written, written_bytes: self.written_bytes.clone() })
    }

    fn name_changed(&self, path: &Path) {
        if let Some(dir) = path.parent() {
            self.changed_dirs.lock().insert(dir.to_owned());
        }
    }
}

impl Storage for Unsynced {
    fn create(&self, path: &Path, preallocate_bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.inner.create(path, preallocate_bytes)?;
        self.name_changed(path);
        Ok(self.watch(path, file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.watch(path, self.inner.open(path)?))
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)?;
        Storage::forget(self, path);
        Ok(())
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(dir)?;
        self.files.lock().retain(|path, _| !path.starts_with(dir));
        self.changed_dirs.lock().retain(|changed| !changed.starts_with(dir));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)?;
        let mut files = self.files.lock();
        files.remove(to);
        // Handles that were opened under the old name may still write to it.
        if let Some(written) = files.remove(from)
            && written.kind == FileKind::of(to)
            && !is_retired(to)
        {
            files.insert(to.to_owned(), written);
        }
        drop(files);
        self.name_changed(to);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), SyncError> {
        if self.failed_dirs.lock().contains(dir) {
            return Err(SyncError::Failed(failed_before()));
        }
        let was_changed = self.changed_dirs.lock().remove(dir);
        let result = self.inner.sync_dir(dir);
        if result.is_err() && was_changed {
            self.changed_dirs.lock().insert(dir.to_owned());
        }
        if let Err(SyncError::Failed(_)) = &result {
            self.failed_dirs.lock().insert(dir.to_owned());
        }
        result
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        self.inner.identity(path)
    }

    fn space(&self, dir: &Path) -> Option<Space> {
        self.inner.space(dir)
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<DirLock> {
        self.inner.lock_dir(dir)
    }

    fn check_writable(&self, dir: &Path) -> io::Result<()> {
        self.inner.check_writable(dir)
    }

    fn check_home(&self) -> io::Result<()> {
        self.inner.check_home()
    }

    fn forget(&self, path: &Path) {
        self.files.lock().remove(path);
    }

    fn moved(&self, from: &Path, to: &Path) {
        self.inner.moved(from, to);
    }
}

fn named(path: &Path) -> impl FnOnce(SyncError) -> SyncError + '_ {
    let named = move |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    move |error| match error {
        SyncError::Failed(error) => SyncError::Failed(named(error)),
        SyncError::NotOpened(error) => SyncError::NotOpened(named(error)),
    }
}

fn failed_before() -> io::Error {
    io::Error::other("an earlier sync failed")
}

/// Bytes that are written during the sync still count as unsynced.
fn sync(file: &dyn StorageFile, written: &Written) -> io::Result<()> {
    if written.sync_failed.load(Relaxed) {
        return Err(failed_before());
    }
    let before = written.unsynced.load(Relaxed);
    if let Err(error) = file.sync_data() {
        written.sync_failed.store(true, Relaxed);
        return Err(error);
    }
    // Two threads may sync at once, and each subtracts what it found.
    let _ = written.unsynced.fetch_update(Relaxed, Relaxed, |bytes| Some(bytes.saturating_sub(before)));
    Ok(())
}

struct WatchedFile {
    inner: Arc<dyn StorageFile>,
    written: Arc<Written>,
    written_bytes: Arc<AtomicU64>,
}

impl WatchedFile {
    fn wrote(&self, bytes: usize) {
        self.written.unsynced.fetch_add(bytes as u64, Relaxed);
        if self.written.kind != FileKind::Other {
            self.written_bytes.fetch_add(bytes as u64, Relaxed);
        }
    }
}

impl StorageFile for WatchedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_all_at(buf, offset)?;
        self.wrote(buf.len());
        Ok(())
    }

    fn write_all_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        self.inner.write_all_vectored_at(bufs, offset)?;
        self.wrote(bufs.iter().map(|buf| buf.len()).sum());
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        sync(&*self.inner, &self.written)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.inner.truncate(len)
    }

    fn identity(&self) -> io::Result<Identity> {
        self.inner.identity()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        faulty::{Fault, FaultyStorage, Op},
        file::FileStorage,
    };

    fn unsynced(storage: &Unsynced) -> (u64, u64) {
        (storage.bytes(FileKind::Journal), storage.bytes(FileKind::Segment))
    }

    #[test]
    fn written_bytes_count_until_they_are_synced() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, segment) = (dir.path().join("1.journal"), dir.path().join("1.segment"));
        let storage = Unsynced::new(Arc::new(FileStorage));
        let file = storage.create(&journal, 4096).unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        file.write_all_vectored_at(&[b"de", b"f"], 3).unwrap();
        storage.create(&segment, 0).unwrap().write_all_at(b"x", 0).unwrap();
        assert_eq!(unsynced(&storage), (6, 1));
        file.sync_data().unwrap();
        assert_eq!(unsynced(&storage), (0, 1));
        file.write_all_at(b"abc", 0).unwrap();
        // The segment is closed by now.
        storage.sync_written().unwrap();
        assert_eq!(unsynced(&storage), (0, 0));
        assert_eq!(storage.written_bytes(), 10);
    }

    #[test]
    fn bytes_written_before_and_after_a_rename_are_synced_under_the_new_name() {
        let disk = FaultyStorage::default();
        disk.create_dir_all(Path::new("/d")).unwrap();
        let storage = Unsynced::new(Arc::new(disk.clone()));
        let (spare, journal) = (Path::new("/d/1.spare"), Path::new("/d/1.journal"));
        let file = storage.create(spare, 4).unwrap();
        file.write_all_at(b"ab", 0).unwrap();
        storage.rename(spare, journal).unwrap();
        file.write_all_at(b"cd", 2).unwrap();
        assert_eq!(unsynced(&storage), (4, 0));
        storage.sync_written().unwrap();
        assert_eq!(unsynced(&storage), (0, 0));
        let mut found = [0; 4];
        disk.after_power_loss(0).open(journal).unwrap().read_at(&mut found, 0).unwrap();
        assert_eq!(&found, b"abcd");
        assert_eq!(storage.written_bytes(), 4);
    }

    #[test]
    fn retired_and_removed_files_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let storage = Unsynced::new(Arc::new(FileStorage));
        for name in ["1.journal", "1.segment"] {
            storage.create(&path(name), 0).unwrap().write_all_at(b"abc", 0).unwrap();
        }
        storage.rename(&path("1.journal"), &path("1.spare")).unwrap();
        assert_eq!(unsynced(&storage), (0, 3));
        storage.rename(&path("1.spare"), &path("2.journal")).unwrap();
        storage.open(&path("2.journal")).unwrap().write_all_at(b"ab", 0).unwrap();
        assert_eq!(unsynced(&storage), (2, 3));
        storage.remove(&path("1.segment")).unwrap();
        assert_eq!(unsynced(&storage), (2, 0));
        storage.remove_dir_all(dir.path()).unwrap();
        assert_eq!(unsynced(&storage), (0, 0));
    }

    fn tracked(disk: &FaultyStorage) -> Unsynced {
        disk.create_dir_all(Path::new("/d")).unwrap();
        Unsynced::new(Arc::new(disk.clone()))
    }

    fn write(storage: &Unsynced, path: &str) -> Arc<dyn StorageFile> {
        let file = storage.create(Path::new(path), 0).unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        file
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_synced_by_the_next_attempt() {
        let disk = FaultyStorage::default();
        let storage = tracked(&disk);
        drop(write(&storage, "/d/1.journal"));
        write(&storage, "/d/1.segment");
        disk.plan(Fault::next(Op::Open, 1, io::ErrorKind::Other));
        disk.plan(Fault::next(Op::OpenDir, 1, io::ErrorKind::Other));
        assert!(matches!(storage.sync_written(), Err(SyncError::NotOpened(_))));
        assert_eq!(unsynced(&storage).0 + unsynced(&storage).1, 3, "the other file was synced");
        storage.sync_written().unwrap();
        assert_eq!(unsynced(&storage), (0, 0));
        let after_power_loss = disk.after_power_loss(0);
        assert_eq!(after_power_loss.paths(), [Path::new("/d/1.journal"), Path::new("/d/1.segment")]);
    }

    #[test]
    fn a_failed_sync_stays_failed() {
        for op in [Op::Sync, Op::SyncDir] {
            let disk = FaultyStorage::default();
            let storage = tracked(&disk);
            let file = write(&storage, "/d/1.segment");
            disk.plan(Fault::next(op, 1, io::ErrorKind::Other));
            for _ in 0..2 {
                let error = storage.sync_written().unwrap_err();
                assert!(matches!(error, SyncError::Failed(_)) && error.to_string().contains("/d"), "{error}");
            }
            assert_eq!(file.sync_data().is_err(), op == Op::Sync);
            assert_eq!(storage.sync_dir(Path::new("/d")).is_err(), op == Op::SyncDir);
            // Another file of the same name is not affected.
            storage.remove(Path::new("/d/1.segment")).unwrap();
            write(&storage, "/d/1.segment").sync_data().unwrap();
        }
    }

    #[test]
    fn syncing_a_removed_or_replaced_file_fails() {
        let disk = FaultyStorage::default();
        let storage = tracked(&disk);
        let path = Path::new("/d/1.journal");
        let file = write(&storage, "/d/1.journal");
        disk.vanish(path);
        let error = storage.sync_written().unwrap_err();
        assert!(matches!(error, SyncError::NotOpened(_)), "{error}");
        file.write_all_at(b"abc", 0).unwrap();
        disk.create(path, 0).unwrap();
        let error = storage.sync_written().unwrap_err();
        assert_eq!(error.to_string(), "/d/1.journal: the file was removed or replaced");
    }

    const NAMES: [&str; 5] =
        ["/d/1.journal", "/d/2.journal", "/d/1.segment", "/d/2.segment", "/d/checkpoint"];

    #[derive(Clone, Debug)]
    enum Act {
        Write {
            file: usize,
            at: u8,
            byte: u8,
        },
        Close {
            file: usize,
        },
        Sync {
            file: usize,
        },
        Remove {
            file: usize,
        },
        /// A journal file is retired and used again as another one.
        Recycle {
            from: usize,
            to: usize,
        },
        Replace {
            with: usize,
        },
        SyncWritten,
    }

    fn act() -> impl Strategy<Value = Act> {
        let file = || 0..NAMES.len();
        prop_oneof![
            6 => (file(), 0u8..8, 1u8..).prop_map(|(file, at, byte)| Act::Write { file, at, byte }),
            1 => file().prop_map(|file| Act::Close { file }),
            1 => file().prop_map(|file| Act::Sync { file }),
            1 => file().prop_map(|file| Act::Remove { file }),
            1 => (0usize..2).prop_map(|from| Act::Recycle { from, to: 1 - from }),
            1 => (2usize..4).prop_map(|with| Act::Replace { with }),
            2 => Just(Act::SyncWritten),
        ]
    }

    /// What must survive: of each file, the bytes that were written since it got its name.
    type Expected = BTreeMap<usize, BTreeMap<u8, u8>>;

    fn run(acts: Vec<Act>) {
        let disk = FaultyStorage::default();
        let storage = tracked(&disk);
        let path = |file: usize| Path::new(NAMES[file]);
        let mut open: BTreeMap<usize, Arc<dyn StorageFile>> = BTreeMap::new();
        let mut expected = Expected::new();
        for (seed, act) in (0..).zip(acts) {
            match act {
                Act::Write { file, at, byte } => {
                    let is_new = !expected.contains_key(&file);
                    let handle = open.entry(file).or_insert_with(|| match is_new {
                        true => storage.create(path(file), 8).unwrap(),
                        false => storage.open(path(file)).unwrap(),
                    });
                    handle.write_all_at(&[byte], u64::from(at)).unwrap();
                    expected.entry(file).or_default().insert(at, byte);
                }
                Act::Close { file } => _ = open.remove(&file),
                Act::Sync { file } => open.get(&file).into_iter().for_each(|file| file.sync_data().unwrap()),
                Act::Remove { file } if expected.remove(&file).is_some() => {
                    open.remove(&file);
                    storage.remove(path(file)).unwrap();
                }
                Act::Recycle { from, to } if expected.contains_key(&from) && !expected.contains_key(&to) => {
                    let spare = Path::new("/d/1.spare");
                    storage.rename(path(from), spare).unwrap();
                    storage.rename(spare, path(to)).unwrap();
                    expected.remove(&from);
                    open.remove(&from);
                    expected.insert(to, BTreeMap::new());
                }
                Act::Replace { with } if expected.contains_key(&with) => {
                    let other = 5 - with;
                    storage.rename(path(with), path(other)).unwrap();
                    let bytes = expected.remove(&with).unwrap();
                    expected.insert(other, bytes);
                    open.remove(&other);
                    // The open file follows its name.
                    open.remove(&with).into_iter().for_each(|file| _ = open.insert(other, file));
                }
                Act::SyncWritten => {
                    storage.sync_written().unwrap();
                    assert!(FileKind::ALL.iter().all(|&kind| storage.bytes(kind) == 0));
                    let left = disk.after_power_loss(seed);
                    for (&file, bytes) in &expected {
                        let found =
                            left.open(path(file)).unwrap_or_else(|_| panic!("{} is lost", NAMES[file]));
                        for (&at, &byte) in bytes {
                            let mut read = [0];
                            found.read_at(&mut read, u64::from(at)).unwrap();
                            assert_eq!(read, [byte], "byte {at} of {}", NAMES[file]);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    proptest! {
        #[test]
        fn everything_written_before_a_sync_survives_power_loss(acts in vec(act(), 1..80)) {
            run(acts.into_iter().chain([Act::SyncWritten]).collect());
        }
    }
}
