//! Contents of snapshots and parts. Pure.
//!
//! A snapshot is a list of files of a data directory: the checkpoint and the segments. A segment only grows, so a snapshot
//! uploads only what is new of each file. The bytes are in parts, objects that hold bytes of many files back to back, and a
//! later snapshot refers to parts of earlier ones. With the journal records between [`Snapshot::from`] and [`Snapshot::to`], the
//! files are a data directory that nsqd starts from.
//!
//! The content is MessagePack; structs are arrays of their fields in order. Add a field at the end, with a default.

use nsq_storage::TopicNumber;
use nsq_storage::journal::Lsn;
use serde::{Deserialize, Serialize};

use crate::envelope::{self, Header, Kind, Malformed};
use crate::names::{LogId, Place};

/// A file of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FileName {
    Checkpoint,
    Segment { topic: TopicNumber, number: u64 },
}

/// A file, as long as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    pub name: FileName,
    /// CRC-32C of its last bytes, at most [`TAIL_BYTES`].
    pub tail: u32,
    /// Where its bytes are, from the first to the last.
    pub parts: Vec<PartOf>,
}

/// How many bytes at the end of a file show whether it still is the file that was uploaded.
pub const TAIL_BYTES: u64 = 64 << 10;

/// The checksum of the last bytes of a file: see [`File::tail`].
pub fn tail(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

impl File {
    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}

/// Bytes of a file in a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartOf {
    /// The part.
    pub place: Place,
    /// Where the bytes begin in its content.
    pub offset: u64,
    pub bytes: u64,
}

/// What a data directory needs besides its journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The first chunk that a restore reads.
    pub first_chunk: Place,
    /// Journal files before that of this place are not needed.
    pub from: Lsn,
    /// A restore must read the journal up to here at least.
    pub to: Lsn,
    pub files: Vec<File>,
}

impl Snapshot {
    /// Makes the object. It is complete once chunk `place` exists.
    pub fn object(&self, log: LogId, place: Place, nonce: envelope::Nonce, made_at: i64) -> Vec<u8> {
        let header =
            Header { kind: Kind::Snapshot, log, place, from: self.from, to: self.to, nonce, made_at };
        // A struct of numbers and lists always has this form.
        envelope::encode(&header, &rmp_serde::to_vec(self).unwrap_or_default())
    }

    /// Reads the object of this name.
    pub fn decode(object: &[u8], log: LogId, place: Place) -> Result<(Header, Self), Malformed> {
        let (header, content) = envelope::decode_as(object, Kind::Snapshot, log, place)?;
        let snapshot: Snapshot = rmp_serde::from_slice(&content).map_err(|_| Malformed::Content)?;
        let mut names: Vec<FileName> = snapshot.files.iter().map(|file| file.name).collect();
        names.sort_unstable();
        let is_unique = names.windows(2).all(|pair| pair[0] < pair[1]);
        let is_sound = is_unique && snapshot.first_chunk <= place && snapshot.from <= snapshot.to;
        if is_sound { Ok((header, snapshot)) } else { Err(Malformed::Content) }
    }

    /// The parts that it refers to.
    pub fn parts(&self) -> impl Iterator<Item = Place> {
        self.files.iter().flat_map(|file| file.parts.iter().map(|part| part.place))
    }

    /// Bytes of all its files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(File::bytes).sum()
    }
}

/// Makes a part of these bytes.
pub fn part_object(
    log: LogId,
    place: Place,
    nonce: envelope::Nonce,
    made_at: i64,
    content: &[u8],
) -> Vec<u8> {
    let header = Header { kind: Kind::Part, log, place, from: Lsn(0), to: Lsn(0), nonce, made_at };
    envelope::encode(&header, content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Epoch;

    const LOG: LogId = LogId([1; 16]);

    fn place(number: u64) -> Place {
        Place::new(Epoch(1), number)
    }

    fn file(name: FileName) -> File {
        let part = |number, offset, bytes| PartOf { place: place(number), offset, bytes };
        File { name, tail: 5, parts: vec![part(1, 0, 10), part(3, 7, 5)] }
    }

    #[test]
    fn a_snapshot_is_read_back() {
        let segment = FileName::Segment { topic: TopicNumber(2), number: 9 };
        let snapshot = Snapshot {
            first_chunk: place(4),
            from: Lsn(1),
            to: Lsn(2),
            files: vec![file(FileName::Checkpoint), file(segment)],
        };
        let object = snapshot.object(LOG, place(7), [0; 16], 99);
        let (header, read) = Snapshot::decode(&object, LOG, place(7)).unwrap();
        assert_eq!((header.made_at, &read), (99, &snapshot));
        assert_eq!(read.bytes(), 30);
        assert_eq!(read.parts().collect::<Vec<_>>(), [1, 3, 1, 3].map(place));
        assert!(Snapshot::decode(&object, LOG, place(8)).is_err());
    }

    #[test]
    fn a_snapshot_that_contradicts_itself_is_refused() {
        let twice = vec![file(FileName::Checkpoint), file(FileName::Checkpoint)];
        let later = Snapshot { first_chunk: place(9), from: Lsn(0), to: Lsn(0), files: Vec::new() };
        let backwards = Snapshot { first_chunk: place(1), from: Lsn(2), to: Lsn(1), files: Vec::new() };
        let doubled = Snapshot { first_chunk: place(1), from: Lsn(0), to: Lsn(0), files: twice };
        for snapshot in [later, backwards, doubled] {
            let object = snapshot.object(LOG, place(7), [0; 16], 0);
            assert_eq!(Snapshot::decode(&object, LOG, place(7)), Err(Malformed::Content));
        }
    }
}
