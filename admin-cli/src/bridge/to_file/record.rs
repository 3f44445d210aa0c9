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
    pub fn push(&mut self, format: RecordFormat, topic: &str, message: &Delivery) {
        let body = &**message.body();
        match format {
            RecordFormat::Line => self.bytes.extend_from_slice(body),
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
