//! Rows of `nsq stat --by` and `--sort`: one per topic, channel or node, in any order. Pure.

use clap::ValueEnum;
use nsq_cluster::Samples;
use serde::Serialize;

use super::{flags_of_channel, flags_of_topic, select};
use crate::names::Object;
use crate::report::{Rate, TopicReport, report};
use crate::table::{Cell, Table};

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// One row per topic, with its channels added up.
    Topic,
    /// One row per channel.
    Channel,
    /// One row per node, with its topics and channels added up.
    Node,
}

/// A column to sort by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Column {
    /// By name, from a to z. All others begin with the largest figure.
    Name,
    /// Messages that can be delivered.
    Depth,
    /// The part of the depth that is only on disk.
    Disk,
    /// Messages that came in, per second.
    In,
    /// Messages that went out, per second.
    Out,
    /// Messages in flight.
    Inflt,
    /// Deferred messages.
    Def,
    /// Requeued messages.
    Req,
    /// Messages that timed out.
    Tmo,
    /// Consumers.
    Clients,
}

/// A row: the sums of a topic, a channel or a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Sum {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub topic_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub channel_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_rate: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_rate: Option<Rate>,
    pub depth: i64,
    pub backend_depth: i64,
    pub in_flight_count: i64,
    pub deferred_count: i64,
    pub requeue_count: u64,
    pub timeout_count: u64,
    pub client_count: i64,
    /// Letters for the column FLAGS.
    #[serde(skip)]
    pub flags: String,
}

impl Sum {
    /// Adds a topic, without its channels. Its rate is what was published to it.
    fn add_topic(&mut self, topic: &TopicReport) {
        add(&mut self.ingress_rate, topic.ingress_rate);
        self.depth += topic.depth;
        self.backend_depth += topic.backend_depth;
    }

    /// Adds the channels of a topic. What enters them was published once.
    fn add_channels(&mut self, topic: &TopicReport) {
        for channel in &topic.channels {
            add(&mut self.egress_rate, channel.egress_rate);
            self.depth += channel.depth;
            self.backend_depth += channel.backend_depth;
            self.in_flight_count += channel.in_flight_count;
            self.deferred_count += channel.deferred_count;
            self.requeue_count += channel.requeue_count;
            self.timeout_count += channel.timeout_count;
            self.client_count += channel.client_count;
        }
    }

    /// Everything in these topics.
    pub fn of(topics: &[TopicReport]) -> Self {
        let mut sum = Sum::default();
        for topic in topics {
            sum.add_topic(topic);
            sum.add_channels(topic);
        }
        sum
    }
}

fn add(sum: &mut Option<Rate>, rate: Option<Rate>) {
    if let Some(rate) = rate {
        sum.get_or_insert_default().0 += rate.0;
    }
}

/// The rows of topics.
pub fn of_topics(topics: &[TopicReport], is_partial: bool) -> Vec<Sum> {
    let row = |topic: &TopicReport| Sum {
        topic_name: topic.topic_name.clone(),
        flags: flags_of_topic(topic, is_partial),
        ..Sum::of(std::slice::from_ref(topic))
    };
    topics.iter().map(row).collect()
}

/// The rows of channels. A topic without channels has one, too.
pub fn of_channels(topics: &[TopicReport], is_partial: bool) -> Vec<Sum> {
    let mut rows = Vec::new();
    for topic in topics {
        if topic.channels.is_empty() {
            let mut row = Sum { topic_name: topic.topic_name.clone(), ..Sum::default() };
            row.add_topic(topic);
            row.flags = flags_of_topic(topic, is_partial);
            rows.push(row);
        }
        for channel in &topic.channels {
            rows.push(Sum {
                node: String::new(),
                topic_name: topic.topic_name.clone(),
                channel_name: channel.channel_name.clone(),
                ingress_rate: channel.ingress_rate,
                egress_rate: channel.egress_rate,
                depth: channel.depth,
                backend_depth: channel.backend_depth,
                in_flight_count: channel.in_flight_count,
                deferred_count: channel.deferred_count,
                requeue_count: channel.requeue_count,
                timeout_count: channel.timeout_count,
                client_count: channel.client_count,
                flags: flags_of_channel(channel, is_partial),
            });
        }
    }
    rows
}

/// The rows of nodes, with only the wanted topics and channels.
pub fn of_nodes(before: Option<&Samples>, now: &Samples, wanted: &[Object]) -> Vec<Sum> {
    let only = |samples: &Samples, node: &String| -> Samples {
        samples.get(node).map(|sample| (node.clone(), sample.clone())).into_iter().collect()
    };
    let row = |node: &String| {
        let earlier = before.map(|before| only(before, node));
        let mut topics = report(earlier.as_ref(), &only(now, node));
        select(&mut topics, wanted);
        Sum { node: node.clone(), ..Sum::of(&topics) }
    };
    now.keys().map(row).collect()
}

/// Sorts the rows, and keeps the first ones.
pub fn arrange(rows: &mut Vec<Sum>, column: Option<Column>, top: Option<usize>) {
    let rate = |rate: Option<Rate>| rate.unwrap_or_default().0;
    // Stable: rows with equal figures stay in the order of their names.
    match column {
        None | Some(Column::Name) => {}
        Some(Column::In) => rows.sort_by(|a, b| rate(b.ingress_rate).total_cmp(&rate(a.ingress_rate))),
        Some(Column::Out) => rows.sort_by(|a, b| rate(b.egress_rate).total_cmp(&rate(a.egress_rate))),
        Some(Column::Depth) => rows.sort_by_key(|row| std::cmp::Reverse(row.depth)),
        Some(Column::Disk) => rows.sort_by_key(|row| std::cmp::Reverse(row.backend_depth)),
        Some(Column::Inflt) => rows.sort_by_key(|row| std::cmp::Reverse(row.in_flight_count)),
        Some(Column::Def) => rows.sort_by_key(|row| std::cmp::Reverse(row.deferred_count)),
        Some(Column::Req) => rows.sort_by_key(|row| std::cmp::Reverse(row.requeue_count)),
        Some(Column::Tmo) => rows.sort_by_key(|row| std::cmp::Reverse(row.timeout_count)),
        Some(Column::Clients) => rows.sort_by_key(|row| std::cmp::Reverse(row.client_count)),
    }
    rows.truncate(top.unwrap_or(usize::MAX));
}

/// The rows as a table.
pub fn table(by: By, rows: &[Sum]) -> Table {
    let mut table = match by {
        By::Topic => Table::new(&["TOPIC"]),
        By::Channel => Table::new(&["TOPIC", "CHANNEL"]),
        By::Node => Table::new(&["NODE"]),
    };
    table.add_columns(&["IN/S", "OUT/S", "DEPTH", "DISK", "INFLT", "DEF", "REQ", "TMO", "CLIENTS", "FLAGS"]);
    for row in rows {
        let mut cells: Vec<Cell> = match by {
            By::Topic => vec![row.topic_name.as_str().into()],
            By::Channel => vec![row.topic_name.as_str().into(), row.channel_name.as_str().into()],
            By::Node => vec![row.node.as_str().into()],
        };
        cells.extend([
            row.ingress_rate.into(),
            row.egress_rate.into(),
            row.depth.into(),
            row.backend_depth.into(),
            row.in_flight_count.into(),
            row.deferred_count.into(),
            row.requeue_count.into(),
            row.timeout_count.into(),
            row.client_count.into(),
            row.flags.as_str().into(),
        ]);
        table.row(cells);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::ChannelReport;

    fn topic(name: &str, depth: i64, channels: &[(&str, i64)]) -> TopicReport {
        let channel = |(name, depth): &(&str, i64)| ChannelReport {
            channel_name: (*name).to_owned(),
            depth: *depth,
            client_count: 1,
            ingress_rate: Some(Rate(4.0)),
            egress_rate: Some(Rate(1.0)),
            ..ChannelReport::default()
        };
        TopicReport {
            topic_name: name.to_owned(),
            depth,
            ingress_rate: Some(Rate(4.0)),
            channels: channels.iter().map(channel).collect(),
            ..TopicReport::default()
        }
    }

    #[test]
    fn channels_are_added_up_and_publishes_count_once() {
        let topics = [topic("a", 1, &[("x", 2), ("y", 3)]), topic("b", 4, &[])];
        let rows = of_topics(&topics, false);
        assert_eq!(
            (rows[0].depth, rows[0].ingress_rate, rows[0].egress_rate),
            (6, Some(Rate(4.0)), Some(Rate(2.0)))
        );
        assert_eq!((rows[1].depth, rows[1].egress_rate), (4, None));
        let sum = Sum::of(&topics);
        assert_eq!((sum.depth, sum.client_count, sum.ingress_rate), (10, 2, Some(Rate(8.0))));
    }

    #[test]
    fn rows_are_sorted_and_cut() {
        let topics = [topic("a", 0, &[("x", 2), ("y", 3)]), topic("b", 3, &[])];
        let mut rows = of_channels(&topics, false);
        arrange(&mut rows, Some(Column::Depth), Some(2));
        let names: Vec<(&str, &str)> =
            rows.iter().map(|row| (row.topic_name.as_str(), row.channel_name.as_str())).collect();
        assert_eq!(names, [("a", "y"), ("b", "")]);
        let text = table(By::Channel, &rows).tab_separated();
        assert!(text.starts_with("TOPIC\tCHANNEL\tIN/S\t") && text.lines().count() == 3, "{text}");
        arrange(&mut rows, Some(Column::Clients), None);
        assert_eq!(rows[0].channel_name, "y");
    }
}
