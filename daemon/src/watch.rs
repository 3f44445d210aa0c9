//! Decides when to reread files that change.
//!
//! An operator replaces several files one after the other, and writing a file takes time. So files are due when they
//! differ from the last state that was read and have not changed since the previous check.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Identifies one state of a set of files: inode, size and modification time of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fingerprint(Vec<Option<(u64, u64, i64, i64)>>);

impl Fingerprint {
    /// The current state of the files. A missing file is a state as well.
    pub async fn of(paths: impl IntoIterator<Item = &Path>) -> Self {
        let mut fingerprint = Self::default();
        for path in paths {
            fingerprint.add(tokio::fs::metadata(path).await.ok().as_ref());
        }
        fingerprint
    }

    fn add(&mut self, file: Option<&Metadata>) {
        self.0.push(file.map(|file| (file.ino(), file.len(), file.mtime(), file.mtime_nsec())));
    }
}

/// See the module.
#[derive(Debug)]
pub struct Watch {
    read: Fingerprint,
    last_seen: Fingerprint,
    is_unreadable: bool,
}

impl Watch {
    /// Starts with files that have been read in this state.
    pub fn new(fingerprint: Fingerprint) -> Self {
        Self { last_seen: fingerprint.clone(), read: fingerprint, is_unreadable: false }
    }

    /// Records that the files are being read in this state.
    pub fn seen(&mut self, fingerprint: Fingerprint) {
        self.last_seen.clone_from(&fingerprint);
        self.read = fingerprint;
    }

    /// Records the result of reading, as far as I/O is concerned. Files that exist but could not be read are due again
    /// even if they do not change: too many files may be open for now. Returns whether the result is worth a log line.
    pub fn outcome(&mut self, error: Option<&io::Error>) -> bool {
        let was_unreadable = self.is_unreadable;
        self.is_unreadable = error.is_some_and(|error| error.kind() != io::ErrorKind::NotFound);
        if self.is_unreadable {
            self.read = Fingerprint::default();
        }
        !(was_unreadable && self.is_unreadable)
    }

    /// Checks the current state and returns whether to read the files.
    pub fn observe(&mut self, fingerprint: Fingerprint) -> bool {
        let is_due = fingerprint != self.read && fingerprint == self.last_seen;
        self.last_seen = fingerprint;
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(size: u64) -> Fingerprint {
        Fingerprint(vec![Some((1, size, 0, 0)), None])
    }

    #[test]
    fn files_are_due_once_they_stop_changing() {
        let mut watch = Watch::new(state(1));
        assert!(!watch.observe(state(1)));
        assert!(!watch.observe(state(2)), "just changed");
        assert!(!watch.observe(state(3)), "still changing");
        assert!(watch.observe(state(3)));
        watch.seen(state(3));
        assert!(!watch.observe(state(3)));
        assert!(!watch.observe(state(1)));
        assert!(!watch.observe(state(3)), "back to the state that was read");
    }

    #[test]
    fn unreadable_files_are_retried() {
        let mut watch = Watch::new(state(1));
        watch.observe(state(2));
        assert!(watch.observe(state(2)));
        let too_many_files = rustix::io::Errno::MFILE.into();
        for is_worth_logging in [true, false] {
            watch.seen(state(2));
            assert_eq!(watch.outcome(Some(&too_many_files)), is_worth_logging);
            assert!(watch.observe(state(2)), "due again");
        }
        watch.seen(state(2));
        assert!(watch.outcome(None));
        assert!(!watch.observe(state(2)));
        assert!(watch.outcome(Some(&io::ErrorKind::NotFound.into())));
        assert!(!watch.observe(state(2)), "a missing file is due only when it appears");
    }
}
