//! `nsq why`.

use clap::Args;
use nsq_protocol::{WhyResponse, printable};
use serde_json::json;

use super::{channel_missing, message_id};
use crate::cluster::{Cluster, Node, verdict};
use crate::command::Context;
use crate::command::change::unknown;
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;

pub const EXAMPLES: &str = "\
Examples:
  nsq why orders/billing                     why the channel does not move
  nsq why orders/billing 0a1b2c3d4e5f6071    where this message is, and what it waits for";

#[derive(Debug, Args)]
pub struct WhyFlags {
    /// The channel.
    #[arg(value_name = "TOPIC/CHANNEL")]
    object: String,
    /// A message of it.
    #[arg(value_name = "ID", value_parser = message_id)]
    id: Option<String>,
}

pub async fn run(context: &Context, flags: &WhyFlags) -> Result<ExitStatus, Failure> {
    let object = Object::parse(&flags.object)?;
    let Some(channel) = &object.channel else { return Err(channel_missing(&object.topic)) };
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
    let output = context.output;
    if output.is_json() {
        let nodes: Vec<_> = answers
            .good
            .iter()
            .map(|(node, answer)| json!({ "node": node, "causes": answer.causes }))
            .collect();
        output.json(&json!({
            "topic_name": object.topic,
            "channel_name": channel,
            "id": flags.id,
            "nodes": nodes,
            "node_errors": answers.errors,
        }))?;
    } else {
        output.text(answers.good.iter().map(|(node, answer)| shown(node, answer)).collect::<String>())?;
    }
    output.node_errors(&answers.errors);
    Ok(verdict(answers.good.len(), &answers.errors))
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
