//! The small HTTP client behind discovery and the admin calls.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::ConfigError;

/// The largest answer that is read: statistics of a large nsqd take some megabytes.
const MAX_RESPONSE_BYTES: usize = 256 << 20;

/// What may stand in a query value as it is.
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Why a request has no usable answer.
#[derive(Debug, Clone)]
pub(crate) enum HttpError {
    /// No connection, or it broke.
    Connect(String),
    Timeout(Duration),
    TooBig,
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HttpError::Connect(reason) => f.write_str(reason),
            HttpError::Timeout(after) => write!(f, "no answer within {after:?}"),
            HttpError::TooBig => write!(f, "the answer is larger than {MAX_RESPONSE_BYTES} bytes"),
        }
    }
}

/// Sends requests; keeps connections alive between them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct HttpClient {
    client: Client<HttpConnector, Full<Bytes>>,
    timeout: Duration,
    user_agent: String,
}

impl HttpClient {
    pub(crate) fn new(connect_timeout: Duration, timeout: Duration, user_agent: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(connect_timeout));
        connector.set_nodelay(true);
        let client =
            Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(30)).build(connector);
        // A user agent that cannot stand in a header is not worth failing for.
        let user_agent = user_agent.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
        HttpClient { client, timeout, user_agent }
    }

    /// One request, redirects not followed. `timeout` covers all of it.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        let exchange = async {
            let request = Request::builder()
                .method(method)
                .uri(url)
                .header(ACCEPT, "application/vnd.nsq; version=1.0")
                .header(USER_AGENT, &self.user_agent)
                .body(Full::new(body))
                .map_err(|e| HttpError::Connect(e.to_string()))?;
            let response =
                self.client.request(request).await.map_err(|e| HttpError::Connect(root_cause(&e)))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES);
            match body.collect().await {
                Ok(body) => Ok((status, body.to_bytes())),
                Err(error) if error.is::<LengthLimitError>() => Err(HttpError::TooBig),
                Err(error) => Err(HttpError::Connect(root_cause(&*error))),
            }
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(HttpError::Timeout(self.timeout)),
        }
    }
}

/// hyper's own words say little ("client error (Connect)"); what the system said is at the end of the chain.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// The base URL of a daemon's HTTP interface, from what users write: `host:port`, `http://host:port`, or
/// either with a path in front of the daemon's own.
pub(crate) fn base_url(address: &str) -> Result<String, ConfigError> {
    let invalid = |expected| ConfigError::InvalidAddress { address: address.to_owned(), expected };
    let rest = match address.split_once("://") {
        Some(("http", rest)) => rest,
        Some(("https", _)) => return Err(invalid("https is not supported by this version of the library")),
        Some(_) => return Err(invalid("write host:port or http://host:port")),
        None => address,
    };
    let rest = rest.trim_end_matches('/');
    // The whole lookup URL is what some tools ask for.
    let rest = rest.strip_suffix("/lookup").unwrap_or(rest);
    let (authority, _path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.is_empty() || rest.contains(['?', '#', ' ']) || !has_port(authority) {
        return Err(invalid("write host:port or http://host:port"));
    }
    let url = format!("http://{rest}");
    match url.parse::<http::Uri>() {
        Ok(_) => Ok(url),
        Err(_) => Err(invalid("write host:port or http://host:port")),
    }
}

fn has_port(authority: &str) -> bool {
    authority.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// `base` + `path` + `?key=value&...`, values percent-encoded (`#ephemeral` needs it).
pub(crate) fn url(base: &str, path: &str, query: &[(&str, &str)]) -> String {
    let mut url = format!("{base}{path}");
    for (position, (key, value)) in query.iter().enumerate() {
        url.push(if position == 0 { '?' } else { '&' });
        url.push_str(key);
        url.push('=');
        url.extend(utf8_percent_encode(value, QUERY_VALUE));
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls() {
        for (address, url) in [
            ("127.0.0.1:4161", "http://127.0.0.1:4161"),
            ("http://lookup-1:4161", "http://lookup-1:4161"),
            ("http://lookup-1:4161/", "http://lookup-1:4161"),
            ("lookup-1:4161/nsq/", "http://lookup-1:4161/nsq"),
            ("http://lookup-1:4161/lookup", "http://lookup-1:4161"),
            ("[::1]:4161", "http://[::1]:4161"),
        ] {
            assert_eq!(base_url(address).unwrap(), url);
        }
        for address in ["", "lookup-1", "ftp://x:1", "https://x:4161", "x:y", "a b:1", "x:1?y", ":4161"] {
            assert!(base_url(address).is_err(), "{address}");
        }
    }

    #[test]
    fn query_values_are_encoded() {
        let url = url("http://h:1", "/lookup", &[("topic", "a_b.C-1#ephemeral"), ("x", "a b&c")]);
        assert_eq!(url, "http://h:1/lookup?topic=a_b.C-1%23ephemeral&x=a%20b%26c");
    }
}
