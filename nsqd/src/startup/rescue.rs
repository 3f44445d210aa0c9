//! A stop, also when the data directory is not where it was, or does not take what is in memory.
//!
//! Whatever can be stored is stored: in the directory where it is now, or in a new one in its place; in segments if the
//! journal takes nothing. What cannot be stored is an error.

use super::persist;
use crate::engine::Engine;
use crate::topic::registry::Registry;

/// What a stop leaves, after which nothing happens any more. The error says what is not there as it should be.
pub fn at_end(registry: &Registry) -> Result<(), String> {
    let engine = registry.engine();
    let Err(adrift) = engine.home.check() else { return store(registry) };
    crate::log_error!(engine, "{adrift}");
    let path = engine.data_dir.path().display();
    if let Some(moved) = engine.data_dir.whereabouts() {
        engine.home.follow(&moved).map_err(|error| error.to_string())?;
        store(registry)?;
        let moved = moved.display();
        return Err(format!(
            "data directory {path} was moved to {moved}, and everything is stored there; \
             move it back, or start nsqd with --data-path={moved}"
        ));
    }
    settle_anew(engine).map_err(|error| {
        format!("data directory {path} is gone, and nothing can be stored there: {error}; what nsqd had in memory is lost")
    })?;
    store_in_segments(registry)?;
    crate::log_info!(engine, "what was in memory is stored in a new data directory {path}");
    Ok(())
}

fn settle_anew(engine: &Engine) -> Result<(), String> {
    engine.home.settle_anew().map_err(|error| error.to_string())?;
    engine.data_dir.prepare(&*engine.storage).map_err(|error| error.to_string())?;
    // What is stored below must not be taken for older than a file of the journal that is not there.
    engine.journal.as_ref().map_or(Ok(()), |journal| journal.check()).map_err(|error| error.to_string())
}

/// In the journal, if there is one and it is whole; else in segments.
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
        crate::log_error!(engine, "{cause}; storing what is in memory in segments instead");
        persist::persist_all(registry, true)
            .map_err(|error| format!("{cause}; nor in segments: {error}; what nsqd had in memory is lost"))?;
    }
    unreadable
}

fn store_in_segments(registry: &Registry) -> Result<(), String> {
    let unreadable = replace_gone_files(registry)?;
    persist::persist_all(registry, true)
        .map_err(|error| format!("{error}; what nsqd had in memory is lost"))?;
    unreadable
}

/// The inner error says how many messages are lost with files that are gone.
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
        Err(format!("messages are lost with segment files that were removed: {}", lost.join(", ")))
    })
}
