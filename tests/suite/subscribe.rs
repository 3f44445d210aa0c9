use std::collections::HashSet;

use nsq_tests::wire::{Message, bodies};
use nsq_tests::{Daemon, test};

#[test]
fn sub_checks_its_parameters() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for (line, error) in [
            ("SUB", "E_INVALID SUB insufficient number of parameters"),
            ("SUB t", "E_INVALID SUB insufficient number of parameters"),
            ("SUB a:b c", "E_BAD_TOPIC SUB topic name \"a:b\" is not valid"),
            ("SUB t a:b", "E_BAD_CHANNEL SUB channel name \"a:b\" is not valid"),
            ("SUB t ", "E_BAD_CHANNEL SUB channel name \"\" is not valid"),
        ] {
            let mut peer = nsqd.connect().await;
            peer.line(line).await;
            peer.refused(error).await;
        }
        assert!(nsqd.topics().await.is_empty(), "a refused SUB creates nothing");
    });
}

#[test]
fn the_backlog_of_a_topic_goes_to_its_first_channel_only() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.connect().await.publish_batch("t", &["1", "2", "3"]).await;
        let mut first = nsqd.subscribe("t", "first").await;
        first.ready(10).await;
        assert_eq!(bodies(&first.consume(3).await), ["1", "2", "3"]);

        let mut second = nsqd.subscribe("t", "second").await;
        second.ready(10).await;
        second.nothing().await;
        nsqd.publish("t", "4").await;
        assert_eq!(second.message().await.text(), "4");
        assert_eq!(first.message().await.text(), "4");
    });
}

#[test]
fn each_channel_gets_each_message_once_with_the_same_id_and_timestamp() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut one = nsqd.subscribe("t", "one").await;
        let mut two = nsqd.subscribe("t", "two").await;
        one.ready(100).await;
        two.ready(100).await;
        let published: Vec<String> = (0..100).map(|n| format!("message {n}")).collect();
        nsqd.connect().await.publish_batch("t", &published).await;
        let (at_one, at_two) = (one.consume(100).await, two.consume(100).await);
        let all = |messages: &[Message]| -> Vec<_> {
            messages.iter().map(|message| (message.id, message.timestamp, message.body.clone())).collect()
        };
        assert_eq!(all(&at_one), all(&at_two));
        assert_eq!(bodies(&at_one), published);
        one.nothing().await;
        two.nothing().await;
    });
}

#[test]
fn a_message_published_after_the_ok_of_sub_reaches_that_channel() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut keeper = nsqd.subscribe("t", "keeper").await;
        keeper.ready(2500).await;
        let mut publisher = nsqd.connect().await;
        for n in 0..50 {
            let mut consumer = nsqd.subscribe("t", &format!("c{n}")).await;
            publisher.publish("t", format!("{n}")).await;
            consumer.ready(1).await;
            assert_eq!(consumer.message().await.text(), n.to_string());
        }
    });
}

#[test]
fn a_message_goes_to_one_consumer_of_a_channel_and_work_is_shared() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut consumers = Vec::new();
        for _ in 0..4 {
            let mut consumer = nsqd.subscribe("t", "c").await;
            consumer.ready(1).await;
            consumers.push(consumer);
        }
        let mut publisher = nsqd.connect().await;
        let mut seen = HashSet::new();
        for round in 0..25 {
            // With RDY 1, four unfinished messages must be in flight to four different consumers.
            for n in 0..4 {
                publisher.publish("t", format!("{round}/{n}")).await;
            }
            let mut messages = Vec::new();
            for consumer in &mut consumers {
                messages.push(consumer.message().await);
            }
            for (consumer, message) in consumers.iter_mut().zip(messages) {
                assert!(seen.insert(message.id), "delivered twice: {message:?}");
                // Not earlier: a consumer that has finished could take another consumer's message.
                consumer.finish(&message).await;
            }
        }
        nsqd.channel_until_finished("t", "c").await;
    });
}

#[test]
fn idle_consumers_are_filled_up_to_their_rdy_count() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut consumers = Vec::new();
        for _ in 0..3 {
            let mut consumer = nsqd.subscribe("t", "c").await;
            consumer.ready(100).await;
            consumers.push(consumer);
        }
        let mut publisher = nsqd.connect().await;
        for n in 0..300 {
            publisher.publish("t", format!("{n}")).await;
        }
        nsqd.channel_until("t", "c", "all messages are in flight", |channel| channel.in_flight_count == 300)
            .await;
        let channel = nsqd.channel("t", "c").await.expect("the channel exists");
        let shares: Vec<u64> = channel.clients.iter().map(|client| client.in_flight_count).collect();
        assert_eq!(shares.iter().sum::<u64>(), 300);
        assert!(
            shares.iter().all(|share| *share == 100),
            "each consumer has exactly its RDY count: {shares:?}"
        );
    });
}

#[test]
fn consumers_of_a_channel_can_be_limited() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--max-channel-consumers=2").start().await;
        let mut first = nsqd.subscribe("t", "c").await;
        let second = nsqd.subscribe("t", "c").await;
        let refused = "E_SUB_FAILED SUB failed consumers for t:c exceeds limit of 2";
        let mut third = nsqd.connect().await;
        third.line("SUB t c").await;
        third.refused(refused).await;

        // CLS does not free a slot; disconnecting does.
        first.line("CLS").await;
        assert_eq!(first.response().await, "CLOSE_WAIT");
        let mut third = nsqd.connect().await;
        third.line("SUB t c").await;
        third.refused(refused).await;
        drop(second);
        nsqd.channel_until("t", "c", "one consumer is left", |channel| channel.client_count == 1).await;
        nsqd.subscribe("t", "c").await;
        nsqd.subscribe("t", "another").await;
    });
}

#[test]
fn topic_holds_messages_again_after_its_last_channel_is_deleted() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        nsqd.publish("t", "1").await;
        consumer.consume(1).await;
        nsqd.admin("/channel/delete?topic=t&channel=c").await;
        consumer.closed().await;
        nsqd.publish("t", "2").await;
        let mut consumer = nsqd.subscribe("t", "later").await;
        consumer.ready(10).await;
        assert_eq!(bodies(&consumer.consume(1).await), ["2"]);
        consumer.nothing().await;
    });
}

#[test]
fn a_thousand_topics_work_side_by_side() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut publisher = nsqd.connect().await;
        for n in 0..1000 {
            publisher.publish(&format!("topic_{n}"), format!("{n}")).await;
        }
        assert_eq!(nsqd.topics().await.len(), 1000);
        for n in [0, 1, 499, 999] {
            let mut consumer = nsqd.subscribe(&format!("topic_{n}"), "c").await;
            consumer.ready(1).await;
            assert_eq!(consumer.message().await.text(), n.to_string());
        }
    });
}
