//! All daemons of a cluster: finding them, and asking all of them at once.
//!
//! A daemon that does not answer leads to a line on stderr and an exit status; the command continues with the others.
//! See [`Answers`].

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};
use nsq::admin::{AdminError, LookupdClient, NsqdClient, StatsQuery};
use nsq::{ConfigError, is_socket_path};
use nsq_protocol::Stats;
use nsq_protocol::discovery::Node as NodeInfo;

use crate::answers::{Answers, NodeError};
use crate::config::{ClusterConfig, DEFAULT_LOOKUPD, DEFAULT_NSQD, host_port};
use crate::snapshot::Snapshot;

/// Number of daemons that are asked concurrently.
const CONCURRENCY: usize = 32;

/// No daemon gave a usable answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FindError {
    /// An address is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Neither an nsqlookupd nor an nsqd is given.
    #[error("this command needs HTTP, but only a TCP address is given")]
    NoAddress,
    /// No address was given, and the default ports of this machine do not answer.
    #[error("neither nsqlookupd at {DEFAULT_LOOKUPD} nor nsqd at {DEFAULT_NSQD} answers")]
    NothingHere,
    /// None of the given daemons answers.
    #[error("{}", .errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NoAnswer {
        /// The error of each daemon.
        errors: Vec<NodeError>,
    },
}

/// An nsqlookupd.
#[derive(Debug)]
pub struct Lookupd {
    /// Its HTTP address.
    pub name: String,
    /// The client for its HTTP interface.
    pub client: LookupdClient,
}

/// An nsqd.
#[derive(Debug)]
pub struct Node {
    /// Its HTTP address.
    pub name: String,
    /// Its TCP address, for publishing and consuming.
    pub tcp_address: String,
    /// What an nsqlookupd or the node itself reports about it.
    pub info: NodeInfo,
    /// The nsqlookupds that report it.
    pub lookupds: Vec<String>,
    /// The client for its HTTP interface.
    pub client: NsqdClient,
}

/// The daemons that were found, and the errors of those that did not answer.
#[derive(Debug, Default)]
pub struct Cluster {
    /// The nsqlookupds that answered.
    pub lookupds: Vec<Lookupd>,
    /// The nsqds that they report, and the nsqds that were given as flags and answered.
    pub nodes: Vec<Node>,
    /// Daemons that did not answer.
    pub errors: Vec<NodeError>,
}

impl Cluster {
    /// Finds the daemons. Fails only if none answers.
    pub async fn find(config: impl Into<ClusterConfig>) -> Result<Self, FindError> {
        let config = config.into();
        if config.default_ports {
            return Self::find_here(&config).await;
        }
        if config.lookupds.is_empty() && config.nsqds.is_empty() {
            return Err(FindError::NoAddress);
        }
        let cluster = Self::ask(&config.lookupds, &config.nsqds, &config).await?;
        if cluster.lookupds.is_empty() && cluster.nodes.is_empty() {
            return Err(FindError::NoAnswer { errors: cluster.errors });
        }
        Ok(cluster)
    }

    /// Tries the default ports of this machine.
    async fn find_here(config: &ClusterConfig) -> Result<Self, FindError> {
        for (lookupds, nsqds) in [(vec![DEFAULT_LOOKUPD], vec![]), (vec![], vec![DEFAULT_NSQD])] {
            let cluster = Self::ask(&lookupds, &nsqds, config).await?;
            if cluster.errors.is_empty() {
                return Ok(cluster);
            }
            if cluster.errors.iter().any(NodeError::is_refused) {
                return Err(FindError::NoAnswer { errors: cluster.errors });
            }
        }
        Err(FindError::NothingHere)
    }

    async fn ask<S: AsRef<str>>(
        lookupds: &[S],
        nsqds: &[S],
        config: &ClusterConfig,
    ) -> Result<Self, ConfigError> {
        let mut cluster = Cluster::default();
        let mut known: BTreeMap<String, Node> = BTreeMap::new();

        let clients = lookupds
            .iter()
            .map(|address| {
                Ok(Lookupd { name: address.as_ref().to_owned(), client: config.lookupd(address.as_ref())? })
            })
            .collect::<Result<Vec<_>, ConfigError>>()?;
        let answers = all(&clients, async |lookupd: &Lookupd| lookupd.client.nodes().await).await;
        for (lookupd, answer) in clients.into_iter().zip(answers) {
            match answer {
                Ok(nodes) => {
                    for info in nodes.producers {
                        let key = host_port(&info.broadcast_address, info.http_port);
                        if let Some(node) = known.get_mut(&key) {
                            node.lookupds.push(lookupd.name.clone());
                        } else if let Ok(client) = config.nsqd(&key) {
                            let tcp_address = host_port(&info.broadcast_address, info.tcp_port);
                            let lookupds = vec![lookupd.name.clone()];
                            known
                                .insert(key.clone(), Node { name: key, tcp_address, info, lookupds, client });
                        } else {
                            cluster.errors.push(NodeError::invalid_address(&lookupd.name, "nodes", &key));
                        }
                    }
                    cluster.lookupds.push(lookupd);
                }
                Err(error) => cluster.errors.push(NodeError::new(&lookupd.name, "nodes", &error)),
            }
        }

        let clients = nsqds
            .iter()
            .map(|address| Ok((address.as_ref().to_owned(), config.nsqd(address.as_ref())?)))
            .collect::<Result<Vec<_>, ConfigError>>()?;
        let answers = all(&clients, async |(_, client): &(String, NsqdClient)| client.info().await).await;
        for ((name, client), answer) in clients.into_iter().zip(answers) {
            match answer {
                Ok(answer) => {
                    let info = NodeInfo {
                        broadcast_address: answer.broadcast_address,
                        hostname: answer.hostname,
                        tcp_port: u16::try_from(answer.tcp_port).unwrap_or(0),
                        http_port: u16::try_from(answer.http_port).unwrap_or(0),
                        version: answer.version,
                        topology_zone: answer.topology_zone,
                        topology_region: answer.topology_region,
                        ..NodeInfo::default()
                    };
                    // The host that the user gave is reachable from here; the broadcast address may not be.
                    let (key, host) = match is_socket_path(&name) {
                        true => (name.clone(), info.broadcast_address.as_str()),
                        false => (host_port(&info.broadcast_address, info.http_port), host_of(&name)),
                    };
                    let lookupds = known.get(&key).map(|node| node.lookupds.clone()).unwrap_or_default();
                    let tcp_address = host_port(host, info.tcp_port);
                    known.insert(key, Node { name, tcp_address, info, lookupds, client });
                }
                Err(error) => cluster.errors.push(NodeError::new(&name, "info", &error)),
            }
        }
        cluster.nodes = known.into_values().collect();
        Ok(cluster)
    }

    /// The daemons of a snapshot. Asks nothing: nodes that are down are part of it, too.
    pub(crate) fn of(snapshot: &Snapshot, config: &ClusterConfig) -> Self {
        let lookupds = snapshot.lookupds.iter().filter_map(|lookupd| {
            let client = config.lookupd(&lookupd.address).ok()?;
            Some(Lookupd { name: lookupd.address.clone(), client })
        });
        let nodes = snapshot.nodes.iter().filter_map(|node| {
            let port =
                |address: &str| address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(0);
            let tcp_address = node.tcp_address.clone().unwrap_or_default();
            Some(Node {
                client: config.nsqd(&node.address).ok()?,
                name: node.address.clone(),
                info: NodeInfo {
                    hostname: node.hostname.clone(),
                    broadcast_address: node.broadcast_address.clone(),
                    tcp_port: port(&tcp_address),
                    http_port: port(&node.key),
                    version: node.version.clone(),
                    topology_zone: node.zone.clone(),
                    topology_region: node.region.clone(),
                    draining: node.drain.is_some(),
                    ..NodeInfo::default()
                },
                tcp_address,
                lookupds: node
                    .lookupds
                    .iter()
                    .map(|index| snapshot.lookupds[*index].address.clone())
                    .collect(),
            })
        });
        Cluster { lookupds: lookupds.collect(), nodes: nodes.collect(), errors: Vec::new() }
    }

    /// Asks all nsqds concurrently.
    pub async fn on_nodes<T>(
        &self,
        operation: &'static str,
        call: impl AsyncFn(&Node) -> Result<T, AdminError>,
    ) -> Answers<T> {
        Self::on(&self.nodes.iter().collect::<Vec<_>>(), operation, call).await
    }

    pub(crate) async fn on<T>(
        nodes: &[&Node],
        operation: &'static str,
        call: impl AsyncFn(&Node) -> Result<T, AdminError>,
    ) -> Answers<T> {
        let answers = all(nodes, async |node: &&Node| call(node).await).await;
        Answers::collect(operation, nodes.iter().map(|node| node.name.clone()).zip(answers))
    }

    /// Asks all nsqlookupds concurrently.
    pub async fn on_lookupds<T>(
        &self,
        operation: &'static str,
        call: impl AsyncFn(&Lookupd) -> Result<T, AdminError>,
    ) -> Answers<T> {
        let answers = all(&self.lookupds, call).await;
        Answers::collect(operation, self.lookupds.iter().map(|lookupd| lookupd.name.clone()).zip(answers))
    }

    /// Asks all nsqds concurrently, like [`on_nodes`](Self::on_nodes). Each call gets a client of its own, so the future can
    /// be spawned.
    pub async fn on_each_node<T, F>(
        &self,
        operation: &'static str,
        call: impl Fn(NsqdClient) -> F,
    ) -> Answers<T>
    where
        F: Future<Output = Result<T, AdminError>>,
    {
        let calls: Vec<F> = self.nodes.iter().map(|node| call(node.client.clone())).collect();
        let answers: Vec<_> = stream::iter(calls).buffered(CONCURRENCY).collect().await;
        Answers::collect(operation, self.nodes.iter().map(|node| node.name.clone()).zip(answers))
    }

    /// The statistics of all nsqds. The future can be spawned.
    pub async fn stats(&self, query: &StatsQuery) -> Answers<Stats> {
        let call = |client: NsqdClient| {
            let query = query.clone();
            async move { client.stats(&query).await }
        };
        self.on_each_node("stats", call).await
    }

    /// Whether no nsqlookupd is known, because nodes were given individually.
    pub fn is_without_lookupd(&self) -> bool {
        self.lookupds.is_empty()
    }
}

/// Calls each daemon, with limited concurrency; the answers are in the same order.
async fn all<D, T>(
    daemons: &[D],
    call: impl AsyncFn(&D) -> Result<T, AdminError>,
) -> Vec<Result<T, AdminError>> {
    stream::iter(daemons.iter().map(|daemon| call(daemon))).buffered(CONCURRENCY).collect().await
}

/// The host of `host:port` or of a URL.
pub(crate) fn host_of(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_taken_from_address_or_url() {
        assert_eq!(host_of("a:1"), "a");
        assert_eq!(host_of("http://a:1/x"), "a");
        assert_eq!(host_of("[::1]:1"), "[::1]");
        assert_eq!(host_port(host_of("[::1]:1"), 2), "[::1]:2");
    }
}
