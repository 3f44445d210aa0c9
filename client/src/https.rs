//! The HTTP client for https. `absent` stands in for it in a build without TLS.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use parking_lot::Mutex;
use rustls::ClientConfig;

use crate::error::ConfigError;
use crate::http::{HttpError, connector, pool, root_cause};
use crate::tls::Tls;

/// Sends requests over TLS, and keeps connections open between them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Https {
    connect_timeout: Duration,
    tls: Tls,
    /// Created at the first use.
    current: Arc<Mutex<Option<Current>>>,
}

/// A client, and the certificates that it uses.
#[derive(Debug)]
struct Current {
    config: Arc<ClientConfig>,
    client: SecureClient,
}

type SecureClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

impl Https {
    pub(crate) fn new(connect_timeout: Duration, tls: Tls) -> Self {
        Https { connect_timeout, tls, current: Arc::default() }
    }

    #[cfg(feature = "admin")]
    pub(crate) fn tls(&self) -> &Tls {
        &self.tls
    }

    pub(crate) async fn request(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, HttpError> {
        let client = self.client().map_err(|error| HttpError::Connect(error.to_string()))?;
        client.request(request).await.map_err(|error| HttpError::Connect(root_cause(&error)))
    }

    /// Returns the client with the current certificates.
    fn client(&self) -> Result<SecureClient, ConfigError> {
        let config = self.tls.client_config()?;
        let mut current = self.current.lock();
        if let Some(current) = &*current
            && Arc::ptr_eq(&current.config, &config)
        {
            return Ok(current.client.clone());
        }
        let https = HttpsConnectorBuilder::new().with_tls_config((*config).clone()).https_only();
        let https = match self.tls.fixed_server_name() {
            Some(name) => https.with_server_name_resolver(FixedServerNameResolver::new(name)),
            None => https,
        };
        let mut connector = connector(self.connect_timeout);
        connector.enforce_http(false);
        let client = pool().build(https.enable_http1().wrap_connector(connector));
        *current = Some(Current { config, client: client.clone() });
        Ok(client)
    }
}
