//! What a running nsqlookupd owns: the registry, a listener for nodes, a listener for HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use nsq_daemon::accept::Acceptor;
use nsq_daemon::http::Server;
use nsq_daemon::info;
use nsq_daemon::listen::{BindError, Listener};
use nsq_daemon::log::Logger;
use nsq_daemon::open_files::Role;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, TcpAddress};
use crate::connection::{self, Context, lookupd_info};
use crate::http::Http;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::stats_store::StatsStore;

/// A running nsqlookupd. Dropping it stops it as [`Lookupd::shutdown`] does, without waiting.
#[derive(Debug)]
pub struct Lookupd {
    tcp_addr: SocketAddr,
    http_addr: SocketAddr,
    logger: Logger,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// The error of a listener that failed; `None` while both work.
    broken: watch::Receiver<Option<String>>,
}

impl Lookupd {
    /// Binds both listeners and serves them in tasks of the current tokio runtime.
    pub async fn start(config: Config, logger: Logger) -> io::Result<Self> {
        let tcp = bind(&config.tcp_address).await?;
        let http = bind(&config.http_address).await?;
        let (tcp_addr, http_addr) = (local_addr(&tcp)?, local_addr(&http)?);
        info!(logger, "TCP: listening on {tcp_addr}");
        info!(logger, "HTTP: listening on {http_addr}");

        let registry = Arc::new(Registry::new(config.inactive_producer_timeout, config.tombstone_lifetime));
        let metrics = Arc::new(Metrics::default());
        let info = lookupd_info(config.broadcast_address, tcp_addr.port(), http_addr.port());
        let stats_store = Arc::new(StatsStore::default());
        let known = (Arc::clone(&registry), Arc::clone(&stats_store));
        let context =
            Arc::new(Context::new(known, logger.clone(), config.limits, info, Arc::clone(&metrics)));
        let stop = CancellationToken::new();
        let http_service = Http::new(
            registry,
            stats_store,
            metrics,
            config.http_allowed_origins,
            stop.clone(),
            logger.clone(),
        );
        let server = Server::new(http_service, logger.clone());

        let (broken_tx, broken) = watch::channel(None);
        let tasks = TaskTracker::new();
        tasks.spawn({
            let (stop, tasks, broken_tx) = (stop.clone(), tasks.clone(), broken_tx.clone());
            let logger = logger.clone();
            async move {
                if let Err(error) = accept_nodes(tcp, context, stop, tasks, logger).await {
                    broken_tx.send_replace(Some(format!("TCP: listener failed - {error}")));
                }
            }
        });
        tasks.spawn({
            let stop = stop.clone();
            async move {
                if let Err(error) = server.serve(http, stop).await {
                    broken_tx.send_replace(Some(format!("HTTP: listener failed - {error}")));
                }
            }
        });
        Ok(Self { tcp_addr, http_addr, logger, stop, tasks, broken })
    }

    /// The bound TCP address, for nodes.
    pub fn tcp_addr(&self) -> SocketAddr {
        self.tcp_addr
    }

    /// The bound HTTP address, for clients.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Waits until a listener fails and returns its error; the daemon should then stop. Normally never returns.
    /// Dropping the future loses nothing.
    pub async fn broken(&self) -> io::Error {
        let mut broken = self.broken.clone();
        match broken.wait_for(Option::is_some).await.map(|text| text.clone()) {
            Ok(text) => io::Error::other(text.unwrap_or_default()),
            // Both listeners are closed because the daemon is stopping.
            Err(_) => std::future::pending().await,
        }
    }

    /// Closes listeners and connections, and waits until all tasks have ended. Requests in progress are still
    /// answered.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        info!(self.logger, "bye");
    }
}

impl Drop for Lookupd {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn bind(address: &TcpAddress) -> io::Result<Listener> {
    let bound = Listener::bind(address.address()).await;
    bound.map_err(|error: BindError| io::Error::new(error.source.kind(), error))
}

fn local_addr(listener: &Listener) -> io::Result<SocketAddr> {
    listener.local_addr().ok_or_else(|| io::Error::other("the listener has no address"))
}

/// Accepts nodes until `stop` is cancelled, which also ends their connections.
async fn accept_nodes(
    listener: Listener,
    context: Arc<Context>,
    stop: CancellationToken,
    tasks: TaskTracker,
    logger: Logger,
) -> io::Result<()> {
    let mut listener = Acceptor::new(listener, Role::Clients, "TCP", logger);
    loop {
        let (stream, remote) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = stop.cancelled() => return Ok(()),
        };
        let (context, stop) = (Arc::clone(&context), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = connection::serve(context, stream, remote) => {}
                () = stop.cancelled() => {}
            }
        });
    }
}
