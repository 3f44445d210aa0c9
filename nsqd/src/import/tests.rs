//! Takes over random directories of NSQ, with and without crashes at every step, and drains them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nsq_daemon::log::Logger;
use nsq_protocol::{ChannelName, MessageView};
use parking_lot::Mutex;
use proptest::prelude::*;

use super::nsq_dir::{self, DIR, DirModel, Messages, QueueModel, Record, TopicContent, files, put};
use super::{Converter, ImportError, take_over_with};
use crate::channel::{Channel, TakeEnd};
use crate::client_info::ClientInfo;
use crate::clock;
use crate::engine::EngineLimits;
use crate::log::index::sequence_of;
use crate::policy::setting::{Setting, Value};
use crate::policy::settings::Change;
use crate::startup::{RecoveryError, StartOptions, recover};
use crate::storage::data_dir::DataDir;
use crate::storage::faulty::{Fault, FaultyStorage, Op};
use crate::storage::{ChannelNumber, DirLock, Durability, Identity, Space, Storage, StorageFile, SyncError};
use crate::topic::TopicDepth;
use crate::topic::registry::Registry;
use crate::upkeep::checkpoint;

const LIMITS: EngineLimits = EngineLimits {
    mem_queue_size: 50,
    mem_queue_bytes: 8 * 1024,
    node_id: 7,
    max_bytes_per_file: 4 * 1024,
    chunk_bytes: 512,
    journal_file_bytes: 16 * 1024,
    ..EngineLimits::DEFAULT
};

/// When [`import`] takes over.
const TAKEN_OVER_AT_NS: i64 = 1_000_000_000;

/// Runs only the takeover, with an index too large for its memory limit.
fn import(storage: &Arc<dyn Storage>) -> Result<(), ImportError> {
    let data_dir = DataDir::open(storage, DIR)?;
    take_over_with(Converter {
        storage,
        data_dir: &data_dir,
        limits: &LIMITS,
        logger: &Logger::silent(),
        max_index_entries: 20,
        wall_ns: TAKEN_OVER_AT_NS,
        first_sequence: 1_000_000,
        next_channel: ChannelNumber(1),
    })
}

fn start(storage: &FaultyStorage, durability: Durability) -> Result<Arc<Registry>, RecoveryError> {
    let storage: Arc<dyn Storage> = Arc::new(storage.clone());
    recover(StartOptions {
        data_dir: DataDir::open(&storage, DIR).unwrap(),
        storage,
        durability,
        limits: LIMITS,
        logger: Logger::silent(),
        oracle: None,
        policies: Arc::default(),
    })
}

/// Everything that consumers get.
fn contents(registry: &Registry) -> BTreeMap<String, TopicContent> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut contents = BTreeMap::new();
    for topic in registry.all() {
        let TopicDepth { depth, paused, .. } = topic.depth();
        let mut content = TopicContent { paused, ..TopicContent::default() };
        for channel in topic.channels() {
            let paused = channel.inspect(|state, _| state.is_paused());
            content.channels.insert(channel.name().to_string(), (paused, drain(&channel)));
        }
        let late = ChannelName::new("late").unwrap();
        let channel = match topic.channels().first() {
            Some(channel) => channel.clone(),
            None => runtime.block_on(topic.get_or_create_channel(&late)).unwrap(),
        };
        topic.set_paused(false);
        content.held = drain(&channel);
        assert_eq!(content.held.values().map(Vec::len).sum::<usize>() as u64, depth);
        contents.insert(topic.name().to_string(), content);
    }
    contents
}

/// Takes and finishes all messages of a channel.
fn drain(channel: &Arc<Channel>) -> Messages {
    channel.set_paused(false);
    let depth = channel.inspect(|state, _| state.depth());
    let info = Arc::new(ClientInfo::new("@".to_owned(), 0));
    let (key, _) = channel.subscribe(info, 60_000_000_000, 0, 0).unwrap().unwrap();
    channel.set_ready_count(key, 2500);
    let mut messages = Messages::new();
    loop {
        let mut out = Vec::new();
        let taken = channel.take(key, &mut out, 1 << 20);
        let is_over = match (taken.end, taken.request) {
            (TakeEnd::OnDisk, Some(request)) => {
                request.execute();
                false
            }
            _ => out.is_empty(),
        };
        let mut run = channel.acknowledge(key);
        let mut frames = &out[..];
        while let Some((size, rest)) = frames.split_first_chunk::<4>() {
            let (frame, rest) = rest.split_at(u32::from_be_bytes(*size) as usize);
            let message = MessageView::parse(&frame[4..]).unwrap();
            let id = message.id.to_u64().unwrap();
            assert_eq!(id >> 54, 7, "the id contains the node id");
            run.finish(sequence_of(id)).unwrap();
            let deliveries = messages.entry((message.timestamp_ns, message.body.to_vec())).or_default();
            deliveries.push(message.attempts);
            deliveries.sort_unstable();
            frames = rest;
        }
        drop(run);
        if is_over {
            break;
        }
    }
    assert_eq!(messages.values().map(Vec::len).sum::<usize>() as u64, depth, "depth was correct");
    channel.unsubscribe(key);
    messages
}

fn sorted(mut contents: BTreeMap<String, TopicContent>) -> BTreeMap<String, TopicContent> {
    for content in contents.values_mut() {
        let all = content.channels.values_mut().map(|(_, messages)| messages).chain([&mut content.held]);
        all.for_each(|messages| messages.values_mut().for_each(|attempts| attempts.sort_unstable()));
    }
    contents
}

/// Checks that all files of NSQ exist under new names with the same bytes, and that no others exist.
fn assert_renamed(before: &BTreeMap<String, Vec<u8>>, storage: &FaultyStorage) {
    let mut after = files(storage);
    after.retain(|name, _| !["format", "checkpoint"].contains(&name.as_str()));
    let expected: BTreeMap<_, _> =
        before.iter().map(|(name, bytes)| (format!("{name}.imported"), bytes.clone())).collect();
    assert_eq!(after, expected);
}

/// Saves the state that a kill or a power failure before each change would leave.
struct Witness {
    storage: FaultyStorage,
    images: Mutex<Vec<FaultyStorage>>,
}

impl Witness {
    fn see(&self) {
        let mut images = self.images.lock();
        let seed = images.len() as u64;
        images.extend([self.storage.after_kill(), self.storage.after_power_loss(seed)]);
    }
}

struct Witnessed(Arc<Witness>);

struct WitnessedFile(Arc<Witness>, Arc<dyn StorageFile>);

impl Storage for Witnessed {
    fn create(&self, path: &Path, preallocate_bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        self.0.see();
        let file = self.0.storage.create(path, preallocate_bytes)?;
        Ok(Arc::new(WitnessedFile(self.0.clone(), file)))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(WitnessedFile(self.0.clone(), self.0.storage.open(path)?)))
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.storage.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.storage.list(dir)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.see();
        self.0.storage.remove(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.see();
        self.0.storage.remove_dir_all(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.see();
        self.0.storage.rename(from, to)
    }
    fn sync_dir(&self, dir: &Path) -> Result<(), SyncError> {
        self.0.see();
        self.0.storage.sync_dir(dir)
    }
    fn identity(&self, path: &Path) -> io::Result<Identity> {
        self.0.storage.identity(path)
    }
    fn space(&self, dir: &Path) -> Option<Space> {
        self.0.storage.space(dir)
    }
    fn lock_dir(&self, dir: &Path) -> io::Result<DirLock> {
        self.0.storage.lock_dir(dir)
    }
    fn check_writable(&self, dir: &Path) -> io::Result<()> {
        self.0.storage.check_writable(dir)
    }
}

impl StorageFile for WitnessedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.1.read_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.see();
        self.1.write_all_at(buf, offset)
    }
    fn write_all_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        self.0.see();
        self.1.write_all_vectored_at(bufs, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.see();
        self.1.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.1.len()
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.see();
        self.1.truncate(len)
    }
    fn identity(&self) -> io::Result<Identity> {
        self.1.identity()
    }
}

proptest! {
    #[test]
    fn channels_get_their_messages_and_the_topic_keeps_its_backlog(
        dir in nsq_dir::dir(),
        durability in proptest::sample::select(&[Durability::Overflow, Durability::Write, Durability::Sync][..]),
        restart: bool,
    ) {
        let (storage, expected) = dir.write();
        let before = files(&storage);
        import(&(Arc::new(storage.clone()) as Arc<dyn Storage>)).unwrap();
        assert_renamed(&before, &storage);
        let mut registry = start(&storage, durability).unwrap();
        if restart {
            drop(registry);
            registry = start(&storage, durability).unwrap();
        }
        prop_assert_eq!(sorted(contents(&registry)), sorted(expected));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 500, ..ProptestConfig::default() })]

    #[test]
    fn crash_at_any_step_does_not_change_the_result(dir in nsq_dir::dir()) {
        let (storage, expected) = dir.write();
        let expected = sorted(expected);
        let before = files(&storage);
        let witness = Arc::new(Witness { storage, images: Mutex::default() });
        import(&(Arc::new(Witnessed(witness.clone())) as Arc<dyn Storage>)).unwrap();
        witness.see();
        let images = std::mem::take(&mut *witness.images.lock());
        for image in images {
            let registry = start(&image, Durability::Write).unwrap();
            assert_renamed(&before, &image);
            prop_assert_eq!(&sorted(contents(&registry)), &expected);
        }
    }

    #[test]
    fn disk_failure_during_the_takeover_loses_nothing(dir in nsq_dir::dir(), after in 0usize..40) {
        let (storage, expected) = dir.write();
        let (expected, before) = (sorted(expected), files(&storage));
        for op in [Op::Create, Op::Write, Op::Sync, Op::SyncDir, Op::Rename, Op::Read] {
            let storage = storage.after_kill();
            let fault = Fault::next(op, usize::MAX, io::ErrorKind::StorageFull);
            storage.plan(Fault { after, written: 7, ..fault });
            // It may fail or not.
            let _ = import(&(Arc::new(storage.clone()) as Arc<dyn Storage>));
            storage.heal();
            let registry = start(&storage, Durability::Write).unwrap();
            assert_renamed(&before, &storage);
            prop_assert_eq!(&sorted(contents(&registry)), &expected, "{:?}", op);
        }
    }
}

/// A directory with one topic `t` and one channel `c`, whose queue has ten messages.
fn small() -> DirModel {
    let queue = QueueModel::of((0..10).map(|n| Record::new(n, 0)).collect());
    let mut dir = DirModel { max_bytes_per_file: 1 << 20, ..DirModel::default() };
    let topic = dir.topics.entry("t".to_owned()).or_default();
    topic.channels.entry("c".to_owned()).or_default().queue = queue;
    dir
}

fn depth(registry: &Registry) -> u64 {
    registry.get("t").unwrap().channel("c").unwrap().inspect(|state, _| state.depth())
}

/// The timestamps are years old.
#[test]
fn age_counts_from_the_takeover_also_after_restarts() {
    let (storage, _) = small().write();
    let minutes = |count: u64| Duration::from_secs(count * 60);
    for restart in 0..3 {
        let registry = start(&storage, Durability::Write).unwrap();
        let topic = registry.get("t").unwrap();
        if restart == 0 {
            let ttl = Change::of([(Setting::Ttl, Value::Duration(minutes(60)))]);
            topic.change_settings(&ttl).unwrap();
        }
        let (now, wall_ns) = (clock::monotonic(), clock::wall_ns());
        topic.expire(now, wall_ns.saturating_add_unsigned(clock::nanos(minutes(59))));
        assert_eq!(depth(&registry), 10, "after {restart} restarts");
        assert_eq!(
            topic.log().end_of_older(wall_ns.saturating_sub_unsigned(clock::nanos(minutes(2)))),
            Ok(0)
        );
        if restart == 2 {
            topic.expire(now + clock::nanos(minutes(2)), wall_ns);
            assert_eq!(depth(&registry), 0);
            assert!(topic.log().taken_over().is_none(), "no message is left");
        }
        // The next start reads a checkpoint of ours, not that of the takeover.
        checkpoint::write_checkpoint(&registry, false).unwrap();
        checkpoint::write_checkpoint(&registry, false).unwrap();
    }
}

#[test]
fn damage_loses_only_the_record_that_it_hits() {
    let delivered = |change: &dyn Fn(&mut Vec<u8>)| {
        let (storage, _) = small().write();
        storage.tamper(&nsq_dir::path("t:c.diskqueue.000000.dat"), change);
        let registry = start(&storage, Durability::Write).unwrap();
        drain(&registry.get("t").unwrap().channel("c").unwrap()).len()
    };
    let record = |n: u16| (0..n).map(|n| Record::new(n, 0).encode().len()).sum::<usize>();
    assert_eq!(delivered(&|_| {}), 10);
    assert_eq!(delivered(&|bytes| bytes.truncate(record(10) - 5)), 9);
    assert_eq!(delivered(&|bytes| bytes.extend([7; 24])), 10);
    assert_eq!(delivered(&|bytes| bytes[record(3)..][..4].fill(0xff)), 9);
    assert_eq!(delivered(&|bytes| bytes[record(3) + 14] = b'x'), 9);
    assert_eq!(delivered(&Vec::clear), 0);
}

#[test]
fn invalid_metadata_refuses_the_start_and_changes_nothing() {
    let (storage, _) = small().write();
    storage.tamper(&nsq_dir::path("nsqd.dat"), |bytes| bytes.truncate(9));
    let before = storage.paths();
    let error = start(&storage, Durability::Write).err().unwrap();
    assert_eq!(
        error.to_string(),
        "failed to parse metadata in /data/nsqd.dat - unexpected end of JSON input"
    );
    assert_eq!(storage.paths(), before);
}

#[test]
fn queues_without_a_topic_are_not_imported() {
    let (storage, _) = small().write();
    put(&storage, "t:gone.diskqueue.000000.dat", &Record::new(1, 0).encode());
    put(&storage, "other.diskqueue.meta.dat", b"0\n0,0\n0,0\n");
    let registry = start(&storage, Durability::Write).unwrap();
    assert_eq!(depth(&registry), 10);
    let left: Vec<_> = files(&storage).into_keys().filter(|name| name.ends_with(".dat")).collect();
    assert_eq!(left, ["other.diskqueue.meta.dat", "t:gone.diskqueue.000000.dat"]);
}

#[test]
fn files_that_nsq_writes_after_the_takeover_are_ignored() {
    let (storage, _) = small().write();
    drop(start(&storage, Durability::Write).unwrap());
    put(&storage, "nsqd.dat", br#"{"topics":[{"name":"new"}]}"#);
    put(&storage, "t:c.diskqueue.000000.dat", &Record::new(1, 0).encode());
    let before = files(&storage);
    let registry = start(&storage, Durability::Write).unwrap();
    assert_eq!(depth(&registry), 10);
    assert!(registry.get("new").is_none());
    drop(registry);
    assert_eq!(files(&storage), before);
}

#[test]
fn directory_with_our_journal_is_not_taken_over() {
    let storage = FaultyStorage::default();
    storage.create_dir_all(Path::new(DIR)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let registry = start(&storage, Durability::Write).unwrap();
    let name = nsq_protocol::TopicName::new("ours").unwrap();
    let topic = runtime.block_on(registry.get_or_create(&name)).unwrap();
    let publication = topic.append([&b"x"[..]].into_iter(), 1, None).unwrap();
    runtime.block_on(publication.committed()).unwrap();
    drop((topic, registry));
    let image = storage.after_kill();
    put(&image, "nsqd.dat", br#"{"topics":[{"name":"t"}]}"#);
    let registry = start(&image, Durability::Write).unwrap();
    assert_eq!(registry.get("ours").unwrap().depth().depth, 1);
    assert!(registry.get("t").is_none());
    assert!(files(&image).contains_key("nsqd.dat"));
}

#[test]
fn second_takeover_uses_other_file_names() {
    let (storage, _) = small().write();
    put(&storage, "nsqd.dat.imported", b"older");
    start(&storage, Durability::Write).unwrap();
    let files = files(&storage);
    assert_eq!(files["nsqd.dat.imported"], b"older");
    assert!(files.contains_key("nsqd.dat.imported.2"));
}

#[test]
fn messages_written_after_the_last_sync_are_taken_over() {
    let mut dir = small();
    let queue = &mut dir.topics.get_mut("t").unwrap().channels.get_mut("c").unwrap().queue;
    queue.stale_writes = 4;
    let (storage, expected) = dir.write();
    let registry = start(&storage, Durability::Write).unwrap();
    assert_eq!(depth(&registry), 10);
    assert_eq!(sorted(contents(&registry)), sorted(expected));
}

#[test]
fn bytes_from_an_earlier_use_of_a_file_are_not_damage() {
    // NSQ was killed before a queue's first sync, and later wrote over the file.
    let old: Vec<u8> = (20..40).flat_map(|n| Record::new(n, 0).encode()).collect();
    let new: Vec<u8> = (0..10).flat_map(|n| Record::new(n, 0).encode()).collect();
    let (storage, _) = small().write();
    storage.tamper(&nsq_dir::path("t:c.diskqueue.000000.dat"), |bytes| {
        assert_eq!(*bytes, new);
        bytes.extend(&old[new.len()..]);
    });
    let registry = start(&storage, Durability::Write).unwrap();
    assert_eq!(depth(&registry), 10);
}

#[test]
fn messages_with_equal_time_and_id_are_all_taken_over() {
    let with_body = |n: u8| Record { body: vec![n; 3], ..Record::new(1, 0) };
    let mut dir = small();
    let channels = &mut dir.topics.get_mut("t").unwrap().channels;
    channels.get_mut("c").unwrap().queue = QueueModel::of(vec![with_body(1), with_body(2)]);
    channels.entry("d".to_owned()).or_default().queue = QueueModel::of(vec![with_body(2), with_body(1)]);
    let (storage, expected) = dir.write();
    let registry = start(&storage, Durability::Write).unwrap();
    assert_eq!(sorted(contents(&registry)), sorted(expected));
}
