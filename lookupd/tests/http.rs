//! The HTTP endpoints for clients.

mod support;

use serde_json::json;
use support::start;

#[tokio::test]
async fn ping_and_info() {
    let running = start().await;
    let ping = running.get("/ping").await;
    assert_eq!((ping.status, ping.text()), (200, "OK"));
    assert!(!ping.head.contains("X-Nsq-Content-Type"));
    let info = running.get("/info").await;
    assert_eq!(info.text(), r#"{"version":"1.3.0"}"#);
    assert!(info.head.contains("\r\nX-Nsq-Content-Type: nsq; version=1.0\r\n"), "{}", info.head);
}

#[tokio::test]
async fn empty_database_returns_empty_lists() {
    let running = start().await;
    assert_eq!(running.get("/topics").await.text(), r#"{"topics":[]}"#);
    assert_eq!(running.get("/channels?topic=t").await.text(), r#"{"channels":[]}"#);
    assert_eq!(running.get("/nodes").await.text(), r#"{"producers":[]}"#);
    assert_eq!(running.get("/debug").await.text(), "{}");
    let lookup = running.get("/lookup?topic=t").await;
    assert_eq!((lookup.status, lookup.text()), (404, r#"{"message":"TOPIC_NOT_FOUND"}"#));
}

#[tokio::test]
async fn topics_and_channels_are_created_and_deleted() {
    let running = start().await;
    for target in
        ["/topic/create?topic=t", "/topic/create?topic=t", "/channel/create?topic=u%23ephemeral&channel=c"]
    {
        let answer = running.post(target).await;
        assert_eq!((answer.status, answer.text()), (200, ""), "{target}");
        assert!(!answer.head.contains("\r\nContent-Type: "), "{}", answer.head);
    }
    assert_eq!(running.get("/topics").await.json(), json!({"topics": ["t", "u#ephemeral"]}));
    assert_eq!(running.get("/channels?topic=*").await.json(), json!({"channels": ["c"]}));
    assert_eq!(running.get("/lookup?topic=*").await.json(), json!({"channels": ["c"], "producers": []}));
    assert_eq!(running.post("/channel/delete?topic=u%23ephemeral&channel=c").await.status, 200);
    let again = running.post("/channel/delete?topic=u%23ephemeral&channel=c").await;
    assert_eq!((again.status, again.text()), (404, r#"{"message":"CHANNEL_NOT_FOUND"}"#));
    for topic in ["t", "t", "never", "*", "not$valid"] {
        assert_eq!(running.post(&format!("/topic/delete?topic={topic}")).await.status, 200, "{topic}");
    }
    assert_eq!(running.get("/topics").await.json(), json!({"topics": ["u#ephemeral"]}));
}

#[tokio::test]
async fn errors_follow_the_order_of_checks() {
    let running = start().await;
    let cases = [
        ("POST", "/topic/create", "MISSING_ARG_TOPIC"),
        ("POST", "/topic/create?topic", "INVALID_ARG_TOPIC"),
        ("POST", "/topic/create?topic=a;b", "INVALID_REQUEST"),
        ("POST", "/topic/delete", "MISSING_ARG_TOPIC"),
        ("POST", "/topic/delete?topic=%zz", "INVALID_REQUEST"),
        ("POST", "/topic/tombstone?node=n", "MISSING_ARG_TOPIC"),
        ("POST", "/topic/tombstone?topic=t", "MISSING_ARG_NODE"),
        ("POST", "/channel/create?channel=$", "MISSING_ARG_TOPIC"),
        ("POST", "/channel/create?topic=$", "INVALID_ARG_TOPIC"),
        ("POST", "/channel/create?topic=t", "MISSING_ARG_CHANNEL"),
        ("POST", "/channel/create?topic=t&channel=$", "INVALID_ARG_CHANNEL"),
        ("POST", "/channel/delete?topic=t&channel=", "INVALID_ARG_CHANNEL"),
        ("GET", "/lookup", "MISSING_ARG_TOPIC"),
        ("GET", "/lookup?;", "INVALID_REQUEST"),
        ("GET", "/channels", "MISSING_ARG_TOPIC"),
        ("GET", "/channels?topic=%", "INVALID_REQUEST"),
    ];
    for (method, target, word) in cases {
        let answer = running.request(method, target, "").await;
        assert_eq!((answer.status, answer.json()), (400, json!({"message": word})), "{method} {target}");
    }
    assert_eq!(running.get("/nope").await.json(), json!({"message": "NOT_FOUND"}));
    assert_eq!(running.get("/topic/create?topic=t").await.status, 405);
    assert_eq!(running.get("/topics").await.json(), json!({"topics": []}));
}

#[tokio::test]
async fn nodes_and_tombstones() {
    let running = start().await;
    let (mut one, mut two) = (running.node("b1").await, running.node("b2").await);
    for node in [&mut one, &mut two] {
        node.ok("REGISTER t c").await;
        node.ok("REGISTER u").await;
    }
    assert_eq!(running.post("/topic/tombstone?topic=t&node=b1:4151").await.status, 200);
    assert_eq!(running.post("/topic/tombstone?topic=t&node=nobody:1").await.status, 200);
    assert_eq!(running.post("/topic/tombstone?topic=never&node=b1:4151").await.status, 200);

    let lookup = running.get("/lookup?topic=t").await.json();
    assert_eq!(lookup["channels"], json!(["c"]));
    assert_eq!(lookup["producers"].as_array().unwrap().len(), 1);
    assert_eq!(lookup["producers"][0]["broadcast_address"], "b2");
    assert_eq!(running.get("/lookup?topic=u").await.json()["producers"].as_array().unwrap().len(), 2);

    let nodes = running.get("/nodes").await;
    let expected = format!(
        r#"{{"producers":[{{"remote_address":"{}","hostname":"host","broadcast_address":"b1","tcp_port":4150,"http_port":4151,"version":"1.3.0","topology_zone":"z","topology_region":"r","tombstones":[true,false],"topics":["t","u"]}},"#,
        one.address
    );
    assert!(nodes.text().starts_with(&expected), "{}", nodes.text());

    let debug = running.get("/debug").await.json();
    let keys: Vec<&String> = debug.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["channel:t:c", "client::", "topic:t:", "topic:u:"]);
    let record = &debug["topic:t:"][0];
    assert_eq!((&record["id"], &record["tombstoned"]), (&json!(one.address.to_string()), &json!(true)));
    assert!(record["tombstoned_at"].as_i64() > record["last_update"].as_i64());
    assert_eq!(debug["topic:t:"][1]["tombstoned_at"], json!(-6_795_364_578_871_345_152_i64));

    // REGISTER alone keeps the tombstone; the new record after UNREGISTER is visible.
    one.ok("REGISTER t").await;
    assert_eq!(running.get("/lookup?topic=t").await.json()["producers"].as_array().unwrap().len(), 1);
    one.ok("UNREGISTER t").await;
    one.ok("REGISTER t").await;
    assert_eq!(running.get("/lookup?topic=t").await.json()["producers"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn message_pack_is_sent_on_request() {
    let running = start().await;
    running.post("/topic/create?topic=t").await;
    let answer = running.request("GET", "/topics", "Accept: application/msgpack\r\n").await;
    assert!(answer.head.contains("\r\nContent-Type: application/msgpack\r\n"), "{}", answer.head);
    assert_eq!(answer.body, b"\x81\xa6topics\x91\xa1t");
    let answer = running.request("GET", "/lookup?topic=x", "Accept: application/msgpack\r\n").await;
    assert_eq!((answer.status, &answer.body[..]), (404, &b"\x81\xa7message\xafTOPIC_NOT_FOUND"[..]));
}

#[tokio::test]
async fn pprof_endpoints_answer_without_a_profiler() {
    let running = start().await;
    assert!(running.get("/debug/pprof").await.text().contains("/debug/pprof/cmdline"));
    let slash = running.get("/debug/pprof/").await;
    assert!(slash.status == 301 && slash.head.contains("\r\nLocation: /debug/pprof\r\n"), "{}", slash.head);
    let program = std::env::args().next().unwrap();
    assert!(running.get("/debug/pprof/cmdline").await.text().starts_with(&program));
    assert_eq!(running.post("/debug/pprof/symbol").await.text(), "num_symbols: 1\n");
    let heap = running.get("/debug/pprof/heap").await;
    assert!(
        heap.status == 501 && heap.text().contains("the heap profile is not available"),
        "{}",
        heap.text()
    );
    assert_eq!(running.get("/debug/pprof/mutex").await.status, 404);
}

#[tokio::test]
async fn requests_are_logged() {
    let running = start().await;
    running.post("/topic/create?topic=t").await;
    let deadline = tokio::time::Instant::now() + support::PATIENCE;
    let is_logged = || {
        running
            .lines
            .lock()
            .iter()
            .any(|line| line.contains("INFO: 200 POST /topic/create?topic=t (127.0.0.1:"))
    };
    while !is_logged() {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", running.lines.lock());
        tokio::task::yield_now().await;
    }
}
