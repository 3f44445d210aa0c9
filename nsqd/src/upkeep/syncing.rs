//! Syncs in the background, for durability levels that do not sync before they acknowledge. `--sync-every` and
//! `--sync-timeout` limit how much a power failure may lose.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::blocking;
use crate::clock::{self, Nanos};
use crate::engine::Engine;
use crate::health::Part;
use crate::storage::SyncError;

/// How often to check for work, and the minimum time between syncs. Continuous syncs would delay reads and writes of
/// the disk.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// When to sync written data.
#[derive(Debug, Clone, Copy)]
pub struct Syncing {
    /// After this many messages; 0 to sync by time only.
    pub every: u64,
    /// Or after this time.
    pub timeout: Duration,
}

/// Counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    written_bytes: u64,
    published_messages: u64,
}

impl Seen {
    fn now(engine: &Engine) -> Self {
        Seen {
            written_bytes: engine.store.unsynced.written_bytes(),
            published_messages: engine.metrics().published_messages.get(),
        }
    }
}

impl Syncing {
    /// Syncs until `stop` is cancelled. After a failed sync, the state on disk is unknown until the next start, and the
    /// node stays unhealthy. A file that could not be opened is synced by the next attempt.
    pub async fn run(self, engine: Arc<Engine>, stop: CancellationToken) {
        // Zero, so that what the start itself wrote is synced, too.
        let mut synced = Seen::default();
        let mut dirty_since = None;
        let mut ticks = clock::ticks(CHECK_INTERVAL);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            let seen = Seen::now(&engine);
            if seen.written_bytes == synced.written_bytes {
                continue;
            }
            let since = *dirty_since.get_or_insert_with(clock::monotonic);
            let messages = seen.published_messages - synced.published_messages;
            if !self.is_due(messages, clock::monotonic().saturating_sub(since)) {
                continue;
            }
            let unsynced = engine.store.unsynced.clone();
            let error = match blocking::run(move || unsynced.sync_written()).await {
                Ok(Ok(())) => {
                    engine.set_works(Part::Syncing);
                    synced = seen;
                    dirty_since = None;
                    continue;
                }
                Ok(Err(SyncError::NotOpened(error))) => error.to_string(),
                Err(panic) => panic.to_string(),
                Ok(Err(SyncError::Failed(error))) => {
                    let cause =
                        format!("cannot sync {error}; the state on disk is unknown until nsqd restarts");
                    engine.set_failed(Part::FailedSync, &cause);
                    stop.cancelled().await;
                    return;
                }
            };
            engine.set_failed(Part::Syncing, &format!("cannot sync {error}"));
        }
    }

    fn is_due(&self, messages: u64, waiting: Nanos) -> bool {
        // As in NSQ: 0 disables the limit by messages.
        (self.every > 0 && messages >= self.every) || waiting >= clock::nanos(self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sync_is_due_by_messages_or_by_time() {
        let syncing = Syncing { every: 10, timeout: Duration::from_nanos(100) };
        assert!(!syncing.is_due(9, 99));
        assert!(syncing.is_due(10, 0) && syncing.is_due(0, 100));
        let by_time = Syncing { every: 0, ..syncing };
        assert!(!by_time.is_due(u64::MAX, 99) && by_time.is_due(0, 100));
    }
}
