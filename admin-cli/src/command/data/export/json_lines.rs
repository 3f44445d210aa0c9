//! Exports messages as JSON lines, with the field names of `nsq sub --json`.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use nsq_protocol::headers::Headers;
use serde::Serialize;

use super::sink::{Exported, Files, QueueName, Sink};
use crate::body::{Body, rfc3339};
use crate::exit_status::Failure;

#[derive(Serialize)]
struct Line<'a> {
    topic_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel_name: Option<&'a str>,
    id: String,
    timestamp: String,
    attempts: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    deferred_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Headers<'a>>,
    #[serde(flatten)]
    body: Body<'a>,
}

/// Writes JSON lines.
pub(super) struct JsonLines {
    to: To,
    line: Vec<u8>,
}

enum To {
    Stdout(BufWriter<io::Stdout>),
    /// One file per topic.
    Directory(PathBuf, Files),
}

impl JsonLines {
    /// Writes all lines to stdout.
    pub(super) fn to_stdout() -> Self {
        JsonLines { to: To::Stdout(BufWriter::new(io::stdout())), line: Vec::new() }
    }

    /// Writes one file per topic to a directory.
    pub(super) fn to_directory(dir: &Path) -> Self {
        JsonLines { to: To::Directory(dir.to_owned(), Files::default()), line: Vec::new() }
    }
}

impl Sink for JsonLines {
    fn queue(&mut self, name: &QueueName<'_>, _is_paused: bool) -> Result<(), Failure> {
        match &mut self.to {
            To::Stdout(_) => Ok(()),
            // A topic without messages gets an empty file, so that it is not missing.
            To::Directory(dir, files) => files.append(&topic_file(dir, name.topic), &[]),
        }
    }

    fn message(&mut self, queue: &QueueName<'_>, message: &Exported<'_>) -> Result<(), Failure> {
        let line = Line {
            topic_name: queue.topic,
            channel_name: queue.channel,
            id: message.id.to_string(),
            timestamp: rfc3339(message.timestamp_ns),
            attempts: message.attempts,
            deferred_until: message.deferred_until_ns.map(rfc3339),
            headers: message.headers,
            body: message.body.into(),
        };
        self.line.clear();
        serde_json::to_writer(&mut self.line, &line).map_err(Failure::failed)?;
        self.line.push(b'\n');
        match &mut self.to {
            To::Stdout(stdout) => stdout.write_all(&self.line).map_err(stdout_failed),
            To::Directory(dir, files) => files.append(&topic_file(dir, queue.topic), &[&self.line]),
        }
    }

    fn finish(&mut self) -> Result<(), Failure> {
        match &mut self.to {
            To::Stdout(stdout) => stdout.flush().map_err(stdout_failed),
            To::Directory(_, files) => files.flush(),
        }
    }
}

/// With the extension, no topic name becomes `.` or `..`.
fn topic_file(dir: &Path, topic: &str) -> PathBuf {
    dir.join(format!("{topic}.jsonl"))
}

/// A reader may close our stdout early; this is not a failure.
fn stdout_failed(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::silent(),
        _ => Failure::failed(format_args!("cannot write to stdout: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use nsq_protocol::MessageId;

    use super::*;

    #[test]
    fn lines_contain_all_known_fields() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = JsonLines::to_directory(dir.path());
        let channel = QueueName { topic: "..", channel: Some("c") };
        let held = QueueName { topic: "..", channel: None };
        let message = Exported {
            id: MessageId::from_u64(0x1f),
            timestamp_ns: 1_795_000_000_123_456_789,
            attempts: 2,
            deferred_until_ns: None,
            headers: Some(Headers::trusted(br#"{"trace":"x", "a":"\u0062"}"#)),
            body: b"a\n\"",
        };
        sink.queue(&channel, false).unwrap();
        sink.queue(&QueueName { topic: "empty", channel: None }, false).unwrap();
        sink.message(&channel, &message).unwrap();
        let deferred = Exported {
            deferred_until_ns: Some(1_795_000_001_000_000_000),
            headers: None,
            body: b"\xff",
            ..message
        };
        sink.message(&held, &deferred).unwrap();
        sink.finish().unwrap();
        let text = std::fs::read_to_string(dir.path().join("...jsonl")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                r#"{"topic_name":"..","channel_name":"c","id":"000000000000001f","timestamp":"2026-11-18T11:06:40.123456789Z","attempts":2,"headers":{"trace":"x","a":"b"},"body":"a\n\""}"#,
                r#"{"topic_name":"..","id":"000000000000001f","timestamp":"2026-11-18T11:06:40.123456789Z","attempts":2,"deferred_until":"2026-11-18T11:06:41Z","body_base64":"/w=="}"#,
            ]
        );
        assert_eq!(std::fs::read(dir.path().join("empty.jsonl")).unwrap(), b"");
    }
}
