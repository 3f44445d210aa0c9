//! The archive: streams the journal to an object store, so that the node can be lost without its messages.
//!
//! Everything happens in one task, which reads what is written anyway. A publish does not notice it.
//!
//! - `tail`: reads the journal behind its writer
//! - `files`: which files a snapshot has, and which of their bytes are archived already
//! - `log_id`: the id of the node's log, in the data directory
//! - `uploader`: the task: chunks, snapshots, garbage collection
//! - [`crate::archive_status`]: how far it is, and which journal files must stay
//!
//! The crate `nsq-archive` knows objects and who owns a log. `docs/ARCHIVE.md` is the page for operators.

mod files;
mod log_id;
mod tail;
#[cfg(test)]
mod tests;
mod uploader;

use std::sync::Arc;
use std::time::Duration;

use nsq_archive::location::{Location, OpenError};
use nsq_archive::objects::Objects;
use nsq_archive::probe::{ProbeError, probe};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use self::log_id::LogIdError;
use self::tail::Tail;
use self::uploader::Uploader;
use crate::archive_status::ArchiveStatus;
use crate::blocking;
use crate::clock;
use crate::topic::registry::Registry;

/// Limit for checking the store before nsqd serves clients.
const PROBE_TIME: Duration = Duration::from_secs(5);
/// Limit for uploading the rest at a stop.
const STOP_TIME: Duration = Duration::from_secs(20);

/// How to archive.
#[derive(Debug, Clone)]
pub struct ArchiveOptions {
    /// `--archive`.
    pub location: Location,
    /// `--archive-interval`.
    pub interval: Duration,
    /// `--archive-snapshot-interval`.
    pub snapshot_interval: Duration,
    /// `--archive-retain`.
    pub retain: Duration,
    /// `--archive-max-lag`, bytes.
    pub max_lag: u64,
    /// Name and address of this node, for the archive's readers.
    pub owner: String,
    pub address: String,
}

/// Why the archive did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error(transparent)]
    LogId(#[from] LogIdError),
    #[error(transparent)]
    Panicked(#[from] JoinError),
}

/// The running task.
pub struct Archive {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Archive {
    /// Starts to archive. Fails if the store does not keep its promises. If it cannot be reached, nsqd retries in the
    /// background. `None` without a journal.
    pub async fn start(
        registry: &Arc<Registry>,
        options: ArchiveOptions,
    ) -> Result<Option<Self>, StartError> {
        let location = options.location.clone();
        let objects = blocking::run(move || location.open()).await??;
        Self::start_with(registry, options, objects).await
    }

    async fn start_with(
        registry: &Arc<Registry>,
        options: ArchiveOptions,
        objects: Arc<dyn Objects>,
    ) -> Result<Option<Self>, StartError> {
        let engine = registry.engine().clone();
        let Some(journal) = engine.store.journal.clone() else { return Ok(None) };
        let is_probed = match tokio::time::timeout(PROBE_TIME, probe(&objects)).await {
            Ok(Ok(())) => true,
            Ok(Err(ProbeError::Store(_))) | Err(_) => false,
            Ok(Err(error)) => return Err(error.into()),
        };
        let tail = Tail::new(engine.store.storage.clone(), engine.store.data_dir.journal_dir(), journal);
        let opened = {
            let engine = engine.clone();
            blocking::run(move || {
                let (log, is_new) =
                    log_id::read_or_create(&*engine.store.storage, engine.store.data_dir.path())?;
                let oldest = tail.oldest();
                let found_bytes = tail.bytes_from(oldest);
                Ok::<_, LogIdError>((tail, log, is_new, oldest, found_bytes))
            })
        };
        let (tail, log, is_new, oldest, found_bytes) = opened.await??;
        let url = options.location.to_string();
        let what = if is_new { "new log" } else { "log" };
        crate::log_info!(engine, "ARCHIVE: {what} {log} in {url}");
        let (number, now) = (oldest.file_number(), clock::monotonic());
        let status =
            Arc::new(ArchiveStatus::new(url, log.to_string(), options.max_lag, number, found_bytes, now));
        engine.set_archive(status.clone());
        let stop = CancellationToken::new();
        let uploader = Uploader::new(registry.clone(), options, objects, log, tail, status, is_probed);
        Ok(Some(Archive { stop: stop.clone(), task: tokio::spawn(uploader.run(stop)) }))
    }

    /// Archives the rest, after the journal was closed. Gives up after some time.
    pub async fn finish(self) {
        self.stop.cancel();
        // The panic hook has reported a task that panicked.
        let _ = self.task.await;
    }
}
