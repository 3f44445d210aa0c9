//! The memory used by the bodies of all requests in progress.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Limit for all bodies that are being read or processed; a single body alone may exceed it. A body that arrived in one
/// piece does not count: it is still in its connection's buffer.
const MAX_BYTES: usize = 256 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct BodyMemory {
    taken: AtomicUsize,
    max: usize,
}

impl Default for BodyMemory {
    fn default() -> Self {
        Self { taken: AtomicUsize::new(0), max: MAX_BYTES }
    }
}

impl BodyMemory {
    /// Reserves `bytes` more for a body that already has `own`. Returns false if the limit would be exceeded.
    pub(super) fn take(&self, bytes: usize, own: usize) -> bool {
        let before = self.taken.fetch_add(bytes, Relaxed);
        let is_alone = before <= own;
        if before + bytes <= self.max || is_alone {
            return true;
        }
        self.taken.fetch_sub(bytes, Relaxed);
        false
    }

    /// Releases bytes.
    pub(super) fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bodies_share_one_limit() {
        let memory = BodyMemory { max: 100, ..BodyMemory::default() };
        assert!(memory.take(60, 0));
        assert!(memory.take(40, 0));
        assert!(!memory.take(1, 40) && !memory.take(1, 60));
        memory.give_back(60);
        assert!(memory.take(200, 40), "a single body was refused");
        assert!(!memory.take(1, 0));
        memory.give_back(240);
        assert_eq!(memory.taken.load(Relaxed), 0);
    }
}
