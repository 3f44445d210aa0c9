//! The command line: commands, flags and their help texts.

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::command::auth::TokenFlags;
use crate::command::bench::BenchFlags;
use crate::command::change::DestroyFlags;
use crate::command::create::{CreateChannelFlags, CreateTopicFlags};
use crate::command::data::DataCommand;
use crate::command::dead::DeadCommand;
use crate::command::dev::DevFlags;
use crate::command::manual::ManualFlags;
use crate::command::policy::{PolicyCommand, SetFlags};
use crate::command::publish::PublishFlags;
use crate::command::retention::{RetainFlags, SeekFlags};
use crate::command::stat::StatFlags;
use crate::command::subscribe::SubscribeFlags;
use crate::names::{ChannelArgument, TopicArgument};
use crate::security::SecurityFlags;
use crate::targets::TargetFlags;

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 partly done (stderr names the failed nodes),
4 topic, channel, node or directory not found, 5 refused, 6 no daemon reachable, 7 damaged data, 130 interrupted.";

/// Publish, consume, administer and watch an NSQ cluster.
#[derive(Debug, Parser)]
#[command(name = "nsq", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// Print JSON with the field names of the HTTP API.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(flatten)]
    pub targets: TargetFlags,
    #[command(flatten)]
    pub security: SecurityFlags,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run nsqlookupd and nsqd in one process, for development and experiments.
    Dev(DevFlags),
    /// Publish messages from arguments, files or stdin.
    Pub(PublishFlags),
    /// Consume a channel: print its messages and finish them.
    Sub(SubscribeFlags),
    /// Show depths, counters and rates of topics and channels across all nodes.
    Stat(StatFlags),
    /// List, create, delete, pause, unpause or empty topics; set their retention.
    #[command(alias = "topics", subcommand)]
    Topic(TopicCommand),
    /// List, create, delete, pause, unpause, empty or seek channels.
    #[command(alias = "channels", subcommand)]
    Channel(ChannelCommand),
    /// Explain, check or apply settings of topics and channels.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Count, print, move back or delete messages whose attempts are used up.
    #[command(subcommand)]
    Dead(DeadCommand),
    /// List nodes.
    #[command(alias = "nodes", subcommand)]
    Node(NodeCommand),
    /// Check the health of daemons.
    Ping,
    /// Run a load test against nsqd.
    Bench(BenchFlags),
    /// Inspect, verify or export a data directory that no daemon uses.
    #[command(subcommand)]
    Data(DataCommand),
    /// Create tokens for nsqd's --auth-file.
    #[command(subcommand)]
    Auth(AuthCommand),
    /// Print a shell completion script.
    Completion {
        /// Shell to print the script for; `source <(nsq completion bash)` tries it out.
        shell: Shell,
    },
    /// Write man pages of nsq, nsqd and nsqlookupd to a directory.
    Manual(ManualFlags),
    /// Print the version.
    Version,
}

/// `nsq topic ...`
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// List all topics.
    #[command(visible_alias = "ls")]
    List,
    /// Create a topic, optionally with channels.
    Create(CreateTopicFlags),
    /// Delete a topic with its channels and messages from all nodes and nsqlookupds.
    #[command(visible_alias = "rm")]
    Delete(DestroyTopic),
    /// Stop releasing the topic's messages to its channels.
    Pause(TopicArgument),
    /// Resume releasing the topic's messages to its channels.
    Unpause(TopicArgument),
    /// Drop the messages that have not been released to channels.
    Empty(EmptyTopic),
    /// Set the retention of finished messages.
    Retain(RetainFlags),
    /// Change settings: nsq topic set orders retain_for=24h owner=shop.
    Set(SetFlags),
}

/// `nsq channel ...`
#[derive(Debug, Subcommand)]
pub enum ChannelCommand {
    /// List the channels of one topic, or of all topics.
    #[command(visible_alias = "ls")]
    List {
        /// Topic whose channels to list. [default: all topics]
        topic: Option<String>,
    },
    /// Create a channel.
    Create(CreateChannelFlags),
    /// Delete a channel with its messages from all nodes and nsqlookupds.
    #[command(visible_alias = "rm")]
    Delete(DestroyChannel),
    /// Stop handing out the channel's messages.
    Pause(ChannelArgument),
    /// Resume handing out the channel's messages.
    Unpause(ChannelArgument),
    /// Drop all messages of a channel.
    Empty(DestroyChannel),
    /// Move a channel back to deliver messages again, or forward to finish messages.
    Seek(SeekFlags),
    /// Change settings: nsq channel set orders billing "retry=exponential 1s..15m".
    Set(SetFlags),
}

/// `nsq auth ...`
#[derive(Debug, Subcommand)]
pub enum AuthCommand {
    /// Create a token; print it with its entry for the token file.
    Token(TokenFlags),
}

/// `nsq node ...`
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List all nsqds.
    #[command(visible_alias = "ls")]
    List,
}

#[derive(Debug, Args)]
pub struct DestroyTopic {
    #[command(flatten)]
    pub topic: TopicArgument,
    #[command(flatten)]
    pub destroy: DestroyFlags,
}

#[derive(Debug, Args)]
pub struct EmptyTopic {
    #[command(flatten)]
    pub topic: TopicArgument,
    /// Also empty the topic's channels.
    #[arg(long)]
    pub channels: bool,
    #[command(flatten)]
    pub destroy: DestroyFlags,
}

#[derive(Debug, Args)]
pub struct DestroyChannel {
    #[command(flatten)]
    pub channel: ChannelArgument,
    #[command(flatten)]
    pub destroy: DestroyFlags,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_definition_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn aliases_and_old_flag_names_are_accepted() {
        for line in [
            "nsq topics ls",
            "nsq channel rm t/c -y",
            "nsq --lookupd-http-address a:1,b:2 stat t/c -w",
            "nsq sub t c -n 3 --json --nsqd-tcp-address a:4150",
            "nsq dev -- --mem-queue-size=1",
            "nsq topic retain t --for 24h --bytes 1000",
            "nsq topic retain t --default",
            "nsq channel seek t/c --to 15m",
            "nsq topic set t owner=me retain_for=24h",
            "nsq channel set t/c retry=default",
            "nsq policy explain t/c",
            "nsq policy apply file.toml --dry-run --prune",
            "nsq policy test file.toml t --since 14d --limit 10 --as-settings --json",
            "nsq dead ls",
            "nsq dead list t.dead --limit 5",
            "nsq dead show t.dead --limit 3 --filter a=b,c!=d* --json",
            "nsq dead redrive t.dead --id 000000000000002a --rate 10 --max 5 --to u/c --dry-run --no-wait",
            "nsq dead stop t.dead",
            "nsq dead rm t.dead --max 5 -y --dry-run",
            "nsq channel create t c --start id:004000000000002a",
            "nsq sub t c --from earliest",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
