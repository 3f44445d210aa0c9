//! The server: the accept loop and the limits of a connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body_memory::BodyMemory;
use super::{Service, connection};
use crate::accept::Acceptor;
use crate::listen::{Listener, Remote, Stream};
use crate::log::Logger;
use crate::open_files::Role;
use crate::tls::stream::{HANDSHAKE_TIMEOUT, accept};
use crate::tls::{ServerTls, TlsSession};

/// A longer head gets `431`.
const MAX_HEAD_BYTES: usize = 1 << 20;

/// Serves a [`Service`] over HTTP/1. Clones share the service.
pub struct Server<S> {
    shared: Arc<Shared<S>>,
}

impl<S> Clone for Server<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

pub(super) struct Shared<S> {
    pub(super) service: S,
    pub(super) logger: Logger,
    pub(super) http1: http1::Builder,
    pub(super) stall_timeout: Duration,
    pub(super) drain_timeout: Duration,
    pub(super) body_memory: Arc<BodyMemory>,
}

/// Time limits of a server.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// A connection that stalls in a head, a body or a response is closed after one to two times this duration. Idle
    /// connections stay open.
    pub stall: Duration,
    /// How long requests in progress may continue when the server stops.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { stall: Duration::from_secs(30), drain: Duration::from_secs(5) }
    }
}

impl<S: Service> Server<S> {
    /// A server with default timeouts that logs requests to `logger`.
    pub fn new(service: S, logger: Logger) -> Self {
        Self::with_timeouts(service, logger, Timeouts::default())
    }

    /// Like [`Server::new`], with the given timeouts.
    pub fn with_timeouts(service: S, logger: Logger, timeouts: Timeouts) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .keep_alive(true)
            .half_close(true)
            // Responses are small: copying head and body into one buffer is faster than a vectored write.
            .writev(false)
            // Some old clients compare header names case-sensitively.
            .title_case_headers(true)
            .max_buf_size(MAX_HEAD_BYTES);
        // The timer does not accept a period of zero.
        let stall_timeout = timeouts.stall.max(Duration::from_millis(1));
        let drain_timeout = timeouts.drain;
        let body_memory = Arc::default();
        Self {
            shared: Arc::new(Shared { service, logger, http1, stall_timeout, drain_timeout, body_memory }),
        }
    }

    /// The service that handles the requests.
    pub fn service(&self) -> &S {
        &self.shared.service
    }

    /// Accepts and serves connections until `shutdown` is cancelled. Then it closes the listener, waits for requests in
    /// progress, and returns. An error means that the listener broke.
    pub async fn serve(&self, listener: Listener, shutdown: CancellationToken) -> io::Result<()> {
        self.accept_loop(listener, None, shutdown).await
    }

    /// Like [`Server::serve`], over TLS.
    pub async fn serve_tls(
        &self,
        listener: Listener,
        tls: Arc<ServerTls>,
        shutdown: CancellationToken,
    ) -> io::Result<()> {
        self.accept_loop(listener, Some(tls), shutdown).await
    }

    async fn accept_loop(
        &self,
        listener: Listener,
        tls: Option<Arc<ServerTls>>,
        shutdown: CancellationToken,
    ) -> io::Result<()> {
        let name = if tls.is_some() { "HTTPS" } else { "HTTP" };
        let mut listener = Acceptor::new(listener, Role::Operators, name, self.shared.logger.clone());
        let connections = TaskTracker::new();
        let ended = loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break Ok(()),
            };
            match accepted {
                Ok((stream, remote)) => {
                    let server = self.clone();
                    let (tls, shutdown) = (tls.clone(), shutdown.clone());
                    connections.spawn(async move {
                        match tls {
                            None => server.serve_stream(stream, remote, None, shutdown).await,
                            Some(tls) => server.serve_tls_stream(stream, remote, &tls, shutdown).await,
                        }
                    });
                }
                Err(error) => break Err(error),
            }
        };
        drop(listener);
        connections.close();
        if ended.is_ok() {
            connections.wait().await;
        }
        ended
    }

    async fn serve_tls_stream(
        &self,
        stream: Stream,
        remote: Remote,
        tls: &ServerTls,
        shutdown: CancellationToken,
    ) {
        let handshake = async {
            let mut first = [0];
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.peek(&mut first)).await {
                Err(_) => Err("the handshake takes too long".to_owned()),
                // A TLS handshake starts with the byte 22, an HTTP request with the name of its method.
                Ok(Ok(1)) if first[0].is_ascii_uppercase() => {
                    refuse_plain_http(stream).await;
                    Err("the client sent plain HTTP".to_owned())
                }
                Ok(_) => accept(stream, tls.config()).await.map_err(|failed| failed.error.to_string()),
            }
        };
        let accepted = tokio::select! {
            accepted = handshake => accepted,
            () = shutdown.cancelled() => return,
        };
        match accepted {
            Ok(stream) => {
                let session = TlsSession::of(stream.get_ref().1);
                self.serve_stream(stream, remote, Some(session), shutdown).await;
            }
            Err(why) => {
                crate::warn!(self.shared.logger, "HTTPS: handshake with {remote} failed - {why}");
            }
        }
    }

    /// Serves one connection that the caller has accepted, such as one over TLS.
    pub async fn serve_stream<IO>(
        &self,
        stream: IO,
        remote: Remote,
        tls: Option<TlsSession>,
        shutdown: CancellationToken,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
    {
        connection::drive(Arc::clone(&self.shared), stream, remote, tls, shutdown).await;
    }
}

/// Answers a client that speaks HTTP where TLS is expected. The handshake could only send an alert, which such a client
/// does not understand.
async fn refuse_plain_http(mut stream: Stream) {
    // Closing with the request unread would reset the connection, and the client might lose the response.
    let _ = stream.read(&mut [0; 4096]).await;
    let answer = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}
