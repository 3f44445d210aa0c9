//! Who still needs messages. The log asks with numbers and does not know what a channel is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Somebody who needs messages of a log. What is once not needed never is again, unless the log keeps it though
/// finished.
pub trait Holder: Send + Sync {
    /// Nothing below this number is needed. Cheap: asked after every batch of acknowledgements.
    fn floor(&self) -> u64;
    /// The needed messages of `from..to`, at most `limit`, in order.
    fn needed(&self, from: u64, to: u64, limit: usize) -> Vec<u64>;
}

/// A number below which nothing is needed, and above which everything is: a release point.
pub type Floor = Arc<AtomicU64>;

impl Holder for AtomicU64 {
    fn floor(&self) -> u64 {
        self.load(Ordering::Acquire)
    }

    fn needed(&self, from: u64, to: u64, limit: usize) -> Vec<u64> {
        (from.max(self.floor())..to).take(limit).collect()
    }
}

/// All holders of one log. One that is dropped needs nothing.
#[derive(Default)]
pub struct Holders(Mutex<Vec<Weak<dyn Holder>>>);

impl Holders {
    /// From now on this one is asked.
    pub fn add(&self, holder: Weak<dyn Holder>) {
        self.0.lock().push(holder);
    }

    /// The lowest of all floors.
    pub fn floor(&self) -> u64 {
        self.alive().iter().map(|holder| holder.floor()).min().unwrap_or(0)
    }

    /// Whether anybody needs any message of `from..to`.
    pub fn need_any(&self, from: u64, to: u64) -> bool {
        self.alive().iter().any(|holder| holder.floor() < to && !holder.needed(from, to, 1).is_empty())
    }

    /// The messages of `from..to` that anybody needs, in order; none if there are more than `limit`.
    pub fn survivors(&self, from: u64, to: u64, limit: usize) -> Option<Vec<u64>> {
        let mut all = Vec::new();
        for holder in self.alive() {
            all.extend(holder.needed(from, to, limit + 1));
            all.sort_unstable();
            all.dedup();
            if all.len() > limit {
                return None;
            }
        }
        Some(all)
    }

    /// Asked without the lock of the list: an answer may take the holder's own.
    fn alive(&self) -> Vec<Arc<dyn Holder>> {
        let mut holders = self.0.lock();
        holders.retain(|holder| holder.strong_count() > 0);
        holders.iter().filter_map(Weak::upgrade).collect()
    }
}
