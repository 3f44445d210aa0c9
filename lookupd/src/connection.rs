//! A node's connection: reads the magic, then commands, and answers each command with one response, in order.
//!
//! ```text
//! read the magic -> ( decode -> execute -> answer )* -> close, remove the node's registrations
//! ```

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use nsq_daemon::listen::{Remote, Stream};
use nsq_daemon::log::Logger;
use nsq_daemon::turn::Turn;
use nsq_daemon::{NSQ_VERSION, error, hostname, info, warn};
use nsq_protocol::heartbeat::{HEARTBEAT_STATS, refresh_request};
use nsq_protocol::json::to_json;
use nsq_protocol::{
    ChannelName, ErrorCode, LookupCommand, LookupDecoded, LookupdInfo, MAGIC_V1, PeerInfo, ProtocolError,
    TopicName, decode_lookup, lookup_truncated, put_lookup_response,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::clock;
use crate::config::Limits;
use crate::metrics::Metrics;
use crate::registry::{Node, NodeId, Registry};
use crate::stats_store::{StatsStore, StoredStats};

/// Buffer space reserved for each read.
const READ_BYTES: usize = 4096;

/// Maximum capacity of an idle connection's output buffer.
const MAX_IDLE_BYTES: usize = 64 << 10;

/// After an error, the connection discards input for at most this time and this many bytes before it closes.
/// Closing with unread input could reset the connection before the node has read the error.
const LINGER: Duration = Duration::from_secs(1);
const MAX_LINGER_BYTES: usize = 1 << 20;

/// State shared by all connections.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) registry: Arc<Registry>,
    pub(crate) stats_store: Arc<StatsStore>,
    pub(crate) logger: Logger,
    pub(crate) limits: Limits,
    pub(crate) info: LookupdInfo,
    pub(crate) metrics: Arc<Metrics>,
    next_id: AtomicU64,
}

impl Context {
    pub(crate) fn new(
        (registry, stats_store): (Arc<Registry>, Arc<StatsStore>),
        logger: Logger,
        limits: Limits,
        info: LookupdInfo,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { registry, stats_store, logger, limits, info, metrics, next_id: AtomicU64::new(0) }
    }
}

/// The response to IDENTIFY, which describes this nsqlookupd.
pub(crate) fn lookupd_info(broadcast_address: String, tcp_port: u16, http_port: u16) -> LookupdInfo {
    LookupdInfo {
        broadcast_address,
        heartbeat_stats: 0,
        hostname: hostname(),
        http_port,
        tcp_port,
        version: NSQ_VERSION.to_owned(),
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    /// The node closed the connection between commands.
    #[error("closed")]
    Closed,
    /// The node closed the connection in the middle of a command.
    #[error("closed in the middle of a command")]
    Unfinished,
    /// A timeout expired; the text names the operation.
    #[error("timeout while {0}")]
    TooLong(&'static str),
    /// The node sent an invalid magic or command; it got an error response.
    #[error("{0}")]
    Refused(ProtocolError),
    /// An I/O error occurred.
    #[error("{0}")]
    Broken(#[from] io::Error),
}

/// Serves a node until it disconnects. Dropping the future closes the connection and removes the node.
pub(crate) async fn serve(context: Arc<Context>, stream: Stream, remote: Remote) {
    let id = NodeId(context.next_id.fetch_add(1, Ordering::Relaxed));
    context.metrics.connections_opened.add(1);
    info!(context.logger, "TCP: new client({remote})");
    let mut connection = Connection {
        context,
        stream,
        remote,
        id,
        node: None,
        stats: None,
        input: BytesMut::new(),
        output: Vec::new(),
        turn: Turn::default(),
        registrations: 0,
    };
    let Err(ended) = connection.run().await;
    let logger = &connection.context.logger;
    match &ended {
        Ended::Closed => info!(logger, "TCP: client({remote}) closed"),
        Ended::Refused(error) => error!(logger, "TCP: client({remote}) refused - {error}"),
        ended => warn!(logger, "TCP: client({remote}) lost - {ended}"),
    }
    if let Ended::Refused(_) = ended {
        connection.context.metrics.refused.add(1);
        connection.linger().await;
    }
}

struct Connection {
    context: Arc<Context>,
    stream: Stream,
    remote: Remote,
    id: NodeId,
    /// Set by IDENTIFY.
    node: Option<Arc<Node>>,
    /// The node's heartbeat statistics and the requests to refresh them; `None` unless negotiated.
    stats: Option<(Arc<StoredStats>, watch::Receiver<u64>)>,
    /// Input that is not yet a whole command. The decoder's limits bound its length.
    input: BytesMut,
    output: Vec<u8>,
    turn: Turn,
    /// Upper bound of the number of topics and channels that the node has registered.
    registrations: usize,
}

enum Never {}

impl Connection {
    async fn run(&mut self) -> Result<Never, Ended> {
        self.read_magic().await?;
        loop {
            let refusal = self.execute_buffered();
            self.flush().await?;
            if let Some(error) = refusal {
                return Err(Ended::Refused(error));
            }
            // Reading does not wait while the buffer or the kernel holds more input, so yield here.
            self.turn.pass_on().await;
            self.read_command().await?;
        }
    }

    async fn read_magic(&mut self) -> Result<(), Ended> {
        let deadline = self.deadline();
        while self.input.len() < MAGIC_V1.len() {
            self.read(deadline, "reading the magic").await?;
        }
        let magic = self.input.split_to(MAGIC_V1.len());
        if magic[..] == MAGIC_V1[..] {
            return Ok(());
        }
        let error = ProtocolError::new(ErrorCode::BadProtocol, "");
        self.answer_error(&error);
        self.flush().await?;
        Err(Ended::Refused(error))
    }

    /// Executes and answers the commands in the buffer until the turn is over. Returns the error that ends the
    /// connection; the output already contains its response.
    fn execute_buffered(&mut self) -> Option<ProtocolError> {
        while !self.turn.is_over() {
            self.turn.spend_commands(1);
            let sizes = &self.context.limits.sizes;
            let error = match decode_lookup(&self.input, self.node.is_some(), sizes) {
                LookupDecoded::Incomplete => return None,
                LookupDecoded::Command { command, consumed } => {
                    self.input.advance(consumed);
                    match self.execute(command) {
                        Ok(()) => continue,
                        Err(error) => error,
                    }
                }
                LookupDecoded::Invalid { error, .. } => error,
            };
            self.answer_error(&error);
            return Some(error);
        }
        None
    }

    /// Reads until the buffer holds a whole or an invalid command. Between commands, forwards requests for fresh
    /// statistics to the node.
    async fn read_command(&mut self) -> Result<(), Ended> {
        if self.input.is_empty() {
            // Between commands a node may be silent; the kernel detects a dead peer. Free the memory that a long
            // command took.
            self.input = BytesMut::new();
            if self.output.capacity() > MAX_IDLE_BYTES {
                self.output = Vec::new();
            }
            self.input.reserve(READ_BYTES);
            let refresh = refresh_requested(&mut self.stats);
            let read = tokio::select! {
                read = self.stream.read_buf(&mut self.input) => read?,
                number = refresh => {
                    self.answer(&refresh_request(number));
                    return Ok(());
                }
            };
            if read == 0 {
                return Err(Ended::Closed);
            }
            self.turn.spend_bytes(read);
        }
        let deadline = self.deadline();
        let sizes = self.context.limits.sizes.clone();
        while decode_lookup(&self.input, self.node.is_some(), &sizes) == LookupDecoded::Incomplete {
            let ended = match self.read(deadline, "reading a command").await {
                Ok(()) => continue,
                Err(ended) => ended,
            };
            if let Some(error) = lookup_truncated(&self.input, self.node.is_some(), &sizes) {
                self.answer_error(&error);
                self.flush().await?;
                return Err(Ended::Refused(error));
            }
            return Err(ended);
        }
        Ok(())
    }

    async fn read(&mut self, deadline: Instant, what: &'static str) -> Result<(), Ended> {
        self.input.reserve(READ_BYTES);
        match timeout_at(deadline, self.stream.read_buf(&mut self.input)).await {
            Err(_) => Err(Ended::TooLong(what)),
            Ok(Ok(0)) if self.input.is_empty() => Err(Ended::Closed),
            Ok(Ok(0)) => Err(Ended::Unfinished),
            Ok(read) => {
                self.turn.spend_bytes(read?);
                Ok(())
            }
        }
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        let written = timeout(self.context.limits.command_timeout, self.stream.write_all(&self.output)).await;
        self.output.clear();
        Ok(written.map_err(|_| Ended::TooLong("writing a response"))??)
    }

    /// Closes the sending side and discards what the node has already sent.
    async fn linger(&mut self) {
        let discard = async {
            self.stream.shutdown().await?;
            let mut discarded = 0;
            while discarded < MAX_LINGER_BYTES {
                self.input.clear();
                self.input.reserve(READ_BYTES);
                match self.stream.read_buf(&mut self.input).await? {
                    0 => break,
                    count => discarded += count,
                }
            }
            io::Result::Ok(())
        };
        // The connection ends now, whatever the result.
        let _ = timeout(LINGER, discard).await;
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.context.limits.command_timeout
    }

    fn answer(&mut self, data: &[u8]) {
        put_lookup_response(&mut self.output, data);
    }

    fn answer_error(&mut self, error: &ProtocolError) {
        self.answer(&error.frame_data());
    }

    fn execute(&mut self, command: LookupCommand) -> Result<(), ProtocolError> {
        self.count(&command);
        match command {
            LookupCommand::Identify(info) => return self.identify(info),
            LookupCommand::Register { topic, channel } => {
                self.check_registrations()?;
                let node = self.node()?;
                if self.context.registry.register(node, &topic, channel.as_ref()) {
                    // Registering a channel can also register its topic.
                    self.registrations += 2;
                    self.log_registration("REGISTER", &topic, channel.as_ref());
                }
            }
            LookupCommand::Unregister { topic, channel } => {
                let node = self.node()?;
                if self.context.registry.unregister(node, &topic, channel.as_ref()) {
                    self.log_registration("UNREGISTER", &topic, channel.as_ref());
                }
            }
            LookupCommand::Ping => self.node.iter().for_each(|node| node.seen(clock::now())),
            LookupCommand::Stats(report) => return self.stats(&report),
        }
        self.answer(b"OK");
        Ok(())
    }

    /// Limits a node's registrations. `registrations` still counts names that the node unregistered or an operator
    /// deleted; they are recounted only when the limit seems reached. A tenth of the limit must then be free, so that
    /// recounts, which scan all topics, are rare.
    fn check_registrations(&mut self) -> Result<(), ProtocolError> {
        let max = self.context.limits.max_registrations;
        if self.registrations < max {
            return Ok(());
        }
        self.registrations = self.context.registry.registrations(self.node()?);
        if self.registrations > max - max / 10 {
            let text = format!("REGISTER exceeds the limit of {max} topics and channels per node");
            return Err(ProtocolError::new(ErrorCode::Invalid, text));
        }
        Ok(())
    }

    fn count(&self, command: &LookupCommand) {
        let metrics = &self.context.metrics;
        let counter = match command {
            LookupCommand::Identify(_) => &metrics.identify,
            LookupCommand::Register { .. } => &metrics.register,
            LookupCommand::Unregister { .. } => &metrics.unregister,
            LookupCommand::Ping => &metrics.ping,
            LookupCommand::Stats(_) => &metrics.stats,
        };
        counter.add(1);
    }

    /// An invalid report gets an error response but keeps the connection: the node stays registered, without
    /// statistics.
    fn stats(&mut self, report: &[u8]) -> Result<(), ProtocolError> {
        let Some((stats, _)) = &self.stats else {
            return Err(ProtocolError::new(ErrorCode::Invalid, "STATS was not negotiated"));
        };
        match stats.report(report, clock::now()) {
            Ok(()) => {
                let draining = stats.inspect(|stats| stats.node().draining);
                if let Some(node) = &self.node
                    && node.set_draining(draining)
                {
                    let state = if draining { "drains" } else { "no longer drains" };
                    info!(self.context.logger, "CLIENT({}): {state}", self.remote);
                }
                self.answer(b"OK");
            }
            Err(error) => {
                let error = ProtocolError::new(ErrorCode::BadBody, format!("STATS {error}"));
                warn!(self.context.logger, "CLIENT({}): {error}", self.remote);
                self.answer_error(&error);
            }
        }
        Ok(())
    }

    fn identify(&mut self, info: PeerInfo) -> Result<(), ProtocolError> {
        let heartbeat_stats = info.heartbeat_stats.min(HEARTBEAT_STATS);
        let reply = to_json(&LookupdInfo { heartbeat_stats, ..self.context.info.clone() })
            .map_err(|_| ProtocolError::new(ErrorCode::BadBody, "IDENTIFY failed to encode the answer"))?;
        let remote = self.remote;
        info!(
            self.context.logger,
            "CLIENT({remote}): IDENTIFY Address:{} TCP:{} HTTP:{} Version:{}",
            info.broadcast_address,
            info.tcp_port,
            info.http_port,
            info.version,
        );
        let node = self.context.registry.identify(self.id, remote.to_string(), info, clock::now());
        self.node = Some(node);
        if heartbeat_stats > 0 {
            let stats = self.context.stats_store.add(self.id);
            let requests = stats.refresh_requests();
            self.stats = Some((stats, requests));
        }
        self.answer(&reply);
        Ok(())
    }

    /// The decoder already rejects commands that require IDENTIFY first.
    fn node(&self) -> Result<&Arc<Node>, ProtocolError> {
        self.node.as_ref().ok_or_else(|| ProtocolError::new(ErrorCode::Invalid, "client must IDENTIFY"))
    }

    fn log_registration(&self, command: &str, topic: &TopicName, channel: Option<&ChannelName>) {
        let (category, subkey) = channel.map_or(("topic", ""), |channel| ("channel", channel.as_str()));
        let remote = self.remote;
        info!(
            self.context.logger,
            "DB: client({remote}) {command} category:{category} key:{topic} subkey:{subkey}"
        );
    }
}

/// Waits for a request for fresh statistics and returns its number. Dropping the future loses nothing.
async fn refresh_requested(stats: &mut Option<(Arc<StoredStats>, watch::Receiver<u64>)>) -> u64 {
    if let Some((_, requests)) = stats
        && requests.changed().await.is_ok()
    {
        return *requests.borrow_and_update();
    }
    std::future::pending().await
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.context.metrics.connections_closed.add(1);
        if let Some(node) = self.node.take() {
            self.context.stats_store.remove(self.id);
            self.context.registry.remove(&node);
            info!(self.context.logger, "DB: client({}) UNREGISTER category:client key: subkey:", self.remote);
        }
    }
}
