//! From settings to a running consumer.

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

/// Settings of a consumer that does not run yet.
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

    /// Connects to these nsqds, given as `host:port` of their TCP ports (4150), or as the path of a unix socket.
    pub fn nsqd(mut self, addresses: impl Addresses) -> Self {
        self.nsqds.extend(addresses.into_addresses());
        self
    }

    /// Connects to all nsqds that these lookupds know to have the topic. Given as `host:port` or URL of
    /// their HTTP ports (4161).
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

    /// How many messages may be in flight, over all connections. Twice the concurrency unless set.
    pub fn max_in_flight(mut self, max_in_flight: u32) -> Self {
        self.config.max_in_flight = Some(max_in_flight);
        self
    }

    /// How many messages the handler gets at a time. 1 unless set.
    pub fn concurrency(mut self, concurrency: u32) -> Self {
        self.config.concurrency = concurrency;
        self
    }

    /// Messages delivered more often than this are given up. 0, the default, is never.
    pub fn max_attempts(mut self, max_attempts: u16) -> Self {
        self.config.max_attempts = max_attempts;
        self
    }

    /// Where the channel starts, if this consumer makes it: among the messages that the topic keeps though they are
    /// finished. [`StartAt::Latest`] unless set. A channel that is there goes on where it stands.
    pub fn start_at(mut self, place: StartAt) -> Self {
        self.config.channel_start = place;
        self
    }

    /// Has messages handled by `handler`.
    pub fn handler<H: Handler>(self, handler: H) -> HandlerConsumerBuilder<H> {
        HandlerConsumerBuilder { builder: self, handler }
    }

    /// Starts the consumer; messages come out of the stream. Does not wait for connections:
    /// see [`Consumer::wait_ready`]. Must be called within a tokio runtime.
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
            told => http.with_secret(config.secret()?.as_ref(), OnlyHttps(told.is_none())),
        };
        let config = Arc::new(config);
        let connector = Connector::new(Arc::clone(&config))?;
        let shared = Arc::new(Shared::new(&config));
        let assignment = Assignment { topic, channel, nsqds, lookupds };
        let engine = Engine::new(Arc::clone(&shared), config, connector, http, assignment);
        Ok((engine, Consumer::new(shared)))
    }
}

/// Settings of a consumer that has its handler.
#[must_use = "a consumer runs from `start()` on"]
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
