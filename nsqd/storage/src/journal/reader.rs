//! Reads the journal's files at start.
//!
//! A file that has a successor ends where the successor's header says. Bytes before that which do not verify
//! are damage: they are reported, and reading continues at the next record that verifies. The
//! newest file ends at its terminator; if there is none, the last write was torn and is cut.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    JournalError, JournalOptions, Lsn,
    catalog::{self, FileEntry},
    format::{self, FILE_HEADER_BYTES, FileHeader, Previous, RECORD_HEADER_BYTES, RecordHeader},
    identify::{Identified, OpenFile, identify},
};
use crate::{ByteRange, Storage, StorageFile, TopicNumber, record::Record, record_batch, seal::Seal};

/// What was found when the journal was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalReport {
    pub files: usize,
    /// Records passed to `replay`.
    pub records: u64,
    /// Bytes of these records.
    pub bytes: u64,
    /// Where the last record of the newest file ends.
    pub end: Lsn,
    /// Where the newest file was cut, if its last write was torn.
    pub torn_at: Option<Lsn>,
    /// Bytes of the torn write, as far as they can be distinguished from older bytes.
    pub cut_bytes: u64,
    /// Stretches that were once written as a whole but cannot be read.
    pub damaged: Vec<DamagedRange>,
    /// Numbers of missing files.
    pub missing_files: Vec<u64>,
    /// New paths of unreadable files, which were renamed.
    pub set_aside: Vec<PathBuf>,
    /// Files that had a wrong name: the wrong path and the corrected one.
    pub renamed: Vec<(PathBuf, PathBuf)>,
}

impl JournalReport {
    /// Whether everything that was ever acknowledged could be read, as far as the files show.
    pub fn is_complete(&self) -> bool {
        self.damaged.is_empty() && self.missing_files.is_empty() && self.set_aside.is_empty()
    }
}

/// A damaged stretch of a journal file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DamagedRange {
    /// Where it starts.
    pub lsn: Lsn,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Everything that the journal needs to continue.
#[derive(Default)]
pub(super) struct Found {
    pub files: VecDeque<FileEntry>,
    pub spares: Vec<String>,
    pub next_number: u32,
    /// The newest file, which is the predecessor of the next one.
    pub last: Option<Previous>,
    pub report: JournalReport,
}

/// Reads all files in `options.dir`.
pub(super) fn read_all(
    storage: &dyn Storage,
    options: &JournalOptions,
    replay: &mut dyn FnMut(Lsn, Record<'_>),
) -> Result<Found, JournalError> {
    let names = storage
        .create_dir_all(&options.dir)
        .and_then(|()| storage.list(&options.dir))
        .map_err(|error| read_error(&options.dir, error))?;
    let identified = identify(storage, &options.dir, &names, options.not_before)?;
    let mut found = Found { next_number: identified.next_number, ..Found::default() };
    correct_names(storage, options, &names, &identified, &mut found)?;
    scan_all(options, &identified.files, &mut found, replay)?;
    Ok(found)
}

/// Passes every whole record in `options.dir` to `show`. Changes nothing.
pub(super) fn show_all(
    storage: &dyn Storage,
    options: &JournalOptions,
    show: &mut dyn FnMut(Lsn, Record<'_>),
) -> Result<(), JournalError> {
    let names = match storage.list(&options.dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        names => names.map_err(|error| read_error(&options.dir, error))?,
    };
    let identified = identify(storage, &options.dir, &names, options.not_before)?;
    scan_all(options, &identified.files, &mut Found::default(), show)
}

fn scan_all(
    options: &JournalOptions,
    open_files: &[OpenFile],
    found: &mut Found,
    replay: &mut dyn FnMut(Lsn, Record<'_>),
) -> Result<(), JournalError> {
    if let Some(first) = open_files.first() {
        note_missing_before(&first.header, options.not_before, &mut found.report);
    }
    for (index, open) in open_files.iter().enumerate() {
        let next = open_files.get(index + 1).map(|next| &next.header);
        note_missing(&open.header, next, &mut found.report);
        let path = options.dir.join(catalog::file_name(open.header.number));
        let entry = scan(open, next, found, replay).map_err(|error| read_error(&path, error))?;
        found.files.push_back(entry);
    }
    found.report.files = open_files.len();
    Ok(())
}

pub(super) fn read_error(path: &Path, error: io::Error) -> JournalError {
    JournalError::Read { path: path.to_path_buf(), error: Arc::new(error) }
}

/// Corrects wrong file names, sets unreadable files aside, and finds the spares.
fn correct_names(
    storage: &dyn Storage,
    options: &JournalOptions,
    names: &[String],
    identified: &Identified,
    found: &mut Found,
) -> Result<(), JournalError> {
    let path = |name: &str| options.dir.join(name);
    let rename = |from: &Path, to: &Path| storage.rename(from, to).map_err(|error| read_error(from, error));
    for &(number, len) in &identified.unreadable {
        let aside = path(&catalog::damaged_name(number));
        rename(&path(&catalog::file_name(number)), &aside)?;
        found.report.damaged.push(DamagedRange { lsn: format::lsn(number, 0), bytes: len });
        found.report.set_aside.push(aside);
    }
    for (name, number) in &identified.misnamed {
        let (from, to) = (path(name), path(&catalog::file_name(*number)));
        rename(&from, &to)?;
        found.report.renamed.push((from, to));
    }
    let is_spare = |name: &&String| !identified.misnamed.iter().any(|(misnamed, _)| misnamed == *name);
    found.spares = check_spares(storage, options, names.iter().filter(is_spare))?;
    if let Some((number, len)) = identified.unused {
        let path = path(&catalog::file_name(number));
        discard(storage, options, &path, len, &mut found.spares).map_err(|error| read_error(&path, error))?;
    }
    Ok(())
}

/// Returns the retired files that can be reused. Removes the others, which are left from another file size.
fn check_spares<'a>(
    storage: &dyn Storage,
    options: &JournalOptions,
    names: impl Iterator<Item = &'a String>,
) -> Result<Vec<String>, JournalError> {
    let mut spares = Vec::new();
    for name in names.filter(|name| catalog::spare_number(name).is_some()) {
        let path = options.dir.join(name);
        let check = || -> io::Result<bool> {
            let usable = storage.open(&path)?.len()? == options.file_bytes;
            if !usable {
                storage.remove(&path)?;
            }
            Ok(usable)
        };
        if check().map_err(|error| read_error(&path, error))? {
            spares.push(name.clone());
        }
    }
    Ok(spares)
}

fn discard(
    storage: &dyn Storage,
    options: &JournalOptions,
    path: &Path,
    len: u64,
    spares: &mut Vec<String>,
) -> io::Result<()> {
    if len != options.file_bytes {
        return storage.remove(path);
    }
    let number = spares.iter().filter_map(|name| catalog::spare_number(name)).max().map_or(0, |n| n + 1);
    let name = catalog::spare_name(number);
    storage.rename(path, &options.dir.join(&name))?;
    spares.push(name);
    Ok(())
}

fn note_missing(header: &FileHeader, next: Option<&FileHeader>, report: &mut JournalReport) {
    if let Some(next) = next
        && let Some(Previous { number, .. }) = next.previous
        && number != header.number
        && !report.damaged.iter().any(|damage| damage.lsn.file_number() == u64::from(number))
    {
        report.missing_files.push(u64::from(number));
    }
}

/// The files before the oldest one were retired once a checkpoint no longer needed them. If no checkpoint says so, the
/// last of them is missing.
fn note_missing_before(oldest: &FileHeader, not_before: Lsn, report: &mut JournalReport) {
    if let Some(Previous { number, .. }) = oldest.previous
        && u64::from(oldest.number) > not_before.file_number()
        && !report.damaged.iter().any(|damage| damage.lsn.file_number() == u64::from(number))
    {
        report.missing_files.push(u64::from(number));
    }
}

/// Passes the whole records of a file to `replay`.
fn scan(
    open: &OpenFile,
    next: Option<&FileHeader>,
    found: &mut Found,
    replay: &mut dyn FnMut(Lsn, Record<'_>),
) -> io::Result<FileEntry> {
    let number = open.header.number;
    let report = &mut found.report;
    let damage = |ByteRange { offset, bytes }| DamagedRange { lsn: format::lsn(number, offset), bytes };
    report.damaged.extend(open.damaged.iter().copied().map(damage));
    // One damaged copy of the header is no reason to keep the file.
    let mut damaged = open.damaged.iter().any(|part| part.bytes > format::HEADER_COPY_BYTES as u64);
    // Known exactly if there is a successor; otherwise the terminator must be found.
    let sealed_end = next
        .and_then(|next| next.previous)
        .and_then(|previous| (previous.number == number).then_some(u64::from(previous.end)));
    let limit = open.header.last_copy_at().unwrap_or(open.len).min(open.len);
    let end = sealed_end.map_or(limit, |end| end.min(open.len));
    let mut window = Window::new(&*open.file, end);
    let mut topics = BTreeMap::new();
    let mut offset = FILE_HEADER_BYTES;
    loop {
        if let Some(length) =
            show_record(&mut window, open.header.seal(), number, offset, &mut topics, replay)?
        {
            report.records += 1;
            report.bytes += length;
            offset += length;
            continue;
        }
        if sealed_end.is_some_and(|sealed_end| offset >= sealed_end) {
            break;
        }
        // Searched also behind what looks like the end, because zeros may have replaced records.
        if let Some(resumed) = find_record(&mut window, open.header.seal(), offset + 1)? {
            report.damaged.push(damage(ByteRange { offset, bytes: resumed - offset }));
            damaged = true;
            offset = resumed;
            continue;
        }
        if sealed_end.is_none() && is_terminated(&mut window, open.header.seal(), offset)? {
            break;
        }
        if next.is_some() {
            // If the length of the file is known, the missing bytes at its end have already been reported.
            let lost_to = if open.header.capacity > 0 { end } else { sealed_end.unwrap_or(end) };
            if lost_to > offset {
                report.damaged.push(damage(ByteRange { offset, bytes: lost_to - offset }));
            }
            damaged = true;
        } else {
            report.torn_at = Some(format::lsn(number, offset));
            report.cut_bytes = torn_bytes(&mut window, open.header.seal(), offset)?;
        }
        break;
    }
    report.end = format::lsn(number, offset);
    found.last = Some(Previous { number, end: offset as u32, stamp: open.header.stamp });
    let identity = open.file.identity().ok();
    Ok(FileEntry { number, bytes: open.len, topics, sealed: true, damaged, identity, lost: false })
}

/// Whether the writer of the newest file ended it at `offset`.
fn is_terminated(window: &mut Window<'_>, seal: Seal, offset: u64) -> io::Result<bool> {
    let head = window.get(offset, RECORD_HEADER_BYTES)?;
    let was_header = head.first_chunk().is_some_and(|head| RecordHeader::lost_its_length(head, seal, offset));
    Ok(head.iter().take(format::TERMINATOR.len()).all(|&byte| byte == 0) && !was_header)
}

/// Passes the record at `offset` to `replay` if it is whole. Returns its length including the header.
fn show_record(
    window: &mut Window<'_>,
    seal: Seal,
    number: u32,
    offset: u64,
    topics: &mut BTreeMap<TopicNumber, u64>,
    replay: &mut dyn FnMut(Lsn, Record<'_>),
) -> io::Result<Option<u64>> {
    let Some(content) = whole_record(window, seal, offset)? else { return Ok(None) };
    // The checksum is right, so an invalid record was written in that form. It counts as damage.
    let Ok(records) = record_batch::decode(content) else { return Ok(None) };
    let length = (RECORD_HEADER_BYTES + content.len()) as u64;
    record_batch::published(content, |topic, last| {
        let highest = topics.entry(topic).or_insert(last);
        *highest = last.max(*highest);
    });
    records.for_each(|record| replay(format::lsn(number, offset), record));
    Ok(Some(length))
}

fn record_header(window: &mut Window<'_>, seal: Seal, offset: u64) -> io::Result<Option<RecordHeader>> {
    let header = window.get(offset, RECORD_HEADER_BYTES)?.first_chunk();
    Ok(header.and_then(|header| RecordHeader::decode(header, seal, offset)))
}

fn whole_record<'w>(window: &'w mut Window<'_>, seal: Seal, offset: u64) -> io::Result<Option<&'w [u8]>> {
    let Some(header) = record_header(window, seal, offset)? else { return Ok(None) };
    let start = offset + RECORD_HEADER_BYTES as u64;
    if u64::from(header.length) > window.end.saturating_sub(start) {
        return Ok(None);
    }
    let content = window.get(start, header.length as usize)?;
    Ok(header.covers(content).then_some(content))
}

/// The offset of the first whole record at or after `from`.
fn find_record(window: &mut Window<'_>, seal: Seal, from: u64) -> io::Result<Option<u64>> {
    let mut from = from;
    while from < window.end {
        let end = window.end;
        let bytes = window.get(from, Window::STEP)?;
        let places = bytes.len().saturating_sub(RECORD_HEADER_BYTES - 1);
        match find_marked(bytes, seal, from, end) {
            Some(offset) => {
                let content = whole_record(window, seal, offset)?;
                if content.is_some_and(|content| record_batch::decode(content).is_ok()) {
                    return Ok(Some(offset));
                }
                from = offset + 1;
            }
            None if places == 0 => break,
            None => from += places as u64,
        }
    }
    Ok(None)
}

/// The offset of the first header in `bytes`, which start at offset `from`, that was written for its place and whose
/// record fits before `end`. Most bytes behind the end of a file are zeros, so zeros are skipped quickly.
fn find_marked(bytes: &[u8], seal: Seal, from: u64, end: u64) -> Option<u64> {
    const ZEROS: &[u8] = &[0; 4096];
    let mut at = 0;
    while at + RECORD_HEADER_BYTES <= bytes.len() {
        if bytes[at] == 0 && bytes[at..].starts_with(ZEROS) {
            // The last zeros may be the beginning of a length.
            at += ZEROS.len() - 3;
            continue;
        }
        let stretch = bytes.len().min(at + ZEROS.len() + RECORD_HEADER_BYTES - 1);
        let places = bytes[at..stretch].windows(RECORD_HEADER_BYTES);
        let marked = places.zip(from + at as u64..).find_map(|(header, offset)| {
            let header: &[u8; RECORD_HEADER_BYTES] = header.first_chunk()?;
            let room = end.checked_sub(offset + RECORD_HEADER_BYTES as u64)?;
            let fits = u64::from(format::u32_at(header, 0)) <= room;
            (fits && RecordHeader::decode(header, seal, offset).is_some()).then_some(offset)
        });
        if marked.is_some() {
            return marked;
        }
        at += ZEROS.len();
    }
    None
}

/// How many bytes of a write that was torn at `offset` can be recognized.
fn torn_bytes(window: &mut Window<'_>, seal: Seal, offset: u64) -> io::Result<u64> {
    let length = record_header(window, seal, offset)?.map_or(0, |header| u64::from(header.length));
    Ok((RECORD_HEADER_BYTES as u64 + length).min(window.end - offset))
}

/// A file, read piece by piece.
struct Window<'f> {
    file: &'f dyn StorageFile,
    buf: Vec<u8>,
    start: u64,
    /// Nothing is read beyond this offset.
    end: u64,
}

impl<'f> Window<'f> {
    /// Minimum number of bytes per read.
    const STEP: usize = 1 << 20;

    fn new(file: &'f dyn StorageFile, end: u64) -> Self {
        Self { file, buf: Vec::new(), start: 0, end }
    }

    /// The bytes at `offset`; fewer than `len` only where the file ends.
    fn get(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let len = self.end.saturating_sub(offset).min(len as u64) as usize;
        let have = self.start + self.buf.len() as u64;
        if offset < self.start || offset + len as u64 > have {
            let read_len = self.end.saturating_sub(offset).min(len.max(Self::STEP) as u64) as usize;
            self.buf.resize(read_len, 0);
            self.start = offset;
            let filled = self.file.read_at(&mut self.buf, offset)?;
            self.buf.truncate(filled);
        }
        let from = (offset - self.start) as usize;
        Ok(&self.buf[from..self.buf.len().min(from + len)])
    }
}
