//! Keeps to one data directory: creates, renames and removes nothing in another one.
//!
//! While nsqd runs, someone may remove its directory, move it, or mount something over it. Open files still work,
//! but they have lost their names, and new files would be created where the next start does not look, or among
//! other files. So each change of names first checks that the path still leads to the locked directory.
//!
//! A stop that has messages to store may follow a moved directory, or create a new one in its place.

use std::{
    borrow::Cow,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{DirLock, Identity, Space, Storage, StorageFile, SyncError};

/// See the module.
pub struct Anchored {
    inner: Arc<dyn Storage>,
    /// Path of the data directory as callers use it.
    root: PathBuf,
    home: Mutex<Home>,
}

struct Home {
    /// Current path of the directory.
    path: PathBuf,
    identity: Identity,
    /// The lock on the directory that replaced the first one.
    _lock: Option<DirLock>,
}

impl Anchored {
    /// Keeps to the directory that is at `root` now.
    pub fn new(inner: Arc<dyn Storage>, root: &Path) -> io::Result<Self> {
        let identity = inner.identity(root)?;
        let home = Mutex::new(Home { path: root.to_owned(), identity, _lock: None });
        Ok(Self { inner, root: root.to_owned(), home })
    }

    /// See [`Storage::check_home`].
    pub fn check(&self) -> io::Result<()> {
        self.check_home()
    }

    /// The directory was moved to `path`: uses that path from now on. Fails with `NotFound` if it is not there.
    pub fn follow(&self, path: &Path) -> io::Result<()> {
        let mut home = self.home.lock();
        if self.inner.identity(path)? != home.identity {
            let text = format!("data directory {} is not at {}", self.root.display(), path.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        path.clone_into(&mut home.path);
        self.inner.moved(&self.root, path);
        Ok(())
    }

    /// Replaces a directory that no longer exists: creates a new one, or uses the one that is now at its path if that
    /// is empty. Fails with `DirectoryNotEmpty` otherwise.
    pub fn replace_missing_dir(&self) -> io::Result<()> {
        let mut home = self.home.lock();
        self.inner.create_dir_all(&self.root)?;
        let lock = self.inner.lock_dir(&self.root)?;
        if !self.inner.list(&self.root)?.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::DirectoryNotEmpty,
                "another directory that is not empty is in its place",
            ));
        }
        let identity = self.inner.identity(&self.root)?;
        *home = Home { path: self.root.clone(), identity, _lock: Some(lock) };
        Ok(())
    }

    fn at<'p>(&self, path: &'p Path) -> Cow<'p, Path> {
        let home = self.home.lock();
        match path.strip_prefix(&self.root) {
            Ok(rest) if home.path != self.root => Cow::Owned(home.path.join(rest)),
            _ => Cow::Borrowed(path),
        }
    }

    /// Resolves a path for a change. Fails as [`Storage::check_home`].
    fn to_change<'p>(&self, path: &'p Path) -> io::Result<Cow<'p, Path>> {
        self.check_home()?;
        Ok(self.at(path))
    }
}

impl Storage for Anchored {
    fn create(&self, path: &Path, preallocate_bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        self.inner.create(&self.to_change(path)?, preallocate_bytes)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.inner.open(&self.at(path))
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir_all(&self.to_change(dir)?)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(&self.at(dir))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(&self.to_change(path)?)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(&self.to_change(dir)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let from = self.to_change(from)?;
        self.inner.rename(&from, &self.at(to))
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), SyncError> {
        self.inner.sync_dir(&self.at(dir))
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        self.inner.identity(&self.at(path))
    }

    fn space(&self, dir: &Path) -> Option<Space> {
        self.inner.space(&self.at(dir))
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<DirLock> {
        self.inner.lock_dir(&self.at(dir))
    }

    fn check_writable(&self, dir: &Path) -> io::Result<()> {
        self.inner.check_writable(&self.at(dir))
    }

    fn forget(&self, path: &Path) {
        self.inner.forget(&self.at(path));
    }

    fn check_home(&self) -> io::Result<()> {
        let home = self.home.lock();
        let what = match self.inner.identity(&home.path) {
            Ok(found) if found == home.identity => return Ok(()),
            Ok(_) => "is not the directory that nsqd has locked".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => "was removed or moved".to_owned(),
            Err(error) => format!("cannot be accessed: {error}"),
        };
        // Not `NotFound`, which callers often treat as "already removed".
        Err(io::Error::other(format!(
            "data directory {} {what}; put it back, or stop nsqd: the stop stores what is in memory",
            home.path.display()
        )))
    }
}

impl fmt::Debug for Anchored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Anchored").field("root", &self.root).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faulty::FaultyStorage;

    const ROOT: &str = "/data";

    fn anchored() -> (FaultyStorage, Anchored) {
        let disk = FaultyStorage::default();
        disk.create_dir_all(Path::new(ROOT)).unwrap();
        let anchored = Anchored::new(Arc::new(disk.clone()), Path::new(ROOT)).unwrap();
        anchored.create(Path::new("/data/a"), 0).unwrap().write_all_at(b"abc", 0).unwrap();
        (disk, anchored)
    }

    /// Changes by name fail.
    fn expect_changes_refused(anchored: &Anchored, reason: &str) {
        let path = Path::new("/data/a");
        let error = anchored.check_home().unwrap_err().to_string();
        assert!(error.starts_with(&format!("data directory /data {reason}")), "{error}");
        assert!(anchored.create(Path::new("/data/b"), 0).is_err());
        assert!(anchored.create_dir_all(Path::new("/data/topics")).is_err());
        let errors =
            [anchored.remove(path), anchored.rename(path, path), anchored.remove_dir_all(Path::new(ROOT))];
        for error in errors {
            assert_eq!(error.unwrap_err().kind(), io::ErrorKind::Other, "must not look like a removed file");
        }
    }

    #[test]
    fn nothing_is_created_where_the_directory_was_removed() {
        let (disk, anchored) = anchored();
        anchored.check_home().unwrap();
        disk.vanish(Path::new(ROOT));
        expect_changes_refused(&anchored, "was removed or moved");
        assert!(!disk.disk().has_dir(Path::new(ROOT)));
    }

    #[test]
    fn nothing_is_changed_in_another_directory() {
        let (disk, anchored) = anchored();
        disk.move_away(Path::new(ROOT), Path::new("/elsewhere"));
        disk.create_dir_all(Path::new(ROOT)).unwrap();
        disk.create(Path::new("/data/a"), 0).unwrap();
        expect_changes_refused(&anchored, "is not the directory that nsqd has locked");
        assert_eq!(disk.paths(), [Path::new("/data/a"), Path::new("/elsewhere/a")]);
        assert_eq!(anchored.replace_missing_dir().unwrap_err().kind(), io::ErrorKind::DirectoryNotEmpty);
        disk.vanish(Path::new(ROOT));
        disk.move_away(Path::new("/elsewhere"), Path::new(ROOT));
        anchored.check_home().unwrap();
        anchored.create(Path::new("/data/b"), 0).unwrap();
    }

    #[test]
    fn a_moved_directory_can_be_followed() {
        let (disk, anchored) = anchored();
        disk.move_away(Path::new(ROOT), Path::new("/elsewhere"));
        assert!(anchored.follow(Path::new("/data")).is_err());
        anchored.follow(Path::new("/elsewhere")).unwrap();
        anchored.check_home().unwrap();
        anchored.create(Path::new("/data/b"), 0).unwrap();
        anchored.rename(Path::new("/data/a"), Path::new("/data/c")).unwrap();
        assert_eq!(disk.paths(), [Path::new("/elsewhere/b"), Path::new("/elsewhere/c")]);
        assert_eq!(anchored.list(Path::new(ROOT)).unwrap().len(), 2);
    }

    #[test]
    fn a_removed_directory_can_be_replaced() {
        let (disk, anchored) = anchored();
        disk.vanish(Path::new(ROOT));
        anchored.replace_missing_dir().unwrap();
        anchored.check_home().unwrap();
        anchored.create(Path::new("/data/b"), 0).unwrap();
        assert_eq!(disk.paths(), [Path::new("/data/b")]);
        assert!(disk.lock_dir(Path::new(ROOT)).is_err(), "it is locked");
    }
}
