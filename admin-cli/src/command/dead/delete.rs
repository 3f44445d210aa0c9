//! `nsq dead delete`.

use nsq::admin::AdminError;
use serde_json::json;

use super::{DeleteFlags, merged, no_dead_letters};
use crate::cluster::{Cluster, Node, NodeError, verdict};
use crate::command::Context;
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;

/// How many dead letters one request deletes, so that it ends before its timeout.
const AT_ONCE: u64 = 20_000;

pub async fn run(context: &Context, flags: &DeleteFlags) -> Result<ExitStatus, Failure> {
    let object = flags.topic.object()?;
    let cluster = Cluster::find(&context.targets).await?;
    let selection = flags.selection.selection(flags.max);
    let count = async |node: &Node| node.client.delete_dead_letters(&object.topic, &selection, true).await;
    let counted = cluster.on_nodes("delete", count).await;
    if counted.good.is_empty() && counted.errors.is_empty() && cluster.errors.is_empty() {
        return Err(no_dead_letters(&cluster, &object).await);
    }
    let held: Vec<u64> = counted.good.iter().map(|(_, answer)| answer.deleted).collect();
    let shares = merged::shares(flags.max.unwrap_or(u64::MAX), &held);
    let total: u64 = shares.iter().sum();
    if !agreed(context, flags, &object, total, counted.good.len())? {
        return Ok(verdict(counted.good.len(), &counted.errors));
    }
    let share_of = |node: &Node| {
        let index = counted.good.iter().position(|(name, _)| *name == node.name);
        index.map_or(0, |index| shares[index])
    };
    // Without --max, also what has died since it was counted.
    let call =
        async |node: &Node| delete(node, &object.topic, flags, flags.max.map(|_| share_of(node))).await;
    let answers = cluster.on_nodes("delete", call).await;
    let errors: Vec<NodeError> = answers.errors.iter().chain(&cluster.errors).cloned().collect();
    let output = context.output;
    if output.is_json() {
        let nodes: Vec<_> = (answers.good.iter())
            .map(|(node, deleted)| json!({ "node": node, "deleted": deleted }))
            .collect();
        output.json(&json!({ "topic_name": object.topic, "nodes": nodes, "node_errors": errors }))?;
    } else {
        let line = |(node, deleted): &(String, u64)| {
            format!("deleted {deleted} dead letters of {object} at {node}\n")
        };
        output.text(answers.good.iter().map(line).collect::<String>())?;
    }
    output.node_errors(&errors);
    Ok(verdict(answers.good.len(), &errors))
}

fn agreed(
    context: &Context,
    flags: &DeleteFlags,
    object: &Object,
    total: u64,
    nodes: usize,
) -> Result<bool, Failure> {
    let output = context.output;
    let letters = if total == 1 { "dead letter" } else { "dead letters" };
    let on = format!("{nodes} {}", if nodes == 1 { "node" } else { "nodes" });
    if flags.destroy.dry_run {
        if output.is_json() {
            let document = json!({ "topic_name": object.topic, "dry_run": true, "deleted": total });
            return output.json(&document).map(|()| false);
        }
        return output
            .text(format!("{total} {letters} of {object} would be deleted on {on}\n"))
            .map(|()| false);
    }
    context.confirm(&format!("delete {total} {letters} of {object} ({on}) for good?"), flags.destroy.yes)?;
    Ok(true)
}

/// Deletes on one node; returns how many.
async fn delete(
    node: &Node,
    topic: &str,
    flags: &DeleteFlags,
    share: Option<u64>,
) -> Result<u64, AdminError> {
    let mut deleted = 0;
    while share.is_none_or(|share| deleted < share) {
        let max = share.map_or(AT_ONCE, |share| AT_ONCE.min(share - deleted));
        let selection = flags.selection.selection(Some(max));
        let now = node.client.delete_dead_letters(topic, &selection, false).await?.deleted;
        deleted += now;
        if now < max {
            break;
        }
    }
    Ok(deleted)
}
