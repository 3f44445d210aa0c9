//! Pure: the messages of a channel that were handed out or deferred and are not finished, by sequence number.
//!
//! Messages are handed out in order and mostly finished in about that order. So the index is a window: a deque of slots
//! from the oldest outstanding message to the newest. When the window becomes mostly empty, stragglers (deferred for a
//! week, one stuck consumer) move to a tree. So memory depends on the number of outstanding messages, not on their
//! range. Entries live in a slab and are identified by their [`Slot`].

use std::collections::{BTreeMap, VecDeque};

use crate::clock::Nanos;

/// Index of an entry in the slab. Valid until the entry is removed.
pub type Slot = u32;

/// No slot.
pub const NONE: Slot = u32::MAX;

/// The state of an outstanding message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At the consumer `owner`, until `deadline`.
    InFlight,
    /// Held back until `deadline`.
    Deferred,
    /// Waits to be handed out (again).
    Waiting,
    /// Its attempts are used up: it waits to be dead-lettered.
    Exhausted,
    /// The slab entry is free.
    Free,
}

/// What happens to a message that comes back after the read cursor was moved over it in flight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Recall {
    /// The cursor was not moved over it.
    #[default]
    No,
    /// It is finished, even if it was requeued or timed out.
    Finish,
    /// It is handed out again, even if it was finished.
    HandOut,
}

/// One outstanding message.
#[derive(Debug, Clone)]
pub struct Entry {
    pub sequence: u64,
    /// In flight: when it times out. Deferred: when it is due. Waiting: its turn, see
    /// [`Waiting`](super::waiting::Waiting).
    pub deadline: Nanos,
    /// In flight: when it was handed out; limits TOUCH.
    pub delivered_at: Nanos,
    /// Neighbours in the owner's in-flight list or among the waiting messages; `next` also links free entries. Deferred:
    /// `previous` is the ticket of [`DueTimes`](super::due_times::DueTimes).
    pub(super) previous: Slot,
    pub(super) next: Slot,
    /// In flight: the consumer's key.
    pub owner: u32,
    /// Deliveries so far.
    pub attempts: u16,
    pub place: Place,
    /// In flight: what happens when it comes back.
    pub recall: Recall,
}

impl Entry {
    /// A message that is in no list yet.
    pub fn new(sequence: u64, attempts: u16, place: Place) -> Self {
        Entry {
            sequence,
            deadline: 0,
            delivered_at: 0,
            previous: NONE,
            next: NONE,
            owner: 0,
            attempts,
            place,
            recall: Recall::No,
        }
    }

    /// Defers the message until `due`; `None` if it can be handed out now. Does not change any queue.
    pub(super) fn hold_until(&mut self, due: Option<Nanos>) {
        self.place = if due.is_some() { Place::Deferred } else { Place::Waiting };
        self.deadline = due.unwrap_or(0);
    }
}

const _: () = assert!(size_of::<Entry>() == 40, "an outstanding message costs 40 bytes and its index entry");

/// The outstanding messages; see the module.
#[derive(Debug)]
pub struct Outstanding {
    entries: Vec<Entry>,
    first_free: Slot,
    count: usize,
    /// Slots of the sequence numbers from `window_start` on; `NONE` where nothing is outstanding. The first is never
    /// `NONE`.
    window: VecDeque<Slot>,
    window_start: u64,
    window_count: usize,
    sparse: BTreeMap<u64, Slot>,
}

impl Default for Outstanding {
    fn default() -> Self {
        Outstanding {
            entries: Vec::new(),
            first_free: NONE,
            count: 0,
            window: VecDeque::new(),
            window_start: 0,
            window_count: 0,
            sparse: BTreeMap::new(),
        }
    }
}

/// A window shorter than this is never thinned out.
const WINDOW_KEEP: usize = 4096;
/// If less than one in this many places is in use, the window moves its oldest entries to the tree.
const WINDOW_SPARSITY: usize = 8;
/// An empty slab with room for more entries than this is freed.
const SLAB_KEEP: usize = 8192;
/// A jump in sequence numbers longer than this, and than the window, is not filled with empty places.
const WINDOW_JUMP: u64 = 1024;
/// Places that a sparse or abandoned window gives up with each inserted message. Moving a million at once would take
/// too long.
const THIN: usize = 32;

impl Outstanding {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The oldest outstanding sequence number.
    pub fn lowest(&self) -> Option<u64> {
        let in_window = (!self.window.is_empty()).then_some(self.window_start);
        match (self.sparse.first_key_value(), in_window) {
            (Some((&sparse, _)), Some(window)) => Some(sparse.min(window)),
            (Some((&sparse, _)), None) => Some(sparse),
            (None, in_window) => in_window,
        }
    }

    /// The entry of a slot that is in use.
    pub fn entry(&self, slot: Slot) -> &Entry {
        &self.entries[slot as usize]
    }

    /// The entry of a slot that may not exist any more.
    pub fn get(&self, slot: Slot) -> Option<&Entry> {
        self.entries.get(slot as usize)
    }

    /// The entry of a slot that is in use.
    pub fn entry_mut(&mut self, slot: Slot) -> &mut Entry {
        &mut self.entries[slot as usize]
    }

    /// The message is in no list.
    pub(super) fn clear_links(&mut self, slot: Slot) {
        let entry = self.entry_mut(slot);
        (entry.previous, entry.next) = (NONE, NONE);
    }

    /// The slot of `sequence`, if it is outstanding.
    pub fn find(&self, sequence: u64) -> Option<Slot> {
        if let Some(offset) = sequence.checked_sub(self.window_start)
            && let Some(&slot) = self.window.get(usize::try_from(offset).ok()?)
            && slot != NONE
        {
            return Some(slot);
        }
        // Search the tree even within the window's range: the window may have grown past an entry inserted ahead.
        self.sparse.get(&sequence).copied()
    }

    /// Adds a message that is not outstanding yet. Inlined, because it runs for each message that is handed out.
    #[inline(always)]
    pub fn insert(&mut self, entry: Entry) -> Slot {
        let sequence = entry.sequence;
        let slot = self.allocate(entry);
        if self.window.is_empty() {
            self.window_start = sequence;
            self.push_window(slot);
            return slot;
        }
        let len = self.window.len() as u64;
        let end = self.window_start + len;
        if sequence < self.window_start || sequence > end + len.max(WINDOW_JUMP) {
            // A new window starts once this one is empty.
            self.sparse.insert(sequence, slot);
            self.thin_window();
        } else if sequence < end {
            self.window[(sequence - self.window_start) as usize] = slot;
            self.window_count += 1;
        } else {
            self.window.extend(std::iter::repeat_n(NONE, (sequence - end) as usize));
            self.push_window(slot);
            if self.window.len() > WINDOW_KEEP && self.window_count * WINDOW_SPARSITY < self.window.len() {
                self.thin_window();
            }
        }
        slot
    }

    /// Adds a message far ahead of the others (deferred before its turn), without stretching the window to it.
    pub fn insert_ahead(&mut self, entry: Entry) -> Slot {
        let sequence = entry.sequence;
        let end = self.window_start + self.window.len() as u64;
        if !self.window.is_empty() && sequence >= self.window_start && sequence <= end {
            return self.insert(entry);
        }
        let slot = self.allocate(entry);
        self.sparse.insert(sequence, slot);
        slot
    }

    /// Removes the entry of a slot that is in use and linked in no list. Returns its sequence number.
    #[inline]
    pub fn remove(&mut self, slot: Slot) -> u64 {
        let entry = &mut self.entries[slot as usize];
        let sequence = entry.sequence;
        entry.place = Place::Free;
        entry.next = std::mem::replace(&mut self.first_free, slot);
        self.count -= 1;
        // Before the window: far behind its end.
        let place = sequence.wrapping_sub(self.window_start);
        match self.window.get_mut(place as usize) {
            Some(here) if *here == slot => {
                *here = NONE;
                self.window_count -= 1;
                if place == 0 {
                    self.trim_window();
                }
            }
            _ => {
                self.sparse.remove(&sequence);
            }
        }
        sequence
    }

    /// Frees memory after a large wave of messages, if nothing is outstanding. No list or queue may contain a slot
    /// then.
    pub fn shrink(&mut self) {
        if self.count == 0 && self.entries.len() > SLAB_KEEP {
            drop(self.clear());
        }
    }

    /// Removes and returns everything, so that the caller can free it outside the lock.
    pub fn clear(&mut self) -> Outstanding {
        std::mem::take(self)
    }

    /// The outstanding sequence numbers of `from..to`, at most `limit`, in order.
    pub fn between(&self, from: u64, to: u64, limit: usize) -> Vec<u64> {
        if from >= to {
            return Vec::new();
        }
        let offset =
            |sequence: u64| (sequence.saturating_sub(self.window_start) as usize).min(self.window.len());
        let (start, end) = (offset(from), offset(to));
        let in_window = (start..end).filter(|&index| self.window[index] != NONE);
        let in_window = in_window.map(|index| self.window_start + index as u64).take(limit);
        let mut found: Vec<u64> =
            self.sparse.range(from..to).map(|(&s, _)| s).take(limit).chain(in_window).collect();
        found.sort_unstable();
        found.truncate(limit);
        found
    }

    /// Calls `visit` for entries from `from` on, in order, and checks about `most` places. Returns where to continue;
    /// `None` at the end.
    pub fn slice(&self, from: u64, most: usize, mut visit: impl FnMut(&Entry)) -> Option<u64> {
        let most = most.max(1);
        let mut found: Vec<(u64, Slot)> =
            self.sparse.range(from..).take(most).map(|(&sequence, &slot)| (sequence, slot)).collect();
        let mut next = if found.len() == most { found.last().map(|(last, _)| last + 1) } else { None };
        let start = (from.saturating_sub(self.window_start) as usize).min(self.window.len());
        let end = start.saturating_add(most).min(self.window.len());
        let slots = self.window.range(start..end).enumerate().filter(|(_, slot)| **slot != NONE);
        found.extend(slots.map(|(index, &slot)| (self.window_start + (start + index) as u64, slot)));
        if end < self.window.len() {
            let looked_to = self.window_start + end as u64;
            next = Some(next.map_or(looked_to, |next| next.min(looked_to)));
        }
        found.sort_unstable();
        found.retain(|&(sequence, _)| next.is_none_or(|next| sequence < next));
        found.into_iter().for_each(|(_, slot)| visit(self.entry(slot)));
        next
    }

    /// Like [`Outstanding::slice`], but for entries before `before`, the last one first. Returns before which entry to
    /// continue.
    pub fn slice_back(&self, before: u64, most: usize, mut visit: impl FnMut(&Entry)) -> Option<u64> {
        let most = most.max(1);
        let mut found: Vec<(u64, Slot)> = (self.sparse.range(..before).rev().take(most))
            .map(|(&sequence, &slot)| (sequence, slot))
            .collect();
        let mut next = if found.len() == most { found.last().map(|(last, _)| *last) } else { None };
        let end = (before.saturating_sub(self.window_start) as usize).min(self.window.len());
        let start = end.saturating_sub(most);
        let slots = self.window.range(start..end).enumerate().filter(|(_, slot)| **slot != NONE);
        found.extend(slots.map(|(index, &slot)| (self.window_start + (start + index) as u64, slot)));
        if start > 0 {
            let looked_to = self.window_start + start as u64;
            next = Some(next.map_or(looked_to, |next| next.max(looked_to)));
        }
        found.sort_unstable_by(|one, other| other.cmp(one));
        found.retain(|&(sequence, _)| next.is_none_or(|next| sequence >= next));
        found.into_iter().for_each(|(_, slot)| visit(self.entry(slot)));
        next
    }

    /// Calls `visit` for about `most` entries, or for all if there are not more, in no order.
    pub fn sample(&self, most: usize, visit: impl FnMut(&Entry)) {
        let step = self.entries.len().div_ceil(most.max(1)).max(1);
        self.entries.iter().step_by(step).filter(|entry| entry.place != Place::Free).for_each(visit);
    }

    /// All entries in use, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.place != Place::Free)
    }

    #[inline(always)]
    fn allocate(&mut self, entry: Entry) -> Slot {
        self.count += 1;
        if self.first_free == NONE {
            self.entries.push(entry);
            return (self.entries.len() - 1) as Slot;
        }
        let slot = self.first_free;
        self.first_free = self.entries[slot as usize].next;
        self.entries[slot as usize] = entry;
        slot
    }

    #[inline(always)]
    fn push_window(&mut self, slot: Slot) {
        self.window.push_back(slot);
        self.window_count += 1;
    }

    fn trim_window(&mut self) {
        while let Some(&NONE) = self.window.front() {
            self.window.pop_front();
            self.window_start += 1;
        }
    }

    fn thin_window(&mut self) {
        for _ in 0..THIN {
            let Some(slot) = self.window.pop_front() else { break };
            if slot != NONE {
                self.sparse.insert(self.window_start, slot);
                self.window_count -= 1;
            }
            self.window_start += 1;
        }
        self.trim_window();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(sequence: u64) -> Entry {
        Entry::new(sequence, 0, Place::Waiting)
    }

    #[test]
    fn straggler_does_not_enlarge_the_window() {
        let mut outstanding = Outstanding::default();
        outstanding.insert(entry(1));
        for sequence in 2..1_000_000 {
            let slot = outstanding.insert(entry(sequence));
            outstanding.remove(slot);
        }
        assert_eq!(outstanding.lowest(), Some(1));
        assert!(outstanding.window.len() <= WINDOW_KEEP + 1);
        assert!(outstanding.entries.len() <= 2);
    }

    #[test]
    fn jump_moves_few_messages_per_insert() {
        for (jump, back) in [(1_000_000, 0), (0, 50_000)] {
            let mut outstanding = Outstanding::default();
            (100_000..200_000).for_each(|sequence| _ = outstanding.insert(entry(sequence)));
            let next = 200_000 + jump - back * 4;
            for sequence in next..next + 5_000 {
                let before = outstanding.window.len();
                outstanding.insert(entry(sequence));
                assert!(
                    before.saturating_sub(outstanding.window.len()) <= THIN || outstanding.window.len() <= 1
                );
            }
            assert_eq!((outstanding.len(), outstanding.lowest()), (105_000, Some(next.min(100_000))));
            assert_eq!(
                outstanding.window_start,
                next + 100_000 / THIN as u64,
                "the new messages are in a new window"
            );
        }
    }

    #[test]
    fn memory_is_freed_after_the_last_message_of_a_wave() {
        let mut outstanding = Outstanding::default();
        let slots: Vec<_> =
            (0..100_000).map(|sequence| outstanding.insert_ahead(entry(2 * sequence))).collect();
        for slot in slots {
            outstanding.remove(slot);
            outstanding.shrink();
        }
        assert!(outstanding.entries.capacity() <= SLAB_KEEP && outstanding.window.capacity() <= SLAB_KEEP);
        let slot = outstanding.insert(entry(7));
        assert_eq!((outstanding.find(7), outstanding.lowest()), (Some(slot), Some(7)));
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in proptest::collection::vec((0u64..6000, 0u8..4), 1..400)) {
            let mut outstanding = Outstanding::default();
            let mut model = BTreeMap::new();
            for (sequence, action) in steps {
                match (action, model.contains_key(&sequence)) {
                    (0 | 1, false) => { model.insert(sequence, outstanding.insert(entry(sequence))); }
                    (2, false) => { model.insert(sequence, outstanding.insert_ahead(entry(sequence))); }
                    (_, true) => {
                        let slot = model.remove(&sequence).unwrap();
                        prop_assert_eq!(outstanding.remove(slot), sequence);
                    }
                    _ => {}
                }
                prop_assert_eq!(outstanding.len(), model.len());
                prop_assert_eq!(outstanding.lowest(), model.first_key_value().map(|(&k, _)| k));
                prop_assert_eq!(outstanding.find(sequence), model.get(&sequence).copied());
                let (from, to) = (sequence / 2, sequence + 50);
                let between: Vec<u64> = model.range(from..to).map(|(&k, _)| k).take(5).collect();
                prop_assert_eq!(outstanding.between(from, to, 5), between);
            }
            for most in [1, 7, 1000, usize::MAX] {
                let (mut sliced, mut from) = (Vec::new(), Some(0));
                while let Some(at) = from {
                    let before = sliced.len();
                    from = outstanding.slice(at, most, |entry| sliced.push(entry.sequence));
                    prop_assert!(from.is_none_or(|from| from > at));
                    prop_assert!(sliced.len() - before <= most.saturating_mul(2));
                }
                prop_assert_eq!(&sliced, &model.keys().copied().collect::<Vec<_>>());
                let (mut back, mut before) = (Vec::new(), Some(u64::MAX));
                while let Some(at) = before {
                    before = outstanding.slice_back(at, most, |entry| back.push(entry.sequence));
                    prop_assert!(before.is_none_or(|before| before < at));
                }
                back.reverse();
                prop_assert_eq!(&back, &sliced);
            }
            for (sequence, slot) in model {
                prop_assert_eq!(outstanding.find(sequence), Some(slot));
                prop_assert_eq!(outstanding.entry(slot).sequence, sequence);
            }
        }
    }
}
