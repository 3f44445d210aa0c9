//! Builds a producer.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::pool::{Pool, Rules};
use super::{Inner, Producer, discovery};
use crate::addresses::Addresses;
use crate::config::{Config, OptionValue};
use crate::connect::Connector;
use crate::error::ConfigError;
use crate::transport::check_address;

/// What a producer does when it is unknown whether nsqd has a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Guarantee {
    /// Send the message again: it is never lost, but nsqd may have it twice.
    #[default]
    AtLeastOnce,
    /// Return [`PublishError::Unknown`](crate::PublishError::Unknown): the producer never sends a message twice.
    AtMostOnce,
}

/// How a producer with several nsqds chooses one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// Use the first connected one, in the order given. Use another one only if it fails.
    #[default]
    Failover,
    /// Use each in turn, except those that have failed and are not connected again.
    RoundRobin,
    /// Use the one with the fewest unanswered publishes.
    LeastPending,
    /// Send all messages with the same [key](crate::NewMessage::key) to the same one, whichever producer sends them
    /// (rendezvous hashing over the addresses). If that one fails, another takes over its keys until it is back: see
    /// [`ordered`](ProducerBuilder::ordered). Messages without a key take turns.
    PartitionByKey,
}

/// The settings of a producer that is not built yet.
#[derive(Clone, Debug, Default)]
#[must_use = "`build()` creates the producer"]
pub struct ProducerBuilder {
    nsqds: Vec<String>,
    lookupds: Vec<String>,
    config: Config,
    guarantee: Guarantee,
    strategy: Strategy,
    ordered: bool,
}

impl ProducerBuilder {
    /// Adds nsqds to publish to. An address is `host:port` with the TCP port (4150), or the path of a unix socket.
    pub fn nsqd(mut self, addresses: impl Addresses) -> Self {
        self.nsqds.extend(addresses.into_addresses());
        self
    }

    /// Adds lookupds. The producer publishes to all nsqds that they list, whatever their topics, and looks again every
    /// `lookupd_poll_interval`. An address is `host:port` or a URL with the HTTP port (4161), or the path of a unix
    /// socket.
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

    /// Sets what the producer does when it is unknown whether nsqd has a message.
    pub fn guarantee(mut self, guarantee: Guarantee) -> Self {
        self.guarantee = guarantee;
        self
    }

    /// Sets how the producer chooses one of several nsqds.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Sends all messages with the same key to the same nsqd: [`Strategy::PartitionByKey`].
    pub fn partition_by_key(self) -> Self {
        self.strategy(Strategy::PartitionByKey)
    }

    /// Guarantees that the first deliveries of a topic's messages are in the order of the calls, also when connections
    /// break: messages that are sent again precede all later ones. So a publish never moves to another nsqd. Requires a
    /// single nsqd, or `partition_by_key` with fixed addresses: then the order is kept for each key, and for each topic
    /// without keys. Consumers still may see later messages earlier if they handle several at a time or requeue some.
    pub fn ordered(mut self, ordered: bool) -> Self {
        self.ordered = ordered;
        self
    }

    /// Sets how long messages that may share a batch wait for others [default: 0]. With 0, a message is sent at once,
    /// together with those that are queued already. A longer time makes larger batches, and delays publishes by up to that
    /// time; then those of [`publish`](Producer::publish) share batches too.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.config.linger = linger;
        self
    }

    /// Sets the maximum number of messages in an automatic batch [default: 1,000]. 1 turns batches off.
    pub fn batch_messages(mut self, messages: u32) -> Self {
        self.config.batch_messages = messages;
        self
    }

    /// Sets the maximum size of an automatic batch in bytes [default: 1 MiB].
    pub fn batch_bytes(mut self, bytes: u32) -> Self {
        self.config.batch_bytes = bytes;
        self
    }

    /// Sets the timeout of one publish, including queueing, connecting and retries [default: 10 s].
    pub fn publish_timeout(mut self, timeout: Duration) -> Self {
        self.config.publish_timeout = timeout;
        self
    }

    /// Builds the producer. It connects at the first use; [`Producer::ping`] connects explicitly. Fails outside of a tokio
    /// runtime.
    pub fn build(self) -> Result<Producer, ConfigError> {
        if self.nsqds.is_empty() && self.lookupds.is_empty() {
            return Err(ConfigError::NoAddress { lookupd: true });
        }
        self.config.validate()?;
        if self.ordered {
            let is_single = self.nsqds.len() == 1 && self.lookupds.is_empty();
            let is_partitioned = self.strategy == Strategy::PartitionByKey && self.lookupds.is_empty();
            if !is_single && !is_partitioned {
                return Err(ConfigError::Conflict(
                    "an ordered producer needs a single nsqd, or partition_by_key with fixed nsqds and no lookupd",
                ));
            }
        }
        let addresses = self.nsqds.iter().map(|nsqd| check_address(nsqd)).collect::<Result<Vec<_>, _>>()?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| ConfigError::NoRuntime)?;
        let config = Arc::new(self.config);
        let connector = Arc::new(Connector::new(Arc::clone(&config))?);
        let rules = Rules { guarantee: self.guarantee, strategy: self.strategy, ordered: self.ordered };
        let pool = Arc::new(Pool::new(Arc::clone(&config), connector, rules, CancellationToken::new()));
        let lookups = discovery::Lookups::new(&config, self.lookupds, addresses.clone())?;
        let abandoned = CancellationToken::new();
        pool.set_nodes(&addresses);
        runtime.spawn(Arc::clone(&pool).watch_deadlines());
        runtime.spawn(Arc::clone(&pool).wind_down(abandoned.clone(), config.publish_timeout));
        if let Some(lookups) = lookups {
            runtime.spawn(lookups.run(Arc::clone(&pool)));
        }
        Ok(Producer { inner: Arc::new(Inner { pool, abandoned }) })
    }
}
