//! Numbers that a data directory never gives twice: of topics, of channels, and first sequence numbers of topics.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::storage::{ChannelNumber, TopicNumber};

/// See the module.
#[derive(Debug)]
pub struct Numbers {
    next_topic: AtomicU32,
    next_channel: AtomicU32,
    /// Deleted topics have used sequence numbers below this.
    sequences_used: AtomicU64,
}

/// The first numbers for a new topic and a new channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextNumbers {
    pub topic: TopicNumber,
    pub channel: ChannelNumber,
}

impl Numbers {
    pub fn new(next: NextNumbers, sequences_used: u64) -> Self {
        Numbers {
            next_topic: AtomicU32::new(next.topic.0),
            next_channel: AtomicU32::new(next.channel.0),
            sequences_used: AtomicU64::new(sequences_used),
        }
    }

    /// Returns a number that no topic of this data directory ever had.
    pub fn next_topic(&self) -> TopicNumber {
        TopicNumber(self.next_topic.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns a number that no channel of this data directory ever had.
    pub fn next_channel(&self) -> ChannelNumber {
        ChannelNumber(self.next_channel.fetch_add(1, Ordering::Relaxed))
    }

    /// The next numbers, for a checkpoint.
    pub fn upcoming(&self) -> NextNumbers {
        NextNumbers {
            topic: TopicNumber(self.next_topic.load(Ordering::Relaxed)),
            channel: ChannelNumber(self.next_channel.load(Ordering::Relaxed)),
        }
    }

    /// The first sequence number of a topic created now: the current microsecond, or the end of what deleted topics
    /// have used. The latter is higher if a topic counted faster than the clock, or if the clock was set back. Ids are
    /// therefore not reused when a topic is deleted and created again: clients that detect duplicates by id would drop
    /// the new messages.
    pub fn first_sequence(&self, wall_ns: i64) -> u64 {
        Self::sequence_of_time(wall_ns).max(self.sequences_used())
    }

    /// The microsecond of a wall time.
    pub fn sequence_of_time(wall_ns: i64) -> u64 {
        u64::try_from(wall_ns / 1000).unwrap_or(0)
    }

    /// Records that a deleted topic has used sequence numbers below `end`.
    pub fn use_sequences(&self, end: u64) {
        self.sequences_used.fetch_max(end, Ordering::Relaxed);
    }

    /// No new topic starts below this sequence number.
    pub fn sequences_used(&self) -> u64 {
        self.sequences_used.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_topic_starts_behind_the_clock_and_all_deleted_topics() {
        let next = NextNumbers { topic: TopicNumber(3), channel: ChannelNumber(7) };
        let numbers = Numbers::new(next, 50);
        assert_eq!((numbers.next_topic(), numbers.next_topic()), (TopicNumber(3), TopicNumber(4)));
        assert_eq!(numbers.next_channel(), ChannelNumber(7));
        let upcoming = NextNumbers { topic: TopicNumber(5), channel: ChannelNumber(8) };
        assert_eq!(numbers.upcoming(), upcoming);
        assert_eq!((numbers.first_sequence(40_000), numbers.first_sequence(60_000)), (50, 60));
        numbers.use_sequences(70);
        numbers.use_sequences(60);
        assert_eq!((numbers.first_sequence(60_000), numbers.first_sequence(-1)), (70, 70));
    }
}
