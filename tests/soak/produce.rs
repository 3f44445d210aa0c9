//! Producers: PUB, MPUB and DPUB of all sizes, pipelined or one at a time, on short-lived connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nsq_tests::wire::{Frame, NoFrame, PATIENCE, Peer, batch, command};
use rand::Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::node::{Load, Node, TOPICS, random_ms};
use crate::{Phase, body};

/// Producers of a topic wait while it has more unfinished messages than this.
const MAX_BACKLOG: usize = 20_000;
/// Maximum delay of a DPUB.
const MAX_DELAY_MS: u64 = 2_500;
/// Part of the error text of a failed publish whose message may still be delivered.
const MAY_BE_DELIVERED: &str = "may be delivered";

/// One publishing command and the messages in it.
struct Publish {
    bytes: Vec<u8>,
    numbers: Vec<u64>,
}

/// Starts the producers of a node.
pub fn spawn(tasks: &mut JoinSet<()>, node: &Arc<Node>, phase: &watch::Receiver<Phase>) {
    for (topic, (_, load, _)) in TOPICS.iter().enumerate() {
        let producers = if *load == Load::Plain { 2 } else { 1 };
        for _ in 0..producers {
            tasks.spawn(produce(node.clone(), topic, phase.clone()));
        }
    }
}

async fn produce(node: Arc<Node>, topic: usize, phase: watch::Receiver<Phase>) {
    while *phase.borrow() == Phase::Load {
        match Peer::try_connect(node.tcp).await {
            Ok(peer) => session(&node, topic, peer, &phase).await,
            Err(_) => tokio::time::sleep(random_ms(20, 100)).await,
        }
    }
}

/// Publishes on one connection until it breaks or a random number of rounds is done.
async fn session(node: &Node, topic: usize, mut peer: Peer, phase: &watch::Receiver<Phase>) {
    let rounds = rand::rng().random_range(1..400);
    for _ in 0..rounds {
        if *phase.borrow() != Phase::Load {
            return;
        }
        if node.topic(topic).backlog() > MAX_BACKLOG {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        let pipelined = if rand::rng().random_bool(0.2) { rand::rng().random_range(2..20) } else { 1 };
        let publishes: Vec<Publish> = (0..pipelined).map(|_| make(node, topic)).collect();
        let bytes: Vec<u8> = publishes.iter().flat_map(|publish| publish.bytes.iter().copied()).collect();
        peer.send(bytes).await;
        for publish in publishes {
            if !answer(node, topic, &mut peer, &publish).await {
                return;
            }
        }
        tokio::time::sleep(random_ms(5, 60)).await;
    }
}

/// Reads one reply; returns false if the connection is no longer usable.
async fn answer(node: &Node, topic: usize, peer: &mut Peer, publish: &Publish) -> bool {
    match peer.frame_within(PATIENCE).await {
        Ok(Frame::Response(ok)) if ok == "OK" => {
            let epoch = node.life(topic).epoch;
            let mut model = node.topic(topic);
            for number in &publish.numbers {
                model.acknowledge(*number, epoch);
            }
            true
        }
        Ok(Frame::Error(text)) => {
            let text = String::from_utf8_lossy(&text);
            let is_known =
                ["E_PUB_FAILED", "E_MPUB_FAILED", "E_DPUB_FAILED"].iter().any(|word| text.starts_with(word));
            assert!(is_known, "a publish failed with an unexpected error: {text:?}");
            let mut model = node.topic(topic);
            for number in &publish.numbers {
                model.refuse(*number, text.contains(MAY_BE_DELIVERED));
            }
            false
        }
        Ok(other) => panic!("unexpected reply to a publish: {other:?}"),
        Err(NoFrame::Closed | NoFrame::Cut) => false,
        Err(NoFrame::Silence) => panic!("no reply to a publish within {PATIENCE:?}"),
    }
}

fn make(node: &Node, topic: usize) -> Publish {
    let mut random = rand::rng();
    let (name, load, _) = TOPICS[topic];
    let is_deferred = load == Load::Deferred && random.random_bool(0.6);
    let delay = if is_deferred { random_ms(1, MAX_DELAY_MS) } else { Duration::ZERO };
    let count = if !is_deferred && random.random_bool(0.4) { random.random_range(2..40) } else { 1 };
    let mut numbers = Vec::with_capacity(count);
    let mut bodies = Vec::with_capacity(count);
    for _ in 0..count {
        let bytes = match random.random_range(0..1000) {
            0..950 => random.random_range(0..300),
            950..998 => random.random_range(300..20_000),
            _ => random.random_range(20_000..300_000),
        };
        let number = node.topic(topic).send(Instant::now(), delay);
        numbers.push(number);
        bodies.push(body::make(name, number, bytes));
    }
    let bytes = if is_deferred {
        command(format!("DPUB {name} {}", delay.as_millis()), &bodies[0])
    } else if count == 1 {
        command(format!("PUB {name}"), &bodies[0])
    } else {
        command(format!("MPUB {name}"), batch(&bodies))
    };
    Publish { bytes, numbers }
}
