//! `nsq wait`: waits until a topic or channel is empty, or has consumers; for scripts.

pub mod condition;

use std::time::Duration;

use clap::Args;
use nsq::admin::StatsQuery;
use nsq_daemon::go_duration;
use nsq_daemon::shutdown::StopSignals;
use serde_json::json;
use tokio::time::Instant;

use super::Context;
use super::change::unknown;
use crate::cluster::{Ask, Cluster, NodeError};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use crate::report::report;
use condition::{Condition, Figures};

pub const EXAMPLES: &str = "\
Examples:
  nsq wait orders/billing --empty --timeout 5m    # exit code 7 if it is not empty by then
  nsq wait orders/billing --consumers 2 --timeout 30s
  nsq wait orders --depth-under 1000";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct WaitFlags {
    /// Topic with all its channels, or TOPIC/CHANNEL.
    #[arg(value_name = "TOPIC[/CHANNEL]", add = clap_complete::ArgValueCandidates::new(crate::command::completion::channels))]
    object: String,
    /// Wait until nothing is waiting, in flight or deferred.
    #[arg(long)]
    empty: bool,
    /// Wait until fewer than N messages can be delivered.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    depth_under: Option<i64>,
    /// Wait until there are at least N connections of consumers.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    consumers: Option<i64>,
    /// Wait until there is no consumer.
    #[arg(long, conflicts_with = "consumers")]
    no_consumers: bool,
    /// Time between two looks.
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = go_duration::parse)]
    interval: Duration,
}

/// Waits. `--timeout` limits the whole wait, which is endless by default.
pub async fn run(context: &Context, flags: &WaitFlags) -> Result<ExitStatus, Failure> {
    let object = Object::parse(&flags.object)?;
    let condition = Condition {
        empty: flags.empty,
        depth_under: flags.depth_under,
        consumers: flags.consumers,
        no_consumers: flags.no_consumers,
    };
    if condition.is_none() {
        return Err(Failure::usage("nothing to wait for")
            .hint("use --empty, --depth-under N, --consumers N or --no-consumers"));
    }
    if flags.interval.is_zero() {
        return Err(Failure::usage("--interval must be greater than zero, such as 500ms"));
    }
    let mut signals = StopSignals::catch().map_err(Failure::failed)?;
    tokio::select! {
        done = wait(context, &object, condition, flags.interval) => done,
        () = signals.wait() => Ok(ExitStatus::Interrupted),
    }
}

async fn wait(
    context: &Context,
    object: &Object,
    condition: Condition,
    interval: Duration,
) -> Result<ExitStatus, Failure> {
    let output = context.output;
    let deadline = context.targets.given_timeout.map(|limit| Instant::now() + limit);
    let query = StatsQuery { topic: Some(object.topic.clone()), ..StatsQuery::default() };
    let mut shown = None;
    loop {
        let state = match Cluster::find(&context.targets).await {
            Ok(cluster) => look(&cluster, object, &query).await,
            // A cluster that was never there is not waited for; one that restarts is.
            Err(failure) if shown.is_none() => return Err(failure.into()),
            Err(failure) => State::Unknown(failure.to_string()),
        };
        let reason = match state {
            State::Known(figures) if condition.holds(&figures) => {
                if output.is_json() {
                    output.json(&document(object, &figures))?;
                }
                return Ok(ExitStatus::Done);
            }
            State::Known(figures) => figures.to_string(),
            State::Missing(_) if condition.waits_for_creation() => "it does not exist".to_owned(),
            State::Missing(failure) => return Err(failure),
            State::Unknown(errors) => errors,
        };
        if shown.as_ref() != Some(&reason) {
            output.note(&format!("{object}: {reason}"));
            shown = Some(reason.clone());
        }
        let next = Instant::now() + interval;
        if deadline.is_some_and(|deadline| deadline <= next) {
            if let Some(deadline) = deadline {
                tokio::time::sleep_until(deadline).await;
            }
            let limit = go_duration::format(context.targets.given_timeout.unwrap_or_default());
            let message = format!("{object}: the condition was not met within {limit}: {reason}");
            return Err(Failure::new(ExitStatus::NotMet, message).target(object.to_string()));
        }
        tokio::time::sleep_until(next).await;
    }
}

enum State {
    Known(Figures),
    Missing(Failure),
    /// Some nodes do not answer, so nothing holds for certain.
    Unknown(String),
}

async fn look(cluster: &Cluster, object: &Object, query: &StatsQuery) -> State {
    // The nodes themselves: what an nsqlookupd has may be a second old.
    let now = cluster.sample(query, Ask::Nodes).await;
    if !now.errors.is_empty() || !now.stale.is_empty() {
        let errors: Vec<String> = now.errors.iter().map(NodeError::to_string).collect();
        return State::Unknown(errors.join("; "));
    }
    let topics = report(None, &now.samples);
    let topic = topics.iter().find(|topic| topic.topic_name == object.topic);
    match topic.and_then(|topic| Figures::of(topic, object.channel.as_deref())) {
        Some(figures) => State::Known(figures),
        None => State::Missing(unknown(cluster, object).await),
    }
}

fn document(object: &Object, figures: &Figures) -> serde_json::Value {
    let Figures { depth, in_flight, deferred, consumers } = figures;
    let mut document = json!({
        "topic_name": object.topic,
        "depth": depth,
        "in_flight_count": in_flight,
        "deferred_count": deferred,
        "client_count": consumers,
    });
    if let Some(channel) = &object.channel {
        document["channel_name"] = channel.as_str().into();
    }
    document
}
