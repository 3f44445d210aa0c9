//! Asks an nsqlookupd over HTTP for the channels of a topic, or for the nodes that carry it.

use std::error::Error;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nsq_protocol::discovery::{self, LookupResponse, Producer};
use nsq_protocol::{ChannelsResponse, TopicName};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

/// Limits of a query.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueryLimits {
    /// Limit for connecting.
    pub connect_timeout: Duration,
    /// Limit for the whole query.
    pub request_timeout: Duration,
    /// Maximum size of the answer.
    pub max_body_bytes: usize,
}

/// Why a query failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum QueryError {
    #[error("cannot connect to {address}: {reason}")]
    Connect { address: String, reason: String },
    #[error("no answer from {address} within {after:?}")]
    TimedOut { address: String, after: Duration },
    #[error("{address} answered {status}")]
    Status { address: String, status: StatusCode },
    #[error("the answer of {address} is larger than {max} bytes")]
    TooBig { address: String, max: usize },
    #[error("no usable answer from {address}: {reason}")]
    Http { address: String, reason: String },
}

/// Asks the nsqlookupd at the HTTP address `address` for the names of the topic's channels. Each query uses a new
/// connection, because topics are created rarely.
pub(super) async fn channels_of(
    address: &str,
    topic: &TopicName,
    limits: QueryLimits,
) -> Result<Vec<String>, QueryError> {
    let answer: ChannelsResponse = ask(address, "channels", topic, limits).await?;
    Ok(answer.channels)
}

/// Asks the nsqlookupd at the HTTP address `address` for the nodes that carry the topic.
pub(super) async fn nodes_of(
    address: &str,
    topic: &TopicName,
    limits: QueryLimits,
) -> Result<Vec<Producer>, QueryError> {
    let answer: LookupResponse = ask(address, "lookup", topic, limits).await?;
    Ok(answer.producers)
}

async fn ask<T: DeserializeOwned>(
    address: &str,
    endpoint: &str,
    topic: &TopicName,
    limits: QueryLimits,
) -> Result<T, QueryError> {
    let after = limits.request_timeout;
    match timeout(after, ask_without_limit(address, endpoint, topic, limits)).await {
        Ok(answer) => answer,
        Err(_) => Err(QueryError::TimedOut { address: address.to_owned(), after }),
    }
}

async fn ask_without_limit<T: DeserializeOwned>(
    address: &str,
    endpoint: &str,
    topic: &TopicName,
    limits: QueryLimits,
) -> Result<T, QueryError> {
    let cannot_connect = |reason: String| QueryError::Connect { address: address.to_owned(), reason };
    let stream = timeout(limits.connect_timeout, nsq_dial::dial(address, limits.connect_timeout))
        .await
        .map_err(|_| cannot_connect(format!("timed out after {:?}", limits.connect_timeout)))?
        .map_err(|error| cannot_connect(error.to_string()))?;
    let unusable =
        |error: &dyn Error| QueryError::Http { address: address.to_owned(), reason: root_cause(error) };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| unusable(&error))?;
    // '#' is the only character of valid names with a meaning in a URL.
    let path = format!("/{endpoint}?topic={}", topic.as_str().replace('#', "%23"));
    let request = Request::get(path)
        .header(HOST, address)
        .header(ACCEPT, "application/vnd.nsq; version=1.0")
        .header(USER_AGENT, format!("nsqd/{}", nsq_daemon::NSQ_VERSION))
        .body(Empty::<Bytes>::new())
        .map_err(|error| unusable(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| unusable(&error))?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(QueryError::Status { address: address.to_owned(), status });
        }
        let max = limits.max_body_bytes;
        let body = Limited::new(response.into_body(), max).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                QueryError::TooBig { address: address.to_owned(), max }
            } else {
                unusable(&*error)
            }
        })?;
        discovery::parse::<T>(&body.to_bytes()).map_err(|error| unusable(&error))
    };
    // The connection must be polled too. It may end before the answer has been read from it.
    match select(pin!(exchange), pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        Either::Right((_, exchange)) => exchange.await,
    }
}

/// The last error in the chain: it has the system's message, hyper's own messages say little.
fn root_cause(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}

/// Joins host and port; adds brackets to an IPv6 host.
pub(super) fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    /// Answers one request with these bytes and closes; returns the request.
    async fn serve(answer: &'static [u8]) -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let request = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.is_ok_and(|n| n > 0)
            {
            }
            stream.write_all(answer).await.unwrap();
            if answer.is_empty() {
                // No answer: wait until the client gives up.
                let _ = stream.read_buf(&mut request).await;
            }
            String::from_utf8(request).unwrap()
        });
        (address, request)
    }

    async fn ask_for(topic: &str, answer: &'static [u8]) -> (Result<Vec<String>, QueryError>, String) {
        let (address, request) = serve(answer).await;
        let limits = QueryLimits {
            connect_timeout: Duration::from_secs(5),
            request_timeout: if answer.is_empty() {
                Duration::from_millis(50)
            } else {
                Duration::from_secs(30)
            },
            max_body_bytes: 100,
        };
        let channels = channels_of(&address, &TopicName::new(topic).unwrap(), limits).await;
        (channels, request.await.unwrap())
    }

    #[tokio::test]
    async fn query_returns_the_channels() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n{\"channels\":[\"c1\",\"c2\"]}";
        let (channels, request) = ask_for("t#ephemeral", answer).await;
        assert_eq!(channels.unwrap(), ["c1", "c2"]);
        assert!(request.starts_with("GET /channels?topic=t%23ephemeral HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("accept: application/vnd.nsq; version=1.0\r\n"), "{request}");
    }

    #[tokio::test]
    async fn answer_without_length_ends_with_the_connection() {
        let (channels, _) = ask_for("t", b"HTTP/1.0 200 OK\r\n\r\n{\"channels\":[\"c1\"]}").await;
        assert_eq!(channels.unwrap(), ["c1"]);
    }

    #[tokio::test]
    async fn invalid_answers_are_errors() {
        let failure = async |answer| ask_for("t", answer).await.0.unwrap_err();
        assert!(matches!(failure(b"").await, QueryError::TimedOut { .. }));
        assert!(matches!(failure(b"HTTP/1.1 500 Oh\r\n\r\n").await, QueryError::Status { .. }));
        assert!(matches!(failure(b"HTTP/1.1 200 OK\r\n\r\n[").await, QueryError::Http { .. }));
        assert!(matches!(failure(b"SSH-2.0\r\n\r\n").await, QueryError::Http { .. }));
        let big = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}";
        assert!(matches!(failure(big).await, QueryError::TooBig { .. } | QueryError::Http { .. }));
        assert!(matches!(failure(&[b'a'; 5000]).await, QueryError::Http { .. }));
    }

    #[test]
    fn ipv6_hosts_get_brackets() {
        assert_eq!(join_host_port("h", 1), "h:1");
        assert_eq!(join_host_port("::1", 1), "[::1]:1");
        assert_eq!(join_host_port("[::1]", 1), "[::1]:1");
    }
}
