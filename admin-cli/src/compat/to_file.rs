//! `nsq_to_file`: archives topics in files.

use std::process::ExitCode;

use clap::{ArgAction, Parser};
use nsq_daemon::warn;

use super::source::{SourceFlags, set};
use super::{Exit, Line, user_agent};
use crate::bridge::Origin;
use crate::bridge::to_file::{Run, ToFileFlags};

#[derive(Debug, Parser)]
pub struct Flags {
    #[command(flatten)]
    source: SourceFlags,
    #[command(flatten)]
    shared: ToFileFlags,
    /// Do not create files without messages.
    #[arg(long, action = ArgAction::Set, default_value_t = false)]
    skip_empty_files: bool,
    /// Print the version.
    #[arg(long, action = ArgAction::Set, default_value_t = false)]
    version: bool,
}

pub fn run(line: Line<Flags>) -> Result<ExitCode, Exit> {
    let Line { tool, flags, argument } = line;
    if let Some(argument) = argument {
        return Err(Exit::fatal(format_args!("unknown arguments: {}", argument.to_string_lossy())));
    }
    let sources = flags.source.sources()?;
    let has_lookupds = Some(!sources.lookupds.is_empty());
    // An archive is complete: unlike the other tools, it drops nothing unless max_attempts is set.
    let mut config = nsq::Config::new();
    for option in &flags.source.consumer_opt {
        // NSQ ignores such an option too, and says nothing.
        if let Err(error) = set(&mut config, option) {
            let logger = flags.shared.logger(tool.name());
            warn!(logger, "--consumer-opt {option} is ignored: {error}");
        }
    }
    let run = Run {
        name: tool.name(),
        from: Origin::Fixed(sources),
        has_lookupds,
        config: config.user_agent(user_agent(tool)),
        empty_files: !flags.skip_empty_files,
    };
    super::ended(flags.shared.run(run))
}
