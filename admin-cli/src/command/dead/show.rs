//! `nsq dead show`.

use nsq::admin::{AdminError, DeadSelection};
use nsq_protocol::{DeadMessage, printable};
use serde::Serialize;
use serde_json::json;

use super::{ShowFlags, no_dead_letters};
use crate::body::rfc3339;
use crate::cluster::{Cluster, Node, NodeError, verdict};
use crate::command::Context;
use crate::exit_status::{ExitStatus, Failure};

/// Largest page that nsqd returns.
const MAX_PAGE: u64 = 1000;

#[derive(Serialize)]
struct OnNode<'a> {
    node: &'a str,
    #[serde(flatten)]
    message: &'a DeadMessage,
}

pub async fn run(context: &Context, flags: &ShowFlags) -> Result<ExitStatus, Failure> {
    let object = flags.topic.object()?;
    let cluster = Cluster::find(&context.targets).await?;
    let call = async |node: &Node| pages(node, &object.topic, flags).await;
    let answers = cluster.on_nodes("dead", call).await;
    let errors: Vec<NodeError> = answers.errors.iter().chain(&cluster.errors).cloned().collect();
    if answers.good.is_empty() && errors.is_empty() {
        return Err(no_dead_letters(&cluster, &object).await);
    }
    let mut messages: Vec<OnNode<'_>> = (answers.good.iter())
        .flat_map(|(node, messages)| messages.iter().map(move |message| OnNode { node, message }))
        .collect();
    messages.sort_by_key(|shown| shown.message.timestamp);
    messages.truncate(usize::try_from(flags.limit).unwrap_or(usize::MAX));
    let output = context.output;
    if output.is_json() {
        let document = json!({ "topic_name": object.topic, "messages": messages, "node_errors": errors });
        output.json(&document)?;
    } else {
        output.text(messages.iter().map(shown).collect::<String>())?;
        if messages.is_empty() {
            output.note("no dead letter matches");
        }
    }
    output.node_errors(&errors);
    Ok(verdict(answers.good.len(), &errors))
}

/// The dead letters of a node that match, up to the limit.
async fn pages(node: &Node, topic: &str, flags: &ShowFlags) -> Result<Vec<DeadMessage>, AdminError> {
    let mut messages: Vec<DeadMessage> = Vec::new();
    let mut next = Some(0);
    while let Some(from) = next
        && (messages.len() as u64) < flags.limit
    {
        let left = flags.limit - messages.len() as u64;
        let selection: DeadSelection = flags.selection.selection(Some(left.min(MAX_PAGE)));
        let page = node.client.dead_messages(topic, &selection, from).await?;
        messages.extend(page.messages);
        // Otherwise a faulty answer could repeat for ever.
        next = page.next.filter(|next| *next > from);
    }
    Ok(messages)
}

/// A message for people: where it died, its own headers, its body.
fn shown(shown: &OnNode<'_>) -> String {
    let DeadMessage { id, timestamp, headers, body, body_base64, .. } = shown.message;
    let header = |name: &str| headers.get(name).map_or("-", String::as_str);
    let mut text = format!(
        "{id}  died in {}/{} as {} after {} attempts ({})  at {}  on {}\n",
        header("nsq-dead-topic"),
        header("nsq-dead-channel"),
        header("nsq-dead-id"),
        header("nsq-dead-attempts"),
        header("nsq-dead-reason"),
        headers.get("nsq-dead-at").cloned().unwrap_or_else(|| rfc3339(*timestamp)),
        shown.node,
    );
    for (name, value) in headers {
        if !name.starts_with("nsq-dead-") || name == "nsq-dead-error" {
            text += &format!("  {}: {}\n", printable(name), printable(value));
        }
    }
    let body = match (body, body_base64) {
        (Some(body), _) => printable(body).into_owned(),
        (None, Some(base64)) => format!("base64 {base64}"),
        (None, None) => String::new(),
    };
    text + "  " + &body + "\n"
}
