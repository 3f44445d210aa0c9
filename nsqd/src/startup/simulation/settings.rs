//! Settings of topics and channels: the steps and their effect on the model.

use std::collections::BTreeSet;
use std::time::Duration;

use super::dead_letters::is_dead_topic;
use super::model::{Body, ChannelModel, Due, MessageModel};
use super::world::{World, text};
use crate::clock;
use crate::policy::settings::{Change, DEFAULT, Level};

/// How long the retry schedule of [`World::set_retry`] holds failed messages back.
pub(super) const RETRY_DELAY: Duration = Duration::from_secs(600);
const SCHEDULE: &str = "list 10m";
/// Longer than a test runs.
const TTL: &str = "1000s";
/// More than [`TTL`] after every due time.
const EXPIRED_AFTER: Duration = Duration::from_secs(10_000);
/// The step `Advance` advances time by this much: longer than any delay.
pub(super) const ADVANCE: Duration = Duration::from_secs(4000);
/// A start shortens longer delays: `--max-req-timeout`.
const LONGEST_DELAY: Duration = Duration::from_secs(3600);

impl World<'_> {
    pub(super) fn set_owner(&mut self, topic: u8, owner: Option<u8>) -> Result<bool, String> {
        let Some(name) = self.pick_topic(topic) else { return Ok(false) };
        let value = owner.map_or_else(|| DEFAULT.to_owned(), |owner| owner.to_string());
        let change = Change::parse(Level::Topic, [("owner", value.as_str())].into_iter()).map_err(text)?;
        self.topic(&name)?.change_settings(&change).map_err(text)?;
        self.model_of(&name)?.owner = owner;
        Ok(false)
    }

    pub(super) fn set_ttl(&mut self, channel: u8, on: bool) -> Result<bool, String> {
        let Some((name, channel, _)) = self.pick_channel(channel) else { return Ok(false) };
        let model = self.model_of(&name.0)?.channels.get_mut(&name.1).ok_or("no channel")?;
        if model.may_drop {
            return Ok(false);
        }
        model.ttl = on;
        let value = if on { TTL } else { DEFAULT };
        let change = Change::parse(Level::Channel, [("ttl", value)].into_iter()).map_err(text)?;
        self.topic(&name.0)?.change_channel_settings(&channel, &change).map_err(text)?;
        Ok(false)
    }

    pub(super) fn set_filter(&mut self, channel: u8, filter: Option<bool>) -> Result<bool, String> {
        let Some((name, channel, _)) = self.pick_channel(channel) else { return Ok(false) };
        let model = self.model_of(&name.0)?.channels.get_mut(&name.1).ok_or("no channel")?;
        // What a filter finishes would be missing in a bounded channel.
        if model.may_drop || is_dead_topic(&name.0) || model.max_depth > 0 {
            return Ok(false);
        }
        model.filter = filter;
        // No message of a workload has this header.
        let value = match filter {
            Some(true) => "none!=x",
            Some(false) => "none=x",
            None => DEFAULT,
        };
        let change = Change::parse(Level::Channel, [("filter", value)].into_iter()).map_err(text)?;
        self.topic(&name.0)?.change_channel_settings(&channel, &change).map_err(text)?;
        Ok(false)
    }

    /// What upkeep does when everything published so far is too old.
    pub(super) fn expire_old(&mut self, topic: u8) -> Result<bool, String> {
        let Some(name) = self.pick_topic(topic) else { return Ok(false) };
        let model = self.model_of(&name)?;
        // These expire when they come back, or may be due or not, which the model does not follow.
        let comes_back = |message: &MessageModel| {
            message.in_flight.is_some()
                || (message.attempts_seen > 0 && message.is_deferred())
                || message.due.is_some_and(|due| due.passed)
        };
        let is_unclear = |channel: &ChannelModel| {
            let may_be_deferred = |message: &MessageModel| message.may_be_deferred;
            (channel.ttl && channel.messages.values().any(may_be_deferred))
                || (channel.ttl && channel.keeps_expired && channel.messages.values().any(comes_back))
        };
        if model.channels.values().any(is_unclear) {
            return Ok(false);
        }
        let mut expired_count = 0;
        for channel in model.channels.values_mut().filter(|channel| channel.ttl) {
            channel.has_removed = true;
            channel.messages.retain(|_, message| {
                message.may_be_gone |= comes_back(message);
                let is_expired = !comes_back(message) && !message.is_deferred();
                message.is_set_aside |= is_expired && channel.keeps_expired;
                expired_count += u64::from(is_expired && !channel.keeps_expired);
                !is_expired || channel.keeps_expired
            });
        }
        self.expired_count += expired_count;
        let later = clock::nanos(EXPIRED_AFTER);
        let (now, wall_ns) = (clock::monotonic() + later, clock::wall_ns().saturating_add_unsigned(later));
        self.topic(&name)?.expire(now, wall_ns);
        Ok(false)
    }

    pub(super) fn set_retry(&mut self, channel: u8, on: bool) -> Result<bool, String> {
        let Some((name, channel, _)) = self.pick_channel(channel) else { return Ok(false) };
        let model = self.model_of(&name.0)?.channels.get_mut(&name.1).ok_or("no channel")?;
        if model.may_drop {
            return Ok(false);
        }
        model.retry = on;
        let value = if on { SCHEDULE } else { DEFAULT };
        let change = Change::parse(Level::Channel, [("retry", value)].into_iter()).map_err(text)?;
        self.topic(&name.0)?.change_channel_settings(&channel, &change).map_err(text)?;
        Ok(false)
    }
}

impl ChannelModel {
    /// A consumer took while no message matched. With `all`, its turn came for all that can be delivered. Returns how many
    /// were finished.
    pub(super) fn finish_filtered(&mut self, all: bool) -> u64 {
        let (before, exhausted) = (self.messages.len(), self.exhausted());
        self.messages.retain(|body, message| {
            let is_held_back = message.is_deferred() || exhausted.contains(body);
            let stays = message.in_flight.is_some() || is_held_back;
            message.may_be_gone |= !stays;
            stays || message.may_be_deferred || !all
        });
        (before - self.messages.len()) as u64
    }

    /// All messages in flight time out.
    pub(super) fn time_out(&mut self) {
        let is_in_flight = |message: &MessageModel| message.in_flight.is_some() && !message.is_recalled;
        let in_flight = self.messages.iter().filter(|(_, message)| is_in_flight(message));
        let in_flight: Vec<Body> = in_flight.map(|(&body, _)| body).collect();
        let exhausted: BTreeSet<Body> = in_flight.into_iter().filter(|&body| self.fail(body)).collect();
        if self.retry {
            let now_ns = clock::wall_ns();
            for (body, message) in &mut self.messages {
                if is_in_flight(message) && !exhausted.contains(body) {
                    message.attempts_kept = message.attempts_seen;
                    let after = |delay: Duration| now_ns.saturating_add_unsigned(clock::nanos(delay));
                    let (from_ns, to_ns) = (after(LONGEST_DELAY), after(ADVANCE + RETRY_DELAY));
                    message.due = Some(Due { from_ns, to_ns, passed: false });
                }
            }
        }
        self.come_back();
    }
}
