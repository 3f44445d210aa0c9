//! Pure: one topic during replay: what the checkpoint and the records so far say of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use nsq_protocol::{ChannelName, MESSAGE_FRAME_OVERHEAD, TopicName};

use super::replay::{ReplayError, ReplayLimits};
use crate::channel::ChannelState;
use crate::channel::runs::Runs;
use crate::log::repair::CheckedBlock;
use crate::log::retention::{Retention, gaps, merged};
use crate::log::{Floor, Mark, TopicLog};
use crate::storage::record::Record;
use crate::storage::{ChannelNumber, is_full};

/// A channel during replay.
pub struct ReplayedChannel {
    pub name: ChannelName,
    pub state: ChannelState,
    /// No record has named it yet.
    pub(super) is_nameless: bool,
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
    pub(super) published_to: u64,
    pub paused: bool,
    /// Messages and body bytes accepted.
    pub counters: (u64, u64),
    /// Without ephemeral channels.
    pub channels: BTreeMap<ChannelNumber, ReplayedChannel>,
    /// Ranges that are published but not released, if they are not plain messages.
    pub unreleased: Vec<Unreleased>,
    /// Messages that were published, as later records show, and whose own records are missing.
    pub unrecorded: Vec<(u64, u64)>,
    /// Batches in the journal that should also be in a segment.
    pub(super) segments: Runs,
    /// Blocks before this sequence number were checked.
    pub(super) checked_to: u64,
    /// Retention set for this topic; `None` if the flags apply.
    pub own_retention: Option<Retention>,
    pub(super) floor: Floor,
    /// Keeps everything that the checkpoint needs until the end of the replay. Records that the checkpoint already
    /// contains may be replayed. Meanwhile a channel that was moved back looks as if it had finished what it must hand
    /// out again.
    pub(super) _pin: Option<Floor>,
    /// No record has named it yet.
    pub(super) is_nameless: bool,
    /// Channels may still appear that need messages from here on.
    pub(super) keep_from: Option<u64>,
    /// With `keep_from`: earlier messages that are not in the journal are assumed to be in segments.
    pub(super) in_segments_to: u64,
}

/// Maximum number of missing messages reported per gap and channel.
const MOST_ABSENT: usize = 100_000;

/// One past the last message that the topic had released when the record was written, as far as the record shows it.
fn released_to(record: &Record<'_>) -> Option<u64> {
    match *record {
        Record::TopicState { released, .. } => Some(released),
        Record::TopicSkipped { from, .. } => Some(from),
        Record::ChannelCreated { cursor, .. } => Some(cursor),
        Record::ChannelMoved { to, .. } => Some(to),
        Record::ChannelEmptied { up_to, .. } => Some(up_to),
        Record::Requeue { sequence, .. } => Some(sequence + 1),
        Record::Finish { runs, .. } => runs.iter().map(|(first, length)| first + length).max(),
        _ => None,
    }
}

impl ReplayedTopic {
    /// A topic without channels. Data on disk below `first_sequence` is not needed. With `is_new_to_us`, older channels
    /// of the topic may still appear.
    pub(super) fn new(name: TopicName, log: Arc<TopicLog>, first_sequence: u64, is_new_to_us: bool) -> Self {
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
            unrecorded: Vec::new(),
            segments: Runs::default(),
            checked_to: 0,
            own_retention: None,
            _pin: None,
            is_nameless: false,
            keep_from: is_new_to_us.then_some(first_sequence),
        }
    }

    pub(super) fn publish(
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
            let header_bytes = u64::from(count) * MESSAGE_FRAME_OVERHEAD as u64;
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

    pub(super) fn apply(&mut self, record: Record<'_>, limits: ReplayLimits) {
        let ReplayLimits { clocks, longest_delay, max_message_timeout, .. } = limits;
        if let Some(to) = released_to(&record) {
            self.reach(to, limits);
        }
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
        if !self.paused && !self.channels.is_empty() {
            self.release(limits);
        }
    }

    fn release(&mut self, limits: ReplayLimits) {
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

    /// A record shows that all messages before `to` were published and released. Those without a record of their own are
    /// lost, and their numbers are not used again.
    fn reach(&mut self, to: u64, limits: ReplayLimits) {
        let known_to = self.end.max(self.in_segments_to);
        if to <= known_to {
            return;
        }
        self.log.add_void(known_to, to);
        self.unreleased.push((known_to, to, None));
        self.unrecorded.push((known_to, to));
        (self.end, self.published_to) = (to, to);
        self.release(limits);
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
