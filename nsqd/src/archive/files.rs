//! The files of a snapshot, checkpoint and segments: which bytes of them are archived, and which are not.
//!
//! A segment only grows, so only its new bytes are uploaded. Bytes of several files go into one part.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use nsq_archive::names::Place;
use nsq_archive::snapshot::{File, FileName, PartOf, Snapshot, TAIL_BYTES};

use super::tail::read_exact;
use crate::engine::Engine;
use crate::storage::{StorageFile, segment};

/// About the size of a part.
const PART_BYTES: u64 = 8 << 20;

/// What is archived of each file.
#[derive(Debug, Default)]
pub(super) struct Files {
    archived: BTreeMap<FileName, Archived>,
}

#[derive(Debug, Default)]
struct Archived {
    parts: Vec<PartOf>,
    bytes: u64,
    /// CRC-32C of the last archived bytes: see [`File::tail`].
    tail: u32,
}

impl Files {
    /// Begins with the files of an earlier snapshot, which is still in the archive.
    pub(super) fn of_snapshot(snapshot: Snapshot) -> Self {
        let archived = |file: File| {
            let bytes = file.bytes();
            (file.name, Archived { parts: file.parts, bytes, tail: file.tail })
        };
        let segments = snapshot.files.into_iter().filter(|file| file.name != FileName::Checkpoint);
        Files { archived: segments.map(archived).collect() }
    }

    /// Forgets files that the snapshot does not have: their parts will be deleted.
    pub(super) fn keep_only(&mut self, snapshot: &Snapshot) {
        let names: BTreeSet<FileName> = snapshot.files.iter().map(|file| file.name).collect();
        self.archived.retain(|name, _| names.contains(name));
    }

    /// The files of a pass, as they were uploaded.
    fn of_pass(&self, pass: &Pass) -> Vec<File> {
        let archived = pass.seen.iter().filter_map(|name| Some((*name, self.archived.get(name)?)));
        archived
            .map(|(name, archived)| File { name, tail: archived.tail, parts: archived.parts.clone() })
            .collect()
    }
}

/// Uploads what is new in all files, part by part. All methods that read files block.
pub(super) struct Pass {
    engine: Arc<Engine>,
    /// Files that were there at the beginning.
    listed: BTreeSet<FileName>,
    checkpoints: u64,
    /// Files to read, the next one last.
    left: Vec<FileName>,
    reading: Option<Reading>,
    /// Files that were read.
    seen: Vec<FileName>,
    has_vanished: bool,
}

struct Reading {
    name: FileName,
    file: Arc<dyn StorageFile>,
    done: u64,
    length: u64,
}

/// Bytes of several files.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) content: Vec<u8>,
    pieces: Vec<NewBytes>,
}

#[derive(Debug)]
struct NewBytes {
    name: FileName,
    offset: u64,
    bytes: u64,
    /// CRC-32C of the file's last bytes up to here.
    tail: u32,
}

impl Pass {
    pub(super) fn begin(engine: Arc<Engine>, files: &mut Files) -> io::Result<Self> {
        files.archived.remove(&FileName::Checkpoint);
        let checkpoints = engine.store.checkpoint_count();
        let listed = list(&engine)?;
        let mut left: Vec<FileName> = listed.iter().rev().copied().collect();
        left.push(FileName::Checkpoint);
        Ok(Pass { engine, listed, checkpoints, left, reading: None, seen: Vec::new(), has_vanished: false })
    }

    /// The next part; `None` at the end.
    pub(super) fn next_part(&mut self, files: &mut Files) -> io::Result<Option<Part>> {
        let mut part = Part::default();
        while (part.content.len() as u64) < PART_BYTES {
            if self.reading.is_none() && !self.open_next(files)? {
                break;
            }
            let Some(reading) = &mut self.reading else { continue };
            let begin = part.content.len();
            let bytes = (reading.length - reading.done).min(PART_BYTES - begin as u64);
            part.content.resize(begin + bytes as usize, 0);
            read_exact(&*reading.file, &mut part.content[begin..], reading.done)?;
            reading.done += bytes;
            let tail = tail_of(&*reading.file, reading.done)?;
            part.pieces.push(NewBytes { name: reading.name, offset: begin as u64, bytes, tail });
            if reading.done == reading.length {
                self.seen.push(reading.name);
                self.reading = None;
            }
        }
        Ok(if part.pieces.is_empty() { None } else { Some(part) })
    }

    /// Opens the next file that has something new. Returns whether there is any.
    fn open_next(&mut self, files: &mut Files) -> io::Result<bool> {
        while let Some(name) = self.left.pop() {
            let file = match self.engine.store.storage.open(&path(&self.engine, name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // A node without a checkpoint has none in its snapshot.
                    self.has_vanished |= name != FileName::Checkpoint;
                    continue;
                }
                file => file?,
            };
            let length = file.len()?;
            let archived = files.archived.entry(name).or_default();
            let is_same = archived.bytes <= length && tail_of(&*file, archived.bytes)? == archived.tail;
            if !is_same {
                *archived = Archived::default();
            }
            if archived.bytes < length {
                self.reading = Some(Reading { name, file, done: archived.bytes, length });
                return Ok(true);
            }
            if length > 0 {
                self.seen.push(name);
            }
        }
        Ok(false)
    }

    /// A part was written.
    pub(super) fn written(&self, part: Part, place: Place, files: &mut Files) {
        for NewBytes { name, offset, bytes, tail } in part.pieces {
            let archived = files.archived.entry(name).or_default();
            archived.parts.push(PartOf { place, offset, bytes });
            archived.bytes += bytes;
            archived.tail = tail;
        }
    }

    /// The files, if they belong together: none was created, removed or replaced meanwhile. A segment that goes leaves its
    /// needed messages in another one, which may have been read before.
    pub(super) fn end(self, files: &Files) -> io::Result<Option<Vec<File>>> {
        let is_whole = !self.has_vanished
            && self.engine.store.checkpoint_count() == self.checkpoints
            && list(&self.engine)? == self.listed;
        Ok(is_whole.then(|| files.of_pass(&self)))
    }
}

fn path(engine: &Engine, name: FileName) -> PathBuf {
    engine.store.data_dir.path().join(name.to_string())
}

/// All segments.
fn list(engine: &Engine) -> io::Result<BTreeSet<FileName>> {
    let (storage, data_dir) = (&*engine.store.storage, &engine.store.data_dir);
    let mut names = BTreeSet::new();
    for topic in data_dir.topic_numbers(storage)? {
        let dir = data_dir.topic_dir(topic);
        let files = match storage.list(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            files => files?,
        };
        let numbers = files.iter().filter_map(|name| segment::file_number_of(name.as_ref()));
        names.extend(numbers.map(|number| FileName::Segment { topic, number }));
    }
    Ok(names)
}

/// CRC-32C of the last bytes before `length`.
fn tail_of(file: &dyn StorageFile, length: u64) -> io::Result<u32> {
    let mut bytes = vec![0; length.min(TAIL_BYTES) as usize];
    let from = length - bytes.len() as u64;
    read_exact(file, &mut bytes, from)?;
    Ok(nsq_archive::snapshot::tail(&bytes))
}
