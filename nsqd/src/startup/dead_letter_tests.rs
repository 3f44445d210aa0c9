//! Dead letters and redrives on a simulated disk: refused writes, restarts, and what other channels see.

use std::io;
use std::path::Path;
use std::sync::Arc;

use nsq_protocol::headers::{Form, HeadersBuf, put_published};
use nsq_protocol::{ChannelName, StartAt, TopicName};
use tokio::runtime::Runtime;

use super::simulation::observe::{self, messages, subscribe, take_into};
use crate::channel::{Channel, ConsumerKey};
use crate::policy::settings::{Change, Level};
use crate::storage::faulty::{Fault, FaultyStorage, Op};
use crate::storage::{Durability, Storage};
use crate::topic::Topic;
use crate::topic::dead_lettering::REDRIVE_CHANNEL;
use crate::topic::redrive::RedriveOptions;
use crate::topic::registry::Registry;
use crate::upkeep::checkpoint;

struct Node {
    runtime: Runtime,
    storage: FaultyStorage,
    registry: Arc<Registry>,
}

impl Node {
    fn new() -> Self {
        let storage = FaultyStorage::default();
        storage.create_dir_all(Path::new(observe::DIR)).unwrap();
        Node::on(storage)
    }

    fn on(storage: FaultyStorage) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let registry = observe::start(&storage, Durability::Write).unwrap();
        Node { runtime, storage, registry }
    }

    /// Starts on what a kill leaves.
    fn killed(self) -> Self {
        let disk = self.storage.disk().after_kill();
        drop(self.registry);
        Node::on(disk.into())
    }

    fn topic(&self, name: &str) -> Arc<Topic> {
        self.runtime.block_on(self.registry.get_or_create(&name.parse().unwrap())).unwrap()
    }

    fn channel(&self, topic: &str, name: &str) -> (Arc<Channel>, ConsumerKey) {
        let name: ChannelName = name.parse().unwrap();
        let channel = self.runtime.block_on(self.topic(topic).get_or_create_channel(&name)).unwrap();
        let key = subscribe(&channel).unwrap();
        (channel, key)
    }

    fn set(&self, topic: &str, channel: &Channel, name: &str, value: &str) {
        let change = Change::parse(Level::Channel, [(name, value)].into_iter()).unwrap();
        self.topic(topic).change_channel_settings(channel, &change).unwrap();
    }

    fn publish(&self, topic: &str, number: u64) {
        let body = observe::body(number, 10);
        let publication = self.topic(topic).append([&body[..]].into_iter(), body.len(), None).unwrap();
        self.runtime.block_on(publication.committed()).unwrap();
    }

    fn redrive(&self, topic: &str) -> u64 {
        let name: TopicName = topic.parse().unwrap();
        self.runtime.block_on(self.registry.redrive_now(&name, RedriveOptions::default())).unwrap()
    }

    fn dead_letter(&self) -> bool {
        self.runtime.block_on(self.registry.dead_letter_all()).is_none()
    }
}

/// The bodies of all messages that can be taken, which are then in flight.
fn take(channel: &Arc<Channel>, key: ConsumerKey) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    take_into(channel, key, &mut out, 1 << 20);
    messages(&out).unwrap().iter().map(|message| (message.body, message.sequence)).collect()
}

fn requeue_all(channel: &Arc<Channel>, key: ConsumerKey) {
    for (_, sequence) in take(channel, key) {
        channel.acknowledge(key).requeue(sequence, 0).unwrap();
    }
}

fn bodies(channel: &Arc<Channel>) -> Vec<u64> {
    let key = subscribe(channel).unwrap();
    // A take hands out a share if there are other consumers.
    let all = std::iter::from_fn(|| Some(take(channel, key)).filter(|some| !some.is_empty())).flatten();
    let mut found: Vec<u64> = all.map(|(body, _)| body).collect();
    channel.unsubscribe(key);
    found.sort_unstable();
    found
}

#[test]
fn a_refused_journal_write_puts_messages_back() {
    let node = Node::new();
    let (channel, key) = node.channel("t", "c");
    node.set("t", &channel, "max_attempts", "1");
    for number in 1..=3 {
        node.publish("t", number);
    }
    // The dead-letter topic exists before the disk fails.
    let messages = take(&channel, key);
    let requeue = |index: usize| channel.acknowledge(key).requeue(messages[index].1, 0).unwrap();
    requeue(0);
    assert!(node.dead_letter());
    (1..3).for_each(requeue);
    assert_eq!(channel.inspect(|state, _| state.exhausted_count()), 2);
    node.storage.plan(Fault::next(Op::Write, usize::MAX, io::ErrorKind::StorageFull));
    assert!(!node.dead_letter());
    assert_eq!(channel.inspect(|state, _| state.exhausted_count()), 2);
    let (letters, reader) = node.channel("t.dead", REDRIVE_CHANNEL);
    assert_eq!(take(&letters, reader).len(), 1);
    letters.unsubscribe(reader);
    node.storage.heal();
    assert!(node.dead_letter());
    assert_eq!(bodies(&letters), [1, 2, 3]);
    assert_eq!(
        channel.inspect(|state, _| (state.lowest_needed(), state.counters().dead_letter_count)),
        (channel.inspect(|state, _| state.end()), 3)
    );
    let node = node.killed();
    assert!(bodies(&node.channel("t", "c").0).is_empty());
    assert_eq!(bodies(&node.channel("t.dead", REDRIVE_CHANNEL).0), [1, 2, 3]);
}

/// A paused topic holds a redriven message back. It stays meant for one channel across checkpoints and kills.
#[test]
fn a_held_back_targeted_message_reaches_only_its_channel() {
    for with_checkpoint in [false, true] {
        let node = Node::new();
        let (channel, key) = node.channel("t", "c");
        let (other, other_key) = node.channel("t", "d");
        node.set("t", &channel, "max_attempts", "1");
        node.publish("t", 1);
        requeue_all(&channel, key);
        for (_, sequence) in take(&other, other_key) {
            other.acknowledge(other_key).finish(sequence).unwrap();
        }
        assert!(node.dead_letter());
        node.topic("t").set_paused(true);
        assert_eq!(node.redrive("t.dead"), 1);
        node.publish("t", 2);
        node.registry.engine().store.journal.as_ref().unwrap().flush().unwrap();
        if with_checkpoint {
            checkpoint::write_checkpoint(&node.registry, false).unwrap();
        }
        let node = node.killed();
        node.topic("t").set_paused(false);
        let (channel, other) = (node.channel("t", "c").0, node.channel("t", "d").0);
        assert_eq!((bodies(&channel), bodies(&other)), (vec![1, 2], vec![2]));
        assert!(bodies(&node.channel("t.dead", REDRIVE_CHANNEL).0).is_empty());
    }
}

/// With retention, other channels are moved back over a redriven message, and new ones start before it.
#[test]
fn other_channels_skip_a_targeted_message_that_is_retained() {
    for is_killed in [false, true] {
        let mut node = Node::new();
        let retain = Change::parse(Level::Topic, [("retain_for", "1h")].into_iter()).unwrap();
        node.topic("t").change_settings(&retain).unwrap();
        let (channel, key) = node.channel("t", "c");
        let (other, _) = node.channel("t", "d");
        node.set("t", &channel, "max_attempts", "1");
        node.publish("t", 1);
        requeue_all(&channel, key);
        assert!(node.dead_letter());
        assert_eq!(node.redrive("t.dead"), 1);
        node.publish("t", 2);
        assert_eq!(bodies(&other), [1, 2]);
        if is_killed {
            node.registry.engine().store.journal.as_ref().unwrap().flush().unwrap();
            checkpoint::write_checkpoint(&node.registry, false).unwrap();
            node = node.killed();
        }
        let other = node.channel("t", "d").0;
        node.runtime.block_on(node.topic("t").move_channel(&other, StartAt::Earliest)).unwrap();
        assert_eq!(bodies(&other), [1, 2]);
        let name: ChannelName = "e".parse().unwrap();
        let topic = node.topic("t");
        let late = node.runtime.block_on(topic.get_or_create_channel_at(&name, StartAt::Earliest)).unwrap();
        assert_eq!(bodies(&late), [1, 2]);
        let channel = node.channel("t", "c").0;
        node.runtime.block_on(node.topic("t").move_channel(&channel, StartAt::Earliest)).unwrap();
        assert_eq!(
            bodies(&channel),
            [1, 1, 2],
            "the first delivery, the redriven one, and the other message"
        );
    }
}

/// Otherwise the other channels would never get the message.
#[test]
fn a_redriven_message_does_not_enter_the_deduplication_window() {
    let node = Node::new();
    let (channel, key) = node.channel("t", "c");
    let (other, _) = node.channel("t", "d");
    node.set("t", &channel, "max_attempts", "1");
    let publish = |node: &Node| {
        let headers = HeadersBuf::of_producer([("nsq-id", "once")]).unwrap();
        let mut message = Vec::new();
        put_published(&mut message, headers.as_headers(), &observe::body(1, 10));
        let topic = node.topic("t");
        let appended =
            topic.append_as(Form::WithHeaders, [&message[..]].into_iter(), message.len(), None).unwrap();
        node.runtime.block_on(appended.committed()).unwrap();
    };
    publish(&node);
    assert_eq!(bodies(&other), [1]);
    requeue_all(&channel, key);
    assert!(node.dead_letter());
    let dedupe = Change::parse(Level::Topic, [("dedupe", "1h")].into_iter()).unwrap();
    node.topic("t").change_settings(&dedupe).unwrap();
    assert_eq!(node.redrive("t.dead"), 1);
    node.registry.engine().store.journal.as_ref().unwrap().flush().unwrap();
    let node = node.killed();
    let (channel, other) = (node.channel("t", "c").0, node.channel("t", "d").0);
    assert_eq!((bodies(&channel), bodies(&other)), (vec![1], vec![1]), "what was in flight comes back");
    publish(&node);
    publish(&node);
    assert_eq!((bodies(&channel), bodies(&other)), (vec![1, 1], vec![1, 1]));
}

#[test]
fn a_policy_for_all_topics_does_not_move_dead_letters_on() {
    let node = Node::new();
    let (channel, key) = node.channel("t", "c");
    node.set("t", &channel, "max_attempts", "1");
    node.publish("t", 1);
    requeue_all(&channel, key);
    assert!(node.dead_letter());
    let file = "[[policy]]\ntopic = '*'\nchannel = '*'\nmax_attempts = 1\n";
    node.registry.set_policy_file(crate::policy::file::PolicyFile::parse(file).unwrap());
    let (letters, reader) = node.channel("t.dead", REDRIVE_CHANNEL);
    requeue_all(&letters, reader);
    assert_eq!(letters.inspect(|state, _| state.exhausted_count()), 0);
    // Set for this channel, it does, but only so often.
    for (topic, hops) in [("t.dead", 2), ("t.dead.dead", 3)] {
        let (letters, reader) = node.channel(topic, REDRIVE_CHANNEL);
        node.set(topic, &letters, "max_attempts", "1");
        requeue_all(&letters, reader);
        assert!(node.dead_letter(), "{hops}");
    }
    let (last, reader) = node.channel("t.dead.dead.dead", REDRIVE_CHANNEL);
    node.set("t.dead.dead.dead", &last, "max_attempts", "1");
    requeue_all(&last, reader);
    assert!(node.dead_letter());
    assert_eq!(bodies(&last), [1], "it stays where it is");
    // It expires there, and must not be set aside and given back for ever.
    node.set("t.dead.dead.dead", &last, "dead_letter", "{topic}.dead");
    let topic = node.topic("t.dead.dead.dead");
    let hour = 3_600_000_000_000;
    let change = Change::parse(Level::Channel, [("ttl", "1s")].into_iter()).unwrap();
    topic.change_channel_settings(&last, &change).unwrap();
    last.unsubscribe(reader);
    topic.expire(crate::clock::monotonic() + hour, crate::clock::wall_ns() + hour as i64);
    assert_eq!(last.inspect(|state, _| state.exhausted_count()), 1);
    assert!(node.dead_letter());
    let left =
        last.inspect(|state, _| (state.exhausted_count(), state.depth(), state.counters().expired_count));
    assert_eq!(left, (0, 0, 1));
    assert!(node.registry.get("t.dead.dead.dead.dead").is_none_or(|topic| topic.depth().depth == 0));
}
