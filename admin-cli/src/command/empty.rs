//! `nsq topic|channel empty`.

use super::Context;
use super::change::{DestroyFlags, Verb, agreed, conclude, holdings, stats_of, unknown};
use crate::cluster::{Cluster, Node};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;

const EMPTY: Verb = Verb { name: "empty", done: "emptied" };

/// Drops messages on all nodes: those of a channel; or those of a topic and, if `with_channels`, of its channels.
pub async fn run(
    context: &Context,
    object: Object,
    with_channels: bool,
    flags: &DestroyFlags,
) -> Result<ExitStatus, Failure> {
    let cluster = Cluster::find(&context.targets).await?;
    let stats = stats_of(&cluster, &object).await;
    let holdings = holdings(&stats, &object);
    if holdings.is_empty() && stats.errors.is_empty() && cluster.errors.is_empty() {
        return Err(unknown(&cluster, &object).await);
    }
    if !agreed(context, flags, EMPTY, &object, &holdings)? {
        return Ok(ExitStatus::Done);
    }
    let topic = &object.topic;
    let call = async |node: &Node| match &object.channel {
        Some(channel) => node.client.empty_channel(topic, channel).await,
        None => {
            node.client.empty_topic(topic).await?;
            let here = holdings.iter().filter(|holding| with_channels && holding.node == node.name);
            for channel in here.flat_map(|holding| &holding.channels) {
                node.client.empty_channel(topic, &channel.channel_name).await?;
            }
            Ok(())
        }
    };
    let answers = cluster.on_nodes(EMPTY.name, call).await;
    let status = conclude(context, &cluster, EMPTY, &object, answers).await?;
    let has_channels = holdings.iter().any(|holding| !holding.channels.is_empty());
    if object.channel.is_none() && has_channels && !with_channels {
        context.output.note("the topic's channels keep their messages; --channels empties them, too");
    }
    Ok(status)
}
