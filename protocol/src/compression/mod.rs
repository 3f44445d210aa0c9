//! Compressed byte streams, as IDENTIFY can negotiate them: what is written in one go can be read in one go.
//!
//! A [`Compressor`] ends each piece of output with a flush, so that nothing is held back. A [`Decompressor`] fills
//! the room it is given and no more: however well a stream is compressed, it costs its reader only as much memory as
//! the reader offers, and a small fixed window. One per direction of a connection.
//!
//! - [`deflate`]: raw deflate, one stream without end
//! - [`snappy`]: snappy's framing format, chunks with checksums

pub mod deflate;
pub mod snappy;

pub use self::deflate::{DeflateCompressor, DeflateDecompressor};
pub use self::snappy::{SnappyCompressor, SnappyDecompressor};

/// Writes one direction of a compressed connection.
#[derive(Debug)]
pub enum Compressor {
    /// See [`deflate`].
    Deflate(DeflateCompressor),
    /// See [`snappy`].
    Snappy(SnappyCompressor),
}

impl Compressor {
    /// Raw deflate at a level from 1 (fast) to 9 (small).
    pub fn deflate(level: u8) -> Self {
        Self::Deflate(DeflateCompressor::new(level))
    }

    /// Snappy.
    pub fn snappy() -> Self {
        Self::Snappy(SnappyCompressor::default())
    }

    /// Appends `input` to `out`, compressed, and so that all of it can be read from what `out` has then.
    pub fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Deflate(compressor) => compressor.compress(input, out),
            Self::Snappy(compressor) => compressor.compress(input, out),
        }
    }

    /// Nothing has gone for a while: gives back memory that is not needed until something does. Later output refers to
    /// nothing that came before.
    pub fn idle(&mut self) {
        match self {
            Self::Deflate(compressor) => compressor.idle(),
            Self::Snappy(compressor) => compressor.idle(),
        }
    }
}

/// Reads one direction of a compressed connection.
#[derive(Debug)]
pub enum Decompressor {
    /// See [`deflate`].
    Deflate(DeflateDecompressor),
    /// See [`snappy`].
    Snappy(SnappyDecompressor),
}

impl Decompressor {
    /// Raw deflate of any level.
    pub fn deflate() -> Self {
        Self::Deflate(DeflateDecompressor::default())
    }

    /// Snappy.
    pub fn snappy() -> Self {
        Self::Snappy(SnappyDecompressor::default())
    }

    /// Fills `out` from `input`. Returns when `out` is full or `input` is used up. What still comes out of bytes that
    /// were consumed comes first from the next call, with or without more input.
    pub fn decompress(&mut self, input: &[u8], out: &mut [u8]) -> Result<Progress, CompressionError> {
        match self {
            Self::Deflate(decompressor) => decompressor.decompress(input, out),
            Self::Snappy(decompressor) => decompressor.decompress(input, out),
        }
    }

    /// Nothing has come for a while: gives back memory that is not needed until something does.
    pub fn idle(&mut self) {
        match self {
            // Its window is what later bytes refer to.
            Self::Deflate(_) => {}
            Self::Snappy(decompressor) => decompressor.idle(),
        }
    }
}

/// What a call to [`Decompressor::decompress`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that are dealt with.
    pub consumed: usize,
    /// Bytes of the output that are filled.
    pub produced: usize,
}

/// A compressed stream that cannot be read further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// It is no deflate stream.
    #[error("what was received is not a deflate stream")]
    Deflate,
    /// The other side has ended its deflate stream, which goes on as long as its connection.
    #[error("the deflate stream has ended")]
    Ended,
    /// It does not begin as a snappy stream does.
    #[error("what was received does not begin with snappy's stream identifier")]
    NoStreamIdentifier,
    /// A chunk of a kind that one may not skip.
    #[error("a snappy chunk of the unknown type {0:#04x}")]
    ChunkType(u8),
    /// A chunk whose length is not possible for its type.
    #[error("a snappy chunk of {0} bytes")]
    ChunkLength(usize),
    /// A chunk that holds something else than compressed bytes.
    #[error("a damaged snappy chunk")]
    DamagedChunk,
    /// A chunk whose checksum is wrong.
    #[error("a snappy chunk with a wrong checksum")]
    Checksum,
}

#[cfg(test)]
#[path = "../compression_tests.rs"]
mod tests;
