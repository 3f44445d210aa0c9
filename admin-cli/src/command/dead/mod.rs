//! `nsq dead`: look at dead letters, move them back, delete them.
//!
//! - this file: the flags, and what to say about a topic that is no dead-letter topic
//! - `list`, `show`, `redrive`, `delete`: the commands
//! - `merged`: pure; sums over all nodes, and how `--max` is divided among them

mod delete;
mod list;
mod merged;
mod redrive;
mod show;

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use nsq::admin::{AdminError, DeadSelection, StatsQuery};
use nsqd::policy::header_filter::HeaderFilter;
use nsqd::topic::dead_lettering::REDRIVE_CHANNEL;

use super::Context;
use super::change::{DestroyFlags, unknown};
use crate::cluster::{Cluster, Node};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::{Object, TopicArgument};

/// `nsq dead ...`
#[derive(Debug, Subcommand)]
pub enum DeadCommand {
    /// Count dead letters by reason and origin.
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List(ListFlags),
    /// Print dead letters with their headers; changes nothing.
    #[command(after_help = SHOW_EXAMPLES)]
    Show(ShowFlags),
    /// Move dead letters back, each into the channel in which it died.
    #[command(after_help = REDRIVE_EXAMPLES)]
    Redrive(RedriveFlags),
    /// Stop a redrive.
    Stop(TopicArgument),
    /// Delete dead letters for good.
    #[command(visible_alias = "rm", after_help = DELETE_EXAMPLES)]
    Delete(DeleteFlags),
}

const LIST_EXAMPLES: &str = "\
Examples:
  nsq dead ls              # all dead-letter topics
  nsq dead ls orders.dead  # one of them";

const SHOW_EXAMPLES: &str = "\
Examples:
  nsq dead show orders.dead
  nsq dead show orders.dead --filter nsq-dead-channel=billing,tenant!=acme
  nsq dead show orders.dead --id 0a1b2c3d4e5f6071 --json";

const REDRIVE_EXAMPLES: &str = "\
Examples:
  nsq dead redrive orders.dead --dry-run                    # what would go where
  nsq dead redrive orders.dead --filter nsq-dead-channel=billing --rate 100
  nsq dead redrive orders.dead --max 10 --to orders/retest  # into another channel, which must exist";

const DELETE_EXAMPLES: &str = "\
Examples:
  nsq dead delete orders.dead --dry-run
  nsq dead delete orders.dead --filter 'tenant=test*' --yes";

#[derive(Debug, Args)]
pub struct ListFlags {
    /// Dead-letter topic. [default: all]
    #[arg(value_name = "TOPIC")]
    topic: Option<String>,
    /// Maximum number of dead letters to examine in each topic of each node.
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    limit: u64,
}

/// Which dead letters.
#[derive(Debug, Args)]
struct SelectionFlags {
    /// Only those whose headers match: NAME=GLOB or NAME!=GLOB, several separated by commas.
    #[arg(long, value_name = "CONDITIONS")]
    filter: Option<HeaderFilter>,
    /// Only the one of this id, in the dead-letter topic or where it died.
    #[arg(long, value_name = "MESSAGE-ID")]
    id: Option<String>,
}

impl SelectionFlags {
    fn selection(&self, max: Option<u64>) -> DeadSelection {
        DeadSelection { filter: self.filter.as_ref().map(ToString::to_string), id: self.id.clone(), max }
    }
}

#[derive(Debug, Args)]
pub struct ShowFlags {
    #[command(flatten)]
    topic: TopicArgument,
    #[command(flatten)]
    selection: SelectionFlags,
    /// Maximum number of dead letters to print, the oldest first.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
}

#[derive(Debug, Args)]
pub struct RedriveFlags {
    #[command(flatten)]
    topic: TopicArgument,
    #[command(flatten)]
    selection: SelectionFlags,
    /// Messages per second, over all nodes. [default: as fast as possible]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: Option<u64>,
    /// Maximum number of messages to move, over all nodes. [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// Move to this topic or only to this channel, instead of the channel in which each message died.
    #[arg(long, value_name = "TOPIC[/CHANNEL]")]
    to: Option<String>,
    /// Only show what would be moved.
    #[arg(long)]
    dry_run: bool,
    /// Do not wait for the end.
    #[arg(long)]
    no_wait: bool,
}

#[derive(Debug, Args)]
pub struct DeleteFlags {
    #[command(flatten)]
    topic: TopicArgument,
    #[command(flatten)]
    selection: SelectionFlags,
    /// Maximum number of dead letters to delete, over all nodes. [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    #[command(flatten)]
    destroy: DestroyFlags,
}

/// Runs a `nsq dead` command.
pub async fn run(context: &Context, command: DeadCommand) -> Result<ExitStatus, Failure> {
    match command {
        DeadCommand::List(flags) => list::run(context, &flags).await,
        DeadCommand::Show(flags) => show::run(context, &flags).await,
        DeadCommand::Redrive(flags) => redrive::run(context, &flags).await,
        DeadCommand::Stop(topic) => redrive::stop(context, &topic.object()?).await,
        DeadCommand::Delete(flags) => delete::run(context, &flags).await,
    }
}

/// The dead-letter topics of a node, each with the topic that it was created for.
async fn dead_letter_topics(node: &Node) -> Result<BTreeMap<String, Option<String>>, AdminError> {
    let query = StatsQuery { channel: Some(REDRIVE_CHANNEL.to_owned()), ..StatsQuery::default() };
    let stats = node.client.stats(&query).await?;
    let mut found = BTreeMap::new();
    for topic in stats.topics.unwrap_or_default() {
        match node.client.dead_letters(&topic.topic_name, Some(1)).await {
            Ok(answer) => _ = found.insert(topic.topic_name, answer.dead_letters_of),
            // It was deleted meanwhile.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The failure if no node has dead letters in this topic: it is misspelled, or it is the topic in which they died.
async fn no_dead_letters(cluster: &Cluster, object: &Object) -> Failure {
    let answers = cluster.on_nodes("dead", dead_letter_topics).await;
    let known: BTreeMap<String, Option<String>> =
        answers.good.into_iter().flat_map(|(_, topics)| topics).collect();
    let is_of_typed = |(_, of): &(&String, &Option<String>)| of.as_ref() == Some(&object.topic);
    if let Some((name, _)) = known.iter().find(is_of_typed) {
        return Failure::new(ExitStatus::NotFound, format_args!("{object} is not a dead-letter topic"))
            .hint(format!("its dead letters are in {name}: nsq dead ls {name}"));
    }
    let of_topic = StatsQuery { topic: Some(object.topic.clone()), ..StatsQuery::default() };
    if cluster.stats(&of_topic).await.good.iter().all(|(_, stats)| stats.topics.is_none()) {
        return unknown(cluster, object).await;
    }
    let failure = Failure::new(ExitStatus::NotFound, format_args!("{object} is not a dead-letter topic"));
    match known.keys().next() {
        Some(_) => failure.hint("`nsq dead ls` lists the dead-letter topics"),
        None => failure.hint(format!(
            "there are no dead letters yet; to have failed messages moved aside: \
             nsq channel set {object} CHANNEL max_attempts=5"
        )),
    }
}
