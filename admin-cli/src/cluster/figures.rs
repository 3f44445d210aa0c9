//! The figures of all nodes: from an nsqlookupd, whose nodes send them with their heartbeats, in one answer; from
//! the nodes themselves where no nsqlookupd has them fresh and whole.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nsq::admin::StatsQuery;

use super::{Cluster, Node, NodeError};
use crate::report::{Sample, Samples};
use crate::targets::host_port;

/// An nsqlookupd has its nodes report before it answers. What is older than this has not come on that request: the
/// node is slow, or gone.
const FRESH: Duration = Duration::from_secs(1);

/// What nodes that do not answer said longer ago than this is not shown any more.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// The nsqlookupds, and nodes of which they know nothing fresh.
    LookupdsFirst,
    /// Each node.
    Nodes,
}

/// What one look at all nodes has shown.
#[derive(Debug)]
pub struct Look {
    /// What they said.
    pub samples: Samples,
    /// Who did not answer, while finding them or now.
    pub errors: Vec<NodeError>,
    /// Nodes that did not answer, but an nsqlookupd knows what they said before; and how long ago that was.
    pub stale: Vec<(String, Duration)>,
}

/// What an nsqlookupd knows of a node.
struct Known {
    sample: Sample,
    age: Duration,
}

impl Cluster {
    /// Looks at all nodes once.
    pub async fn look(&self, query: &StatsQuery, ask: Ask) -> Look {
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
        let mut look =
            Look { samples: answers.good.into_iter().collect(), errors: self.errors.clone(), stale: vec![] };
        look.errors.extend(answers.errors);
        for node in &self.nodes {
            let Some(known) = known.remove(&key_of(node)) else { continue };
            if !look.samples.contains_key(&node.name) && !answers.missing.contains(&node.name) {
                if known.age > FRESH {
                    look.stale.push((node.name.clone(), known.age));
                }
                look.samples.insert(node.name.clone(), known.sample);
            }
        }
        look
    }

    /// Asks one nsqlookupd after the other until all nodes' figures are known, which normally is after the first.
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
            // One of another make does not know the question. Whatever is the matter, its nodes can be asked.
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

/// How an nsqlookupd names it.
fn key_of(node: &Node) -> String {
    host_port(&node.info.broadcast_address, node.info.http_port)
}
