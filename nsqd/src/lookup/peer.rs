//! The task of one nsqlookupd: connects, sends IDENTIFY, registers topics and channels, sends changes, and reconnects
//! after a failure.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use nsq_daemon::log::{Level, Logger};
use nsq_protocol::{LookupCommand, LookupdInfo, MAGIC_V1, PeerInfo};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use super::backoff::Backoff;
use super::connection::{LookupConnection, LookupFailure};
use super::ledger::Progress;
use super::query::join_host_port;
use super::reporter::{RECENT, Reporter};
use super::state::{Registrations, Step, Topology};

/// The state of the connection to one nsqlookupd.
#[derive(Debug, Clone, Default)]
pub(super) struct PeerState {
    /// Whether the first attempt to connect has ended.
    pub was_tried: bool,
    /// Whether the connection is open and IDENTIFY has succeeded.
    pub is_connected: bool,
    /// The error of the last failed connection or attempt.
    pub last_error: Option<String>,
    /// Its HTTP address. Kept after a disconnect: HTTP may work when the TCP connection does not.
    pub http_address: Option<String>,
}

/// The task's timeouts and intervals.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    pub dial_timeout: Duration,
    /// Limit for one write, and for one response.
    pub io_timeout: Duration,
    pub ping_interval: Duration,
    pub min_backoff: Duration,
    pub max_backoff: Duration,
    /// A connection that lasted at least this long resets the backoff.
    pub stable_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            dial_timeout: Duration::from_secs(1),
            io_timeout: Duration::from_secs(1),
            ping_interval: Duration::from_secs(15),
            min_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(15),
            stable_after: Duration::from_secs(5),
        }
    }
}

/// The parameters of [`Peer::new`].
pub(super) struct PeerParts {
    pub address: String,
    pub node: Arc<PeerInfo>,
    pub timing: Timing,
    pub max_response_bytes: usize,
    pub logger: Logger,
    /// The node's topics; `None` until they are known. The task does not connect before that.
    pub topology: watch::Receiver<Option<Arc<Topology>>>,
    /// Collects statistics; `None` until they are available.
    pub reporter: watch::Receiver<Option<Arc<Reporter>>>,
    /// Changes when statistics must be reported at once.
    pub node_changes: watch::Receiver<u64>,
    pub state: watch::Sender<PeerState>,
}

/// The task of one nsqlookupd.
pub(super) struct Peer {
    parts: PeerParts,
    registrations: Registrations,
    /// Whether to await each answer before sending the next command. This is slow. But if nsqlookupd closes the
    /// connection after an error while commands are unread, its system may discard the error before it is read.
    one_by_one: bool,
}

/// How long an nsqlookupd may be away before its failures are errors: it may be restarting.
const RESTART_TIME: Duration = Duration::from_secs(30);

/// Since when a previously connected nsqlookupd has been away; `None` before the first connection. Pure.
#[derive(Debug, Default)]
struct Outage {
    since: Option<Instant>,
}

impl Outage {
    /// The log level of a failure. A stopped or restarting nsqlookupd is a warning at first.
    fn level(&mut self, failure: &LookupFailure, was_connected: bool, now: Instant) -> Level {
        if was_connected {
            self.since = Some(now);
        }
        match failure {
            LookupFailure::Closed
            | LookupFailure::Io(_)
            | LookupFailure::Connect(_)
            | LookupFailure::TimedOut { .. } => match self.since {
                Some(since) if now.duration_since(since) < RESTART_TIME => Level::Warn,
                _ => Level::Error,
            },
            LookupFailure::Response(_) | LookupFailure::Unasked(_) | LookupFailure::Refused { .. } => {
                Level::Error
            }
        }
    }
}

/// Number of commands sent before their answers are read. They fit into any socket buffer, so that the two sides cannot
/// block each other.
const BATCH: usize = 64;

/// Log more changes than this in one line.
const MAX_LINES: usize = 16;

impl Peer {
    /// Creates a task for [`run`](Self::run).
    pub fn new(parts: PeerParts) -> Self {
        Peer { parts, registrations: Registrations::default(), one_by_one: false }
    }

    /// Runs until it is dropped, which is safe at any point and closes the connection.
    pub async fn run(mut self) {
        if let Some(missing) = missing_part(&self.parts.node) {
            // nsqlookupd would refuse every attempt.
            let text = format!("cannot register this node: it has no {missing}");
            nsq_daemon::error!(self.parts.logger, "LOOKUPD({}): {text}", self.parts.address);
            self.failed(text);
            return;
        }
        if self.parts.topology.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let timing = self.parts.timing;
        let mut backoff = Backoff::new(timing.min_backoff, timing.max_backoff);
        let mut outage = Outage::default();
        loop {
            self.parts.topology.mark_unchanged();
            let started = Instant::now();
            let Err(failure) = self.connect_and_serve().await;
            let was_connected = self.parts.state.borrow().is_connected;
            let level = outage.level(&failure, was_connected, Instant::now());
            self.parts.logger.log(level, format_args!("LOOKUPD({}): {failure}", self.parts.address));
            self.registrations.disconnected(matches!(failure, LookupFailure::Refused { .. }));
            self.failed(failure.to_string());
            if started.elapsed() >= timing.stable_after {
                backoff.reset();
            }
            wait_for_retry(&mut self.parts.topology, timing.min_backoff, backoff.delay(fastrand::f64()))
                .await;
        }
    }

    fn failed(&self, error: String) {
        self.parts.state.send_modify(|state| {
            state.was_tried = true;
            state.is_connected = false;
            state.last_error = Some(error);
        });
    }

    async fn connect_and_serve(&mut self) -> Result<Infallible, LookupFailure> {
        let (mut connection, mut reports) = self.connect().await?;
        let ping_interval = self.parts.timing.ping_interval;
        let mut pings = interval_at(Instant::now() + ping_interval, ping_interval);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_new = true;
        loop {
            let topology = self.parts.topology.borrow_and_update().clone();
            if let Some(topology) = topology {
                self.send_changes(&mut connection, &topology).await?;
            }
            if std::mem::take(&mut is_new) {
                self.parts.node_changes.mark_unchanged();
                self.begin_round(&mut reports, None, RECENT).await;
            }
            if let Some(reports) = &mut reports {
                self.send_report(&mut connection, reports).await?;
                if reports.progress.is_in_round() {
                    continue;
                }
            }
            tokio::select! {
                _ = pings.tick() => {
                    self.ping(&mut connection).await?;
                    self.begin_round(&mut reports, None, RECENT).await;
                }
                () = changed(&mut self.parts.topology) => {}
                () = changed(&mut self.parts.node_changes) => {
                    self.begin_round(&mut reports, None, Duration::ZERO).await;
                }
                number = connection.refresh_or_broken(reports.is_some()) => {
                    self.begin_round(&mut reports, Some(number?), Duration::ZERO).await;
                }
            }
        }
    }

    /// Begins a round of reports after a connect, a heartbeat, a change of the node, or a request with a number. The
    /// statistics are at most `max_age` old.
    async fn begin_round(&self, reports: &mut Option<Reports>, refresh: Option<u64>, max_age: Duration) {
        let Some(reports) = reports.as_mut().filter(|reports| !reports.is_refused) else { return };
        let reporter = self.parts.reporter.borrow().clone();
        let Some(reporter) = reporter else { return };
        let now = Instant::now();
        reports.refresh = refresh.unwrap_or(reports.refresh);
        reporter.refresh(now.checked_sub(max_age).unwrap_or(now)).await;
        reporter.begin_round(&mut reports.progress, reports.refresh);
        reports.reporter = Some(reporter);
    }

    /// Sends the next report of the current round, if there is one.
    async fn send_report(
        &self,
        connection: &mut LookupConnection,
        reports: &mut Reports,
    ) -> Result<(), LookupFailure> {
        let report =
            reports.reporter.as_ref().and_then(|reporter| reporter.next_report(&mut reports.progress));
        let Some(report) = report else { return Ok(()) };
        let mut command = Vec::new();
        LookupCommand::Stats(report.encode_for(reports.version)).encode(&mut command);
        connection.send(&command).await?;
        let answer = connection.response().await?;
        if is_error(&answer) {
            let (logger, address) = (&self.parts.logger, &self.parts.address);
            let text = String::from_utf8_lossy(&answer);
            nsq_daemon::warn!(logger, "LOOKUPD({address}): refuses statistics, so it gets no more: {text}");
            *reports = Reports { is_refused: true, ..Reports::default() };
        }
        Ok(())
    }

    /// Connects and sends IDENTIFY. Also returns whether nsqlookupd wants statistics.
    async fn connect(&self) -> Result<(LookupConnection, Option<Reports>), LookupFailure> {
        let PeerParts { address, node, timing, max_response_bytes, logger, state, .. } = &self.parts;
        nsq_daemon::info!(logger, "LOOKUPD({address}): connecting");
        let timeouts = (timing.dial_timeout, timing.io_timeout);
        let mut connection = LookupConnection::open(address, timeouts, *max_response_bytes).await?;
        let mut hello = MAGIC_V1.to_vec();
        LookupCommand::Identify(PeerInfo::clone(node)).encode(&mut hello);
        connection.send(&hello).await?;
        let answer = connection.response().await?;
        // An error answer is not JSON.
        let info = LookupdInfo::parse(&answer).map_err(|_| LookupFailure::refused(b"IDENTIFY", &answer))?;
        let is_usable = !info.broadcast_address.is_empty() && info.http_port != 0;
        let http_address = is_usable.then(|| join_host_port(&info.broadcast_address, info.http_port));
        match &http_address {
            Some(http) => {
                nsq_daemon::info!(
                    logger,
                    "LOOKUPD({address}): connected, version {}, HTTP at {http}",
                    info.version
                );
            }
            None => nsq_daemon::error!(
                logger,
                "LOOKUPD({address}): connected, but it reports no HTTP address; new topics start without its channels"
            ),
        }
        state.send_modify(|state| {
            state.was_tried = true;
            state.is_connected = true;
            state.http_address = http_address.or(state.http_address.take());
        });
        let offered = node.heartbeat_stats;
        let wanted = info.heartbeat_stats;
        let is_usable = wanted != 0 && wanted <= offered;
        Ok((connection, is_usable.then(|| Reports { version: wanted, ..Reports::default() })))
    }

    /// Sends commands until the registrations equal `topology`.
    async fn send_changes(
        &mut self,
        connection: &mut LookupConnection,
        topology: &Topology,
    ) -> Result<(), LookupFailure> {
        loop {
            let steps = self.registrations.plan(topology);
            if steps.is_empty() {
                self.one_by_one = false;
                return Ok(());
            }
            // Stays set if sending fails.
            let batch = if std::mem::replace(&mut self.one_by_one, true) { 1 } else { BATCH };
            self.send_steps(connection, &steps, batch).await?;
            self.one_by_one = batch == 1;
        }
    }

    async fn send_steps(
        &mut self,
        connection: &mut LookupConnection,
        steps: &[Step],
        batch: usize,
    ) -> Result<(), LookupFailure> {
        if steps.len() > MAX_LINES {
            let (logger, address) = (&self.parts.logger, &self.parts.address);
            nsq_daemon::info!(logger, "LOOKUPD({address}): sending {} registrations", steps.len());
        }
        let mut sent = Vec::new();
        for batch in steps.chunks(batch) {
            sent.clear();
            for step in batch {
                let start = sent.len();
                step.command().encode(&mut sent);
                self.log_step(&sent[start..], steps.len());
            }
            self.registrations.sending(batch);
            connection.send(&sent).await?;
            for step in batch {
                self.take_answer(connection, step).await?;
            }
        }
        Ok(())
    }

    async fn take_answer(
        &mut self,
        connection: &mut LookupConnection,
        step: &Step,
    ) -> Result<(), LookupFailure> {
        let answer = connection.response().await?;
        if !is_error(&answer) {
            self.registrations.confirmed(step);
            return Ok(());
        }
        self.registrations.refused(step, &answer);
        let mut command = Vec::new();
        step.command().encode(&mut command);
        Err(LookupFailure::refused(&command, &answer))
    }

    fn log_step(&self, command: &[u8], steps: usize) {
        let level = if steps > MAX_LINES { Level::Debug } else { Level::Info };
        if self.parts.logger.enabled(level) {
            let command = String::from_utf8_lossy(command.trim_ascii_end());
            self.parts.logger.log(level, format_args!("LOOKUPD({}): {command}", self.parts.address));
        }
    }

    async fn ping(&self, connection: &mut LookupConnection) -> Result<(), LookupFailure> {
        nsq_daemon::debug!(self.parts.logger, "LOOKUPD({}): sending heartbeat", self.parts.address);
        connection.send(b"PING\n").await?;
        let answer = connection.response().await?;
        if is_error(&answer) { Err(LookupFailure::refused(b"PING", &answer)) } else { Ok(()) }
    }
}

/// The progress of statistics reports on one connection.
#[derive(Default)]
struct Reports {
    /// The version of the statistics that nsqlookupd wants.
    version: u8,
    /// The reporter of the current round.
    reporter: Option<Arc<Reporter>>,
    progress: Progress,
    /// Number of the latest request for statistics.
    refresh: u64,
    /// nsqlookupd wanted statistics, but refused a report.
    is_refused: bool,
}

/// Responses have no type, so the text decides.
fn is_error(answer: &[u8]) -> bool {
    answer.starts_with(b"E_")
}

/// Returns what nsqlookupd would refuse the node for. It requires ports; a disabled listener or a unix socket has none.
fn missing_part(node: &PeerInfo) -> Option<&'static str> {
    match node {
        _ if node.http_port == 0 => Some("HTTP port (see --http-address, --broadcast-http-port)"),
        _ if node.tcp_port == 0 => Some("TCP port (see --tcp-address, --broadcast-tcp-port)"),
        _ if node.broadcast_address.is_empty() => Some("address (see --broadcast-address)"),
        _ if node.version.is_empty() => Some("version"),
        _ => None,
    }
}

/// Waits for `delay`, or until a change after at least `min`: a thousand new topics must not cause a thousand attempts.
async fn wait_for_retry(
    topology: &mut watch::Receiver<Option<Arc<Topology>>>,
    min: Duration,
    delay: Duration,
) {
    sleep(min).await;
    let _ = timeout(delay.saturating_sub(min), changed(topology)).await;
}

/// Waits for a change. Never completes if the sender was dropped: then this task will be dropped too.
async fn changed<T>(watched: &mut watch::Receiver<T>) {
    if watched.changed().await.is_err() {
        pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn change_ends_the_backoff_after_the_minimum() {
        let (min, hour) = (Duration::from_millis(2), Duration::from_secs(3600));
        let sender = watch::Sender::new(None);
        let mut topology = sender.subscribe();
        let started = Instant::now();
        wait_for_retry(&mut topology, min, min * 3).await;
        assert!(started.elapsed() >= min * 3);
        let started = Instant::now();
        sender.send_replace(Some(Arc::default()));
        timeout(Duration::from_secs(30), wait_for_retry(&mut topology, min, hour)).await.unwrap();
        assert!(started.elapsed() >= min);
    }

    #[test]
    fn nsqlookupd_restart_is_a_warning_and_a_long_outage_an_error() {
        let now = Instant::now();
        let refused = || LookupFailure::Connect(std::io::ErrorKind::ConnectionRefused.into());
        let mut outage = Outage::default();
        assert_eq!(outage.level(&refused(), false, now), Level::Error, "never connected");
        assert_eq!(outage.level(&LookupFailure::Closed, true, now), Level::Warn);
        assert_eq!(outage.level(&refused(), false, now + RESTART_TIME / 2), Level::Warn);
        // A proxy that accepts and closes connections does not restart the outage.
        assert_eq!(outage.level(&LookupFailure::Closed, false, now + RESTART_TIME), Level::Error);
        assert_eq!(outage.level(&refused(), false, now + RESTART_TIME), Level::Error);
        assert_eq!(outage.level(&LookupFailure::Closed, true, now + RESTART_TIME * 2), Level::Warn);
        assert_eq!(
            outage.level(&LookupFailure::Unasked(1), true, now),
            Level::Error,
            "a restart does not explain it"
        );
    }

    #[test]
    fn node_without_ports_cannot_register() {
        let whole = PeerInfo {
            broadcast_address: "b".into(),
            http_port: 4151,
            tcp_port: 4150,
            version: "1.3.0".into(),
            ..PeerInfo::default()
        };
        assert_eq!(missing_part(&whole), None);
        assert!(
            missing_part(&PeerInfo { http_port: 0, ..whole.clone() })
                .is_some_and(|missing| missing.contains("HTTP port"))
        );
        assert!(
            missing_part(&PeerInfo { tcp_port: 0, ..whole.clone() })
                .is_some_and(|missing| missing.contains("TCP port"))
        );
        assert!(missing_part(&PeerInfo { broadcast_address: String::new(), ..whole }).is_some());
    }
}
