//! When files that change are worth reading.
//!
//! Nobody replaces several files at once, nor writes one in a moment. So they are read when they differ from what was
//! read last, and have stood still since the look before.

use std::fs::Metadata;
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
}

impl Watch {
    /// The files were read as they are.
    pub fn new(fingerprint: Fingerprint) -> Self {
        Self { last_seen: fingerprint.clone(), read: fingerprint }
    }

    /// The files are read now.
    pub fn seen(&mut self, fingerprint: Fingerprint) {
        *self = Self::new(fingerprint);
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
}
