//! Torn tails, flipped bits, lost files, power failures.

use proptest::prelude::*;

use super::super::format::{FILE_HEADER_BYTES, RECORD_HEADER_BYTES};
use super::*;

#[test]
fn damage_in_an_old_file_costs_only_what_it_hit() {
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
    assert!(storage.paths().contains(&Path::new(DIR).join(kept)), "damaged files are kept for a look");
}

#[test]
fn a_lost_end_of_an_old_file_is_noticed() {
    let storage = written(20, 500);
    let oldest = storage.paths()[0].clone();
    storage.tamper(&oldest, |bytes| bytes[3000..].fill(0));
    let again = open(&storage, Durability::Write);
    assert_eq!(again.report.damaged.len(), 1);
    assert!(sequences(&again).ends_with(&[19]));
    storage.tamper(&oldest, |bytes| bytes.truncate(2000));
    assert_eq!(open(&storage, Durability::Write).report.damaged.len(), 1);
}

#[test]
fn a_missing_or_unreadable_file_is_reported() {
    let storage = written(20, 500);
    let second = storage.paths()[1].clone();
    let kept = storage.after_kill();
    storage.remove(&second).unwrap();
    assert_eq!(open(&storage, Durability::Write).report.missing_files, [2]);

    kept.tamper(&second, |bytes| bytes[..128].fill(1));
    let again = open(&kept, Durability::Write);
    assert!(again.report.missing_files.is_empty());
    assert_eq!(again.report.set_aside.len(), 1);
    assert_eq!(again.report.damaged.len(), 1);
    assert!(sequences(&again).ends_with(&[19]));
}

#[test]
fn files_of_a_newer_version_are_refused_and_left_alone() {
    let storage = written(1, 10);
    let path = newest_file(&storage);
    storage.tamper(&path, |bytes| {
        for at in [0, 64] {
            bytes[at + 8] = 3;
            let check = crc32c::crc32c(&bytes[at..at + 60]);
            bytes[at + 60..at + 64].copy_from_slice(&check.to_le_bytes());
        }
    });
    let before = storage.paths();
    let error = try_open(&storage, options(Durability::Write)).err().unwrap();
    assert!(matches!(error, JournalError::NewerVersion { version: 3, .. }), "{error}");
    assert_eq!(storage.paths(), before);
}

/// The length of such a record has a single bit: without it, it looks like the end of the file.
#[test]
fn a_length_that_is_flipped_to_zero_is_no_end() {
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
fn a_read_error_is_not_taken_for_damage() {
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
    fn flipped_bits_cost_records_but_never_make_any(
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
        // What was lost was noticed.
        let lost = found.batches.len() as u64 != count;
        prop_assert!(!lost || found.report.torn_at.is_some() || !found.report.damaged.is_empty());
    }

    #[test]
    fn what_was_synced_survives_power_loss(
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
        // Not committed: may be there or not.
        let _ticket = opened.journal.append(&publish(sizes.len() as u64, b"x")).unwrap();
        let found = open(&storage.after_power_loss(seed), Durability::Sync);
        let mut found_sequences = sequences(&found);
        found_sequences.retain(|&sequence| sequence >= oldest && sequence < sizes.len() as u64);
        prop_assert_eq!(found_sequences, (oldest..sizes.len() as u64).collect::<Vec<_>>());
    }
}
