//! The operator: kills, stops, freezes, pauses, empties, seeks, deletes, fills the disk, and reads statistics.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nsq_tests::{Daemon, Peer, wait};
use rand::Rng;
use rustix::process::Signal;
use tokio::sync::{Mutex, watch};

use crate::Phase;
use crate::consume::MAX_IN_FLIGHT;
use crate::node::{Kind, Load, Node, TOPICS, random_ms};

/// How far back a channel is moved. Less than the retention time of the topic.
const MOVE_WITHIN: Duration = Duration::from_secs(15);

/// An action on a node.
#[derive(Debug, Clone, Copy)]
enum Action {
    Kill,
    Stop,
    Freeze,
    PauseTopic,
    PauseChannel,
    EmptyTopic,
    EmptyChannel,
    MoveBack,
    MoveToEnd,
    DeleteTopic,
    FillDisk,
    ReadStatistics,
    SendGarbage,
}

/// All actions, with the weight of each.
const ACTIONS: [(Action, u32); 13] = [
    (Action::Kill, 4),
    (Action::Stop, 2),
    (Action::Freeze, 1),
    (Action::PauseTopic, 2),
    (Action::PauseChannel, 3),
    (Action::EmptyTopic, 1),
    (Action::EmptyChannel, 2),
    (Action::MoveBack, 4),
    (Action::MoveToEnd, 1),
    (Action::DeleteTopic, 2),
    (Action::FillDisk, 2),
    (Action::ReadStatistics, 3),
    (Action::SendGarbage, 2),
];

fn choose() -> Action {
    let total = ACTIONS.iter().map(|(_, weight)| weight).sum();
    let mut at = rand::rng().random_range(0..total);
    for (action, weight) in ACTIONS {
        match at.checked_sub(weight) {
            Some(rest) => at = rest,
            None => return action,
        }
    }
    unreachable!("the weights add up")
}

/// Operates an nsqd until the load ends.
pub async fn nsqd(node: Arc<Node>, phase: watch::Receiver<Phase>) {
    while *phase.borrow() == Phase::Load {
        tokio::time::sleep(random_ms(100, 1000)).await;
        let mut daemon = node.daemon.lock().await;
        match (choose(), node.kind()) {
            (Action::Kill, Kind::Volatile) => {}
            (Action::Kill, _) => restart(&node, &mut daemon, true).await,
            (Action::Stop, _) => restart(&node, &mut daemon, false).await,
            (Action::Freeze, _) => {
                node.note("freeze");
                daemon.signal(Signal::STOP);
                tokio::time::sleep(random_ms(100, 1200)).await;
                daemon.signal(Signal::CONT);
            }
            (Action::PauseTopic, _) => pause_topic(&node, &mut daemon).await,
            (Action::PauseChannel, _) => pause_channel(&node, &mut daemon).await,
            (Action::EmptyTopic, _) => {
                let (topic, name) = any_topic();
                node.note(format!("empty topic {name}"));
                daemon.admin(&format!("/topic/empty?topic={name}")).await;
                node.topic(topic).drop_all_everywhere();
            }
            (Action::EmptyChannel, _) => {
                let (topic, name) = any_topic();
                let (channel, channel_name) = any_channel(topic);
                node.note(format!("empty channel {name}/{channel_name}"));
                daemon.admin(&format!("/channel/empty?topic={name}&channel={channel_name}")).await;
                node.topic(topic).drop_all(channel);
            }
            (Action::MoveBack, _) => move_back(&node, &daemon).await,
            (Action::MoveToEnd, _) => {
                let topic = index_of(Load::Retained);
                let (channel, channel_name) = any_channel(topic);
                node.note(format!("move {channel_name} to the end"));
                node.topic(topic).begin_move(channel, Instant::now());
                daemon.admin(&format!("/channel/seek?topic=retained&channel={channel_name}&to=latest")).await;
                node.topic(topic).drop_all(channel);
            }
            (Action::DeleteTopic, _) => {
                let topic = index_of(Load::Deleted);
                node.note("delete topic");
                node.topic(topic).begin_delete();
                daemon.admin("/topic/delete?topic=deleted").await;
                node.topic(topic).deleted();
                daemon.admin("/topic/create?topic=deleted").await;
                daemon.admin("/channel/create?topic=deleted&channel=first").await;
            }
            (Action::FillDisk, _) if node.has_small_disk() => fill_disk(&node, &mut daemon).await,
            (Action::FillDisk, _) => {}
            (Action::ReadStatistics, _) => {
                for target in ["/stats", "/stats?format=json&include_storage=true", "/metrics", "/info"] {
                    daemon.get(target).await.expect(200);
                }
            }
            (Action::SendGarbage, _) => {
                let mut peer = Peer::connect(daemon.tcp()).await;
                let junk: Vec<u8> = (0..200).map(|_| rand::rng().random()).collect();
                peer.send(junk).await;
            }
        }
    }
}

/// Stops and starts an nsqlookupd until the load ends.
pub async fn lookupd(lookupd: Arc<Mutex<Daemon>>, phase: watch::Receiver<Phase>) {
    let mut next = Instant::now() + random_ms(2_000, 10_000);
    while *phase.borrow() == Phase::Load {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if Instant::now() < next {
            continue;
        }
        next = Instant::now() + random_ms(2_000, 20_000);
        let mut daemon = lookupd.lock().await;
        if rand::rng().random_bool(0.5) {
            daemon.kill().await;
        } else {
            assert!(daemon.terminate().await.success(), "{}", daemon.log().text());
        }
        tokio::time::sleep(random_ms(0, 1500)).await;
        daemon.restart().await;
    }
}

async fn restart(node: &Node, daemon: &mut Daemon, kill: bool) {
    node.note(if kill { "kill" } else { "stop" });
    if kill {
        daemon.kill().await;
    } else {
        let status = daemon.terminate().await;
        assert!(status.success(), "{status}: {}", daemon.log().text());
    }
    let log = daemon.log().text();
    assert!(!log.contains("panicked"), "{log}");
    node.begin_life();
    daemon.restart().await;
    node.note("started");
}

/// Waits, sometimes with a restart in between: a pause must survive a restart.
async fn wait_or_restart(node: &Node, daemon: &mut Daemon) {
    tokio::time::sleep(random_ms(200, 1500)).await;
    if rand::rng().random_bool(0.3) {
        restart(node, daemon, node.kind() != Kind::Volatile && rand::rng().random_bool(0.7)).await;
        tokio::time::sleep(random_ms(200, 1000)).await;
    }
}

async fn pause_topic(node: &Node, daemon: &mut Daemon) {
    let (topic, name) = any_topic();
    node.note(format!("pause topic {name}"));
    daemon.admin(&format!("/topic/pause?topic={name}")).await;
    node.topic(topic).set_paused(Some(Instant::now()));
    wait_or_restart(node, daemon).await;
    node.topic(topic).set_paused(None);
    daemon.admin(&format!("/topic/unpause?topic={name}")).await;
    node.note("unpaused");
}

async fn pause_channel(node: &Node, daemon: &mut Daemon) {
    let (topic, name) = any_topic();
    let (channel, channel_name) = any_channel(topic);
    node.note(format!("pause channel {name}/{channel_name}"));
    daemon.admin(&format!("/channel/pause?topic={name}&channel={channel_name}")).await;
    node.topic(topic).set_channel_paused(channel, Some(MAX_IN_FLIGHT));
    wait_or_restart(node, daemon).await;
    node.topic(topic).set_channel_paused(channel, None);
    daemon.admin(&format!("/channel/unpause?topic={name}&channel={channel_name}")).await;
    node.note("unpaused");
}

async fn move_back(node: &Node, daemon: &Daemon) {
    let topic = index_of(Load::Retained);
    let (channel, channel_name) = any_channel(topic);
    let asked_at = Instant::now();
    let Some(id) = node.topic(topic).recent_id(channel, asked_at, MOVE_WITHIN) else { return };
    node.note(format!("move {channel_name} back to id {id:016x}"));
    node.topic(topic).begin_move(channel, asked_at);
    let target = format!("/channel/seek?topic=retained&channel={channel_name}&to=id:{id:016x}");
    let answer = daemon.post(&target, b"").await.expect(200).json();
    assert_ne!(answer["clamped"], true, "a message of the last seconds is no longer retained: {answer}");
    node.topic(topic).moved(channel, id, asked_at, Instant::now());
}

async fn fill_disk(node: &Node, daemon: &mut Daemon) {
    node.note("fill the disk");
    let path = node.folder().join("filler");
    let full_since = Instant::now();
    let mut file = File::create(&path).expect("a file can be created on the small disk");
    let piece = vec![7; 1 << 20];
    while file.write_all(&piece).is_ok() {}
    drop(file);
    tokio::time::sleep(random_ms(500, 4000)).await;
    let is_killed = rand::rng().random_bool(0.3);
    if is_killed {
        node.note("kill, with a full disk");
        daemon.kill().await;
        node.begin_life();
        // nsqd may have lost what it could not store.
        for topic in 0..TOPICS.len() {
            node.topic(topic).forget_answers_since(full_since);
        }
    }
    std::fs::remove_file(&path).expect("the filler can be deleted");
    if is_killed {
        daemon.restart().await;
    }
    let deadline = Instant::now() + wait::PATIENCE;
    loop {
        let health = daemon.get("/ping").await.text();
        if health == "OK" {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "nsqd is unhealthy although the disk has free space again: {health}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.note("the disk has free space again");
}

/// The index in [`TOPICS`] of the topic with this load.
fn index_of(load: Load) -> usize {
    TOPICS.iter().position(|(_, known, _)| *known == load).expect("each load has a topic")
}

/// A topic that always exists.
fn any_topic() -> (usize, &'static str) {
    let durable = [index_of(Load::Plain), index_of(Load::Deferred), index_of(Load::Retained)];
    let topic = durable[rand::rng().random_range(0..durable.len())];
    (topic, TOPICS[topic].0)
}

/// A channel that always exists.
fn any_channel(topic: usize) -> (usize, &'static str) {
    let channel = rand::rng().random_range(0..2);
    (channel, TOPICS[topic].2[channel])
}
