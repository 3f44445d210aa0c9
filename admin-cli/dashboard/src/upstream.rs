//! The daemons of the cluster: finding nodes, asking all of them at once, and what happens if some do not answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all, ready};
use futures_util::{FutureExt, StreamExt, stream};
use nsq::admin::{AdminError, AdminErrorKind, LookupdClient, NsqdClient, StatsQuery};
use nsq::{Secret, Tls};
use nsq_protocol::Stats;
use nsq_protocol::discovery::Node as NodeInfo;
use parking_lot::{Mutex, RwLock};

use crate::api::model::NodeRef;
use crate::breaker::Breaker;
use crate::settings::Settings;

/// Clients that are kept for their open connections.
const MAX_CLIENTS: usize = 4096;

/// Topics that are looked up at the same time.
const CONCURRENT_LOOKUPS: usize = 16;

/// Asks the daemons.
pub struct Upstream {
    lookupds: RwLock<Arc<Vec<String>>>,
    nsqds: Arc<Vec<String>>,
    connect_timeout: Duration,
    request_timeout: Duration,
    tls: Tls,
    token: Option<Secret>,
    clients: Mutex<HashMap<String, NsqdClient>>,
    breaker: Mutex<Breaker>,
}

/// An nsqd.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its addresses and version.
    pub info: NodeInfo,
    /// One entry per nsqlookupd that lists it: `nsqlookupd/remote address`.
    pub remote_addresses: Vec<String>,
    /// The address at which the dashboard reaches it.
    pub address: String,
    /// How figures name it.
    pub named: NodeRef,
}

/// Answers, and what went wrong elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Found<T> {
    pub value: T,
    pub warnings: Vec<String>,
}

/// No daemon gave an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// All failed.
    All { kind: &'static str, errors: Vec<String> },
    /// All answered that it does not exist.
    Unknown,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::All { kind, errors } => write!(f, "failed to query any {kind}: {}", errors.join("\n")),
            Failed::Unknown => f.write_str("unknown"),
        }
    }
}

type Answer<T> = Result<Found<T>, Failed>;

/// A call to one daemon.
type Call<'a, T> = BoxFuture<'a, Result<T, AdminError>>;

impl Upstream {
    pub fn new(settings: &Settings) -> Self {
        Upstream {
            lookupds: RwLock::new(Arc::new(settings.lookupds.clone())),
            nsqds: Arc::new(settings.nsqds.clone()),
            connect_timeout: settings.connect_timeout,
            request_timeout: settings.request_timeout,
            tls: settings.tls.clone(),
            token: settings.token.clone(),
            clients: Mutex::default(),
            breaker: Mutex::default(),
        }
    }

    /// The configured nsqlookupds; empty in nsqd mode.
    pub fn lookupds(&self) -> Arc<Vec<String>> {
        self.lookupds.read().clone()
    }

    /// Uses other nsqlookupds from now on.
    pub fn set_lookupds(&self, addresses: Vec<String>) {
        *self.lookupds.write() = Arc::new(addresses);
    }

    /// Whether nodes are found through nsqlookupds.
    pub fn has_lookupds(&self) -> bool {
        self.nsqds.is_empty()
    }

    /// The client of an nsqd.
    pub fn nsqd(&self, address: &str) -> Result<NsqdClient, AdminError> {
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(address) {
            return Ok(client.clone());
        }
        let client = NsqdClient::new(address).map_err(|error| unusable(address, &error))?;
        let client = client
            .timeouts(self.connect_timeout.min(self.request_timeout), self.request_timeout)
            .tls(self.tls.clone())
            .token(self.token.clone());
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(address.to_owned(), client.clone());
        Ok(client)
    }

    /// The client of an nsqlookupd.
    pub fn lookupd(&self, address: &str) -> Result<LookupdClient, AdminError> {
        let client = LookupdClient::new(address).map_err(|error| unusable(address, &error))?;
        let connect = self.connect_timeout.min(self.request_timeout);
        Ok(client.timeouts(connect, self.request_timeout).tls(self.tls.clone()))
    }

    /// Asks every address. A daemon that failed repeatedly is not asked for a while.
    fn ask<'a, T: Send + 'a>(
        &'a self,
        addresses: &[String],
        call: impl Fn(&str) -> Call<'a, T>,
    ) -> BoxFuture<'a, Vec<(String, Result<T, AdminError>)>> {
        let asking: Vec<_> = addresses
            .iter()
            .cloned()
            .map(|address| {
                if self.breaker.lock().is_open(&address, Instant::now()) {
                    let why = "skipped for 30 s, because it failed three times".to_owned();
                    let error = failure(&address, AdminErrorKind::Unreachable(why));
                    return ready((address, Err(error))).boxed();
                }
                let answer = call(&address);
                async move {
                    let answer = answer.await;
                    self.note(&address, &answer);
                    (address, answer)
                }
                .boxed()
            })
            .collect();
        join_all(asking).boxed()
    }

    fn note<T>(&self, address: &str, answer: &Result<T, AdminError>) {
        let (mut breaker, now) = (self.breaker.lock(), Instant::now());
        match answer {
            Err(AdminError { kind: AdminErrorKind::Unreachable(_) | AdminErrorKind::Timeout(_), .. }) => {
                breaker.failed(address, now);
            }
            _ => breaker.answered(address),
        }
        breaker.forget_old(now);
    }

    fn ask_lookupds<'a, T: Send + 'a>(
        &'a self,
        call: impl Fn(LookupdClient) -> Call<'a, T>,
    ) -> BoxFuture<'a, Answer<Vec<(String, T)>>> {
        let answers = self.ask(&self.lookupds(), |address| match self.lookupd(address) {
            Ok(client) => call(client),
            Err(error) => ready(Err(error)).boxed(),
        });
        answers.map(|answers| sort("nsqlookupd", answers)).boxed()
    }

    fn ask_nsqds<'a, T: Send + 'a>(
        &'a self,
        addresses: &[String],
        call: impl Fn(NsqdClient) -> Call<'a, T>,
    ) -> BoxFuture<'a, Answer<Vec<(String, T)>>> {
        let answers = self.ask(addresses, |address| match self.nsqd(address) {
            Ok(client) => call(client),
            Err(error) => ready(Err(error)).boxed(),
        });
        answers.map(|answers| sort("nsqd", answers)).boxed()
    }

    fn ask_stats(
        &self,
        addresses: &[String],
        query: &StatsQuery,
    ) -> BoxFuture<'_, Answer<Vec<(String, Stats)>>> {
        self.ask_nsqds(addresses, |nsqd| {
            let query = query.clone();
            async move { nsqd.stats(&query).await }.boxed()
        })
    }

    /// The names of all topics, sorted.
    pub async fn topics(&self) -> Answer<Vec<String>> {
        let names = if self.has_lookupds() {
            self.ask_lookupds(|lookupd| async move { lookupd.topics().await }.boxed()).await?
        } else {
            let stats = self.ask_stats(&self.nsqds, &StatsQuery::default()).await?;
            let names =
                |stats: Stats| stats.topics.into_iter().flatten().map(|topic| topic.topic_name).collect();
            let value = stats.value.into_iter().map(|(address, stats)| (address, names(stats))).collect();
            Found { value, warnings: stats.warnings }
        };
        let all: BTreeSet<String> = names.value.into_iter().flat_map(|(_, names)| names).collect();
        Ok(Found { value: all.into_iter().collect(), warnings: names.warnings })
    }

    /// The topics that nsqlookupds know and no nsqd has, with their channels.
    pub async fn inactive_topics(&self) -> Answer<BTreeMap<String, Vec<String>>> {
        if !self.has_lookupds() {
            return Ok(Found::default());
        }
        let topics = self.topics().await?;
        let lookups: Vec<_> = topics.value.into_iter().map(|topic| self.if_inactive(topic).boxed()).collect();
        let value: Vec<_> = stream::iter(lookups).buffered(CONCURRENT_LOOKUPS).collect().await;
        Ok(Found { value: value.into_iter().flatten().collect(), warnings: topics.warnings })
    }

    /// The topic with its channels, if no nsqd has it.
    async fn if_inactive(&self, topic: String) -> Option<(String, Vec<String>)> {
        let name = topic.clone();
        let found = self.ask_lookupds(move |lookupd| {
            let topic = name.clone();
            async move { lookupd.lookup(&topic).await }.boxed()
        });
        let found = found.await.ok()?;
        let is_active = found.value.iter().any(|(_, answer)| !answer.producers.is_empty());
        let channels: BTreeSet<String> =
            found.value.into_iter().flat_map(|(_, answer)| answer.channels).collect();
        (!is_active).then(|| (topic, channels.into_iter().collect()))
    }

    /// All nodes, by host name.
    pub async fn nodes(&self) -> Answer<Vec<Node>> {
        if !self.has_lookupds() {
            return self.given_nodes(&self.nsqds).await;
        }
        let answers = self.ask_lookupds(|lookupd| async move { lookupd.nodes().await }.boxed()).await?;
        let listed = answers.value.into_iter().flat_map(|(lookupd, answer)| {
            answer.producers.into_iter().map(move |info| (lookupd.clone(), info))
        });
        let value = merge(listed, |info| host_port(&info.broadcast_address, info.tcp_port));
        Ok(Found { value, warnings: answers.warnings })
    }

    /// The nodes that have a topic, by host name. Empty if it is registered, but no node has it.
    pub async fn nodes_of(&self, topic: &str) -> Answer<Vec<Node>> {
        if !self.has_lookupds() {
            let query = StatsQuery { topic: Some(topic.to_owned()), ..StatsQuery::default() };
            let answers = self.ask_stats(&self.nsqds, &query).await?;
            let has = |stats: &Stats| stats.topics.iter().flatten().any(|found| found.topic_name == topic);
            let holders: Vec<String> =
                answers.value.iter().filter(|(_, stats)| has(stats)).map(|(at, _)| at.clone()).collect();
            if holders.is_empty() {
                return if answers.warnings.is_empty() { Err(Failed::Unknown) } else { Ok(answers.none()) };
            }
            let mut nodes = self.given_nodes(&holders).await?;
            nodes.warnings.splice(0..0, answers.warnings);
            return Ok(nodes);
        }
        let name = topic.to_owned();
        let answers = self.ask_lookupds(move |lookupd| {
            let topic = name.clone();
            async move { lookupd.lookup(&topic).await }.boxed()
        });
        let answers = answers.await?;
        let listed = answers.value.into_iter().flat_map(|(lookupd, answer)| {
            answer.producers.into_iter().map(move |producer| {
                let info = NodeInfo {
                    remote_address: producer.remote_address,
                    hostname: producer.hostname,
                    broadcast_address: producer.broadcast_address,
                    tcp_port: producer.tcp_port,
                    http_port: producer.http_port,
                    version: producer.version,
                    topology_zone: producer.topology_zone,
                    topology_region: producer.topology_region,
                    ..NodeInfo::default()
                };
                (lookupd.clone(), info)
            })
        });
        let value = merge(listed, |info| host_port(&info.broadcast_address, info.http_port));
        Ok(Found { value, warnings: answers.warnings })
    }

    /// Nodes whose addresses are configured.
    async fn given_nodes(&self, addresses: &[String]) -> Answer<Vec<Node>> {
        let both = |nsqd: NsqdClient| {
            async move { Ok((nsqd.info().await?, nsqd.stats(&StatsQuery::default()).await?)) }.boxed()
        };
        let answers = self.ask_nsqds(addresses, both).await?;
        let node = |(address, (info, stats)): (String, (nsq::admin::InfoResponse, Stats))| {
            let topics: Vec<String> =
                stats.topics.into_iter().flatten().map(|topic| topic.topic_name).collect();
            let info = NodeInfo {
                hostname: info.hostname,
                broadcast_address: info.broadcast_address,
                tcp_port: u16::try_from(info.tcp_port).unwrap_or(0),
                http_port: u16::try_from(info.http_port).unwrap_or(0),
                version: info.version,
                topology_zone: info.topology_zone,
                topology_region: info.topology_region,
                tombstones: vec![false; topics.len()],
                topics,
                ..NodeInfo::default()
            };
            // The configured address is reachable from here; the broadcast address may not be.
            Node { address, ..Node::of(info, Vec::new()) }
        };
        let mut value: Vec<Node> = answers.value.into_iter().map(node).collect();
        sort_nodes(&mut value);
        Ok(Found { value, warnings: answers.warnings })
    }

    /// The statistics of these nodes. Without nodes, the answer is empty.
    pub async fn stats(&self, nodes: &[Node], query: &StatsQuery) -> Answer<Vec<(NodeRef, Stats)>> {
        if nodes.is_empty() {
            return Ok(Found::default());
        }
        let addresses: Vec<String> = nodes.iter().map(|node| node.address.clone()).collect();
        let answers = self.ask_stats(&addresses, query).await?;
        let named =
            |address: &str| nodes.iter().find(|node| node.address == address).map(|node| node.named.clone());
        let value = answers.value.into_iter().filter_map(|(at, stats)| Some((named(&at)?, stats))).collect();
        Ok(Found { value, warnings: answers.warnings })
    }
}

impl<T> Found<T> {
    fn none<U: Default>(self) -> Found<U> {
        Found { value: U::default(), warnings: self.warnings }
    }
}

impl Node {
    fn of(info: NodeInfo, remote_addresses: Vec<String>) -> Self {
        let address = host_port(&info.broadcast_address, info.http_port);
        let named = NodeRef {
            address: address.clone(),
            hostname: info.hostname.clone(),
            zone: info.topology_zone.clone(),
            region: info.topology_region.clone(),
        };
        Node { info, remote_addresses, address, named }
    }
}

/// One node per key, with an entry for each nsqlookupd that lists it.
fn merge(listed: impl Iterator<Item = (String, NodeInfo)>, key: impl Fn(&NodeInfo) -> String) -> Vec<Node> {
    let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
    for (lookupd, info) in listed {
        let remote = if info.remote_address.is_empty() { "N/A" } else { &info.remote_address };
        let remote = format!("{lookupd}/{remote}");
        let node = nodes.entry(key(&info)).or_insert_with(|| Node::of(info, Vec::new()));
        node.remote_addresses.push(remote);
    }
    let mut nodes: Vec<Node> = nodes.into_values().collect();
    sort_nodes(&mut nodes);
    nodes
}

fn sort_nodes(nodes: &mut [Node]) {
    nodes.sort_by(|a, b| (&a.info.hostname, &a.named.address).cmp(&(&b.info.hostname, &b.named.address)));
}

/// Separates answers from errors. "Not found" is no error if another daemon knows it.
fn sort<T>(kind: &'static str, answers: Vec<(String, Result<T, AdminError>)>) -> Answer<Vec<(String, T)>> {
    let (mut found, mut missing) = (Found { value: Vec::new(), warnings: Vec::new() }, 0);
    for (address, answer) in answers {
        match answer {
            Ok(answer) => found.value.push((address, answer)),
            Err(error) if error.is_not_found() => missing += 1,
            Err(error) => found.warnings.push(error.to_string()),
        }
    }
    match (found.value.is_empty(), found.warnings.is_empty()) {
        (true, true) if missing > 0 => Err(Failed::Unknown),
        (true, _) => Err(Failed::All { kind, errors: found.warnings }),
        (false, _) => Ok(found),
    }
}

fn unusable(address: &str, error: &dyn fmt::Display) -> AdminError {
    failure(address, AdminErrorKind::Unexpected(error.to_string()))
}

fn failure(address: &str, kind: AdminErrorKind) -> AdminError {
    AdminError { method: "GET", url: address.to_owned(), kind }
}

/// `host:port`, with brackets around an IPv6 address.
pub fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, word: &str) -> AdminError {
        failure("a:1", AdminErrorKind::Refused { status, word: word.to_owned() })
    }

    #[test]
    fn one_daemon_that_knows_the_topic_is_enough() {
        let answers = vec![("a".to_owned(), Ok(1)), ("b".to_owned(), Err(refused(404, "TOPIC_NOT_FOUND")))];
        let found = sort("nsqlookupd", answers).unwrap();
        assert_eq!((found.value.len(), found.warnings.len()), (1, 0));
        let none: Vec<(String, Result<(), _>)> = vec![("b".to_owned(), Err(refused(404, "TOPIC_NOT_FOUND")))];
        assert_eq!(sort("nsqlookupd", none).unwrap_err(), Failed::Unknown);
        let broken: Vec<(String, Result<(), _>)> = vec![("b".to_owned(), Err(refused(500, "X")))];
        let text = sort("nsqlookupd", broken).unwrap_err().to_string();
        assert!(text.starts_with("failed to query any nsqlookupd: "), "{text}");
    }

    #[test]
    fn nodes_are_merged_and_ordered_by_host_and_address() {
        let info = |host: &str, port| NodeInfo {
            hostname: host.to_owned(),
            broadcast_address: "1.1.1.1".to_owned(),
            tcp_port: port,
            http_port: port + 1,
            remote_address: if port == 1 { String::new() } else { "r:9".to_owned() },
            ..NodeInfo::default()
        };
        let listed = [("l1", info("h", 5)), ("l1", info("h", 1)), ("l2", info("h", 5)), ("l2", info("a", 8))];
        let listed = listed.map(|(lookupd, info)| (lookupd.to_owned(), info));
        let nodes = merge(listed.into_iter(), |info| host_port(&info.broadcast_address, info.tcp_port));
        let named: Vec<_> = nodes.iter().map(|node| node.named.address.as_str()).collect();
        assert_eq!(named, ["1.1.1.1:9", "1.1.1.1:2", "1.1.1.1:6"]);
        assert_eq!(nodes[1].remote_addresses, ["l1/N/A"]);
        assert_eq!(nodes[2].remote_addresses, ["l1/r:9", "l2/r:9"]);
    }
}
