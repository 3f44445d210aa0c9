//! Turns what a start found in the data directory into findings. The log, the metrics and `nsq data verify` show the
//! same ones.

use std::path::Path;

use nsq_daemon::log::Logger;
use nsq_protocol::TopicName;

use super::gaps::Gaps;
use crate::damage::{Damage, Finding, SetAside};
use crate::storage::checkpoint::Checkpoint;
use crate::storage::data_dir::DataDir;
use crate::storage::journal::{self, JournalReport};
use crate::storage::segment::{self, BlockRef, SegmentDamage, SegmentReport};
use crate::storage::{SequenceRange, TopicNumber};

/// Reports the result of opening a topic's segments.
pub fn segments(damage: &Damage, topic: &TopicName, (blocks, report): (&[BlockRef], &SegmentReport)) {
    if report.cut_bytes > 0 {
        let mut found = Finding::torn("cut a torn write");
        if let Some((path, at)) = &report.cut_at {
            found = found.at(path, *at, report.cut_bytes);
        }
        damage.found(found.of(topic));
    }
    for SegmentDamage { path, offset, bytes } in &report.damaged {
        let is_header = *offset < segment::FILE_HEADER_BYTES;
        let what = if is_header { "damaged header" } else { "no readable block header" };
        let mut found = Finding::damage(what).at(path, *offset, *bytes).of(topic);
        if let Some(messages) = messages_between(blocks, segment::file_number_of(path), *offset)
            && !is_header
        {
            found = found.with_messages(messages);
        }
        damage.found(found);
    }
    for path in &report.set_aside {
        damage.set_aside(SetAside { of: format!("TOPIC({topic})"), path: path.clone() });
    }
}

/// The messages that must have been between the neighbours of a damaged place, if the neighbours are in order.
fn messages_between(blocks: &[BlockRef], file: Option<u64>, offset: u64) -> Option<SequenceRange> {
    let place = |block: &&BlockRef| (block.file_number(), block.offset());
    let damaged = (file?, offset);
    let before = blocks.iter().filter(|block| place(block) < damaged).max_by_key(place)?;
    let after = blocks.iter().filter(|block| place(block) > damaged).min_by_key(place)?;
    Some(SequenceRange::new(before.end_sequence(), after.first_sequence))
}

/// The result of reading the journal.
pub struct JournalFindings<'a> {
    pub data_dir: &'a DataDir,
    /// The checkpoint that the start uses.
    pub saved: Option<&'a Checkpoint>,
    pub report: &'a JournalReport,
    /// Gaps between the records around damage.
    pub gaps: &'a Gaps,
}

impl JournalFindings<'_> {
    /// Reports the findings. `topic_name` returns the name of a topic.
    pub fn report(
        &self,
        logger: &Logger,
        damage: &Damage,
        topic_name: impl Fn(TopicNumber) -> Option<String>,
    ) {
        let report = self.report;
        if report.records > 0 {
            let JournalReport { records, bytes, files, .. } = report;
            nsq_daemon::info!(logger, "JOURNAL: read {records} records, {bytes} bytes, {files} files");
        }
        let path = |number: u64| self.data_dir.journal_dir().join(journal::file_name(number));
        for found in &report.damaged {
            let (number, offset) = (found.lsn.file_number(), found.lsn.offset());
            let what = match offset {
                0 if report.set_aside.iter().any(|aside| is_aside(aside, number)) => {
                    "unreadable journal file"
                }
                0..journal::FILE_HEADER_BYTES => "damaged header of a journal file",
                _ => "no readable records",
            };
            let finding = Finding::damage(what).at(path(number), offset, found.bytes);
            let lost = self.gaps.messages_in(found);
            if lost.is_empty() {
                damage.found(finding.clone());
            }
            for (topic, messages) in lost {
                let of = match topic_name(topic) {
                    Some(name) => finding.clone().of(name),
                    None => finding.clone(),
                };
                damage.found(of.with_messages(messages));
            }
        }
        for &number in &report.missing_files {
            damage.found(Finding::damage("a journal file is missing").at(path(number), 0, 0));
        }
        for (from, to) in &report.renamed {
            let name = to.file_name().unwrap_or_default().to_string_lossy();
            damage.found(
                Finding::damage(format!("a journal file had a wrong name and was renamed to {name}"))
                    .at(from, 0, 0),
            );
        }
        for path in &report.set_aside {
            damage.set_aside(SetAside { of: "JOURNAL".to_owned(), path: path.clone() });
        }
        self.report_end(damage, path);
    }

    /// Compares the end of the journal with the place up to which, according to the checkpoint, everything was written.
    fn report_end(&self, damage: &Damage, path: impl Fn(u64) -> std::path::PathBuf) {
        let known = self.saved.map_or_else(Default::default, |saved| saved.journal_from);
        let end = self.report.end;
        let is_cut = known.offset() > journal::FILE_HEADER_BYTES && end < known;
        if let Some(at) = self.report.torn_at {
            let torn = match is_cut {
                true => Finding::damage("records are missing that the checkpoint refers to"),
                false => Finding::torn("cut a torn write"),
            };
            damage.found(torn.at(path(at.file_number()), at.offset(), self.report.cut_bytes));
        } else if is_cut && end.file_number() == known.file_number() {
            let missing = Finding::damage("records are missing that the checkpoint refers to");
            damage.found(missing.at(path(known.file_number()), end.offset(), known.offset() - end.offset()));
        } else if is_cut
            && !self.report.damaged.iter().any(|found| found.lsn.file_number() == known.file_number())
        {
            damage.found(Finding::damage("a journal file is missing").at(path(known.file_number()), 0, 0));
        }
    }
}

fn is_aside(path: &Path, number: u64) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&journal::file_name(number)))
}
