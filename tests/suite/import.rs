//! The first start in a data directory of NSQ imports its topics, channels and messages.
//!
//! The tests write the directories in NSQ's format: size, time, attempts, id, body; positions as text.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nsq_tests::daemon::binary;
use nsq_tests::stats::until_equal;
use nsq_tests::wire::{Message, bodies};
use nsq_tests::{Daemon, test, test_within};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

const TIME: i64 = 1_700_000_000_000_000_000;

/// The record of message `n`, delivered `attempts` times.
fn record(n: u32, attempts: u16) -> Vec<u8> {
    let body = format!("message {n}");
    let mut record = (26 + body.len() as u32).to_be_bytes().to_vec();
    record.extend((TIME + i64::from(n)).to_be_bytes());
    record.extend(attempts.to_be_bytes());
    record.extend(format!("{:016x}", 0x0d00_0000 + n).bytes());
    record.extend(body.bytes());
    record
}

fn folder() -> Arc<TempDir> {
    Arc::new(TempDir::with_prefix("nsq-tests-").expect("a temporary directory"))
}

fn put(folder: &TempDir, name: &str, content: impl AsRef<[u8]>) {
    fs::write(folder.path().join(name), content).expect("the file is writable");
}

/// Writes a queue with one file per entry of `files` and the read position at its start.
fn put_queue(folder: &TempDir, queue: &str, files: &[Vec<Vec<u8>>]) {
    for (number, records) in files.iter().enumerate() {
        put(folder, &format!("{queue}.diskqueue.{number:06}.dat"), records.concat());
    }
    let depth: usize = files.iter().map(Vec::len).sum();
    let (last, end) = (files.len() - 1, files.last().map_or(0, |last| last.concat().len()));
    put(folder, &format!("{queue}.diskqueue.meta.dat"), format!("{depth}\n0,0\n{last},{end}\n"));
}

fn records(numbers: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    numbers.map(|n| record(n, 0)).collect()
}

fn names(path: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(path).expect("the data directory exists");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

fn numbered(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|n| format!("message {n}")).collect()
}

/// Receives and finishes `count` messages.
async fn consume(nsqd: &Daemon, topic: &str, channel: &str, count: usize) -> Vec<Message> {
    let mut consumer = nsqd.subscribe(topic, channel).await;
    consumer.ready(2500).await;
    consumer.consume(count).await
}

fn in_order(mut messages: Vec<Message>) -> Vec<Message> {
    messages.sort_by_key(|message| message.timestamp);
    messages
}

#[test]
fn topics_channels_pauses_and_messages_are_imported() {
    test(async {
        let folder = folder();
        put(
            &folder,
            "nsqd.dat",
            r#"{"topics":[{"name":"t","paused":false,"channels":[{"name":"all","paused":false},
            {"name":"some","paused":true},{"name":"none","paused":false}]},
            {"name":"held","paused":true,"channels":[{"name":"c","paused":false}]},
            {"name":"..","paused":false,"channels":null},{"name":"no good","paused":false}],"version":"1.3.0"}"#,
        );
        put_queue(&folder, "t:all", &[records(0..40), records(40..90)]);
        // Message 7 was in flight when NSQ stopped, so it follows newer messages in the file.
        put_queue(&folder, "t:some", &[[records(30..60), vec![record(7, 3)]].concat()]);
        put_queue(&folder, "t", &[records(90..100)]);
        put_queue(&folder, "held", &[records(0..5)]);
        put_queue(&folder, "..", &[records(0..8)]);
        put_queue(&folder, "t:deleted", &[records(0..3)]);
        put(&folder, "t:all.diskqueue.000000.dat.bad", "rubbish");
        let before = names(folder.path());

        let mut nsqd = Daemon::nsqd().start_in(folder.clone()).await;
        nsqd.log().expect("is not imported").await;
        assert!(nsqd.log().contains("skipping creation of invalid topic no good"));
        let orphans: BTreeSet<String> =
            before.iter().filter(|name| name.contains("deleted")).cloned().collect();
        let renamed: BTreeSet<String> =
            before.difference(&orphans).map(|name| format!("{name}.imported")).collect();
        let left: BTreeSet<String> =
            names(folder.path()).into_iter().filter(|name| name.contains(".dat")).collect();
        assert_eq!(left, orphans.union(&renamed).cloned().collect());

        for restart in [false, true] {
            if restart {
                nsqd.kill().await;
                nsqd.restart().await;
            }
            let depth =
                async |name| nsqd.channel("t", name).await.map(|channel| (channel.depth, channel.paused));
            assert_eq!(depth("all").await, Some((100, false)));
            assert_eq!(depth("some").await, Some((41, true)));
            assert_eq!(depth("none").await, Some((10, false)));
            let held = nsqd.topic("held").await.expect("the topic exists");
            assert_eq!((held.depth, held.paused, held.channels[0].depth), (5, true, 0));
            assert_eq!(nsqd.topic("..").await.map(|topic| topic.depth), Some(8));
        }

        let messages = consume(&nsqd, "t", "all", 100).await;
        assert_eq!(bodies(&messages), numbered(0..100), "messages keep their publishing order");
        assert!(messages.iter().zip(TIME..).all(|(message, time)| message.timestamp == time));
        assert!(messages.iter().all(|message| message.attempts == 1));

        nsqd.admin("/channel/unpause?topic=t&channel=some").await;
        let messages = in_order(consume(&nsqd, "t", "some", 41).await);
        assert_eq!(bodies(&messages), [numbered(7..8), numbered(30..60), numbered(90..100)].concat());
        let attempts: Vec<u16> = messages.iter().map(|message| message.attempts).collect();
        assert_eq!(attempts, [vec![4], vec![1; 40]].concat());

        nsqd.admin("/topic/unpause?topic=held").await;
        assert_eq!(bodies(&consume(&nsqd, "held", "c", 5).await), numbered(0..5));
        assert_eq!(bodies(&consume(&nsqd, "..", "first", 8).await), numbered(0..8));
        // New messages get ids that no imported message has.
        nsqd.publish("t", "new").await;
        let new = consume(&nsqd, "t", "all", 1).await;
        assert!(messages.iter().all(|message| message.id != new[0].id));
    });
}

#[test]
fn age_of_imported_messages_counts_from_the_takeover() {
    test(async {
        let folder = folder();
        put(&folder, "nsqd.dat", r#"{"topics":[{"name":"t","channels":[{"name":"c"}]}]}"#);
        put_queue(&folder, "t:c", &[records(0..20)]);
        let mut nsqd = Daemon::nsqd().flag("--ttl=1h").start_in(folder).await;
        nsqd.log()
            .expect("took over 20 messages; they keep their timestamps, and their age (ttl) counts from now")
            .await;
        for restart in 0..3 {
            match restart {
                0 => {}
                1 => nsqd.kill().await,
                _ => assert!(nsqd.terminate().await.success()),
            }
            if restart > 0 {
                nsqd.restart().await;
            }
            // Upkeep removes old messages of all topics. After two rounds, it has seen this topic.
            for round in 1..=2 {
                let other = format!("other{restart}{round}");
                nsqd.admin(&format!("/topic/create?topic={other}")).await;
                nsqd.admin(&format!("/channel/create?topic={other}&channel=c")).await;
                nsqd.admin(&format!("/topic/set?topic={other}&ttl=10ms")).await;
                nsqd.publish(&other, "short-lived").await;
                until_equal("the other message expires", 0, async || {
                    nsqd.channel(&other, "c").await.map_or(1, |channel| channel.depth)
                })
                .await;
            }
            assert_eq!(nsqd.channel("t", "c").await.map(|channel| channel.depth), Some(20));
        }
        nsqd.admin("/topic/set?topic=t&ttl=10ms").await;
        until_equal("they expire", 0, async || {
            nsqd.channel("t", "c").await.map_or(1, |channel| channel.depth)
        })
        .await;
    });
}

#[test]
fn import_works_at_every_durability_level() {
    test(async {
        for durability in ["overflow", "write", "sync"] {
            let folder = folder();
            put(&folder, "nsqd.dat", r#"{"topics":[{"name":"t","channels":[{"name":"c"}]}]}"#);
            put_queue(&folder, "t:c", &[records(0..20)]);
            let start = Daemon::nsqd().flag(format!("--durability={durability}"));
            let mut nsqd = start.start_in(folder).await;
            assert!(nsqd.terminate().await.success());
            nsqd.restart().await;
            assert_eq!(bodies(&consume(&nsqd, "t", "c", 20).await), numbered(0..20));
        }
    });
}

#[test]
fn invalid_topic_list_is_refused_and_nothing_changes() {
    test(async {
        for bad in ["", "[]", "{\"topics\":7}", "{\"topics\":[{\"name\":\"t\""] {
            let folder = folder();
            put(&folder, "nsqd.dat", bad);
            put_queue(&folder, "t", &[records(0..3)]);
            let before = names(folder.path());
            let flag = format!("--data-path={}", folder.path().display());
            let (status, log) = Daemon::nsqd().flag(flag).expect_exit().await;
            assert_eq!(status.code(), Some(1));
            let text = format!(
                "FATAL: failed to load metadata - failed to parse metadata in {}/nsqd.dat - ",
                folder.path().display()
            );
            assert!(log.contains(&text), "{}", log.text());
            assert_eq!(names(folder.path()), before);
        }
    });
}

#[test]
fn killed_import_is_completed_by_the_next_start() {
    test_within(Duration::from_secs(120), async {
        let seed = rand::random();
        eprintln!("seed {seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        for _ in 0..6 {
            let folder = folder();
            put(&folder, "nsqd.dat", r#"{"topics":[{"name":"t","channels":[{"name":"a"},{"name":"b"}]}]}"#);
            for queue in ["t:a", "t:b"] {
                put_queue(&folder, queue, &[records(0..20_000), records(20_000..40_000)]);
            }
            for _ in 0..3 {
                let mut nsqd = Command::new(binary("nsqd"))
                    .args(["--tcp-address=127.0.0.1:0", "--http-address=127.0.0.1:0"])
                    .arg(format!("--data-path={}", folder.path().display()))
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("nsqd starts");
                tokio::time::sleep(Duration::from_micros(random.random_range(0..150_000))).await;
                nsqd.kill().expect("nsqd can be killed");
                nsqd.wait().expect("an exit status");
            }
            let nsqd = Daemon::nsqd().start_in(folder.clone()).await;
            for channel in ["a", "b"] {
                let messages = consume(&nsqd, "t", channel, 40_000).await;
                assert_eq!(bodies(&messages), numbered(0..40_000));
                nsqd.channel_until_finished("t", channel).await;
            }
            assert!(names(folder.path()).iter().all(|name| !name.ends_with(".dat") && name != "takeover"));
        }
    });
}
