//! `nsq completion`: prints shell completion scripts.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit_status::{ExitStatus, Failure};
use crate::output::Output;

/// Prints the script for a shell.
pub fn run(output: Output, shell: Shell) -> Result<ExitStatus, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "nsq", &mut script);
    output.data(script)?;
    Ok(ExitStatus::Done)
}
