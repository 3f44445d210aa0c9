//! All connections of the cluster, consumers and publishers, asked for when somebody looks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nsq::admin::StatsQuery;
use nsq_protocol::{ClientStats, Stats};
use serde::Serialize;

use crate::api::reply::ApiError;
use crate::state::State;
use crate::upstream::{Failed, Found};

/// A connection to one nsqd.
#[derive(Debug, Clone, Serialize)]
pub struct Connection {
    pub node: String,
    /// `consumer` or `publisher`.
    pub kind: &'static str,
    /// Empty for a publisher.
    pub topic: String,
    /// Empty for a publisher.
    pub channel: String,
    #[serde(flatten)]
    pub client: ClientStats,
}

/// Asks every nsqd for its connections.
async fn of_cluster(state: &State) -> Result<Found<Vec<Connection>>, ApiError> {
    let nodes = match state.upstream.nodes().await {
        Err(Failed::Unknown) => Found::default(),
        found => found?,
    };
    let query = StatsQuery { clients: true, ..StatsQuery::default() };
    let stats = state.upstream.stats(&nodes.value, &query).await?;
    let value = stats.value.iter().flat_map(|(node, stats)| of_node(&node.address, stats)).collect();
    Ok(Found { value, warnings: nodes.warnings.into_iter().chain(stats.warnings).collect() })
}

/// Asks the nsqds that have a topic for its connections and their publishers.
pub async fn of_topic(state: &State, topic: &str) -> Result<Found<Vec<Connection>>, ApiError> {
    let nodes = state.upstream.nodes_of(topic).await?;
    let query = StatsQuery { topic: Some(topic.to_owned()), clients: true, ..StatsQuery::default() };
    let stats = state.upstream.stats(&nodes.value, &query).await?;
    let value = stats.value.iter().flat_map(|(node, stats)| of_node(&node.address, stats)).collect();
    Ok(Found { value, warnings: nodes.warnings.into_iter().chain(stats.warnings).collect() })
}

/// All connections, and which daemons did not answer.
type Connections = Arc<Found<Vec<Connection>>>;

/// The connections of the cluster, asked for once per sample however many browsers look.
#[derive(Default)]
pub struct Latest {
    inner: tokio::sync::Mutex<Option<(u64, Connections)>>,
}

impl Latest {
    /// The connections at the sample of this number.
    pub async fn at(&self, state: &State, sample: u64) -> Result<Connections, ApiError> {
        let mut inner = self.inner.lock().await;
        if let Some((number, found)) = &*inner
            && *number == sample
        {
            return Ok(found.clone());
        }
        let found = Arc::new(of_cluster(state).await?);
        *inner = Some((sample, found.clone()));
        Ok(found)
    }
}

/// The connections in the statistics of a node.
pub fn of_node(node: &str, stats: &Stats) -> Vec<Connection> {
    let mut found = Vec::new();
    for topic in stats.topics.iter().flatten() {
        for channel in &topic.channels {
            found.extend(channel.clients.iter().flatten().map(|client| Connection {
                node: node.to_owned(),
                kind: "consumer",
                topic: topic.topic_name.clone(),
                channel: channel.channel_name.clone(),
                client: client.clone(),
            }));
        }
    }
    found.extend(stats.producers.iter().flatten().map(|client| Connection {
        node: node.to_owned(),
        kind: "publisher",
        topic: String::new(),
        channel: String::new(),
        client: client.clone(),
    }));
    found
}

/// Connections of one application: the same user agent, client id, topic and channel.
#[derive(Debug, Clone)]
pub struct Group<'a> {
    pub user_agent: &'a str,
    pub client_id: &'a str,
    pub kind: &'static str,
    pub topic: &'a str,
    pub channel: &'a str,
    pub hosts: BTreeSet<&'a str>,
    pub nodes: BTreeSet<&'a str>,
    pub connections: Vec<&'a Connection>,
}

/// The connections by application.
pub fn grouped(connections: &[Connection]) -> Vec<Group<'_>> {
    let mut groups: BTreeMap<(&str, &str, &str, &str, &str), Group<'_>> = BTreeMap::new();
    for connection in connections {
        let client = &connection.client;
        let key = (
            connection.kind,
            &*connection.topic,
            &*connection.channel,
            &*client.user_agent,
            &*client.client_id,
        );
        let group = groups.entry(key).or_insert_with(|| Group {
            user_agent: &client.user_agent,
            client_id: &client.client_id,
            kind: connection.kind,
            topic: &connection.topic,
            channel: &connection.channel,
            hosts: BTreeSet::new(),
            nodes: BTreeSet::new(),
            connections: Vec::new(),
        });
        group.hosts.insert(&client.hostname);
        group.nodes.insert(&connection.node);
        group.connections.push(connection);
    }
    groups.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_an_application_are_one_group() {
        let connection = |node: &str, id: &str| Connection {
            node: node.to_owned(),
            kind: "consumer",
            topic: "t".to_owned(),
            channel: "c".to_owned(),
            client: ClientStats {
                client_id: id.to_owned(),
                hostname: "h".to_owned(),
                ..ClientStats::default()
            },
        };
        let all = [connection("n:1", "app"), connection("n:2", "app"), connection("n:1", "other")];
        let groups = grouped(&all);
        let found: Vec<_> =
            groups.iter().map(|g| (g.client_id, g.nodes.len(), g.connections.len())).collect();
        assert_eq!(found, [("app", 2, 2), ("other", 1, 1)]);
    }
}
