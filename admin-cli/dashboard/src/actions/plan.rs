//! What an action would destroy, from the statistics of the nodes. Pure.

use nsq_protocol::{ChannelStats, Stats, TopicStats};
use serde::Serialize;

use super::order::{Order, Verb};

/// What an action touches and destroys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Each node that has the topic or channel.
    pub nodes: Vec<NodePlan>,
    /// Messages that would be lost.
    pub message_count: i64,
    /// Those of them that wait in the topic itself.
    pub topic_message_count: i64,
    /// Those of them that are at a consumer.
    pub in_flight_count: i64,
    /// Those of them that are not due yet.
    pub deferred_count: i64,
    /// Consumers that would be disconnected.
    pub client_count: i64,
    /// Channels that would be deleted or emptied.
    pub channel_count: usize,
    /// Whether the topic retains messages on every node, so that an undo may bring them back.
    pub can_be_undone: bool,
    /// Nodes that did not answer: their messages are not counted.
    pub errors: Vec<String>,
}

/// The part of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NodePlan {
    pub node: String,
    pub message_count: i64,
    pub client_count: i64,
}

/// The losses on these nodes.
pub fn plan(verb: Verb, order: &Order, nodes: &[(String, Stats)]) -> Plan {
    let mut plan = Plan { can_be_undone: true, ..Plan::default() };
    let mut channels = std::collections::BTreeSet::new();
    for (node, stats) in nodes {
        let Some(topic) = stats.topics.iter().flatten().find(|topic| topic.topic_name == order.topic) else {
            continue;
        };
        let touched: Vec<&ChannelStats> = match verb {
            Verb::DeleteTopic | Verb::Tombstone | Verb::DeleteTopicOnNode => topic.channels.iter().collect(),
            Verb::EmptyTopic if order.with_channels => topic.channels.iter().collect(),
            Verb::EmptyTopic => Vec::new(),
            _ => topic.channels.iter().filter(|channel| channel.channel_name == order.channel).collect(),
        };
        if verb.needs_channel() && touched.is_empty() {
            continue;
        }
        let mut part = NodePlan { node: node.clone(), ..NodePlan::default() };
        if verb.destroys() {
            part.message_count += own_depth(verb, topic);
            plan.topic_message_count += part.message_count;
            for channel in &touched {
                part.message_count += channel.depth + channel.in_flight_count + channel.deferred_count;
                plan.in_flight_count += channel.in_flight_count;
                plan.deferred_count += channel.deferred_count;
                channels.insert(channel.channel_name.clone());
                if matches!(
                    verb,
                    Verb::DeleteTopic | Verb::Tombstone | Verb::DeleteTopicOnNode | Verb::DeleteChannel
                ) {
                    part.client_count += channel.client_count;
                }
            }
        }
        plan.can_be_undone &=
            topic.retention.is_some() && matches!(verb, Verb::EmptyTopic | Verb::EmptyChannel);
        plan.message_count += part.message_count;
        plan.client_count += part.client_count;
        plan.nodes.push(part);
    }
    plan.channel_count = channels.len();
    plan.can_be_undone &= !plan.nodes.is_empty();
    plan
}

fn own_depth(verb: Verb, topic: &TopicStats) -> i64 {
    match verb {
        Verb::DeleteTopic | Verb::Tombstone | Verb::DeleteTopicOnNode | Verb::EmptyTopic => topic.depth,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats() -> Vec<(String, Stats)> {
        let channel = |name: &str, depth| ChannelStats {
            channel_name: name.to_owned(),
            depth,
            in_flight_count: 2,
            deferred_count: 1,
            client_count: 3,
            ..ChannelStats::default()
        };
        let topic = TopicStats {
            topic_name: "t".to_owned(),
            depth: 10,
            channels: vec![channel("a", 100), channel("b", 0)],
            ..TopicStats::default()
        };
        vec![("n:1".to_owned(), Stats { topics: Some(vec![topic]), ..Stats::default() })]
    }

    fn count(verb: Verb, channel: &str, with_channels: bool) -> (i64, i64, usize) {
        let order =
            Order { topic: "t".to_owned(), channel: channel.to_owned(), with_channels, ..Order::default() };
        let plan = plan(verb, &order, &stats());
        (plan.message_count, plan.client_count, plan.channel_count)
    }

    #[test]
    fn losses_follow_the_action() {
        assert_eq!(count(Verb::DeleteTopic, "", false), (116, 6, 2));
        assert_eq!(count(Verb::EmptyTopic, "", false), (10, 0, 0));
        assert_eq!(count(Verb::EmptyTopic, "", true), (116, 0, 2));
        assert_eq!(count(Verb::EmptyChannel, "a", false), (103, 0, 1));
        assert_eq!(count(Verb::DeleteChannel, "b", false), (3, 3, 1));
        assert_eq!(count(Verb::PauseChannel, "a", false), (0, 0, 0));
        assert_eq!(count(Verb::EmptyChannel, "unknown", false), (0, 0, 0));
    }
}
