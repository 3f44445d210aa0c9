//! Pure: one consumer's messages in flight, in deadline order.
//!
//! A list threaded through the slab of [`Outstanding`]: delivery and TOUCH append at the tail (a consumer's timeout
//! is fixed, so later means later due), FIN and REQ unlink in constant time, the timeout scan looks at the head only,
//! and a disconnect walks its own list. TOUCH near its cap is the one case that has to look for its place.

use super::outstanding::{NONE, Outstanding, Slot};
use crate::clock::Nanos;

/// Head and tail of a consumer's list; the links are in the entries.
#[derive(Debug, Clone, Copy)]
pub struct InFlightList {
    head: Slot,
    tail: Slot,
}

impl Default for InFlightList {
    fn default() -> Self {
        InFlightList { head: NONE, tail: NONE }
    }
}

impl InFlightList {
    /// The message that times out first.
    pub fn first(&self) -> Option<Slot> {
        (self.head != NONE).then_some(self.head)
    }

    /// When the first message times out.
    pub fn first_deadline(&self, outstanding: &Outstanding) -> Option<Nanos> {
        self.first().map(|slot| outstanding.entry(slot).deadline)
    }

    /// Puts an entry in its place by deadline: at the tail, but for a capped TOUCH.
    pub fn insert(&mut self, outstanding: &mut Outstanding, slot: Slot) {
        let deadline = outstanding.entry(slot).deadline;
        let mut after = self.tail;
        while after != NONE && outstanding.entry(after).deadline > deadline {
            after = outstanding.entry(after).previous;
        }
        let before = if after == NONE { self.head } else { outstanding.entry(after).next };
        let entry = outstanding.entry_mut(slot);
        entry.previous = after;
        entry.next = before;
        match after {
            NONE => self.head = slot,
            _ => outstanding.entry_mut(after).next = slot,
        }
        match before {
            NONE => self.tail = slot,
            _ => outstanding.entry_mut(before).previous = slot,
        }
    }

    /// Takes an entry out of this list.
    pub fn unlink(&mut self, outstanding: &mut Outstanding, slot: Slot) {
        let (previous, next) = {
            let entry = outstanding.entry(slot);
            (entry.previous, entry.next)
        };
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
