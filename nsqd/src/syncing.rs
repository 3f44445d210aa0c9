//! Syncing in the background, for durability levels that do not sync before they acknowledge: what the power failing
//! may take is bounded by `--sync-every` and `--sync-timeout`.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::blocking;
use crate::clock::{self, Nanos};
use crate::engine::Engine;
use crate::health::Part;
use crate::storage::SyncError;
use crate::storage::measured::FileKind;

/// How often it is looked whether there is something to sync, and at most synced. Syncs that follow one on the other
/// would take the disk away from reads and writes.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// When what was written is synced.
#[derive(Debug, Clone, Copy)]
pub struct Syncing {
    /// After so many messages ...
    pub every: u64,
    /// ... or after this time.
    pub timeout: Duration,
}

/// What had been done when something was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    written_bytes: u64,
    published_messages: u64,
}

impl Seen {
    fn now(engine: &Engine) -> Self {
        let written = |disk: &crate::storage::measured::DiskMetrics| {
            disk.of(FileKind::Journal).written_bytes.get() + disk.of(FileKind::Segment).written_bytes.get()
        };
        Seen {
            written_bytes: engine.storage.metrics().map_or(0, written),
            published_messages: engine.metrics().published_messages.get(),
        }
    }
}

impl Syncing {
    /// Syncs until told to stop. When a sync fails, what is on disk is unknown, and stays so until the next start: the
    /// node is unhealthy from then on. What could only not be opened is synced by the next attempt.
    pub async fn run(self, engine: Arc<Engine>, stop: CancellationToken) {
        // What the start itself has written is to be synced, too.
        let mut synced = Seen::default();
        let mut dirty_since = None;
        let mut ticks = clock::ticks(LOOK_INTERVAL);
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
            let storage = engine.storage.clone();
            let error = match blocking::run(move || storage.sync_written()).await {
                Ok(Ok(())) => {
                    engine.set_works(Part::Syncing);
                    synced = seen;
                    dirty_since = None;
                    continue;
                }
                Ok(Err(SyncError::NotOpened(error))) => error.to_string(),
                Err(error) => error,
                Ok(Err(SyncError::Failed(error))) => {
                    let cause =
                        format!("cannot sync {error}; what is on disk is unknown until nsqd is restarted");
                    engine.set_failed(Part::Syncing, &cause);
                    stop.cancelled().await;
                    return;
                }
            };
            engine.set_failed(Part::Syncing, &format!("cannot sync {error}; nsqd tries again"));
        }
    }

    fn is_due(&self, messages: u64, waiting: Nanos) -> bool {
        // As in NSQ: a number that is 0 never comes.
        (self.every > 0 && messages >= self.every) || waiting >= clock::nanos(self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_messages_or_by_time() {
        let syncing = Syncing { every: 10, timeout: Duration::from_nanos(100) };
        assert!(!syncing.is_due(9, 99));
        assert!(syncing.is_due(10, 0) && syncing.is_due(0, 100));
        let by_time = Syncing { every: 0, ..syncing };
        assert!(!by_time.is_due(u64::MAX, 99) && by_time.is_due(0, 100));
    }
}
