//! A bare peer of nsqd's TCP protocol: it sends bytes, expects frames, and never waits longer than [`PATIENCE`]. It
//! does nothing on its own, except that it answers heartbeats while it waits.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::upgrade::Compression;

/// Time limit for an expected frame.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// How long a peer watches before it concludes that nothing arrives. Only a faulty daemon can make such a check fail.
pub const QUIET: Duration = Duration::from_millis(250);

const HEARTBEAT: &[u8] = b"_heartbeat_";

/// A byte stream to a daemon.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection to nsqd.
pub struct Peer {
    pub(crate) stream: Box<dyn Stream>,
    local_address: SocketAddr,
    pub(crate) received: BytesMut,
    /// The compression that IDENTIFY negotiated, if any.
    pub compression: Option<Compression>,
    /// While set, heartbeats are answered with NOP and hidden from the test.
    pub answers_heartbeats: bool,
}

/// One frame, by its type.
#[derive(Clone, PartialEq, Eq)]
pub enum Frame {
    /// Type 0.
    Response(Bytes),
    /// Type 1.
    Error(Bytes),
    /// Type 2.
    Message(Message),
}

/// The content of a message frame.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Time of publishing in nanoseconds since the Unix epoch.
    pub timestamp: i64,
    /// Number of deliveries so far, including this one.
    pub attempts: u16,
    /// Sixteen bytes for FIN, REQ and TOUCH.
    pub id: [u8; 16],
    /// The publisher's bytes.
    pub body: Bytes,
}

/// Why no frame arrived.
#[derive(Debug)]
pub enum NoFrame {
    /// nsqd closed or reset the connection.
    Closed,
    /// The connection ended inside a frame: only a killed nsqd may do that.
    Cut,
    /// The time limit passed.
    Silence,
}

impl Peer {
    /// Connects and sends the magic.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut peer = Self::connect_silently(address).await;
        peer.send(b"  V2").await;
        peer
    }

    /// Connects and sends the magic; an error if nothing listens.
    pub async fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let mut peer = Self::over(TcpStream::connect(address).await?);
        peer.send(b"  V2").await;
        Ok(peer)
    }

    /// Connects and sends nothing.
    pub async fn connect_silently(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        Self::over(stream)
    }

    fn over(stream: TcpStream) -> Self {
        // Fails only on a socket that the other side has already reset; the next read reports it.
        let _ = stream.set_nodelay(true);
        Peer {
            local_address: stream.local_addr().expect("a connected socket"),
            stream: Box::new(stream),
            received: BytesMut::new(),
            compression: None,
            answers_heartbeats: true,
        }
    }

    /// The peer's own address, as `/stats` shows it.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    // Sending

    /// Sends raw bytes. A connection that the daemon has closed is no error here: the next read reports it.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        match &mut self.compression {
            None => self.send_as_is(bytes).await,
            Some(compression) => {
                let compressed = compression.compress(bytes.as_ref());
                self.send_as_is(compressed).await;
            }
        }
    }

    /// Sends bytes without compressing them, for data that is already compressed.
    pub async fn send_as_is(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let sending = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        let sent = tokio::time::timeout(PATIENCE, sending).await;
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(error)) if is_closed(&error) => {}
            Ok(Err(error)) => panic!("sending failed: {error}"),
            Err(_) => panic!("the daemon does not read: sending stalled for {PATIENCE:?}"),
        }
    }

    /// Sends one command line; adds the LF.
    pub async fn line(&mut self, line: impl AsRef<[u8]>) {
        self.send([line.as_ref(), b"\n"].concat()).await;
    }

    /// Sends a command line with a body.
    pub async fn line_and_body(&mut self, line: impl AsRef<[u8]>, body: impl AsRef<[u8]>) {
        self.send(command(line, body)).await;
    }

    /// Closes the sending side; nsqd may continue to send.
    pub async fn half_close(&mut self) {
        self.stream.shutdown().await.expect("a connected socket can be half-closed");
    }

    // Expecting

    /// The next frame within `patience`.
    pub async fn frame_within(&mut self, patience: Duration) -> Result<Frame, NoFrame> {
        let deadline = Instant::now() + patience;
        loop {
            while let Some(frame) = take_frame(&mut self.received) {
                if self.answers_heartbeats && frame == Frame::Response(Bytes::from_static(HEARTBEAT)) {
                    self.send("NOP\n").await;
                    continue;
                }
                return Ok(frame);
            }
            match timeout_at(deadline, self.receive()).await {
                Err(_) => return Err(NoFrame::Silence),
                Ok(Ok(0)) if self.received.is_empty() => return Err(NoFrame::Closed),
                Ok(Ok(0)) => return Err(NoFrame::Cut),
                Ok(Ok(_)) => {}
                Ok(Err(error)) if is_closed(&error) => return Err(NoFrame::Closed),
                Ok(Err(error)) => panic!("reading failed: {error}"),
            }
        }
    }

    /// Reads the available bytes.
    async fn receive(&mut self) -> io::Result<usize> {
        match &mut self.compression {
            None => self.stream.read_buf(&mut self.received).await,
            Some(compression) => {
                let count = self.stream.read_buf(&mut compression.received).await?;
                compression.decompress(&mut self.received);
                Ok(count)
            }
        }
    }

    /// The next frame.
    pub async fn frame(&mut self) -> Frame {
        self.frame_within(PATIENCE).await.unwrap_or_else(|none| panic!("no frame arrived: {none:?}"))
    }

    /// The data of the next frame, which must be a response.
    pub async fn response(&mut self) -> Bytes {
        match self.frame().await {
            Frame::Response(data) => data,
            other => panic!("expected a response, got {other:?}"),
        }
    }

    /// Expects the response `OK` as the next frame.
    pub async fn ok(&mut self) {
        let frame = self.frame().await;
        assert_eq!(frame, Frame::Response(Bytes::from_static(b"OK")));
    }

    /// The text of the next frame, which must be an error.
    pub async fn error(&mut self) -> String {
        match self.frame().await {
            Frame::Error(data) => String::from_utf8_lossy(&data).into_owned(),
            other => panic!("expected an error, got {other:?}"),
        }
    }

    /// The next frame, which must be a message.
    pub async fn message(&mut self) -> Message {
        match self.frame().await {
            Frame::Message(message) => message,
            other => panic!("expected a message, got {other:?}"),
        }
    }

    /// The next `count` frames, which must be messages.
    pub async fn messages(&mut self, count: usize) -> Vec<Message> {
        let mut messages = Vec::with_capacity(count);
        while messages.len() < count {
            messages.push(self.message().await);
        }
        messages
    }

    /// Expects the error `text` followed by the end of the connection.
    pub async fn refused(mut self, text: &str) {
        assert_eq!(self.error().await, text);
        self.closed().await;
    }

    /// Expects that nsqd closes the connection without another frame.
    pub async fn closed(&mut self) {
        match self.frame_within(PATIENCE).await {
            Err(NoFrame::Closed) => {}
            Err(NoFrame::Cut) => panic!("the connection ends inside a frame: {:?}", self.received),
            Err(NoFrame::Silence) => panic!("the connection is still open after {PATIENCE:?}"),
            Ok(frame) => panic!("expected the end of the connection, got {frame:?}"),
        }
    }

    /// Expects that only heartbeats arrive for [`QUIET`], and that the connection stays open.
    pub async fn nothing(&mut self) {
        self.nothing_for(QUIET).await;
    }

    /// Expects that only heartbeats arrive for `quiet`, and that the connection stays open.
    pub async fn nothing_for(&mut self, quiet: Duration) {
        match self.frame_within(quiet).await {
            Err(NoFrame::Silence) => {}
            Err(closed) => panic!("the connection was closed: {closed:?}"),
            Ok(frame) => panic!("expected nothing, got {frame:?}"),
        }
    }

    /// Expects that the connection works and has no unread frame: publishes to a separate topic.
    pub async fn still_works(&mut self) {
        self.publish("still_works#ephemeral", "x").await;
    }

    /// Waits until nsqd has executed all commands sent so far; returns messages that arrive in the meantime.
    pub async fn barrier(&mut self) -> Vec<Message> {
        self.send(command("PUB barrier#ephemeral", "x")).await;
        let mut messages = Vec::new();
        loop {
            match self.frame().await {
                Frame::Message(message) => messages.push(message),
                Frame::Response(ok) if ok == "OK" => return messages,
                other => panic!("expected messages and an OK, got {other:?}"),
            }
        }
    }

    // Commands with their replies

    /// IDENTIFY; returns the reply as JSON.
    pub async fn identify(&mut self, request: Value) -> Value {
        self.line_and_body("IDENTIFY", request.to_string()).await;
        serde_json::from_slice(&self.response().await).expect("the reply to IDENTIFY is JSON")
    }

    /// SUB, and waits for its OK.
    pub async fn subscribe(&mut self, topic: &str, channel: &str) {
        self.line(format!("SUB {topic} {channel}")).await;
        self.ok().await;
    }

    /// PUB, and waits for its OK.
    pub async fn publish(&mut self, topic: &str, body: impl AsRef<[u8]>) {
        self.line_and_body(format!("PUB {topic}"), body).await;
        self.ok().await;
    }

    /// DPUB, and waits for its OK.
    pub async fn publish_deferred(&mut self, topic: &str, delay: Duration, body: impl AsRef<[u8]>) {
        self.line_and_body(format!("DPUB {topic} {}", delay.as_millis()), body).await;
        self.ok().await;
    }

    /// MPUB, and waits for its OK.
    pub async fn publish_batch<B: AsRef<[u8]>>(&mut self, topic: &str, bodies: &[B]) {
        self.line_and_body(format!("MPUB {topic}"), batch(bodies)).await;
        self.ok().await;
    }

    /// RDY, which has no reply.
    pub async fn ready(&mut self, count: u32) {
        self.line(format!("RDY {count}")).await;
    }

    /// FIN, which has no reply on success.
    pub async fn finish(&mut self, message: &Message) {
        self.send([b"FIN ", &message.id[..], b"\n"].concat()).await;
    }

    /// REQ, which has no reply on success.
    pub async fn requeue(&mut self, message: &Message, delay: Duration) {
        let delay = delay.as_millis().to_string();
        self.send([b"REQ ", &message.id[..], b" ", delay.as_bytes(), b"\n"].concat()).await;
    }

    /// TOUCH, which has no reply on success.
    pub async fn touch(&mut self, message: &Message) {
        self.send([b"TOUCH ", &message.id[..], b"\n"].concat()).await;
    }

    /// Receives and finishes `count` messages.
    pub async fn consume(&mut self, count: usize) -> Vec<Message> {
        let mut messages = Vec::with_capacity(count);
        while messages.len() < count {
            let message = self.message().await;
            self.finish(&message).await;
            messages.push(message);
        }
        messages
    }
}

/// The bytes of a command line followed by a body with its length.
pub fn command(line: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    [line.as_ref(), b"\n", &length(body.len()), body].concat()
}

/// The body of an MPUB, or of `/mpub?binary=true`.
pub fn batch<B: AsRef<[u8]>>(bodies: &[B]) -> Vec<u8> {
    let mut bytes = length(bodies.len()).to_vec();
    for body in bodies {
        bytes.extend_from_slice(&length(body.as_ref().len()));
        bytes.extend_from_slice(body.as_ref());
    }
    bytes
}

/// A length or a count in wire form.
pub fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("test bodies are small").to_be_bytes()
}

pub fn bodies(messages: &[Message]) -> Vec<String> {
    messages.iter().map(Message::text).collect()
}

impl Message {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn id_text(&self) -> String {
        String::from_utf8_lossy(&self.id).into_owned()
    }
}

fn take_frame(received: &mut BytesMut) -> Option<Frame> {
    let size = received.get(..4)?;
    let size = u32::from_be_bytes(size.try_into().expect("four bytes")) as usize;
    assert!((4..=64 << 20).contains(&size), "a frame of {size} bytes");
    if received.len() < 4 + size {
        received.reserve(4 + size - received.len());
        return None;
    }
    received.advance(4);
    let mut frame = received.split_to(size).freeze();
    match frame.get_u32() {
        0 => Some(Frame::Response(frame)),
        1 => Some(Frame::Error(frame)),
        2 => {
            assert!(frame.len() > 26, "a message frame without a body: {frame:?}");
            let timestamp = frame.get_i64();
            let attempts = frame.get_u16();
            let id = frame.split_to(16)[..].try_into().expect("sixteen bytes");
            Some(Frame::Message(Message { timestamp, attempts, id, body: frame }))
        }
        kind => panic!("a frame of type {kind}"),
    }
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, InvalidData, NotConnected, UnexpectedEof,
    };
    // TLS reports the last two: an alert, and an end without close_notify.
    matches!(
        error.kind(),
        ConnectionReset | BrokenPipe | ConnectionAborted | NotConnected | UnexpectedEof | InvalidData
    )
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Frame::Response(data) => write!(f, "response {}", data.escape_ascii()),
            Frame::Error(data) => write!(f, "error {}", data.escape_ascii()),
            Frame::Message(message) => message.fmt(f),
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.body[..self.body.len().min(60)];
        write!(f, "message {} attempts {} \"{}\"", self.id_text(), self.attempts, shown.escape_ascii())
    }
}
