//! Why upkeep and stops fail.

use std::io;
use std::path::PathBuf;

use crate::storage::checkpoint::CheckpointError;
use crate::storage::data_dir::DataDirError;
use crate::storage::journal::JournalError;

/// Why a job of upkeep failed. Nothing is lost: nsqd reports it and retries.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A segment cannot be written, or a directory cannot be removed.
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("cannot clean segments: {0}")]
    Clean(io::Error),
    #[error("cannot delete old messages: {0}")]
    Retain(io::Error),
}

/// What a stop could not store as it should be.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// Everything is stored, but not where the next start looks.
    #[error(
        "data directory {} was moved to {}; everything is stored there; move it back, or start nsqd with --data-path={}",
        path.display(), moved.display(), moved.display()
    )]
    Moved { path: PathBuf, moved: PathBuf },
    /// The data directory is missing, and its moved place cannot be used.
    #[error("cannot use the data directory in its new place: {0}")]
    Follow(io::Error),
    #[error(
        "data directory {} was removed or replaced, and nothing can be stored there: {cause}; what nsqd had in memory is lost",
        path.display()
    )]
    NoPlace { path: PathBuf, cause: NewDirectoryError },
    #[error("{0}; what nsqd had in memory is lost")]
    Lost(UpkeepError),
    #[error("{journal}; segments failed, too: {segments}; what nsqd had in memory is lost")]
    AllLost { journal: UpkeepError, segments: UpkeepError },
    /// `lost` names topics and numbers of messages.
    #[error("segment files were removed, and messages are lost with them: {lost}")]
    SegmentsRemoved { lost: String },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a new data directory cannot replace a missing one.
#[derive(Debug, thiserror::Error)]
pub enum NewDirectoryError {
    #[error(transparent)]
    Create(#[from] io::Error),
    #[error(transparent)]
    Prepare(#[from] DataDirError),
    #[error(transparent)]
    Journal(#[from] JournalError),
}
