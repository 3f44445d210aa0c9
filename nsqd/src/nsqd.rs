//! A running daemon: what it owns, and how it starts and stops.
//!
//! - [`listeners`]: the sockets it listens on

pub mod listeners;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nsq_daemon::go_duration;
use nsq_daemon::http::{HeavyAnswers, Server};
use nsq_daemon::listen::Listener;
use nsq_daemon::log::Logger;
use nsq_daemon::open_files;
use nsq_daemon::tls::{ServerTls, TlsError};
use nsq_daemon::watched_file::FileError;
use nsq_protocol::{IdentifyReply, PeerInfo};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use self::listeners::{Bound, ListenError, Listeners};
#[cfg(feature = "archive")]
use crate::archive::{self, Archive};
use crate::auth::{self, Authenticator};
use crate::config::{Config, broadcast_port};
use crate::connection::ConnectionContext;
use crate::connection::listener::accept_loop;
use crate::disk_metrics::{DiskMetrics, Measured};
use crate::drain::receiver::{CannotSend, HttpReceiver, InvalidTarget, Target};
use crate::drain::{DrainEnd, Drainer, MoveSetup};
use crate::engine::draining::DrainRequest;
use crate::flags::TlsRequired;
use crate::heartbeat_stats::RegistryStats;
use crate::http::auth::HttpAuth;
use crate::http::consume::HttpConsumers;
use crate::http::{HttpContext, LookupdAddresses};
use crate::lookup::{LookupOptions, LookupPeers};
use crate::policy::file::{InvalidPolicies, PolicyFile};
use crate::policy_file::PolicyFileWatch;
use crate::producers::Producers;
use crate::startup::{self, RecoveryError, StartOptions};
use crate::stats;
use crate::statsd::{self, StatsdOptions, expand_prefix};
use crate::storage::data_dir::{DataDir, DataDirError};
use crate::storage::file::FileStorage;
use crate::storage::open_files::OpenFiles;
use crate::storage::{Durability, Storage};
use crate::topic::registry::Registry;
use crate::upkeep::syncing::Syncing;
use crate::upkeep::{self, StopError, stop};

/// Why the daemon did not start: the text after `FATAL: `.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("failed to instantiate nsqd - {0}")]
    DataDir(#[from] DataDirError),
    #[error("failed to instantiate nsqd - failed to build TLS config - {0}")]
    Tls(#[from] TlsError),
    #[error("failed to instantiate nsqd - {0}")]
    Auth(#[from] auth::StartError),
    #[error("failed to instantiate nsqd - {0}")]
    Listen(#[from] ListenError),
    #[error("failed to instantiate nsqd - failed to read --policy-file - {0}")]
    PolicyFile(#[from] FileError<InvalidPolicies>),
    #[error("failed to instantiate nsqd - --drain-to: {0}")]
    DrainTo(#[from] InvalidTarget),
    #[error("failed to instantiate nsqd - {0}")]
    DrainToken(#[from] CannotSend),
    #[cfg(feature = "archive")]
    #[error("failed to instantiate nsqd - --archive: {0}")]
    Archive(#[from] archive::StartError),
    #[error("failed to load metadata - {0}")]
    Recovery(#[from] RecoveryError),
    #[error("failed to load metadata - {0}")]
    RecoveryPanicked(#[from] JoinError),
}

/// Why the daemon did not stop cleanly.
#[derive(Debug, thiserror::Error)]
pub enum ShutdownError {
    #[error(transparent)]
    Listener(#[from] io::Error),
    #[error(transparent)]
    Persist(#[from] StopError),
    #[error(transparent)]
    PersistPanicked(#[from] JoinError),
}

/// See the module. Dropping it without [`Nsqd::shutdown`] has the effect of a kill.
pub struct Nsqd {
    config: Arc<Config>,
    registry: Arc<Registry>,
    producers: Arc<Producers>,
    drainer: Arc<Drainer>,
    tcp_address: Option<SocketAddr>,
    http_address: Option<SocketAddr>,
    https_address: Option<SocketAddr>,
    tls: Option<Arc<ServerTls>>,
    auth: Option<Arc<Authenticator>>,
    policy_file: Option<Arc<PolicyFileWatch>>,
    #[cfg(feature = "archive")]
    archive: Option<Archive>,
    stop: CancellationToken,
    /// Stops after the connections, because their deadlines must still work while they end.
    stop_background: CancellationToken,
    serving: Vec<JoinHandle<io::Result<()>>>,
    background: Vec<JoinHandle<()>>,
    failed: CancellationToken,
    logger: Logger,
}

impl Nsqd {
    /// Locks and reads the data directory, binds the listeners, and serves.
    pub async fn start(config: Config, logger: Logger) -> Result<Nsqd, StartError> {
        let config = Arc::new(config);
        nsq_daemon::info!(logger, "{}", nsq_daemon::version_line("nsqd"));
        nsq_daemon::info!(logger, "ID: {}", config.node_id);
        open_files::raise_limit(&logger);
        let files = Arc::new(OpenFiles::with_share_of_limit(Arc::new(FileStorage)));
        let disk_metrics = Arc::<DiskMetrics>::default();
        let storage: Arc<dyn Storage> = Arc::new(Measured::new(files, disk_metrics.clone()));
        let data_dir = DataDir::open(&storage, &config.data_path)?;
        let tls = load_tls(&config).await?;
        let auth = Authenticator::new(config.auth_options(), logger.clone()).await?.map(Arc::new);
        let (policy_file, policies) = open_policies(&config, &logger).await?;
        let listeners = Listeners::bind(&config).await?;

        let stop = CancellationToken::new();
        let lookup = start_lookup(&config, &listeners, &logger, &stop);
        let options = StartOptions {
            storage,
            data_dir,
            durability: config.durability,
            limits: config.engine_limits(),
            logger: logger.clone(),
            oracle: Some(lookup.clone()),
            policies: Arc::new(policies),
        };
        let registry = recover(&config, options).await?;
        registry.engine().set_disk_metrics(disk_metrics);
        lookup.attach(&registry);
        #[cfg(feature = "archive")]
        let archive = start_archive(&config, &registry, &listeners).await?;
        let started_at = SystemTime::now();
        lookup.report(Arc::new(RegistryStats::new(&registry, stats::start_time(started_at))));

        let lookups = lookup.clone();
        let moves = config.move_setup(http_name(&config, &listeners));
        if !config.drain_to.is_empty() {
            check_receiver(&config, moves.clone()).await?;
        }
        let on_change = Box::new(move || lookups.node_changed());
        let drainer = Drainer::new(registry.clone(), logger.clone(), moves, on_change);
        let local_addr = |bound: &Bound| bound.listener.local_addr();
        let mut nsqd = Nsqd {
            tcp_address: local_addr(&listeners.tcp),
            http_address: listeners.http.as_ref().and_then(local_addr),
            https_address: listeners.https.as_ref().and_then(local_addr),
            config,
            registry,
            producers: Arc::new(Producers::default()),
            drainer,
            tls,
            auth,
            policy_file,
            #[cfg(feature = "archive")]
            archive,
            stop,
            stop_background: CancellationToken::new(),
            serving: Vec::new(),
            background: Vec::new(),
            failed: CancellationToken::new(),
            logger,
        };
        nsqd.spawn_background();
        nsqd.spawn_statsd(listeners.http_port());
        let connection_context = Arc::new(nsqd.connection_context());
        let http_context = nsqd.http_context(&listeners, started_at, lookup, &connection_context);
        nsqd.serve_tcp(listeners.tcp, connection_context);
        nsqd.serve_https(listeners.https, http_context.clone());
        nsqd.serve_http(listeners.http, http_context);
        Ok(nsqd)
    }

    fn serve_tcp(&mut self, bound: Bound, context: Arc<ConnectionContext>) {
        nsq_daemon::info!(self.logger, "TCP: listening on {}", bound.shown());
        self.serve(accept_loop(bound.listener, context, self.logger.clone(), self.stop.clone()));
    }

    fn serve_https(&mut self, bound: Option<Bound>, context: HttpContext) {
        let (Some(bound), Some(tls)) = (bound, self.tls.clone()) else { return };
        nsq_daemon::info!(self.logger, "HTTPS: listening on {}", bound.shown());
        let server = Server::new(context, self.logger.clone());
        let stop = self.stop.clone();
        self.serve(async move { server.serve_tls(bound.listener, tls, stop).await });
    }

    fn serve_http(&mut self, bound: Option<Bound>, context: HttpContext) {
        let Some(bound) = bound else { return };
        nsq_daemon::info!(self.logger, "HTTP: listening on {}", bound.shown());
        let https_port = self.https_address.map_or(0, |address| address.port());
        let tls_required = (self.config.tls_required == TlsRequired::Yes).then_some(https_port);
        let server = Server::new(HttpContext { tls_required, ..context }, self.logger.clone());
        let stop = self.stop.clone();
        self.serve(async move { server.serve(bound.listener, stop).await });
    }

    fn serve(&mut self, server: impl Future<Output = io::Result<()>> + Send + 'static) {
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
        let engine = self.registry.engine().clone();
        let stop = self.stop_background.clone();
        self.background.push(tokio::spawn(engine.timers.clone().run(stop.clone())));
        self.background.push(tokio::spawn(upkeep::run(self.registry.clone(), stop.clone())));
        self.background.push(tokio::spawn(self.registry.clone().run_dead_lettering(stop.clone())));
        if let Some(tls) = self.tls.clone() {
            let (logger, stop) = (self.logger.clone(), self.stop.clone());
            self.background.push(tokio::spawn(async move { tls.keep_current(&logger, stop).await }));
        }
        if self.config.durability != Durability::Sync {
            let syncing = Syncing { every: self.config.sync_every, timeout: self.config.sync_timeout };
            self.background.push(tokio::spawn(syncing.run(engine, stop.clone())));
        }
        if let Some(auth) = self.auth.clone() {
            let stop = stop.clone();
            self.background.push(tokio::spawn(async move { auth.watch(stop).await }));
        }
        if let Some(policy_file) = self.policy_file.clone() {
            let registry = self.registry.clone();
            self.background.push(tokio::spawn(async move { policy_file.watch(&registry, stop).await }));
        }
    }

    fn spawn_statsd(&mut self, http_port: i64) {
        let config = &self.config;
        if config.statsd_address.is_empty() {
            return;
        }
        let port = broadcast_port(config.broadcast_http_port, http_port);
        let options = StatsdOptions {
            prefix: expand_prefix(&config.statsd_prefix, &config.broadcast_address, port),
            config: config.clone(),
            registry: self.registry.clone(),
            producers: self.producers.clone(),
            logger: self.logger.clone(),
        };
        self.background.push(tokio::spawn(statsd::run(options, self.stop_background.clone())));
    }

    fn http_context(
        &self,
        listeners: &Listeners,
        started_at: SystemTime,
        lookup: Arc<LookupPeers>,
        connection: &Arc<ConnectionContext>,
    ) -> HttpContext {
        let consumers = HttpConsumers::new(&self.config, connection.clone(), self.stop.clone());
        let auth = self.auth.clone().filter(|_| self.config.http_auth);
        HttpContext {
            registry: self.registry.clone(),
            producers: self.producers.clone(),
            config: self.config.clone(),
            logger: self.logger.clone(),
            started_at,
            tcp_port: listeners.tcp.port(),
            http_port: listeners.http_port(),
            heavy: HeavyAnswers::default(),
            auth: auth.map(|auth| Arc::new(HttpAuth::new(auth))),
            lookupd_addresses: lookup,
            consumers: Arc::new(consumers),
            drainer: self.drainer.clone(),
            tls_required: None,
        }
    }

    fn connection_context(&self) -> ConnectionContext {
        let config = &self.config;
        let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        ConnectionContext {
            registry: self.registry.clone(),
            producers: self.producers.clone(),
            location: config.location(),
            limits: config.limits(),
            identify: config.identify_limits(),
            tls: self.tls.clone(),
            tls_required: config.tls_required != TlsRequired::No,
            reply: IdentifyReply {
                max_rdy_count: i64::try_from(config.max_rdy_count).unwrap_or(i64::MAX),
                version: nsq_daemon::NSQ_VERSION.to_owned(),
                max_msg_timeout: millis(config.max_msg_timeout),
                max_deflate_level: i64::from(config.max_deflate_level),
                auth_required: self.auth.is_some(),
                topology_region: config.topology_region.clone(),
                topology_zone: config.topology_zone.clone(),
                max_msg_size: i64::try_from(config.max_msg_size).ok(),
                max_body_size: i64::try_from(config.max_body_size).ok(),
                ..IdentifyReply::default()
            },
            auth: self.auth.clone(),
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

    /// Reloads certificates, tokens and policies. Open connections keep their certificates. If the new certificates are invalid,
    /// the old ones stay in use.
    pub async fn reload(&self) {
        if let Some(tls) = &self.tls {
            // `reload` has logged the error.
            let _ = tls.reload(&self.logger).await;
        }
        if let Some(auth) = &self.auth {
            auth.reload().await;
        }
        if let Some(policy_file) = &self.policy_file {
            policy_file.reload(&self.registry).await;
        }
    }

    /// Waits until a listener has failed. The daemon should then stop.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Begins to drain, in order to stop. [`Nsqd::drained`] reports the end.
    pub fn drain(&self) {
        let timeout = Some(self.config.drain_timeout).filter(|timeout| !timeout.is_zero());
        let move_to = Some(self.config.drain_to.clone()).filter(|to| !to.is_empty());
        self.drainer.begin(DrainRequest { timeout, stops: true, move_to });
    }

    /// Waits for the end of the drain that [`Nsqd::drain`] began. Dropping the future loses nothing.
    pub async fn drained(&self) -> DrainEnd {
        self.drainer.ended().await
    }

    /// How many messages a drain waits for.
    pub fn remaining_count(&self) -> u64 {
        self.drainer.status().remaining_count
    }

    /// Announces a stop in `delay`. Until then everything works.
    pub fn announce_stop(&self, delay: Duration) {
        nsq_daemon::info!(self.logger, "NSQ: stopping in {}", go_duration::format(delay));
        self.registry.engine().status.set_leaving();
    }

    /// Stops cleanly: accepts no connections, closes all sessions, stores everything on disk. The error is the reason
    /// for a nonzero exit code.
    pub async fn shutdown(mut self) -> Result<(), ShutdownError> {
        nsq_daemon::info!(self.logger, "NSQ: stopping subsystems");
        self.drainer.stop().await;
        self.registry.engine().status.set_stopping();
        self.stop.cancel();
        let mut result = Ok(());
        for server in self.serving.drain(..) {
            if let Ok(Err(error)) = server.await {
                result = Err(error.into());
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
        let persisted = persist_at_end(self.registry.clone()).await;
        #[cfg(feature = "archive")]
        if let Some(archive) = self.archive.take() {
            archive.finish().await;
        }
        match persisted {
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

async fn load_tls(config: &Config) -> Result<Option<Arc<ServerTls>>, TlsError> {
    match config.tls_options() {
        Some(options) => Ok(Some(Arc::new(ServerTls::load(options).await?))),
        None => Ok(None),
    }
}

#[cfg(feature = "archive")]
async fn start_archive(
    config: &Config,
    registry: &Arc<Registry>,
    listeners: &Listeners,
) -> Result<Option<Archive>, archive::StartError> {
    match config.archive_options(listeners.tcp.port()) {
        Some(options) => Archive::start(registry, options).await,
        None => Ok(None),
    }
}

/// The HTTP address of this node, for the logs of other nodes.
fn http_name(config: &Config, listeners: &Listeners) -> String {
    let port = broadcast_port(config.broadcast_http_port, listeners.http_port());
    format!("{}:{port}", config.broadcast_address)
}

/// Checks that the token and the certificates for `--drain-to` can be read. Sends nothing.
async fn check_receiver(config: &Config, moves: MoveSetup) -> Result<(), StartError> {
    let target = Target::parse(&config.drain_to)?;
    let checked = tokio::task::spawn_blocking(move || HttpReceiver::new(target, &moves.receiver)).await;
    checked.map_err(StartError::RecoveryPanicked)??;
    Ok(())
}

/// The policy file, if there is one, and its policies.
async fn open_policies(
    config: &Config,
    logger: &Logger,
) -> Result<(Option<Arc<PolicyFileWatch>>, PolicyFile), FileError<InvalidPolicies>> {
    if config.policy_file.is_empty() {
        return Ok((None, PolicyFile::default()));
    }
    let path = config.policy_file.clone().into();
    let (watch, policies) = PolicyFileWatch::open(path, logger.clone()).await?;
    Ok((Some(Arc::new(watch)), policies))
}

/// Connects to the lookupds. This comes before recovery, because the registry asks them for the channels of new topics.
fn start_lookup(
    config: &Config,
    listeners: &Listeners,
    logger: &Logger,
    stop: &CancellationToken,
) -> Arc<LookupPeers> {
    LookupPeers::start(LookupOptions {
        addresses: config.lookupd_tcp_address.clone(),
        peer: peer_info(config, listeners),
        http_connect_timeout: config.http_client_connect_timeout,
        http_request_timeout: config.http_client_request_timeout,
        max_body_size: config.max_body_size,
        logger: logger.clone(),
        stop: stop.clone(),
    })
}

fn peer_info(config: &Config, listeners: &Listeners) -> PeerInfo {
    let or_real = |broadcast: u16, real: Option<&Listener>| match broadcast {
        0 => real.and_then(Listener::local_port).unwrap_or(0),
        broadcast => broadcast,
    };
    PeerInfo {
        broadcast_address: config.broadcast_address.clone(),
        heartbeat_stats: nsq_protocol::heartbeat::HEARTBEAT_STATS,
        hostname: nsq_daemon::hostname(),
        tcp_port: or_real(config.broadcast_tcp_port, Some(&listeners.tcp.listener)),
        http_port: or_real(config.broadcast_http_port, listeners.http.as_ref().map(|bound| &bound.listener)),
        version: nsq_daemon::NSQ_VERSION.to_owned(),
        topology_zone: config.topology_zone.clone(),
        topology_region: config.topology_region.clone(),
    }
}

/// Recovers topics and channels on a thread of their own, because that takes long with many messages.
async fn recover(config: &Config, options: StartOptions) -> Result<Arc<Registry>, StartError> {
    let registry = tokio::task::spawn_blocking(move || {
        let registry = startup::recover(options)?;
        // Before the first consumer connects.
        registry.expire();
        Ok::<_, startup::RecoveryError>(registry)
    })
    .await??;
    registry.engine().log_context.disk_work.use_threads();
    if let Some(options) = config.latency_options() {
        registry.measure_latencies(options);
    }
    Ok(registry)
}

async fn persist_at_end(registry: Arc<Registry>) -> Result<(), ShutdownError> {
    let persisted = tokio::task::spawn_blocking(move || {
        let engine = registry.engine();
        nsq_daemon::info!(
            engine.logger,
            "NSQ: persisting topic/channel metadata to {}",
            engine.store.data_dir.path().display()
        );
        stop::at_end(&registry)
    });
    Ok(persisted.await??)
}
