//! Builds and starts a consumer.

use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::time::Duration;

use nsq_protocol::{ChannelName, Producer as ListedProducer, StartAt, TopicName};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::engine::{Assignment, Engine};
use super::handler::{Handler, IntoOutcome, WithState, work};
use super::shared::{KeyOf, Shared, Sources};
use super::stream::MessageStream;
use super::{Batches, Consumer, DeadLetter, Delivery, GroupBuilder};
use crate::addresses::Addresses;
use crate::config::{Config, OptionValue};
use crate::connect::Connector;
use crate::error::{ConfigError, StartError};
use crate::http::HttpClient;
use crate::lookup::{NodeFilter, lookup_client};
use crate::transport::check_address;

/// The settings of a consumer that has not started.
#[derive(Clone, Debug)]
#[must_use = "a consumer starts with `handler(..).start()` or `stream()`"]
pub struct ConsumerBuilder {
    topic: String,
    channel: String,
    nsqds: Vec<String>,
    lookupds: Vec<String>,
    config: Config,
    dead_letter: Option<DeadLetter>,
    /// The client for lookups that the consumers of a group share.
    http: Option<HttpClient>,
    filter: NodeFilter,
    key: Option<Key>,
}

/// The function of [`ConsumerBuilder::order_by`].
#[derive(Clone)]
struct Key(KeyOf);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// `max_attempts` if there is a place for dead letters and the application sets no number.
const MAX_ATTEMPTS_WITH_DEAD_LETTER: u16 = 5;

impl ConsumerBuilder {
    pub(super) fn new(topic: String, channel: String) -> Self {
        ConsumerBuilder {
            topic,
            channel,
            nsqds: Vec::new(),
            lookupds: Vec::new(),
            config: Config::new(),
            dead_letter: None,
            http: None,
            filter: NodeFilter::default(),
            key: None,
        }
    }

    /// Adds nsqds to connect to. An address is `host:port` with the TCP port (4150), or the path of a unix socket.
    pub fn nsqd(mut self, addresses: impl Addresses) -> Self {
        self.nsqds.extend(addresses.into_addresses());
        self
    }

    /// Adds lookupds. The consumer connects to all nsqds that they list for the topic. An address is `host:port` or a
    /// URL with the HTTP port (4161), or the path of a unix socket.
    pub fn lookupd(mut self, addresses: impl Addresses) -> Self {
        self.lookupds.extend(addresses.into_addresses());
        self
    }

    /// Replaces all options.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Sets an option by name; see [`Config::set`].
    pub fn set(mut self, name: &str, value: impl Into<OptionValue>) -> Result<Self, ConfigError> {
        self.config.set(name, value)?;
        Ok(self)
    }

    /// Sets the maximum number of messages in flight, over all connections [default: twice the concurrency].
    pub fn max_in_flight(mut self, max_in_flight: u32) -> Self {
        self.config.max_in_flight = Some(max_in_flight);
        self
    }

    /// Sets how many messages are handled at the same time [default: 1].
    pub fn concurrency(mut self, concurrency: u32) -> Self {
        self.config.concurrency = concurrency;
        self
    }

    /// Sets the maximum number of deliveries. A message delivered more often is given up. 0, the default, is no limit.
    pub fn max_attempts(mut self, max_attempts: u16) -> Self {
        self.config.max_attempts = max_attempts;
        self
    }

    /// Sets what happens to messages that are given up. `max_attempts` is then 5 if it is not set. For handlers only: those
    /// who read a stream or batches answer for themselves.
    pub fn dead_letter(mut self, dead_letter: DeadLetter) -> Self {
        self.dead_letter = Some(dead_letter);
        self
    }

    /// While a handler runs, touches its message before it times out, so that nsqd does not deliver it again; up to nsqd's
    /// `max_msg_timeout`.
    pub fn keep_alive(mut self, keep_alive: bool) -> Self {
        self.config.keep_alive = keep_alive;
        self
    }

    /// Sets the maximum time of one call of the handler. Then its future is dropped at its current await, and the message is
    /// requeued as after an error.
    pub fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.config.handler_timeout = timeout;
        self
    }

    /// Sets the maximum number of messages that the handler receives per second: see
    /// [`Config::rate_limit`].
    pub fn rate_limit(mut self, per_second: f64) -> Self {
        self.config.rate_limit = per_second;
        self
    }

    /// Remembers this number of finished messages, so that those that nsqd delivers again are not handled twice: see
    /// [`Config::remember_finished`].
    pub fn remember_finished(mut self, messages: u32) -> Self {
        self.config.remember_finished = messages;
        self
    }

    /// Connects only to those nsqds that lookupds list and `filter` accepts. It does not apply to those of
    /// [`nsqd`](ConsumerBuilder::nsqd).
    pub fn filter_nodes(mut self, filter: impl Fn(&ListedProducer) -> bool + Send + Sync + 'static) -> Self {
        self.filter = NodeFilter::new(filter);
        self
    }

    /// Handles messages of the same key one after the other, in the order of their arrival; others, and those without a key,
    /// at the same time as far as `concurrency` allows. Each topic of a group has its own keys.
    ///
    /// It applies to the handlers of this consumer. A message that is requeued comes after those that follow it, and other
    /// consumers of the channel get other messages of the key: the setting `order` of the channel also orders these.
    ///
    /// ```no_run
    /// # fn example() -> Result<(), nsq::StartError> {
    /// let consumer = nsq::Consumer::builder("orders", "billing")
    ///     .nsqd("127.0.0.1:4150")
    ///     .config(nsq::Config::new().headers(true))
    ///     .concurrency(20)
    ///     .order_by(|order| order.headers()?.get("customer").map(String::from))
    ///     .handler_fn(|order| async move { println!("{:?}", order.body()) })
    ///     .start()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn order_by<K: Hash>(mut self, key: impl Fn(&Delivery) -> Option<K> + Send + Sync + 'static) -> Self {
        // Different keys with the same hash only wait for each other.
        let hashes = std::hash::RandomState::new();
        self.key = Some(Key(Arc::new(move |message| key(message).map(|key| hashes.hash_one(key)))));
        self
    }

    /// Sets where the channel starts if this consumer creates it, among the messages that the topic retains. The
    /// default is [`StartAt::Latest`]. An existing channel keeps its position.
    pub fn start_at(mut self, place: StartAt) -> Self {
        self.config.channel_start = place;
        self
    }

    /// Sets the handler that receives the messages.
    pub fn handler<H: Handler>(self, handler: H) -> HandlerConsumerBuilder<H> {
        HandlerConsumerBuilder { builder: self, handler }
    }

    /// Sets a function or closure as the handler, and infers its argument's type.
    ///
    /// ```no_run
    /// # fn example() -> Result<(), nsq::StartError> {
    /// let consumer = nsq::Consumer::builder("orders", "billing")
    ///     .nsqd("127.0.0.1:4150")
    ///     .handler_fn(|order| async move { String::from_utf8(order.body().to_vec()).map(drop) })
    ///     .start()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn handler_fn<F, Fut>(self, function: F) -> HandlerConsumerBuilder<F>
    where
        F: Fn(Delivery) -> Fut + Send + Sync + 'static,
        Fut: Future + Send,
        Fut::Output: IntoOutcome + Send,
    {
        HandlerConsumerBuilder { builder: self, handler: function }
    }

    /// Sets a function or closure as the handler, which receives a clone of `state` with each message.
    ///
    /// ```no_run
    /// # fn example(database: std::sync::Arc<String>) -> Result<(), nsq::StartError> {
    /// let consumer = nsq::Consumer::builder("orders", "billing")
    ///     .nsqd("127.0.0.1:4150")
    ///     .handler_with(database, |database, order| async move {
    ///         println!("{database}: {:?}", order.body());
    ///     })
    ///     .start()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn handler_with<S, F, Fut>(self, state: S, function: F) -> HandlerConsumerBuilder<WithState<S, F>>
    where
        S: Clone + Send + Sync + 'static,
        F: Fn(S, Delivery) -> Fut + Send + Sync + 'static,
        Fut: Future + Send,
        Fut::Output: IntoOutcome + Send,
    {
        HandlerConsumerBuilder { builder: self, handler: WithState { state, function } }
    }

    /// Consumes several topics on this channel with one handler, one concurrency and one shutdown, instead of the builder's
    /// topic: see [`Consumer::group`].
    pub fn topics<T: Into<String>>(self, topics: impl IntoIterator<Item = T>) -> GroupBuilder {
        GroupBuilder { builder: self, topics: topics.into_iter().map(Into::into).collect() }
    }

    pub(super) fn with_topic(mut self, topic: &str) -> Self {
        topic.clone_into(&mut self.topic);
        self
    }

    pub(super) fn concurrency_setting(&self) -> u32 {
        self.config.concurrency
    }

    /// Makes clones of this builder use one client for lookups.
    pub(super) fn sharing_lookups(mut self) -> Result<Self, StartError> {
        self.http = Some(lookup_client(&self.config, self.lookupds.clone())?.0);
        Ok(self)
    }

    /// Checks the settings without starting anything.
    pub(super) fn check(self) -> Result<(), StartError> {
        runtime()?;
        self.build().map(drop)?;
        Ok(())
    }

    /// Starts the consumer and returns its messages in batches of at most `max`, for bulk writes. A batch is ready when it is
    /// full, when its oldest message has waited for `max_wait`, or when no more messages can come, because `max_in_flight`
    /// are unanswered. `max_in_flight` must be at least `max` [default: twice `max`].
    pub fn batches(mut self, max: usize, max_wait: Duration) -> Result<Batches, StartError> {
        let max_in_flight = *self.config.max_in_flight.get_or_insert(max.saturating_mul(2) as u32);
        if max == 0 || max > max_in_flight as usize {
            return Err(
                ConfigError::Conflict("a batch holds at least 1 and at most max_in_flight messages").into()
            );
        }
        Ok(Batches::new(self.stream()?, max, max_wait))
    }

    /// Starts the consumer and returns its messages as a stream. Does not wait for connections: see
    /// [`Consumer::wait_ready`]. Fails outside of a tokio runtime.
    pub fn stream(self) -> Result<MessageStream, StartError> {
        let runtime = runtime()?;
        let (engine, consumer) = self.build()?;
        runtime.spawn(engine.run());
        Ok(MessageStream::new(consumer))
    }

    fn build(self) -> Result<(Engine, Consumer), ConfigError> {
        let ConsumerBuilder {
            topic,
            channel,
            nsqds,
            lookupds,
            config,
            dead_letter,
            http: shared_http,
            filter,
            key,
        } = self;
        let topic =
            TopicName::new(&topic).map_err(|_| ConfigError::InvalidName { what: "topic", name: topic })?;
        let channel = ChannelName::new(&channel)
            .map_err(|_| ConfigError::InvalidName { what: "channel", name: channel })?;
        if nsqds.is_empty() && lookupds.is_empty() {
            return Err(ConfigError::NoAddress { lookupd: true });
        }
        config.validate_consumer()?;
        let nsqds = nsqds.iter().map(|address| check_address(address)).collect::<Result<_, _>>()?;
        let (http, lookupds) = lookup_client(&config, lookupds)?;
        let http = shared_http.unwrap_or(http);
        let config = Arc::new(config);
        let connector = Connector::new(Arc::clone(&config))?;
        let sources = Sources {
            topic: topic.to_string(),
            channel: channel.to_string(),
            lookupds: lookupds.iter().map(|lookupd| lookupd.address.to_string()).collect(),
            nsqds: Mutex::default(),
        };
        let max_attempts = match (&dead_letter, config.max_attempts) {
            (Some(_), 0) => MAX_ATTEMPTS_WITH_DEAD_LETTER,
            (_, max_attempts) => max_attempts,
        };
        let shared = Arc::new(Shared::new(&config, max_attempts, sources, key.map(|Key(key)| key)));
        let assignment = Assignment { topic, channel, nsqds, lookupds, filter };
        let engine = Engine::new(Arc::clone(&shared), config, connector, http, assignment);
        Ok((engine, Consumer::new(shared)))
    }
}

/// The settings and the handler of a consumer that has not started.
#[must_use = "a consumer starts with `start()`"]
pub struct HandlerConsumerBuilder<H> {
    builder: ConsumerBuilder,
    handler: H,
}

impl<H: Handler> HandlerConsumerBuilder<H> {
    /// Starts the consumer. Does not wait for connections: see [`Consumer::wait_ready`]. Fails outside of a tokio runtime.
    pub fn start(self) -> Result<Consumer, StartError> {
        let runtime = runtime()?;
        let dead_letter = self.builder.dead_letter.clone();
        let (mut engine, consumer) = self.builder.build()?;
        let (handler, shared) = (Arc::new(self.handler), Arc::clone(engine.shared()));
        let _guard = runtime.enter();
        engine.set_workers(Box::new(move |number| {
            let (handler, shared) = (Arc::clone(&handler), Arc::clone(&shared));
            Box::pin(work(handler, dead_letter.clone(), shared, number))
        }));
        runtime.spawn(engine.run());
        Ok(consumer)
    }
}

fn runtime() -> Result<Handle, ConfigError> {
    Handle::try_current().map_err(|_| ConfigError::NoRuntime)
}
