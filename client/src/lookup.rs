//! Queries all lookupds concurrently and merges their answers.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, StatusCode};
use nsq_protocol::discovery;
use nsq_protocol::{LookupResponse, NodesResponse, TopicName};
use serde::de::DeserializeOwned;

use crate::error::LookupError;
use crate::http::{HttpClient, url};

/// The result of one round of lookups.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    /// Nodes that have the topic, as `host:port`.
    pub(crate) listed: BTreeSet<Arc<str>>,
    /// Suspects that are alive but do not have the topic.
    pub(crate) elsewhere: BTreeSet<Arc<str>>,
    /// Whether any lookupd answered.
    pub(crate) any_answer: bool,
    pub(crate) errors: Vec<LookupError>,
}

/// A lookupd, with the base URL of its HTTP interface.
#[derive(Clone, Debug)]
pub(crate) struct Lookupd {
    pub(crate) address: Arc<str>,
    pub(crate) base_url: String,
}

/// Finds the nodes that have `topic`. For `suspects` that no lookupd lists, also finds out whether they are alive.
pub(crate) async fn look_up(
    http: &HttpClient,
    lookupds: &[Lookupd],
    topic: &TopicName,
    suspects: &BTreeSet<Arc<str>>,
) -> Lookup {
    let query = [("topic", topic.as_str())];
    let replies: Vec<Result<LookupResponse, LookupError>> =
        join_all(lookupds.iter().map(|lookupd| get(http, lookupd, "/lookup", &query))).await;
    let mut lookup = merge(replies);
    if suspects.is_subset(&lookup.listed) || !lookup.any_answer {
        return lookup;
    }
    let nodes: Vec<Result<NodesResponse, LookupError>> =
        join_all(lookupds.iter().map(|lookupd| get(http, lookupd, "/nodes", &[]))).await;
    // Errors here are not reported: the lookupd has failed above, or fails in the next round.
    let alive = alive_nodes(nodes.iter().flatten());
    lookup.elsewhere =
        suspects.intersection(&alive).filter(|node| !lookup.listed.contains(*node)).cloned().collect();
    lookup
}

/// Returns the union of all answers. One answer is enough.
fn merge(replies: Vec<Result<LookupResponse, LookupError>>) -> Lookup {
    let mut lookup = Lookup::default();
    for reply in replies {
        match reply {
            Ok(reply) => {
                lookup.any_answer = true;
                let nodes = reply.producers.iter().filter_map(|producer| {
                    node_address(&producer.broadcast_address, &producer.hostname, producer.tcp_port)
                });
                lookup.listed.extend(nodes);
            }
            Err(error) => lookup.errors.push(error),
        }
    }
    lookup
}

fn alive_nodes<'a>(replies: impl Iterator<Item = &'a NodesResponse>) -> BTreeSet<Arc<str>> {
    let nodes = replies.flat_map(|reply| &reply.producers);
    nodes.filter_map(|node| node_address(&node.broadcast_address, &node.hostname, node.tcp_port)).collect()
}

fn node_address(broadcast_address: &str, hostname: &str, tcp_port: u16) -> Option<Arc<str>> {
    let host = if broadcast_address.is_empty() { hostname } else { broadcast_address };
    if host.is_empty() || tcp_port == 0 {
        return None;
    }
    // An IPv6 address needs brackets before a port.
    let bare_ipv6 = host.contains(':') && !host.starts_with('[');
    Some(if bare_ipv6 { format!("[{host}]:{tcp_port}") } else { format!("{host}:{tcp_port}") }.into())
}

async fn get<T: DeserializeOwned + Default>(
    http: &HttpClient,
    lookupd: &Lookupd,
    path: &str,
    query: &[(&str, &str)],
) -> Result<T, LookupError> {
    let fail = |reason: String| LookupError { lookupd: Arc::clone(&lookupd.address), reason };
    let (status, body) = http
        .send(Method::GET, &url(&lookupd.base_url, path, query), Bytes::new())
        .await
        .map_err(|e| fail(e.to_string()))?;
    match status {
        StatusCode::OK => discovery::parse(&body).map_err(|e| fail(format!("the answer is not valid: {e}"))),
        // The lookupd does not know the topic, which is a valid answer.
        StatusCode::NOT_FOUND => Ok(T::default()),
        other => Err(fail(format!("status {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use nsq_protocol::Producer;

    use super::*;

    fn reply(nodes: &[(&str, u16)]) -> Result<LookupResponse, LookupError> {
        let producers = nodes
            .iter()
            .map(|(host, port)| Producer {
                broadcast_address: (*host).to_owned(),
                tcp_port: *port,
                ..Producer::default()
            })
            .collect();
        Ok(LookupResponse { producers, ..LookupResponse::default() })
    }

    fn failure() -> Result<LookupResponse, LookupError> {
        Err(LookupError { lookupd: "l:1".into(), reason: "down".into() })
    }

    #[test]
    fn answers_are_merged() {
        let lookup = merge(vec![reply(&[("a", 1), ("b", 1)]), failure(), reply(&[("b", 1), ("b", 2)])]);
        let listed: Vec<&str> = lookup.listed.iter().map(|node| &**node).collect();
        assert_eq!(listed, ["a:1", "b:1", "b:2"]);
        assert!(lookup.any_answer);
        assert_eq!(lookup.errors.len(), 1);
        assert!(!merge(vec![failure()]).any_answer);
    }

    #[test]
    fn node_address_prefers_the_broadcast_address() {
        let address =
            |broadcast, hostname, port| node_address(broadcast, hostname, port).map(|a| a.to_string());
        assert_eq!(address("b", "h", 1).as_deref(), Some("b:1"));
        assert_eq!(address("", "h", 1).as_deref(), Some("h:1"));
        assert_eq!(address("::1", "h", 1).as_deref(), Some("[::1]:1"));
        assert_eq!(address("", "", 1), None);
        assert_eq!(address("b", "h", 0), None);
    }
}
