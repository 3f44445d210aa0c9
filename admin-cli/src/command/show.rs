//! `nsq topic show` and `nsq channel show`: figures of every node, settings with their origin, and consumers.

use nsq::admin::StatsQuery;
use nsq_cluster::{Sample, Samples};
use nsq_protocol::Stats;
use serde_json::{Value, json};

use super::Context;
use super::change::{holdings, unknown};
use super::client::{consumer_rows, consumer_table};
use super::policy::{ask_settings, settings_of_nodes, show_settings};
use super::stat::{flags_of_channel, flags_of_topic};
use crate::cluster::{Answers, Cluster, NodeError, verdict};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use crate::report::{ChannelReport, TopicReport, report};
use crate::table::{Cell, Table};

pub const TOPIC_EXAMPLES: &str = "\
Examples:
  nsq topic show orders
  nsq topic show orders --jq '.channels[].channel_name'
  nsq topic show orders --jq '.settings[0].settings[] | select(.origin != \"default\")'";

pub const CHANNEL_EXAMPLES: &str = "\
Examples:
  nsq channel show orders billing
  nsq channel show orders/billing --json
  nsq channel show orders/billing --jq '.clients | length'";

/// Shows a topic or a channel. Nodes that do not answer are named, and the others are shown.
pub async fn run(context: &Context, object: Object) -> Result<ExitStatus, Failure> {
    let cluster = Cluster::find(&context.targets).await?;
    let query = StatsQuery {
        topic: Some(object.topic.clone()),
        channel: object.channel.clone(),
        clients: true,
        ..StatsQuery::default()
    };
    let stats = cluster.stats(&query).await;
    let mut errors: Vec<NodeError> = cluster.errors.iter().chain(&stats.errors).cloned().collect();
    if holdings(&stats, &object).is_empty() {
        return match errors.is_empty() {
            true => Err(unknown(&cluster, &object).await),
            false => {
                context.output.node_errors(&errors);
                let message = format!("no node that answered has {} {object}", object.kind());
                Err(Failure::new(verdict(0, &errors), message).target(object.to_string()))
            }
        };
    }
    let settings = ask_settings(&cluster, &object).await;
    // NSQ's own nsqd has no settings.
    let failed =
        |error: &&NodeError| error.code != "NOT_FOUND" && errors.iter().all(|known| known.node != error.node);
    let of_settings: Vec<NodeError> = settings.errors.iter().filter(failed).cloned().collect();
    errors.extend(of_settings);

    let output = context.output;
    let topic = sum(&stats, &object);
    if output.is_json() {
        let mut document = document(&stats, &object, &topic);
        document["settings"] = settings_of_nodes(&settings.good);
        document["node_errors"] = json!(errors);
        output.json(&document)?;
    } else {
        let is_partial = !errors.is_empty();
        match &object.channel {
            None => {
                output.table(&nodes_of_topic(&stats, &object, &topic, is_partial))?;
                if !topic.channels.is_empty() {
                    output.text("\n")?;
                    output.table(&channels_of_topic(&topic, is_partial))?;
                }
            }
            Some(_) => output.table(&nodes_of_channel(&stats, &object, &topic, is_partial))?,
        }
        if !settings.good.is_empty() {
            output.text("\n")?;
            show_settings(output, &settings.good)?;
        }
        let consumers = consumer_rows(&stats.good, Some(&object));
        if !consumers.is_empty() {
            output.text("\n")?;
            output.table(&consumer_table(&consumers))?;
        }
    }
    output.node_errors(&errors);
    Ok(verdict(stats.good.len(), &errors))
}

/// The topic on all nodes, with only the meant channel if the object is one.
fn sum(stats: &Answers<Stats>, object: &Object) -> TopicReport {
    on(stats.good.iter(), object)
}

/// The topic on some nodes.
fn on<'a>(nodes: impl Iterator<Item = &'a (String, Stats)>, object: &Object) -> TopicReport {
    let taken_at = std::time::Instant::now();
    let samples: Samples =
        nodes.map(|(node, stats)| (node.clone(), Sample { taken_at, stats: stats.clone() })).collect();
    let mut topic =
        report(None, &samples).into_iter().find(|topic| topic.topic_name == object.topic).unwrap_or_default();
    if let Some(channel) = &object.channel {
        topic.channels.retain(|known| known.channel_name == *channel);
    }
    topic
}

/// The figures of all nodes and of each, with the field names of the HTTP API.
fn document(stats: &Answers<Stats>, object: &Object, topic: &TopicReport) -> Value {
    let holdings = holdings(stats, object);
    match &object.channel {
        None => {
            let nodes = holdings.iter().map(|holding| merged(json!({"node": holding.node}), holding.topic));
            let nodes: Vec<Value> = nodes.collect();
            merged(json!({"nodes": nodes}), topic)
        }
        Some(_) => {
            let nodes = holdings.iter().flat_map(|holding| {
                holding.channels.iter().map(|channel| merged(json!({"node": holding.node}), channel))
            });
            let nodes: Vec<Value> = nodes.collect();
            let clients = consumer_rows(&stats.good, Some(object));
            let head = json!({"topic_name": object.topic, "nodes": nodes, "clients": clients});
            merged(head, &topic.channels.first())
        }
    }
}

/// Adds the fields of a value to a document.
fn merged(mut document: Value, value: &impl serde::Serialize) -> Value {
    if let (Some(fields), Ok(Value::Object(others))) = (document.as_object_mut(), serde_json::to_value(value))
    {
        fields.extend(others);
    }
    document
}

fn nodes_of_topic(stats: &Answers<Stats>, object: &Object, sum: &TopicReport, is_partial: bool) -> Table {
    let mut table = Table::new(&["NODE", "DEPTH", "DISK", "MESSAGES", "BYTES", "KEPT", "FLAGS"]);
    let mut row = |node: &str, topic: &TopicReport, is_partial| {
        let kept = topic.retained.map_or(Cell::None, |retained| retained.retained_count.into());
        table.row(vec![
            node.into(),
            topic.depth.into(),
            topic.backend_depth.into(),
            topic.message_count.into(),
            topic.message_bytes.into(),
            kept,
            flags_of_topic(topic, is_partial).into(),
        ]);
    };
    for holding in stats.good.iter() {
        let topic = on(std::iter::once(holding), object);
        if topic.node_count > 0 {
            row(&holding.0, &topic, false);
        }
    }
    row("all", sum, is_partial);
    table
}

fn channels_of_topic(topic: &TopicReport, is_partial: bool) -> Table {
    let mut table = Table::new(&[
        "CHANNEL", "NODES", "DEPTH", "DISK", "INFLT", "DEF", "MESSAGES", "REQ", "TMO", "CLIENTS", "FLAGS",
    ]);
    for channel in &topic.channels {
        let mut cells = vec![channel.channel_name.as_str().into(), channel.node_count.into()];
        cells.extend(figures(channel, is_partial));
        table.row(cells);
    }
    table
}

fn nodes_of_channel(stats: &Answers<Stats>, object: &Object, sum: &TopicReport, is_partial: bool) -> Table {
    let mut table =
        Table::new(&["NODE", "DEPTH", "DISK", "INFLT", "DEF", "MESSAGES", "REQ", "TMO", "CLIENTS", "FLAGS"]);
    let mut row = |node: &str, topic: &TopicReport, is_partial| {
        for channel in &topic.channels {
            let mut cells = vec![node.into()];
            cells.extend(figures(channel, is_partial));
            table.row(cells);
        }
    };
    for holding in &stats.good {
        row(&holding.0, &on(std::iter::once(holding), object), false);
    }
    row("all", sum, is_partial);
    table
}

fn figures(channel: &ChannelReport, is_partial: bool) -> [Cell; 9] {
    [
        channel.depth.into(),
        channel.backend_depth.into(),
        channel.in_flight_count.into(),
        channel.deferred_count.into(),
        channel.message_count.into(),
        channel.requeue_count.into(),
        channel.timeout_count.into(),
        channel.client_count.into(),
        flags_of_channel(channel, is_partial).into(),
    ]
}

#[cfg(test)]
mod tests {
    use nsq_protocol::{ChannelStats, TopicStats};

    use super::*;

    fn stats(depths: &[i64]) -> Answers<Stats> {
        let node = |(index, depth): (usize, &i64)| {
            let channel =
                ChannelStats { channel_name: "c".to_owned(), depth: *depth, ..ChannelStats::default() };
            let topic = TopicStats {
                topic_name: "t".to_owned(),
                depth: 10 * depth,
                channels: vec![channel],
                ..TopicStats::default()
            };
            (format!("n{index}"), Stats { topics: Some(vec![topic]), ..Stats::default() })
        };
        Answers {
            good: depths.iter().enumerate().map(node).collect(),
            missing: Vec::new(),
            errors: Vec::new(),
        }
    }

    #[test]
    fn every_node_and_the_sum_have_a_row() {
        let stats = stats(&[1, 2]);
        let object = Object::parse("t").unwrap();
        let text = nodes_of_topic(&stats, &object, &sum(&stats, &object), true).tab_separated();
        let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split('\t').collect()).collect();
        assert_eq!(
            rows.iter().map(|row| (row[0], row[1], row[6])).collect::<Vec<_>>(),
            [("n0", "10", "-"), ("n1", "20", "-"), ("all", "30", "*")]
        );
        let object = Object::parse("t/c").unwrap();
        let text = nodes_of_channel(&stats, &object, &sum(&stats, &object), false).tab_separated();
        let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split('\t').collect()).collect();
        assert_eq!(
            rows.iter().map(|row| (row[0], row[1])).collect::<Vec<_>>(),
            [("n0", "1"), ("n1", "2"), ("all", "3")]
        );
    }

    #[test]
    fn document_has_the_sum_and_each_node() {
        let stats = stats(&[1, 2]);
        let object = Object::parse("t/c").unwrap();
        let document = document(&stats, &object, &sum(&stats, &object));
        assert_eq!((&document["channel_name"], &document["depth"]), (&json!("c"), &json!(3)));
        assert_eq!(
            (&document["nodes"][1]["node"], &document["nodes"][1]["depth"]),
            (&json!("n1"), &json!(2))
        );
    }
}
