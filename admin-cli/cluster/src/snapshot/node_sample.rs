//! Pure: what one node reported, in a compact form, with rates since its report before.

use std::sync::Arc;
use std::time::Instant;

use nsq_protocol::drain::DrainStatus;
use nsq_protocol::{Stats, StorageStats};

use super::figures::{ChannelFigures, Rates, TopicFigures};
use crate::names::Names;

/// The report of a node.
#[derive(Debug, Clone)]
pub(crate) struct NodeSample {
    /// When the node answered.
    pub(crate) taken_at: Instant,
    pub(crate) version: String,
    pub(crate) health: String,
    /// Seconds since 1970.
    pub(crate) start_time: i64,
    pub(crate) drain: Option<DrainStatus>,
    pub(crate) storage: Option<StorageStats>,
    pub(crate) memory_bytes: Option<u64>,
    /// Sorted by name.
    pub(crate) topics: Vec<NodeTopic>,
}

#[derive(Debug, Clone)]
pub(crate) struct NodeTopic {
    pub(crate) name: Arc<str>,
    pub(crate) figures: TopicFigures,
    /// Sorted by name.
    pub(crate) channels: Vec<NodeChannel>,
}

#[derive(Debug, Clone)]
pub(crate) struct NodeChannel {
    pub(crate) name: Arc<str>,
    pub(crate) figures: ChannelFigures,
}

impl NodeSample {
    pub(crate) fn of(stats: &Stats, taken_at: Instant, names: &mut Names) -> Self {
        let mut topics: Vec<NodeTopic> = stats
            .topics
            .iter()
            .flatten()
            .map(|topic| {
                let channel = |channel: &nsq_protocol::ChannelStats| NodeChannel {
                    name: names.share(&channel.channel_name),
                    figures: ChannelFigures::of(channel),
                };
                let mut channels: Vec<NodeChannel> = topic.channels.iter().map(channel).collect();
                channels.sort_by(|a, b| a.name.cmp(&b.name));
                let name = names.share(&topic.topic_name);
                NodeTopic { name, figures: TopicFigures::of(topic), channels }
            })
            .collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        NodeSample {
            taken_at,
            version: stats.version.clone(),
            health: stats.health.clone(),
            start_time: stats.start_time,
            drain: stats.drain.clone(),
            storage: stats.storage,
            memory_bytes: stats.memory.as_ref().map(|memory| memory.heap_in_use_bytes),
            topics,
        }
    }

    /// Sets the rates since an earlier report. A topic or channel that is new counts from zero; nothing has a rate if the
    /// node has restarted since.
    pub(crate) fn set_rates(&mut self, before: &NodeSample) {
        if self.is_new_run(before) {
            return;
        }
        let seconds = self.taken_at.saturating_duration_since(before.taken_at).as_secs_f64();
        let none = TopicFigures::default();
        let mut earlier = before.topics.iter().peekable();
        for topic in &mut self.topics {
            while earlier.next_if(|then| then.name < topic.name).is_some() {}
            let then = earlier.next_if(|then| then.name == topic.name);
            topic.figures.set_rates(then.map_or(&none, |then| &then.figures), seconds);
            let no_channel = ChannelFigures::default();
            let mut channels = then.map(|then| then.channels.iter()).into_iter().flatten().peekable();
            for channel in &mut topic.channels {
                while channels.next_if(|then| then.name < channel.name).is_some() {}
                let then = channels.next_if(|then| then.name == channel.name);
                channel.figures.set_rates(then.map_or(&no_channel, |then| &then.figures), seconds);
                if let (Some(sum), Some(rates)) = (&mut topic.figures.rates, &channel.figures.rates) {
                    sum.add(&Rates { ingress: 0.0, depth: 0.0, backend_depth: 0.0, ..*rates });
                }
            }
        }
    }

    /// Whether the node has restarted since an earlier report.
    pub(crate) fn is_new_run(&self, before: &NodeSample) -> bool {
        self.start_time != before.start_time
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nsq_protocol::{ChannelStats, TopicStats};

    use super::*;

    fn stats(start_time: i64, topics: &[(&str, u64)]) -> Stats {
        let topic = |(name, count): &(&str, u64)| TopicStats {
            topic_name: (*name).to_owned(),
            message_count: *count,
            channels: vec![ChannelStats {
                channel_name: "c".to_owned(),
                message_count: *count,
                ..ChannelStats::default()
            }],
            ..TopicStats::default()
        };
        Stats { start_time, topics: Some(topics.iter().map(topic).collect()), ..Stats::default() }
    }

    #[test]
    fn rates_are_matched_by_name_and_vanish_with_a_restart() {
        let mut names = Names::default();
        let start = Instant::now();
        let before = NodeSample::of(&stats(1, &[("a", 5), ("b", 10), ("d", 1)]), start, &mut names);
        let later = start + Duration::from_secs(2);
        // Out of order, one topic is gone, one is new.
        let mut now = NodeSample::of(&stats(1, &[("d", 1), ("c", 8), ("b", 30)]), later, &mut names);
        now.set_rates(&before);
        let rates: Vec<_> = now
            .topics
            .iter()
            .map(|topic| {
                let rates = topic.figures.rates.unwrap();
                (&*topic.name, rates.ingress, rates.egress)
            })
            .collect();
        assert_eq!(rates, [("b", 10.0, 10.0), ("c", 4.0, 4.0), ("d", 0.0, 0.0)]);
        let mut restarted = NodeSample::of(&stats(2, &[("b", 31)]), later, &mut names);
        restarted.set_rates(&before);
        assert!(restarted.is_new_run(&before));
        assert_eq!(
            (restarted.topics[0].figures.rates, restarted.topics[0].channels[0].figures.rates),
            (None, None)
        );
    }
}
