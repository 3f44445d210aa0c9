//! What all topics and channels share: the journal, the place for segments, the limits, the timers, the health.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nsq_daemon::log::Logger;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::backpressure::Backpressure;
use crate::damage::Damage;
use crate::health::{AFTER_FAILED_SYNC, Health, Part};
use crate::log::LogContext;
use crate::log::retention::Retention;
use crate::log::tail::MemoryBound;
use crate::metrics::Metrics;
use crate::storage::anchored::Anchored;
use crate::storage::data_dir::DataDir;
use crate::storage::journal::{Journal, JournalError, JournalTiming, Lsn};
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

/// The numbers that bound topics and channels.
#[derive(Debug, Clone, Copy)]
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
    /// `--retain-for` and `--retain-bytes`, for topics without limits of their own.
    pub retention: Retention,
    /// `--max-bytes-per-file`: size of a segment file.
    pub max_bytes_per_file: u64,
    /// Size of a memory chunk, and of a block on disk: [`crate::log::chunk::CHUNK_BYTES`], but for tests.
    pub chunk_bytes: usize,
    /// Size of a journal file: [`crate::storage::journal::DEFAULT_FILE_BYTES`], but for tests.
    pub journal_file_bytes: u64,
    /// When the journal does what nobody waits for: [`JournalTiming::DEFAULT`], but for tests.
    pub journal_timing: JournalTiming,
}

impl EngineLimits {
    /// What a topic may keep in memory.
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
    /// `--e2e-processing-latency-percentile`: which are told, each in (0, 1].
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
    /// A commit failed. Where a later start may find what was refused, the text says so: `effect` is what happens then.
    pub fn of_commit(error: &JournalError, effect: &str) -> Self {
        match error {
            JournalError::InDoubt(_) => StorageError::in_doubt(error, effect),
            _ => StorageError { text: error.to_string(), is_in_doubt: false },
        }
    }

    /// Nobody knows whether it was stored.
    pub fn in_doubt(cause: impl Display, effect: &str) -> Self {
        StorageError { text: format!("{cause}; {effect} after a restart of nsqd"), is_in_doubt: true }
    }

    /// Whether a later start may find what was refused.
    pub fn is_in_doubt(&self) -> bool {
        self.is_in_doubt
    }
}

/// Of an append: nothing of it was written.
impl From<JournalError> for StorageError {
    fn from(error: JournalError) -> Self {
        StorageError { text: error.to_string(), is_in_doubt: false }
    }
}

/// What does not work, and what to do about it.
fn journal_failure(error: &JournalError) -> String {
    match error {
        JournalError::Sync(_) => format!("{error}; publishes are refused; {AFTER_FAILED_SYNC}"),
        _ => format!("{error}; {}", Part::Journal.remedy()),
    }
}

/// See the module.
pub struct Engine {
    /// Every durable fact; none with `--durability=overflow`.
    pub journal: Option<Arc<Journal>>,
    /// Where files are.
    pub storage: Arc<dyn Storage>,
    /// Which files.
    pub data_dir: DataDir,
    /// When a publish is acknowledged.
    pub durability: Durability,
    /// Bounds.
    pub limits: EngineLimits,
    /// Deadlines.
    pub timers: Arc<Timers>,
    /// Log lines.
    pub logger: Logger,
    /// What was found damaged; also counts it for metrics.
    pub damage: Arc<Damage>,
    /// What all topics' logs share.
    pub log_context: LogContext,
    next_topic: AtomicU32,
    next_channel: AtomicU32,
    /// Topics that are gone have used sequence numbers up to here.
    sequences_used: AtomicU64,
    /// The data directory, as long as it is where it was.
    pub home: Arc<Anchored>,
    homeless: AtomicBool,
    leaving: AtomicBool,
    stopping: AtomicBool,
    has_segments: AtomicBool,
    clean_from: AtomicU32,
    retains: AtomicBool,
    health: Mutex<Health>,
    topology: watch::Sender<u64>,
    /// What publishers and upkeep tell each other.
    pub backpressure: Backpressure,
    latency: OnceLock<LatencyOptions>,
    metrics: Metrics,
    /// Where the journal ended at start.
    journal_end: Lsn,
    checkpoints: Mutex<Checkpoints>,
}

/// From which places on the journal is needed, should one have to go on from a checkpoint.
#[derive(Debug, Default, Clone, Copy)]
struct Checkpoints {
    newest: Lsn,
    /// Needed if the newest is damaged.
    previous: Lsn,
    /// How many were written since the start.
    count: u64,
    /// The file in which the journal last began to name all topics and channels.
    named_in: u64,
}

/// What an engine is made with.
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
    /// The first numbers to give to a topic and a channel.
    pub next_numbers: (TopicNumber, ChannelNumber),
    /// See [`Engine::sequences_used_to`].
    pub sequences_used: u64,
    /// See [`Engine::journal_from`].
    pub journal_end: Lsn,
    /// The place from which the checkpoint that was read needs the journal.
    pub checkpoint_from: Lsn,
}

impl Engine {
    /// An engine with nothing in it.
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
            homeless: AtomicBool::new(false),
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

    /// The journal for something that is ephemeral or not.
    pub fn journal_for(&self, ephemeral: bool) -> Option<&Arc<Journal>> {
        self.journal.as_ref().filter(|_| !ephemeral)
    }

    /// A number that no topic of this data directory ever had.
    pub fn next_topic_number(&self) -> TopicNumber {
        self.next_topic.fetch_add(1, Ordering::Relaxed)
    }

    /// A number that no channel of this data directory ever had.
    pub fn next_channel_number(&self) -> ChannelNumber {
        self.next_channel.fetch_add(1, Ordering::Relaxed)
    }

    /// The numbers that would be given next, for a checkpoint.
    pub fn next_numbers(&self) -> (TopicNumber, ChannelNumber) {
        (self.next_topic.load(Ordering::Relaxed), self.next_channel.load(Ordering::Relaxed))
    }

    /// The place in the journal from which a checkpoint begun now must be followed by replaying. Without a journal
    /// it is the end of the one there was before, so that a later one goes on behind it.
    pub fn journal_from(&self) -> Lsn {
        self.journal.as_ref().map_or(self.journal_end, |journal| journal.position())
    }

    /// A checkpoint stands that needs the journal from this place on. The one before it stays, too.
    pub fn checkpoint_written(&self, journal_from: Lsn) {
        let mut checkpoints = self.checkpoints.lock();
        checkpoints.previous = std::mem::replace(&mut checkpoints.newest, journal_from);
        checkpoints.count += 1;
    }

    /// How many checkpoints were written since the start.
    pub fn checkpoint_count(&self) -> u64 {
        self.checkpoints.lock().count
    }

    /// No journal file before this one is needed by a checkpoint.
    pub fn first_needed_journal_file(&self) -> u64 {
        self.checkpoints.lock().previous.file_number()
    }

    /// Whether the journal says what topics and channels there are in a file after this one; if not, it must be told
    /// before that file goes. From now on it counts as told.
    pub fn take_unnamed(&self, file_number: u64) -> bool {
        let now = self.journal_from().file_number();
        let mut checkpoints = self.checkpoints.lock();
        let unnamed = checkpoints.named_in <= file_number;
        if unnamed {
            checkpoints.named_in = now;
        }
        unnamed
    }

    /// Where a topic created now starts counting: the microsecond, or behind all that any topic deleted so far has
    /// used, if it had counted faster than that or the clock was set back. So ids are not used again when a topic is
    /// deleted and made anew: clients that look for duplicates by id would drop the new ones.
    pub fn new_first_sequence(&self, wall_ns: i64) -> u64 {
        Self::sequence_of_time(wall_ns).max(self.sequences_used.load(Ordering::Relaxed))
    }

    /// The microsecond.
    pub fn sequence_of_time(wall_ns: i64) -> u64 {
        u64::try_from(wall_ns / 1000).unwrap_or(0)
    }

    /// A topic that is gone has used sequence numbers up to here.
    pub fn sequences_used(&self, end: u64) {
        self.sequences_used.fetch_max(end, Ordering::Relaxed);
    }

    /// No new topic starts counting before this.
    pub fn sequences_used_to(&self) -> u64 {
        self.sequences_used.load(Ordering::Relaxed)
    }

    /// The segment files of a new topic.
    pub fn new_segments(&self, topic: TopicNumber) -> SegmentStore {
        SegmentStore::new(
            self.storage.clone(),
            self.data_dir.topic_dir(topic),
            self.limits.max_bytes_per_file,
        )
    }

    /// To be awaited before something is published: see [`crate::backpressure`].
    pub async fn wait_for_room(&self) {
        if let Some(journal) = &self.journal
            && journal.is_tight()
        {
            self.backpressure.wait_while(|| journal.is_tight()).await;
        }
    }

    /// Topics or channels came or went: lookupd must hear of it.
    pub fn topology_changed(&self) {
        self.topology.send_modify(|version| *version += 1);
    }

    /// Changes with every [`Engine::topology_changed`].
    pub fn topology(&self) -> watch::Receiver<u64> {
        self.topology.subscribe()
    }

    /// What is counted while the daemon works.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How end-to-end latencies are measured, if they are.
    pub fn latency(&self) -> Option<&LatencyOptions> {
        self.latency.get()
    }

    /// See [`Registry::measure_latencies`](crate::topic::registry::Registry::measure_latencies).
    pub(crate) fn set_latency(&self, options: LatencyOptions) {
        // The first one stands: it is what channels measure by already.
        let _ = self.latency.set(options);
    }

    /// The data directory is not where it was, or it is again.
    pub fn set_homeless(&self, homeless: bool) {
        self.homeless.store(homeless, Ordering::Relaxed);
    }

    /// Whether there is no data directory: what is published now could not be stored.
    pub fn is_homeless(&self) -> bool {
        self.homeless.load(Ordering::Relaxed)
    }

    /// The daemon will stop soon. Everything works still, but nobody new should come.
    pub fn set_leaving(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Whether the daemon will stop soon.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// The daemon stops: no topics are created any more.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether the daemon stops.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Remembers that something does not work, besides the journal, which has a memory of its own.
    pub fn set_failed(&self, part: Part, cause: &str) {
        let cause = format!("{cause}; {}", part.remedy());
        self.note_failed(part, &cause);
    }

    fn note_failed(&self, part: Part, cause: &str) {
        if self.health.lock().failed(part, cause) {
            crate::log_error!(self, "{cause}");
        }
    }

    /// Logs when the journal begins to fail and when it works again: it has a memory of its own, but writes no log.
    pub fn note_journal(&self) {
        let Some(journal) = &self.journal else { return };
        match journal.failure() {
            Some(error) => self.note_failed(Part::Journal, &journal_failure(&error)),
            None if self.health.lock().works(Part::Journal) => {
                crate::log_info!(self, "journal is written again");
            }
            None => {}
        }
    }

    /// A storage error with this text: nothing was stored.
    pub fn storage_error(&self, cause: impl ToString) -> StorageError {
        StorageError { text: cause.to_string(), is_in_doubt: false }
    }

    /// Whether any topic has segments, so that there may be something to clean.
    pub fn set_has_segments(&self, has_segments: bool) {
        self.has_segments.store(has_segments, Ordering::Relaxed);
    }

    /// Whether any topic may have segments.
    pub fn has_segments(&self) -> bool {
        self.has_segments.load(Ordering::Relaxed)
    }

    /// The topic that cleaning begins with.
    pub fn clean_from(&self) -> TopicNumber {
        self.clean_from.load(Ordering::Relaxed)
    }

    /// Cleaning did not come to this topic.
    pub fn set_clean_from(&self, topic: TopicNumber) {
        self.clean_from.store(topic, Ordering::Relaxed);
    }

    /// Some topic keeps what is finished.
    pub fn set_retains(&self) {
        self.retains.store(true, Ordering::Relaxed);
    }

    /// Whether any topic has ever kept what is finished.
    pub fn retains(&self) -> bool {
        self.retains.load(Ordering::Relaxed)
    }

    /// It works (again).
    pub fn set_works(&self, part: Part) {
        self.health.lock().works(part);
    }

    /// What does not work as it should: publishing, or reading from disk.
    pub fn health(&self) -> Result<(), String> {
        // What concerns publishing first: a failed sync is for good.
        if let Some(journal) = &self.journal
            && let Some(error) = journal.failure()
        {
            let forgotten = match journal.forgotten_count() {
                0 => String::new(),
                count => format!(" ({count} acknowledgements not remembered)"),
            };
            return Err(format!("{}{forgotten}", journal_failure(&error)));
        }
        if let Some(cause) = self.health.lock().cause() {
            return Err(cause.to_owned());
        }
        self.damage.health()
    }
}
