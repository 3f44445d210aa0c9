//! NSQ's existing client libraries, unchanged, against our daemons.

use std::collections::BTreeSet;
use std::time::Duration;

use nsq_tests::auth_server::{AuthServer, authorization};
use nsq_tests::foreign::{self, Library};
use nsq_tests::wire::bodies;
use nsq_tests::{Certificates, Daemon, test_within, wait};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(120);

/// Runs `body` for each library, one after the other, unless foreign clients are left out.
pub fn with_each_library(body: impl AsyncFn(Library)) {
    if foreign::left_out() {
        println!("left out: NSQ_TESTS_NO_FOREIGN is set");
        return;
    }
    test_within(DEADLINE, async {
        for library in Library::ALL {
            eprintln!("--- {library:?}");
            body(library).await;
        }
    });
}

fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n}")).collect()
}

#[test]
fn clients_publish() {
    with_each_library(async |library| {
        let nsqd = Daemon::nsqd().start().await;
        let address = nsqd.tcp().to_string();
        let publish = async |arguments: &[&str]| {
            let all = [&["--nsqd", &address, "--topic", "t"], arguments].concat();
            let answers = library.run("publish", &all).finish().await;
            answers.iter().map(|answer| answer["count"].as_u64().expect("a count")).sum::<u64>()
        };
        assert_eq!(publish(&["--count", "50", "--prefix", "single-"]).await, 50);
        assert_eq!(publish(&["--count", "50", "--prefix", "batch-", "--batch", "10"]).await, 50);
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(100).await;
        let expected = [numbered("single-", 50), numbered("batch-", 50)].concat();
        assert_eq!(bodies(&consumer.consume(100).await), expected);
    });
}

#[test]
fn clients_consume_and_finish() {
    with_each_library(async |library| {
        let nsqd = Daemon::nsqd().start().await;
        let address = nsqd.tcp().to_string();
        nsqd.connect().await.publish_batch("t", &numbered("message-", 200)).await;
        let mut program = library.run(
            "consume",
            &[
                "--nsqd",
                &address,
                "--topic",
                "t",
                "--channel",
                "c",
                "--count",
                "200",
                "--max-in-flight",
                "20",
            ],
        );
        assert_eq!(program.bodies(200).await, numbered("message-", 200));
        program.finish().await;
        let channel = nsqd.channel_until_finished("t", "c").await;
        assert_eq!((channel.requeue_count, channel.timeout_count), (0, 0));
    });
}

#[test]
fn clients_consume_what_they_publish() {
    with_each_library(async |library| {
        let nsqd = Daemon::nsqd().start().await;
        let address = nsqd.tcp().to_string();
        let mut consumer =
            library.run("consume", &["--nsqd", &address, "--topic", "t", "--channel", "c", "--count", "30"]);
        nsqd.channel_until("t", "c", "the client has subscribed", |channel| channel.client_count == 1).await;
        library.run("publish", &["--nsqd", &address, "--topic", "t", "--count", "30"]).finish().await;
        assert_eq!(consumer.bodies(30).await, numbered("message-", 30));
        consumer.finish().await;
    });
}

/// Messages arrive with every combination of TLS and compression, and nsqd uses the requested one.
#[test]
fn clients_use_tls_and_compression() {
    with_each_library(async |library| {
        let certificates = Certificates::new();
        let nsqd = Daemon::nsqd().tls(&certificates).start().await;
        let address = nsqd.tcp().to_string();
        let authority = certificates.path("ca.pem");
        let tls = ["--tls-ca", authority.as_str()];
        for (topic, upgrades) in [
            ("tls", &tls[..]),
            ("snappy", &["--compression", "snappy"]),
            ("deflate", &["--compression", "deflate"]),
            ("tls-snappy", &[tls[0], tls[1], "--compression", "snappy"]),
            ("tls-deflate", &[tls[0], tls[1], "--compression", "deflate"]),
        ] {
            eprintln!("--- --- {topic}");
            let common = ["--nsqd", &address, "--topic", topic, "--count", "30"];
            let mut consumer = library.run("consume", &[&common, &["--channel", "c"][..], upgrades].concat());
            let subscribed = nsqd
                .channel_until(topic, "c", "the client has subscribed", |channel| channel.client_count == 1)
                .await;
            let client = &subscribed.clients[0];
            let expected = (topic.contains("tls"), topic.contains("snappy"), topic.contains("deflate"));
            assert_eq!((client.tls, client.snappy, client.deflate), expected);
            let single = library.run("publish", &[&common, upgrades].concat());
            single.finish().await;
            assert_eq!(consumer.bodies(30).await, numbered("message-", 30));
            consumer.finish().await;
            let batches = library.run("publish", &[&common, &["--batch", "10"][..], upgrades].concat());
            batches.finish().await;
            let mut reader = nsqd.subscribe(topic, "c").await;
            reader.ready(30).await;
            assert_eq!(bodies(&reader.consume(30).await), numbered("message-", 30));
        }
    });
}

/// Each library authenticates, in plain text and over TLS, and works within its permissions.
#[test]
fn clients_publish_and_consume_with_auth() {
    with_each_library(async |library| {
        let certificates = Certificates::new();
        let allowed = json!([authorization("^t$", &["^c$", "^$"], &["publish", "subscribe"])]);
        let server = AuthServer::allowing(3600, allowed).await;
        let nsqd = Daemon::nsqd().tls(&certificates).flag(server.flag()).start().await;
        let address = nsqd.tcp().to_string();
        let authority = certificates.path("ca.pem");
        for over in [&[][..], &["--tls-ca", &authority]] {
            let common = [&["--nsqd", &address, "--count", "30", "--auth-secret", "secret"], over].concat();
            let run = |name, arguments: &[&str]| library.run(name, &[&common, arguments].concat());
            let mut consumer = run("consume", &["--topic", "t", "--channel", "c"]);
            let subscribed = nsqd
                .channel_until("t", "c", "the client has subscribed", |channel| channel.client_count == 1)
                .await;
            let client = &subscribed.clients[0];
            assert_eq!((client.authed, client.auth_identity.as_str()), (true, "tester"));
            run("publish", &["--topic", "t"]).finish().await;
            assert_eq!(consumer.bodies(30).await, numbered("message-", 30));
            consumer.finish().await;
        }
        let asked = server.asked();
        assert!(asked.iter().all(|asked| asked.request.contains("&secret=secret&")), "{asked:?}");
        assert!(asked.iter().any(|asked| asked.request.ends_with("&tls=true")), "{asked:?}");
        nsqd.channel_until_finished("t", "c").await;
    });
}

#[test]
fn clients_requeue_with_a_delay() {
    with_each_library(async |library| {
        let nsqd = Daemon::nsqd().start().await;
        let address = nsqd.tcp().to_string();
        nsqd.connect().await.publish_batch("t", &numbered("message-", 5)).await;
        let mut program = library.run(
            "consume",
            &["--nsqd", &address, "--topic", "t", "--channel", "c", "--count", "5", "--requeue-ms", "600"],
        );
        let mut first_seen = std::collections::HashMap::new();
        for _ in 0..10 {
            let message = program.next("message").await;
            let id = message["id"].as_str().expect("an id").to_owned();
            let at = message["at"].as_f64().expect("a time in seconds");
            match message["attempts"].as_u64() {
                Some(1) => assert!(first_seen.insert(id, at).is_none(), "delivered twice"),
                Some(2) => {
                    let first = first_seen.remove(&id).expect("an earlier delivery");
                    assert!(at - first >= 0.59, "redelivered after {} seconds", at - first);
                }
                other => panic!("attempts {other:?}"),
            }
        }
        program.finish().await;
        let channel = nsqd.channel_until_finished("t", "c").await;
        assert_eq!((channel.requeue_count, channel.timeout_count), (5, 0));
    });
}

#[test]
fn clients_publish_deferred_messages() {
    with_each_library(async |library| {
        let nsqd = Daemon::nsqd().start().await;
        let address = nsqd.tcp().to_string();
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(10).await;
        let program = library
            .run("publish", &["--nsqd", &address, "--topic", "t", "--count", "3", "--defer-ms", "1500"]);
        program.finish().await;
        for message in consumer.consume(3).await {
            let published = u64::try_from(message.timestamp).expect("a time after 1970");
            let now = std::time::UNIX_EPOCH.elapsed().expect("a time after 1970");
            let waited = now - Duration::from_nanos(published);
            assert!(waited >= Duration::from_millis(1450), "after {waited:?}");
        }
    });
}

#[test]
fn clients_stay_connected_while_idle() {
    with_each_library(async |library| {
        let nsqd = Daemon::nsqd().start().await;
        let address = nsqd.tcp().to_string();
        let mut program = library.run(
            "consume",
            &[
                "--nsqd",
                &address,
                "--topic",
                "t",
                "--channel",
                "c",
                "--count",
                "1",
                "--heartbeat-seconds",
                "1",
            ],
        );
        let subscribed = nsqd
            .channel_until("t", "c", "the client has subscribed", |channel| channel.client_count == 1)
            .await;
        // nsqd closes a client that is silent for two heartbeat intervals; this client is idle for five.
        let connected_at = subscribed.clients[0].connect_ts;
        let idle = async || {
            let now = std::time::UNIX_EPOCH.elapsed().expect("a time after 1970").as_secs();
            wait::when(now - connected_at, |seconds| *seconds >= 6)
        };
        wait::until("five heartbeats have passed", idle).await;
        let still = nsqd.channel("t", "c").await.expect("the channel exists");
        assert_eq!(still.clients.len(), 1);
        assert_eq!(
            still.clients[0].remote_address, subscribed.clients[0].remote_address,
            "the client did not reconnect"
        );
        if library == Library::Pynsq {
            program.next("heartbeat").await;
        }
        nsqd.publish("t", "after the silence").await;
        assert_eq!(program.bodies(1).await, ["after the silence"]);
        program.finish().await;
    });
}

#[test]
fn clients_discover_nsqds_and_survive_the_loss_of_a_lookupd_and_an_nsqd() {
    with_each_library(async |library| {
        let mut lookupds = vec![Daemon::lookupd().start().await, Daemon::lookupd().start().await];
        let mut nsqds = Vec::new();
        for _ in 0..3 {
            let nsqd = Daemon::nsqd().lookupd(&lookupds[0]).lookupd(&lookupds[1]).start().await;
            nsqd.admin("/topic/create?topic=t").await;
            nsqds.push(nsqd);
        }
        for lookupd in &lookupds {
            let known = async || {
                let answer = lookupd.get("/lookup?topic=t").await;
                if answer.status != 200 {
                    return Err(0);
                }
                let count = answer.json()["producers"].as_array().map_or(0, Vec::len);
                wait::when(count, |count| *count == 3)
            };
            wait::until("all nsqds are known", known).await;
        }
        let addresses: Vec<String> = lookupds.iter().map(|lookupd| lookupd.http().to_string()).collect();
        let mut consumer = library.run(
            "consume",
            &[
                "--lookupd",
                &addresses[0],
                "--lookupd",
                &addresses[1],
                "--topic",
                "t",
                "--channel",
                "c",
                "--count",
                "16",
                "--max-in-flight",
                "30",
            ],
        );
        let mut publish = async |nsqds: &[Daemon], round: &str| {
            let mut expected = BTreeSet::new();
            for (n, nsqd) in nsqds.iter().enumerate() {
                nsqd.channel_until("t", "c", "the client has subscribed", |channel| {
                    channel.client_count == 1
                })
                .await;
                for m in 0..2 {
                    let body = format!("{round} {n} {m}");
                    nsqd.publish("t", &body).await;
                    expected.insert(body);
                }
            }
            let seen: BTreeSet<String> = consumer.bodies(expected.len()).await.into_iter().collect();
            assert_eq!(seen, expected);
        };
        publish(&nsqds, "all").await; // 6

        lookupds.remove(0).kill().await;
        publish(&nsqds, "without a lookupd").await; // 12

        nsqds.remove(0).kill().await;
        publish(&nsqds, "without an nsqd").await; // 16
        consumer.finish().await;
    });
}
