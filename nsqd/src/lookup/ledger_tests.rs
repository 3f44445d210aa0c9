use std::collections::BTreeMap;

use nsq_protocol::{ChannelStats, TopicStats};
use proptest::prelude::*;

use super::*;

/// A node: depths by topic.
type Node = BTreeMap<String, i64>;

/// Numbers of topics; a recreated topic gets a new one.
#[derive(Default)]
struct Numbers {
    of: BTreeMap<String, TopicNumber>,
    last: TopicNumber,
}

impl Numbers {
    fn update(&mut self, ledger: &mut Ledger, node: &Node) {
        self.of.retain(|name, _| node.contains_key(name));
        let seen = node.iter().map(|(name, depth)| {
            let number = *self.of.entry(name.clone()).or_insert_with(|| {
                self.last = self.last.next();
                self.last
            });
            TopicSnapshot::new(number, summary(name, *depth), 0)
        });
        ledger.update(NodeSummary::default(), seen);
    }
}

fn summary(name: &str, depth: i64) -> TopicSummary {
    TopicSummary::new(&TopicStats { topic_name: name.into(), depth, ..TopicStats::default() }).unwrap()
}

/// An nsqlookupd that applies the reports.
#[derive(Default)]
struct Lookupd {
    progress: Progress,
    known: Node,
}

impl Lookupd {
    /// Applies and returns one report.
    fn receive(&mut self, ledger: &mut Ledger, node: &Node) -> Option<StatsReport> {
        let now = |name: &TopicName| node.get(name.as_str()).map(|depth| summary(name.as_str(), *depth));
        let report = ledger.next_report(&mut self.progress, now)?;
        if report.is_first {
            self.known.clear();
        }
        for name in &report.removed {
            self.known.remove(name.as_str());
        }
        self.known.extend(report.topics.iter().map(|topic| (topic.topic_name.to_string(), topic.depth)));
        Some(report)
    }

    /// Applies a whole round; returns the number of reports and topics.
    fn round(&mut self, ledger: &mut Ledger, node: &Node) -> (usize, usize) {
        ledger.begin_round(&mut self.progress, 0);
        let mut took = (0, 0);
        while let Some(report) = self.receive(ledger, node) {
            took = (took.0 + 1, took.1 + report.topics.len());
            assert_eq!(report.is_last, !self.progress.is_in_round());
        }
        took
    }
}

fn node(topics: &[(&str, i64)]) -> Node {
    topics.iter().map(|(name, depth)| ((*name).to_owned(), *depth)).collect()
}

#[test]
fn only_changes_are_reported() {
    let (mut ledger, mut lookupd, mut numbers) = (Ledger::default(), Lookupd::default(), Numbers::default());
    let mut has = node(&[("a", 1), ("b", 1), ("c", 1)]);
    numbers.update(&mut ledger, &has);
    assert_eq!(lookupd.round(&mut ledger, &has), (1, 3));
    numbers.update(&mut ledger, &has);
    assert_eq!(lookupd.round(&mut ledger, &has), (1, 0), "a round without changes still sends a report");
    has.insert("b".into(), 2);
    has.remove("c");
    numbers.update(&mut ledger, &has);
    assert_eq!(lookupd.round(&mut ledger, &has), (1, 1));
    assert_eq!(lookupd.known, has);
    let mut other = Lookupd::default();
    assert_eq!(other.round(&mut ledger, &has), (1, 2), "a new nsqlookupd gets everything");
}

#[test]
fn large_round_is_split_and_loses_no_changes_in_between() {
    let (mut ledger, mut lookupd, mut numbers) = (Ledger::default(), Lookupd::default(), Numbers::default());
    let mut has: Node = (0..5000).map(|number| (format!("t{number:05}"), 1)).collect();
    numbers.update(&mut ledger, &has);
    ledger.begin_round(&mut lookupd.progress, 3);
    let first = lookupd.receive(&mut ledger, &has).unwrap();
    assert!(first.is_first && !first.is_last && first.topics.len() < 1000);
    assert!(first.encode().len() <= REPORT_BYTES + 1000);
    has.insert("t00000".into(), 2);
    has.insert("t04999".into(), 2);
    has.remove("t00001");
    numbers.update(&mut ledger, &has);
    ledger.begin_round(&mut lookupd.progress, 4);
    let mut last = first;
    while let Some(report) = lookupd.receive(&mut ledger, &has) {
        assert!(!report.is_first);
        last = report;
    }
    assert_eq!(last.refresh, 3, "the round in progress answers the earlier request");
    assert_ne!(lookupd.known, has, "the next round reports changes that this one had passed");
    let took = lookupd.round(&mut ledger, &has);
    assert!(took.1 <= 2, "{took:?}");
    assert_eq!(lookupd.known, has);
}

#[test]
fn too_many_removals_cause_a_complete_report() {
    let (mut ledger, mut lookupd, mut numbers) = (Ledger::default(), Lookupd::default(), Numbers::default());
    let mut has = node(&[("stays", 1)]);
    has.extend((0..=MAX_REMOVED).map(|number| (format!("t{number}"), 1)));
    numbers.update(&mut ledger, &has);
    lookupd.round(&mut ledger, &has);
    has.retain(|name, _| name == "stays");
    numbers.update(&mut ledger, &has);
    ledger.begin_round(&mut lookupd.progress, 0);
    assert!(lookupd.receive(&mut ledger, &has).unwrap().is_first);
    assert_eq!(lookupd.known, has);
    assert!(ledger.removed.is_empty());
}

#[test]
fn report_above_the_limit_is_cut_and_marked() {
    let (mut ledger, mut progress) = (Ledger::default(), Progress::default());
    let seen = |number: TopicNumber| TopicSnapshot {
        number,
        name: TopicName::new(format!("t{number}")).unwrap(),
        fingerprint: 1,
        entries: MAX_ENTRIES / 2,
        is_cut: false,
    };
    ledger.update(NodeSummary::default(), (0..3).map(TopicNumber).map(seen));
    ledger.begin_round(&mut progress, 0);
    let report = ledger.next_report(&mut progress, |name| Some(summary(name.as_str(), 1))).unwrap();
    assert_eq!((report.topics.len(), report.is_cut), (2, true));
    ledger.update(NodeSummary::default(), [TopicSnapshot { is_cut: true, ..seen(TopicNumber(1)) }]);
    ledger.begin_round(&mut progress, 0);
    assert!(ledger.next_report(&mut progress, |_| None).unwrap().is_cut, "channels of a topic are left out");
    let wide = TopicStats {
        topic_name: "t".into(),
        channels: vec![ChannelStats { channel_name: "c".into(), ..ChannelStats::default() }; 2],
        ..TopicStats::default()
    };
    let seen =
        |channel_count| TopicSnapshot::new(TopicNumber(1), TopicSummary::new(&wide).unwrap(), channel_count);
    assert_eq!((seen(2).entries, seen(2).is_cut, seen(3).is_cut), (3, false, true));
}

#[derive(Debug, Clone)]
enum Step {
    Set(u8, i64),
    Remove(u8),
    /// Deletes and recreates a topic between two updates.
    Renew(u8, i64),
    Update,
    Begin(usize),
    Receive(usize),
    Reconnect(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..8, 0i64..4).prop_map(|(topic, depth)| Step::Set(topic, depth)),
        2 => (0u8..8).prop_map(Step::Remove),
        1 => (0u8..8, 0i64..4).prop_map(|(topic, depth)| Step::Renew(topic, depth)),
        4 => Just(Step::Update),
        2 => (0usize..2).prop_map(Step::Begin),
        4 => (0usize..2).prop_map(Step::Receive),
        1 => (0usize..2).prop_map(Step::Reconnect),
    ]
}

proptest! {
    #[test]
    fn update_and_round_always_report_the_present_state(steps in prop::collection::vec(step(), 0..80)) {
        let (mut ledger, mut has, mut numbers) = (Ledger::default(), Node::new(), Numbers::default());
        let mut lookupds = [Lookupd::default(), Lookupd::default()];
        for step in steps {
            match step {
                Step::Set(topic, depth) => drop(has.insert(format!("t{topic}"), depth)),
                Step::Remove(topic) => drop(has.remove(&format!("t{topic}"))),
                Step::Renew(topic, depth) => {
                    numbers.of.remove(&format!("t{topic}"));
                    has.insert(format!("t{topic}"), depth);
                }
                Step::Update => numbers.update(&mut ledger, &has),
                Step::Begin(which) => ledger.begin_round(&mut lookupds[which].progress, 0),
                Step::Receive(which) => drop(lookupds[which].receive(&mut ledger, &has)),
                Step::Reconnect(which) => lookupds[which] = Lookupd::default(),
            }
        }
        numbers.update(&mut ledger, &has);
        for lookupd in &mut lookupds {
            // First the round in progress, then one that began after the update.
            lookupd.round(&mut ledger, &has);
            lookupd.round(&mut ledger, &has);
            prop_assert_eq!(&lookupd.known, &has);
        }
    }
}
