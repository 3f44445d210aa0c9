//! A directory that gets its name only when it is complete.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::sink::not_written;
use crate::exit_status::Failure;

/// A directory that is being written. Dropping it before it is complete deletes it.
#[derive(Debug)]
pub(super) struct Target {
    path: PathBuf,
    aside: PathBuf,
    is_complete: bool,
}

impl Target {
    /// Creates the directory under a temporary name. The final name must be free, or an empty directory.
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let unusable = |what: &str| {
            Err(Failure::usage(format_args!("{} {what}", path.display()))
                .hint("choose a directory that does not exist"))
        };
        match fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
            Ok(true) => return unusable("is not empty"),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return unusable("is not a directory");
            }
            Err(error) => return Err(not_written(path, error)),
        }
        let Some(name) = path.file_name() else { return unusable("is not a valid directory name") };
        let mut aside_name = OsString::from(name);
        aside_name.push(".partial");
        let aside = path.with_file_name(aside_name);
        if let Err(error) = fs::create_dir(&aside) {
            let failure = not_written(&aside, error);
            return Err(failure.hint("if an earlier export was interrupted, delete this directory"));
        }
        Ok(Target { path: path.to_owned(), aside, is_complete: false })
    }

    /// The temporary path, to which the files are written.
    pub(super) fn aside(&self) -> &Path {
        &self.aside
    }

    /// Syncs all files, then gives the directory its final name.
    pub(super) fn complete(mut self) -> Result<(), Failure> {
        let sync = || -> io::Result<()> {
            for entry in fs::read_dir(&self.aside)? {
                File::open(entry?.path())?.sync_all()?;
            }
            File::open(&self.aside)?.sync_all()?;
            fs::rename(&self.aside, &self.path)
        };
        sync().map_err(|error| not_written(&self.path, error))?;
        self.is_complete = true;
        // Sync the name, too. If a power failure loses it nevertheless, the export has not failed.
        if let Some(parent) = self.path.parent() {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let _ = File::open(parent).and_then(|parent| parent.sync_all());
        }
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.is_complete {
            // Another failure is already being reported.
            let _ = fs::remove_dir_all(&self.aside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_exists_only_when_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let target = Target::create(&path).unwrap();
        fs::write(target.aside().join("a"), "x").unwrap();
        assert!(!path.exists());
        assert!(Target::create(&path).is_err(), "one at a time");
        drop(target);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        fs::create_dir(&path).unwrap();
        let target = Target::create(&path).unwrap();
        fs::write(target.aside().join("a"), "x").unwrap();
        target.complete().unwrap();
        assert_eq!(fs::read(path.join("a")).unwrap(), b"x");
        assert_eq!(Target::create(&path).unwrap_err().status, crate::exit_status::ExitStatus::Usage);
        assert!(Target::create(&path.join("a")).is_err());
    }
}
