//! The soak test: a long random mixed load on the real daemons, checked against an independent model.
//!
//! Three nsqds (one per durability level; the one that syncs has a small disk) and an nsqlookupd serve producers and
//! consumers. The clients misbehave in all the usual ways. Meanwhile an operator kills, stops, freezes, pauses,
//! empties, seeks and deletes, and fills the disk. Every delivery is checked when it arrives. At the end everything is
//! drained, and the model reports what is missing.
//!
//! The default duration is one minute; `tests/run --soak MINUTES` changes it. Modules in reading order:
//! - [`model`]: pure; what was published, delivered and finished, and what must never happen
//! - [`body`]: message bodies with a checksum
//! - [`node`]: one nsqd, its topics and their models
//! - [`produce`], [`consume`]: the load
//! - [`operate`]: the operator's actions on the daemons

mod body;
mod consume;
mod model;
mod node;
mod operate;
mod produce;

use std::sync::Arc;
use std::time::{Duration, Instant};

use nsq_tests::{Daemon, test_within};
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinError, JoinSet};

use crate::node::{Kind, Node};

/// What the tasks of the soak do at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Producers publish, consumers misbehave.
    Load,
    /// Producers have stopped; consumers finish every message.
    Drain,
    /// All tasks stop.
    End,
}

/// Time limit for delivering everything after the load has ended.
const DRAIN: Duration = Duration::from_secs(120);
/// Interval of progress reports on stderr.
const REPORT_INTERVAL: Duration = Duration::from_secs(15);

/// Duration of the load.
fn load_time() -> Duration {
    let minutes = std::env::var("NSQ_SOAK_MINUTES").ok();
    let minutes: f64 =
        minutes.map_or(1.0, |text| text.parse().expect("NSQ_SOAK_MINUTES is a number of minutes"));
    assert!((0.05..=10_000.0).contains(&minutes), "NSQ_SOAK_MINUTES must be between 0.05 and 10000");
    Duration::from_secs_f64(minutes * 60.0)
}

#[test]
fn messages_are_not_lost_invented_or_repeated_without_reason() {
    let load = load_time();
    test_within(load + DRAIN + Duration::from_secs(300), soak(load));
}

async fn soak(load: Duration) {
    let lookupd = Arc::new(Mutex::new(Daemon::lookupd().start().await));
    let mut nodes = Vec::new();
    for kind in [Kind::Killed, Kind::Filled, Kind::Volatile] {
        nodes.push(Arc::new(Node::start(kind, &*lookupd.lock().await).await));
    }
    let (phase_tx, phase) = watch::channel(Phase::Load);
    let mut load_tasks = JoinSet::new();
    let mut consumers = JoinSet::new();
    for node in &nodes {
        produce::spawn(&mut load_tasks, node, &phase);
        consume::spawn(&mut consumers, node, &phase);
        load_tasks.spawn(operate::nsqd(node.clone(), phase.clone()));
    }
    load_tasks.spawn(operate::lookupd(lookupd.clone(), phase.clone()));

    let began = Instant::now();
    let mut reported = began;
    while began.elapsed() < load {
        tokio::time::sleep(Duration::from_millis(200)).await;
        check_tasks(&mut load_tasks, &nodes);
        check_tasks(&mut consumers, &nodes);
        for node in &nodes {
            node.check();
        }
        if reported.elapsed() >= REPORT_INTERVAL {
            reported = Instant::now();
            report(began, &nodes);
        }
    }

    phase_tx.send_replace(Phase::Drain);
    while let Some(ended) = load_tasks.join_next().await {
        expect_no_panic(ended, &nodes);
    }
    for node in &nodes {
        node.until_drained(DRAIN, || check_tasks(&mut consumers, &nodes)).await;
    }
    phase_tx.send_replace(Phase::End);
    while let Some(ended) = consumers.join_next().await {
        expect_no_panic(ended, &nodes);
    }
    for node in &nodes {
        node.expect_clean_end(&*lookupd.lock().await).await;
    }
    report(began, &nodes);
}

fn report(began: Instant, nodes: &[Arc<Node>]) {
    eprintln!("soak: {} s", began.elapsed().as_secs());
    for node in nodes {
        eprintln!("  {}", node.summary());
    }
}

/// Panics if a task has panicked.
fn check_tasks(tasks: &mut JoinSet<()>, nodes: &[Arc<Node>]) {
    while let Some(ended) = tasks.try_join_next() {
        expect_no_panic(ended, nodes);
    }
}

fn expect_no_panic(ended: Result<(), JoinError>, nodes: &[Arc<Node>]) {
    if let Err(error) = ended {
        let logs: Vec<String> = nodes.iter().map(|node| node.log()).collect();
        panic!("a soak task failed: {error}\n{}", logs.join("\n"));
    }
}
