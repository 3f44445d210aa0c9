//! Dead letters: which failures count, what a dead letter is, and that a redrive neither loses nor doubles a message.

use std::collections::BTreeSet;
use std::time::Duration;

use nsq_protocol::headers::{Headers, put_published, split_delivered};
use nsq_tests::auth_server::authorization;
use nsq_tests::daemon::binary;
use nsq_tests::stats::until_equal;
use nsq_tests::wire::Message;
use nsq_tests::{Daemon, Peer, http, test, test_within, wait};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::interop::with_each_library;
use crate::tokens::{BOB, ROOT, TokenFile, request, token};

const DEAD: &str = "orders.dead";

/// An nsqd whose channel `orders/billing` dead-letters after this many failures. `orders` has another channel.
async fn nsqd(max_attempts: u16) -> Daemon {
    let nsqd = Daemon::nsqd().flag("--msg-timeout=1s").start().await;
    prepare(&nsqd, max_attempts).await;
    nsqd
}

async fn prepare(nsqd: &Daemon, max_attempts: u16) {
    nsqd.admin("/topic/create?topic=orders").await;
    for channel in ["billing", "audit"] {
        nsqd.admin(&format!("/channel/create?topic=orders&channel={channel}")).await;
    }
    nsqd.admin(&format!("/channel/set?topic=orders&channel=billing&max_attempts={max_attempts}")).await;
}

/// A consumer that gets headers.
async fn consumer(nsqd: &Daemon, topic: &str, channel: &str) -> Peer {
    let mut peer = nsqd.connect().await;
    peer.identify(json!({"feature_negotiation": true, "features": ["headers"]})).await;
    peer.subscribe(topic, channel).await;
    peer.ready(2500).await;
    peer
}

/// Headers and body of a message for a consumer that gets headers.
fn split(message: &Message) -> (Value, String) {
    let (headers, body) = split_delivered(&message.body).expect("a version");
    let headers =
        headers.map_or(Value::Null, |headers| serde_json::from_slice(headers.as_bytes()).expect("JSON"));
    (headers, String::from_utf8(body.to_vec()).expect("UTF-8"))
}

/// Publishes a message with headers.
async fn publish_with_headers(nsqd: &Daemon, topic: &str, headers: &Value, body: &str) {
    let (text, mut message) = (headers.to_string(), Vec::new());
    put_published(&mut message, Headers::trusted(text.as_bytes()), body.as_bytes());
    let mut peer = nsqd.connect().await;
    peer.line_and_body(format!("PUB_EXT {topic}"), message).await;
    peer.ok().await;
}

/// Requeues this many messages of `orders/billing` once, so that they die if one failure is enough.
async fn fail(nsqd: &Daemon, count: usize) -> Vec<Message> {
    let mut peer = nsqd.subscribe("orders", "billing").await;
    peer.ready(2500).await;
    let messages = peer.messages(count).await;
    // It must not get them again.
    peer.ready(0).await;
    for message in &messages {
        peer.requeue(message, Duration::ZERO).await;
    }
    peer.barrier().await;
    messages
}

/// Publishes messages with a header `number` that die in `orders/billing`.
async fn dead_letters(nsqd: &Daemon, count: usize) {
    let before = dead_count(nsqd).await;
    for number in 0..count {
        let headers = json!({"number": number.to_string()});
        publish_with_headers(nsqd, "orders", &headers, &format!("body {number}")).await;
    }
    fail(nsqd, count).await;
    until_equal("dead letters", before + count as u64, async || dead_count(nsqd).await).await;
}

/// Unfinished messages of the dead-letter topic.
async fn dead_count(nsqd: &Daemon) -> u64 {
    nsqd.channel(DEAD, "redrive").await.map_or(0, |channel| channel.unfinished())
}

async fn unfinished(nsqd: &Daemon, channel: &str) -> u64 {
    nsqd.channel("orders", channel).await.expect("the channel exists").unfinished()
}

async fn delete(nsqd: &Daemon, target: &str) -> http::Response {
    http::request(nsqd.http(), "DELETE", target, b"").await
}

/// Starts a redrive and returns its state at the end.
async fn redrive(nsqd: &Daemon, parameters: &str) -> Value {
    nsqd.post(&format!("/topic/redrive?topic={DEAD}{parameters}"), b"").await.expect(200);
    redriven(nsqd).await
}

async fn redriven(nsqd: &Daemon) -> Value {
    wait::until("the redrive has ended", async || {
        let state = nsqd.get_json(&format!("/topic/redrive?topic={DEAD}")).await;
        wait::when(state, |state| state["state"] != "running")
    })
    .await
}

#[test]
fn requeued_and_timed_out_messages_become_dead_letters_with_headers() {
    test(async {
        let nsqd = nsqd(2).await;
        publish_with_headers(&nsqd, "orders", &json!({"tenant": "acme"}), "requeued").await;
        let first = fail(&nsqd, 1).await;
        assert_eq!(dead_count(&nsqd).await, 0, "one failure of two");
        let second = fail(&nsqd, 1).await;
        assert_eq!((first[0].id, second[0].attempts), (second[0].id, 2));
        nsqd.publish("orders", "timed out").await;
        let mut idle = nsqd.subscribe("orders", "billing").await;
        idle.ready(1).await;
        let timed_out = idle.messages(2).await;
        assert_eq!((timed_out[0].id, timed_out[1].attempts), (timed_out[1].id, 2));

        let mut reader = consumer(&nsqd, DEAD, "redrive").await;
        for (message, body) in [(&second[0], "requeued"), (&timed_out[1], "timed out")] {
            let letter = reader.message().await;
            reader.finish(&letter).await;
            let (headers, got) = split(&letter);
            assert_eq!((got.as_str(), letter.attempts), (body, 1));
            let mut expected = json!({
                "nsq-dead-reason": "attempts", "nsq-dead-topic": "orders", "nsq-dead-channel": "billing",
                "nsq-dead-id": message.id_text(), "nsq-dead-attempts": "2", "nsq-dead-hops": "1",
                "nsq-dead-at": headers["nsq-dead-at"],
            });
            if body == "requeued" {
                expected["tenant"] = "acme".into();
            }
            assert_eq!(headers, expected);
            let at = headers["nsq-dead-at"].as_str().expect("a time");
            assert!(at.starts_with("20") && at.ends_with('Z'), "{at}");
        }
        let stats = nsqd.get_json("/stats?format=json&topic=orders&channel=billing").await;
        let channel = &stats["topics"][0]["channels"][0];
        assert_eq!((&channel["dead_lettered_count"], &channel["depth"]), (&json!(2), &json!(0)));
        assert!(channel["dead_letter_pending"].is_null());
        let text = nsqd.get("/stats?topic=orders").await.text();
        assert!(text.contains("dead letters: 2 msgs, 0 pending"), "{text}");
        let page = nsqd.metrics().await;
        let series = "nsq_channel_dead_letters_total{topic=\"orders\",channel=\"billing\"}";
        assert_eq!((page.value(series), page.value("nsq_redrives_running")), (2.0, 0.0));
        assert_eq!(unfinished(&nsqd, "audit").await, 2, "the other channel keeps its copies");
    });
}

/// Each library consumes with its defaults. It requeues each first delivery, and then finishes.
#[test]
fn unmodified_clients_cause_and_read_dead_letters() {
    with_each_library(async |library| {
        let nsqd = nsqd(1).await;
        let address = nsqd.tcp().to_string();
        let consume = |topic: &str, channel: &str, more: &[&str]| {
            let arguments =
                [&["--nsqd", &address, "--topic", topic, "--channel", channel, "--count", "1"], more]
                    .concat();
            library.run("consume", &arguments)
        };
        publish_with_headers(&nsqd, "orders", &json!({"tenant": "acme"}), "body").await;
        let mut failing = consume("orders", "billing", &["--requeue-ms", "0"]);
        assert_eq!(failing.next("message").await["attempts"], 1, "{library:?}");
        until_equal("the message died", 1, async || dead_count(&nsqd).await).await;
        // The message does not come back; the next one does not die.
        nsqd.admin("/channel/set?topic=orders&channel=billing&max_attempts=3").await;
        nsqd.publish("orders", "next").await;
        let (first, second) = (failing.next("message").await, failing.next("message").await);
        assert_eq!((&first["body"], &second["body"]), (&json!("next"), &json!("next")));
        failing.finish().await;
        let mut reading = consume(DEAD, "redrive", &[]);
        assert_eq!(reading.next("message").await["body"], "body", "{library:?} reads it without headers");
        reading.finish().await;
        nsqd.channel_until_finished(DEAD, "redrive").await;
    });
}

#[test]
fn disconnects_and_restarts_are_no_failures() {
    test(async {
        let mut nsqd = nsqd(2).await;
        nsqd.publish("orders", "x").await;
        let take = async |nsqd: &Daemon| {
            let mut peer = nsqd.subscribe("orders", "billing").await;
            peer.ready(1).await;
            (peer.message().await, peer)
        };
        for attempts in 1..4 {
            let (message, peer) = take(&nsqd).await;
            assert_eq!(message.attempts, attempts);
            drop(peer);
            nsqd.channel_until("orders", "billing", "it is back", |channel| channel.depth == 1).await;
        }
        for round in 0..2 {
            let (_, peer) = take(&nsqd).await;
            match round {
                0 => nsqd.kill().await,
                _ => drop(nsqd.terminate().await),
            }
            drop(peer);
            nsqd.restart().await;
        }
        let (message, mut peer) = take(&nsqd).await;
        peer.requeue(&message, Duration::ZERO).await;
        let again = peer.message().await;
        assert_eq!((again.id, dead_count(&nsqd).await), (message.id, 0), "only the REQ counted");
        peer.requeue(&again, Duration::ZERO).await;
        until_equal("it died of the second failure", 1, async || dead_count(&nsqd).await).await;
    });
}

#[test]
fn failures_and_dead_letters_survive_a_kill() {
    test(async {
        let mut nsqd = nsqd(3).await;
        nsqd.publish("orders", "x").await;
        for failures in 1..=3 {
            fail(&nsqd, 1).await;
            if failures < 3 {
                // Acknowledgements are written with the next publish, or a little later.
                nsqd.publish("other", "x").await;
            } else {
                until_equal("it died", 1, async || dead_count(&nsqd).await).await;
            }
            nsqd.kill().await;
            nsqd.restart().await;
        }
        assert_eq!((dead_count(&nsqd).await, unfinished(&nsqd, "billing").await), (1, 0));
        let summary = nsqd.get_json("/topic/dead?topic=orders.dead").await;
        assert_eq!((&summary["dead_letters_of"], &summary["total"]), (&json!("orders"), &json!(1)));
    });
}

#[test]
fn redriven_message_returns_only_to_its_channel_and_is_as_published() {
    test(async {
        let nsqd = nsqd(1).await;
        let headers = json!({"tenant": "acme"});
        publish_with_headers(&nsqd, "orders", &headers, "with").await;
        nsqd.publish("orders", "plain").await;
        let died = fail(&nsqd, 2).await;
        until_equal("they died", 2, async || dead_count(&nsqd).await).await;
        let state = redrive(&nsqd, "").await;
        assert_eq!(
            (&state["state"], &state["moved"], &state["examined"]),
            (&json!("completed"), &json!(2), &json!(2))
        );
        assert_eq!((dead_count(&nsqd).await, unfinished(&nsqd, "audit").await), (0, 2));
        let mut peer = consumer(&nsqd, "orders", "billing").await;
        let messages = peer.messages(2).await;
        let parts: BTreeSet<(String, String)> =
            (messages.iter().map(split)).map(|(headers, body)| (body, headers.to_string())).collect();
        let expected = [("plain", Value::Null), ("with", headers)];
        assert_eq!(parts, expected.map(|(body, headers)| (body.to_owned(), headers.to_string())).into());
        for message in &messages {
            assert!(
                died.iter().all(|died| died.id != message.id) && message.attempts == 1,
                "it is a new message"
            );
            peer.finish(message).await;
        }
        nsqd.channel_until_finished("orders", "billing").await;
        // A channel that is created later does not get them either.
        nsqd.admin("/channel/create?topic=orders&channel=late").await;
        assert_eq!(unfinished(&nsqd, "late").await, 0);
    });
}

#[test]
fn redrive_takes_filter_id_max_rate_destination_and_dry_run() {
    test(async {
        let nsqd = nsqd(1).await;
        dead_letters(&nsqd, 10).await;
        let plan = |parameters: &str| format!("/topic/redrive?topic={DEAD}&dry_run=true{parameters}");
        let answer = nsqd.post(&plan("&filter=number!=3"), b"").await.expect(200).json();
        let destination =
            json!({"topic_name": "orders", "channel_name": "billing", "exists": true, "count": 9});
        assert_eq!((&answer["moved"], &answer["destinations"]), (&json!(9), &json!([destination])));
        assert_eq!(dead_count(&nsqd).await, 10, "a dry run moves nothing");

        let page = nsqd.get_json(&format!("/topic/dead/messages?topic={DEAD}&filter=number=7")).await;
        let died_as = page["messages"][0]["headers"]["nsq-dead-id"].as_str().expect("an id").to_owned();
        assert_eq!(redrive(&nsqd, &format!("&id={died_as}")).await["moved"], 1);
        assert_eq!(redrive(&nsqd, "&filter=number=[01]").await["moved"], 2);
        assert_eq!(redrive(&nsqd, "&max=2").await["moved"], 2);
        assert_eq!((dead_count(&nsqd).await, unfinished(&nsqd, "billing").await), (5, 5));

        nsqd.admin("/topic/create?topic=retest").await;
        for channel in ["a", "b"] {
            nsqd.admin(&format!("/channel/create?topic=retest&channel={channel}")).await;
        }
        assert_eq!(redrive(&nsqd, "&max=1&to=retest").await["moved"], 1);
        assert_eq!(redrive(&nsqd, "&max=1&to=retest/b").await["to"], "retest/b");
        let depth = async |channel: &str| nsqd.channel("retest", channel).await.expect("it exists").depth;
        assert_eq!((depth("a").await, depth("b").await), (1, 2));

        // Slow enough to be stopped after the first message.
        nsqd.post(&format!("/topic/redrive?topic={DEAD}&rate=1"), b"").await.expect(200);
        let again = nsqd.post(&format!("/topic/redrive?topic={DEAD}"), b"").await.expect(409).json();
        assert!(again["message"].as_str().expect("a text").starts_with("REDRIVE_RUNNING: "), "{again}");
        assert_eq!(nsqd.metrics().await.value("nsq_redrives_running"), 1.0);
        let stopped = delete(&nsqd, &format!("/topic/redrive?topic={DEAD}")).await.expect(200).json();
        assert_eq!(stopped["state"], "stopped", "{stopped}");
        assert!(stopped["moved"].as_u64().expect("a number") < 3, "{stopped}");
    });
}

#[test]
fn redrive_leaves_messages_whose_channel_does_not_exist() {
    test(async {
        let nsqd = nsqd(1).await;
        dead_letters(&nsqd, 3).await;
        nsqd.admin("/channel/delete?topic=orders&channel=billing").await;
        let plan =
            nsqd.post(&format!("/topic/redrive?topic={DEAD}&dry_run=true"), b"").await.expect(200).json();
        assert_eq!((&plan["moved"], &plan["without_channel"]), (&json!(0), &json!(3)));
        let state = redrive(&nsqd, "").await;
        assert_eq!((&state["moved"], &state["without_channel"]), (&json!(0), &json!(3)));
        assert_eq!(dead_count(&nsqd).await, 3);
        nsqd.admin("/channel/create?topic=orders&channel=billing").await;
        // They do not count in `max`: later messages are moved.
        nsqd.admin("/channel/set?topic=orders&channel=audit&max_attempts=1").await;
        nsqd.admin("/channel/empty?topic=orders&channel=audit").await;
        nsqd.publish("orders", "x").await;
        let mut peer = nsqd.subscribe("orders", "audit").await;
        peer.ready(1).await;
        let message = peer.message().await;
        peer.requeue(&message, Duration::ZERO).await;
        until_equal("it died", 4, async || dead_count(&nsqd).await).await;
        nsqd.admin("/channel/delete?topic=orders&channel=billing").await;
        let state = redrive(&nsqd, "&max=1").await;
        assert_eq!((&state["moved"], &state["without_channel"]), (&json!(1), &json!(3)));
        nsqd.admin("/channel/create?topic=orders&channel=billing").await;
        assert_eq!(redrive(&nsqd, "").await["moved"], 3);
    });
}

#[test]
fn dead_letters_are_counted_and_listed_in_pages() {
    test(async {
        let nsqd = nsqd(1).await;
        dead_letters(&nsqd, 7).await;
        nsqd.publish(DEAD, [0xff, 0xfe]).await;
        let summary = nsqd.get_json(&format!("/topic/dead?topic={DEAD}")).await;
        assert_eq!(
            (&summary["total"], &summary["examined"], &summary["more"]),
            (&json!(8), &json!(8), &json!(false))
        );
        let group = &summary["groups"][0];
        assert_eq!(
            (&group["reason"], &group["channel_name"], &group["count"]),
            (&json!("attempts"), &json!("billing"), &json!(7))
        );
        assert_eq!(
            summary["groups"][1],
            json!({"reason": "", "topic_name": "", "channel_name": "", "count": 1})
        );
        assert_eq!(summary["oldest_at"], group["oldest_at"]);
        let part = nsqd.get_json(&format!("/topic/dead?topic={DEAD}&limit=3")).await;
        assert_eq!((&part["examined"], &part["more"]), (&json!(3), &json!(true)));

        let (mut bodies, mut from, mut pages) = (Vec::new(), 0, 0);
        loop {
            let page = nsqd.get_json(&format!("/topic/dead/messages?topic={DEAD}&limit=3&from={from}")).await;
            bodies.extend(page["messages"].as_array().expect("an array").iter().cloned());
            pages += 1;
            match page["next"].as_u64() {
                Some(next) => from = next,
                None => break,
            }
        }
        assert_eq!((bodies.len(), pages), (8, 3));
        assert_eq!((&bodies[2]["body"], &bodies[2]["headers"]["number"]), (&json!("body 2"), &json!("2")));
        assert_eq!((&bodies[7]["body_base64"], &bodies[7]["headers"]), (&json!("//4="), &json!({})));
        assert_eq!(dead_count(&nsqd).await, 8, "reading changes nothing");
    });
}

#[test]
fn dead_letters_are_deleted_by_selection() {
    test(async {
        let mut nsqd = nsqd(1).await;
        dead_letters(&nsqd, 10).await;
        let delete = async |nsqd: &Daemon, parameters: &str| {
            let target = format!("/topic/dead/delete?topic={DEAD}{parameters}");
            nsqd.post(&target, b"").await.expect(200).json()["deleted"].as_u64()
        };
        assert_eq!(delete(&nsqd, "&filter=number=[0-3]&dry_run=true").await, Some(4));
        assert_eq!(delete(&nsqd, "&filter=number=[0-3]&max=3").await, Some(3));
        assert_eq!(dead_count(&nsqd).await, 7);
        nsqd.kill().await;
        nsqd.restart().await;
        let page = nsqd.get_json(&format!("/topic/dead/messages?topic={DEAD}")).await;
        let numbers: Vec<_> = page["messages"].as_array().expect("an array").iter().collect();
        assert_eq!((numbers.len(), &numbers[0]["headers"]["number"]), (7, &json!("3")));
        assert_eq!(delete(&nsqd, "").await, Some(7));
        assert_eq!(dead_count(&nsqd).await, 0);
    });
}

#[test]
fn wrong_requests_are_refused_with_key_and_value() {
    test(async {
        let nsqd = nsqd(1).await;
        nsqd.get("/topic/dead?topic=none").await.expect_error(404, "TOPIC_NOT_FOUND");
        dead_letters(&nsqd, 1).await;
        for (method, target, status, answer) in [
            ("GET", "/topic/dead?topic=orders", 404, "NO_DEAD_LETTERS: "),
            (
                "GET",
                "/topic/dead?topic=orders.dead&limit=0",
                400,
                "INVALID_ARG_LIMIT: limit=0: expected a number from 1",
            ),
            (
                "GET",
                "/topic/dead/messages?topic=orders.dead&from=x",
                400,
                "INVALID_ARG_FROM: from=x: expected",
            ),
            ("GET", "/topic/dead/messages?topic=orders.dead&filter=x", 400, "INVALID_ARG_FILTER: filter=x: "),
            ("POST", "/topic/dead/delete?topic=orders.dead&fliter=a=b", 400, "UNKNOWN_ARG: "),
            (
                "POST",
                "/topic/redrive?topic=orders.dead&rate=fast",
                400,
                "INVALID_ARG_RATE: rate=fast: expected",
            ),
            (
                "POST",
                "/topic/redrive?topic=orders.dead&to=orders.dead",
                400,
                "INVALID_ARG_TO: to=orders.dead: the messages",
            ),
            (
                "POST",
                "/topic/redrive?topic=orders.dead&to=none",
                400,
                "INVALID_ARG_TO: to=none: no such topic",
            ),
            (
                "POST",
                "/topic/redrive?topic=orders.dead&to=orders/none",
                400,
                "INVALID_ARG_TO: to=orders/none: the topic",
            ),
            ("POST", "/topic/redrive?topic=orders", 404, "NO_DEAD_LETTERS: "),
            ("GET", "/topic/redrive?topic=orders.dead", 404, "REDRIVE_NOT_FOUND"),
            ("DELETE", "/topic/redrive?topic=orders.dead", 404, "REDRIVE_NOT_FOUND"),
        ] {
            let answered = http::request(nsqd.http(), method, target, b"").await.expect(status).json();
            let message = answered["message"].as_str().expect("a text");
            assert!(message.starts_with(answer), "{method} {target}: {message}");
        }
        let hint = nsqd.get("/topic/dead?topic=orders").await.text();
        assert!(hint.contains("the dead letters of orders are in orders.dead"), "{hint}");
        assert_eq!(dead_count(&nsqd).await, 1);
    });
}

#[test]
fn reading_and_redirecting_dead_letters_need_their_own_permissions() {
    test(async {
        let only = |channel, permission| json!([authorization("^orders\\.dead$", &[channel], &[permission])]);
        let entries =
            [token("bob", BOB, only("^redrive$", "subscribe")), token("root", ROOT, only("^$", "admin"))];
        let file = TokenFile::new(&entries);
        let nsqd = Daemon::nsqd().flag(file.flag()).flag("--http-auth").start().await;
        // 404: the request is allowed, and the topic does not exist.
        for (method, target, of_bob, of_root) in [
            ("GET", "/topic/dead/messages?topic=orders.dead", 404, 403),
            ("GET", "/topic/dead/messages?topic=other.dead", 403, 403),
            ("GET", "/topic/dead?topic=orders.dead", 403, 404),
            ("POST", "/topic/redrive?topic=orders.dead", 403, 404),
            ("POST", "/topic/redrive?topic=orders.dead&to=secret", 403, 403),
            ("POST", "/topic/redrive?topic=orders.dead&to=secret/c", 403, 403),
            ("POST", "/topic/dead/delete?topic=orders.dead", 403, 404),
        ] {
            for (identity, expected) in [("bob", of_bob), ("root", of_root)] {
                let status = request(&nsqd, method, target, Some(identity)).await.status;
                assert_eq!(status, expected, "{method} {target} with the token of {identity}");
            }
        }
    });
}

/// Dead-letter topics that name each other.
#[test]
fn a_message_dies_at_most_three_times_in_a_row() {
    test(async {
        let nsqd = nsqd(1).await;
        nsqd.admin("/channel/set?topic=orders&channel=billing&dead_letter=loop").await;
        nsqd.publish("orders", "x").await;
        fail(&nsqd, 1).await;
        wait::until("the dead-letter topic exists", async || nsqd.channel("loop", "redrive").await.ok_or(()))
            .await;
        nsqd.admin("/channel/set?topic=loop&channel=redrive&max_attempts=1&dead_letter=loop").await;
        let mut peer = consumer(&nsqd, "loop", "redrive").await;
        for hops in 1..4 {
            let message = peer.message().await;
            assert_eq!(split(&message).0["nsq-dead-hops"], hops.to_string());
            peer.requeue(&message, Duration::ZERO).await;
        }
        nsqd.log().expect("were dead letters 3 times and are delivered again").await;
        let message = peer.message().await;
        assert_eq!((split(&message).0["nsq-dead-hops"].as_str(), message.attempts), (Some("3"), 2));
        peer.finish(&message).await;
        nsqd.channel_until_finished("loop", "redrive").await;
    });
}

#[test]
fn a_limit_that_clients_do_not_reach_is_logged() {
    test(async {
        let nsqd = nsqd(5).await;
        assert!(!nsqd.log().contains("go-nsq"), "{}", nsqd.log().text());
        nsqd.admin("/channel/set?topic=orders&channel=billing&max_attempts=6").await;
        nsqd.log().expect("CHANNEL(orders/billing): max_attempts=6: go-nsq, pynsq and gnsq finish").await;
    });
}

/// Number of messages in [`killed_redrives_neither_lose_nor_double_a_message`], such as 100000.
const COUNT: &str = "NSQ_TESTS_REDRIVE_MESSAGES";
/// How many times it kills nsqd, such as 20.
const ROUNDS: &str = "NSQ_TESTS_REDRIVE_ROUNDS";

fn from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// nsqd is killed at random moments while messages die and while they are moved back. Each message is always in exactly
/// one of the two channels.
#[test]
fn killed_redrives_neither_lose_nor_double_a_message() {
    let (count, rounds) = (from_environment(COUNT, 3000), from_environment(ROUNDS, 4));
    test_within(Duration::from_secs(60 + count as u64 / 100 + 10 * rounds as u64), async {
        let mut random = SmallRng::seed_from_u64(7);
        let mut nsqd = Daemon::nsqd().flag("--msg-timeout=10m").flag("--mem-queue-size=1000").start().await;
        prepare(&nsqd, 1).await;
        nsqd.admin("/channel/delete?topic=orders&channel=audit").await;
        let mut producer = nsqd.connect().await;
        let bodies: Vec<String> = (0..count).map(|number| number.to_string()).collect();
        for batch in bodies.chunks(1000) {
            producer.publish_batch("orders", batch).await;
        }
        drop(producer);
        let (mut deaths, mut moves) = (0, 0);
        for round in 0..rounds {
            // Half of the rounds kill it while messages die, the others while they are moved back.
            if round % 2 == 0 {
                let waiting = unfinished(&nsqd, "billing").await;
                let kill_after = Duration::from_millis(random.random_range(1..500));
                requeue_until(&nsqd, waiting, kill_after).await;
                deaths += 1;
            } else {
                until_dead(&nsqd, count as u64).await;
                nsqd.post(&format!("/topic/redrive?topic={DEAD}"), b"").await.expect(200);
                let share = random.random_range(0..count as u64);
                wait_for_moved(&nsqd, share).await;
                moves += 1;
            }
            nsqd.kill().await;
            nsqd.restart().await;
            // What died just before the kill may be on its way.
            let (alive, dead) = wait::until("each message is in one place", async || {
                let places = (unfinished(&nsqd, "billing").await, dead_count(&nsqd).await);
                wait::when(places, |(alive, dead)| alive + dead == count as u64)
            })
            .await;
            eprintln!("round {round}: {alive} alive, {dead} dead");
        }
        assert!(deaths > 0 && (moves > 0 || rounds < 2));
        let mut found = Vec::with_capacity(count);
        nsqd.admin("/channel/set?topic=orders&channel=billing&max_attempts=default").await;
        for (topic, channel) in [("orders", "billing"), (DEAD, "redrive")] {
            let Some(here) = nsqd.channel(topic, channel).await else { continue };
            let mut peer = nsqd.subscribe(topic, channel).await;
            peer.ready(2500).await;
            let messages = peer.consume(usize::try_from(here.unfinished()).expect("it fits")).await;
            found.extend(messages.iter().map(|message| message.text().parse::<usize>().expect("a number")));
        }
        let distinct: BTreeSet<usize> = found.iter().copied().collect();
        assert_eq!((found.len(), distinct.len()), (count, count), "none is lost, none is doubled");
    });
}

/// Requeues messages until some time has passed.
async fn requeue_until(nsqd: &Daemon, most: u64, time: Duration) {
    let requeue = async {
        let mut peer = nsqd.subscribe("orders", "billing").await;
        peer.ready(2500).await;
        for _ in 0..most {
            let message = peer.message().await;
            peer.requeue(&message, Duration::ZERO).await;
        }
        peer.barrier().await;
    };
    let _ = tokio::time::timeout(time, requeue).await;
}

/// Requeues all messages and waits until they are dead letters.
async fn until_dead(nsqd: &Daemon, count: u64) {
    let waiting = unfinished(nsqd, "billing").await;
    requeue_until(nsqd, waiting, Duration::from_secs(600)).await;
    let dead = async || wait::when(dead_count(nsqd).await, |dead| *dead == count);
    wait::until_within(Duration::from_secs(120), "all messages are dead letters", dead).await;
}

/// Waits until a redrive has moved this many, or has ended.
async fn wait_for_moved(nsqd: &Daemon, least: u64) {
    let moved = async || {
        let state = nsqd.get_json(&format!("/topic/redrive?topic={DEAD}")).await;
        wait::when(state, |state| {
            state["state"] != "running" || state["moved"].as_u64().is_some_and(|moved| moved >= least)
        })
    };
    wait::until_within(Duration::from_secs(120), "a part is moved", moved).await;
}

// The command

/// Exit code, stdout and stderr of `nsq` for these nodes.
async fn nsq(nodes: &[&Daemon], line: &str) -> (i32, String, String) {
    let mut command = Command::new(binary("nsq"));
    command.args(line.split(' '));
    for node in nodes {
        command.arg("--nsqd").arg(node.http().to_string());
    }
    let output = command.kill_on_drop(true).output().await.expect("nsq starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

#[test]
fn dead_letters_of_all_nodes_are_administered() {
    test(async {
        let (first, second) = (nsqd(1).await, nsqd(1).await);
        let nodes = [&first, &second];
        let (code, out, _) = nsq(&nodes, "dead ls --json").await;
        assert_eq!((code, out.as_str()), (0, "{\"node_errors\":[],\"topics\":[]}\n"));
        let (code, _, error) = nsq(&nodes, "dead show orders").await;
        assert!(code == 4 && error.contains("nsq channel set orders CHANNEL max_attempts=5"), "{error}");
        dead_letters(&first, 3).await;
        dead_letters(&second, 4).await;

        let (code, out, _) = nsq(&nodes, "dead ls").await;
        let rows: Vec<Vec<&str>> = out.lines().skip(1).map(|line| line.split('\t').collect()).collect();
        assert_eq!((code, &rows[0][..4]), (0, &[DEAD, "7", "attempts", "orders/billing"][..]));
        let (code, out, _) = nsq(&nodes, "dead show orders.dead --limit 5 --filter number!=0 --json").await;
        let shown: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!((code, shown["messages"].as_array().map(Vec::len)), (0, Some(5)));
        let (_, out, _) = nsq(&nodes, "dead show orders.dead --filter number=2").await;
        assert_eq!(out.matches("died in orders/billing as ").count(), 2, "{out}");
        assert!(out.contains("  number: 2\n  body 2\n"), "{out}");

        let (code, _, error) = nsq(&nodes, "dead ls orders").await;
        assert!(
            code == 4 && error.contains("its dead letters are in orders.dead: nsq dead ls orders.dead"),
            "{error}"
        );
        let (code, _, error) = nsq(&nodes, "dead redrive ordres.dead").await;
        assert!(code == 4 && error.contains("did you mean orders.dead?"), "{error}");

        let (code, out, _) = nsq(&nodes, "dead redrive orders.dead --dry-run").await;
        assert_eq!((code, out.matches("\torders/billing\t").count()), (0, 2), "{out}");
        let (code, out, error) = nsq(&nodes, "dead redrive orders.dead --max 5 --json").await;
        let moved: Value = serde_json::from_str(&out).expect("JSON");
        let counts: Vec<_> =
            moved["nodes"].as_array().expect("nodes").iter().map(|node| node["moved"].as_u64()).collect();
        assert_eq!(counts.iter().flatten().sum::<u64>(), 5, "{out} {error}");
        assert_eq!((code, dead_count(&first).await + dead_count(&second).await), (0, 2));

        let (code, _, error) = nsq(&nodes, "dead delete orders.dead").await;
        assert!(code == 5 && error.contains("use --yes"), "{error}");
        let (code, out, _) = nsq(&nodes, "dead delete orders.dead --dry-run").await;
        assert_eq!((code, out.as_str()), (0, "2 dead letters of orders.dead would be deleted on 2 nodes\n"));
        let (code, _, _) = nsq(&nodes, "dead delete orders.dead --yes --max 1").await;
        assert_eq!((code, dead_count(&first).await + dead_count(&second).await), (0, 1));
        let (code, _, _) = nsq(&nodes, "dead delete orders.dead --yes").await;
        assert_eq!((code, dead_count(&first).await + dead_count(&second).await), (0, 0));
    });
}

#[test]
fn a_running_redrive_is_reported_and_stopped() {
    test(async {
        let nsqd = nsqd(1).await;
        dead_letters(&nsqd, 20).await;
        let (code, _, error) = nsq(&[&nsqd], "dead stop orders.dead").await;
        assert!(code == 4 && error.contains("no redrive of orders.dead"), "{error}");
        let (code, out, _) = nsq(&[&nsqd], "dead redrive orders.dead --rate 1 --no-wait").await;
        assert!(code == 0 && out.contains("\trunning\t"), "{out}");
        let (code, _, error) = nsq(&[&nsqd], "dead redrive orders.dead").await;
        assert!(code == 1 && error.contains("nsq dead stop orders.dead"), "{code} {error}");
        let (code, out, _) = nsq(&[&nsqd], "dead stop orders.dead").await;
        assert!(code == 0 && out.contains("\tstopped\t"), "{out}");
        let (code, out, _) = nsq(&[&nsqd], "dead redrive orders.dead").await;
        assert!(code == 0 && out.contains("\tcompleted\t"), "{out}");
        assert_eq!(dead_count(&nsqd).await, 0);
    });
}
