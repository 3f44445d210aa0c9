//! Concurrent publishers, and futures that are dropped.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use super::*;
use crate::TopicNumber;

#[test]
fn dropping_a_commit_blocks_no_other() {
    for durability in [Durability::Write, Durability::Sync] {
        let storage = FaultyStorage::default();
        let opened = open(&storage, durability);
        let journal = &opened.journal;
        storage.close_gate();
        let leader = std::thread::spawn({
            let journal = Arc::clone(journal);
            move || put(&journal, 0, b"x")
        });
        storage.wait_for_write();
        let mut commits: Vec<_> = (1..20)
            .map(|sequence| journal.commit(journal.append(&publish(sequence, b"x")).unwrap()))
            .collect();
        assert!(commits.iter_mut().all(|commit| poll(commit).is_pending()));
        // The first waiter would be woken to lead. It is dropped while others wait.
        commits.drain(..5);
        storage.open_gate();
        commits.drain(..5);
        leader.join().unwrap().unwrap();
        for commit in commits {
            wait(commit).unwrap();
        }
        journal.flush().unwrap();
        assert_eq!(sequences(&open(&storage.after_kill(), durability)).len(), 20);
    }
}

/// The journal's thread wakes one waiter, which wakes the others, whether it is polled or dropped.
#[test]
fn the_first_woken_waiter_wakes_the_rest() {
    for is_dropped in [false, true] {
        let storage = FaultyStorage::default();
        let opened = open(&storage, Durability::Sync);
        let journal = &opened.journal;
        storage.close_gate();
        let busy = std::thread::spawn({
            let journal = Arc::clone(journal);
            move || put(&journal, 0, b"x")
        });
        storage.wait_for_write();
        let woken: Vec<_> = (0..5).map(|_| Arc::new(Woken::default())).collect();
        let mut commits: Vec<_> =
            (1..6).map(|number| journal.commit(journal.append(&publish(number, b"x")).unwrap())).collect();
        for (commit, woken) in commits.iter_mut().zip(&woken) {
            let waker = Waker::from(Arc::clone(woken));
            assert!(Pin::new(commit).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        storage.open_gate();
        busy.join().unwrap().unwrap();
        let is_woken = |woken: &Arc<Woken>| woken.0.load(Ordering::Acquire);
        eventually("the first", || woken.iter().any(is_woken));
        let first = commits.remove(woken.iter().position(is_woken).unwrap());
        if is_dropped {
            drop(first);
        } else {
            wait(first).unwrap();
        }
        eventually("the rest", || woken.iter().all(is_woken));
        commits.into_iter().for_each(|commit| wait(commit).unwrap());
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn commits_outlive_the_handle() {
    let storage = FaultyStorage::default();
    let opened = open(&storage, Durability::Sync);
    storage.close_gate();
    let leader = std::thread::spawn({
        let ticket = opened.journal.append(&publish(0, b"x")).unwrap();
        let commit = opened.journal.commit(ticket);
        move || wait(commit)
    });
    storage.wait_for_write();
    let ticket = opened.journal.append(&publish(1, b"x")).unwrap();
    let mut commit = opened.journal.commit(ticket);
    assert!(poll(&mut commit).is_pending());
    let dropper = std::thread::spawn(move || drop(opened));
    storage.open_gate();
    leader.join().unwrap().unwrap();
    wait(commit).unwrap();
    dropper.join().unwrap();
}

/// Each commit completes only after its record is written.
#[test]
fn concurrent_commits_complete_after_their_write() {
    for durability in [Durability::Write, Durability::Sync] {
        let dir = tempfile::tempdir().unwrap();
        let options = JournalOptions { file_bytes: 16 << 10, ..JournalOptions::new(dir.path(), durability) };
        let (journal, _) = Journal::open(Arc::new(FileStorage), options.clone(), &mut |_, _| {}).unwrap();
        let per_task = if durability == Durability::Sync { 30 } else { 300 };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for topic in 0..8_u32 {
                let journal = Arc::clone(&journal);
                tasks.spawn(async move {
                    for sequence in 0..per_task {
                        let frames = [topic as u8; 200];
                        let record = Record::Publish {
                            topic: TopicNumber(topic),
                            first_sequence: sequence,
                            count: 1,
                            due_ns: None,
                            only: None,
                            frames: &frames,
                        };
                        let before = journal.bytes_written();
                        let ticket = journal.append(&record).unwrap();
                        if sequence % 7 == 3 {
                            // Dropped after one poll, which must not affect others.
                            let mut commit = journal.commit(ticket);
                            let _ = futures_util::poll!(&mut commit);
                            continue;
                        }
                        tokio::time::timeout(Duration::from_secs(20), journal.commit(ticket))
                            .await
                            .unwrap()
                            .unwrap();
                        assert!(journal.bytes_written() > before);
                    }
                });
            }
            while let Some(outcome) = tasks.join_next().await {
                outcome.unwrap();
            }
        });
        journal.flush().unwrap();
        let mut last: BTreeMap<TopicNumber, u64> = BTreeMap::new();
        let (_again, report) = Journal::open(Arc::new(FileStorage), options, &mut |_, record| {
            let Record::Publish { topic, first_sequence, frames, .. } = record else { panic!("{record:?}") };
            assert_eq!(frames, [topic.0 as u8; 200]);
            let next = last.entry(topic).or_insert(0);
            assert_eq!(*next, first_sequence, "order within a topic");
            *next += 1;
        })
        .unwrap();
        assert!(last.len() == 8 && last.values().all(|&count| count == per_task));
        assert_eq!((report.torn_at, report.damaged.len()), (None, 0));
    }
}

/// With concurrent publishers, some failing writes and some dropped futures.
#[test]
fn acknowledged_records_are_found_and_refused_ones_are_not() {
    for (durability, seed) in [(Durability::Write, 1), (Durability::Write, 2), (Durability::Sync, 3)] {
        let storage = FaultyStorage::default();
        let journal = open(&storage, durability).journal;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        let mut outcomes = BTreeMap::new();
        runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for task in 0..16_u64 {
                let (journal, storage) = (Arc::clone(&journal), storage.clone());
                tasks.spawn(async move {
                    let mut outcomes = Vec::new();
                    for n in 0..200 {
                        let sequence = task * 1000 + n;
                        let chance = (sequence * 2_654_435_761 + seed) % 31;
                        if chance == 0 {
                            let written = (sequence % 400) as usize;
                            storage.plan(Fault { written, ..Fault::next(Op::Write, 1, ErrorKind::Other) });
                        }
                        journal.append_lazy(&Record::TopicDeleted { topic: TopicNumber(1) });
                        let Ok(ticket) = journal.append(&publish(sequence, &sequence.to_le_bytes())) else {
                            tokio::task::yield_now().await;
                            outcomes.push((sequence, Some(false)));
                            continue;
                        };
                        let mut commit = journal.commit(ticket);
                        if chance == 5 {
                            let outcome = match futures_util::poll!(&mut commit) {
                                Poll::Ready(outcome) => Some(outcome.is_ok()),
                                Poll::Pending => None,
                            };
                            outcomes.push((sequence, outcome));
                            continue;
                        }
                        let outcome = tokio::time::timeout(Duration::from_secs(20), commit).await;
                        outcomes.push((sequence, Some(outcome.expect("a commit hangs").is_ok())));
                    }
                    outcomes
                });
            }
            while let Some(of_task) = tasks.join_next().await {
                outcomes.extend(of_task.unwrap());
            }
        });
        storage.heal();
        eventually("health", || journal.flush().is_ok());
        journal.close().unwrap();
        let again = open(&storage.after_kill(), durability);
        let found: std::collections::BTreeSet<_> = sequences(&again).into_iter().collect();
        assert_eq!(found.len(), again.batches.len(), "no record is found twice");
        for (sequence, acknowledged) in outcomes {
            assert!(
                acknowledged.is_none_or(|it| it == found.contains(&sequence)),
                "{sequence}: {acknowledged:?}"
            );
        }
        assert_eq!((again.report.torn_at, again.report.damaged.len()), (None, 0));
    }
}

#[test]
fn a_committed_record_can_be_read_back_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions::new(dir.path(), Durability::Write);
    let (journal, _) = Journal::open(Arc::new(FileStorage), options.clone(), &mut |_, _| {}).unwrap();
    for sequence in 0..20 {
        put(&journal, sequence, b"x").unwrap();
        let mut count = 0;
        Journal::open(Arc::new(FileStorage), options.clone(), &mut |_, _| count += 1).unwrap();
        assert_eq!(count, sequence + 1);
    }
}
