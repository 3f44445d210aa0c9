//! Handshakes with a deadline, and their result.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nsq_tls::Certificate;
use rustls::{ProtocolVersion, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;

/// Time limit of a handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A stream over TLS, accepted by [`accept`].
pub type TlsStream<S> = tokio_rustls::server::TlsStream<Timed<S>>;

/// A handshake that failed.
#[derive(Debug)]
pub struct HandshakeError<S> {
    /// The reason, such as a timeout after [`HANDSHAKE_TIMEOUT`].
    pub error: io::Error,
    /// The underlying stream, usable for a last error message.
    pub stream: S,
}

/// Performs the server's side of a handshake; times out after [`HANDSHAKE_TIMEOUT`].
pub async fn accept<S>(stream: S, config: Arc<ServerConfig>) -> Result<TlsStream<S>, HandshakeError<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let deadline = Some(Box::pin(tokio::time::sleep(HANDSHAKE_TIMEOUT)));
    let timed = Timed { stream, deadline, written_bytes: 0 };
    match TlsAcceptor::from(config).accept(timed).into_fallible().await {
        Ok(mut stream) => {
            stream.get_mut().0.deadline = None;
            Ok(stream)
        }
        Err((error, timed)) => Err(HandshakeError { error, stream: timed.stream }),
    }
}

/// A stream that fails once a deadline has passed. The deadline belongs to the stream instead of a timeout around the
/// handshake, so that the stream is still available after it.
#[derive(Debug)]
pub struct Timed<S> {
    stream: S,
    deadline: Option<Pin<Box<Sleep>>>,
    written_bytes: u64,
}

impl<S> Timed<S> {
    /// Bytes written to the underlying stream, which differs from the number of bytes given to TLS.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = written {
            self.written_bytes = self.written_bytes.wrapping_add(count as u64);
        }
        written
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake takes too long"));
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The result of a handshake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSession {
    /// `TLS1.2` or `TLS1.3`.
    pub version: &'static str,
    /// IANA name of the cipher suite.
    pub cipher_suite: String,
    /// Result of ALPN; empty if it was not used.
    pub negotiated_protocol: String,
    /// Common name of the client's certificate, the last one if there are several; empty without one.
    pub common_name: String,
}

impl TlsSession {
    /// The session of a connection whose handshake is complete.
    pub fn of(connection: &ServerConnection) -> Self {
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLS1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLS1.3",
            _ => "",
        };
        let suite = connection.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        TlsSession {
            version,
            // rustls names the suites of TLS 1.3 slightly differently.
            cipher_suite: suite.unwrap_or_default().replace("TLS13_", "TLS_"),
            negotiated_protocol: connection
                .alpn_protocol()
                .map(|protocol| String::from_utf8_lossy(protocol).into_owned())
                .unwrap_or_default(),
            common_name: certificate
                .and_then(|certificate| Certificate::parse(certificate).ok()?.common_name())
                .unwrap_or_default(),
        }
    }
}
