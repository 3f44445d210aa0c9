use std::time::Duration;

use nsq_tests::daemon::binary;
use nsq_tests::http::request_with;
use nsq_tests::wire::{command, length};
use nsq_tests::{Daemon, test, wait};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(15);

/// The nodes of `/cluster/stats`, with refreshed statistics.
async fn node_stats(lookupd: &Daemon, more: &str) -> Vec<Value> {
    let answer = lookupd.get_json(&format!("/cluster/stats?refresh=true{more}")).await;
    answer["nodes"].as_array().expect("nodes").clone()
}

/// Three nsqds that two nsqlookupds know.
async fn cluster() -> ([Daemon; 2], Vec<Daemon>) {
    let lookupds = [Daemon::lookupd().start().await, Daemon::lookupd().start().await];
    let mut nsqds = Vec::new();
    for _ in 0..3 {
        nsqds.push(Daemon::nsqd().lookupd(&lookupds[0]).lookupd(&lookupds[1]).start().await);
    }
    for lookupd in &lookupds {
        let check = async || {
            let nodes = node_stats(lookupd, "").await;
            let complete = nodes.iter().filter(|node| node["is_complete"] == true).count();
            wait::when((complete, nodes), |(complete, _)| *complete == 3)
        };
        wait::until("all three nodes report complete statistics", check).await;
    }
    (lookupds, nsqds)
}

/// Runs `nsq` with these arguments; returns its exit code, stdout and stderr.
async fn nsq(lookupd: &Daemon, line: &str) -> (Option<i32>, String, String) {
    let mut command = tokio::process::Command::new(binary("nsq"));
    command.args(line.split(' ')).arg(format!("--lookupd={}", lookupd.http()));
    let output =
        tokio::time::timeout(PATIENCE * 2, command.output()).await.expect("nsq ends").expect("nsq starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The JSON of `nsq stat` for topic `t`, from one lookupd.
async fn stat(lookupd: &Daemon, more: &str) -> Value {
    let (code, printed, stderr) = nsq(lookupd, &format!("stat t --json --no-rates{more}")).await;
    assert_eq!(code, Some(0), "{stderr}");
    let document: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(document["stale_nodes"], Value::Null);
    document["topics"][0].clone()
}

#[test]
fn any_lookupd_returns_current_stats_of_the_whole_cluster() {
    test(async {
        let (lookupds, nsqds) = cluster().await;
        for (number, nsqd) in nsqds.iter().enumerate() {
            for _ in 0..=number {
                nsqd.publish("t", "x").await;
            }
            nsqd.publish(&format!("only_{number}"), "x").await;
            nsqd.admin("/channel/create?topic=t&channel=c").await;
        }
        let mut consumer = nsqds[2].subscribe("t", "c").await;
        consumer.ready(2).await;
        consumer.messages(2).await;
        for lookupd in &lookupds {
            let nodes = node_stats(lookupd, "").await;
            assert_eq!(nodes.len(), 3);
            for node in &nodes {
                let nsqd = nsqds
                    .iter()
                    .find(|nsqd| node["tcp_port"] == nsqd.tcp().port())
                    .expect("one of the nsqds");
                let mut own = nsqd.get_json("/stats?format=json&include_clients=false").await;
                let mut reported = node["stats"].clone();
                assert!(reported["memory"]["heap_in_use_bytes"].as_u64() > Some(0));
                for stats in [&mut own, &mut reported] {
                    stats["memory"] = Value::Null;
                }
                assert_eq!(reported, own, "the same statistics as from nsqd itself");
                assert_eq!(
                    (&node["is_complete"], node["age_ms"].as_u64() < Some(5000)),
                    (&json!(true), true)
                );
            }
            // The command shows the same without a request to any nsqd.
            let topic = stat(lookupd, "").await;
            let channel = &topic["channels"][0];
            assert_eq!((&topic["node_count"], &topic["message_count"]), (&json!(3), &json!(6)));
            assert_eq!((&channel["depth"], &channel["in_flight_count"]), (&json!(4), &json!(2)));
        }
        let asked = |nsqd: &&Daemon| {
            nsqd.log().contains("GET /stats?format=json&include_clients=false&include_mem=false")
        };
        assert_eq!(nsqds.iter().filter(asked).count(), 0);
        stat(&lookupds[0], " --direct").await;
        let all_asked = async || wait::when(nsqds.iter().filter(asked).count(), |count| *count == 3);
        wait::until("every nsqd logs a request", all_asked).await;

        let only =
            |nodes: Vec<Value>| nodes.iter().map(|node| node["stats"]["topics"].clone()).collect::<Vec<_>>();
        let topics = only(node_stats(&lookupds[0], "&topic=only_1").await);
        assert_eq!(
            topics.iter().filter(|topics| topics.is_null()).count(),
            2,
            "nsqds without the topic report null"
        );
        let channels = only(node_stats(&lookupds[0], "&channel=c").await);
        assert!(channels.iter().all(|topics| topics.as_array().is_some_and(|topics| topics.len() == 1)));

        let headers = [("Accept", "application/msgpack")];
        let packed =
            request_with(lookupds[0].http(), "GET", "/cluster/stats", &headers, b"").await.expect(200);
        assert_eq!(packed.header("content-type"), Some("application/msgpack"));
        let unpacked: Value = rmp_serde::from_slice(&packed.body).expect("MessagePack");
        assert_eq!(unpacked["nodes"].as_array().map(Vec::len), Some(3));
    });
}

#[test]
fn deleted_topics_and_stopped_nodes_disappear() {
    test(async {
        let (lookupds, mut nsqds) = cluster().await;
        for nsqd in &nsqds {
            nsqd.publish("t", "x").await;
        }
        assert_eq!(stat(&lookupds[0], "").await["node_count"], 3);
        nsqds[0].admin("/topic/delete?topic=t").await;
        assert_eq!(stat(&lookupds[0], "").await["node_count"], 2);
        nsqds[1].kill().await;
        let nodes = async || wait::when(node_stats(&lookupds[0], "").await.len(), |count| *count == 2);
        wait::until("the killed node is removed", nodes).await;
        assert_eq!(stat(&lookupds[0], "").await["node_count"], 1);
    });
}

#[test]
fn unresponsive_node_is_shown_with_stale_stats() {
    test(async {
        let (lookupds, nsqds) = cluster().await;
        for nsqd in &nsqds {
            nsqd.publish("t", "x").await;
        }
        assert_eq!(stat(&lookupds[0], "").await["message_count"], 3);
        nsq_tests::process::stop(nsqds[1].pid()).await;
        let (code, printed, _) = nsq(&lookupds[0], "stat t --json --no-rates --timeout 3s").await;
        nsqds[1].signal(Signal::CONT);
        assert_eq!(code, Some(3));
        let document: Value = serde_json::from_str(&printed).expect("JSON");
        let node = nsqds[1].http().to_string();
        assert_eq!(document["topics"][0]["message_count"], 3);
        assert_eq!(document["node_errors"][0]["node"], node.as_str());
        assert_eq!(document["stale_nodes"][0]["node"], node.as_str());
        assert!(document["stale_nodes"][0]["age_ms"].as_u64() >= Some(1000));
    });
}

/// Dead letters and expired messages reach an nsqlookupd with the heartbeats.
#[test]
fn dead_letters_and_expired_messages_are_in_the_stats_of_lookupd() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        let nsqd = Daemon::nsqd().lookupd(&lookupd).start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=expires").await;
        nsqd.admin("/channel/create?topic=t&channel=fails").await;
        nsqd.admin("/channel/set?topic=t&channel=expires&ttl=10ms").await;
        nsqd.admin("/channel/set?topic=t&channel=fails&max_attempts=1").await;
        let mut consumer = nsqd.subscribe("t", "fails").await;
        nsqd.publish("t", "x").await;
        consumer.ready(1).await;
        let message = consumer.message().await;
        consumer.requeue(&message, Duration::ZERO).await;
        wait::until("lookupd knows the counts", async || {
            let topic = stat(&lookupd, "").await;
            let channels = &topic["channels"];
            let counts =
                [&channels[0]["expired_count"], &channels[1]["dead_lettered_count"]].map(Value::as_u64);
            wait::when(counts, |counts| *counts == [Some(1), Some(1)])
        })
        .await;
        assert!(!nsqd.log().contains("GET /stats"), "no node was asked");
        let (code, table, _) = nsq(&lookupd, "stat t --no-rates").await;
        assert_eq!(code, Some(0));
        let lines: Vec<&str> = table.lines().collect();
        assert!(
            lines[0].ends_with("\tFLAGS\tDEAD\tPENDING\tEXPIRED\tDROPPED\tFILTERED\tCANCELLED"),
            "{table}"
        );
        assert!(
            lines[2].ends_with("\t0\t0\t1\t0\t0\t0") && lines[3].ends_with("\t1\t0\t0\t0\t0\t0"),
            "{table}"
        );
    });
}

/// A node that is not our nsqd, or that sends invalid statistics.
struct Node {
    stream: TcpStream,
}

impl Node {
    async fn connect(lookupd: &Daemon, http_port: u16, heartbeat_stats: Option<Value>) -> (Self, Value) {
        let mut stream = TcpStream::connect(lookupd.tcp()).await.expect("nsqlookupd accepts");
        let mut info = json!({"broadcast_address": "127.0.0.1", "hostname": "host", "http_port": http_port,
            "tcp_port": 4150, "version": "1.3.0"});
        if let Some(version) = heartbeat_stats {
            info["heartbeat_stats"] = version;
        }
        stream
            .write_all(&[b"  V1", &command("IDENTIFY", info.to_string())[..]].concat())
            .await
            .expect("nsqlookupd reads");
        let mut node = Node { stream };
        let reply = serde_json::from_str(&node.answer().await.expect("an answer")).expect("JSON");
        (node, reply)
    }

    async fn answer(&mut self) -> Option<String> {
        let read = async {
            let size = self.stream.read_u32().await.ok()?;
            let mut answer = vec![0; size as usize];
            self.stream.read_exact(&mut answer).await.ok()?;
            String::from_utf8(answer).ok()
        };
        tokio::time::timeout(PATIENCE, read).await.expect("nsqlookupd answers or closes in time")
    }

    async fn ask(&mut self, bytes: &[u8]) -> Option<String> {
        self.stream.write_all(bytes).await.expect("nsqlookupd reads");
        self.answer().await
    }
}

#[test]
fn other_nsqd_implementations_are_queried_over_http() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        let ours = Daemon::nsqd().lookupd(&lookupd).start().await;
        let other = Daemon::nsqd().start().await;
        ours.publish("t", "x").await;
        other.publish("t", "x").await;
        let (mut node, reply) = Node::connect(&lookupd, other.http().port(), None).await;
        assert_eq!(
            reply["heartbeat_stats"],
            Value::Null,
            "only clients that sent heartbeat_stats see it in the reply"
        );
        let two = async || {
            let nodes = node_stats(&lookupd, "").await;
            wait::when(nodes, |nodes| {
                nodes.len() == 2 && nodes.iter().filter(|node| !node["stats"].is_null()).count() == 1
            })
        };
        wait::until("both nodes are known, and one reports statistics", two).await;
        let topic = stat(&lookupd, "").await;
        assert_eq!((&topic["node_count"], &topic["message_count"]), (&json!(2), &json!(2)));
        other.log().expect("GET /stats").await;
        assert_eq!(node.ask(b"PING\n").await.as_deref(), Some("OK"));
    });
}

#[test]
fn invalid_stats_are_refused_without_harm() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        let nsqd = Daemon::nsqd().lookupd(&lookupd).start().await;
        nsqd.publish("t", "x").await;
        let (mut node, reply) = Node::connect(&lookupd, 4151, Some(json!(1))).await;
        assert_eq!(reply["heartbeat_stats"], 1);
        assert_eq!(node.ask(b"REGISTER mine c\n").await.as_deref(), Some("OK"));
        let registered = async || {
            let answer = lookupd.get_json("/lookup?topic=mine").await;
            answer["producers"].as_array().map(Vec::len)
        };
        // Not MessagePack, another type, arrays with a huge claimed length, text, and an invalid name.
        let claim =
            [&[0x97, 0xc3, 0xc3, 0xc2, 0, 0x95, 0xa0, 0xa0, 0, 0, 0][..], &[0xdd, 0xff, 0xff, 0xff, 0xff]];
        let misnamed =
            [&[0x97, 0xc3, 0xc3, 0xc2, 0, 0x95, 0xa0, 0xa0, 0, 0, 0, 0x90, 0x91, 0xa3][..], b"a b"];
        let bodies = [
            b"\xc1".to_vec(),
            b"\x05".to_vec(),
            Vec::new(),
            br#"{"is_first":true}"#.to_vec(),
            claim.concat(),
            misnamed.concat(),
            vec![0x91; 100_000],
        ];
        for body in bodies {
            let answer = node.ask(&command("STATS", &body)).await.expect("the connection stays");
            assert!(answer.starts_with("E_BAD_BODY STATS not a report"), "{answer}");
            assert!(answer.len() < 400);
            assert_eq!(registered().await, Some(1), "the node stays registered");
        }
        assert_eq!(node.ask(b"PING\n").await.as_deref(), Some("OK"));

        let silent = Node::connect(&lookupd, 4152, Some(json!(200))).await;
        assert_eq!(silent.1["heartbeat_stats"], 4, "the highest version that nsqlookupd knows");
        let nodes = node_stats(&lookupd, "").await;
        let reported: Vec<_> = nodes.iter().filter(|node| !node["stats"].is_null()).collect();
        assert_eq!((nodes.len(), reported.len()), (3, 1), "{nodes:?}");
        assert_eq!(reported[0]["stats"]["topics"][0]["topic_name"], "t");

        let too_big = [b"STATS\n", &length((1 << 20) + 1)[..]].concat();
        let (mut oversized, _) = Node::connect(&lookupd, 4153, Some(json!(1))).await;
        let answer = oversized.ask(&too_big).await;
        assert_eq!(answer.as_deref(), Some("E_BAD_BODY STATS body too big 1048577 > 1048576"));
        assert_eq!(oversized.answer().await, None, "the connection is closed");
        let (mut uninvited, _) = Node::connect(&lookupd, 4154, None).await;
        let answer = uninvited.ask(&command("STATS", [0x90])).await;
        assert_eq!(answer.as_deref(), Some("E_INVALID STATS was not negotiated"));
        assert_eq!(uninvited.answer().await, None, "the connection is closed");
        assert_eq!(registered().await, Some(1));
    });
}
