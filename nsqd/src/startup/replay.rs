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

use nsq_protocol::{ChannelName, TopicName};

use crate::channel::runs::Runs;
use crate::channel::saved::{Clocks, SavedChannel};
use crate::channel::{ChannelState, Counters};
use crate::clock::Nanos;
use crate::log::repair::CheckedBlock;
use crate::log::retention::{Retention, gaps, merged};
use crate::log::{Floor, Mark, TopicLog};
use crate::storage::checkpoint::{Checkpoint, TopicCheckpoint};
use crate::storage::journal::Lsn;
use crate::storage::record::Record;
use crate::storage::{ChannelNumber, TopicNumber, is_full};

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
    fn deadline(&self, due_ns: i64) -> Nanos {
        self.clocks.to_deadline(due_ns, self.longest_delay)
    }
}

/// A channel during replay.
pub struct ReplayedChannel {
    pub name: ChannelName,
    pub state: ChannelState,
    /// No record has named it yet.
    is_nameless: bool,
}

/// Messages `(from, to, due)` that are published but not released. They are deferred until the wall time `due`; `None`
/// marks sequence numbers without messages.
type Unreleased = (u64, u64, Option<i64>);

/// A topic during replay.
pub struct ReplayedTopic {
    pub name: TopicName,
    pub log: Arc<TopicLog>,
    /// The release point.
    pub released: u64,
    /// One past the last message known to be published.
    pub end: u64,
    /// One past the last message that was published up to the record read last. The checkpoint may know later messages.
    /// A release from before these messages must not release them.
    published_to: u64,
    pub paused: bool,
    /// Messages and body bytes accepted.
    pub counters: (u64, u64),
    /// Without ephemeral channels.
    pub channels: BTreeMap<ChannelNumber, ReplayedChannel>,
    /// Ranges that are published but not released, if they are not plain messages.
    pub unreleased: Vec<Unreleased>,
    /// Batches in the journal that should also be in a segment.
    segments: Runs,
    /// Blocks before this sequence number were checked.
    checked_to: u64,
    /// Retention set for this topic; `None` if the flags apply.
    pub own_retention: Option<Retention>,
    floor: Floor,
    /// Keeps everything that the checkpoint needs until the end of the replay. Records that the checkpoint already
    /// contains may be replayed. Meanwhile a channel that was moved back looks as if it had finished what it must hand
    /// out again.
    _pin: Option<Floor>,
    /// No record has named it yet.
    is_nameless: bool,
    /// Channels may still appear that need messages from here on.
    keep_from: Option<u64>,
    /// With `keep_from`: earlier messages that are not in the journal are assumed to be in segments.
    in_segments_to: u64,
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
            if let Some(topic) = self.topics.get_mut(&topic) {
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
        self.next_numbers.0 = self.next_numbers.0.max(number + 1);
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

/// Maximum number of missing messages reported per gap and channel.
const MOST_ABSENT: usize = 100_000;

/// A placeholder for the lost name of a topic or channel.
fn nameless<N: FromStr>(number: u32) -> Option<N> {
    format!("recovered-{number}").parse().ok()
}

impl ReplayedTopic {
    /// A topic without channels. Data on disk below `first_sequence` is not needed. With `is_new_to_us`, older channels
    /// of the topic may still appear.
    fn new(name: TopicName, log: Arc<TopicLog>, first_sequence: u64, is_new_to_us: bool) -> Self {
        ReplayedTopic {
            name,
            floor: log.hold(first_sequence),
            end: first_sequence,
            published_to: first_sequence,
            in_segments_to: if is_new_to_us { log.end() } else { 0 },
            log,
            released: first_sequence,
            paused: false,
            counters: (0, 0),
            channels: BTreeMap::new(),
            unreleased: Vec::new(),
            segments: Runs::default(),
            checked_to: 0,
            own_retention: None,
            _pin: None,
            is_nameless: false,
            keep_from: is_new_to_us.then_some(first_sequence),
        }
    }

    fn publish(
        &mut self,
        first: u64,
        count: u32,
        due_ns: Option<i64>,
        frames: &[u8],
        limits: ReplayLimits,
    ) -> Result<bool, ReplayError> {
        let end = first + u64::from(count);
        let mut sound = true;
        if end > self.lowest_needed().min(self.log.retained_from()) {
            let known_to = self.log.end();
            if first < known_to {
                self.segments.push(first, end.min(known_to));
                self.check_segments(first, end.min(known_to))?;
            }
            if end > known_to {
                sound = self.log.append_recovered(first, count, frames);
            }
        }
        if let Some(due_ns) = due_ns {
            self.log.add_deferred(first, end, limits.deadline(due_ns));
        }
        let is_news = end > self.published_to;
        self.published_to = self.published_to.max(end);
        if end > self.end {
            let known_to = self.end.max(self.in_segments_to);
            if first > known_to {
                self.log.add_void(known_to, first);
                self.unreleased.push((known_to, first, None));
            }
            if let Some(due_ns) = due_ns {
                self.unreleased.push((first, end, Some(due_ns)));
            }
            self.end = end;
            let header_bytes = u64::from(count) * nsq_protocol::MESSAGE_FRAME_OVERHEAD as u64;
            self.counters.0 += u64::from(count);
            self.counters.1 += (frames.len() as u64).saturating_sub(header_bytes);
        }
        if is_news {
            self.advance(limits);
        }
        Ok(sound)
    }

    /// Checks the segments for messages that the journal has as well: are they there and undamaged?
    fn check_segments(&mut self, first: u64, end: u64) -> std::io::Result<()> {
        let mut at = first.max(self.checked_to);
        while at < end {
            match self.log.check_block_of(at)? {
                CheckedBlock::Missing(next) => at = next.unwrap_or(end).min(end),
                CheckedBlock::Good(to) => {
                    self.checked_to = to;
                    at = to;
                }
                CheckedBlock::Bad => {}
            }
        }
        Ok(())
    }

    /// Needed messages that are missing from the log but are in the journal.
    pub fn restorable(&self) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        for (from, to) in self.log.gaps() {
            let overlaps = self
                .segments
                .iter()
                .map(|(first, end)| (first.max(from), end.min(to)))
                .filter(|(f, t)| f < t);
            found.extend(overlaps.filter(|&(from, to)| self.needs_any(from, to)));
        }
        found
    }

    /// Needed messages that were in a damaged block.
    pub fn lost(&self) -> Vec<(u64, u64)> {
        self.log.damaged().into_iter().filter(|&(from, to)| self.needs_any(from, to)).collect()
    }

    /// Messages that are needed, as far as is known, and are missing without an explanation.
    pub fn absent(&self) -> Vec<(u64, u64)> {
        let mut absent = Vec::new();
        let (lowest_needed, damaged) = (self.lowest_needed(), self.log.damaged());
        for (from, to) in self.log.gaps().into_iter().chain([(self.log.end(), self.end)]) {
            let (from, to) = (from.max(lowest_needed), to.min(self.end));
            if from >= to {
                continue;
            }
            let mut explained = damaged.clone();
            // A deferral does not explain why a message is missing.
            explained.extend(self.log.void_marks_between(from, to).iter().filter_map(|mark| match mark {
                Mark::Skipped { from, to } => Some((*from, *to)),
                Mark::Deferred { .. } => None,
            }));
            let mut needed: Vec<(u64, u64)> = (self.channels.values())
                .flat_map(|channel| channel.state.needed(from, to, MOST_ABSENT))
                .collect();
            needed.extend((self.released < to).then_some((self.released.max(from), to)));
            for (from, to) in merged(needed) {
                absent.extend(gaps(from, to, merged(explained.clone())));
            }
        }
        absent
    }

    fn needs_any(&self, from: u64, to: u64) -> bool {
        to > self.released
            || to > self.log.retained_from()
            || self.channels.values().any(|channel| channel.state.needs_any(from, to))
    }

    fn apply(&mut self, record: Record<'_>, limits: ReplayLimits) {
        let ReplayLimits { clocks, longest_delay, max_message_timeout, .. } = limits;
        match record {
            Record::TopicState { paused, released, .. } => {
                self.paused = paused;
                if self.keep_from.is_some() && self.channels.is_empty() {
                    // Before this record, the topic was not known to be paused, so too much was assumed to be released
                    // to a channel that no longer exists.
                    self.released = self.released.min(released);
                }
                self.release_at_least(released);
                self.advance(limits);
            }
            Record::TopicSkipped { from, to, .. } => {
                self.log.add_void(from, to);
                (self.end, self.published_to) = (self.end.max(to), self.published_to.max(to));
                for channel in self.channels.values_mut() {
                    // A channel that was added late, in a paused topic, has missed releases.
                    channel.state.replay_release(from, false);
                    channel.state.replay_release(to, true);
                }
                self.release_at_least(to);
            }
            Record::ChannelCreated { channel, name, cursor, .. } => {
                let Ok(name) = ChannelName::new(name) else { return };
                self.release_at_least(cursor);
                let (log, released) = (&self.log, self.released);
                let known = self.channels.entry(channel).or_insert_with(|| {
                    let marks = log.void_marks_between(cursor, released);
                    let state = ChannelState::replay_start(cursor, released, &marks, max_message_timeout);
                    ReplayedChannel { name: name.clone(), state, is_nameless: false }
                });
                if std::mem::take(&mut known.is_nameless) {
                    known.name = name;
                    // The channel has finished everything before `cursor`.
                    known.state.replay_empty(cursor);
                }
                self.advance(limits);
            }
            Record::ChannelDeleted { channel, .. } => drop(self.channels.remove(&channel)),
            Record::ChannelPaused { channel, paused, .. } => {
                self.channel(channel, |state| state.set_paused(paused));
            }
            Record::ChannelEmptied { channel, up_to, .. } => {
                self.channel(channel, |state| state.replay_empty(up_to))
            }
            Record::ChannelMoved { channel, to, forward, .. } => {
                if let Some(channel) = self.channels.get_mut(&channel) {
                    let marks = self.log.void_marks_between(to, channel.state.end());
                    channel.state.replay_move(to, forward, &marks);
                }
            }
            Record::TopicRetention { own, for_ns, bytes, from, .. } => {
                self.own_retention = own.then_some(Retention { age: for_ns, bytes });
                let retention = self.own_retention.unwrap_or(limits.retention);
                let from = if from == u64::MAX { self.lowest_needed() } else { from };
                let known = self.log.retained_from();
                let from = if known == u64::MAX { from } else { from.max(known) };
                self.log.restore_retention(retention, from);
                if known == u64::MAX {
                    self.remember_deferred(limits);
                }
            }
            Record::Finish { channel, runs, .. } => self.channel(channel, |state| {
                runs.iter().for_each(|(first, length)| state.replay_finish(first, first + length));
            }),
            Record::Requeue { channel, sequence, attempts, due_ns, .. } => self.channel(channel, |state| {
                state.replay_requeue(sequence, attempts, due_ns, clocks, longest_delay);
            }),
            Record::Publish { .. } | Record::TopicCreated { .. } | Record::TopicDeleted { .. } => {}
        }
    }

    /// Records messages that were published deferred before retention was set.
    fn remember_deferred(&self, limits: ReplayLimits) {
        let of_channels = self.channels.values().flat_map(|channel| channel.state.published_deferred());
        of_channels.for_each(|(sequence, due)| self.log.add_deferred(sequence, sequence + 1, due));
        for &(from, to, due_ns) in &self.unreleased {
            if let Some(due_ns) = due_ns {
                self.log.add_deferred(from, to, limits.deadline(due_ns));
            }
        }
    }

    fn channel(&mut self, number: ChannelNumber, change: impl FnOnce(&mut ChannelState)) {
        if let Some(channel) = self.channels.get_mut(&number) {
            change(&mut channel.state);
        }
    }

    /// Releases to the channels all messages that can be released.
    pub fn advance(&mut self, limits: ReplayLimits) {
        if self.paused || self.channels.is_empty() {
            return;
        }
        let end = self.end.min(self.published_to);
        for channel in self.channels.values_mut() {
            let state = &mut channel.state;
            for &(from, to, due) in self.unreleased.iter().filter(|&&(from, ..)| from < end) {
                state.replay_release(from, false);
                match due {
                    Some(due) => {
                        state.replay_deferred_publish(from, to, due, limits.clocks, limits.longest_delay);
                    }
                    None => state.replay_release(to, true),
                }
            }
            state.replay_release(end, false);
        }
        self.unreleased.retain(|&(from, ..)| from >= end);
        self.released = self.released.max(end);
    }

    /// Raises the release point to a place where it has been. Earlier messages were released to channels that no longer
    /// exist.
    fn release_at_least(&mut self, released: u64) {
        self.released = self.released.max(released);
        // After a power failure, the messages themselves may be missing.
        self.end = self.end.max(released);
        self.published_to = self.published_to.max(released);
        self.unreleased.retain(|&(_, to, _)| to > released);
    }

    /// The oldest message that is still needed.
    pub fn lowest_needed(&self) -> u64 {
        if let Some(keep_from) = self.keep_from {
            return keep_from;
        }
        let needed = self.channels.values().map(|channel| channel.state.lowest_needed()).min();
        needed.map_or(self.released, |needed| needed.min(self.released))
    }

    /// Frees finished messages and keeps memory within its limit. A full disk is not an error here, because consumers
    /// must be able to free space.
    pub fn tidy(&self) -> std::io::Result<()> {
        self.floor.store(self.lowest_needed(), std::sync::atomic::Ordering::Release);
        self.log.trim();
        match self.log.spill() {
            Err(error) if !is_full(&error) => Err(error),
            _ => Ok(()),
        }
    }
}
