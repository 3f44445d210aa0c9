//! A message as a line: its body, or an object of JSON. Pure.

use nsq::Delivery;
use serde::Serialize;

use crate::body::{Body, rfc3339};
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
            body: (&**message.body()).into(),
        };
        // Nothing in it can fail.
        serde_json::to_vec(&record).unwrap_or_default()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_tricked() {
        assert_eq!(printable(b"a\tb\nc\x1b[2J\xff\xc3\xa4"), "a\tb\nc\\u{1b}[2J\\xffä");
    }
}
