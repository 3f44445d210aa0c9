//! `nsq graph`: depth and rates of a topic or channel as curves.

mod plot;

use std::time::Duration;

use clap::Args;
use nsq::admin::StatsQuery;
use nsq_daemon::go_duration;
use nsq_daemon::shutdown::StopSignals;
use serde_json::json;

use super::Context;
use super::change::unknown;
use crate::cluster::{Ask, Cluster};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use crate::report::{TopicReport, report, select};
use plot::plot;

/// Values that are kept, far more than any terminal is wide.
const MAX_VALUES: usize = 2_000;
/// Samples when stdout is no terminal and no `--count` is given.
const DEFAULT_COUNT: u64 = 30;
const WIDTH: usize = 80;

pub const EXAMPLES: &str = "\
Examples:
  nsq graph orders/billing
  nsq graph orders --interval 5s
  nsq graph orders/billing --count 10 -o ndjson";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct GraphFlags {
    /// Topic, or TOPIC/CHANNEL.
    #[arg(value_name = "TOPIC[/CHANNEL]", add = clap_complete::ArgValueCandidates::new(crate::command::completion::channels))]
    object: String,
    /// Time between two samples.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = go_duration::parse)]
    interval: Duration,
    /// Stop after this many samples. [default: on a terminal none, otherwise 30]
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Height of each curve in lines.
    #[arg(long, value_name = "LINES", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=50))]
    height: u8,
}

/// The values of one curve.
#[derive(Debug, Default)]
struct Curve(Vec<f64>);

impl Curve {
    fn push(&mut self, value: f64) {
        if self.0.len() == MAX_VALUES {
            self.0.remove(0);
        }
        self.0.push(value);
    }
}

/// Draws until the count is reached or a signal arrives.
pub async fn run(context: &Context, flags: &GraphFlags) -> Result<ExitStatus, Failure> {
    let object = Object::parse(&flags.object)?;
    if flags.interval.is_zero() {
        return Err(Failure::usage("--interval must be greater than zero, such as 1s"));
    }
    let mut signals = StopSignals::catch().map_err(Failure::failed)?;
    tokio::select! {
        done = draw(context, flags, &object) => done,
        () = signals.wait() => Ok(ExitStatus::Done),
    }
}

async fn draw(context: &Context, flags: &GraphFlags, object: &Object) -> Result<ExitStatus, Failure> {
    let output = context.output;
    let query = StatsQuery { topic: Some(object.topic.clone()), ..StatsQuery::default() };
    let is_live = output.is_terminal() && !output.is_json();
    let mut left = flags.count.unwrap_or(if is_live { u64::MAX } else { DEFAULT_COUNT });
    let (mut depth, mut ingress, mut egress) = (Curve::default(), Curve::default(), Curve::default());
    let mut cluster = Cluster::find(&context.targets).await?;
    let mut before = cluster.sample(&query, Ask::LookupdsFirst).await.samples;
    let mut next = tokio::time::Instant::now();
    while left > 0 {
        next += flags.interval;
        tokio::time::sleep_until(next).await;
        let now = cluster.sample(&query, Ask::LookupdsFirst).await;
        let mut topics = report(Some(&before), &now.samples);
        let missing = select(&mut topics, std::slice::from_ref(object));
        if !missing.is_empty() && now.errors.is_empty() && depth.0.is_empty() {
            return Err(unknown(&cluster, object).await);
        }
        let figures = topics.first().map_or((0, 0.0, 0.0), |topic| figures(topic, object));
        depth.push(figures.0 as f64);
        ingress.push(figures.1);
        egress.push(figures.2);
        left -= 1;
        if output.is_json() {
            let mut sample = json!({
                "topic_name": object.topic,
                "timestamp": crate::body::rfc3339(now_ns()),
                "depth": figures.0,
                "ingress_rate": (figures.1 * 10.0).round() / 10.0,
                "egress_rate": (figures.2 * 10.0).round() / 10.0,
                "node_errors": now.errors,
            });
            if let Some(channel) = &object.channel {
                sample["channel_name"] = channel.as_str().into();
            }
            output.json(&sample)?;
        } else if is_live || left == 0 {
            let width = terminal_size::terminal_size().map_or(WIDTH, |(width, _)| usize::from(width.0));
            let height = usize::from(flags.height);
            let mut text = format!("{object}, every {}\n\n", go_duration::format(flags.interval));
            text += &plot("depth", &depth.0, width, height);
            text.push('\n');
            text += &plot("in per second", &ingress.0, width, height);
            text.push('\n');
            text += &plot("out per second", &egress.0, width, height);
            if is_live {
                output.clear()?;
            }
            output.data(text)?;
            output.node_errors(&now.errors);
        }
        before = now.samples;
        if let Ok(found) = Cluster::find(&context.targets).await {
            cluster = found;
        }
    }
    Ok(ExitStatus::Done)
}

/// Depth, and rates in and out. A topic's depth is that of its channels too; what leaves a topic leaves its channels.
fn figures(topic: &TopicReport, object: &Object) -> (i64, f64, f64) {
    let rate = |rate: Option<crate::report::Rate>| rate.map_or(0.0, |rate| rate.0);
    let egress = topic.channels.iter().map(|channel| rate(channel.egress_rate)).sum();
    let depth: i64 = topic.channels.iter().map(|channel| channel.depth).sum();
    match (&object.channel, topic.channels.first()) {
        (Some(_), Some(channel)) => (channel.depth, rate(channel.ingress_rate), egress),
        _ => (topic.depth + depth, rate(topic.ingress_rate), egress),
    }
}

fn now_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_nanos()).unwrap_or(i64::MAX))
}
