//! Looks for damage in a data directory: runs a start on it, then reads all messages. It therefore finds everything
//! that a start would report. A start itself reads messages only when they are needed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nsq_daemon::log::Logger;

use super::{Recovered, RecoveryError, StartOptions, recover_and_report};
use crate::damage::Finding;
use crate::engine::EngineLimits;
use crate::storage::data_dir::{DataDir, DataDirError, FORMAT_FILE};
use crate::storage::segment::{BlockRef, ReadError, SegmentStore};
use crate::storage::{Durability, Storage, TopicNumber};

/// The result of a verification.
#[derive(Debug, Default)]
pub struct Verified {
    /// Problems found in the data directory.
    pub findings: Vec<Finding>,
    /// Number of records in the journal.
    pub record_count: u64,
    /// Number of blocks in segments.
    pub block_count: u64,
    /// Number of messages in these blocks.
    pub message_count: u64,
}

/// Why the directory could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The directory cannot be used.
    #[error("{0}")]
    DataDir(#[from] DataDirError),
    /// A start would fail for a reason other than damage.
    #[error("a start would fail: {0}")]
    Recovery(#[from] RecoveryError),
}

/// Verifies the data directory at `path`. Each call of `view` returns a new storage that shows the directory and keeps
/// changes to itself. `seen` receives progress: the topic's name, and the number of messages so far.
pub fn verify(
    path: &Path,
    view: &dyn Fn() -> Arc<dyn Storage>,
    limits: EngineLimits,
    seen: &mut dyn FnMut(&str, u64),
) -> Result<Verified, VerifyError> {
    let mut verified = Verified::default();
    let storage = view();
    let data_dir = match DataDir::open(&storage, path) {
        // A start refuses such a directory, but the rest should be verified all the same.
        Err(error @ DataDirError::BadFormatFile { .. }) => {
            let format = path.join(FORMAT_FILE);
            let bytes = storage.open(&format).and_then(|file| file.len()).unwrap_or(0);
            verified.findings.push(Finding::damage(error.to_string()).at(&format, 0, bytes));
            storage.remove(&format).map_err(|error| DataDirError::Io { path: format, error })?;
            DataDir::open(&storage, path)?
        }
        opened => opened?,
    };
    let topics_dir = data_dir.topics_dir();
    // Without a journal, a start restores topics that no checkpoint names from their segments.
    let has_journal = data_dir.has_journal(&*storage).unwrap_or(false);
    let options = StartOptions {
        storage,
        data_dir,
        durability: if has_journal { Durability::Write } else { Durability::Overflow },
        limits,
        logger: Logger::silent(),
        oracle: None,
        policies: Arc::default(),
    };
    let Recovered { registry, report } = recover_and_report(options)?;
    verified.findings.extend(report.found.findings);
    verified.record_count = report.journal.records;
    let known: BTreeSet<(PathBuf, u64)> = (verified.findings.iter())
        .filter_map(|finding| Some((finding.path.clone()?, finding.offset)))
        .collect();
    let topics: Vec<(TopicNumber, String)> =
        registry.all().iter().map(|topic| (topic.number(), topic.name().to_string())).collect();
    drop(registry);
    // A new view, because the start may have moved messages.
    let storage = view();
    for (number, name) in topics {
        let dir = topics_dir.join(number.to_string());
        let (_store, blocks, _) = SegmentStore::open(storage.clone(), &dir, limits.max_bytes_per_file)
            .map_err(|error| DataDirError::Io { path: dir, error })?;
        for block in &blocks {
            verified.block_count += 1;
            verified.message_count += u64::from(block.count);
            seen(&name, verified.message_count);
            let found = unreadable(block).filter(|found| {
                found.path.as_ref().is_none_or(|path| !known.contains(&(path.clone(), found.offset)))
            });
            verified.findings.extend(found.map(|found| found.of(&name)));
        }
    }
    Ok(verified)
}

/// Reports a block whose messages cannot be read.
fn unreadable(block: &BlockRef) -> Option<Finding> {
    let (path, what) = match block.read() {
        Ok(_) => return None,
        Err(ReadError::Damaged { path, .. }) => (path, "the messages of a block are damaged".to_owned()),
        Err(ReadError::Io { path, error }) => (path, format!("cannot read a block: {error}")),
    };
    let found = Finding::damage(what).at(path, block.offset(), u64::from(block.bytes));
    Some(found.with_messages(block.sequences()))
}
