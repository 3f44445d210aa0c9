//! Takes messages out of a channel, in one journal record with what becomes of them; and the channels that have messages
//! to dead-letter.

use std::collections::VecDeque;
use std::sync::Arc;

use nsq_protocol::TopicName;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Channel;
use super::bounding::REPORT_INTERVAL;
use super::departures::Departed;
use super::fates::Fate;
use super::runs::Runs;
use crate::clock::Nanos;
use crate::storage::SequenceRange;
use crate::storage::record::Record;

/// Channels with messages to dead-letter.
#[derive(Default)]
pub struct ExhaustedChannels {
    channels: Mutex<VecDeque<Arc<Channel>>>,
    added: Notify,
}

impl ExhaustedChannels {
    /// Adds a channel. It must not be there already.
    pub(super) fn push(&self, channel: Arc<Channel>) {
        self.channels.lock().push_back(channel);
        self.added.notify_one();
    }

    /// Adds a channel again that has more messages or could not be handled. Does not wake [`ExhaustedChannels::added`].
    pub fn push_again(&self, channel: Arc<Channel>) {
        self.channels.lock().push_back(channel);
    }

    /// Removes the channel that has waited longest.
    pub fn pop(&self) -> Option<Arc<Channel>> {
        self.channels.lock().pop_front()
    }

    /// Waits until a channel was added since the last call.
    pub async fn added(&self) {
        self.added.notified().await;
    }
}

impl Channel {
    /// The topic of this channel.
    pub fn topic_name(&self) -> &TopicName {
        &self.parts.topic
    }

    /// Takes those of these messages, in order, out of the channel that are neither finished nor in flight. `append`
    /// appends what becomes of them to the journal, in one batch with the given record; there is none if the channel is
    /// never on disk. It runs under the channel's lock. If it fails, nothing changes.
    ///
    /// Returns `None` if there are no such messages. Otherwise the caller must call [`Channel::departed`] or
    /// [`Channel::put_back`] when the outcome is known.
    pub fn depart<T, E>(
        &self,
        sequences: &[u64],
        append: impl FnOnce(&[Departed], Option<Record<'_>>) -> Result<T, E>,
    ) -> Result<Option<(Vec<Departed>, T)>, E> {
        let mut inner = self.inner.lock();
        let departed = inner.state.depart(sequences);
        if departed.is_empty() {
            return Ok(None);
        }
        let runs: Runs = departed.iter().map(|message| SequenceRange::one(message.sequence)).collect();
        let runs: Vec<SequenceRange> = runs.iter().collect();
        let removed = Record::Removed {
            topic: self.parts.topic_number,
            channel: self.parts.number,
            runs: runs.as_slice().into(),
        };
        let appended = append(&departed, self.parts.journal.is_some().then_some(removed));
        if appended.is_err() {
            inner.state.put_back(&departed);
        }
        self.after_change(inner);
        appended.map(|appended| Some((departed, appended)))
    }

    /// What became of these messages is durable. `are_dead_letters` counts them as such.
    pub fn departed(&self, messages: &[Departed], are_dead_letters: bool) {
        let mut inner = self.inner.lock();
        let fate = if are_dead_letters { Fate::DeadLettered } else { Fate::MovedAway };
        inner.state.departed(messages, fate);
        if are_dead_letters {
            inner.state.counters.dead_letter_count += messages.len() as u64;
        }
        self.after_change(inner);
    }

    /// What should have become of these messages was not recorded: they wait again.
    pub fn put_back(&self, messages: &[Departed]) {
        let mut inner = self.inner.lock();
        inner.state.put_back(messages);
        self.after_change(inner);
    }

    /// Whether to report that messages cannot become dead letters: once a minute, as a consumer may reject them again and
    /// again.
    pub fn reports_refused(&self, now: Nanos) -> bool {
        let mut inner = self.inner.lock();
        let is_due = inner.refused_reported_at.is_none_or(|at| now.saturating_sub(at) >= REPORT_INTERVAL);
        if is_due {
            inner.refused_reported_at = Some(now);
        }
        is_due
    }

    /// These messages cannot become dead letters: see [`ChannelState::forgive`](super::ChannelState::forgive).
    pub fn forgive(&self, sequences: &[u64]) {
        if sequences.is_empty() {
            return;
        }
        let mut inner = self.inner.lock();
        inner.state.forgive(sequences);
        self.after_change(inner);
    }

    /// Nothing becomes a dead letter any more: see [`ChannelState::unset_aside`](super::ChannelState::unset_aside).
    pub fn unset_aside(&self) {
        let mut inner = self.inner.lock();
        inner.state.unset_aside();
        self.after_change(inner);
    }

    /// Messages to dead-letter, oldest first, at most this many, and where they go. After an empty answer, the channel
    /// is added to [`ExhaustedChannels`] again when there are new ones.
    pub fn exhausted(&self, most: usize) -> Option<(Vec<u64>, TopicName)> {
        let mut inner = self.inner.lock();
        let sequences = inner.state.exhausted(most);
        let topic = inner.state.dead_letter_topic().cloned();
        match topic {
            Some(topic) if !sequences.is_empty() => Some((sequences, topic)),
            // The setting was removed.
            None if !sequences.is_empty() => {
                inner.state.unset_aside();
                inner.is_known_exhausted = false;
                self.after_change(inner);
                None
            }
            _ => {
                inner.is_known_exhausted = false;
                None
            }
        }
    }
}
