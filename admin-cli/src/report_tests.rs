use std::time::{Duration, Instant};

use nsq_cluster::Sample;
use nsq_protocol::{ChannelStats, Stats, TopicStats};

use super::*;

fn channel(name: &str, entered: u64, depth: i64) -> ChannelStats {
    ChannelStats {
        channel_name: name.to_owned(),
        message_count: entered,
        depth,
        client_count: 1,
        ..ChannelStats::default()
    }
}

fn sample(taken_at: Instant, start_time: i64, published: u64, channels: Vec<ChannelStats>) -> Sample {
    let topic = TopicStats {
        topic_name: "t".to_owned(),
        message_count: published,
        channels,
        ..TopicStats::default()
    };
    Sample { taken_at, stats: Stats { start_time, topics: Some(vec![topic]), ..Stats::default() } }
}

fn samples(list: impl IntoIterator<Item = (&'static str, Sample)>) -> Samples {
    list.into_iter().map(|(node, sample)| (node.to_owned(), sample)).collect()
}

#[test]
fn nodes_are_added_up_and_a_single_sample_has_no_rates() {
    let at = Instant::now();
    let now = samples([
        ("a", sample(at, 1, 10, vec![channel("c", 10, 3)])),
        ("b", sample(at, 1, 5, vec![channel("c", 5, 1), channel("d", 5, 5)])),
    ]);
    let topics = report(None, &now);
    assert_eq!(topics.len(), 1);
    assert_eq!((topics[0].node_count, topics[0].message_count, topics[0].ingress_rate), (2, 15, None));
    let channels: Vec<_> = topics[0]
        .channels
        .iter()
        .map(|c| (&*c.channel_name, c.node_count, c.depth, c.client_count))
        .collect();
    assert_eq!(channels, [("c", 2, 4, 2), ("d", 1, 5, 1)]);
    assert_eq!(topics[0].channels[0].egress_rate, None);
}

#[test]
fn rates_are_summed_over_the_nodes() {
    let at = Instant::now();
    let before = samples([
        ("a", sample(at, 1, 10, vec![channel("c", 10, 10)])),
        ("b", sample(at, 1, 0, vec![channel("c", 0, 0)])),
    ]);
    let later = at + Duration::from_secs(2);
    let now = samples([
        ("a", sample(later, 1, 30, vec![channel("c", 30, 4)])),
        ("b", sample(at + Duration::from_secs(1), 1, 5, vec![channel("c", 5, 5)])),
    ]);
    let topics = report(Some(&before), &now);
    assert_eq!(topics[0].ingress_rate, Some(Rate(15.0)));
    assert_eq!(topics[0].channels[0].ingress_rate, Some(Rate(15.0)));
    assert_eq!(topics[0].channels[0].egress_rate, Some(Rate(13.0)));
}

#[test]
fn new_restarted_or_reset_node_adds_no_rate() {
    let at = Instant::now();
    let before = samples([
        ("restarted", sample(at, 1, 10, vec![channel("c", 10, 0)])),
        ("reset", sample(at, 1, 10, vec![channel("c", 10, 0)])),
    ]);
    let later = at + Duration::from_secs(1);
    let now = samples([
        ("restarted", sample(later, 2, 500, vec![channel("c", 500, 0)])),
        ("new", sample(later, 1, 500, vec![channel("c", 500, 0)])),
        ("reset", sample(later, 1, 2, vec![channel("c", 2, 0)])),
    ]);
    let topics = report(Some(&before), &now);
    assert_eq!(topics[0].ingress_rate, Some(Rate(0.0)));
    assert_eq!(topics[0].channels[0].egress_rate, Some(Rate(0.0)));
}

#[test]
fn select_keeps_wanted_objects_and_returns_missing_ones() {
    let at = Instant::now();
    let now = samples([("a", sample(at, 1, 1, vec![channel("c", 1, 0), channel("d", 1, 0)]))]);
    let object = |text: &str| Object::parse(text).unwrap();
    let mut topics = report(None, &now);
    assert_eq!(
        select(&mut topics, &[object("t/d"), object("t/e"), object("u")]),
        [object("t/e"), object("u")]
    );
    assert_eq!(topics[0].channels.iter().map(|c| &*c.channel_name).collect::<Vec<_>>(), ["d"]);
    let mut topics = report(None, &now);
    assert_eq!(select(&mut topics, &[object("t/d"), object("t")]), []);
    assert_eq!(topics[0].channels.len(), 2, "the whole topic is wanted, too");
    let mut topics = report(None, &now);
    assert_eq!(select(&mut topics, &[]), []);
    assert_eq!(topics.len(), 1);
}
