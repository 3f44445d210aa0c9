//! How a message is written to a file. Pure.

use std::fmt;
use std::str::FromStr;

use nsq::Delivery;
use serde::Serialize;

use crate::body::{Body, rfc3339};

/// The form of a message in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecordFormat {
    /// The body and a line feed. Line feeds inside the body stay.
    #[default]
    Line,
    /// A JSON object per line.
    Json,
    /// The body after its length, as four bytes in big-endian order.
    Length,
}

impl FromStr for RecordFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "line" => Ok(RecordFormat::Line),
            "json" => Ok(RecordFormat::Json),
            "length" => Ok(RecordFormat::Length),
            _ => Err("expected line, json or length".to_owned()),
        }
    }
}

impl fmt::Display for RecordFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RecordFormat::Line => "line",
            RecordFormat::Json => "json",
            RecordFormat::Length => "length",
        })
    }
}

/// What happens to line feeds inside of bodies, with [`RecordFormat::Line`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum OnNewline {
    /// They stay, and one message takes several lines.
    #[default]
    Keep,
    /// Backslash and n stand for a line feed, two backslashes for a backslash.
    Escape,
    /// JSON is written on one line; another body becomes a JSON string, or {"body_base64": "…"} if it is not UTF-8.
    Json,
}

impl OnNewline {
    /// Appends a body, without a line feed unless they are kept.
    fn push(self, bytes: &mut Vec<u8>, body: &[u8]) {
        match self {
            OnNewline::Keep => bytes.extend_from_slice(body),
            OnNewline::Escape => {
                for &byte in body {
                    match byte {
                        b'\n' => bytes.extend_from_slice(br"\n"),
                        b'\\' => bytes.extend_from_slice(br"\\"),
                        _ => bytes.push(byte),
                    }
                }
            }
            // In JSON, line feeds are only between values.
            OnNewline::Json if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() => {
                bytes.extend(body.iter().map(|&byte| if byte == b'\n' { b' ' } else { byte }));
            }
            OnNewline::Json => {
                // Serializing these types cannot fail.
                let json = match Body::from(body) {
                    Body::Text { body } => serde_json::to_vec(body),
                    base64 => serde_json::to_vec(&base64),
                };
                bytes.extend(json.unwrap_or_default());
            }
        }
    }
}

/// How messages become records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordStyle {
    pub format: RecordFormat,
    pub on_newline: OnNewline,
}

/// Records, one after the other.
#[derive(Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    /// Where each record ends.
    ends: Vec<usize>,
}

#[derive(Serialize)]
struct JsonRecord<'a> {
    topic_name: &'a str,
    id: String,
    timestamp: String,
    attempts: u16,
    node: &'a str,
    #[serde(flatten)]
    body: Body<'a>,
}

impl Records {
    /// Appends a message of a topic.
    pub fn push(&mut self, style: RecordStyle, topic: &str, message: &Delivery) {
        let RecordStyle { format, on_newline } = style;
        let body = &**message.body();
        match format {
            RecordFormat::Line => on_newline.push(&mut self.bytes, body),
            RecordFormat::Json => {
                let record = JsonRecord {
                    topic_name: topic,
                    id: message.id().to_string(),
                    timestamp: rfc3339(message.timestamp_ns()),
                    attempts: message.attempts(),
                    node: message.node(),
                    body: body.into(),
                };
                // Serializing these types cannot fail.
                self.bytes.extend(serde_json::to_vec(&record).unwrap_or_default());
            }
            RecordFormat::Length => {
                // nsqd's messages are smaller than 2 GiB.
                self.bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
                self.bytes.extend_from_slice(body);
            }
        }
        if format != RecordFormat::Length {
            self.bytes.push(b'\n');
        }
        self.ends.push(self.bytes.len());
    }

    /// The records, each with its line end or length.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| &self.bytes[std::mem::replace(&mut start, end)..end])
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Adds a record as it is.
    #[cfg(test)]
    pub fn push_raw(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.ends.push(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_feeds_are_kept_escaped_or_made_json() {
        let written = |on_newline: OnNewline, body: &[u8]| {
            let mut bytes = Vec::new();
            on_newline.push(&mut bytes, body);
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let text = b"a\nb\\n";
        assert_eq!(written(OnNewline::Keep, text), "a\nb\\n");
        assert_eq!(written(OnNewline::Escape, text), r"a\nb\\n");
        assert_eq!(written(OnNewline::Json, text), r#""a\nb\\n""#);
        assert_eq!(written(OnNewline::Json, b"{\"a\":\n 1.0}\n"), r#"{"a":  1.0} "#);
        assert_eq!(written(OnNewline::Json, b"\xff\n"), r#"{"body_base64":"/wo="}"#);
    }
}
