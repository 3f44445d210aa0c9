//! `nsq-ttl`: messages with a time to live of their own.

use std::time::{Duration, Instant};

use nsq_protocol::headers::{Headers, put_published};
use nsq_tests::stats::until_equal;
use nsq_tests::wire::bodies;
use nsq_tests::{Daemon, Peer, test, wait};
use serde_json::{Value, json};

/// Long enough that a message which is published now is delivered in time on a busy machine.
const TTL: Duration = Duration::from_secs(3);

async fn with_channel() -> Daemon {
    let nsqd = Daemon::nsqd().start().await;
    create(&nsqd, "t", "c").await;
    nsqd
}

async fn create(nsqd: &Daemon, topic: &str, channel: &str) {
    nsqd.admin(&format!("/topic/create?topic={topic}")).await;
    nsqd.admin(&format!("/channel/create?topic={topic}&channel={channel}")).await;
}

fn message(ttl: &str, body: &str) -> Vec<u8> {
    let headers = json!({ "nsq-ttl": ttl }).to_string();
    let mut message = Vec::new();
    put_published(&mut message, Headers::trusted(headers.as_bytes()), body.as_bytes());
    message
}

async fn publish(nsqd: &Daemon, ttl: &str, body: &str) {
    let mut peer = nsqd.connect().await;
    peer.line_and_body("PUB_EXT t", message(ttl, body)).await;
    peer.ok().await;
}

async fn channel_json(nsqd: &Daemon, topic: &str, channel: &str) -> Value {
    let stats = nsqd.get_json(&format!("/stats?format=json&topic={topic}&channel={channel}")).await;
    stats["topics"][0]["channels"][0].clone()
}

async fn expired_count(nsqd: &Daemon, channel: &str) -> u64 {
    channel_json(nsqd, "t", channel).await["expired_count"].as_u64().unwrap_or(0)
}

async fn until_old(published_at: Instant, ttl: Duration) {
    let age = async || wait::when(published_at.elapsed(), |age| *age > ttl + Duration::from_millis(10));
    wait::until("the message is too old", age).await;
}

/// The next message of a consumer without headers, after all that expired.
async fn next(peer: &mut Peer) -> String {
    let message = peer.message().await;
    peer.finish(&message).await;
    message.text()
}

#[test]
fn an_unmodified_client_gets_no_message_that_is_too_old_by_its_own_header() {
    test(async {
        let nsqd = with_channel().await;
        publish(&nsqd, "50ms", "old").await;
        nsqd.publish("t", "plain").await;
        publish(&nsqd, "1h", "young").await;
        until_old(Instant::now(), Duration::from_millis(50)).await;
        let mut peer = nsqd.subscribe("t", "c").await;
        peer.ready(1).await;
        assert_eq!([next(&mut peer).await, next(&mut peer).await], ["plain", "young"]);
        nsqd.channel_until_finished("t", "c").await;
        assert_eq!(expired_count(&nsqd, "c").await, 1);
    });
}

#[test]
fn many_expired_messages_do_not_stop_a_consumer() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--mem-queue-size=10").start().await;
        create(&nsqd, "t", "c").await;
        let old = message("1ms", "old");
        let mut producer = nsqd.connect().await;
        for _ in 0..40 {
            let batch = vec![&old[..]; 200];
            producer.line_and_body("MPUB_EXT t", nsq_tests::wire::batch(&batch)).await;
            producer.ok().await;
        }
        nsqd.publish("t", "new").await;
        let mut peer = nsqd.subscribe("t", "c").await;
        peer.ready(1).await;
        assert_eq!(next(&mut peer).await, "new");
        assert_eq!(expired_count(&nsqd, "c").await, 8000);
        assert_eq!(nsqd.channel_until_finished("t", "c").await.message_count, 8001);
    });
}

#[test]
fn a_message_keeps_its_time_across_a_kill_in_memory_and_on_disk() {
    test(async {
        let mut nsqd = Daemon::nsqd().flag("--mem-queue-size=0").start().await;
        create(&nsqd, "t", "c").await;
        publish(&nsqd, "6s", "a").await;
        publish(&nsqd, "1h", "b").await;
        let published_at = Instant::now();
        let is_old = async || wait::when(published_at.elapsed(), |age| *age > Duration::from_secs(4));
        wait::until("most of the time has passed", is_old).await;
        nsqd.kill().await;
        nsqd.restart().await;
        let mut peer = nsqd.subscribe("t", "c").await;
        until_old(published_at, Duration::from_secs(6)).await;
        peer.ready(2).await;
        assert_eq!(next(&mut peer).await, "b");
        until_equal("a has expired", 1, async || expired_count(&nsqd, "c").await).await;
        // What left the channel is recorded with the next publish, or a little later.
        nsqd.publish("other", "x").await;
        nsqd.kill().await;
        nsqd.restart().await;
        assert_eq!(nsqd.channel("t", "c").await.expect("it exists").unfinished(), 0);
    });
}

#[test]
fn the_age_counts_from_the_due_time_and_a_requeued_message_expires() {
    test(async {
        let nsqd = with_channel().await;
        let mut producer = nsqd.connect().await;
        producer.line_and_body("DPUB_EXT t 4000", message("3s", "deferred")).await;
        producer.ok().await;
        let mut peer = nsqd.subscribe("t", "c").await;
        peer.ready(1).await;
        let deferred = peer.message().await;
        assert_eq!(deferred.text(), "deferred");
        peer.finish(&deferred).await;
        publish(&nsqd, "3s", "requeued").await;
        let published_at = Instant::now();
        let requeued = peer.message().await;
        until_old(published_at, TTL).await;
        // In flight it does not expire.
        assert_eq!((requeued.text(), expired_count(&nsqd, "c").await), ("requeued".to_owned(), 0));
        peer.requeue(&requeued, Duration::ZERO).await;
        nsqd.publish("t", "new").await;
        assert_eq!(next(&mut peer).await, "new");
        until_equal("it has expired", 1, async || expired_count(&nsqd, "c").await).await;
    });
}

#[test]
fn the_shortest_time_of_message_and_channel_applies() {
    test(async {
        let nsqd = with_channel().await;
        nsqd.admin("/channel/create?topic=t&channel=short").await;
        nsqd.admin("/channel/set?topic=t&channel=short&ttl=200ms").await;
        nsqd.admin("/channel/set?topic=t&channel=c&ttl=1h").await;
        publish(&nsqd, "1h", "x").await;
        publish(&nsqd, "100ms", "y").await;
        until_equal("both expire", 2, async || expired_count(&nsqd, "short").await).await;
        let mut peer = nsqd.subscribe("t", "c").await;
        peer.ready(2).await;
        assert_eq!(bodies(&peer.messages(1).await), ["x"]);
        until_equal("one expires", 1, async || expired_count(&nsqd, "c").await).await;
    });
}

#[test]
fn expired_messages_become_dead_letters_which_do_not_expire_and_get_their_time_back() {
    test(async {
        let nsqd = with_channel().await;
        nsqd.admin("/channel/set?topic=t&channel=c&dead_letter=%7Btopic%7D.expired").await;
        publish(&nsqd, "100ms", "x").await;
        until_old(Instant::now(), Duration::from_millis(100)).await;
        let mut peer = nsqd.subscribe("t", "c").await;
        peer.ready(1).await;
        let dead =
            async || nsqd.channel("t.expired", "redrive").await.map_or(0, |channel| channel.unfinished());
        until_equal("it is a dead letter", 1, dead).await;
        let letter_at = Instant::now();
        peer.ready(0).await;
        peer.barrier().await;
        until_old(letter_at, Duration::from_millis(100)).await;
        let mut reader = nsqd.subscribe("t.expired", "redrive").await;
        reader.ready(1).await;
        let letter = reader.message().await;
        assert_eq!(letter.text(), "x");
        reader.requeue(&letter, Duration::ZERO).await;
        drop(reader);
        nsqd.channel_until("t.expired", "redrive", "it is back", |channel| channel.depth == 1).await;
        let page = nsqd.get_json("/topic/dead/messages?topic=t.expired").await;
        let headers = &page["messages"][0]["headers"];
        assert_eq!((&headers["nsq-dead-reason"], &headers["nsq-ttl"]), (&json!("expired"), &json!("100ms")));
        nsqd.post("/topic/redrive?topic=t.expired", b"").await.expect(200);
        nsqd.channel_until("t", "c", "it is redriven", |channel| channel.depth == 1).await;
        until_old(Instant::now(), Duration::from_millis(100)).await;
        peer.ready(1).await;
        until_equal("it is a dead letter again", 1, dead).await;
    });
}

#[test]
fn invalid_times_are_refused_with_value_range_and_example() {
    test(async {
        let nsqd = with_channel().await;
        nsqd.post("/pub?topic=t&ttl=30s", "x").await.expect(200);
        for (ttl, reason) in [
            ("5", "missing unit in duration \"5\" (ns, us, ms, s, m, h)"),
            ("0", "out of range"),
            ("3651d", "out of range"),
        ] {
            let text = format!(
                "header \"nsq-ttl\" is {ttl:?}: {reason}; expected a duration from 1ms to 3650d, such as 30s"
            );
            let answer = nsqd.post(&format!("/pub?topic=t&ttl={ttl}"), "x").await.expect(400).json();
            assert_eq!(answer["message"], format!("INVALID_HEADER: {text}"));
            let mut peer = nsqd.connect().await;
            peer.line_and_body("PUB_EXT t", message(ttl, "x")).await;
            peer.refused(&format!("E_BAD_MESSAGE PUB_EXT {text}")).await;
        }
        assert_eq!(nsqd.channel("t", "c").await.expect("it exists").depth, 1);
    });
}
