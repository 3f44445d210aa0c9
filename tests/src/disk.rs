//! Directories for tests: small or read-only ones, and fingerprints that detect any change.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An in-memory file system, mounted over a directory until dropped.
pub struct MemoryDisk {
    path: PathBuf,
}

impl MemoryDisk {
    /// Mounts one of `mebibytes`. Returns `None` if mounting is not permitted, with a message on stderr.
    pub fn mount(path: &Path, mebibytes: u32) -> Option<Self> {
        let options = format!("size={mebibytes}m,mode=0700");
        match mount(&["-t", "tmpfs", "-o", &options, "none"], path) {
            Ok(()) => Some(MemoryDisk { path: path.to_owned() }),
            Err(error) => {
                eprintln!("cannot mount a file system here: {error}");
                None
            }
        }
    }

    /// Makes it read-only.
    pub fn make_read_only(&self) {
        mount(&["-o", "remount,ro"], &self.path).expect("our own mount can be changed");
    }
}

impl Drop for MemoryDisk {
    fn drop(&mut self) {
        // Lazily, because a killed process may still hold files open.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn mount(words: &[&str], path: &Path) -> Result<(), String> {
    let output = Command::new("mount").args(words).arg(path).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Inode, modification time, mode and content of a file.
type Fingerprint = (u64, i64, i64, u32, Vec<u8>);

/// Fingerprints of all files and directories below `dir`.
pub fn fingerprint(dir: &Path) -> BTreeMap<PathBuf, Fingerprint> {
    fn collect(dir: &Path, found: &mut BTreeMap<PathBuf, Fingerprint>) {
        for entry in fs::read_dir(dir).expect("a data directory can be read").flatten() {
            let (path, about) = (entry.path(), entry.metadata().expect("the entry exists"));
            let content =
                if about.is_dir() { Vec::new() } else { fs::read(&path).expect("the file can be read") };
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
