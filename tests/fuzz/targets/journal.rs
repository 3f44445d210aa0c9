//! The reader of the journal, and of its records.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bolero::TypeGenerator;
use nsq_fuzz::edit::Input;
use nsq_fuzz::memory_storage::MemoryStorage;
use nsq_fuzz::{FILE_RUNS, frames, fuzz};
use nsqd::storage::journal::{DamagedRange, Journal, JournalOptions, JournalReport, Lsn, file_name};
use nsqd::storage::record::Record;
use nsqd::storage::{ChannelNumber, Durability, SequenceRange, Storage, TopicNumber};

use crate::damage::{Change, Damage};

const DIR: &str = "/journal";
/// The smallest size of a journal file.
const FILE_BYTES: u64 = 4096;
const FILES: u64 = 3;
const TOPIC: TopicNumber = TopicNumber(1);
const CHANNEL: ChannelNumber = ChannelNumber(2);

fn options() -> JournalOptions {
    JournalOptions { file_bytes: FILE_BYTES, ..JournalOptions::new(DIR, Durability::Write) }
}

const FINISHED: [SequenceRange; 2] = [SequenceRange::one(100), SequenceRange::new(104, 106)];
const REMOVED: [SequenceRange; 1] = [SequenceRange::new(101, 103)];

/// One record of each kind.
fn some_records(frames: &[u8]) -> Vec<Record<'_>> {
    vec![
        Record::TopicCreated { topic: TOPIC, name: "orders", first_sequence: 100 },
        Record::ChannelCreated { topic: TOPIC, channel: CHANNEL, name: "billing", cursor: 100 },
        Record::Publish { topic: TOPIC, first_sequence: 100, count: 3, due_ns: None, only: None, frames },
        Record::Publish {
            topic: TOPIC,
            first_sequence: 103,
            count: 3,
            due_ns: Some(1 << 60),
            only: None,
            frames,
        },
        Record::Finish { topic: TOPIC, channel: CHANNEL, runs: (&FINISHED).into() },
        Record::Requeue {
            topic: TOPIC,
            channel: CHANNEL,
            sequence: 101,
            attempts: 2,
            failures: 0,
            due_ns: 0,
        },
        Record::Requeue {
            topic: TOPIC,
            channel: CHANNEL,
            sequence: 102,
            attempts: 3,
            failures: 2,
            due_ns: 0,
        },
        Record::Publish {
            topic: TOPIC,
            first_sequence: 106,
            count: 3,
            due_ns: None,
            only: Some(CHANNEL),
            frames,
        },
        Record::Removed { topic: TOPIC, channel: CHANNEL, runs: (&REMOVED).into() },
        Record::TopicState { topic: TOPIC, paused: true, released: 103, releasing: false },
        Record::TopicSkipped { topic: TOPIC, from: 106, to: 108 },
        Record::ChannelPaused { topic: TOPIC, channel: CHANNEL, paused: true },
        Record::ChannelEmptied { topic: TOPIC, channel: CHANNEL, up_to: 104 },
        Record::TopicRetention { topic: TOPIC, own: true, for_ns: 1, bytes: 2, from: 100 },
        Record::ChannelMoved { topic: TOPIC, channel: CHANNEL, to: 101, forward: false },
        Record::ChannelUndone { topic: TOPIC, channel: CHANNEL, cursor: 105, runs: (&REMOVED).into() },
        Record::TopicSettings { topic: TOPIC, settings: "retain_for=1h0m0s\n" },
        Record::ChannelSettings { topic: TOPIC, channel: CHANNEL, settings: "retry=list 1s\n" },
        Record::TopicIdsForgotten { topic: TOPIC, before: 103 },
        Record::ChannelDeleted { topic: TOPIC, channel: CHANNEL },
        Record::TopicDeleted { topic: TOPIC },
    ]
}

fn encoded(record: &Record<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    bytes
}

/// A record and its place.
type Read = BTreeMap<Lsn, Vec<u8>>;

/// Opens the journal as a start does.
fn read(storage: &Arc<MemoryStorage>) -> (Read, JournalReport) {
    let storage: Arc<dyn Storage> = storage.clone();
    let mut read = Read::new();
    let mut last = None;
    let (_journal, report) = Journal::open(storage, options(), &mut |at, record| {
        assert!(last < Some(at), "records must come in order");
        last = Some(at);
        read.insert(at, encoded(&record));
    })
    .expect("damage must not make a start fail");
    assert_eq!(report.records, read.len() as u64);
    (read, report)
}

/// A journal of a few files, as it is after a kill.
fn written() -> (Arc<MemoryStorage>, Read) {
    let storage = MemoryStorage::with_dir(DIR);
    let as_storage: Arc<dyn Storage> = storage.clone();
    let (journal, _) = Journal::open(as_storage, options(), &mut |_, _| {}).expect("a new journal");
    let frames = frames::run(100, 3);
    let mut number = 0;
    while journal.files().len() < FILES as usize || number % 14 != 9 {
        let record = some_records(&frames)[number % 14];
        // The outcome is that of the flush.
        drop(journal.append(&record).expect("the journal accepts records"));
        journal.flush().expect("memory can be written");
        number += 1;
    }
    let killed = storage.copy();
    let (records, report) = read(&killed.copy());
    assert!(report.is_complete() && report.torn_at.is_none(), "{report:?}");
    assert_eq!(records.len(), number);
    (killed, records)
}

fn check_damaged(original: &MemoryStorage, records: &Read, damage: &Damage) {
    let storage = original.copy();
    let paths: Vec<PathBuf> = (1..=FILES).map(|number| Path::new(DIR).join(file_name(number))).collect();
    let origins = damage.apply(&storage, &paths);
    // The newest file that is left, under whatever name.
    let newest = origins.iter().flatten().max().copied();
    let newest_path = paths.iter().zip(&origins).find(|(_, origin)| newest.is_some() && **origin == newest);
    let newest_bytes = newest_path.and_then(|(path, _)| storage.files().remove(path)).unwrap_or_default();
    let newest_number = newest.map_or(0, |file| file as u64 + 1);
    let (read, report) = read(&storage);
    for (at, record) in &read {
        assert_eq!(records.get(at), Some(record), "a record at {at} that nobody wrote");
    }
    // After several changes, one report may stand for all: what the first file lost may have said what the next one holds.
    let is_one_place = matches!(damage.changes[..], [] | [Change::Bytes(..) | Change::Delete(_)]);
    let is_reported = |at: &Lsn| {
        let covers = |damage: &DamagedRange| {
            at.file_number() == damage.lsn.file_number()
                && (damage.lsn.offset()..damage.lsn.offset() + damage.bytes).contains(&at.offset())
        };
        (!is_one_place && !report.is_complete())
            || report.damaged.iter().any(covers)
            || report.missing_files.contains(&at.file_number())
            // The newest file has no successor that says where it ends.
            || (at.file_number() == newest_number && is_end(&newest_bytes, at, &report))
            || at.file_number() > newest_number
    };
    let unreported: Vec<&Lsn> =
        records.keys().filter(|at| !read.contains_key(at) && !is_reported(at)).collect();
    assert!(unreported.is_empty(), "missing and not reported: {unreported:?}; {report:?}");

    // A second start reads the same.
    let (again, _) = self::read(&storage);
    assert_eq!(again, read);
}

/// Whether the newest file ends at or before `at`: with a write that was cut off, or as if nothing had been written
/// behind its end.
fn is_end(newest: &[u8], at: &Lsn, report: &JournalReport) -> bool {
    let rest = newest.get(report.end.offset() as usize..).unwrap_or_default();
    let has_terminator = rest.iter().take(4).all(|&byte| byte == 0);
    report.end <= *at && (report.torn_at.is_some() || has_terminator)
}

/// A start reads no record that was not written, and says so if one is missing.
#[test]
fn journal_files() {
    let (original, records) = written();
    let original = std::panic::AssertUnwindSafe(original);
    check_damaged(&original, &records, &Damage::default());
    fuzz!(Damage, FILE_RUNS, |damage| {
        check_damaged(&original, &records, damage);
    });
}

#[derive(Clone, Debug, TypeGenerator)]
struct Kind(u8, Input);

/// A record is decoded completely or not at all, and its own form is decoded as the same record.
#[test]
fn journal_records() {
    let frames = frames::run(100, 3);
    let samples: Vec<Vec<u8>> = some_records(&frames).iter().map(encoded).collect();
    let check_record = |bytes: &[u8]| {
        let Ok(record) = Record::decode(bytes) else { return };
        let again = encoded(&record);
        assert_eq!(Record::decode(&again), Ok(record));
        if let Record::Finish { runs, .. } = record {
            assert!(runs.iter().all(|run| run.from <= run.to));
        }
    };
    for (sample, record) in samples.iter().zip(some_records(&frames)) {
        assert_eq!(Record::decode(sample), Ok(record));
    }
    fuzz!(Kind, FILE_RUNS, |Kind(kind, input)| {
        let mut bytes = input.bytes(&samples);
        check_record(&bytes);
        // Most first bytes are no kind.
        bytes.insert(0, kind % 16);
        check_record(&bytes);
    });
}
