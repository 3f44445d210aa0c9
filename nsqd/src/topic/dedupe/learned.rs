//! Pure: what a start learns about the ids of a topic.

use std::collections::BTreeMap;

use super::{IdDigest, REMOVED, Window, signed};
use crate::channel::saved::Clocks;
use crate::clock::Nanos;
use crate::log::chunk;
use crate::storage::SEQUENCE_BITS;
use crate::storage::id_list::SavedId;

/// What a start knows about the ids of a topic: from the checkpoint, and from the records of the journal in any order.
/// Applying a record again changes nothing.
#[derive(Debug, Default)]
pub struct LearnedIds {
    forgotten_before: u64,
    /// By the sequence number of their messages.
    pub(super) ids: BTreeMap<u64, (IdDigest, i64)>,
    most: usize,
}

impl LearnedIds {
    /// Knows no ids, and keeps the newest `most`.
    pub fn new(most: usize) -> Self {
        LearnedIds { most, ..LearnedIds::default() }
    }

    /// The ids of messages before this one are forgotten.
    pub fn forget_before(&mut self, sequence: u64) {
        self.forgotten_before = self.forgotten_before.max(sequence);
        self.ids = self.ids.split_off(&self.forgotten_before);
    }

    /// Forgets all ids: the topic no longer remembers any.
    pub fn clear(&mut self) {
        self.ids.clear();
    }

    /// An id that a checkpoint holds.
    pub fn add(&mut self, id: SavedId) {
        self.insert(id.sequence, IdDigest(id.digest), id.stored_ns);
    }

    /// The ids in published frames, of which the first is message `first`.
    pub fn add_published(&mut self, first: u64, frames: &[u8]) {
        for (frame, sequence) in chunk::split(frames).zip(first..) {
            if let Some(id) = IdDigest::of_stored(frame) {
                self.insert(sequence, id, chunk::timestamp(frame).unwrap_or(0));
            }
        }
    }

    fn insert(&mut self, sequence: u64, id: IdDigest, stored_ns: i64) {
        if (self.forgotten_before..1 << SEQUENCE_BITS).contains(&sequence) && id != REMOVED {
            self.ids.insert(sequence, (id, stored_ns));
            if self.ids.len() > self.most {
                self.ids.pop_first();
            }
        }
    }

    /// The window of the running topic, for ids that are remembered for `length`. A wall clock that was set back makes
    /// an id as old as the start at the youngest, so it is remembered for at most another `length`.
    pub fn into_window<T: Clone>(self, length: Nanos, clocks: Clocks) -> Window<T> {
        let mut window = Window::new(length, self.most, self.forgotten_before);
        let now = signed(clocks.monotonic);
        let mut newest = i64::MIN;
        for (sequence, (id, stored_ns)) in self.ids {
            let age = clocks.wall_ns.saturating_sub(stored_ns).max(0);
            // Entries are in the order of their times, whatever the wall clock did.
            newest = newest.max(now.saturating_sub(age));
            if let Some(number) = window.numbers.find(id.hash(), |&number| window.entry(number).digest == id)
            {
                // The first was refused although it was written. Both messages exist.
                window.remove(number.wrapping_sub(window.first) as usize);
            }
            window.push(id, sequence, newest);
        }
        window.expire(clocks.monotonic);
        window
    }
}
