//! Destinations of exported messages.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nsq_protocol::MessageId;
use nsq_protocol::headers::Headers;

use crate::exit_status::Failure;

/// The queue of a topic or of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueName<'a> {
    pub(super) topic: &'a str,
    /// `None` for messages that no channel has yet.
    pub(super) channel: Option<&'a str>,
}

/// A message to export.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exported<'a> {
    pub(super) id: MessageId,
    /// When the message was published.
    pub(super) timestamp_ns: i64,
    /// Deliveries so far.
    pub(super) attempts: u16,
    /// Due time of a deferred message.
    pub(super) deferred_until_ns: Option<i64>,
    pub(super) headers: Option<Headers<'a>>,
    /// The publisher's bytes.
    pub(super) body: &'a [u8],
}

/// Writes exported messages. Messages of different queues may come in any order.
pub(super) trait Sink {
    /// Announces a queue, which may be empty. Called before the queue's messages.
    fn queue(&mut self, name: &QueueName<'_>, is_paused: bool) -> Result<(), Failure>;
    /// Writes a message of a queue.
    fn message(&mut self, queue: &QueueName<'_>, message: &Exported<'_>) -> Result<(), Failure>;
    /// Ends the export. Passes all buffered output to the operating system.
    fn finish(&mut self) -> Result<(), Failure>;
}

/// Files to append to. At most `MAX_OPEN` of them are open at a time.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// The open files; the most recently used is last.
    open: Vec<(PathBuf, BufWriter<File>)>,
}

const MAX_OPEN: usize = 64;
const BUFFER_BYTES: usize = 256 * 1024;
/// Users who cannot read the data directory must not be able to read the export.
const FILE_MODE: u32 = 0o600;

impl Files {
    /// Appends to a file. Creates the file if it does not exist.
    pub(super) fn append(&mut self, path: &Path, parts: &[&[u8]]) -> Result<(), Failure> {
        let file = match self.open.iter().rposition(|(open, _)| open == path) {
            Some(at) if at + 1 == self.open.len() => self.open.last_mut(),
            Some(at) => {
                let found = self.open.remove(at);
                self.open.push(found);
                self.open.last_mut()
            }
            None => {
                if self.open.len() >= MAX_OPEN {
                    let (path, mut file) = self.open.remove(0);
                    file.flush().map_err(|error| not_written(&path, error))?;
                }
                let opened = OpenOptions::new().create(true).append(true).mode(FILE_MODE).open(path);
                let file = opened.map_err(|error| not_written(path, error))?;
                self.open.push((path.to_owned(), BufWriter::with_capacity(BUFFER_BYTES, file)));
                self.open.last_mut()
            }
        };
        let Some((_, file)) = file else { return Ok(()) };
        parts.iter().try_for_each(|part| file.write_all(part)).map_err(|error| not_written(path, error))
    }

    /// Passes all buffered output to the operating system, and closes the files.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        for (path, mut file) in self.open.drain(..) {
            file.flush().map_err(|error| not_written(&path, error))?;
        }
        Ok(())
    }
}

/// The failure for a file that cannot be written.
pub(super) fn not_written(path: &Path, error: std::io::Error) -> Failure {
    Failure::failed(format_args!("cannot write {}: {error}", path.display()))
}
