//! Escapes `#` in request lines. Pure.
//!
//! A `#` is not allowed there, but some clients send targets unescaped, and Go reads the `#` as part of the target.
//! hyper drops everything from the `#` on, so `/channel/delete?topic=t&channel=c#ephemeral` would mean another channel.
//!
//! To find request lines, this code tracks where requests end, but only while the end is unambiguous: lines that end in
//! CRLF; one `Content-Length` or none; chunks without extensions and trailers. At anything else it stops permanently:
//! [`RequestLines::last_request`] is then the last request that the connection may answer. So hyper alone decides where
//! an ambiguous request ends, and no later request is read from a position that hyper and this code see differently.

use memchr::{memchr, memchr_iter};

/// The place of the next byte in a sequence of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    RequestLine,
    Header,
    Body {
        left: u64,
    },
    ChunkSize,
    Chunk {
        left: u64,
    },
    /// The line end after a chunk.
    ChunkEnd,
    /// The empty line after the last chunk.
    LastLine,
    /// After something ambiguous.
    Lost,
}

/// How the body of the current request is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delimited {
    /// No header so far delimits a body.
    Nothing,
    Length(u64),
    Chunks,
}

/// See the module.
#[derive(Debug)]
pub(super) struct RequestLines {
    place: Place,
    body: Delimited,
    /// Number of completed request lines.
    requests: u64,
    /// The start of the current line: enough to recognize a relevant header or a chunk size.
    line: [u8; LINE_BYTES],
    /// Bytes of the line so far, without its line feed.
    line_len: usize,
    ends_with_cr: bool,
}

const LINE_BYTES: usize = 64;

const ESCAPED: &[u8] = b"%23";

impl Default for RequestLines {
    fn default() -> Self {
        RequestLines {
            place: Place::RequestLine,
            body: Delimited::Nothing,
            requests: 0,
            line: [0; LINE_BYTES],
            line_len: 0,
            ends_with_cr: false,
        }
    }
}

impl RequestLines {
    /// Processes the next bytes. Returns the bytes to read instead, or `None` if they need no change.
    pub(super) fn escape(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut escaped: Option<Vec<u8>> = None;
        let mut copied = 0;
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let length = match &mut self.place {
                Place::Lost => break,
                Place::Body { left } | Place::Chunk { left } => {
                    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= length as u64;
                    if *left == 0 {
                        let is_chunk = matches!(self.place, Place::Chunk { .. });
                        self.place = if is_chunk { Place::ChunkEnd } else { Place::RequestLine };
                    }
                    length
                }
                place => {
                    let is_request_line = *place == Place::RequestLine;
                    let end = memchr(b'\n', rest);
                    let length = end.map_or(rest.len(), |end| end + 1);
                    if is_request_line {
                        for hash in memchr_iter(b'#', &rest[..length]) {
                            let out = escaped.get_or_insert_default();
                            out.extend_from_slice(&bytes[copied..at + hash]);
                            out.extend_from_slice(ESCAPED);
                            copied = at + hash + 1;
                        }
                    }
                    self.read_line(&rest[..end.unwrap_or(length)]);
                    if end.is_some() {
                        self.end_line();
                    }
                    length
                }
            };
            at += length;
        }
        if let Some(out) = &mut escaped {
            out.extend_from_slice(&bytes[copied..]);
        }
        escaped
    }

    /// The number of the last request that may be answered, counted from 1; `None` while nothing is ambiguous.
    pub(super) fn last_request(&self) -> Option<u64> {
        (self.place == Place::Lost).then_some(self.requests)
    }

    fn read_line(&mut self, part: &[u8]) {
        if let Some(room) = self.line.get_mut(self.line_len..) {
            let length = part.len().min(room.len());
            room[..length].copy_from_slice(&part[..length]);
        }
        if let Some(&last) = part.last() {
            self.ends_with_cr = last == b'\r';
        }
        self.line_len = self.line_len.saturating_add(part.len());
    }

    fn end_line(&mut self) {
        // The carriage return counts in `line_len`, but is not part of the line.
        let length = self.line_len.saturating_sub(1);
        let ends_with_cr = self.line_len > 0 && self.ends_with_cr;
        self.line_len = 0;
        if !ends_with_cr {
            self.requests += u64::from(self.place == Place::RequestLine);
            self.place = Place::Lost;
            return;
        }
        let stored = self.line;
        let line = Line { start: &stored[..length.min(LINE_BYTES)], is_whole: length <= LINE_BYTES };
        let is_empty = length == 0;
        self.place = match self.place {
            // Empty lines before a request are skipped.
            Place::RequestLine if is_empty => Place::RequestLine,
            Place::RequestLine => {
                self.requests += 1;
                self.body = Delimited::Nothing;
                Place::Header
            }
            Place::Header if is_empty => match self.body {
                Delimited::Nothing | Delimited::Length(0) => Place::RequestLine,
                Delimited::Length(left) => Place::Body { left },
                Delimited::Chunks => Place::ChunkSize,
            },
            Place::Header => match line.header(self.body) {
                Some(body) => {
                    self.body = body;
                    Place::Header
                }
                None => Place::Lost,
            },
            Place::ChunkSize => match line.chunk_size() {
                Some(0) => Place::LastLine,
                Some(left) => Place::Chunk { left },
                None => Place::Lost,
            },
            Place::ChunkEnd if is_empty => Place::ChunkSize,
            Place::LastLine if is_empty => Place::RequestLine,
            _ => Place::Lost,
        };
    }
}

/// A line without its line end.
#[derive(Debug, Clone, Copy)]
struct Line<'a> {
    start: &'a [u8],
    /// Whether `start` is the whole line.
    is_whole: bool,
}

impl Line<'_> {
    /// How the body is delimited after this header; `before` is the result of earlier headers. `None` if it is
    /// ambiguous.
    fn header(self, before: Delimited) -> Option<Delimited> {
        let colon = memchr(b':', self.start)?;
        let (name, value) = (&self.start[..colon], trimmed(&self.start[colon + 1..]));
        let is_length = name.eq_ignore_ascii_case(b"content-length");
        let is_encoding = name.eq_ignore_ascii_case(b"transfer-encoding");
        if name.is_empty() || !name.iter().all(|&byte| is_name_byte(byte)) {
            return None;
        }
        if !is_length && !is_encoding {
            return Some(before);
        }
        if !self.is_whole || before != Delimited::Nothing {
            return None;
        }
        if is_encoding {
            return value.eq_ignore_ascii_case(b"chunked").then_some(Delimited::Chunks);
        }
        let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok().map(Delimited::Length)
    }

    /// The size if the line consists only of hexadecimal digits.
    fn chunk_size(self) -> Option<u64> {
        let is_number = self.is_whole && self.start.iter().all(u8::is_ascii_hexdigit);
        u64::from_str_radix(std::str::from_utf8(self.start).ok().filter(|_| is_number)?, 16).ok()
    }
}

fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether a header name may contain this byte.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The bytes read instead of `bytes` if they arrive in pieces of `piece` bytes, and the last request.
    fn read(bytes: &[u8], piece: usize) -> (Vec<u8>, Option<u64>) {
        let mut lines = RequestLines::default();
        let pieces = bytes.chunks(piece);
        let read = pieces.flat_map(|piece| lines.escape(piece).unwrap_or_else(|| piece.to_vec())).collect();
        (read, lines.last_request())
    }

    #[test]
    fn only_request_lines_change() {
        let requests = concat!(
            "GET /a?b=c#d HTTP/1.1\r\nHost: #\r\n\r\n",
            "\r\nPOST /p?x=#&y=## HTTP/1.1\r\ncontent-LENGTH:  5 \r\nX: #\r\n\r\n#\n\r\n#",
            "POST /q# HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\n#\r\n\r\n1\r\n\n\r\n0\r\n\r\n",
            "GET /z# HTTP/1.1\r\n\r\n",
        );
        let expected = requests.replace("c#d", "c%23d").replace("x=#&y=## ", "x=%23&y=%23%23 ");
        let expected = expected.replace("/q#", "/q%23").replace("/z#", "/z%23");
        for piece in 1..requests.len() {
            let (read, last) = read(requests.as_bytes(), piece);
            assert_eq!((String::from_utf8(read).unwrap(), last), (expected.clone(), None));
        }
        assert_eq!(RequestLines::default().escape(b"GET / HTTP/1.1\r\nX: #\r\n\r\n"), None);
    }

    #[test]
    fn request_with_an_ambiguous_head_is_the_last() {
        let long_length = format!("Content-Length: {}1", "0".repeat(100));
        for header in [
            "Content-Length: +1",
            "Content-Length:",
            "Content-Length: 1, 1",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 1",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Transfer-Encoding: \x0bchunked",
            "Content-Length : 1",
            "X: a\r\n Content-Length: 1",
            "X: a\n\nGET / HTTP/1.1",
            "no colon",
            &long_length,
        ] {
            let first = "GET /first# HTTP/1.1\r\n\r\n";
            let requests = format!("{first}POST / HTTP/1.1\r\n{header}\r\n\r\nGET /# HTTP/1.1\r\n\r\n");
            let expected = requests.replace("first#", "first%23");
            assert_eq!(read(requests.as_bytes(), 7), (expected.into_bytes(), Some(2)), "{header}");
        }
        assert_eq!(read(b"GET /# HTTP/1.1\nHost: x\r\n\r\n", 9).1, Some(1));
        assert_eq!(read(b"\nGET /# HTTP/1.1\r\n\r\n", 9).1, Some(1));
    }

    #[test]
    fn request_with_ambiguous_chunks_is_the_last() {
        for chunks in [
            "3\r\nabc\r\n0\r\n\nX: a\r\n\r\n",
            "3;a=b\r\nabc\r\n0\r\n\r\n",
            "3 \r\nabc\r\n0\r\n\r\n",
            "3\nabc\r\n0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "3\r\nabc\n0\r\n\r\n",
            "3\r\nabc\r\n0\r\nX: a\r\n\r\n",
            "+3\r\nabc\r\n0\r\n\r\n",
            "fffffffffffffffff\r\n",
        ] {
            let requests = format!(
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}GET /# HTTP/1.1\r\n\r\n"
            );
            for piece in [1, 5, 1000] {
                assert_eq!(
                    read(requests.as_bytes(), piece),
                    (requests.clone().into_bytes(), Some(1)),
                    "{chunks}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), piece in 1usize..60) {
            read(&bytes, piece);
        }
    }
}
