//! Copies messages from the log to a consumer's output: a channel's [`Source`].
//!
//! A message in memory is copied under the index's lock. A message on disk must be read first, without any lock: the
//! reader returns [`Supply::OnDisk`] and reports what is [`Missing`]. The caller reads it, puts it into the
//! [`ReadCache`], and takes again.

use std::sync::Arc;

use nsq_protocol::headers;

use super::TopicLog;
use super::chunk::{self, Chunk};
use super::index::Location;
use super::read_cache::{Gathered, ReadCache};
use super::read_memory::HeldChunk;
use super::{Source, Supplied, Supply};
use crate::storage::segment::{BlockRef, ReadError};

/// What a take needs from disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The block with this message, for its first delivery.
    First(u64),
    /// A redelivered message.
    Again,
}

/// The system could not read from disk. The failure is already reported; a later read may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CannotRead;

/// Reads for one take.
pub struct LogReader<'a> {
    log: &'a TopicLog,
    cache: &'a mut ReadCache,
    out: &'a mut Vec<u8>,
    /// Bytes that may still be put into `out`.
    room: usize,
    /// The same before the last messages were supplied.
    room_before: usize,
    /// Start of the messages supplied last, in `out`.
    given_from: usize,
    /// Set with [`Supply::OnDisk`].
    missing: Option<Missing>,
}

impl<'a> LogReader<'a> {
    /// Reads into `out`, up to `room` bytes. Only a single message that is larger than the room exceeds it.
    pub fn new(log: &'a TopicLog, cache: &'a mut ReadCache, out: &'a mut Vec<u8>, room: usize) -> Self {
        LogReader { log, cache, out, room, room_before: room, given_from: usize::MAX, missing: None }
    }

    /// What must be read before the next take, if anything.
    pub fn missing(self) -> Option<Missing> {
        self.missing
    }

    fn given(&mut self, before: usize, count: u64) -> Supply {
        self.given_from = before;
        self.room_before = self.room;
        self.room = self.room.saturating_sub(self.out.len() - before);
        Supply::Given(count)
    }

    /// Supplies a message that is not in the cache.
    fn supply(
        &mut self,
        sequence: u64,
        missing: Missing,
        copy: impl Fn(&Chunk, usize, &mut Vec<u8>) -> u64,
    ) -> Supply {
        let before = self.out.len();
        let log = self.log;
        let index = log.index.lock();
        let count = match index.locate(sequence) {
            Location::Memory(chunk) => copy(chunk, self.room, self.out),
            Location::Disk(block) => {
                drop(index);
                // Another channel may have read it.
                let Some(held) = log.shared_block(&block) else {
                    self.missing = Some(missing);
                    return Supply::OnDisk;
                };
                let count = copy(&held.chunk, self.room, self.out);
                if matches!(missing, Missing::First(_)) {
                    self.cache.put_block(held);
                }
                return self.given(before, count);
            }
            Location::Damaged(to) => return Supply::Lost(to),
            Location::Missing(next) => return Supply::Gone(next.unwrap_or(u64::MAX)),
        };
        drop(index);
        self.given(before, count)
    }
}

impl Source for LogReader<'_> {
    fn first(&mut self, from: u64, max_count: u64) -> Supply {
        if self.room == 0 {
            return Supply::Full;
        }
        let before = self.out.len();
        if let Some(chunk) = self.cache.first(from) {
            let count = chunk.copy(from, max_count, self.room, self.out);
            return self.given(before, count);
        }
        self.supply(from, Missing::First(from), |chunk, room, out| chunk.copy(from, max_count, room, out))
    }

    fn again(&mut self, sequence: u64, attempts: u16) -> Supply {
        if self.room == 0 {
            return Supply::Full;
        }
        let before = self.out.len();
        if self.cache.again(sequence, attempts, self.out) {
            return self.given(before, 1);
        }
        self.supply(sequence, Missing::Again, |chunk, _, out| {
            chunk.copy_again(sequence, attempts, out);
            1
        })
    }

    fn timestamps(&self, visit: impl FnMut(i64)) {
        chunk::timestamps(self.out.get(self.given_from..).unwrap_or_default()).for_each(visit);
    }

    fn may_have_own_ttl(&self, sequence: u64) -> bool {
        self.log.may_have_own_ttl(sequence)
    }

    fn retain(&mut self, first: u64, mut is_kept: impl FnMut(Supplied<'_>) -> bool) -> usize {
        let start = self.given_from.min(self.out.len());
        let (mut read, mut write, mut sequence) = (start, start, first);
        loop {
            let length = chunk::split(&self.out[read..]).next().map(<[u8]>::len);
            let Some(length) = length else { break };
            let (frame, end) = (&self.out[read..read + length], read + length);
            let headers = headers::split_stored(frame).and_then(|(headers, _)| headers);
            let own_ttl = headers.and_then(|headers| self.log.own_ttl(sequence, frame, headers));
            if is_kept(Supplied { sequence, headers, own_ttl }) {
                if write < read {
                    self.out.copy_within(read..end, write);
                }
                write += length;
            }
            (read, sequence) = (end, sequence + 1);
        }
        self.out.truncate(write);
        self.room = self.room_before.saturating_sub(write - start);
        read - write
    }
}

/// Maximum bytes of a batch of redelivered messages, roughly.
const BATCH_BYTES: usize = 512 << 10;
/// Maximum messages of a batch.
pub const BATCH_MESSAGES: usize = 2048;
/// Maximum attempts when a block is replaced or removed while it is read.
const ATTEMPTS: usize = 4;
/// A larger block (of a large MPUB) is read only when it is needed.
const MAX_BLOCK_AHEAD: u32 = 1 << 20;

impl TopicLog {
    /// Reads the block with this message. Blocks on the disk. Returns `None` if no block has it (any more): a take
    /// finds out where it is, or that it is lost.
    pub fn load_block(&self, sequence: u64) -> Result<Option<Arc<HeldChunk>>, CannotRead> {
        for attempt in 1.. {
            let Location::Disk(block) = self.index.lock().locate(sequence) else { return Ok(None) };
            if let Some(held) = self.shared_block(&block) {
                return Ok(Some(held));
            }
            match block.read() {
                Ok(mut loaded) => {
                    self.damage.read_worked();
                    // A chunk knows its end from its bytes.
                    loaded.offsets.pop();
                    let chunk = Chunk::from_frames(loaded.first_sequence, loaded.frames, loaded.offsets);
                    self.learn(chunk.frames());
                    let held = self.memory.hold(chunk);
                    if self.holders.are_several_channels() {
                        self.memory.put_block(block.key(), held.clone());
                    }
                    return Ok(Some(held));
                }
                Err(error) => self.check_failed(&block, &error, attempt)?,
            }
        }
        Ok(None)
    }

    /// Reads the frames of these messages, up to the size of a batch, but at least the first one. Blocks on the disk.
    /// Leaves out messages that exist nowhere (any more).
    pub fn gather(&self, sequences: &[u64]) -> (Gathered, Result<(), CannotRead>) {
        let mut batch = Gathered::default();
        let mut result = Ok(());
        let mut rest = sequences;
        let mut attempt = 1;
        while let Some(&first) = rest.first()
            && batch.bytes() < BATCH_BYTES
        {
            let block = {
                let index = self.index.lock();
                match index.locate(first) {
                    Location::Disk(block) => block,
                    Location::Memory(chunk) => {
                        batch.push(first, chunk.frame(first));
                        rest = &rest[1..];
                        continue;
                    }
                    Location::Damaged(_) | Location::Missing(_) => {
                        rest = &rest[1..];
                        continue;
                    }
                }
            };
            let numbers = numbers_within(&block, rest, BATCH_BYTES - batch.bytes());
            match self.gather_from(&block, &numbers, &mut batch) {
                Ok(()) => {
                    rest = &rest[numbers.len()..];
                    attempt = 1;
                }
                Err(error) => {
                    if let Err(failed) = self.check_failed(&block, &error, attempt) {
                        result = Err(failed);
                        break;
                    }
                    attempt += 1;
                }
            }
        }
        if batch.bytes() > 0 && result.is_ok() {
            self.damage.read_worked();
        }
        self.learn(batch.frames());
        batch.complete(|bytes| self.memory.count(bytes));
        (batch, result)
    }

    fn gather_from(&self, block: &BlockRef, numbers: &[u32], batch: &mut Gathered) -> Result<(), ReadError> {
        let sequence = |number: u32| block.first_sequence + u64::from(number);
        if let Some(index) = self.memory.index(block.key()) {
            return block.read_frames(&index, numbers, |number, frame| batch.push(sequence(number), frame));
        }
        let loaded = block.read()?;
        for &number in numbers {
            let frame = loaded.frame(number as usize);
            frame.into_iter().for_each(|frame| batch.push(sequence(number), frame));
        }
        self.memory.put_index(block.key(), Arc::new(loaded.index()));
        Ok(())
    }

    /// Handles a failed read, and removes a damaged block. Returns `Ok` if the message should be looked up again.
    fn check_failed(&self, block: &BlockRef, error: &ReadError, attempt: usize) -> Result<(), CannotRead> {
        let current = self.index.lock().block_of(block.first_sequence);
        let is_current = current.is_some_and(|current| current.is(block));
        let is_io = matches!(error, ReadError::Io { .. });
        if is_io && !is_current && attempt < ATTEMPTS {
            return Ok(());
        }
        if self.is_deleted() {
            return Err(CannotRead);
        }
        self.read_failed(block, error);
        if is_io { Err(CannotRead) } else { Ok(()) }
    }

    fn shared_block(&self, block: &BlockRef) -> Option<Arc<HeldChunk>> {
        if self.holders.are_several_channels() { self.memory.block(block.key()) } else { None }
    }

    /// Whether this message is on disk and should be read ahead.
    pub fn may_read_ahead(&self, sequence: u64) -> bool {
        let is_small = |block: &BlockRef| block.bytes <= MAX_BLOCK_AHEAD;
        let on_disk = matches!(self.index.lock().locate(sequence), Location::Disk(block) if is_small(&block));
        on_disk && self.memory.may_read_ahead()
    }
}

/// The numbers within `block` of the first `sequences`, while these ascend and are in the block. About `bytes` of
/// messages, but at least one.
fn numbers_within(block: &BlockRef, sequences: &[u64], bytes: usize) -> Vec<u32> {
    let usual = (block.bytes / block.count).max(1) as usize;
    let mut numbers: Vec<u32> = Vec::new();
    for &sequence in sequences.iter().take(bytes.div_ceil(usual)) {
        let number = sequence.checked_sub(block.first_sequence).and_then(|number| u32::try_from(number).ok());
        match number.filter(|number| *number < block.count) {
            Some(number) if numbers.last().is_none_or(|last| *last < number) => numbers.push(number),
            _ => break,
        }
    }
    numbers
}
