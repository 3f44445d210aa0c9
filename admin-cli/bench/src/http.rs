//! The part of HTTP that publishing needs: encodes requests, and counts answers.

use nsq_protocol::TopicName;

/// Maximum size of an answer's head.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Appends a POST request.
pub fn put_post(out: &mut Vec<u8>, host: &str, target: &str, body: &[u8]) {
    let length = body.len();
    let head = format!("POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n");
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body);
}

/// A path with a topic in its query.
pub fn topic_target(path: &str, topic: &TopicName) -> String {
    format!("{path}?topic={}", escaped(topic.as_str()))
}

/// `#` is the only character of a name with a meaning in a URL.
fn escaped(name: &str) -> String {
    name.replace('#', "%23")
}

/// The result of [`scan`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Number of complete answers, each with status 200.
    pub answers: u64,
    /// Length of these answers.
    pub bytes: usize,
}

/// Why a stream of answers cannot be read any further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Status and body of an answer with another status.
    #[error("HTTP {0}")]
    Refused(String),
    /// The bytes are not an answer that this client can read.
    #[error("its answer is not HTTP/1.1 with a Content-Length")]
    OutOfStep,
}

/// Counts the complete answers at the start of `buf`.
pub fn scan(buf: &[u8]) -> Result<Answers, Fault> {
    let mut found = Answers::default();
    while let Some(Answer { head, body }) = answer(&buf[found.bytes..])? {
        // "HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found"
        if head.get(8..13) != Some(b" 200 ") {
            let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
            let line = line.get(9..).unwrap_or_default();
            let text = [line, b": ", body].concat();
            return Err(Fault::Refused(String::from_utf8_lossy(&text).into_owned()));
        }
        found.answers += 1;
        found.bytes += head.len() + body.len();
    }
    Ok(found)
}

struct Answer<'a> {
    /// Up to the end of the empty line.
    head: &'a [u8],
    body: &'a [u8],
}

/// The first answer; `None` if it is incomplete.
fn answer(buf: &[u8]) -> Result<Option<Answer<'_>>, Fault> {
    if !buf.starts_with(&b"HTTP/1."[..buf.len().min(7)]) {
        return Err(Fault::OutOfStep);
    }
    let Some(head_end) = find(buf, b"\r\n\r\n") else {
        return if buf.len() > MAX_HEAD_BYTES { Err(Fault::OutOfStep) } else { Ok(None) };
    };
    let (head, rest) = buf.split_at(head_end + 4);
    let length = content_length(head).ok_or(Fault::OutOfStep)?;
    Ok(rest.get(..length).map(|body| Answer { head, body }))
}

fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let mut lines = head.split(|byte| *byte == b'\n');
    let line =
        lines.find(|line| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)))?;
    std::str::from_utf8(&line[NAME.len()..]).ok()?.trim().parse().ok()
}

fn find(haystack: &[u8], needle: &[u8; 4]) -> Option<usize> {
    haystack.windows(4).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\ncontent-length: 2\r\n\r\nOK";

    #[test]
    fn answers_are_counted_at_any_split() {
        let stream = [OK, OK, b"HTTP/1.1 200 OK\r\nContent-Length:0\r\n\r\n"].concat();
        for end in 0..=stream.len() {
            let found = scan(&stream[..end]).unwrap();
            let expected = if end == stream.len() { 3 } else { end / OK.len() };
            assert_eq!(found.answers, expected as u64, "of {end} bytes");
        }
        assert_eq!(scan(&stream).unwrap().bytes, stream.len());
    }

    #[test]
    fn refusal_contains_status_and_body() {
        let refused = b"HTTP/1.1 413 Request Entity Too Large\r\nContent-Length: 27\r\n\r\n{\"message\":\"MSG_TOO_BIG\"}\r\n";
        let fault = scan(refused).unwrap_err();
        assert_eq!(fault.to_string(), "HTTP 413 Request Entity Too Large: {\"message\":\"MSG_TOO_BIG\"}\r\n");
    }

    #[test]
    fn invalid_http_ends_the_scan() {
        for bytes in
            [&b"\0\0\0\x12"[..], b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]
        {
            assert_eq!(scan(bytes), Err(Fault::OutOfStep), "{bytes:?}");
        }
    }

    #[test]
    fn request_is_encoded_as_http() {
        let topic = TopicName::new("t#ephemeral").unwrap();
        let mut out = Vec::new();
        put_post(&mut out, "127.0.0.1:4151", &topic_target("/pub", &topic), b"body");
        let text =
            "POST /pub?topic=t%23ephemeral HTTP/1.1\r\nHost: 127.0.0.1:4151\r\nContent-Length: 4\r\n\r\nbody";
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }
}
