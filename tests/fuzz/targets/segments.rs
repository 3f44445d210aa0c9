//! The reader of a topic's segments.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nsq_fuzz::memory_storage::MemoryStorage;
use nsq_fuzz::{FILE_RUNS, frames, fuzz};
use nsqd::storage::Storage;
use nsqd::storage::segment::{FILE_HEADER_BYTES, ReadError, SegmentReport, SegmentStore};

use crate::damage::Damage;

const DIR: &str = "/topics/1";
const MAX_FILE_BYTES: u64 = 1500;
const FIRST_SEQUENCE: u64 = 1000;

/// What was written.
struct Written {
    storage: Arc<MemoryStorage>,
    /// Frame of each message.
    frames: BTreeMap<u64, Vec<u8>>,
    /// The files, oldest first.
    paths: Vec<PathBuf>,
    /// Per file: where each block ends, and the numbers of its messages.
    ends: BTreeMap<PathBuf, Vec<(u64, BTreeSet<u64>)>>,
}

fn write() -> Written {
    let storage = MemoryStorage::with_dir("/topics");
    let as_storage: Arc<dyn Storage> = storage.clone();
    let mut store = SegmentStore::new(as_storage, DIR, MAX_FILE_BYTES);
    let (mut frames, mut ends) = (BTreeMap::new(), BTreeMap::<PathBuf, Vec<_>>::new());
    let mut sequence = FIRST_SEQUENCE;
    while store.files().count() < 3 || !sequence.is_multiple_of(7) {
        let count = 1 + (sequence % 5) as u32;
        let block =
            store.append(sequence, count, &frames::run(sequence, count)).expect("memory can be written");
        let numbers: BTreeSet<u64> = (sequence..block.end_sequence()).collect();
        for &number in &numbers {
            frames.insert(number, frames::run(number, 1));
        }
        let path = Path::new(DIR).join(format!("{:020}.segment", block.file_number()));
        ends.entry(path).or_default().push((block.offset() + u64::from(block.bytes), numbers));
        sequence = block.end_sequence();
    }
    store.sync().expect("memory can be synced");
    let storage = storage.copy();
    let paths: Vec<PathBuf> = ends.keys().cloned().collect();
    assert_eq!(storage.files().keys().cloned().collect::<Vec<_>>(), paths);
    Written { storage, frames, paths, ends }
}

/// The messages that can be read, and whether a block could not be read.
fn read(storage: &Arc<MemoryStorage>) -> (BTreeMap<u64, Vec<u8>>, bool, SegmentReport) {
    let as_storage: Arc<dyn Storage> = storage.clone();
    let (_store, blocks, report) =
        SegmentStore::open(as_storage, DIR, MAX_FILE_BYTES).expect("damage must not make a start fail");
    assert_eq!(blocks.len(), report.blocks);
    let (mut messages, mut is_damaged) = (BTreeMap::new(), false);
    for block in &blocks {
        let loaded = match block.read() {
            Ok(loaded) => loaded,
            Err(ReadError::Damaged { .. }) => {
                is_damaged = true;
                continue;
            }
            Err(ReadError::Io { error, .. }) => panic!("memory can be read: {error}"),
        };
        let count = block.count as usize;
        let one_by_one: Vec<Vec<u8>> = (0..count).filter_map(|at| Some(loaded.frame(at)?.to_vec())).collect();
        assert_eq!(one_by_one.len(), count);
        // The way in which single messages are delivered again.
        let wanted: Vec<u32> = (0..block.count).step_by(2).collect();
        let mut taken = Vec::new();
        block
            .read_frames(&loaded.index(), &wanted, |index, frame| taken.push((index, frame.to_vec())))
            .expect("the block has just been read");
        let expected: Vec<(u32, Vec<u8>)> =
            wanted.iter().map(|&index| (index, one_by_one[index as usize].clone())).collect();
        assert_eq!(taken, expected);
        messages.extend((block.first_sequence..).zip(one_by_one));
    }
    (messages, is_damaged, report)
}

/// The messages whose loss cannot be noticed here: those of a file that is missing, and of blocks behind the end of a
/// file that ends with a whole block. The journal and the checkpoint know of them.
fn not_noticeable(written: &Written, storage: &MemoryStorage) -> BTreeSet<u64> {
    let (original, now) = (written.storage.files(), storage.files());
    let mut numbers = BTreeSet::new();
    for (path, ends) in &written.ends {
        let whole = &original[path];
        let kept = match now.get(path) {
            None => 0,
            Some(bytes) if whole.starts_with(bytes) => bytes.len() as u64,
            Some(_) => continue,
        };
        if kept <= FILE_HEADER_BYTES || ends.iter().any(|&(end, _)| end == kept) {
            numbers.extend(ends.iter().filter(|&&(end, _)| end > kept).flat_map(|(_, numbers)| numbers));
        }
    }
    numbers
}

fn check_damaged(written: &Written, damage: &Damage) {
    let storage = written.storage.copy();
    damage.apply(&storage, &written.paths);
    let excused = not_noticeable(written, &storage);
    let (messages, is_damaged, report) = read(&storage);
    for (number, frame) in &messages {
        assert_eq!(written.frames.get(number), Some(frame), "message {number} that nobody wrote");
    }
    let is_reported =
        is_damaged || !report.damaged.is_empty() || !report.set_aside.is_empty() || report.cut_bytes > 0;
    let unreported: Vec<&u64> = (written.frames.keys())
        .filter(|number| !messages.contains_key(number) && !is_reported && !excused.contains(number))
        .collect();
    assert!(unreported.is_empty(), "missing and not reported: {unreported:?}; {report:?}");

    // A second start reads the same.
    assert_eq!(read(&storage).0, messages);
}

/// A start finds no message that was not written, and says so if one is missing.
#[test]
fn segment_files() {
    let written = std::panic::AssertUnwindSafe(write());
    check_damaged(&written, &Damage::default());
    fuzz!(Damage, FILE_RUNS, |damage| check_damaged(&written, damage));
}
