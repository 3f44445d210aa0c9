//! Bounded channels: the step and its effect on the model.
//!
//! Which messages a channel removes depends on the order in which others came back, and a start knows little about that. So
//! the model looks up which ones are gone, and checks how many and that each could go. After a crash, a start may remove
//! others.

use std::collections::BTreeMap;

use super::dead_letters::{TEMPLATE, is_dead_topic};
use super::model::{Body, ChannelModel, MessageModel};
use super::world::{World, text};
use crate::policy::dead_letter::Reason;
use crate::policy::settings::{Change, DEFAULT, Level};

/// Maximum depth, and whether the messages beyond it become dead letters.
const BOUNDS: [(u64, bool); 5] = [(0, false), (4, false), (12, false), (4, true), (12, true)];

impl World<'_> {
    pub(super) fn set_bound(&mut self, channel: u8, bound: u8) -> Result<bool, String> {
        let Some((name, channel, _)) = self.pick_channel(channel) else { return Ok(false) };
        let (max_depth, keeps) = BOUNDS[usize::from(bound) % BOUNDS.len()];
        let model = self.model_of(&name.0)?.channels.get_mut(&name.1).ok_or("no channel")?;
        let is_unclear = |message: &MessageModel| {
            message.is_redriven || message.may_be_gone || message.is_recalled || message.is_set_aside
        };
        let is_filtered = model.filter == Some(false);
        let is_ordered = model.order > 0;
        if model.may_drop
            || is_ordered
            || is_dead_topic(&name.0)
            || is_filtered
            || model.messages.values().any(is_unclear)
        {
            return Ok(false);
        }
        (model.max_depth, model.keeps_overflow) = (max_depth, keeps);
        model.keeps_expired |= keeps;
        // It is not moved from now on.
        model.has_removed |= max_depth > 0;
        let depth = if max_depth > 0 { max_depth.to_string() } else { DEFAULT.to_owned() };
        let overflow = match (max_depth, keeps) {
            (0, _) => DEFAULT,
            (_, true) => "dead_letter",
            (_, false) => "drop_oldest",
        };
        let pairs = [("max_depth", depth.as_str()), ("overflow", overflow), ("dead_letter", TEMPLATE)];
        let pairs = pairs.into_iter().take(if keeps { 3 } else { 2 });
        let change = Change::parse(Level::Channel, pairs).map_err(text)?;
        // The journal may have the settings without what follows from them.
        self.remember(usize::MAX);
        self.topic(&name.0)?.change_channel_settings(&channel, &change).map_err(text)?;
        Ok(false)
    }

    /// Takes over what bounded channels removed or set aside, and checks it. Returns whether any were removed.
    pub(super) fn observe_overflow(&mut self) -> Result<bool, String> {
        let mut has_dropped = false;
        for name in self.bounded_channels() {
            let Some(channel) = self.topic(&name.0)?.channel(&name.1) else { continue };
            let (held, end, needed, set_aside) = channel.inspect(|state, _| {
                let all = state.exhausted(usize::MAX).into_iter();
                let set_aside: Vec<u64> =
                    all.filter(|sequence| state.reason_of(*sequence) == Some(Reason::Overflow)).collect();
                (state.held_count(), state.end(), state.needed(0, state.end(), usize::MAX), set_aside)
            });
            let is_needed =
                |sequence: u64| sequence >= end || needed.iter().any(|range| range.contains(sequence));
            let topic = self.model.topics.get_mut(&name.0).ok_or("no topic")?;
            let sequences: BTreeMap<Body, u64> =
                topic.published.iter().map(|(&body, message)| (body, message.sequence)).collect();
            let model = topic.channels.get_mut(&name.1).ok_or("no channel")?;
            let gone = model.messages.iter().filter(|(body, message)| {
                let sequence = sequences.get(body).filter(|_| !message.is_redriven);
                sequence.is_some_and(|sequence| !is_needed(*sequence))
            });
            let gone: Vec<(Body, bool)> =
                gone.map(|(&body, message)| (body, message.may_be_ready() || message.may_be_gone)).collect();
            if let Some((body, _)) = gone.iter().find(|(_, could_go)| !could_go || !model.drops()) {
                return Err(format!("{name:?} lost message {body}"));
            }
            model.messages.retain(|body, _| !gone.iter().any(|(gone, _)| gone == body));
            for (body, message) in &mut model.messages {
                if sequences.get(body).is_some_and(|sequence| set_aside.binary_search(sequence).is_ok()) {
                    message.is_set_aside = true;
                }
            }
            let ready = model.messages.iter();
            let ready = ready.filter(|(_, message)| {
                message.in_flight.is_none() && message.due.is_none() && !model.is_exhausted(message)
            });
            let ready: Vec<Body> = ready.map(|(&body, _)| body).collect();
            if model.max_depth > 0 && held > model.max_depth && !ready.is_empty() {
                return Err(format!(
                    "{name:?} holds {held} messages instead of {}: {ready:?}",
                    model.max_depth
                ));
            }
            if !gone.is_empty() && held < model.max_depth {
                return Err(format!("{name:?} holds only {held} messages, but removed {gone:?}"));
            }
            has_dropped |= !gone.is_empty();
            self.overflow_count += (gone.len() + set_aside.len()) as u64;
        }
        Ok(has_dropped)
    }

    fn bounded_channels(&self) -> Vec<(String, String)> {
        let is_bounded = |channel: &ChannelModel| channel.max_depth > 0 || channel.keeps_overflow;
        let all = self.model.topics.iter().flat_map(|(topic, model)| {
            let bounded = model.channels.iter().filter(|(_, channel)| is_bounded(channel));
            bounded.map(|(name, _)| (topic.clone(), name.clone()))
        });
        all.collect()
    }
}

impl ChannelModel {
    /// Whether it drops messages beyond its bound.
    pub(super) fn drops(&self) -> bool {
        self.max_depth > 0 && !self.keeps_overflow
    }
}

impl MessageModel {
    fn may_be_ready(&self) -> bool {
        self.in_flight.is_none() && !self.is_deferred()
    }
}
