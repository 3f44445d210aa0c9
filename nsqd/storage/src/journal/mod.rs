//! The journal: one sequence of files, shared by all topics, that holds every durable fact until
//! it is stored elsewhere or obsolete.
//!
//! - [`Journal`] here is the handle: append, commit, flush, list files;
//! - `commit`: what a caller holds until its record is written: a ticket, then a future;
//! - `group`: decides who writes the waiting records, and reports the outcome to the waiters (group commit);
//! - `waiting`: the waiters, and who wakes them;
//! - `commit_delay`: for how many publishers the journal's thread waits before a sync;
//! - `batch_hint`: predicts whether publishers append together, so that it pays to let others append first;
//! - `pending`: the state: two buffers, tickets, the outcome of a failed write;
//! - `writer`: the file that is being written: space, rotation, recycling, failed writes;
//! - `sizing`: how large files are;
//! - `catalog`: the files, and what was published in each;
//! - `identify`: finds out at start what each file is, even if its header or name is wrong;
//! - `reader`: reads the files and distinguishes a torn tail from damage;
//! - `format`: the bytes;
//! - `header_copy`: a file's header outside of its file, for copies of the journal.
//!
//! Records go through two equal buffers that are swapped: one collects while the other is
//! written. So in the steady state nothing is allocated, and one write (and one sync) serves
//! everyone who appended meanwhile, however many topics they publish to.

mod catalog;
mod commit;
mod batch_hint;
mod format;
mod commit_delay;
mod group;
mod header_copy;
mod identify;
mod pending;
mod reader;
mod sizing;
#[cfg(test)]
mod tests;
mod waiting;
mod writer;

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::{catalog::Catalog, group::Group, writer::Writer};
pub use self::{
    catalog::JournalFileInfo,
    commit::{Commit, Ticket},
    header_copy::HeaderCopy,
    reader::{DamagedRange, JournalReport},
};
use super::{Durability, Storage, record::Record};

/// Default size of a journal file on a volume with enough space.
pub const DEFAULT_FILE_BYTES: u64 = 64 << 20;
/// A larger record is refused.
pub const MAX_RECORD_BYTES: usize = 1 << 30;
/// Records are refused while more bytes than this wait for the disk.
pub const MAX_PENDING_BYTES: usize = 1 << 30;
/// The largest file size that the options may request.
pub const MAX_FILE_BYTES: u64 = 1 << 31;

// An offset must fit in the 32 bits that it has in an Lsn and in a file header. The largest buffer was just under the
// limit when the largest record was appended.
const _: () = assert!(MAX_PENDING_BYTES as u64 + MAX_RECORD_BYTES as u64 + 4096 < u32::MAX as u64);
const _: () = assert!(MAX_FILE_BYTES < u32::MAX as u64);

/// A place in the journal. Later records have greater places, over all files and restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The number of the file.
    pub fn file_number(self) -> u64 {
        self.0 >> 32
    }

    /// The offset in the file.
    pub fn offset(self) -> u64 {
        self.0 & u64::from(u32::MAX)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file_number(), self.offset())
    }
}

/// Timing of work that nobody waits for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JournalTiming {
    /// Maximum time that a lazy record waits for another write.
    pub flush_interval: Duration,
    /// Minimum time between a failure and the next attempt.
    pub retry_interval: Duration,
}

impl JournalTiming {
    /// The values that nsqd uses.
    pub const DEFAULT: JournalTiming = JournalTiming {
        flush_interval: Duration::from_millis(5),
        retry_interval: Duration::from_millis(100),
    };
}

/// How to open a journal.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    /// Directory of the files. Created if missing.
    pub dir: PathBuf,
    /// With [`Durability::Sync`], a commit completes after a sync; otherwise after the write.
    pub durability: Durability,
    /// Size of a file on a volume with enough space; at most [`MAX_FILE_BYTES`].
    pub file_bytes: u64,
    pub timing: JournalTiming,
    /// New records get places after this one, even if the files up to it are missing: a
    /// checkpoint refers to places, so no new record may have a place before the checkpoint's.
    pub not_before: Lsn,
}

impl JournalOptions {
    /// The defaults, in `dir`.
    pub fn new(dir: impl Into<PathBuf>, durability: Durability) -> Self {
        Self {
            dir: dir.into(),
            durability,
            file_bytes: DEFAULT_FILE_BYTES,
            timing: JournalTiming::DEFAULT,
            not_before: Lsn(0),
        }
    }
}

/// Why a journal operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// A write failed. New records are accepted, and writing is retried, once all tickets of the write are resolved.
    #[error("journal write failed: {0}")]
    Write(Arc<io::Error>),
    /// A sync failed. What is on disk is unknown, so no more records are accepted.
    #[error("journal sync failed: {0}")]
    Sync(Arc<io::Error>),
    /// A write or sync failed, and what it may have left could not be zeroed: a later start may find the records.
    #[error("{0}")]
    InDoubt(Arc<JournalError>),
    /// The record is larger than [`MAX_RECORD_BYTES`].
    #[error("record too large for the journal, the maximum is 1 GiB")]
    TooLarge,
    /// More than [`MAX_PENDING_BYTES`] are waiting for the disk.
    #[error("more than 1 GiB is waiting for the journal; retry later")]
    Overloaded,
    #[error("journal is closed")]
    Closed,
    /// A file could not be read or listed when opening.
    #[error(
        "cannot read journal {path}: {error}; check the disk and the owner of the file, then start nsqd again"
    )]
    Read { path: PathBuf, error: Arc<io::Error> },
    #[error(
        "journal file {path} has format version {version}, newer than this program supports; \
         start the nsqd version that wrote it"
    )]
    NewerVersion { path: PathBuf, version: u32 },
}

impl JournalError {
    /// The error for records that were certainly not written.
    fn without_doubt(&self) -> JournalError {
        match self {
            JournalError::InDoubt(cause) => JournalError::clone(cause),
            cause => cause.clone(),
        }
    }
}

/// Offset of the first record of a file.
pub const FILE_HEADER_BYTES: u64 = format::FILE_HEADER_BYTES;
/// Length of the header in front of each record.
pub const RECORD_HEADER_BYTES: u64 = format::RECORD_HEADER_BYTES as u64;

pub fn file_name(number: u64) -> String {
    catalog::file_name(u32::try_from(number).unwrap_or(u32::MAX))
}

/// The number of the journal file with this name; `None` if it is not the name of one that is in use.
pub fn file_number(name: &str) -> Option<u64> {
    catalog::file_number(name).map(u64::from)
}

/// The open journal. Dropping it without [`Journal::close`] loses lazy records that are not written yet, as a
/// kill would. Committed records are safe.
pub struct Journal {
    group: Arc<Group>,
    flusher: Mutex<Option<thread::JoinHandle<()>>>,
    found_end: Option<Lsn>,
}

impl Journal {
    /// Reads all files in order, passes each whole record to `replay`, and is then ready to append.
    ///
    /// The first write goes to a new file, which is created then. Torn bytes at the end of the newest file
    /// and damage elsewhere are skipped and reported.
    pub fn open(
        storage: Arc<dyn Storage>,
        mut options: JournalOptions,
        replay: &mut dyn FnMut(Lsn, Record<'_>),
    ) -> Result<(Arc<Self>, JournalReport), JournalError> {
        options.file_bytes = options.file_bytes.clamp(4096, MAX_FILE_BYTES);
        options.file_bytes = sizing::usual(options.file_bytes, storage.space(&options.dir));
        let found = reader::read_all(&*storage, &options, replay)?;
        let found_end = found.last.map(|last| format::lsn(last.number, u64::from(last.end)));
        let catalog =
            Arc::new(Catalog::new(&storage, &options, found.files, found.spares, found.next_number));
        let writer = Writer::new(storage, &options, Arc::clone(&catalog), found.next_number, found.last);
        let group = Arc::new(Group::new(&options, writer, catalog));
        let flusher = thread::Builder::new()
            .name("journal".into())
            .spawn({
                let group = Arc::clone(&group);
                move || group.run_flusher()
            })
            .map_err(|error| JournalError::Write(Arc::new(error)))?;
        Ok((Arc::new(Self { group, flusher: Mutex::new(Some(flusher)), found_end }), found.report))
    }

    /// Passes each whole record in the directory to `show`. Changes nothing.
    pub fn show(
        storage: &dyn Storage,
        options: &JournalOptions,
        show: &mut dyn FnMut(Lsn, Record<'_>),
    ) -> Result<(), JournalError> {
        reader::show_all(storage, options, show)
    }

    /// Adds the record to those that wait to be written, without disk access. The order of appends is the order in
    /// the journal.
    ///
    /// Pass the ticket to [`Journal::commit`], or drop it to ignore the outcome. Fails immediately with
    /// the cause while tickets of a failed write are unresolved, and permanently after a failed sync.
    #[inline]
    pub fn append(&self, record: &Record<'_>) -> Result<Ticket, JournalError> {
        self.group.append(record)
    }

    /// As [`Journal::append`], for records that belong together: a later start reads all of them or none.
    pub fn append_batch(&self, records: &[Record<'_>]) -> Result<Ticket, JournalError> {
        self.group.append_batch(records)
    }

    /// Waits until the ticket's record is as durable as the level asks.
    ///
    /// With [`Durability::Write`], a caller that finds nobody writing writes all waiting records itself;
    /// records that are appended meanwhile go with the next write. With [`Durability::Sync`], the journal's own
    /// thread writes and syncs for all callers. Dropping the future loses only the outcome: the record stays
    /// in its place, and nobody else waits for it.
    #[inline]
    pub fn commit(&self, ticket: Ticket) -> Commit {
        Commit::new(ticket)
    }

    /// As [`Journal::commit`] if that needs no waiting; otherwise returns the ticket. Never waits.
    #[inline]
    pub fn try_commit(&self, ticket: Ticket) -> Result<Result<(), JournalError>, Ticket> {
        ticket.try_commit()
    }

    /// Appends a record that nobody waits for. It is written with the next write, within the flush
    /// interval, or when 64 KiB wait. Makes no disk access and returns no error: see [`Journal::failure`].
    #[inline]
    pub fn append_lazy(&self, record: &Record<'_>) {
        self.group.append_lazy(record);
    }

    /// As [`Journal::append_lazy`], for records that belong together: a later start reads all of them or none.
    pub fn append_lazy_batch(&self, records: &[Record<'_>]) {
        self.group.append_lazy_batch(records);
    }

    /// Blocks until everything appended so far is written, and synced if the durability level asks for it.
    pub fn flush(&self) -> Result<(), JournalError> {
        self.group.flush()
    }

    /// A lower bound for the place of every record appended from now on, and of those that wait to be written.
    pub fn position(&self) -> Lsn {
        self.group.catalog.position()
    }

    /// All files, oldest first.
    pub fn files(&self) -> Vec<JournalFileInfo> {
        self.group.catalog.files()
    }

    /// Where the records of the newest file ended when the journal was opened; `None` if there was no file.
    pub fn found_end(&self) -> Option<Lsn> {
        self.found_end
    }

    /// Numbers of all files, in order. A number disappears before its file is recycled or removed.
    pub fn file_numbers(&self) -> Vec<u64> {
        self.group.catalog.numbers()
    }

    /// Number of files, and their bytes on disk.
    pub fn size(&self) -> (usize, u64) {
        self.group.catalog.size()
    }

    /// Bytes of all files and spares.
    pub fn footprint(&self) -> u64 {
        self.group.catalog.footprint()
    }

    /// How many of the oldest files should be retired, because there are many or some are lost. Never all.
    pub fn excess(&self) -> usize {
        self.group.catalog.excess()
    }

    /// Whether files should be retired (see [`Journal::excess`]) and the volume is nearly full. Cheap.
    pub fn is_tight(&self) -> bool {
        self.group.catalog.is_tight()
    }

    /// Checks that all files still have their names. If the file that is being written has lost its name, writing
    /// continues in another. If the data directory is missing, records are refused until it is back, and the error says
    /// so. Blocks.
    pub fn check(&self) -> Result<(), JournalError> {
        self.group.check()
    }

    /// The files that someone removed or replaced. What they held is safe only once it is stored elsewhere.
    pub fn lost_files(&self) -> Vec<u64> {
        self.group.catalog.lost()
    }

    /// Continues in a file of the smallest size and removes the spares, so that older files can be retired. Blocks.
    pub fn shrink(&self) -> Result<(), JournalError> {
        self.group.shrink()
    }

    /// Removes the spares. Returns whether there were any.
    pub fn remove_spares(&self) -> bool {
        self.group.catalog.remove_spares()
    }

    /// The smallest possible size of all files together.
    pub fn least_footprint(&self) -> u64 {
        sizing::least(self.group.catalog.file_bytes())
    }

    /// Recycles or removes the oldest file. Nothing in it may be needed any more.
    ///
    /// Fails with `InvalidInput` if `number` is not the oldest, or is the only file or the one being written to.
    pub fn retire_oldest(&self, number: u64) -> io::Result<()> {
        self.group.catalog.retire_oldest(number)
    }

    /// Why publishes fail or lazy records are dropped. `None` again after the next successful write.
    pub fn failure(&self) -> Option<JournalError> {
        self.group.failure()
    }

    /// Lazy records (finishes and the like) that were dropped since the last successful write.
    pub fn forgotten_count(&self) -> u64 {
        self.group.forgotten_count()
    }

    /// Bytes written since the journal was opened.
    pub fn bytes_written(&self) -> u64 {
        self.group.bytes_written.load(Ordering::Relaxed)
    }

    /// Writes what waits, syncs at any durability level, and stops the journal's thread. Later appends fail.
    pub fn close(&self) -> Result<(), JournalError> {
        self.group.refuse_appends();
        let flushed = self.group.flush();
        self.stop_flusher();
        flushed.and_then(|()| self.group.sync())
    }

    fn stop_flusher(&self) {
        self.group.stop();
        if let Some(flusher) = self.flusher.lock().take() {
            // Fails only if the thread panicked, which the panic hook has reported.
            let _ = flusher.join();
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.stop_flusher();
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("position", &self.position()).finish_non_exhaustive()
    }
}
