//! The statistics of one node, built from the reports in its heartbeats. Pure.
//!
//! Reports carry changes. Between the first and the last report of a round, the statistics are a mixture of old and
//! new; they do not count as complete then.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use nsq_protocol::heartbeat::{MAX_ENTRIES, NodeSummary, ReportError, StatsReport, TopicSummary};

use crate::registry::Moment;

/// Maximum memory for the statistics of one node. A report that exceeds it discards all of them.
pub const MAX_NODE_BYTES: usize = 32 << 20;

/// Memory of a topic besides its encoded bytes: its entry in the set and the allocator's overhead.
const TOPIC_OVERHEAD: usize = 64;

/// The statistics of one node.
#[derive(Debug, Default)]
pub struct NodeStats {
    node: NodeSummary,
    topics: BTreeSet<KeptTopic>,
    /// Number of topics and channels.
    entries: usize,
    /// Estimated memory, in bytes.
    bytes: usize,
    /// The node has sent a first report.
    has_begun: bool,
    /// The node has more topics or channels than it reports.
    is_cut: bool,
    /// When the last round ended, and the number of the request for fresh statistics that it answered.
    last_round: Option<(Moment, u64)>,
    is_mid_round: bool,
}

impl NodeStats {
    /// Applies the next report. A report that exceeds the limits discards all statistics.
    pub fn apply(&mut self, report: StatsReport, now: Moment) -> Result<(), ReportError> {
        if report.is_first {
            *self = Self { has_begun: true, ..Self::default() };
        }
        for name in &report.removed {
            let removed = self.topics.take(name.as_str().as_bytes());
            self.forget(removed);
        }
        for topic in report.topics {
            let topic = KeptTopic::new(&topic);
            self.entries += topic.entries as usize;
            self.bytes += topic.bytes();
            let replaced = self.topics.replace(topic);
            self.forget(replaced);
        }
        self.bytes -= summary_bytes(&self.node);
        self.node = report.node;
        self.bytes += summary_bytes(&self.node);
        if self.entries > MAX_ENTRIES || self.bytes > MAX_NODE_BYTES {
            *self = Self::default();
            return Err(ReportError::TooMany);
        }
        self.is_cut = report.is_cut;
        self.is_mid_round = !report.is_last;
        if report.is_last {
            self.last_round = Some((now, report.refresh));
        }
        Ok(())
    }

    fn forget(&mut self, topic: Option<KeptTopic>) {
        if let Some(topic) = topic {
            self.entries -= topic.entries as usize;
            self.bytes -= topic.bytes();
        }
    }

    /// Estimated memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the statistics cover the whole node as of [`NodeStats::reported_at`].
    pub fn is_complete(&self) -> bool {
        self.has_begun && !self.is_cut && !self.is_mid_round && self.last_round.is_some()
    }

    /// When the last complete round of reports ended.
    pub fn reported_at(&self) -> Option<Moment> {
        self.last_round.map(|(at, _)| at)
    }

    /// Number of the latest answered request for fresh statistics; 0 for none.
    pub fn answered(&self) -> u64 {
        self.last_round.map_or(0, |(_, refresh)| refresh)
    }

    /// The statistics of the node as a whole.
    pub fn node(&self) -> &NodeSummary {
        &self.node
    }

    /// All topics ordered by name, or one topic; `None` if that topic is unknown. Does not copy or decode the topics.
    pub fn topics(&self, topic: Option<&str>) -> Option<Vec<KeptTopic>> {
        match topic {
            None => Some(self.topics.iter().cloned().collect()),
            Some(name) => self.topics.get(name.as_bytes()).map(|topic| vec![topic.clone()]),
        }
    }
}

/// A topic in encoded form: decoded, it would take several times the memory. Compared by name.
#[derive(Debug, Clone)]
pub struct KeptTopic {
    encoded: Arc<[u8]>,
    /// Number of entries: the topic and its channels.
    entries: u32,
}

impl KeptTopic {
    fn new(topic: &TopicSummary) -> Self {
        let entries = u32::try_from(topic.entries()).unwrap_or(u32::MAX);
        Self { encoded: topic.encode().into(), entries }
    }

    /// Decodes the topic; `None` if the bytes are invalid.
    pub fn decode(&self) -> Option<TopicSummary> {
        TopicSummary::decode(&self.encoded)
    }

    fn bytes(&self) -> usize {
        self.encoded.len() + TOPIC_OVERHEAD
    }

    /// The name. It is the first field, after the byte of the array and one or two bytes with the name's length.
    fn name(&self) -> &[u8] {
        let (length, name) = match &*self.encoded {
            [_, 0xd9, length, name @ ..] => (usize::from(*length), name),
            [_, length, name @ ..] => (usize::from(length & 0x1f), name),
            _ => (0, &[][..]),
        };
        name.get(..length).unwrap_or_default()
    }
}

impl Borrow<[u8]> for KeptTopic {
    fn borrow(&self) -> &[u8] {
        self.name()
    }
}

impl PartialEq for KeptTopic {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for KeptTopic {}

impl PartialOrd for KeptTopic {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for KeptTopic {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name().cmp(other.name())
    }
}

fn summary_bytes(node: &NodeSummary) -> usize {
    node.version.len() + node.health.len()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nsq_protocol::{ChannelStats, TopicName, TopicStats};

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment { elapsed: Duration::from_secs(seconds), unix_ns: 0 }
    }

    fn name(name: &str) -> TopicName {
        TopicName::new(name).unwrap()
    }

    fn topic(name: &str, depth: i64, channels: &[&str]) -> TopicSummary {
        let channel = |name: &&str| ChannelStats { channel_name: (*name).into(), ..ChannelStats::default() };
        let channels = channels.iter().map(channel).collect();
        let stats = TopicStats { topic_name: name.into(), depth, channels, ..TopicStats::default() };
        TopicSummary::new(&stats).unwrap()
    }

    fn report(is_first: bool, is_last: bool, topics: Vec<TopicSummary>) -> StatsReport {
        StatsReport { is_first, is_last, topics, ..StatsReport::default() }
    }

    fn shown(stats: &NodeStats) -> Vec<(String, i64)> {
        let topics = stats.topics(None).unwrap().into_iter().map(|topic| topic.decode().unwrap());
        topics.map(|topic| (topic.topic_name.to_string(), topic.depth)).collect()
    }

    #[test]
    fn reports_add_up() {
        let mut stats = NodeStats::default();
        assert!(!stats.is_complete());
        stats.apply(report(true, false, vec![topic("b", 1, &["c"])]), at(1)).unwrap();
        assert!(!stats.is_complete(), "the round has not ended");
        let end = StatsReport { refresh: 5, ..report(false, true, vec![topic("a", 2, &[])]) };
        stats.apply(end, at(2)).unwrap();
        assert!(stats.is_complete());
        assert_eq!((stats.reported_at(), stats.answered()), (Some(at(2)), 5));
        assert_eq!(shown(&stats), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        let change = StatsReport {
            removed: vec![name("a"), name("x")],
            ..report(false, true, vec![topic("b", 7, &[])])
        };
        stats.apply(change, at(9)).unwrap();
        assert_eq!(shown(&stats), [("b".to_owned(), 7)]);
        assert_eq!((stats.reported_at(), stats.entries), (Some(at(9)), 1));
        stats.apply(report(true, true, vec![]), at(10)).unwrap();
        assert_eq!(shown(&stats), []);
    }

    #[test]
    fn partial_statistics_are_not_complete() {
        let mut stats = NodeStats::default();
        stats.apply(report(false, true, vec![topic("t", 1, &[])]), at(1)).unwrap();
        assert!(!stats.is_complete(), "there was no first report");
        stats.apply(StatsReport { is_cut: true, ..report(true, true, vec![]) }, at(1)).unwrap();
        assert!(!stats.is_complete(), "the node has more than it reports");
        stats.apply(report(true, true, vec![]), at(1)).unwrap();
        assert!(stats.is_complete());
        stats.apply(report(false, false, vec![]), at(2)).unwrap();
        assert!(!stats.is_complete(), "in the middle of a round");
    }

    #[test]
    fn topics_returns_one_topic_or_all() {
        let mut stats = NodeStats::default();
        let long = "n".repeat(64);
        let topics = vec![topic("t", 1, &["c", "d"]), topic("u", 2, &["d"]), topic(&long, 3, &[])];
        stats.apply(report(true, true, topics), at(1)).unwrap();
        assert_eq!(stats.topics(Some("nope")), None);
        assert_eq!(stats.topics(Some("t")).unwrap()[0].decode().unwrap(), topic("t", 1, &["c", "d"]));
        assert_eq!(stats.topics(Some(&long)).unwrap()[0].decode().unwrap(), topic(&long, 3, &[]));
        assert_eq!(shown(&stats).len(), 3);
    }

    #[test]
    fn kept_topics_take_little_more_memory_than_their_encoding() {
        let mut stats = NodeStats::default();
        let channels: Vec<String> = (0..40).map(|number| format!("channel-{number}")).collect();
        let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
        let topics: Vec<_> = (0..100).map(|number| topic(&format!("topic-{number}"), 1, &channels)).collect();
        let first = report(true, true, topics);
        let sent = first.encode().len();
        stats.apply(first, at(1)).unwrap();
        assert!(stats.bytes() < sent * 3 / 2, "{} for {sent}", stats.bytes());
        let removed = (0..100).map(|number| name(&format!("topic-{number}"))).collect();
        stats.apply(StatsReport { removed, ..report(false, true, vec![]) }, at(2)).unwrap();
        assert_eq!((stats.bytes(), stats.entries), (0, 0));
    }

    #[test]
    fn node_texts_count_toward_the_memory_limit() {
        let mut stats = NodeStats::default();
        let node = NodeSummary { health: "x".repeat(MAX_NODE_BYTES + 1), ..NodeSummary::default() };
        let too_long = StatsReport { node, ..report(true, true, vec![]) };
        assert_eq!(stats.apply(too_long, at(1)), Err(ReportError::TooMany));
        assert_eq!(stats.bytes(), 0);
    }

    #[test]
    fn entries_per_node_are_limited() {
        let mut stats = NodeStats::default();
        stats.apply(report(true, false, vec![]), at(1)).unwrap();
        let many =
            |from: usize| (from..from + 50_000).map(|number| topic(&format!("t{number}"), 1, &[])).collect();
        for round in 0..MAX_ENTRIES / 50_000 {
            stats.apply(report(false, false, many(round * 50_000)), at(1)).unwrap();
        }
        stats.apply(report(false, true, many(0)), at(1)).unwrap();
        assert!(stats.is_complete(), "repeated topics count once");
        let one_more = report(false, true, vec![topic("one_more", 1, &[])]);
        assert_eq!(stats.apply(one_more, at(1)), Err(ReportError::TooMany));
        assert_eq!((stats.is_complete(), stats.entries, shown(&stats).len()), (false, 0, 0));
    }
}
