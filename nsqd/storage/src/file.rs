//! Real files.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{Access, FallocateFlags, FlockOperation};

use super::{DirLock, HeldDir, Identity, Space, Storage, StorageFile, SyncError};

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileStorage;

/// Messages may be confidential, so only the owner may read and write the files, as in NSQ.
const FILE_MODE: u32 = 0o600;

/// The kernel accepts at most this many slices in one call.
const MAX_SLICES: usize = 1024;

impl Storage for FileStorage {
    fn create(&self, path: &Path, preallocate_bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path)?;
        if preallocate_bytes > 0
            && let Err(error) = preallocate(&file, preallocate_bytes)
        {
            // A partly allocated file would block the next attempt. If it cannot be removed
            // either, the first error is the more useful one.
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(RealFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            // All our names are ASCII, so a name that is not UTF-8 is not ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), SyncError> {
        File::open(dir).map_err(SyncError::NotOpened)?.sync_all().map_err(SyncError::Failed)
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        Ok(identity(&std::fs::metadata(path)?))
    }

    fn space(&self, dir: &Path) -> Option<Space> {
        let volume = rustix::fs::statvfs(dir).ok()?;
        // Some file systems do not report their size.
        (volume.f_blocks > 0).then(|| Space {
            total_bytes: volume.f_blocks.saturating_mul(volume.f_frsize),
            available_bytes: volume.f_bavail.saturating_mul(volume.f_frsize),
        })
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<DirLock> {
        let file = File::open(dir)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(DirLock::new(LockedDir(file)))
    }

    fn check_writable(&self, dir: &Path) -> io::Result<()> {
        Ok(rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK)?)
    }
}

fn identity(metadata: &std::fs::Metadata) -> Identity {
    Identity { device: metadata.dev(), inode: metadata.ino() }
}

#[derive(Debug)]
struct LockedDir(File);

impl HeldDir for LockedDir {
    fn path(&self) -> Option<PathBuf> {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", self.0.as_raw_fd())).ok()?;
        // For a removed directory the kernel shows a name that is not a path.
        let is_same = identity(&std::fs::metadata(&path).ok()?) == identity(&self.0.metadata().ok()?);
        is_same.then_some(path)
    }
}

fn preallocate(file: &File, bytes: u64) -> io::Result<()> {
    use rustix::io::Errno;
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return file.set_len(bytes),
            Err(errno) => return Err(errno.into()),
        }
    }
}

pub(super) struct RealFile(pub(super) File);

impl StorageFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.0.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn write_all_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        let slices: Vec<_> = bufs.iter().take(MAX_SLICES).map(|buf| io::IoSlice::new(buf)).collect();
        let mut written = match rustix::io::pwritev(&self.0, &slices, offset) {
            Ok(written) => written,
            Err(rustix::io::Errno::INTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        // One call nearly always writes everything. The rest, if any, is written buffer by buffer.
        let mut start = offset;
        for buf in bufs {
            let done = written.min(buf.len());
            self.0.write_all_at(&buf[done..], start + done as u64)?;
            written -= done;
            start += buf.len() as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn identity(&self) -> io::Result<Identity> {
        Ok(identity(&self.0.metadata()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preallocates_reads_and_writes_by_position() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let file = FileStorage.create(&path, 10).unwrap();
        assert_eq!(file.len().unwrap(), 10);
        assert_eq!(FileStorage.create(&path, 0).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        file.write_all_vectored_at(&[b"abc", b"", b"defg"], 5).unwrap();
        let mut buf = [1; 20];
        assert_eq!(file.read_at(&mut buf, 3).unwrap(), 9);
        assert_eq!(&buf[..9], b"\0\0abcdefg");
        file.truncate(6).unwrap();
        assert_eq!(FileStorage.open(&path).unwrap().len().unwrap(), 6);
        assert_eq!(FileStorage.list(dir.path()).unwrap(), ["a"]);
    }

    #[test]
    fn identity_follows_the_file_and_not_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let file = FileStorage.create(&path, 0).unwrap();
        assert_eq!(FileStorage.identity(&path).unwrap(), file.identity().unwrap());
        FileStorage.rename(&path, &dir.path().join("b")).unwrap();
        assert_eq!(FileStorage.identity(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let other = FileStorage.create(&path, 0).unwrap();
        assert_ne!(FileStorage.identity(&path).unwrap(), file.identity().unwrap());
        assert_eq!(FileStorage.identity(&path).unwrap(), other.identity().unwrap());
    }

    #[test]
    fn a_lock_reports_where_its_directory_was_moved() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&path).unwrap();
        let lock = FileStorage.lock_dir(&path).unwrap();
        assert_eq!(lock.path().as_ref(), Some(&path));
        std::fs::rename(&path, &moved).unwrap();
        assert_eq!(lock.path().as_ref(), Some(&moved));
        std::fs::remove_dir(&moved).unwrap();
        assert_eq!(lock.path(), None);
    }

    #[test]
    fn a_volume_reports_its_space() {
        let dir = tempfile::tempdir().unwrap();
        let space = FileStorage.space(dir.path()).unwrap();
        assert!(space.total_bytes >= space.available_bytes && space.total_bytes > 0);
        assert_eq!(FileStorage.space(&dir.path().join("missing")), None);
    }

    #[test]
    fn a_directory_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let lock = FileStorage.lock_dir(dir.path()).unwrap();
        assert_eq!(FileStorage.lock_dir(dir.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        FileStorage.lock_dir(dir.path()).unwrap();
    }
}
