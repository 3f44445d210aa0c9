//! Goes through a directory's journal once and counts its records.

use std::collections::BTreeMap;
use std::path::Path;

use nsqd::storage::Durability;
use nsqd::storage::journal::{Journal, JournalOptions, JournalReport, Lsn};
use nsqd::storage::record::Record;

use super::directory::View;
use crate::exit_status::Failure;

/// Length and checksums before each record.
const RECORD_HEADER_BYTES: u64 = 12;

/// What was found in a journal.
pub struct JournalCheck {
    /// The files that records were found in, by number.
    pub files: BTreeMap<u64, FileCounts>,
    /// What opening it says.
    pub report: JournalReport,
}

/// Records of a file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct FileCounts {
    /// By kind.
    pub records: BTreeMap<&'static str, u64>,
    /// Messages published in it.
    pub message_count: u64,
    /// Bytes of the records.
    pub record_bytes: u64,
}

impl JournalCheck {
    /// Reads it all; `seen` hears of every record.
    pub fn read(view: &View, mut seen: impl FnMut(Lsn, &Record<'_>)) -> Result<Self, Failure> {
        let options = JournalOptions::new(view.data_dir.journal_dir(), Durability::Write);
        let mut files: BTreeMap<u64, FileCounts> = BTreeMap::new();
        let mut buffer = Vec::new();
        let opened = Journal::open(view.storage.clone(), options, &mut |at, record| {
            files.entry(at.file_number()).or_default().count(&record, &mut buffer);
            seen(at, &record);
        });
        let (_, report) = opened.map_err(Failure::failed)?;
        Ok(JournalCheck { files, report })
    }
}

impl FileCounts {
    fn count(&mut self, record: &Record<'_>, buffer: &mut Vec<u8>) {
        *self.records.entry(kind(record)).or_default() += 1;
        buffer.clear();
        record.encode(buffer);
        self.record_bytes += RECORD_HEADER_BYTES + buffer.len() as u64;
        if let Record::Publish { count, .. } = record {
            self.message_count += u64::from(*count);
        }
    }
}

fn kind(record: &Record<'_>) -> &'static str {
    match record {
        Record::Publish { due_ns: None, .. } => "publish",
        Record::Publish { due_ns: Some(_), .. } => "publish_deferred",
        Record::Finish { .. } => "finish",
        Record::Requeue { .. } => "requeue",
        Record::TopicCreated { .. } => "topic_created",
        Record::TopicDeleted { .. } => "topic_deleted",
        Record::TopicState { .. } => "topic_state",
        Record::TopicSkipped { .. } => "topic_skipped",
        Record::ChannelCreated { .. } => "channel_created",
        Record::ChannelDeleted { .. } => "channel_deleted",
        Record::ChannelPaused { .. } => "channel_paused",
        Record::ChannelEmptied { .. } => "channel_emptied",
        Record::TopicRetention { .. } => "topic_retention",
        Record::ChannelMoved { .. } => "channel_moved",
    }
}

/// The number in the name of a journal file.
pub fn file_number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".journal")?.parse().ok()
}
