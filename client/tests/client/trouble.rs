//! Publishing to an nsqd that refuses, closes the connection, does not answer, or does not run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nsq::{Config, Disconnect, Guarantee, Producer, PublishError};
use tokio::net::TcpListener;

use crate::wait::{soon, until};
use nsq::test_util::{Script, StubNsqd};

/// Returns an address without a listener.
async fn dead_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

fn short_timeout_producer(nsqd: &str) -> Producer {
    let timeout = Duration::from_millis(200);
    Producer::builder().nsqd(nsqd).publish_timeout(timeout).build().unwrap()
}

#[tokio::test]
async fn refusal_fails_only_the_refused_publish() {
    let nsqd = StubNsqd::with(Script { refused_topic: Some("bad".into()), ..Script::default() }).await;
    let producer = Producer::new(&nsqd.address).unwrap();
    let sends: Vec<_> = (0..100)
        .map(|n| producer.send(if n == 50 { "bad" } else { "good" }, n.to_string()).unwrap())
        .collect();
    for (n, result) in soon("results", join_all(sends)).await.into_iter().enumerate() {
        match result {
            Ok(_) => assert_ne!(n, 50),
            Err(PublishError::Refused { code, .. }) => assert_eq!((n, code.as_str()), (50, "E_BAD_TOPIC")),
            Err(other) => panic!("{n}: {other}"),
        }
    }
    // nsqd had not executed the later publishes, so none of them is stored twice.
    assert_eq!(nsqd.bodies().len(), 99);
    assert_eq!(nsqd.state().connections_made, 2);
}

#[tokio::test]
async fn lost_connection_is_reopened_and_unknown_publishes_are_repeated() {
    let nsqd = StubNsqd::with(Script { hang_up_after: Some(50), ..Script::default() }).await;
    let producer = Producer::builder().nsqd(&nsqd.address).batch_messages(1).build().unwrap();
    let sends: Vec<_> = (0..100).map(|n| producer.send("t", n.to_string()).unwrap()).collect();
    let mut repeated = 0;
    for result in soon("results", join_all(sends)).await {
        repeated += usize::from(result.unwrap().attempts > 1);
    }
    let mut bodies = nsqd.bodies();
    assert!(repeated >= 1 && bodies.len() <= 100 + repeated);
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 100, "none is lost");
}

#[tokio::test]
async fn at_most_once_reports_unknown_publishes_and_repeats_none() {
    let nsqd = StubNsqd::with(Script { hang_up_after: Some(10), ..Script::default() }).await;
    let builder = Producer::builder().nsqd(&nsqd.address).guarantee(Guarantee::AtMostOnce);
    let producer = builder.batch_messages(1).build().unwrap();
    let sends: Vec<_> = (0..20).map(|n| producer.send("t", n.to_string()).unwrap()).collect();
    let mut unknown = 0;
    for result in soon("results", join_all(sends)).await {
        match result {
            Ok(_) => {}
            Err(error) if error.is_unknown() => unknown += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(unknown >= 1);
    let mut bodies = nsqd.bodies();
    let count = bodies.len();
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), count, "nothing is stored twice");
}

#[tokio::test]
async fn missing_answer_is_reported_as_unknown() {
    let nsqd = StubNsqd::with(Script { mute: true, ..Script::default() }).await;
    let error = short_timeout_producer(&nsqd.address).publish("t", "x").await.unwrap_err();
    assert!(matches!(error, PublishError::Unknown { reason: Disconnect::Timeout(_), .. }), "{error}");
}

#[tokio::test]
async fn unreachable_nsqd_is_reported_as_not_sent_with_the_reason() {
    let address = dead_address().await;
    let producer = short_timeout_producer(&address);
    let error = producer.publish("t", "x").await.unwrap_err();
    assert!(matches!(error, PublishError::NotSent { reason: Disconnect::Io(_), .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    let started_at = Instant::now();
    let error = producer.ping().await.unwrap_err();
    assert!(error.to_string().contains(&address), "{error}");
    assert!(started_at.elapsed() < Duration::from_secs(2), "a ping does not retry");
}

#[tokio::test]
async fn publishes_wait_until_nsqd_returns() {
    let address = dead_address().await;
    let producer = Producer::new(&address).unwrap();
    let waiting = tokio::spawn({
        let producer = producer.clone();
        async move { producer.publish("t", "x").await }
    });
    producer.ping().await.unwrap_err();
    let nsqd = StubNsqd::start_on(&address, Script::default()).await;
    soon("publish", waiting).await.unwrap().unwrap();
    assert_eq!(nsqd.bodies(), ["x"]);
}

#[tokio::test]
async fn a_cancelled_publish_is_not_sent_and_a_dropped_one_is() {
    let address = dead_address().await;
    let producer = Producer::new(&address).unwrap();
    let cancelled = producer.send("t", "cancelled").unwrap();
    assert!(cancelled.cancel());
    drop(producer.send("t", "dropped").unwrap());
    // The future of a publish is polled once, so that the message is queued, and dropped.
    let mut publish = Box::pin(producer.publish("t", "polled once"));
    assert!(futures_util::poll!(&mut publish).is_pending());
    drop(publish);
    let kept = producer.send("t", "kept").unwrap();
    let nsqd = StubNsqd::start_on(&address, Script::default()).await;
    soon("publish", kept).await.unwrap();
    assert_eq!(nsqd.bodies(), ["dropped", "polled once", "kept"]);
    let written = producer.send("t", "written").unwrap();
    producer.flush().await;
    assert!(!written.cancel(), "it is published");
    assert_eq!(nsqd.bodies().len(), 4);
}

#[tokio::test]
async fn publishes_without_a_future_are_sent_before_flush_returns() {
    let nsqd = StubNsqd::start().await;
    let producer = Producer::new(&nsqd.address).unwrap();
    for n in 0..1000 {
        let _ = producer.send("t", n.to_string());
    }
    soon("flush", producer.flush()).await;
    let expected: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    assert_eq!(nsqd.bodies(), expected);
}

#[tokio::test]
async fn publishes_without_a_future_are_retried() {
    let nsqd = StubNsqd::with(Script { hang_up_after: Some(3), ..Script::default() }).await;
    let producer = Producer::builder().nsqd(&nsqd.address).batch_messages(10).build().unwrap();
    for n in 0..100 {
        let _ = producer.send("t", n.to_string());
    }
    soon("flush", producer.flush()).await;
    let stored: std::collections::BTreeSet<String> = nsqd.bodies().into_iter().collect();
    assert_eq!((stored.len(), nsqd.state().connections_made), (100, 2));
}

#[tokio::test]
async fn what_is_queued_is_sent_after_the_last_handle_is_dropped() {
    let nsqd = StubNsqd::start().await;
    let producer = Producer::new(&nsqd.address).unwrap();
    for n in 0..100 {
        let _ = producer.send("t", n.to_string());
    }
    drop(producer);
    until("bodies", || nsqd.bodies().len(), |count| *count == 100).await;
    until("closed", || nsqd.rdys().len(), |connections| *connections == 0).await;
}

#[tokio::test]
async fn send_has_room_during_a_flush() {
    let nsqd = StubNsqd::with(Script { mute: true, ..Script::default() }).await;
    let producer = Producer::new(&nsqd.address).unwrap();
    let _ = producer.send("t", "1");
    let flushing = tokio::spawn({
        let producer = producer.clone();
        async move { producer.flush().await }
    });
    until("written", || nsqd.bodies().len(), |count| *count == 1).await;
    tokio::task::yield_now().await;
    let second = producer.send("t", "2").unwrap();
    until("both", || nsqd.bodies().len(), |count| *count == 2).await;
    nsqd.state().respond(1, b"OK");
    soon("flush", flushing).await.unwrap();
    nsqd.state().respond(1, b"OK");
    soon("second", second).await.unwrap();
}

/// Each message may be stored several times. The first times are in the order of the calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordered_producer_keeps_the_order_across_lost_connections() {
    let nsqd = StubNsqd::start().await;
    let config = Config::new()
        .max_pending(200)
        .reconnect_initial(Duration::from_millis(1))
        .reconnect_max(Duration::from_millis(5));
    for batch in [1, 20] {
        nsqd.state().published.clear();
        let builder = Producer::builder().nsqd(&nsqd.address).config(config.clone());
        let producer = builder.ordered(true).batch_messages(batch).build().unwrap();
        let enough = Arc::new(AtomicBool::new(false));
        let publishing = tokio::spawn({
            let enough = Arc::clone(&enough);
            async move {
                let mut count = 0;
                while !enough.load(Ordering::Relaxed) {
                    producer.enqueue("t", count.to_string()).await.unwrap().detach();
                    count += 1;
                }
                producer.flush().await;
                count
            }
        });
        let before = nsqd.state().connections_made;
        while nsqd.state().connections_made - before < 30 {
            let seen = nsqd.state().published.len();
            until("progress", || nsqd.state().published.len(), |count| *count > seen).await;
            nsqd.hang_up();
        }
        enough.store(true, Ordering::Relaxed);
        let count = soon("the publisher", publishing).await.unwrap();
        let mut next = 0;
        for body in nsqd.bodies() {
            let number: usize = body.parse().unwrap();
            assert!(number <= next, "{number} before {next}");
            next = next.max(number + 1);
        }
        assert_eq!(next, count);
    }
}

#[tokio::test]
async fn an_order_that_cannot_be_kept_is_refused() {
    let refused = Producer::builder().nsqd("a:1,b:1").ordered(true).build().unwrap_err();
    assert!(refused.to_string().contains("single nsqd"), "{refused}");
    assert!(Producer::builder().lookupd("a:1").ordered(true).build().is_err());
    Producer::builder().nsqd("a:1,b:1").partition_by_key().ordered(true).build().unwrap();
    Producer::builder().nsqd("a:1").ordered(true).build().unwrap();
}

/// One message of a batch makes nsqd refuse all of it. The batch is split, and only this message fails.
#[tokio::test]
async fn a_refused_batch_is_split() {
    let nsqd = StubNsqd::with(Script { refused_body: Some("bad".into()), ..Script::default() }).await;
    let producer = Producer::new(&nsqd.address).unwrap();
    let bodies = ["1", "2", "bad", "3"];
    let results = soon("results", producer.publish_each("t", bodies)).await;
    for (body, result) in bodies.iter().zip(results) {
        match result {
            Ok(_) => assert_ne!(*body, "bad"),
            Err(error) => {
                let is_refusal =
                    matches!(&error, PublishError::Refused { code, .. } if code == "E_BAD_MESSAGE");
                assert!(is_refusal && *body == "bad", "{error}");
            }
        }
    }
    assert_eq!(nsqd.bodies(), ["1", "2", "3"]);
}

#[tokio::test]
async fn publishes_fail_over_to_another_nsqd() {
    let first = StubNsqd::start().await;
    let second = StubNsqd::start().await;
    let producer = Producer::builder().nsqd([first.address.clone(), second.address.clone()]).build().unwrap();
    producer.publish("t", "1").await.unwrap();
    first.stop();
    let receipt = soon("failover", producer.publish("t", "2")).await.unwrap();
    assert_eq!(*receipt.node, *second.address);
    assert_eq!(first.bodies(), ["1"]);
    assert_eq!(second.bodies(), ["2"]);
}

#[tokio::test]
async fn unreachable_first_nsqd_costs_one_attempt() {
    let nsqd = StubNsqd::start().await;
    let addresses = [dead_address().await, nsqd.address.clone()];
    let producer = Producer::builder().nsqd(addresses).build().unwrap();
    let receipt = soon("failover", producer.publish("t", "x")).await.unwrap();
    assert_eq!((&*receipt.node, receipt.attempts), (&*nsqd.address, 2));
    assert_eq!(producer.publish("t", "y").await.unwrap().attempts, 1);
}

#[tokio::test]
async fn http_port_is_recognised() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 Bad Request";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
            std::future::pending::<()>().await;
        }
    });
    let error = Producer::new(&address).unwrap().ping().await.unwrap_err();
    assert!(matches!(error.cause, Disconnect::HttpPeer), "{error}");
}

/// The server restarts repeatedly, and has every message that was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_lose_no_acknowledged_message() {
    let nsqd = StubNsqd::start().await;
    let config =
        Config::new().reconnect_initial(Duration::from_millis(1)).reconnect_max(Duration::from_millis(5));
    let producer = Producer::builder().nsqd(&nsqd.address).config(config).build().unwrap();
    let publishing = tokio::spawn(async move {
        for n in 0..2000 {
            producer.publish("t", n.to_string()).await.unwrap();
        }
    });
    let mut hung_up = 0;
    while !publishing.is_finished() {
        let seen = nsqd.state().published.len();
        until("progress", || nsqd.state().published.len(), |count| *count > seen || publishing.is_finished())
            .await;
        nsqd.hang_up();
        hung_up += 1;
    }
    publishing.await.unwrap();
    assert!(hung_up > 10);
    let mut bodies = nsqd.bodies();
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 2000);
}
