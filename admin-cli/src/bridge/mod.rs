//! Bridges: `to-file`, `to-http` and `to-nsq` move the messages of channels elsewhere, unattended, for years.
//!
//! A message is finished only once it is safe elsewhere. Memory is bounded by `--max-in-flight` messages per topic. A
//! message that takes long is touched, so that nsqd does not deliver it again meanwhile.
//!
//! In reading order: `flags` (what all bridges accept), `topics` (which topics, at the start and later), this file (one
//! run), `held` and `touching` (messages that wait, and when to touch them), `metrics`; `to_file`; `hosts`, `timing`, `to_http`;
//! `json_filter`, `to_nsq`.

pub mod flags;
pub mod held;
pub mod hosts;
pub mod json_filter;
pub mod metrics;
pub mod timing;
pub mod to_file;
pub mod to_http;
pub mod to_nsq;
pub mod topics;
pub mod touching;

use std::sync::Arc;
use std::time::Duration;

use nsq::{Config, Consumer, ConsumerBuilder, ConsumerState, Event, Handler, MessageStream};
use nsq_daemon::log::Logger;
use nsq_daemon::notify::Notifier;
use nsq_daemon::shutdown::StopSignals;
use nsq_daemon::{error, info, warn};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::command;
use crate::exit_status::{ExitStatus, Failure};
use crate::sources::{self, Purpose, TcpSources, start_failure};
use crate::targets::Targets;
use flags::BridgeFlags;
use metrics::{Metrics, MetricsServer};
use topics::Topics;

/// Maximum time for the last answers when stopping.
const DRAIN: Duration = Duration::from_secs(30);
/// How long `must_connect` waits for the first connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two attempts to find the cluster.
const FIND_PAUSE: Duration = Duration::from_secs(2);

/// Where the messages come from.
#[derive(Debug)]
pub enum Origin {
    /// These addresses.
    Fixed(TcpSources),
    /// Where the targets say, as soon as a daemon answers.
    Cluster(Box<Targets>),
}

/// What a run needs besides the bridge itself.
#[derive(Debug)]
pub struct Start {
    /// Name of the program or command, for log lines.
    pub name: &'static str,
    pub flags: BridgeFlags,
    pub from: Origin,
    pub topics: Topics,
    pub channel: String,
    /// Settings of the consumers.
    pub config: Config,
    /// Whether to fail if no nsqd can be reached at the start, instead of trying again.
    pub must_connect: bool,
}

/// One run, as its topics see it.
#[derive(Debug)]
pub struct Bridge {
    pub logger: Logger,
    pub sources: TcpSources,
    pub channel: String,
    pub config: Config,
    pub metrics: Arc<Metrics>,
    must_connect: bool,
}

/// The signals, as the task of a topic sees them.
#[derive(Debug, Clone)]
pub struct Signals {
    /// SIGINT or SIGTERM has arrived, or another topic has failed.
    pub stop: CancellationToken,
    /// Changes with each SIGHUP.
    pub hangup: watch::Receiver<u64>,
}

/// A kind of bridge.
pub trait Work: Send + Sync + 'static {
    /// Moves the messages of one topic until `signals.stop`, then answers what it holds. An error ends the whole bridge.
    fn run_topic(
        self: Arc<Self>,
        bridge: Arc<Bridge>,
        topic: String,
        signals: Signals,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Writes the bridge's own metrics.
    fn expose(&self, page: &mut nsq_daemon::metrics::Exposition);
}

/// Runs a bridge until a signal arrives or something fails that a retry cannot mend. The failure is logged, and has no message.
pub fn run<W: Work>(start: Start, work: W) -> Result<ExitStatus, Failure> {
    // The logger comes before the runtime: it reads the local time zone while there is one thread.
    let logger = start.flags.logger(start.name);
    let runtime = command::runtime()?;
    let done = runtime.block_on(run_until_stopped(start, Arc::new(work), logger.clone()));
    runtime.shutdown_background();
    let done = done.map_err(|failure| {
        // A log line like all others, for programs that read them.
        error!(logger, "{}", failure.message);
        Failure::new(failure.status, "")
    });
    nsq_daemon::log::flush();
    done
}

async fn run_until_stopped<W: Work>(
    start: Start,
    work: Arc<W>,
    logger: Logger,
) -> Result<ExitStatus, Failure> {
    let mut stops = StopSignals::catch().map_err(Failure::failed)?;
    let notifier = Notifier::from_env().map_err(Failure::failed)?;
    let metrics = Arc::new(Metrics::default());
    let server = match &start.flags.metrics_address {
        Some(address) => Some(MetricsServer::start(address, &metrics, &work, &logger).await?),
        None => None,
    };
    // A cluster that does not answer yet is waited for.
    notifier.ready("running");
    let _watchdog = notifier.keep_alive();
    let found = tokio::select! {
        found = find(start.from, &logger) => found?,
        () = stops.wait() => return Ok(ExitStatus::Done),
    };
    let bridge = Arc::new(Bridge {
        logger: logger.clone(),
        sources: found,
        channel: start.channel,
        config: start.config,
        metrics,
        must_connect: start.must_connect,
    });
    let stop = CancellationToken::new();
    let running = supervise(bridge, work, start.topics, stop.clone());
    tokio::pin!(running);
    let done = tokio::select! {
        done = &mut running => done,
        () = stops.wait() => {
            info!(logger, "stopping");
            notifier.stopping();
            stop.cancel();
            tokio::select! {
                done = &mut running => done,
                () = stops.wait() => {
                    warn!(logger, "second signal: messages that are not finished are delivered again");
                    return Ok(ExitStatus::Interrupted);
                }
            }
        }
    };
    if let Some(server) = server {
        server.stop().await;
    }
    done.map(|()| ExitStatus::Done)
}

/// Finds the addresses, however long it takes. Fails only for a reason that time does not change.
async fn find(from: Origin, logger: &Logger) -> Result<TcpSources, Failure> {
    let targets = match from {
        Origin::Fixed(sources) => return Ok(sources),
        Origin::Cluster(targets) => targets,
    };
    loop {
        match sources::find(&targets, Purpose::Consume).await {
            Err(failure) if failure.status == ExitStatus::Unreachable => {
                warn!(logger, "{}; trying again", failure.message);
                tokio::time::sleep(FIND_PAUSE).await;
            }
            found => return found,
        }
    }
}

/// Runs one task per topic until `stop`, and starts tasks for topics that appear later. The first failure stops all.
async fn supervise<W: Work>(
    bridge: Arc<Bridge>,
    work: Arc<W>,
    mut topics: Topics,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let mut hangups = signal(SignalKind::hangup()).map_err(Failure::failed)?;
    let (hangup_tx, hangup) = watch::channel(0u64);
    let mut tasks = JoinSet::new();
    let mut failed = None;
    let mut is_open = true;
    loop {
        tokio::select! {
            new = topics.next(&bridge), if is_open => match new {
                Some(topic) => {
                    info!(bridge.logger, "[{topic}/{}] starting", bridge.channel);
                    let signals = Signals { stop: stop.clone(), hangup: hangup.clone() };
                    tasks.spawn(Arc::clone(&work).run_topic(Arc::clone(&bridge), topic, signals));
                }
                None => is_open = false,
            },
            Some(ended) = tasks.join_next() => {
                let ended = ended.unwrap_or_else(|error| Err(Failure::failed(error)));
                if let Err(failure) = ended {
                    // Later failures are usually those of the same disk or network.
                    failed.get_or_insert(failure);
                    stop.cancel();
                }
            }
            _ = hangups.recv() => hangup_tx.send_modify(|count| *count += 1),
            () = stop.cancelled(), if is_open => is_open = false,
        }
        if tasks.is_empty() && !is_open {
            return failed.map_or(Ok(()), Err);
        }
    }
}

/// The work on the messages of one topic, taken as a stream.
pub trait TopicWork: Send {
    /// Takes messages until `signals.stop`.
    fn take(
        &mut self,
        stream: &mut MessageStream,
        signals: &mut Signals,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Answers what is held, after `take` has ended with this result, while nsqd is asked for no more.
    fn finish(&mut self, taken: Result<(), Failure>) -> impl Future<Output = Result<(), Failure>> + Send;
}

impl Bridge {
    /// Starts a consumer, lets `work` take its messages, and stops it.
    pub async fn run_stream(
        &self,
        topic: &str,
        work: &mut impl TopicWork,
        signals: &mut Signals,
    ) -> Result<(), Failure> {
        let mut stream = self.consumer(topic).stream().map_err(|error| start_failure(&error))?;
        let consumer = stream.consumer().clone();
        let taken = match self.observe(topic, &consumer).await {
            Ok(()) => work.take(&mut stream, signals).await,
            failed => failed,
        };
        tokio::join!(work.finish(taken), consumer.shutdown(DRAIN)).0
    }

    /// Starts a consumer with a handler, and stops it at `signals.stop`.
    pub async fn run_handler(
        &self,
        topic: &str,
        handler: impl Handler,
        signals: &Signals,
    ) -> Result<(), Failure> {
        let consumer =
            self.consumer(topic).handler(handler).start().map_err(|error| start_failure(&error))?;
        let observed = self.observe(topic, &consumer).await;
        if observed.is_ok() {
            tokio::select! {
                () = signals.stop.cancelled() => {}
                _ = consumer.stopped() => {}
            }
        }
        consumer.shutdown(DRAIN).await;
        observed
    }

    /// A builder of the topic's consumer.
    fn consumer(&self, topic: &str) -> ConsumerBuilder {
        Consumer::builder(topic, &self.channel)
            .nsqd(&self.sources.nsqds)
            .lookupd(&self.sources.lookupds)
            .config(self.config.clone())
    }

    /// Logs and counts what happens to a consumer until it stops. With `must_connect`, fails if no nsqd can be reached.
    async fn observe(&self, topic: &str, consumer: &Consumer) -> Result<(), Failure> {
        self.metrics.add(topic, consumer.clone());
        let (logger, name) = (self.logger.clone(), format!("{topic}/{}", self.channel));
        let (mut events, states) = (consumer.events(), consumer.watch());
        tokio::spawn(async move {
            loop {
                match events.recv().await {
                    Ok(Event::Disconnected { .. })
                        if matches!(*states.borrow(), ConsumerState::Draining | ConsumerState::Stopped) => {}
                    Ok(event) => log_event(&logger, &name, &event),
                    Err(RecvError::Lagged(count)) => warn!(logger, "[{name}] {count} events were not logged"),
                    Err(RecvError::Closed) => return,
                }
            }
        });
        if self.must_connect {
            let ready = sources::ready(consumer, CONNECT_TIMEOUT).await;
            ready.map_err(|error| start_failure(&error))?;
        }
        Ok(())
    }
}

fn log_event(logger: &Logger, name: &str, event: &Event) {
    match event {
        Event::Connected { node } => info!(logger, "[{name}] connected to {node}"),
        Event::Disconnected { node, reason } => warn!(logger, "[{name}] connection to {node}: {reason}"),
        Event::LookupFailed(error) => warn!(logger, "[{name}] {error}"),
        Event::AnswerFailed { node, code, description } => {
            warn!(logger, "[{name}] {node} refused an answer: {code} {description}");
        }
        Event::GaveUp { id, attempts, reason } => {
            warn!(logger, "[{name}] message {id} dropped at its delivery {attempts}: {reason}");
        }
        Event::BackingOff { level, pause } => {
            warn!(logger, "[{name}] backing off for {pause:?} at level {level}");
        }
        Event::Recovered => info!(logger, "[{name}] backoff has ended"),
        other => warn!(logger, "[{name}] {other:?}"),
    }
}
