//! nsqd as a client of nsqlookupd: registers this node's topics and channels with each nsqlookupd, and asks all of them
//! for the channels of a newly created topic.
//!
//! Each nsqlookupd has its own task, so that a slow one does not delay the others. A task compares the node's topics
//! with the registrations at its nsqlookupd and sends the difference. Missed changes therefore do not matter, and a new
//! connection is only the case without registrations. A task always reads, so it notices a closed connection at once.
//! It retries after 100 ms, 200 ms, and so on up to 15 s, or after a change. Shutdown closes the connections and
//! unregisters nothing: nsqlookupd forgets the node when its connection closes.
//!
//! - `state`: pure; which commands to send
//! - `backoff`: pure; when to retry
//! - `connection`: one TCP connection
//! - `peer`: the task of one nsqlookupd
//! - `query`: HTTP requests for channels and nodes
//! - `node_counts`: how many nodes carry a topic, for rates that they share
//! - `node_stats`: how to ask the node for the statistics of its topics
//! - `ledger`: pure; which statistics have changed since the last report to an nsqlookupd
//! - `reporter`: collects statistics for the nsqlookupds that want them with heartbeats

mod backoff;
mod connection;
mod ledger;
mod node_counts;
mod node_stats;
mod peer;
mod query;
mod reporter;
mod state;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use nsq_daemon::log::Logger;
use nsq_protocol::redact::without_user_info;
use nsq_protocol::{ChannelName, PeerInfo, TopicName};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::ledger::TopicSnapshot;
pub use self::node_stats::NodeStats;
use self::peer::{Peer, PeerParts, PeerState, Timing};
use self::query::QueryLimits;
use self::reporter::Reporter;
use self::state::{TopicEntry, Topology};
use crate::topic::registry::{ChannelOracle, Registry};

/// The parameters of [`LookupPeers::start`].
#[derive(Debug, Clone)]
pub struct LookupOptions {
    /// `--lookupd-tcp-address`: host and port of each nsqlookupd.
    pub addresses: Vec<String>,
    /// This node's IDENTIFY data. Without both ports, nsqlookupd refuses the node.
    pub peer: PeerInfo,
    /// `--http-client-connect-timeout`; zero for the request timeout.
    pub http_connect_timeout: Duration,
    /// `--http-client-request-timeout`; zero for 15 s.
    pub http_request_timeout: Duration,
    /// `--max-body-size`: the maximum size of an answer.
    pub max_body_size: usize,
    pub logger: Logger,
    /// Cancel it to close all connections.
    pub stop: CancellationToken,
}

/// The state of the connection to one nsqlookupd, for diagnostics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupStatus {
    /// The configured address.
    pub address: String,
    /// Whether the connection is open and IDENTIFY has succeeded.
    pub connected: bool,
    /// The error of the last failed connection or attempt; a later success does not clear it.
    pub last_error: Option<String>,
    /// Address for channel queries, once nsqlookupd has reported it.
    pub http_address: Option<String>,
}

/// All configured nsqlookupds. Dropping it closes their connections.
pub struct LookupPeers {
    options: LookupOptions,
    node: Arc<PeerInfo>,
    timing: Timing,
    topology: watch::Sender<Option<Arc<Topology>>>,
    reporter: watch::Sender<Option<Arc<Reporter>>>,
    /// Changes when the node's statistics must be reported at once.
    node_changes: watch::Sender<u64>,
    peers: Mutex<Peers>,
    /// Cancelled to end all tasks.
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

struct Peers {
    /// The configured addresses, including duplicates.
    addresses: Vec<String>,
    tasks: Vec<PeerTask>,
}

struct PeerTask {
    address: String,
    state: watch::Receiver<PeerState>,
    _stop_on_drop: DropGuard,
}

/// How long creating a topic waits for answers if no limit is configured.
const MAX_QUERY_TIMEOUT: Duration = Duration::from_secs(15);

impl LookupPeers {
    /// Starts a task per address. Call it inside a Tokio runtime. The tasks connect after [`LookupPeers::attach`].
    pub fn start(options: LookupOptions) -> Arc<Self> {
        Self::start_with(options, Timing::default())
    }

    fn start_with(options: LookupOptions, timing: Timing) -> Arc<Self> {
        let stop = options.stop.child_token();
        let peers = Arc::new(LookupPeers {
            node: Arc::new(options.peer.clone()),
            timing,
            topology: watch::Sender::new(None),
            reporter: watch::Sender::new(None),
            node_changes: watch::Sender::new(0),
            peers: Mutex::new(Peers { addresses: Vec::new(), tasks: Vec::new() }),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
            options,
        });
        peers.set_addresses(peers.options.addresses.clone());
        peers
    }

    /// Connects to every nsqlookupd, registers all topics and channels of the registry, and follows later changes. Call
    /// it once, after recovery. Does not keep the registry alive.
    pub fn attach(self: &Arc<Self>, registry: &Arc<Registry>) {
        self.follow_node_counts(registry);
        let changes = registry.engine().topology();
        let registry = Arc::downgrade(registry);
        self.follow(changes, move || registry.upgrade().map(|registry| topology_of(&registry)));
    }

    /// From now on, sends statistics with the heartbeats to each nsqlookupd that wants them.
    pub fn report(&self, stats: Arc<dyn NodeStats>) {
        self.reporter.send_replace(Some(Arc::new(Reporter::new(stats))));
    }

    /// Reports the node's statistics at once to each nsqlookupd that wants them: something about the node as a whole changed.
    pub fn node_changed(&self) {
        self.node_changes.send_modify(|version| *version += 1);
    }

    /// Calls `gather` now, after each of `changes`, and at intervals in between, until it returns `None`.
    fn follow(
        &self,
        mut changes: watch::Receiver<u64>,
        gather: impl Fn() -> Option<Topology> + Send + 'static,
    ) {
        // At once, so that the tasks already connect when the next topic is created.
        update_topology(&gather, &self.topology);
        let (topology, stop, recheck_interval) =
            (self.topology.clone(), self.stop.clone(), self.timing.ping_interval);
        let follow = async move {
            let mut took = Duration::ZERO;
            loop {
                // When many topics are created in a row, gathering all of them each time would take longer than the
                // creation. Use at most a tenth of the time.
                sleep(took * 9).await;
                // Without a change, gather as a precaution, in at most a thousandth of the time.
                if let Ok(Err(_)) = timeout(recheck_interval.max(took * 1000), changes.changed()).await {
                    return;
                }
                let started = Instant::now();
                if !update_topology(&gather, &topology) {
                    return;
                }
                took = started.elapsed();
            }
        };
        tokio::spawn(async move { stop.run_until_cancelled(follow).await });
    }

    pub fn addresses(&self) -> Vec<String> {
        self.peers.lock().addresses.clone()
    }

    /// Replaces the addresses: disconnects removed ones and connects to new ones at once; other connections stay open.
    /// Call it inside a Tokio runtime.
    pub fn set_addresses(&self, addresses: Vec<String>) {
        // The protocol does not use a password, and logs and metrics would show it.
        let addresses: Vec<String> =
            addresses.iter().map(|address| without_user_info(address).into_owned()).collect();
        let mut peers = self.peers.lock();
        let wanted: BTreeSet<&String> = addresses.iter().collect();
        peers.tasks.retain(|task| {
            let is_wanted = wanted.contains(&task.address);
            if !is_wanted {
                nsq_daemon::info!(self.options.logger, "LOOKUPD({}): removing peer", task.address);
            }
            is_wanted
        });
        for address in wanted {
            if !peers.tasks.iter().any(|task| task.address == *address) {
                nsq_daemon::info!(self.options.logger, "LOOKUPD({address}): adding peer");
                peers.tasks.push(self.start_task(address.clone()));
            }
        }
        peers.addresses = addresses;
    }

    fn start_task(&self, address: String) -> PeerTask {
        let state = watch::Sender::new(PeerState::default());
        let stop = self.stop.child_token();
        let task = PeerTask {
            address: address.clone(),
            state: state.subscribe(),
            _stop_on_drop: stop.clone().drop_guard(),
        };
        let peer = Peer::new(PeerParts {
            address,
            node: self.node.clone(),
            timing: self.timing,
            max_response_bytes: self.options.max_body_size,
            logger: self.options.logger.clone(),
            topology: self.topology.subscribe(),
            reporter: self.reporter.subscribe(),
            node_changes: self.node_changes.subscribe(),
            state: state.clone(),
        });
        tokio::spawn(async move {
            stop.run_until_cancelled(peer.run()).await;
            state.send_modify(|state| state.is_connected = false);
        });
        task
    }

    /// The state of each nsqlookupd, ordered by address.
    pub fn status(&self) -> Vec<LookupStatus> {
        let peers = self.peers.lock();
        let mut all: Vec<_> = peers
            .tasks
            .iter()
            .map(|task| {
                let state = task.state.borrow().clone();
                LookupStatus {
                    address: task.address.clone(),
                    connected: state.is_connected,
                    last_error: state.last_error,
                    http_address: state.http_address,
                }
            })
            .collect();
        all.sort_unstable_by(|a, b| a.address.cmp(&b.address));
        all
    }
}

impl ChannelOracle for LookupPeers {
    fn channels_of<'a>(
        &'a self,
        topic: &'a TopicName,
    ) -> Pin<Box<dyn Future<Output = Vec<ChannelName>> + Send + 'a>> {
        Box::pin(async move { self.stop.run_until_cancelled(self.ask_all(topic)).await.unwrap_or_default() })
    }
}

impl LookupPeers {
    /// The channels that any nsqlookupd knows for this topic. Logs failures as warnings and uses the other answers.
    async fn ask_all(&self, topic: &TopicName) -> Vec<ChannelName> {
        let logger = &self.options.logger;
        let peers: Vec<_> =
            self.peers.lock().tasks.iter().map(|task| (task.address.clone(), task.state.clone())).collect();
        if peers.is_empty() {
            return Vec::new();
        }
        let asked = peers.into_iter().map(|(address, state)| async move {
            let http = self.http_address(state).await?;
            Some((address, query::channels_of(&http, topic, self.query_limits()).await))
        });
        let answers: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        if answers.is_empty() {
            nsq_daemon::error!(
                logger,
                "TOPIC({topic}): no nsqlookupd reported its HTTP address; starting without known channels"
            );
        }
        let mut channels = BTreeSet::new();
        for (address, answer) in answers {
            match answer {
                Ok(names) => channels.extend(valid_names(names, |name| {
                    nsq_daemon::warn!(
                        logger,
                        "LOOKUPD({address}): topic {topic} has an invalid channel {name:?}"
                    );
                })),
                Err(error) => {
                    nsq_daemon::warn!(
                        logger,
                        "LOOKUPD({address}): cannot query the channels of topic {topic}: {error}"
                    );
                }
            }
        }
        channels.into_iter().collect()
    }

    /// The address for channel queries. Waits for the result of the first connection attempt, so that the first
    /// messages after a start also reach the channels known elsewhere.
    async fn http_address(&self, mut state: watch::Receiver<PeerState>) -> Option<String> {
        if self.topology.borrow().is_some() {
            let first_attempt = self.timing.dial_timeout + self.timing.io_timeout;
            let _ = timeout(first_attempt, state.wait_for(|state| state.was_tried)).await;
        }
        state.borrow().http_address.clone()
    }

    fn query_limits(&self) -> QueryLimits {
        let or = |timeout: Duration, default| if timeout.is_zero() { default } else { timeout };
        let request_timeout = or(self.options.http_request_timeout, MAX_QUERY_TIMEOUT);
        QueryLimits {
            connect_timeout: or(self.options.http_connect_timeout, request_timeout),
            request_timeout,
            max_body_bytes: self.options.max_body_size,
        }
    }
}

fn valid_names(names: Vec<String>, on_invalid: impl Fn(&str)) -> Vec<ChannelName> {
    let valid = |name: String| match ChannelName::new(&name) {
        Ok(name) => Some(name),
        Err(_) => {
            on_invalid(&name);
            None
        }
    };
    names.into_iter().filter_map(valid).collect()
}

/// Sends the gathered topology to the tasks if it has changed. Returns false if `gather` returns `None`.
fn update_topology(
    gather: impl Fn() -> Option<Topology>,
    topology: &watch::Sender<Option<Arc<Topology>>>,
) -> bool {
    let Some(present) = gather() else { return false };
    topology.send_if_modified(|last| {
        let has_changed = last.as_deref() != Some(&present);
        if has_changed {
            *last = Some(Arc::new(present));
        }
        has_changed
    });
    true
}

fn topology_of(registry: &Registry) -> Topology {
    let entry = |topic: &crate::topic::Topic| TopicEntry {
        number: topic.number(),
        channels: topic.channels().iter().map(|channel| (channel.name().clone(), channel.number())).collect(),
    };
    Topology(registry.all().iter().map(|topic| (topic.name().clone(), entry(topic))).collect())
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod report_tests;
#[cfg(test)]
mod real_tests;
#[cfg(test)]
mod tests;
