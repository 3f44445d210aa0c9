//! Converts one topic's queues to one log, and its channels to read cursors in it.
//!
//! In NSQ each channel has its own copy of each message, in its own order. Here a message is stored once. So all
//! records are sorted by the time of their publish, and copies of one message are merged. The log is written in three
//! parts:
//!
//! ```text
//!   handed out before          | in channels' queues, not handed out     | in the topic's queue
//!   outstanding, with attempts | ahead of the cursors of those channels, | not released yet
//!                              | skipped by the others                   |
//! ```
//!
//! Messages that were handed out come first, so that they are behind every cursor. They are delivered again first, and
//! finishing one does not affect others. A message that one channel has handed out and another has not is in both
//! parts. An outstanding message costs a channel memory. Other messages cost memory only where a channel's messages are
//! not contiguous.

use std::io;
use std::sync::Arc;

use nsq_daemon::log::Logger;
use nsq_protocol::TopicName;

use super::copy::{LogWriter, MessageReader, SourceFile};
use super::index::{Index, IndexEntry, IndexWriter};
use super::metadata::TopicEntry;
use super::queues::{QueueFiles, read_position};
use crate::engine::EngineLimits;
use crate::import::diskqueue::{self, DataFile, Found, RecordHeader, RecordScan};
use crate::storage::checkpoint::{
    ChannelCheckpoint, OutstandingCheckpoint, TakenOverCheckpoint, TopicCheckpoint,
};
use crate::storage::data_dir::DataDir;
use crate::storage::outstanding_list::OutstandingList;
use crate::storage::segment::SegmentStore;
use crate::storage::{ChannelNumber, SequenceRange, Storage, TopicNumber};

/// Flag in an [`IndexEntry`]'s place: the channel has handed out the message.
const HANDED_OUT: u64 = 1 << 63;
/// Flag in an [`IndexEntry`]'s place: the record is in the topic's own queue.
const IN_TOPIC: u64 = 1 << 62;
/// Number of messages between two log lines about progress.
const PROGRESS_EVERY: u64 = 1 << 20;
/// Maximum number of damaged places of a queue that are logged one by one.
const MAX_DAMAGE_LINES: u64 = 20;

/// What a conversion needs besides the topic.
pub struct Converter<'a> {
    pub storage: &'a Arc<dyn Storage>,
    pub data_dir: &'a DataDir,
    /// Sizes of blocks and files, and the node id.
    pub limits: &'a EngineLimits,
    pub logger: &'a Logger,
    /// See [`super::index::MAX_ENTRIES_IN_MEMORY`].
    pub max_index_entries: usize,
    /// When the messages are taken over: wall time in nanoseconds. Their age counts from then.
    pub wall_ns: i64,
    /// The sequence number of each topic's first message.
    pub first_sequence: u64,
    /// The number of the next channel.
    pub next_channel: ChannelNumber,
}

/// The parts of the log, in order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    HandedOut,
    Ahead,
    Held,
}

impl Converter<'_> {
    /// Writes the messages of a topic to segments and syncs them. Returns the topic's checkpoint. The segments have no
    /// effect until the checkpoint is written.
    pub fn convert(
        &mut self,
        number: TopicNumber,
        name: &TopicName,
        entry: &TopicEntry,
        files: &QueueFiles,
    ) -> io::Result<TopicCheckpoint> {
        let dir = self.data_dir.topic_dir(number);
        self.storage.create_dir_all(&dir)?;
        let mut index = IndexWriter::new(self.storage.clone(), dir.clone(), self.max_index_entries);
        let mut sources = Vec::new();
        let channels = entry.channels.keys().map(|channel| format!("{name}:{channel}"));
        for (queue, label) in channels.chain([name.to_string()]).enumerate() {
            let flags = if queue == entry.channels.len() { IN_TOPIC } else { 0 };
            self.scan(queue, &label, flags, files, &mut sources, &mut index)?;
        }
        let index = index.finish();
        let (segments, ..) = SegmentStore::open(self.storage.clone(), dir, self.limits.max_bytes_per_file)?;
        let mut writer = TopicWriter {
            label: name.as_str(),
            logger: self.logger,
            reader: MessageReader::new(&**self.storage, &sources),
            to: Destination {
                log: LogWriter::new(segments, self.limits, self.first_sequence),
                channels: entry.channels.iter().map(|_| ChannelBuilder::default()).collect(),
            },
            released_soon: !entry.paused && !entry.channels.is_empty(),
        };
        writer.write_part(&index, Part::HandedOut)?;
        writer.write_part(&index, Part::Ahead)?;
        let released = writer.to.log.next_sequence;
        writer.write_part(&index, Part::Held)?;
        index.remove()?;
        writer.to.log.finish()?;
        let channels = entry.channels.iter().zip(writer.to.channels).map(|((name, &paused), channel)| {
            let number = self.next_channel;
            self.next_channel = number.next();
            let (cursor, skipped_ahead) = channel.cursor(released);
            ChannelCheckpoint {
                number,
                name: name.to_string(),
                paused,
                cursor,
                skipped_ahead,
                message_count: channel.message_count,
                outstanding: channel.outstanding,
                ..ChannelCheckpoint::default()
            }
        });
        Ok(TopicCheckpoint {
            number,
            name: name.to_string(),
            paused: entry.paused,
            next_sequence: writer.to.log.next_sequence,
            released,
            releasing: writer.released_soon,
            message_count: writer.to.log.next_sequence - self.first_sequence,
            message_bytes: writer.to.log.body_bytes,
            channels: channels.collect(),
            taken_over: Some(TakenOverCheckpoint {
                before: writer.to.log.next_sequence,
                at_ns: self.wall_ns,
            })
            .filter(|taken_over| taken_over.before > self.first_sequence),
            ..TopicCheckpoint::default()
        })
    }

    /// Adds the records of one queue to the index, and its files to the sources.
    fn scan(
        &self,
        queue: usize,
        label: &str,
        flags: u64,
        files: &QueueFiles,
        sources: &mut Vec<SourceFile>,
        index: &mut IndexWriter,
    ) -> io::Result<()> {
        let Some(found) = files.get(label) else { return Ok(()) };
        let (storage, dir, logger) = (&**self.storage, self.data_dir.path(), self.logger);
        let path = |number| dir.join(diskqueue::data_file_name(label, number));
        let position = read_position(storage, dir, label, found)?;
        let file = |&number: &u64| Ok(DataFile { number, bytes: storage.open(&path(number))?.len()? });
        let files = found.data.iter().map(file).collect::<io::Result<Vec<_>>>()?;
        let (stretches, oddities) = diskqueue::plan(position, &files);
        for oddity in &oddities {
            nsq_daemon::warn!(logger, "IMPORT({label}): {oddity}");
        }
        let (mut count, mut damage_count, mut damaged_bytes) = (0_u64, 0_u64, 0_u64);
        for &stretch in &stretches {
            let path = path(stretch.number);
            let file = storage.open(&path)?;
            let base = sources.last().map_or(0, |last| last.base + last.bytes);
            let mut scan = RecordScan::new(&*file, stretch);
            while let Some(record) = scan.advance()? {
                match record {
                    Found::Record(at, RecordHeader { timestamp_ns, attempts, id, .. }) => {
                        let handed_out = if attempts > 0 && flags & IN_TOPIC == 0 { HANDED_OUT } else { 0 };
                        index.push(IndexEntry {
                            timestamp_ns,
                            id,
                            place: (base + at) | flags | handed_out,
                        })?;
                        count += 1;
                        if count % PROGRESS_EVERY == 0 {
                            nsq_daemon::info!(logger, "IMPORT({label}): found {count} messages so far");
                        }
                    }
                    Found::Damage { offset, bytes } => {
                        damage_count += 1;
                        damaged_bytes += bytes;
                        if damage_count <= MAX_DAMAGE_LINES {
                            let path = path.display();
                            nsq_daemon::error!(
                                logger,
                                "IMPORT({label}): {path} is damaged at {offset}, {bytes} bytes"
                            );
                        }
                    }
                    Found::Torn { offset, bytes } => nsq_daemon::warn!(
                        logger,
                        "IMPORT({label}): {bytes} bytes at {offset} of {} after the last complete record are ignored",
                        path.display()
                    ),
                }
            }
            sources.push(SourceFile { base, bytes: stretch.to, queue, path });
        }
        if damage_count > 0 {
            nsq_daemon::error!(
                logger,
                "IMPORT({label}): {damage_count} damaged places, {damaged_bytes} bytes in total"
            );
        }
        if !found.data.is_empty() {
            let depth = position.and_then(|position| position.depth).unwrap_or(0);
            let files = found.data.len();
            nsq_daemon::info!(
                logger,
                "IMPORT({label}): found {count} messages in {files} files (NSQ's depth: {depth})"
            );
        }
        Ok(())
    }
}

/// The result of a conversion.
struct Destination {
    log: LogWriter,
    channels: Vec<ChannelBuilder>,
}

/// Writes one topic.
struct TopicWriter<'a> {
    label: &'a str,
    logger: &'a Logger,
    reader: MessageReader<'a>,
    to: Destination,
    /// Whether all channels get the content of the topic's queue at once. Then a message that is in the topic's queue
    /// and in some channels' queues (NSQ was killed) becomes one message for all channels, and no channel gets it
    /// twice.
    released_soon: bool,
}

impl TopicWriter<'_> {
    fn write_part(&mut self, index: &Index, part: Part) -> io::Result<()> {
        let mut entries = index.read()?;
        let mut group = Vec::new();
        while entries.next_group(&mut group)? {
            let in_channel = |entry: &IndexEntry| entry.place & IN_TOPIC == 0;
            let in_any_channel = group.iter().any(in_channel);
            let handed_out = group.iter().any(|entry| entry.place & HANDED_OUT != 0);
            match part {
                Part::Held if in_any_channel && self.released_soon => continue,
                Part::Held => group.retain(|entry| !in_channel(entry)),
                Part::HandedOut if !handed_out => continue,
                Part::Ahead if !in_any_channel => continue,
                Part::HandedOut | Part::Ahead if self.released_soon => {}
                Part::HandedOut | Part::Ahead => group.retain(in_channel),
            }
            self.write_group(&group, part)?;
        }
        Ok(())
    }

    /// Writes records of equal time and id. Except in an unusual directory, they are one message.
    fn write_group(&mut self, group: &[IndexEntry], part: Part) -> io::Result<()> {
        let mut message: Option<(i64, Vec<u8>)> = None;
        let mut copies: Vec<(usize, u16)> = Vec::new();
        for entry in group {
            let (queue, header, body) = self.reader.read(entry.place & !(HANDED_OUT | IN_TOPIC))?;
            if let Some((timestamp_ns, of)) = message.take_if(|(_, of)| of != body) {
                self.to.write(part, timestamp_ns, &of, &mut copies)?;
            }
            message.get_or_insert_with(|| (header.timestamp_ns, body.to_vec()));
            copies.push((queue, header.attempts));
        }
        let before = self.to.log.next_sequence / PROGRESS_EVERY;
        if let Some((timestamp_ns, body)) = message {
            self.to.write(part, timestamp_ns, &body, &mut copies)?;
        }
        if self.to.log.next_sequence / PROGRESS_EVERY != before {
            let (label, bytes) = (self.label, self.to.log.body_bytes);
            nsq_daemon::info!(self.logger, "IMPORT({label}): copied {} MiB of messages so far", bytes >> 20);
        }
        Ok(())
    }
}

impl Destination {
    /// Writes a message and adds it to the channels that have a copy. Clears `copies`.
    fn write(
        &mut self,
        part: Part,
        timestamp_ns: i64,
        body: &[u8],
        copies: &mut Vec<(usize, u16)>,
    ) -> io::Result<()> {
        if part == Part::Held {
            self.log.push(timestamp_ns, body)?;
            copies.clear();
            return Ok(());
        }
        if copies.iter().any(|&(queue, _)| queue == self.channels.len()) {
            copies.retain(|&(queue, _)| queue < self.channels.len());
            copies.extend((0..self.channels.len()).map(|queue| (queue, 0)));
        }
        // Of several copies in one queue, keep the one with the most attempts.
        copies.sort_unstable_by_key(|&(queue, attempts)| (queue, std::cmp::Reverse(attempts)));
        copies.dedup_by_key(|&mut (queue, _)| queue);
        copies.retain(|&(_, attempts)| (attempts > 0) == (part == Part::HandedOut));
        if !copies.is_empty() {
            let sequence = self.log.push(timestamp_ns, body)?;
            for &(queue, attempts) in copies.iter() {
                self.channels[queue].push(sequence, attempts, part);
            }
        }
        copies.clear();
        Ok(())
    }
}

/// A channel during the conversion.
#[derive(Default)]
struct ChannelBuilder {
    message_count: u64,
    outstanding: OutstandingList,
    /// Its messages that were never handed out.
    ahead: Vec<SequenceRange>,
}

impl ChannelBuilder {
    fn push(&mut self, sequence: u64, attempts: u16, part: Part) {
        self.message_count += 1;
        if part == Part::HandedOut {
            self.outstanding.push(OutstandingCheckpoint { sequence, attempts, due_ns: 0 });
            return;
        }
        match self.ahead.last_mut() {
            Some(last) if last.to == sequence => last.to += 1,
            _ => self.ahead.push(SequenceRange::one(sequence)),
        }
    }

    /// The read cursor, and the ranges before `released` that it must skip.
    fn cursor(&self, released: u64) -> (u64, Vec<SequenceRange>) {
        let cursor = self.ahead.first().map_or(released, |range| range.from);
        let nexts = self.ahead.iter().skip(1).map(|range| range.from).chain([released]);
        let gaps = self.ahead.iter().zip(nexts).map(|(range, next)| SequenceRange::new(range.to, next));
        (cursor, gaps.filter(|gap| !gap.is_empty()).collect())
    }
}
