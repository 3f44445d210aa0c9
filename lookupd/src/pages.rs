//! Writes the responses that grow with the number of topics and nodes, item by item.

use std::sync::Arc;

use nsq_daemon::http::document::{List, Map, put, split};
use nsq_daemon::http::{Encoding, Pieces};
use nsq_protocol::{
    ChannelsResponse, ClusterNode, ClusterStatsResponse, NodesResponse, TopicStats, TopicsResponse,
};

use crate::clock;
use crate::node_stats::KeptTopic;
use crate::registry::{Node, Registry, producer};
use crate::stats_store::StatsStore;

/// Scanning more topics, nodes or records than this may take more than a fraction of a millisecond.
const FEW: usize = 1000;

/// Statistics up to this size are written in a fraction of a millisecond.
const FEW_BYTES: usize = 64 << 10;

/// The requested page.
#[derive(Debug)]
pub(crate) enum Page {
    Topics,
    /// The channels of a topic, or of all topics for `*`.
    Channels(String),
    Nodes,
    Debug,
    ClusterStats {
        stats_store: Arc<StatsStore>,
        topic: Option<String>,
        channel: Option<String>,
    },
}

impl Page {
    /// Whether generating the page up to its first piece takes almost no time.
    pub(crate) fn is_small(&self, registry: &Registry) -> bool {
        let (topics, nodes) = registry.size();
        match self {
            Self::Topics | Self::Channels(_) => topics <= FEW,
            Self::Nodes | Self::Debug => (topics + 1).saturating_mul(nodes + 1) <= FEW,
            Self::ClusterStats { stats_store, .. } => nodes <= FEW && stats_store.bytes() <= FEW_BYTES,
        }
    }

    pub(crate) async fn write(self, registry: Arc<Registry>, encoding: Encoding, out: Pieces) {
        match self {
            Self::Topics => {
                let names = registry.topics();
                write_list(encoding, &out, &TopicsResponse::default(), "topics", names, |name| name).await;
            }
            Self::Channels(topic) => {
                let names = registry.channels(&topic);
                write_list(encoding, &out, &ChannelsResponse::default(), "channels", names, |name| name)
                    .await;
            }
            Self::Nodes => {
                let now = clock::now();
                let topics = registry.topics_by_node(now);
                let nodes = registry.active(now);
                let envelope = NodesResponse::default();
                write_list(encoding, &out, &envelope, "producers", nodes, |node| topics.of(&node)).await;
            }
            Self::Debug => write_debug(&registry, encoding, &out).await,
            Self::ClusterStats { stats_store, topic, channel } => {
                let cluster = ClusterPage { stats_store, topic, channel, encoding };
                cluster.write(registry.active(clock::now()), &out).await;
            }
        }
    }
}

/// Writes a struct whose only list is the field `name`.
async fn write_list<T, I: serde::Serialize>(
    encoding: Encoding,
    out: &Pieces,
    envelope: &impl serde::Serialize,
    name: &str,
    items: Vec<T>,
    show: impl Fn(T) -> I,
) {
    let [before, behind] = two(split(encoding, envelope, &[name]));
    let mut list = out.put(|out| {
        out.extend(before);
        List::begin(encoding, items.len(), out)
    });
    for item in items {
        out.put(|out| list.item(&show(item), out));
        out.pause().await;
    }
    out.put(|out| {
        list.end(out);
        out.extend(behind);
    });
}

async fn write_debug(registry: &Registry, encoding: Encoding, out: &Pieces) {
    let all = registry.debug();
    let mut map = out.put(|out| Map::begin(encoding, all.len(), out));
    for (key, entries) in all {
        let mut list = out.put(|out| {
            map.key(&key, out);
            List::begin(encoding, entries.len(), out)
        });
        for entry in entries {
            out.put(|out| list.item(&entry.record(), out));
            out.pause().await;
        }
        out.put(|out| list.end(out));
        out.pause().await;
    }
    out.put(|out| map.end(out));
}

struct ClusterPage {
    stats_store: Arc<StatsStore>,
    topic: Option<String>,
    channel: Option<String>,
    encoding: Encoding,
}

impl ClusterPage {
    async fn write(&self, nodes: Vec<Arc<Node>>, out: &Pieces) {
        let [before, behind] = two(split(self.encoding, &ClusterStatsResponse::default(), &["nodes"]));
        let mut list = out.put(|out| {
            out.extend(before);
            List::begin(self.encoding, nodes.len(), out)
        });
        for node in nodes {
            out.put(|out| list.next(out));
            self.write_node(&node, out).await;
        }
        out.put(|out| {
            list.end(out);
            out.extend(behind);
        });
    }

    async fn write_node(&self, node: &Node, out: &Pieces) {
        // Nothing is decoded or written under the lock.
        let stats = self.stats_store.get(node.id());
        let snapshot = stats.and_then(|stats| {
            stats.inspect(|stats| {
                let age = clock::now().since(&stats.reported_at()?);
                let topics = stats.topics(self.topic.as_deref());
                Some((age, stats.is_complete(), stats.node().clone(), topics))
            })
        });
        let mut envelope = ClusterNode { node: producer(node), ..ClusterNode::default() };
        let topics = snapshot.and_then(|(age, is_complete, summary, topics)| {
            envelope.age_ms = u64::try_from(age.as_millis()).ok();
            envelope.is_complete = is_complete;
            envelope.stats = Some(summary.stats(topics.as_ref().map(|_| Vec::new())));
            topics
        });
        match topics {
            None => out.put(|out| put(self.encoding, &envelope, out)),
            Some(mut topics) => {
                if self.channel.is_some() {
                    topics.retain(|topic| self.shown(topic).is_some());
                }
                let [before, behind] = two(split(self.encoding, &envelope, &["topics"]));
                let mut list = out.put(|out| {
                    out.extend(before);
                    List::begin(self.encoding, topics.len(), out)
                });
                for topic in topics {
                    let shown = self.shown(&topic).unwrap_or_default();
                    out.put(|out| list.item(&shown, out));
                    out.pause().await;
                }
                out.put(|out| {
                    list.end(out);
                    out.extend(behind);
                });
            }
        }
        out.pause().await;
    }

    /// The topic with all channels, or with only the requested one; `None` if it lacks that channel.
    fn shown(&self, topic: &KeptTopic) -> Option<TopicStats> {
        let mut stats = topic.decode()?.stats();
        if let Some(name) = &self.channel {
            stats.channels.retain(|channel| channel.channel_name == *name);
        }
        (self.channel.is_none() || !stats.channels.is_empty()).then_some(stats)
    }
}

/// The result of [`split`] for one list.
fn two(parts: Vec<Vec<u8>>) -> [Vec<u8>; 2] {
    parts.try_into().unwrap_or_default()
}
