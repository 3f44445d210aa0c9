use std::time::SystemTime;

use nsq_protocol::drain::DrainStatus;

use super::super::{Problem, problems};
use super::*;
use crate::answers::NodeError;
use crate::snapshot::{
    ChannelFigures, ClockOffset, Listing, LookupdView, Rates, StorageView, TopicFigures, TopicPart, Totals,
};

const SECOND: Duration = Duration::from_secs(1);

/// A cluster with two nodes that are fine, one nsqlookupd, and a topic with one channel on both nodes.
fn healthy() -> Snapshot {
    let listing = |node| Listing {
        node,
        remote_address: String::new(),
        topics: vec!["orders".into()],
        tombstones: Vec::new(),
    };
    let mut snapshot = Snapshot::empty(Duration::from_secs(5));
    snapshot.number = 1;
    snapshot.taken_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    snapshot.nodes = vec![node("a:4151"), node("b:4151")];
    snapshot.lookupds = vec![lookupd("l:4161", vec![listing(0), listing(1)])];
    snapshot.topics = vec![topic("orders", TopicFigures::default())];
    set_parts(&mut snapshot, vec![busy(), busy()]);
    snapshot
}

fn node(address: &str) -> NodeView {
    NodeView {
        address: address.to_owned(),
        tcp_address: None,
        key: address.to_owned(),
        hostname: String::new(),
        broadcast_address: String::new(),
        version: "1.3.0".to_owned(),
        zone: String::new(),
        region: String::new(),
        reach: Reach::Up,
        age: Some(Duration::ZERO),
        error: None,
        is_skipped: false,
        lookupds: vec![0],
        is_configured: false,
        health: "OK".to_owned(),
        started_at: Some(SystemTime::UNIX_EPOCH),
        restarted_at: None,
        clock_ahead: None,
        round_trip: None,
        drain: None,
        storage: None,
        memory_bytes: None,
        totals: Totals::default(),
    }
}

fn lookupd(address: &str, nodes: Vec<Listing>) -> LookupdView {
    let (reach, age) = (Reach::Up, Some(Duration::ZERO));
    LookupdView { address: address.to_owned(), reach, age, error: None, is_skipped: false, nodes }
}

fn topic(name: &str, figures: TopicFigures) -> TopicView {
    let parts = vec![TopicPart { node: 0, figures: figures.clone() }];
    TopicView { name: name.into(), sum: figures, parts, channels: Vec::new() }
}

/// A channel that keeps up.
fn busy() -> ChannelFigures {
    let rates = Some(Rates { ingress: 100.0, egress: 100.0, ..Rates::default() });
    ChannelFigures { depth: 5, in_flight_count: 3, client_count: 1, rates, ..ChannelFigures::default() }
}

/// Gives the channel `billing` of the first topic these figures on the nodes.
fn set_parts(snapshot: &mut Snapshot, parts: Vec<ChannelFigures>) {
    let mut sum = ChannelFigures::default();
    parts.iter().for_each(|part| sum.add(part));
    let parts = parts.into_iter().enumerate().map(|(node, figures)| ChannelPart { node, figures }).collect();
    snapshot.topics[0].channels = vec![ChannelView { name: "billing".into(), sum, parts }];
}

/// The snapshot with the channel on the first node only.
fn with_channel(figures: ChannelFigures) -> Snapshot {
    let mut snapshot = healthy();
    set_parts(&mut snapshot, vec![figures]);
    snapshot
}

/// What a sampler reports that has seen the same state for this long.
fn found_after(snapshot: &Snapshot, lasts: Duration) -> Vec<Problem> {
    let (mut snapshot, thresholds) = (snapshot.clone(), Thresholds::default());
    let mut history = History::new();
    history.observe(&snapshot, &thresholds);
    snapshot.taken_at += lasts;
    // What is measured from the moment of the sample stays as far away.
    for node in &mut snapshot.nodes {
        node.started_at = node.started_at.filter(|at| *at != SystemTime::UNIX_EPOCH).map(|at| at + lasts);
    }
    history.observe(&snapshot, &thresholds);
    problems(&snapshot, &history, &thresholds)
}

/// The rules that apply after this long, with their severities.
fn rules_after(snapshot: &Snapshot, lasts: Duration) -> Vec<(RuleId, Severity)> {
    found_after(snapshot, lasts).into_iter().map(|problem| (problem.rule, problem.severity)).collect()
}

fn found(snapshot: &Snapshot) -> Vec<(RuleId, Severity)> {
    rules_after(snapshot, Duration::from_secs(599))
}

#[track_caller]
fn check_lasting(snapshot: &Snapshot, rule: RuleId, severity: Severity, lasts: Duration) {
    assert!(!rules_after(snapshot, lasts - SECOND).iter().any(|(id, _)| *id == rule), "too early");
    assert!(rules_after(snapshot, lasts).contains(&(rule, severity)), "{:?}", rules_after(snapshot, lasts));
}

fn error(address: &str) -> Option<NodeError> {
    let (node, code) = (address.to_owned(), "TIMEOUT".to_owned());
    Some(NodeError { node, op: "stats", code, message: "no answer within 5s".to_owned() })
}

#[test]
fn nothing_is_wrong_with_a_healthy_cluster() {
    assert_eq!(found(&healthy()), []);
    assert_eq!(found(&Snapshot::empty(SECOND)), []);
}

#[test]
fn node_that_does_not_answer_is_down_at_once_and_its_figures_count_no_more() {
    let mut snapshot = healthy();
    set_parts(&mut snapshot, vec![busy(), ChannelFigures { depth: 9, ..ChannelFigures::default() }]);
    let node = &mut snapshot.nodes[1];
    (node.reach, node.error, node.age) = (Reach::Down, error("b:4151"), Some(Duration::from_secs(90)));
    let problems = found_after(&snapshot, Duration::ZERO);
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    assert_eq!(
        (problem.rule, problem.severity, problem.figure),
        (RuleId::NodeDown, Severity::Critical, 90.0)
    );
    assert_eq!(problem.what, "nsqd does not answer (no answer within 5s); its figures are 1 min old");
    assert_eq!((&*problem.next, &*problem.id()), ("nsq ping --nsqd b:4151", "node-down:b:4151"));
    // A late answer is no failure.
    snapshot.nodes[1].reach = Reach::Late;
    assert!(!found(&snapshot).iter().any(|(rule, _)| *rule == RuleId::NodeDown));
}

#[test]
fn unhealthy_node_says_why() {
    let mut snapshot = healthy();
    snapshot.nodes[0].health = "NOK - disk full".to_owned();
    let problems = found_after(&snapshot, Duration::ZERO);
    assert_eq!(
        (problems[0].rule, &*problems[0].what),
        (RuleId::NodeUnhealthy, "nsqd reports NOK - disk full")
    );
    snapshot.nodes[0].health = String::new();
    assert_eq!(found(&snapshot), []);
}

#[test]
fn one_lookupd_down_is_a_warning_and_all_are_critical() {
    let mut snapshot = healthy();
    snapshot.lookupds.push(lookupd("m:4161", snapshot.lookupds[0].nodes.clone()));
    snapshot.lookupds[1].reach = Reach::Down;
    assert_eq!(found(&snapshot), [(RuleId::LookupdDown, Severity::Warning)]);
    snapshot.lookupds[0].reach = Reach::Down;
    assert_eq!(found(&snapshot), [(RuleId::LookupdDown, Severity::Critical); 2]);
}

#[test]
fn lookupds_disagree_about_nodes_and_topics_after_two_minutes() {
    let mut snapshot = healthy();
    let mut listings = snapshot.lookupds[0].nodes.clone();
    let missing = listings.pop().unwrap();
    snapshot.lookupds.push(lookupd("m:4161", listings.clone()));
    check_lasting(&snapshot, RuleId::LookupdDisagree, Severity::Warning, Duration::from_secs(120));
    // The same listing: they agree.
    listings.push(missing);
    snapshot.lookupds[1].nodes = listings.clone();
    assert_eq!(found(&snapshot), []);
    listings[0].topics.clear();
    snapshot.lookupds[1].nodes = listings;
    let problems = found_after(&snapshot, Duration::from_secs(120));
    assert_eq!(problems[0].what, "1 topic of the node missing here, such as orders");
    assert_eq!(problems[0].place.lookupd.as_deref(), Some("m:4161"));
    // One that does not answer says nothing.
    snapshot.lookupds[1].reach = Reach::Down;
    assert_eq!(found(&snapshot), [(RuleId::LookupdDown, Severity::Warning)]);
}

#[test]
fn depth_without_any_consumer_is_critical_after_a_minute() {
    let alone = ChannelFigures { depth: 1234, ..ChannelFigures::default() };
    let snapshot = with_channel(alone.clone());
    check_lasting(&snapshot, RuleId::NoConsumers, Severity::Critical, Duration::from_secs(60));
    let problems = found_after(&snapshot, Duration::from_secs(60));
    assert_eq!(problems[0].what, "1,234 messages and no consumer, on a:4151");
    assert_eq!(problems[0].since, snapshot.taken_at);
    assert_eq!(problems[0].next, "nsq why orders/billing");
    assert_eq!(found(&with_channel(ChannelFigures { depth: 0, ..alone.clone() })), []);
    assert_eq!(found(&with_channel(ChannelFigures { client_count: 1, ..alone.clone() })), []);
    let paused = with_channel(ChannelFigures { paused: true, ..alone.clone() });
    assert_eq!(found(&paused), [(RuleId::Paused, Severity::Info)]);
    let mut ephemeral = with_channel(alone.clone());
    ephemeral.topics[0].channels[0].name = "billing#ephemeral".into();
    assert_eq!(found(&ephemeral), []);
    let mut ephemeral = with_channel(alone);
    ephemeral.topics[0].name = "orders#ephemeral".into();
    assert_eq!(found(&ephemeral), []);
}

#[test]
fn node_that_the_consumers_missed_is_a_gap() {
    let mut snapshot = healthy();
    let missed = ChannelFigures { depth: 1, client_count: 0, ..ChannelFigures::default() };
    set_parts(&mut snapshot, vec![busy(), missed.clone()]);
    check_lasting(&snapshot, RuleId::ConsumerGap, Severity::Critical, Duration::from_secs(5));
    let problems = found_after(&snapshot, Duration::from_secs(5));
    assert_eq!(problems[0].place.nodes, ["b:4151"]);
    assert_eq!(problems[0].what, "1 message on b:4151, without a consumer there");
    set_parts(&mut snapshot, vec![busy(), ChannelFigures { depth: 0, ..missed.clone() }]);
    assert_eq!(found(&snapshot), []);
    set_parts(&mut snapshot, vec![busy(), ChannelFigures { paused: true, ..missed }]);
    assert_eq!(found(&snapshot), [(RuleId::Paused, Severity::Info)]);
}

#[test]
fn condition_that_ends_begins_anew() {
    let thresholds = Thresholds::default();
    let mut history = History::new();
    let mut snapshot = with_channel(ChannelFigures { depth: 9, ..ChannelFigures::default() });
    history.observe(&snapshot, &thresholds);
    let mut gone = healthy();
    gone.taken_at = snapshot.taken_at + SECOND * 50;
    history.observe(&gone, &thresholds);
    snapshot.taken_at += SECOND * 61;
    history.observe(&snapshot, &thresholds);
    assert_eq!(problems(&snapshot, &history, &thresholds), []);
    // The nodes change while it lasts.
    set_parts(&mut snapshot, vec![ChannelFigures { depth: 9, ..ChannelFigures::default() }; 2]);
    snapshot.taken_at += SECOND * 60;
    history.observe(&snapshot, &thresholds);
    let problems = problems(&snapshot, &history, &thresholds);
    assert_eq!(problems[0].rule, RuleId::NoConsumers);
    assert_eq!(snapshot.taken_at.duration_since(problems[0].since).unwrap(), SECOND * 60);
}

#[test]
fn messages_in_flight_that_nobody_finishes_are_stuck() {
    let rates = |egress, requeue, timeout| Some(Rates { egress, requeue, timeout, ..Rates::default() });
    let stuck = ChannelFigures { depth: 0, rates: rates(0.0, 0.0, 0.0), ..busy() };
    check_lasting(&with_channel(stuck.clone()), RuleId::Stuck, Severity::Critical, SECOND * 60);
    // Timing out is no answer; requeueing is.
    let times_out = ChannelFigures { rates: rates(0.0, 0.0, 0.5), ..stuck.clone() };
    check_lasting(&with_channel(times_out), RuleId::Stuck, Severity::Critical, SECOND * 60);
    assert_eq!(found(&with_channel(ChannelFigures { rates: rates(0.1, 0.0, 0.0), ..stuck.clone() })), []);
    assert_eq!(found(&with_channel(ChannelFigures { rates: rates(0.0, 0.1, 0.0), ..stuck.clone() })), []);
    assert_eq!(found(&with_channel(ChannelFigures { in_flight_count: 0, ..stuck.clone() })), []);
    assert_eq!(found(&with_channel(ChannelFigures { rates: None, ..stuck })), []);
}

#[test]
fn rising_depth_is_falling_behind_and_worse_after_ten_minutes() {
    let rates = |ingress, egress, depth| Some(Rates { ingress, egress, depth, ..Rates::default() });
    let slow = ChannelFigures { depth: 500, rates: rates(106.0, 100.0, 6.0), ..busy() };
    let snapshot = with_channel(slow.clone());
    check_lasting(&snapshot, RuleId::FallingBehind, Severity::Warning, SECOND * 30);
    assert_eq!(rules_after(&snapshot, SECOND * 599), [(RuleId::FallingBehind, Severity::Warning)]);
    assert_eq!(rules_after(&snapshot, SECOND * 600), [(RuleId::FallingBehind, Severity::Critical)]);
    assert_eq!(found_after(&snapshot, SECOND * 30)[0].what, "depth 500 grows: 106 in, 100 out per second");
    assert_eq!(found(&with_channel(ChannelFigures { rates: rates(105.0, 100.0, 5.0), ..slow.clone() })), []);
    assert_eq!(found(&with_channel(ChannelFigures { rates: rates(200.0, 100.0, 0.0), ..slow.clone() })), []);
    let paused = with_channel(ChannelFigures { paused: true, ..slow });
    assert_eq!(found(&paused), [(RuleId::Paused, Severity::Info)]);
}

#[test]
fn consumers_that_take_nothing_back_off() {
    let rates = Some(Rates { ingress: 1.0, ..Rates::default() });
    let idle = ChannelFigures { depth: 40, in_flight_count: 0, client_count: 2, rates, ..busy() };
    check_lasting(&with_channel(idle.clone()), RuleId::BackingOff, Severity::Warning, SECOND * 10);
    assert_eq!(
        found_after(&with_channel(idle.clone()), SECOND * 10)[0].what,
        "40 messages wait; 2 consumers take none"
    );
    assert_eq!(found(&with_channel(ChannelFigures { depth: 0, ..idle.clone() })), []);
    assert_eq!(
        found(&with_channel(ChannelFigures { in_flight_count: 1, rates: busy().rates, ..idle.clone() })),
        []
    );
    // The channel holds them back, not its consumers.
    let extra = Some(Box::new(ChannelExtra { throttled: true, ..ChannelExtra::default() }));
    assert_eq!(
        found(&with_channel(ChannelFigures { extra, ..idle.clone() })),
        [(RuleId::Throttled, Severity::Info)]
    );
    let mut paused = with_channel(idle);
    paused.topics[0].sum.paused = true;
    assert_eq!(found(&paused), [(RuleId::Paused, Severity::Info)]);
}

#[test]
fn requeues_and_timeouts_count_as_a_part_of_the_deliveries() {
    let rates = |egress, requeue, timeout| {
        with_channel(ChannelFigures {
            rates: Some(Rates { ingress: egress, egress, requeue, timeout, ..Rates::default() }),
            ..busy()
        })
    };
    check_lasting(&rates(80.0, 20.0, 0.0), RuleId::RequeueStorm, Severity::Warning, SECOND * 30);
    assert_eq!(
        found_after(&rates(80.0, 20.0, 0.0), SECOND * 30)[0].what,
        "20 % of 100 deliveries per second are requeued"
    );
    assert_eq!(found(&rates(90.0, 10.0, 0.0)), []);
    check_lasting(&rates(98.0, 0.0, 2.0), RuleId::Timeouts, Severity::Warning, SECOND * 30);
    assert_eq!(found(&rates(99.0, 0.0, 1.0)), []);
    // Too few to say anything.
    assert_eq!(found(&rates(0.4, 0.5, 0.0)), []);
}

#[test]
fn pause_is_worth_a_warning_after_an_hour() {
    let mut snapshot = healthy();
    snapshot.topics[0].sum.paused = true;
    assert_eq!(rules_after(&snapshot, Duration::ZERO), [(RuleId::Paused, Severity::Info)]);
    assert_eq!(rules_after(&snapshot, SECOND * 3599), [(RuleId::Paused, Severity::Info)]);
    let problems = found_after(&snapshot, SECOND * 3600);
    assert_eq!((problems[0].severity, &*problems[0].next), (Severity::Warning, "nsq topic unpause orders"));
}

#[test]
fn topic_with_depth_needs_a_channel() {
    let figures = TopicFigures { depth: 7, ..TopicFigures::default() };
    let named = |name| {
        let mut snapshot = healthy();
        snapshot.topics = vec![topic(name, figures.clone())];
        snapshot
    };
    check_lasting(&named("orders"), RuleId::NoChannel, Severity::Warning, SECOND * 60);
    assert_eq!(found(&named("orders#ephemeral")), []);
    assert_eq!(found(&named("orders.dead")), []);
    let mut paused = named("orders");
    paused.topics[0].sum.paused = true;
    assert_eq!(found(&paused), [(RuleId::Paused, Severity::Info)]);
    let mut empty = named("orders");
    empty.topics[0].sum.depth = 0;
    assert_eq!(found(&empty), []);
}

#[test]
fn backlog_that_grows_on_disk_is_spilling() {
    let rates = |backend_depth| Some(Rates { egress: 1.0, backend_depth, ..Rates::default() });
    let spilling = ChannelFigures { backend_depth: 9, rates: rates(0.5), ..busy() };
    check_lasting(&with_channel(spilling.clone()), RuleId::Spilling, Severity::Info, SECOND * 60);
    assert_eq!(found(&with_channel(ChannelFigures { rates: rates(0.0), ..spilling })), []);
}

#[test]
fn disk_is_full_soon_by_its_trend_or_by_what_is_left() {
    let with_disk = |free_bytes, shrinks_by| {
        let mut snapshot = healthy();
        snapshot.nodes[0].storage =
            Some(StorageView { free_bytes, size_bytes: 1000 << 20, shrinks_by, ..StorageView::default() });
        snapshot
    };
    let rule = [(RuleId::DiskFullSoon, Severity::Critical)];
    assert_eq!(found(&with_disk(500 << 20, Some(40_000.0))), rule);
    assert_eq!(found(&with_disk(500 << 20, Some(36_000.0))), []);
    assert_eq!(found(&with_disk(500 << 20, Some(-1.0))), []);
    assert_eq!(found(&with_disk(500 << 20, None)), []);
    assert_eq!(found(&with_disk(49 << 20, None)), rule);
    assert_eq!(found_after(&with_disk(49 << 20, None), SECOND)[0].what, "4.9 % of the disk is free (49 MiB)");
    assert_eq!(found(&with_disk(50 << 20, None)), []);
}

#[test]
fn old_messages_are_a_warning_unless_they_wait_on_purpose() {
    let aged = |minutes| ChannelFigures { oldest_age: Some(SECOND * 60 * minutes), ..busy() };
    assert_eq!(found(&with_channel(aged(15))), []);
    assert_eq!(found(&with_channel(aged(16))), [(RuleId::OldMessage, Severity::Warning)]);
    assert_eq!(
        found(&with_channel(ChannelFigures { paused: true, ..aged(16) })),
        [(RuleId::Paused, Severity::Info)]
    );
    let mut dead = with_channel(aged(16));
    dead.topics[0].name = "orders.dead".into();
    assert_eq!(found(&dead), []);
}

#[test]
fn limits_of_a_channel_are_reported() {
    let with = |extra: ChannelExtra| with_channel(ChannelFigures { extra: Some(Box::new(extra)), ..busy() });
    let full = with(ChannelExtra { is_full: true, ..ChannelExtra::default() });
    assert_eq!(rules_after(&full, Duration::ZERO), [(RuleId::ChannelFull, Severity::Critical)]);
    let limited = with(ChannelExtra { in_flight_limit_reached: true, ..ChannelExtra::default() });
    check_lasting(&limited, RuleId::Throttled, Severity::Info, SECOND * 60);
    let blocked = with(ChannelExtra { reading_stopped: true, held_count: 5, ..ChannelExtra::default() });
    assert_eq!(found(&blocked), [(RuleId::OrderBlocked, Severity::Warning)]);
    let pending = with(ChannelExtra { dead_letter_pending: 2, ..ChannelExtra::default() });
    check_lasting(&pending, RuleId::DeadLettersStuck, Severity::Critical, SECOND * 60);
}

#[test]
fn counters_that_rose_lately_are_reported_for_a_while() {
    let counted = |dead_lettered_count, expired_count, overflow_count| {
        let extra =
            ChannelExtra { dead_lettered_count, expired_count, overflow_count, ..ChannelExtra::default() };
        with_channel(ChannelFigures { extra: Some(Box::new(extra)), ..busy() })
    };
    let thresholds = Thresholds::default();
    let mut history = History::new();
    let mut look = |snapshot: Snapshot, at: u64| {
        let snapshot =
            Snapshot { taken_at: snapshot.taken_at + SECOND * u32::try_from(at).unwrap(), ..snapshot };
        history.observe(&snapshot, &thresholds);
        let found = problems(&snapshot, &history, &thresholds);
        found.into_iter().map(|problem| (problem.rule, problem.figure)).collect::<Vec<_>>()
    };
    // What happened before the first sample is not news.
    assert_eq!(look(counted(5, 5, 5), 0), []);
    assert_eq!(look(counted(5, 5, 5), 5), []);
    assert_eq!(look(counted(7, 5, 5), 10), [(RuleId::DeadLetters, 2.0)]);
    let all = [(RuleId::DeadLetters, 2.0), (RuleId::Dropping, 4.0), (RuleId::Expired, 1.0)];
    assert_eq!(look(counted(7, 6, 9), 15), all);
    assert_eq!(look(counted(7, 6, 9), 609), all);
    assert_eq!(look(counted(7, 6, 9), 610), all[1..]);
    assert_eq!(look(counted(7, 6, 9), 615), []);
    // Counters that began again.
    assert_eq!(look(counted(1, 1, 1), 620), []);
}

#[test]
fn counters_of_a_node_that_joins_are_no_news() {
    let extra =
        |count| Some(Box::new(ChannelExtra { dead_lettered_count: count, ..ChannelExtra::default() }));
    let thresholds = Thresholds::default();
    let mut history = History::new();
    let mut alone = healthy();
    alone.nodes.truncate(1);
    alone.lookupds.clear();
    set_parts(&mut alone, vec![busy()]);
    history.observe(&alone, &thresholds);
    let mut joined = healthy();
    set_parts(&mut joined, vec![busy(), ChannelFigures { extra: extra(9), ..busy() }]);
    history.observe(&joined, &thresholds);
    assert_eq!(problems(&joined, &history, &thresholds), []);
    set_parts(
        &mut joined,
        vec![ChannelFigures { extra: extra(1), ..busy() }, ChannelFigures { extra: extra(9), ..busy() }],
    );
    history.observe(&joined, &thresholds);
    assert_eq!(problems(&joined, &history, &thresholds)[0].figure, 1.0);
}

#[test]
fn topics_that_drop_messages_are_reported() {
    let dropped = |overflow_count| {
        let mut snapshot = healthy();
        snapshot.topics[0].parts[0].figures.overflow_count = overflow_count;
        snapshot
    };
    let thresholds = Thresholds::default();
    let mut history = History::new();
    history.observe(&dropped(1), &thresholds);
    history.observe(&dropped(3), &thresholds);
    let found = problems(&dropped(3), &history, &thresholds);
    assert_eq!((found[0].rule, &*found[0].id()), (RuleId::Dropping, "dropping:orders"));
    assert_eq!(found[0].what, "2 messages dropped because the topic held too many");
}

#[test]
fn state_of_nodes_is_worth_knowing() {
    let mut snapshot = healthy();
    snapshot.nodes[0].drain =
        Some(DrainStatus { draining: true, remaining_count: 4, ..DrainStatus::default() });
    assert_eq!(found_after(&snapshot, SECOND)[0].what, "the node is draining: 4 messages to go");
    let mut snapshot = healthy();
    snapshot.nodes[1].version = "1.2.1".to_owned();
    assert_eq!(found_after(&snapshot, SECOND)[0].what, "nodes run versions 1.2.1, 1.3.0");
    let mut snapshot = healthy();
    snapshot.nodes[0].started_at = Some(snapshot.taken_at - SECOND * 599);
    assert_eq!(found(&snapshot), [(RuleId::Restarted, Severity::Info)]);
    snapshot.nodes[0].started_at = Some(snapshot.taken_at - SECOND * 600);
    assert_eq!(found(&snapshot), []);
    let mut snapshot = healthy();
    snapshot.lookupds[0].nodes[1].tombstones = vec!["orders".into()];
    let problems = found_after(&snapshot, SECOND);
    assert_eq!((problems[0].rule, &*problems[0].what), (RuleId::Tombstoned, "tombstoned on b:4151"));
}

#[test]
fn clocks_may_differ_by_five_seconds() {
    let off_by = |seconds| {
        let mut snapshot = healthy();
        snapshot.nodes[0].clock_ahead = Some(ClockOffset(seconds));
        snapshot
    };
    assert_eq!(found(&off_by(5.0)), []);
    assert_eq!(found(&off_by(-5.0)), []);
    assert_eq!(found_after(&off_by(-9.7), SECOND)[0].what, "its clock is 10 s behind");
    assert_eq!(found(&off_by(5.1)), [(RuleId::ClockSkew, Severity::Warning)]);
}

#[test]
fn worst_problems_come_first() {
    let mut snapshot = healthy();
    snapshot.nodes[0].drain = Some(DrainStatus::default());
    snapshot.nodes[1].health = "NOK".to_owned();
    snapshot.lookupds.push(lookupd("m:4161", Vec::new()));
    snapshot.lookupds[1].reach = Reach::Down;
    let severities: Vec<_> = found(&snapshot).into_iter().map(|(_, severity)| severity).collect();
    assert_eq!(severities, [Severity::Critical, Severity::Warning, Severity::Info]);
}

#[test]
fn figures_are_written_for_people() {
    assert_eq!([1, 999, 1000, 1_234_567].map(grouped), ["1", "999", "1,000", "1,234,567"]);
    assert_eq!([59, 60, 3700, 90_000].map(|s| time(SECOND * s)), ["59 s", "1 min", "1 h 1 min", "1 d 1 h"]);
    assert_eq!([1023, 2048, 3 << 40].map(bytes), ["1023 B", "2 KiB", "3.0 TiB"]);
    assert_eq!([0.25, 3.0, 12.5].map(figure), ["0.2", "3", "12"]);
}
