//! The steps of a start, in the order in which [`super::recover_and_report`] calls them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use nsq_daemon::log::Logger;
use nsq_protocol::TopicName;

use super::gaps::Gaps;
use super::replay::{Replay, ReplayError, ReplayLimits, Replayed};
use super::replayed_topic::ReplayedTopic;
use super::report::{self, JournalFindings};
use super::{RecoveryError, StartOptions};
use crate::channel::saved::Clocks;
use crate::clock;
use crate::damage::{Damage, Finding, Found, Severity};
use crate::engine::numbers::Numbers;
use crate::engine::store::Store;
use crate::engine::{Engine, EngineLimits};
use crate::health::Part;
use crate::import;
use crate::log::index::LogIndex;
use crate::log::{LogContext, TopicLog};
use crate::policy::file::PolicyFile;
use crate::storage::anchored::Anchored;
use crate::storage::checkpoint::{self, Checkpoint, Loaded, Problem};
use crate::storage::data_dir::DataDir;
use crate::storage::file_kind::is_set_aside;
use crate::storage::journal::{Journal, JournalOptions, JournalReport, Lsn};
use crate::storage::record::Record;
use crate::storage::segment::SegmentStore;
use crate::storage::unsynced::Unsynced;
use crate::storage::{Durability, SequenceRange, Space, Storage, TopicNumber};
use crate::topic::registry::{ChannelOracle, Registry};
use crate::topic::release::ReleasePoint;
use crate::topic::{Topic, TopicParts};
use crate::upkeep::stop;

/// Number of records between two attempts to free memory.
const TIDY_EVERY: u64 = 4096;

/// A start in progress: what all its steps need.
pub(super) struct Recovery {
    storage: Arc<dyn Storage>,
    /// See [`Store::home`].
    home: Arc<Anchored>,
    /// See [`Store::unsynced`].
    unsynced: Arc<Unsynced>,
    data_dir: DataDir,
    durability: Durability,
    limits: EngineLimits,
    logger: Logger,
    oracle: Option<Arc<dyn ChannelOracle>>,
    policies: Arc<PolicyFile>,
    log_context: LogContext,
    clocks: Clocks,
}

/// The journal after it was read.
pub(super) struct ReadJournal {
    journal: Arc<Journal>,
    pub report: JournalReport,
    gaps: Gaps,
    options: JournalOptions,
}

impl Recovery {
    /// Takes over files of NSQ, and makes the directory usable.
    pub fn prepare(options: StartOptions) -> Result<Self, RecoveryError> {
        let StartOptions { storage, data_dir, durability, limits, logger, oracle, policies } = options;
        let unsynced = Arc::new(Unsynced::new(storage));
        let home = Arc::new(Anchored::new(unsynced.clone(), data_dir.path()).map_err(RecoveryError::Access)?);
        let storage: Arc<dyn Storage> = home.clone();
        let clocks = Clocks { monotonic: clock::monotonic(), wall_ns: clock::wall_ns() };
        import::take_over(&storage, &data_dir, &limits, &logger, clocks.wall_ns)?;
        data_dir.prepare(&*storage)?;
        warn_of_low_space(&logger, &*storage, &data_dir);
        let damage = Arc::new(Damage::new(logger.clone()));
        let log_context = LogContext { damage, ..LogContext::default() };
        Ok(Recovery {
            storage,
            home,
            unsynced,
            data_dir,
            durability,
            limits,
            logger,
            oracle,
            policies,
            log_context,
            clocks,
        })
    }

    /// Reads the newest readable checkpoint, and reports those that cannot be read.
    pub fn load_checkpoint(&self) -> Result<Loaded, RecoveryError> {
        let loaded = checkpoint::load(&*self.storage, &self.data_dir.checkpoint_path())?;
        for Problem { path, bytes, what } in &loaded.problems {
            let finding = Finding::damage(format!("damaged checkpoint: {what}"));
            self.damage().found(finding.at(path, 0, *bytes));
        }
        Ok(loaded)
    }

    /// Restores the topics of the checkpoint.
    pub fn restore_checkpoint(&self, loaded: &Loaded) -> Result<Replay<'_>, RecoveryError> {
        let limits = ReplayLimits {
            max_message_timeout: clock::nanos(self.limits.max_msg_timeout),
            longest_delay: clock::nanos(self.limits.max_req_timeout),
            clocks: self.clocks,
            sources: self.limits.sources(self.policies.clone()),
            dedupe_max_ids: self.limits.dedupe_max_ids,
        };
        let open_log = |number, name: &TopicName, first_sequence| self.open_log(number, name, first_sequence);
        Replay::new(loaded.checkpoint.as_ref(), limits, Box::new(open_log)).map_err(RecoveryError::Restore)
    }

    fn open_log(
        &self,
        number: TopicNumber,
        name: &TopicName,
        first_sequence: u64,
    ) -> Result<Arc<TopicLog>, ReplayError> {
        let (dir, limits) = (self.data_dir.topic_dir(number), &self.limits);
        let (segments, blocks, report) =
            SegmentStore::open(self.storage.clone(), dir, limits.max_bytes_per_file)
                .map_err(|error| ReplayError::Segments { topic: name.clone(), error })?;
        report::segments(self.damage(), name, (&blocks, &report));
        let mut index = LogIndex::new(first_sequence, limits.node_id, limits.memory_bound());
        index.adopt_blocks(blocks);
        Ok(Arc::new(TopicLog::new(index, segments, name.as_str(), self.log_context.clone())))
    }

    /// Reads the journal and applies its records.
    pub fn replay_journal(
        &self,
        loaded: &Loaded,
        replay: &mut Replay<'_>,
    ) -> Result<ReadJournal, RecoveryError> {
        let mut options = JournalOptions::new(self.data_dir.journal_dir(), self.durability);
        options.file_bytes = self.limits.journal_file_bytes;
        options.timing = self.limits.journal_timing;
        options.not_before = journal_from(loaded.checkpoint.as_ref());
        let mut gaps = Gaps::default();
        let mut result = Ok(());
        let mut since_tidy = 0;
        let (journal, report) = Journal::open(self.storage.clone(), options.clone(), &mut |at, record| {
            if result.is_err() {
                return;
            }
            gaps.see(at, &record);
            result = replay.apply(at, record);
            since_tidy += 1;
            if since_tidy % TIDY_EVERY == 0 && result.is_ok() {
                result = replay.tidy();
            }
        })?;
        result.map_err(RecoveryError::Replay)?;
        Ok(ReadJournal { journal, report, gaps, options })
    }

    /// Reports damage of the journal.
    pub fn report_journal(&self, loaded: &Loaded, read: &ReadJournal, replay: &Replay<'_>) {
        let topic_name = |number: TopicNumber| replay.topics.get(&number).map(|topic| topic.name.to_string());
        let findings = JournalFindings {
            data_dir: &self.data_dir,
            saved: loaded.checkpoint.as_ref(),
            report: &read.report,
            gaps: &read.gaps,
        };
        findings.report(&self.logger, self.damage(), topic_name);
        if replay.invalid_count > 0 {
            let what =
                format!("{} records of the journal are invalid and were skipped", replay.invalid_count);
            self.damage().found(Finding::damage(what));
        }
    }

    /// Handles the directories of topics that neither checkpoint nor journal names: restores the topics if their names
    /// may be lost, moves the directories away otherwise. With a checkpoint, such topics are deleted ones.
    pub fn add_unnamed_topics(
        &self,
        loaded: &Loaded,
        read: &ReadJournal,
        replay: &mut Replay<'_>,
    ) -> Result<(), RecoveryError> {
        let numbers = self.data_dir.topic_numbers(&*self.storage).map_err(RecoveryError::Topics)?;
        // A new topic must not get the number of a directory that could not be removed.
        let highest = numbers.iter().copied().filter(|&number| number < TopicNumber::MAX).max();
        if let Some(highest) = highest {
            replay.next_numbers.topic = replay.next_numbers.topic.max(highest.next());
        }
        if loaded.checkpoint.is_some() {
            return Ok(());
        }
        let may_be_lost = self.durability == Durability::Overflow
            || !loaded.problems.is_empty()
            || replay.invalid_count > 0
            || !read.report.is_complete();
        for number in numbers {
            if may_be_lost {
                replay.take_on_segments(number).map_err(RecoveryError::Rebuild)?;
            } else if replay.is_unheard_of(number) {
                self.set_aside_unknown(number);
            }
        }
        Ok(())
    }

    /// Moves away segments of a topic that neither journal nor checkpoint names, although nothing is damaged or
    /// missing. Their topic was ephemeral or deleted, and is not restored.
    fn set_aside_unknown(&self, number: TopicNumber) {
        let dir = self.data_dir.topic_dir(number);
        let aside = dir.with_extension("unknown");
        let finding = match self.storage.rename(&dir, &aside) {
            Ok(()) => {
                let what = format!(
                    "segments of an unknown topic moved to {}: journal and checkpoint are intact and do not name it, \
                     so it was ephemeral or deleted; delete the folder, or restore the files that named it",
                    aside.display()
                );
                Finding::damage(what).at(dir, 0, 0)
            }
            Err(error) => {
                let what = format!("cannot move away the segments of an unknown topic: {error}; delete them");
                Finding::damage(what).at(dir, 0, 0)
            }
        };
        self.damage().found(finding.with_severity(Severity::Doubt));
    }

    /// Ends the replay, and reports names that are lost.
    pub fn complete(&self, replay: Replay<'_>) -> Replayed {
        let replayed = replay.complete();
        // Without a journal, a kill before the first checkpoint loses names although nothing is damaged.
        let severity = if self.damage().has_found_damage() { Severity::Damage } else { Severity::Doubt };
        for loss in &replayed.lost_names {
            self.damage().found(Finding::damage(loss).with_severity(severity));
        }
        replayed
    }

    /// Copies needed messages from the journal to segments again, where the segments should have them but do not.
    pub fn restore_missing(&self, read: &ReadJournal, replayed: &Replayed) -> Result<(), RecoveryError> {
        let topics = &replayed.topics;
        let gaps: BTreeMap<TopicNumber, Vec<SequenceRange>> = (topics.iter())
            .map(|(&number, topic)| (number, topic.restorable()))
            .filter(|(_, gaps)| !gaps.is_empty())
            .collect();
        if gaps.is_empty() {
            return Ok(());
        }
        let mut result = Ok(());
        Journal::show(&*self.storage, &read.options, &mut |_, record| {
            if let Record::Publish { topic, first_sequence, count, frames, .. } = record
                && let Some((topic, gaps)) = topics.get(&topic).zip(gaps.get(&topic))
                && let Err(error) = topic.log().restore(first_sequence, count, frames, gaps)
            {
                result = Err(RecoveryError::Segment(error));
            }
        })?;
        result
    }

    /// Reports messages that are needed and missing.
    pub fn report_missing(&self, replayed: &Replayed) {
        for (&number, topic) in &replayed.topics {
            for lost in topic.lost() {
                self.damage().lost(&topic.name, lost);
            }
            for messages in topic.absent().into_iter().chain(topic.unrecorded.iter().copied()) {
                // No finding explains the gap. Either the messages were finished, their file was deleted, and a crash
                // lost the record of it; or someone deleted the file.
                let what =
                    "messages are missing: finished just before a crash, or somebody deleted their file";
                let absent = Finding::damage(what).with_severity(Severity::Doubt);
                let dir = self.data_dir.topic_dir(number);
                self.damage().found(absent.at(dir, 0, 0).of(&topic.name).with_messages(messages));
            }
        }
    }

    /// Everything found so far. Says in the log what to do about damage.
    pub fn take_found(&self) -> Found {
        let found = self.damage().take_found();
        if found.findings.iter().any(|finding| finding.severity == Severity::Damage) {
            let path = self.data_dir.path().display();
            nsq_daemon::error!(
                self.logger,
                "the data directory is damaged: nsqd continues with all readable data and keeps damaged files as \
                 *.damaged; to list the damage, stop nsqd and run `nsq data verify {path}`; restore a backup if you \
                 need the missing data, otherwise delete *.damaged"
            );
        }
        found
    }

    /// Turns the replayed topics into running ones.
    pub fn open_topics(
        self,
        loaded: &Loaded,
        read: &ReadJournal,
        replayed: Replayed,
    ) -> Result<Arc<Registry>, RecoveryError> {
        let (journal, checkpoint) = (&read.journal, loaded.checkpoint.as_ref());
        let has_journal = self.durability != Durability::Overflow;
        let store = Store::new(
            self.home,
            self.unsynced,
            self.data_dir,
            self.durability,
            journal,
            journal_from(checkpoint),
        );
        let numbers = Numbers::new(replayed.next_numbers, replayed.sequences_used);
        let engine = Engine::new(store, numbers, self.limits, self.policies, self.logger, self.log_context);
        let registry = Registry::new(engine.clone(), self.oracle);
        let is_clean = checkpoint.is_none_or(|checkpoint| checkpoint.clean_shutdown);
        let used_to = (!has_journal && !is_clean).then(|| Numbers::sequence_of_time(self.clocks.wall_ns));
        let numbers: BTreeSet<TopicNumber> = replayed.topics.keys().copied().collect();
        for (number, mut topic) in replayed.topics {
            topic.end_with_segments(used_to);
            registry.adopt(open_topic(&engine, number, topic).map_err(RecoveryError::Segment)?);
        }
        remove_orphans(&engine, &numbers);
        if registry.all_unsorted().iter().any(|topic| topic.log().has_failed_to_spill()) {
            engine.set_failed(
                Part::Spilling,
                "cannot write segment: the volume is full; topics hold more in memory than allowed",
            );
        }
        if !has_journal {
            stop::move_journal_to_segments(&registry, journal).map_err(RecoveryError::MoveJournal)?;
        }
        Ok(registry)
    }

    fn damage(&self) -> &Damage {
        &self.log_context.damage
    }
}

/// The place from which a checkpoint needs the journal.
fn journal_from(checkpoint: Option<&Checkpoint>) -> Lsn {
    checkpoint.map_or_else(Default::default, |checkpoint| checkpoint.journal_from)
}

fn open_topic(engine: &Arc<Engine>, number: TopicNumber, mut topic: ReplayedTopic) -> io::Result<Arc<Topic>> {
    topic.log().skip_to(topic.end);
    topic.tidy()?;
    let point = topic.state.point();
    let parts = TopicParts {
        name: topic.name.clone(),
        number,
        log: topic.log().clone(),
        point: ReleasePoint::new(point.released(), topic.end, point.is_paused(), true),
        counters: topic.counters,
        own: topic.state.own().clone(),
        ids: std::mem::take(&mut topic.ids),
        adoptions: std::mem::take(&mut topic.adoptions),
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
    let Ok(found) = engine.store.data_dir.topic_numbers(&*engine.store.storage) else { return };
    for number in found.into_iter().filter(|number| !numbers.contains(number)) {
        let dir = engine.store.data_dir.topic_dir(number);
        let is_damaged = |names: Vec<String>| names.iter().any(|name| is_set_aside(name.as_ref()));
        if engine.store.storage.list(&dir).is_ok_and(is_damaged) {
            continue;
        }
        if let Err(error) = engine.store.storage.remove_dir_all(&dir) {
            crate::log_error!(engine, "cannot remove the files of deleted topic {number}: {error}");
        }
    }
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
