//! Adopts messages that another node moves here: stores each of them once, and continues where that node stopped.
//!
//! One journal batch publishes the messages, says how they stood, and from which messages of the other node they come. So
//! at every moment either all of that is known, or nothing.

use std::sync::Arc;

use bytes::Bytes;
use nsq_protocol::headers::Form;
use nsq_protocol::{ChannelName, StartAt, TopicName};
use parking_lot::Mutex;

use super::adoptions::{Adoptions, Sessions};
use super::registry::Registry;
use super::{Origin, Publication, PublishError, Topic};
use crate::channel::Channel;
use crate::channel::saved::Clocks;
use crate::clock;
use crate::engine::StorageError;
use crate::log::Mark;
use crate::policy::setting::Setting;
use crate::policy::settings::{Change, Settings};
use crate::storage::journal::Ticket;
use crate::storage::record::{AdoptedState, Record, TransferId};
use crate::storage::{ChannelNumber, SequenceRange};

/// What a topic knows about transfers from other nodes.
pub(super) struct Adopting {
    adoptions: Mutex<Adoptions>,
    /// Held while a batch is stored: one after the other.
    sessions: tokio::sync::Mutex<Sessions>,
}

/// A message of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Its sequence number there.
    pub source: u64,
    /// Deliveries so far.
    pub attempts: u16,
    /// Failed deliveries, if they were counted.
    pub failures: u16,
    /// When it is due, wall clock, nanoseconds; `None` if it can be handed out.
    pub due_ns: Option<i64>,
    /// In the layout of the batch's form.
    pub bytes: Bytes,
}

/// Messages of another node, all in one form, in the order in which they were there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncomingBatch {
    pub transfer: TransferId,
    pub session: u64,
    pub form: Form,
    pub messages: Vec<Incoming>,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AdoptedCount {
    pub stored: u64,
    /// Messages that the topic had already.
    pub known: u64,
}

/// What the other node's topic or channel was like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Likeness {
    pub settings: Settings,
    pub is_paused: bool,
}

/// Why messages were not adopted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AdoptError {
    #[error("{0}")]
    Publish(#[from] PublishError),
    /// nsqd was restarted, or another run of the drain sends this transfer.
    #[error("no such transfer is under way; begin it again")]
    UnknownSession,
    #[error("the channel was deleted; begin the transfer again")]
    NoChannel,
}

impl From<StorageError> for AdoptError {
    fn from(error: StorageError) -> Self {
        AdoptError::Publish(error.into())
    }
}

impl Adopting {
    pub fn new(adoptions: Adoptions) -> Self {
        Adopting { adoptions: Mutex::new(adoptions), sessions: tokio::sync::Mutex::default() }
    }

    /// The transfers in a checkpoint. Call it under the lock of the log's index.
    pub fn save(&self) -> Vec<(u128, Vec<SequenceRange>)> {
        self.adoptions.lock().save()
    }
}

impl Registry {
    /// Returns the topic of this name, for messages of another node. Creates it if it is missing. One without settings, to
    /// which nothing was published, gets these: nsqlookupd may have made it.
    async fn topic_to_adopt(
        self: &Arc<Self>,
        name: &TopicName,
        like: &Likeness,
    ) -> Result<Arc<Topic>, PublishError> {
        let topic = self.make(name).await?;
        let is_new = topic.counters().message_count == 0 && topic.own_settings().is_empty();
        if !is_new {
            return Ok(topic);
        }
        // This version accepts what it parsed.
        let _ = topic.change_settings(&change_to(&like.settings));
        if like.is_paused {
            topic.set_paused(true);
        }
        Ok(topic)
    }
}

/// A transfer that another node begins or continues.
#[derive(Debug, Clone)]
pub struct Beginning {
    pub topic: TopicName,
    pub like_topic: Likeness,
    /// `None` for messages that no channel has.
    pub channel: Option<(ChannelName, Likeness)>,
    pub transfer: TransferId,
    pub session: u64,
}

impl Registry {
    /// A run of another node's drain begins to send a transfer. Creates the topic and the channel if they are missing.
    /// Returns which messages of the newest batch are stored here, by their numbers there.
    pub async fn begin_adoption(
        self: &Arc<Self>,
        of: &Beginning,
    ) -> Result<Vec<SequenceRange>, PublishError> {
        let topic = self.topic_to_adopt(&of.topic, &of.like_topic).await?;
        if let Some((name, like)) = &of.channel {
            topic.channel_to_adopt(name, like).await?;
        }
        Ok(topic.begin_adoption(of.transfer, of.session).await)
    }
}

impl Topic {
    /// Returns the channel of this name, for messages of another node. Creates it if it is missing. One without settings,
    /// which never had a message, gets these.
    async fn channel_to_adopt(
        self: &Arc<Self>,
        name: &ChannelName,
        like: &Likeness,
    ) -> Result<Arc<Channel>, PublishError> {
        let channel = self.make_channel(name, StartAt::Latest).await?;
        let message_count = channel.inspect(|state, _| state.counters().message_count);
        if message_count > 0 || !channel.own_settings().is_empty() {
            return Ok(channel);
        }
        if self.change_channel_settings(&channel, &change_to(&like.settings)).is_err() {
            crate::log_warn!(self.engine, "CHANNEL({}/{name}): adopted without its settings", self.name);
        }
        if like.is_paused {
            channel.set_paused(true);
        }
        Ok(channel)
    }

    /// A run of another node's drain begins to send a transfer. Returns which messages of the newest batch are stored here,
    /// by their numbers there.
    async fn begin_adoption(&self, transfer: TransferId, session: u64) -> Vec<SequenceRange> {
        let mut sessions = self.adopting.sessions.lock().await;
        sessions.begin(transfer, session);
        self.adopting.adoptions.lock().of(transfer).to_vec()
    }

    /// Stores messages of another node, except those that are here already. Without a channel, all channels receive them.
    /// Dropping the future changes nothing: the batch is stored.
    pub async fn adopt(
        self: &Arc<Self>,
        channel: Option<ChannelName>,
        batch: IncomingBatch,
    ) -> Result<AdoptedCount, AdoptError> {
        let topic = self.clone();
        // The outcome decides what the next batch may be.
        let stored = tokio::spawn(async move { topic.adopt_in_turn(channel.as_ref(), batch).await });
        stored.await.map_err(|panic| StorageError::in_doubt(panic, "the messages may be there"))?
    }

    /// The transfer is complete: forgets it.
    pub async fn end_adoption(&self, transfer: TransferId, session: u64) -> Result<(), AdoptError> {
        let mut sessions = self.adopting.sessions.lock().await;
        if !sessions.is_current(transfer, session) {
            return Err(AdoptError::UnknownSession);
        }
        sessions.end(transfer);
        self.log.with_marks_and_end(|_, end| {
            self.adopting.adoptions.lock().replace(transfer, Vec::new());
            if let Some(journal) = self.engine.journal_for(self.name.is_ephemeral()) {
                journal.append_lazy(&Record::Adopted {
                    topic: self.number,
                    channel: None,
                    transfer,
                    first_sequence: end,
                    sources: (&[]).into(),
                    states: (&[][..]).into(),
                });
            }
        });
        Ok(())
    }

    /// Number of transfers from other nodes that are not complete.
    pub fn adoption_count(&self) -> usize {
        self.adopting.adoptions.lock().count()
    }

    async fn adopt_in_turn(
        &self,
        channel: Option<&ChannelName>,
        batch: IncomingBatch,
    ) -> Result<AdoptedCount, AdoptError> {
        let sessions = self.adopting.sessions.lock().await;
        let IncomingBatch { transfer, session, form, messages } = batch;
        if !sessions.is_current(transfer, session) {
            return Err(AdoptError::UnknownSession);
        }
        let sources: Vec<SequenceRange> = runs(messages.iter().map(|message| message.source));
        let offered = messages.len() as u64;
        let new: Vec<Incoming> = {
            let adoptions = self.adopting.adoptions.lock();
            messages.into_iter().filter(|message| !adoptions.has(transfer, message.source)).collect()
        };
        let known = offered - new.len() as u64;
        if new.is_empty() {
            return Ok(AdoptedCount { stored: 0, known });
        }
        let append = |only| self.append_adopted(only, (transfer, &sources), form, &new);
        let (publication, before) = match channel {
            None => append(None)?,
            Some(name) => self
                .with_channel_number(name.as_str(), |number| append(Some(number)))
                .ok_or(AdoptError::NoChannel)??,
        };
        if let Err(error) = publication.committed().await {
            self.adopting.adoptions.lock().replace(transfer, before);
            return Err(error.into());
        }
        let stored = new.len() as u64;
        self.engine.metrics().adopted_messages.add(stored);
        Ok(AdoptedCount { stored, known })
    }

    /// Appends messages, and remembers from which they come. Returns what was remembered before.
    fn append_adopted(
        &self,
        only: Option<ChannelNumber>,
        (transfer, sources): (TransferId, &[SequenceRange]),
        form: Form,
        messages: &[Incoming],
    ) -> Result<(Publication, Vec<SequenceRange>), PublishError> {
        let topic = self.can_append(Origin::Node)?;
        let (count, body_bytes) = (messages.len(), messages.iter().map(|message| message.bytes.len()).sum());
        let states = states(messages);
        let clocks = Clocks { monotonic: clock::monotonic(), wall_ns: clock::wall_ns() };
        let longest = clock::nanos(self.engine.limits.max_req_timeout);
        let mut before = Vec::new();
        let stored = self.log.append_marked(
            messages.iter().map(|message| &message.bytes[..]),
            (form, count, body_bytes),
            clocks.wall_ns,
            |first_sequence, frames| {
                let publish = Record::Publish {
                    topic: self.number,
                    first_sequence,
                    count: count as u32,
                    due_ns: None,
                    only,
                    frames,
                };
                let adopted = Record::Adopted {
                    topic: self.number,
                    channel: only,
                    transfer,
                    first_sequence,
                    sources: sources.into(),
                    states: states.as_slice().into(),
                };
                let ticket: Option<Ticket> = match self.engine.journal_for(self.name.is_ephemeral()) {
                    Some(journal) => Some(journal.append_batch(&[adopted, publish])?),
                    None => None,
                };
                self.count_published(count as u64, body_bytes as u64);
                before = self.adopting.adoptions.lock().replace(transfer, sources.to_vec());
                Ok::<_, StorageError>(ticket)
            },
            |range| {
                let due = |due_ns| clocks.to_future(due_ns, longest);
                Mark::of_adopted(range.from, only, states.iter().copied(), due)
            },
        )?;
        Ok((Publication::new(topic, stored, None), before))
    }
}

/// A change to all of these settings, except what concerns a drain.
fn change_to(settings: &Settings) -> Change {
    Change::to(settings.iter().filter(|(setting, _)| *setting != Setting::MovingTo))
}

/// Consecutive numbers as ranges.
fn runs(numbers: impl Iterator<Item = u64>) -> Vec<SequenceRange> {
    let mut runs: Vec<SequenceRange> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(last) if last.to == number => last.to += 1,
            _ => runs.push(SequenceRange::one(number)),
        }
    }
    runs
}

/// How messages stood, as ranges of equal ones.
fn states(messages: &[Incoming]) -> Vec<AdoptedState> {
    let mut states: Vec<AdoptedState> = Vec::new();
    for &Incoming { attempts, failures, due_ns, .. } in messages {
        let of = |state: &AdoptedState| (state.attempts, state.failures, state.due_ns);
        match states.last_mut() {
            Some(last) if of(last) == (attempts, failures, due_ns) => last.count += 1,
            _ => states.push(AdoptedState { count: 1, attempts, failures, due_ns }),
        }
    }
    states
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_neighbours_are_recorded_together() {
        let message = |source, attempts, due_ns| Incoming {
            source,
            attempts,
            failures: 0,
            due_ns,
            bytes: Bytes::new(),
        };
        let messages =
            [message(3, 0, None), message(4, 0, None), message(6, 2, None), message(7, 2, Some(9))];
        assert_eq!(
            runs(messages.iter().map(|message| message.source)),
            [SequenceRange::new(3, 5), SequenceRange::new(6, 8)]
        );
        let counts: Vec<_> =
            states(&messages).iter().map(|state| (state.count, state.attempts, state.due_ns)).collect();
        assert_eq!(counts, [(2, 0, None), (1, 2, None), (1, 2, Some(9))]);
    }
}
