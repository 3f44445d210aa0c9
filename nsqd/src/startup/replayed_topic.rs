//! Pure: one topic during replay. Applies records through [`TopicState`] and
//! [`ChannelState`], which define their meaning. This module adds what only recovery has
//! to decide: what a record shows about earlier records that are lost, and which bodies are needed.

use std::sync::Arc;

use nsq_protocol::{ChannelName, MESSAGE_FRAME_OVERHEAD, TopicName};

use super::replay::{ReplayError, ReplayLimits};
use crate::channel::ChannelState;
use crate::channel::runs::Runs;
use crate::channel::undoing::LossKind;
use crate::clock::Nanos;
use crate::log::repair::CheckedBlock;
use crate::log::retention::{Retention, merged};
use crate::log::{Floor, Mark, TopicLog};
use crate::policy::settings::Settings;
use crate::storage::checkpoint::{ChannelCheckpoint, TopicCheckpoint};
use crate::storage::record::Record;
use crate::storage::{ChannelNumber, SequenceRange, is_full};
use crate::topic::TopicCounters;
use crate::topic::adoptions::Adoptions;
use crate::topic::dedupe::LearnedIds;
use crate::topic::release::ReleasePoint;
use crate::topic::saved::{restore_marks, restore_retention, restore_taken_over};
use crate::topic::state::{Follower, TopicState};

/// A channel during replay.
pub struct ReplayedChannel {
    number: ChannelNumber,
    pub name: ChannelName,
    pub state: ChannelState,
    /// No record has named it yet.
    pub(super) is_nameless: bool,
    /// Messages due by then wait.
    now: Nanos,
}

impl ReplayedChannel {
    /// Restores a channel from a checkpoint, in a topic that has released all messages before `released`.
    pub(super) fn restore(
        name: ChannelName,
        saved: &ChannelCheckpoint,
        released: u64,
        limits: &ReplayLimits,
    ) -> Self {
        let due = |due_ns| limits.due(due_ns);
        let state = ChannelState::restore(saved, released, limits.max_message_timeout, due);
        ReplayedChannel {
            number: saved.number,
            name,
            state,
            is_nameless: false,
            now: limits.clocks.monotonic,
        }
    }
}

impl Follower for ReplayedChannel {
    fn number(&self) -> ChannelNumber {
        self.number
    }

    fn release(&mut self, to: u64, marks: &[Mark]) {
        self.state.release(to, marks, None);
        self.state.settle(self.now);
    }

    fn published_deferred(&self) -> Vec<(u64, Nanos)> {
        self.state.published_deferred()
    }
}

/// A topic during replay.
pub struct ReplayedTopic {
    pub name: TopicName,
    /// Committed are the messages published up to the record read last. The checkpoint may know later messages. A
    /// release from before these messages must not release them. Without ephemeral channels.
    pub state: TopicState<ChannelNumber, ReplayedChannel>,
    /// One past the last message known to be published.
    pub end: u64,
    /// Messages and body bytes accepted.
    pub counters: TopicCounters,
    /// Messages that were published, as later records show, and whose own records are missing.
    pub unrecorded: Vec<SequenceRange>,
    /// Batches in the journal that should also be in a segment.
    pub(super) segments: Runs,
    /// Blocks before this sequence number were checked.
    checked_to: u64,
    floor: Floor,
    /// Keeps everything that the checkpoint needs until the end of the replay. Records that the checkpoint already
    /// contains may be replayed. Meanwhile a channel that was moved back looks as if it had finished what it must hand
    /// out again.
    _pin: Option<Floor>,
    /// No record has named it yet.
    pub(super) is_nameless: bool,
    /// Channels may still appear that need messages from here on.
    pub(super) keep_from: Option<u64>,
    /// With `keep_from`: earlier messages that are not in the journal are assumed to be in segments.
    in_segments_to: u64,
    /// Whether the checkpoint or a record has the topic's own settings. Versions without settings recorded only the
    /// limits of retention.
    has_settings: bool,
    /// The ids that it remembers, if the settings say so.
    pub(super) ids: LearnedIds,
    learns_ids: bool,
    /// Messages of other nodes.
    pub(super) adoptions: Adoptions,
}

impl ReplayedTopic {
    /// A topic without channels. Data on disk below `first_sequence` is not needed. With `is_new_to_us`, older channels
    /// of the topic may still appear.
    pub(super) fn new(
        name: TopicName,
        log: Arc<TopicLog>,
        first_sequence: u64,
        is_new_to_us: bool,
        limits: &ReplayLimits,
    ) -> Self {
        let own = Settings::default();
        log.set_retention(limits.retention(&name, &own), first_sequence);
        let point = ReleasePoint::new(first_sequence, first_sequence, false, false);
        ReplayedTopic {
            in_segments_to: if is_new_to_us { log.end() } else { 0 },
            keep_from: is_new_to_us.then_some(first_sequence),
            ..Self::with(name, TopicState::new(log, point, own), first_sequence, first_sequence, limits)
        }
    }

    /// Restores a topic from a checkpoint. `first` is the oldest message that it needs.
    pub(super) fn restore(
        name: TopicName,
        own: Settings,
        saved: &TopicCheckpoint,
        channels: Vec<(ChannelNumber, ReplayedChannel)>,
        (log, first): (Arc<TopicLog>, u64),
        limits: &ReplayLimits,
    ) -> Self {
        let deadline = |due_ns| limits.deadline(due_ns);
        restore_retention(&log, &saved.retention, limits.retention(&name, &own), first, deadline);
        restore_marks(&log, saved, deadline);
        restore_taken_over(&log, saved);
        let published_to = saved.published_before.unwrap_or(saved.next_sequence).min(saved.next_sequence);
        let point = ReleasePoint::new(saved.released, published_to, saved.paused, false);
        let end = saved.next_sequence.max(saved.released);
        let mut topic = ReplayedTopic {
            counters: TopicCounters {
                message_count: saved.message_count,
                message_bytes: saved.message_bytes,
            },
            _pin: saved.retention.from.map(|_| log.hold(first)),
            has_settings: saved.settings.is_some(),
            ..Self::with(name, TopicState::new(log, point, own), end, first, limits)
        };
        topic.adoptions = Adoptions::restore(&saved.transfers);
        topic.ids.forget_before(saved.ids.forgotten_before);
        if topic.learns_ids {
            saved.ids.list.iter().for_each(|id| topic.ids.add(id));
        }
        channels.into_iter().for_each(|(number, channel)| topic.insert(number, channel));
        topic
    }

    fn with(
        name: TopicName,
        state: TopicState<ChannelNumber, ReplayedChannel>,
        end: u64,
        floor: u64,
        limits: &ReplayLimits,
    ) -> Self {
        ReplayedTopic {
            ids: LearnedIds::new(limits.dedupe_max_ids),
            learns_ids: limits.dedupe(&name, state.own()) > 0,
            name,
            floor: state.log().hold(floor),
            state,
            end,
            counters: TopicCounters::default(),
            unrecorded: Vec::new(),
            segments: Runs::default(),
            checked_to: 0,
            _pin: None,
            is_nameless: false,
            keep_from: None,
            in_segments_to: 0,
            has_settings: false,
            adoptions: Adoptions::default(),
        }
    }

    pub fn log(&self) -> &Arc<TopicLog> {
        self.state.log()
    }

    /// Applies a record about this topic. Returns whether its content is valid.
    pub(super) fn apply(&mut self, record: Record<'_>, limits: &ReplayLimits) -> Result<bool, ReplayError> {
        match record {
            Record::Publish { first_sequence, count, due_ns, only, frames, .. } => {
                let due = due_ns.map(|due| limits.deadline(due));
                return self.publish(first_sequence, (count, due, only), frames);
            }
            Record::TopicCreated { name, .. } => {
                let Ok(name) = TopicName::new(name) else { return Ok(false) };
                if std::mem::take(&mut self.is_nameless) {
                    self.name = name;
                    self.update_retention(self.log().retained_from(), limits);
                    self.update_ids(limits);
                }
            }
            // The replay removes it.
            Record::TopicDeleted { .. } => {}
            Record::TopicState { paused, released, .. } => {
                self.reach(released);
                if self.keep_from.is_some() && self.state.channels().is_empty() {
                    // Before this record, the topic was not known to be paused, so too much was assumed to be released
                    // to a channel that no longer exists.
                    self.state.hold_back(released);
                }
                self.state.set_paused(paused);
                self.state.advance();
            }
            Record::TopicSkipped { from, to, .. } => {
                self.reach(from);
                self.state.skip(from, to);
                self.end = self.end.max(to);
            }
            Record::TopicRetention { own, for_ns, bytes, from, .. } => {
                if !self.has_settings {
                    let mut settings = self.state.own().clone();
                    settings.set_retention(own.then_some(Retention { age: for_ns, bytes }));
                    self.state.set_own(settings);
                }
                self.update_retention(from, limits);
            }
            Record::TopicSettings { settings, .. } => {
                let (own, problems) = Settings::parse(settings);
                self.has_settings = true;
                // The record of the retention that follows from it is in the same batch.
                self.state.set_own(own);
                self.update_ids(limits);
                return Ok(problems.is_empty());
            }
            Record::TopicIdsForgotten { before, .. } => self.ids.forget_before(before),
            Record::Adopted { channel, transfer, first_sequence, sources, states, .. } => {
                // The publish that follows marks its messages as those of one channel.
                let marks = Mark::of_adopted(first_sequence, channel, states.iter(), |due| limits.due(due));
                for mark in marks.into_iter().filter(|_| first_sequence >= self.end) {
                    if !matches!(mark, Mark::Targeted { .. }) {
                        self.log().mark(mark);
                    }
                }
                self.adoptions.replace(transfer, sources.iter().collect());
            }
            Record::ChannelSettings { channel, settings, .. } => {
                let (own, problems) = Settings::parse(settings);
                if let Some(channel) = self.state.channel_mut(&channel) {
                    channel.state.set_own_settings(own);
                }
                return Ok(problems.is_empty());
            }
            Record::ChannelCreated { channel, name, cursor, .. } => {
                let Ok(name) = ChannelName::new(name) else { return Ok(false) };
                self.reach(cursor);
                self.create_channel(channel, name, cursor, limits);
            }
            Record::ChannelDeleted { channel, .. } => drop(self.state.remove(&channel)),
            Record::ChannelPaused { channel, paused, .. } => {
                if let Some(channel) = self.state.channel_mut(&channel) {
                    channel.state.set_paused(paused);
                }
            }
            Record::ChannelEmptied { channel, up_to, .. } => {
                self.reach(up_to);
                let is_retaining = self.log().is_retaining();
                if let Some(channel) = self.state.channel_mut(&channel) {
                    if is_retaining {
                        channel.state.note_loss(LossKind::Emptied, up_to, None);
                    }
                    // Nothing is in flight, so all messages before `up_to` are dropped. Newer ones stay.
                    channel.state.move_forward(up_to);
                }
            }
            Record::ChannelMoved { channel, to, forward, .. } => {
                self.reach(to);
                let log = self.log().clone();
                if let Some(channel) = self.state.channel_mut(&channel) {
                    if forward {
                        if log.is_retaining() {
                            channel.state.note_loss(LossKind::MovedForward, to, None);
                        }
                        channel.state.move_forward(to);
                    } else {
                        // The cursor was at `to` or after it.
                        channel.state.replay_handed_out(to);
                        let (end, number) = (channel.state.end(), channel.number);
                        channel.state.move_back(to, &log.void_marks_between(to, end, Some(number)));
                        channel.state.settle(channel.now);
                    }
                }
            }
            Record::ChannelUndone { channel, cursor, runs, .. } => {
                let runs: Vec<SequenceRange> = runs.iter().collect();
                self.reach(runs.iter().map(|run| run.to).fold(cursor, u64::max));
                let log = self.log().clone();
                if let Some(channel) = self.state.channel_mut(&channel) {
                    let runs = merged(runs.into_iter().filter(|run| !run.is_empty()).collect());
                    let (low, end) =
                        (runs.first().map_or(0, |run| run.from), runs.last().map_or(0, |run| run.to));
                    let marks = log.void_marks_between(low, end, Some(channel.number));
                    channel.state.replay_undo(cursor, &runs, &marks);
                    channel.state.settle(channel.now);
                }
            }
            Record::Finish { channel, runs, .. } => {
                self.reach(runs.iter().map(|run| run.to).max().unwrap_or(0));
                if let Some(channel) = self.state.channel_mut(&channel) {
                    runs.iter().for_each(|run| channel.state.replay_finish(run));
                }
            }
            Record::Requeue { channel, sequence, attempts, failures, due_ns, .. } => {
                self.reach(sequence + 1);
                if let Some(channel) = self.state.channel_mut(&channel) {
                    channel.state.replay_requeue(sequence, attempts, failures, limits.due(due_ns));
                }
            }
            Record::Removed { channel, runs, .. } => {
                self.reach(runs.iter().map(|run| run.to).max().unwrap_or(0));
                if let Some(channel) = self.state.channel_mut(&channel) {
                    runs.iter().for_each(|run| channel.state.replay_removed(run));
                }
            }
        }
        Ok(true)
    }

    fn publish(
        &mut self,
        first: u64,
        (count, due, only): (u32, Option<Nanos>, Option<ChannelNumber>),
        frames: &[u8],
    ) -> Result<bool, ReplayError> {
        // Each message has at least its frame.
        if frames.len() as u64 / (MESSAGE_FRAME_OVERHEAD as u64) < u64::from(count) {
            return Ok(false);
        }
        // A targeted message does not enter the window: the other channels would never get a later one of its id.
        if self.learns_ids && only.is_none() {
            self.ids.add_published(first, frames);
        }
        let end = first + u64::from(count);
        let mut is_valid = true;
        if end > self.lowest_needed().min(self.log().retained_from()) {
            let known_to = self.log().end();
            if first < known_to {
                self.segments.push(SequenceRange::new(first, end.min(known_to)));
                self.check_segments(first, end.min(known_to))?;
            }
            if end > known_to {
                is_valid = self.log().append_recovered(first, count, frames);
            }
        }
        if end > self.end {
            self.mark_lost_before(first);
            if let Some(due) = due {
                self.log().mark(Mark::Deferred { from: first, to: end, due });
            }
            if let Some(channel) = only {
                self.log().mark(Mark::Targeted { from: first, to: end, channel });
            }
            self.end = end;
            let header_bytes = u64::from(count) * MESSAGE_FRAME_OVERHEAD as u64;
            self.counters.message_count += u64::from(count);
            self.counters.message_bytes += (frames.len() as u64).saturating_sub(header_bytes);
        } else {
            if let Some(due) = due {
                self.log().add_deferred(first, end, due);
            }
            if let Some(channel) = only {
                self.log().add_targeted(first, end, channel);
            }
        }
        self.state.commit(end);
        Ok(is_valid)
    }

    /// Checks the segments for messages that the journal has as well: are they there and undamaged?
    fn check_segments(&mut self, first: u64, end: u64) -> std::io::Result<()> {
        let mut at = first.max(self.checked_to);
        while at < end {
            match self.log().check_block_of(at)? {
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

    /// Marks the sequence numbers between the known messages and `to` as unused. Returns their range, if there are any.
    fn mark_lost_before(&self, to: u64) -> Option<SequenceRange> {
        let from = self.end.max(self.in_segments_to);
        (from < to).then(|| {
            self.log().mark(Mark::Skipped { from, to });
            SequenceRange { from, to }
        })
    }

    /// A record shows that all messages before `to` were published and released. Those without a record of their own
    /// are lost, and their numbers are not used again.
    fn reach(&mut self, to: u64) {
        self.unrecorded.extend(self.mark_lost_before(to));
        self.end = self.end.max(to);
        self.state.reach(to);
    }

    /// Retains finished messages from `from` on (all ones: from the oldest needed one on), by the limits in force.
    fn update_retention(&mut self, from: u64, limits: &ReplayLimits) {
        let from = if from == u64::MAX { self.lowest_needed() } else { from };
        self.state.set_retention(limits.retention(&self.name, self.state.own()), from);
    }

    /// Learns ids from now on, or no longer, by the settings in force.
    fn update_ids(&mut self, limits: &ReplayLimits) {
        self.learns_ids = limits.dedupe(&self.name, self.state.own()) > 0;
        if !self.learns_ids {
            self.ids.clear();
        }
    }

    fn create_channel(
        &mut self,
        number: ChannelNumber,
        name: ChannelName,
        cursor: u64,
        limits: &ReplayLimits,
    ) {
        match self.state.channel_mut(&number) {
            Some(known) if known.is_nameless => {
                known.is_nameless = false;
                known.name = name;
                // The channel has finished everything before `cursor`.
                known.state.move_forward(cursor);
            }
            Some(_) => {}
            None => self.add_channel(number, name, cursor, limits),
        }
        self.state.advance();
    }

    /// Adds a channel of which only the number is known.
    pub(super) fn add_nameless_channel(
        &mut self,
        number: ChannelNumber,
        name: ChannelName,
        limits: &ReplayLimits,
    ) {
        self.add_channel(number, name, self.lowest_needed(), limits);
        if let Some(channel) = self.state.channel_mut(&number) {
            channel.is_nameless = true;
        }
        self.state.advance();
    }

    fn add_channel(&mut self, number: ChannelNumber, name: ChannelName, cursor: u64, limits: &ReplayLimits) {
        let now = limits.clocks.monotonic;
        let released = self.state.point().released();
        // Messages that are missing in the log may still be found in the journal.
        let marks = self.log().void_marks_between(cursor, released, Some(number));
        let state = ChannelState::starting_at(cursor, released, &marks, limits.max_message_timeout);
        let mut channel = ReplayedChannel { number, name, state, is_nameless: false, now };
        channel.state.settle(now);
        self.insert(number, channel);
    }

    fn insert(&mut self, number: ChannelNumber, channel: ReplayedChannel) {
        self.state.insert(number, channel);
        self.state.set_has_channels();
    }

    /// The journal is read: all known messages were published. The record that says so may be lost.
    pub(super) fn complete(&mut self) {
        self.keep_from = None;
        self.state.commit(self.end);
    }

    /// Without a journal, only the segments show what was published after the checkpoint. If the messages in memory are
    /// lost, all sequence numbers before `used_to` may have been used.
    pub fn end_with_segments(&mut self, used_to: Option<u64>) {
        let from = self.log().end();
        self.end = self.end.max(from).max(used_to.unwrap_or(0));
        if used_to.is_some() && from < self.end {
            self.log().mark(Mark::Skipped { from, to: self.end });
        }
        self.state.commit(self.end);
    }

    /// The oldest message that is still needed.
    pub fn lowest_needed(&self) -> u64 {
        if let Some(keep_from) = self.keep_from {
            return keep_from;
        }
        let needed = self.state.channels().values().map(|channel| channel.state.lowest_needed());
        needed.fold(self.state.point().released(), u64::min)
    }

    /// Frees finished messages and keeps memory within its limit. A full disk is not an error here, because consumers
    /// must be able to free space.
    pub fn tidy(&self) -> std::io::Result<()> {
        self.floor.store(self.lowest_needed(), std::sync::atomic::Ordering::Release);
        self.log().trim();
        match self.log().spill() {
            Err(error) if !is_full(&error) => Err(error),
            _ => Ok(()),
        }
    }
}
