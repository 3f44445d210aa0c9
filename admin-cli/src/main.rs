//! `nsq`: publish, consume, administer and watch an NSQ cluster.
//!
//! In reading order: `cli` (the command line), `targets`, `security` and `names` (parsed and validated flags),
//! `command` (one file per verb), `cluster` (all daemons at once), `sources` (where to publish and consume), `report`
//! (sums over all nodes), `table`, `body`, `output` (the only file that prints) and `exit_status`.

mod cli;

mod targets;

mod security;

mod names;

mod command;

mod cluster;

mod sources;

mod report;

mod table;

mod body;

mod output;

mod exit_status;

use std::process::ExitCode;

use clap::Parser;

use cli::{AuthCommand, ChannelCommand, Cli, Command, NodeCommand, TopicCommand};
use command::{
    Context, auth, bench, completion, create, data, dead, delete, dev, empty, list, manual, node, pause,
    ping, policy, publish, retention, stat, subscribe,
};
use exit_status::{ExitStatus, Failure};
use names::Object;
use nsqd::policy::settings::Level;
use output::Output;
use security::Security;
use targets::Targets;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A load test opens thousands of connections. If raising the limit fails, connections beyond it report why they
    // fail.
    let _ = nsq_daemon::open_files::raise();
    let output = Output::new(cli.json);
    run(cli, output).unwrap_or_else(|failure| {
        output.failure(&failure);
        failure.status.into()
    })
}

fn run(cli: Cli, output: Output) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Dev(flags) => dev::run(flags, output),
        Command::Bench(flags) => {
            let mut targets = Targets::resolve(cli.targets, |name| std::env::var(name).ok());
            targets.security = Security::resolve(cli.security)?;
            bench::run(&Context { targets, output }, flags)
        }
        Command::Data(command) => data::run(command, output).map(ExitCode::from),
        Command::Auth(AuthCommand::Token(flags)) => auth::token(&flags, output).map(ExitCode::from),
        Command::Completion { shell } => completion::run(output, shell).map(ExitCode::from),
        Command::Manual(flags) => manual::run(&flags, output).map(ExitCode::from),
        Command::Version => {
            output.data(concat!("nsq ", env!("CARGO_PKG_VERSION"), "\n")).map(|()| ExitCode::SUCCESS)
        }
        command => {
            let environment = |name: &str| std::env::var(name).ok();
            let mut targets = Targets::resolve(cli.targets, environment);
            targets.security = Security::resolve(cli.security)?;
            let context = Context { targets, output };
            let runtime = command::runtime()?;
            let status = runtime.block_on(on_cluster(command, &context));
            // A blocking read of a terminal cannot be interrupted.
            runtime.shutdown_background();
            status.map(ExitCode::from)
        }
    }
}

async fn on_cluster(command: Command, context: &Context) -> Result<ExitStatus, Failure> {
    match command {
        Command::Pub(flags) => publish::run(context, flags).await,
        Command::Sub(flags) => subscribe::run(context, flags).await,
        Command::Stat(flags) => stat::run(context, &flags).await,
        Command::Topic(command) => match command {
            TopicCommand::List => list::topics(context).await,
            TopicCommand::Create(flags) => create::topic(context, &flags).await,
            TopicCommand::Delete(flags) => delete::run(context, flags.topic.object()?, &flags.destroy).await,
            TopicCommand::Retain(flags) => retention::retain(context, &flags).await,
            TopicCommand::Set(flags) => policy::set(context, &flags, Level::Topic).await,
            TopicCommand::Pause(topic) => pause::run(context, topic.object()?, true).await,
            TopicCommand::Unpause(topic) => pause::run(context, topic.object()?, false).await,
            TopicCommand::Empty(flags) => {
                empty::run(context, flags.topic.object()?, flags.channels, &flags.destroy).await
            }
        },
        Command::Channel(command) => match command {
            ChannelCommand::List { topic } => {
                let topic = topic.as_deref().map(Object::parse).transpose()?;
                list::channels(context, topic.as_ref()).await
            }
            ChannelCommand::Create(flags) => create::channel(context, &flags).await,
            ChannelCommand::Seek(flags) => retention::seek(context, &flags).await,
            ChannelCommand::Set(flags) => policy::set(context, &flags, Level::Channel).await,
            ChannelCommand::Delete(flags) => {
                delete::run(context, flags.channel.object()?, &flags.destroy).await
            }
            ChannelCommand::Pause(channel) => pause::run(context, channel.object()?, true).await,
            ChannelCommand::Unpause(channel) => pause::run(context, channel.object()?, false).await,
            ChannelCommand::Empty(flags) => {
                empty::run(context, flags.channel.object()?, false, &flags.destroy).await
            }
        },
        Command::Policy(command) => policy::run(context, command).await,
        Command::Dead(command) => dead::run(context, command).await,
        Command::Ping => ping::run(context).await,
        Command::Node(NodeCommand::List) => node::list(context).await,
        Command::Dev(_)
        | Command::Bench(_)
        | Command::Data(_)
        | Command::Auth(_)
        | Command::Completion { .. }
        | Command::Manual(_)
        | Command::Version => Err(Failure::failed("this command needs no cluster")),
    }
}
