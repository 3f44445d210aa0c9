//! Tests the whole engine on a real directory against a simple model: random work, clean stops and crashes. Files and
//! memory are small, so spilling, moves to segments, checkpoints and recovery happen all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nsq_daemon::log::Logger;
use nsq_protocol::{ChannelName, MessageView, TopicName};
use proptest::prelude::*;

use super::{StartOptions, recover};
use crate::channel::{Channel, ConsumerKey, TakeEnd};
use crate::client_info::ClientInfo;
use crate::engine::EngineLimits;
use crate::log::index::sequence_of;
use crate::log::retention::Retention;
use crate::storage::data_dir::DataDir;
use crate::storage::file::FileStorage;
use crate::storage::{Durability, Storage};
use crate::topic::Topic;
use crate::topic::registry::Registry;
use crate::upkeep::{journal_files, segments, stop};

pub(super) const CHANNELS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Publish {
        count: u8,
        size: u16,
    },
    PublishDeferred {
        delay_ms: u16,
    },
    Channel(u8),
    DeleteChannel(u8),
    Take {
        channel: u8,
        room: u16,
    },
    Finish {
        channel: u8,
        count: u8,
    },
    Requeue {
        channel: u8,
        delay: bool,
    },
    PauseTopic(bool),
    PauseChannel(u8, bool),
    EmptyChannel(u8),
    EmptyTopic,
    Retire,
    /// Moves a channel to a share of what was published.
    Move {
        channel: u8,
        share: u8,
    },
    /// Creates a channel that starts at a share of what was published.
    ChannelAt {
        channel: u8,
        share: u8,
    },
    /// The topic retains this many KiB from now on.
    Retain {
        kibibytes: u8,
    },
    Stop,
    Crash {
        flushed: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (1u8..40, 1u16..400).prop_map(|(count, size)| Step::Publish { count, size }),
        1 => (0u16..3).prop_map(|delay| Step::PublishDeferred { delay_ms: delay * 20_000 }),
        2 => any::<u8>().prop_map(Step::Channel),
        1 => any::<u8>().prop_map(Step::DeleteChannel),
        8 => (any::<u8>(), 1u16..6000).prop_map(|(channel, room)| Step::Take { channel, room }),
        8 => (any::<u8>(), 1u8..60).prop_map(|(channel, count)| Step::Finish { channel, count }),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(channel, delay)| Step::Requeue { channel, delay }),
        1 => any::<bool>().prop_map(Step::PauseTopic),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(channel, paused)| Step::PauseChannel(channel, paused)),
        1 => any::<u8>().prop_map(Step::EmptyChannel),
        1 => Just(Step::EmptyTopic),
        2 => Just(Step::Retire),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(channel, share)| Step::Move { channel, share }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(channel, share)| Step::ChannelAt { channel, share }),
        1 => (0u8..40).prop_map(|kibibytes| Step::Retain { kibibytes }),
        1 => Just(Step::Stop),
        2 => any::<bool>().prop_map(|flushed| Step::Crash { flushed }),
    ]
}

/// A channel in the model. Bodies are numbers.
#[derive(Debug, Default, Clone)]
pub(super) struct ModelChannel {
    /// Must be delivered (again), unless finished later.
    pub(super) needed: BTreeSet<u64>,
    /// Finished since the start or since the last flush of the journal. A crash may lose this.
    finished: BTreeSet<u64>,
    /// Finished, but a crash may have lost this.
    pub(super) maybe: BTreeSet<u64>,
    /// In flight now: sequence number to body.
    pub(super) in_flight: BTreeMap<u64, u64>,
    /// In flight when the channel was moved back over them: delivered again although finished.
    pub(super) recalled: BTreeSet<u64>,
}

impl ModelChannel {
    fn forget(&mut self, body: u64) {
        if self.recalled.remove(&body) {
            return;
        }
        self.needed.remove(&body);
        self.maybe.remove(&body);
        self.finished.insert(body);
    }
}

pub(super) struct World {
    dir: tempfile::TempDir,
    /// As set by the flags.
    retention: Retention,
    durability: Durability,
    pub(super) runtime: tokio::runtime::Runtime,
    registry: Option<Arc<Registry>>,
    pub(super) consumers: BTreeMap<String, (Arc<Channel>, ConsumerKey)>,
    next_body: u64,
    pub(super) model: BTreeMap<String, ModelChannel>,
    /// Published and not released to any channel.
    pub(super) held: BTreeSet<u64>,
    /// All messages that were published and not emptied: sequence number to body.
    pub(super) published: BTreeMap<u64, u64>,
    /// Finished before retention was set, and in no segment. A start may find them in the journal and retain them.
    pub(super) gone: BTreeMap<u64, u64>,
    paused: bool,
}

impl World {
    fn new(durability: Durability, retention: Retention) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut world = World {
            dir: tempfile::tempdir().unwrap(),
            retention,
            durability,
            runtime,
            registry: None,
            consumers: BTreeMap::new(),
            next_body: 1,
            model: BTreeMap::new(),
            held: BTreeSet::new(),
            published: BTreeMap::new(),
            gone: BTreeMap::new(),
            paused: false,
        };
        world.start();
        world
    }

    fn start(&mut self) {
        let storage: Arc<dyn Storage> = Arc::new(FileStorage);
        let registry = recover(StartOptions {
            data_dir: DataDir::open(&storage, self.dir.path()).unwrap(),
            storage,
            durability: self.durability,
            limits: EngineLimits {
                mem_queue_size: 50,
                mem_queue_bytes: 8 * 1024,
                node_id: 7,
                max_bytes_per_file: 16 * 1024,
                retention: self.retention,
                chunk_bytes: 1024,
                journal_file_bytes: 16 * 1024,
                ..EngineLimits::DEFAULT
            },
            logger: Logger::silent(),
            oracle: None,
            policies: Arc::default(),
        })
        .unwrap();
        let name = TopicName::new("t").unwrap();
        let topic = self.runtime.block_on(registry.get_or_create(&name)).unwrap();
        let names: Vec<_> = topic.channels().iter().map(|channel| channel.name().to_string()).collect();
        let expected: Vec<_> = self.model.keys().cloned().collect();
        assert_eq!(names, expected, "channels survive");
        for channel in topic.channels() {
            self.subscribe(channel);
        }
        self.registry = Some(registry);
    }

    pub(super) fn topic(&self) -> Arc<Topic> {
        self.registry.as_ref().unwrap().get("t").unwrap()
    }

    pub(super) fn subscribe(&mut self, channel: Arc<Channel>) {
        let info = Arc::new(ClientInfo::new("@".to_owned(), 0));
        let (key, _) = channel.subscribe(info, 60_000_000_000, 0, 0).unwrap().unwrap();
        channel.set_ready_count(key, 2500);
        self.consumers.insert(channel.name().to_string(), (channel, key));
    }

    pub(super) fn pick(&self, pick: u8) -> Option<(String, Arc<Channel>, ConsumerKey)> {
        let index = pick as usize % self.consumers.len().max(1);
        self.consumers.iter().nth(index).map(|(name, (channel, key))| (name.clone(), channel.clone(), *key))
    }

    fn publish(&mut self, count: u8, size: u16, delay: Option<Duration>) {
        let numbers: Vec<u64> = (0..u64::from(count)).map(|index| self.next_body + index).collect();
        self.next_body += u64::from(count);
        let bodies: Vec<Vec<u8>> = numbers.iter().map(|&number| body(number, size as usize)).collect();
        let bytes = bodies.iter().map(Vec::len).sum();
        let publication = self.topic().append(bodies.iter().map(Vec::as_slice), bytes, delay).unwrap();
        self.runtime.block_on(publication.committed()).unwrap();
        let first = self.topic().log().end() - u64::from(count);
        self.published.extend((first..).zip(numbers.iter().copied()));
        self.held.extend(numbers);
        self.release();
    }

    pub(super) fn release(&mut self) {
        if !self.paused && !self.model.is_empty() {
            let held = std::mem::take(&mut self.held);
            self.model.values_mut().for_each(|channel| channel.needed.extend(&held));
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Publish { count, size } => self.publish(count, size, None),
            Step::PublishDeferred { delay_ms } => {
                self.publish(1, 30, Some(Duration::from_millis(u64::from(delay_ms))));
            }
            Step::Channel(pick) => {
                let name = ChannelName::new(format!("c{}", pick as usize % CHANNELS)).unwrap();
                if !self.consumers.contains_key(name.as_str()) {
                    let topic = self.topic();
                    let channel = self.runtime.block_on(topic.get_or_create_channel(&name)).unwrap();
                    self.subscribe(channel);
                    self.model.insert(name.to_string(), ModelChannel::default());
                    self.release();
                }
            }
            Step::DeleteChannel(pick) => {
                if let Some((name, ..)) = self.pick(pick) {
                    self.topic().delete_channel(&name);
                    self.flush();
                    self.consumers.remove(&name);
                    self.model.remove(&name);
                }
            }
            Step::Take { channel, room } => self.take(channel, room as usize),
            Step::Finish { channel, count } => self.finish(channel, count as usize),
            Step::Requeue { channel, delay } => self.requeue(channel, delay),
            Step::PauseTopic(paused) => {
                self.topic().set_paused(paused);
                self.flush();
                self.paused = paused;
                self.release();
            }
            Step::PauseChannel(pick, paused) => {
                if let Some((_, channel, _)) = self.pick(pick) {
                    channel.set_paused(paused);
                }
            }
            Step::EmptyChannel(pick) => {
                if let Some((name, channel, _)) = self.pick(pick) {
                    channel.empty();
                    let model = self.model.get_mut(&name).unwrap();
                    model.in_flight.clear();
                    model.recalled.clear();
                    let all = std::mem::take(&mut model.needed);
                    model.finished.extend(all);
                    model.finished.append(&mut model.maybe);
                }
            }
            Step::EmptyTopic => {
                self.topic().empty();
                self.flush();
                let held = std::mem::take(&mut self.held);
                self.published.retain(|_, number| !held.contains(number));
            }
            Step::Retire => {
                journal_files::retire_journal_files(self.registry.as_ref().unwrap()).unwrap();
                segments::clean_segments(self.registry.as_ref().unwrap()).unwrap();
            }
            Step::Move { channel, share } => self.move_channel(channel, share),
            Step::ChannelAt { channel, share } => self.channel_at(channel, share),
            Step::Retain { kibibytes } => self.retain(u64::from(kibibytes) * 1024),
            Step::Stop => {
                let retained_from = self.retained_from();
                self.stop(true);
                self.start();
                self.still_retains(retained_from);
            }
            Step::Crash { flushed } => {
                let retained_from = self.retained_from();
                // Without a journal, only a clean stop keeps messages.
                if self.durability == Durability::Overflow {
                    self.stop(true);
                } else {
                    if flushed {
                        self.flush();
                    }
                    self.stop(false);
                }
                self.start();
                self.still_retains(retained_from);
            }
        }
    }

    /// Number of messages from the oldest in memory to the newest.
    fn in_memory(&self) -> u64 {
        let topic = self.topic();
        topic.log().end() - topic.log().memory_start()
    }

    /// Flushes the journal: a later crash loses nothing that happened before.
    pub(super) fn flush(&mut self) {
        if let Some(journal) = &self.registry.as_ref().unwrap().engine().store.journal {
            journal.flush().unwrap();
        }
        self.model.values_mut().for_each(|model| model.finished.clear());
    }

    fn stop(&mut self, clean: bool) {
        for (channel, key) in std::mem::take(&mut self.consumers).into_values() {
            if clean {
                channel.unsubscribe(key);
            }
        }
        let registry = self.registry.take().unwrap();
        if clean {
            stop::store_cleanly(&registry).unwrap();
        }
        for model in self.model.values_mut() {
            model.in_flight.clear();
            model.recalled.clear();
            let mut finished = std::mem::take(&mut model.finished);
            if !clean {
                model.maybe.append(&mut finished);
            }
        }
    }

    fn take(&mut self, pick: u8, room: usize) {
        let Some((name, channel, key)) = self.pick(pick) else { return };
        let mut out = Vec::new();
        self.take_into(&channel, key, &mut out, room);
        let model = self.model.get_mut(&name).unwrap();
        for (sequence, number) in messages(&out) {
            assert!(
                model.needed.contains(&number) || model.maybe.contains(&number),
                "{name} got unexpected message {number}"
            );
            assert!(!model.in_flight.values().any(|&other| other == number), "handed out twice");
            model.in_flight.insert(sequence, number);
        }
    }

    pub(super) fn take_into(&self, channel: &Arc<Channel>, key: ConsumerKey, out: &mut Vec<u8>, room: usize) {
        loop {
            let left = room.saturating_sub(out.len());
            let taken = channel.take(key, out, left);
            match (taken.end, taken.request) {
                (TakeEnd::OnDisk, Some(request)) => request.execute(),
                _ => return,
            }
        }
    }

    fn finish(&mut self, pick: u8, count: usize) {
        let Some((name, channel, key)) = self.pick(pick) else { return };
        let model = self.model.get_mut(&name).unwrap();
        let mut run = channel.acknowledge(key);
        for sequence in model.in_flight.keys().copied().take(count).collect::<Vec<_>>() {
            run.finish(sequence).unwrap();
            let number = model.in_flight.remove(&sequence).unwrap();
            model.forget(number);
        }
    }

    fn requeue(&mut self, pick: u8, delay: bool) {
        let Some((name, channel, key)) = self.pick(pick) else { return };
        let model = self.model.get_mut(&name).unwrap();
        if let Some((sequence, number)) = model.in_flight.pop_first() {
            channel.acknowledge(key).requeue(sequence, if delay { 1_000_000 } else { 0 }).unwrap();
            // A message that was finished before a crash, which lost this, was handed out again. It is needed now.
            if !model.dropped(number) {
                model.maybe.remove(&number);
                model.needed.insert(number);
            }
            model.recalled.remove(&number);
        }
    }

    /// Delivers everything at the end. All needed messages must arrive once all pauses and delays are over.
    fn drain(&mut self) {
        self.apply(Step::PauseTopic(false));
        self.all_retained_messages_are_delivered();
        for (name, (channel, key)) in self.consumers.clone() {
            channel.set_paused(false);
            crate::timers::Expire::expire(&*channel, u64::MAX / 2);
            let mut left = self.model[&name].needed.clone();
            loop {
                let mut out = Vec::new();
                self.take_into(&channel, key, &mut out, 1 << 20);
                if out.is_empty() {
                    break;
                }
                let mut run = channel.acknowledge(key);
                for (sequence, number) in messages(&out) {
                    left.remove(&number);
                    run.finish(sequence).unwrap();
                }
            }
            // The jump in time made messages in flight time out, and they were delivered above.
            assert_eq!(left, BTreeSet::new(), "{name} did not get these messages");
            assert_eq!(channel.inspect(|state, _| state.depth()), 0);
        }
    }
}

/// A body contains its number and a filler that reveals wrong bytes.
fn body(number: u64, size: usize) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.extend((0..size).map(|index| (number as usize * 31 + index) as u8));
    body
}

pub(super) fn messages(mut frames: &[u8]) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    while let Some((size, rest)) = frames.split_first_chunk::<4>() {
        let (frame, rest) = rest.split_at(u32::from_be_bytes(*size) as usize);
        let message = MessageView::parse(&frame[4..]).unwrap();
        let number = u64::from_be_bytes(message.body[..8].try_into().unwrap());
        assert_eq!(message.body, body(number, message.body.len() - 8), "wrong body");
        found.push((sequence_of(message.id.to_u64().unwrap()), number));
        frames = rest;
    }
    found
}

fn check(durability: Durability, retention: Retention, steps: Vec<Step>) {
    let mut world = World::new(durability, retention);
    for step in steps {
        world.apply(step);
    }
    world.drain();
}

const NO_RETENTION: Retention = Retention { age: 0, bytes: 0 };
const RETAIN_AN_HOUR: Retention = Retention { age: 3_600_000_000_000, bytes: 0 };

#[test]
fn long_deferred_message_holds_neither_memory_nor_disk() {
    let mut world = World::new(Durability::Write, NO_RETENTION);
    world.apply(Step::Channel(0));
    world.publish(1, 100, Some(Duration::from_secs(3000)));
    for round in 0..400 {
        world.publish(20, 100, None);
        world.apply(Step::Take { channel: 0, room: 60_000 });
        world.apply(Step::Finish { channel: 0, count: 60 });
        if round % 10 == 0 {
            world.apply(Step::Retire);
        }
    }
    // About 1.1 MB were published; segment files have 16 KiB.
    let bytes = world.topic().log().segment_bytes();
    assert!(bytes <= 2 * 16 * 1024, "{bytes} bytes in segments for one message");
    assert!(world.in_memory() <= 200, "{} messages in memory", world.in_memory());
    world.apply(Step::Crash { flushed: true });
    assert_eq!(world.pick(0).unwrap().1.inspect(|state, _| state.deferred_count()), 1);
    world.drain();
}

#[test]
fn message_deferred_before_retention_stays_deferred_for_a_later_channel() {
    for crash in [None, Some(Step::Crash { flushed: true })] {
        let mut world = World::new(Durability::Write, NO_RETENTION);
        world.apply(Step::Channel(0));
        world.apply(Step::PublishDeferred { delay_ms: 60_000 });
        world.apply(Step::PauseTopic(true));
        // Held back, so no channel knows the message.
        world.apply(Step::PublishDeferred { delay_ms: 60_000 });
        world.apply(Step::Retain { kibibytes: 40 });
        crash.into_iter().for_each(|crash| world.apply(crash));
        world.apply(Step::PauseTopic(false));
        world.apply(Step::ChannelAt { channel: 1, share: 0 });
        let (name, channel, _) = world.pick(1).unwrap();
        assert_eq!((name.as_str(), channel.inspect(|state, _| state.deferred_count())), ("c1", 2));
        world.drain();
    }
}

#[test]
fn unreadable_segment_does_not_count_as_old() {
    let mut world = World::new(Durability::Write, RETAIN_AN_HOUR);
    world.apply(Step::Channel(0));
    (0..20).for_each(|_| world.publish(30, 100, None));
    let topic = world.topic();
    let segments = world.dir.path().join(format!("topics/{}", topic.number()));
    let oldest = std::fs::read_dir(segments).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    let mut bytes = std::fs::read(&oldest).unwrap();
    bytes[92..].fill(b'x');
    std::fs::write(&oldest, bytes).unwrap();
    let from = topic.log().retained_from();
    topic.retain().unwrap();
    assert_eq!(topic.log().retained_from(), from, "its messages may be elsewhere");
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 3000, ..ProptestConfig::default() })]

    #[test]
    fn acknowledged_messages_survive_with_a_journal(steps in proptest::collection::vec(step(), 1..120)) {
        check(Durability::Write, NO_RETENTION, steps);
    }

    #[test]
    fn retained_messages_survive_with_a_journal(steps in proptest::collection::vec(step(), 1..120)) {
        check(Durability::Write, RETAIN_AN_HOUR, steps);
    }

    #[test]
    fn retained_messages_survive_a_clean_stop_without_a_journal(steps in proptest::collection::vec(step(), 1..80)) {
        check(Durability::Overflow, RETAIN_AN_HOUR, steps);
    }

    #[test]
    fn messages_survive_a_clean_stop_without_a_journal(steps in proptest::collection::vec(step(), 1..80)) {
        check(Durability::Overflow, NO_RETENTION, steps);
    }
}
