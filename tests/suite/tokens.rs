use std::path::{Path, PathBuf};

use nsq_tests::auth_server::{authorization, everything};
use nsq_tests::http::{self, Response};
use nsq_tests::wire::Peer;
use nsq_tests::{AuthServer, Daemon, test, wait};
use serde_json::{Value, json};
use tempfile::TempDir;

/// SHA-256 of the secrets `alice`, `bob`, `carol` and `root`.
pub(crate) const ALICE: &str = "sha256:2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90";
pub(crate) const BOB: &str = "sha256:81b637d8fcd2c6da6359e6963113a1170de795e4b725b84d1e0b4cfd9ec58ce9";
pub(crate) const CAROL: &str = "sha256:4c26d9074c27d89ede59270c0ac14b71e071b15239519f75474b2f3ba63481f5";
pub(crate) const ROOT: &str = "sha256:4813494d137e1631bba301d5acab6e7bb7aa74ce1185d456565ef51d737677b2";

/// A token file. It is JSON, because the tests can generate that easily.
pub(crate) struct TokenFile {
    _folder: TempDir,
    path: PathBuf,
}

impl TokenFile {
    pub(crate) fn new(tokens: &[Value]) -> Self {
        let folder = TempDir::with_prefix("nsq-tests-").expect("a temporary directory");
        let path = folder.path().join("tokens.json");
        let file = TokenFile { _folder: folder, path };
        file.write(&json!({"token": tokens}).to_string());
        file
    }

    /// Replaces the file atomically.
    fn write(&self, text: &str) {
        let aside = self.path.with_extension("new");
        std::fs::write(&aside, text).expect("the file is writable");
        std::fs::rename(aside, &self.path).expect("the file can be renamed");
    }

    pub(crate) fn flag(&self) -> String {
        flag(&self.path)
    }
}

fn flag(path: &Path) -> String {
    format!("--auth-file={}", path.display())
}

pub(crate) fn token(identity: &str, hash: &str, authorizations: Value) -> Value {
    json!({"identity": identity, "hash": hash, "authorizations": authorizations})
}

fn alice() -> Value {
    token("alice", ALICE, json!([authorization("^orders$", &[""], &["publish"])]))
}

async fn authenticated(nsqd: &Daemon, secret: &str) -> Peer {
    let mut peer = nsqd.connect().await;
    peer.line_and_body("AUTH", secret).await;
    let answer: Value = serde_json::from_slice(&peer.response().await).expect("JSON");
    assert_eq!(answer["identity"], secret);
    peer
}

async fn is_unknown(nsqd: &Daemon, secret: &str) {
    let mut peer = nsqd.connect().await;
    peer.line_and_body("AUTH", secret).await;
    peer.refused("E_AUTH_FAILED AUTH failed").await;
}

#[test]
fn token_file_works_without_a_server() {
    test(async {
        let expired = json!({"identity": "bob", "hash": BOB, "expires": "2020-01-01T00:00:00Z",
            "authorizations": everything()});
        let file = TokenFile::new(&[alice(), expired, token("root", ROOT, json!([]))]);
        let nsqd = Daemon::nsqd().flag(file.flag()).start().await;
        let mut peer = nsqd.connect().await;
        assert_eq!(peer.identify(json!({"feature_negotiation": true})).await["auth_required"], true);
        let mut peer = authenticated(&nsqd, "alice").await;
        peer.publish("orders", "x").await;
        peer.line("SUB orders c").await;
        peer.refused(r#"E_UNAUTHORIZED AUTH failed for SUB on "orders" "c""#).await;
        for secret in ["bob", "mallory", "Alice", ALICE] {
            is_unknown(&nsqd, secret).await;
        }
        let mut peer = nsqd.connect().await;
        peer.line_and_body("AUTH", "root").await;
        peer.refused("E_UNAUTHORIZED AUTH no authorizations found").await;
    });
}

#[test]
fn servers_are_asked_about_unknown_secrets() {
    test(async {
        let file = TokenFile::new(&[alice()]);
        let server = AuthServer::allowing(60, everything()).await;
        let nsqd = Daemon::nsqd().flag(file.flag()).flag(server.flag()).start().await;
        authenticated(&nsqd, "alice").await;
        assert!(server.asked().is_empty());
        authenticated(&nsqd, "tester").await.publish("t", "x").await;
        assert_eq!(server.asked().len(), 1);
    });
}

#[test]
fn changed_file_is_reloaded_and_connections_stay_open() {
    test(async {
        let file = TokenFile::new(&[alice()]);
        let nsqd = Daemon::nsqd().flag(file.flag()).start().await;
        let mut peer = authenticated(&nsqd, "alice").await;
        peer.publish("orders", "1").await;

        // An invalid file is ignored and logged.
        for (text, complaint) in
            [("{", "keeping the current tokens"), ("[]", "invalid"), (r#"{"tokens":[]}"#, "unknown field")]
        {
            file.write(text);
            nsqd.log().expect(complaint).await;
        }
        peer.publish("orders", "2").await;
        std::fs::remove_file(&file.path).expect("the file exists");
        nsqd.log().expect("No such file or directory").await;
        peer.publish("orders", "3").await;

        // The new file adds a token and changes the permissions of an open connection.
        let authorizations = json!([authorization("^invoices$", &[""], &["publish"])]);
        file.write(
            &json!({"token": [token("alice", ALICE, authorizations), token("bob", BOB, everything())]})
                .to_string(),
        );
        nsqd.log().expect("AUTH: 2 tokens").await;
        peer.publish("invoices", "4").await;
        peer.line_and_body("PUB orders", "5").await;
        peer.refused(r#"E_UNAUTHORIZED AUTH failed for PUB on "orders" """#).await;
        let mut consumer = authenticated(&nsqd, "bob").await;
        consumer.subscribe("invoices", "c").await;
        consumer.ready(1).await;
        assert_eq!(consumer.consume(1).await[0].text(), "4");

        // A connection without its token can only continue to consume.
        file.write(&json!({"token": [alice()]}).to_string());
        let is_removed = async || {
            let mut peer = nsqd.connect().await;
            peer.line_and_body("AUTH", "bob").await;
            wait::when(format!("{:?}", peer.frame().await), |frame| frame.contains("E_AUTH_FAILED"))
        };
        wait::until("the token is removed", is_removed).await;
        let mut producer = authenticated(&nsqd, "alice").await;
        producer.publish("orders", "6").await;
        consumer.line_and_body("PUB invoices", "7").await;
        consumer.refused("E_AUTH_FAILED AUTH failed").await;
    });
}

#[test]
fn sighup_reloads_a_file_that_looks_unchanged() {
    test(async {
        let file = TokenFile::new(&[alice()]);
        let nsqd = Daemon::nsqd().flag(file.flag()).start().await;
        let mut peer = authenticated(&nsqd, "alice").await;
        peer.publish("orders", "1").await;
        // Overwrites the file in place with the same size and modification time.
        let written = |identity: &str, hash: &str| {
            let text = std::fs::read_to_string(&file.path).expect("the file is readable");
            let modified = std::fs::metadata(&file.path).and_then(|metadata| metadata.modified());
            let text = text.replace("alice", identity).replace(ALICE, hash);
            std::fs::write(&file.path, text).expect("the file is writable");
            let opened = std::fs::File::options().write(true).open(&file.path).expect("the file exists");
            opened
                .set_modified(modified.expect("a modification time"))
                .expect("the modification time can be set");
        };
        written("root!", ROOT);
        authenticated(&nsqd, "alice").await;
        nsqd.signal(rustix::process::Signal::HUP);
        let is_known = async || {
            let mut peer = nsqd.connect().await;
            peer.line_and_body("AUTH", "root").await;
            wait::when(format!("{:?}", peer.frame().await), |frame| frame.contains("root!"))
        };
        wait::until("the new token is known", is_known).await;
        is_unknown(&nsqd, "alice").await;
        // The connection stays open and gets the permissions of the new file.
        peer.line_and_body("PUB orders", "2").await;
        peer.refused("E_AUTH_FAILED AUTH failed").await;

        // After a signal, an invalid file is ignored and logged.
        file.write("{");
        nsqd.signal(rustix::process::Signal::HUP);
        nsqd.log().expect("keeping the current tokens").await;
        let mut peer = nsqd.connect().await;
        peer.line_and_body("AUTH", "root").await;
        assert!(peer.response().await.starts_with(b"{"));
    });
}

#[test]
fn invalid_token_file_prevents_the_start() {
    test(async {
        let file = TokenFile::new(&[json!({"identity": "a", "hash": "secret"})]);
        let (status, log) = Daemon::nsqd().flag(file.flag()).expect_exit().await;
        assert_eq!(status.code(), Some(1));
        log.expect("failed to read --auth-file").await;
        log.expect("the hash must be sha256:").await;
        let (status, log) = Daemon::nsqd().flag("--auth-file=/nonexistent/tokens").expect_exit().await;
        assert_eq!(status.code(), Some(1));
        log.expect("open /nonexistent/tokens: No such file").await;
        let (status, log) = Daemon::nsqd().flag("--http-auth").expect_exit().await;
        assert_eq!(status.code(), Some(1));
        log.expect("--http-auth needs --auth-file or --auth-http-address").await;
    });
}

/// A request with a token, or without one.
pub(crate) async fn request(nsqd: &Daemon, method: &str, target: &str, token: Option<&str>) -> Response {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
    http::request_with(nsqd.http(), method, target, &headers, if method == "GET" { b"" } else { b"x" }).await
}

#[test]
fn http_needs_no_token_by_default() {
    test(async {
        let file = TokenFile::new(&[alice()]);
        let nsqd = Daemon::nsqd().flag(file.flag()).start().await;
        nsqd.post("/pub?topic=t", b"x").await.expect(200);
        request(&nsqd, "GET", "/stats", Some("nonsense")).await.expect(200);
    });
}

#[test]
fn http_auth_requires_a_token_with_permission() {
    test(async {
        let file = TokenFile::new(&[
            alice(),
            token(
                "bob",
                BOB,
                json!([
                    authorization("^orders$", &["^billing$"], &["subscribe", "admin"]),
                    authorization("^$", &["^$"], &["monitor"]),
                ]),
            ),
            token("root", ROOT, json!([authorization("", &[""], &["admin", "publish"])])),
        ]);
        let nsqd = Daemon::nsqd().flag(file.flag()).flag("--http-auth").start().await;
        let (alice, bob, root) = (Some("alice"), Some("bob"), Some("root"));

        nsqd.get("/ping").await.expect(200);
        for (method, target) in
            [("GET", "/info"), ("GET", "/stats"), ("POST", "/pub?topic=orders"), ("GET", "/config/id")]
        {
            for token in [None, Some("mallory")] {
                let answer = request(&nsqd, method, target, token).await;
                assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"nsqd\""));
                answer.expect_error(401, "UNAUTHORIZED");
            }
        }
        let basic = [("Authorization", "Basic YWxpY2U=")];
        http::request_with(nsqd.http(), "GET", "/info", &basic, b"").await.expect_error(401, "UNAUTHORIZED");
        let spelled = [("authorization", "bearer   alice ")];
        http::request_with(nsqd.http(), "GET", "/info", &spelled, b"").await.expect(200);

        let cases = [
            ("GET", "/info", [true, true, true]),
            ("POST", "/pub?topic=orders", [true, false, true]),
            ("POST", "/mpub?topic=orders", [true, false, true]),
            ("POST", "/pub?topic=%6frders", [true, false, true]),
            ("POST", "/pub?topic=other&topic=orders", [false, false, true]),
            ("POST", "/topic/create?topic=orders", [true, false, true]),
            ("POST", "/topic/create?topic=other", [false, false, true]),
            ("POST", "/channel/create?topic=orders&channel=billing", [false, true, true]),
            ("POST", "/channel/create?topic=orders&channel=c", [false, false, true]),
            ("POST", "/channel/pause?topic=orders&channel=billing", [false, true, true]),
            ("POST", "/channel/unpause?topic=orders&channel=billing", [false, true, true]),
            ("POST", "/channel/empty?topic=orders&channel=billing", [false, true, true]),
            ("POST", "/topic/pause?topic=orders", [false, false, true]),
            ("POST", "/topic/unpause?topic=orders", [false, false, true]),
            ("POST", "/topic/empty?topic=orders", [false, false, true]),
            ("GET", "/stats", [false, true, true]),
            ("GET", "/stats?topic=orders&channel=billing", [false, true, true]),
            ("GET", "/stats?topic=orders", [false, false, true]),
            ("GET", "/config/id", [false, false, true]),
            ("GET", "/debug/pprof/", [false, false, true]),
            ("POST", "/debug/freememory", [false, false, true]),
            ("POST", "/channel/delete?topic=orders&channel=billing", [false, true, true]),
            ("POST", "/topic/delete?topic=orders", [false, false, true]),
        ];
        for (method, target, allowed) in cases {
            // The cases that delete come last, because the others need the topic and the channel.
            for (token, allowed) in [alice, bob, root].into_iter().zip(allowed) {
                let answer = request(&nsqd, method, target, token).await;
                if allowed {
                    // A 404 is fine for a delete: an earlier token has deleted the object.
                    let is_deleted = answer.status == 404 && target.contains("delete");
                    assert!(
                        answer.status == 200 || is_deleted,
                        "{method} {target} {token:?}: {}",
                        answer.text()
                    );
                } else {
                    eprintln!("{method} {target} {token:?}");
                    answer.expect_error(403, "FORBIDDEN");
                }
            }
        }
        // nsqd checks the token before the syntax of the query, but after the path.
        request(&nsqd, "GET", "/stats?a=%zz", root).await.expect_error(400, "INVALID_REQUEST");
        request(&nsqd, "GET", "/stats?a=%zz", None).await.expect_error(401, "UNAUTHORIZED");
        request(&nsqd, "GET", "/nowhere", None).await.expect_error(404, "NOT_FOUND");
        // A revoked token is refused.
        file.write(r#"{"token":[]}"#);
        let revoked =
            async || wait::when(request(&nsqd, "GET", "/info", root).await.status, |status| *status == 401);
        wait::until("the token is revoked", revoked).await;
    });
}

#[test]
fn monitor_permission_for_one_topic_hides_other_topics() {
    test(async {
        let publish = |topic: &str| json!([authorization(topic, &[""], &["publish"])]);
        let file = TokenFile::new(&[
            token("alice", ALICE, json!([authorization("^orders$", &[""], &["monitor"])])),
            token("bob", BOB, publish("^payroll$")),
            token("root", ROOT, json!([authorization("", &[""], &["admin", "publish", "subscribe"])])),
        ]);
        let nsqd = Daemon::nsqd().flag(file.flag()).flag("--http-auth").start().await;
        let publishing = async |secret: &str, topic: &str| {
            let mut peer = nsqd.connect().await;
            peer.identify(json!({"feature_negotiation": true, "client_id": format!("{secret}-{topic}")}))
                .await;
            peer.line_and_body("AUTH", secret).await;
            peer.response().await;
            peer.publish(topic, "x").await;
            peer
        };
        let _payroll = publishing("bob", "payroll").await;
        let _orders = publishing("root", "orders").await;
        let mut both = publishing("root", "payroll").await;
        both.publish("orders", "x").await;
        let mut consumer = publishing("root", "payroll").await;
        consumer.line("SUB orders c").await;
        consumer.response().await;

        let target = "/stats?format=json&include_storage=true&topic=orders";
        let stats = request(&nsqd, "GET", target, Some("alice")).await.expect(200).json();
        let all = request(&nsqd, "GET", target, Some("root")).await.expect(200).json();
        let producers = |stats: &Value| stats["producers"].as_array().expect("a list").clone();
        assert_eq!((producers(&stats).len(), producers(&all).len()), (2, 4));
        assert!(all.get("memory").is_some() && stats.get("memory").is_none(), "{stats}");
        assert!(stats.get("unsynced_bytes").is_none() && stats.get("storage").is_none(), "{stats}");
        assert_eq!(stats["topics"][0]["message_count"], 2);
        assert_eq!(stats["topics"][0]["channels"][0]["clients"][0]["client_id"], "root-payroll");
        assert!(stats["topics"][0]["channels"][0]["clients"][0].get("pub_counts").is_none(), "{stats}");

        let bearer = ("Authorization", "Bearer alice");
        let packed = [bearer, ("Accept", "application/msgpack")];
        let packed = http::request_with(nsqd.http(), "GET", target, &packed, b"").await.expect(200);
        let text =
            http::request_with(nsqd.http(), "GET", "/stats?topic=orders", &[bearer], b"").await.expect(200);
        let bodies = [stats.to_string(), String::from_utf8_lossy(&packed.body).into_owned(), text.text()];
        for body in bodies {
            assert!(!body.contains("bob") && !body.contains("payroll=") && !body.contains("heap_"), "{body}");
        }
        for target in
            ["/stats", "/stats?topic=payroll", "/stats?channel=c", "/metrics", "/config/id", "/debug/pprof/"]
        {
            request(&nsqd, "GET", target, Some("alice")).await.expect_error(403, "FORBIDDEN");
        }
    });
}

#[test]
fn http_asks_servers_once_per_token() {
    test(async {
        let server = AuthServer::allowing(60, everything()).await;
        let nsqd = Daemon::nsqd().flag(server.flag()).flag("--http-auth").start().await;
        for _ in 0..3 {
            request(&nsqd, "POST", "/pub?topic=t", Some("secret")).await.expect(200);
        }
        request(&nsqd, "GET", "/stats", Some("secret")).await.expect_error(403, "FORBIDDEN");
        assert_eq!(server.asked().len(), 1);
        assert_eq!(
            server.asked()[0].request,
            "GET /auth?common_name=&remote_ip=127.0.0.1&secret=secret&tls=false"
        );
        server.answer(nsq_tests::auth_server::Answer::Status(403, String::new()));
        request(&nsqd, "GET", "/info", Some("other")).await.expect_error(401, "UNAUTHORIZED");
        server.answer(nsq_tests::auth_server::Answer::Status(500, String::new()));
        request(&nsqd, "GET", "/info", Some("other")).await.expect_error(503, "AUTH_UNAVAILABLE");
    });
}
