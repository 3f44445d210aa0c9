//! Time to live: what a consumer gets, and what upkeep frees.

use std::time::{Duration, Instant};

use nsq_tests::stats::until_equal;
use nsq_tests::wire::bodies;
use nsq_tests::{Daemon, process, test, wait};

use crate::interop::with_each_library;

/// Long enough that a message which is published now is delivered in time on a busy machine.
const TTL: Duration = Duration::from_secs(2);

async fn expired_count(nsqd: &Daemon, topic: &str, channel: &str) -> u64 {
    let stats = nsqd.get_json(&format!("/stats?format=json&topic={topic}&channel={channel}")).await;
    stats["topics"][0]["channels"][0]["expired_count"].as_u64().unwrap_or(0)
}

async fn until_expired(nsqd: &Daemon, topic: &str, channel: &str, count: u64) {
    until_equal("messages expire", count, async || expired_count(nsqd, topic, channel).await).await;
}

#[test]
fn old_messages_are_removed_without_a_consumer_and_their_space_is_freed() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--mem-queue-size=10").start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        nsqd.admin("/channel/create?topic=t&channel=keeps").await;
        nsqd.admin("/channel/set?topic=t&channel=c&ttl=400ms").await;
        let body = vec![b'x'; 2000];
        let batch = vec![&body[..]; 200];
        for _ in 0..20 {
            nsqd.connect().await.publish_batch("t", &batch).await;
        }
        until_expired(&nsqd, "t", "c", 4000).await;
        let channel = nsqd.channel("t", "c").await.expect("the channel exists");
        assert_eq!((channel.depth, channel.message_count), (0, 4000));
        assert_eq!(nsqd.channel("t", "keeps").await.expect("the channel exists").depth, 4000);
        nsqd.admin("/topic/set?topic=t&ttl=10ms").await;
        until_expired(&nsqd, "t", "keeps", 4000).await;
        let topics = nsqd.data_path().join("topics");
        let freed = async || wait::when(process::folder_bytes(&topics), |bytes| *bytes < 1_000_000);
        wait::until("the messages' files are deleted", freed).await;
    });
}

#[test]
fn a_consumer_gets_no_message_that_is_too_old() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--ttl=2s").start().await;
        let mut peer = nsqd.subscribe("t", "c").await;
        nsqd.publish("t", "old").await;
        let published_at = Instant::now();
        let age = async || wait::when(published_at.elapsed(), |age| *age > TTL + TTL / 100);
        wait::until("the message is too old", age).await;
        nsqd.publish("t", "new").await;
        peer.ready(10).await;
        assert_eq!(peer.message().await.text(), "new");
        until_expired(&nsqd, "t", "c", 1).await;
    });
}

#[test]
fn a_message_in_flight_does_not_expire_until_it_comes_back() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = nsqd.subscribe("t", "c").await;
        nsqd.admin("/topic/set?topic=t&ttl=2s").await;
        nsqd.connect().await.publish_batch("t", &["finished", "requeued", "waiting"]).await;
        peer.ready(2).await;
        let messages = peer.messages(2).await;
        peer.ready(0).await;
        until_expired(&nsqd, "t", "c", 1).await;
        peer.finish(&messages[0]).await;
        peer.requeue(&messages[1], Duration::ZERO).await;
        until_expired(&nsqd, "t", "c", 2).await;
        peer.ready(10).await;
        nsqd.publish("t", "new").await;
        assert_eq!(bodies(&peer.messages(1).await), ["new"]);
    });
}

#[test]
fn the_age_of_a_deferred_message_counts_from_its_due_time() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--ttl=2s").start().await;
        let mut peer = nsqd.subscribe("t", "c").await;
        nsqd.connect().await.publish_deferred("t", TTL * 3 / 2, "deferred").await;
        peer.ready(1).await;
        let message = peer.message().await;
        assert_eq!(message.text(), "deferred");
        peer.finish(&message).await;
        peer.ready(0).await;
        nsqd.connect().await.publish_deferred("t", TTL / 4, "too late").await;
        until_expired(&nsqd, "t", "c", 1).await;
    });
}

#[test]
fn ages_survive_a_kill() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        nsqd.connect().await.publish_batch("t", &["a", "b"]).await;
        let published_at = Instant::now();
        nsqd.admin("/channel/set?topic=t&channel=c&ttl=6s").await;
        let is_old = async || wait::when(published_at.elapsed(), |age| *age > Duration::from_secs(5));
        wait::until("most of the time has passed", is_old).await;
        nsqd.kill().await;
        nsqd.restart().await;
        let started_at = Instant::now();
        until_expired(&nsqd, "t", "c", 2).await;
        assert!(started_at.elapsed() < Duration::from_secs(6), "the time does not begin with the start");
    });
}

#[test]
fn expired_messages_become_dead_letters_if_a_topic_for_them_is_set() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        nsqd.admin("/channel/set?topic=t&channel=c&ttl=400ms&dead_letter=%7Btopic%7D.expired").await;
        nsqd.connect().await.publish_batch("t", &["a", "b", "c"]).await;
        wait::until("the messages are dead letters", async || {
            let channel = nsqd.channel("t.expired", "redrive").await;
            wait::when(channel.map_or(0, |channel| channel.depth), |depth| *depth == 3)
        })
        .await;
        assert_eq!(nsqd.channel("t", "c").await.expect("the channel exists").depth, 0);
        assert_eq!(expired_count(&nsqd, "t", "c").await, 0, "they were not dropped");
        let mut peer = nsqd.connect().await;
        peer.identify(serde_json::json!({ "feature_negotiation": true, "extend_support": true })).await;
        peer.subscribe("t.expired", "redrive").await;
        peer.ready(3).await;
        for message in peer.messages(3).await {
            assert!(message.text().contains(r#""nsq-dead-reason":"expired""#), "{}", message.text());
        }
        // A dead-letter topic has a time to live of its own.
        let explained = nsqd.get_json("/policy/explain?topic=t.expired").await;
        let settings = explained["settings"].as_array().expect("an array");
        assert!(settings.iter().any(|setting| setting["name"] == "ttl" && setting["value"] == "336h0m0s"));
    });
}

#[test]
fn the_shortest_time_applies() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--ttl=1h").start().await;
        nsqd.admin("/topic/create?topic=t").await;
        for channel in ["a", "b"] {
            nsqd.admin(&format!("/channel/create?topic=t&channel={channel}")).await;
        }
        nsqd.admin("/channel/set?topic=t&channel=a&ttl=400ms").await;
        nsqd.admin("/channel/set?topic=t&channel=b&ttl=2h").await;
        nsqd.publish("t", "x").await;
        until_expired(&nsqd, "t", "a", 1).await;
        assert_eq!(nsqd.channel("t", "b").await.expect("the channel exists").depth, 1);
        let refused = nsqd.post("/channel/set?topic=t&channel=a&ttl=1ms", "").await;
        assert!(refused.text().contains("ttl=1ms: out of range"), "{}", refused.text());
    });
}

#[test]
fn unmodified_clients_get_only_messages_that_are_not_too_old() {
    with_each_library(async |library| {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        nsqd.admin("/channel/set?topic=t&channel=c&ttl=10ms").await;
        nsqd.connect().await.publish_batch("t", &["too old", "as well"]).await;
        until_expired(&nsqd, "t", "c", 2).await;
        nsqd.admin("/channel/set?topic=t&channel=c&ttl=1h").await;
        nsqd.publish("t", "young").await;
        let address = nsqd.tcp().to_string();
        let arguments = ["--nsqd", &address, "--topic", "t", "--channel", "c", "--count", "1"];
        let mut consumer = library.run("consume", &arguments);
        assert_eq!(consumer.bodies(1).await, ["young"]);
        consumer.finish().await;
        nsqd.channel_until_finished("t", "c").await;
    });
}

#[test]
fn messages_that_expired_while_nsqd_was_down_are_not_delivered() {
    test(async {
        let mut nsqd = Daemon::nsqd().flag("--ttl=1s").start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        nsqd.connect().await.publish_batch("t", &["old"; 500]).await;
        let published_at = Instant::now();
        nsqd.kill().await;
        let age = async || wait::when(published_at.elapsed(), |age| *age > Duration::from_millis(1100));
        wait::until("the messages are too old", age).await;
        nsqd.restart().await;
        let mut peer = nsqd.subscribe("t", "c").await;
        peer.ready(100).await;
        nsqd.publish("t", "new").await;
        assert_eq!(peer.message().await.text(), "new");
        assert_eq!(expired_count(&nsqd, "t", "c").await, 500);
    });
}

#[test]
fn a_first_time_to_live_applies_to_the_messages_that_are_there() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = nsqd.subscribe("t", "c").await;
        nsqd.connect().await.publish_batch("t", &["old"; 500]).await;
        let published_at = Instant::now();
        let age = async || wait::when(published_at.elapsed(), |age| *age > Duration::from_millis(1100));
        wait::until("the messages are too old", age).await;
        nsqd.admin("/channel/set?topic=t&channel=c&ttl=1s").await;
        peer.ready(100).await;
        nsqd.publish("t", "new").await;
        assert_eq!(peer.message().await.text(), "new");
        assert_eq!(expired_count(&nsqd, "t", "c").await, 500);
    });
}
