//! Changing settings of a topic and its channels: in memory, in the journal, and in what follows from them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::retention::RetentionError;
use super::{State, Topic};
use crate::blocking;
use crate::channel::Channel;
use crate::clock::{self, Nanos};
use crate::log::retention::Retention;
use crate::policy::bounds::Overflow;
use crate::policy::dead_letter::{self, InvalidTemplate};
use crate::policy::effective::Subject;
use crate::policy::ordering::OrderedAndFair;
use crate::policy::setting::{Setting, Value};
use crate::policy::settings::{Change, Settings};
use crate::storage::record::Record;

/// Why settings of a channel are refused that are valid by themselves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChannelSetting {
    #[error("dead_letter: {0}")]
    DeadLetter(#[from] InvalidTemplate),
    #[error(transparent)]
    OrderedAndFair(#[from] OrderedAndFair),
}

impl Topic {
    /// The settings that the topic has of its own.
    pub fn own_settings(&self) -> Settings {
        self.state.lock().topic.own().clone()
    }

    /// Changes the topic's own settings.
    pub fn change_settings(&self, change: &Change) -> Result<(), RetentionError> {
        self.replace_settings(|own| own.apply(change))
    }

    /// Sets the topic's own retention; `None` for the limits of policy file and flags.
    pub fn set_retention(&self, retention: Option<Retention>) -> Result<(), RetentionError> {
        if self.name.is_ephemeral() {
            return Err(RetentionError::Ephemeral);
        }
        self.replace_settings(|own| own.set_retention(retention))
    }

    fn replace_settings(&self, change: impl FnOnce(&mut Settings)) -> Result<(), RetentionError> {
        let mut state = self.state.lock();
        let mut own = state.topic.own().clone();
        change(&mut own);
        if self.name.is_ephemeral() && own.retention().is_some() {
            return Err(RetentionError::Ephemeral);
        }
        state.topic.set_own(own);
        self.update_retention(&mut state);
        let forgotten = self.update_ids(&state);
        self.record_settings(&state, forgotten);
        self.apply_channel_policies(&state);
        drop(state);
        self.log.trim();
        Ok(())
    }

    /// Records the topic's own settings, what it retains by them, and which ids it forgot because of them.
    pub(super) fn record_settings(&self, state: &State, forgotten: Option<Record<'_>>) {
        if let Some(journal) = self.engine.journal_for(self.name.is_ephemeral()) {
            let settings = state.topic.own().to_string();
            let mut records = vec![
                Record::TopicSettings { topic: self.number, settings: &settings },
                self.retention_record(state, self.log.retained_from()),
            ];
            records.extend(forgotten);
            journal.append_lazy_batch(&records);
        }
    }

    /// Changes the own settings of one of the topic's channels.
    pub fn change_channel_settings(
        &self,
        channel: &Channel,
        change: &Change,
    ) -> Result<(), InvalidChannelSetting> {
        for (setting, value) in change.iter() {
            if let (Setting::DeadLetter, Some(template)) = (setting, value) {
                dead_letter::topic_name(template.text(), self.name.as_str(), channel.name().as_str())?;
            }
        }
        // Otherwise a change of the policies could come in between, and the old values would remain.
        let state = self.state.lock();
        let sources = self.engine.policy_sources();
        let needs_topic = |(setting, value): (Setting, Option<&Value>)| {
            (setting == Setting::MaxAttempts && value.is_some())
                || value == Some(&Value::Overflow(Overflow::DeadLetter))
        };
        let mut own = channel.own_settings();
        own.apply(change);
        let subject = Subject::Channel {
            topic: self.name.as_str(),
            channel: channel.name().as_str(),
            of_topic: state.topic.own(),
        };
        sources.check_channel(subject, &own)?;
        if change.iter().any(needs_topic) {
            let template = sources.value(Setting::DeadLetter, subject, &own).0;
            let template = template.as_ref().map_or(dead_letter::DEFAULT_TEMPLATE, Value::text);
            dead_letter::topic_name(template, self.name.as_str(), channel.name().as_str())?;
        }
        channel.change_settings(change, |own| {
            sources.of_channel(self.name.as_str(), state.topic.own(), channel.name().as_str(), own)
        });
        self.update_ttl(&state);
        self.update_bounds(&state);
        self.note_total_rates(&state);
        drop(state);
        for (setting, value) in change.iter() {
            if let Some(warning) = value.and_then(|value| setting.warning(value)) {
                nsq_daemon::warn!(self.engine.logger, "CHANNEL({}/{}): {warning}", self.name, channel.name());
            }
        }
        Ok(())
    }

    /// Applies changed policies to the topic and its channels.
    pub fn apply_policies(&self) {
        let mut state = self.state.lock();
        self.update_retention(&mut state);
        self.record_retention(&state, self.log.retained_from());
        let forgotten = self.update_ids(&state);
        if let Some((record, journal)) = forgotten.zip(self.engine.journal_for(self.name.is_ephemeral())) {
            journal.append_lazy(&record);
        }
        self.apply_channel_policies(&state);
        drop(state);
        self.log.trim();
    }

    fn apply_channel_policies(&self, state: &State) {
        let sources = self.engine.policy_sources();
        for (name, channel) in state.topic.channels() {
            channel.apply_policy(|own| {
                sources.of_channel(self.name.as_str(), state.topic.own(), name.as_str(), own)
            });
        }
        self.update_ttl(state);
        self.update_bounds(state);
        self.note_total_rates(state);
    }

    /// Lets the log know for which times to live it must know how old messages are.
    pub(super) fn update_ttl(&self, state: &State) {
        let all = state.topic.channels().values().map(|channel| channel.ttl());
        let shortest = all.filter(|ttl| *ttl > 0).min().unwrap_or(0);
        self.log.set_shortest_ttl(shortest);
        if shortest > 0 {
            self.engine.upkeep_hints.set_expires();
        }
    }

    /// Has the number of nodes looked up, if a channel has a rate of all nodes together.
    pub(super) fn note_total_rates(&self, state: &State) {
        if state.topic.channels().values().any(|channel| channel.has_total_rate()) {
            self.engine.total_rates.notify_one();
        }
    }

    /// Whether a channel has a rate of all nodes together.
    pub fn has_total_rates(&self) -> bool {
        self.channels().iter().any(|channel| channel.has_total_rate())
    }

    /// Sets how many nodes carry the topic.
    pub fn set_node_count(&self, nodes: u64) {
        let state = self.state.lock();
        self.node_count.store(nodes, Ordering::Relaxed);
        state.topic.channels().values().for_each(|channel| channel.set_node_count(nodes));
    }

    /// How many nodes carry the topic, as far as it is known.
    pub fn node_count(&self) -> u64 {
        self.node_count.load(Ordering::Relaxed)
    }

    /// Does the same as [`Topic::expire`] where nothing may block. Call it when a time to live may have changed: until then,
    /// messages count as young if nothing is known about their age.
    pub async fn expire_now(self: &Arc<Self>) {
        if self.channels().iter().any(|channel| channel.ttl() > 0) {
            let topic = self.clone();
            // Upkeep does it too.
            let _ = blocking::run(move || topic.expire(clock::monotonic(), clock::wall_ns())).await;
        }
    }

    /// Removes expired messages from all channels, without waiting for consumers. May read from disk.
    pub fn expire(&self, now: Nanos, wall_ns: i64) {
        let channels = self.channels();
        if channels.iter().all(|channel| channel.ttl() == 0) {
            return;
        }
        self.log.learn_ages(now, wall_ns);
        channels.iter().for_each(|channel| channel.expire_old(now));
    }
}
