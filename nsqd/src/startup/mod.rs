//! Before the first connection: reads the data directory and restores topics and channels.
//!
//! - `recovery`: the steps of a start, from the lock on the directory to topics that work
//! - [`crate::import`]: the first step, takes over a data directory of NSQ
//! - [`replay`]: pure; turns checkpoint and journal records into topics and channels;
//!   [`replayed_topic`]: one of them; [`missing`]: which of its messages are needed and missing
//! - [`report`]: reports damage found meanwhile; [`gaps`]: which messages the damage affects
//! - [`verify`]: what a start would report, and whether all messages are readable, without changes
//!
//! The opposite direction, what a start reads, is written by [`crate::upkeep`].

pub mod gaps;
pub mod missing;
pub mod replay;
pub mod replayed_topic;
mod recovery;
pub mod report;
pub mod verify;
#[cfg(test)]
mod checkpoint_tests;
#[cfg(test)]
mod dead_letter_tests;
#[cfg(test)]
mod idle_tests;
#[cfg(test)]
mod dedupe_tests;
#[cfg(test)]
mod lost_records_tests;
#[cfg(test)]
mod policy_test_tests;
#[cfg(test)]
pub(crate) mod simulation;
#[cfg(test)]
mod slow_disk_tests;
#[cfg(test)]
mod ttl_tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nsq_daemon::log::Logger;

use self::recovery::Recovery;
use self::replay::ReplayError;
use crate::clock;
use crate::damage::{Found, Severity};
use crate::engine::EngineLimits;
use crate::import::ImportError;
use crate::policy::file::PolicyFile;
use crate::storage::checkpoint::CheckpointError;
use crate::storage::data_dir::{DataDir, DataDirError};
use crate::storage::journal::{JournalError, JournalReport};
use crate::storage::{Durability, Storage};
use crate::topic::registry::{ChannelOracle, Registry};
use crate::upkeep::UpkeepError;

/// Options for starting the engine.
pub struct StartOptions {
    /// Access to files; the real ones except in tests.
    pub storage: Arc<dyn Storage>,
    /// The locked data directory.
    pub data_dir: DataDir,
    pub durability: Durability,
    /// Limits of topics and channels.
    pub limits: EngineLimits,
    pub logger: Logger,
    /// Knows the channels of a new topic.
    pub oracle: Option<Arc<dyn ChannelOracle>>,
    /// The policies of the policy file.
    pub policies: Arc<PolicyFile>,
}

/// Why a start failed. Nothing was changed except what recovery itself changes.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error("cannot access the data directory: {0}")]
    Access(io::Error),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("cannot read checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Topics of the checkpoint cannot be opened.
    #[error("cannot restore checkpoint: {0}")]
    Restore(ReplayError),
    #[error("cannot replay journal: {0}")]
    Replay(ReplayError),
    /// Topics cannot be restored from their segments alone.
    #[error("cannot rebuild topics: {0}")]
    Rebuild(ReplayError),
    #[error("cannot list topics: {0}")]
    Topics(io::Error),
    #[error("cannot write segment: {0}")]
    Segment(io::Error),
    /// Only without a journal: the messages of an earlier run with one stay there.
    #[error("cannot move journal to segments: {0}")]
    MoveJournal(UpkeepError),
}

/// The result of a start.
pub struct Recovered {
    pub registry: Arc<Registry>,
    pub report: RecoveryReport,
}

/// What a start read and what it found. The log has the same content.
#[derive(Debug)]
pub struct RecoveryReport {
    /// What was read from the journal.
    pub journal: JournalReport,
    /// Problems found in the data directory.
    pub found: Found,
    pub duration: Duration,
}

impl RecoveryReport {
    /// Everything that an operator should know, as in the log.
    pub fn warnings(&self) -> Vec<String> {
        let Found { findings, lost, set_aside } = &self.found;
        let findings = findings.iter().filter(|found| found.severity != Severity::Torn);
        (findings.map(ToString::to_string))
            .chain(set_aside.iter().map(ToString::to_string))
            .chain(lost.iter().map(ToString::to_string))
            .collect()
    }
}

/// Restores all topics and channels: from the checkpoint, then from the journal records after it.
pub fn recover(options: StartOptions) -> Result<Arc<Registry>, RecoveryError> {
    recover_and_report(options).map(|recovered| recovered.registry)
}

/// As [`recover`], but also returns what the start found.
pub fn recover_and_report(options: StartOptions) -> Result<Recovered, RecoveryError> {
    let started_at = clock::monotonic();
    let recovery = Recovery::prepare(options)?;
    let checkpoint = recovery.load_checkpoint()?;
    let mut replay = recovery.restore_checkpoint(&checkpoint)?;
    let read = recovery.replay_journal(&checkpoint, &mut replay)?;
    recovery.report_journal(&checkpoint, &read, &replay);
    recovery.add_unnamed_topics(&checkpoint, &read, &mut replay)?;
    let replayed = recovery.complete(replay);
    recovery.restore_missing(&read, &replayed)?;
    recovery.report_missing(&replayed);
    let found = recovery.take_found();
    let registry = recovery.open_topics(&checkpoint, &read, replayed)?;
    let duration = Duration::from_nanos(clock::monotonic().saturating_sub(started_at));
    Ok(Recovered { registry, report: RecoveryReport { journal: read.report, found, duration } })
}
