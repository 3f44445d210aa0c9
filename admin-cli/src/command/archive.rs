//! `nsq archive`: lists, shows, verifies and restores the logs that nodes keep in an object store (nsqd's `--archive`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use nsq_archive::LogId;
use nsq_archive::chain::End;
use nsq_archive::claim::About;
use nsq_archive::location::Location;
use nsq_archive::objects::Objects;
use nsq_archive::reader::{self, ReadError, Summary};
use nsq_daemon::go_duration;
use nsq_protocol::start_at::rfc3339;
use serde::Serialize;

use crate::exit_status::{ExitStatus, Failure};
use crate::output::Output;
use crate::table::{Cell, Table};

/// `nsq archive ...`
#[derive(Debug, Subcommand)]
pub enum ArchiveCommand {
    /// List the logs in an archive: one for each data directory.
    #[command(visible_alias = "ls")]
    List(ArchiveFlags),
    /// Show what an archive has of a log.
    Show(LogFlags),
    /// Read everything that a restore would read, and check it. Exit code 7 means that something cannot be restored.
    Verify(UntilFlags),
    /// Write a data directory from an archive. Then start nsqd with it.
    Restore(RestoreFlags),
}

#[derive(Debug, Args)]
pub struct ArchiveFlags {
    /// URL of the archive, as for nsqd's --archive: file:///path, s3://bucket/prefix, az://container/prefix or gs://bucket/prefix.
    #[arg(value_name = "URL")]
    archive: Location,
}

#[derive(Debug, Args)]
pub struct LogFlags {
    #[command(flatten)]
    archive: ArchiveFlags,
    /// Id of the log, or its first digits; see `nsq archive ls`. [default: the only log]
    #[arg(long, value_name = "ID")]
    log: Option<String>,
}

#[derive(Debug, Args)]
pub struct UntilFlags {
    #[command(flatten)]
    log: LogFlags,
    /// Leave out what the node archived later: a time such as 2027-01-01T00:00:00Z, or a duration before now (15m).
    #[arg(long, value_name = "TIME", value_parser = parse_until)]
    until: Option<i64>,
}

#[derive(Debug, Args)]
pub struct RestoreFlags {
    #[command(flatten)]
    until: UntilFlags,
    /// Directory for the restored data; created if it is missing. It must be empty.
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

/// Returns Unix nanoseconds.
fn parse_until(text: &str) -> Result<i64, String> {
    let ns = match go_duration::parse(text) {
        Ok(ago) => {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.saturating_sub(ago).as_nanos()).ok()
        }
        Err(_) => text.parse::<Timestamp>().ok().and_then(|time| i64::try_from(time.as_nanosecond()).ok()),
    };
    ns.ok_or_else(|| "expected a time such as 2027-01-01T00:00:00Z, or a duration such as 15m".to_owned())
}

/// Runs one of the commands.
pub fn run(command: ArchiveCommand, output: Output) -> Result<ExitStatus, Failure> {
    super::runtime()?.block_on(async {
        match command {
            ArchiveCommand::List(flags) => list(&flags, output).await,
            ArchiveCommand::Show(flags) => show(&flags, output).await,
            ArchiveCommand::Verify(flags) => verify(&flags, output).await,
            ArchiveCommand::Restore(flags) => restore(&flags, output).await,
        }
    })
}

/// A log, as `ls` prints it.
#[derive(Serialize)]
struct LogRow {
    log: String,
    /// What the node that owns the log says about itself; `None` if it has not said anything.
    owner: Option<String>,
    address: Option<String>,
    version: Option<String>,
    data_path: Option<String>,
    /// When the node opened the log last.
    opened_at: Option<String>,
}

impl LogRow {
    fn new(log: LogId, about: Option<&About>) -> Self {
        LogRow {
            log: log.to_string(),
            owner: about.map(|about| about.owner.clone()),
            address: about.map(|about| about.address.clone()),
            version: about.map(|about| about.version.clone()),
            data_path: about.map(|about| about.data_path.clone()),
            opened_at: about.map(|about| rfc3339(about.made_at)),
        }
    }
}

async fn list(flags: &ArchiveFlags, output: Output) -> Result<ExitStatus, Failure> {
    let objects = open(&flags.archive)?;
    let logs = reader::logs(&objects).await.map_err(Failure::failed)?;
    if output.is_json() {
        let rows: Vec<LogRow> = logs.iter().map(|(log, about)| LogRow::new(*log, about.as_ref())).collect();
        output.json(&rows)?;
        return Ok(ExitStatus::Done);
    }
    if logs.is_empty() {
        output.note(&format!("{} has no logs; start nsqd with --archive={0}", flags.archive));
        return Ok(ExitStatus::Done);
    }
    let mut table = Table::new(&["LOG", "OWNER", "ADDRESS", "DATA PATH", "OPENED"]);
    for (log, about) in &logs {
        let text =
            |of: fn(&About) -> &String| about.as_ref().map_or(Cell::None, |about| of(about).clone().into());
        table.row(vec![
            log.to_string().into(),
            text(|about| &about.owner),
            text(|about| &about.address),
            text(|about| &about.data_path),
            about.as_ref().map_or(Cell::None, |about| Cell::Moment(about.made_at)),
        ]);
    }
    output.table(&table)?;
    Ok(ExitStatus::Done)
}

/// What an archive has of a log.
#[derive(Serialize)]
struct LogReport {
    #[serde(flatten)]
    about: LogRow,
    /// The newest epoch. Each start of the node, and each node that takes over, begins one.
    epoch: Option<u32>,
    chunk_count: usize,
    snapshot_count: usize,
    part_count: usize,
    newest_snapshot: Option<String>,
}

async fn show(flags: &LogFlags, output: Output) -> Result<ExitStatus, Failure> {
    let objects = open(&flags.archive.archive)?;
    let (log, about) = choose(&objects, flags).await?;
    let listing = reader::listing(&objects, log).await.map_err(failure)?;
    let report = LogReport {
        about: LogRow::new(log, about.as_ref()),
        epoch: listing.claims.last().map(|epoch| epoch.0),
        chunk_count: listing.chunks.len(),
        snapshot_count: listing.snapshots.len(),
        part_count: listing.parts.len(),
        newest_snapshot: listing.snapshots.last().map(ToString::to_string),
    };
    if output.is_json() {
        output.json(&report)?;
        return Ok(ExitStatus::Done);
    }
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    output.text(format!(
        "log:       {}\nowner:     {}\naddress:   {}\ndata path: {}\nopened:    {} (epoch {})\n\
         snapshots: {}, the newest is {}\nchunks:    {}\nparts:     {}\n",
        report.about.log,
        or_dash(&report.about.owner),
        or_dash(&report.about.address),
        or_dash(&report.about.data_path),
        or_dash(&report.about.opened_at),
        report.epoch.map_or_else(|| "-".to_owned(), |epoch| epoch.to_string()),
        report.snapshot_count,
        or_dash(&report.newest_snapshot),
        report.chunk_count,
        report.part_count,
    ))?;
    Ok(ExitStatus::Done)
}

/// What was read, as `verify` and `restore` print it.
#[derive(Serialize)]
struct SummaryReport {
    log: String,
    snapshot: String,
    snapshot_made_at: String,
    /// Everything that the node archived until then is there.
    restored_until: String,
    chunk_count: u64,
    journal_bytes: u64,
    file_count: u64,
    file_bytes: u64,
    /// Why later chunks cannot be used; `None` if there are none, or if `--until` leaves them out.
    broken: Option<String>,
    /// Newer snapshots that cannot be restored, and why.
    unusable_snapshots: Vec<String>,
    /// Places in the journal that were damaged on the node.
    damaged: Vec<String>,
}

impl SummaryReport {
    fn new(log: LogId, summary: &Summary) -> Self {
        SummaryReport {
            log: log.to_string(),
            snapshot: summary.snapshot.to_string(),
            snapshot_made_at: rfc3339(summary.snapshot_made_at),
            restored_until: rfc3339(summary.made_at),
            chunk_count: summary.chunk_count,
            journal_bytes: summary.journal_bytes,
            file_count: summary.file_count,
            file_bytes: summary.file_bytes,
            broken: match &summary.why_ended {
                End::Last | End::Until => None,
                End::Broken(why) => Some(why.to_string()),
            },
            unusable_snapshots: (summary.unusable.iter())
                .map(|unusable| format!("{}: {}", unusable.snapshot, unusable.why))
                .collect(),
            damaged: (summary.damaged.iter())
                .map(|at| format!("file {}, offset {}", at.file_number(), at.offset()))
                .collect(),
        }
    }

    fn is_whole(&self) -> bool {
        self.broken.is_none() && self.unusable_snapshots.is_empty() && self.damaged.is_empty()
    }

    fn print(&self, what: &str, output: Output) -> Result<(), Failure> {
        if output.is_json() {
            return output.json(self);
        }
        for snapshot in &self.unusable_snapshots {
            output.warning(&format!("! snapshot {snapshot}"));
        }
        for place in &self.damaged {
            output.warning(&format!("! the journal was damaged on the node: {place}"));
        }
        if let Some(why) = &self.broken {
            output.warning(&format!("! later chunks cannot be used: {why}"));
        }
        output.text(format!(
            "{what}: everything until {} (snapshot {}, {} files with {} bytes, {} chunks with {} bytes of the journal)\n",
            self.restored_until,
            self.snapshot,
            self.file_count,
            self.file_bytes,
            self.chunk_count,
            self.journal_bytes
        ))
    }
}

async fn verify(flags: &UntilFlags, output: Output) -> Result<ExitStatus, Failure> {
    let objects = open(&flags.log.archive.archive)?;
    let (log, _) = choose(&objects, &flags.log).await?;
    let summary = reader::verify(&objects, log, flags.until).await.map_err(failure)?;
    let report = SummaryReport::new(log, &summary);
    report.print(&format!("log {log} can be restored"), output)?;
    Ok(if report.is_whole() { ExitStatus::Done } else { ExitStatus::NotMet })
}

async fn restore(flags: &RestoreFlags, output: Output) -> Result<ExitStatus, Failure> {
    let objects = open(&flags.until.log.archive.archive)?;
    let (log, _) = choose(&objects, &flags.until.log).await?;
    let directory = &flags.directory;
    fs::create_dir_all(directory)
        .map_err(|error| Failure::failed(format!("cannot create {}: {error}", directory.display())))?;
    let summary = reader::restore(&objects, log, directory, flags.until.until).await.map_err(failure)?;
    SummaryReport::new(log, &summary).print(&format!("{} has log {log}", directory.display()), output)?;
    output.note(&next_step(directory));
    Ok(ExitStatus::Done)
}

fn next_step(directory: &Path) -> String {
    let path = directory.display();
    format!("check it with `nsq data verify {path}`, then start it: nsqd --data-path={path}")
}

fn open(archive: &Location) -> Result<Arc<dyn Objects>, Failure> {
    archive.open().map_err(Failure::failed)
}

/// The log that the flags name, with what its owner says about itself.
async fn choose(objects: &Arc<dyn Objects>, flags: &LogFlags) -> Result<(LogId, Option<About>), Failure> {
    let archive = &flags.archive.archive;
    let logs = reader::logs(objects).await.map_err(Failure::failed)?;
    let wanted = flags.log.as_deref().unwrap_or("");
    let mut found = logs.into_iter().filter(|(log, _)| log.to_string().starts_with(wanted));
    let not_found = |message: String| Failure::new(ExitStatus::NotFound, message);
    let hint = format!("`nsq archive ls {archive}` lists the logs");
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        (None, _) if wanted.is_empty() => Err(not_found(format!("{archive} has no logs"))
            .hint("check the URL; nsqd creates a log with --archive")),
        (None, _) => Err(not_found(format!("{archive} has no log {wanted}")).hint(hint)),
        (Some(_), Some(_)) => {
            Err(Failure::usage(format!("{archive} has several logs; name one with --log ID")).hint(hint))
        }
    }
}

fn failure(error: ReadError) -> Failure {
    match error {
        ReadError::NoSuchLog(_) => Failure::new(ExitStatus::NotFound, error),
        ReadError::NoSnapshot { .. } => Failure::new(ExitStatus::NotMet, error)
            .hint("without --until, an earlier snapshot may be found; nsqd writes the first one soon after its start"),
        ReadError::NotEmpty(_) => Failure::usage(error),
        error => Failure::failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_is_a_time_or_a_duration_before_now() {
        assert_eq!(parse_until("1970-01-01T00:00:01.5Z"), Ok(1_500_000_000));
        assert_eq!(parse_until("1970-01-01T02:00:00+02:00"), Ok(0));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64;
        let hour_ago = parse_until("1h").unwrap();
        assert!((now - 3_600_000_000_000..now - 3_590_000_000_000).contains(&hour_ago));
        assert!(parse_until("yesterday").unwrap_err().contains("15m"));
    }
}
