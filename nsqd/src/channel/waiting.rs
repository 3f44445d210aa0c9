//! Pure: the messages of a channel that wait to be handed out again, in the order in which they came back.
//!
//! A linked list through the slab of [`Outstanding`], so that a message that is cancelled or deferred leaves at once. Each
//! message remembers its turn: it is handed out when the read cursor has reached that sequence number. Turns never
//! decrease along the list.

use super::outstanding::{NONE, Outstanding, Slot};

/// Head and tail of the list; the links are in the entries. The turn of a message is in
/// [`Entry::deadline`](super::outstanding::Entry), as a waiting message has none.
#[derive(Debug)]
pub struct Waiting {
    head: Slot,
    tail: Slot,
    count: usize,
}

impl Default for Waiting {
    fn default() -> Self {
        Waiting { head: NONE, tail: NONE, count: 0 }
    }
}

impl Waiting {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The first message and its turn.
    #[inline]
    pub fn first(&self, outstanding: &Outstanding) -> Option<(u64, Slot)> {
        (self.head != NONE).then(|| (outstanding.entry(self.head).deadline, self.head))
    }

    /// Adds a message, which is in no list, behind all others. No turn in the list may be later.
    #[inline]
    pub fn push_back(&mut self, outstanding: &mut Outstanding, turn: u64, slot: Slot) {
        let last = std::mem::replace(&mut self.tail, slot);
        let entry = outstanding.entry_mut(slot);
        (entry.previous, entry.next, entry.deadline) = (last, NONE, turn);
        match last {
            NONE => self.head = slot,
            _ => outstanding.entry_mut(last).next = slot,
        }
        self.count += 1;
    }

    /// Removes the first message.
    #[inline]
    pub fn pop_front(&mut self, outstanding: &mut Outstanding) {
        if self.head == NONE {
            return;
        }
        self.head = outstanding.entry(self.head).next;
        match self.head {
            NONE => self.tail = NONE,
            next => outstanding.entry_mut(next).previous = NONE,
        }
        self.count -= 1;
    }

    /// Adds a message, which is in no list, behind those whose turn is not later.
    pub fn insert(&mut self, outstanding: &mut Outstanding, turn: u64, slot: Slot) {
        let mut after = self.tail;
        while after != NONE && outstanding.entry(after).deadline > turn {
            after = outstanding.entry(after).previous;
        }
        self.insert_after(outstanding, after, turn, slot);
    }

    fn insert_after(&mut self, outstanding: &mut Outstanding, after: Slot, turn: u64, slot: Slot) {
        let next = if after == NONE { self.head } else { outstanding.entry(after).next };
        let entry = outstanding.entry_mut(slot);
        (entry.previous, entry.next, entry.deadline) = (after, next, turn);
        match after {
            NONE => self.head = slot,
            _ => outstanding.entry_mut(after).next = slot,
        }
        match next {
            NONE => self.tail = slot,
            _ => outstanding.entry_mut(next).previous = slot,
        }
        self.count += 1;
    }

    /// Removes a message. Does nothing if it is not in the list.
    pub fn remove(&mut self, outstanding: &mut Outstanding, slot: Slot) {
        let (previous, next) = {
            let entry = outstanding.entry(slot);
            (entry.previous, entry.next)
        };
        if previous == NONE && self.head != slot {
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
        outstanding.clear_links(slot);
        self.count -= 1;
    }

    /// Takes all messages out.
    pub fn clear(&mut self, outstanding: &mut Outstanding) {
        let mut at = self.head;
        while at != NONE {
            let next = outstanding.entry(at).next;
            outstanding.clear_links(at);
            at = next;
        }
        *self = Waiting::default();
    }

    /// The messages in order, with their turns.
    pub fn iter<'a>(&self, outstanding: &'a Outstanding) -> impl Iterator<Item = (u64, Slot)> + use<'a> {
        let mut at = self.head;
        std::iter::from_fn(move || {
            if at == NONE {
                return None;
            }
            let (entry, slot) = (outstanding.entry(at), at);
            at = entry.next;
            Some((entry.deadline, slot))
        })
    }

    /// No turn is later than `turn` any more.
    pub fn limit_turns(&mut self, outstanding: &mut Outstanding, turn: u64) {
        let mut at = self.head;
        while at != NONE {
            let entry = outstanding.entry_mut(at);
            entry.deadline = entry.deadline.min(turn);
            at = entry.next;
        }
    }

    /// Puts the first messages into this order. `slots` must be exactly these messages.
    pub fn reorder_first(&mut self, outstanding: &mut Outstanding, slots: &[Slot]) {
        let turns: Vec<u64> = self.iter(outstanding).take(slots.len()).map(|(turn, _)| turn).collect();
        slots.iter().for_each(|&slot| self.remove(outstanding, slot));
        let mut after = NONE;
        for (&turn, &slot) in turns.iter().zip(slots) {
            self.insert_after(outstanding, after, turn, slot);
            after = slot;
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
        fn behaves_like_a_vector(steps in proptest::collection::vec((0usize..30, 0u64..20, 0u8..6), 1..300)) {
            let mut outstanding = Outstanding::default();
            let mut waiting = Waiting::default();
            let slots: Vec<Slot> =
                (0..30).map(|sequence| outstanding.insert(Entry::new(sequence, 1, Place::Waiting))).collect();
            let mut model: Vec<(u64, Slot)> = Vec::new();
            for (index, turn, action) in steps {
                let slot = slots[index];
                let is_in = model.iter().any(|(_, other)| *other == slot);
                match action {
                    0 => {
                        waiting.limit_turns(&mut outstanding, turn);
                        model.iter_mut().for_each(|(of, _)| *of = turn.min(*of));
                    }
                    1 => {
                        let count = index.min(model.len());
                        let mut first: Vec<Slot> = model[..count].iter().map(|(_, slot)| *slot).collect();
                        first.sort_unstable();
                        waiting.reorder_first(&mut outstanding, &first);
                        model.iter_mut().zip(&first).for_each(|((_, place), slot)| *place = *slot);
                    }
                    2 | 3 => {
                        waiting.remove(&mut outstanding, slot);
                        model.retain(|(_, other)| *other != slot);
                    }
                    4 if !is_in => {
                        waiting.insert(&mut outstanding, turn, slot);
                        let at = model.partition_point(|(of, _)| *of <= turn);
                        model.insert(at, (turn, slot));
                    }
                    5 if index < 10 => {
                        waiting.pop_front(&mut outstanding);
                        model.drain(..model.len().min(1));
                    }
                    _ if !is_in => {
                        let turn = model.last().map_or(turn, |(last, _)| turn.max(*last));
                        waiting.push_back(&mut outstanding, turn, slot);
                        model.push((turn, slot));
                    }
                    _ => {}
                }
                prop_assert_eq!(waiting.iter(&outstanding).collect::<Vec<_>>(), model.clone());
                prop_assert_eq!(waiting.first(&outstanding), model.first().copied());
                prop_assert_eq!(waiting.len(), model.len());
            }
        }
    }
}
