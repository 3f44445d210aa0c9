//! The import of NSQ's data directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bolero::TypeGenerator;
use bolero::generator::*;
use nsq_daemon::log::Logger;
use nsq_fuzz::edit::Input;
use nsq_fuzz::frames::{self, Stored};
use nsq_fuzz::memory_storage::MemoryStorage;
use nsq_fuzz::number::Number;
use nsq_fuzz::{FILE_RUNS, fuzz};
use nsqd::import::diskqueue::{self, Found, Position, QueueFile, RecordScan};
use nsqd::import::metadata::Metadata;
use nsqd::import::{ImportError, take_over};
use nsqd::storage::Storage;
use nsqd::storage::checkpoint;
use nsqd::storage::data_dir::DataDir;
use nsqd::storage::segment::SegmentStore;

use crate::damage::Damage;
use crate::start::LIMITS;

const DIR: &str = "/data";

/// A record of a disk queue, as NSQ writes it.
fn record(number: u64, attempts: u16) -> (Vec<u8>, Stored) {
    let body: Vec<u8> = (0..number % 40).map(|at| (number * 7 + at) as u8).collect();
    let timestamp_ns = 1_700_000_000_000_000_000 + number as i64;
    let mut bytes = (26 + body.len() as u32).to_be_bytes().to_vec();
    bytes.extend(timestamp_ns.to_be_bytes());
    bytes.extend(attempts.to_be_bytes());
    bytes.extend(format!("{number:016x}").as_bytes());
    bytes.extend(&body);
    (bytes, (timestamp_ns, body))
}

/// A data file and its records: where each starts and ends, and its message.
#[derive(Default)]
struct DataFile {
    bytes: Vec<u8>,
    records: Vec<(u64, u64, Stored)>,
}

/// A directory as NSQ leaves it after a stop.
struct NsqDir {
    storage: Arc<MemoryStorage>,
    /// Data files by queue and number.
    queues: BTreeMap<&'static str, BTreeMap<u64, DataFile>>,
    paths: Vec<PathBuf>,
}

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

impl NsqDir {
    fn new() -> Self {
        let storage = MemoryStorage::with_dir(DIR);
        let mut queues: BTreeMap<&str, BTreeMap<u64, DataFile>> = BTreeMap::new();
        // Equal numbers in both channels are copies of one message.
        for (queue, numbers) in [("orders", 100..112), ("orders:billing", 1..25), ("orders:audit", 10..30)] {
            let files = queues.entry(queue).or_default();
            for number in numbers {
                let (bytes, message) = record(number, u16::from(number % 5 == 0));
                let file = files.entry(3 + number / 10).or_default();
                let start = file.bytes.len() as u64;
                file.bytes.extend(bytes);
                file.records.push((start, file.bytes.len() as u64, message));
            }
            let read = files.first_entry().map_or((0, 0), |first| (*first.key(), first.get().records[1].0));
            let write = files.last_entry().map_or((0, 0), |last| (*last.key(), last.get().bytes.len()));
            let text = format!("{}\n{},{}\n{},{}\n", 10, read.0, read.1, write.0, write.1);
            storage.put(path(&diskqueue::position_file_name(queue)), text.into_bytes());
            for (&number, file) in files.iter() {
                storage.put(path(&diskqueue::data_file_name(queue, number)), file.bytes.clone());
            }
        }
        let metadata = br#"{"topics":[{"name":"orders","paused":false,"channels":[{"name":"billing","paused":true},
            {"name":"audit","paused":false}]},{"name":"other","paused":true,"channels":[]}],"version":"1.3.0"}"#;
        storage.put(path("nsqd.dat"), metadata.to_vec());
        let paths = storage.files().into_keys().collect();
        NsqDir { storage, queues, paths }
    }

    /// The messages that the importer must find: whole records behind the read position and before the first changed
    /// byte of their file.
    fn expected(&self, files: &BTreeMap<PathBuf, Vec<u8>>) -> BTreeSet<Stored> {
        let names: Vec<String> =
            files.keys().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
        let mut expected = BTreeSet::new();
        for (&queue, data) in &self.queues {
            let text = files.get(&path(&diskqueue::position_file_name(queue)));
            let position = text.map(|text| Position::parse(text));
            let numbers = names.iter().filter_map(|name| match diskqueue::parse_file_name(name) {
                Some((of, QueueFile::Data(number))) if of == queue => Some(number),
                _ => None,
            });
            let numbers: BTreeSet<u64> = numbers.collect();
            let bytes = |number: u64| &files[&path(&diskqueue::data_file_name(queue, number))];
            let file = |&number: &u64| diskqueue::DataFile { number, bytes: bytes(number).len() as u64 };
            let files: Vec<_> = numbers.iter().map(file).collect();
            let (stretches, _) = diskqueue::plan(position, &files);
            for stretch in stretches {
                let Some(original) = data.get(&stretch.number) else { continue };
                let same =
                    original.bytes.iter().zip(bytes(stretch.number)).take_while(|(one, other)| one == other);
                let same = same.count() as u64;
                // If the position file was changed, it may point into a record.
                if !original.records.iter().any(|&(start, ..)| start == stretch.from) {
                    continue;
                }
                let kept =
                    original.records.iter().filter(|&&(start, end, _)| start >= stretch.from && end <= same);
                expected.extend(kept.map(|(.., message)| message.clone()));
            }
        }
        expected
    }
}

fn import(storage: &Arc<MemoryStorage>) -> Result<(), ImportError> {
    let storage: Arc<dyn Storage> = storage.clone();
    let data_dir = DataDir::open(&storage, DIR)?;
    take_over(&storage, &data_dir, &LIMITS, &Logger::silent(), 1_800_000_000_000_000_000)
}

/// All messages in the segments of the topics in the checkpoint.
fn imported(storage: &Arc<MemoryStorage>) -> BTreeSet<Stored> {
    let loaded = checkpoint::load(&**storage, &path("checkpoint")).expect("memory can be read");
    let saved = loaded.checkpoint.expect("an import writes a checkpoint");
    let mut messages = BTreeSet::new();
    for topic in &saved.topics {
        let as_storage: Arc<dyn Storage> = storage.clone();
        let dir = path("topics").join(topic.number.to_string());
        let (_, blocks, report) =
            SegmentStore::open(as_storage, dir, LIMITS.max_bytes_per_file).expect("memory can be read");
        assert!(report.damaged.is_empty() && report.cut_bytes == 0, "{report:?}");
        assert_eq!(report.messages, topic.message_count);
        for block in blocks {
            let block_messages = block.read().expect("just written");
            let count = block.count as usize;
            messages.extend((0..count).filter_map(|at| Some(frames::stored(block_messages.frame(at)?))));
        }
    }
    messages
}

fn check_damaged(dir: &NsqDir, damage: &Damage) {
    let storage = dir.storage.copy();
    damage.apply(&storage, &dir.paths);
    let before = storage.files();
    let metadata = before.get(&path("nsqd.dat")).map(|text| Metadata::parse(text));
    match (import(&storage), &metadata) {
        (Ok(()), Some(Ok(metadata))) => {
            let messages = imported(&storage);
            // Queues of a topic or channel that the changed metadata does not name are left alone.
            let names_all = metadata.topics.iter().any(|(name, topic)| {
                let has = |channel: &str| topic.channels.keys().any(|name| name.as_str() == channel);
                name.as_str() == "orders" && has("billing") && has("audit")
            });
            let lost: Vec<Stored> = dir.expected(&before).difference(&messages).cloned().collect();
            assert!(!names_all || lost.is_empty(), "lost {lost:?}");
        }
        (Ok(()), None) => assert_eq!(storage.files(), before),
        (Err(ImportError::ParseMetadata { .. }), Some(Err(_))) => assert_eq!(storage.files(), before),
        (result, _) => panic!("{result:?} with {metadata:?}"),
    }
    // Whatever happened, every file of NSQ still has its bytes, possibly under a new name.
    let after = storage.files();
    for (path, bytes) in &before {
        let renamed =
            path.with_file_name(format!("{}.imported", path.file_name().unwrap_or_default().display()));
        let kept = [path, &renamed].into_iter().find_map(|path| after.get(path));
        assert_eq!(kept, Some(bytes), "{}", path.display());
    }
    // The next start imports nothing again.
    if matches!(metadata, Some(Ok(_))) {
        import(&storage).expect("an import can be repeated");
        assert_eq!(storage.files(), after);
    }
}

/// The import keeps all files, loses no whole record before the damage, and fails only for invalid metadata.
#[test]
fn import_of_nsq() {
    let dir = std::panic::AssertUnwindSafe(NsqDir::new());
    let all: usize =
        dir.queues.values().flat_map(|files| files.values()).map(|file| file.records.len()).sum();
    assert!(dir.expected(&dir.storage.files()).len() > all / 2);
    check_damaged(&dir, &Damage::default());
    fuzz!(Damage, FILE_RUNS, |damage| check_damaged(&dir, damage));
}

/// A queue: its position file, and its data file with any length before and any number of other files.
#[derive(Clone, Debug, TypeGenerator)]
struct Queue {
    position: Input,
    data: Input,
    /// Numbers of other data files, and their lengths.
    #[generator(produce::<Vec<(Number, u32)>>().with().len(0usize..4))]
    others: Vec<(Number, u32)>,
    number: u8,
}

#[test]
fn last_file_number_is_planned() {
    let position = Position::parse(format!("1\n0,0\n{},9\n", u64::MAX).as_bytes());
    let (stretches, oddities) =
        diskqueue::plan(Some(position), &[diskqueue::DataFile { number: 0, bytes: 66 }]);
    assert_eq!((stretches.len(), oddities.len()), (1, 1));
    let (stretches, _) = diskqueue::plan(None, &[diskqueue::DataFile { number: u64::MAX, bytes: 66 }]);
    assert_eq!(stretches.len(), 1);
}

/// Whatever the files of a queue contain: the parts to read lie in the files, and every byte of a part is a record,
/// damage or torn.
#[test]
fn disk_queue_reader() {
    let positions =
        [b"3\n0,0\n1,66\n".to_vec(), b"0\n2,10\n2,10\n".to_vec(), b"1\n0,0\n18446744073709551615,9".to_vec()];
    let records = [record(5, 0).0, record(39, 3).0, record(0, u16::MAX).0];
    fuzz!(Queue, FILE_RUNS, |queue| {
        let data = queue.data.bytes(&records);
        let number = u64::from(queue.number % 3);
        let others = queue.others.iter().map(|&(number, bytes)| (number.get(), u64::from(bytes)));
        let files: BTreeMap<u64, u64> = others.chain([(number, data.len() as u64)]).collect();
        let file = |(number, bytes)| diskqueue::DataFile { number, bytes };
        let files: Vec<_> = files.into_iter().map(file).collect();
        let storage = MemoryStorage::with_dir(DIR);
        storage.put(path("data"), data);
        let file = storage.open(&path("data")).expect("it exists");
        for position in [None, Some(Position::parse(&queue.position.bytes(&positions)))] {
            let (stretches, _) = diskqueue::plan(position, &files);
            assert!(stretches.is_sorted_by(|one, other| one.number < other.number));
            for stretch in stretches {
                let len = files.iter().find(|file| file.number == stretch.number).expect("a file").bytes;
                assert!(stretch.from < stretch.to && stretch.to == len && stretch.whole_to <= stretch.to);
                if stretch.number != number {
                    continue;
                }
                let mut scan = RecordScan::new(&*file, stretch);
                let mut at = stretch.from;
                while let Some(found) = scan.advance().expect("memory can be read") {
                    let (start, bytes) = match found {
                        Found::Record(start, header) => (start, header.record_bytes()),
                        Found::Damage { offset, bytes } | Found::Torn { offset, bytes } => (offset, bytes),
                    };
                    assert!(start == at && bytes > 0, "{found:?} at {at}");
                    at += bytes;
                    if matches!(found, Found::Torn { .. }) {
                        assert!(start >= stretch.whole_to && at == stretch.to);
                    }
                }
                assert_eq!(at, stretch.to);
            }
        }
    });
}
