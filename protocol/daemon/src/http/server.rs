//! Serving: the accept loop and the limits of a connection.

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
use crate::tls::{ServerTls, Session};

/// A head that does not fit gets `431`.
const MAX_HEAD_BYTES: usize = 1 << 20;

/// Serves a [`Service`] over HTTP/1. A clone serves the same.
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

/// How long a server waits for others.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// A connection that stands still in the middle of a head, a body or an answer is closed after
    /// once to twice this time. Idle connections stay.
    pub stall: Duration,
    /// How long requests may take that are under way when the server stops.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { stall: Duration::from_secs(30), drain: Duration::from_secs(5) }
    }
}

impl<S: Service> Server<S> {
    /// A server that logs its requests to `logger`.
    pub fn new(service: S, logger: Logger) -> Self {
        Self::with_timeouts(service, logger, Timeouts::default())
    }

    /// The same with other timeouts.
    pub fn with_timeouts(service: S, logger: Logger, timeouts: Timeouts) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .keep_alive(true)
            .half_close(true)
            // Answers are small: copying head and body into one buffer beats a vectored write.
            .writev(false)
            // Some old clients compare header names as they are spelled.
            .title_case_headers(true)
            .max_buf_size(MAX_HEAD_BYTES);
        // The timer takes no period of zero.
        let stall_timeout = timeouts.stall.max(Duration::from_millis(1));
        let drain_timeout = timeouts.drain;
        let body_memory = Arc::default();
        Self {
            shared: Arc::new(Shared { service, logger, http1, stall_timeout, drain_timeout, body_memory }),
        }
    }

    /// The service.
    pub fn service(&self) -> &S {
        &self.shared.service
    }

    /// Accepts and serves connections until `shutdown`; then closes the listener, lets requests that
    /// are under way end, and returns. An error means that the listener broke.
    pub async fn serve(&self, listener: Listener, shutdown: CancellationToken) -> io::Result<()> {
        self.accept_loop(listener, None, shutdown).await
    }

    /// The same over TLS.
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
                            Some(tls) => server.shake_hands(stream, remote, &tls, shutdown).await,
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

    async fn shake_hands(
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
                // A handshake begins with the byte 22, and a request with the name of its method.
                Ok(Ok(1)) if first[0].is_ascii_uppercase() => {
                    refuse_plain_http(stream).await;
                    Err("this is plain HTTP".to_owned())
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
                let session = Session::of(stream.get_ref().1);
                self.serve_stream(stream, remote, Some(session), shutdown).await;
            }
            Err(why) => {
                crate::warn!(self.shared.logger, "HTTPS: handshake with {remote} failed - {why}");
            }
        }
    }

    /// Serves one connection that somebody else has accepted, such as one over TLS.
    pub async fn serve_stream<IO>(
        &self,
        stream: IO,
        remote: Remote,
        tls: Option<Session>,
        shutdown: CancellationToken,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        connection::drive(Arc::clone(&self.shared), stream, remote, tls, shutdown).await;
    }
}

/// Tells a client that speaks HTTP where TLS is expected. The handshake could only answer with an alert that the client
/// does not understand.
async fn refuse_plain_http(mut stream: Stream) {
    // Closing with the request unread would be a reset, which may tear the answer away.
    let _ = stream.read(&mut [0; 4096]).await;
    let answer = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}
