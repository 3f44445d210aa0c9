//! Pure: builds a snapshot from what each daemon reported.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::node_sample::NodeSample;
use super::{
    ChannelPart, ChannelView, Listing, LookupdView, NodeView, Reach, Snapshot, TopicPart, TopicView, Totals,
};

/// What the sampler knows at the end of a sample.
#[derive(Debug)]
pub(crate) struct SnapshotInput {
    pub(crate) number: u64,
    pub(crate) taken_at: SystemTime,
    pub(crate) now: Instant,
    pub(crate) took: Duration,
    pub(crate) interval: Duration,
    pub(crate) lookupds: Vec<LookupdInput>,
    /// Sorted by address.
    pub(crate) nodes: Vec<NodeInput>,
}

/// An nsqlookupd, with the keys of the nodes that it lists.
#[derive(Debug)]
pub(crate) struct LookupdInput {
    pub(crate) view: LookupdView,
    pub(crate) listed: Vec<(String, Listing)>,
}

/// A node without its sums, and its last report.
#[derive(Debug)]
pub(crate) struct NodeInput {
    pub(crate) view: NodeView,
    pub(crate) sample: Option<Arc<NodeSample>>,
}

/// Topics by name, while nodes are added.
type Topics = BTreeMap<Arc<str>, TopicSum>;

struct TopicSum {
    /// Without channels.
    view: TopicView,
    channels: BTreeMap<Arc<str>, ChannelView>,
}

pub(crate) fn build(input: SnapshotInput) -> Snapshot {
    let SnapshotInput { number, taken_at, now, took, interval, lookupds, nodes } = input;
    let mut topics = Topics::new();
    let mut views = Vec::with_capacity(nodes.len());
    for (index, NodeInput { mut view, sample }) in nodes.into_iter().enumerate() {
        if let Some(sample) = &sample {
            view.age = Some(now.saturating_duration_since(sample.taken_at));
            view.totals = add_node(&mut topics, index, sample, view.reach == Reach::Down);
        }
        views.push(view);
    }
    let topics: Vec<TopicView> = topics
        .into_values()
        .map(|TopicSum { view, channels }| TopicView { channels: channels.into_values().collect(), ..view })
        .collect();
    let lookupds = lookupds
        .into_iter()
        .enumerate()
        .map(|(index, LookupdInput { mut view, listed })| {
            for (key, listing) in listed {
                let Some(node) = views.iter().position(|node| node.key == key) else { continue };
                views[node].lookupds.push(index);
                view.nodes.push(Listing { node, ..listing });
            }
            view.nodes.sort_by_key(|listing| listing.node);
            view
        })
        .collect::<Vec<_>>();
    let errors = lookupds.iter().filter_map(|lookupd| lookupd.error.clone());
    let errors = errors.chain(views.iter().filter_map(|node| node.error.clone())).collect();
    let mut totals = Totals { topic_count: topics.len(), ..Totals::default() };
    totals.channel_count = topics.iter().map(|topic| topic.channels.len()).sum();
    for node in &views {
        totals.depth += node.totals.depth;
        totals.backend_depth += node.totals.backend_depth;
        totals.in_flight_count += node.totals.in_flight_count;
        totals.deferred_count += node.totals.deferred_count;
        totals.client_count += node.totals.client_count;
        if let Some(rates) = &node.totals.rates {
            totals.rates.get_or_insert_default().add(rates);
        }
    }
    let problems = Vec::new();
    Snapshot { number, taken_at, took, interval, lookupds, nodes: views, topics, totals, errors, problems }
}

/// Adds the report of a node to all topics. Returns its own sums. A node that is down has no rates.
fn add_node(topics: &mut Topics, node: usize, sample: &NodeSample, is_down: bool) -> Totals {
    let mut totals = Totals { topic_count: sample.topics.len(), ..Totals::default() };
    for topic in &sample.topics {
        let mut figures = topic.figures.clone();
        if is_down {
            figures.rates = None;
            figures.ingress_bytes = None;
        }
        totals.depth += figures.depth;
        totals.backend_depth += figures.backend_depth;
        totals.channel_count += topic.channels.len();
        if let Some(rates) = &figures.rates {
            totals.rates.get_or_insert_default().add(rates);
        }
        let TopicSum { view, channels } = topics.entry(topic.name.clone()).or_insert_with(|| {
            let (parts, channels) = (Vec::new(), Vec::new());
            let view =
                TopicView { name: topic.name.clone(), sum: super::TopicFigures::default(), parts, channels };
            TopicSum { view, channels: BTreeMap::new() }
        });
        view.sum.add(&figures);
        view.parts.push(TopicPart { node, figures });
        for channel in &topic.channels {
            let mut figures = channel.figures.clone();
            if is_down {
                figures.rates = None;
            }
            totals.depth += figures.depth;
            totals.backend_depth += figures.backend_depth;
            totals.in_flight_count += figures.in_flight_count;
            totals.deferred_count += figures.deferred_count;
            totals.client_count += figures.client_count;
            let view = channels.entry(channel.name.clone()).or_insert_with(|| ChannelView {
                name: channel.name.clone(),
                sum: super::ChannelFigures::default(),
                parts: Vec::new(),
            });
            view.sum.add(&figures);
            view.parts.push(ChannelPart { node, figures });
        }
    }
    totals
}
