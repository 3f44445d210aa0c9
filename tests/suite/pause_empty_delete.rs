use std::time::Duration;

use nsq_tests::wire::bodies;
use nsq_tests::{Daemon, test};

#[test]
fn a_paused_topic_holds_messages_and_unpausing_releases_them() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(10).await;
        nsqd.publish("t", "before").await;
        let before = consumer.message().await;

        nsqd.admin("/topic/pause?topic=t").await;
        let mut publisher = nsqd.connect().await;
        publisher.publish("t", "held").await;
        publisher.publish_deferred("t", Duration::from_millis(1), "held and deferred").await;
        consumer.nothing().await;
        let topic = nsqd.topic("t").await.expect("the topic exists");
        assert!(topic.paused);
        assert_eq!((topic.depth, topic.channels[0].depth), (2, 0));

        // The channel itself is not paused.
        consumer.requeue(&before, Duration::from_millis(100)).await;
        assert_eq!(consumer.message().await.id, before.id);

        // A channel created meanwhile also gets the held messages: they are not released yet.
        let mut late = nsqd.subscribe("t", "late").await;
        late.ready(10).await;
        nsqd.admin("/topic/unpause?topic=t").await;
        let mut seen = bodies(&consumer.consume(2).await);
        seen.sort();
        assert_eq!(seen, ["held", "held and deferred"]);
        late.consume(2).await;
    });
}

#[test]
fn paused_channel_delivers_nothing_until_it_is_unpaused() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut present = nsqd.subscribe("t", "c").await;
        present.ready(1).await;
        nsqd.publish("t", "in flight").await;
        let in_flight = present.message().await;

        nsqd.admin("/channel/pause?topic=t&channel=c").await;
        assert!(nsqd.channel("t", "c").await.expect("the channel exists").paused);
        nsqd.publish("t", "held").await;
        let mut newcomer = nsqd.subscribe("t", "c").await;
        newcomer.ready(10).await;
        present.requeue(&in_flight, Duration::ZERO).await;
        present.nothing().await;
        newcomer.nothing().await;
        nsqd.channel_until("t", "c", "both messages are held", |channel| channel.depth == 2).await;

        // Other channels of the topic are not affected.
        let mut other = nsqd.subscribe("t", "other").await;
        other.ready(10).await;
        nsqd.publish("t", "for the other").await;
        assert_eq!(other.message().await.text(), "for the other");

        present.ready(0).await;
        nsqd.admin("/channel/unpause?topic=t&channel=c").await;
        let mut seen = bodies(&newcomer.consume(3).await);
        seen.sort();
        assert_eq!(seen, ["for the other", "held", "in flight"], "without a new RDY");
    });
}

#[test]
fn emptying_a_channel_drops_all_its_messages() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        let mut other = nsqd.subscribe("t", "other").await;
        let mut publisher = nsqd.connect().await;
        publisher.publish_batch("t", &["1", "2", "3"]).await;
        publisher.publish_deferred("t", Duration::from_millis(300), "deferred").await;
        let in_flight = consumer.message().await;
        nsqd.channel_until("t", "c", "the channel has all messages", |channel| channel.unfinished() == 4)
            .await;

        nsqd.admin("/channel/empty?topic=t&channel=c").await;
        let channel = nsqd.channel("t", "c").await.expect("the channel exists");
        assert_eq!((channel.unfinished(), channel.clients[0].in_flight_count), (0, 0));
        consumer.finish(&in_flight).await;
        assert!(consumer.error().await.ends_with("failed ID not in flight"));
        consumer.nothing_for(Duration::from_millis(600)).await;
        publisher.publish("t", "after").await;
        assert_eq!(consumer.message().await.text(), "after", "the capacity is free again");

        other.ready(10).await;
        assert_eq!(other.consume(5).await.len(), 5, "the other channel kept its messages");
    });
}

#[test]
fn emptying_a_topic_drops_only_unreleased_messages() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        nsqd.publish("t", "released").await;
        nsqd.channel_until("t", "c", "released", |channel| channel.depth == 1).await;
        nsqd.admin("/topic/pause?topic=t").await;
        nsqd.publish("t", "held").await;
        nsqd.admin("/topic/empty?topic=t").await;
        assert_eq!(nsqd.topic("t").await.map(|topic| topic.depth), Some(0));
        nsqd.admin("/topic/unpause?topic=t").await;
        nsqd.publish("t", "later").await;
        consumer.ready(10).await;
        assert_eq!(bodies(&consumer.consume(2).await), ["released", "later"]);
        consumer.nothing().await;
    });
}

#[test]
fn deleting_a_channel_closes_its_consumers_and_drops_its_messages() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        let mut other = nsqd.subscribe("t", "other").await;
        let mut publisher = nsqd.connect().await;
        publisher.publish("t", "x").await;
        nsqd.admin("/channel/delete?topic=t&channel=c").await;
        consumer.closed().await;
        assert!(nsqd.channel("t", "c").await.is_none());
        publisher.publish("t", "y").await;
        other.ready(10).await;
        assert_eq!(bodies(&other.consume(2).await), ["x", "y"]);

        let mut later = nsqd.subscribe("t", "c").await;
        later.ready(10).await;
        later.nothing().await;
    });
}

#[test]
fn deleting_a_topic_closes_its_consumers_and_keeps_publishers() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut one = nsqd.subscribe("t", "one").await;
        let mut two = nsqd.subscribe("t", "two").await;
        let mut publisher = nsqd.connect().await;
        publisher.publish("t", "deleted").await;
        nsqd.admin("/topic/delete?topic=t").await;
        one.closed().await;
        two.closed().await;
        assert!(nsqd.topic("t").await.is_none());

        publisher.publish("t", "after").await;
        let mut consumer = nsqd.subscribe("t", "one").await;
        consumer.ready(10).await;
        assert_eq!(bodies(&consumer.consume(1).await), ["after"]);
        consumer.nothing().await;
    });
}

#[test]
fn deleted_topics_and_channels_stay_deleted_after_a_restart() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        for topic in ["kept", "deleted"] {
            nsqd.publish(topic, "x").await;
            for channel in ["kept", "deleted"] {
                nsqd.subscribe(topic, channel).await;
            }
        }
        nsqd.admin("/topic/delete?topic=deleted").await;
        nsqd.admin("/channel/delete?topic=kept&channel=deleted").await;
        nsqd.kill().await;
        nsqd.restart().await;
        assert!(nsqd.topic("deleted").await.is_none());
        let kept = nsqd.topic("kept").await.expect("the topic exists");
        assert_eq!(kept.channels.len(), 1);
        assert_eq!(kept.channels[0].depth, 1);
    });
}

#[test]
fn emptied_channel_stays_empty_after_a_kill() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        nsqd.subscribe("t", "c").await;
        nsqd.connect().await.publish_batch("t", &["1", "2", "3"]).await;
        nsqd.admin("/channel/empty?topic=t&channel=c").await;
        nsqd.publish("t", "after").await;
        nsqd.kill().await;
        nsqd.restart().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(10).await;
        assert_eq!(bodies(&consumer.consume(1).await), ["after"]);
        consumer.nothing().await;
    });
}
