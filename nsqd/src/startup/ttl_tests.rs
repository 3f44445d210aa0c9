//! Time to live on a simulated disk, while the wall clock is set.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nsq_protocol::ChannelName;
use tokio::runtime::Runtime;

use super::simulation::observe;
use crate::channel::Channel;
use crate::clock::{self, Nanos};
use crate::policy::setting::{Setting, Value};
use crate::policy::settings::Change;
use crate::storage::faulty::FaultyStorage;
use crate::storage::{Durability, Storage};
use crate::topic::Topic;
use crate::topic::registry::Registry;

/// Much longer than a test takes.
const TTL: Duration = Duration::from_secs(2 * 3600);
const HOUR_NS: i64 = 3600 * 1_000_000_000;

struct Node {
    runtime: Runtime,
    storage: FaultyStorage,
    registry: Arc<Registry>,
}

impl Node {
    fn on(storage: FaultyStorage) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let registry = observe::start(&storage, Durability::Write).unwrap();
        Node { runtime, storage, registry }
    }

    /// A topic with a channel, whose messages expire.
    fn new() -> Self {
        let storage = FaultyStorage::default();
        storage.create_dir_all(Path::new(observe::DIR)).unwrap();
        let node = Node::on(storage);
        let (topic, _) = node.names();
        topic.change_settings(&Change::of([(Setting::Ttl, Value::Duration(TTL))])).unwrap();
        node
    }

    /// Starts on what a kill leaves.
    fn killed(self) -> Self {
        let disk = self.storage.disk().after_kill();
        drop(self.registry);
        Node::on(disk.into())
    }

    fn names(&self) -> (Arc<Topic>, Arc<Channel>) {
        let topic = self.runtime.block_on(self.registry.get_or_create(&"t".parse().unwrap())).unwrap();
        let name: ChannelName = "c".parse().unwrap();
        let channel = self.runtime.block_on(topic.get_or_create_channel(&name)).unwrap();
        (topic, channel)
    }

    fn publish(&self, count: u64) {
        let (topic, _) = self.names();
        for number in 0..count {
            let body = observe::body(number, 10);
            let publication = topic.append([&body[..]].into_iter(), body.len(), None).unwrap();
            self.runtime.block_on(publication.committed()).unwrap();
        }
    }

    /// Messages left after upkeep at this moment, with a wall clock that is wrong by `ahead_ns`.
    fn left_at(&self, now: Nanos, ahead_ns: i64) -> u64 {
        let (topic, channel) = self.names();
        let real_ns =
            clock::wall_ns().saturating_add_unsigned(now).saturating_sub_unsigned(clock::monotonic());
        topic.expire(now, real_ns + ahead_ns);
        channel.inspect(|state, _| state.depth())
    }
}

#[test]
fn setting_the_wall_clock_changes_nothing_while_nsqd_runs() {
    for jump in [HOUR_NS, -HOUR_NS, 3 * HOUR_NS, -3 * HOUR_NS] {
        let node = Node::new();
        node.publish(3);
        let start = clock::monotonic();
        assert_eq!(node.left_at(start, 0), 3);
        node.publish(2);
        let (ttl, minute) = (clock::nanos(TTL), clock::nanos(Duration::from_secs(60)));
        assert_eq!(node.left_at(start, jump), 5, "nothing expires at once");
        assert_eq!(node.left_at(start + ttl - minute, jump), 5, "nor early");
        assert_eq!(node.left_at(start + ttl + minute, jump), 0, "nor late");
    }
}

#[test]
fn wall_clock_that_was_set_back_before_a_start_lets_messages_expire_late_but_not_early() {
    let node = Node::new();
    node.publish(3);
    let node = node.killed();
    let start = clock::monotonic();
    let (ttl, minute) = (clock::nanos(TTL), clock::nanos(Duration::from_secs(60)));
    assert_eq!(node.left_at(start, -HOUR_NS), 3);
    assert_eq!(node.left_at(start + ttl - minute, -HOUR_NS), 3);
    // At the start they seem to be from the future; their age counts from then.
    assert_eq!(node.left_at(start + ttl + minute, -HOUR_NS), 0);
}

#[test]
fn wall_clock_that_was_set_forward_before_a_start_makes_messages_older_by_as_much() {
    let node = Node::new();
    node.publish(3);
    let node = node.killed();
    let start = clock::monotonic();
    let (hour, minute) = (HOUR_NS as Nanos, clock::nanos(Duration::from_secs(60)));
    assert_eq!(node.left_at(start, HOUR_NS), 3);
    assert_eq!(node.left_at(start + hour - minute, HOUR_NS), 3);
    assert_eq!(node.left_at(start + hour + minute, HOUR_NS), 0);
}
