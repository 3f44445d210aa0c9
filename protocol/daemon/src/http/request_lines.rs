//! Pure: escapes `#` in request lines.
//!
//! A `#` does not belong there, but some clients send targets as they are given, and Go reads it as part of them. Below
//! hyper it is the beginning of what is cut off, so that `/channel/delete?topic=t&channel=c#ephemeral` would mean
//! another channel. To tell request lines from all else, this follows how requests are delimited.

use memchr::{memchr, memchr_iter};

/// Where in a sequence of requests the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    RequestLine,
    Header,
    Body {
        left: u64,
    },
    ChunkSize,
    /// With its line end.
    Chunk {
        left: u64,
    },
    Trailer,
    /// Behind something that hyper refuses.
    Lost,
}

/// How the body of the present request is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delimited {
    Length(u64),
    Chunks,
}

/// See the module.
#[derive(Debug)]
pub(super) struct RequestLines {
    place: Place,
    body: Delimited,
    /// The beginning of the present line: what it takes to know a header that matters, or a size.
    line: [u8; LINE_BYTES],
    /// How many bytes the line has so far, without its end.
    line_len: usize,
}

const LINE_BYTES: usize = 64;

const ESCAPED: &[u8] = b"%23";

impl Default for RequestLines {
    fn default() -> Self {
        let (place, body) = (Place::RequestLine, Delimited::Length(0));
        RequestLines { place, body, line: [0; LINE_BYTES], line_len: 0 }
    }
}

impl RequestLines {
    /// Looks at the bytes that come next; None if they may stay as they are.
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
                        self.place = if is_chunk { Place::ChunkSize } else { Place::RequestLine };
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

    fn read_line(&mut self, part: &[u8]) {
        if let Some(room) = self.line.get_mut(self.line_len..) {
            let length = part.len().min(room.len());
            room[..length].copy_from_slice(&part[..length]);
        }
        self.line_len = self.line_len.saturating_add(part.len());
    }

    fn end_line(&mut self) {
        let is_whole = self.line_len <= LINE_BYTES;
        let line = self.line[..self.line_len.min(LINE_BYTES)].trim_ascii_end();
        let is_empty = is_whole && line.is_empty();
        self.place = match self.place {
            // Empty lines before a request are passed over.
            Place::RequestLine if is_empty => Place::RequestLine,
            Place::RequestLine => {
                self.body = Delimited::Length(0);
                Place::Header
            }
            Place::Header if is_empty => match self.body {
                Delimited::Length(0) => Place::RequestLine,
                Delimited::Length(left) => Place::Body { left },
                Delimited::Chunks => Place::ChunkSize,
            },
            Place::Header => match delimiter(line) {
                Some(Some(body)) if is_whole => {
                    // Of both, chunks count.
                    if self.body != Delimited::Chunks {
                        self.body = body;
                    }
                    Place::Header
                }
                Some(_) => Place::Lost,
                None => Place::Header,
            },
            Place::ChunkSize => match chunk_size(line) {
                Some(0) => Place::Trailer,
                Some(size) => Place::Chunk { left: size.saturating_add(2) },
                None => Place::Lost,
            },
            Place::Trailer if is_empty => Place::RequestLine,
            place => place,
        };
        self.line_len = 0;
    }
}

/// What a header says about the end of the body, None if nothing; Some(None) if it is none that hyper takes.
fn delimiter(line: &[u8]) -> Option<Option<Delimited>> {
    let colon = memchr(b':', line)?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if name.eq_ignore_ascii_case(b"content-length") {
        let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(value).ok().filter(|_| is_number).and_then(|text| text.parse().ok());
        Some(number.map(Delimited::Length))
    } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
        Some(value.eq_ignore_ascii_case(b"chunked").then_some(Delimited::Chunks))
    } else {
        None
    }
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|&byte| byte == b';').next()?.trim_ascii();
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes out if `bytes` come in pieces of `piece` bytes.
    fn escaped(bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut lines = RequestLines::default();
        let pieces = bytes.chunks(piece);
        pieces.flat_map(|piece| lines.escape(piece).unwrap_or_else(|| piece.to_vec())).collect()
    }

    #[test]
    fn only_request_lines_change() {
        let requests = concat!(
            "GET /a?b=c#d HTTP/1.1\r\nHost: #\r\n\r\n",
            "\r\nPOST /p?x=#&y=## HTTP/1.1\r\ncontent-LENGTH:  5 \r\nX: #\r\n\r\n#\n\r\n#",
            "POST /q# HTTP/1.1\nTransfer-Encoding: Chunked\nContent-Length: 7\n\n3;#\r\n#\n#\r\n1\r\n\n\r\n0\r\n#: #\r\n\r\n",
            "GET /z# HTTP/1.1\r\n\r\n",
        );
        let expected = requests.replace("c#d", "c%23d").replace("x=#&y=## ", "x=%23&y=%23%23 ");
        let expected = expected.replace("/q#", "/q%23").replace("/z#", "/z%23");
        for piece in 1..requests.len() {
            assert_eq!(String::from_utf8(escaped(requests.as_bytes(), piece)).unwrap(), expected);
        }
        assert_eq!(RequestLines::default().escape(b"GET / HTTP/1.1\r\nX: #\r\n\r\n"), None);
    }

    #[test]
    fn behind_what_is_refused_nothing_changes() {
        for header in
            ["Content-Length: +1", "Content-Length:", "Content-Length: 1, 1", "Transfer-Encoding: gzip"]
        {
            let requests = format!("POST / HTTP/1.1\r\n{header}\r\n\r\nGET /#\r\n\r\n");
            assert_eq!(RequestLines::default().escape(requests.as_bytes()), None, "{header}");
        }
        let long = format!("POST / HTTP/1.1\r\nContent-Length: {}1\r\n\r\n#\r\n", "0".repeat(100));
        assert_eq!(RequestLines::default().escape(long.as_bytes()), None);
    }

    #[derive(Debug, Clone)]
    struct Sent {
        target: String,
        body: Vec<u8>,
        /// None: with its length.
        chunk: Option<usize>,
    }

    fn sent() -> impl Strategy<Value = Sent> {
        let body =
            prop::collection::vec(prop_oneof![Just(b'#'), Just(b'\n'), Just(b'\r'), any::<u8>()], 0..40);
        ("[a#?=&/]{1,20}", body, prop::option::of(1usize..10)).prop_map(|(target, body, chunk)| Sent {
            target,
            body,
            chunk,
        })
    }

    impl Sent {
        fn bytes(&self, target: &str) -> Vec<u8> {
            let head = format!("POST /{target} HTTP/1.1\r\nX-Hash: #\r\n");
            let mut bytes = head.into_bytes();
            match self.chunk {
                None => {
                    bytes.extend(format!("Content-Length: {}\r\n\r\n", self.body.len()).bytes());
                    bytes.extend(&self.body);
                }
                Some(size) => {
                    bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                    for chunk in self.body.chunks(size) {
                        bytes.extend(format!("{:X}\r\n", chunk.len()).bytes());
                        bytes.extend(chunk);
                        bytes.extend(b"\r\n");
                    }
                    bytes.extend(b"0\r\n\r\n");
                }
            }
            bytes
        }
    }

    proptest! {
        #[test]
        fn bodies_and_headers_stay_as_they_are(requests in prop::collection::vec(sent(), 1..5), piece in 1usize..60) {
            let before: Vec<u8> = requests.iter().flat_map(|one| one.bytes(&one.target)).collect();
            let after: Vec<u8> = requests.iter().flat_map(|one| one.bytes(&one.target.replace('#', "%23"))).collect();
            prop_assert_eq!(escaped(&before, piece), after);
        }

        #[test]
        fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), piece in 1usize..60) {
            escaped(&bytes, piece);
        }
    }
}
