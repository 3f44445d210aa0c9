//! What all requests share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use nsq_cluster::{ClusterConfig, Sampler, SamplerConfig, SamplerHandle};
use nsq_daemon::log::Logger;
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use crate::assets::Assets;
use crate::audit::Audit;
use crate::connections::Latest;
use crate::notify::Notifier;
use crate::outgoing::Outgoing;
use crate::settings::Settings;
use crate::timers::Timers;
use crate::upstream::Upstream;

/// Browsers that receive live updates at the same time. Others ask again every few seconds.
pub const MAX_EVENT_STREAMS: usize = 256;

/// The dashboard.
pub struct State {
    pub itself: Weak<State>,
    pub settings: Settings,
    pub upstream: Upstream,
    pub notifier: Notifier,
    pub outgoing: Outgoing,
    pub audit: Audit,
    pub timers: Timers,
    pub assets: Assets,
    pub logger: Logger,
    pub hostname: String,
    pub stop: CancellationToken,
    pub events: tokio::sync::Semaphore,
    pub counters: Counters,
    pub connections: Latest,
    sampler: RwLock<SamplerHandle>,
}

/// Counters for `/metrics`.
#[derive(Default)]
pub struct Counters {
    pub requests: AtomicU64,
    pub refused: AtomicU64,
}

impl State {
    /// Starts the background tasks, in the current runtime.
    pub fn start(settings: Settings, logger: Logger) -> Result<Arc<Self>, String> {
        let stop = CancellationToken::new();
        let outgoing = Outgoing::new(&settings.tls, settings.connect_timeout, settings.request_timeout)?;
        let notifier = Notifier::start(
            settings.notification_endpoint.clone(),
            outgoing.clone(),
            logger.clone(),
            stop.clone(),
        );
        let audit = Audit::open(settings.audit_log.as_deref())?;
        let sampler = start_sampler(&settings, settings.lookupds.clone())?;
        Ok(Arc::new_cyclic(|itself| State {
            itself: itself.clone(),
            upstream: Upstream::new(&settings),
            notifier,
            outgoing,
            audit,
            timers: Timers::default(),
            assets: Assets::new(settings.static_dir.clone()),
            logger,
            hostname: nsq_daemon::hostname(),
            stop,
            events: tokio::sync::Semaphore::new(MAX_EVENT_STREAMS),
            counters: Counters::default(),
            connections: Latest::default(),
            sampler: RwLock::new(sampler),
            settings,
        }))
    }

    /// The sampler of the cluster.
    pub fn sampler(&self) -> SamplerHandle {
        self.sampler.read().clone()
    }

    /// Uses other nsqlookupds from now on.
    pub fn set_lookupds(&self, addresses: Vec<String>) -> Result<(), String> {
        let sampler = start_sampler(&self.settings, addresses.clone())?;
        *self.sampler.write() = sampler;
        self.upstream.set_lookupds(addresses);
        Ok(())
    }
}

fn start_sampler(settings: &Settings, lookupds: Vec<String>) -> Result<SamplerHandle, String> {
    let cluster = ClusterConfig {
        lookupds,
        nsqds: settings.nsqds.clone(),
        default_ports: false,
        timeout: settings.request_timeout,
        tls: settings.tls.clone(),
        token: settings.token.clone(),
    };
    let config = SamplerConfig {
        interval: settings.sample_interval,
        thresholds: settings.thresholds.clone(),
        series_bytes: settings.history_bytes,
        ..SamplerConfig::new(cluster)
    };
    Sampler::start(config).map_err(|error| error.to_string())
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// A name for a request that no other request of this machine has.
pub fn request_id() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{:x}-{:x}-{number:x}", now_ms(), std::process::id())
}
