//! Checkpoints, and letting go of old journal files.
//!
//! The journal's oldest file can go when nothing unfinished is only in it. What is, moves to its topic's segments;
//! then a checkpoint is written that no longer needs the file's other records; then the file is recycled, unless the
//! checkpoint before needs it. The order matters: a crash after any step leaves all that the steps before it left.
//!
//! Should both checkpoints be lost, the journal still tells which topics and channels there are, and from where on
//! each needs messages: it is told anew before the file goes that said so last.

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

/// Cleaning copies about so many bytes in one go ...
const CLEAN_BYTES: u64 = 64 << 20;
/// ... and takes about so long.
const CLEAN_TIME: Nanos = 1_000_000_000;
/// So many outstanding messages are saved under one lock: about 100 microseconds.
const CHECKPOINT_SLICE: usize = 1000;

/// Writes a checkpoint of all topics and channels. On a full disk, what the journal keeps for reuse makes room for it.
pub fn write_checkpoint(registry: &Registry, clean_shutdown: bool) -> Result<(), String> {
    write_checkpoint_while(registry, clean_shutdown, CHECKPOINT_SLICE, &mut || {})
}

/// As [`write_checkpoint`], about `slice` outstanding messages at a time; what goes on meanwhile is done by `between`.
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
    // Before anything else is looked at: what happens from here on is replayed, whether or not it was seen.
    let journal_from = engine.journal_from();
    let (next_topic_number, next_channel_number) = engine.next_numbers();
    let clocks = Clocks { monotonic: clock::monotonic(), wall_ns: clock::wall_ns() };
    let topics = registry.all();
    let ephemeral = topics.iter().filter(|topic| topic.name().is_ephemeral());
    let sequences_used = ephemeral.map(|topic| topic.log().end()).fold(engine.sequences_used_to(), u64::max);
    let mut saved = Vec::with_capacity(topics.len());
    for topic in topics.iter().filter(|topic| !topic.name().is_ephemeral()) {
        // One that was created just now has published nothing before.
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
    // All that it says shall be in the journal as well, should one have to go on from the checkpoint before. If the
    // journal cannot be written to just now, this one may be what makes room.
    if let Some(journal) = &engine.journal {
        let _ = journal.flush();
    }
    checkpoint::write(&*engine.storage, &engine.data_dir.checkpoint_path(), &saved)
        .map_err(|error| error.to_string())?;
    engine.checkpoint_written(journal_from);
    Ok(())
}

/// Whether [`retire_journal_files`] would find some.
pub fn has_journal_files_to_retire(registry: &Registry) -> bool {
    registry.engine().journal.as_ref().is_some_and(|journal| journal.excess() > 0)
}

/// Lets go of the oldest journal files while there are more than a few; if the disk takes no more, also of those in which
/// nobody needs anything. Returns how many went.
pub fn retire_journal_files(registry: &Registry) -> Result<usize, String> {
    let Some(journal) = &registry.engine().journal else { return Ok(0) };
    match journal.excess() {
        0 if journal.failure().is_some() => Ok(retire_finished_files(registry, journal)),
        0 => Ok(0),
        // On a full disk it may fail to move messages, while there are files that nobody needs.
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

/// As [`retire_journal_files`], but of the oldest file at least, if it is not the only one: a few messages that somebody needs
/// may keep a file that would make room for many.
pub fn squeeze_journal(registry: &Registry) -> Result<usize, String> {
    let Some(journal) = &registry.engine().journal else { return Ok(0) };
    if journal.size().0 < 2 { Ok(0) } else { retire_oldest_files(registry, journal, 1) }
}

/// Little is written: the journal goes on in a small file, and all older ones are let go.
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

/// Lets go of the `excess` oldest files. Returns how many went: some may be needed by a checkpoint.
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
    // What was named above must be there before the file goes that said so before.
    journal.flush().map_err(|error| error.to_string())?;
    for &number in &going {
        journal.retire_oldest(number).map_err(|error| error.to_string())?;
    }
    Ok(going.len())
}

/// Writes a checkpoint, and another if the one before it needs this journal file or an older one: as after a start, or when
/// much was written since.
fn write_checkpoints_beyond(registry: &Registry, file_number: u64) -> Result<(), String> {
    write_checkpoint(registry, false)?;
    if registry.engine().first_needed_journal_file() <= file_number {
        write_checkpoint(registry, false)?;
    }
    Ok(())
}

/// Makes room on a full disk without writing messages. That it fails is no news: the journal says why already.
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

/// After the disk took no more: tries again to free the memory of topics.
pub fn retry_spills(registry: &Registry) {
    let engine = registry.engine();
    // All of them, also behind one that fails again.
    if engine.health().is_err()
        && registry.all_unsorted().iter().filter(|topic| topic.retry_spill()).count() == 0
    {
        engine.set_works(Part::Spilling);
    }
}

/// Lets go of segment files of which half or more is finished. Ends early when it has copied much, or taken long; then it
/// goes on behind the last topic at the next call.
pub fn clean_segments(registry: &Registry) -> Result<Cleaned, String> {
    let began = clock::monotonic();
    let mut topics = registry.all_unsorted();
    topics.sort_unstable_by_key(|topic| topic.number());
    let engine = registry.engine();
    // A journal that takes nothing more cannot say what is finished.
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

/// Lets go of finished messages that topics have kept for long enough.
pub fn retain(registry: &Registry) -> Result<(), String> {
    for topic in registry.all_unsorted().iter().filter(|topic| topic.log().is_retaining()) {
        topic.retain().map_err(|error| format!("cannot let go of old messages: {error}"))?;
    }
    Ok(())
}

/// Writes everything that is needed to segments, and a checkpoint: what a clean stop without a journal leaves.
pub fn persist_all(registry: &Registry, clean_shutdown: bool) -> Result<(), String> {
    for topic in registry.all().iter().filter(|topic| !topic.name().is_ephemeral()) {
        topic.log().persist_up_to(u64::MAX, true).map_err(|error| error.to_string())?;
    }
    write_checkpoint(registry, clean_shutdown)
}

/// What a clean stop leaves, after which nothing happens any more.
pub fn at_end(registry: &Registry) -> Result<(), String> {
    let Some(journal) = &registry.engine().journal else { return persist_all(registry, true) };
    let flushed = journal.flush().map_err(|error| error.to_string());
    // Also if the journal takes no more: the checkpoint says which messages were refused and what is finished.
    let written = write_checkpoint(registry, flushed.is_ok());
    flushed.and(written)?;
    journal.close().map_err(|error| error.to_string())
}

/// The daemon goes on without a journal: what only the journal holds moves to segments, and its files go.
pub fn move_journal_to_segments(registry: &Registry, journal: &Arc<Journal>) -> Result<(), String> {
    if !journal.files().is_empty() {
        persist_all(registry, false)?;
    }
    journal.close().map_err(|error| error.to_string())?;
    let engine: &Engine = registry.engine();
    engine.storage.remove_dir_all(&engine.data_dir.journal_dir()).map_err(|error| error.to_string())
}
