use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use nsq_tests::wire::command;
use nsq_tests::{Daemon, http, test, test_within, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PATIENCE: Duration = Duration::from_secs(15);

/// nsqd registers again within two of its 15-second heartbeats, as in NSQ.
const REGISTERED_AGAIN: Duration = Duration::from_secs(40);

/// A node that is not our nsqd, as nsqlookupd sees it.
struct Node {
    stream: TcpStream,
}

impl Node {
    async fn connect(lookupd: &Daemon) -> Self {
        let mut stream = TcpStream::connect(lookupd.tcp()).await.expect("nsqlookupd accepts");
        stream.write_all(b"  V1").await.expect("nsqlookupd reads");
        Node { stream }
    }

    /// A node that has identified with this broadcast address.
    async fn identified(lookupd: &Daemon, broadcast_address: &str) -> Self {
        let mut node = Self::connect(lookupd).await;
        node.stream.write_all(&identify(broadcast_address)).await.expect("nsqlookupd reads");
        let reply: Value = serde_json::from_slice(&node.answer().await.expect("an answer")).expect("JSON");
        assert_eq!(reply["tcp_port"], lookupd.tcp().port());
        assert_eq!(reply["http_port"], lookupd.http().port());
        assert_eq!(reply["broadcast_address"], "127.0.0.1");
        assert_eq!(reply["version"], "1.3.0");
        node
    }

    /// The next answer; `None` at the end of the connection.
    async fn answer(&mut self) -> Option<Vec<u8>> {
        let read = async {
            let size = self.stream.read_u32().await.ok()?;
            let mut answer = vec![0; size as usize];
            self.stream.read_exact(&mut answer).await.ok()?;
            Some(answer)
        };
        tokio::time::timeout(PATIENCE, read).await.expect("nsqlookupd answers or closes in time")
    }

    async fn ask(&mut self, bytes: impl AsRef<[u8]>) -> String {
        self.stream.write_all(bytes.as_ref()).await.expect("nsqlookupd reads");
        String::from_utf8(self.answer().await.expect("an answer")).expect("text")
    }

    async fn ok(&mut self, line: &str) {
        assert_eq!(self.ask(format!("{line}\n")).await, "OK", "{line}");
    }
}

fn identify(broadcast_address: &str) -> Vec<u8> {
    let info = json!({"broadcast_address": broadcast_address, "hostname": "host", "http_port": 4151,
        "tcp_port": 4150, "version": "1.3.0", "topology_zone": "z", "topology_region": "r"});
    command("IDENTIFY", info.to_string())
}

/// The broadcast ports of the producers that a lookupd knows for a topic.
async fn producers(lookupd: &Daemon, topic: &str) -> BTreeSet<u64> {
    let answer = lookupd.get(&format!("/lookup?topic={topic}")).await;
    if answer.status == 404 {
        return BTreeSet::new();
    }
    let answer = answer.expect(200).json();
    let producers = answer["producers"].as_array().expect("producers");
    producers.iter().map(|producer| producer["tcp_port"].as_u64().expect("a port")).collect()
}

fn ports<'a>(nsqds: impl IntoIterator<Item = &'a Daemon>) -> BTreeSet<u64> {
    nsqds.into_iter().map(|nsqd| u64::from(nsqd.tcp().port())).collect()
}

async fn names(lookupd: &Daemon, target: &str, key: &str) -> BTreeSet<String> {
    let answer = lookupd.get_json(target).await;
    let names = answer[key].as_array().expect("a list, never null");
    names.iter().map(|name| name.as_str().expect("a name").to_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

// nsqlookupd's TCP protocol

#[test]
fn other_nsqd_implementation_registers_and_is_found() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        let mut node = Node::identified(&lookupd, "b1").await;
        node.ok("REGISTER t").await;
        node.ok("REGISTER t c\r").await;
        node.ok("PING").await;
        let answer = lookupd.get_json("/lookup?topic=t").await;
        assert_eq!(answer["channels"], json!(["c"]));
        let expected = json!([{"remote_address": node.stream.local_addr().expect("an address").to_string(),
            "hostname": "host", "broadcast_address": "b1", "tcp_port": 4150, "http_port": 4151,
            "version": "1.3.0", "topology_zone": "z", "topology_region": "r"}]);
        assert_eq!(answer["producers"], expected);
        let nodes = lookupd.get_json("/nodes").await;
        assert_eq!(nodes["producers"][0]["topics"], json!(["t"]));
        assert_eq!(nodes["producers"][0]["tombstones"], json!([false]));

        node.ok("UNREGISTER t c").await;
        assert_eq!(
            lookupd.get_json("/lookup?topic=t").await["channels"],
            json!(["c"]),
            "nsqlookupd keeps the channel"
        );
        node.ok("UNREGISTER t").await;
        assert_eq!(lookupd.get_json("/lookup?topic=t").await["producers"], json!([]));
        node.ok("UNREGISTER unknown").await;
    });
}

#[test]
fn node_is_removed_when_its_connection_closes() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        let mut node = Node::identified(&lookupd, "b1").await;
        node.ok("REGISTER t c").await;
        drop(node);
        let check = async || {
            let answer = lookupd.get_json("/lookup?topic=t").await;
            wait::when(answer["producers"].clone(), |producers| *producers == json!([]))
        };
        wait::until("the node is removed", check).await;
        assert_eq!(lookupd.get_json("/nodes").await, json!({"producers": []}));
        assert_eq!(names(&lookupd, "/topics", "topics").await, set(&["t"]), "nsqlookupd keeps the topic");
        assert_eq!(names(&lookupd, "/channels?topic=t", "channels").await, set(&["c"]));
    });
}

#[test]
fn lookupd_refuses_with_nsqs_errors_and_closes() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        let identified = identify("b1");
        let after_identify = |line: &str| [&identified[..], line.as_bytes()].concat();
        let missing = json!({"broadcast_address": "b", "tcp_port": 1, "version": "1"}).to_string();
        let wrong_type =
            json!({"broadcast_address": "b", "tcp_port": "1", "http_port": 1, "version": "1"}).to_string();
        let cases: Vec<(Vec<u8>, usize, &str)> = vec![
            (b"nonsense\n".to_vec(), 0, "E_INVALID invalid command nonsense"),
            (b"\n".to_vec(), 0, "E_INVALID invalid command "),
            (b"ping\n".to_vec(), 0, "E_INVALID invalid command ping"),
            (b"REGISTER t\n".to_vec(), 0, "E_INVALID client must IDENTIFY"),
            (b"UNREGISTER t\n".to_vec(), 0, "E_INVALID client must IDENTIFY"),
            (after_identify("IDENTIFY\n"), 1, "E_INVALID cannot IDENTIFY again"),
            (after_identify("REGISTER\n"), 1, "E_INVALID REGISTER insufficient number of params"),
            (after_identify("UNREGISTER\n"), 1, "E_INVALID UNREGISTER insufficient number of params"),
            (after_identify("REGISTER a:b\n"), 1, "E_BAD_TOPIC REGISTER topic name 'a:b' is not valid"),
            (after_identify("REGISTER t a:b\n"), 1, "E_BAD_CHANNEL REGISTER channel name 'a:b' is not valid"),
            (b"IDENTIFY\n\0\0\0\0".to_vec(), 0, "E_BAD_BODY IDENTIFY failed to decode JSON body"),
            (command("IDENTIFY", "nonsense"), 0, "E_BAD_BODY IDENTIFY failed to decode JSON body"),
            (command("IDENTIFY", wrong_type), 0, "E_BAD_BODY IDENTIFY failed to decode JSON body"),
            (command("IDENTIFY", missing), 0, "E_BAD_BODY IDENTIFY missing fields"),
        ];
        for (bytes, answers_before, error) in cases {
            let mut node = Node::connect(&lookupd).await;
            node.stream.write_all(&bytes).await.expect("nsqlookupd reads");
            for _ in 0..answers_before {
                node.answer().await.expect("an answer");
            }
            let answer = node.answer().await.unwrap_or_else(|| panic!("no answer, but {error} was expected"));
            assert_eq!(String::from_utf8_lossy(&answer), error);
            assert_eq!(node.answer().await, None, "{error} closes the connection");
        }
        let mut stream = TcpStream::connect(lookupd.tcp()).await.expect("nsqlookupd accepts");
        stream.write_all(b"  V2").await.expect("nsqlookupd reads");
        let mut node = Node { stream };
        assert_eq!(node.answer().await.as_deref(), Some(&b"E_BAD_PROTOCOL"[..]));
        assert_eq!(node.answer().await, None);
    });
}

#[test]
fn a_silent_node_is_hidden_until_its_next_ping() {
    test(async {
        let lookupd = Daemon::lookupd().flag("--inactive-producer-timeout=500ms").start().await;
        let mut node = Node::identified(&lookupd, "b1").await;
        node.ok("REGISTER t").await;
        let count = async || {
            let answer = lookupd.get_json("/lookup?topic=t").await;
            let nodes = lookupd.get_json("/nodes").await;
            let length = |value: &Value| value["producers"].as_array().expect("a list").len();
            (length(&answer), length(&nodes))
        };
        wait::until("the node is hidden", async || wait::when(count().await, |count| *count == (0, 0))).await;
        node.ok("PING").await;
        assert_eq!(count().await, (1, 1));
    });
}

#[test]
fn tombstone_hides_a_node_for_one_topic_until_it_expires() {
    test(async {
        let lookupd = Daemon::lookupd().flag("--tombstone-lifetime=1s").start().await;
        let mut node = Node::identified(&lookupd, "b1").await;
        node.ok("REGISTER t").await;
        node.ok("REGISTER other").await;
        lookupd.admin("/topic/tombstone?topic=t&node=b1:4151").await;
        assert!(producers(&lookupd, "t").await.is_empty());
        assert_eq!(producers(&lookupd, "other").await.len(), 1);
        let node_shown = lookupd.get_json("/nodes").await["producers"][0].clone();
        let topics = node_shown["topics"].as_array().expect("topics");
        let place = topics.iter().position(|topic| topic == "t").expect("the topic is shown");
        assert_eq!(node_shown["tombstones"][place], true);
        assert_eq!(node_shown["tombstones"].as_array().map(Vec::len), Some(topics.len()));
        node.ok("REGISTER t").await;
        assert!(producers(&lookupd, "t").await.is_empty(), "registering again does not remove the tombstone");
        let check = async || wait::when(producers(&lookupd, "t").await, |producers| !producers.is_empty());
        wait::until("the tombstone has expired", check).await;
        // A tombstone that matches no node is not an error.
        lookupd.admin("/topic/tombstone?topic=t&node=nobody:1").await;
    });
}

// nsqlookupd's HTTP interface

#[test]
fn large_answers_are_complete() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        let nsqd = Daemon::nsqd().lookupd(&lookupd).start().await;
        for number in 0..1100 {
            nsqd.admin(&format!(
                "/topic/create?topic=a-topic-with-a-long-name-so-that-answers-are-large-{number}"
            ))
            .await;
        }
        let count = async |target: &str, list: &str| {
            lookupd.get_json(target).await[list].as_array().map_or(0, Vec::len)
        };
        let all = async || wait::when(count("/topics", "topics").await, |topics| *topics == 1100);
        wait::until("all topics are registered", all).await;
        let nodes = lookupd.get("/nodes").await.expect(200).json();
        assert_eq!(nodes["producers"][0]["topics"].as_array().map(Vec::len), Some(1100));
        assert_eq!(nodes["producers"][0]["tombstones"].as_array().map(Vec::len), Some(1100));
        let debug = lookupd.get_json("/debug").await;
        assert_eq!(debug.as_object().map(serde_json::Map::len), Some(1101));
        assert_eq!(count("/lookup?topic=*", "producers").await, 1);
        lookupd.get("/lookup?topic=none").await.expect_error(404, "TOPIC_NOT_FOUND");
        let cluster = lookupd.get("/cluster/stats?refresh=true").await.expect(200).json();
        assert_eq!(cluster["nodes"][0]["stats"]["topics"].as_array().map(Vec::len), Some(1100));
        let packed = async |target: &str| -> Value {
            let accept = [("Accept", "application/msgpack")];
            let packed = http::request_with(lookupd.http(), "GET", target, &accept, b"").await.expect(200);
            rmp_serde::from_slice(&packed.body).expect("MessagePack with named fields")
        };
        for target in ["/topics", "/nodes"] {
            assert_eq!(packed(target).await, lookupd.get_json(target).await, "{target}");
        }
        let keys = |debug: &Value| debug.as_object().expect("a map").keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&packed("/debug").await), keys(&debug));
    });
}

#[test]
fn cross_site_requests_are_refused() {
    test(async {
        let lookupd = Daemon::lookupd().flag("--http-allowed-origin=https://admin.example").start().await;
        let create = "/topic/create?topic=t";
        for headers in [[("Origin", "https://evil.example")], [("Sec-Fetch-Site", "cross-site")]] {
            let refused = http::request_with(lookupd.http(), "POST", create, &headers, b"").await.expect(403);
            assert!(refused.text().contains("CROSS_SITE_REQUEST"), "{}", refused.text());
        }
        assert_eq!(lookupd.get("/topics").await.text(), "{\"topics\":[]}");
        let headers = [("Origin", "https://admin.example")];
        http::request_with(lookupd.http(), "POST", create, &headers, b"").await.expect(200);
        let (_, log) = Daemon::lookupd().flag("--http-allowed-origin=*.example").expect_exit().await;
        log.expect("\"*.example\" is not an origin").await;
    });
}

#[test]
fn lookupd_answers_http_as_nsqs_does() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        assert_eq!(lookupd.get("/ping").await.expect(200).text(), "OK");
        assert_eq!(lookupd.get("/info").await.expect(200).text(), "{\"version\":\"1.3.0\"}");
        assert_eq!(lookupd.get("/topics").await.expect(200).text(), "{\"topics\":[]}");
        assert_eq!(lookupd.get("/nodes").await.expect(200).text(), "{\"producers\":[]}");
        assert_eq!(lookupd.get("/channels?topic=none").await.expect(200).text(), "{\"channels\":[]}");
        lookupd.get("/channels").await.expect_error(400, "MISSING_ARG_TOPIC");
        lookupd.get("/lookup").await.expect_error(400, "MISSING_ARG_TOPIC");
        lookupd.get("/lookup?topic=none").await.expect_error(404, "TOPIC_NOT_FOUND");
        lookupd.get("/lookup?topic=%zz").await.expect_error(400, "INVALID_REQUEST");
        lookupd.get("/nothing").await.expect_error(404, "NOT_FOUND");
        lookupd.get("/topic/create?topic=t").await.expect_error(405, "METHOD_NOT_ALLOWED");

        lookupd.admin("/topic/create?topic=t").await;
        lookupd.admin("/channel/create?topic=t2&channel=c").await;
        assert_eq!(names(&lookupd, "/topics", "topics").await, set(&["t", "t2"]));
        let known = lookupd.get("/lookup?topic=t").await.expect(200);
        assert_eq!(known.text(), "{\"channels\":[],\"producers\":[]}");
        assert_eq!(known.header("x-nsq-content-type"), Some("nsq; version=1.0"));
        lookupd.post("/topic/create", "").await.expect_error(400, "MISSING_ARG_TOPIC");
        lookupd.post("/topic/create?topic=a%3Ab", "").await.expect_error(400, "INVALID_ARG_TOPIC");
        lookupd.post("/channel/create?topic=t", "").await.expect_error(400, "MISSING_ARG_CHANNEL");
        lookupd
            .post("/channel/create?topic=t&channel=a%3Ab", "")
            .await
            .expect_error(400, "INVALID_ARG_CHANNEL");
        lookupd.post("/channel/delete?topic=t&channel=c", "").await.expect_error(404, "CHANNEL_NOT_FOUND");
        lookupd.post("/topic/tombstone?topic=t", "").await.expect_error(400, "MISSING_ARG_NODE");
        lookupd.admin("/channel/delete?topic=t2&channel=c").await;
        lookupd.admin("/topic/delete?topic=t2").await;
        lookupd.admin("/topic/delete?topic=never:known").await;
        assert_eq!(names(&lookupd, "/topics", "topics").await, set(&["t"]));
    });
}

#[test]
fn debug_shows_every_registration() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        let mut node = Node::identified(&lookupd, "b1").await;
        node.ok("REGISTER t c").await;
        let debug = lookupd.get_json("/debug").await;
        let keys: BTreeSet<String> = debug.as_object().expect("an object").keys().cloned().collect();
        assert_eq!(keys, set(&["client::", "topic:t:", "channel:t:c"]));
        assert_eq!(debug["topic:t:"][0]["tombstoned"], false);
        assert_eq!(debug["client::"][0]["broadcast_address"], "b1");
    });
}

// nsqd as a client

#[test]
fn nsqd_registers_its_topics_and_channels_with_every_lookupd() {
    test(async {
        let lookupds = [Daemon::lookupd().start().await, Daemon::lookupd().start().await];
        let nsqd = Daemon::nsqd().lookupd(&lookupds[0]).lookupd(&lookupds[1]).start().await;
        nsqd.publish("t", "x").await;
        nsqd.subscribe("t", "c").await;
        for lookupd in &lookupds {
            let check = async || wait::when(producers(lookupd, "t").await, |seen| *seen == ports([&nsqd]));
            wait::until("the topic is registered", check).await;
            let check = async || {
                let names = names(lookupd, "/channels?topic=t", "channels").await;
                wait::when(names, |names| *names == set(&["c"]))
            };
            wait::until("the channel is registered", check).await;
            let producer = lookupd.get_json("/lookup?topic=t").await["producers"][0].clone();
            assert_eq!(producer["http_port"], nsqd.http().port());
            assert_eq!(producer["broadcast_address"], "127.0.0.1");
            assert_eq!(producer["version"], "1.3.0");
        }
        nsqd.admin("/topic/delete?topic=t").await;
        for lookupd in &lookupds {
            let check = async || wait::when(producers(lookupd, "t").await, BTreeSet::is_empty);
            wait::until("the topic is unregistered", check).await;
        }
    });
}

#[test]
fn nsqd_registers_its_broadcast_address_ports_and_topology() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        let nsqd = Daemon::nsqd()
            .flag("--broadcast-address=queue.example")
            .flag("--broadcast-tcp-port=1234")
            .flag("--broadcast-http-port=1235")
            .flag("--topology-region=r1")
            .flag("--topology-zone=z1")
            .lookupd(&lookupd)
            .start()
            .await;
        nsqd.publish("t", "x").await;
        let check =
            async || wait::when(producers(&lookupd, "t").await, |seen| *seen == BTreeSet::from([1234]));
        wait::until("nsqd is registered with its broadcast port", check).await;
        let producer = lookupd.get_json("/lookup?topic=t").await["producers"][0].clone();
        let node = lookupd.get_json("/nodes").await["producers"][0].clone();
        for shown in [&producer, &node] {
            assert_eq!(shown["broadcast_address"], "queue.example");
            assert_eq!((&shown["tcp_port"], &shown["http_port"]), (&json!(1234), &json!(1235)));
            assert_eq!((&shown["topology_region"], &shown["topology_zone"]), (&json!("r1"), &json!("z1")));
        }
    });
}

#[test]
fn nsqd_registers_again_with_a_restarted_lookupd() {
    test_within(Duration::from_secs(120), async {
        let mut lookupd = Daemon::lookupd().start().await;
        let mut nsqd = Daemon::nsqd().lookupd(&lookupd).start().await;
        nsqd.subscribe("t", "c").await;
        let registered = async |lookupd: &Daemon, nsqd: &Daemon| {
            let check = async || wait::when(producers(lookupd, "t").await, |seen| *seen == ports([nsqd]));
            wait::until_within(REGISTERED_AGAIN, "nsqd is registered", check).await;
        };
        registered(&lookupd, &nsqd).await;
        lookupd.kill().await;
        // Clients do not depend on nsqlookupd.
        nsqd.publish("t", "x").await;
        nsqd.publish("another", "x").await;
        lookupd.restart().await;
        registered(&lookupd, &nsqd).await;
        assert_eq!(names(&lookupd, "/channels?topic=t", "channels").await, set(&["c"]));
        // A restart needs no action by an operator, so it is only a warning.
        assert!(nsqd.log().contains(" WARNING: LOOKUPD("), "{}", nsqd.log().text());
        assert!(!nsqd.log().contains(" ERROR: "), "{}", nsqd.log().text());

        nsqd.kill().await;
        let check = async || wait::when(producers(&lookupd, "t").await, BTreeSet::is_empty);
        wait::until("the killed nsqd is removed", check).await;
        nsqd.restart().await;
        registered(&lookupd, &nsqd).await;
    });
}

#[test]
fn lookupds_can_be_changed_while_running() {
    test(async {
        let (first, second) = (Daemon::lookupd().start().await, Daemon::lookupd().start().await);
        let nsqd = Daemon::nsqd().lookupd(&first).start().await;
        nsqd.publish("t", "x").await;
        let check = async || wait::when(producers(&first, "t").await, |seen| !seen.is_empty());
        wait::until("registered with the first", check).await;
        let addresses = json!([second.tcp().to_string()]).to_string();
        let target = "/config/nsqlookupd_tcp_addresses";
        http::request(nsqd.http(), "PUT", target, addresses.as_bytes()).await.expect(200);
        let check = async || wait::when(producers(&second, "t").await, |seen| !seen.is_empty());
        wait::until("registered with the second", check).await;
        let check = async || wait::when(producers(&first, "t").await, BTreeSet::is_empty);
        wait::until("removed from the first", check).await;
    });
}

#[test]
fn a_new_topic_gets_the_channels_that_lookupd_knows_before_its_first_message() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        lookupd.admin("/channel/create?topic=t&channel=known").await;
        lookupd.admin("/channel/create?topic=t&channel=also").await;
        lookupd.admin("/channel/create?topic=t&channel=passing%23ephemeral").await;
        let nsqd = Daemon::nsqd().lookupd(&lookupd).start().await;
        let nodes = async || lookupd.get_json("/nodes").await["producers"].as_array().map_or(0, Vec::len);
        wait::until("nsqd has identified", async || wait::when(nodes().await, |count| *count == 1)).await;
        nsqd.publish("t", "first").await;
        let topic = nsqd.topic("t").await.expect("the topic exists");
        let channels: BTreeSet<String> =
            topic.channels.iter().map(|channel| channel.channel_name.clone()).collect();
        assert_eq!(channels, set(&["also", "known"]), "the ephemeral channel is not created");
        for channel in ["also", "known"] {
            let mut consumer = nsqd.subscribe("t", channel).await;
            consumer.ready(1).await;
            assert_eq!(consumer.message().await.text(), "first");
        }
    });
}

#[test]
fn unreachable_lookupd_delays_nothing() {
    test(async {
        let unused =
            TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
        let nsqd = Daemon::nsqd().flag(format!("--lookupd-tcp-address={unused}")).start().await;
        let start = std::time::Instant::now();
        nsqd.publish("t", "x").await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        consumer.message().await;
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    });
}

#[test]
fn unresponsive_lookupd_blocks_nothing() {
    test(async {
        let unresponsive = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address: SocketAddr = unresponsive.local_addr().expect("an address");
        let lookupd = Daemon::lookupd().start().await;
        let mut nsqd =
            Daemon::nsqd().flag(format!("--lookupd-tcp-address={address}")).lookupd(&lookupd).start().await;
        let (_connection, _) = tokio::time::timeout(PATIENCE, unresponsive.accept())
            .await
            .expect("nsqd connects")
            .expect("a connection");
        nsqd.publish("t", "x").await;
        let check = async || wait::when(producers(&lookupd, "t").await, |seen| !seen.is_empty());
        wait::until("nsqd registers with the other lookupd", check).await;
        assert!(nsqd.terminate().await.success());
    });
}

#[test]
fn invalid_lookupd_answers_do_no_harm() {
    test_within(Duration::from_secs(240), async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let answers: [&[u8]; 5] = [
            b"\xff\xff\xff\xff",
            b"\x7f\xff\xff\xff",
            b"\0\0\0\x09E_INVALID",
            b"\0\0\0\x02{}",
            b"\0\0\0\x02no",
        ];
        let mut nsqd = Daemon::nsqd().flag(format!("--lookupd-tcp-address={address}")).start().await;
        for (n, answer) in answers.into_iter().enumerate() {
            let (mut connection, _) = tokio::time::timeout(REGISTERED_AGAIN, listener.accept())
                .await
                .expect("nsqd connects")
                .expect("a connection");
            let _ = connection.write_all(answer).await;
            // A new topic makes nsqd send a command and notice the bad answer at once.
            nsqd.publish(&format!("t{n}"), "x").await;
            drop(connection);
        }
        assert!(nsqd.is_running());
        nsqd.connect().await.still_works().await;
    });
}

// A cluster

#[test]
fn two_lookupds_and_three_nsqds_survive_the_loss_of_one_each() {
    test_within(Duration::from_secs(120), async {
        let mut lookupds = vec![Daemon::lookupd().start().await, Daemon::lookupd().start().await];
        let mut nsqds = Vec::new();
        for _ in 0..3 {
            nsqds.push(Daemon::nsqd().lookupd(&lookupds[0]).lookupd(&lookupds[1]).start().await);
        }
        for nsqd in &nsqds {
            nsqd.subscribe("t", "c").await;
        }
        let all = ports(&nsqds);
        for lookupd in &lookupds {
            let check = async || wait::when(producers(lookupd, "t").await, |seen| *seen == all);
            wait::until("all three nsqds are known", check).await;
        }

        lookupds.remove(0).kill().await;
        let mut lost = nsqds.remove(1);
        lost.publish("t", "kept at the lost node").await;
        lost.kill().await;
        let left = ports(&nsqds);
        let check = async || wait::when(producers(&lookupds[0], "t").await, |seen| *seen == left);
        wait::until("the other lookupd knows the two remaining nsqds", check).await;
        for nsqd in &nsqds {
            nsqd.publish("t", "x").await;
            let mut consumer = nsqd.subscribe("t", "c").await;
            consumer.ready(1).await;
            consumer.message().await;
        }

        lost.restart().await;
        let check = async || wait::when(producers(&lookupds[0], "t").await, |seen| *seen == all);
        wait::until_within(REGISTERED_AGAIN, "the lost node is back", check).await;
        let mut consumer = lost.subscribe("t", "c").await;
        consumer.ready(1).await;
        assert_eq!(consumer.message().await.text(), "kept at the lost node");
    });
}
