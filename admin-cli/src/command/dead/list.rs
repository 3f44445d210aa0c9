//! `nsq dead list`.

use std::collections::BTreeMap;

use nsq::admin::AdminError;
use nsq_protocol::{DeadLettersResponse, printable};
use serde_json::json;

use super::{ListFlags, dead_letter_topics, merged, no_dead_letters};
use crate::cluster::{Cluster, Node, NodeError, verdict};
use crate::command::Context;
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use crate::output::Output;
use crate::table::{Cell, Table};

pub async fn run(context: &Context, flags: &ListFlags) -> Result<ExitStatus, Failure> {
    let object = flags.topic.as_deref().map(Object::parse).transpose()?;
    if let Some(object) = object.as_ref().filter(|object| object.channel.is_some()) {
        return Err(Failure::usage(format_args!("{object} names a channel; this command takes a topic")));
    }
    let cluster = Cluster::find(&context.targets).await?;
    let call = async |node: &Node| match &object {
        Some(object) => Ok(vec![node.client.dead_letters(&object.topic, Some(flags.limit)).await?]),
        None => all(node, flags.limit).await,
    };
    let answers = cluster.on_nodes("dead", call).await;
    let errors: Vec<NodeError> = answers.errors.iter().chain(&cluster.errors).cloned().collect();
    if let Some(object) = &object
        && answers.good.is_empty()
        && errors.is_empty()
    {
        return Err(no_dead_letters(&cluster, object).await);
    }
    let done = answers.good.len();
    let mut topics: BTreeMap<String, DeadLettersResponse> = BTreeMap::new();
    for answer in answers.good.into_iter().flat_map(|(_, answers)| answers) {
        let named = DeadLettersResponse { topic_name: answer.topic_name.clone(), ..Default::default() };
        merged::add(topics.entry(answer.topic_name.clone()).or_insert(named), answer);
    }
    let topics: Vec<DeadLettersResponse> = topics.into_values().collect();
    if context.output.is_json() {
        context.output.json(&json!({ "topics": topics, "node_errors": errors }))?;
    } else {
        show(context.output, &topics)?;
    }
    context.output.node_errors(&errors);
    Ok(verdict(done, &errors))
}

async fn all(node: &Node, limit: u64) -> Result<Vec<DeadLettersResponse>, AdminError> {
    let mut answers = Vec::new();
    for topic in dead_letter_topics(node).await?.into_keys() {
        match node.client.dead_letters(&topic, Some(limit)).await {
            Ok(answer) => answers.push(answer),
            // It was deleted meanwhile.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answers)
}

fn show(output: Output, topics: &[DeadLettersResponse]) -> Result<(), Failure> {
    let mut table = Table::new(&["TOPIC", "MESSAGES", "REASON", "DIED IN", "FIRST", "LAST", "ERROR"]);
    let text = |text: &str| if text.is_empty() { Cell::None } else { Cell::Text(text.to_owned()) };
    let at = |at: &Option<String>| at.as_deref().map_or(Cell::None, text);
    for topic in topics {
        for group in &topic.groups {
            let origin = match group.topic_name.is_empty() {
                true => Cell::None,
                false => Cell::Text(format!("{}/{}", group.topic_name, group.channel_name)),
            };
            table.row(vec![
                topic.topic_name.as_str().into(),
                group.count.into(),
                text(&group.reason),
                origin,
                at(&group.oldest_at),
                at(&group.newest_at),
                at(&group.error),
            ]);
        }
        if topic.groups.is_empty() {
            let mut row: Vec<Cell> = vec![topic.topic_name.as_str().into(), 0u64.into()];
            row.resize(7, Cell::None);
            table.row(row);
        }
    }
    output.table(&table)?;
    if topics.is_empty() {
        output.note("there are no dead-letter topics; nsqd creates them when messages die");
    }
    for topic in topics.iter().filter(|topic| topic.more) {
        output.warning(&format!(
            "{}: counted {} of {} dead letters; --limit counts more",
            printable(&topic.topic_name),
            topic.examined,
            topic.total
        ));
    }
    Ok(())
}
