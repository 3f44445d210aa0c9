//! Retires old journal files.
//!
//! The oldest journal file can be retired when it is not the only place of any unfinished message. First, such messages
//! are copied to segments. Then a checkpoint is written that does not need the other records of the file. Then the file
//! is recycled, unless the previous checkpoint needs it. The order matters: after a crash at any step, nothing is lost.
//!
//! If both checkpoints are lost, the journal still names all topics and channels, and says from where on each needs
//! messages. Before the last file that holds these names is retired, they are written to the journal again.

use super::UpkeepError;
use super::checkpoint::write_checkpoints_beyond;
use crate::storage::journal::Journal;
use crate::storage::{Durability, TopicNumber};
use crate::topic::registry::Registry;

/// Whether [`retire_journal_files`] would retire files.
pub fn has_journal_files_to_retire(registry: &Registry) -> bool {
    let Some(journal) = &registry.engine().store.journal else { return false };
    journal.excess() > 0
        && journal.file_numbers().first().is_some_and(|&oldest| oldest < held_from(registry, journal))
}

/// Files from this number on are not archived and stay, unless there is no room for them.
fn held_from(registry: &Registry, journal: &Journal) -> u64 {
    match registry.engine().archive() {
        Some(archive) if !journal.is_tight() && journal.failure().is_none() => {
            archive.held_from(journal.bytes_written())
        }
        _ => u64::MAX,
    }
}

/// Retires the oldest journal files while there are too many. If the disk accepts no writes, also retires files without
/// needed records. Returns the number of retired files.
pub fn retire_journal_files(registry: &Registry) -> Result<usize, UpkeepError> {
    let Some(journal) = &registry.engine().store.journal else { return Ok(0) };
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
pub fn squeeze_journal(registry: &Registry) -> Result<usize, UpkeepError> {
    let Some(journal) = &registry.engine().store.journal else { return Ok(0) };
    if journal.size().0 < 2 { Ok(0) } else { retire_oldest_files(registry, journal, 1) }
}

/// For quiet times: continues the journal in a small file and retires all older files.
pub fn shrink_journal(registry: &Registry) -> Result<(), UpkeepError> {
    let Some(journal) = &registry.engine().store.journal else { return Ok(()) };
    // Files would only be added while older ones wait to be archived.
    if journal.file_numbers().last().is_some_and(|&newest| newest > held_from(registry, journal)) {
        return Ok(());
    }
    journal.shrink()?;
    match journal.size().0 {
        0 | 1 => Ok(()),
        files => retire_oldest_files(registry, journal, files - 1).map(|_| {
            journal.remove_spares();
        }),
    }
}

/// Retires the `excess` oldest files. Returns the number of retired files: a checkpoint may need some of them.
fn retire_oldest_files(registry: &Registry, journal: &Journal, excess: usize) -> Result<usize, UpkeepError> {
    let files = journal.files();
    let held_from = held_from(registry, journal);
    let excess = excess.min(files.len().saturating_sub(1));
    let excess = files[..excess].iter().take_while(|file| file.number < held_from).count();
    if excess == 0 {
        return Ok(0);
    }
    for file in &files[..excess] {
        move_to_segments(registry, &file.topics)?;
    }
    let engine = registry.engine();
    engine.upkeep_hints.set_has_segments(true);
    write_checkpoints_beyond(registry, files[excess - 1].number)?;
    let needed_from = engine.store.first_needed_journal_file();
    let going: Vec<u64> =
        files[..excess].iter().map(|file| file.number).filter(|&number| number < needed_from).collect();
    let Some(&last) = going.last() else { return Ok(0) };
    if engine.store.take_unnamed(last) {
        registry.all_unsorted().iter().for_each(|topic| topic.record_names());
    }
    // The names written above must be on disk before the file that held them is retired.
    journal.flush()?;
    for &number in &going {
        journal.retire_oldest(number)?;
    }
    Ok(going.len())
}

/// Frees space on a full disk without writing messages. Failures are not reported, because the journal already reports
/// the reason.
fn retire_finished_files(registry: &Registry, journal: &Journal) -> usize {
    let files = journal.files();
    let topics = registry.all();
    let is_needed = |&(number, last): &(TopicNumber, u64)| {
        topics.iter().any(|topic| topic.number() == number && topic.log().is_needed_up_to(last))
    };
    let older = files.iter().take(files.len().saturating_sub(1));
    let finished: Vec<u64> =
        older.take_while(|file| !file.topics.iter().any(is_needed)).map(|file| file.number).collect();
    let Some(&last) = finished.last() else { return 0 };
    if write_checkpoints_beyond(registry, last).is_err() {
        return 0;
    }
    let needed_from = registry.engine().store.first_needed_journal_file();
    let going = finished.into_iter().take_while(|&number| number < needed_from);
    going.take_while(|&number| journal.retire_oldest(number).is_ok()).count()
}

fn move_to_segments(registry: &Registry, published: &[(TopicNumber, u64)]) -> Result<(), UpkeepError> {
    let sync = registry.engine().store.durability == Durability::Sync;
    for topic in registry.all_unsorted() {
        if let Ok(index) = published.binary_search_by_key(&topic.number(), |&(number, _)| number) {
            topic.log().persist_up_to(published[index].1, sync)?;
        }
    }
    Ok(())
}
