//! Limits the number of segment files that are open at a time.
//!
//! A backlog may consist of any number of segment files, but a process may open only a limited number. A segment file
//! is opened when it is used and stays open until too many others are used after it. Reading, writing and syncing
//! reopen it. Files whose bytes are all on stable storage are closed first: the kernel reports a failed
//! write-back to an open file, but may forget it for a closed one.
//!
//! Journal files and checkpoints are few and pass through. If no descriptor is left for a call, segment
//! files are closed and the call is retried once.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use super::file_kind::FileKind;
use super::{DirLock, Identity, Space, Storage, StorageFile, SyncError};

/// See the module.
pub struct OpenFiles {
    inner: Arc<dyn Storage>,
    open: Arc<Open>,
}

/// Segment files get one in this many of the descriptors that the process may have.
const DESCRIPTOR_SHARE: u64 = 8;
const MIN_OPEN: usize = 8;
/// More open files would save few calls, and each costs kernel memory.
const MAX_OPEN: usize = 512;

impl OpenFiles {
    /// Keeps at most `max` segment files of `inner` open, not counting those that are being read or written.
    pub fn new(inner: Arc<dyn Storage>, max: usize) -> Self {
        Self { inner, open: Arc::new(Open { max, files: Mutex::default(), moved: Mutex::default() }) }
    }

    /// As [`OpenFiles::new`], with a share of the process's current descriptor limit.
    pub fn with_share_of_limit(inner: Arc<dyn Storage>) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self::new(inner, share_of(limit))
    }

    fn pooled(&self, path: &Path, file: Arc<dyn StorageFile>) -> io::Result<Arc<dyn StorageFile>> {
        let identity = file.identity()?;
        let pooled = Arc::new_cyclic(|this| PooledFile {
            this: this.clone(),
            storage: Arc::clone(&self.inner),
            path: path.to_owned(),
            identity,
            open: Arc::clone(&self.open),
            handle: Mutex::new(Some(file)),
            used: AtomicBool::new(true),
            unsynced: AtomicBool::new(false),
        });
        self.open.opened(&pooled);
        Ok(pooled)
    }
}

fn share_of(limit: Option<u64>) -> usize {
    let share = usize::try_from(limit.unwrap_or(u64::MAX) / DESCRIPTOR_SHARE).unwrap_or(usize::MAX);
    share.clamp(MIN_OPEN, MAX_OPEN)
}

fn is_segment(path: &Path) -> bool {
    FileKind::of(path) == FileKind::Segment
}

/// The open segment files, in the order in which they are considered for closing.
struct Open {
    max: usize,
    files: Mutex<VecDeque<Weak<PooledFile>>>,
    /// The old and the current path of a directory that someone moved.
    moved: Mutex<Option<(PathBuf, PathBuf)>>,
}

impl Open {
    /// Adds a file that was opened, and closes others if there are too many.
    fn opened(&self, file: &Arc<PooledFile>) {
        let mut files = self.files.lock();
        files.push_back(Arc::downgrade(file));
        if files.len() <= self.max {
            return;
        }
        files.retain(|file| file.strong_count() > 0);
        let mut closed = Vec::new();
        while files.len() > self.max {
            let Some(file) = next_to_close(&mut files) else { break };
            closed.push(file.take_handle());
        }
        drop(files);
        // Without the lock: closing a removed file may wait for the disk.
        drop(closed);
    }

    /// Closes the files whose path `which` selects.
    fn close(&self, which: impl Fn(&Path) -> bool) {
        let mut files = self.files.lock();
        let mut closed = Vec::new();
        files.retain(|file| {
            let Some(file) = file.upgrade() else { return false };
            let close = which(&file.path);
            if close {
                closed.push(file.take_handle());
            }
            !close
        });
        drop(files);
        drop(closed);
    }

    /// The current path of a file.
    fn at(&self, path: &Path) -> PathBuf {
        match &*self.moved.lock() {
            Some((from, to)) => {
                path.strip_prefix(from).map_or_else(|_| path.to_owned(), |rest| to.join(rest))
            }
            None => path.to_owned(),
        }
    }

    /// Makes a call that needs a descriptor. If none is left, closes all segment files and retries once.
    fn retrying<T>(&self, call: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match call() {
            Err(error) if is_out_of_descriptors(&error) => {
                self.close(|_| true);
                call()
            }
            result => result,
        }
    }
}

/// Second chance: the first file that was not used since it was last considered and is synced, else the first.
fn next_to_close(files: &mut VecDeque<Weak<PooledFile>>) -> Option<Arc<PooledFile>> {
    for _ in 0..2 * files.len() {
        let Some(file) = files.pop_front()?.upgrade() else { continue };
        if !file.used.swap(false, Relaxed) && !file.unsynced.load(Relaxed) {
            return Some(file);
        }
        files.push_back(Arc::downgrade(&file));
    }
    files.pop_front()?.upgrade()
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

impl Storage for OpenFiles {
    fn create(&self, path: &Path, preallocate_bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.open.retrying(|| self.inner.create(path, preallocate_bytes))?;
        if is_segment(path) { self.pooled(path, file) } else { Ok(file) }
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.open.retrying(|| self.inner.open(path))?;
        if is_segment(path) { self.pooled(path, file) } else { Ok(file) }
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.open.retrying(|| self.inner.list(dir))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)?;
        if is_segment(path) {
            self.open.close(|open| open == path);
        }
        Ok(())
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.open.retrying(|| self.inner.remove_dir_all(dir))?;
        self.open.close(|open| open.starts_with(dir));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)?;
        if is_segment(from) || is_segment(to) {
            self.open.close(|open| open == from || open == to);
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), SyncError> {
        match self.inner.sync_dir(dir) {
            Err(SyncError::NotOpened(error)) if is_out_of_descriptors(&error) => {
                self.open.close(|_| true);
                self.inner.sync_dir(dir)
            }
            result => result,
        }
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

    fn check_home(&self) -> io::Result<()> {
        self.inner.check_home()
    }

    fn moved(&self, from: &Path, to: &Path) {
        *self.open.moved.lock() = Some((from.to_owned(), to.to_owned()));
        self.inner.moved(from, to);
    }
}

/// A segment file, open or closed.
struct PooledFile {
    this: Weak<PooledFile>,
    storage: Arc<dyn Storage>,
    path: PathBuf,
    /// Detects whether someone replaced the file while it was closed.
    identity: Identity,
    open: Arc<Open>,
    handle: Mutex<Option<Arc<dyn StorageFile>>>,
    /// Used since it was last considered for closing.
    used: AtomicBool,
    /// Written to since the last sync.
    unsynced: AtomicBool,
}

impl PooledFile {
    fn handle(&self) -> io::Result<Arc<dyn StorageFile>> {
        self.used.store(true, Relaxed);
        let mut handle = self.handle.lock();
        if let Some(open) = &*handle {
            return Ok(Arc::clone(open));
        }
        drop(handle);
        // Without the lock: opening may wait for the disk. Two threads that open it at once are rare and harmless.
        let path = self.open.at(&self.path);
        let opened = self.open.retrying(|| self.storage.open(&path))?;
        if opened.identity()? != self.identity {
            let text = format!("{} was replaced by another file", path.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        handle = self.handle.lock();
        *handle = Some(Arc::clone(&opened));
        drop(handle);
        if let Some(this) = self.this.upgrade() {
            self.open.opened(&this);
        }
        Ok(opened)
    }

    fn take_handle(&self) -> Option<Arc<dyn StorageFile>> {
        self.handle.lock().take()
    }

    fn write(&self, write: impl FnOnce(&dyn StorageFile) -> io::Result<()>) -> io::Result<()> {
        let handle = self.handle()?;
        self.unsynced.store(true, Relaxed);
        write(&*handle)
    }
}

impl StorageFile for PooledFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.handle()?.read_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write(|file| file.write_all_at(buf, offset))
    }

    fn write_all_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        self.write(|file| file.write_all_vectored_at(bufs, offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        let handle = self.handle()?;
        // Bytes that are written during the sync must be synced again.
        let was_unsynced = self.unsynced.swap(false, Relaxed);
        handle.sync_data().inspect_err(|_| {
            self.unsynced.fetch_or(was_unsynced, Relaxed);
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.handle()?.len()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.write(|file| file.truncate(len))
    }

    fn identity(&self) -> io::Result<Identity> {
        Ok(self.identity)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{faulty::FaultyStorage, file::FileStorage, unsynced::Unsynced};

    /// Number of this process's descriptors for files in `dir`, including removed files.
    fn open_in(dir: &Path) -> usize {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let targets = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
        targets.filter(|target| target.starts_with(dir)).count()
    }

    fn text(file: &Arc<dyn StorageFile>) -> Vec<u8> {
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn any_number_of_files_needs_few_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let storage = OpenFiles::new(Arc::new(FileStorage), 5);
        let files: Vec<_> = (0..50_u8)
            .map(|n| {
                let file = storage.create(&dir.path().join(format!("{n}.segment")), 0).unwrap();
                file.write_all_at(&[n; 3], 0).unwrap();
                assert!(open_in(dir.path()) <= 5);
                file
            })
            .collect();
        for (file, n) in files.iter().zip(0_u8..50).rev() {
            assert_eq!(text(file), [n; 3]);
            assert!(open_in(dir.path()) <= 5);
        }
        drop(files);
        assert_eq!(open_in(dir.path()), 0);
    }

    #[test]
    fn journal_files_stay_open() {
        let dir = tempfile::tempdir().unwrap();
        let storage = OpenFiles::new(Arc::new(FileStorage), 1);
        let files: Vec<_> =
            (0..3).map(|n| storage.create(&dir.path().join(format!("{n}.journal")), 0).unwrap()).collect();
        assert_eq!((open_in(dir.path()), files.len()), (3, 3));
    }

    #[test]
    fn a_removed_file_frees_its_space_and_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let storage = OpenFiles::new(Arc::new(FileStorage), 5);
        let create = |name: &str| storage.create(&dir.path().join(name), 0).unwrap();
        let [removed, kept, renamed] = ["1.segment", "2.segment", "3.segment"].map(create);
        storage.remove(&dir.path().join("1.segment")).unwrap();
        storage.rename(&dir.path().join("3.segment"), &dir.path().join("3.segment.damaged")).unwrap();
        assert_eq!(open_in(dir.path()), 1);
        assert!([&removed, &renamed].iter().all(|file| file.len().is_err()));
        assert_eq!(kept.len().unwrap(), 0);
        storage.remove_dir_all(dir.path()).unwrap();
        assert_eq!(open_in(dir.path()), 0);
        assert_eq!(kept.len().unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_closed_file_is_found_after_a_move_and_not_confused_with_another() {
        let dir = tempfile::tempdir().unwrap();
        let [root, moved] = ["a", "b"].map(|name| dir.path().join(name));
        std::fs::create_dir(&root).unwrap();
        let storage = OpenFiles::new(Arc::new(FileStorage), 1);
        let create = |name: &str| storage.create(&root.join(name), 0).unwrap();
        let file = create("1.segment");
        file.write_all_at(b"one", 0).unwrap();
        file.sync_data().unwrap();
        let _others = ["2.segment", "3.segment", "4.segment"].map(create);
        std::fs::rename(&root, &moved).unwrap();
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("1.segment"), b"two").unwrap();
        let error = file.write_all_at(b"one", 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        storage.moved(&root, &moved);
        assert_eq!(text(&file), b"one");
    }

    #[test]
    fn a_file_that_was_closed_with_unsynced_bytes_is_synced() {
        let faulty = FaultyStorage::default();
        let dir = Path::new("/data");
        faulty.create_dir_all(dir).unwrap();
        let storage = Unsynced::new(Arc::new(OpenFiles::new(Arc::new(faulty.clone()), 2)));
        for n in 0..20_u8 {
            let file = storage.create(&dir.join(format!("{n:02}.segment")), 0).unwrap();
            file.write_all_at(&[n; 600], 0).unwrap();
        }
        storage.sync_written().unwrap();
        for seed in 0..10 {
            let image = faulty.after_power_loss(seed);
            let paths = image.paths();
            assert_eq!(paths.len(), 20);
            for (path, n) in paths.iter().zip(0..) {
                assert_eq!(text(&image.open(path).unwrap()), [n; 600]);
            }
        }
    }

    #[test]
    fn synced_files_are_closed_before_unsynced_ones() {
        let dir = tempfile::tempdir().unwrap();
        let storage = OpenFiles::new(Arc::new(FileStorage), 4);
        let create = |n: u32| storage.create(&dir.path().join(format!("{n}.segment")), 0).unwrap();
        let files: Vec<_> = (0..2).map(create).collect();
        files[0].write_all_at(b"not synced", 0).unwrap();
        let unused: Vec<_> = (2..40).map(create).collect();
        let path = dir.path().join("0.segment");
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let mut targets = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
        assert!(targets.any(|target| target == path));
        drop(unused);
    }

    #[test]
    fn segment_files_are_closed_when_no_descriptor_is_left() {
        let faulty = FaultyStorage::default();
        let dir = Path::new("/data");
        faulty.create_dir_all(dir).unwrap();
        let storage = OpenFiles::new(Arc::new(faulty.clone()), 4);
        let file = storage.create(&dir.join("1.segment"), 0).unwrap();
        file.write_all_at(b"one", 0).unwrap();
        faulty.run_out_of_descriptors(1);
        storage.create(&dir.join("1.journal"), 0).unwrap();
        faulty.run_out_of_descriptors(1);
        assert_eq!(text(&file), b"one", "the closed file is reopened");
        storage.create(&dir.join("2.segment"), 0).unwrap();
        faulty.run_out_of_descriptors(2);
        let error = storage.open(&dir.join("1.journal")).err().unwrap();
        assert!(is_out_of_descriptors(&error));
    }

    #[test]
    fn segment_files_get_a_share_of_the_descriptors() {
        assert_eq!(share_of(Some(16)), MIN_OPEN);
        assert_eq!(share_of(Some(1024)), 128);
        assert_eq!(share_of(Some(1 << 20)), MAX_OPEN);
        assert_eq!(share_of(None), MAX_OPEN);
    }

    proptest! {
        #[test]
        fn a_file_reads_as_if_it_had_never_been_closed(
            steps in prop::collection::vec((0_usize..6, 0_usize..40, any::<u8>(), 0_u8..6), 1..80),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let storage = OpenFiles::new(Arc::new(FileStorage), 2);
            let create = |n: usize| storage.create(&dir.path().join(format!("{n}.segment")), 0).unwrap();
            let files: Vec<_> = (0..6).map(create).collect();
            let mut expected = vec![Vec::new(); 6];
            for (index, at, byte, action) in steps {
                let (file, expected) = (&files[index], &mut expected[index]);
                match action {
                    0 | 1 => {
                        file.write_all_vectored_at(&[&[byte; 3], &[byte; 2]], at as u64).unwrap();
                        expected.resize(expected.len().max(at + 5), 0);
                        expected[at..at + 5].fill(byte);
                    }
                    2 => {
                        file.truncate(at as u64).unwrap();
                        expected.resize(at, 0);
                    }
                    3 => file.sync_data().unwrap(),
                    _ => prop_assert_eq!(&text(file), expected),
                }
            }
            for (file, expected) in files.iter().zip(&expected) {
                prop_assert_eq!(&text(file), expected);
            }
        }
    }
}
