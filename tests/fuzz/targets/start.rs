//! A whole start, on damaged files and on files with right checksums that no nsqd wrote.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bolero::TypeGenerator;
use bolero::generator::*;
use nsq_fuzz::edit::Input;
use nsq_fuzz::memory_storage::MemoryStorage;
use nsq_fuzz::number::Number;
use nsq_fuzz::{FILE_RUNS, frames, fuzz};
use nsqd::engine::EngineLimits;
use nsqd::startup::verify::{Verified, VerifyError, verify};
use nsqd::storage::data_dir::DataDirError;
use nsqd::storage::journal::{Journal, JournalOptions};
use nsqd::storage::record::Record;
use nsqd::storage::segment::SegmentStore;
use nsqd::storage::{ChannelNumber, Durability, SequenceRange, Storage, TopicNumber, checkpoint};

use crate::checkpoint as checkpoints;
use crate::damage::Damage;

const DIR: &str = "/data";
const TOPIC: TopicNumber = TopicNumber(1);
const CHANNEL: ChannelNumber = ChannelNumber(1);

pub const LIMITS: EngineLimits = EngineLimits {
    mem_queue_size: 50,
    mem_queue_bytes: 8 * 1024,
    node_id: 7,
    max_bytes_per_file: 4 * 1024,
    chunk_bytes: 512,
    journal_file_bytes: 4096,
    ..EngineLimits::DEFAULT
};

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Runs a start on a copy of the files, and reads all messages.
fn start(storage: &MemoryStorage) -> Result<Verified, VerifyError> {
    verify(Path::new(DIR), &|| storage.copy() as Arc<dyn Storage>, LIMITS, &mut |_, _| {})
}

fn write_journal<'a>(storage: &Arc<MemoryStorage>, records: impl IntoIterator<Item = Record<'a>>) {
    let as_storage: Arc<dyn Storage> = storage.clone();
    let options =
        JournalOptions { file_bytes: 4096, ..JournalOptions::new(path("journal"), Durability::Write) };
    let (journal, _) = Journal::open(as_storage, options, &mut |_, _| {}).expect("a new journal");
    for record in records {
        journal.append_lazy(&record);
    }
    journal.close().expect("memory can be written");
}

fn write_segments(storage: &Arc<MemoryStorage>, runs: &[(u64, u32)]) {
    let as_storage: Arc<dyn Storage> = storage.clone();
    storage.create_dir_all(&path("topics")).expect("memory can be written");
    let mut store = SegmentStore::new(as_storage, path("topics/1"), LIMITS.max_bytes_per_file);
    for &(from, count) in runs {
        store.append(from, count, &frames::run(from, count)).expect("memory can be written");
    }
    store.sync().expect("memory can be synced");
}

/// A directory with a journal, segments and two checkpoints.
fn data_dir() -> Arc<MemoryStorage> {
    let storage = MemoryStorage::with_dir(DIR);
    storage.put(path("format"), b"1\n".to_vec());
    write_segments(&storage, &[(100, 5), (105, 20)]);
    let frames: Vec<Vec<u8>> = (125..160).map(|sequence| frames::run(sequence, 1)).collect();
    let names = [
        Record::TopicCreated { topic: TOPIC, name: "orders", first_sequence: 100 },
        Record::ChannelCreated { topic: TOPIC, channel: CHANNEL, name: "billing", cursor: 100 },
    ];
    let publishes = (125..).zip(&frames).map(|(first_sequence, frames)| Record::Publish {
        topic: TOPIC,
        first_sequence,
        count: 1,
        due_ns: None,
        only: None,
        frames,
    });
    let runs = [SequenceRange::new(130, 134)];
    let finish = Record::Finish { topic: TOPIC, channel: CHANNEL, runs: (&runs).into() };
    write_journal(&storage, names.into_iter().chain(publishes).chain([finish]));
    let saved = checkpoint::Checkpoint {
        next_topic_number: TOPIC.next(),
        next_channel_number: CHANNEL.next(),
        topics: vec![checkpoint::TopicCheckpoint {
            number: TOPIC,
            name: "orders".to_owned(),
            next_sequence: 125,
            released: 125,
            releasing: true,
            message_count: 25,
            channels: vec![checkpoint::ChannelCheckpoint {
                number: CHANNEL,
                name: "billing".to_owned(),
                cursor: 100,
                message_count: 25,
                ..checkpoint::ChannelCheckpoint::default()
            }],
            ..checkpoint::TopicCheckpoint::default()
        }],
        ..checkpoint::Checkpoint::default()
    };
    for _ in 0..2 {
        checkpoint::write(&*storage, &path("checkpoint"), &saved).expect("memory can be written");
    }
    storage
}

/// A start on damaged files succeeds, unless the file with the version of the directory names a newer one.
#[test]
fn start_on_damaged_files() {
    let storage = std::panic::AssertUnwindSafe(data_dir());
    let whole = start(&storage).expect("a start works");
    assert!(whole.findings.is_empty(), "{:?}", whole.findings);
    assert_eq!(whole.message_count, 25);
    let paths: Vec<PathBuf> = storage.files().into_keys().collect();
    fuzz!(Damage, FILE_RUNS, |damage| {
        let storage = storage.copy();
        damage.apply(&storage, &paths);
        match start(&storage) {
            Ok(verified) => assert!(verified.message_count <= 25),
            Err(VerifyError::DataDir(DataDirError::NewerVersion { .. })) => {}
            Err(error) => panic!("a start fails: {error}"),
        }
    });
}

/// A record of the journal that need not make sense.
#[derive(Clone, Debug, TypeGenerator)]
enum Fact {
    Publish { topic: u8, first: Sequence, count: u8, due: Option<i64>, only: Option<u8>, frames: u8 },
    Finish { topic: u8, channel: u8, first: Sequence, length: Sequence },
    Requeue { topic: u8, channel: u8, sequence: Sequence, attempts: u16, failures: u16, due: i64 },
    Removed { topic: u8, channel: u8, first: Sequence, length: Sequence },
    TopicCreated { topic: u8, name: u8, first: Sequence },
    TopicDeleted { topic: u8 },
    TopicState { topic: u8, paused: bool, released: Sequence, releasing: bool },
    TopicSkipped { topic: u8, from: Sequence, to: Sequence },
    ChannelCreated { topic: u8, channel: u8, name: u8, cursor: Sequence },
    ChannelDeleted { topic: u8, channel: u8 },
    ChannelPaused { topic: u8, channel: u8, paused: bool },
    ChannelEmptied { topic: u8, channel: u8, up_to: Sequence },
    TopicRetention { topic: u8, own: bool, for_ns: Number, bytes: Number, from: Sequence },
    ChannelMoved { topic: u8, channel: u8, to: Sequence, forward: bool },
    ChannelUndone { topic: u8, channel: u8, cursor: Sequence, first: Sequence, length: Sequence },
    TopicSettings { topic: u8, settings: u8 },
    ChannelSettings { topic: u8, channel: u8, settings: u8 },
    TopicIdsForgotten { topic: u8, before: Sequence },
}

fn one_topic(number: u8) -> TopicNumber {
    TopicNumber(few(number))
}

fn one_channel(number: u8) -> ChannelNumber {
    ChannelNumber(few(number))
}

/// Few numbers, so that records are about the same topics and channels.
fn few(number: u8) -> u32 {
    if number == u8::MAX { u32::MAX - 1 } else { u32::from(number % 3) }
}

/// Mostly sequence numbers close to each other, sometimes far ones.
#[derive(Clone, Copy, Debug, TypeGenerator)]
struct Sequence {
    near: u16,
    far: u8,
}

impl From<Sequence> for u64 {
    fn from(Sequence { near, far }: Sequence) -> u64 {
        let base = match far {
            0..=246 => 0,
            far => 1 << (6 * u32::from(far - 246)),
        };
        base + u64::from(near)
    }
}

impl Fact {
    /// Passes the record on, if it is one that a reader accepts.
    fn with_record(&self, pass: impl FnOnce(Record<'_>)) {
        const NAMES: [&str; 5] = ["orders", "billing", "x#ephemeral", "not a name", ""];
        const SETTINGS: [&str; 5] =
            ["", "retain_for=1h0m0s\n", "retry=list 1s\nmax_attempts=2\n", "retry=x\n", "?"];
        let name = |choice: u8| NAMES[usize::from(choice) % NAMES.len()];
        let text = |choice: u8| SETTINGS[usize::from(choice) % SETTINGS.len()];
        let (frames, runs);
        let record = match *self {
            Fact::Publish { topic, first, count, due, only, frames: frame_count } => {
                let (first, count) = (u64::from(first), u32::from(count % 8));
                // Mostly as many frames as the record says.
                let frame_count = if frame_count < 200 { count } else { u32::from(frame_count % 4) };
                frames = frames::run(first, frame_count);
                Record::Publish {
                    topic: one_topic(topic),
                    first_sequence: first,
                    count,
                    due_ns: due,
                    only: only.map(one_channel),
                    frames: &frames,
                }
            }
            Fact::Finish { topic, channel, first, length } => {
                runs = [SequenceRange::new(u64::from(first), u64::from(first) + u64::from(length))];
                Record::Finish {
                    topic: one_topic(topic),
                    channel: one_channel(channel),
                    runs: (&runs).into(),
                }
            }
            Fact::Removed { topic, channel, first, length } => {
                runs = [SequenceRange::new(u64::from(first), u64::from(first) + u64::from(length))];
                Record::Removed {
                    topic: one_topic(topic),
                    channel: one_channel(channel),
                    runs: (&runs).into(),
                }
            }
            Fact::Requeue { topic, channel, sequence, attempts, failures, due } => Record::Requeue {
                topic: one_topic(topic),
                channel: one_channel(channel),
                sequence: u64::from(sequence),
                attempts,
                failures,
                due_ns: due,
            },
            Fact::TopicCreated { topic, name: choice, first } => Record::TopicCreated {
                topic: one_topic(topic),
                name: name(choice),
                first_sequence: u64::from(first),
            },
            Fact::TopicDeleted { topic } => Record::TopicDeleted { topic: one_topic(topic) },
            Fact::TopicState { topic, paused, released, releasing } => Record::TopicState {
                topic: one_topic(topic),
                paused,
                released: u64::from(released),
                releasing,
            },
            Fact::TopicSkipped { topic, from, to } => {
                Record::TopicSkipped { topic: one_topic(topic), from: u64::from(from), to: u64::from(to) }
            }
            Fact::ChannelCreated { topic, channel, name: choice, cursor } => Record::ChannelCreated {
                topic: one_topic(topic),
                channel: one_channel(channel),
                name: name(choice),
                cursor: u64::from(cursor),
            },
            Fact::ChannelDeleted { topic, channel } => {
                Record::ChannelDeleted { topic: one_topic(topic), channel: one_channel(channel) }
            }
            Fact::ChannelPaused { topic, channel, paused } => {
                Record::ChannelPaused { topic: one_topic(topic), channel: one_channel(channel), paused }
            }
            Fact::ChannelEmptied { topic, channel, up_to } => Record::ChannelEmptied {
                topic: one_topic(topic),
                channel: one_channel(channel),
                up_to: u64::from(up_to),
            },
            Fact::TopicRetention { topic, own, for_ns, bytes, from } => Record::TopicRetention {
                topic: one_topic(topic),
                own,
                for_ns: for_ns.get(),
                bytes: bytes.get(),
                from: u64::from(from),
            },
            Fact::ChannelMoved { topic, channel, to, forward } => Record::ChannelMoved {
                topic: one_topic(topic),
                channel: one_channel(channel),
                to: u64::from(to),
                forward,
            },
            Fact::ChannelUndone { topic, channel, cursor, first, length } => {
                runs = [SequenceRange::new(u64::from(first), u64::from(first) + u64::from(length))];
                Record::ChannelUndone {
                    topic: one_topic(topic),
                    channel: one_channel(channel),
                    cursor: u64::from(cursor),
                    runs: (&runs).into(),
                }
            }
            Fact::TopicSettings { topic, settings } => {
                Record::TopicSettings { topic: one_topic(topic), settings: text(settings) }
            }
            Fact::ChannelSettings { topic, channel, settings } => Record::ChannelSettings {
                topic: one_topic(topic),
                channel: one_channel(channel),
                settings: text(settings),
            },
            Fact::TopicIdsForgotten { topic, before } => {
                Record::TopicIdsForgotten { topic: one_topic(topic), before: u64::from(before) }
            }
        };
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        if Record::decode(&bytes).is_ok() {
            pass(record);
        }
    }
}

/// Files with right checksums.
#[derive(Clone, Debug, TypeGenerator)]
struct Nonsense {
    #[generator(produce::<Vec<Fact>>().with().len(0usize..12))]
    facts: Vec<Fact>,
    checkpoint: Option<Input>,
    /// Runs of messages in the segments of topic 1.
    #[generator(produce::<Vec<(u16, u8)>>().with().len(0usize..3))]
    segments: Vec<(u16, u8)>,
}

/// Records, checkpoints and segments that contradict each other: a start reports that or fails, but does not panic.
#[test]
fn start_on_nonsense() {
    let samples = checkpoints::contents();
    fuzz!(Nonsense, FILE_RUNS, |nonsense| {
        let storage = MemoryStorage::with_dir(DIR);
        let runs = nonsense.segments.iter().map(|&(from, count)| (u64::from(from), 1 + u32::from(count % 8)));
        let runs: Vec<_> = runs.collect();
        write_segments(&storage, &runs);
        let mut encoded = Vec::new();
        for fact in &nonsense.facts {
            fact.with_record(|record| {
                let mut bytes = Vec::new();
                record.encode(&mut bytes);
                encoded.push(bytes);
            });
        }
        write_journal(&storage, encoded.iter().filter_map(|bytes| Record::decode(bytes).ok()));
        if let Some(content) = &nonsense.checkpoint {
            storage.put(path("checkpoint"), checkpoints::file(&content.bytes(&samples)));
        }
        let _ = start(&storage);
    });
}

#[test]
fn start_on_a_requeue_of_the_last_message() {
    let storage = MemoryStorage::with_dir(DIR);
    let records = [
        Record::TopicCreated { topic: TOPIC, name: "orders", first_sequence: 100 },
        Record::ChannelCreated { topic: TOPIC, channel: CHANNEL, name: "billing", cursor: 100 },
        Record::Requeue {
            topic: TOPIC,
            channel: CHANNEL,
            sequence: u64::MAX,
            attempts: 1,
            failures: 0,
            due_ns: 0,
        },
    ];
    write_journal(&storage, records);
    let verified = start(&storage).expect("a start works");
    assert!(!verified.findings.is_empty(), "the record is invalid");
}

#[test]
fn start_on_the_last_topic_number() {
    let storage = MemoryStorage::with_dir(DIR);
    write_journal(
        &storage,
        [Record::TopicCreated { topic: TopicNumber::MAX, name: "orders", first_sequence: 100 }],
    );
    start(&storage).expect("a start works");
}
