//! Reads NSQ's disk queues: file names, the position file, which parts of which files hold messages that were not
//! handed out, and the records in them.
//!
//! ```text
//! <queue>.diskqueue.meta.dat      depth \n read file,offset \n write file,offset \n
//! <queue>.diskqueue.000000.dat    records: size i32 | timestamp i64 | attempts u16 | id, 16 hex digits | body
//! ```
//!
//! Integers are big-endian, a size does not count itself, and there is no checksum. A record is valid if its size fits
//! the file and its id is a message id. The position file is as old as the last sync. It may lag behind the files, and
//! then some messages are delivered again. Where NSQ gives up (no position file, a damaged record in the middle), this
//! reader continues: a message too many is better than one too few.

use std::io;

use nsq_protocol::MESSAGE_HEADER_BYTES;

use crate::storage::StorageFile;

/// Length field before a record's payload.
const SIZE_BYTES: u64 = 4;
/// Length field and the part of the payload before the body.
const HEADER_BYTES: usize = SIZE_BYTES as usize + MESSAGE_HEADER_BYTES;
/// The part of the payload before the body: timestamp, attempts, id, as in a message frame.
const PAYLOAD_HEADER_BYTES: u32 = MESSAGE_HEADER_BYTES as u32;
/// A larger size is damage: no frame of ours could carry it.
const MAX_PAYLOAD_BYTES: u32 = 1 << 30;
/// Maximum size of a valid position file.
pub const MAX_POSITION_BYTES: u64 = 256;

/// The kind of a queue file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueFile {
    Position,
    /// The data file with this number.
    Data(u64),
    /// Set aside by NSQ, or left over from a crash during its creation. Never read.
    Dead,
}

/// The queue and kind of a file name. A queue is a topic, or `topic:channel`. Returns `None` for other files.
pub fn parse_file_name(name: &str) -> Option<(&str, QueueFile)> {
    const INFIX: &str = ".diskqueue.";
    // The last occurrence: a topic may be called `a.diskqueue.b`.
    let at = name.rfind(INFIX)?;
    let (queue, rest) = (&name[..at], &name[at + INFIX.len()..]);
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let file_number = |digits: &str| -> Option<u64> {
        let number = digits.parse().ok()?;
        (is_number(digits) && format!("{number:06}") == digits).then_some(number)
    };
    let file = if rest == "meta.dat" {
        QueueFile::Position
    } else if let Some(digits) = rest.strip_suffix(".dat") {
        QueueFile::Data(file_number(digits)?)
    } else if let Some(digits) = rest.strip_suffix(".dat.bad") {
        file_number(digits)?;
        QueueFile::Dead
    } else {
        let random = rest.strip_prefix("meta.dat.")?.strip_suffix(".tmp")?;
        is_number(random).then_some(QueueFile::Dead)?
    };
    (!queue.is_empty()).then_some((queue, file))
}

pub fn position_file_name(queue: &str) -> String {
    format!("{queue}.diskqueue.meta.dat")
}

pub fn data_file_name(queue: &str, number: u64) -> String {
    format!("{queue}.diskqueue.{number:06}.dat")
}

/// A place in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Number of the data file.
    pub file: u64,
    /// Offset in it.
    pub offset: u64,
}

/// The content of a position file, up to its first invalid line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// Expected number of messages.
    pub depth: Option<i64>,
    /// The first record that was not handed out.
    pub read: Option<Place>,
    /// Where NSQ would write the next record.
    pub write: Option<Place>,
}

impl Position {
    /// Parses the text of a position file.
    pub fn parse(text: &[u8]) -> Position {
        let text = String::from_utf8_lossy(text);
        let mut lines = text.lines();
        let place = |line: Option<&str>| {
            let (file, offset) = line?.trim().split_once(',')?;
            Some(Place { file: file.parse().ok()?, offset: offset.parse().ok()? })
        };
        let depth = lines.next().and_then(|line| line.trim().parse().ok());
        let read = depth.and_then(|_| place(lines.next()));
        let write = read.and_then(|_| place(lines.next()));
        Position { depth, read, write }
    }
}

/// Messages that were not handed out: a data file from an offset on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Number of the data file.
    pub number: u64,
    /// Offset of the first record.
    pub from: u64,
    /// End of the file.
    pub to: u64,
    /// Records before this offset were written completely, so an unreadable part is damage. From this offset on, it may
    /// also be a torn write or content from an earlier use of the file, and is not searched for records.
    pub whole_to: u64,
}

/// A problem with a queue that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Oddity {
    /// NSQ would not read the files.
    #[error("no position file: reading all its files")]
    NoPosition,
    /// NSQ would not read all files.
    #[error("unreadable position file: {0}")]
    BadPosition(&'static str),
    /// They may have been read completely and deleted before the position file was written.
    #[error("data files {first} to {last} are missing")]
    MissingFiles { first: u64, last: u64 },
    /// The end of the file is missing.
    #[error("data file {number} ends at {bytes}, before the read position {offset}")]
    ShortFile {
        number: u64,
        bytes: u64,
        /// The read position.
        offset: u64,
    },
}

/// A data file of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataFile {
    pub number: u64,
    /// Its length.
    pub bytes: u64,
}

/// Which parts of a queue to read. `files` are its data files, sorted by number. `position` is `None` if there is no
/// position file.
pub fn plan(position: Option<Position>, files: &[DataFile]) -> (Vec<Stretch>, Vec<Oddity>) {
    let mut oddities = Vec::new();
    let (mut read, mut write) = position.map_or((None, None), |position| (position.read, position.write));
    match (position, files) {
        (_, []) => {}
        (None, _) => oddities.push(Oddity::NoPosition),
        (Some(_), _) if read.is_none() => oddities.push(Oddity::BadPosition("reading all its files")),
        (Some(_), _) if write.is_none() => oddities.push(Oddity::BadPosition("no write position")),
        _ => {}
    }
    if read.zip(write).is_some_and(|(read, write)| read > write) {
        oddities.push(Oddity::BadPosition("read position is after write position: reading all its files"));
        (read, write) = (None, None);
    }
    let lowest = files.first().map_or(0, |file| file.number);
    let start = read.unwrap_or(Place { file: lowest, offset: 0 });
    let last = files.last().map(|file| file.number);
    let mut stretches = Vec::new();
    let mut expected = start.file;
    for &DataFile { number, bytes } in files.iter().filter(|file| file.number >= start.file) {
        if number > expected {
            oddities.push(Oddity::MissingFiles { first: expected, last: number - 1 });
        }
        expected = number.saturating_add(1);
        let from = if number == start.file { start.offset } else { 0 };
        let whole_to = match write {
            Some(write) if number < write.file => bytes,
            Some(write) if number == write.file => write.offset.min(bytes),
            _ if Some(number) == last => 0,
            _ => bytes,
        };
        if from > bytes {
            oddities.push(Oddity::ShortFile { number, bytes, offset: from });
        } else if from < bytes {
            stretches.push(Stretch { number, from, to: bytes, whole_to });
        }
    }
    if let Some(write) = write.filter(|write| *write != start) {
        let end = write.file.saturating_add(u64::from(write.offset > 0));
        if expected < end {
            oddities.push(Oddity::MissingFiles { first: expected, last: end - 1 });
        }
    }
    (stretches, oddities)
}

/// A record without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Time of the publish.
    pub timestamp_ns: i64,
    /// Deliveries so far.
    pub attempts: u16,
    pub id: u64,
    pub body_bytes: u32,
}

impl RecordHeader {
    /// Parses a header from the start of `bytes`. Returns `None` if the record would not fit into `room` bytes.
    fn parse(bytes: &[u8], room: u64) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let (size, rest) = bytes.split_first_chunk()?;
        let (timestamp, rest) = rest.split_first_chunk()?;
        let (attempts, id) = rest.split_first_chunk()?;
        let size = u32::from_be_bytes(*size);
        let in_range = (PAYLOAD_HEADER_BYTES..=MAX_PAYLOAD_BYTES).contains(&size);
        if !in_range || SIZE_BYTES + u64::from(size) > room {
            return None;
        }
        Some(RecordHeader {
            timestamp_ns: i64::from_be_bytes(*timestamp),
            attempts: u16::from_be_bytes(*attempts),
            id: nsq_protocol::MessageId::from_slice(id)?.to_u64()?,
            body_bytes: size - PAYLOAD_HEADER_BYTES,
        })
    }

    /// Length of the whole record.
    pub fn record_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.body_bytes)
    }
}

/// Reads the record at `at` of a file that ends at `end`: header and body. Returns `None` if there is no valid record.
pub fn read_record<'w>(
    window: &'w mut Window,
    file: &dyn StorageFile,
    at: u64,
    end: u64,
) -> io::Result<Option<(RecordHeader, &'w [u8])>> {
    let bytes = window.get(file, at, HEADER_BYTES)?;
    let Some(header) = RecordHeader::parse(bytes, end.saturating_sub(at)) else { return Ok(None) };
    let record = window.get(file, at, header.record_bytes() as usize)?;
    Ok(record.get(HEADER_BYTES..header.record_bytes() as usize).map(|body| (header, body)))
}

/// What [`RecordScan::advance`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A record at this offset.
    Record(u64, RecordHeader),
    /// Bytes that are no record.
    Damage { offset: u64, bytes: u64 },
    /// Bytes at the end that were not written completely, or are left from an earlier use of the file.
    Torn { offset: u64, bytes: u64 },
}

/// Iterates over the records of a stretch.
pub struct RecordScan<'a> {
    file: &'a dyn StorageFile,
    window: Window,
    at: u64,
    stretch: Stretch,
}

impl<'a> RecordScan<'a> {
    /// Starts at the beginning of the stretch.
    pub fn new(file: &'a dyn StorageFile, stretch: Stretch) -> Self {
        RecordScan { file, window: Window::default(), at: stretch.from, stretch }
    }

    /// The next record or damage; `None` at the end.
    pub fn advance(&mut self) -> io::Result<Option<Found>> {
        let (at, rest) = (self.at, self.stretch.to.saturating_sub(self.at));
        if rest == 0 {
            return Ok(None);
        }
        if let Some(header) = self.header(at)? {
            self.at += header.record_bytes();
            return Ok(Some(Found::Record(at, header)));
        }
        if at >= self.stretch.whole_to {
            self.at = self.stretch.to;
            return Ok(Some(Found::Torn { offset: at, bytes: rest }));
        }
        self.at = self.find_record(at + 1)?;
        Ok(Some(Found::Damage { offset: at, bytes: self.at - at }))
    }

    fn header(&mut self, at: u64) -> io::Result<Option<RecordHeader>> {
        let bytes = self.window.get(self.file, at, HEADER_BYTES)?;
        Ok(RecordHeader::parse(bytes, self.stretch.to.saturating_sub(at)))
    }

    /// The first offset, from `from` on, of a record that is followed by another record or by the end. Returns the end
    /// if there is none.
    fn find_record(&mut self, mut from: u64) -> io::Result<u64> {
        const PIECE: usize = 64 * 1024;
        let end = self.stretch.to;
        while from < end {
            let piece = self.window.get(self.file, from, PIECE)?.to_vec();
            for (bytes, at) in piece.windows(HEADER_BYTES).zip(from..) {
                let Some(header) = RecordHeader::parse(bytes, end.saturating_sub(at)) else { continue };
                let next = at + header.record_bytes();
                if next == end || self.header(next)?.is_some() {
                    return Ok(at);
                }
            }
            let places = (piece.len() + 1).saturating_sub(HEADER_BYTES);
            if places == 0 {
                break;
            }
            from += places as u64;
        }
        Ok(end)
    }
}

/// A part of a file in memory. Reads ahead: further after each sequential read, and little after a jump.
#[derive(Debug, Default)]
pub struct Window {
    start: u64,
    bytes: Vec<u8>,
    ahead: usize,
}

impl Window {
    const MIN_AHEAD: usize = 4 * 1024;
    const MAX_AHEAD: usize = 256 * 1024;

    /// Returns `len` bytes at `at`; fewer only at the end of the file.
    pub fn get(&mut self, file: &dyn StorageFile, at: u64, len: usize) -> io::Result<&[u8]> {
        if !self.holds(at, len) {
            self.ahead = if self.goes_on_at(at) {
                (2 * self.ahead).clamp(Self::MIN_AHEAD, Self::MAX_AHEAD)
            } else {
                Self::MIN_AHEAD
            };
            self.bytes.resize(len.max(self.ahead), 0);
            let filled = file.read_at(&mut self.bytes, at);
            self.bytes.truncate(filled.as_ref().map_or(0, |filled| *filled));
            self.start = at;
            filled?;
        }
        let from = (at - self.start) as usize;
        Ok(&self.bytes[from..(from + len).min(self.bytes.len())])
    }

    fn holds(&self, at: u64, len: usize) -> bool {
        at >= self.start && at - self.start + len as u64 <= self.bytes.len() as u64
    }

    /// Whether a read at `at` continues in this part or directly after it.
    pub fn goes_on_at(&self, at: u64) -> bool {
        !self.bytes.is_empty() && at >= self.start && at - self.start <= self.bytes.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_give_queue_and_kind() {
        let parsed = |name| parse_file_name(name);
        assert_eq!(parsed("t.diskqueue.meta.dat"), Some(("t", QueueFile::Position)));
        assert_eq!(parsed("t:c#x.diskqueue.000012.dat"), Some(("t:c#x", QueueFile::Data(12))));
        assert_eq!(parsed("t.diskqueue.1000000.dat"), Some(("t", QueueFile::Data(1_000_000))));
        assert_eq!(parsed("t.diskqueue.000012.dat.bad"), Some(("t", QueueFile::Dead)));
        assert_eq!(parsed("t.diskqueue.meta.dat.77.tmp"), Some(("t", QueueFile::Dead)));
        let twisted = "t.diskqueue.000000.dat.diskqueue.000001.dat";
        assert_eq!(parsed(twisted), Some(("t.diskqueue.000000.dat", QueueFile::Data(1))));
        for other in [
            "nsqd.dat",
            ".diskqueue.000000.dat",
            "t.diskqueue.12.dat",
            "t.diskqueue.0000012.dat",
            "t.diskqueue.+00012.dat",
            "t.diskqueue.000000.dat.imported",
            "t.diskqueue.meta.dat.tmp",
            "t.diskqueue.99999999999999999999.dat",
        ] {
            assert_eq!(parsed(other), None, "{other}");
        }
        assert_eq!(parse_file_name(&data_file_name("t", 7)), Some(("t", QueueFile::Data(7))));
        assert_eq!(parse_file_name(&position_file_name("t")), Some(("t", QueueFile::Position)));
    }

    fn place(file: u64, offset: u64) -> Option<Place> {
        Some(Place { file, offset })
    }

    #[test]
    fn position_is_read_up_to_the_first_invalid_line() {
        let position = |depth, read, write| Position { depth, read, write };
        let parsed = |text: &str| Position::parse(text.as_bytes());
        assert_eq!(parsed("10\n0,12\n1,30\n"), position(Some(10), place(0, 12), place(1, 30)));
        assert_eq!(parsed("-3\n0,12\n"), position(Some(-3), place(0, 12), None));
        assert_eq!(parsed("3\n0,12\n0,-1\n"), position(Some(3), place(0, 12), None));
        assert_eq!(parsed("3\n012\n0,1\n"), position(Some(3), None, None));
        assert_eq!(parsed("abc\n0,12\n1,30\n"), Position::default());
        assert_eq!(parsed(""), Position::default());
    }

    /// `files` are numbers and lengths.
    fn planned(position: Option<&str>, files: &[(u64, u64)]) -> String {
        let files: Vec<DataFile> = files.iter().map(|&(number, bytes)| DataFile { number, bytes }).collect();
        let (stretches, oddities) = plan(position.map(|text| Position::parse(text.as_bytes())), &files);
        let stretches = stretches.iter().map(|Stretch { number, from, to, whole_to }| {
            format!(
                "{number}: {from}..{to}{}",
                if whole_to < to { format!(" whole to {whole_to}") } else { String::new() }
            )
        });
        stretches.chain(oddities.iter().map(|oddity| format!("({oddity})"))).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn intact_queue_is_read_from_its_read_position_to_its_end() {
        assert_eq!(planned(None, &[]), "");
        assert_eq!(planned(Some("0\n0,0\n0,0\n"), &[]), "");
        assert_eq!(planned(Some("0\n3,50\n3,50\n"), &[(3, 50)]), "");
        assert_eq!(
            planned(Some("9\n1,50\n3,70\n"), &[(1, 99), (2, 90), (3, 70)]),
            "1: 50..99, 2: 0..90, 3: 0..70"
        );
        assert_eq!(planned(Some("9\n1,50\n2,0\n"), &[(0, 9), (1, 99)]), "1: 50..99");
    }

    #[test]
    fn queue_after_a_kill_is_read_to_the_end_of_its_files() {
        assert_eq!(planned(Some("1\n0,0\n0,10\n"), &[(0, 40)]), "0: 0..40 whole to 10");
        assert_eq!(
            planned(Some("1\n0,0\n0,10\n"), &[(0, 40), (1, 5)]),
            "0: 0..40 whole to 10, 1: 0..5 whole to 0"
        );
        assert_eq!(planned(Some("1\n0,9\n1,10\n"), &[(1, 10)]), "1: 0..10, (data files 0 to 0 are missing)");
        assert_eq!(planned(Some("1\n0,9\n2,10\n"), &[]), "(data files 0 to 2 are missing)");
        assert_eq!(
            planned(Some("9\n0,9\n3,10\n"), &[(0, 20), (3, 10)]),
            "0: 9..20, 3: 0..10, (data files 1 to 2 are missing)"
        );
        assert_eq!(
            planned(Some("1\n0,50\n0,90\n"), &[(0, 40)]),
            "(data file 0 ends at 40, before the read position 50)"
        );
    }

    #[test]
    fn queue_without_a_valid_position_is_read_completely() {
        assert_eq!(
            planned(None, &[(2, 40), (3, 5)]),
            "2: 0..40, 3: 0..5 whole to 0, (no position file: reading all its files)"
        );
        assert_eq!(
            planned(Some("abc"), &[(0, 4)]),
            "0: 0..4 whole to 0, (unreadable position file: reading all its files)"
        );
        assert_eq!(
            planned(Some("1\n0,2\nx"), &[(0, 4)]),
            "0: 2..4 whole to 0, (unreadable position file: no write position)"
        );
        assert_eq!(
            planned(Some("1\n1,0\n0,4\n"), &[(0, 4)]),
            "0: 0..4 whole to 0, (unreadable position file: read position is after write position: \
             reading all its files)"
        );
    }
}
