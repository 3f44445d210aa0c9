//! What was found damaged, and reads that fail: counted, logged, and shown in the health.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nsq_daemon::log::Logger;
use parking_lot::Mutex;

/// See the module. Shared by all topics.
#[derive(Default)]
pub struct Damage {
    logger: Option<Logger>,
    damaged_blocks: AtomicU64,
    damaged_messages: AtomicU64,
    cut_bytes: AtomicU64,
    reads_fail: AtomicBool,
    read_error: Mutex<Option<String>>,
}

/// Counted since the start, what the start found included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DamageCounts {
    /// Stretches of the journal, blocks of segments and whole files that did not verify.
    pub damaged_blocks: u64,
    /// Messages that were needed and could not be read.
    pub damaged_messages: u64,
    /// Bytes of writes that a crash had torn, cut at start.
    pub cut_bytes: u64,
}

impl Damage {
    /// Reports to a log.
    pub fn new(logger: Logger) -> Self {
        Damage { logger: Some(logger), ..Damage::default() }
    }

    /// Something did not verify; `what` says what and where.
    pub fn found(&self, what: &str) {
        self.damaged_blocks.fetch_add(1, Ordering::Relaxed);
        self.error(what);
    }

    /// These messages of a topic are lost.
    pub fn lost(&self, topic: impl std::fmt::Display, from: u64, to: u64) {
        let count = to.saturating_sub(from);
        self.damaged_messages.fetch_add(count, Ordering::Relaxed);
        self.error(&format!("TOPIC({topic}): {count} messages are lost: {from} to {}", to.saturating_sub(1)));
    }

    /// These messages of a topic are needed, as far as is known, and stand nowhere. Nothing that was found says why: a crash
    /// may have forgotten that they were finished, when their file had gone for it; or the file went by other hands.
    pub fn absent(&self, topic: impl std::fmt::Display, from: u64, to: u64) {
        if let Some(logger) = &self.logger {
            let last = to.saturating_sub(1);
            nsq_daemon::warn!(
                logger,
                "TOPIC({topic}): messages {from} to {last} stand nowhere: finished just before a crash, or their file is gone"
            );
        }
    }

    /// Bytes of a torn write were cut.
    pub fn cut(&self, bytes: u64) {
        self.cut_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The system could not read a block. It is tried again.
    pub fn read_failed(&self, error: &str) {
        let mut known = self.read_error.lock();
        if known.as_deref() != Some(error) {
            self.error(&format!("{error}; it is tried again"));
            *known = Some(error.to_owned());
        }
        self.reads_fail.store(true, Ordering::Release);
    }

    /// A block was read.
    pub fn read_worked(&self) {
        if self.reads_fail.load(Ordering::Acquire) {
            *self.read_error.lock() = None;
            self.reads_fail.store(false, Ordering::Release);
        }
    }

    /// Why blocks cannot be read, if that is so.
    pub fn health(&self) -> Result<(), String> {
        self.read_error.lock().clone().map_or(Ok(()), Err)
    }

    /// What was counted.
    pub fn counts(&self) -> DamageCounts {
        DamageCounts {
            damaged_blocks: self.damaged_blocks.load(Ordering::Relaxed),
            damaged_messages: self.damaged_messages.load(Ordering::Relaxed),
            cut_bytes: self.cut_bytes.load(Ordering::Relaxed),
        }
    }

    fn error(&self, text: &str) {
        if let Some(logger) = &self.logger {
            nsq_daemon::error!(logger, "{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_forgets_a_read_error_when_a_read_works() {
        let damage = Damage::default();
        damage.found("a block");
        damage.lost("t", 5, 8);
        damage.cut(7);
        let counts = DamageCounts { damaged_blocks: 1, damaged_messages: 3, cut_bytes: 7 };
        assert_eq!(damage.counts(), counts);
        assert_eq!(damage.health(), Ok(()));
        damage.read_failed("cannot read x");
        assert_eq!(damage.health(), Err("cannot read x".to_owned()));
        damage.read_worked();
        assert_eq!(damage.health(), Ok(()));
    }
}
