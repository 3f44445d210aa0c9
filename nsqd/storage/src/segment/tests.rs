//! Segments, on files in memory that fail on demand.

use std::{io::ErrorKind, path::Path};

use proptest::prelude::*;

use super::*;
use crate::faulty::{Fault, FaultyStorage, Op};

const DIR: &str = "/data/topics/1";

fn open_with(storage: &FaultyStorage, max_file_bytes: u64) -> (SegmentStore, Vec<BlockRef>, SegmentReport) {
    storage.create_dir_all(Path::new("/data/topics")).unwrap();
    SegmentStore::open(Arc::new(storage.clone()), DIR, max_file_bytes).unwrap()
}

fn open(storage: &FaultyStorage) -> (SegmentStore, Vec<BlockRef>, SegmentReport) {
    open_with(storage, 1000)
}

/// `count` frames of 20 bytes, all made of `byte`.
fn frames(count: u32, byte: u8) -> Vec<u8> {
    let mut frame = [byte; 20];
    frame[..4].copy_from_slice(&16_u32.to_be_bytes());
    frame.repeat(count as usize)
}

/// Ten blocks of ten messages; two blocks of 228 bytes in a file of 600.
fn filled() -> FaultyStorage {
    let storage = FaultyStorage::default();
    let (mut store, _, _) = open_with(&storage, 600);
    for block in 0..10_u8 {
        store.append(u64::from(block) * 10, 10, &frames(10, block)).unwrap();
    }
    assert_eq!(store.files().count(), 5);
    storage.after_kill()
}

fn firsts(blocks: &[BlockRef]) -> Vec<u64> {
    blocks.iter().map(|block| block.first_sequence).collect()
}

#[test]
fn blocks_are_read_although_their_file_header_is_lost() {
    let storage = filled();
    for path in storage.paths() {
        let storage = storage.after_kill();
        storage.tamper(&path, |bytes| bytes[..64].fill(0));
        let (_, blocks, report) = open(&storage);
        assert_eq!((blocks.len(), report.damaged.len(), report.set_aside.len()), (10, 1, 0));
        assert!(blocks.iter().all(|block| block.read().is_ok()));
    }
}

#[test]
fn single_block_is_trusted_if_the_damaged_header_gives_the_same_seal() {
    let storage = filled();
    let path = storage.paths()[1].clone();
    // Only the stamp of the first copy and the second block stay intact.
    storage.tamper(&path, |bytes| {
        bytes[0] ^= 1;
        bytes[32..200].fill(0);
    });
    let (_, blocks, report) = open(&storage.after_kill());
    assert_eq!((blocks.len(), report.set_aside.len()), (9, 0));
    storage.tamper(&path, |bytes| bytes[..64].fill(0));
    let (_, blocks, report) = open(&storage);
    assert_eq!((blocks.len(), report.set_aside.len(), report.damaged.len()), (8, 1, 1));
}

#[test]
fn segment_under_another_name_is_read() {
    let storage = filled();
    let path = storage.paths()[1].clone();
    storage.rename(&path, &Path::new(DIR).join(file::file_name(77))).unwrap();
    let (store, blocks, report) = open(&storage);
    assert_eq!(blocks.len(), 10);
    assert!(blocks.iter().all(|block| block.read().is_ok()));
    assert_eq!((report.damaged.len(), store.next_number()), (1, 78));
}

#[test]
fn each_damaged_copy_of_a_segment_header_is_reported() {
    let storage = filled();
    let path = storage.paths()[1].clone();
    for at in [0, 32] {
        let storage = storage.after_kill();
        storage.tamper(&path, |bytes| bytes[at + 5] ^= 1);
        let (_, blocks, report) = open(&storage);
        assert_eq!(blocks.len(), 10);
        assert_eq!(report.damaged, [SegmentDamage { path: path.clone(), offset: at as u64, bytes: 32 }]);
    }
}

#[test]
fn sync_fails_in_a_removed_directory_only_if_its_files_are_needed() {
    let storage = FaultyStorage::default();
    let (mut store, _, _) = open(&storage);
    for sequence in [0, 10] {
        store.append(sequence, 10, &frames(10, 1)).unwrap();
        storage.vanish(Path::new(DIR));
        assert!(store.sync().is_err(), "what it holds is needed");
        let number = store.files().next().unwrap().number;
        store.release_file(number).unwrap();
        store.sync().unwrap();
    }
    store.append(20, 10, &frames(10, 1)).unwrap();
    store.sync().unwrap();
    assert_eq!(firsts(&open(&storage.after_power_loss(0)).1), [20]);
}

#[test]
fn nothing_is_created_before_the_first_block() {
    let storage = FaultyStorage::default();
    let (mut store, blocks, report) = open(&storage);
    assert!(blocks.is_empty() && storage.paths().is_empty());
    assert_eq!((report, store.bytes()), (SegmentReport::default(), 0));
    assert!(storage.list(Path::new(DIR)).is_err());
    store.remove_all().unwrap();
}

#[test]
fn blocks_are_read_after_a_restart() {
    let storage = filled();
    let (store, blocks, report) = open(&storage);
    assert_eq!(firsts(&blocks), (0..10).map(|block| block * 10).collect::<Vec<_>>());
    assert_eq!((report.files, report.blocks, report.messages, report.cut_bytes), (5, 10, 100, 0));
    for (block, byte) in blocks.iter().zip(0..) {
        let loaded = block.read().unwrap();
        assert_eq!(loaded.frames, frames(10, byte));
        assert_eq!(loaded.frame(9), Some(&frames(1, byte)[..]));
        assert_eq!(loaded.frame(10), None);
    }
    let total: u64 = store.files().map(|file| file.bytes).sum();
    assert_eq!(store.bytes(), total);
    assert!(store.files().all(|file| file.bytes == 64 + 2 * 228 && file.message_count == 20));
}

#[test]
fn new_blocks_go_to_a_new_file() {
    let storage = filled();
    let (mut store, _, _) = open(&storage);
    let block = store.append(100, 1, &frames(1, 9)).unwrap();
    assert_eq!(block.file_number(), 6);
    store.close_idle();
    assert_eq!(block.read().unwrap().frames, frames(1, 9));
    assert_eq!(open(&storage.after_kill()).1.len(), 11);
}

#[test]
fn a_large_block_has_a_file_of_its_own() {
    let storage = FaultyStorage::default();
    let (mut store, _, _) = open(&storage);
    store.append(0, 1, &frames(1, 1)).unwrap();
    let block = store.append(1, 500, &frames(500, 2)).unwrap();
    assert_eq!((block.file_number(), block.read().unwrap().offsets.len()), (2, 501));
}

#[test]
fn survivors_are_appended_together_in_any_order() {
    let storage = FaultyStorage::default();
    let (mut store, _, _) = open_with(&storage, 1 << 20);
    let frames = frames(1, 1);
    let runs: Vec<_> =
        (0..700).rev().map(|n| NewBlock { first_sequence: 3 * n, count: 1, frames: &frames }).collect();
    storage.plan(Fault { after: 1, ..Fault::next(Op::Write, 9, ErrorKind::Other) });
    let blocks = store.append_blocks(&runs).unwrap();
    let info = store.files().next().unwrap();
    assert_eq!((info.first_sequence, info.end_sequence, info.message_count), (0, 2098, 700));
    assert_eq!(firsts(&open(&storage.after_kill()).1), firsts(&blocks));
    assert!(store.append(1, 0, b"").is_err());
    assert!(store.append_blocks(&[]).unwrap().is_empty());
}

#[test]
fn files_are_removed_when_nothing_in_them_is_needed() {
    let storage = filled();
    let (mut store, blocks, _) = open(&storage);
    assert_eq!(store.release_below(39).unwrap(), 520);
    assert_eq!(store.release_below(40).unwrap(), 520);
    assert_eq!(store.files().next().unwrap().first_sequence, 40);
    assert!(matches!(blocks[0].read(), Ok(_) | Err(ReadError::Io { .. })));
    assert_eq!(store.release_file(5).unwrap(), 520);
    assert_eq!(store.release_file(5).unwrap(), 0);
    assert_eq!(open(&storage).1.len(), 4);
    store.remove_all().unwrap();
    assert!(storage.paths().is_empty());
    store.append(1000, 1, &frames(1, 1)).unwrap();
    assert_eq!(firsts(&open(&storage).1), [1000]);
}

#[test]
fn synced_blocks_survive_power_loss() {
    for seed in 0..20 {
        let storage = FaultyStorage::default();
        let (mut store, _, _) = open(&storage);
        for block in 0..10 {
            store.append(block * 10, 10, &frames(10, block as u8)).unwrap();
        }
        store.sync().unwrap();
        let image = storage.after_power_loss(seed);
        let (_, blocks, report) = open(&image);
        assert_eq!((blocks.len(), report.damaged.len(), report.cut_bytes), (10, 0, 0));
        assert!(blocks.iter().all(|block| block.read().is_ok()));
    }
}

#[test]
fn a_failed_append_leaves_nothing() {
    for truncate_fails in [false, true] {
        for written in [0, 10, 40, 100, 228] {
            for first in [true, false] {
                let storage = FaultyStorage::default();
                let (mut store, _, _) = open(&storage);
                if !first {
                    store.append(0, 10, &frames(10, 1)).unwrap();
                }
                storage.plan(Fault { written, ..Fault::next(Op::Write, 1, ErrorKind::StorageFull) });
                if truncate_fails {
                    storage.plan(Fault::next(Op::Truncate, 1, ErrorKind::Other));
                }
                assert!(store.append(10, 10, &frames(10, 2)).is_err());
                storage.heal();
                store.append(10, 10, &frames(10, 3)).unwrap();
                let (_, blocks, _) = open(&storage.after_kill());
                let last = blocks.last().unwrap();
                assert_eq!((last.first_sequence, last.read().unwrap().frames), (10, frames(10, 3)));
            }
        }
    }
}

#[test]
fn a_torn_tail_is_cut() {
    for cut in 0..520 {
        let storage = filled();
        let newest = storage.paths().pop().unwrap();
        storage.tamper(&newest, |bytes| bytes.truncate(cut));
        let (_, blocks, report) = open(&storage);
        let whole = cut.saturating_sub(64) / 228;
        assert_eq!(blocks.len(), 8 + whole, "cut at {cut}");
        assert!(blocks.iter().all(|block| block.read().is_ok()));
        assert_eq!(report.damaged, []);
        // Once cut, there is nothing to report any more.
        assert_eq!(open(&storage).2.cut_bytes, 0);
    }
}

#[test]
fn damage_loses_only_the_block_that_it_hit() {
    let storage = filled();
    let oldest = storage.paths()[0].clone();
    storage.tamper(&oldest, |bytes| bytes[64 + 100] ^= 1);
    let (_, blocks, report) = open(&storage);
    // A start reads only headers. The content is verified when it is read.
    assert_eq!((blocks.len(), report.damaged.len()), (10, 0));
    assert!(matches!(blocks[0].read(), Err(ReadError::Damaged { offset: 92, .. })));
    assert!(blocks[1].read().is_ok());

    storage.tamper(&oldest, |bytes| bytes[64 + 5] ^= 1);
    let (_, blocks, report) = open(&storage);
    assert_eq!((firsts(&blocks)[0], blocks.len()), (10, 9));
    assert_eq!((report.damaged[0].offset, report.damaged[0].bytes), (64, 228));

    storage.tamper(&oldest, |bytes| bytes.fill(7));
    let (_, blocks, report) = open(&storage);
    assert_eq!((blocks.len(), report.set_aside.len(), report.damaged.len()), (8, 1, 1));
    assert!(storage.paths().iter().any(|path| path.ends_with("00000000000000000001.segment.damaged")));
}

proptest! {
    #[test]
    fn flipped_bits_never_yield_wrong_messages(flips in prop::collection::vec((0_usize..520, 0_u8..8), 1..5)) {
        let storage = filled();
        let newest = storage.paths().pop().unwrap();
        storage.tamper(&newest, |bytes| flips.iter().for_each(|&(at, bit)| bytes[at] ^= 1 << bit));
        let (_, blocks, _) = open(&storage);
        prop_assert!(blocks.len() >= 8);
        for block in blocks {
            if let Ok(loaded) = block.read() {
                prop_assert_eq!(loaded.frames, frames(10, (block.first_sequence / 10) as u8));
            }
        }
    }
}
