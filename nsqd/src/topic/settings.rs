//! Changing settings of a topic and its channels: in memory, in the journal, and in what follows from them.

use super::retention::RetentionError;
use super::{State, Topic};
use crate::channel::Channel;
use crate::log::retention::Retention;
use crate::policy::settings::{Change, Settings};
use crate::storage::record::Record;

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
    pub fn change_channel_settings(&self, channel: &Channel, change: &Change) {
        // Otherwise a change of the policies could come in between, and the old values would remain.
        let _state = self.state.lock();
        let sources = self.engine.policy_sources();
        channel.change_settings(change, |own| {
            sources.of_channel(self.name.as_str(), channel.name().as_str(), own)
        });
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
        let sources = self.engine.policy_sources();
        for (name, channel) in state.topic.channels() {
            channel.apply_policy(|own| sources.of_channel(self.name.as_str(), name.as_str(), own));
        }
        drop(state);
        self.log.trim();
    }
}
