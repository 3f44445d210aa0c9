//! The journal file that is written to: room, rotation, recycling, failed writes.

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
};
use crate::storage::{Storage, StorageFile, TopicNumber, record, seal};

/// Used by one at a time: whoever leads a commit.
pub(super) struct Writer {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    file_bytes: u64,
    sync: bool,
    /// After a file could not be made, this long passes before it is tried again.
    retry_interval: Duration,
    catalog: Arc<Catalog>,
    current: Option<Current>,
    /// The file before the one that is made next.
    last: Option<Previous>,
    next_number: u32,
    /// No file could be made; not tried again before then.
    no_room: Option<(Instant, Arc<io::Error>)>,
    /// Size of the last write, for trying again if it failed.
    last_bytes: u64,
    /// Batches in the buffer being written: topic and last sequence number.
    published: Vec<(TopicNumber, u64)>,
}

struct Current {
    file: Arc<dyn StorageFile>,
    header: FileHeader,
    /// Where the next record goes.
    end: u64,
    /// Where records must end.
    limit: u64,
    /// Its name is as durable as what is written under it must be. Nothing is written before.
    has_durable_name: bool,
    /// Bytes behind `end` that a failed write may have left. They may hold whole records that
    /// were refused, so they are zeroed before anything is written over them.
    torn_bytes: u64,
}

impl Current {
    fn fits(&self, len: u64) -> bool {
        self.end + len <= self.limit
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

    /// Writes unsealed records, all or none as far as a later reader is concerned. Returns the bytes written.
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
        current.end = start + len;
        self.catalog.written(format::lsn(current.header.number, current.end), &self.published);
        Ok(records.len() as u64)
    }

    /// Finds out whether a write like the one that failed would work now.
    pub(super) fn probe(&mut self) -> Result<u64, JournalError> {
        let sync = self.sync;
        self.secure_room(self.last_bytes)?;
        let Some(current) = &mut self.current else { return Err(no_file()) };
        current.secure_name(&*self.storage, &self.dir)?;
        current.clear_torn(sync)?;
        Ok(0)
    }

    /// Syncs what was written, whatever the level.
    pub(super) fn sync(&mut self) -> Result<(), JournalError> {
        let Some(current) = &self.current else { return Ok(()) };
        current
            .file
            .sync_data()
            .and_then(|()| self.storage.sync_dir(&self.dir))
            .map_err(|error| JournalError::Sync(Arc::new(error)))
    }

    /// Goes on to another file if `len` more bytes do not fit in this one.
    fn secure_room(&mut self, len: u64) -> Result<(), JournalError> {
        if self.current.as_ref().is_some_and(|current| current.fits(len)) {
            return Ok(());
        }
        self.rotate(len).map_err(JournalError::Write)
    }

    fn rotate(&mut self, len: u64) -> Result<(), Arc<io::Error>> {
        if let Some((until, error)) = &self.no_room
            && Instant::now() < *until
        {
            return Err(Arc::clone(error));
        }
        let next = self.next_file(len).map_err(|error| {
            let error = Arc::new(error);
            self.no_room = Some((Instant::now() + self.retry_interval, Arc::clone(&error)));
            error
        })?;
        self.no_room = None;
        self.catalog.started(next.header.number, u64::from(next.header.capacity));
        self.next_number = next.header.number.saturating_add(1);
        self.current = Some(next);
        Ok(())
    }

    /// A recycled file if it is large enough, else a new one with its room secured.
    fn next_file(&mut self, len: u64) -> io::Result<Current> {
        let number = self.next_number;
        if number == u32::MAX {
            return Err(io::Error::other("journal file numbers are used up"));
        }
        if let Some(before) = &self.current {
            let FileHeader { number, stamp, .. } = before.header;
            self.last = Some(Previous { number, end: before.end as u32, stamp });
        }
        let capacity = self.file_bytes.max(FILE_HEADER_BYTES + len + HEADER_COPY_BYTES as u64);
        let header =
            FileHeader { number, stamp: seal::new_stamp(), previous: self.last, capacity: capacity as u32 };
        let spare = if capacity == self.file_bytes { self.catalog.take_spare() } else { None };
        if let Some(name) = spare.as_ref().filter(|_| self.sync) {
            // Or the header could be found under the name from which the file was retired.
            self.storage.sync_dir(&self.dir).inspect_err(|_| self.catalog.return_spare(name.clone()))?;
        }
        let from = self.dir.join(spare.unwrap_or_else(|| self.catalog.new_spare_name()));
        let file = self.begin(&from, &header).inspect_err(|_| {
            // Whatever became of it: what it holds now is no spare. If it cannot be removed, a start looks at it.
            let _ = self.storage.remove(&from);
        })?;
        let limit = capacity - HEADER_COPY_BYTES as u64;
        let has_durable_name = !self.sync;
        Ok(Current { file, header, end: FILE_HEADER_BYTES, limit, has_durable_name, torn_bytes: 0 })
    }

    /// Begins the life of a file: its header is there before its name, so a journal file without a header is damaged.
    ///
    /// The name is the last that may fail here. Once it is there, a start takes from this header where the file before
    /// ends, so nothing may be written to that one any more.
    fn begin(&self, from: &Path, header: &FileHeader) -> io::Result<Arc<dyn StorageFile>> {
        let capacity = u64::from(header.capacity);
        let file = match self.storage.open(from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.storage.create(from, capacity)?,
            opened => opened?,
        };
        file.write_all_at(&header.encode_copy(), capacity - HEADER_COPY_BYTES as u64)?;
        file.write_all_vectored_at(&[&header.encode(), &TERMINATOR], 0)?;
        if self.sync {
            file.sync_data()?;
        }
        self.storage.rename(from, &self.dir.join(catalog::file_name(header.number)))?;
        Ok(file)
    }
}

impl Current {
    /// Right after a failure, since a crash must not bring back what is refused. If this fails as well, it may.
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
            storage.sync_dir(dir).map_err(|error| JournalError::Write(Arc::new(error)))?;
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
            // Or pages of the next write could reach the disk before these.
            self.file.sync_data().map_err(|error| JournalError::Sync(Arc::new(error)))?;
        }
        self.torn_bytes = 0;
        Ok(())
    }
}

/// Not reachable once room is secured.
fn no_file() -> JournalError {
    JournalError::Write(Arc::new(io::Error::other("no journal file")))
}

/// Remembers a batch; consecutive batches of a topic, the usual case, take one entry.
fn note_published(list: &mut Vec<(TopicNumber, u64)>, content: &[u8]) {
    if let Some((topic, last)) = record::published(content) {
        match list.last_mut() {
            Some(entry) if entry.0 == topic => entry.1 = entry.1.max(last),
            _ => list.push((topic, last)),
        }
    }
}
