//! `nsq message cancel` and `nsq message requeue`.

use std::time::Duration;

use clap::{Args, Subcommand};
use nsq::admin::AdminError;
use nsq_daemon::go_duration;
use nsq_protocol::{MessageResponse, printable};
use serde_json::json;

use super::{channel_missing, message_id};
use crate::body::rfc3339;
use crate::cluster::{Answers, Cluster, Node, verdict};
use crate::command::Context;
use crate::command::change::{stats_of, unknown};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;

/// `nsq message ...`
#[derive(Debug, Subcommand)]
pub enum MessageCommand {
    /// Finish a message that is not in flight, so that it is never delivered.
    #[command(after_help = CANCEL_EXAMPLES)]
    Cancel(CancelFlags),
    /// Deliver a deferred message now, or defer a message that waits.
    #[command(after_help = REQUEUE_EXAMPLES)]
    Requeue(RequeueFlags),
}

const CANCEL_EXAMPLES: &str = "\
Examples:
  nsq message cancel orders 0a1b2c3d4e5f6071 --dry-run  # where it is, in all channels
  nsq message cancel orders/billing 0a1b2c3d4e5f6071    # only in this channel";

const REQUEUE_EXAMPLES: &str = "\
Examples:
  nsq message requeue orders/billing 0a1b2c3d4e5f6071  # now, behind all that wait
  nsq message requeue orders/billing 0a1b2c3d4e5f6071 --delay 10m";

#[derive(Debug, Args)]
pub struct CancelFlags {
    /// The topic, or one of its channels. [default: all channels of the topic]
    #[arg(value_name = "TOPIC[/CHANNEL]")]
    object: String,
    /// The message, as peek, a consumer or a producer reports it.
    #[arg(value_name = "ID", value_parser = message_id)]
    id: String,
    /// Only show where it is.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub struct RequeueFlags {
    /// The channel.
    #[arg(value_name = "TOPIC/CHANNEL")]
    object: String,
    /// The message, as peek, a consumer or a producer reports it.
    #[arg(value_name = "ID", value_parser = message_id)]
    id: String,
    /// How long to hold it back, such as 10m; 0s delivers it now.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = go_duration::parse_with_days)]
    delay: Duration,
    /// Only show where it is.
    #[arg(long)]
    dry_run: bool,
}

/// Runs a `nsq message` command.
pub async fn run(context: &Context, command: MessageCommand) -> Result<ExitStatus, Failure> {
    match command {
        MessageCommand::Cancel(CancelFlags { object, id, dry_run }) => {
            let object = Object::parse(&object)?;
            let call = async |node: &Node| {
                node.client.cancel_message(&object.topic, object.channel.as_deref(), &id, dry_run).await
            };
            change(context, &object, &id, call).await
        }
        MessageCommand::Requeue(RequeueFlags { object, id, delay, dry_run }) => {
            let object = Object::parse(&object)?;
            let Some(channel) = &object.channel else { return Err(channel_missing(&object.topic)) };
            let call = async |node: &Node| {
                node.client.requeue_message(&object.topic, channel, &id, delay, dry_run).await
            };
            change(context, &object, &id, call).await
        }
    }
}

/// Asks all nodes: one of them published the message.
async fn change(
    context: &Context,
    object: &Object,
    id: &str,
    call: impl AsyncFn(&Node) -> Result<MessageResponse, AdminError>,
) -> Result<ExitStatus, Failure> {
    let cluster = Cluster::find(&context.targets).await?;
    let mut answers = cluster.on_nodes("message", call).await;
    answers.errors.extend(cluster.errors.iter().cloned());
    if answers.good.is_empty() && answers.errors.is_empty() {
        return Err(not_found(&cluster, object, id).await);
    }
    let output = context.output;
    if output.is_json() {
        let nodes: Vec<_> =
            answers.good.iter().map(|(node, answer)| json!({ "node": node, "answer": answer })).collect();
        output.json(&json!({ "nodes": nodes, "node_errors": answers.errors }))?;
    } else {
        output.text(lines(&answers))?;
    }
    output.node_errors(&answers.errors);
    Ok(verdict(answers.good.len(), &answers.errors))
}

fn lines(answers: &Answers<MessageResponse>) -> String {
    let mut text = String::new();
    for (node, answer) in &answers.good {
        let would = if answer.dry_run { "would be " } else { "" };
        for channel in &answer.channels {
            let due = channel.due_at.map_or(String::new(), |at| format!(" until {}", rfc3339(at)));
            text += &format!(
                "{} in {}/{} at {}: was {}, {would}{}{due}\n",
                answer.id,
                printable(&answer.topic_name),
                printable(&channel.channel_name),
                printable(node),
                channel.was,
                if answer.dry_run || channel.state == "cancelled" {
                    channel.state.clone()
                } else {
                    format!("now {}", channel.state)
                },
            );
        }
    }
    text
}

/// The failure if no node has the message: the topic or channel is misspelled, or the message is finished.
async fn not_found(cluster: &Cluster, object: &Object, id: &str) -> Failure {
    let stats = stats_of(cluster, object).await;
    let is_there = stats.good.iter().flat_map(|(_, stats)| stats.topics.iter().flatten()).any(|topic| {
        object
            .channel
            .as_ref()
            .is_none_or(|name| topic.channels.iter().any(|channel| channel.channel_name == *name))
    });
    if !is_there {
        return unknown(cluster, object).await;
    }
    let failure = Failure::new(
        ExitStatus::NotFound,
        format_args!("no node has an unfinished message {id} in {object}"),
    );
    match &object.channel {
        Some(_) => failure.hint(format!("to find out what became of it: nsq why {object} {id}")),
        None => failure.hint(format!("to find out what became of it: nsq why {object}/CHANNEL {id}")),
    }
}
