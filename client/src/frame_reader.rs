//! The reading half of a connection: bytes in, frames out.

use std::time::Duration;

use bytes::BytesMut;
use nsq_protocol::{Frame, FrameDecoder};

use crate::error::Disconnect;
use crate::transport::ReadHalf;

/// A read starts with the minimum and doubles while reads are full, so that idle connections need little memory and
/// busy ones few calls.
const MIN_READ_BYTES: usize = 4 << 10;
const MAX_READ_BYTES: usize = 128 << 10;

pub(crate) struct FrameReader {
    half: ReadHalf,
    buf: BytesMut,
    decoder: FrameDecoder,
    read_bytes: usize,
    received_any: bool,
}

impl FrameReader {
    pub(crate) fn new(half: ReadHalf, max_frame_bytes: usize) -> Self {
        FrameReader {
            half,
            buf: BytesMut::new(),
            decoder: FrameDecoder::new(max_frame_bytes),
            read_bytes: MIN_READ_BYTES,
            received_any: false,
        }
    }

    /// Returns the half, for an upgrade, and the bytes read after the last frame.
    pub(crate) fn into_parts(self) -> (ReadHalf, BytesMut) {
        (self.half, self.buf)
    }

    /// Changes the maximum size of a frame.
    pub(crate) fn set_max_frame_bytes(&mut self, max_frame_bytes: usize) {
        self.decoder = FrameDecoder::new(max_frame_bytes);
    }

    /// Returns the next frame if it is completely read.
    pub(crate) fn buffered(&mut self) -> Result<Option<Frame>, Disconnect> {
        if !self.received_any && self.buf.starts_with(b"HTTP") {
            return Err(Disconnect::HttpPeer);
        }
        let frame = self.decoder.decode(&mut self.buf).map_err(|e| Disconnect::Protocol(e.to_string()))?;
        self.received_any |= frame.is_some();
        Ok(frame)
    }

    /// Reads once. Fails if nothing arrives within `silence_limit`. Cancel safe.
    pub(crate) async fn fill(&mut self, silence_limit: Option<Duration>) -> Result<(), Disconnect> {
        self.buf.reserve(self.read_bytes);
        let read = self.half.read(&mut self.buf);
        let count = match silence_limit {
            Some(limit) => match tokio::time::timeout(limit, read).await {
                Ok(count) => count?,
                Err(_) => return Err(Disconnect::Timeout(limit)),
            },
            None => read.await?,
        };
        if count == 0 {
            return Err(Disconnect::Closed);
        }
        if count >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 2).min(MAX_READ_BYTES);
        }
        Ok(())
    }

    /// Returns the next frame, and reads until it is complete. Cancel safe.
    pub(crate) async fn next(&mut self, silence_limit: Option<Duration>) -> Result<Frame, Disconnect> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            self.fill(silence_limit).await?;
        }
    }
}
