//! Goes through a directory's journal once: counts its records, and finds out which messages a damaged stretch held.
//!
//! A record that cannot be read does not say what it was. But a topic's sequence numbers grow by one, so when its next
//! batch is later than expected, what is missing was in what could not be read between the two.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use nsqd::storage::journal::{Damage, Journal, JournalOptions, JournalReport, Lsn};
use nsqd::storage::record::Record;
use nsqd::storage::{Durability, TopicNumber};

use super::directory::View;
use crate::exit_status::Failure;

/// Length and checksums before each record.
const RECORD_HEADER_BYTES: u64 = 12;

/// What was found in a journal.
pub struct JournalCheck {
    /// The files that records were found in, by number.
    pub files: BTreeMap<u64, FileCounts>,
    /// The names of topics that were created in it.
    pub topic_names: HashMap<TopicNumber, String>,
    /// What opening it says.
    pub report: JournalReport,
    gaps: Vec<Gap>,
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

/// Messages of a topic that no record of the journal has, though records before and after it do.
struct Gap {
    topic: TopicNumber,
    messages: (u64, u64),
    after: Lsn,
    before: Lsn,
}

/// What is known of a topic.
struct Progress {
    next_sequence: u64,
    last_record: Lsn,
}

impl JournalCheck {
    /// Reads it all; `seen` hears of every record.
    pub fn read(view: &View, mut seen: impl FnMut(Lsn, &Record<'_>)) -> Result<Self, Failure> {
        let options = JournalOptions::new(view.data_dir.journal_dir(), Durability::Write);
        let mut files: BTreeMap<u64, FileCounts> = BTreeMap::new();
        let mut topic_names = HashMap::new();
        let mut topics: HashMap<TopicNumber, Progress> = HashMap::new();
        let mut gaps = Vec::new();
        let mut buffer = Vec::new();
        let opened = Journal::open(view.storage.clone(), options, &mut |at, record| {
            let counts = files.entry(at.file_number()).or_default();
            counts.count(&record, &mut buffer);
            match record {
                Record::TopicCreated { topic, name, first_sequence } => {
                    topic_names.insert(topic, name.to_owned());
                    topics
                        .entry(topic)
                        .or_insert(Progress { next_sequence: first_sequence, last_record: at });
                }
                Record::Publish { topic, first_sequence, count, .. } => {
                    let end = first_sequence + u64::from(count);
                    let known = topics
                        .entry(topic)
                        .or_insert(Progress { next_sequence: first_sequence, last_record: at });
                    if first_sequence > known.next_sequence {
                        let messages = (known.next_sequence, first_sequence);
                        gaps.push(Gap { topic, messages, after: known.last_record, before: at });
                    }
                    *known = Progress { next_sequence: end.max(known.next_sequence), last_record: at };
                }
                Record::TopicSkipped { topic, to, .. } => {
                    if let Some(known) = topics.get_mut(&topic) {
                        known.next_sequence = known.next_sequence.max(to);
                    }
                }
                _ => {}
            }
            seen(at, &record);
        });
        let (_, report) = opened.map_err(Failure::failed)?;
        Ok(JournalCheck { files, topic_names, report, gaps })
    }

    /// The messages that were in a damaged stretch, as far as that can be told: by topic.
    pub fn messages_in(&self, damage: &Damage) -> Vec<(TopicNumber, (u64, u64))> {
        let of = |gap: &&Gap| gap.after < damage.lsn && damage.lsn < gap.before;
        self.gaps.iter().filter(of).map(|gap| (gap.topic, gap.messages)).collect()
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
