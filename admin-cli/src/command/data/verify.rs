//! `nsq data verify`: checks every checksum in a data directory.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use clap::Args;
use nsqd::storage::checkpoint;
use nsqd::storage::segment::{BlockRef, ReadError, SegmentReport, SegmentStore};
use nsqd::storage::{Storage, TopicNumber};

use super::directory::{Directory, DirectoryFlags, View};
use super::findings::{Finding, Findings};
use super::journal_check::{self, JournalCheck};
use super::progress::Progress;
use super::queues::{NsqFiles, Piece};
use super::recovered;
use crate::exit_status::{ExitStatus, Failure};
use crate::output::Output;

/// What `nsq data verify` is told.
#[derive(Debug, Args)]
pub struct VerifyFlags {
    /// Which directory.
    #[command(flatten)]
    directory: DirectoryFlags,
    /// Say how far it is, also where stderr is no terminal.
    #[arg(long)]
    progress: bool,
}

/// What a `format` file may hold.
const FORMAT_TEXT: &[u8] = b"1\n";
/// The header of a journal file stands there twice; one copy is so long.
const JOURNAL_HEADER_BYTES: usize = 64;
/// The same of a segment.
const SEGMENT_HEADER_BYTES: usize = 32;

/// Checks it.
pub fn run(output: Output, flags: &VerifyFlags) -> Result<ExitStatus, Failure> {
    let directory = Directory::open(&flags.directory)?;
    let mut verifier = Verifier {
        directory: &directory,
        findings: Findings { path: directory.path().display().to_string(), ..Findings::default() },
        topic_names: HashMap::new(),
        is_clean_stop: false,
        progress: Progress::new(flags.progress),
    };
    if directory.is_ours && !directory.takeover_is_due {
        verifier.ours()?;
    }
    if directory.has_nsq {
        verifier.nsq()?;
    }
    let Verifier { findings, mut progress, .. } = verifier;
    progress.end();
    directory.check_unchanged()?;
    print(output, &findings)?;
    Ok(if findings.damage.is_empty() { ExitStatus::Done } else { ExitStatus::Damaged })
}

fn print(output: Output, findings: &Findings) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(findings);
    }
    if !findings.damage.is_empty() || !findings.torn.is_empty() {
        output.table(&findings.table())?;
    }
    for note in &findings.notes {
        output.warning(&format!("! {note}"));
    }
    let checked = &findings.checked;
    let verdict = match (findings.damage.len(), findings.torn.len()) {
        (0, 0) => "nothing is damaged".to_owned(),
        (0, _) => {
            "nothing is damaged; a start cuts the torn writes, which were never acknowledged".to_owned()
        }
        (damaged, _) => format!("{damaged} damaged places"),
    };
    output.text(format!(
        "{}: {verdict} ({} files, {} bytes, {} records, {} blocks, {} messages in segments)\n",
        findings.path,
        checked.file_count,
        checked.bytes,
        checked.record_count,
        checked.block_count,
        checked.message_count
    ))
}

struct Verifier<'a> {
    directory: &'a Directory,
    findings: Findings,
    topic_names: HashMap<TopicNumber, String>,
    /// Then nothing can have been cut off by a kill.
    is_clean_stop: bool,
    progress: Progress,
}

impl Verifier<'_> {
    fn ours(&mut self) -> Result<(), Failure> {
        let view = self.directory.view()?;
        self.format(&view);
        self.checkpoints(&view)?;
        self.journal(&view)?;
        self.segments(&view)?;
        Ok(())
    }

    fn note_file(&mut self, path: &Path) -> u64 {
        let bytes = std::fs::metadata(path).map_or(0, |found| found.len());
        self.findings.checked.file_count += 1;
        self.findings.checked.bytes += bytes;
        bytes
    }

    fn format(&mut self, view: &View) {
        let path = view.data_dir.path().join("format");
        match std::fs::read(&path) {
            Ok(text) if text == FORMAT_TEXT => _ = self.note_file(&path),
            Ok(text) => {
                self.note_file(&path);
                let what = "no format version that this program ever wrote";
                self.findings.damage.push(Finding::new("format", 0, text.len() as u64, what));
            }
            Err(error) => self.findings.notes.push(format!("format: {error}")),
        }
    }

    /// The checkpoint, and whatever else is kept under its name; but not one that was being written.
    fn checkpoints(&mut self, view: &View) -> Result<(), Failure> {
        let newest = view.data_dir.checkpoint_path();
        let names = view.storage.list(view.data_dir.path()).map_err(Failure::failed)?;
        let is_checkpoint = |name: &&String| name.starts_with("checkpoint") && !name.ends_with(".new");
        for name in names.iter().filter(is_checkpoint) {
            let path = view.data_dir.path().join(name);
            let bytes = self.note_file(&path);
            match checkpoint::read(&*view.storage, &path) {
                Ok(Some(saved)) => {
                    for topic in &saved.topics {
                        self.topic_names.entry(topic.number).or_insert_with(|| topic.name.clone());
                    }
                    self.is_clean_stop |= path == newest && saved.clean_shutdown;
                }
                Ok(None) => {}
                Err(error) => {
                    self.findings.damage.push(Finding::new(name.as_str(), 0, bytes, error.to_string()));
                }
            }
        }
        Ok(())
    }

    fn journal(&mut self, view: &View) -> Result<(), Failure> {
        let dir = view.data_dir.journal_dir();
        let names = view.storage.list(&dir).unwrap_or_default();
        let paths = names.iter().map(|name| dir.join(name));
        let files: BTreeMap<u64, PathBuf> =
            paths.filter_map(|path| Some((journal_check::file_number(&path)?, path))).collect();
        for path in files.values() {
            self.note_file(path);
            self.header_copies(&*view.storage, path, JOURNAL_HEADER_BYTES)?;
        }
        for name in names.iter().filter(|name| name.ends_with(".damaged")) {
            self.findings.notes.push(format!("journal/{name} was set aside by an earlier start"));
        }
        let (progress, mut count) = (&mut self.progress, 0_u64);
        let check = JournalCheck::read(view, |at, _| {
            count += 1;
            progress.show(|| format!("journal: file {}, {count} records", at.file_number()));
        })?;
        self.findings.checked.record_count += check.report.records;
        self.topic_names.extend(check.topic_names.iter().map(|(&number, name)| (number, name.clone())));
        let name = |number: u64| {
            files
                .get(&number)
                .map_or_else(|| format!("journal file {number}"), |path| self.directory.relative(path))
        };
        for damage in &check.report.damaged {
            let what = if damage.lsn.offset() == 0 { "no readable header" } else { "no readable records" };
            let found = Finding::new(name(damage.lsn.file_number()), damage.lsn.offset(), damage.bytes, what);
            let lost = check.messages_in(damage);
            if lost.is_empty() {
                self.findings.damage.push(found.clone());
            }
            for (topic, messages) in lost {
                let topic = self.topic_names.get(&topic).map(String::as_str);
                self.findings.damage.push(found.clone().of_messages(topic, Some(messages)));
            }
        }
        for &number in &check.report.missing_files {
            self.findings.damage.push(Finding::new(name(number), 0, 0, "the file is missing"));
        }
        if let Some(at) = check.report.torn_at {
            let found =
                Finding::new(name(at.file_number()), at.offset(), check.report.cut_bytes, "the last write");
            self.torn(found);
        }
        Ok(())
    }

    /// A kill may cut off the last write. A clean stop does not.
    fn torn(&mut self, finding: Finding) {
        match self.is_clean_stop {
            true => {
                let what = format!("{}, though the last stop was clean", finding.what);
                self.findings.damage.push(Finding { what, ..finding });
            }
            false => self.findings.torn.push(finding),
        }
    }

    /// Either copy is enough to read the file; a lost one is no longer a spare.
    fn header_copies(&mut self, storage: &dyn Storage, path: &Path, bytes: usize) -> Result<(), Failure> {
        let mut header = vec![0; 2 * bytes];
        let file = storage.open(path).map_err(Failure::failed)?;
        let filled = file.read_at(&mut header, 0).map_err(Failure::failed)?;
        if filled == header.len() && header[..bytes] != header[bytes..] {
            let what = "one of the two copies of the header; the other one serves";
            let name = self.directory.relative(path);
            self.findings.damage.push(Finding::new(name, 0, header.len() as u64, what));
        }
        Ok(())
    }

    fn segments(&mut self, view: &View) -> Result<(), Failure> {
        let limits = recovered::limits();
        for topic in view.data_dir.topic_numbers(&*view.storage).map_err(Failure::failed)? {
            let dir = view.data_dir.topic_dir(topic);
            let names = view.storage.list(&dir).map_err(Failure::failed)?;
            let mut paths: Vec<PathBuf> = Vec::new();
            for name in names {
                if name.ends_with(".segment") {
                    paths.push(dir.join(&name));
                } else if name.ends_with(".damaged") {
                    let text = format!("topics/{topic}/{name} was set aside by an earlier start");
                    self.findings.notes.push(text);
                }
            }
            for path in &paths {
                self.note_file(path);
                self.header_copies(&*view.storage, path, SEGMENT_HEADER_BYTES)?;
            }
            let opened = SegmentStore::open(view.storage.clone(), &dir, limits.max_bytes_per_file);
            let (_store, blocks, report) =
                opened.map_err(|error| Failure::failed(format_args!("{}: {error}", dir.display())))?;
            self.blocks(topic, &blocks);
            self.segment_report(topic, &blocks, &report, paths.last());
        }
        Ok(())
    }

    /// The contents of all blocks.
    fn blocks(&mut self, topic: TopicNumber, blocks: &[BlockRef]) {
        let name = self.topic_names.get(&topic).cloned();
        for block in blocks {
            let checked = &mut self.findings.checked;
            checked.block_count += 1;
            checked.message_count += u64::from(block.count);
            let (count, label) = (checked.message_count, name.as_deref().unwrap_or("a deleted topic"));
            self.progress.show(|| format!("segments of {label}: {count} messages"));
            let (path, what) = match block.read() {
                Ok(_) => continue,
                Err(ReadError::Damaged { path, .. }) => (path, "the messages of a block".to_owned()),
                Err(ReadError::Io { path, error }) => (path, format!("cannot be read: {error}")),
            };
            let file = self.directory.relative(&path);
            let messages = (block.first_sequence, block.end_sequence());
            let found = Finding::new(file, block.offset(), u64::from(block.bytes), what);
            self.findings.damage.push(found.of_messages(name.as_deref(), Some(messages)));
        }
    }

    fn segment_report(
        &mut self,
        topic: TopicNumber,
        blocks: &[BlockRef],
        report: &SegmentReport,
        newest: Option<&PathBuf>,
    ) {
        let name = self.topic_names.get(&topic).cloned();
        for damage in &report.damaged {
            let file = self.directory.relative(&damage.path);
            let what = match damage.offset {
                0 => "no readable header",
                _ => "no readable block header",
            };
            let found = Finding::new(file, damage.offset, damage.bytes, what);
            let messages = messages_between(blocks, segment_number(&damage.path), damage.offset);
            self.findings.damage.push(found.of_messages(name.as_deref(), messages));
        }
        if let Some(path) = newest.filter(|_| report.cut_bytes > 0) {
            let bytes = std::fs::metadata(path).map_or(0, |found| found.len());
            let at = bytes.saturating_sub(report.cut_bytes);
            let found = Finding::new(self.directory.relative(path), at, report.cut_bytes, "the last write");
            self.torn(found.of_messages(name.as_deref(), None));
        }
    }

    fn nsq(&mut self) -> Result<(), Failure> {
        let files = NsqFiles::find(self.directory)?;
        let metadata = self.directory.path().join("nsqd.dat");
        if metadata.exists() {
            let bytes = self.note_file(&metadata);
            if let Err(error) = &files.metadata {
                self.findings.damage.push(Finding::new("nsqd.dat", 0, bytes, error.as_str()));
            }
        }
        for queue in &files.queues {
            let label = queue.label();
            self.findings
                .notes
                .extend(queue.oddities.iter().map(|oddity| format!("queue {label}: {oddity}")));
            let aside = queue.bad_files.iter().map(|name| format!("{name} was set aside by NSQ"));
            self.findings.notes.extend(aside);
            self.findings.checked.file_count += queue.files.len() as u64;
            self.findings.checked.bytes += queue.bytes();
            let (directory, findings, progress) = (self.directory, &mut self.findings, &mut self.progress);
            files.read(directory, queue, false, |piece| {
                let (kind, path, at, bytes) = match piece {
                    Piece::Message(..) => {
                        findings.checked.record_count += 1;
                        findings.checked.message_count += 1;
                        let count = findings.checked.record_count;
                        progress.show(|| format!("queue {label}: {count} messages"));
                        return Ok(());
                    }
                    Piece::Damage(path, at, bytes) => (&mut findings.damage, path, at, bytes),
                    Piece::Torn(path, at, bytes) => (&mut findings.torn, path, at, bytes),
                };
                let found = Finding::new(directory.relative(&path), at, bytes, "no record of a queue");
                kind.push(found.of_messages(Some(&queue.topic), None));
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn segment_number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".segment")?.parse().ok()
}

/// The messages that must have been between the neighbours of a damaged place, if these are in order.
fn messages_between(blocks: &[BlockRef], file: Option<u64>, offset: u64) -> Option<(u64, u64)> {
    let place = |block: &&BlockRef| (block.file_number(), block.offset());
    let damaged = (file?, offset);
    let before = blocks.iter().filter(|block| place(block) < damaged).max_by_key(place)?;
    let after = blocks.iter().filter(|block| place(block) > damaged).min_by_key(place)?;
    Some((before.end_sequence(), after.first_sequence))
}
