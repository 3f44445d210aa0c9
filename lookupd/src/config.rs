//! The configuration of a running nsqlookupd: validated and immutable.

use std::str::FromStr;
use std::time::Duration;

use nsq_daemon::http::{AllowedOrigins, InvalidOrigin};
use nsq_daemon::listen::{Address, parse_address};
use nsq_protocol::LookupLimits;

use crate::flags::Flags;

#[derive(Debug, Clone)]
pub struct Config {
    /// TCP address to listen on: nodes register here.
    pub tcp_address: TcpAddress,
    /// HTTP address to listen on: clients query here.
    pub http_address: TcpAddress,
    /// Address of this nsqlookupd that it reports to nodes.
    pub broadcast_address: String,
    /// Origins whose pages may send changes through a browser.
    pub http_allowed_origins: AllowedOrigins,
    /// A node that is silent for longer is hidden.
    pub inactive_producer_timeout: Duration,
    /// How long a tombstoned node stays hidden for its topic.
    pub tombstone_lifetime: Duration,
    /// Limits on each node's connection.
    pub limits: Limits,
}

/// Limits on a node's connection. NSQ has no such limits.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Maximum length of lines and bodies.
    pub sizes: LookupLimits,
    /// Timeout for reading the magic, for reading a command once it has begun, and for writing responses.
    /// Between commands a node may be silent without limit.
    pub command_timeout: Duration,
    /// Approximate maximum number of topics and channels that a node may register.
    pub max_registrations: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sizes: LookupLimits::default(),
            command_timeout: Duration::from_secs(30),
            max_registrations: 250_000,
        }
    }
}

impl Default for Config {
    /// NSQ's defaults.
    fn default() -> Self {
        Self {
            tcp_address: TcpAddress::everywhere(4160),
            http_address: TcpAddress::everywhere(4161),
            broadcast_address: nsq_daemon::hostname(),
            http_allowed_origins: AllowedOrigins::default(),
            inactive_producer_timeout: Duration::from_secs(5 * 60),
            tombstone_lifetime: Duration::from_secs(45),
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// Validates the flags.
    pub fn from_flags(flags: &Flags) -> Result<Self, ConfigError> {
        let own_names = [&*nsq_daemon::hostname(), &*flags.broadcast_address];
        Ok(Self {
            tcp_address: flags.tcp_address.parse()?,
            http_address: flags.http_address.parse()?,
            broadcast_address: flags.broadcast_address.clone(),
            http_allowed_origins: AllowedOrigins::new(&flags.http_allowed_origin, &own_names)?,
            inactive_producer_timeout: flags.inactive_producer_timeout,
            tombstone_lifetime: flags.tombstone_lifetime,
            limits: Limits::default(),
        })
    }
}

/// A flag has an invalid value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// An address is not `host:port`.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// An origin is invalid.
    #[error("--http-allowed-origin: {0}")]
    AllowedOrigin(#[from] InvalidOrigin),
}

/// An address of the form `host:port`. An empty string means any free port on all interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpAddress(Address);

impl TcpAddress {
    /// `port` on all interfaces.
    pub fn everywhere(port: u16) -> Self {
        Self(Address::Tcp { host: String::new(), port })
    }

    pub(crate) fn address(&self) -> &Address {
        &self.0
    }
}

/// Not `host:port`: nsqlookupd does not listen on unix sockets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("listen ({0}) failed - listen tcp: address {0}: missing port in address")]
pub struct InvalidAddress(pub String);

impl FromStr for TcpAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        match parse_address(text) {
            _ if text.is_empty() => Ok(Self::everywhere(0)),
            address @ Address::Tcp { .. } => Ok(Self(address)),
            Address::Unix(_) => Err(InvalidAddress(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tcp_addresses_are_accepted() {
        assert_eq!("".parse(), Ok(TcpAddress::everywhere(0)));
        assert_eq!(":4160".parse(), Ok(TcpAddress::everywhere(4160)));
        let path = "/run/nsqlookupd.sock";
        assert_eq!(path.parse::<TcpAddress>(), Err(InvalidAddress(path.into())));
        assert!("127.0.0.1".parse::<TcpAddress>().is_err());
    }
}
