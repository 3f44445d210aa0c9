//! When files that change are worth reading.
//!
//! Nobody replaces several files at once, nor writes one in a moment. So they are read when they differ from what was
//! read last, and have stood still since the look before.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What tells one state of some files from another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fingerprint(Vec<Option<(u64, u64, i64, i64)>>);

impl Fingerprint {
    /// Of files as they are now; one that is not there is a state, too.
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
    /// The files were read as they are.
    pub fn new(fingerprint: Fingerprint) -> Self {
        Self { last_seen: fingerprint.clone(), read: fingerprint, is_unreadable: false }
    }

    /// The files are read now.
    pub fn seen(&mut self, fingerprint: Fingerprint) {
        self.last_seen.clone_from(&fingerprint);
        self.read = fingerprint;
    }

    /// What came of it, as far as the system is concerned. Files that could not be read, though they are there, are due
    /// again although they have not changed: too many files may be open just now. Returns whether that is worth a log line.
    pub fn outcome(&mut self, error: Option<&io::Error>) -> bool {
        let was_unreadable = self.is_unreadable;
        self.is_unreadable = error.is_some_and(|error| error.kind() != io::ErrorKind::NotFound);
        if self.is_unreadable {
            self.read = Fingerprint::default();
        }
        !(was_unreadable && self.is_unreadable)
    }

    /// A look at the files: whether to read them.
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
    fn files_are_read_once_they_stand_still() {
        let mut watch = Watch::new(state(1));
        assert!(!watch.observe(state(1)));
        assert!(!watch.observe(state(2)), "just changed");
        assert!(!watch.observe(state(3)), "still changing");
        assert!(watch.observe(state(3)));
        watch.seen(state(3));
        assert!(!watch.observe(state(3)));
        assert!(!watch.observe(state(1)));
        assert!(!watch.observe(state(3)), "back to what was read");
    }

    #[test]
    fn files_that_cannot_be_read_just_now_are_tried_again() {
        let mut watch = Watch::new(state(1));
        watch.observe(state(2));
        assert!(watch.observe(state(2)));
        let too_many_files = rustix::io::Errno::MFILE.into();
        for is_news in [true, false] {
            watch.seen(state(2));
            assert_eq!(watch.outcome(Some(&too_many_files)), is_news);
            assert!(watch.observe(state(2)), "due again");
        }
        watch.seen(state(2));
        assert!(watch.outcome(None));
        assert!(!watch.observe(state(2)));
        assert!(watch.outcome(Some(&io::ErrorKind::NotFound.into())));
        assert!(!watch.observe(state(2)), "what is not there will be noticed when it comes");
    }
}
