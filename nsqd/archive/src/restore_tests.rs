//! A journal and other files, archived through a faulty store and restored: the same records and bytes come back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nsq_storage::file::FileStorage;
use nsq_storage::journal::{FILE_HEADER_BYTES, HeaderCopy, Journal, JournalOptions, Lsn, file_number};
use nsq_storage::record::Record;
use nsq_storage::{Durability, TopicNumber};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::chain::End;
use crate::chunk::{Builder, Piece};
use crate::claim::{About, Why};
use crate::faulty::{Faults, FaultyObjects};
use crate::names::{Epoch, LogId, Name, Place};
use crate::objects::{Objects, Remedy, StoreError};
use crate::owner::{NewChunk, Owner, OwnerError, Patience, new_nonce};
use crate::ownership::Opener;
use crate::reader::{self, ReadError};
use crate::snapshot::{File, FileName, PartOf, Snapshot, TAIL_BYTES};

const LOG: LogId = LogId([7; 16]);
/// Short, because an answer of this store comes at once or never.
const PATIENCE: Patience =
    Patience { request_timeout: Duration::from_millis(5), attempts: 3, pause: Duration::from_micros(100) };
/// Every call fails now and then, in every way.
const FAULTS: Faults = Faults { refused: 8, lost: 8, repeated: 8, hung: 3 };

fn opener(owner: &str) -> Opener {
    Opener {
        log: LOG,
        owner: owner.to_owned(),
        address: format!("{owner}:4150"),
        why: Why::Start,
        nonce: new_nonce(),
        now: 1,
    }
}

/// A failure of the store that passes.
fn is_passing(error: &OwnerError) -> bool {
    matches!(error, OwnerError::Store(StoreError { remedy: Remedy::Wait, .. }))
}

async fn open(objects: &Arc<dyn Objects>, owner: &str) -> Owner {
    for _ in 0..1000 {
        match Owner::open(objects.clone(), opener(owner), PATIENCE).await {
            Ok(owner) => return owner,
            Err(error) => assert!(is_passing(&error), "{error}"),
        }
    }
    panic!("the store never works")
}

async fn append(owner: &mut Owner, chunk: &NewChunk, made_at: i64) -> Place {
    let mut appended = owner.append(chunk, made_at).await.map(Some);
    for _ in 0..1000 {
        match appended {
            Ok(Some(place)) => return place,
            Ok(None) => panic!("the append is lost"),
            Err(error) => assert!(is_passing(&error), "{error}"),
        }
        appended = owner.finish_append().await;
    }
    panic!("the store never works")
}

/// The whole records of a journal from `from` on.
fn records_from(dir: &Path, from: Lsn) -> Vec<Piece> {
    let names =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| file_number(name).is_some()).collect();
    names.sort_unstable();
    let mut pieces = Vec::new();
    for name in names {
        let bytes = std::fs::read(dir.join(&name)).unwrap();
        let header = HeaderCopy::decode(bytes.first_chunk().unwrap()).unwrap();
        let number = u64::from(header.file_number());
        if number < from.file_number() {
            continue;
        }
        let offset = if number == from.file_number() { from.offset() } else { FILE_HEADER_BYTES };
        let rest = &bytes[offset as usize..];
        let length = header.whole_records(rest, offset);
        if length > 0 {
            pieces.push(Piece { header, offset: offset as u32, bytes: rest[..length].to_vec() });
        }
    }
    pieces
}

fn open_journal(dir: &Path) -> (Arc<Journal>, Vec<(Lsn, Vec<u8>)>) {
    let mut options = JournalOptions::new(dir, Durability::Write);
    options.file_bytes = 4096;
    let mut records = Vec::new();
    let (journal, report) = Journal::open(Arc::new(FileStorage), options, &mut |lsn, record| {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        records.push((lsn, bytes));
    })
    .unwrap();
    assert!(report.damaged.is_empty() && report.torn_at.is_none(), "{report:?}");
    (journal, records)
}

/// A node: its journal, its other files, and what of them is in the archive.
struct Node {
    dir: tempfile::TempDir,
    journal: Arc<Journal>,
    archived: Lsn,
    /// The chunks of this epoch, and where their records begin.
    chunks: Vec<(Place, Lsn)>,
    files: BTreeMap<FileName, Vec<u8>>,
    uploaded: BTreeMap<FileName, Vec<PartOf>>,
    now: i64,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = open_journal(dir.path());
        Node {
            dir,
            journal,
            archived: Lsn(1 << 32 | FILE_HEADER_BYTES),
            chunks: Vec::new(),
            files: BTreeMap::new(),
            uploaded: BTreeMap::new(),
            now: 0,
        }
    }

    fn write(&mut self, random: &mut SmallRng, sequence: u64) {
        let frames = vec![random.random(); random.random_range(1..600)];
        let record = Record::Publish {
            topic: TopicNumber(1),
            first_sequence: sequence,
            count: 1,
            due_ns: None,
            only: None,
            frames: &frames,
        };
        self.journal.append_lazy(&record);
        self.journal.flush().unwrap();
        let name = FileName::Segment { topic: TopicNumber(1), number: random.random_range(1..4) };
        self.files.entry(name).or_default().extend_from_slice(&frames);
    }

    /// Archives what is new in the journal.
    async fn archive(&mut self, owner: &mut Owner) {
        let mut builder = Builder::default();
        let mut to = self.archived;
        for piece in records_from(self.dir.path(), self.archived) {
            builder.add(&piece);
            to = piece.to();
        }
        if builder.is_empty() {
            return;
        }
        self.now += 1;
        let chunk = NewChunk { content: builder.take(), from: self.archived, to };
        let place = append(owner, &chunk, self.now).await;
        self.chunks.push((place, self.archived));
        self.archived = to;
    }

    async fn snapshot(&mut self, owner: &mut Owner) {
        self.archive(owner).await;
        self.files.insert(FileName::Checkpoint, format!("checkpoint at {}", self.archived).into_bytes());
        self.uploaded.remove(&FileName::Checkpoint);
        self.now += 1;
        let mut files = Vec::new();
        for (&name, bytes) in &self.files {
            let parts = self.uploaded.entry(name).or_default();
            let done: u64 = parts.iter().map(|part| part.bytes).sum();
            let new = &bytes[done as usize..];
            if !new.is_empty() {
                let place = loop {
                    match owner.write_part(&[b"other", new].concat(), self.now).await {
                        Ok(place) => break place,
                        Err(error) => assert!(is_passing(&error), "{error}"),
                    }
                };
                parts.push(PartOf { place, offset: 5, bytes: new.len() as u64 });
            }
            let tail = crc32c::crc32c(&bytes[bytes.len().saturating_sub(TAIL_BYTES as usize)..]);
            files.push(File { name, tail, parts: parts.clone() });
        }
        let from = Lsn(self.archived.file_number() << 32 | FILE_HEADER_BYTES);
        let before = self.chunks.partition_point(|(_, begin)| *begin <= from);
        let first_chunk = self.chunks[before.saturating_sub(1)].0;
        let snapshot = Snapshot { first_chunk, from, to: self.archived, files };
        while let Err(error) = owner.write_snapshot(&snapshot, self.now).await {
            assert!(is_passing(&error), "{error}");
        }
    }
}

async fn archive_and_restore(seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let store = Arc::new(FaultyObjects::new(seed, FAULTS));
    let objects: Arc<dyn Objects> = store.clone();
    let mut node = Node::new();
    let mut owner = open(&objects, "a").await;
    // Each epoch of this test begins at the start of the journal, so that its snapshots need no chunk of another one.
    let begin = node.archived;
    for sequence in 1..=60 {
        node.write(&mut random, sequence);
        match random.random_range(0..12) {
            0..5 => node.archive(&mut owner).await,
            5 => node.snapshot(&mut owner).await,
            6 => {
                let collected = owner.collect_garbage(node.now, Duration::ZERO).await;
                assert!(collected.as_ref().map_or_else(is_passing, |_| true), "{collected:?}");
            }
            7 if sequence % 3 == 0 => {
                owner = open(&objects, "a").await;
                node.archived = begin;
                node.chunks.clear();
                node.archive(&mut owner).await;
            }
            _ => {}
        }
    }
    node.archive(&mut owner).await;
    node.snapshot(&mut owner).await;
    node.write(&mut random, 61);
    node.archive(&mut owner).await;
    store.set_faults(Faults::NONE);

    let restored = tempfile::tempdir().unwrap();
    let summary = reader::restore(&objects, LOG, restored.path(), None).await.unwrap();
    assert_eq!(reader::verify(&objects, LOG, None).await.unwrap(), summary);
    assert_eq!((summary.end, &summary.why_ended, &summary.damaged), (node.archived, &End::Last, &vec![]));
    node.journal.close().unwrap();
    let (_journal, local) = open_journal(node.dir.path());
    let (_journal, back) = open_journal(&restored.path().join("journal"));
    let oldest = back.first().unwrap().0;
    let expected: Vec<_> = local.into_iter().filter(|(lsn, _)| *lsn >= oldest).collect();
    assert_eq!(back, expected);
    assert_eq!(oldest.offset(), FILE_HEADER_BYTES, "a journal file is restored from its first record on");
    for (name, bytes) in &node.files {
        let read = std::fs::read(restored.path().join(name.to_string())).unwrap();
        // The last publish came after the snapshot.
        assert!(bytes.starts_with(&read), "{name}");
    }
    assert_eq!(summary.file_count, node.files.len() as u64);
}

#[tokio::test]
async fn what_was_archived_through_a_faulty_store_is_restored() {
    for seed in 0..40 {
        archive_and_restore(seed).await;
    }
}

/// An archive of one epoch with a snapshot after its second chunk, in a store without faults.
async fn small_archive() -> (Arc<FaultyObjects>, Arc<dyn Objects>, Node, Owner) {
    let store = Arc::new(FaultyObjects::new(1, Faults::NONE));
    let objects: Arc<dyn Objects> = store.clone();
    let mut random = SmallRng::seed_from_u64(1);
    let mut node = Node::new();
    let mut owner = open(&objects, "a").await;
    for sequence in 1..=4 {
        node.write(&mut random, sequence);
        node.archive(&mut owner).await;
        if sequence == 2 {
            node.snapshot(&mut owner).await;
        }
    }
    (store, objects, node, owner)
}

async fn damage(store: &FaultyObjects, name: Name) {
    let key = name.key(LOG);
    let mut object = store.stored().all()[&key].to_vec();
    let last = object.len() - 1;
    object[last] ^= 1;
    store.stored().replace(&key, object.into()).await.unwrap();
}

#[tokio::test]
async fn a_damaged_chunk_ends_the_journal_before_it() {
    let (store, objects, ..) = small_archive().await;
    damage(&store, Name::Chunk(Place::new(Epoch(1), 3))).await;
    let summary = reader::verify(&objects, LOG, None).await.unwrap();
    assert_eq!(summary.chunk_count, 3);
    assert!(matches!(summary.why_ended, End::Broken(_)), "{summary:?}");

    damage(&store, Name::Chunk(Place::new(Epoch(1), 1))).await;
    let error = reader::verify(&objects, LOG, None).await.unwrap_err();
    assert!(matches!(&error, ReadError::NoSnapshot { unusable, .. } if unusable.len() == 1), "{error}");
    assert!(error.to_string().contains("chunk 1/1 cannot be read: its content is damaged"), "{error}");
}

#[tokio::test]
async fn a_damaged_snapshot_leaves_the_one_before() {
    let (store, objects, mut node, mut owner) = small_archive().await;
    node.snapshot(&mut owner).await;
    damage(&store, Name::Snapshot(Place::new(Epoch(1), 3))).await;
    let summary = reader::verify(&objects, LOG, None).await.unwrap();
    assert_eq!(summary.snapshot, Place::new(Epoch(1), 1));
    assert_eq!((summary.unusable.len(), summary.chunk_count), (1, 4));
}

#[tokio::test]
async fn a_damaged_part_makes_only_its_snapshots_unusable() {
    let (store, objects, mut node, mut owner) = small_archive().await;
    let before = store.stored().all();
    node.snapshot(&mut owner).await;
    let new = store
        .stored()
        .all()
        .into_keys()
        .find(|key| key.contains("/b/") && !before.contains_key(key))
        .unwrap();
    let (_, name) = Name::parse(&new).unwrap();
    damage(&store, name).await;
    let summary = reader::verify(&objects, LOG, None).await.unwrap();
    assert_eq!(summary.snapshot, Place::new(Epoch(1), 1));
}

#[tokio::test]
async fn a_moment_in_the_past_is_restored() {
    let (_store, objects, mut node, mut owner) = small_archive().await;
    let at = node.now;
    node.snapshot(&mut owner).await;
    node.write(&mut SmallRng::seed_from_u64(9), 5);
    node.archive(&mut owner).await;
    let summary = reader::verify(&objects, LOG, Some(at)).await.unwrap();
    assert_eq!((summary.snapshot.number, summary.chunk_count, &summary.why_ended), (1, 4, &End::Until));
    let error = reader::verify(&objects, LOG, Some(0)).await.unwrap_err();
    assert!(matches!(error, ReadError::NoSnapshot { .. }), "{error}");
}

#[tokio::test]
async fn a_second_process_with_the_same_log_fences_the_first() {
    let (_store, objects, mut node, mut first) = small_archive().await;
    let mut second = open(&objects, "b").await;
    assert_eq!(second.epoch(), Epoch(2));
    node.write(&mut SmallRng::seed_from_u64(2), 5);
    let chunk = NewChunk { content: Vec::new(), from: node.archived, to: node.archived };
    for _ in 0..2 {
        let error = first.append(&chunk, 9).await.unwrap_err();
        assert!(error.to_string().contains("b sealed 1/4 with the claim of epoch 2"), "{error}");
    }
    second.append(&chunk, 9).await.unwrap();
}

#[tokio::test]
async fn a_chunk_is_accepted_only_after_the_one_before() {
    let (store, objects, node, mut owner) = small_archive().await;
    let chunk = NewChunk { content: Vec::new(), from: node.archived, to: node.archived };
    store.set_faults(Faults { lost: 100, ..Faults::NONE });
    let error = owner.append(&chunk, 9).await.unwrap_err();
    assert!(is_passing(&error) && owner.is_appending(), "{error}");
    assert!(matches!(owner.append(&chunk, 9).await, Err(OwnerError::Unfinished)));
    store.set_faults(Faults::NONE);
    // It landed although each answer was lost.
    assert_eq!(owner.finish_append().await.unwrap(), Some(Place::new(Epoch(1), 4)));
    assert_eq!(owner.finish_append().await.unwrap(), None);
    assert_eq!(reader::verify(&objects, LOG, None).await.unwrap().chunk_count, 5);
    owner.append(&chunk, 9).await.unwrap();
}

#[tokio::test]
async fn restoring_needs_an_empty_directory_and_a_known_log() {
    let (_store, objects, ..) = small_archive().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x"), "").unwrap();
    let error = reader::restore(&objects, LOG, dir.path(), None).await.unwrap_err();
    assert!(matches!(error, ReadError::NotEmpty(_)), "{error}");
    let unknown = LogId([8; 16]);
    assert!(
        matches!(reader::verify(&objects, unknown, None).await, Err(ReadError::NoSuchLog(log)) if log == unknown)
    );
}

#[tokio::test]
async fn logs_are_listed_with_their_owners() {
    let (_store, objects, _, owner) = small_archive().await;
    assert_eq!(reader::logs(&objects).await.unwrap(), [(LOG, None)]);
    let about = About {
        log: LOG.to_string(),
        owner: "a".to_owned(),
        address: "a:4150".to_owned(),
        version: "1".to_owned(),
        data_path: "/data".to_owned(),
        made_at: 3,
    };
    owner.describe(&about).await.unwrap();
    assert_eq!(reader::logs(&objects).await.unwrap(), [(LOG, Some(about))]);
}
