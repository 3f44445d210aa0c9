//! Files and folders: locks, durable names, moves that overwrite nothing. Blocking.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, ErrorKind};
use std::ops::Deref;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// A file that no other process writes.
#[derive(Debug)]
pub struct LockedFile(File);

impl LockedFile {
    /// Locks a file; `None` if another process has it.
    pub fn lock(file: File) -> io::Result<Option<Self>> {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(LockedFile(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            // Some network file systems have no locks. Then the names must differ, as with NSQ.
            Err(rustix::io::Errno::NOLCK | rustix::io::Errno::NOTSUP) => Ok(Some(LockedFile(file))),
            Err(error) => Err(error.into()),
        }
    }
}

impl Deref for LockedFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // Closing is not enough while a command starts: until its exec, the new process has the file too.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

pub fn create_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.is_dir() => DirBuilder::new().recursive(true).mode(0o770).create(folder),
        _ => Ok(()),
    }
}

/// Makes a new or moved name durable.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Fails with `AlreadyExists` if the target exists.
pub fn move_without_overwriting(source: &Path, target: &Path) -> io::Result<()> {
    match fs::hard_link(source, target) {
        Ok(()) => {}
        Err(error)
            if error.kind() == ErrorKind::CrossesDevices || error.kind() == ErrorKind::PermissionDenied =>
        {
            copy_without_overwriting(source, target)?;
        }
        Err(error) => return Err(error),
    }
    sync_parent(target)?;
    fs::remove_file(source)?;
    sync_parent(source)
}

/// For folders on different file systems: the target appears only when it is complete.
fn copy_without_overwriting(source: &Path, target: &Path) -> io::Result<()> {
    let mut name = target.as_os_str().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(name);
    let copied = (|| {
        let mut to = File::create(&part)?;
        io::copy(&mut File::open(source)?, &mut to)?;
        to.sync_all()?;
        fs::hard_link(&part, target)
    })();
    let removed = fs::remove_file(&part);
    copied.and(removed)
}

/// Calls `found` with each file at this depth: its path relative to `root`, its path, and its metadata. Skips files that
/// disappear meanwhile.
pub fn collect(
    root: &Path,
    folder: &Path,
    depth: usize,
    found: &mut impl FnMut(&Path, PathBuf, Metadata) -> io::Result<()>,
) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if depth > 0 && kind.is_dir() {
            collect(root, &entry.path(), depth - 1, found)?;
        } else if depth == 0 && kind.is_file() {
            let path = entry.path();
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            found(path.strip_prefix(root).unwrap_or(&path), path.clone(), metadata)?;
        }
    }
    Ok(())
}
