//! Receiving and answering messages: handlers, streams, limits, lost connections.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use nsq::{
    AnswerError, Config, ConfigError, Consumer, ConsumerState, Delivery, Disconnect, Event, Handler,
    IntoOutcome, Outcome, Requeue, StartError,
};
use nsq_protocol::{ErrorCode, ProtocolError};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::stub_nsqd::{Script, StubNsqd};
use crate::wait::{PATIENCE, soon, until};

fn numbers(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| n.to_string())
}

#[tokio::test]
async fn handler_gets_every_message_once() {
    let nsqd = StubNsqd::start().await;
    nsqd.offer(numbers(1000));
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let consumer = Consumer::builder("t", "c")
        .nsqd(&nsqd.address)
        .concurrency(8)
        .handler({
            let seen = Arc::clone(&seen);
            move |message: Delivery| {
                let seen = Arc::clone(&seen);
                async move {
                    assert!(seen.lock().insert(message.body().clone()));
                }
            }
        })
        .start()
        .unwrap();
    consumer.wait_ready(PATIENCE).await.unwrap();
    until("FINs", || nsqd.count("FIN"), |count| *count == 1000).await;
    assert_eq!(seen.lock().len(), 1000);
    assert_eq!(nsqd.received("SUB"), ["SUB t c"]);
    assert!(nsqd.state().max_in_flight_seen <= 16, "twice the concurrency");
    let stats = consumer.stats();
    assert_eq!((stats.received, stats.finished, stats.requeued, stats.in_flight), (1000, 1000, 0, 0));
    assert!(matches!(consumer.state(), ConsumerState::Running));
}

#[tokio::test]
async fn async_closures_and_structs_are_handlers() {
    struct Counting(Arc<AtomicUsize>);
    impl Handler for Counting {
        async fn handle(&self, message: Delivery) -> impl IntoOutcome {
            self.0.fetch_add(message.body().len(), Ordering::Relaxed);
            Outcome::Finish
        }
    }
    let nsqd = StubNsqd::start().await;
    nsqd.offer(["abc"]);
    let counted = Arc::new(AtomicUsize::new(0));
    let builder = Consumer::builder("t", "c").nsqd(&nsqd.address);
    let first = builder.clone().handler(Counting(Arc::clone(&counted))).start().unwrap();
    until("first", || nsqd.count("FIN"), |count| *count == 1).await;
    assert_eq!(counted.load(Ordering::Relaxed), 3);
    first.shutdown(Duration::ZERO).await;
    nsqd.offer(["abc"]);
    let _second =
        builder.handler(async |message: Delivery| assert_eq!(message.attempts(), 1)).start().unwrap();
    until("second", || nsqd.count("FIN"), |count| *count == 2).await;
}

#[tokio::test]
async fn outcomes_become_answers() {
    let nsqd = StubNsqd::start().await;
    let consumer = Consumer::builder("t", "c")
        .nsqd(&nsqd.address)
        .set("default_requeue_delay", "3s")
        .unwrap()
        // Without this, every failure here would pause the consumer.
        .set("max_backoff_duration", 0)
        .unwrap()
        .handler(|message: Delivery| async move {
            match (&message.body()[..], message.attempts()) {
                (_, 2..) => Ok(Outcome::Finish),
                (b"error", _) => Err("it failed"),
                (b"now", _) => Ok(Outcome::Requeue { delay: Requeue::Now, backoff: true }),
                (b"later", _) => {
                    Ok(Outcome::Requeue { delay: Duration::from_millis(1500).into(), backoff: false })
                }
                (b"panic", _) => panic!("the handler panics"),
                _ => Ok(Outcome::Finish),
            }
        })
        .start()
        .unwrap();
    let mut events = consumer.events();
    for (body, answer) in
        [("error", " 3000"), ("now", " 0"), ("later", " 1500"), ("panic", " 3000"), ("fine", "")]
    {
        let before = nsqd.state().received.len();
        nsqd.offer([body]);
        let answers = || -> Vec<String> {
            let state = nsqd.state();
            let texts = state.received[before..].iter().map(|r| r.text.clone());
            texts.filter(|text| text.starts_with("REQ") || text.starts_with("FIN")).collect()
        };
        let expected = if answer.is_empty() { 1 } else { 2 };
        let seen = until(body, answers, |seen| seen.len() == expected).await;
        match answer {
            "" => assert!(seen[0].starts_with("FIN ")),
            delay => assert!(seen[0].starts_with("REQ ") && seen[0].ends_with(delay), "{body}: {seen:?}"),
        }
    }
    let panicked = async {
        loop {
            if let Event::HandlerPanicked { .. } = events.recv().await.unwrap() {
                return;
            }
        }
    };
    soon("event", panicked).await;
}

#[tokio::test]
async fn rejected_messages_are_reported_with_their_reason() {
    let identify_reply = r#"{"features":["reject"],"msg_timeout":60000,"max_msg_timeout":900000}"#.to_owned();
    let nsqd = StubNsqd::with(Script { identify_reply, ..Script::default() }).await;
    let handler = |_: Delivery| async { Outcome::Reject { reason: "line 1\nline 2".into() } };
    let consumer = Consumer::builder("t", "c").nsqd(&nsqd.address).handler(handler).start().unwrap();
    nsqd.offer(["x"]);
    let seen = until("REJ", || nsqd.received("REJ"), |seen| seen.len() == 1).await;
    assert!(seen[0].ends_with(" line 1 line 2"), "{seen:?}");
    until("stats", || consumer.stats().rejected, |rejected| *rejected == 1).await;
    consumer.shutdown(Duration::ZERO).await;

    let mut messages = Consumer::builder("t", "c").nsqd(&nsqd.address).stream().unwrap();
    nsqd.offer(["y"]);
    let message = soon("message", messages.next()).await.unwrap();
    assert!(message.can_reject());
    assert_eq!(message.reject(""), Ok(()));
    let seen = until("REJ", || nsqd.received("REJ"), |seen| seen.len() == 2).await;
    assert_eq!(seen[1].split(' ').count(), 2, "no reason: {seen:?}");
}

#[tokio::test]
async fn an_nsqd_that_takes_no_rejections_gets_a_requeue() {
    let nsqd = StubNsqd::start().await;
    let handler = |message: Delivery| async move {
        if message.attempts() > 1 {
            return Outcome::Finish;
        }
        Outcome::Reject { reason: "no such tenant".into() }
    };
    let builder = Consumer::builder("t", "c").nsqd(&nsqd.address).set("max_backoff_duration", 0).unwrap();
    let consumer = builder.clone().handler(handler).start().unwrap();
    let mut events = consumer.events();
    nsqd.offer(["x"]);
    until("FIN", || nsqd.count("FIN"), |count| *count == 1).await;
    assert_eq!((nsqd.count("REQ"), nsqd.count("REJ")), (1, 0));
    let failed = async {
        loop {
            if let Event::AnswerFailed { code, description, .. } = events.recv().await.unwrap() {
                return (code, description);
            }
        }
    };
    let (code, description) = soon("event", failed).await;
    assert!(code == "E_REJ_FAILED" && description.contains("the message was requeued"), "{description}");
    consumer.shutdown(Duration::ZERO).await;

    let mut messages = builder.stream().unwrap();
    nsqd.offer(["y"]);
    let message = soon("message", messages.next()).await.unwrap();
    assert!(!message.can_reject());
    assert_eq!(message.reject("no such tenant"), Err(AnswerError::CannotReject));
    until("REQ", || nsqd.count("REQ"), |count| *count == 2).await;
}

#[tokio::test]
async fn messages_beyond_max_attempts_are_passed_to_gave_up() {
    struct Failing(Arc<Mutex<Vec<u16>>>, Arc<Mutex<Vec<u16>>>);
    impl Handler for Failing {
        async fn handle(&self, message: Delivery) -> impl IntoOutcome {
            self.0.lock().push(message.attempts());
            Err::<(), _>("no")
        }
        async fn gave_up(&self, message: Delivery) {
            self.1.lock().push(message.attempts());
        }
    }
    let nsqd = StubNsqd::start().await;
    nsqd.offer(["hopeless"]);
    let (handled, gave_up) = (Arc::default(), Arc::default());
    let consumer = Consumer::builder("t", "c")
        .nsqd(&nsqd.address)
        .max_attempts(3)
        .set("max_backoff_duration", 0)
        .unwrap()
        .handler(Failing(Arc::clone(&handled), Arc::clone(&gave_up)))
        .start()
        .unwrap();
    until("FIN", || nsqd.count("FIN"), |count| *count == 1).await;
    assert_eq!(*handled.lock(), [1, 2, 3]);
    assert_eq!(*gave_up.lock(), [4]);
    assert_eq!((consumer.stats().gave_up, consumer.stats().requeued), (1, 3));
}

#[tokio::test]
async fn messages_of_a_stream_are_answered_one_by_one() {
    let nsqd = StubNsqd::start().await;
    nsqd.offer(["fin", "req", "touch", "drop", "forget"]);
    let mut messages = Consumer::builder("t", "c")
        .nsqd(&nsqd.address)
        .max_in_flight(100)
        .set("max_backoff_duration", 0)
        .unwrap()
        .stream()
        .unwrap();
    let mut seen = BTreeSet::new();
    while seen.len() < 5 {
        let message = soon("message", messages.next()).await.unwrap();
        assert_eq!(message.node(), nsqd.address);
        assert!(message.remaining() > Duration::from_secs(50));
        if !seen.insert(message.body().clone()) {
            message.finish().unwrap();
            continue;
        }
        match &message.body().clone()[..] {
            b"fin" => message.finish().unwrap(),
            b"req" => message.requeue(Duration::from_secs(7)).unwrap(),
            b"touch" => {
                message.touch().unwrap();
                message.finish().unwrap();
            }
            b"forget" => message.forget(),
            _ => drop(message),
        }
    }
    until("TOUCH", || nsqd.count("TOUCH"), |count| *count == 1).await;
    until("REQ", || nsqd.received("REQ"), |seen| seen.len() == 2).await;
    let delays: BTreeSet<_> =
        nsqd.received("REQ").iter().map(|text| text.rsplit(' ').next().unwrap().to_owned()).collect();
    assert_eq!(delays, BTreeSet::from(["0".into(), "7000".into()]));
    // `MessageStream` is also a `Stream`.
    let mut rest = messages.take(2);
    while let Some(message) = soon("stream", rest.next()).await {
        message.finish().unwrap();
    }
}

#[tokio::test]
async fn messages_can_be_taken_in_batches() {
    let nsqd = StubNsqd::start().await;
    nsqd.offer(numbers(250));
    let mut stream = Consumer::builder("t", "c").nsqd(&nsqd.address).max_in_flight(300).stream().unwrap();
    let mut total = 0;
    let mut messages = Vec::new();
    while total < 250 {
        let count = soon("batch", stream.next_many(&mut messages, 100)).await;
        assert!((1..=100).contains(&count) && count == messages.len());
        total += count;
        for message in messages.drain(..) {
            message.finish().unwrap();
        }
    }
    until("FINs", || nsqd.count("FIN"), |count| *count == 250).await;
}

/// While handlers are blocked, heartbeats are answered and answers are sent.
#[tokio::test]
async fn blocked_handlers_stop_neither_heartbeats_nor_answers() {
    let script = Script { heartbeat: Some(Duration::from_millis(2)), ..Script::default() };
    let nsqd = StubNsqd::with(script).await;
    nsqd.offer(numbers(100));
    let gate = Arc::new(Semaphore::new(0));
    let consumer = Consumer::builder("t", "c")
        .nsqd(&nsqd.address)
        .concurrency(2)
        .max_in_flight(50)
        .handler({
            let gate = Arc::clone(&gate);
            move |_: Delivery| {
                let gate = Arc::clone(&gate);
                async move { gate.acquire_owned().await.unwrap().forget() }
            }
        })
        .start()
        .unwrap();
    until("in flight", || nsqd.in_flight(), |count| *count == 50).await;
    let before = nsqd.count("NOP");
    until("heartbeats", || nsqd.count("NOP"), |count| *count >= before + 10).await;
    assert_eq!(consumer.stats().queued, 48);
    gate.add_permits(1);
    until("one answer", || nsqd.count("FIN"), |count| *count == 1).await;
    gate.add_permits(1000);
    until("all answers", || nsqd.count("FIN"), |count| *count == 100).await;
    assert_eq!(nsqd.state().connections_made, 1);
}

/// With `max_in_flight` below the number of connections, each gets its turn and the total is respected.
#[tokio::test]
async fn connections_take_turns_with_max_in_flight_of_one() {
    let mut nsqds = Vec::new();
    for _ in 0..3 {
        let nsqd = StubNsqd::start().await;
        nsqd.offer(numbers(5));
        nsqds.push(nsqd);
    }
    let addresses: Vec<String> = nsqds.iter().map(|nsqd| nsqd.address.clone()).collect();
    let config = Config::new()
        .low_rdy_idle_timeout(Duration::from_millis(100))
        .low_rdy_slice(Duration::from_millis(100));
    let mut messages =
        Consumer::builder("t", "c").nsqd(addresses).config(config).max_in_flight(1).stream().unwrap();
    for _ in 0..15 {
        let message = soon("message", messages.next()).await.unwrap();
        let unanswered: usize = nsqds.iter().map(|nsqd| nsqd.in_flight()).sum();
        assert_eq!(unanswered, 1);
        message.finish().unwrap();
    }
    for nsqd in &nsqds {
        until("FINs", || nsqd.count("FIN"), |count| *count == 5).await;
    }
}

#[tokio::test]
async fn shares_follow_connections_and_the_limit() {
    let nsqds = [StubNsqd::start().await, StubNsqd::start().await];
    let addresses: Vec<String> = nsqds.iter().map(|nsqd| nsqd.address.clone()).collect();
    let messages = Consumer::builder("t", "c").nsqd(addresses).max_in_flight(11).stream().unwrap();
    let consumer = messages.consumer();
    let rdys = || {
        let mut rdys: Vec<u64> = nsqds.iter().flat_map(|nsqd| nsqd.rdys()).collect();
        rdys.sort();
        rdys
    };
    until("shares", rdys, |rdys| *rdys == [5, 6]).await;
    consumer.set_max_in_flight(20);
    until("more", rdys, |rdys| *rdys == [10, 10]).await;
    consumer.pause();
    until("paused", rdys, |rdys| *rdys == [0, 0]).await;
    assert!(matches!(consumer.state(), ConsumerState::Paused));
    consumer.resume();
    until("resumed", rdys, |rdys| *rdys == [10, 10]).await;
    nsqds[0].stop();
    until("all to one", rdys, |rdys| *rdys == [20]).await;
}

#[tokio::test]
async fn lost_connection_is_reopened_and_its_queued_messages_are_not_handled_twice() {
    let nsqd = StubNsqd::start().await;
    nsqd.offer(numbers(10));
    let mut messages = Consumer::builder("t", "c")
        .nsqd(&nsqd.address)
        .max_in_flight(10)
        .set("max_backoff_duration", 0)
        .unwrap()
        .stream()
        .unwrap();
    let first = soon("message", messages.next()).await.unwrap();
    until("arrived", || messages.consumer().stats().queued, |count| *count == 9).await;
    nsqd.hang_up();
    until("reconnected", || nsqd.state().connections_made, |count| *count == 2).await;
    assert!(first.finish().is_err(), "its connection has ended");
    for _ in 0..10 {
        let message = soon("message", messages.next()).await.unwrap();
        assert_eq!(message.attempts(), 2);
        message.finish().unwrap();
    }
    until("FINs", || nsqd.count("FIN"), |count| *count == 10).await;
    assert_eq!(nsqd.count("REQ"), 0);
}

/// If the application blocks for longer than the message timeout, queued messages are not handled late.
#[tokio::test]
async fn messages_that_time_out_in_the_queue_are_left_to_nsqd() {
    let reply = r#"{"max_rdy_count":100,"msg_timeout":20,"max_msg_timeout":1000}"#;
    let nsqd = StubNsqd::with(Script { identify_reply: reply.into(), ..Script::default() }).await;
    nsqd.offer(["stale"]);
    let mut messages = Consumer::builder("t", "c").nsqd(&nsqd.address).max_in_flight(2).stream().unwrap();
    let consumer = messages.consumer().clone();
    until("arrived", || consumer.stats().queued, |count| *count == 1).await;
    // Exceed the message timeout: this is the tested behaviour, not a wait for a condition.
    tokio::time::sleep(Duration::from_millis(40)).await;
    nsqd.offer(["fresh"]);
    let message = soon("message", messages.next()).await.unwrap();
    assert_eq!(&message.body()[..], b"fresh");
    message.finish().unwrap();
    assert_eq!(consumer.stats().timed_out, 1);
}

#[tokio::test]
async fn refused_answers_become_events() {
    let nsqd = StubNsqd::with(Script { fin_fails: true, ..Script::default() }).await;
    let mut messages = Consumer::builder("t", "c").nsqd(&nsqd.address).stream().unwrap();
    let mut events = messages.consumer().events();
    nsqd.offer(["x"]);
    soon("message", messages.next()).await.unwrap().finish().unwrap();
    let refused = async {
        loop {
            if let Event::AnswerFailed { code, description, .. } = events.recv().await.unwrap() {
                return (code, description);
            }
        }
    };
    let (code, description) = soon("event", refused).await;
    assert_eq!(code, "E_FIN_FAILED");
    assert!(description.contains("not in flight"));
    assert_eq!(nsqd.state().connections_made, 1, "the connection stays open");
}

#[tokio::test]
async fn failures_to_subscribe_are_reported_and_retried() {
    let error = ProtocolError::new(ErrorCode::SubFailed, "SUB failed consumers for t:c exceeds limit of 1");
    let nsqd = StubNsqd::with(Script { sub_error: Some(error), ..Script::default() }).await;
    let messages = Consumer::builder("t", "c").nsqd(&nsqd.address).stream().unwrap();
    let consumer = messages.consumer();
    match consumer.wait_ready(PATIENCE).await {
        Err(StartError::Connect(error)) => {
            assert!(matches!(&error.cause, Disconnect::Refused { code, .. } if code == "E_SUB_FAILED"));
            assert!(error.to_string().contains("exceeds limit"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    nsqd.state().script.sub_error = None;
    until("running", || consumer.state(), |state| matches!(state, ConsumerState::Running)).await;
    consumer.wait_ready(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn settings_are_checked_before_the_consumer_starts() {
    let start = |topic: &str, channel: &str, nsqd: &str| {
        Consumer::builder(topic, channel).nsqd(nsqd).stream().map(drop).unwrap_err()
    };
    let config = |error: StartError| match error {
        StartError::Config(error) => error,
        other => panic!("{other}"),
    };
    assert!(matches!(config(start("a b", "c", "h:1")), ConfigError::InvalidName { what: "topic", .. }));
    assert!(matches!(config(start("t", "", "h:1")), ConfigError::InvalidName { what: "channel", .. }));
    assert!(matches!(config(start("t", "c", "h")), ConfigError::InvalidAddress { .. }));
    let nowhere = Consumer::builder("t", "c").stream().map(drop).unwrap_err();
    assert!(matches!(config(nowhere), ConfigError::NoAddress { lookupd: true }));
}

#[tokio::test]
async fn consumer_that_requests_headers_works_without_them() {
    let nsqd = StubNsqd::start().await;
    nsqd.offer(["\x04body"]);
    let config = Config::new().headers(true);
    let mut messages = Consumer::builder("t", "c").nsqd(&nsqd.address).config(config).stream().unwrap();
    let message = soon("message", messages.next()).await.unwrap();
    assert_eq!((&message.body()[..], message.headers()), (&b"\x04body"[..], None));
    message.finish().unwrap();
    assert!(nsqd.received("IDENTIFY")[0].contains(r#""features":["headers","reject"]"#));
}

#[tokio::test]
async fn identify_carries_the_settings() {
    let nsqd = StubNsqd::start().await;
    let config = Config::new()
        .client_id("me".to_owned())
        .user_agent("mine/1")
        .sample_rate(7)
        .msg_timeout(Duration::from_secs(5))
        .heartbeat_interval(Duration::from_secs(9))
        .output_buffer_timeout(nsq::Interval::Off);
    let messages = Consumer::builder("t", "c").nsqd(&nsqd.address).config(config).stream().unwrap();
    messages.consumer().wait_ready(PATIENCE).await.unwrap();
    let identify = nsqd.received("IDENTIFY").remove(0);
    for part in [
        r#""client_id":"me""#,
        r#""user_agent":"mine/1""#,
        r#""sample_rate":7"#,
        r#""msg_timeout":5000"#,
        r#""heartbeat_interval":9000"#,
        r#""output_buffer_timeout":-1"#,
        r#""feature_negotiation":true"#,
    ] {
        assert!(identify.contains(part), "{part} in {identify}");
    }
}
