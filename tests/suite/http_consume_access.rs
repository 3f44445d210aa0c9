use std::path::Path;

use nsq_tests::auth_server::authorization;
use nsq_tests::http::{Connection, Response, request_with};
use nsq_tests::websocket::{BINARY, WebSocket};
use nsq_tests::wire::command;
use nsq_tests::{Daemon, foreign, test};
use serde_json::json;

use crate::tokens::{ALICE, BOB, TokenFile, token};

const APP: &str = "https://app.example.com";
const TAKE: &str = "/channel/take?topic=t&channel=c";
const EVENTS: &str = "/channel/events?topic=t&channel=c";

/// The endpoints that pages may use, with their methods.
const FOR_PAGES: [(&str, &str); 8] = [
    ("POST", "/pub?topic=t"),
    ("POST", "/mpub?topic=t"),
    ("POST", TAKE),
    ("POST", "/channel/finish?topic=t&channel=c"),
    ("POST", "/channel/requeue?topic=t&channel=c"),
    ("POST", "/channel/touch?topic=t&channel=c"),
    ("POST", "/ticket?topic=t&channel=c"),
    ("GET", EVENTS),
];

async fn send(nsqd: &Daemon, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    request_with(nsqd.http(), method, target, headers, b"x").await
}

/// Requests events, and returns the head of the answer and what of the stream is read.
async fn events(nsqd: &Daemon, target: &str, headers: &[(&str, &str)]) -> (Response, Connection) {
    let mut head = format!("GET {target} HTTP/1.1\r\nHost: {}\r\n", nsqd.http());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut connection = Connection::open(nsqd.http()).await;
    connection.send((head + "\r\n").as_bytes()).await;
    let response = connection.head(target).await.expect("an answer");
    (response, connection)
}

#[test]
fn pages_of_configured_origins_may_publish_and_consume() {
    test(async {
        let nsqd = Daemon::nsqd().flag(format!("--http-cors-origin={APP}")).start().await;
        let question = [
            ("Origin", APP),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "authorization,x-nsq-color"),
        ];
        for (method, target) in FOR_PAGES {
            let answer = send(&nsqd, "OPTIONS", target, &question).await.expect(200);
            assert_eq!(answer.header("access-control-allow-origin"), Some(APP), "{target}");
            assert!(
                answer.header("access-control-allow-methods").is_some_and(|methods| methods.contains(method))
            );
            assert_eq!(answer.header("access-control-allow-headers"), Some("authorization,x-nsq-color"));
            assert_eq!(answer.header("access-control-allow-credentials"), None);
            assert_eq!(answer.header("vary"), Some("Origin"));
            if target == EVENTS {
                continue;
            }
            let cross_site = [("Origin", APP), ("Sec-Fetch-Site", "cross-site")];
            let answer = send(&nsqd, method, target, &cross_site).await;
            assert_eq!(
                (answer.status, answer.header("access-control-allow-origin")),
                (200, Some(APP)),
                "{target}"
            );
        }
        let (answer, _connection) = events(&nsqd, EVENTS, &[("Origin", APP)]).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(APP)));
        // Errors can be read too.
        let answer = send(&nsqd, "POST", "/channel/take?topic=t", &[("Origin", APP)]).await.expect(400);
        assert_eq!(answer.header("access-control-allow-origin"), Some(APP));
        // Other endpoints take no part, and other origins neither.
        let answer = send(&nsqd, "OPTIONS", "/topic/delete", &question).await.expect(200);
        assert_eq!(answer.header("access-control-allow-origin"), None);
        send(&nsqd, "POST", "/topic/delete?topic=t", &[("Origin", APP)]).await.expect(403);
        let other = [("Origin", "https://evil.example"), question[1]];
        let answer = send(&nsqd, "OPTIONS", TAKE, &other).await.expect(200);
        assert_eq!(answer.header("access-control-allow-origin"), None);
        send(&nsqd, "POST", TAKE, &other[..1]).await.expect(403);
    });
}

#[test]
fn cors_is_off_by_default() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let question = [("Origin", APP), ("Access-Control-Request-Method", "POST")];
        for (method, target) in FOR_PAGES {
            let answer = send(&nsqd, "OPTIONS", target, &question).await.expect(200);
            assert_eq!(answer.header("access-control-allow-origin"), None, "{target}");
            let answer = send(&nsqd, method, target, &question[..1]).await.expect(403);
            assert!(answer.text().contains("CROSS_SITE_REQUEST"), "{target}: {}", answer.text());
            assert_eq!(answer.header("access-control-allow-origin"), None, "{target}");
        }
        assert!(nsqd.topic("t").await.is_none(), "nothing took effect");
    });
}

#[test]
fn invalid_cors_origins_stop_the_start() {
    test(async {
        for origin in
            ["*", "app.example.com", "https://app.example.com/path", "null", "https://*.example.com"]
        {
            let (status, log) =
                Daemon::nsqd().flag(format!("--http-cors-origin={origin}")).expect_exit().await;
            assert!(!status.success());
            assert!(
                log.contains("--http-cors-origin") && log.contains("such as https://app.example.com"),
                "{}",
                log.text()
            );
        }
    });
}

#[test]
fn pages_of_other_sites_cannot_take_messages_by_get() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "kept").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        let browser = ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64)");
        let requests: [&[(&str, &str)]; 5] = [
            &[browser, ("Origin", "https://evil.example")],
            &[browser, ("Origin", "null")],
            &[browser, ("Sec-Fetch-Site", "cross-site")],
            // An image on a page that hides where it comes from, in a network without HTTPS.
            &[browser],
            &[browser, ("Referer", "http://evil.example/page")],
        ];
        for headers in requests {
            let refused = send(&nsqd, "GET", EVENTS, headers).await.expect(403).text();
            assert!(refused.contains("CROSS_SITE_REQUEST"), "{headers:?}: {refused}");
            let refusal = WebSocket::connect(nsqd.http(), "/v2", headers).await.err().expect("a refusal");
            assert_eq!(refusal.status, 403, "{headers:?}");
        }
        let channel = nsqd.channel("t", "c").await.expect("a channel");
        assert_eq!((channel.depth, channel.client_count), (1, 0));
        // Its own page may, and one that is allowed.
        let own = format!("http://{}", nsqd.http());
        assert!(WebSocket::connect(nsqd.http(), "/v2", &[browser, ("Origin", &own)]).await.is_ok());
        let nsqd = Daemon::nsqd().flag(format!("--http-cors-origin={APP}")).start().await;
        assert!(WebSocket::connect(nsqd.http(), "/v2", &[browser, ("Origin", APP)]).await.is_ok());
    });
}

#[test]
fn example_page_shows_what_it_publishes() {
    if foreign::left_out() {
        println!("left out: NSQ_TESTS_NO_FOREIGN is set");
        return;
    }
    test(async {
        let origin = "http://127.0.0.1:8000";
        let nsqd = Daemon::nsqd().flag(format!("--http-cors-origin={origin}")).start().await;
        nsqd.admin("/topic/create?topic=example").await;
        nsqd.admin("/channel/create?topic=example&channel=work").await;
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/consume.html");
        let mut page = foreign::run_page(&page, origin, &format!("?nsqd=http://{}", nsqd.http()));
        let mut shown = Vec::new();
        for _ in 0..2 {
            let item = page.next("shown").await;
            assert_eq!(item["text"], "published by the page");
            shown.push(item["list"].as_str().expect("a list").to_owned());
        }
        shown.sort_unstable();
        assert_eq!(shown, ["events", "work"]);
        nsqd.channel_until_finished("example", "work").await;
        nsqd.channel_until_finished("example", "page#ephemeral").await;
    });
}

/// nsqd with tokens: `alice` may publish to `t`, `bob` may consume `t/c`.
async fn with_tokens() -> (Daemon, TokenFile) {
    let file = TokenFile::new(&[
        token("alice", ALICE, json!([authorization("^t$", &[""], &["publish"])])),
        token("bob", BOB, json!([authorization("^t$", &["^c$"], &["subscribe"])])),
    ]);
    let nsqd = Daemon::nsqd().flag(file.flag()).flag("--http-auth").start().await;
    (nsqd, file)
}

fn bearer(token: &'static str) -> [(&'static str, &'static str); 1] {
    let header = match token {
        "alice" => "Bearer alice",
        "bob" => "Bearer bob",
        _ => "Bearer mallory",
    };
    [("Authorization", header)]
}

#[test]
fn consuming_needs_the_permission_to_subscribe() {
    test(async {
        let (nsqd, _file) = with_tokens().await;
        let consuming = [
            ("POST", TAKE),
            ("POST", "/channel/finish?topic=t&channel=c"),
            ("POST", "/channel/requeue?topic=t&channel=c"),
            ("POST", "/channel/touch?topic=t&channel=c"),
        ];
        for (method, target) in consuming {
            send(&nsqd, method, target, &[]).await.expect_error(401, "UNAUTHORIZED");
            send(&nsqd, method, target, &bearer("mallory")).await.expect_error(401, "UNAUTHORIZED");
            send(&nsqd, method, target, &bearer("alice")).await.expect_error(403, "FORBIDDEN");
            let other = target.replace("channel=c", "channel=d");
            send(&nsqd, method, &other, &bearer("bob")).await.expect_error(403, "FORBIDDEN");
            send(&nsqd, method, target, &bearer("bob")).await.expect(200);
        }
        for (headers, status) in [(&[][..], 401), (&bearer("alice"), 403), (&bearer("bob"), 200)] {
            let (answer, _connection) = events(&nsqd, EVENTS, headers).await;
            assert_eq!(answer.status, status);
        }
        // A token that a URL contains is not accepted.
        nsqd.get(&format!("{EVENTS}&token=bob")).await.expect_error(401, "UNAUTHORIZED");
    });
}

#[test]
fn websocket_authenticates_in_its_request_or_with_auth() {
    test(async {
        let (nsqd, _file) = with_tokens().await;
        let connect = async |target: &str, headers: &[(&str, &str)]| {
            WebSocket::connect(nsqd.http(), target, headers).await
        };
        // Without a token, AUTH is necessary, as over TCP.
        let mut socket = connect("/v2", &[]).await.unwrap_or_else(|refusal| panic!("{refusal:?}"));
        socket.send(BINARY, b"  V2SUB t c\n").await;
        let (kind, data) = socket.nsq_frame().await;
        assert_eq!((kind, data.starts_with(b"E_AUTH_FIRST")), (1, true), "{data:?}");
        let mut socket = connect("/v2", &[]).await.unwrap_or_else(|refusal| panic!("{refusal:?}"));
        socket.send(BINARY, [b"  V2".to_vec(), command("AUTH", "bob"), b"SUB t c\n".to_vec()].concat()).await;
        assert_eq!(socket.nsq_frame().await.0, 0);
        socket.response("OK").await;
        // With a token, the connection has its rights.
        let mut socket = connect("/v2", &bearer("bob")).await.unwrap_or_else(|refusal| panic!("{refusal:?}"));
        let identify = command("IDENTIFY", json!({"feature_negotiation": true}).to_string());
        socket.send(BINARY, [b"  V2".to_vec(), identify].concat()).await;
        let (_, reply) = socket.nsq_frame().await;
        assert!(String::from_utf8_lossy(&reply).contains("\"auth_required\":false"), "{reply:?}");
        socket.send(BINARY, b"SUB t c\n").await;
        socket.response("OK").await;
        let mut socket =
            connect("/v2", &bearer("alice")).await.unwrap_or_else(|refusal| panic!("{refusal:?}"));
        socket.send(BINARY, b"  V2SUB t c\n").await;
        assert!(socket.nsq_frame().await.1.starts_with(b"E_UNAUTHORIZED"));
        let refusal = connect("/v2", &bearer("mallory")).await.err().expect("a refusal");
        refusal.expect_error(401, "UNAUTHORIZED");
    });
}

async fn ticket(nsqd: &Daemon, parameters: &str, headers: &[(&str, &str)]) -> String {
    let answer = send(nsqd, "POST", &format!("/ticket?{parameters}"), headers).await.expect(200).json();
    assert_eq!(answer["expires_in"], 30);
    let ticket = answer["ticket"].as_str().expect("a ticket");
    assert_eq!(ticket.len(), 36);
    ticket.to_owned()
}

#[test]
fn ticket_replaces_the_token_of_one_request() {
    test(async {
        let (nsqd, _file) = with_tokens().await;
        send(&nsqd, "POST", "/pub?topic=t", &bearer("alice")).await.expect(200);
        let bob = bearer("bob");
        let first = ticket(&nsqd, "topic=t&channel=c", &bob).await;
        let (answer, _stream) = events(&nsqd, &format!("{EVENTS}&ticket={first}"), &[]).await;
        assert_eq!(answer.status, 200);
        // It works once, and for its channel.
        nsqd.get(&format!("{EVENTS}&ticket={first}")).await.expect_error(401, "UNAUTHORIZED");
        let second = ticket(&nsqd, "topic=t&channel=c", &bob).await;
        nsqd.get(&format!("/channel/events?topic=t&channel=d&ticket={second}"))
            .await
            .expect_error(403, "FORBIDDEN");
        nsqd.get(&format!("{EVENTS}&ticket={second}")).await.expect_error(401, "UNAUTHORIZED");
        nsqd.get(&format!("{EVENTS}&ticket=nonsense")).await.expect_error(401, "UNAUTHORIZED");
        // A ticket gives no rights that its token does not have.
        for (parameters, headers) in [
            ("topic=t&channel=d", bearer("bob")),
            ("topic=t&channel=c&rights=publish", bearer("bob")),
            ("topic=t&channel=c", bearer("alice")),
        ] {
            send(&nsqd, "POST", &format!("/ticket?{parameters}"), &headers)
                .await
                .expect_error(403, "FORBIDDEN");
        }
        send(&nsqd, "POST", "/ticket?topic=t&channel=c", &[]).await.expect_error(401, "UNAUTHORIZED");
        for (parameters, word) in [
            ("", "MISSING_ARG_TOPIC"),
            ("topic=t", "MISSING_ARG_CHANNEL"),
            ("topic=t&channel=c&rights=admin", "INVALID_ARG_RIGHTS"),
            ("topic=t&channel=a+b", "INVALID_ARG_CHANNEL"),
        ] {
            let answer = send(&nsqd, "POST", &format!("/ticket?{parameters}"), &bob).await.expect(400).text();
            assert!(answer.contains(word), "{parameters}: {answer}");
        }
        // The log does not show tickets.
        nsqd.log().expect("ticket=***").await;
        let third = ticket(&nsqd, "topic=t&channel=c", &bob).await;
        let (_, _stream) =
            events(&nsqd, &format!("/channel/events?ti%63ket={third}&topic=t&channel=c"), &[]).await;
        for ticket in [first, second, third] {
            assert!(!nsqd.log().contains(&ticket), "{}", nsqd.log().text());
        }
    });
}

#[test]
fn websocket_with_a_ticket_has_its_rights_only() {
    test(async {
        let (nsqd, _file) = with_tokens().await;
        let subscribing = ticket(&nsqd, "topic=t&channel=c", &bearer("bob")).await;
        let target = format!("/v2?ticket={subscribing}");
        let mut socket = WebSocket::connect(nsqd.http(), &target, &[])
            .await
            .unwrap_or_else(|refusal| panic!("{refusal:?}"));
        socket.send(BINARY, b"  V2SUB t c\n").await;
        socket.response("OK").await;
        socket.send(BINARY, command("PUB t", "x")).await;
        assert!(socket.nsq_frame().await.1.starts_with(b"E_UNAUTHORIZED"));
        assert!(WebSocket::connect(nsqd.http(), &target, &[]).await.is_err(), "it works once");

        let publishing = ticket(&nsqd, "topic=t&rights=publish", &bearer("alice")).await;
        let target = format!("/v2?ticket={publishing}");
        let mut socket = WebSocket::connect(nsqd.http(), &target, &[])
            .await
            .unwrap_or_else(|refusal| panic!("{refusal:?}"));
        socket.send(BINARY, [b"  V2".to_vec(), command("PUB t", "x")].concat()).await;
        socket.response("OK").await;
        socket.send(BINARY, b"SUB t c\n").await;
        assert!(socket.nsq_frame().await.1.starts_with(b"E_UNAUTHORIZED"));
    });
}

#[test]
fn tickets_work_without_tokens_too() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let text = ticket(&nsqd, "topic=t&channel=c", &[]).await;
        assert_eq!(nsqd.metrics().await.value("nsq_http_tickets"), 1.0);
        let (answer, _stream) = events(&nsqd, &format!("{EVENTS}&ticket={text}"), &[]).await;
        assert_eq!(answer.status, 200);
        assert_eq!(nsqd.metrics().await.value("nsq_http_tickets"), 0.0);
        nsqd.get(&format!("{EVENTS}&ticket={text}")).await.expect_error(401, "UNAUTHORIZED");
    });
}

/// Without `--http-auth`, anybody gets a ticket; it must not replace AUTH.
#[test]
fn ticket_without_a_token_gives_no_rights() {
    test(async {
        let file =
            TokenFile::new(&[token("bob", BOB, json!([authorization("^t$", &["^c$"], &["subscribe"])]))]);
        let nsqd = Daemon::nsqd().flag(file.flag()).start().await;
        let text = ticket(&nsqd, "topic=t&channel=c", &[]).await;
        let target = format!("/v2?ticket={text}");
        let mut socket = WebSocket::connect(nsqd.http(), &target, &[])
            .await
            .unwrap_or_else(|refusal| panic!("{refusal:?}"));
        socket.send(BINARY, b"  V2SUB t c\n").await;
        assert!(socket.nsq_frame().await.1.starts_with(b"E_AUTH_FIRST"));
    });
}
