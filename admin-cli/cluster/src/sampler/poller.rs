//! Asks the daemons for one sample after another, and keeps what they answered last.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nsq::admin::{AdminError, InfoResponse, LookupdClient, NodesResponse, NsqdClient, StatsQuery};
use nsq::{ConfigError, is_socket_path};
use nsq_protocol::Stats;
use nsq_protocol::discovery::Node as NodeInfo;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::SamplerConfig;
use super::breaker::Breaker;
use crate::answers::NodeError;
use crate::config::{ClusterConfig, DEFAULT_LOOKUPD, DEFAULT_NSQD, host_port};
use crate::find::host_of;
use crate::names::Names;
use crate::problems::{History, problems};
use crate::series::{Mark, MarkKind, Series};
use crate::snapshot::disk_trend::DiskTrend;
use crate::snapshot::node_sample::NodeSample;
use crate::snapshot::{
    ClockOffset, Listing, LookupdInput, LookupdView, NodeInput, NodeView, Reach, Snapshot, SnapshotInput,
    StorageView, Totals, build,
};

/// A configured node is asked for its addresses again after this many samples.
const INFO_EVERY: u64 = 60;
/// A node is asked for its time again after this many samples.
const TIME_EVERY: u64 = 12;

/// The answer of a daemon, by its number.
#[derive(Debug)]
enum Answer {
    Lookupd(u64, Result<NodesResponse, AdminError>),
    Node(u64, Box<NodeAnswer>),
}

#[derive(Debug)]
struct NodeAnswer {
    info: Option<Result<InfoResponse, AdminError>>,
    stats: Result<Stats, AdminError>,
    at: Instant,
    /// `None` if it was not asked for its time, or did not say.
    clock: Option<ClockReading>,
}

/// What a node says about its time.
#[derive(Debug)]
struct ClockReading {
    ahead: ClockOffset,
    round_trip: Duration,
}

/// What both kinds of daemons have in common.
#[derive(Debug)]
struct Upstream {
    /// Identifies its answers.
    id: u64,
    address: String,
    breaker: Breaker,
    is_pending: bool,
    /// Number of the sample of its last good answer.
    answered_for: u64,
    /// When it answered last.
    answered_at: Option<Instant>,
    error: Option<NodeError>,
}

impl Upstream {
    fn new(id: u64, address: String) -> Self {
        Upstream {
            id,
            address,
            breaker: Breaker::default(),
            is_pending: false,
            answered_for: 0,
            answered_at: None,
            error: None,
        }
    }

    fn reach(&self, sample: u64) -> Reach {
        match &self.error {
            Some(_) => Reach::Down,
            None if self.answered_for == sample => Reach::Up,
            None if self.answered_at.is_some() => Reach::Late,
            None => Reach::Unknown,
        }
    }

    fn succeeded(&mut self, sample: u64, at: Instant) {
        self.breaker.succeeded();
        (self.answered_for, self.answered_at, self.error) = (sample, Some(at), None);
    }

    fn failed(&mut self, operation: &'static str, error: &AdminError, skip_after: u32) {
        self.breaker.failed(Instant::now(), skip_after);
        self.error = Some(NodeError::new(&self.address, operation, error));
    }
}

#[derive(Debug)]
struct LookupdUpstream {
    upstream: Upstream,
    client: LookupdClient,
    /// The keys of the nodes that it lists.
    listed: Vec<(String, Listing)>,
}

#[derive(Debug)]
struct NodeUpstream {
    upstream: Upstream,
    client: NsqdClient,
    /// `broadcast_address:http_port`; empty for a configured node that has not answered.
    key: String,
    tcp_address: Option<String>,
    info: NodeInfo,
    is_configured: bool,
    /// When an nsqlookupd listed it last.
    listed_at: Option<Instant>,
    sample: Option<Arc<NodeSample>>,
    restarted_at: Option<SystemTime>,
    disk: DiskTrend,
    shrinks_by: Option<f32>,
    clock_ahead: Option<ClockOffset>,
    round_trip: Option<Duration>,
    was_down: bool,
    /// Number of the sample for which it was asked last.
    asked_for: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Poller {
    config: SamplerConfig,
    series: Arc<Mutex<Series>>,
    history: History,
    names: Names,
    lookupds: Vec<LookupdUpstream>,
    nodes: Vec<NodeUpstream>,
    answers_tx: mpsc::UnboundedSender<Answer>,
    answers: mpsc::UnboundedReceiver<Answer>,
    next_id: u64,
    sample: u64,
}

impl Poller {
    pub(super) fn new(config: SamplerConfig, series: Arc<Mutex<Series>>) -> Result<Self, ConfigError> {
        // Each daemon has at most one request under way, so there are never more answers than daemons.
        let (answers_tx, answers) = mpsc::unbounded_channel();
        let mut poller = Poller {
            config,
            series,
            history: History::new(),
            names: Names::default(),
            lookupds: Vec::new(),
            nodes: Vec::new(),
            answers_tx,
            answers,
            next_id: 0,
            sample: 0,
        };
        let ClusterConfig { lookupds, nsqds, default_ports, .. } = poller.config.cluster.clone();
        let lookupds = if default_ports { vec![DEFAULT_LOOKUPD.to_owned()] } else { lookupds };
        for address in lookupds {
            let upstream = Upstream::new(poller.new_id(), address);
            let client = poller.config.cluster.lookupd(&upstream.address)?;
            poller.lookupds.push(LookupdUpstream { upstream, client, listed: Vec::new() });
        }
        for address in nsqds {
            poller.add_configured(address)?;
        }
        Ok(poller)
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn add_configured(&mut self, address: String) -> Result<(), ConfigError> {
        let client = self.config.cluster.nsqd(&address)?;
        let upstream = Upstream::new(self.new_id(), address);
        self.nodes.push(NodeUpstream {
            upstream,
            client,
            key: String::new(),
            tcp_address: None,
            info: NodeInfo::default(),
            is_configured: true,
            listed_at: None,
            sample: None,
            restarted_at: None,
            disk: DiskTrend::default(),
            shrinks_by: None,
            clock_ahead: None,
            round_trip: None,
            was_down: false,
            asked_for: 0,
        });
        Ok(())
    }

    /// Asks all daemons, waits for their answers, and returns what is known then.
    pub(super) async fn sample(&mut self) -> Snapshot {
        self.sample += 1;
        let start = Instant::now();
        let deadline = tokio::time::Instant::now() + self.config.publish_after;
        // Answers that came too late for the sample before.
        while let Ok(answer) = self.answers.try_recv() {
            self.take(answer);
        }
        let mut waiting: Vec<u64> =
            self.lookupds.iter_mut().filter_map(|l| ask_lookupd(l, &self.answers_tx)).collect();
        waiting.extend(self.ask_nodes());
        while !waiting.is_empty() {
            let Ok(Some(answer)) = tokio::time::timeout_at(deadline, self.answers.recv()).await else {
                break;
            };
            let id = self.take(answer);
            waiting.retain(|other| *other != id);
            // An nsqlookupd may have listed new nodes.
            waiting.extend(self.ask_nodes());
        }
        self.forget();
        self.publish(start)
    }

    /// Asks the nodes that have not been asked for this sample. Returns the ids of their answers.
    fn ask_nodes(&mut self) -> Vec<u64> {
        let (sample, answers_tx) = (self.sample, &self.answers_tx);
        self.nodes.iter_mut().filter_map(|node| ask_node(node, sample, answers_tx)).collect()
    }

    /// Takes an answer. Returns its id.
    fn take(&mut self, answer: Answer) -> u64 {
        match answer {
            Answer::Lookupd(id, answer) => {
                self.take_lookupd(id, answer);
                id
            }
            Answer::Node(id, answer) => {
                self.take_node(id, *answer);
                id
            }
        }
    }

    fn take_lookupd(&mut self, id: u64, answer: Result<NodesResponse, AdminError>) {
        let Some(index) = self.lookupds.iter().position(|lookupd| lookupd.upstream.id == id) else { return };
        let now = Instant::now();
        let lookupd = &mut self.lookupds[index];
        lookupd.upstream.is_pending = false;
        let nodes = match answer {
            Ok(nodes) => nodes.producers,
            Err(error) => {
                lookupd.upstream.failed("nodes", &error, self.config.skip_after);
                let is_alone = self.config.cluster.default_ports && self.nodes.is_empty();
                // Without any address, a single nsqd on this machine is a cluster too.
                if is_alone && self.add_configured(DEFAULT_NSQD.to_owned()).is_ok() {
                    self.lookupds.clear();
                }
                return;
            }
        };
        lookupd.upstream.succeeded(self.sample, now);
        let mut listed = Vec::with_capacity(nodes.len());
        for info in nodes {
            let mut topics: Vec<Arc<str>> = info.topics.iter().map(|topic| self.names.share(topic)).collect();
            let tombstoned =
                info.topics.iter().zip(&info.tombstones).filter(|(_, is_tombstoned)| **is_tombstoned);
            let tombstones = tombstoned.map(|(topic, _)| self.names.share(topic)).collect();
            topics.sort_unstable();
            let key = host_port(&info.broadcast_address, info.http_port);
            let listing =
                Listing { node: 0, remote_address: info.remote_address.clone(), topics, tombstones };
            listed.push((key.clone(), listing));
            let info = NodeInfo { topics: Vec::new(), tombstones: Vec::new(), ..info };
            self.add_listed(key, info, now);
        }
        self.lookupds[index].listed = listed;
    }

    fn add_listed(&mut self, key: String, info: NodeInfo, now: Instant) {
        if let Some(node) = self.nodes.iter_mut().find(|node| node.key == key) {
            node.listed_at = Some(now);
            if !node.is_configured {
                node.tcp_address = Some(host_port(&info.broadcast_address, info.tcp_port));
                node.info = info;
            }
            return;
        }
        // An invalid address cannot be asked; the nsqlookupd's page shows what it lists.
        let Ok(client) = self.config.cluster.nsqd(&key) else { return };
        let upstream = Upstream::new(self.new_id(), key.clone());
        self.nodes.push(NodeUpstream {
            upstream,
            client,
            key,
            tcp_address: Some(host_port(&info.broadcast_address, info.tcp_port)),
            info,
            is_configured: false,
            listed_at: Some(now),
            sample: None,
            restarted_at: None,
            disk: DiskTrend::default(),
            shrinks_by: None,
            clock_ahead: None,
            round_trip: None,
            was_down: false,
            asked_for: 0,
        });
    }

    fn take_node(&mut self, id: u64, answer: NodeAnswer) {
        let Some(index) = self.nodes.iter().position(|node| node.upstream.id == id) else { return };
        let node = &mut self.nodes[index];
        node.upstream.is_pending = false;
        if let Some(Ok(info)) = answer.info {
            node.set_info(info);
            let (key, id) = (node.key.clone(), node.upstream.id);
            // An nsqlookupd listed it under its broadcast address.
            self.nodes.retain(|other| other.upstream.id == id || other.key != key || other.is_configured);
        }
        let Some(node) = self.nodes.iter_mut().find(|node| node.upstream.id == id) else { return };
        let stats = match answer.stats {
            Ok(stats) => stats,
            Err(error) => {
                node.upstream.failed("stats", &error, self.config.skip_after);
                return;
            }
        };
        node.upstream.succeeded(self.sample, answer.at);
        if let Some(clock) = answer.clock {
            node.clock_ahead = Some(clock.ahead);
            node.round_trip = Some(clock.round_trip);
        }
        if let Some(storage) = &stats.storage {
            node.shrinks_by = node.disk.add(answer.at, storage.free_bytes);
        }
        let mut sample = NodeSample::of(&stats, answer.at, &mut self.names);
        if let Some(before) = &node.sample {
            sample.set_rates(before);
            if sample.is_new_run(before) {
                let at = SystemTime::now();
                node.restarted_at = Some(at);
                let mark = Mark { at, node: node.upstream.address.clone(), kind: MarkKind::Restarted };
                self.series.lock().mark(mark);
            }
        }
        node.sample = Some(Arc::new(sample));
    }

    /// Forgets nodes that no nsqlookupd lists any more and that do not answer. A node that was drained is forgotten at
    /// once: it was stopped on purpose.
    fn forget(&mut self) {
        let forget_after = self.config.forget_after;
        self.nodes.retain(|node| {
            let is_listed =
                |lookupd: &LookupdUpstream| lookupd.listed.iter().any(|(key, _)| *key == node.key);
            if node.is_configured || node.upstream.error.is_none() || self.lookupds.iter().any(is_listed) {
                return true;
            }
            let was_drained = node.sample.as_ref().is_some_and(|sample| sample.drain.is_some());
            let is_recent = node.listed_at.is_some_and(|at| at.elapsed() < forget_after);
            is_recent && !was_drained
        });
        self.names.forget_unused();
    }

    fn publish(&mut self, start: Instant) -> Snapshot {
        let (now, taken_at) = (Instant::now(), SystemTime::now());
        self.nodes.sort_by(|a, b| a.upstream.address.cmp(&b.upstream.address));
        let sample = self.sample;
        for node in &mut self.nodes {
            let is_down = node.upstream.reach(sample) == Reach::Down;
            if is_down != node.was_down && node.sample.is_some() {
                let kind = if is_down { MarkKind::Down } else { MarkKind::Up };
                self.series.lock().mark(Mark { at: taken_at, node: node.upstream.address.clone(), kind });
            }
            node.was_down = is_down;
        }
        let mut snapshot = build(SnapshotInput {
            number: sample,
            taken_at,
            now,
            took: now.saturating_duration_since(start),
            interval: self.config.interval,
            lookupds: self.lookupds.iter().map(|lookupd| lookupd.input(sample, now)).collect(),
            nodes: self.nodes.iter().map(|node| node.input(sample, now)).collect(),
        });
        self.history.observe(&snapshot, &self.config.thresholds);
        snapshot.problems = problems(&snapshot, &self.history, &self.config.thresholds);
        self.series.lock().add(&snapshot);
        snapshot
    }
}

/// Asks an nsqlookupd, unless it still works on a request or is skipped. Returns the id of the answer.
fn ask_lookupd(lookupd: &mut LookupdUpstream, answers: &mpsc::UnboundedSender<Answer>) -> Option<u64> {
    if lookupd.upstream.is_pending || !lookupd.upstream.breaker.permits(Instant::now()) {
        return None;
    }
    lookupd.upstream.is_pending = true;
    let (client, id, answers) = (lookupd.client.clone(), lookupd.upstream.id, answers.clone());
    tokio::spawn(async move {
        // The sampler may have stopped.
        let _ = answers.send(Answer::Lookupd(id, client.nodes().await));
    });
    Some(id)
}

/// Asks a node, unless it has answered, still works on a request, or is skipped. Returns the id of the answer.
fn ask_node(node: &mut NodeUpstream, sample: u64, answers: &mpsc::UnboundedSender<Answer>) -> Option<u64> {
    if node.asked_for == sample || node.upstream.is_pending || !node.upstream.breaker.permits(Instant::now())
    {
        return None;
    }
    node.asked_for = sample;
    node.upstream.is_pending = true;
    let wants_info = node.is_configured && (node.key.is_empty() || sample.is_multiple_of(INFO_EVERY));
    let wants_time = node.clock_ahead.is_none() || sample.is_multiple_of(TIME_EVERY);
    // NSQ's own nsqd stops for a moment to measure its memory.
    let is_ours = node.sample.as_ref().is_some_and(|sample| sample.storage.is_some());
    let query = StatsQuery { storage: true, memory: is_ours, ..StatsQuery::default() };
    let (client, id, answers) = (node.client.clone(), node.upstream.id, answers.clone());
    tokio::spawn(async move {
        let clock = if wants_time { read_clock(&client).await } else { None };
        let info = if wants_info { Some(client.info().await) } else { None };
        let stats = client.stats(&query).await;
        let answer = NodeAnswer { info, stats, at: Instant::now(), clock };
        let _ = answers.send(Answer::Node(id, Box::new(answer)));
    });
    Some(id)
}

/// Asks a node for its time; `None` if it does not say.
async fn read_clock(client: &NsqdClient) -> Option<ClockReading> {
    let (asked_at, start) = (SystemTime::now(), Instant::now());
    let theirs = client.time().await.ok()??;
    let round_trip = start.elapsed();
    // Its time has whole seconds, and is from about the middle of the exchange.
    let (ours, theirs) = (asked_at + round_trip / 2, theirs + Duration::from_millis(500));
    let ahead = ClockOffset(match theirs.duration_since(ours) {
        Ok(ahead) => ahead.as_secs_f64(),
        Err(behind) => -behind.duration().as_secs_f64(),
    });
    Some(ClockReading { ahead, round_trip })
}

impl LookupdUpstream {
    fn input(&self, sample: u64, now: Instant) -> LookupdInput {
        let Upstream { address, breaker, answered_at, error, .. } = &self.upstream;
        let view = LookupdView {
            address: address.clone(),
            reach: self.upstream.reach(sample),
            age: answered_at.map(|at| now.saturating_duration_since(at)),
            error: error.clone(),
            is_skipped: !breaker.permits(now),
            nodes: Vec::new(),
        };
        LookupdInput { view, listed: self.listed.clone() }
    }
}

impl NodeUpstream {
    fn set_info(&mut self, info: InfoResponse) {
        let port = |port: i64| u16::try_from(port).unwrap_or(0);
        let address = &self.upstream.address;
        let (tcp_port, http_port) = (port(info.tcp_port), port(info.http_port));
        // The host that the user gave is reachable from here; the broadcast address may not be.
        let host = if is_socket_path(address) { info.broadcast_address.as_str() } else { host_of(address) };
        self.tcp_address = (tcp_port > 0).then(|| host_port(host, tcp_port));
        self.key = match is_socket_path(address) {
            true => address.clone(),
            false => host_port(&info.broadcast_address, http_port),
        };
        self.info = NodeInfo {
            broadcast_address: info.broadcast_address,
            hostname: info.hostname,
            tcp_port,
            http_port,
            version: info.version,
            topology_zone: info.topology_zone,
            topology_region: info.topology_region,
            ..NodeInfo::default()
        };
    }

    fn input(&self, sample: u64, now: Instant) -> NodeInput {
        let Upstream { address, breaker, error, .. } = &self.upstream;
        let reported = self.sample.as_deref();
        let seconds = |at: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(at).unwrap_or(0));
        let view = NodeView {
            address: address.clone(),
            tcp_address: self.tcp_address.clone(),
            key: self.key.clone(),
            hostname: self.info.hostname.clone(),
            broadcast_address: self.info.broadcast_address.clone(),
            version: reported.map_or_else(|| self.info.version.clone(), |sample| sample.version.clone()),
            zone: self.info.topology_zone.clone(),
            region: self.info.topology_region.clone(),
            reach: self.upstream.reach(sample),
            age: None,
            error: error.clone(),
            is_skipped: !breaker.permits(now),
            lookupds: Vec::new(),
            is_configured: self.is_configured,
            health: reported.map(|sample| sample.health.clone()).unwrap_or_default(),
            started_at: reported.map(|sample| seconds(sample.start_time)),
            restarted_at: self.restarted_at,
            clock_ahead: self.clock_ahead,
            round_trip: self.round_trip,
            drain: reported.and_then(|sample| sample.drain.clone()),
            storage: reported.and_then(|sample| sample.storage).map(|storage| StorageView {
                free_bytes: storage.free_bytes,
                size_bytes: storage.size_bytes,
                journal_bytes: storage.journal_bytes,
                shrinks_by: self.shrinks_by,
            }),
            memory_bytes: reported.and_then(|sample| sample.memory_bytes),
            totals: Totals::default(),
        };
        NodeInput { view, sample: self.sample.clone() }
    }
}
