//! `nsq node list`.

use nsq::admin::StatsQuery;
use nsq_protocol::Stats;
use nsq_protocol::discovery::Node as NodeInfo;
use serde::Serialize;
use serde_json::json;

use super::Context;
use crate::cluster::{Cluster, Node, verdict};
use crate::exit_status::{ExitStatus, Failure};
use crate::table::{Cell, Table};

/// A node in the JSON: what nsqlookupd and the node itself report about it.
#[derive(Serialize)]
struct Row<'a> {
    node: &'a str,
    #[serde(flatten)]
    info: &'a NodeInfo,
    lookupds: &'a [String],
    #[serde(flatten)]
    snapshot: Option<NodeSnapshot>,
}

/// What a node reports about itself.
#[derive(Serialize)]
struct NodeSnapshot {
    health: String,
    start_time: i64,
    topic_count: usize,
    depth: i64,
    client_count: i64,
}

/// Lists all nodes, including those that do not answer.
pub async fn list(context: &Context) -> Result<ExitStatus, Failure> {
    let cluster = Cluster::find(&context.targets).await?;
    let stats = cluster.stats(&StatsQuery::default()).await;
    let mut errors = cluster.errors.clone();
    errors.extend(stats.errors);
    let answered = stats.good.len();
    let row = |node: &Node| {
        let (_, stats) = stats.good.iter().find(|(name, _)| *name == node.name)?;
        Some(NodeSnapshot::of(stats))
    };
    let output = context.output;
    if output.is_json() {
        let rows = cluster.nodes.iter().map(|node| Row {
            node: &node.name,
            info: &node.info,
            lookupds: &node.lookupds,
            snapshot: row(node),
        });
        output.json(&json!({"nodes": rows.collect::<Vec<_>>(), "node_errors": errors}))?;
    } else {
        let mut table = Table::new(&[
            "NODE",
            "TCP",
            "HOSTNAME",
            "VERSION",
            "HEALTH",
            "TOPICS",
            "DEPTH",
            "CLIENTS",
            "LOOKUPDS",
            "REGION/ZONE",
        ]);
        for node in &cluster.nodes {
            let mut cells: Vec<Cell> = vec![
                node.name.as_str().into(),
                node.tcp_address.as_str().into(),
                node.info.hostname.as_str().into(),
                node.info.version.as_str().into(),
            ];
            cells.extend(match row(node) {
                Some(row) => {
                    [row.health.into(), row.topic_count.into(), row.depth.into(), row.client_count.into()]
                }
                None => ["no answer".into(), Cell::None, Cell::None, Cell::None],
            });
            cells.push(format!("{}/{}", node.lookupds.len(), cluster.lookupds.len()).into());
            cells.push(place(&node.info));
            table.row(cells);
        }
        output.table(&table)?;
    }
    output.node_errors(&errors);
    Ok(verdict(answered + cluster.lookupds.len(), &errors))
}

/// The region and zone that a node reports.
fn place(info: &NodeInfo) -> Cell {
    if info.topology_region.is_empty() && info.topology_zone.is_empty() {
        return Cell::None;
    }
    format!("{}/{}", info.topology_region, info.topology_zone).into()
}

impl NodeSnapshot {
    fn of(stats: &Stats) -> Self {
        let topics = || stats.topics.iter().flatten();
        let channels = || topics().flat_map(|topic| &topic.channels);
        NodeSnapshot {
            health: stats.health.clone(),
            start_time: stats.start_time,
            topic_count: topics().count(),
            depth: topics().map(|topic| topic.depth).sum::<i64>() + channels().map(|c| c.depth).sum::<i64>(),
            client_count: channels().map(|channel| channel.client_count).sum(),
        }
    }
}
