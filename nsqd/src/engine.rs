//! What all topics and channels share: journal, segment directories, limits, timers, health.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nsq_daemon::log::Logger;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::backpressure::Backpressure;
use crate::damage::Damage;
use crate::health::{Health, Part, Unhealthy, journal_failure};
use crate::log::LogContext;
use crate::log::chunk::CHUNK_BYTES;
use crate::log::index::MemoryBound;
use crate::log::retention::Retention;
use crate::metrics::Metrics;
use crate::storage::anchored::Anchored;
use crate::storage::data_dir::DataDir;
use crate::storage::journal::{DEFAULT_FILE_BYTES, Journal, JournalError, JournalTiming, Lsn};
use crate::storage::segment::SegmentStore;
use crate::storage::{ChannelNumber, Durability, Storage, TopicNumber};
use crate::timers::Timers;

/// Logs at info level with the engine's logger.
#[macro_export]
macro_rules! log_info {
    ($engine:expr, $($text:tt)*) => { nsq_daemon::info!($engine.logger, $($text)*) };
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
    /// `--node-id`, 0..1024: the upper bits of message ids.
    pub node_id: u16,
    /// `--retain-for` and `--retain-bytes`, for topics that have no limits of their own.
    pub retention: Retention,
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
        node_id: 0,
        retention: Retention { age: 0, bytes: 0 },
        max_bytes_per_file: 100 << 20,
        chunk_bytes: CHUNK_BYTES,
        journal_file_bytes: DEFAULT_FILE_BYTES,
        journal_timing: JournalTiming::DEFAULT,
    };

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
    /// Holds every durable fact; `None` with `--durability=overflow`.
    pub journal: Option<Arc<Journal>>,
    pub storage: Arc<dyn Storage>,
    pub data_dir: DataDir,
    pub durability: Durability,
    pub limits: EngineLimits,
    pub timers: Arc<Timers>,
    pub logger: Logger,
    /// Records damage, and counts it for metrics.
    pub damage: Arc<Damage>,
    /// Shared by all topic logs.
    pub log_context: LogContext,
    next_topic: AtomicU32,
    next_channel: AtomicU32,
    /// Deleted topics have used sequence numbers below this.
    sequences_used: AtomicU64,
    /// The data directory, as long as it is in its place.
    pub home: Arc<Anchored>,
    data_dir_missing: AtomicBool,
    leaving: AtomicBool,
    stopping: AtomicBool,
    has_segments: AtomicBool,
    clean_from: AtomicU32,
    retains: AtomicBool,
    health: Mutex<Health>,
    topology: watch::Sender<u64>,
    /// Lets publishers wait for upkeep.
    pub backpressure: Backpressure,
    latency: OnceLock<LatencyOptions>,
    metrics: Metrics,
    /// End of the journal at start.
    journal_end: Lsn,
    checkpoints: Mutex<Checkpoints>,
}

/// The places from which the checkpoints need the journal.
#[derive(Debug, Default, Clone, Copy)]
struct Checkpoints {
    newest: Lsn,
    /// Needed if the newest checkpoint is damaged.
    previous: Lsn,
    /// Checkpoints written since the start.
    count: u64,
    /// The newest file in which the journal started to record all names of topics and channels.
    named_in: u64,
}

/// The parts of an [`Engine`].
pub struct EngineParts {
    /// See [`Engine::journal`].
    pub journal: Option<Arc<Journal>>,
    /// See [`Engine::storage`].
    pub storage: Arc<dyn Storage>,
    /// See [`Engine::home`].
    pub home: Arc<Anchored>,
    /// See [`Engine::data_dir`].
    pub data_dir: DataDir,
    /// See [`Engine::durability`].
    pub durability: Durability,
    /// See [`Engine::limits`].
    pub limits: EngineLimits,
    /// See [`Engine::logger`].
    pub logger: Logger,
    /// See [`Engine::log_context`].
    pub log_context: LogContext,
    /// The first numbers for a new topic and a new channel.
    pub next_numbers: (TopicNumber, ChannelNumber),
    /// See [`Engine::sequences_used_to`].
    pub sequences_used: u64,
    /// See [`Engine::journal_from`].
    pub journal_end: Lsn,
    /// The place from which the loaded checkpoint needs the journal.
    pub checkpoint_from: Lsn,
}

impl Engine {
    /// An engine without topics.
    pub fn new(parts: EngineParts) -> Arc<Self> {
        Arc::new(Engine {
            journal: parts.journal,
            storage: parts.storage,
            data_dir: parts.data_dir,
            durability: parts.durability,
            limits: parts.limits,
            timers: Timers::new(),
            logger: parts.logger,
            damage: parts.log_context.damage.clone(),
            log_context: parts.log_context,
            next_topic: AtomicU32::new(parts.next_numbers.0),
            next_channel: AtomicU32::new(parts.next_numbers.1),
            sequences_used: AtomicU64::new(parts.sequences_used),
            home: parts.home,
            data_dir_missing: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            has_segments: AtomicBool::new(true),
            clean_from: AtomicU32::new(0),
            retains: AtomicBool::new(false),
            health: Mutex::default(),
            topology: watch::Sender::new(0),
            backpressure: Backpressure::default(),
            latency: OnceLock::new(),
            metrics: Metrics::default(),
            journal_end: parts.journal_end,
            checkpoints: Mutex::new(Checkpoints { newest: parts.checkpoint_from, ..Checkpoints::default() }),
        })
    }

    /// The journal for a topic or channel; `None` if `ephemeral`.
    pub fn journal_for(&self, ephemeral: bool) -> Option<&Arc<Journal>> {
        self.journal.as_ref().filter(|_| !ephemeral)
    }

    /// Returns a number that no topic of this data directory ever had.
    pub fn next_topic_number(&self) -> TopicNumber {
        self.next_topic.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns a number that no channel of this data directory ever had.
    pub fn next_channel_number(&self) -> ChannelNumber {
        self.next_channel.fetch_add(1, Ordering::Relaxed)
    }

    /// The next numbers to assign, for a checkpoint.
    pub fn next_numbers(&self) -> (TopicNumber, ChannelNumber) {
        (self.next_topic.load(Ordering::Relaxed), self.next_channel.load(Ordering::Relaxed))
    }

    /// The place in the journal from which a checkpoint that starts now needs replaying. Without a journal it is the
    /// end of the previous journal, so that a later journal continues after it.
    pub fn journal_from(&self) -> Lsn {
        self.journal.as_ref().map_or(self.journal_end, |journal| journal.position())
    }

    /// Records that a checkpoint was written, which needs the journal from `journal_from` on. The previous checkpoint
    /// is kept, too.
    pub fn checkpoint_written(&self, journal_from: Lsn) {
        let mut checkpoints = self.checkpoints.lock();
        checkpoints.previous = std::mem::replace(&mut checkpoints.newest, journal_from);
        checkpoints.count += 1;
    }

    pub fn checkpoint_count(&self) -> u64 {
        self.checkpoints.lock().count
    }

    /// No checkpoint needs a journal file before this one.
    pub fn first_needed_journal_file(&self) -> u64 {
        self.checkpoints.lock().previous.file_number()
    }

    /// Returns whether no file after this one holds all names of topics and channels. Then the caller must record them
    /// again before it retires this file. Marks them as recorded.
    pub fn take_unnamed(&self, file_number: u64) -> bool {
        let now = self.journal_from().file_number();
        let mut checkpoints = self.checkpoints.lock();
        let unnamed = checkpoints.named_in <= file_number;
        if unnamed {
            checkpoints.named_in = now;
        }
        unnamed
    }

    /// The first sequence number of a topic created now: the current microsecond, or the end of what deleted topics
    /// have used. The latter is higher if a topic counted faster than the clock, or if the clock was set back. Ids are
    /// therefore not reused when a topic is deleted and created again: clients that detect duplicates by id would drop
    /// the new messages.
    pub fn new_first_sequence(&self, wall_ns: i64) -> u64 {
        Self::sequence_of_time(wall_ns).max(self.sequences_used.load(Ordering::Relaxed))
    }

    /// The microsecond of a wall time.
    pub fn sequence_of_time(wall_ns: i64) -> u64 {
        u64::try_from(wall_ns / 1000).unwrap_or(0)
    }

    /// Records that a deleted topic has used sequence numbers below `end`.
    pub fn sequences_used(&self, end: u64) {
        self.sequences_used.fetch_max(end, Ordering::Relaxed);
    }

    /// No new topic starts below this sequence number.
    pub fn sequences_used_to(&self) -> u64 {
        self.sequences_used.load(Ordering::Relaxed)
    }

    /// The segment store of a new topic.
    pub fn new_segments(&self, topic: TopicNumber) -> SegmentStore {
        SegmentStore::new(
            self.storage.clone(),
            self.data_dir.topic_dir(topic),
            self.limits.max_bytes_per_file,
        )
    }

    /// Await this before a publish: see [`crate::backpressure`].
    pub async fn wait_for_room(&self) {
        if let Some(journal) = &self.journal
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

    /// Records whether the data directory is missing from its place.
    pub fn set_data_dir_missing(&self, missing: bool) {
        self.data_dir_missing.store(missing, Ordering::Relaxed);
    }

    /// Whether the data directory is missing, so that a publish could not be stored.
    pub fn is_data_dir_missing(&self) -> bool {
        self.data_dir_missing.load(Ordering::Relaxed)
    }

    /// The daemon will stop soon. Everything still works, but new clients should stay away.
    pub fn set_leaving(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// The daemon stops: from now on, no topics are created.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Records a failure of a part. Failures of the journal itself are recorded by the journal.
    pub fn set_failed(&self, part: Part, cause: &str) {
        let cause = format!("{cause}; {}", part.remedy());
        self.note_failed(part, &cause);
    }

    fn note_failed(&self, part: Part, cause: &str) {
        if self.health.lock().failed(part, cause) {
            crate::log_error!(self, "{cause}");
        }
    }

    /// Logs when the journal starts to fail and when it works again, because the journal itself writes no log.
    pub fn note_journal(&self) {
        let Some(journal) = &self.journal else { return };
        match journal.failure() {
            Some(error) => self.note_failed(Part::Journal, &journal_failure(&error)),
            None if self.health.lock().works(Part::Journal) => {
                crate::log_info!(self, "journal works again");
            }
            None => {}
        }
    }

    /// A storage error with this text. Nothing was stored.
    pub fn storage_error(&self, cause: impl ToString) -> StorageError {
        StorageError { text: cause.to_string(), is_in_doubt: false }
    }

    /// Sets whether any topic has segments, so that there may be something to clean.
    pub fn set_has_segments(&self, has_segments: bool) {
        self.has_segments.store(has_segments, Ordering::Relaxed);
    }

    /// Whether any topic may have segments.
    pub fn has_segments(&self) -> bool {
        self.has_segments.load(Ordering::Relaxed)
    }

    /// The topic with which cleaning starts.
    pub fn clean_from(&self) -> TopicNumber {
        self.clean_from.load(Ordering::Relaxed)
    }

    /// Records that cleaning did not reach this topic.
    pub fn set_clean_from(&self, topic: TopicNumber) {
        self.clean_from.store(topic, Ordering::Relaxed);
    }

    /// Records that a topic retains finished messages.
    pub fn set_retains(&self) {
        self.retains.store(true, Ordering::Relaxed);
    }

    /// Whether any topic has ever retained finished messages.
    pub fn retains(&self) -> bool {
        self.retains.load(Ordering::Relaxed)
    }

    /// Records that a part works (again).
    pub fn set_works(&self, part: Part) {
        self.health.lock().works(part);
    }

    /// Fails with the reason if a part of the engine does not work.
    pub fn health(&self) -> Result<(), Unhealthy> {
        // Problems with publishing come first: a failed sync is permanent.
        if let Some(journal) = &self.journal
            && let Some(error) = journal.failure()
        {
            return Err(Unhealthy::Journal { error, forgotten_count: journal.forgotten_count() });
        }
        if let Some(failure) = self.health.lock().failure() {
            return Err(failure);
        }
        Ok(self.damage.health()?)
    }
}
