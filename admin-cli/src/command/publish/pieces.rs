//! Splits a stream of bytes into messages. Pure.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;

/// Maximum size of a message, far above what an nsqd would be configured for.
pub const MAX_PIECE_BYTES: usize = 64 << 20;

/// A piece exceeds [`MAX_PIECE_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

/// Splits the bytes that are read into pieces without their delimiters. By default, drops empty pieces, because NSQ has no
/// empty messages.
#[derive(Debug)]
pub struct Pieces {
    /// If empty, the whole input is one piece.
    delimiter: Vec<u8>,
    buffer: BytesMut,
    /// No delimiter in the buffer starts before this offset.
    searched: usize,
    /// Whether a line feed at the end of the input is no part of the last piece, whatever the delimiter.
    drops_final_newline: bool,
    /// Whether a piece between two delimiters may be empty.
    keeps_empty: bool,
}

impl Pieces {
    /// Splits at `delimiter`. If it is empty, the whole input is one piece.
    pub fn new(delimiter: &[u8]) -> Self {
        Pieces {
            delimiter: delimiter.to_owned(),
            buffer: BytesMut::new(),
            searched: 0,
            drops_final_newline: false,
            keeps_empty: false,
        }
    }

    /// Drops one line feed at the end of an input that does not end with the delimiter.
    pub fn drop_final_newline(self) -> Self {
        Pieces { drops_final_newline: true, ..self }
    }

    /// Returns empty pieces, too.
    pub fn keep_empty(self) -> Self {
        Pieces { keeps_empty: true, ..self }
    }

    /// The buffer to read into.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next complete piece.
    pub fn next(&mut self) -> Result<Option<Bytes>, TooLong> {
        while let Some(end) = self.find() {
            let piece = self.buffer.split_to(end).freeze();
            self.buffer.advance(self.delimiter.len());
            self.searched = 0;
            if piece.len() > MAX_PIECE_BYTES {
                return Err(TooLong);
            }
            if self.keeps_empty || !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        if self.buffer.len() > MAX_PIECE_BYTES + self.delimiter.len() { Err(TooLong) } else { Ok(None) }
    }

    /// The last piece, which needs no delimiter after it. Call this at the end of the input, after
    /// [`next`](Self::next) has returned `None`.
    pub fn last(&mut self) -> Option<Bytes> {
        self.searched = 0;
        if self.drops_final_newline && self.buffer.ends_with(b"\n") {
            self.buffer.truncate(self.buffer.len() - 1);
        }
        let rest = self.buffer.split().freeze();
        (!rest.is_empty()).then_some(rest)
    }

    fn find(&mut self) -> Option<usize> {
        if self.delimiter.is_empty() {
            return None;
        }
        match memmem::find(&self.buffer[self.searched..], &self.delimiter) {
            Some(at) => Some(self.searched + at),
            None => {
                // The buffer may end within a delimiter.
                self.searched = (self.buffer.len() + 1).saturating_sub(self.delimiter.len());
                None
            }
        }
    }
}

/// Parses a delimiter with the escapes `\n`, `\r`, `\t`, `\0` and `\\`.
pub fn parse_delimiter(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let meant = match c {
            '\\' => match rest.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('0') => '\0',
                Some('\\') => '\\',
                _ => return Err(r"invalid escape: \ must be followed by one of n r t 0 \".to_owned()),
            },
            other => other,
        };
        bytes.extend_from_slice(meant.encode_utf8(&mut [0; 4]).as_bytes());
    }
    if bytes.is_empty() { Err("the delimiter is empty".to_owned()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All pieces of the input, which arrives in parts of `part` bytes.
    fn cut(input: &[u8], delimiter: &[u8], part: usize) -> Vec<Vec<u8>> {
        let mut pieces = Pieces::new(delimiter);
        let mut all = Vec::new();
        for part in input.chunks(part) {
            pieces.buffer().extend_from_slice(part);
            while let Some(piece) = pieces.next().unwrap() {
                all.push(piece.to_vec());
            }
        }
        all.extend(pieces.last().map(|piece| piece.to_vec()));
        all
    }

    #[test]
    fn pieces_do_not_depend_on_how_bytes_arrive() {
        let input = b"--one----two-three---four";
        for part in 1..=input.len() {
            assert_eq!(cut(input, b"--", part), [&b"one"[..], b"two-three", b"-four"], "{part}");
            assert_eq!(cut(input, b"", part), [&input[..]]);
        }
    }

    #[test]
    fn last_piece_needs_no_delimiter() {
        assert_eq!(cut(b"a\n\nb", b"\n", 9), [b"a", b"b"]);
        assert_eq!(cut(b"a\nb\n", b"\n", 9), [b"a", b"b"]);
        assert!(cut(b"", b"\n", 9).is_empty());
    }

    #[test]
    fn final_newline_is_dropped_on_request() {
        let mut pieces = Pieces::new(b",").drop_final_newline();
        pieces.buffer().extend_from_slice(b"one,two\n,three\n");
        let mut all: Vec<Bytes> = std::iter::from_fn(|| pieces.next().unwrap()).collect();
        all.extend(pieces.last());
        assert_eq!(all, [&b"one"[..], b"two\n", b"three"]);
    }

    #[test]
    fn too_long_piece_is_refused() {
        let mut pieces = Pieces::new(b"\n");
        pieces.buffer().resize(MAX_PIECE_BYTES + 2, b'x');
        assert_eq!(pieces.next(), Err(TooLong));
    }

    #[test]
    fn delimiter_escapes_are_parsed() {
        assert_eq!(parse_delimiter(r"\r\n"), Ok(b"\r\n".to_vec()));
        assert_eq!(parse_delimiter(r"\\\0,"), Ok(b"\\\0,".to_vec()));
        assert!(parse_delimiter("").is_err());
        assert!(parse_delimiter(r"\x").is_err());
        assert!(parse_delimiter("\\").is_err());
    }
}
