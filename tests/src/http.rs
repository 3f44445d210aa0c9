//! A small HTTP/1.1 client. It can also send malformed requests and read the responses.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wire::Stream;

/// Time limit for one exchange.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// An HTTP response.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// Headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, without transfer encoding.
    pub body: Bytes,
    /// The request, for messages of failed assertions.
    asked: String,
}

impl Response {
    /// A header's value; the name may be in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == &name.to_lowercase()).map(|(_, value)| &value[..])
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: not JSON ({error}): {}", self.asked, self.text()))
    }

    /// Asserts the status and returns the response.
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {}", self.asked, self.text());
        self
    }

    /// Asserts an error in NSQ's JSON form.
    pub fn expect_error(self, status: u16, word: &str) {
        let asked = self.asked.clone();
        let body = self.expect(status).text();
        assert_eq!(body, format!("{{\"message\":\"{word}\"}}"), "{asked}");
    }
}

/// Sends one request over a new connection.
pub async fn request(address: SocketAddr, method: &str, target: &str, body: &[u8]) -> Response {
    request_with(address, method, target, &[], body).await
}

/// Sends one request with additional headers.
pub async fn request_with(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() || method == "POST" || method == "PUT" {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head += "\r\n";
    let bytes = [head.as_bytes(), body].concat();
    raw(address, &bytes).await.unwrap_or_else(|| panic!("{method} {target}: closed without a response"))
}

/// Sends raw bytes and reads one response; `None` if the connection closes without one.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> Option<Response> {
    let asked: String = bytes.iter().take_while(|byte| **byte != b'\r').map(|byte| *byte as char).collect();
    let mut connection = Connection::open(address).await;
    connection.send(bytes).await;
    connection.answer(asked).await
}

/// A connection that can be used for several requests.
pub struct Connection {
    stream: Box<dyn Stream>,
    received: BytesMut,
}

impl Connection {
    /// Connects and sends nothing.
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_nodelay(true).expect("no-delay can be set");
        Self::over(Box::new(stream))
    }

    /// Uses an open stream, such as one over TLS.
    pub fn over(stream: Box<dyn Stream>) -> Self {
        Connection { stream, received: BytesMut::new() }
    }

    /// The stream, and bytes that were read and belong to no response.
    pub fn into_parts(self) -> (Box<dyn Stream>, BytesMut) {
        (self.stream, self.received)
    }

    /// Sends raw bytes. Ignores errors: the daemon may respond and close before it has read everything.
    pub async fn send(&mut self, bytes: &[u8]) {
        let sending = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        let sent = tokio::time::timeout(PATIENCE, sending).await;
        let _ = sent.unwrap_or_else(|_| panic!("sending a request stalled for {PATIENCE:?}"));
    }

    /// Reads one response; `None` if the connection closes without one.
    pub async fn answer(&mut self, asked: impl Into<String>) -> Option<Response> {
        let asked = asked.into();
        let read = tokio::time::timeout(PATIENCE, self.read_answer(asked.clone())).await;
        read.unwrap_or_else(|_| panic!("{asked}: no complete response within {PATIENCE:?}"))
    }

    /// Reads the head of a response whose body does not end.
    pub async fn head(&mut self, asked: impl Into<String>) -> Option<Response> {
        let read = tokio::time::timeout(PATIENCE, self.read_head(asked.into())).await;
        read.expect("a response begins in time")
    }

    /// Reads one chunk of a body; `None` at its end.
    pub async fn chunk(&mut self) -> Option<Bytes> {
        let size = usize::from_str_radix(&self.take_line().await?, 16).expect("the size of a chunk");
        let chunk = self.take(size).await.freeze();
        self.take_line().await;
        (size > 0).then_some(chunk)
    }

    async fn read_answer(&mut self, asked: String) -> Option<Response> {
        let mut response = self.read_head(asked).await?;
        response.body = self.read_body(&response).await;
        Some(response)
    }

    async fn read_head(&mut self, asked: String) -> Option<Response> {
        let head_end = loop {
            if let Some(end) = find(&self.received, b"\r\n\r\n") {
                break end;
            }
            if !self.read().await {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&self.received.split_to(head_end + 4)).into_owned();
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("{asked}: not an HTTP status line: {status_line:?}"));
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        Some(Response { status, headers, body: Bytes::new(), asked })
    }

    async fn read_body(&mut self, response: &Response) -> Bytes {
        let asked = &response.asked;
        if asked.starts_with("HEAD ") || matches!(response.status, 101 | 204 | 304) {
            return Bytes::new();
        }
        if response.header("transfer-encoding") == Some("chunked") {
            let mut body = BytesMut::new();
            loop {
                let line = self.take_line().await.unwrap_or_else(|| panic!("{asked}: a chunk is missing"));
                let size = usize::from_str_radix(line.split(';').next().unwrap_or(""), 16);
                let size = size.unwrap_or_else(|_| panic!("{asked}: a chunk of size {line:?}"));
                body.extend_from_slice(&self.take(size).await);
                self.take_line().await;
                if size == 0 {
                    return body.freeze();
                }
            }
        }
        if let Some(size) = response.header("content-length") {
            return self.take(size.parse().expect("a content length is a number")).await.freeze();
        }
        while self.read().await {}
        self.received.split().freeze()
    }

    async fn take(&mut self, size: usize) -> BytesMut {
        while self.received.len() < size {
            assert!(self.read().await, "the response ends {} bytes early", size - self.received.len());
        }
        self.received.split_to(size)
    }

    async fn take_line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.received, b"\r\n") {
                let line = self.received.split_to(end);
                self.received.advance(2);
                return Some(String::from_utf8_lossy(&line).into_owned());
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// Reads some bytes; false at the end of the stream.
    async fn read(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.received).await, Ok(1..))
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
