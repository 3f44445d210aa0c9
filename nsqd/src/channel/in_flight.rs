//! Pure: one consumer's messages in flight, in deadline order.
//!
//! A linked list through the slab of [`Outstanding`]. Delivery and TOUCH append at the tail: a consumer's timeout is
//! fixed, so later entries have later deadlines. FIN and REQ unlink in constant time. The timeout scan reads only the
//! head, and a disconnect walks only its own list. A message whose TOUCH reached the cap may be due before the tail;
//! such messages are in a tree.

use std::collections::BTreeSet;

use super::outstanding::{NONE, Outstanding, Slot};
use crate::clock::Nanos;

/// Head and tail of a consumer's list; the links are in the entries.
#[derive(Debug, Clone)]
pub struct InFlightList {
    head: Slot,
    tail: Slot,
    /// Messages that were due before the tail when they were inserted.
    capped: BTreeSet<(Nanos, Slot)>,
}

/// The link value of entries in the tree.
const IN_TREE: Slot = NONE - 1;

impl Default for InFlightList {
    fn default() -> Self {
        InFlightList { head: NONE, tail: NONE, capped: BTreeSet::new() }
    }
}

impl InFlightList {
    /// The message that times out first.
    pub fn first(&self, outstanding: &Outstanding) -> Option<Slot> {
        let listed = (self.head != NONE).then_some(self.head);
        match (listed, self.capped.first()) {
            (Some(head), Some(&(deadline, slot))) => {
                Some(if deadline < outstanding.entry(head).deadline { slot } else { head })
            }
            (listed, capped) => listed.or(capped.map(|&(_, slot)| slot)),
        }
    }

    /// When the first message times out.
    pub fn first_deadline(&self, outstanding: &Outstanding) -> Option<Nanos> {
        self.first(outstanding).map(|slot| outstanding.entry(slot).deadline)
    }

    /// Inserts an entry by its deadline. Inlined, because it runs for each message that is handed out.
    #[inline(always)]
    pub fn insert(&mut self, outstanding: &mut Outstanding, slot: Slot) {
        let deadline = outstanding.entry(slot).deadline;
        let after = self.tail;
        if after != NONE && outstanding.entry(after).deadline > deadline {
            let entry = outstanding.entry_mut(slot);
            (entry.previous, entry.next) = (IN_TREE, IN_TREE);
            self.capped.insert((deadline, slot));
            return;
        }
        let entry = outstanding.entry_mut(slot);
        (entry.previous, entry.next) = (after, NONE);
        match after {
            NONE => self.head = slot,
            _ => outstanding.entry_mut(after).next = slot,
        }
        self.tail = slot;
    }

    /// Removes an entry. Call before its deadline is changed.
    #[inline]
    pub fn unlink(&mut self, outstanding: &mut Outstanding, slot: Slot) {
        let (previous, next, deadline) = {
            let entry = outstanding.entry(slot);
            (entry.previous, entry.next, entry.deadline)
        };
        if previous == IN_TREE {
            self.capped.remove(&(deadline, slot));
            return;
        }
        match previous {
            NONE => self.head = next,
            _ => outstanding.entry_mut(previous).next = next,
        }
        match next {
            NONE => self.tail = previous,
            _ => outstanding.entry_mut(next).previous = previous,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::channel::outstanding::{Entry, Place};

    proptest! {
        #[test]
        fn first_message_has_the_earliest_deadline(steps in proptest::collection::vec((0usize..40, 0u64..100), 1..300)) {
            let mut outstanding = Outstanding::default();
            let mut list = InFlightList::default();
            let slots: Vec<Slot> =
                (0..40).map(|sequence| outstanding.insert(Entry::new(sequence, 1, Place::InFlight))).collect();
            let mut model = std::collections::BTreeMap::new();
            for (index, deadline) in steps {
                let slot = slots[index];
                if model.remove(&slot).is_some() {
                    list.unlink(&mut outstanding, slot);
                } else {
                    outstanding.entry_mut(slot).deadline = deadline;
                    list.insert(&mut outstanding, slot);
                    model.insert(slot, deadline);
                }
                prop_assert_eq!(list.first_deadline(&outstanding), model.values().min().copied());
            }
            while let Some(slot) = list.first(&outstanding) {
                prop_assert_eq!(model.values().min().copied(), model.remove(&slot));
                list.unlink(&mut outstanding, slot);
            }
            prop_assert!(model.is_empty());
        }
    }
}
