//! The messages that were finished last, to recognise those that nsqd delivers again. Pure.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use nsq_protocol::MessageId;

/// Ids are unique on one nsqd.
type Key = (Arc<str>, MessageId);

/// See the module. It holds at most `limit` ids.
#[derive(Debug)]
pub(super) struct Recent {
    limit: usize,
    order: VecDeque<Key>,
    known: HashSet<Key>,
}

impl Recent {
    pub(super) fn new(limit: usize) -> Self {
        Recent { limit, order: VecDeque::new(), known: HashSet::new() }
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.known.contains(key)
    }

    /// Remembers a finished message, and forgets the oldest beyond the limit.
    pub(super) fn add(&mut self, key: Key) {
        if !self.known.insert(key.clone()) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ids_are_remembered() {
        let key = |node: &str, id| (Arc::from(node), MessageId::from_u64(id));
        let mut recent = Recent::new(2);
        recent.add(key("a", 1));
        recent.add(key("a", 1));
        recent.add(key("a", 2));
        assert!(recent.contains(&key("a", 1)) && !recent.contains(&key("b", 1)));
        recent.add(key("b", 1));
        assert!(!recent.contains(&key("a", 1)), "the oldest is forgotten");
        assert!(recent.contains(&key("a", 2)) && recent.contains(&key("b", 1)));
        assert_eq!((recent.order.len(), recent.known.len()), (2, 2));
    }
}
