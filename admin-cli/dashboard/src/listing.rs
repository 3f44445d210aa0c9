//! The table of topics: filter, order, and one page of it. Pure.

use nsq_cluster::Snapshot;
use nsq_cluster::snapshot::{ChannelView, Rates, TopicView};
use serde::Deserialize;
use serde_json::{Value, json};

/// Rows of a page if the request does not say.
pub const DEFAULT_LIMIT: usize = 100;
/// Largest page.
pub const MAX_LIMIT: usize = 1000;

/// What to list, and in which order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TopicQuery {
    /// `name`, `in`, `out`, `depth`, `inflight`, `consumers` or `channels`; `-` in front turns the order.
    pub sort: String,
    /// Part of a topic's or channel's name.
    pub filter: String,
    /// `depth`: only with depth; `idle`: only without consumers; `paused`.
    pub only: String,
    /// `1` shows ephemeral topics too. They are hidden only if `0`.
    pub ephemeral: String,
    pub limit: Option<usize>,
    /// Number of rows to skip.
    pub cursor: Option<usize>,
}

/// One page.
pub struct Page<'a> {
    pub rows: Vec<Row<'a>>,
    /// All topics.
    pub total: usize,
    /// Those that match.
    pub matching: usize,
    /// The cursor of the next page.
    pub next: Option<usize>,
}

/// A topic with its sums over channels.
#[derive(Clone)]
pub struct Row<'a> {
    pub topic: &'a TopicView,
    /// Its own depth and that of its channels.
    pub depth: i64,
    pub in_flight_count: i64,
    pub client_count: i64,
    pub rates: Option<Rates>,
    /// The channel with the largest depth, if it has any.
    pub worst: Option<&'a ChannelView>,
    pub is_paused: bool,
}

impl<'a> Row<'a> {
    pub fn of(topic: &'a TopicView) -> Self {
        let sum = |count: fn(&ChannelView) -> i64| topic.channels.iter().map(count).sum();
        let worst = topic.channels.iter().max_by_key(|channel| channel.sum.depth);
        Row {
            topic,
            depth: topic.total_depth(),
            in_flight_count: sum(|channel| channel.sum.in_flight_count),
            client_count: sum(|channel| channel.sum.client_count),
            rates: topic.sum.rates,
            worst: worst.filter(|channel| channel.sum.depth > 0),
            is_paused: topic.sum.paused || topic.channels.iter().any(|channel| channel.sum.paused),
        }
    }

    pub fn json(&self, snapshot: &Snapshot) -> Value {
        let nodes = self.topic.parts.iter().filter_map(|part| snapshot.nodes.get(part.node));
        json!({
            "topic_name": &*self.topic.name,
            "depth": self.depth,
            "own_depth": self.topic.sum.depth,
            "in_flight_count": self.in_flight_count,
            "client_count": self.client_count,
            "message_count": self.topic.sum.message_count,
            "rates": self.rates,
            "paused": self.is_paused,
            "channels": self.topic.channels.iter().map(|channel| json!({
                "channel_name": &*channel.name,
                "depth": channel.sum.depth,
                "in_flight_count": channel.sum.in_flight_count,
                "client_count": channel.sum.client_count,
                "rates": channel.sum.rates,
                "paused": channel.sum.paused,
                "oldest_age_ms": channel.sum.oldest_age.map(crate::figures::millis),
            })).collect::<Vec<_>>(),
            "nodes": nodes.map(|node| node.key.clone()).collect::<Vec<_>>(),
        })
    }

    fn matches(&self, query: &TopicQuery) -> bool {
        let has_part = |name: &str| name.to_lowercase().contains(&query.filter.to_lowercase());
        let is_named = query.filter.is_empty()
            || has_part(&self.topic.name)
            || self.topic.channels.iter().any(|channel| has_part(&channel.name));
        let is_wanted = match query.only.as_str() {
            "depth" => self.depth > 0,
            "idle" => self.client_count == 0,
            "paused" => self.is_paused,
            _ => true,
        };
        is_named && is_wanted && (query.ephemeral != "0" || !self.topic.is_ephemeral())
    }
}

/// The rows of a page. Equal rows are in the order of their names.
pub fn rows<'a>(snapshot: &'a Snapshot, query: &TopicQuery) -> Page<'a> {
    let mut rows: Vec<Row<'a>> =
        snapshot.topics.iter().map(Row::of).filter(|row| row.matches(query)).collect();
    let (column, is_turned) = match query.sort.strip_prefix('-') {
        Some(column) => (column, true),
        None => (query.sort.as_str(), false),
    };
    let ingress = |row: &Row<'_>| row.rates.map_or(-1.0, |rates| rates.ingress);
    let egress = |row: &Row<'_>| row.rates.map_or(-1.0, |rates| rates.egress);
    rows.sort_by(|a, b| {
        let order = match column {
            "in" => ingress(a).total_cmp(&ingress(b)),
            "out" => egress(a).total_cmp(&egress(b)),
            "depth" => a.depth.cmp(&b.depth),
            "inflight" => a.in_flight_count.cmp(&b.in_flight_count),
            "consumers" => a.client_count.cmp(&b.client_count),
            "channels" => a.topic.channels.len().cmp(&b.topic.channels.len()),
            _ => a.topic.name.cmp(&b.topic.name),
        };
        let order = if is_turned { order.reverse() } else { order };
        order.then_with(|| a.topic.name.cmp(&b.topic.name))
    });
    let (total, matching) = (snapshot.topics.len(), rows.len());
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let start = query.cursor.unwrap_or(0).min(matching);
    let end = (start + limit).min(matching);
    let next = (end < matching).then_some(end);
    Page { rows: rows.drain(start..end).collect(), total, matching, next }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nsq_cluster::snapshot::{ChannelFigures, TopicFigures};

    use super::*;

    fn snapshot(topics: &[(&str, i64)]) -> Snapshot {
        let view = |(name, depth): &(&str, i64)| TopicView {
            name: (*name).into(),
            sum: TopicFigures::default(),
            parts: Vec::new(),
            channels: vec![ChannelView {
                name: format!("c-{name}").into(),
                sum: ChannelFigures { depth: *depth, ..ChannelFigures::default() },
                parts: Vec::new(),
            }],
        };
        Snapshot { topics: topics.iter().map(view).collect(), ..Snapshot::empty(Duration::from_secs(5)) }
    }

    fn names(snapshot: &Snapshot, query: &TopicQuery) -> Vec<String> {
        rows(snapshot, query).rows.iter().map(|row| row.topic.name.to_string()).collect()
    }

    #[test]
    fn rows_are_filtered_sorted_and_paged() {
        let snapshot = snapshot(&[("a", 5), ("b", 0), ("c#ephemeral", 9), ("d", 5)]);
        let query = |sort: &str| TopicQuery { sort: sort.to_owned(), ..TopicQuery::default() };
        assert_eq!(names(&snapshot, &query("-depth")), ["c#ephemeral", "a", "d", "b"]);
        assert_eq!(names(&snapshot, &query("-name")), ["d", "c#ephemeral", "b", "a"]);
        let filtered = TopicQuery { filter: "C-A".to_owned(), ..TopicQuery::default() };
        assert_eq!(names(&snapshot, &filtered), ["a"], "a channel's name counts");
        let deep =
            TopicQuery { only: "depth".to_owned(), ephemeral: "0".to_owned(), ..TopicQuery::default() };
        assert_eq!(names(&snapshot, &deep), ["a", "d"]);
        let paged = TopicQuery { limit: Some(3), ..TopicQuery::default() };
        let page = rows(&snapshot, &paged);
        assert_eq!((page.rows.len(), page.total, page.next), (3, 4, Some(3)));
        let last = TopicQuery { cursor: Some(3), ..paged };
        assert_eq!((names(&snapshot, &last), rows(&snapshot, &last).next), (vec!["d".to_owned()], None));
    }
}
