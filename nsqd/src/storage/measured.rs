//! A storage that is watched: how long reads, writes and syncs take, what fails, and how much of what was written is
//! not on stable storage yet.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use nsq_daemon::metrics::{Counter, Histogram};
use parking_lot::Mutex;

use super::{DirLock, Storage, StorageFile};

/// What a file is for, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// The journal.
    Journal,
    /// A topic's segments.
    Segment,
    /// Checkpoint, format version and whatever else.
    Other,
}

impl FileKind {
    /// All of them.
    pub const ALL: [FileKind; 3] = [FileKind::Journal, FileKind::Segment, FileKind::Other];

    /// One word, for labels.
    pub fn as_str(self) -> &'static str {
        match self {
            FileKind::Journal => "journal",
            FileKind::Segment => "segment",
            FileKind::Other => "other",
        }
    }

    fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            // A journal file has its header before its name.
            Some("journal" | "spare") => FileKind::Journal,
            Some("segment") => FileKind::Segment,
            _ => FileKind::Other,
        }
    }
}

/// What was seen of one kind of file.
#[derive(Debug, Default)]
pub struct FileMetrics {
    /// How long writes took.
    pub writes: Histogram,
    /// How long reads took.
    pub reads: Histogram,
    /// How long syncs took.
    pub syncs: Histogram,
    /// Bytes written.
    pub written_bytes: Counter,
    /// Bytes read.
    pub read_bytes: Counter,
    /// Writes that failed, and files that could not be made.
    pub write_errors: Counter,
    /// Reads that failed, and files that could not be opened.
    pub read_errors: Counter,
    /// Syncs that failed.
    pub sync_errors: Counter,
}

/// What was seen.
#[derive(Default)]
pub struct DiskMetrics {
    kinds: [FileMetrics; FileKind::ALL.len()],
    /// What was written since it was synced last; what was retired or removed is of no interest any more.
    files: Mutex<HashMap<PathBuf, Arc<Written>>>,
    /// Directories with new names since they were synced last.
    changed_dirs: Mutex<HashSet<PathBuf>>,
}

impl DiskMetrics {
    /// What was seen of files of this kind.
    pub fn of(&self, kind: FileKind) -> &FileMetrics {
        &self.kinds[kind as usize]
    }

    /// Bytes of files of this kind that may be lost if the power fails now.
    pub fn unsynced_bytes(&self, kind: FileKind) -> u64 {
        let files = self.files.lock();
        files.values().filter(|file| file.kind == kind).map(|file| file.unsynced.load(Relaxed)).sum()
    }
}

/// A file's bytes that are not on stable storage.
struct Written {
    kind: FileKind,
    unsynced: AtomicU64,
    /// The open file; it may be closed while bytes of it are not synced.
    file: Mutex<Weak<dyn StorageFile>>,
}

/// See the module.
pub struct Measured {
    inner: Arc<dyn Storage>,
    metrics: Arc<DiskMetrics>,
}

impl Measured {
    /// Watches `inner`.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, metrics: Arc::default() }
    }

    fn watch(&self, path: &Path, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        let kind = FileKind::of(path);
        let handle = Arc::downgrade(&file);
        let mut files = self.metrics.files.lock();
        let written = files.entry(path.to_owned()).or_insert_with(|| {
            Arc::new(Written { kind, unsynced: AtomicU64::new(0), file: Mutex::new(handle.clone()) })
        });
        *written.file.lock() = handle;
        Arc::new(MeasuredFile {
            inner: file,
            metrics: Arc::clone(&self.metrics),
            written: Arc::clone(written),
        })
    }

    fn forget(&self, path: &Path) {
        self.metrics.files.lock().remove(path);
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
        self.forget(path);
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
        // It may be written to under its new name, through a handle from before.
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

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.metrics.changed_dirs.lock().remove(dir);
        self.inner.sync_dir(dir)
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

    fn sync_written(&self) -> io::Result<()> {
        let files: Vec<(PathBuf, Arc<Written>)> = {
            let files = self.metrics.files.lock();
            let written = files.iter().filter(|(_, file)| file.unsynced.load(Relaxed) > 0);
            written.map(|(path, file)| (path.clone(), Arc::clone(file))).collect()
        };
        for (path, written) in files {
            let open = written.file.lock().upgrade();
            let file = match open.map_or_else(|| self.inner.open(&path), Ok) {
                Ok(file) => file,
                // Removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            sync(&*file, &written, self.metrics.of(written.kind))?;
        }
        let dirs = std::mem::take(&mut *self.metrics.changed_dirs.lock());
        for dir in dirs {
            match self.inner.sync_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether what a file of this name holds is needed no more.
fn is_retired(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "spare")
}

/// What is written while it goes on may be synced, too, but counts as if it were not.
fn sync(file: &dyn StorageFile, written: &Written, metrics: &FileMetrics) -> io::Result<()> {
    let before = written.unsynced.load(Relaxed);
    let began = Instant::now();
    if let Err(error) = file.sync_data() {
        metrics.sync_errors.add(1);
        return Err(error);
    }
    metrics.syncs.record(began.elapsed());
    // Two may sync at a time, each for what it found.
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{faulty::FaultyStorage, file::FileStorage};

    fn unsynced(storage: &Measured) -> (u64, u64) {
        let metrics = storage.metrics().unwrap();
        (metrics.unsynced_bytes(FileKind::Journal), metrics.unsynced_bytes(FileKind::Segment))
    }

    #[test]
    fn what_is_written_counts_until_it_is_synced() {
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
    fn what_is_gone_does_not_count() {
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
        std::fs::remove_file(path("2.journal")).unwrap();
        storage.sync_written().unwrap();
        storage.remove_dir_all(dir.path()).unwrap();
        assert_eq!(unsynced(&storage), (0, 0));
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
        assert_eq!(metrics.of(FileKind::Journal).read_errors.get(), 0, "what is not there is no failure");
        assert_eq!(metrics.of(FileKind::Segment).read_errors.get(), 1);
    }
}
