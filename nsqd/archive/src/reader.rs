//! Lists, verifies and restores logs. Changes nothing in the store.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nsq_storage::data_dir::{CHECKPOINT_FILE, JOURNAL_DIR, TOPICS_DIR};
use nsq_storage::file::FileStorage;
use nsq_storage::journal::{self, HeaderCopy, Lsn};
use nsq_storage::{Storage as _, StorageFile, segment};

use crate::chain::{Chain, End, Incomplete, Listing, Use};
use crate::chunk::{Found, Piece, decode_pieces, inspect};
use crate::claim::About;
use crate::envelope::{self, Kind, Malformed};
use crate::names::{LOGS, LogId, Name, Place, log_root};
use crate::objects::{Objects, StoreError};
use crate::owner::{Patience, retry};
use crate::snapshot::{self, File, FileName, Snapshot, TAIL_BYTES};

/// Why a log cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the archive has no log {0}; list the logs to find its id")]
    NoSuchLog(LogId),
    /// None of the log's snapshots can be restored. The text says why each cannot.
    #[error("log {log} has no snapshot that can be restored{}", reasons(.unusable))]
    NoSnapshot { log: LogId, unusable: Vec<Unusable> },
    #[error("cannot write {}: {error}; check the disk and the permissions, then restore into an empty directory again", path.display())]
    Write { path: PathBuf, error: io::Error },
    #[error("{} is not an empty directory; choose another one, or delete its contents", .0.display())]
    NotEmpty(PathBuf),
}

/// A snapshot that cannot be restored, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    pub snapshot: Place,
    pub why: String,
}

fn reasons(unusable: &[Unusable]) -> String {
    unusable.iter().map(|Unusable { snapshot, why }| format!("; snapshot {snapshot}: {why}")).collect()
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The snapshot on which the rest builds.
    pub snapshot: Place,
    /// When the node made it: Unix nanoseconds.
    pub snapshot_made_at: i64,
    /// When the node made the last chunk; the snapshot's time if there is none.
    pub made_at: i64,
    pub chunk_count: u64,
    /// Bytes of journal records.
    pub journal_bytes: u64,
    /// Checkpoint and segments.
    pub file_count: u64,
    pub file_bytes: u64,
    /// Where the journal ends.
    pub end: Lsn,
    pub why_ended: End,
    /// Newer snapshots that cannot be restored.
    pub unusable: Vec<Unusable>,
    /// Pieces of the journal with bytes that are no whole records: they were damaged on the node.
    pub damaged: Vec<Lsn>,
}

/// The logs of an archive, with what their owners say about themselves.
pub async fn logs(objects: &Arc<dyn Objects>) -> Result<Vec<(LogId, Option<About>)>, StoreError> {
    let listed = retry(Patience::DEFAULT, "list", LOGS, || objects.list(LOGS)).await?;
    let mut ids: Vec<LogId> = listed.iter().filter_map(|listed| Some(Name::parse(&listed.key)?.0)).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut logs = Vec::with_capacity(ids.len());
    for id in ids {
        let about = get(objects, Name::About.key(id)).await?;
        logs.push((id, about.and_then(|object| About::decode(&object)).filter(|about| about.is_of(id))));
    }
    Ok(logs)
}

/// The objects of a log.
pub async fn listing(objects: &Arc<dyn Objects>, log: LogId) -> Result<Listing, ReadError> {
    let prefix = log_root(log);
    let listed = retry(Patience::DEFAULT, "list", &prefix, || objects.list(&prefix)).await?;
    if listed.is_empty() {
        return Err(ReadError::NoSuchLog(log));
    }
    Ok(Listing::of(listed.iter().map(|listed| listed.key.as_str()), log))
}

/// Reads everything that a restore would read, and checks it. `until` leaves out what was made later: Unix nanoseconds.
pub async fn verify(
    objects: &Arc<dyn Objects>,
    log: LogId,
    until: Option<i64>,
) -> Result<Summary, ReadError> {
    read(objects, log, until, &mut Discard).await
}

/// Writes a data directory into `dir`, which must exist and be empty, from the newest snapshot that can be restored and the
/// chunks behind it. `until` leaves out what was made later: Unix nanoseconds. Blocks on the disk.
///
/// Everything is synced. After an error, `dir` may contain a part.
pub async fn restore(
    objects: &Arc<dyn Objects>,
    log: LogId,
    dir: &Path,
    until: Option<i64>,
) -> Result<Summary, ReadError> {
    let mut target = DataDirectory::new(dir)?;
    let summary = read(objects, log, until, &mut target).await?;
    target.sync()?;
    Ok(summary)
}

/// Where a restored data directory goes.
trait Target: Send {
    /// Adds a part of a journal file. Files come in order, and their parts, too.
    fn add_piece(&mut self, piece: &Piece) -> Result<(), ReadError>;
    /// Adds bytes to the end of a file.
    fn add_bytes(&mut self, file: FileName, bytes: &[u8]) -> Result<(), ReadError>;
    /// Removes everything that was added.
    fn clear(&mut self) -> Result<(), ReadError>;
}

async fn read(
    objects: &Arc<dyn Objects>,
    log: LogId,
    until: Option<i64>,
    target: &mut dyn Target,
) -> Result<Summary, ReadError> {
    let listing = listing(objects, log).await?;
    let mut unusable = Vec::new();
    for &place in listing.snapshots.iter().rev() {
        let why = match read_snapshot(objects, log, place).await? {
            Ok((made_at, _)) if until.is_some_and(|until| made_at > until) => continue,
            Ok((made_at, snapshot)) => {
                let attempt = Attempt { objects, log, until, place, made_at, snapshot: &snapshot };
                match attempt.run(&listing, target).await? {
                    Ok(summary) => return Ok(Summary { unusable, ..summary }),
                    Err(why) => why,
                }
            }
            Err(why) => why,
        };
        unusable.push(Unusable { snapshot: place, why });
        target.clear()?;
    }
    Err(ReadError::NoSnapshot { log, unusable })
}

/// A snapshot and when it was made, or why it cannot be read.
type ReadSnapshot = Result<(i64, Snapshot), String>;

async fn read_snapshot(
    objects: &Arc<dyn Objects>,
    log: LogId,
    place: Place,
) -> Result<ReadSnapshot, StoreError> {
    let Some(object) = get(objects, Name::Snapshot(place).key(log)).await? else {
        return Ok(Err("it was deleted meanwhile".to_owned()));
    };
    let decoded = Snapshot::decode(&object, log, place);
    Ok(decoded.map(|(header, snapshot)| (header.made_at, snapshot)).map_err(|error| error.to_string()))
}

async fn get(objects: &Arc<dyn Objects>, key: String) -> Result<Option<Bytes>, StoreError> {
    retry(Patience::DEFAULT, "read", &key, || objects.get(&key)).await
}

/// Reads one snapshot and its chunks.
struct Attempt<'a> {
    objects: &'a Arc<dyn Objects>,
    log: LogId,
    until: Option<i64>,
    place: Place,
    made_at: i64,
    snapshot: &'a Snapshot,
}

impl Attempt<'_> {
    /// The inner error says why the snapshot cannot be restored.
    async fn run(
        &self,
        listing: &Listing,
        target: &mut dyn Target,
    ) -> Result<Result<Summary, String>, ReadError> {
        let mut summary = Summary {
            snapshot: self.place,
            snapshot_made_at: self.made_at,
            made_at: self.made_at,
            chunk_count: 0,
            journal_bytes: 0,
            file_count: 0,
            file_bytes: 0,
            end: Lsn(0),
            why_ended: End::Last,
            unusable: Vec::new(),
            damaged: Vec::new(),
        };
        match self.read_chunks(listing, target, &mut summary).await? {
            Ok((end, why_ended)) => (summary.end, summary.why_ended) = (end, why_ended),
            Err(incomplete) => return Ok(Err(incomplete.to_string())),
        }
        for file in &self.snapshot.files {
            if let Err(why) = self.read_file(file, target).await? {
                return Ok(Err(why));
            }
            summary.file_count += 1;
            summary.file_bytes += file.bytes();
        }
        Ok(Ok(summary))
    }

    async fn read_chunks(
        &self,
        listing: &Listing,
        target: &mut dyn Target,
        summary: &mut Summary,
    ) -> Result<Result<(Lsn, End), Incomplete>, ReadError> {
        let mut chain = Chain::new(listing.clone(), self.place, self.snapshot, self.until);
        while let Some(place) = chain.next_chunk() {
            let object = get(self.objects, Name::Chunk(place).key(self.log)).await?;
            let found = object.as_ref().map(|object| inspect(object, self.log, place));
            let (found, pieces) = match (found, object) {
                (Some(Found::Chunk(header)), Some(object)) => match read_pieces(&object) {
                    Ok(pieces) => (Some(Found::Chunk(header)), pieces),
                    Err(error) => (Some(Found::Unreadable(error)), Vec::new()),
                },
                (found, _) => (found, Vec::new()),
            };
            if chain.found(found.as_ref()) == Use::Skip {
                continue;
            }
            summary.chunk_count += 1;
            if let Some(Found::Chunk(header)) = found {
                summary.made_at = header.made_at;
            }
            let oldest_file = self.snapshot.from.file_number();
            for piece in pieces.iter().filter(|piece| piece.from().file_number() >= oldest_file) {
                if piece.header.whole_records(&piece.bytes, piece.from().offset()) != piece.bytes.len() {
                    summary.damaged.push(piece.from());
                }
                summary.journal_bytes += piece.bytes.len() as u64;
                target.add_piece(piece)?;
            }
        }
        Ok(chain.finish())
    }

    /// The inner error says why the file cannot be restored.
    async fn read_file(&self, file: &File, target: &mut dyn Target) -> Result<Result<(), String>, ReadError> {
        let mut tail = Vec::new();
        for part in &file.parts {
            let Some(object) = get(self.objects, Name::Part(part.place).key(self.log)).await? else {
                return Ok(Err(format!("part {} is missing", part.place)));
            };
            let content = match envelope::decode_as(&object, Kind::Part, self.log, part.place) {
                Ok((_, content)) => content,
                Err(error) => return Ok(Err(format!("part {} cannot be read: {error}", part.place))),
            };
            let range = usize::try_from(part.offset).ok().zip(usize::try_from(part.bytes).ok());
            let bytes = range.and_then(|(from, length)| content.get(from..from.checked_add(length)?));
            let Some(bytes) = bytes else {
                return Ok(Err(format!("part {} is shorter than the snapshot says", part.place)));
            };
            target.add_bytes(file.name, bytes)?;
            tail.extend_from_slice(bytes);
            let excess = tail.len().saturating_sub(TAIL_BYTES as usize);
            tail.drain(..excess);
        }
        match snapshot::tail(&tail) == file.tail {
            true => Ok(Ok(())),
            false => Ok(Err(format!("the parts of {} do not fit together", file.name))),
        }
    }
}

fn read_pieces(object: &[u8]) -> Result<Vec<Piece>, Malformed> {
    decode_pieces(&envelope::decode(object)?.1)
}

impl fmt::Display for FileName {
    /// The path in a data directory.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileName::Checkpoint => f.write_str(CHECKPOINT_FILE),
            FileName::Segment { topic, number } => {
                write!(f, "{TOPICS_DIR}/{topic}/{}", segment::file_name(*number))
            }
        }
    }
}

/// For [`verify`].
struct Discard;

impl Target for Discard {
    fn add_piece(&mut self, _piece: &Piece) -> Result<(), ReadError> {
        Ok(())
    }

    fn add_bytes(&mut self, _file: FileName, _bytes: &[u8]) -> Result<(), ReadError> {
        Ok(())
    }

    fn clear(&mut self) -> Result<(), ReadError> {
        Ok(())
    }
}

/// Writes a data directory.
struct DataDirectory {
    dir: PathBuf,
    /// The journal file that is being written, with its header.
    journal_file: Option<(HeaderCopy, Arc<dyn StorageFile>)>,
    /// The other file that is being written, and its length.
    file: Option<(FileName, Arc<dyn StorageFile>, u64)>,
    /// Directories with new names.
    dirs: Vec<PathBuf>,
}

impl DataDirectory {
    fn new(dir: &Path) -> Result<Self, ReadError> {
        let names = FileStorage.list(dir).map_err(written(dir))?;
        if !names.is_empty() {
            return Err(ReadError::NotEmpty(dir.to_path_buf()));
        }
        Ok(DataDirectory { dir: dir.to_path_buf(), journal_file: None, file: None, dirs: Vec::new() })
    }

    fn create(&mut self, name: &str) -> Result<Arc<dyn StorageFile>, ReadError> {
        let path = self.dir.join(name);
        if let Some(dir) = path.parent() {
            FileStorage.create_dir_all(dir).map_err(written(dir))?;
            if self.dirs.last().is_none_or(|last| last != dir) {
                self.dirs.push(dir.to_path_buf());
            }
        }
        FileStorage.create(&path, 0).map_err(written(&path))
    }

    /// The file of this header. Creates it with its headers, if it is not the last one.
    fn journal_file(&mut self, header: &HeaderCopy) -> Result<Arc<dyn StorageFile>, ReadError> {
        if let Some((current, file)) = &self.journal_file
            && current == header
        {
            return Ok(file.clone());
        }
        self.close_journal_file()?;
        let name = format!("{JOURNAL_DIR}/{}", journal::file_name(u64::from(header.file_number())));
        let file = self.create(&name)?;
        let write = || {
            if header.capacity() > 0 {
                // Zeros behind the records end the file.
                file.truncate(u64::from(header.capacity()))?;
            }
            file.write_all_vectored_at(&[header.bytes(), header.bytes()], 0)?;
            match header.last_copy_at() {
                Some(at) => file.write_all_at(header.bytes(), at),
                None => Ok(()),
            }
        };
        write().map_err(written(&self.dir.join(name)))?;
        self.journal_file = Some((*header, file.clone()));
        Ok(file)
    }

    fn close_journal_file(&mut self) -> Result<(), ReadError> {
        match self.journal_file.take() {
            Some((_, file)) => file.sync_data().map_err(written(&self.dir)),
            None => Ok(()),
        }
    }

    fn close_file(&mut self) -> Result<(), ReadError> {
        match self.file.take() {
            Some((_, file, _)) => file.sync_data().map_err(written(&self.dir)),
            None => Ok(()),
        }
    }

    fn sync(&mut self) -> Result<(), ReadError> {
        self.close_journal_file()?;
        self.close_file()?;
        let topics = self.dir.join(TOPICS_DIR);
        let above = [topics, self.dir.clone()];
        for dir in self.dirs.iter().chain(&above).filter(|dir| dir.exists()) {
            FileStorage.sync_dir(dir).map_err(|error| written(dir)(error.into()))?;
        }
        Ok(())
    }
}

impl Target for DataDirectory {
    fn add_piece(&mut self, piece: &Piece) -> Result<(), ReadError> {
        let file = self.journal_file(&piece.header)?;
        file.write_all_at(&piece.bytes, piece.from().offset()).map_err(written(&self.dir))
    }

    fn add_bytes(&mut self, name: FileName, bytes: &[u8]) -> Result<(), ReadError> {
        if self.file.as_ref().is_none_or(|(current, ..)| *current != name) {
            self.close_file()?;
            let file = self.create(&name.to_string())?;
            self.file = Some((name, file, 0));
        }
        let Some((_, file, length)) = &mut self.file else { return Ok(()) };
        file.write_all_at(bytes, *length).map_err(written(&self.dir))?;
        *length += bytes.len() as u64;
        Ok(())
    }

    fn clear(&mut self) -> Result<(), ReadError> {
        self.journal_file = None;
        self.file = None;
        self.dirs.clear();
        for name in FileStorage.list(&self.dir).map_err(written(&self.dir))? {
            let path = self.dir.join(name);
            let removed =
                if path.is_dir() { FileStorage.remove_dir_all(&path) } else { FileStorage.remove(&path) };
            removed.map_err(written(&path))?;
        }
        Ok(())
    }
}

fn written(path: &Path) -> impl Fn(io::Error) -> ReadError {
    move |error| ReadError::Write { path: path.to_path_buf(), error }
}
