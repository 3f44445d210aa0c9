//! Pure: finds out which messages were in an unreadable part of the journal.
//!
//! An unreadable record does not say what it was. But a topic's sequence numbers are consecutive. If its next batch
//! starts later than expected, the missing messages were in the unreadable part between the two records.

use std::collections::HashMap;

use crate::storage::journal::{DamagedRange, Lsn};
use crate::storage::record::Record;
use crate::storage::{SequenceRange, TopicNumber};

/// See the module.
#[derive(Debug, Default)]
pub struct Gaps {
    gaps: Vec<Gap>,
    topics: HashMap<TopicNumber, Progress>,
}

/// Messages of a topic that no record of the journal contains, although records before and after them exist.
#[derive(Debug)]
struct Gap {
    topic: TopicNumber,
    messages: SequenceRange,
    after: Lsn,
    before: Lsn,
}

#[derive(Debug)]
struct Progress {
    next_sequence: u64,
    last_record: Lsn,
}

impl Gaps {
    /// Processes the next record.
    pub fn see(&mut self, at: Lsn, record: &Record<'_>) {
        match *record {
            Record::TopicCreated { topic, first_sequence, .. } => {
                self.topics
                    .entry(topic)
                    .or_insert(Progress { next_sequence: first_sequence, last_record: at });
            }
            Record::Publish { topic, first_sequence, count, .. } => {
                let end = first_sequence + u64::from(count);
                let known = self
                    .topics
                    .entry(topic)
                    .or_insert(Progress { next_sequence: first_sequence, last_record: at });
                if first_sequence > known.next_sequence {
                    let messages = SequenceRange::new(known.next_sequence, first_sequence);
                    self.gaps.push(Gap { topic, messages, after: known.last_record, before: at });
                }
                *known = Progress { next_sequence: end.max(known.next_sequence), last_record: at };
            }
            Record::TopicSkipped { topic, to, .. } => {
                if let Some(known) = self.topics.get_mut(&topic) {
                    known.next_sequence = known.next_sequence.max(to);
                }
            }
            // These use no sequence numbers.
            Record::Finish { .. }
            | Record::Requeue { .. }
            | Record::Removed { .. }
            | Record::TopicDeleted { .. }
            | Record::TopicState { .. }
            | Record::TopicRetention { .. }
            | Record::ChannelCreated { .. }
            | Record::ChannelDeleted { .. }
            | Record::ChannelPaused { .. }
            | Record::ChannelEmptied { .. }
            | Record::ChannelMoved { .. }
            | Record::ChannelUndone { .. }
            | Record::TopicSettings { .. }
            | Record::ChannelSettings { .. }
            | Record::Adopted { .. }
            | Record::TopicIdsForgotten { .. } => {}
        }
    }

    /// The messages of each topic that were in a damaged part, as far as this can be concluded.
    pub fn messages_in(&self, damage: &DamagedRange) -> Vec<(TopicNumber, SequenceRange)> {
        let of = |gap: &&Gap| gap.after < damage.lsn && damage.lsn < gap.before;
        self.gaps.iter().filter(of).map(|gap| (gap.topic, gap.messages)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_messages_are_located_between_neighbouring_records() {
        let mut gaps = Gaps::default();
        let batch = |topic, first_sequence, count| Record::Publish {
            topic,
            first_sequence,
            count,
            due_ns: None,
            only: None,
            frames: b"",
        };
        gaps.see(Lsn(100), &Record::TopicCreated { topic: TopicNumber(1), name: "t", first_sequence: 10 });
        gaps.see(Lsn(200), &batch(TopicNumber(1), 10, 5));
        gaps.see(Lsn(300), &batch(TopicNumber(2), 70, 1));
        gaps.see(Lsn(500), &batch(TopicNumber(1), 18, 2));
        gaps.see(Lsn(600), &Record::TopicSkipped { topic: TopicNumber(1), from: 20, to: 30 });
        gaps.see(Lsn(700), &batch(TopicNumber(1), 30, 2));
        let at = |lsn| gaps.messages_in(&DamagedRange { lsn: Lsn(lsn), bytes: 50 });
        assert_eq!(at(400), [(TopicNumber(1), SequenceRange::new(15, 18))]);
        assert_eq!(at(150), []);
        assert_eq!(at(650), []);
    }
}
