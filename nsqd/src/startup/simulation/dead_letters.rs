//! Dead letters and redrives: the steps and their effect on the model.
//!
//! Each channel has a dead-letter topic of its own, and a channel whose messages died is not moved back. So a body is in a
//! topic once, and the model can tell messages apart by it.

use std::sync::Arc;

use super::model::{Body, ChannelModel, MessageModel, TopicModel};
use super::world::{DURABLE_CHANNELS, World, text};
use crate::channel::Channel;
use crate::policy::settings::{Change, DEFAULT, Level};
use crate::storage::Durability;
use crate::topic::dead_lettering::REDRIVE_CHANNEL;
use crate::topic::redrive::RedriveOptions;

pub(super) const TEMPLATE: &str = "{topic}.{channel}.dead";
const SUFFIX: &str = ".dead";
/// More than the headers of a dead letter, in bytes.
pub(super) const HEADERS_BYTES: u64 = 400;

/// The dead-letter topic of a channel.
pub(super) fn dead_topic(topic: &str, channel: &str) -> String {
    format!("{topic}.{channel}{SUFFIX}")
}

pub(super) fn is_dead_topic(topic: &str) -> bool {
    topic.ends_with(SUFFIX)
}

/// Whether messages published to `topic` may be found in `name`.
pub(super) fn may_hold(name: &str, topic: &str) -> bool {
    DURABLE_CHANNELS.iter().any(|channel| name == dead_topic(topic, channel))
}

impl World<'_> {
    pub(super) fn set_max_attempts(&mut self, channel: u8, max_attempts: u16) -> Result<bool, String> {
        let Some((name, channel, _)) = self.pick_channel(channel) else { return Ok(false) };
        let model = self.model_of(&name.0)?.channels.get_mut(&name.1).ok_or("no channel")?;
        // What expires when it comes back would become a dead letter, which the model does not follow.
        let is_unclear = model.messages.values().any(|message| message.may_be_gone);
        if model.may_drop || is_dead_topic(&name.0) || is_unclear {
            return Ok(false);
        }
        model.max_attempts = max_attempts;
        model.keeps_expired = true;
        // What is used up now is no longer deferred.
        for body in model.exhausted() {
            model.messages.entry(body).and_modify(|message| message.due = None);
        }
        let value = if max_attempts > 0 { max_attempts.to_string() } else { DEFAULT.to_owned() };
        let pairs = [("max_attempts", value.as_str()), ("dead_letter", TEMPLATE)];
        let change = Change::parse(Level::Channel, pairs.into_iter()).map_err(text)?;
        self.topic(&name.0)?.change_channel_settings(&channel, &change).map_err(text)?;
        Ok(false)
    }

    pub(super) fn reject(&mut self, pick: u8) -> Result<bool, String> {
        let Some((name, channel, key)) = self.pick_channel(pick) else { return Ok(false) };
        let Some((body, sequence)) = self.in_flight(&name)?.into_iter().next() else { return Ok(false) };
        let model = self.model.channel(&name).ok_or("no channel")?;
        // Otherwise the dead letters of several channels would be in one topic.
        if !model.keeps_expired {
            return Ok(false);
        }
        channel
            .acknowledge(key)
            .reject(sequence, "rejected")
            .map_err(|error| format!("cannot reject {body}: {error:?}"))?;
        if model.dropped.remove(&body).is_some() {
            return Ok(false);
        }
        let message = model.messages.get_mut(&body).ok_or("no message")?;
        message.is_set_aside = !message.is_recalled;
        message.come_back();
        self.rejected_count += 1;
        Ok(false)
    }

    /// Moves the messages that are set aside, as the daemon does in the background.
    pub(super) fn dead_letter(&mut self) -> Result<(), String> {
        let exhausted = self.registry()?.engine().exhausted.clone();
        let channels: Vec<Arc<Channel>> = std::iter::from_fn(|| exhausted.pop()).collect();
        for channel in channels {
            let (topic, name) = (channel.topic_name().to_string(), channel.name().to_string());
            let dead = dead_topic(&topic, &name);
            let model = self.model_of(&topic)?.channels.get(&name);
            let bodies: Vec<Body> = model.map(ChannelModel::exhausted).unwrap_or_default();
            self.remember(usize::MAX);
            exhausted.push_again(channel);
            let registry = self.registry()?.clone();
            let failed = self.runtime.block_on(registry.dead_letter_all());
            if let Some((_, error)) = failed {
                // The daemon tries again later.
                self.if_possible::<()>(Err(error))?;
                continue;
            }
            if bodies.is_empty() {
                // All were finished, or the limit is off again.
                continue;
            }
            let sequence = self.topic(&dead)?.log().end() - bodies.len() as u64;
            if !self.model.topics.contains_key(&dead) {
                self.model.topics.insert(dead.clone(), TopicModel::default());
                self.remember(usize::MAX);
            }
            if !self.model_of(&dead)?.channels.contains_key(REDRIVE_CHANNEL) {
                let topic = self.topic(&dead)?;
                let channel = topic.channel(REDRIVE_CHANNEL).ok_or("no channel for redrives")?;
                self.subscribe(&topic, channel)?;
                let model = self.model_of(&dead)?;
                model.channels.insert(REDRIVE_CHANNEL.to_owned(), ChannelModel::default());
                model.release();
                self.remember(usize::MAX);
            }
            let source = self.model_of(&topic)?.channels.get_mut(&name).ok_or("no channel")?;
            source.messages.retain(|body, _| !bodies.contains(body));
            source.has_removed = true;
            self.moved.0 += bodies.len() as u64;
            self.model_of(&dead)?.publish_out_of_turn(&bodies, sequence);
            let is_durable = self.contract.durability != Durability::Overflow;
            let durable = if is_durable { self.change_count() } else { usize::MAX };
            self.remember(durable);
        }
        Ok(())
    }

    /// Moves all dead letters of a topic back.
    pub(super) fn redrive(&mut self, topic: u8) -> Result<bool, String> {
        let dead: Vec<String> =
            self.model.topics.keys().filter(|name| is_dead_topic(name)).cloned().collect();
        let Some(dead) = dead.get(usize::from(topic) % dead.len().max(1)).cloned() else { return Ok(false) };
        let source = (self.model.topics.iter())
            .flat_map(|(topic, model)| {
                model.channels.keys().map(move |channel| (topic, channel, model.paused))
            })
            .find(|(topic, channel, _)| dead_topic(topic, channel) == dead)
            .map(|(topic, channel, paused)| (topic.clone(), channel.clone(), paused));
        let is_paused = source.as_ref().is_some_and(|(.., paused)| *paused);
        // The messages could exceed the bound again.
        let target =
            source.as_ref().and_then(|(topic, name, _)| self.model.topics.get(topic)?.channels.get(name));
        let is_bounded = target.is_some_and(|channel| channel.max_depth > 0);
        if is_paused || is_bounded || !self.model_of(&dead)?.channels.contains_key(REDRIVE_CHANNEL) {
            return Ok(false);
        }
        let name = nsq_protocol::TopicName::new(dead.as_str()).map_err(text)?;
        let registry = self.registry()?.clone();
        let ran = self.runtime.block_on(registry.redrive_now(&name, RedriveOptions::default()));
        let Some(moved) = self.if_possible(ran)? else { return Ok(false) };
        let Some((topic, channel, _)) = source else {
            return if moved == 0 { Ok(false) } else { Err(format!("{moved} messages were moved nowhere")) };
        };
        let letters = self.model_of(&dead)?.channels.get(REDRIVE_CHANNEL).ok_or("no channel")?;
        let can_move =
            letters.messages.iter().filter(|(_, message)| message.in_flight.is_none() && message.is_dead);
        let gone: Vec<Body> = can_move.map(|(&body, _)| body).collect();
        if moved != gone.len() as u64 {
            return Err(format!("{moved} messages were moved instead of {gone:?}"));
        }
        // Messages with headers and those without are in batches of their own.
        let (with_headers, plain): (Vec<Body>, Vec<Body>) =
            gone.iter().partition(|body| self.with_headers.contains(body));
        if !with_headers.is_empty() && !plain.is_empty() {
            for part in [with_headers, plain] {
                let before = self.model.clone();
                self.move_back_in_model(&dead, &topic, &channel, &part)?;
                self.remember(usize::MAX);
                self.model = before;
            }
        }
        self.moved.1 += moved;
        self.move_back_in_model(&dead, &topic, &channel, &gone)?;
        Ok(self.contract.durability != Durability::Overflow && moved > 0)
    }

    fn move_back_in_model(
        &mut self,
        dead: &str,
        topic: &str,
        channel: &str,
        bodies: &[Body],
    ) -> Result<(), String> {
        let letters = self.model_of(dead)?.channels.get_mut(REDRIVE_CHANNEL).ok_or("no channel")?;
        letters.messages.retain(|body, _| !bodies.contains(body));
        let moved = bodies.len() as u64;
        let model = self.model_of(topic)?;
        model.message_count += moved;
        let channel = model.channels.get_mut(channel).ok_or("no channel")?;
        channel.message_count += moved;
        let again = MessageModel { is_out_of_turn: true, is_redriven: true, ..MessageModel::default() };
        channel.messages.extend(bodies.iter().map(|&body| (body, again)));
        Ok(())
    }
}

impl TopicModel {
    /// Publishes dead letters: their bodies are not in the order of publishing.
    fn publish_out_of_turn(&mut self, bodies: &[Body], first: u64) {
        self.publish(bodies, first, None);
        let all = self.channels.values_mut().map(|channel| &mut channel.messages).chain([&mut self.held]);
        for messages in all {
            for body in bodies {
                if let Some(message) = messages.get_mut(body) {
                    message.is_out_of_turn = true;
                    message.is_dead = true;
                }
            }
        }
    }
}

impl ChannelModel {
    /// Messages whose attempts are used up.
    pub(super) fn exhausted(&self) -> Vec<Body> {
        let all = self.messages.iter().filter(|(_, message)| self.is_exhausted(message));
        all.map(|(&body, _)| body).collect()
    }

    pub(super) fn is_exhausted(&self, message: &MessageModel) -> bool {
        let is_used_up = self.max_attempts > 0 && message.failures >= self.max_attempts;
        (is_used_up || message.is_set_aside) && message.in_flight.is_none()
    }

    /// A delivery of this message failed. Returns whether its attempts are used up.
    pub(super) fn fail(&mut self, body: Body) -> bool {
        let max_attempts = self.max_attempts;
        let Some(message) = self.messages.get_mut(&body).filter(|_| max_attempts > 0) else { return false };
        message.failures += 1;
        message.attempts_kept = message.attempts_seen;
        message.failures >= max_attempts
    }
}

#[test]
fn workloads_drop_messages_and_move_them_to_dead_letter_topics_and_back() {
    use super::explore::runtime;
    use super::steps::steps;
    use super::world::{Contract, Crash, Lost};

    let contract = Contract { durability: Durability::Write, crash: Crash::Kill, lost: Lost::Nothing };
    let (runtime, mut moved, mut expired_count, mut overflow_count) = (runtime(), (0, 0), 0, 0);
    let (mut rejected_count, mut short_lived_count, mut filtered_count) = (0, 0, 0);
    let mut undone_count = 0;
    for seed in 1..=200 {
        let mut world = World::new(contract, seed, &runtime).unwrap();
        world.run(&steps(seed)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        moved = (moved.0 + world.moved.0, moved.1 + world.moved.1);
        expired_count += world.expired_count;
        overflow_count += world.overflow_count;
        rejected_count += world.rejected_count;
        short_lived_count += world.short_lived_count;
        filtered_count += world.filtered_count;
        undone_count += world.undone_count;
    }
    // Otherwise the simulation shows nothing about them.
    assert!(moved.0 > 300 && moved.1 > 50, "{moved:?}");
    assert!(expired_count > 30 && overflow_count > 300, "{expired_count}, {overflow_count}");
    let counts = (rejected_count, short_lived_count, filtered_count);
    assert!(rejected_count > 30 && short_lived_count > 50 && filtered_count > 100, "{counts:?}");
    assert!(undone_count > 20, "{undone_count}");
}
