//! What the caller knows about nsqd: its addresses, and how to connect.

use nsq::{Config, Secret, Tls};

/// TCP address of an nsqd with NSQ's default port.
pub const DEFAULT_NSQD_TCP: &str = "127.0.0.1:4150";

/// The addresses that the user gave. Every address has a port.
#[derive(Debug, Clone, Default)]
pub struct Targets {
    /// HTTP addresses of nsqlookupds. A run does not use them, and refuses to guess an nsqd.
    pub lookupds: Vec<String>,
    /// HTTP addresses of nsqds.
    pub nsqds: Vec<String>,
    /// TCP addresses of nsqds.
    pub nsqd_tcps: Vec<String>,
    pub security: Security,
}

/// TLS, compression and secret.
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// A run uses its TLS and compression, and no other option.
    pub config: Config,
    /// TLS settings for TCP and HTTP.
    pub tls: Tls,
    /// Secret for TCP and HTTP.
    pub token: Option<Secret>,
}
