use std::collections::BTreeSet;
use std::time::Duration;

use nsq_tests::wire::Message;
use nsq_tests::{Daemon, process, test, wait};

const MIB: u64 = 1 << 20;

fn segment_bytes(nsqd: &Daemon) -> u64 {
    process::folder_bytes(&nsqd.data_path().join("topics"))
}

/// Waits until the segments have more than `at_least` bytes. nsqd spills in the background.
async fn wait_until_spilled(nsqd: &Daemon, at_least: u64) {
    let check = async || wait::when(segment_bytes(nsqd), |bytes| *bytes > at_least);
    wait::until("messages are on disk", check).await;
}

/// Deleted files that nsqd still has open.
fn deleted_open_files(nsqd: &Daemon) -> Vec<String> {
    let open = std::fs::read_dir(format!("/proc/{}/fd", nsqd.pid())).expect("nsqd runs").flatten();
    let paths = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    paths.map(|path| path.display().to_string()).filter(|path| path.ends_with("(deleted)")).collect()
}

/// Publishes messages of about 1,000 bytes with these numbers, in batches.
async fn publish(nsqd: &Daemon, topic: &str, numbers: std::ops::Range<usize>) {
    let mut publisher = nsqd.connect().await;
    let body = |n: usize| format!("{n:08} {}", "x".repeat(1000));
    for first in numbers.clone().step_by(500) {
        let last = (first + 500).min(numbers.end);
        publisher.publish_batch(topic, &(first..last).map(body).collect::<Vec<_>>()).await;
    }
}

/// The number that a body begins with.
fn number(message: &Message) -> usize {
    message.text()[..8].parse().expect("a number")
}

#[test]
fn segment_size_follows_the_unfinished_messages() {
    test(async {
        let mut nsqd = Daemon::nsqd().flag("--mem-queue-size=100").start().await;
        for (topic, one_in) in [("few", 50), ("many", 5)] {
            let mut consumer = nsqd.subscribe(topic, "c").await;
            publish(&nsqd, topic, 0..20_000).await;
            consumer.ready(500).await;
            for _ in 0..20_000 {
                let message = consumer.message().await;
                match number(&message) % one_in {
                    0 => consumer.requeue(&message, Duration::from_secs(3000)).await,
                    _ => consumer.finish(&message).await,
                }
            }
            let deferred = 20_000 / one_in as u64;
            nsqd.channel_until(topic, "c", "the rest is finished", |c| c.unfinished() == deferred).await;
        }
        // 4,400 messages of about 1,050 bytes.
        let needed = 4_400 * 1_050;
        let check = async || wait::when(segment_bytes(&nsqd), |bytes| *bytes < 2 * needed + MIB);
        wait::until("segments have shrunk", check).await;

        nsqd.kill().await;
        nsqd.restart().await;
        for (topic, one_in) in [("few", 50), ("many", 5)] {
            let channel = nsqd.channel(topic, "c").await.expect("the channel exists");
            assert_eq!(channel.deferred_count, 20_000 / one_in);
        }
    });
}

#[test]
fn survivors_are_delivered_intact() {
    test(async {
        let mut nsqd = Daemon::nsqd().flag("--mem-queue-size=100").start().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        publish(&nsqd, "t", 0..10_000).await;
        consumer.ready(500).await;
        let mut requeued = BTreeSet::new();
        for _ in 0..10_000 {
            let message = consumer.message().await;
            if number(&message) % 10 == 3 {
                requeued.insert((number(&message), message.id_text()));
                consumer.requeue(&message, Duration::from_secs(12)).await;
            } else {
                consumer.finish(&message).await;
            }
        }
        let needed = 1_000 * 1_050;
        let check = async || wait::when(segment_bytes(&nsqd), |bytes| *bytes < 2 * needed + MIB);
        wait::until("segments have shrunk", check).await;
        drop(consumer);
        assert!(nsqd.terminate().await.success());
        nsqd.restart().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        nsqd.channel_until("t", "c", "all are due", |channel| channel.depth == 1_000).await;
        consumer.ready(500).await;
        let received = consumer.consume(1_000).await;
        assert!(received.iter().all(|message| message.text().len() == 1009));
        let received: BTreeSet<_> =
            received.iter().map(|message| (number(message), message.id_text())).collect();
        assert_eq!(received, requeued);
    });
}

#[test]
fn deleted_topic_frees_disk_while_its_publisher_stays_connected() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--mem-queue-size=1000").start().await;
        nsqd.subscribe("t", "c").await;
        publish(&nsqd, "t", 0..500).await;
        let mut publisher = nsqd.connect().await;
        let large = vec![b'x'; 100_000];
        for _ in 0..50 {
            publisher.publish_batch("t", &vec![large.as_slice(); 20]).await;
        }
        wait_until_spilled(&nsqd, 20 * MIB).await;
        nsqd.admin("/topic/delete?topic=t").await;
        let topics = nsqd.data_path().join("topics");
        let is_free = async || {
            let folders = std::fs::read_dir(&topics).expect("the topics directory exists").count();
            wait::when((deleted_open_files(&nsqd), folders), |(open, folders)| {
                open.is_empty() && *folders == 0
            })
        };
        wait::until("nsqd has closed the files and deleted the directory", is_free).await;
        publisher.publish("t", "after").await;
        assert_eq!(nsqd.topic("t").await.map(|topic| topic.depth), Some(1));
    });
}

#[test]
fn emptied_or_deleted_channel_frees_disk_at_once() {
    test(async {
        for act in ["empty", "delete"] {
            let nsqd = Daemon::nsqd().flag("--mem-queue-size=100").start().await;
            let _consumer = nsqd.subscribe("t", "c").await;
            let _other = nsqd.subscribe("t", "other").await;
            publish(&nsqd, "t", 0..20_000).await;
            wait_until_spilled(&nsqd, 15 * MIB).await;
            nsqd.admin("/channel/empty?topic=t&channel=other").await;
            nsqd.admin(&format!("/channel/{act}?topic=t&channel=c")).await;
            // A running read or write may keep a file open a moment longer.
            let is_free = async || {
                let seen = (deleted_open_files(&nsqd), segment_bytes(&nsqd));
                wait::when(seen, |(open, bytes)| open.is_empty() && *bytes < MIB)
            };
            wait::until("the disk is free", is_free).await;
        }
    });
}

#[test]
fn ids_are_not_reused_when_a_topic_is_deleted_and_recreated() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        let mut seen = BTreeSet::new();
        for round in 0..4 {
            for topic in ["t", "t#ephemeral"] {
                let mut consumer = nsqd.subscribe(topic, "c").await;
                consumer.ready(500).await;
                let mut publisher = nsqd.connect().await;
                publisher.publish_batch(topic, &vec!["x"; 500]).await;
                for message in consumer.consume(500).await {
                    assert!(seen.insert(message.id_text()), "{} received twice", message.id_text());
                }
            }
            nsqd.admin("/topic/delete?topic=t").await;
            nsqd.admin("/topic/delete?topic=t%23ephemeral").await;
            if round == 1 {
                nsqd.kill().await;
                nsqd.restart().await;
            }
        }
    });
}
