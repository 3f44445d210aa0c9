//! `filter`: channels that deliver only messages whose headers match.

use std::time::Duration;

use nsq_protocol::headers::{Headers, put_published};
use nsq_tests::stats::until_equal;
use nsq_tests::wire::{batch, bodies};
use nsq_tests::{Daemon, test};
use serde_json::{Value, json};

use crate::interop::with_each_library;

async fn with_channels(channels: &[&str]) -> Daemon {
    let nsqd = Daemon::nsqd().flag("--mem-queue-size=100").start().await;
    nsqd.admin("/topic/create?topic=t").await;
    for channel in channels {
        nsqd.admin(&format!("/channel/create?topic=t&channel={channel}")).await;
    }
    nsqd
}

async fn set_filter(nsqd: &Daemon, channel: &str, filter: &str) {
    nsqd.admin(&format!("/channel/set?topic=t&channel={channel}&filter={filter}")).await;
}

fn message(headers: &Value, body: &str) -> Vec<u8> {
    let (text, mut message) = (headers.to_string(), Vec::new());
    put_published(&mut message, Headers::trusted(text.as_bytes()), body.as_bytes());
    message
}

async fn publish(nsqd: &Daemon, tenant: &str, body: &str) {
    let mut peer = nsqd.connect().await;
    peer.line_and_body("PUB_EXT t", message(&json!({ "tenant": tenant }), body)).await;
    peer.ok().await;
}

async fn filtered_count(nsqd: &Daemon, channel: &str) -> u64 {
    let stats = nsqd.get_json(&format!("/stats?format=json&topic=t&channel={channel}")).await;
    stats["topics"][0]["channels"][0]["filtered_count"].as_u64().unwrap_or(0)
}

#[test]
fn an_unmodified_client_gets_only_matching_messages() {
    test(async {
        let nsqd = with_channels(&["acme", "others", "all"]).await;
        set_filter(&nsqd, "acme", "tenant=acme*").await;
        set_filter(&nsqd, "others", "tenant!=acme*").await;
        for (tenant, body) in [("acme", "1"), ("beta", "2"), ("acme-test", "3")] {
            publish(&nsqd, tenant, body).await;
        }
        nsqd.publish("t", "plain").await;
        for (channel, expected, filtered) in [
            ("acme", &["1", "3"][..], 2),
            ("others", &["2", "plain"], 2),
            ("all", &["1", "2", "3", "plain"], 0),
        ] {
            let before = nsqd.channel("t", channel).await.expect("it exists");
            assert_eq!(before.depth, 4, "messages count until their turn comes");
            let mut peer = nsqd.subscribe("t", channel).await;
            peer.ready(1).await;
            let messages = peer.consume(expected.len()).await;
            assert_eq!(bodies(&messages), expected);
            assert!(messages.iter().all(|message| message.attempts == 1));
            let after = nsqd.channel_until_finished("t", channel).await;
            assert_eq!(
                after.clients[0].message_count,
                expected.len() as u64,
                "others do not count as delivered"
            );
            assert_eq!(filtered_count(&nsqd, channel).await, filtered);
        }
        let page = nsqd.metrics().await;
        let series =
            |channel: &str| format!("nsq_channel_filtered_total{{topic=\"t\",channel=\"{channel}\"}}");
        assert_eq!((page.value(&series("acme")), page.value(&series("all"))), (2.0, 0.0));
        let text = nsqd.get("/stats?topic=t").await.text();
        assert_eq!(text.matches("filtered: 2 msgs").count(), 2, "{text}");
    });
}

#[test]
fn many_messages_that_do_not_match_block_neither_the_consumer_nor_nsqd() {
    test(async {
        let nsqd = with_channels(&["c"]).await;
        set_filter(&nsqd, "c", "tenant=acme").await;
        let mut producer = nsqd.connect().await;
        let other = message(&json!({ "tenant": "beta" }), "no");
        let plain = batch(&vec!["plain"; 500]);
        for _ in 0..20 {
            producer.line_and_body("MPUB_EXT t", batch(&vec![&other[..]; 500])).await;
            producer.ok().await;
            producer.line_and_body("MPUB t", &plain).await;
            producer.ok().await;
        }
        publish(&nsqd, "acme", "yes").await;
        let mut peers = [nsqd.subscribe("t", "c").await, nsqd.subscribe("t", "c").await];
        for peer in &mut peers {
            peer.ready(1).await;
        }
        until_equal("the others are finished", 20_000, async || filtered_count(&nsqd, "c").await).await;
        nsqd.channel_until("t", "c", "one is in flight", |channel| channel.in_flight_count == 1).await;
        let channel = nsqd.channel("t", "c").await.expect("it exists");
        assert_eq!((channel.depth, channel.message_count), (0, 20_001));
    });
}

#[test]
fn finished_messages_and_the_filter_survive_a_kill() {
    test(async {
        let mut nsqd = with_channels(&["c"]).await;
        set_filter(&nsqd, "c", "tenant=acme").await;
        for number in 0..10 {
            publish(&nsqd, "beta", &number.to_string()).await;
        }
        publish(&nsqd, "acme", "yes").await;
        let mut peer = nsqd.subscribe("t", "c").await;
        peer.ready(1).await;
        assert_eq!(bodies(&peer.consume(1).await), ["yes"]);
        peer.barrier().await;
        // Acknowledgements are written with the next publish, or a little later.
        nsqd.publish("other", "x").await;
        nsqd.kill().await;
        drop(peer);
        nsqd.restart().await;
        assert_eq!(nsqd.channel("t", "c").await.expect("it exists").unfinished(), 0);
        publish(&nsqd, "beta", "no").await;
        publish(&nsqd, "acme", "again").await;
        let mut peer = nsqd.subscribe("t", "c").await;
        peer.ready(1).await;
        assert_eq!(bodies(&peer.consume(1).await), ["again"]);
        nsqd.terminate().await;
        nsqd.restart().await;
        assert!(filtered_count(&nsqd, "c").await >= 1, "the count survives a stop");
    });
}

#[test]
fn the_filter_applies_to_each_delivery() {
    test(async {
        let nsqd = with_channels(&["c"]).await;
        publish(&nsqd, "acme", "acme").await;
        publish(&nsqd, "beta", "beta").await;
        let mut producer = nsqd.connect().await;
        producer.line_and_body("DPUB_EXT t 1000", message(&json!({ "tenant": "beta" }), "deferred")).await;
        producer.ok().await;
        let mut peer = nsqd.subscribe("t", "c").await;
        peer.ready(2).await;
        let messages = peer.messages(2).await;
        set_filter(&nsqd, "c", "tenant=acme").await;
        for message in &messages {
            peer.requeue(message, Duration::ZERO).await;
        }
        let again = peer.message().await;
        assert_eq!((again.text(), again.attempts), ("acme".to_owned(), 2));
        peer.finish(&again).await;
        until_equal("the others are finished", 2, async || filtered_count(&nsqd, "c").await).await;
        nsqd.channel_until_finished("t", "c").await;
        // Without the filter, all messages come again.
        set_filter(&nsqd, "c", "default").await;
        publish(&nsqd, "beta", "new").await;
        assert_eq!(peer.message().await.text(), "new");
    });
}

#[test]
fn invalid_filters_are_refused_with_value_reason_and_example() {
    test(async {
        let nsqd = with_channels(&["c"]).await;
        for (filter, reason) in [
            ("tenant", "\"tenant\" is not NAME=GLOB or NAME!=GLOB"),
            ("a=%5Bb", "\"[b\" is not a pattern: "),
            ("a+b=c", "\"a b\" is not the name of a header"),
            ("a=b%0Ac=d", "it contains a control character"),
        ] {
            let target = format!("/channel/set?topic=t&channel=c&filter={filter}");
            let answer = nsqd.post(&target, "").await.expect(400).json();
            let text = answer["message"].as_str().expect("a text");
            assert!(text.starts_with("INVALID_SETTING: filter=") && text.contains(reason), "{text}");
            assert!(
                text.ends_with("of at most 1024 bytes, such as filter=tenant=acme,region!=test*"),
                "{text}"
            );
        }
        let answer = nsqd.post("/topic/set?topic=t&filter=a=b", "").await.expect(400).json();
        assert!(
            answer["message"].as_str().expect("a text").contains("filter is a setting of channels"),
            "{answer}"
        );
    });
}

#[test]
fn client_libraries_get_only_matching_messages() {
    with_each_library(async |library| {
        let nsqd = with_channels(&["acme"]).await;
        set_filter(&nsqd, "acme", "tenant=acme").await;
        for (tenant, body) in [("beta", "1"), ("acme", "2"), ("beta", "3"), ("acme", "4")] {
            publish(&nsqd, tenant, body).await;
        }
        let address = nsqd.tcp().to_string();
        let arguments = ["--nsqd", &address, "--topic", "t", "--channel", "acme", "--count", "2"];
        let mut consumer = library.run("consume", &arguments);
        assert_eq!(consumer.bodies(2).await, ["2", "4"]);
        consumer.finish().await;
        until_equal("the others are finished", 2, async || filtered_count(&nsqd, "acme").await).await;
        nsqd.channel_until_finished("t", "acme").await;
    });
}
