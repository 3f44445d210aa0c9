//! A minimal nsqd in this process, with one queue for all connections. It respects RDY and can be told to misbehave.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use nsq_protocol::{
    Command, Decoded, ErrorCode, FrameType, Limits, MAGIC_V2, MessageId, ProtocolError, decode, put_frame,
    put_message_frame,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// An nsqd for tests, without files or another process: what is published is recorded, and what is offered is delivered.
/// Clones are the same nsqd. It runs until [`stop`](StubNsqd::stop), or until its runtime ends.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use nsq::test_util::StubNsqd;
///
/// let nsqd = StubNsqd::start().await;
/// nsq::Producer::new(&nsqd.address)?.publish("orders", "1 apple").await?;
/// assert_eq!(nsqd.bodies(), ["1 apple"]);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct StubNsqd {
    /// Where it listens: `127.0.0.1` and a free port.
    pub address: String,
    state: Arc<Mutex<State>>,
    stop: CancellationToken,
}

/// How the stub misbehaves.
#[derive(Clone, Debug)]
pub struct Script {
    /// Publishing to this topic is refused with an error that ends the connection.
    pub refused_topic: Option<String>,
    /// Publishing a message with this body is refused with an error that ends the connection.
    pub refused_body: Option<String>,
    /// Publishes get no answer.
    pub mute: bool,
    /// The connection ends after this number of publishes. The last one is stored but not answered.
    pub hang_up_after: Option<usize>,
    /// Every FIN fails.
    pub fin_fails: bool,
    /// How often heartbeats are sent.
    pub heartbeat: Option<Duration>,
    /// The reply to IDENTIFY.
    pub identify_reply: String,
    /// The error that SUB gets, such as `E_SUB_FAILED too many consumers`.
    pub sub_error: Option<String>,
    /// CLS is not confirmed.
    pub ignore_cls: bool,
}

impl Default for Script {
    fn default() -> Self {
        Script {
            refused_topic: None,
            refused_body: None,
            mute: false,
            hang_up_after: None,
            fin_fails: false,
            heartbeat: None,
            identify_reply:
                r#"{"max_rdy_count":2500,"version":"1.3.0","max_msg_timeout":900000,"msg_timeout":60000}"#
                    .into(),
            sub_error: None,
            ignore_cls: false,
        }
    }
}

/// A published message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The topic.
    pub topic: String,
    /// The delay of a deferred message in milliseconds, else 0.
    pub delay_ms: u64,
    /// The body as text.
    pub body: String,
    /// Messages of the same command have the same number.
    pub command: usize,
}

/// A command other than a publish, and its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The number of the connection, from 1.
    pub connection: usize,
    /// The command without its line feed; IDENTIFY with its JSON.
    pub text: String,
}

/// What the stub does and has seen. Hold the guard only briefly: the stub waits for it.
#[derive(Default)]
pub struct State {
    /// How it misbehaves. Changes apply to the next command.
    pub script: Script,
    /// The published messages, in their order.
    pub published: Vec<Published>,
    /// The other commands, in their order.
    pub received: Vec<Received>,
    /// The number of connections that were opened.
    pub connections_made: usize,
    /// The highest number of messages in flight, over all connections.
    pub max_in_flight_seen: usize,
    waiting: VecDeque<Queued>,
    in_flight: BTreeMap<MessageId, (usize, Queued)>,
    connections: BTreeMap<usize, Connection>,
    publishes: usize,
    next_message: u64,
}

#[derive(Clone)]
struct Queued {
    attempts: u16,
    body: Vec<u8>,
}

struct Connection {
    rdy: u64,
    out: mpsc::UnboundedSender<Vec<u8>>,
    hang_up: CancellationToken,
}

impl StubNsqd {
    /// Starts on a free port.
    pub async fn start() -> Self {
        Self::with(Script::default()).await
    }

    /// Starts on a free port, and misbehaves.
    pub async fn with(script: Script) -> Self {
        Self::start_on("127.0.0.1:0", script).await
    }

    /// Starts on a given address, for example again after a stop.
    ///
    /// # Panics
    ///
    /// If the address is in use.
    pub async fn start_on(address: &str, script: Script) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free address");
        let address = listener.local_addr().expect("it is bound").to_string();
        let state = Arc::new(Mutex::new(State { script, ..State::default() }));
        let stop = CancellationToken::new();
        let stub = StubNsqd { address, state, stop };
        let accepting = stub.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { return };
                        let stub = accepting.clone();
                        tokio::spawn(async move { stub.serve(stream).await });
                    }
                    () = accepting.stop.cancelled() => return,
                }
            }
        });
        stub
    }

    /// What it does and has seen.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Puts messages into the channel.
    pub fn offer<B: Into<Vec<u8>>>(&self, bodies: impl IntoIterator<Item = B>) {
        let mut state = self.state();
        state.waiting.extend(bodies.into_iter().map(|body| Queued { attempts: 0, body: body.into() }));
        state.deliver();
    }

    /// The texts of all commands with this name, over all connections.
    pub fn received(&self, name: &str) -> Vec<String> {
        let state = self.state();
        let named = state.received.iter().filter(|r| r.text.split(' ').next() == Some(name));
        named.map(|r| r.text.clone()).collect()
    }

    /// The number of commands with this name.
    pub fn count(&self, name: &str) -> usize {
        self.received(name).len()
    }

    /// The bodies of the published messages, in their order.
    pub fn bodies(&self) -> Vec<String> {
        self.state().published.iter().map(|p| p.body.clone()).collect()
    }

    /// The number of messages that are delivered and not answered.
    pub fn in_flight(&self) -> usize {
        self.state().in_flight.len()
    }

    /// The number of messages that wait for a consumer.
    pub fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    /// The RDY of every open connection.
    pub fn rdys(&self) -> Vec<u64> {
        self.state().connections.values().map(|connection| connection.rdy).collect()
    }

    /// Delivers the messages in flight once more, with their ids, as nsqd does after their timeout.
    pub fn redeliver(&self) {
        let mut state = self.state();
        let again: Vec<(MessageId, usize, Queued)> =
            state.in_flight.iter().map(|(id, (owner, message))| (*id, *owner, message.clone())).collect();
        for (id, owner, mut message) in again {
            message.attempts += 1;
            state.send(owner, message_frame(id, &message));
            state.in_flight.insert(id, (owner, message));
        }
    }

    /// Closes all connections.
    pub fn hang_up(&self) {
        for connection in self.state().connections.values() {
            connection.hang_up.cancel();
        }
    }

    /// Stops listening and closes all connections.
    pub fn stop(&self) {
        self.stop.cancel();
        self.hang_up();
    }

    async fn serve(&self, stream: TcpStream) {
        let (mut read, mut write) = stream.into_split();
        let (out, mut outgoing) = mpsc::unbounded_channel::<Vec<u8>>();
        let hang_up = CancellationToken::new();
        let (id, heartbeat) = {
            let mut state = self.state();
            state.connections_made += 1;
            let id = state.connections_made;
            let connection = Connection { rdy: 0, out: out.clone(), hang_up: hang_up.clone() };
            state.connections.insert(id, connection);
            (id, state.script.heartbeat)
        };
        tokio::spawn(async move {
            while let Some(bytes) = outgoing.recv().await {
                if write.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        if let Some(every) = heartbeat {
            let out = out.clone();
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(every).await;
                    if out.send(response(b"_heartbeat_")).is_err() {
                        return;
                    }
                }
            });
        }
        let mut buf = Vec::new();
        let mut seen_magic = false;
        loop {
            let count = tokio::select! {
                count = read.read_buf(&mut buf) => count.unwrap_or(0),
                () = hang_up.cancelled() => 0,
            };
            if count == 0 {
                break;
            }
            if !seen_magic && buf.len() >= 4 {
                if &buf[..4] != MAGIC_V2 {
                    break;
                }
                buf.drain(..4);
                seen_magic = true;
            }
            if seen_magic && !self.execute_all(id, &mut buf) {
                break;
            }
        }
        let mut state = self.state();
        state.connections.remove(&id);
        let lost: Vec<MessageId> =
            state.in_flight.iter().filter(|(_, (owner, _))| *owner == id).map(|(id, _)| *id).collect();
        for id in lost {
            if let Some((_, message)) = state.in_flight.remove(&id) {
                state.waiting.push_back(message);
            }
        }
        state.deliver();
    }

    /// Returns false if the connection must be closed.
    fn execute_all(&self, connection: usize, buf: &mut Vec<u8>) -> bool {
        let limits = Limits::default();
        let mut state = self.state();
        let mut used = 0;
        let keep_open = loop {
            match decode(&buf[used..], &limits) {
                Decoded::Command { command, consumed } => {
                    used += consumed;
                    if !state.execute(connection, &command) {
                        break false;
                    }
                }
                Decoded::Incomplete { .. } => break true,
                Decoded::Invalid { error, .. } => {
                    state.send_error(connection, &error);
                    break false;
                }
                Decoded::LineTooLong => break false,
            }
        };
        buf.drain(..used);
        state.deliver();
        keep_open
    }
}

impl State {
    fn execute(&mut self, connection: usize, command: &Command<'_>) -> bool {
        let text = match command {
            Command::Identify { body } => format!("IDENTIFY {}", String::from_utf8_lossy(body)),
            Command::Pub { .. } | Command::Dpub { .. } | Command::Mpub { .. } => String::new(),
            other => {
                let mut bytes = Vec::new();
                other.encode(&mut bytes);
                String::from_utf8_lossy(&bytes).trim_end().to_owned()
            }
        };
        if !text.is_empty() {
            self.received.push(Received { connection, text });
        }
        match command {
            Command::Identify { .. } => {
                let reply = self.script.identify_reply.clone();
                self.send(connection, response(reply.as_bytes()));
            }
            Command::Sub { .. } => match self.script.sub_error.clone() {
                Some(error) => {
                    let mut frame = Vec::new();
                    put_frame(&mut frame, FrameType::Error, error.as_bytes());
                    self.send(connection, frame);
                    return false;
                }
                None => self.send(connection, response(b"OK")),
            },
            Command::Pub { topic, body } => return self.publish(connection, topic, 0, &[body]),
            Command::Dpub { topic, delay_ms, body } => {
                return self.publish(connection, topic, *delay_ms, &[body]);
            }
            Command::Mpub { topic, messages } => {
                let bodies: Vec<&[u8]> = messages.iter().collect();
                return self.publish(connection, topic, 0, &bodies);
            }
            Command::PubExt { .. } | Command::DpubExt { .. } | Command::MpubExt { .. } => {
                let text = format!("invalid command {}", command.verb());
                self.send_error(connection, &ProtocolError::new(ErrorCode::Invalid, text));
                return false;
            }
            Command::Rdy { count } => {
                if let Some(connection) = self.connections.get_mut(&connection) {
                    connection.rdy = *count;
                }
            }
            Command::Fin { id } if self.script.fin_fails || !self.owns(connection, id) => {
                let text = format!("FIN {id} failed ID not in flight");
                self.send_error(connection, &ProtocolError::new(ErrorCode::FinFailed, text));
            }
            Command::Fin { id } => {
                self.in_flight.remove(id);
            }
            Command::Rej { id, .. } => {
                self.in_flight.remove(id);
            }
            Command::Req { id, .. } => {
                // The stub ignores the delay. Tests read it from `received`.
                if let Some((_, message)) = self.in_flight.remove(id) {
                    self.waiting.push_back(message);
                }
            }
            Command::Cls => {
                if let Some(connection) = self.connections.get_mut(&connection) {
                    connection.rdy = 0;
                }
                if !self.script.ignore_cls {
                    self.send(connection, response(b"CLOSE_WAIT"));
                }
            }
            Command::Auth { .. } | Command::Touch { .. } | Command::Nop => {}
        }
        true
    }

    fn owns(&self, connection: usize, id: &MessageId) -> bool {
        self.in_flight.get(id).is_some_and(|(owner, _)| *owner == connection)
    }

    fn publish(&mut self, connection: usize, topic: &str, delay_ms: u64, bodies: &[&[u8]]) -> bool {
        if self.script.refused_topic.as_deref() == Some(topic) {
            let text = format!("PUB topic name {topic:?} is not valid");
            self.send_error(connection, &ProtocolError::new(ErrorCode::BadTopic, text));
            return false;
        }
        let refused = self.script.refused_body.as_ref();
        if refused.is_some_and(|refused| bodies.contains(&refused.as_bytes())) {
            self.send_error(connection, &ProtocolError::new(ErrorCode::BadMessage, "bad message"));
            return false;
        }
        self.publishes += 1;
        for body in bodies {
            let body = String::from_utf8_lossy(body).into_owned();
            self.published.push(Published { topic: topic.into(), delay_ms, body, command: self.publishes });
        }
        if self.script.hang_up_after.is_some_and(|after| self.publishes >= after) {
            self.script.hang_up_after = None;
            return false;
        }
        if !self.script.mute {
            self.send(connection, response(b"OK"));
        }
        true
    }

    fn deliver(&mut self) {
        let ids: Vec<usize> = self.connections.keys().copied().collect();
        loop {
            let mut delivered = false;
            for id in &ids {
                let count = self.in_flight.values().filter(|(owner, _)| owner == id).count() as u64;
                if self.connections[id].rdy <= count {
                    continue;
                }
                let Some(mut message) = self.waiting.pop_front() else { break };
                message.attempts += 1;
                self.next_message += 1;
                let message_id = MessageId::from_u64(self.next_message);
                let frame = message_frame(message_id, &message);
                self.send(*id, frame);
                self.in_flight.insert(message_id, (*id, message));
                self.max_in_flight_seen = self.max_in_flight_seen.max(self.in_flight.len());
                delivered = true;
            }
            if !delivered {
                return;
            }
        }
    }

    fn send_error(&self, connection: usize, error: &ProtocolError) {
        let mut frame = Vec::new();
        error.put_frame(&mut frame);
        self.send(connection, frame);
    }

    /// Sends a response frame on a connection.
    pub fn respond(&self, connection: usize, data: &[u8]) {
        self.send(connection, response(data));
    }

    fn send(&self, connection: usize, bytes: Vec<u8>) {
        if let Some(connection) = self.connections.get(&connection) {
            let _ = connection.out.send(bytes);
        }
    }
}

fn message_frame(id: MessageId, message: &Queued) -> Vec<u8> {
    let mut frame = Vec::new();
    put_message_frame(&mut frame, 1_700_000_000_000_000_000, message.attempts, id, &message.body);
    frame
}

fn response(data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    put_frame(&mut frame, FrameType::Response, data);
    frame
}
