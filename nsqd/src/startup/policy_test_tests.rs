//! Tests of policy files on a simulated disk: in steps, and up to their limits.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nsq_protocol::PolicyTestResponse;
use nsq_protocol::headers::{Form, HeadersBuf, put_published};
use tokio::runtime::Runtime;

use super::simulation::observe;
use crate::policy::file::PolicyFile;
use crate::policy_test::{PolicyTest, TestOptions, Use};
use crate::storage::faulty::{Fault, FaultyStorage, Op};
use crate::storage::{Durability, Storage};
use crate::topic::registry::Registry;

const FILE: &str =
    "[[policy]]\ntopic = '*'\ndedupe = '1h'\n[[policy]]\ntopic = 'b'\nchannel = 'c'\nttl = '1h'\n";
const TOPICS: [&str; 3] = ["a", "b", "c"];
/// Messages of each topic: more than what stays in memory.
const COUNT: u64 = 100;

struct Node {
    storage: FaultyStorage,
    registry: Arc<Registry>,
    _runtime: Runtime,
}

impl Node {
    /// Three topics with a channel each. Every third message has the id of its predecessor.
    fn new() -> Self {
        let storage = FaultyStorage::default();
        storage.create_dir_all(Path::new(observe::DIR)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let registry = observe::start(&storage, Durability::Write).unwrap();
        for name in TOPICS {
            let topic = runtime.block_on(registry.get_or_create(&name.parse().unwrap())).unwrap();
            runtime.block_on(topic.get_or_create_channel(&"c".parse().unwrap())).unwrap();
            for number in 0..COUNT {
                let id = format!("{}", number - u64::from(number % 3 == 2));
                let headers = HeadersBuf::of_producer([("nsq-id", id.as_str())]).unwrap();
                let mut message = Vec::new();
                put_published(&mut message, headers.as_headers(), &observe::body(number, 10));
                let bodies = [&message[..]].into_iter();
                let published = topic.append_as(Form::WithHeaders, bodies, message.len(), None).unwrap();
                runtime.block_on(published.committed()).unwrap();
            }
        }
        Node { storage, registry, _runtime: runtime }
    }

    fn test(&self, max_messages: u64, max_bytes: u64) -> PolicyTest {
        let since = Duration::from_secs(3600);
        let options = TestOptions { since, as_if: Use::PolicyFile, max_messages, max_bytes };
        PolicyTest::new(&self.registry, PolicyFile::parse(FILE).unwrap(), options, None)
    }

    /// Runs a test in the shortest steps. Returns the number of steps, too.
    fn run(&self, max_messages: u64, max_bytes: u64) -> (PolicyTestResponse, usize) {
        let mut test = self.test(max_messages, max_bytes);
        let mut steps = 1;
        while test.advance(Instant::now()) {
            steps += 1;
        }
        (test.conclude(), steps)
    }
}

#[test]
fn a_test_in_steps_finds_what_one_step_finds() {
    let node = Node::new();
    let mut at_once = node.test(u64::MAX, u64::MAX);
    assert!(!at_once.advance(Instant::now() + Duration::from_secs(60)));
    let (mut in_steps, steps) = node.run(u64::MAX, u64::MAX);
    assert!(steps >= 2 * TOPICS.len(), "{steps}");
    let at_once = at_once.conclude();
    in_steps.since = at_once.since;
    assert_eq!(in_steps, at_once);
    assert!(at_once.complete);
    assert_eq!(at_once.examined, 3 * COUNT);
    for (name, topic) in TOPICS.iter().zip(&at_once.topics) {
        assert_eq!((topic.topic_name.as_str(), topic.examined, topic.id_count), (*name, COUNT, Some(COUNT)));
        assert_eq!(topic.duplicate_count, Some(COUNT / 3));
        let channel = &topic.channels[0];
        assert_eq!(channel.unfinished_count, COUNT);
        assert_eq!(channel.expired_count, (*name == "b").then_some(0));
    }
}

#[test]
fn limits_leave_messages_unread_but_test_all_channels() {
    let node = Node::new();
    for (max_messages, max_bytes, stopped_by) in [(COUNT + 7, u64::MAX, "messages"), (u64::MAX, 1, "bytes")] {
        let (answer, _) = node.run(max_messages, max_bytes);
        assert_eq!((answer.complete, answer.stopped_by.as_deref()), (false, Some(stopped_by)));
        assert_eq!(answer.topics.len(), TOPICS.len());
        assert!(answer.topics.iter().all(|topic| topic.channels[0].unfinished_count == COUNT));
        let last = &answer.topics[2];
        assert_eq!((last.complete, last.examined, last.duplicate_count), (false, 0, Some(0)));
        assert_eq!(last.examined_until, None);
    }
    let (answer, _) = node.run(COUNT + 7, u64::MAX);
    assert_eq!(answer.topics.iter().map(|topic| topic.examined).collect::<Vec<_>>(), [COUNT, 7, 0]);
    assert_eq!(answer.topics.iter().map(|topic| topic.complete).collect::<Vec<_>>(), [true, false, false]);
    assert!(answer.topics[1].examined_until.is_some());
}

#[test]
fn a_test_that_takes_too_long_says_what_it_did_not_reach() {
    let node = Node::new();
    let mut test = node.test(u64::MAX, u64::MAX);
    assert!(test.advance(Instant::now()));
    test.stop();
    let answer = test.conclude();
    assert_eq!(
        (answer.complete, answer.stopped_by.as_deref(), answer.untested_topics),
        (false, Some("time"), 2)
    );
    assert_eq!((answer.topics.len(), answer.topics[0].complete), (1, false));
    assert!(
        !node.test(u64::MAX, u64::MAX).advance(Instant::now() + Duration::from_secs(60)),
        "a later one works"
    );
}

#[test]
fn unreadable_messages_make_a_topic_incomplete() {
    let node = Node::new();
    let topics = node.registry.all();
    let deadline = Instant::now() + Duration::from_secs(60);
    while topics.iter().all(|topic| topic.log().oldest_on_disk().is_none()) {
        assert!(Instant::now() < deadline, "messages are moved to disk");
        std::thread::yield_now();
    }
    node.storage.plan(Fault::next(Op::Read, usize::MAX, io::ErrorKind::Other));
    let (answer, _) = node.run(u64::MAX, u64::MAX);
    assert!(!answer.complete && answer.stopped_by.is_none());
    assert!(answer.topics.iter().any(|topic| topic.problem.is_some() && !topic.complete), "{answer:?}");
}
