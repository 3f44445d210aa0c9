//! Looking at messages, cancelling and rescheduling one: over HTTP, with the `nsq` command and with the client crate.

use std::time::Duration;

use nsq::admin::{NsqdClient, PeekQuery};
use nsq_protocol::headers::{Headers, put_published};
use nsq_tests::auth_server::authorization;
use nsq_tests::daemon::binary;
use nsq_tests::stats::until_equal;
use nsq_tests::{AuthServer, Daemon, test, test_within, wait};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::tokens::{ALICE, BOB, ROOT, TokenFile, request, token};

/// An nsqd with the channel `t/c`.
async fn nsqd() -> Daemon {
    let nsqd = Daemon::nsqd().start().await;
    prepare(&nsqd).await;
    nsqd
}

async fn prepare(nsqd: &Daemon) {
    nsqd.admin("/topic/create?topic=t").await;
    nsqd.admin("/channel/create?topic=t&channel=c").await;
}

/// Publishes a message and returns its id.
async fn publish(nsqd: &Daemon, more: &str, body: &str) -> String {
    let answer = nsqd.post(&format!("/pub?topic=t&return=id{more}"), body).await.expect(200);
    answer.json()["id"].as_str().expect("an id").to_owned()
}

/// The messages and the last line of a peek.
async fn peek(nsqd: &Daemon, target: &str) -> (Vec<Value>, Value) {
    let text = nsqd.get(target).await.expect(200).text();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let end = lines.pop().expect("a last line")["end"].take();
    assert!(end.is_object(), "{text}");
    (lines, end)
}

async fn bodies(nsqd: &Daemon, parameters: &str) -> Vec<String> {
    let (messages, _) = peek(nsqd, &format!("/channel/peek?topic=t&channel=c{parameters}")).await;
    messages.iter().map(|message| message["body"].as_str().expect("a body").to_owned()).collect()
}

async fn publish_with_headers(nsqd: &Daemon, headers: &Value, body: &[u8]) {
    let (text, mut message) = (headers.to_string(), Vec::new());
    put_published(&mut message, Headers::trusted(text.as_bytes()), body);
    let mut peer = nsqd.connect().await;
    peer.line_and_body("PUB_EXT t", message).await;
    peer.ok().await;
}

#[test]
fn every_state_is_shown_with_what_belongs_to_it() {
    test(async {
        let nsqd = nsqd().await;
        let in_flight = publish(&nsqd, "", "in flight").await;
        let requeued = publish(&nsqd, "", "requeued").await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(2).await;
        let messages = consumer.messages(2).await;
        consumer.ready(0).await;
        consumer.requeue(&messages[1], Duration::ZERO).await;
        consumer.barrier().await;
        let deferred = publish(&nsqd, "&defer=60000", "deferred").await;
        publish(&nsqd, "", "ahead").await;

        let (all, end) = peek(&nsqd, "/channel/peek?topic=t&channel=c").await;
        let seen: Vec<(&str, &str)> =
            all.iter().map(|m| (m["body"].as_str().unwrap(), m["state"].as_str().unwrap())).collect();
        let expected = [
            ("in flight", "in_flight"),
            ("requeued", "waiting"),
            ("deferred", "deferred"),
            ("ahead", "waiting"),
        ];
        assert_eq!(seen, expected);
        assert_eq!((&end["stopped_by"], &end["examined"]), (&json!("end"), &json!(4)));
        assert_eq!(
            (&all[0]["id"], &all[1]["id"], &all[2]["id"]),
            (&json!(in_flight), &json!(requeued), &json!(deferred))
        );
        assert_eq!(
            (&all[0]["attempts"], &all[1]["attempts"], &all[3]["attempts"]),
            (&json!(1), &json!(1), &json!(0))
        );
        assert_eq!(all[0]["consumer"]["remote_address"], consumer.local_address().to_string());
        let at = |message: &Value, key: &str| message[key].as_i64().expect("a time");
        assert!(at(&all[0], "deadline_at") > at(&all[0], "delivered_at"));
        assert!(at(&all[2], "due_at") > at(&all[2], "timestamp") + 50_000_000_000);
        for (state, expected) in [
            ("waiting", vec!["requeued", "ahead"]),
            ("in_flight", vec!["in flight"]),
            ("deferred", vec!["deferred"]),
            ("dead_letter_pending", vec![]),
        ] {
            assert_eq!(bodies(&nsqd, &format!("&state={state}")).await, expected, "{state}");
        }
    });
}

#[test]
fn pages_follow_each_other_in_both_directions() {
    test(async {
        let nsqd = nsqd().await;
        let all: Vec<String> = (0..25).map(|number| format!("body {number}")).collect();
        nsqd.post("/mpub?topic=t", all.join("\n")).await.expect(200);
        for (start, reversed) in [("head", false), ("tail", true)] {
            let (mut from, mut found, mut pages) = (start.to_owned(), Vec::new(), 0);
            loop {
                let (messages, end) =
                    peek(&nsqd, &format!("/channel/peek?topic=t&channel=c&limit=7&from={from}")).await;
                found.extend(messages.iter().map(|message| message["body"].as_str().unwrap().to_owned()));
                pages += 1;
                assert!(messages.len() <= 7 && pages < 10);
                match end["next"].as_str() {
                    Some(next) => from = next.to_owned(),
                    None => break,
                }
            }
            if reversed {
                found.reverse();
            }
            assert_eq!(found, all, "{start}");
        }
        // A message's cursor continues after it.
        let (messages, _) = peek(&nsqd, "/channel/peek?topic=t&channel=c&limit=3").await;
        let cursor = messages[1]["cursor"].as_str().unwrap();
        assert_eq!(bodies(&nsqd, &format!("&limit=1&from={cursor}")).await, ["body 2"]);
        let sequence = &messages[2]["sequence"];
        assert_eq!(bodies(&nsqd, &format!("&limit=1&from=seq:{sequence}")).await, ["body 2"]);
        let time = messages[0]["timestamp"].as_i64().unwrap();
        assert_eq!(bodies(&nsqd, &format!("&limit=1&from=time:{time}")).await, ["body 0"]);
        assert_eq!(bodies(&nsqd, "&from=time:2100-01-01T00:00:00Z").await, [] as [&str; 0]);
    });
}

#[test]
fn bodies_and_headers_can_be_searched() {
    test(async {
        let nsqd = nsqd().await;
        publish_with_headers(&nsqd, &json!({"tenant": "acme", "color": "red"}), b"order 17").await;
        publish_with_headers(&nsqd, &json!({"tenant": "other"}), b"order 18").await;
        nsqd.publish("t", "refund 17").await;
        nsqd.publish("t", b"\xff\x00 order").await;
        assert_eq!(bodies(&nsqd, "&match=17$").await, ["order 17", "refund 17"]);
        assert_eq!(bodies(&nsqd, "&match=^order&header=tenant:acme").await, ["order 17"]);
        assert_eq!(bodies(&nsqd, "&header=tenant").await, ["order 17", "order 18"]);
        assert_eq!(bodies(&nsqd, "&header=tenant:acme&header=color:blue").await, [] as [&str; 0]);
        let (found, end) = peek(&nsqd, "/channel/peek?topic=t&channel=c&match=%20order$").await;
        assert_eq!((found.len(), &found[0]["body_base64"]), (1, &json!("/wAgb3JkZXI=")));
        assert_eq!((&found[0]["body_bytes"], &end["examined"]), (&json!(8), &json!(4)));
        let (found, _) = peek(&nsqd, "/channel/peek?topic=t&channel=c&limit=1").await;
        assert_eq!(found[0]["headers"], json!({"tenant": "acme", "color": "red"}));
    });
}

#[test]
fn history_and_finished_messages_are_shown_while_they_are_stored() {
    test(async {
        let nsqd = nsqd().await;
        nsqd.admin("/topic/retain?topic=t&for=1h").await;
        for number in 0..5 {
            nsqd.publish("t", format!("body {number}")).await;
        }
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(2).await;
        for message in consumer.messages(2).await {
            consumer.finish(&message).await;
        }
        consumer.ready(0).await;
        consumer.barrier().await;
        drop(consumer);
        until_equal("in flight", 0, async || nsqd.channel("t", "c").await.unwrap().in_flight_count).await;
        let finished = bodies(&nsqd, "&state=finished").await;
        assert_eq!(finished[..2], ["body 0", "body 1"]);
        nsqd.admin("/topic/pause?topic=t").await;
        nsqd.publish("t", "held").await;
        let (history, _) = peek(&nsqd, "/topic/peek?topic=t").await;
        let states: Vec<&str> = history.iter().map(|message| message["state"].as_str().unwrap()).collect();
        assert_eq!(states, ["released", "released", "released", "released", "released", "held"]);
        let (newest, end) = peek(&nsqd, "/topic/peek?topic=t&from=tail&limit=2").await;
        assert_eq!((&newest[0]["body"], &newest[1]["body"]), (&json!("held"), &json!("body 4")));
        assert_eq!(end["stopped_by"], "limit");
    });
}

/// What of `/stats` and `/metrics` a look must not change: everything but times, memory and the requests themselves.
async fn statistics(nsqd: &Daemon) -> (Value, Vec<String>) {
    let mut stats = nsqd.get_json("/stats?format=json").await;
    stats["memory"].take();
    let metrics = nsqd.get("/metrics").await.text();
    // What the disk did is counted, whoever asked for it.
    let own = ["http_", "process_", "memory", "nsq_disk_", "nsq_data_free_bytes"];
    let lines = metrics.lines().filter(|line| !own.iter().any(|name| line.contains(name)));
    (stats, lines.map(str::to_owned).collect())
}

#[test]
fn a_look_changes_nothing_even_if_it_reads_from_disk() {
    test_within(Duration::from_secs(120), async {
        let nsqd = Daemon::nsqd().flag("--mem-queue-bytes=200000").start().await;
        prepare(&nsqd).await;
        let body = "x".repeat(5000);
        for round in 0..40 {
            let lines: Vec<String> = (0..20).map(|number| format!("{round}.{number} {body}")).collect();
            nsqd.post("/mpub?topic=t", lines.join("\n")).await.expect(200);
        }
        wait::until("messages are on disk", async || {
            let channel = nsqd.channel("t", "c").await.unwrap();
            wait::when(channel, |channel| channel.backend_depth > 500)
        })
        .await;
        let before = statistics(&nsqd).await;
        let (messages, _) = peek(&nsqd, "/channel/peek?topic=t&channel=c&limit=200").await;
        assert_eq!(messages.len(), 200);
        let (found, end) = peek(&nsqd, "/channel/peek?topic=t&channel=c&match=^39.19%20").await;
        assert_eq!((found.len(), &end["examined"]), (1, &json!(800)));
        let (newest, _) = peek(&nsqd, "/channel/peek?topic=t&channel=c&from=tail&limit=300").await;
        assert_eq!(newest.len(), 300);
        assert!(newest[0]["body"].as_str().unwrap().starts_with("39.19 "));
        assert!(newest[299]["body"].as_str().unwrap().starts_with("25.0 "));
        let (page, end) = peek(&nsqd, "/topic/peek?topic=t&limit=1000").await;
        assert_eq!((page.len() as u64, &end["stopped_by"]), (800, &json!("end")));
        let after = statistics(&nsqd).await;
        assert_eq!(before.0, after.0);
        assert_eq!(before.1, after.1);
        // Deliveries are as if nobody had looked.
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        let first = consumer.message().await;
        assert_eq!(first.attempts, 1);
        assert!(first.body.starts_with(b"0.0 "));
    });
}

#[test]
fn work_is_bounded_and_the_answer_says_where_it_stopped() {
    test(async {
        let nsqd = nsqd().await;
        let body = "x".repeat(900_000);
        for number in 0..8 {
            nsqd.publish("t", format!("{number} {body}")).await;
        }
        let (messages, end) = peek(&nsqd, "/channel/peek?topic=t&channel=c").await;
        assert_eq!((messages.len(), &end["stopped_by"]), (5, &json!("bytes")));
        let next = end["next"].as_str().unwrap();
        let (rest, end) = peek(&nsqd, &format!("/channel/peek?topic=t&channel=c&from={next}")).await;
        assert_eq!((rest.len(), &end["stopped_by"]), (3, &json!("end")));
        assert!(rest[0]["body"].as_str().unwrap().starts_with("5 "));
        for _ in 0..11 {
            nsqd.post("/mpub?topic=t", vec!["y"; 10_000].join("\n")).await.expect(200);
        }
        let (none, end) = peek(&nsqd, "/channel/peek?topic=t&channel=c&match=^z&from=tail").await;
        assert!(none.is_empty());
        assert!(matches!(end["stopped_by"].as_str(), Some("messages" | "time")), "{end}");
        assert!(end["next"].as_str().unwrap().starts_with("before:"));
    });
}

#[test]
fn wrong_requests_are_refused_with_a_reason() {
    test(async {
        let nsqd = nsqd().await;
        for (target, status, word) in [
            ("/channel/peek?topic=t", 400, "MISSING_ARG_CHANNEL"),
            ("/channel/peek?topic=t&channel=x", 404, "CHANNEL_NOT_FOUND"),
            ("/channel/peek?topic=u&channel=c", 404, "TOPIC_NOT_FOUND"),
            ("/channel/peek?topic=t&channel=c&state=ahead", 400, "INVALID_ARG_STATE: "),
            ("/channel/peek?topic=t&channel=c&from=5", 400, "INVALID_ARG_FROM: "),
            ("/channel/peek?topic=t&channel=c&limit=1001", 400, "INVALID_ARG_LIMIT: "),
            ("/channel/peek?topic=t&channel=c&match=(", 400, "INVALID_ARG_MATCH: "),
            ("/channel/peek?topic=t&channel=c&filter=x", 400, "UNKNOWN_ARG: "),
            ("/topic/peek", 400, "MISSING_ARG_TOPIC"),
            ("/topic/peek?topic=t&state=finished", 400, "UNKNOWN_ARG: "),
        ] {
            let answer = nsqd.get(target).await.expect(status);
            assert!(answer.text().contains(word), "{target}: {}", answer.text());
        }
        for (target, status, word) in [
            ("/message/cancel?topic=t", 400, "MISSING_ARG_ID"),
            ("/message/cancel?topic=t&id=12", 400, "INVALID_ARG_ID: "),
            ("/message/cancel?topic=t&id=0000000000000001", 404, "MESSAGE_NOT_FOUND: "),
            ("/message/cancel?topic=t&id=0000000000000001&channel=x", 404, "CHANNEL_NOT_FOUND"),
            ("/message/cancel?topic=t&id=0000000000000001&all=1", 400, "UNKNOWN_ARG: "),
            ("/message/requeue?topic=t&id=0000000000000001", 400, "MISSING_ARG_CHANNEL"),
            ("/message/requeue?topic=t&channel=c&id=0000000000000001", 400, "MISSING_ARG_DELAY"),
            ("/message/requeue?topic=t&channel=c&id=0000000000000001&delay=25h", 400, "INVALID_ARG_DELAY: "),
            ("/message/requeue?topic=t&channel=c&id=0000000000000001&delay=0", 404, "MESSAGE_NOT_FOUND: "),
        ] {
            let answer = nsqd.post(target, b"").await.expect(status);
            assert!(answer.text().contains(word), "{target}: {}", answer.text());
        }
    });
}

#[test]
fn a_cancelled_message_is_never_delivered_even_after_a_crash() {
    test(async {
        let mut nsqd = nsqd().await;
        nsqd.admin("/channel/create?topic=t&channel=d").await;
        let everywhere = publish(&nsqd, "", "everywhere").await;
        let only_c = publish(&nsqd, "", "only c").await;
        let deferred = publish(&nsqd, "&defer=600000", "deferred").await;
        publish(&nsqd, "", "stays").await;
        let dry = nsqd.post(&format!("/message/cancel?topic=t&id={everywhere}&dry_run=true"), b"").await;
        let dry = dry.expect(200).json();
        assert_eq!(dry["channels"].as_array().unwrap().len(), 2);
        assert_eq!((&dry["dry_run"], &dry["channels"][0]["was"]), (&json!(true), &json!("waiting")));
        assert_eq!(bodies(&nsqd, "").await.len(), 4);
        nsqd.admin(&format!("/message/cancel?topic=t&id={everywhere}")).await;
        nsqd.admin(&format!("/message/cancel?topic=t&id={only_c}&channel=c")).await;
        nsqd.admin(&format!("/message/cancel?topic=t&id={deferred}&channel=c")).await;
        nsqd.post(&format!("/message/cancel?topic=t&id={everywhere}"), b"").await.expect(404);
        let stats = nsqd.get_json("/stats?format=json&topic=t&channel=c").await;
        assert_eq!(stats["topics"][0]["channels"][0]["cancelled_count"], 3);
        let page = nsqd.metrics().await;
        assert_eq!(page.value("nsq_channel_cancelled_total{topic=\"t\",channel=\"c\"}"), 3.0);
        nsqd.kill().await;
        nsqd.restart().await;
        assert_eq!(bodies(&nsqd, "").await, ["stays"]);
        let (other, _) = peek(&nsqd, "/channel/peek?topic=t&channel=d").await;
        let other: Vec<&str> = other.iter().map(|message| message["body"].as_str().unwrap()).collect();
        assert_eq!(other, ["only c", "deferred", "stays"]);
    });
}

#[test]
fn a_message_in_flight_is_refused_with_the_name_of_its_consumer() {
    test(async {
        let nsqd = nsqd().await;
        nsqd.admin("/channel/create?topic=t&channel=d").await;
        let id = publish(&nsqd, "", "in flight").await;
        let mut consumer = nsqd.connect().await;
        consumer
            .identify(json!({"feature_negotiation": true, "client_id": "worker-7", "hostname": "h"}))
            .await;
        consumer.subscribe("t", "c").await;
        consumer.ready(1).await;
        let message = consumer.message().await;
        for target in ["cancel?topic=t&", "requeue?topic=t&channel=c&delay=0&"] {
            let answer = nsqd.post(&format!("/message/{target}id={id}"), b"").await.expect(409);
            let text = answer.text();
            assert!(text.contains("MESSAGE_IN_FLIGHT: ") && text.contains("worker-7@h"), "{text}");
        }
        let (other, _) = peek(&nsqd, "/channel/peek?topic=t&channel=d").await;
        assert_eq!(other.len(), 1, "it is in flight in one channel, so it stays in the other");
        consumer.finish(&message).await;
        consumer.barrier().await;
        nsqd.admin(&format!("/message/cancel?topic=t&id={id}")).await;
        nsqd.admin("/topic/pause?topic=t").await;
        let held = publish(&nsqd, "", "held").await;
        let answer = nsqd.post(&format!("/message/cancel?topic=t&id={held}"), b"").await.expect(409);
        assert!(answer.text().contains("MESSAGE_HELD: "), "{}", answer.text());
    });
}

#[test]
fn a_deferred_message_runs_now_or_later_even_after_a_crash() {
    test(async {
        let mut nsqd = nsqd().await;
        let now = publish(&nsqd, "&defer=600000", "now").await;
        let later = publish(&nsqd, "&defer=600000", "later").await;
        let ahead = publish(&nsqd, "", "ahead").await;
        let requeue = async |nsqd: &Daemon, id: &str, delay: &str| {
            let target = format!("/message/requeue?topic=t&channel=c&id={id}&delay={delay}");
            nsqd.post(&target, b"").await.expect(200).json()
        };
        let answer = requeue(&nsqd, &now, "0").await;
        assert_eq!(answer["channels"][0]["was"], "deferred");
        assert_eq!(answer["channels"][0]["state"], "waiting");
        let answer = requeue(&nsqd, &later, "50m").await;
        assert!(answer["channels"][0]["due_at"].as_i64().is_some());
        requeue(&nsqd, &ahead, "40m").await;
        assert_eq!(bodies(&nsqd, "&state=waiting").await, ["now"]);
        nsqd.kill().await;
        nsqd.restart().await;
        assert_eq!(bodies(&nsqd, "&state=waiting").await, ["now"]);
        let (deferred, _) = peek(&nsqd, "/channel/peek?topic=t&channel=c&state=deferred").await;
        assert_eq!(deferred.len(), 2);
        for (message, minutes) in deferred.iter().zip([50, 40]) {
            let delay = message["due_at"].as_i64().unwrap() - message["timestamp"].as_i64().unwrap();
            let expected = minutes * 60_000_000_000_i64;
            assert!((expected..expected + 120_000_000_000).contains(&delay), "{message}");
        }
        // A short delay passes by itself.
        requeue(&nsqd, &ahead, "1").await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(5).await;
        let mut came: Vec<Vec<u8>> =
            consumer.messages(2).await.into_iter().map(|m| m.body.to_vec()).collect();
        came.sort();
        assert_eq!(came, [b"ahead".to_vec(), b"now".to_vec()]);
        requeue(&nsqd, &later, "0").await;
        assert_eq!(consumer.message().await.body, "later");
    });
}

#[test]
fn bodies_need_the_permission_read() {
    test(async {
        let channel = |permission: &str| json!([authorization("^t$", &["^c$", "^$"], &[permission])]);
        let file = TokenFile::new(&[
            token("alice", ALICE, channel("read")),
            token("bob", BOB, channel("subscribe")),
            token("root", ROOT, json!([authorization(".*", &[".*"], &["admin", "publish"])])),
        ]);
        let nsqd = Daemon::nsqd().flag(file.flag()).flag("--http-auth").start().await;
        for target in ["/topic/create?topic=t", "/channel/create?topic=t&channel=c"] {
            request(&nsqd, "POST", target, Some("root")).await.expect(200);
        }
        for target in ["/channel/peek?topic=t&channel=c", "/topic/peek?topic=t"] {
            request(&nsqd, "GET", target, Some("alice")).await.expect(200);
            for other in ["bob", "root"] {
                request(&nsqd, "GET", target, Some(other)).await.expect(403);
            }
            request(&nsqd, "GET", target, None).await.expect(401);
        }
        request(&nsqd, "GET", "/channel/peek?topic=t&channel=d", Some("alice")).await.expect(403);
        let why = "/channel/why?topic=t&channel=c";
        request(&nsqd, "GET", why, Some("root")).await.expect(200);
        request(&nsqd, "GET", why, Some("alice")).await.expect(403);
        let cancel = "/message/cancel?topic=t&channel=c&id=0000000000000001";
        request(&nsqd, "POST", cancel, Some("root")).await.expect(404);
        request(&nsqd, "POST", cancel, Some("alice")).await.expect(403);
    });
}

#[test]
fn an_auth_server_grants_read_only_by_name() {
    test(async {
        let all = |permissions: &[&str]| json!([authorization(".*", &[".*"], permissions)]);
        let server = AuthServer::allowing(3600, all(&["publish", "subscribe", "admin"])).await;
        let nsqd = Daemon::nsqd().flag(server.flag()).flag("--http-auth").start().await;
        for target in ["/topic/create?topic=t", "/channel/create?topic=t&channel=c"] {
            request(&nsqd, "POST", target, Some("one")).await.expect(200);
        }
        request(&nsqd, "GET", "/channel/peek?topic=t&channel=c", Some("one")).await.expect(403);
        server.answer(nsq_tests::auth_server::allowing(3600, all(&["read"])));
        request(&nsqd, "GET", "/channel/peek?topic=t&channel=c", Some("two")).await.expect(200);
    });
}

async fn nsq(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(binary("nsq")).args(arguments).output().await.expect("nsq runs");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[test]
fn the_command_finds_the_message_on_its_node() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        let nodes = [
            Daemon::nsqd().lookupd(&lookupd).flag("--node-id=1").start().await,
            Daemon::nsqd().lookupd(&lookupd).flag("--node-id=2").start().await,
        ];
        for (number, node) in nodes.iter().enumerate() {
            prepare(node).await;
            node.publish("t", format!("node {number}")).await;
        }
        let id = publish(&nodes[1], "&defer=600000", "deferred").await;
        let lookupd = format!("--lookupd-http-address={}", lookupd.http());
        let both = wait::until("both nodes are known", async || {
            let (_, text) = nsq(&["peek", "t/c", &lookupd]).await;
            wait::when(text, |text| text.contains("node 0") && text.contains("node 1"))
        })
        .await;
        assert!(both.contains("deferred") && both.contains("waiting"), "{both}");
        let (_, json) = nsq(&["peek", "t", "--from", "tail", "--limit", "1", "--json", &lookupd]).await;
        let json: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["messages"][0]["body"], "deferred");
        let (done, text) = nsq(&["message", "requeue", "t/c", &id, "--dry-run", &lookupd]).await;
        assert!(done && text.contains("was deferred, would be waiting"), "{text}");
        let (done, text) = nsq(&["message", "requeue", "t/c", &id, &lookupd]).await;
        assert!(done && text.contains("was deferred, now waiting"), "{text}");
        let (done, text) = nsq(&["why", "t/c", &id, &lookupd]).await;
        assert!(done && text.contains("! no_consumer: ") && text.contains("waiting: "), "{text}");
        assert!(!text.contains("other_node"), "{text}");
        let (done, text) = nsq(&["message", "cancel", "t", &id, &lookupd]).await;
        assert!(done && text.contains("was waiting, cancelled"), "{text}");
        let (done, text) = nsq(&["message", "cancel", "t", &id, &lookupd]).await;
        assert!(!done && text.contains("nsq why t/CHANNEL"), "{text}");
        let (done, text) = nsq(&["why", "t/c", &id, &lookupd]).await;
        assert!(done && text.contains("cancelled: "), "{text}");
        let (done, text) = nsq(&["peek", "u/c", &lookupd]).await;
        assert!(!done && text.contains("there is no channel u/c"), "{text}");
    });
}

#[test]
fn the_client_crate_looks_cancels_and_requeues() {
    test(async {
        let nsqd = nsqd().await;
        let client = NsqdClient::new(nsqd.http().to_string()).unwrap();
        let waiting = publish(&nsqd, "", "waiting").await;
        let deferred = publish(&nsqd, "&defer=600000", "deferred").await;
        let query = PeekQuery { state: Some("deferred".to_owned()), ..PeekQuery::default() };
        let page = client.peek("t", Some("c"), &query).await.unwrap();
        assert_eq!((page.messages.len(), page.messages[0].id.as_str()), (1, deferred.as_str()));
        assert_eq!((page.end.stopped_by.as_str(), page.end.next), ("end", None));
        let done = client.requeue_message("t", "c", &deferred, Duration::ZERO, false).await.unwrap();
        assert_eq!(done.channels[0].state, "waiting");
        let done = client.cancel_message("t", None, &waiting, false).await.unwrap();
        assert_eq!(done.channels[0].was, "waiting");
        assert!(client.cancel_message("t", None, &waiting, false).await.unwrap_err().is_not_found());
        let why = client.why("t", "c", Some(&waiting)).await.unwrap();
        assert_eq!(why.causes[0].code, "cancelled");
        let stored = client.peek("t", None, &PeekQuery::default()).await.unwrap();
        assert!(stored.messages.iter().any(|message| message.body.as_deref() == Some("deferred")));
        assert!(client.peek("u", None, &PeekQuery::default()).await.unwrap_err().is_not_found());
    });
}
