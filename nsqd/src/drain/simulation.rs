//! Crashes on both sides of a move.
//!
//! A move runs once between two engines on simulated disks, and every change of both disks is recorded. One side works at a
//! time, so the changes have one order. At each of them, both processes die. They start again on what is left, another move
//! runs to its end, and everything that consumers get on both sides is compared with what they would have got before. In a
//! second test, the node that drains stays up, and requests, answers and the other node get lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nsq_protocol::headers::{Form, HeadersBuf, put_published};
use nsq_protocol::{ChannelName, TopicName};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::moving::{MoveOptions, Mover};
use super::receiver::{Receiver, SendError, Subject};
use super::wire::{self, BatchAnswer, BeginAnswer, BeginBody};
use crate::channel::Channel;
use crate::damage::Severity;
use crate::policy::settings::{Change, Level};
use crate::startup::simulation::observe::{self, DIR, Delivery};
use crate::storage::faulty::FaultyStorage;
use crate::storage::faulty::disk::Disk;
use crate::storage::{Durability, Storage};
use crate::topic::Topic;
use crate::topic::adopting::{Beginning, Likeness};
use crate::topic::registry::Registry;
use crate::upkeep::{checkpoint, journal_files};

const DURABILITY: Durability = Durability::Write;
/// Due times may shift by this much: each side reads its clocks at another moment.
const SHIFT_NS: i64 = 5_000_000_000;
/// The other node writes a checkpoint at the end of some requests: each request adds two to the path.
const CHECKPOINT_EVERY: usize = 6;
const LATER: Duration = Duration::from_secs(1800);

/// The channel in which messages are found that no channel has.
const NO_CHANNEL: &str = "probe";

/// What consumers get: by topic, channel and body.
type Contents = BTreeMap<(String, String), BTreeMap<u64, Delivery>>;

/// A node on a simulated disk.
struct Node {
    storage: FaultyStorage,
    registry: Arc<Registry>,
}

impl Node {
    fn empty() -> Self {
        let storage = FaultyStorage::default();
        storage.create_dir_all(DIR.as_ref()).unwrap();
        Node::on(storage.after_kill())
    }

    fn on(storage: FaultyStorage) -> Self {
        let registry = observe::start(&storage, DURABILITY).unwrap();
        Node { storage, registry }
    }

    fn flush(&self) {
        self.registry.engine().store.journal.as_ref().unwrap().flush().unwrap();
    }
}

/// The other node, as the mover sees it.
struct Linked {
    node: Mutex<Node>,
    /// The numbers of changes on both disks before and after each request.
    path: Mutex<Vec<(usize, usize)>>,
    source: FaultyStorage,
    /// Decides which requests and answers get lost; `None` for none.
    trouble: Option<Mutex<fastrand::Rng>>,
}

impl Linked {
    fn new(node: Node, source: FaultyStorage, trouble: Option<u64>) -> Self {
        let trouble = trouble.map(|seed| Mutex::new(fastrand::Rng::with_seed(seed)));
        Linked { node: Mutex::new(node), path: Mutex::default(), source, trouble }
    }

    fn note(&self) {
        let counts = (self.source.recorded_count(), self.node.lock().storage.recorded_count());
        self.path.lock().push(counts);
    }

    /// Runs a request. Something may go wrong before and after it, and the node may die in the middle.
    async fn request<T>(
        &self,
        run: impl AsyncFnOnce(Arc<Registry>) -> Result<T, SendError>,
    ) -> Result<T, SendError> {
        self.note();
        let lost = || Err(SendError::temporary("lost"));
        let what = self.trouble.as_ref().map_or(0, |random| random.lock().u8(..10));
        if what == 1 {
            return lost();
        }
        let (base, registry) = {
            let node = self.node.lock();
            (node.storage.disk(), node.registry.clone())
        };
        let before = self.node.lock().storage.recorded_count();
        let result = run(registry.clone()).await;
        if self.path.lock().len() % CHECKPOINT_EVERY == 1 {
            checkpoint::write_checkpoint(&registry, false).unwrap();
        }
        self.note();
        match (what, &self.trouble) {
            (2, _) => lost(),
            (3, Some(random)) => {
                // It died somewhere within the request.
                let mut node = self.node.lock();
                let changes = node.storage.take_recorded();
                let made = &changes[before..];
                let mut disk = base;
                for change in &made[..random.lock().usize(..=made.len())] {
                    disk.apply(change).unwrap();
                }
                *node = Node::on(FaultyStorage::from(disk.after_kill()));
                node.storage.record();
                lost()
            }
            _ => result,
        }
    }
}

impl Receiver for &Linked {
    async fn begin(&self, subject: &Subject, body: &BeginBody) -> Result<BeginAnswer, SendError> {
        let beginning = Beginning {
            topic: subject.topic.clone(),
            like_topic: Likeness::from(&body.topic),
            channel: subject.channel.clone().zip(body.channel.as_ref().map(Likeness::from)),
            transfer: subject.transfer,
            session: subject.session,
        };
        self.request(async |registry| {
            registry.begin_adoption(&beginning).await.map(BeginAnswer::from).map_err(SendError::temporary)
        })
        .await
    }

    async fn batch(
        &self,
        subject: &Subject,
        batch: &crate::topic::adopting::IncomingBatch,
    ) -> Result<BatchAnswer, SendError> {
        let body = wire::encode(batch);
        let decoded = wire::decode(&body, (batch.transfer, batch.session), 1 << 20).unwrap();
        assert_eq!(&decoded, batch);
        self.request(async |registry| {
            let topic =
                registry.get(subject.topic.as_str()).ok_or_else(|| SendError::temporary("no topic"))?;
            let count = topic.adopt(subject.channel.clone(), decoded).await.map_err(SendError::temporary)?;
            Ok(BatchAnswer { stored: count.stored, known: count.known })
        })
        .await
    }

    async fn end(&self, subject: &Subject) -> Result<(), SendError> {
        self.request(async |registry| {
            let topic =
                registry.get(subject.topic.as_str()).ok_or_else(|| SendError::temporary("no topic"))?;
            topic.end_adoption(subject.transfer, subject.session).await.map_err(SendError::temporary)
        })
        .await
    }
}

/// Fills nodes with messages in all states. Bodies are numbered.
struct Filler<'r> {
    runtime: &'r Runtime,
    random: fastrand::Rng,
    next_body: u64,
}

impl Filler<'_> {
    fn topic(&self, node: &Node, name: &str, channels: &[&str]) -> Arc<Topic> {
        let topic =
            self.runtime.block_on(node.registry.get_or_create(&TopicName::new(name).unwrap())).unwrap();
        for channel in channels {
            let name = ChannelName::new(*channel).unwrap();
            self.runtime.block_on(topic.get_or_create_channel(&name)).unwrap();
        }
        topic
    }

    fn publish(&mut self, topic: &Topic, count: u64) {
        for _ in 0..count {
            let (number, kind) = (self.next_body, self.random.u8(..10));
            self.next_body += 1;
            let body = observe::body(number, self.random.usize(..120));
            let delay = (kind == 0).then_some(LATER);
            let (form, stored) = match kind {
                1..=3 => {
                    let headers = HeadersBuf::from_pairs([("n", number.to_string().as_str())]).unwrap();
                    let mut stored = Vec::new();
                    put_published(&mut stored, headers.as_headers(), &body);
                    (Form::WithHeaders, stored)
                }
                _ => (Form::Plain, body),
            };
            let published =
                topic.append_as(form, std::iter::once(stored.as_slice()), stored.len(), delay).unwrap();
            self.runtime.block_on(published.committed()).unwrap();
        }
    }

    /// Takes messages; finishes some, requeues some, defers some, and leaves some in flight. Returns the bodies of those.
    fn consume(&mut self, channel: &Arc<Channel>) -> BTreeSet<u64> {
        let key = observe::subscribe(channel).unwrap();
        let mut in_flight = BTreeSet::new();
        for _ in 0..self.random.usize(1..4) {
            let mut out = Vec::new();
            observe::take_into(channel, key, &mut out, self.random.usize(1..2000));
            for came in observe::messages(&out).unwrap() {
                let mut run = channel.acknowledge(key);
                match self.random.u8(..6) {
                    0 | 1 => run.finish(came.sequence).unwrap(),
                    2 | 3 => run.requeue(came.sequence, 0).unwrap(),
                    4 => run.requeue(came.sequence, crate::clock::nanos(LATER)).unwrap(),
                    _ => _ = in_flight.insert(came.body),
                }
            }
        }
        in_flight
    }
}

fn contents(disk: Disk, runtime: &Runtime) -> Contents {
    let started = observe::start_and_report(&FaultyStorage::from(disk), DURABILITY).unwrap();
    let findings = &started.report.found.findings;
    assert!(findings.iter().all(|finding| finding.severity != Severity::Damage), "{findings:?}");
    let mut contents = Contents::new();
    for topic in started.registry.all() {
        // A paused topic holds back what moves to its channels, too.
        topic.set_paused(false);
        if topic.channel_count() == 0 {
            let name = ChannelName::new(NO_CHANNEL).unwrap();
            runtime.block_on(topic.get_or_create_channel(&name)).unwrap();
        }
        for channel in topic.channels() {
            let of = contents.entry((topic.name().to_string(), channel.name().to_string())).or_default();
            for delivery in observe::observe_channel(&topic, &channel).unwrap().deliveries {
                let before = of.insert(delivery.body, delivery);
                let name = channel.name();
                assert!(before.is_none(), "{}/{name} has message {} twice", topic.name(), delivery.body);
            }
        }
    }
    contents.retain(|_, messages| !messages.is_empty());
    contents
}

/// What differs from `expected`. The attempts of messages that were in flight are not known exactly.
fn difference(found: &Contents, expected: &Contents, in_flight: &BTreeSet<u64>) -> Option<String> {
    for (place, messages) in expected {
        let none = BTreeMap::new();
        let there = found.get(place).unwrap_or(&none);
        for (body, expected) in messages {
            let Some(delivery) = there.get(body) else {
                return Some(format!("{place:?} lacks message {body}"));
            };
            let is_due = (delivery.due_ns - expected.due_ns).abs() < SHIFT_NS;
            let is_same = delivery.attempts == expected.attempts && delivery.failures == expected.failures;
            if !is_due || !(is_same || in_flight.contains(body)) {
                return Some(format!("{place:?}: {delivery:?} instead of {expected:?}"));
            }
        }
        if let Some(body) = there.keys().find(|body| !messages.contains_key(body)) {
            return Some(format!("{place:?} has message {body}, which belongs elsewhere"));
        }
    }
    let other = found.keys().find(|place| !expected.contains_key(place))?;
    Some(format!("{other:?} has {:?}", found[other].keys().collect::<Vec<_>>()))
}

/// Two nodes before a move, and what consumers must get after it.
struct Scene {
    from: Node,
    to: Node,
    /// From both nodes together.
    expected: Contents,
    in_flight: BTreeSet<u64>,
}

fn scene(seed: u64, runtime: &Runtime) -> Scene {
    let mut filler = Filler { runtime, random: fastrand::Rng::with_seed(seed), next_body: 1 };
    let (from, to) = (Node::empty(), Node::empty());
    let mut in_flight = BTreeSet::new();

    // The other node has some of the names, and a channel of its own.
    if filler.random.bool() {
        let topic = filler.topic(&to, "t", &["a", "other"]);
        filler.publish(&topic, 5);
        if filler.random.bool() {
            in_flight.append(&mut filler.consume(&topic.channel("a").unwrap()));
        }
        if filler.random.bool() {
            filler.topic(&to, "paused", &[]).set_paused(true);
        }
    }

    let topic = filler.topic(&from, "t", &["a", "b"]);
    let retains = filler.random.bool();
    if retains {
        let change = Change::parse(Level::Topic, [("retain_for", "1h")].into_iter()).unwrap();
        topic.change_settings(&change).unwrap();
    }
    let change = [("max_attempts", "9"), ("dead_letter", "dead")];
    let change = Change::parse(Level::Channel, change.into_iter()).unwrap();
    topic.change_channel_settings(&topic.channel("b").unwrap(), &change).unwrap();
    let count = filler.random.u64(1..60);
    filler.publish(&topic, count);
    for name in ["a", "b"] {
        in_flight.append(&mut filler.consume(&topic.channel(name).unwrap()));
    }
    filler.publish(&topic, 7);
    if filler.random.bool() {
        checkpoint::write_checkpoint(&from.registry, false).unwrap();
        in_flight.append(&mut filler.consume(&topic.channel("a").unwrap()));
    }
    let topic = filler.topic(&from, "none", &[]);
    filler.publish(&topic, 9);
    let topic = filler.topic(&from, "paused", &["x", "y"]);
    filler.publish(&topic, 4);
    topic.set_paused(true);
    filler.publish(&topic, 6);
    if filler.random.bool() {
        checkpoint::write_checkpoint(&from.registry, false).unwrap();
        journal_files::retire_journal_files(&from.registry).unwrap();
    }
    from.flush();
    to.flush();
    let mut expected = contents(from.storage.disk().after_kill(), runtime);
    for (place, messages) in contents(to.storage.disk().after_kill(), runtime) {
        expected.entry(place).or_default().extend(messages);
    }
    Scene { from, to, expected, in_flight }
}

fn move_all(from: &Node, to: &Linked, runtime: &Runtime) {
    let options = MoveOptions {
        target: "to:4151".to_owned(),
        source: "from:4151".to_owned(),
        process: "1".to_owned(),
        patience: Duration::from_secs(600),
        retry_interval: Duration::from_millis(1),
    };
    // Otherwise the move would wait for consumers that do nothing.
    for channel in from.registry.all().iter().flat_map(|topic| topic.channels()) {
        channel.recall_in_flight();
    }
    let mover = Mover::new(from.registry.clone(), to, options, CancellationToken::new(), Box::new(|_| ()));
    runtime.block_on(mover.run()).unwrap();
}

/// Checks both nodes after a move, as starts after a kill find them.
fn check(from: &FaultyStorage, to: &FaultyStorage, scene: &Scene, runtime: &Runtime) -> Result<(), String> {
    let left = contents(from.disk().after_kill(), runtime);
    if let Some((place, messages)) = left.iter().next() {
        return Err(format!("{place:?} still has {:?}", messages.keys().collect::<Vec<_>>()));
    }
    match difference(&contents(to.disk().after_kill(), runtime), &scene.expected, &scene.in_flight) {
        Some(difference) => Err(difference),
        None => Ok(()),
    }
}

fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let percent =
        std::env::var("NSQ_SIMULATION_PERCENT").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let only = std::env::var("NSQ_SIMULATION_SEED").ok().and_then(|text| text.parse::<u64>().ok());
    (1..=count * percent / 100).filter(move |seed| only.is_none_or(|only| only == *seed))
}

#[test]
fn a_crash_at_any_moment_of_a_move_loses_and_doubles_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for seed in seeds(12) {
        let scene = scene(seed, &runtime);
        let (mut from_disk, mut to_disk) = (scene.from.storage.disk(), scene.to.storage.disk());
        scene.from.storage.record();
        scene.to.storage.record();
        let to = Linked::new(
            Node { storage: scene.to.storage.clone(), registry: scene.to.registry.clone() },
            scene.from.storage.clone(),
            None,
        );
        move_all(&scene.from, &to, &runtime);
        to.note();
        check(&scene.from.storage, &scene.to.storage, &scene, &runtime)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));

        let (here, there) = (scene.from.storage.take_recorded(), scene.to.storage.take_recorded());
        let path = std::mem::take(&mut *to.path.lock());
        let (mut made, mut crashes) = ((0, 0), 0);
        for (until_here, until_there) in path.into_iter().chain([(here.len(), there.len())]) {
            while made < (until_here, until_there) {
                let is_here = made.0 < until_here;
                match is_here {
                    true => _ = from_disk.apply(&here[made.0]).unwrap(),
                    false => _ = to_disk.apply(&there[made.1]).unwrap(),
                }
                made = if is_here { (made.0 + 1, made.1) } else { (made.0, made.1 + 1) };
                crashes += 1;
                let from = Node::on(FaultyStorage::from(from_disk.after_kill()));
                let to = Node::on(FaultyStorage::from(to_disk.after_kill()));
                let (from_storage, to_storage) = (from.storage.clone(), to.storage.clone());
                let to = Linked::new(to, from_storage.clone(), None);
                move_all(&from, &to, &runtime);
                check(&from_storage, &to_storage, &scene, &runtime)
                    .unwrap_or_else(|error| panic!("seed {seed}, after the changes {made:?}: {error}"));
            }
        }
        assert!(crashes > 20, "seed {seed}: {crashes} crashes");
    }
}

#[test]
fn lost_requests_and_answers_and_a_dying_receiver_lose_and_double_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for seed in seeds(6) {
        let scene = scene(seed, &runtime);
        scene.to.storage.record();
        let node = Node { storage: scene.to.storage.clone(), registry: scene.to.registry.clone() };
        let to = Linked::new(node, scene.from.storage.clone(), Some(seed));
        move_all(&scene.from, &to, &runtime);
        let storage = to.node.lock().storage.clone();
        check(&scene.from.storage, &storage, &scene, &runtime)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}
