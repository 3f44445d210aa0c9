use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nsq_tests::wire::{Message, Peer, bodies};
use nsq_tests::{Daemon, disk, process, test, test_within, wait};
use rustix::process::Signal;

const MIB: u64 = 1 << 20;

/// Bodies "message N" for each N of the range.
fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("message {n}")).collect()
}

/// Receives and finishes messages until the channel has none left.
async fn drain(nsqd: &Daemon, topic: &str, channel: &str) -> Vec<Message> {
    let mut consumer = nsqd.subscribe(topic, channel).await;
    consumer.ready(2500).await;
    let mut messages = Vec::new();
    loop {
        // The channel's counters alone do not suffice: messages on their way to us count as in flight.
        match consumer.frame_within(Duration::from_millis(100)).await {
            Ok(nsq_tests::wire::Frame::Message(message)) => {
                consumer.finish(&message).await;
                messages.push(message);
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => {
                let seen = nsqd.channel(topic, channel).await.expect("the channel exists");
                if seen.unfinished() == 0 {
                    return messages;
                }
            }
        }
    }
}

#[test]
fn a_clean_stop_loses_nothing_and_repeats_nothing() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        let mut publisher = nsqd.connect().await;
        for channel in ["one", "two"] {
            nsqd.subscribe("t", channel).await;
        }
        publisher.publish_batch("t", &numbered(0..500)).await;
        publisher.publish_batch("no_channel", &numbered(0..10)).await;
        let deferred_at = Instant::now();
        let delay = Duration::from_secs(4);
        publisher.publish_deferred("t", delay, "deferred by publishing").await;

        let mut consumer = nsqd.subscribe("t", "one").await;
        consumer.ready(120).await;
        let messages = consumer.messages(120).await;
        let requeued_at = Instant::now();
        consumer.line("RDY 0").await;
        for message in &messages[..50] {
            consumer.finish(message).await;
        }
        // Every other message, so that the finished messages are not just a prefix.
        for message in messages[50..100].iter().step_by(2) {
            consumer.finish(message).await;
        }
        consumer.requeue(&messages[119], delay).await;
        consumer.requeue(&messages[118], Duration::ZERO).await;
        consumer.barrier().await;

        assert!(nsqd.terminate().await.success());
        consumer.closed().await;
        publisher.closed().await;
        nsqd.restart().await;

        let finished: BTreeSet<String> =
            messages[..50].iter().chain(messages[50..100].iter().step_by(2)).map(Message::text).collect();
        let again = drain(&nsqd, "t", "one").await;
        let drained_at = Instant::now();
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for message in &again {
            *counts.entry(message.text()).or_default() += 1;
            let expected = if messages.iter().any(|earlier| earlier.id == message.id) { 2 } else { 1 };
            assert_eq!(message.attempts, expected, "{message:?}");
        }
        let mut expected: BTreeSet<String> = numbered(0..500).into_iter().collect();
        expected.insert("deferred by publishing".into());
        let expected: BTreeSet<String> = expected.difference(&finished).cloned().collect();
        let seen: BTreeSet<String> = counts.keys().cloned().collect();
        assert_eq!(expected.difference(&seen).collect::<Vec<_>>(), Vec::<&String>::new(), "lost");
        assert_eq!(
            seen.difference(&expected).collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "finished, yet repeated"
        );
        assert!(counts.values().all(|count| *count == 1), "repeated");

        // The deferred messages come last, after the rest of their delay.
        assert!(drained_at.duration_since(deferred_at) + Duration::from_millis(50) >= delay);
        assert!(drained_at.duration_since(requeued_at) + Duration::from_millis(50) >= delay);
        let last_two: BTreeSet<String> = bodies(&again[again.len() - 2..]).into_iter().collect();
        assert_eq!(last_two, BTreeSet::from([messages[119].text(), "deferred by publishing".to_owned()]));

        assert_eq!(drain(&nsqd, "t", "two").await.len(), 501);
        assert_eq!(nsqd.topic("no_channel").await.map(|topic| topic.depth), Some(10));
    });
}

#[test]
fn ids_timestamps_and_order_survive_a_clean_stop() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        nsqd.connect().await.publish_batch("t", &numbered(0..100)).await;
        consumer.ready(100).await;
        let before = consumer.messages(100).await;
        assert!(nsqd.terminate().await.success());
        nsqd.restart().await;
        let mut after = drain(&nsqd, "t", "c").await;
        after.sort_by_key(|message| message.id);
        let expected: Vec<Message> =
            before.into_iter().map(|message| Message { attempts: 2, ..message }).collect();
        assert_eq!(after, expected);

        // Ids and counters continue to increase.
        let topic = nsqd.topic("t").await.expect("the topic exists");
        assert_eq!((topic.message_count, topic.channels[0].message_count), (100, 100));
        let last = after.last().expect("a hundred messages").id;
        nsqd.publish("t", "later").await;
        assert!(drain(&nsqd, "t", "c").await[0].id > last);
    });
}

#[test]
fn pause_survives_a_stop_and_a_kill() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        nsqd.subscribe("topic_paused", "c").await;
        nsqd.subscribe("channel_paused", "c").await;
        nsqd.admin("/topic/pause?topic=topic_paused").await;
        nsqd.admin("/channel/pause?topic=channel_paused&channel=c").await;
        nsqd.publish("topic_paused", "x").await;
        nsqd.publish("channel_paused", "x").await;
        for kill in [false, true] {
            if kill {
                nsqd.kill().await;
            } else {
                assert!(nsqd.terminate().await.success());
            }
            nsqd.restart().await;
            assert!(nsqd.topic("topic_paused").await.is_some_and(|topic| topic.paused));
            assert!(nsqd.channel("channel_paused", "c").await.is_some_and(|channel| channel.paused));
            for topic in ["topic_paused", "channel_paused"] {
                let mut consumer = nsqd.subscribe(topic, "c").await;
                consumer.ready(1).await;
                consumer.nothing().await;
            }
        }
        nsqd.admin("/topic/unpause?topic=topic_paused").await;
        nsqd.admin("/channel/unpause?topic=channel_paused&channel=c").await;
        nsqd.kill().await;
        nsqd.restart().await;
        for topic in ["topic_paused", "channel_paused"] {
            assert_eq!(bodies(&drain(&nsqd, topic, "c").await), ["x"]);
        }
    });
}

#[test]
fn repeated_restarts_change_nothing() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        nsqd.subscribe("t", "c").await;
        nsqd.connect().await.publish_batch("t", &numbered(0..50)).await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        consumer.consume(20).await;
        consumer.ready(0).await;
        consumer.barrier().await;
        drop(consumer);
        for round in 0..6 {
            if round % 2 == 0 {
                assert!(nsqd.terminate().await.success());
            } else {
                nsqd.kill().await;
            }
            nsqd.restart().await;
            let channel = nsqd.channel("t", "c").await.expect("the channel exists");
            assert_eq!(channel.unfinished(), 30, "after round {round}");
        }
        assert_eq!(drain(&nsqd, "t", "c").await.len(), 30);
    });
}

#[test]
fn the_overflow_mode_survives_a_clean_stop() {
    test(async {
        let mut nsqd = Daemon::nsqd().flag("--durability=overflow").flag("--mem-queue-size=10").start().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        nsqd.connect().await.publish_batch("t", &numbered(0..300)).await;
        consumer.ready(50).await;
        let messages = consumer.messages(50).await;
        for message in &messages[..25] {
            consumer.finish(message).await;
        }
        consumer.ready(0).await;
        consumer.barrier().await;
        let before = nsqd.channel("t", "c").await.expect("the channel exists").unfinished();
        assert!(nsqd.terminate().await.success());
        nsqd.restart().await;
        assert_eq!(before, 275);
        assert_eq!(drain(&nsqd, "t", "c").await.len(), 275);
    });
}

#[test]
fn data_directory_is_locked_and_its_files_are_private() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let data_path = format!("--data-path={}", nsqd.data_path().display());
        let (status, log) = Daemon::nsqd().flag(data_path).expect_exit().await;
        assert_eq!(status.code(), Some(1));
        assert!(log.contains("failed to lock data-path"), "{}", log.text());
        nsqd.publish("t", "x").await;
        for (path, (_, _, _, mode, _)) in disk::fingerprint(nsqd.data_path()) {
            const REGULAR_FILE: u32 = 0o100_000;
            assert!(path.is_dir() || mode == REGULAR_FILE | 0o600, "{}: {mode:o}", path.display());
        }
    });
}

/// A body of `bytes` bytes that carries its number and a checksum.
fn checked_body(number: usize, bytes: usize) -> Vec<u8> {
    let mut body = format!("{number:010}:").into_bytes();
    let mut state = number as u64 + 1;
    while body.len() < bytes - 8 {
        // xorshift: cheap, and no two bodies are alike.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        body.push(state as u8);
    }
    let sum = checksum(&body);
    body.extend(sum.to_be_bytes());
    body
}

/// The number of a body whose checksum is right.
fn check(body: &[u8]) -> usize {
    let (content, sum) = body.split_at(body.len() - 8);
    assert_eq!(checksum(content).to_be_bytes(), sum, "a body was changed");
    std::str::from_utf8(&content[..10]).expect("a number").parse().expect("a number")
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn twenty_thousand_messages_pass_with_a_memory_queue_of_ten() {
    test_within(Duration::from_secs(180), async {
        const MESSAGES: usize = 20_000;
        const BODY_BYTES: usize = 8192;
        let mut nsqd = Daemon::nsqd().flag("--mem-queue-size=10").start().await;
        nsqd.subscribe("t", "c").await;
        let mut publisher = nsqd.connect().await;
        for first in (0..MESSAGES).step_by(100) {
            let bodies: Vec<Vec<u8>> = (first..first + 100).map(|n| checked_body(n, BODY_BYTES)).collect();
            publisher.publish_batch("t", &bodies).await;
        }
        let published_bytes = (MESSAGES * BODY_BYTES) as u64;
        let peak = process::peak_resident_bytes(nsqd.pid());
        eprintln!("{} MiB published, at most {} MiB resident", published_bytes / MIB, peak / MIB);
        assert!(peak < 100 * MIB, "{} MiB resident for {} MiB published", peak / MIB, published_bytes / MIB);
        // nsqd moves messages to disk in the background.
        wait::until("most messages are only on disk", async || {
            let channel = nsqd.channel("t", "c").await.expect("the channel exists");
            assert_eq!(channel.depth, MESSAGES as u64);
            wait::when(channel, |channel| channel.backend_depth >= MESSAGES as u64 - 100)
        })
        .await;

        // Consumes half, restarts nsqd, and consumes the rest.
        let mut numbers = Vec::with_capacity(MESSAGES);
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(500).await;
        for message in consumer.consume(MESSAGES / 2).await {
            numbers.push(check(&message.body));
        }
        consumer.ready(0).await;
        let on_their_way = consumer.barrier().await;
        drop((consumer, on_their_way));
        assert!(nsqd.terminate().await.success());
        nsqd.restart().await;
        for message in drain(&nsqd, "t", "c").await {
            numbers.push(check(&message.body));
        }
        let peak = peak.max(process::peak_resident_bytes(nsqd.pid()));
        assert!(peak < 100 * MIB, "{} MiB resident", peak / MIB);
        numbers.sort_unstable();
        assert!(numbers == (0..MESSAGES).collect::<Vec<_>>(), "every message is delivered exactly once");
    });
}

#[test]
fn messages_on_disk_keep_publishing_order() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--mem-queue-size=0").start().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        let mut publisher = nsqd.connect().await;
        for chunk in numbered(0..2000).chunks(50) {
            publisher.publish_batch("t", chunk).await;
        }
        consumer.ready(7).await;
        assert_eq!(bodies(&consumer.consume(2000).await), numbered(0..2000));
    });
}

/// Bytes that nsqd has written to storage, as counted by the kernel. On a file system in memory, where the kernel
/// counts nothing, the size of the data directory.
fn bytes_written(nsqd: &Daemon) -> u64 {
    match process::storage_bytes_written(nsqd.pid()) {
        0 => process::folder_bytes(nsqd.data_path()),
        bytes => bytes,
    }
}

/// Allowance for preallocated files and checkpoints. It does not grow with messages or channels.
const SLACK: u64 = 40 * MIB;

#[test]
fn a_backlog_of_twenty_channels_is_stored_once() {
    test_within(Duration::from_secs(180), async {
        const MESSAGES: usize = 12_000;
        const BODY_BYTES: usize = 8192;
        let nsqd = Daemon::nsqd().flag("--mem-queue-size=100").start().await;
        for n in 0..20 {
            nsqd.subscribe("t", &format!("c{n}")).await;
        }
        let before = bytes_written(&nsqd);
        let mut publisher = nsqd.connect().await;
        for first in (0..MESSAGES).step_by(100) {
            let bodies: Vec<Vec<u8>> = (first..first + 100).map(|n| checked_body(n, BODY_BYTES)).collect();
            publisher.publish_batch("t", &bodies).await;
        }
        let messages_bytes = (MESSAGES * BODY_BYTES) as u64;
        let written = bytes_written(&nsqd) - before;
        eprintln!("{} MiB of messages, 20 channels: {} MiB written", messages_bytes / MIB, written / MIB);
        assert!(
            written <= 2 * messages_bytes + SLACK,
            "{} MiB for {} MiB",
            written / MIB,
            messages_bytes / MIB
        );
        for n in [0, 10, 19] {
            let channel = nsqd.channel("t", &format!("c{n}")).await.expect("the channel exists");
            assert_eq!(channel.depth, MESSAGES as u64);
        }
        let mut consumer = nsqd.subscribe("t", "c7").await;
        consumer.ready(200).await;
        for n in 0..MESSAGES {
            let message = consumer.message().await;
            assert_eq!(check(&message.body), n);
            consumer.finish(&message).await;
        }
    });
}

#[test]
fn messages_for_twenty_channels_are_written_once_while_consumers_keep_up() {
    test_within(Duration::from_secs(180), async {
        const MESSAGES: usize = 6000;
        const BODY_BYTES: usize = 8192;
        let nsqd = Daemon::nsqd().start().await;
        let mut consumers: Vec<Peer> = Vec::new();
        for n in 0..20 {
            let mut consumer = nsqd.subscribe("t", &format!("c{n}")).await;
            consumer.ready(200).await;
            consumers.push(consumer);
        }
        let before = bytes_written(&nsqd);
        let mut publisher = nsqd.connect().await;
        for first in (0..MESSAGES).step_by(50) {
            let bodies: Vec<Vec<u8>> = (first..first + 50).map(|n| checked_body(n, BODY_BYTES)).collect();
            publisher.publish_batch("t", &bodies).await;
            for consumer in &mut consumers {
                for (message, published) in consumer.consume(50).await.iter().zip(&bodies) {
                    assert!(message.body == published[..]);
                }
            }
        }
        let messages_bytes = (MESSAGES * BODY_BYTES) as u64;
        let written = bytes_written(&nsqd) - before;
        eprintln!(
            "{} MiB of messages, 20 channels keep up: {} MiB written",
            messages_bytes / MIB,
            written / MIB
        );
        assert!(
            written <= messages_bytes + messages_bytes / 4 + SLACK,
            "{} MiB for {} MiB",
            written / MIB,
            messages_bytes / MIB
        );
    });
}

#[test]
fn finished_messages_free_disk_space() {
    test_within(Duration::from_secs(180), async {
        let nsqd = Daemon::nsqd().start().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(500).await;
        let mut publisher = nsqd.connect().await;
        let body = vec![b'x'; 64 * 1024];
        let mut largest = 0;
        // A gigabyte passes through, 4 MiB at a time.
        for _ in 0..256 {
            publisher.publish_batch("t", &vec![&body; 64]).await;
            consumer.consume(64).await;
            largest = largest.max(process::folder_bytes(nsqd.data_path()));
        }
        eprintln!("1 GiB went through, at most {} MiB on disk", largest / MIB);
        assert!(largest < 600 * MIB, "{} MiB on disk", largest / MIB);
    });
}

#[test]
fn delayed_stop_fails_ping_and_keeps_serving() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        let mut nsqd = Daemon::nsqd().lookupd(&lookupd).flag("--shutdown-delay=1h").start().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(10).await;
        nsqd.get("/ping").await.expect(200);
        nsqd.signal(Signal::TERM);
        let is_stopping = async || wait::when(nsqd.get("/ping").await.status, |status| *status == 503);
        wait::until("/ping returns 503", is_stopping).await;
        assert_eq!(nsqd.get("/ping").await.text(), "NOK - stopping");
        assert_eq!(nsqd.get_json("/stats?format=json").await["health"], "NOK - stopping");

        // nsqd still serves clients and still registers new topics.
        nsqd.publish("t", "1").await;
        nsqd.post("/pub?topic=t", b"2").await.expect(200);
        assert_eq!(bodies(&consumer.consume(2).await), ["1", "2"]);
        nsqd.publish("new", "3").await;
        let is_found =
            async || wait::when(lookupd.get("/lookup?topic=new").await.status, |status| *status == 200);
        nsqd.subscribe("new", "c").await;
        wait::until("lookupd knows the new topic", is_found).await;

        // A second signal, SIGTERM or SIGINT, ends the delay.
        nsqd.signal(Signal::INT);
        assert!(nsqd.exited().await.success());
        assert!(nsqd.log().contains("NSQ: stopping in 1h0m0s") && nsqd.log().contains("NSQ: bye"));

        nsqd.restart_with(&["--shutdown-delay=50ms"]).await;
        nsqd.get("/ping").await.expect(200);
        assert_eq!(nsqd.channel("new", "c").await.expect("a channel").depth, 1);
        assert!(nsqd.terminate().await.success());
        assert!(nsqd.log().contains("NSQ: stopping in 50ms") && nsqd.log().contains("NSQ: bye"));
    });
}
