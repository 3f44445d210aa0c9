//! Who still needs messages. The log asks with numbers and does not know what a channel is.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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
pub struct Holders {
    all: Mutex<Vec<Weak<dyn Holder>>>,
    witness: Witness,
}

/// A holder that was found to need old messages. While it does, nobody else need be asked: of thousands of channels, each
/// that finishes a message asks whether it was the last.
#[derive(Default)]
struct Witness {
    holder: Mutex<Option<Weak<dyn Holder>>>,
    /// Which of them is the next witness: any, so that about half of the others finish before it, in whatever order.
    choice: AtomicUsize,
}

impl Holders {
    /// From now on this one is asked.
    pub fn add(&self, holder: Weak<dyn Holder>) {
        let mut holders = self.all.lock();
        if holders.len() == holders.capacity() {
            holders.retain(|holder| holder.strong_count() > 0);
        }
        holders.push(holder);
    }

    /// Whether anybody needs a message before `sequence`. Nearly always asks one holder only.
    pub fn need_before(&self, sequence: u64) -> bool {
        let needs =
            |holder: &Weak<dyn Holder>| holder.upgrade().is_some_and(|holder| holder.floor() < sequence);
        let mut witness = self.witness.holder.lock();
        if witness.as_ref().is_some_and(needs) {
            return true;
        }
        let holders = self.all.lock();
        let needing: Vec<_> = holders.iter().filter(|holder| needs(holder)).collect();
        let choice = self.witness.choice.fetch_add(ANOTHER, Ordering::Relaxed) >> 8;
        *witness = needing.get(choice % needing.len().max(1)).map(|holder| Weak::clone(holder));
        witness.is_some()
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

    /// Whether more than one channel reads, as far as that can be told: each is a holder, and so is the release point.
    pub fn are_several_channels(&self) -> bool {
        self.all.lock().len() > 2
    }

    /// Asked without the lock of the list: an answer may take the holder's own.
    fn alive(&self) -> Vec<Arc<dyn Holder>> {
        let mut holders = self.all.lock();
        holders.retain(|holder| holder.strong_count() > 0);
        holders.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Added to a choice to make another: a large number without small factors.
const ANOTHER: usize = 2_654_435_769;

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts how often it is asked.
    struct Asked {
        floor: AtomicU64,
        times: AtomicUsize,
    }

    impl Holder for Asked {
        fn floor(&self) -> u64 {
            self.times.fetch_add(1, Ordering::Relaxed);
            self.floor.load(Ordering::Relaxed)
        }

        fn needed(&self, from: u64, to: u64, limit: usize) -> Vec<u64> {
            (from..to).take(limit).collect()
        }
    }

    #[test]
    fn that_each_of_many_finishes_asks_few_of_them() {
        const COUNT: u64 = 2_000;
        let holders = Holders::default();
        let all: Vec<Arc<Asked>> = (0..COUNT)
            .map(|_| Arc::new(Asked { floor: AtomicU64::new(0), times: AtomicUsize::new(0) }))
            .collect();
        for holder in &all {
            let holder: Weak<Asked> = Arc::downgrade(holder);
            holders.add(holder);
        }
        for message in 1..=3 {
            let in_order: Box<dyn Iterator<Item = &Arc<Asked>>> =
                if message == 2 { Box::new(all.iter().rev()) } else { Box::new(all.iter()) };
            for (index, holder) in in_order.enumerate() {
                holder.floor.store(message, Ordering::Relaxed);
                assert_eq!(holders.need_before(message), index + 1 < all.len());
            }
        }
        let asked: usize = all.iter().map(|holder| holder.times.load(Ordering::Relaxed)).sum();
        assert!(asked < 3 * 40 * COUNT as usize, "asked {asked} times");
        drop(all);
        assert!(!holders.need_before(u64::MAX), "those that are gone need nothing");
    }
}
