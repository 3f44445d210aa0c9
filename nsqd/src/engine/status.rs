//! Pure: whether a node serves its clients: what fails, and whether it is about to stop.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::health::{Health, Part, Unhealthy};

/// See the module.
#[derive(Debug, Default)]
pub struct NodeStatus {
    health: Mutex<Health>,
    data_dir_missing: AtomicBool,
    leaving: AtomicBool,
    stopping: AtomicBool,
}

impl NodeStatus {
    /// Records a failure. Returns whether it is new.
    pub(super) fn failed(&self, part: Part, cause: &str) -> bool {
        self.health.lock().failed(part, cause)
    }

    /// Records that a part works (again). Returns whether it had failed.
    pub(super) fn works(&self, part: Part) -> bool {
        self.health.lock().works(part)
    }

    /// The failure to report; `None` if all parts work.
    pub(super) fn failure(&self) -> Option<Unhealthy> {
        self.health.lock().failure()
    }

    /// Records whether the data directory is missing from its place.
    pub fn set_data_dir_missing(&self, missing: bool) {
        self.data_dir_missing.store(missing, Ordering::Relaxed);
    }

    /// Whether the data directory is missing, so that a publish could not be stored.
    pub fn is_data_dir_missing(&self) -> bool {
        self.data_dir_missing.load(Ordering::Relaxed)
    }

    /// The daemon will stop soon. Everything still works, but new clients should stay away.
    pub fn set_leaving(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// The daemon stops: from now on, no topics are created.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}
