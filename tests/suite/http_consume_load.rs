//! Many consumers over HTTP: what each costs, how soon it gets a message, and that nothing is lost when all of them vanish.
//!
//! `NSQ_HTTP_CONSUMERS=1000 cargo test -p nsq-tests --test suite http_consume_load -- --nocapture` prints the figures for a
//! thousand consumers of each kind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nsq_tests::http::Connection;
use nsq_tests::websocket::{BINARY, WebSocket};
use nsq_tests::{Daemon, process, test_within};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::http_events::Events;
use crate::http_take::{begin_take, lease, settle};

const DEFAULT_CONSUMERS: usize = 50;
/// Messages per consumer whose latency is measured.
const ROUNDS: usize = 3;
/// More than this per consumer is a fault, whatever the machine.
const MAX_BYTES: u64 = 64 << 10;

enum Consumer {
    Take(Box<Connection>),
    Events(Box<Events>),
    WebSocket(Box<WebSocket>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Take,
    Events,
    WebSocket,
}

impl Consumer {
    async fn connect(nsqd: &Daemon, kind: Kind) -> Self {
        match kind {
            Kind::Take => Consumer::Take(Box::new(begin_take(nsqd, "&wait=300s&timeout=2s").await)),
            Kind::Events => Consumer::Events(Box::new(Events::connect(nsqd, "&ack=lease").await)),
            Kind::WebSocket => {
                let mut socket = WebSocket::connect(nsqd.http(), "/v2", &[])
                    .await
                    .unwrap_or_else(|refusal| panic!("{refusal:?}"));
                socket.send(BINARY, b"  V2SUB t c\nRDY 1\n").await;
                socket.response("OK").await;
                Consumer::WebSocket(Box::new(socket))
            }
        }
    }

    /// Waits for a message, and finishes it if `finishes`. Returns when it arrived and its body. A long poll waits again.
    async fn message(&mut self, nsqd: &Daemon, finishes: &AtomicBool) -> (Instant, String) {
        let finishes = || finishes.load(Ordering::Relaxed);
        match self {
            Consumer::Take(connection) => {
                let answer = connection.answer("take").await.expect("an answer").expect(200).json();
                let at = Instant::now();
                let message = &answer["messages"][0];
                if finishes() {
                    settle(nsqd, "finish", "", lease(message)).await;
                    **connection = begin_take(nsqd, "&wait=300s&timeout=2s").await;
                }
                (at, text(message))
            }
            Consumer::Events(events) => {
                let event = events.event().await;
                let at = Instant::now();
                if finishes() {
                    settle(nsqd, "finish", "", lease(&event)).await;
                }
                (at, text(&event))
            }
            Consumer::WebSocket(socket) => {
                let data = loop {
                    match socket.nsq_frame().await {
                        (2, data) => break data,
                        (0, data) => {
                            assert_eq!(&data[..], b"_heartbeat_");
                            socket.send(BINARY, b"NOP\n").await;
                        }
                        (kind, data) => panic!("a frame of type {kind}: {data:?}"),
                    }
                };
                let at = Instant::now();
                if finishes() {
                    socket.send(BINARY, [b"FIN ", &data[10..26], b"\n"].concat()).await;
                }
                (at, String::from_utf8_lossy(&data[26..]).into_owned())
            }
        }
    }
}

fn text(message: &Value) -> String {
    message["body"].as_str().expect("a text").to_owned()
}

fn quantile(sorted: &[Duration], share: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// Consumes until it is aborted. Reports when each message arrived.
async fn consume(
    nsqd: Arc<Daemon>,
    mut consumer: Consumer,
    finishes: Arc<AtomicBool>,
    arrivals: UnboundedSender<(Instant, String)>,
) {
    loop {
        let message = consumer.message(&nsqd, &finishes).await;
        if arrivals.send(message).is_err() || !finishes.load(Ordering::Relaxed) {
            // It stays connected, and asks for no more.
            std::future::pending::<()>().await;
        }
    }
}

async fn run(kind: Kind, count: usize) {
    let nsqd = Arc::new(Daemon::nsqd().flag("--msg-timeout=60s").start().await);
    nsqd.admin("/topic/create?topic=t").await;
    let before = process::resident_bytes(nsqd.pid());
    let mut consumers = Vec::new();
    for _ in 0..count {
        consumers.push(Consumer::connect(&nsqd, kind).await);
    }
    let holders = u64::from(kind == Kind::Take);
    let is_waiting = |channel: &nsq_tests::stats::Channel| channel.client_count == count as u64 + holders;
    nsqd.channel_until("t", "c", "all consumers wait", is_waiting).await;
    let memory = process::resident_bytes(nsqd.pid()).saturating_sub(before) / count as u64;
    assert!(memory < MAX_BYTES, "{kind:?}: {memory} bytes per consumer");

    let finishes = Arc::new(AtomicBool::new(true));
    let (arrivals_tx, mut arrivals) = unbounded_channel();
    let tasks: Vec<_> = consumers
        .into_iter()
        .map(|consumer| tokio::spawn(consume(nsqd.clone(), consumer, finishes.clone(), arrivals_tx.clone())))
        .collect();
    // One message at a time: the latency of a wake-up.
    let mut producer = nsqd.connect().await;
    let mut latencies = Vec::new();
    for number in 0..ROUNDS * count {
        let body = number.to_string();
        let began = Instant::now();
        producer.publish("t", &body).await;
        let (at, received) = arrivals.recv().await.expect("consumers run");
        assert_eq!(received, body);
        latencies.push(at.saturating_duration_since(began));
    }
    latencies.sort_unstable();
    println!(
        "{kind:?}: {count} consumers, {memory} bytes each; publish to receipt p50 {:?} p99 {:?} max {:?}",
        quantile(&latencies, 0.5),
        quantile(&latencies, 0.99),
        quantile(&latencies, 1.0)
    );

    // Each gets a message, and all vanish without finishing it.
    nsqd.channel_until_finished("t", "c").await;
    nsqd.channel_until("t", "c", "all consumers wait again", is_waiting).await;
    finishes.store(false, Ordering::Relaxed);
    let bodies: Vec<String> = (0..count).map(|number| format!("last-{number}")).collect();
    producer.publish_batch("t", &bodies).await;
    for _ in 0..count {
        arrivals.recv().await.expect("consumers run");
    }
    for task in &tasks {
        task.abort();
    }
    nsqd.channel_until("t", "c", "all consumers are gone", |channel| channel.client_count <= holders).await;
    let mut rest = nsqd.subscribe("t", "c").await;
    rest.ready(100).await;
    let mut missing: BTreeSet<String> = bodies.into_iter().collect();
    while !missing.is_empty() {
        let message = rest.message().await;
        assert!(message.attempts >= 2 && missing.remove(&message.text()), "{message:?}");
        rest.finish(&message).await;
    }
    nsqd.channel_until_finished("t", "c").await;
}

fn consumers() -> usize {
    match std::env::var("NSQ_HTTP_CONSUMERS") {
        Ok(text) => text.parse().expect("NSQ_HTTP_CONSUMERS is a number"),
        Err(_) => DEFAULT_CONSUMERS,
    }
}

#[test]
fn many_long_polls_wait_at_once() {
    test_within(Duration::from_secs(500), run(Kind::Take, consumers()));
}

#[test]
fn many_event_streams_are_open_at_once() {
    test_within(Duration::from_secs(500), run(Kind::Events, consumers()));
}

#[test]
fn many_websockets_are_open_at_once() {
    test_within(Duration::from_secs(500), run(Kind::WebSocket, consumers()));
}
