//! The byte stream of a connection, and its upgrades. Other code sees only plain bytes.
//!
//! ```text
//! commands, frames  <->  [ snappy or deflate ]  <->  [ TLS ]  <->  socket
//!                                               <->  WebSocket, over HTTP or HTTPS
//! ```

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nsq_daemon::http::websocket::WebSocketBytes;
use nsq_daemon::listen::Stream;
use nsq_daemon::tls::stream::accept;
use nsq_daemon::tls::{TlsSession, TlsStream};
use nsq_protocol::compression::{Compressor, Decompressor};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Maximum time to close a connection: to write the remaining bytes and wait until the client has read them.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum bytes that are read and discarded while closing.
const MAX_DISCARDED_BYTES: u64 = 8 * 1024 * 1024;

/// Maximum bytes compressed at a time.
const PIECE_BYTES: usize = 64 * 1024;
/// Maximum compressed bytes read at a time, and kept until they are decompressed.
const COMPRESSED_BYTES: usize = 16 * 1024;
/// Maximum bytes of the first read of a connection that has no buffer yet.
const FIRST_BYTES: usize = 512;

/// Approximate time to compress bytes, relative to all other work on them.
const COMPRESSION_COST: usize = 8;
/// Number of successive reads that may decompress to no bytes before other tasks get their turn.
const FRUITLESS_READS: usize = 16;

/// The byte stream of a connection; see the module.
#[derive(Debug)]
pub struct Transport {
    wire: Wire,
    compression: Option<Box<Compression>>,
}

/// What carries the bytes.
#[derive(Debug)]
enum Wire {
    Plain(Stream),
    Tls(Box<TlsStream<Stream>>),
    WebSocket {
        bytes: Box<WebSocketBytes>,
        is_https: bool,
    },
    /// During a TLS handshake.
    Gone,
}

/// The state of both directions.
#[derive(Debug)]
struct Compression {
    compressor: Compressor,
    /// Compressed bytes; those from `written` on are not written yet.
    outgoing: Vec<u8>,
    written: usize,
    /// Number of compressed bytes written to the wire.
    written_bytes: u64,
    decompressor: Decompressor,
    /// Room for compressed bytes; those from `start` to `end` were read and not yet decompressed.
    incoming: Vec<u8>,
    start: usize,
    end: usize,
    /// The decompressor may produce more without more input.
    has_more: bool,
    /// Nothing was read or written since memory was freed.
    is_shrunk: bool,
}

impl Transport {
    /// A stream without upgrades.
    pub fn plain(stream: Stream) -> Self {
        Transport { wire: Wire::Plain(stream), compression: None }
    }

    /// A WebSocket, which stays as it is: its TLS is that of HTTPS.
    pub fn websocket(bytes: WebSocketBytes, is_https: bool) -> Self {
        Transport { wire: Wire::WebSocket { bytes: Box::new(bytes), is_https }, compression: None }
    }

    /// Whether the bytes are encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self.wire, Wire::Tls(_) | Wire::WebSocket { is_https: true, .. })
    }

    /// Whether [`Transport::start_tls`] is possible.
    pub fn can_start_tls(&self) -> bool {
        matches!(self.wire, Wire::Plain(_)) && self.compression.is_none()
    }

    /// Reads available bytes into `buffer`. 0 bytes mean that the client sends no more.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match &mut self.compression {
            None => self.wire.poll_read(cx, buffer),
            Some(compression) => compression.poll_read(&mut self.wire, cx, buffer),
        }
    }

    /// Accepts some of `bytes` for writing. They are sent only once [`Transport::poll_flush`] is ready.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.compression {
            None => self.wire.poll_write(cx, bytes),
            Some(compression) => {
                ready!(compression.poll_send(&mut self.wire, cx))?;
                let piece = &bytes[..bytes.len().min(PIECE_BYTES)];
                compression.compressor.compress(piece, &mut compression.outgoing);
                compression.is_shrunk = false;
                Poll::Ready(Ok(piece.len()))
            }
        }
    }

    /// Sends all bytes that are held back here.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(compression) = &mut self.compression {
            ready!(compression.poll_send(&mut self.wire, cx))?;
        }
        self.wire.poll_flush(cx)
    }

    /// Number of encoded bytes written. 0 without a layer: then [`Transport::poll_write`] shows the same. With a layer,
    /// this distinguishes a client that reads slowly from one that does not read.
    pub fn written_bytes(&self) -> u64 {
        match (&self.compression, &self.wire) {
            (_, Wire::Tls(stream)) => stream.get_ref().0.written_bytes(),
            (_, Wire::WebSocket { bytes, .. }) => bytes.written_bytes(),
            (Some(compression), _) => compression.written_bytes,
            (None, _) => 0,
        }
    }

    /// The cost of writing `count` bytes in a [`Turn`](nsq_daemon::turn::Turn).
    pub fn cost(&self, count: usize) -> usize {
        if self.compression.is_some() { count.saturating_mul(COMPRESSION_COST) } else { count }
    }

    /// Whether the bytes are compressed.
    pub fn is_compressed(&self) -> bool {
        self.compression.is_some()
    }

    /// Reads exactly as many bytes as `buffer` has. Returns false if the client sends no more before that.
    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            match poll_fn(|cx| self.poll_read(cx, &mut buffer[filled..])).await? {
                0 => return Ok(false),
                count => filled += count,
            }
        }
        Ok(true)
    }

    /// Writes all of `bytes`, and flushes.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match poll_fn(|cx| self.poll_write(cx, bytes)).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => bytes = &bytes[count..],
            }
        }
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Performs the TLS handshake; afterwards all bytes are encrypted. After a failure, the stream stays plain, so that
    /// an error can still be sent.
    pub async fn start_tls(&mut self, config: Arc<rustls::ServerConfig>) -> io::Result<TlsSession> {
        let stream = match std::mem::replace(&mut self.wire, Wire::Gone) {
            Wire::Plain(stream) => stream,
            other => {
                self.wire = other;
                return Err(io::Error::other("the connection already uses TLS"));
            }
        };
        match accept(stream, config).await {
            Ok(stream) => {
                let session = TlsSession::of(stream.get_ref().1);
                self.wire = Wire::Tls(Box::new(stream));
                Ok(session)
            }
            Err(failed) => {
                self.wire = Wire::Plain(failed.stream);
                Err(failed.error)
            }
        }
    }

    /// Compresses all bytes from now on, in both directions.
    pub fn start_compression(&mut self, compressor: Compressor, decompressor: Decompressor) {
        self.compression = Some(Box::new(Compression {
            compressor,
            outgoing: Vec::new(),
            written: 0,
            written_bytes: 0,
            decompressor,
            incoming: Vec::new(),
            start: 0,
            end: 0,
            has_more: false,
            is_shrunk: false,
        }));
    }

    /// Whether [`Transport::shrink`] may free memory.
    pub fn is_large(&self) -> bool {
        self.compression.as_ref().is_some_and(|compression| !compression.is_shrunk)
    }

    /// Frees memory that is not needed while idle. Call when nothing was read or written for a while.
    pub fn shrink(&mut self) {
        if let Some(compression) = &mut self.compression {
            if compression.outgoing.is_empty() {
                compression.outgoing = Vec::new();
                compression.compressor.idle();
            }
            if compression.start == compression.end {
                compression.incoming = Vec::new();
            }
            compression.decompressor.idle();
            compression.is_shrunk = true;
        }
    }

    /// Closes the connection. Unless it is `broken`, first writes the bytes in `left`, then closes the sending side,
    /// and reads the client's last bytes for a moment. Closing with unread bytes would reset the connection, and the
    /// client would never see the error that nsqd sent.
    pub async fn close(mut self, left: &[u8], broken: bool) {
        if broken {
            return;
        }
        let closing = async {
            self.write_all(left).await?;
            match self.wire {
                Wire::Plain(mut stream) => close_gracefully(&mut stream).await,
                Wire::Tls(mut stream) => close_gracefully(&mut stream).await,
                Wire::WebSocket { mut bytes, .. } => close_gracefully(&mut bytes).await,
                Wire::Gone => Ok(()),
            }
        };
        // The connection ends in either case.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
    }
}

async fn close_gracefully(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(MAX_DISCARDED_BYTES), &mut tokio::io::sink()).await.map(drop)
}

impl Wire {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        match self {
            Wire::Plain(stream) => ready!(Pin::new(stream).poll_read(cx, &mut buffer))?,
            Wire::Tls(stream) => match ready!(Pin::new(stream).poll_read(cx, &mut buffer)) {
                // Many clients close without a TLS close notification. Commands show where they end, so truncation is
                // still detected.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                result => result?,
            },
            Wire::WebSocket { bytes, .. } => ready!(Pin::new(bytes).poll_read(cx, &mut buffer))?,
            Wire::Gone => {}
        }
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Wire::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Wire::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Wire::WebSocket { bytes: stream, .. } => Pin::new(stream).poll_write(cx, bytes),
            Wire::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Wire::Plain(_) | Wire::Gone => Poll::Ready(Ok(())),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Wire::WebSocket { bytes, .. } => Pin::new(bytes).poll_flush(cx),
        }
    }
}

impl Compression {
    fn poll_read(
        &mut self,
        wire: &mut Wire,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        for _ in 0..FRUITLESS_READS {
            if self.has_more || self.start < self.end {
                let input = &self.incoming[self.start..self.end];
                let progress = self.decompressor.decompress(input, buffer).map_err(invalid)?;
                self.start += progress.consumed;
                self.has_more = progress.produced == buffer.len();
                if progress.produced > 0 {
                    return Poll::Ready(Ok(progress.produced));
                }
                if self.start < self.end {
                    continue;
                }
            }
            (self.start, self.end) = (0, 0);
            if self.incoming.is_empty() {
                // An idle connection waits without a buffer.
                let mut first = [0; FIRST_BYTES];
                self.end = ready!(wire.poll_read(cx, &mut first))?;
                self.incoming.resize(COMPRESSED_BYTES, 0);
                self.incoming[..self.end].copy_from_slice(&first[..self.end]);
            } else {
                self.end = ready!(wire.poll_read(cx, &mut self.incoming))?;
            }
            if self.end == 0 {
                return Poll::Ready(Ok(0));
            }
            self.is_shrunk = false;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes the compressed bytes.
    fn poll_send(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.outgoing.len() {
            match ready!(wire.poll_write(cx, &self.outgoing[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => {
                    self.written += count;
                    self.written_bytes = self.written_bytes.wrapping_add(count as u64);
                }
            }
        }
        self.outgoing.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}
