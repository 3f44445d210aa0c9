//! TLS for listeners: certificates from files, reloaded when the files change or on request.
//!
//! - [`client_auth`]: requirements for a client's certificate
//! - [`stream`]: handshakes with a deadline, and their result
//! - this file: [`ServerTls`], the configuration of new connections
//!
//! A connection keeps the certificate that it started with: a reload ends no connection.

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
pub use self::stream::{HandshakeError, TlsSession, TlsStream};
use crate::log::Logger;
use crate::watch::{Fingerprint, Watch};

/// Why certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or parsed.
    #[error("{0}")]
    File(#[from] FileError),
    /// Certificate and key do not match, or are of an unsupported kind.
    #[error("{0}")]
    Unusable(#[from] rustls::Error),
}

/// Files and policy of a TLS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// PEM file with the server's certificate, followed by the intermediates up to its root.
    pub certificate: PathBuf,
    /// PEM file with the private key of the certificate.
    pub key: PathBuf,
    /// PEM file with the authorities for client certificates; `None` for those of the system.
    pub root_ca: Option<PathBuf>,
    /// Requirements for client certificates.
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

    /// Changes when one of the files changes.
    async fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.paths()).await
    }
}

/// The cryptography provider of all TLS code.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// How often the files are checked for changes.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// TLS with the certificates in use now.
pub struct ServerTls {
    options: TlsOptions,
    current: RwLock<Arc<ServerConfig>>,
    /// The state of the files that was last read or tried.
    watch: Mutex<Watch>,
}

impl ServerTls {
    /// Reads the files and fails if they are unusable.
    pub async fn load(options: TlsOptions) -> Result<Self, TlsError> {
        // Taken before the files are read, so that a change in the meantime triggers a reload.
        let fingerprint = options.fingerprint().await;
        let config = options.build()?;
        Ok(Self {
            options,
            current: RwLock::new(Arc::new(config)),
            watch: Mutex::new(Watch::new(fingerprint)),
        })
    }

    /// The configuration for a connection that starts now.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.read().clone()
    }

    /// Reads the files now and logs the result. Unusable files are an error and change nothing.
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
                    crate::error!(
                        logger,
                        "TLS: cannot reload the certificate, keeping the current one: {error}"
                    );
                }
                Err(error)
            }
        }
    }

    /// Reloads the files whenever they have changed, until `stop` is cancelled.
    pub async fn keep_current(&self, logger: &Logger, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
                () = stop.cancelled() => return,
            }
            let fingerprint = self.options.fingerprint().await;
            let is_due = self.watch.lock().observe(fingerprint);
            if is_due {
                // `reload` logs failures, and the next change of the files triggers another try.
                let _ = self.reload(logger).await;
            }
        }
    }
}
