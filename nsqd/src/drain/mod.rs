//! Runs drains: watches what is left, and ends when nothing is left for consumers or the time is over. What is left then
//! moves to another nsqd, if the drain has a target. [`crate::engine::draining`] decides, [`crate::engine::status`] holds the
//! state.
//!
//! - [`moving`]: moves messages to another nsqd
//! - [`receiver`]: that nsqd, as this one sees it
//! - [`wire`]: pure; the requests
//! - `simulation`: crashes on both sides of a move

pub mod moving;
pub mod receiver;
#[cfg(test)]
mod simulation;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use nsq_daemon::go_duration;
use nsq_daemon::log::Logger;
use nsq_protocol::DrainStatus;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::moving::{MoveFailure, MoveOptions, MovedBatch, Mover};
use self::receiver::{HttpReceiver, ReceiverOptions, Target};
use crate::clock;
use crate::engine::draining::{DrainRequest, DrainStep, Draining, Remaining};
use crate::topic::registry::Registry;

/// Minimum time between two counts of what is left. With many channels, counting takes at most a tenth of the time.
const COUNT_INTERVAL: Duration = Duration::from_millis(100);

/// Maximum wait for a batch that is on its way when nsqd stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// How a drain ended that stops nsqd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainEnd {
    /// Nothing is left for consumers.
    Drained,
    /// The time is over. What is left stays on disk.
    Overdue,
    /// What was left could not be moved to another nsqd, and stays on disk.
    NotMoved,
}

/// How drains move messages.
#[derive(Debug, Clone)]
pub struct MoveSetup {
    pub receiver: ReceiverOptions,
    /// How long to go on without success. Consumers also have this long for what they have in flight.
    pub patience: Duration,
}

/// Begins and ends drains of a node.
pub struct Drainer {
    registry: Arc<Registry>,
    logger: Logger,
    /// Called when a drain begins or ends.
    on_change: Box<dyn Fn() + Send + Sync>,
    /// Cancelled to end the watching task.
    watching: Mutex<Option<DropGuard>>,
    ended: watch::Sender<Option<DrainEnd>>,
    moves: MoveSetup,
    /// Held while messages move. A move that is cancelled ends after its batch.
    moving: tokio::sync::Mutex<()>,
    /// This process, which does not adopt messages from itself.
    process: String,
}

impl Drainer {
    pub fn new(
        registry: Arc<Registry>,
        logger: Logger,
        moves: MoveSetup,
        on_change: Box<dyn Fn() + Send + Sync>,
    ) -> Arc<Self> {
        Arc::new(Drainer {
            registry,
            logger,
            on_change,
            watching: Mutex::default(),
            ended: watch::Sender::new(None),
            moves,
            moving: tokio::sync::Mutex::default(),
            process: format!("{:032x}", fastrand::u128(..)),
        })
    }

    /// A random text of this process.
    pub fn process(&self) -> &str {
        &self.process
    }

    /// Begins a drain, or replaces the one that is under way. Call it inside a Tokio runtime.
    pub fn begin(self: &Arc<Self>, request: DrainRequest) {
        let mut watching = self.watching.lock();
        let stop = CancellationToken::new();
        // Ends the previous task.
        *watching = Some(stop.clone().drop_guard());
        let limit = request.timeout.map_or("no limit".to_owned(), go_duration::format);
        let to = request.move_to.as_ref().map(|to| format!("; what is left then moves to {to}"));
        let to = to.unwrap_or_default();
        nsq_daemon::info!(self.logger, "NSQ: draining: publishes are refused (time limit: {limit}){to}");
        self.registry.engine().status.begin_drain(|known| {
            let since = known.map(Draining::started_at);
            Draining::new(request, since, clock::wall_ns(), clock::monotonic())
        });
        (self.on_change)();
        let drainer = self.clone();
        let cancel = stop.clone();
        tokio::spawn(stop.run_until_cancelled_owned(async move { drainer.watch(cancel).await }));
    }

    /// Ends a drain: publishes are accepted again. A batch that is on its way to another nsqd is completed first. Returns
    /// whether there was a drain. Call it inside a Tokio runtime.
    pub fn end(self: &Arc<Self>) -> bool {
        let mut watching = self.watching.lock();
        *watching = None;
        let had_begun = self.registry.engine().status.end_drain();
        if had_begun {
            nsq_daemon::info!(self.logger, "NSQ: the drain was ended; publishes are accepted");
            (self.on_change)();
            let drainer = self.clone();
            tokio::spawn(async move { drainer.resume().await });
        }
        had_begun
    }

    /// The state of the drain; the default if there is none.
    pub fn status(&self) -> DrainStatus {
        self.registry.engine().status.with_drain(|drain| drain.status()).unwrap_or_default()
    }

    /// Waits for the end of a drain that stops nsqd. Dropping the future loses nothing.
    pub async fn ended(&self) -> DrainEnd {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(DrainEnd::Drained),
            Err(_) => std::future::pending().await,
        }
    }

    /// Ends a drain because nsqd stops. Waits a moment for a batch that is on its way to another nsqd: otherwise it would be in
    /// doubt.
    pub async fn stop(&self) {
        *self.watching.lock() = None;
        if tokio::time::timeout(STOP_TIMEOUT, self.moving.lock()).await.is_err() {
            nsq_daemon::warn!(
                self.logger,
                "NSQ: a batch is on its way to another nsqd and may be delivered on both nodes"
            );
        }
    }

    /// Hands messages out again, unless another drain began.
    async fn resume(&self) {
        let _moving = self.moving.lock().await;
        if !self.registry.engine().status.is_draining() {
            moving::resume(&self.registry);
        }
    }

    async fn watch(self: &Arc<Self>, cancel: CancellationToken) {
        let mut was_drained = false;
        loop {
            let began = Instant::now();
            let registry = self.registry.clone();
            // Counting panicked: the panic hook has reported it.
            let Ok(remaining) = crate::blocking::run(move || registry.remaining()).await else { return };
            let now = clock::monotonic();
            let status = &self.registry.engine().status;
            let Some((step, request, is_report_due)) = status.with_drain(|drain| {
                let step = drain.step(remaining, now);
                (step, drain.request.clone(), drain.is_report_due(now))
            }) else {
                return;
            };
            let is_drained = step == DrainStep::Drained;
            if is_drained && !was_drained {
                self.log_drained(remaining);
            } else if !is_drained && is_report_due {
                self.log_progress(remaining);
            }
            was_drained = is_drained;
            match step {
                DrainStep::Drained if request.stops => return self.conclude(DrainEnd::Drained),
                DrainStep::Move => self.begin_moving(&request, cancel.clone()),
                DrainStep::Overdue if request.stops && request.move_to.is_some() => {
                    nsq_daemon::error!(
                        self.logger,
                        "NSQ: {} messages in {} channels, and {} that no consumer takes, were not moved and stay on disk",
                        remaining.messages,
                        remaining.channels,
                        remaining.held
                    );
                    return self.conclude(DrainEnd::NotMoved);
                }
                DrainStep::Overdue if request.stops => {
                    nsq_daemon::warn!(
                        self.logger,
                        "NSQ: the time for draining is over; {} messages in {} channels stay on disk",
                        remaining.messages,
                        remaining.channels
                    );
                    return self.conclude(DrainEnd::Overdue);
                }
                _ => {}
            }
            sleep(COUNT_INTERVAL.max(began.elapsed() * 9)).await;
        }
    }

    /// Begins to move what is left. In a task of its own, which completes a batch even if the drain is ended.
    fn begin_moving(self: &Arc<Self>, request: &DrainRequest, cancel: CancellationToken) {
        let Some(to) = request.move_to.clone() else { return };
        let run = fastrand::u64(..);
        let status = |change: &dyn Fn(&mut Draining)| {
            self.registry.engine().status.with_drain(change);
        };
        status(&|drain| drain.begin_moving(run, clock::monotonic()));
        nsq_daemon::info!(self.logger, "NSQ: moving what is left to {to}");
        let drainer = self.clone();
        drop(tokio::spawn(async move {
            let _moving = drainer.moving.lock().await;
            // In a task of its own, so that a panic ends the move, too.
            let (mover, is_cancelled) = (drainer.clone(), cancel.clone());
            let moved = tokio::spawn(async move { mover.move_all(&to, run, cancel).await }).await;
            let result = match moved {
                Ok(Ok(())) => Ok(()),
                Ok(Err(MoveFailure::Cancelled)) => Err("the drain was ended".to_owned()),
                Ok(Err(MoveFailure::Failed(reason))) => Err(reason),
                Err(panic) => Err(panic.to_string()),
            };
            match &result {
                Ok(()) => nsq_daemon::info!(drainer.logger, "NSQ: everything that was left was moved"),
                Err(reason) => nsq_daemon::error!(drainer.logger, "NSQ: the move ended early: {reason}"),
            }
            if result.is_err() || is_cancelled.is_cancelled() {
                moving::resume(&drainer.registry);
            }
            let now = clock::monotonic();
            let mut result = Some(result);
            drainer.registry.engine().status.with_drain(|drain| {
                drain.end_moving(run, result.take().unwrap_or(Ok(())), now);
            });
        }));
    }

    async fn move_all(
        self: &Arc<Self>,
        to: &str,
        run: u64,
        cancel: CancellationToken,
    ) -> Result<(), MoveFailure> {
        let failed = |error: &dyn std::fmt::Display| MoveFailure::Failed(error.to_string());
        let target = Target::parse(to).map_err(|error| failed(&error))?;
        let options = MoveOptions {
            target: target.to_string(),
            source: self.moves.receiver.source.clone(),
            process: self.process.clone(),
            patience: self.moves.patience,
            retry_interval: moving::RETRY_INTERVAL,
        };
        let receiver = self.moves.receiver.clone();
        // It reads files.
        let receiver = crate::blocking::run(move || HttpReceiver::new(target, &receiver)).await;
        let receiver = receiver.map_err(|panic| failed(&panic))?.map_err(|error| failed(&error))?;
        let registry = self.registry.clone();
        let on_moved = Box::new(move |batch: &MovedBatch| {
            let (counts, subject) = ((batch.messages, batch.bytes), batch.subject.to_string());
            let now = clock::monotonic();
            registry.engine().status.with_drain(|drain| drain.note_moved(run, counts, subject, now));
        });
        Mover::new(self.registry.clone(), receiver, options, cancel, on_moved).run().await
    }

    fn conclude(&self, end: DrainEnd) {
        self.ended.send_replace(Some(end));
    }

    fn log_progress(&self, remaining: Remaining) {
        let Remaining { messages, channels, in_flight, deferred, held, .. } = remaining;
        nsq_daemon::info!(
            self.logger,
            "NSQ: draining: {messages} messages left in {channels} channels ({in_flight} in flight, {deferred} deferred); {held} held"
        );
    }

    fn log_drained(&self, remaining: Remaining) {
        nsq_daemon::info!(self.logger, "NSQ: drained: no message is left for consumers");
        if remaining.held > 0 {
            nsq_daemon::warn!(
                self.logger,
                "NSQ: {} messages stay on disk: dead letters without a consumer, and messages of topics without channels",
                remaining.held
            );
        }
    }
}
