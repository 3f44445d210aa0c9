//! Shutdown: messages being handled are finished, queued ones are requeued, and connections are closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nsq::{Consumer, ConsumerState, Delivery, Drain, Unfinished};
use tokio::sync::Semaphore;

use crate::wait::{PATIENCE, soon, until};
use nsq::test_util::{Script, StubNsqd};

/// A consumer whose handlers wait at a gate, with 10 messages in flight, 2 of them being handled.
async fn busy(script: Script) -> (StubNsqd, Consumer, Arc<Semaphore>) {
    let nsqd = StubNsqd::with(script).await;
    nsqd.offer((0..20).map(|n| n.to_string()));
    let gate = Arc::new(Semaphore::new(0));
    let consumer = Consumer::builder("t", "c")
        .nsqd(&nsqd.address)
        .concurrency(2)
        .max_in_flight(10)
        .handler({
            let gate = Arc::clone(&gate);
            move |_: Delivery| {
                let gate = Arc::clone(&gate);
                async move { gate.acquire_owned().await.unwrap().forget() }
            }
        })
        .start()
        .unwrap();
    until("busy", || consumer.stats(), |stats| stats.received == 10 && stats.queued == 8).await;
    (nsqd, consumer, gate)
}

#[tokio::test]
async fn shutdown_finishes_messages_being_handled() {
    let (nsqd, consumer, gate) = busy(Script::default()).await;
    let stopping = tokio::spawn({
        let consumer = consumer.clone();
        async move { consumer.shutdown(Drain::default()).await }
    });
    until("REQs", || nsqd.received("REQ"), |seen| seen.len() == 8).await;
    assert!(nsqd.received("REQ").iter().all(|text| text.ends_with(" 0")));
    assert_eq!(nsqd.count("CLS"), 1);
    assert!(matches!(consumer.state(), ConsumerState::Draining));
    gate.add_permits(2);
    let report = soon("shutdown", stopping).await.unwrap();
    assert_eq!((report.finished, report.requeued, report.abandoned), (2, 8, 0));
    assert!(report.took < PATIENCE);
    assert_eq!((nsqd.count("FIN"), nsqd.in_flight(), nsqd.waiting()), (2, 0, 18));
    until("closed", || nsqd.rdys(), |rdys| rdys.is_empty()).await;
    assert!(matches!(consumer.state(), ConsumerState::Stopped));
    assert_eq!(consumer.shutdown(Duration::ZERO).await, report, "a second shutdown returns the same report");
}

#[tokio::test]
async fn stuck_handlers_are_dropped_at_the_deadline_and_their_messages_requeued() {
    let (nsqd, consumer, _gate) = busy(Script::default()).await;
    let report = soon("shutdown", consumer.shutdown(Duration::from_millis(50))).await;
    assert_eq!((report.finished, report.requeued, report.abandoned), (0, 10, 0));
    assert_eq!((nsqd.count("REQ"), nsqd.in_flight()), (10, 0));
}

#[tokio::test]
async fn stuck_handlers_are_dropped_at_the_deadline_and_their_messages_left_to_time_out() {
    let (nsqd, consumer, _gate) = busy(Script::default()).await;
    let drain = Drain { deadline: Duration::from_millis(50), then: Unfinished::Leave };
    let report = soon("shutdown", consumer.shutdown(drain)).await;
    assert_eq!((report.finished, report.requeued, nsqd.count("REQ")), (0, 8, 8));
}

#[tokio::test]
async fn shutdown_does_not_wait_for_an_nsqd_that_does_not_confirm_cls() {
    let (_nsqd, consumer, gate) = busy(Script { ignore_cls: true, ..Script::default() }).await;
    gate.add_permits(100);
    let started_at = Instant::now();
    soon("shutdown", consumer.shutdown(Drain::default())).await;
    assert!(started_at.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn messages_from_a_stream_can_be_finished_during_a_shutdown() {
    let nsqd = StubNsqd::start().await;
    nsqd.offer(["a", "b", "c"]);
    let mut messages = Consumer::builder("t", "c").nsqd(&nsqd.address).max_in_flight(3).stream().unwrap();
    let message = soon("message", messages.next()).await.unwrap();
    let consumer = messages.consumer().clone();
    until("arrived", || consumer.stats().received, |count| *count == 3).await;
    let stopping = tokio::spawn({
        let consumer = consumer.clone();
        async move { consumer.shutdown(Drain::default()).await }
    });
    until("REQs", || nsqd.count("REQ"), |count| *count == 2).await;
    assert!(soon("end of the stream", messages.next()).await.is_none());
    assert!(message.is_stopping());
    message.finish().unwrap();
    let report = soon("shutdown", stopping).await.unwrap();
    assert_eq!((report.finished, report.requeued, report.abandoned), (1, 2, 0));
    assert_eq!((nsqd.count("FIN"), nsqd.count("REQ")), (1, 2));
}

#[tokio::test]
async fn dropping_the_stream_or_the_last_handle_requeues_all_messages() {
    let nsqd = StubNsqd::start().await;
    nsqd.offer((0..100).map(|n| n.to_string()));
    let builder = Consumer::builder("t", "c").nsqd(&nsqd.address).max_in_flight(100);
    let messages = builder.clone().stream().unwrap();
    until("arrived", || messages.consumer().stats().received, |count| *count == 100).await;
    drop(messages);
    until("requeued", || nsqd.count("REQ"), |count| *count == 100).await;
    until("closed", || nsqd.rdys(), |rdys| rdys.is_empty()).await;

    let consumer = builder.handler(|_: Delivery| std::future::pending::<()>()).start().unwrap();
    until("arrived", || consumer.stats().received, |count| *count == 100).await;
    drop(consumer);
    until("requeued", || nsqd.count("REQ"), |count| *count == 200).await;
    until("closed", || nsqd.rdys(), |rdys| rdys.is_empty()).await;
}

#[tokio::test]
async fn shutdown_without_a_connection_is_quick() {
    let consumer =
        Consumer::builder("t", "c").nsqd("127.0.0.1:1").handler(|_: Delivery| async {}).start().unwrap();
    let report = soon("shutdown", consumer.shutdown(Drain::default())).await;
    assert_eq!((report.finished, report.requeued, report.abandoned), (0, 0, 0));
    assert!(report.took < Duration::from_secs(1));
}

#[tokio::test]
async fn run_until_shuts_down_after_the_signal() {
    let nsqd = StubNsqd::start().await;
    let consumer =
        Consumer::builder("t", "c").nsqd(&nsqd.address).handler(|_: Delivery| async {}).start().unwrap();
    nsqd.offer(["x"]);
    let signal = until("a FIN", || nsqd.count("FIN"), |count| *count == 1);
    soon("stop", consumer.run_until(signal, Drain::default())).await;
    assert!(matches!(consumer.state(), ConsumerState::Stopped));
}
