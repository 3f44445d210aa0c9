//! Exports messages as a data directory for NSQ's nsqd: `nsqd.dat`, and a disk queue for each topic and channel.
//!
//! NSQ stores neither due times nor sequence numbers, and has no headers. So deferred messages are due at once, and
//! headers are left out; message ids stay.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nsq_protocol::MESSAGE_HEADER_BYTES;
use nsqd::import::diskqueue;
use nsqd::import::queues::METADATA_FILE;
use serde::Serialize;

use super::sink::{Exported, Files, QueueName, Sink};
use crate::exit_status::Failure;

/// NSQ's own default for --max-bytes-per-file. Only a file with a single message may be longer.
const MAX_FILE_BYTES: u64 = 100 * 1024 * 1024;
/// NSQ reads this field but does not use it.
const VERSION: &str = "1.3.0";

/// Writes NSQ's files.
pub(super) struct NsqFormat {
    dir: PathBuf,
    files: Files,
    max_file_bytes: u64,
    queues: BTreeMap<String, Written>,
    /// Topics and their channels, each with its paused flag.
    topics: BTreeMap<String, (bool, BTreeMap<String, bool>)>,
}

/// The end of a queue.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Written {
    depth: u64,
    file: u64,
    offset: u64,
}

#[derive(Serialize)]
struct Metadata<'a> {
    topics: Vec<Topic<'a>>,
    version: &'a str,
}

#[derive(Serialize)]
struct Topic<'a> {
    name: &'a str,
    paused: bool,
    channels: Vec<Channel<'a>>,
}

#[derive(Serialize)]
struct Channel<'a> {
    name: &'a str,
    paused: bool,
}

impl NsqFormat {
    /// Writes to an existing directory.
    pub(super) fn new(dir: &Path) -> Self {
        NsqFormat {
            dir: dir.to_owned(),
            files: Files::default(),
            max_file_bytes: MAX_FILE_BYTES,
            queues: BTreeMap::new(),
            topics: BTreeMap::new(),
        }
    }

    fn metadata(&self) -> Result<Vec<u8>, Failure> {
        let topics = self.topics.iter().map(|(name, (paused, channels))| Topic {
            name,
            paused: *paused,
            channels: channels.iter().map(|(name, &paused)| Channel { name, paused }).collect(),
        });
        let metadata = Metadata { topics: topics.collect(), version: VERSION };
        serde_json::to_vec(&metadata).map_err(Failure::failed)
    }
}

impl Sink for NsqFormat {
    fn queue(&mut self, name: &QueueName<'_>, is_paused: bool) -> Result<(), Failure> {
        let (paused, channels) = self.topics.entry(name.topic.to_owned()).or_default();
        match name.channel {
            Some(channel) => _ = channels.insert(channel.to_owned(), is_paused),
            None => *paused = is_paused,
        }
        Ok(())
    }

    fn message(&mut self, queue: &QueueName<'_>, message: &Exported<'_>) -> Result<(), Failure> {
        let label = match queue.channel {
            Some(channel) => format!("{}:{channel}", queue.topic),
            None => queue.topic.to_owned(),
        };
        let payload_bytes = MESSAGE_HEADER_BYTES + message.body.len();
        let size = i32::try_from(payload_bytes)
            .map_err(|_| Failure::failed(format_args!("message {} is too large for NSQ", message.id)))?;
        let mut header = Vec::with_capacity(4 + MESSAGE_HEADER_BYTES);
        header.extend(size.to_be_bytes());
        header.extend(message.timestamp_ns.to_be_bytes());
        header.extend(message.attempts.to_be_bytes());
        header.extend(message.id.as_bytes());
        let record_bytes = 4 + payload_bytes as u64;
        let written = self.queues.entry(label.clone()).or_default();
        if written.offset > 0 && written.offset + record_bytes > self.max_file_bytes {
            (written.file, written.offset) = (written.file + 1, 0);
        }
        let path = self.dir.join(diskqueue::data_file_name(&label, written.file));
        written.offset += record_bytes;
        written.depth += 1;
        self.files.append(&path, &[&header, message.body])
    }

    fn finish(&mut self) -> Result<(), Failure> {
        for (label, Written { depth, file, offset }) in &self.queues {
            let text = format!("{depth}\n0,0\n{file},{offset}\n");
            let path = self.dir.join(diskqueue::position_file_name(label));
            self.files.append(&path, &[text.as_bytes()])?;
        }
        let metadata = self.metadata()?;
        self.files.append(&self.dir.join(METADATA_FILE), &[&metadata])?;
        self.files.flush()
    }
}

#[cfg(test)]
mod tests {
    use nsq_protocol::MessageId;

    use super::*;

    #[test]
    fn files_have_the_format_of_nsq() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = NsqFormat::new(dir.path());
        sink.max_file_bytes = 80;
        let topic = QueueName { topic: "tt", channel: None };
        let channel = QueueName { topic: "tt", channel: Some("ch") };
        sink.queue(&topic, false).unwrap();
        sink.queue(&channel, true).unwrap();
        sink.queue(&QueueName { topic: "empty", channel: None }, true).unwrap();
        // The example from the format's description.
        let message = Exported {
            id: MessageId(*b"118a15d82a001000"),
            timestamp_ns: 0x18e9_be3e_4d8d_f93f,
            attempts: 0,
            deferred_until_ns: Some(1),
            headers: None,
            body: b"hello",
        };
        for attempts in 0..3 {
            sink.message(&channel, &Exported { attempts, ..message }).unwrap();
        }
        sink.finish().unwrap();

        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        let first = read("tt:ch.diskqueue.000000.dat");
        let expected = b"\x00\x00\x00\x1f\x18\xe9\xbe\x3e\x4d\x8d\xf9\x3f\x00\x00118a15d82a001000hello";
        assert_eq!((&first[..35], first.len()), (&expected[..], 70));
        assert_eq!(read("tt:ch.diskqueue.000001.dat")[12..14], [0, 2]);
        assert_eq!(read("tt:ch.diskqueue.meta.dat"), b"3\n0,0\n1,35\n");
        assert_eq!(
            String::from_utf8(read("nsqd.dat")).unwrap(),
            r#"{"topics":[{"name":"empty","paused":true,"channels":[]},{"name":"tt","paused":false,"channels":[{"name":"ch","paused":true}]}],"version":"1.3.0"}"#
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
    }
}
