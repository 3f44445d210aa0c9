//! Torn tails, flipped bits, lost files, power failures.

use proptest::prelude::*;

use super::super::format::{FILE_HEADER_BYTES, RECORD_HEADER_BYTES};
use super::*;

#[test]
fn damage_in_an_old_file_loses_only_the_records_it_hit() {
    let storage = written(20, 500);
    let oldest = storage.paths()[0].clone();
    storage.tamper(&oldest, |bytes| bytes[1000] ^= 1);
    let again = open(&storage, Durability::Write);
    let expected: Vec<_> = (0..20).filter(|&sequence| sequence != 1).collect();
    assert_eq!(sequences(&again), expected);
    assert_eq!(again.report.damaged.len(), 1);
    assert_eq!(again.report.torn_at, None);

    let files = again.journal.files();
    again.journal.retire_oldest(files[0].number).unwrap();
    let kept = catalog::damaged_name(files[0].number as u32);
    assert!(storage.paths().contains(&Path::new(DIR).join(kept)), "damaged files are kept for inspection");
}

#[test]
fn a_lost_end_of_an_old_file_is_noticed() {
    let storage = written(20, 500);
    let oldest = storage.paths()[0].clone();
    storage.tamper(&oldest, |bytes| bytes[3000..4000].fill(0));
    let again = open(&storage, Durability::Write);
    assert_eq!(again.report.damaged.len(), 1);
    assert!(sequences(&again).ends_with(&[19]));
    storage.tamper(&oldest, |bytes| bytes.truncate(2000));
    let bytes: Vec<u64> =
        open(&storage, Durability::Write).report.damaged.iter().map(|damage| damage.bytes).collect();
    assert_eq!(bytes, [4096 - 2000, 2000 - 1715], "the missing bytes, and a part of the fourth record");
}

#[test]
fn a_missing_file_is_reported() {
    let storage = written(20, 500);
    storage.remove(&storage.paths()[1]).unwrap();
    assert_eq!(open(&storage, Durability::Write).report.missing_files, [2]);
}

/// The first page holds the header and the first records.
#[test]
fn newest_file_without_its_first_page_yields_the_records_behind() {
    let storage = FaultyStorage::default();
    let options = || JournalOptions { file_bytes: 64 << 10, ..options(Durability::Sync) };
    let opened = try_open(&storage, options()).unwrap();
    for sequence in 0..100 {
        put(&opened.journal, sequence, &[sequence as u8; 200]).unwrap();
    }
    let storage = storage.after_kill();
    storage.tamper(&newest_file(&storage), |bytes| bytes[..4096].fill(0));
    for _ in 0..2 {
        let found = try_open(&storage, options()).unwrap();
        let found_sequences = sequences(&found);
        assert!(found_sequences.len() > 75 && found_sequences.ends_with(&[98, 99]), "{found_sequences:?}");
        assert!(!found.report.damaged.is_empty());
        assert_eq!((found.report.torn_at, found.report.set_aside.len()), (None, 0));
    }
}

#[test]
fn zeroed_page_between_records_is_not_the_end() {
    let storage = written(7, 500);
    storage.tamper(&newest_file(&storage), |bytes| bytes[FILE_HEADER_BYTES as usize..2000].fill(0));
    let found = open(&storage, Durability::Write);
    assert_eq!(sequences(&found), [4, 5, 6]);
    assert_eq!(found.report.damaged.len(), 1);
}

#[test]
fn file_without_any_header_is_read_with_the_next_files_header() {
    let storage = written(20, 500);
    let oldest = storage.paths()[0].clone();
    storage.tamper(&oldest, |bytes| {
        let len = bytes.len();
        bytes[..600].fill(0);
        bytes[len - 64..].fill(0);
    });
    let found = open(&storage, Durability::Write);
    assert_eq!(sequences(&found), (1..20).collect::<Vec<_>>());
    assert!(found.report.set_aside.is_empty() && !found.report.damaged.is_empty());
}

#[test]
fn empty_or_zeroed_newest_file_is_set_aside() {
    let storage = written(20, 500);
    let newest = newest_file(&storage);
    for damage in [|bytes: &mut Vec<u8>| bytes.fill(0), |bytes: &mut Vec<u8>| bytes.clear()] {
        let storage = storage.after_kill();
        storage.tamper(&newest, damage);
        let found = open(&storage, Durability::Write);
        assert_eq!((found.report.set_aside.len(), found.report.damaged.len()), (1, 1));
        let next = found.journal.position().file_number();
        drop(found);
        assert_eq!(open(&storage, Durability::Write).journal.position().file_number(), next);
    }
}

#[test]
fn each_damaged_copy_of_a_header_is_reported_and_loses_no_record() {
    let storage = written(20, 500);
    for path in storage.paths() {
        for at in [0, 64, FILE_BYTES as usize - 64] {
            let storage = storage.after_kill();
            storage.tamper(&path, |bytes| bytes[at + 20] ^= 1);
            let found = open(&storage, Durability::Write);
            assert_eq!(sequences(&found), (0..20).collect::<Vec<_>>());
            let number = found.report.damaged[0].lsn.file_number();
            assert_eq!(
                found.report.damaged,
                [DamagedRange { lsn: Lsn(number << 32 | at as u64), bytes: 64 }]
            );
        }
    }
}

#[test]
fn wrong_length_is_reported_only_if_bytes_are_missing() {
    let storage = written(20, 500);
    for path in storage.paths() {
        let longer = storage.after_kill();
        longer.tamper(&path, |bytes| bytes.resize(9000, 7));
        let found = open(&longer, Durability::Write);
        assert_eq!((sequences(&found).len(), found.report.damaged.len()), (20, 0));
        longer.tamper(&path, |bytes| bytes[..128].fill(0));
        assert_eq!(sequences(&open(&longer, Durability::Write)).len(), 20);
        let shorter = storage.after_kill();
        shorter.tamper(&path, |bytes| bytes.truncate(4000));
        let found = open(&shorter, Durability::Write);
        assert_eq!(sequences(&found).len(), 20);
        assert_eq!(found.report.damaged.iter().map(|damage| damage.bytes).collect::<Vec<_>>(), [96]);
    }
}

#[test]
fn file_with_a_wrong_name_is_renamed_back() {
    let storage = written(20, 500);
    for path in storage.paths() {
        let storage = storage.after_kill();
        storage.rename(&path, &Path::new(DIR).join(catalog::file_name(77))).unwrap();
        let found = open(&storage, Durability::Write);
        assert_eq!(sequences(&found), (0..20).collect::<Vec<_>>(), "{}", path.display());
        assert_eq!(found.report.renamed.len(), 1);
        assert!(found.journal.position().file_number() > 77);
        assert!(storage.paths().contains(&path));
        assert_eq!(open(&storage, Durability::Write).report.renamed, []);
    }
}

#[test]
fn copy_under_another_name_is_set_aside() {
    let storage = written(20, 500);
    let paths = storage.paths();
    let mut content = Vec::new();
    storage.tamper(&paths[1], |bytes| content = bytes.clone());
    let copy = storage.create(&Path::new(DIR).join(catalog::file_name(77)), FILE_BYTES).unwrap();
    copy.write_all_at(&content, 0).unwrap();
    let found = open(&storage, Durability::Write);
    assert_eq!(sequences(&found), (0..20).collect::<Vec<_>>());
    assert_eq!(found.report.set_aside.len(), 1);
    // A copy over another file: the records of that file are lost, and nothing is read twice.
    storage.tamper(&paths[2], |bytes| *bytes = content);
    let found = open(&storage, Durability::Write);
    assert_eq!(sequences(&found), (0..14).collect::<Vec<_>>());
    assert!(!found.report.damaged.is_empty());
}

/// As an earlier version wrote them: no copy of the header at the end, and no stamp of the previous file.
#[test]
fn files_of_the_earlier_layout_are_read() {
    let storage = written(20, 500);
    for path in storage.paths() {
        storage.tamper(&path, |bytes| {
            for at in [0, 64] {
                bytes[at + 32..at + 60].fill(0);
                let check = crc32c::crc32c(&bytes[at..at + 60]);
                bytes[at + 60..at + 64].copy_from_slice(&check.to_le_bytes());
            }
            let len = bytes.len();
            bytes[len - 64..].fill(0xaa);
        });
    }
    let found = open(&storage, Durability::Write);
    assert_eq!(sequences(&found), (0..20).collect::<Vec<_>>());
    let clean = JournalReport { end: found.report.end, files: 3, records: 20, ..JournalReport::default() };
    assert_eq!(found.report, JournalReport { bytes: found.report.bytes, ..clean });
}

#[test]
fn files_of_a_newer_version_are_refused_and_left_alone() {
    const NEWER: u32 = format::FORMAT_VERSION + 1;
    let storage = written(1, 10);
    let path = newest_file(&storage);
    storage.tamper(&path, |bytes| {
        for at in [0, 64] {
            bytes[at + 8] = NEWER as u8;
            let check = crc32c::crc32c(&bytes[at..at + 60]);
            bytes[at + 60..at + 64].copy_from_slice(&check.to_le_bytes());
        }
    });
    let before = storage.paths();
    let error = try_open(&storage, options(Durability::Write)).err().unwrap();
    assert!(matches!(error, JournalError::NewerVersion { version: NEWER, .. }), "{error}");
    assert_eq!(storage.paths(), before);
}

/// The length of this record has a single bit set. With that bit flipped, it looks like the end of the file.
#[test]
fn a_length_flipped_to_zero_is_not_the_end() {
    const START: usize = FILE_HEADER_BYTES as usize;
    const RECORD: usize = 256 + RECORD_HEADER_BYTES;
    let overhead = {
        let storage = written(1, 0);
        let mut length = 0;
        storage.tamper(&newest_file(&storage), |bytes| length = format::u32_at(bytes, START) as usize);
        length
    };
    for damaged in [1, 4] {
        let storage = written(5, 256 - overhead);
        storage.tamper(&newest_file(&storage), |bytes| {
            let at = START + damaged * RECORD;
            assert_eq!(bytes[at..at + 4], [0, 1, 0, 0]);
            bytes[at + 1] = 0;
        });
        let found = open(&storage, Durability::Write);
        assert_eq!(sequences(&found), (0..5).filter(|&n| n != damaged as u64).collect::<Vec<_>>());
        assert!(found.report.torn_at.is_some() || !found.report.damaged.is_empty(), "record {damaged}");
    }
}

#[test]
fn a_read_error_is_not_reported_as_damage() {
    let storage = written(20, 500);
    storage.plan(Fault { after: 4, ..Fault::next(Op::Read, 1, ErrorKind::Other) });
    assert!(matches!(try_open(&storage, options(Durability::Write)), Err(JournalError::Read { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_truncated_journal_yields_a_prefix(cut in 0_usize..4096, count in 1_u64..30) {
        let storage = written(count, 60);
        storage.tamper(&newest_file(&storage), |bytes| bytes.truncate(cut));
        let found = open(&storage, Durability::Write);
        let expected: Vec<_> = (0..found.batches.len() as u64).collect();
        prop_assert_eq!(sequences(&found), expected);
        prop_assert!(found.batches.iter().all(|(_, sequence, frames)| *frames == [*sequence as u8; 60]));
    }

    #[test]
    fn flipped_bits_lose_records_but_never_invent_any(
        flips in prop::collection::vec((0_usize..2000, 0_u8..8), 1..4), count in 1_u64..30,
    ) {
        let storage = written(count, 60);
        storage.tamper(&newest_file(&storage), |bytes| {
            for (at, bit) in flips {
                bytes[at] ^= 1 << bit;
            }
        });
        let found = open(&storage, Durability::Write);
        prop_assert!(sequences(&found).is_sorted_by(|a, b| a < b));
        prop_assert!(found.batches.iter().all(|(_, sequence, frames)| *frames == [*sequence as u8; 60]));
        // Lost records are reported.
        let lost = found.batches.len() as u64 != count;
        prop_assert!(!lost || found.report.torn_at.is_some() || !found.report.damaged.is_empty());
    }

    #[test]
    fn synced_records_survive_power_loss(
        sizes in prop::collection::vec(0_usize..3000, 1..40), seed: u64, retire: bool,
    ) {
        let storage = FaultyStorage::default();
        let opened = open(&storage, Durability::Sync);
        let mut oldest = 0;
        for (sequence, &size) in (0..).zip(&sizes) {
            put(&opened.journal, sequence, &vec![sequence as u8; size]).unwrap();
            if let [first, _, _, ..] = &opened.journal.files()[..]
                && retire
            {
                oldest = first.topics[0].1 + 1;
                opened.journal.retire_oldest(first.number).unwrap();
            }
        }
        // Not committed, so it may or may not be found.
        let _ticket = opened.journal.append(&publish(sizes.len() as u64, b"x")).unwrap();
        let found = open(&storage.after_power_loss(seed), Durability::Sync);
        let mut found_sequences = sequences(&found);
        found_sequences.retain(|&sequence| sequence >= oldest && sequence < sizes.len() as u64);
        prop_assert_eq!(found_sequences, (oldest..sizes.len() as u64).collect::<Vec<_>>());
    }
}
