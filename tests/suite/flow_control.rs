use std::time::{Duration, Instant};

use nsq_tests::wire::{Message, Peer, bodies};
use nsq_tests::{Daemon, test};
use serde_json::json;

/// Publishes `count` messages, numbered from 0.
async fn publish_numbered(nsqd: &Daemon, topic: &str, count: usize) {
    let bodies: Vec<String> = (0..count).map(|n| n.to_string()).collect();
    nsqd.connect().await.publish_batch(topic, &bodies).await;
}

/// A consumer of t/c that has identified with these settings.
async fn consumer_with(nsqd: &Daemon, settings: serde_json::Value) -> Peer {
    let mut peer = nsqd.connect().await;
    let mut request = settings;
    request["feature_negotiation"] = json!(true);
    peer.identify(request).await;
    peer.subscribe("t", "c").await;
    peer
}

#[test]
fn nothing_is_delivered_before_rdy_and_rdy_without_a_count_means_one() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        publish_numbered(&nsqd, "t", 3).await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.nothing().await;
        consumer.line("RDY ").await;
        consumer.nothing().await;
        consumer.line("RDY").await;
        assert_eq!(consumer.message().await.text(), "0");
        consumer.nothing().await;
    });
}

#[test]
fn rdy_count_is_validated() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut consumer = nsqd.subscribe("t", "other").await;
        for (line, count) in [("RDY 2500", 2500), ("RDY 0007 extra", 7), ("RDY ", 0), ("RDY", 1)] {
            consumer.line(line).await;
            consumer.still_works().await;
            let channel = nsqd.channel("t", "other").await.expect("the channel exists");
            assert_eq!(channel.clients[0].ready_count, count, "{line:?}");
        }
        for (count, error) in [
            ("2501", "E_INVALID RDY count 2501 out of range 0-2500"),
            ("-1", "E_INVALID RDY could not parse count -1"),
            ("+1", "E_INVALID RDY could not parse count +1"),
            ("1.5", "E_INVALID RDY could not parse count 1.5"),
        ] {
            let mut consumer = nsqd.subscribe("t", "c").await;
            consumer.line(format!("RDY {count}")).await;
            consumer.refused(error).await;
        }
        // The count saturates and does not wrap around to 1.
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.line("RDY 18446744073709551617").await;
        let error = consumer.error().await;
        assert!(
            error.starts_with("E_INVALID RDY count ") && error.ends_with(" out of range 0-2500"),
            "{error}"
        );
        consumer.closed().await;
    });
}

#[test]
fn rdy_limits_in_flight_messages_and_is_not_consumed() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        publish_numbered(&nsqd, "t", 20).await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(3).await;
        let first = consumer.messages(3).await;
        consumer.nothing().await;
        consumer.finish(&first[0]).await;
        consumer.messages(1).await;
        consumer.nothing().await;
        consumer.ready(3).await;
        consumer.nothing().await;
        consumer.ready(5).await;
        let more = consumer.messages(2).await;
        consumer.nothing().await;

        // RDY is below the in-flight count: nothing is delivered until enough messages are finished.
        consumer.ready(2).await;
        for message in &first[1..] {
            consumer.finish(message).await;
        }
        consumer.finish(&more[0]).await;
        consumer.nothing().await;
        consumer.finish(&more[1]).await;
        consumer.messages(1).await;
        consumer.nothing().await;
        let channel = nsqd.channel("t", "c").await.expect("the channel exists");
        assert_eq!((channel.in_flight_count, channel.clients[0].ready_count), (2, 2));
    });
}

#[test]
fn rdy_0_stops_delivery() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(100).await;
        publish_numbered(&nsqd, "t", 1).await;
        consumer.consume(1).await;
        consumer.ready(0).await;
        consumer.still_works().await; // nsqd has executed RDY 0
        publish_numbered(&nsqd, "t", 10).await;
        consumer.nothing().await;
        consumer.ready(100).await;
        assert_eq!(consumer.consume(10).await.len(), 10);
    });
}

/// Times from publishing to receipt of 40 messages, sorted ascending.
async fn latencies(nsqd: &Daemon, consumer: &mut Peer) -> Vec<Duration> {
    let mut publisher = nsqd.connect().await;
    let mut latencies = Vec::new();
    for n in 0..40 {
        let published = Instant::now();
        publisher.publish("t", format!("{n}")).await;
        let message = consumer.message().await;
        latencies.push(published.elapsed());
        consumer.finish(&message).await;
    }
    latencies.sort();
    latencies
}

#[test]
fn output_buffer_settings_do_not_delay_messages() {
    test(async {
        for settings in [
            json!({}),
            json!({"output_buffer_timeout": 30_000}),
            json!({"output_buffer_timeout": -1}),
            json!({"output_buffer_size": -1}),
            json!({"output_buffer_size": 65_536, "output_buffer_timeout": 30_000}),
        ] {
            for ready in [1, 100] {
                let nsqd = Daemon::nsqd().start().await;
                let mut consumer = consumer_with(&nsqd, settings.clone()).await;
                consumer.ready(ready).await;
                let latencies = latencies(&nsqd, &mut consumer).await;
                let median = latencies[latencies.len() / 2];
                // NSQ's median is half of its 250 ms timer. Ours is far below 25 ms on an idle machine.
                assert!(median < Duration::from_millis(25), "{settings} RDY {ready}: {latencies:?}");
            }
        }
    });
}

#[test]
fn answer_arrives_after_the_messages_written_before_it() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        publish_numbered(&nsqd, "t", 500).await;
        let mut consumer = consumer_with(&nsqd, json!({"output_buffer_timeout": 30_000})).await;
        consumer.ready(500).await;
        nsqd.channel_until("t", "c", "all messages are in flight", |channel| channel.in_flight_count == 500)
            .await;
        consumer.line_and_body("PUB other", "x").await;
        consumer.messages(500).await;
        consumer.ok().await;
    });
}

#[test]
fn sampling_delivers_its_percentage_and_drops_the_rest() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for (percent, range) in [(50, 850..=1150), (1, 1..=60), (99, 1940..=1999)] {
            let topic = format!("sampled_{percent}");
            let mut consumer = nsqd.connect().await;
            consumer.identify(json!({"feature_negotiation": true, "sample_rate": percent})).await;
            consumer.subscribe(&topic, "c").await;
            consumer.ready(2500).await;
            publish_numbered(&nsqd, &topic, 2000).await;
            let what = "all other messages are in flight or dropped";
            let channel = nsqd
                .channel_until(&topic, "c", what, |channel| {
                    channel.message_count == 2000 && channel.depth == 0
                })
                .await;
            // Five standard deviations around the mean: about one run in millions falls outside.
            let delivered = channel.in_flight_count;
            assert!(range.contains(&delivered), "{percent} percent of 2000 gave {delivered}");
            consumer.consume(usize::try_from(delivered).expect("a small number")).await;
            consumer.nothing().await;
            nsqd.channel_until_finished(&topic, "c").await;
        }
    });
}

#[test]
fn consumer_that_does_not_read_blocks_no_other() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut stuck = nsqd.connect().await;
        stuck.identify(json!({"feature_negotiation": true, "heartbeat_interval": 1000})).await;
        stuck.subscribe("t", "stuck").await;
        stuck.ready(2500).await;

        // Far more than socket buffers hold, so that writing to the consumer blocks.
        let body = vec![b'x'; 100_000];
        let mut publisher = nsqd.connect().await;
        let mut healthy = nsqd.subscribe("t", "healthy").await;
        healthy.ready(10).await;
        for _ in 0..400 {
            publisher.publish("t", &body).await;
            healthy.consume(1).await;
        }
        nsqd.channel_until_finished("t", "healthy").await;

        // nsqd closes the connection and redelivers its messages to another consumer of the channel.
        nsqd.channel_until("t", "stuck", "the stuck consumer is closed", |channel| channel.client_count == 0)
            .await;
        let mut another = nsqd.subscribe("t", "stuck").await;
        another.ready(100).await;
        another.consume(400).await;
        nsqd.channel_until_finished("t", "stuck").await;
        drop(stuck);
    });
}

#[test]
fn finishing_works_while_the_consumer_does_not_read() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let body = vec![b'x'; 100_000];
        let mut publisher = nsqd.connect().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(10).await;
        publisher.publish("t", b"first").await;
        let first = consumer.message().await;
        consumer.ready(2500).await;
        for _ in 0..300 {
            publisher.publish("t", &body).await;
        }
        // Writing to the consumer blocks by now; nsqd must still read its FIN.
        consumer.finish(&first).await;
        let finished = |channel: &nsq_tests::stats::Channel| channel.clients[0].finish_count == 1;
        nsqd.channel_until("t", "c", "the first message is finished", finished).await;
        let rest: Vec<Message> = consumer.consume(300).await;
        assert!(rest.iter().all(|message| message.body == body));
        nsqd.channel_until_finished("t", "c").await;
    });
}

#[test]
fn many_messages_flow_in_order_to_one_consumer() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let published: Vec<String> = (0..30_000).map(|n| format!("message number {n}")).collect();
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(2500).await;
        let mut publisher = nsqd.connect().await;
        let publishing = async {
            for chunk in published.chunks(500) {
                publisher.publish_batch("t", chunk).await;
            }
        };
        let ((), consumed) = tokio::join!(publishing, consumer.consume(30_000));
        assert!(bodies(&consumed) == published, "every message arrives once, in order");
        nsqd.channel_until_finished("t", "c").await;
    });
}
