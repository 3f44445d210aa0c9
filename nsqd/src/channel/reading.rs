//! Reads messages from disk before they are handed out, and reads ahead.
//!
//! A take that finds a message on disk ends there, and its [`ReadRequest`] says what to read. A serving thread never
//! waits for the disk: another thread executes the request. The consumer is parked meanwhile, and the end of the
//! request wakes it. A channel reads at most one block and one batch of redelivered messages at a time, and reads the
//! next while it hands out the current one.

use std::sync::Arc;

use super::{Channel, Inner};
use crate::clock::{self, Nanos};
use crate::log::read_cache::{Gathered, ReadCache};
use crate::log::read_memory::HeldChunk;
use crate::log::reader::{BATCH_MESSAGES, CannotRead, Missing};

/// Wait before the first retry of a failed read. It doubles with each failure.
const FIRST_RETRY: Nanos = 100_000_000;
/// Maximum wait before a retry.
const LAST_RETRY: Nanos = 5_000_000_000;
/// The cache of a channel that takes nothing is dropped after this time.
const KEPT_FOR: Nanos = 2_000_000_000;

/// Reads in progress for a channel, and the state of retries.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// A block is being read.
    block: bool,
    /// A batch of redelivered messages is being read.
    batch: bool,
    /// After a read failed: when the next attempt is due, and the wait before it.
    retry: Option<(Nanos, Nanos)>,
    /// When the cache was last used.
    used_at: Nanos,
}

#[derive(Debug)]
enum Want {
    /// The block with this message.
    Block { sequence: u64, is_ahead: bool },
    /// These redelivered messages, up to the size of a batch, but at least the first.
    Batch { sequences: Vec<u64>, is_ahead: bool },
}

impl Want {
    fn is_ahead(&self) -> bool {
        let (Want::Block { is_ahead, .. } | Want::Batch { is_ahead, .. }) = self;
        *is_ahead
    }
}

enum Outcome {
    Block(Arc<HeldChunk>),
    Batch(Gathered),
    Nothing,
}

/// A read to execute. Dropping it ends the read without a result: parked consumers are woken and take again.
#[must_use = "consumers stay parked until it is executed or dropped"]
pub struct ReadRequest {
    channel: Arc<Channel>,
    want: Want,
    is_over: bool,
}

impl ReadRequest {
    /// Executes the read and wakes a parked consumer. Blocks on the disk.
    pub fn execute(mut self) {
        let log = &self.channel.parts.log;
        let (outcome, result) = match &self.want {
            Want::Block { sequence, .. } => match log.load_block(*sequence) {
                Ok(block) => (block.map_or(Outcome::Nothing, Outcome::Block), Ok(())),
                Err(error) => (Outcome::Nothing, Err(error)),
            },
            Want::Batch { sequences, .. } => {
                let (batch, result) = log.gather(sequences);
                (Outcome::Batch(batch), result)
            }
        };
        self.is_over = true;
        self.channel.read_ended(&self.want, outcome, result);
    }
}

impl Drop for ReadRequest {
    fn drop(&mut self) {
        if !self.is_over {
            self.channel.read_ended(&self.want, Outcome::Nothing, Ok(()));
        }
    }
}

impl Channel {
    /// What to read after a take: what was missing, or else what comes next. `None` if that is being read already.
    pub(super) fn read_request(
        &self,
        inner: &mut Inner,
        missing: Option<Missing>,
        now: Nanos,
    ) -> Option<ReadRequest> {
        // After a failed read, do not read ahead until a read that is needed has succeeded.
        if missing.is_none() && (inner.cache.is_empty() || inner.reading.retry.is_some()) {
            return None;
        }
        inner.reading.used_at = now;
        let want = match missing {
            Some(Missing::First(sequence)) => Some(Want::Block { sequence, is_ahead: false }),
            Some(Missing::Again) => Some(batch(inner, false)),
            None => self.read_ahead(inner),
        }?;
        let is_being_read = match want {
            Want::Block { .. } => &mut inner.reading.block,
            Want::Batch { .. } => &mut inner.reading.batch,
        };
        if std::mem::replace(is_being_read, true) {
            return None;
        }
        Some(ReadRequest { channel: self.this.upgrade()?, want, is_over: false })
    }

    fn read_ahead(&self, inner: &mut Inner) -> Option<Want> {
        let log = &self.parts.log;
        if let Some(sequence) = inner.cache.take_wants_next()
            && sequence < inner.state.end()
            && log.may_read_ahead(sequence)
        {
            return Some(Want::Block { sequence, is_ahead: true });
        }
        if inner.cache.take_wants_batch() {
            let want = batch(inner, true);
            if let Want::Batch { sequences, .. } = &want
                && sequences.first().is_some_and(|&first| log.may_read_ahead(first))
            {
                return Some(want);
            }
        }
        None
    }

    /// Handles the end of a request. If messages that are needed now cannot be read, the channel hands out nothing
    /// until the next attempt. A failed read-ahead is repeated when the messages are needed.
    fn read_ended(&self, want: &Want, outcome: Outcome, result: Result<(), CannotRead>) {
        let now = clock::monotonic();
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        match want {
            Want::Block { .. } => inner.reading.block = false,
            Want::Batch { .. } => inner.reading.batch = false,
        }
        let has_worked = result.is_ok() && !matches!(outcome, Outcome::Nothing);
        match outcome {
            Outcome::Block(block) if want.is_ahead() => inner.cache.put_next(block),
            Outcome::Block(block) => inner.cache.put_block(block),
            Outcome::Batch(batch) => inner.cache.put_batch(batch),
            Outcome::Nothing => {}
        }
        inner.reading.used_at = now;
        inner.state.set_unstalled();
        match result {
            Ok(()) => {
                if has_worked {
                    // Do both even if another read failed meanwhile: without a retry time, nothing would end the
                    // suspension.
                    inner.reading.retry = None;
                    inner.state.set_suspended(false);
                }
                let drop_at = (!inner.cache.is_empty()).then(|| now.saturating_add(KEPT_FOR));
                inner.schedule(drop_at);
            }
            Err(CannotRead) if want.is_ahead() => {}
            Err(CannotRead) => {
                let waited = inner.reading.retry.map_or(0, |(_, waited)| waited);
                let wait = waited.saturating_mul(2).clamp(FIRST_RETRY, LAST_RETRY);
                let at = now.saturating_add(wait);
                inner.reading.retry = Some((at, wait));
                inner.state.set_suspended(true);
                inner.schedule(Some(at));
            }
        }
        self.after_change(guard);
    }

    /// Ends the suspension after a failed read, and drops an unused cache. Returns the next deadline.
    pub(super) fn expire_reading(&self, inner: &mut Inner, now: Nanos) -> Option<Nanos> {
        let retry = inner.reading.retry.map(|(at, _)| at);
        if retry.is_some_and(|at| at <= now) {
            inner.state.set_suspended(false);
        }
        let drop_at = inner.reading.used_at.saturating_add(KEPT_FOR);
        if drop_at <= now {
            inner.cache = ReadCache::default();
        }
        let drop_at = (!inner.cache.is_empty()).then_some(drop_at);
        drop_at.into_iter().chain(retry.filter(|at| *at > now)).min()
    }
}

/// The next redelivered messages that are not in the cache.
fn batch(inner: &mut Inner, is_ahead: bool) -> Want {
    inner.state.sort_waiting();
    let cache = &inner.cache;
    let missing = inner.state.waiting_sequences().filter(|&sequence| !cache.has_gathered(sequence));
    Want::Batch { sequences: missing.take(BATCH_MESSAGES).collect(), is_ahead }
}
