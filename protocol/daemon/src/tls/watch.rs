//! Pure: when files that change are worth reading.
//!
//! A certificate and its key are two files, which nobody replaces at once. So they are read when they differ from
//! what was read last, and have stood still since the look before.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// What tells one state of some files from another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fingerprint(Vec<Option<(u64, u64, i64, i64)>>);

impl Fingerprint {
    /// Adds a file; none for one that is not there.
    pub(super) fn add(&mut self, file: Option<&Metadata>) {
        self.0.push(file.map(|file| (file.ino(), file.len(), file.mtime(), file.mtime_nsec())));
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watch {
    read: Fingerprint,
    last_seen: Fingerprint,
}

impl Watch {
    /// The files were read as they are.
    pub(super) fn new(fingerprint: Fingerprint) -> Self {
        Self { last_seen: fingerprint.clone(), read: fingerprint }
    }

    /// The files are read now.
    pub(super) fn seen(&mut self, fingerprint: Fingerprint) {
        *self = Self::new(fingerprint);
    }

    /// A look at the files: whether to read them.
    pub(super) fn observe(&mut self, fingerprint: Fingerprint) -> bool {
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
}
