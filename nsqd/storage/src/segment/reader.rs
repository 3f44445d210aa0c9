//! Reads a topic's segment files at start: finds block headers, damage and a torn tail.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::file::{self, BlockRef, FILE_HEADER_BYTES, OpenedFile, SegmentFile};
use crate::{
    ByteRange, Storage, StorageFile,
    block::{BLOCK_HEADER_BYTES, BlockHeader},
    file_kind,
};

/// What was found when a topic's segments were opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentReport {
    /// Files with at least one block.
    pub files: usize,
    pub blocks: usize,
    /// Messages in all blocks.
    pub messages: u64,
    /// Bytes of a torn write that were cut from the end of the newest file.
    pub cut_bytes: u64,
    /// The file that was cut, and the offset.
    pub cut_at: Option<(PathBuf, u64)>,
    /// Stretches that were once written as a whole but cannot be read.
    pub damaged: Vec<SegmentDamage>,
    /// New paths of unreadable files, which were renamed.
    pub set_aside: Vec<PathBuf>,
}

/// A damaged stretch of a segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentDamage {
    pub path: PathBuf,
    /// Where it starts.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

pub(super) struct Found {
    pub blocks: Vec<BlockRef>,
    /// Files with their lengths after cutting.
    pub files: Vec<(Arc<SegmentFile>, u64)>,
    pub next_number: u64,
    pub report: SegmentReport,
}

pub(super) fn read_all(storage: &Arc<dyn Storage>, dir: &Path, names: &[String]) -> io::Result<Found> {
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| file::file_number(name)).collect();
    numbers.sort_unstable();
    // Includes files that were set aside: a new file of that number would replace them if it were damaged, too.
    let aside = names
        .iter()
        .filter_map(|name| file::file_number(name.strip_suffix(file_kind::DAMAGED)?.strip_suffix('.')?));
    let newest = aside.chain(numbers.last().copied()).max();
    let mut found = Found {
        blocks: Vec::new(),
        files: Vec::new(),
        next_number: newest.map_or(1, |newest| newest.saturating_add(1)),
        report: SegmentReport::default(),
    };
    for &number in &numbers {
        let newest = Some(&number) == numbers.last();
        match SegmentFile::open(storage, dir, number)? {
            Some(OpenedFile { file, damaged }) => {
                found.report.damaged.extend(damaged.map(|ByteRange { offset, bytes }| SegmentDamage {
                    path: file.path().to_path_buf(),
                    offset,
                    bytes,
                }));
                scan(Arc::new(file), newest, &mut found)?;
            }
            None => set_aside(&**storage, dir, number, newest, &mut found.report)?,
        }
    }
    found.report.blocks = found.blocks.len();
    found.report.messages = found.blocks.iter().map(|block| u64::from(block.count)).sum();
    Ok(found)
}

/// Handles a file without header and blocks, which is incomplete or damaged.
fn set_aside(
    storage: &dyn Storage,
    dir: &Path,
    number: u64,
    newest: bool,
    report: &mut SegmentReport,
) -> io::Result<()> {
    let path = dir.join(file::file_name(number));
    let bytes = storage.open(&path)?.len()?;
    if newest && bytes <= FILE_HEADER_BYTES {
        report.cut_bytes += bytes;
        report.cut_at = Some((path.clone(), 0));
        return storage.remove(&path);
    }
    report.damaged.push(SegmentDamage { path: path.clone(), offset: 0, bytes });
    put_away(storage, &path, bytes, report)
}

/// Removes a file that is not longer than a header. Renames a longer one to `*.damaged`.
pub(super) fn put_away(
    storage: &dyn Storage,
    path: &Path,
    bytes: u64,
    report: &mut SegmentReport,
) -> io::Result<()> {
    if bytes <= FILE_HEADER_BYTES {
        return storage.remove(path);
    }
    let aside = file_kind::set_aside(path);
    storage.rename(path, &aside)?;
    report.set_aside.push(aside);
    Ok(())
}

/// Finds the blocks of a file by their headers.
fn scan(file: Arc<SegmentFile>, newest: bool, found: &mut Found) -> io::Result<()> {
    let handle = file.handle()?;
    let mut len = handle.len()?;
    let mut at = FILE_HEADER_BYTES;
    let before = found.blocks.len();
    while at < len {
        if let Some(header) = header_at(&*handle, &file, at, len)? {
            found.blocks.push(file.block_ref(&header, at));
            at += BLOCK_HEADER_BYTES as u64 + u64::from(header.length);
        } else if let Some(resumed) = find_header(&*handle, &file, at + 1, len)? {
            let path = file.path().to_path_buf();
            found.report.damaged.push(SegmentDamage { path, offset: at, bytes: resumed - at });
            at = resumed;
        } else {
            let rest = len - at;
            if newest {
                handle.truncate(at)?;
                len = at;
                found.report.cut_bytes += rest;
                found.report.cut_at = Some((file.path().to_path_buf(), at));
            } else {
                let path = file.path().to_path_buf();
                found.report.damaged.push(SegmentDamage { path, offset: at, bytes: rest });
            }
            break;
        }
    }
    found.report.files += usize::from(found.blocks.len() > before);
    file.close();
    found.files.push((file, len));
    Ok(())
}

/// The header of a block that is at `at` and ends within the file.
fn header_at(
    handle: &dyn StorageFile,
    file: &SegmentFile,
    at: u64,
    len: u64,
) -> io::Result<Option<BlockHeader>> {
    let mut bytes = [0; BLOCK_HEADER_BYTES];
    if handle.read_at(&mut bytes, at)? < BLOCK_HEADER_BYTES {
        return Ok(None);
    }
    let end = |header: &BlockHeader| at + BLOCK_HEADER_BYTES as u64 + u64::from(header.length);
    Ok(BlockHeader::decode(&bytes, file.seal(), at).filter(|header| end(header) <= len))
}

/// The offset of the first block at or after `from` that ends within the file.
fn find_header(handle: &dyn StorageFile, file: &SegmentFile, from: u64, len: u64) -> io::Result<Option<u64>> {
    let mut buf = vec![0; 1 << 20];
    let mut from = from;
    loop {
        let filled = handle.read_at(&mut buf, from)?;
        let places = (filled + 1).saturating_sub(BLOCK_HEADER_BYTES);
        for (bytes, at) in buf[..filled].windows(BLOCK_HEADER_BYTES).zip(from..) {
            let Some(bytes) = bytes.first_chunk() else { break };
            if BlockHeader::decode(bytes, file.seal(), at).is_some()
                && header_at(handle, file, at, len)?.is_some()
            {
                return Ok(Some(at));
            }
        }
        if places == 0 {
            return Ok(None);
        }
        from += places as u64;
    }
}
