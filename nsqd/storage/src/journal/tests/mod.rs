//! The journal as a whole, on files in memory that fail on demand.

mod concurrent;
mod damage;
mod failing;
mod recycling;
mod small_volumes;
mod vanishing;

use std::{
    future::Future,
    io::ErrorKind,
    path::{Path, PathBuf},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use super::*;
use crate::{
    ChannelNumber, SequenceRange, TopicNumber,
    faulty::{Fault, FaultyStorage, Op, disk},
    file::FileStorage,
};

const DIR: &str = "/data/journal";
const FILE_BYTES: u64 = 4096;

fn options(durability: Durability) -> JournalOptions {
    JournalOptions { file_bytes: FILE_BYTES, ..JournalOptions::new(DIR, durability) }
}

/// An opened journal and what it held. Batches are (topic, first sequence, frames), in order.
struct Opened {
    journal: Arc<Journal>,
    report: JournalReport,
    batches: Vec<(TopicNumber, u64, Vec<u8>)>,
    finished: Vec<u64>,
    places: Vec<Lsn>,
}

fn open(storage: &FaultyStorage, durability: Durability) -> Opened {
    try_open(storage, options(durability)).unwrap()
}

fn try_open(storage: &FaultyStorage, options: JournalOptions) -> Result<Opened, JournalError> {
    let (mut batches, mut finished, mut places) = (Vec::new(), Vec::new(), Vec::new());
    let (journal, report) = Journal::open(Arc::new(storage.clone()), options, &mut |lsn, record| {
        places.push(lsn);
        match record {
            Record::Publish { topic, first_sequence, frames, .. } => {
                batches.push((topic, first_sequence, frames.to_vec()));
            }
            Record::Finish { runs, .. } => finished.extend(runs.iter().map(|run| run.from)),
            _ => {}
        }
    })?;
    assert!(places.is_sorted_by(|a, b| a < b), "places must grow");
    Ok(Opened { journal, report, batches, finished, places })
}

fn publish(sequence: u64, frames: &[u8]) -> Record<'_> {
    Record::Publish {
        topic: TopicNumber(1),
        first_sequence: sequence,
        count: 1,
        due_ns: None,
        only: None,
        frames,
    }
}

fn sequences(opened: &Opened) -> Vec<u64> {
    opened.batches.iter().map(|batch| batch.1).collect()
}

/// Publishes and commits, as a single publisher.
fn put(journal: &Journal, sequence: u64, frames: &[u8]) -> Result<(), JournalError> {
    wait(journal.commit(journal.append(&publish(sequence, frames))?))
}

/// Blocks until the future is done. Panics on a timeout.
fn wait<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(20), &mut future).await.expect("a commit hangs")
    })
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Waits until the condition holds.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        std::thread::yield_now();
    }
}

fn newest_file(storage: &FaultyStorage) -> PathBuf {
    storage.paths().into_iter().rfind(|path| path.extension().is_some_and(|ext| ext == "journal")).unwrap()
}

/// Publishes a few hundred bytes under each sequence number.
fn fill(journal: &Journal, sequences: std::ops::Range<u64>) {
    for sequence in sequences {
        put(journal, sequence, &[7; 500]).unwrap();
    }
}

/// The files that a journal with `count` records leaves. Of 500 bytes, seven fit in a file.
fn written(count: u64, bytes: usize) -> FaultyStorage {
    let storage = FaultyStorage::default();
    let opened = open(&storage, Durability::Write);
    for sequence in 0..count {
        put(&opened.journal, sequence, &vec![sequence as u8; bytes]).unwrap();
    }
    storage.after_kill()
}

#[test]
fn committed_records_are_read_back_in_order() {
    for durability in [Durability::Write, Durability::Sync] {
        let storage = FaultyStorage::default();
        let opened = open(&storage, durability);
        assert_eq!(opened.report, JournalReport::default());
        for sequence in 0..100 {
            put(&opened.journal, sequence, &[sequence as u8; 100]).unwrap();
        }
        assert!(opened.journal.failure().is_none());
        let again = open(&storage.after_kill(), durability);
        assert_eq!(sequences(&again), (0..100).collect::<Vec<_>>());
        assert!(again.batches.iter().all(|(_, sequence, frames)| *frames == [*sequence as u8; 100]));
        assert_eq!(again.report.records, 100);
        assert!(again.report.files > 2);
        assert_eq!((again.report.torn_at, again.report.damaged.len()), (None, 0));
        assert!(again.journal.position() > *again.places.last().unwrap());
    }
}

#[test]
fn a_single_commit_writes_in_its_first_poll() {
    let opened = open(&FaultyStorage::default(), Durability::Write);
    let ticket = opened.journal.append(&publish(1, b"x")).unwrap();
    assert_eq!(opened.journal.bytes_written(), 0);
    assert!(matches!(poll(&mut opened.journal.commit(ticket)), Poll::Ready(Ok(()))));
    let ticket = opened.journal.append(&publish(2, b"x")).unwrap();
    assert!(matches!(opened.journal.try_commit(ticket), Ok(Ok(()))));
    assert!(opened.journal.bytes_written() > 0);
}

#[test]
fn one_write_serves_all_that_appended_before() {
    let storage = FaultyStorage::default();
    let opened = open(&storage, Durability::Write);
    let tickets: Vec<_> =
        (0..10).map(|sequence| opened.journal.append(&publish(sequence, b"x")).unwrap()).collect();
    // Making the file takes two writes, and the records one. A fourth would fail.
    storage.plan(Fault { after: 3, ..Fault::next(Op::Write, 100, ErrorKind::Other) });
    for ticket in tickets {
        assert!(matches!(opened.journal.try_commit(ticket), Ok(Ok(()))));
    }
}

#[test]
fn lazy_records_are_written_within_the_interval() {
    for durability in [Durability::Write, Durability::Sync] {
        let storage = FaultyStorage::default();
        let opened = open(&storage, durability);
        for sequence in [5, 6] {
            opened.journal.append_lazy(&Record::Finish {
                topic: TopicNumber(1),
                channel: ChannelNumber(1),
                runs: (&[SequenceRange::one(sequence)]).into(),
            });
        }
        eventually("the lazy write", || opened.journal.bytes_written() > 0);
        assert_eq!(open(&storage.after_kill(), durability).finished, [5, 6]);
    }
}

#[test]
fn many_lazy_records_do_not_wait_for_the_interval() {
    let mut options = options(Durability::Write);
    options.timing.flush_interval = Duration::from_secs(3600);
    options.file_bytes = 1 << 20;
    let opened = try_open(&FaultyStorage::default(), options).unwrap();
    let runs: Vec<_> = (0..1000).map(|n| SequenceRange::one(n * 10_000)).collect();
    for _ in 0..100 {
        opened.journal.append_lazy(&Record::Finish {
            topic: TopicNumber(1),
            channel: ChannelNumber(1),
            runs: runs.as_slice().into(),
        });
    }
    eventually("the write", || opened.journal.bytes_written() > 64 << 10);
}

#[test]
fn the_record_of_a_dropped_ticket_is_written() {
    for durability in [Durability::Write, Durability::Sync] {
        let storage = FaultyStorage::default();
        let opened = open(&storage, durability);
        drop(opened.journal.append(&publish(1, b"x")).unwrap());
        eventually("the write", || opened.journal.bytes_written() > 0);
        assert_eq!(sequences(&open(&storage.after_kill(), durability)), [1]);
    }
}

#[test]
fn flush_and_close_leave_nothing_unwritten() {
    for durability in [Durability::Write, Durability::Sync] {
        let mut options = options(durability);
        options.timing.flush_interval = Duration::from_secs(3600);
        let storage = FaultyStorage::default();
        let opened = try_open(&storage, options).unwrap();
        let runs = [SequenceRange::one(7)];
        let finish =
            Record::Finish { topic: TopicNumber(1), channel: ChannelNumber(1), runs: (&runs).into() };
        opened.journal.append_lazy(&finish);
        opened.journal.flush().unwrap();
        assert_eq!(open(&storage.after_kill(), durability).finished, [7]);
        opened.journal.append_lazy(&finish);
        opened.journal.close().unwrap();
        assert!(matches!(opened.journal.append(&finish), Err(JournalError::Closed)));
        opened.journal.close().unwrap();
        assert_eq!(open(&storage.after_power_loss(0), durability).finished, [7, 7]);
    }
}

#[test]
fn a_record_larger_than_a_file_gets_its_own_file() {
    let storage = FaultyStorage::default();
    let opened = open(&storage, Durability::Write);
    let large = vec![9; 3 * FILE_BYTES as usize];
    for (sequence, frames) in [(1, &b"a"[..]), (2, &large), (3, b"b")] {
        put(&opened.journal, sequence, frames).unwrap();
    }
    let again = open(&storage.after_kill(), Durability::Write);
    assert_eq!(sequences(&again), [1, 2, 3]);
    assert_eq!(again.batches[1].2, large);
    assert_eq!(again.report.damaged, []);
}

#[test]
fn places_are_never_reused() {
    let storage = FaultyStorage::default();
    let opened = open(&storage, Durability::Write);
    put(&opened.journal, 1, b"x").unwrap();
    let position = opened.journal.position();
    drop(opened);
    for path in storage.paths() {
        storage.remove(&path).unwrap();
    }
    let opened =
        try_open(&storage, JournalOptions { not_before: position, ..options(Durability::Write) }).unwrap();
    assert!(opened.journal.position() > position);
}
