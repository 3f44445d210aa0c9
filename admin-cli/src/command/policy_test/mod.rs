//! `nsq policy test`.

mod merged;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use nsq::admin::PolicyTestOptions;
use nsq_daemon::go_duration;
use nsq_protocol::{PolicyTestResponse, TestedChannel, TestedTopic, printable};
use serde_json::json;

use super::Context;
use super::policy::read;
use crate::body::rfc3339;
use crate::cluster::{Cluster, Node, NodeError, verdict};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use crate::output::Output;
use crate::table::{Cell, Table};

pub const EXAMPLES: &str = "\
Columns:
  MESSAGES      of a topic: those published since --since that it still has; of a channel: all that are not finished
  EXPIRED       messages of the channel that are older than ttl and neither in flight nor deferred
  DEAD LETTERS  messages of the channel whose failures reach max_attempts. If the channel does not count failures
                now, deliveries count; they are at least as many
  OVERFLOW      messages of the channel beyond max_depth, after the others have left
  DUPLICATES    messages since --since whose nsq-id repeats within dedupe
  DELETED       retained messages that retain_for and retain_bytes would delete at once

It is not known when finished messages were delivered, so they count neither as expired nor as dead letters.

Examples:
  nsq policy test policies.toml
  nsq policy test policies.toml orders --since 14d
  nsq policy test policies.toml --as-settings --json";

/// Of a node that is busy with another test.
const LEAST_TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct TestFlags {
    /// Policy file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Test only this topic. [default: all for which the file has a policy]
    #[arg(value_name = "TOPIC")]
    topic: Option<String>,
    /// Look for duplicates among the messages published during this time.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = go_duration::parse_with_days)]
    since: Duration,
    /// Maximum number of messages that each node reads.
    #[arg(long, value_name = "N", default_value_t = 1_000_000,
          value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    limit: u64,
    /// Test the file as `nsq policy apply` uses it. Without this flag, as nsqd uses it with --policy-file: settings that
    /// a topic or channel has of its own win.
    #[arg(long)]
    as_settings: bool,
}

/// Shows what a policy file would do with the messages of all nodes.
pub async fn run(context: &Context, flags: &TestFlags) -> Result<ExitStatus, Failure> {
    let (text, file) = read(&flags.file)?;
    let topic = flags.topic.as_deref().map(Object::parse).transpose()?;
    if let Some(object) = topic.as_ref().filter(|object| object.channel.is_some()) {
        return Err(Failure::usage(format_args!("{object} names a channel; this command takes a topic")));
    }
    for (line, warning) in file.warnings() {
        context.output.warning(&format!("{}, line {line}: {warning}", flags.file.display()));
    }
    let options = PolicyTestOptions {
        topic: topic.as_ref().map(|object| object.topic.clone()),
        since: Some(flags.since),
        limit: Some(flags.limit),
        as_settings: flags.as_settings,
    };
    let cluster = Cluster::find(&context.targets).await?;
    let timeout = context.targets.timeout.max(LEAST_TIMEOUT);
    let call = async |node: &Node| {
        let client = node.client.clone().timeouts(CONNECT_TIMEOUT.min(timeout), timeout);
        client.test_policy(text.clone(), &options).await
    };
    let answers = cluster.on_nodes("test", call).await;
    let errors: Vec<NodeError> = answers.errors.iter().chain(&cluster.errors).cloned().collect();
    if let Some(object) = &topic
        && answers.good.is_empty()
        && errors.is_empty()
    {
        return Err(super::change::unknown(&cluster, object).await);
    }
    let output = context.output;
    if output.is_json() {
        let nodes: Vec<_> =
            answers.good.iter().map(|(node, answer)| json!({ "node": node, "answer": answer })).collect();
        output.json(&json!({ "nodes": nodes, "node_errors": errors }))?;
    }
    let done = answers.good.len();
    let sum = answers.good.into_iter().map(|(_, answer)| answer).reduce(|mut sum, answer| {
        merged::add(&mut sum, answer);
        sum
    });
    if let Some(sum) = sum.filter(|_| !output.is_json()) {
        show(output, &sum)?;
    }
    output.node_errors(&errors);
    Ok(verdict(done, &errors))
}

fn show(output: Output, sum: &PolicyTestResponse) -> Result<(), Failure> {
    let headings = &[
        "TOPIC",
        "CHANNEL",
        "MESSAGES",
        "EXPIRED",
        "DEAD LETTERS",
        "OVERFLOW",
        "DUPLICATES",
        "DELETED",
        "NOTE",
    ];
    let mut table = Table::new(headings);
    let count = |count: Option<u64>| count.map_or(Cell::None, Cell::from);
    for topic in &sum.topics {
        let deleted = topic.retention.as_ref().map(|retention| retention.deleted_count);
        table.row(vec![
            topic.topic_name.as_str().into(),
            Cell::None,
            topic.message_count.into(),
            Cell::None,
            Cell::None,
            Cell::None,
            count(topic.duplicate_count),
            count(deleted),
            note(note_of_topic(topic)),
        ]);
        for channel in &topic.channels {
            table.row(vec![
                topic.topic_name.as_str().into(),
                channel.channel_name.as_str().into(),
                channel.unfinished_count.into(),
                count(channel.expired_count),
                count(channel.dead_letter_count),
                count(channel.overflow_count),
                Cell::None,
                Cell::None,
                note(note_of_channel(channel)),
            ]);
        }
    }
    output.table(&table)?;
    if sum.topics.is_empty() && sum.untested_topics == 0 {
        output.note("no topic or channel matches a policy of the file");
    }
    if let Some(stopped_by) = &sum.stopped_by {
        output.warning(&format!(
            "the test stopped at a limit ({}): {} messages read, {} topics not tested; name a topic, or change --since \
             or --limit",
            printable(stopped_by),
            sum.examined,
            sum.untested_topics
        ));
    }
    Ok(())
}

fn note(notes: Vec<String>) -> Cell {
    if notes.is_empty() { Cell::None } else { Cell::Text(notes.join("; ")) }
}

fn note_of_topic(topic: &TestedTopic) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(topic.problem.as_deref().map(|problem| printable(problem).into_owned()));
    if !topic.complete && topic.problem.is_none() {
        let until =
            topic.examined_until.map_or_else(String::new, |until| format!(", up to {}", rfc3339(until)));
        notes.push(format!("read {} messages{until}", topic.examined));
    }
    if !topic.retains {
        notes.push("finished messages are unknown: nothing is retained; set retain_for".to_owned());
    }
    notes
}

fn note_of_channel(channel: &TestedChannel) -> Vec<String> {
    let mut notes = Vec::new();
    if channel.expired_count > Some(0) && channel.expired_become_dead_letters {
        notes.push("expired messages become dead letters".to_owned());
    }
    if channel.dead_letter_count > Some(0) && channel.counted_by.as_deref() == Some(merged::DELIVERIES) {
        notes.push("at most that many dead letters, by deliveries".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_say_what_is_not_known() {
        let mut topic = TestedTopic { complete: true, retains: true, ..TestedTopic::default() };
        assert!(note_of_topic(&topic).is_empty());
        topic =
            TestedTopic { complete: false, examined: 5, examined_until: Some(0), retains: false, ..topic };
        let notes = note_of_topic(&topic);
        assert_eq!(notes[0], "read 5 messages, up to 1970-01-01T00:00:00Z");
        assert!(notes[1].contains("set retain_for"));
        let channel = TestedChannel {
            expired_count: Some(1),
            expired_become_dead_letters: true,
            dead_letter_count: Some(2),
            counted_by: Some(merged::DELIVERIES.to_owned()),
            ..TestedChannel::default()
        };
        assert_eq!(note_of_channel(&channel).len(), 2);
        assert!(note_of_channel(&TestedChannel::default()).is_empty());
    }
}
