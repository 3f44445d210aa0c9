//! Pure: which messages were in a stretch of the journal that cannot be read.
//!
//! A record that cannot be read does not say what it was. But a topic's sequence numbers grow by one, so when its next
//! batch starts later than expected, what is missing was in what could not be read between the two.

use std::collections::HashMap;

use crate::storage::TopicNumber;
use crate::storage::journal::{Damage, Lsn};
use crate::storage::record::Record;

/// See the module.
#[derive(Debug, Default)]
pub struct Gaps {
    gaps: Vec<Gap>,
    topics: HashMap<TopicNumber, Progress>,
}

/// Messages of a topic that no record of the journal has, though records before and after it do.
#[derive(Debug)]
struct Gap {
    topic: TopicNumber,
    messages: (u64, u64),
    after: Lsn,
    before: Lsn,
}

/// What is known of a topic.
#[derive(Debug)]
struct Progress {
    next_sequence: u64,
    last_record: Lsn,
}

impl Gaps {
    /// The next record.
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
                    let messages = (known.next_sequence, first_sequence);
                    self.gaps.push(Gap { topic, messages, after: known.last_record, before: at });
                }
                *known = Progress { next_sequence: end.max(known.next_sequence), last_record: at };
            }
            Record::TopicSkipped { topic, to, .. } => {
                if let Some(known) = self.topics.get_mut(&topic) {
                    known.next_sequence = known.next_sequence.max(to);
                }
            }
            _ => {}
        }
    }

    /// The messages that were in a damaged stretch, as far as that can be told, by topic.
    pub fn messages_in(&self, damage: &Damage) -> Vec<(TopicNumber, (u64, u64))> {
        let of = |gap: &&Gap| gap.after < damage.lsn && damage.lsn < gap.before;
        self.gaps.iter().filter(of).map(|gap| (gap.topic, gap.messages)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_was_between_the_records_around_it() {
        let mut gaps = Gaps::default();
        let batch = |topic, first_sequence, count| Record::Publish {
            topic,
            first_sequence,
            count,
            due_ns: None,
            frames: b"",
        };
        gaps.see(Lsn(100), &Record::TopicCreated { topic: 1, name: "t", first_sequence: 10 });
        gaps.see(Lsn(200), &batch(1, 10, 5));
        gaps.see(Lsn(300), &batch(2, 70, 1));
        gaps.see(Lsn(500), &batch(1, 18, 2));
        gaps.see(Lsn(600), &Record::TopicSkipped { topic: 1, from: 20, to: 30 });
        gaps.see(Lsn(700), &batch(1, 30, 2));
        let at = |lsn| gaps.messages_in(&Damage { lsn: Lsn(lsn), bytes: 50 });
        assert_eq!(at(400), [(1, (15, 18))]);
        assert_eq!(at(150), []);
        assert_eq!(at(650), []);
    }
}
