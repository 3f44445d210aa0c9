//! What all topics and channels share.
//!
//! - [`store`]: where the data is, and from which place in the journal a start would read it
//! - [`numbers`]: numbers that are never given twice
//! - [`status`]: pure; what fails, and whether the node is about to stop
//! - [`draining`]: pure; a drain and its progress
//! - [`upkeep_hints`]: pure; what upkeep may skip

pub mod draining;
pub mod numbers;
pub mod status;
pub mod store;
pub mod upkeep_hints;

use std::fmt::Display;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nsq_daemon::log::Logger;
use nsq_protocol::ArchiveStats;
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};

use self::numbers::Numbers;
use self::status::NodeStatus;
use self::store::Store;
use self::upkeep_hints::UpkeepHints;
use crate::archive_status::ArchiveStatus;
use crate::backpressure::Backpressure;
use crate::channel::ExhaustedChannels;
use crate::clock;
use crate::damage::Damage;
use crate::disk_metrics::DiskMetrics;
use crate::health::{Part, Unhealthy, journal_failure};
use crate::log::LogContext;
use crate::log::chunk::CHUNK_BYTES;
use crate::log::index::MemoryBound;
use crate::log::retention::Retention;
use crate::metrics::Metrics;
use crate::policy::effective::Sources;
use crate::policy::file::PolicyFile;
use crate::storage::TopicNumber;
use crate::storage::journal::{DEFAULT_FILE_BYTES, Journal, JournalError, JournalTiming};
use crate::storage::segment::SegmentStore;
use crate::timers::Timers;

/// Logs at info level with the engine's logger.
#[macro_export]
macro_rules! log_info {
    ($engine:expr, $($text:tt)*) => { nsq_daemon::info!($engine.logger, $($text)*) };
}

/// Logs at warning level with the engine's logger.
#[macro_export]
macro_rules! log_warn {
    ($engine:expr, $($text:tt)*) => { nsq_daemon::warn!($engine.logger, $($text)*) };
}

/// Logs at error level with the engine's logger.
#[macro_export]
macro_rules! log_error {
    ($engine:expr, $($text:tt)*) => { nsq_daemon::error!($engine.logger, $($text)*) };
}

/// Limits for topics and channels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineLimits {
    /// `--mem-queue-size`: messages in memory per topic.
    pub mem_queue_size: u64,
    /// `--mem-queue-bytes`: bytes in memory per topic.
    pub mem_queue_bytes: usize,
    /// `--max-msg-timeout`.
    pub max_msg_timeout: Duration,
    /// `--max-req-timeout`.
    pub max_req_timeout: Duration,
    /// `--max-channel-consumers`; 0 for no limit.
    pub max_channel_consumers: usize,
    /// `--dedupe-max-ids`: ids that a topic remembers at most.
    pub dedupe_max_ids: usize,
    /// `--node-id`, 0..1024: the upper bits of message ids.
    pub node_id: u16,
    /// `--retain-for` and `--retain-bytes`, for topics that have no limits of their own.
    pub retention: Retention,
    /// `--ttl`; zero for no limit.
    pub ttl: Duration,
    /// `--max-bytes-per-file`: size of a segment file.
    pub max_bytes_per_file: u64,
    /// Size of a memory chunk, and of a block on disk: [`crate::log::chunk::CHUNK_BYTES`] except in tests.
    pub chunk_bytes: usize,
    /// Size of a journal file: [`crate::storage::journal::DEFAULT_FILE_BYTES`] except in tests.
    pub journal_file_bytes: u64,
    /// When the journal does background work: [`JournalTiming::DEFAULT`] except in tests.
    pub journal_timing: JournalTiming,
}

impl EngineLimits {
    /// The defaults of the flags, with node id 0.
    pub const DEFAULT: EngineLimits = EngineLimits {
        mem_queue_size: 10_000,
        mem_queue_bytes: 64 << 20,
        max_msg_timeout: Duration::from_secs(15 * 60),
        max_req_timeout: Duration::from_secs(60 * 60),
        max_channel_consumers: 0,
        dedupe_max_ids: 1_000_000,
        node_id: 0,
        retention: Retention { age: 0, bytes: 0 },
        ttl: Duration::ZERO,
        max_bytes_per_file: 100 << 20,
        chunk_bytes: CHUNK_BYTES,
        journal_file_bytes: DEFAULT_FILE_BYTES,
        journal_timing: JournalTiming::DEFAULT,
    };

    /// Where settings come from: these policies, and the flags.
    pub fn sources(&self, file: Arc<PolicyFile>) -> Sources {
        Sources {
            file,
            retention: self.retention,
            longest_delay: clock::nanos(self.max_req_timeout),
            ttl: clock::nanos(self.ttl),
        }
    }

    /// How much a topic may keep in memory.
    pub fn memory_bound(&self) -> MemoryBound {
        MemoryBound {
            messages: self.mem_queue_size,
            bytes: self.mem_queue_bytes,
            chunk_bytes: self.chunk_bytes,
        }
    }
}

/// How end-to-end latencies are measured.
#[derive(Debug, Clone, PartialEq)]
pub struct LatencyOptions {
    /// `--e2e-processing-latency-percentile`: the reported quantiles, each in (0, 1].
    pub quantiles: Vec<f64>,
    /// `--e2e-processing-latency-window-time`.
    pub window: Duration,
}

/// Something could not be stored. The text is for logs and for the publisher.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct StorageError {
    text: String,
    is_in_doubt: bool,
}

impl StorageError {
    /// A commit failed. If a later start may find the refused record, the text says so: `effect` describes what happens
    /// then.
    pub fn of_commit(error: &JournalError, effect: &str) -> Self {
        match error {
            JournalError::InDoubt(_) => StorageError::in_doubt(error, effect),
            _ => StorageError { text: error.to_string(), is_in_doubt: false },
        }
    }

    /// It is unknown whether the record was stored.
    pub fn in_doubt(cause: impl Display, effect: &str) -> Self {
        StorageError { text: format!("{cause}; {effect} after a restart of nsqd"), is_in_doubt: true }
    }

    /// Whether a later start may find the refused record.
    pub fn is_in_doubt(&self) -> bool {
        self.is_in_doubt
    }
}

/// For an append: nothing of it was written.
impl From<JournalError> for StorageError {
    fn from(error: JournalError) -> Self {
        StorageError { text: error.to_string(), is_in_doubt: false }
    }
}

/// See the module.
pub struct Engine {
    pub store: Store,
    pub numbers: Numbers,
    pub status: NodeStatus,
    pub upkeep_hints: UpkeepHints,
    /// Notified when a channel may have a rate of all nodes together.
    pub total_rates: Notify,
    pub limits: EngineLimits,
    sources: RwLock<Arc<Sources>>,
    pub timers: Arc<Timers>,
    /// Channels with messages to dead-letter.
    pub exhausted: Arc<ExhaustedChannels>,
    pub logger: Logger,
    /// Records damage, and counts it for metrics.
    pub damage: Arc<Damage>,
    /// Shared by all topic logs.
    pub log_context: LogContext,
    /// Lets publishers wait for upkeep.
    pub backpressure: Backpressure,
    topology: watch::Sender<u64>,
    latency: OnceLock<LatencyOptions>,
    disk_metrics: OnceLock<Arc<DiskMetrics>>,
    archive: OnceLock<Arc<ArchiveStatus>>,
    metrics: Metrics,
}

impl Engine {
    /// An engine without topics.
    pub fn new(
        store: Store,
        numbers: Numbers,
        limits: EngineLimits,
        policies: Arc<PolicyFile>,
        logger: Logger,
        log_context: LogContext,
    ) -> Arc<Self> {
        Arc::new(Engine {
            store,
            numbers,
            status: NodeStatus::default(),
            upkeep_hints: UpkeepHints::default(),
            total_rates: Notify::new(),
            sources: RwLock::new(Arc::new(limits.sources(policies))),
            limits,
            timers: Timers::new(),
            exhausted: Arc::default(),
            logger,
            damage: log_context.damage.clone(),
            log_context,
            backpressure: Backpressure::default(),
            topology: watch::Sender::new(0),
            latency: OnceLock::new(),
            disk_metrics: OnceLock::new(),
            archive: OnceLock::new(),
            metrics: Metrics::default(),
        })
    }

    /// Where the settings of topics and channels come from.
    pub fn policy_sources(&self) -> Arc<Sources> {
        self.sources.read().clone()
    }

    /// Replaces the policies of the policy file. The caller must apply them to topics and channels.
    pub fn set_policy_file(&self, file: PolicyFile) {
        *self.sources.write() = Arc::new(self.limits.sources(Arc::new(file)));
    }

    /// The journal for a topic or channel; `None` if `ephemeral`.
    pub fn journal_for(&self, ephemeral: bool) -> Option<&Arc<Journal>> {
        self.store.journal_for(ephemeral)
    }

    /// The segment store of a new topic.
    pub fn new_segments(&self, topic: TopicNumber) -> SegmentStore {
        let dir = self.store.data_dir.topic_dir(topic);
        SegmentStore::new(self.store.storage.clone(), dir, self.limits.max_bytes_per_file)
    }

    /// Await this before a publish: see [`crate::backpressure`].
    pub async fn wait_for_room(&self) {
        if let Some(journal) = &self.store.journal
            && journal.is_tight()
        {
            self.backpressure.wait_while(|| journal.is_tight()).await;
        }
    }

    /// Records that a topic or channel was created or deleted, so that lookupd is informed.
    pub fn topology_changed(&self) {
        self.topology.send_modify(|version| *version += 1);
    }

    /// Changes with every [`Engine::topology_changed`].
    pub fn topology(&self) -> watch::Receiver<u64> {
        self.topology.subscribe()
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How to measure end-to-end latencies; `None` if disabled.
    pub fn latency(&self) -> Option<&LatencyOptions> {
        self.latency.get()
    }

    /// See [`Registry::measure_latencies`](crate::topic::registry::Registry::measure_latencies).
    pub(crate) fn set_latency(&self, options: LatencyOptions) {
        // The first setting wins, because channels already measure with it.
        let _ = self.latency.set(options);
    }

    /// Measurements of file operations; `None` unless somebody measures them.
    pub fn disk_metrics(&self) -> Option<&DiskMetrics> {
        self.disk_metrics.get().map(|metrics| &**metrics)
    }

    /// Makes [`Engine::disk_metrics`] return these. The first call decides.
    pub fn set_disk_metrics(&self, metrics: Arc<DiskMetrics>) {
        let _ = self.disk_metrics.set(metrics);
    }

    /// The state of the archive; `None` without one.
    pub fn archive(&self) -> Option<&Arc<ArchiveStatus>> {
        self.archive.get()
    }

    /// Makes [`Engine::archive`] return this. The first call decides.
    pub fn set_archive(&self, status: Arc<ArchiveStatus>) {
        let _ = self.archive.set(status);
    }

    /// What [`Engine::archive`] says now.
    pub fn archive_stats(&self) -> Option<ArchiveStats> {
        let written_bytes = self.store.journal.as_ref().map_or(0, |journal| journal.bytes_written());
        Some(self.archive()?.stats(written_bytes, clock::monotonic()))
    }

    /// Records a failure of a part. Failures of the journal itself are recorded by the journal.
    pub fn set_failed(&self, part: Part, cause: &str) {
        let cause = format!("{cause}; {}", part.remedy());
        self.note_failed(part, &cause);
    }

    fn note_failed(&self, part: Part, cause: &str) {
        if self.status.failed(part, cause) {
            crate::log_error!(self, "{cause}");
        }
    }

    /// Logs when the journal starts to fail and when it works again, because the journal itself writes no log.
    pub fn note_journal(&self) {
        let Some(journal) = &self.store.journal else { return };
        match journal.failure() {
            Some(error) => self.note_failed(Part::Journal, &journal_failure(&error)),
            None if self.status.works(Part::Journal) => {
                crate::log_info!(self, "journal works again");
            }
            None => {}
        }
    }

    /// A storage error with this text. Nothing was stored.
    pub fn storage_error(&self, cause: impl ToString) -> StorageError {
        StorageError { text: cause.to_string(), is_in_doubt: false }
    }

    /// Records that a part works (again).
    pub fn set_works(&self, part: Part) {
        self.status.works(part);
    }

    /// Fails with the reason if a part of the engine does not work.
    pub fn health(&self) -> Result<(), Unhealthy> {
        // Problems with publishing come first: a failed sync is permanent.
        if let Some(journal) = &self.store.journal
            && let Some(error) = journal.failure()
        {
            return Err(Unhealthy::Journal { error, forgotten_count: journal.forgotten_count() });
        }
        if let Some(failure) = self.status.failure() {
            return Err(failure);
        }
        Ok(self.damage.health()?)
    }
}
