//! For tests: an nsqlookupd that records commands and answers as the test decides, and a node with made-up topics.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nsq_daemon::log::{Level, Logger};
use nsq_protocol::{
    ChannelName, LookupCommand, LookupDecoded, LookupLimits, LookupdInfo, PeerInfo, TopicName, decode_lookup,
    put_lookup_response,
};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::peer::Timing;
use super::state::{TopicEntry, Topology};
use super::{LookupOptions, LookupPeers};
use crate::storage::{ChannelNumber, TopicNumber};

/// Long, because only a failing test waits for it.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// How the fake reacts to a command.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// The answer of a real nsqlookupd.
    Right,
    /// Sends this text, then closes the connection as after an error.
    Error(&'static str),
    /// Sends these bytes, which need not be a valid response.
    Raw(Vec<u8>),
    Mute,
    Close,
}

type Script = Box<dyn FnMut(&LookupCommand) -> Answer + Send>;

/// What the fake has recorded.
#[derive(Debug, Clone, Default)]
pub(super) struct TopicSnapshot {
    /// `"connected"`, the commands' lines, `"closed"`.
    pub log: Vec<String>,
    /// The current registrations: `"topic"`, `"topic channel"`.
    pub listed: BTreeSet<String>,
    /// The node's IDENTIFY data.
    pub peer: Option<PeerInfo>,
}

impl TopicSnapshot {
    pub fn count(&self, line: &str) -> usize {
        self.log.iter().filter(|other| *other == line).count()
    }
}

struct Shared {
    seen: watch::Sender<TopicSnapshot>,
    script: Mutex<Script>,
    info: Mutex<LookupdInfo>,
    /// Cancelled to break the current connections.
    connections: Mutex<CancellationToken>,
}

pub(super) struct FakeLookupd {
    pub address: String,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl FakeLookupd {
    pub async fn start() -> Self {
        Self::scripted(|_| Answer::Right).await
    }

    pub async fn scripted(script: impl FnMut(&LookupCommand) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            seen: watch::Sender::new(TopicSnapshot::default()),
            script: Mutex::new(Box::new(script)),
            info: Mutex::new(LookupdInfo { version: "1.3.0".into(), ..LookupdInfo::default() }),
            connections: Mutex::new(stop.child_token()),
        });
        tokio::spawn(accept(listener, shared.clone(), stop.clone()));
        FakeLookupd { address, shared, _stop: stop.drop_guard() }
    }

    /// From now on, reports this HTTP address.
    pub fn set_http(&self, address: &str) {
        let (host, port) = address.rsplit_once(':').unwrap();
        let mut info = self.shared.info.lock();
        (info.broadcast_address, info.http_port) = (host.to_owned(), port.parse().unwrap());
    }

    /// From now on, wants statistics if the node offers them.
    pub fn set_heartbeat_stats(&self, version: u8) {
        self.shared.info.lock().heartbeat_stats = version;
    }

    pub fn seen(&self) -> TopicSnapshot {
        self.shared.seen.borrow().clone()
    }

    /// Waits until `wish` accepts the records.
    #[track_caller]
    pub fn until(&self, wish: impl FnMut(&TopicSnapshot) -> bool) -> impl Future<Output = TopicSnapshot> {
        let caller = std::panic::Location::caller();
        let mut seen = self.shared.seen.subscribe();
        async move {
            match timeout(DEADLINE, seen.wait_for(wish)).await {
                Ok(seen) => seen.unwrap().clone(),
                Err(_) => {
                    let seen = self.seen();
                    let end = &seen.log[seen.log.len().saturating_sub(20)..];
                    panic!("timed out at {caller}; listed: {:?}; seen: {end:?}", seen.listed)
                }
            }
        }
    }

    #[track_caller]
    pub fn until_listed(&self, registrations: &[&str]) -> impl Future<Output = TopicSnapshot> {
        let wanted: BTreeSet<String> = registrations.iter().map(|&name| name.to_owned()).collect();
        self.until(move |seen| seen.listed == wanted)
    }

    /// Closes all connections; new ones are still accepted.
    pub fn break_connections(&self) {
        let mut connections = self.shared.connections.lock();
        std::mem::replace(&mut *connections, CancellationToken::new()).cancel();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
        let (shared, stop) = (shared.clone(), stop.clone());
        let connection = shared.connections.lock().clone();
        tokio::spawn(async move {
            shared.seen.send_modify(|seen| seen.log.push("connected".into()));
            let serve = connection.run_until_cancelled(serve(stream, &shared));
            stop.run_until_cancelled(serve).await;
            shared.seen.send_modify(|seen| {
                seen.listed.clear();
                seen.log.push("closed".into());
            });
        });
    }
}

async fn serve(mut stream: TcpStream, shared: &Shared) {
    let mut buf = Vec::new();
    let mut is_greeted = false;
    let mut identified = false;
    loop {
        if !is_greeted && buf.len() >= 4 {
            assert_eq!(&buf[..4], b"  V1");
            buf.drain(..4);
            is_greeted = true;
        }
        if is_greeted {
            match decode_lookup(&buf, identified, &LookupLimits::default()) {
                LookupDecoded::Incomplete => {}
                LookupDecoded::Command { command, consumed } => {
                    buf.drain(..consumed);
                    identified = true;
                    if !answer(&mut stream, shared, command).await {
                        return;
                    }
                    continue;
                }
                LookupDecoded::Invalid { error, .. } => panic!("{error}"),
            }
        }
        match stream.read_buf(&mut buf).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Returns false if the connection must be closed.
async fn answer(stream: &mut TcpStream, shared: &Shared, command: LookupCommand) -> bool {
    let answer = (shared.script.lock())(&command);
    let mut out = Vec::new();
    match &answer {
        Answer::Right => match &command {
            LookupCommand::Identify(_) => {
                let info = shared.info.lock().clone();
                put_lookup_response(&mut out, &nsq_protocol::json::to_json(&info).unwrap());
            }
            _ => put_lookup_response(&mut out, b"OK"),
        },
        Answer::Error(text) => put_lookup_response(&mut out, text.as_bytes()),
        Answer::Raw(bytes) => out.extend_from_slice(bytes),
        Answer::Mute | Answer::Close => {}
    }
    if stream.write_all(&out).await.is_err() {
        return false;
    }
    shared.seen.send_modify(|seen| note(seen, command, matches!(answer, Answer::Right)));
    !matches!(answer, Answer::Close | Answer::Error(_))
}

fn note(seen: &mut TopicSnapshot, command: LookupCommand, has_effect: bool) {
    let mut line = Vec::new();
    command.encode(&mut line);
    let end = line.iter().position(|&byte| byte == b'\n').unwrap();
    seen.log.push(String::from_utf8(line[..end].to_vec()).unwrap());
    if !has_effect {
        return;
    }
    match command {
        LookupCommand::Identify(peer) => seen.peer = Some(peer),
        LookupCommand::Register { topic, channel } => {
            if let Some(channel) = channel {
                seen.listed.insert(format!("{topic} {channel}"));
            }
            seen.listed.insert(topic.to_string());
        }
        LookupCommand::Unregister { topic, channel: Some(channel) } => {
            seen.listed.remove(&format!("{topic} {channel}"));
        }
        LookupCommand::Unregister { topic, channel: None } => {
            let of_topic = format!("{topic} ");
            seen.listed.retain(|name| *name != topic.as_str() && !name.starts_with(&of_topic));
        }
        LookupCommand::Ping | LookupCommand::Stats(_) => {}
    }
}

/// An HTTP server that always answers with this JSON.
pub(super) async fn fake_http(json: &'static str) -> (String, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    tokio::spawn(async move {
        while let Some(Ok((mut stream, _))) = stop.run_until_cancelled(listener.accept()).await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.is_ok_and(|n| n > 0)
            {
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{json}", json.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, guard)
}

/// A node with its lookup peers.
pub(super) struct Node {
    pub peers: Arc<LookupPeers>,
    pub stop: CancellationToken,
    pub log: Arc<Mutex<Vec<String>>>,
    topology: Arc<Mutex<Topology>>,
    changes: watch::Sender<u64>,
}

/// No heartbeats, and timeouts that a slow machine does not reach.
pub(super) fn calm() -> Timing {
    Timing {
        dial_timeout: DEADLINE,
        io_timeout: DEADLINE,
        ping_interval: Duration::from_secs(3600),
        min_backoff: Duration::from_millis(1),
        max_backoff: Duration::from_millis(20),
        stable_after: Duration::from_secs(5),
    }
}

pub(super) fn node_info() -> PeerInfo {
    PeerInfo {
        broadcast_address: "node".into(),
        hostname: "host".into(),
        http_port: 4151,
        tcp_port: 4150,
        version: "1.3.0".into(),
        ..PeerInfo::default()
    }
}

impl Node {
    pub fn start(lookupds: &[&FakeLookupd], timing: Timing) -> Self {
        let addresses = lookupds.iter().map(|lookupd| lookupd.address.clone()).collect();
        Self::start_with(addresses, node_info(), timing)
    }

    pub fn start_with(addresses: Vec<String>, peer: PeerInfo, timing: Timing) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let stop = CancellationToken::new();
        let lines = log.clone();
        let options = LookupOptions {
            addresses,
            peer,
            http_connect_timeout: DEADLINE,
            http_request_timeout: DEADLINE,
            max_body_size: 10_000,
            logger: Logger::to_function("", Level::Debug, move |line| lines.lock().push(line.to_owned())),
            stop: stop.clone(),
        };
        let peers = LookupPeers::start_with(options, timing);
        Node { peers, stop, log, topology: Arc::default(), changes: watch::Sender::new(0) }
    }

    /// From now on, the peers know the node's topics and their changes.
    pub fn attach(&self) {
        let topology = self.topology.clone();
        self.peers.follow(self.changes.subscribe(), move || Some(topology.lock().clone()));
    }

    pub fn create(&self, topic: &str, channels: &[&str]) {
        self.changes.send_modify(|number| {
            *number += 1;
            let mut topology = self.topology.lock();
            let entry = topology.0.entry(TopicName::new(topic).unwrap());
            let entry = entry.or_insert_with(|| TopicEntry {
                number: TopicNumber(*number as u32),
                ..TopicEntry::default()
            });
            for channel in channels {
                entry
                    .channels
                    .entry(ChannelName::new(channel).unwrap())
                    .or_insert(ChannelNumber(*number as u32));
            }
        });
    }

    pub fn delete(&self, topic: &str, channel: Option<&str>) {
        let mut topology = self.topology.lock();
        match channel {
            None => drop(topology.0.remove(topic)),
            Some(channel) => drop(topology.0.get_mut(topic).unwrap().channels.remove(channel)),
        }
        drop(topology);
        self.changes.send_modify(|number| *number += 1);
    }

    pub fn count_lines(&self, part: &str) -> usize {
        self.log.lock().iter().filter(|line| line.contains(part)).count()
    }

    /// Waits until the only peer fails with an error that contains `part`.
    pub async fn until_error(&self, part: &str) {
        let mut state = self.peers.peers.lock().tasks[0].state.clone();
        let is_it = |text: &String| text.contains(part);
        let failed = state.wait_for(|state| state.last_error.as_ref().is_some_and(is_it));
        let failed = timeout(DEADLINE, failed).await.is_ok_and(|state| state.is_ok());
        assert!(failed, "no error {part:?}, but: {:?}", self.peers.status());
    }

    pub async fn until_connected(&self) {
        let mut state = self.peers.peers.lock().tasks[0].state.clone();
        timeout(DEADLINE, state.wait_for(|state| state.is_connected)).await.unwrap().unwrap();
    }
}
