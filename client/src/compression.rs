//! The compressed halves of a connection. `absent` stands in for it in a build without compression.

use std::io;

use bytes::BytesMut;
use nsq_protocol::compression::{Compressor, Decompressor};

use crate::error::Disconnect;
use crate::handshake::Upgrade;

/// Space for the compressed bytes of one read.
const READ_BYTES: usize = 16 << 10;
/// Minimum space for decompressed bytes.
const MIN_ROOM_BYTES: usize = 4 << 10;

/// Creates both halves after an upgrade to compression. `first` are compressed bytes that were already read. Fails for an
/// upgrade that this build does not have.
pub(crate) fn start(upgrade: Upgrade, first: BytesMut) -> Result<(Compression, Decompression), Disconnect> {
    let (compressor, decompressor) = match upgrade {
        #[cfg(feature = "snappy")]
        Upgrade::Snappy => (Compressor::snappy(), Decompressor::snappy()),
        #[cfg(feature = "deflate")]
        Upgrade::Deflate { level } => (Compressor::deflate(level), Decompressor::deflate()),
        _ => return Err(Disconnect::Protocol("this program has no such compression".into())),
    };
    let compression = Compression { compressor, out: Vec::new() };
    Ok((compression, Decompression { decompressor, received: first, has_more: false }))
}

/// The writing half.
pub(crate) struct Compression {
    compressor: Compressor,
    out: Vec<u8>,
}

impl Compression {
    /// Compresses `bytes` and flushes, so that the peer can decompress all of them.
    pub(crate) fn compress(&mut self, bytes: &[u8]) -> &[u8] {
        self.out.clear();
        self.compressor.compress(bytes, &mut self.out);
        &self.out
    }
}

/// The reading half.
pub(crate) struct Decompression {
    decompressor: Decompressor,
    /// Bytes that are read and not yet decompressed.
    received: BytesMut,
    /// The decompressor may produce more output without more input.
    has_more: bool,
}

impl Decompression {
    /// The buffer to read compressed bytes into when [`Decompression::decompress`] returns 0.
    pub(crate) fn room(&mut self) -> &mut BytesMut {
        self.received.reserve(READ_BYTES);
        &mut self.received
    }

    /// Appends decompressed bytes to `buf`, as many as fit, and returns their number; 0 if more input is needed.
    pub(crate) fn decompress(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        while self.has_more || !self.received.is_empty() {
            let start = buf.len();
            buf.resize(buf.capacity().max(start + MIN_ROOM_BYTES), 0);
            let room = buf.len() - start;
            let progress = self.decompressor.decompress(&self.received, &mut buf[start..]);
            let produced = progress.as_ref().map_or(0, |progress| progress.produced);
            buf.truncate(start + produced);
            let progress = progress.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            bytes::Buf::advance(&mut self.received, progress.consumed);
            self.has_more = produced == room;
            if produced > 0 {
                return Ok(produced);
            }
        }
        Ok(0)
    }
}
