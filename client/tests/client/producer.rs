//! Publishing without failures: what arrives, in which order, and what is checked before sending.

use std::time::Duration;

use futures_util::future::join_all;
use nsq::{Config, ConfigError, Producer, PublishError, Strategy};

use crate::stub_http::{StubHttp, producer as entry};
use crate::wait::{soon, until};
use nsq::test_util::{Script, StubNsqd};

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
    let Err(PublishError::TooBig { index: 0, topic, size: 11, limit: 10 }) = big else { panic!("{big:?}") };
    assert_eq!(topic, "t");
    producer.publish_many("t", ["0123456789"; 5]).await.unwrap();
    let commands: Vec<usize> = nsqd.state().published.iter().map(|p| p.command).collect();
    assert_eq!(commands, [1, 2, 2, 3, 3, 4], "split to fit 40 bytes");
    let error = producer.publish_many("t", ["a", "eleven byte"]).await.unwrap_err();
    assert_eq!(error.acknowledged, 0);
    assert!(matches!(error.error, PublishError::TooBig { index: 1, size: 11, limit: 10, .. }));
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
        nsqd.state().respond(connection, b"OK");
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
    assert!(matches!(Producer::builder().build(), Err(ConfigError::NoAddress { lookupd: true })));
    assert!(matches!(Producer::new("nowhere"), Err(ConfigError::InvalidAddress { .. })));
    Producer::new("a:1, b:1").unwrap();
    let error = Producer::new("a:1,b").unwrap_err();
    assert!(error.to_string().starts_with("\"b\" is not an address"), "{error}");
    assert!(matches!(Producer::new("a:1,"), Err(ConfigError::InvalidAddress { .. })));
    let builder = Producer::builder().nsqd("localhost:4150");
    assert!(matches!(builder.clone().set("nope", 1), Err(ConfigError::UnknownOption { .. })));
    let tls = builder.set("tls_v1", true).unwrap().set("tls_root_ca_file", "/nonexistent").unwrap().build();
    assert!(matches!(tls, Err(ConfigError::Tls { reason }) if reason.starts_with("open /nonexistent: ")));
}

#[test]
fn outside_of_a_runtime_a_producer_is_an_error() {
    let error = Producer::new("localhost:4150").unwrap_err();
    assert!(matches!(error, ConfigError::NoRuntime), "{error}");
    let consumer = nsq::Consumer::builder("t", "c").nsqd("localhost:4150").stream().map(drop).unwrap_err();
    assert!(consumer.to_string().contains("runtime"), "{consumer}");
}

#[tokio::test]
async fn a_comma_list_is_several_nsqds() {
    let nsqds = [StubNsqd::start().await, StubNsqd::start().await];
    let addresses = format!("{}, {}", nsqds[0].address, nsqds[1].address);
    let producer = Producer::builder().nsqd(addresses).strategy(Strategy::RoundRobin).build().unwrap();
    for n in 0..20 {
        producer.publish("t", n.to_string()).await.unwrap();
    }
    assert!(nsqds.iter().all(|nsqd| nsqd.bodies().len() >= 5));
}

/// A message that is too big fails alone, with its position.
#[tokio::test]
async fn messages_with_results_of_their_own_fail_alone() {
    let reply = r#"{"max_rdy_count":10,"max_msg_size":10,"max_body_size":40}"#;
    let nsqd = StubNsqd::with(Script { identify_reply: reply.into(), ..Script::default() }).await;
    let producer = Producer::new(&nsqd.address).unwrap();
    let results = producer.publish_each("orders", ["1", "2", "eleven byte", "3", ""]).await;
    let error = results[2].as_ref().unwrap_err();
    assert!(matches!(error, PublishError::TooBig { index: 2, size: 11, limit: 10, .. }), "{error:?}");
    assert!(error.to_string().starts_with("message 2 for topic orders has 11 bytes"), "{error}");
    assert!(matches!(results[4], Err(PublishError::Empty)));
    assert!(results[0].is_ok() && results[1].is_ok() && results[3].is_ok());
    assert_eq!(nsqd.bodies(), ["1", "2", "3"]);
}

#[tokio::test]
async fn sends_share_batches_within_the_limits() {
    let nsqd = StubNsqd::start().await;
    let producer = Producer::builder().nsqd(&nsqd.address).batch_messages(100).build().unwrap();
    let results: Vec<_> = (0..1000).map(|n| producer.send("t", n.to_string()).unwrap()).collect();
    join_all(results).await.into_iter().for_each(|result| drop(result.unwrap()));
    let commands = nsqd.state().published.last().unwrap().command;
    assert!((10..=20).contains(&commands), "{commands} commands for 1000 messages");
    assert_eq!(nsqd.bodies(), (0..1000).map(|n| n.to_string()).collect::<Vec<_>>());
    // A message alone is a PUB, and its receipt can have an id.
    producer.send("t", "alone").unwrap().await.unwrap();
    assert_eq!(nsqd.state().published.last().unwrap().command, commands + 1);
}

#[tokio::test]
async fn lingering_publishes_share_a_batch() {
    let nsqd = StubNsqd::start().await;
    let builder = Producer::builder().nsqd(&nsqd.address).linger(Duration::from_secs(30));
    let producer = builder.batch_messages(10).publish_timeout(Duration::from_secs(60)).build().unwrap();
    let tasks: Vec<_> = (0..10)
        .map(|n| {
            let producer = producer.clone();
            tokio::spawn(async move { producer.publish("t", n.to_string()).await })
        })
        .collect();
    for task in tasks {
        soon("a full batch", task).await.unwrap().unwrap();
    }
    assert!(nsqd.state().published.iter().all(|published| published.command == 1));
    // A flush does not linger, and neither does what cannot be in a batch.
    let _ = producer.send("t", "a");
    soon("flush", producer.flush()).await;
    soon("deferred", producer.publish_deferred("t", Duration::from_secs(1), "b")).await.unwrap();
    assert_eq!(nsqd.bodies().len(), 12);
}

#[tokio::test]
async fn enqueue_waits_for_room() {
    let nsqd = StubNsqd::with(Script { mute: true, ..Script::default() }).await;
    let config = Config::new().max_pending(1);
    let producer = Producer::builder().nsqd(&nsqd.address).config(config).build().unwrap();
    let first = producer.enqueue("t", "1").await.unwrap();
    let mut second = Box::pin(producer.enqueue("t", "2"));
    assert!(futures_util::poll!(&mut second).is_pending());
    assert!(matches!(producer.send("t", "3"), Err(PublishError::Full)));
    until("written", || nsqd.bodies().len(), |count| *count == 1).await;
    nsqd.state().respond(1, b"OK");
    first.await.unwrap();
    let second = soon("room", second).await.unwrap();
    until("written", || nsqd.bodies().len(), |count| *count == 2).await;
    nsqd.state().respond(1, b"OK");
    second.await.unwrap();
}

#[tokio::test]
async fn a_topic_handle_publishes_to_its_topic() {
    let nsqd = StubNsqd::start().await;
    let producer = Producer::new(&nsqd.address).unwrap();
    assert!(matches!(producer.topic("a b"), Err(PublishError::InvalidTopic { .. })));
    let orders = producer.topic("orders").unwrap();
    orders.publish("1").await.unwrap();
    orders.publish_deferred(Duration::from_secs(1), "2").await.unwrap();
    orders.publish_many(["3", "4"]).await.unwrap();
    orders.send("5").unwrap().await.unwrap();
    orders.enqueue("6").await.unwrap().await.unwrap();
    assert!(orders.publish_each(["7"]).await[0].is_ok());
    let state = nsqd.state();
    assert!(state.published.iter().all(|published| published.topic == orders.name()));
    assert_eq!(state.published.iter().map(|p| &*p.body).collect::<String>(), "1234567");
}

#[tokio::test]
async fn keys_stay_at_their_nsqd() {
    let nsqds = [StubNsqd::start().await, StubNsqd::start().await, StubNsqd::start().await];
    let addresses: Vec<String> = nsqds.iter().map(|nsqd| nsqd.address.clone()).collect();
    let producer = Producer::builder().nsqd(&addresses).partition_by_key().build().unwrap();
    for n in 0..300 {
        let key = format!("customer {}", n % 30);
        producer.publish("t", nsq::NewMessage::new(key.clone()).key(key)).await.unwrap();
    }
    let mut total = 0;
    for nsqd in &nsqds {
        let keys: std::collections::BTreeSet<String> = nsqd.bodies().into_iter().collect();
        assert_eq!(nsqd.bodies().len(), keys.len() * 10, "all messages of a key are here");
        total += keys.len();
    }
    assert_eq!(total, 30);
    // Another producer, with the addresses in another order, chooses the same nsqds.
    let reversed: Vec<String> = addresses.iter().rev().cloned().collect();
    let other = Producer::builder().nsqd(reversed).partition_by_key().build().unwrap();
    let receipt = other.publish("t", nsq::NewMessage::new("customer 0").key("customer 0")).await.unwrap();
    let home = nsqds.iter().find(|nsqd| *nsqd.address == *receipt.node).unwrap();
    assert_eq!(home.bodies().iter().filter(|body| *body == "customer 0").count(), 11);
}

#[tokio::test]
async fn least_pending_avoids_a_slow_nsqd() {
    let slow = StubNsqd::with(Script { mute: true, ..Script::default() }).await;
    let fast = StubNsqd::start().await;
    let addresses = [slow.address.clone(), fast.address.clone()];
    let producer = Producer::builder().nsqd(addresses).strategy(Strategy::LeastPending).build().unwrap();
    let mut slow_results = Vec::new();
    for n in 0..50 {
        let sent = producer.send("t", n.to_string()).unwrap();
        match tokio::time::timeout(Duration::from_millis(200), sent).await {
            Ok(result) => assert_eq!(*result.unwrap().node, *fast.address),
            Err(_) => slow_results.push(n),
        }
    }
    assert!(slow_results.len() <= 2 && fast.bodies().len() >= 48, "{slow_results:?}");
}

#[tokio::test]
async fn nsqds_are_found_through_lookupds() {
    let nsqds = [StubNsqd::start().await, StubNsqd::start().await];
    let lookupd = StubHttp::start().await;
    let hanging = StubHttp::hanging().await;
    let list = |nsqds: &[&StubNsqd]| {
        let entries: Vec<String> = nsqds.iter().map(|nsqd| entry(&nsqd.address)).collect();
        lookupd.answer("/nodes", 200, &format!(r#"{{"producers":[{}]}}"#, entries.join(",")));
    };
    let config = Config::new()
        .lookupd_poll_interval(Duration::from_millis(20))
        .lookupd_poll_timeout(Duration::from_millis(200));
    let producer = Producer::builder()
        .lookupd([&*hanging.address, &*lookupd.address])
        .config(config)
        .strategy(Strategy::RoundRobin)
        .build()
        .unwrap();
    // Nothing is listed yet: the publish waits.
    let waiting = producer.send("t", "early").unwrap();
    list(&[&nsqds[0]]);
    assert_eq!(*soon("found", waiting).await.unwrap().node, *nsqds[0].address);
    list(&[&nsqds[0], &nsqds[1]]);
    let publish = async || drop(producer.publish("t", "x").await.unwrap());
    while nsqds[1].bodies().is_empty() {
        soon("publish", publish()).await;
    }
    nsqds[1].stop();
    for _ in 0..10 {
        soon("failover", publish()).await;
    }
    drop(producer);
    let lost = Producer::builder().lookupd(&lookupd.address).publish_timeout(Duration::from_millis(50));
    lookupd.answer("/nodes", 200, r#"{"producers":[]}"#);
    let error = lost.build().unwrap().publish("t", "x").await.unwrap_err();
    assert!(matches!(error, PublishError::NoNodes { .. }), "{error}");
}
