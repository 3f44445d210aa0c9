//! The unit of a segment: messages with consecutive sequence numbers, back to back as encoded frames. Pure.
//!
//! ```text
//! magic u32 | length u32 | content CRC-32C u32 | count u32 | first sequence u64 | mark u32 | frames
//! ```
//!
//! A header can be verified without its content, so a start reads headers only. The mark
//! ties the header to its file and offset (see [`seal`](super::seal)).

use super::seal::Seal;

pub const BLOCK_HEADER_BYTES: usize = 28;
pub(super) const MAGIC_BYTES: [u8; 4] = *b"NSQB";
const MAGIC: u32 = u32::from_le_bytes(MAGIC_BYTES);
/// The mark covers this many bytes at the start of a header.
const MARKED_BYTES: usize = 24;

/// The header in front of a block's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// Length of the frames in bytes.
    pub length: u32,
    /// CRC-32C of the frames.
    pub checksum: u32,
    /// Number of messages; not 0.
    pub count: u32,
    /// Sequence number of the first message.
    pub first_sequence: u64,
}

impl BlockHeader {
    /// Returns `None` if there are no frames, or too many for one block.
    pub fn new(first_sequence: u64, count: u32, frames: &[u8]) -> Option<Self> {
        first_sequence.checked_add(u64::from(count))?;
        let length = u32::try_from(frames.len()).ok()?;
        (count > 0).then(|| Self { length, checksum: crc32c::crc32c(frames), count, first_sequence })
    }

    /// Encodes the header for a block at `offset` of the file with this seal.
    pub fn encode(&self, seal: Seal, offset: u64) -> [u8; BLOCK_HEADER_BYTES] {
        let mut bytes = [0; BLOCK_HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.count.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_sequence.to_le_bytes());
        let mark = seal.mark(offset, &bytes[..MARKED_BYTES]);
        bytes[MARKED_BYTES..].copy_from_slice(&mark.to_le_bytes());
        bytes
    }

    /// Decodes a header. Returns `None` if the bytes are not a header for this seal and offset.
    pub fn decode(bytes: &[u8; BLOCK_HEADER_BYTES], seal: Seal, offset: u64) -> Option<Self> {
        let (header, mark) = Self::decode_unsealed(bytes)?;
        (mark == seal.mark(offset, &bytes[..MARKED_BYTES])).then_some(header)
    }

    /// Decodes bytes that look like a header, with the seal that its mark implies at `offset`. The caller must confirm
    /// it by the checksum of the frames.
    pub fn guess(bytes: &[u8; BLOCK_HEADER_BYTES], offset: u64) -> Option<(Self, Seal)> {
        let (header, mark) = Self::decode_unsealed(bytes)?;
        Some((header, Seal::of_mark(mark, offset, &bytes[..MARKED_BYTES])))
    }

    fn decode_unsealed(bytes: &[u8; BLOCK_HEADER_BYTES]) -> Option<(Self, u32)> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let header = Self {
            length: word(4),
            checksum: word(8),
            count: word(12),
            first_sequence: u64::from(word(16)) | u64::from(word(20)) << 32,
        };
        let in_range = header.first_sequence.checked_add(u64::from(header.count)).is_some();
        (word(0) == MAGIC && header.count > 0 && in_range).then_some((header, word(MARKED_BYTES)))
    }
}

/// Returns the offset of each of the `count` frames, followed by the end of the last one.
///
/// A frame's first 4 bytes are its length without them, big-endian. `None` unless the frames fill `frames` exactly.
pub fn frame_offsets(frames: &[u8], count: u32) -> Option<Vec<u32>> {
    u32::try_from(frames.len()).ok()?;
    // A frame has at least 4 bytes, so a larger count is impossible. Checked before memory is allocated for it.
    if frames.len() / 4 < count as usize {
        return None;
    }
    let mut offsets = Vec::with_capacity(count as usize + 1);
    let mut at = 0_usize;
    for _ in 0..count {
        offsets.push(at as u32);
        let size = frames[at..].first_chunk().map(|size| u32::from_be_bytes(*size))?;
        at = at.checked_add(4)?.checked_add(size as usize)?;
        if at > frames.len() {
            return None;
        }
    }
    offsets.push(at as u32);
    (at == frames.len()).then_some(offsets)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn header_is_valid_only_at_its_place() {
        let seal = Seal::new(1, 2);
        let header = BlockHeader::new(77, 3, b"frames").unwrap();
        let bytes = header.encode(seal, 500);
        assert_eq!(BlockHeader::decode(&bytes, seal, 500), Some(header));
        assert_eq!(BlockHeader::decode(&bytes, seal, 501), None);
        assert_eq!(BlockHeader::decode(&bytes, Seal::new(2, 2), 500), None);
        for at in 0..BLOCK_HEADER_BYTES {
            let mut broken = bytes;
            broken[at] ^= 0x10;
            assert_eq!(BlockHeader::decode(&broken, seal, 500), None);
        }
    }

    #[test]
    fn empty_or_overflowing_block_has_no_header() {
        assert_eq!(BlockHeader::new(1, 0, b""), None);
        assert_eq!(BlockHeader::new(u64::MAX, 2, b""), None);
    }

    proptest! {
        #[test]
        fn offsets_delimit_every_frame(bodies: Vec<Vec<u8>>) {
            let mut frames = Vec::new();
            for body in &bodies {
                frames.extend_from_slice(&(body.len() as u32).to_be_bytes());
                frames.extend_from_slice(body);
            }
            let offsets = frame_offsets(&frames, bodies.len() as u32).unwrap();
            for (body, range) in bodies.iter().zip(offsets.windows(2)) {
                prop_assert_eq!(body, &frames[range[0] as usize + 4..range[1] as usize]);
            }
            prop_assert_eq!(frame_offsets(&frames, bodies.len() as u32 + 1), None);
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(frames: Vec<u8>, count: u32) {
            frame_offsets(&frames, count);
        }
    }
}
