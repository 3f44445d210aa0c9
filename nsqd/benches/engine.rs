//! Cost of a message in the whole engine without sockets (topic, log, journal, channel), and of a start.
//! `cargo bench -p nsqd --bench engine`; instructions instead of time: `nsqd/benches/instructions`.
//!
//! `instructions` counts only the functions called `measured_...`; the code around them is preparation.

use std::path::Path;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use nsq_daemon::log::Logger;
use nsq_protocol::{ChannelName, TopicName};
use nsqd::channel::{Channel, ConsumerKey, TakeEnd};
use nsqd::client_info::ClientInfo;
use nsqd::engine::EngineLimits;
use nsqd::startup::{StartOptions, recover};
use nsqd::storage::data_dir::DataDir;
use nsqd::storage::file::FileStorage;
use nsqd::storage::{Durability, Storage};
use nsqd::topic::Topic;
use nsqd::topic::registry::Registry;
use nsqd::upkeep::stop;
use tokio::runtime::Runtime;

fn main() {
    divan::main();
}

/// Messages handled in one iteration.
const MESSAGES: usize = 20_000;
const BODY: [u8; 200] = [7; 200];

/// An engine in its own directory, with one topic and one channel.
struct World {
    runtime: Runtime,
    registry: Arc<Registry>,
    topic: Arc<Topic>,
    channel: Arc<Channel>,
    key: ConsumerKey,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let registry = start(dir.path());
        let name = TopicName::new("topic").expect("a valid name");
        let topic = runtime.block_on(registry.get_or_create(&name)).expect("a topic");
        let name = ChannelName::new("channel").expect("a valid name");
        let channel = runtime.block_on(topic.get_or_create_channel(&name)).expect("a channel");
        let info = Arc::new(ClientInfo::new("bench".to_owned(), 0));
        let (key, _) = channel.subscribe(info, 60_000_000_000, 0, 0).ok().flatten().expect("a subscription");
        channel.set_ready_count(key, 1 << 40);
        World { runtime, registry, topic, channel, key, dir }
    }

    fn filled() -> Self {
        let world = World::new();
        world.append(200);
        world
    }

    fn delivered() -> Self {
        let world = World::filled();
        world.take();
        world
    }

    fn append(&self, batch: usize) {
        for _ in 0..MESSAGES / batch {
            let bodies = std::iter::repeat_n(&BODY[..], batch);
            let publication = self.topic.append(bodies, batch * BODY.len(), None).expect("not refused");
            self.runtime.block_on(publication.committed()).expect("durable");
        }
    }

    fn take(&self) {
        let mut output = Vec::with_capacity(1 << 20);
        loop {
            let taken = self.channel.take(self.key, &mut output, 256 << 10);
            match (taken.end, taken.request) {
                (TakeEnd::OnDisk, Some(request)) => request.execute(),
                (TakeEnd::Full, _) => output.clear(),
                _ => return,
            }
        }
    }
}

fn start(dir: &Path) -> Arc<Registry> {
    let storage: Arc<dyn Storage> = Arc::new(FileStorage);
    recover(StartOptions {
        data_dir: DataDir::open(&storage, dir).expect("a data directory"),
        storage,
        durability: Durability::Write,
        limits: EngineLimits { node_id: 7, ..EngineLimits::DEFAULT },
        logger: Logger::silent(),
        oracle: None,
        policies: Arc::default(),
    })
    .expect("the engine starts")
}

/// Publishes in batches to the journal, and to segments once the memory limit is reached.
#[divan::bench(args = [1, 10, 200], sample_count = 20, sample_size = 1)]
fn append(bencher: Bencher, batch: usize) {
    bencher
        .counter(ItemsCount::new(MESSAGES))
        .with_inputs(World::new)
        .bench_local_refs(|world| measured_append(world, batch));
}

#[inline(never)]
fn measured_append(world: &World, batch: usize) {
    world.append(batch);
}

/// Takes messages: half come from memory, half from segments.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn take(bencher: Bencher) {
    bencher
        .counter(ItemsCount::new(MESSAGES))
        .with_inputs(World::filled)
        .bench_local_refs(|world| measured_take(world));
}

#[inline(never)]
fn measured_take(world: &World) {
    world.take();
}

/// Finishes messages in runs of 100 FINs.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn finish(bencher: Bencher) {
    bencher
        .counter(ItemsCount::new(MESSAGES))
        .with_inputs(World::delivered)
        .bench_local_refs(|world| measured_finish(world));
}

#[inline(never)]
fn measured_finish(world: &World) {
    let end = world.topic.log().end();
    let mut sequence = end - MESSAGES as u64;
    while sequence < end {
        let mut run = world.channel.acknowledge(world.key);
        for _ in 0..100 {
            run.finish(sequence).expect("in flight");
            sequence += 1;
        }
    }
}

/// Starts after a kill: reads the journal; half of the messages are already in segments.
#[divan::bench(sample_count = 10, sample_size = 1)]
fn recover_journal(bencher: Bencher) {
    bencher
        .counter(ItemsCount::new(MESSAGES))
        .with_inputs(|| abandoned(false))
        .bench_local_refs(|dir| measured_recover(dir.path()));
}

/// Starts after a clean stop: reads the checkpoint and the headers of segments.
#[divan::bench(sample_count = 10, sample_size = 1)]
fn recover_checkpoint(bencher: Bencher) {
    bencher
        .counter(ItemsCount::new(MESSAGES))
        .with_inputs(|| abandoned(true))
        .bench_local_refs(|dir| measured_recover(dir.path()));
}

/// The data directory after a process ended with everything written.
fn abandoned(clean: bool) -> tempfile::TempDir {
    let World { registry, dir, .. } = World::filled();
    if clean {
        stop::persist_all(&registry, true).expect("everything is written");
    }
    dir
}

#[inline(never)]
fn measured_recover(dir: &Path) {
    divan::black_box(start(dir));
}
