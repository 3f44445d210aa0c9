//! Builds a producer.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::node::Node;
use super::{Inner, Producer};
use crate::addresses::Addresses;
use crate::config::{Config, OptionValue};
use crate::connect::Connector;
use crate::error::ConfigError;
use crate::transport::check_address;

/// What a producer does when it is unknown whether nsqd has a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guarantee {
    /// Send the message again: it is never lost, but nsqd may have it twice.
    #[default]
    AtLeastOnce,
    /// Return [`PublishError::Unknown`](crate::PublishError::Unknown): the producer never sends a message twice.
    AtMostOnce,
}

/// How a producer with several nsqds chooses one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Use the first connected one, in the order given. Use another one only if it fails.
    #[default]
    Failover,
    /// Use each in turn, except those that have failed and are not connected again.
    RoundRobin,
}

/// The settings of a producer that is not built yet.
#[derive(Clone, Debug, Default)]
#[must_use = "`build()` creates the producer"]
pub struct ProducerBuilder {
    nsqds: Vec<String>,
    config: Config,
    guarantee: Guarantee,
    strategy: Strategy,
}

impl ProducerBuilder {
    /// Adds nsqds to publish to. An address is `host:port` with the TCP port (4150), or the path of a unix socket.
    pub fn nsqd(mut self, addresses: impl Addresses) -> Self {
        self.nsqds.extend(addresses.into_addresses());
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

    /// Sets the timeout of one publish, including queueing, connecting and retries [default: 10 s].
    pub fn publish_timeout(mut self, timeout: Duration) -> Self {
        self.config.publish_timeout = timeout;
        self
    }

    /// Builds the producer. It connects at the first use; [`Producer::ping`] connects explicitly. Must be called within
    /// a tokio runtime.
    pub fn build(self) -> Result<Producer, ConfigError> {
        if self.nsqds.is_empty() {
            return Err(ConfigError::NoAddress { lookupd: false });
        }
        self.config.validate()?;
        let config = Arc::new(self.config);
        let connector = Arc::new(Connector::new(Arc::clone(&config))?);
        let stop = CancellationToken::new();
        let has_alternatives = self.nsqds.len() > 1;
        let nodes = self
            .nsqds
            .iter()
            .map(|address| {
                let address = check_address(address)?;
                let (config, connector) = (Arc::clone(&config), Arc::clone(&connector));
                Ok(Arc::new(Node::new(address, has_alternatives, config, connector, stop.clone())))
            })
            .collect::<Result<Vec<_>, ConfigError>>()?;
        for node in &nodes {
            tokio::spawn(Arc::clone(node).run());
        }
        let room = Arc::new(Semaphore::new(config.max_pending_bytes as usize));
        let inner = Inner {
            nodes,
            room,
            config,
            guarantee: self.guarantee,
            strategy: self.strategy,
            next: AtomicUsize::new(0),
            stop,
        };
        Ok(Producer { inner: Arc::new(inner) })
    }
}
