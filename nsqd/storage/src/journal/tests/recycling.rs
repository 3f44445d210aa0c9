//! Retiring and recycling of files that are no longer needed.

use super::*;
use crate::TopicNumber;

#[test]
fn files_list_what_was_published_in_them() {
    let opened = open(&FaultyStorage::default(), Durability::Write);
    fill(&opened.journal, 0..20);
    let record = Record::Publish {
        topic: TopicNumber(9),
        first_sequence: 40,
        count: 3,
        due_ns: Some(1),
        only: None,
        frames: b"x",
    };
    opened.journal.flush().unwrap();
    wait(opened.journal.commit(opened.journal.append(&record).unwrap())).unwrap();
    let files = opened.journal.files();
    assert!(files.windows(2).all(|pair| pair[0].number < pair[1].number && pair[0].topics < pair[1].topics));
    assert_eq!(files.last().unwrap().topics, [(TopicNumber(1), 19), (TopicNumber(9), 42)]);
    assert!(files.iter().all(|file| file.bytes == FILE_BYTES && file.first_lsn.file_number() == file.number));
}

#[test]
fn only_the_oldest_sealed_file_can_be_retired() {
    let opened = open(&FaultyStorage::default(), Durability::Write);
    fill(&opened.journal, 0..20);
    let files = opened.journal.files();
    assert!(opened.journal.retire_oldest(files[1].number).is_err());
    for file in &files[..files.len() - 1] {
        opened.journal.retire_oldest(file.number).unwrap();
    }
    assert!(opened.journal.retire_oldest(files.last().unwrap().number).is_err());
    fill(&opened.journal, 20..40);
}

#[test]
fn recycled_files_never_yield_old_records() {
    for durability in [Durability::Write, Durability::Sync] {
        let storage = FaultyStorage::default();
        let opened = open(&storage, durability);
        let mut oldest = 0;
        for sequence in 0..200 {
            put(&opened.journal, sequence, &[7; 500]).unwrap();
            let files = opened.journal.files();
            if files.len() > 3 {
                oldest = files[0].topics[0].1 + 1;
                opened.journal.retire_oldest(files[0].number).unwrap();
            }
            let again = open(&storage.after_kill(), durability);
            assert_eq!(sequences(&again), (oldest..=sequence).collect::<Vec<_>>());
            assert_eq!((again.report.torn_at, again.report.damaged.len()), (None, 0));
        }
        // 200 records of half a kilobyte in five files: each was reused many times.
        assert!(storage.paths().len() <= 6, "{:?}", storage.paths());
    }
}

#[test]
fn unwritten_spare_renamed_by_an_earlier_version_is_not_damage() {
    let storage = FaultyStorage::default();
    let opened = open(&storage, Durability::Write);
    fill(&opened.journal, 0..30);
    let files = opened.journal.files();
    let newest = files.last().unwrap().number as u32;
    for file in &files[..2] {
        opened.journal.retire_oldest(file.number).unwrap();
    }
    drop(opened);
    let dir = Path::new(DIR);
    let mut paths = storage.paths().into_iter();
    let spare = paths.find(|path| path.extension().is_some_and(|extension| extension == "spare")).unwrap();
    storage.rename(&spare, &dir.join(catalog::file_name(newest + 1))).unwrap();
    // A checkpoint says that the oldest file could be retired.
    let not_before = Lsn((files[2].number) << 32);
    let again = try_open(&storage, JournalOptions { not_before, ..options(Durability::Write) }).unwrap();
    assert_eq!((again.report.damaged.len(), again.report.torn_at), (0, None));
    assert_eq!(sequences(&again), (14..30).collect::<Vec<_>>());
    fill(&again.journal, 30..31);
    assert_eq!(sequences(&open(&storage.after_kill(), Durability::Write)), (14..31).collect::<Vec<_>>());
}

#[test]
fn kill_while_a_file_is_created_is_not_damage() {
    for durability in [Durability::Write, Durability::Sync] {
        let storage = FaultyStorage::default();
        let opened = open(&storage, durability);
        storage.record();
        let mut oldest = 0;
        for sequence in 0..40 {
            put(&opened.journal, sequence, &[7; 500]).unwrap();
            let files = opened.journal.files();
            if files.len() > 2 {
                oldest = files[0].topics[0].1 + 1;
                opened.journal.retire_oldest(files[0].number).unwrap();
            }
        }
        let mut disk = FaultyStorage::default().disk();
        let dir = disk::Change::CreateDirs { dir: DIR.into() };
        disk.apply(&dir).unwrap();
        let changes = storage.take_recorded();
        let mut most = 0;
        for change in &changes {
            disk.apply(change).unwrap();
            let again = open(&disk.after_kill().into(), durability);
            assert_eq!((&again.report.damaged[..], again.report.torn_at), (&[][..], None), "{change:?}");
            most = most.max(sequences(&again).len());
        }
        assert!(most > 10 && oldest > 20, "{most} {oldest}");
    }
}

#[test]
fn entries_are_sealed_when_read() {
    // `retire_oldest` relies on it: at start nothing is being written to.
    let storage = written(20, 500);
    let found = reader::read_all(&storage, &options(Durability::Write), &mut |_, _| {}).unwrap();
    assert!(found.files.iter().all(|entry| entry.sealed && !entry.damaged));
}
