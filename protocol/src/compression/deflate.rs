//! Raw deflate: one stream per direction, without header and without end. Each flush ends with an empty stored
//! block, `00 00 ff ff` on a byte border.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{CompressionError, Progress};

/// See the module.
#[derive(Debug)]
pub struct DeflateCompressor {
    stream: Compress,
}

/// Room for the end of a flush: with less of it left, the mark would be written twice.
const FLUSH_BYTES: usize = 16;

impl DeflateCompressor {
    /// A stream at a level from 1 (fast) to 9 (small).
    pub fn new(level: u8) -> Self {
        Self { stream: Compress::new(Compression::new(u32::from(level.clamp(1, 9))), false) }
    }

    /// Appends `input`, and a flush.
    pub fn compress(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        loop {
            out.reserve(input.len() / 2 + FLUSH_BYTES);
            let before = self.stream.total_in();
            // A compressor without a dictionary refuses nothing.
            let _ = self.stream.compress_vec(input, out, FlushCompress::Sync);
            input = &input[(self.stream.total_in() - before) as usize..];
            // With room left at the end it has said all.
            if input.is_empty() && out.len() < out.capacity() {
                return;
            }
        }
    }
}

/// See the module.
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
