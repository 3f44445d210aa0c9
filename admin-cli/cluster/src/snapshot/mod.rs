//! Pure: the state of a whole cluster at one moment.

mod build;
pub(crate) mod disk_trend;
mod figures;
mod of_samples;
pub(crate) mod node_sample;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nsq_protocol::drain::DrainStatus;
use serde::Serialize;

pub(crate) use build::{LookupdInput, NodeInput, SnapshotInput, build};
pub use figures::{ChannelExtra, ChannelFigures, Rates, Retained, TopicFigures, WorstLatency};

use crate::answers::NodeError;
use crate::problems::Problem;

/// A cluster at one moment. Vectors are sorted by name; `node` and `lookupd` indexes refer to `nodes` and `lookupds`.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// 1 for the first sample; 0 before it.
    pub number: u64,
    /// When the sample was complete.
    pub taken_at: SystemTime,
    /// Time from the first request to the last answer.
    pub took: Duration,
    /// Time between two samples.
    pub interval: Duration,
    /// All known nsqlookupds, as configured.
    pub lookupds: Vec<LookupdView>,
    /// All known nsqds: registered, configured, or gone for a short time.
    pub nodes: Vec<NodeView>,
    /// All topics of all nodes.
    pub topics: Vec<TopicView>,
    /// Sums over all nodes.
    pub totals: Totals,
    /// One entry per daemon that failed to answer.
    pub errors: Vec<NodeError>,
    /// What is wrong, worst first.
    pub problems: Vec<Problem>,
}

/// Whether a daemon answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// It has not been asked yet, or its first answer is outstanding.
    Unknown,
    /// It answered for this sample.
    Up,
    /// It has not answered for this sample yet; an earlier sample has figures of it.
    Late,
    /// Its last request failed.
    Down,
}

/// An nsqlookupd.
#[derive(Debug, Clone)]
pub struct LookupdView {
    /// Its HTTP address, as configured.
    pub address: String,
    /// Whether it answers.
    pub reach: Reach,
    /// Age of its last answer; `None` if it never answered.
    pub age: Option<Duration>,
    /// Why it did not answer.
    pub error: Option<NodeError>,
    /// Whether it is not asked for a while, because it failed repeatedly.
    pub is_skipped: bool,
    /// The nodes that it lists, sorted by index.
    pub nodes: Vec<Listing>,
}

/// A node, as one nsqlookupd lists it.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Index of the node.
    pub node: usize,
    /// Its address as nsqlookupd sees it.
    pub remote_address: String,
    /// The topics that it has registered, sorted by name.
    pub topics: Vec<Arc<str>>,
    /// Those of them for which it is tombstoned.
    pub tombstones: Vec<Arc<str>>,
}

/// An nsqd.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// Its HTTP address, by which the sampler reaches it. Sorted by this.
    pub address: String,
    /// Its TCP address; `None` if unknown.
    pub tcp_address: Option<String>,
    /// `broadcast_address:http_port`, as nsqlookupds know it.
    pub key: String,
    /// Host name, as the node reports it.
    pub hostname: String,
    /// Address at which clients reach it.
    pub broadcast_address: String,
    /// Version of its nsqd.
    pub version: String,
    /// Zone and region; empty if unknown.
    pub zone: String,
    /// Region; empty if unknown.
    pub region: String,
    /// Whether it answers.
    pub reach: Reach,
    /// Age of its figures; `None` if it never answered.
    pub age: Option<Duration>,
    /// Why it did not answer.
    pub error: Option<NodeError>,
    /// Whether it is not asked for a while, because it failed repeatedly.
    pub is_skipped: bool,
    /// Indexes of the nsqlookupds that list it.
    pub lookupds: Vec<usize>,
    /// Whether its address was given, so that it belongs to the cluster without an nsqlookupd.
    pub is_configured: bool,
    /// `OK`, or `NOK - ` and the reason; empty if it never answered.
    pub health: String,
    /// When it started; `None` if it never answered.
    pub started_at: Option<SystemTime>,
    /// When a restart was noticed; `None` if it runs since the sampler began.
    pub restarted_at: Option<SystemTime>,
    /// How much its clock is ahead of ours; `None` if unknown.
    pub clock_ahead: Option<ClockOffset>,
    /// How long a small request took; measured once a minute. `None` if unknown.
    pub round_trip: Option<Duration>,
    /// Whether it drains, and how far it is; `None` if not, or if it is NSQ's own.
    pub drain: Option<DrainStatus>,
    /// Its disk; `None` if it does not report it. Not in NSQ.
    pub storage: Option<StorageView>,
    /// Memory of the process; `None` if it does not report it. Not in NSQ.
    pub memory_bytes: Option<u64>,
    /// Sums over its topics.
    pub totals: Totals,
}

/// A difference between two clocks, in seconds: positive if the other one is ahead.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
pub struct ClockOffset(pub f64);

/// The volume of a node's data directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct StorageView {
    /// Free bytes of the volume of the data directory.
    pub free_bytes: u64,
    /// Size of the volume.
    pub size_bytes: u64,
    /// Bytes of nsqd's journal.
    pub journal_bytes: u64,
    /// Bytes per second by which the free space shrinks; negative if it grows, `None` if unknown.
    pub shrinks_by: Option<f32>,
}

/// Sums over topics and channels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Number of topics.
    pub topic_count: usize,
    /// Number of channels.
    pub channel_count: usize,
    /// Depth of topics and channels.
    pub depth: i64,
    /// The part of `depth` that is only on disk.
    pub backend_depth: i64,
    /// Messages in flight.
    pub in_flight_count: i64,
    /// Messages deferred.
    pub deferred_count: i64,
    /// Consumers.
    pub client_count: i64,
    /// `ingress` is what was published. `None` until two samples exist.
    pub rates: Option<Rates>,
}

/// A topic on all nodes.
#[derive(Debug, Clone)]
pub struct TopicView {
    /// Its name.
    pub name: Arc<str>,
    /// Sums over all nodes.
    pub sum: TopicFigures,
    /// Each node that has it.
    pub parts: Vec<TopicPart>,
    /// Its channels.
    pub channels: Vec<ChannelView>,
}

/// A topic on one node.
#[derive(Debug, Clone)]
pub struct TopicPart {
    /// Index of the node.
    pub node: usize,
    /// Its figures there.
    pub figures: TopicFigures,
}

/// A channel on all nodes.
#[derive(Debug, Clone)]
pub struct ChannelView {
    /// Its name.
    pub name: Arc<str>,
    /// Sums over all nodes.
    pub sum: ChannelFigures,
    /// Each node that has it.
    pub parts: Vec<ChannelPart>,
}

/// A channel on one node.
#[derive(Debug, Clone)]
pub struct ChannelPart {
    /// Index of the node.
    pub node: usize,
    /// Its figures there.
    pub figures: ChannelFigures,
}

impl Snapshot {
    /// The state before the first sample.
    pub fn empty(interval: Duration) -> Self {
        Snapshot {
            number: 0,
            taken_at: SystemTime::UNIX_EPOCH,
            took: Duration::ZERO,
            interval,
            lookupds: Vec::new(),
            nodes: Vec::new(),
            topics: Vec::new(),
            totals: Totals::default(),
            errors: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// The topic of this name.
    pub fn topic(&self, name: &str) -> Option<&TopicView> {
        let index = self.topics.binary_search_by(|topic| (*topic.name).cmp(name)).ok()?;
        Some(&self.topics[index])
    }

    /// The channel of these names.
    pub fn channel(&self, topic: &str, channel: &str) -> Option<&ChannelView> {
        self.topic(topic)?.channel(channel)
    }

    /// The node with this HTTP address or key.
    pub fn node(&self, address: &str) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.address == address || node.key == address)
    }

    /// Number of nodes that answered, now or for the sample before.
    pub fn up_count(&self) -> usize {
        self.nodes.iter().filter(|node| matches!(node.reach, Reach::Up | Reach::Late)).count()
    }

    /// Whether figures of some node are missing or old.
    pub fn is_partial(&self) -> bool {
        self.nodes.iter().any(|node| node.reach != Reach::Up)
    }
}

impl TopicView {
    /// The channel of this name.
    pub fn channel(&self, name: &str) -> Option<&ChannelView> {
        let index = self.channels.binary_search_by(|channel| (*channel.name).cmp(name)).ok()?;
        Some(&self.channels[index])
    }

    /// Whether the topic is ephemeral.
    pub fn is_ephemeral(&self) -> bool {
        is_ephemeral(&self.name)
    }

    /// Its own depth and that of its channels.
    pub fn total_depth(&self) -> i64 {
        self.sum.depth + self.channels.iter().map(|channel| channel.sum.depth).sum::<i64>()
    }
}

impl ChannelView {
    /// Whether the channel is ephemeral.
    pub fn is_ephemeral(&self) -> bool {
        is_ephemeral(&self.name)
    }
}

/// Whether a name is that of an ephemeral topic or channel.
pub fn is_ephemeral(name: &str) -> bool {
    name.ends_with("#ephemeral")
}
