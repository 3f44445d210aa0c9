use std::time::Duration;

use nsq_tests::wire::{Frame, bodies};
use nsq_tests::{Daemon, process, test, wait};

#[test]
fn ephemeral_channel_is_deleted_with_its_last_consumer_not_before() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let one = nsqd.subscribe("t", "c#ephemeral").await;
        let mut two = nsqd.subscribe("t", "c#ephemeral").await;
        drop(one);
        let left = |channel: &nsq_tests::stats::Channel| channel.client_count == 1;
        nsqd.channel_until("t", "c#ephemeral", "one consumer is left", left).await;
        nsqd.publish("t", "x").await;
        two.ready(1).await;
        two.message().await;
        nsqd.connect().await.publish_deferred("t", Duration::from_secs(60), "deferred").await;
        drop(two);
        nsqd.topic_until("t", "the ephemeral channel is deleted", |topic| topic.channels.is_empty()).await;

        let mut later = nsqd.subscribe("t", "c#ephemeral").await;
        later.ready(10).await;
        later.nothing().await;
    });
}

#[test]
fn an_ephemeral_channel_created_over_http_waits_for_its_first_consumer() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c%23ephemeral").await;
        nsqd.publish("t", "x").await;
        assert!(nsqd.channel("t", "c#ephemeral").await.is_some());
        let mut consumer = nsqd.subscribe("t", "c#ephemeral").await;
        consumer.ready(1).await;
        assert_eq!(consumer.message().await.text(), "x");
        drop(consumer);
        nsqd.topic_until("t", "the ephemeral channel is deleted", |topic| topic.channels.is_empty()).await;
    });
}

#[test]
fn ephemeral_topic_is_deleted_with_its_last_channel() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t#ephemeral", "x").await;
        assert!(
            nsqd.topic("t#ephemeral").await.is_some(),
            "an ephemeral topic stays until it has had a channel"
        );
        let consumer = nsqd.subscribe("t#ephemeral", "c#ephemeral").await;
        // A normal channel stays without consumers and keeps the topic.
        nsqd.subscribe("t#ephemeral", "keeps").await;
        drop(consumer);
        let kept = |topic: &nsq_tests::stats::Topic| topic.channels.len() == 1;
        nsqd.topic_until("t#ephemeral", "only the normal channel is left", kept).await;
        nsqd.admin("/channel/delete?topic=t%23ephemeral&channel=keeps").await;
        let check = async || wait::when(nsqd.topic("t#ephemeral").await, Option::is_none);
        wait::until("the topic is deleted", check).await;
    });
}

#[test]
fn ephemeral_queue_drops_messages_beyond_its_limit_and_answers_ok() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--mem-queue-size=5").start().await;
        let mut publisher = nsqd.connect().await;
        for n in 0..20 {
            publisher.publish("t#ephemeral", format!("{n}")).await;
        }
        let topic = nsqd.topic("t#ephemeral").await.expect("the topic exists");
        assert_eq!((topic.message_count, topic.depth), (20, 5), "dropped messages are counted");
        let mut consumer = nsqd.subscribe("t#ephemeral", "c").await;
        consumer.ready(100).await;
        assert_eq!(bodies(&consumer.messages(5).await), ["0", "1", "2", "3", "4"], "the oldest are kept");
        consumer.nothing().await;

        // The same holds for an ephemeral channel of a normal topic; the normal channel gets everything.
        let mut ephemeral = nsqd.subscribe("t", "c#ephemeral").await;
        let mut normal = nsqd.subscribe("t", "c").await;
        for n in 0..20 {
            publisher.publish("t", format!("{n}")).await;
        }
        let channel = nsqd.channel("t", "c#ephemeral").await.expect("the channel exists");
        assert_eq!((channel.message_count, channel.depth), (20, 5), "dropped messages are counted");
        ephemeral.ready(100).await;
        assert_eq!(bodies(&ephemeral.messages(5).await), ["0", "1", "2", "3", "4"], "the oldest are kept");
        ephemeral.nothing().await;
        normal.ready(100).await;
        assert_eq!(normal.messages(20).await.len(), 20);
    });
}

#[test]
fn ephemeral_names_without_a_memory_queue_deliver_only_to_ready_consumers() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--mem-queue-size=0").start().await;
        let mut publisher = nsqd.connect().await;
        for (topic, channel) in [("t", "c#ephemeral"), ("t#ephemeral", "c#ephemeral")] {
            let mut consumer = nsqd.subscribe(topic, channel).await;
            publisher.publish(topic, "no consumer is ready").await;
            consumer.ready(2).await;
            consumer.nothing().await;
            publisher.publish_batch(topic, &["1", "2", "no room"]).await;
            assert_eq!(bodies(&consumer.consume(2).await), ["1", "2"]);
            consumer.nothing().await;
        }
    });
}

#[test]
fn ephemeral_topics_do_not_survive_a_restart_and_are_never_on_disk() {
    test(async {
        let mut nsqd = Daemon::nsqd().flag("--mem-queue-size=100").start().await;
        let needle = "a body that must not reach the disk";
        let mut publisher = nsqd.connect().await;
        let _consumer = nsqd.subscribe("t#ephemeral", "c").await;
        for _ in 0..1000 {
            publisher.publish("t#ephemeral", needle).await;
        }
        nsqd.subscribe("kept", "c").await;
        assert!(!folder_contains(nsqd.data_path(), needle.as_bytes()));
        assert!(nsqd.terminate().await.success());
        assert!(!folder_contains(nsqd.data_path(), needle.as_bytes()));
        nsqd.restart().await;
        let names: Vec<String> = nsqd.topics().await.into_iter().map(|topic| topic.topic_name).collect();
        assert_eq!(names, ["kept"]);
        assert!(process::resident_bytes(nsqd.pid()) > 0);
    });
}

/// The directories of topics that have segments.
fn topic_folders(nsqd: &Daemon) -> Vec<std::ffi::OsString> {
    let folders = std::fs::read_dir(nsqd.data_path().join("topics"));
    folders.into_iter().flatten().flatten().map(|entry| entry.file_name()).collect()
}

#[test]
fn ephemeral_backlog_stays_in_memory_and_is_lost_on_a_kill() {
    test(async {
        for durability in ["overflow", "write", "sync"] {
            let durability = format!("--durability={durability}");
            let mut nsqd = Daemon::nsqd()
                .flag(durability)
                .flag("--mem-queue-size=1000")
                .flag("--mem-queue-bytes=2000000")
                .start()
                .await;
            let mut publisher = nsqd.connect().await;
            // A normal channel, an ephemeral one, a paused one, a paused topic, and a topic without channels.
            for (topic, channel) in [("a", "c"), ("b", "c%23ephemeral"), ("paused", "c"), ("held", "c")] {
                nsqd.admin(&format!("/topic/create?topic={topic}%23ephemeral")).await;
                nsqd.admin(&format!("/channel/create?topic={topic}%23ephemeral&channel={channel}")).await;
            }
            nsqd.admin("/channel/pause?topic=paused%23ephemeral&channel=c").await;
            nsqd.admin("/topic/pause?topic=held%23ephemeral").await;
            let large = vec![b'x'; 3000];
            for topic in
                ["a#ephemeral", "b#ephemeral", "paused#ephemeral", "held#ephemeral", "none#ephemeral"]
            {
                for _ in 0..30 {
                    publisher.publish_batch(topic, &vec![large.as_slice(); 100]).await;
                    publisher.publish_deferred(topic, Duration::from_secs(600), &large).await;
                }
                let about = nsqd.topic(topic).await.expect("the topic exists");
                assert_eq!(about.message_count, 3030, "dropped messages are counted");
                assert_eq!(about.backend_depth, 0);
                for channel in about.channels {
                    assert!(channel.depth + channel.deferred_count <= 1030, "{channel:?}");
                    assert_eq!(channel.backend_depth, 0);
                }
            }
            assert!(topic_folders(&nsqd).is_empty());
            nsqd.kill().await;
            nsqd.restart().await;
            assert!(nsqd.topics().await.is_empty(), "{:?}", nsqd.topics().await);
            assert!(topic_folders(&nsqd).is_empty());
        }
    });
}

#[test]
fn oldest_messages_of_an_ephemeral_backlog_are_intact() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--mem-queue-size=1000").start().await;
        let mut publisher = nsqd.connect().await;
        let mut consumer = nsqd.subscribe("t#ephemeral", "c#ephemeral").await;
        let body = |n: usize| format!("{n} {}", "x".repeat(2000));
        for first in (0..20_000).step_by(200) {
            publisher.publish_batch("t#ephemeral", &(first..first + 200).map(body).collect::<Vec<_>>()).await;
        }
        consumer.ready(500).await;
        let received = consumer.consume(1000).await;
        assert_eq!(bodies(&received), (0..1000).map(body).collect::<Vec<_>>());
        consumer.nothing().await;
    });
}

#[test]
fn lagging_ephemeral_channel_uses_no_disk_of_a_normal_topic() {
    test(async {
        let nsqd =
            Daemon::nsqd().flag("--mem-queue-size=500").flag("--max-bytes-per-file=1000000").start().await;
        let mut publisher = nsqd.connect().await;
        let mut ephemeral = nsqd.subscribe("t", "lags#ephemeral").await;
        let mut normal = nsqd.subscribe("t", "c").await;
        let body = |n: usize| format!("{n} {}", "x".repeat(1000));
        // First both channels have a backlog, the normal one on disk. Then the normal channel keeps up.
        for first in (0..20_000).step_by(200) {
            publisher.publish_batch("t", &(first..first + 200).map(body).collect::<Vec<_>>()).await;
        }
        normal.ready(500).await;
        assert_eq!(normal.consume(20_000).await.len(), 20_000);
        for first in (20_000..30_000).step_by(200) {
            publisher.publish_batch("t", &(first..first + 200).map(body).collect::<Vec<_>>()).await;
            normal.consume(200).await;
        }
        nsqd.channel_until_finished("t", "c").await;
        let segments = async || process::folder_bytes(&nsqd.data_path().join("topics"));
        let check = async || wait::when(segments().await, |bytes| *bytes < 500_000);
        wait::until("the segments of the ephemeral backlog are deleted", check).await;
        let channel = nsqd.channel("t", "lags#ephemeral").await.expect("the channel exists");
        assert_eq!((channel.depth, channel.backend_depth), (500, 0));
        ephemeral.ready(500).await;
        assert_eq!(bodies(&ephemeral.consume(500).await), (0..500).map(body).collect::<Vec<_>>());
        ephemeral.nothing().await;
    });
}

fn folder_contains(folder: &std::path::Path, needle: &[u8]) -> bool {
    std::fs::read_dir(folder).expect("the directory exists").flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return folder_contains(&path, needle);
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(needle.len()).any(|window| window == needle)
    })
}

#[test]
fn concurrent_sub_and_close_on_ephemeral_names_never_blocks_a_channel() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let subscribe_and_close = async |rounds: u32| {
            for _ in 0..rounds {
                let mut peer = nsqd.connect().await;
                peer.line("SUB t#ephemeral c#ephemeral").await;
                match peer.frame_within(Duration::from_secs(10)).await {
                    Ok(Frame::Response(ok)) if ok == "OK" => {}
                    Ok(Frame::Error(error)) if error.starts_with(b"E_SUB_FAILED ") => {}
                    Err(nsq_tests::wire::NoFrame::Closed) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        tokio::join!(
            subscribe_and_close(100),
            subscribe_and_close(100),
            subscribe_and_close(100),
            subscribe_and_close(100)
        );

        let mut consumer = nsqd.subscribe("t#ephemeral", "c#ephemeral").await;
        consumer.ready(1).await;
        nsqd.publish("t#ephemeral", "x").await;
        assert_eq!(consumer.message().await.text(), "x");
    });
}
