//! Pure: a piece of memory with consecutive messages of one topic, each encoded as the frame of its first delivery.

use nsq_protocol::headers::{self, Form};
use nsq_protocol::message_id::MessageId;
use nsq_protocol::{MESSAGE_FRAME_OVERHEAD, set_attempts};

use crate::storage::SequenceRange;

/// Usual size of a chunk: large enough for an efficient write, small enough that reading it back for a single message
/// is not wasteful.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// Offset of the timestamp in an encoded message frame: size, type.
const TIMESTAMP_OFFSET: usize = 4 + 4;
/// Offset of the attempts field: after the timestamp.
const ATTEMPTS_OFFSET: usize = TIMESTAMP_OFFSET + 8;

/// The timestamp in an encoded message frame.
pub fn timestamp(frame: &[u8]) -> Option<i64> {
    frame.get(TIMESTAMP_OFFSET..)?.first_chunk().map(|bytes| i64::from_be_bytes(*bytes))
}

/// Consecutive messages in memory; see the module. Sequence numbers in a chunk have no holes.
#[derive(Debug, Default)]
pub struct Chunk {
    first_sequence: u64,
    /// Where each message's frame starts in `bytes`.
    offsets: Vec<u32>,
    bytes: Vec<u8>,
}

impl Chunk {
    /// An empty chunk whose first message will be `first_sequence`.
    pub fn new(first_sequence: u64) -> Self {
        Chunk { first_sequence, offsets: Vec::new(), bytes: Vec::new() }
    }

    /// An empty chunk behind this one, with memory for as much: a topic that has filled a chunk probably fills the next, and
    /// growing step by step would copy each message again.
    pub fn following(&self) -> Self {
        let len = self.bytes.len().min(CHUNK_BYTES);
        let count = self.offsets.len().min(len / MESSAGE_FRAME_OVERHEAD);
        Chunk {
            first_sequence: self.end_sequence(),
            offsets: Vec::with_capacity(count),
            bytes: Vec::with_capacity(len),
        }
    }

    /// Creates a chunk from frames read from disk. `offsets` are the starts of the frames.
    pub fn from_frames(first_sequence: u64, bytes: Vec<u8>, offsets: Vec<u32>) -> Self {
        Chunk { first_sequence, offsets, bytes }
    }

    /// Encodes and appends one message.
    pub fn push(&mut self, timestamp_ns: i64, id: u64, form: Form, published: &[u8]) {
        self.offsets.push(self.bytes.len() as u32);
        let id = MessageId::from_u64(id);
        headers::put_stored_frame(&mut self.bytes, timestamp_ns, 1, id, form, published);
    }

    /// Reserves memory for a batch, so that it is copied only once.
    pub fn reserve(&mut self, count: usize, body_bytes: usize) {
        self.offsets.reserve(count);
        self.bytes.reserve(body_bytes + count * MESSAGE_FRAME_OVERHEAD);
    }

    /// Appends encoded frames (recovery), which it separates by their size fields. Returns their number. If the sizes
    /// do not match the bytes, it appends nothing and returns `None`.
    pub fn push_frames(&mut self, frames: &[u8]) -> Option<u32> {
        let (start, count) = (self.bytes.len(), self.offsets.len());
        let mut at = 0;
        while at < frames.len() {
            let size =
                frames.get(at..at + 4).map(|size| u32::from_be_bytes(size.try_into().unwrap_or_default()));
            let end = size.map_or(usize::MAX, |size| at + 4 + size as usize);
            if end > frames.len() || end - at < MESSAGE_FRAME_OVERHEAD {
                self.offsets.truncate(count);
                return None;
            }
            self.offsets.push((start + at) as u32);
            at = end;
        }
        self.bytes.extend_from_slice(frames);
        Some((self.offsets.len() - count) as u32)
    }

    /// Drops the messages from `sequence` on.
    pub fn truncate(&mut self, sequence: u64) {
        let end = self.offset_of(sequence);
        self.bytes.truncate(end);
        self.offsets.truncate((sequence - self.first_sequence) as usize);
    }

    /// Clears the chunk and reuses its memory.
    pub fn reset(&mut self, first_sequence: u64) {
        self.first_sequence = first_sequence;
        self.offsets.clear();
        self.bytes.clear();
    }

    /// Frees the memory of an empty chunk, which an idle topic should not hold.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            self.offsets = Vec::new();
            self.bytes = Vec::new();
        }
    }

    /// Sequence number of the first message (or of the next one, while empty).
    pub fn first_sequence(&self) -> u64 {
        self.first_sequence
    }

    /// One past the last message.
    pub fn end_sequence(&self) -> u64 {
        self.first_sequence + self.offsets.len() as u64
    }

    /// The sequence numbers of its messages.
    pub fn sequences(&self) -> SequenceRange {
        SequenceRange::new(self.first_sequence, self.end_sequence())
    }

    pub fn count(&self) -> u64 {
        self.offsets.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Bytes of all frames.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether this message is in the chunk.
    pub fn holds(&self, sequence: u64) -> bool {
        sequence >= self.first_sequence && sequence < self.end_sequence()
    }

    pub fn frames(&self) -> &[u8] {
        &self.bytes
    }

    /// The frames from message `from` on, which must be in the chunk.
    pub fn frames_from(&self, from: u64) -> &[u8] {
        &self.bytes[self.offset_of(from)..]
    }

    /// Bytes of the frames of `from..to`, which must be in the chunk.
    pub fn bytes_between(&self, from: u64, to: u64) -> usize {
        self.offset_of(to) - self.offset_of(from)
    }

    /// The frames of `from..to`, which must be in the chunk.
    pub fn frames_between(&self, from: u64, to: u64) -> &[u8] {
        &self.bytes[self.offset_of(from)..self.offset_of(to)]
    }

    /// A copy of the messages `from..to`, which must be in the chunk.
    pub fn part(&self, from: u64, to: u64) -> Chunk {
        let start = self.offset_of(from);
        let indices = (from - self.first_sequence) as usize..(to - self.first_sequence) as usize;
        let offsets = self.offsets[indices].iter().map(|&offset| offset - start as u32).collect();
        Chunk { first_sequence: from, offsets, bytes: self.frames_between(from, to).to_vec() }
    }

    /// Appends to `out` the frames from message `from` on, which must be in the chunk: at most `max_count`, and only
    /// those that fit into `room` bytes. Returns how many. If `room` is not 0, the first frame is copied even if it
    /// does not fit.
    pub fn copy(&self, from: u64, max_count: u64, room: usize, out: &mut Vec<u8>) -> u64 {
        let first = (from - self.first_sequence) as usize;
        let start = self.offset_of(from);
        let last = (first as u64 + max_count).min(self.offsets.len() as u64) as usize;
        let mut end = last;
        if self.offset_at(last) - start > room {
            // Few batches reach the limit, so the search is not on the common path.
            end =
                first + self.offsets[first..last].partition_point(|&offset| offset as usize - start <= room);
            end = (end - 1).max(first + usize::from(room > 0));
        }
        out.extend_from_slice(&self.bytes[start..self.offset_at(end)]);
        (end - first) as u64
    }

    /// Appends the frame of one message, which must be in the chunk, to `out`, with its attempts set.
    pub fn copy_again(&self, sequence: u64, attempts: u16, out: &mut Vec<u8>) {
        Self::copy_frame_again(self.frame(sequence), attempts, out);
    }

    /// Appends a frame to `out`, with its attempts set.
    pub fn copy_frame_again(frame: &[u8], attempts: u16, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(frame);
        debug_assert!(out.len() >= start + ATTEMPTS_OFFSET + 2);
        set_attempts(&mut out[start..], attempts);
    }

    /// The frame of message `sequence`, which must be in the chunk.
    pub fn frame(&self, sequence: u64) -> &[u8] {
        &self.bytes[self.offset_of(sequence)..self.offset_of(sequence + 1)]
    }

    /// When a message, which must be in the chunk, was published.
    pub fn timestamp_of(&self, sequence: u64) -> Option<i64> {
        timestamp(self.frames_from(sequence))
    }

    /// The id of a message, which must be in the chunk. `None` if it is not an id that nsqd assigns.
    pub fn id_of(&self, sequence: u64) -> Option<u64> {
        id(self.frames_from(sequence))
    }

    /// When the first message was published.
    pub fn oldest_timestamp(&self) -> Option<i64> {
        self.timestamp_of(self.first_sequence)
    }

    /// When the last message was published.
    pub fn newest_timestamp(&self) -> Option<i64> {
        self.timestamp_of(self.end_sequence().checked_sub(1).filter(|_| !self.is_empty())?)
    }

    /// The first message published at or after `time_ns`.
    pub fn first_since(&self, time_ns: i64) -> Option<u64> {
        let mut sequences = self.first_sequence..self.end_sequence();
        sequences.find(|&sequence| self.timestamp_of(sequence).is_some_and(|at| at >= time_ns))
    }

    fn offset_of(&self, sequence: u64) -> usize {
        self.offset_at((sequence - self.first_sequence) as usize)
    }

    fn offset_at(&self, index: usize) -> usize {
        self.offsets.get(index).map_or(self.bytes.len(), |&offset| offset as usize)
    }
}

/// The frames after the first `count`; `None` if there are fewer.
pub fn skip_frames(frames: &[u8], count: u64) -> Option<&[u8]> {
    (0..count).try_fold(frames, |rest, _| {
        let size = u32::from_be_bytes(*rest.first_chunk()?) as usize;
        rest.get(4 + size..)
    })
}

/// The timestamp of the first of these frames, if this is its first delivery.
pub fn first_delivery(frames: &[u8]) -> Option<i64> {
    let attempts = u16::from_be_bytes(*frames.get(ATTEMPTS_OFFSET..)?.first_chunk()?);
    if attempts == 1 { timestamps(frames).next() } else { None }
}

/// The timestamps of consecutive encoded message frames.
pub fn timestamps(frames: &[u8]) -> impl Iterator<Item = i64> {
    heads(frames).filter_map(timestamp)
}

/// The id in an encoded message frame. `None` if it is not an id that nsqd assigns.
pub fn id(frame: &[u8]) -> Option<u64> {
    frame.get(ATTEMPTS_OFFSET + 2..)?.first_chunk().copied().and_then(|id| MessageId(id).to_u64())
}

/// The number of deliveries in an encoded message frame, with this one.
pub fn attempts(frame: &[u8]) -> Option<u16> {
    frame.get(ATTEMPTS_OFFSET..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// Consecutive encoded message frames, each with all bytes that follow it.
pub fn heads(frames: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = frames;
    std::iter::from_fn(move || {
        let head = rest;
        let size = u32::from_be_bytes(*head.first_chunk()?) as usize;
        head.get(TIMESTAMP_OFFSET..)?.first_chunk::<8>()?;
        rest = head.get(4 + size..).unwrap_or_default();
        Some(head)
    })
}

/// The bytes of each body, with its headers.
pub fn body_sizes(frames: &[u8]) -> Vec<u64> {
    split(frames).map(|frame| frame.len().saturating_sub(MESSAGE_FRAME_OVERHEAD) as u64).collect()
}

/// Consecutive encoded message frames, up to the first that is cut off.
pub fn split(frames: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = frames;
    std::iter::from_fn(move || {
        let size = u32::from_be_bytes(*rest.first_chunk()?) as usize;
        let (frame, after) = rest.split_at_checked(size.saturating_add(4))?;
        rest = after;
        Some(frame)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(bodies: &[&[u8]]) -> Chunk {
        let mut chunk = Chunk::new(10);
        for (index, body) in bodies.iter().enumerate() {
            chunk.push(1, index as u64, Form::Plain, body);
        }
        chunk
    }

    #[test]
    fn timestamps_of_frames() {
        let mut chunk = Chunk::new(10);
        for (timestamp, body) in [(-1, &b""[..]), (i64::MAX, b"abc"), (7, &[0; 300])] {
            chunk.push(timestamp, 1, Form::Plain, body);
        }
        assert_eq!(timestamps(chunk.frames()).collect::<Vec<_>>(), [-1, i64::MAX, 7]);
        assert_eq!(timestamps(&chunk.frames()[..15]).count(), 0);
        assert_eq!(heads(chunk.frames()).filter_map(id).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!((chunk.id_of(12), id(&chunk.frames()[..33])), (Some(1), None));
        assert_eq!(first_delivery(chunk.frames()), Some(-1));
        assert_eq!(first_delivery(&chunk.frames()[..17]), None);
        let mut again = Vec::new();
        chunk.copy_again(11, 2, &mut again);
        assert_eq!(first_delivery(&again), None);
    }

    #[test]
    fn a_part_has_the_frames_of_its_messages() {
        let chunk = chunk(&[b"a", b"bb", b"ccc", b"dddd"]);
        let part = chunk.part(11, 13);
        assert_eq!((part.first_sequence(), part.end_sequence()), (11, 13));
        assert_eq!(part.frames(), chunk.frames_between(11, 13));
        assert_eq!(part.frames_from(12), chunk.frames_between(12, 13));
        assert_eq!(chunk.bytes_between(10, 14), chunk.len_bytes());
        assert!(chunk.part(14, 14).is_empty());
    }

    #[test]
    fn copies_as_many_as_fit() {
        let chunk = chunk(&[b"a", b"bb", b"ccc"]);
        let size = |count: u64| MESSAGE_FRAME_OVERHEAD * count as usize;
        let copied = |from, count, room| {
            let mut out = Vec::new();
            (chunk.copy(from, count, room, &mut out), out.len())
        };
        assert_eq!(copied(10, 3, usize::MAX), (3, size(3) + 6));
        assert_eq!(copied(10, 9, usize::MAX), (3, size(3) + 6));
        assert_eq!(copied(11, 1, usize::MAX), (1, size(1) + 2));
        assert_eq!(copied(10, 3, size(2) + 3), (2, size(2) + 3));
        assert_eq!(copied(10, 3, size(2) + 2), (1, size(1) + 1));
        assert_eq!(copied(10, 3, 1), (1, size(1) + 1), "the first frame is always copied");
        assert_eq!(copied(10, 3, 0), (0, 0));
    }

    #[test]
    fn appends_encoded_frames_and_refuses_wrong_sizes() {
        let original = chunk(&[b"a", b"bb", b"ccc"]);
        let mut copy = Chunk::new(10);
        assert_eq!(copy.push_frames(original.frames()), Some(3));
        assert_eq!(copy.offsets, original.offsets);
        let bytes = original.frames();
        assert_eq!(copy.push_frames(&bytes[..bytes.len() - 1]), None);
        assert_eq!(copy.push_frames(&[0, 0, 0, 1, 0]), None);
        assert_eq!(copy.count(), 3);
    }
}
