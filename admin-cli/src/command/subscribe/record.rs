//! A message as a line: its body, or an object of JSON. Pure.

use nsq::Delivery;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::names::Object;

/// How messages are printed.
#[derive(Debug, Clone, Copy)]
pub struct Style<'a> {
    /// Where they come from.
    pub object: &'a Object,
    /// As JSON.
    pub json: bool,
    /// Without what could play tricks with a terminal.
    pub escape: bool,
}

#[derive(Serialize)]
struct Record<'a> {
    topic_name: &'a str,
    channel_name: &'a str,
    node: &'a str,
    id: String,
    timestamp: String,
    attempts: u16,
    #[serde(flatten)]
    body: Body<'a>,
}

/// Text if it is text.
#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Text { body: &'a str },
    Bytes { body_base64: String },
}

impl Style<'_> {
    /// The line, with its end.
    pub fn line(&self, message: &Delivery) -> Vec<u8> {
        let mut line = match (self.json, self.escape) {
            (true, _) => self.json(message),
            (false, true) => printable(message.body()).into_bytes(),
            (false, false) => message.body().to_vec(),
        };
        line.push(b'\n');
        line
    }

    fn json(&self, message: &Delivery) -> Vec<u8> {
        let record = Record {
            topic_name: &self.object.topic,
            channel_name: self.object.channel.as_deref().unwrap_or_default(),
            node: message.node(),
            id: message.id().to_string(),
            timestamp: rfc3339(message.timestamp_ns()),
            attempts: message.attempts(),
            body: match std::str::from_utf8(message.body()) {
                Ok(body) => Body::Text { body },
                Err(_) => Body::Bytes { body_base64: base64(message.body()) },
            },
        };
        // Nothing in it can fail.
        serde_json::to_vec(&record).unwrap_or_default()
    }
}

/// Nanoseconds since 1970 as RFC 3339, in UTC.
fn rfc3339(timestamp_ns: i64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(timestamp_ns.into());
    moment.ok().and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_else(|| timestamp_ns.to_string())
}

/// Control characters escaped, but for tab and line feed; bytes that are no text as `\xNN`.
fn printable(body: &[u8]) -> String {
    let mut text = String::with_capacity(body.len());
    for chunk in body.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\t' | '\n' => text.push(c),
                c if c.is_control() => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text += &format!("\\x{byte:02x}");
        }
    }
    text
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) as usize & 63;
            text.push(if digit <= group.len() { char::from(DIGITS[index]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_its_rfc() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ];
        for (text, encoded) in cases {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn a_terminal_is_not_tricked() {
        assert_eq!(printable(b"a\tb\nc\x1b[2J\xff\xc3\xa4"), "a\tb\nc\\u{1b}[2J\\xffä");
    }

    #[test]
    fn moments() {
        assert_eq!(rfc3339(1_795_000_000_123_456_789), "2026-11-18T11:06:40.123456789Z");
        assert_eq!(rfc3339(i64::MAX), "2262-04-11T23:47:16.854775807Z");
    }
}
