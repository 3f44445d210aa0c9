//! Stores everything at a stop, even if the data directory was moved or removed, or does not accept what is in memory.
//!
//! Data goes to the place where the directory is now, or to a new directory in the old place. It goes to segments if
//! the journal accepts no writes. What cannot be stored is an error.

use std::io;
use std::sync::Arc;

use super::checkpoint::write_checkpoint;
use super::journal_files::retire_journal_files;
use super::{NewDirectoryError, StopError, UpkeepError};
use crate::engine::Engine;
use crate::storage::journal::Journal;
use crate::topic::registry::Registry;

/// Stores everything at a stop, after all activity has ended. The error says what is not stored as it should be.
pub fn at_end(registry: &Registry) -> Result<(), StopError> {
    let engine = registry.engine();
    let Err(home_error) = engine.store.home.check() else { return store(registry) };
    crate::log_error!(engine, "{home_error}");
    let path = engine.store.data_dir.path();
    if let Some(moved) = engine.store.data_dir.whereabouts() {
        engine.store.home.follow(&moved).map_err(StopError::Follow)?;
        store(registry)?;
        return Err(StopError::Moved { path: path.to_owned(), moved });
    }
    use_new_data_dir(engine).map_err(|cause| StopError::NoPlace { path: path.to_owned(), cause })?;
    store_in_segments(registry)?;
    crate::log_info!(engine, "the content of memory is stored in a new data directory {}", path.display());
    Ok(())
}

fn use_new_data_dir(engine: &Engine) -> Result<(), NewDirectoryError> {
    engine.store.home.replace_missing_dir()?;
    engine.store.data_dir.prepare(&*engine.store.storage)?;
    // Data stored below must not look older than a missing journal file.
    if let Some(journal) = &engine.store.journal {
        journal.check()?;
    }
    Ok(())
}

/// Stores in the journal if it is complete and works, otherwise in segments.
fn store(registry: &Registry) -> Result<(), StopError> {
    let engine = registry.engine();
    let Some(journal) = &engine.store.journal else { return store_in_segments(registry) };
    let is_whole = match journal.check() {
        Ok(()) if journal.lost_files().is_empty() => Ok(()),
        Ok(()) => retire_journal_files(registry).map(drop),
        Err(error) => Err(error.into()),
    };
    let unreadable = replace_gone_files(registry)?;
    if let Err(cause) = is_whole.and_then(|()| store_cleanly(registry)) {
        crate::log_error!(engine, "{cause}; storing the content of memory in segments instead");
        persist_all(registry, true).map_err(|segments| StopError::AllLost { journal: cause, segments })?;
    }
    unreadable
}

fn store_in_segments(registry: &Registry) -> Result<(), StopError> {
    let unreadable = replace_gone_files(registry)?;
    persist_all(registry, true).map_err(StopError::Lost)?;
    unreadable
}

/// The inner error says how many messages are lost with missing files.
fn replace_gone_files(registry: &Registry) -> io::Result<Result<(), StopError>> {
    let mut lost = Vec::new();
    for topic in registry.all() {
        let gone = topic.log().replace_gone_files()?;
        if gone.unreadable > 0 {
            lost.push(format!("{} of topic {}", gone.unreadable, topic.name()));
        }
    }
    Ok(if lost.is_empty() { Ok(()) } else { Err(StopError::SegmentsRemoved { lost: lost.join(", ") }) })
}

/// Writes all needed messages to segments, and a checkpoint. This is a clean stop without a journal.
pub fn persist_all(registry: &Registry, clean_shutdown: bool) -> Result<(), UpkeepError> {
    for topic in registry.all().iter().filter(|topic| !topic.name().is_ephemeral()) {
        topic.log().persist_up_to(u64::MAX, true)?;
    }
    write_checkpoint(registry, clean_shutdown)
}

/// A clean stop, after all activity has ended.
pub fn store_cleanly(registry: &Registry) -> Result<(), UpkeepError> {
    let Some(journal) = &registry.engine().store.journal else { return persist_all(registry, true) };
    let flushed = journal.flush();
    // Also when the journal accepts no writes: the checkpoint records which messages were refused and which are
    // finished.
    let written = write_checkpoint(registry, flushed.is_ok());
    flushed?;
    written?;
    Ok(journal.close()?)
}

/// Starts operation without a journal: moves messages that only the journal holds to segments, then deletes the
/// journal.
pub fn move_journal_to_segments(registry: &Registry, journal: &Arc<Journal>) -> Result<(), UpkeepError> {
    if !journal.files().is_empty() {
        persist_all(registry, false)?;
    }
    journal.close()?;
    let engine: &Engine = registry.engine();
    Ok(engine.store.storage.remove_dir_all(&engine.store.data_dir.journal_dir())?)
}
