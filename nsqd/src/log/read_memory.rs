//! Data read from segments that may be needed again: bounded over all topics, and freed when idle.
//!
//! - blocks of topics with several channels, which read the same blocks at about the same time;
//! - indexes of blocks, to read single messages (see [`BlockIndex`]);
//! - a count of the bytes that channels hold (see [`ReadCache`](super::read_cache::ReadCache)): it decides whether they
//!   may read ahead.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::chunk::Chunk;
use crate::storage::segment::{BlockIndex, BlockKey};

/// Bytes of blocks kept for other channels.
const MAX_BLOCK_BYTES: usize = 64 << 20;
/// Bytes of indexes: enough for a backlog of 10 GB and more.
const MAX_INDEX_BYTES: usize = 32 << 20;
/// Channels read ahead only while they hold fewer bytes than this.
const MAX_AHEAD_BYTES: usize = 128 << 20;

/// The shared cache; see the module.
#[derive(Debug)]
pub struct ReadMemory {
    blocks: Mutex<Generations<BlockKey, Arc<HeldChunk>>>,
    indexes: Mutex<Generations<BlockKey, Arc<BlockIndex>>>,
    held_bytes: AtomicUsize,
}

impl Default for ReadMemory {
    fn default() -> Self {
        ReadMemory {
            blocks: Mutex::new(Generations::new(MAX_BLOCK_BYTES)),
            indexes: Mutex::new(Generations::new(MAX_INDEX_BYTES)),
            held_bytes: AtomicUsize::new(0),
        }
    }
}

impl ReadMemory {
    /// Wraps a block that was read; its bytes count until the last handle is dropped.
    pub fn hold(self: &Arc<Self>, chunk: Chunk) -> Arc<HeldChunk> {
        let held = self.count(chunk.len_bytes());
        Arc::new(HeldChunk { chunk, _held: held })
    }

    /// Counts bytes until the returned guard is dropped.
    pub fn count(self: &Arc<Self>, bytes: usize) -> HeldBytes {
        self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        HeldBytes { memory: self.clone(), bytes }
    }

    /// Whether there is room for read-ahead.
    pub fn may_read_ahead(&self) -> bool {
        self.held_bytes.load(Ordering::Relaxed) < MAX_AHEAD_BYTES
    }

    /// A block that another channel has read.
    pub fn block(&self, key: BlockKey) -> Option<Arc<HeldChunk>> {
        self.blocks.lock().get(&key)
    }

    /// Keeps a block for other channels.
    pub fn put_block(&self, key: BlockKey, chunk: Arc<HeldChunk>) {
        let bytes = chunk.chunk.len_bytes();
        self.blocks.lock().put(key, chunk, bytes);
    }

    /// The index of a block, if it was read before.
    pub fn index(&self, key: BlockKey) -> Option<Arc<BlockIndex>> {
        self.indexes.lock().get(&key)
    }

    /// Keeps the index of a block.
    pub fn put_index(&self, key: BlockKey, index: Arc<BlockIndex>) {
        let bytes = index.memory_bytes();
        self.indexes.lock().put(key, index, bytes);
    }

    /// Frees entries that were not used since the call before the last one.
    pub fn age(&self) {
        let old = (self.blocks.lock().age(), self.indexes.lock().age());
        drop(old);
    }

    /// Bytes of all held blocks and batches, and of indexes.
    pub fn bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed) + self.indexes.lock().bytes()
    }
}

/// A block in memory.
#[derive(Debug)]
pub struct HeldChunk {
    pub chunk: Chunk,
    _held: HeldBytes,
}

/// Bytes that count as long as this lives.
#[derive(Debug)]
pub struct HeldBytes {
    memory: Arc<ReadMemory>,
    bytes: usize,
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.memory.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A bounded map, roughly least recently used: when the young half is full, the old half is dropped.
#[derive(Debug)]
struct Generations<K, V> {
    young: HashMap<K, (V, usize)>,
    old: HashMap<K, (V, usize)>,
    young_bytes: usize,
    old_bytes: usize,
    max_bytes: usize,
}

impl<K: Eq + Hash + Copy, V: Clone> Generations<K, V> {
    fn new(max_bytes: usize) -> Self {
        Generations { young: HashMap::new(), old: HashMap::new(), young_bytes: 0, old_bytes: 0, max_bytes }
    }

    fn get(&mut self, key: &K) -> Option<V> {
        if let Some((value, _)) = self.young.get(key) {
            return Some(value.clone());
        }
        let (value, bytes) = self.old.remove(key)?;
        self.old_bytes -= bytes;
        self.put(*key, value.clone(), bytes);
        Some(value)
    }

    fn put(&mut self, key: K, value: V, bytes: usize) {
        if self.young_bytes + bytes > self.max_bytes / 2 {
            self.age();
        }
        // A value beyond the bound is not kept.
        if bytes > self.max_bytes / 2 {
            return;
        }
        self.young_bytes += bytes;
        if let Some((_, before)) = self.young.insert(key, (value, bytes)) {
            self.young_bytes -= before;
        }
    }

    /// Makes the young half the old one, and returns the previous old half.
    fn age(&mut self) -> HashMap<K, (V, usize)> {
        self.old_bytes = std::mem::take(&mut self.young_bytes);
        std::mem::replace(&mut self.old, std::mem::take(&mut self.young))
    }

    fn bytes(&self) -> usize {
        self.young_bytes + self.old_bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unused_values_are_dropped_and_used_ones_kept() {
        let mut kept = Generations::new(100);
        kept.put(1, "used", 10);
        kept.put(2, "unused", 10);
        for _ in 0..5 {
            assert_eq!(kept.get(&1), Some("used"));
            kept.age();
        }
        assert_eq!((kept.get(&1), kept.get(&2)), (Some("used"), None));
        kept.age();
        kept.age();
        assert_eq!((kept.get(&1), kept.bytes()), (None, 0));
    }

    #[test]
    fn held_bytes_count_while_they_are_held() {
        let memory = Arc::new(ReadMemory::default());
        let held = memory.count(MAX_AHEAD_BYTES);
        assert!(!memory.may_read_ahead());
        drop(held);
        assert!(memory.may_read_ahead());
        assert_eq!(memory.bytes(), 0);
    }

    proptest! {
        #[test]
        fn stays_within_the_bound_and_returns_the_right_values(
            steps in prop::collection::vec((0_u8..12, 0_usize..70, any::<bool>()), 1..200),
        ) {
            let mut kept = Generations::new(100);
            for (key, bytes, puts) in steps {
                if puts {
                    kept.put(key, u32::from(key), bytes);
                } else if let Some(value) = kept.get(&key) {
                    prop_assert_eq!(value, u32::from(key));
                }
                prop_assert!(kept.bytes() <= 100);
                let sum = |half: &HashMap<u8, (u32, usize)>| half.values().map(|(_, bytes)| *bytes).sum::<usize>();
                prop_assert_eq!(kept.bytes(), sum(&kept.young) + sum(&kept.old));
            }
        }
    }
}
