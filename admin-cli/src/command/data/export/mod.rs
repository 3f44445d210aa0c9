//! `nsq data export`: writes the messages of a data directory in a form for other programs.
//!
//! - `selection`: pure; selects the messages that a start would still deliver
//! - `ours`: reads them from this nsqd's files; [`queues`](super::queues) reads those of NSQ
//! - `sink`: where messages are written; `json_lines` and `nsq_format`: the formats
//! - `target`: a directory that exists only when it is complete

mod json_lines;
mod nsq_format;
mod ours;
mod selection;
mod sink;
mod target;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nsq_protocol::{ChannelName, MessageId, TopicName};

use self::json_lines::JsonLines;
use self::nsq_format::NsqFormat;
use self::sink::{Exported, QueueName, Sink};
use self::target::Target;
use super::directory::{Directory, DirectoryFlags};
use super::progress::Progress;
use super::queues::{NsqFiles, Piece};
use crate::exit_status::{ExitStatus, Failure};
use crate::output::Output;

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object per line.
    Jsonl,
    /// A data directory for NSQ's nsqd.
    Nsq,
}

#[derive(Debug, Args)]
pub struct ExportFlags {
    #[command(flatten)]
    directory: DirectoryFlags,
    /// Directory to create (with jsonl: one file per topic), or - for stdout (jsonl only).
    #[arg(value_name = "TARGET")]
    target: PathBuf,
    /// Output format. jsonl: one line per channel and message, with the fields of `nsq sub --json`, `deferred_until`
    /// for deferred messages, and no `channel_name` for messages that no channel has yet. nsq: nsqd.dat and disk
    /// queues; deferred messages are due at once and headers are left out, because NSQ stores neither.
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    /// Only this topic; may be repeated.
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Only channels of this name; may be repeated.
    #[arg(long = "channel", value_name = "CHANNEL", conflicts_with = "all")]
    channels: Vec<String>,
    /// Export every message that still exists, finished or not, once per topic and without channels.
    #[arg(long)]
    all: bool,
    /// Show progress even if stderr is not a terminal.
    #[arg(long)]
    progress: bool,
}

/// The topics and channels to export; all if empty.
#[derive(Debug, Clone, Default)]
struct Wanted {
    topics: Vec<String>,
    channels: Vec<String>,
}

impl Wanted {
    fn topic(&self, name: &str) -> bool {
        self.topics.is_empty() || self.topics.iter().any(|topic| topic == name)
    }

    /// If channels are given, messages that no channel has yet are not exported.
    fn channel(&self, name: Option<&str>) -> bool {
        self.channels.is_empty()
            || name.is_some_and(|name| self.channels.iter().any(|channel| channel == name))
    }
}

/// An export in progress: its sink and its counts.
struct Export<'a> {
    sink: &'a mut dyn Sink,
    /// Whether written messages remain if the export fails.
    is_stream: bool,
    progress: Progress,
    message_count: u64,
    body_bytes: u64,
    largest_body: usize,
    /// Messages that exist but cannot be read.
    lost_count: u64,
    /// Stretches of NSQ's files that cannot be read.
    damage_count: u64,
}

impl Export<'_> {
    fn write(&mut self, queue: &QueueName<'_>, message: &Exported<'_>) -> Result<(), Failure> {
        self.sink.message(queue, message).map_err(|failure| self.unfinished(failure))?;
        self.message_count += 1;
        self.body_bytes += message.body.len() as u64;
        self.largest_body = self.largest_body.max(message.body.len());
        let (count, bytes) = (self.message_count, self.body_bytes);
        self.progress.show(|| format!("{count} messages, {} MiB of bodies", bytes >> 20));
        Ok(())
    }

    fn unfinished(&self, failure: Failure) -> Failure {
        if failure.is_silent() {
            return failure;
        }
        let (count, bytes) = (self.message_count, self.body_bytes);
        let fate = if self.is_stream { "" } else { "; the incomplete output is deleted" };
        let text = format!("{}, after {count} messages with {bytes} bytes of bodies{fate}", failure.message);
        Failure { message: text, ..failure }
    }
}

/// Exports the messages to the target.
pub fn run(output: Output, flags: &ExportFlags) -> Result<ExitStatus, Failure> {
    check_names(flags)?;
    let to_stdout = flags.target.as_os_str() == "-";
    if to_stdout && flags.format == Format::Nsq {
        return Err(Failure::usage("--format=nsq creates a directory: give its path instead of -"));
    }
    let directory = Directory::open(&flags.directory.path)?;
    let wanted = Wanted { topics: flags.topics.clone(), channels: flags.channels.clone() };
    if to_stdout {
        let outcome = export(&directory, &wanted, flags, &mut JsonLines::to_stdout(), true)?;
        directory.check_unchanged()?;
        return Ok(conclude(output, flags, &outcome));
    }
    let target = Target::create(&flags.target)?;
    let mut sink: Box<dyn Sink> = match flags.format {
        Format::Jsonl => Box::new(JsonLines::to_directory(target.aside())),
        Format::Nsq => Box::new(NsqFormat::new(target.aside())),
    };
    let outcome = export(&directory, &wanted, flags, &mut *sink, false)?;
    directory.check_unchanged()?;
    target.complete()?;
    Ok(conclude(output, flags, &outcome))
}

fn check_names(flags: &ExportFlags) -> Result<(), Failure> {
    for name in &flags.topics {
        TopicName::new(name).map_err(|_| Failure::usage(format_args!("invalid topic name {name:?}")))?;
    }
    for name in &flags.channels {
        ChannelName::new(name).map_err(|_| Failure::usage(format_args!("invalid channel name {name:?}")))?;
    }
    Ok(())
}

/// The result of an export.
struct Outcome {
    message_count: u64,
    body_bytes: u64,
    largest_body: usize,
    lost_count: u64,
    damage_count: u64,
    warnings: Vec<String>,
}

fn export(
    directory: &Directory,
    wanted: &Wanted,
    flags: &ExportFlags,
    sink: &mut dyn Sink,
    is_stream: bool,
) -> Result<Outcome, Failure> {
    let mut export = Export {
        sink,
        is_stream,
        progress: Progress::new(flags.progress),
        message_count: 0,
        body_bytes: 0,
        largest_body: 0,
        lost_count: 0,
        damage_count: 0,
    };
    let (found, warnings) = if directory.takeover_is_due || !directory.is_ours {
        nsqs(directory, wanted, flags.all, &mut export)?
    } else if flags.all {
        ours::export_all(directory, wanted, &mut export)?
    } else {
        ours::export_unfinished(directory, wanted, &mut export)?
    };
    for topic in &wanted.topics {
        if !found.contains(topic) {
            let text = format!("there is no topic {topic} in {}", directory.path().display());
            return Err(Failure::new(ExitStatus::NotFound, text));
        }
    }
    export.sink.finish().map_err(|failure| export.unfinished(failure))?;
    export.progress.end();
    Ok(Outcome {
        message_count: export.message_count,
        body_bytes: export.body_bytes,
        largest_body: export.largest_body,
        lost_count: export.lost_count,
        damage_count: export.damage_count,
        warnings,
    })
}

/// The topics that were found, and warnings for the operator.
type Sources = (Vec<String>, Vec<String>);

fn nsqs(
    directory: &Directory,
    wanted: &Wanted,
    all: bool,
    export: &mut Export<'_>,
) -> Result<Sources, Failure> {
    let files = NsqFiles::find(directory)?;
    let mut warnings = Vec::new();
    if let Err(error) = &files.metadata {
        warnings.push(format!("cannot read nsqd.dat: {error}; exporting all queues"));
    }
    let mut found: Vec<String> = Vec::new();
    for queue in files.queues.iter().filter(|queue| wanted.topic(&queue.topic)) {
        if files.metadata.is_ok() && !queue.is_listed {
            warnings.push(format!("queue {} is not in nsqd.dat and is not exported", queue.label()));
            continue;
        }
        if found.last() != Some(&queue.topic) {
            found.push(queue.topic.clone());
        }
        if !wanted.channel(queue.channel.as_deref()) {
            continue;
        }
        let name = QueueName { topic: &queue.topic, channel: queue.channel.as_deref() };
        export.sink.queue(&name, queue.is_paused)?;
        files.read(directory, queue, all, |piece| match piece {
            Piece::Message(header, body) => {
                let message = Exported {
                    id: MessageId::from_u64(header.id),
                    timestamp_ns: header.timestamp_ns,
                    attempts: header.attempts,
                    deferred_until_ns: None,
                    headers: None,
                    body,
                };
                export.write(&name, &message)
            }
            Piece::Damage(..) => {
                export.damage_count += 1;
                Ok(())
            }
            Piece::Torn(..) => Ok(()),
        })?;
    }
    Ok((found, warnings))
}

fn conclude(output: Output, flags: &ExportFlags, outcome: &Outcome) -> ExitStatus {
    /// NSQ's own default for --max-msg-size.
    const NSQ_MAX_MSG_SIZE: usize = 1 << 20;
    for warning in &outcome.warnings {
        output.warning(&format!("! {warning}"));
    }
    if flags.format == Format::Nsq && outcome.largest_body > NSQ_MAX_MSG_SIZE {
        let bytes = outcome.largest_body;
        output.warning(&format!(
            "! the largest message has {bytes} bytes: start NSQ's nsqd with --max-msg-size={bytes}"
        ));
    }
    let Outcome { message_count, body_bytes, lost_count, damage_count, .. } = *outcome;
    output.warning(&format!("exported {message_count} messages, {body_bytes} bytes of bodies"));
    if lost_count == 0 && damage_count == 0 {
        return ExitStatus::Done;
    }
    if lost_count > 0 {
        output.warning(&format!("! {lost_count} messages are damaged and were not exported"));
    }
    if damage_count > 0 {
        output.warning(&format!("! {damage_count} damaged places in queues were skipped"));
    }
    output.warning("! run `nsq data verify` to find the damage");
    ExitStatus::NotMet
}
