//! What a running nsqlookupd goes by: validated, and immutable.

use std::str::FromStr;
use std::time::Duration;

use nsq_daemon::http::{AllowedOrigins, InvalidOrigin};
use nsq_daemon::listen::{Address, parse_address};
use nsq_protocol::LookupLimits;

use crate::flags::Flags;

/// The configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where nodes register.
    pub tcp_address: TcpAddress,
    /// Where clients ask.
    pub http_address: TcpAddress,
    /// This nsqlookupd's address as nodes are to use it.
    pub broadcast_address: String,
    /// Whose pages may change something through a browser.
    pub http_allowed_origins: AllowedOrigins,
    /// How long a node may be silent before it is hidden.
    pub inactive_producer_timeout: Duration,
    /// How long a tombstoned node stays hidden for its topic.
    pub tombstone_lifetime: Duration,
    /// What one node may make us hold and wait for.
    pub limits: Limits,
}

/// Bounds on a node's connection, of which NSQ has none.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long lines and bodies may be.
    pub sizes: LookupLimits,
    /// How long the magic, a command that has begun, or the taking of our answer may last. Between
    /// commands a node may be silent as long as it likes.
    pub command_timeout: Duration,
    /// How many topics and channels a node may register, about.
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
    /// Checks what was typed.
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

/// What was typed makes no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// See there.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// An origin that allows nothing.
    #[error("--http-allowed-origin: {0}")]
    AllowedOrigin(#[from] InvalidOrigin),
}

/// An address of the form `host:port`. The empty text stands for any free port on all interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpAddress(Address);

impl TcpAddress {
    /// A port on all interfaces.
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
    fn addresses_are_tcp() {
        assert_eq!("".parse(), Ok(TcpAddress::everywhere(0)));
        assert_eq!(":4160".parse(), Ok(TcpAddress::everywhere(4160)));
        let path = "/run/nsqlookupd.sock";
        assert_eq!(path.parse::<TcpAddress>(), Err(InvalidAddress(path.into())));
        assert!("127.0.0.1".parse::<TcpAddress>().is_err());
    }
}
