//! The daemon's listeners: TCP for clients, HTTP, HTTPS.

use nsq_daemon::listen::{Address, BindError, Listener, parse_address};

use crate::config::Config;

/// All listeners, bound but not yet serving.
pub struct Listeners {
    pub tcp: Bound,
    /// `None` if disabled.
    pub http: Option<Bound>,
    /// `None` if disabled or without a certificate.
    pub https: Option<Bound>,
}

/// A listener and its configured address.
pub struct Bound {
    pub listener: Listener,
    address: Address,
}

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("listen ({0}) failed - listen tcp: address {0}: missing port in address")]
    HttpsOnUnixSocket(Address),
}

impl Listeners {
    /// Binds them in this order, so that the first error is NSQ's.
    pub async fn bind(config: &Config) -> Result<Self, ListenError> {
        let mode = config.unix_socket_mode.map(|mode| mode.0);
        let tcp = Bound::new(config.tcp_address.clone(), mode).await?;
        let http = match &config.http_address {
            Some(address) => Some(Bound::new(address.clone(), mode).await?),
            None => None,
        };
        let https = match https_address(config)? {
            Some(address) => Some(Bound::new(address, mode).await?),
            None => None,
        };
        Ok(Self { tcp, http, https })
    }

    /// The HTTP port as `/info` shows it: -1 for a unix socket, 0 if disabled.
    pub fn http_port(&self) -> i64 {
        self.http.as_ref().map_or(0, Bound::port)
    }
}

impl Bound {
    async fn new(address: Address, mode: Option<u32>) -> Result<Self, BindError> {
        let listener = Listener::bind_with_mode(&address, mode).await?;
        Ok(Self { listener, address })
    }

    /// The port as `/info` shows it: -1 for a unix socket.
    pub fn port(&self) -> i64 {
        self.listener.local_port().map_or(-1, i64::from)
    }

    /// The real address, for the log.
    pub fn shown(&self) -> String {
        self.listener.local_addr().map_or_else(|| self.address.to_string(), |address| address.to_string())
    }
}

/// Address of the HTTPS listener: a TCP port, and only with a certificate.
fn https_address(config: &Config) -> Result<Option<Address>, ListenError> {
    let address = &config.https_address;
    if address.is_empty() || config.tls_cert.is_empty() {
        return Ok(None);
    }
    match parse_address(address) {
        address @ Address::Tcp { .. } => Ok(Some(address)),
        address @ Address::Unix(_) => Err(ListenError::HttpsOnUnixSocket(address)),
    }
}
