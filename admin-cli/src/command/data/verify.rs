//! `nsq data verify`: checks every checksum in a data directory.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use nsqd::damage::{self, Severity};
use nsqd::startup::verify;
use nsqd::storage::Storage;
use nsqd::storage::checkpoint;
use nsqd::storage::data_dir::DataDir;
use nsqd::storage::file_kind::{FileKind, is_retired, is_set_aside};
use nsqd::storage::overlay::OverlayStorage;

use super::directory::{Directory, DirectoryFlags};
use super::findings::{Finding, Findings};
use super::progress::Progress;
use super::queues::{NsqFiles, Piece};
use super::recovered;
use crate::exit_status::{ExitStatus, Failure};
use crate::output::Output;

#[derive(Debug, Args)]
pub struct VerifyFlags {
    #[command(flatten)]
    directory: DirectoryFlags,
    /// Show progress even if stderr is not a terminal.
    #[arg(long)]
    progress: bool,
}

/// Verifies the directory and prints the findings.
pub fn run(output: Output, flags: &VerifyFlags) -> Result<ExitStatus, Failure> {
    let directory = Directory::open(&flags.directory.path)?;
    let mut verifier = Verifier {
        directory: &directory,
        findings: Findings { path: directory.path().display().to_string(), ..Findings::default() },
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
    Ok(if findings.damage.is_empty() { ExitStatus::Done } else { ExitStatus::NotMet })
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
        (0, 0) => "no damage found".to_owned(),
        (0, _) => "no damage found; a start cuts the torn writes, which were never acknowledged".to_owned(),
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
    progress: Progress,
}

impl Verifier<'_> {
    fn ours(&mut self) -> Result<(), Failure> {
        self.note_files()?;
        let progress = &mut self.progress;
        let mut seen = |topic: &str, count| {
            progress.show(|| format!("segments of {topic}: {count} messages"));
        };
        let view = || -> Arc<dyn Storage> { Arc::new(OverlayStorage::default()) };
        let verified = verify::verify(self.directory.path(), &view, recovered::limits(), &mut seen);
        let verified = verified.map_err(|error| {
            Failure::failed(format_args!("cannot verify {}: {error}", self.directory.path().display()))
        })?;
        let checked = &mut self.findings.checked;
        checked.record_count += verified.record_count;
        checked.block_count += verified.block_count;
        checked.message_count += verified.message_count;
        for found in verified.findings {
            match found.severity {
                Severity::Damage => self.findings.damage.push(self.finding(found)),
                Severity::Torn => self.findings.torn.push(self.finding(found)),
                Severity::Doubt => self.findings.notes.push(found.to_string()),
            }
        }
        Ok(())
    }

    fn finding(&self, found: damage::Finding) -> Finding {
        let file = found.path.as_deref().map_or_else(String::new, |path| self.directory.relative(path));
        Finding::new(file, found.offset, found.bytes, found.what)
            .of_messages(found.topic.as_deref(), found.messages)
    }

    fn note_file(&mut self, path: &Path) -> u64 {
        let bytes = std::fs::metadata(path).map_or(0, |found| found.len());
        self.findings.checked.file_count += 1;
        self.findings.checked.bytes += bytes;
        bytes
    }

    /// Counts the files that are checked, and lists those that earlier starts set aside.
    fn note_files(&mut self) -> Result<(), Failure> {
        let view = self.directory.view()?;
        let (storage, data_dir) = (&view.storage, &view.data_dir);
        let topics = data_dir.topic_numbers(&**storage).map_err(Failure::failed)?;
        let dirs = [data_dir.path().to_owned(), data_dir.journal_dir()];
        for dir in dirs.into_iter().chain(topics.into_iter().map(|topic| data_dir.topic_dir(topic))) {
            let mut names = storage.list(&dir).unwrap_or_default();
            names.sort_unstable();
            for path in names.iter().map(|name| dir.join(name)) {
                if is_set_aside(&path) {
                    let name = self.directory.relative(&path);
                    self.findings.notes.push(format!("{name} was set aside by an earlier start"));
                } else if is_read(data_dir, &path) {
                    self.note_file(&path);
                }
            }
        }
        Ok(())
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
                let found = Finding::new(directory.relative(&path), at, bytes, "not a record of a queue");
                kind.push(found.of_messages(Some(&queue.topic), None));
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Whether a verification reads this file of ours.
fn is_read(data_dir: &DataDir, path: &Path) -> bool {
    let checkpoint = data_dir.checkpoint_path();
    let is_of_messages = FileKind::of(path) != FileKind::Other && !is_retired(path);
    is_of_messages
        || [data_dir.format_path(), checkpoint::previous(&checkpoint), checkpoint]
            .iter()
            .any(|read| read == path)
}
