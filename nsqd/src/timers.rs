//! One task that wakes everything that has a deadline. The cost depends on what expires. A channel without messages in
//! flight or deferred has no entry; a channel with a million of them has one entry, with its earliest deadline.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::{self, Nanos};

/// Something that has deadlines.
pub trait Expire: Send + Sync {
    /// Handles some of what is due at `now`, for about as long as a lock may be held. Requests its next wake-up through
    /// its [`Timer`].
    fn expire(&self, now: Nanos);
}

/// Requested deadlines, earliest first: at most one per [`Timer`].
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

/// Time after which wake-ups yield to other tasks.
const TURN: Nanos = 1_000_000;

impl Timers {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A timer that wakes `target`. It has no deadline yet.
    pub fn timer(self: &Arc<Self>, target: Weak<dyn Expire>) -> Timer {
        let mut due = self.due.lock();
        due.next_number += 1;
        Timer { timers: self.clone(), number: due.next_number, at: Nanos::MAX, target }
    }

    /// How many timers have a deadline.
    pub fn len(&self) -> usize {
        self.due.lock().entries.len()
    }

    /// Whether no timer has a deadline.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Wakes timers at their deadlines until `stop` is cancelled.
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
        while let Some(target) = self.pop(now) {
            if let Some(target) = target.upgrade() {
                target.expire(now);
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

/// One deadline, which can be moved. Dropping the timer cancels the deadline.
pub struct Timer {
    timers: Arc<Timers>,
    number: u64,
    /// The deadline, until it is set again. It stays during and after the wake-up.
    at: Nanos,
    target: Weak<dyn Expire>,
}

impl Timer {
    /// Sets the deadline: wakes at `at` or a little later, never earlier. Replaces the previous deadline.
    pub fn set(&mut self, at: Option<Nanos>) {
        let mut due = self.timers.due.lock();
        if self.at != Nanos::MAX {
            due.entries.remove(&(self.at, self.number));
        }
        self.at = at.unwrap_or(Nanos::MAX);
        let Some(at) = at else { return };
        let is_first = due.entries.first_key_value().is_none_or(|(&(first, _), _)| at < first);
        due.entries.insert((at, self.number), self.target.clone());
        drop(due);
        if is_first {
            self.timers.earlier.notify_one();
        }
    }

    /// As [`Timer::set`], but keeps an earlier deadline. Waking too early costs less than moving the deadline each
    /// time.
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

    /// Has work to do again and again.
    struct Repeating {
        timer: Mutex<Option<Timer>>,
        left: Mutex<u32>,
    }

    impl Expire for Repeating {
        fn expire(&self, now: Nanos) {
            let mut left = self.left.lock();
            *left = left.saturating_sub(1);
            let again = (*left > 0).then_some(now);
            if let Some(timer) = &mut *self.timer.lock() {
                timer.set(again);
            }
        }
    }

    fn repeating(timers: &Arc<Timers>, times: u32) -> Arc<Repeating> {
        let repeating = Arc::new(Repeating { timer: Mutex::new(None), left: Mutex::new(times) });
        let target: Weak<Repeating> = Arc::downgrade(&repeating);
        *repeating.timer.lock() = Some(timers.timer(target));
        repeating
    }

    fn set(of: &Repeating, at: Nanos) {
        of.timer.lock().as_mut().unwrap().set(Some(at));
    }

    #[test]
    fn timer_set_repeatedly_has_one_deadline() {
        let timers = Timers::new();
        let (one, other) = (repeating(&timers, 1), repeating(&timers, 1));
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
    async fn timer_with_more_work_is_woken_until_done() {
        let timers = Timers::new();
        let (one, other) = (repeating(&timers, 10_000), repeating(&timers, 3));
        set(&one, 10);
        set(&other, 20);
        timers.expire_due(9).await;
        assert_eq!((*one.left.lock(), *other.left.lock()), (10_000, 3));
        timers.expire_due(30).await;
        assert_eq!((*one.left.lock(), *other.left.lock()), (0, 0));
        assert!(timers.is_empty());
    }
}
