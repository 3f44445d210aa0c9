//! `nsq why`.

use clap::Args;
use nsq_protocol::{WhyResponse, printable};
use serde_json::json;

use super::offline::{Offline, OfflineFlags};
use super::{channel_missing, message_id};
use crate::cluster::{Cluster, Node, NodeError, verdict};
use crate::command::Context;
use crate::command::change::unknown;
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use crate::output::Output;

pub const EXAMPLES: &str = "\
Examples:
  nsq why orders/billing                       # why the channel does not move
  nsq why orders/billing 0a1b2c3d4e5f6071      # where this message is, and what it waits for
  nsq why orders/billing --data /var/lib/nsqd  # what would hold it up after a start";

#[derive(Debug, Args)]
pub struct WhyFlags {
    /// The channel.
    #[arg(value_name = "TOPIC/CHANNEL")]
    object: String,
    /// A message of it.
    #[arg(value_name = "ID", value_parser = message_id)]
    id: Option<String>,
    #[command(flatten)]
    offline: OfflineFlags,
}

pub async fn run(context: &Context, flags: &WhyFlags) -> Result<ExitStatus, Failure> {
    let object = Object::parse(&flags.object)?;
    let Some(channel) = &object.channel else { return Err(channel_missing(&object.topic)) };
    if let Some(path) = &flags.offline.data {
        let offline = Offline::open(path, context.output)?;
        let id =
            flags.id.as_ref().map(|id| u64::from_str_radix(id, 16)).transpose().map_err(Failure::usage)?;
        let answer = offline.why(&object, channel, id)?;
        return show(context.output, &object, flags, &[(offline.name(), answer)], &[]);
    }
    let cluster = Cluster::find(&context.targets).await?;
    let call = async |node: &Node| node.client.why(&object.topic, channel, flags.id.as_deref()).await;
    let mut answers = cluster.on_nodes("why", call).await;
    answers.errors.extend(cluster.errors.iter().cloned());
    if answers.good.is_empty() && answers.errors.is_empty() {
        let topic = Object { topic: object.topic.clone(), channel: None };
        return Err(unknown(&cluster, &topic).await);
    }
    let is_elsewhere =
        |answer: &WhyResponse| answer.causes.first().is_some_and(|cause| cause.code == "other_node");
    // A message is on one node: what the others say about it is in the way.
    if answers.good.iter().any(|(_, answer)| !is_elsewhere(answer)) {
        answers.good.retain(|(_, answer)| !is_elsewhere(answer));
    }
    show(context.output, &object, flags, &answers.good, &answers.errors)
}

/// Prints the causes of all nodes.
fn show(
    output: Output,
    object: &Object,
    flags: &WhyFlags,
    answers: &[(String, WhyResponse)],
    errors: &[NodeError],
) -> Result<ExitStatus, Failure> {
    if output.is_json() {
        let nodes: Vec<_> =
            answers.iter().map(|(node, answer)| json!({ "node": node, "causes": answer.causes })).collect();
        output.json(&json!({
            "topic_name": object.topic,
            "channel_name": object.channel,
            "id": flags.id,
            "nodes": nodes,
            "node_errors": errors,
        }))?;
    } else {
        output.text(answers.iter().map(|(node, answer)| shown(node, answer)).collect::<String>())?;
    }
    output.node_errors(errors);
    Ok(verdict(answers.len(), errors))
}

/// The causes that one node reports, worst first.
fn shown(node: &str, answer: &WhyResponse) -> String {
    let mut text = format!("{}\n", printable(node));
    for cause in &answer.causes {
        let mark = if cause.holds_up { "!" } else { "-" };
        text += &format!("  {mark} {}: {}\n", cause.code, printable(&cause.text));
        if let Some(command) = &cause.command {
            text += &format!("      {}\n", printable(command));
        }
    }
    text
}
