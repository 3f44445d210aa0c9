//! How much memory the bodies of all requests in progress take.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// All bodies that are being read or worked on take no more than this, unless there is only one. A body that came in
/// one piece does not count: it lies in its connection's buffer.
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
    /// Takes `bytes` more for a body that has `own` already. False if there are too many.
    pub(super) fn take(&self, bytes: usize, own: usize) -> bool {
        let before = self.taken.fetch_add(bytes, Relaxed);
        let is_alone = before <= own;
        if before + bytes <= self.max || is_alone {
            return true;
        }
        self.taken.fetch_sub(bytes, Relaxed);
        false
    }

    /// Gives bytes back.
    pub(super) fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_together_have_a_limit() {
        let memory = BodyMemory { max: 100, ..BodyMemory::default() };
        assert!(memory.take(60, 0));
        assert!(memory.take(40, 0));
        assert!(!memory.take(1, 40) && !memory.take(1, 60));
        memory.give_back(60);
        assert!(memory.take(200, 40), "one alone may be as long as its own limit allows");
        assert!(!memory.take(1, 0));
        memory.give_back(240);
        assert_eq!(memory.taken.load(Relaxed), 0);
    }
}
