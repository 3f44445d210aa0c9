//! Measures reads, writes and syncs of files: how long they take, how many bytes they move, and what fails.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use nsq_daemon::metrics::{Counter, Histogram};

use crate::storage::file_kind::FileKind;
use crate::storage::{DirLock, Identity, Space, Storage, StorageFile, SyncError};

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
#[derive(Debug, Default)]
pub struct DiskMetrics {
    kinds: [FileMetrics; FileKind::ALL.len()],
}

impl DiskMetrics {
    pub fn of(&self, kind: FileKind) -> &FileMetrics {
        &self.kinds[kind as usize]
    }
}

/// A storage whose file operations are measured. It changes nothing else.
pub struct Measured {
    inner: Arc<dyn Storage>,
    metrics: Arc<DiskMetrics>,
}

impl Measured {
    /// Measures `inner` in `metrics`.
    pub fn new(inner: Arc<dyn Storage>, metrics: Arc<DiskMetrics>) -> Self {
        Self { inner, metrics }
    }

    fn measured(&self, path: &Path, inner: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(MeasuredFile { inner, metrics: self.metrics.clone(), kind: FileKind::of(path) })
    }
}

impl Storage for Measured {
    fn create(&self, path: &Path, preallocate_bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        match self.inner.create(path, preallocate_bytes) {
            Ok(file) => Ok(self.measured(path, file)),
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
            Ok(file) => Ok(self.measured(path, file)),
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
        self.inner.remove(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), SyncError> {
        self.inner.sync_dir(dir)
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

    fn forget(&self, path: &Path) {
        self.inner.forget(path);
    }

    fn moved(&self, from: &Path, to: &Path) {
        self.inner.moved(from, to);
    }

    fn check_home(&self) -> io::Result<()> {
        self.inner.check_home()
    }
}

struct MeasuredFile {
    inner: Arc<dyn StorageFile>,
    metrics: Arc<DiskMetrics>,
    kind: FileKind,
}

impl MeasuredFile {
    fn metrics(&self) -> &FileMetrics {
        self.metrics.of(self.kind)
    }

    fn write(&self, bytes: usize, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let began = Instant::now();
        let result = write();
        match result {
            Ok(()) => {
                self.metrics().writes.record(began.elapsed());
                self.metrics().written_bytes.add(bytes as u64);
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
        let began = Instant::now();
        let result = self.inner.sync_data();
        match result {
            Ok(()) => self.metrics().syncs.record(began.elapsed()),
            Err(_) => self.metrics().sync_errors.add(1),
        }
        result
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
    use crate::storage::faulty::{Fault, FaultyStorage, Op};
    use crate::storage::file::FileStorage;

    fn count(histogram: &Histogram) -> u64 {
        histogram.buckets().counts.iter().sum()
    }

    #[test]
    fn operations_and_bytes_are_counted_by_kind_of_file() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Arc::new(DiskMetrics::default());
        let storage = Measured::new(Arc::new(FileStorage), metrics.clone());
        let journal = storage.create(&dir.path().join("1.spare"), 4096).unwrap();
        journal.write_all_at(b"abc", 0).unwrap();
        journal.write_all_vectored_at(&[b"de", b"f"], 3).unwrap();
        journal.sync_data().unwrap();
        let segment = storage.create(&dir.path().join("1.segment"), 0).unwrap();
        segment.write_all_at(b"x", 0).unwrap();
        segment.read_at(&mut [0; 10], 0).unwrap();
        let FileMetrics { writes, reads, syncs, written_bytes, .. } = metrics.of(FileKind::Journal);
        assert_eq!((count(writes), written_bytes.get(), count(reads), count(syncs)), (2, 6, 0, 1));
        let FileMetrics { writes, reads, read_bytes, .. } = metrics.of(FileKind::Segment);
        assert_eq!((count(writes), count(reads), read_bytes.get()), (1, 1, 1));
    }

    #[test]
    fn failures_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Arc::new(DiskMetrics::default());
        let storage = Measured::new(Arc::new(FileStorage), metrics.clone());
        assert!(storage.create(&dir.path().join("no/1.journal"), 0).is_err());
        assert!(storage.open(&dir.path().join("1.journal")).is_err());
        std::fs::create_dir(dir.path().join("1.segment")).unwrap();
        assert!(storage.open(&dir.path().join("1.segment")).is_err());
        assert_eq!(metrics.of(FileKind::Journal).write_errors.get(), 1);
        assert_eq!(metrics.of(FileKind::Journal).read_errors.get(), 0, "a missing file is not a failure");
        assert_eq!(metrics.of(FileKind::Segment).read_errors.get(), 1);
    }

    #[test]
    fn failed_writes_and_syncs_count_no_bytes_and_no_duration() {
        let disk = FaultyStorage::default();
        let metrics = Arc::new(DiskMetrics::default());
        let storage = Measured::new(Arc::new(disk.clone()), metrics.clone());
        storage.create_dir_all(Path::new("/d")).unwrap();
        let file = storage.create(Path::new("/d/1.journal"), 0).unwrap();
        for op in [Op::Write, Op::Sync] {
            disk.plan(Fault::next(op, 1, io::ErrorKind::Other));
        }
        assert!(file.write_all_at(b"abc", 0).is_err() && file.sync_data().is_err());
        let FileMetrics { writes, syncs, written_bytes, write_errors, sync_errors, .. } =
            metrics.of(FileKind::Journal);
        assert_eq!((count(writes), written_bytes.get(), count(syncs)), (0, 0, 0));
        assert_eq!((write_errors.get(), sync_errors.get()), (1, 1));
    }
}
