//! `nsq_to_nsq`: publishes messages to other nsqds.

use std::process::ExitCode;

use clap::{ArgAction, Parser};
use nsq::Config;
use nsq_daemon::warn;

use super::source::{SourceFlags, set};
use super::{Exit, Line, ended, user_agent};
use crate::bridge::Origin;
use crate::bridge::hosts::Mode;
use crate::bridge::to_nsq::{OnBadJson, Run, ToNsqFlags};

#[derive(Debug, Parser)]
pub struct Flags {
    #[command(flatten)]
    source: SourceFlags,
    #[command(flatten)]
    shared: ToNsqFlags,
    /// Option of the producers, as NAME,VALUE; may be repeated.
    #[arg(long, value_name = "NAME,VALUE")]
    producer_opt: Vec<String>,
    /// Print the version.
    #[arg(long, action = ArgAction::Set, default_value_t = false)]
    version: bool,
}

pub fn run(line: Line<Flags>) -> Result<ExitCode, Exit> {
    let Line { tool, flags, .. } = line;
    let config = flags.source.config(tool)?;
    let mut destination = Config::new();
    for option in &flags.producer_opt {
        set(&mut destination, option)
            .map_err(|error| Exit::WrongFlag(format!("--producer-opt {option}: {error}\n")))?;
    }
    let sources = flags.source.sources()?;
    let mode = flags.shared.mode().parse::<Mode>().unwrap_or_else(|_| {
        let logger = flags.shared.logger(tool.name());
        warn!(logger, "--mode {} is unknown: it means round-robin", flags.shared.mode());
        Mode::RoundRobin
    });
    ended(flags.shared.run(Run {
        name: tool.name(),
        from: Origin::Fixed(sources),
        config,
        destination: destination.user_agent(user_agent(tool)),
        mode,
        on_bad_json: OnBadJson::Drop,
        jq: None,
        until_empty: None,
    }))
}
