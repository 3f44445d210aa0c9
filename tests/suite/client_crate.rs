//! The client library against the real daemons.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nsq::admin::{LookupdClient, NsqdClient, StatsQuery};
use nsq::{
    Consumer, ConsumerBuilder, Delivery, Event, MessageStream, Outcome, Producer, PublishError, Requeue,
};
use nsq_tests::auth_server::{Answer, AuthServer, allowing, authorization};
use nsq_tests::{Daemon, stats, test, test_within, wait};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(15);

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("message {n}")).collect()
}

fn producer(nsqd: &Daemon) -> Producer {
    Producer::new(nsqd.tcp().to_string()).expect("an address")
}

/// A consumer of t/c that connects to one nsqd.
fn consumer(nsqd: &Daemon) -> ConsumerBuilder {
    Consumer::builder("t", "c").nsqd(nsqd.tcp().to_string())
}

/// A consumer of t/c that polls these lookupds twice a second.
fn discovering(lookupds: &[Daemon]) -> ConsumerBuilder {
    let addresses: Vec<String> = lookupds.iter().map(|lookupd| lookupd.http().to_string()).collect();
    Consumer::builder("t", "c").lookupd(addresses).set("lookupd_poll_interval", "500ms").expect("an option")
}

async fn next(messages: &mut MessageStream) -> nsq::Message {
    tokio::time::timeout(PATIENCE, messages.next())
        .await
        .expect("a message in time")
        .expect("the consumer runs")
}

async fn take_and_finish(messages: &mut MessageStream, count: usize) -> Vec<String> {
    let mut bodies = Vec::with_capacity(count);
    while bodies.len() < count {
        let message = next(messages).await;
        bodies.push(String::from_utf8_lossy(message.body()).into_owned());
        message.finish().expect("the connection is open");
    }
    bodies
}

// Publishing

#[test]
fn full_topic_refuses_some_of_many_publishes_and_none_is_published_twice() {
    test(async {
        let nsqds = [Daemon::nsqd().start().await, Daemon::nsqd().start().await];
        for nsqd in &nsqds {
            nsqd.admin("/topic/create?topic=t").await;
            nsqd.admin("/channel/create?topic=t&channel=c").await;
            nsqd.admin("/channel/set?topic=t&channel=c&max_depth=10").await;
        }
        let producer = producer(&nsqds[0]);
        let publishes = async |producer: &Producer, count| {
            let publishes = (0..count).map(|number: u32| producer.publish("t", number.to_string()));
            futures_util::future::join_all(publishes).await
        };
        let results = publishes(&producer, 30).await;
        let refused = results.iter().filter_map(|result| result.as_ref().err());
        assert_eq!(refused.filter(|error| error.is_topic_full()).count(), 20, "{results:?}");
        let depth = async |nsqd: &Daemon| nsqd.channel("t", "c").await.map(|channel| channel.message_count);
        assert_eq!(depth(&nsqds[0]).await, Some(10));
        producer.publish("other", "the connection is usable").await.expect("another topic has room");

        // Another node may have room.
        let addresses = nsqds.each_ref().map(|nsqd| nsqd.tcp().to_string());
        let both = Producer::builder().nsqd(addresses).build().expect("addresses");
        let results = publishes(&both, 30).await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 10, "{results:?}");
        assert_eq!((depth(&nsqds[0]).await, depth(&nsqds[1]).await), (Some(10), Some(10)));
    });
}

#[test]
fn stream_returns_published_messages_in_order() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let producer = producer(&nsqd);
        let published = numbered(1000);
        for body in &published[..100] {
            producer.publish("t", body.clone()).await.expect("published");
        }
        producer.publish_many("t", published[100..].iter().cloned()).await.expect("published");
        let mut messages = consumer(&nsqd).max_in_flight(100).stream().expect("a consumer");
        assert_eq!(take_and_finish(&mut messages, 1000).await, published);
        nsqd.channel_until_finished("t", "c").await;
    });
}

#[test]
fn publishes_queued_together_each_get_their_result_and_keep_their_order() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let producer = producer(&nsqd);
        let results: Vec<_> = numbered(5000)
            .into_iter()
            .map(|body| producer.send("t", body).expect("the queue has room"))
            .collect();
        producer.flush().await;
        for result in results {
            assert_eq!(result.await.expect("published").attempts, 1);
        }
        let mut messages = consumer(&nsqd).max_in_flight(500).stream().expect("a consumer");
        assert_eq!(take_and_finish(&mut messages, 5000).await, numbered(5000));
        assert!(producer.close(PATIENCE).await);
        assert!(matches!(producer.publish("t", "x").await, Err(PublishError::Closed)));
    });
}

#[test]
fn invalid_publishes_are_refused_before_sending() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--max-msg-size=100").start().await;
        let producer = producer(&nsqd);
        let info = producer.ping().await.expect("connected");
        eprintln!("{info:?}");
        assert!(matches!(producer.publish("a b", "x").await, Err(PublishError::InvalidTopic { .. })));
        assert!(matches!(producer.publish("t", "").await, Err(PublishError::Empty)));
        let too_big = producer.publish("t", "x".repeat(101)).await;
        assert!(matches!(too_big, Err(PublishError::TooBig { size: 101, limit: 100, .. })), "{too_big:?}");
        producer.publish("t", "x".repeat(100)).await.expect("published");
        assert_eq!(nsqd.topic("t").await.map(|topic| topic.message_count), Some(1));
    });
}

#[test]
fn deferred_messages_arrive_when_due() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut messages = consumer(&nsqd).stream().expect("a consumer");
        messages.consumer().wait_ready(PATIENCE).await.expect("subscribed");
        let published = Instant::now();
        let delay = Duration::from_millis(600);
        producer(&nsqd).publish_deferred("t", delay, "later").await.expect("published");
        let message = next(&mut messages).await;
        assert!(published.elapsed() + Duration::from_millis(5) >= delay, "early: {:?}", published.elapsed());
        message.finish().expect("the connection is open");
        nsqd.channel_until_finished("t", "c").await;
    });
}

#[test]
fn producer_survives_nsqd_restarts() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        nsqd.subscribe("t", "c").await;
        let producer = producer(&nsqd);
        let mut published = Vec::new();
        for round in 0..3 {
            for n in 0..50 {
                let body = format!("{round}/{n}");
                producer.publish("t", body.clone()).await.expect("published");
                published.push(body);
            }
            nsqd.kill().await;
            // A publish while nsqd is down waits and is sent after the restart.
            let body = format!("{round}/while down");
            let waiting = producer.send("t", body.clone()).expect("the queue has room");
            nsqd.restart().await;
            waiting.await.expect("published after the restart");
            published.push(body);
        }
        let mut messages = consumer(&nsqd).max_in_flight(100).stream().expect("a consumer");
        let seen: BTreeSet<String> =
            take_and_finish(&mut messages, published.len()).await.into_iter().collect();
        assert_eq!(seen, published.into_iter().collect());
    });
}

#[test]
fn producer_with_two_nsqds_fails_over() {
    test(async {
        let mut nsqds = [Daemon::nsqd().start().await, Daemon::nsqd().start().await];
        let addresses: Vec<String> = nsqds.iter().map(|nsqd| nsqd.tcp().to_string()).collect();
        let producer = Producer::builder().nsqd(addresses.clone()).build().expect("addresses");
        let receipt = producer.publish("t", "to the first").await.expect("published");
        assert_eq!(*receipt.node, *addresses[0]);
        nsqds[0].kill().await;
        let receipt = producer.publish("t", "to the second").await.expect("published");
        assert_eq!(*receipt.node, *addresses[1]);
    });
}

#[test]
fn many_tasks_share_a_producer() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let producer = producer(&nsqd);
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..50 {
            let producer = producer.clone();
            tasks.spawn(async move {
                for n in 0..100 {
                    producer
                        .publish(format!("topic_{}", task % 5), format!("{task}/{n}"))
                        .await
                        .expect("published");
                }
            });
        }
        tasks.join_all().await;
        let topics = nsqd.topics().await;
        assert_eq!(topics.len(), 5);
        assert!(topics.iter().all(|topic| topic.message_count == 1000), "{topics:?}");
    });
}

// Consuming

#[test]
fn handler_result_decides_the_answer() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        producer(&nsqd).publish_many("t", ["finish", "requeue", "fail", "give up"]).await.expect("published");
        let (seen_tx, mut seen) = mpsc::unbounded_channel();
        let handler = move |message: Delivery| {
            let seen_tx = seen_tx.clone();
            async move {
                let body = String::from_utf8_lossy(message.body()).into_owned();
                let _ = seen_tx.send((body.clone(), message.attempts()));
                match (&body[..], message.attempts()) {
                    ("requeue", 1) => {
                        let delay = Requeue::After(Duration::from_millis(50));
                        Ok(Outcome::Requeue { delay, backoff: false })
                    }
                    ("fail", 1) => Err("an error"),
                    ("give up", _) => Ok(Outcome::give_up("told to")),
                    _ => Ok(Outcome::Finish),
                }
            }
        };
        let consumer = consumer(&nsqd)
            .concurrency(4)
            .set("default_requeue_delay", "100ms")
            .and_then(|builder| builder.set("backoff_multiplier", "100ms"))
            .expect("options")
            .handler(handler)
            .start()
            .expect("a consumer");
        let mut deliveries: BTreeMap<String, Vec<u16>> = BTreeMap::new();
        for _ in 0..6 {
            let (body, attempts) = tokio::time::timeout(PATIENCE, seen.recv())
                .await
                .expect("a delivery in time")
                .expect("a delivery");
            deliveries.entry(body).or_default().push(attempts);
        }
        assert_eq!(deliveries["finish"], [1]);
        assert_eq!(deliveries["requeue"], [1, 2]);
        assert_eq!(deliveries["fail"], [1, 2]);
        assert_eq!(deliveries["give up"], [1]);
        let channel = nsqd.channel_until_finished("t", "c").await;
        assert_eq!(channel.requeue_count, 2);
        let stats = consumer.stats();
        assert_eq!((stats.received, stats.finished, stats.requeued, stats.gave_up), (6, 4, 2, 1));
        consumer.shutdown(PATIENCE).await;
    });
}

#[test]
fn dropped_message_is_requeued_and_touched_message_stays_in_flight() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        producer(&nsqd).publish("t", "x").await.expect("published");
        let mut messages =
            consumer(&nsqd).set("msg_timeout", "3s").expect("an option").stream().expect("a consumer");
        drop(next(&mut messages).await);
        let again = next(&mut messages).await;
        assert_eq!(again.attempts(), 2);
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(4500) {
            again.touch().expect("the message has not timed out");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        again.finish().expect("the message has not timed out");
        let channel = nsqd.channel_until_finished("t", "c").await;
        assert_eq!((channel.requeue_count, channel.timeout_count), (1, 0));
    });
}

#[test]
fn message_is_given_up_after_max_attempts() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        producer(&nsqd).publish("t", "always fails").await.expect("published");
        let handled = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&handled);
        let consumer = consumer(&nsqd)
            .max_attempts(3)
            .set("default_requeue_delay", "10ms")
            .and_then(|builder| builder.set("backoff_multiplier", "10ms"))
            .expect("options")
            .handler(move |_: Delivery| {
                count.fetch_add(1, Ordering::Relaxed);
                async { Err::<(), _>("always") }
            })
            .start()
            .expect("a consumer");
        wait::until("the message is given up", async || {
            wait::when(consumer.stats(), |stats| stats.gave_up == 1)
        })
        .await;
        assert_eq!(handled.load(Ordering::Relaxed), 3);
        nsqd.channel_until_finished("t", "c").await;
        consumer.shutdown(PATIENCE).await;
    });
}

#[test]
fn a_consumer_stays_connected_while_its_handler_is_busy() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        producer(&nsqd).publish("t", "slow").await.expect("published");
        let (go, wait_for_go) = tokio::sync::watch::channel(false);
        let consumer = consumer(&nsqd)
            .set("heartbeat_interval", "1s")
            .expect("an option")
            .handler(move |_: Delivery| {
                let mut go = wait_for_go.clone();
                async move { drop(go.wait_for(|go| *go).await) }
            })
            .start()
            .expect("a consumer");
        consumer.wait_ready(PATIENCE).await.expect("subscribed");
        let address = async || {
            let channel = nsqd.channel("t", "c").await.expect("the channel exists");
            channel.clients.iter().map(|client| client.remote_address.clone()).collect::<Vec<_>>()
        };
        let (before, start) = (address().await, Instant::now());
        // Twice the time after which nsqd closes a silent client.
        let busy = async || wait::when(start.elapsed(), |elapsed| *elapsed > Duration::from_secs(4));
        wait::until("the handler has been busy for 4 s", busy).await;
        assert_eq!(address().await, before);
        go.send(true).expect("the handler waits");
        nsqd.channel_until_finished("t", "c").await;
        consumer.shutdown(PATIENCE).await;
    });
}

#[test]
fn shutdown_finishes_running_handlers() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        producer(&nsqd).publish_many("t", numbered(50)).await.expect("published");
        let started = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&started);
        let consumer = consumer(&nsqd)
            .concurrency(5)
            .max_in_flight(10)
            .handler(move |_: Delivery| {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(300))
            })
            .start()
            .expect("a consumer");
        let is_busy = async || wait::when(started.load(Ordering::Relaxed), |count| *count >= 5);
        wait::until("five messages are being handled", is_busy).await;
        let report = consumer.shutdown(PATIENCE).await;
        assert_eq!(report.abandoned, 0, "{report:?}");
        let handled = started.load(Ordering::Relaxed) as u64;
        let stats = consumer.stats();
        assert_eq!(stats.finished, handled, "every handled message is finished");
        let channel = nsqd
            .channel_until("t", "c", "the consumer has disconnected", |channel| channel.client_count == 0)
            .await;
        assert_eq!((channel.in_flight_count, channel.depth), (0, 50 - handled));
    });
}

#[test]
fn max_in_flight_of_one_serves_three_nsqds() {
    test_within(Duration::from_secs(120), async {
        let nsqds =
            [Daemon::nsqd().start().await, Daemon::nsqd().start().await, Daemon::nsqd().start().await];
        for nsqd in &nsqds {
            producer(nsqd).publish_many("t", numbered(5)).await.expect("published");
        }
        let addresses: Vec<String> = nsqds.iter().map(|nsqd| nsqd.tcp().to_string()).collect();
        let mut messages =
            Consumer::builder("t", "c").nsqd(addresses).max_in_flight(1).stream().expect("a consumer");
        let mut nodes = BTreeMap::<String, usize>::new();
        for _ in 0..15 {
            let message = tokio::time::timeout(Duration::from_secs(30), messages.next());
            let message = message.await.expect("every nsqd is served").expect("the consumer runs");
            *nodes.entry(message.node().to_owned()).or_default() += 1;
            let in_flight = messages.consumer().stats().in_flight;
            assert!(in_flight <= 1, "{in_flight} in flight");
            message.finish().expect("the connection is open");
        }
        assert_eq!(nodes.values().copied().collect::<Vec<_>>(), [5, 5, 5]);
    });
}

#[test]
fn pausing_stops_delivery_and_resuming_starts_it() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut messages = consumer(&nsqd).max_in_flight(10).stream().expect("a consumer");
        messages.consumer().wait_ready(PATIENCE).await.expect("subscribed");
        messages.consumer().pause();
        let paused = |channel: &stats::Channel| channel.clients[0].ready_count == 0;
        nsqd.channel_until("t", "c", "RDY is 0", paused).await;
        producer(&nsqd).publish("t", "x").await.expect("published");
        assert!(tokio::time::timeout(Duration::from_millis(250), messages.next()).await.is_err());
        messages.consumer().resume();
        take_and_finish(&mut messages, 1).await;
    });
}

#[test]
fn consumer_survives_nsqd_restarts() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        let producer = producer(&nsqd);
        let mut messages = consumer(&nsqd).max_in_flight(10).stream().expect("a consumer");
        for round in 0..3 {
            producer.publish("t", format!("{round}")).await.expect("published");
            assert_eq!(take_and_finish(&mut messages, 1).await, [round.to_string()]);
            nsqd.channel_until_finished("t", "c").await;
            assert!(nsqd.terminate().await.success());
            nsqd.restart().await;
        }
    });
}

#[test]
fn consumer_discovers_nsqds_and_survives_the_loss_of_lookupds_and_nsqds() {
    test_within(Duration::from_secs(120), async {
        let mut lookupds = vec![Daemon::lookupd().start().await, Daemon::lookupd().start().await];
        let start = async || Daemon::nsqd().lookupd(&lookupds[0]).lookupd(&lookupds[1]).start().await;
        let mut nsqds = vec![start().await, start().await, start().await];
        let late = start().await;
        for nsqd in &nsqds {
            nsqd.admin("/topic/create?topic=t").await;
        }
        let mut messages = discovering(&lookupds).max_in_flight(30).stream().expect("a consumer");
        let mut round = 0;
        let mut from_each = async |nsqds: &[Daemon]| {
            round += 1;
            let mut expected = BTreeSet::new();
            for (n, nsqd) in nsqds.iter().enumerate() {
                nsqd.channel_until("t", "c", "the consumer has subscribed", |channel| {
                    channel.client_count == 1
                })
                .await;
                let body = format!("{round}/{n}");
                nsqd.publish("t", &body).await;
                expected.insert(body);
            }
            let seen: BTreeSet<String> =
                take_and_finish(&mut messages, nsqds.len()).await.into_iter().collect();
            assert_eq!(seen, expected);
        };
        from_each(&nsqds).await;
        lookupds.remove(0).kill().await;
        from_each(&nsqds).await;
        nsqds.remove(1).kill().await;
        from_each(&nsqds).await;
        // The remaining lookupd reports a node that gets the topic later.
        late.admin("/topic/create?topic=t").await;
        nsqds.push(late);
        from_each(&nsqds).await;
    });
}

#[test]
fn consumer_reports_events() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        let mut messages = consumer(&nsqd).stream().expect("a consumer");
        let mut events = messages.consumer().events();
        messages.consumer().wait_ready(PATIENCE).await.expect("subscribed");
        nsqd.kill().await;
        let lost = async {
            loop {
                if let Event::Disconnected { node, .. } = events.recv().await.expect("an event") {
                    return node;
                }
            }
        };
        let node = tokio::time::timeout(PATIENCE, lost).await.expect("the loss is reported");
        assert_eq!(*node, *nsqd.tcp().to_string());
        nsqd.restart().await;
        nsqd.publish("t", "x").await;
        take_and_finish(&mut messages, 1).await;
    });
}

// HTTP

#[test]
fn administration_has_typed_calls() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        let nsqd = Daemon::nsqd().lookupd(&lookupd).start().await;
        let node = NsqdClient::new(nsqd.http().to_string()).expect("an address");
        let directory = LookupdClient::new(lookupd.http().to_string()).expect("an address");
        node.ping().await.expect("alive");
        assert_eq!(node.info().await.expect("info").tcp_port, i64::from(nsqd.tcp().port()));
        node.create_topic("t").await.expect("created");
        node.create_channel("t", "c").await.expect("created");
        node.publish("t", "x").await.expect("published");
        node.publish_many("t", &["y", "z"]).await.expect("published");
        node.pause_channel("t", "c").await.expect("paused");
        let stats = node.stats(&StatsQuery::default()).await.expect("stats");
        let topics = stats.topics.expect("topics");
        assert_eq!((topics[0].channels[0].depth, topics[0].channels[0].paused), (3, true));
        node.empty_channel("t", "c").await.expect("emptied");

        let check =
            async || wait::when(directory.channels("t").await.expect("channels"), |names| names == &["c"]);
        wait::until("lookupd knows the channel", check).await;
        let found = directory.lookup("t").await.expect("found");
        assert_eq!(found.producers[0].tcp_port, nsqd.tcp().port());
        assert_eq!(directory.nodes().await.expect("nodes").producers.len(), 1);

        let unknown = node.delete_topic("unknown").await.expect_err("the topic does not exist");
        assert!(unknown.is_not_found(), "{unknown}");
        node.delete_topic("t").await.expect("deleted");
        assert!(nsqd.topics().await.is_empty());
    });
}

// AUTH

#[test]
fn secret_grants_its_permissions() {
    test(async {
        let allowed = serde_json::json!([authorization("^t$", &["^c$", "^$"], &["publish", "subscribe"])]);
        let server = AuthServer::allowing(3600, allowed).await;
        let nsqd = Daemon::nsqd().flag(server.flag()).flag("--http-auth").start().await;
        let address = nsqd.tcp().to_string();
        let config = || nsq::Config::new().publish_timeout(Duration::from_secs(3));

        let folder = tempfile::TempDir::with_prefix("nsq-tests-").expect("a temporary directory");
        let file = folder.path().join("secret");
        std::fs::write(&file, "of the file\n").expect("the file is writable");
        let secrets =
            [config().auth_secret(nsq::Secret::from("a secret")), config().auth_secret_file(file.clone())];
        for config in secrets {
            let producer = Producer::builder()
                .nsqd(&address)
                .config(config.clone())
                .build()
                .expect("a valid configuration");
            producer.publish("t", "x").await.expect("published");
            let refused = producer.publish("u", "x").await.expect_err("not allowed");
            assert!(refused.to_string().contains("E_UNAUTHORIZED"), "{refused}");
            let mut messages = consumer(&nsqd).config(config).stream().expect("a valid configuration");
            assert_eq!(take_and_finish(&mut messages, 1).await, ["x"]);
        }
        let asked = server.asked();
        assert!(asked.iter().any(|asked| asked.request.contains("secret=a+secret&")), "{asked:?}");
        assert!(asked.iter().any(|asked| asked.request.contains("secret=of+the+file&")), "{asked:?}");

        let without =
            Producer::builder().nsqd(&address).config(config()).build().expect("a valid configuration");
        let error = without.publish("t", "x").await.expect_err("no secret").to_string();
        assert!(error.contains("nsqd requires AUTH"), "{error}");
        server.answer(Answer::Status(403, String::new()));
        let unknown = config().auth_secret(nsq::Secret::from("unknown"));
        let unknown =
            Producer::builder().nsqd(&address).config(unknown).build().expect("a valid configuration");
        let error = unknown.publish("t", "x").await.expect_err("an unknown secret").to_string();
        assert!(error.contains("E_AUTH_FAILED") && !error.contains("unknown"), "{error}");

        server.answer(allowing(3600, serde_json::json!([])));
        let http = NsqdClient::new(nsqd.http().to_string()).expect("an address");
        let refused = http.info().await.expect_err("no token").to_string();
        assert!(refused.contains("UNAUTHORIZED"), "{refused}");
        http.token(Some(nsq::Secret::from("a secret"))).info().await.expect("any token is accepted");
    });
}

#[test]
fn consumer_is_starved_when_most_of_what_it_may_have_is_unanswered() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut messages = consumer(&nsqd).max_in_flight(4).stream().expect("valid settings");
        let publisher = producer(&nsqd);
        let mut taken = Vec::new();
        for count in 1..=4 {
            publisher.publish("t", format!("message {count}")).await.expect("nsqd accepts it");
            taken.push(next(&mut messages).await);
            assert_eq!(messages.consumer().is_starved(), count == 4, "{count} of 4");
        }
        taken.pop().map(nsq::Message::finish).expect("four messages").expect("the connection is open");
        assert!(!messages.consumer().is_starved());
        for message in taken {
            message.finish().expect("the connection is open");
        }
        messages.consumer().shutdown(PATIENCE).await;
    });
}
