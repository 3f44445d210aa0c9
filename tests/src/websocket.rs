//! A bare WebSocket: sends frames as it is told, and reads what comes.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http::Response;
use crate::wire::Stream;

/// Time limit for one frame.
const PATIENCE: Duration = Duration::from_secs(15);

/// Kinds of frames.
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The headers of an upgrade, with the key of RFC 6455's example.
const UPGRADE: [(&str, &str); 5] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Protocol", "nsq.v2"),
];

/// An open WebSocket.
pub struct WebSocket {
    stream: Box<dyn Stream>,
    received: BytesMut,
    /// Data of binary frames that no NSQ frame used yet.
    data: BytesMut,
}

impl WebSocket {
    /// Connects; the refusal is the error.
    pub async fn connect(
        address: SocketAddr,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Response> {
        let stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        Self::over(Box::new(stream), address, target, headers).await
    }

    /// Connects over an open stream, such as one over TLS.
    pub async fn over(
        stream: Box<dyn Stream>,
        address: SocketAddr,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Response> {
        let mut head = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n");
        for (name, value) in UPGRADE.iter().chain(headers) {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        let mut connection = crate::http::Connection::over(stream);
        connection.send(head.as_bytes()).await;
        let response = connection.answer(target).await.expect("an answer");
        if response.status != 101 {
            return Err(response);
        }
        assert_eq!(response.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(response.header("sec-websocket-protocol"), Some("nsq.v2"));
        let (stream, received) = connection.into_parts();
        Ok(WebSocket { stream, received, data: BytesMut::new() })
    }

    /// Sends one frame.
    pub async fn send(&mut self, kind: u8, data: impl AsRef<[u8]>) {
        self.send_part(0x80 | kind, data).await;
    }

    /// Sends one frame with these first bits, which say whether it is the last one of its message.
    pub async fn send_part(&mut self, first: u8, data: impl AsRef<[u8]>) {
        let (data, mask) = (data.as_ref(), [0x55, 0xaa, 0x0f, 0xf0]);
        let mut frame = vec![first];
        match data.len() {
            length @ 0..126 => frame.push(0x80 | length as u8),
            length @ 126..65536 => {
                frame.push(0x80 | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            length => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(mask);
        frame.extend(data.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        let sent = tokio::time::timeout(PATIENCE, self.stream.write_all(&frame)).await;
        // The daemon may close before it has read everything.
        let _ = sent.expect("the daemon reads in time");
    }

    /// The next frame: its kind and data. `None` at the end of the stream.
    pub async fn frame(&mut self) -> Option<(u8, Bytes)> {
        let read = tokio::time::timeout(PATIENCE, self.read_frame()).await;
        read.expect("a frame arrives in time")
    }

    async fn read_frame(&mut self) -> Option<(u8, Bytes)> {
        self.fill(2).await?;
        let (first, second) = (self.received[0], self.received[1]);
        assert_eq!((first & 0x70, second & 0x80), (0, 0), "no extensions, no mask");
        let (head, length) = match second {
            126 => {
                self.fill(4).await?;
                (4, usize::from(u16::from_be_bytes([self.received[2], self.received[3]])))
            }
            127 => {
                self.fill(10).await?;
                (10, u64::from_be_bytes(*self.received[2..].first_chunk().expect("10 bytes")) as usize)
            }
            length => (2, usize::from(length)),
        };
        self.fill(head + length).await?;
        self.received.advance(head);
        Some((first & 0x0f, self.received.split_to(length).freeze()))
    }

    async fn fill(&mut self, length: usize) -> Option<()> {
        while self.received.len() < length {
            let count = self.stream.read_buf(&mut self.received).await.unwrap_or(0);
            if count == 0 {
                return None;
            }
        }
        Some(())
    }

    /// Adds the data of a binary frame to the stream of NSQ's protocol.
    pub fn push(&mut self, data: &[u8]) {
        self.data.extend_from_slice(data);
    }

    /// The next frame of NSQ's protocol, if all of it was received: its type and data.
    pub fn buffered_nsq_frame(&mut self) -> Option<(u32, Bytes)> {
        let size = u32::from_be_bytes(*self.data.first_chunk()?) as usize;
        if self.data.len() < 4 + size {
            return None;
        }
        let mut frame = self.data.split_to(4 + size).freeze();
        frame.advance(4);
        Some((frame.get_u32(), frame))
    }

    /// The next frame of NSQ's protocol in the stream: its type and data.
    pub async fn nsq_frame(&mut self) -> (u32, Bytes) {
        loop {
            if let Some(frame) = self.buffered_nsq_frame() {
                return frame;
            }
            match self.frame().await.expect("the connection stays open") {
                (BINARY, data) => self.push(&data),
                (kind, data) => panic!("a frame of kind {kind}: {data:?}"),
            }
        }
    }

    /// Asserts that the next frame of NSQ's protocol is this response.
    pub async fn response(&mut self, expected: &str) {
        let (kind, data) = self.nsq_frame().await;
        assert_eq!((kind, &*String::from_utf8_lossy(&data)), (0, expected));
    }
}
