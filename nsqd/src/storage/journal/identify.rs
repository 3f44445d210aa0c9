//! Which files of the journal there are, and what each of them is, even if its header or its name is wrong. Changes nothing.
//!
//! A file's header stands at its start, twice, and at its end. The header of the file behind it repeats what is needed to
//! read its records. So its records can be read as long as any of these is whole.

use std::{collections::BTreeSet, io, path::Path, sync::Arc};

use super::{
    JournalError, Lsn, catalog,
    format::{FILE_HEADER_BYTES, FileHeader, HEADER_COPY_BYTES, HeaderError, MAGIC},
    reader::read_error,
};
use crate::storage::{Storage, StorageFile};

/// A file whose records can be read.
pub(super) struct OpenFile {
    pub header: FileHeader,
    pub file: Arc<dyn StorageFile>,
    pub len: u64,
    /// Stretches that are not what was written there, outside of the records: offset and length.
    pub damaged: Vec<(u64, u64)>,
}

/// Everything that is named as a file of the journal.
#[derive(Default)]
pub(super) struct Identified {
    /// In the order of their numbers.
    pub files: Vec<OpenFile>,
    /// Names that are not the file's own: the name, and the file's number.
    pub misnamed: Vec<(String, u32)>,
    /// A spare that was renamed and never written to: its number and length.
    pub unused: Option<(u32, u64)>,
    /// Nothing says what these are: number and length.
    pub unreadable: Vec<(u32, u64)>,
    /// Greater than every number that has ever been used here, as far as can be seen.
    pub next_number: u32,
}

/// A file as it is found.
struct Candidate {
    /// By its name. None for a spare.
    number: Option<u32>,
    name: String,
    file: Arc<dyn StorageFile>,
    len: u64,
    header: Result<FileHeader, HeaderError>,
    damaged: Vec<(u64, u64)>,
}

impl Candidate {
    fn is_what_its_name_says(&self) -> bool {
        self.header.is_ok_and(|header| Some(header.number) == self.number)
    }
}

/// Looks at the files `names` in `dir`. Fails if one of them has a newer version.
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
        let candidate = look_at(storage, &path, name, number).map_err(|error| read_error(&path, error))?;
        if let (Err(HeaderError::NewerVersion(version)), Some(_)) = (candidate.header, number) {
            return Err(JournalError::NewerVersion { path, version });
        }
        candidates.push(candidate);
    }
    candidates.sort_by_key(|candidate| candidate.number);
    let next_number = next_number(names, &candidates, not_before);
    ask_successors(&mut candidates);
    let misnamed = find_misnamed(&mut candidates);
    candidates.sort_by_key(|candidate| candidate.number);
    ask_successors(&mut candidates);
    let mut identified = sort_out(candidates);
    identified.misnamed = misnamed;
    identified.next_number = next_number;
    Ok(identified)
}

fn look_at(storage: &dyn Storage, path: &Path, name: &str, number: Option<u32>) -> io::Result<Candidate> {
    let file = storage.open(path)?;
    let len = file.len()?.min(u64::from(u32::MAX));
    let mut start = [0; FILE_HEADER_BYTES as usize];
    let filled = file.read_at(&mut start, 0)?;
    let mut header = FileHeader::decode(&start[..filled]);
    let mut damaged = Vec::new();
    if let Some(number) = number {
        // If the header says another number, it may be that of an earlier life.
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

/// The copies of the header that are not whole, and what is missing at the end of the file.
fn damaged_copies(
    file: &dyn StorageFile,
    header: &FileHeader,
    start: &[u8],
    len: u64,
) -> io::Result<Vec<(u64, u64)>> {
    let mut damaged = Vec::new();
    let copy_bytes = HEADER_COPY_BYTES as u64;
    let is_whole = |copy: &[u8]| FileHeader::decode_copy(copy) == Ok(*header);
    for at in [0, HEADER_COPY_BYTES] {
        if !start.get(at..at + HEADER_COPY_BYTES).is_some_and(is_whole) {
            damaged.push((at as u64, copy_bytes));
        }
    }
    if let [(0, _), (_, _)] = damaged[..] {
        damaged = vec![(0, FILE_HEADER_BYTES)];
    }
    let Some(last_at) = header.last_copy_at() else { return Ok(damaged) };
    let whole_len = u64::from(header.capacity);
    if len < whole_len {
        damaged.push((len, whole_len - len));
        return Ok(damaged);
    }
    let mut last = [0; HEADER_COPY_BYTES];
    if file.read_at(&mut last, last_at)? < last.len() || !is_whole(&last) {
        damaged.push((last_at, copy_bytes));
    }
    Ok(damaged)
}

/// The copy of the header of file `number` that its writer put at its end, wherever the file ends now.
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
        // A copy may reach over the border between two pieces.
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

/// Numbers only grow, also when files were set aside or removed: places must not come again.
fn next_number(names: &[String], candidates: &[Candidate], not_before: Lsn) -> u32 {
    let set_aside = names.iter().filter_map(|name| catalog::damaged_number(name));
    let named = candidates.iter().filter_map(|candidate| candidate.number);
    let own = candidates.iter().filter_map(|candidate| Some(candidate.header.ok()?.number));
    let floor = u32::try_from(not_before.file_number()).unwrap_or(u32::MAX);
    set_aside.chain(named).chain(own).max().unwrap_or(0).max(floor).saturating_add(1)
}

/// Files that have lost all copies of their header are described by the file behind.
fn ask_successors(candidates: &mut [Candidate]) {
    for index in (1..candidates.len()).rev() {
        let (before, behind) = candidates.split_at_mut(index);
        let (Some(lost), Some(successor)) = (before.last_mut(), behind.first()) else { continue };
        if !successor.is_what_its_name_says() || lost.is_what_its_name_says() {
            continue;
        }
        if let (Ok(FileHeader { previous: Some(previous), .. }), Some(number)) =
            (successor.header, lost.number)
            && previous.number == number
            && previous.stamp != 0
        {
            lost.header = Ok(FileHeader { number, stamp: previous.stamp, previous: None, capacity: 0 });
            lost.damaged = vec![(0, FILE_HEADER_BYTES.min(lost.len.max(1)))];
        }
    }
}

/// Files that the chain lacks, and that are there under another name. They get their own number.
fn find_misnamed(candidates: &mut [Candidate]) -> Vec<(String, u32)> {
    let mut misnamed = Vec::new();
    loop {
        let mut known: Vec<FileHeader> = (candidates.iter())
            .filter(|candidate| candidate.is_what_its_name_says())
            .filter_map(|candidate| candidate.header.ok())
            .collect();
        known.sort_by_key(|header| header.number);
        let names: BTreeSet<u32> = candidates.iter().filter_map(|candidate| candidate.number).collect();
        let is_lacking = |header: &FileHeader, is_spare: bool| {
            let is_before = |behind: &FileHeader| {
                behind.previous.is_some_and(|previous| previous.number == header.number)
            };
            let is_gap = known.iter().skip(1).any(is_before);
            // Whether or not it is needed: a file that is not costs nothing but reading it.
            let is_oldest = known.first().is_some_and(is_before);
            let is_newest = known.last().is_none_or(|newest| {
                header.number > newest.number
                    && header.previous.is_some_and(|previous| previous.number == newest.number)
            });
            // Spares have every right to be what came before the oldest file.
            !names.contains(&header.number) && (is_gap || (!is_spare && (is_oldest || is_newest)))
        };
        let Some(found) = candidates.iter_mut().find(|candidate| {
            !candidate.is_what_its_name_says()
                && candidate.header.is_ok_and(|header| is_lacking(&header, candidate.number.is_none()))
        }) else {
            return misnamed;
        };
        if let Ok(header) = found.header {
            misnamed.push((found.name.clone(), header.number));
            found.number = Some(header.number);
        }
    }
}

fn sort_out(candidates: Vec<Candidate>) -> Identified {
    let oldest = candidates.iter().find(|candidate| candidate.is_what_its_name_says());
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
            // Left by an earlier version, which renamed a spare first and wrote its header later. It was retired long
            // ago: else it would be the one before the oldest.
            Ok(header) if Some(number) == newest && oldest.is_some_and(|oldest| header.number < oldest) => {
                identified.unused = Some((number, len));
            }
            _ => identified.unreadable.push((number, len)),
        }
    }
    identified
}
