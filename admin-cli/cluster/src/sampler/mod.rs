//! The sampler: a task that asks all daemons at an interval, and publishes snapshots.
//!
//! Each daemon is asked on its own, with its own timeout. A snapshot is published when all have answered, or after
//! [`SamplerConfig::publish_after`]; daemons that are late keep their figures, with their age. A daemon that fails
//! repeatedly is skipped for a while.

mod breaker;
mod poller;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use nsq::ConfigError;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::ClusterConfig;
use crate::find::Cluster;
use crate::problems::Thresholds;
use crate::series::{DEFAULT_SERIES_BYTES, Series};
use crate::snapshot::Snapshot;
use poller::Poller;

/// The settings of a sampler.
#[derive(Debug, Clone)]
pub struct SamplerConfig {
    /// The daemons. Its timeout applies to each request.
    pub cluster: ClusterConfig,
    /// Time between two samples. [default: 5 s]
    pub interval: Duration,
    /// Maximum time to wait for answers before a snapshot is published. [default: 2 s]
    pub publish_after: Duration,
    /// Failures in a row after which a daemon is skipped for 30 s. [default: 3]
    pub skip_after: u32,
    /// For how long a node that is no longer registered and does not answer is kept. [default: 30 min]
    pub forget_after: Duration,
    /// When a condition is a problem.
    pub thresholds: Thresholds,
    /// Limit of the memory for series, in bytes. [default: 64 MiB]
    pub series_bytes: usize,
}

impl SamplerConfig {
    /// The defaults for a cluster.
    pub fn new(cluster: ClusterConfig) -> Self {
        SamplerConfig {
            cluster,
            interval: Duration::from_secs(5),
            publish_after: Duration::from_secs(2),
            skip_after: 3,
            forget_after: Duration::from_secs(30 * 60),
            thresholds: Thresholds::default(),
            series_bytes: DEFAULT_SERIES_BYTES,
        }
    }
}

/// Samples a cluster in the background.
#[derive(Debug)]
pub struct Sampler;

impl Sampler {
    /// Starts a sampler on the current tokio runtime. Fails only if an address is invalid: daemons that do not answer are
    /// asked again. It stops when the last clone of the handle is dropped.
    pub fn start(config: SamplerConfig) -> Result<SamplerHandle, ConfigError> {
        let (snapshots_tx, snapshots) = watch::channel(Arc::new(Snapshot::empty(config.interval)));
        let series = Arc::new(Mutex::new(Series::new(config.interval, config.series_bytes)));
        let refresh = Arc::new(Notify::new());
        let poller = Poller::new(config.clone(), series.clone())?;
        let task = tokio::spawn(run(poller, config.interval, snapshots_tx, refresh.clone()));
        let task = Arc::new(Task(task));
        Ok(SamplerHandle { config: Arc::new(config), snapshots, series, refresh, _task: task })
    }
}

async fn run(
    mut poller: Poller,
    every: Duration,
    snapshots: watch::Sender<Arc<Snapshot>>,
    refresh: Arc<Notify>,
) {
    let mut ticks = interval(every.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = refresh.notified() => ticks.reset(),
        }
        let snapshot = poller.sample().await;
        snapshots.send_replace(Arc::new(snapshot));
    }
}

/// Ends the task with the last handle.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A running sampler. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SamplerHandle {
    config: Arc<SamplerConfig>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    series: Arc<Mutex<Series>>,
    refresh: Arc<Notify>,
    _task: Arc<Task>,
}

impl SamplerHandle {
    /// The newest snapshot; [empty](Snapshot::empty) before the first one.
    pub fn latest(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// Waits until there is a snapshot with this number or a higher one.
    pub async fn reached(&self, number: u64) -> Arc<Snapshot> {
        let mut snapshots = self.snapshots.clone();
        match snapshots.wait_for(|snapshot| snapshot.number >= number).await {
            Ok(snapshot) => snapshot.clone(),
            // The task runs as long as this handle exists.
            Err(_) => self.latest(),
        }
    }

    /// Every new snapshot.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Takes a sample now, for example after an action.
    pub fn refresh(&self) {
        self.refresh.notify_one();
    }

    /// The series. Hold the lock for a short time: the sampler waits for it.
    pub fn series(&self) -> impl Deref<Target = Series> {
        self.series.lock()
    }

    /// The settings.
    pub fn config(&self) -> &SamplerConfig {
        &self.config
    }

    /// The daemons of the newest snapshot, to ask or change them. Asks nothing.
    pub fn cluster(&self) -> Cluster {
        Cluster::of(&self.latest(), &self.config.cluster)
    }
}
