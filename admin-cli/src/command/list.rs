//! `nsq topic list` and `nsq channel list`.

use std::collections::BTreeMap;

use clap::Args;
use nsq::admin::StatsQuery;
use regex::bytes::Regex;
use serde::Serialize;
use serde_json::json;

use super::Context;
use super::change::unknown;
use super::stat::{flags_of_channel, flags_of_topic};
use crate::cluster::{Ask, Cluster, ClusterSamples, Lookupd, NodeError, verdict};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use crate::patterns::parse_pattern;
use crate::report::{ChannelReport, TopicReport, report};
use crate::table::Table;

pub const EXAMPLES: &str = "\
Examples:
  nsq topic ls                          # topics that a node has
  nsq topic ls '^orders' -o name        # names that begin with orders
  nsq topic ls --inactive               # also topics that are only registered with an nsqlookupd";

#[derive(Debug, Args)]
pub struct ListTopicsFlags {
    /// Only topics whose name matches this regular expression.
    #[arg(value_name = "PATTERN", value_parser = parse_pattern)]
    pattern: Option<Regex>,
    /// Also list topics that are registered with an nsqlookupd and that no node has.
    #[arg(long)]
    inactive: bool,
}

/// Lists topics. A topic that no node has is hidden only if all nodes answered.
pub async fn topics(context: &Context, flags: &ListTopicsFlags) -> Result<ExitStatus, Failure> {
    let cluster = Cluster::find(&context.targets).await?;
    let Found { mut topics, errors, answered } = find(&cluster, None).await;
    let output = context.output;
    if let Some(pattern) = &flags.pattern {
        topics.retain(|topic| pattern.is_match(topic.topic_name.as_bytes()));
    }
    if !flags.inactive && errors.is_empty() && cluster.errors.is_empty() {
        let all = topics.len();
        topics.retain(|topic| topic.node_count > 0);
        match all - topics.len() {
            0 => {}
            1 => output.note("1 inactive topic is hidden; --inactive lists it"),
            hidden => output.note(&format!("{hidden} inactive topics are hidden; --inactive lists them")),
        }
    }
    if output.is_json() {
        output.json(&json!({"topics": topics, "node_errors": errors}))?;
    } else {
        let mut table = Table::new(&["TOPIC", "CHANNELS", "NODES", "DEPTH", "DISK", "MESSAGES", "FLAGS"]);
        for topic in &topics {
            table.row(vec![
                topic.topic_name.as_str().into(),
                topic.channels.len().into(),
                topic.node_count.into(),
                topic.depth.into(),
                topic.backend_depth.into(),
                topic.message_count.into(),
                flags_of_topic(topic, !errors.is_empty()).into(),
            ]);
        }
        output.table(&table)?;
    }
    output.node_errors(&errors);
    Ok(verdict(answered, &errors))
}

/// Lists the channels of one topic, or of all topics.
pub async fn channels(context: &Context, topic: Option<&Object>) -> Result<ExitStatus, Failure> {
    let cluster = Cluster::find(&context.targets).await?;
    let Found { topics, errors, answered } = find(&cluster, topic).await;
    if let Some(topic) = topic
        && topics.is_empty()
        && errors.is_empty()
    {
        return Err(unknown(&cluster, topic).await);
    }
    let output = context.output;
    let channels = topics.iter().flat_map(|topic| topic.channels.iter().map(move |channel| (topic, channel)));
    if output.is_json() {
        #[derive(Serialize)]
        struct Channel<'a> {
            topic_name: &'a str,
            #[serde(flatten)]
            channel: &'a ChannelReport,
        }
        let channels = channels.map(|(topic, channel)| Channel { topic_name: &topic.topic_name, channel });
        output.json(&json!({"channels": channels.collect::<Vec<_>>(), "node_errors": errors}))?;
    } else {
        let mut table =
            Table::new(&["TOPIC", "CHANNEL", "NODES", "DEPTH", "DISK", "INFLT", "DEF", "CLIENTS", "FLAGS"]);
        for (topic, channel) in channels {
            table.row(vec![
                topic.topic_name.as_str().into(),
                channel.channel_name.as_str().into(),
                channel.node_count.into(),
                channel.depth.into(),
                channel.backend_depth.into(),
                channel.in_flight_count.into(),
                channel.deferred_count.into(),
                channel.client_count.into(),
                flags_of_channel(channel, !errors.is_empty()).into(),
            ]);
        }
        output.table(&table)?;
    }
    output.node_errors(&errors);
    Ok(verdict(answered, &errors))
}

struct Found {
    topics: Vec<TopicReport>,
    errors: Vec<NodeError>,
    /// Number of daemons that answered.
    answered: usize,
}

/// The topics that nodes have, and those that are only registered.
async fn find(cluster: &Cluster, only: Option<&Object>) -> Found {
    let query = StatsQuery { topic: only.map(|object| object.topic.clone()), ..StatsQuery::default() };
    let ClusterSamples { samples, mut errors, .. } = cluster.sample(&query, Ask::LookupdsFirst).await;
    let wanted = |name: &str| only.is_none_or(|object| object.topic == name);
    let reports = report(None, &samples).into_iter().filter(|topic| wanted(&topic.topic_name));
    let mut topics: BTreeMap<String, TopicReport> =
        reports.map(|topic| (topic.topic_name.clone(), topic)).collect();

    let registered =
        cluster.on_lookupds("topics", async |lookupd: &Lookupd| lookupd.client.topics().await).await;
    errors.extend(registered.errors);
    let names = registered.good.iter().flat_map(|(_, names)| names).filter(|name| wanted(name));
    for name in names {
        topics
            .entry(name.clone())
            .or_insert_with(|| TopicReport { topic_name: name.clone(), ..TopicReport::default() });
    }
    // A node registers its channels. So registered channels are asked for only if no node has the topic, or for a
    // single topic.
    for topic in topics.values_mut().filter(|topic| topic.node_count == 0 || only.is_some()) {
        let name = &topic.topic_name;
        let known = cluster
            .on_lookupds("channels", async |lookupd: &Lookupd| lookupd.client.channels(name).await)
            .await;
        errors.extend(known.errors);
        for name in known.good.into_iter().flat_map(|(_, names)| names) {
            if topic.channels.iter().all(|channel| channel.channel_name != name) {
                topic.channels.push(ChannelReport { channel_name: name, ..ChannelReport::default() });
            }
        }
        topic.channels.sort_by(|a, b| a.channel_name.cmp(&b.channel_name));
    }
    Found { topics: topics.into_values().collect(), errors, answered: samples.len() + registered.good.len() }
}
