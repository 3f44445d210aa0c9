//! WebSocket (RFC 6455): the handshake, and a byte stream in binary messages.
//!
//! Where one message ends and the next begins has no meaning: the data of all binary messages, one after the other, is
//! the stream. A text message is an error. Pings are answered here.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Sink, Stream};
use http::header::{
    CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::body::AnswerBody;
use super::{HttpError, Request, Response};

/// Memory for reading that a connection always has. A larger frame gets its own.
const READ_BYTES: usize = 4 << 10;
/// Frames are collected up to this size before they are written to the socket.
const WRITE_BYTES: usize = 16 << 10;
/// Maximum size of a frame that is sent.
const MAX_SENT_BYTES: usize = 64 << 10;
/// Data of a key: 16 bytes in base64.
const KEY_LEN: usize = 24;

/// A stream that was upgraded.
trait Io: AsyncRead + AsyncWrite + Unpin + Send + Sync {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Io for T {}

/// What happens on a connection after its upgrade.
pub(super) struct Session {
    run: Box<dyn FnOnce(WebSocketBytes) -> Running + Send>,
    max_message_bytes: usize,
}

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Session {
    /// Runs the session until it ends.
    pub(super) async fn run(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static) {
        let stream = WebSocketBytes::new(Box::new(stream), self.max_message_bytes).await;
        (self.run)(stream).await;
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// Accepts the upgrade to a WebSocket with this subprotocol, or without one if the client offers none. `session` runs
/// on the connection once the client has the response; it is dropped when the server stops. A larger message than
/// `max_message_bytes` ends the connection.
pub fn upgrade<F>(
    request: &Request,
    subprotocol: &'static str,
    max_message_bytes: usize,
    session: impl FnOnce(WebSocketBytes) -> F + Send + 'static,
) -> Result<Response, HttpError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let handshake = Handshake::check(&request.headers, subprotocol).map_err(HttpError::from)?;
    let run = Box::new(move |stream| Box::pin(session(stream)) as Running);
    let mut response = Response::new(AnswerBody::upgrade(Session { run, max_message_bytes }));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::try_from(handshake.accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if handshake.names_subprotocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    }
    Ok(response)
}

/// A request to upgrade that can be accepted.
#[derive(Debug, PartialEq, Eq)]
struct Handshake {
    accept: String,
    names_subprotocol: bool,
}

/// Why a request cannot be upgraded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum HandshakeError {
    #[error(
        "UPGRADE_REQUIRED: this is a WebSocket; send Connection: Upgrade, Upgrade: websocket and Sec-WebSocket-Version: 13"
    )]
    NoUpgrade,
    #[error("INVALID_WEBSOCKET_KEY: Sec-WebSocket-Key must be 16 bytes in base64")]
    Key,
    #[error("INVALID_SUBPROTOCOL: {offered:?} does not include the subprotocol {wanted}")]
    Subprotocol { offered: String, wanted: &'static str },
}

impl From<HandshakeError> for HttpError {
    fn from(error: HandshakeError) -> Self {
        let status = match error {
            HandshakeError::NoUpgrade => StatusCode::UPGRADE_REQUIRED,
            HandshakeError::Key | HandshakeError::Subprotocol { .. } => StatusCode::BAD_REQUEST,
        };
        HttpError { status, word: error.to_string().into() }
    }
}

impl Handshake {
    fn check(headers: &HeaderMap, subprotocol: &'static str) -> Result<Self, HandshakeError> {
        let has =
            |name: HeaderName, word: &str| words(headers, name).any(|known| known.eq_ignore_ascii_case(word));
        let is_upgrade =
            has(CONNECTION, "upgrade") && has(UPGRADE, "websocket") && has(SEC_WEBSOCKET_VERSION, "13");
        if !is_upgrade {
            return Err(HandshakeError::NoUpgrade);
        }
        let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
        let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
        if key.len() != KEY_LEN || !key.iter().all(is_base64) {
            return Err(HandshakeError::Key);
        }
        let offered: Vec<&str> = words(headers, SEC_WEBSOCKET_PROTOCOL).collect();
        let names_subprotocol = offered.contains(&subprotocol);
        if !offered.is_empty() && !names_subprotocol {
            return Err(HandshakeError::Subprotocol { offered: offered.join(", "), wanted: subprotocol });
        }
        Ok(Self { accept: derive_accept_key(key), names_subprotocol })
    }
}

/// The words of a list in one or several headers.
fn words(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

/// The byte stream in the binary messages of a WebSocket.
pub struct WebSocketBytes {
    socket: WebSocketStream<Counting>,
    /// Data of the last message that was not read yet.
    unread: Bytes,
    /// Why the stream cannot continue; reported once the client knows.
    failing: Option<io::Error>,
    has_ended: bool,
}

impl WebSocketBytes {
    async fn new(stream: Box<dyn Io>, max_message_bytes: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(WRITE_BYTES)
            .max_message_size(Some(max_message_bytes))
            .max_frame_size(Some(max_message_bytes));
        let counting = Counting { stream, written_bytes: 0 };
        let socket = WebSocketStream::from_raw_socket(counting, Role::Server, Some(config)).await;
        Self { socket, unread: Bytes::new(), failing: None, has_ended: false }
    }

    /// Bytes written to the socket, including the heads of frames.
    pub fn written_bytes(&self) -> u64 {
        self.socket.get_ref().written_bytes
    }

    /// Tells the client why the connection ends, and fails.
    fn poll_fail(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        // An error here means that the client is gone.
        let _ = ready!(Pin::new(&mut self.socket).poll_flush(cx));
        self.has_ended = true;
        Poll::Ready(self.failing.take().unwrap_or_else(|| io::ErrorKind::InvalidData.into()))
    }

    fn fail(&mut self, code: CloseCode, reason: &str) {
        let close = CloseFrame { code, reason: reason.into() };
        let _ = Pin::new(&mut self.socket).start_send(Message::Close(Some(close)));
        self.failing = Some(io::Error::new(io::ErrorKind::InvalidData, format!("WebSocket: {reason}")));
    }
}

impl fmt::Debug for WebSocketBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketBytes").finish_non_exhaustive()
    }
}

impl AsyncRead for WebSocketBytes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.failing.is_some() {
                return self.poll_fail(cx).map(Err);
            }
            if !self.unread.is_empty() {
                let fits = self.unread.len().min(buf.remaining());
                buf.put_slice(&self.unread.split_to(fits));
                return Poll::Ready(Ok(()));
            }
            if self.has_ended {
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(data))) => self.unread = data,
                Some(Ok(Message::Text(_))) => {
                    self.fail(CloseCode::Unsupported, "text message; send binary messages")
                }
                // Many clients leave without a word, as over TCP.
                Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                    self.has_ended = true;
                }
                // The library answers both.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed)) | None => {
                    self.has_ended = true;
                }
                Some(Err(Error::Capacity(error))) => self.fail(CloseCode::Size, &error.to_string()),
                Some(Err(Error::Protocol(error))) => self.fail(CloseCode::Protocol, &error.to_string()),
                Some(Err(error)) => {
                    self.has_ended = true;
                    return Poll::Ready(Err(into_io(error)));
                }
            }
        }
    }
}

impl AsyncWrite for WebSocketBytes {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(into_io)?;
        let piece = &bytes[..bytes.len().min(MAX_SENT_BYTES)];
        let message = Message::Binary(Bytes::copy_from_slice(piece));
        Pin::new(&mut self.socket).start_send(message).map_err(into_io)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(into_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(into_io)
    }
}

fn into_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::NotConnected.into(),
        error => io::Error::other(error),
    }
}

/// Counts the bytes that are written.
struct Counting {
    stream: Box<dyn Io>,
    written_bytes: u64,
}

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = polled {
            self.written_bytes = self.written_bytes.wrapping_add(count as u64);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    const GOOD: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn accepts_the_example_of_the_rfc() {
        let handshake = Handshake::check(&headers(&GOOD), "nsq.v2").unwrap();
        assert_eq!(handshake.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!handshake.names_subprotocol);
    }

    #[test]
    fn subprotocol_must_be_among_those_offered() {
        let offer = |value| {
            let mut pairs = GOOD.to_vec();
            pairs.push(("sec-websocket-protocol", value));
            Handshake::check(&headers(&pairs), "nsq.v2")
        };
        assert!(offer("other, nsq.v2").unwrap().names_subprotocol);
        let error = offer("nsq.v3").unwrap_err();
        assert!(matches!(error, HandshakeError::Subprotocol { .. }));
        assert_eq!(HttpError::from(error).status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn incomplete_requests_are_refused() {
        for missing in 0..3 {
            let mut pairs = GOOD.to_vec();
            pairs.remove(missing);
            assert_eq!(Handshake::check(&headers(&pairs), "p"), Err(HandshakeError::NoUpgrade));
        }
        assert_eq!(Handshake::check(&headers(&GOOD[..3]), "p"), Err(HandshakeError::Key));
    }
}
