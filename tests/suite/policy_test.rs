use std::time::{Duration, Instant};

use nsq_tests::{Daemon, test, wait};
use serde_json::{Value, json};

const ORDERS: &str = "[[policy]]\ntopic = 'orders'\n";
const CHANNELS: &str = "[[policy]]\ntopic = 'orders'\nchannel = '*'\n";

/// Tests a policy file.
async fn test_file(nsqd: &Daemon, query: &str, file: &str) -> Value {
    nsqd.post(&format!("/policy/test{query}"), file).await.expect(200).json()
}

/// The topic `orders` in an answer.
fn orders(answer: &Value) -> &Value {
    let topics = answer["topics"].as_array().expect("an array");
    topics.iter().find(|topic| topic["topic_name"] == "orders").expect("the topic is tested")
}

fn channel<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let channels = orders(answer)["channels"].as_array().expect("an array");
    channels.iter().find(|channel| channel["channel_name"] == name).expect("the channel is tested")
}

/// An nsqd with the topic `orders` and its channel `c`.
async fn daemon() -> Daemon {
    let nsqd = Daemon::nsqd().flag("--mem-queue-size=10").start().await;
    nsqd.admin("/topic/create?topic=orders").await;
    nsqd.admin("/channel/create?topic=orders&channel=c").await;
    nsqd
}

async fn publish_with_ids(nsqd: &Daemon, ids: &[&str]) {
    for id in ids {
        nsqd.post(&format!("/pub?topic=orders&id={id}"), "body").await.expect(200);
    }
}

async fn consume_all(nsqd: &Daemon, count: usize) {
    let mut peer = nsqd.subscribe("orders", "c").await;
    peer.ready(100).await;
    peer.consume(count).await;
    wait::until("all messages are finished", async || {
        let channel = nsqd.channel("orders", "c").await.expect("the channel exists");
        wait::when(channel.depth as usize + channel.in_flight_count as usize, |left| *left == 0)
    })
    .await;
}

#[test]
fn messages_that_would_expire_are_counted_and_stay() {
    test(async {
        let mut nsqd = daemon().await;
        nsqd.admin("/channel/create?topic=orders&channel=short").await;
        nsqd.connect().await.publish_batch("orders", &vec!["x"; 40]).await;
        nsqd.connect().await.publish_deferred("orders", Duration::from_secs(3600), "deferred").await;
        let published_at = Instant::now();
        let mut peer = nsqd.subscribe("orders", "short").await;
        peer.ready(3).await;
        peer.messages(3).await;
        let age = async || wait::when(published_at.elapsed(), |age| *age > Duration::from_millis(50));
        wait::until("the messages are old enough", age).await;
        let file = format!(
            "{ORDERS}ttl = '40ms'\n[[policy]]\ntopic = 'orders'\nchannel = 'short'\nttl = '10ms'\ndead_letter = 'dead'\n"
        );
        for restarted in [false, true] {
            if restarted {
                nsqd.kill().await;
                nsqd.restart().await;
            }
            let answer = test_file(&nsqd, "", &file).await;
            assert_eq!((&answer["complete"], &answer["policies"]), (&json!(true), &json!(2)), "{answer}");
            let (c, short) = (channel(&answer, "c"), channel(&answer, "short"));
            assert_eq!((&c["unfinished_count"], &c["expired_count"]), (&json!(41), &json!(40)), "{answer}");
            // A restart puts messages in flight back.
            let expected = if restarted { 40 } else { 37 };
            assert_eq!((&short["unfinished_count"], &short["expired_count"]), (&json!(41), &json!(expected)));
            assert_eq!(
                (&c["expired_become_dead_letters"], &c["dead_letter_count"]),
                (&json!(false), &Value::Null)
            );
            assert_eq!(
                (&short["expired_become_dead_letters"], &short["dead_letter_topic"]),
                (&json!(true), &json!("dead"))
            );
        }
        assert_eq!(
            nsqd.channel("orders", "c").await.map(|channel| channel.depth),
            Some(40),
            "nothing has changed"
        );
        let explained = nsqd.get_json("/policy/explain?topic=orders").await;
        assert!(!explained.to_string().contains("40ms"), "{explained}");
        let young = format!("{ORDERS}ttl = '1h'\n");
        assert_eq!(channel(&test_file(&nsqd, "", &young).await, "c")["expired_count"], 0);
        let bounded = format!("{ORDERS}max_depth = 30\n");
        assert_eq!(channel(&test_file(&nsqd, "", &bounded).await, "c")["overflow_count"], 11);
    });
}

#[test]
fn duplicates_among_retained_messages_are_counted() {
    test(async {
        let mut nsqd = daemon().await;
        nsqd.admin("/topic/set?topic=orders&retain_for=1h").await;
        publish_with_ids(&nsqd, &["a", "b", "a", "c", "a"]).await;
        nsqd.publish("orders", "without an id").await;
        consume_all(&nsqd, 6).await;
        let file = format!("{ORDERS}dedupe = '5m'\n");
        for restarted in [false, true] {
            if restarted {
                assert!(nsqd.terminate().await.success());
                nsqd.restart().await;
            }
            let answer = test_file(&nsqd, "?since=1h", &file).await;
            let topic = orders(&answer);
            assert_eq!((&answer["complete"], &answer["examined"]), (&json!(true), &json!(6)), "{answer}");
            assert_eq!((&topic["message_count"], &topic["examined"]), (&json!(6), &json!(6)));
            assert_eq!((&topic["id_count"], &topic["duplicate_count"]), (&json!(5), &json!(2)));
            assert_eq!(
                (&topic["retains"], &channel(&answer, "c")["unfinished_count"]),
                (&json!(true), &json!(0))
            );
        }
        let limited = test_file(&nsqd, "?limit=3", &file).await;
        let topic = orders(&limited);
        assert_eq!((&limited["complete"], &limited["stopped_by"]), (&json!(false), &json!("messages")));
        assert_eq!((&topic["complete"], &topic["examined"]), (&json!(false), &json!(3)));
        assert_eq!(topic["duplicate_count"], 1);
        assert!(topic["examined_until"].is_i64(), "{topic}");
        let before = test_file(&nsqd, "?since=0s", &file).await;
        assert_eq!((&orders(&before)["message_count"], &before["complete"]), (&json!(0), &json!(true)));
        let without = test_file(&nsqd, "", &format!("{ORDERS}owner = 'shop'\n")).await;
        assert_eq!((&without["examined"], &orders(&without)["duplicate_count"]), (&json!(0), &Value::Null));
    });
}

#[test]
fn a_topic_that_retains_nothing_has_only_unfinished_messages() {
    test(async {
        let nsqd = daemon().await;
        publish_with_ids(&nsqd, &["a", "a"]).await;
        let answer = test_file(&nsqd, "", &format!("{ORDERS}dedupe = '5m'\nretain_for = '1h'\n")).await;
        let topic = orders(&answer);
        assert_eq!((&topic["retains"], &topic["retention"]), (&json!(false), &Value::Null), "{answer}");
        assert_eq!(topic["duplicate_count"], 1);
    });
}

#[test]
fn failures_count_if_they_are_known_and_deliveries_otherwise() {
    test(async {
        let nsqd = daemon().await;
        nsqd.admin("/channel/create?topic=orders&channel=counts").await;
        nsqd.admin("/channel/set?topic=orders&channel=counts&max_attempts=10").await;
        nsqd.connect().await.publish_batch("orders", &["a", "b", "c"]).await;
        let mut peers = Vec::new();
        for name in ["c", "counts"] {
            let mut peer = nsqd.subscribe("orders", name).await;
            peer.ready(3).await;
            let messages = peer.messages(3).await;
            peer.ready(0).await;
            peer.requeue(&messages[0], Duration::ZERO).await;
            peer.requeue(&messages[1], Duration::from_secs(600)).await;
            peer.barrier().await;
            peers.push(peer);
        }
        let file = |limit: u8| format!("{CHANNELS}max_attempts = {limit}\n");
        let found = |answer: &Value, name: &str| {
            let channel = channel(answer, name);
            (channel["dead_letter_count"].clone(), channel["counted_by"].clone())
        };
        let answer = test_file(&nsqd, "", &file(1)).await;
        assert_eq!(found(&answer, "c"), (json!(2), json!("deliveries")), "{answer}");
        assert_eq!(found(&answer, "counts"), (json!(0), json!("failures")), "its own setting wins");
        let answer = test_file(&nsqd, "?as=settings", &file(1)).await;
        assert_eq!(found(&answer, "counts"), (json!(2), json!("failures")), "{answer}");
        assert_eq!(channel(&answer, "counts")["dead_letter_topic"], "orders.dead");
        let answer = test_file(&nsqd, "?as=settings", &file(2)).await;
        assert_eq!((found(&answer, "c").0, found(&answer, "counts").0), (json!(0), json!(0)));
        // What the test says happens.
        nsqd.admin("/channel/set?topic=orders&channel=counts&max_attempts=1").await;
        wait::until("two messages are dead letters", async || {
            let channel = nsqd.channel("orders.dead", "redrive").await;
            wait::when(channel.map_or(0, |channel| channel.depth), |depth| *depth == 2)
        })
        .await;
    });
}

#[test]
fn retention_that_would_delete_messages_is_measured() {
    test(async {
        let nsqd = daemon().await;
        nsqd.admin("/topic/set?topic=orders&retain_for=1h").await;
        let body = vec![b'x'; 5000];
        for _ in 0..10 {
            nsqd.connect().await.publish_batch("orders", &vec![&body[..]; 20]).await;
        }
        let test_all = async |setting: &str| {
            let answer = test_file(&nsqd, "?as=settings", &format!("{ORDERS}{setting}\n")).await;
            orders(&answer)["retention"].clone()
        };
        let nothing_finished = test_all("retain_bytes = 1").await;
        assert_eq!(nothing_finished["deleted_count"], 0, "{nothing_finished}");
        consume_all(&nsqd, 200).await;
        let kept = test_all("retain_for = '1h'").await;
        assert_eq!((&kept["retained_count"], &kept["deleted_count"]), (&json!(200), &json!(0)));
        let all = test_all("retain_for = '0'").await;
        assert_eq!(all["deleted_count"], 200, "{all}");
        assert_eq!(all["deleted_bytes"], all["retained_bytes"], "{all}");
        let some = test_all("retain_bytes = '500KiB'").await;
        let number = |key: &str| some[key].as_u64().expect("a number");
        assert!((1..200).contains(&number("deleted_count")), "{some}");
        assert!(number("retained_bytes") - number("deleted_bytes") <= 500 << 10, "{some}");
    });
}

#[test]
fn invalid_requests_are_refused() {
    test(async {
        let nsqd = daemon().await;
        let refused = async |query: &str, file: &str, status: u16| {
            let answer = nsqd.post(&format!("/policy/test{query}"), file).await.expect(status).json();
            answer["message"].as_str().expect("an error").to_owned()
        };
        let reason = refused("", &format!("{ORDERS}ttl = 'soon'\n"), 400).await;
        assert!(reason.starts_with("INVALID_POLICIES: line 3: ttl=soon: "), "{reason}");
        assert!(refused("", "", 400).await.starts_with("INVALID_POLICIES: the body is empty"));
        assert!(refused("?since=1", ORDERS, 400).await.starts_with("INVALID_ARG_SINCE: since=1:"));
        assert!(refused("?snice=1h", ORDERS, 400).await.starts_with("UNKNOWN_ARG: \"snice\""));
        assert_eq!(refused("?topic=other", ORDERS, 404).await, "TOPIC_NOT_FOUND");
        assert_eq!(refused("?topic=a%20b", ORDERS, 400).await, "INVALID_TOPIC");
        let long = format!("# {}\n", "x".repeat(1 << 20));
        assert!(refused("", &long, 413).await.starts_with("BODY_TOO_BIG"));
        let other = test_file(&nsqd, "", "[[policy]]\ntopic = 'other'\nttl = '1h'\n").await;
        assert_eq!((&other["topics"], &other["complete"]), (&json!([]), &json!(true)));
    });
}
