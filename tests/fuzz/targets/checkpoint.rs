//! The reader of checkpoints.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nsq_fuzz::edit::Input;
use nsq_fuzz::memory_storage::MemoryStorage;
use nsq_fuzz::{FILE_RUNS, fuzz};
use nsqd::storage::checkpoint::{
    self, ChannelCheckpoint, Checkpoint, LossCheckpoint, OutstandingCheckpoint, RetentionCheckpoint,
    TopicCheckpoint,
};
use nsqd::storage::journal::Lsn;

use crate::damage::Damage;
use nsqd::storage::{ChannelNumber, SequenceRange, TopicNumber};

const DIR: &str = "/data";

fn newest() -> PathBuf {
    Path::new(DIR).join("checkpoint")
}

fn previous() -> PathBuf {
    Path::new(DIR).join("checkpoint.previous")
}

fn sample(count: u64) -> Checkpoint {
    let outstanding = (0..count).map(|n| OutstandingCheckpoint {
        sequence: 90 + 3 * n,
        attempts: 1,
        due_ns: (n % 2) as i64,
    });
    let channel = ChannelCheckpoint {
        number: ChannelNumber(3),
        name: "billing".to_owned(),
        paused: true,
        cursor: 1000,
        skipped_ahead: vec![SequenceRange::new(1001, 1003)],
        outstanding: outstanding.collect(),
        message_count: count,
        requeue_count: 1,
        timeout_count: 2,
        settings: "retry=list 1s\n".to_owned(),
        failures: vec![(90, 2), (93, 1)],
        dead_letter_count: 3,
        expired_count: 4,
        overflow_count: 5,
        filtered_count: 6,
        cancelled_count: 3,
        loss: Some(LossCheckpoint {
            is_move: true,
            at_ns: Some(7),
            runs: Some(vec![SequenceRange::new(70, 80)]),
        }),
    };
    let topic = TopicCheckpoint {
        number: TopicNumber(2),
        name: "orders".to_owned(),
        next_sequence: 1 << 40,
        released: 1004,
        releasing: true,
        skipped: vec![SequenceRange::new(7, 9)],
        unreleased_deferred: vec![(7, i64::MAX)],
        channels: vec![channel],
        retention: RetentionCheckpoint { own: true, from: Some(5), ..RetentionCheckpoint::default() },
        published_before: Some(1 << 39),
        settings: Some("retain_for=1h0m0s\n".to_owned()),
        ..TopicCheckpoint::default()
    };
    Checkpoint { journal_from: Lsn(5 << 32 | 128), topics: vec![topic], ..Checkpoint::default() }
}

/// A start uses a checkpoint that was written, the newest that is whole, and says so if one is not.
#[test]
fn checkpoint_files() {
    let (old, new) = (sample(4), sample(30));
    let storage = MemoryStorage::with_dir(DIR);
    checkpoint::write(&*storage, &newest(), &old).expect("memory can be written");
    checkpoint::write(&*storage, &newest(), &new).expect("memory can be written");
    let whole = storage.files();
    let storage = std::panic::AssertUnwindSafe(storage);
    fuzz!(Damage, FILE_RUNS, |damage| {
        let storage = storage.copy();
        damage.apply(&storage, &[newest(), previous()]);
        let files = storage.files();
        let found = |path: &Path| files.get(path).map(|bytes| whole.values().any(|whole| whole == bytes));
        let loaded = checkpoint::load(&*storage, &newest()).expect("damage must not make a start fail");
        let damaged = [newest(), previous()].into_iter().filter(|path| found(path) == Some(false));
        let reported: Vec<PathBuf> = loaded.problems.iter().map(|problem| problem.path.clone()).collect();
        assert_eq!(reported, damaged.collect::<Vec<_>>());
        let best = [newest(), previous()].into_iter().find(|path| found(path) == Some(true));
        let expected = best.map(|path| if files[&path] == whole[&newest()] { &new } else { &old });
        assert_eq!(loaded.checkpoint.as_ref(), expected);
    });
}

/// The content of some checkpoints.
pub fn contents() -> [Vec<u8>; 2] {
    [sample(3), Checkpoint::default()].map(|sample| rmp_serde::to_vec(&sample).expect("MessagePack"))
}

/// The file of a checkpoint with this content.
pub fn file(content: &[u8]) -> Vec<u8> {
    let mut bytes = b"nsqrsCKP\x01\0\0\0\0\0\0\0".to_vec();
    bytes.extend((content.len() as u64).to_le_bytes());
    bytes.extend(content);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Content that no nsqd wrote, behind a right checksum: read as a checkpoint that is written and read again as the
/// same, or refused.
#[test]
fn checkpoint_content() {
    let samples = contents();
    let check_content = |content: &[u8]| {
        let storage = MemoryStorage::with_dir(DIR);
        storage.put(newest(), file(content));
        let Ok(Some(checkpoint)) = checkpoint::read(&*storage, &newest()) else { return false };
        let again: Arc<MemoryStorage> = MemoryStorage::with_dir(DIR);
        checkpoint::write(&*again, &newest(), &checkpoint).expect("memory can be written");
        assert_eq!(checkpoint::read(&*again, &newest()).expect("just written"), Some(checkpoint));
        true
    };
    assert!(samples.iter().all(|sample| check_content(sample)));
    fuzz!(Input, FILE_RUNS, |input| {
        check_content(&input.bytes(&samples));
    });
}
