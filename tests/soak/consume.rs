//! Consumers: most finish every message; some requeue, touch, forget, disconnect without notice, or reconnect later.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nsq_tests::wire::{Frame, Message, NoFrame, PATIENCE, Peer, command};
use rand::Rng;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::model::{Life, Received};
use crate::node::{BARRIER, Node, TOPICS, random_ms};
use crate::{Phase, body};

/// Consumers per channel.
const CONSUMERS: usize = 2;
/// The largest RDY count.
const MAX_READY: u32 = 60;
/// The message timeout that consumers request.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(3);
/// When a connection breaks, nsqd may not have read or stored what was sent within this time.
const UNCERTAIN: Duration = Duration::from_secs(3);

/// Maximum number of messages in transit to the consumers of a channel.
pub const MAX_IN_FLIGHT: i64 = CONSUMERS as i64 * MAX_READY as i64;

/// Starts the consumers of a node.
pub fn spawn(tasks: &mut JoinSet<()>, node: &Arc<Node>, phase: &watch::Receiver<Phase>) {
    for (topic, (_, _, channels)) in TOPICS.iter().enumerate() {
        for channel in 0..channels.len() {
            for _ in 0..CONSUMERS {
                tasks.spawn(consume(node.clone(), topic, channel, phase.clone()));
            }
        }
    }
}

async fn consume(node: Arc<Node>, topic: usize, channel: usize, phase: watch::Receiver<Phase>) {
    while *phase.borrow() != Phase::End {
        match Consumer::connect(&node, topic, channel).await {
            Some(mut consumer) => consumer.session(&phase).await,
            None => tokio::time::sleep(random_ms(20, 100)).await,
        }
    }
}

/// Why a session ended.
enum End {
    /// nsqd read everything that was sent.
    Clean,
    /// nsqd may not have read the last commands.
    Broken,
}

struct Consumer<'a> {
    node: &'a Node,
    topic: usize,
    channel: usize,
    life: Life,
    peer: Peer,
    /// FIN and REQ sent within [`UNCERTAIN`], by message number.
    recent: VecDeque<(Instant, u64)>,
    /// Message numbers by message id, to interpret errors.
    numbers: HashMap<[u8; 16], u64>,
    /// Messages to finish later, after a TOUCH.
    touched: Vec<(Instant, Message, u64)>,
}

impl<'a> Consumer<'a> {
    /// Connects and subscribes; `None` if nsqd is not available at present.
    async fn connect(node: &'a Node, topic: usize, channel: usize) -> Option<Self> {
        let before = node.life(topic);
        let mut peer = Peer::try_connect(node.tcp).await.ok()?;
        if node.life(topic) != before {
            return None;
        }
        let request = json!({
            "client_id": "soak",
            "feature_negotiation": true,
            "msg_timeout": MESSAGE_TIMEOUT.as_millis() as u64,
            "heartbeat_interval": 5000,
        });
        let (name, _, channels) = TOPICS[topic];
        peer.send(command("IDENTIFY", request.to_string())).await;
        peer.line(format!("SUB {name} {}", channels[channel])).await;
        for _ in 0..2 {
            match peer.frame_within(PATIENCE).await {
                Ok(Frame::Response(_)) => {}
                // The topic may be in deletion, or nsqd may be stopping.
                Ok(Frame::Error(_)) | Err(NoFrame::Closed | NoFrame::Cut) => return None,
                other => panic!("unexpected reply to IDENTIFY or SUB: {other:?}"),
            }
        }
        let ready = rand::rng().random_range(1..=MAX_READY);
        peer.ready(ready).await;
        let life = before;
        let (recent, numbers) = (VecDeque::new(), HashMap::new());
        Some(Consumer { node, topic, channel, life, peer, recent, numbers, touched: Vec::new() })
    }

    async fn session(&mut self, phase: &watch::Receiver<Phase>) {
        let until = Instant::now() + random_ms(500, 15_000);
        let end = loop {
            let now_phase = *phase.borrow();
            if now_phase == Phase::End || (now_phase == Phase::Load && Instant::now() >= until) {
                let leaves = now_phase == Phase::End || rand::rng().random_bool(0.5);
                break if leaves { self.leave().await } else { End::Broken };
            }
            let frame = self.peer.frame_within(Duration::from_millis(100)).await;
            if !self.handle(frame, now_phase == Phase::Load).await {
                break End::Broken;
            }
            self.finish_touched().await;
        };
        if let End::Broken = end {
            let mut model = self.node.topic(self.topic);
            for (_, number) in self.recent.drain(..) {
                model.forget_answer(self.channel, number);
            }
        }
    }

    /// Leaves after nsqd has read everything that was sent.
    async fn leave(&mut self) -> End {
        self.peer.ready(0).await;
        self.peer.send(command(format!("PUB {BARRIER}"), "x")).await;
        loop {
            match self.peer.frame_within(PATIENCE).await {
                Ok(Frame::Response(_)) => return End::Clean,
                Err(NoFrame::Silence) => panic!("no reply to a publish within {PATIENCE:?}"),
                frame => {
                    if !self.handle(frame, false).await {
                        return End::Broken;
                    }
                }
            }
        }
    }

    /// Handles one frame; returns false if the connection is no longer usable.
    async fn handle(&mut self, frame: Result<Frame, NoFrame>, misbehaves: bool) -> bool {
        match frame {
            Ok(Frame::Message(message)) => self.receive(message, misbehaves).await,
            Ok(Frame::Error(text)) => {
                let text = String::from_utf8_lossy(&text).into_owned();
                let words = ["E_FIN_FAILED", "E_REQ_FAILED", "E_TOUCH_FAILED"];
                if !words.iter().any(|word| text.starts_with(word)) {
                    return false;
                }
                let id = text.split(' ').find_map(|word| <[u8; 16]>::try_from(word.as_bytes()).ok());
                let number = id.and_then(|id| self.numbers.get(&id)).copied();
                let number =
                    number.unwrap_or_else(|| panic!("{text:?} refers to no message of this connection"));
                self.node.topic(self.topic).forget_answer(self.channel, number);
            }
            Ok(Frame::Response(other)) => panic!("unexpected response: {other:?}"),
            Err(NoFrame::Silence) => {}
            Err(NoFrame::Closed | NoFrame::Cut) => return false,
        }
        true
    }

    async fn receive(&mut self, message: Message, misbehaves: bool) {
        let now = Instant::now();
        let name = TOPICS[self.topic].0;
        let number = body::read(name, &message.body);
        let number =
            number.unwrap_or_else(|| panic!("received a body that was not sent to {name}: {message:?}"));
        let id = u64::from_str_radix(&message.id_text(), 16).expect("a message id is hexadecimal");
        let received = Received { number, id, attempts: message.attempts, life: self.life, at: now };
        let is_suspicious = self.node.topic(self.topic).deliver(self.channel, received);
        self.numbers.insert(message.id, number);
        let choice = if is_suspicious || !misbehaves { 0 } else { rand::rng().random_range(0..100) };
        match choice {
            0..86 => self.finish(&message, number).await,
            86..90 => self.requeue(&message, number, Duration::ZERO).await,
            90..94 => self.requeue(&message, number, random_ms(1, 2000)).await,
            94..97 => {
                self.peer.touch(&message).await;
                self.touched.push((now + random_ms(0, 2000), message, number));
            }
            97..98 => tokio::time::sleep(random_ms(0, 60)).await,
            // Forgotten, so that it times out.
            _ => {}
        }
        if self.numbers.len() > 100_000 {
            self.numbers.clear();
        }
    }

    async fn finish(&mut self, message: &Message, number: u64) {
        self.remember(number);
        self.node.topic(self.topic).finish(self.channel, number, Instant::now());
        self.peer.finish(message).await;
    }

    async fn requeue(&mut self, message: &Message, number: u64, delay: Duration) {
        self.remember(number);
        self.node.topic(self.topic).requeue(self.channel, number, Instant::now(), delay);
        self.peer.requeue(message, delay).await;
    }

    fn remember(&mut self, number: u64) {
        let now = Instant::now();
        self.recent.push_back((now, number));
        while self.recent.front().is_some_and(|(sent_at, _)| *sent_at + UNCERTAIN < now) {
            self.recent.pop_front();
        }
    }

    async fn finish_touched(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.touched).into_iter().partition(|(at, ..)| *at <= now);
        self.touched = later;
        for (_, message, number) in Vec::from_iter::<Vec<_>>(due) {
            self.finish(&message, number).await;
        }
    }
}
