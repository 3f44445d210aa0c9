//! Volumes with little space.

use super::*;

const MIB: u64 = 1 << 20;

fn on_volume(storage: &FaultyStorage, total: u64) -> Arc<Journal> {
    storage.set_volume(Some(total));
    let options = JournalOptions { file_bytes: 64 * MIB, ..options(Durability::Write) };
    try_open(storage, options).unwrap().journal
}

fn publish_mib(journal: &Journal, sequence: u64) -> Result<(), JournalError> {
    put(journal, sequence, &vec![7; MIB as usize / 2])
}

fn lengths_mib(storage: &FaultyStorage) -> Vec<u64> {
    let length = |path: &PathBuf| storage.open(path).unwrap().len().unwrap() / MIB;
    storage.paths().iter().map(length).collect()
}

#[test]
fn a_small_volume_is_never_filled_by_finished_messages() {
    for total in [8 * MIB, 16 * MIB, 40 * MIB, 100 * MIB] {
        let storage = FaultyStorage::default();
        let journal = on_volume(&storage, total);
        for sequence in 0..3 * total / MIB {
            publish_mib(&journal, sequence).unwrap();
            for file in journal.files().iter().take(journal.excess()) {
                journal.retire_oldest(file.number).unwrap();
            }
        }
        let largest = lengths_mib(&storage).into_iter().max().unwrap();
        assert!(largest * MIB <= (total / 16).max(MIB), "files of {largest} MiB");
        assert!(storage.used_bytes() <= total);
    }
}

#[test]
fn smaller_files_use_the_last_space_except_the_reserve_for_a_checkpoint() {
    let storage = FaultyStorage::default();
    let journal = on_volume(&storage, 100 * MIB);
    let refused =
        (0..).find_map(|sequence| publish_mib(&journal, sequence).err().map(|error| (sequence, error)));
    let (count, error) = refused.unwrap();
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert!((160..199).contains(&count), "{count} records of half a MiB fit");
    let lengths = lengths_mib(&storage);
    assert_eq!((lengths.first(), lengths.last()), (Some(&4), Some(&2)), "no more than 2 MiB fit at the end");
    let left = 100 * MIB - storage.used_bytes();
    assert!((MIB..3 * MIB).contains(&left), "{left} bytes left for a checkpoint");
    storage.set_volume(None);
    put(&journal, 1000, b"x").unwrap();
}

#[test]
fn spares_are_removed_if_a_larger_file_needs_their_space() {
    let storage = FaultyStorage::default();
    let journal = on_volume(&storage, 16 * MIB);
    for sequence in 0..8 {
        publish_mib(&journal, sequence).unwrap();
    }
    for file in journal.files().iter().take(2) {
        journal.retire_oldest(file.number).unwrap();
    }
    let spares = |storage: &FaultyStorage| {
        storage.paths().iter().filter(|path| path.extension().is_some_and(|end| end == "spare")).count()
    };
    assert_eq!(spares(&storage), 2);
    storage.set_volume(Some(storage.used_bytes() + MIB));
    put(&journal, 8, &vec![7; 2 * MIB as usize]).unwrap();
    assert_eq!(spares(&storage), 0);
}

#[test]
fn an_idle_journal_becomes_small_and_grows_again() {
    let storage = FaultyStorage::default();
    storage.create_dir_all(Path::new(DIR)).unwrap();
    let options = JournalOptions { file_bytes: 8 * MIB, ..options(Durability::Write) };
    let journal = try_open(&storage, options.clone()).unwrap().journal;
    for sequence in 0..40 {
        publish_mib(&journal, sequence).unwrap();
    }
    journal.shrink().unwrap();
    let files = journal.files();
    for file in &files[..files.len() - 1] {
        journal.retire_oldest(file.number).unwrap();
    }
    journal.remove_spares();
    assert_eq!((journal.footprint(), storage.used_bytes()), (MIB, MIB));
    let reopened =
        try_open(&storage.after_kill(), JournalOptions { not_before: journal.position(), ..options });
    assert!(reopened.unwrap().report.missing_files.is_empty());
    for sequence in 40..44 {
        publish_mib(&journal, sequence).unwrap();
    }
    assert_eq!(
        lengths_mib(&storage),
        [1, 8],
        "a small file that is filled quickly is followed by a large one"
    );
}
