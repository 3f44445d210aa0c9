//! HTTP clients for requests to other servers: auth servers, and the nsqd to which a drain moves messages.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use nsq_daemon::tls::files::{Authorities, FileError};
use nsq_daemon::tls::{self, TlsError};
use rustls::{ClientConfig, RootCertStore};

/// Keeps connections open and uses them again.
pub type HttpsClient = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// How to connect.
#[derive(Debug, Clone)]
pub struct HttpsOptions {
    /// Limit for connecting.
    pub connect_timeout: Duration,
    /// PEM file of trusted authorities for https; `None` for the system's authorities.
    pub root_ca: Option<PathBuf>,
    /// Whether TLS 1.2 is refused.
    pub only_tls13: bool,
}

impl HttpsOptions {
    /// A client for http and https. Reads the file of authorities, and sends nothing.
    pub fn client(&self) -> Result<HttpsClient, TlsError> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(self.connect_timeout));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(self.tls_config()?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        Ok(legacy::Client::builder(TokioExecutor::new()).build(connector))
    }

    fn tls_config(&self) -> Result<ClientConfig, TlsError> {
        let roots = match Authorities::load(self.root_ca.as_deref().map(Path::as_ref)) {
            // Without roots, https requests fail; plain http still works.
            Err(FileError::NoRoots) => RootCertStore::empty(),
            authorities => authorities?.roots,
        };
        let versions: &[_] = match self.only_tls13 {
            true => &[&rustls::version::TLS13],
            false => &[&rustls::version::TLS13, &rustls::version::TLS12],
        };
        Ok(ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(versions)?
            .with_root_certificates(roots)
            .with_no_client_auth())
    }
}

/// The last error in the chain: it has the system's message, hyper's own messages say little.
pub fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
