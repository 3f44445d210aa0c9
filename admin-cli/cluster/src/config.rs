//! Pure: where a cluster is, and how to ask its daemons.

use std::fmt;
use std::time::Duration;

use nsq::admin::{LookupdClient, NsqdClient};
use nsq::{ConfigError, Secret, Tls};

/// The default address, tried first.
pub const DEFAULT_LOOKUPD: &str = "127.0.0.1:4161";
/// The default if no nsqlookupd answers.
pub const DEFAULT_NSQD: &str = "127.0.0.1:4151";

/// Upper limit for connecting, within the timeout of the whole request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The addresses of a cluster, and what its daemons require.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// HTTP addresses of nsqlookupds, as `host:port`, URL or path of a unix socket.
    pub lookupds: Vec<String>,
    /// HTTP addresses of nsqds, which need not be registered anywhere.
    pub nsqds: Vec<String>,
    /// Whether to try [`DEFAULT_LOOKUPD`], then [`DEFAULT_NSQD`], instead of the addresses.
    pub default_ports: bool,
    /// Maximum time to wait for one answer.
    pub timeout: Duration,
    /// Certificates for `https://` addresses, and for daemons that require TLS.
    pub tls: Tls,
    /// Secret for nsqds whose HTTP interface requires one.
    pub token: Option<Secret>,
}

impl Default for ClusterConfig {
    /// The default ports, with a timeout of 5 s.
    fn default() -> Self {
        ClusterConfig {
            lookupds: Vec::new(),
            nsqds: Vec::new(),
            default_ports: true,
            timeout: Duration::from_secs(5),
            tls: Tls::default(),
            token: None,
        }
    }
}

impl From<&ClusterConfig> for ClusterConfig {
    fn from(config: &ClusterConfig) -> Self {
        config.clone()
    }
}

impl ClusterConfig {
    /// The client for an nsqlookupd. Does not connect.
    pub fn lookupd(&self, address: &str) -> Result<LookupdClient, ConfigError> {
        Ok(LookupdClient::new(address)?.timeouts(self.connect_timeout(), self.timeout).tls(self.tls.clone()))
    }

    /// The client for an nsqd. Does not connect.
    pub fn nsqd(&self, address: &str) -> Result<NsqdClient, ConfigError> {
        let client = NsqdClient::new(address)?.timeouts(self.connect_timeout(), self.timeout);
        Ok(client.tls(self.tls.clone()).token(self.token.clone()))
    }

    fn connect_timeout(&self) -> Duration {
        CONNECT_TIMEOUT.min(self.timeout)
    }
}

/// `host:port`, with brackets around an IPv6 address.
pub fn host_port(host: &str, port: impl fmt::Display) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
