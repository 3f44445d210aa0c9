//! Pure: the node numbers at the start of a topic's message ids. All ids begin with this node's number, except for
//! messages published before `--node-id` (or the host name it is made of) was changed. These keep their ids.

use std::collections::BTreeMap;

use super::index::sequence_of;
use crate::storage::SEQUENCE_BITS;

/// A message id without its sequence number: identifies the node that assigned it.
pub fn base_of(id: u64) -> u64 {
    id & !((1 << SEQUENCE_BITS) - 1)
}

/// Messages with ids of other nodes; see the module. Contains every such message that can be in flight: it is added
/// when it is found in the journal, or read from disk to be handed out.
#[derive(Debug, Default)]
pub struct ForeignIds {
    /// First sequence number to one past the last, and the base of their ids. There are few: one for each change of the
    /// node's number, and a few more if messages in between are finished.
    runs: BTreeMap<u64, (u64, u64)>,
}

impl ForeignIds {
    /// Adds a message with an id of another node.
    pub fn learn(&mut self, id: u64) {
        let (sequence, base) = (sequence_of(id), base_of(id));
        let before = self.runs.range(..=sequence).next_back().map(|(&from, &run)| (from, run));
        if before.is_some_and(|(_, (to, _))| sequence < to) {
            return;
        }
        let mut run = (sequence, (sequence + 1, base));
        if let Some((from, (to, of))) = before
            && to == sequence
            && of == base
        {
            run.0 = from;
        }
        if let Some(&(to, of)) = self.runs.get(&(sequence + 1))
            && of == base
        {
            self.runs.remove(&(sequence + 1));
            run.1.0 = to;
        }
        self.runs.insert(run.0, run.1);
    }

    /// The base of this message's id, if it is another node's.
    pub fn base_of(&self, sequence: u64) -> Option<u64> {
        let (_, &(to, base)) = self.runs.range(..=sequence).next_back()?;
        (sequence < to).then_some(base)
    }

    /// Forgets runs that end at or before `sequence`.
    pub fn forget_before(&mut self, sequence: u64) {
        while let Some(first) = self.runs.first_entry().filter(|first| first.get().0 <= sequence) {
            first.remove();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn returns_the_bases_it_learned(ids in proptest::collection::vec((0u64..60, 0u64..3), 0..100), floor in 0u64..60) {
            let mut foreign = ForeignIds::default();
            let mut model = BTreeMap::new();
            for (sequence, node) in ids {
                let base = node << SEQUENCE_BITS;
                foreign.learn(base | sequence);
                // A message has one id.
                model.entry(sequence).or_insert(base);
            }
            for sequence in 0..70 {
                prop_assert_eq!(foreign.base_of(sequence), model.get(&sequence).copied());
            }
            foreign.forget_before(floor);
            for sequence in floor..70 {
                prop_assert_eq!(foreign.base_of(sequence), model.get(&sequence).copied());
            }
            foreign.forget_before(70);
            prop_assert!(foreign.is_empty());
        }
    }

    #[test]
    fn consecutive_ids_are_one_run() {
        let mut foreign = ForeignIds::default();
        (0..1000).rev().for_each(|sequence| foreign.learn(5 << SEQUENCE_BITS | sequence));
        (1000..2000).for_each(|sequence| foreign.learn(5 << SEQUENCE_BITS | sequence));
        assert_eq!(foreign.runs.len(), 1);
    }
}
