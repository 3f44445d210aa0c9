//! A disk call that hangs delays only those who need it. In these tests, the test thread serves all connections: if it
//! waited for the disk, the test would not continue.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nsq_daemon::log::Logger;
use nsq_protocol::{ChannelName, MessageView, TopicName};

use super::simulation::LIMITS;
use super::{StartOptions, recover};
use crate::channel::{Channel, ConsumerKey, ConsumerSignal};
use crate::client_info::ClientInfo;
use crate::delivery::{Output, deliver};
use crate::log::index::sequence_of;
use crate::storage::data_dir::DataDir;
use crate::storage::faulty::{Fault, FaultyStorage, Op};
use crate::storage::{Durability, Storage};
use crate::timers::Expire;
use crate::topic::Topic;
use crate::topic::registry::Registry;

const PATIENCE: Duration = Duration::from_secs(20);
/// More than the number of parallel reads.
const BACKLOGS: usize = 8;

struct Node {
    storage: FaultyStorage,
    registry: Arc<Registry>,
}

/// A consumer, served as by a connection.
struct Consumer {
    topic: Arc<Topic>,
    channel: Arc<Channel>,
    key: ConsumerKey,
    signal: Arc<ConsumerSignal>,
    output: Output,
}

impl Node {
    fn start(durability: Durability) -> Self {
        let faulty = FaultyStorage::default();
        let dir = Path::new("/data");
        faulty.create_dir_all(dir).unwrap();
        let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
        let data_dir = DataDir::open(&storage, dir).unwrap();
        let options = StartOptions {
            data_dir,
            storage,
            durability,
            limits: LIMITS,
            logger: Logger::silent(),
            oracle: None,
            policies: Arc::default(),
        };
        let registry = recover(options).unwrap();
        registry.engine().log_context.disk_work.use_threads();
        Node { storage: faulty, registry }
    }

    /// Creates a topic with a channel, and a consumer with RDY `ready_count`.
    async fn consumer(&self, topic: &str, ready_count: u64) -> Consumer {
        let topic = self.registry.get_or_create(&TopicName::new(topic).unwrap()).await.unwrap();
        self.consumer_of(&topic, "c", ready_count).await
    }

    async fn consumer_of(&self, topic: &Arc<Topic>, channel: &str, ready_count: u64) -> Consumer {
        let channel = topic.get_or_create_channel(&ChannelName::new(channel).unwrap()).await.unwrap();
        let info = Arc::new(ClientInfo::new("@".to_owned(), 0));
        let (key, signal) = channel.subscribe(info, 60_000_000_000, 0, 0).unwrap().unwrap();
        channel.set_ready_count(key, ready_count);
        Consumer { topic: topic.clone(), channel, key, signal, output: Output::default() }
    }

    async fn backlogs(&self) -> Vec<Consumer> {
        let mut consumers = Vec::new();
        for number in 0..BACKLOGS {
            let consumer = self.consumer(&format!("backlog{number}"), 1000).await;
            consumer.publish(200).await;
            consumers.push(consumer);
        }
        self.until(|| {
            consumers
                .iter()
                .all(|one| one.topic.log().memory_start() > one.channel.inspect(|s, _| s.end()) - 60)
        })
        .await;
        consumers
    }

    async fn until(&self, mut condition: impl FnMut() -> bool) {
        let wait = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the condition is met in time");
    }
}

impl Consumer {
    async fn publish(&self, count: usize) {
        for number in 0..count {
            let body = number.to_string().repeat(10);
            let published = self.topic.append([body.as_bytes()].into_iter(), body.len(), None);
            tokio::time::timeout(PATIENCE, published.unwrap().committed()).await.expect("in time").unwrap();
        }
    }

    /// Takes what is available now. Returns the sequence numbers.
    fn take(&mut self, node: &Node) -> Vec<u64> {
        self.signal.answer();
        deliver(&self.channel, self.key, false, &mut self.output, node.registry.engine());
        let mut frames = self.output.pending();
        let count = frames.len();
        let mut sequences = Vec::new();
        while let Some((size, rest)) = frames.split_first_chunk::<4>() {
            let (frame, rest) = rest.split_at(u32::from_be_bytes(*size) as usize);
            sequences.push(sequence_of(MessageView::parse(&frame[4..]).unwrap().id.to_u64().unwrap()));
            frames = rest;
        }
        self.output.consume(count);
        sequences
    }

    async fn take_all(&mut self, node: &Node, count: usize) -> Vec<u64> {
        let mut all = self.take(node);
        while all.len() < count {
            tokio::time::timeout(PATIENCE, self.signal.called()).await.expect("woken in time");
            all.extend(self.take(node));
        }
        all
    }
}

#[tokio::test]
async fn hanging_reads_delay_no_other_topic() {
    let node = Node::start(Durability::Write);
    let mut live = node.consumer("live", 10).await;
    let mut backlogs = node.backlogs().await;
    node.storage.close_gate_of(Op::Read);
    for consumer in &mut backlogs {
        assert!(consumer.take(&node).is_empty());
    }
    node.storage.wait_at_gate_of(Op::Read, 4);

    // Delivery from memory.
    live.publish(5).await;
    assert_eq!(live.take(&node).len(), 5);
    // Publishing to the topic that is being read, far beyond memory, and deleting.
    backlogs[0].publish(300).await;
    assert!(backlogs[0].take(&node).is_empty(), "newer messages must wait for older ones");
    assert!(tokio::time::timeout(PATIENCE, node.registry.delete("live")).await.expect("deleted in time"));
    backlogs[1].channel.empty();

    node.storage.open_gate_of(Op::Read);
    backlogs.remove(1);
    for (consumer, count) in backlogs.iter_mut().zip([500, 200, 200, 200, 200, 200, 200]) {
        let sequences = consumer.take_all(&node, count).await;
        assert!(sequences.windows(2).all(|pair| pair[0] + 1 == pair[1]), "in order and without gaps");
        assert_eq!(sequences.len(), count);
    }
}

#[tokio::test]
async fn consumer_waiting_for_the_disk_is_woken_for_redeliveries() {
    let node = Node::start(Durability::Write);
    let mut consumer = node.consumer("t", 1000).await;
    consumer.publish(200).await;
    let mut first = consumer.take_all(&node, 200).await;
    for (index, &sequence) in first.iter().enumerate().rev() {
        consumer.channel.acknowledge(consumer.key).requeue(sequence, 1 + index as u64 % 7).unwrap();
    }
    node.until(|| {
        Expire::expire(&*consumer.channel, crate::clock::monotonic());
        consumer.channel.inspect(|state, _| state.deferred_count()) == 0
    })
    .await;
    node.storage.close_gate_of(Op::Read);
    let before = consumer.take(&node).len();
    node.storage.wait_at_gate_of(Op::Read, 1);
    node.storage.open_gate_of(Op::Read);
    let mut again = consumer.take_all(&node, 200 - before).await;
    assert_eq!(again.len(), 200 - before);
    again.sort_unstable();
    first.retain(|sequence| again.contains(sequence));
    assert_eq!(again, first);
}

#[tokio::test]
async fn failed_read_is_retried_and_consumers_continue() {
    let node = Node::start(Durability::Write);
    let mut consumer = node.consumer("t", 1000).await;
    consumer.publish(200).await;
    node.storage.plan(Fault::next(Op::Read, 2, std::io::ErrorKind::Other));
    node.until(|| consumer.topic.log().memory_start() > consumer.channel.inspect(|state, _| state.cursor()))
        .await;
    assert!(consumer.take(&node).is_empty());
    node.until(|| node.registry.engine().health().is_err()).await;
    let timers = node.registry.engine().timers.clone();
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn(timers.run(stop.clone()));
    assert_eq!(consumer.take_all(&node, 200).await.len(), 200);
    assert_eq!(node.registry.engine().health().map_err(|failure| failure.to_string()), Ok(()));
    stop.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn hanging_spill_delays_only_publishers_of_that_topic() {
    let node = Node::start(Durability::Overflow);
    let slow = node.consumer("slow", 0).await;
    let mut live = node.consumer("live", 10).await;
    node.storage.close_gate();
    let publishing = {
        let topic = slow.topic.clone();
        tokio::spawn(async move {
            for _ in 0..2000 {
                topic.append([&[7; 100][..]].into_iter(), 100, None).unwrap().committed().await.unwrap();
            }
        })
    };
    node.until(|| slow.topic.log().is_spill_behind()).await;
    node.storage.wait_for_write();
    live.publish(5).await;
    assert_eq!(live.take(&node).len(), 5);
    assert!(!publishing.is_finished(), "memory must stay within its limit while the disk hangs");
    assert!(slow.topic.log().end() - slow.topic.log().memory_start() < 1000);
    // Statistics do not wait for the segments either.
    slow.topic.log().segment_bytes();
    node.storage.open_gate();
    tokio::time::timeout(PATIENCE, publishing).await.expect("publishing continues").unwrap();
    assert_eq!(slow.channel.inspect(|state, _| state.depth()), 2000);
}

#[tokio::test]
async fn hanging_segment_removal_delays_no_consumer() {
    let node = Node::start(Durability::Write);
    let mut consumer = node.consumer("t", 1000).await;
    consumer.publish(400).await;
    let sequences = consumer.take_all(&node, 400).await;
    let segment_bytes = consumer.topic.log().segment_bytes();
    node.storage.close_gate_of(Op::Remove);
    let mut run = consumer.channel.acknowledge(consumer.key);
    sequences.iter().for_each(|&sequence| run.finish(sequence).unwrap());
    drop(run);
    node.storage.wait_at_gate_of(Op::Remove, 1);
    consumer.publish(1).await;
    assert_eq!(consumer.take(&node).len(), 1);
    node.storage.open_gate_of(Op::Remove);
    node.until(|| consumer.topic.log().segment_bytes() < segment_bytes / 2).await;
}

#[tokio::test]
async fn channels_of_a_topic_share_blocks_read_from_disk() {
    let node = Node::start(Durability::Write);
    let mut one = node.consumer("t", 1000).await;
    let mut others = Vec::new();
    for name in ["d", "e"] {
        others.push(node.consumer_of(&one.topic, name, 1000).await);
    }
    one.publish(200).await;
    node.until(|| one.topic.log().memory_start() > one.channel.inspect(|state, _| state.cursor())).await;
    let first = one.take_all(&node, 200).await;
    // The blocks are in memory now.
    node.storage.plan(Fault::next(Op::Read, usize::MAX, std::io::ErrorKind::Other));
    for other in &mut others {
        assert_eq!(other.take_all(&node, 200).await, first);
    }
}

#[tokio::test]
async fn unused_blocks_read_from_disk_are_freed() {
    let node = Node::start(Durability::Write);
    let mut consumer = node.consumer("t", 1).await;
    consumer.publish(200).await;
    node.until(|| consumer.topic.log().memory_start() > consumer.channel.inspect(|state, _| state.cursor()))
        .await;
    assert_eq!(consumer.take_all(&node, 1).await.len(), 1);
    let memory = &node.registry.engine().log_context.memory;
    assert!(memory.bytes() > 0);
    // Reading ahead may still be running.
    node.until(|| {
        Expire::expire(&*consumer.channel, crate::clock::monotonic() + 3_000_000_000);
        (0..2).for_each(|_| memory.age());
        memory.bytes() == 0
    })
    .await;
    consumer.channel.set_ready_count(consumer.key, 1000);
    assert_eq!(consumer.take_all(&node, 199).await.len(), 199);
}
