//! Tests of statistics with heartbeats, against a fake nsqlookupd on a real socket.

use std::collections::BTreeMap;

use nsq_protocol::heartbeat::{HEARTBEAT_STATS, NodeSummary, StatsReport, TopicSummary, refresh_request};
use nsq_protocol::{ChannelStats, LookupCommand, TopicStats, put_lookup_response};

use super::fake::{Answer, DEADLINE, FakeLookupd, Node, calm, node_info};
use super::ledger::TopicSnapshot;
use super::*;
use crate::storage::TopicNumber;

/// Made-up topics with their depths.
#[derive(Default)]
struct FakeStats(Mutex<BTreeMap<String, i64>>);

impl FakeStats {
    fn set(&self, topic: &str, depth: i64) {
        self.0.lock().insert(topic.to_owned(), depth);
    }
}

fn summary(name: &str, depth: i64) -> TopicSummary {
    let expired_count = depth.unsigned_abs();
    let channels =
        vec![ChannelStats { channel_name: "c".to_owned(), expired_count, ..ChannelStats::default() }];
    let stats = TopicStats { topic_name: name.to_owned(), depth, channels, ..TopicStats::default() };
    TopicSummary::new(&stats).unwrap()
}

impl NodeStats for FakeStats {
    fn snapshot(&self) -> Option<(NodeSummary, Vec<TopicSnapshot>)> {
        let topics = self.0.lock();
        let number = |name: &str| {
            TopicNumber(name.bytes().fold(0, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(byte.into())))
        };
        let seen = topics
            .iter()
            .map(|(name, depth)| TopicSnapshot::new(number(name), summary(name, *depth), 0))
            .collect();
        let node = NodeSummary { start_time: 5, topic_count: topics.len() as u64, ..NodeSummary::default() };
        Some((node, seen))
    }

    fn topic(&self, name: &TopicName) -> Option<TopicSummary> {
        self.0.lock().get(name.as_str()).map(|depth| summary(name.as_str(), *depth))
    }
}

/// Very frequent heartbeats.
fn frequent_pings() -> Timing {
    Timing { ping_interval: Duration::from_millis(5), ..calm() }
}

/// A fake that wants statistics. It passes each report to `take`, and answers PING and STATS as `take` returns.
async fn stats_lookupd(mut take: impl FnMut(Option<&StatsReport>) -> Answer + Send + 'static) -> FakeLookupd {
    let fake = FakeLookupd::scripted(move |command| match command {
        LookupCommand::Stats(body) => take(Some(&StatsReport::decode(body).unwrap())),
        LookupCommand::Ping => take(None),
        _ => Answer::Right,
    });
    let fake = fake.await;
    fake.set_heartbeat_stats(HEARTBEAT_STATS);
    fake
}

fn node(fake: &FakeLookupd, stats: &Arc<FakeStats>) -> Node {
    let peer = PeerInfo { heartbeat_stats: HEARTBEAT_STATS, ..node_info() };
    let node = Node::start_with(vec![fake.address.clone()], peer, frequent_pings());
    node.peers.report(stats.clone());
    node.attach();
    node
}

/// Waits until `found` returns a value for the reports so far.
async fn until<T>(
    reports: &watch::Receiver<Vec<StatsReport>>,
    found: impl Fn(&[StatsReport]) -> Option<T>,
) -> T {
    let mut reports = reports.clone();
    let seen = timeout(DEADLINE, reports.wait_for(|reports| found(reports).is_some())).await;
    found(&seen.expect("in time").expect("the fake lives")).expect("it was found")
}

#[tokio::test]
async fn heartbeats_carry_changed_statistics() {
    let reports = watch::Sender::new(Vec::new());
    let seen = reports.subscribe();
    let fake = stats_lookupd(move |report| {
        reports.send_modify(|reports| reports.extend(report.cloned()));
        Answer::Right
    });
    let fake = fake.await;
    let stats = Arc::new(FakeStats::default());
    stats.set("a", 1);
    stats.set("b", 1);
    let _node = node(&fake, &stats);

    let first = until(&seen, |reports| reports.first().cloned()).await;
    assert!(first.is_first && first.is_last && !first.is_cut);
    assert_eq!((first.topics.len(), first.node.topic_count, first.node.start_time), (2, 2, 5));
    let idle = until(&seen, |reports| reports.get(1).cloned()).await;
    assert!(!idle.is_first && idle.is_last && idle.topics.is_empty(), "nothing is reported twice: {idle:?}");
    *stats.0.lock() = BTreeMap::from([("b".to_owned(), 7)]);
    let has_both = |report: &&StatsReport| !report.topics.is_empty() && !report.removed.is_empty();
    let change = until(&seen, |reports| reports[1..].iter().find(has_both).cloned()).await;
    assert_eq!((change.topics.len(), change.topics[0].depth, change.removed[0].as_str()), (1, 7, "a"));
    assert!(fake.seen().count("PING") > 0);

    // After a reconnect, the nsqlookupd has forgotten everything.
    let count = seen.borrow().len();
    fake.break_connections();
    let again = until(&seen, |reports| reports[count..].iter().find(|report| report.is_first).cloned()).await;
    assert_eq!(again.topics.len(), 1);
}

#[tokio::test]
async fn older_nsqlookupd_gets_its_version_of_the_statistics() {
    for (version, expired_count) in [(1, 0), (HEARTBEAT_STATS, 3)] {
        let reports = watch::Sender::new(Vec::new());
        let seen = reports.subscribe();
        let fake = stats_lookupd(move |report| {
            reports.send_modify(|reports| reports.extend(report.cloned()));
            Answer::Right
        });
        let fake = fake.await;
        fake.set_heartbeat_stats(version);
        let stats = Arc::new(FakeStats::default());
        stats.set("a", 3);
        let _node = node(&fake, &stats);
        let first = until(&seen, |reports| reports.first().cloned()).await;
        assert_eq!(first.topics[0].channels[0].departures.expired_count, expired_count, "version {version}");
    }
}

#[tokio::test]
async fn refresh_request_gets_fresh_statistics() {
    let reports = watch::Sender::new(Vec::new());
    let seen = reports.subscribe();
    let stats = Arc::new(FakeStats::default());
    stats.set("a", 1);
    let behind = stats.clone();
    let mut asked = false;
    let fake = stats_lookupd(move |report| {
        if let Some(report) = report {
            reports.send_modify(|reports| reports.push(report.clone()));
            return Answer::Right;
        }
        let mut answer = Vec::new();
        if !std::mem::replace(&mut asked, true) {
            // One request before the expected answer, and one after it.
            behind.set("a", 2);
            put_lookup_response(&mut answer, &refresh_request(41));
            put_lookup_response(&mut answer, b"OK");
            put_lookup_response(&mut answer, &refresh_request(42));
        } else {
            put_lookup_response(&mut answer, b"OK");
        }
        Answer::Raw(answer)
    });
    let fake = fake.await;
    let _node = node(&fake, &stats);
    let fresh = until(&seen, |reports| reports.iter().find(|report| report.refresh == 42).cloned()).await;
    assert!(fresh.is_last);
    let last = seen.borrow().iter().flat_map(|report| &report.topics).map(|topic| topic.depth).next_back();
    assert_eq!(last, Some(2));
    assert_eq!(fake.seen().count("connected"), 1);
}

#[tokio::test]
async fn nsqlookupd_without_the_extension_gets_plain_pings() {
    let fake = FakeLookupd::start().await;
    let _node = node(&fake, &Arc::new(FakeStats::default()));
    let seen = fake.until(|seen| seen.count("PING") >= 5).await;
    assert!(
        seen.peer.as_ref().is_some_and(|peer| peer.heartbeat_stats == HEARTBEAT_STATS),
        "the node offers statistics"
    );
    assert_eq!((seen.count("STATS"), seen.count("connected")), (0, 1));
}

#[tokio::test]
async fn node_without_the_extension_sends_no_statistics() {
    let fake = stats_lookupd(|_| Answer::Right).await;
    let node = Node::start(&[&fake], frequent_pings());
    node.peers.report(Arc::new(FakeStats::default()));
    node.attach();
    assert_eq!(fake.until(|seen| seen.count("PING") >= 5).await.count("STATS"), 0);
}

#[tokio::test]
async fn refused_report_keeps_the_connection_and_ends_statistics() {
    let refused = || {
        let mut answer = Vec::new();
        put_lookup_response(&mut answer, b"E_BAD_BODY STATS not a report");
        Answer::Raw(answer)
    };
    let fake = stats_lookupd(move |report| if report.is_some() { refused() } else { Answer::Right }).await;
    let stats = Arc::new(FakeStats::default());
    let node = node(&fake, &stats);
    let seen = fake.until(|seen| seen.count("STATS") == 1 && seen.count("PING") >= 5).await;
    assert_eq!((seen.count("STATS"), seen.count("connected")), (1, 1));
    assert_eq!(node.count_lines("refuses statistics"), 1);
}

#[tokio::test]
async fn registrations_do_not_wait_for_a_long_round_of_reports() {
    let fake = stats_lookupd(|_| Answer::Right).await;
    let stats = Arc::new(FakeStats::default());
    for number in 0..20_000 {
        stats.set(&format!("t{number}"), 1);
    }
    let node = node(&fake, &stats);
    fake.until(|seen| seen.count("STATS") >= 1).await;
    node.create("new", &[]);
    let seen = fake.until_listed(&["new"]).await;
    let place = |line: &str| seen.log.iter().position(|other| other == line).unwrap();
    assert!(place("REGISTER new") > place("STATS"));
    fake.until(|seen| seen.count("STATS") >= 50).await;
}
