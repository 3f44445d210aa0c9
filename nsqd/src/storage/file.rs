//! Real files.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use rustix::fs::{Access, FallocateFlags, FlockOperation};

use super::{DirLock, Storage, StorageFile};

/// The file system as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileStorage;

/// Queues hold what others must not read, so files are the owner's alone, as NSQ's are.
const FILE_MODE: u32 = 0o600;

/// The system takes no more slices in one call.
const MAX_SLICES: usize = 1024;

impl Storage for FileStorage {
    fn create(&self, path: &Path, preallocate_bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path)?;
        if preallocate_bytes > 0
            && let Err(error) = preallocate(&file, preallocate_bytes)
        {
            // A half made file would be in the way of the next attempt. If it cannot be removed
            // either, the first error says more.
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
            // None of our names are anything but ASCII: what is not UTF-8 is not ours.
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

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<DirLock> {
        let file = File::open(dir)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(DirLock::new(file))
    }

    fn check_writable(&self, dir: &Path) -> io::Result<()> {
        Ok(rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK)?)
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

/// A file of the file system.
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
        // One call takes nearly always all; the rest, if any, goes buffer by buffer.
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
    fn a_directory_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let lock = FileStorage.lock_dir(dir.path()).unwrap();
        assert_eq!(FileStorage.lock_dir(dir.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        FileStorage.lock_dir(dir.path()).unwrap();
    }
}
