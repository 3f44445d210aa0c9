//! Compressed byte streams, as negotiated by IDENTIFY.
//!
//! A [`Compressor`] ends each piece of output with a flush, so the reader can decode all of it at once. A
//! [`Decompressor`] fills the given buffer and no more. Even a highly compressed stream costs its reader only this
//! buffer and a small fixed window. Each direction of a connection needs its own.
//!
//! - [`deflate`]: raw deflate, one stream without end
//! - [`snappy`]: snappy's framing format, chunks with checksums

#[cfg(feature = "deflate")]
pub mod deflate;
#[cfg(feature = "snappy")]
pub mod snappy;

#[cfg(feature = "deflate")]
pub use self::deflate::{DeflateCompressor, DeflateDecompressor};
#[cfg(feature = "snappy")]
pub use self::snappy::{SnappyCompressor, SnappyDecompressor};

/// Writes one direction of a compressed connection.
#[derive(Debug)]
pub enum Compressor {
    /// See [`deflate`].
    #[cfg(feature = "deflate")]
    Deflate(DeflateCompressor),
    /// See [`snappy`].
    #[cfg(feature = "snappy")]
    Snappy(SnappyCompressor),
}

impl Compressor {
    /// Raw deflate at a level from 1 (fast) to 9 (small).
    #[cfg(feature = "deflate")]
    pub fn deflate(level: u8) -> Self {
        Self::Deflate(DeflateCompressor::new(level))
    }

    /// Snappy.
    #[cfg(feature = "snappy")]
    pub fn snappy() -> Self {
        Self::Snappy(SnappyCompressor::default())
    }

    /// Appends `input` to `out`, compressed and flushed, so the reader can decode all of it from `out`.
    pub fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) {
        match self {
            #[cfg(feature = "deflate")]
            Self::Deflate(compressor) => compressor.compress(input, out),
            #[cfg(feature = "snappy")]
            Self::Snappy(compressor) => compressor.compress(input, out),
        }
    }

    /// Frees memory that is not needed until the next output. Call it after a while without output. Later output does
    /// not refer to earlier output.
    pub fn idle(&mut self) {
        match self {
            #[cfg(feature = "deflate")]
            Self::Deflate(compressor) => compressor.idle(),
            #[cfg(feature = "snappy")]
            Self::Snappy(compressor) => compressor.idle(),
        }
    }
}

/// Reads one direction of a compressed connection.
#[derive(Debug)]
pub enum Decompressor {
    /// See [`deflate`].
    #[cfg(feature = "deflate")]
    Deflate(DeflateDecompressor),
    /// See [`snappy`].
    #[cfg(feature = "snappy")]
    Snappy(SnappyDecompressor),
}

impl Decompressor {
    /// Raw deflate of any level.
    #[cfg(feature = "deflate")]
    pub fn deflate() -> Self {
        Self::Deflate(DeflateDecompressor::default())
    }

    /// Snappy.
    #[cfg(feature = "snappy")]
    pub fn snappy() -> Self {
        Self::Snappy(SnappyDecompressor::default())
    }

    /// Decompresses `input` into `out`. Returns when `out` is full or `input` is consumed. Output of consumed bytes
    /// that did not fit comes first in the next call, with or without more input.
    pub fn decompress(&mut self, input: &[u8], out: &mut [u8]) -> Result<Progress, CompressionError> {
        match self {
            #[cfg(feature = "deflate")]
            Self::Deflate(decompressor) => decompressor.decompress(input, out),
            #[cfg(feature = "snappy")]
            Self::Snappy(decompressor) => decompressor.decompress(input, out),
        }
    }

    /// Frees memory that is not needed until the next input. Call it after a while without input.
    pub fn idle(&mut self) {
        match self {
            // Later bytes refer to its window.
            #[cfg(feature = "deflate")]
            Self::Deflate(_) => {}
            #[cfg(feature = "snappy")]
            Self::Snappy(decompressor) => decompressor.idle(),
        }
    }
}

/// The result of [`Decompressor::decompress`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes consumed from the input.
    pub consumed: usize,
    /// Bytes written to the output.
    pub produced: usize,
}

/// A compressed stream that cannot be read further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// The input is not a deflate stream.
    #[error("received data is not a deflate stream")]
    Deflate,
    /// The peer ended its deflate stream before its connection.
    #[error("the peer ended the deflate stream")]
    Ended,
    /// The input does not begin with snappy's stream identifier.
    #[error("received data does not begin with snappy's stream identifier")]
    NoStreamIdentifier,
    /// A chunk has an unknown type that may not be skipped.
    #[error("unknown snappy chunk type {0:#04x}")]
    ChunkType(u8),
    /// A chunk's length is invalid for its type.
    #[error("invalid snappy chunk length: {0} bytes")]
    ChunkLength(usize),
    /// A chunk does not contain valid compressed data.
    #[error("corrupt snappy chunk")]
    DamagedChunk,
    /// A chunk's checksum does not match.
    #[error("snappy chunk checksum mismatch")]
    Checksum,
}

#[cfg(all(test, feature = "deflate", feature = "snappy"))]
#[path = "../compression_tests.rs"]
mod tests;
