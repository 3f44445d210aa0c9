//! The command line.

use clap::{Parser, Subcommand};

use crate::command::dev::DevFlags;

/// Publish, consume, administer and watch an NSQ cluster.
#[derive(Debug, Parser)]
#[command(name = "nsq", version)]
pub struct Cli {
    /// Machine-readable output: JSON, with the HTTP API's field names.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run an nsqlookupd and an nsqd in this process, to try things with.
    Dev(DevFlags),
}
