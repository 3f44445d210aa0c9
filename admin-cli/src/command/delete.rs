//! `nsq topic|channel delete`.

use super::Context;
use super::change::{DestroyFlags, Verb, agreed, conclude, holdings, stats_of, unknown};
use crate::cluster::{Cluster, Lookupd, Node};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;

const DELETE: Verb = Verb { name: "delete", done: "deleted" };

/// Deletes at the nsqlookupds first, so that no consumer finds the topic there and creates it again.
pub async fn run(context: &Context, object: Object, flags: &DestroyFlags) -> Result<ExitStatus, Failure> {
    let cluster = Cluster::find(&context.targets).await?;
    let stats = stats_of(&cluster, &object).await;
    let Object { topic, channel } = &object;
    // nsqlookupd also accepts the deletion of a topic that it does not know.
    let registered = cluster
        .on_lookupds("lookup", async |lookupd: &Lookupd| match channel {
            None => lookupd.client.topics().await.map(|topics| topics.contains(topic)),
            Some(channel) => lookupd.client.channels(topic).await.map(|channels| channels.contains(channel)),
        })
        .await;
    let holdings = holdings(&stats, &object);
    let is_registered = registered.good.iter().any(|(_, known)| *known);
    let failed = !stats.errors.is_empty() || !registered.errors.is_empty() || !cluster.errors.is_empty();
    if !is_registered && !failed && holdings.is_empty() {
        return Err(unknown(&cluster, &object).await);
    }
    if !agreed(context, flags, DELETE, &object, &holdings)? {
        return Ok(ExitStatus::Done);
    }
    let mut answers = cluster
        .on_lookupds(DELETE.name, async |lookupd: &Lookupd| match channel {
            None => lookupd.client.delete_topic(topic).await,
            Some(channel) => lookupd.client.delete_channel(topic, channel).await,
        })
        .await;
    let at_nodes = cluster
        .on_nodes(DELETE.name, async |node: &Node| match channel {
            None => node.client.delete_topic(topic).await,
            Some(channel) => node.client.delete_channel(topic, channel).await,
        })
        .await;
    answers.extend(at_nodes);
    conclude(context, &cluster, DELETE, &object, answers).await
}
