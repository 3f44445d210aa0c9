use std::time::{Duration, Instant};

use nsq_tests::{Daemon, test};

/// Allows for clock differences between two processes and for rounding to milliseconds.
const TOLERANCE: Duration = Duration::from_millis(5);

#[test]
fn deferred_message_arrives_when_due_in_every_channel_with_the_same_id() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut consumers = Vec::new();
        for channel in ["one", "two"] {
            let mut consumer = nsqd.subscribe("t", channel).await;
            consumer.ready(10).await;
            consumers.push(consumer);
        }
        let delay = Duration::from_millis(700);
        let published = Instant::now();
        nsqd.connect().await.publish_deferred("t", delay, "x").await;
        for channel in ["one", "two"] {
            let channel = nsqd.channel("t", channel).await.expect("the channel exists");
            assert_eq!((channel.deferred_count, channel.depth, channel.message_count), (1, 0, 1));
        }
        let mut ids = Vec::new();
        for consumer in &mut consumers {
            let message = consumer.message().await;
            let waited = published.elapsed();
            assert!(waited + TOLERANCE >= delay, "early, after {waited:?}");
            assert!(waited < Duration::from_secs(5), "late, after {waited:?}");
            assert_eq!((message.text(), message.attempts), ("x".into(), 1));
            ids.push(message.id);
            consumer.finish(&message).await;
        }
        assert_eq!(ids[0], ids[1]);
        nsqd.channel_until_finished("t", "one").await;
    });
}

#[test]
fn deferred_messages_arrive_in_due_order_and_delay_no_others() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(10).await;
        let mut publisher = nsqd.connect().await;
        for delay in [900, 300, 600] {
            publisher.publish_deferred("t", Duration::from_millis(delay), format!("{delay}")).await;
        }
        publisher.publish("t", "at once").await;
        let mut order = Vec::new();
        for message in consumer.consume(4).await {
            order.push(message.text());
        }
        assert_eq!(order, ["at once", "300", "600", "900"]);
    });
}

#[test]
fn requeue_with_a_delay_defers_the_message() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "x").await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        let message = consumer.message().await;
        let delay = Duration::from_millis(500);
        let requeued = Instant::now();
        consumer.requeue(&message, delay).await;
        nsqd.channel_until("t", "c", "the message is deferred", |channel| channel.deferred_count == 1).await;
        // The requeued message occupies no capacity of RDY 1.
        nsqd.publish("t", "another").await;
        consumer.consume(1).await;
        let again = consumer.message().await;
        let waited = requeued.elapsed();
        assert!(waited + TOLERANCE >= delay, "early, after {waited:?}");
        assert_eq!((again.id, again.attempts), (message.id, 2));
    });
}

#[test]
fn a_requeue_delay_above_the_maximum_is_clamped() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--max-req-timeout=500ms").start().await;
        nsqd.publish("t", "x").await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        for delay in ["60000", "18446744073709551617", "9223372036854775807"] {
            let message = consumer.message().await;
            let requeued = Instant::now();
            consumer.line(format!("REQ {} {delay}", message.id_text())).await;
            nsqd.channel_until("t", "c", "the message is deferred", |channel| channel.deferred_count == 1)
                .await;
            nsqd.channel_until("t", "c", "the message is in flight again", |channel| {
                channel.in_flight_count == 1
            })
            .await;
            let waited = requeued.elapsed();
            assert!(
                waited + TOLERANCE >= Duration::from_millis(500),
                "REQ {delay} came back after {waited:?}"
            );
        }
    });
}

#[test]
fn deferred_publish_without_a_channel_is_delivered_to_the_first_channel() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let published = Instant::now();
        nsqd.connect().await.publish_deferred("t", Duration::from_millis(600), "x").await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        assert_eq!(consumer.message().await.text(), "x");
        assert!(published.elapsed() + TOLERANCE >= Duration::from_millis(600));
    });
}

#[test]
fn deferral_works_without_a_memory_queue() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--mem-queue-size=0").start().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(100).await;
        let published = Instant::now();
        let mut publisher = nsqd.connect().await;
        for n in 0..20 {
            publisher.publish_deferred("t", Duration::from_millis(800), format!("{n}")).await;
        }
        consumer.message().await;
        let waited = published.elapsed();
        assert!(waited + TOLERANCE >= Duration::from_millis(800), "early, after {waited:?}");
        consumer.messages(19).await;
    });
}

#[test]
fn many_deferred_messages_in_many_channels_are_all_on_time() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut consumers = Vec::new();
        for n in 0..50 {
            let mut consumer = nsqd.subscribe("t", &format!("c{n}")).await;
            consumer.ready(100).await;
            consumers.push(consumer);
        }
        let delay = Duration::from_millis(1000);
        let published = Instant::now();
        let mut publisher = nsqd.connect().await;
        for n in 0..20 {
            publisher.publish_deferred("t", delay, format!("{n}")).await;
        }
        for consumer in &mut consumers {
            consumer.consume(1).await;
            assert!(published.elapsed() + TOLERANCE >= delay);
            consumer.consume(19).await;
        }
        // NSQ's queue scan, which samples channels, would take several seconds longer.
        assert!(published.elapsed() < Duration::from_secs(6), "{:?}", published.elapsed());
    });
}
