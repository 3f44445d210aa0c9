//! The journal: one sequence of files, shared by all topics, that holds every durable fact until
//! it is elsewhere or obsolete.
//!
//! - [`Journal`] here is the handle: append, commit, flush, and which files there are;
//! - `commit` has what a caller holds meanwhile: a ticket, then a future;
//! - `group` decides who writes what waits, and tells those who wait (group commit);
//! - `waiting` has those who wait, and who wakes them;
//! - `gathering` tells for whom the journal's thread waits before a sync;
//! - `company` tells whether publishers come together, so that it pays to let others append first;
//! - `pending` is its state: two buffers, tickets, what became of a failed write;
//! - `writer` has the file that is written to: room, rotation, recycling, failed writes;
//! - `sizing` says how large files are;
//! - `catalog` knows the files and what was published in each;
//! - `identify` finds out at start what each file is, even if its header or name is wrong;
//! - `reader` then reads them, and tells a torn tail from damage;
//! - `format` has the bytes.
//!
//! Records go through two equal buffers that are swapped: one collects while the other is
//! written, so in the steady state nothing is allocated, and one write (and one sync) serves
//! everybody who appended meanwhile, however many topics they publish to.

mod catalog;
mod commit;
mod company;
mod format;
mod gathering;
mod group;
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
    reader::{Damage, JournalReport},
};
use super::{Durability, Storage, record::Record};

/// Size of a journal file where there is room, unless the options say otherwise.
pub const DEFAULT_FILE_BYTES: u64 = 64 << 20;
/// A larger record is refused.
pub const MAX_RECORD_BYTES: usize = 1 << 30;
/// With more than this waiting for the disk, records are refused.
pub const MAX_PENDING_BYTES: usize = 1 << 30;
/// The largest file size that the options may ask for.
pub const MAX_FILE_BYTES: u64 = 1 << 31;

// An offset in a file must fit the 32 bits that it has in an Lsn and in a file header: the largest buffer is
// one that was just under the limit when the largest record came.
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

/// When the journal does what nobody waits for.
#[derive(Clone, Copy, Debug)]
pub struct JournalTiming {
    /// How long a lazy record waits at most for a write to go along with.
    pub flush_interval: Duration,
    /// After a failure it is tried again only when so long has passed.
    pub retry_interval: Duration,
}

impl JournalTiming {
    /// What a daemon uses.
    pub const DEFAULT: JournalTiming = JournalTiming {
        flush_interval: Duration::from_millis(5),
        retry_interval: Duration::from_millis(100),
    };
}

/// How to open a journal.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    /// Where its files are. Created if missing.
    pub dir: PathBuf,
    /// [`Durability::Sync`] syncs every write before it counts; anything else only writes.
    pub durability: Durability,
    /// Size of a file where there is room for many; at most [`MAX_FILE_BYTES`].
    pub file_bytes: u64,
    /// When it does what nobody waits for.
    pub timing: JournalTiming,
    /// New records get places after this one, even if the files that led up to it are gone: a
    /// checkpoint refers to places, and must never find a new record before its own.
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

/// Why the journal did not do what it was asked to.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// A write failed. Once everybody concerned knows, new records are accepted and it is tried again.
    #[error("journal write failed: {0}")]
    Write(Arc<io::Error>),
    /// A sync failed. What is on disk is unknown, so nothing is accepted any more.
    #[error("journal sync failed: {0}")]
    Sync(Arc<io::Error>),
    /// A write or a sync failed, and what it may have left could not be taken back: a later start may find the records.
    #[error("{0}")]
    InDoubt(Arc<JournalError>),
    /// The record is larger than [`MAX_RECORD_BYTES`].
    #[error("record too large for the journal")]
    TooLarge,
    /// More than [`MAX_PENDING_BYTES`] wait for the disk.
    #[error("too many bytes wait for the journal")]
    Overloaded,
    /// The journal was closed.
    #[error("journal is closed")]
    Closed,
    /// A file could not be read or listed when opening.
    #[error(
        "cannot read journal {path}: {error}; check the disk and the owner of the file, then start nsqd again"
    )]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: Arc<io::Error>,
    },
    /// A file was written by a newer version.
    #[error(
        "journal file {path} has format version {version}, newer than this program knows; start the nsqd that wrote it"
    )]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

impl JournalError {
    /// The same for records that certainly were not written.
    fn without_doubt(&self) -> JournalError {
        match self {
            JournalError::InDoubt(cause) => JournalError::clone(cause),
            cause => cause.clone(),
        }
    }
}

/// Where the first record of a file is.
pub const FILE_HEADER_BYTES: u64 = format::FILE_HEADER_BYTES;

/// The name of a file of the journal.
pub fn file_name(number: u64) -> String {
    catalog::file_name(u32::try_from(number).unwrap_or(u32::MAX))
}

/// The open journal. Dropping it without [`Journal::close`] leaves what only waited lazily unwritten, as a
/// kill would; what was committed is safe.
pub struct Journal {
    group: Arc<Group>,
    flusher: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Journal {
    /// Reads every file in order, shows each whole record to `replay`, and is ready to append.
    ///
    /// The first append goes to a fresh file, made when it is needed. Torn bytes at the end of the newest file
    /// and damage elsewhere are skipped and reported.
    pub fn open(
        storage: Arc<dyn Storage>,
        mut options: JournalOptions,
        replay: &mut dyn FnMut(Lsn, Record<'_>),
    ) -> Result<(Arc<Self>, JournalReport), JournalError> {
        options.file_bytes = options.file_bytes.clamp(4096, MAX_FILE_BYTES);
        options.file_bytes = sizing::usual(options.file_bytes, storage.space(&options.dir));
        let found = reader::read_all(&*storage, &options, replay)?;
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
        Ok((Arc::new(Self { group, flusher: Mutex::new(Some(flusher)) }), found.report))
    }

    /// Shows each whole record in the directory to `show`, and changes nothing.
    pub fn show(
        storage: &dyn Storage,
        options: &JournalOptions,
        show: &mut dyn FnMut(Lsn, Record<'_>),
    ) -> Result<(), JournalError> {
        reader::show_all(storage, options, show)
    }

    /// Copies the record to those that wait to be written; touches no disk. The order of appends is the order in
    /// the journal.
    ///
    /// The ticket is for [`Journal::commit`]; dropping it says that nobody wants to know. Fails at once with
    /// the cause while tickets of a failed write are still out, and for ever after a failed sync.
    #[inline]
    pub fn append(&self, record: &Record<'_>) -> Result<Ticket, JournalError> {
        self.group.append(record)
    }

    /// Waits until the ticket's record is as durable as the level asks.
    ///
    /// With [`Durability::Write`], when nobody is writing, the caller writes at once what waits, inline;
    /// whoever comes meanwhile is served by the next write. With [`Durability::Sync`] the journal's own
    /// thread writes and syncs for everybody. Dropping the future gives up the answer only: the record stays
    /// in its place, and nobody else waits for it.
    #[inline]
    pub fn commit(&self, ticket: Ticket) -> Commit {
        Commit::new(ticket)
    }

    /// As [`Journal::commit`], if that needs no waiting; else gives the ticket back. Never waits.
    #[inline]
    pub fn try_commit(&self, ticket: Ticket) -> Result<Result<(), JournalError>, Ticket> {
        ticket.try_commit()
    }

    /// Appends a record that nobody waits for. It goes along with the next write, or within the flush
    /// interval, or when 64 KiB wait. Touches no disk, never fails towards the caller: see [`Journal::failure`].
    #[inline]
    pub fn append_lazy(&self, record: &Record<'_>) {
        self.group.append_lazy(record);
    }

    /// Blocks until everything appended so far is written, and synced if the level asks for that.
    pub fn flush(&self) -> Result<(), JournalError> {
        self.group.flush()
    }

    /// Every record appended from now on has at least this place. So may have those that wait to be written.
    pub fn position(&self) -> Lsn {
        self.group.catalog.position()
    }

    /// The files there are, oldest first.
    pub fn files(&self) -> Vec<JournalFileInfo> {
        self.group.catalog.files()
    }

    /// How many files there are, and their bytes on disk.
    pub fn size(&self) -> (usize, u64) {
        self.group.catalog.size()
    }

    /// Bytes of the files that it keeps for now, and of its spares.
    pub fn footprint(&self) -> u64 {
        self.group.catalog.footprint()
    }

    /// How many of the oldest files should go, because there are many, or because some are lost. Never all.
    pub fn excess(&self) -> usize {
        self.group.catalog.excess()
    }

    /// Whether the volume is nearly full when files should go: see [`Journal::excess`]. Cheap.
    pub fn is_tight(&self) -> bool {
        self.group.catalog.is_tight()
    }

    /// Looks whether the files are where they should be. If the one that is written to is not, writing goes on in another; if
    /// the data directory is not, records are refused until it is, and the error says so. Blocks.
    pub fn check(&self) -> Result<(), JournalError> {
        self.group.check()
    }

    /// The files that somebody has removed or replaced. What they held is safe only when it was stored elsewhere.
    pub fn lost_files(&self) -> Vec<u64> {
        self.group.catalog.lost()
    }

    /// Goes on in a file of the smallest size, without spares, so that the older ones can go. Blocks.
    pub fn shrink(&self) -> Result<(), JournalError> {
        self.group.shrink()
    }

    /// Gives the spares back to the file system. Returns whether there were any.
    pub fn remove_spares(&self) -> bool {
        self.group.catalog.remove_spares()
    }

    /// The smallest that all files together can be made.
    pub fn least_footprint(&self) -> u64 {
        sizing::least(self.group.catalog.file_bytes())
    }

    /// Nothing in the oldest file is needed any more: recycles or removes it.
    ///
    /// Fails with `InvalidInput` if `number` is not the oldest, or is the only file or the one being written to.
    pub fn retire_oldest(&self, number: u64) -> io::Result<()> {
        self.group.catalog.retire_oldest(number)
    }

    /// Why publishing does not work or acknowledgements are not remembered; none again after the next good write.
    pub fn failure(&self) -> Option<JournalError> {
        self.group.failure()
    }

    /// Acknowledgements that were not remembered since the last good write.
    pub fn forgotten_count(&self) -> u64 {
        self.group.forgotten_count()
    }

    /// Bytes written since the journal was opened.
    pub fn bytes_written(&self) -> u64 {
        self.group.bytes_written.load(Ordering::Relaxed)
    }

    /// Writes what waits, syncs whatever the level, and ends the journal's thread. Later appends fail.
    pub fn close(&self) -> Result<(), JournalError> {
        self.group.refuse_appends();
        let flushed = self.group.flush();
        self.stop_flusher();
        flushed.and_then(|()| self.group.sync())
    }

    fn stop_flusher(&self) {
        self.group.stop();
        if let Some(flusher) = self.flusher.lock().take() {
            // It fails only if the thread panicked, which the panic hook has reported.
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
