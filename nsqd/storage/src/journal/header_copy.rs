//! The header of a journal file outside of that file. Pure.

use super::{
    Lsn,
    format::{self, FileHeader, HEADER_COPY_BYTES, RECORD_HEADER_BYTES, RecordHeader},
};
use crate::{record_batch, seal::Seal};

/// A copy of a journal file's header, with which records of the file can be verified, and the file be written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderCopy {
    bytes: [u8; HeaderCopy::BYTES],
    header: FileHeader,
}

impl HeaderCopy {
    pub const BYTES: usize = HEADER_COPY_BYTES;

    /// `None` if the header is damaged, or has a newer version than this program supports.
    pub fn decode(bytes: &[u8; HeaderCopy::BYTES]) -> Option<Self> {
        let header = FileHeader::decode_copy(bytes).ok()?;
        Some(HeaderCopy { bytes: *bytes, header })
    }

    /// The header of a new file of `capacity` bytes.
    pub fn new(number: u32, stamp: u64, capacity: u32) -> Self {
        let header = FileHeader { number, stamp, previous: None, capacity };
        HeaderCopy { bytes: header.encode_copy(), header }
    }

    pub fn bytes(&self) -> &[u8; HeaderCopy::BYTES] {
        &self.bytes
    }

    pub fn file_number(&self) -> u32 {
        self.header.number
    }

    /// Length of the whole file. 0 if an earlier version wrote it.
    pub fn capacity(&self) -> u32 {
        self.header.capacity
    }

    /// Offset of the copy of the header at the end of the file, if there is one.
    pub fn last_copy_at(&self) -> Option<u64> {
        self.header.last_copy_at()
    }

    /// Where the last record of the previous file ends; `None` if there is no previous file.
    pub fn previous_end(&self) -> Option<Lsn> {
        self.header.previous.map(|previous| format::lsn(previous.number, u64::from(previous.end)))
    }

    /// How many of these bytes, which begin at `offset` of the file, are whole records.
    pub fn whole_records(&self, bytes: &[u8], offset: u64) -> usize {
        let seal = self.header.seal();
        let mut whole = 0;
        while let Some(length) = whole_record(&bytes[whole..], seal, offset + whole as u64) {
            whole += length;
        }
        whole
    }

    /// Writes a record of these fields for `offset` of the file, for tests of copies.
    #[cfg(any(test, feature = "faulty"))]
    pub fn record(&self, offset: u64, record: &crate::record::Record<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        format::put_unsealed(&mut bytes, |out| record.encode(out));
        format::seal_records(&mut bytes, self.header.seal(), offset, |_| {});
        bytes
    }
}

/// The length of the record at the start of `bytes`, with its header, if it is whole.
fn whole_record(bytes: &[u8], seal: Seal, offset: u64) -> Option<usize> {
    let header = RecordHeader::decode(bytes.first_chunk()?, seal, offset)?;
    let end = RECORD_HEADER_BYTES + header.length as usize;
    let content = bytes.get(RECORD_HEADER_BYTES..end)?;
    (header.covers(content) && record_batch::decode(content).is_ok()).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TopicNumber, record::Record};

    #[test]
    fn whole_records_are_counted_at_their_place_only() {
        let header = HeaderCopy::new(3, 77, 1 << 20);
        assert_eq!(HeaderCopy::decode(header.bytes()), Some(header));
        let record = Record::TopicDeleted { topic: TopicNumber(5) };
        let mut bytes = header.record(128, &record);
        let first = bytes.len();
        bytes.extend(header.record(128 + first as u64, &record));
        assert_eq!(header.whole_records(&bytes, 128), bytes.len());
        assert_eq!(header.whole_records(&bytes[..bytes.len() - 1], 128), first);
        assert_eq!(header.whole_records(&bytes, 129), 0);
        assert_eq!(HeaderCopy::new(3, 78, 1 << 20).whole_records(&bytes, 128), 0);
        let mut damaged = *header.bytes();
        damaged[20] ^= 1;
        assert_eq!(HeaderCopy::decode(&damaged), None);
    }
}
