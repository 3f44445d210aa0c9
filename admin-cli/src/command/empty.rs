//! `nsq topic|channel empty`.

use super::Context;
use super::change::{DestroyFlags, Verb, agreed, conclude, stats_of};
use crate::cluster::{Cluster, Node};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;

const EMPTY: Verb = Verb { name: "empty", done: "emptied" };

/// Drops messages on all nodes: of a channel; or of a topic, its channels' as well if `with_channels`.
pub async fn run(
    context: &Context,
    object: Object,
    with_channels: bool,
    flags: &DestroyFlags,
) -> Result<ExitStatus, Failure> {
    let cluster = Cluster::find(&context.targets).await?;
    let stats = stats_of(&cluster, &object).await;
    if !agreed(context, flags, EMPTY, &object, &stats)? {
        return Ok(ExitStatus::Done);
    }
    let topic = &object.topic;
    let channels_at = |node: &Node| -> Vec<&str> {
        let stats = stats.good.iter().filter(|(name, _)| *name == node.name);
        let topics = stats.flat_map(|(_, stats)| stats.topics.iter().flatten());
        let channels = topics.filter(|known| known.topic_name == *topic).flat_map(|known| &known.channels);
        channels.map(|channel| channel.channel_name.as_str()).collect()
    };
    let call = async |node: &Node| match &object.channel {
        Some(channel) => node.client.empty_channel(topic, channel).await,
        None => {
            node.client.empty_topic(topic).await?;
            for channel in channels_at(node).into_iter().filter(|_| with_channels) {
                node.client.empty_channel(topic, channel).await?;
            }
            Ok(())
        }
    };
    let answers = cluster.on_nodes(EMPTY.name, call).await;
    let has_channels = cluster.nodes.iter().any(|node| !channels_at(node).is_empty());
    let status = conclude(context, &cluster, EMPTY, &object, answers).await?;
    if object.channel.is_none() && has_channels && !with_channels {
        context.output.note("its channels keep their messages; --channels empties them, too");
    }
    Ok(status)
}
