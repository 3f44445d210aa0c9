//! What one node's heartbeats have told of its topics and channels. Pure.
//!
//! Reports tell differences. Between the first and the last report of a round what is kept is a mixture, and is
//! not passed off as the node's state.

use std::collections::BTreeMap;

use nsq_protocol::heartbeat::{MAX_ENTRIES, NodeSummary, ReportError, StatsReport, TopicSummary};
use nsq_protocol::{Stats, TopicName};

use crate::registry::Moment;

/// See the module.
#[derive(Debug, Default)]
pub struct NodeStats {
    node: NodeSummary,
    topics: BTreeMap<TopicName, TopicSummary>,
    /// Topics and channels in it.
    entries: usize,
    /// The node has begun at the beginning.
    has_begun: bool,
    /// There is more than the node tells.
    is_cut: bool,
    /// When the last round ended, and which request for fresh figures it answered.
    told: Option<(Moment, u64)>,
    is_in_between: bool,
}

impl NodeStats {
    /// Takes the next report. One that cannot be used takes all that was known with it.
    pub fn apply(&mut self, report: StatsReport, now: Moment) -> Result<(), ReportError> {
        if report.is_first {
            *self = Self { has_begun: true, ..Self::default() };
        }
        for name in &report.removed {
            let gone = self.topics.remove(name);
            self.entries -= gone.map_or(0, |topic| topic.entries());
        }
        for topic in report.topics {
            self.entries += topic.entries();
            let before = self.topics.insert(topic.topic_name.clone(), topic);
            self.entries -= before.map_or(0, |topic| topic.entries());
            if self.entries > MAX_ENTRIES {
                *self = Self::default();
                return Err(ReportError::TooMany);
            }
        }
        self.node = report.node;
        self.is_cut = report.is_cut;
        self.is_in_between = !report.is_last;
        if report.is_last {
            self.told = Some((now, report.refresh));
        }
        Ok(())
    }

    /// Whether it is all that the node has, as it was at [`NodeStats::told_at`].
    pub fn is_complete(&self) -> bool {
        self.has_begun && !self.is_cut && !self.is_in_between && self.told.is_some()
    }

    /// When the node last told all there was to tell.
    pub fn told_at(&self) -> Option<Moment> {
        self.told.map(|(at, _)| at)
    }

    /// The latest request for fresh figures that was answered.
    pub fn answered(&self) -> u64 {
        self.told.map_or(0, |(_, refresh)| refresh)
    }

    /// As nsqd's `/stats` would show it without connections: all, or one topic, or the topics that have a channel and
    /// only that.
    pub fn stats(&self, topic: Option<&str>, channel: Option<&str>) -> Stats {
        let topics: Option<Vec<&TopicSummary>> = match topic {
            None => Some(self.topics.values().collect()),
            Some(name) => self.topics.get(name).map(|topic| vec![topic]),
        };
        let shown = topics.map(|topics| {
            let mut shown: Vec<_> = topics.into_iter().map(TopicSummary::stats).collect();
            if let Some(name) = channel {
                shown
                    .iter_mut()
                    .for_each(|topic| topic.channels.retain(|channel| channel.channel_name == name));
                shown.retain(|topic| !topic.channels.is_empty());
            }
            shown
        });
        self.node.stats(shown)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nsq_protocol::{ChannelStats, TopicStats};

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
        let topics = stats.stats(None, None).topics.unwrap();
        topics.into_iter().map(|topic| (topic.topic_name, topic.depth)).collect()
    }

    #[test]
    fn reports_add_up() {
        let mut stats = NodeStats::default();
        assert!(!stats.is_complete());
        stats.apply(report(true, false, vec![topic("b", 1, &["c"])]), at(1)).unwrap();
        assert!(!stats.is_complete(), "there is more to come");
        let end = StatsReport { refresh: 5, ..report(false, true, vec![topic("a", 2, &[])]) };
        stats.apply(end, at(2)).unwrap();
        assert!(stats.is_complete());
        assert_eq!((stats.told_at(), stats.answered()), (Some(at(2)), 5));
        assert_eq!(shown(&stats), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        let change = StatsReport {
            removed: vec![name("a"), name("x")],
            ..report(false, true, vec![topic("b", 7, &[])])
        };
        stats.apply(change, at(9)).unwrap();
        assert_eq!(shown(&stats), [("b".to_owned(), 7)]);
        assert_eq!((stats.told_at(), stats.entries), (Some(at(9)), 1));
        stats.apply(report(true, true, vec![]), at(10)).unwrap();
        assert_eq!(shown(&stats), []);
    }

    #[test]
    fn what_is_not_all_is_not_passed_off_as_all() {
        let mut stats = NodeStats::default();
        stats.apply(report(false, true, vec![topic("t", 1, &[])]), at(1)).unwrap();
        assert!(!stats.is_complete(), "it did not begin at the beginning");
        stats.apply(StatsReport { is_cut: true, ..report(true, true, vec![]) }, at(1)).unwrap();
        assert!(!stats.is_complete(), "the node has more than it tells");
        stats.apply(report(true, true, vec![]), at(1)).unwrap();
        assert!(stats.is_complete());
        stats.apply(report(false, false, vec![]), at(2)).unwrap();
        assert!(!stats.is_complete(), "in the middle of a round");
    }

    #[test]
    fn one_topic_or_one_channel() {
        let mut stats = NodeStats::default();
        let topics = vec![topic("t", 1, &["c", "d"]), topic("u", 1, &["d"])];
        stats.apply(report(true, true, topics), at(1)).unwrap();
        assert_eq!(stats.stats(Some("nope"), None).topics, None);
        assert_eq!(stats.stats(Some("t"), None).topics.unwrap()[0].channels.len(), 2);
        let with_c = stats.stats(None, Some("c")).topics.unwrap();
        assert_eq!((with_c.len(), with_c[0].channels.len()), (1, 1));
        assert_eq!(stats.stats(Some("u"), Some("c")).topics.unwrap(), []);
    }

    #[test]
    fn a_node_cannot_fill_our_memory() {
        let mut stats = NodeStats::default();
        stats.apply(report(true, false, vec![]), at(1)).unwrap();
        let many =
            |from: usize| (from..from + 50_000).map(|number| topic(&format!("t{number}"), 1, &[])).collect();
        for round in 0..MAX_ENTRIES / 50_000 {
            stats.apply(report(false, false, many(round * 50_000)), at(1)).unwrap();
        }
        stats.apply(report(false, true, many(0)), at(1)).unwrap();
        assert!(stats.is_complete(), "the same again is no more");
        let one_more = report(false, true, vec![topic("one_more", 1, &[])]);
        assert_eq!(stats.apply(one_more, at(1)), Err(ReportError::TooMany));
        assert_eq!((stats.is_complete(), stats.entries, shown(&stats).len()), (false, 0, 0));
    }
}
