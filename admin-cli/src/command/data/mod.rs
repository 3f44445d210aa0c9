//! `nsq data`: reads a data directory of this nsqd or of NSQ, without a daemon.
//!
//! The commands change nothing in the directory, and lock no daemon out of it. They read it through an overlay
//! ([`nsqd::storage::overlay`]), in which the daemon's own code finds what a start would find. They refuse a directory
//! that a daemon is using. If a daemon starts while they run, they fail, because what they read may be inconsistent.
//!
//! In reading order:
//!
//! - `directory`: whose files a directory holds, and whether a daemon is using it
//! - `recovered`: topics and channels as a start would find them; `queues`: NSQ's queues as they are
//! - `inspect`: the contents of a directory; `inspect_table`: its output for people
//! - `verify`: every checksum, by nsqd's own check; `findings`: possible damage
//! - `export`: writes the messages in a form for other programs
//! - `progress`: progress on stderr

pub mod directory;
mod export;
mod findings;
mod inspect;
mod inspect_table;
mod journal_check;
mod progress;
mod queues;
pub mod recovered;
mod verify;

use clap::Subcommand;

use crate::exit_status::{ExitStatus, Failure};
use crate::output::Output;

/// `nsq data ...`
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Show the contents of a data directory: checkpoint, journal, topics with their segments, and channels as a
    /// start would find them.
    Inspect(inspect::InspectFlags),
    /// Check every checksum in a data directory. Exit code 7 means damage.
    Verify(verify::VerifyFlags),
    /// Export the messages that a start would still deliver, as JSON lines or as a data directory of NSQ.
    Export(export::ExportFlags),
}

/// Runs one of the commands.
pub fn run(command: DataCommand, output: Output) -> Result<ExitStatus, Failure> {
    match command {
        DataCommand::Inspect(flags) => inspect::run(output, &flags),
        DataCommand::Verify(flags) => verify::run(output, &flags),
        DataCommand::Export(flags) => export::run(output, &flags),
    }
}
