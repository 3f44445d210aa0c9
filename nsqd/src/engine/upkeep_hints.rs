//! Pure: what upkeep may skip. A hint may say that there is work although there is none, never the opposite.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::storage::TopicNumber;

/// See the module.
#[derive(Debug)]
pub struct UpkeepHints {
    has_segments: AtomicBool,
    clean_from: AtomicU32,
    retains: AtomicBool,
    expires: AtomicBool,
    watches_channels: AtomicBool,
    remembers_ids: AtomicBool,
}

impl Default for UpkeepHints {
    fn default() -> Self {
        UpkeepHints {
            has_segments: AtomicBool::new(true),
            clean_from: AtomicU32::new(0),
            retains: AtomicBool::new(false),
            expires: AtomicBool::new(false),
            watches_channels: AtomicBool::new(false),
            remembers_ids: AtomicBool::new(false),
        }
    }
}

impl UpkeepHints {
    /// Sets whether any topic has segments, so that there may be something to clean.
    pub fn set_has_segments(&self, has_segments: bool) {
        self.has_segments.store(has_segments, Ordering::Relaxed);
    }

    /// Whether any topic may have segments.
    pub fn has_segments(&self) -> bool {
        self.has_segments.load(Ordering::Relaxed)
    }

    /// The topic with which cleaning starts.
    pub fn clean_from(&self) -> TopicNumber {
        TopicNumber(self.clean_from.load(Ordering::Relaxed))
    }

    /// Records that cleaning did not reach this topic.
    pub fn set_clean_from(&self, topic: TopicNumber) {
        self.clean_from.store(topic.0, Ordering::Relaxed);
    }

    /// Records that a channel expires messages.
    pub fn set_expires(&self) {
        self.expires.store(true, Ordering::Relaxed);
    }

    /// Whether any channel has ever expired messages.
    pub fn expires(&self) -> bool {
        self.expires.load(Ordering::Relaxed)
    }

    /// Records that a channel drops messages beyond a bound, or ends without consumers.
    pub fn set_watches_channels(&self) {
        self.watches_channels.store(true, Ordering::Relaxed);
    }

    /// Whether any channel has ever done so.
    pub fn watches_channels(&self) -> bool {
        self.watches_channels.load(Ordering::Relaxed)
    }

    /// Records that a topic retains finished messages.
    pub fn set_retains(&self) {
        self.retains.store(true, Ordering::Relaxed);
    }

    /// Records that a topic remembers ids of messages.
    pub fn set_remembers_ids(&self) {
        self.remembers_ids.store(true, Ordering::Relaxed);
    }

    /// Whether any topic has ever remembered ids of messages.
    pub fn remembers_ids(&self) -> bool {
        self.remembers_ids.load(Ordering::Relaxed)
    }

    /// Whether any topic has ever retained finished messages.
    pub fn retains(&self) -> bool {
        self.retains.load(Ordering::Relaxed)
    }
}
