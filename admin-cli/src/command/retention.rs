//! `nsq topic retain` and `nsq channel seek`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use nsq::StartAt;
use nsq_daemon::go_duration;
use nsq_protocol::{SeekResponse, printable};

use super::Context;
use super::change::{Verb, conclude};
use crate::cluster::{Answers, Cluster, Node};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::{ChannelArgument, TopicArgument};

/// Help text for places.
pub const PLACES: &str = "\
A place in a topic's messages is one of: earliest, latest, a time (2026-01-31T12:00:00Z, or Unix seconds, milliseconds, \
microseconds or nanoseconds), a duration before now (15m), seq:NUMBER or id:MESSAGE-ID";

/// Parses a place. A duration means that long before now.
pub fn parse_place(text: &str) -> Result<StartAt, String> {
    let ago = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let then = since.saturating_sub(go_duration::parse(text).ok()?);
        i64::try_from(then.as_nanos()).ok().map(StartAt::Time)
    };
    let place = text.parse::<StartAt>();
    place.or_else(|error| ago().ok_or(error)).map_err(|error| error.to_string())
}

#[derive(Debug, Args)]
pub struct RetainFlags {
    #[command(flatten)]
    topic: TopicArgument,
    /// Maximum age of retained messages; 0 for no age limit.
    #[arg(long = "for", value_name = "DURATION", value_parser = go_duration::parse, required_unless_present_any = ["bytes", "default"])]
    age: Option<Duration>,
    /// Maximum bytes of retained messages; 0 for no byte limit.
    #[arg(long, value_name = "N")]
    bytes: Option<u64>,
    /// Return to the retention that nsqd's flags set.
    #[arg(long, conflicts_with_all = ["age", "bytes"])]
    default: bool,
}

/// Sets the topic's retention on all nodes that have it.
pub async fn retain(context: &Context, flags: &RetainFlags) -> Result<ExitStatus, Failure> {
    const RETAIN: Verb = Verb { name: "retain", done: "set retention of" };
    let object = flags.topic.object()?;
    let cluster = Cluster::find(&context.targets).await?;
    let limits = (!flags.default).then(|| (flags.age.unwrap_or_default(), flags.bytes.unwrap_or_default()));
    let call = async |node: &Node| node.client.retain_topic(&object.topic, limits).await;
    let answers = cluster.on_nodes(RETAIN.name, call).await;
    conclude(context, &cluster, RETAIN, &object, answers).await
}

#[derive(Debug, Args)]
pub struct SeekFlags {
    #[command(flatten)]
    channel: ChannelArgument,
    /// Place to move the channel to.
    #[arg(long, value_name = "PLACE", value_parser = parse_place,
          long_help = format!("Place to move the channel to.\n\n{PLACES}"))]
    to: StartAt,
    /// Only show what would happen.
    #[arg(long)]
    dry_run: bool,
}

/// Moves the channel on all nodes that have it.
pub async fn seek(context: &Context, flags: &SeekFlags) -> Result<ExitStatus, Failure> {
    const SEEK: Verb = Verb { name: "seek", done: "moved" };
    let object = flags.channel.object()?;
    let cluster = Cluster::find(&context.targets).await?;
    let channel = object.channel.as_deref().unwrap_or_default();
    let call = async |node: &Node| match flags.dry_run {
        true => node.client.plan_seek(&object.topic, channel, flags.to).await,
        false => node.client.seek_channel(&object.topic, channel, flags.to).await,
    };
    let mut answers = cluster.on_nodes(SEEK.name, call).await;
    for error in answers.errors.iter_mut().filter(|error| error.code == "NOTHING_RETAINED") {
        error.message = format!("the topic keeps nothing; `nsq topic retain {} --for 24h`", object.topic);
    }
    if !context.output.is_json() {
        let line = |(node, moved): &(String, SeekResponse)| {
            let clamped = if moved.clamped { ", starting at the oldest retained message" } else { "" };
            let delivers = if moved.dry_run { "would deliver" } else { "delivers" };
            format!("{} {delivers} {} messages{clamped}\n", printable(node), moved.depth)
        };
        context.output.text(answers.good.iter().map(line).collect::<String>())?;
    }
    let good = answers.good.into_iter().map(|(node, _)| (node, ())).collect();
    let answers = Answers { good, errors: answers.errors, missing: answers.missing };
    let verb = if flags.dry_run { Verb { done: "would move", ..SEEK } } else { SEEK };
    conclude(context, &cluster, verb, &object, answers).await
}
