//! `nsq`: publish, consume, administer and watch an NSQ cluster.
//!
//! In reading order: `cli` (what can be typed), `command` (one file per verb), `output` (the only file that prints),
//! `exit_status` (how it ends).

mod cli;

mod command;

mod output;

mod exit_status;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut output = Output::new(cli.json);
    let result = match cli.command {
        Command::Dev(flags) => command::dev::run(flags, &mut output),
    };
    result.unwrap_or_else(|failure| {
        output.failure(&failure);
        failure.status.into()
    })
}
