//! Pure: the blocks of a topic's segments by sequence number, without overlaps.

use std::collections::BTreeMap;

use crate::storage::segment::BlockRef;

/// The blocks of a topic; see the module.
#[derive(Debug, Default)]
pub struct Blocks(BTreeMap<u64, BlockRef>);

impl Blocks {
    /// The oldest block.
    pub fn first(&self) -> Option<&BlockRef> {
        self.0.first_key_value().map(|(_, block)| block)
    }

    /// The newest block.
    pub fn last(&self) -> Option<&BlockRef> {
        self.0.last_key_value().map(|(_, block)| block)
    }

    /// All blocks, in order.
    pub fn iter(&self) -> impl Iterator<Item = &BlockRef> {
        self.0.values()
    }

    /// The block with this message, if there is one, and all later blocks.
    pub fn since(&self, sequence: u64) -> impl Iterator<Item = &BlockRef> {
        let holding =
            self.0.range(..sequence).next_back().filter(|(_, block)| block.end_sequence() > sequence);
        holding.into_iter().chain(self.0.range(sequence..)).map(|(_, block)| block)
    }

    /// The block with this message.
    pub fn holding(&self, sequence: u64) -> Option<&BlockRef> {
        self.since(sequence).next().filter(|block| block.first_sequence <= sequence)
    }

    /// Adds a block whose messages are in no other block.
    pub fn insert(&mut self, block: BlockRef) {
        self.0.insert(block.first_sequence, block);
    }

    /// Removes this block. Returns whether it was still there.
    pub fn remove(&mut self, block: &BlockRef) -> bool {
        let is_there = self.0.get(&block.first_sequence).is_some_and(|known| known.is(block));
        if is_there {
            self.0.remove(&block.first_sequence);
        }
        is_there
    }

    /// Removes the blocks that end at or before `floor`.
    pub fn trim(&mut self, floor: u64) {
        while let Some(first) = self.0.first_entry()
            && first.get().end_sequence() <= floor
        {
            first.remove();
        }
    }

    /// Whether a block here has any message of `block`.
    pub fn overlap(&self, block: &BlockRef) -> bool {
        self.since(block.first_sequence)
            .next()
            .is_some_and(|other| other.first_sequence < block.end_sequence())
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}
