//! `nsq topic|channel pause|unpause`.

use super::Context;
use super::change::{Verb, conclude};
use crate::cluster::{Cluster, Node};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;

/// Pauses or unpauses a topic or channel on all nodes that have it.
pub async fn run(context: &Context, object: Object, pause: bool) -> Result<ExitStatus, Failure> {
    let verb = match pause {
        true => Verb { name: "pause", done: "paused" },
        false => Verb { name: "unpause", done: "unpaused" },
    };
    let cluster = Cluster::find(&context.targets).await?;
    let Object { topic, channel } = &object;
    let call = async |node: &Node| match (channel, pause) {
        (None, true) => node.client.pause_topic(topic).await,
        (None, false) => node.client.unpause_topic(topic).await,
        (Some(channel), true) => node.client.pause_channel(topic, channel).await,
        (Some(channel), false) => node.client.unpause_channel(topic, channel).await,
    };
    let answers = cluster.on_nodes(verb.name, call).await;
    conclude(context, &cluster, verb, &object, answers).await
}
