//! A running daemon: what it owns, and how it starts and stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nsq_daemon::go_duration;
use nsq_daemon::http::{HeavyAnswers, Server};
use nsq_daemon::listen::{Address, Listener, parse_address};
use nsq_daemon::log::Logger;
use nsq_daemon::open_files;
use nsq_daemon::tls::ServerTls;
use nsq_protocol::{IdentifyReply, PeerInfo};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::auth::Authenticator;
use crate::config::{Config, broadcast_port};
use crate::connection::ConnectionContext;
use crate::connection::listener::accept_loop;
use crate::flags::TlsRequired;
use crate::heartbeat_stats::RegistryStats;
use crate::http::auth::HttpAuth;
use crate::http::{HttpContext, LookupdAddresses};
use crate::lookup::{LookupOptions, LookupPeers};
use crate::producers::Producers;
use crate::startup::{self, StartOptions};
use crate::stats;
use crate::statsd::{self, StatsdOptions, expand_prefix};
use crate::storage::data_dir::DataDir;
use crate::storage::file::FileStorage;
use crate::storage::measured::Measured;
use crate::storage::open_files::OpenFiles;
use crate::storage::{Durability, Storage};
use crate::topic::registry::Registry;
use crate::upkeep::syncing::Syncing;
use crate::upkeep::{self, StopError, stop};

/// Why the daemon did not start: the text after `FATAL: `.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

/// See the module. Dropping it without [`Nsqd::shutdown`] has the effect of a kill.
pub struct Nsqd {
    registry: Arc<Registry>,
    tcp_address: Option<SocketAddr>,
    http_address: Option<SocketAddr>,
    https_address: Option<SocketAddr>,
    tls: Option<Arc<ServerTls>>,
    auth: Option<Arc<Authenticator>>,
    stop: CancellationToken,
    /// Stops after the connections, because their deadlines must still work while they end.
    stop_background: CancellationToken,
    serving: Vec<JoinHandle<std::io::Result<()>>>,
    background: Vec<JoinHandle<()>>,
    failed: CancellationToken,
    logger: Logger,
}

impl Nsqd {
    /// Locks and reads the data directory, binds the listeners, and serves.
    pub async fn start(config: Config, logger: Logger) -> Result<Nsqd, StartError> {
        let config = Arc::new(config);
        let instantiate = |error: String| StartError(format!("failed to instantiate nsqd - {error}"));
        nsq_daemon::info!(logger, "{}", nsq_daemon::version_line("nsqd"));
        nsq_daemon::info!(logger, "ID: {}", config.node_id);
        open_files::raise_limit(&logger);
        let storage: Arc<dyn Storage> =
            Arc::new(Measured::new(Arc::new(OpenFiles::with_share_of_limit(Arc::new(FileStorage)))));
        let data_dir =
            DataDir::open(&storage, &config.data_path).map_err(|error| instantiate(error.to_string()))?;
        let tls = match config.tls_options() {
            Some(options) => {
                let loaded = ServerTls::load(options).await;
                let failed = |error| instantiate(format!("failed to build TLS config - {error}"));
                Some(Arc::new(loaded.map_err(failed)?))
            }
            None => None,
        };
        let auth = Authenticator::new(config.auth_options(), logger.clone())
            .await
            .map_err(|error| instantiate(error.to_string()))?
            .map(Arc::new);
        let mode = config.unix_socket_mode.map(|mode| mode.0);
        let tcp = bind(Some(&config.tcp_address), mode).await.map_err(instantiate)?;
        let http = bind(config.http_address.as_ref(), mode).await.map_err(instantiate)?;
        let https_address = https_address(&config).map_err(instantiate)?;
        let https = bind(https_address.as_ref(), mode).await.map_err(instantiate)?;

        let stop = CancellationToken::new();
        let stop_background = CancellationToken::new();
        let lookup = LookupPeers::start(LookupOptions {
            addresses: config.lookupd_tcp_address.clone(),
            peer: peer_info(&config, port(&tcp), port(&http)),
            http_connect_timeout: config.http_client_connect_timeout,
            http_request_timeout: config.http_client_request_timeout,
            max_body_size: config.max_body_size,
            logger: logger.clone(),
            stop: stop.clone(),
        });
        let options = StartOptions {
            storage,
            data_dir,
            durability: config.durability,
            limits: config.engine_limits(),
            logger: logger.clone(),
            oracle: Some(lookup.clone()),
        };
        let recovered = tokio::task::spawn_blocking(move || startup::recover(options)).await;
        let registry = match recovered {
            Ok(result) => result.map_err(|error| StartError(format!("failed to load metadata - {error}")))?,
            Err(error) => return Err(StartError(format!("failed to load metadata - {error}"))),
        };
        registry.engine().log_context.disk_work.use_threads();
        if let Some(options) = config.latency_options() {
            registry.measure_latencies(options);
        }
        lookup.attach(&registry);
        let started_at = SystemTime::now();
        lookup.report(Arc::new(RegistryStats::new(&registry, stats::start_time(started_at))));

        let producers = Arc::new(Producers::default());
        let mut nsqd = Nsqd {
            tcp_address: tcp.as_ref().and_then(Listener::local_addr),
            http_address: http.as_ref().and_then(Listener::local_addr),
            https_address: https.as_ref().and_then(Listener::local_addr),
            tls: tls.clone(),
            auth: auth.clone(),
            registry: registry.clone(),
            stop,
            stop_background,
            serving: Vec::new(),
            background: Vec::new(),
            failed: CancellationToken::new(),
            logger,
        };
        nsqd.spawn_background();
        if config.durability != Durability::Sync {
            let syncing = Syncing { every: config.sync_every, timeout: config.sync_timeout };
            let engine = registry.engine().clone();
            nsqd.background.push(tokio::spawn(syncing.run(engine, nsqd.stop_background.clone())));
        }
        if !config.statsd_address.is_empty() {
            let port = broadcast_port(config.broadcast_http_port, info_port(&http));
            let options = StatsdOptions {
                prefix: expand_prefix(&config.statsd_prefix, &config.broadcast_address, port),
                config: config.clone(),
                registry: registry.clone(),
                producers: producers.clone(),
                logger: nsqd.logger.clone(),
            };
            nsqd.background.push(tokio::spawn(statsd::run(options, nsqd.stop_background.clone())));
        }
        if let Some(auth) = auth.clone() {
            let stop = nsqd.stop_background.clone();
            nsqd.background.push(tokio::spawn(async move { auth.watch(stop).await }));
        }
        let http_context = HttpContext {
            registry: registry.clone(),
            producers: producers.clone(),
            config: config.clone(),
            logger: nsqd.logger.clone(),
            started_at,
            tcp_port: info_port(&tcp),
            http_port: info_port(&http),
            heavy: HeavyAnswers::default(),
            auth: auth.clone().filter(|_| config.http_auth).map(|auth| Arc::new(HttpAuth::new(auth))),
            lookupd_addresses: lookup,
            tls_required: None,
        };
        if let Some(listener) = tcp {
            nsq_daemon::info!(
                nsqd.logger,
                "TCP: listening on {}",
                listening_on(&listener, &config.tcp_address)
            );
            let context =
                Arc::new(connection_context(&config, registry, producers, tls.clone(), auth.clone()));
            let (logger, stop) = (nsqd.logger.clone(), nsqd.stop.clone());
            nsqd.serve(accept_loop(listener, context, logger, stop));
        }
        if let (Some(listener), Some(address), Some(tls)) = (https, &https_address, tls) {
            nsq_daemon::info!(nsqd.logger, "HTTPS: listening on {}", listening_on(&listener, address));
            let server = Server::new(http_context.clone(), nsqd.logger.clone());
            let stop = nsqd.stop.clone();
            nsqd.serve(async move { server.serve_tls(listener, tls, stop).await });
        }
        if let (Some(listener), Some(address)) = (http, &config.http_address) {
            nsq_daemon::info!(nsqd.logger, "HTTP: listening on {}", listening_on(&listener, address));
            let https_port = nsqd.https_address.map_or(0, |address| address.port());
            let tls_required = (config.tls_required == TlsRequired::Yes).then_some(https_port);
            let server = Server::new(HttpContext { tls_required, ..http_context }, nsqd.logger.clone());
            let stop = nsqd.stop.clone();
            nsqd.serve(async move { server.serve(listener, stop).await });
        }
        Ok(nsqd)
    }

    fn serve(&mut self, server: impl Future<Output = std::io::Result<()>> + Send + 'static) {
        let failed = self.failed.clone();
        self.serving.push(tokio::spawn(async move {
            let result = server.await;
            if result.is_err() {
                failed.cancel();
            }
            result
        }));
    }

    fn spawn_background(&mut self) {
        let timers = self.registry.engine().timers.clone();
        self.background.push(tokio::spawn(timers.run(self.stop_background.clone())));
        self.background.push(tokio::spawn(upkeep::run(self.registry.clone(), self.stop_background.clone())));
        if let Some(tls) = self.tls.clone() {
            let (logger, stop) = (self.logger.clone(), self.stop.clone());
            self.background.push(tokio::spawn(async move { tls.keep_current(&logger, stop).await }));
        }
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Address of the TCP listener; `None` on a unix socket.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp_address
    }

    /// Address of the HTTP listener; `None` on a unix socket or if disabled.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// Address of the HTTPS listener; `None` if disabled.
    pub fn https_address(&self) -> Option<SocketAddr> {
        self.https_address
    }

    /// Reloads certificates and tokens. Open connections keep their certificates. If the new certificates are invalid,
    /// the old ones stay in use.
    pub async fn reload(&self) {
        if let Some(tls) = &self.tls {
            // `reload` has logged the error.
            let _ = tls.reload(&self.logger).await;
        }
        if let Some(auth) = &self.auth {
            auth.reload().await;
        }
    }

    /// Waits until a listener has failed. The daemon should then stop.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Announces a stop in `delay`. Until then everything works.
    pub fn announce_stop(&self, delay: Duration) {
        nsq_daemon::info!(self.logger, "NSQ: stopping in {}", go_duration::format(delay));
        self.registry.engine().set_leaving();
    }

    /// Stops cleanly: accepts no connections, closes all sessions, stores everything on disk. The error is the reason
    /// for a nonzero exit code.
    pub async fn shutdown(mut self) -> Result<(), String> {
        nsq_daemon::info!(self.logger, "NSQ: stopping subsystems");
        self.registry.engine().set_stopping();
        self.stop.cancel();
        let mut result = Ok(());
        for server in self.serving.drain(..) {
            if let Ok(Err(error)) = server.await {
                result = Err(error.to_string());
            }
        }
        self.stop_background.cancel();
        for task in self.background.drain(..) {
            // The panic hook has reported a task that panicked.
            let _ = task.await;
        }
        for topic in self.registry.all() {
            topic.close();
        }
        let registry = self.registry.clone();
        let persisted = tokio::task::spawn_blocking(move || persist_at_end(&registry)).await;
        let persisted = persisted.map_err(|error| error.to_string());
        match persisted.and_then(|stored| stored.map_err(|error| error.to_string())) {
            Ok(()) => nsq_daemon::info!(self.logger, "NSQ: bye"),
            Err(error) => {
                nsq_daemon::error!(self.logger, "failed to persist metadata - {error}");
                result = result.and(Err(error));
            }
        }
        result
    }
}

impl LookupdAddresses for LookupPeers {
    fn get(&self) -> Vec<String> {
        self.addresses()
    }

    fn connected(&self) -> Vec<(String, bool)> {
        self.status().into_iter().map(|status| (status.address, status.connected)).collect()
    }

    fn set(&self, addresses: Vec<String>) {
        self.set_addresses(addresses);
    }
}

fn persist_at_end(registry: &Registry) -> Result<(), StopError> {
    let engine = registry.engine();
    nsq_daemon::info!(
        engine.logger,
        "NSQ: persisting topic/channel metadata to {}",
        engine.data_dir.path().display()
    );
    stop::at_end(registry)
}

/// Address of the HTTPS listener: a TCP port, and only with a certificate.
fn https_address(config: &Config) -> Result<Option<Address>, String> {
    let address = &config.https_address;
    if address.is_empty() || config.tls_cert.is_empty() {
        return Ok(None);
    }
    match parse_address(address) {
        address @ Address::Tcp { .. } => Ok(Some(address)),
        Address::Unix(_) => {
            Err(format!("listen ({address}) failed - listen tcp: address {address}: missing port in address"))
        }
    }
}

async fn bind(address: Option<&Address>, mode: Option<u32>) -> Result<Option<Listener>, String> {
    match address {
        None => Ok(None),
        Some(address) => {
            Listener::bind_with_mode(address, mode).await.map(Some).map_err(|error| error.to_string())
        }
    }
}

fn listening_on(listener: &Listener, address: &Address) -> String {
    listener.local_addr().map_or_else(|| address.to_string(), |address| address.to_string())
}

fn port(listener: &Option<Listener>) -> u16 {
    listener.as_ref().and_then(Listener::local_port).unwrap_or(0)
}

/// The port as `/info` shows it: -1 for a unix socket, 0 when disabled.
fn info_port(listener: &Option<Listener>) -> i64 {
    listener.as_ref().map_or(0, |listener| listener.local_port().map_or(-1, i64::from))
}

fn peer_info(config: &Config, tcp_port: u16, http_port: u16) -> PeerInfo {
    let or_real = |broadcast: u16, real: u16| if broadcast == 0 { real } else { broadcast };
    PeerInfo {
        broadcast_address: config.broadcast_address.clone(),
        heartbeat_stats: nsq_protocol::heartbeat::HEARTBEAT_STATS,
        hostname: nsq_daemon::hostname(),
        tcp_port: or_real(config.broadcast_tcp_port, tcp_port),
        http_port: or_real(config.broadcast_http_port, http_port),
        version: nsq_daemon::NSQ_VERSION.to_owned(),
        topology_zone: config.topology_zone.clone(),
        topology_region: config.topology_region.clone(),
    }
}

fn connection_context(
    config: &Config,
    registry: Arc<Registry>,
    producers: Arc<Producers>,
    tls: Option<Arc<ServerTls>>,
    auth: Option<Arc<Authenticator>>,
) -> ConnectionContext {
    let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    ConnectionContext {
        registry,
        producers,
        location: config.location(),
        limits: config.limits(),
        identify: config.identify_limits(),
        tls,
        tls_required: config.tls_required != TlsRequired::No,
        reply: IdentifyReply {
            max_rdy_count: i64::try_from(config.max_rdy_count).unwrap_or(i64::MAX),
            version: nsq_daemon::NSQ_VERSION.to_owned(),
            max_msg_timeout: millis(config.max_msg_timeout),
            max_deflate_level: i64::from(config.max_deflate_level),
            auth_required: auth.is_some(),
            topology_region: config.topology_region.clone(),
            topology_zone: config.topology_zone.clone(),
            max_msg_size: i64::try_from(config.max_msg_size).ok(),
            max_body_size: i64::try_from(config.max_body_size).ok(),
            ..IdentifyReply::default()
        },
        auth,
    }
}
