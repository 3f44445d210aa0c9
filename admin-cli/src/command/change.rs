//! Common parts of the commands that change topics and channels: confirmation, a report of the changed nodes, and a
//! hint for the failed ones.

use std::collections::BTreeSet;

use clap::Args;
use nsq::admin::StatsQuery;
use nsq_protocol::{ChannelStats, Stats, TopicStats, printable};
use serde_json::json;

use super::Context;
use crate::cluster::{Answers, Cluster, NodeError, verdict};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::{Object, not_found};

/// Flags of commands that cannot be undone.
#[derive(Debug, Args)]
pub struct DestroyFlags {
    /// Do not ask for confirmation.
    #[arg(long, short)]
    pub(super) yes: bool,
    /// Only show what would happen.
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// A verb in the forms that messages need.
#[derive(Debug, Clone, Copy)]
pub struct Verb {
    /// The infinitive: `pause`.
    pub name: &'static str,
    /// The participle: `paused`.
    pub done: &'static str,
}

/// The statistics of one topic, or of one channel, on all nodes.
pub async fn stats_of(cluster: &Cluster, object: &Object) -> Answers<Stats> {
    let query = StatsQuery {
        topic: Some(object.topic.clone()),
        channel: object.channel.clone(),
        ..StatsQuery::default()
    };
    cluster.stats(&query).await
}

/// Shows what would be lost, and asks for confirmation unless `--yes` is given. Returns `Ok(false)` after a dry run.
pub fn agreed(
    context: &Context,
    flags: &DestroyFlags,
    verb: Verb,
    object: &Object,
    holdings: &[Holding<'_>],
) -> Result<bool, Failure> {
    let (kind, what) = (object.kind(), losses(object, holdings));
    if flags.dry_run {
        let text = format!("{kind} {object} would be {}: {what}\n", verb.done);
        return context.output.text(text).map(|()| false);
    }
    context.confirm(&format!("{} {kind} {object} ({what})?", verb.name), flags.yes)?;
    Ok(true)
}

/// Reports which nodes succeeded and which failed. Fails with `NotFound` if no node knows the topic or channel.
pub async fn conclude(
    context: &Context,
    cluster: &Cluster,
    verb: Verb,
    object: &Object,
    mut answers: Answers<()>,
) -> Result<ExitStatus, Failure> {
    answers.errors.extend(cluster.errors.iter().cloned());
    if answers.good.is_empty() && answers.errors.is_empty() {
        return Err(unknown(cluster, object).await);
    }
    let output = context.output;
    let done: Vec<&str> = answers.good.iter().map(|(node, ())| node.as_str()).collect();
    if output.is_json() {
        let mut document = json!({
            "topic_name": object.topic,
            "done": verb.done,
            "nodes": done,
            "node_errors": answers.errors,
        });
        if let Some(channel) = &object.channel {
            document["channel_name"] = channel.as_str().into();
        }
        output.json(&document)?;
    } else {
        let lines: String =
            done.iter().map(|node| format!("{} {object} at {}\n", verb.done, printable(node))).collect();
        output.text(lines)?;
    }
    output.node_errors(&answers.errors);
    let status = verdict(answers.good.len(), &answers.errors);
    if status == ExitStatus::Partial
        && let Some(command) = retry_command(cluster, verb, object, &answers.errors)
    {
        output.note(&format!("to retry on the failed nodes: {command}"));
    }
    Ok(status)
}

/// The failure for an unknown topic or channel: its name is misspelled, or no node has it yet.
pub async fn unknown(cluster: &Cluster, object: &Object) -> Failure {
    let registered: BTreeSet<String> = match &object.channel {
        None => names(cluster.on_lookupds("topics", async |lookupd| lookupd.client.topics().await).await),
        Some(_) => {
            let topic = &object.topic;
            names(cluster.on_lookupds("channels", async |lookupd| lookupd.client.channels(topic).await).await)
        }
    };
    let wanted = object.channel.as_ref().unwrap_or(&object.topic);
    if registered.contains(wanted) {
        let message =
            format!("no nsqd has {} {object} yet; it is only registered at nsqlookupd", object.kind());
        return Failure::new(ExitStatus::NotFound, message).hint(format!(
            "the first publish creates it; to create it now: nsq topic create {} --on all",
            object.topic
        ));
    }
    let of_topic =
        StatsQuery { topic: object.channel.as_ref().map(|_| object.topic.clone()), ..StatsQuery::default() };
    let stats = cluster.stats(&of_topic).await;
    let topics = stats.good.iter().flat_map(|(_, stats)| stats.topics.iter().flatten());
    let mut known = registered;
    match &object.channel {
        None => known.extend(topics.map(|topic| topic.topic_name.clone())),
        Some(_) => known.extend(
            topics
                .filter(|topic| topic.topic_name == object.topic)
                .flat_map(|topic| &topic.channels)
                .map(|channel| channel.channel_name.clone()),
        ),
    }
    not_found(object, known.iter().map(String::as_str))
}

fn names(answers: Answers<Vec<String>>) -> BTreeSet<String> {
    answers.good.into_iter().flat_map(|(_, names)| names).collect()
}

/// The command that repeats the change on the failed nodes.
fn retry_command(cluster: &Cluster, verb: Verb, object: &Object, errors: &[NodeError]) -> Option<String> {
    // nsqlookupds are not nodes. A given node that did not answer has failed at "info".
    let is_node =
        |error: &&NodeError| error.op == "info" || cluster.nodes.iter().any(|node| node.name == error.node);
    let failed: BTreeSet<&str> = errors.iter().filter(is_node).map(|error| error.node.as_str()).collect();
    let list: Vec<&str> = failed.into_iter().collect();
    (!list.is_empty())
        .then(|| format!("nsq {} {} {object} --nsqd {}", object.kind(), verb.name, list.join(",")))
}

/// A topic on one node, with its channels.
pub struct Holding<'a> {
    pub node: &'a str,
    pub topic: &'a TopicStats,
    /// All channels, or only the one that the command is about.
    pub channels: Vec<&'a ChannelStats>,
}

/// The nodes that have the topic or channel, with what they hold.
pub fn holdings<'a>(stats: &'a Answers<Stats>, object: &Object) -> Vec<Holding<'a>> {
    let on_node = |(node, stats): &'a (String, Stats)| {
        let mut topics = stats.topics.iter().flatten();
        let topic = topics.find(|topic| topic.topic_name == object.topic)?;
        let is_meant =
            |known: &&ChannelStats| object.channel.as_ref().is_none_or(|name| known.channel_name == *name);
        let channels: Vec<&ChannelStats> = topic.channels.iter().filter(is_meant).collect();
        (object.channel.is_none() || !channels.is_empty()).then_some(Holding { node, topic, channels })
    };
    stats.good.iter().filter_map(on_node).collect()
}

/// What would be lost, as text.
fn losses(object: &Object, holdings: &[Holding<'_>]) -> String {
    let channels = || holdings.iter().flat_map(|holding| &holding.channels);
    let mut messages: i64 =
        channels().map(|channel| channel.depth + channel.in_flight_count + channel.deferred_count).sum();
    if object.channel.is_none() {
        messages += holdings.iter().map(|holding| holding.topic.depth).sum::<i64>();
    }
    let consumers: i64 = channels().map(|channel| channel.client_count).sum();
    let plural = |count: i64, thing: &str| format!("{count} {thing}{}", if count == 1 { "" } else { "s" });
    let nodes = i64::try_from(holdings.len()).unwrap_or(i64::MAX);
    let (messages, consumers) = (plural(messages, "unfinished message"), plural(consumers, "consumer"));
    format!("{}, {messages}, {consumers}", plural(nodes, "node"))
}
