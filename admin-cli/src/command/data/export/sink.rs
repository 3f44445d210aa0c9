//! Where exported messages go.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nsq_protocol::MessageId;

use crate::exit_status::Failure;

/// The queue of a topic or of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueName<'a> {
    /// The topic.
    pub(super) topic: &'a str,
    /// The channel; none for what no channel has yet.
    pub(super) channel: Option<&'a str>,
}

/// A message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exported<'a> {
    /// Its id.
    pub(super) id: MessageId,
    /// When it was published.
    pub(super) timestamp_ns: i64,
    /// Deliveries so far.
    pub(super) attempts: u16,
    /// It is held back until then.
    pub(super) deferred_until_ns: Option<i64>,
    /// The publisher's bytes.
    pub(super) body: &'a [u8],
}

/// Takes messages, in any order of queues.
pub(super) trait Sink {
    /// There is a queue; it may be empty. Told before its messages.
    fn queue(&mut self, name: &QueueName<'_>, is_paused: bool) -> Result<(), Failure>;
    /// A message of a queue.
    fn message(&mut self, queue: &QueueName<'_>, message: &Exported<'_>) -> Result<(), Failure>;
    /// No more messages come; all of it is on stable storage.
    fn finish(&mut self) -> Result<(), Failure>;
}

/// Files that are appended to, of which only some are open.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// The most recently used last.
    open: Vec<(PathBuf, BufWriter<File>)>,
}

const MAX_OPEN: usize = 64;
const BUFFER_BYTES: usize = 256 * 1024;
/// Whoever may not read the data directory may not read this either.
const FILE_MODE: u32 = 0o600;

impl Files {
    /// Appends to a file, which is made if it is not there.
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

    /// Everything is handed to the system.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        for (path, mut file) in self.open.drain(..) {
            file.flush().map_err(|error| not_written(&path, error))?;
        }
        Ok(())
    }
}

/// Why a file is not complete.
pub(super) fn not_written(path: &Path, error: std::io::Error) -> Failure {
    Failure::failed(format_args!("cannot write {}: {error}", path.display()))
}
