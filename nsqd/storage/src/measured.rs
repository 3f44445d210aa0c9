//! Measures another storage: how long reads, writes and syncs take, what fails, and how many written bytes are not on
//! stable storage yet.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use nsq_daemon::metrics::{Counter, Histogram};
use parking_lot::Mutex;

use super::{DirLock, Identity, Space, Storage, StorageFile, SyncError};

/// What a file is for, derived from its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Journal,
    Segment,
    /// Checkpoint, format version and everything else.
    Other,
}

impl FileKind {
    pub const ALL: [FileKind; 3] = [FileKind::Journal, FileKind::Segment, FileKind::Other];

    /// The word for metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            FileKind::Journal => "journal",
            FileKind::Segment => "segment",
            FileKind::Other => "other",
        }
    }

    fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            // A journal file gets its header while it still has the name of a spare.
            Some("journal" | "spare") => FileKind::Journal,
            Some("segment") => FileKind::Segment,
            _ => FileKind::Other,
        }
    }
}

/// Measurements of one kind of file.
#[derive(Debug, Default)]
pub struct FileMetrics {
    /// Durations of writes.
    pub writes: Histogram,
    /// Durations of reads.
    pub reads: Histogram,
    /// Durations of syncs.
    pub syncs: Histogram,
    pub written_bytes: Counter,
    pub read_bytes: Counter,
    /// Failed writes, and files that could not be created.
    pub write_errors: Counter,
    /// Failed reads, and files that could not be opened.
    pub read_errors: Counter,
    pub sync_errors: Counter,
}

/// Measurements of all kinds of file.
#[derive(Default)]
pub struct DiskMetrics {
    kinds: [FileMetrics; FileKind::ALL.len()],
    /// Files with their unsynced bytes, except retired and removed files.
    files: Mutex<HashMap<PathBuf, Arc<Written>>>,
    /// Directories whose names changed since their last sync.
    changed_dirs: Mutex<HashSet<PathBuf>>,
    /// Directories whose sync failed.
    failed_dirs: Mutex<HashSet<PathBuf>>,
}

impl DiskMetrics {
    pub fn of(&self, kind: FileKind) -> &FileMetrics {
        &self.kinds[kind as usize]
    }

    /// Bytes of files of this kind that may be lost if the power fails now.
    pub fn unsynced_bytes(&self, kind: FileKind) -> u64 {
        let files = self.files.lock();
        files.values().filter(|file| file.kind == kind).map(|file| file.unsynced.load(Relaxed)).sum()
    }
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

/// See the module.
pub struct Measured {
    inner: Arc<dyn Storage>,
    metrics: Arc<DiskMetrics>,
}

impl Measured {
    /// Measures `inner`.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, metrics: Arc::default() }
    }

    fn watch(&self, path: &Path, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        let kind = FileKind::of(path);
        let handle = Arc::downgrade(&file);
        let mut files = self.metrics.files.lock();
        let written = files.entry(path.to_owned()).or_insert_with(|| {
            let file = Mutex::new(handle.clone());
            Arc::new(Written { kind, unsynced: AtomicU64::new(0), sync_failed: AtomicBool::new(false), file })
        });
        *written.file.lock() = handle;
        Arc::new(MeasuredFile {
            inner: file,
            metrics: Arc::clone(&self.metrics),
            written: Arc::clone(written),
        })
    }

    fn name_changed(&self, path: &Path) {
        if let Some(dir) = path.parent() {
            self.metrics.changed_dirs.lock().insert(dir.to_owned());
        }
    }
}

impl Storage for Measured {
    fn create(&self, path: &Path, preallocate_bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        let created = self.inner.create(path, preallocate_bytes);
        match created {
            Ok(file) => {
                self.name_changed(path);
                Ok(self.watch(path, file))
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::AlreadyExists {
                    self.metrics.of(FileKind::of(path)).write_errors.add(1);
                }
                Err(error)
            }
        }
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        match self.inner.open(path) {
            Ok(file) => Ok(self.watch(path, file)),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.metrics.of(FileKind::of(path)).read_errors.add(1);
                }
                Err(error)
            }
        }
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
        self.metrics.files.lock().retain(|path, _| !path.starts_with(dir));
        self.metrics.changed_dirs.lock().retain(|changed| !changed.starts_with(dir));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)?;
        let mut files = self.metrics.files.lock();
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
        if self.metrics.failed_dirs.lock().contains(dir) {
            return Err(SyncError::Failed(failed_before()));
        }
        let was_changed = self.metrics.changed_dirs.lock().remove(dir);
        let result = self.inner.sync_dir(dir);
        if result.is_err() && was_changed {
            self.metrics.changed_dirs.lock().insert(dir.to_owned());
        }
        if let Err(SyncError::Failed(_)) = &result {
            self.metrics.failed_dirs.lock().insert(dir.to_owned());
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

    fn metrics(&self) -> Option<&DiskMetrics> {
        Some(&self.metrics)
    }

    fn check_home(&self) -> io::Result<()> {
        self.inner.check_home()
    }

    fn forget(&self, path: &Path) {
        self.metrics.files.lock().remove(path);
    }

    fn moved(&self, from: &Path, to: &Path) {
        self.inner.moved(from, to);
    }

    fn sync_written(&self) -> Result<(), SyncError> {
        let files: Vec<(PathBuf, Arc<Written>)> = {
            let files = self.metrics.files.lock();
            let written = files.iter().filter(|(_, file)| file.unsynced.load(Relaxed) > 0);
            written.map(|(path, file)| (path.clone(), Arc::clone(file))).collect()
        };
        // A file that cannot be synced must not prevent the others from being synced.
        let files = files.iter().map(|(path, written)| self.sync_file(path, written).map_err(named(path)));
        let outcomes: Vec<_> = files.filter_map(Result::err).collect();
        let dirs: Vec<_> = self.metrics.changed_dirs.lock().iter().cloned().collect();
        let dirs = dirs.iter().map(|dir| self.sync_changed_dir(dir).map_err(named(dir)));
        let mut outcomes: Vec<_> = outcomes.into_iter().chain(dirs.filter_map(Result::err)).collect();
        let is_final = |error: &SyncError| matches!(error, SyncError::Failed(_));
        let first = outcomes.iter().position(is_final).unwrap_or(0);
        if outcomes.is_empty() { Ok(()) } else { Err(outcomes.swap_remove(first)) }
    }
}

/// Whether the content of a file with this name is no longer needed.
fn is_retired(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "spare")
}

impl Measured {
    fn sync_changed_dir(&self, dir: &Path) -> Result<(), SyncError> {
        match self.sync_dir(dir) {
            // Someone removed it with all names in it. Syncing its files reports those that are needed.
            Err(SyncError::NotOpened(error)) if error.kind() == io::ErrorKind::NotFound => {
                self.metrics.changed_dirs.lock().remove(dir);
                Ok(())
            }
            synced => synced,
        }
    }

    fn sync_file(&self, path: &Path, written: &Written) -> Result<(), SyncError> {
        let open = written.file.lock().upgrade();
        let file = match open.map_or_else(|| self.inner.open(path), Ok) {
            Ok(file) => file,
            // nsqd itself removed it meanwhile.
            Err(_) if !self.metrics.files.lock().contains_key(path) => return Ok(()),
            Err(error) => return Err(SyncError::NotOpened(error)),
        };
        sync(&*file, written, self.metrics.of(written.kind)).map_err(SyncError::Failed)?;
        if self.inner.identity(path).ok() == file.identity().ok()
            || !self.metrics.files.lock().contains_key(path)
        {
            return Ok(());
        }
        Err(SyncError::NotOpened(io::Error::new(io::ErrorKind::NotFound, "the file was removed or replaced")))
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
fn sync(file: &dyn StorageFile, written: &Written, metrics: &FileMetrics) -> io::Result<()> {
    if written.sync_failed.load(Relaxed) {
        return Err(failed_before());
    }
    let before = written.unsynced.load(Relaxed);
    let began = Instant::now();
    if let Err(error) = file.sync_data() {
        written.sync_failed.store(true, Relaxed);
        metrics.sync_errors.add(1);
        return Err(error);
    }
    metrics.syncs.record(began.elapsed());
    // Two threads may sync at once, and each subtracts what it found.
    let _ = written.unsynced.fetch_update(Relaxed, Relaxed, |bytes| Some(bytes.saturating_sub(before)));
    Ok(())
}

struct MeasuredFile {
    inner: Arc<dyn StorageFile>,
    metrics: Arc<DiskMetrics>,
    written: Arc<Written>,
}

impl MeasuredFile {
    fn metrics(&self) -> &FileMetrics {
        self.metrics.of(self.written.kind)
    }

    fn write(&self, bytes: usize, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let began = Instant::now();
        let result = write();
        match result {
            Ok(()) => {
                self.metrics().writes.record(began.elapsed());
                self.metrics().written_bytes.add(bytes as u64);
                self.written.unsynced.fetch_add(bytes as u64, Relaxed);
            }
            Err(_) => self.metrics().write_errors.add(1),
        }
        result
    }
}

impl StorageFile for MeasuredFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let began = Instant::now();
        let result = self.inner.read_at(buf, offset);
        match &result {
            Ok(count) => {
                self.metrics().reads.record(began.elapsed());
                self.metrics().read_bytes.add(*count as u64);
            }
            Err(_) => self.metrics().read_errors.add(1),
        }
        result
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write(buf.len(), || self.inner.write_all_at(buf, offset))
    }

    fn write_all_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        let bytes = bufs.iter().map(|buf| buf.len()).sum();
        self.write(bytes, || self.inner.write_all_vectored_at(bufs, offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        sync(&*self.inner, &self.written, self.metrics())
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
    use super::*;
    use crate::{
        faulty::{Fault, FaultyStorage, Op},
        file::FileStorage,
    };

    fn unsynced(storage: &Measured) -> (u64, u64) {
        let metrics = storage.metrics().unwrap();
        (metrics.unsynced_bytes(FileKind::Journal), metrics.unsynced_bytes(FileKind::Segment))
    }

    #[test]
    fn written_bytes_count_until_they_are_synced() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, segment) = (dir.path().join("1.journal"), dir.path().join("1.segment"));
        let storage = Measured::new(Arc::new(FileStorage));
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
        let metrics = storage.metrics().unwrap();
        assert_eq!(metrics.of(FileKind::Journal).written_bytes.get(), 9);
        assert_eq!(metrics.of(FileKind::Journal).writes.buckets().counts.iter().sum::<u64>(), 3);
        assert_eq!(metrics.of(FileKind::Journal).syncs.buckets().counts.iter().sum::<u64>(), 2);
        assert_eq!(metrics.of(FileKind::Segment).syncs.buckets().counts.iter().sum::<u64>(), 1);
    }

    #[test]
    fn bytes_written_before_and_after_a_rename_are_synced_under_the_new_name() {
        let disk = FaultyStorage::default();
        disk.create_dir_all(Path::new("/d")).unwrap();
        let storage = Measured::new(Arc::new(disk.clone()));
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
        assert_eq!(storage.metrics().unwrap().of(FileKind::Journal).written_bytes.get(), 4);
    }

    #[test]
    fn retired_and_removed_files_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let storage = Measured::new(Arc::new(FileStorage));
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

    fn measured_storage(disk: &FaultyStorage) -> Measured {
        disk.create_dir_all(Path::new("/d")).unwrap();
        Measured::new(Arc::new(disk.clone()))
    }

    fn write(storage: &Measured, path: &str) -> Arc<dyn StorageFile> {
        let file = storage.create(Path::new(path), 0).unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        file
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_synced_by_the_next_attempt() {
        let disk = FaultyStorage::default();
        let storage = measured_storage(&disk);
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
            let storage = measured_storage(&disk);
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
        let storage = measured_storage(&disk);
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

    #[test]
    fn failures_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Measured::new(Arc::new(FileStorage));
        assert!(storage.create(&dir.path().join("no/1.journal"), 0).is_err());
        assert!(storage.open(&dir.path().join("1.journal")).is_err());
        std::fs::create_dir(dir.path().join("1.segment")).unwrap();
        assert!(storage.open(&dir.path().join("1.segment")).is_err());
        let metrics = storage.metrics().unwrap();
        assert_eq!(metrics.of(FileKind::Journal).write_errors.get(), 1);
        assert_eq!(metrics.of(FileKind::Journal).read_errors.get(), 0, "a missing file is not a failure");
        assert_eq!(metrics.of(FileKind::Segment).read_errors.get(), 1);
    }
}
