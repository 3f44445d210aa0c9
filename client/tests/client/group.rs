//! Several topics with one handler, JSON bodies, and the blocking interface.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nsq::test_util::{FakeDelivery, StubNsqd};
use nsq::{ConfigError, Consumer, HandlerError, IntoOutcome, NewMessage, Outcome, StartError, blocking};
use parking_lot::Mutex;

use crate::stub_http::StubHttp;
use crate::wait::{soon, until};

#[tokio::test]
async fn a_group_consumes_its_topics_within_one_concurrency() {
    let nsqd = StubNsqd::start().await;
    let lookupd = StubHttp::lookupd([nsqd.address.as_str()]).await;
    let (topics, running, peak) =
        (Arc::new(Mutex::new(BTreeSet::new())), AtomicUsize::new(0), AtomicUsize::new(0));
    let state = Arc::new((Arc::clone(&topics), running, peak));
    let group = Consumer::group("c")
        .lookupd(&lookupd.address)
        .concurrency(3)
        .topics((0..10).map(|n| format!("t{n}")))
        .handler_with(Arc::clone(&state), |state, message| async move {
            let (topics, running, peak) = &*state;
            peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            topics.lock().insert(message.topic().to_owned());
            tokio::task::yield_now().await;
            running.fetch_sub(1, Ordering::SeqCst);
        })
        .start()
        .unwrap();
    until("subscribed", || nsqd.count("SUB"), |count| *count == 10).await;
    assert_eq!(group.consumers().len(), 10);
    // The stub has one queue for all topics, and delivers to those that have room.
    nsqd.offer((0..500).map(|n| n.to_string()));
    until("FINs", || nsqd.count("FIN"), |count| *count == 500).await;
    assert!(topics.lock().len() > 1, "{topics:?}");
    assert!(state.2.load(Ordering::SeqCst) <= 3);
    until("stats", || group.stats().finished, |finished| *finished == 500).await;
    let report = soon("shutdown", group.shutdown(Duration::from_secs(5))).await;
    assert_eq!(report.abandoned, 0);
    until("closed", || nsqd.rdys().len(), |connections| *connections == 0).await;
}

#[tokio::test]
async fn a_group_with_an_invalid_topic_starts_nothing() {
    let nsqd = StubNsqd::start().await;
    let group = Consumer::group("c").nsqd(&nsqd.address).topics(["fine", "not fine"]);
    let error = group.handler_fn(|_| async {}).start().unwrap_err();
    let named =
        matches!(&error, StartError::Config(ConfigError::InvalidName { name, .. }) if name == "not fine");
    assert!(named, "{error}");
    assert_eq!(nsqd.state().connections_made, 0);
}

#[tokio::test]
async fn bodies_may_be_json() {
    async fn handle(message: nsq::Delivery) -> Result<(), HandlerError> {
        let (fruit, count): (String, u32) = message.json()?;
        assert_eq!((&*fruit, count), ("apple", 3));
        Ok(())
    }
    let nsqd = StubNsqd::start().await;
    let producer = nsq::Producer::new(&nsqd.address).unwrap();
    producer.publish("t", NewMessage::json(&("apple", 3)).unwrap()).await.unwrap();
    assert_eq!(nsqd.bodies(), [r#"["apple",3]"#]);
    let outcome = async |body: &str| handle(FakeDelivery::new(body.to_owned()).build()).await.into_outcome();
    assert_eq!(outcome(&nsqd.bodies()[0]).await, Outcome::Finish);
    let Outcome::Fail(error) = outcome("{}").await else { panic!("it is not valid") };
    assert!(error.is_permanent() && error.to_string().contains("JSON"), "{error}");
}

#[test]
fn threads_without_a_runtime_publish_and_consume() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let nsqd = runtime.block_on(StubNsqd::start());
    let producer = blocking::Producer::new(&nsqd.address).unwrap();
    producer.publish("t", "1").unwrap();
    producer.publish_many("t", ["2", "3"]).unwrap();
    let queued = producer.enqueue("t", "4").unwrap();
    producer.wait(queued).unwrap();
    producer.enqueue("t", "5").unwrap().detach();
    producer.flush();
    assert_eq!(nsqd.bodies(), ["1", "2", "3", "4", "5"]);
    assert!(producer.close(Duration::from_secs(5)));

    nsqd.offer(["a", "b"]);
    let mut messages = blocking::Messages::of(Consumer::builder("t", "c").nsqd(&nsqd.address)).unwrap();
    for expected in ["a", "b"] {
        let message = messages.next().unwrap();
        assert_eq!(message.body(), expected);
        message.finish().unwrap();
    }
    assert!(messages.next_within(Duration::from_millis(20)).is_none());
    let report = messages.shutdown(Duration::from_secs(5));
    assert_eq!((report.abandoned, nsqd.count("FIN")), (0, 2));
}
