//! The JSON of the API that nsqadmin defines, and how figures of nodes are added up. Pure.

use std::collections::BTreeMap;

use nsq_protocol::{ChannelStats, ClientStats, E2eLatency, TopicStats};
use serde::Serialize;

/// The `node` of a sum over all nodes.
const ALL_NODES: &str = "*";

/// A node, as far as its figures need it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeRef {
    /// `broadcast_address:http_port`.
    pub address: String,
    pub hostname: String,
    pub zone: String,
    pub region: String,
}

/// Omits a count of zero, as NSQ does.
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A topic: on one node, or the sum over all.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Topic {
    pub node: String,
    pub hostname: String,
    pub topic_name: String,
    pub depth: i64,
    pub memory_depth: i64,
    pub backend_depth: i64,
    pub message_count: u64,
    pub delivery_msg_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub zone_local_msg_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub region_local_msg_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub global_msg_count: u64,
    pub nodes: Option<Vec<Topic>>,
    pub channels: Option<Vec<Channel>>,
    pub paused: bool,
    pub e2e_processing_latency: Latency,
    /// Bytes of the bodies ever published. Not in nsqadmin.
    pub message_bytes: u64,
}

/// A channel: on one node, or the sum over all.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Channel {
    pub node: String,
    pub hostname: String,
    pub topic_name: String,
    pub channel_name: String,
    pub depth: i64,
    pub memory_depth: i64,
    pub backend_depth: i64,
    pub in_flight_count: i64,
    pub deferred_count: i64,
    pub requeue_count: u64,
    pub timeout_count: u64,
    pub message_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub delivery_msg_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub zone_local_msg_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub region_local_msg_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub global_msg_count: u64,
    pub client_count: i64,
    pub nodes: Option<Vec<Channel>>,
    pub clients: Option<Vec<Client>>,
    pub paused: bool,
    pub e2e_processing_latency: Latency,
}

/// A consumer's connection.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Client {
    pub node: String,
    pub remote_address: String,
    pub version: String,
    pub client_id: String,
    pub hostname: String,
    pub user_agent: String,
    pub connect_ts: i64,
    /// Nanoseconds since the connection, in whole seconds.
    pub connected: i64,
    pub in_flight_count: i64,
    pub ready_count: i64,
    pub finish_count: u64,
    pub requeue_count: u64,
    pub message_count: u64,
    pub sample_rate: i64,
    pub deflate: bool,
    pub snappy: bool,
    pub authed: bool,
    pub auth_identity: String,
    pub auth_identity_url: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_topology_region: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_topology_zone: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub topology_region: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub topology_zone: String,
    pub tls: bool,
    pub tls_cipher_suite: String,
    pub tls_version: String,
    pub tls_negotiated_protocol: String,
    pub tls_negotiated_protocol_is_mutual: bool,
}

/// A latency: of one node, or merged.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Latency {
    pub count: i64,
    pub percentiles: Option<Vec<Percentile>>,
    pub topic: String,
    pub channel: String,
    pub host: String,
}

/// A percentile. Nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Percentile {
    pub average: f64,
    pub count: f64,
    pub max: f64,
    pub min: f64,
    pub quantile: f64,
    /// `None` on merged records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
}

impl Latency {
    fn of(latency: &E2eLatency, node: &str, topic: &str, channel: &str) -> Self {
        let count = latency.count as f64;
        let percentile = |p: &nsq_protocol::Percentile| Percentile {
            average: p.value,
            count,
            max: p.value,
            min: p.value,
            quantile: p.quantile,
            value: Some(p.value),
        };
        Latency {
            count: latency.count,
            percentiles: latency.percentiles.as_ref().map(|list| list.iter().map(percentile).collect()),
            topic: topic.to_owned(),
            channel: channel.to_owned(),
            host: node.to_owned(),
        }
    }

    fn add(&mut self, other: &Latency) {
        self.count += other.count;
        for p in other.percentiles.iter().flatten() {
            let merged = self.percentiles.get_or_insert_default();
            let known = merged.iter_mut().find(|known| known.quantile == p.quantile);
            let Some(known) = known else {
                let average = if p.count > 0.0 { p.average } else { 0.0 };
                merged.push(Percentile { average, value: None, ..p.clone() });
                continue;
            };
            known.max = known.max.max(p.max);
            known.min = known.min.min(p.min);
            known.count += p.count;
            if known.count > 0.0 {
                known.average += (p.average - known.average) * p.count / known.count;
            }
        }
        if let Some(percentiles) = &mut self.percentiles {
            percentiles.sort_by(|a, b| b.quantile.total_cmp(&a.quantile));
        }
    }
}

impl Client {
    /// A client of a node. `now` is in seconds since 1970.
    pub fn of(client: &ClientStats, node: &NodeRef, now: i64) -> Self {
        let c = client.clone();
        Client {
            node: node.address.clone(),
            remote_address: c.remote_address,
            version: c.version,
            client_id: c.client_id,
            hostname: c.hostname,
            user_agent: c.user_agent,
            connect_ts: c.connect_ts,
            connected: now.saturating_sub(c.connect_ts).saturating_mul(1_000_000_000),
            in_flight_count: c.in_flight_count,
            ready_count: c.ready_count,
            finish_count: c.finish_count,
            requeue_count: c.requeue_count,
            message_count: c.message_count,
            sample_rate: c.sample_rate,
            deflate: c.deflate,
            snappy: c.snappy,
            authed: c.authed,
            auth_identity: c.auth_identity,
            auth_identity_url: c.auth_identity_url,
            node_topology_region: node.region.clone(),
            node_topology_zone: node.zone.clone(),
            topology_region: c.topology_region,
            topology_zone: c.topology_zone,
            tls: c.tls,
            tls_cipher_suite: c.tls_cipher_suite,
            tls_version: c.tls_version,
            tls_negotiated_protocol: c.tls_negotiated_protocol,
            tls_negotiated_protocol_is_mutual: c.tls_negotiated_protocol_is_mutual,
        }
    }

    /// How close client and node are: 0 in the same zone, 1 in the same region, 2 elsewhere.
    pub fn distance(&self) -> u8 {
        let is_near = self.topology_region == self.node_topology_region;
        match (is_near, self.topology_zone == self.node_topology_zone) {
            (true, true) => 0,
            (true, false) => 1,
            _ => 2,
        }
    }
}

impl Channel {
    /// A channel on one node.
    pub fn of(stats: &ChannelStats, topic: &str, node: &NodeRef, now: i64) -> Self {
        let clients = stats.clients.as_ref();
        let delivery = stats.zone_local_msg_count + stats.region_local_msg_count + stats.global_msg_count;
        Channel {
            node: node.address.clone(),
            hostname: node.hostname.clone(),
            topic_name: topic.to_owned(),
            channel_name: stats.channel_name.clone(),
            depth: stats.depth,
            memory_depth: stats.depth - stats.backend_depth,
            backend_depth: stats.backend_depth,
            in_flight_count: stats.in_flight_count,
            deferred_count: stats.deferred_count,
            requeue_count: stats.requeue_count,
            timeout_count: stats.timeout_count,
            message_count: stats.message_count,
            delivery_msg_count: delivery,
            zone_local_msg_count: stats.zone_local_msg_count,
            region_local_msg_count: stats.region_local_msg_count,
            global_msg_count: stats.global_msg_count,
            client_count: stats.client_count,
            nodes: None,
            clients: clients.map(|list| list.iter().map(|client| Client::of(client, node, now)).collect()),
            paused: stats.paused,
            e2e_processing_latency: Latency::of(
                &stats.e2e_processing_latency,
                &node.address,
                topic,
                &stats.channel_name,
            ),
        }
    }

    /// The sum over nodes. Each node keeps its own figures.
    pub fn sum(topic: &str, channel: &str, mut nodes: Vec<Channel>) -> Self {
        nodes.sort_by(|a, b| (&a.hostname, &a.node).cmp(&(&b.hostname, &b.node)));
        let mut sum = Channel {
            node: ALL_NODES.to_owned(),
            topic_name: topic.to_owned(),
            channel_name: channel.to_owned(),
            ..Channel::default()
        };
        sum.e2e_processing_latency = Latency {
            topic: topic.to_owned(),
            channel: channel.to_owned(),
            host: ALL_NODES.to_owned(),
            ..Latency::default()
        };
        for node in &nodes {
            sum.depth += node.depth;
            sum.memory_depth += node.memory_depth;
            sum.backend_depth += node.backend_depth;
            sum.in_flight_count += node.in_flight_count;
            sum.deferred_count += node.deferred_count;
            sum.requeue_count += node.requeue_count;
            sum.timeout_count += node.timeout_count;
            sum.message_count += node.message_count;
            sum.delivery_msg_count += node.delivery_msg_count;
            sum.zone_local_msg_count += node.zone_local_msg_count;
            sum.region_local_msg_count += node.region_local_msg_count;
            sum.global_msg_count += node.global_msg_count;
            sum.client_count += node.client_count;
            sum.paused |= node.paused;
            sum.e2e_processing_latency.add(&node.e2e_processing_latency);
            if let Some(clients) = &node.clients {
                sum.clients.get_or_insert_default().extend(clients.iter().cloned());
            }
        }
        if let Some(clients) = &mut sum.clients {
            clients.sort_by(|a, b| {
                let key = |c: &Client| {
                    (c.node.clone(), c.distance(), c.topology_region.clone(), c.topology_zone.clone())
                };
                (key(a), &a.hostname, &a.remote_address).cmp(&(key(b), &b.hostname, &b.remote_address))
            });
        }
        sum.nodes = Some(nodes);
        sum
    }
}

impl Topic {
    /// A topic on one node.
    pub fn of(stats: &TopicStats, node: &NodeRef, now: i64) -> Self {
        let name = &stats.topic_name;
        let channels: Vec<Channel> =
            stats.channels.iter().map(|channel| Channel::of(channel, name, node, now)).collect();
        let sum = |count: fn(&Channel) -> u64| channels.iter().map(count).sum();
        let zone_local_msg_count = sum(|channel| channel.zone_local_msg_count);
        let region_local_msg_count = sum(|channel| channel.region_local_msg_count);
        let global_msg_count = sum(|channel| channel.global_msg_count);
        Topic {
            node: node.address.clone(),
            hostname: node.hostname.clone(),
            topic_name: name.clone(),
            depth: stats.depth,
            memory_depth: stats.depth - stats.backend_depth,
            backend_depth: stats.backend_depth,
            message_count: stats.message_count,
            delivery_msg_count: zone_local_msg_count + region_local_msg_count + global_msg_count,
            zone_local_msg_count,
            region_local_msg_count,
            global_msg_count,
            nodes: None,
            channels: Some(channels),
            paused: stats.paused,
            e2e_processing_latency: Latency::of(&stats.e2e_processing_latency, &node.address, name, ""),
            message_bytes: stats.message_bytes,
        }
    }

    /// The sum over nodes. Each node keeps its own figures, and so do its channels.
    pub fn sum(topic: &str, mut nodes: Vec<Topic>) -> Self {
        nodes.sort_by(|a, b| (&a.hostname, &a.node).cmp(&(&b.hostname, &b.node)));
        let mut sum = Topic { node: ALL_NODES.to_owned(), topic_name: topic.to_owned(), ..Topic::default() };
        sum.e2e_processing_latency =
            Latency { topic: topic.to_owned(), host: ALL_NODES.to_owned(), ..Latency::default() };
        let mut channels: BTreeMap<String, Vec<Channel>> = BTreeMap::new();
        for node in &nodes {
            sum.depth += node.depth;
            sum.memory_depth += node.memory_depth;
            sum.backend_depth += node.backend_depth;
            sum.message_count += node.message_count;
            sum.message_bytes += node.message_bytes;
            sum.delivery_msg_count += node.delivery_msg_count;
            sum.zone_local_msg_count += node.zone_local_msg_count;
            sum.region_local_msg_count += node.region_local_msg_count;
            sum.global_msg_count += node.global_msg_count;
            sum.paused |= node.paused;
            sum.e2e_processing_latency.add(&node.e2e_processing_latency);
            for channel in node.channels.iter().flatten() {
                channels.entry(channel.channel_name.clone()).or_default().push(channel.clone());
            }
        }
        sum.channels =
            Some(channels.into_iter().map(|(name, parts)| Channel::sum(topic, &name, parts)).collect());
        sum.nodes = Some(nodes);
        sum
    }
}

/// A version of nsqd, for comparison: `None` counts as 0.0.0.
pub fn version(text: &str) -> (u64, u64, u64, bool) {
    let (core, is_release) = match text.split_once(['-', '+']) {
        Some((core, _)) => (core, !text.contains('-')),
        None => (text, true),
    };
    let mut parts = core.split('.').map(str::parse::<u64>);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) => (major, minor, patch, is_release),
        _ => (0, 0, 0, true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(address: &str) -> NodeRef {
        NodeRef { address: address.to_owned(), hostname: "h".to_owned(), ..NodeRef::default() }
    }

    fn stats(depth: i64, value: f64) -> TopicStats {
        let latency = E2eLatency {
            count: 2,
            percentiles: Some(vec![nsq_protocol::Percentile { quantile: 1.0, value }]),
        };
        let channel = ChannelStats {
            channel_name: "c".to_owned(),
            depth,
            backend_depth: 1,
            clients: Some(Vec::new()),
            ..ChannelStats::default()
        };
        TopicStats {
            topic_name: "t".to_owned(),
            depth,
            channels: vec![channel],
            e2e_processing_latency: latency,
            ..TopicStats::default()
        }
    }

    #[test]
    fn nodes_keep_their_own_figures_beside_the_sum() {
        let nodes =
            vec![Topic::of(&stats(5, 1.0), &node("b:1"), 0), Topic::of(&stats(7, 3.0), &node("a:1"), 0)];
        let sum = Topic::sum("t", nodes);
        assert_eq!((sum.node.as_str(), sum.depth, sum.hostname.as_str()), ("*", 12, ""));
        let nodes = sum.nodes.unwrap();
        assert_eq!(
            nodes.iter().map(|n| (n.node.as_str(), n.depth)).collect::<Vec<_>>(),
            [("a:1", 7), ("b:1", 5)]
        );
        assert_eq!(nodes[0].channels.as_ref().unwrap()[0].depth, 7);
        let channel = &sum.channels.unwrap()[0];
        assert_eq!((channel.depth, channel.memory_depth, channel.nodes.as_ref().unwrap().len()), (12, 10, 2));
        let percentile = &sum.e2e_processing_latency.percentiles.unwrap()[0];
        assert_eq!((percentile.min, percentile.max, percentile.average), (1.0, 3.0, 2.0));
        assert_eq!((percentile.count, percentile.value), (4.0, None));
    }

    #[test]
    fn clients_are_ordered_by_node_and_distance() {
        let client = |address: &str, zone: &str, region: &str| Client {
            node: "n:1".to_owned(),
            remote_address: address.to_owned(),
            topology_zone: zone.to_owned(),
            topology_region: region.to_owned(),
            node_topology_zone: "z".to_owned(),
            node_topology_region: "r".to_owned(),
            ..Client::default()
        };
        let clients = vec![client("far", "z", "q"), client("near", "y", "r"), client("here", "z", "r")];
        let sum = Channel::sum("t", "c", vec![Channel { clients: Some(clients), ..Channel::default() }]);
        let order: Vec<_> = sum.clients.unwrap().iter().map(|c| c.remote_address.clone()).collect();
        assert_eq!(order, ["here", "near", "far"]);
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert!(version("1.10.0") > version("1.9.9"));
        assert!(version("1.3.0") > version("1.3.0-alpha"));
        assert_eq!(version("strange"), version("0.0.0"));
    }

    #[test]
    fn a_topic_without_nodes_has_zeros_and_empty_lists() {
        let json = serde_json::to_value(Topic::sum("t", Vec::new())).unwrap();
        assert_eq!((json["depth"].as_i64(), json["nodes"].as_array().map(Vec::len)), (Some(0), Some(0)));
        assert!(json.get("zone_local_msg_count").is_none() && json["delivery_msg_count"] == 0);
    }
}
