//! Formats a message as a line: its body, or a JSON object. Pure.

use nsq::{Delivery, Headers};
use nsq_protocol::is_printable;
use serde::Serialize;

use crate::body::{Body, rfc3339};
use crate::names::Object;

/// How messages are printed.
#[derive(Debug, Clone, Copy)]
pub struct Style<'a> {
    /// The channel of the messages.
    pub object: &'a Object,
    /// Whether to print JSON.
    pub json: bool,
    /// Whether to escape characters that could control a terminal.
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
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Headers<'a>>,
    #[serde(flatten)]
    body: Body<'a>,
}

impl Style<'_> {
    /// The line, with its line feed.
    pub fn line(&self, message: &Delivery) -> Vec<u8> {
        let mut line = match (self.json, self.escape) {
            (true, _) => self.json(message),
            (false, true) => fit_for_terminal(message.body()).into_bytes(),
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
            headers: message.headers(),
            body: (&**message.body()).into(),
        };
        // Serializing these types cannot fail.
        serde_json::to_vec(&record).unwrap_or_default()
    }
}

/// Escapes characters that could control a terminal, except tab and line feed. Bytes that are not UTF-8 become
/// `\xNN`.
fn fit_for_terminal(body: &[u8]) -> String {
    let mut text = String::with_capacity(body.len());
    for chunk in body.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\t' | '\n' => text.push(c),
                c if is_printable(c) => text.push(c),
                c => text.extend(c.escape_default()),
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
    fn terminal_control_characters_are_escaped() {
        assert_eq!(fit_for_terminal(b"a\tb\nc\x1b[2J\xff\xc3\xa4"), "a\tb\nc\\u{1b}[2J\\xffä");
    }
}
