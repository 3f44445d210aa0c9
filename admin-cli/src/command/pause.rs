//! `nsq topic|channel pause|unpause`, for good or for a while.

use std::time::Duration;

use clap::Args;
use nsq::admin::StatsQuery;
use nsq_daemon::go_duration;
use nsq_daemon::shutdown::StopSignals;
use tokio::time::{Instant, sleep, sleep_until};

use super::Context;
use super::change::{Verb, conclude, holdings, stats_of, unknown};
use super::wait::condition::Figures;
use crate::cluster::{Ask, Cluster, Node, NodeError};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use crate::report::report;

/// With `--wait`, time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

pub const TOPIC_EXAMPLES: &str = "\
Examples:
  nsq topic pause orders                       # until `nsq topic unpause orders`
  nsq topic pause orders --for 1s              # unpauses after a second, or on Ctrl-C
  nsq topic pause orders --wait --timeout 5m   # returns when the channels are drained";

pub const CHANNEL_EXAMPLES: &str = "\
Examples:
  nsq channel pause orders billing             # until `nsq channel unpause orders billing`
  nsq channel pause orders billing --for 1s    # unpauses after a second, or on Ctrl-C
  nsq channel pause orders/billing --wait      # returns when nothing is in flight";

#[derive(Debug, Args)]
pub struct PauseFlags {
    /// Pause for this time: the command stays in the foreground and unpauses at the end, also on Ctrl-C. If it is
    /// killed, the pause stays.
    #[arg(long = "for", value_name = "DURATION", value_parser = go_duration::parse)]
    duration: Option<Duration>,
    /// Wait, after pausing: for a topic, until its channels have no message waiting or in flight; for a channel, until
    /// nothing is in flight. Deferred messages do not count. --timeout limits the wait.
    #[arg(long)]
    wait: bool,
    /// Only show what would happen.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub struct UnpauseFlags {
    /// Only show what would happen.
    #[arg(long)]
    dry_run: bool,
}

/// Pauses a topic or channel on all nodes that have it.
pub async fn pause(context: &Context, object: Object, flags: &PauseFlags) -> Result<ExitStatus, Failure> {
    if flags.duration.is_some_and(|duration| duration.is_zero()) {
        return Err(Failure::usage("--for must be greater than zero, such as 5m"));
    }
    if flags.dry_run {
        return rehearse(context, &object, PAUSE).await;
    }
    // From here on, a signal does not end the command between pausing and unpausing.
    let mut signals = StopSignals::catch().map_err(Failure::failed)?;
    let paused = set(context, &object, true).await?;
    if flags.duration.is_none() && !flags.wait {
        return Ok(paused);
    }
    let until = flags.duration.map(|duration| Instant::now() + duration);
    let stay = async {
        if flags.wait {
            drained(context, &object, until).await?;
        }
        if let Some(until) = until {
            context.output.note(&format!("{object} is paused; Ctrl-C unpauses it"));
            sleep_until(until).await;
        }
        Ok(paused)
    };
    let stayed = tokio::select! {
        stayed = stay => stayed,
        () = signals.wait() => Ok(ExitStatus::Interrupted),
    };
    if until.is_some() {
        let unpaused = set(context, &object, false).await?;
        if unpaused != ExitStatus::Done {
            return stayed.and(Ok(unpaused));
        }
    }
    stayed
}

/// Unpauses a topic or channel on all nodes that have it.
pub async fn unpause(context: &Context, object: Object, flags: &UnpauseFlags) -> Result<ExitStatus, Failure> {
    if flags.dry_run {
        return rehearse(context, &object, UNPAUSE).await;
    }
    set(context, &object, false).await
}

const PAUSE: Verb = Verb { name: "pause", done: "paused" };
const UNPAUSE: Verb = Verb { name: "unpause", done: "unpaused" };

async fn set(context: &Context, object: &Object, pause: bool) -> Result<ExitStatus, Failure> {
    let verb = if pause { PAUSE } else { UNPAUSE };
    let cluster = Cluster::find(&context.targets).await?;
    let Object { topic, channel } = object;
    let call = async |node: &Node| match (channel, pause) {
        (None, true) => node.client.pause_topic(topic).await,
        (None, false) => node.client.unpause_topic(topic).await,
        (Some(channel), true) => node.client.pause_channel(topic, channel).await,
        (Some(channel), false) => node.client.unpause_channel(topic, channel).await,
    };
    let answers = cluster.on_nodes(verb.name, call).await;
    conclude(context, &cluster, verb, object, answers).await
}

/// Shows on which nodes the topic or channel would change.
async fn rehearse(context: &Context, object: &Object, verb: Verb) -> Result<ExitStatus, Failure> {
    let cluster = Cluster::find(&context.targets).await?;
    let stats = stats_of(&cluster, object).await;
    let holdings = holdings(&stats, object);
    let errors: Vec<NodeError> = cluster.errors.iter().chain(&stats.errors).cloned().collect();
    if holdings.is_empty() && errors.is_empty() {
        return Err(unknown(&cluster, object).await);
    }
    let lines =
        holdings.iter().map(|holding| format!("{object} would be {} at {}\n", verb.done, holding.node));
    context.output.text(lines.collect::<String>())?;
    context.output.node_errors(&errors);
    Ok(crate::cluster::verdict(holdings.len(), &errors))
}

/// Waits until the channels of a paused topic have delivered everything, or nothing of a paused channel is in flight.
/// Returns early at `until`.
async fn drained(context: &Context, object: &Object, until: Option<Instant>) -> Result<(), Failure> {
    let deadline = context.targets.given_timeout.map(|limit| (Instant::now() + limit, limit));
    let query = StatsQuery { topic: Some(object.topic.clone()), ..StatsQuery::default() };
    let mut shown = None;
    loop {
        let state = match Cluster::find(&context.targets).await {
            Ok(cluster) => look(&cluster, object, &query).await,
            Err(failure) => Err(failure.to_string()),
        };
        let reason = match state {
            Ok(0) => return Ok(()),
            Ok(1) => "1 message is left".to_owned(),
            Ok(left) => format!("{left} messages are left"),
            Err(reason) => reason,
        };
        if shown.as_ref() != Some(&reason) {
            context.output.note(&format!("{object}: {reason}"));
            shown = Some(reason.clone());
        }
        if until.is_some_and(|until| until <= Instant::now()) {
            return Ok(());
        }
        if let Some((at, limit)) = deadline
            && at <= Instant::now()
        {
            let limit = go_duration::format(limit);
            let message = format!("{object}: paused, but not drained within {limit}: {reason}");
            return Err(Failure::new(ExitStatus::NotMet, message).target(object.to_string()));
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Number of messages to wait for; the reason if it is unknown.
async fn look(cluster: &Cluster, object: &Object, query: &StatsQuery) -> Result<i64, String> {
    let now = cluster.sample(query, Ask::Nodes).await;
    if !now.errors.is_empty() {
        return Err(now.errors.iter().map(NodeError::to_string).collect::<Vec<_>>().join("; "));
    }
    let topics = report(None, &now.samples);
    let topic = topics.iter().find(|topic| topic.topic_name == object.topic);
    let figures = topic.and_then(|topic| Some((topic, Figures::of(topic, object.channel.as_deref())?)));
    Ok(figures.map_or(0, |(topic, figures)| match object.channel {
        // The paused topic keeps its own messages.
        None => figures.depth - topic.depth + figures.in_flight,
        Some(_) => figures.in_flight,
    }))
}
