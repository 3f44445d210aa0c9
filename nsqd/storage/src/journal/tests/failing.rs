//! Writes, syncs and files that fail.

use super::*;
use crate::{ChannelNumber, SequenceRange};

#[test]
fn a_failed_write_fails_its_tickets_and_those_behind() {
    let storage = FaultyStorage::default();
    let opened = open(&storage, Durability::Write);
    let journal = &opened.journal;
    put(journal, 0, b"good").unwrap();
    storage.close_gate();
    storage.plan(Fault { written: 20, ..Fault::next(Op::Write, 1, ErrorKind::Other) });
    let first = journal.append(&publish(1, b"torn")).unwrap();
    let writer = std::thread::spawn({
        let journal = Arc::clone(journal);
        move || wait(journal.commit(first))
    });
    storage.wait_for_write();
    let behind = journal.append(&publish(2, b"behind")).unwrap();
    let mut behind = journal.commit(behind);
    assert!(poll(&mut behind).is_pending());
    storage.open_gate();

    assert!(matches!(writer.join().unwrap(), Err(JournalError::Write(_))));
    // One ticket is unresolved, so nothing is accepted yet.
    assert!(matches!(journal.append(&publish(1, b"early")), Err(JournalError::Write(_))));
    assert!(journal.flush().is_err());
    assert!(matches!(wait(behind), Err(JournalError::Write(_))));
    assert!(journal.failure().is_some());

    put(journal, 1, b"again").unwrap();
    assert!(journal.failure().is_none());
    let again = open(&storage.after_kill(), Durability::Write);
    assert_eq!(
        again.batches,
        [(TopicNumber(1), 0, b"good".to_vec()), (TopicNumber(1), 1, b"again".to_vec())]
    );
    assert_eq!((again.report.torn_at, again.report.damaged.len()), (None, 0));
}

#[test]
fn a_refused_batch_does_not_come_back() {
    // The whole batch was written before the error, and a shorter one is written over it.
    for crash_before_the_next_write in [true, false] {
        let storage = FaultyStorage::default();
        let opened = open(&storage, Durability::Write);
        put(&opened.journal, 0, b"x").unwrap();
        storage.plan(Fault { written: 1 << 20, ..Fault::next(Op::Write, 1, ErrorKind::Other) });
        let refused: Vec<_> =
            (1..4).map(|sequence| opened.journal.append(&publish(sequence, b"refused")).unwrap()).collect();
        for ticket in refused {
            assert!(wait(opened.journal.commit(ticket)).is_err());
        }
        if !crash_before_the_next_write {
            put(&opened.journal, 1, b"1234567").unwrap();
        }
        let expected = if crash_before_the_next_write { vec![0] } else { vec![0, 1] };
        assert_eq!(sequences(&open(&storage.after_kill(), Durability::Write)), expected);
    }
}

#[test]
fn dropped_tickets_count_as_resolved() {
    let storage = FaultyStorage::default();
    let opened = open(&storage, Durability::Write);
    put(&opened.journal, 0, b"x").unwrap();
    storage.plan(Fault::next(Op::Write, 2, ErrorKind::Other));
    let asked = opened.journal.append(&publish(1, b"x")).unwrap();
    let dropped_before = opened.journal.append(&publish(2, b"x")).unwrap();
    let dropped_after = opened.journal.append(&publish(3, b"x")).unwrap();
    drop(dropped_before);
    assert!(wait(opened.journal.commit(asked)).is_err());
    assert!(opened.journal.append(&publish(1, b"x")).is_err());
    drop(dropped_after);
    put(&opened.journal, 1, b"x").unwrap();
    assert_eq!(sequences(&open(&storage.after_kill(), Durability::Write)), [0, 1]);
}

#[test]
fn a_full_disk_refuses_and_recovers_by_itself() {
    for durability in [Durability::Write, Durability::Sync] {
        let storage = FaultyStorage::default();
        let opened = open(&storage, durability);
        let journal = &opened.journal;
        fill(journal, 0..6);
        storage.plan(Fault::next(Op::Create, usize::MAX, ErrorKind::StorageFull));
        let error = (6..20).find_map(|sequence| put(journal, sequence, &[1; 3000]).err()).unwrap();
        assert!(matches!(&error, JournalError::Write(cause) if cause.kind() == ErrorKind::StorageFull));
        assert!(journal.failure().unwrap().to_string().contains("no storage space"));
        // Records that fit in the current file are still written, so consumers continue.
        journal.append_lazy(&Record::Finish {
            topic: TopicNumber(1),
            channel: ChannelNumber(1),
            runs: (&[SequenceRange::one(3)]).into(),
        });
        eventually("the finish record", || open(&storage.after_kill(), durability).finished == [3]);
        let sequence = 100;
        assert!(put(journal, sequence, &[1; 3500]).is_err());
        storage.heal();
        eventually("health", || journal.failure().is_none());
        put(journal, sequence, &[1; 3500]).unwrap();
        let again = open(&storage.after_kill(), durability);
        assert_eq!(sequences(&again).last(), Some(&sequence));
        assert_eq!((again.report.torn_at, again.report.damaged.len()), (None, 0));
    }
}

#[test]
fn lazy_records_outlive_a_failed_write() {
    let storage = FaultyStorage::default();
    let opened = open(&storage, Durability::Write);
    let finish = |sequence| {
        opened.journal.append_lazy(&Record::Finish {
            topic: TopicNumber(1),
            channel: ChannelNumber(1),
            runs: (&[SequenceRange::one(sequence)]).into(),
        })
    };
    storage.close_gate();
    storage.plan(Fault::next(Op::Write, 3, ErrorKind::Other));
    finish(1);
    let ticket = opened.journal.append(&publish(9, b"x")).unwrap();
    finish(2);
    storage.open_gate();
    // The journal's thread may have written the batch already. Either way it fails.
    assert!(wait(opened.journal.commit(ticket)).is_err());
    finish(3);
    eventually("health", || opened.journal.failure().is_none());
    let again = open(&storage.after_kill(), Durability::Write);
    assert_eq!((again.finished, again.batches), (vec![1, 2, 3], vec![]));
}

#[test]
fn a_failed_sync_is_permanent() {
    let storage = FaultyStorage::default();
    let opened = open(&storage, Durability::Sync);
    put(&opened.journal, 0, b"x").unwrap();
    storage.plan(Fault::next(Op::Sync, 1, ErrorKind::Other));
    assert!(matches!(put(&opened.journal, 1, b"x"), Err(JournalError::Sync(_))));
    assert!(matches!(put(&opened.journal, 1, b"x"), Err(JournalError::Sync(_))));
    opened.journal.append_lazy(&Record::TopicDeleted { topic: TopicNumber(1) });
    assert!(opened.journal.flush().is_err());
    assert!(opened.journal.failure().unwrap().to_string().contains("sync failed"));
    assert!(opened.journal.close().is_err());
}

/// A start finds exactly what was acknowledged, whether the process or the machine dies.
#[test]
fn batch_refused_after_a_failed_sync_is_taken_back() {
    let storage = FaultyStorage::default();
    let opened = open(&storage, Durability::Sync);
    put(&opened.journal, 0, b"good").unwrap();
    storage.plan(Fault::next(Op::Sync, 1, ErrorKind::Other));
    assert!(matches!(put(&opened.journal, 1, b"refused"), Err(JournalError::Sync(_))));
    assert_eq!(sequences(&open(&storage.after_kill(), Durability::Sync)), [0]);
    for seed in 0..20 {
        assert_eq!(sequences(&open(&storage.after_power_loss(seed), Durability::Sync)), [0]);
    }
}

#[test]
fn batch_that_cannot_be_taken_back_is_in_doubt() {
    for (durability, op) in [(Durability::Sync, Op::Sync), (Durability::Write, Op::Write)] {
        let storage = FaultyStorage::default();
        let opened = open(&storage, durability);
        put(&opened.journal, 0, b"good").unwrap();
        storage.plan(Fault { written: 1000, ..Fault::next(op, usize::MAX, ErrorKind::Other) });
        let error = put(&opened.journal, 1, b"in doubt").unwrap_err();
        assert!(matches!(error, JournalError::InDoubt(_)), "{error}");
        assert!(!matches!(opened.journal.failure(), Some(JournalError::InDoubt(_)) | None));
    }
}

#[test]
fn only_the_batch_that_was_written_is_in_doubt() {
    let storage = FaultyStorage::default();
    let opened = open(&storage, Durability::Write);
    let journal = &opened.journal;
    put(journal, 0, b"good").unwrap();
    storage.close_gate();
    storage.plan(Fault { written: 20, ..Fault::next(Op::Write, usize::MAX, ErrorKind::Other) });
    let first = journal.append(&publish(1, b"torn")).unwrap();
    let writer = std::thread::spawn({
        let journal = Arc::clone(journal);
        move || wait(journal.commit(first))
    });
    storage.wait_for_write();
    let behind = journal.append(&publish(2, b"behind")).unwrap();
    storage.open_gate();
    assert!(matches!(writer.join().unwrap(), Err(JournalError::InDoubt(_))));
    assert!(matches!(journal.append(&publish(3, b"early")), Err(JournalError::Write(_))));
    assert!(matches!(wait(journal.commit(behind)), Err(JournalError::Write(_))));
}

/// The header of a new file says where the previous one ends, so later records in that one would not be read.
#[test]
fn nothing_is_written_to_a_file_once_its_successor_has_a_name() {
    for op in [Op::Sync, Op::SyncDir, Op::Write, Op::Rename, Op::Create] {
        for after in 0..3 {
            let storage = FaultyStorage::default();
            let opened = open(&storage, Durability::Sync);
            let journal = &opened.journal;
            let mut acknowledged: Vec<u64> =
                (0..6).filter(|&sequence| put(journal, sequence, &[1; 500]).is_ok()).collect();
            storage.plan(Fault { after, ..Fault::next(op, usize::MAX, ErrorKind::Other) });
            // The large ones need another file, the small ones do not.
            for sequence in 6..12 {
                let len = if sequence % 2 == 0 { 1000 } else { 10 };
                if put(journal, sequence, &vec![1; len]).is_ok() {
                    acknowledged.push(sequence);
                }
            }
            let images = (0..20).map(|seed| storage.after_power_loss(seed));
            for image in images.chain([storage.after_kill()]) {
                let found = sequences(&open(&image, Durability::Sync));
                let missing: Vec<_> =
                    acknowledged.iter().filter(|sequence| !found.contains(sequence)).collect();
                assert!(missing.is_empty(), "{op:?} after {after}: {missing:?} are missing");
            }
        }
    }
}

#[test]
fn a_first_write_that_fails_leaves_no_trace() {
    let storage = FaultyStorage::default();
    let opened = open(&storage, Durability::Write);
    storage.plan(Fault { written: 300, ..Fault::next(Op::Write, 1, ErrorKind::Other) });
    assert!(put(&opened.journal, 0, &[1; 500]).is_err());
    assert_eq!(open(&storage.after_kill(), Durability::Write).report, JournalReport::default());
    eventually("health", || opened.journal.failure().is_none());
    // The next record does not fit in a file of the usual size.
    put(&opened.journal, 0, &[2; 2 * FILE_BYTES as usize]).unwrap();
    put(&opened.journal, 1, b"x").unwrap();
    let again = open(&storage.after_kill(), Durability::Write);
    assert_eq!(sequences(&again), [0, 1]);
    assert_eq!((again.report.damaged, again.report.missing_files), (vec![], vec![]));
}
