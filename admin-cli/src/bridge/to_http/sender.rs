//! Sends one HTTP request per message.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use nsq::Tls;

use super::address::{Address, redirected};
use crate::exit_status::Failure;

/// Idle connections per address; more are closed after their request.
const MAX_IDLE: usize = 100;
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
const MAX_REDIRECTS: usize = 10;

/// Why a request was not successful.
#[derive(Debug)]
pub enum SendError {
    /// The server answered with another status.
    Status { status: StatusCode, retry_after: Option<Duration> },
    /// There is no answer.
    Failed(String),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Status { status, .. } => write!(f, "got status code {}", status.as_u16()),
            SendError::Failed(why) => f.write_str(why),
        }
    }
}

/// How requests look, and which answers are good.
#[derive(Debug, Clone)]
pub struct RequestStyle {
    pub method: Method,
    pub content_type: HeaderValue,
    pub user_agent: HeaderValue,
    pub headers: HeaderMap,
    /// Statuses that are success; if empty, NSQ's rule applies.
    pub success: Vec<StatusRange>,
    pub connect_timeout: Duration,
    pub timeout: Duration,
}

#[derive(Debug)]
pub struct Sender {
    connections: Connections,
    style: RequestStyle,
}

/// Connections are kept and shared.
#[derive(Debug)]
enum Connections {
    /// No certificate is read if all addresses are plain HTTP. A redirect to https then fails.
    Plain(Client<HttpConnector, Full<Bytes>>),
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

impl Sender {
    /// `tls` is needed if an address is https.
    pub fn new(style: RequestStyle, tls: Option<&Tls>) -> Result<Self, Failure> {
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(style.connect_timeout));
        tcp.set_nodelay(true);
        tcp.enforce_http(tls.is_none());
        let mut builder = Client::builder(TokioExecutor::new());
        let builder = (builder.pool_timer(TokioTimer::new()))
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE);
        let connections = match tls {
            None => Connections::Plain(builder.build(tcp)),
            Some(tls) => {
                let https = HttpsConnectorBuilder::new().with_tls_config((*tls.client_config()?).clone());
                Connections::Tls(builder.build(https.https_or_http().enable_http1().wrap_connector(tcp)))
            }
        };
        Ok(Sender { connections, style })
    }

    /// Sends a message, with headers of its own, and waits for the answer. GET requests, and POST or PUT requests whose
    /// redirect keeps method and body, follow redirects.
    pub async fn send(&self, address: &Address, body: &Bytes, headers: &HeaderMap) -> Result<(), SendError> {
        let timeout = self.style.timeout;
        match tokio::time::timeout(timeout, self.exchange(address, body, headers)).await {
            Ok(done) => done,
            Err(_) => Err(SendError::Failed(format!("no answer within {timeout:?}"))),
        }
    }

    async fn exchange(&self, address: &Address, body: &Bytes, headers: &HeaderMap) -> Result<(), SendError> {
        let failed = |error: &dyn std::error::Error| SendError::Failed(root_cause(error));
        let is_get = self.style.method == Method::GET;
        let mut uri: Uri = address.uri(body).map_err(|error| failed(&error))?;
        let body = if is_get { Bytes::new() } else { body.clone() };
        for _ in 0..=MAX_REDIRECTS {
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = self.style.method.clone();
            *request.uri_mut() = uri.clone();
            let all = request.headers_mut();
            all.insert(USER_AGENT, self.style.user_agent.clone());
            if !is_get {
                all.insert(CONTENT_TYPE, self.style.content_type.clone());
            }
            for (name, value) in self.style.headers.iter().chain(headers) {
                all.insert(name, value.clone());
            }
            let response = match &self.connections {
                Connections::Plain(client) => client.request(request).await,
                Connections::Tls(client) => client.request(request).await,
            };
            let response = response.map_err(|error| failed(&error))?;
            let status = response.status();
            let location = response.headers().get(LOCATION).cloned();
            let retry_after = retry_after(response.headers());
            // A connection is used again only if its answer was read.
            let mut answer = response.into_body();
            while let Some(frame) = answer.frame().await {
                frame.map_err(|error| failed(&error))?;
            }
            let keeps_body =
                matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
            if status.is_redirection() && (is_get || keeps_body) {
                let target = location.and_then(|location| redirected(&uri, location.to_str().ok()?));
                if let Some(target) = target {
                    uri = target;
                    continue;
                }
            }
            return match is_good(&self.style, status) {
                true => Ok(()),
                false => Err(SendError::Status { status, retry_after }),
            };
        }
        Err(SendError::Failed(format!("more than {MAX_REDIRECTS} redirects")))
    }
}

/// Statuses from the first to the last one.
pub type StatusRange = std::ops::RangeInclusive<u16>;

/// Parses a status or a range, such as 200-299.
pub fn parse_range(text: &str) -> Result<StatusRange, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
        (Ok(first), Ok(last)) if (100..=999).contains(&first) && first <= last && last <= 999 => {
            Ok(first..=last)
        }
        _ => Err("expected a status from 100 to 999, or a range such as 200-299".to_owned()),
    }
}

/// Without `success`, NSQ's rule: exactly 200 for GET, otherwise any 2xx.
fn is_good(style: &RequestStyle, status: StatusCode) -> bool {
    match style.success.is_empty() {
        false => style.success.iter().any(|range| range.contains(&status.as_u16())),
        true if style.method == Method::GET => status == StatusCode::OK,
        true => status.is_success(),
    }
}

/// The pause that the server asks for, in seconds. A date is not understood.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The last error in the chain, which is the system's.
fn root_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => root_cause(source),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_statuses_are_parsed() {
        assert_eq!(parse_range("200-299"), Ok(200..=299));
        assert_eq!(parse_range("304"), Ok(304..=304));
        for wrong in ["", "2", "299-200", "200-", "1000"] {
            assert!(parse_range(wrong).is_err(), "{wrong}");
        }
    }
}
