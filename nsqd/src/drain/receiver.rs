//! The nsqd to which a drain moves messages, as the node that drains sees it.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use nsq_daemon::tls::TlsError;
use nsq_protocol::{ChannelName, TopicName};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::wire::{self, BatchAnswer, BeginAnswer, BeginBody, Phase};
use crate::https::{HttpsClient, HttpsOptions, root_cause};
use crate::storage::record::TransferId;
use crate::topic::adopting::IncomingBatch;

/// Limit for a whole request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum size of an answer.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Which messages a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub topic: TopicName,
    /// `None` for messages that no channel has.
    pub channel: Option<ChannelName>,
    pub transfer: TransferId,
    /// The run of the drain.
    pub session: u64,
}

/// `topic/channel`, or `topic` alone.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.channel {
            Some(channel) => write!(f, "{}/{channel}", self.topic),
            None => write!(f, "{}", self.topic),
        }
    }
}

/// Adopts messages. Dropping a future leaves open whether the request took effect.
pub trait Receiver: Send + Sync {
    /// Creates what is missing. Returns which messages of the newest batch are stored there.
    fn begin(
        &self,
        subject: &Subject,
        body: &BeginBody,
    ) -> impl Future<Output = Result<BeginAnswer, SendError>> + Send;

    /// Stores a batch, durably.
    fn batch(
        &self,
        subject: &Subject,
        batch: &IncomingBatch,
    ) -> impl Future<Output = Result<BatchAnswer, SendError>> + Send;

    /// The transfer is complete.
    fn end(&self, subject: &Subject) -> impl Future<Output = Result<(), SendError>> + Send;
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendError {
    pub text: String,
    /// Another attempt would fail, too.
    pub is_final: bool,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl SendError {
    pub fn temporary(text: impl ToString) -> Self {
        SendError { text: text.to_string(), is_final: false }
    }

    pub fn lasting(text: impl ToString) -> Self {
        SendError { text: text.to_string(), is_final: true }
    }

    /// The error that an answer is. `message` is its text.
    fn of_answer(target: &Target, status: StatusCode, message: &str) -> Self {
        let text = match status {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED if !message.contains(':') => {
                return SendError::lasting(format!(
                    "{target} cannot adopt messages: it is NSQ's own nsqd, or an older version"
                ));
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => format!(
                "{target} answered {status} {message}; --drain-to-token-file must hold a token with the permission adopt"
            ),
            _ => format!("{target} answered {status} {message}"),
        };
        let may_pass = status.is_server_error()
            || status == StatusCode::TOO_MANY_REQUESTS
            || status == StatusCode::REQUEST_TIMEOUT
            || message.starts_with(BEGIN_AGAIN);
        SendError { text, is_final: !may_pass || message.starts_with(DRAINING) }
    }
}

/// The first word of the answer if the sender must begin the transfer again.
pub const BEGIN_AGAIN: &str = "BEGIN_AGAIN";
/// The first word of the answer if the receiver drains, too.
pub const DRAINING: &str = "DRAINING";

/// The address of an nsqd's HTTP API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(String);

/// Why an address is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not the HTTP address of an nsqd; expected host:port, or a URL such as https://10.0.0.2:4152"
)]
pub struct InvalidTarget(String);

impl Target {
    /// Parses `host:port`, `http://host:port` or `https://host:port`.
    pub fn parse(text: &str) -> Result<Self, InvalidTarget> {
        let invalid = || InvalidTarget(text.to_owned());
        let url = match text.split_once("://") {
            None => format!("http://{text}"),
            Some(("http" | "https", _)) => text.trim_end_matches('/').to_owned(),
            Some(_) => return Err(invalid()),
        };
        let uri: Uri = url.parse().map_err(|_| invalid())?;
        let is_bare = uri.path_and_query().is_none_or(|path| path.as_str() == "/");
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let has_port = authority.is_some_and(|authority| authority.port_u16().is_some_and(|port| port > 0));
        if is_bare && has_port { Ok(Target(url)) } else { Err(invalid()) }
    }
}

/// Without `http://`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.strip_prefix("http://").unwrap_or(&self.0))
    }
}

/// How to reach receivers.
#[derive(Debug, Clone)]
pub struct ReceiverOptions {
    pub https: HttpsOptions,
    /// File with the token to send; `None` for none.
    pub token_file: Option<PathBuf>,
    /// The node that drains: HTTP address.
    pub source: String,
}

/// Why no request can be sent.
#[derive(Debug, thiserror::Error)]
pub enum CannotSend {
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("cannot read --drain-to-token-file {path}: {error}", path = .0.display(), error = .1)]
    TokenFile(PathBuf, std::io::Error),
    #[error("--drain-to-token-file {} does not hold one token", .0.display())]
    NotAToken(PathBuf),
}

/// An nsqd that is reached over HTTP.
pub struct HttpReceiver {
    target: Target,
    client: HttpsClient,
    authorization: Option<HeaderValue>,
}

impl HttpReceiver {
    /// Reads the token and the certificates. Sends nothing.
    pub fn new(target: Target, options: &ReceiverOptions) -> Result<Self, CannotSend> {
        let authorization = options.token_file.as_ref().map(|path| {
            let text =
                std::fs::read_to_string(path).map_err(|error| CannotSend::TokenFile(path.clone(), error))?;
            let token = text.trim();
            let header = HeaderValue::try_from(format!("Bearer {token}"));
            match header {
                Ok(mut header) if !token.is_empty() && !token.contains(char::is_whitespace) => {
                    header.set_sensitive(true);
                    Ok(header)
                }
                _ => Err(CannotSend::NotAToken(path.clone())),
            }
        });
        Ok(HttpReceiver {
            target,
            client: options.https.client()?,
            authorization: authorization.transpose()?,
        })
    }

    async fn ask<T: DeserializeOwned + Default>(
        &self,
        subject: &Subject,
        phase: Phase,
        body: Bytes,
    ) -> Result<T, SendError> {
        match timeout(REQUEST_TIMEOUT, self.exchange(subject, phase, body)).await {
            Ok(Ok(answer)) if answer.is_empty() => Ok(T::default()),
            Ok(Ok(answer)) => serde_json::from_slice(&answer).map_err(|error| {
                SendError::lasting(format!("no usable answer from {}: {error}", self.target))
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(SendError::temporary(format!(
                "no answer from {} within {REQUEST_TIMEOUT:?}",
                self.target
            ))),
        }
    }

    async fn exchange(&self, subject: &Subject, phase: Phase, body: Bytes) -> Result<Bytes, SendError> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            SendError::temporary(format!("cannot reach {}: {}", self.target, root_cause(error)))
        };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{}", self.target.0, path(subject, phase)))
            .header(ACCEPT, "application/vnd.nsq; version=1.0");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request =
            request.body(Full::new(body)).map_err(|error| SendError::lasting(root_cause(&error)))?;
        let response = self.client.request(request).await.map_err(|error| failed(&error))?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let answer = answer.map_err(|error| failed(&*error))?.to_bytes();
        if status == StatusCode::OK {
            return Ok(answer);
        }
        Err(SendError::of_answer(&self.target, status, &error_text(&answer)))
    }
}

/// Path and query of a request.
fn path(subject: &Subject, phase: Phase) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let channel = subject.channel.as_ref().map(|channel| format!("&channel={}", encode(channel.as_str())));
    format!(
        "/channel/adopt?topic={}{}&transfer={}&session={}&phase={}",
        encode(subject.topic.as_str()),
        channel.unwrap_or_default(),
        subject.transfer,
        subject.session,
        phase.word()
    )
}

/// The text of an error answer.
fn error_text(answer: &[u8]) -> String {
    let parsed: Option<HashMap<String, serde_json::Value>> = serde_json::from_slice(answer).ok();
    let message = parsed.as_ref().and_then(|fields| fields.get("message")?.as_str());
    match message {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(&answer[..answer.len().min(200)]).trim().to_owned(),
    }
}

impl Receiver for HttpReceiver {
    async fn begin(&self, subject: &Subject, body: &BeginBody) -> Result<BeginAnswer, SendError> {
        // Serializing texts cannot fail.
        let body = serde_json::to_vec(body).unwrap_or_default();
        self.ask(subject, Phase::Begin, body.into()).await
    }

    async fn batch(&self, subject: &Subject, batch: &IncomingBatch) -> Result<BatchAnswer, SendError> {
        self.ask(subject, Phase::Batch, wire::encode(batch)).await
    }

    async fn end(&self, subject: &Subject) -> Result<(), SendError> {
        self.ask::<BatchAnswer>(subject, Phase::End, Bytes::new()).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_port_or_a_url() {
        let shown = |text: &str| Target::parse(text).map(|target| target.to_string());
        assert_eq!(shown("b:4151").unwrap(), "b:4151");
        assert_eq!(shown("http://b:4151/").unwrap(), "b:4151");
        assert_eq!(shown("[::1]:4151").unwrap(), "[::1]:4151");
        assert_eq!(shown("https://b:4152").unwrap(), "https://b:4152");
        for bad in
            ["", "b", "b:0", "b:4151/x", "ftp://b:1", "https://b", "http://u:p@b:4151", "a b:1", "b:99999"]
        {
            assert!(shown(bad).unwrap_err().to_string().contains("expected host:port"), "{bad}");
        }
    }

    #[test]
    fn names_and_numbers_of_a_request_are_in_its_query() {
        let subject = Subject {
            topic: TopicName::new("orders.x").unwrap(),
            channel: Some(ChannelName::new("a_b").unwrap()),
            transfer: TransferId(42),
            session: 7,
        };
        assert_eq!(
            path(&subject, Phase::Batch),
            "/channel/adopt?topic=orders%2Ex&channel=a%5Fb&transfer=0000000000000000000000000000002a&session=7&phase=batch"
        );
        assert_eq!(subject.to_string(), "orders.x/a_b");
        let held = Subject { channel: None, ..subject };
        assert!(path(&held, Phase::Begin).contains("topic=orders%2Ex&transfer="));
    }

    #[test]
    fn only_some_errors_may_pass() {
        let target = Target::parse("b:1").unwrap();
        let error = |status, text| SendError::of_answer(&target, status, text);
        assert!(error(StatusCode::NOT_FOUND, "NOT_FOUND").text.contains("older version"));
        assert!(error(StatusCode::FORBIDDEN, "FORBIDDEN").text.contains("permission adopt"));
        for (status, text, is_final) in [
            (StatusCode::NOT_FOUND, "NOT_FOUND", true),
            (StatusCode::FORBIDDEN, "FORBIDDEN", true),
            (StatusCode::CONFLICT, "SAME_NODE: it is this nsqd", true),
            (StatusCode::CONFLICT, "BEGIN_AGAIN: no such transfer", false),
            (StatusCode::SERVICE_UNAVAILABLE, "DRAINING: it drains", true),
            (StatusCode::SERVICE_UNAVAILABLE, "EXITING", false),
            (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", false),
            (StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_BIG", true),
        ] {
            assert_eq!(error(status, text).is_final, is_final, "{status} {text}");
        }
        assert_eq!(error_text(b"{\"message\":\"EXITING\"}"), "EXITING");
        assert_eq!(error_text(b"<html>"), "<html>");
    }
}
