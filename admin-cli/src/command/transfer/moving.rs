//! `nsq move`: takes messages from a channel, publishes them, and finishes each after its acknowledgement.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use nsq::admin::StatsQuery;
use nsq::{Consumer, Message, MessageStream, PublishError, Requeue};
use nsq_daemon::shutdown::StopSignals;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::destination::Destination;
use super::selection::Selection;
use super::{Outcome, TransferFlags};
use crate::bridge::held::{Held, touch_time};
use crate::cluster::Cluster;
use crate::command::Context;
use crate::command::change::holdings;
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use crate::progress::Progress;
use crate::sources::{self, Purpose, publish_failure, start_failure};

/// Messages in flight if every message is moved.
const MAX_IN_FLIGHT: u32 = 200;
/// Messages in flight if some are held because they do not match: nsqd's default limit of a connection.
const MAX_HELD: u32 = 2_500;
/// How often to look whether messages are left.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Maximum time for the last answers when stopping.
const DRAIN: Duration = Duration::from_secs(5);

type Published = (Message, Result<(), PublishError>);

struct Moving<'a> {
    destination: &'a Destination,
    selection: Selection,
    max: u64,
    publishing: FuturesUnordered<BoxFuture<'static, Published>>,
    /// Messages that do not match.
    held: Held<Message>,
    /// Messages that were taken to be published.
    selected: u64,
    outcome: Outcome,
}

/// Moves until nothing is left, the maximum is reached, or a signal arrives.
pub async fn run(
    context: &Context,
    flags: &TransferFlags,
    cluster: &Cluster,
    source: &Object,
    destination: &Destination,
    waiting: u64,
) -> Result<Outcome, Failure> {
    let mut signals = StopSignals::catch().map_err(Failure::failed)?;
    let selection = flags.selection();
    let max = flags.max.unwrap_or(u64::MAX);
    let limit = if selection.is_all() { MAX_IN_FLIGHT } else { MAX_HELD };
    let limit =
        u32::try_from(max).unwrap_or(limit).min(limit).max(if selection.is_all() { 1 } else { limit });
    let found = sources::find(&context.targets, Purpose::Consume).await?;
    let config =
        context.targets.security.config.clone().headers(true).max_in_flight(limit).max_attempts(0u16);
    let channel = source.channel.as_deref().unwrap_or_default();
    let mut stream = Consumer::builder(&source.topic, channel)
        .nsqd(&found.nsqds)
        .lookupd(&found.lookupds)
        .config(config)
        .stream()
        .map_err(|error| start_failure(&error))?;
    let consumer = stream.consumer().clone();
    sources::ready(&consumer, context.targets.timeout).await.map_err(|error| start_failure(&error))?;
    let mut moving = Moving {
        destination,
        selection,
        max,
        publishing: FuturesUnordered::new(),
        held: Held::default(),
        selected: 0,
        outcome: Outcome::default(),
    };
    let mut progress = Progress::new(context.output, "messages", Some(waiting.min(max)));
    let moved = tokio::select! {
        moved = moving.until_empty(&mut stream, cluster, source, limit as usize, &mut progress) => moved,
        () = signals.wait() => {
            moving.outcome.incomplete = Some("interrupted; the other messages stay in the channel".to_owned());
            Ok(())
        }
    };
    let finish = async {
        while let Some(published) = moving.publishing.next().await {
            // The first failure counts.
            let _ = moving.answer(published);
        }
        moving.outcome.skipped = moving.held.len() as u64;
        for message in moving.held.take() {
            // If the connection is closed, nsqd has already requeued the message.
            let _ = message.requeue_without_backoff(Requeue::Now);
        }
    };
    tokio::join!(finish, async {
        // Messages that have arrived and were not taken go back when the consumer stops.
        drop(stream);
        consumer.shutdown(DRAIN).await
    });
    drop(progress);
    moved.map(|()| moving.outcome)
}

impl Moving<'_> {
    async fn until_empty(
        &mut self,
        stream: &mut MessageStream,
        cluster: &Cluster,
        source: &Object,
        limit: usize,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let consumer = stream.consumer().clone();
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_at = Instant::now();
        let mut has_arrived = true;
        let mut arrived = Vec::new();
        loop {
            if self.selected >= self.max && self.publishing.is_empty() {
                return Ok(());
            }
            if self.held.len() >= limit {
                self.outcome.incomplete = Some(format!(
                    "{limit} messages do not match and are held; the messages behind them were not looked at"
                ));
                return Ok(());
            }
            let room = usize::try_from(self.max - self.selected).unwrap_or(limit).min(limit);
            let room = if self.destination.after(next_at) > next_at { room.min(1) } else { room };
            let room = room.min(limit.saturating_sub(self.publishing.len()));
            let next_touch = self.held.next_touch();
            tokio::select! {
                Some(published) = self.publishing.next(), if !self.publishing.is_empty() => {
                    self.answer(published)?;
                    progress.set(self.outcome.done);
                }
                count = async {
                    sleep_until(next_at).await;
                    stream.next_many(&mut arrived, room).await
                }, if room > 0 => {
                    if count == 0 {
                        return Err(Failure::failed("the consumer has stopped"));
                    }
                    has_arrived = true;
                    for message in arrived.drain(..) {
                        if self.take(message) {
                            next_at = self.destination.after(Instant::now());
                        }
                    }
                }
                () = sleep_until(next_touch.map_or_else(far, Instant::from_std)), if next_touch.is_some() => self.touch(),
                _ = looks.tick() => {
                    let is_quiet = !std::mem::take(&mut has_arrived) && self.publishing.is_empty() && consumer.stats().queued == 0;
                    if is_quiet && is_empty(cluster, source).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Publishes a message, or holds it if it does not match. Returns whether it is published.
    fn take(&mut self, message: Message) -> bool {
        if self.selected >= self.max || !self.selection.selects(message.body(), message.headers()) {
            let touch_at = touch_time(message.received_at(), message.deadline());
            self.held.push(message, touch_at);
            return false;
        }
        self.selected += 1;
        let headers: BTreeMap<String, String> = (message.headers().iter())
            .flat_map(|headers| headers.iter())
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        let publish = self.destination.publish(message.body().clone(), headers.into_iter().collect());
        self.publishing.push(async move { (message, publish.await) }.boxed());
        true
    }

    /// Finishes a message that the destination has; returns any other.
    fn answer(&mut self, (message, result): Published) -> Result<(), Failure> {
        match result {
            Ok(()) => {
                self.outcome.done += 1;
                self.outcome.late += u64::from(message.finish().is_err());
                Ok(())
            }
            Err(error) => {
                // If the connection is closed, nsqd has already requeued the message.
                let _ = message.requeue_without_backoff(Requeue::Now);
                let mut failure = publish_failure(&error);
                failure.message =
                    format!("{} messages were moved; the next one failed: {error}", self.outcome.done);
                Err(failure
                    .hint("the other messages are still in the channel; repeat the command to move them"))
            }
        }
    }

    fn touch(&mut self) {
        let now = std::time::Instant::now();
        self.held.touch_due(now, |message| {
            // If it is too late, nsqd delivers the message again.
            message.touch().ok()?;
            touch_time(now, message.deadline())
        });
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// Whether no message waits on any node.
async fn is_empty(cluster: &Cluster, source: &Object) -> Result<bool, Failure> {
    let query = StatsQuery {
        topic: Some(source.topic.clone()),
        channel: source.channel.clone(),
        ..StatsQuery::default()
    };
    let stats = cluster.stats(&query).await;
    if let Some(error) = stats.errors.first() {
        return Err(Failure::new(
            ExitStatus::Partial,
            format_args!("cannot tell whether messages are left: {error}"),
        ));
    }
    let holdings = holdings(&stats, source);
    Ok(holdings
        .iter()
        .all(|holding| holding.topic.depth == 0 && holding.channels.iter().all(|c| c.depth == 0)))
}
