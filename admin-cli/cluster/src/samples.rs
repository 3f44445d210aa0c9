//! The statistics of all nodes. An nsqlookupd has the statistics that its nodes send with their heartbeats, and answers
//! for all of them at once. Nodes are asked directly if no nsqlookupd has their statistics fresh and complete.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nsq::admin::StatsQuery;
use nsq_protocol::Stats;

use crate::answers::NodeError;
use crate::config::host_port;
use crate::find::{Cluster, Node};

/// An nsqlookupd asks its nodes to report before it answers. Older statistics than this did not come for that request:
/// the node is slow or down.
const FRESH: Duration = Duration::from_secs(1);

/// Maximum age of the statistics that are shown for a node that does not answer.
const MAX_AGE: Duration = Duration::from_secs(60);

/// The statistics of one node.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When the node answered.
    pub taken_at: Instant,
    /// The statistics.
    pub stats: Stats,
}

/// Samples by node.
pub type Samples = BTreeMap<String, Sample>;

/// Which daemons to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// The nsqlookupds, then the nodes whose statistics they do not have fresh.
    LookupdsFirst,
    /// Each node.
    Nodes,
}

/// The result of asking all nodes once.
#[derive(Debug)]
pub struct ClusterSamples {
    /// The statistics, by node.
    pub samples: Samples,
    /// The daemons that did not answer, now or when the cluster was found.
    pub errors: Vec<NodeError>,
    /// Nodes that did not answer but whose earlier statistics an nsqlookupd has, with the age of these statistics.
    pub stale: Vec<(String, Duration)>,
}

/// The statistics of a node that an nsqlookupd has.
struct Known {
    sample: Sample,
    age: Duration,
}

impl Cluster {
    /// Asks all nodes once.
    pub async fn sample(&self, query: &StatsQuery, ask: Ask) -> ClusterSamples {
        let mut known = match ask {
            Ask::LookupdsFirst => self.known_to_lookupds(query).await,
            Ask::Nodes => BTreeMap::new(),
        };
        let is_fresh = |node: &Node| known.get(&key_of(node)).is_some_and(|known| known.age <= FRESH);
        let asked: Vec<&Node> = self.nodes.iter().filter(|node| !is_fresh(node)).collect();
        let answers = Self::on(&asked, "stats", async |node: &Node| {
            let stats = node.client.stats(query).await?;
            Ok(Sample { taken_at: Instant::now(), stats })
        });
        let answers = answers.await;
        let mut result = ClusterSamples {
            samples: answers.good.into_iter().collect(),
            errors: self.errors.clone(),
            stale: vec![],
        };
        result.errors.extend(answers.errors);
        for node in &self.nodes {
            let Some(known) = known.remove(&key_of(node)) else { continue };
            if !result.samples.contains_key(&node.name) && !answers.missing.contains(&node.name) {
                if known.age > FRESH {
                    result.stale.push((node.name.clone(), known.age));
                }
                result.samples.insert(node.name.clone(), known.sample);
            }
        }
        result
    }

    /// Asks one nsqlookupd after another until the statistics of all nodes are known; normally the first suffices.
    async fn known_to_lookupds(&self, query: &StatsQuery) -> BTreeMap<String, Known> {
        let mut known: BTreeMap<String, Known> = BTreeMap::new();
        for lookupd in &self.lookupds {
            let is_of_use = |node: &Node| {
                let is_known = known.get(&key_of(node)).is_some_and(|known| known.age <= FRESH);
                !is_known && node.lookupds.contains(&lookupd.name)
            };
            if !self.nodes.iter().any(is_of_use) {
                continue;
            }
            // NSQ's nsqlookupd does not know this request. After any error, the nodes are asked instead.
            let Ok(answer) = lookupd.client.cluster_stats(query, true).await else { continue };
            let now = Instant::now();
            for node in answer.nodes {
                let key = host_port(&node.node.broadcast_address, node.node.http_port);
                let (Some(stats), Some(age_ms), true) = (node.stats, node.age_ms, node.is_complete) else {
                    continue;
                };
                let age = Duration::from_millis(age_ms);
                let is_news = known.get(&key).is_none_or(|known| age < known.age);
                if age <= MAX_AGE && is_news {
                    let sample = Sample { taken_at: now.checked_sub(age).unwrap_or(now), stats };
                    known.insert(key, Known { sample, age });
                }
            }
        }
        known
    }
}

/// The node's name in the answers of an nsqlookupd.
fn key_of(node: &Node) -> String {
    host_port(&node.info.broadcast_address, node.info.http_port)
}
