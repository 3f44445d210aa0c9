//! Receiving and answering messages: handlers, streams, limits, lost connections.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use nsq::{
    AnswerError, Config, ConfigError, Consumer, ConsumerState, DeadLetter, Delivery, Disconnect, Event,
    Handler, HandlerError, Outcome, Requeue, StartError,
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::wait::{PATIENCE, soon, until};
use nsq::test_util::{Script, StubNsqd};

/// The next event that `pick` accepts.
async fn event<T>(
    events: &mut tokio::sync::broadcast::Receiver<Event>,
    mut pick: impl FnMut(Event) -> Option<T>,
) -> T {
    let picked = async {
        loop {
            if let Some(picked) = pick(events.recv().await.unwrap()) {
                return picked;
            }
        }
    };
    soon("event", picked).await
}

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
        type Output = Outcome;
        async fn handle(&self, message: Delivery) -> Outcome {
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
        type Output = Result<(), &'static str>;
        async fn handle(&self, message: Delivery) -> Self::Output {
            self.0.lock().push(message.attempts());
            Err("no")
        }
        async fn gave_up(&self, message: Delivery) -> Result<(), HandlerError> {
            self.1.lock().push(message.attempts());
            if message.attempts() < 6 { Err("the store is full".into()) } else { Ok(()) }
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
    let mut events = consumer.events();
    until("FIN", || nsqd.count("FIN"), |count| *count == 1).await;
    assert_eq!(*handled.lock(), [1, 2, 3]);
    assert_eq!(*gave_up.lock(), [4, 5, 6], "a message that cannot be stored is requeued, not lost");
    assert_eq!((consumer.stats().gave_up, consumer.stats().requeued), (1, 5));
    let failure = event(&mut events, |event| match event {
        Event::GiveUpFailed { attempts, error, .. } => Some((attempts, error.to_string())),
        _ => None,
    });
    assert_eq!(failure.await, (4, "the store is full".to_owned()));
    let given_up = event(&mut events, |event| match event {
        Event::GaveUp { attempts, reason, .. } => Some((attempts, reason)),
        _ => None,
    });
    assert_eq!(given_up.await, (6, "delivered 6 times, more than max_attempts".to_owned()));
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
    let error = "E_SUB_FAILED SUB failed consumers for t:c exceeds limit of 1";
    let nsqd = StubNsqd::with(Script { sub_error: Some(error.into()), ..Script::default() }).await;
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

#[tokio::test]
async fn errors_of_handlers_become_events() {
    let nsqd = StubNsqd::start().await;
    let builder = Consumer::builder("t", "c").nsqd(&nsqd.address).set("max_backoff_duration", 0).unwrap();
    let consumer = builder
        .handler_fn(|message| async move {
            match (&message.body()[..], message.attempts()) {
                (b"bad", _) => Err(HandlerError::permanent("no such tenant")),
                (_, 1) => Err(std::io::Error::other("disk full").into()),
                _ => Ok(()),
            }
        })
        .start()
        .unwrap();
    let mut events = consumer.events();
    nsqd.offer(["x"]);
    let failed = event(&mut events, |event| match event {
        Event::HandlerFailed { id, node, attempts, error } => Some((id, node, attempts, error)),
        _ => None,
    });
    let (id, node, attempts, error) = failed.await;
    assert_eq!((id.to_string().len(), &*node, attempts), (16, &*nsqd.address, 1));
    assert_eq!(error.to_string(), "disk full");
    assert!(error.inner().downcast_ref::<std::io::Error>().is_some());
    until("FIN", || nsqd.count("FIN"), |count| *count == 1).await;
    nsqd.offer(["bad"]);
    let reason = event(&mut events, |event| match event {
        Event::GaveUp { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(reason.await, "no such tenant");
    until("FIN", || nsqd.count("FIN"), |count| *count == 2).await;
    let stats = consumer.stats();
    assert_eq!((stats.failed, stats.requeued, stats.gave_up), (2, 1, 1));
}

#[tokio::test]
async fn closures_with_state_and_shared_handlers_are_handlers() {
    struct Counting(AtomicUsize);
    impl Handler for Counting {
        type Output = ();
        async fn handle(&self, _: Delivery) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let nsqd = StubNsqd::start().await;
    let builder = Consumer::builder("t", "c").nsqd(&nsqd.address);
    let shared = Arc::new(Counting(AtomicUsize::new(0)));
    nsqd.offer(["a"]);
    let first = builder.clone().handler(Arc::clone(&shared)).start().unwrap();
    until("handled", || shared.0.load(Ordering::Relaxed), |count| *count == 1).await;
    first.shutdown(Duration::from_secs(1)).await;
    nsqd.offer(["b"]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let _second = builder
        .handler_with(Arc::clone(&seen), |seen, message| async move {
            seen.lock().push(message.body().clone());
            String::from_utf8(message.body().to_vec()).map(drop)
        })
        .start()
        .unwrap();
    until("handled", || nsqd.count("FIN"), |count| *count == 2).await;
    assert_eq!(seen.lock()[0], "b");
}

fn short_timeout_script() -> Script {
    let identify_reply = r#"{"msg_timeout":200,"max_msg_timeout":60000}"#.to_owned();
    Script { identify_reply, ..Script::default() }
}

/// Handles a message until the gate opens.
fn gated(gate: &Arc<Semaphore>) -> impl Handler + use<> {
    let gate = Arc::clone(gate);
    move |_: Delivery| {
        let gate = Arc::clone(&gate);
        async move { gate.acquire_owned().await.unwrap().forget() }
    }
}

#[tokio::test]
async fn keep_alive_touches_while_the_handler_runs() {
    let nsqd = StubNsqd::with(short_timeout_script()).await;
    nsqd.offer(["x"]);
    let gate = Arc::new(Semaphore::new(0));
    let builder = Consumer::builder("t", "c").nsqd(&nsqd.address).keep_alive(true);
    let consumer = builder.handler(gated(&gate)).start().unwrap();
    let mut events = consumer.events();
    // Each touch is sent before the deadline that the one before has set.
    until("touches", || nsqd.count("TOUCH"), |count| *count >= 4).await;
    gate.add_permits(1);
    until("FIN", || nsqd.count("FIN"), |count| *count == 1).await;
    let touches = nsqd.count("TOUCH");
    consumer.shutdown(Duration::from_secs(1)).await;
    assert_eq!(nsqd.count("TOUCH"), touches, "no touch after the answer");
    assert!(touches < 100);
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, Event::AnswerFailed { .. }), "{event:?}");
    }
}

#[tokio::test]
async fn late_answers_become_events_and_refused_ones_do_not_count() {
    let nsqd = StubNsqd::with(Script { fin_fails: true, ..short_timeout_script() }).await;
    nsqd.offer(["x"]);
    let gate = Arc::new(Semaphore::new(0));
    let builder = Consumer::builder("t", "c").nsqd(&nsqd.address);
    let consumer = builder.handler(gated(&gate)).start().unwrap();
    let mut events = consumer.events();
    until("delivered", || nsqd.in_flight(), |count| *count == 1).await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    gate.add_permits(1);
    let late = event(&mut events, |event| match event {
        Event::Late { node, attempts, late_by, .. } => Some((node, attempts, late_by)),
        _ => None,
    });
    let (node, attempts, late_by) = late.await;
    assert_eq!((&*node, attempts), (&*nsqd.address, 1));
    assert!(late_by > Duration::ZERO && late_by < PATIENCE);
    until("refused", || consumer.stats().refused_answers, |count| *count == 1).await;
    assert_eq!(consumer.stats().finished, 0, "nsqd has not finished it");
}

#[tokio::test]
async fn a_handler_that_takes_too_long_ends_and_its_message_is_requeued() {
    struct Slow(Arc<AtomicUsize>);
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    impl Handler for Slow {
        type Output = ();
        async fn handle(&self, message: Delivery) {
            let _dropped = Dropped(Arc::clone(&self.0));
            if message.attempts() == 1 {
                std::future::pending().await
            }
        }
    }
    let nsqd = StubNsqd::start().await;
    nsqd.offer(["x"]);
    let dropped = Arc::new(AtomicUsize::new(0));
    let consumer = Consumer::builder("t", "c")
        .nsqd(&nsqd.address)
        .set("max_backoff_duration", 0)
        .unwrap()
        .handler_timeout(Duration::from_millis(50))
        .handler(Slow(Arc::clone(&dropped)))
        .start()
        .unwrap();
    let mut events = consumer.events();
    let error = event(&mut events, |event| match event {
        Event::HandlerFailed { error, .. } => Some(error.to_string()),
        _ => None,
    });
    assert_eq!(error.await, "the handler did not end within 50ms (handler_timeout)");
    until("FIN", || nsqd.count("FIN"), |count| *count == 1).await;
    assert_eq!((dropped.load(Ordering::Relaxed), nsqd.count("REQ")), (2, 1));
}

#[tokio::test]
async fn answers_on_a_lost_connection_are_counted_apart() {
    let nsqd = StubNsqd::start().await;
    nsqd.offer(["x"]);
    let mut messages = Consumer::builder("t", "c").nsqd(&nsqd.address).stream().unwrap();
    let message = soon("message", messages.next()).await.unwrap();
    nsqd.hang_up();
    until("again", || nsqd.state().connections_made, |count| *count == 2).await;
    assert_eq!(message.finish(), Err(AnswerError::ConnectionLost));
    let stats = messages.consumer().stats();
    assert_eq!((stats.finished, stats.lost_answers), (0, 1));
}

#[tokio::test]
async fn concurrency_can_be_changed() {
    let nsqd = StubNsqd::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let (running, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let state = (Arc::clone(&gate), Arc::clone(&running), Arc::clone(&peak));
    let consumer = Consumer::builder("t", "c")
        .nsqd(&nsqd.address)
        .max_in_flight(100)
        .concurrency(2)
        .handler_with(state, |(gate, running, peak), _| async move {
            peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            gate.acquire_owned().await.unwrap().forget();
            running.fetch_sub(1, Ordering::SeqCst);
        })
        .start()
        .unwrap();
    nsqd.offer(numbers(40));
    let now_running = || running.load(Ordering::SeqCst);
    until("two", now_running, |count| *count == 2).await;
    consumer.set_concurrency(8);
    until("eight", now_running, |count| *count == 8).await;
    consumer.set_concurrency(1);
    gate.add_permits(8);
    // Of the eight, seven end, and one goes on.
    until("FINs", || nsqd.count("FIN"), |count| *count == 8).await;
    until("one", now_running, |count| *count == 1).await;
    peak.store(0, Ordering::SeqCst);
    gate.add_permits(32);
    until("all", || nsqd.count("FIN"), |count| *count == 40).await;
    assert!(peak.load(Ordering::SeqCst) <= 1);
}

#[tokio::test]
async fn batches_are_full_waited_for_or_starved() {
    let nsqd = StubNsqd::start().await;
    let builder = || Consumer::builder("t", "c").nsqd(&nsqd.address).set("max_backoff_duration", 0).unwrap();
    assert!(matches!(
        builder().max_in_flight(5).batches(6, Duration::from_secs(1)).map(drop),
        Err(StartError::Config(ConfigError::Conflict(_)))
    ));
    let mut batches = builder().max_in_flight(25).batches(10, Duration::from_secs(60)).unwrap();
    nsqd.offer(numbers(25));
    let (first, second) = (batches.next().await.unwrap(), batches.next().await.unwrap());
    // The third cannot fill: all 25 are in flight.
    let third = soon("starved", batches.next()).await.unwrap();
    assert_eq!([first.len(), second.len(), third.len()], [10, 10, 5]);
    for batch in [first, second] {
        batch.finish().unwrap();
    }
    third.requeue(Requeue::Now).unwrap();
    // These five do not fill a batch. Dropping the future that waits for more loses none of them.
    until("again", || batches.consumer().stats().in_flight, |count| *count == 5).await;
    for _ in 0..2 {
        let next = tokio::time::timeout(Duration::from_millis(50), batches.next());
        assert!(next.await.is_err());
    }
    drop(batches);
    let mut quick = builder().batches(10, Duration::from_millis(20)).unwrap();
    let waited = soon("waited", quick.next()).await.unwrap();
    assert!((1..=5).contains(&waited.len()), "{waited:?}");
    waited.into_messages().into_iter().for_each(|message| message.finish().unwrap());
}

#[tokio::test]
async fn dead_letters_are_published_before_their_message_is_finished() {
    let (nsqd, store) = (StubNsqd::start().await, StubNsqd::start().await);
    let dead = nsq::Producer::builder().nsqd(&store.address).build().unwrap().topic("t.dead").unwrap();
    let consumer = Consumer::builder("t", "c")
        .nsqd(&nsqd.address)
        .set("max_backoff_duration", 0)
        .unwrap()
        .dead_letter(DeadLetter::Topic(dead))
        .handler_fn(|message| async move {
            match &message.body()[..] {
                b"bad" => Ok(Outcome::give_up("no such tenant")),
                _ => Err("it fails"),
            }
        })
        .start()
        .unwrap();
    nsqd.offer(["bad"]);
    until("FIN", || nsqd.count("FIN"), |count| *count == 1).await;
    nsqd.offer(["failing"]);
    until("FIN", || nsqd.count("FIN"), |count| *count == 2).await;
    assert_eq!(store.bodies(), ["bad", "failing"]);
    assert_eq!(store.state().published[0].topic, "t.dead");
    assert_eq!((nsqd.count("REQ"), consumer.stats().gave_up), (5, 2), "max_attempts is 5 with dead letters");
}

#[tokio::test]
async fn a_dead_letter_that_cannot_be_published_requeues_its_message() {
    let refusing = StubNsqd::with(Script { refused_topic: Some("t.dead".into()), ..Script::default() }).await;
    let nsqd = StubNsqd::start().await;
    let dead = nsq::Producer::new(&refusing.address).unwrap().topic("t.dead").unwrap();
    let consumer = Consumer::builder("t", "c")
        .nsqd(&nsqd.address)
        .set("max_backoff_duration", 0)
        .unwrap()
        .dead_letter(DeadLetter::Topic(dead))
        .handler_fn(|_| async { Outcome::give_up("never") })
        .start()
        .unwrap();
    let mut events = consumer.events();
    nsqd.offer(["x"]);
    let error = event(&mut events, |event| match event {
        Event::GiveUpFailed { error, .. } => Some(error.to_string()),
        _ => None,
    });
    assert!(error.await.contains("E_BAD_TOPIC"));
    until("requeued", || nsqd.count("REQ"), |count| *count >= 1).await;
    refusing.state().script.refused_topic = None;
    until("FIN", || nsqd.count("FIN"), |count| *count == 1).await;
    assert_eq!(refusing.bodies(), ["x"]);
}

#[tokio::test]
async fn the_server_makes_dead_letters_of_rejected_messages() {
    let identify_reply = r#"{"features":["reject"],"msg_timeout":60000,"max_msg_timeout":900000}"#.to_owned();
    let nsqd = StubNsqd::with(Script { identify_reply, ..Script::default() }).await;
    let consumer = Consumer::builder("t", "c")
        .nsqd(&nsqd.address)
        .dead_letter(DeadLetter::Server)
        .handler_fn(|_| async { Outcome::give_up("no such tenant") })
        .start()
        .unwrap();
    nsqd.offer(["x"]);
    let seen = until("REJ", || nsqd.received("REJ"), |seen| seen.len() == 1).await;
    assert!(seen[0].ends_with(" no such tenant"), "{seen:?}");
    until("gave up", || consumer.stats().gave_up, |count| *count == 1).await;
    assert_eq!(nsqd.count("FIN"), 0);
}

/// nsqd delivers a finished message again, because its FIN came too late or got lost.
#[tokio::test]
async fn finished_messages_are_not_handled_twice() {
    let nsqd = StubNsqd::with(Script { fin_fails: true, ..Script::default() }).await;
    let handled = Arc::new(AtomicUsize::new(0));
    let consumer = Consumer::builder("t", "c")
        .nsqd(&nsqd.address)
        .remember_finished(100)
        .handler_with(Arc::clone(&handled), |handled, _| async move {
            handled.fetch_add(1, Ordering::Relaxed);
        })
        .start()
        .unwrap();
    nsqd.offer(["x"]);
    until("refused", || consumer.stats().refused_answers, |count| *count == 1).await;
    // The stub delivers under the same id, as nsqd does.
    nsqd.state().script.fin_fails = false;
    nsqd.redeliver();
    until("finished", || consumer.stats().duplicates, |count| *count == 1).await;
    until("FIN", || nsqd.in_flight(), |count| *count == 0).await;
    assert_eq!(handled.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn handlers_receive_at_most_so_many_messages_per_second() {
    let nsqd = StubNsqd::start().await;
    nsqd.offer(numbers(31));
    let started_at = std::time::Instant::now();
    let builder = Consumer::builder("t", "c").nsqd(&nsqd.address).concurrency(4).rate_limit(50.0);
    let _consumer = builder.handler_fn(|_| async {}).start().unwrap();
    until("all", || nsqd.count("FIN"), |count| *count == 31).await;
    assert!(started_at.elapsed() >= Duration::from_millis(350), "{:?}", started_at.elapsed());
}

#[tokio::test]
async fn handler_passes_its_answer_to_another_task() {
    let nsqd = StubNsqd::start().await;
    nsqd.offer(["later", "dropped", "answered twice"]);
    let (jobs_tx, mut jobs) = tokio::sync::mpsc::unbounded_channel();
    let consumer = Consumer::builder("t", "c")
        .nsqd(&nsqd.address)
        .max_in_flight(10)
        .handler_with(jobs_tx, |jobs_tx, job| async move {
            let taken = job.take_answer().expect("it is the first time");
            assert!(job.take_answer().is_none(), "there is one answer");
            jobs_tx.send((taken, job)).map_err(|_| "no receiver")
        })
        .start()
        .unwrap();
    let (later, delivery) = soon("a job", jobs.recv()).await.unwrap();
    let (dropped, _) = soon("a job", jobs.recv()).await.unwrap();
    let (third, _) = soon("a job", jobs.recv()).await.unwrap();
    assert_eq!(nsqd.in_flight(), 3, "the handler has ended, and its result is no answer");
    assert!(delivery.take_answer().is_none(), "the handler has ended");
    later.finish().unwrap();
    drop(dropped);
    third.requeue_without_backoff(Requeue::After(Duration::from_secs(60))).unwrap();
    until("answers", || (nsqd.count("FIN"), nsqd.count("REQ")), |counts| *counts == (1, 2)).await;
    let stats = consumer.stats();
    assert_eq!((stats.finished, stats.requeued, stats.failed), (1, 2, 0));
    // The stub delivers what was requeued again.
    let report = consumer.shutdown(Duration::from_millis(10)).await;
    assert!(report.took < PATIENCE);
}

#[tokio::test]
async fn messages_of_one_key_are_handled_in_order_while_others_pass() {
    let nsqd = StubNsqd::start().await;
    let bodies = (0..300).map(|n| format!("{} {n}", n % 7));
    nsqd.offer(bodies);
    let key = |message: &Delivery| message.body().first().copied();
    let running = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let most = Arc::new(AtomicUsize::new(0));
    let state = (running, Arc::clone(&seen), Arc::clone(&most));
    let consumer = Consumer::builder("t", "c")
        .nsqd(&nsqd.address)
        .concurrency(4)
        .max_in_flight(100)
        .order_by(key)
        .handler_with(state, move |(running, seen, most), message| async move {
            let key = key(&message).unwrap();
            most.fetch_max(running.lock().len() + 1, Ordering::Relaxed);
            assert!(running.lock().insert(key), "another message of {key} is being handled");
            tokio::task::yield_now().await;
            seen.lock().push(String::from_utf8(message.body().to_vec()).unwrap());
            running.lock().remove(&key);
        })
        .start()
        .unwrap();
    until("FINs", || nsqd.count("FIN"), |count| *count == 300).await;
    assert!(most.load(Ordering::Relaxed) > 1, "other keys are handled at the same time");
    for key in 0..7 {
        let prefix = format!("{key} ");
        let numbers: Vec<u32> =
            seen.lock().iter().filter_map(|body| body.strip_prefix(&prefix)?.parse().ok()).collect();
        assert!(numbers.len() > 40 && numbers.is_sorted(), "{numbers:?}");
    }
    let stats = consumer.stats();
    assert_eq!((stats.failed, stats.queued), (0, 0));
    consumer.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn shutdown_requeues_messages_that_wait_for_their_key() {
    let nsqd = StubNsqd::start().await;
    nsqd.offer(["a", "a", "a"]);
    let consumer = Consumer::builder("t", "c")
        .nsqd(&nsqd.address)
        .concurrency(3)
        .order_by(|message| Some(message.body().clone()))
        .handler_fn(|message| async move { message.stopping().await })
        .start()
        .unwrap();
    until("messages", || consumer.stats(), |stats| stats.in_flight == 3 && stats.queued == 2).await;
    let report = consumer.shutdown(PATIENCE).await;
    assert_eq!((report.finished, report.requeued, report.abandoned), (1, 2, 0));
}
