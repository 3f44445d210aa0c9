//! Pure: topics and channels as the checkpoint knew them, and what the journal's records say happened since.
//!
//! A checkpoint is taken while the daemon works: it names a place in the journal from before it was begun. Records
//! before that place only bring back message bodies; records after it are applied, and some of them may be in the
//! checkpoint already, which changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use nsq_protocol::{ChannelName, TopicName};

use crate::channel::runs::Runs;
use crate::channel::saved::{Clocks, SavedChannel};
use crate::channel::{ChannelState, Counters};
use crate::clock::Nanos;
use crate::log::repair::CheckedBlock;
use crate::log::retention::Retention;
use crate::log::{Floor, TopicLog};
use crate::storage::checkpoint::{Checkpoint, TopicCheckpoint};
use crate::storage::journal::Lsn;
use crate::storage::record::Record;
use crate::storage::{ChannelNumber, TopicNumber};

/// What replaying needs to know and cannot decide.
#[derive(Debug, Clone, Copy)]
pub struct ReplayLimits {
    /// `--max-msg-timeout`.
    pub max_message_timeout: Nanos,
    /// No deferral is longer than this, however the wall clock has jumped.
    pub longest_delay: Nanos,
    /// Both clocks.
    pub clocks: Clocks,
    /// What topics without limits of their own keep of finished messages.
    pub retention: Retention,
}

impl ReplayLimits {
    /// The deadline for a saved wall time.
    fn deadline(&self, due_ns: i64) -> Nanos {
        self.clocks.to_deadline(due_ns, self.longest_delay)
    }
}

/// A channel on its way back.
pub struct ReplayedChannel {
    /// Its name.
    pub name: ChannelName,
    /// Its messages.
    pub state: ChannelState,
}

/// Messages published and not released: deferred until a wall time, or (none) numbers that stand for nothing.
type Unreleased = (u64, u64, Option<i64>);

/// A topic on its way back.
pub struct ReplayedTopic {
    /// Its name.
    pub name: TopicName,
    /// Its messages.
    pub log: Arc<TopicLog>,
    /// Its release point.
    pub released: u64,
    /// One past the last message known to be published.
    pub end: u64,
    /// Paused.
    pub paused: bool,
    /// Messages and body bytes accepted.
    pub counters: (u64, u64),
    /// Its channels; never ephemeral ones.
    pub channels: BTreeMap<ChannelNumber, ReplayedChannel>,
    /// Published and held back, where that is more than plain messages.
    pub unreleased: Vec<Unreleased>,
    /// Batches in the journal that should be in a segment as well.
    segments: Runs,
    /// Blocks before this were looked at.
    checked_to: u64,
    /// What it keeps of finished messages, unless the flags say it.
    pub own_retention: Option<Retention>,
    floor: Floor,
    /// While records from before the checkpoint may come again, a channel that was moved back looks as if it had
    /// finished what it is to hand out again: nothing that the checkpoint needs is let go before all is replayed.
    _pin: Option<Floor>,
}

/// See the module. `open_log` makes the log of a topic that starts counting at a sequence number.
pub struct Replay<F> {
    /// The topics.
    pub topics: BTreeMap<TopicNumber, ReplayedTopic>,
    /// Numbers that were never given.
    pub next_numbers: (TopicNumber, ChannelNumber),
    /// Records that contradict what is there; each is passed over.
    pub nonsense_count: u64,
    apply_from: Lsn,
    limits: ReplayLimits,
    open_log: F,
}

impl<F: FnMut(TopicNumber, &TopicName, u64) -> Result<Arc<TopicLog>, String>> Replay<F> {
    /// Starts with a checkpoint, if there is one.
    pub fn new(checkpoint: Option<&Checkpoint>, limits: ReplayLimits, open_log: F) -> Result<Self, String> {
        let mut replay = Replay {
            topics: BTreeMap::new(),
            next_numbers: (1, 1),
            nonsense_count: 0,
            apply_from: Lsn(0),
            limits,
            open_log,
        };
        if let Some(checkpoint) = checkpoint {
            replay.apply_from = checkpoint.journal_from;
            replay.next_numbers = (checkpoint.next_topic_number, checkpoint.next_channel_number);
            for topic in &checkpoint.topics {
                replay.restore(topic)?;
            }
        }
        Ok(replay)
    }

    fn restore(&mut self, saved: &TopicCheckpoint) -> Result<(), String> {
        let Ok(name) = TopicName::new(&saved.name) else {
            self.nonsense_count += 1;
            return Ok(());
        };
        let mut channels = BTreeMap::new();
        for channel in &saved.channels {
            let Ok(name) = ChannelName::new(&channel.name) else {
                self.nonsense_count += 1;
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
            channels.insert(channel.number, ReplayedChannel { name, state });
        }
        let needed = channels.values().map(|channel| channel.state.lowest_needed()).min();
        let kept = &saved.retention;
        let first = needed.into_iter().chain(kept.from).fold(saved.released, u64::min);
        let log = (self.open_log)(saved.number, &name, first)?;
        let own_retention = kept.own.then_some(Retention { age: kept.for_ns, bytes: kept.bytes });
        let retention = own_retention.unwrap_or(self.limits.retention);
        log.restore_retention(retention, kept.from.unwrap_or(first));
        kept.void.iter().for_each(|&(from, to)| log.add_void(from, to));
        for &(from, to, due_ns) in &kept.deferred {
            log.add_deferred(from, to, self.limits.deadline(due_ns));
        }
        let unreleased = (saved.skipped.iter().map(|&(from, to)| (from, to, None)))
            .chain(saved.unreleased_deferred.iter().map(|&(at, due)| (at, at + 1, Some(due))))
            .collect();
        let topic = ReplayedTopic {
            name,
            floor: log.hold(first),
            _pin: kept.from.map(|_| log.hold(first)),
            own_retention,
            end: saved.next_sequence,
            log,
            released: saved.released,
            paused: saved.paused,
            counters: (saved.message_count, saved.message_bytes),
            channels,
            unreleased,
            segments: Runs::default(),
            checked_to: 0,
        };
        self.topics.insert(saved.number, topic);
        Ok(())
    }

    /// Applies one record of the journal.
    pub fn apply(&mut self, at: Lsn, record: Record<'_>) -> Result<(), String> {
        if let Record::Publish { topic, first_sequence, count, due_ns, frames } = record {
            if let Some(topic) = self.topics.get_mut(&topic) {
                let sound = topic.publish(first_sequence, count, due_ns, frames, self.limits)?;
                self.nonsense_count += u64::from(!sound);
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
            Record::TopicDeleted { topic } => drop(self.topics.remove(&topic)),
            Record::ChannelCreated { channel, .. } => {
                self.next_numbers.1 = self.next_numbers.1.max(channel + 1);
                self.apply_to_topic(record);
            }
            _ => self.apply_to_topic(record),
        }
        Ok(())
    }

    fn create(&mut self, number: TopicNumber, name: &str, first_sequence: u64) -> Result<(), String> {
        self.next_numbers.0 = self.next_numbers.0.max(number + 1);
        if self.topics.contains_key(&number) {
            return Ok(());
        }
        let Ok(name) = TopicName::new(name) else {
            self.nonsense_count += 1;
            return Ok(());
        };
        let log = (self.open_log)(number, &name, first_sequence)?;
        log.restore_retention(self.limits.retention, first_sequence);
        let topic = ReplayedTopic {
            name,
            own_retention: None,
            _pin: None,
            floor: log.hold(first_sequence),
            end: first_sequence,
            log,
            released: first_sequence,
            paused: false,
            counters: (0, 0),
            channels: BTreeMap::new(),
            unreleased: Vec::new(),
            segments: Runs::default(),
            checked_to: 0,
        };
        self.topics.insert(number, topic);
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
        // A record of a topic or channel that was deleted since means nothing any more.
        if let Some(topic) = self.topics.get_mut(&topic) {
            topic.apply(record, limits);
        }
    }
}

impl ReplayedTopic {
    fn publish(
        &mut self,
        first: u64,
        count: u32,
        due_ns: Option<i64>,
        frames: &[u8],
        limits: ReplayLimits,
    ) -> Result<bool, String> {
        let end = first + u64::from(count);
        let mut sound = true;
        if end > self.lowest_needed().min(self.log.retained_from()) {
            if end <= self.log.end() {
                self.segments.push(first, end);
                self.check_segment(first).map_err(|error| error.to_string())?;
            } else {
                sound = self.log.append_recovered(first, count, frames);
            }
        }
        if let Some(due_ns) = due_ns {
            self.log.add_deferred(first, end, limits.deadline(due_ns));
        }
        if end > self.end {
            if first > self.end {
                self.log.add_void(self.end, first);
                self.unreleased.push((self.end, first, None));
            }
            if let Some(due_ns) = due_ns {
                self.unreleased.push((first, end, Some(due_ns)));
            }
            self.end = end;
            let header_bytes = u64::from(count) * nsq_protocol::MESSAGE_FRAME_OVERHEAD as u64;
            self.counters.0 += u64::from(count);
            self.counters.1 += (frames.len() as u64).saturating_sub(header_bytes);
            self.advance(limits);
        }
        Ok(sound)
    }

    /// A batch in the journal should stand in a segment, too: is it there, and whole?
    fn check_segment(&mut self, first: u64) -> std::io::Result<()> {
        if first < self.checked_to {
            return Ok(());
        }
        loop {
            match self.log.check_block_of(first)? {
                CheckedBlock::Missing => return Ok(()),
                CheckedBlock::Good(to) => {
                    self.checked_to = to;
                    return Ok(());
                }
                CheckedBlock::Bad => {}
            }
        }
    }

    /// What is needed, stands nowhere, and is in the journal.
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

    /// What is needed and was in a damaged block.
    pub fn lost(&self) -> Vec<(u64, u64)> {
        self.log.damaged().into_iter().filter(|&(from, to)| self.needs_any(from, to)).collect()
    }

    fn needs_any(&self, from: u64, to: u64) -> bool {
        to > self.released
            || to > self.log.retained_from()
            || self.channels.values().any(|channel| !channel.state.needed(from, to, 1).is_empty())
    }

    fn apply(&mut self, record: Record<'_>, limits: ReplayLimits) {
        let ReplayLimits { clocks, longest_delay, max_message_timeout, .. } = limits;
        match record {
            Record::TopicState { paused, released, .. } => {
                self.paused = paused;
                self.release_at_least(released);
                self.advance(limits);
            }
            Record::TopicSkipped { from, to, .. } => {
                self.log.add_void(from, to);
                self.end = self.end.max(to);
                for channel in self.channels.values_mut() {
                    channel.state.replay_release(to, true);
                }
                self.release_at_least(to);
            }
            Record::ChannelCreated { channel, name, cursor, .. } => {
                let Ok(name) = ChannelName::new(name) else { return };
                self.release_at_least(cursor);
                let (log, released) = (&self.log, self.released);
                self.channels.entry(channel).or_insert_with(|| {
                    let marks = log.void_marks_between(cursor, released);
                    let state = ChannelState::replay_start(cursor, released, &marks, max_message_timeout);
                    ReplayedChannel { name, state }
                });
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

    fn channel(&mut self, number: ChannelNumber, change: impl FnOnce(&mut ChannelState)) {
        if let Some(channel) = self.channels.get_mut(&number) {
            change(&mut channel.state);
        }
    }

    /// Releases to the channels what can be.
    pub fn advance(&mut self, limits: ReplayLimits) {
        if self.paused || self.channels.is_empty() {
            return;
        }
        for channel in self.channels.values_mut() {
            let state = &mut channel.state;
            for &(from, to, due) in &self.unreleased {
                state.replay_release(from, false);
                match due {
                    Some(due) => {
                        state.replay_deferred_publish(from, to, due, limits.clocks, limits.longest_delay);
                    }
                    None => state.replay_release(to, true),
                }
            }
            state.replay_release(self.end, false);
        }
        self.unreleased.clear();
        self.released = self.released.max(self.end);
    }

    /// The release point was here at some time: what lies before it was released to channels that are gone.
    fn release_at_least(&mut self, released: u64) {
        self.released = self.released.max(released);
        // If the power failed, the messages themselves may be missing.
        self.end = self.end.max(released);
        self.unreleased.retain(|&(_, to, _)| to > released);
    }

    /// The oldest message that is still needed.
    pub fn lowest_needed(&self) -> u64 {
        let needed = self.channels.values().map(|channel| channel.state.lowest_needed()).min();
        needed.map_or(self.released, |needed| needed.min(self.released))
    }

    /// Frees what turned out to be finished, and keeps memory within its bound.
    pub fn tidy(&self) -> std::io::Result<()> {
        self.floor.store(self.lowest_needed(), std::sync::atomic::Ordering::Release);
        self.log.trim();
        self.log.spill().map(|_| ())
    }
}
