//! `nsq data`: what is in a data directory, without a daemon; ours or NSQ's.
//!
//! Nothing in the directory is changed, and nobody is locked out of it: all commands look at it through an overlay
//! ([`nsqd::storage::overlay`]) and let the daemon's own code find what a start would find. While a daemon works in the
//! directory they refuse to; if one comes while they work, what they found is not trusted.
//!
//! In reading order:
//!
//! - `directory`: whose files are in it, whether somebody works in it
//! - `recovered`: topics and channels as a start would find them; `queues`: NSQ's, as they are
//! - `inspect`: what is in it; `inspect_table`: for people
//! - `verify`: every checksum, by nsqd's own check; `findings`: what may be wrong
//! - `export`: the messages, for others
//! - `progress`: what is said meanwhile

mod directory;
mod export;
mod findings;
mod inspect;
mod inspect_table;
mod journal_check;
mod progress;
mod queues;
mod recovered;
mod verify;

use clap::Subcommand;

use crate::exit_status::{ExitStatus, Failure};
use crate::output::Output;

/// `nsq data ...`
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Show what is in a data directory: checkpoint, journal, topics with their segments, channels as a start would
    /// find them.
    Inspect(inspect::InspectFlags),
    /// Check every checksum in a data directory. Exit code 7 if something is damaged.
    Verify(verify::VerifyFlags),
    /// Write the messages that a start would still deliver, as JSON lines or as a data directory of NSQ.
    Export(export::ExportFlags),
}

/// Runs one of them.
pub fn run(command: DataCommand, output: Output) -> Result<ExitStatus, Failure> {
    match command {
        DataCommand::Inspect(flags) => inspect::run(output, &flags),
        DataCommand::Verify(flags) => verify::run(output, &flags),
        DataCommand::Export(flags) => export::run(output, &flags),
    }
}
