//! Tests of the endpoints over a real socket, each with its own engine and directory.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nsq_daemon::http::{HeavyAnswers, Server};
use nsq_daemon::listen::{Address, Listener};
use nsq_daemon::log::{Level, Logger};
use nsq_protocol::json::to_json;
use nsq_protocol::{ChannelName, IdentifyReply, Stats, render_text};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::consume::HttpConsumers;
use super::{HttpContext, LookupdAddresses};
use crate::channel::{ConsumerKey, ConsumerSignal};
use crate::client_info::ClientInfo;
use crate::config::Config;
use crate::connection::ConnectionContext;
use crate::drain::Drainer;
use crate::engine::EngineLimits;
use crate::health::Part;
use crate::producers::Producers;
use crate::startup::{StartOptions, recover};
use crate::stats::{self, StatsRequest};
use crate::storage::data_dir::DataDir;
use crate::storage::file::FileStorage;
use crate::storage::{Durability, Storage};
use crate::topic::registry::Registry;

#[derive(Default)]
struct Addresses(Mutex<Vec<String>>);

impl LookupdAddresses for Addresses {
    fn get(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    fn connected(&self) -> Vec<(String, bool)> {
        self.get().into_iter().map(|address| (address, false)).collect()
    }

    fn set(&self, addresses: Vec<String>) {
        *self.0.lock() = addresses;
    }
}

/// nsqd's HTTP service, which runs until it is dropped.
struct Daemon {
    registry: Arc<Registry>,
    producers: Arc<Producers>,
    logger: Logger,
    log: Arc<Mutex<Vec<String>>>,
    port: u16,
    stop: CancellationToken,
    dir: Option<tempfile::TempDir>,
}

struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The status, and the word of an error or the text.
    fn word(&self) -> (u16, String) {
        let word = serde_json::from_slice::<Value>(&self.body).ok();
        let word = word.and_then(|value| Some(value.get("message")?.as_str()?.to_owned()));
        (self.status, word.unwrap_or_else(|| self.text()))
    }
}

fn reply(status: u16, word: &str) -> (u16, String) {
    (status, word.to_owned())
}

impl Daemon {
    async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), Durability::Write).await
    }

    async fn start_in(dir: tempfile::TempDir, durability: Durability) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = log.clone();
        let logger = Logger::to_function("", Level::Info, move |line| lines.lock().push(line.to_owned()));
        let mut config = Config::default();
        (config.max_msg_size, config.max_body_size) = (100, 1000);
        config.data_path = dir.path().to_owned();
        config.durability = durability;
        let storage: Arc<dyn Storage> = Arc::new(FileStorage);
        let registry = recover(StartOptions {
            data_dir: DataDir::open(&storage, dir.path()).unwrap(),
            storage,
            durability,
            limits: EngineLimits { journal_file_bytes: 64 << 10, ..config.engine_limits() },
            logger: logger.clone(),
            oracle: None,
            policies: Arc::default(),
        })
        .unwrap();
        let listener = Listener::bind(&Address::Tcp { host: "127.0.0.1".into(), port: 0 }).await.unwrap();
        let port = listener.local_port().unwrap();
        let producers = Arc::new(Producers::default());
        let stop = CancellationToken::new();
        let connection = Arc::new(ConnectionContext {
            registry: registry.clone(),
            limits: config.limits(),
            identify: config.identify_limits(),
            reply: IdentifyReply::default(),
            location: None,
            tls: None,
            tls_required: false,
            auth: None,
            producers: producers.clone(),
        });
        let moves = config.move_setup("here:4151".to_owned());
        let context = HttpContext {
            consumers: Arc::new(HttpConsumers::new(&config, connection, stop.clone())),
            heavy: HeavyAnswers::default(),
            registry: registry.clone(),
            producers: producers.clone(),
            config: Arc::new(config),
            logger: logger.clone(),
            started_at: SystemTime::now(),
            tcp_port: 4150,
            http_port: port.into(),
            auth: None,
            lookupd_addresses: Arc::new(Addresses::default()),
            drainer: Drainer::new(registry.clone(), logger.clone(), moves, Box::new(|| ())),
            tls_required: None,
        };
        let (server, stopped) = (Server::new(context, logger.clone()), stop.clone());
        tokio::spawn(async move { server.serve(listener, stopped).await });
        Self { registry, producers, logger, log, port, stop, dir: Some(dir) }
    }

    /// Restarts as after a kill: nothing more is written.
    async fn restart(mut self) -> Self {
        let dir = self.dir.take().unwrap();
        self.stop.cancel();
        let engine = Arc::downgrade(self.registry.engine());
        drop(self);
        // The data directory is unlocked once the server has dropped the engine.
        for _ in 0..1000 {
            if engine.strong_count() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self::start_in(dir, Durability::Write).await
    }

    async fn send(&self, head: &str, body: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let head = format!("{head}\r\nHost: h\r\nConnection: close\r\n\r\n");
        stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
        let mut bytes = Vec::new();
        // A server that refuses a body may reset the connection after its answer.
        let _ = stream.read_to_end(&mut bytes).await;
        let end = memchr::memmem::find(&bytes, b"\r\n\r\n").expect("an answer");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        Reply { status: head[9..12].parse().unwrap(), head, body: bytes[end + 4..].to_vec() }
    }

    async fn call(&self, method: &str, target: &str, body: impl AsRef<[u8]>) -> Reply {
        let body = body.as_ref();
        self.send(&format!("{method} {target} HTTP/1.1\r\nContent-Length: {}", body.len()), body).await
    }

    async fn get(&self, target: &str) -> Reply {
        self.call("GET", target, "").await
    }

    async fn post(&self, target: &str) -> (u16, String) {
        self.call("POST", target, "").await.word()
    }

    async fn publish(&self, target: &str, body: impl AsRef<[u8]>) -> (u16, String) {
        self.call("POST", target, body).await.word()
    }

    /// Publishes with a chunked body, so that the request has no Content-Length.
    async fn publish_chunked(&self, target: &str, body: &str) -> (u16, String) {
        let head = format!("POST {target} HTTP/1.1\r\nTransfer-Encoding: chunked");
        let body = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        self.send(&head, body.as_bytes()).await.word()
    }

    async fn stats(&self, parameters: &str) -> Value {
        self.get(&format!("/stats?format=json{parameters}")).await.json()
    }

    /// Statistics of a topic, without its channels.
    async fn topic(&self, name: &str) -> Value {
        let mut stats = self.stats(&format!("&topic={name}")).await;
        stats["topics"][0].take()
    }

    async fn channel(&self, topic: &str, channel: &str) -> Value {
        let mut stats = self.stats(&format!("&topic={topic}&channel={channel}")).await;
        stats["topics"][0]["channels"][0].take()
    }

    fn subscribe(&self, topic: &str, channel: &str) -> (ConsumerKey, Arc<ConsumerSignal>) {
        let channel = self.registry.get(topic).unwrap().channel(channel).unwrap();
        let info = Arc::new(ClientInfo::new("127.0.0.1:5000".into(), 1000));
        let (key, signal) = channel.subscribe(info, 60_000_000_000, 0, 0).unwrap().unwrap();
        channel.set_ready_count(key, 10);
        (key, signal)
    }

    /// Takes messages for the consumer; returns their count.
    fn take(&self, topic: &str, channel: &str, key: ConsumerKey) -> u64 {
        let channel = self.registry.get(topic).unwrap().channel(channel).unwrap();
        channel.take(key, &mut Vec::new(), 1 << 20).count
    }

    async fn topic_with_channel(&self) {
        assert_eq!(self.post("/topic/create?topic=t").await, reply(200, ""));
        assert_eq!(self.post("/channel/create?topic=t&channel=c").await, reply(200, ""));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test]
async fn publish_checks_in_the_same_order_as_nsq() {
    let nsqd = Daemon::start().await;
    let big = "x".repeat(101);
    for (target, body, status, word) in [
        ("/pub", "", 400, "MSG_EMPTY"),
        ("/pub?topic=%zz", "", 400, "MSG_EMPTY"),
        ("/pub", &*big, 413, "MSG_TOO_BIG"),
        ("/pub?topic=t;x", "m", 400, "INVALID_REQUEST"),
        ("/pub", "m", 400, "MISSING_ARG_TOPIC"),
        ("/pub?topic", "m", 400, "INVALID_TOPIC"),
        ("/pub?topic=a%20b", "m", 400, "INVALID_TOPIC"),
        ("/pub?topic=made&defer=1s", "m", 400, "INVALID_DEFER"),
        ("/pub?topic=made&defer=-1", "m", 400, "INVALID_DEFER"),
        ("/pub?topic=made&defer=3600001", "m", 400, "INVALID_DEFER"),
        ("/mpub?topic=t;x", "m", 400, "INVALID_REQUEST"),
        ("/mpub", "m", 400, "MISSING_ARG_TOPIC"),
        ("/mpub?topic=", "m", 400, "INVALID_TOPIC"),
        ("/mpub?topic=many", &*big, 413, "MSG_TOO_BIG"),
        ("/mpub?topic=many&binary=true", "", 413, "BAD_BODY"),
        ("/mpub?topic=many&binary=true", "\0\0\0\x01\0\0\0\0", 413, "BAD_MESSAGE"),
        ("/mpub?topic=many", "", 200, "OK"),
    ] {
        assert_eq!(nsqd.publish(target, body).await, reply(status, word), "{target}");
    }
    assert_eq!(
        nsqd.publish("/mpub", "m\n".repeat(501)).await,
        reply(413, "BODY_TOO_BIG"),
        "before the topic"
    );
    assert_eq!(nsqd.publish_chunked("/pub?topic=t", &big).await, reply(413, "MSG_TOO_BIG"));
    assert_eq!(
        nsqd.publish_chunked("/mpub?topic=many", &"m\n".repeat(501)).await,
        reply(413, "BODY_TOO_BIG")
    );
    assert!(nsqd.registry.get("made").is_some(), "the topic stays despite the invalid delay");
    for topic in ["made", "many"] {
        assert_eq!(nsqd.topic(topic).await["message_count"], 0, "{topic}");
    }
}

#[tokio::test]
async fn published_messages_can_be_taken() {
    let nsqd = Daemon::start().await;
    let first = nsqd.call("POST", "/pub?topic=t", "one").await;
    assert_eq!((first.status, first.text()), (200, "OK".to_owned()));
    assert!(first.head.contains("X-Nsq-Content-Type: nsq; version=1.0"), "{}", first.head);
    assert_eq!(nsqd.publish("/mpub?topic=t", "a\n\nb\nc").await, reply(200, "OK"));
    let batch = b"\0\0\0\x02\0\0\0\x01d\0\0\0\x02ee and what follows is ignored";
    for binary in ["true", "1", "", "TRUE"] {
        assert_eq!(nsqd.publish(&format!("/mpub?topic=t&binary={binary}"), batch).await, reply(200, "OK"));
    }
    assert_eq!(nsqd.publish("/pub?topic=t&defer=3600000", "later").await, reply(200, "OK"));
    assert_eq!(nsqd.publish("/pub?topic=t&defer=0", "now").await, reply(200, "OK"));
    let topic = nsqd.topic("t").await;
    assert_eq!((&topic["depth"], &topic["message_count"]), (&json!(14), &json!(14)));
    assert_eq!(topic["message_bytes"], json!(3 + 3 + 4 * 3 + 5 + 3));

    assert_eq!(nsqd.post("/channel/create?topic=t&channel=c").await, reply(200, ""));
    let channel = nsqd.channel("t", "c").await;
    assert_eq!((&channel["depth"], &channel["deferred_count"]), (&json!(13), &json!(1)));
    let (key, _signal) = nsqd.subscribe("t", "c");
    assert_eq!(nsqd.take("t", "c", key), 10);
    assert_eq!(nsqd.channel("t", "c").await["in_flight_count"], 10);
}

#[tokio::test]
async fn requests_are_logged_except_publishes() {
    let nsqd = Daemon::start().await;
    nsqd.publish("/pub?topic=t", "m").await;
    nsqd.publish("/mpub?topic=t&binary=yes", "").await;
    nsqd.post("/topic/pause?topic=absent").await;
    let log = nsqd.log.lock().join("\n");
    assert!(!log.contains("POST /pub") && !log.contains("POST /mpub"), "{log}");
    assert!(log.contains("INFO: 404 POST /topic/pause?topic=absent (127.0.0.1:"), "{log}");
    assert!(log.contains("WARNING: HTTP: deprecated value \"yes\""), "{log}");
}

#[tokio::test]
async fn admin_endpoints_answer_with_nsqs_errors() {
    let nsqd = Daemon::start().await;
    nsqd.topic_with_channel().await;
    for (target, status, word) in [
        ("/topic/create?topic=t", 200, ""),
        ("/topic/create?topic=%zz", 400, "INVALID_REQUEST"),
        ("/topic/create", 400, "MISSING_ARG_TOPIC"),
        ("/topic/create?topic=", 400, "INVALID_TOPIC"),
        ("/topic/empty", 400, "MISSING_ARG_TOPIC"),
        ("/topic/empty?topic=a+b", 400, "INVALID_TOPIC"),
        ("/topic/empty?topic=absent", 404, "TOPIC_NOT_FOUND"),
        ("/topic/delete", 400, "MISSING_ARG_TOPIC"),
        ("/topic/delete?topic=a+b", 404, "TOPIC_NOT_FOUND"),
        ("/topic/pause?topic=a+b", 404, "TOPIC_NOT_FOUND"),
        ("/topic/unpause?topic=", 404, "TOPIC_NOT_FOUND"),
        ("/channel/create?channel=a+b", 400, "MISSING_ARG_TOPIC"),
        ("/channel/create?topic=a+b", 400, "INVALID_ARG_TOPIC"),
        ("/channel/create?topic=absent", 400, "MISSING_ARG_CHANNEL"),
        ("/channel/create?topic=absent&channel=", 400, "INVALID_ARG_CHANNEL"),
        ("/channel/create?topic=absent&channel=c", 404, "TOPIC_NOT_FOUND"),
        ("/channel/create?topic=t&channel=c", 200, ""),
        ("/channel/delete?topic=t&channel=absent", 404, "CHANNEL_NOT_FOUND"),
        ("/channel/empty?topic=t&channel=absent", 404, "CHANNEL_NOT_FOUND"),
        ("/channel/pause?topic=absent&channel=absent", 404, "TOPIC_NOT_FOUND"),
        ("/channel/unpause?topic=t&channel=c", 200, ""),
        ("/create_topic?topic=t", 404, "NOT_FOUND"),
        ("/ping", 405, "METHOD_NOT_ALLOWED"),
    ] {
        assert_eq!(nsqd.post(target).await, reply(status, word), "{target}");
    }
    // The body is read and ignored.
    assert_eq!(nsqd.call("POST", "/topic/create", "topic=x").await.word(), reply(400, "MISSING_ARG_TOPIC"));
}

#[tokio::test]
async fn empty_pause_and_delete_work_on_topics_and_channels() {
    let nsqd = Daemon::start().await;
    nsqd.topic_with_channel().await;
    assert_eq!(nsqd.post("/topic/pause?topic=t").await, reply(200, ""));
    nsqd.publish("/mpub?topic=t", "a\nb").await;
    let topic = nsqd.topic("t").await;
    assert_eq!((&topic["depth"], &topic["paused"]), (&json!(2), &json!(true)));
    assert_eq!(nsqd.post("/topic/empty?topic=t").await, reply(200, ""));
    assert_eq!(nsqd.post("/topic/unpause?topic=t").await, reply(200, ""));
    assert_eq!(nsqd.topic("t").await["depth"], 0);
    assert_eq!(nsqd.channel("t", "c").await["depth"], 0);

    nsqd.publish("/mpub?topic=t", "a\nb\nc").await;
    assert_eq!(nsqd.post("/channel/pause?topic=t&channel=c").await, reply(200, ""));
    let (key, signal) = nsqd.subscribe("t", "c");
    assert_eq!(nsqd.take("t", "c", key), 0, "paused");
    assert_eq!(nsqd.channel("t", "c").await["paused"], true);
    assert_eq!(nsqd.post("/channel/unpause?topic=t&channel=c").await, reply(200, ""));
    assert_eq!(nsqd.take("t", "c", key), 3);
    assert_eq!(nsqd.post("/channel/empty?topic=t&channel=c").await, reply(200, ""));
    let channel = nsqd.channel("t", "c").await;
    assert_eq!((&channel["in_flight_count"], &channel["client_count"]), (&json!(0), &json!(1)));

    assert_eq!(nsqd.post("/channel/delete?topic=t&channel=c").await, reply(200, ""));
    assert_eq!(signal.answer(), crate::channel::signal::Call::Close);
    assert_eq!(nsqd.topic("t").await["channels"], json!([]));
    assert_eq!(nsqd.post("/topic/delete?topic=t").await, reply(200, ""));
    assert_eq!(nsqd.post("/topic/delete?topic=t").await, reply(404, "TOPIC_NOT_FOUND"));
}

#[tokio::test]
async fn ephemeral_topic_is_deleted_with_its_last_channel() {
    let nsqd = Daemon::start().await;
    nsqd.post("/topic/create?topic=e%23ephemeral").await;
    nsqd.post("/channel/create?topic=e%23ephemeral&channel=c").await;
    nsqd.post("/channel/create?topic=e%23ephemeral&channel=d").await;
    assert_eq!(nsqd.post("/channel/delete?topic=e%23ephemeral&channel=c").await, reply(200, ""));
    assert!(nsqd.registry.get("e#ephemeral").is_some());
    assert_eq!(nsqd.post("/channel/delete?topic=e%23ephemeral&channel=d").await, reply(200, ""));
    assert!(nsqd.registry.get("e#ephemeral").is_none());
}

#[tokio::test]
async fn operator_changes_survive_a_kill() {
    let nsqd = Daemon::start().await;
    nsqd.topic_with_channel().await;
    nsqd.publish("/mpub?topic=t", "a\nb").await;
    nsqd.post("/channel/pause?topic=t&channel=c").await;
    nsqd.post("/topic/create?topic=p").await;
    nsqd.post("/topic/pause?topic=p").await;
    nsqd.post("/topic/create?topic=gone").await;
    nsqd.post("/topic/delete?topic=gone").await;
    let nsqd = nsqd.restart().await;
    assert_eq!(nsqd.topic("p").await["paused"], true);
    let channel = nsqd.channel("t", "c").await;
    assert_eq!((&channel["paused"], &channel["depth"]), (&json!(true), &json!(2)));
    assert!(nsqd.registry.get("gone").is_none());
    nsqd.post("/channel/empty?topic=t&channel=c").await;
    let nsqd = nsqd.restart().await;
    assert_eq!(nsqd.channel("t", "c").await["depth"], 0);
}

#[tokio::test]
async fn stats_distinguish_null_from_empty_lists() {
    let nsqd = Daemon::start().await;
    let stats = nsqd.stats("").await;
    assert_eq!((&stats["topics"], &stats["producers"]), (&json!([]), &json!(null)));
    assert!(stats["memory"]["heap_in_use_bytes"].as_u64() > Some(0));
    nsqd.topic_with_channel().await;
    assert_eq!(nsqd.stats("&topic=absent").await["topics"], json!(null));
    assert_eq!(nsqd.stats("&channel=absent").await["topics"], json!([]));
    assert_eq!(nsqd.channel("t", "c").await["clients"], json!([]));

    let info = Arc::new(ClientInfo::new("127.0.0.1:6000".into(), 1000));
    info.count_published("t", 2);
    let _producer = nsqd.producers.add(&info);
    let (key, _signal) = nsqd.subscribe("t", "c");
    let stats = nsqd.stats("&topic=t&include_mem=0").await;
    assert_eq!(stats.get("memory"), None);
    assert_eq!(stats["producers"][0]["pub_counts"], json!([{"topic": "t", "count": 2}]));
    assert_eq!(nsqd.stats("&topic=&include_clients=no").await["producers"][0]["version"], "V2");
    let client = &nsqd.channel("t", "c").await["clients"][0];
    assert_eq!((&client["ready_count"], &client["client_id"]), (&json!(10), &json!("127.0.0.1")));
    assert_eq!(nsqd.take("t", "c", key), 0);

    let stats = nsqd.stats("&include_clients=false").await;
    assert_eq!(stats["producers"], json!(null));
    let channel = &stats["topics"][0]["channels"][0];
    assert_eq!((&channel["clients"], &channel["client_count"]), (&json!(null), &json!(1)));
    let off = json!({"count": 0, "percentiles": null});
    assert_eq!(
        (&channel["e2e_processing_latency"], &stats["topics"][0]["e2e_processing_latency"]),
        (&off, &off)
    );
}

#[tokio::test]
async fn stats_come_as_json_message_pack_or_text() {
    let nsqd = Daemon::start().await;
    nsqd.topic_with_channel().await;
    let head = "GET /stats?include_mem=false HTTP/1.1\r\nAccept: application/msgpack";
    let packed = nsqd.send(head, b"").await;
    assert!(packed.head.contains("Content-Type: application/msgpack"), "{}", packed.head);
    let packed: Stats = rmp_serde::from_slice(&packed.body).unwrap();
    let json: Stats = serde_json::from_value(nsqd.stats("&include_mem=false").await).unwrap();
    assert_eq!(packed, json);

    let text = nsqd.get("/stats?format=JSON").await;
    assert!(text.head.contains("Content-Type: text/plain; charset=utf-8"), "{}", text.head);
    let text = text.text();
    assert!(text.starts_with("nsqd v1.3.0 (built w/rustc)\nstart_time 2"), "{text}");
    assert!(
        text.contains("\nHealth: OK\n\nMemory:\n") && text.contains("   [t              ] depth: 0 "),
        "{text}"
    );
    assert_eq!(nsqd.get("/stats?topic=%zz").await.word(), reply(400, "INVALID_REQUEST"));
}

#[tokio::test]
async fn ping_reports_health_and_info_the_node() {
    let nsqd = Daemon::start().await;
    let ping = nsqd.get("/ping").await;
    assert_eq!((ping.status, ping.text()), (200, "OK".to_owned()));
    nsqd.registry.engine().set_failed(Part::Upkeep, "the disk is gone");
    let expected = format!("NOK - the disk is gone; {}", Part::Upkeep.remedy());
    let ping = nsqd.get("/ping").await;
    assert_eq!((ping.status, ping.text()), (500, expected.clone()));
    assert!(!ping.head.contains("X-Nsq"), "{}", ping.head);
    assert_eq!(nsqd.stats("").await["health"], expected);

    nsqd.registry.engine().status.set_leaving();
    let ping = async || nsqd.get("/ping").await.word();
    assert_eq!(ping().await, reply(500, &expected));
    nsqd.registry.engine().set_works(Part::Upkeep);
    assert_eq!(ping().await, reply(503, "NOK - stopping"));
    assert_eq!(nsqd.stats("").await["health"], "NOK - stopping");

    let info = nsqd.get("/info").await.json();
    assert_eq!((&info["tcp_port"], &info["http_port"]), (&json!(4150), &json!(nsqd.port)));
    assert_eq!(
        (&info["version"], &info["max_heartbeat_interval"]),
        (&json!("1.3.0"), &json!(60_000_000_000_i64))
    );
    assert!(info["start_time"].as_i64() > Some(1_600_000_000));
}

#[tokio::test]
async fn two_options_can_be_changed() {
    let nsqd = Daemon::start().await;
    let put =
        async |option: &str, body: &str| nsqd.call("PUT", &format!("/config/{option}"), body).await.word();
    let get = async |option: &str| nsqd.get(&format!("/config/{option}")).await.word();
    assert_eq!(get("nsqlookupd_tcp_addresses").await, reply(200, "[]"));
    assert_eq!(put("nsqlookupd_tcp_addresses", r#"["a:1","b:2"]"#).await, reply(200, r#"["a:1","b:2"]"#));
    assert_eq!(get("nsqlookupd_tcp_addresses").await, reply(200, r#"["a:1","b:2"]"#));
    assert_eq!(put("nsqlookupd_tcp_addresses", "a:1").await, reply(400, "INVALID_VALUE"));
    assert_eq!(put("nsqlookupd_tcp_addresses", "null").await, reply(200, "null"));
    assert_eq!(get("log_level").await, reply(200, "2"));
    assert_eq!(put("log_level", "Error").await, reply(200, "4"));
    assert_eq!(nsqd.logger.level(), Level::Error);
    assert_eq!(put("log_level", "warning").await, reply(400, "INVALID_VALUE"));
    assert_eq!(put("nonsense", "").await, reply(413, "INVALID_VALUE"));
    assert_eq!(put("log_level", &"x".repeat(101)).await, reply(413, "INVALID_VALUE"));
    assert_eq!(put("max_msg_size", "7").await, reply(400, "INVALID_OPTION"));
    assert_eq!(get("max_msg_size").await, reply(200, "100"));
    assert_eq!(get("broadcast_tcp_port").await, reply(200, "4150"));
    assert_eq!(get("node_id").await, reply(400, "INVALID_OPTION"));
    assert_eq!(get("log_prefix").await, reply(200, "[nsqd] "));
    let empty = nsqd.get("/config/statsd_address").await;
    assert!(empty.body.is_empty() && !empty.head.contains("\nContent-Type: "), "{}", empty.head);
}

#[tokio::test]
async fn debug_endpoints_answer() {
    let nsqd = Daemon::start().await;
    let put = async |target: &str, body: &str| nsqd.call("PUT", target, body).await.word();
    assert_eq!(put("/debug/setblockrate?rate=5", "").await, reply(200, "OK"));
    assert_eq!(put("/debug/setblockrate", "rate=5").await, reply(200, "OK"));
    let (status, text) = put("/debug/setblockrate?rate=often", "").await;
    assert!(status == 400 && text.starts_with("invalid block rate : "), "{text}");
    nsqd.topic_with_channel().await;
    assert_eq!(nsqd.post("/debug/freememory").await, reply(200, "OK"));
    assert_eq!(nsqd.get("/debug/pprof/").await.status, 200);
    assert_eq!(nsqd.get("/debug/pprof/symbol").await.text(), "num_symbols: 1\n");
    assert_eq!(nsqd.post("/debug/pprof/symbol").await, reply(200, "num_symbols: 1\n"));
    let arguments: Vec<String> = std::env::args().collect();
    assert_eq!(nsqd.get("/debug/pprof/cmdline").await.text(), arguments.join("\0"));
    for profile in ["profile", "heap", "goroutine", "block", "threadcreate"] {
        assert_eq!(nsqd.get(&format!("/debug/pprof/{profile}")).await.status, 501, "{profile}");
    }
    assert_eq!(nsqd.get("/debug/pprof/mutex").await.word(), reply(404, "NOT_FOUND"));
}

#[tokio::test]
async fn deleted_topic_or_stopping_daemon_answers_exiting() {
    let nsqd = Daemon::start_in(tempfile::tempdir().unwrap(), Durability::Overflow).await;
    nsqd.topic_with_channel().await;
    let topic = nsqd.registry.get("t").unwrap();
    let channel = topic.channel("c").unwrap();
    topic.close();
    assert_eq!(nsqd.publish("/pub?topic=t", "m").await, reply(503, "EXITING"));
    assert_eq!(nsqd.publish("/mpub?topic=t", "m").await, reply(503, "EXITING"));
    assert!(topic.get_or_create_channel(&ChannelName::new("new").unwrap()).await.is_err());
    assert_eq!(channel.inspect(|state, _| state.depth()), 0);
    nsqd.registry.engine().status.set_stopping();
    assert_eq!(nsqd.publish("/pub?topic=new", "m").await, reply(503, "EXITING"));
    assert_eq!(nsqd.post("/topic/create?topic=new").await, reply(503, "EXITING"));
}

#[tokio::test]
async fn long_stats_page_equals_collected_stats() {
    let nsqd = Daemon::start().await;
    for number in 0..100 {
        let name = nsq_protocol::TopicName::new(format!("topic-{number}")).unwrap();
        let topic = nsqd.registry.get_or_create(&name).await.unwrap();
        for channel in 0..number % 4 {
            topic.get_or_create_channel(&ChannelName::new(format!("c{channel}")).unwrap()).await.unwrap();
        }
    }
    for _ in 0..20 {
        nsqd.subscribe("topic-3", "c0");
    }
    nsqd.subscribe("topic-7", "c2");
    let producers: Vec<_> = (0..300)
        .map(|number| {
            let info = Arc::new(ClientInfo::new(format!("127.0.0.1:{number}"), 1000));
            info.count_published(&format!("topic-{number}"), 1);
            info
        })
        .collect();
    let _places: Vec<_> = producers.iter().map(|info| nsqd.producers.add(info)).collect();

    let start_time = nsqd.stats("&topic=none").await["start_time"].as_i64().unwrap();
    let request = StatsRequest { include_memory: false, ..StatsRequest::default() };
    for (parameters, request) in [
        ("", request),
        ("&channel=c2", StatsRequest { channel: Some("c2"), ..request }),
        ("&topic=topic-3", StatsRequest { topic: Some("topic-3"), ..request }),
        ("&topic=none", StatsRequest { topic: Some("none"), ..request }),
        ("&include_clients=false", StatsRequest { include_clients: false, ..request }),
    ] {
        let expected = stats::collect(&nsqd.registry, &nsqd.producers, start_time, request);
        let target = format!("/stats?format=json&include_mem=false{parameters}");
        let json = nsqd.send(&format!("GET {target} HTTP/1.0"), b"").await;
        assert!(json.body == to_json(&expected).unwrap(), "{parameters}");
        let packed = format!("GET {target} HTTP/1.0\r\nAccept: application/msgpack");
        let packed = nsqd.send(&packed, b"").await;
        assert!(packed.body == rmp_serde::to_vec_named(&expected).unwrap(), "{parameters}");
        let text = nsqd.send(&format!("GET {} HTTP/1.0", target.replace("format=json&", "")), b"").await;
        // Drop the parts that depend on the time.
        let lines = |text: &str| -> Vec<String> {
            let lines = text.lines().skip(3).map(|line| line.split(" connected:").next().unwrap().to_owned());
            lines.collect()
        };
        let expected = render_text(&expected, Duration::from_secs(1), "", "rustc");
        assert_eq!(lines(&String::from_utf8(text.body).unwrap()), lines(&expected), "{parameters}");
    }
    let chunked = nsqd.get("/stats?format=json").await;
    assert!(chunked.head.contains("Transfer-Encoding: chunked"), "{}", chunked.head);
    let small = nsqd.get("/stats?format=json&topic=topic-3&include_clients=false").await;
    assert!(small.head.contains("Content-Length: "), "{}", small.head);
}
