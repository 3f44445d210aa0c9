//! The registration database: which node has which topic and channel.
//!
//! ```text
//! nodes     connection -> node: its identity, when it was last seen
//! topics    name       -> nodes that have the topic, each with its tombstone
//!                         channels: name -> nodes that have the channel
//! ```
//!
//! No sockets and no clock: methods that need the time take it as an argument. Topics and channels outlive their
//! nodes: they stay known while no node is connected, until an operator deletes them.
//!
//! Shared by reference. Each topic is one entry of a concurrent map, so registering nodes and querying clients
//! contend only for the same topic. No method holds two entries at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use nsq_protocol::{
    ChannelName, LookupResponse, Node as NodeJson, NodesResponse, PeerInfo, Producer, TopicName,
};
use parking_lot::Mutex;
use serde::Serialize;

/// In a query, the name that means all topics; it is not a valid name.
const ALL: &str = "*";

/// `tombstoned_at` in `/debug` for a record that was never tombstoned: Go's zero time.
const NEVER_UNIX_NS: i64 = -6_795_364_578_871_345_152;

/// A point in time on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic time, used for all decisions.
    pub elapsed: Duration,
    /// Wall-clock time in nanoseconds since 1970, only for display.
    pub unix_ns: i64,
}

impl Moment {
    /// Time since `earlier`; zero if `earlier` is later.
    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        self.elapsed.saturating_sub(earlier.elapsed)
    }
}

/// Identifies a node by the number of its connection. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// A connected node that has sent IDENTIFY.
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    remote_address: String,
    info: PeerInfo,
    last_seen: Mutex<Moment>,
    draining: AtomicBool,
}

impl Node {
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// What the node reported about itself in IDENTIFY.
    pub fn info(&self) -> &PeerInfo {
        &self.info
    }

    /// Records that the node sent a sign of life at `now`.
    pub fn seen(&self, now: Moment) {
        *self.last_seen.lock() = now;
    }

    /// Records whether the node reports that it drains: it refuses publishes, and consumers go on. Returns whether that
    /// is news.
    pub fn set_draining(&self, draining: bool) -> bool {
        self.draining.swap(draining, Ordering::Relaxed) != draining
    }

    /// Whether the node drains.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The address by which tombstones identify the node.
    fn http_address(&self) -> String {
        format!("{}:{}", self.info.broadcast_address, self.info.http_port)
    }
}

/// A node's registration of a topic.
#[derive(Debug, Clone)]
struct Record {
    node: Arc<Node>,
    /// When the node was last tombstoned for this topic.
    tombstoned_at: Option<Moment>,
}

#[derive(Debug, Default)]
struct Topic {
    /// `None` when only channels are registered: UNREGISTER of an ephemeral topic leaves them.
    records: Option<BTreeMap<NodeId, Record>>,
    channels: BTreeMap<String, BTreeMap<NodeId, Arc<Node>>>,
}

impl Topic {
    fn is_empty(&self) -> bool {
        self.records.is_none() && self.channels.is_empty()
    }
}

/// The registration database.
#[derive(Debug)]
pub struct Registry {
    nodes: DashMap<NodeId, Arc<Node>>,
    topics: DashMap<String, Topic>,
    inactive_producer_timeout: Duration,
    tombstone_lifetime: Duration,
}

impl Registry {
    /// An empty database.
    pub fn new(inactive_producer_timeout: Duration, tombstone_lifetime: Duration) -> Self {
        Self { nodes: DashMap::new(), topics: DashMap::new(), inactive_producer_timeout, tombstone_lifetime }
    }

    // Commands of nodes.

    /// Adds a node that sent IDENTIFY.
    pub fn identify(&self, id: NodeId, remote_address: String, info: PeerInfo, now: Moment) -> Arc<Node> {
        let last_seen = Mutex::new(now);
        let node = Arc::new(Node { id, remote_address, info, last_seen, draining: AtomicBool::new(false) });
        self.nodes.insert(id, Arc::clone(&node));
        node
    }

    /// Registers a topic, or a channel and its topic, for a node. Returns whether any of them is new for the node. An
    /// existing record keeps its tombstone.
    pub fn register(&self, node: &Arc<Node>, topic: &TopicName, channel: Option<&ChannelName>) -> bool {
        let mut entry = self.topics.entry(topic.as_str().to_owned()).or_default();
        let records = entry.records.get_or_insert_default();
        let known_before = records.len();
        records.entry(node.id).or_insert_with(|| Record { node: Arc::clone(node), tombstoned_at: None });
        let new_topic = records.len() > known_before;
        let new_channel = channel.is_some_and(|channel| {
            let nodes = entry.channels.entry(channel.as_str().to_owned()).or_default();
            nodes.insert(node.id, Arc::clone(node)).is_none()
        });
        new_topic || new_channel
    }

    /// Unregisters a topic with all its channels, or one channel, for a node. Returns whether the node had it. An
    /// ephemeral topic or channel is deleted with its last node; the channels of such a topic stay.
    pub fn unregister(&self, node: &Node, topic: &TopicName, channel: Option<&ChannelName>) -> bool {
        let Some(mut entry) = self.topics.get_mut(topic.as_str()) else { return false };
        let removed = match channel {
            Some(channel) => entry.unregister_channel(node, channel),
            None => entry.unregister_topic(node, topic),
        };
        // Release the entry first: accessing the map while holding it could deadlock.
        drop(entry);
        self.topics.remove_if(topic.as_str(), |_, topic| topic.is_empty());
        removed
    }

    /// Number of topics and channels that a node has registered. Scans all topics.
    pub fn registrations(&self, node: &Node) -> usize {
        let of_topic = |topic: &Topic| {
            let is_there = topic.records.as_ref().is_some_and(|records| records.contains_key(&node.id));
            let channels = topic.channels.values().filter(|nodes| nodes.contains_key(&node.id));
            usize::from(is_there) + channels.count()
        };
        self.topics.iter().map(|entry| of_topic(entry.value())).sum()
    }

    /// Removes a node that disconnected. Its topics and channels stay known, even ephemeral ones.
    pub fn remove(&self, node: &Node) {
        self.nodes.remove(&node.id);
        for mut entry in self.topics.iter_mut() {
            let topic = entry.value_mut();
            topic.records.iter_mut().for_each(|records| drop(records.remove(&node.id)));
            topic.channels.values_mut().for_each(|nodes| drop(nodes.remove(&node.id)));
        }
    }

    // Commands of operators.

    /// Creates a topic without nodes unless it exists.
    pub fn create_topic(&self, topic: &TopicName) {
        self.topics.entry(topic.as_str().to_owned()).or_default().records.get_or_insert_default();
    }

    /// Creates a channel and its topic without nodes unless they exist.
    pub fn create_channel(&self, topic: &TopicName, channel: &ChannelName) {
        let mut entry = self.topics.entry(topic.as_str().to_owned()).or_default();
        entry.records.get_or_insert_default();
        entry.channels.entry(channel.as_str().to_owned()).or_default();
    }

    /// Deletes a topic and its channels, without notifying nodes. Returns whether it existed.
    pub fn delete_topic(&self, topic: &str) -> bool {
        self.topics.remove(topic).is_some()
    }

    /// Deletes a channel. Returns whether it existed.
    pub fn delete_channel(&self, topic: &TopicName, channel: &ChannelName) -> bool {
        let Some(mut entry) = self.topics.get_mut(topic.as_str()) else { return false };
        let known = entry.channels.remove(channel.as_str()).is_some();
        drop(entry);
        self.topics.remove_if(topic.as_str(), |_, topic| topic.is_empty());
        known
    }

    /// Tombstones the nodes with this HTTP address (`broadcast_address:http_port`) for a topic.
    pub fn tombstone(&self, topic: &str, http_address: &str, now: Moment) {
        let Some(mut entry) = self.topics.get_mut(topic) else { return };
        let records = entry.records.iter_mut().flat_map(BTreeMap::values_mut);
        for record in records.filter(|record| record.node.http_address() == http_address) {
            record.tombstoned_at = Some(now);
        }
    }

    // Queries. Lists are sorted.

    /// All topics.
    pub fn topics(&self) -> Vec<String> {
        let registered = self.topics.iter().filter(|entry| entry.records.is_some());
        sorted(registered.map(|entry| entry.key().clone()).collect())
    }

    /// The channels of a topic; empty if the topic is unknown. `*` means all topics.
    pub fn channels(&self, topic: &str) -> Vec<String> {
        let mut channels = Vec::new();
        self.for_each(topic, |topic| channels.extend(topic.channels.keys().cloned()));
        sorted(channels)
    }

    /// A topic's channels and those of its nodes that are active and not tombstoned. `None` if the topic is unknown.
    /// `*` means all topics.
    pub fn lookup(&self, topic: &str, now: Moment) -> Option<LookupResponse> {
        let mut known = false;
        let mut producers: BTreeMap<NodeId, Producer> = BTreeMap::new();
        self.for_each(topic, |topic| {
            let Some(records) = &topic.records else { return };
            known = true;
            let visible = records.values().filter(|record| self.is_active(&record.node, now));
            for record in visible.filter(|record| !self.is_hidden(record, now)) {
                producers.entry(record.node.id).or_insert_with(|| producer(&record.node));
            }
        });
        let producers = producers.into_values().collect();
        known.then(|| LookupResponse { channels: self.channels(topic), producers })
    }

    /// Number of topics and number of nodes, without a scan.
    pub fn size(&self) -> (usize, usize) {
        (self.topics.len(), self.nodes.len())
    }

    /// All active nodes with their topics.
    pub fn nodes(&self, now: Moment) -> NodesResponse {
        let topics = self.topics_by_node(now);
        NodesResponse { producers: self.active(now).iter().map(|node| topics.of(node)).collect() }
    }

    /// The topics of each node.
    pub fn topics_by_node(&self, now: Moment) -> TopicsByNode {
        let mut by_node = TopicsByNode { names: self.topics(), numbers: HashMap::new() };
        for (number, name) in (0u32..).zip(&by_node.names) {
            let Some(topic) = self.topics.get(name) else { continue };
            for record in topic.records.iter().flat_map(BTreeMap::values) {
                let hidden = self.is_hidden(record, now);
                by_node.numbers.entry(record.node.id).or_default().push((number, hidden));
            }
        }
        by_node
    }

    /// All active nodes: seen within the inactivity timeout.
    pub fn active(&self, now: Moment) -> Vec<Arc<Node>> {
        let mut active: Vec<Arc<Node>> = self.nodes.iter().map(|entry| Arc::clone(&entry)).collect();
        active.retain(|node| self.is_active(node, now));
        active.sort_unstable_by_key(|node| node.id);
        active
    }

    /// Counts of topics, channels, nodes and registrations.
    pub fn counts(&self, now: Moment) -> RegistryCounts {
        let mut counts = RegistryCounts::default();
        for node in &self.nodes {
            let count = match self.is_active(&node, now) {
                true => &mut counts.active_nodes,
                false => &mut counts.inactive_nodes,
            };
            *count += 1;
        }
        for topic in &self.topics {
            counts.topics += u64::from(topic.records.is_some());
            counts.channels += topic.channels.len() as u64;
            for record in topic.records.iter().flat_map(BTreeMap::values) {
                counts.producers += 1;
                counts.tombstones += u64::from(self.is_hidden(record, now));
            }
        }
        counts
    }

    /// All records, keyed by `<category>:<topic>:<channel>`.
    pub fn debug(&self) -> BTreeMap<String, Vec<DebugEntry>> {
        let mut all: BTreeMap<String, Vec<DebugEntry>> = BTreeMap::new();
        let mut add = |key: String, record| all.entry(key).or_default().push(record);
        let mut nodes: Vec<Arc<Node>> = self.nodes.iter().map(|entry| Arc::clone(&entry)).collect();
        nodes.sort_unstable_by_key(|node| node.id);
        for node in &nodes {
            add("client::".to_owned(), DebugEntry::new(node, None));
        }
        for entry in &self.topics {
            let name = entry.key();
            for record in entry.records.iter().flat_map(BTreeMap::values) {
                add(format!("topic:{name}:"), DebugEntry::new(&record.node, record.tombstoned_at));
            }
            for (channel, nodes) in &entry.channels {
                for node in nodes.values() {
                    add(format!("channel:{name}:{channel}"), DebugEntry::new(node, None));
                }
            }
        }
        all
    }

    fn for_each(&self, topic: &str, mut visit: impl FnMut(&Topic)) {
        if topic == ALL {
            self.topics.iter().for_each(|entry| visit(&entry));
        } else if let Some(entry) = self.topics.get(topic) {
            visit(&entry);
        }
    }

    fn is_active(&self, node: &Node, now: Moment) -> bool {
        now.since(&node.last_seen.lock()) <= self.inactive_producer_timeout
    }

    fn is_hidden(&self, record: &Record, now: Moment) -> bool {
        record.tombstoned_at.is_some_and(|at| now.since(&at) < self.tombstone_lifetime)
    }
}

impl Topic {
    fn unregister_channel(&mut self, node: &Node, channel: &ChannelName) -> bool {
        let Some(nodes) = self.channels.get_mut(channel.as_str()) else { return false };
        let removed = nodes.remove(&node.id).is_some();
        if nodes.is_empty() && channel.is_ephemeral() {
            self.channels.remove(channel.as_str());
        }
        removed
    }

    fn unregister_topic(&mut self, node: &Node, name: &TopicName) -> bool {
        self.channels.values_mut().for_each(|nodes| drop(nodes.remove(&node.id)));
        let Some(records) = &mut self.records else { return false };
        let removed = records.remove(&node.id).is_some();
        if records.is_empty() && name.is_ephemeral() {
            self.records = None;
        }
        removed
    }
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names.dedup();
    names
}

/// A node as `/lookup` shows it.
pub(crate) fn producer(node: &Node) -> Producer {
    let info = node.info.clone();
    Producer {
        remote_address: node.remote_address.clone(),
        hostname: info.hostname,
        broadcast_address: info.broadcast_address,
        tcp_port: info.tcp_port,
        http_port: info.http_port,
        version: info.version,
        topology_zone: info.topology_zone,
        topology_region: info.topology_region,
        draining: node.is_draining(),
    }
}

/// The topics of each node; each topic name is stored once.
#[derive(Debug)]
pub struct TopicsByNode {
    names: Vec<String>,
    /// For each node: its topics as indexes into `names`, and whether the node is tombstoned for them.
    numbers: HashMap<NodeId, Vec<(u32, bool)>>,
}

impl TopicsByNode {
    /// A node with its topics. `topics` and `tombstones` have the same length; NSQ's nsqadmin relies on it.
    pub fn of(&self, node: &Node) -> NodeJson {
        let numbers = self.numbers.get(&node.id).into_iter().flatten();
        let (topics, tombstones) =
            numbers.map(|&(number, hidden)| (self.names[number as usize].clone(), hidden)).unzip();
        let producer = producer(node);
        NodeJson {
            remote_address: producer.remote_address,
            hostname: producer.hostname,
            broadcast_address: producer.broadcast_address,
            tcp_port: producer.tcp_port,
            http_port: producer.http_port,
            version: producer.version,
            topology_zone: producer.topology_zone,
            topology_region: producer.topology_region,
            draining: producer.draining,
            tombstones,
            topics,
        }
    }
}

/// A record that `/debug` shows.
#[derive(Debug, Clone)]
pub struct DebugEntry {
    node: Arc<Node>,
    tombstoned_at: Option<Moment>,
}

/// Counts of what a registry holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegistryCounts {
    pub topics: u64,
    /// Channels of all topics.
    pub channels: u64,
    /// Nodes seen within the inactivity timeout.
    pub active_nodes: u64,
    /// Nodes that have been silent for longer.
    pub inactive_nodes: u64,
    /// Registrations of a node for a topic.
    pub producers: u64,
    /// Those of `producers` that a tombstone hides.
    pub tombstones: u64,
}

/// A record as `/debug` shows it. Keys in alphabetical order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DebugRecord {
    /// See [`PeerInfo`].
    pub broadcast_address: String,
    /// See [`PeerInfo`].
    pub hostname: String,
    /// See [`PeerInfo`].
    pub http_port: u16,
    /// The remote address of the node's connection, `ip:port`.
    pub id: String,
    /// When the node was last seen, in nanoseconds since 1970.
    pub last_update: i64,
    /// See [`PeerInfo`].
    pub tcp_port: u16,
    /// Whether the node was ever tombstoned; stays true after the tombstone expires.
    pub tombstoned: bool,
    /// When the node was last tombstoned, in nanoseconds since 1970.
    pub tombstoned_at: i64,
    /// See [`PeerInfo`].
    pub topology_region: String,
    /// See [`PeerInfo`].
    pub topology_zone: String,
    /// See [`PeerInfo`].
    pub version: String,
}

impl DebugEntry {
    fn new(node: &Arc<Node>, tombstoned_at: Option<Moment>) -> Self {
        Self { node: Arc::clone(node), tombstoned_at }
    }

    /// The entry as `/debug` shows it.
    pub fn record(&self) -> DebugRecord {
        let Self { node, tombstoned_at } = self;
        let info = node.info.clone();
        DebugRecord {
            broadcast_address: info.broadcast_address,
            hostname: info.hostname,
            http_port: info.http_port,
            id: node.remote_address.clone(),
            last_update: node.last_seen.lock().unix_ns,
            tcp_port: info.tcp_port,
            tombstoned: tombstoned_at.is_some(),
            tombstoned_at: tombstoned_at.map_or(NEVER_UNIX_NS, |at| at.unix_ns),
            topology_region: info.topology_region,
            topology_zone: info.topology_zone,
            version: info.version,
        }
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
