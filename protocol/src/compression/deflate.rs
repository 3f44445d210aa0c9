//! Raw deflate: one stream per direction, without a header or an end. Each flush ends with an empty stored block,
//! `00 00 ff ff` on a byte boundary.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{CompressionError, Progress};

/// Compresses one direction of a connection.
#[derive(Debug)]
pub struct DeflateCompressor {
    level: Compression,
    /// `None` while idle: it is large, and a fresh stream can continue at the byte boundary after the last flush.
    stream: Option<Box<Compress>>,
}

/// Space for the end of a flush: with less space left, the flush marker would be written twice.
const FLUSH_BYTES: usize = 16;

impl DeflateCompressor {
    /// A stream at a level from 1 (fast) to 9 (small); other levels are clamped.
    pub fn new(level: u8) -> Self {
        Self { level: Compression::new(u32::from(level.clamp(1, 9))), stream: None }
    }

    /// Appends `input` to `out`, compressed and flushed.
    pub fn compress(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        if self.stream.is_none() && input.len() < WORTH_A_COMPRESSOR_BYTES {
            return put_stored(input, out);
        }
        let stream = self.stream.get_or_insert_with(|| Box::new(Compress::new(self.level, false)));
        loop {
            out.reserve(input.len() / 2 + FLUSH_BYTES);
            let before = stream.total_in();
            // Compression cannot fail without a dictionary.
            let _ = stream.compress_vec(input, out, FlushCompress::Sync);
            input = &input[(stream.total_in() - before) as usize..];
            // If space is left at the end, all output has been written.
            if input.is_empty() && out.len() < out.capacity() {
                return;
            }
        }
    }

    /// See [`Compressor::idle`](super::Compressor::idle).
    pub fn idle(&mut self) {
        self.stream = None;
    }
}

/// An idle compressor stores shorter input uncompressed: `OK` and heartbeats would not become shorter anyway.
const WORTH_A_COMPRESSOR_BYTES: usize = 32;

/// Appends a stored block, which contains the bytes unchanged, and the marker of a flush.
fn put_stored(input: &[u8], out: &mut Vec<u8>) {
    for block in [input, b""] {
        let length = block.len() as u16;
        out.push(0);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
}

/// Decompresses one direction of a connection.
#[derive(Debug)]
pub struct DeflateDecompressor {
    stream: Decompress,
    has_ended: bool,
}

impl Default for DeflateDecompressor {
    fn default() -> Self {
        Self { stream: Decompress::new(false), has_ended: false }
    }
}

impl DeflateDecompressor {
    /// See [`Decompressor::decompress`](super::Decompressor::decompress).
    pub fn decompress(&mut self, input: &[u8], out: &mut [u8]) -> Result<Progress, CompressionError> {
        if self.has_ended {
            return Err(CompressionError::Ended);
        }
        let (in_before, out_before) = (self.stream.total_in(), self.stream.total_out());
        let status = self.stream.decompress(input, out, FlushDecompress::None);
        match status.map_err(|_| CompressionError::Deflate)? {
            Status::Ok | Status::BufError => {}
            Status::StreamEnd => self.has_ended = true,
        }
        let consumed = (self.stream.total_in() - in_before) as usize;
        let produced = (self.stream.total_out() - out_before) as usize;
        if self.has_ended && produced == 0 {
            return Err(CompressionError::Ended);
        }
        if consumed == 0 && produced == 0 && !input.is_empty() && !out.is_empty() {
            return Err(CompressionError::Deflate);
        }
        Ok(Progress { consumed, produced })
    }
}
