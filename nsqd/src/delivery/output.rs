//! Pure: outgoing bytes, with responses and messages in order.

use nsq_protocol::{FrameType, ProtocolError, put_frame};

use crate::topic::PublishedMessage;

/// The output of a connection; see the module.
#[derive(Debug, Default)]
pub struct Output {
    buffer: Vec<u8>,
    written: usize,
}

/// Size at which a consumer's output is full and takes no more messages: enough for large writes, little enough that a
/// slow consumer does not hoard. One message may exceed it.
pub const OUTPUT_BYTES: usize = 256 * 1024;

/// Bytes that an idle output may keep.
const SMALL: usize = 512;

const OK_FRAME: [u8; 10] = *b"\0\0\0\x06\0\0\0\0OK";

impl Output {
    /// The buffer, for appending frames.
    pub fn frames(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Appends a response frame.
    pub fn respond(&mut self, data: &[u8]) {
        put_frame(&mut self.buffer, FrameType::Response, data);
    }

    /// Appends `OK`, `count` times.
    pub fn ok(&mut self, count: usize) {
        for _ in 0..count {
            self.buffer.extend_from_slice(&OK_FRAME);
        }
    }

    /// Appends `OK` and what the producer may learn of its message.
    pub fn published(&mut self, message: Option<PublishedMessage>) {
        let Some(PublishedMessage { id, is_duplicate }) = message else { return self.ok(1) };
        let duplicate: &[u8] = if is_duplicate { b" DUP" } else { b"" };
        self.respond(&[b"OK ", &id.0[..], duplicate].concat());
    }

    /// Appends an error frame.
    pub fn error(&mut self, error: &ProtocolError) {
        error.put_frame(&mut self.buffer);
    }

    /// Bytes that are not written yet.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.written..]
    }

    /// Bytes that may be added before the output is full.
    pub fn room(&self) -> usize {
        OUTPUT_BYTES.saturating_sub(self.buffer.len() - self.written)
    }

    /// Removes `count` bytes, which were written.
    pub fn consume(&mut self, count: usize) {
        self.written += count;
        if self.written == self.buffer.len() {
            self.buffer.clear();
            self.written = 0;
        } else if self.written >= OUTPUT_BYTES {
            self.buffer.drain(..self.written);
            self.written = 0;
        }
    }

    /// Whether [`Output::shrink`] would free memory.
    pub fn is_large(&self) -> bool {
        self.buffer.capacity() > SMALL && self.buffer.capacity() > 2 * self.pending().len()
    }

    /// Frees unused memory. Call when nothing was written for a while.
    pub fn shrink(&mut self) {
        if self.is_large() {
            self.buffer = self.pending().to_vec();
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_through_partial_writes() {
        let mut output = Output::default();
        output.respond(b"OK");
        output.ok(1);
        assert_eq!(output.pending().len(), 20);
        assert_eq!(output.pending()[..10], output.pending()[10..]);
        output.consume(15);
        output.respond(b"x");
        assert_eq!(output.pending(), b"\0\0\0OK\0\0\0\x05\0\0\0\0x");
        output.consume(14);
        assert!(output.pending().is_empty());
        assert_eq!(output.room(), OUTPUT_BYTES);
    }

    #[test]
    fn idle_output_keeps_only_unwritten_bytes() {
        let mut output = Output::default();
        output.frames().resize(1 << 20, 7);
        output.consume(200_000);
        assert!(!output.is_large());
        output.consume((1 << 20) - 200_000 - 3);
        output.shrink();
        assert_eq!((output.pending(), output.buffer.capacity()), (&[7; 3][..], 3));
        output.consume(3);
        assert!(!output.is_large());
    }
}
