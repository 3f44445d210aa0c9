//! REJ: a consumer makes a message a dead letter at once, with a reason.

use nsq_protocol::headers::split_delivered;
use nsq_tests::stats::until_equal;
use nsq_tests::{Daemon, Peer, test, wait};
use serde_json::{Value, json};

async fn nsqd() -> Daemon {
    let nsqd = Daemon::nsqd().start().await;
    nsqd.admin("/topic/create?topic=t").await;
    for channel in ["c", "other"] {
        nsqd.admin(&format!("/channel/create?topic=t&channel={channel}")).await;
    }
    nsqd
}

/// A consumer that was granted `reject`, and `headers` too.
async fn consumer(nsqd: &Daemon, topic: &str, channel: &str) -> Peer {
    let mut peer = nsqd.connect().await;
    let features = json!(["headers", "reject"]);
    let reply = peer.identify(json!({"feature_negotiation": true, "features": features})).await;
    assert_eq!(reply["features"], features);
    peer.subscribe(topic, channel).await;
    peer.ready(100).await;
    peer
}

async fn dead_count(nsqd: &Daemon, topic: &str) -> u64 {
    nsqd.channel(topic, "redrive").await.map_or(0, |channel| channel.unfinished())
}

/// The headers of all dead letters in order.
async fn dead_headers(nsqd: &Daemon, topic: &str) -> Vec<Value> {
    let page = nsqd.get_json(&format!("/topic/dead/messages?topic={topic}&limit=100")).await;
    page["messages"].as_array().expect("an array").iter().map(|message| message["headers"].clone()).collect()
}

#[test]
fn rejected_messages_become_dead_letters_with_their_reason() {
    test(async {
        let nsqd = nsqd().await;
        nsqd.connect().await.publish_batch("t", &["a", "b", "c", "finished"]).await;
        let mut peer = consumer(&nsqd, "t", "c").await;
        let messages = peer.messages(4).await;
        let id = |index: usize| messages[index].id_text();
        peer.line(format!("REJ {} no such tenant: \u{e4}", id(0))).await;
        peer.line(format!("REJ {} no such tenant: \u{e4}", id(1))).await;
        peer.line(format!("REJ {}", id(2))).await;
        peer.finish(&messages[3]).await;
        peer.barrier().await;
        until_equal("dead letters", 3, async || dead_count(&nsqd, "t.dead").await).await;
        let headers = dead_headers(&nsqd, "t.dead").await;
        for (index, headers) in headers.iter().enumerate() {
            assert_eq!(
                (&headers["nsq-dead-reason"], &headers["nsq-dead-id"], &headers["nsq-dead-attempts"]),
                (&json!("rejected"), &json!(id(index)), &json!("1"))
            );
            let error = if index < 2 { json!("no such tenant: \u{e4}") } else { Value::Null };
            assert_eq!(headers["nsq-dead-error"], error);
        }
        let summary = nsqd.get_json("/topic/dead?topic=t.dead").await;
        let group = &summary["groups"][0];
        assert_eq!(
            (&group["reason"], &group["error"], &group["count"]),
            (&json!("rejected"), &json!("no such tenant: \u{e4}"), &json!(2))
        );
        assert_eq!(summary["groups"][1]["count"], 1);
        nsqd.channel_until_finished("t", "c").await;
        assert_eq!(nsqd.channel("t", "other").await.expect("it exists").depth, 4, "it keeps its copies");

        // They go back as they were published.
        nsqd.post("/topic/redrive?topic=t.dead", b"").await.expect(200);
        let (headers, body) = {
            let message = peer.message().await;
            let (headers, body) = split_delivered(&message.body).expect("a version");
            (headers.map(|headers| headers.as_bytes().to_vec()), body.to_vec())
        };
        assert_eq!((headers, &body[..]), (None, &b"a"[..]));
    });
}

#[test]
fn rej_is_refused_without_the_feature_like_any_unknown_command() {
    test(async {
        let nsqd = nsqd().await;
        nsqd.publish("t", "x").await;
        let mut peer = nsqd.subscribe("t", "c").await;
        peer.ready(1).await;
        let message = peer.message().await;
        // The whole run of commands arrives at once.
        peer.send(format!("TOUCH {0}\nREJ {0} bad\n", message.id_text())).await;
        peer.refused("E_INVALID invalid command REJ").await;
        nsqd.channel_until("t", "c", "it is back", |channel| channel.depth == 1).await;
        assert_eq!(dead_count(&nsqd, "t.dead").await, 0);
        let mut producer = nsqd.connect().await;
        producer.line(format!("REJ {}", message.id_text())).await;
        producer.refused("E_INVALID invalid command REJ").await;
    });
}

#[test]
fn unknown_ids_and_channels_without_a_dead_letter_topic_are_errors_that_leave_the_connection_usable() {
    test(async {
        let nsqd = nsqd().await;
        let mut peer = consumer(&nsqd, "t", "c").await;
        let unknown = "0123456789abcdef";
        peer.line(format!("REJ {unknown} reason")).await;
        assert_eq!(peer.error().await, format!("E_REJ_FAILED REJ {unknown} failed ID not in flight"));
        nsqd.publish("t", "x").await;
        let message = peer.message().await;
        let mut stranger = consumer(&nsqd, "t", "c").await;
        stranger.line(format!("REJ {}", message.id_text())).await;
        let error = format!("E_REJ_FAILED REJ {} failed client does not own message", message.id_text());
        assert_eq!(stranger.error().await, error);

        // A name that is too long for a dead-letter topic.
        let long = "t".repeat(60);
        nsqd.publish(&long, "x").await;
        let mut consumer_of_long = consumer(&nsqd, &long, "c").await;
        let kept = consumer_of_long.message().await;
        let reject = format!("REJ {}", kept.id_text());
        let error =
            format!("E_REJ_FAILED {reject} failed no topic for dead letters; set dead_letter of the channel");
        consumer_of_long.line(&reject).await;
        assert_eq!(consumer_of_long.error().await, error);
        nsqd.admin(&format!("/channel/set?topic={long}&channel=c&dead_letter=dead")).await;
        consumer_of_long.line(&reject).await;
        until_equal("dead letters", 1, async || dead_count(&nsqd, "dead").await).await;

        // Dead letters do not move on unless a setting says so.
        let mut of_letters = consumer(&nsqd, "dead", "redrive").await;
        let letter = of_letters.message().await;
        of_letters.line(format!("REJ {}", letter.id_text())).await;
        assert!(of_letters.error().await.ends_with("set dead_letter of the channel"));
        of_letters.finish(&letter).await;
        nsqd.channel_until_finished("dead", "redrive").await;

        let fatal = format!("REJ {} a\tb", message.id_text());
        peer.line(fatal).await;
        peer.refused("E_INVALID REJ reason contains a control character").await;
    });
}

#[test]
fn rejected_messages_survive_a_kill_as_dead_letters_or_are_delivered_again() {
    test(async {
        let mut nsqd = nsqd().await;
        let numbers: Vec<String> = (0..50).map(|number| number.to_string()).collect();
        nsqd.connect().await.publish_batch("t", &numbers).await;
        let mut peer = consumer(&nsqd, "t", "c").await;
        for message in peer.messages(50).await {
            peer.line(format!("REJ {} bad", message.id_text())).await;
        }
        peer.barrier().await;
        nsqd.kill().await;
        drop(peer);
        nsqd.restart().await;
        // Those that were not moved yet come back, and are rejected again.
        let mut peer = consumer(&nsqd, "t", "c").await;
        wait::until("all are dead letters", async || {
            for message in peer.barrier().await {
                peer.line(format!("REJ {} bad", message.id_text())).await;
            }
            wait::when(dead_count(&nsqd, "t.dead").await, |count| *count == 50)
        })
        .await;
        let headers = dead_headers(&nsqd, "t.dead").await;
        assert!(headers.iter().all(|headers| headers["nsq-dead-error"] == "bad"), "{headers:?}");
        nsqd.channel_until_finished("t", "c").await;
    });
}
