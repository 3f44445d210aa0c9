//! Writes checkpoints and retires old journal files.
//!
//! The oldest journal file can be retired when it is not the only place of any unfinished message. First, such messages
//! are copied to segments. Then a checkpoint is written that does not need the other records of the file. Then the file
//! is recycled, unless the previous checkpoint needs it. The order matters: after a crash at any step, nothing is lost.
//!
//! If both checkpoints are lost, the journal still names all topics and channels, and says from where on each needs
//! messages. Before the last file that holds these names is retired, they are written to the journal again.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use crate::channel::saved::Clocks;
use crate::clock::{self, Nanos};
use crate::engine::Engine;
use crate::health::Part;
use crate::log::Cleaned;
use crate::storage::checkpoint::{self, Checkpoint, TopicCheckpoint};
use crate::storage::journal::Journal;
use crate::storage::{Durability, TopicNumber};
use crate::topic::registry::Registry;

/// Cleaning copies about this many bytes per call.
const CLEAN_BYTES: u64 = 64 << 20;
/// Cleaning takes about this long per call.
const CLEAN_TIME: Nanos = 1_000_000_000;
/// Number of outstanding messages saved under one lock: about 100 microseconds.
const CHECKPOINT_SLICE: usize = 1000;

/// Writes a checkpoint of all topics and channels. If that fails, as on a full disk, it deletes spare journal files and
/// retries.
pub fn write_checkpoint(registry: &Registry, clean_shutdown: bool) -> Result<(), String> {
    write_checkpoint_while(registry, clean_shutdown, CHECKPOINT_SLICE, &mut || {})
}

/// As [`write_checkpoint`], with about `slice` outstanding messages per lock. Calls `between` between the slices.
pub fn write_checkpoint_while(
    registry: &Registry,
    clean_shutdown: bool,
    slice: usize,
    between: &mut dyn FnMut(),
) -> Result<(), String> {
    let written = try_write_checkpoint(registry, clean_shutdown, slice, between);
    match &registry.engine().journal {
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
) -> Result<(), String> {
    let engine = registry.engine();
    let published_before: HashMap<TopicNumber, u64> =
        registry.all_unsorted().iter().map(|topic| (topic.number(), topic.log().end())).collect();
    // Read before anything else: what happens from here on is replayed, whether or not the checkpoint contains it.
    let journal_from = engine.journal_from();
    let (next_topic_number, next_channel_number) = engine.next_numbers();
    let clocks = Clocks { monotonic: clock::monotonic(), wall_ns: clock::wall_ns() };
    let topics = registry.all();
    let ephemeral = topics.iter().filter(|topic| topic.name().is_ephemeral());
    let sequences_used = ephemeral.map(|topic| topic.log().end()).fold(engine.sequences_used_to(), u64::max);
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
    if let Some(journal) = &engine.journal {
        let _ = journal.flush();
    }
    checkpoint::write(&*engine.storage, &engine.data_dir.checkpoint_path(), &saved)
        .map_err(|error| error.to_string())?;
    engine.checkpoint_written(journal_from);
    Ok(())
}

/// Whether [`retire_journal_files`] would retire files.
pub fn has_journal_files_to_retire(registry: &Registry) -> bool {
    registry.engine().journal.as_ref().is_some_and(|journal| journal.excess() > 0)
}

/// Retires the oldest journal files while there are too many. If the disk accepts no writes, also retires files without
/// needed records. Returns the number of retired files.
pub fn retire_journal_files(registry: &Registry) -> Result<usize, String> {
    let Some(journal) = &registry.engine().journal else { return Ok(0) };
    match journal.excess() {
        0 if journal.failure().is_some() => Ok(retire_finished_files(registry, journal)),
        0 => Ok(0),
        // On a full disk, messages may be impossible to move, while other files are not needed at all.
        excess => {
            retire_oldest_files(registry, journal, excess).or_else(|error| {
                match retire_finished_files(registry, journal) {
                    0 => Err(error),
                    count => Ok(count),
                }
            })
        }
    }
}

/// As [`retire_journal_files`], but retires at least the oldest file, if it is not the only one. A few needed messages
/// may keep a file whose space would hold many.
pub fn squeeze_journal(registry: &Registry) -> Result<usize, String> {
    let Some(journal) = &registry.engine().journal else { return Ok(0) };
    if journal.size().0 < 2 { Ok(0) } else { retire_oldest_files(registry, journal, 1) }
}

/// For quiet times: continues the journal in a small file and retires all older files.
pub fn shrink_journal(registry: &Registry) -> Result<(), String> {
    let Some(journal) = &registry.engine().journal else { return Ok(()) };
    journal.shrink().map_err(|error| error.to_string())?;
    match journal.size().0 {
        0 | 1 => Ok(()),
        files => retire_oldest_files(registry, journal, files - 1).map(|_| {
            journal.remove_spares();
        }),
    }
}

/// Retires the `excess` oldest files. Returns the number of retired files: a checkpoint may need some of them.
fn retire_oldest_files(registry: &Registry, journal: &Journal, excess: usize) -> Result<usize, String> {
    let files = journal.files();
    let excess = excess.min(files.len().saturating_sub(1));
    if excess == 0 {
        return Ok(0);
    }
    for file in &files[..excess] {
        move_to_segments(registry, &file.topics)?;
    }
    let engine = registry.engine();
    engine.set_has_segments(true);
    write_checkpoints_beyond(registry, files[excess - 1].number)?;
    let needed_from = engine.first_needed_journal_file();
    let going: Vec<u64> =
        files[..excess].iter().map(|file| file.number).filter(|&number| number < needed_from).collect();
    let Some(&last) = going.last() else { return Ok(0) };
    if engine.take_unnamed(last) {
        registry.all_unsorted().iter().for_each(|topic| topic.record_names());
    }
    // The names written above must be on disk before the file that held them is retired.
    journal.flush().map_err(|error| error.to_string())?;
    for &number in &going {
        journal.retire_oldest(number).map_err(|error| error.to_string())?;
    }
    Ok(going.len())
}

/// Writes a checkpoint, and a second one if the previous one needs this journal file or an older one. That is so after
/// a start, or when much was written since.
fn write_checkpoints_beyond(registry: &Registry, file_number: u64) -> Result<(), String> {
    write_checkpoint(registry, false)?;
    if registry.engine().first_needed_journal_file() <= file_number {
        write_checkpoint(registry, false)?;
    }
    Ok(())
}

/// Frees space on a full disk without writing messages. Failures are not reported, because the journal already reports
/// the reason.
fn retire_finished_files(registry: &Registry, journal: &Journal) -> usize {
    let files = journal.files();
    let topics = registry.all();
    let is_needed = |&(number, last): &(u32, u64)| {
        topics.iter().any(|topic| topic.number() == number && topic.log().is_needed_up_to(last))
    };
    let older = files.iter().take(files.len().saturating_sub(1));
    let finished: Vec<u64> =
        older.take_while(|file| !file.topics.iter().any(is_needed)).map(|file| file.number).collect();
    let Some(&last) = finished.last() else { return 0 };
    if write_checkpoints_beyond(registry, last).is_err() {
        return 0;
    }
    let needed_from = registry.engine().first_needed_journal_file();
    let going = finished.into_iter().take_while(|&number| number < needed_from);
    going.take_while(|&number| journal.retire_oldest(number).is_ok()).count()
}

fn move_to_segments(registry: &Registry, published: &[(u32, u64)]) -> Result<(), String> {
    let sync = registry.engine().durability == Durability::Sync;
    for topic in registry.all_unsorted() {
        if let Ok(index) = published.binary_search_by_key(&topic.number(), |&(number, _)| number) {
            topic.log().persist_up_to(published[index].1, sync).map_err(|error| error.to_string())?;
        }
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

/// Cleans segment files of which at least half is finished. Stops early after copying much or taking long; the next
/// call continues with the next topic.
pub fn clean_segments(registry: &Registry) -> Result<Cleaned, String> {
    let began = clock::monotonic();
    let mut topics = registry.all_unsorted();
    topics.sort_unstable_by_key(|topic| topic.number());
    let engine = registry.engine();
    // A journal that accepts no writes cannot record what is finished.
    if engine.journal.as_ref().is_some_and(|journal| journal.failure().is_some()) {
        return Ok(Cleaned::default());
    }
    let first = topics.partition_point(|topic| topic.number() < engine.clean_from());
    topics.rotate_left(first);
    let mut all = Cleaned::default();
    for topic in topics {
        if all.copied_bytes >= CLEAN_BYTES || clock::monotonic() - began > CLEAN_TIME {
            all.has_more = true;
            engine.set_clean_from(topic.number());
            break;
        }
        let flush = || engine.journal.as_ref().map_or(Ok(()), |journal| journal.flush());
        let cleaned = (topic.log()).clean(CLEAN_BYTES - all.copied_bytes, || {
            flush().map_err(|error| io::Error::other(error.to_string()))
        });
        let cleaned = cleaned.map_err(|error| format!("cannot clean segments: {error}"))?;
        all.freed_bytes += cleaned.freed_bytes;
        all.copied_bytes += cleaned.copied_bytes;
        all.has_files |= cleaned.has_files;
        all.has_more |= cleaned.has_more;
    }
    all.has_files |= all.has_more;
    Ok(all)
}

/// Drops retained messages that exceed their topic's limits.
pub fn retain(registry: &Registry) -> Result<(), String> {
    for topic in registry.all_unsorted().iter().filter(|topic| topic.log().is_retaining()) {
        topic.retain().map_err(|error| format!("cannot delete old messages: {error}"))?;
    }
    Ok(())
}

/// Writes all needed messages to segments, and a checkpoint. This is a clean stop without a journal.
pub fn persist_all(registry: &Registry, clean_shutdown: bool) -> Result<(), String> {
    for topic in registry.all().iter().filter(|topic| !topic.name().is_ephemeral()) {
        topic.log().persist_up_to(u64::MAX, true).map_err(|error| error.to_string())?;
    }
    write_checkpoint(registry, clean_shutdown)
}

/// A clean stop, after all activity has ended.
pub fn at_end(registry: &Registry) -> Result<(), String> {
    let Some(journal) = &registry.engine().journal else { return persist_all(registry, true) };
    let flushed = journal.flush().map_err(|error| error.to_string());
    // Also when the journal accepts no writes: the checkpoint records which messages were refused and which are
    // finished.
    let written = write_checkpoint(registry, flushed.is_ok());
    flushed.and(written)?;
    journal.close().map_err(|error| error.to_string())
}

/// Starts operation without a journal: moves messages that only the journal holds to segments, then deletes the
/// journal.
pub fn move_journal_to_segments(registry: &Registry, journal: &Arc<Journal>) -> Result<(), String> {
    if !journal.files().is_empty() {
        persist_all(registry, false)?;
    }
    journal.close().map_err(|error| error.to_string())?;
    let engine: &Engine = registry.engine();
    engine.storage.remove_dir_all(&engine.data_dir.journal_dir()).map_err(|error| error.to_string())
}
