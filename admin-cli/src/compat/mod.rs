//! The command-line tools of NSQ, under their old names: as links to this program, or as `nsq compat NAME ...`.
//!
//! Flags are spelled as in Go. Flags, defaults, output on stdout and exit codes (0 done, 1 failed, 2 wrong flag) are those of
//! NSQ 1.3.0; `docs/TOOLS.md` lists the differences. One file per tool: `stat`, `tail`, `publish` (to_nsq), `to_file`, `to_http`,
//! `to_nsq` (nsq_to_nsq). `source` has
//! the flags that several tools share.

mod publish;
mod source;
mod stat;
mod tail;
mod to_file;
mod to_http;
mod to_nsq;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches};
use nsq::Config;
use nsq_daemon::{NSQ_VERSION, go_flags, log};

use crate::command;
use crate::command::admin;
use crate::exit_status::{ExitStatus, Failure};

/// One of NSQ's tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Stat,
    Tail,
    ToFile,
    ToHttp,
    ToNsq,
    /// `to_nsq`.
    Publish,
    /// The dashboard.
    Admin,
}

impl Tool {
    pub const ALL: [Tool; 7] =
        [Tool::Stat, Tool::Tail, Tool::ToFile, Tool::ToHttp, Tool::ToNsq, Tool::Publish, Tool::Admin];

    /// The name of NSQ's program.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Stat => "nsq_stat",
            Tool::Tail => "nsq_tail",
            Tool::ToFile => "nsq_to_file",
            Tool::ToHttp => "nsq_to_http",
            Tool::ToNsq => "nsq_to_nsq",
            Tool::Publish => "to_nsq",
            Tool::Admin => "nsqadmin",
        }
    }

    fn named(name: &str) -> Option<Tool> {
        Tool::ALL.into_iter().find(|tool| tool.name() == name)
    }

    /// The tool as which the program was called, from its first argument.
    pub fn called_as(program: &OsString) -> Option<Tool> {
        Tool::named(Path::new(program).file_name()?.to_str()?)
    }
}

/// Arguments of `nsq compat`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nsq compat nsq_tail --topic=orders --lookupd-http-address=127.0.0.1:4161 -n 1
  nsq compat nsq_stat --topic=orders --channel=billing --nsqd-http-address=127.0.0.1:4151 --count=1
  echo hello | nsq compat to_nsq --topic=orders --nsqd-tcp-address=127.0.0.1:4150")]
pub struct CompatFlags {
    /// Name of the tool: nsq_stat, nsq_tail, nsq_to_file, nsq_to_http, nsq_to_nsq, to_nsq or nsqadmin.
    #[arg(value_name = "TOOL")]
    tool: String,
    /// The tool's own flags.
    #[arg(value_name = "FLAGS", trailing_var_arg = true, allow_hyphen_values = true)]
    line: Vec<OsString>,
}

impl CompatFlags {
    /// The tool and its command line, program name first.
    pub fn line(self) -> Result<(Tool, Vec<OsString>), Failure> {
        let Some(tool) = Tool::named(&self.tool) else {
            let names: Vec<&str> = Tool::ALL.iter().map(|tool| tool.name()).collect();
            let failure = Failure::usage(format_args!("unknown tool {:?}", self.tool));
            return Err(failure.hint(format!("the tools are: {}", names.join(", "))));
        };
        let line = std::iter::once(self.tool.into()).chain(self.line).collect();
        Ok((tool, line))
    }
}

/// Runs a tool with its command line, program name first.
pub fn run(tool: Tool, line: Vec<OsString>) -> ExitCode {
    let done = match tool {
        Tool::Stat => parse(tool, line).and_then(stat::run),
        Tool::Tail => parse(tool, line).and_then(tail::run),
        Tool::ToFile => parse(tool, line).and_then(to_file::run),
        Tool::ToHttp => parse(tool, line).and_then(to_http::run),
        Tool::ToNsq => parse(tool, line).and_then(to_nsq::run),
        Tool::Publish => parse(tool, line).and_then(publish::run),
        Tool::Admin => return admin::serve(line),
    };
    done.unwrap_or_else(|exit| exit.report(tool))
}

/// Why a tool does not start, or why it ends. Not every reason is a failure.
#[derive(Debug)]
enum Exit {
    /// `-version`.
    Version,
    /// `-h`: the usage, for stderr, exit code 0.
    Help(String),
    /// A flag is wrong: message and usage, for stderr, exit code 2.
    WrongFlag(String),
    /// A log line, exit code 1.
    Fatal(String),
    /// Something failed and is logged already: exit code 1.
    Logged,
    /// The reader of stdout has closed it: nothing to say, exit code 0.
    Quiet,
}

impl Exit {
    fn fatal(why: impl ToString) -> Self {
        Exit::Fatal(why.to_string())
    }

    fn report(self, tool: Tool) -> ExitCode {
        match self {
            Exit::Version => {
                // A closed stdout is no failure.
                let _ = writeln!(io::stdout(), "{} v{NSQ_VERSION}", tool.name());
                ExitCode::SUCCESS
            }
            Exit::Help(text) => {
                let _ = io::stderr().write_all(text.as_bytes());
                ExitCode::SUCCESS
            }
            Exit::WrongFlag(text) => {
                let _ = io::stderr().write_all(text.as_bytes());
                ExitCode::from(2)
            }
            Exit::Fatal(text) => {
                log::fatal(tool.name(), format_args!("{text}"));
                ExitCode::FAILURE
            }
            Exit::Logged => ExitCode::FAILURE,
            Exit::Quiet => ExitCode::SUCCESS,
        }
    }
}

impl From<Failure> for Exit {
    fn from(failure: Failure) -> Self {
        match (failure.is_silent(), failure.status) {
            (true, ExitStatus::Done) => Exit::Quiet,
            (true, _) => Exit::Logged,
            (false, _) => Exit::Fatal(failure.message),
        }
    }
}

/// A parsed command line.
#[derive(Debug)]
struct Line<F> {
    tool: Tool,
    flags: F,
    /// The first argument that is not a flag. Most tools ignore it and all after it.
    argument: Option<OsString>,
}

fn parse<F: CommandFactory + FromArgMatches>(tool: Tool, line: Vec<OsString>) -> Result<Line<F>, Exit> {
    let command = F::command().name(tool.name()).disable_version_flag(true).args_override_self(true);
    let is_bool = |flag: &str| {
        command.get_arguments().any(|known| known.get_long() == Some(flag) && is_bool_flag(known))
    };
    let (line, argument) = go_flags::split_line(line.into_iter(), is_bool);
    let wrong = |error: clap::Error| match error.kind() {
        ErrorKind::DisplayHelp => Exit::Help(error.to_string()),
        _ => Exit::WrongFlag(error.to_string()),
    };
    let matches = command.clone().try_get_matches_from(line).map_err(wrong)?;
    if matches.try_get_one::<bool>("version").ok().flatten() == Some(&true) {
        return Err(Exit::Version);
    }
    let flags = F::from_arg_matches(&matches).map_err(wrong)?;
    Ok(Line { tool, flags, argument })
}

fn is_bool_flag(flag: &clap::Arg) -> bool {
    flag.get_value_parser().type_id() == clap::builder::ValueParser::bool().type_id()
}

/// The settings of all tools before their options.
fn base_config() -> Config {
    // The tools of NSQ drop a message that has failed five times.
    Config::new().max_attempts(5u16)
}

fn user_agent(tool: Tool) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("{}/{version} nsq-rs/{version}", tool.name())
}

/// Runs a tool until it ends. Any failure has the exit code 1.
fn block_on(run: impl Future<Output = Result<ExitStatus, Failure>>) -> Result<ExitCode, Exit> {
    let runtime = command::runtime()?;
    let done = runtime.block_on(run);
    // A blocking read of a terminal cannot be interrupted.
    runtime.shutdown_background();
    ended(done)
}

fn ended(done: Result<ExitStatus, Failure>) -> Result<ExitCode, Exit> {
    match done? {
        ExitStatus::Done => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::FAILURE),
    }
}

#[cfg(test)]
mod tests;
