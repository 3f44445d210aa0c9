//! Queries lookupds concurrently, uses each answer as it arrives, and merges them.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{Method, StatusCode};
use nsq_protocol::discovery;
use nsq_protocol::redact::shown_address;
use nsq_protocol::{LookupResponse, NodesResponse, Producer, TopicName};
use serde::de::DeserializeOwned;

use crate::config::Config;
use crate::error::{ConfigError, LookupError};
use crate::http::{HttpClient, OnlyHttps, base_url, url};
use crate::meters;
use crate::spans::Span;
use crate::tls::Tls;

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

/// Which of the listed nodes a consumer uses. The default accepts all.
#[derive(Clone, Default)]
pub(crate) struct NodeFilter(Option<Arc<Accept>>);

type Accept = dyn Fn(&Producer) -> bool + Send + Sync;

impl NodeFilter {
    pub(crate) fn new(accept: impl Fn(&Producer) -> bool + Send + Sync + 'static) -> Self {
        NodeFilter(Some(Arc::new(accept)))
    }

    fn accepts(&self, node: &Producer) -> bool {
        self.0.as_ref().is_none_or(|accept| accept(node))
    }
}

impl std::fmt::Debug for NodeFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "NodeFilter(..)" } else { "NodeFilter(all)" })
    }
}

/// The client for queries to these lookupds, and the lookupds with their URLs.
pub(crate) fn lookup_client(
    config: &Config,
    addresses: Vec<String>,
) -> Result<(HttpClient, Vec<Lookupd>), ConfigError> {
    let lookupds = addresses
        .into_iter()
        .map(|address| Ok(Lookupd { base_url: base_url(&address)?, address: shown_address(&address).into() }))
        .collect::<Result<Vec<_>, ConfigError>>()?;
    let is_https = lookupds.iter().any(|lookupd: &Lookupd| lookupd.base_url.starts_with("https://"));
    let tls = if is_https { Tls::new(config)? } else { Tls::default() };
    let http = HttpClient::new(config.dial_timeout, config.lookupd_poll_timeout, &config.user_agent, tls);
    let http = match config.lookupd_authorization {
        Some(false) => http,
        setting => http.with_secret(config.secret()?.as_ref(), OnlyHttps(setting.is_none())),
    };
    Ok((http, lookupds))
}

/// Finds the nodes that have `topic`. Passes the nodes of each answer to `on_answer` as it arrives, with the position of
/// the lookupd; a failed query has none. For `suspects` that no lookupd lists, also finds out whether they are alive.
pub(crate) async fn look_up(
    http: &HttpClient,
    lookupds: &[(usize, Lookupd)],
    topic: &TopicName,
    filter: &NodeFilter,
    suspects: &BTreeSet<Arc<str>>,
    on_answer: impl FnMut(usize, BTreeSet<Arc<str>>),
) -> Lookup {
    let span = Span::lookup(topic.as_str());
    let lookup = span.around(ask_for_topic(http, lookupds, topic, filter, suspects, on_answer)).await;
    span.record("nsq.nodes", lookup.listed.len());
    lookup
}

async fn ask_for_topic(
    http: &HttpClient,
    lookupds: &[(usize, Lookupd)],
    topic: &TopicName,
    filter: &NodeFilter,
    suspects: &BTreeSet<Arc<str>>,
    mut on_answer: impl FnMut(usize, BTreeSet<Arc<str>>),
) -> Lookup {
    let query = [("topic", topic.as_str())];
    let mut asked: FuturesUnordered<_> = lookupds
        .iter()
        .map(|(position, lookupd)| async {
            (*position, get::<LookupResponse>(http, lookupd, "/lookup", &query).await)
        })
        .collect();
    let mut lookup = Lookup::default();
    while let Some((position, mut reply)) = asked.next().await {
        if let Ok(reply) = &mut reply {
            reply.producers.retain(|node| filter.accepts(node));
        }
        on_answer(position, reply.as_ref().map(nodes_of).unwrap_or_default());
        merge(&mut lookup, reply);
    }
    if suspects.is_subset(&lookup.listed) || !lookup.any_answer {
        return lookup;
    }
    let mut alive = BTreeSet::new();
    // Errors here are not reported: the lookupd has failed above, or fails in the next round.
    let lookupds = lookupds.iter().map(|(_, lookupd)| lookupd);
    let _ = ask_for_nodes(http, lookupds, |nodes| alive.extend(nodes)).await;
    lookup.elsewhere =
        suspects.intersection(&alive).filter(|node| !lookup.listed.contains(*node)).cloned().collect();
    lookup
}

/// Finds all nodes, whatever their topics. Passes those of each answer to `on_answer` as it arrives. Returns whether every
/// lookupd answered.
pub(crate) async fn all_nodes(
    http: &HttpClient,
    lookupds: &[Lookupd],
    on_answer: impl FnMut(BTreeSet<Arc<str>>),
) -> bool {
    ask_for_nodes(http, lookupds.iter(), on_answer).await
}

async fn ask_for_nodes<'a>(
    http: &HttpClient,
    lookupds: impl Iterator<Item = &'a Lookupd>,
    mut on_answer: impl FnMut(BTreeSet<Arc<str>>),
) -> bool {
    let mut asked: FuturesUnordered<_> =
        lookupds.map(|lookupd| get::<NodesResponse>(http, lookupd, "/nodes", &[])).collect();
    let mut all_answered = true;
    while let Some(reply) = asked.next().await {
        match reply {
            Ok(reply) => on_answer(
                reply
                    .producers
                    .iter()
                    .filter_map(|node| node_address(&node.broadcast_address, &node.hostname, node.tcp_port))
                    .collect(),
            ),
            Err(_) => all_answered = false,
        }
    }
    all_answered
}

fn nodes_of(reply: &LookupResponse) -> BTreeSet<Arc<str>> {
    let address = |node: &Producer| node_address(&node.broadcast_address, &node.hostname, node.tcp_port);
    reply.producers.iter().filter_map(address).collect()
}

/// Adds an answer. One answer is enough.
fn merge(lookup: &mut Lookup, reply: Result<LookupResponse, LookupError>) {
    match reply {
        Ok(reply) => {
            lookup.any_answer = true;
            lookup.listed.extend(nodes_of(&reply));
        }
        Err(error) => lookup.errors.push(error),
    }
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
    let answer = http.send(Method::GET, &url(&lookupd.base_url, path, query), Bytes::new()).await;
    meters::looked_up(&lookupd.address, answer.is_ok());
    let (status, body) = answer.map_err(|e| fail(e.to_string()))?;
    match status {
        StatusCode::OK => discovery::parse(&body).map_err(|e| fail(format!("the answer is not valid: {e}"))),
        // The lookupd does not know the topic, which is a valid answer.
        StatusCode::NOT_FOUND => Ok(T::default()),
        other => Err(fail(format!("status {other}"))),
    }
}

#[cfg(test)]
mod tests {
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
        let merged = |replies: Vec<_>| {
            let mut lookup = Lookup::default();
            replies.into_iter().for_each(|reply| merge(&mut lookup, reply));
            lookup
        };
        let lookup = merged(vec![reply(&[("a", 1), ("b", 1)]), failure(), reply(&[("b", 1), ("b", 2)])]);
        let listed: Vec<&str> = lookup.listed.iter().map(|node| &**node).collect();
        assert_eq!(listed, ["a:1", "b:1", "b:2"]);
        assert!(lookup.any_answer);
        assert_eq!(lookup.errors.len(), 1);
        assert!(!merged(vec![failure()]).any_answer);
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
