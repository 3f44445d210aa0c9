//! The state behind the journal's lock: records that wait to be written, and the outcome of failed writes.
//! No I/O.

use std::{
    mem,
    ops::RangeInclusive,
    task::Waker,
    time::{Duration, Instant},
};

use super::{
    JournalError, JournalTiming, MAX_PENDING_BYTES, MAX_RECORD_BYTES, batch_hint::BatchHint,
    commit_delay::CommitDelay, format,
};
use crate::{record::Record, record_batch};

/// Maximum bytes of lazy records that are kept while writing fails. Further ones are dropped.
pub(super) const MAX_LAZY_KEPT_BYTES: usize = 8 << 20;
/// A buffer that grew beyond this size is freed once it is no longer filled.
const KEPT_BUFFER_BYTES: usize = 4 << 20;

/// What the journal's lock protects.
pub(super) struct State {
    pub pending: Buffer,
    /// The other buffer, which is empty. Taken while a batch is being written.
    pub spare: Buffer,
    /// Number of the pending batch.
    pub batch: u64,
    pub leading: bool,
    /// Tickets of the batch being written that are still held.
    pub writing_tickets: usize,
    pub waiters: Vec<Waiter>,
    pub batch_hint: BatchHint,
    pub commit_delay: CommitDelay,
    pub next_waiter: u64,
    pub failure: Option<Failure>,
    /// A failed sync. Permanent.
    pub latched: Option<JournalError>,
    /// Cleared by a successful write.
    pub last_error: Option<JournalError>,
    /// Lazy records dropped since the last successful write.
    pub forgotten: u64,
    /// When the pending bytes are written even if nobody waits.
    pub lazy_due: Option<Instant>,
    /// Many bytes are pending, and the journal's thread was woken for them.
    pub kicked: bool,
    /// Reused for each wake-up of waiters, to keep its allocation.
    pub woken: Vec<Waker>,
    /// Waiters that the first woken waiter must wake.
    pub to_wake: Vec<Waker>,
    pub thread: ThreadState,
    pub refusing: bool,
    pub stop: bool,
    /// Delay between a failure and the next attempt.
    retry_after: Duration,
}

/// Records in their order, not yet sealed.
#[derive(Default)]
pub(super) struct Buffer {
    pub bytes: Vec<u8>,
    pub tickets: usize,
    /// Byte ranges of the lazy records; adjacent ones are merged.
    pub lazy: Vec<(usize, usize)>,
}

pub(super) struct Waiter {
    pub id: u64,
    pub batch: u64,
    pub waker: Waker,
}

/// The outcome of the failed batches, kept until all their tickets are resolved.
pub(super) struct Failure {
    /// The batch whose write failed, and the one behind it.
    pub batches: RangeInclusive<u64>,
    pub cause: JournalError,
    pub unresolved: usize,
}

impl Failure {
    /// The outcome of a batch. The one behind was not written, so it is not in doubt.
    pub(super) fn of(&self, batch: u64) -> JournalError {
        if batch == *self.batches.start() { self.cause.clone() } else { self.cause.without_doubt() }
    }
}

/// What the journal's thread is doing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ThreadState {
    Busy,
    Idle,
    Until(Instant),
    /// Waiting for this many tickets.
    Delaying(usize),
}

pub(super) enum Work {
    Now,
    At(Instant),
    None,
}

/// Checked before such a record is copied.
fn is_too_large(record: &Record<'_>) -> bool {
    matches!(record, Record::Publish { frames, .. } if frames.len() > MAX_RECORD_BYTES)
}

impl Buffer {
    pub(super) fn push(&mut self, record: &Record<'_>) -> Result<(usize, usize), JournalError> {
        if is_too_large(record) {
            return Err(JournalError::TooLarge);
        }
        self.push_with(|out| record.encode(out))
    }

    /// Adds records that a reader sees together or not at all.
    pub(super) fn push_batch(&mut self, records: &[Record<'_>]) -> Result<(usize, usize), JournalError> {
        if records.iter().any(is_too_large) {
            return Err(JournalError::TooLarge);
        }
        self.push_with(|out| record_batch::encode(records, out))
    }

    fn push_with(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(usize, usize), JournalError> {
        let start = self.bytes.len();
        if start > MAX_PENDING_BYTES {
            return Err(JournalError::Overloaded);
        }
        let length = format::put_unsealed(&mut self.bytes, encode);
        if length > MAX_RECORD_BYTES {
            self.bytes.truncate(start);
            return Err(JournalError::TooLarge);
        }
        Ok((start, self.bytes.len()))
    }

    pub(super) fn note_lazy(&mut self, (start, end): (usize, usize)) {
        match self.lazy.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => self.lazy.push((start, end)),
        }
    }

    pub(super) fn clear(&mut self) {
        if self.bytes.capacity() > KEPT_BUFFER_BYTES && self.bytes.len() < KEPT_BUFFER_BYTES / 4 {
            self.bytes = Vec::with_capacity(KEPT_BUFFER_BYTES / 4);
        }
        self.bytes.clear();
        self.tickets = 0;
        self.lazy.clear();
    }
}

impl State {
    pub(super) fn new(timing: JournalTiming) -> Self {
        Self {
            retry_after: timing.retry_interval.max(timing.flush_interval),
            pending: Buffer::default(),
            spare: Buffer::default(),
            batch: 1,
            leading: false,
            writing_tickets: 0,
            waiters: Vec::new(),
            batch_hint: BatchHint::default(),
            commit_delay: CommitDelay::default(),
            next_waiter: 0,
            failure: None,
            latched: None,
            last_error: None,
            forgotten: 0,
            lazy_due: None,
            kicked: false,
            woken: Vec::new(),
            to_wake: Vec::new(),
            thread: ThreadState::Busy,
            refusing: false,
            stop: false,
        }
    }

    pub(super) fn admit(&self) -> Result<(), JournalError> {
        if let Some(cause) = &self.latched {
            return Err(cause.clone());
        }
        if let Some(failure) = &self.failure {
            return Err(failure.cause.without_doubt());
        }
        if self.refusing { Err(JournalError::Closed) } else { Ok(()) }
    }

    /// What the journal's thread has to do.
    pub(super) fn work(&self, sync: bool) -> Work {
        if self.leading || self.latched.is_some() {
            return Work::None;
        }
        if sync && !self.waiters.is_empty() {
            return Work::Now;
        }
        match self.lazy_due {
            Some(due) if !self.pending.bytes.is_empty() || self.last_error.is_some() => {
                if due <= Instant::now() { Work::Now } else { Work::At(due) }
            }
            _ => Work::None,
        }
    }

    /// Fails a batch whose write failed, and the one that waits behind it.
    pub(super) fn fail(&mut self, batch: u64, written: &Buffer, cause: JournalError) {
        let certain = cause.without_doubt();
        let forever = matches!(certain, JournalError::Sync(_));
        let behind = mem::take(&mut self.pending);
        if !forever {
            self.keep_lazy(written);
            self.keep_lazy(&behind);
        }
        let unresolved = self.writing_tickets + behind.tickets;
        self.batch += 1;
        if unresolved > 0 {
            self.failure = Some(Failure { batches: batch..=batch + 1, cause, unresolved });
        }
        // Retried even with nothing to write, so that nsqd becomes healthy without a publish.
        self.lazy_due = Some(Instant::now() + self.retry_after);
        if forever {
            self.latched = Some(certain.clone());
        }
        self.last_error = Some(certain);
    }

    pub(super) fn keep_lazy(&mut self, from: &Buffer) {
        for &(start, end) in &from.lazy {
            let at = self.pending.bytes.len();
            if at + (end - start) > MAX_LAZY_KEPT_BYTES {
                self.forgotten += 1;
                continue;
            }
            self.pending.bytes.extend_from_slice(&from.bytes[start..end]);
            self.pending.note_lazy((at, self.pending.bytes.len()));
        }
    }
}
