//! Cleans segments, deletes what was retained for long enough, and retries moves to disk that a full disk refused.

use std::io;

use super::UpkeepError;
use crate::clock::{self, Nanos};
use crate::health::Part;
use crate::log::Cleaned;
use crate::topic::registry::Registry;

/// Cleaning copies about this many bytes per call.
const CLEAN_BYTES: u64 = 64 << 20;
/// Cleaning takes about this long per call.
const CLEAN_TIME: Nanos = 1_000_000_000;
/// Cleans segment files of which at least half is finished. Stops early after copying much or taking long; the next
/// call continues with the next topic.
pub fn clean_segments(registry: &Registry) -> Result<Cleaned, UpkeepError> {
    let began = clock::monotonic();
    let mut topics = registry.all_unsorted();
    topics.sort_unstable_by_key(|topic| topic.number());
    let engine = registry.engine();
    // A journal that accepts no writes cannot record what is finished.
    if engine.store.journal.as_ref().is_some_and(|journal| journal.failure().is_some()) {
        return Ok(Cleaned::default());
    }
    let first = topics.partition_point(|topic| topic.number() < engine.upkeep_hints.clean_from());
    topics.rotate_left(first);
    let mut all = Cleaned::default();
    for topic in topics {
        if all.copied_bytes >= CLEAN_BYTES || clock::monotonic() - began > CLEAN_TIME {
            all.has_more = true;
            engine.upkeep_hints.set_clean_from(topic.number());
            break;
        }
        let flush = || engine.store.journal.as_ref().map_or(Ok(()), |journal| journal.flush());
        let cleaned = (topic.log()).clean(CLEAN_BYTES - all.copied_bytes, || {
            flush().map_err(|error| io::Error::other(error.to_string()))
        });
        let cleaned = cleaned.map_err(UpkeepError::Clean)?;
        all.freed_bytes += cleaned.freed_bytes;
        all.copied_bytes += cleaned.copied_bytes;
        all.has_files |= cleaned.has_files;
        all.has_more |= cleaned.has_more;
    }
    all.has_files |= all.has_more;
    Ok(all)
}

/// Drops retained messages that exceed their topic's limits.
pub fn retain(registry: &Registry) -> Result<(), UpkeepError> {
    for topic in registry.all_unsorted().iter().filter(|topic| topic.log().is_retaining()) {
        topic.retain().map_err(UpkeepError::Retain)?;
    }
    Ok(())
}

/// Tries again to move messages from memory to disk, after the disk accepted no writes.
pub fn retry_spills(registry: &Registry) {
    let engine = registry.engine();
    // Try all topics, even if one of them fails again.
    if engine.health().is_err()
        && registry.all_unsorted().iter().filter(|topic| topic.retry_spill()).count() == 0
    {
        engine.set_works(Part::Spilling);
    }
}
