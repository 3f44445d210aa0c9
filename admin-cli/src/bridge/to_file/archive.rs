//! The files of one topic: writes records, syncs, rotates, and moves finished files. Blocking.
//!
//! | promise | how |
//! |---|---|
//! | nothing is overwritten | files are created exclusively or appended to, and moved by a hard link |
//! | no record continues a torn one | a file that does not end with a whole record is left alone |
//! | one writer per file | an exclusive `flock`, which a crash releases |

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Zoned;
use nsq_daemon::log::Logger;
use nsq_daemon::metrics::{Counter, Histogram};
use nsq_daemon::{error, info, warn};

use super::files::{LockedFile, collect, create_parent, move_without_overwriting, sync_parent};
use super::finished::{Retain, Retention, run_command};
use super::gzip_tail::ReadAt;
use super::names::FileNames;
use super::record::{RecordFormat, RecordStyle, Records};

/// Bytes to collect before a write.
const WRITE_BYTES: usize = 256 << 10;

/// A compression with its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compress {
    /// Level 1 to 9.
    Gzip(u32),
    /// Level 1 to 19.
    Zstd(i32),
}

impl Compress {
    /// The ending of compressed files.
    pub fn ending(self) -> &'static str {
        match self {
            Compress::Gzip(_) => ".gz",
            Compress::Zstd(_) => ".zst",
        }
    }
}

/// How files are written.
#[derive(Debug, Clone)]
pub struct Layout {
    pub output_dir: PathBuf,
    /// Where files are written until they are finished; equal to `output_dir` without a separate one.
    pub work_dir: PathBuf,
    /// How files are compressed, if they are.
    pub compress: Option<Compress>,
    pub record: RecordStyle,
    /// Bytes after which a file is finished; 0 is no limit.
    pub rotate_bytes: u64,
    pub rotate_size_of: SizeOf,
    /// Time after which a file is finished; zero is no limit.
    pub rotate_interval: Duration,
    /// Limits of finished files; none keeps all.
    pub retain: Vec<Retain>,
    /// A shell command for each finished file.
    pub on_rotate: Option<String>,
}

/// Which bytes count for the size of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SizeOf {
    /// Those of the records, before compression.
    Raw,
    /// Those of the file.
    File,
}

impl Layout {
    /// Whether files are moved when they are finished.
    pub fn moves(&self) -> bool {
        self.work_dir != self.output_dir
    }

    /// Whether only new files are written to.
    fn is_exclusive(&self) -> bool {
        self.compress.is_some()
            || !self.rotate_interval.is_zero()
            || self.record.format == RecordFormat::Length
    }
}

/// What has been written, over all topics.
#[derive(Debug, Default)]
pub struct FileCounts {
    pub records: Counter,
    /// Before compression.
    pub bytes: Counter,
    pub opened: Counter,
    pub finished: Counter,
    pub syncs: Histogram,
    pub failures: Counter,
    pub deleted: Counter,
    /// Commands of `--on-rotate` that failed.
    pub failed_commands: Counter,
}

/// Writes the files of one topic.
#[derive(Debug)]
pub struct Archive {
    pub layout: Arc<Layout>,
    pub names: FileNames,
    pub topic: String,
    /// Topic and channel, for log lines.
    pub label: String,
    pub logger: Logger,
    pub counts: Arc<FileCounts>,
    retention: Retention,
    open: Option<OpenFile>,
    /// The name of the current or last file, without its revision.
    name: String,
    revision: u32,
}

#[derive(Debug)]
struct OpenFile {
    file: LockedFile,
    path: PathBuf,
    encoder: Encoder,
    opened_at: Instant,
    /// Bytes before compression.
    bytes: u64,
    /// Length of the file.
    written: u64,
    /// Length of the file at the last sync.
    synced: u64,
}

#[derive(Debug)]
enum Encoder {
    Plain(Vec<u8>),
    /// The member or frame that is being written, if any.
    Compressed {
        compress: Compress,
        member: Option<Box<Member>>,
        out: Vec<u8>,
    },
}

/// A part of a compressed file that can be decompressed by itself: a gzip member or a zstd frame.
enum Member {
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Member")
    }
}

impl Member {
    fn new(compress: Compress, out: Vec<u8>) -> io::Result<Self> {
        Ok(match compress {
            Compress::Gzip(level) => Member::Gzip(GzEncoder::new(out, Compression::new(level))),
            Compress::Zstd(level) => {
                let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
                encoder.include_checksum(true)?;
                Member::Zstd(encoder)
            }
        })
    }

    fn write_all(&mut self, record: &[u8]) -> io::Result<()> {
        match self {
            Member::Gzip(encoder) => encoder.write_all(record),
            Member::Zstd(encoder) => encoder.write_all(record),
        }
    }

    /// What is compressed so far.
    fn out(&mut self) -> &mut Vec<u8> {
        match self {
            Member::Gzip(encoder) => encoder.get_mut(),
            Member::Zstd(encoder) => encoder.get_mut(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Member::Gzip(encoder) => encoder.get_ref().len(),
            Member::Zstd(encoder) => encoder.get_ref().len(),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Member::Gzip(encoder) => encoder.finish(),
            Member::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl Archive {
    pub fn new(
        layout: Arc<Layout>,
        names: FileNames,
        [topic, channel]: [&str; 2],
        logger: Logger,
        counts: Arc<FileCounts>,
    ) -> Self {
        let retention = Retention::new(&layout.retain);
        let (topic, label) = (topic.to_owned(), format!("{topic}/{channel}"));
        let (open, name, revision) = (None, String::new(), 0);
        Archive { layout, names, topic, label, logger, counts, retention, open, name, revision }
    }

    /// Whether the next record belongs into another file.
    pub fn is_rotation_due(&self) -> bool {
        self.is_due(&self.names.at(&Zoned::now()))
    }

    fn is_due(&self, name: &str) -> bool {
        let Some(open) = &self.open else { return true };
        let Layout { rotate_bytes, rotate_interval, rotate_size_of, .. } = *self.layout;
        name != self.name
            || (!rotate_interval.is_zero() && open.opened_at.elapsed() > rotate_interval)
            || (rotate_bytes > 0 && open.size(rotate_size_of) > rotate_bytes)
    }

    /// Writes records, and opens the files that they need. Returns whether it opened one: then the caller should sync.
    pub fn append(&mut self, records: &Records) -> io::Result<bool> {
        let name = self.names.at(&Zoned::now());
        let mut opened = false;
        for record in records.iter() {
            if self.is_due(&name) {
                self.rotate(&name)?;
                opened = true;
            }
            if let Some(open) = &mut self.open {
                open.push(record)?;
            }
            self.counts.bytes.add(record.len() as u64);
        }
        if let Some(open) = &mut self.open {
            open.write_out()?;
        }
        self.counts.records.add(records.len() as u64);
        Ok(opened)
    }

    /// Closes the current file and opens the next one, even if nothing is to be written.
    pub fn rotate_now(&mut self) -> io::Result<()> {
        let name = self.names.at(&Zoned::now());
        self.rotate(&name)
    }

    fn rotate(&mut self, name: &str) -> io::Result<()> {
        self.close()?;
        if name != self.name {
            name.clone_into(&mut self.name);
            self.revision = 0;
        } else if self.names.always_revision() {
            self.revision += 1;
        }
        let open = self.open_next()?;
        info!(self.logger, "[{}] opening {}", self.label, open.path.display());
        self.counts.opened.add(1);
        self.open = Some(open);
        Ok(())
    }

    /// Opens the file of the first revision, from the current one on, that may be written to.
    fn open_next(&mut self) -> io::Result<OpenFile> {
        let Layout { work_dir, output_dir, .. } = &*self.layout;
        loop {
            let path = self.names.path(work_dir, &self.name, self.revision);
            create_parent(&path)?;
            let mut reason = None;
            if self.layout.moves() {
                let target = self.names.path(output_dir, &self.name, self.revision);
                create_parent(&target)?;
                if target.try_exists()? {
                    reason = Some(format!("{} already exists", target.display()));
                }
            }
            if reason.is_none() {
                match self.open_at(&path)? {
                    Ok(open) => {
                        sync_parent(&path)?;
                        return Ok(open);
                    }
                    Err(why) => reason = Some(format!("{} {why}", path.display())),
                }
            }
            warn!(self.logger, "[{}] {}; trying the next revision", self.label, reason.unwrap_or_default());
            self.revision += 1;
        }
    }

    /// Opens one file. The inner error says why it must not be written to.
    fn open_at(&self, path: &Path) -> io::Result<Result<OpenFile, &'static str>> {
        let mut options = OpenOptions::new();
        match self.layout.is_exclusive() {
            true => options.write(true).create_new(true),
            false => options.read(true).append(true).create(true),
        };
        let file = match options.open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(Err("already exists")),
            opened => opened?,
        };
        let Some(file) = LockedFile::lock(file)? else {
            return Ok(Err("is being written by another process"));
        };
        let metadata = file.metadata()?;
        if metadata.nlink() == 0 {
            // Another process applied its limits between the open and the lock.
            return Ok(Err("was deleted meanwhile"));
        }
        let len = metadata.len();
        let limit = self.layout.rotate_bytes;
        if limit > 0 && len > limit {
            return Ok(Err("is larger than --rotate-size"));
        }
        if len > 0 {
            let mut last = [0];
            file.read_exact_at(&mut last, len - 1)?;
            if last != *b"\n" {
                return Ok(Err("ends with an incomplete record"));
            }
        }
        let encoder = match self.layout.compress {
            None => Encoder::Plain(Vec::new()),
            Some(compress) => Encoder::Compressed { compress, member: None, out: Vec::new() },
        };
        let (path, opened_at) = (path.to_owned(), Instant::now());
        Ok(Ok(OpenFile { file, path, encoder, opened_at, bytes: len, written: len, synced: len }))
    }

    /// Makes everything written so far durable. Compressed files get the end of a member.
    pub fn sync(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let started_at = Instant::now();
        open.end_member()?;
        if open.synced < open.written {
            open.file.sync_data()?;
            open.synced = open.written;
            self.counts.syncs.record(started_at.elapsed());
        }
        Ok(())
    }

    /// Syncs and closes the current file, and moves it to the output folder.
    pub fn close(&mut self) -> io::Result<()> {
        self.sync()?;
        let Some(open) = &mut self.open else { return Ok(()) };
        if open.written == 0 && open.is_compressed() {
            // A compressed file without a member would be no valid one.
            open.push(b"")?;
            open.end_member()?;
            open.file.sync_data()?;
        }
        let Some(open) = self.open.take() else { return Ok(()) };
        self.counts.finished.add(1);
        // The lock must last until the file is moved.
        let moved = if self.layout.moves() { self.publish(&open.path)? } else { open.path };
        drop(open.file);
        self.finished(&moved);
        Ok(())
    }

    /// Runs the command for a finished file, and deletes old files. Failures are logged: the records are safe.
    fn finished(&mut self, path: &Path) {
        if let Some(command) = &self.layout.on_rotate
            && let Err(failure) = run_command(command, &self.topic, path)
        {
            self.counts.failed_commands.add(1);
            let (label, path) = (&self.label, path.display());
            error!(self.logger, "[{label}] --on-rotate failed for {path}: {failure}");
        }
        self.apply_retention();
    }

    /// Applies the limits of finished files if files may have become too old.
    pub fn retain_if_due(&mut self) {
        if self.retention.is_due() {
            self.apply_retention();
        }
    }

    fn apply_retention(&mut self) {
        let depth = self.names.depth(&Zoned::now());
        let pattern = self.names.own_pattern();
        let folder = &self.layout.output_dir;
        let is_own = |relative: &Path| pattern.is_match(relative.as_os_str().as_encoded_bytes());
        let label = &self.label;
        let applied = self.retention.apply(folder, depth, is_own, |file| {
            self.counts.deleted.add(1);
            info!(self.logger, "[{label}] deleted {} of {} bytes: --retain", file.path.display(), file.len);
        });
        if let Err(error) = applied {
            let folder = folder.display();
            warn!(self.logger, "[{label}] --retain cannot delete old files in {folder}: {error}");
        }
    }

    /// After a failure: cuts the current file to what was synced and closes it. The records after that must be written again,
    /// to another file.
    pub fn abandon(&mut self) -> io::Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        if !self.names.always_revision() {
            // The same name would be opened again, after a failure that may have left it in any state.
            self.revision += 1;
        }
        open.file.set_len(open.synced)?;
        let moved = match (open.synced, self.layout.moves()) {
            (0, _) => return fs::remove_file(&open.path),
            (_, true) => self.publish(&open.path)?,
            (_, false) => open.path,
        };
        drop(open.file);
        self.finished(&moved);
        Ok(())
    }

    /// Moves a finished file from the work folder to the output folder, under its own name or that of a later revision.
    /// Returns where it is.
    fn publish(&self, path: &Path) -> io::Result<PathBuf> {
        let relative = path.strip_prefix(&self.layout.work_dir).unwrap_or(path);
        let wanted = self.layout.output_dir.join(relative);
        let mut target = wanted.clone();
        let mut revision = self.revision;
        while let Err(error) = move_without_overwriting(path, &target) {
            if error.kind() != ErrorKind::AlreadyExists {
                return Err(error);
            }
            warn!(
                self.logger,
                "[{}] {} already exists; trying the next revision",
                self.label,
                target.display()
            );
            revision += 1;
            target = match self.name.is_empty() {
                // A file of an earlier run, whose name is not taken apart.
                true => PathBuf::from(format!("{}-{revision:06}", wanted.display())),
                false => self.names.path(&self.layout.output_dir, &self.name, revision),
            };
        }
        info!(self.logger, "[{}] moved {} to {}", self.label, path.display(), target.display());
        Ok(target)
    }

    /// Finishes what an earlier run left behind when it was killed: cuts an incomplete gzip member or zstd frame at the end of its last file,
    /// and moves its files from the work folder. Skips files that another process writes.
    pub fn recover(&mut self) -> io::Result<()> {
        let depth = self.names.depth(&Zoned::now());
        let pattern = self.names.pattern();
        let folder = self.layout.work_dir.clone();
        let mut found = Vec::new();
        collect(&folder, &folder, depth, &mut |relative, path, metadata| {
            if pattern.is_match(relative.as_os_str().as_encoded_bytes()) {
                found.push((metadata.modified()?, path));
            }
            Ok(())
        })?;
        // One run writes one file of a topic at a time.
        found.sort();
        if !self.layout.moves() {
            if self.layout.compress.is_none() {
                return Ok(());
            }
            found = found.split_off(found.len().saturating_sub(1));
        }
        for (_, path) in found {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            let Some(file) = LockedFile::lock(file)? else { continue };
            let ending = path.extension().and_then(|ending| ending.to_str());
            if let Some(ending @ ("gz" | "zst")) = ending {
                let len = file.metadata()?.len();
                let whole = match ending {
                    "gz" => super::gzip_tail::whole_len(&Positioned(&file), len)?,
                    _ => super::zstd_tail::whole_len(&Positioned(&file), len)?,
                };
                if whole < len {
                    let cut = len - whole;
                    file.set_len(whole)?;
                    file.sync_data()?;
                    let name = path.display();
                    warn!(self.logger, "[{}] cut {cut} bytes of an unfinished sync from {name}", self.label);
                }
            }
            match (self.layout.moves(), file.metadata()?.len()) {
                (_, 0) => fs::remove_file(&path)?,
                (true, _) => {
                    create_parent(&self.layout.output_dir.join(path.strip_prefix(&folder).unwrap_or(&path)))?;
                    let moved = self.publish(&path)?;
                    drop(file);
                    self.finished(&moved);
                }
                (false, _) => {}
            }
        }
        Ok(())
    }
}

impl OpenFile {
    fn is_compressed(&self) -> bool {
        matches!(self.encoder, Encoder::Compressed { .. })
    }

    /// Compressed bytes count when the compressor has written them.
    fn size(&self, of: SizeOf) -> u64 {
        let collected = match (of, &self.encoder) {
            (SizeOf::Raw, _) => return self.bytes,
            (SizeOf::File, Encoder::Plain(out) | Encoder::Compressed { member: None, out, .. }) => out.len(),
            (SizeOf::File, Encoder::Compressed { member: Some(member), .. }) => member.len(),
        };
        self.written + collected as u64
    }

    fn push(&mut self, record: &[u8]) -> io::Result<()> {
        self.bytes += record.len() as u64;
        let collected = match &mut self.encoder {
            Encoder::Plain(out) => {
                out.extend_from_slice(record);
                out.len()
            }
            Encoder::Compressed { compress, member, out } => {
                let member = match member {
                    Some(member) => member,
                    None => member.insert(Box::new(Member::new(*compress, std::mem::take(out))?)),
                };
                member.write_all(record)?;
                member.out().len()
            }
        };
        if collected >= WRITE_BYTES { self.write_out() } else { Ok(()) }
    }

    /// Writes what is collected to the file.
    fn write_out(&mut self) -> io::Result<()> {
        let out = match &mut self.encoder {
            Encoder::Plain(out) | Encoder::Compressed { member: None, out, .. } => out,
            Encoder::Compressed { member: Some(member), .. } => member.out(),
        };
        if !out.is_empty() {
            (&*self.file).write_all(out)?;
            self.written += out.len() as u64;
            out.clear();
        }
        Ok(())
    }

    fn end_member(&mut self) -> io::Result<()> {
        if let Encoder::Compressed { member, out, .. } = &mut self.encoder
            && let Some(member) = member.take()
        {
            *out = member.finish()?;
        }
        self.write_out()
    }
}

/// Reads a file at an offset.
struct Positioned<'a>(&'a File);

impl ReadAt for Positioned<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
