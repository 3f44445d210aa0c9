//! The bytes of a journal file: its header, and the header of each record. Pure.
//!
//! ```text
//! file:    header copy (64) | header copy (64) | record | record | ... | 00 00 00 00 | ... | header copy (64)
//! record:  length u32 | content CRC-32C u32 | mark u32 | content (length bytes)
//! ```
//!
//! The zero length behind the last record distinguishes a clean end from a torn one; a file that is
//! filled up to the last header copy has none. The bytes behind it are left from the file's earlier life.
//! The last copy of the header is as far from the others as possible, so damage rarely hits all of them.

use super::Lsn;
use crate::seal::Seal;

/// Offset of the first record of a file, behind two copies of the header.
pub(super) const FILE_HEADER_BYTES: u64 = 2 * HEADER_COPY_BYTES as u64;
/// Length of one copy of the header. The file ends with another copy.
pub(super) const HEADER_COPY_BYTES: usize = 64;
pub(super) const MAGIC: [u8; 8] = *b"nsqrsJRN";
/// Increased when an older version can no longer read the file.
pub(super) const FORMAT_VERSION: u32 = 3;

/// Length, content checksum, mark.
pub(super) const RECORD_HEADER_BYTES: usize = 12;
/// The zero length that ends a file.
pub(super) const TERMINATOR: [u8; 4] = [0; 4];

/// What the header of a file says of the file and of its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub number: u32,
    pub stamp: u64,
    /// The previous file, if there was one. A reader uses it to notice that the end of that file is missing.
    pub previous: Option<Previous>,
    /// Length of the whole file. 0 if an earlier version wrote it; such a file has no header copy at its end.
    pub capacity: u32,
}

/// What a file's header says of the previous file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Previous {
    pub number: u32,
    /// Where its last record ends.
    pub end: u32,
    /// Its stamp, so that its records can be read even if all copies of its header are lost. 0 if unknown.
    pub stamp: u64,
}

/// Why a header could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    Damaged,
    NewerVersion(u32),
}

impl FileHeader {
    /// Encodes both copies at the start of the file.
    pub(super) fn encode(&self) -> [u8; FILE_HEADER_BYTES as usize] {
        let copy = self.encode_copy();
        let mut both = [0; FILE_HEADER_BYTES as usize];
        both[..HEADER_COPY_BYTES].copy_from_slice(&copy);
        both[HEADER_COPY_BYTES..].copy_from_slice(&copy);
        both
    }

    pub(super) fn encode_copy(&self) -> [u8; HEADER_COPY_BYTES] {
        let mut copy = [0; HEADER_COPY_BYTES];
        let previous = self.previous.unwrap_or(Previous { number: 0, end: 0, stamp: 0 });
        copy[..8].copy_from_slice(&MAGIC);
        copy[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        copy[12..16].copy_from_slice(&self.number.to_le_bytes());
        copy[16..24].copy_from_slice(&self.stamp.to_le_bytes());
        copy[24..28].copy_from_slice(&previous.number.to_le_bytes());
        copy[28..32].copy_from_slice(&previous.end.to_le_bytes());
        copy[32..36].copy_from_slice(&self.capacity.to_le_bytes());
        copy[36..44].copy_from_slice(&previous.stamp.to_le_bytes());
        let check = crc32c::crc32c(&copy[..60]);
        copy[60..].copy_from_slice(&check.to_le_bytes());
        copy
    }

    /// Decodes the first undamaged copy at the start of the file. A file that is too short for its header is damaged.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut copies = bytes.chunks_exact(HEADER_COPY_BYTES).take(2).map(Self::decode_copy);
        copies.find(|copy| *copy != Err(HeaderError::Damaged)).unwrap_or(Err(HeaderError::Damaged))
    }

    pub(super) fn decode_copy(copy: &[u8]) -> Result<Self, HeaderError> {
        if copy.len() < HEADER_COPY_BYTES
            || copy[..8] != MAGIC
            || crc32c::crc32c(&copy[..60]) != u32_at(copy, 60)
        {
            return Err(HeaderError::Damaged);
        }
        let version = u32_at(copy, 8);
        if version > FORMAT_VERSION {
            return Err(HeaderError::NewerVersion(version));
        }
        let previous = Previous { number: u32_at(copy, 24), end: u32_at(copy, 28), stamp: u64_at(copy, 36) };
        Ok(Self {
            number: u32_at(copy, 12),
            stamp: u64_at(copy, 16),
            previous: (previous.end != 0).then_some(previous),
            capacity: u32_at(copy, 32),
        })
    }

    /// Offset of the last copy of the header, before which records must end.
    pub(super) fn last_copy_at(&self) -> Option<u64> {
        u64::from(self.capacity).checked_sub(HEADER_COPY_BYTES as u64)
    }

    pub(super) fn seal(&self) -> Seal {
        Seal::new(self.stamp, u64::from(self.number))
    }
}

/// A record's header, verified without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    /// Bytes of the content.
    pub length: u32,
    checksum: u32,
}

impl RecordHeader {
    /// Returns the header if its mark is that of this file and offset.
    pub(super) fn decode(bytes: &[u8; RECORD_HEADER_BYTES], seal: Seal, offset: u64) -> Option<Self> {
        let header = Self { length: u32_at(bytes, 0), checksum: u32_at(bytes, 4) };
        (header.length != 0 && seal.mark(offset, &bytes[..8]) == u32_at(bytes, 8)).then_some(header)
    }

    /// Whether bytes that look like the end of the file are a header whose length lost its only bit.
    pub(super) fn lost_its_length(bytes: &[u8; RECORD_HEADER_BYTES], seal: Seal, offset: u64) -> bool {
        let mut header = *bytes;
        u32_at(bytes, 0) == 0
            && (0..u32::BITS).any(|bit| {
                header[..4].copy_from_slice(&(1_u32 << bit).to_le_bytes());
                Self::decode(&header, seal, offset).is_some()
            })
    }

    /// Whether this is the content that the header was written for.
    pub(super) fn covers(&self, content: &[u8]) -> bool {
        content.len() == self.length as usize && crc32c::crc32c(content) == self.checksum
    }
}

/// Appends a record whose header contains only its length, because its offset is not known yet.
/// Returns the length of the content.
pub(super) fn put_unsealed(buf: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>)) -> usize {
    let start = buf.len();
    buf.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
    encode(buf);
    let length = buf.len() - start - RECORD_HEADER_BYTES;
    buf[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes());
    length
}

/// Completes the headers of unsealed records that will be written back to back from `offset` on,
/// and passes each content to `seen`.
pub(super) fn seal_records(buf: &mut [u8], seal: Seal, offset: u64, mut seen: impl FnMut(&[u8])) {
    let mut rest = buf;
    let mut offset = offset;
    while let Some((header, tail)) = rest.split_first_chunk_mut::<RECORD_HEADER_BYTES>() {
        let length = u32_at(header, 0) as usize;
        let (content, tail) = tail.split_at_mut(length);
        header[4..8].copy_from_slice(&crc32c::crc32c(content).to_le_bytes());
        let mark = seal.mark(offset, &header[..8]);
        header[8..].copy_from_slice(&mark.to_le_bytes());
        seen(content);
        offset += (RECORD_HEADER_BYTES + length) as u64;
        rest = tail;
    }
}

/// The place of a record in file `number` at `offset`.
pub(super) fn lsn(number: u32, offset: u64) -> Lsn {
    debug_assert!(offset <= u64::from(u32::MAX));
    Lsn(u64::from(number) << 32 | offset)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: FileHeader = FileHeader {
        number: 3,
        stamp: 0x0123_4567_89ab_cdef,
        previous: Some(Previous { number: 2, end: 500, stamp: 0xfedc_ba98_7654_3210 }),
        capacity: 4096,
    };

    #[test]
    fn either_header_copy_is_enough() {
        let bytes = HEADER.encode();
        for broken in 0..HEADER_COPY_BYTES {
            let mut first = bytes;
            first[broken] ^= 1;
            assert_eq!(FileHeader::decode(&first), Ok(HEADER));
            let mut second = bytes;
            second[HEADER_COPY_BYTES + broken] ^= 1;
            assert_eq!(FileHeader::decode(&second), Ok(HEADER));
            first[HEADER_COPY_BYTES + broken] ^= 1;
            assert_eq!(FileHeader::decode(&first), Err(HeaderError::Damaged));
        }
        assert_eq!(FileHeader::decode(&[0; 128]), Err(HeaderError::Damaged));
        assert_eq!(FileHeader::decode(&[]), Err(HeaderError::Damaged));
        assert_eq!(FileHeader::decode_copy(&HEADER.encode_copy()), Ok(HEADER));
        assert_eq!(HEADER.last_copy_at(), Some(4032));
    }

    /// The earlier layout of version 2: no length of the file, no stamp of the previous file.
    #[test]
    fn header_of_an_earlier_version_is_read() {
        let mut bytes = HEADER.encode();
        for copy in bytes.chunks_exact_mut(HEADER_COPY_BYTES) {
            copy[32..60].fill(0);
            let check = crc32c::crc32c(&copy[..60]);
            copy[60..].copy_from_slice(&check.to_le_bytes());
        }
        let previous = Some(Previous { number: 2, end: 500, stamp: 0 });
        let header = FileHeader { previous, capacity: 0, ..HEADER };
        assert_eq!(FileHeader::decode(&bytes), Ok(header));
        assert_eq!(header.last_copy_at(), None);
    }

    #[test]
    fn a_newer_version_is_not_reported_as_damage() {
        let mut bytes = HEADER.encode();
        bytes[8..12].copy_from_slice(&9_u32.to_le_bytes());
        let check = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&check.to_le_bytes());
        assert_eq!(FileHeader::decode(&bytes), Err(HeaderError::NewerVersion(9)));
    }

    #[test]
    fn a_sealed_record_is_valid_only_at_its_place() {
        let mut buf = Vec::new();
        put_unsealed(&mut buf, |out| out.extend_from_slice(b"first"));
        put_unsealed(&mut buf, |out| out.extend_from_slice(b"second"));
        let mut seen = Vec::new();
        seal_records(&mut buf, HEADER.seal(), 1000, |content| seen.push(content.to_vec()));
        assert_eq!(seen, [b"first".to_vec(), b"second".to_vec()]);

        let second: &[u8; RECORD_HEADER_BYTES] = buf[17..29].try_into().unwrap();
        let header = RecordHeader::decode(second, HEADER.seal(), 1017).unwrap();
        assert!(header.covers(b"second"));
        assert!(!header.covers(b"secone"));
        assert_eq!(RecordHeader::decode(second, HEADER.seal(), 1018), None);
        let other = FileHeader { stamp: 5, ..HEADER };
        assert_eq!(RecordHeader::decode(second, other.seal(), 1017), None);
    }
}
