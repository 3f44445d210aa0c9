//! The task: appends chunks about each interval while there are new records, writes snapshots, deletes what nothing needs.
//!
//! An epoch begins with the oldest journal file, so its snapshots need no chunk of another epoch. While the store fails, the
//! task retries. If more than `--archive-max-lag` waits, upkeep deletes journal files all the same. Then chunks go on behind the
//! gap, and a snapshot makes the log complete again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nsq_archive::LogId;
use nsq_archive::chain::Listing;
use nsq_archive::claim::{About, Why};
use nsq_archive::names::{Name, Place, log_root};
use nsq_archive::objects::{Objects, StoreError};
use nsq_archive::owner::{NewChunk, Owner, OwnerError, Patience, new_nonce};
use nsq_archive::ownership::{Lost, Opener};
use nsq_archive::probe::{ProbeError, probe};
use nsq_archive::snapshot::Snapshot;
use parking_lot::Mutex;
use tokio::task::JoinError;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::files::{Files, Pass};
use super::tail::{Records, Tail, TailError};
use super::{ArchiveOptions, STOP_TIME};
use crate::archive_status::ArchiveStatus;
use crate::blocking;
use crate::clock;
use crate::engine::Engine;
use crate::storage::journal::{Journal, JournalError, Lsn};
use crate::topic::registry::Registry;

/// About the largest chunk.
const CHUNK_BYTES: u64 = 8 << 20;
/// Records without a publish, such as finishes, wait so long for others.
const QUIET_INTERVAL: Duration = Duration::from_secs(10);
/// A snapshot is due after this many bytes of journal, but not more often than each [`MIN_SNAPSHOT_INTERVAL`].
const SNAPSHOT_BYTES: u64 = 256 << 20;
const MIN_SNAPSHOT_INTERVAL: Duration = Duration::from_secs(15);
/// How often a snapshot begins again, because files went while it read them.
const MAX_PASSES: usize = 8;
/// How long a snapshot waits for a new checkpoint.
const CHECKPOINT_TIME: Duration = Duration::from_secs(5);
const CHECKPOINT_POLL: Duration = Duration::from_millis(50);
/// Pause after a failed snapshot.
const SNAPSHOT_PAUSE: Duration = Duration::from_secs(10);
/// The first and the longest pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// One attempt per call: the task retries itself.
const PATIENCE: Patience =
    Patience { request_timeout: Duration::from_secs(15), attempts: 1, pause: Duration::ZERO };

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Lost(#[from] Lost),
    /// The store cannot hold an archive.
    #[error(transparent)]
    Unfit(ProbeError),
    #[error("{0}")]
    Tail(#[from] TailError),
    #[error("cannot read the files for a snapshot: {0}")]
    Files(#[from] std::io::Error),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("segments changed {MAX_PASSES} times while a snapshot was made")]
    Unsettled,
    #[error("journal files were deleted while a snapshot was made")]
    Interrupted,
    #[error("the chunk before is not appended yet")]
    Unfinished,
    #[error(transparent)]
    Panicked(#[from] JoinError),
}

impl From<OwnerError> for Failure {
    fn from(error: OwnerError) -> Self {
        match error {
            OwnerError::Store(error) => Failure::Store(error),
            OwnerError::Lost(lost) => Failure::Lost(lost),
            OwnerError::Unfinished => Failure::Unfinished,
        }
    }
}

impl Failure {
    /// Whether nothing can be archived any more.
    fn is_final(&self) -> bool {
        matches!(self, Failure::Lost(_) | Failure::Unfit(_))
    }
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// There is more to archive.
    Continue,
    Wait,
}

/// A chunk that is being appended.
#[derive(Clone, Copy)]
struct InFlight {
    from: Lsn,
    to: Lsn,
    bytes: u64,
    began: Instant,
}

/// See the module.
pub(super) struct Uploader {
    engine: Arc<Engine>,
    registry: Arc<Registry>,
    options: ArchiveOptions,
    objects: Arc<dyn Objects>,
    log: LogId,
    tail: Arc<Tail>,
    status: Arc<ArchiveStatus>,
    is_probed: bool,
    owner: Option<Owner>,
    in_flight: Option<InFlight>,
    /// The end of the last chunk.
    archived: Lsn,
    /// Where reading goes on: at the same place, or at the beginning of a later file.
    read_to: Lsn,
    /// Chunks without a gap, and where their records begin; from the first one that the last snapshot needs.
    chunks: VecDeque<(Place, Lsn)>,
    files: Arc<Mutex<Files>>,
    last_chunk: Option<Instant>,
    /// [`Uploader::published`] before the journal was read last.
    published: u64,
    /// It was the same before the read before.
    is_settled: bool,
    last_snapshot: Option<Instant>,
    bytes_since_snapshot: u64,
    /// No snapshot is tried before.
    next_snapshot: Instant,
    /// A snapshot was written, and no garbage was collected since.
    has_garbage: bool,
}

impl Uploader {
    pub(super) fn new(
        registry: Arc<Registry>,
        options: ArchiveOptions,
        objects: Arc<dyn Objects>,
        log: LogId,
        tail: Tail,
        status: Arc<ArchiveStatus>,
        is_probed: bool,
    ) -> Self {
        Uploader {
            engine: registry.engine().clone(),
            registry,
            options,
            objects,
            log,
            tail: Arc::new(tail),
            status,
            is_probed,
            owner: None,
            in_flight: None,
            archived: Lsn(0),
            read_to: Lsn(0),
            chunks: VecDeque::new(),
            files: Arc::default(),
            last_chunk: None,
            published: 0,
            is_settled: false,
            last_snapshot: None,
            bytes_since_snapshot: 0,
            next_snapshot: Instant::now(),
            has_garbage: false,
        }
    }

    /// Archives until `stop` is cancelled, then the rest.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = self.archive() => return,
            () = stop.cancelled() => {}
        }
        match timeout(STOP_TIME, self.finish_with_retries()).await {
            Ok(Ok(())) => crate::log_info!(self.engine, "ARCHIVE: everything is archived"),
            Ok(Err(error)) => self.warn_unfinished(&error.to_string()),
            Err(_) => self.warn_unfinished(&format!("it took longer than {STOP_TIME:?}")),
        }
    }

    fn warn_unfinished(&self, cause: &str) {
        let bytes = self.status.lag_bytes(self.journal().bytes_written());
        crate::log_warn!(
            self.engine,
            "ARCHIVE: not everything is archived, {bytes} bytes of the journal are only here: {cause}; the next start continues"
        );
    }

    /// Archives until that is no longer possible.
    async fn archive(&mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.step().await {
                Ok(next) => {
                    pause = FIRST_PAUSE;
                    if self.status.works() {
                        crate::log_info!(self.engine, "ARCHIVE: works again");
                    }
                    if next == Next::Wait {
                        sleep(self.options.interval).await;
                    }
                }
                Err(error) if error.is_final() => {
                    self.status.set_lost(&error.to_string());
                    crate::log_error!(
                        self.engine,
                        "ARCHIVE: {error}; nothing is archived any more, publishing goes on; restart nsqd to begin again"
                    );
                    return;
                }
                Err(error) => {
                    if self.status.failed(&error.to_string()) {
                        crate::log_error!(
                            self.engine,
                            "ARCHIVE: {error}; publishing goes on, nsqd retries by itself"
                        );
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Next, Failure> {
        if self.owner.is_none() {
            self.status.is_behind(clock::monotonic());
            self.open().await?;
        }
        if self.is_quiet() {
            return Ok(Next::Wait);
        }
        if self.append_new().await? == Next::Continue {
            return Ok(Next::Continue);
        }
        if self.is_snapshot_due() {
            self.try_snapshot().await?;
        }
        if self.has_garbage {
            self.collect_garbage().await?;
        }
        Ok(Next::Wait)
    }

    /// [`Uploader::finish`] until it succeeds, or until nothing can be archived any more.
    async fn finish_with_retries(&mut self) -> Result<(), Failure> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.finish().await {
                Err(error) if !error.is_final() => {
                    self.status.failed(&error.to_string());
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                ended => return ended,
            }
        }
    }

    /// After a stop: archives the rest of the journal, and a last snapshot.
    async fn finish(&mut self) -> Result<(), Failure> {
        if self.status.is_lost() {
            return Ok(());
        }
        if self.owner.is_none() {
            self.open().await?;
        }
        while self.append_new().await? == Next::Continue {}
        if !self.chunks.is_empty() && self.bytes_since_snapshot > 0 {
            self.write_snapshot().await?;
        }
        Ok(())
    }

    async fn open(&mut self) -> Result<(), Failure> {
        if !self.is_probed {
            match probe(&self.objects).await {
                Ok(()) => self.is_probed = true,
                Err(ProbeError::Store(error)) => return Err(error.into()),
                Err(error) => return Err(Failure::Unfit(error)),
            }
        }
        let now = clock::wall_ns();
        let (owner, address) = (self.options.owner.clone(), self.options.address.clone());
        let opener = Opener {
            log: self.log,
            owner: owner.clone(),
            address: address.clone(),
            why: Why::Start,
            nonce: new_nonce(),
            now,
        };
        let opened = Owner::open(self.objects.clone(), opener, PATIENCE).await?;
        let about = About {
            log: self.log.to_string(),
            owner,
            address,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            data_path: self.engine.store.data_dir.path().display().to_string(),
            made_at: now,
        };
        opened.describe(&about).await?;
        let snapshot = self.newest_snapshot().await?;
        *self.files.lock() = snapshot.map(Files::of_snapshot).unwrap_or_default();
        self.status.set_epoch(opened.epoch().0);
        crate::log_info!(self.engine, "ARCHIVE: owns epoch {} of log {}", opened.epoch(), self.log);
        self.owner = Some(opened);
        self.begin_at(self.tail.oldest());
        Ok(())
    }

    /// The newest snapshot of earlier epochs, if all its parts are still there.
    async fn newest_snapshot(&self) -> Result<Option<Snapshot>, StoreError> {
        let listed = self.objects.list(&log_root(self.log)).await?;
        let listing = Listing::of(listed.iter().map(|listed| listed.key.as_str()), self.log);
        let Some(&place) = listing.snapshots.last() else { return Ok(None) };
        let object = self.objects.get(&Name::Snapshot(place).key(self.log)).await?;
        let decoded = object.and_then(|object| Snapshot::decode(&object, self.log, place).ok());
        let snapshot = decoded.map(|(_, snapshot)| snapshot);
        Ok(snapshot.filter(|snapshot| snapshot.parts().all(|part| listing.parts.contains(&part))))
    }

    /// Begins a stretch of chunks without a gap.
    fn begin_at(&mut self, begin: Lsn) {
        self.archived = begin;
        self.read_to = begin;
        self.chunks.clear();
        self.last_snapshot = None;
    }

    fn journal(&self) -> &Arc<Journal> {
        self.tail.journal()
    }

    /// Whether the new records may wait for others.
    fn is_quiet(&self) -> bool {
        let was_now = self.last_chunk.is_some_and(|at| at.elapsed() < QUIET_INTERVAL);
        let is_little = self.status.lag_bytes(self.journal().bytes_written()) < CHUNK_BYTES;
        self.in_flight.is_none()
            && was_now
            && self.is_settled
            && self.published() == self.published
            && is_little
    }

    /// Number of messages that came from producers and from other nodes.
    fn published(&self) -> u64 {
        let metrics = self.engine.metrics();
        metrics.published_messages.get() + metrics.adopted_messages.get()
    }

    /// Appends a chunk of the records that are new.
    async fn append_new(&mut self) -> Result<Next, Failure> {
        self.finish_append().await?;
        let (written, now) = (self.journal().bytes_written(), clock::monotonic());
        let published = self.published();
        let Some(Records { content, to, bytes, is_end }) = self.read().await? else {
            return Ok(Next::Continue);
        };
        if bytes > 0 {
            self.status.is_behind(now);
            self.append(content, to, bytes).await?;
        }
        self.read_to = to;
        if !is_end {
            return Ok(Next::Continue);
        }
        // Messages count before they are in the journal: the next read has them for sure.
        self.is_settled = published == self.published;
        self.published = published;
        let is_behind = self.journal().position() != self.read_to;
        self.status.caught_up(written, self.read_to.file_number(), now, is_behind);
        Ok(Next::Wait)
    }

    /// Reads what is new. `None` if there is a gap.
    async fn read(&mut self) -> Result<Option<Records>, Failure> {
        let (tail, from) = (self.tail.clone(), self.read_to);
        match blocking::run(move || tail.read(from, CHUNK_BYTES)).await? {
            Ok(records) => Ok(Some(records)),
            Err(TailError::Gone { number, continue_at }) => {
                self.skip_gap(number, continue_at).await?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Journal files were deleted before they were archived.
    async fn skip_gap(&mut self, number: u64, continue_at: Lsn) -> Result<(), Failure> {
        crate::log_error!(
            self.engine,
            "ARCHIVE: journal file {number} was deleted before it was archived: the archive was behind by more than \
             --archive-max-lag, or the volume was full; a snapshot makes it complete again"
        );
        let tail = self.tail.clone();
        let written = self.journal().bytes_written();
        let left = blocking::run(move || tail.bytes_from(continue_at)).await?;
        self.status.has_gap(continue_at.file_number(), left, written);
        self.begin_at(continue_at);
        Ok(())
    }

    async fn append(&mut self, content: Vec<u8>, to: Lsn, bytes: u64) -> Result<(), Failure> {
        let Some(owner) = &mut self.owner else { return Ok(()) };
        let chunk = NewChunk { content, from: self.archived, to };
        // Set before the call: it may take effect although it fails, or is dropped.
        self.in_flight = Some(InFlight { from: chunk.from, to, bytes, began: Instant::now() });
        let place = owner.append(&chunk, clock::wall_ns()).await?;
        self.appended(place);
        Ok(())
    }

    /// Finishes an append that failed.
    async fn finish_append(&mut self) -> Result<(), Failure> {
        let Some(owner) = &mut self.owner else { return Ok(()) };
        match owner.finish_append().await? {
            Some(place) => self.appended(place),
            // A call that was dropped before it began.
            None => self.in_flight = None,
        }
        Ok(())
    }

    fn appended(&mut self, place: Place) {
        let Some(InFlight { from, to, bytes, began }) = self.in_flight.take() else { return };
        self.chunks.push_back((place, from));
        self.archived = to;
        self.read_to = to;
        self.last_chunk = Some(Instant::now());
        self.bytes_since_snapshot += bytes;
        self.status.uploads.record(began.elapsed());
        self.status.chunk_written(bytes, to.file_number());
    }

    fn is_snapshot_due(&self) -> bool {
        if self.next_snapshot > Instant::now() {
            return false;
        }
        let Some(last) = self.last_snapshot else {
            return !self.chunks.is_empty() || !self.registry.all_unsorted().is_empty();
        };
        let elapsed = last.elapsed();
        (self.bytes_since_snapshot > 0 && elapsed >= self.options.snapshot_interval)
            || (self.bytes_since_snapshot >= SNAPSHOT_BYTES && elapsed >= MIN_SNAPSHOT_INTERVAL)
    }

    /// Writes a snapshot. If that fails, chunks go on.
    async fn try_snapshot(&mut self) -> Result<(), Failure> {
        self.refresh_checkpoint().await;
        match self.write_snapshot().await {
            Err(error) if !error.is_final() => {
                self.next_snapshot = Instant::now() + SNAPSHOT_PAUSE;
                Err(error)
            }
            outcome => outcome,
        }
    }

    /// Waits for a new checkpoint, so that a restore replays little. Gives up after some time.
    async fn refresh_checkpoint(&self) {
        let before = self.engine.store.checkpoint_count();
        self.status.want_checkpoint();
        let began = Instant::now();
        while self.engine.store.checkpoint_count() == before && began.elapsed() < CHECKPOINT_TIME {
            sleep(CHECKPOINT_POLL).await;
        }
    }

    async fn write_snapshot(&mut self) -> Result<(), Failure> {
        if self.chunks.is_empty() {
            // A snapshot belongs to a chunk.
            self.append(Vec::new(), self.archived, 0).await?;
        }
        let bytes_before = self.bytes_since_snapshot;
        let (oldest, files) = self.upload_files().await?;
        let journal = self.journal().clone();
        // What the files have must be in the journal's files before it is archived.
        let flushed = blocking::run(move || journal.flush().map(|()| journal.position())).await?;
        // At a stop the journal is closed, and everything is written.
        let needed = match flushed {
            Ok(position) => position,
            Err(JournalError::Closed) => self.journal().position(),
            Err(error) => return Err(error.into()),
        };
        while self.read_to < needed {
            self.append_new().await?;
        }
        let from = oldest.min(self.archived);
        let before = self.chunks.partition_point(|(_, begin)| *begin <= from);
        let Some(&(first_chunk, _)) = before.checked_sub(1).and_then(|index| self.chunks.get(index)) else {
            return Err(Failure::Interrupted);
        };
        let snapshot = Snapshot { first_chunk, from, to: self.archived, files };
        let Some(owner) = &mut self.owner else { return Ok(()) };
        let now = clock::wall_ns();
        let place = owner.write_snapshot(&snapshot, now).await?;
        self.files.lock().keep_only(&snapshot);
        self.chunks.retain(|(place, _)| *place >= first_chunk);
        self.last_snapshot = Some(Instant::now());
        self.bytes_since_snapshot -= bytes_before;
        self.has_garbage = true;
        self.status.snapshot_written(now);
        crate::log_info!(self.engine, "ARCHIVE: snapshot {place} of {} files", snapshot.files.len());
        Ok(())
    }

    /// Uploads what is new in the files that a snapshot needs. Returns where the oldest journal file began before.
    async fn upload_files(&mut self) -> Result<(Lsn, Vec<nsq_archive::snapshot::File>), Failure> {
        for _ in 0..MAX_PASSES {
            // Before anything else: files that are deleted meanwhile are in chunks.
            let oldest = self.tail.oldest();
            let (engine, files) = (self.engine.clone(), self.files.clone());
            let mut pass = blocking::run(move || Pass::begin(engine, &mut files.lock())).await??;
            loop {
                let files = self.files.clone();
                let (part, same_pass) =
                    blocking::run(move || (pass.next_part(&mut files.lock()), pass)).await?;
                pass = same_pass;
                let Some(part) = part? else { break };
                let Some(owner) = &mut self.owner else { break };
                let place = owner.write_part(&part.content, clock::wall_ns()).await?;
                self.status.part_written(part.content.len() as u64);
                pass.written(part, place, &mut self.files.lock());
                if self.last_chunk.is_none_or(|at| at.elapsed() >= self.options.interval) {
                    self.append_new().await?;
                }
            }
            let files = self.files.clone();
            if let Some(listed) = blocking::run(move || pass.end(&files.lock())).await?? {
                return Ok((oldest, listed));
            }
        }
        Err(Failure::Unsettled)
    }

    async fn collect_garbage(&mut self) -> Result<(), Failure> {
        let Some(owner) = &self.owner else { return Ok(()) };
        if !owner.has_confirmed_snapshot() {
            return Ok(());
        }
        // If it fails, the next snapshot tries again.
        self.has_garbage = false;
        let count = owner.collect_garbage(clock::wall_ns(), self.options.retain).await?;
        if count > 0 {
            crate::log_info!(self.engine, "ARCHIVE: deleted {count} objects that are no longer needed");
        }
        Ok(())
    }
}
