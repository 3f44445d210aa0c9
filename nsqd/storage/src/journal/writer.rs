//! The journal file that is being written: space, rotation, recycling, failed writes, and whether it still has its
//! name.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Durability, JournalError, JournalOptions,
    catalog::{self, Catalog},
    format::{self, FILE_HEADER_BYTES, FileHeader, HEADER_COPY_BYTES, Previous, TERMINATOR},
    sizing,
};
use crate::{Identity, Storage, StorageFile, SyncError, TopicNumber, is_full, record_batch, seal};

/// A small file that took longer to fill is followed by another small one.
const SLOW_FILL: Duration = Duration::from_secs(30);

/// Used by one thread at a time, usually the leader of a commit.
pub(super) struct Writer {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    file_bytes: u64,
    sync: bool,
    /// Minimum time between a failure to create a file and the next attempt.
    retry_interval: Duration,
    catalog: Arc<Catalog>,
    current: Option<Current>,
    /// The predecessor of the next file.
    last: Option<Previous>,
    next_number: u32,
    /// Creating a file failed with this error and is not retried before this time.
    no_room: Option<(Instant, Arc<io::Error>)>,
    /// Size of the last write, for a retry if it failed.
    last_bytes: u64,
    /// Batches in the buffer being written: topic and last sequence number.
    published: Vec<(TopicNumber, u64)>,
}

struct Current {
    file: Arc<dyn StorageFile>,
    path: PathBuf,
    identity: Identity,
    /// Its name is missing or leads to another file. Nothing is written to it while that is so.
    is_lost: bool,
    made_at: Instant,
    header: FileHeader,
    /// Offset of the next record.
    end: u64,
    /// Records may reach up to this offset.
    limit: u64,
    /// Its name is as durable as the level asks for. No record is written before that.
    has_durable_name: bool,
    /// Bytes behind `end` that a failed write may have left. They may contain whole records that
    /// were refused, so they are zeroed before anything is written over them.
    torn_bytes: u64,
}

impl Current {
    fn fits(&self, len: u64) -> bool {
        self.end + len <= self.limit
    }

    /// Whether it holds no record.
    fn is_blank(&self) -> bool {
        self.end == FILE_HEADER_BYTES
    }

    /// Whether its name still leads to it.
    fn has_name(&self, storage: &dyn Storage) -> bool {
        storage.identity(&self.path).is_ok_and(|found| found == self.identity)
    }
}

impl Writer {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        options: &JournalOptions,
        catalog: Arc<Catalog>,
        next_number: u32,
        last: Option<Previous>,
    ) -> Self {
        Self {
            storage,
            dir: options.dir.clone(),
            file_bytes: options.file_bytes,
            sync: options.durability == Durability::Sync,
            retry_interval: options.timing.retry_interval,
            catalog,
            current: None,
            last,
            next_number,
            no_room: None,
            last_bytes: 0,
            published: Vec::new(),
        }
    }

    /// Seals and writes the records. A later reader finds all of them or none. Returns the bytes written.
    pub(super) fn write(&mut self, records: &mut Vec<u8>) -> Result<u64, JournalError> {
        let len = records.len() as u64;
        let sync = self.sync;
        self.last_bytes = len;
        self.secure_room(len)?;
        let Some(current) = &mut self.current else { return Err(no_file()) };
        current.secure_name(&*self.storage, &self.dir)?;
        current.clear_torn(sync)?;

        let start = current.end;
        let published = &mut self.published;
        published.clear();
        format::seal_records(records, current.header.seal(), start, |content| {
            note_published(published, content);
        });
        let room = current.limit - start - len;
        records.extend_from_slice(&TERMINATOR[..room.min(TERMINATOR.len() as u64) as usize]);
        let mut outcome =
            current.file.write_all_at(records, start).map_err(|error| JournalError::Write(Arc::new(error)));
        if sync && outcome.is_ok() {
            outcome = current.file.sync_data().map_err(|error| JournalError::Sync(Arc::new(error)));
        }
        if let Err(cause) = outcome {
            current.torn_bytes = records.len() as u64;
            return Err(current.take_back(cause, sync));
        }
        if sync && !current.has_name(&*self.storage) {
            // If the file gets its name back, a start must not find these records.
            current.torn_bytes = records.len() as u64;
            current.is_lost = true;
            let cause = lost(&*self.storage, &current.path);
            return Err(current.take_back(cause, sync));
        }
        current.end = start + len;
        self.catalog.written(format::lsn(current.header.number, current.end), &self.published);
        Ok(records.len() as u64)
    }

    /// Checks whether a write of the size of the last one would work now.
    pub(super) fn probe(&mut self) -> Result<u64, JournalError> {
        let sync = self.sync;
        self.secure_room(self.last_bytes)?;
        let Some(current) = &mut self.current else { return Err(no_file()) };
        current.secure_name(&*self.storage, &self.dir)?;
        current.clear_torn(sync)?;
        Ok(0)
    }

    /// Syncs what was written, at any durability level.
    pub(super) fn sync(&mut self) -> Result<(), JournalError> {
        let Some(current) = &self.current else { return Ok(()) };
        current.file.sync_data().map_err(|error| JournalError::Sync(Arc::new(error)))?;
        self.storage.sync_dir(&self.dir).map_err(not_synced)
    }

    /// Checks that all files still have their names. If the newest has lost its name, writing continues in another
    /// file. Fails while the data directory is not in place.
    pub(super) fn check(&mut self) -> Result<(), JournalError> {
        if let Some(current) = &mut self.current {
            current.is_lost = !current.has_name(&*self.storage);
        }
        self.storage.check_home().map_err(|error| JournalError::Write(Arc::new(error)))?;
        self.catalog.check_files();
        let is_lost = match &self.current {
            Some(current) => current.is_lost,
            // The newest file is from before the start. It can be retired only when there is a newer one.
            None => self.catalog.has_lost_newest(),
        };
        if is_lost { self.secure_room(self.last_bytes) } else { Ok(()) }
    }

    /// Continues in a file of the smallest size and removes the spares.
    pub(super) fn shrink(&mut self) -> Result<(), JournalError> {
        self.catalog.remove_spares();
        let least = sizing::least(self.file_bytes);
        match &self.current {
            Some(current) if current.is_blank() && u64::from(current.header.capacity) <= least => Ok(()),
            _ => self.rotate(0, least),
        }
    }

    /// Continues in another file if `len` more bytes do not fit in the current one, or if it has lost its name.
    fn secure_room(&mut self, len: u64) -> Result<(), JournalError> {
        let mut size = self.file_bytes;
        if let Some(current) = &mut self.current {
            if current.is_lost && current.has_name(&*self.storage) {
                current.is_lost = false;
            }
            if !current.is_lost && current.fits(len) {
                return Ok(());
            }
            if current.made_at.elapsed() >= SLOW_FILL {
                size = size.min(u64::from(current.header.capacity).max(sizing::least(size)));
            }
        }
        self.rotate(len, size)
    }

    fn rotate(&mut self, len: u64, size: u64) -> Result<(), JournalError> {
        if let Some((until, error)) = &self.no_room
            && Instant::now() < *until
        {
            return Err(JournalError::Write(Arc::clone(error)));
        }
        let next = match self.remove_blank().map_err(not_made).and_then(|()| self.next_file(len, size)) {
            Err(JournalError::Write(error)) => {
                self.catalog.set_little_room(true);
                self.no_room = Some((Instant::now() + self.retry_interval, Arc::clone(&error)));
                return Err(JournalError::Write(error));
            }
            next => next?,
        };
        self.no_room = None;
        let room = self.storage.space(&self.dir);
        self.catalog.set_little_room(!sizing::fits(sizing::COMFORT_FILES * self.file_bytes, room));
        if let Some(before) = self.current.as_ref().filter(|before| before.is_lost) {
            self.catalog.set_lost(before.header.number);
        }
        self.catalog.started(next.header.number, u64::from(next.header.capacity), next.identity);
        self.next_number = next.header.number.saturating_add(1);
        self.current = Some(next);
        Ok(())
    }

    /// Removes the current file if it holds no record: it is too small, and another one follows.
    fn remove_blank(&mut self) -> io::Result<()> {
        // If it is lost, its name may belong to another file.
        let is_removable = |current: &mut Current| current.is_blank() && !current.is_lost;
        if let Some(blank) = self.current.take_if(is_removable) {
            self.next_number = blank.header.number;
            self.catalog.removed_newest(blank.header.number);
            match self.storage.remove(&blank.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes a file with space for `len` bytes of records: of `size` bytes, or less if the volume is nearly full.
    fn next_file(&mut self, len: u64, size: u64) -> Result<Current, JournalError> {
        let number = self.next_number;
        if number == u32::MAX {
            return Err(not_made(io::Error::other("journal file numbers are used up")));
        }
        if let Some(before) = &self.current {
            let FileHeader { number, stamp, .. } = before.header;
            self.last = Some(Previous { number, end: before.end as u32, stamp });
        }
        let needed = FILE_HEADER_BYTES + len + HEADER_COPY_BYTES as u64;
        let mut refused = None;
        for capacity in sizing::attempts(size, needed) {
            match self.make_file(number, capacity) {
                Err(JournalError::Write(error)) if is_full(&error) => refused = Some(error),
                made => return made,
            }
            // Spares are useless where files have to be smaller.
            if self.catalog.remove_spares() {
                return self.next_file(len, size);
            }
        }
        Err(JournalError::Write(refused.unwrap_or_else(|| Arc::new(io::ErrorKind::StorageFull.into()))))
    }

    /// Makes a file of exactly this size from a spare, or creates one.
    fn make_file(&self, number: u32, capacity: u64) -> Result<Current, JournalError> {
        let header =
            FileHeader { number, stamp: seal::new_stamp(), previous: self.last, capacity: capacity as u32 };
        while capacity == self.file_bytes
            && let Some(spare) = self.catalog.take_spare()
        {
            let from = self.dir.join(&spare);
            match self.storage.open(&from) {
                Ok(file) => {
                    if self.sync {
                        // Otherwise a start could find the new header under the name that the file had before.
                        self.storage.sync_dir(&self.dir).map_err(|error| {
                            self.catalog.return_spare(spare);
                            not_synced(error)
                        })?;
                    }
                    return self.begin(file, &from, header);
                }
                // Someone removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    self.catalog.return_spare(spare);
                    return Err(not_made(error));
                }
            }
        }
        let from = self.dir.join(self.catalog.new_spare_name());
        let file = self.create(&from, capacity).map_err(not_made)?;
        self.begin(file, &from, header)
    }

    /// Creates a file and allocates its space. Fails if too little space would remain.
    fn create(&self, path: &Path, capacity: u64) -> io::Result<Arc<dyn StorageFile>> {
        if !sizing::fits(capacity, self.storage.space(&self.dir)) {
            return Err(rustix::io::Errno::NOSPC.into());
        }
        match self.storage.create(path, capacity) {
            // Someone removed the directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.storage.create_dir_all(&self.dir)?;
                if let Some(above) = self.dir.parent() {
                    self.storage.sync_dir(above)?;
                }
                self.storage.create(path, capacity)
            }
            made => made,
        }
    }

    /// Begins the life of a file. The header is written before the file gets its name, so a journal file without a
    /// header is damaged.
    ///
    /// Renaming is the last step that may fail here. After it, a start takes from this header where the previous
    /// file ends, so nothing more may be written to that one.
    fn begin(
        &self,
        file: Arc<dyn StorageFile>,
        from: &Path,
        header: FileHeader,
    ) -> Result<Current, JournalError> {
        let path = self.dir.join(catalog::file_name(header.number));
        let identity = self.write_header(&*file, &header).and_then(|identity| {
            self.storage.rename(from, &path)?;
            Ok(identity)
        });
        let identity = identity.map_err(|error| {
            // Its content is unknown, so it is not a spare any more. If it cannot be removed, the next start checks it.
            let _ = self.storage.remove(from);
            not_made(error)
        })?;
        let limit = u64::from(header.capacity) - HEADER_COPY_BYTES as u64;
        Ok(Current {
            file,
            path,
            identity,
            is_lost: false,
            made_at: Instant::now(),
            header,
            end: FILE_HEADER_BYTES,
            limit,
            has_durable_name: !self.sync,
            torn_bytes: 0,
        })
    }

    fn write_header(&self, file: &dyn StorageFile, header: &FileHeader) -> io::Result<Identity> {
        file.write_all_at(&header.encode_copy(), u64::from(header.capacity) - HEADER_COPY_BYTES as u64)?;
        file.write_all_vectored_at(&[&header.encode(), &TERMINATOR], 0)?;
        if self.sync {
            file.sync_data()?;
        }
        file.identity()
    }
}

impl Current {
    /// Zeroes what a failed write may have left, so that no later start finds the refused records. If that fails as
    /// well, a start may find them, and the error says so.
    fn take_back(&mut self, cause: JournalError, sync: bool) -> JournalError {
        match self.clear_torn(sync) {
            Ok(()) => cause,
            Err(failed_sync @ JournalError::Sync(_)) => JournalError::InDoubt(Arc::new(failed_sync)),
            Err(_) => JournalError::InDoubt(Arc::new(cause)),
        }
    }

    /// Syncs the name of a new file.
    fn secure_name(&mut self, storage: &dyn Storage, dir: &Path) -> Result<(), JournalError> {
        if !self.has_durable_name {
            storage.sync_dir(dir).map_err(not_synced)?;
            self.has_durable_name = true;
        }
        Ok(())
    }

    fn clear_torn(&mut self, sync: bool) -> Result<(), JournalError> {
        const ZEROS: &[u8] = &[0; 64 << 10];
        if self.torn_bytes == 0 {
            return Ok(());
        }
        let mut done = 0;
        while done < self.torn_bytes {
            let step = (self.torn_bytes - done).min(ZEROS.len() as u64);
            self.file
                .write_all_at(&ZEROS[..step as usize], self.end + done)
                .map_err(|error| JournalError::Write(Arc::new(error)))?;
            done += step;
        }
        if sync {
            // Otherwise pages of the next write could reach the disk before the zeros.
            self.file.sync_data().map_err(|error| JournalError::Sync(Arc::new(error)))?;
        }
        self.torn_bytes = 0;
        Ok(())
    }
}

fn not_made(error: io::Error) -> JournalError {
    JournalError::Write(Arc::new(error))
}

fn not_synced(error: SyncError) -> JournalError {
    match error {
        SyncError::Failed(error) => JournalError::Sync(Arc::new(error)),
        SyncError::NotOpened(error) => JournalError::Write(Arc::new(error)),
    }
}

/// The error for a file that no start would find.
fn lost(storage: &dyn Storage, path: &Path) -> JournalError {
    let error = storage.check_home().err().unwrap_or_else(|| {
        let path = path.display();
        io::Error::other(format!("journal file {path} was removed or replaced; nsqd continues in another"))
    });
    JournalError::Write(Arc::new(error))
}

/// Unreachable after `secure_room`.
fn no_file() -> JournalError {
    JournalError::Write(Arc::new(io::Error::other("no journal file")))
}

/// Adds a batch. Consecutive batches of a topic, the usual case, share one entry.
fn note_published(list: &mut Vec<(TopicNumber, u64)>, content: &[u8]) {
    record_batch::published(content, |topic, last| match list.last_mut() {
        Some(entry) if entry.0 == topic => entry.1 = entry.1.max(last),
        _ => list.push((topic, last)),
    });
}
