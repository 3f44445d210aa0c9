//! `nsq client list` and `nsq channel clients`: connections of consumers and publishers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use nsq::admin::StatsQuery;
use nsq_daemon::go_duration;
use nsq_protocol::{ClientStats, Stats};
use serde::Serialize;
use serde_json::json;

use super::Context;
use super::change::unknown;
use crate::cluster::{Answers, Cluster, NodeError, verdict};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::{ChannelArgument, Object};
use crate::table::{Cell, Table};

pub const EXAMPLES: &str = "\
Examples:
  nsq client ls                 # every consumer
  nsq client ls --publishers    # connections that publish
  nsq client ls --missing       # consumers that are not connected to every node of their topic";

/// `nsq client ...`
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// List connections of consumers or publishers.
    #[command(visible_alias = "ls")]
    List(ListFlags),
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ListFlags {
    /// Only these: TOPIC or TOPIC/CHANNEL.
    #[arg(value_name = "TOPIC[/CHANNEL]", add = clap_complete::ArgValueCandidates::new(crate::command::completion::channels))]
    object: Option<String>,
    /// List connections that have published, instead of consumers.
    #[arg(long, conflicts_with = "missing")]
    publishers: bool,
    /// List consumers that are not connected to every node of their topic.
    #[arg(long)]
    missing: bool,
}

/// How to add up connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// By host.
    Host,
    /// By client library.
    App,
}

#[derive(Debug, Args)]
pub struct ChannelClientsFlags {
    #[command(flatten)]
    channel: ChannelArgument,
    /// Add up the connections.
    #[arg(long, value_name = "BY", value_enum)]
    group: Option<Group>,
}

/// A connection.
#[derive(Serialize)]
pub struct Row<'a> {
    node: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    topic_name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    channel_name: &'a str,
    #[serde(flatten)]
    client: &'a ClientStats,
}

/// Runs `nsq client ...`.
pub async fn run(context: &Context, command: ClientCommand) -> Result<ExitStatus, Failure> {
    let ClientCommand::List(flags) = command;
    let object = flags.object.as_deref().map(Object::parse).transpose()?;
    let cluster = Cluster::find(&context.targets).await?;
    let (stats, errors) = ask(&cluster, object.as_ref()).await;
    if flags.publishers {
        let topic = object.as_ref().map(|object| object.topic.as_str());
        let rows = publishers(&stats.good, topic);
        return show(context, &rows, true, &stats, &errors);
    }
    let rows = consumer_rows(&stats.good, object.as_ref());
    if let Some(object) = &object
        && rows.is_empty()
        && errors.is_empty()
        && !has(&stats.good, object)
    {
        return Err(unknown(&cluster, object).await);
    }
    if flags.missing {
        return show_missing(context, &rows, &stats, &errors);
    }
    show(context, &rows, false, &stats, &errors)
}

/// Runs `nsq channel clients`.
pub async fn of_channel(context: &Context, flags: &ChannelClientsFlags) -> Result<ExitStatus, Failure> {
    let object = flags.channel.object()?;
    let cluster = Cluster::find(&context.targets).await?;
    let (stats, errors) = ask(&cluster, Some(&object)).await;
    let rows = consumer_rows(&stats.good, Some(&object));
    if rows.is_empty() && errors.is_empty() && !has(&stats.good, &object) {
        return Err(unknown(&cluster, &object).await);
    }
    match flags.group {
        None => show(context, &rows, false, &stats, &errors),
        Some(group) => show_groups(context, &rows, group, &stats, &errors),
    }
}

async fn ask(cluster: &Cluster, object: Option<&Object>) -> (Answers<Stats>, Vec<NodeError>) {
    let query = StatsQuery {
        topic: object.map(|object| object.topic.clone()),
        channel: object.and_then(|object| object.channel.clone()),
        clients: true,
        ..StatsQuery::default()
    };
    let stats = cluster.stats(&query).await;
    let errors = cluster.errors.iter().chain(&stats.errors).cloned().collect();
    (stats, errors)
}

fn has(stats: &[(String, Stats)], object: &Object) -> bool {
    let mut topics = stats.iter().flat_map(|(_, stats)| stats.topics.iter().flatten());
    topics.any(|topic| {
        let mut channels = topic.channels.iter();
        topic.topic_name == object.topic
            && object
                .channel
                .as_ref()
                .is_none_or(|channel| channels.any(|known| known.channel_name == *channel))
    })
}

/// The connections of consumers, of all channels or of those that are meant.
pub fn consumer_rows<'a>(stats: &'a [(String, Stats)], object: Option<&Object>) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    for (node, stats) in stats {
        for topic in stats.topics.iter().flatten() {
            for channel in &topic.channels {
                let is_wanted = object.is_none_or(|object| {
                    object.topic == topic.topic_name
                        && object.channel.as_ref().is_none_or(|name| *name == channel.channel_name)
                });
                let clients = channel.clients.iter().flatten().filter(|_| is_wanted);
                rows.extend(clients.map(|client| Row {
                    node,
                    topic_name: &topic.topic_name,
                    channel_name: &channel.channel_name,
                    client,
                }));
            }
        }
    }
    rows.sort_by(|a, b| {
        let key = |row: &Row<'a>| {
            (row.topic_name, row.channel_name, &row.client.hostname, &row.client.client_id, row.node)
        };
        key(a).cmp(&key(b))
    });
    rows
}

fn publishers<'a>(stats: &'a [(String, Stats)], topic: Option<&str>) -> Vec<Row<'a>> {
    let of_node = |(node, stats): &'a (String, Stats)| {
        let clients = stats.producers.iter().flatten();
        clients.map(move |client| Row { node, topic_name: "", channel_name: "", client })
    };
    let rows = stats.iter().flat_map(of_node);
    rows.filter(|row| {
        topic.is_none_or(|topic| row.client.pub_counts.iter().any(|count| count.topic == topic))
    })
    .collect()
}

fn show(
    context: &Context,
    rows: &[Row<'_>],
    publishers: bool,
    stats: &Answers<Stats>,
    errors: &[NodeError],
) -> Result<ExitStatus, Failure> {
    let output = context.output;
    if output.is_json() {
        output.json(&json!({"clients": rows, "node_errors": errors}))?;
    } else if publishers {
        let mut table =
            Table::new(&["NODE", "CLIENT", "HOST", "ADDRESS", "APP", "TOPICS", "MESSAGES", "AGE", "TLS"]);
        for Row { node, client, .. } in rows {
            let topics: Vec<&str> = client.pub_counts.iter().map(|count| count.topic.as_str()).collect();
            table.row(vec![
                (*node).into(),
                client.client_id.as_str().into(),
                client.hostname.as_str().into(),
                client.remote_address.as_str().into(),
                client.user_agent.as_str().into(),
                topics.join(",").into(),
                client.pub_counts.iter().map(|count| count.count).sum::<u64>().into(),
                age(client),
                yes(client.tls).into(),
            ]);
        }
        output.table(&table)?;
    } else {
        output.table(&consumer_table(rows))?;
    }
    output.node_errors(errors);
    Ok(verdict(stats.good.len(), errors))
}

/// One row per connection of a consumer.
pub fn consumer_table(rows: &[Row<'_>]) -> Table {
    let mut table = Table::new(&[
        "TOPIC",
        "CHANNEL",
        "CLIENT",
        "HOST",
        "ADDRESS",
        "APP",
        "RDY",
        "INFLT",
        "FIN",
        "REQ",
        "AGE",
        "TLS",
        "COMPRESSION",
        "NODE",
    ]);
    for Row { node, topic_name, channel_name, client } in rows {
        let compression = match (client.snappy, client.deflate) {
            (true, _) => "snappy",
            (false, true) => "deflate",
            (false, false) => "",
        };
        table.row(vec![
            (*topic_name).into(),
            (*channel_name).into(),
            client.client_id.as_str().into(),
            client.hostname.as_str().into(),
            client.remote_address.as_str().into(),
            client.user_agent.as_str().into(),
            client.ready_count.into(),
            client.in_flight_count.into(),
            client.finish_count.into(),
            client.requeue_count.into(),
            age(client),
            yes(client.tls).into(),
            compression.into(),
            (*node).into(),
        ]);
    }
    table
}

/// A consumer: connections of one program to several nodes.
type Consumer<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str);

/// The nodes that each consumer lacks; consumers that lack none are left out.
fn missing<'a>(
    rows: &[Row<'a>],
    nodes_of: &BTreeMap<&'a str, BTreeSet<&'a str>>,
) -> Vec<(Consumer<'a>, Vec<&'a str>)> {
    let mut connected: BTreeMap<Consumer<'a>, BTreeSet<&'a str>> = BTreeMap::new();
    for Row { node, topic_name, channel_name, client } in rows {
        let key = (
            *topic_name,
            *channel_name,
            client.hostname.as_str(),
            client.client_id.as_str(),
            client.user_agent.as_str(),
        );
        connected.entry(key).or_default().insert(node);
    }
    let lacks = |(key, nodes): (Consumer<'a>, BTreeSet<&'a str>)| {
        let lacking: Vec<&str> = nodes_of.get(key.0)?.difference(&nodes).copied().collect();
        (!lacking.is_empty()).then_some((key, lacking))
    };
    connected.into_iter().filter_map(lacks).collect()
}

fn show_missing(
    context: &Context,
    rows: &[Row<'_>],
    stats: &Answers<Stats>,
    errors: &[NodeError],
) -> Result<ExitStatus, Failure> {
    let mut nodes_of: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (node, stats) in &stats.good {
        for topic in stats.topics.iter().flatten() {
            nodes_of.entry(&topic.topic_name).or_default().insert(node);
        }
    }
    let found = missing(rows, &nodes_of);
    let output = context.output;
    if output.is_json() {
        let rows = found.iter().map(|((topic, channel, host, client, app), nodes)| {
            json!({
                "topic_name": topic,
                "channel_name": channel,
                "client_id": client,
                "hostname": host,
                "user_agent": app,
                "missing_nodes": nodes,
            })
        });
        output.json(&json!({"clients": rows.collect::<Vec<_>>(), "node_errors": errors}))?;
    } else {
        let mut table = Table::new(&["TOPIC", "CHANNEL", "CLIENT", "HOST", "APP", "MISSING NODES"]);
        for ((topic, channel, host, client, app), nodes) in &found {
            table.row(vec![
                (*topic).into(),
                (*channel).into(),
                (*client).into(),
                (*host).into(),
                (*app).into(),
                nodes.join(",").into(),
            ]);
        }
        output.table(&table)?;
        if found.is_empty() {
            output.note("every consumer is connected to every node of its topic");
        }
    }
    output.node_errors(errors);
    Ok(verdict(stats.good.len(), errors))
}

fn show_groups(
    context: &Context,
    rows: &[Row<'_>],
    group: Group,
    stats: &Answers<Stats>,
    errors: &[NodeError],
) -> Result<ExitStatus, Failure> {
    #[derive(Default, Serialize)]
    struct Sum {
        connections: usize,
        nodes: BTreeSet<String>,
        ready_count: i64,
        in_flight_count: i64,
        finish_count: u64,
        requeue_count: u64,
    }
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    for Row { node, client, .. } in rows {
        let key = match group {
            Group::Host => client.hostname.as_str(),
            Group::App => client.user_agent.as_str(),
        };
        let sum = sums.entry(key).or_default();
        sum.connections += 1;
        sum.nodes.insert((*node).to_owned());
        sum.ready_count += client.ready_count;
        sum.in_flight_count += client.in_flight_count;
        sum.finish_count += client.finish_count;
        sum.requeue_count += client.requeue_count;
    }
    let output = context.output;
    if output.is_json() {
        let rows = sums.iter().map(|(name, sum)| {
            let mut row = json!({"name": name});
            if let (Some(into), Ok(serde_json::Value::Object(fields))) =
                (row.as_object_mut(), serde_json::to_value(sum))
            {
                into.extend(fields);
            }
            row
        });
        output.json(&json!({"groups": rows.collect::<Vec<_>>(), "node_errors": errors}))?;
    } else {
        let mut table = match group {
            Group::Host => Table::new(&["HOST", "CONNECTIONS", "NODES", "RDY", "INFLT", "FIN", "REQ"]),
            Group::App => Table::new(&["APP", "CONNECTIONS", "NODES", "RDY", "INFLT", "FIN", "REQ"]),
        };
        for (name, sum) in &sums {
            table.row(vec![
                (*name).into(),
                sum.connections.into(),
                sum.nodes.len().into(),
                sum.ready_count.into(),
                sum.in_flight_count.into(),
                sum.finish_count.into(),
                sum.requeue_count.into(),
            ]);
        }
        output.table(&table)?;
    }
    output.node_errors(errors);
    Ok(verdict(stats.good.len(), errors))
}

/// How long the connection is open.
fn age(client: &ClientStats) -> Cell {
    let connected_at = u64::try_from(client.connect_ts).unwrap_or(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    match connected_at {
        0 => Cell::None,
        at => go_duration::format(Duration::from_secs(now.saturating_sub(at))).into(),
    }
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consumers_that_lack_a_node_are_found() {
        let client = |id: &str| ClientStats { client_id: id.to_owned(), ..ClientStats::default() };
        let (a, b) = (client("a"), client("b"));
        let row = |node, client| Row { node, topic_name: "t", channel_name: "c", client };
        let rows = [row("n1", &a), row("n2", &a), row("n1", &b)];
        let nodes_of = BTreeMap::from([("t", BTreeSet::from(["n1", "n2"]))]);
        let found = missing(&rows, &nodes_of);
        assert_eq!(found, [(("t", "c", "", "b", ""), vec!["n2"])]);
    }
}
