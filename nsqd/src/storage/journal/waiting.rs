//! Who waits for the journal, and who wakes them.
//!
//! The journal's thread wakes one of those whose batch is done, and that one the others: from within a task that is
//! cheap, from another thread it is dear. So whoever was woken must be polled or dropped before long, as tasks are.

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
        // For the journal's thread a task is dear to wake, for another task it is cheap: the first wakes the rest.
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

    /// Somebody who waited runs again: if it is the first of those who may, it wakes the rest.
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

    /// A waiter goes. If it was the one that was woken to lead, somebody else must.
    pub(super) fn leave(&self, waiter: u64) {
        self.wake_the_rest();
        let mut state = self.state.lock();
        if let Some(at) = state.waiters.iter().position(|other| other.id == waiter) {
            state.waiters.swap_remove(at);
        }
        self.hand_over(state);
    }

    /// Wakes one of those who wait, if nobody leads. It will find that out, and lead.
    pub(super) fn hand_over(&self, state: MutexGuard<'_, State>) {
        if self.may_lead(&state)
            && let Some(heir) = state.waiters.first()
        {
            let heir = heir.waker.clone();
            drop(state);
            heir.wake();
        }
    }
}

/// The moment in which a ticket's holder is told to wait; nothing changes before it has said how to wake it.
pub(super) struct Turn<'a> {
    pub(super) group: &'a Group,
    pub(super) state: MutexGuard<'a, State>,
    pub(super) batch: u64,
}

impl Turn<'_> {
    /// Waits, as the waiter that it was before or as a new one. Returns its number.
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
