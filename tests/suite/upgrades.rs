use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use nsq_tests::upgrade::Form;
use nsq_tests::wire::{Frame, QUIET, bodies, command};
use nsq_tests::{Certificates, Daemon, Peer, http, process, test};
use rustix::process::Signal;
use serde_json::{Value, json};

const FORMS: [Option<Form>; 3] = [None, Some(Form::Snappy), Some(Form::Deflate)];

/// Sends IDENTIFY with feature negotiation; returns the reply.
async fn negotiate(peer: &mut Peer, mut request: Value) -> Value {
    request["feature_negotiation"] = true.into();
    peer.identify(request).await
}

#[test]
fn all_combinations_of_tls_and_compression_carry_all_sizes() {
    test(async {
        let certificates = Certificates::new();
        let nsqd = Daemon::nsqd().tls(&certificates).start().await;
        // Long bodies that compress well, a long body that does not, and short bodies.
        let noise: Vec<u8> = (0..1_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let sent = [vec![b'x'; 128_000], noise, b"short".to_vec(), vec![0; 1_000_000], vec![1]];
        for tls in [false, true] {
            for form in FORMS {
                eprintln!("--- tls: {tls}, {form:?}");
                let connect = async || {
                    let mut peer = nsqd.connect().await;
                    let mut request = json!({"feature_negotiation": true, "tls_v1": tls});
                    if let Some(form) = form {
                        request[form.name()] = true.into();
                    }
                    let reply = peer.identify(request).await;
                    assert_eq!(reply["tls_v1"], tls);
                    if tls {
                        let shown = peer.shake_hands(certificates.client(None)).await.expect("a handshake");
                        assert_eq!(shown, certificates.certificate("server"));
                        peer.ok().await;
                    }
                    if let Some(form) = form {
                        assert_eq!(reply[form.name()], true);
                        peer.compress(form);
                        peer.ok().await;
                    }
                    peer
                };
                let mut consumer = connect().await;
                consumer.subscribe("t", "c").await;
                consumer.ready(2).await;
                let mut producer = connect().await;
                for body in &sent {
                    producer.publish("t", body).await;
                }
                producer.publish_batch("t", &["a", "b"]).await;
                let received = consumer.consume(sent.len() + 2).await;
                for (received, sent) in received.iter().zip(&sent) {
                    assert!(received.body == sent[..], "{} bytes: the body differs", sent.len());
                }
                assert_eq!(bodies(&received[sent.len()..]), ["a", "b"]);
                let client = &nsqd.channel("t", "c").await.expect("a channel").clients[0];
                assert_eq!(
                    (client.tls, client.snappy, client.deflate),
                    (tls, form == Some(Form::Snappy), form == Some(Form::Deflate))
                );
                assert_eq!(client.tls_version, if tls { "TLS1.3" } else { "" });
                assert_eq!(client.tls_cipher_suite.starts_with("TLS_"), tls, "{}", client.tls_cipher_suite);
                assert_eq!(client.tls_negotiated_protocol_is_mutual, tls);
                nsqd.admin("/channel/delete?topic=t&channel=c").await;
            }
        }
    });
}

#[test]
fn compressed_output_is_flushed_at_once() {
    test(async {
        let certificates = Certificates::new();
        let nsqd = Daemon::nsqd().tls(&certificates).start().await;
        for form in [Form::Snappy, Form::Deflate] {
            let mut consumer = nsqd.connect().await;
            // The answer to SUB, heartbeats and single messages arrive although nothing follows them.
            consumer.start_tls(json!({"heartbeat_interval": 1000}), certificates.client(None)).await;
            consumer.start_compression(json!({"heartbeat_interval": 1000}), form).await;
            consumer.subscribe("t", form.name()).await;
            consumer.ready(10).await;
            for body in ["one", "two", "three"] {
                nsqd.publish("t", body).await;
                assert_eq!(bodies(&consumer.consume(1).await), [body]);
            }
            consumer.answers_heartbeats = false;
            assert_eq!(consumer.frame().await, Frame::Response("_heartbeat_".into()));
        }
    });
}

#[test]
fn both_compressions_are_refused_unless_one_is_off() {
    test(async {
        let both = json!({"feature_negotiation": true, "snappy": true, "deflate": true});
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = nsqd.connect().await;
        peer.line_and_body("IDENTIFY", both.to_string()).await;
        peer.refused("E_IDENTIFY_FAILED cannot enable both deflate and snappy compression").await;

        let nsqd = Daemon::nsqd().flag("--deflate=false").start().await;
        let mut peer = nsqd.connect().await;
        let reply = negotiate(&mut peer, both).await;
        assert_eq!((&reply["snappy"], &reply["deflate"]), (&json!(true), &json!(false)));
        peer.compress(Form::Snappy);
        peer.ok().await;
        peer.still_works().await;
    });
}

#[test]
fn deflate_level_is_limited() {
    test(async {
        for (max, asked) in
            [(6, &[(0, 6), (-1, 6), (100, 6), (1, 1)][..]), (9, &[(9, 9), (10, 9)]), (3, &[(1, 1), (6, 3)])]
        {
            let nsqd = Daemon::nsqd().flag(format!("--max-deflate-level={max}")).start().await;
            for (asked, granted) in asked {
                let mut peer = nsqd.connect().await;
                let reply = negotiate(&mut peer, json!({"deflate": true, "deflate_level": asked})).await;
                assert_eq!(
                    (&reply["deflate_level"], &reply["max_deflate_level"]),
                    (&json!(granted), &json!(max))
                );
                peer.compress(Form::Deflate);
                peer.ok().await;
                peer.still_works().await;
            }
        }
    });
}

#[test]
fn bytes_after_identify_are_dropped_on_an_upgrade() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = nsqd.connect().await;
        let identify = command("IDENTIFY", r#"{"feature_negotiation":true,"snappy":true}"#);
        peer.send([identify, command("PUB early", "x")].concat()).await;
        assert!(peer.response().await.starts_with(b"{"));
        peer.compress(Form::Snappy);
        peer.ok().await;
        peer.still_works().await;
        assert!(nsqd.topic("early").await.is_none());
    });
}

#[test]
fn second_identify_starts_no_upgrade() {
    test(async {
        let certificates = Certificates::new();
        let nsqd = Daemon::nsqd().tls(&certificates).start().await;
        let mut peer = nsqd.connect().await;
        peer.start_tls(json!({}), certificates.client(None)).await;
        let again = json!({"tls_v1": true, "sample_rate": 10});
        let reply = negotiate(&mut peer, again).await;
        assert_eq!((&reply["tls_v1"], &reply["sample_rate"]), (&json!(false), &json!(10)));
        peer.start_compression(json!({}), Form::Deflate).await;
        let reply = negotiate(&mut peer, json!({"tls_v1": true, "snappy": true, "deflate": true})).await;
        assert_eq!([&reply["tls_v1"], &reply["snappy"], &reply["deflate"]], [&json!(false); 3]);
        peer.still_works().await;
    });
}

#[test]
fn bytes_in_the_wrong_encoding_close_the_connection_without_an_error() {
    test(async {
        let certificates = Certificates::new();
        let nsqd = Daemon::nsqd().tls(&certificates).start().await;
        for form in [Form::Snappy, Form::Deflate] {
            for wrong in
                [&b"PUB topic\n\0\0\0\x01x"[..], b"\xff\x06\0\0sNaPpY\x7f\0\0\0", b"\xff\xff\xff\xff"]
            {
                let mut peer = nsqd.connect().await;
                peer.start_compression(json!({}), form).await;
                let compression = peer.compression.take();
                peer.send(wrong).await;
                peer.compression = compression;
                peer.closed().await;
            }
        }
        // A failed handshake sends a TLS alert, and nsqd adds its own error.
        let mut peer = nsqd.connect().await;
        negotiate(&mut peer, json!({"tls_v1": true})).await;
        peer.send(b"PUB topic\n\0\0\0\x01x").await;
        nsqd.log().expect("E_IDENTIFY_FAILED IDENTIFY failed ").await;
    });
}

#[test]
fn handshake_times_out() {
    test(async {
        let certificates = Certificates::new();
        let nsqd = Daemon::nsqd().tls(&certificates).start().await;
        let mut peer = nsqd.connect().await;
        negotiate(&mut peer, json!({"tls_v1": true})).await;
        peer.send(b"\x16\x03\x01").await;
        let mut connection = nsq_tests::http::Connection::open(nsqd.https().await).await;
        connection.send(b"\x16\x03\x01").await;
        peer.refused("E_IDENTIFY_FAILED IDENTIFY failed the handshake takes too long").await;
        assert!(connection.answer("half a handshake").await.is_none());
        nsqd.log().expect("HTTPS: handshake with 127.0.0.1:").await;
    });
}

#[test]
fn compression_bomb_uses_bounded_memory() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let before = process::peak_resident_bytes(nsqd.pid());
        // A gigabyte without a line feed.
        let mut peer = nsqd.connect().await;
        peer.start_compression(json!({}), Form::Deflate).await;
        for _ in 0..16 {
            peer.send(vec![b'x'; 64 << 20]).await;
        }
        peer.closed().await;
        // A body larger than the limit.
        let mut peer = nsqd.connect().await;
        peer.start_compression(json!({}), Form::Snappy).await;
        peer.line_and_body("PUB t", vec![0; 64 << 20]).await;
        assert_eq!(peer.error().await, "E_BAD_MESSAGE PUB message too big 67108864 > 1048576");
        let grown = process::peak_resident_bytes(nsqd.pid()) - before;
        assert!(grown < 32 << 20, "{grown} bytes");
    });
}

#[test]
fn only_identify_is_legal_without_tls_when_tls_is_required() {
    test(async {
        let certificates = Certificates::new();
        for required in ["true", "tcp-https"] {
            let start = Daemon::nsqd().tls(&certificates).flag(format!("--tls-required={required}"));
            let nsqd = start.start().await;
            for (bytes, name) in [
                (&b"NOP\n"[..], "NOP"),
                (b"SUB t c\n", "SUB"),
                (b"PUB t\n", "PUB"),
                (b"WHAT is this\n", "WHAT"),
                (b"\n", ""),
            ] {
                let mut peer = nsqd.connect().await;
                peer.send(bytes).await;
                peer.refused(&format!("E_INVALID cannot {name} in current state (TLS required)")).await;
            }
            let mut peer = nsqd.connect().await;
            negotiate(&mut peer, json!({})).await;
            peer.line("NOP").await;
            peer.refused("E_INVALID cannot NOP in current state (TLS required)").await;

            let mut peer = nsqd.connect().await;
            peer.start_tls(json!({}), certificates.client(None)).await;
            peer.still_works().await;

            assert_eq!(nsqd.get_https("/ping", certificates.client(None)).await.unwrap().text(), "OK");
            let plain = nsqd.get("/ping").await;
            if required == "tcp-https" {
                assert_eq!(plain.expect(200).text(), "OK");
                continue;
            }
            assert_eq!(plain.header("content-type"), Some("application/json; charset=utf-8"));
            assert_eq!(plain.header("x-nsq-content-type"), Some("nsq; version=1.0"));
            let port = nsqd.https().await.port();
            let body = format!(r#"{{"message": "TLS_REQUIRED", "https_port": {port}}}"#);
            assert_eq!(plain.expect(403).text(), body);
            assert_eq!(nsqd.post("/no/such/path", b"x").await.expect(403).text(), body);
            assert_eq!(
                nsqd.get_https("/config/tls_required", certificates.client(None)).await.unwrap().text(),
                "2"
            );
        }
        let no_https = Daemon::nsqd().tls(&certificates).flag("--tls-required").flag("--https-address=");
        let answer = no_https.start().await.get("/stats").await;
        assert_eq!(answer.expect(403).text(), r#"{"message": "TLS_REQUIRED", "https_port": 0}"#);
    });
}

/// Whether nsqd accepts a client with the certificate of `name`. TCP and HTTPS must agree.
async fn is_accepted(nsqd: &Daemon, certificates: &Certificates, name: Option<&str>) -> bool {
    let config = certificates.client(name);
    let mut peer = nsqd.connect().await;
    negotiate(&mut peer, json!({"tls_v1": true})).await;
    let over_tcp = peer.shake_hands(config.clone()).await.is_ok()
        && peer
            .frame_within(Duration::from_secs(5))
            .await
            .is_ok_and(|frame| frame == Frame::Response("OK".into()));
    if over_tcp {
        peer.still_works().await;
    }
    let over_https = nsqd.get_https("/ping", config).await.is_ok_and(|answer| answer.status == 200);
    assert_eq!(over_tcp, over_https);
    over_tcp
}

#[test]
fn https_serves_http_1_and_refuses_plain_http() {
    test(async {
        let certificates = Certificates::new();
        let nsqd = Daemon::nsqd().tls(&certificates).start().await;
        let plain = http::raw(nsqd.https().await, b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let plain = plain.expect("an answer").expect(400);
        assert_eq!(plain.text().trim_end(), "Client sent an HTTP request to an HTTPS server.");

        let mut config = (*certificates.client(None)).clone();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        assert_eq!(nsqd.get_https("/ping", config.into()).await.expect("a handshake").text(), "OK");
    });
}

#[test]
fn client_certificates_follow_the_policy() {
    test(async {
        let certificates = Certificates::new();
        certificates.self_sign("stranger");
        // The last column is for the authority's own certificate.
        for (policy, [none, good, stranger, authority]) in [
            ("", [true, true, true, true]),
            ("request", [true, true, true, true]),
            ("require", [false, true, true, true]),
            ("verify-if-given", [true, true, false, true]),
            ("require-verify", [false, true, false, true]),
        ] {
            eprintln!("--- {policy:?}");
            let root = format!("--tls-root-ca-file={}", certificates.path("ca.pem"));
            let start = Daemon::nsqd().tls(&certificates).flag(root);
            let policy_flag = (!policy.is_empty()).then(|| format!("--tls-client-auth-policy={policy}"));
            let nsqd = policy_flag.into_iter().fold(start, |start, flag| start.flag(flag)).start().await;
            let answers = [
                is_accepted(&nsqd, &certificates, None).await,
                is_accepted(&nsqd, &certificates, Some("client")).await,
                is_accepted(&nsqd, &certificates, Some("stranger")).await,
                is_accepted(&nsqd, &certificates, Some("ca")).await,
            ];
            assert_eq!(
                answers,
                [none, good, stranger, authority],
                "clients without a certificate, with a good one, a self-signed one, the authority's"
            );
            let mut plain = nsqd.connect().await;
            plain.line("NOP").await;
            if policy.is_empty() {
                plain.still_works().await;
            } else {
                plain.refused("E_INVALID cannot NOP in current state (TLS required)").await;
                nsqd.get("/ping").await.expect(403);
            }
        }
    });
}

#[test]
fn tls_min_version_flag_sets_the_oldest_version() {
    test(async {
        let certificates = Certificates::new();
        for (flag, accepts_old) in [("tls1.0", true), ("tls1.2", true), ("tls1.3", false)] {
            let start = Daemon::nsqd().tls(&certificates).flag(format!("--tls-min-version={flag}"));
            let nsqd = start.start().await;
            let old = certificates.client_of_version(None, &[&rustls::version::TLS12]);
            let mut peer = nsqd.connect().await;
            negotiate(&mut peer, json!({"tls_v1": true})).await;
            assert_eq!(peer.shake_hands(old).await.is_ok(), accepts_old, "{flag}");
            if accepts_old {
                peer.ok().await;
                peer.publish("t", "x").await;
                let stats = nsqd.get_json("/stats?format=json").await;
                let producer = &stats["producers"][0];
                assert_eq!(producer["tls_version"], "TLS1.2");
                let suite = producer["tls_cipher_suite"].as_str().unwrap_or_default();
                assert!(suite.starts_with("TLS_ECDHE_ECDSA_WITH_"), "{suite}");
            }
        }
    });
}

/// A certificate or key that the certificate library of these tests cannot generate.
fn stored_certificate(file: &str) -> String {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tls/tests/certificates");
    std::fs::read_to_string(folder.join(file)).expect("a file of the project")
}

#[test]
fn unusable_client_authority_is_logged() {
    test(async {
        let certificates = Certificates::new();
        let authorities = std::fs::read_to_string(certificates.path("ca.pem")).expect("a file");
        certificates.write("both.pem", &(stored_certificate("rsa-1024.pem") + &authorities));
        for file in ["by-rsa-1024.pem", "by-rsa-1024.key"] {
            certificates.write(file, &stored_certificate(file));
        }
        let start = Daemon::nsqd().tls(&certificates);
        let start = start.flag(format!("--tls-root-ca-file={}", certificates.path("both.pem")));
        let nsqd = start.flag("--tls-client-auth-policy=require-verify").start().await;
        assert!(is_accepted(&nsqd, &certificates, Some("client")).await);
        assert!(!is_accepted(&nsqd, &certificates, Some("by-rsa-1024")).await);
        nsqd.log().expect("its authority cannot be used: CN=rsa-1024: an RSA key of 1024 bits").await;
    });
}

#[test]
fn unusable_certificates_are_reported_at_the_start() {
    test(async {
        let certificates = Certificates::new();
        certificates.issue("other");
        certificates.write("empty.pem", "");
        let flag = |name: &str, file: &str| format!("--tls-{name}={}", certificates.path(file));
        for name in ["rsa-1024", "p-521"] {
            for ending in ["pem", "key"] {
                let file = format!("{name}.{ending}");
                certificates.write(&file, &stored_certificate(&file));
            }
        }
        for (flags, text) in [
            (
                vec![flag("cert", "rsa-1024.pem"), flag("key", "rsa-1024.key")],
                "rsa-1024.pem cannot be used: an RSA key of 1024 bits is not supported; use RSA of 2048",
            ),
            (
                vec![flag("cert", "p-521.pem"), flag("key", "p-521.key")],
                "p-521.pem cannot be used: an ECDSA key on the curve P-521 is not supported; use",
            ),
            (
                vec![
                    flag("cert", "server.pem"),
                    flag("key", "server.key"),
                    flag("root-ca-file", "rsa-1024.pem"),
                    "--tls-client-auth-policy=require-verify".to_owned(),
                ],
                "rsa-1024.pem can be used: CN=rsa-1024: an RSA key of 1024 bits is not supported",
            ),
            (vec![flag("cert", "none.pem"), flag("key", "server.key")], "No such file"),
            (vec![flag("cert", "empty.pem"), flag("key", "server.key")], "no certificate in"),
            (vec![flag("cert", "server.pem"), flag("key", "empty.pem")], "no private key in"),
            (
                vec![flag("cert", "server.pem"), flag("key", "other.key")],
                "does not belong to the certificate in",
            ),
            (vec![flag("root-ca-file", "empty.pem")], "no certificate in"),
        ] {
            let start = flags.iter().fold(Daemon::nsqd(), |start, flag| start.flag(flag));
            let (status, log) = start.expect_exit().await;
            assert_eq!(status.code(), Some(1));
            // The last log lines may arrive after nsqd has exited.
            log.expect("FATAL: failed to instantiate nsqd - failed to build TLS config - ").await;
            log.expect(text).await;
        }
    });
}

#[test]
fn dropped_tls_snappy_connection_releases_its_messages() {
    test(async {
        let certificates = Certificates::new();
        let nsqd = Daemon::nsqd().tls(&certificates).start().await;
        let mut peer = nsqd.connect().await;
        peer.start_tls(json!({}), certificates.client(None)).await;
        peer.start_compression(json!({}), Form::Snappy).await;
        peer.subscribe("t", "c").await;
        peer.ready(1).await;
        nsqd.publish("t", "x").await;
        peer.message().await;
        drop(peer);
        let mut next = nsqd.subscribe("t", "c").await;
        next.ready(1).await;
        assert_eq!(next.message().await.attempts, 2);
        next.nothing_for(QUIET).await;
    });
}

#[test]
fn sighup_stops_only_an_nsqd_without_certificates() {
    test(async {
        let certificates = Certificates::new();
        let mut with = Daemon::nsqd().tls(&certificates).start().await;
        with.signal(Signal::HUP);
        with.log().expect("TLS: new certificate from ").await;
        with.connect().await.still_works().await;
        assert!(with.terminate().await.success());

        // Like NSQ, an nsqd without certificates has nothing to reload.
        let mut without = Daemon::nsqd().start().await;
        let is_ignored = process::ignores(without.pid(), Signal::HUP);
        without.signal(Signal::HUP);
        if is_ignored {
            without.connect().await.still_works().await;
        } else {
            assert_eq!(without.exited().await.signal(), Some(Signal::HUP.as_raw()));
        }
    });
}
