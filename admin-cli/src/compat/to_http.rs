//! `nsq_to_http`: one HTTP request per message.

use std::process::ExitCode;

use clap::{ArgAction, Parser};
use nsq_daemon::{NSQ_VERSION, warn};

use super::source::SourceFlags;
use super::{Exit, Line, ended};
use crate::bridge::Origin;
use crate::bridge::hosts::Mode;
use crate::bridge::to_http::{Run, ToHttpFlags};

#[derive(Debug, Parser)]
pub struct Flags {
    #[command(flatten)]
    source: SourceFlags,
    #[command(flatten)]
    shared: ToHttpFlags,
    /// Print the version.
    #[arg(long, action = ArgAction::Set, default_value_t = false)]
    version: bool,
}

pub fn run(line: Line<Flags>) -> Result<ExitCode, Exit> {
    let Line { tool, flags, .. } = line;
    let config = flags.source.config(tool)?;
    let sources = flags.source.sources()?;
    let mode = flags.shared.mode();
    if mode != "multicast" && mode.parse::<Mode>().is_err() {
        let logger = flags.shared.logger(tool.name());
        warn!(
            logger,
            "--mode {mode} is unknown: every message goes to all addresses, as with --mode multicast"
        );
    }
    let agent = Some(format!("{} v{NSQ_VERSION}", tool.name()));
    ended(flags.shared.run(Run { name: tool.name(), agent, from: Origin::Fixed(sources), config }))
}
