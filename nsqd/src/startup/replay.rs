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

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use nsq_protocol::{ChannelName, MESSAGE_FRAME_OVERHEAD, TopicName};

use super::replayed_topic::{ReplayedChannel, ReplayedTopic};
use crate::channel::runs::Runs;
use crate::channel::saved::{Clocks, SavedChannel};
use crate::channel::{ChannelState, Counters};
use crate::clock::Nanos;
use crate::log::TopicLog;
use crate::log::retention::Retention;
use crate::storage::checkpoint::{Checkpoint, TopicCheckpoint};
use crate::storage::journal::Lsn;
use crate::storage::record::Record;
use crate::storage::{ChannelNumber, TopicNumber};

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
#[derive(Debug, Clone, Copy)]
pub struct ReplayLimits {
    /// `--max-msg-timeout`.
    pub max_message_timeout: Nanos,
    /// Upper limit of a deferral, in case the wall clock jumped.
    pub longest_delay: Nanos,
    /// Both clocks, read at the same moment.
    pub clocks: Clocks,
    /// Retention of topics without limits of their own.
    pub retention: Retention,
}

impl ReplayLimits {
    /// Converts a saved wall time to a deadline.
    pub(super) fn deadline(&self, due_ns: i64) -> Nanos {
        self.clocks.to_deadline(due_ns, self.longest_delay)
    }
}

/// See the module. `open_log` opens the log of a topic with this number, name and first sequence number.
pub struct Replay<F> {
    pub topics: BTreeMap<TopicNumber, ReplayedTopic>,
    /// The next unused numbers.
    pub next_numbers: (TopicNumber, ChannelNumber),
    /// Number of records and checkpoint entries that are invalid or contradict the state. Each is skipped.
    pub invalid_count: u64,
    /// Topics that a record deleted.
    pub deleted_topics: BTreeSet<TopicNumber>,
    /// Deleted topics have used sequence numbers below this.
    pub sequences_used: u64,
    deleted_channels: BTreeSet<ChannelNumber>,
    /// The checkpoint contains all topics and channels with lower numbers, except deleted ones.
    known_below: (TopicNumber, ChannelNumber),
    /// Whether there is no checkpoint.
    is_rebuild: bool,
    apply_from: Lsn,
    limits: ReplayLimits,
    open_log: F,
}

impl<F: FnMut(TopicNumber, &TopicName, u64) -> Result<Arc<TopicLog>, ReplayError>> Replay<F> {
    /// Starts from a checkpoint, if there is one.
    pub fn new(
        checkpoint: Option<&Checkpoint>,
        limits: ReplayLimits,
        open_log: F,
    ) -> Result<Self, ReplayError> {
        let mut replay = Replay {
            topics: BTreeMap::new(),
            next_numbers: (1, 1),
            invalid_count: 0,
            deleted_topics: BTreeSet::new(),
            sequences_used: 0,
            deleted_channels: BTreeSet::new(),
            known_below: (0, 0),
            is_rebuild: checkpoint.is_none(),
            apply_from: Lsn(0),
            limits,
            open_log,
        };
        if let Some(checkpoint) = checkpoint {
            replay.apply_from = checkpoint.journal_from;
            replay.next_numbers = (checkpoint.next_topic_number, checkpoint.next_channel_number);
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
        let mut channels = BTreeMap::new();
        for channel in &saved.channels {
            let Ok(name) = ChannelName::new(&channel.name) else {
                self.invalid_count += 1;
                continue;
            };
            let counters = Counters {
                message_count: channel.message_count,
                requeue_count: channel.requeue_count,
                timeout_count: channel.timeout_count,
                lost_count: 0,
                finish_count: 0,
            };
            let of = SavedChannel {
                cursor: channel.cursor,
                skipped: channel.skipped_ahead.clone(),
                outstanding: channel.outstanding.clone(),
                paused: channel.paused,
                counters,
            };
            let ReplayLimits { max_message_timeout, longest_delay, clocks, .. } = self.limits;
            let state =
                ChannelState::restore(&of, saved.released, max_message_timeout, clocks, longest_delay);
            channels.insert(channel.number, ReplayedChannel { name, state, is_nameless: false });
        }
        let needed = channels.values().map(|channel| channel.state.lowest_needed()).min();
        let saved_retention = &saved.retention;
        let first = needed.into_iter().chain(saved_retention.from).fold(saved.released, u64::min);
        let log = (self.open_log)(saved.number, &name, first)?;
        let own_retention = saved_retention
            .own
            .then_some(Retention { age: saved_retention.for_ns, bytes: saved_retention.bytes });
        let retention = own_retention.unwrap_or(self.limits.retention);
        log.restore_retention(retention, saved_retention.from.unwrap_or(first));
        saved_retention.void.iter().for_each(|&(from, to)| log.add_void(from, to));
        for &(from, to, due_ns) in &saved_retention.deferred {
            log.add_deferred(from, to, self.limits.deadline(due_ns));
        }
        let unreleased = (saved.skipped.iter().map(|&(from, to)| (from, to, None)))
            .chain(saved.unreleased_deferred.iter().map(|&(at, due)| (at, at + 1, Some(due))))
            .collect();
        let topic = ReplayedTopic {
            name,
            floor: log.hold(first),
            _pin: saved_retention.from.map(|_| log.hold(first)),
            own_retention,
            end: saved.next_sequence,
            published_to: saved.published_before.unwrap_or(saved.next_sequence),
            log,
            released: saved.released,
            paused: saved.paused,
            counters: (saved.message_count, saved.message_bytes),
            channels,
            unreleased,
            unrecorded: Vec::new(),
            segments: Runs::default(),
            checked_to: 0,
            is_nameless: false,
            keep_from: None,
            in_segments_to: 0,
        };
        self.topics.insert(saved.number, topic);
        Ok(())
    }

    /// Applies one journal record.
    pub fn apply(&mut self, at: Lsn, record: Record<'_>) -> Result<(), ReplayError> {
        if let Record::Publish { topic, first_sequence, count, due_ns, frames } = record {
            if at >= self.apply_from && self.is_unheard_of(topic) {
                self.take_on(topic, Some(first_sequence))?;
            }
            // Each message has at least its frame.
            if frames.len() as u64 / (MESSAGE_FRAME_OVERHEAD as u64) < u64::from(count) {
                self.invalid_count += 1;
            } else if let Some(topic) = self.topics.get_mut(&topic) {
                let sound = topic.publish(first_sequence, count, due_ns, frames, self.limits)?;
                self.invalid_count += u64::from(!sound);
            }
            return Ok(());
        }
        if at < self.apply_from {
            return Ok(());
        }
        match record {
            Record::TopicCreated { topic, name, first_sequence } => {
                self.create(topic, name, first_sequence)?
            }
            Record::TopicDeleted { topic } => {
                self.deleted_topics.insert(topic);
                if let Some(gone) = self.topics.remove(&topic) {
                    self.sequences_used = self.sequences_used.max(gone.end).max(gone.log.end());
                }
            }
            Record::ChannelCreated { channel, .. } => {
                self.next_numbers.1 = self.next_numbers.1.max(channel + 1);
                self.apply_to_topic(record);
            }
            Record::ChannelDeleted { channel, .. } => {
                self.deleted_channels.insert(channel);
                self.apply_to_topic(record);
            }
            Record::Finish { topic, channel, .. }
            | Record::Requeue { topic, channel, .. }
            | Record::ChannelPaused { topic, channel, .. }
            | Record::ChannelMoved { topic, channel, .. }
            | Record::ChannelEmptied { topic, channel, .. } => {
                if channel >= self.known_below.1 && !self.deleted_channels.contains(&channel) {
                    self.next_numbers.1 = self.next_numbers.1.max(channel + 1);
                    self.take_on_channel(topic, channel);
                }
                self.apply_to_topic(record);
            }
            _ => self.apply_to_topic(record),
        }
        Ok(())
    }

    /// Whether neither the checkpoint nor any record so far mentions this topic.
    pub fn is_unheard_of(&self, topic: TopicNumber) -> bool {
        topic >= self.known_below.0
            && !self.topics.contains_key(&topic)
            && !self.deleted_topics.contains(&topic)
    }

    /// Adds a topic of which only its number is known, and either a message or its segments.
    fn take_on(&mut self, number: TopicNumber, message: Option<u64>) -> Result<(), ReplayError> {
        let name = nameless(number).ok_or(ReplayError::Unnamed(number))?;
        // The number may be that of a directory.
        self.next_numbers.0 = self.next_numbers.0.max(number.saturating_add(1));
        let log = (self.open_log)(number, &name, message.unwrap_or(0))?;
        if let Some(first) = message.into_iter().chain(log.oldest_on_disk()).min() {
            log.restore_retention(self.limits.retention, first);
            let topic = ReplayedTopic { is_nameless: true, ..ReplayedTopic::new(name, log, first, true) };
            self.topics.insert(number, topic);
        }
        Ok(())
    }

    /// Adds a topic of which only segments are left, if there are any.
    pub fn take_on_segments(&mut self, number: TopicNumber) -> Result<(), ReplayError> {
        if self.is_unheard_of(number) { self.take_on(number, None) } else { Ok(()) }
    }

    fn take_on_channel(&mut self, topic: TopicNumber, number: ChannelNumber) {
        let limits = self.limits;
        let Some(topic) = self.topics.get_mut(&topic) else { return };
        let cursor = topic.lowest_needed();
        if let Entry::Vacant(place) = topic.channels.entry(number)
            && let Some(name) = nameless(number)
        {
            let state = ChannelState::new(cursor, limits.max_message_timeout);
            place.insert(ReplayedChannel { name, state, is_nameless: true });
            topic.advance(limits);
        }
    }

    /// Ends the replay. Returns a description of each topic and channel whose name was lost.
    pub fn complete(&mut self) -> Vec<String> {
        let mut lost_names = Vec::new();
        let limits = self.limits;
        for topic in self.topics.values_mut() {
            // The record that says so may be lost.
            topic.published_to = topic.published_to.max(topic.end);
            topic.advance(limits);
            if topic.keep_from.take().is_some() {
                // A channel that was added late, in a paused topic, has missed releases.
                let released = topic.released;
                topic.channels.values_mut().for_each(|channel| channel.state.replay_release(released, false));
            }
            if topic.is_nameless {
                lost_names.push(format!("TOPIC({}): the original name of this topic is lost", topic.name));
            }
            for channel in topic.channels.values().filter(|channel| channel.is_nameless) {
                lost_names.push(format!(
                    "TOPIC({}): the original name of channel {} is lost",
                    topic.name, channel.name
                ));
            }
        }
        lost_names
    }

    fn create(&mut self, number: TopicNumber, name: &str, first_sequence: u64) -> Result<(), ReplayError> {
        self.next_numbers.0 = self.next_numbers.0.max(number + 1);
        let Ok(name) = TopicName::new(name) else {
            self.invalid_count += 1;
            return Ok(());
        };
        if let Some(topic) = self.topics.get_mut(&number) {
            if std::mem::take(&mut topic.is_nameless) {
                topic.name = name;
            }
            return Ok(());
        }
        if self.deleted_topics.contains(&number) {
            return Ok(());
        }
        let log = (self.open_log)(number, &name, first_sequence)?;
        log.restore_retention(self.limits.retention, first_sequence);
        self.topics.insert(number, ReplayedTopic::new(name, log, first_sequence, self.is_rebuild));
        Ok(())
    }

    fn apply_to_topic(&mut self, record: Record<'_>) {
        let limits = self.limits;
        let (Record::TopicState { topic, .. }
        | Record::TopicSkipped { topic, .. }
        | Record::ChannelCreated { topic, .. }
        | Record::ChannelDeleted { topic, .. }
        | Record::ChannelPaused { topic, .. }
        | Record::ChannelEmptied { topic, .. }
        | Record::ChannelMoved { topic, .. }
        | Record::TopicRetention { topic, .. }
        | Record::Finish { topic, .. }
        | Record::Requeue { topic, .. }) = record
        else {
            return;
        };
        // Records of a deleted topic or channel have no effect.
        if let Some(topic) = self.topics.get_mut(&topic) {
            topic.apply(record, limits);
        }
    }
}

/// A placeholder for the lost name of a topic or channel.
fn nameless<N: FromStr>(number: u32) -> Option<N> {
    format!("recovered-{number}").parse().ok()
}
