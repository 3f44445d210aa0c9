//! One task that wakes whoever has a deadline. Cost follows what expires: a channel without messages in flight or
//! deferred is not here at all, and one with a million of them is here once, with its earliest deadline.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::{self, Nanos};

/// Something with deadlines of its own.
pub trait Expire: Send + Sync {
    /// Time has come to `now`: do some of what is due, for about as long as a lock may be held. Asks for the next
    /// wake-up itself, by its [`Timer`].
    fn expire(&self, now: Nanos);
}

/// Deadlines asked for, earliest first: at most one for each [`Timer`].
#[derive(Default)]
struct Due {
    entries: BTreeMap<(Nanos, u64), Weak<dyn Expire>>,
    next_number: u64,
}

/// See the module.
#[derive(Default)]
pub struct Timers {
    due: Mutex<Due>,
    earlier: Notify,
}

/// Other tasks get their turn after wake-ups have taken so long.
const TURN: Nanos = 1_000_000;

impl Timers {
    /// No deadlines yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A timer for `whom`, which has no deadline yet.
    pub fn timer(self: &Arc<Self>, whom: Weak<dyn Expire>) -> Timer {
        let mut due = self.due.lock();
        due.next_number += 1;
        Timer { timers: self.clone(), number: due.next_number, at: Nanos::MAX, whom }
    }

    /// How many timers have a deadline.
    pub fn len(&self) -> usize {
        self.due.lock().entries.len()
    }

    /// Whether no timer has a deadline.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Serves deadlines until cancelled.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let next = self.due.lock().entries.first_key_value().map(|(&(at, _), _)| at);
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(clock::instant(at).into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => self.expire_due(clock::monotonic()).await,
                () = self.earlier.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn expire_due(&self, now: Nanos) {
        let mut turn_ends = now + TURN;
        while let Some(whom) = self.pop(now) {
            if let Some(whom) = whom.upgrade() {
                whom.expire(now);
            }
            if clock::monotonic() > turn_ends {
                tokio::task::yield_now().await;
                turn_ends = clock::monotonic() + TURN;
            }
        }
    }

    fn pop(&self, now: Nanos) -> Option<Weak<dyn Expire>> {
        let mut due = self.due.lock();
        let first = due.entries.first_entry().filter(|first| first.key().0 <= now)?;
        Some(first.remove())
    }
}

/// One deadline, which can be moved. Dropping it takes the deadline back.
pub struct Timer {
    timers: Arc<Timers>,
    number: u64,
    /// The deadline, until it is set anew: also while and after it passes.
    at: Nanos,
    whom: Weak<dyn Expire>,
}

impl Timer {
    /// Wakes whom it is for at `at`, or a little later; never earlier. The deadline before, if there was one, does not
    /// count any more.
    pub fn set(&mut self, at: Option<Nanos>) {
        let mut due = self.timers.due.lock();
        if self.at != Nanos::MAX {
            due.entries.remove(&(self.at, self.number));
        }
        self.at = at.unwrap_or(Nanos::MAX);
        let Some(at) = at else { return };
        let is_first = due.entries.first_key_value().is_none_or(|(&(first, _), _)| at < first);
        due.entries.insert((at, self.number), self.whom.clone());
        drop(due);
        if is_first {
            self.timers.earlier.notify_one();
        }
    }

    /// As [`Timer::set`], unless an earlier deadline is set already: a wake-up too early costs little, and moving the
    /// deadline each time would cost more.
    pub fn set_at_latest(&mut self, at: Nanos) {
        if at < self.at {
            self.set(Some(at));
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if self.at != Nanos::MAX {
            self.timers.due.lock().entries.remove(&(self.at, self.number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has something to do again and again.
    struct Restless {
        timer: Mutex<Option<Timer>>,
        left: Mutex<u32>,
    }

    impl Expire for Restless {
        fn expire(&self, now: Nanos) {
            let mut left = self.left.lock();
            *left = left.saturating_sub(1);
            let again = (*left > 0).then_some(now);
            if let Some(timer) = &mut *self.timer.lock() {
                timer.set(again);
            }
        }
    }

    fn restless(timers: &Arc<Timers>, times: u32) -> Arc<Restless> {
        let restless = Arc::new(Restless { timer: Mutex::new(None), left: Mutex::new(times) });
        let whom: Weak<Restless> = Arc::downgrade(&restless);
        *restless.timer.lock() = Some(timers.timer(whom));
        restless
    }

    fn set(of: &Restless, at: Nanos) {
        of.timer.lock().as_mut().unwrap().set(Some(at));
    }

    #[test]
    fn a_timer_has_one_deadline_however_often_it_is_set() {
        let timers = Timers::new();
        let (one, other) = (restless(&timers, 1), restless(&timers, 1));
        for round in 0..1000 {
            set(&one, 1_000_000 - round);
            set(&other, 500 + round % 3);
            one.timer.lock().as_mut().unwrap().set_at_latest(2_000_000);
        }
        assert_eq!(timers.len(), 2);
        assert_eq!(timers.due.lock().entries.keys().map(|key| key.0).collect::<Vec<_>>(), [500, 999_001]);
        other.timer.lock().as_mut().unwrap().set(None);
        assert_eq!(timers.len(), 1);
        one.timer.lock().take();
        assert!(timers.is_empty());
    }

    #[tokio::test]
    async fn who_has_more_to_do_at_once_is_woken_until_it_is_done() {
        let timers = Timers::new();
        let (one, other) = (restless(&timers, 10_000), restless(&timers, 3));
        set(&one, 10);
        set(&other, 20);
        timers.expire_due(9).await;
        assert_eq!((*one.left.lock(), *other.left.lock()), (10_000, 3));
        timers.expire_due(30).await;
        assert_eq!((*one.left.lock(), *other.left.lock()), (0, 0));
        assert!(timers.is_empty());
    }
}
