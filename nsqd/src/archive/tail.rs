//! Reads the journal behind its writer. Blocks.
//!
//! It reads only what was written before [`Journal::position`], in pieces that end where a record ends. The writer does not
//! notice: the bytes come from the page cache.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nsq_archive::chunk::{Builder, Piece};

use crate::storage::journal::{self, FILE_HEADER_BYTES, HeaderCopy, Journal, Lsn};
use crate::storage::{Storage, StorageFile};

/// A record, or a damaged stretch, that is longer than this is divided.
const MAX_PIECE_BYTES: u64 = 64 << 20;

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The file was deleted before it was read. Reading can go on at this place.
    #[error("journal file {number} was deleted before it was archived")]
    Gone { number: u64, continue_at: Lsn },
    #[error("cannot read {}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
}

/// Records from one place of the journal to another.
#[derive(Debug, Default)]
pub struct Records {
    /// The content of a chunk; empty if there is nothing new.
    pub content: Vec<u8>,
    /// Where they end.
    pub to: Lsn,
    /// Bytes of the journal.
    pub bytes: u64,
    /// Whether nothing follows yet.
    pub is_end: bool,
}

/// See the module.
pub struct Tail {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    journal: Arc<Journal>,
}

impl Tail {
    pub fn new(storage: Arc<dyn Storage>, dir: PathBuf, journal: Arc<Journal>) -> Self {
        Tail { storage, dir, journal }
    }

    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Where the oldest file begins; the end of the journal if there is no file.
    pub fn oldest(&self) -> Lsn {
        self.journal.file_numbers().first().map_or(self.journal.position(), |&number| start_of(number))
    }

    /// Reads about `max_bytes` of whole records from `from` on.
    pub fn read(&self, from: Lsn, max_bytes: u64) -> Result<Records, TailError> {
        let end = self.journal.position();
        let mut builder = Builder::default();
        let mut records = Records { to: from, ..Records::default() };
        while records.to < end && records.bytes < max_bytes {
            match self.read_file(records.to, end, max_bytes - records.bytes, &mut builder) {
                Ok((to, bytes)) => (records.to, records.bytes) = (to, records.bytes + bytes),
                Err(_) if !builder.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        records.content = builder.take();
        records.is_end = records.to >= end;
        Ok(records)
    }

    /// The number of bytes from `at` on. Counts all of a file whose end cannot be found.
    pub fn bytes_from(&self, at: Lsn) -> u64 {
        let end = self.journal.position();
        let numbers = self.journal.file_numbers();
        let mut bytes = 0;
        for (index, &number) in numbers.iter().enumerate().filter(|(_, number)| **number >= at.file_number())
        {
            let Ok(Some((file, header))) = self.open(number) else { continue };
            let next = numbers.get(index + 1).copied();
            let limit = self.limit(&header, &*file, next, end).unwrap_or_default();
            let from = if number == at.file_number() { at.offset() } else { FILE_HEADER_BYTES };
            bytes += limit.saturating_sub(from);
        }
        bytes
    }

    /// Where the records of this file end.
    fn limit(
        &self,
        header: &HeaderCopy,
        file: &dyn StorageFile,
        next: Option<u64>,
        end: Lsn,
    ) -> Result<u64, TailError> {
        match next {
            _ if u64::from(header.file_number()) == end.file_number() => Ok(end.offset()),
            Some(next) => self.end_before(next, header, file),
            // The newest file of an earlier run.
            None => Ok(self.journal.found_end().map_or(0, Lsn::offset)),
        }
    }

    /// Reads a part of one file. Returns where it ends, or the beginning of the next file, and the number of bytes.
    fn read_file(
        &self,
        at: Lsn,
        end: Lsn,
        max_bytes: u64,
        builder: &mut Builder,
    ) -> Result<(Lsn, u64), TailError> {
        let number = at.file_number();
        let numbers = self.journal.file_numbers();
        let next = numbers.iter().copied().find(|&other| other > number);
        if !numbers.contains(&number) {
            return self.after_gone(at, next.map_or(end, start_of)).map(|to| (to, 0));
        }
        let Some((file, header)) = self.open(number)? else { return Err(gone(number, self.oldest())) };
        let limit = self.limit(&header, &*file, next, end)?;
        if at.offset() >= limit {
            return Ok((next.map_or(end, start_of), 0));
        }
        let path = self.path(number);
        let bytes = read_records(&*file, &header, at.offset(), limit, max_bytes)
            .map_err(|error| TailError::Read { path, error })?;
        // A file that was recycled meanwhile has other bytes.
        if !self.journal.file_numbers().contains(&number) {
            return Err(gone(number, self.oldest()));
        }
        let piece = Piece { header, offset: at.offset() as u32, bytes };
        builder.add(&piece);
        Ok((piece.to(), piece.bytes.len() as u64))
    }

    /// Where reading goes on if the file of `at` is gone: at the next file, if it follows what was read.
    fn after_gone(&self, at: Lsn, next: Lsn) -> Result<Lsn, TailError> {
        let follows = match self.open(next.file_number())? {
            Some((_, header)) => header.previous_end() == Some(at),
            None => false,
        };
        if follows { Ok(next) } else { Err(gone(at.file_number(), next)) }
    }

    /// Where the records end of the file before `next`, whose header is `header`.
    fn end_before(&self, next: u64, header: &HeaderCopy, file: &dyn StorageFile) -> Result<u64, TailError> {
        let number = u64::from(header.file_number());
        if let Some((_, next)) = self.open(next)?
            && let Some(end) = next.previous_end()
            && end.file_number() == number
        {
            return Ok(end.offset());
        }
        let length = file.len().map_err(|error| TailError::Read { path: self.path(number), error })?;
        Ok(header.last_copy_at().unwrap_or(length).min(length))
    }

    /// A file and its header; `None` if the file is gone.
    fn open(&self, number: u64) -> Result<Option<OpenFile>, TailError> {
        let path = self.path(number);
        let failed = |error| TailError::Read { path: path.clone(), error };
        let file = match self.storage.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        // There are two copies at the start.
        for copy in 0..2 {
            let mut bytes = [0; HeaderCopy::BYTES];
            read_exact(&*file, &mut bytes, copy * HeaderCopy::BYTES as u64).map_err(failed)?;
            if let Some(header) = HeaderCopy::decode(&bytes)
                && u64::from(header.file_number()) == number
            {
                return Ok(Some((file, header)));
            }
        }
        Err(failed(io::Error::new(io::ErrorKind::InvalidData, "its header is damaged")))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(journal::file_name(number))
    }
}

type OpenFile = (Arc<dyn StorageFile>, HeaderCopy);

fn start_of(number: u64) -> Lsn {
    Lsn(number << 32 | FILE_HEADER_BYTES)
}

fn gone(number: u64, continue_at: Lsn) -> TailError {
    TailError::Gone { number, continue_at }
}

/// About `max_bytes` of whole records between `at` and `limit`; at least one. What is damaged is read as it is.
fn read_records(
    file: &dyn StorageFile,
    header: &HeaderCopy,
    at: u64,
    limit: u64,
    max_bytes: u64,
) -> io::Result<Vec<u8>> {
    let mut wanted = max_bytes.max(1);
    loop {
        let length = wanted.min(limit - at);
        let mut bytes = vec![0; length as usize];
        read_exact(file, &mut bytes, at)?;
        if at + length == limit {
            return Ok(bytes);
        }
        let whole = header.whole_records(&bytes, at);
        if whole > 0 {
            bytes.truncate(whole);
            return Ok(bytes);
        }
        if wanted >= MAX_PIECE_BYTES {
            return Ok(bytes);
        }
        wanted = (wanted * 2).clamp(4096, MAX_PIECE_BYTES);
    }
}

/// Reads until the buffer is full.
pub(super) fn read_exact(file: &dyn StorageFile, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    Ok(())
}

/// The bytes of a whole file; `None` if it does not exist.
pub(super) fn read_file(storage: &dyn Storage, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match storage.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = vec![0; file.len()? as usize];
    read_exact(&*file, &mut bytes, 0)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use nsq_archive::chunk::decode_pieces;

    use super::*;
    use crate::storage::file::FileStorage;
    use crate::storage::journal::JournalOptions;
    use crate::storage::record::Record;
    use crate::storage::{Durability, TopicNumber};

    fn open(dir: &Path) -> (Arc<Journal>, Tail) {
        let mut options = JournalOptions::new(dir, Durability::Write);
        options.file_bytes = 4096;
        let (journal, _) = Journal::open(Arc::new(FileStorage), options, &mut |_, _| {}).unwrap();
        let tail = Tail::new(Arc::new(FileStorage), dir.to_owned(), journal.clone());
        (journal, tail)
    }

    fn write(journal: &Journal, sequence: u64, frames: &[u8]) {
        let topic = TopicNumber(1);
        let record =
            Record::Publish { topic, first_sequence: sequence, count: 1, due_ns: None, only: None, frames };
        journal.append_lazy(&record);
        journal.flush().unwrap();
    }

    /// Reads to the end in small pieces. Returns where it ended, the bytes of all pieces, and whether all were whole.
    fn read_all(tail: &Tail, from: Lsn, max_bytes: u64) -> (Lsn, Vec<(Lsn, Vec<u8>)>) {
        let (mut at, mut pieces) = (from, Vec::new());
        loop {
            let records = tail.read(at, max_bytes).unwrap();
            if records.to == at {
                return (at, pieces);
            }
            for piece in decode_pieces(&records.content).unwrap() {
                let whole = piece.header.whole_records(&piece.bytes, piece.from().offset());
                assert_eq!(whole, piece.bytes.len(), "pieces end where a record ends");
                pieces.push((piece.from(), piece.bytes));
            }
            at = records.to;
        }
    }

    #[test]
    fn whole_records_are_read_up_to_the_end_over_several_files() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, tail) = open(dir.path());
        let begin = tail.oldest();
        assert!(tail.read(begin, 100).unwrap().content.is_empty());
        for sequence in 1..=30 {
            write(&journal, sequence, &vec![7; sequence as usize * 20]);
        }
        assert!(journal.file_numbers().len() > 2);
        let (end, all) = read_all(&tail, begin, u64::MAX);
        assert_eq!(end, journal.position());
        let (small_end, small) = read_all(&tail, begin, 50);
        assert_eq!(small_end, end);
        let joined = |pieces: Vec<(Lsn, Vec<u8>)>| pieces.into_iter().flat_map(|(_, bytes)| bytes).collect();
        let (all, small): (Vec<u8>, Vec<u8>) = (joined(all), joined(small));
        assert_eq!(all, small);
        drop(journal);
        let (journal, tail) = open(dir.path());
        write(&journal, 31, b"more");
        let (end_again, again) = read_all(&tail, end, u64::MAX);
        assert_eq!((end_again, again.len()), (journal.position(), 1), "a start continues in a new file");
    }

    #[test]
    fn a_deleted_file_is_a_gap_unless_it_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, tail) = open(dir.path());
        let begin = tail.oldest();
        for sequence in 1..=30 {
            write(&journal, sequence, &[7; 600]);
        }
        let numbers = journal.file_numbers();
        let end_of_first = read_all(&tail, begin, u64::MAX).1[0].1.len() as u64 + begin.0;
        journal.retire_oldest(numbers[0]).unwrap();
        let error = tail.read(begin, 1).unwrap_err();
        let next = start_of(numbers[1]);
        assert!(
            matches!(error, TailError::Gone { number, continue_at } if number == numbers[0] && continue_at == next)
        );
        let records = tail.read(Lsn(end_of_first), 1).unwrap();
        assert_eq!(records.to.file_number(), numbers[1], "nothing is missing");
    }

    #[test]
    fn damage_is_read_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, tail) = open(dir.path());
        let begin = tail.oldest();
        for sequence in 1..=9 {
            write(&journal, sequence, &[7; 600]);
        }
        let path = dir.path().join(journal::file_name(begin.file_number()));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[begin.offset() as usize + 700] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let mut at = begin;
        while at < journal.position() {
            let to = tail.read(at, 50).unwrap().to;
            assert!(to > at);
            at = to;
        }
    }
}
