//! `nsq undo`.

use clap::Args;
use nsq::admin::UndoOptions;
use nsq_protocol::{UndoResponse, printable};
use serde::Serialize;
use serde_json::json;

use super::Context;
use super::change::unknown;
use crate::cluster::{Cluster, Node, NodeError, verdict};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use crate::table::Table;

#[derive(Debug, Args)]
pub struct UndoFlags {
    /// TOPIC/CHANNEL; or TOPIC, for all channels that have something to undo.
    #[arg(value_name = "TOPIC[/CHANNEL]")]
    object: String,
    /// Restore what is still retained, even if that is not everything.
    #[arg(long)]
    partial: bool,
    /// Only show what would happen.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct OnNode<'a> {
    node: &'a str,
    #[serde(flatten)]
    answer: &'a UndoResponse,
}

/// Undoes the last empty or seek forward on all nodes that remember one.
pub async fn run(context: &Context, flags: &UndoFlags) -> Result<ExitStatus, Failure> {
    let object = Object::parse(&flags.object)?;
    let cluster = Cluster::find(&context.targets).await?;
    let options = UndoOptions { partial: flags.partial, dry_run: flags.dry_run };
    let call = async |node: &Node| node.client.undo(&object.topic, object.channel.as_deref(), options).await;
    let answers = cluster.on_nodes("undo", call).await;
    let mut errors: Vec<NodeError> = answers.errors.iter().chain(&cluster.errors).cloned().collect();
    if answers.good.is_empty() && errors.is_empty() {
        return Err(unknown(&cluster, &object).await);
    }
    let has_nothing = |error: &NodeError| error.code.starts_with("NOTHING_TO_UNDO");
    if answers.good.is_empty() && errors.iter().all(has_nothing) {
        let text = format!("nothing to undo: no node remembers that {object} was emptied or moved forward");
        return Err(Failure::failed(text)
            .hint("nsqd remembers the last empty or seek of topics that retain messages"));
    }
    // A node without anything to undo is no failure if another one had something.
    errors.retain(|error| !has_nothing(error));
    let output = context.output;
    if output.is_json() {
        let nodes: Vec<_> = answers.good.iter().map(|(node, answer)| OnNode { node, answer }).collect();
        let document = json!({
            "topic_name": object.topic,
            "dry_run": flags.dry_run,
            "nodes": nodes,
            "node_errors": errors,
        });
        output.json(&document)?;
    } else {
        let mut table = match flags.dry_run {
            true => Table::new(&["NODE", "CHANNEL", "UNDONE", "WOULD COME BACK", "NOT RETAINED", "DEPTH"]),
            false => Table::new(&["NODE", "CHANNEL", "UNDONE", "CAME BACK", "NOT RETAINED", "DEPTH"]),
        };
        for (node, answer) in &answers.good {
            for channel in &answer.channels {
                table.row(vec![
                    printable(node).to_string().into(),
                    channel.channel_name.as_str().into(),
                    channel.undone.as_str().into(),
                    channel.message_count.into(),
                    channel.lost_count.into(),
                    channel.depth.into(),
                ]);
            }
        }
        output.table(&table)?;
    }
    output.node_errors(&errors);
    Ok(verdict(answers.good.len(), &errors))
}
