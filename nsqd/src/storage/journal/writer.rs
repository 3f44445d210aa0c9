//! The journal file that is written to: room, rotation, recycling, failed writes.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Durability, JournalError, JournalOptions,
    catalog::{self, Catalog},
    format::{self, FILE_HEADER_BYTES, FileHeader, TERMINATOR},
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
    /// The file before the one that is made next, and where its last record ends.
    last_end: Option<(u32, u32)>,
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
    /// Where the next record goes. 0 as long as the header is not written.
    end: u64,
    capacity: u64,
    /// Bytes behind `end` that a failed write may have left. They may hold whole records that
    /// were refused, so they are zeroed before anything is written over them.
    torn_bytes: u64,
}

impl Current {
    fn records_end(&self) -> u64 {
        self.end.max(FILE_HEADER_BYTES)
    }

    fn fits(&self, len: u64) -> bool {
        self.records_end() + len <= self.capacity
    }
}

impl Writer {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        options: &JournalOptions,
        catalog: Arc<Catalog>,
        next_number: u32,
        last_end: Option<(u32, u32)>,
    ) -> Self {
        Self {
            storage,
            dir: options.dir.clone(),
            file_bytes: options.file_bytes,
            sync: options.durability == Durability::Sync,
            retry_interval: options.timing.retry_interval,
            catalog,
            current: None,
            last_end,
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
        current.clear_torn(sync)?;

        let start = current.records_end();
        let published = &mut self.published;
        published.clear();
        format::seal_records(records, current.header.seal(), start, |content| {
            note_published(published, content);
        });
        let room = current.capacity - start - len;
        records.extend_from_slice(&TERMINATOR[..room.min(TERMINATOR.len() as u64) as usize]);
        if let Err(error) = current.put(records) {
            current.torn_bytes = start + records.len() as u64 - current.end;
            // Now, if possible: a crash must not bring back what was refused.
            return Err(match current.clear_torn(sync) {
                Err(failed_sync @ JournalError::Sync(_)) => failed_sync,
                _ => JournalError::Write(Arc::new(error)),
            });
        }
        if sync {
            current.file.sync_data().map_err(|error| JournalError::Sync(Arc::new(error)))?;
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
        let next = self.remove_blank().and_then(|()| self.next_file(len)).map_err(|error| {
            let error = Arc::new(error);
            self.no_room = Some((Instant::now() + self.retry_interval, Arc::clone(&error)));
            error
        })?;
        self.no_room = None;
        if let Some(before) = &self.current {
            self.last_end = Some((before.header.number, before.end as u32));
        }
        let header = FileHeader { previous: self.last_end, ..next.header };
        self.catalog.started(header.number, next.capacity);
        self.next_number = header.number.saturating_add(1);
        self.current = Some(Current { header, ..next });
        Ok(())
    }

    /// A file that was made, could not be written to, and is now too small, makes way for another.
    fn remove_blank(&mut self) -> io::Result<()> {
        if let Some(blank) = self.current.take_if(|current| current.end == 0) {
            self.next_number = blank.header.number;
            self.catalog.removed_newest(blank.header.number);
            self.storage.remove(&self.dir.join(catalog::file_name(blank.header.number)))?;
        }
        Ok(())
    }

    /// A recycled file if it is large enough, else a new one with its room secured.
    fn next_file(&mut self, len: u64) -> io::Result<Current> {
        let number = self.next_number;
        if number == u32::MAX {
            return Err(io::Error::other("journal file numbers are used up"));
        }
        let path = self.dir.join(catalog::file_name(number));
        let capacity = self.file_bytes.max(FILE_HEADER_BYTES + len);
        let spare = if capacity == self.file_bytes { self.catalog.take_spare() } else { None };
        let file = match spare {
            Some(spare) => {
                let from = self.dir.join(&spare);
                if let Err(error) = self.storage.rename(&from, &path) {
                    self.catalog.return_spare(spare);
                    return Err(error);
                }
                self.storage.open(&path)?
            }
            None => self.make_file(&path, capacity)?,
        };
        if self.sync {
            // The name must be as durable as what will be written under it.
            self.storage.sync_dir(&self.dir)?;
        }
        let header = FileHeader { number, stamp: seal::new_stamp(), previous: None };
        Ok(Current { file, header, end: 0, capacity, torn_bytes: 0 })
    }

    fn make_file(&self, path: &std::path::Path, capacity: u64) -> io::Result<Arc<dyn StorageFile>> {
        match self.storage.create(path, capacity) {
            // Left by an attempt that failed after the file was made. Nothing was written to it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.storage.remove(path)?;
                self.storage.create(path, capacity)
            }
            made => made,
        }
    }
}

impl Current {
    /// Writes the bytes behind the last record, and before them the header if it is not there yet.
    fn put(&self, bytes: &[u8]) -> io::Result<()> {
        if self.end > 0 {
            self.file.write_all_at(bytes, self.end)
        } else {
            self.file.write_all_vectored_at(&[&self.header.encode(), bytes], 0)
        }
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
