//! The setting `dedupe`: a topic stores the messages of one id once.

use std::time::Duration;

use nsq_protocol::headers::{Headers, put_published};
use nsq_tests::daemon::binary;
use nsq_tests::prometheus::Page;
use nsq_tests::stats::until_equal;
use nsq_tests::wire::{Message, batch, bodies};
use nsq_tests::{Daemon, Peer, http, test, test_within, wait};
use serde_json::{Value, json};

use crate::interop::with_each_library;

/// Starts an nsqd whose topic `t` remembers ids for this long.
async fn start(dedupe: &str) -> Daemon {
    let nsqd = Daemon::nsqd().start().await;
    set(&nsqd, dedupe).await;
    nsqd
}

async fn set(nsqd: &Daemon, dedupe: &str) {
    nsqd.admin("/topic/create?topic=t").await;
    nsqd.admin("/channel/create?topic=t&channel=c").await;
    nsqd.admin(&format!("/topic/set?topic=t&dedupe={dedupe}")).await;
}

fn message(id: &str, body: &str) -> Vec<u8> {
    let mut message = Vec::new();
    put_published(
        &mut message,
        Headers::trusted(json!({ "nsq-id": id }).to_string().as_bytes()),
        body.as_bytes(),
    );
    message
}

/// Publishes a message with an id over TCP. Returns the answer.
async fn publish(peer: &mut Peer, id: &str, body: &str) -> String {
    peer.line_and_body("PUB_EXT t", message(id, body)).await;
    String::from_utf8(peer.response().await.to_vec()).expect("UTF-8")
}

/// A producer that was granted `pub_ids`.
async fn producer(nsqd: &Daemon) -> Peer {
    let mut peer = nsqd.connect().await;
    let reply = peer.identify(json!({"feature_negotiation": true, "features": ["pub_ids"]})).await;
    assert_eq!(reply["features"], json!(["pub_ids"]));
    peer
}

/// Takes all messages of the channel, and checks that there are no more.
async fn all(nsqd: &Daemon, count: usize) -> Vec<Message> {
    let mut consumer = nsqd.subscribe("t", "c").await;
    consumer.ready(2500).await;
    let messages = consumer.consume(count).await;
    nsqd.channel_until_finished("t", "c").await;
    assert_eq!(consumer.barrier().await.len(), 0);
    messages
}

async fn stored_count(nsqd: &Daemon) -> Value {
    nsqd.get_json("/stats?format=json&topic=t").await["topics"][0]["message_count"].clone()
}

async fn counts(nsqd: &Daemon) -> Value {
    nsqd.get_json("/stats?format=json&topic=t").await["topics"][0]["dedupe"].clone()
}

#[test]
fn duplicates_over_tcp_are_acknowledged_and_not_stored() {
    test(async {
        let nsqd = start("1h").await;
        let mut plain = nsqd.connect().await;
        assert_eq!(publish(&mut plain, "a", "one").await, "OK");
        assert_eq!(publish(&mut plain, "a", "two").await, "OK");
        let mut producer = producer(&nsqd).await;
        let stored = publish(&mut producer, "b", "three").await;
        assert_eq!(stored.len(), "OK ".len() + 16, "{stored}");
        assert_eq!(publish(&mut producer, "b", "four").await, format!("{stored} DUP"));
        // Within a batch and against the window. A batch gets OK.
        let messages = [message("a", "x"), message("c", "five"), message("c", "y"), message("d", "six")];
        producer.line_and_body("MPUB_EXT t", batch(&messages)).await;
        producer.ok().await;
        producer.line_and_body("DPUB_EXT t 1", message("e", "seven")).await;
        let deferred = producer.response().await;
        producer.line_and_body("DPUB_EXT t 1", message("e", "z")).await;
        assert_eq!(producer.response().await, [&deferred[..], b" DUP"].concat());
        // Without an id, as before; the answer has the id of the message.
        producer.line_and_body("PUB t", "eight").await;
        let eight = producer.response().await;

        let messages = all(&nsqd, 6).await;
        let mut texts = bodies(&messages);
        texts.sort_unstable();
        assert_eq!(texts, ["eight", "five", "one", "seven", "six", "three"]);
        let id_of = |text: &str| {
            messages.iter().find(|message| message.text() == text).expect("it is there").id_text()
        };
        assert_eq!(stored, format!("OK {}", id_of("three")));
        assert_eq!(eight, format!("OK {}", id_of("eight")).as_bytes());
    });
}

#[test]
fn pipelined_duplicates_and_other_connections_get_their_answers() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--durability=sync").start().await;
        set(&nsqd, "1h").await;
        // All publish the same ids at the same time, in different orders: each waits for the messages of others.
        const IDS: usize = 50;
        let mut tasks = Vec::new();
        for connection in 0..8 {
            let mut peer = producer(&nsqd).await;
            tasks.push(tokio::spawn(async move {
                let mut commands = Vec::new();
                for place in 0..IDS {
                    let id = if connection % 2 == 0 { place } else { IDS - 1 - place };
                    commands.extend(nsq_tests::wire::command(
                        "PUB_EXT t",
                        message(&id.to_string(), &id.to_string()),
                    ));
                }
                peer.send(commands).await;
                let mut new = 0;
                for _ in 0..IDS {
                    new += usize::from(!peer.response().await.ends_with(b" DUP"));
                }
                new
            }));
        }
        let mut new = 0;
        for task in tasks {
            new += task.await.expect("no panic");
        }
        assert_eq!((new, stored_count(&nsqd).await), (IDS, json!(IDS)));
        let mut texts = bodies(&all(&nsqd, IDS).await);
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), IDS);
    });
}

#[test]
fn http_takes_the_id_from_a_parameter_or_from_idempotency_key() {
    test(async {
        let nsqd = start("1h").await;
        let post = async |target: &str, headers: &[(&str, &str)], body: &str| {
            http::request_with(nsqd.http(), "POST", target, headers, body.as_bytes()).await
        };
        assert_eq!(post("/pub?topic=t&id=a", &[], "one").await.expect(200).text(), "OK");
        assert_eq!(post("/pub?topic=t", &[("Idempotency-Key", "a")], "two").await.expect(200).text(), "OK");
        let first =
            post("/pub?topic=t&return=id", &[("Idempotency-Key", "\"b\"")], "three").await.expect(200).json();
        let second = post("/pub?topic=t&id=b&return=id", &[], "four").await.expect(200).json();
        assert_eq!((&first["id"], &first["duplicate"]), (&second["id"], &json!(false)));
        assert_eq!(second["duplicate"], json!(true));
        let none = post("/pub?topic=t&return=id", &[], "five").await.expect(200).json();
        assert_eq!(none["duplicate"], json!(false));
        assert_eq!(bodies(&all(&nsqd, 3).await), ["one", "three", "five"]);

        let differ = post("/pub?topic=t&id=a", &[("Idempotency-Key", "b")], "x").await;
        differ.expect_error(400, "INVALID_HEADER: Idempotency-Key and another id of the request differ");
        post("/pub?topic=t&return=x", &[], "x").await.expect_error(400, "INVALID_RETURN");
        for target in ["/mpub?topic=t&id=a", "/mpub?topic=t"] {
            let headers: &[_] = if target.contains("id=") { &[] } else { &[("Idempotency-Key", "a")] };
            let refused = post(target, headers, "x\ny\n").await.expect(400).json();
            let reason = refused["message"].as_str().expect("a text").to_owned();
            assert!(
                reason.starts_with("INVALID_HEADER: several messages cannot have one nsq-id"),
                "{reason}"
            );
        }
        assert_eq!(stored_count(&nsqd).await, json!(3));
    });
}

#[test]
fn empty_and_long_ids_are_refused() {
    test(async {
        let nsqd = start("1h").await;
        let long = "x".repeat(129);
        for id in ["", &long] {
            let reason = format!("header \"nsq-id\" has {} bytes; expected 1 to 128", id.len());
            let mut peer = nsqd.connect().await;
            peer.line_and_body("PUB_EXT t", message(id, "body")).await;
            peer.refused(&format!("E_BAD_MESSAGE PUB_EXT {reason}")).await;
            let answer = nsqd.post(&format!("/pub?topic=t&id={id}"), "body").await;
            let refused = answer.expect(400).json();
            assert_eq!(refused["message"], json!(format!("INVALID_HEADER: {reason}")));
        }
        let mut peer = nsqd.connect().await;
        assert_eq!(publish(&mut peer, &long[1..], "body").await, "OK");
    });
}

#[test]
fn ids_survive_a_kill_and_a_stop() {
    test_within(Duration::from_secs(60), async {
        let mut nsqd = start("1h").await;
        let mut stored = Vec::new();
        for round in 0..4 {
            let mut producer = producer(&nsqd).await;
            for number in 0..20 {
                let id = format!("{}-{number}", if round == 0 { 0 } else { round - 1 });
                let answer = publish(&mut producer, &id, &id).await;
                match round {
                    0 => stored.push(answer),
                    _ => assert_eq!(answer, format!("{} DUP", stored[(round - 1) * 20 + number])),
                }
            }
            for number in 0..20 {
                if round > 0 {
                    let id = format!("{round}-{number}");
                    stored.push(publish(&mut producer, &id, &id).await);
                }
            }
            if round % 2 == 0 {
                nsqd.kill().await;
            } else {
                nsqd.terminate().await;
            }
            nsqd.restart().await;
        }
        let mut producer = producer(&nsqd).await;
        for (index, answer) in stored.iter().enumerate() {
            let id = format!("{}-{}", index / 20, index % 20);
            assert_eq!(publish(&mut producer, &id, "again").await, format!("{answer} DUP"), "{id}");
        }
        assert_eq!(all(&nsqd, stored.len()).await.len(), stored.len());
        assert_eq!(counts(&nsqd).await["id_count"], json!(stored.len()));
    });
}

#[test]
fn an_id_is_stored_again_after_the_window() {
    test(async {
        let mut nsqd = start("400ms").await;
        let mut peer = producer(&nsqd).await;
        let first = publish(&mut peer, "a", "x").await;
        wait::until("the id expires", async || {
            let answer = publish(&mut peer, "a", "x").await;
            wait::when(answer, |answer| !answer.ends_with(" DUP"))
        })
        .await;
        // The time while nsqd is down counts.
        nsqd.kill().await;
        nsqd.restart().await;
        let mut peer = producer(&nsqd).await;
        wait::until("the id expires", async || {
            let answer = publish(&mut peer, "a", "x").await;
            wait::when(answer, |answer| !answer.ends_with(" DUP") && *answer != first)
        })
        .await;
        // Without publishes, too.
        until_equal("ids", json!(0), async || counts(&nsqd).await["id_count"].clone()).await;
    });
}

#[test]
fn emptying_and_deleting_the_topic_forgets_its_ids() {
    test(async {
        let mut nsqd = start("1h").await;
        let mut peer = producer(&nsqd).await;
        publish(&mut peer, "a", "x").await;
        nsqd.admin("/topic/empty?topic=t").await;
        assert!(!publish(&mut peer, "a", "x").await.ends_with("DUP"));
        nsqd.admin("/topic/empty?topic=t").await;
        nsqd.kill().await;
        nsqd.restart().await;
        let mut peer = producer(&nsqd).await;
        assert!(!publish(&mut peer, "a", "x").await.ends_with("DUP"));
        nsqd.admin("/topic/delete?topic=t").await;
        set(&nsqd, "1h").await;
        assert!(!publish(&mut peer, "a", "x").await.ends_with("DUP"));
        assert!(publish(&mut peer, "a", "x").await.ends_with("DUP"));
    });
}

#[test]
fn the_oldest_ids_beyond_the_limit_are_forgotten_and_counted() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--dedupe-max-ids=3").start().await;
        set(&nsqd, "1h").await;
        let mut peer = producer(&nsqd).await;
        for id in ["a", "b", "c", "d", "d", "b"] {
            publish(&mut peer, id, "x").await;
        }
        let expected = json!({"id_count": 3, "duplicate_count": 2, "dropped_id_count": 1});
        assert_eq!(counts(&nsqd).await, expected);
        let text = nsqd.get("/stats").await.text();
        assert!(text.contains("dedupe: 3 ids, 2 duplicates, 1 ids dropped"), "{text}");
        let page = Page::parse(&nsqd.get("/metrics").await.text());
        for (name, value) in [("ids", 3.0), ("duplicates_total", 2.0), ("dropped_ids_total", 1.0)] {
            assert_eq!(page.value(&format!("nsq_topic_dedupe_{name}{{topic=\"t\"}}")), value, "{name}");
        }
        assert!(!publish(&mut peer, "a", "x").await.ends_with("DUP"));
    });
}

#[test]
fn topics_without_the_setting_and_clients_without_ids_see_nothing() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        let mut peer = nsqd.connect().await;
        assert_eq!(publish(&mut peer, "a", "one").await, "OK");
        assert_eq!(publish(&mut peer, "a", "two").await, "OK");
        assert_eq!(counts(&nsqd).await, Value::Null);
        nsqd.admin("/topic/set?topic=t&dedupe=1h").await;
        peer.publish("t", "three").await;
        peer.publish("t", "three").await;
        assert_eq!(bodies(&all(&nsqd, 4).await), ["one", "two", "three", "three"]);
    });
}

#[test]
fn nsq_pub_reports_a_duplicate() {
    test(async {
        let nsqd = start("1h").await;
        let run = async |arguments: &[&str]| {
            let mut command = tokio::process::Command::new(binary("nsq"));
            command.arg("pub").args(arguments).arg("--nsqd").arg(nsqd.http().to_string());
            command.env_remove("NSQ_LOOKUPD").output().await.expect("nsq runs")
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for is_duplicate in [false, true] {
            let output = run(&["t", "x", "--id", "a", "--json"]).await;
            let summary: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert_eq!(summary["duplicate"], json!(is_duplicate));
            assert_eq!(summary["id"].as_str().map(str::len), Some(16));
        }
        let refused = run(&["t", "x", "y", "--id", "a"]).await;
        assert!(text(&refused.stderr).contains("--id needs a single message"), "{refused:?}");
        assert_eq!(stored_count(&nsqd).await, json!(1));
    });
}

#[test]
fn client_library_publishes_with_an_id() {
    test(async {
        let nsqd = start("1h").await;
        for (pub_ids, first) in [(true, true), (false, false)] {
            let config = nsq::Config::new().pub_ids(pub_ids);
            let producer =
                nsq::Producer::builder().nsqd(nsqd.tcp().to_string()).config(config).build().expect("valid");
            let receipt = producer.publish_with_id("t", "a", "x").await.expect("published");
            assert_eq!(receipt.message.map(|message| message.is_duplicate), pub_ids.then_some(!first));
            let receipt = producer.publish_with_id("t", "a", "x").await.expect("published");
            assert_eq!(receipt.message.map(|message| message.is_duplicate), pub_ids.then_some(true));
        }
        assert_eq!(stored_count(&nsqd).await, json!(1));
    });
}

#[test]
fn unmodified_clients_get_one_message_of_an_id() {
    with_each_library(async |library| {
        let nsqd = start("1h").await;
        for body in ["first", "second"] {
            nsqd.post("/pub?topic=t&id=order-1", body).await.expect(200);
        }
        nsqd.publish("t", "without an id").await;
        let address = nsqd.tcp().to_string();
        let arguments = ["--nsqd", &address, "--topic", "t", "--channel", "c", "--count", "2"];
        let mut consumer = library.run("consume", &arguments);
        assert_eq!(consumer.bodies(2).await, ["first", "without an id"]);
        consumer.finish().await;
        nsqd.channel_until_finished("t", "c").await;
    });
}
