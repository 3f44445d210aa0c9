//! The compressed halves of a connection.

use std::io;

use bytes::BytesMut;
use nsq_protocol::compression::{Compressor, Decompressor};

use crate::handshake::Upgrade;

/// Compressed bytes that are read at a time.
const READ_BYTES: usize = 16 << 10;
/// Room that is made for decompressed bytes, at least.
const MIN_ROOM_BYTES: usize = 4 << 10;

/// What both directions start with after an upgrade to a compressed form.
pub(crate) fn start(upgrade: Upgrade, first: BytesMut) -> Option<(Compression, Decompression)> {
    let (compressor, decompressor) = match upgrade {
        Upgrade::Tls => return None,
        Upgrade::Snappy => (Compressor::snappy(), Decompressor::snappy()),
        Upgrade::Deflate { level } => (Compressor::deflate(level), Decompressor::deflate()),
    };
    let compression = Compression { compressor, out: Vec::new() };
    Some((compression, Decompression { decompressor, received: first, has_more: false }))
}

/// The writing half.
pub(crate) struct Compression {
    compressor: Compressor,
    out: Vec<u8>,
}

impl Compression {
    /// `bytes` in compressed form, with a flush at their end.
    pub(crate) fn compress(&mut self, bytes: &[u8]) -> &[u8] {
        self.out.clear();
        self.compressor.compress(bytes, &mut self.out);
        &self.out
    }
}

/// The reading half.
pub(crate) struct Decompression {
    decompressor: Decompressor,
    /// Read and not yet decompressed.
    received: BytesMut,
    /// The decompressor may have more without more input.
    has_more: bool,
}

impl Decompression {
    /// Where to read compressed bytes into, once [`Decompression::decompress`] has nothing more.
    pub(crate) fn room(&mut self) -> &mut BytesMut {
        self.received.reserve(READ_BYTES);
        &mut self.received
    }

    /// Appends to `buf` what has come, as much as there is room for. 0 if there is nothing.
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
