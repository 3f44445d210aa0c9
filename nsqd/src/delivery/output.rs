//! Pure: the bytes that are to go out, responses and messages in order.

use nsq_protocol::{FrameType, ProtocolError, put_frame};

/// See the module.
#[derive(Debug, Default)]
pub struct Output {
    buffer: Vec<u8>,
    written: usize,
}

/// What a consumer's output holds before taking more is put off: enough for large writes, little enough that a slow
/// consumer does not hoard. One message may exceed it.
pub const OUTPUT_BYTES: usize = 256 * 1024;

/// What an idle one may keep.
const SMALL: usize = 512;

const OK_FRAME: [u8; 10] = *b"\0\0\0\x06\0\0\0\0OK";

impl Output {
    /// Where frames are appended.
    pub fn frames(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Appends a response frame.
    pub fn respond(&mut self, data: &[u8]) {
        put_frame(&mut self.buffer, FrameType::Response, data);
    }

    /// Appends `OK`, so many times.
    pub fn ok(&mut self, count: usize) {
        for _ in 0..count {
            self.buffer.extend_from_slice(&OK_FRAME);
        }
    }

    /// Appends an error frame.
    pub fn error(&mut self, error: &ProtocolError) {
        error.put_frame(&mut self.buffer);
    }

    /// What is to be written.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.written..]
    }

    /// Bytes that may be added before it counts as full.
    pub fn room(&self) -> usize {
        OUTPUT_BYTES.saturating_sub(self.buffer.len() - self.written)
    }

    /// So many bytes were written.
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

    /// Whether [`Output::shrink`] would give memory back.
    pub fn is_large(&self) -> bool {
        self.buffer.capacity() > SMALL && self.buffer.capacity() > 2 * self.pending().len()
    }

    /// Nothing has gone out for a while: gives back what is not in use.
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
    fn an_idle_one_keeps_only_what_is_still_to_go_out() {
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
