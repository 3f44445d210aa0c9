//! The waiters of the journal, and who wakes them.
//!
//! The journal's thread wakes one waiter whose batch is done, and that one wakes the others: waking a task is cheap
//! from another task and expensive from another thread. So a woken waiter must be polled or dropped soon, as tasks are.

use std::{mem, sync::atomic::Ordering, task::Waker};

use parking_lot::MutexGuard;

use super::{
    group::Group,
    pending::{State, ThreadState, Waiter},
};

impl Group {
    pub(super) fn wake_resolved<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        resolved: u64,
    ) -> MutexGuard<'a, State> {
        if !state.waiters.iter().any(|waiter| waiter.batch <= resolved) {
            return state;
        }
        let mut woken = mem::take(&mut state.woken);
        woken.extend(
            state.waiters.extract_if(.., |waiter| waiter.batch <= resolved).map(|waiter| waiter.waker),
        );
        // Waking a task is expensive for the journal's thread and cheap for another task, so the first wakes the rest.
        let by_thread = self.sync && !state.stop;
        if by_thread {
            state.to_wake.extend(woken.drain(1..));
            self.wakes_left.store(!state.to_wake.is_empty(), Ordering::Release);
        }
        drop(state);
        woken.drain(..).for_each(Waker::wake);
        let mut state = self.state.lock();
        state.woken = woken;
        state
    }

    /// Called when a woken waiter runs or is dropped. The first one wakes the rest.
    #[inline]
    pub(super) fn wake_the_rest(&self) {
        if !self.wakes_left.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.state.lock();
        self.wakes_left.store(false, Ordering::Relaxed);
        let mut rest = mem::take(&mut state.to_wake);
        drop(state);
        rest.drain(..).for_each(Waker::wake);
        let mut state = self.state.lock();
        if state.to_wake.is_empty() {
            state.to_wake = rest;
        }
    }

    /// Removes a waiter. If it was woken to lead, another one must lead.
    pub(super) fn leave(&self, waiter: u64) {
        self.wake_the_rest();
        let mut state = self.state.lock();
        if let Some(at) = state.waiters.iter().position(|other| other.id == waiter) {
            state.waiters.swap_remove(at);
        }
        self.hand_over(state);
    }

    /// Wakes one waiter if nobody leads. The waiter then leads.
    pub(super) fn hand_over(&self, state: MutexGuard<'_, State>) {
        if self.may_lead(&state)
            && let Some(next) = state.waiters.first()
        {
            let next = next.waker.clone();
            drop(state);
            next.wake();
        }
    }
}

/// Lets the holder of a ticket wait. It holds the lock, so nothing changes before the waker is registered.
pub(super) struct Turn<'a> {
    pub(super) group: &'a Group,
    pub(super) state: MutexGuard<'a, State>,
    pub(super) batch: u64,
}

impl Turn<'_> {
    /// Registers the waker, for the waiter `known` or for a new one. Returns the waiter's number.
    pub(super) fn wait(mut self, known: Option<u64>, waker: &Waker) -> u64 {
        let state = &mut *self.state;
        let id = match state.waiters.iter_mut().find(|waiter| Some(waiter.id) == known) {
            Some(waiter) => {
                waiter.waker.clone_from(waker);
                waiter.id
            }
            None => {
                state.next_waiter += 1;
                let id = state.next_waiter;
                state.waiters.push(Waiter { id, batch: self.batch, waker: waker.clone() });
                id
            }
        };
        if self.group.sync && matches!(state.thread, ThreadState::Idle | ThreadState::Until(_)) {
            self.group.work.notify_one();
        }
        id
    }
}
