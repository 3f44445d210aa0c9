//! Finds out what each file of the journal is, even if its header or its name is wrong. Changes nothing.
//!
//! A file has two copies of its header at its start and one at its end. The header of the next file repeats what is
//! needed to read its records. So its records can be read as long as any of these is whole.

use std::{collections::BTreeSet, io, path::Path, sync::Arc};

use super::{
    JournalError, Lsn, catalog,
    format::{FILE_HEADER_BYTES, FileHeader, HEADER_COPY_BYTES, HeaderError, MAGIC},
    reader::read_error,
};
use crate::{ByteRange, Storage, StorageFile};

/// A file whose records can be read.
pub(super) struct OpenFile {
    pub header: FileHeader,
    pub file: Arc<dyn StorageFile>,
    pub len: u64,
    /// Damaged parts outside of the records.
    pub damaged: Vec<ByteRange>,
}

/// All files with the name of a journal file or a spare.
#[derive(Default)]
pub(super) struct Identified {
    /// In the order of their numbers.
    pub files: Vec<OpenFile>,
    /// Files with a wrong name: that name, and the file's number.
    pub misnamed: Vec<(String, u32)>,
    /// A spare that was renamed and never written to: its number and length.
    pub unused: Option<(u32, u64)>,
    /// Files that cannot be identified: number and length.
    pub unreadable: Vec<(u32, u64)>,
    /// Greater than every number that is known to have been used here.
    pub next_number: u32,
}

/// A file as it was found.
struct Candidate {
    /// The number in its name. `None` for a spare.
    number: Option<u32>,
    name: String,
    file: Arc<dyn StorageFile>,
    len: u64,
    header: Result<FileHeader, HeaderError>,
    damaged: Vec<ByteRange>,
}

impl Candidate {
    fn matches_its_name(&self) -> bool {
        self.header.is_ok_and(|header| Some(header.number) == self.number)
    }
}

/// Identifies the files `names` in `dir`. Fails if one of them has a newer version.
pub(super) fn identify(
    storage: &dyn Storage,
    dir: &Path,
    names: &[String],
    not_before: Lsn,
) -> Result<Identified, JournalError> {
    let mut candidates = Vec::new();
    for name in names {
        let number = catalog::file_number(name);
        if number.is_none() && catalog::spare_number(name).is_none() {
            continue;
        }
        let path = dir.join(name);
        let candidate = inspect(storage, &path, name, number).map_err(|error| read_error(&path, error))?;
        if let (Err(HeaderError::NewerVersion(version)), Some(_)) = (candidate.header, number) {
            return Err(JournalError::NewerVersion { path, version });
        }
        candidates.push(candidate);
    }
    candidates.sort_by_key(|candidate| candidate.number);
    let next_number = next_number(names, &candidates, not_before);
    fill_headers_from_successors(&mut candidates);
    let misnamed = find_misnamed(&mut candidates);
    candidates.sort_by_key(|candidate| candidate.number);
    fill_headers_from_successors(&mut candidates);
    let mut identified = classify(candidates);
    identified.misnamed = misnamed;
    identified.next_number = next_number;
    Ok(identified)
}

fn inspect(storage: &dyn Storage, path: &Path, name: &str, number: Option<u32>) -> io::Result<Candidate> {
    let file = storage.open(path)?;
    let len = file.len()?.min(u64::from(u32::MAX));
    let mut start = [0; FILE_HEADER_BYTES as usize];
    let filled = file.read_at(&mut start, 0)?;
    let mut header = FileHeader::decode(&start[..filled]);
    let mut damaged = Vec::new();
    if let Some(number) = number {
        // A header with another number may be from an earlier life of the file.
        if !matches!(header, Ok(header) if header.number == number)
            && !matches!(header, Err(HeaderError::NewerVersion(_)))
            && let Some(last) = find_last_copy(&*file, number, len)?
        {
            header = last;
        }
        if let Ok(header) = header
            && header.number == number
        {
            damaged = damaged_copies(&*file, &header, &start[..filled], len)?;
        }
    }
    Ok(Candidate { number, name: name.to_owned(), file, len, header, damaged })
}

/// The damaged copies of the header, and the part that is missing at the end of the file.
fn damaged_copies(
    file: &dyn StorageFile,
    header: &FileHeader,
    start: &[u8],
    len: u64,
) -> io::Result<Vec<ByteRange>> {
    let mut damaged = Vec::new();
    let copy_bytes = HEADER_COPY_BYTES as u64;
    let is_whole = |copy: &[u8]| FileHeader::decode_copy(copy) == Ok(*header);
    for at in [0, HEADER_COPY_BYTES] {
        if !start.get(at..at + HEADER_COPY_BYTES).is_some_and(is_whole) {
            damaged.push(ByteRange { offset: at as u64, bytes: copy_bytes });
        }
    }
    if let [ByteRange { offset: 0, .. }, _] = damaged[..] {
        damaged = vec![ByteRange { offset: 0, bytes: FILE_HEADER_BYTES }];
    }
    let Some(last_at) = header.last_copy_at() else { return Ok(damaged) };
    let whole_len = u64::from(header.capacity);
    if len < whole_len {
        damaged.push(ByteRange { offset: len, bytes: whole_len - len });
        return Ok(damaged);
    }
    let mut last = [0; HEADER_COPY_BYTES];
    if file.read_at(&mut last, last_at)? < last.len() || !is_whole(&last) {
        damaged.push(ByteRange { offset: last_at, bytes: copy_bytes });
    }
    Ok(damaged)
}

/// Finds the copy of the header that the writer of file `number` put at its end, wherever the file ends now.
fn find_last_copy(
    file: &dyn StorageFile,
    number: u32,
    len: u64,
) -> io::Result<Option<Result<FileHeader, HeaderError>>> {
    const STEP: u64 = 1 << 20;
    let mut buf = vec![0; STEP as usize + HEADER_COPY_BYTES];
    let mut end = len;
    while end > 0 {
        let from = end.saturating_sub(STEP);
        // A copy may cross the border between two pieces.
        let want = (end - from) as usize + HEADER_COPY_BYTES;
        let filled = file.read_at(&mut buf[..want], from)?;
        for at in memchr::memmem::rfind_iter(&buf[..filled], &MAGIC) {
            let copy = &buf[at..filled.min(at + HEADER_COPY_BYTES)];
            match FileHeader::decode_copy(copy) {
                Ok(header) if header.number == number && header.last_copy_at() == Some(from + at as u64) => {
                    return Ok(Some(Ok(header)));
                }
                Err(newer @ HeaderError::NewerVersion(_)) if from + at as u64 + copy.len() as u64 == len => {
                    return Ok(Some(Err(newer)));
                }
                _ => {}
            }
        }
        end = from;
    }
    Ok(None)
}

/// Numbers only grow, even if files were set aside or removed, because places must not be reused.
fn next_number(names: &[String], candidates: &[Candidate], not_before: Lsn) -> u32 {
    let set_aside = names.iter().filter_map(|name| catalog::damaged_number(name));
    let named = candidates.iter().filter_map(|candidate| candidate.number);
    let own = candidates.iter().filter_map(|candidate| Some(candidate.header.ok()?.number));
    let floor = u32::try_from(not_before.file_number()).unwrap_or(u32::MAX);
    set_aside.chain(named).chain(own).max().unwrap_or(0).max(floor).saturating_add(1)
}

/// Rebuilds the headers of files that have lost all copies, from the header of the next file.
fn fill_headers_from_successors(candidates: &mut [Candidate]) {
    for index in (1..candidates.len()).rev() {
        let (before, behind) = candidates.split_at_mut(index);
        let (Some(lost), Some(successor)) = (before.last_mut(), behind.first()) else { continue };
        if !successor.matches_its_name() || lost.matches_its_name() {
            continue;
        }
        if let (Ok(FileHeader { previous: Some(previous), .. }), Some(number)) =
            (successor.header, lost.number)
            && previous.number == number
            && previous.stamp != 0
        {
            lost.header = Ok(FileHeader { number, stamp: previous.stamp, previous: None, capacity: 0 });
            let bytes = FILE_HEADER_BYTES.min(lost.len.max(1));
            lost.damaged = vec![ByteRange { offset: 0, bytes }];
        }
    }
}

/// Finds files that are missing in the chain and exist under another name. Gives them their own number.
fn find_misnamed(candidates: &mut [Candidate]) -> Vec<(String, u32)> {
    let mut misnamed = Vec::new();
    loop {
        let mut known: Vec<FileHeader> = (candidates.iter())
            .filter(|candidate| candidate.matches_its_name())
            .filter_map(|candidate| candidate.header.ok())
            .collect();
        known.sort_by_key(|header| header.number);
        let names: BTreeSet<u32> = candidates.iter().filter_map(|candidate| candidate.number).collect();
        let is_missing = |header: &FileHeader, is_spare: bool| {
            let is_before = |behind: &FileHeader| {
                behind.previous.is_some_and(|previous| previous.number == header.number)
            };
            let is_gap = known.iter().skip(1).any(is_before);
            // Even if it is not needed: such a file costs only the time to read it.
            let is_oldest = known.first().is_some_and(is_before);
            let is_newest = known.last().is_none_or(|newest| {
                header.number > newest.number
                    && header.previous.is_some_and(|previous| previous.number == newest.number)
            });
            // A spare may well be the former predecessor of the oldest file.
            !names.contains(&header.number) && (is_gap || (!is_spare && (is_oldest || is_newest)))
        };
        let Some(found) = candidates.iter_mut().find(|candidate| {
            !candidate.matches_its_name()
                && candidate.header.is_ok_and(|header| is_missing(&header, candidate.number.is_none()))
        }) else {
            return misnamed;
        };
        if let Ok(header) = found.header {
            misnamed.push((found.name.clone(), header.number));
            found.number = Some(header.number);
        }
    }
}

fn classify(candidates: Vec<Candidate>) -> Identified {
    let oldest = candidates.iter().find(|candidate| candidate.matches_its_name());
    let oldest = oldest.and_then(|candidate| candidate.number);
    let newest = candidates.last().and_then(|candidate| candidate.number);
    let mut identified = Identified::default();
    for candidate in candidates {
        let Some(number) = candidate.number else { continue };
        let Candidate { file, len, header, damaged, .. } = candidate;
        match header {
            Ok(header) if header.number == number => {
                identified.files.push(OpenFile { header, file, len, damaged });
            }
            // Left by an earlier version, which renamed a spare first and wrote its header later. The number
            // in its header is below that of the oldest file, so it had been retired.
            Ok(header) if Some(number) == newest && oldest.is_some_and(|oldest| header.number < oldest) => {
                identified.unused = Some((number, len));
            }
            _ => identified.unreadable.push((number, len)),
        }
    }
    identified
}
