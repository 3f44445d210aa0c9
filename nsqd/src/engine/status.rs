//! Pure: whether a node serves its clients: what fails, whether it drains, and whether it is about to stop.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use parking_lot::Mutex;

use super::draining::Draining;
use crate::health::{Health, Part, Unhealthy};

/// The data directory is missing.
const DATA_DIR_MISSING: u8 = 1;
/// The node drains.
const DRAINING: u8 = 2;

/// See the module.
#[derive(Debug, Default)]
pub struct NodeStatus {
    health: Mutex<Health>,
    /// Why publishes may be refused, as bits: a publish looks at all reasons at once.
    refusals: AtomicU8,
    draining: Mutex<Option<Draining>>,
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
        self.set_refusal(DATA_DIR_MISSING, missing);
    }

    fn set_refusal(&self, reason: u8, is_on: bool) {
        match is_on {
            true => self.refusals.fetch_or(reason, Ordering::AcqRel),
            false => self.refusals.fetch_and(!reason, Ordering::AcqRel),
        };
    }

    /// Whether some or all publishes are refused: the data directory is missing, or the node drains.
    #[inline]
    pub fn may_refuse_publishes(&self) -> bool {
        self.refusals.load(Ordering::Relaxed) != 0
    }

    /// Whether the data directory is missing, so that a publish could not be stored.
    pub fn is_data_dir_missing(&self) -> bool {
        self.refusals.load(Ordering::Relaxed) & DATA_DIR_MISSING != 0
    }

    /// Begins a drain, or replaces the one that is under way: from now on, publishes and new topics and channels are
    /// refused.
    pub fn begin_drain(&self, begin: impl FnOnce(Option<&Draining>) -> Draining) {
        let mut draining = self.draining.lock();
        *draining = Some(begin(draining.as_ref()));
        self.set_refusal(DRAINING, true);
    }

    /// Ends a drain. Returns whether there was one.
    pub fn end_drain(&self) -> bool {
        let mut draining = self.draining.lock();
        self.set_refusal(DRAINING, false);
        draining.take().is_some()
    }

    /// Whether the node drains.
    pub fn is_draining(&self) -> bool {
        self.refusals.load(Ordering::Acquire) & DRAINING != 0
    }

    /// Runs `change` on the drain that is under way, if there is one.
    pub fn with_drain<T>(&self, change: impl FnOnce(&mut Draining) -> T) -> Option<T> {
        self.draining.lock().as_mut().map(change)
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
