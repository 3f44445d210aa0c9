//! For tests: writes data directories as NSQ leaves them after a stop or a kill, and knows their content.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use crate::storage::Storage;
use crate::storage::faulty::FaultyStorage;

pub(super) const DIR: &str = "/data";

/// A message in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) timestamp_ns: i64,
    pub(super) attempts: u16,
    pub(super) id: u64,
    pub(super) body: Vec<u8>,
}

impl Record {
    /// Message number `n`, which determines everything except the attempts. Times and ids do not grow with `n`.
    pub(super) fn new(n: u16, attempts: u16) -> Self {
        let shuffled = u64::from(n) * 37 % 101;
        // Some messages have equal times, some equal ids, none both.
        let timestamp_ns = 1_700_000_000_000_000_000 + (shuffled / 3) as i64;
        let body = (0..n % 70).flat_map(|_| n.to_be_bytes()).chain(n.to_be_bytes()).collect();
        Record { timestamp_ns, attempts, id: shuffled % 50, body }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = (26 + self.body.len() as u32).to_be_bytes().to_vec();
        bytes.extend(self.timestamp_ns.to_be_bytes());
        bytes.extend(self.attempts.to_be_bytes());
        bytes.extend(format!("{:016x}", self.id).as_bytes());
        bytes.extend(&self.body);
        bytes
    }
}

/// The files of a queue.
#[derive(Debug, Clone, Default)]
pub(super) struct QueueModel {
    /// In order.
    pub(super) records: Vec<Record>,
    /// Number of records that were handed out.
    pub(super) consumed: usize,
    /// The position file misses this many hand-outs.
    pub(super) stale_reads: usize,
    /// The position file misses this many writes.
    pub(super) stale_writes: usize,
    pub(super) no_position: bool,
    /// Bytes of a write that the kill cut off.
    pub(super) torn_bytes: usize,
    /// Error in the depth of the position file.
    pub(super) wrong_depth: i64,
    /// Number of the first file, after the queue was emptied.
    pub(super) first_file: u64,
    /// Whether files of other failures are left over.
    pub(super) has_remains: bool,
}

impl QueueModel {
    pub(super) fn of(records: Vec<Record>) -> Self {
        QueueModel { records, ..QueueModel::default() }
    }

    /// Writes the files. Returns the records that, according to the files, were not handed out.
    fn write(&self, storage: &FaultyStorage, queue: &str, max_bytes: u64) -> Vec<Record> {
        if self.records.is_empty() && self.no_position {
            return Vec::new();
        }
        // Start of each record, and of the next one at the end.
        let (mut file, mut offset, mut places) = (self.first_file, 0, Vec::new());
        let mut files: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for record in &self.records {
            let bytes = record.encode();
            if offset > 0 && offset + bytes.len() as u64 > max_bytes {
                (file, offset) = (file + 1, 0);
            }
            places.push((file, offset));
            offset += bytes.len() as u64;
            files.entry(file).or_default().extend(bytes);
        }
        places.push((file, offset));
        let consumed = self.consumed.min(self.records.len());
        let (gone, _) = places[consumed];
        files.retain(|&number, _| number >= gone);
        // NSQ syncs a change of files before it writes to the new file.
        let not_before = places.iter().position(|&(number, _)| number == file).unwrap_or(0);
        let written = self.records.len().saturating_sub(self.stale_writes).max(not_before);
        let read = consumed.saturating_sub(self.stale_reads).min(written);
        if let Some(last) = files.get_mut(&file) {
            last.extend([0x7f].repeat(self.torn_bytes));
        }
        for (number, bytes) in files {
            put(storage, &format!("{queue}.diskqueue.{number:06}.dat"), &bytes);
        }
        if !self.no_position {
            let depth = (written - read) as i64 + self.wrong_depth;
            let ((read_file, read_at), (write_file, write_at)) = (places[read], places[written]);
            let text = format!("{depth}\n{read_file},{read_at}\n{write_file},{write_at}\n");
            put(storage, &format!("{queue}.diskqueue.meta.dat"), text.as_bytes());
        }
        if self.has_remains {
            put(storage, &format!("{queue}.diskqueue.meta.dat.8674665223082153551.tmp"), b"12\n0,");
            put(storage, &format!("{queue}.diskqueue.000000.dat.bad"), &Record::new(9, 0).encode());
        }
        let first = if self.no_position { (gone, 0) } else { places[read].max((gone, 0)) };
        let unread = self.records.iter().zip(&places).filter(|&(_, &place)| place >= first);
        unread.map(|(record, _)| record.clone()).collect()
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct ChannelModel {
    pub(super) paused: bool,
    pub(super) queue: QueueModel,
}

#[derive(Debug, Clone, Default)]
pub(super) struct TopicModel {
    pub(super) paused: bool,
    pub(super) queue: QueueModel,
    pub(super) channels: BTreeMap<String, ChannelModel>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct DirModel {
    pub(super) topics: BTreeMap<String, TopicModel>,
    pub(super) max_bytes_per_file: u64,
}

/// Messages by time and body, with the attempts of each delivery.
pub(super) type Messages = BTreeMap<(i64, Vec<u8>), Vec<u16>>;

/// Expected content after the takeover.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TopicContent {
    pub(super) paused: bool,
    pub(super) channels: BTreeMap<String, (bool, Messages)>,
    /// Not released yet.
    pub(super) held: Messages,
}

impl DirModel {
    /// Writes the directory. Returns it with its expected content.
    pub(super) fn write(&self) -> (FaultyStorage, BTreeMap<String, TopicContent>) {
        let storage = FaultyStorage::default();
        storage.create_dir_all(Path::new(DIR)).unwrap();
        let mut contents = BTreeMap::new();
        let mut topics = Vec::new();
        for (name, topic) in &self.topics {
            let held = topic.queue.write(&storage, name, self.max_bytes_per_file);
            let released = !topic.paused && !topic.channels.is_empty();
            let mut content = TopicContent { paused: topic.paused, ..TopicContent::default() };
            let mut channels = Vec::new();
            for (channel_name, channel) in &topic.channels {
                let mut records =
                    channel.queue.write(&storage, &format!("{name}:{channel_name}"), self.max_bytes_per_file);
                if released {
                    records.extend(held.iter().cloned().map(|record| Record { attempts: 0, ..record }));
                }
                content.channels.insert(channel_name.clone(), (channel.paused, once(records)));
                channels.push(serde_json::json!({"name": channel_name, "paused": channel.paused}));
            }
            if !released {
                content.held = once(held.into_iter().map(|record| Record { attempts: 0, ..record }));
            }
            contents.insert(name.clone(), content);
            topics.push(serde_json::json!({"name": name, "paused": topic.paused, "channels": channels}));
        }
        let metadata = serde_json::json!({"topics": topics, "version": "1.3.0"});
        put(&storage, "nsqd.dat", metadata.to_string().as_bytes());
        put(&storage, "nsqd.dat.12345.tmp", b"{");
        // As if all files had been durable for long.
        (storage.after_kill(), contents)
    }
}

/// Each message once, however often it is in a queue. A delivered message has one attempt more than its record.
fn once(records: impl IntoIterator<Item = Record>) -> Messages {
    let mut by_message: BTreeMap<(i64, u64, Vec<u8>), u16> = BTreeMap::new();
    for Record { timestamp_ns, attempts, id, body } in records {
        let most = by_message.entry((timestamp_ns, id, body)).or_default();
        *most = attempts.max(*most);
    }
    let mut messages = Messages::new();
    for ((timestamp_ns, _, body), attempts) in by_message {
        messages.entry((timestamp_ns, body)).or_default().push(attempts.saturating_add(1));
    }
    messages
}

pub(super) fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

pub(super) fn put(storage: &FaultyStorage, name: &str, bytes: &[u8]) {
    storage.create(&path(name), 0).unwrap().write_all_at(bytes, 0).unwrap();
}

/// The files directly in the directory, with their bytes.
pub(super) fn files(storage: &FaultyStorage) -> BTreeMap<String, Vec<u8>> {
    let storage: Arc<dyn Storage> = Arc::new(storage.clone());
    let mut found = BTreeMap::new();
    for name in storage.list(Path::new(DIR)).unwrap() {
        // Directories cannot be opened.
        let Ok(file) = storage.open(&path(&name)) else { continue };
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        found.insert(name, bytes);
    }
    found
}

/// Message numbers and attempts. The numbers are from a small range, so several queues contain the same messages.
fn records() -> impl Strategy<Value = Vec<Record>> {
    let attempts = prop_oneof![6 => Just(0_u16), 1 => 1_u16..4, 1 => Just(u16::MAX)];
    let random = proptest::collection::vec((0_u16..60, attempts), 0..25);
    // As in a healthy topic: the same in all channels, in order.
    let runs =
        (0_u16..60, 0_u16..40).prop_map(|(from, count)| (from..from + count).map(|n| (n, 0)).collect());
    prop_oneof![random, runs].prop_map(|numbers: Vec<(u16, u16)>| {
        numbers.into_iter().map(|(n, attempts)| Record::new(n, attempts)).collect()
    })
}

fn queue() -> impl Strategy<Value = QueueModel> {
    let often_zero = |to: usize| prop_oneof![2 => Just(0), 1 => 0..to];
    let stale = (often_zero(9), often_zero(9), often_zero(60));
    let strange = (proptest::bool::weighted(0.1), -5_i64..5, 0_u64..3, any::<bool>());
    (records(), often_zero(30), stale, strange).prop_map(
        |(records, consumed, (stale_reads, stale_writes, torn_bytes), strange)| {
            let (no_position, wrong_depth, first_file, has_remains) = strange;
            QueueModel {
                records,
                consumed,
                stale_reads,
                stale_writes,
                no_position,
                torn_bytes,
                wrong_depth,
                first_file,
                has_remains,
            }
        },
    )
}

/// Any directory.
pub(super) fn dir() -> impl Strategy<Value = DirModel> {
    let channel =
        (proptest::bool::weighted(0.3), queue()).prop_map(|(paused, queue)| ChannelModel { paused, queue });
    let names = vec!["a", "b.diskqueue.000000", "..", "c-1"];
    let channels = proptest::collection::btree_map(proptest::sample::select(names), channel, 0..4);
    let topic = (proptest::bool::weighted(0.3), queue(), channels).prop_map(|(paused, queue, channels)| {
        let channels = channels.into_iter().map(|(name, channel)| (name.to_owned(), channel)).collect();
        TopicModel { paused, queue, channels }
    });
    let names = vec!["t", "t.diskqueue.000000", ".."];
    let topics = proptest::collection::btree_map(proptest::sample::select(names), topic, 0..4);
    (topics, 100_u64..2000).prop_map(|(topics, max_bytes_per_file)| DirModel {
        topics: topics.into_iter().map(|(name, topic)| (name.to_owned(), topic)).collect(),
        max_bytes_per_file,
    })
}
