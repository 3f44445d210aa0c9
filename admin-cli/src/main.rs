//! `nsq`: publish, consume, administer and watch an NSQ cluster.
//!
//! In reading order: `cli` (the command line), `targets`, `security`, `client_options` and `names` (parsed and
//! validated flags), `wording` (errors of the command line), `profile` (named clusters), `command` (one file per verb), `cluster` (all daemons at once), `sources` (where to publish and
//! consume), `report` (sums over all nodes), `table`, `body`, `output` (the only module that prints), `patterns` and
//! `exit_status`. `bridge` moves messages elsewhere. `compat` holds the tools of NSQ under their old names.

mod cli;

mod targets;

mod security;

mod client_options;

mod names;

mod wording;

mod command;

mod cluster;

mod sources;

mod report;

mod table;

mod profile;

mod progress;

mod body;

mod output;

mod patterns;

mod bridge;

mod compat;

mod exit_status;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

use clap::error::ErrorKind;
use clap::{ArgMatches, FromArgMatches};

use cli::{AuthCommand, ChannelCommand, Cli, Command, NodeCommand, TopicCommand};
use command::{
    Context, Protection, admin, api, archive, auth, bench, check, client, cluster_state, completion, create,
    data, dead, delete, dev, drain, empty, explain, find, graph, help, inspect, list, lookup, manual, node,
    pause, ping, policy, publish, retention, rtt, show, stat, subscribe, support, tail, top, transfer, undo,
    version, wait,
};
use exit_status::{ExitStatus, Failure};
use names::Object;
use nsqd::policy::settings::Level;
use output::{Form, Output, OutputForm, Wanted};
use security::Security;
use targets::Targets;

fn main() -> ExitCode {
    let started_at = Instant::now();
    let mut arguments = std::env::args_os();
    if let Some(line) = admin::called(&std::env::args_os().collect::<Vec<_>>()) {
        return admin::run(line);
    }
    if let Some(tool) = arguments.next().as_ref().and_then(compat::Tool::called_as) {
        return compat::run(tool, std::env::args_os().collect());
    }
    let line: Vec<OsString> = std::env::args_os().collect();
    if completion::answer(&line, started_at) {
        return ExitCode::SUCCESS;
    }
    // Before the flags are known, errors are printed in the form that they seem to ask for.
    let is_json = line
        .iter()
        .any(|word| word.to_str().is_some_and(|word| word == "--json" || word.starts_with("--json=")));
    let kind = if is_json { OutputForm::Json } else { OutputForm::Table };
    let early = Output::new(Form { kind, ..Form::default() });
    if client_options::are_asked_for(&line) {
        let printed = match is_json {
            true => early.json(&client_options::document()),
            false => early.data(client_options::page()),
        };
        return printed.map_or_else(|failure| failure.status.into(), |()| ExitCode::SUCCESS);
    }
    // For a monitoring system, the exit code of a wrong command line would be that of a critical state.
    let is_check_line = check::is_check(line.iter().cloned());
    let (cli, path) = match parse(line) {
        Ok(parsed) => parsed,
        Err(Unparsed::Clap(error)) => {
            let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            if is_json && !is_help {
                let text = wording::plain(&error.to_string());
                early.failure(&Failure::usage(text.trim_start_matches("error: ").trim_end()));
                return ExitStatus::Usage.into();
            }
            if !error.use_stderr() {
                error.exit()
            }
            let text = error.render();
            early.usage_error(&wording::plain(&text.ansi().to_string()), &wording::plain(&text.to_string()));
            return if is_check_line { check::UNKNOWN.into() } else { ExitStatus::Usage.into() };
        }
        Err(Unparsed::Failure(failure)) => {
            early.failure(&failure);
            return failure.status.into();
        }
    };
    let is_check = matches!(cli.command, Command::Check(_) | Command::Doctor(_));
    // A load test opens thousands of connections. If raising the limit fails, connections beyond it report why they
    // fail.
    let _ = nsq_daemon::open_files::raise();
    let wanted = cli.output.resolve(&path, Output::terminals(), |name| std::env::var(name).ok());
    let output = match wanted {
        Ok(Wanted::Output(form)) => Output::new(form),
        Ok(Wanted::Fields(fields)) => {
            let printed = early.data(fields.join("\n") + "\n");
            return printed.map_or_else(|failure| failure.status.into(), |()| ExitCode::SUCCESS);
        }
        Err(failure) => {
            early.failure(&failure);
            return failure.status.into();
        }
    };
    run(cli, output).unwrap_or_else(|failure| {
        output.failure(&failure);
        if is_check { check::UNKNOWN.into() } else { failure.status.into() }
    })
}

/// Why a command line has no meaning.
enum Unparsed {
    Clap(clap::Error),
    Failure(Failure),
}

/// The command line, with its alias replaced, and the names of its command, such as `topic list`.
fn parse(line: Vec<OsString>) -> Result<(Cli, String), Unparsed> {
    let mut command = cli::command();
    // A wrong file must not prevent the command that mends it.
    let is_first = |word: &str| line.get(1).is_some_and(|first| first == word);
    let line = match profile::store::load() {
        Ok(settings) => settings
            .expand(line, |word| {
                word.starts_with('-') || command.find_subcommand(word).is_some() || word == "help"
            })
            .map_err(Unparsed::Failure)?,
        Err(_) if is_first("profile") || is_first("help") => line,
        Err(failure) => return Err(Unparsed::Failure(failure)),
    };
    let matches = command.try_get_matches_from_mut(line).map_err(Unparsed::Clap)?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| Unparsed::Clap(error.format(&mut command)))?;
    Ok((cli, path_of(&matches)))
}

/// The names of the command and its subcommands.
fn path_of(matches: &ArgMatches) -> String {
    let mut names = Vec::new();
    let mut below = matches.subcommand();
    while let Some((name, matches)) = below {
        names.push(name);
        below = matches.subcommand();
    }
    names.join(" ")
}

fn run(cli: Cli, output: Output) -> Result<ExitCode, Failure> {
    let shared = Shared { targets: cli.targets, security: cli.security, profile: cli.profile };
    match cli.command {
        Command::Dev(flags) => dev::run(flags, &shared.targets, output),
        Command::Admin(flags) => Ok(admin::run(flags.line())),
        Command::ToFile(flags) => bridge::to_file::run(shared.context(output)?, flags).map(ExitCode::from),
        Command::ToHttp(flags) => bridge::to_http::run(shared.context(output)?, flags).map(ExitCode::from),
        Command::ToNsq(flags) => bridge::to_nsq::run(shared.context(output)?, flags).map(ExitCode::from),
        Command::Compat(flags) => flags.line().map(|(tool, line)| compat::run(tool, line)),
        Command::Bench(flags) => bench::run(&shared.context(output)?, flags),
        Command::Data(command) => data::run(command, output).map(ExitCode::from),
        Command::Archive(command) => archive::run(command, output).map(ExitCode::from),
        Command::Auth(AuthCommand::Token(flags)) => auth::token(&flags, output).map(ExitCode::from),
        Command::Auth(AuthCommand::Password) => auth::password(output).map(ExitCode::from),
        Command::Profile(command) => {
            command::profile::run(command, &shared.targets, &shared.security, output).map(ExitCode::from)
        }
        Command::Completion { shell } => completion::run(output, shell).map(ExitCode::from),
        Command::Manual(flags) => manual::run(&flags, output).map(ExitCode::from),
        Command::Explain(flags) => explain::run(&flags, output).map(ExitCode::from),
        Command::Help(flags) => help::run(&flags, output).map(ExitCode::from),
        Command::Version(flags) if !flags.server => version::own(output).map(ExitCode::from),
        Command::Check(flags) => {
            let context = shared.context(output)?;
            command::runtime()?.block_on(check::check(&context, flags))
        }
        Command::Doctor(flags) => {
            let context = shared.context(output)?;
            command::runtime()?.block_on(check::doctor(&context, flags))
        }
        command => {
            let context = shared.context(output)?;
            let runtime = command::runtime()?;
            let status = runtime.block_on(on_cluster(command, &context));
            // A blocking read of a terminal cannot be interrupted.
            runtime.shutdown_background();
            status.map(ExitCode::from)
        }
    }
}

/// The flags of every command that say which cluster it is about.
struct Shared {
    targets: targets::TargetFlags,
    security: security::SecurityFlags,
    profile: cli::ProfileFlags,
}

impl Shared {
    fn context(self, output: Output) -> Result<Context, Failure> {
        let settings = profile::store::load()?;
        let chosen = settings.choose(self.profile.profile.as_deref())?;
        let mut targets = Targets::resolve(self.targets, |name| std::env::var(name).ok(), chosen.as_ref())?;
        // The secret of a profile is for its cluster, and not for any address of a flag.
        let chosen = chosen.filter(|chosen| chosen.is_explicit || targets.are_of(&chosen.profile));
        targets.security = Security::resolve(self.security, chosen.as_ref().map(|chosen| &chosen.profile))?;
        let protection = chosen.filter(|chosen| chosen.profile.protected).map(|chosen| Protection {
            profile: chosen.name,
            color: chosen.profile.color.map_or("", profile::Color::escape),
            confirmed: self.profile.protected_ok,
        });
        Ok(Context { targets, output, protection })
    }
}

async fn on_cluster(command: Command, context: &Context) -> Result<ExitStatus, Failure> {
    match command {
        Command::Pub(flags) => publish::run(context, flags).await,
        Command::Sub(flags) => subscribe::run(context, flags).await,
        Command::Tail(flags) => tail::run(context, flags).await,
        Command::Stat(flags) => stat::run(context, &flags).await,
        Command::Top(flags) => top::run(context, flags).await,
        Command::Topic(command) => match command {
            TopicCommand::List(flags) => list::topics(context, &flags).await,
            TopicCommand::Create(flags) => create::topic(context, &flags).await,
            TopicCommand::Delete(flags) => delete::run(context, flags.topic.object()?, &flags.destroy).await,
            TopicCommand::Retain(flags) => retention::retain(context, &flags).await,
            TopicCommand::Set(flags) => policy::set(context, &flags, Level::Topic).await,
            TopicCommand::Show(topic) => show::run(context, topic.object()?).await,
            TopicCommand::Pause(flags) => pause::pause(context, flags.topic.object()?, &flags.pause).await,
            TopicCommand::Unpause(flags) => {
                pause::unpause(context, flags.topic.object()?, &flags.unpause).await
            }
            TopicCommand::Empty(flags) => {
                empty::run(context, flags.topic.object()?, flags.channels, &flags.destroy).await
            }
        },
        Command::Channel(command) => match command {
            ChannelCommand::List { topic } => {
                let topic = topic.as_deref().map(Object::parse).transpose()?;
                list::channels(context, topic.as_ref()).await
            }
            ChannelCommand::Clients(flags) => client::of_channel(context, &flags).await,
            ChannelCommand::Create(flags) => create::channel(context, &flags).await,
            ChannelCommand::Seek(flags) => retention::seek(context, &flags).await,
            ChannelCommand::Set(flags) => policy::set(context, &flags, Level::Channel).await,
            ChannelCommand::Delete(flags) => {
                delete::run(context, flags.channel.object()?, &flags.destroy).await
            }
            ChannelCommand::Show(channel) => show::run(context, channel.object()?).await,
            ChannelCommand::Pause(flags) => {
                pause::pause(context, flags.channel.object()?, &flags.pause).await
            }
            ChannelCommand::Unpause(flags) => {
                pause::unpause(context, flags.channel.object()?, &flags.unpause).await
            }
            ChannelCommand::Empty(flags) => {
                empty::run(context, flags.channel.object()?, false, &flags.destroy).await
            }
        },
        Command::Policy(command) => policy::run(context, command).await,
        Command::Dead(command) => dead::run(context, command).await,
        Command::Peek(flags) => inspect::peek::run(context, &flags).await,
        Command::Message(command) => inspect::message::run(context, command).await,
        Command::Why(flags) => inspect::why::run(context, &flags).await,
        Command::Undo(flags) => undo::run(context, &flags).await,
        Command::Ping => ping::run(context).await,
        Command::Rtt(flags) => rtt::run(context, &flags).await,
        Command::Find(flags) => find::run(context, &flags).await,
        Command::Wait(flags) => wait::run(context, &flags).await,
        Command::Graph(flags) => graph::run(context, &flags).await,
        Command::Move(flags) => transfer::run_move(context, &flags).await,
        Command::Copy(flags) => transfer::run_copy(context, &flags).await,
        Command::Cluster(command) => cluster_state::run(context, command).await,
        Command::SupportBundle(flags) => support::run(context, &flags).await,
        Command::Api(flags) => api::run(context, &flags).await,
        Command::Lookup(command) => lookup::run(context, command).await,
        Command::Client(command) => client::run(context, command).await,
        Command::Version(_) => version::with_servers(context).await,
        Command::Node(command) => match command {
            NodeCommand::List => node::list(context).await,
            NodeCommand::Show(node) => node::show(context, &node).await,
            NodeCommand::Config(command) => node::config(context, &command).await,
            NodeCommand::Tombstone(flags) => node::tombstone(context, &flags).await,
            NodeCommand::Drain(flags) => drain::run(context, &flags).await,
        },
        Command::Dev(_)
        | Command::Admin(_)
        | Command::Bench(_)
        | Command::Check(_)
        | Command::Doctor(_)
        | Command::ToFile(_)
        | Command::ToHttp(_)
        | Command::ToNsq(_)
        | Command::Compat(_)
        | Command::Data(_)
        | Command::Archive(_)
        | Command::Auth(_)
        | Command::Profile(_)
        | Command::Completion { .. }
        | Command::Manual(_)
        | Command::Explain(_)
        | Command::Help(_) => Err(Failure::failed("this command needs no cluster")),
    }
}
