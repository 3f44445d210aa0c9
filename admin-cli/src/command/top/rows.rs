//! Pure: the rows of the table: which channels or nodes, in which order.

use std::cmp::Ordering;
use std::sync::Arc;

use nsq_cluster::snapshot::{ChannelExtra, ChannelFigures};
use nsq_cluster::{Reach, SeriesKey, Snapshot};

/// What a row is about. Stays the same from sample to sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowKey {
    /// A topic without channels.
    Topic(Arc<str>),
    Channel(Arc<str>, Arc<str>),
    /// A node, by its HTTP address.
    Node(Arc<str>),
}

impl RowKey {
    pub fn series(&self) -> SeriesKey {
        match self {
            RowKey::Topic(topic) => SeriesKey::Topic(topic.clone()),
            RowKey::Channel(topic, channel) => SeriesKey::Channel(topic.clone(), channel.clone()),
            RowKey::Node(address) => SeriesKey::Node(address.clone()),
        }
    }

    pub fn topic(&self) -> Option<&Arc<str>> {
        match self {
            RowKey::Topic(topic) | RowKey::Channel(topic, _) => Some(topic),
            RowKey::Node(_) => None,
        }
    }
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub key: RowKey,
    pub name: String,
    pub depth: i64,
    /// `None` if unknown, like the other rates.
    pub ingress: Option<f32>,
    pub egress: Option<f32>,
    pub in_flight: i64,
    pub requeue: Option<f32>,
    pub consumers: i64,
    /// Letters, or the state of a node.
    pub flags: String,
    /// Whether it needs attention: depth without a consumer, or a node that is down.
    pub is_bad: bool,
}

/// By which column to sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Depth,
    Ingress,
    Egress,
    InFlight,
    Requeue,
    Consumers,
    Name,
}

impl Sort {
    /// The next column, in the order of the table.
    pub fn next(self) -> Self {
        match self {
            Sort::Depth => Sort::Ingress,
            Sort::Ingress => Sort::Egress,
            Sort::Egress => Sort::InFlight,
            Sort::InFlight => Sort::Requeue,
            Sort::Requeue => Sort::Consumers,
            Sort::Consumers => Sort::Name,
            Sort::Name => Sort::Depth,
        }
    }

    fn compare(self, a: &Row, b: &Row) -> Ordering {
        let rate = |a: Option<f32>, b: Option<f32>| b.unwrap_or(-1.0).total_cmp(&a.unwrap_or(-1.0));
        let order = match self {
            Sort::Depth => b.depth.cmp(&a.depth),
            Sort::Ingress => rate(a.ingress, b.ingress),
            Sort::Egress => rate(a.egress, b.egress),
            Sort::InFlight => b.in_flight.cmp(&a.in_flight),
            Sort::Requeue => rate(a.requeue, b.requeue),
            Sort::Consumers => b.consumers.cmp(&a.consumers),
            Sort::Name => Ordering::Equal,
        };
        order.then_with(|| a.name.cmp(&b.name))
    }
}

/// Which rows to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFilter {
    /// Only this topic.
    pub topic: Option<String>,
    /// Only this channel of it.
    pub channel: Option<String>,
    /// Only names that contain this.
    pub text: String,
    pub by_node: bool,
}

pub fn rows(snapshot: &Snapshot, filter: &RowFilter, sort: Sort) -> Vec<Row> {
    let mut rows = if filter.by_node { node_rows(snapshot) } else { channel_rows(snapshot, filter) };
    rows.retain(|row| row.name.contains(&filter.text));
    rows.sort_by(|a, b| sort.compare(a, b));
    rows
}

fn channel_rows(snapshot: &Snapshot, filter: &RowFilter) -> Vec<Row> {
    let mut rows = Vec::new();
    for topic in &snapshot.topics {
        if filter.topic.as_deref().is_some_and(|wanted| *wanted != *topic.name) {
            continue;
        }
        if topic.channels.is_empty() && filter.channel.is_none() {
            rows.push(Row {
                key: RowKey::Topic(topic.name.clone()),
                name: topic.name.to_string(),
                depth: topic.sum.depth,
                ingress: topic.sum.rates.map(|rates| rates.ingress),
                egress: None,
                in_flight: 0,
                requeue: None,
                consumers: 0,
                flags: if topic.sum.paused { "P".to_owned() } else { String::new() },
                is_bad: false,
            });
        }
        for channel in &topic.channels {
            if filter.channel.as_deref().is_some_and(|wanted| *wanted != *channel.name) {
                continue;
            }
            let sum = &channel.sum;
            rows.push(Row {
                key: RowKey::Channel(topic.name.clone(), channel.name.clone()),
                name: format!("{}/{}", topic.name, channel.name),
                depth: sum.depth,
                ingress: sum.rates.map(|rates| rates.ingress),
                egress: sum.rates.map(|rates| rates.egress),
                in_flight: sum.in_flight_count,
                requeue: sum.rates.map(|rates| rates.requeue),
                consumers: sum.client_count,
                flags: flags(sum, topic.sum.paused),
                is_bad: sum.depth > 0 && sum.client_count == 0 && !sum.paused,
            });
        }
    }
    rows
}

/// `P` paused, `F` full, `T` throttled, `B` blocked by its order, `!` no consumer, as in `nsq stat`.
fn flags(sum: &ChannelFigures, is_topic_paused: bool) -> String {
    let has = |test: fn(&ChannelExtra) -> bool| sum.extra.as_deref().is_some_and(test);
    let flags = [
        (sum.paused || is_topic_paused, 'P'),
        (has(|extra| extra.is_full), 'F'),
        (has(|extra| extra.throttled || extra.in_flight_limit_reached), 'T'),
        (has(|extra| extra.reading_stopped), 'B'),
        (sum.client_count == 0, '!'),
    ];
    flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, letter)| letter).collect()
}

fn node_rows(snapshot: &Snapshot) -> Vec<Row> {
    let row = |node: &nsq_cluster::snapshot::NodeView| {
        let totals = &node.totals;
        let age = node.age.map_or_else(String::new, |age| format!(" {}s", age.as_secs()));
        let state = match node.reach {
            Reach::Up if node.drain.is_some() => "draining".to_owned(),
            Reach::Up => "up".to_owned(),
            Reach::Late => format!("late{age}"),
            Reach::Down => format!("down{age}"),
            Reach::Unknown => "?".to_owned(),
        };
        Row {
            key: RowKey::Node(node.address.as_str().into()),
            name: node.address.clone(),
            depth: totals.depth,
            ingress: totals.rates.map(|rates| rates.ingress),
            egress: totals.rates.map(|rates| rates.egress),
            in_flight: totals.in_flight_count,
            requeue: totals.rates.map(|rates| rates.requeue),
            consumers: totals.client_count,
            flags: state,
            is_bad: node.reach == Reach::Down,
        }
    };
    snapshot.nodes.iter().map(row).collect()
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use nsq_cluster::snapshot::{ChannelView, Rates, TopicFigures, TopicView};

    use super::*;

    /// A cluster without nodes, with `(topic, channel, depth, ingress)`; an empty channel is none.
    pub fn snapshot(channels: &[(&str, &str, i64, f32)]) -> Snapshot {
        let mut snapshot = Snapshot::empty(Duration::from_secs(2));
        snapshot.number = 1;
        for (topic, channel, depth, ingress) in channels {
            let rates = Some(Rates { ingress: *ingress, ..Rates::default() });
            let sum = TopicFigures { rates, depth: *depth, ..TopicFigures::default() };
            if snapshot.topics.last().is_none_or(|last| &*last.name != *topic) {
                let (parts, channels) = (Vec::new(), Vec::new());
                snapshot.topics.push(TopicView { name: (*topic).into(), sum, parts, channels });
            }
            if !channel.is_empty() {
                let sum = ChannelFigures { depth: *depth, rates, ..ChannelFigures::default() };
                let view = ChannelView { name: (*channel).into(), sum, parts: Vec::new() };
                snapshot.topics.last_mut().unwrap().channels.push(view);
            }
        }
        snapshot
    }

    fn names(snapshot: &Snapshot, filter: &RowFilter, sort: Sort) -> Vec<String> {
        rows(snapshot, filter, sort).into_iter().map(|row| row.name).collect()
    }

    fn all() -> RowFilter {
        RowFilter { topic: None, channel: None, text: String::new(), by_node: false }
    }

    #[test]
    fn rows_are_sorted_and_filtered() {
        let snapshot = snapshot(&[("a", "c", 1, 9.0), ("a", "d", 5, 1.0), ("b", "", 3, 2.0)]);
        assert_eq!(names(&snapshot, &all(), Sort::Depth), ["a/d", "b", "a/c"]);
        assert_eq!(names(&snapshot, &all(), Sort::Ingress), ["a/c", "b", "a/d"]);
        assert_eq!(names(&snapshot, &all(), Sort::Name), ["a/c", "a/d", "b"]);
        let only = |topic: &str, channel: Option<&str>, text: &str| RowFilter {
            topic: Some(topic.to_owned()),
            channel: channel.map(str::to_owned),
            text: text.to_owned(),
            by_node: false,
        };
        assert_eq!(names(&snapshot, &only("a", None, ""), Sort::Name), ["a/c", "a/d"]);
        assert_eq!(names(&snapshot, &only("a", Some("d"), ""), Sort::Name), ["a/d"]);
        assert_eq!(names(&snapshot, &only("a", None, "/c"), Sort::Name), ["a/c"]);
        assert_eq!(names(&snapshot, &RowFilter { by_node: true, ..all() }, Sort::Name), [""; 0]);
    }

    #[test]
    fn sorting_goes_through_all_columns() {
        let mut sort = Sort::Depth;
        let mut seen = 0;
        loop {
            sort = sort.next();
            seen += 1;
            if sort == Sort::Depth {
                break;
            }
        }
        assert_eq!(seen, 7);
    }

    #[test]
    fn channel_without_consumers_is_marked() {
        let rows = rows(&snapshot(&[("a", "c", 1, 0.0), ("a", "d", 0, 0.0)]), &all(), Sort::Name);
        assert_eq!((rows[0].is_bad, &*rows[0].flags), (true, "!"));
        assert_eq!((rows[1].is_bad, &*rows[1].flags), (false, "!"));
    }
}
