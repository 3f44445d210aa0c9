//! The task that controls one consumer: which nsqds to connect to, when to query lookupds, and which RDY each
//! connection gets.
//!
//! The engine owns the pure parts (membership, RDY distribution) and passes events to them. Connections, lookups and
//! handlers are separate tasks that report to the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures_util::future::BoxFuture;
use nsq_protocol::{ChannelName, TopicName};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::connection::{Connection, Timeouts};
use super::feedback::Event;
use super::link::Link;
use super::shared::{ConsumerState, Shared};
use crate::backoff::BackoffState;
use crate::config::Config;
use crate::connect::Connector;
use crate::error::{ConnectError, ConnectStage, Disconnect, StartError};
use crate::handshake::Purpose;
use crate::http::HttpClient;
use crate::lookup::{Lookup, Lookupd, NodeFilter, look_up};
use crate::membership::{Membership, MembershipOptions};
use crate::poll_pace::PollPace;
use crate::rdy::{ConnectionId, Distributor, Mode, RdyOptions};
use crate::time;

/// What connections and lookups report to the engine.
pub(super) enum Report {
    Up(Arc<Link>),
    Down {
        node: Arc<str>,
        id: ConnectionId,
        error: ConnectError,
    },
    /// One lookupd answered, or failed to.
    Answered {
        lookupd: usize,
        listed: BTreeSet<Arc<str>>,
    },
    /// All lookupds of a round have answered or failed to.
    LookedUp(Lookup),
}

/// What a consumer subscribes to, and where.
pub(super) struct Assignment {
    pub(super) topic: TopicName,
    pub(super) channel: ChannelName,
    pub(super) nsqds: Vec<Arc<str>>,
    pub(super) lookupds: Vec<Lookupd>,
    /// Which nodes of the lookupds to use.
    pub(super) filter: NodeFilter,
}

pub(super) struct Engine {
    shared: Arc<Shared>,
    config: Arc<Config>,
    connector: Arc<Connector>,
    assignment: Arc<Assignment>,
    membership: Membership,
    distributor: Distributor,
    links: BTreeMap<ConnectionId, Arc<Link>>,
    /// Closed connections whose messages are still being handled.
    lingering: Vec<Arc<Link>>,
    next_id: u64,
    reports: mpsc::UnboundedReceiver<Report>,
    reports_tx: mpsc::UnboundedSender<Report>,
    http: HttpClient,
    next_lookup_at: Option<Instant>,
    last_lookup_at: Option<Instant>,
    pace: PollPace,
    /// The lookupds that have not answered yet. They are not asked again meanwhile.
    silent_lookupds: BTreeSet<usize>,
    /// At least one lookup has completed.
    looked_up: bool,
    last_error: Option<StartError>,
    /// Connections and lookups, which stop when the engine is dropped.
    tasks: JoinSet<()>,
    /// Ends with the number of the worker.
    workers: JoinSet<u32>,
    live_workers: BTreeSet<u32>,
    new_worker: Option<NewWorker>,
}

/// Makes the worker with this number, which runs until the consumer stops or its concurrency is lower.
pub(super) type NewWorker = Box<dyn Fn(u32) -> BoxFuture<'static, ()> + Send>;

/// Minimum interval between lookups because of a broken connection.
const MIN_LOOKUP_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

impl Engine {
    pub(super) fn new(
        shared: Arc<Shared>,
        config: Arc<Config>,
        connector: Connector,
        http: HttpClient,
        assignment: Assignment,
    ) -> Self {
        let now = time::now();
        let mut membership = Membership::new(MembershipOptions {
            reconnect_initial: config.reconnect_initial,
            reconnect_max: config.reconnect_max,
            forget_after: config.forget_after,
        });
        for nsqd in &assignment.nsqds {
            membership.add_fixed(Arc::clone(nsqd), now);
        }
        let rdy_options = RdyOptions {
            idle_timeout: config.low_rdy_idle_timeout,
            slice: config.low_rdy_slice,
            fair_share: config.fair_share,
        };
        let (reports_tx, reports) = mpsc::unbounded_channel();
        Engine {
            distributor: Distributor::new(rdy_options, config.effective_max_in_flight()),
            http,
            next_lookup_at: (!assignment.lookupds.is_empty()).then_some(now),
            assignment: Arc::new(assignment),
            pace: PollPace::new(config.lookupd_poll_interval),
            shared,
            config,
            connector: Arc::new(connector),
            membership,
            links: BTreeMap::new(),
            lingering: Vec::new(),
            next_id: 0,
            reports,
            reports_tx,
            last_lookup_at: None,
            silent_lookupds: BTreeSet::new(),
            looked_up: false,
            last_error: None,
            tasks: JoinSet::new(),
            workers: JoinSet::new(),
            live_workers: BTreeSet::new(),
            new_worker: None,
        }
    }

    pub(super) fn set_workers(&mut self, new_worker: NewWorker) {
        self.new_worker = Some(new_worker);
        self.start_workers();
    }

    /// Starts the workers that are missing. Those that are too many end by themselves.
    fn start_workers(&mut self) {
        while let Some(ended) = self.workers.try_join_next() {
            self.live_workers.retain(|worker| ended.as_ref().is_ok_and(|ended| ended != worker));
        }
        let Some(new_worker) = &self.new_worker else { return };
        for worker in 0..*self.shared.concurrency.borrow() {
            if self.live_workers.insert(worker) {
                let run = new_worker(worker);
                self.workers.spawn(async move {
                    run.await;
                    worker
                });
            }
        }
    }

    /// Runs the consumer until a shutdown is requested, then shuts it down.
    pub(super) async fn run(mut self) {
        let drain = loop {
            if let Some(drain) = self.shared.requested_drain() {
                break drain;
            }
            let now = time::now();
            self.connect_due(now);
            self.look_up_due(now);
            self.start_workers();
            let wake_at = self.apply_rdy(now);
            self.publish_state(now);
            let wake_at =
                [wake_at, self.membership.next_due(), self.next_lookup_due()].into_iter().flatten().min();
            self.wait_for_event(wake_at).await;
        };
        self.drain(drain).await;
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        self.links.values().cloned().collect()
    }

    pub(super) fn lingering_in_flight(&mut self) -> u64 {
        self.lingering.retain(|link| link.in_flight() > 0);
        self.lingering.iter().map(|link| link.in_flight()).sum()
    }

    /// Waits for an event, at most until `until`, and processes the reports that have arrived.
    pub(super) async fn wait_for_event(&mut self, until: Option<Instant>) {
        let sleep = async {
            match until {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Never `None`: the engine itself holds a sender.
            Some(report) = self.reports.recv() => {
                self.take_report(report);
                while let Ok(report) = self.reports.try_recv() {
                    self.take_report(report);
                }
            }
            () = self.shared.feedback.wake.notified() => {}
            () = sleep => {}
        }
        while self.tasks.try_join_next().is_some() {}
    }

    pub(super) async fn stop_workers(&mut self) {
        // Workers that have ended are not affected; the others are dropped at their current await.
        self.workers.shutdown().await;
    }

    fn take_report(&mut self, report: Report) {
        let now = time::now();
        match report {
            Report::Up(link) => {
                self.membership.connected(&link.node, now);
                self.distributor.connected(link.id, link.max_rdy_count, now);
                self.shared.feedback.emit(Event::Connected { node: Arc::clone(&link.node) });
                if self.shared.feedback.stopping.is_cancelled() {
                    link.send_cls();
                }
                self.links.insert(link.id, link);
                self.last_error = None;
                *self.shared.links.lock() = self.links();
            }
            Report::Down { node, id, error } => {
                if let Some(link) = self.links.remove(&id) {
                    self.lingering.retain(|link| link.in_flight() > 0);
                    self.lingering.push(link);
                    *self.shared.links.lock() = self.links();
                }
                self.distributor.disconnected(id);
                let refused = error.cause.is_authorization();
                if self.membership.disconnected(&node, refused, now, fastrand::f64())
                    && !self.assignment.lookupds.is_empty()
                {
                    let earliest = self.last_lookup_at.map_or(now, |at| now.max(at + MIN_LOOKUP_INTERVAL));
                    self.next_lookup_at = self.next_lookup_at.map(|at| at.min(earliest));
                }
                self.shared.feedback.emit(Event::Disconnected { node, reason: error.cause.clone() });
                self.last_error = Some(StartError::Connect(error));
            }
            Report::Answered { lookupd, listed } => {
                self.silent_lookupds.remove(&lookupd);
                let had_none = !self.membership.has_discovered();
                self.membership.found(&listed, now);
                if had_none && !listed.is_empty() {
                    self.plan_lookup(now);
                }
            }
            Report::LookedUp(lookup) => {
                self.looked_up = true;
                self.membership.looked_up(&lookup.listed, &lookup.elsewhere, lookup.any_answer, now);
                if lookup.any_answer && matches!(self.last_error, Some(StartError::Lookup(_))) {
                    self.last_error = None;
                }
                for error in lookup.errors {
                    self.shared.feedback.emit(Event::LookupFailed(error.clone()));
                    if !lookup.any_answer {
                        self.last_error = Some(StartError::Lookup(error));
                    }
                }
            }
        }
    }

    fn connect_due(&mut self, now: Instant) {
        let due = self.membership.due(now);
        if !due.is_empty() {
            *self.shared.sources.nsqds.lock() = self.membership.nodes();
        }
        for node in due {
            let id = ConnectionId(self.next_id);
            self.next_id += 1;
            let subscription = (self.assignment.topic.clone(), self.assignment.channel.clone());
            let guard =
                DownGuard { node: Arc::clone(&node), id, error: None, reports: self.reports_tx.clone() };
            self.tasks.spawn(run_connection(
                guard,
                subscription,
                Arc::clone(&self.connector),
                Timeouts { silence: self.config.silence_limit(), write: self.config.write_timeout },
                Arc::clone(&self.shared),
            ));
        }
    }

    fn next_lookup_due(&self) -> Option<Instant> {
        self.next_lookup_at.filter(|_| self.silent_lookupds.len() < self.assignment.lookupds.len())
    }

    /// Plans the next round: soon while no node is known, else after the configured interval.
    fn plan_lookup(&mut self, now: Instant) {
        let jitter = 1.0 + self.config.lookupd_poll_jitter * fastrand::f64();
        let pause = self.pace.next_pause(self.membership.has_discovered());
        self.next_lookup_at = Some(now + pause.mul_f64(jitter));
    }

    fn look_up_due(&mut self, now: Instant) {
        if self.next_lookup_due().is_none_or(|at| at > now) {
            return;
        }
        self.plan_lookup(now);
        self.last_lookup_at = Some(now);
        let asked: Vec<(usize, Lookupd)> = self
            .assignment
            .lookupds
            .iter()
            .cloned()
            .enumerate()
            .filter(|(lookupd, _)| self.silent_lookupds.insert(*lookupd))
            .collect();
        let http = self.http.clone();
        let assignment = Arc::clone(&self.assignment);
        let suspects = self.membership.suspects();
        let reports = self.reports_tx.clone();
        self.tasks.spawn(async move {
            let answered = |lookupd, listed| drop(reports.send(Report::Answered { lookupd, listed }));
            let lookup =
                look_up(&http, &asked, &assignment.topic, &assignment.filter, &suspects, answered).await;
            // This fails only after the engine has ended, and then the result is not needed.
            let _ = reports.send(Report::LookedUp(lookup));
        });
    }

    /// Sends the RDY changes that are due. Returns when to plan again.
    fn apply_rdy(&mut self, now: Instant) -> Option<Instant> {
        let max_in_flight = self.shared.max_in_flight.load(Ordering::Relaxed);
        self.distributor.set_max_in_flight(max_in_flight);
        let backoff = self.shared.feedback.backoff_state(now);
        let mode = match backoff {
            _ if self.shared.paused.load(Ordering::Relaxed) => Mode::Hold,
            BackoffState::Paused { .. } => Mode::Hold,
            BackoffState::Probing { .. } => Mode::Probe,
            BackoffState::Normal => Mode::Open,
        };
        let mut seen = Vec::with_capacity(self.links.len());
        for (id, link) in &self.links {
            let observed = (link.in_flight(), link.last_message_at());
            self.distributor.observe(*id, observed.0, observed.1);
            seen.push(observed);
        }
        let plan = self.distributor.plan(mode, now);
        for (id, rdy) in &plan.changes {
            if let Some(link) = self.links.get(id) {
                link.set_rdy(*rdy);
            }
        }
        self.shared.feedback.watch_answers.store(plan.watch_answers, Ordering::SeqCst);
        for id in &plan.watch_messages {
            if let Some(link) = self.links.get(id) {
                link.watch_messages();
            }
        }
        // A change before the flags were set did not wake the engine, so plan again.
        let unseen = self.links.values().zip(&seen).any(|(link, (in_flight, last_message_at))| {
            (plan.watch_answers && link.in_flight() != *in_flight)
                || (!plan.watch_messages.is_empty() && link.last_message_at() != *last_message_at)
        });
        if unseen {
            self.shared.feedback.wake.notify_one();
        }
        let pause_end = match backoff {
            BackoffState::Paused { until, .. } => Some(until),
            _ => None,
        };
        [plan.wake_at, pause_end].into_iter().flatten().min()
    }

    fn publish_state(&self, now: Instant) {
        let paused = self.shared.paused.load(Ordering::Relaxed)
            || self.shared.max_in_flight.load(Ordering::Relaxed) == 0;
        let state = if !self.links.is_empty() {
            match self.shared.feedback.backoff_state(now) {
                _ if paused => ConsumerState::Paused,
                BackoffState::Paused { level, .. } | BackoffState::Probing { level } => {
                    ConsumerState::BackingOff { level }
                }
                BackoffState::Normal => ConsumerState::Running,
            }
        } else if self.membership.has_untried() {
            ConsumerState::Connecting
        } else if let Some(error) = &self.last_error {
            ConsumerState::Failing(error.clone())
        } else if !self.looked_up {
            ConsumerState::Starting
        } else {
            ConsumerState::NoNodes
        };
        self.shared.state.send_if_modified(|current| {
            let differs = !current.is_same_as(&state);
            if differs {
                *current = state;
            }
            differs
        });
    }
}

/// Reports the end of a connection in every case, including a panic.
struct DownGuard {
    node: Arc<str>,
    id: ConnectionId,
    error: Option<ConnectError>,
    reports: mpsc::UnboundedSender<Report>,
}

impl Drop for DownGuard {
    fn drop(&mut self) {
        let error = self.error.take().unwrap_or_else(|| ConnectError {
            node: Arc::clone(&self.node),
            stage: ConnectStage::Dial,
            cause: Disconnect::Stopped,
        });
        let _ = self.reports.send(Report::Down { node: Arc::clone(&self.node), id: self.id, error });
    }
}

async fn run_connection(
    mut guard: DownGuard,
    (topic, channel): (TopicName, ChannelName),
    connector: Arc<Connector>,
    timeouts: Timeouts,
    shared: Arc<Shared>,
) {
    let purpose = Purpose::Subscribe { topic: topic.clone(), channel: channel.clone() };
    let connecting = tokio::select! {
        connected = connector.connect(&guard.node, purpose) => connected,
        () = shared.feedback.stopping.cancelled() => return,
    };
    match connecting {
        Err(error) => guard.error = Some(error),
        Ok(established) => {
            let link = Arc::new(Link::new(
                guard.id,
                Arc::clone(&established.node),
                &established.server,
                (topic, channel),
                Arc::clone(&shared.feedback),
            ));
            let _ = guard.reports.send(Report::Up(Arc::clone(&link)));
            let cause = Connection { link, shared, timeouts }.run(established).await;
            let node = Arc::clone(&guard.node);
            guard.error = Some(ConnectError { node, stage: ConnectStage::Established, cause });
        }
    }
}
