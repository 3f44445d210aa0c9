//! `nsq node list`, `show`, `config` and `tombstone`.

use clap::{Args, Subcommand};
use nsq::admin::StatsQuery;
use nsq_protocol::Stats;
use nsq_protocol::discovery::Node as NodeInfo;
use serde::Serialize;
use serde_json::json;

use super::Context;
use super::change::DestroyFlags;
use crate::cluster::{Answers, Cluster, Lookupd, Node, NodeError, verdict};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::TopicArgument;
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

#[derive(Debug, Args)]
pub struct NodeArgument {
    /// HTTP address of the nsqd, as in `nsq node list`.
    #[arg(value_name = "NODE", add = clap_complete::ArgValueCandidates::new(crate::command::completion::nodes))]
    node: String,
}

/// Shows one node: what it reports about itself, and its topics.
pub async fn show(context: &Context, flags: &NodeArgument) -> Result<ExitStatus, Failure> {
    let cluster = Cluster::find(&context.targets).await?;
    let node = named(&cluster, &flags.node)?;
    let stats = node.client.stats(&StatsQuery { memory: true, ..StatsQuery::default() }).await;
    let stats = Answers::collect("stats", [(node.name.clone(), stats)]);
    let output = context.output;
    let errors = stats.errors;
    let stats = stats.good.into_iter().next().map(|(_, stats)| stats);
    if output.is_json() {
        let row = Row {
            node: &node.name,
            info: &node.info,
            lookupds: &node.lookupds,
            snapshot: stats.as_ref().map(NodeSnapshot::of),
        };
        output.json(&row)?;
    } else {
        let snapshot = stats.as_ref().map(NodeSnapshot::of);
        let count = |count: Option<i64>| count.map_or("-".to_owned(), |count| count.to_string());
        let started = snapshot.as_ref().map(|snapshot| snapshot.start_time.saturating_mul(1_000_000_000));
        let lines = [
            ("node", node.name.clone()),
            ("TCP", node.tcp_address.clone()),
            ("hostname", node.info.hostname.clone()),
            ("version", node.info.version.clone()),
            ("health", snapshot.as_ref().map_or("no answer".to_owned(), |snapshot| snapshot.health.clone())),
            ("started", started.map_or("-".to_owned(), |at| output.moment(at))),
            ("region/zone", format!("{}/{}", node.info.topology_region, node.info.topology_zone)),
            ("nsqlookupds", node.lookupds.join(" ")),
            ("topics", count(snapshot.as_ref().map(|s| i64::try_from(s.topic_count).unwrap_or(i64::MAX)))),
            ("depth", count(snapshot.as_ref().map(|snapshot| snapshot.depth))),
            ("clients", count(snapshot.as_ref().map(|snapshot| snapshot.client_count))),
        ];
        output.text(lines.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect::<String>())?;
    }
    output.node_errors(&errors);
    Ok(verdict(usize::from(stats.is_some()), &errors))
}

/// `nsq node config ...`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print a setting of all nodes, or of one.
    Get {
        /// Name of the setting, such as log_level.
        #[arg(value_name = "OPTION")]
        option: String,
        /// Only this node.
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
    /// Change a setting of running nsqds, until their next start: log_level or nsqlookupd_tcp_addresses.
    Set {
        /// Name of the setting, such as log_level.
        #[arg(value_name = "OPTION")]
        option: String,
        /// Its value, such as debug.
        #[arg(value_name = "VALUE")]
        value: String,
        /// Only this node.
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        /// Only show which nodes would change.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Reads or changes a setting.
pub async fn config(context: &Context, command: &ConfigCommand) -> Result<ExitStatus, Failure> {
    let cluster = Cluster::find(&context.targets).await?;
    let (option, value, only, dry_run) = match command {
        ConfigCommand::Get { option, node } => (option, None, node, false),
        ConfigCommand::Set { option, value, node, dry_run } => (option, Some(value), node, *dry_run),
    };
    if let Some(only) = only {
        named(&cluster, only)?;
    }
    let change = value.filter(|_| !dry_run);
    let is_wanted = |node: &Node| only.as_ref().is_none_or(|only| *only == node.name);
    let op = if change.is_some() { "set config" } else { "config" };
    let answers = cluster
        .on_nodes(op, async |node: &Node| match change {
            _ if !is_wanted(node) => Ok(None),
            Some(value) => node.client.set_config(option, value.clone()).await.map(Some),
            None => node.client.config(option).await.map(Some),
        })
        .await;
    let errors: Vec<NodeError> = answers.errors.iter().chain(&cluster.errors).cloned().collect();
    let values: Vec<(&str, &str)> =
        answers.good.iter().filter_map(|(node, value)| Some((node.as_str(), value.as_deref()?))).collect();
    let output = context.output;
    if output.is_json() {
        let rows = values.iter().map(|(node, value)| json!({"node": node, "option": option, "value": value}));
        output.json(
            &json!({"settings": rows.collect::<Vec<_>>(), "dry_run": dry_run, "node_errors": errors}),
        )?;
    } else {
        let mut table = Table::new(&["NODE", "OPTION", "VALUE"]);
        for (node, now) in &values {
            let shown = match value.filter(|_| dry_run) {
                Some(value) => format!("{now} -> {value} (not changed)"),
                None => (*now).to_owned(),
            };
            table.row(vec![(*node).into(), option.as_str().into(), shown.into()]);
        }
        output.table(&table)?;
    }
    output.node_errors(&errors);
    Ok(verdict(values.len(), &errors))
}

#[derive(Debug, Args)]
pub struct TombstoneFlags {
    #[command(flatten)]
    node: NodeArgument,
    #[command(flatten)]
    topic: TopicArgument,
    /// Also delete the topic with its messages from the node.
    #[arg(long)]
    delete: bool,
    #[command(flatten)]
    destroy: DestroyFlags,
}

/// Hides a node from consumers of a topic for a while; with `--delete`, then deletes the topic there.
pub async fn tombstone(context: &Context, flags: &TombstoneFlags) -> Result<ExitStatus, Failure> {
    let topic = flags.topic.object()?;
    let cluster = Cluster::find(&context.targets).await?;
    if cluster.is_without_lookupd() {
        return Err(Failure::usage("only an nsqlookupd can hide a node").hint("use --lookupd HOST:4161"));
    }
    let node = named(&cluster, &flags.node.node)?;
    let name = &topic.topic;
    if !node.info.topics.contains(name) {
        return Err(Failure::new(
            ExitStatus::NotFound,
            format_args!("{} does not have topic {name}", node.name),
        )
        .target(node.name.clone()));
    }
    let query = StatsQuery { topic: Some(name.clone()), ..StatsQuery::default() };
    let messages = match node.client.stats(&query).await {
        Ok(stats) => {
            let topics = || stats.topics.iter().flatten().filter(|topic| topic.topic_name == *name);
            let in_channels = |c: &nsq_protocol::ChannelStats| c.depth + c.in_flight_count + c.deferred_count;
            let of_topic = topics().map(|t| t.depth + t.channels.iter().map(in_channels).sum::<i64>());
            of_topic.sum::<i64>()
        }
        Err(error) if flags.delete => return Err(Failure::failed(error)),
        Err(_) => 0,
    };
    let what = match flags.delete {
        true => format!(
            "hide {} from consumers of {name}, and delete {name} there with {messages} unfinished messages",
            node.name
        ),
        false => format!("hide {} from consumers of {name}", node.name),
    };
    let output = context.output;
    if flags.destroy.dry_run {
        return output.text(format!("would {what}\n")).map(|()| ExitStatus::Done);
    }
    if flags.delete {
        context.confirm(&format!("{what}?"), flags.destroy.yes)?;
    }
    let mut answers = cluster
        .on_lookupds("tombstone", async |lookupd: &Lookupd| {
            lookupd
                .client
                .tombstone(
                    name,
                    &crate::targets::host_port(&node.info.broadcast_address, node.info.http_port),
                )
                .await
        })
        .await;
    if flags.delete && !answers.good.is_empty() {
        answers
            .extend(Answers::collect("delete", [(node.name.clone(), node.client.delete_topic(name).await)]));
    }
    let done: Vec<&str> = answers.good.iter().map(|(daemon, ())| daemon.as_str()).collect();
    if output.is_json() {
        let document = json!({
            "topic_name": name,
            "node": node.name,
            "deleted": flags.delete && done.contains(&node.name.as_str()),
            "daemons": done,
            "node_errors": answers.errors,
        });
        output.json(&document)?;
    } else {
        output.text(format!(
            "{} is hidden from new consumers of {name}, at {} nsqlookupds\n",
            node.name,
            cluster.lookupds.len()
        ))?;
        if flags.delete && done.contains(&node.name.as_str()) {
            output.text(format!("deleted {name} at {}\n", node.name))?;
        }
    }
    output.node_errors(&answers.errors);
    Ok(verdict(answers.good.len(), &answers.errors))
}

/// The node with this name.
pub fn named<'a>(cluster: &'a Cluster, name: &str) -> Result<&'a Node, Failure> {
    cluster.nodes.iter().find(|node| node.name == name || node.tcp_address == name).ok_or_else(|| {
        let known: Vec<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
        Failure::new(ExitStatus::NotFound, format_args!("there is no node {name}"))
            .target(name)
            .hint(format!("known nodes: {}", known.join(" ")))
    })
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
