//! Snappy's framing format: a stream identifier, then chunks.
//!
//! ```text
//! chunk = type(1) length(3, little-endian) data(length)
//!
//! ff         stream identifier, data "sNaPpY"; first, and may come again
//! 00         checksum(4) compressed bytes, at most 65536 when decompressed
//! 01         checksum(4) bytes as they are, at most 65536
//! 80 .. fe   skipped
//! 02 .. 7f   unknown: an error
//! ```
//!
//! The checksum is the CRC-32C of the decompressed bytes, rotated and offset ("masked").

use super::{CompressionError, Progress};

/// Maximum size of one chunk when decompressed, in bytes.
pub const MAX_CHUNK_BYTES: usize = 65536;

const CHECKSUM_BYTES: usize = 4;
const HEADER_BYTES: usize = 4;
/// Maximum compressed size of [`MAX_CHUNK_BYTES`] incompressible bytes.
const MAX_COMPRESSED_BYTES: usize = 32 + MAX_CHUNK_BYTES + MAX_CHUNK_BYTES / 6;

const COMPRESSED: u8 = 0x00;
const UNCOMPRESSED: u8 = 0x01;
const STREAM_IDENTIFIER: u8 = 0xff;
const STREAM_START: &[u8; 10] = b"\xff\x06\x00\x00sNaPpY";

/// Shorter input is not compressed: the most frequent output is `OK`.
const WORTH_COMPRESSING_BYTES: usize = 64;

/// Compresses one direction of a connection.
#[derive(Default)]
pub struct SnappyCompressor {
    /// `None` while idle.
    encoder: Option<Box<snap::raw::Encoder>>,
    has_begun: bool,
}

impl std::fmt::Debug for SnappyCompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnappyCompressor").field("has_begun", &self.has_begun).finish_non_exhaustive()
    }
}

impl SnappyCompressor {
    /// Appends `input` to `out` as whole chunks.
    pub fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) {
        if !self.has_begun {
            out.extend_from_slice(STREAM_START);
            self.has_begun = true;
        }
        for piece in input.chunks(MAX_CHUNK_BYTES) {
            self.put_chunk(piece, out);
        }
    }

    /// See [`Compressor::idle`](super::Compressor::idle).
    pub fn idle(&mut self) {
        self.encoder = None;
    }

    fn put_chunk(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        let data_at = start + HEADER_BYTES + CHECKSUM_BYTES;
        let compressed = self.compressed_chunk(piece, out, data_at);
        let (kind, data_bytes) = match compressed {
            Some(bytes) => (COMPRESSED, bytes),
            None => {
                out.resize(data_at, 0);
                out.extend_from_slice(piece);
                (UNCOMPRESSED, piece.len())
            }
        };
        out.truncate(data_at + data_bytes);
        let length = ((CHECKSUM_BYTES + data_bytes) as u32).to_le_bytes();
        out[start..start + HEADER_BYTES].copy_from_slice(&[kind, length[0], length[1], length[2]]);
        out[start + HEADER_BYTES..data_at].copy_from_slice(&masked_checksum(piece).to_le_bytes());
    }

    /// Compresses `piece` to `out[at..]`; returns the size, or `None` if compression saves too little.
    fn compressed_chunk(&mut self, piece: &[u8], out: &mut Vec<u8>, at: usize) -> Option<usize> {
        if piece.len() < WORTH_COMPRESSING_BYTES {
            return None;
        }
        out.resize(at + snap::raw::max_compress_len(piece.len()), 0);
        let encoder = self.encoder.get_or_insert_with(|| Box::new(snap::raw::Encoder::new()));
        let bytes = encoder.compress(piece, &mut out[at..]).ok()?;
        (bytes < piece.len() - piece.len() / 8).then_some(bytes)
    }
}

/// Decompresses one direction of a connection.
#[derive(Default)]
pub struct SnappyDecompressor {
    has_begun: bool,
    /// Header and data of a chunk that arrives in pieces.
    chunk: Vec<u8>,
    /// Bytes of a chunk that remain to be skipped.
    skip_bytes: usize,
    /// Decompressed bytes of a chunk that did not fit into the output yet.
    plain: Vec<u8>,
    plain_start: usize,
}

impl std::fmt::Debug for SnappyDecompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnappyDecompressor")
            .field("has_begun", &self.has_begun)
            .field("chunk", &self.chunk.len())
            .field("skip_bytes", &self.skip_bytes)
            .field("plain", &(self.plain.len() - self.plain_start))
            .finish_non_exhaustive()
    }
}

impl SnappyDecompressor {
    /// See [`Decompressor::decompress`](super::Decompressor::decompress).
    pub fn decompress(&mut self, input: &[u8], out: &mut [u8]) -> Result<Progress, CompressionError> {
        let mut done = Progress::default();
        loop {
            done.produced += self.drain(&mut out[done.produced..]);
            let rest = &input[done.consumed..];
            if done.produced == out.len() || rest.is_empty() {
                return Ok(done);
            }
            if self.skip_bytes > 0 {
                let skipped = self.skip_bytes.min(rest.len());
                self.skip_bytes -= skipped;
                done.consumed += skipped;
                continue;
            }
            done.consumed += self.next_chunk(rest, &mut out[done.produced..], &mut done.produced)?;
        }
    }

    /// See [`Decompressor::idle`](super::Decompressor::idle).
    pub fn idle(&mut self) {
        if self.chunk.is_empty() {
            self.chunk = Vec::new();
        }
        if self.plain.is_empty() {
            self.plain = Vec::new();
        }
    }

    /// Copies decompressed bytes of the last chunk to `out`.
    fn drain(&mut self, out: &mut [u8]) -> usize {
        let left = &self.plain[self.plain_start..];
        let count = left.len().min(out.len());
        out[..count].copy_from_slice(&left[..count]);
        self.plain_start += count;
        if self.plain_start == self.plain.len() {
            self.plain.clear();
            self.plain_start = 0;
        }
        count
    }

    /// Consumes bytes of one chunk from `input`, which is not empty; decompresses the chunk once it is complete.
    fn next_chunk(
        &mut self,
        input: &[u8],
        out: &mut [u8],
        produced: &mut usize,
    ) -> Result<usize, CompressionError> {
        // Usually `input` contains the whole chunk, and it need not be collected.
        if self.chunk.is_empty()
            && let Some(header) = input.first_chunk::<HEADER_BYTES>()
        {
            let header = Header::parse(*header, self.has_begun)?;
            if header.may_be_skipped() {
                self.skip_bytes = header.length;
                return Ok(HEADER_BYTES);
            }
            let chunk_bytes = HEADER_BYTES + header.length;
            if let Some(chunk) = input.get(HEADER_BYTES..chunk_bytes) {
                *produced += self.read_chunk(header, chunk, out)?;
                return Ok(chunk_bytes);
            }
        }
        let consumed = self.collect(HEADER_BYTES, input);
        let Some(header) = self.chunk.first_chunk::<HEADER_BYTES>() else { return Ok(consumed) };
        let header = Header::parse(*header, self.has_begun)?;
        if header.may_be_skipped() {
            self.chunk.clear();
            self.skip_bytes = header.length;
            return Ok(consumed);
        }
        let consumed = consumed + self.collect(HEADER_BYTES + header.length, &input[consumed..]);
        if self.chunk.len() == HEADER_BYTES + header.length {
            let chunk = std::mem::take(&mut self.chunk);
            *produced += self.read_chunk(header, &chunk[HEADER_BYTES..], out)?;
            // Keep the allocation for the next chunk that arrives in pieces.
            self.chunk = chunk;
            self.chunk.clear();
        }
        Ok(consumed)
    }

    /// Appends to the current chunk, up to `length` bytes in total.
    fn collect(&mut self, length: usize, input: &[u8]) -> usize {
        let count = length.saturating_sub(self.chunk.len()).min(input.len());
        self.chunk.extend_from_slice(&input[..count]);
        count
    }

    /// Decompresses a complete chunk, directly to `out` if it fits.
    fn read_chunk(&mut self, header: Header, data: &[u8], out: &mut [u8]) -> Result<usize, CompressionError> {
        if header.kind == STREAM_IDENTIFIER {
            return if data == &STREAM_START[HEADER_BYTES..] {
                self.has_begun = true;
                Ok(0)
            } else {
                Err(CompressionError::NoStreamIdentifier)
            };
        }
        let (checksum, data) =
            data.split_first_chunk::<CHECKSUM_BYTES>().ok_or(CompressionError::DamagedChunk)?;
        let length = match header.kind {
            COMPRESSED => snap::raw::decompress_len(data).map_err(|_| CompressionError::DamagedChunk)?,
            _ => data.len(),
        };
        if length > MAX_CHUNK_BYTES {
            return Err(CompressionError::ChunkLength(length));
        }
        let fits = length <= out.len();
        let target = if fits {
            &mut out[..length]
        } else {
            self.plain.resize(length, 0);
            &mut self.plain[..]
        };
        match header.kind {
            COMPRESSED => {
                snap::raw::Decoder::new()
                    .decompress(data, target)
                    .map_err(|_| CompressionError::DamagedChunk)?;
            }
            _ => target.copy_from_slice(data),
        }
        if masked_checksum(target) != u32::from_le_bytes(*checksum) {
            return Err(CompressionError::Checksum);
        }
        Ok(if fits { length } else { 0 })
    }
}

/// The validated header of a chunk.
#[derive(Clone, Copy)]
struct Header {
    kind: u8,
    length: usize,
}

impl Header {
    fn parse(bytes: [u8; HEADER_BYTES], has_begun: bool) -> Result<Self, CompressionError> {
        let [kind, length @ ..] = bytes;
        let length = length.iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte));
        if !has_begun && kind != STREAM_IDENTIFIER {
            return Err(CompressionError::NoStreamIdentifier);
        }
        let possible = match kind {
            COMPRESSED => CHECKSUM_BYTES..=CHECKSUM_BYTES + MAX_COMPRESSED_BYTES,
            UNCOMPRESSED => CHECKSUM_BYTES..=CHECKSUM_BYTES + MAX_CHUNK_BYTES,
            STREAM_IDENTIFIER => STREAM_START.len() - HEADER_BYTES..=STREAM_START.len() - HEADER_BYTES,
            0x80..=0xfe => 0..=usize::MAX,
            _ => return Err(CompressionError::ChunkType(kind)),
        };
        if !possible.contains(&length) {
            return Err(CompressionError::ChunkLength(length));
        }
        Ok(Self { kind, length })
    }

    fn may_be_skipped(self) -> bool {
        (0x80..=0xfe).contains(&self.kind)
    }
}

fn masked_checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}
