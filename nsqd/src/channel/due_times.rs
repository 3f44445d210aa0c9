//! Pure: the deferred messages of a channel by due time.
//!
//! A heap. A message that is cancelled or rescheduled leaves it at once, as far as a caller can tell; its item stays until
//! it comes first, or until such items are the majority. So the heap has at most twice as many items as messages, and a
//! few more. Messages that are due at the same time have no order.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::outstanding::{NONE, Outstanding, Place, Slot};
use crate::clock::Nanos;

/// Items of messages that have left which are never worth a pass over the heap.
const KEEP_STALE: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub struct DueTimes {
    /// The first one belongs to a deferred message.
    items: BinaryHeap<Item>,
    /// Number of items whose message has left.
    stale_count: usize,
    last_ticket: u32,
}

/// One entry of the heap. It counts as long as the message is deferred and has the same ticket in
/// [`Entry::previous`](super::outstanding::Entry), which a deferred message does not need otherwise.
#[derive(Debug, Clone, Copy)]
struct Item {
    due: Nanos,
    slot: Slot,
    ticket: u32,
}

impl Item {
    fn is_stale(self, outstanding: &Outstanding) -> bool {
        let entry = outstanding.get(self.slot);
        entry.is_none_or(|entry| entry.place != Place::Deferred || entry.previous != self.ticket)
    }
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Item {}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The greatest item is due first.
impl Ord for Item {
    fn cmp(&self, other: &Self) -> Ordering {
        other.due.cmp(&self.due)
    }
}

impl DueTimes {
    pub fn len(&self) -> usize {
        self.items.len() - self.stale_count
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The message that is due first, or one of them.
    pub fn first(&self) -> Option<(Nanos, Slot)> {
        self.items.peek().map(|item| (item.due, item.slot))
    }

    /// Adds a message that is not in the heap. Its place must be [`Place::Deferred`].
    pub fn push(&mut self, outstanding: &mut Outstanding, due: Nanos, slot: Slot) {
        self.last_ticket = if self.last_ticket >= NONE - 1 { 0 } else { self.last_ticket + 1 };
        outstanding.entry_mut(slot).previous = self.last_ticket;
        self.items.push(Item { due, slot, ticket: self.last_ticket });
    }

    /// Removes the message that is due first.
    pub fn pop(&mut self, outstanding: &mut Outstanding) -> Option<(Nanos, Slot)> {
        let Item { due, slot, .. } = self.items.pop()?;
        if self.stale_count > 0 {
            self.drop_stale_first(outstanding);
        }
        Some((due, slot))
    }

    /// Removes a message. Does nothing if it is not in the heap. Call before its place changes.
    pub fn remove(&mut self, outstanding: &mut Outstanding, slot: Slot) {
        let entry = outstanding.entry_mut(slot);
        if entry.place != Place::Deferred || entry.previous == NONE {
            return;
        }
        entry.previous = NONE;
        self.stale_count += 1;
        if self.stale_count > self.items.len() / 2 + KEEP_STALE || self.is_empty() {
            self.items.retain(|item| !item.is_stale(outstanding));
            self.stale_count = 0;
        } else {
            self.drop_stale_first(outstanding);
        }
    }

    /// Removes all messages and returns them, in no order.
    pub fn drain(&mut self, outstanding: &mut Outstanding) -> Vec<(Nanos, Slot)> {
        self.stale_count = 0;
        let items = self.items.drain().filter(|item| !item.is_stale(outstanding));
        let drained: Vec<(Nanos, Slot)> = items.map(|item| (item.due, item.slot)).collect();
        drained.iter().for_each(|&(_, slot)| outstanding.clear_links(slot));
        drained
    }

    /// Frees memory beyond room for this many messages.
    pub fn shrink_to(&mut self, most: usize) {
        self.items.shrink_to(most);
    }

    fn drop_stale_first(&mut self, outstanding: &Outstanding) {
        while self.items.peek().is_some_and(|first| first.is_stale(outstanding)) {
            self.items.pop();
            self.stale_count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::channel::outstanding::Entry;

    proptest! {
        #[test]
        fn behaves_like_a_sorted_set(steps in proptest::collection::vec((0usize..60, 0u64..50, 0u8..3), 1..400)) {
            let mut outstanding = Outstanding::default();
            let mut heap = DueTimes::default();
            let slots: Vec<Slot> =
                (0..60).map(|sequence| outstanding.insert(Entry::new(sequence, 0, Place::Deferred))).collect();
            let mut model = BTreeSet::new();
            for (index, due, action) in steps {
                let slot = slots[index];
                let known = model.iter().find(|&&(_, other)| other == slot).copied();
                match (action, known) {
                    (0, _) => match heap.pop(&mut outstanding) {
                        Some(first) => {
                            outstanding.clear_links(first.1);
                            prop_assert_eq!(Some(first.0), model.first().map(|(due, _)| *due));
                            prop_assert!(model.remove(&first));
                        }
                        None => prop_assert!(model.is_empty()),
                    },
                    (_, Some(known)) => {
                        heap.remove(&mut outstanding, slot);
                        model.remove(&known);
                    }
                    (_, None) => {
                        heap.remove(&mut outstanding, slot);
                        heap.push(&mut outstanding, due, slot);
                        model.insert((due, slot));
                    }
                }
                prop_assert_eq!(heap.first().map(|(due, _)| due), model.first().map(|(due, _)| *due));
                prop_assert_eq!(heap.len(), model.len());
                prop_assert!(heap.items.len() <= 2 * (model.len() + KEEP_STALE) + 1);
            }
            prop_assert_eq!(heap.drain(&mut outstanding).into_iter().collect::<BTreeSet<_>>(), model);
        }
    }
}
