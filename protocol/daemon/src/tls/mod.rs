//! TLS for listeners: certificates from files, read again when they change or when told to.
//!
//! - [`client_auth`]: what is asked of a client's certificate
//! - [`stream`]: handshakes with a deadline, and what they agreed on
//! - this file: [`ServerTls`], the configuration that new connections get
//!
//! A connection keeps the certificate it began with: reading new ones ends none.

pub mod client_auth;
pub mod stream;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nsq_tls::FileError;
pub use nsq_tls::files;
use parking_lot::{Mutex, RwLock};
use rustls::ServerConfig;
use rustls::sign::SingleCertAndKey;
use tokio_util::sync::CancellationToken;

pub use self::client_auth::ClientAuth;
pub use self::stream::{HandshakeError, Session, TlsStream};
use crate::log::Logger;
use crate::watch::{Fingerprint, Watch};

/// Why certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is no good.
    #[error("{0}")]
    File(#[from] FileError),
    /// They do not go together, or are of a kind that is not supported.
    #[error("{0}")]
    Unusable(#[from] rustls::Error),
}

/// Where certificates are, and what they are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// The certificate, and those between it and its root; PEM.
    pub certificate: PathBuf,
    /// Its private key; PEM.
    pub key: PathBuf,
    /// Authorities whose client certificates are good; the system's unless given. PEM.
    pub root_ca: Option<PathBuf>,
    /// What is asked of clients.
    pub client_auth: ClientAuth,
    /// Whether TLS 1.2 is refused.
    pub only_tls13: bool,
}

impl TlsOptions {
    fn build(&self) -> Result<ServerConfig, TlsError> {
        let versions: &[_] = match self.only_tls13 {
            true => &[&rustls::version::TLS13],
            false => &[&rustls::version::TLS13, &rustls::version::TLS12],
        };
        let provider = provider();
        let own = nsq_tls::own_certificate(&self.certificate, &self.key, &provider)?;
        let verifier = self.client_auth.verifier(self.root_ca.as_deref(), &provider)?;
        Ok(ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(own))))
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        [&self.certificate, &self.key].into_iter().chain(&self.root_ca).map(PathBuf::as_path)
    }

    /// What tells whether the files have changed.
    async fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.paths()).await
    }
}

/// The cryptography that is used everywhere.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// How often files are looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// TLS with the certificates as they are now.
pub struct ServerTls {
    options: TlsOptions,
    current: RwLock<Arc<ServerConfig>>,
    /// What was last read, or tried.
    watch: Mutex<Watch>,
}

impl ServerTls {
    /// Reads the files.
    pub async fn load(options: TlsOptions) -> Result<Self, TlsError> {
        // Before the files are read: what changes meanwhile is read again.
        let fingerprint = options.fingerprint().await;
        let config = options.build()?;
        Ok(Self {
            options,
            current: RwLock::new(Arc::new(config)),
            watch: Mutex::new(Watch::new(fingerprint)),
        })
    }

    /// The configuration for a connection that begins now.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.read().clone()
    }

    /// Reads the files now. If they are no good, everything stays as it is.
    pub async fn reload(&self, logger: &Logger) -> Result<(), TlsError> {
        let fingerprint = self.options.fingerprint().await;
        self.watch.lock().seen(fingerprint);
        match self.options.build() {
            Ok(config) => {
                self.watch.lock().outcome(None);
                *self.current.write() = Arc::new(config);
                crate::info!(logger, "TLS: new certificate from {}", self.options.certificate.display());
                Ok(())
            }
            Err(error) => {
                let unreadable = match &error {
                    TlsError::File(FileError::Unreadable { source, .. }) => Some(source),
                    _ => None,
                };
                if self.watch.lock().outcome(unreadable) {
                    crate::error!(logger, "TLS: the certificate stays as it was - {error}");
                }
                Err(error)
            }
        }
    }

    /// Reads the files whenever they have changed, until stopped.
    pub async fn keep_current(&self, logger: &Logger, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
                () = stop.cancelled() => return,
            }
            let fingerprint = self.options.fingerprint().await;
            let is_due = self.watch.lock().observe(fingerprint);
            if is_due {
                // What went wrong is in the log, and a change for the better will be noticed.
                let _ = self.reload(logger).await;
            }
        }
    }
}
