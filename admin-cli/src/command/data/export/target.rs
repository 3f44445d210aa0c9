//! A directory that has its name only when it is complete.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::sink::not_written;
use crate::exit_status::Failure;

/// See the module. Dropped before it is complete, it is removed.
#[derive(Debug)]
pub(super) struct Target {
    path: PathBuf,
    aside: PathBuf,
    is_complete: bool,
}

impl Target {
    /// Begins a directory that must not exist yet, or be empty.
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let in_the_way = |what: &str| {
            Err(Failure::usage(format_args!("{} {what}", path.display()))
                .hint("name a directory that does not exist"))
        };
        match fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
            Ok(true) => return in_the_way("is not empty"),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return in_the_way("is not a directory");
            }
            Err(error) => return Err(not_written(path, error)),
        }
        let Some(name) = path.file_name() else { return in_the_way("is not a name for a directory") };
        let mut aside_name = OsString::from(name);
        aside_name.push(".partial");
        let aside = path.with_file_name(aside_name);
        if let Err(error) = fs::create_dir(&aside) {
            let failure = not_written(&aside, error);
            return Err(failure.hint("if an earlier export was interrupted, remove what it left"));
        }
        Ok(Target { path: path.to_owned(), aside, is_complete: false })
    }

    /// Where the files go meanwhile.
    pub(super) fn aside(&self) -> &Path {
        &self.aside
    }

    /// Everything is written: makes it last, then gives it its name.
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
        // The name, too. That it may be lost with a power failure is no reason to say that it is not there.
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
            // Another failure is on its way out already.
            let _ = fs::remove_dir_all(&self.aside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_there_when_it_is_complete() {
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
