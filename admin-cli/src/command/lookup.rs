//! `nsq lookup`: the nsqlookupds, how they differ, and names that no node has.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use clap::Subcommand;
use futures_util::future::join_all;
use nsq::admin::{AdminError, StatsQuery};
use serde::Serialize;
use serde_json::json;

use super::Context;
use super::change::DestroyFlags;
use crate::cluster::{Cluster, Lookupd, NodeError, verdict};
use crate::exit_status::{ExitStatus, Failure};
use crate::table::{Cell, Table};

/// `nsq lookup ...`
#[derive(Debug, Subcommand)]
pub enum LookupCommand {
    /// List the nsqlookupds.
    #[command(visible_alias = "ls")]
    List,
    /// Show which nodes, topics and channels some nsqlookupds lack; exit code 3 if there are any.
    Diff,
    /// Delete topics and channels that are registered and that no node has.
    Prune(DestroyFlags),
}

pub const EXAMPLES: &str = "\
Examples:
  nsq lookup ls
  nsq lookup diff               # exit code 3 if the nsqlookupds do not know the same
  nsq lookup prune --dry-run    # names that no node has";

/// Runs a command.
pub async fn run(context: &Context, command: LookupCommand) -> Result<ExitStatus, Failure> {
    let cluster = Cluster::find(&context.targets).await?;
    if cluster.is_without_lookupd() && cluster.errors.is_empty() {
        return Err(Failure::usage("no nsqlookupd is given").hint("use --lookupd HOST:4161"));
    }
    match command {
        LookupCommand::List => list(context, &cluster).await,
        LookupCommand::Diff => diff(context, &cluster).await,
        LookupCommand::Prune(flags) => prune(context, &cluster, &flags).await,
    }
}

#[derive(Serialize)]
struct Row {
    address: String,
    version: String,
    health: String,
    node_count: Option<usize>,
    topic_count: Option<usize>,
    elapsed_ms: u64,
}

async fn list(context: &Context, cluster: &Cluster) -> Result<ExitStatus, Failure> {
    let mut errors = cluster.errors.clone();
    let rows = join_all(cluster.lookupds.iter().map(async |lookupd| {
        let started_at = Instant::now();
        let ping = lookupd.client.ping().await;
        let elapsed_ms = u64::try_from(started_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let health = ping.as_ref().map_or_else(|error| error.kind.to_string(), |()| "OK".to_owned());
        let row = Row {
            address: lookupd.name.clone(),
            version: lookupd.client.info().await.map(|info| info.version).unwrap_or_default(),
            health,
            node_count: lookupd.client.nodes().await.ok().map(|nodes| nodes.producers.len()),
            topic_count: lookupd.client.topics().await.ok().map(|topics| topics.len()),
            elapsed_ms,
        };
        (row, ping.err().map(|error| NodeError::new(&lookupd.name, "ping", &error)))
    }))
    .await;
    let (rows, failed): (Vec<Row>, Vec<Option<NodeError>>) = rows.into_iter().unzip();
    errors.extend(failed.into_iter().flatten());
    let output = context.output;
    if output.is_json() {
        output.json(&json!({"lookupds": rows, "node_errors": errors}))?;
    } else {
        let mut table = Table::new(&["NSQLOOKUPD", "VERSION", "HEALTH", "NODES", "TOPICS", "TOOK MS"]);
        for row in &rows {
            let count = |count: Option<usize>| count.map_or(Cell::None, Cell::from);
            table.row(vec![
                row.address.as_str().into(),
                row.version.as_str().into(),
                row.health.as_str().into(),
                count(row.node_count),
                count(row.topic_count),
                row.elapsed_ms.into(),
            ]);
        }
        output.table(&table)?;
    }
    output.node_errors(&errors);
    Ok(verdict(rows.len().saturating_sub(errors.len() - cluster.errors.len()), &errors))
}

/// What an nsqlookupd knows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Known {
    nodes: BTreeSet<String>,
    topics: BTreeSet<String>,
    /// As `topic/channel`.
    channels: BTreeSet<String>,
}

impl Known {
    fn extend(&mut self, other: &Known) {
        self.nodes.extend(other.nodes.iter().cloned());
        self.topics.extend(other.topics.iter().cloned());
        self.channels.extend(other.channels.iter().cloned());
    }

    /// What `all` has and this lacks. A topic that is missing says enough: its channels are not named too.
    fn lacks(&self, all: &Known) -> Known {
        let topics: BTreeSet<String> = all.topics.difference(&self.topics).cloned().collect();
        let is_of_known =
            |name: &&String| name.split_once('/').is_none_or(|(topic, _)| !topics.contains(topic));
        Known {
            nodes: all.nodes.difference(&self.nodes).cloned().collect(),
            channels: all.channels.difference(&self.channels).filter(is_of_known).cloned().collect(),
            topics,
        }
    }
}

async fn known_to(lookupd: &Lookupd) -> Result<Known, AdminError> {
    let nodes = lookupd.client.nodes().await?.producers;
    let topics = lookupd.client.topics().await?;
    let mut known = Known {
        nodes: nodes
            .iter()
            .map(|node| crate::targets::host_port(&node.broadcast_address, node.http_port))
            .collect(),
        ..Known::default()
    };
    for topic in topics {
        match lookupd.client.channels(&topic).await {
            Ok(channels) => {
                known.channels.extend(channels.iter().map(|channel| format!("{topic}/{channel}")));
                known.topics.insert(topic);
            }
            // It was deleted meanwhile.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(known)
}

async fn diff(context: &Context, cluster: &Cluster) -> Result<ExitStatus, Failure> {
    let answers = cluster.on_lookupds("lookup", known_to).await;
    let errors: Vec<NodeError> = cluster.errors.iter().chain(&answers.errors).cloned().collect();
    let mut all = Known::default();
    for (_, known) in &answers.good {
        all.extend(known);
    }
    let differences: Vec<(&str, Known)> =
        answers.good.iter().map(|(name, known)| (name.as_str(), known.lacks(&all))).collect();
    let are_equal = differences.iter().all(|(_, lacks)| *lacks == Known::default());
    let output = context.output;
    if output.is_json() {
        let rows = differences.iter().map(|(address, lacks)| {
            json!({
                "address": address,
                "missing_nodes": lacks.nodes,
                "missing_topics": lacks.topics,
                "missing_channels": lacks.channels,
            })
        });
        output.json(&json!({"lookupds": rows.collect::<Vec<_>>(), "node_errors": errors}))?;
    } else if are_equal {
        let Known { nodes, topics, channels } = &all;
        output.text(format!(
            "{} nsqlookupds know the same: {} nodes, {} topics, {} channels\n",
            differences.len(),
            nodes.len(),
            topics.len(),
            channels.len()
        ))?;
    } else {
        let mut table = Table::new(&["NSQLOOKUPD", "LACKS", "NAME"]);
        for (address, lacks) in &differences {
            for (kind, names) in
                [("node", &lacks.nodes), ("topic", &lacks.topics), ("channel", &lacks.channels)]
            {
                for name in names {
                    table.row(vec![(*address).into(), kind.into(), name.as_str().into()]);
                }
            }
        }
        output.table(&table)?;
    }
    output.node_errors(&errors);
    match verdict(answers.good.len(), &errors) {
        ExitStatus::Done if !are_equal => Ok(ExitStatus::Partial),
        status => Ok(status),
    }
}

async fn prune(context: &Context, cluster: &Cluster, flags: &DestroyFlags) -> Result<ExitStatus, Failure> {
    let stats = cluster.stats(&StatsQuery::default()).await;
    let known = cluster.on_lookupds("lookup", known_to).await;
    let errors: Vec<NodeError> =
        (cluster.errors.iter()).chain(&stats.errors).chain(&known.errors).cloned().collect();
    if !errors.is_empty() {
        // What a silent node has would look unused.
        context.output.node_errors(&errors);
        let failure = Failure::new(
            verdict(1, &errors),
            "some daemons do not answer, so it is unknown what they have; nothing was deleted",
        );
        return Err(failure.hint("start them, or wait until nsqlookupd forgets them"));
    }
    let mut of_nodes = Known::default();
    for (_, stats) in &stats.good {
        for topic in stats.topics.iter().flatten() {
            of_nodes.topics.insert(topic.topic_name.clone());
            of_nodes
                .channels
                .extend(topic.channels.iter().map(|c| format!("{}/{}", topic.topic_name, c.channel_name)));
        }
    }
    let mut registered = Known::default();
    for (_, known) in &known.good {
        registered.extend(known);
    }
    let unused = of_nodes.lacks(&registered);
    let names: Vec<&String> = unused.topics.iter().chain(&unused.channels).collect();
    let output = context.output;
    let print = |deleted: &[&String], errors: &[NodeError]| {
        let rows: Vec<_> = deleted.iter().map(|name| json!({"name": name})).collect();
        match output.is_json() {
            true => output.json(&json!({"dry_run": flags.dry_run, "pruned": rows, "node_errors": errors})),
            false => {
                let verb = if flags.dry_run { "would be deleted" } else { "deleted" };
                output.text(deleted.iter().map(|name| format!("{name} {verb}\n")).collect::<String>())
            }
        }
    };
    if names.is_empty() {
        output.note("every registered topic and channel is at a node");
    }
    if flags.dry_run || names.is_empty() {
        return print(&names, &[]).map(|()| ExitStatus::Done);
    }
    let count = names.len();
    let question = format!("delete {count} unused registrations at {} nsqlookupds?", cluster.lookupds.len());
    if !flags.yes {
        output.note(&names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" "));
    }
    context.confirm(&question, flags.yes)?;
    let mut failed: BTreeMap<String, NodeError> = BTreeMap::new();
    for name in &names {
        let answers = cluster
            .on_lookupds("delete", async |lookupd: &Lookupd| match name.split_once('/') {
                Some((topic, channel)) => lookupd.client.delete_channel(topic, channel).await,
                None => lookupd.client.delete_topic(name).await,
            })
            .await;
        failed.extend(answers.errors.into_iter().map(|error| (error.node.clone(), error)));
    }
    let failed: Vec<NodeError> = failed.into_values().collect();
    print(&names, &failed)?;
    output.node_errors(&failed);
    Ok(verdict(cluster.lookupds.len() - failed.len(), &failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_of_missing_topics_are_not_named() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let all =
            Known { nodes: set(&["n"]), topics: set(&["t", "u"]), channels: set(&["t/a", "t/b", "u/a"]) };
        let one = Known { nodes: set(&["n"]), topics: set(&["t"]), channels: set(&["t/a"]) };
        let expected = Known { nodes: set(&[]), topics: set(&["u"]), channels: set(&["t/b"]) };
        assert_eq!(one.lacks(&all), expected);
        assert_eq!(all.lacks(&all), Known::default());
    }
}
