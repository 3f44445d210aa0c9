//! Reads a directory's journal once and counts its records.

use std::collections::BTreeMap;

use nsqd::storage::Durability;
use nsqd::storage::journal::{Journal, JournalOptions, JournalReport, Lsn, RECORD_HEADER_BYTES};
use nsqd::storage::record::Record;

use super::directory::View;
use crate::exit_status::Failure;

/// The result of reading a journal.
pub struct JournalCheck {
    /// Counts of the files that contain records, by file number.
    pub files: BTreeMap<u64, FileCounts>,
    /// The report of opening the journal.
    pub report: JournalReport,
}

/// Counts of one journal file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct FileCounts {
    /// Number of records by kind.
    pub records: BTreeMap<&'static str, u64>,
    /// Messages published in it.
    pub message_count: u64,
    /// Bytes of the records, with their headers.
    pub record_bytes: u64,
}

impl JournalCheck {
    /// Reads the whole journal, and passes every record to `seen`.
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
        Record::Publish { only: Some(_), .. } => "publish_targeted",
        Record::Publish { due_ns: None, .. } => "publish",
        Record::Publish { due_ns: Some(_), .. } => "publish_deferred",
        Record::Finish { .. } => "finish",
        Record::Requeue { .. } => "requeue",
        Record::Removed { .. } => "removed",
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
        Record::ChannelUndone { .. } => "channel_undone",
        Record::TopicSettings { .. } => "topic_settings",
        Record::ChannelSettings { .. } => "channel_settings",
        Record::TopicIdsForgotten { .. } => "topic_ids_forgotten",
        Record::Adopted { .. } => "adopted",
    }
}
