//! The command line: commands, flags and their help texts.

use std::fmt::Write as _;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::ArgValueCandidates;

use crate::bridge::{to_file, to_http, to_nsq};
use crate::command::admin::AdminFlags;
use crate::command::api::ApiFlags;
use crate::command::archive::ArchiveCommand;
use crate::command::auth::TokenFlags;
use crate::command::bench::BenchFlags;
use crate::command::change::DestroyFlags;
use crate::command::check::{self, CheckFlags, DoctorFlags};
use crate::command::client::{self, ChannelClientsFlags, ClientCommand};
use crate::command::cluster_state::{self, ClusterCommand};
use crate::command::completion::{self, Shell};
use crate::command::create::{CreateChannelFlags, CreateTopicFlags};
use crate::command::data::DataCommand;
use crate::command::dead::DeadCommand;
use crate::command::dev::DevFlags;
use crate::command::drain::DrainFlags;
use crate::command::examples;
use crate::command::explain::ExplainFlags;
use crate::command::find::FindFlags;
use crate::command::graph::GraphFlags;
use crate::command::help::HelpFlags;
use crate::command::inspect::message::MessageCommand;
use crate::command::inspect::peek::{self, PeekFlags};
use crate::command::inspect::why::{self, WhyFlags};
use crate::command::list::{self, ListTopicsFlags};
use crate::command::lookup::{self, LookupCommand};
use crate::command::manual::ManualFlags;
use crate::command::node::{ConfigCommand, NodeArgument, TombstoneFlags};
use crate::command::pause::{self, PauseFlags, UnpauseFlags};
use crate::command::policy::{PolicyCommand, SetFlags};
use crate::command::profile::{self, ProfileCommand};
use crate::command::publish::PublishFlags;
use crate::command::retention::{RetainFlags, SeekFlags};
use crate::command::rtt::RttFlags;
use crate::command::show;
use crate::command::stat::StatFlags;
use crate::command::subscribe::SubscribeFlags;
use crate::command::support::SupportFlags;
use crate::command::tail::TailFlags;
use crate::command::top::{self, TopFlags};
use crate::command::transfer::{self, TransferFlags};
use crate::command::undo::UndoFlags;
use crate::command::version::VersionFlags;
use crate::command::wait::WaitFlags;
use crate::compat::CompatFlags;
use crate::names::{ChannelArgument, TopicArgument};
use crate::output::OutputFlags;
use crate::security::SecurityFlags;
use crate::targets::TargetFlags;

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 partly done (stderr names the failed nodes),
4 topic, channel, node or directory not found, 5 refused, 6 no daemon reachable,
7 time ran out before a condition was met, or data is damaged, 130 interrupted.";

/// Publish, consume, administer and watch an NSQ cluster.
#[derive(Debug, Parser)]
#[command(name = "nsq", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub output: OutputFlags,
    #[command(flatten)]
    pub profile: ProfileFlags,
    #[command(flatten)]
    pub targets: TargetFlags,
    #[command(flatten)]
    pub security: SecurityFlags,
    #[command(subcommand)]
    pub command: Command,
}

/// The template of a help page: it names the page of the global flags instead of repeating them.
const HELP: &str = "\
{before-help}{about-with-newline}
{usage-heading} {usage}

{all-args}

Flags of every command, such as --json and --lookupd: nsq help flags{after-help}";

/// The template of the list of commands.
const OVERVIEW: &str = "\
{about-with-newline}
{usage-heading} {usage}

{before-help}Options:
{options}

Flags of every command, such as --json and --lookupd: nsq help flags{after-help}";

/// The commands in groups, as `nsq help` lists them.
const GROUPS: [(&str, &[&str]); 7] = [
    ("Publish and consume", &["pub", "sub", "tail", "peek", "message", "move", "copy"]),
    ("Watch", &["stat", "top", "graph", "find", "wait", "why", "client", "ping", "rtt", "check", "doctor"]),
    ("Administer", &["topic", "channel", "policy", "dead", "undo", "node", "lookup", "cluster"]),
    ("Bridges", &["to-file", "to-http", "to-nsq", "compat"]),
    ("Run", &["dev", "admin", "bench"]),
    ("Files and access", &["data", "archive", "support-bundle", "auth", "profile", "api"]),
    ("Help", &["help", "explain", "completion", "manual", "version"]),
];

/// The command line with all flags on all pages.
pub fn whole() -> clap::Command {
    with_examples(Cli::command(), "")
}

/// The command line with short help pages: the flags of every command are hidden.
pub fn command() -> clap::Command {
    let whole = whole();
    let overview = overview(&whole);
    short(whole).before_help(overview).help_template(OVERVIEW)
}

/// Only the flags that every command has, for `nsq help flags`.
pub fn global_flags() -> clap::Command {
    let flags: Vec<clap::Arg> =
        Cli::command().get_arguments().filter(|flag| flag.is_global_set()).cloned().collect();
    clap::Command::new("nsq").disable_help_flag(true).args(flags).help_template("{options}\n")
}

fn short(command: clap::Command) -> clap::Command {
    let names: Vec<String> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    let command = command
        .help_template(HELP)
        .mut_args(|flag| if flag.is_global_set() { flag.hide(true) } else { flag });
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, short))
}

/// `path` names the command, such as `topic create`; it is empty for `nsq` itself.
fn with_examples(mut command: clap::Command, path: &str) -> clap::Command {
    let names: Vec<String> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    if let Some(examples) = examples::of(path) {
        command = command.after_help(examples);
    }
    names.into_iter().fold(command, |command, name| {
        let below = if path.is_empty() { name.clone() } else { format!("{path} {name}") };
        command.mut_subcommand(name, |command| with_examples(command, &below))
    })
}

fn overview(command: &clap::Command) -> String {
    let mut text = String::new();
    for (heading, names) in GROUPS {
        let _ = writeln!(text, "{heading}:");
        for name in names {
            let about = command.find_subcommand(name).and_then(clap::Command::get_about);
            let _ = writeln!(text, "  {name:15} {}", about.map(ToString::to_string).unwrap_or_default());
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Where the cluster is")]
pub struct ProfileFlags {
    /// Named cluster: see `nsq profile`.
    #[arg(long, short, global = true, value_name = "NAME", env = "NSQ_PROFILE",
          add = ArgValueCandidates::new(completion::profiles))]
    pub profile: Option<String>,
    /// With --yes, do not ask before a destructive command in this protected profile.
    #[arg(long, global = true, value_name = "NAME")]
    pub protected_ok: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run nsqlookupds, nsqds and the dashboard in one process, for development and experiments.
    Dev(DevFlags),
    /// Run the dashboard: the web interface of the cluster.
    Admin(AdminFlags),
    /// Publish messages from arguments, files or stdin.
    Pub(PublishFlags),
    /// Consume a channel: print its messages and finish them.
    Sub(SubscribeFlags),
    /// Print new messages of topics, without taking any from consumers.
    Tail(TailFlags),
    /// Archive topics in files.
    ToFile(to_file::Flags),
    /// Send an HTTP request for each message of a topic.
    ToHttp(to_http::Flags),
    /// Publish the messages of topics to other nsqds.
    ToNsq(to_nsq::Flags),
    /// Show depths, counters and rates of topics and channels across all nodes.
    Stat(StatFlags),
    /// Watch channels, nodes and problems live.
    #[command(after_help = top::HELP)]
    Top(TopFlags),
    /// Check for problems: a probe for monitoring systems.
    #[command(after_help = check::CHECK_HELP)]
    Check(CheckFlags),
    /// Explain all problems of the cluster, and what to do about them.
    #[command(after_help = check::DOCTOR_HELP)]
    Doctor(DoctorFlags),
    /// List, show, create, delete, pause, unpause or empty topics; set their retention.
    #[command(alias = "topics", subcommand)]
    Topic(TopicCommand),
    /// List, show, create, delete, pause, unpause, empty or seek channels.
    #[command(alias = "channels", subcommand)]
    Channel(ChannelCommand),
    /// Explain, check or apply settings of topics and channels.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Bring back the messages that the last empty or seek of a channel dropped.
    Undo(UndoFlags),
    /// Count, print, move back or delete messages whose attempts are used up.
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Look at messages of a channel or topic; changes nothing.
    #[command(after_help = peek::EXAMPLES)]
    Peek(PeekFlags),
    /// Cancel a message, or change when it is delivered.
    #[command(alias = "messages", subcommand)]
    Message(MessageCommand),
    /// Explain why a channel or a message does not move.
    #[command(after_help = why::EXAMPLES)]
    Why(WhyFlags),
    /// List, show, configure, hide or drain nodes.
    #[command(alias = "nodes", subcommand)]
    Node(NodeCommand),
    /// Check the health of daemons.
    Ping,
    /// Measure round-trip times to all nodes.
    Rtt(RttFlags),
    /// List channels for which conditions hold, such as --depth-over 1000 --no-consumers.
    Find(FindFlags),
    /// Wait until a topic or channel is empty, or has consumers.
    Wait(WaitFlags),
    /// Draw depth and rates of a topic or channel.
    Graph(GraphFlags),
    /// List nsqlookupds, show how they differ, or delete registrations that no node has.
    #[command(alias = "lookups", subcommand, after_help = lookup::EXAMPLES)]
    Lookup(LookupCommand),
    /// List connections of consumers and publishers.
    #[command(alias = "clients", subcommand, after_help = client::EXAMPLES)]
    Client(ClientCommand),
    /// Move messages of a channel to a topic, also of another cluster.
    #[command(after_help = transfer::MOVE_EXAMPLES)]
    Move(TransferFlags),
    /// Copy waiting messages of a channel to a topic, also of another cluster.
    #[command(after_help = transfer::COPY_EXAMPLES)]
    Copy(TransferFlags),
    /// Export topics and channels with their settings to a file, or apply one.
    #[command(subcommand, after_help = cluster_state::EXAMPLES)]
    Cluster(ClusterCommand),
    /// Write versions, statistics, settings and metrics to a file, without bodies and secrets.
    SupportBundle(SupportFlags),
    /// Send any HTTP request to a node or an nsqlookupd.
    Api(ApiFlags),
    /// Explain an error word of the protocol or of HTTP.
    Explain(ExplainFlags),
    /// Run a load test against nsqd.
    Bench(BenchFlags),
    /// Inspect, verify or export a data directory that no daemon uses.
    #[command(subcommand)]
    Data(DataCommand),
    /// List, show, verify or restore what nodes keep in an object store.
    #[command(subcommand)]
    Archive(ArchiveCommand),
    /// Create tokens for nsqd's --auth-file.
    #[command(subcommand)]
    Auth(AuthCommand),
    /// Run a tool of NSQ, such as nsq_tail, with its own flags. Links with its name do the same.
    Compat(CompatFlags),
    /// List, show, choose, add, remove or edit named clusters.
    #[command(subcommand, alias = "profiles", after_help = profile::EXAMPLES)]
    Profile(ProfileCommand),
    /// Print a shell completion script.
    Completion {
        /// Shell to print the script for; `source <(nsq completion bash)` tries it out.
        shell: Shell,
    },
    /// Write man pages of nsq, nsqd and nsqlookupd to a directory.
    Manual(ManualFlags),
    /// Print the version; with --server, those of all daemons.
    Version(VersionFlags),
    /// Print the help of a command, or a page: flags, exit-codes, formatting, targets, cheat, migrating.
    Help(HelpFlags),
}

/// `nsq topic ...`
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// List topics.
    #[command(visible_alias = "ls", after_help = list::EXAMPLES)]
    List(ListTopicsFlags),
    /// Create a topic, optionally with channels.
    Create(CreateTopicFlags),
    /// Delete a topic with its channels and messages from all nodes and nsqlookupds.
    #[command(visible_alias = "rm")]
    Delete(DestroyTopic),
    /// Show a topic: figures of every node, channels, settings with their origin, consumers.
    #[command(alias = "describe", after_help = show::TOPIC_EXAMPLES)]
    Show(TopicArgument),
    /// Stop releasing the topic's messages to its channels.
    #[command(after_help = pause::TOPIC_EXAMPLES)]
    Pause(PauseTopic),
    /// Resume releasing the topic's messages to its channels.
    Unpause(UnpauseTopic),
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
        #[arg(add = ArgValueCandidates::new(completion::topics))]
        topic: Option<String>,
    },
    /// List the connections of a channel's consumers.
    Clients(ChannelClientsFlags),
    /// Create a channel.
    Create(CreateChannelFlags),
    /// Delete a channel with its messages from all nodes and nsqlookupds.
    #[command(visible_alias = "rm")]
    Delete(DestroyChannel),
    /// Show a channel: figures of every node, settings with their origin, consumers.
    #[command(alias = "describe", after_help = show::CHANNEL_EXAMPLES)]
    Show(ChannelArgument),
    /// Stop handing out the channel's messages.
    #[command(after_help = pause::CHANNEL_EXAMPLES)]
    Pause(PauseChannel),
    /// Resume handing out the channel's messages.
    Unpause(UnpauseChannel),
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
    /// Read a password from stdin; print its hash for the dashboard's --users-file.
    Password,
}

/// `nsq node ...`
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List all nsqds.
    #[command(visible_alias = "ls")]
    List,
    /// Show one nsqd.
    #[command(alias = "describe")]
    Show(NodeArgument),
    /// Read or change settings of running nsqds.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Hide a node from consumers of a topic for a while; with --delete, also delete the topic there.
    Tombstone(TombstoneFlags),
    /// Take a node out of service: it refuses publishes, and consumers go on.
    Drain(DrainFlags),
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

#[derive(Debug, Args)]
pub struct PauseTopic {
    #[command(flatten)]
    pub topic: TopicArgument,
    #[command(flatten)]
    pub pause: PauseFlags,
}

#[derive(Debug, Args)]
pub struct UnpauseTopic {
    #[command(flatten)]
    pub topic: TopicArgument,
    #[command(flatten)]
    pub unpause: UnpauseFlags,
}

#[derive(Debug, Args)]
pub struct PauseChannel {
    #[command(flatten)]
    pub channel: ChannelArgument,
    #[command(flatten)]
    pub pause: PauseFlags,
}

#[derive(Debug, Args)]
pub struct UnpauseChannel {
    #[command(flatten)]
    pub channel: ChannelArgument,
    #[command(flatten)]
    pub unpause: UnpauseFlags,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_definition_is_valid() {
        command().debug_assert();
    }

    #[test]
    fn every_command_is_in_one_group_of_the_overview() {
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        let whole = Cli::command();
        let mut known: Vec<&str> = whole.get_subcommands().map(clap::Command::get_name).collect();
        grouped.sort_unstable();
        known.sort_unstable();
        assert_eq!(grouped, known);
    }

    #[test]
    fn every_command_has_examples() {
        fn check(command: &clap::Command, path: &str, missing: &mut Vec<String>) {
            let below: Vec<_> =
                command.get_subcommands().filter(|below| below.get_name() != "help").collect();
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            // `nsq admin` has the help page of nsqadmin, and `nsq help` is one.
            if below.is_empty()
                && !after.contains("Examples:\n")
                && !["nsq admin", "nsq help"].contains(&path)
            {
                missing.push(path.to_owned());
            }
            for command in below {
                check(command, &format!("{path} {}", command.get_name()), missing);
            }
        }
        let mut missing = Vec::new();
        check(&command(), "nsq", &mut missing);
        assert_eq!(missing, [] as [String; 0]);
    }

    #[test]
    fn global_flags_are_only_on_their_page() {
        fn check(command: &mut clap::Command) {
            // clap adds this one to commands that have commands.
            if command.get_name() == "help" {
                return;
            }
            let help = command.render_long_help().to_string();
            for flag in ["--lookupd", "--tls-ca", "--no-header", "--deflate-level"] {
                assert!(!help.contains(&format!("  {flag} ")), "{help}");
            }
            assert!(help.contains("nsq help flags"), "{help}");
            command.get_subcommands_mut().for_each(check);
        }
        let mut all = command();
        all.build();
        check(&mut all);
        let page = global_flags().render_long_help().to_string();
        for flag in ["--lookupd", "--tls-ca", "--no-header", "--deflate-level", "--opt", "--profile"] {
            assert!(
                page.contains(&format!("{flag} ")) || page.contains(&format!("{flag}\n")),
                "{flag}: {page}"
            );
        }
    }

    #[test]
    fn aliases_and_old_flag_names_are_accepted() {
        for line in [
            "nsq topics ls",
            "nsq stat t/c --by node --sort depth --top 3 --until depth==0 --timeout 5s",
            "nsq topic ls ^orders --inactive",
            "nsq channel rm t/c -y",
            "nsq --lookupd-http-address a:1,b:2 stat t/c -w",
            "nsq sub t c -n 3 --json --nsqd-tcp-address a:4150",
            "nsq dev -- --mem-queue-size=1",
            "nsq topic retain t --for 24h --bytes 1000",
            "nsq topic show t --json",
            "nsq channel describe t/c",
            "nsq topic pause t --for 5m --wait --timeout 1m",
            "nsq channel pause t c --for 5m --dry-run",
            "nsq channel unpause t/c --dry-run",
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
            "nsq node drain a:4151 --wait --wait-timeout 5m --json",
            "nsq nodes drain a:4151 --stop-draining",
            "nsq channel seek t/c --to latest --dry-run",
            "nsq undo t/c --partial --dry-run",
            "nsq undo t",
            "nsq channel create t c --start id:004000000000002a",
            "nsq sub t c --from earliest",
            "nsq tail t u -n 3 --grep a.c --sample 10 --since 10m --print-topic --print0",
            "nsq to-file --topic t --gzip --rotate-size 10 --work-dir=w --record json --empty-files --touch=false",
            "nsq to-http --topic t --post http://h/ --sample 0.5 --permanent 400,422 --put --nsq-headers -n 5",
            "nsq to-nsq --topic t --destination-nsqd-tcp-address=h:1 --on-bad-json reject --whitelist-json-field a",
            "nsq top orders/billing --once --interval 500ms --no-color",
            "nsq check consumer-gap depth --warn 5 --crit 10.5 --topic t --channel c --format nagios --for 1m",
            "nsq doctor --config nsq.toml",
            "nsq compat nsq_tail -topic t --nsqd-tcp-address=a:4150 -h",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
