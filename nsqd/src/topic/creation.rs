//! New channels: their start position, their record in the journal, and the messages that the topic held back for the
//! first one.

use std::sync::Arc;

use nsq_protocol::{ChannelName, StartAt};

use super::{PublishError, State, Topic};
use crate::channel::{Channel, ChannelParts, ChannelState};
use crate::clock;
use crate::engine::StorageError;
use crate::storage::ChannelNumber;
use crate::storage::journal::Ticket;
use crate::storage::record::Record;

/// Possible effect of a refused creation whose outcome is in doubt.
const MAY_APPEAR: &str = "the channel may appear";

impl Topic {
    /// Returns the channel of this name, and creates it if it is missing. A new channel starts at the release point.
    /// For the first channel, that is before all messages held back for it.
    pub async fn get_or_create_channel(
        self: &Arc<Self>,
        name: &ChannelName,
    ) -> Result<Arc<Channel>, PublishError> {
        self.get_or_create_channel_at(name, StartAt::Latest).await
    }

    /// Like [`Topic::get_or_create_channel`], but a new channel starts at `start`, as far as messages are retained.
    pub async fn get_or_create_channel_at(
        self: &Arc<Self>,
        name: &ChannelName,
        start: StartAt,
    ) -> Result<Arc<Channel>, PublishError> {
        if let Some(channel) = self.channel(name.as_str()) {
            return Ok(channel);
        }
        if self.engine.status.is_draining() {
            return Err(PublishError::Draining);
        }
        self.make_channel(name, start).await
    }

    /// Like [`Topic::get_or_create_channel_at`], but also while the node drains: its own moves of messages need channels.
    pub(super) async fn make_channel(
        self: &Arc<Self>,
        name: &ChannelName,
        start: StartAt,
    ) -> Result<Arc<Channel>, PublishError> {
        if let Some(channel) = self.channel(name.as_str()) {
            return Ok(channel);
        }
        let found = self.find(start).await?;
        let (channel, ticket, placed) = {
            let mut state = self.state.lock();
            if self.is_closed() {
                return Err(PublishError::Exiting);
            }
            if let Some(channel) = state.topic.channels().get(name) {
                return Ok(channel.clone());
            }
            let placed = self.start_of(&state, found);
            let (cursor, released) = (placed.sequence, state.topic.point().released());
            let number = self.engine.numbers.next_channel();
            let ticket = match self.engine.journal_for(self.name.is_ephemeral() || name.is_ephemeral()) {
                Some(journal) => Some(
                    journal
                        .append(&Record::ChannelCreated {
                            topic: self.number,
                            channel: number,
                            name: name.as_str(),
                            cursor,
                        })
                        .map_err(StorageError::from)?,
                ),
                None => None,
            };
            let marks = self.log.marks_between(cursor, released, None);
            let max_timeout = clock::nanos(self.engine.limits.max_msg_timeout);
            let channel_state = ChannelState::starting_at(cursor, released, &marks, max_timeout);
            let channel = self.adopt_locked(&mut state, name.clone(), number, channel_state);
            (channel, ticket, placed)
        };
        // In a separate task: the requesting client may disconnect meanwhile, and the channel already exists.
        let (topic, made) = (self.clone(), channel.clone());
        let committed = tokio::spawn(async move { topic.commit_channel(&made, ticket).await }).await;
        committed.map_err(|panic| StorageError::in_doubt(panic, MAY_APPEAR))??;
        if start != StartAt::Latest {
            crate::log_info!(
                self.engine,
                "TOPIC({}): channel {} starts at {start}: message {placed}",
                self.name,
                name
            );
        }
        Ok(channel)
    }

    /// Waits until a new channel is as durable as configured, then releases the messages that the topic holds back.
    /// Removes the channel again on failure.
    async fn commit_channel(
        &self,
        channel: &Arc<Channel>,
        ticket: Option<Ticket>,
    ) -> Result<(), StorageError> {
        let committed = match self.engine.store.journal.as_ref().zip(ticket) {
            Some((journal, ticket)) => journal.commit(ticket).await,
            None => Ok(()),
        };
        let mut state = self.state.lock();
        let current = state.topic.channels().get(channel.name());
        let is_there = current.is_some_and(|current| Arc::ptr_eq(current, channel));
        if let Err(error) = committed {
            if is_there {
                state.topic.remove(channel.name());
                self.bounds.remove(channel.name().as_str());
            }
            drop(state);
            channel.discard();
            self.engine.topology_changed();
            return Err(StorageError::of_commit(&error, MAY_APPEAR));
        }
        // Not earlier: if the channel were refused, the messages released to it would be lost with it.
        if is_there {
            state.topic.set_has_channels();
            self.advance(&mut state);
            self.update_gauge(&state);
        }
        drop(state);
        crate::log_info!(self.engine, "TOPIC({}): new channel({})", self.name, channel.name());
        self.engine.topology_changed();
        Ok(())
    }

    /// Adds a recovered channel.
    pub fn adopt_channel(&self, name: ChannelName, number: ChannelNumber, channel_state: ChannelState) {
        let mut state = self.state.lock();
        self.adopt_locked(&mut state, name, number, channel_state);
        state.topic.set_has_channels();
        self.update_gauge(&state);
    }

    fn adopt_locked(
        &self,
        state: &mut State,
        name: ChannelName,
        number: ChannelNumber,
        mut of: ChannelState,
    ) -> Arc<Channel> {
        if let Some(latency) = self.engine.latency() {
            of.measure_latencies(clock::nanos(latency.window));
        }
        let sources = self.engine.policy_sources();
        let policy =
            sources.of_channel(self.name.as_str(), state.topic.own(), name.as_str(), of.own_settings());
        of.set_policy(policy, clock::monotonic());
        of.set_node_count(self.node_count(), clock::monotonic());
        let has_total_rate = of.has_total_rate();
        let ephemeral = self.name.is_ephemeral() || name.is_ephemeral();
        let parts = ChannelParts {
            bound: ephemeral.then_some(self.engine.limits.mem_queue_size),
            name: name.clone(),
            number,
            topic: self.name.clone(),
            topic_number: self.number,
            log: self.log.clone(),
            journal: self.engine.journal_for(ephemeral).cloned(),
            timers: self.engine.timers.clone(),
            exhausted: self.engine.exhausted.clone(),
        };
        let channel = Channel::new(parts, of);
        state.topic.insert(name, channel.clone());
        if channel.ttl() > 0 {
            self.update_ttl(state);
        }
        if has_total_rate {
            self.engine.total_rates.notify_one();
        }
        self.bound_channel(&channel);
        channel
    }
}
