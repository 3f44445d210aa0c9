//! Before the first connection: reads the data directory and restores topics and channels.
//!
//! - [`crate::import`]: the first step, takes over a data directory of NSQ
//! - [`replay`]: pure; turns checkpoint and journal records into topics and channels;
//!   [`replayed_topic`]: one of them; [`missing`]: which of its messages are needed and missing
//! - [`report`]: reports damage found meanwhile; [`gaps`]: which messages the damage affects
//! - [`verify`]: what a start would report, and whether all messages are readable, without changes
//!
//! The opposite direction, what a start reads, is written by [`crate::upkeep`].

pub mod gaps;
pub mod missing;
pub mod replay;
pub mod replayed_topic;
pub mod report;
pub mod verify;
#[cfg(test)]
mod checkpoint_tests;
#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod lost_records_tests;
#[cfg(test)]
mod retention_tests;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod slow_disk_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use nsq_daemon::log::Logger;
use nsq_protocol::TopicName;

use self::gaps::Gaps;
use self::replay::{Replay, ReplayError, ReplayLimits};
use self::replayed_topic::ReplayedTopic;
use self::report::JournalFindings;
use crate::channel::saved::Clocks;
use crate::clock;
use crate::damage::{Damage, Finding, Severity};
use crate::engine::{Engine, EngineLimits, EngineParts};
use crate::health::Part;
use crate::import::{self, ImportError};
use crate::log::index::LogIndex;
use crate::log::{LogContext, TopicLog};
use crate::storage::anchored::Anchored;
use crate::storage::checkpoint::{self, CheckpointError, Problem};
use crate::storage::data_dir::{DataDir, DataDirError};
use crate::storage::journal::{Journal, JournalError, JournalOptions};
use crate::storage::record::Record;
use crate::storage::segment::SegmentStore;
use crate::storage::{Durability, Space, Storage, TopicNumber};
use crate::topic::registry::{ChannelOracle, Registry};
use crate::topic::release::ReleasePoint;
use crate::topic::{Topic, TopicParts};
use crate::upkeep::{UpkeepError, stop};

/// Options for starting the engine.
pub struct StartOptions {
    /// Access to files; the real ones except in tests.
    pub storage: Arc<dyn Storage>,
    /// The locked data directory.
    pub data_dir: DataDir,
    pub durability: Durability,
    /// Limits of topics and channels.
    pub limits: EngineLimits,
    pub logger: Logger,
    /// Knows the channels of a new topic.
    pub oracle: Option<Arc<dyn ChannelOracle>>,
}

/// Why a start failed. Nothing was changed except what recovery itself changes.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error("cannot access the data directory: {0}")]
    Access(io::Error),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("cannot read checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Topics of the checkpoint cannot be opened.
    #[error("cannot restore checkpoint: {0}")]
    Restore(ReplayError),
    #[error("cannot replay journal: {0}")]
    Replay(ReplayError),
    /// Topics cannot be restored from their segments alone.
    #[error("cannot rebuild topics: {0}")]
    Rebuild(ReplayError),
    #[error("cannot list topics: {0}")]
    Topics(io::Error),
    #[error("cannot write segment: {0}")]
    Segment(io::Error),
    /// Only without a journal: the messages of an earlier run with one stay there.
    #[error("cannot move journal to segments: {0}")]
    MoveJournal(UpkeepError),
}

/// Restores all topics and channels: from the checkpoint, then from the journal records after it.
pub fn recover(options: StartOptions) -> Result<Arc<Registry>, RecoveryError> {
    recover_and_report(options).map(|recovered| recovered.registry)
}

/// The result of a start.
pub struct Recovered {
    pub registry: Arc<Registry>,
    /// Problems found in the data directory.
    pub findings: Vec<Finding>,
    /// Number of records read from the journal.
    pub record_count: u64,
}

/// As [`recover`], but also returns the findings.
pub fn recover_and_report(options: StartOptions) -> Result<Recovered, RecoveryError> {
    let StartOptions { storage, data_dir, durability, limits, logger, oracle } = options;
    let home = Anchored::new(storage, data_dir.path()).map_err(RecoveryError::Access)?;
    let home = Arc::new(home);
    let storage: Arc<dyn Storage> = home.clone();
    let clocks = Clocks { monotonic: clock::monotonic(), wall_ns: clock::wall_ns() };
    let replay_limits = ReplayLimits {
        max_message_timeout: clock::nanos(limits.max_msg_timeout),
        longest_delay: clock::nanos(limits.max_req_timeout),
        clocks,
        retention: limits.retention,
    };
    import::take_over(&storage, &data_dir, &limits, &logger, clocks.wall_ns)?;
    data_dir.prepare(&*storage)?;
    let damage = Arc::new(Damage::new(logger.clone()));
    let log_context = LogContext { damage: damage.clone(), ..LogContext::default() };
    let loaded = checkpoint::load(&*storage, &data_dir.checkpoint_path())?;
    for Problem { path, bytes, what } in &loaded.problems {
        damage.found(Finding::damage(format!("damaged checkpoint: {what}")).at(path, 0, *bytes));
    }
    let saved = loaded.checkpoint;
    let open_log = |number, name: &TopicName, first_sequence| {
        let (segments, blocks, report) =
            SegmentStore::open(storage.clone(), data_dir.topic_dir(number), limits.max_bytes_per_file)
                .map_err(|error| ReplayError::Segments { topic: name.clone(), error })?;
        report::segments(&logger, &damage, name, (&blocks, &report));
        let mut index = LogIndex::new(first_sequence, limits.node_id, limits.memory_bound());
        index.adopt_blocks(blocks);
        Ok(Arc::new(TopicLog::new(index, segments, name.as_str(), log_context.clone())))
    };
    warn_of_low_space(&logger, &*storage, &data_dir);
    let mut replay = Replay::new(saved.as_ref(), replay_limits, open_log).map_err(RecoveryError::Restore)?;

    let mut journal_options = JournalOptions::new(data_dir.journal_dir(), durability);
    journal_options.file_bytes = limits.journal_file_bytes;
    journal_options.timing = limits.journal_timing;
    journal_options.not_before = saved.as_ref().map_or_else(Default::default, |saved| saved.journal_from);
    let mut gaps = Gaps::default();
    let mut replay_error = None;
    let mut since_tidy = 0;
    let (journal, report) = Journal::open(storage.clone(), journal_options.clone(), &mut |at, record| {
        if replay_error.is_some() {
            return;
        }
        since_tidy += 1;
        gaps.see(at, &record);
        if let Err(error) = replay.apply(at, record) {
            replay_error = Some(error);
        } else if since_tidy % TIDY_EVERY == 0
            && let Some(error) = replay.topics.values().find_map(|topic| topic.tidy().err())
        {
            replay_error = Some(ReplayError::Io(error));
        }
    })?;
    if let Some(error) = replay_error {
        return Err(RecoveryError::Replay(error));
    }
    let topic_name = |number| replay.topics.get(&number).map(|topic| topic.name.to_string());
    JournalFindings { data_dir: &data_dir, saved: saved.as_ref(), report: &report, gaps: &gaps }
        .report(&logger, &damage, topic_name);
    if replay.invalid_count > 0 {
        let what = format!("{} records of the journal are invalid and were skipped", replay.invalid_count);
        damage.found(Finding::damage(what));
    }
    let numbers = data_dir.topic_numbers(&*storage).map_err(RecoveryError::Topics)?;
    // A new topic must not get the number of a directory that could not be removed.
    let behind_all = numbers
        .iter()
        .filter(|&&number| number < TopicNumber::MAX)
        .max()
        .map_or(0, |number| number.saturating_add(1));
    replay.next_numbers.0 = replay.next_numbers.0.max(behind_all);
    if saved.is_none() {
        let may_be_lost = durability == Durability::Overflow
            || !loaded.problems.is_empty()
            || replay.invalid_count > 0
            || !report.is_complete();
        for number in numbers {
            if may_be_lost {
                replay.take_on_segments(number).map_err(RecoveryError::Rebuild)?;
            } else if replay.is_unheard_of(number) {
                set_aside_unknown(&*storage, &data_dir, number, &damage);
            }
        }
    }
    // Without a journal, a kill before the first checkpoint loses names although nothing is damaged.
    let severity = if damage.has_found_damage() { Severity::Damage } else { Severity::Doubt };
    replay
        .complete()
        .into_iter()
        .for_each(|loss| damage.found(Finding::damage(loss).with_severity(severity)));
    let Replay { topics, next_numbers, sequences_used, .. } = replay;
    restore_missing(&*storage, &journal_options, &topics)?;
    report_missing(&data_dir, &damage, &topics);
    let findings = damage.take_findings();
    if let Some(logger) =
        Some(&logger).filter(|_| findings.iter().any(|found| found.severity == Severity::Damage))
    {
        let path = data_dir.path().display();
        nsq_daemon::error!(
            logger,
            "the data directory is damaged: nsqd continues with all readable data and keeps damaged files as \
             *.damaged; to list the damage, stop nsqd and run `nsq data verify {path}`; restore a backup if you need \
             the missing data, otherwise delete *.damaged"
        );
    }
    let engine = Engine::new(EngineParts {
        journal: (durability != Durability::Overflow).then(|| journal.clone()),
        storage,
        home,
        data_dir,
        durability,
        limits,
        logger,
        log_context,
        next_numbers,
        sequences_used,
        journal_end: journal.position(),
        checkpoint_from: saved.as_ref().map_or_else(Default::default, |saved| saved.journal_from),
    });
    let registry = Registry::new(engine.clone(), oracle);
    let unclean_overflow =
        durability == Durability::Overflow && !saved.as_ref().is_none_or(|saved| saved.clean_shutdown);
    let numbers: BTreeSet<TopicNumber> = topics.keys().copied().collect();
    for (number, mut topic) in topics {
        topic.end_with_segments(unclean_overflow.then(|| Engine::sequence_of_time(clocks.wall_ns)));
        registry.adopt(restore_topic(&engine, number, topic).map_err(RecoveryError::Segment)?);
    }
    remove_orphans(&engine, &numbers);
    if registry.all_unsorted().iter().any(|topic| topic.log().has_failed_to_spill()) {
        engine.set_failed(
            Part::Spilling,
            "cannot write segment: the volume is full; topics hold more in memory than allowed",
        );
    }
    if durability == Durability::Overflow {
        stop::move_journal_to_segments(&registry, &journal).map_err(RecoveryError::MoveJournal)?;
    }
    Ok(Recovered { registry, findings, record_count: report.records })
}

/// Moves away segments of a topic that neither journal nor checkpoint names, although nothing is damaged or missing.
/// Their topic was ephemeral or deleted, and is not restored.
fn set_aside_unknown(storage: &dyn Storage, data_dir: &DataDir, number: TopicNumber, damage: &Damage) {
    let dir = data_dir.topic_dir(number);
    let aside = dir.with_extension("unknown");
    let finding = match storage.rename(&dir, &aside) {
        Ok(()) => {
            let what = format!(
                "segments of an unknown topic moved to {}: journal and checkpoint are intact and do not name it, so \
                 it was ephemeral or deleted; delete the folder, or restore the files that named it",
                aside.display()
            );
            Finding::damage(what).at(dir, 0, 0)
        }
        Err(error) => {
            let what = format!("cannot move away the segments of an unknown topic: {error}; delete them");
            Finding::damage(what).at(dir, 0, 0)
        }
    };
    damage.found(finding.with_severity(Severity::Doubt));
}

/// A smaller volume has too little space for journal, checkpoint and messages.
const MIN_VOLUME_BYTES: u64 = 16 << 20;
/// With less free space, a few seconds of traffic may fill the volume.
const LOW_SPACE_BYTES: u64 = 64 << 20;

fn warn_of_low_space(logger: &Logger, storage: &dyn Storage, data_dir: &DataDir) {
    let path = data_dir.path().display();
    let Some(Space { total_bytes, available_bytes }) = storage.space(data_dir.path()) else { return };
    let (total_mib, available_mib) = (total_bytes >> 20, available_bytes >> 20);
    if total_bytes < MIN_VOLUME_BYTES {
        let min_mib = MIN_VOLUME_BYTES >> 20;
        nsq_daemon::warn!(
            logger,
            "the volume of {path} has {total_mib} MiB, and nsqd needs {min_mib} MiB; publishes may be refused at any time"
        );
    } else if available_bytes < LOW_SPACE_BYTES {
        nsq_daemon::warn!(
            logger,
            "the volume of {path} has {available_mib} of {total_mib} MiB free; publishes are refused when it is full"
        );
    }
}

/// Copies needed messages from the journal to segments again, where the segments should have them but do not.
fn restore_missing(
    storage: &dyn Storage,
    options: &JournalOptions,
    topics: &BTreeMap<TopicNumber, ReplayedTopic>,
) -> Result<(), RecoveryError> {
    let gaps: BTreeMap<TopicNumber, Vec<(u64, u64)>> = (topics.iter())
        .map(|(&number, topic)| (number, topic.restorable()))
        .filter(|(_, gaps)| !gaps.is_empty())
        .collect();
    if !gaps.is_empty() {
        let mut failure = None;
        Journal::show(storage, options, &mut |_, record| {
            if let Record::Publish { topic, first_sequence, count, frames, .. } = record
                && let Some((topic, gaps)) = topics.get(&topic).zip(gaps.get(&topic))
                && let Err(error) = topic.log().restore(first_sequence, count, frames, gaps)
            {
                failure = Some(error);
            }
        })?;
        if let Some(error) = failure {
            return Err(RecoveryError::Segment(error));
        }
    }
    Ok(())
}

/// Reports messages that are needed and missing.
fn report_missing(data_dir: &DataDir, damage: &Damage, topics: &BTreeMap<TopicNumber, ReplayedTopic>) {
    for (&number, topic) in topics {
        for (from, to) in topic.lost() {
            damage.lost(&topic.name, from, to);
        }
        for (from, to) in topic.absent().into_iter().chain(topic.unrecorded.iter().copied()) {
            // No finding explains the gap. Either the messages were finished, their file was deleted, and a crash lost
            // the record of it; or someone deleted the file.
            let what = "messages are missing: finished just before a crash, or somebody deleted their file";
            let absent = Finding::damage(what).with_severity(Severity::Doubt);
            damage.found(absent.at(data_dir.topic_dir(number), 0, 0).of(&topic.name).with_messages(from, to));
        }
    }
}

/// Number of records between two attempts to free memory.
const TIDY_EVERY: u64 = 4096;

fn restore_topic(
    engine: &Arc<Engine>,
    number: TopicNumber,
    mut topic: ReplayedTopic,
) -> io::Result<Arc<Topic>> {
    topic.log().skip_to(topic.end);
    topic.tidy()?;
    let point = topic.state.point();
    let parts = TopicParts {
        name: topic.name.clone(),
        number,
        log: topic.log().clone(),
        point: ReleasePoint::new(point.released(), topic.end, point.is_paused(), true),
        counters: topic.counters,
        own_retention: topic.state.own_retention(),
    };
    let live = Topic::new(engine.clone(), parts);
    for (number, mut channel) in topic.state.take_channels() {
        if live.log().is_retaining() {
            // The channel may have been moved to a place where some messages no longer exist.
            let absent = live.log().absent(channel.state.cursor(), channel.state.end());
            channel.state.skip_absent(&absent);
        }
        channel.state.recovered();
        live.adopt_channel(channel.name, number, channel.state);
    }
    live.start();
    Ok(live)
}

/// Deletes files of topics that no longer exist, after a crash between the record and the deletion. Keeps damaged files
/// for manual repair.
fn remove_orphans(engine: &Engine, numbers: &BTreeSet<TopicNumber>) {
    let Ok(found) = engine.data_dir.topic_numbers(&*engine.storage) else { return };
    for number in found.into_iter().filter(|number| !numbers.contains(number)) {
        let dir = engine.data_dir.topic_dir(number);
        let is_damaged = |names: Vec<String>| names.iter().any(|name| name.ends_with(".damaged"));
        if engine.storage.list(&dir).is_ok_and(is_damaged) {
            continue;
        }
        if let Err(error) = engine.storage.remove_dir_all(&dir) {
            crate::log_error!(engine, "cannot remove the files of deleted topic {number}: {error}");
        }
    }
}
