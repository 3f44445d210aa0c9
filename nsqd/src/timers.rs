//! One task that wakes whoever has a deadline. Cost follows what expires: a channel without messages in flight or
//! deferred is not here at all, and one with a million of them is here once, with its earliest deadline.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::{self, Nanos};

/// Something with deadlines of its own.
pub trait Expire: Send + Sync {
    /// Time has come to `now`: do what is due. Asks for a later wake-up itself, by [`Timers::schedule`].
    fn expire(&self, now: Nanos);
}

struct Entry {
    at: Nanos,
    whom: Weak<dyn Expire>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

/// The deadlines asked for, earliest first.
#[derive(Default)]
pub struct Timers {
    heap: Mutex<BinaryHeap<Reverse<Entry>>>,
    earlier: Notify,
}

impl Timers {
    /// No deadlines yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Wakes `whom` at `at`, or a little later; never earlier. Wake-ups asked for before stay asked for, so a caller
    /// asks again only for an earlier one.
    pub fn schedule(&self, at: Nanos, whom: Weak<dyn Expire>) {
        let mut heap = self.heap.lock();
        let is_first = heap.peek().is_none_or(|Reverse(first)| at < first.at);
        heap.push(Reverse(Entry { at, whom }));
        drop(heap);
        if is_first {
            self.earlier.notify_one();
        }
    }

    /// Serves deadlines until cancelled.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let next = self.heap.lock().peek().map(|Reverse(first)| first.at);
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(clock::instant(at).into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => self.expire_due(clock::monotonic()),
                () = self.earlier.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn expire_due(&self, now: Nanos) {
        loop {
            let mut heap = self.heap.lock();
            if heap.peek().is_none_or(|Reverse(first)| first.at > now) {
                return;
            }
            let entry = heap.pop();
            drop(heap);
            if let Some(whom) = entry.and_then(|Reverse(entry)| entry.whom.upgrade()) {
                whom.expire(now);
            }
        }
    }
}
