//! From settings to a producer.

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

/// What is retried when it is unknown whether nsqd has a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guarantee {
    /// It is sent again: never lost, possibly repeated.
    #[default]
    AtLeastOnce,
    /// It is reported as [`PublishError::Unknown`](crate::PublishError::Unknown): never repeated by this library.
    AtMostOnce,
}

/// How a producer with several nsqds chooses one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The first that is connected, in the order given; the others are for when it fails.
    #[default]
    Failover,
    /// Each in turn, except those that have failed and are not back yet.
    RoundRobin,
}

/// Settings of a producer that does not run yet.
#[derive(Clone, Debug, Default)]
#[must_use = "a producer exists from `build()` on"]
pub struct ProducerBuilder {
    nsqds: Vec<String>,
    config: Config,
    guarantee: Guarantee,
    strategy: Strategy,
}

impl ProducerBuilder {
    /// Publishes to this nsqd, or to one of these; given as `host:port` of their TCP ports (4150), or as the path of a unix
    /// socket.
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

    /// What happens when it is unknown whether nsqd has a message.
    pub fn guarantee(mut self, guarantee: Guarantee) -> Self {
        self.guarantee = guarantee;
        self
    }

    /// How one of several nsqds is chosen.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// How long a publish may take, with queueing, connecting and retries. 10 s unless set.
    pub fn publish_timeout(mut self, timeout: Duration) -> Self {
        self.config.publish_timeout = timeout;
        self
    }

    /// The producer. It connects when it is first used; [`Producer::ping`] does that on purpose. Must be
    /// called within a tokio runtime.
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
