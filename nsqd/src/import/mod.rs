//! Takes over a data directory of NSQ on the first start in it. Its topics, channels, paused flags and messages become
//! ours, and its files get new names.
//!
//! 1. Read `nsqd.dat`. If it is invalid, the start fails, and nothing is changed.
//! 2. Write each topic's queues to segments, and sync them. Without a checkpoint they have no effect.
//! 3. Write down the names to change.
//! 4. Write the checkpoint: from now on the messages are ours.
//! 5. Rename the files to `*.imported`, `nsqd.dat` first, so that NSQ would not start with half of them.
//!
//! After a crash before step 4, the next start repeats everything. After a later crash, it repeats only step 5.
//!
//! - [`queues`]: lists the files and renames them
//! - [`metadata`]: pure; reads `nsqd.dat`
//! - [`index`]: the places of all messages of a topic, in order, whatever their number
//! - [`convert`]: converts the queues of one topic to a log and read cursors
//! - `copy`: copies the messages' bytes
//! - [`diskqueue`]: pure; reads the files of NSQ's disk queues

pub mod convert;
pub mod diskqueue;
pub mod index;
pub mod metadata;
pub mod queues;
mod copy;
#[cfg(test)]
mod nsq_dir;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use nsq_daemon::log::Logger;

use self::convert::Converter;
use self::metadata::{Metadata, MetadataError};
use self::queues::{METADATA_FILE, QueueFiles, RENAMES_FILE};
use crate::engine::EngineLimits;
use crate::storage::checkpoint::{self, Checkpoint, CheckpointError};
use crate::storage::data_dir::{DataDir, DataDirError};
use crate::storage::{ChannelNumber, Storage, TopicNumber};

/// Maximum size of a valid `nsqd.dat`.
const MAX_METADATA_BYTES: u64 = 1 << 30;
/// Maximum number of queues without a topic or channel that are logged by name.
const MAX_ORPHAN_LINES: usize = 20;

/// Why NSQ's data cannot be taken over. NSQ's files are unchanged, and the next start tries again.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Reading NSQ's files or writing segments failed.
    #[error("cannot take over {}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    /// The messages are in segments, but the checkpoint that makes them valid is not written.
    #[error("cannot take over {}: {error}", path.display())]
    Checkpoint { path: PathBuf, error: CheckpointError },
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// `nsqd.dat` cannot be read.
    #[error("failed to read metadata in {} - {error}", path.display())]
    ReadMetadata { path: PathBuf, error: io::Error },
    /// `nsqd.dat` is invalid.
    #[error("failed to parse metadata in {} - {reason}", path.display())]
    ParseMetadata { path: PathBuf, reason: MetadataError },
}

/// Takes over NSQ's data in the directory, if there is any and it has not been taken over yet. Other files are not
/// touched. `wall_ns` is the current time, at which sequence numbers start.
pub fn take_over(
    storage: &Arc<dyn Storage>,
    data_dir: &DataDir,
    limits: &EngineLimits,
    logger: &Logger,
    wall_ns: i64,
) -> Result<(), ImportError> {
    let converter = Converter {
        storage,
        data_dir,
        limits,
        logger,
        max_index_entries: index::MAX_ENTRIES_IN_MEMORY,
        wall_ns,
        first_sequence: u64::try_from(wall_ns / 1000).unwrap_or(0),
        next_channel: ChannelNumber(1),
    };
    take_over_with(converter)
}

fn take_over_with(mut converter: Converter<'_>) -> Result<(), ImportError> {
    let Converter { storage, data_dir, logger, .. } = converter;
    let dir = data_dir.path();
    let failed = |error| ImportError::Io { path: dir.to_owned(), error };
    let names = list(storage, data_dir).map_err(failed)?;
    let has_checkpoint = has_checkpoint(data_dir, &names);
    if has_checkpoint && names.contains(RENAMES_FILE) {
        finish(&**storage, data_dir, logger);
        return Ok(());
    }
    if has_checkpoint || data_dir.has_journal(&**storage).map_err(failed)? {
        if names.contains(METADATA_FILE) {
            nsq_daemon::warn!(
                logger,
                "IMPORT: {METADATA_FILE} appeared in {} after nsqd had already used the directory; ignored; \
                 to import its messages, start nsqd on a directory that contains only NSQ's files",
                dir.display()
            );
        }
        return Ok(());
    }
    let queues = queues::find_queues(&names);
    if !names.contains(METADATA_FILE) {
        report_orphans(logger, queues.keys(), &format!("there is no {METADATA_FILE}"));
        return queues::remove_if_there(&**storage, &dir.join(RENAMES_FILE)).map_err(failed);
    }
    let metadata = read_metadata(&**storage, data_dir)?;
    nsq_daemon::info!(
        logger,
        "IMPORT: taking over {} topics and {} channels of NSQ from {}",
        metadata.topics.len(),
        metadata.topics.values().map(|topic| topic.channels.len()).sum::<usize>(),
        dir.display()
    );
    for skipped in &metadata.skipped {
        nsq_daemon::warn!(logger, "IMPORT: {skipped}");
    }
    data_dir.prepare(&**storage)?;
    remove_remains(&**storage, data_dir).map_err(failed)?;
    let checkpoint = match convert_all(&mut converter, &metadata, &queues) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            // Frees the space again. The next start removes what cannot be removed now.
            let _ = remove_remains(&**storage, data_dir);
            return Err(failed(error));
        }
    };
    let taken: BTreeSet<&str> = (metadata.topics.iter())
        .flat_map(|(topic, entry)| {
            let channels = entry.channels.keys().map(move |channel| format!("{topic}:{channel}"));
            channels.chain([topic.to_string()])
        })
        .filter_map(|queue| queues.get_key_value(&queue).map(|(queue, _)| queue.as_str()))
        .collect();
    let files = std::iter::once(METADATA_FILE.to_owned())
        .chain(names.iter().filter(|name| is_metadata_remains(name)).cloned())
        .chain(taken.iter().filter_map(|queue| queues.get(*queue)).flat_map(|found| found.names.clone()));
    queues::plan_renames(&**storage, dir, files, &names).map_err(failed)?;
    checkpoint::write(&**storage, &data_dir.checkpoint_path(), &checkpoint)
        .map_err(|error| ImportError::Checkpoint { path: dir.to_owned(), error })?;
    let messages: u64 = checkpoint.topics.iter().map(|topic| topic.message_count).sum();
    nsq_daemon::info!(
        logger,
        "IMPORT: took over {messages} messages; they keep their timestamps, and their age (ttl) counts from now"
    );
    let orphans = queues.keys().filter(|queue| !taken.contains(queue.as_str()));
    report_orphans(logger, orphans, &format!("not in {METADATA_FILE}"));
    finish(&**storage, data_dir, logger);
    Ok(())
}

fn convert_all(
    converter: &mut Converter<'_>,
    metadata: &Metadata,
    queues: &QueueFiles,
) -> io::Result<Checkpoint> {
    let mut checkpoint = Checkpoint { next_topic_number: TopicNumber(1), ..Checkpoint::default() };
    for (name, entry) in &metadata.topics {
        let topic = converter.convert(checkpoint.next_topic_number, name, entry, queues)?;
        checkpoint.topics.push(topic);
        checkpoint.next_topic_number = checkpoint.next_topic_number.next();
    }
    checkpoint.next_channel_number = converter.next_channel;
    Ok(checkpoint)
}

/// Whether a start would take over NSQ's data in the directory.
pub fn is_due(storage: &Arc<dyn Storage>, data_dir: &DataDir) -> io::Result<bool> {
    let names = list(storage, data_dir)?;
    Ok(names.contains(METADATA_FILE)
        && !has_checkpoint(data_dir, &names)
        && !data_dir.has_journal(&**storage)?)
}

fn has_checkpoint(data_dir: &DataDir, names: &BTreeSet<String>) -> bool {
    data_dir.checkpoint_path().file_name().is_some_and(|name| names.contains(&*name.to_string_lossy()))
}

fn list(storage: &Arc<dyn Storage>, data_dir: &DataDir) -> io::Result<BTreeSet<String>> {
    Ok(storage.list(data_dir.path())?.into_iter().collect())
}

fn read_metadata(storage: &dyn Storage, data_dir: &DataDir) -> Result<Metadata, ImportError> {
    let path = data_dir.path().join(METADATA_FILE);
    let invalid = |reason| ImportError::ParseMetadata { path: path.clone(), reason };
    let text = queues::read_file(storage, &path, MAX_METADATA_BYTES)
        .map_err(|error| ImportError::ReadMetadata { path: path.clone(), error })?
        .ok_or_else(|| invalid(MetadataError::TooLong))?;
    Metadata::parse(&text).map_err(invalid)
}

/// `nsqd.dat.<random>.tmp`: left by an NSQ that died while writing the file.
fn is_metadata_remains(name: &str) -> bool {
    let random =
        name.strip_prefix(METADATA_FILE).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".tmp"));
    random.is_some_and(|random| random.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Removes the results of a takeover that did not reach its checkpoint.
fn remove_remains(storage: &dyn Storage, data_dir: &DataDir) -> io::Result<()> {
    queues::remove_if_there(storage, &data_dir.path().join(RENAMES_FILE))?;
    match storage.remove_dir_all(&data_dir.topics_dir()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    storage.create_dir_all(&data_dir.topics_dir())
}

/// Renames the files that were taken over. If that fails, the takeover stays valid, and the next start retries.
fn finish(storage: &dyn Storage, data_dir: &DataDir, logger: &Logger) {
    match queues::finish_renames(storage, data_dir.path()) {
        Ok(count) => nsq_daemon::info!(logger, "IMPORT: renamed {count} files of NSQ to *.imported"),
        Err(error) => nsq_daemon::error!(
            logger,
            "IMPORT: cannot rename files of NSQ that were taken over: {error}; the next start retries"
        ),
    }
}

fn report_orphans<'a>(logger: &Logger, queues: impl Iterator<Item = &'a String>, why: &str) {
    let orphans: Vec<_> = queues.collect();
    for queue in orphans.iter().take(MAX_ORPHAN_LINES) {
        nsq_daemon::warn!(logger, "IMPORT: queue {queue} is not imported: {why}");
    }
    if orphans.len() > MAX_ORPHAN_LINES {
        let more = orphans.len() - MAX_ORPHAN_LINES;
        nsq_daemon::warn!(logger, "IMPORT: {more} more queues are not imported");
    }
}
