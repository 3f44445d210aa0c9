//! Retention: what topics retain of finished messages, and channels that start in the past or are moved. Contains the
//! steps and their effect on the model.

use nsq_protocol::{ChannelName, StartAt};

use super::dead_letters::{dead_topic, is_dead_topic, may_hold};
use super::model::{Body, ChannelModel, Due, Lost, MessageModel, PublishedModel, TopicModel};
use super::world::{DURABLE_CHANNELS, World, text};
use crate::log::retention::Retention;
use crate::storage::Durability;
use crate::topic::retention::RetentionError;
use crate::upkeep::segments;

/// Retention settings for a topic: the flags' (nothing), everything (no run takes an hour), or a few files.
const RETENTIONS: [Option<Retention>; 4] =
    [None, Some(EVERYTHING), Some(EVERYTHING), Some(Retention { age: 0, bytes: 6000 })];
const EVERYTHING: Retention = Retention { age: 3_600_000_000_000, bytes: 0 };

impl World<'_> {
    /// Waits for the response to an operator, which is sent when the journal has been written. Without `acknowledged`,
    /// the change may not be durable yet.
    fn acknowledge(&self, acknowledged: bool) -> Result<bool, String> {
        if !acknowledged {
            return Ok(false);
        }
        Ok(self.if_possible(self.flush())?.unwrap_or(false))
    }

    pub(super) fn set_retention(
        &mut self,
        topic: u8,
        limits: u8,
        acknowledged: bool,
    ) -> Result<bool, String> {
        let Some(name) = self.pick_topic(topic) else { return Ok(false) };
        let own = RETENTIONS[usize::from(limits) % RETENTIONS.len()];
        let model = self.model_of(&name)?;
        // Nor does the model follow short-lived messages that a later channel may get.
        let is_unclear = (model.has_rescheduled || model.has_short_lived) && model.retention.is_off();
        if model.is_ephemeral || is_dead_topic(&name) || is_unclear {
            return Ok(false);
        }
        self.topic(&name)?.set_retention(own).map_err(text)?;
        self.model_of(&name)?.set_retention(own.unwrap_or_default());
        self.acknowledge(acknowledged)
    }

    /// Drops retained messages, as the daemon does regularly.
    pub(super) fn retain(&mut self) -> Result<bool, String> {
        self.if_possible(segments::retain(self.registry()?))?;
        for name in self.model().topics.keys().cloned().collect::<Vec<_>>() {
            let from = self.topic(&name)?.log().retained_from();
            self.model_of(&name)?.retain_from(from);
        }
        Ok(false)
    }

    /// A place at this share of all published messages, or at an end.
    fn place(&mut self, topic: &str, share: u8) -> Result<StartAt, String> {
        let published = &self.model_of(topic)?.published;
        let index = published.len() * usize::from(share) / 240;
        let sequence = published.values().nth(index).map(|message| message.sequence);
        Ok(match share {
            0..10 => StartAt::Earliest,
            _ => sequence.map_or(StartAt::Latest, StartAt::Sequence),
        })
    }

    pub(super) fn move_channel(
        &mut self,
        channel: u8,
        share: u8,
        acknowledged: bool,
    ) -> Result<bool, String> {
        let Some((name, channel, _)) = self.pick_channel(channel) else { return Ok(false) };
        let has_dead = self.model.topics.contains_key(&dead_topic(&name.0, &name.1));
        let model = self.model_of(&name.0)?.channels.get(&name.1);
        if is_dead_topic(&name.0)
            || has_dead
            || model.is_none_or(|channel| channel.may_drop || channel.has_removed)
        {
            return Ok(false);
        }
        let (topic, place) = (self.topic(&name.0)?, self.place(&name.0, share)?);
        let sequence = sequence_of(place);
        let (before, end) = channel.inspect(|state, _| (state.cursor(), state.end()));
        let oldest = topic.log().oldest_retained();
        let moved = self.runtime.block_on(topic.move_channel(&channel, place));
        let model = self.model_of(&name.0)?;
        let is_forward = sequence > before || sequence >= end;
        if !is_forward && sequence < before && model.retention.is_off() {
            return match moved {
                Err(RetentionError::NothingRetained) => Ok(false),
                other => Err(format!("moved back although nothing is retained: {other:?}")),
            };
        }
        let placed = moved.map_err(text)?.0.sequence;
        let expected = if is_forward { sequence.min(end) } else { sequence.max(oldest.min(before)) };
        if placed != expected {
            return Err(format!("{name:?} was moved to {placed} instead of {expected}"));
        }
        if is_forward {
            model.move_forward(&name.1, placed)?;
        } else {
            model.check_nothing_retained_between(sequence, placed)?;
            model.move_back(&name.1, placed)?;
        }
        self.acknowledge(acknowledged)
    }

    pub(super) fn create_channel_at(&mut self, topic: u8, name: u8, share: u8) -> Result<bool, String> {
        let Some(topic_name) = self.pick_topic(topic) else { return Ok(false) };
        let name = DURABLE_CHANNELS[usize::from(name) % DURABLE_CHANNELS.len()];
        let name = ChannelName::new(name).map_err(text)?;
        let is_or_has_dead =
            is_dead_topic(&topic_name) || self.model.topics.keys().any(|of| may_hold(of, &topic_name));
        if is_or_has_dead
            || self.model_of(&topic_name)?.is_ephemeral
            || self.model_of(&topic_name)?.channels.contains_key(name.as_str())
        {
            return Ok(false);
        }
        let (topic, place) = (self.topic(&topic_name)?, self.place(&topic_name, share)?);
        let oldest = topic.log().oldest_retained();
        let created = self.runtime.block_on(topic.get_or_create_channel_at(&name, place)).map_err(text);
        let Some(channel) = self.if_possible(created)? else { return Ok(false) };
        self.subscribe(&topic, channel)?;
        let model = self.model_of(&topic_name)?;
        let mut channel = ChannelModel::default();
        if !model.retention.is_off() {
            let from = sequence_of(place).max(oldest);
            model.check_nothing_retained_between(sequence_of(place), from)?;
            channel = model.channel_from(from);
        }
        model.channels.insert(name.to_string(), channel);
        model.release();
        Ok(self.contract.durability != Durability::Overflow)
    }
}

fn sequence_of(place: StartAt) -> u64 {
    match place {
        StartAt::Sequence(sequence) => sequence,
        StartAt::Latest => u64::MAX,
        _ => 0,
    }
}

impl TopicModel {
    fn set_retention(&mut self, retention: Retention) {
        let was_off = std::mem::replace(&mut self.retention, retention).is_off();
        if retention.is_off() {
            self.published.values_mut().for_each(|message| message.retained = false);
        } else if was_off {
            let (held, channels) = (&self.held, &self.channels);
            for (body, message) in &mut self.published {
                // Some of the other messages may still be there.
                let of_channels = || {
                    let all = channels.values().filter_map(|channel| channel.messages.get(body));
                    all.filter(|message| !message.is_redriven)
                };
                message.retained =
                    held.contains_key(body) || of_channels().any(|message| !message.may_be_gone);
                let is_deferred = held.contains_key(body)
                    || of_channels().any(|message| message.attempts_seen == 0 && message.is_deferred());
                if let Some(due) = &mut message.due
                    && !is_deferred
                {
                    due.passed = true;
                }
            }
        }
    }

    /// Drops messages before `from`, except needed ones.
    fn retain_from(&mut self, from: u64) {
        // Without a size limit, nothing is dropped.
        if self.retention.bytes > 0 {
            let gone = self.published.values_mut().filter(|message| message.sequence < from);
            gone.for_each(|message| message.retained = false);
        }
    }

    fn check_nothing_retained_between(&self, from: u64, to: u64) -> Result<(), String> {
        let is_between = |message: &PublishedModel| (from..to).contains(&message.sequence);
        let mut retained =
            self.published.iter().filter(|(_, message)| message.retained && is_between(message));
        match retained.next() {
            Some((body, _)) => Err(format!("message {body} is retained but is before the place {to}")),
            None => Ok(()),
        }
    }

    /// A new channel that starts at `from`, without messages held back for it.
    fn channel_from(&self, from: u64) -> ChannelModel {
        let messages = self.released_from(from).map(|(body, message)| (body, message.handed_out_again()));
        let mut channel = ChannelModel { messages: messages.collect(), ..ChannelModel::default() };
        channel.message_count = channel.messages.len() as u64;
        channel.uncertain_count = channel.may_be_gone_count();
        channel
    }

    fn released_from(&self, from: u64) -> impl Iterator<Item = (Body, PublishedModel)> + '_ {
        let published = self.published.iter().map(|(&body, &message)| (body, message));
        published.filter(move |(body, message)| message.sequence >= from && !self.held.contains_key(body))
    }

    fn move_forward(&mut self, channel: &str, to: u64) -> Result<(), String> {
        let is_retaining = !self.retention.is_off();
        let channel = self.channels.get_mut(channel).ok_or("no channel")?;
        let published = &self.published;
        let is_before = |body: &Body| published.get(body).is_none_or(|message| message.sequence < to);
        let passed: Vec<_> = channel.messages.extract_if(.., |body, _| is_before(body)).collect();
        for (body, message) in &passed {
            channel.dropped.extend(message.in_flight.map(|sequence| (*body, sequence)));
        }
        if is_retaining {
            channel.note_loss(passed.into_iter());
        }
        Ok(())
    }

    fn move_back(&mut self, name: &str, to: u64) -> Result<(), String> {
        let again: Vec<(Body, PublishedModel)> = self.released_from(to).collect();
        let channel = self.channels.get_mut(name).ok_or("no channel")?;
        channel.lost = Lost::Nothing;
        if let Some((first, _)) = again.first() {
            channel.last_first = channel.last_first.min(first - 1);
        }
        for (body, message) in again {
            let fresh = message.handed_out_again();
            let known = channel.messages.get(&body).copied();
            let may_be_gone = fresh.may_be_gone && known.is_none_or(|known| known.may_be_gone);
            let in_flight = channel.dropped.remove(&body).or(known.and_then(|known| known.in_flight));
            let again = match known {
                _ if in_flight.is_some() => {
                    let due = message.due.map(Due::or_passed);
                    MessageModel { in_flight, is_recalled: true, is_out_of_turn: true, due, ..fresh }
                }
                Some(known) if known.attempts_seen == 0 && known.is_deferred() => known,
                Some(known) if known.is_run_now() => MessageModel { is_out_of_turn: true, ..fresh },
                // If a restart has lost the hand-out, the message may still be deferred as before.
                Some(MessageModel { attempts_kept: 0, due: Some(due), .. }) => {
                    MessageModel { due: Some(due.or_passed()), is_out_of_turn: true, ..fresh }
                }
                _ => fresh,
            };
            channel.messages.insert(body, MessageModel { may_be_gone, ..again });
        }
        Ok(())
    }
}

impl PublishedModel {
    /// The message as delivered to a channel that is new or was moved back over it.
    pub(super) fn handed_out_again(self) -> MessageModel {
        MessageModel { due: self.due, may_be_gone: !self.retained, ..MessageModel::default() }
    }
}
