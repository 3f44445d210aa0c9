use std::time::{Duration, Instant};

use nsq_tests::http::Connection;
use nsq_tests::{Daemon, process, test, test_within};
use serde_json::{Value, json};

use crate::http_take::{lease, settle};

/// A client that reads server-sent events.
pub struct Events {
    connection: Connection,
    text: String,
}

impl Events {
    /// Connects to `/channel/events` with these parameters.
    pub async fn connect(nsqd: &Daemon, parameters: &str) -> Self {
        let mut connection = Connection::open(nsqd.http()).await;
        let head = format!(
            "GET /channel/events?topic=t&channel=c{parameters} HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n"
        );
        connection.send(head.as_bytes()).await;
        let response = connection.head("events").await.expect("an answer").expect(200);
        assert_eq!(response.header("content-type"), Some("text/event-stream"));
        assert_eq!(response.header("x-accel-buffering"), Some("no"));
        assert_eq!(response.header("cache-control"), Some("no-store"));
        Events { connection, text: String::new() }
    }

    /// The next block: the lines up to an empty one. `None` at the end.
    pub async fn block(&mut self) -> Option<Vec<String>> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.lines().map(str::to_owned).collect();
                self.text = rest.to_owned();
                return Some(block);
            }
            self.text += std::str::from_utf8(&self.connection.chunk().await?).expect("UTF-8");
        }
    }

    /// The next event: its id and data. Skips comments.
    pub async fn event(&mut self) -> Value {
        loop {
            let block = self.block().await.expect("the stream goes on");
            if let [id, data] = &block[..] {
                let data: Value =
                    serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
                assert_eq!(id.strip_prefix("id: "), data["id"].as_str());
                return data;
            }
            assert!(block.iter().all(|line| line.starts_with(':')), "{block:?}");
        }
    }
}

#[test]
fn events_are_finished_when_they_are_written() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut events = Events::connect(&nsqd, "&client_id=page").await;
        let channel = nsqd.channel_until("t", "c", "a client", |channel| channel.client_count == 1).await;
        assert_eq!((&*channel.clients[0].client_id, channel.clients[0].ready_count), ("page", 1));
        for number in 0..20 {
            nsqd.publish("t", number.to_string()).await;
        }
        for number in 0..20 {
            let event = events.event().await;
            assert_eq!((&event["body"], &event["attempts"]), (&json!(number.to_string()), &json!(1)));
            assert_eq!(event.get("lease"), None);
        }
        let channel = nsqd.channel_until_finished("t", "c").await;
        assert_eq!((channel.requeue_count, channel.timeout_count), (0, 0));
        assert_eq!(nsqd.metrics().await.value("nsq_http_consumers{kind=\"events\"}"), 1.0);
    });
}

#[test]
fn events_with_leases_wait_for_their_finish() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut events = Events::connect(&nsqd, "&ack=lease&max_in_flight=2").await;
        for number in 0..5 {
            nsqd.publish("t", number.to_string()).await;
        }
        let mut held = vec![events.event().await, events.event().await];
        let channel =
            nsqd.channel_until("t", "c", "all published", |channel| channel.message_count == 5).await;
        assert_eq!((channel.in_flight_count, channel.depth), (2, 3), "no more than max_in_flight");
        while let Some(event) = held.pop() {
            let results = settle(&nsqd, "finish", "", lease(&event)).await;
            assert_eq!(results[0]["ok"], true);
            if event["body"] != "4"
                && nsqd
                    .channel("t", "c")
                    .await
                    .is_some_and(|channel| channel.unfinished() > held.len() as u64)
            {
                held.insert(0, events.event().await);
            }
        }
        nsqd.channel_until_finished("t", "c").await;
    });
}

#[test]
fn disconnected_client_gives_its_messages_back_at_once() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "again").await;
        let mut events = Events::connect(&nsqd, "&ack=lease&start=earliest").await;
        let first = events.event().await;
        drop(events);
        // The stream is a new one; the lease of the old one has ended.
        let mut events = Events::connect(&nsqd, "&ack=lease").await;
        let again = events.event().await;
        assert_eq!((&again["id"], &again["attempts"]), (&first["id"], &json!(2)));
        assert_eq!(settle(&nsqd, "finish", "", lease(&first)).await[0]["ok"], false);
        assert_eq!(settle(&nsqd, "finish", "", lease(&again)).await[0]["ok"], true);
        let channel = nsqd.channel_until_finished("t", "c").await;
        assert_eq!(channel.timeout_count, 0);
        drop(events);
        nsqd.channel_until("t", "c", "no client", |channel| channel.client_count == 0).await;
    });
}

#[test]
fn idle_stream_gets_a_comment_every_15_seconds() {
    test_within(Duration::from_secs(60), async {
        let nsqd = Daemon::nsqd().start().await;
        let mut connection = Connection::open(nsqd.http()).await;
        connection.send(b"GET /channel/events?topic=t&channel=c HTTP/1.1\r\nHost: h\r\n\r\n").await;
        connection.head("events").await.expect("an answer").expect(200);
        assert!(connection.chunk().await.expect("a greeting").starts_with(b":"));
        let began = Instant::now();
        assert_eq!(&connection.chunk().await.expect("a comment")[..], b": \n\n");
        let waited = began.elapsed();
        assert!(waited >= Duration::from_secs(14), "{waited:?}");
    });
}

#[test]
fn client_that_does_not_read_gets_no_more_messages() {
    test_within(Duration::from_secs(120), async {
        let nsqd = Daemon::nsqd().start().await;
        let mut slow = Events::connect(&nsqd, "&max_in_flight=2500").await;
        slow.event_is_greeting().await;
        let body = "x".repeat(100_000);
        let before = process::resident_bytes(nsqd.pid());
        for _ in 0..200 {
            nsqd.publish("t", &body).await;
        }
        // What is in flight is in the sockets, and in one piece.
        let channel = nsqd
            .channel_until("t", "c", "the client has as much as fits", |channel| channel.message_count == 200)
            .await;
        assert!(channel.depth > 50, "{channel:?}");
        assert!(channel.in_flight_count <= 2, "{channel:?}");
        // The topic's memory holds the messages as well: 20 MB.
        let grown = process::resident_bytes(nsqd.pid()).saturating_sub(before);
        assert!(grown < 60 << 20, "{grown}");
        // Another consumer gets the rest while this one does not read.
        let mut other = nsqd.subscribe("t", "c").await;
        other.ready(10).await;
        let message = other.message().await;
        other.finish(&message).await;
        drop(other);
        // It continues when it reads.
        for _ in 0..50 {
            assert_eq!(slow.event().await["body"].as_str().map(str::len), Some(100_000));
        }
    });
}

impl Events {
    async fn event_is_greeting(&mut self) {
        let block = self.block().await.expect("a greeting");
        assert!(block[0].starts_with(':'), "{block:?}");
    }
}

#[test]
fn streams_end_with_their_channel_and_with_nsqd() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        let mut events = Events::connect(&nsqd, "").await;
        nsqd.admin("/channel/delete?topic=t&channel=c").await;
        events.event_is_greeting().await;
        assert_eq!(events.block().await, None);
        let mut events = Events::connect(&nsqd, "").await;
        events.event_is_greeting().await;
        let began = Instant::now();
        assert!(nsqd.terminate().await.success());
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        assert_eq!(events.block().await, None);
    });
}

#[test]
fn invalid_parameters_of_events_are_refused() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--max-http-consumers=1").start().await;
        for (parameters, word) in [
            ("&ack=never", "INVALID_ARG_ACK"),
            ("&max_in_flight=0", "INVALID_ARG_MAX_IN_FLIGHT"),
            ("&max_in_flight=2501", "INVALID_ARG_MAX_IN_FLIGHT"),
            ("&wait=20s", "UNKNOWN_ARG"),
            ("&timeout=0s", "INVALID_ARG_TIMEOUT"),
        ] {
            let target = format!("/channel/events?topic=t&channel=c{parameters}");
            let answer = nsqd.get(&target).await.expect(400).text();
            assert!(answer.contains(word), "{parameters}: {answer}");
        }
        let _events = Events::connect(&nsqd, "").await;
        nsqd.get("/channel/events?topic=t&channel=c").await.expect(429);
    });
}
