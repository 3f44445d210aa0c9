//! Records of a channel outlive the records of the messages that they name, as after damage. New messages must not get
//! the numbers of lost ones: the channel would take them for finished.

use std::path::Path;
use std::sync::Arc;

use nsq_daemon::log::Logger;
use nsq_protocol::MessageView;

use super::simulation::LIMITS;
use super::{Recovered, StartOptions, recover_and_report};
use crate::channel::Channel;
use crate::client_info::ClientInfo;
use crate::storage::data_dir::DataDir;
use crate::storage::faulty::FaultyStorage;
use crate::storage::journal::{Journal, JournalOptions};
use crate::storage::record::Record;
use crate::storage::{ChannelNumber, Durability, SequenceRange, Storage, TopicNumber};
use crate::topic::Topic;

const TOPIC: TopicNumber = TopicNumber(1);
const CHANNEL: ChannelNumber = ChannelNumber(1);
const FIRST: u64 = 100;

/// A frame of a message with this sequence number and a body of one byte.
fn frame(sequence: u64, body: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend_from_slice(&31_u32.to_be_bytes());
    frame.extend_from_slice(&2_u32.to_be_bytes());
    frame.extend_from_slice(&1_i64.to_be_bytes());
    frame.extend_from_slice(&1_u16.to_be_bytes());
    frame.extend_from_slice(format!("{sequence:016x}").as_bytes());
    frame.push(body);
    frame
}

/// A start with a topic of five messages `a` to `e`, a channel, and `records`.
fn start_with(records: &[Record<'_>]) -> Recovered {
    let storage: Arc<dyn Storage> = Arc::new(FaultyStorage::default());
    let dir = Path::new("/data");
    storage.create_dir_all(dir).unwrap();
    let data_dir = DataDir::open(&storage, dir).unwrap();
    data_dir.prepare(&*storage).unwrap();
    let options = JournalOptions::new(data_dir.journal_dir(), Durability::Write);
    let (journal, _) = Journal::open(storage.clone(), options, &mut |_, _| {}).unwrap();
    journal.append_lazy(&Record::TopicCreated { topic: TOPIC, name: "t", first_sequence: FIRST });
    journal.append_lazy(&Record::ChannelCreated { topic: TOPIC, channel: CHANNEL, name: "c", cursor: FIRST });
    for (sequence, body) in (FIRST..).zip(b'a'..=b'e') {
        let frames = frame(sequence, body);
        let (first_sequence, frames) = (sequence, frames.as_slice());
        journal.append_lazy(&Record::Publish {
            topic: TOPIC,
            first_sequence,
            count: 1,
            due_ns: None,
            only: None,
            frames,
        });
    }
    records.iter().for_each(|record| journal.append_lazy(record));
    journal.close().unwrap();
    recover_and_report(StartOptions {
        data_dir,
        storage,
        durability: Durability::Write,
        limits: LIMITS,
        logger: Logger::silent(),
        oracle: None,
        policies: Arc::default(),
    })
    .unwrap()
}

fn topic_of(recovered: &Recovered) -> (Arc<Topic>, Arc<Channel>) {
    let topic = recovered.registry.get("t").expect("the topic is back");
    let channel = topic.channel("c").expect("the channel is back");
    (topic, channel)
}

async fn publish(topic: &Arc<Topic>, bodies: &[u8]) {
    for body in bodies {
        let published = topic.append([std::slice::from_ref(body)].into_iter(), 1, None);
        published.unwrap().committed().await.unwrap();
    }
}

/// The bodies of all messages that the channel hands out now, in any order.
fn take_all(channel: &Channel) -> String {
    let info = Arc::new(ClientInfo::new("@".to_owned(), 0));
    let (key, _) = channel.subscribe(info, 60_000_000_000, 0, 0).unwrap().unwrap();
    channel.set_ready_count(key, 1000);
    let mut out = Vec::new();
    while channel.take(key, &mut out, 1 << 20).count > 0 {}
    let mut bodies = Vec::new();
    let mut rest = &out[..];
    while let Some((size, _)) = rest.split_first_chunk() {
        let (frame, after) = rest.split_at(4 + u32::from_be_bytes(*size) as usize);
        bodies.extend_from_slice(MessageView::parse(&frame[8..]).unwrap().body);
        rest = after;
    }
    bodies.sort_unstable();
    String::from_utf8(bodies).unwrap()
}

#[tokio::test]
async fn new_messages_do_not_get_the_numbers_of_lost_ones() {
    let runs = [SequenceRange::one(FIRST + 7)];
    let cases = [
        Record::Finish { topic: TOPIC, channel: CHANNEL, runs: (&runs).into() },
        Record::Requeue {
            topic: TOPIC,
            channel: CHANNEL,
            sequence: FIRST + 7,
            attempts: 1,
            failures: 0,
            due_ns: 0,
        },
        Record::TopicState { topic: TOPIC, paused: false, released: FIRST + 8, releasing: true },
    ];
    for record in cases {
        let recovered = start_with(&[record]);
        let (topic, channel) = topic_of(&recovered);
        assert_eq!(topic.log().end(), FIRST + 8, "{record:?}");
        assert!(
            recovered.report.found.findings.iter().any(|found| found.what.contains("missing")),
            "{record:?}"
        );
        publish(&topic, b"vwxyz").await;
        assert_eq!(take_all(&channel), "abcdevwxyz", "{record:?}");
    }
}

#[tokio::test]
async fn new_messages_are_delivered_after_a_move_or_an_emptying_beyond_the_known_end() {
    let cases = [
        (Record::ChannelEmptied { topic: TOPIC, channel: CHANNEL, up_to: FIRST + 8 }, "vwxyz"),
        (Record::ChannelMoved { topic: TOPIC, channel: CHANNEL, to: FIRST + 8, forward: true }, "vwxyz"),
        (
            Record::ChannelMoved { topic: TOPIC, channel: CHANNEL, to: FIRST + 8, forward: false },
            "abcdevwxyz",
        ),
    ];
    for (record, expected) in cases {
        let (topic, channel) = topic_of(&start_with(&[record]));
        publish(&topic, b"vwxyz").await;
        assert_eq!(take_all(&channel), expected, "{record:?}");
    }
}

#[tokio::test]
async fn messages_held_back_by_a_pause_stay_held_back_after_a_finish_of_known_messages() {
    let runs = [SequenceRange::new(FIRST, FIRST + 2)];
    let held = frame(FIRST + 5, b'h');
    let recovered = start_with(&[
        Record::TopicState { topic: TOPIC, paused: true, released: FIRST + 5, releasing: false },
        Record::Publish {
            topic: TOPIC,
            first_sequence: FIRST + 5,
            count: 1,
            due_ns: None,
            only: None,
            frames: &held,
        },
        Record::Finish { topic: TOPIC, channel: CHANNEL, runs: (&runs).into() },
    ]);
    let (topic, channel) = topic_of(&recovered);
    let findings = &recovered.report.found.findings;
    assert!(findings.is_empty(), "{findings:?}");
    assert_eq!(take_all(&channel), "cde");
    topic.set_paused(false);
    assert_eq!(take_all(&channel), "h");
}

#[test]
fn a_number_far_beyond_the_known_end_costs_no_time() {
    let far = 1 << 53;
    let runs = [SequenceRange::new(FIRST, FIRST + far)];
    for record in [
        Record::Finish { topic: TOPIC, channel: CHANNEL, runs: (&runs).into() },
        Record::Requeue {
            topic: TOPIC,
            channel: CHANNEL,
            sequence: far,
            attempts: 1,
            failures: 0,
            due_ns: 0,
        },
        Record::ChannelMoved { topic: TOPIC, channel: CHANNEL, to: far, forward: false },
    ] {
        let (topic, _) = topic_of(&start_with(&[record]));
        assert!(topic.log().end() >= far, "{record:?}");
    }
}
