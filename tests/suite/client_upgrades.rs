//! The client library over TLS, snappy and deflate, and certificate rotation under load.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nsq::admin::{NsqdClient, StatsQuery};
use nsq::{Config, ConnectError, ConnectStage, Consumer, Disconnect, Producer, Tls};
use nsq_tests::{Certificates, Daemon, test, wait};
use rustix::process::Signal;
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(15);

/// A client that trusts the authority; with a `name` it presents that certificate.
fn tls(certificates: &Certificates, name: Option<&str>) -> Config {
    let mut config = Config::new().tls_v1(true).tls_root_ca_file(Some(certificates.path("ca.pem").into()));
    if let Some(name) = name {
        config = config
            .tls_cert(Some(certificates.path(&format!("{name}.pem")).into()))
            .tls_key(Some(certificates.path(&format!("{name}.key")).into()));
    }
    config
}

fn producer(nsqd: &Daemon, config: Config) -> Producer {
    Producer::builder().nsqd(nsqd.tcp().to_string()).config(config).build().expect("a producer")
}

/// Connects a consumer and a producer, which must both succeed or both fail.
async fn connect(nsqd: &Daemon, config: Config) -> Result<nsq::ServerInfo, ConnectError> {
    let consumer = Consumer::builder("t", "c#ephemeral").nsqd(nsqd.tcp().to_string()).config(config.clone());
    let messages = consumer.stream().expect("a consumer");
    let ready = messages.consumer().wait_ready(PATIENCE).await;
    let connected = producer(nsqd, config).ping().await;
    assert_eq!(ready.is_ok(), connected.is_ok(), "{ready:?}, {connected:?}");
    connected
}

#[test]
fn all_combinations_of_tls_and_compression_work() {
    test(async {
        let certificates = Certificates::new();
        let nsqd = Daemon::nsqd().tls(&certificates).start().await;
        let bodies: Vec<String> = (0..2000)
            .map(|n| format!("{n} {}", "x".repeat(n * 7 % 3000)))
            .chain(["y".repeat(900_000)])
            .collect();
        for is_tls in [false, true] {
            for (topic, snappy, deflate) in
                [("plain", false, false), ("snappy", true, false), ("deflate", false, true)]
            {
                eprintln!("--- tls: {is_tls}, {topic}");
                let base = if is_tls { tls(&certificates, None) } else { Config::new() };
                let config = base.snappy(snappy).deflate(deflate).deflate_level(3u8);
                let producer = producer(&nsqd, config.clone());
                let server = producer.ping().await.expect("connected");
                assert_eq!((server.tls, server.snappy, server.deflate), (is_tls, snappy, deflate));
                let mut messages = Consumer::builder(topic, "c")
                    .nsqd(nsqd.tcp().to_string())
                    .config(config.max_in_flight(Some(100)))
                    .stream()
                    .expect("a consumer");
                messages.consumer().wait_ready(PATIENCE).await.expect("subscribed");
                let sent: Vec<_> = (bodies.iter().cloned())
                    .map(|body| producer.send(topic, body).expect("the queue has room"))
                    .collect();
                for expected in &bodies {
                    let message = tokio::time::timeout(PATIENCE, messages.next()).await;
                    let message = message.expect("a message in time").expect("the consumer runs");
                    assert!(message.body() == expected.as_bytes(), "the body differs");
                    message.finish().expect("the connection is open");
                }
                for publish in sent {
                    publish.await.expect("published");
                }
                let channel = nsqd.channel_until_finished(topic, "c").await;
                let client = &channel.clients[0];
                assert_eq!((client.tls, client.snappy, client.deflate), (is_tls, snappy, deflate));
                nsqd.admin(&format!("/topic/delete?topic={topic}")).await;
            }
        }
    });
}

#[test]
fn client_certificates_follow_the_server_policy() {
    test(async {
        let certificates = Certificates::new();
        certificates.self_sign("stranger");
        for (policy, [none, good, stranger]) in [
            ("request", [true, true, true]),
            ("require", [false, true, true]),
            ("verify-if-given", [true, true, false]),
            ("require-verify", [false, true, false]),
        ] {
            eprintln!("--- {policy}");
            let root = format!("--tls-root-ca-file={}", certificates.path("ca.pem"));
            let start = Daemon::nsqd().tls(&certificates).flag(root);
            let nsqd = start.flag(format!("--tls-client-auth-policy={policy}")).start().await;
            for (name, accepted) in [(None, none), (Some("client"), good), (Some("stranger"), stranger)] {
                let connected = connect(&nsqd, tls(&certificates, name)).await;
                assert_eq!(connected.is_ok(), accepted, "{name:?}: {connected:?}");
                if let Err(error) = connected {
                    assert_eq!(error.stage, ConnectStage::Tls, "{error}");
                }
                // The plain port names the HTTPS port, and the client presents the same certificate there.
                let admin = NsqdClient::new(nsqd.http().to_string()).expect("an address");
                let admin = admin.tls(Tls::new(&tls(&certificates, name)).expect("certificates"));
                let stats = admin.stats(&StatsQuery::default()).await;
                assert_eq!(stats.is_ok(), accepted, "{name:?}: {stats:?}");
                let address = format!("https://localhost:{}", nsqd.https().await.port());
                let admin = NsqdClient::new(address).expect("an address");
                let admin = admin.tls(Tls::new(&tls(&certificates, name)).expect("certificates"));
                assert_eq!(admin.publish("t", "over https").await.is_ok(), accepted);
            }
        }
    });
}

#[test]
fn x509_version_1_server_certificate_needs_skip_verify() {
    test(async {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tls/tests/certificates");
        let file = |name: &str| folder.join(name);
        for policy in ["require", "require-verify"] {
            let start = Daemon::nsqd().flag(format!("--tls-cert={}", file("version-1-rsa.pem").display()));
            let start = start.flag(format!("--tls-key={}", file("version-1-rsa.key").display()));
            let start = start.flag(format!("--tls-root-ca-file={}", file("ca.pem").display()));
            let nsqd = start.flag(format!("--tls-client-auth-policy={policy}")).start().await;
            let config = Config::new()
                .tls_v1(true)
                .tls_cert(Some(file("version-1-ec.pem")))
                .tls_key(Some(file("version-1-ec.key")))
                .tls_root_ca_file(Some(file("ca.pem")));
            let connected = connect(&nsqd, config.clone().tls_insecure_skip_verify(true)).await;
            assert!(connected.expect("a connection").tls);
            // A version 1 certificate names no host.
            let error = connect(&nsqd, config).await.expect_err("the certificate is not trusted");
            assert_eq!(error.stage, ConnectStage::Tls, "{error}");
            assert!(error.to_string().contains("version 1, which names no hosts"), "{error}");
        }
    });
}

#[test]
fn client_rejects_untrusted_certificates() {
    test(async {
        let certificates = Certificates::new();
        let nsqd = Daemon::nsqd().tls(&certificates).flag("--tls-min-version=tls1.3").start().await;
        let refused = async |config: Config, reason: &str| {
            let error = connect(&nsqd, config).await.expect_err("the certificate is not trusted");
            assert_eq!(error.stage, ConnectStage::Tls, "{error}");
            assert!(error.to_string().contains(reason), "{error}");
        };
        let right = || tls(&certificates, None);
        assert!(connect(&nsqd, right()).await.expect("the certificate is trusted").tls);
        let strangers = Certificates::new();
        // This authority has the same name but another key.
        refused(tls(&strangers, None), "BadSignature").await;
        refused(Config::new().tls_v1(true).tls_root_ca_file(None), "UnknownIssuer").await;
        refused(right().tls_server_name(Some("nsqd.example".to_owned())), "not valid for name").await;
        connect(&nsqd, right().tls_server_name(Some("localhost".to_owned())))
            .await
            .expect("one of the certificate's names");
        connect(&nsqd, tls(&strangers, None).tls_insecure_skip_verify(true))
            .await
            .expect("any certificate is accepted");
        let https = format!("https://{}", nsqd.https().await);
        let admin = |config: &Config| {
            NsqdClient::new(&https).expect("an address").tls(Tls::new(config).expect("certificates"))
        };
        admin(&right()).ping().await.expect("the certificate is trusted");
        assert!(admin(&tls(&strangers, None)).ping().await.is_err());
        assert!(admin(&right().tls_server_name(Some("nsqd.example".to_owned()))).ping().await.is_err());
        admin(&right().tls_insecure_skip_verify(true)).ping().await.expect("any certificate is accepted");
    });
}

#[test]
fn self_signed_certificate_works_as_its_own_authority() {
    test(async {
        let certificates = Certificates::new();
        certificates.self_sign_as_authority("server");
        let nsqd = Daemon::nsqd().tls(&certificates).start().await;
        let trusting = |file: &str| {
            let path = std::path::PathBuf::from(certificates.path(file));
            Config::new().tls_v1(true).tls_root_ca_file(Some(path))
        };
        connect(&nsqd, trusting("server.pem")).await.expect("the certificate is trusted");
        let wrong_name = trusting("server.pem").tls_server_name(Some("nsqd.example".to_owned()));
        for config in [trusting("ca.pem"), wrong_name] {
            let error = connect(&nsqd, config).await.expect_err("the certificate is not trusted");
            assert_eq!(error.stage, ConnectStage::Tls, "{error}");
        }
    });
}

#[test]
fn requested_tls_is_mandatory_and_compression_is_not() {
    test(async {
        let certificates = Certificates::new();
        let nsqd = Daemon::nsqd().flag("--snappy=false").flag("--deflate=false").start().await;
        let declined = connect(&nsqd, tls(&certificates, None)).await.expect_err("there is no TLS");
        assert!(matches!(declined.cause, Disconnect::Declined("TLS")), "{declined}");
        let server = connect(&nsqd, Config::new().snappy(true)).await.expect("connected");
        assert_eq!((server.tls, server.snappy), (false, false));

        let nsqd = Daemon::nsqd().tls(&certificates).flag("--tls-required").start().await;
        let refused = producer(&nsqd, Config::new()).publish("t", "x").await.expect_err("TLS is required");
        assert!(
            refused.to_string().contains("E_INVALID cannot PUB in current state (TLS required)"),
            "{refused}"
        );
    });
}

/// The remote addresses of all connected clients.
async fn connections(nsqd: &Daemon) -> BTreeSet<String> {
    let stats = nsqd.get_json("/stats?format=json").await;
    let clients = stats["topics"][0]["channels"][0]["clients"].as_array().expect("clients").iter();
    let producers = stats["producers"].as_array().expect("producers").iter();
    let addresses =
        clients.chain(producers).map(|client| client["remote_address"].as_str().expect("an address"));
    addresses.map(str::to_owned).collect()
}

#[test]
fn certificate_rotation_under_load_interrupts_no_connection() {
    test(async {
        let certificates = Certificates::new();
        let nsqd = Daemon::nsqd().tls(&certificates).start().await;
        let forms = [(false, false), (true, false), (false, true)];
        let config =
            |(snappy, deflate): (bool, bool)| tls(&certificates, None).snappy(snappy).deflate(deflate);

        let received = Arc::new(AtomicU64::new(0));
        let mut consumers = Vec::new();
        for form in forms {
            let received = received.clone();
            let consumer = Consumer::builder("t", "c")
                .nsqd(nsqd.tcp().to_string())
                .config(config(form).max_in_flight(Some(50)))
                .handler(move |_: nsq::Delivery| {
                    received.fetch_add(1, Ordering::Relaxed);
                    async {}
                })
                .start()
                .expect("a consumer");
            consumer.wait_ready(PATIENCE).await.expect("subscribed");
            consumers.push(consumer);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let published = Arc::new(AtomicU64::new(0));
        let mut publishing = Vec::new();
        for form in forms {
            let (producer, stop, published) =
                (producer(&nsqd, config(form)), stop.clone(), published.clone());
            producer.publish("t", "first").await.expect("published");
            published.fetch_add(1, Ordering::Relaxed);
            publishing.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let receipt = producer.publish("t", "under load").await.expect("published");
                    assert_eq!(receipt.attempts, 1);
                    published.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                producer
            }));
        }
        let before = connections(&nsqd).await;
        assert_eq!(before.len(), 2 * forms.len());

        let shown = async || {
            let mut peer = nsqd.connect().await;
            peer.start_tls(json!({}), certificates.client(None)).await
        };
        let first = certificates.certificate("server");
        assert_eq!(shown().await, first);
        for round in 0..4 {
            certificates.issue("server");
            // Every other time nsqd gets a signal; otherwise it must notice the new file itself.
            if round % 2 == 0 {
                nsqd.signal(Signal::HUP);
            }
            let expected = certificates.certificate("server");
            assert_ne!(expected, first);
            let is_shown = async || wait::when(shown().await == expected, |is_shown| *is_shown);
            wait::until("new connections get the new certificate", is_shown).await;
            nsqd.get_https("/ping", certificates.client(None))
                .await
                .expect("HTTPS gets the new certificate")
                .expect(200);
        }
        let good = certificates.certificate("server");
        for (file, text) in [("server.pem", "no certificate"), ("server.key", "-----BEGIN")] {
            certificates.write(file, text);
            nsqd.signal(Signal::HUP);
            nsqd.log()
                .expect(
                    "ERROR: TLS: cannot reload the certificate, keeping the current one: no certificate in",
                )
                .await;
            assert_eq!(shown().await, good);
        }

        stop.store(true, Ordering::Relaxed);
        let mut producers = Vec::new();
        for task in publishing {
            producers.push(task.await.expect("every publish was answered"));
        }
        let channel = nsqd.channel_until_finished("t", "c").await;
        let published = published.load(Ordering::Relaxed);
        assert!(published > 100, "only {published} messages were published meanwhile");
        assert_eq!((channel.message_count, channel.requeue_count, channel.timeout_count), (published, 0, 0));
        assert_eq!(received.load(Ordering::Relaxed), published);
        assert_eq!(connections(&nsqd).await, before, "no client reconnected");
    });
}
