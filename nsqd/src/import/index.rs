//! An index of all messages of a topic's queues, in the order in which they were published.
//!
//! It holds a few words per message, and no bodies. Above a limit, entries are sorted in pieces, written to files, and
//! merged during reading. The memory needed does not grow with the backlog.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::storage::{Storage, StorageFile};

/// Maximum number of entries in memory, 24 bytes each. More entries are written to a file.
pub const MAX_ENTRIES_IN_MEMORY: usize = 2 << 20;
/// Maximum number of copies of one message that are handled together. More copies are unusual and are taken as further
/// messages.
const MAX_GROUP: usize = 4096;
const ENTRY_BYTES: usize = 24;
/// Bytes per read or write.
const PIECE_BYTES: usize = 2048 * ENTRY_BYTES;

/// A record in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexEntry {
    /// Time of the publish.
    pub timestamp_ns: i64,
    /// The message's id.
    pub id: u64,
    /// Place of the record, see [`super::convert`].
    pub place: u64,
}

pub struct IndexWriter {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    max_entries: usize,
    entries: Vec<IndexEntry>,
    runs: Vec<Run>,
}

struct Run {
    path: PathBuf,
    file: Arc<dyn StorageFile>,
    bytes: u64,
}

impl IndexWriter {
    /// An empty index. `dir` must exist; it holds the index's files, if needed.
    pub fn new(storage: Arc<dyn Storage>, dir: PathBuf, max_entries: usize) -> Self {
        IndexWriter { storage, dir, max_entries, entries: Vec::new(), runs: Vec::new() }
    }

    pub fn push(&mut self, entry: IndexEntry) -> io::Result<()> {
        if self.entries.len() >= self.max_entries {
            self.write_run()?;
        }
        self.entries.push(entry);
        Ok(())
    }

    fn write_run(&mut self) -> io::Result<()> {
        self.entries.sort_unstable();
        let path = self.dir.join(format!("{}.index", self.runs.len()));
        let file = self.storage.create(&path, 0)?;
        let mut bytes = 0;
        for entries in self.entries.chunks(PIECE_BYTES / ENTRY_BYTES) {
            let piece: Vec<u8> = entries.iter().flat_map(encode).collect();
            file.write_all_at(&piece, bytes)?;
            bytes += piece.len() as u64;
        }
        self.entries.clear();
        self.runs.push(Run { path, file, bytes });
        Ok(())
    }

    /// Ends the collection.
    pub fn finish(mut self) -> Index {
        self.entries.sort_unstable();
        Index { storage: self.storage, entries: self.entries, runs: self.runs }
    }
}

/// The entries, which can be read in order repeatedly.
pub struct Index {
    storage: Arc<dyn Storage>,
    entries: Vec<IndexEntry>,
    runs: Vec<Run>,
}

impl Index {
    /// Starts at the first entry.
    pub fn read(&self) -> io::Result<IndexReader<'_>> {
        let mut sources: Vec<Source<'_>> = self
            .runs
            .iter()
            .map(|run| Source { run: Some(run), offset: 0, entries: &[], piece: Vec::new() })
            .collect();
        sources.push(Source { run: None, offset: 0, entries: &self.entries, piece: Vec::new() });
        let mut reader = IndexReader { next: BinaryHeap::with_capacity(sources.len()), sources };
        for source in 0..reader.sources.len() {
            reader.refill(source)?;
        }
        Ok(reader)
    }

    /// Deletes the index's files.
    pub fn remove(self) -> io::Result<()> {
        self.runs.iter().try_for_each(|run| self.storage.remove(&run.path))
    }
}

/// Merges the sorted pieces.
pub struct IndexReader<'a> {
    sources: Vec<Source<'a>>,
    /// The next entry of each source that has one.
    next: BinaryHeap<Reverse<(IndexEntry, usize)>>,
}

struct Source<'a> {
    run: Option<&'a Run>,
    offset: u64,
    /// For the source in memory: the remaining entries.
    entries: &'a [IndexEntry],
    /// For a source in a file: entries that were read and not yet returned, last first.
    piece: Vec<IndexEntry>,
}

impl IndexReader<'_> {
    /// Fills `group` with the next entries of equal time and id, sorted by place. Returns `false` at the end.
    pub fn next_group(&mut self, group: &mut Vec<IndexEntry>) -> io::Result<bool> {
        group.clear();
        while let Some(&Reverse((entry, source))) = self.next.peek()
            && group.len() < MAX_GROUP
            && group
                .first()
                .is_none_or(|first| (first.timestamp_ns, first.id) == (entry.timestamp_ns, entry.id))
        {
            self.next.pop();
            group.push(entry);
            self.refill(source)?;
        }
        Ok(!group.is_empty())
    }

    fn refill(&mut self, source: usize) -> io::Result<()> {
        if let Some(entry) = self.sources[source].next()? {
            self.next.push(Reverse((entry, source)));
        }
        Ok(())
    }
}

impl Source<'_> {
    fn next(&mut self) -> io::Result<Option<IndexEntry>> {
        let Some(run) = self.run else {
            let Some((first, rest)) = self.entries.split_first() else { return Ok(None) };
            self.entries = rest;
            return Ok(Some(*first));
        };
        if self.piece.is_empty() && self.offset < run.bytes {
            let mut bytes = vec![0; PIECE_BYTES.min((run.bytes - self.offset) as usize)];
            if run.file.read_at(&mut bytes, self.offset)? < bytes.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.offset += bytes.len() as u64;
            self.piece.extend(bytes.chunks_exact(ENTRY_BYTES).rev().map(decode));
        }
        Ok(self.piece.pop())
    }
}

fn encode(entry: &IndexEntry) -> [u8; ENTRY_BYTES] {
    let mut bytes = [0; ENTRY_BYTES];
    bytes[..8].copy_from_slice(&entry.timestamp_ns.to_le_bytes());
    bytes[8..16].copy_from_slice(&entry.id.to_le_bytes());
    bytes[16..].copy_from_slice(&entry.place.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> IndexEntry {
    let word = |at: usize| bytes[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
    IndexEntry { timestamp_ns: word(0) as i64, id: word(8), place: word(16) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::storage::faulty::FaultyStorage;

    proptest! {
        #[test]
        fn entries_are_read_in_order_in_groups_with_any_memory_limit(
            entries in proptest::collection::vec((-3i64..3, 0u64..3), 0..300),
            max_entries in 1usize..100,
        ) {
            let storage = FaultyStorage::default();
            storage.create_dir_all("/i".as_ref()).unwrap();
            let mut writer = IndexWriter::new(Arc::new(storage.clone()), "/i".into(), max_entries);
            let mut expected = Vec::new();
            for (place, (timestamp_ns, id)) in (0..).zip(entries) {
                let entry = IndexEntry { timestamp_ns, id, place };
                writer.push(entry).unwrap();
                expected.push(entry);
            }
            expected.sort_unstable();
            let index = writer.finish();
            for _ in 0..2 {
                let (mut found, mut group) = (Vec::new(), Vec::new());
                let mut reader = index.read().unwrap();
                while reader.next_group(&mut group).unwrap() {
                    prop_assert!(group.iter().all(|entry| (entry.timestamp_ns, entry.id)
                        == (group[0].timestamp_ns, group[0].id)));
                    found.append(&mut group);
                }
                prop_assert_eq!(&found, &expected);
            }
            index.remove().unwrap();
            prop_assert!(storage.paths().is_empty());
        }
    }
}
