//! One nsqd of the soak: its start, its topics with their models, and the checks at the end.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nsq_tests::daemon::binary;
use nsq_tests::disk::MemoryDisk;
use nsq_tests::{Daemon, process};
use parking_lot::Mutex;
use rand::Rng;
use tempfile::TempDir;

use crate::model::{Life, Topic};

const MIB: u64 = 1 << 20;
/// Size of the small disk: enough for the load, but quick to fill.
const SMALL_DISK_MIB: u32 = 384;
/// Maximum disk usage at the end, when everything is finished: a few journal files, retained messages, checkpoints.
const DISK_BOUND: u64 = 500 * MIB;
/// Maximum resident memory of nsqd at the end.
const MEMORY_BOUND: u64 = 400 * MIB;
/// Maximum number of open files of nsqd at the end, when only a few connections remain.
const OPEN_FILES_BOUND: u64 = 300;

/// What the operator does to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Default durability; killed and stopped.
    Killed,
    /// `--durability=sync` on a small disk and with little memory; killed and stopped, and its disk is filled.
    Filled,
    /// `--durability=overflow`; stopped, but never killed.
    Volatile,
}

/// The kind of load on a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Publishes of all kinds.
    Plain,
    /// Some messages are deferred.
    Deferred,
    /// Finished messages are retained, and channels are moved back.
    Retained,
    /// The topic is deleted and created again.
    Deleted,
    /// Nothing of the topic may survive a restart of nsqd.
    Ephemeral,
}

/// All topics: name, load, channels.
pub const TOPICS: [(&str, Load, &[&str]); 5] = [
    ("plain", Load::Plain, &["first", "second", "lagging#ephemeral"]),
    ("deferred", Load::Deferred, &["first", "second"]),
    ("retained", Load::Retained, &["first", "second"]),
    ("deleted", Load::Deleted, &["first"]),
    ("gone#ephemeral", Load::Ephemeral, &["first#ephemeral", "second"]),
];

/// Topic to which consumers publish to find out that nsqd has read everything they sent.
pub const BARRIER: &str = "barrier#ephemeral";

/// See the module.
pub struct Node {
    kind: Kind,
    /// TCP address, the same after every restart.
    pub tcp: std::net::SocketAddr,
    /// The process. Locked during an action on it.
    pub daemon: tokio::sync::Mutex<Daemon>,
    /// Models, in the order of [`TOPICS`].
    topics: Vec<Mutex<Topic>>,
    /// Number of restarts of the process so far.
    epoch: AtomicU32,
    /// Actions so far, for the report of a failure.
    actions: Mutex<Vec<String>>,
    began: Instant,
    folder: Arc<TempDir>,
    disk: Option<MemoryDisk>,
}

impl Node {
    /// Starts an nsqd of this kind, with all durable topics and channels.
    pub async fn start(kind: Kind, lookupd: &Daemon) -> Self {
        let folder = Arc::new(TempDir::with_prefix("nsq-soak-").expect("a temporary directory"));
        let mut disk = None;
        let start = Daemon::nsqd().lookupd(lookupd).flag("--max-msg-timeout=1m").flag("--statsd-interval=1s");
        let start = match kind {
            Kind::Killed => start,
            Kind::Filled => {
                disk = MemoryDisk::mount(folder.path(), SMALL_DISK_MIB);
                start.flag("--durability=sync").flag("--mem-queue-size=100")
            }
            Kind::Volatile => start.flag("--durability=overflow").flag("--mem-queue-size=500"),
        };
        let daemon = start.start_in(folder.clone()).await;
        for (topic, load, channels) in TOPICS {
            if load == Load::Ephemeral {
                continue;
            }
            daemon.admin(&format!("/topic/create?topic={topic}")).await;
            for channel in channels.iter().filter(|channel| !channel.ends_with("#ephemeral")) {
                daemon.admin(&format!("/channel/create?topic={topic}&channel={channel}")).await;
            }
        }
        daemon.admin("/topic/retain?topic=retained&for=60s").await;
        Node {
            kind,
            tcp: daemon.tcp(),
            daemon: tokio::sync::Mutex::new(daemon),
            topics: TOPICS.iter().map(|(name, _, channels)| Mutex::new(Topic::new(name, channels))).collect(),
            epoch: AtomicU32::new(0),
            actions: Mutex::default(),
            began: Instant::now(),
            folder,
            disk,
        }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The data directory.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Whether the disk can be filled.
    pub fn has_small_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// The model of the topic at this index of [`TOPICS`].
    pub fn topic(&self, topic: usize) -> parking_lot::MutexGuard<'_, Topic> {
        self.topics[topic].lock()
    }

    /// The life and generation to which a connection made now belongs.
    pub fn life(&self, topic: usize) -> Life {
        Life { epoch: self.epoch.load(Ordering::SeqCst), generation: self.topic(topic).generation() }
    }

    /// Records that the process has ended: a new life begins.
    pub fn begin_life(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// Records an action for the report of a failure.
    pub fn note(&self, action: impl Into<String>) {
        let action = format!("{:8.2} {}", self.began.elapsed().as_secs_f64(), action.into());
        self.actions.lock().push(action);
    }

    /// Panics if a model has violations.
    pub fn check(&self) {
        for topic in &self.topics {
            let mut topic = topic.lock();
            topic.check(Instant::now());
            let violations = topic.violations();
            assert!(
                violations.is_empty(),
                "{} violations, the first:\n{}\n{}",
                violations.len(),
                violations[..violations.len().min(20)].join("\n"),
                self.log(),
            );
        }
    }

    fn history(&self) -> String {
        let actions = self.actions.lock();
        format!("the last actions:\n{}", actions[actions.len().saturating_sub(60)..].join("\n"))
    }

    /// One line of totals.
    pub fn summary(&self) -> String {
        let mut line = format!("{:?} node, {} actions:", self.kind, self.actions.lock().len());
        for ((name, ..), topic) in TOPICS.iter().zip(&self.topics) {
            let totals = topic.lock().totals();
            line += &format!(
                " {name} {}+{} sent, {} delivered ({} repeated);",
                totals.acknowledged, totals.refused, totals.delivered, totals.repeated
            );
        }
        line
    }

    /// The end of the log and the last actions, for the report of a failure.
    pub fn log(&self) -> String {
        let log = self.daemon.try_lock().map(|daemon| daemon.log().text());
        let log = log.unwrap_or_else(|_| "the log is not available during an action".to_owned());
        let lines: Vec<&str> = log.lines().collect();
        let lines = lines[lines.len().saturating_sub(60)..].join("\n");
        format!("--- {:?} node\n{lines}\n{}", self.kind, self.history())
    }

    /// Waits until every acknowledged message is delivered and finished.
    pub async fn until_drained(&self, patience: Duration, mut check_tasks: impl FnMut()) {
        let deadline = Instant::now() + patience;
        loop {
            check_tasks();
            self.check();
            let missing: Vec<String> = self.topics.iter().flat_map(|topic| topic.lock().missing()).collect();
            let unfinished = self.unfinished().await;
            if missing.is_empty() && unfinished.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{} messages missing, the first:\n{}\nunfinished: {unfinished:?}\n{}",
                missing.len(),
                missing[..missing.len().min(20)].join("\n"),
                self.log(),
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Durable channels with unfinished messages.
    async fn unfinished(&self) -> Vec<String> {
        let topics = self.daemon.lock().await.topics().await;
        let mut unfinished = Vec::new();
        for topic in &topics {
            for channel in &topic.channels {
                let name = format!("{}/{}", topic.topic_name, channel.channel_name);
                if channel.unfinished() > 0 && !name.contains("#ephemeral") {
                    unfinished.push(format!("{name}: {}", channel.unfinished()));
                }
            }
        }
        unfinished
    }

    /// Checks the state after everything is finished and all clients have disconnected: resource usage is bounded, the
    /// data directory has no damage, and no message returns after a restart.
    pub async fn expect_clean_end(&self, lookupd: &Daemon) {
        let mut daemon = self.daemon.lock().await;
        let about = format!("{:?} node", self.kind);
        let topics = daemon.topics().await;
        for topic in &topics {
            let is_ours =
                TOPICS.iter().any(|(name, ..)| *name == topic.topic_name) || topic.topic_name == BARRIER;
            assert!(is_ours, "{about}: unexpected topic {}\n{}", topic.topic_name, self.history());
        }
        self.expect_bounds(&daemon).await;
        let log = daemon.log().text();
        assert!(!log.contains("panicked"), "{about}: {log}");
        let is_known = async || {
            let answer = lookupd.get("/lookup?topic=plain").await;
            nsq_tests::wait::when(answer.text(), |text| {
                text.contains(&format!("\"tcp_port\":{}", self.tcp.port()))
            })
        };
        nsq_tests::wait::until("nsqlookupd knows the node", is_known).await;

        assert!(daemon.terminate().await.success(), "{about}: {}", daemon.log().text());
        self.verify();
        daemon.restart().await;
        for (name, load, channels) in TOPICS {
            let topic = daemon.topic(name).await;
            assert_eq!(topic.is_some(), load != Load::Ephemeral, "{about}: {name}");
            for channel in channels.iter().filter(|channel| !channel.ends_with("#ephemeral")) {
                let Some(topic) = &topic else { continue };
                let channel = topic.channels.iter().find(|known| known.channel_name == *channel);
                let unfinished = channel.map(nsq_tests::stats::Channel::unfinished);
                assert_eq!(unfinished, Some(0), "{about}: {name} after the last start");
            }
        }
    }

    async fn expect_bounds(&self, daemon: &Daemon) {
        let about = format!("{:?} node", self.kind);
        let (memory, files) = (process::resident_bytes(daemon.pid()), process::open_file_count(daemon.pid()));
        eprintln!("  {about}: {} MiB resident, {files} files open", memory / MIB);
        assert!(memory < MEMORY_BOUND, "{about}: {} MiB resident", memory / MIB);
        assert!(files < OPEN_FILES_BOUND, "{about}: {files} files open");
        // nsqd frees disk space in the background.
        let check =
            async || nsq_tests::wait::when(allocated_bytes(self.folder()), |bytes| *bytes < DISK_BOUND);
        nsq_tests::wait::until("disk space of finished messages is freed", check).await;
    }

    /// Checks that the data directory of the stopped nsqd has no damage.
    fn verify(&self) {
        let output = std::process::Command::new(binary("nsq"))
            .args(["data", "verify"])
            .arg(self.folder())
            .output()
            .expect("nsq can be run");
        assert!(output.status.success(), "{:?} node: {}", self.kind, String::from_utf8_lossy(&output.stdout));
    }
}

/// Disk usage of the files below `folder`, in bytes.
fn allocated_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => allocated_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0, // deleted in the meantime
    });
    bytes.sum()
}

/// A random duration from `from` up to `to`, exclusive, in milliseconds.
pub fn random_ms(from: u64, to: u64) -> Duration {
    Duration::from_millis(rand::rng().random_range(from..to))
}
