//! The command line: all that can be typed.

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::command::auth::TokenFlags;
use crate::command::bench::BenchFlags;
use crate::command::change::DestroyFlags;
use crate::command::create::{CreateChannelFlags, CreateTopicFlags};
use crate::command::data::DataCommand;
use crate::command::dev::DevFlags;
use crate::command::history::{RetainFlags, SeekFlags};
use crate::command::manual::ManualFlags;
use crate::command::publish::PublishFlags;
use crate::command::stat::StatFlags;
use crate::command::subscribe::SubscribeFlags;
use crate::names::{ChannelArgument, TopicArgument};
use crate::security::SecurityFlags;
use crate::targets::TargetFlags;

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done in part (stderr names the nodes that failed),
4 topic, channel, node or directory not found, 5 refused, 6 nothing reachable, 7 damaged data, 130 interrupted.";

/// Publish, consume, administer and watch an NSQ cluster.
#[derive(Debug, Parser)]
#[command(name = "nsq", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// Print JSON, with the HTTP API's field names.
    #[arg(long, global = true)]
    pub json: bool,
    /// Where the cluster is.
    #[command(flatten)]
    pub targets: TargetFlags,
    /// How to talk to it.
    #[command(flatten)]
    pub security: SecurityFlags,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run an nsqlookupd and an nsqd in this process, to try things with.
    Dev(DevFlags),
    /// Publish arguments, files or stdin.
    Pub(PublishFlags),
    /// Print the messages of a channel, and finish what was printed.
    Sub(SubscribeFlags),
    /// Show depths, counters and rates of topics and channels over all nodes.
    Stat(StatFlags),
    /// List, create, delete, pause, unpause or empty topics.
    #[command(alias = "topics", subcommand)]
    Topic(TopicCommand),
    /// List, create, delete, pause, unpause or empty channels.
    #[command(alias = "channels", subcommand)]
    Channel(ChannelCommand),
    /// List nodes.
    #[command(alias = "nodes", subcommand)]
    Node(NodeCommand),
    /// Ask daemons whether they are healthy.
    Ping,
    /// Put load on an nsqd and measure it.
    Bench(BenchFlags),
    /// Inspect, verify or export a data directory, without a daemon.
    #[command(subcommand)]
    Data(DataCommand),
    /// Make tokens for nsqd's --auth-file.
    #[command(subcommand)]
    Auth(AuthCommand),
    /// Print a script that makes a shell complete commands and flags.
    Completion {
        /// Which shell: `source <(nsq completion bash)` tries it out.
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
    /// Create a topic, with channels if wanted.
    Create(CreateTopicFlags),
    /// Delete a topic with its channels and messages, everywhere.
    #[command(visible_alias = "rm")]
    Delete(DestroyTopic),
    /// Hold messages back from the topic's channels.
    Pause(TopicArgument),
    /// End a pause.
    Unpause(TopicArgument),
    /// Drop the messages that have not been released to channels.
    Empty(EmptyTopic),
    /// Set what is kept of finished messages.
    Retain(RetainFlags),
}

/// `nsq channel ...`
#[derive(Debug, Subcommand)]
pub enum ChannelCommand {
    /// List the channels of a topic, or all.
    #[command(visible_alias = "ls")]
    List {
        /// Only this topic's.
        topic: Option<String>,
    },
    /// Create a channel.
    Create(CreateChannelFlags),
    /// Delete a channel with its messages, everywhere.
    #[command(visible_alias = "rm")]
    Delete(DestroyChannel),
    /// Stop handing out messages.
    Pause(ChannelArgument),
    /// End a pause.
    Unpause(ChannelArgument),
    /// Drop all messages of a channel.
    Empty(DestroyChannel),
    /// Move a channel back, so that messages are delivered again, or forward, so that they are finished.
    Seek(SeekFlags),
}

/// `nsq auth ...`
#[derive(Debug, Subcommand)]
pub enum AuthCommand {
    /// Make a token, and print it with the entry for the token file.
    Token(TokenFlags),
}

/// `nsq node ...`
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List all nsqds.
    #[command(visible_alias = "ls")]
    List,
}

/// A topic to lose.
#[derive(Debug, Args)]
pub struct DestroyTopic {
    /// Which.
    #[command(flatten)]
    pub topic: TopicArgument,
    /// Whether to ask.
    #[command(flatten)]
    pub destroy: DestroyFlags,
}

/// A topic to empty.
#[derive(Debug, Args)]
pub struct EmptyTopic {
    /// Which.
    #[command(flatten)]
    pub topic: TopicArgument,
    /// Empty its channels, too.
    #[arg(long)]
    pub channels: bool,
    /// Whether to ask.
    #[command(flatten)]
    pub destroy: DestroyFlags,
}

/// A channel to lose.
#[derive(Debug, Args)]
pub struct DestroyChannel {
    /// Which.
    #[command(flatten)]
    pub channel: ChannelArgument,
    /// Whether to ask.
    #[command(flatten)]
    pub destroy: DestroyFlags,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn short_and_old_spellings() {
        for line in [
            "nsq topics ls",
            "nsq channel rm t/c -y",
            "nsq --lookupd-http-address a:1,b:2 stat t/c -w",
            "nsq sub t c -n 3 --json --nsqd-tcp-address a:4150",
            "nsq dev -- --mem-queue-size=1",
            "nsq topic retain t --for 24h --bytes 1000",
            "nsq topic retain t --default",
            "nsq channel seek t/c --to 15m",
            "nsq channel create t c --start id:004000000000002a",
            "nsq sub t c --from earliest",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
