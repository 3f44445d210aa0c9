//! Copies messages: reads records from NSQ's files in any order, and writes them to a topic's segments in sequence.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use nsq_protocol::{MESSAGE_FRAME_OVERHEAD, MessageId, put_message_frame};

use crate::engine::EngineLimits;
use crate::import::diskqueue::{self, RecordHeader, Window};
use crate::storage::SEQUENCE_BITS;
use crate::storage::segment::SegmentStore;
use crate::storage::{Storage, StorageFile};

/// Maximum number of file parts in memory, and thus of open files.
const MAX_WINDOWS: usize = 128;
/// Number of blocks between two syncs, which also close the files.
const SYNC_EVERY: u32 = 1024;

/// A data file with messages. All files of a topic are concatenated, so that one number gives the place of a record.
pub(super) struct SourceFile {
    /// Start of this file in that order.
    pub(super) base: u64,
    pub(super) bytes: u64,
    /// The queue: a channel's index, or the number of channels for the topic itself.
    pub(super) queue: usize,
    pub(super) path: PathBuf,
}

/// Appends messages to a topic's segments.
pub(super) struct LogWriter {
    segments: SegmentStore,
    chunk_bytes: usize,
    id_base: u64,
    /// Frames of the current block.
    frames: Vec<u8>,
    block_start: u64,
    pub(super) next_sequence: u64,
    pub(super) body_bytes: u64,
    /// Blocks since the last sync.
    blocks: u32,
}

impl LogWriter {
    /// Sequence numbers start at `first_sequence`. Ids contain the node id.
    pub(super) fn new(segments: SegmentStore, limits: &EngineLimits, first_sequence: u64) -> Self {
        LogWriter {
            segments,
            chunk_bytes: limits.chunk_bytes,
            id_base: u64::from(limits.node_id) << SEQUENCE_BITS,
            frames: Vec::new(),
            block_start: first_sequence,
            next_sequence: first_sequence,
            body_bytes: 0,
            blocks: 0,
        }
    }

    /// Appends a message. Returns its sequence number.
    pub(super) fn push(&mut self, timestamp_ns: i64, body: &[u8]) -> io::Result<u64> {
        if self.frames.len() + MESSAGE_FRAME_OVERHEAD + body.len() > self.chunk_bytes {
            self.write_block()?;
        }
        let sequence = self.next_sequence;
        let id = MessageId::from_u64(self.id_base | sequence);
        put_message_frame(&mut self.frames, timestamp_ns, 1, id, body);
        self.next_sequence += 1;
        self.body_bytes += body.len() as u64;
        Ok(sequence)
    }

    fn write_block(&mut self) -> io::Result<()> {
        let count = (self.next_sequence - self.block_start) as u32;
        if count > 0 {
            self.segments.append(self.block_start, count, &self.frames)?;
            self.block_start = self.next_sequence;
            self.frames.clear();
            self.blocks += 1;
        }
        if self.blocks >= SYNC_EVERY {
            self.blocks = 0;
            self.segments.sync()?;
            self.segments.close_idle();
        }
        Ok(())
    }

    /// Writes the last block and syncs everything.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.write_block()?;
        self.segments.sync()
    }
}

/// Reads messages in any order. Each queue is read roughly from start to end, some queues at several places at once.
pub(super) struct MessageReader<'a> {
    storage: &'a dyn Storage,
    sources: &'a [SourceFile],
    /// The most recently used file is last.
    open: Vec<OpenFile>,
}

struct OpenFile {
    source: usize,
    file: Arc<dyn StorageFile>,
    window: Window,
}

impl<'a> MessageReader<'a> {
    pub(super) fn new(storage: &'a dyn Storage, sources: &'a [SourceFile]) -> Self {
        MessageReader { storage, sources, open: Vec::new() }
    }

    /// Returns queue, header and body of the record at `place`.
    pub(super) fn read(&mut self, place: u64) -> io::Result<(usize, RecordHeader, &[u8])> {
        let source = self.sources.partition_point(|source| source.base <= place).saturating_sub(1);
        let SourceFile { base, bytes, queue, ref path } = self.sources[source];
        let at = place - base;
        let known = self.open.iter().rposition(|open| open.source == source && open.window.goes_on_at(at));
        let open = match known {
            Some(index) => self.open.remove(index),
            None => {
                let file = match self.open.iter().find(|open| open.source == source) {
                    Some(open) => open.file.clone(),
                    None => self.storage.open(path)?,
                };
                if self.open.len() >= MAX_WINDOWS {
                    self.open.remove(0);
                }
                OpenFile { source, file, window: Window::default() }
            }
        };
        self.open.push(open);
        let open = self.open.last_mut().ok_or(io::ErrorKind::NotFound)?;
        let record = diskqueue::read_record(&mut open.window, &*open.file, at, bytes)?;
        let changed = || io::Error::other(format!("{} changed during the takeover", path.display()));
        record.map(|(header, body)| (queue, header, body)).ok_or_else(changed)
    }
}
