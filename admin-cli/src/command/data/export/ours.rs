//! Reads messages from this nsqd's files.

use std::collections::HashMap;

use nsq_protocol::headers::split_stored;
use nsq_protocol::{FRAME_HEADER_BYTES, MessageView};
use nsqd::channel::saved::Clocks;
use nsqd::clock;
use nsqd::log::TopicLog;
use nsqd::log::index::sequence_of;
use nsqd::log::read_cache::ReadCache;
use nsqd::log::reader::LogReader;
use nsqd::log::{Source, Supply};
use nsqd::storage::record::Record;
use nsqd::storage::segment::SegmentStore;
use nsqd::storage::{SequenceRange, TopicNumber};

use super::super::directory::Directory;
use super::super::journal_check::JournalCheck;
use super::super::recovered::{self, Recovered, recover};
use super::selection::{self, Selected};
use super::sink::{Exported, QueueName};
use super::{Export, Sources, Wanted};
use crate::exit_status::Failure;

/// Bytes of messages to copy at a time.
const COPY_BYTES: usize = 1 << 20;

/// Exports what a start would still deliver: the unfinished messages of each channel, then the messages that no
/// channel has yet.
pub(super) fn export_unfinished(
    directory: &Directory,
    wanted: &Wanted,
    export: &mut Export<'_>,
) -> Result<Sources, Failure> {
    let Recovered { registry, warnings } = recover(directory)?;
    let clocks = Clocks { monotonic: clock::monotonic(), wall_ns: clock::wall_ns() };
    let mut found = Vec::new();
    for topic in registry.all().into_iter().filter(|topic| wanted.topic(topic.name().as_str())) {
        let saved = topic.save(clocks);
        let mut messages = Messages::new(topic.log());
        found.push(saved.name.clone());
        for channel in saved.channels.iter().filter(|channel| wanted.channel(Some(&channel.name))) {
            let name = QueueName { topic: &saved.name, channel: Some(&channel.name) };
            export.sink.queue(&name, channel.paused)?;
            let selected = selection::of_channel(channel, saved.released, clocks.wall_ns);
            messages.export(&selected, &name, export)?;
        }
        let name = QueueName { topic: &saved.name, channel: None };
        export.sink.queue(&name, saved.paused)?;
        if wanted.channel(None) {
            messages.export(&selection::held_back(&saved, clocks.wall_ns), &name, export)?;
        }
    }
    Ok((found, warnings))
}

/// Reads a topic's messages by sequence number.
struct Messages<'a> {
    log: &'a TopicLog,
    cache: ReadCache,
    out: Vec<u8>,
}

impl<'a> Messages<'a> {
    fn new(log: &'a TopicLog) -> Self {
        Messages { log, cache: ReadCache::default(), out: Vec::new() }
    }

    fn export(
        &mut self,
        selected: &[Selected],
        name: &QueueName<'_>,
        export: &mut Export<'_>,
    ) -> Result<(), Failure> {
        for part in selected {
            let mut at = part.from;
            while at < part.to {
                at = self.export_some(at, part, name, export)?;
            }
        }
        Ok(())
    }

    /// Exports some messages of a part, starting at `at`. Returns the sequence number to continue at.
    fn export_some(
        &mut self,
        at: u64,
        part: &Selected,
        name: &QueueName<'_>,
        export: &mut Export<'_>,
    ) -> Result<u64, Failure> {
        self.out.clear();
        let mut reader = LogReader::new(self.log, &mut self.cache, &mut self.out, COPY_BYTES);
        match reader.first(at, part.to - at) {
            Supply::Given(count) => {
                for frame in Frames(&self.out) {
                    export.write(name, &exported(frame, part.attempts, part.due_ns)?)?;
                }
                Ok(at + count)
            }
            Supply::OnDisk => {
                match self.log.load_block(at) {
                    // If the block has disappeared, the next attempt finds where the messages are.
                    Ok(block) => {
                        block.into_iter().for_each(|block| self.cache.put_block(block));
                        Ok(at)
                    }
                    Err(_) => {
                        let next = (at + 1).min(part.to);
                        export.lost_count += next - at;
                        Ok(next)
                    }
                }
            }
            // The messages are in no file. A start would report them as damaged, too.
            Supply::Gone(next) | Supply::Lost(next) => {
                let next = next.clamp(at + 1, part.to);
                export.lost_count += next - at;
                Ok(next)
            }
            Supply::Full => Ok(at),
        }
    }
}

/// A topic's name, and the messages that are in its segments, as ordered runs.
type Stored = (String, Vec<SequenceRange>);

/// Exports every message in segments and journal once, finished or not.
pub(super) fn export_all(
    directory: &Directory,
    wanted: &Wanted,
    export: &mut Export<'_>,
) -> Result<Sources, Failure> {
    let Recovered { registry, warnings } = recover(directory)?;
    let view = directory.view()?;
    let limits = recovered::limits();
    let mut topics: HashMap<TopicNumber, Stored> = HashMap::new();
    for topic in registry.all().into_iter().filter(|topic| wanted.topic(topic.name().as_str())) {
        let name = topic.name().to_string();
        let queue = QueueName { topic: &name, channel: None };
        for channel in topic.channels() {
            let paused = channel.inspect(|state, _| state.is_paused());
            export.sink.queue(&QueueName { topic: &name, channel: Some(channel.name().as_str()) }, paused)?;
        }
        export.sink.queue(&queue, topic.depth().paused)?;
        let dir = view.data_dir.topic_dir(topic.number());
        let opened = SegmentStore::open(view.storage.clone(), &dir, limits.max_bytes_per_file);
        let (_store, mut blocks, _) = opened
            .map_err(|error| Failure::failed(format_args!("cannot read {}: {error}", dir.display())))?;
        blocks.sort_by_key(|block| (block.first_sequence, std::cmp::Reverse(block.count)));
        let mut stored: Vec<SequenceRange> = Vec::new();
        for block in blocks {
            let (from, to) = (block.first_sequence, block.end_sequence());
            let known = stored.last().map_or(0, |last| last.to);
            let Ok(loaded) = block.read() else {
                export.lost_count += to - from.max(known).min(to);
                continue;
            };
            for (sequence, index) in (from..to).zip(0..).skip_while(|&(sequence, _)| sequence < known) {
                let frame = loaded.frame(index).unwrap_or_default();
                debug_assert_eq!(sequence - from, index as u64);
                export.write(&queue, &exported(frame, 0, None)?)?;
            }
            match stored.last_mut() {
                Some(last) if last.to >= from => last.to = to.max(last.to),
                _ => stored.push(SequenceRange { from, to }),
            }
        }
        topics.insert(topic.number(), (name, stored));
    }
    export_journal(directory, &topics, export)?;
    let found = topics.into_values().map(|(name, _)| name).collect();
    Ok((found, warnings))
}

/// Exports the messages of the journal that are in no segment.
fn export_journal(
    directory: &Directory,
    topics: &HashMap<TopicNumber, Stored>,
    export: &mut Export<'_>,
) -> Result<(), Failure> {
    let view = directory.view()?;
    let now_ns = clock::wall_ns();
    let mut outcome = Ok(());
    JournalCheck::read(&view, |_, record| {
        let Record::Publish { topic, due_ns, frames, .. } = record else { return };
        let Some((name, stored)) = topics.get(topic) else { return };
        let queue = QueueName { topic: name, channel: None };
        for frame in Frames(frames) {
            if outcome.is_err() {
                return;
            }
            let due_ns = due_ns.filter(|&due| due > now_ns);
            outcome = exported(frame, 0, due_ns).and_then(|message| {
                let is_stored = message.id.to_u64().is_some_and(|id| holds(stored, sequence_of(id)));
                if is_stored { Ok(()) } else { export.write(&queue, &message) }
            });
        }
    })?;
    outcome
}

fn holds(runs: &[SequenceRange], sequence: u64) -> bool {
    let at = runs.partition_point(|run| run.to <= sequence);
    runs.get(at).is_some_and(|run| run.contains(sequence))
}

/// Consecutive frames. A frame with a wrong size ends the iteration; this cannot happen, because the checksum was
/// right.
struct Frames<'a>(&'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let size = self.0.first_chunk().map(|size| u32::from_be_bytes(*size))?;
        let (frame, rest) = self.0.split_at_checked(4 + size as usize)?;
        self.0 = rest;
        Some(frame)
    }
}

fn exported(frame: &[u8], attempts: u16, due_ns: Option<i64>) -> Result<Exported<'_>, Failure> {
    let message = frame.get(FRAME_HEADER_BYTES..).and_then(MessageView::parse);
    let (MessageView { timestamp_ns, id, .. }, (headers, body)) =
        message.zip(split_stored(frame)).ok_or_else(|| Failure::failed("a message frame is too short"))?;
    Ok(Exported { id, timestamp_ns, attempts, deferred_until_ns: due_ns, headers, body })
}
