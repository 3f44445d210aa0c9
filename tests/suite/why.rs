//! `/channel/why`: each arranged situation, with its worst cause first.

use std::time::Duration;

use nsq_protocol::headers::{Headers, put_published};
use nsq_tests::{Daemon, Peer, test, test_within, wait};
use serde_json::{Value, json};

/// The causes of a channel, or of one of its messages.
async fn causes(nsqd: &Daemon, topic: &str, channel: &str, id: Option<&str>) -> Vec<Value> {
    let id = id.map_or(String::new(), |id| format!("&id={id}"));
    let answer = nsqd.get_json(&format!("/channel/why?topic={topic}&channel={channel}{id}")).await;
    answer["causes"].as_array().expect("causes").clone()
}

/// The worst cause, once it is this one.
async fn first_is(nsqd: &Daemon, topic: &str, id: Option<&str>, code: &str) -> Value {
    wait::until(&format!("{code} is the worst cause of {topic}"), async || {
        let causes = causes(nsqd, topic, "c", id).await;
        wait::when(causes, |causes| causes[0]["code"] == code)
    })
    .await
    .swap_remove(0)
}

fn text(cause: &Value) -> &str {
    cause["text"].as_str().expect("a text")
}

/// A topic with the channel `c`.
async fn topic(nsqd: &Daemon, topic: &str) {
    nsqd.admin(&format!("/topic/create?topic={topic}")).await;
    nsqd.admin(&format!("/channel/create?topic={topic}&channel=c")).await;
}

/// Publishes a message and returns its id.
async fn publish(nsqd: &Daemon, topic: &str, more: &str) -> String {
    let answer = nsqd.post(&format!("/pub?topic={topic}&return=id{more}"), "hello").await.expect(200);
    answer.json()["id"].as_str().expect("an id").to_owned()
}

async fn consumer(nsqd: &Daemon, topic: &str, ready_count: u32) -> Peer {
    let mut peer = nsqd.connect().await;
    peer.identify(json!({"feature_negotiation": true, "client_id": "worker", "hostname": "here"})).await;
    peer.subscribe(topic, "c").await;
    peer.ready(ready_count).await;
    if ready_count == 0 {
        // With more, it would swallow messages that arrive meanwhile.
        peer.barrier().await;
    }
    peer
}

#[test]
fn the_worst_cause_of_a_channel_comes_first() {
    test_within(Duration::from_secs(120), async {
        let nsqd = Daemon::nsqd().start().await;

        // 1: no channel yet. 2: another channel.
        nsqd.admin("/topic/create?topic=none").await;
        nsqd.publish("none", "x").await;
        let cause = first_is(&nsqd, "none", None, "no_channel").await;
        assert!(
            text(&cause).contains("1 message") && cause["command"] == "nsq channel create none/c",
            "{cause}"
        );
        nsqd.admin("/channel/create?topic=none&channel=other").await;
        assert!(text(&first_is(&nsqd, "none", None, "no_channel").await).contains("other"));

        // 3: empty, and that nobody is subscribed is only worth knowing.
        topic(&nsqd, "empty").await;
        let empty = causes(&nsqd, "empty", "c", None).await;
        let seen: Vec<(&Value, &Value)> =
            empty.iter().map(|cause| (&cause["code"], &cause["holds_up"])).collect();
        assert_eq!(seen, [(&json!("empty"), &json!(true)), (&json!("no_consumer"), &json!(false))]);

        // 4: no consumer.
        topic(&nsqd, "alone").await;
        publish(&nsqd, "alone", "").await;
        let cause = first_is(&nsqd, "alone", None, "no_consumer").await;
        assert!(text(&cause).contains("1 message waits"), "{cause}");

        // 5: the channel is paused, by whom. 6: the topic is paused.
        nsqd.admin("/channel/pause?topic=alone&channel=c").await;
        let cause = first_is(&nsqd, "alone", None, "channel_paused").await;
        assert!(text(&cause).contains("by a request from 127.0.0.1:"), "{cause}");
        assert_eq!(cause["command"], "nsq channel unpause alone/c");
        topic(&nsqd, "paused").await;
        nsqd.admin("/topic/pause?topic=paused").await;
        publish(&nsqd, "paused", "").await;
        let cause = first_is(&nsqd, "paused", None, "topic_paused").await;
        assert!(text(&cause).contains("it holds 1 message back"), "{cause}");

        // 7: every RDY is 0.
        topic(&nsqd, "zero").await;
        publish(&nsqd, "zero", "").await;
        let mut zero = consumer(&nsqd, "zero", 0).await;
        let cause = first_is(&nsqd, "zero", None, "all_ready_zero").await;
        assert!(text(&cause).contains("worker@here (127.0.0.1:"), "{cause}");

        // 8: only in flight. 9: at RDY.
        zero.ready(1).await;
        let message = zero.message().await;
        let cause = first_is(&nsqd, "zero", None, "only_in_flight").await;
        assert!(text(&cause).contains(&message.id_text()), "{cause}");
        publish(&nsqd, "zero", "").await;
        let cause = first_is(&nsqd, "zero", None, "at_ready_count").await;
        assert!(text(&cause).contains(&message.id_text()) && text(&cause).contains("worker@here"), "{cause}");

        // 10: closing.
        zero.line("CLS").await;
        first_is(&nsqd, "zero", None, "consumers_closing").await;

        // 11: only deferred.
        topic(&nsqd, "later").await;
        publish(&nsqd, "later", "&defer=600000").await;
        let cause = first_is(&nsqd, "later", None, "only_deferred").await;
        assert!(text(&cause).contains("(in 9 min)") || text(&cause).contains("(in 10 min)"), "{cause}");

        // 12: full.
        topic(&nsqd, "full").await;
        nsqd.admin("/channel/set?topic=full&channel=c&max_depth=1&overflow=reject").await;
        let mut full = consumer(&nsqd, "full", 5).await;
        publish(&nsqd, "full", "").await;
        let _held = full.message().await;
        nsqd.post("/pub?topic=full", "one too many").await.expect(429);
        first_is(&nsqd, "full", None, "channel_full").await;

        // 13: a consumer that does not read.
        topic(&nsqd, "stuck").await;
        let _stuck = consumer(&nsqd, "stuck", 2500).await;
        let body = "x".repeat(1_000_000);
        for _ in 0..20 {
            nsqd.publish("stuck", &body).await;
        }
        let cause = first_is(&nsqd, "stuck", None, "consumers_not_reading").await;
        assert!(text(&cause).contains("worker@here"), "{cause}");
    });
}

#[test]
fn where_a_message_is_comes_first() {
    test_within(Duration::from_secs(120), async {
        let nsqd = Daemon::nsqd().flag("--node-id=7").start().await;
        topic(&nsqd, "t").await;

        // 1: it waits, and nobody takes it. Then its place.
        let first = publish(&nsqd, "t", "").await;
        let second = publish(&nsqd, "t", "").await;
        let waiting = causes(&nsqd, "t", "c", Some(&second)).await;
        let codes: Vec<&Value> = waiting.iter().map(|cause| &cause["code"]).collect();
        assert_eq!(codes, ["no_consumer", "waiting"]);
        assert!(text(&waiting[1]).contains("behind 1 message"), "{waiting:?}");

        // 2: in flight. 3: held back after a failure. 4: cancelled.
        let mut peer = consumer(&nsqd, "t", 1).await;
        let message = peer.message().await;
        peer.ready(0).await;
        let cause = first_is(&nsqd, "t", Some(&first), "in_flight").await;
        assert!(text(&cause).contains("worker@here") && text(&cause).contains("delivery 1"), "{cause}");
        peer.requeue(&message, Duration::from_secs(600)).await;
        let cause = first_is(&nsqd, "t", Some(&first), "retry_later").await;
        assert_eq!(cause["command"], format!("nsq message requeue t/c {first}"));
        nsqd.admin(&format!("/message/cancel?topic=t&id={first}")).await;
        first_is(&nsqd, "t", Some(&first), "cancelled").await;

        // 5: deferred. 6: run now, it waits behind the other.
        let later = publish(&nsqd, "t", "&defer=600000").await;
        first_is(&nsqd, "t", Some(&later), "deferred").await;
        nsqd.admin(&format!("/message/requeue?topic=t&channel=c&id={later}&delay=0")).await;
        first_is(&nsqd, "t", Some(&later), "all_ready_zero").await;

        // 7: finished. 8: skipped by a move forward. 9: emptied.
        peer.ready(1).await;
        let message = peer.message().await;
        peer.finish(&message).await;
        peer.ready(0).await;
        peer.barrier().await;
        first_is(&nsqd, "t", Some(&second), "finished").await;
        topic(&nsqd, "moved").await;
        let moved = publish(&nsqd, "moved", "").await;
        nsqd.admin("/channel/seek?topic=moved&channel=c&to=latest").await;
        first_is(&nsqd, "moved", Some(&moved), "skipped").await;
        let emptied = publish(&nsqd, "moved", "").await;
        nsqd.admin("/channel/empty?topic=moved&channel=c").await;
        first_is(&nsqd, "moved", Some(&emptied), "emptied").await;

        // 10: of another node. 11: never published. 12: held by its topic.
        let number = u64::from_str_radix(&first, 16).expect("an id");
        let elsewhere = format!("{:016x}", (number & ((1 << 54) - 1)) | (8 << 54));
        let cause = first_is(&nsqd, "t", Some(&elsewhere), "other_node").await;
        assert!(text(&cause).contains("number 8") && text(&cause).contains("number 7"), "{cause}");
        let future = format!("{:016x}", number + 1_000_000);
        first_is(&nsqd, "t", Some(&future), "unknown_id").await;
        nsqd.admin("/topic/pause?topic=moved").await;
        let held = publish(&nsqd, "moved", "").await;
        let causes = causes(&nsqd, "moved", "c", Some(&held)).await;
        let codes: Vec<&Value> = causes.iter().map(|cause| &cause["code"]).collect();
        assert_eq!(codes, ["topic_paused", "held_by_topic"]);
    });
}

#[test]
fn what_became_of_a_message_by_policy_comes_first() {
    test_within(Duration::from_secs(120), async {
        let nsqd = Daemon::nsqd().flag("--msg-timeout=1s").start().await;
        let set = async |topic: &str, settings: &str| {
            nsqd.admin(&format!("/channel/set?topic={topic}&channel=c&{settings}")).await;
        };

        // 1: dead-lettered.
        topic(&nsqd, "dying").await;
        set("dying", "max_attempts=1").await;
        let dead = publish(&nsqd, "dying", "").await;
        let mut peer = consumer(&nsqd, "dying", 1).await;
        let message = peer.message().await;
        peer.requeue(&message, Duration::ZERO).await;
        let cause = first_is(&nsqd, "dying", Some(&dead), "dead_lettered").await;
        assert_eq!(cause["command"], format!("nsq dead show dying.dead --id {dead}"));

        // 2: filtered.
        topic(&nsqd, "filtered").await;
        set("filtered", "filter=color=red").await;
        let filtered = publish(&nsqd, "filtered", "").await;
        let mut peer = consumer(&nsqd, "filtered", 5).await;
        let (headers, mut red) = (r#"{"color":"red"}"#, Vec::new());
        put_published(&mut red, Headers::trusted(headers.as_bytes()), b"red");
        let mut publisher = nsqd.connect().await;
        publisher.line_and_body("PUB_EXT filtered", red).await;
        publisher.ok().await;
        assert_eq!(peer.message().await.body, "red");
        first_is(&nsqd, "filtered", Some(&filtered), "filtered").await;

        // 3: expired.
        topic(&nsqd, "old").await;
        set("old", "ttl=1s").await;
        let old = publish(&nsqd, "old", "").await;
        first_is(&nsqd, "old", Some(&old), "expired").await;

        // 4: too many.
        topic(&nsqd, "many").await;
        set("many", "max_depth=1&overflow=drop_oldest").await;
        let oldest = publish(&nsqd, "many", "").await;
        publish(&nsqd, "many", "").await;
        first_is(&nsqd, "many", Some(&oldest), "overflow").await;

        // 5: the retry schedule, after a timeout.
        topic(&nsqd, "retried").await;
        set("retried", "retry=list%2010m").await;
        let retried = publish(&nsqd, "retried", "").await;
        let mut peer = consumer(&nsqd, "retried", 1).await;
        peer.message().await;
        peer.ready(0).await;
        let cause = first_is(&nsqd, "retried", Some(&retried), "retry_later").await;
        assert!(text(&cause).contains("delivery 1 of message"), "{cause}");
    });
}

#[test]
fn an_ephemeral_channel_without_room_and_an_unhealthy_node_are_named() {
    test_within(Duration::from_secs(120), async {
        let nsqd = Daemon::nsqd().flag("--mem-queue-size=1").start().await;
        nsqd.admin("/topic/create?topic=t").await;
        let _subscribed = nsqd.subscribe("t", "c#ephemeral").await;
        publish(&nsqd, "t", "").await;
        let dropped = publish(&nsqd, "t", "").await;
        let target = format!("/channel/why?topic=t&channel=c%23ephemeral&id={dropped}");
        let answer = nsqd.get_json(&target).await;
        assert_eq!(answer["causes"][0]["code"], "no_room", "{answer}");

        topic(&nsqd, "u").await;
        let aside = nsqd.data_path().with_extension("aside");
        std::fs::rename(nsqd.data_path(), &aside).expect("the directory can be moved");
        let cause = first_is(&nsqd, "u", None, "unhealthy").await;
        assert_eq!(cause["command"], "nsq ping");
        std::fs::rename(&aside, nsqd.data_path()).expect("the directory can be moved back");
    });
}

#[test]
fn wrong_requests_are_refused() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        topic(&nsqd, "t").await;
        for (target, status, word) in [
            ("/channel/why?topic=t", 400, "MISSING_ARG_CHANNEL"),
            ("/channel/why?topic=u&channel=c", 404, "TOPIC_NOT_FOUND"),
            ("/channel/why?topic=t&channel=c&id=x", 400, "INVALID_ARG_ID: "),
            ("/channel/why?topic=t&channel=c&message=x", 400, "UNKNOWN_ARG: "),
        ] {
            let answer = nsqd.get(target).await.expect(status);
            assert!(answer.text().contains(word), "{target}: {}", answer.text());
        }
    });
}
