//! Retains finished messages: closes pieces in time, deletes the oldest, and finds positions among retained messages.

use std::cell::Cell;
use std::io;
use std::sync::atomic::Ordering;

use super::TopicLog;
use super::chunk::Chunk;
use super::index::LogIndex;
use super::reader::CannotRead;
use super::retention::{Piece, PiecePlace, Retention};
use super::sizes::Amount;
use super::{Mark, Ranges};
use crate::clock::Nanos;
use crate::storage::segment::{BlockRef, LoadedBlock, ReadError, SegmentFileInfo, SegmentStore};
use crate::storage::{ChannelNumber, SequenceRange};

/// Retention state of a log, besides its [`RetainedMarks`](super::retention::RetainedMarks).
#[derive(Debug, Default)]
pub struct RetentionState {
    retention: Retention,
    /// The file being written and the time of its oldest message.
    writing: Option<(u64, i64)>,
    /// Number, end and newest timestamp of a file. Cached, because the oldest file is checked again and again.
    newest: Option<(u64, u64, i64)>,
    /// A message on disk and its timestamp: the oldest retained message, or an earlier one that was just deleted.
    oldest: Option<(u64, i64)>,
}

/// Retained messages, for statistics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retained {
    pub message_count: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// When the oldest was published. `None` if there is none, or if it is on disk and was not read yet.
    pub oldest_ns: Option<i64>,
    /// Sequence number of the oldest, or of the next message if there is none.
    pub oldest_sequence: u64,
}

/// What limits of retention would do with the messages retained now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetentionOutcome {
    pub retained_count: u64,
    /// Bytes of the blocks and chunks that hold them.
    pub retained_bytes: u64,
    /// The part that would be deleted at once.
    pub deleted_count: u64,
    pub deleted_bytes: u64,
}

impl TopicLog {
    /// Sets the limits. Finished messages from `from` on are retained, or from a later one if earlier ones were deleted
    /// already.
    pub fn set_retention(&self, retention: Retention, from: u64) {
        {
            let mut retention_state = self.retention_state.lock();
            retention_state.retention = retention;
            retention_state.oldest = retention_state.oldest.filter(|_| !retention.is_off());
        }
        let mut index = self.index.lock();
        let retained_marks = &mut index.retained_marks;
        retained_marks.retained_from = match retained_marks.retained_from {
            _ if retention.is_off() => u64::MAX,
            u64::MAX => from,
            known => from.max(known),
        };
        self.publish_retained(&index);
    }

    /// No message before this one is needed by a holder whose messages may be on disk.
    pub fn needed_from(&self) -> u64 {
        self.holders.floors().durable
    }

    fn publish_retained(&self, index: &LogIndex) {
        self.retained_from.store(index.retained_marks.retained_from, Ordering::Release);
        self.store_watermarks(index);
    }

    pub fn retention(&self) -> Retention {
        self.retention_state.lock().retention
    }

    /// The first retained message; `u64::MAX` if none is.
    pub fn retained_from(&self) -> u64 {
        self.retained_from.load(Ordering::Acquire)
    }

    /// Whether finished messages are retained.
    pub fn is_retaining(&self) -> bool {
        self.retained_from() != u64::MAX
    }

    /// Deletes messages beyond the limits, and seals a chunk that has been filled for long enough. Call periodically;
    /// reads and deletes files. Returns the bytes freed.
    pub fn retain(&self, now_ns: i64, now: Nanos) -> io::Result<u64> {
        if !self.is_retaining() {
            return Ok(0);
        }
        let retention = self.retention();
        let Some(mut segments) = self.segments.try_lock() else { return Ok(0) };
        if self.is_deleted() {
            return Ok(0);
        }
        let mut pieces = pieces_on_disk(&segments);
        let from = {
            let mut index = self.index.lock();
            index.seal_if(|oldest_ns, bytes| retention.closes(oldest_ns, bytes, now_ns, 0));
            pieces.extend(index.pieces_in_memory());
            index.retained_marks.forget_due(now);
            index.retained_marks.retained_from
        };
        let from = self.advance(&retention, from, now_ns, &pieces)?;
        {
            let mut index = self.index.lock();
            // Retention may have been turned off meanwhile.
            if index.retained_marks.retained_from != u64::MAX {
                index.retained_marks.retained_from = from.max(index.retained_marks.retained_from);
            }
            self.publish_retained(&index);
        }
        let freed = self.trim_all(&mut segments)?;
        self.read_oldest_timestamp()?;
        Ok(freed)
    }

    /// What these limits would delete at `now_ns` of the messages retained now. Changes nothing, and reads from disk.
    /// `None` if nothing is retained.
    pub fn test_retention(&self, retention: Retention, now_ns: i64) -> io::Result<Option<RetentionOutcome>> {
        if !self.is_retaining() {
            return Ok(None);
        }
        let mut pieces = pieces_on_disk(&self.segments.lock());
        let from = {
            let index = self.index.lock();
            pieces.extend(index.pieces_in_memory());
            index.retained_marks.retained_from
        };
        let retained_to = match retention.is_off() {
            true => u64::MAX,
            false => self.advance(&retention, from, now_ns, &pieces)?,
        };
        let retained_to = retained_to.min(self.needed_from());
        let index = self.index.lock();
        // Retention may have been turned off meanwhile.
        if index.retained_marks.retained_from == u64::MAX {
            return Ok(None);
        }
        let (retained, deleted) = (index.retained(), index.amount(from, retained_to));
        Ok(Some(RetentionOutcome {
            retained_count: retained.messages,
            retained_bytes: retained.bytes,
            deleted_count: deleted.messages,
            deleted_bytes: deleted.bytes,
        }))
    }

    fn advance(&self, retention: &Retention, from: u64, now_ns: i64, pieces: &[Piece]) -> io::Result<u64> {
        retention.advance(from, now_ns, pieces, |piece| match piece.place {
            PiecePlace::Memory(newest_ns) => Ok(Some(newest_ns)),
            PiecePlace::File(number) => self.newest_in(number, piece.end_sequence),
        })
    }

    /// Timestamp of the newest readable message in a segment file; `None` if none is readable.
    fn newest_in(&self, file_number: u64, end_sequence: u64) -> io::Result<Option<i64>> {
        if let Some((number, end, newest_ns)) = self.retention_state.lock().newest
            && (number, end) == (file_number, end_sequence)
        {
            return Ok(Some(newest_ns));
        }
        loop {
            let Some(block) = self.index.lock().blocks_of_file(file_number).pop() else { return Ok(None) };
            match block.read() {
                Ok(loaded) => {
                    let newest_ns = frame_timestamp(&loaded, block.count as usize - 1).unwrap_or(i64::MIN);
                    self.retention_state.lock().newest = Some((file_number, end_sequence, newest_ns));
                    return Ok(Some(newest_ns));
                }
                Err(ReadError::Io { error, .. }) => return Err(error),
                // A copy in another file may replace it.
                Err(error) => self.read_failed(&block, &error),
            }
        }
    }

    /// Reads the timestamp of the oldest retained message, if it is on disk.
    fn read_oldest_timestamp(&self) -> io::Result<()> {
        let (oldest, block) = {
            let index = self.index.lock();
            let oldest = index.oldest_retained();
            (oldest, index.block_of(oldest))
        };
        let known = self.retention_state.lock().oldest;
        if let Some(block) = block
            && known.is_none_or(|(sequence, _)| sequence != oldest)
        {
            let at = timestamp_in(&block, (oldest - block.first_sequence) as usize);
            self.retention_state.lock().oldest = at.map(|at| (oldest, at));
        }
        Ok(())
    }

    /// Call before a chunk is written: starts a new file if the current one has reached its share.
    pub(super) fn close_file_in_time(&self, segments: &mut SegmentStore, chunk: &Chunk) {
        let (Some(oldest), Some(newest)) = (chunk.oldest_timestamp(), chunk.newest_timestamp()) else {
            return;
        };
        let mut retention_state = self.retention_state.lock();
        retention_state.oldest.get_or_insert((chunk.first_sequence(), oldest));
        let written = segments.writing();
        let since = written
            .as_ref()
            .and_then(|file| retention_state.writing.filter(|(number, _)| *number == file.number));
        let begins = match (&written, since) {
            (Some(file), Some((_, since))) => {
                retention_state.retention.closes(since, file.bytes, newest, chunk.len_bytes() as u64)
            }
            // Either it followed a full file, or it was started before retention was on.
            (Some(_), None) => retention_state.writing.is_none(),
            (None, _) => true,
        };
        if begins {
            segments.close_file();
            retention_state.writing = Some((segments.next_number(), oldest));
        } else if let (Some(file), None) = (&written, since) {
            retention_state.writing = Some((file.number, oldest));
        }
    }

    /// Retained messages, for statistics. `None` without retention.
    pub fn retained(&self) -> Option<Retained> {
        let known = self.retention_state.lock().oldest;
        let index = self.index.lock();
        if index.retained_marks.retained_from == u64::MAX {
            return None;
        }
        let Amount { messages: message_count, bytes } = index.retained();
        let oldest = index.oldest_retained();
        // Old files are deleted shortly before the new oldest message is read. Until then, the time of an earlier one
        // is reported.
        let on_disk = known.filter(|(sequence, _)| *sequence <= oldest).map(|(_, at)| at);
        let oldest_ns = index.timestamp_in_memory(oldest).or(on_disk).filter(|_| message_count > 0);
        Some(Retained { message_count, bytes, oldest_ns, oldest_sequence: oldest })
    }

    /// The oldest retained message: channels cannot be moved further back. The end of the log if none is retained.
    pub fn oldest_retained(&self) -> u64 {
        self.index.lock().oldest_retained()
    }

    /// The marks of `from..to` for a channel that reaches them later than others: sequence numbers without messages,
    /// and messages that are not due yet.
    pub fn marks_between(&self, from: u64, to: u64, channel: Option<ChannelNumber>) -> Vec<Mark> {
        self.index.lock().marks_between(from, to, channel)
    }

    /// Like [`TopicLog::marks_between`], but at start, when missing messages may still be found in the journal.
    pub fn void_marks_between(&self, from: u64, to: u64, channel: Option<ChannelNumber>) -> Vec<Mark> {
        self.index.lock().void_marks_between(from, to, channel)
    }

    /// Messages that only one channel receives, for a checkpoint.
    pub fn targeted(&self) -> Vec<(SequenceRange, ChannelNumber)> {
        self.index.lock().retained_marks.targeted().collect()
    }

    /// Records that only this channel receives the messages `from..to`, for channels that reach them later.
    pub fn add_targeted(&self, from: u64, to: u64, channel: ChannelNumber) {
        self.index.lock().retained_marks.add_targeted(from, to, channel);
    }

    /// The oldest message in the log, or the next one if there is none.
    pub fn first_present(&self) -> u64 {
        self.index.lock().first_present()
    }

    /// Number of messages of `from..to` in the log.
    pub fn count_between(&self, from: u64, to: u64) -> u64 {
        self.index.lock().amount(from, to).messages
    }

    /// The ranges of `from..to` without messages: missing or void.
    pub fn absent(&self, from: u64, to: u64) -> Ranges {
        if from < to { self.index.lock().absent(from, to) } else { Ranges::new() }
    }

    /// Void sequence numbers, for a checkpoint.
    pub fn void(&self) -> Ranges {
        self.index.lock().retained_marks.void().collect()
    }

    /// Messages that were published deferred and are not due, with their due times.
    pub fn deferred(&self) -> Vec<(SequenceRange, Nanos)> {
        self.index.lock().retained_marks.deferred().collect()
    }

    /// Marks the messages `from..to` as void: they must not be delivered, though the log may hold them.
    pub fn add_void(&self, from: u64, to: u64) {
        self.index.lock().retained_marks.add_void(from, to);
    }

    /// Records that the messages `from..to` are not due before `due`, for channels that reach them later.
    pub fn add_deferred(&self, from: u64, to: u64, due: Nanos) {
        self.index.lock().retained_marks.add_deferred(from, to, due);
    }

    /// The first message published at or after `time_ns`, or the end of the log; and whether no earlier message is in
    /// the log. Reads a few blocks from disk; an unreadable one counts as older.
    pub fn find_time(&self, time_ns: i64) -> (u64, bool) {
        self.look_up_time(time_ns, &Cell::new(false))
    }

    /// Like [`TopicLog::find_time`], but fails if a block cannot be read.
    pub fn find_time_exactly(&self, time_ns: i64) -> Result<u64, CannotRead> {
        let is_unreadable = Cell::new(false);
        let (found, _) = self.look_up_time(time_ns, &is_unreadable);
        if is_unreadable.get() { Err(CannotRead) } else { Ok(found) }
    }

    /// Sets `is_unreadable` if a block cannot be read.
    fn look_up_time(&self, time_ns: i64, is_unreadable: &Cell<bool>) -> (u64, bool) {
        let (blocks, in_memory, first) = {
            let index = self.index.lock();
            (index.blocks(), index.first_in_memory_since(time_ns), index.first_present())
        };
        let is_before = |block: &BlockRef| match timestamp_in(block, 0) {
            Some(at) => at < time_ns,
            None => {
                is_unreadable.set(true);
                true
            }
        };
        let after = blocks.partition_point(is_before);
        let within = after.checked_sub(1).and_then(|index| first_since(&blocks[index], time_ns));
        let next = blocks.get(after).map(|block| block.first_sequence);
        let found = within.or(next).into_iter().chain(in_memory).min().unwrap_or_else(|| self.end());
        (found, found <= first)
    }
}

/// The segment files, in the order of their messages.
fn pieces_on_disk(segments: &SegmentStore) -> Vec<Piece> {
    let mut files: Vec<SegmentFileInfo> = segments.files().collect();
    files.sort_unstable_by_key(|file| file.end_sequence);
    let piece = |file: &SegmentFileInfo| Piece {
        end_sequence: file.end_sequence,
        bytes: file.bytes,
        place: PiecePlace::File(file.number),
    };
    files.iter().map(piece).collect()
}

/// The first message of a block that was published at or after `time_ns`.
fn first_since(block: &BlockRef, time_ns: i64) -> Option<u64> {
    let loaded = block.read().ok()?;
    let index = (0..block.count as usize)
        .find(|&index| frame_timestamp(&loaded, index).is_some_and(|at| at >= time_ns));
    index.map(|index| block.first_sequence + index as u64)
}

/// Sequence numbers and timestamps of about `count` messages of a block, evenly spread, with the last one. Empty if the
/// block cannot be read.
pub(super) fn timestamps(block: &BlockRef, count: u64) -> Vec<(u64, i64)> {
    let Ok(loaded) = block.read() else { return Vec::new() };
    let last = block.end_sequence().saturating_sub(1);
    let all = spread(block.first_sequence, last, count);
    let at = |sequence: u64| {
        Some((sequence, frame_timestamp(&loaded, (sequence - block.first_sequence) as usize)?))
    };
    all.filter_map(at).collect()
}

/// About `count` numbers of `first..=last`, evenly spread, with the last one.
pub(super) fn spread(first: u64, last: u64, count: u64) -> impl Iterator<Item = u64> {
    let step = ((last + 1).saturating_sub(first) / count.max(1)).max(1);
    (first..last).step_by(step as usize).chain((first <= last).then_some(last))
}

fn timestamp_in(block: &BlockRef, index: usize) -> Option<i64> {
    frame_timestamp(&block.read().ok()?, index)
}

fn frame_timestamp(loaded: &LoadedBlock, index: usize) -> Option<i64> {
    loaded.frame(index).and_then(super::chunk::timestamp)
}
