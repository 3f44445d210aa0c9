//! `nsq to-file` and `nsq_to_file`: archive topics in files. A message is finished only after its record is synced.
//!
//! In reading order: this file (flags, and the loop of a topic), `record` (the form of a message), `names` (of files),
//! `archive` (writing files), `files` (locks and moves), `finished` (commands and limits of finished files), `gzip_tail` and
//! `zstd_tail` (what a crash leaves).

mod archive;
mod files;
mod finished;
mod gzip_tail;
mod names;
mod record;
mod zstd_tail;

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use nsq::{Config, Message, MessageStream, Requeue};
use nsq_daemon::log::Logger;
use nsq_daemon::metrics::{Exposition, Kind};
use nsq_daemon::{debug, error, go_duration, go_flags, hostname, info, warn};
use nsq_protocol::{ChannelName, TopicName};
use regex::bytes::Regex;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use super::flags::BridgeFlags;
use super::held::{Held, touch_time};
use super::topics::{Discovery, Topics};
use super::{Bridge, Origin, Signals, Start, TopicWork, Work};
use crate::command::Context;
use crate::exit_status::{ExitStatus, Failure};
use crate::patterns::parse_pattern;
use archive::{Archive, Compress, FileCounts, Layout, SizeOf};
use finished::Retain;
use names::{FileNames, Parts};
use record::{OnNewline, RecordFormat, RecordStyle, Records};

/// Pause between two attempts to write while the disk is full.
const DISK_FULL_PAUSE: Duration = Duration::from_secs(1);

/// Flags that have the same meaning in `nsq to-file` and `nsq_to_file`.
#[derive(Debug, Args)]
pub struct ToFileFlags {
    /// Topic to archive; may be repeated.
    #[arg(long)]
    topic: Vec<String>,
    /// Archive the topics that nsqlookupds know and that match this regular expression. With --topic, archive those of them
    /// that match.
    #[arg(long, value_name = "REGEX", default_value = "", hide_default_value = true)]
    topic_pattern: String,
    /// How often to ask nsqlookupds for topics.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = go_duration::parse)]
    topic_refresh: Duration,
    /// Channel to consume.
    #[arg(long, default_value = "nsq_to_file")]
    channel: String,
    /// Maximum number of messages in flight per topic, which is also the maximum number per sync.
    #[arg(long, value_name = "N", default_value = "200", value_parser = go_flags::parse_int)]
    max_in_flight: i64,
    /// Directory of finished files.
    #[arg(long, value_name = "DIR", default_value = "/tmp")]
    output_dir: String,
    /// Directory of unfinished files, which are moved when finished. [default: the output directory]
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    work_dir: String,
    /// Name of files. <TOPIC>, <HOST>, <PID>, <DATETIME> and <REV>, a revision, are replaced; slashes make directories.
    #[arg(long, value_name = "FORMAT", default_value = "<TOPIC>.<HOST><REV>.<DATETIME>.log")]
    filename_format: String,
    /// What stands for <DATETIME>, as for strftime, in local time. When it changes, the next file begins.
    #[arg(long, value_name = "FORMAT", default_value = "%Y-%m-%d_%H")]
    datetime_format: String,
    /// What stands for <HOST>; may contain <SHORT_HOST> and <HOSTNAME>. [default: the short host name]
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    host_identifier: String,
    /// Compress files with gzip. Each sync ends a gzip member, so that everything finished can be decompressed.
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, default_value_t = false, num_args = 0..=1,
          require_equals = true, default_missing_value = "true", hide_default_value = true)]
    gzip: bool,
    /// Level of gzip, 1 to 9.
    #[arg(long, value_name = "LEVEL", default_value = "6", value_parser = go_flags::parse_int)]
    gzip_level: i64,
    /// Compression of files: none, gzip or zstd. Each sync ends a zstd frame. [default: none, with --gzip gzip]
    #[arg(long, value_name = "KIND", default_value = "", hide_default_value = true)]
    compress: String,
    /// Level of zstd, 1 to 19.
    #[arg(long, value_name = "LEVEL", default_value = "3", value_parser = go_flags::parse_int)]
    zstd_level: i64,
    /// Start the next file when a file has more than this many bytes; 0 is no limit.
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = go_flags::parse_int)]
    rotate_size: i64,
    /// Bytes that count for --rotate-size: raw (before compression) or file (after it).
    #[arg(long, value_name = "WHICH", default_value = "raw", hide_possible_values = true)]
    rotate_size_of: SizeOf,
    /// Start the next file after this time; 0 is no limit.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = go_duration::parse)]
    rotate_interval: Duration,
    /// Maximum time between two syncs, and thus until a message is finished.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = go_duration::parse)]
    sync_interval: Duration,
    /// Form of a message: line (body and line feed), json (an object per line, with id, time, attempts and node) or length
    /// (four bytes with the length, and the body).
    #[arg(long, value_name = "FORM", default_value = "line")]
    record: RecordFormat,
    /// Line feeds inside bodies, with --record line: keep, escape (as \n, and a backslash as \\) or json (JSON on one line,
    /// other bodies as JSON strings).
    #[arg(long, value_name = "WAY", default_value = "keep", hide_possible_values = true)]
    on_newline: OnNewline,
    /// Delete the topic's oldest finished files above this age, such as 30d, or above this size of all of them, such as
    /// 10GB; may be repeated.
    #[arg(long, value_name = "LIMIT")]
    retain: Vec<Retain>,
    /// Run this shell command for each finished file and wait for it. $1 and NSQ_FILE are the file, NSQ_TOPIC is the topic.
    /// A failure is logged.
    #[arg(long, value_name = "COMMAND")]
    on_rotate: Option<String>,
    /// Touch messages that wait for a sync, so that they do not time out.
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, default_value_t = true, num_args = 0..=1,
          require_equals = true, default_missing_value = "true")]
    touch: bool,
    /// How long to try again while the disk is full.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = go_duration::parse)]
    disk_full_wait: Duration,
    /// Timeout for connecting to an nsqlookupd to ask for topics.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = go_duration::parse)]
    http_client_connect_timeout: Duration,
    /// Timeout for the topics of an nsqlookupd.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = go_duration::parse)]
    http_client_request_timeout: Duration,
    #[command(flatten)]
    bridge: BridgeFlags,
}

/// Flags of `nsq to-file`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nsq to-file --topic orders --output-dir archive
  nsq to-file --topic orders --output-dir archive --work-dir work --compress zstd --rotate-size 100000000
  nsq to-file --topic orders --output-dir archive --rotate-interval 1h --retain 30d --on-rotate 'ls -l \"$1\"'")]
pub struct Flags {
    #[command(flatten)]
    shared: ToFileFlags,
    /// Also create files without messages: one per period of time.
    #[arg(long)]
    empty_files: bool,
}

/// Runs `nsq to-file`.
pub fn run(context: Context, flags: Flags) -> Result<ExitStatus, Failure> {
    let config = context.targets.security.config.clone();
    let from = Origin::Cluster(Box::new(context.targets));
    let run = Run { name: "nsq to-file", from, has_lookupds: None, config, empty_files: flags.empty_files };
    flags.shared.run(run)
}

/// What the two programs choose differently.
#[derive(Debug)]
pub struct Run {
    pub name: &'static str,
    pub from: Origin,
    /// Whether there are nsqlookupds to ask for topics, if that is known.
    pub has_lookupds: Option<bool>,
    pub config: Config,
    pub empty_files: bool,
}

impl ToFileFlags {
    pub fn logger(&self, name: &str) -> Logger {
        self.bridge.logger(name)
    }

    pub fn run(self, run: Run) -> Result<ExitStatus, Failure> {
        let must_connect = matches!(run.from, Origin::Fixed(_));
        let archiver = self.archiver(run.empty_files)?;
        let topics = self.topics(run.has_lookupds)?;
        let config = run.config.max_in_flight(archiver.max_in_flight);
        let start = Start {
            name: run.name,
            flags: self.bridge,
            from: run.from,
            topics,
            channel: self.channel,
            config,
            must_connect,
        };
        super::run(start, archiver)
    }

    /// Checks the flags. A wrong one is found before anything is consumed.
    fn archiver(&self, empty_files: bool) -> Result<Archiver, Failure> {
        let max_in_flight = u32::try_from(self.max_in_flight).ok().filter(|n| (1..=1_000_000).contains(n));
        let max_in_flight = max_in_flight
            .ok_or_else(|| wrong("max-in-flight", self.max_in_flight, "it must be 1 to 1000000"))?;
        let gzip_level = u32::try_from(self.gzip_level).ok().filter(|level| (1..=9).contains(level));
        let gzip_level =
            gzip_level.ok_or_else(|| wrong("gzip-level", self.gzip_level, "it must be 1 to 9"))?;
        let rotate_bytes = u64::try_from(self.rotate_size)
            .map_err(|_| wrong("rotate-size", self.rotate_size, "it must be 0 or more"))?;
        if self.sync_interval.is_zero() {
            return Err(wrong("sync-interval", "0s", "it must be greater than zero, such as 30s"));
        }
        ChannelName::new(&self.channel).map_err(|_| {
            wrong("channel", &self.channel, "a name has 1 to 64 characters of a-z A-Z 0-9 . _ -")
        })?;
        let output_dir = PathBuf::from(&self.output_dir);
        let work_dir =
            if self.work_dir.is_empty() { output_dir.clone() } else { PathBuf::from(&self.work_dir) };
        let compress = match (self.compress.as_str(), self.gzip) {
            ("", true) | ("gzip", _) => Some(Compress::Gzip(gzip_level)),
            ("", false) | ("none", false) => None,
            ("none" | "zstd", true) => return Err(wrong("compress", &self.compress, "--gzip says gzip")),
            ("zstd", false) => {
                let level = i32::try_from(self.zstd_level).ok().filter(|level| (1..=19).contains(level));
                Some(Compress::Zstd(
                    level.ok_or_else(|| wrong("zstd-level", self.zstd_level, "it must be 1 to 19"))?,
                ))
            }
            _ => return Err(wrong("compress", &self.compress, "expected none, gzip or zstd")),
        };
        if self.on_newline != OnNewline::Keep && self.record != RecordFormat::Line {
            return Err(Failure::usage("--on-newline is only used with --record line"));
        }
        let layout = Layout {
            output_dir,
            work_dir,
            compress,
            record: RecordStyle { format: self.record, on_newline: self.on_newline },
            rotate_bytes,
            rotate_size_of: self.rotate_size_of,
            rotate_interval: self.rotate_interval,
            retain: self.retain.clone(),
            on_rotate: self.on_rotate.clone(),
        };
        let archiver = Archiver {
            layout: Arc::new(layout),
            filename_format: self.filename_format.clone(),
            datetime_format: self.datetime_format.clone(),
            host_identifier: self.host_identifier.clone(),
            max_in_flight,
            sync_interval: self.sync_interval,
            touch: self.touch,
            disk_full_wait: self.disk_full_wait,
            empty_files,
            counts: Arc::default(),
        };
        // The format is the same for every topic.
        archiver.names("topic")?;
        Ok(archiver)
    }

    fn topics(&self, has_lookupds: Option<bool>) -> Result<Topics, Failure> {
        let pattern = match self.topic_pattern.is_empty() {
            true => None,
            false => Some(
                parse_pattern(&self.topic_pattern)
                    .map_err(|why| wrong("topic-pattern", &self.topic_pattern, &why))?,
            ),
        };
        for topic in &self.topic {
            TopicName::new(topic)
                .map_err(|_| wrong("topic", topic, "a name has 1 to 64 characters of a-z A-Z 0-9 . _ -"))?;
        }
        let is_wanted = |pattern: &Regex, topic: &String| pattern.is_match(topic.as_bytes());
        match (self.topic.is_empty(), pattern) {
            (false, None) => Ok(Topics::named(self.topic.iter().cloned())),
            (false, Some(pattern)) => {
                Ok(Topics::named(self.topic.iter().filter(|topic| is_wanted(&pattern, topic)).cloned()))
            }
            (true, None) => Err(Failure::usage("--topic or --topic-pattern required")),
            (true, Some(_)) if has_lookupds == Some(false) => {
                Err(Failure::usage("--lookupd-http-address must be specified when no --topic specified"))
            }
            (true, Some(pattern)) => Ok(Topics::matching(Discovery::new(
                pattern,
                self.topic_refresh,
                [self.http_client_connect_timeout, self.http_client_request_timeout],
            ))),
        }
    }
}

fn wrong(flag: &str, value: impl std::fmt::Display, why: &str) -> Failure {
    Failure::usage(format_args!("invalid --{flag} {value}: {why}"))
}

/// The settings of all topics.
#[derive(Debug)]
pub struct Archiver {
    layout: Arc<Layout>,
    filename_format: String,
    datetime_format: String,
    host_identifier: String,
    max_in_flight: u32,
    sync_interval: Duration,
    touch: bool,
    disk_full_wait: Duration,
    empty_files: bool,
    counts: Arc<FileCounts>,
}

impl Archiver {
    fn names(&self, topic: &str) -> Result<FileNames, Failure> {
        let layout = &self.layout;
        let is_rotated = layout.rotate_bytes > 0 || !layout.rotate_interval.is_zero();
        let parts = Parts {
            filename_format: &self.filename_format,
            datetime_format: &self.datetime_format,
            host_identifier: &self.host_identifier,
            hostname: &hostname(),
            pid: std::process::id(),
            topic,
            ending: layout.compress.map_or("", Compress::ending),
            needs_revision: layout.compress.is_some() || is_rotated || layout.moves(),
        };
        FileNames::new(&parts).map_err(Failure::usage)
    }
}

impl Work for Archiver {
    async fn run_topic(
        self: Arc<Self>,
        bridge: Arc<Bridge>,
        topic: String,
        mut signals: Signals,
    ) -> Result<(), Failure> {
        let label = format!("{topic}/{}", bridge.channel);
        let names = self.names(&topic)?;
        let (layout, counts) = (Arc::clone(&self.layout), Arc::clone(&self.counts));
        let archive = Archive::new(layout, names, [&topic, &bridge.channel], bridge.logger.clone(), counts);
        let mut topic_archive = TopicArchive {
            settings: self,
            bridge,
            topic,
            label,
            archive: Some(archive),
            held: Held::default(),
        };
        topic_archive.on_disk("finish the files of an earlier run", Archive::recover).await?;
        let bridge = Arc::clone(&topic_archive.bridge);
        let topic = topic_archive.topic.clone();
        bridge.run_stream(&topic, &mut topic_archive, &mut signals).await
    }

    fn expose(&self, page: &mut Exposition) {
        let counts = &self.counts;
        page.counter("nsq_to_file_records_total", "Records written to files.", counts.records.get());
        page.counter("nsq_to_file_bytes_total", "Bytes written, before compression.", counts.bytes.get());
        page.counter("nsq_to_file_files_opened_total", "Files opened.", counts.opened.get());
        page.counter("nsq_to_file_files_finished_total", "Files finished.", counts.finished.get());
        let help = "Files that --retain deleted.";
        page.counter("nsq_to_file_files_deleted_total", help, counts.deleted.get());
        let help = "Commands of --on-rotate that failed.";
        page.counter("nsq_to_file_on_rotate_failures_total", help, counts.failed_commands.get());
        let help = "Writes and syncs that failed and were tried again.";
        page.counter("nsq_to_file_failures_total", help, counts.failures.get());
        page.family("nsq_to_file_sync_seconds", Kind::Histogram, "Duration of syncs.")
            .histogram(&[], &counts.syncs.buckets());
    }
}

struct TopicArchive {
    settings: Arc<Archiver>,
    bridge: Arc<Bridge>,
    topic: String,
    /// Topic and channel, for log lines.
    label: String,
    /// `None` while a blocking task has it.
    archive: Option<Archive>,
    /// Messages that are not finished: written and not synced, or not written because the disk is full. At most
    /// `max_in_flight`.
    held: Held<Message>,
}

impl TopicWork for TopicArchive {
    async fn take(&mut self, stream: &mut MessageStream, signals: &mut Signals) -> Result<(), Failure> {
        let consumer = stream.consumer().clone();
        let limit = self.settings.max_in_flight as usize;
        let mut ticks = interval(self.settings.sync_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once.
        ticks.tick().await;
        let mut arrived = Vec::new();
        loop {
            let room = limit.saturating_sub(self.held.len());
            let touch_at = self.held.next_touch();
            tokio::select! {
                () = signals.stop.cancelled() => return Ok(()),
                Ok(()) = signals.hangup.changed() => {
                    self.sync_and_finish().await?;
                    self.on_disk("close the file", Archive::close).await?;
                }
                _ = ticks.tick() => self.tick().await?,
                () = until(touch_at) => self.touch_due(),
                count = stream.next_many(&mut arrived, room), if room > 0 => {
                    if count == 0 {
                        return Err(Failure::failed(format_args!("[{}] the consumer has stopped", self.label)));
                    }
                    let opened = self.write(&mut arrived).await?;
                    let is_idle = consumer.stats().queued == 0;
                    if opened || self.held.len() >= limit || (is_idle && consumer.is_starved()) {
                        self.sync_and_finish().await?;
                    }
                }
            }
        }
    }

    async fn finish(&mut self, taken: Result<(), Failure>) -> Result<(), Failure> {
        let done = match taken {
            Ok(()) => self.sync_and_finish().await,
            failed => failed,
        };
        for message in self.held.take() {
            // If the connection is closed, nsqd has already requeued the message.
            let _ = message.requeue_without_backoff(Requeue::Now);
        }
        match done {
            Ok(()) => self.on_disk("close the file", Archive::close).await,
            failed => failed,
        }
    }
}

impl TopicArchive {
    /// Writes messages, which are held until the next sync. Returns whether the sync is due now.
    async fn write(&mut self, arrived: &mut Vec<Message>) -> Result<bool, Failure> {
        let mut records = Records::default();
        for message in arrived.drain(..) {
            records.push(self.settings.layout.record, &self.topic, &message);
            let touch_at = touch_time(message.received_at(), message.deadline());
            self.held.push(message, touch_at.filter(|_| self.settings.touch));
        }
        match self.blocking(move |archive| archive.append(&records)).await? {
            Ok(opened) => Ok(opened),
            Err(error) => self.write_again(error).await.map(|()| false),
        }
    }

    async fn tick(&mut self) -> Result<(), Failure> {
        let empty_files = self.settings.empty_files;
        let rotate = move |archive: &mut Archive| match archive.is_rotation_due() {
            true if empty_files => archive.rotate_now(),
            true => archive.close(),
            false => Ok(()),
        };
        let tick = move |archive: &mut Archive| {
            rotate(archive)?;
            archive.retain_if_due();
            Ok(())
        };
        if let Err(error) = self.blocking(tick).await? {
            self.write_again(error).await?;
        }
        self.sync_and_finish().await
    }

    /// Finishes what is written, once it is durable.
    async fn sync_and_finish(&mut self) -> Result<(), Failure> {
        if self.held.is_empty() {
            return Ok(());
        }
        match self.blocking(Archive::sync).await? {
            Ok(()) => self.finish_held(),
            Err(error) => self.write_again(error).await?,
        }
        Ok(())
    }

    fn finish_held(&mut self) {
        let (count, mut late) = (self.held.len(), 0u64);
        for message in self.held.take() {
            late += u64::from(message.finish().is_err());
        }
        debug!(self.bridge.logger, "[{}] synced {count} records", self.label);
        if late > 0 {
            let label = &self.label;
            warn!(
                self.bridge.logger,
                "[{label}] {late} messages were archived too late: nsqd delivers them again"
            );
        }
    }

    /// After a failure, what is held may not be on the disk. If the disk is full, writes it to another file as soon as there
    /// is room, and finishes it. Any other failure ends the bridge: nsqd delivers the messages again.
    async fn write_again(&mut self, mut error: io::Error) -> Result<(), Failure> {
        let give_up_at = Instant::now() + self.settings.disk_full_wait;
        loop {
            self.settings.counts.failures.add(1);
            let is_full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
            if !is_full || Instant::now() >= give_up_at {
                return Err(self.disk_failure("write", &error));
            }
            let (label, held) = (&self.label, self.held.len());
            error!(self.bridge.logger, "[{label}] {error}: trying again; {held} messages are not finished");
            if let Err(error) = self.blocking(Archive::abandon).await? {
                warn!(self.bridge.logger, "[{}] cannot cut the file: {error}", self.label);
            }
            self.touching(sleep(DISK_FULL_PAUSE)).await;
            let mut records = Records::default();
            for message in self.held.iter() {
                records.push(self.settings.layout.record, &self.topic, message);
            }
            let write = move |archive: &mut Archive| {
                archive.append(&records)?;
                archive.sync()
            };
            match self.blocking(write).await? {
                Ok(()) => {
                    info!(self.bridge.logger, "[{}] writing works again", self.label);
                    self.finish_held();
                    return Ok(());
                }
                Err(again) => error = again,
            }
        }
    }

    async fn on_disk(
        &mut self,
        what: &str,
        action: impl FnOnce(&mut Archive) -> io::Result<()> + Send + 'static,
    ) -> Result<(), Failure> {
        let done = self.blocking(action).await?;
        done.map_err(|error| self.disk_failure(what, &error))
    }

    fn disk_failure(&self, what: &str, error: &io::Error) -> Failure {
        let Layout { work_dir, output_dir, .. } = &*self.settings.layout;
        let folder = if self.settings.layout.moves() {
            format!("{} and {}", work_dir.display(), output_dir.display())
        } else {
            output_dir.display().to_string()
        };
        Failure::failed(format_args!("[{}] cannot {what} in {folder}: {error}", self.label))
    }

    /// Runs a blocking action, and touches messages meanwhile.
    async fn blocking<T: Send + 'static>(
        &mut self,
        action: impl FnOnce(&mut Archive) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let Some(mut archive) = self.archive.take() else {
            return Err(Failure::failed(format_args!("[{}] writing has failed", self.label)));
        };
        let task = tokio::task::spawn_blocking(move || {
            let done = action(&mut archive);
            (archive, done)
        });
        let (archive, done) = self.touching(task).await.map_err(Failure::failed)?;
        self.archive = Some(archive);
        Ok(done)
    }

    /// Touches messages until `work` is done.
    async fn touching<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            let touch_at = self.held.next_touch();
            tokio::select! {
                done = &mut work => return done,
                () = until(touch_at) => self.touch_due(),
            }
        }
    }

    fn touch_due(&mut self) {
        let now = Instant::now();
        self.held.touch_due(now, |message| {
            // If it is too late, nsqd delivers the message again.
            message.touch().ok()?;
            touch_time(now, message.deadline())
        });
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
