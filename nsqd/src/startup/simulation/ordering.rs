//! Channels that are ordered by key, or limited: the steps, and what the model expects of them.

use std::collections::BTreeMap;

use nsq_protocol::MESSAGE_FRAME_OVERHEAD;
use nsq_protocol::headers::{Form, HeadersBuf, put_published};

use super::dead_letters::is_dead_topic;
use super::model::{Body, ChannelModel, MessageModel, NEXT_BODY};
use super::observe;
use super::world::{World, text};
use crate::policy::settings::{Change, DEFAULT, Level};
use crate::storage::Durability;
use crate::storage::block::BLOCK_HEADER_BYTES;

/// Values of the settings `order` and `fair`. A value of [`ChannelModel::order`] is an index.
const ORDERS: [[&str; 2]; 4] = [[DEFAULT, DEFAULT], ["key", DEFAULT], ["all", DEFAULT], [DEFAULT, "key"]];
/// The value of [`ChannelModel::order`] of a channel that is fair, and promises no order.
pub(super) const FAIR: u8 = 3;
/// At most this many messages in an instant, and then one in a while.
const RATE: &str = "1000/h";
const BURST: &str = "20";
const MOST_AT_ONCE: usize = 20;

impl World<'_> {
    pub(super) fn publish_keyed(&mut self, topic: u8, count: u8) -> Result<bool, String> {
        let Some(name) = self.pick_topic(topic) else { return Ok(false) };
        if is_dead_topic(&name) {
            return Ok(false);
        }
        let mut numbers = Vec::new();
        let mut messages = Vec::new();
        for _ in 0..count {
            let number = self.next_body();
            // A key of 1 to 3.
            let number = number + 1 + number / NEXT_BODY % (NEXT_BODY - 1);
            let key = (number % NEXT_BODY).to_string();
            let headers = HeadersBuf::of_producer([("nsq-key", key.as_str())]).map_err(text)?;
            let mut message = Vec::new();
            put_published(&mut message, headers.as_headers(), &observe::body(number, 20));
            let bytes = (message.len() + MESSAGE_FRAME_OVERHEAD + BLOCK_HEADER_BYTES) as u64;
            self.with_headers.insert(number);
            self.add_published(number, &name, bytes);
            messages.push(message);
            numbers.push(number);
        }
        let bytes = messages.iter().map(Vec::len).sum();
        let topic = self.topic(&name)?;
        let bodies = messages.iter().map(Vec::as_slice);
        let appended = topic.append_as(Form::WithHeaders, bodies, bytes, None).map_err(text);
        let Some(publication) = self.if_possible(appended)? else { return Ok(false) };
        let first = topic.log().end() - u64::from(count);
        let committed = self.runtime.block_on(publication.committed()).map_err(text);
        if self.if_possible(committed)?.is_none() {
            return Ok(false);
        }
        self.keyed_count += u64::from(count);
        let model = self.model_of(&name)?;
        model.publish(&numbers, first, None);
        Ok(self.contract.durability != Durability::Overflow && !name.ends_with("#ephemeral"))
    }

    pub(super) fn set_order(&mut self, channel: u8, order: u8) -> Result<bool, String> {
        let Some((name, channel, _)) = self.pick_channel(channel) else { return Ok(false) };
        let model = self.model_of(&name.0)?.channels.get_mut(&name.1).ok_or("no channel")?;
        // Otherwise a later message could block an earlier one that failed before.
        let is_unclear = |message: &MessageModel| message.in_flight.is_some() || message.due.is_some();
        let has_unclear = model.messages.values().any(is_unclear) || !model.dropped.is_empty();
        if model.may_drop || is_dead_topic(&name.0) || has_unclear || model.max_depth > 0 {
            return Ok(false);
        }
        model.order = order;
        let [order, fair] = ORDERS[usize::from(order)];
        let change =
            Change::parse(Level::Channel, [("order", order), ("fair", fair)].into_iter()).map_err(text)?;
        self.topic(&name.0)?.change_channel_settings(&channel, &change).map_err(text)?;
        Ok(false)
    }

    pub(super) fn set_limits(&mut self, channel: u8, limits: u8) -> Result<bool, String> {
        let Some((name, channel, _)) = self.pick_channel(channel) else { return Ok(false) };
        let model = self.model_of(&name.0)?.channels.get_mut(&name.1).ok_or("no channel")?;
        if model.may_drop || is_dead_topic(&name.0) {
            return Ok(false);
        }
        model.limits = limits;
        let most = limits.to_string();
        let pairs = match limits {
            0 => [("rate", DEFAULT), ("burst", DEFAULT), ("max_in_flight", DEFAULT)],
            _ => [("rate", RATE), ("burst", BURST), ("max_in_flight", most.as_str())],
        };
        let change = Change::parse(Level::Channel, pairs.into_iter()).map_err(text)?;
        self.topic(&name.0)?.change_channel_settings(&channel, &change).map_err(text)?;
        Ok(false)
    }
}

impl ChannelModel {
    /// What the channel orders a message by.
    fn order_key(&self, body: Body) -> Option<u64> {
        match self.order {
            0 | FAIR => None,
            1 => Some(body % NEXT_BODY).filter(|key| *key > 0),
            _ => Some(0),
        }
    }

    /// Whether the place of a message in the order is not clear.
    fn is_beside_order(&self, message: &MessageModel) -> bool {
        let was_published_deferred = message.due.is_some() && message.attempts_seen == 0;
        was_published_deferred
            || message.is_out_of_turn
            || message.is_redriven
            || message.may_be_gone
            || message.may_be_deferred
            || self.is_exhausted(message)
    }

    /// A message is handed out: no other one of its key may be in flight, and none that was published before may wait.
    pub(super) fn check_turn(&self, body: Body) -> Result<(), String> {
        let Some(key) = self.order_key(body) else { return Ok(()) };
        let is_of_key = |other: &&Body| **other != body && self.order_key(**other) == Some(key);
        if let Some(other) = self.dropped.keys().find(is_of_key) {
            return Err(format!("while {other} of the same key is in flight"));
        }
        let others = self.messages.iter().filter(|(other, _)| is_of_key(other));
        for (&other, message) in others {
            if message.in_flight.is_some() {
                return Err(format!("while {other} of the same key is in flight: {message:?}"));
            }
            // It comes again before the others of its key.
            let came_before = self.messages[&body].attempts_seen > 0;
            if other < body && !came_before && !self.is_beside_order(message) {
                return Err(format!("before {other} of the same key: {message:?}"));
            }
        }
        Ok(())
    }

    /// Messages that were read past are not delivered in the order of publishing.
    pub(super) fn note_held(&mut self) {
        if self.order == 0 {
            return;
        }
        let came = self.messages.iter().filter(|(_, message)| message.attempts_seen > 0);
        let Some(newest) = came.map(|(&body, _)| body).max() else { return };
        for (_, message) in self.messages.range_mut(..newest) {
            message.was_held |= message.attempts_seen == 0;
        }
    }

    /// `came` messages were handed out at once.
    pub(super) fn check_in_flight(&self, came: usize) -> Result<(), String> {
        let in_flight = self.messages.values().filter(|message| message.in_flight.is_some()).count();
        let in_flight = in_flight + self.dropped.len();
        if came > 0 && self.order == 2 && in_flight > 1 {
            return Err(format!("{in_flight} messages are in flight in an ordered channel"));
        }
        if came > 0 && self.limits > 0 && (in_flight > usize::from(self.limits) || came > MOST_AT_ONCE) {
            return Err(format!("{came} messages came, {in_flight} are in flight, limit {}", self.limits));
        }
        Ok(())
    }

    /// The messages that a start delivered, each after the one before it was finished.
    pub(super) fn in_key_order(&self, came: impl Iterator<Item = Body>) -> Result<(), String> {
        let mut last: BTreeMap<u64, Body> = BTreeMap::new();
        for body in came {
            let Some(key) = self.order_key(body) else { continue };
            let is_beside =
                |message: &MessageModel| message.was_published_deferred || self.is_beside_order(message);
            if self.messages.get(&body).is_none_or(is_beside) {
                continue;
            }
            if let Some(before) = last.insert(key, body).filter(|before| *before > body) {
                return Err(format!("{body} came after {before} of the same key"));
            }
        }
        Ok(())
    }
}

#[test]
fn workloads_publish_keyed_messages_to_ordered_channels() {
    use super::explore::runtime;
    use super::steps::steps;
    use super::world::{Contract, Crash, Lost};

    let contract = Contract { durability: Durability::Write, crash: Crash::Kill, lost: Lost::Nothing };
    let (runtime, mut keyed_count, mut held_count) = (runtime(), 0, 0);
    for seed in 1..=300 {
        let mut world = World::new(contract, seed, &runtime).unwrap();
        world.run(&steps(seed)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        keyed_count += world.keyed_count;
        let channels = world.model().topics.values().flat_map(|topic| topic.channels.values());
        held_count +=
            channels.flat_map(|channel| channel.messages.values()).filter(|message| message.was_held).count();
    }
    assert!(keyed_count > 500 && held_count > 5, "{keyed_count} keyed, {held_count} held");
}
