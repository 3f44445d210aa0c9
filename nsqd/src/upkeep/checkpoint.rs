//! Writes checkpoints.

use std::collections::HashMap;

use super::UpkeepError;
use crate::channel::saved::Clocks;
use crate::clock;
use crate::engine::numbers::NextNumbers;
use crate::storage::TopicNumber;
use crate::storage::checkpoint::{self, Checkpoint, TopicCheckpoint};
use crate::topic::registry::Registry;

/// Number of outstanding messages saved under one lock: about 100 microseconds.
const CHECKPOINT_SLICE: usize = 1000;

/// Writes a checkpoint of all topics and channels. If that fails, as on a full disk, it deletes spare journal files and
/// retries.
pub fn write_checkpoint(registry: &Registry, clean_shutdown: bool) -> Result<(), UpkeepError> {
    write_checkpoint_while(registry, clean_shutdown, CHECKPOINT_SLICE, &mut || {})
}

/// As [`write_checkpoint`], with about `slice` outstanding messages per lock. Calls `between` between the slices.
pub fn write_checkpoint_while(
    registry: &Registry,
    clean_shutdown: bool,
    slice: usize,
    between: &mut dyn FnMut(),
) -> Result<(), UpkeepError> {
    let written = try_write_checkpoint(registry, clean_shutdown, slice, between);
    match &registry.engine().store.journal {
        Some(journal) if written.is_err() && journal.remove_spares() => {
            try_write_checkpoint(registry, clean_shutdown, slice, between)
        }
        _ => written,
    }
}

fn try_write_checkpoint(
    registry: &Registry,
    clean_shutdown: bool,
    slice: usize,
    between: &mut dyn FnMut(),
) -> Result<(), UpkeepError> {
    let engine = registry.engine();
    let published_before: HashMap<TopicNumber, u64> =
        registry.all_unsorted().iter().map(|topic| (topic.number(), topic.log().end())).collect();
    // Read before anything else: what happens from here on is replayed, whether or not the checkpoint contains it.
    let journal_from = engine.store.journal_from();
    let NextNumbers { topic: next_topic_number, channel: next_channel_number } = engine.numbers.upcoming();
    let clocks = Clocks { monotonic: clock::monotonic(), wall_ns: clock::wall_ns() };
    let topics = registry.all();
    let ephemeral = topics.iter().filter(|topic| topic.name().is_ephemeral());
    let sequences_used =
        ephemeral.map(|topic| topic.log().end()).fold(engine.numbers.sequences_used(), u64::max);
    let mut saved = Vec::with_capacity(topics.len());
    for topic in topics.iter().filter(|topic| !topic.name().is_ephemeral()) {
        // A topic created just now has published nothing before.
        let published_before = published_before.get(&topic.number()).copied().or(Some(0));
        saved.push(TopicCheckpoint { published_before, ..topic.save_while(clocks, slice, between) });
        between();
    }
    let saved = Checkpoint {
        journal_from,
        next_topic_number,
        next_channel_number,
        topics: saved,
        clean_shutdown,
        sequences_used,
    };
    // The journal must contain everything that the checkpoint contains, in case the previous checkpoint is used. An
    // error is ignored: if the journal cannot be written, this checkpoint may be what frees space.
    if let Some(journal) = &engine.store.journal {
        let _ = journal.flush();
    }
    checkpoint::write(&*engine.store.storage, &engine.store.data_dir.checkpoint_path(), &saved)?;
    engine.store.checkpoint_written(journal_from);
    Ok(())
}

/// Writes a checkpoint, and a second one if the previous one needs this journal file or an older one. That is so after
/// a start, or when much was written since.
pub(super) fn write_checkpoints_beyond(registry: &Registry, file_number: u64) -> Result<(), UpkeepError> {
    write_checkpoint(registry, false)?;
    if registry.engine().store.first_needed_journal_file() <= file_number {
        write_checkpoint(registry, false)?;
    }
    Ok(())
}
