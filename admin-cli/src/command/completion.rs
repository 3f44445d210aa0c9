//! `nsq completion`: shell scripts that ask this program what fits, so that topics, channels, nodes and profiles of the
//! cluster complete too.
//!
//! This file prints the scripts and answers the shells; `live` asks the cluster.

mod live;

use std::ffi::OsString;
use std::time::Instant;

use clap::{CommandFactory, ValueEnum};
use clap_complete::CompleteEnv;
use clap_complete::env::Shells;

use crate::cli::Cli;
use crate::exit_status::{ExitStatus, Failure};
use crate::output::Output;
pub use live::{channels, client_options, lookupds, nodes, profiles, settings, tcp_addresses, topics};

/// The variable by which a script asks.
const VARIABLE: &str = "NSQ_COMPLETE";

/// A shell with completion scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
    Powershell,
    Elvish,
}

/// Prints the script for a shell.
pub fn run(output: Output, shell: Shell) -> Result<ExitStatus, Failure> {
    let name = shell.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let shells = Shells::builtins();
    let completer =
        shells.completer(&name).ok_or_else(|| Failure::usage(format_args!("unknown shell {name}")))?;
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, "nsq", "nsq", "nsq", &mut script).map_err(Failure::failed)?;
    output.data(script)?;
    Ok(ExitStatus::Done)
}

/// Answers a script, if it asks. Returns whether it did. `started_at` is when the program started.
pub fn answer(line: &[OsString], started_at: Instant) -> bool {
    if std::env::var_os(VARIABLE).is_none() {
        return false;
    }
    live::started_at(started_at);
    let folder = std::env::current_dir().ok();
    let answered = CompleteEnv::with_factory(Cli::command).var(VARIABLE).bin("nsq");
    // A shell shows nothing if completion fails.
    answered.try_complete(line.iter().cloned(), folder.as_deref()).unwrap_or(true)
}
