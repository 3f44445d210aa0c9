//! Stores everything at a stop, even if the data directory was moved or removed, or does not accept what is in memory.
//!
//! Data goes to the place where the directory is now, or to a new directory in the old place. It goes to segments if
//! the journal accepts no writes. What cannot be stored is an error.

use super::persist;
use crate::engine::Engine;
use crate::topic::registry::Registry;

/// Stores everything at a stop, after all activity has ended. The error says what is not stored as it should be.
pub fn at_end(registry: &Registry) -> Result<(), String> {
    let engine = registry.engine();
    let Err(home_error) = engine.home.check() else { return store(registry) };
    crate::log_error!(engine, "{home_error}");
    let path = engine.data_dir.path().display();
    if let Some(moved) = engine.data_dir.whereabouts() {
        engine.home.follow(&moved).map_err(|error| error.to_string())?;
        store(registry)?;
        let moved = moved.display();
        return Err(format!(
            "data directory {path} was moved to {moved}; everything is stored there; \
             move it back, or start nsqd with --data-path={moved}"
        ));
    }
    use_new_data_dir(engine).map_err(|error| {
        format!(
            "data directory {path} was removed or replaced, and nothing can be stored there: {error}; \
             what nsqd had in memory is lost"
        )
    })?;
    store_in_segments(registry)?;
    crate::log_info!(engine, "the content of memory is stored in a new data directory {path}");
    Ok(())
}

fn use_new_data_dir(engine: &Engine) -> Result<(), String> {
    engine.home.settle_anew().map_err(|error| error.to_string())?;
    engine.data_dir.prepare(&*engine.storage).map_err(|error| error.to_string())?;
    // Data stored below must not look older than a missing journal file.
    engine.journal.as_ref().map_or(Ok(()), |journal| journal.check()).map_err(|error| error.to_string())
}

/// Stores in the journal if it is complete and works, otherwise in segments.
fn store(registry: &Registry) -> Result<(), String> {
    let engine = registry.engine();
    let Some(journal) = &engine.journal else { return store_in_segments(registry) };
    let is_whole = match journal.check() {
        Ok(()) if journal.lost_files().is_empty() => Ok(()),
        Ok(()) => persist::retire_journal_files(registry).map(drop),
        Err(error) => Err(error.to_string()),
    };
    let unreadable = replace_gone_files(registry)?;
    if let Err(cause) = is_whole.and_then(|()| persist::at_end(registry)) {
        crate::log_error!(engine, "{cause}; storing the content of memory in segments instead");
        persist::persist_all(registry, true).map_err(|error| {
            format!("{cause}; segments failed, too: {error}; what nsqd had in memory is lost")
        })?;
    }
    unreadable
}

fn store_in_segments(registry: &Registry) -> Result<(), String> {
    let unreadable = replace_gone_files(registry)?;
    persist::persist_all(registry, true)
        .map_err(|error| format!("{error}; what nsqd had in memory is lost"))?;
    unreadable
}

/// The inner error says how many messages are lost with missing files.
fn replace_gone_files(registry: &Registry) -> Result<Result<(), String>, String> {
    let mut lost = Vec::new();
    for topic in registry.all() {
        let gone = topic.log().replace_gone_files().map_err(|error| error.to_string())?;
        if gone.unreadable > 0 {
            lost.push(format!("{} of topic {}", gone.unreadable, topic.name()));
        }
    }
    Ok(if lost.is_empty() {
        Ok(())
    } else {
        Err(format!("segment files were removed, and messages are lost with them: {}", lost.join(", ")))
    })
}
