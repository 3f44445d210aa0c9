//! Discovery of nsqds through lookupds.

use std::time::{Duration, Instant};

use nsq::{Config, Consumer, ConsumerState, MessageStream, StartError};

use crate::stub_http::{StubHttp, producer};
use crate::wait::{PATIENCE, until};
use nsq::test_util::StubNsqd;

fn consume(lookupds: &[&StubHttp]) -> MessageStream {
    let addresses: Vec<String> = lookupds.iter().map(|lookupd| lookupd.address.clone()).collect();
    let config = Config::new().lookupd_poll_interval(Duration::from_millis(20));
    Consumer::builder("t#ephemeral", "c")
        .lookupd(addresses)
        .config(config)
        .max_in_flight(10)
        .stream()
        .unwrap()
}

fn connected(messages: &MessageStream) -> u64 {
    messages.consumer().stats().connections
}

/// One lookupd hangs and one answers invalid JSON. The consumer connects at once to what the other two list.
#[tokio::test]
async fn several_lookupds_are_queried_concurrently_and_merged() {
    let nsqds = [StubNsqd::start().await, StubNsqd::start().await];
    let lookupds = [
        StubHttp::hanging().await,
        StubHttp::start().await,
        StubHttp::lookupd([nsqds[0].address.as_str(), "127.0.0.1:1"]).await,
        StubHttp::lookupd([nsqds[0].address.as_str(), nsqds[1].address.as_str()]).await,
    ];
    lookupds[1].answer("/lookup", 200, "not json");
    let config = Config::new().lookupd_poll_timeout(Duration::from_millis(300));
    let addresses: Vec<String> =
        lookupds.iter().map(|lookupd| format!("http://{}/", lookupd.address)).collect();
    let started_at = Instant::now();
    let messages = Consumer::builder("t#ephemeral", "c")
        .lookupd(addresses)
        .config(config)
        .max_in_flight(10)
        .stream()
        .unwrap();
    until("both", || connected(&messages), |count| *count == 2).await;
    assert!(started_at.elapsed() < Duration::from_secs(3));
    assert_eq!(lookupds[3].lines()[0], "GET /lookup?topic=t%23ephemeral");
}

/// One of two lookupds accepts connections and never answers. With the default timeouts, the consumer waits for it for 5 s.
#[tokio::test]
async fn a_lookupd_that_hangs_delays_nothing() {
    let nsqd = StubNsqd::start().await;
    nsqd.offer(["x"]);
    let lookupds = [StubHttp::hanging().await, StubHttp::lookupd([nsqd.address.as_str()]).await];
    let addresses = [lookupds[0].address.clone(), lookupds[1].address.clone()];
    let started_at = Instant::now();
    let mut messages = Consumer::builder("t", "c").lookupd(addresses).stream().unwrap();
    messages.consumer().wait_ready(PATIENCE).await.unwrap();
    messages.next().await.unwrap().finish().unwrap();
    // It takes some milliseconds; a loaded machine may need more.
    assert!(started_at.elapsed() < Duration::from_secs(1), "{:?}", started_at.elapsed());
}

/// The poll interval is a minute, and the topic does not exist yet.
#[tokio::test]
async fn a_topic_that_is_created_later_is_found_soon() {
    let nsqd = StubNsqd::start().await;
    let lookupds = [StubHttp::hanging().await, StubHttp::start().await];
    let addresses = [lookupds[0].address.clone(), lookupds[1].address.clone()];
    let messages = Consumer::builder("orders", "c").lookupd(addresses).stream().unwrap();
    let error = messages.consumer().wait_ready(Duration::from_millis(300)).await.unwrap_err();
    let StartError::Timeout { topic, lookupds: asked, nsqds, .. } = &error else { panic!("{error}") };
    assert_eq!((&**topic, nsqds.len()), ("orders", 0));
    assert_eq!(*asked, lookupds.each_ref().map(|lookupd| lookupd.address.clone()));
    assert!(error.to_string().contains("lists no nsqd with the topic"), "{error}");
    until("two lookups", || lookupds[1].lines().len(), |count| *count >= 2).await;
    lookupds[1].set_nodes([nsqd.address.as_str()]);
    let started_at = Instant::now();
    messages.consumer().wait_ready(PATIENCE).await.unwrap();
    assert!(started_at.elapsed() < Duration::from_secs(8), "polls after 1, 2, 4 s");
    assert_eq!(lookupds[0].lines().len(), 1, "a lookupd that has not answered is not asked again");
}

#[tokio::test]
async fn older_wrapped_answer_is_accepted() {
    let nsqd = StubNsqd::start().await;
    let lookupd = StubHttp::start().await;
    let body = format!(
        r#"{{"status_code":200,"status_txt":"OK","data":{{"producers":[{}]}}}}"#,
        producer(&nsqd.address)
    );
    lookupd.answer("/lookup", 200, &body);
    let messages = consume(&[&lookupd]);
    until("connected", || connected(&messages), |count| *count == 1).await;
}

#[tokio::test]
async fn new_nodes_are_found_and_unlisted_ones_kept_while_connected() {
    let nsqds = [StubNsqd::start().await, StubNsqd::start().await];
    let lookupd = StubHttp::start().await;
    lookupd.answer("/lookup", 404, r#"{"message":"TOPIC_NOT_FOUND"}"#);
    let messages = consume(&[&lookupd]);
    let state = || messages.consumer().state();
    until("no nodes", state, |state| matches!(state, ConsumerState::NoNodes)).await;
    lookupd.set_nodes([nsqds[0].address.as_str()]);
    until("one", || connected(&messages), |count| *count == 1).await;
    lookupd.set_nodes([nsqds[1].address.as_str()]);
    until("both", || connected(&messages), |count| *count == 2).await;
}

#[tokio::test]
async fn restarted_node_is_reconnected() {
    let nsqd = StubNsqd::start().await;
    let lookupd = StubHttp::lookupd([nsqd.address.as_str()]).await;
    lookupd.answer("/nodes", 200, r#"{"producers":[]}"#);
    let messages = consume(&[&lookupd]);
    until("connected", || connected(&messages), |count| *count == 1).await;
    // No lookupd lists the node, as while an nsqd restarts.
    lookupd.set_nodes([]);
    nsqd.hang_up();
    until("again", || nsqd.state().connections_made, |count| *count == 2).await;
}

/// The node is alive, but lookups no longer list it: it is tombstoned, or its topic was deleted.
#[tokio::test]
async fn live_node_without_the_topic_is_not_reconnected() {
    let nsqds = [StubNsqd::start().await, StubNsqd::start().await];
    let lookupd = StubHttp::lookupd(nsqds.iter().map(|nsqd| nsqd.address.as_str())).await;
    let messages = consume(&[&lookupd]);
    until("both", || connected(&messages), |count| *count == 2).await;
    lookupd.answer("/nodes", 200, &format!(r#"{{"producers":[{}]}}"#, producer(&nsqds[0].address)));
    lookupd.set_nodes([nsqds[1].address.as_str()]);
    nsqds[0].hang_up();
    nsqds[1].hang_up();
    until("the other is back", || nsqds[1].state().connections_made, |count| *count == 2).await;
    let asked = lookupd.lines().len();
    until("some more lookups", || lookupd.lines().len(), |count| *count > asked + 10).await;
    assert_eq!(nsqds[0].state().connections_made, 1);
}

#[tokio::test]
async fn failing_lookups_are_reported() {
    let messages = Consumer::builder("t", "c").lookupd("127.0.0.1:1").stream().unwrap();
    match messages.consumer().wait_ready(PATIENCE).await {
        Err(StartError::Lookup(error)) => assert_eq!(&*error.lookupd, "127.0.0.1:1"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(messages.consumer().state(), ConsumerState::Failing(_)));
}

#[tokio::test]
async fn nodes_can_be_filtered() {
    let nsqds = [StubNsqd::start().await, StubNsqd::start().await];
    let lookupd = StubHttp::lookupd(nsqds.iter().map(|nsqd| nsqd.address.as_str())).await;
    let wanted = nsqds[1].address.clone();
    let messages = Consumer::builder("t", "c")
        .lookupd(&lookupd.address)
        .set("lookupd_poll_interval", "20ms")
        .unwrap()
        .filter_nodes(move |node| wanted.ends_with(&format!(":{}", node.tcp_port)))
        .stream()
        .unwrap();
    until("connected", || connected(&messages), |count| *count == 1).await;
    until("more lookups", || lookupd.lines().len(), |count| *count > 5).await;
    assert_eq!((nsqds[0].state().connections_made, nsqds[1].state().connections_made), (0, 1));
}
