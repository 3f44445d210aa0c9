//! The HTTP client of the clouds: hyper and rustls, as everywhere else in nsqd.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::BodyExt as _;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use nsq_tls::{Authorities, FileError};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector as Connector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use rustls::{ClientConfig, RootCertStore};

/// Limit for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

type Client = legacy::Client<HttpsConnector<HttpConnector>, HttpRequestBody>;

/// Makes clients that trust the system's authorities.
#[derive(Debug)]
pub(crate) struct SystemClient;

impl Connector for SystemClient {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        let error = |source| object_store::Error::Generic { store: "HTTP", source };
        let roots = match Authorities::load(None) {
            // Without roots, https requests fail; plain http still works.
            Err(FileError::NoRoots) => RootCertStore::empty(),
            authorities => authorities.map_err(|cause| error(cause.into()))?.roots,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|cause| error(cause.into()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        Ok(HttpClient::new(Service(legacy::Client::builder(TokioExecutor::new()).build(connector))))
    }
}

#[derive(Debug)]
struct Service(Client);

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.0.request(request).await.map_err(|error| {
            let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Request };
            HttpError::new(kind, error)
        })?;
        let body = |body: hyper::body::Incoming| {
            HttpResponseBody::new(body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error)))
        };
        Ok(response.map(body))
    }
}
