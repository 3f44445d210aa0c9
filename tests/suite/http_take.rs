use std::time::{Duration, Instant};

use nsq_tests::http::{Connection, Response, request_with};
use nsq_tests::{Daemon, test, wait};
use serde_json::{Value, json};

const TAKE: &str = "/channel/take?topic=t&channel=c";

/// Takes with these parameters, and returns the messages.
pub async fn take(nsqd: &Daemon, parameters: &str) -> Vec<Value> {
    let mut answer = nsqd.post(&format!("{TAKE}{parameters}"), "").await.expect(200).json();
    match answer["messages"].take() {
        Value::Array(messages) => messages,
        other => panic!("{other}"),
    }
}

pub fn lease(message: &Value) -> &str {
    message["lease"].as_str().expect("a lease")
}

fn bodies(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["body"].as_str().expect("a text")).collect()
}

/// Settles leases, and returns the results.
pub async fn settle(nsqd: &Daemon, action: &str, parameters: &str, body: &str) -> Vec<Value> {
    let target = format!("/channel/{action}?topic=t&channel=c{parameters}");
    let mut answer = nsqd.post(&target, body).await.expect(200).json();
    let results = answer["results"].as_array_mut().map(std::mem::take).expect("results");
    let succeeded = results.iter().filter(|result| result["ok"] == true).count();
    assert_eq!(
        (&answer["succeeded"], &answer["failed"]),
        (&json!(succeeded), &json!(results.len() - succeeded))
    );
    results
}

async fn finish(nsqd: &Daemon, leases: &str) -> Vec<bool> {
    let results = settle(nsqd, "finish", "", leases).await;
    results.iter().map(|result| result["ok"] == true).collect()
}

fn error(result: &Value) -> &str {
    assert_eq!(result["ok"], false);
    result["error"].as_str().and_then(|error| error.split(':').next()).expect("an error")
}

/// Starts to wait for messages on a connection of its own.
pub async fn begin_take(nsqd: &Daemon, parameters: &str) -> Connection {
    let mut connection = Connection::open(nsqd.http()).await;
    let target = format!("{TAKE}{parameters}");
    connection
        .send(format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n").as_bytes())
        .await;
    connection
}

async fn until_clients(nsqd: &Daemon, count: u64) {
    nsqd.channel_until("t", "c", "so many clients", |channel| channel.client_count == count).await;
}

async fn messages_of(connection: &mut Connection) -> Vec<Value> {
    let answer: Response = connection.answer("take").await.expect("an answer").expect(200);
    answer.json()["messages"].as_array().cloned().expect("messages")
}

#[test]
fn waiting_request_gets_a_message_when_it_is_published() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut waiting = begin_take(&nsqd, "&wait=60s&max=3&client_id=worker-7").await;
        let channel =
            nsqd.channel_until("t", "c", "a waiting request", |channel| channel.client_count == 2).await;
        let mut clients: Vec<_> =
            channel.clients.iter().map(|client| (&*client.client_id, client.ready_count)).collect();
        clients.sort_unstable();
        assert_eq!(clients, [("http-leases", 0), ("worker-7", 3)]);
        assert_eq!(nsqd.metrics().await.value("nsq_http_consumers{kind=\"take\"}"), 1.0);

        nsqd.publish("t", "first").await;
        let messages = messages_of(&mut waiting).await;
        assert_eq!(bodies(&messages), ["first"]);
        assert_eq!((&messages[0]["attempts"], &messages[0]["headers"]), (&json!(1), &json!({})));
        let (published, deadline) =
            (messages[0]["timestamp"].as_i64(), messages[0]["lease_deadline"].as_i64());
        let lead = deadline.expect("a deadline") - published.expect("a timestamp");
        assert!((59_000_000_000..120_000_000_000).contains(&lead), "{lead}");
        assert_eq!(nsqd.metrics().await.value("nsq_http_leases"), 1.0);

        assert_eq!(finish(&nsqd, lease(&messages[0])).await, [true]);
        nsqd.channel_until_finished("t", "c").await;
        assert_eq!(nsqd.metrics().await.value("nsq_http_leases"), 0.0);
        // The connection can be used again.
        waiting
            .send(format!("POST {TAKE} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n").as_bytes())
            .await;
        assert_eq!(messages_of(&mut waiting).await, [] as [Value; 0]);
    });
}

#[test]
fn wait_ends_without_messages() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let began = Instant::now();
        assert_eq!(take(&nsqd, "&wait=300ms").await, [] as [Value; 0]);
        assert!(began.elapsed() >= Duration::from_millis(300));
        assert_eq!(take(&nsqd, "").await, [] as [Value; 0], "the default is not to wait");
    });
}

#[test]
fn request_gets_at_most_max_messages_in_order() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        for number in 0..8 {
            nsqd.publish("t", number.to_string()).await;
        }
        let first = take(&nsqd, "&max=5&wait=10s").await;
        assert_eq!(bodies(&first), ["0", "1", "2", "3", "4"]);
        let rest = take(&nsqd, "&max=5&wait=10s").await;
        assert_eq!(bodies(&rest), ["5", "6", "7"]);
        let leases: Vec<&str> = first.iter().chain(&rest).map(lease).collect();
        assert_eq!(finish(&nsqd, &leases.join("\n")).await, [true; 8]);
        nsqd.channel_until_finished("t", "c").await;
    });
}

#[test]
fn large_messages_are_spread_over_several_answers() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        for _ in 0..5 {
            nsqd.publish("t", vec![b'x'; 200_000]).await;
        }
        let mut counts = Vec::new();
        while counts.iter().sum::<usize>() < 5 {
            counts.push(take(&nsqd, "&max=100&wait=10s").await.len());
        }
        assert!(counts.iter().all(|count| (1..=2).contains(count)), "{counts:?}");
    });
}

#[test]
fn body_is_text_or_base64_and_headers_are_shown() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        let headers = [("X-NSQ-color", "red")];
        request_with(nsqd.http(), "POST", "/pub?topic=t", &headers, "grün".as_bytes()).await.expect(200);
        nsqd.publish("t", [0xff, 0, 1]).await;
        let messages = take(&nsqd, "&max=2&wait=10s").await;
        assert_eq!(
            (&messages[0]["body"], &messages[0]["headers"]),
            (&json!("grün"), &json!({"color": "red"}))
        );
        assert_eq!(messages[0].get("body_base64"), None);
        assert_eq!((messages[1].get("body"), &messages[1]["body_base64"]), (None, &json!("/wAB")));
    });
}

#[test]
fn each_lease_has_a_result_of_its_own() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        for channel in ["c", "d"] {
            nsqd.admin(&format!("/channel/create?topic=t&channel={channel}")).await;
        }
        for body in ["a", "b"] {
            nsqd.publish("t", body).await;
        }
        let messages = take(&nsqd, "&max=2&wait=10s").await;
        let other = nsqd.post("/channel/take?topic=t&channel=d&wait=10s", "").await.json();
        let (a, b, other) = (lease(&messages[0]), lease(&messages[1]), lease(&other["messages"][0]));
        let body = json!([a, "nonsense", {"lease": other}, a, b]).to_string();
        let results = settle(&nsqd, "finish", "", &body).await;
        assert_eq!((&results[0]["ok"], &results[4]["ok"]), (&json!(true), &json!(true)));
        assert_eq!((&results[0]["lease"], &results[1]["lease"]), (&json!(a), &json!("nonsense")));
        let errors: Vec<&str> = results[1..4].iter().map(error).collect();
        assert_eq!(errors, ["INVALID_LEASE", "OTHER_CHANNEL", "LEASE_EXPIRED"]);
        // Leases in the query, and one channel is left.
        let target = format!("/channel/finish?topic=t&channel=d&lease={other}&lease={a}");
        let answer = nsqd.post(&target, "").await.expect(200).json();
        assert_eq!((&answer["succeeded"], &answer["failed"]), (&json!(1), &json!(1)));
        nsqd.channel_until_finished("t", "c").await;
        let other = nsqd.channel("t", "d").await.expect("a channel");
        assert_eq!((other.in_flight_count, other.depth), (0, 1));
    });
}

#[test]
fn old_lease_is_refused_after_a_timeout() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "again").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        let first = take(&nsqd, "&timeout=1s&wait=10s").await;
        let timed_out = |channel: &nsq_tests::stats::Channel| channel.timeout_count == 1;
        nsqd.channel_until("t", "c", "a timeout", timed_out).await;
        let results = settle(&nsqd, "finish", "", lease(&first[0])).await;
        assert_eq!(error(&results[0]), "LEASE_EXPIRED");

        let second = take(&nsqd, "&wait=10s").await;
        assert_eq!((&second[0]["id"], &second[0]["attempts"]), (&first[0]["id"], &json!(2)));
        for action in ["finish", "requeue", "touch"] {
            assert_eq!(
                error(&settle(&nsqd, action, "", lease(&first[0])).await[0]),
                "LEASE_EXPIRED",
                "{action}"
            );
        }
        assert_eq!(finish(&nsqd, lease(&second[0])).await, [true]);
        nsqd.channel_until_finished("t", "c").await;
    });
}

#[test]
fn requeued_message_comes_again_after_its_delay() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "a").await;
        nsqd.publish("t", "b").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        let messages = take(&nsqd, "&max=2&wait=10s").await;
        let (a, b) = (lease(&messages[0]), lease(&messages[1]));
        let body = json!([{"lease": a}, {"lease": b, "delay": "10m"}]).to_string();
        let results = settle(&nsqd, "requeue", "&delay=600ms", &body).await;
        assert!(results.iter().all(|result| result["ok"] == true), "{results:?}");
        let began = Instant::now();
        let again = take(&nsqd, "&wait=20s&max=2").await;
        assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
        assert_eq!((bodies(&again), &again[0]["attempts"]), (vec!["a"], &json!(2)));
        let channel = nsqd.channel("t", "c").await.expect("a channel");
        assert_eq!((channel.deferred_count, channel.requeue_count), (1, 2));
        // At once.
        assert_eq!(settle(&nsqd, "requeue", "", lease(&again[0])).await[0]["ok"], true);
        assert_eq!(take(&nsqd, "&wait=20s").await[0]["attempts"], 3);
        let body =
            json!([{"lease": lease(&again[0]), "delay": "9h"}, {"lease": b, "delay": "soon"}]).to_string();
        let results = settle(&nsqd, "requeue", "", &body).await;
        assert_eq!(results.iter().map(error).collect::<Vec<_>>(), ["INVALID_DURATION"; 2]);
    });
}

#[test]
fn touch_moves_the_deadline() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--max-msg-timeout=20s").flag("--msg-timeout=20s").start().await;
        nsqd.publish("t", "long").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        let message = take(&nsqd, "&timeout=2s&wait=10s").await.remove(0);
        let deadline = |value: &Value| value["lease_deadline"].as_i64().expect("a deadline");
        let same = settle(&nsqd, "touch", "", lease(&message)).await;
        let later = settle(&nsqd, "touch", "&timeout=10s", lease(&message)).await;
        let second = 1_000_000_000;
        assert!(deadline(&same[0]) > deadline(&message));
        assert!(deadline(&later[0]) >= deadline(&same[0]) + 7 * second);
        // As with TOUCH, not beyond --max-msg-timeout after the delivery.
        nsqd.post("/channel/touch?topic=t&channel=c&timeout=21s", lease(&message)).await.expect(400);
        let capped = settle(&nsqd, "touch", "&timeout=20s", lease(&message)).await;
        assert!(deadline(&capped[0]) <= deadline(&message) + 18 * second + second / 2);
        assert_eq!(finish(&nsqd, lease(&message)).await, [true]);
    });
}

#[test]
fn client_that_vanishes_while_waiting_gets_nothing() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let waiting = begin_take(&nsqd, "&wait=100s").await;
        let mut stays = begin_take(&nsqd, "&wait=100s").await;
        until_clients(&nsqd, 3).await;
        drop(waiting);
        until_clients(&nsqd, 2).await;
        nsqd.publish("t", "for the other").await;
        assert_eq!(bodies(&messages_of(&mut stays).await), ["for the other"]);
        nsqd.publish("t", "kept").await;
        let channel = nsqd.channel_until("t", "c", "a message", |channel| channel.depth == 1).await;
        assert_eq!((channel.client_count, channel.in_flight_count), (1, 1));
        assert_eq!(bodies(&take(&nsqd, "&wait=10s").await), ["kept"]);
    });
}

#[test]
fn pipelined_request_is_answered_after_the_wait() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut connection = begin_take(&nsqd, "&wait=500ms").await;
        until_clients(&nsqd, 2).await;
        connection.send(b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert_eq!(messages_of(&mut connection).await, [] as [Value; 0]);
        assert_eq!(connection.answer("ping").await.expect("an answer").expect(200).text(), "OK");
    });
}

#[test]
fn message_of_a_client_that_vanishes_with_its_lease_times_out() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut gone = begin_take(&nsqd, "&wait=100s&timeout=1s").await;
        until_clients(&nsqd, 2).await;
        nsqd.publish("t", "again").await;
        assert_eq!(messages_of(&mut gone).await.len(), 1);
        drop(gone);
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        let message = consumer.message().await;
        assert_eq!((message.text(), message.attempts), ("again".to_owned(), 2));
        consumer.finish(&message).await;
        let channel = nsqd.channel_until_finished("t", "c").await;
        assert_eq!(channel.timeout_count, 1);
    });
}

#[test]
fn leases_end_with_a_restart_and_the_messages_come_again() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "survives").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        let before = take(&nsqd, "&wait=10s").await;
        for is_killed in [true, false] {
            if is_killed {
                nsqd.kill().await;
            } else {
                assert!(nsqd.terminate().await.success());
            }
            nsqd.restart().await;
            assert_eq!(error(&settle(&nsqd, "finish", "", lease(&before[0])).await[0]), "INVALID_LEASE");
            let again = take(&nsqd, "&wait=10s").await;
            assert_eq!((bodies(&again), &again[0]["id"]), (vec!["survives"], &before[0]["id"]));
        }
    });
}

#[test]
fn waiting_requests_share_with_other_consumers() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        let mut waiting = begin_take(&nsqd, "&wait=100s").await;
        until_clients(&nsqd, 3).await;
        nsqd.publish("t", "a").await;
        nsqd.publish("t", "b").await;
        let mut all = vec![consumer.message().await.text()];
        all.extend(bodies(&messages_of(&mut waiting).await).into_iter().map(str::to_owned));
        all.sort_unstable();
        assert_eq!(all, ["a", "b"]);
    });
}

#[test]
fn paused_channel_gives_nothing() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "later").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        nsqd.admin("/channel/pause?topic=t&channel=c").await;
        assert_eq!(take(&nsqd, "&wait=200ms").await, [] as [Value; 0]);
        let mut waiting = begin_take(&nsqd, "&wait=100s").await;
        until_clients(&nsqd, 2).await;
        nsqd.admin("/channel/unpause?topic=t&channel=c").await;
        assert_eq!(bodies(&messages_of(&mut waiting).await), ["later"]);
    });
}

#[test]
fn deleting_the_channel_ends_the_wait() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut waiting = begin_take(&nsqd, "&wait=100s").await;
        until_clients(&nsqd, 2).await;
        nsqd.admin("/channel/delete?topic=t&channel=c").await;
        waiting.answer("take").await.expect("an answer").expect_error(503, "EXITING");
        nsqd.post("/channel/finish?topic=t&channel=c", "x").await.expect_error(404, "CHANNEL_NOT_FOUND");
    });
}

#[test]
fn ephemeral_channel_outlives_the_time_between_two_requests() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let target = "/channel/take?topic=t&channel=c%23ephemeral";
        nsqd.post(target, "").await.expect(200);
        nsqd.publish("t", "kept").await;
        let answer = nsqd.post(&format!("{target}&wait=10s"), "").await.json();
        assert_eq!(answer["messages"][0]["body"], "kept");
    });
}

#[test]
fn requests_and_leases_are_limited() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--max-http-consumers=1").flag("--max-http-leases=2").start().await;
        let mut waiting = begin_take(&nsqd, "&wait=100s&max=5").await;
        until_clients(&nsqd, 2).await;
        let refused = nsqd.post(TAKE, "").await.expect(429);
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert!(refused.text().contains("--max-http-consumers"), "{}", refused.text());
        for body in ["a", "b", "c"] {
            nsqd.publish("t", body).await;
        }
        let mut leased = messages_of(&mut waiting).await;
        while leased.len() < 2 {
            leased.extend(take(&nsqd, "&wait=10s&max=5").await);
        }
        assert_eq!(leased.len(), 2, "not all three");
        let refused = nsqd.post(TAKE, "").await.expect(429).text();
        assert!(refused.contains("TOO_MANY_LEASES") && refused.contains("--max-http-leases"), "{refused}");
        let metrics = nsqd.metrics().await;
        assert_eq!(metrics.value("nsq_http_consumers_refused_total"), 1.0);
        assert_eq!(metrics.value("nsq_http_leases_refused_total"), 1.0);
        assert_eq!(finish(&nsqd, lease(&leased[0])).await, [true]);
        assert_eq!(bodies(&take(&nsqd, "&wait=10s").await), ["c"]);
    });
}

#[test]
fn limit_of_consumers_counts_requests_while_they_wait() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--max-channel-consumers=1").start().await;
        nsqd.publish("t", "a").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        let leased = take(&nsqd, "&wait=10s").await;
        // Neither the lease nor the consumer that holds it counts.
        let mut waiting = begin_take(&nsqd, "&wait=100s").await;
        until_clients(&nsqd, 2).await;
        let refused = nsqd.post(TAKE, "").await.expect(429).text();
        assert!(refused.contains("TOO_MANY_CONSUMERS") && refused.contains("limit of 1"), "{refused}");
        let mut peer = nsqd.connect().await;
        peer.line("SUB t c").await;
        assert!(peer.error().await.contains("exceeds limit of 1"));
        nsqd.publish("t", "b").await;
        assert_eq!(messages_of(&mut waiting).await.len(), 1);
        nsqd.subscribe("t", "c").await;
        assert_eq!(finish(&nsqd, lease(&leased[0])).await, [true]);
    });
}

#[test]
fn waiting_requests_do_not_delay_a_stop() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        let mut waiting = begin_take(&nsqd, "&wait=300s").await;
        until_clients(&nsqd, 2).await;
        let began = Instant::now();
        assert!(nsqd.terminate().await.success());
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        assert_eq!(messages_of(&mut waiting).await, [] as [Value; 0]);
    });
}

#[test]
fn messages_on_disk_are_taken_without_waiting() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--mem-queue-size=0").flag("--mem-queue-bytes=0").start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        let big = "x".repeat(100_000);
        for _ in 0..40 {
            nsqd.publish("t", &big).await;
        }
        let mut count = 0;
        while count < 40 {
            let messages = take(&nsqd, "&max=10").await;
            assert!(!messages.is_empty(), "after {count}");
            count += messages.len();
        }
    });
}

#[test]
fn invalid_parameters_are_refused() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for (target, word) in [
            ("/channel/take", "MISSING_ARG_TOPIC"),
            ("/channel/take?topic=t", "MISSING_ARG_CHANNEL"),
            ("/channel/take?topic=a+b&channel=c", "INVALID_ARG_TOPIC"),
            ("/channel/take?topic=t&channel=a+b", "INVALID_ARG_CHANNEL"),
            ("/channel/take?topic=t&channel=c&maxx=1", "UNKNOWN_ARG"),
            ("/channel/take?topic=t&channel=c&max=0", "INVALID_ARG_MAX"),
            ("/channel/take?topic=t&channel=c&max=2501", "INVALID_ARG_MAX"),
            ("/channel/take?topic=t&channel=c&wait=20", "INVALID_ARG_WAIT"),
            ("/channel/take?topic=t&channel=c&wait=1h", "INVALID_ARG_WAIT"),
            ("/channel/take?topic=t&channel=c&timeout=10ms", "INVALID_ARG_TIMEOUT"),
            ("/channel/take?topic=t&channel=c&timeout=1h", "INVALID_ARG_TIMEOUT"),
            ("/channel/take?topic=t&channel=c&start=someday", "INVALID_ARG_START"),
            ("/channel/take?topic=t&channel=c&client_id=", "INVALID_ARG_CLIENT_ID"),
        ] {
            let answer = nsqd.post(target, "").await.expect(400).json();
            let message = answer["message"].as_str().expect("a word");
            assert_eq!(message.split(':').next(), Some(word), "{target}: {message}");
        }
        nsqd.get(TAKE).await.expect_error(405, "METHOD_NOT_ALLOWED");
        assert!(nsqd.topic("t").await.is_none(), "nothing was created");
        nsqd.post("/channel/finish?topic=t&channel=c", "x").await.expect_error(404, "TOPIC_NOT_FOUND");
        take(&nsqd, "").await;
        for (body, word) in [("", "MISSING_LEASE"), ("[1]", "INVALID_BODY"), ("[\"a\"", "INVALID_BODY")] {
            let answer = nsqd.post("/channel/finish?topic=t&channel=c", body).await.expect(400).text();
            assert!(answer.contains(word), "{body}: {answer}");
        }
        let many = "lease\n".repeat(10_001);
        let answer = nsqd.post("/channel/finish?topic=t&channel=c", many).await.expect(413).text();
        assert!(answer.contains("at most 10000"), "{answer}");
        let timeout = wait::when(
            nsqd.post("/channel/touch?topic=t&channel=c&timeout=1ms", "x").await.status,
            |status| *status == 400,
        );
        timeout.expect("a timeout out of range");
    });
}
