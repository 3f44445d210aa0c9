//! What every object but a claim looks like: a header, and its content, compressed where that pays. Pure.
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | 8 bytes | `nsqrsARC` |
//! | 8 | u32 | format version, 1 |
//! | 12 | u8 | kind: 1 chunk, 2 seal, 3 snapshot, 4 part |
//! | 13 | u8 | compression: 0 none, 1 snappy |
//! | 14 | u16 | 0 |
//! | 16 | 16 bytes | log id |
//! | 32 | u32 | epoch |
//! | 36 | u32 | CRC-32C of the content as stored |
//! | 40 | u64 | number |
//! | 48 | u64 | where its journal records begin |
//! | 56 | u64 | where they end |
//! | 64 | 16 bytes | nonce: differs for every object that anyone makes |
//! | 80 | i64 | when it was made: Unix nanoseconds of the node |
//! | 88 | u64 | length of the content |
//! | 96 | u64 | length of the content as stored |
//! | 104 | u32 | CRC-32C of bytes 0..104 |
//! | 108 | | content |
//!
//! Integers are little-endian.

use nsq_storage::journal::Lsn;

use crate::names::{Epoch, LogId, Place};

/// Length of the header.
pub const HEADER_BYTES: usize = 108;
/// A longer content is refused. A journal record has at most 1 GiB.
pub const MAX_CONTENT_BYTES: u64 = 3 << 30;

const MAGIC: [u8; 8] = *b"nsqrsARC";
const FORMAT_VERSION: u32 = 1;
/// Shorter contents are not compressed.
const MIN_COMPRESSED_BYTES: usize = 256;
/// A content is stored compressed if that saves at least 1/`LEAST_GAIN` of it.
const LEAST_GAIN: usize = 8;

/// Distinguishes two objects of the same name.
pub type Nonce = [u8; 16];

/// What an object contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Chunk = 1,
    Seal = 2,
    Snapshot = 3,
    Part = 4,
}

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub log: LogId,
    pub place: Place,
    /// The part of the journal that a chunk has, or that a snapshot needs. 0 in seals and parts.
    pub from: Lsn,
    pub to: Lsn,
    pub nonce: Nonce,
    /// By the clock of the node that made it: Unix nanoseconds.
    pub made_at: i64,
}

/// Why an object cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("it is shorter than its header")]
    TooShort,
    #[error("it is not an object of an archive")]
    Magic,
    #[error("it has format version {0}, newer than this program supports; use the version that wrote it")]
    NewerVersion(u32),
    #[error("its header is damaged")]
    Header,
    #[error("its content is damaged")]
    Content,
    #[error("it belongs elsewhere: log {log}, {place}")]
    Elsewhere { log: LogId, place: Place },
    #[error("it has another kind of content")]
    Kind,
}

/// Makes an object.
pub fn encode(header: &Header, content: &[u8]) -> Vec<u8> {
    let compressed = compress(content);
    let (compression, stored) = match &compressed {
        Some(compressed) => (1, compressed.as_slice()),
        None => (0, content),
    };
    let mut object = Vec::with_capacity(HEADER_BYTES + stored.len());
    object.extend_from_slice(&MAGIC);
    object.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    object.extend_from_slice(&[header.kind as u8, compression, 0, 0]);
    object.extend_from_slice(&header.log.0);
    object.extend_from_slice(&header.place.epoch.0.to_le_bytes());
    object.extend_from_slice(&crc32c::crc32c(stored).to_le_bytes());
    object.extend_from_slice(&header.place.number.to_le_bytes());
    object.extend_from_slice(&header.from.0.to_le_bytes());
    object.extend_from_slice(&header.to.0.to_le_bytes());
    object.extend_from_slice(&header.nonce);
    object.extend_from_slice(&header.made_at.to_le_bytes());
    object.extend_from_slice(&(content.len() as u64).to_le_bytes());
    object.extend_from_slice(&(stored.len() as u64).to_le_bytes());
    object.extend_from_slice(&crc32c::crc32c(&object).to_le_bytes());
    debug_assert_eq!(object.len(), HEADER_BYTES);
    object.extend_from_slice(stored);
    object
}

/// `None` if it saves too little.
fn compress(content: &[u8]) -> Option<Vec<u8>> {
    if content.len() < MIN_COMPRESSED_BYTES {
        return None;
    }
    let compressed = snap::raw::Encoder::new().compress_vec(content).ok()?;
    (compressed.len() + content.len() / LEAST_GAIN <= content.len()).then_some(compressed)
}

/// Reads a header. The content is not checked.
pub fn decode_header(object: &[u8]) -> Result<Header, Malformed> {
    Ok(parse(object)?.header)
}

/// Reads an object completely. Returns its header and content.
pub fn decode(object: &[u8]) -> Result<(Header, Vec<u8>), Malformed> {
    let parsed = parse(object)?;
    let stored = &object[HEADER_BYTES..];
    if stored.len() as u64 != parsed.stored_bytes || crc32c::crc32c(stored) != parsed.checksum {
        return Err(Malformed::Content);
    }
    let content = match parsed.compression {
        0 => stored.to_vec(),
        // The lengths are checked before memory is reserved for them.
        _ if snap::raw::decompress_len(stored).ok().map(|len| len as u64) != Some(parsed.content_bytes) => {
            return Err(Malformed::Content);
        }
        _ => snap::raw::Decoder::new().decompress_vec(stored).map_err(|_| Malformed::Content)?,
    };
    if content.len() as u64 != parsed.content_bytes {
        return Err(Malformed::Content);
    }
    Ok((parsed.header, content))
}

/// As [`decode`], for an object that must be of this kind, log and place.
pub fn decode_as(
    object: &[u8],
    kind: Kind,
    log: LogId,
    place: Place,
) -> Result<(Header, Vec<u8>), Malformed> {
    let (header, content) = decode(object)?;
    header.check_place(log, place)?;
    if header.kind == kind { Ok((header, content)) } else { Err(Malformed::Kind) }
}

impl Header {
    /// Fails unless the object belongs to this log and place.
    pub fn check_place(&self, log: LogId, place: Place) -> Result<(), Malformed> {
        match self.log == log && self.place == place {
            true => Ok(()),
            false => Err(Malformed::Elsewhere { log: self.log, place: self.place }),
        }
    }
}

struct Parsed {
    header: Header,
    compression: u8,
    checksum: u32,
    content_bytes: u64,
    stored_bytes: u64,
}

fn parse(object: &[u8]) -> Result<Parsed, Malformed> {
    let Some(bytes) = object.first_chunk::<HEADER_BYTES>() else { return Err(Malformed::TooShort) };
    if bytes[..8] != MAGIC {
        return Err(Malformed::Magic);
    }
    if crc32c::crc32c(&bytes[..HEADER_BYTES - 4]) != u32_at(bytes, HEADER_BYTES - 4) {
        return Err(Malformed::Header);
    }
    let version = u32_at(bytes, 8);
    if version > FORMAT_VERSION {
        return Err(Malformed::NewerVersion(version));
    }
    let kind = match bytes[12] {
        1 => Kind::Chunk,
        2 => Kind::Seal,
        3 => Kind::Snapshot,
        4 => Kind::Part,
        _ => return Err(Malformed::Kind),
    };
    let header = Header {
        kind,
        log: LogId(array_at(bytes, 16)),
        place: Place::new(Epoch(u32_at(bytes, 32)), u64_at(bytes, 40)),
        from: Lsn(u64_at(bytes, 48)),
        to: Lsn(u64_at(bytes, 56)),
        nonce: array_at(bytes, 64),
        made_at: u64_at(bytes, 80).cast_signed(),
    };
    let parsed = Parsed {
        header,
        compression: bytes[13],
        checksum: u32_at(bytes, 36),
        content_bytes: u64_at(bytes, 88),
        stored_bytes: u64_at(bytes, 96),
    };
    match parsed.compression > 1 || parsed.content_bytes > MAX_CONTENT_BYTES {
        true => Err(Malformed::Header),
        false => Ok(parsed),
    }
}

fn array_at(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; 16] {
    let mut array = [0; 16];
    array.copy_from_slice(&bytes[at..at + 16]);
    array
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(kind: Kind) -> Header {
        Header {
            kind,
            log: LogId([7; 16]),
            place: Place::new(Epoch(3), 12),
            from: Lsn(5 << 32 | 128),
            to: Lsn(5 << 32 | 900),
            nonce: [9; 16],
            made_at: -5,
        }
    }

    proptest! {
        #[test]
        fn any_content_is_read_back(content: Vec<u8>, repeats in 0_usize..400) {
            let content = content.repeat(repeats);
            for kind in [Kind::Chunk, Kind::Seal, Kind::Snapshot, Kind::Part] {
                let object = encode(&header(kind), &content);
                prop_assert_eq!(decode(&object), Ok((header(kind), content.clone())));
                prop_assert_eq!(decode_header(&object), Ok(header(kind)));
            }
        }

        #[test]
        fn no_changed_bit_is_accepted(content in prop::collection::vec(0_u8..3, 0..600), at: prop::sample::Index, bit in 0_u32..8) {
            let mut object = encode(&header(Kind::Chunk), &content);
            let at = at.index(object.len());
            object[at] ^= 1_u8 << bit;
            prop_assert!(decode(&object).is_err());
        }

        #[test]
        fn no_cut_object_is_accepted(content: Vec<u8>, at: prop::sample::Index) {
            let object = encode(&header(Kind::Part), &content);
            prop_assert!(decode(&object[..at.index(object.len())]).is_err());
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes: Vec<u8>) {
            prop_assert!(decode(&bytes).is_err());
        }
    }

    #[test]
    fn repetitive_contents_are_compressed() {
        let content = b"the same again, ".repeat(1000);
        assert!(encode(&header(Kind::Chunk), &content).len() < content.len() / 4);
    }

    #[test]
    fn objects_of_another_place_kind_or_version_are_refused() {
        let object = encode(&header(Kind::Chunk), b"records");
        let (log, place) = (LogId([7; 16]), Place::new(Epoch(3), 12));
        assert!(decode_as(&object, Kind::Chunk, log, place).is_ok());
        assert_eq!(decode_as(&object, Kind::Seal, log, place), Err(Malformed::Kind));
        let elsewhere = Err(Malformed::Elsewhere { log, place });
        assert_eq!(decode_as(&object, Kind::Chunk, LogId([8; 16]), place), elsewhere);
        assert_eq!(decode_as(&object, Kind::Chunk, log, Place::new(Epoch(3), 13)), elsewhere);

        let mut newer = object;
        newer[8] = 2;
        let check = crc32c::crc32c(&newer[..HEADER_BYTES - 4]);
        newer[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&check.to_le_bytes());
        assert_eq!(decode(&newer), Err(Malformed::NewerVersion(2)));
    }
}
