//! The HTTP client for discovery and the admin calls.

use std::fmt;
use std::path::Path;
use std::time::Duration;
#[cfg(feature = "admin")]
use std::time::SystemTime;

use bytes::Bytes;
#[cfg(feature = "admin")]
use http::header::DATE;
use http::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use http::uri::Scheme;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nsq_protocol::redact::{shown_address, split_user_info};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::config::Secret;
use crate::error::ConfigError;
use crate::https::Https;
use crate::tls::Tls;
use crate::unix_socket::{self, is_socket_path};

/// The maximum size of an answer. The statistics of a large nsqd have some megabytes.
const MAX_RESPONSE_BYTES: usize = 256 << 20;

/// The characters to percent-encode in a query value.
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Why a request has no usable answer.
#[derive(Debug, Clone)]
pub(crate) enum HttpError {
    /// The connection could not be opened, or it broke.
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

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    /// The daemon's time, in whole seconds.
    #[cfg(feature = "admin")]
    pub(crate) date: Option<SystemTime>,
    pub(crate) body: Bytes,
}

/// Sends requests, and keeps connections open between them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct HttpClient {
    #[cfg(all(feature = "admin", feature = "tls"))]
    connect_timeout: Duration,
    timeout: Duration,
    user_agent: String,
    plain: Client<HttpConnector, Full<Bytes>>,
    secure: Https,
    /// The `Authorization` header, and whether to send it only over https.
    bearer: Option<(HeaderValue, OnlyHttps)>,
}

/// Whether a secret must not be sent over plain HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OnlyHttps(pub(crate) bool);

impl HttpClient {
    pub(crate) fn new(connect_timeout: Duration, timeout: Duration, user_agent: &str, tls: Tls) -> Self {
        // Remove characters that are invalid in a header, instead of failing.
        let user_agent = user_agent.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
        HttpClient {
            #[cfg(all(feature = "admin", feature = "tls"))]
            connect_timeout,
            timeout,
            user_agent,
            plain: pool().build(connector(connect_timeout)),
            secure: Https::new(connect_timeout, tls),
            bearer: None,
        }
    }

    /// Returns a client with other timeouts.
    #[cfg(feature = "admin")]
    pub(crate) fn with_timeouts(&self, connect_timeout: Duration, timeout: Duration) -> Self {
        let bearer = self.bearer.clone();
        HttpClient {
            bearer,
            ..Self::new(connect_timeout, timeout, &self.user_agent, self.secure.tls().clone())
        }
    }

    /// Returns a client with other certificates.
    #[cfg(all(feature = "admin", feature = "tls"))]
    pub(crate) fn with_tls(&self, tls: Tls) -> Self {
        let bearer = self.bearer.clone();
        HttpClient { bearer, ..Self::new(self.connect_timeout, self.timeout, &self.user_agent, tls) }
    }

    /// Returns the client with another secret. A secret that is not a valid header value is not sent.
    pub(crate) fn with_secret(mut self, secret: Option<&Secret>, only_https: OnlyHttps) -> Self {
        let value =
            secret.and_then(|secret| HeaderValue::try_from(format!("Bearer {}", secret.reveal())).ok());
        self.bearer = value.map(|mut value| {
            value.set_sensitive(true);
            (value, only_https)
        });
        self
    }

    /// Sends one request, within `timeout`. Does not follow redirects. If the daemon answers that it requires https,
    /// sends the request again to its https port.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        self.exchange(method, url, body).await.map(|reply| (reply.status, reply.body))
    }

    /// Like [`send`](Self::send), with the whole answer.
    pub(crate) async fn exchange(&self, method: Method, url: &str, body: Bytes) -> Result<Reply, HttpError> {
        let exchange = async {
            let reply = self.send_once(method.clone(), url, body.clone()).await?;
            match https_instead(url, reply.status, &reply.body) {
                Some(url) => self.send_once(method, &url, body).await,
                None => Ok(reply),
            }
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(HttpError::Timeout(self.timeout)),
        }
    }

    async fn send_once(&self, method: Method, url: &str, body: Bytes) -> Result<Reply, HttpError> {
        let (socket, uri) = match url.strip_prefix(UNIX_SCHEME).and_then(|url| url.split_once(SOCKET_END)) {
            Some((path, target)) => (Some(path), format!("/{target}")),
            None => (None, url.to_owned()),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header(ACCEPT, "application/vnd.nsq; version=1.0")
            .header(USER_AGENT, &self.user_agent)
            .body(Full::new(body))
            .map_err(|e| HttpError::Connect(e.to_string()))?;
        let is_https = request.uri().scheme() == Some(&Scheme::HTTPS);
        if let Some((bearer, only_https)) = &self.bearer
            && (is_https || *only_https == OnlyHttps(false))
        {
            request.headers_mut().insert(AUTHORIZATION, bearer.clone());
        }
        let response = match socket {
            Some(path) => over_unix_socket(path, request).await?,
            None if is_https => self.secure.request(request).await?,
            None => self.plain.request(request).await.map_err(|e| HttpError::Connect(root_cause(&e)))?,
        };
        let status = response.status();
        #[cfg(feature = "admin")]
        let date = {
            let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
            date.and_then(|date| httpdate::parse_http_date(date).ok())
        };
        let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES);
        match body.collect().await {
            Ok(body) => Ok(Reply {
                status,
                #[cfg(feature = "admin")]
                date,
                body: body.to_bytes(),
            }),
            Err(error) if error.is::<LengthLimitError>() => Err(HttpError::TooBig),
            Err(error) => Err(HttpError::Connect(root_cause(&*error))),
        }
    }
}

/// Sends one request over a new connection, which is cheap on the same machine.
async fn over_unix_socket(
    path: &str,
    mut request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, HttpError> {
    let stream =
        unix_socket::connect(Path::new(path)).await.map_err(|e| HttpError::Connect(e.to_string()))?;
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    let failed = |error: hyper::Error| HttpError::Connect(root_cause(&error));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // The task reads the body of the answer. It ends with the body, or when the answer is dropped.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(failed)
}

pub(crate) fn connector(connect_timeout: Duration) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(connect_timeout));
    connector.set_nodelay(true);
    connector
}

pub(crate) fn pool() -> hyper_util::client::legacy::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_idle_timeout(Duration::from_secs(30));
    builder
}

/// Returns the https URL for a second request if the answer is nsqd's `TLS_REQUIRED`.
fn https_instead(url: &str, status: StatusCode, answer: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct TlsRequired {
        https_port: u16,
    }
    let rest = url.strip_prefix("http://").filter(|_| status == StatusCode::FORBIDDEN)?;
    let required: TlsRequired =
        serde_json::from_slice(answer).ok().filter(|r: &TlsRequired| r.https_port != 0)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, _) = authority.rsplit_once(':')?;
    Some(format!("https://{host}:{}{path}", required.https_port))
}

/// Returns the last error in the chain, which is the system's. hyper's own text says little ("client error (Connect)").
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// The start of the base URL of a unix socket.
const UNIX_SCHEME: &str = "unix:";
/// The separator between the path of the socket and the path of a request.
const SOCKET_END: &str = ":/";

/// Returns the base URL of a daemon's HTTP interface for an address: `host:port`, `http://host:port` or
/// `https://host:port`, each with an optional path prefix. The path of a unix socket becomes `unix:PATH:`.
pub(crate) fn base_url(address: &str) -> Result<String, ConfigError> {
    let invalid = |expected| ConfigError::InvalidAddress { address: shown_address(address), expected };
    const EXPECTED: &str =
        "write host:port, http://host:port, https://host:port, or the path of a unix socket";
    if is_socket_path(address) {
        unix_socket::check(address)?;
        if address.contains(SOCKET_END) {
            return Err(invalid("the path of a unix socket must not contain a colon before a slash"));
        }
        return Ok(format!("{UNIX_SCHEME}{address}:"));
    }
    let (scheme, rest) = match address.split_once("://") {
        Some(("https", _)) if !cfg!(feature = "tls") => {
            return Err(ConfigError::FeatureOff { what: "an https address", feature: "tls" });
        }
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some(_) => return Err(invalid(EXPECTED)),
        None => ("http", address),
    };
    let rest = rest.trim_end_matches('/');
    // Some tools require the whole lookup URL, so accept it here too.
    let rest = rest.strip_suffix("/lookup").unwrap_or(rest);
    let (authority, _path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.is_empty() || rest.contains(['?', '#', ' ']) || !has_port(authority) {
        return Err(invalid(EXPECTED));
    }
    // User and password are not used, and errors would show them.
    let (_, url) = split_user_info(&format!("{scheme}://{rest}"));
    match url.parse::<http::Uri>() {
        Ok(_) => Ok(url),
        Err(_) => Err(invalid(EXPECTED)),
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
    fn base_url_is_derived_from_the_address() {
        for (address, url) in [
            ("127.0.0.1:4161", "http://127.0.0.1:4161"),
            ("http://lookup-1:4161", "http://lookup-1:4161"),
            ("http://lookup-1:4161/", "http://lookup-1:4161"),
            ("lookup-1:4161/nsq/", "http://lookup-1:4161/nsq"),
            ("http://lookup-1:4161/lookup", "http://lookup-1:4161"),
            ("[::1]:4161", "http://[::1]:4161"),
            ("http://user:password@lookup-1:4161", "http://lookup-1:4161"),
            ("https://nsqd-1:4152/nsq/", "https://nsqd-1:4152/nsq"),
            ("/run/nsqd.sock", "unix:/run/nsqd.sock:"),
        ] {
            assert_eq!(base_url(address).unwrap(), url);
        }
        for address in ["", "lookup-1", "ftp://x:1", "https://x", "x:y", "a b:1", "x:1?y", ":4161", "/a:/b"] {
            assert!(base_url(address).is_err(), "{address}");
        }
    }

    #[test]
    fn tls_required_answer_leads_to_the_https_port() {
        let answer = br#"{"message": "TLS_REQUIRED", "https_port": 4152}"#;
        let again = |url, status, answer: &[u8]| https_instead(url, status, answer);
        let forbidden = StatusCode::FORBIDDEN;
        let url = "http://[::1]:4151/stats?format=json";
        assert_eq!(again(url, forbidden, answer).unwrap(), "https://[::1]:4152/stats?format=json");
        assert_eq!(again(url, StatusCode::OK, answer), None);
        assert_eq!(again(url, forbidden, br#"{"message": "TLS_REQUIRED", "https_port": 0}"#), None);
        assert_eq!(again(url, forbidden, br#"{"message":"E_UNAUTHORIZED"}"#), None);
        assert_eq!(again("https://h:1/x", forbidden, answer), None);
    }

    #[test]
    fn query_values_are_encoded() {
        let url = url("http://h:1", "/lookup", &[("topic", "a_b.C-1#ephemeral"), ("x", "a b&c")]);
        assert_eq!(url, "http://h:1/lookup?topic=a_b.C-1%23ephemeral&x=a%20b%26c");
    }
}
