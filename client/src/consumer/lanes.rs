//! Which messages wait because another one of the same key is being handled. Pure.

use std::collections::{HashMap, VecDeque};

/// See the module. A lane holds the messages of one key, in the order of their arrival.
#[derive(Debug)]
pub(super) struct Lanes<M> {
    /// The messages that wait, by key. A key is here while one of its messages is being handled.
    busy: HashMap<u64, VecDeque<M>>,
    closed: bool,
}

/// What becomes of a message that arrives.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entered<M> {
    /// Handle it now.
    Free(M),
    /// It waits. Who handles its key takes it.
    Waits,
    /// The consumer stops.
    Closed(M),
}

impl<M> Default for Lanes<M> {
    fn default() -> Self {
        Lanes { busy: HashMap::new(), closed: false }
    }
}

impl<M> Lanes<M> {
    pub(super) fn enter(&mut self, key: u64, message: M) -> Entered<M> {
        if self.closed {
            return Entered::Closed(message);
        }
        match self.busy.get_mut(&key) {
            Some(lane) => {
                lane.push_back(message);
                Entered::Waits
            }
            None => {
                self.busy.insert(key, VecDeque::new());
                Entered::Free(message)
            }
        }
    }

    /// Returns the next message of a key whose message is handled. `None` frees the key.
    pub(super) fn next(&mut self, key: u64) -> Option<M> {
        let next = self.busy.get_mut(&key).and_then(VecDeque::pop_front);
        if next.is_none() {
            self.busy.remove(&key);
        }
        next
    }

    /// Removes the messages that wait and for which `leaves` holds.
    pub(super) fn remove(&mut self, leaves: impl Fn(&M) -> bool) -> Vec<M> {
        let mut removed = Vec::new();
        for lane in self.busy.values_mut() {
            let (gone, kept): (VecDeque<M>, VecDeque<M>) =
                std::mem::take(lane).into_iter().partition(|message| leaves(message));
            removed.extend(gone);
            *lane = kept;
        }
        removed
    }

    /// Returns all messages that wait. No more can enter.
    pub(super) fn close(&mut self) -> Vec<M> {
        self.closed = true;
        self.busy.drain().flat_map(|(_, lane)| lane).collect()
    }

    /// The number of messages that wait.
    pub(super) fn len(&self) -> usize {
        self.busy.values().map(VecDeque::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_one_key_follow_each_other_and_other_keys_pass() {
        let mut lanes = Lanes::default();
        assert_eq!(lanes.enter(1, "a"), Entered::Free("a"));
        assert_eq!(lanes.enter(1, "b"), Entered::Waits);
        assert_eq!(lanes.enter(1, "c"), Entered::Waits);
        assert_eq!(lanes.enter(2, "x"), Entered::Free("x"));
        assert_eq!(lanes.len(), 2);
        assert_eq!(lanes.next(1), Some("b"));
        assert_eq!(lanes.enter(1, "d"), Entered::Waits, "b is being handled");
        assert_eq!((lanes.next(1), lanes.next(1)), (Some("c"), Some("d")));
        assert_eq!((lanes.next(1), lanes.next(2)), (None, None));
        assert!(lanes.busy.is_empty(), "idle keys use no memory");
        assert_eq!(lanes.enter(1, "e"), Entered::Free("e"));
    }

    #[test]
    fn waiting_messages_leave_with_their_connection_or_at_the_end() {
        let mut lanes = Lanes::default();
        for message in ["a", "b1", "b2", "c1"] {
            lanes.enter(1, message);
        }
        assert_eq!(lanes.remove(|message| message.starts_with('b')), ["b1", "b2"]);
        assert_eq!(lanes.close(), ["c1"]);
        assert_eq!(lanes.next(1), None);
        assert_eq!(lanes.enter(1, "late"), Entered::Closed("late"));
    }
}
