//! `max_depth`, `max_bytes`, `overflow` and `idle_expiry`.

use std::time::Duration;

use nsq_tests::foreign::{self, Library};
use nsq_tests::prometheus::Page;
use nsq_tests::stats::until_equal;
use nsq_tests::wire::{Frame, bodies, command};
use nsq_tests::{Daemon, http, test, test_within, wait};
use serde_json::Value;

const FULL: &str = "E_PUB_FAILED topic full (channel billing)";

/// Starts an nsqd with the topic `orders` and these channels, each with settings.
async fn start(channels: &[(&str, &str)]) -> Daemon {
    let nsqd = Daemon::nsqd().start().await;
    nsqd.admin("/topic/create?topic=orders").await;
    for (channel, settings) in channels {
        nsqd.admin(&format!("/channel/create?topic=orders&channel={channel}")).await;
        if !settings.is_empty() {
            nsqd.admin(&format!("/channel/set?topic=orders&channel={channel}&{settings}")).await;
        }
    }
    nsqd
}

async fn field(nsqd: &Daemon, channel: &str, field: &str) -> Value {
    let stats = nsqd.get_json(&format!("/stats?format=json&topic=orders&channel={channel}")).await;
    stats["topics"][0]["channels"][0][field].clone()
}

async fn depth(nsqd: &Daemon, topic: &str, channel: &str) -> u64 {
    nsqd.channel(topic, channel).await.map_or(0, |channel| channel.depth)
}

fn numbers(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|number| number.to_string()).collect()
}

/// Everything in the channel, which is finished.
async fn consume(nsqd: &Daemon, topic: &str, channel: &str, count: usize) -> Vec<String> {
    let mut consumer = nsqd.subscribe(topic, channel).await;
    consumer.ready(2500).await;
    let messages = consumer.consume(count).await;
    nsqd.channel_until_finished(topic, channel).await;
    assert_eq!(consumer.barrier().await.len(), 0);
    bodies(&messages)
}

#[test]
fn a_full_channel_refuses_publishes_and_the_connection_stays() {
    test(async {
        let nsqd = start(&[("billing", "max_depth=4"), ("audit", "")]).await;
        let mut producer = nsqd.connect().await;
        producer.publish_batch("orders", &["1", "2", "3"]).await;
        // A batch is refused as a whole.
        producer.line_and_body("MPUB orders", nsq_tests::wire::batch(&["a", "b"])).await;
        assert_eq!(producer.error().await, "E_MPUB_FAILED topic full (channel billing)");
        producer.publish("orders", "4").await;
        producer.line_and_body("PUB orders", "5").await;
        assert_eq!(producer.error().await, FULL);
        producer.line_and_body("DPUB orders 1000", "5").await;
        assert_eq!(producer.error().await, "E_DPUB_FAILED topic full (channel billing)");
        producer.publish("other", "x").await;
        let answer = nsqd.post("/pub?topic=orders", "5").await;
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
        answer.expect_error(429, "TOPIC_FULL: topic full (channel billing)");
        nsqd.post("/mpub?topic=orders", "5\n6").await.expect(429);
        assert_eq!(field(&nsqd, "billing", "is_full").await, true);
        assert_eq!(field(&nsqd, "audit", "is_full").await, Value::Null);
        let metrics = Page::parse(&nsqd.get("/metrics").await.text());
        assert_eq!(metrics.value(r#"nsq_channel_full{topic="orders",channel="billing"}"#), 1.0);
        assert_eq!(metrics.value("nsq_publishes_over_bound_total"), 5.0);
        assert_eq!(metrics.value("nsq_publishes_refused_total"), 0.0);
        assert_eq!(consume(&nsqd, "orders", "audit", 4).await, ["1", "2", "3", "4"]);
        assert_eq!(consume(&nsqd, "orders", "billing", 4).await, ["1", "2", "3", "4"]);
        producer.publish("orders", "7").await;
        assert_eq!(field(&nsqd, "billing", "is_full").await, Value::Null);
    });
}

#[test]
fn in_flight_and_deferred_messages_count_and_room_comes_back_below_95_percent() {
    test(async {
        let nsqd = start(&[("billing", "max_depth=20")]).await;
        let mut producer = nsqd.connect().await;
        producer.publish_deferred("orders", Duration::from_secs(3000), "deferred").await;
        producer.publish_batch("orders", &numbers(0, 19)).await;
        let mut consumer = nsqd.subscribe("orders", "billing").await;
        consumer.ready(19).await;
        let messages = consumer.messages(19).await;
        let refused = async || {
            let mut producer = nsqd.connect().await;
            producer.line_and_body("PUB orders", "x").await;
            matches!(producer.frame().await, Frame::Error(_))
        };
        assert!(refused().await);
        consumer.finish(&messages[0]).await;
        consumer.barrier().await;
        assert!(refused().await, "19 of 20 are 95 percent");
        consumer.finish(&messages[1]).await;
        consumer.barrier().await;
        assert!(!refused().await);
    });
}

#[test]
fn pipelined_publishes_are_accepted_as_far_as_there_is_room() {
    test(async {
        let nsqd = start(&[("billing", "max_depth=4")]).await;
        let mut producer = nsqd.connect().await;
        let commands: Vec<u8> =
            (0..10).flat_map(|number| command("PUB orders", number.to_string())).collect();
        producer.send([commands, command("PUB other", "x")].concat()).await;
        for _ in 0..4 {
            producer.ok().await;
        }
        for _ in 0..6 {
            assert_eq!(producer.error().await, FULL);
        }
        producer.ok().await;
        assert_eq!(consume(&nsqd, "orders", "billing", 4).await, ["0", "1", "2", "3"]);
    });
}

#[test]
fn concurrent_producers_never_exceed_the_bound() {
    test(async {
        let nsqd = start(&[("billing", "max_depth=100"), ("audit", "max_depth=1000000")]).await;
        let mut producers = Vec::new();
        for _ in 0..8 {
            let mut producer = nsqd.connect().await;
            producers.push(tokio::spawn(async move {
                let mut accepted = 0;
                for number in 0..30 {
                    producer.line_and_body("PUB orders", number.to_string()).await;
                    accepted += u64::from(matches!(producer.frame().await, Frame::Response(_)));
                }
                accepted
            }));
        }
        let mut accepted = 0;
        for producer in producers {
            accepted += producer.await.expect("the producer ends");
        }
        assert_eq!(accepted, 100);
        assert_eq!(depth(&nsqd, "orders", "billing").await, 100);
    });
}

#[test]
fn a_channel_is_still_full_after_a_kill() {
    test(async {
        let mut nsqd = start(&[("billing", "max_bytes=10KiB"), ("audit", "")]).await;
        let body = vec![b'x'; 1000];
        nsqd.connect().await.publish_batch("orders", &[&body[..]; 10]).await;
        nsqd.kill().await;
        nsqd.restart().await;
        let mut producer = nsqd.connect().await;
        producer.line_and_body("PUB orders", &body).await;
        assert_eq!(producer.error().await, FULL);
        nsqd.admin("/channel/set?topic=orders&channel=billing&max_bytes=20KiB").await;
        producer.publish("orders", &body).await;
        nsqd.admin("/channel/delete?topic=orders&channel=billing").await;
        producer.publish_batch("orders", &vec![&body[..]; 30]).await;
    });
}

#[test]
fn a_topic_bounds_all_its_channels_and_what_it_holds_back() {
    test(async {
        let nsqd = start(&[]).await;
        nsqd.admin("/topic/set?topic=orders&max_depth=3").await;
        let mut producer = nsqd.connect().await;
        producer.publish_batch("orders", &["1", "2", "3"]).await;
        producer.line_and_body("PUB orders", "4").await;
        assert_eq!(producer.error().await, "E_PUB_FAILED topic full (messages held back)");
        nsqd.admin("/channel/create?topic=orders&channel=billing").await;
        producer.line_and_body("PUB orders", "4").await;
        assert_eq!(producer.error().await, FULL);
        let batch = nsq_tests::wire::batch(&["a", "b", "c", "d"]);
        producer.line_and_body("MPUB orders", batch).await;
        assert_eq!(
            producer.error().await,
            "E_MPUB_FAILED topic full (channel billing): the batch alone exceeds max_depth=3"
        );
        nsqd.admin("/channel/set?topic=orders&channel=billing&max_depth=4").await;
        producer.publish("orders", "4").await;
        let explained = nsqd.get_json("/policy/explain?topic=orders&channel=new").await;
        let settings = explained["settings"].as_array().expect("a list").clone();
        let max_depth = settings.iter().find(|setting| setting["name"] == "max_depth").expect("it is there");
        assert_eq!((&max_depth["value"], &max_depth["origin"]), (&"3".into(), &"topic".into()));
    });
}

#[test]
fn the_oldest_messages_are_dropped_in_one_channel_only() {
    test(async {
        let mut nsqd = start(&[("billing", "max_depth=3&overflow=drop_oldest"), ("audit", "")]).await;
        let mut consumer = nsqd.subscribe("orders", "billing").await;
        let mut producer = nsqd.connect().await;
        producer.publish("orders", "0").await;
        consumer.ready(1).await;
        let in_flight = consumer.message().await;
        consumer.ready(0).await;
        for number in numbers(1, 10) {
            producer.publish("orders", number).await;
        }
        until_equal("messages are dropped", 2, async || depth(&nsqd, "orders", "billing").await).await;
        assert_eq!(field(&nsqd, "billing", "overflow_count").await, 7);
        nsqd.log().expect("oldest messages beyond max_depth=3").await;
        let metrics = Page::parse(&nsqd.get("/metrics").await.text());
        let series = r#"nsq_channel_overflow_total{topic="orders",channel="billing"}"#;
        assert_eq!(metrics.value(series), 7.0);
        consumer.finish(&in_flight).await;
        consumer.barrier().await;
        producer.publish("orders", "10").await;
        drop(consumer);
        assert_eq!(depth(&nsqd, "orders", "audit").await, 11);
        nsqd.kill().await;
        nsqd.restart().await;
        assert_eq!(consume(&nsqd, "orders", "billing", 3).await, ["8", "9", "10"]);
        assert_eq!(consume(&nsqd, "orders", "audit", 11).await, numbers(0, 11));
    });
}

#[test]
fn messages_are_dropped_by_their_bytes() {
    test(async {
        let nsqd = start(&[("billing", "max_bytes=1MiB&overflow=drop_oldest")]).await;
        let body = vec![b'x'; 10 * 1024];
        for _ in 0..30 {
            nsqd.connect().await.publish_batch("orders", &[&body[..]; 10]).await;
        }
        let left = depth(&nsqd, "orders", "billing").await;
        assert!((95..=103).contains(&left), "{left} messages of 10 KiB are left");
    });
}

#[test]
fn messages_beyond_the_bound_become_dead_letters() {
    test(async {
        let settings = "max_depth=3&overflow=dead_letter&dead_letter=%7Btopic%7D.overflow";
        let mut nsqd = start(&[("billing", settings), ("audit", "")]).await;
        nsqd.connect().await.publish_batch("orders", &numbers(0, 1000)).await;
        until_equal("dead letters", 997, async || depth(&nsqd, "orders.overflow", "redrive").await).await;
        nsqd.kill().await;
        nsqd.restart().await;
        assert_eq!(depth(&nsqd, "orders.overflow", "redrive").await, 997);
        let dead = nsqd.get_json("/topic/dead?topic=orders.overflow").await;
        assert_eq!(
            (&dead["groups"][0]["reason"], &dead["groups"][0]["count"]),
            (&"overflow".into(), &997.into())
        );
        assert_eq!(consume(&nsqd, "orders", "billing", 3).await, numbers(997, 1000));
        assert_eq!(depth(&nsqd, "orders", "audit").await, 1000);
    });
}

#[test]
fn a_topic_without_channels_drops_the_oldest_messages() {
    test(async {
        let mut nsqd = start(&[]).await;
        nsqd.admin("/topic/set?topic=orders&max_depth=3&overflow=drop_oldest").await;
        for number in numbers(0, 10) {
            nsqd.publish("orders", number).await;
        }
        let topic = &nsqd.get_json("/stats?format=json&topic=orders").await["topics"][0];
        assert_eq!((&topic["depth"], &topic["overflow_count"]), (&3.into(), &7.into()));
        nsqd.kill().await;
        nsqd.restart().await;
        assert_eq!(consume(&nsqd, "orders", "billing", 3).await, numbers(7, 10));
    });
}

#[test]
fn a_channel_without_consumers_is_emptied_or_deleted() {
    test(async {
        let channels = [
            ("emptied", "idle_expiry=2s"),
            ("deleted", "idle_expiry=2s%20delete"),
            ("used", "idle_expiry=2s%20delete"),
        ];
        let nsqd = start(&channels).await;
        let mut consumer = nsqd.subscribe("orders", "used").await;
        nsqd.connect().await.publish_batch("orders", &numbers(0, 5)).await;
        assert_eq!(depth(&nsqd, "orders", "emptied").await, 5);
        wait::until("the channel is deleted", async || {
            wait::when(nsqd.channel("orders", "deleted").await.is_none(), |is_gone| *is_gone)
        })
        .await;
        until_equal("the channel is emptied", 0, async || depth(&nsqd, "orders", "emptied").await).await;
        nsqd.log().expect("CHANNEL(orders/deleted): deleted, no consumer for 2s").await;
        nsqd.log().expect("CHANNEL(orders/emptied): emptied, no consumer for 2s").await;
        consumer.ready(5).await;
        assert_eq!(bodies(&consumer.consume(5).await), numbers(0, 5));
    });
}

#[test]
fn wrong_values_are_refused_with_an_example() {
    test(async {
        let nsqd = start(&[("billing", "")]).await;
        for (settings, text) in [
            (
                "max_depth=-1",
                "max_depth=-1: not a number; expected a number from 0 (off) to 1000000000000, such as max_depth=1000000",
            ),
            (
                "max_bytes=1GB",
                "max_bytes=1GB: not a number of bytes; expected a number of bytes, or 0 for no limit, such as max_bytes=10GiB",
            ),
            (
                "overflow=drop",
                "overflow=drop: it is none of them; expected reject, drop_oldest or dead_letter, such as overflow=drop_oldest",
            ),
            (
                "idle_expiry=1h%20remove",
                "idle_expiry=1h remove: \"remove\" is neither empty nor delete; expected a duration from 1s to 3650d and \
                 empty (the default) or delete, or 0 for never, such as idle_expiry=7d delete",
            ),
        ] {
            let target = format!("/channel/set?topic=orders&channel=billing&max_depth=5&{settings}");
            let target = target.replace("max_depth=5&max_depth", "max_depth");
            let answer = http::request(nsqd.http(), "POST", &target, b"").await;
            assert_eq!(answer.status, 400);
            assert_eq!(answer.json()["message"], format!("INVALID_SETTING: {text}"));
        }
        nsqd.connect().await.publish_batch("orders", &numbers(0, 10)).await;
    });
}

#[test]
fn unmodified_clients_see_refused_publishes() {
    test_within(Duration::from_secs(120), async {
        if foreign::left_out() {
            return;
        }
        let nsqd = start(&[("billing", "max_depth=3"), ("newest", "max_depth=2&overflow=drop_oldest")]).await;
        let address = nsqd.tcp().to_string();
        for library in Library::ALL {
            let arguments = |count| ["--nsqd", &address, "--topic", "orders", "--count", count];
            let published = library.run("publish", &arguments("3")).finish().await;
            assert_eq!(published.len(), 3, "{library:?}");
            let refused = library.run("publish", &arguments("1")).next("error").await;
            let error = refused["error"].as_str().expect("a text").to_owned();
            assert!(error.contains("topic full (channel billing)"), "{library:?}: {error}");
            for (channel, count, expected) in [
                ("billing", "3", &["message-0", "message-1", "message-2"][..]),
                ("newest", "2", &["message-1", "message-2"][..]),
            ] {
                let arguments =
                    ["--nsqd", &address, "--topic", "orders", "--channel", channel, "--count", count];
                let mut consumer = library.run("consume", &arguments);
                assert_eq!(consumer.bodies(expected.len()).await, expected, "{library:?}");
                consumer.finish().await;
                nsqd.channel_until_finished("orders", channel).await;
            }
        }
    });
}

#[test]
fn a_bound_of_the_topic_refuses_nothing_that_its_channels_take() {
    test(async {
        let nsqd = start(&[("moves", ""), ("unbounded", "max_depth=0")]).await;
        nsqd.admin("/topic/set?topic=orders&max_depth=3&overflow=dead_letter").await;
        nsqd.connect().await.publish_batch("orders", &numbers(0, 5)).await;
        until_equal("dead letters", 2, async || depth(&nsqd, "orders.dead", "redrive").await).await;
        assert_eq!(depth(&nsqd, "orders", "moves").await, 3);
        assert_eq!(depth(&nsqd, "orders", "unbounded").await, 5);
        // Held back, they count.
        nsqd.admin("/topic/pause?topic=orders").await;
        let mut producer = nsqd.connect().await;
        producer.publish_batch("orders", &numbers(5, 8)).await;
        producer.line_and_body("PUB orders", "8").await;
        assert_eq!(producer.error().await, "E_PUB_FAILED topic full (messages held back)");
        nsqd.admin("/topic/unpause?topic=orders").await;
        producer.publish("orders", "8").await;
        until_equal("dead letters", 6, async || depth(&nsqd, "orders.dead", "redrive").await).await;
    });
}

#[test]
fn without_a_valid_name_for_dead_letters_nothing_is_dropped() {
    test(async {
        let topic = "t".repeat(62);
        let nsqd = Daemon::nsqd().start().await;
        nsqd.admin(&format!("/topic/create?topic={topic}")).await;
        nsqd.admin(&format!("/channel/create?topic={topic}&channel=c")).await;
        let target = format!("/channel/set?topic={topic}&channel=c&max_depth=2&overflow=dead_letter");
        let refused = nsqd.post(&target, "").await.expect(400).json();
        assert!(refused["message"].as_str().expect("a text").contains("more than 64 bytes"), "{refused}");
        nsqd.admin(&format!("/topic/set?topic={topic}&max_depth=2&overflow=dead_letter")).await;
        nsqd.connect().await.publish_batch(&topic, &numbers(0, 2)).await;
        nsqd.post(&format!("/pub?topic={topic}"), "x").await.expect(429);
        assert_eq!(depth(&nsqd, &topic, "c").await, 2);
    });
}

#[test]
fn many_dead_letters_of_one_channel_do_not_hold_up_those_of_others() {
    test(async {
        let nsqd = start(&[("busy", "max_depth=10&overflow=dead_letter")]).await;
        nsqd.admin("/topic/create?topic=other").await;
        nsqd.admin("/channel/create?topic=other&channel=c").await;
        nsqd.admin("/channel/set?topic=other&channel=c&max_depth=1&overflow=dead_letter").await;
        for _ in 0..20 {
            nsqd.connect().await.publish_batch("orders", &numbers(0, 1000)).await;
        }
        nsqd.connect().await.publish_batch("other", &["a", "b"]).await;
        until_equal("a dead letter", 1, async || depth(&nsqd, "other.dead", "redrive").await).await;
        until_equal("all others", 10, async || depth(&nsqd, "orders", "busy").await).await;
    });
}
