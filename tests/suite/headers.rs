//! Messages with headers: who gets them, in which form, and that nothing else about a message changes.

use std::path::Path;
use std::time::Duration;

use nsq_protocol::headers::{Headers, put_published, split_delivered};
use nsq_tests::daemon::binary;
use nsq_tests::foreign::Library;
use nsq_tests::upgrade::Form;
use nsq_tests::wire::{Message, batch};
use nsq_tests::{Daemon, Peer, http, test, test_within};
use serde_json::{Value, json};

use crate::interop::with_each_library;

const PATIENCE: Duration = Duration::from_secs(15);

/// What a producer sends for one message with headers.
fn message(headers: &Value, body: &str) -> Vec<u8> {
    let json = headers.to_string();
    let mut message = Vec::new();
    put_published(&mut message, Headers::trusted(json.as_bytes()), body.as_bytes());
    message
}

/// The message with this number: two of three have headers.
fn numbered(number: usize) -> (Option<Value>, String) {
    let headers = (!number.is_multiple_of(3)).then(|| json!({"number": number.to_string(), "x": "ä\"\n"}));
    (headers, format!("body {number}"))
}

/// Publishes the numbered messages, some one by one, some in batches.
async fn publish_numbered(nsqd: &Daemon, topic: &str, count: usize) {
    let mut peer = nsqd.connect().await;
    for number in 0..count {
        match numbered(number) {
            (None, body) => peer.publish(topic, body).await,
            (Some(headers), body) if number.is_multiple_of(2) => {
                peer.line_and_body(format!("PUB_EXT {topic}"), message(&headers, &body)).await;
                peer.ok().await;
            }
            (Some(headers), body) => {
                let messages = [message(&headers, &body)];
                peer.line_and_body(format!("MPUB_EXT {topic}"), batch(&messages)).await;
                peer.ok().await;
            }
        }
    }
}

/// A consumer that was granted headers.
async fn consumer_with_headers(nsqd: &Daemon, topic: &str, channel: &str) -> Peer {
    let mut peer = nsqd.connect().await;
    let reply = peer.identify(json!({"feature_negotiation": true, "features": ["headers"]})).await;
    assert_eq!(reply["features"], json!(["headers"]));
    peer.subscribe(topic, channel).await;
    peer.ready(2500).await;
    peer
}

/// A consumer that did not request headers.
async fn plain_consumer(nsqd: &Daemon, topic: &str, channel: &str) -> Peer {
    let mut peer = nsqd.subscribe(topic, channel).await;
    peer.ready(2500).await;
    peer
}

/// Headers and body of a message to a consumer that was granted headers.
fn split(message: &Message) -> (Option<Value>, String) {
    let (headers, body) = split_delivered(&message.body).expect("a version");
    let headers = headers.map(|headers| serde_json::from_slice(headers.as_bytes()).expect("JSON"));
    (headers, String::from_utf8(body.to_vec()).expect("UTF-8"))
}

fn check_with_headers(messages: &[Message], attempts: u16) {
    for (number, message) in messages.iter().enumerate() {
        assert_eq!((split(message), message.attempts), (numbered(number), attempts));
    }
}

fn check_plain(messages: &[Message], attempts: u16) {
    for (number, message) in messages.iter().enumerate() {
        assert_eq!((message.text(), message.attempts), (numbered(number).1, attempts));
    }
}

#[test]
fn headers_go_only_to_connections_that_request_them() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut plain = plain_consumer(&nsqd, "t", "plain").await;
        let mut with_headers = consumer_with_headers(&nsqd, "t", "headers").await;
        let mut alias = nsqd.connect().await;
        let reply = alias.identify(json!({"feature_negotiation": true, "extend_support": true})).await;
        assert_eq!((&reply["extend_support"], &reply["features"]), (&json!(true), &Value::Null));
        alias.subscribe("t", "alias").await;
        alias.ready(2500).await;
        publish_numbered(&nsqd, "t", 30).await;

        let first = with_headers.messages(30).await;
        check_with_headers(&first, 1);
        check_with_headers(&alias.consume(30).await, 1);
        let plain_messages = plain.messages(30).await;
        check_plain(&plain_messages, 1);
        let places = |messages: &[Message]| messages.iter().map(|m| (m.id, m.timestamp)).collect::<Vec<_>>();
        assert_eq!(places(&first), places(&plain_messages));

        for (consumer, messages) in [(&mut plain, plain_messages), (&mut with_headers, first)] {
            for message in &messages {
                consumer.requeue(message, Duration::ZERO).await;
            }
        }
        check_plain(&plain.consume(30).await, 2);
        check_with_headers(&with_headers.consume(30).await, 2);
    });
}

#[test]
fn reply_to_identify_repeats_only_what_was_requested() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let reply = async |request: Value| nsqd.connect().await.identify(request).await;
        let silent = reply(json!({"feature_negotiation": true})).await;
        assert!(silent.get("features").is_none() && silent.get("extend_support").is_none(), "{silent}");
        let some = reply(json!({"feature_negotiation": true, "features": ["x", "headers"]})).await;
        assert_eq!(some["features"], json!(["headers"]));
        assert!(some.get("extend_support").is_none(), "{some}");
    });
}

#[test]
fn deferred_message_keeps_its_headers() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut consumer = consumer_with_headers(&nsqd, "t", "c").await;
        let mut plain = plain_consumer(&nsqd, "t", "plain").await;
        let mut peer = nsqd.connect().await;
        let headers = json!({"a": "b"});
        peer.line_and_body("DPUB_EXT t 300", message(&headers, "later")).await;
        peer.ok().await;
        assert_eq!(split(&consumer.message().await), (Some(headers), "later".to_owned()));
        assert_eq!(plain.message().await.text(), "later");
    });
}

#[test]
fn headers_survive_a_kill_and_the_disk() {
    test_within(Duration::from_secs(60), async {
        const COUNT: usize = 600;
        let mut nsqd = Daemon::nsqd().flag("--mem-queue-size=10").start().await;
        nsqd.admin("/topic/create?topic=t").await;
        for channel in ["plain", "headers"] {
            nsqd.admin(&format!("/channel/create?topic=t&channel={channel}")).await;
        }
        publish_numbered(&nsqd, "t", COUNT).await;
        let bytes = topic_bytes(&nsqd).await;
        assert_eq!(bytes, (0..COUNT).map(published_bytes).sum::<usize>());
        nsqd.kill().await;
        nsqd.restart().await;
        assert_eq!(topic_bytes(&nsqd).await, bytes, "recovery counts the same bytes");

        let mut plain = plain_consumer(&nsqd, "t", "plain").await;
        let messages = plain.messages(COUNT).await;
        check_plain(&messages, 1);
        let mut with_headers = consumer_with_headers(&nsqd, "t", "headers").await;
        check_with_headers(&with_headers.messages(COUNT).await, 1);

        // After a clean stop, nothing is in memory: redelivered messages come from segments.
        drop((plain, with_headers));
        nsqd.terminate().await;
        nsqd.restart().await;
        let mut plain = plain_consumer(&nsqd, "t", "plain").await;
        check_plain(&plain.consume(COUNT).await, 2);
        let mut with_headers = consumer_with_headers(&nsqd, "t", "headers").await;
        check_with_headers(&with_headers.consume(COUNT).await, 2);
    });
}

/// The bytes that count for the numbered message: headers with their length, and the body.
fn published_bytes(number: usize) -> usize {
    match numbered(number) {
        (None, body) => body.len(),
        (Some(headers), body) => message(&headers, &body).len(),
    }
}

async fn topic_bytes(nsqd: &Daemon) -> usize {
    let stats = nsqd.get_json("/stats?format=json&topic=t").await;
    stats["topics"][0]["message_bytes"].as_u64().expect("a number") as usize
}

#[test]
fn compressed_connections_get_the_same_messages() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut consumers = Vec::new();
        for form in [Form::Snappy, Form::Deflate] {
            for features in [json!([]), json!(["headers"])] {
                let mut peer = nsqd.connect().await;
                peer.start_compression(json!({ "features": features }), form).await;
                peer.subscribe("t", &format!("channel-{}", consumers.len())).await;
                peer.ready(2500).await;
                consumers.push((peer, features == json!(["headers"])));
            }
        }
        publish_numbered(&nsqd, "t", 30).await;
        for (mut peer, with_headers) in consumers {
            let messages = peer.consume(30).await;
            if with_headers { check_with_headers(&messages, 1) } else { check_plain(&messages, 1) }
        }
    });
}

#[test]
fn invalid_headers_are_refused_with_the_reason() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--max-msg-size=100").start().await;
        let refused = async |line: &str, body: &[u8], text: &str| {
            let mut peer = nsqd.connect().await;
            peer.line_and_body(line, body).await;
            peer.refused(text).await;
        };
        for (line, verb) in [("PUB_EXT t", "PUB_EXT"), ("DPUB_EXT t 5", "DPUB_EXT")] {
            let text = |reason: &str| format!("E_BAD_MESSAGE {verb} {reason}");
            refused(line, b"\0\x02{}", &text("invalid message body size 0")).await;
            refused(line, b"", &text("invalid message body size 0")).await;
            refused(line, b"\0\x09{}x", &text("headers are cut off")).await;
            refused(line, b"\0\x02[]x", &text("headers are not a JSON object of strings")).await;
            let reserved = message(&json!({"nsq-dead-reason": "x"}), "x");
            let reason =
                r#"header "nsq-dead-reason" is reserved; producers may set nsq-ttl, nsq-key and nsq-id"#;
            refused(line, &reserved, &text(reason)).await;
            refused(line, &[b'x'; 101], &text("message too big 101 > 100")).await;
        }
        let messages = [message(&json!({}), "x"), b"\0\x02{}".to_vec()];
        let text = "E_BAD_MESSAGE MPUB_EXT invalid message(1) body size 0";
        refused("MPUB_EXT t", &batch(&messages), text).await;
        refused("MPUB_EXT a:b", b"", r#"E_BAD_TOPIC MPUB_EXT topic name "a:b" is not valid"#).await;
        assert!(nsqd.topic("t").await.is_none(), "a refused publish creates no topic");

        // Headers count in the limit.
        let largest = message(&json!({"a": "b"}), &"x".repeat(100 - 2 - 9));
        assert_eq!(largest.len(), 100);
        let mut peer = consumer_with_headers(&nsqd, "t", "c").await;
        peer.line_and_body("PUB_EXT t", &largest).await;
        peer.ok().await;
        assert_eq!(split(&peer.message().await).1.len(), 89);
    });
}

#[test]
fn http_publishes_headers() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--max-msg-size=200").start().await;
        let mut consumer = consumer_with_headers(&nsqd, "t", "c").await;
        let mut plain = plain_consumer(&nsqd, "t", "plain").await;
        let post = async |target: &str, headers: &[(&str, &str)], body: &[u8]| {
            http::request_with(nsqd.http(), "POST", target, headers, body).await
        };
        post("/pub?topic=t", &[], b"none").await.expect(200);
        let headers = [("X-NSQ-Tenant", "acme"), ("traceparent", "00-1"), ("X-Other", "x")];
        post("/pub?topic=t&ttl=5m&key=k&id=7", &headers, b"one").await.expect(200);
        post("/mpub?topic=t&key=k", &[], b"two\nthree\n").await.expect(200);
        post("/mpub?topic=t&binary=true&key=k", &[], &batch(&["four"])).await.expect(200);
        let all = json!({
            "tenant": "acme", "traceparent": "00-1", "nsq-ttl": "5m", "nsq-key": "k", "nsq-id": "7"
        });
        let key = json!({"nsq-key": "k"});
        let expected = [
            (None, "none"),
            (Some(all), "one"),
            (Some(key.clone()), "two"),
            (Some(key.clone()), "three"),
            (Some(key), "four"),
        ];
        let expected = expected.map(|(headers, body)| (headers, body.to_owned()));
        assert_eq!(consumer.consume(5).await.iter().map(split).collect::<Vec<_>>(), expected);
        let bodies: Vec<String> = plain.consume(5).await.iter().map(Message::text).collect();
        assert_eq!(bodies, expected.map(|(_, body)| body));

        let refused = post("/pub?topic=new", &[("X-NSQ-a!", "x")], b"x").await.expect(400).json();
        let reason = refused["message"].as_str().expect("a reason").to_owned();
        assert!(reason.starts_with("INVALID_HEADER: header name \"a!\" is not "), "{reason}");
        post("/mpub?topic=new&key=k", &[("X-NSQ-nsq-key", "k")], b"x").await.expect(400);
        let big = [("X-NSQ-Big", &*"x".repeat(200))];
        post("/pub?topic=t", &big, b"x").await.expect_error(413, "MSG_TOO_BIG");
        assert!(nsqd.topic("new").await.is_none());
    });
}

#[test]
fn channel_created_later_gets_retained_headers() {
    test(async {
        let mut nsqd = Daemon::nsqd().flag("--retain-for=1h").flag("--mem-queue-size=10").start().await;
        let mut first = plain_consumer(&nsqd, "t", "first").await;
        publish_numbered(&nsqd, "t", 100).await;
        check_plain(&first.consume(100).await, 1);
        first.barrier().await;
        nsqd.kill().await;
        nsqd.restart().await;
        for channel in ["plain", "headers"] {
            nsqd.admin(&format!("/channel/create?topic=t&channel={channel}&start=earliest")).await;
        }
        check_with_headers(&consumer_with_headers(&nsqd, "t", "headers").await.consume(100).await, 1);
        check_plain(&plain_consumer(&nsqd, "t", "plain").await.consume(100).await, 1);
    });
}

#[test]
fn existing_clients_consume_a_topic_with_mixed_messages() {
    with_each_library(async |library: Library| {
        let nsqd = Daemon::nsqd().start().await;
        publish_numbered(&nsqd, "t", 60).await;
        let address = nsqd.tcp().to_string();
        let arguments = ["--nsqd", &address, "--topic", "t", "--channel", "c", "--count", "60"];
        let mut program = library.run("consume", &arguments);
        let bodies: Vec<String> = (0..60).map(|number| numbered(number).1).collect();
        assert_eq!(program.bodies(60).await, bodies);
        program.finish().await;
        nsqd.channel_until_finished("t", "c").await;
    });
}

#[test]
fn client_library_publishes_and_receives_headers() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let address = nsqd.tcp().to_string();
        let subscribed = async |channel, headers| {
            let config = nsq::Config::new().headers(headers);
            let consumer = nsq::Consumer::builder("t", channel).nsqd(&*address).config(config);
            let messages = consumer.max_in_flight(10).stream().expect("valid");
            messages.consumer().wait_ready(PATIENCE).await.expect("connected");
            messages
        };
        let mut plain = subscribed("plain", false).await;
        let mut with_headers = subscribed("headers", true).await;

        let producer = nsq::Producer::new(&*address).expect("an address");
        producer.publish_with_headers("t", [("a", "1")], "one").await.expect("published");
        let several = [(vec![("a", "2")], "two"), (vec![], "three")];
        producer.publish_many_with_headers("t", several).await.expect("published");
        let soon = Duration::from_millis(100);
        let headers = [("a", "4".to_owned())];
        producer.publish_deferred_with_headers("t", soon, headers, "four").await.expect("published");
        producer.publish("t", "five").await.expect("published");
        let reserved = producer.publish_with_headers("t", [("nsq-x", "1")], "x").await;
        assert!(matches!(reserved, Err(nsq::PublishError::InvalidHeaders { .. })), "{reserved:?}");

        let mut received = Vec::new();
        for _ in 0..5 {
            let message = next(&mut with_headers).await;
            let value = message.headers().map(|headers| headers.get("a").map(|value| value.into_owned()));
            received.push((String::from_utf8_lossy(message.body()).into_owned(), value));
            message.finish().expect("the connection is open");
        }
        received.sort();
        let value = |value: &str| Some(Some(value.to_owned()));
        let expected = [
            ("five", None),
            ("four", value("4")),
            ("one", value("1")),
            ("three", Some(None)),
            ("two", value("2")),
        ];
        assert_eq!(received, expected.clone().map(|(body, value)| (body.to_owned(), value)));
        let mut bodies = Vec::new();
        for _ in 0..5 {
            let message = next(&mut plain).await;
            assert!(message.headers().is_none());
            bodies.push(String::from_utf8_lossy(message.body()).into_owned());
            message.finish().expect("the connection is open");
        }
        bodies.sort();
        assert_eq!(bodies, expected.map(|(body, _)| body));
    });
}

async fn next(messages: &mut nsq::MessageStream) -> nsq::Message {
    let message = tokio::time::timeout(PATIENCE, messages.next()).await;
    message.expect("a message in time").expect("the consumer runs")
}

/// Runs `nsq` with these words, which must succeed, and returns its stdout.
async fn nsq(words: &[&str], paths: &[&Path]) -> String {
    let mut command = tokio::process::Command::new(binary("nsq"));
    command.args(words).args(paths).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").expect("it starts");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn command_line_publishes_shows_and_exports_headers() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        nsqd.admin("/channel/create?topic=t&channel=stored").await;
        let address = format!("--nsqd={}", nsqd.http());
        let words = ["pub", &address, "t", "--header", "a=1=2", "--header", "nsq-key=k", "hello"];
        nsq(&words, &[]).await;
        nsq(&["pub", &address, "t", "plain"], &[]).await;
        let lines = nsq(&["sub", &address, "--json", "t", "c", "-n", "2"], &[]).await;
        nsqd.terminate().await;
        let paths = [nsqd.data_path(), Path::new("-")];
        let exported = nsq(&["data", "export", "--channel=stored"], &paths).await;
        for text in [lines, exported] {
            let lines: Vec<Value> =
                text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            let shown: Vec<_> = lines.iter().map(|line| (&line["headers"], &line["body"])).collect();
            let headers = json!({"a": "1=2", "nsq-key": "k"});
            assert_eq!(shown, [(&headers, &json!("hello")), (&Value::Null, &json!("plain"))]);
        }
    });
}
