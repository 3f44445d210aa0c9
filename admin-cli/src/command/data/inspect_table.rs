//! The output of `nsq data inspect` for people.

use super::inspect::{CheckpointReport, Nsq, Ours, Report};
use crate::exit_status::Failure;
use crate::output::Output;
use crate::table::{Cell, Table};

/// Kinds of records that have their own column.
const KINDS: [&str; 4] = ["publish", "publish_deferred", "finish", "requeue"];

/// Prints the report.
pub fn print(output: Output, report: &Report) -> Result<(), Failure> {
    if let Some(ours) = &report.ours {
        output.text(summary(&report.path, ours))?;
        section(output, "\njournal\n", &journal(ours), ours.journal.files.is_empty())?;
        section(output, "\ntopics\n", &topics(ours), ours.topics.is_empty())?;
        let has_channels = ours.topics.iter().any(|topic| !topic.channels.is_empty());
        section(output, "\nchannels\n", &channels(ours), !has_channels)?;
    }
    if let Some(nsq) = &report.nsq {
        output.text(nsq_summary(&report.path, nsq))?;
        section(output, "", &queues(nsq), nsq.queues.is_empty())?;
    }
    for warning in &report.warnings {
        output.warning(&format!("! {warning}"));
    }
    Ok(())
}

fn section(output: Output, heading: &str, table: &Table, is_empty: bool) -> Result<(), Failure> {
    if is_empty {
        return Ok(());
    }
    output.text(heading)?;
    output.table(table)
}

fn summary(path: &str, ours: &Ours) -> String {
    let version = ours.format_version.map_or("none yet".to_owned(), |version| version.to_string());
    let mut text = format!("{path}: data of nsq-rs, format version {version}\n");
    text += &match &ours.checkpoint {
        None => "no checkpoint: a start reads the whole journal\n".to_owned(),
        Some(checkpoint) => checkpoint_line(checkpoint),
    };
    let journal = &ours.journal;
    text += &format!(
        "journal: {} files, {} bytes, {} records, {} spare files\n",
        journal.files.len(),
        journal.bytes,
        journal.record_count,
        journal.spare_file_count
    );
    if let Some(at) = &journal.torn_at {
        text += &format!("journal: the last write was cut off at {at}; a start cuts it\n");
    }
    for file in &ours.damaged_files {
        text += &format!("damaged, set aside: {file}\n");
    }
    text
}

fn checkpoint_line(checkpoint: &CheckpointReport) -> String {
    let stop = match checkpoint.clean_shutdown {
        true => "the last stop was clean",
        false => "the daemon was killed or never stopped; the journal continues from there",
    };
    format!(
        "checkpoint: {} bytes, written {} ({} seconds ago), journal from {}; {stop}\n",
        checkpoint.bytes, checkpoint.written_at, checkpoint.age_seconds, checkpoint.journal_from
    )
}

fn journal(ours: &Ours) -> Table {
    let mut table = Table::new(&[
        "FILE", "BYTES", "USED", "RECORDS", "PUBLISH", "DEFERRED", "FINISH", "REQUEUE", "OTHER", "MESSAGES",
    ]);
    for file in &ours.journal.files {
        let of = |kind| file.records.get(kind).copied().unwrap_or(0);
        let all: u64 = file.records.values().sum();
        let mut cells: Vec<Cell> =
            vec![file.file.as_str().into(), file.bytes.into(), file.record_bytes.into(), all.into()];
        cells.extend(KINDS.map(|kind| of(kind).into()));
        cells.push((all - KINDS.into_iter().map(of).sum::<u64>()).into());
        cells.push(file.message_count.into());
        table.row(cells);
    }
    table
}

fn topics(ours: &Ours) -> Table {
    let mut table = Table::new(&[
        "TOPIC", "DEPTH", "MESSAGES", "FLAGS", "SEGMENTS", "BYTES", "STORED", "FIRST", "LAST", "OLDEST",
        "NEWEST",
    ]);
    // Sequence numbers are shown exactly; counts are rounded.
    let place = |sequence: Option<u64>| sequence.map_or(Cell::None, |sequence| sequence.to_string().into());
    let moment = |moment: &Option<String>| moment.clone().map_or(Cell::None, Cell::Text);
    for topic in &ours.topics {
        let segments = &topic.segments;
        table.row(vec![
            topic.topic_name.as_str().into(),
            topic.depth.into(),
            topic.message_count.into(),
            flags(topic.paused),
            segments.file_count.into(),
            segments.bytes.into(),
            segments.message_count.into(),
            place(segments.first_sequence),
            place(segments.last_sequence),
            moment(&segments.oldest_timestamp),
            moment(&segments.newest_timestamp),
        ]);
    }
    table
}

fn channels(ours: &Ours) -> Table {
    let mut table = Table::new(&["TOPIC", "CHANNEL", "DEPTH", "AGAIN", "INFLT", "DEF", "MESSAGES", "FLAGS"]);
    for topic in &ours.topics {
        for channel in &topic.channels {
            table.row(vec![
                topic.topic_name.as_str().into(),
                channel.channel_name.as_str().into(),
                channel.depth.into(),
                channel.redelivery_count.into(),
                channel.in_flight_count.into(),
                channel.deferred_count.into(),
                channel.message_count.into(),
                flags(channel.paused),
            ]);
        }
    }
    table
}

fn flags(paused: bool) -> Cell {
    if paused { "P" } else { "" }.into()
}

fn nsq_summary(path: &str, nsq: &Nsq) -> String {
    let fate = match nsq.takeover_is_due {
        true => "nsqd takes them over at its first start",
        false => "nsqd does not take them over",
    };
    let mut text = format!("{path}: queues of NSQ; {fate}\n");
    if let Some(error) = &nsq.metadata_error {
        text += &format!("nsqd.dat: {error}\n");
    }
    for queue in &nsq.queues {
        for oddity in &queue.oddities {
            let channel = queue.channel_name.iter().map(|channel| format!("/{channel}")).collect::<String>();
            text += &format!("{}{channel}: {oddity}\n", queue.topic_name);
        }
    }
    text
}

fn queues(nsq: &Nsq) -> Table {
    let mut table = Table::new(&[
        "TOPIC", "CHANNEL", "MESSAGES", "DEPTH", "FILES", "BYTES", "DAMAGED", "OLDEST", "NEWEST", "FLAGS",
    ]);
    let moment = |moment: &Option<String>| moment.clone().map_or(Cell::None, Cell::Text);
    for queue in &nsq.queues {
        let paused = if queue.paused { "P" } else { "" };
        let orphan = if queue.listed { "" } else { "not in nsqd.dat" };
        table.row(vec![
            queue.topic_name.as_str().into(),
            queue.channel_name.clone().unwrap_or_default().into(),
            queue.message_count.into(),
            queue.recorded_depth.map_or(Cell::None, Cell::from),
            queue.file_count.into(),
            queue.bytes.into(),
            queue.damage_count.into(),
            moment(&queue.oldest_timestamp),
            moment(&queue.newest_timestamp),
            format!("{paused}{orphan}").into(),
        ]);
    }
    table
}
