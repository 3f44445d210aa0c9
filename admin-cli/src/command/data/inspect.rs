//! `nsq data inspect`: shows the contents of a data directory.

use std::collections::BTreeMap;
use std::time::SystemTime;

use clap::Args;
use nsq_protocol::{ChannelStats, FRAME_HEADER_BYTES, MessageView, TopicStats};
use nsqd::channel::saved::Clocks;
use nsqd::clock;
use nsqd::producers::Producers;
use nsqd::stats::{self, StatsRequest};
use nsqd::storage::TopicNumber;
use nsqd::storage::checkpoint::{self, Checkpoint, TopicCheckpoint};
use nsqd::storage::file_kind::{is_retired, is_set_aside};
use nsqd::storage::journal;
use nsqd::storage::segment::{BlockRef, SegmentStore};
use serde::Serialize;

use super::directory::{Directory, DirectoryFlags, View};
use super::inspect_table;
use super::journal_check::JournalCheck;
use super::queues::{NsqFiles, Piece, Queue};
use super::recovered::{self, Recovered, recover};
use crate::body::rfc3339;
use crate::exit_status::{ExitStatus, Failure};
use crate::output::Output;

#[derive(Debug, Args)]
pub struct InspectFlags {
    #[command(flatten)]
    directory: DirectoryFlags,
    /// Only this topic; may be repeated.
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
}

/// The contents of a data directory.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Path of the directory.
    pub path: String,
    /// Data of this nsqd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ours: Option<Ours>,
    /// Files that NSQ left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nsq: Option<Nsq>,
    /// Warnings that a start would log.
    pub warnings: Vec<String>,
}

/// Data of this nsqd.
#[derive(Debug, Serialize)]
pub struct Ours {
    /// Version in the format file; `None` if the file is missing or invalid.
    pub format_version: Option<u32>,
    /// `None` if there is no checkpoint.
    pub checkpoint: Option<CheckpointReport>,
    pub journal: JournalSummary,
    /// The topics as a start would find them.
    pub topics: Vec<TopicReport>,
    /// Files that a start set aside because it could not read them.
    pub damaged_files: Vec<String>,
}

/// A checkpoint file.
#[derive(Debug, Serialize)]
pub struct CheckpointReport {
    /// Length of the file.
    pub bytes: u64,
    /// When the file was written.
    pub written_at: String,
    /// Age of the file.
    pub age_seconds: u64,
    /// Whether the daemon stopped cleanly and has not run since.
    pub clean_shutdown: bool,
    /// File and offset from which a start replays the journal.
    pub journal_from: String,
}

/// The journal and its files.
#[derive(Debug, Serialize)]
pub struct JournalSummary {
    /// Bytes of all files on disk.
    pub bytes: u64,
    /// Records in all files.
    pub record_count: u64,
    pub files: Vec<JournalFile>,
    /// Retired files that are kept for reuse.
    pub spare_file_count: u64,
    /// File and offset at which a kill cut off the last write; `None` if no write was cut off.
    pub torn_at: Option<String>,
}

/// A journal file.
#[derive(Debug, Serialize)]
pub struct JournalFile {
    /// Path relative to the directory.
    pub file: String,
    /// Length on disk.
    pub bytes: u64,
    /// Bytes of the records in it.
    pub record_bytes: u64,
    /// Messages published in it.
    pub message_count: u64,
    /// Number of records by kind.
    pub records: BTreeMap<&'static str, u64>,
}

/// A topic. Numbers that are also in `/stats` have the value that `/stats` would show after a start.
#[derive(Debug, Serialize)]
pub struct TopicReport {
    pub topic_name: String,
    /// Number of the topic, which names its directory.
    pub number: TopicNumber,
    /// Messages not yet released to channels.
    pub depth: i64,
    /// Messages ever published.
    pub message_count: u64,
    /// Body bytes of these messages.
    pub message_bytes: u64,
    /// Whether the topic is paused.
    pub paused: bool,
    pub segments: Segments,
    pub channels: Vec<ChannelReport>,
}

/// A channel.
#[derive(Debug, Serialize)]
pub struct ChannelReport {
    pub channel_name: String,
    /// Messages that can be handed out.
    pub depth: i64,
    /// The part of `depth` that was handed out before: requeued, or in flight at the end.
    pub redelivery_count: u64,
    /// Always 0, because no consumer is connected after a start.
    pub in_flight_count: i64,
    /// Deferred messages.
    pub deferred_count: i64,
    /// Messages that ever entered the channel.
    pub message_count: u64,
    /// Number of requeues so far.
    pub requeue_count: u64,
    /// Number of timeouts so far.
    pub timeout_count: u64,
    /// Whether the channel is paused.
    pub paused: bool,
}

/// The segments of a topic.
#[derive(Debug, Default, Serialize)]
pub struct Segments {
    /// Number of files.
    pub file_count: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Messages in the files, finished or not.
    pub message_count: u64,
    /// Sequence number of the first message.
    pub first_sequence: Option<u64>,
    /// Sequence number of the last message.
    pub last_sequence: Option<u64>,
    /// When the first message was published.
    pub oldest_timestamp: Option<String>,
    /// When the last message was published.
    pub newest_timestamp: Option<String>,
}

/// Files that NSQ left.
#[derive(Debug, Serialize)]
pub struct Nsq {
    /// Whether a start would take them over. Otherwise it does not touch them.
    pub takeover_is_due: bool,
    /// Why `nsqd.dat` cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata_error: Option<String>,
    pub queues: Vec<QueueReport>,
}

/// A queue of NSQ.
#[derive(Debug, Serialize)]
pub struct QueueReport {
    pub topic_name: String,
    /// `None` for the topic's own queue.
    pub channel_name: Option<String>,
    /// Whether the queue is in `nsqd.dat`. NSQ opens only these queues, and only these are taken over.
    pub listed: bool,
    /// Whether the topic or channel is paused.
    pub paused: bool,
    /// Number of data files.
    pub file_count: u64,
    /// Bytes of the data files.
    pub bytes: u64,
    /// Messages that were not handed out.
    pub message_count: u64,
    /// Depth in NSQ's position file.
    pub recorded_depth: Option<i64>,
    /// When the oldest of the messages was published.
    pub oldest_timestamp: Option<String>,
    /// When the newest of the messages was published.
    pub newest_timestamp: Option<String>,
    /// Stretches that are not valid messages.
    pub damage_count: u64,
    /// Irregularities of the queue.
    pub oddities: Vec<String>,
}

/// Prints the contents of the directory.
pub fn run(output: Output, flags: &InspectFlags) -> Result<ExitStatus, Failure> {
    let directory = Directory::open(&flags.directory.path)?;
    let report = inspect(&directory, &flags.topics)?;
    directory.check_unchanged()?;
    for name in &flags.topics {
        let ours = report.ours.iter().flat_map(|ours| &ours.topics).map(|topic| &topic.topic_name);
        let nsqs = report.nsq.iter().flat_map(|nsq| &nsq.queues).map(|queue| &queue.topic_name);
        if !ours.chain(nsqs).any(|found| found == name) {
            return Err(Failure::new(
                ExitStatus::NotFound,
                format_args!("there is no topic {name} in {}", report.path),
            ));
        }
    }
    if output.is_json() {
        output.json(&report)?;
    } else {
        inspect_table::print(output, &report)?;
    }
    Ok(ExitStatus::Done)
}

fn inspect(directory: &Directory, topics: &[String]) -> Result<Report, Failure> {
    let mut warnings = Vec::new();
    // If a takeover is due, nothing in this nsqd's files counts.
    let ours = match directory.is_ours && !directory.takeover_is_due {
        true => Some(inspect_ours(directory, topics, &mut warnings)?),
        false => None,
    };
    let nsq = directory.has_nsq.then(|| inspect_nsq(directory, topics)).transpose()?;
    Ok(Report { path: directory.path().display().to_string(), ours, nsq, warnings })
}

fn inspect_ours(
    directory: &Directory,
    topics: &[String],
    warnings: &mut Vec<String>,
) -> Result<Ours, Failure> {
    let view = directory.view()?;
    let saved = checkpoint::read(&*view.storage, &view.data_dir.checkpoint_path());
    let checkpoint = match saved {
        Ok(saved) => saved.map(|saved| checkpoint_report(&view, &saved)),
        Err(error) => {
            warnings.push(error.to_string());
            None
        }
    };
    let journal = journal_summary(directory, &view)?;
    let damaged_files = damaged_files(&view)?;
    let Recovered { registry, warnings: recovery_warnings } = recover(directory)?;
    warnings.extend(recovery_warnings);
    let request = StatsRequest { include_clients: false, include_memory: false, ..StatsRequest::default() };
    let stats = stats::collect(&registry, &Producers::default(), 0, request);
    // A separate view, because the recovery may have moved messages to segments in its own.
    let view = directory.view()?;
    let clocks = Clocks { monotonic: clock::monotonic(), wall_ns: clock::wall_ns() };
    let wanted = |name: &str| topics.is_empty() || topics.iter().any(|topic| topic == name);
    let mut reports = Vec::new();
    for stats in stats.topics.into_iter().flatten().filter(|stats| wanted(&stats.topic_name)) {
        let Some(topic) = registry.get(&stats.topic_name) else { continue };
        let segments = inspect_segments(&view, topic.number())?;
        reports.push(topic_report(stats, &topic.save(clocks), segments, clocks.wall_ns));
    }
    let format_version = format_version(&view, warnings);
    Ok(Ours { format_version, checkpoint, journal, topics: reports, damaged_files })
}

fn topic_report(stats: TopicStats, saved: &TopicCheckpoint, segments: Segments, now_ns: i64) -> TopicReport {
    let redelivery_count = |name: &str| {
        let channel = saved.channels.iter().find(|channel| channel.name == name);
        let outstanding = channel.into_iter().flat_map(|channel| &channel.outstanding);
        outstanding.filter(|entry| entry.due_ns <= now_ns).count() as u64
    };
    let channel = |stats: ChannelStats| ChannelReport {
        redelivery_count: redelivery_count(&stats.channel_name),
        channel_name: stats.channel_name,
        depth: stats.depth,
        in_flight_count: stats.in_flight_count,
        deferred_count: stats.deferred_count,
        message_count: stats.message_count,
        requeue_count: stats.requeue_count,
        timeout_count: stats.timeout_count,
        paused: stats.paused,
    };
    TopicReport {
        topic_name: stats.topic_name,
        number: saved.number,
        depth: stats.depth,
        message_count: stats.message_count,
        message_bytes: stats.message_bytes,
        paused: stats.paused,
        segments,
        channels: stats.channels.into_iter().map(channel).collect(),
    }
}

fn format_version(view: &View, warnings: &mut Vec<String>) -> Option<u32> {
    let text = std::fs::read_to_string(view.data_dir.format_path()).ok()?;
    let version = text.trim().parse().ok();
    if version.is_none() {
        warnings.push("the file `format` holds no format version: nsqd would not start".to_owned());
    }
    version
}

fn checkpoint_report(view: &View, saved: &Checkpoint) -> CheckpointReport {
    let found = std::fs::metadata(view.data_dir.checkpoint_path()).ok();
    let written = found.as_ref().and_then(|found| found.modified().ok()).unwrap_or(SystemTime::UNIX_EPOCH);
    let since_epoch = written.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    CheckpointReport {
        bytes: found.map_or(0, |found| found.len()),
        written_at: rfc3339(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)),
        age_seconds: written.elapsed().unwrap_or_default().as_secs(),
        clean_shutdown: saved.clean_shutdown,
        journal_from: saved.journal_from.to_string(),
    }
}

fn journal_summary(directory: &Directory, view: &View) -> Result<JournalSummary, Failure> {
    let dir = view.data_dir.journal_dir();
    let names = view.storage.list(&dir).unwrap_or_default();
    let spare_file_count = names.iter().filter(|name| is_retired(name.as_ref())).count() as u64;
    let paths: BTreeMap<u64, _> =
        names.iter().filter_map(|name| Some((journal::file_number(name)?, dir.join(name)))).collect();
    let check = JournalCheck::read(view, |_, _| {})?;
    let file = |(number, path): (&u64, &std::path::PathBuf)| {
        let counts = check.files.get(number).cloned().unwrap_or_default();
        JournalFile {
            file: directory.relative(path),
            bytes: std::fs::metadata(path).map_or(0, |found| found.len()),
            record_bytes: counts.record_bytes,
            message_count: counts.message_count,
            records: counts.records,
        }
    };
    let files: Vec<JournalFile> = paths.iter().map(file).collect();
    Ok(JournalSummary {
        bytes: files.iter().map(|file| file.bytes).sum(),
        record_count: check.report.records,
        files,
        spare_file_count,
        torn_at: check.report.torn_at.map(|at| at.to_string()),
    })
}

fn damaged_files(view: &View) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    let numbers = view.data_dir.topic_numbers(&*view.storage).map_err(Failure::failed)?;
    let dirs = numbers.into_iter().map(|number| view.data_dir.topic_dir(number));
    for dir in dirs.chain([view.data_dir.path().to_owned(), view.data_dir.journal_dir()]) {
        let names = view.storage.list(&dir).unwrap_or_default();
        let damaged = names.iter().map(|name| dir.join(name)).filter(|path| is_set_aside(path));
        let inside = |path: std::path::PathBuf| {
            path.strip_prefix(view.data_dir.path()).unwrap_or(&path).display().to_string()
        };
        found.extend(damaged.map(inside));
    }
    Ok(found)
}

fn inspect_segments(view: &View, topic: TopicNumber) -> Result<Segments, Failure> {
    let dir = view.data_dir.topic_dir(topic);
    let limits = recovered::limits();
    let (store, mut blocks, _) = SegmentStore::open(view.storage.clone(), dir, limits.max_bytes_per_file)
        .map_err(|error| {
            Failure::failed(format_args!("cannot read the segments of topic {topic}: {error}"))
        })?;
    let mut segments =
        Segments { file_count: store.files().count() as u64, bytes: store.bytes(), ..Segments::default() };
    blocks.sort_unstable_by_key(|block| block.first_sequence);
    segments.message_count = blocks.iter().map(|block| u64::from(block.count)).sum();
    segments.first_sequence = blocks.first().map(|block| block.first_sequence);
    segments.last_sequence = blocks.iter().map(|block| block.end_sequence() - 1).max();
    segments.oldest_timestamp = blocks.first().and_then(|block| timestamp(block, 0));
    let newest = blocks.iter().max_by_key(|block| block.end_sequence());
    segments.newest_timestamp = newest.and_then(|block| timestamp(block, block.count as usize - 1));
    Ok(segments)
}

/// When a message of a block was published; `None` if the block is damaged.
fn timestamp(block: &BlockRef, index: usize) -> Option<String> {
    let loaded = block.read().ok()?;
    let view = MessageView::parse(loaded.frame(index)?.get(FRAME_HEADER_BYTES..)?)?;
    Some(rfc3339(view.timestamp_ns))
}

fn inspect_nsq(directory: &Directory, topics: &[String]) -> Result<Nsq, Failure> {
    let files = NsqFiles::find(directory)?;
    let wanted = |queue: &&Queue| topics.is_empty() || topics.contains(&queue.topic);
    let mut queues = Vec::new();
    for queue in files.queues.iter().filter(wanted) {
        queues.push(inspect_queue(directory, &files, queue)?);
    }
    Ok(Nsq {
        takeover_is_due: directory.takeover_is_due,
        metadata_error: files.metadata.as_ref().err().cloned(),
        queues,
    })
}

fn inspect_queue(directory: &Directory, files: &NsqFiles, queue: &Queue) -> Result<QueueReport, Failure> {
    let (mut message_count, mut damage_count) = (0, 0);
    let mut times: Option<(i64, i64)> = None;
    files.read(directory, queue, false, |piece| {
        match piece {
            Piece::Message(header, _) => {
                message_count += 1;
                let at = header.timestamp_ns;
                let (oldest, newest) = times.unwrap_or((at, at));
                times = Some((oldest.min(at), newest.max(at)));
            }
            Piece::Damage(..) => damage_count += 1,
            Piece::Torn(..) => {}
        }
        Ok(())
    })?;
    Ok(QueueReport {
        topic_name: queue.topic.clone(),
        channel_name: queue.channel.clone(),
        listed: queue.is_listed,
        paused: queue.is_paused,
        file_count: queue.files.len() as u64,
        bytes: queue.bytes(),
        message_count,
        recorded_depth: queue.position.and_then(|position| position.depth),
        oldest_timestamp: times.map(|(oldest, _)| rfc3339(oldest)),
        newest_timestamp: times.map(|(_, newest)| rfc3339(newest)),
        damage_count,
        oddities: queue.oddities.iter().map(ToString::to_string).collect(),
    })
}
