//! SUB, RDY, FIN, REQ, TOUCH, REJ and CLS.

use std::sync::Arc;
use std::time::Duration;

use nsq_protocol::{
    ChannelName, Command, Decoded, ErrorCode, MessageId, ProtocolError, StartAt, TopicName, Verb, decode,
};

use super::state::ConnectionState;
use super::{Connection, End};
use crate::channel::{AckError, Channel, ConsumerKey, ConsumerSignal};
use crate::client_info::ClientInfo;
use crate::clock::{self, Nanos};
use crate::log::TopicLog;
use crate::topic::registry::Registry;
use crate::topic::{PublishError, Topic};

/// A consumer's subscription to a channel. Dropping it unsubscribes: messages in flight are handed out again.
pub struct Subscription {
    topic: Arc<Topic>,
    pub channel: Arc<Channel>,
    /// The consumer's key in the channel.
    pub key: ConsumerKey,
    /// The channel calls the consumer through this.
    pub signal: Arc<ConsumerSignal>,
    left: bool,
}

/// Access to a subscription while the connection executes commands.
pub struct Place {
    pub channel: Arc<Channel>,
    /// The consumer's key in the channel.
    pub key: ConsumerKey,
    /// The channel calls the consumer through this.
    pub signal: Arc<ConsumerSignal>,
}

/// What a consumer may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// How long a message may be in flight.
    pub message_timeout: Nanos,
    /// Percentage of messages that the consumer wants; 0 means all.
    pub sample_rate: u8,
    /// Start of a channel that does not exist yet.
    pub channel_start: StartAt,
}

/// Why a consumer cannot subscribe.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// The topic or channel cannot be created.
    #[error(transparent)]
    Refused(#[from] PublishError),
    /// The channel has as many consumers as `--max-channel-consumers` allows.
    #[error("consumers for {topic}:{channel} exceeds limit of {limit}")]
    TooManyConsumers { topic: TopicName, channel: ChannelName, limit: usize },
    /// The topic or channel is being deleted.
    #[error("to deleted topic/channel")]
    Deleted,
}

impl Subscription {
    /// Subscribes with RDY 0. Creates topic and channel if they do not exist.
    pub async fn open(
        registry: &Arc<Registry>,
        topic: &TopicName,
        channel: &ChannelName,
        info: &Arc<ClientInfo>,
        options: SubscribeOptions,
    ) -> Result<Self, SubscribeError> {
        if let Some(subscription) = Self::try_open(registry, topic, channel, info, options).await? {
            return Ok(subscription);
        }
        tokio::time::sleep(RETRY_AFTER).await;
        let again = Self::try_open(registry, topic, channel, info, options).await?;
        again.ok_or(SubscribeError::Deleted)
    }

    /// Returns `None` if the channel or topic was deleted meanwhile.
    async fn try_open(
        registry: &Arc<Registry>,
        topic: &TopicName,
        channel: &ChannelName,
        info: &Arc<ClientInfo>,
        options: SubscribeOptions,
    ) -> Result<Option<Self>, SubscribeError> {
        let topic = registry.get_or_create(topic).await?;
        let channel = match topic.get_or_create_channel_at(channel, options.channel_start).await {
            Ok(channel) => channel,
            Err(_) if topic.is_closed() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let limit = registry.engine().limits.max_channel_consumers;
        match channel.subscribe(info.clone(), options.message_timeout, options.sample_rate, limit) {
            Ok(Some((key, signal))) => Ok(Some(Subscription { topic, channel, key, signal, left: false })),
            Ok(None) => Err(SubscribeError::TooManyConsumers {
                topic: topic.name().clone(),
                channel: channel.name().clone(),
                limit,
            }),
            Err(_) => Ok(None),
        }
    }

    /// The topic of its channel.
    pub fn topic(&self) -> &Arc<Topic> {
        &self.topic
    }

    /// As [`Subscription::leave`], without waiting: messages are back at once, an ephemeral channel is deleted later.
    pub fn leave_at_once(mut self, registry: &Arc<Registry>) {
        self.left = true;
        let was_last = self.channel.unsubscribe(self.key);
        if was_last
            && self.channel.is_ephemeral()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (registry, topic, channel) = (registry.clone(), self.topic.clone(), self.channel.clone());
            runtime.spawn(async move { registry.consumer_left(&topic, &channel).await });
        }
    }

    /// See [`Place`]. Drop it before [`Subscription::leave`].
    pub fn place(&self) -> Place {
        Place { channel: self.channel.clone(), key: self.key, signal: self.signal.clone() }
    }

    /// Unsubscribes. Deletes an ephemeral channel with its last consumer.
    pub async fn leave(mut self, registry: &Arc<Registry>) {
        self.left = true;
        if self.channel.unsubscribe(self.key) {
            registry.consumer_left(&self.topic, &self.channel).await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if !self.left {
            self.channel.unsubscribe(self.key);
        }
    }
}

/// Wait before the second attempt to subscribe to a channel or topic that is being deleted: an ephemeral one is created
/// again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Maximum number of FIN, REQ, TOUCH and REJ under one lock of the channel, so that others do not wait long for it.
const RUN_ACKNOWLEDGEMENTS: usize = 256;

impl Connection {
    /// Executes SUB.
    pub(super) async fn subscribe(&mut self, topic: &TopicName, channel: &ChannelName) -> Result<(), End> {
        self.authorize(Verb::Sub, topic.as_str(), channel.as_str()).await?;
        let options = SubscribeOptions {
            message_timeout: self.settings.message_timeout,
            sample_rate: self.settings.sample_rate,
            channel_start: self.settings.channel_start,
        };
        let registry = &self.context.registry;
        let subscription = Subscription::open(registry, topic, channel, &self.info, options).await;
        self.subscription = Some(subscription.map_err(|error| sub_failed(&error.to_string()))?);
        self.state = ConnectionState::Subscribed;
        self.info.set_state(self.state as u8);
        self.output.ok(1);
        Ok(())
    }

    /// Executes RDY.
    pub(super) fn set_ready_count(&mut self, count: u64) {
        if let Some(subscription) = &self.subscription {
            subscription.channel.set_ready_count(subscription.key, count);
            self.may_take = true;
        }
    }

    /// Executes CLS.
    pub(super) fn close_subscription(&mut self) {
        if let Some(subscription) = &self.subscription {
            subscription.channel.close_consumer(subscription.key);
        }
        self.state = ConnectionState::Closing;
        self.info.set_state(self.state as u8);
        self.output.respond(b"CLOSE_WAIT");
    }

    /// Executes the FIN, REQ, TOUCH and REJ at the start of `data`, up to the first other command, at most
    /// [`RUN_ACKNOWLEDGEMENTS`] under one lock of the channel. `data` must begin with a complete one. Returns the bytes
    /// used.
    pub(super) fn acknowledge_run(&mut self, data: &[u8]) -> usize {
        let context = self.context.clone();
        let Some(subscription) = &self.subscription else { return data.len() };
        let max_delay = context.registry.engine().limits.max_req_timeout;
        let log = subscription.topic.log();
        let mut acknowledging = subscription.channel.acknowledge(subscription.key);
        let (mut used, mut count, mut finished, mut requeued) = (0, 0, 0, 0);
        while count < RUN_ACKNOWLEDGEMENTS
            && let Decoded::Command { command, consumed } = decode(&data[used..], &context.limits)
        {
            let (verb, id, result) = match command {
                Command::Fin { id } => (Verb::Fin, id, by_number(log, id, |n| acknowledging.finish(n))),
                Command::Req { id, delay_ms } => {
                    let delay = Duration::from_millis(delay_ms).min(max_delay);
                    (Verb::Req, id, by_number(log, id, |n| acknowledging.requeue(n, clock::nanos(delay))))
                }
                Command::Touch { id } => (Verb::Touch, id, by_number(log, id, |n| acknowledging.touch(n))),
                Command::Rej { id, reason } if self.settings.reject => {
                    (Verb::Rej, id, by_number(log, id, |n| acknowledging.reject(n, reason)))
                }
                _ => break,
            };
            match (result, verb) {
                (Err(error), _) => self.output.error(&refused(verb, id, error)),
                (Ok(()), Verb::Fin) => finished += 1,
                (Ok(()), Verb::Req) => requeued += 1,
                (Ok(()), _) => {}
            }
            used += consumed;
            count += 1;
        }
        drop(acknowledging);
        self.turn.spend_commands(count);
        let metrics = context.registry.engine().metrics();
        metrics.finished_messages.add(finished);
        if requeued > 0 {
            metrics.requeued_messages.add(requeued);
        }
        self.may_take = true;
        used
    }
}

/// Calls `act` with the sequence number of `id`. An id that this topic never assigned is not in flight, even if another
/// node assigned it.
fn by_number(
    log: &TopicLog,
    id: MessageId,
    act: impl FnOnce(u64) -> Result<(), AckError>,
) -> Result<(), AckError> {
    id.to_u64().and_then(|id| log.sequence_of_id(id)).map_or(Err(AckError::NotInFlight), act)
}

fn refused(verb: Verb, id: MessageId, error: AckError) -> ProtocolError {
    let code = match verb {
        Verb::Req => ErrorCode::ReqFailed,
        Verb::Touch => ErrorCode::TouchFailed,
        Verb::Rej => ErrorCode::RejFailed,
        _ => ErrorCode::FinFailed,
    };
    let reason = match error {
        AckError::NotInFlight => "ID not in flight",
        AckError::NotOwner => "client does not own message",
        AckError::NoDeadLetterTopic => "no topic for dead letters; set dead_letter of the channel",
    };
    let mut text = format!("{verb} ").into_bytes();
    text.extend_from_slice(id.as_bytes());
    text.extend_from_slice(b" failed ");
    text.extend_from_slice(reason.as_bytes());
    ProtocolError::new(code, text)
}

fn sub_failed(reason: &str) -> ProtocolError {
    ProtocolError::new(ErrorCode::SubFailed, format!("SUB failed {reason}"))
}
