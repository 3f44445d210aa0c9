//! All daemons of a cluster: finding them, and asking all of them at once.
//!
//! A daemon that does not answer leads to a line on stderr and an exit status; the command continues with the others.
//! See [`Answers`].

mod answers;
mod samples;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use nsq::admin::{AdminError, LookupdClient, NsqdClient, StatsQuery};
use nsq::is_socket_path;
use nsq_protocol::Stats;
use nsq_protocol::discovery::Node as NodeInfo;

use crate::exit_status::{ExitStatus, Failure};
use crate::targets::{DEFAULT_LOOKUPD, DEFAULT_NSQD, HOW_TO_SAY, Targets, host_port};
pub use answers::{Answers, NodeError, verdict};
pub use samples::{Ask, ClusterSamples};

/// Number of daemons that are asked concurrently.
const CONCURRENCY: usize = 32;
/// Upper limit for connecting, within the timeout of the whole request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// An nsqlookupd.
#[derive(Debug)]
pub struct Lookupd {
    /// Its HTTP address.
    pub name: String,
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
    pub async fn find(targets: &Targets) -> Result<Self, Failure> {
        if targets.are_default() {
            return Self::find_here(targets).await;
        }
        if targets.lookupds.is_empty() && targets.nsqds.is_empty() {
            return Err(
                Failure::usage("this command needs HTTP, but only a TCP address is given").hint(HOW_TO_SAY)
            );
        }
        let cluster = Self::ask(&targets.lookupds, &targets.nsqds, targets).await?;
        if cluster.lookupds.is_empty() && cluster.nodes.is_empty() {
            return Err(cluster.failure());
        }
        Ok(cluster)
    }

    /// The failure if no daemon gave a usable answer.
    fn failure(&self) -> Failure {
        let reasons: Vec<String> = self.errors.iter().map(ToString::to_string).collect();
        let failure = Failure::new(verdict(0, &self.errors), reasons.join("; "));
        match failure.status {
            ExitStatus::Unreachable => failure.hint(HOW_TO_SAY),
            ExitStatus::Refused => {
                failure.hint("authenticate with --auth-secret-file FILE or NSQ_AUTH_SECRET")
            }
            _ => failure,
        }
    }

    /// Tries the default ports of this machine.
    async fn find_here(targets: &Targets) -> Result<Self, Failure> {
        for (lookupds, nsqds) in [(vec![DEFAULT_LOOKUPD], vec![]), (vec![], vec![DEFAULT_NSQD])] {
            let cluster = Self::ask(&lookupds, &nsqds, targets).await?;
            if cluster.errors.is_empty() {
                return Ok(cluster);
            }
            if verdict(0, &cluster.errors) == ExitStatus::Refused {
                return Err(cluster.failure());
            }
        }
        let message = format!("neither nsqlookupd at {DEFAULT_LOOKUPD} nor nsqd at {DEFAULT_NSQD} answers");
        Err(Failure::new(ExitStatus::Unreachable, message).hint(HOW_TO_SAY))
    }

    async fn ask<S: AsRef<str>>(lookupds: &[S], nsqds: &[S], targets: &Targets) -> Result<Self, Failure> {
        let mut cluster = Cluster::default();
        let (timeout, tls, token) = (targets.timeout, &targets.security.tls, &targets.security.token);
        let connect = CONNECT_TIMEOUT.min(timeout);
        let mut known: BTreeMap<String, Node> = BTreeMap::new();

        let clients = lookupds
            .iter()
            .map(|address| {
                let client = LookupdClient::new(address)?.timeouts(connect, timeout).tls(tls.clone());
                Ok(Lookupd { name: address.as_ref().to_owned(), client })
            })
            .collect::<Result<Vec<_>, Failure>>()?;
        let answers = all(&clients, async |lookupd: &Lookupd| lookupd.client.nodes().await).await;
        for (lookupd, answer) in clients.into_iter().zip(answers) {
            match answer {
                Ok(nodes) => {
                    for info in nodes.producers {
                        let key = host_port(&info.broadcast_address, info.http_port);
                        if let Some(node) = known.get_mut(&key) {
                            node.lookupds.push(lookupd.name.clone());
                        } else if let Ok(client) = NsqdClient::new(&key) {
                            let tcp_address = host_port(&info.broadcast_address, info.tcp_port);
                            let client =
                                client.timeouts(connect, timeout).tls(tls.clone()).token(token.clone());
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
            .map(|address| {
                let client = NsqdClient::new(address)?.timeouts(connect, timeout);
                let client = client.tls(tls.clone()).token(token.clone());
                Ok((address.as_ref().to_owned(), client))
            })
            .collect::<Result<Vec<_>, Failure>>()?;
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

    /// Asks all nsqds concurrently.
    pub async fn on_nodes<T>(
        &self,
        operation: &'static str,
        call: impl AsyncFn(&Node) -> Result<T, AdminError>,
    ) -> Answers<T> {
        Self::on(&self.nodes.iter().collect::<Vec<_>>(), operation, call).await
    }

    async fn on<T>(
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

    /// The statistics of all nsqds.
    pub async fn stats(&self, query: &StatsQuery) -> Answers<Stats> {
        self.on_nodes("stats", async |node| node.client.stats(query).await).await
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
fn host_of(address: &str) -> &str {
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
