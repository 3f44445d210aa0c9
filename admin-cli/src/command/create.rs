//! `nsq topic|channel create`.

use clap::Args;
use nsq_protocol::{ChannelName, StartAt};

use super::Context;
use super::change::{Verb, conclude};
use super::retention::{PLACES, parse_place};
use crate::cluster::{Answers, Cluster, Lookupd, Node, NodeError};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::{ChannelArgument, TopicArgument};

const CREATE: Verb = Verb { name: "create", done: "created" };

#[derive(Debug, Args)]
pub struct CreateTopicFlags {
    #[command(flatten)]
    topic: TopicArgument,
    /// Channel to create with the topic; may be repeated.
    #[arg(long, value_name = "CHANNEL")]
    channel: Vec<String>,
    /// Also create the topic at this nsqd (its HTTP address as in `nsq node list`), or at `all`. By default, the
    /// topic is only registered at nsqlookupd, and the first publish creates it at an nsqd.
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    on: Vec<String>,
}

/// Registers a topic with channels at all nsqlookupds. Creates it at the nsqds of `--on`, or at all nsqds if no
/// nsqlookupd is known.
pub async fn topic(context: &Context, flags: &CreateTopicFlags) -> Result<ExitStatus, Failure> {
    let object = flags.topic.object()?;
    if let Some(wrong) = flags.channel.iter().find(|channel| ChannelName::new(channel).is_err()) {
        return Err(Failure::usage(format_args!("invalid channel name {wrong:?}")));
    }
    let cluster = Cluster::find(&context.targets).await?;
    let everywhere = cluster.is_without_lookupd() || flags.on.iter().any(|node| node == "all");
    if !everywhere
        && let Some(unknown) = flags.on.iter().find(|name| cluster.nodes.iter().all(|n| n.name != **name))
    {
        let known: Vec<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
        return Err(Failure::new(ExitStatus::NotFound, format_args!("there is no node {unknown}"))
            .hint(format!("known nodes: {}", known.join(" "))));
    }
    let topic = &object.topic;
    let mut answers = cluster
        .on_lookupds(CREATE.name, async |lookupd: &Lookupd| {
            lookupd.client.create_topic(topic).await?;
            for channel in &flags.channel {
                lookupd.client.create_channel(topic, channel).await?;
            }
            Ok(())
        })
        .await;
    let chosen = cluster.nodes.iter().filter(|node| everywhere || flags.on.contains(&node.name));
    for node in chosen {
        let done = async {
            node.client.create_topic(topic).await?;
            for channel in &flags.channel {
                node.client.create_channel(topic, channel).await?;
            }
            Ok(())
        };
        answers.extend(Answers::collect(CREATE.name, [(node.name.clone(), done.await)]));
    }
    let status = conclude(context, &cluster, CREATE, &object, answers).await?;
    if !everywhere && flags.on.is_empty() {
        context.output.note("the first publish creates it at an nsqd; --on all creates it now");
    }
    Ok(status)
}

#[derive(Debug, Args)]
pub struct CreateChannelFlags {
    #[command(flatten)]
    channel: ChannelArgument,
    /// Place in the topic's retained messages where the channel starts.
    #[arg(long, value_name = "PLACE", value_parser = parse_place,
          long_help = format!("Place in the topic's retained messages where the channel starts.\n\n{PLACES}"))]
    start: Option<StartAt>,
}

/// Registers a channel at all nsqlookupds, and creates it at all nsqds that have the topic.
pub async fn channel(context: &Context, flags: &CreateChannelFlags) -> Result<ExitStatus, Failure> {
    let object = flags.channel.object()?;
    let cluster = Cluster::find(&context.targets).await?;
    let topic = &object.topic;
    let channel = object.channel.as_deref().unwrap_or_default();
    let mut answers = cluster
        .on_lookupds(CREATE.name, async |lookupd: &Lookupd| {
            lookupd.client.create_channel(topic, channel).await
        })
        .await;
    let on_nodes = cluster
        .on_nodes(CREATE.name, async |node: &Node| match flags.start {
            Some(start) => node.client.create_channel_at(topic, channel, start).await,
            None => node.client.create_channel(topic, channel).await,
        })
        .await;
    let is_on_no_node = on_nodes.good.is_empty() && on_nodes.errors.is_empty();
    answers.extend(on_nodes);
    if answers.good.is_empty() && answers.errors.iter().chain(&cluster.errors).all(is_absence) {
        let message = format!("cannot create channel {channel}: no node has topic {topic}");
        return Err(Failure::new(ExitStatus::NotFound, message)
            .hint(format!("create the topic first: nsq topic create {topic} --on all")));
    }
    let status = conclude(context, &cluster, CREATE, &object, answers).await?;
    if is_on_no_node {
        context.output.warning(&format!("no nsqd has topic {topic}; created at lookupd only"));
    }
    Ok(status)
}

/// Whether the daemon only lacks the topic.
fn is_absence(error: &NodeError) -> bool {
    error.code.ends_with("_NOT_FOUND")
}
