//! Group commit: the waiting records, who writes them, and who gets the outcome.
//!
//! Records collect in the *pending* buffer, which has a batch number. The leader swaps it for the
//! spare one, writes it without holding the lock, and then resolves all tickets of the batch. Meanwhile
//! others append to the next batch and wait.
//!
//! With [`Durability::Sync`](super::Durability), the journal's thread leads. Otherwise the first caller that
//! finds no leader leads. It writes a few more batches for those who appended meanwhile, then wakes one of
//! the waiters, which leads next. Leading happens within one poll, so dropping a future cannot
//! interrupt it. A waiter that is dropped wakes another, so no waiter is left behind.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    Durability, JournalError, JournalOptions, JournalTiming,
    catalog::Catalog,
    commit::{Commit, Ticket, block_on},
    pending::{Buffer, MAX_LAZY_KEPT_BYTES, State, ThreadState, Work},
    waiting::Turn,
    writer::Writer,
};
use crate::record::Record;

/// With this many pending bytes, lazy records are written without waiting for the interval.
const LAZY_KICK_BYTES: usize = 64 << 10;
/// Maximum number of times that the journal's thread lets others run before a sync.
const MAX_YIELDS: usize = 16;
/// Maximum number of batches that a caller writes before it hands over.
const MAX_ROUNDS: usize = 8;

/// State that the handle, the tickets and the journal's thread share.
pub(super) struct Group {
    pub(super) sync: bool,
    timing: JournalTiming,
    pub(super) state: Mutex<State>,
    /// Wakes the journal's thread.
    pub(super) work: Condvar,
    /// Locked by the leader, and by `sync`, `check` and `shrink`.
    writer: Mutex<Writer>,
    pub(super) catalog: Arc<Catalog>,
    /// All batches up to this one are done. Written under the state's lock.
    resolved: AtomicU64,
    /// Some tickets of resolved batches failed. Written under the state's lock, before `resolved`.
    failing: AtomicBool,
    /// The state's `to_wake` is not empty. Written under the state's lock.
    pub(super) wakes_left: AtomicBool,
    pub(super) bytes_written: AtomicU64,
}

impl Group {
    pub(super) fn new(options: &JournalOptions, writer: Writer, catalog: Arc<Catalog>) -> Self {
        Self {
            sync: options.durability == Durability::Sync,
            timing: options.timing,
            state: Mutex::new(State::new(options.timing)),
            work: Condvar::new(),
            writer: Mutex::new(writer),
            catalog,
            resolved: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            wakes_left: AtomicBool::new(false),
            bytes_written: AtomicU64::new(0),
        }
    }

    pub(super) fn append(self: &Arc<Self>, record: &Record<'_>) -> Result<Ticket, JournalError> {
        let mut state = self.state.lock();
        state.admit()?;
        state.pending.push(record)?;
        Ok(self.take_ticket(&mut state))
    }

    pub(super) fn append_batch(self: &Arc<Self>, records: &[Record<'_>]) -> Result<Ticket, JournalError> {
        let mut state = self.state.lock();
        state.admit()?;
        state.pending.push_batch(records)?;
        Ok(self.take_ticket(&mut state))
    }

    /// A ticket for the pending batch.
    fn take_ticket(self: &Arc<Self>, state: &mut State) -> Ticket {
        state.pending.tickets += 1;
        if matches!(state.thread, ThreadState::Delaying(publishers) if state.pending.tickets >= publishers) {
            self.work.notify_one();
        }
        let others_may_come = !self.sync && state.batch_hint.expects_others();
        Ticket::new(Arc::clone(self), state.batch, others_may_come)
    }

    pub(super) fn append_lazy(&self, record: &Record<'_>) {
        self.add_lazy(|pending| pending.push(record));
    }

    pub(super) fn append_lazy_batch(&self, records: &[Record<'_>]) {
        self.add_lazy(|pending| pending.push_batch(records));
    }

    fn add_lazy(&self, push: impl FnOnce(&mut Buffer) -> Result<(usize, usize), JournalError>) {
        let mut state = self.state.lock();
        if state.latched.is_some() || state.refusing {
            state.forgotten += 1;
            return;
        }
        if state.last_error.is_some() && state.pending.bytes.len() > MAX_LAZY_KEPT_BYTES {
            state.forgotten += 1;
            return;
        }
        match push(&mut state.pending) {
            Ok(range) => state.pending.note_lazy(range),
            Err(_) => {
                state.forgotten += 1;
                return;
            }
        }
        if state.pending.bytes.len() >= LAZY_KICK_BYTES && !state.kicked && state.last_error.is_none() {
            state.kicked = true;
            self.set_due(&mut state, Instant::now());
        } else if state.lazy_due.is_none() {
            self.set_due(&mut state, Instant::now() + self.timing.flush_interval);
        }
    }

    /// Makes the journal's thread write the pending records at `due`, unless someone else writes them before.
    fn set_due(&self, state: &mut State, due: Instant) {
        state.lazy_due = Some(due);
        match state.thread {
            ThreadState::Idle => _ = self.work.notify_one(),
            ThreadState::Until(wakes) if wakes > due => _ = self.work.notify_one(),
            _ => {}
        }
    }

    pub(super) fn run_flusher(&self) {
        let mut state = self.state.lock();
        while !state.stop {
            match state.work(self.sync) {
                Work::Now => {
                    if self.sync {
                        self.wait_for_publishers(&mut state);
                    }
                    self.lead(state, 1);
                    state = self.state.lock();
                }
                Work::At(due) => {
                    state.thread = ThreadState::Until(due);
                    self.work.wait_until(&mut state, due);
                    state.thread = ThreadState::Busy;
                }
                Work::None => {
                    state.thread = ThreadState::Idle;
                    self.work.wait(&mut state);
                    state.thread = ThreadState::Busy;
                }
            }
        }
        // The remaining waiters find that the thread has stopped, and lead.
        let waiters = mem::take(&mut state.waiters);
        drop(state);
        waiters.into_iter().for_each(|waiter| waiter.waker.wake());
    }

    /// Before a sync: waits for publishers that are likely to append soon.
    fn wait_for_publishers(&self, state: &mut MutexGuard<'_, State>) {
        let waiting = state.pending.tickets;
        let Some((publishers, max_wait)) = state.commit_delay.next_wait(waiting) else {
            return let_others_append(state);
        };
        let deadline = Instant::now() + max_wait;
        state.thread = ThreadState::Delaying(publishers);
        while state.pending.tickets < publishers && !state.stop {
            if self.work.wait_until(state, deadline).timed_out() {
                break;
            }
        }
        state.thread = ThreadState::Busy;
        let all = state.pending.tickets >= publishers;
        state.commit_delay.record_outcome(all);
    }

    /// Writes the pending batch, and then those that others wait for: at most `rounds` batches in total.
    fn lead<'a>(&'a self, mut state: MutexGuard<'a, State>, rounds: usize) {
        state.leading = true;
        for round in 1.. {
            state = self.write_batch(state);
            if round >= rounds || state.waiters.is_empty() {
                break;
            }
        }
        state.leading = false;
        // The thread does nothing while someone leads.
        if state.lazy_due.is_some() && state.thread == ThreadState::Idle {
            self.work.notify_one();
        }
        self.hand_over(state);
    }

    fn write_batch<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let empty = mem::take(&mut state.spare);
        let mut buffer = mem::replace(&mut state.pending, empty);
        let batch = state.batch;
        state.batch += 1;
        state.writing_tickets = buffer.tickets;
        state.batch_hint.record_batch(buffer.tickets);
        state.lazy_due = None;
        state.kicked = false;
        let failed_before = state.last_error.is_some();
        drop(state);

        let began = self.sync.then(Instant::now);
        let outcome = match buffer.bytes.is_empty() {
            false => self.writer.lock().write(&mut buffer.bytes),
            true if failed_before => self.writer.lock().probe(),
            true => Ok(0),
        };

        let mut state = self.state.lock();
        let resolved = match outcome {
            Ok(bytes) => {
                self.bytes_written.fetch_add(bytes, Ordering::Relaxed);
                state.last_error = None;
                state.forgotten = 0;
                batch
            }
            Err(cause) => {
                state.fail(batch, &buffer, cause);
                self.failing.store(state.failure.is_some(), Ordering::Relaxed);
                batch + 1
            }
        };
        state.writing_tickets = 0;
        if let Some(began) = began {
            let waiting = state.pending.tickets;
            state.commit_delay.record_sync(began.elapsed(), buffer.tickets, waiting);
        }
        buffer.clear();
        state.spare = buffer;
        self.resolved.store(resolved, Ordering::Release);
        self.wake_resolved(state, resolved)
    }

    /// Blocks until everything appended so far is written.
    pub(super) fn flush(self: &Arc<Self>) -> Result<(), JournalError> {
        let mut state = self.state.lock();
        if let Some(cause) = &state.latched {
            return Err(cause.clone());
        }
        if let Some(failure) = &state.failure {
            return Err(failure.cause.clone());
        }
        if state.pending.bytes.is_empty() && !state.leading {
            return Ok(());
        }
        // The batch may be empty: it is resolved after the one that is being written.
        let ticket = self.take_ticket(&mut state);
        drop(state);
        block_on(Commit::new(ticket))
    }

    pub(super) fn sync(&self) -> Result<(), JournalError> {
        self.writer.lock().sync()
    }

    /// Checks that the next start will find what is written.
    pub(super) fn check(&self) -> Result<(), JournalError> {
        let checked = self.writer.lock().check();
        if let Err(cause) = &checked {
            let mut state = self.state.lock();
            state.last_error = Some(cause.clone());
            // Writing is retried from now on, even if nobody publishes.
            if state.lazy_due.is_none() {
                self.set_due(&mut state, Instant::now() + self.timing.retry_interval);
            }
        }
        checked
    }

    pub(super) fn shrink(&self) -> Result<(), JournalError> {
        self.writer.lock().shrink()
    }

    pub(super) fn refuse_appends(&self) {
        self.state.lock().refusing = true;
    }

    pub(super) fn stop(&self) {
        self.state.lock().stop = true;
        self.work.notify_one();
    }

    pub(super) fn failure(&self) -> Option<JournalError> {
        let state = self.state.lock();
        state.latched.clone().or_else(|| state.last_error.clone())
    }

    pub(super) fn forgotten_count(&self) -> u64 {
        self.state.lock().forgotten
    }

    /// The outcome of a ticket's batch if it is done. The ticket then counts as resolved.
    fn outcome(&self, state: &mut State, batch: u64) -> Option<Result<(), JournalError>> {
        if self.resolved.load(Ordering::Relaxed) < batch {
            return None;
        }
        let Some(failure) = state.failure.as_mut().filter(|failure| failure.batches.contains(&batch)) else {
            return Some(Ok(()));
        };
        let cause = failure.of(batch);
        failure.unresolved -= 1;
        if failure.unresolved == 0 {
            state.failure = None;
            self.failing.store(false, Ordering::Relaxed);
        }
        Some(Err(cause))
    }

    /// Whether the batch was written successfully. Takes no lock; `false` may also mean that it is unknown.
    #[inline]
    pub(super) fn surely_written(&self, batch: u64) -> bool {
        self.resolved.load(Ordering::Acquire) >= batch && !self.failing.load(Ordering::Relaxed)
    }

    /// Whether a caller may write now, not only the journal's thread.
    pub(super) fn may_lead(&self, state: &State) -> bool {
        !state.leading && (!self.sync || state.stop)
    }

    /// Returns the state of a ticket of this batch. Writes the batch first if a caller may lead.
    #[inline]
    pub(super) fn progress(&self, batch: u64) -> Progress<'_> {
        if self.surely_written(batch) {
            return Progress::Done(Ok(()));
        }
        let mut state = self.state.lock();
        if self.may_lead(&state) && self.resolved.load(Ordering::Relaxed) < batch {
            self.lead(state, MAX_ROUNDS);
            state = self.state.lock();
        }
        match self.outcome(&mut state, batch) {
            Some(outcome) => Progress::Done(outcome),
            None => Progress::Wait(Turn { group: self, state, batch }),
        }
    }

    /// A ticket of this batch was dropped, so nobody needs its outcome.
    pub(super) fn abandon(&self, batch: u64) {
        if self.surely_written(batch) {
            return;
        }
        let mut state = self.state.lock();
        if self.outcome(&mut state, batch).is_some() {
            return;
        }
        if batch < state.batch {
            state.writing_tickets -= 1;
            return;
        }
        state.pending.tickets -= 1;
        if state.lazy_due.is_none() {
            // Perhaps nobody else writes it.
            self.set_due(&mut state, Instant::now() + self.timing.flush_interval);
        }
    }
}

/// Lets others run as long as they keep appending. With idle cores this takes no time.
fn let_others_append(state: &mut MutexGuard<'_, State>) {
    for _ in 0..MAX_YIELDS {
        let tickets = state.pending.tickets;
        MutexGuard::unlocked(state, std::thread::yield_now);
        if state.pending.tickets == tickets {
            return;
        }
    }
}

/// The state of a ticket.
pub(super) enum Progress<'a> {
    Done(Result<(), JournalError>),
    Wait(Turn<'a>),
}
