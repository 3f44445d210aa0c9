//! Pure: restores topics and channels from the checkpoint, then applies the journal records since then.
//!
//! A checkpoint is taken while the daemon works. It names a place in the journal from before it was started. Records
//! before that place only restore message bodies. Records after it are applied; some of them may already be in the
//! checkpoint, and applying them again changes nothing.
//!
//! If there is no checkpoint, or if the record that created a topic or channel is damaged, its first known record may
//! be a message or an acknowledgement. The topic or channel is then added without a name. The name may follow, because
//! the journal repeats names from time to time. Everything is then kept until the end of the replay: a redelivery is
//! better than a lost message.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use nsq_protocol::{ChannelName, TopicName};

use super::replayed_topic::{ReplayedChannel, ReplayedTopic};
use crate::channel::saved::Clocks;
use crate::clock::Nanos;
use crate::engine::numbers::NextNumbers;
use crate::log::TopicLog;
use crate::log::retention::Retention;
use crate::policy::effective::Sources;
use crate::policy::settings::Settings;
use crate::storage::checkpoint::{Checkpoint, TopicCheckpoint};
use crate::storage::journal::Lsn;
use crate::storage::record::Record;
use crate::storage::{ChannelNumber, TopicNumber};
use crate::topic::saved::restore_own;

/// Why records cannot be applied. Invalid records are no error: they are counted and skipped.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("cannot open segments of topic {topic}: {error}")]
    Segments { topic: TopicName, error: io::Error },
    #[error("topic {0} has no name")]
    Unnamed(TopicNumber),
    /// A segment cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Settings of a replay.
#[derive(Debug, Clone)]
pub struct ReplayLimits {
    /// `--max-msg-timeout`.
    pub max_message_timeout: Nanos,
    /// Upper limit of a deferral, in case the wall clock jumped.
    pub longest_delay: Nanos,
    /// Both clocks, read at the same moment.
    pub clocks: Clocks,
    /// The policies, and the retention of topics that no policy and no setting of their own concerns.
    pub sources: Sources,
    /// `--dedupe-max-ids`.
    pub dedupe_max_ids: usize,
}

impl ReplayLimits {
    /// The limits of retention in force for a topic with these settings of its own.
    pub(super) fn retention(&self, topic: &TopicName, own: &Settings) -> Retention {
        self.sources.of_topic(topic.as_str(), own).retention
    }

    /// How long a topic with these settings of its own remembers ids; 0 for not at all.
    pub(super) fn dedupe(&self, topic: &TopicName, own: &Settings) -> Nanos {
        self.sources.of_topic(topic.as_str(), own).dedupe
    }

    /// Converts a saved wall time to a deadline.
    pub(super) fn deadline(&self, due_ns: i64) -> Nanos {
        self.clocks.to_deadline(due_ns, self.longest_delay)
    }

    /// Converts a saved wall time to a deadline; `None` if it has passed.
    pub(super) fn due(&self, due_ns: i64) -> Option<Nanos> {
        self.clocks.to_future(due_ns, self.longest_delay)
    }
}

/// Opens the log of a topic with this number, name and first sequence number.
pub type OpenLog<'a> = dyn FnMut(TopicNumber, &TopicName, u64) -> Result<Arc<TopicLog>, ReplayError> + 'a;

/// The result of a replay.
pub struct Replayed {
    pub topics: BTreeMap<TopicNumber, ReplayedTopic>,
    /// The next unused numbers.
    pub next_numbers: NextNumbers,
    /// Deleted topics have used sequence numbers below this.
    pub sequences_used: u64,
    /// A description of each topic and channel whose name was lost.
    pub lost_names: Vec<String>,
}

/// See the module.
pub struct Replay<'a> {
    pub topics: BTreeMap<TopicNumber, ReplayedTopic>,
    /// The next unused numbers.
    pub next_numbers: NextNumbers,
    /// Number of records and checkpoint entries that are invalid or contradict the state. Each is skipped.
    pub invalid_count: u64,
    /// Topics that a record deleted.
    pub deleted_topics: BTreeSet<TopicNumber>,
    /// Deleted topics have used sequence numbers below this.
    pub sequences_used: u64,
    deleted_channels: BTreeSet<ChannelNumber>,
    /// The checkpoint contains all topics and channels with lower numbers, except deleted ones.
    known_below: NextNumbers,
    /// Whether there is no checkpoint.
    is_rebuild: bool,
    apply_from: Lsn,
    limits: ReplayLimits,
    open_log: Box<OpenLog<'a>>,
}

impl<'a> Replay<'a> {
    /// Starts from a checkpoint, if there is one.
    pub fn new(
        checkpoint: Option<&Checkpoint>,
        limits: ReplayLimits,
        open_log: Box<OpenLog<'a>>,
    ) -> Result<Self, ReplayError> {
        let mut replay = Replay {
            topics: BTreeMap::new(),
            next_numbers: NextNumbers { topic: TopicNumber(1), channel: ChannelNumber(1) },
            invalid_count: 0,
            deleted_topics: BTreeSet::new(),
            sequences_used: 0,
            deleted_channels: BTreeSet::new(),
            known_below: NextNumbers::default(),
            is_rebuild: checkpoint.is_none(),
            apply_from: Lsn(0),
            limits,
            open_log,
        };
        if let Some(checkpoint) = checkpoint {
            replay.apply_from = checkpoint.journal_from;
            replay.next_numbers =
                NextNumbers { topic: checkpoint.next_topic_number, channel: checkpoint.next_channel_number };
            replay.known_below = replay.next_numbers;
            replay.sequences_used = checkpoint.sequences_used;
            for topic in &checkpoint.topics {
                replay.restore(topic)?;
            }
        }
        Ok(replay)
    }

    fn restore(&mut self, saved: &TopicCheckpoint) -> Result<(), ReplayError> {
        let Ok(name) = TopicName::new(&saved.name) else {
            self.invalid_count += 1;
            return Ok(());
        };
        let mut channels = Vec::with_capacity(saved.channels.len());
        for channel in &saved.channels {
            match ChannelName::new(&channel.name) {
                Ok(name) => {
                    let restored = ReplayedChannel::restore(name, channel, saved.released, &self.limits);
                    channels.push((channel.number, restored));
                }
                Err(_) => self.invalid_count += 1,
            }
        }
        let needed = channels.iter().map(|(_, channel)| channel.state.lowest_needed());
        let first = needed.chain(saved.retention.from).fold(saved.released, u64::min);
        let log = (self.open_log)(saved.number, &name, first)?;
        let (own, problems) = restore_own(saved);
        self.invalid_count += problems.len() as u64;
        let topic = ReplayedTopic::restore(name, own, saved, channels, (log, first), &self.limits);
        self.topics.insert(saved.number, topic);
        Ok(())
    }

    /// Applies one journal record.
    pub fn apply(&mut self, at: Lsn, record: Record<'_>) -> Result<(), ReplayError> {
        if at >= self.apply_from {
            self.add_unknown(&record)?;
        } else if !matches!(record, Record::Publish { .. }) {
            return Ok(());
        }
        // Records of a deleted topic or channel have no effect.
        if let Some(topic) = self.topics.get_mut(&record.topic()) {
            let is_valid = topic.apply(record, &self.limits)?;
            self.invalid_count += u64::from(!is_valid);
        }
        if let Record::TopicDeleted { topic } = record {
            self.deleted_topics.insert(topic);
            if let Some(gone) = self.topics.remove(&topic) {
                self.sequences_used = self.sequences_used.max(gone.end).max(gone.log().end());
            }
        }
        Ok(())
    }

    /// Adds the topic or channel of a record that is the first about it.
    fn add_unknown(&mut self, record: &Record<'_>) -> Result<(), ReplayError> {
        let topic = record.topic();
        match *record {
            Record::TopicCreated { name, first_sequence, .. } => self.create(topic, name, first_sequence)?,
            Record::Publish { first_sequence, .. } if self.is_unheard_of(topic) => {
                self.take_on(topic, Some(first_sequence))?;
            }
            _ => {}
        }
        let Some(channel) = record.channel() else { return Ok(()) };
        self.next_numbers.channel = self.next_numbers.channel.max(channel.next());
        match record {
            Record::ChannelDeleted { .. } => drop(self.deleted_channels.insert(channel)),
            // It adds the channel itself.
            Record::ChannelCreated { .. } => {}
            _ if channel >= self.known_below.channel && !self.deleted_channels.contains(&channel) => {
                self.take_on_channel(topic, channel);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether neither the checkpoint nor any record so far mentions this topic.
    pub fn is_unheard_of(&self, topic: TopicNumber) -> bool {
        topic >= self.known_below.topic
            && !self.topics.contains_key(&topic)
            && !self.deleted_topics.contains(&topic)
    }

    /// Adds a topic of which only its number is known, and either a message or its segments.
    fn take_on(&mut self, number: TopicNumber, message: Option<u64>) -> Result<(), ReplayError> {
        let name = nameless(number).ok_or(ReplayError::Unnamed(number))?;
        // The number may be that of a directory.
        self.next_numbers.topic = self.next_numbers.topic.max(number.next());
        let log = (self.open_log)(number, &name, message.unwrap_or(0))?;
        if let Some(first) = message.into_iter().chain(log.oldest_on_disk()).min() {
            let mut topic = ReplayedTopic::new(name, log, first, true, &self.limits);
            topic.is_nameless = true;
            self.topics.insert(number, topic);
        }
        Ok(())
    }

    /// Adds a topic of which only segments are left, if there are any.
    pub fn take_on_segments(&mut self, number: TopicNumber) -> Result<(), ReplayError> {
        if self.is_unheard_of(number) { self.take_on(number, None) } else { Ok(()) }
    }

    fn take_on_channel(&mut self, topic: TopicNumber, number: ChannelNumber) {
        if let Some(topic) = self.topics.get_mut(&topic)
            && !topic.state.channels().contains_key(&number)
            && let Some(name) = nameless(number)
        {
            topic.add_nameless_channel(number, name, &self.limits);
        }
    }

    /// Frees finished messages, and keeps memory within its limit.
    pub fn tidy(&self) -> Result<(), ReplayError> {
        for topic in self.topics.values() {
            topic.tidy()?;
        }
        Ok(())
    }

    /// Ends the replay.
    pub fn complete(mut self) -> Replayed {
        let mut lost_names = Vec::new();
        for topic in self.topics.values_mut() {
            topic.complete();
            if topic.is_nameless {
                lost_names.push(format!("TOPIC({}): the original name of this topic is lost", topic.name));
            }
            for channel in topic.state.channels().values().filter(|channel| channel.is_nameless) {
                lost_names.push(format!(
                    "TOPIC({}): the original name of channel {} is lost",
                    topic.name, channel.name
                ));
            }
        }
        let Replay { topics, next_numbers, sequences_used, .. } = self;
        Replayed { topics, next_numbers, sequences_used, lost_names }
    }

    fn create(&mut self, number: TopicNumber, name: &str, first_sequence: u64) -> Result<(), ReplayError> {
        self.next_numbers.topic = self.next_numbers.topic.max(number.next());
        if self.topics.contains_key(&number) || self.deleted_topics.contains(&number) {
            return Ok(());
        }
        let Ok(name) = TopicName::new(name) else {
            self.invalid_count += 1;
            return Ok(());
        };
        let log = (self.open_log)(number, &name, first_sequence)?;
        let topic = ReplayedTopic::new(name, log, first_sequence, self.is_rebuild, &self.limits);
        self.topics.insert(number, topic);
        Ok(())
    }
}

/// A placeholder for the lost name of a topic or channel.
fn nameless<N: FromStr>(number: impl fmt::Display) -> Option<N> {
    format!("recovered-{number}").parse().ok()
}
