//! Drains that move what is left to another nsqd: `--drain-to`, `/config/drain?to=`, `nsq node drain --to`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nsq_tests::auth_server::authorization;
use nsq_tests::certificates::Certificates;
use nsq_tests::prometheus::Page;
use nsq_tests::wire::{batch, bodies};
use nsq_tests::{Daemon, http, test, test_within, wait};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::tokens::{ALICE, BOB, TokenFile, token};

const HALF_AN_HOUR: Duration = Duration::from_secs(1800);

async fn status(nsqd: &Daemon) -> Value {
    nsqd.get_json("/config/drain").await
}

/// Begins a drain that moves everything at once.
async fn begin(nsqd: &Daemon, to: &str) {
    let target = format!("/config/drain?timeout=1ms&to={to}");
    http::request(nsqd.http(), "PUT", &target, b"").await.expect(200);
}

async fn until_moved(nsqd: &Daemon) -> Value {
    wait::until_within(Duration::from_secs(60), "everything is moved", async || {
        let status = status(nsqd).await;
        assert_ne!(status["moving"]["state"], "failed", "{status}");
        wait::when(status, |status| status["moving"]["state"] == "moved")
    })
    .await
}

async fn until_failed(nsqd: &Daemon) -> String {
    let failed = wait::until("the move fails", async || {
        wait::when(status(nsqd).await, |status| status["moving"]["state"] == "failed")
    })
    .await;
    failed["moving"]["error"].as_str().expect("a reason").to_owned()
}

/// Takes and finishes all messages of a channel: each body with its attempts.
async fn contents(nsqd: &Daemon, topic: &str, channel: &str) -> BTreeMap<String, u16> {
    let count = nsqd.channel(topic, channel).await.expect("a channel").depth;
    let mut consumer = nsqd.subscribe(topic, channel).await;
    consumer.ready(2000).await;
    let messages = consumer.consume(count as usize).await;
    let contents: BTreeMap<String, u16> =
        messages.iter().map(|message| (message.text(), message.attempts)).collect();
    assert_eq!(contents.len(), messages.len(), "no message is there twice");
    contents
}

#[test]
fn messages_keep_their_attempts_due_times_headers_and_channels() {
    test(async {
        let from = Daemon::nsqd().start().await;
        let to = Daemon::nsqd().start().await;
        from.admin("/topic/create?topic=t").await;
        for channel in ["a", "b"] {
            from.admin(&format!("/channel/create?topic=t&channel={channel}")).await;
        }
        from.admin("/channel/set?topic=t&channel=b&max_attempts=7&owner=shop").await;
        from.admin("/channel/pause?topic=t&channel=b").await;
        // The other node has the topic, with a message and a channel of its own.
        to.admin("/topic/create?topic=t").await;
        to.admin("/channel/create?topic=t&channel=other").await;
        to.publish("t", "own").await;

        let mut producer = from.connect().await;
        producer.publish_batch("t", &["1", "2", "3"]).await;
        http::request_with(from.http(), "POST", "/pub?topic=t", &[("X-NSQ-tenant", "acme")], b"4")
            .await
            .expect(200);
        producer.publish_deferred("t", HALF_AN_HOUR, "later").await;
        producer.publish("nobody", "5").await;
        producer.publish_deferred("nobody", HALF_AN_HOUR, "much later").await;
        producer.publish("e#ephemeral", "gone").await;
        let mut consumer = from.subscribe("t", "a").await;
        consumer.ready(2).await;
        let [first, second] = <[_; 2]>::try_from(consumer.messages(2).await).expect("two messages");
        consumer.ready(0).await;
        consumer.requeue(&first, Duration::ZERO).await;
        begin(&from, &to.http().to_string()).await;
        // A message in flight stays with its consumer, which can finish it.
        wait::until("the others are moved", async || {
            let moved = status(&from).await;
            wait::when(moved, |moved| moved["moving"]["moved_count"] == 11 && moved["in_flight_count"] == 1)
        })
        .await;
        consumer.finish(&second).await;
        let moved = until_moved(&from).await;
        assert_eq!((&moved["drained"], &moved["moving"]["moved_count"]), (&json!(true), &json!(11)));
        assert_eq!(moved["moving"]["to"], to.http().to_string());
        assert!(moved["moving"]["rate"].as_u64() > Some(0), "{moved}");

        // One that failed waits again when deadlines are checked.
        to.channel_until("t", "a", "messages wait", |there| (there.depth, there.deferred_count) == (3, 1))
            .await;
        assert_eq!(contents(&to, "t", "other").await.into_keys().collect::<Vec<_>>(), ["own"]);
        let peeked = to.get("/channel/peek?topic=t&channel=a&header=tenant:acme").await.text();
        assert!(peeked.contains(r#""body":"4""#), "{peeked}");
        let deferred = to.get("/channel/peek?topic=t&channel=a&state=deferred").await.text();
        let deferred: Value = serde_json::from_str(deferred.lines().next().expect("a line")).expect("JSON");
        let left = deferred["due_at"].as_i64().expect("a due time")
            - deferred["timestamp"].as_i64().expect("a time");
        assert!((1_700_000_000_000..=1_800_000_000_000).contains(&left), "{deferred}");
        let expected = [("1", 2), ("3", 1), ("4", 1)].map(|(body, attempts)| (body.to_owned(), attempts));
        assert_eq!(contents(&to, "t", "a").await, BTreeMap::from(expected));

        // The new channel is like the old one.
        let explained = to.get_json("/policy/explain?topic=t&channel=b").await;
        let explained = explained.to_string();
        assert!(explained.contains("shop") && !explained.contains(&to.http().to_string()), "{explained}");
        assert!(to.channel("t", "b").await.expect("created").paused);
        to.admin("/channel/unpause?topic=t&channel=b").await;
        let expected = ["1", "2", "3", "4"].map(|body| (body.to_owned(), 1));
        assert_eq!(contents(&to, "t", "b").await, BTreeMap::from(expected));
        to.admin("/channel/create?topic=nobody&channel=first").await;
        assert_eq!(contents(&to, "nobody", "first").await.into_keys().collect::<Vec<_>>(), ["5"]);
        assert_eq!(to.channel("nobody", "first").await.expect("a channel").deferred_count, 1);
        assert!(to.topic("e#ephemeral").await.is_none());

        // Nothing is left here, also after a kill.
        let mut from = from;
        let metrics = Page::parse(&from.get("/metrics").await.text());
        assert_eq!(metrics.value("nsq_messages_moved_total"), 11.0);
        let metrics = Page::parse(&to.get("/metrics").await.text());
        assert_eq!(
            (metrics.value("nsq_messages_adopted_total"), metrics.value("nsq_transfers_open")),
            (11.0, 0.0)
        );
        from.kill().await;
        from.restart().await;
        for channel in ["a", "b"] {
            assert_eq!(from.channel("t", channel).await.expect("a channel").unfinished(), 0);
        }
        assert_eq!(from.topic("nobody").await.expect("a topic").depth, 0);
        let explained = from.get_json("/policy/explain?topic=t&channel=a").await.to_string();
        assert!(!explained.contains(&to.http().to_string()), "the transfer is complete: {explained}");
    });
}

#[test]
fn messages_in_flight_are_taken_back_after_a_while() {
    test(async {
        let from = Daemon::nsqd().flag("--drain-to-timeout=300ms").start().await;
        let to = Daemon::nsqd().start().await;
        from.admin("/topic/create?topic=t").await;
        from.admin("/channel/create?topic=t&channel=c").await;
        from.publish("t", "1").await;
        let mut consumer = from.subscribe("t", "c").await;
        consumer.ready(1).await;
        let message = consumer.message().await;
        begin(&from, &to.http().to_string()).await;
        until_moved(&from).await;
        consumer.line(format!("FIN {}", message.id_text())).await;
        assert!(consumer.error().await.starts_with("E_FIN_FAILED"));
        assert_eq!(contents(&to, "t", "c").await, BTreeMap::from([("1".to_owned(), 2)]));
    });
}

#[test]
fn a_node_with_a_target_exits_when_everything_is_there() {
    test(async {
        let certificates = Certificates::new();
        let adopter = token("alice", ALICE, json!([authorization(".*", &[".*"], &["adopt"])]));
        let other = token("bob", BOB, json!([authorization(".*", &[".*"], &["admin", "publish"])]));
        let file = TokenFile::new(&[adopter, other]);
        let to = Daemon::nsqd().tls(&certificates).flag(file.flag()).flag("--http-auth").start().await;
        certificates.write("alice", "alice\n");
        certificates.write("bob", "bob\n");
        let flags = |token: &str, to: &str| {
            let file = format!("--drain-to-token-file={}", certificates.path(token));
            let authority = format!("--tls-root-ca-file={}", certificates.path("ca.pem"));
            [
                "--sigterm=drain".to_owned(),
                "--drain-timeout=100ms".to_owned(),
                format!("--drain-to={to}"),
                file,
                authority,
            ]
        };
        let address = format!("https://localhost:{}", to.https().await.port());
        let start = flags("bob", &address).into_iter().fold(Daemon::nsqd(), |start, flag| start.flag(flag));
        let mut from = start.start().await;
        from.admin("/topic/create?topic=t").await;
        from.admin("/channel/create?topic=t&channel=c").await;
        from.publish("t", "1").await;
        // The permission is missing: nothing is lost, and the exit status says so.
        assert_eq!(from.terminate().await.code(), Some(1));
        from.log().expect("must hold a token with the permission adopt").await;
        from.log()
            .expect("NSQ: 1 messages in 1 channels, and 0 that no consumer takes, were not moved")
            .await;
        let token_file = format!("--drain-to-token-file={}", certificates.path("alice"));
        from.restart_with(&[&token_file]).await;
        assert_eq!(from.channel("t", "c").await.expect("a channel").depth, 1);
        assert!(from.terminate().await.success());
        from.log().expect("NSQ: everything that was left was moved").await;
        let metrics = http::request_with(
            to.http(),
            "GET",
            "/stats?format=json",
            &[("Authorization", "Bearer bob")],
            b"",
        );
        let stats = metrics.await.expect(200).json();
        assert_eq!(stats["topics"][0]["channels"][0]["depth"], 1, "{stats}");
    });
}

#[test]
fn moves_that_cannot_work_are_refused_with_the_reason_and_keep_everything() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        let other = Daemon::nsqd().start().await;
        let from = Daemon::nsqd().flag("--drain-to-timeout=200ms").start().await;
        from.admin("/topic/create?topic=t").await;
        from.admin("/channel/create?topic=t&channel=c").await;
        from.publish("t", "kept").await;
        let put = async |target: &str| http::request(from.http(), "PUT", target, b"").await;
        put("/config/drain?to=nowhere").await.expect_error(
            400,
            r#"INVALID_ARG_TO: to=nowhere: \"nowhere\" is not the HTTP address of an nsqd; expected host:port, or a URL such as https://10.0.0.2:4152"#,
        );
        put("/config/drain?to=a:1&timeout=0").await.expect_error(
            400,
            "INVALID_ARG_TIMEOUT: to needs a timeout greater than 0, such as timeout=5m: messages move when it is over",
        );
        assert_eq!(status(&from).await["draining"], false);

        begin(&from, &from.http().to_string()).await;
        let error = until_failed(&from).await;
        assert!(error.contains("DRAINING") || error.contains("SAME_NODE"), "{error}");
        // NSQ's nsqd has no such endpoint either.
        begin(&from, &lookupd.http().to_string()).await;
        assert!(until_failed(&from).await.contains("cannot adopt messages"));
        http::request(other.http(), "PUT", "/config/drain", b"").await.expect(200);
        begin(&from, &other.http().to_string()).await;
        assert!(until_failed(&from).await.contains("DRAINING: this nsqd drains, too"));
        // Nobody listens there.
        begin(&from, "127.0.0.1:1").await;
        assert!(until_failed(&from).await.contains("cannot reach 127.0.0.1:1"));
        assert_eq!(status(&from).await["drained"], false);
        // Consumers go on meanwhile.
        let mut consumer = from.subscribe("t", "c").await;
        consumer.ready(1).await;
        assert_eq!(bodies(&consumer.consume(1).await), ["kept"]);
        wait::until("the node is drained", async || {
            wait::when(status(&from).await, |status| status["drained"] == true)
        })
        .await;

        let invalid = [
            ("nowhere", "--drain-timeout=1s", "is not the HTTP address of an nsqd"),
            ("a:1", "--drain-timeout=0", "--drain-to needs a --drain-timeout greater than 0"),
        ];
        for (to, timeout, reason) in invalid {
            let (exit, log) =
                Daemon::nsqd().flag(format!("--drain-to={to}")).flag(timeout).expect_exit().await;
            assert!(!exit.success() && log.contains(reason), "{}", log.text());
        }
        let (exit, log) = Daemon::nsqd()
            .flag("--drain-to=a:1")
            .flag("--drain-to-token-file=/nonexistent")
            .expect_exit()
            .await;
        assert!(!exit.success() && log.contains("cannot read --drain-to-token-file"), "{}", log.text());
    });
}

#[test]
fn an_ended_drain_hands_messages_out_again() {
    test(async {
        let from = Daemon::nsqd().start().await;
        from.admin("/topic/create?topic=t").await;
        from.admin("/channel/create?topic=t&channel=c").await;
        from.publish("t", "1").await;
        let mut consumer = from.subscribe("t", "c").await;
        begin(&from, "127.0.0.1:1").await;
        wait::until("the channel hands out nothing", async || {
            let why = from.get("/channel/why?topic=t&channel=c").await.text();
            wait::when(why, |why| why.contains("moves its messages to 127.0.0.1:1"))
        })
        .await;
        consumer.ready(1).await;
        consumer.nothing().await;
        http::request(from.http(), "DELETE", "/config/drain", b"").await.expect(200);
        assert_eq!(bodies(&consumer.consume(1).await), ["1"]);
        from.publish("t", "2").await;
        assert_eq!(bodies(&consumer.consume(1).await), ["2"]);
    });
}

#[test]
fn the_nsq_command_shows_the_move() {
    test(async {
        let from = Daemon::nsqd().start().await;
        let to = Daemon::nsqd().start().await;
        from.admin("/topic/create?topic=t").await;
        from.admin("/channel/create?topic=t&channel=c").await;
        let mut producer = from.connect().await;
        producer.publish_batch("t", &["1", "2", "3"]).await;
        let nsq = async |arguments: &[&str]| {
            let mut command = tokio::process::Command::new(nsq_tests::daemon::binary("nsq"));
            let nsqd = from.http().to_string();
            command.args(["--nsqd", &nsqd, "node", "drain", &nsqd]).args(arguments);
            let output = command.output().await.expect("nsq runs");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (output.status.code(), text(&output.stdout), text(&output.stderr))
        };
        let (code, _, error) = nsq(&["--to", "127.0.0.1:1", "--move-after", "1ms", "--stop-draining"]).await;
        assert_eq!(code, Some(2), "{error}");
        let target = to.http().to_string();
        let (code, shown, error) =
            nsq(&["--to", &target, "--move-after", "1ms", "--wait", "--wait-timeout", "30s"]).await;
        assert_eq!(code, Some(0), "{error}");
        assert!(shown.contains(&format!("is drained: 3 messages moved to {target}, 0 left")), "{shown}");
        assert_eq!(contents(&to, "t", "c").await.len(), 3);
        // The other node drains now, too.
        http::request(to.http(), "PUT", "/config/drain", b"").await.expect(200);
        nsq(&["--stop-draining"]).await;
        from.publish("t", "4").await;
        let (code, _, error) = nsq(&["--to", &target, "--move-after", "1ms", "--wait"]).await;
        assert!(code == Some(1) && error.contains("could not move its messages"), "{error}");
    });
}

/// Waits until this channel of the receiver got this many messages.
async fn until_adopted(to: &Daemon, channel: &str, count: u64) {
    wait::until_within(Duration::from_secs(60), "messages are moved", async || {
        let known = to.channel("t", channel).await.map_or(0, |channel| channel.message_count);
        wait::when(known, |known| *known >= count)
    })
    .await;
}

#[test]
fn kills_of_both_nodes_lose_and_double_nothing() {
    const COUNT: u64 = 20_000;
    const DEFERRED: u64 = 500;
    test_within(Duration::from_secs(240), async {
        // With syncs, a move takes long enough to be interrupted.
        let start = || Daemon::nsqd().flag("--mem-queue-size=2000").flag("--durability=sync").start();
        let (mut from, mut to) = (start().await, start().await);
        from.admin("/topic/create?topic=t").await;
        let channels = ["a", "b", "c"];
        for channel in channels {
            from.admin(&format!("/channel/create?topic=t&channel={channel}")).await;
        }
        let mut producer = from.connect().await;
        for first in (0..COUNT).step_by(500) {
            let all: Vec<String> = (first..first + 500).map(|number| number.to_string()).collect();
            match first % 2000 {
                0 => {
                    let headers = [("X-NSQ-part", "1")];
                    http::request_with(
                        from.http(),
                        "POST",
                        "/mpub?topic=t&binary=true",
                        &headers,
                        &batch(&all),
                    )
                    .await
                    .expect(200);
                }
                _ => producer.publish_batch("t", &all).await,
            }
        }
        for number in 0..DEFERRED {
            producer.publish_deferred("t", HALF_AN_HOUR, format!("later {number}")).await;
        }
        producer.publish_batch("nobody", &["x", "y", "z"]).await;
        // Some were delivered: requeued at once, deferred, or in flight until the kill.
        let mut consumer = from.subscribe("t", "a").await;
        consumer.ready(900).await;
        let messages = consumer.messages(900).await;
        consumer.ready(0).await;
        let (mut requeued, mut put_off) = (BTreeSet::new(), BTreeSet::new());
        for (index, message) in messages.iter().enumerate() {
            match index % 3 {
                0 => {
                    consumer.requeue(message, Duration::ZERO).await;
                    requeued.insert(message.text());
                }
                1 => {
                    consumer.requeue(message, HALF_AN_HOUR).await;
                    put_off.insert(message.text());
                }
                _ => {}
            }
        }
        consumer.barrier().await;
        let in_flight: BTreeSet<String> = messages
            .iter()
            .map(|message| message.text())
            .filter(|body| !requeued.contains(body) && !put_off.contains(body))
            .collect();
        drop(consumer);

        let address = to.http().to_string();
        begin(&from, &address).await;
        until_adopted(&to, "a", 2_000).await;
        to.kill().await;
        to.restart().await;
        until_adopted(&to, "a", 6_000).await;
        from.kill().await;
        from.restart().await;
        begin(&from, &address).await;
        until_adopted(&to, "a", 12_000).await;
        from.kill().await;
        to.kill().await;
        to.restart().await;
        from.restart().await;
        begin(&from, &address).await;
        until_adopted(&to, "b", 3_000).await;
        to.kill().await;
        to.restart().await;
        until_adopted(&to, "c", 1_000).await;
        from.kill().await;
        from.restart().await;
        begin(&from, &address).await;
        until_moved(&from).await;
        to.kill().await;
        to.restart().await;

        from.kill().await;
        from.restart().await;
        for channel in channels {
            assert_eq!(from.channel("t", channel).await.expect("a channel").unfinished(), 0, "{channel}");
            let there = to.channel("t", channel).await.expect("a channel");
            let deferred = DEFERRED + if channel == "a" { put_off.len() as u64 } else { 0 };
            assert_eq!((there.deferred_count, there.unfinished()), (deferred, COUNT + DEFERRED), "{channel}");
            let all = contents(&to, "t", channel).await;
            for number in 0..COUNT {
                let body = number.to_string();
                if channel == "a" && put_off.contains(&body) {
                    assert!(!all.contains_key(&body), "{body} is not due");
                    continue;
                }
                let attempts = all.get(&body).unwrap_or_else(|| panic!("{channel} lacks {body}"));
                let expected = match channel == "a" {
                    true if requeued.contains(&body) => 2..=2,
                    true if in_flight.contains(&body) => 1..=2,
                    _ => 1..=1,
                };
                assert!(expected.contains(attempts), "{channel}: {body} has {attempts} attempts");
            }
        }
        assert_eq!(to.topic("nobody").await.expect("a topic").depth, 3);
        assert!(to.terminate().await.success() && from.terminate().await.success());
        // Nothing is damaged on either side.
        for nsqd in [&from, &to] {
            let mut verify = tokio::process::Command::new(nsq_tests::daemon::binary("nsq"));
            let verified =
                verify.args(["data", "verify"]).arg(nsqd.data_path()).output().await.expect("nsq runs");
            assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
        }
    });
}

#[test]
fn a_second_signal_ends_a_move_at_once() {
    test(async {
        let flags = ["--sigterm=drain", "--drain-timeout=10ms", "--drain-to=127.0.0.1:1"];
        let start = flags.iter().fold(Daemon::nsqd(), |start, flag| start.flag(*flag));
        let mut from = start.start().await;
        from.admin("/topic/create?topic=t").await;
        from.admin("/channel/create?topic=t&channel=c").await;
        from.publish("t", "1").await;
        from.signal(Signal::TERM);
        from.log().expect("NSQ: moving what is left to 127.0.0.1:1").await;
        from.signal(Signal::TERM);
        assert!(from.exited().await.success());
        from.restart().await;
        assert_eq!(from.channel("t", "c").await.expect("a channel").depth, 1);
    });
}
