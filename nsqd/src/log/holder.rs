//! Holders: who still needs which messages. The log asks by sequence number and does not know channels.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::retention::merged;
use crate::storage::SequenceRange;

/// Sequence numbers, in order and without overlaps.
pub type Ranges = Vec<SequenceRange>;

/// Needs messages of a log. Once a holder does not need a message, it never needs it again, unless the log retains the
/// message.
pub trait Holder: Send + Sync {
    /// No message before this number is needed. Must be cheap: called after every batch of FINs.
    fn floor(&self) -> u64;
    /// All messages from this number on are needed, with few exceptions. Must be cheap.
    fn ahead_from(&self) -> u64;
    /// The needed messages of `from..to`.
    fn needed(&self, from: u64, to: u64) -> Ranges;
    /// Whether any message of `from..to` is needed.
    fn needs_any(&self, from: u64, to: u64) -> bool;
    /// Whether the holder is ephemeral: it needs messages only while they are in memory.
    fn is_ephemeral(&self) -> bool {
        false
    }
    /// Reports that these messages were dropped because there was no memory for them. Called for ephemeral holders
    /// only.
    fn dropped(&self, _ranges: &[SequenceRange]) {}
}

/// A release point as a holder: no message before this number is needed, and all from it on are.
pub type Floor = Arc<AtomicU64>;

impl Holder for AtomicU64 {
    fn floor(&self) -> u64 {
        self.load(Ordering::Acquire)
    }

    fn ahead_from(&self) -> u64 {
        self.floor()
    }

    fn needed(&self, from: u64, to: u64) -> Ranges {
        let needed = SequenceRange::new(from.max(self.floor()), to);
        if needed.is_empty() { Ranges::new() } else { vec![needed] }
    }

    fn needs_any(&self, from: u64, to: u64) -> bool {
        from.max(self.floor()) < to
    }
}

/// Selects holders of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Holders whose messages may be on disk.
    Durable,
    /// Holders whose messages are in memory only.
    Ephemeral,
}

/// The lowest floors of the holders of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floors {
    /// No holder needs a message before this one.
    pub all: u64,
    /// No holder whose messages may be on disk needs a message before this one.
    pub durable: u64,
}

/// All holders of one log. A dropped holder needs nothing.
#[derive(Default)]
pub struct Holders {
    all: Mutex<Vec<Weak<dyn Holder>>>,
    /// Whether there ever was an ephemeral holder. Most logs have none and need not search for them.
    has_ephemeral: AtomicBool,
    /// The log is never on disk: all its holders are ephemeral.
    in_memory_only: AtomicBool,
    witness: Witness,
}

/// A holder that needs old messages. While it does, the others are not asked. There may be thousands of channels, and
/// each that finishes a message asks whether it was the last to need it.
#[derive(Default)]
struct Witness {
    holder: Mutex<Option<Weak<dyn Holder>>>,
    /// Chooses the next witness arbitrarily, so that about half of the others finish before it, in any order.
    choice: AtomicUsize,
}

impl Holders {
    pub fn add(&self, holder: &Arc<dyn Holder>) {
        if holder.is_ephemeral() {
            self.has_ephemeral.store(true, Ordering::Release);
        }
        let mut holders = self.all.lock();
        if holders.len() == holders.capacity() {
            holders.retain(|holder| holder.strong_count() > 0);
        }
        holders.push(Arc::downgrade(holder));
    }

    /// Whether any holder needs a message before `sequence`. Nearly always asks only one holder.
    pub fn need_before(&self, sequence: u64) -> bool {
        let needs =
            |holder: &Weak<dyn Holder>| holder.upgrade().is_some_and(|holder| holder.floor() < sequence);
        let mut witness = self.witness.holder.lock();
        if witness.as_ref().is_some_and(needs) {
            return true;
        }
        let holders = self.all.lock();
        let needing: Vec<_> = holders.iter().filter(|holder| needs(holder)).collect();
        let choice = self.witness.choice.fetch_add(CHOICE_STEP, Ordering::Relaxed) >> 8;
        *witness = needing.get(choice % needing.len().max(1)).map(|holder| Weak::clone(holder));
        witness.is_some()
    }

    /// Declares that the log is never on disk.
    pub fn set_in_memory_only(&self) {
        self.in_memory_only.store(true, Ordering::Release);
        self.has_ephemeral.store(true, Ordering::Release);
    }

    /// Whether the log is never on disk.
    pub fn are_in_memory_only(&self) -> bool {
        self.in_memory_only.load(Ordering::Acquire)
    }

    /// Whether there may be ephemeral holders.
    pub fn has_ephemeral(&self) -> bool {
        self.has_ephemeral.load(Ordering::Acquire)
    }

    /// The lowest floors. A floor without holders is 0, except that `durable` is `u64::MAX` if the log is never on disk.
    pub fn floors(&self) -> Floors {
        let (mut all, mut durable) = (None, None);
        let in_memory_only = self.are_in_memory_only();
        for holder in self.alive() {
            let floor = holder.floor();
            all = Some(all.map_or(floor, |lowest: u64| lowest.min(floor)));
            if !in_memory_only && !holder.is_ephemeral() {
                durable = Some(durable.map_or(floor, |lowest: u64| lowest.min(floor)));
            }
        }
        Floors {
            all: all.unwrap_or(0),
            durable: durable.unwrap_or(if in_memory_only { u64::MAX } else { 0 }),
        }
    }

    /// All messages from this number on are needed by a holder whose messages may be on disk.
    pub fn ahead_from(&self) -> u64 {
        self.of(Of::Durable).iter().map(|holder| holder.ahead_from()).min().unwrap_or(u64::MAX)
    }

    /// Whether a holder whose messages may be on disk needs any message of `from..to`.
    pub fn need_any(&self, from: u64, to: u64) -> bool {
        self.of(Of::Durable).iter().any(|holder| holder.floor() < to && holder.needs_any(from, to))
    }

    /// The messages of `from..to` that any of these holders needs.
    pub fn needed(&self, of: Of, from: u64, to: u64) -> Ranges {
        if of == Of::Ephemeral && !self.has_ephemeral() {
            return Ranges::new();
        }
        let holders = self.of(of);
        let mut asked = holders.iter().filter(|holder| holder.floor() < to);
        let mut ranges = asked.next().map(|holder| holder.needed(from, to)).unwrap_or_default();
        for holder in asked {
            // The usual answer for a backlog.
            if ranges == [SequenceRange { from, to }] {
                return ranges;
            }
            ranges.extend(holder.needed(from, to));
            ranges = merged(ranges);
        }
        ranges
    }

    /// Reports dropped messages to the ephemeral holders.
    pub fn dropped(&self, ranges: &[SequenceRange]) {
        if !ranges.is_empty() {
            self.of(Of::Ephemeral).iter().for_each(|holder| holder.dropped(ranges));
        }
    }

    fn of(&self, of: Of) -> Vec<Arc<dyn Holder>> {
        let in_memory_only = self.are_in_memory_only();
        let mut holders = self.alive();
        holders.retain(|holder| (in_memory_only || holder.is_ephemeral()) == (of == Of::Ephemeral));
        holders
    }

    /// Whether the log seems to have more than one channel. Each channel is a holder, and so is the release point.
    pub fn are_several_channels(&self) -> bool {
        self.all.lock().len() > 2
    }

    /// The holders, to be asked without the lock of the list: an answer may take the holder's own lock.
    fn alive(&self) -> Vec<Arc<dyn Holder>> {
        let mut holders = self.all.lock();
        holders.retain(|holder| holder.strong_count() > 0);
        holders.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Distance between two choices of a witness: a large number without small factors.
const CHOICE_STEP: usize = 2_654_435_769;

#[cfg(test)]
mod tests {
    use super::*;

    struct Ephemeral(AtomicU64);

    impl Holder for Ephemeral {
        fn floor(&self) -> u64 {
            self.0.floor()
        }
        fn ahead_from(&self) -> u64 {
            self.0.ahead_from()
        }
        fn needed(&self, from: u64, to: u64) -> Ranges {
            self.0.needed(from, to)
        }
        fn needs_any(&self, from: u64, to: u64) -> bool {
            self.0.needs_any(from, to)
        }
        fn is_ephemeral(&self) -> bool {
            true
        }
    }

    /// Counts how often its floor is read.
    struct Asked {
        floor: AtomicU64,
        times: AtomicUsize,
    }

    impl Holder for Asked {
        fn floor(&self) -> u64 {
            self.times.fetch_add(1, Ordering::Relaxed);
            self.floor.load(Ordering::Relaxed)
        }

        fn ahead_from(&self) -> u64 {
            self.floor()
        }

        fn needed(&self, from: u64, to: u64) -> Ranges {
            vec![SequenceRange { from, to }]
        }

        fn needs_any(&self, _from: u64, _to: u64) -> bool {
            true
        }
    }

    #[test]
    fn ephemeral_holders_count_for_memory_only() {
        let holders = Holders::default();
        let durable: Arc<dyn Holder> = Arc::new(AtomicU64::new(50));
        let ephemeral: Arc<dyn Holder> = Arc::new(Ephemeral(AtomicU64::new(10)));
        holders.add(&durable);
        assert!(!holders.has_ephemeral());
        holders.add(&ephemeral);
        assert!(holders.has_ephemeral());
        assert_eq!(holders.floors(), Floors { all: 10, durable: 50 });
        assert_eq!(holders.ahead_from(), 50);
        assert_eq!(holders.needed(Of::Durable, 0, 60), [SequenceRange::new(50, 60)]);
        assert_eq!(holders.needed(Of::Ephemeral, 0, 60), [SequenceRange::new(10, 60)]);
        assert!(!holders.need_any(0, 50));
        drop(durable);
        assert_eq!(
            holders.floors(),
            Floors { all: 10, durable: 0 },
            "without a holder nothing is known to be finished"
        );
        holders.set_in_memory_only();
        assert_eq!(holders.floors(), Floors { all: 10, durable: u64::MAX });
        assert!(!holders.need_any(0, 100));
    }

    #[test]
    fn ranges_of_several_holders_are_merged() {
        let holders = Holders::default();
        let of = [Arc::new(AtomicU64::new(70)), Arc::new(AtomicU64::new(40))];
        of.iter().for_each(|floor| holders.add(&(floor.clone() as Arc<dyn Holder>)));
        assert_eq!(holders.needed(Of::Durable, 0, 100), [SequenceRange::new(40, 100)]);
        assert_eq!(holders.needed(Of::Durable, 80, 100), [SequenceRange::new(80, 100)]);
        assert_eq!(holders.needed(Of::Durable, 0, 30), []);
    }

    #[test]
    fn few_of_many_holders_are_asked_when_each_finishes() {
        const COUNT: u64 = 2_000;
        let holders = Holders::default();
        let all: Vec<Arc<Asked>> = (0..COUNT)
            .map(|_| Arc::new(Asked { floor: AtomicU64::new(0), times: AtomicUsize::new(0) }))
            .collect();
        for holder in &all {
            let holder: Arc<dyn Holder> = holder.clone();
            holders.add(&holder);
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
        assert!(!holders.need_before(u64::MAX), "dropped holders need nothing");
    }
}
