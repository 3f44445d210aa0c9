//! The TCP protocol for nodes: valid and invalid commands.

mod support;

use std::time::Duration;

use nsqlookupd::Config;
use nsqlookupd::config::Limits;
use serde_json::json;
use support::{PATIENCE, config, identify, identify_body, impatient, start, start_with};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn identify_register_ping_unregister() {
    let running = start().await;
    let mut node = running.connect().await;
    node.send(b"  V1").await;
    node.ok("PING").await;
    let answer = node.ask(&identify("b1")).await;
    let expected = format!(
        r#"{{"broadcast_address":"lookup.example","hostname":"{}","http_port":{},"tcp_port":{},"version":"1.3.0"}}"#,
        nsq_daemon::hostname(),
        running.lookupd.http_addr().port(),
        running.lookupd.tcp_addr().port(),
    );
    assert_eq!(answer, expected);
    for line in ["REGISTER t", "REGISTER t c\r", "REGISTER u ", "REGISTER v c extra words", "PING extra"] {
        node.ok(line).await;
    }
    assert_eq!(running.get("/topics").await.text(), r#"{"topics":["t","u","v"]}"#);
    assert_eq!(running.get("/channels?topic=t").await.text(), r#"{"channels":["c"]}"#);
    for line in ["UNREGISTER t c", "UNREGISTER t", "UNREGISTER never", "PING"] {
        node.ok(line).await;
    }
    assert_eq!(running.get("/lookup?topic=t").await.text(), r#"{"channels":["c"],"producers":[]}"#);
    running.lookupd.shutdown().await;
}

#[tokio::test]
async fn registrations_per_node_are_limited() {
    let limits = Limits { max_registrations: 20, ..Limits::default() };
    let running = start_with(Config { limits, ..config() }).await;
    let mut node = running.node("b1").await;
    // Unregistered names do not count.
    for n in 0..100 {
        node.ok(&format!("REGISTER t{n}#ephemeral c#ephemeral")).await;
        node.ok(&format!("UNREGISTER t{n}#ephemeral")).await;
    }
    for n in 0..9 {
        node.ok(&format!("REGISTER u{n} c")).await;
    }
    let mut refused = String::from("OK");
    for n in 0..20 {
        if refused == "OK" {
            refused = node.ask(format!("REGISTER v{n} c\n").as_bytes()).await;
        }
    }
    assert_eq!(refused, "E_INVALID REGISTER exceeds the limit of 20 topics and channels per node");
}

#[tokio::test]
async fn commands_arrive_at_once_or_byte_by_byte() {
    let running = start().await;
    let all = [b"  V1", &identify("b1")[..], b"REGISTER t c\nPING\n"].concat();
    let mut at_once = running.connect().await;
    at_once.send(&all).await;
    let mut bit_by_bit = running.connect().await;
    for byte in &all {
        bit_by_bit.send(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    for node in [&mut at_once, &mut bit_by_bit] {
        assert!(node.response().await.unwrap().starts_with('{'));
        assert_eq!(node.response().await.unwrap(), "OK");
        assert_eq!(node.response().await.unwrap(), "OK");
    }
}

#[tokio::test]
async fn node_that_disconnects_is_removed_but_its_topics_stay() {
    let running = start().await;
    let mut node = running.node("b1").await;
    node.ok("REGISTER t#ephemeral c#ephemeral").await;
    let address = node.address.to_string();
    let lookup = running.get("/lookup?topic=t%23ephemeral").await.json();
    let expected = json!({"remote_address": address, "hostname": "host", "broadcast_address": "b1", "tcp_port": 4150,
        "http_port": 4151, "version": "1.3.0", "topology_zone": "z", "topology_region": "r"});
    assert_eq!(lookup["producers"], json!([expected]));
    drop(node);
    running.get_until("/nodes", |nodes| nodes["producers"] == json!([])).await;
    let lookup = running.get("/lookup?topic=t%23ephemeral").await.json();
    assert_eq!(lookup, json!({"channels": ["c#ephemeral"], "producers": []}));
}

#[tokio::test]
async fn every_error_is_answered_and_closes_the_connection() {
    let running = start().await;
    let cases: [(&[u8], &str); 13] = [
        (b"NOPE a b\n", "E_INVALID invalid command NOPE"),
        (b"ping\n", "E_INVALID invalid command ping"),
        (b"\n", "E_INVALID invalid command "),
        (b"REGISTER t\n", "E_INVALID client must IDENTIFY"),
        (b"UNREGISTER t\n", "E_INVALID client must IDENTIFY"),
        (b"IDENTIFY\n\0\0\0\x02[]", "E_BAD_BODY IDENTIFY failed to decode JSON body"),
        (b"IDENTIFY\n\0\0\0\0", "E_BAD_BODY IDENTIFY failed to decode JSON body"),
        (b"IDENTIFY\n\0\0\0\x02{}", "E_BAD_BODY IDENTIFY missing fields"),
        (b"IDENTIFY\n\xff\xff\xff\xff", "E_BAD_BODY IDENTIFY invalid body size -1"),
        (b"IDENTIFY\n\x7f\xff\xff\xff", "E_BAD_BODY IDENTIFY body too big 2147483647 > 65536"),
        (
            &identify_body(r#"{"broadcast_address":"b","tcp_port":"1","http_port":1,"version":"1"}"#),
            "E_BAD_BODY IDENTIFY failed to decode JSON body",
        ),
        (
            &identify_body(r#"{"broadcast_address":"b","tcp_port":0,"http_port":1,"version":"1"}"#),
            "E_BAD_BODY IDENTIFY missing fields",
        ),
        (&[b'x'; 20_000], "E_INVALID command line longer than 16384 bytes"),
    ];
    for (bytes, error) in cases {
        let mut node = running.connect().await;
        node.send(b"  V1").await;
        node.refused(bytes, error).await;
    }
    let cases: [(&[u8], &str); 7] = [
        (&identify("again"), "E_INVALID cannot IDENTIFY again"),
        (b"REGISTER\n", "E_INVALID REGISTER insufficient number of params"),
        (b"UNREGISTER\n", "E_INVALID UNREGISTER insufficient number of params"),
        (b"REGISTER t$\n", "E_BAD_TOPIC REGISTER topic name 't$' is not valid"),
        (b"UNREGISTER t$\n", "E_BAD_TOPIC UNREGISTER topic name 't$' is not valid"),
        (b"REGISTER t c*\n", "E_BAD_CHANNEL REGISTER channel name 'c*' is not valid"),
        (b"REGISTER t good\nREGISTER t $\nREGISTER t never\n", "OK"),
    ];
    for (bytes, error) in cases {
        let mut node = running.node("b1").await;
        let first = node.ask(bytes).await;
        assert_eq!(first, error);
        if first == "OK" {
            assert_eq!(
                node.response().await.unwrap(),
                "E_BAD_CHANNEL REGISTER channel name '$' is not valid"
            );
        }
        assert_eq!(node.response().await, None);
    }
    assert_eq!(running.get("/channels?topic=t").await.json(), json!({"channels": ["good"]}));
    running.get_until("/nodes", |nodes| nodes["producers"] == json!([])).await;
}

#[tokio::test]
async fn invalid_magic_and_unfinished_commands() {
    let running = start().await;
    running.connect().await.refused(b"  V2", "E_BAD_PROTOCOL").await;
    running.connect().await.refused(b"GET / HTTP/1.1\r\n\r\n", "E_BAD_PROTOCOL").await;
    let cases: [(&[u8], Option<&str>); 5] = [
        (b"", None),
        (b"  V", None),
        (b"  V1PIN", None),
        (b"  V1IDENTIFY\n\0\0", Some("E_BAD_BODY IDENTIFY failed to read body size")),
        (b"  V1IDENTIFY\n\0\0\0\x09{", Some("E_BAD_BODY IDENTIFY failed to read body")),
    ];
    for (bytes, answer) in cases {
        let mut node = running.connect().await;
        node.send(bytes).await;
        node.stream.shutdown().await.unwrap();
        assert_eq!(node.response().await.as_deref(), answer, "{bytes:?}");
    }
}

#[tokio::test]
async fn unfinished_command_times_out_but_idle_node_stays() {
    let running = impatient().await;
    let mut idle = running.node("idle").await;
    let cases: [(&[u8], Option<&str>); 4] = [
        (b"", None),
        (b"  V", None),
        (b"  V1REGIS", None),
        (b"  V1IDENTIFY\n\0\0\0\x09{", Some("E_BAD_BODY IDENTIFY failed to read body")),
    ];
    for (bytes, answer) in cases {
        let mut node = running.connect().await;
        node.send(bytes).await;
        assert_eq!(node.response().await.as_deref(), answer, "{bytes:?}");
        if answer.is_some() {
            assert_eq!(node.response().await, None);
        }
    }
    idle.ok("PING").await;
}

#[tokio::test]
async fn node_that_does_not_read_responses_is_disconnected() {
    let running = impatient().await;
    let mut node = running.node("b1").await;
    let pings = b"PING\n".repeat(10_000);
    let (_reader, mut writer) = node.stream.split();
    let flood = async { while writer.write_all(&pings).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, flood).await.expect("the connection is closed");
    running.get_until("/nodes", |nodes| nodes["producers"] == json!([])).await;
}

#[tokio::test]
async fn shutdown_closes_connections_and_frees_the_ports() {
    let running = start().await;
    let mut node = running.node("b1").await;
    let (tcp, http) = (running.lookupd.tcp_addr(), running.lookupd.http_addr());
    tokio::time::timeout(PATIENCE, running.lookupd.shutdown()).await.expect("shutdown completes");
    assert_eq!(node.response().await, None);
    for address in [tcp, http] {
        tokio::net::TcpListener::bind(address).await.unwrap();
    }
    let lines = running.lines.lock();
    assert!(lines[0].ends_with(&format!("INFO: TCP: listening on {tcp}")), "{}", lines[0]);
    assert!(lines[1].ends_with(&format!("INFO: HTTP: listening on {http}")), "{}", lines[1]);
}

#[tokio::test]
async fn silent_nodes_are_hidden() {
    let config = nsqlookupd::Config { inactive_producer_timeout: Duration::ZERO, ..support::config() };
    let running = support::start_with(config).await;
    running.node("b1").await.ok("REGISTER t").await;
    running.get_until("/nodes", |nodes| nodes["producers"] == json!([])).await;
    assert_eq!(running.get("/lookup?topic=t").await.json(), json!({"channels": [], "producers": []}));
}
