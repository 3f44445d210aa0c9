//! `nsq move` and `nsq copy`: messages of a channel to a topic, also of another cluster.
//!
//! In reading order: this file (flags, and what both need), `selection`, `destination`, `moving`, `copying`.

mod copying;
mod destination;
mod moving;
mod selection;

use clap::Args;
use nsq::admin::StatsQuery;
use nsqd::policy::header_filter::HeaderFilter;
use regex::bytes::Regex;
use serde_json::json;

use super::Context;
use super::change::unknown;
use crate::cluster::{Cluster, NodeError};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use crate::patterns::parse_pattern;
use destination::Destination;
use selection::Selection;

pub const MOVE_EXAMPLES: &str = "\
Examples:
  nsq move orders/billing orders.later                 # all that wait now and arrive meanwhile
  nsq move orders/billing archive --match '\"test\"' --max 100
  nsq move orders/billing orders --to-nsqd-tcp 127.0.0.1:4150 --rate 500

A message is finished only after the destination has acknowledged it. A crash repeats messages and loses none.
Messages that do not match are held until the end, and go back with one more attempt.";

pub const COPY_EXAMPLES: &str = "\
Examples:
  nsq copy orders/billing orders.sample --max 100
  nsq copy orders/billing debug --header 'tenant=acme*'
  nsq copy orders/billing orders --to-nsqd-tcp 127.0.0.1:4150 --dry-run

Copies messages that wait in the channel, and takes none. Needs nsqds of nsq-rs.";

/// Flags of both commands.
#[derive(Debug, Args)]
pub struct TransferFlags {
    /// Channel whose messages to take, as TOPIC/CHANNEL.
    #[arg(value_name = "SOURCE", add = clap_complete::ArgValueCandidates::new(crate::command::completion::channels))]
    source: String,
    /// Topic to publish to.
    #[arg(value_name = "TOPIC", add = clap_complete::ArgValueCandidates::new(crate::command::completion::topics))]
    destination: String,
    /// TCP address of an nsqd to publish to, for another cluster; may be repeated. [default: the same cluster]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    to_nsqd_tcp: Vec<String>,
    /// Only messages whose body matches this regular expression.
    #[arg(long = "match", value_name = "REGEX", value_parser = parse_pattern)]
    matching: Option<Regex>,
    /// Only messages whose headers match: conditions NAME=GLOB or NAME!=GLOB, separated by commas.
    #[arg(long, value_name = "CONDITIONS")]
    header: Option<HeaderFilter>,
    /// At most this many messages.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// At most this many messages per second.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Only count the messages.
    #[arg(long)]
    dry_run: bool,
    /// In a protected profile, do not ask.
    #[arg(long, short)]
    yes: bool,
}

impl TransferFlags {
    fn selection(&self) -> Selection {
        Selection { matching: self.matching.clone(), headers: self.header.clone() }
    }
}

/// What was done.
#[derive(Debug, Default)]
struct Outcome {
    /// Messages that the destination has.
    done: u64,
    /// Messages that did not match.
    skipped: u64,
    /// Messages that the destination has and that could not be finished in time: nsqd delivers them again.
    late: u64,
    /// Why not everything was looked at.
    incomplete: Option<String>,
    errors: Vec<NodeError>,
}

/// Moves messages.
pub async fn run_move(context: &Context, flags: &TransferFlags) -> Result<ExitStatus, Failure> {
    let (source, cluster) = start(context, flags).await?;
    if source.channel.is_none() {
        return Err(Failure::usage(format_args!(
            "{source} names a topic; messages are moved out of a channel"
        ))
        .hint(format!("use {source}/CHANNEL")));
    }
    let is_same = flags.to_nsqd_tcp.is_empty() && flags.destination == source.topic;
    if is_same {
        return Err(Failure::usage(format_args!(
            "messages published to {} would come back to {source} and be moved again",
            source.topic
        ))
        .hint("move them to another topic, or to another cluster with --to-nsqd-tcp"));
    }
    let waiting = waiting(context, &cluster, &source).await?;
    if flags.dry_run {
        let count = match flags.selection().is_all() {
            true => waiting,
            false => copying::count(&cluster, &source, flags).await?,
        };
        return report(
            context,
            flags,
            &source,
            "moved",
            &Outcome { done: flags.max.unwrap_or(u64::MAX).min(count), ..Outcome::default() },
        );
    }
    if context.protection.is_some() {
        context
            .confirm(&format!("move {waiting} messages of {source} to {}?", flags.destination), flags.yes)?;
    }
    let destination = Destination::open(context, flags).await?;
    let outcome = moving::run(context, flags, &cluster, &source, &destination, waiting).await;
    destination.close(context.targets.timeout).await;
    report(context, flags, &source, "moved", &outcome?)
}

/// Copies messages.
pub async fn run_copy(context: &Context, flags: &TransferFlags) -> Result<ExitStatus, Failure> {
    let (source, cluster) = start(context, flags).await?;
    let waiting = waiting(context, &cluster, &source).await?;
    if flags.dry_run {
        let count = copying::count(&cluster, &source, flags).await?;
        return report(context, flags, &source, "copied", &Outcome { done: count, ..Outcome::default() });
    }
    let destination = Destination::open(context, flags).await?;
    let outcome = copying::run(context, flags, &cluster, &source, &destination, waiting).await;
    destination.close(context.targets.timeout).await;
    report(context, flags, &source, "copied", &outcome?)
}

async fn start(context: &Context, flags: &TransferFlags) -> Result<(Object, Cluster), Failure> {
    let source = Object::parse(&flags.source)?;
    let destination = Object::parse(&flags.destination)?;
    if destination.channel.is_some() {
        return Err(Failure::usage(format_args!(
            "{destination} names a channel; messages are published to a topic"
        )));
    }
    Ok((source, Cluster::find(&context.targets).await?))
}

/// The number of messages that wait now. Fails if there is no such channel.
async fn waiting(context: &Context, cluster: &Cluster, source: &Object) -> Result<u64, Failure> {
    let query = StatsQuery {
        topic: Some(source.topic.clone()),
        channel: source.channel.clone(),
        ..StatsQuery::default()
    };
    let stats = cluster.stats(&query).await;
    let errors: Vec<NodeError> = stats.errors.iter().chain(&cluster.errors).cloned().collect();
    context.output.node_errors(&errors);
    let holdings = super::change::holdings(&stats, source);
    if holdings.is_empty() && errors.is_empty() {
        return Err(unknown(cluster, source).await);
    }
    let in_channel = |holding: &super::change::Holding<'_>| {
        holding.topic.depth + holding.channels.iter().map(|channel| channel.depth).sum::<i64>()
    };
    Ok(u64::try_from(holdings.iter().map(in_channel).sum::<i64>()).unwrap_or(0))
}

fn report(
    context: &Context,
    flags: &TransferFlags,
    source: &Object,
    verb: &str,
    outcome: &Outcome,
) -> Result<ExitStatus, Failure> {
    let output = context.output;
    let Outcome { done, skipped, late, incomplete, errors } = outcome;
    if output.is_json() {
        output.json(&json!({
            "source": source.to_string(),
            "destination": flags.destination,
            "dry_run": flags.dry_run,
            verb: done,
            "skipped": skipped,
            "repeated": late,
            "incomplete": incomplete,
            "node_errors": errors,
        }))?;
    } else {
        let would = if flags.dry_run { "would be " } else { "" };
        let messages = if *done == 1 { "message" } else { "messages" };
        output.text(format!("{done} {messages} of {source} {would}{verb} to {}\n", flags.destination))?;
    }
    if *late > 0 {
        output.warning(&format!(
            "! {late} messages were {verb} too late to finish them; nsqd delivers them again"
        ));
    }
    if let Some(reason) = incomplete {
        output.warning(&format!("! {reason}"));
    }
    output.node_errors(errors);
    match errors.is_empty() && incomplete.is_none() {
        true => Ok(ExitStatus::Done),
        false => Ok(ExitStatus::Partial),
    }
}
