//! The byte stream of a connection, and its upgrades. The rest only sees plain bytes.
//!
//! ```text
//! commands, frames  <->  [ snappy or deflate ]  <->  [ TLS ]  <->  socket
//! ```

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nsq_daemon::listen::Stream;
use nsq_daemon::tls::stream::accept;
use nsq_daemon::tls::{Session, TlsStream};
use nsq_protocol::compression::{Compressor, Decompressor};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// How long a goodbye may take: writing what is left, and waiting for the peer to see it.
const GOODBYE: Duration = Duration::from_secs(1);
/// What is read and thrown away at most while saying goodbye.
const GOODBYE_BYTES: u64 = 8 * 1024 * 1024;

/// So many bytes are compressed at a time.
const PIECE_BYTES: usize = 64 * 1024;
/// So many compressed bytes are read at a time, and kept until they are decompressed.
const COMPRESSED_BYTES: usize = 16 * 1024;
/// The first read of a connection that has no room for them yet.
const FIRST_BYTES: usize = 512;

/// How much longer compressing bytes takes than anything else that is done with them, about.
const COMPRESSION_COST: usize = 8;
/// So many reads in succession may bring nothing but bytes that decompress to none; then others have their turn.
const FRUITLESS_READS: usize = 16;

/// See the module.
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
    /// In the middle of a handshake, or after one that failed without leaving anything to say goodbye on.
    Gone,
}

/// What both directions have in hand.
#[derive(Debug)]
struct Compression {
    compressor: Compressor,
    /// Compressed and not yet written, from `written` on.
    outgoing: Vec<u8>,
    written: usize,
    /// Compressed bytes that the wire has taken.
    written_bytes: u64,
    decompressor: Decompressor,
    /// Room for compressed bytes; those from `start` to `end` were read and not yet decompressed.
    incoming: Vec<u8>,
    start: usize,
    end: usize,
    /// The decompressor may have more without more input.
    has_more: bool,
    /// Nothing has come or gone since memory was given back.
    is_shrunk: bool,
}

impl Transport {
    /// Bytes as they are.
    pub fn plain(stream: Stream) -> Self {
        Transport { wire: Wire::Plain(stream), compression: None }
    }

    /// Whether the bytes are encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self.wire, Wire::Tls(_))
    }

    /// Reads what is there into `buffer`; 0 bytes mean that the peer sends no more.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match &mut self.compression {
            None => self.wire.poll_read(cx, buffer),
            Some(compression) => compression.poll_read(&mut self.wire, cx, buffer),
        }
    }

    /// Takes some of `bytes`, to be written; they are on their way only once [`Transport::poll_flush`] is ready.
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

    /// Sees to it that nothing is held back here.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(compression) = &mut self.compression {
            ready!(compression.poll_send(&mut self.wire, cx))?;
        }
        self.wire.poll_flush(cx)
    }

    /// Bytes that went out, as they were then; 0 where [`Transport::poll_write`] tells the same. With a layer in
    /// between, this is where a peer that reads slowly can be told from one that does not.
    pub fn written_bytes(&self) -> u64 {
        match (&self.compression, &self.wire) {
            (_, Wire::Tls(stream)) => stream.get_ref().0.written_bytes(),
            (Some(compression), _) => compression.written_bytes,
            (None, _) => 0,
        }
    }

    /// What writing so many bytes counts as in a [`Turn`](nsq_daemon::turn::Turn).
    pub fn cost(&self, count: usize) -> usize {
        if self.compression.is_some() { count.saturating_mul(COMPRESSION_COST) } else { count }
    }

    /// Whether the bytes are compressed.
    pub fn is_compressed(&self) -> bool {
        self.compression.is_some()
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

    /// Shakes hands; from then on all bytes are encrypted. After a failure, bytes are as they were, for last words.
    pub async fn start_tls(&mut self, config: Arc<rustls::ServerConfig>) -> io::Result<Session> {
        let stream = match std::mem::replace(&mut self.wire, Wire::Gone) {
            Wire::Plain(stream) => stream,
            other => {
                self.wire = other;
                return Err(io::Error::other("the connection uses TLS already"));
            }
        };
        match accept(stream, config).await {
            Ok(stream) => {
                let session = Session::of(stream.get_ref().1);
                self.wire = Wire::Tls(Box::new(stream));
                Ok(session)
            }
            Err(failed) => {
                self.wire = Wire::Plain(failed.stream);
                Err(failed.error)
            }
        }
    }

    /// From now on all bytes are compressed, in both directions.
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

    /// Whether [`Transport::shrink`] may give memory back.
    pub fn is_large(&self) -> bool {
        self.compression.as_ref().is_some_and(|compression| !compression.is_shrunk)
    }

    /// Nothing has come or gone for a while: gives back what is not needed until something does.
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

    /// Ends the connection. Unless it is `broken`, what is `left` goes out first; then our side is closed and the
    /// peer's last bytes are read, for a moment: closing on unread bytes would reset the connection, and the peer
    /// would never see the error that we sent.
    pub async fn close(mut self, left: &[u8], broken: bool) {
        if broken {
            return;
        }
        let goodbye = async {
            self.write_all(left).await?;
            match self.wire {
                Wire::Plain(mut stream) => say_goodbye(&mut stream).await,
                Wire::Tls(mut stream) => say_goodbye(&mut stream).await,
                Wire::Gone => Ok(()),
            }
        };
        // It is over either way.
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
    }
}

async fn say_goodbye(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(GOODBYE_BYTES), &mut tokio::io::sink()).await.map(drop)
}

impl Wire {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        match self {
            Wire::Plain(stream) => ready!(Pin::new(stream).poll_read(cx, &mut buffer))?,
            Wire::Tls(stream) => match ready!(Pin::new(stream).poll_read(cx, &mut buffer)) {
                // Many clients close without saying so first. Commands tell where they end, so nothing can be cut
                // short unnoticed.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                result => result?,
            },
            Wire::Gone => {}
        }
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Wire::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Wire::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Wire::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Wire::Plain(_) | Wire::Gone => Poll::Ready(Ok(())),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
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

    /// Writes what has been compressed.
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
