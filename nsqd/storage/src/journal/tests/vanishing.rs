//! Files and directories that someone removes or moves while the journal is open.

use super::*;
use crate::anchored::Anchored;

const ROOT: &str = "/data";

/// Opens a journal on a storage that keeps to its data directory.
fn open_anchored(storage: &FaultyStorage, durability: Durability) -> Arc<Journal> {
    storage.create_dir_all(Path::new(DIR)).unwrap();
    let anchored = Anchored::new(Arc::new(storage.clone()), Path::new(ROOT)).unwrap();
    Journal::open(Arc::new(anchored), options(durability), &mut |_, _| {}).unwrap().0
}

fn check(journal: &Journal) -> Result<(), String> {
    journal.check().map_err(|error| error.to_string())
}

#[test]
fn writing_continues_in_another_file_when_one_is_removed() {
    for replaced in [false, true] {
        let storage = FaultyStorage::default();
        let journal = open_anchored(&storage, Durability::Write);
        fill(&journal, 0..9);
        let path = newest_file(&storage);
        storage.vanish(&path);
        if replaced {
            storage.create(&path, 100).unwrap();
        }
        assert_eq!(check(&journal), Ok(()));
        assert_eq!(journal.lost_files(), [2]);
        assert_eq!(journal.excess(), 2, "all files up to the lost one must be retired");
        put(&journal, 9, b"x").unwrap();
        let after = open(&storage.after_kill(), Durability::Write);
        assert_eq!(sequences(&after), [0, 1, 2, 3, 4, 5, 6, 9]);
        assert!(!after.report.missing_files.is_empty() || replaced);

        // Once what it held is stored elsewhere, the file is no longer missing.
        for number in [1, 2] {
            journal.retire_oldest(number).unwrap();
        }
        assert_eq!((journal.lost_files(), journal.excess()), (vec![], 0));
        let not_before = Lsn(3 << 32 | 128);
        let options = JournalOptions { not_before, ..options(Durability::Write) };
        let after = try_open(&storage.after_kill(), options).unwrap();
        assert_eq!((sequences(&after), after.report.missing_files), (vec![9], vec![]));
        let aside = storage.paths().iter().filter(|path| path.ends_with(catalog::damaged_name(2))).count();
        assert_eq!(aside, usize::from(replaced), "a file that someone else put there is kept");
    }
}

#[test]
fn removal_of_an_older_file_is_noticed() {
    let storage = FaultyStorage::default();
    let journal = open_anchored(&storage, Durability::Write);
    fill(&journal, 0..20);
    assert_eq!((check(&journal), journal.lost_files()), (Ok(()), vec![]));
    let second = Path::new(DIR).join(catalog::file_name(2));
    storage.move_away(&second, Path::new("/data/elsewhere"));
    assert_eq!((check(&journal), journal.lost_files(), journal.excess()), (Ok(()), vec![2], 2));
    storage.move_away(Path::new("/data/elsewhere"), &second);
    assert_eq!((check(&journal), journal.lost_files(), journal.excess()), (Ok(()), vec![], 0));
}

#[test]
fn with_sync_nothing_is_acknowledged_in_a_file_without_a_name() {
    let storage = FaultyStorage::default();
    let journal = open_anchored(&storage, Durability::Sync);
    put(&journal, 0, b"x").unwrap();
    storage.vanish(&newest_file(&storage));
    let error = put(&journal, 1, b"x").unwrap_err().to_string();
    assert!(error.contains("was removed or replaced"), "{error}");
    put(&journal, 1, b"y").unwrap();
    assert_eq!((journal.failure().is_none(), journal.lost_files()), (true, vec![1]));
    let after = open(&storage.after_kill(), Durability::Sync);
    assert_eq!(after.batches, [(TopicNumber(1), 1, b"y".to_vec())]);
}

#[test]
fn a_removed_journal_directory_is_created_again() {
    let storage = FaultyStorage::default();
    let journal = open_anchored(&storage, Durability::Write);
    fill(&journal, 0..20);
    journal.retire_oldest(1).unwrap();
    storage.vanish(Path::new(DIR));
    assert_eq!((check(&journal), journal.lost_files()), (Ok(()), vec![2, 3]));
    put(&journal, 20, b"x").unwrap();
    assert_eq!(sequences(&open(&storage.after_kill(), Durability::Write)), [20]);
}

#[test]
fn loss_of_files_from_before_the_start_is_noticed_before_the_first_write() {
    for replaced in [false, true] {
        let storage = FaultyStorage::default();
        fill(&open_anchored(&storage, Durability::Write), 0..3);
        let journal = open_anchored(&storage, Durability::Write);
        if replaced {
            let path = newest_file(&storage);
            storage.vanish(&path);
            storage.create(&path, 100).unwrap();
        } else {
            storage.vanish(Path::new(DIR));
        }
        assert_eq!((check(&journal), journal.lost_files(), journal.excess()), (Ok(()), vec![1], 1));
        // As if what it held were stored elsewhere.
        journal.retire_oldest(1).unwrap();
        assert_eq!((check(&journal), journal.lost_files(), journal.excess()), (Ok(()), vec![], 0));
        put(&journal, 3, b"x").unwrap();
        assert_eq!(sequences(&open(&storage.after_kill(), Durability::Write)), [3]);
    }
}

#[test]
fn records_are_refused_until_the_data_directory_is_back() {
    for durability in [Durability::Write, Durability::Sync] {
        let storage = FaultyStorage::default();
        let journal = open_anchored(&storage, durability);
        put(&journal, 0, b"x").unwrap();
        storage.move_away(Path::new(ROOT), Path::new("/elsewhere"));
        if durability == Durability::Write {
            let error = check(&journal).unwrap_err();
            assert!(error.contains("data directory /data was removed or moved"), "{error}");
        }
        for _ in 0..2 {
            let error = put(&journal, 1, b"refused").unwrap_err().to_string();
            assert!(error.contains("data directory /data was removed or moved"), "{error}");
        }
        assert!(journal.failure().is_some());
        storage.create_dir_all(Path::new(DIR)).unwrap();
        eventually("notice of the other directory", || {
            let error = put(&journal, 1, b"refused").unwrap_err().to_string();
            error.contains("is not the directory that nsqd has locked")
        });
        assert_eq!(storage.paths(), [Path::new("/elsewhere/journal").join(catalog::file_name(1))]);

        storage.vanish(Path::new(ROOT));
        storage.move_away(Path::new("/elsewhere"), Path::new(ROOT));
        assert_eq!(check(&journal), Ok(()));
        put(&journal, 1, b"y").unwrap();
        assert_eq!((journal.failure().is_none(), journal.lost_files()), (true, vec![]));
        let after = open(&storage.after_kill(), durability);
        assert_eq!(after.batches, [(TopicNumber(1), 0, b"x".to_vec()), (TopicNumber(1), 1, b"y".to_vec())]);
        assert_eq!((after.report.torn_at, after.report.damaged.len()), (None, 0));
    }
}

#[test]
fn loss_of_the_data_directory_is_a_failure_even_without_a_publish() {
    let storage = FaultyStorage::default();
    let journal = open_anchored(&storage, Durability::Write);
    storage.move_away(Path::new(ROOT), Path::new("/elsewhere"));
    assert!(check(&journal).is_err() && journal.failure().is_some());
    storage.move_away(Path::new("/elsewhere"), Path::new(ROOT));
    eventually("health", || journal.failure().is_none());
}
