use std::time::{Duration, Instant};

use nsq_tests::wire::{Frame, Message, Peer, bodies};
use nsq_tests::{Daemon, test, test_within};
use serde_json::json;

const UNKNOWN: &str = "0123456789abcdef";

/// An nsqd with one message in t/c, and a consumer with RDY 10 that received it.
async fn one_in_flight() -> (Daemon, Peer, Message) {
    let nsqd = Daemon::nsqd().start().await;
    nsqd.publish("t", "x").await;
    let mut consumer = nsqd.subscribe("t", "c").await;
    consumer.ready(10).await;
    let message = consumer.message().await;
    (nsqd, consumer, message)
}

/// A consumer of t/c with RDY 10 whose messages time out after `msg_timeout`.
async fn consumer_with_timeout(nsqd: &Daemon, msg_timeout: Duration) -> Peer {
    let mut peer = nsqd.connect().await;
    let milliseconds = u64::try_from(msg_timeout.as_millis()).expect("a short time");
    peer.identify(json!({"feature_negotiation": true, "msg_timeout": milliseconds})).await;
    peer.subscribe("t", "c").await;
    peer.ready(10).await;
    peer
}

/// The bits of a message id that are the node's number.
const NODE_BITS: std::ops::Range<u32> = 54..64;

fn number_of(message: &Message) -> u64 {
    u64::from_str_radix(&message.id_text(), 16).expect("sixteen digits")
}

#[test]
fn every_bit_of_an_id_is_compared() {
    test(async {
        let (nsqd, mut consumer, message) = one_in_flight().await;
        let (id, text) = (number_of(&message), message.id_text());
        let others = NODE_BITS.map(|bit| format!("{:016x}", id ^ 1 << bit));
        let others =
            others.chain([format!("{:016x}", id + 1), text.to_uppercase(), format!("+{}", &text[1..])]);
        for other in others.filter(|other| *other != text) {
            for (line, code) in [
                (format!("FIN {other}"), "E_FIN_FAILED FIN"),
                (format!("REQ {other} 0"), "E_REQ_FAILED REQ"),
                (format!("TOUCH {other}"), "E_TOUCH_FAILED TOUCH"),
            ] {
                consumer.line(line).await;
                assert_eq!(consumer.error().await, format!("{code} {other} failed ID not in flight"));
            }
        }
        let channel = nsqd.channel("t", "c").await.expect("the channel exists");
        assert_eq!((channel.in_flight_count, channel.requeue_count), (1, 0));
        consumer.touch(&message).await;
        consumer.finish(&message).await;
        nsqd.channel_until_finished("t", "c").await;
    });
}

#[test]
fn stored_messages_keep_their_ids_when_the_node_id_changes() {
    const COUNT: usize = 400;
    test(async {
        // Some are in the journal only, some in segments.
        let mut nsqd = Daemon::nsqd().flag("--mem-queue-size=10").start().await;
        let bodies: Vec<String> = (0..COUNT).map(|number| format!("{number:04096}")).collect();
        for batch in bodies.chunks(50) {
            nsqd.connect().await.publish_batch("t", batch).await;
        }
        let mut first = nsqd.subscribe("t", "c").await;
        first.ready(1).await;
        let before = first.message().await;
        drop(first);
        nsqd.kill().await;
        let node = number_of(&before) >> NODE_BITS.start;
        let other = if node == 5 { 6 } else { 5 };
        nsqd.restart_with(&[&format!("--node-id={other}")]).await;
        nsqd.publish("t", "new").await;

        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(COUNT as u32 + 1).await;
        let messages = consumer.messages(COUNT + 1).await;
        assert!(messages.iter().any(|message| message.id == before.id), "the message keeps its id");
        for message in &messages {
            let (id, is_new) = (number_of(message), message.text() == "new");
            assert_eq!(id >> NODE_BITS.start, if is_new { other } else { node });
            let foreign = format!("{:016x}", id ^ (node ^ other) << NODE_BITS.start);
            consumer.line(format!("FIN {foreign}")).await;
            assert_eq!(consumer.error().await, format!("E_FIN_FAILED FIN {foreign} failed ID not in flight"));
            consumer.finish(message).await;
        }
        nsqd.channel_until_finished("t", "c").await;
    });
}

#[test]
fn finished_message_is_not_delivered_again() {
    test(async {
        let (nsqd, mut consumer, message) = one_in_flight().await;
        consumer.finish(&message).await;
        nsqd.channel_until_finished("t", "c").await;
        drop(consumer);
        let mut another = nsqd.subscribe("t", "c").await;
        another.ready(10).await;
        another.nothing().await;
    });
}

#[test]
fn unknown_ids_are_errors_that_leave_the_connection_usable() {
    test(async {
        let (nsqd, mut consumer, message) = one_in_flight().await;
        for (line, error) in [
            (format!("FIN {UNKNOWN}"), format!("E_FIN_FAILED FIN {UNKNOWN} failed ID not in flight")),
            (format!("REQ {UNKNOWN} 0"), format!("E_REQ_FAILED REQ {UNKNOWN} failed ID not in flight")),
            (format!("TOUCH {UNKNOWN}"), format!("E_TOUCH_FAILED TOUCH {UNKNOWN} failed ID not in flight")),
        ] {
            consumer.line(line).await;
            assert_eq!(consumer.error().await, error);
        }
        // Any sixteen bytes are a valid id.
        consumer.line(b"FIN \x00\xff............xy").await;
        assert!(consumer.error().await.starts_with("E_FIN_FAILED FIN "));
        let channel = nsqd.channel("t", "c").await.expect("the channel exists");
        assert_eq!(channel.clients[0].in_flight_count, 1, "failed commands free no capacity");
        consumer.finish(&message).await;
        nsqd.channel_until_finished("t", "c").await;
        consumer.finish(&message).await;
        assert_eq!(
            consumer.error().await,
            format!("E_FIN_FAILED FIN {} failed ID not in flight", message.id_text())
        );
        consumer.still_works().await;
    });
}

#[test]
fn ids_of_another_length_are_refused() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for (line, error) in [
            ("FIN 0123456789abcde", "E_INVALID invalid message ID"),
            ("FIN 0123456789abcdef0", "E_INVALID invalid message ID"),
            ("FIN ", "E_INVALID invalid message ID"),
            ("FIN", "E_INVALID FIN insufficient number of params"),
            ("REQ 0123456789abcdef", "E_INVALID REQ insufficient number of params"),
            ("REQ 0123456789abcde 0", "E_INVALID invalid message ID"),
            ("REQ 0123456789abcdef -1", "E_INVALID REQ could not parse timeout -1"),
            ("TOUCH", "E_INVALID TOUCH insufficient number of params"),
            ("TOUCH x", "E_INVALID invalid message ID"),
        ] {
            let mut consumer = nsqd.subscribe("t", "c").await;
            consumer.line(line).await;
            consumer.refused(error).await;
        }
    });
}

#[test]
fn only_the_owner_can_finish_requeue_or_touch_a_message() {
    test(async {
        let (nsqd, mut owner, message) = one_in_flight().await;
        // The client_id does not make a connection an owner.
        let mut other = nsqd.connect().await;
        other.identify(json!({"feature_negotiation": true, "client_id": "127.0.0.1"})).await;
        other.subscribe("t", "c").await;
        let id = message.id_text();
        for (line, error) in [
            (format!("FIN {id}"), format!("E_FIN_FAILED FIN {id} failed client does not own message")),
            (format!("REQ {id} 0"), format!("E_REQ_FAILED REQ {id} failed client does not own message")),
            (format!("TOUCH {id}"), format!("E_TOUCH_FAILED TOUCH {id} failed client does not own message")),
        ] {
            other.line(line).await;
            assert_eq!(other.error().await, error);
        }
        owner.finish(&message).await;
        owner.still_works().await;
        nsqd.channel_until_finished("t", "c").await;
    });
}

#[test]
fn requeued_message_is_delivered_after_the_other_messages() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.connect().await.publish_batch("t", &["1", "2", "3"]).await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        let first = consumer.message().await;
        consumer.requeue(&first, Duration::ZERO).await;
        let mut order = Vec::new();
        for _ in 0..3 {
            let message = consumer.message().await;
            order.push((message.text(), message.attempts));
            consumer.finish(&message).await;
        }
        assert_eq!(order, [("2".into(), 1), ("3".into(), 1), ("1".into(), 2)]);
        let channel = nsqd.channel_until_finished("t", "c").await;
        assert_eq!((channel.requeue_count, channel.timeout_count, channel.message_count), (1, 0, 3));
        assert_eq!(channel.clients[0].requeue_count, 1);
    });
}

#[test]
fn requeued_message_keeps_its_id_timestamp_and_body() {
    test(async {
        let (_nsqd, mut consumer, first) = one_in_flight().await;
        let mut last = first.clone();
        for attempts in 2..50 {
            consumer.requeue(&last, Duration::ZERO).await;
            last = consumer.message().await;
            let expected = Message { attempts, ..first.clone() };
            assert_eq!(last, expected);
        }
    });
}

#[test]
fn attempts_saturate_at_65535() {
    test_within(Duration::from_secs(240), async {
        let (_nsqd, mut consumer, mut message) = one_in_flight().await;
        for delivery in 2..=65_540u32 {
            consumer.requeue(&message, Duration::ZERO).await;
            message = consumer.message().await;
            assert_eq!(u32::from(message.attempts), delivery.min(65_535));
        }
    });
}

#[test]
fn unfinished_message_is_redelivered_after_its_timeout_not_before() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "x").await;
        let mut consumer = consumer_with_timeout(&nsqd, Duration::from_secs(1)).await;
        let first = consumer.message().await;
        let delivered = Instant::now();
        let mut other = nsqd.subscribe("t", "c").await;
        consumer.ready(0).await;
        other.ready(1).await;
        let second = other.message().await;
        let waited = delivered.elapsed();
        assert!(waited >= Duration::from_millis(950), "timed out early, after {waited:?}");
        assert_eq!((second.id, second.attempts), (first.id, 2));

        // The FIN of the first owner is too late, and its capacity is free again.
        consumer.finish(&first).await;
        let error = consumer.error().await;
        assert!(error.ends_with("failed client does not own message"), "{error}");
        other.finish(&second).await;
        other.still_works().await;
        consumer.finish(&first).await;
        assert!(consumer.error().await.ends_with("failed ID not in flight"));
        let channel = nsqd.channel_until_finished("t", "c").await;
        assert_eq!((channel.timeout_count, channel.requeue_count), (1, 0));
        assert!(channel.clients.iter().all(|client| client.in_flight_count == 0));
    });
}

#[test]
fn timeouts_run_in_a_paused_channel_and_a_late_fin_finishes_the_new_delivery() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "x").await;
        let mut consumer = consumer_with_timeout(&nsqd, Duration::from_secs(1)).await;
        let message = consumer.message().await;
        nsqd.admin("/channel/pause?topic=t&channel=c").await;
        let timed_out =
            |channel: &nsq_tests::stats::Channel| (channel.timeout_count, channel.depth) == (1, 1);
        nsqd.channel_until("t", "c", "the message timed out", timed_out).await;
        for line in ["FIN", "TOUCH"] {
            consumer.line(format!("{line} {}", message.id_text())).await;
            assert!(consumer.error().await.ends_with("failed ID not in flight"));
        }
        nsqd.admin("/channel/unpause?topic=t&channel=c").await;
        assert_eq!(consumer.message().await.attempts, 2);
        // The connection owns the message again, so a FIN for the first delivery finishes the second.
        consumer.finish(&message).await;
        consumer.still_works().await;
        nsqd.channel_until_finished("t", "c").await;
    });
}

#[test]
fn msg_timeout_flag_sets_the_default_timeout() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--msg-timeout=1s").start().await;
        nsqd.publish("t", "x").await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        consumer.message().await;
        assert_eq!(consumer.message().await.attempts, 2, "the timeout frees the capacity of RDY 1");
    });
}

#[test]
fn touch_only_extends_the_timeout() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "x").await;
        let mut consumer = consumer_with_timeout(&nsqd, Duration::from_secs(1)).await;
        let message = consumer.message().await;
        let delivered = Instant::now();
        while delivered.elapsed() < Duration::from_millis(2500) {
            consumer.touch(&message).await;
            consumer.nothing().await;
        }
        let channel = nsqd.channel("t", "c").await.expect("the channel exists");
        assert_eq!((channel.in_flight_count, channel.timeout_count), (1, 0));
        consumer.touch(&message).await;
        let last_touch = Instant::now();
        assert_eq!(consumer.message().await.attempts, 2);
        let waited = last_touch.elapsed();
        assert!(waited >= Duration::from_millis(950), "timed out {waited:?} after a TOUCH");
    });
}

#[test]
fn touch_does_not_extend_beyond_max_msg_timeout() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--max-msg-timeout=2s").start().await;
        nsqd.publish("t", "x").await;
        let mut consumer = consumer_with_timeout(&nsqd, Duration::from_secs(1)).await;
        let message = consumer.message().await;
        let delivered = Instant::now();
        let again = loop {
            consumer.touch(&message).await;
            match consumer.frame_within(Duration::from_millis(100)).await {
                Ok(Frame::Message(again)) => break again,
                // A TOUCH can come just between the timeout and the next delivery.
                Ok(Frame::Error(text)) if text.ends_with(b" failed ID not in flight") => {
                    assert!(delivered.elapsed() >= Duration::from_millis(1950), "{text:?}");
                }
                Ok(other) => panic!("{other:?}"),
                Err(_) => {
                    assert!(delivered.elapsed() < Duration::from_secs(10), "the message never timed out")
                }
            }
        };
        assert!(delivered.elapsed() >= Duration::from_millis(1950), "after {:?}", delivered.elapsed());
        assert_eq!(again.attempts, 2);
    });
}

#[test]
fn in_flight_messages_of_a_closed_connection_are_redelivered_at_once() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.connect().await.publish_batch("t", &["1", "2", "3"]).await;
        let mut leaving = nsqd.subscribe("t", "c").await;
        leaving.ready(10).await;
        let delivered = leaving.messages(3).await;
        leaving.finish(&delivered[1]).await;
        let closed = Instant::now();
        drop(leaving);

        let mut staying = nsqd.subscribe("t", "c").await;
        staying.ready(10).await;
        let again = staying.consume(2).await;
        // The default timeout is a minute; redelivery must not wait for it.
        assert!(closed.elapsed() < Duration::from_secs(10), "{:?}", closed.elapsed());
        let mut seen = bodies(&again);
        seen.sort();
        assert_eq!(seen, ["1", "3"], "a FIN sent just before the close takes effect");
        assert!(again.iter().all(|message| message.attempts == 2));
        let channel = nsqd.channel_until_finished("t", "c").await;
        assert_eq!((channel.message_count, channel.requeue_count, channel.timeout_count), (3, 0, 0));
    });
}

#[test]
fn disconnecting_consumer_loses_no_messages() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let published: Vec<String> = (0..200).map(|n| n.to_string()).collect();
        nsqd.connect().await.publish_batch("t", &published).await;
        let mut seen = Vec::new();
        while seen.len() < 200 {
            let mut consumer = nsqd.subscribe("t", "c").await;
            consumer.ready(50).await;
            let messages = consumer.messages((200 - seen.len()).min(50)).await;
            for message in messages.iter().take(20) {
                consumer.finish(message).await;
                seen.push(message.text());
            }
            // Messages that arrive meanwhile stay unread, so that the close is abrupt.
            consumer.barrier().await;
        }
        seen.sort_by_key(|number| number.parse::<u32>().expect("a number"));
        assert_eq!(seen, published, "each message is finished exactly once");
        nsqd.channel_until_finished("t", "c").await;
    });
}
