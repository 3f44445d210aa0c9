//! Directories as a test needs them: small ones, read-only ones, and whether anything in one was touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in memory, mounted over a directory until it is dropped.
pub struct MemoryDisk {
    path: PathBuf,
}

impl MemoryDisk {
    /// Mounts one of `mebibytes`. None where that is not permitted, which is said on stderr.
    pub fn mount(path: &Path, mebibytes: u32) -> Option<Self> {
        let options = format!("size={mebibytes}m,mode=0700");
        match mount(&["-t", "tmpfs", "-o", &options, "none"], path) {
            Ok(()) => Some(MemoryDisk { path: path.to_owned() }),
            Err(error) => {
                eprintln!("no file system can be mounted here: {error}");
                None
            }
        }
    }

    /// From now on nothing can be written to it.
    pub fn make_read_only(&self) {
        mount(&["-o", "remount,ro"], &self.path).expect("our own mount can be changed");
    }
}

impl Drop for MemoryDisk {
    fn drop(&mut self) {
        // Lazily: a killed process may not have let go of its files yet.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn mount(words: &[&str], path: &Path) -> Result<(), String> {
    let output = Command::new("mount").args(words).arg(path).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// A file's identity, time of change, mode and content.
type Fingerprint = (u64, i64, i64, u32, Vec<u8>);

/// Everything about everything in a directory that anybody could change.
pub fn fingerprint(dir: &Path) -> BTreeMap<PathBuf, Fingerprint> {
    fn collect(dir: &Path, found: &mut BTreeMap<PathBuf, Fingerprint>) {
        for entry in fs::read_dir(dir).expect("a data directory can be read").flatten() {
            let (path, about) = (entry.path(), entry.metadata().expect("it is there"));
            let content = if about.is_dir() { Vec::new() } else { fs::read(&path).expect("it can be read") };
            if about.is_dir() {
                collect(&path, found);
            }
            found.insert(path, (about.ino(), about.mtime(), about.mtime_nsec(), about.mode(), content));
        }
    }
    let mut found = BTreeMap::new();
    collect(dir, &mut found);
    found
}
