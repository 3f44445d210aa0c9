//! Copies messages from the log to a consumer's output: a channel's [`Source`].
//!
//! A message in memory is copied under the tail's lock. One on disk is in a block that must be loaded first, without
//! any lock: the reader then answers [`Supply::OnDisk`] and says which; whoever drives it loads the block, puts it
//! into the [`BlockCache`] and takes again.

use std::sync::Arc;

use super::TopicLog;
use super::chunk::{self, Chunk};
use super::tail::Location;
use crate::channel::{Source, Supply};
use crate::storage::segment::{BlockRef, ReadError};

/// The blocks that a channel read last: one where its cursor is, one for messages handed out again.
#[derive(Debug, Default)]
pub struct BlockCache {
    ahead: Option<Arc<Chunk>>,
    again: Option<Arc<Chunk>>,
}

impl BlockCache {
    /// Keeps a loaded block for the next take.
    pub fn put(&mut self, request: &BlockRequest, chunk: Chunk) {
        let place = if request.again { &mut self.again } else { &mut self.ahead };
        *place = Some(Arc::new(chunk));
    }

    /// Drops what lies before the oldest message needed.
    pub fn trim(&mut self, floor: u64) {
        for place in [&mut self.ahead, &mut self.again] {
            if place.as_ref().is_some_and(|chunk| chunk.end_sequence() <= floor) {
                *place = None;
            }
        }
    }

    fn find(&self, sequence: u64) -> Option<&Arc<Chunk>> {
        [&self.ahead, &self.again].into_iter().flatten().find(|chunk| chunk.holds(sequence))
    }
}

/// A block to load before the next take.
#[derive(Debug, Clone)]
pub struct BlockRequest {
    /// Which block.
    pub block: BlockRef,
    again: bool,
}

impl BlockRequest {
    /// Reads the block; waits for the disk.
    pub fn load(&self) -> Result<Chunk, ReadError> {
        let mut loaded = self.block.read()?;
        // A chunk knows its end from its bytes.
        loaded.offsets.pop();
        Ok(Chunk::from_frames(loaded.first_sequence, loaded.frames, loaded.offsets))
    }
}

/// Reads for one take.
pub struct LogReader<'a> {
    log: &'a TopicLog,
    cache: &'a mut BlockCache,
    out: &'a mut Vec<u8>,
    /// Bytes that may still be put into `out`.
    room: usize,
    /// Where in `out` the messages given last begin.
    given_from: usize,
    /// Set with [`Supply::OnDisk`].
    request: Option<BlockRequest>,
}

impl<'a> LogReader<'a> {
    /// Reads into `out`, up to `room` bytes (and a bit more for a message that is bigger than the room).
    pub fn new(log: &'a TopicLog, cache: &'a mut BlockCache, out: &'a mut Vec<u8>, room: usize) -> Self {
        LogReader { log, cache, out, room, given_from: usize::MAX, request: None }
    }

    /// The block to load, if the take ended for want of it.
    pub fn request(self) -> Option<BlockRequest> {
        self.request
    }

    fn supply(
        &mut self,
        sequence: u64,
        again: bool,
        copy: impl Fn(&Chunk, usize, &mut Vec<u8>) -> u64,
    ) -> Supply {
        if self.room == 0 {
            return Supply::Full;
        }
        let before = self.out.len();
        let count = match self.cache.find(sequence) {
            Some(chunk) => copy(chunk, self.room, self.out),
            None => {
                let tail = self.log.tail.lock();
                match tail.locate(sequence) {
                    Location::Memory(chunk) => copy(chunk, self.room, self.out),
                    Location::Disk(block) => {
                        self.request = Some(BlockRequest { block, again });
                        return Supply::OnDisk;
                    }
                    Location::Damaged(to) => return Supply::Lost(to),
                    Location::Missing(next) => return Supply::Gone(next.unwrap_or(u64::MAX)),
                }
            }
        };
        self.given_from = before;
        self.room = self.room.saturating_sub(self.out.len() - before);
        Supply::Given(count)
    }
}

impl Source for LogReader<'_> {
    fn first(&mut self, from: u64, max_count: u64) -> Supply {
        self.supply(from, false, |chunk, room, out| chunk.copy(from, max_count, room, out))
    }

    fn again(&mut self, sequence: u64, attempts: u16) -> Supply {
        self.supply(sequence, true, |chunk, _, out| {
            chunk.copy_again(sequence, attempts, out);
            1
        })
    }

    fn timestamps(&self, tell: impl FnMut(i64)) {
        chunk::timestamps(self.out.get(self.given_from..).unwrap_or_default()).for_each(tell);
    }
}
