//! Requests to Graphite and to the endpoint of notifications.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use nsq::Tls;

/// Maximum size of an answer. A large graph has some 100 KiB.
const MAX_ANSWER_BYTES: usize = 32 << 20;

/// Sends requests, each within a time limit.
#[derive(Clone)]
pub struct Outgoing {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
}

/// An answer.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Outgoing {
    pub fn new(tls: &Tls, connect_timeout: Duration, timeout: Duration) -> Result<Self, String> {
        let config = tls.client_config().map_err(|error| error.to_string())?;
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(connect_timeout));
        connector.enforce_http(false);
        let https = HttpsConnectorBuilder::new().with_tls_config((*config).clone()).https_or_http();
        let client =
            Client::builder(TokioExecutor::new()).build(https.enable_http1().wrap_connector(connector));
        Ok(Outgoing { client, timeout })
    }

    /// Posts JSON. An error says why it did not arrive.
    pub async fn post_json(&self, url: &str, body: Bytes) -> Result<(), String> {
        let answer = self.send(Method::POST, url, body).await?;
        if answer.status.is_success() { Ok(()) } else { Err(format!("{url} answered {}", answer.status)) }
    }

    pub async fn get(&self, url: &str) -> Result<Answer, String> {
        self.send(Method::GET, url, Bytes::new()).await
    }

    async fn send(&self, method: Method, url: &str, body: Bytes) -> Result<Answer, String> {
        let mut request = Request::builder().method(method).uri(url).header(ACCEPT, "*/*");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| error.to_string())?;
            let (head, body) = answer.into_parts();
            let body =
                Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|error| error.to_string())?;
            Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(done) => done.map_err(|why: String| format!("{url}: {why}")),
            Err(_) => Err(format!("{url}: no answer within {:?}", self.timeout)),
        }
    }
}
