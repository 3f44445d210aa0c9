//! Publishing without failures: what arrives, in which order, and what is checked before sending.

use std::time::Duration;

use futures_util::future::join_all;
use nsq::{Config, ConfigError, Producer, PublishError, Strategy};

use crate::stub_nsqd::{Script, StubNsqd};
use crate::wait::{soon, until};

#[tokio::test]
async fn single_deferred_and_batch_publishes_arrive() {
    let nsqd = StubNsqd::start().await;
    let producer = Producer::new(&nsqd.address).unwrap();
    let receipt = producer.publish("a", "one").await.unwrap();
    assert_eq!((&*receipt.node, receipt.attempts), (&*nsqd.address, 1));
    producer.publish_deferred("b", Duration::from_secs(2), vec![b'2']).await.unwrap();
    producer.publish_many("c", ["x", "y"]).await.unwrap();
    let seen: Vec<_> = nsqd
        .state()
        .published
        .iter()
        .map(|p| (p.topic.clone(), p.delay_ms, p.body.clone(), p.command))
        .collect();
    let expected = [("a", 0, "one", 1), ("b", 2000, "2", 2), ("c", 0, "x", 3), ("c", 0, "y", 3)]
        .map(|(topic, delay, body, command)| (topic.to_owned(), delay, body.to_owned(), command));
    assert_eq!(seen, expected);
    assert_eq!(nsqd.state().connections_made, 1);
}

#[tokio::test]
async fn headers_are_not_sent_to_an_nsqd_without_the_feature() {
    let nsqd = StubNsqd::start().await;
    let producer = Producer::new(&nsqd.address).unwrap();
    for _ in 0..2 {
        let error = producer.publish_with_headers("t", [("a", "b")], "x").await.unwrap_err();
        assert!(matches!(error, PublishError::HeadersUnsupported { .. }), "{error}");
    }
    let error = producer.publish_many_with_headers("t", [([("a", "b")], "x")]).await.unwrap_err();
    assert!(matches!(error.error, PublishError::HeadersUnsupported { .. }), "{error}");
    // The connection, which other publishes share, is still open.
    producer.publish("t", "plain").await.unwrap();
    assert_eq!((nsqd.bodies(), nsqd.count("PUB_EXT")), (vec!["plain".to_owned()], 0));
    assert_eq!(nsqd.state().connections_made, 1);
    assert!(nsqd.received("IDENTIFY")[0].contains(r#""features":["headers"]"#));
}

#[tokio::test]
async fn sends_keep_their_order_and_have_separate_results() {
    let nsqd = StubNsqd::start().await;
    let producer = Producer::new(&nsqd.address).unwrap();
    let results: Vec<_> = (0..5000).map(|n| producer.send("t", n.to_string()).unwrap()).collect();
    for result in soon("results", join_all(results)).await {
        result.unwrap();
    }
    let expected: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
    assert_eq!(nsqd.bodies(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_from_many_tasks_share_the_connection() {
    let nsqd = StubNsqd::start().await;
    let producer = Producer::new(&nsqd.address).unwrap();
    let tasks: Vec<_> = (0..50)
        .map(|task| {
            let producer = producer.clone();
            tokio::spawn(async move {
                for n in 0..20 {
                    producer.publish("t", format!("{task}-{n}")).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        soon("publisher", task).await.unwrap();
    }
    let mut bodies = nsqd.bodies();
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 1000);
    assert_eq!(nsqd.state().connections_made, 1);
}

#[tokio::test]
async fn invalid_names_and_empty_bodies_are_not_sent() {
    let nsqd = StubNsqd::start().await;
    let producer = Producer::new(&nsqd.address).unwrap();
    for topic in ["", "a b", "a\nb", &"x".repeat(65), "t#other"] {
        let refused = producer.publish(topic, "x").await;
        assert!(matches!(refused, Err(PublishError::InvalidTopic { .. })), "{topic:?}");
    }
    assert!(matches!(producer.publish("t", "").await, Err(PublishError::Empty)));
    let empty = producer.publish_many("t", ["x", ""]).await.unwrap_err();
    assert!(matches!(empty.error, PublishError::Empty));
    assert_eq!(nsqd.state().connections_made, 0);
    producer.publish("t.-_9#ephemeral", "x").await.unwrap();
}

/// The server's limits apply if it reports them. Only a publish that exceeds them fails.
#[tokio::test]
async fn sizes_are_checked_against_the_limits_of_the_server() {
    let reply = r#"{"max_rdy_count":10,"max_msg_size":10,"max_body_size":40}"#;
    let nsqd = StubNsqd::with(Script { identify_reply: reply.into(), ..Script::default() }).await;
    let producer = Producer::new(&nsqd.address).unwrap();
    let (small, big) = tokio::join!(producer.publish("t", "small"), producer.publish("t", "eleven byte"));
    small.unwrap();
    assert!(matches!(big, Err(PublishError::TooBig { size: 11, max: 10 })));
    producer.publish_many("t", ["0123456789"; 5]).await.unwrap();
    let commands: Vec<usize> = nsqd.state().published.iter().map(|p| p.command).collect();
    assert_eq!(commands, [1, 2, 2, 3, 3, 4], "split to fit 40 bytes");
    let error = producer.publish_many("t", ["a", "eleven byte"]).await.unwrap_err();
    assert_eq!(error.acknowledged, 0);
    assert!(matches!(error.error, PublishError::TooBig { .. }));
    assert_eq!(nsqd.state().connections_made, 1);
}

/// NSQ's own nsqd does not report its limits, so the application can set them.
#[tokio::test]
async fn limit_can_be_raised_for_servers_that_do_not_report_it() {
    let nsqd = StubNsqd::start().await;
    let body = vec![b'x'; (1 << 20) + 1];
    let producer = Producer::new(&nsqd.address).unwrap();
    assert!(matches!(producer.publish("t", body.clone()).await, Err(PublishError::TooBig { .. })));
    let config = Config::new().max_msg_size(2u32 << 20);
    let producer = Producer::builder().nsqd(&nsqd.address).config(config).build().unwrap();
    // The stub has NSQ's default limit. Its refusal shows that the message was sent.
    assert!(
        matches!(producer.publish("t", body).await, Err(PublishError::Refused { code, .. }) if code == "E_BAD_MESSAGE")
    );
}

#[tokio::test]
async fn heartbeats_are_answered_and_never_taken_for_an_answer() {
    let script = Script { heartbeat: Some(Duration::from_millis(5)), ..Script::default() };
    let nsqd = StubNsqd::with(script).await;
    let producer = Producer::new(&nsqd.address).unwrap();
    for n in 0..50 {
        producer.publish("t", n.to_string()).await.unwrap();
        until("heartbeats", || nsqd.count("NOP"), |count| *count > n / 2).await;
    }
    assert_eq!(nsqd.state().published.len(), 50);
    assert_eq!(nsqd.state().connections_made, 1);
}

#[tokio::test]
async fn ping_returns_what_the_server_reports() {
    let nsqd = StubNsqd::start().await;
    let producer = Producer::new(&nsqd.address).unwrap();
    let server = producer.ping().await.unwrap();
    assert_eq!((server.version.as_str(), server.max_rdy_count), ("1.3.0", 2500));
}

#[tokio::test]
async fn round_robin_uses_all_nsqds() {
    let nsqds = [StubNsqd::start().await, StubNsqd::start().await];
    let addresses: Vec<String> = nsqds.iter().map(|nsqd| nsqd.address.clone()).collect();
    let producer = Producer::builder().nsqd(addresses).strategy(Strategy::RoundRobin).build().unwrap();
    for n in 0..40 {
        producer.publish("t", n.to_string()).await.unwrap();
    }
    for nsqd in &nsqds {
        assert!(nsqd.state().published.len() >= 10);
    }
}

#[tokio::test]
async fn pending_publishes_are_bounded() {
    let nsqd = StubNsqd::with(Script { mute: true, ..Script::default() }).await;
    let config = Config::new().max_pending(10u32);
    let producer = Producer::builder().nsqd(&nsqd.address).config(config).build().unwrap();
    let pending: Vec<_> = (0..10).map(|n| producer.send("t", n.to_string()).unwrap()).collect();
    assert!(matches!(producer.send("t", "11"), Err(PublishError::Full)));
    until("written", || nsqd.state().published.len(), |count| *count == 10).await;
    let connection = nsqd.state().connections_made;
    for _ in 0..10 {
        nsqd.state().send(connection, crate::stub_nsqd::response(b"OK"));
    }
    for result in join_all(pending).await {
        result.unwrap();
    }
    drop(producer.send("t", "12").unwrap());
}

#[tokio::test]
async fn close_waits_for_answers_and_rejects_later_publishes() {
    let nsqd = StubNsqd::start().await;
    let producer = Producer::new(&nsqd.address).unwrap();
    let pending: Vec<_> = (0..100).map(|n| producer.send("t", n.to_string()).unwrap()).collect();
    let pending = tokio::spawn(join_all(pending));
    assert!(producer.close(Duration::from_secs(5)).await);
    for result in pending.await.unwrap() {
        result.unwrap();
    }
    assert!(matches!(producer.publish("t", "late").await, Err(PublishError::Closed)));
    assert_eq!(nsqd.state().published.len(), 100);
}

#[tokio::test]
async fn settings_are_checked_when_built() {
    assert!(matches!(Producer::builder().build(), Err(ConfigError::NoAddress { lookupd: false })));
    assert!(matches!(Producer::new("nowhere"), Err(ConfigError::InvalidAddress { .. })));
    let builder = Producer::builder().nsqd("localhost:4150");
    assert!(matches!(builder.clone().set("nope", 1), Err(ConfigError::UnknownOption { .. })));
    let tls = builder.set("tls_v1", true).unwrap().set("tls_root_ca_file", "/nonexistent").unwrap().build();
    assert!(matches!(tls, Err(ConfigError::Tls { reason }) if reason.starts_with("open /nonexistent: ")));
}
