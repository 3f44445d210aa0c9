use std::time::Duration;

use nsq_tests::auth_server::{Answer, allowing, authorization, everything};
use nsq_tests::wire::{Frame, Peer, batch, command, length};
use nsq_tests::{AuthServer, Certificates, Daemon, test, test_within, wait};
use serde_json::{Value, json};

const FAILED: &str = "E_AUTH_FAILED AUTH failed";

/// Sends AUTH and returns the reply as JSON.
async fn authenticate(peer: &mut Peer, secret: impl AsRef<[u8]>) -> Value {
    peer.line_and_body("AUTH", secret).await;
    serde_json::from_slice(&peer.response().await).expect("AUTH answers with JSON")
}

async fn authenticated(nsqd: &Daemon) -> Peer {
    let mut peer = nsqd.connect().await;
    authenticate(&mut peer, "secret").await;
    peer
}

/// An nsqd, and its auth server.
async fn nsqd_allowing(ttl: i64, authorizations: Value) -> (Daemon, AuthServer) {
    let server = AuthServer::allowing(ttl, authorizations).await;
    (Daemon::nsqd().flag(server.flag()).start().await, server)
}

async fn refused(mut peer: Peer, line: &str, error: &str) {
    let body = match line.split(' ').next() {
        Some("PUB" | "DPUB") => command(line, "x"),
        Some("MPUB") => command(line, batch(&["x"])),
        _ => [line.as_bytes(), b"\n"].concat(),
    };
    peer.send(body).await;
    peer.refused(error).await;
}

#[test]
fn consumer_waiting_for_the_auth_server_is_skipped() {
    test_within(Duration::from_secs(90), async {
        let server = AuthServer::allowing(1, everything()).await;
        let long_timeout = "--http-client-request-timeout=60s";
        let nsqd = Daemon::nsqd().flag(server.flag()).flag(long_timeout).start().await;
        let mut busy = authenticated(&nsqd).await;
        busy.subscribe("t", "c").await;
        busy.ready(1).await;
        nsqd.post("/pub?topic=t", "0").await.expect(200);
        let first = busy.message().await;
        busy.finish(&first).await;
        nsqd.channel_until_finished("t", "c").await;
        // The busy consumer has now waited longest for a message. The other is second in line.
        let mut other = authenticated(&nsqd).await;
        other.subscribe("t", "c").await;
        other.ready(1).await;
        other.barrier().await;
        server.answer(Answer::Silence);
        let asked = server.asked().len();
        wait::until("the busy consumer waits for the auth server", async || {
            busy.line_and_body("PUB answers", "x").await;
            wait::when(server.asked().len(), |&now| now > asked)
        })
        .await;
        for body in ["1", "2", "3"] {
            nsqd.post("/pub?topic=t", body).await.expect(200);
            let message = other.message().await;
            assert_eq!(message.text(), body);
            other.finish(&message).await;
        }
    });
}

#[test]
fn auth_is_disabled_without_servers_or_token_file() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = nsqd.connect().await;
        assert_eq!(peer.identify(json!({"feature_negotiation": true})).await["auth_required"], false);
        peer.line_and_body("AUTH", "secret").await;
        peer.refused("E_AUTH_DISABLED AUTH disabled").await;
    });
}

#[test]
fn publishing_and_subscribing_require_auth() {
    test(async {
        let (nsqd, server) = nsqd_allowing(60, everything()).await;
        let mut peer = nsqd.connect().await;
        assert_eq!(peer.identify(json!({"feature_negotiation": true})).await["auth_required"], true);
        refused(peer, "PUB t", "E_AUTH_FIRST AUTH required before PUB").await;
        for (line, verb) in [("DPUB t 0", "DPUB"), ("MPUB t", "MPUB"), ("SUB t c", "SUB")] {
            let error = format!("E_AUTH_FIRST AUTH required before {verb}");
            refused(nsqd.connect().await, line, &error).await;
        }
        // NOP needs no AUTH.
        let mut peer = nsqd.connect().await;
        peer.send("NOP\n").await;
        peer.nothing().await;
        assert!(nsqd.topic("t").await.is_none(), "a refused command creates no topic");
        assert!(server.asked().is_empty());
    });
}

#[test]
fn server_is_asked_once_and_the_reply_names_the_identity() {
    test(async {
        let (nsqd, server) = nsqd_allowing(3600, everything()).await;
        // IDENTIFY is not needed.
        let mut peer = nsqd.connect().await;
        let answer = authenticate(&mut peer, b"a b&c/\xff").await;
        let expected = json!({"identity": "tester", "identity_url": "http://tester/", "permission_count": 1});
        assert_eq!(answer, expected);
        peer.publish("t", "1").await;
        peer.publish_batch("u", &["2", "3"]).await;
        peer.publish_deferred("t", Duration::from_millis(1), "4").await;
        peer.subscribe("t", "c").await;
        peer.ready(5).await;
        peer.consume(2).await;
        let asked = server.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert_eq!(
            asked[0].request,
            "GET /auth?common_name=&remote_ip=127.0.0.1&secret=a+b%26c%2F%FF&tls=false"
        );
        assert!(asked[0].headers.contains("accept: application/vnd.nsq; version=1.0"), "{asked:?}");

        let client = &nsqd.get_json("/stats?format=json").await["topics"][0]["channels"][0]["clients"][0];
        assert_eq!(client["authed"], true);
        assert_eq!(
            (&client["auth_identity"], &client["auth_identity_url"]),
            (&json!("tester"), &json!("http://tester/"))
        );
    });
}

#[test]
fn auth_request_can_use_post_and_any_url() {
    test(async {
        let server = AuthServer::allowing(60, everything()).await;
        let url = format!("--auth-http-address=http://{}/check?x=1", server.address());
        let nsqd = Daemon::nsqd().flag(&url).start().await;
        authenticated(&nsqd).await;
        assert_eq!(
            server.asked()[0].request,
            "GET /check?x=1&common_name=&remote_ip=127.0.0.1&secret=secret&tls=false"
        );
        let nsqd = Daemon::nsqd().flag(&url).flag("--auth-http-request-method=post").start().await;
        let mut peer = nsqd.connect().await;
        authenticate(&mut peer, "<&>").await;
        let asked = &server.asked()[1];
        assert_eq!(asked.request, "POST /check?x=1");
        assert!(asked.headers.contains("content-type: application/json"), "{asked:?}");
        let body = r#"{"common_name":[""],"remote_ip":["127.0.0.1"],"secret":["\u003c\u0026\u003e"],"tls":["false"]}"#;
        assert_eq!(asked.body, body);
    });
}

#[test]
fn password_in_the_address_is_sent_to_the_server_and_never_shown() {
    test(async {
        let server = AuthServer::allowing(60, everything()).await;
        let flag = format!("--auth-http-address=http://user:hidden@{}/auth?key=hidden", server.address());
        let nsqd =
            Daemon::nsqd().flag(&flag).flag("--lookupd-tcp-address=user:hidden@127.0.0.1:1").start().await;
        authenticated(&nsqd).await;
        // user:hidden
        assert!(server.asked()[0].headers.contains(&"authorization: Basic dXNlcjpoaWRkZW4=".to_lowercase()));
        server.answer(Answer::Status(500, String::new()));
        let mut peer = nsqd.connect().await;
        peer.line_and_body("AUTH", "secret").await;
        peer.refused(FAILED).await;
        nsqd.log().expect("AUTH: no auth server answers").await;
        nsqd.log().expect("LOOKUPD(127.0.0.1:1): cannot connect").await;
        for target in [
            "/config/auth_http_addresses",
            "/config/nsqlookupd_tcp_addresses",
            "/debug/pprof/cmdline",
            "/stats?format=json",
            "/metrics",
        ] {
            let text = nsqd.get(target).await.expect(200).text();
            assert!(!text.contains("hidden"), "{target}: {text}");
        }
        assert!(!nsqd.log().contains("hidden"), "{}", nsqd.log().text());
    });
}

#[test]
fn permissions_are_per_topic_channel_and_kind() {
    test(async {
        let (nsqd, _server) = nsqd_allowing(
            60,
            json!([
                authorization("^orders$", &["^billing$"], &["subscribe"]),
                authorization("metric", &["", "never"], &["publish"]),
                authorization("^shut$", &["^foo$"], &["publish"]),
                authorization("^closed$", &[], &["publish", "subscribe"]),
            ]),
        )
        .await;
        let mut peer = authenticated(&nsqd).await;
        peer.publish("my_metrics", "not anchored").await;
        peer.publish("metric", "another").await;
        peer.publish("my_metrics", "the first again").await;
        peer.subscribe("orders", "billing").await;

        let denied = [
            ("PUB orders", r#"E_UNAUTHORIZED AUTH failed for PUB on "orders" """#),
            ("MPUB orders", r#"E_UNAUTHORIZED AUTH failed for MPUB on "orders" """#),
            ("DPUB orders 5", r#"E_UNAUTHORIZED AUTH failed for DPUB on "orders" """#),
            ("PUB shut", r#"E_UNAUTHORIZED AUTH failed for PUB on "shut" """#),
            ("PUB closed", r#"E_UNAUTHORIZED AUTH failed for PUB on "closed" """#),
            ("SUB orders other", r#"E_UNAUTHORIZED AUTH failed for SUB on "orders" "other""#),
            ("SUB closed c", r#"E_UNAUTHORIZED AUTH failed for SUB on "closed" "c""#),
            ("SUB metric never", r#"E_UNAUTHORIZED AUTH failed for SUB on "metric" "never""#),
        ];
        for (line, error) in denied {
            refused(authenticated(&nsqd).await, line, error).await;
        }
        for topic in ["shut", "closed"] {
            assert!(nsqd.topic(topic).await.is_none(), "{topic}");
        }
    });
}

#[test]
fn unauthorized_mpub_is_refused_before_its_body() {
    test(async {
        let (nsqd, _server) = nsqd_allowing(60, json!([authorization("^a$", &[""], &["publish"])])).await;
        let mut peer = authenticated(&nsqd).await;
        peer.send("MPUB b\n").await;
        peer.refused(r#"E_UNAUTHORIZED AUTH failed for MPUB on "b" """#).await;
        let mut peer = nsqd.connect().await;
        peer.send("MPUB b\n").await;
        peer.refused("E_AUTH_FIRST AUTH required before MPUB").await;
        // The permission is checked before an invalid body. With permission, the body's error is reported.
        let mut peer = authenticated(&nsqd).await;
        peer.send([b"MPUB b\n", &length(0)[..]].concat()).await;
        peer.refused(r#"E_UNAUTHORIZED AUTH failed for MPUB on "b" """#).await;
        let mut peer = authenticated(&nsqd).await;
        peer.send([b"MPUB a\n", &length(0)[..]].concat()).await;
        peer.refused("E_BAD_BODY MPUB invalid body size 0").await;
        // As in NSQ, a PUB is refused only when its body is complete. Earlier commands are answered.
        let mut peer = authenticated(&nsqd).await;
        peer.send([command("PUB a", "x"), b"PUB b\n\0\0\0\x02y".to_vec()].concat()).await;
        peer.ok().await;
        peer.nothing().await;
        peer.send("z").await;
        peer.refused(r#"E_UNAUTHORIZED AUTH failed for PUB on "b" """#).await;
    });
}

#[test]
fn invalid_server_answers_fail_auth() {
    test(async {
        let server = AuthServer::start(Answer::Silence).await;
        let nsqd =
            Daemon::nsqd().flag(server.flag()).flag("--http-client-request-timeout=300ms").start().await;
        let good = json!([authorization("", &[""], &["publish"])]);
        let bad = [
            Answer::Silence,
            Answer::Status(500, String::new()),
            Answer::Status(201, r#"{"ttl":60,"authorizations":[]}"#.into()),
            Answer::Status(403, "no".into()),
            Answer::Status(200, "OK".into()),
            Answer::Status(200, "[]".into()),
            Answer::Status(200, String::new()),
            Answer::Json(json!({"identity": "x", "authorizations": good})),
            allowing(0, good.clone()),
            allowing(-1, good.clone()),
            Answer::Json(json!({"ttl": "60", "authorizations": good})),
            Answer::Json(json!({"ttl": 1.5, "authorizations": good})),
            allowing(60, json!([authorization("", &[""], &["write"])])),
            allowing(60, json!([authorization("(", &[""], &["publish"])])),
            allowing(60, json!([authorization("", &["", "*"], &["publish"])])),
            allowing(60, json!([authorization("(?=a)", &[""], &["publish"])])),
            allowing(60, json!("all")),
            Answer::Redirect(302, "/auth".into()),
            Answer::Redirect(302, "nowhere://".into()),
        ];
        for answer in bad {
            eprintln!("{answer:?}");
            server.answer(answer);
            let mut peer = nsqd.connect().await;
            peer.line_and_body("AUTH", "secret").await;
            peer.refused(FAILED).await;
        }
        for nothing in [json!([]), Value::Null] {
            server.answer(allowing(60, nothing));
            let mut peer = nsqd.connect().await;
            peer.line_and_body("AUTH", "secret").await;
            peer.refused("E_UNAUTHORIZED AUTH no authorizations found").await;
        }
        server.answer(allowing(60, good));
        authenticated(&nsqd).await.publish("t", "x").await;
        assert!(!nsqd.log().contains("secret"), "a secret is never logged:\n{}", nsqd.log().text());
    });
}

#[test]
fn redirects_are_followed() {
    test(async {
        let there = AuthServer::allowing(60, everything()).await;
        let here =
            AuthServer::start(Answer::Redirect(302, format!("http://{}/other?a=b", there.address()))).await;
        let nsqd = Daemon::nsqd().flag(here.flag()).start().await;
        authenticated(&nsqd).await;
        assert_eq!(there.asked()[0].request, "GET /other?a=b");
    });
}

#[test]
fn https_server_is_asked_only_with_a_valid_certificate() {
    test(async {
        let certificates = Certificates::new();
        let authority = format!("--tls-root-ca-file={}", certificates.path("ca.pem"));
        let server = AuthServer::start_https(allowing(60, everything()), &certificates, "server").await;
        let nsqd = Daemon::nsqd().flag(server.flag()).flag(&authority).start().await;
        authenticated(&nsqd).await.publish("t", "x").await;
        assert!(server.asked()[0].request.starts_with("GET /auth?common_name=&"), "{:?}", server.asked());

        // Neither the system's authorities nor an authority that did not issue the certificate accept it.
        let unknown = Daemon::nsqd().flag(server.flag()).start().await;
        certificates.self_sign("stranger");
        let stranger = AuthServer::start_https(allowing(60, everything()), &certificates, "stranger").await;
        let other_authority = Daemon::nsqd().flag(stranger.flag()).flag(&authority).start().await;
        for nsqd in [&unknown, &other_authority] {
            let mut peer = nsqd.connect().await;
            peer.line_and_body("AUTH", "secret").await;
            peer.refused(FAILED).await;
            nsqd.log().expect("invalid peer certificate").await;
        }
        assert_eq!(
            (server.asked().len(), stranger.asked().len()),
            (1, 0),
            "no other server received the secret"
        );
    });
}

#[test]
fn tls_required_answer_is_followed_once_over_https() {
    test(async {
        let certificates = Certificates::new();
        let secure = AuthServer::start_https(allowing(60, everything()), &certificates, "server").await;
        let plain = AuthServer::start(secure.tls_required()).await;
        let address = format!("--auth-http-address=http://{}/check?x=1", plain.address());
        let authority = format!("--tls-root-ca-file={}", certificates.path("ca.pem"));
        for (method, expected) in [
            ("get", "GET /check?x=1&common_name=&remote_ip=127.0.0.1&secret=secret&tls=false"),
            ("post", "POST /check?x=1"),
        ] {
            let nsqd = Daemon::nsqd().flag(&address).flag(&authority);
            let nsqd = nsqd.flag(format!("--auth-http-request-method={method}")).start().await;
            authenticated(&nsqd).await.publish("t", "x").await;
            let asked = [plain.asked().pop().unwrap(), secure.asked().pop().unwrap()];
            assert_eq!((asked[0].request.as_str(), asked[1].request.as_str()), (expected, expected));
            assert_eq!(asked[0].body, asked[1].body);
        }
        assert_eq!((plain.asked().len(), secure.asked().len()), (2, 2));

        // nsqd follows this answer only once; a second one is a refusal.
        secure.answer(secure.tls_required());
        let nsqd = Daemon::nsqd().flag(&address).flag(&authority).start().await;
        let mut peer = nsqd.connect().await;
        peer.line_and_body("AUTH", "secret").await;
        peer.refused(FAILED).await;
        assert_eq!((plain.asked().len(), secure.asked().len()), (3, 3));
    });
}

#[test]
fn auth_request_contains_tls_and_common_name() {
    test(async {
        let certificates = Certificates::new();
        certificates.issue("a & b");
        let server = AuthServer::allowing(60, everything()).await;
        let nsqd = Daemon::nsqd().tls(&certificates).flag("--tls-client-auth-policy=verify-if-given");
        let authority = format!("--tls-root-ca-file={}", certificates.path("ca.pem"));
        let nsqd = nsqd.flag(authority).flag(server.flag()).start().await;
        for (name, common_name) in [(None, ""), (Some("client"), "client"), (Some("a & b"), "a+%26+b")] {
            let mut peer = nsqd.connect().await;
            peer.start_tls(json!({}), certificates.client(name)).await;
            authenticate(&mut peer, "secret").await;
            let asked = server.asked().pop().unwrap();
            let expected =
                format!("GET /auth?common_name={common_name}&remote_ip=127.0.0.1&secret=secret&tls=true");
            assert_eq!(asked.request, expected);
        }
    });
}

#[test]
fn one_working_server_is_enough() {
    test(async {
        let good = AuthServer::allowing(60, everything()).await;
        let broken = AuthServer::start(Answer::Status(500, String::new())).await;
        let stopped = AuthServer::start(Answer::Silence).await.flag();
        let nsqd = Daemon::nsqd().flag(&stopped).flag(broken.flag()).flag(good.flag()).start().await;
        for _ in 0..8 {
            authenticated(&nsqd).await.publish("t", "x").await;
        }
        assert_eq!(good.asked().len(), 8);

        let nsqd = Daemon::nsqd().flag(&stopped).flag(broken.flag()).start().await;
        let mut peer = nsqd.connect().await;
        peer.line_and_body("AUTH", "secret").await;
        peer.refused(FAILED).await;
        nsqd.log().expect("no auth server answers").await;
    });
}

#[test]
fn auth_is_accepted_once_before_sub_without_parameters() {
    test(async {
        let (nsqd, _server) = nsqd_allowing(60, everything()).await;
        let mut peer = authenticated(&nsqd).await;
        peer.line_and_body("AUTH", "again").await;
        peer.refused("E_INVALID AUTH already set").await;
        let mut peer = authenticated(&nsqd).await;
        peer.subscribe("t", "c").await;
        peer.line_and_body("AUTH", "again").await;
        peer.refused("E_INVALID cannot AUTH in current state").await;
        let mut peer = nsqd.connect().await;
        peer.line("AUTH x").await;
        peer.refused("E_INVALID AUTH invalid number of parameters").await;
        let mut peer = nsqd.connect().await;
        peer.line_and_body("AUTH", "").await;
        peer.refused("E_BAD_BODY AUTH invalid body size 0").await;
        let mut peer = nsqd.connect().await;
        peer.send([b"AUTH\n", &length((5 << 20) + 1)[..]].concat()).await;
        peer.refused("E_BAD_BODY AUTH body too big 5242881 > 5242880").await;
    });
}

#[test]
fn huge_secret_works_by_post_and_breaks_nothing_by_get() {
    test(async {
        let (nsqd, server) = nsqd_allowing(60, everything()).await;
        let nsqd_post =
            Daemon::nsqd().flag(server.flag()).flag("--auth-http-request-method=post").start().await;
        let secret = "x".repeat(5 << 20);
        let mut peer = nsqd_post.connect().await;
        authenticate(&mut peer, &secret).await;
        peer.publish("t", "x").await;
        // Servers may refuse a URL of this length; nsqd must keep working.
        let mut peer = nsqd.connect().await;
        peer.line_and_body("AUTH", &secret).await;
        let answered = peer.frame().await;
        let text = format!("{answered:?}");
        assert!(text.contains("E_AUTH_FAILED") || text.contains("permission_count"), "{text}");
        nsqd.get("/ping").await.expect(200);
    });
}

#[test]
fn huge_secret_is_not_kept_for_renewal() {
    test(async {
        let server = AuthServer::allowing(1, everything()).await;
        let post = "--auth-http-request-method=post";
        let nsqd = Daemon::nsqd().flag(server.flag()).flag(post).start().await;
        let mut peer = nsqd.connect().await;
        authenticate(&mut peer, "x".repeat(65_537)).await;
        peer.publish("t", "x").await;
        // Publishes until the grant expires.
        let refused = loop {
            peer.line_and_body("PUB t", "x").await;
            match peer.frame().await {
                Frame::Response(ok) => assert_eq!(ok, "OK"),
                other => break format!("{other:?}"),
            }
        };
        assert!(refused.contains(FAILED), "{refused}");
        peer.closed().await;
        assert_eq!(server.asked().len(), 1);
    });
}

#[test]
fn grant_expires_and_is_renewed_when_needed() {
    test(async {
        let (nsqd, server) = nsqd_allowing(1, everything()).await;
        let mut consumer = authenticated(&nsqd).await;
        consumer.subscribe("t", "c").await;
        consumer.ready(10).await;
        let mut producer = authenticated(&nsqd).await;
        assert_eq!(server.asked().len(), 2);
        // Publishing continues, and nsqd renews the grant when it expires.
        let is_renewed = async || {
            producer.publish("t", "x").await;
            consumer.consume(1).await;
            wait::when(server.asked().len(), |count| *count == 4)
        };
        wait::until("the producer's grant was renewed twice", is_renewed).await;

        // The server grants less than before.
        server.answer(allowing(1, json!([authorization("^u$", &[""], &["publish"])])));
        let mut refusal = None;
        let is_refused = async || {
            producer.line_and_body("PUB t", "x").await;
            let frame = format!("{:?}", producer.frame().await);
            let count = server.asked().len();
            if frame.contains("E_") {
                refusal = Some(frame);
            } else {
                consumer.consume(1).await;
            }
            wait::when((count, refusal.clone()), |(_, refusal)| refusal.is_some())
        };
        wait::until("the narrower grant applies", is_refused).await;
        assert!(refusal.unwrap().contains("E_UNAUTHORIZED AUTH failed for PUB on"));

        // The server fails, so the grant cannot be renewed.
        server.answer(allowing(1, everything()));
        let mut producer = authenticated(&nsqd).await;
        server.answer(Answer::Status(500, String::new()));
        let mut refusal = None;
        let is_refused = async || {
            producer.line_and_body("PUB t", "x").await;
            let frame = format!("{:?}", producer.frame().await);
            if frame.contains("E_") {
                refusal = Some(frame);
            } else {
                consumer.consume(1).await;
            }
            wait::when(refusal.clone(), Option::is_some)
        };
        wait::until("the grant has expired", is_refused).await;
        assert!(refusal.unwrap().contains(FAILED));

        // The consumer's grant expired long ago, but receiving messages needs no renewal.
        server.answer(allowing(60, everything()));
        authenticated(&nsqd).await.publish("t", "the last").await;
        assert_eq!(consumer.consume(1).await[0].text(), "the last");
    });
}
