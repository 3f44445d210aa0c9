//! Short workloads that were chosen by hand, each for one property.

use std::path::Path;
use std::sync::Arc;

use nsq_daemon::log::Logger;
use nsq_protocol::{ChannelName, StartAt, TopicName};
use tokio::runtime::Runtime;

use super::explore::runtime;
use super::medium::Medium;
use super::observe::{self, LIMITS};
use super::steps::Step;
use super::world::{Contract, Crash, Lost, World};
use crate::engine::EngineLimits;
use crate::log::retention::Retention;
use crate::startup::{StartOptions, recover};
use crate::storage::block::BLOCK_HEADER_BYTES;
use crate::storage::data_dir::DataDir;
use crate::storage::{Durability, segment};
use crate::topic::registry::Registry;
use crate::upkeep::stop;

const WRITE: Contract = Contract { durability: Durability::Write, crash: Crash::Kill, lost: Lost::Nothing };

/// The process dies. Everything that it has written is left.
const KILL: Step = Step::Crash { back: 0, torn: 0 };

/// The limits that retain everything.
const RETAIN_ALL: Step = Step::SetRetention { topic: 0, limits: 1, acknowledged: true };

/// A world with topic `t` and its channel `a`.
fn world(runtime: &Runtime) -> World<'_> {
    let mut world = World::new(WRITE, 1, runtime).unwrap();
    apply(&mut world, [Step::CreateTopic { name: 0 }, Step::CreateChannel { topic: 0, name: 0 }]);
    world
}

fn apply(world: &mut World<'_>, steps: impl IntoIterator<Item = Step>) {
    for (index, step) in steps.into_iter().enumerate() {
        assert!(world.apply(step, index).unwrap(), "{step:?}");
    }
}

fn deferred_count(world: &World<'_>, channel: &str) -> usize {
    let channels = world.topic("t").unwrap().channels();
    let channel = channels.iter().find(|found| found.name().as_str() == channel).unwrap();
    channel.inspect(|state, _| state.deferred_count())
}

#[test]
fn long_deferred_message_holds_neither_memory_nor_disk() {
    let runtime = runtime();
    let mut world = world(&runtime);
    apply(&mut world, [Step::PublishDeferred { topic: 0, count: 1, delay_s: 3000 }]);
    for round in 0..150 {
        apply(
            &mut world,
            [
                Step::Publish { topic: 0, count: 20, size: 100 },
                Step::Take { channel: 0, room: 60_000 },
                Step::Finish { channel: 0, count: 60, newest: false },
            ],
        );
        if round % 10 == 0 {
            apply(&mut world, [Step::Retire, Step::Clean]);
        }
    }
    // About 400 KB were published.
    let topic = world.topic("t").unwrap();
    let bytes = topic.log().segment_bytes();
    assert!(bytes <= 2 * LIMITS.max_bytes_per_file, "{bytes} bytes in segments for one message");
    let in_memory = topic.log().end() - topic.log().memory_start();
    assert!(in_memory <= 4 * LIMITS.mem_queue_size, "{in_memory} messages in memory");
    drop(topic);
    apply(&mut world, [Step::Flush, KILL]);
    assert_eq!(deferred_count(&world, "a"), 1);
    world.drain().unwrap();
}

#[test]
fn message_deferred_before_retention_stays_deferred_for_a_later_channel() {
    let deferred = Step::PublishDeferred { topic: 0, count: 1, delay_s: 600 };
    for end in [&[][..], &[Step::Flush, KILL], &[Step::Stop]] {
        let runtime = runtime();
        let mut world = world(&runtime);
        // No channel knows the second message, because the topic is paused.
        let pause = Step::PauseTopic { topic: 0, paused: true };
        apply(&mut world, [deferred, pause, deferred, RETAIN_ALL]);
        apply(&mut world, end.iter().copied());
        apply(
            &mut world,
            [
                Step::PauseTopic { topic: 0, paused: false },
                Step::CreateChannelAt { topic: 0, name: 1, share: 0 },
            ],
        );
        assert_eq!(deferred_count(&world, "b"), 2, "after {end:?}");
        world.drain().unwrap();
    }
}

#[test]
fn unreadable_segment_does_not_count_as_old() {
    let runtime = runtime();
    let mut world = world(&runtime);
    apply(&mut world, [RETAIN_ALL]);
    apply(&mut world, (0..20).map(|_| Step::Publish { topic: 0, count: 30, size: 100 }));
    let topic = world.topic("t").unwrap();
    let segments = Path::new(observe::DIR).join(format!("topics/{}", topic.number()));
    let paths = world.storage().paths();
    let oldest = paths.iter().filter(|path| path.starts_with(&segments)).min().unwrap();
    let first_frames = segment::FILE_HEADER_BYTES as usize + BLOCK_HEADER_BYTES;
    world.storage().tamper(oldest, |bytes| bytes[first_frames..].fill(b'x'));
    let from = topic.log().retained_from();
    topic.retain().unwrap();
    assert_eq!(topic.log().retained_from(), from, "its messages may be elsewhere");
}

/// Starts with `--retain-for=1h` on real files.
fn start_retaining(medium: &Medium, durability: Durability) -> Arc<Registry> {
    let storage = medium.storage();
    let data_dir = DataDir::open(&storage, medium.dir()).unwrap();
    let retention = Retention { age: 3_600_000_000_000, bytes: 0 };
    let limits = EngineLimits { retention, ..LIMITS };
    let logger = Logger::silent();
    let policies = Arc::default();
    recover(StartOptions { storage, data_dir, durability, limits, logger, oracle: None, policies }).unwrap()
}

#[test]
fn messages_retained_by_the_flags_survive_stops_and_kills() {
    const MESSAGES: u64 = 200;
    let runtime = runtime();
    for durability in [Durability::Write, Durability::Overflow] {
        let medium = Medium::real().unwrap();
        let mut registry = start_retaining(&medium, durability);
        let topic = runtime.block_on(registry.get_or_create(&TopicName::new("t").unwrap())).unwrap();
        let name = ChannelName::new("c").unwrap();
        let channel = runtime.block_on(topic.get_or_create_channel(&name)).unwrap();
        let key = observe::subscribe(&channel).unwrap();
        for number in 0..MESSAGES {
            let body = observe::body(number, 100);
            let publication = topic.append([&body[..]].into_iter(), body.len(), None).unwrap();
            runtime.block_on(publication.committed()).unwrap();
            let mut out = Vec::new();
            observe::take_into(&channel, key, &mut out, 1 << 20);
            channel.acknowledge(key).finish(observe::messages(&out).unwrap()[0].sequence).unwrap();
        }
        drop((topic, channel));
        // The kill is the drop of the registry. Without a journal, only a clean stop keeps messages.
        for is_clean in [true, durability == Durability::Overflow, true] {
            if is_clean {
                stop::store_cleanly(&registry).unwrap();
            }
            drop(registry);
            registry = start_retaining(&medium, durability);
            let log = registry.get("t").unwrap().log().clone();
            assert_eq!(log.retained().map(|retained| retained.message_count), Some(MESSAGES));
        }
        let topic = registry.get("t").unwrap();
        let name = ChannelName::new("again").unwrap();
        let again = runtime.block_on(topic.get_or_create_channel_at(&name, StartAt::Earliest)).unwrap();
        let key = observe::subscribe(&again).unwrap();
        let mut out = Vec::new();
        observe::take_into(&again, key, &mut out, 1 << 20);
        let bodies: Vec<u64> = observe::messages(&out).unwrap().iter().map(|came| came.body).collect();
        assert_eq!(bodies, (0..MESSAGES).collect::<Vec<_>>());
    }
}
