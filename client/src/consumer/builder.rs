//! Builds and starts a consumer.

use std::sync::Arc;

use nsq_protocol::redact::shown_address;
use nsq_protocol::{ChannelName, StartAt, TopicName};

use super::Consumer;
use super::engine::{Assignment, Engine};
use super::handler::{Handler, work};
use super::shared::Shared;
use super::stream::MessageStream;
use crate::addresses::Addresses;
use crate::config::{Config, OptionValue};
use crate::connect::Connector;
use crate::error::{ConfigError, StartError};
use crate::http::{HttpClient, OnlyHttps, base_url};
use crate::lookup::Lookupd;
use crate::tls::Tls;
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
}

impl ConsumerBuilder {
    pub(super) fn new(topic: String, channel: String) -> Self {
        ConsumerBuilder { topic, channel, nsqds: Vec::new(), lookupds: Vec::new(), config: Config::new() }
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

    /// Starts the consumer and returns its messages as a stream. Does not wait for connections: see
    /// [`Consumer::wait_ready`]. Must be called within a tokio runtime.
    pub fn stream(self) -> Result<MessageStream, StartError> {
        let (engine, consumer) = self.build()?;
        tokio::spawn(engine.run());
        Ok(MessageStream::new(consumer))
    }

    fn build(self) -> Result<(Engine, Consumer), ConfigError> {
        let ConsumerBuilder { topic, channel, nsqds, lookupds, config } = self;
        let topic =
            TopicName::new(&topic).map_err(|_| ConfigError::InvalidName { what: "topic", name: topic })?;
        let channel = ChannelName::new(&channel)
            .map_err(|_| ConfigError::InvalidName { what: "channel", name: channel })?;
        if nsqds.is_empty() && lookupds.is_empty() {
            return Err(ConfigError::NoAddress { lookupd: true });
        }
        config.validate_consumer()?;
        let nsqds = nsqds.iter().map(|address| check_address(address)).collect::<Result<_, _>>()?;
        let lookupds = lookupds
            .into_iter()
            .map(|address| {
                Ok(Lookupd { base_url: base_url(&address)?, address: shown_address(&address).into() })
            })
            .collect::<Result<Vec<_>, ConfigError>>()?;
        let is_https = lookupds.iter().any(|lookupd: &Lookupd| lookupd.base_url.starts_with("https://"));
        let tls = if is_https { Tls::new(&config)? } else { Tls::default() };
        let http = HttpClient::new(config.dial_timeout, config.lookupd_poll_timeout, &config.user_agent, tls);
        let http = match config.lookupd_authorization {
            Some(false) => http,
            setting => http.with_secret(config.secret()?.as_ref(), OnlyHttps(setting.is_none())),
        };
        let config = Arc::new(config);
        let connector = Connector::new(Arc::clone(&config))?;
        let shared = Arc::new(Shared::new(&config));
        let assignment = Assignment { topic, channel, nsqds, lookupds };
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
    /// Starts the consumer. Does not wait for connections: see [`Consumer::wait_ready`]. Must be called
    /// within a tokio runtime.
    pub fn start(self) -> Result<Consumer, StartError> {
        let concurrency = self.builder.config.concurrency;
        let (mut engine, consumer) = self.builder.build()?;
        let handler = Arc::new(self.handler);
        for _ in 0..concurrency {
            engine.spawn_worker(work(Arc::clone(&handler), Arc::clone(engine.shared())));
        }
        tokio::spawn(engine.run());
        Ok(consumer)
    }
}
