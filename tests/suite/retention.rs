use std::time::Duration;

use nsq_tests::daemon::binary;
use nsq_tests::foreign::{self, Library};
use nsq_tests::process::{folder_bytes, resident_bytes};
use nsq_tests::wire::bodies;
use nsq_tests::{Daemon, Peer, test, test_within, wait};
use serde_json::{Value, json};

const KEEP: &str = "--retain-for=1h";

/// Publishes `numbers` as bodies, in batches.
async fn publish(nsqd: &Daemon, topic: &str, numbers: std::ops::Range<u32>) {
    let mut peer = nsqd.connect().await;
    for first in numbers.clone().step_by(1000) {
        let batch: Vec<String> = (first..(first + 1000).min(numbers.end)).map(|n| n.to_string()).collect();
        peer.publish_batch(topic, &batch).await;
    }
}

/// The bodies that `publish` makes of `numbers`.
fn texts(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

async fn consumer(nsqd: &Daemon, topic: &str, channel: &str) -> Peer {
    let mut peer = nsqd.subscribe(topic, channel).await;
    peer.ready(2500).await;
    peer
}

/// Moves a channel; returns the answer.
async fn seek(nsqd: &Daemon, channel: &str, to: &str) -> Value {
    nsqd.post(&format!("/channel/seek?topic=t&channel={channel}&to={to}"), b"").await.expect(200).json()
}

async fn retention(nsqd: &Daemon, topic: &str) -> Value {
    let stats = nsqd.get_json(&format!("/stats?format=json&topic={topic}")).await;
    stats["topics"][0]["retention"].clone()
}

#[test]
fn new_channel_receives_retained_messages_after_a_kill() {
    test(async {
        let mut nsqd = Daemon::nsqd().flag(KEEP).flag("--mem-queue-size=100").start().await;
        let mut first = consumer(&nsqd, "t", "first").await;
        publish(&nsqd, "t", 0..3000).await;
        assert_eq!(bodies(&first.consume(3000).await), texts(0..3000));
        first.barrier().await;
        assert_eq!(nsqd.channel("t", "first").await.expect("the channel exists").unfinished(), 0);
        let retained = retention(&nsqd, "t").await;
        assert_eq!(
            (retained["retained_count"].as_u64(), retained["retain_for"].as_u64()),
            (Some(3000), Some(3_600_000_000_000))
        );

        nsqd.kill().await;
        nsqd.restart().await;
        nsqd.admin("/channel/create?topic=t&channel=late&start=earliest").await;
        let late = nsqd.channel("t", "late").await.expect("the channel exists");
        assert_eq!((late.depth, late.message_count), (3000, 3000));
        let mut late = consumer(&nsqd, "t", "late").await;
        let messages = late.consume(3000).await;
        assert_eq!(bodies(&messages), texts(0..3000));
        assert!(messages.iter().all(|message| message.attempts == 1));
        // The default start is "latest", the end of the topic.
        nsqd.admin("/channel/create?topic=t&channel=last").await;
        assert_eq!(nsqd.channel("t", "last").await.expect("the channel exists").depth, 0);
        publish(&nsqd, "t", 3000..3001).await;
        assert_eq!(late.message().await.text(), "3000");
        assert_eq!(nsqd.channel("t", "last").await.expect("the channel exists").depth, 1);
    });
}

#[test]
fn seek_refuses_ids_of_another_node() {
    test(async {
        let mut nsqd =
            Daemon::nsqd().flag(KEEP).flag("--mem-queue-size=10").flag("--node-id=1").start().await;
        let mut peer = consumer(&nsqd, "t", "c").await;
        publish(&nsqd, "t", 0..100).await;
        let messages = peer.consume(100).await;
        peer.barrier().await;
        let own = messages[50].id_text();
        let id = u64::from_str_radix(&own, 16).expect("sixteen digits");
        // After a restart, the messages are on disk.
        nsqd.kill().await;
        nsqd.restart().await;
        let foreign = format!("{:016x}", id ^ 3 << 54);
        for (to, answer) in [
            (format!("id:{foreign}"), "UNKNOWN_MESSAGE_ID"),
            (format!("id:{}", own.to_uppercase()), "INVALID_ARG_TO"),
            ("id:1".to_owned(), "INVALID_ARG_TO"),
        ] {
            let target = format!("/channel/seek?topic=t&channel=c&to={to}");
            if to == format!("id:{own}") {
                // An id without letters has no upper case.
                continue;
            }
            let refused = nsqd.post(&target, b"").await.expect(400);
            assert_eq!(refused.json()["message"], answer, "{to}");
        }
        let target = format!("/channel/create?topic=t&channel=new&start=id:{foreign}");
        assert_eq!(nsqd.post(&target, b"").await.expect(400).json()["message"], "UNKNOWN_MESSAGE_ID");
        assert!(nsqd.channel("t", "new").await.is_none());
        let mut late = nsqd.connect().await;
        let start = format!("id:{foreign}");
        late.identify(json!({"feature_negotiation": true, "channel_start": start})).await;
        late.line("SUB t new").await;
        late.refused("E_SUB_FAILED SUB failed this topic has no message of that id on this node").await;
        assert_eq!(seek(&nsqd, "c", &format!("id:{own}")).await["depth"].as_u64(), Some(50));
    });
}

#[test]
fn channel_seeks_back_and_forward_by_id_and_time() {
    test(async {
        let mut nsqd = Daemon::nsqd().flag(KEEP).start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=other").await;
        let mut peer = consumer(&nsqd, "t", "c").await;
        publish(&nsqd, "t", 0..500).await;
        let messages = peer.consume(500).await;
        peer.barrier().await;

        let answer = seek(&nsqd, "c", &format!("id:{}", messages[400].id_text())).await;
        assert_eq!((answer["depth"].as_u64(), answer["clamped"].as_bool()), (Some(100), Some(false)));
        let again = peer.consume(100).await;
        assert_eq!(bodies(&again), texts(400..500));
        assert!(again.iter().all(|message| message.attempts == 1), "a replay counts attempts from 1");
        peer.barrier().await;

        let time = messages[450].timestamp;
        let first_of_batch =
            messages.iter().position(|message| message.timestamp >= time).expect("a message of that time");
        let answer = seek(&nsqd, "c", &time.to_string()).await;
        assert_eq!(answer["depth"].as_u64(), Some(500 - first_of_batch as u64));
        assert_eq!(bodies(&peer.consume(500 - first_of_batch).await), texts(first_of_batch as u32..500));
        peer.barrier().await;

        // An answered seek survives a kill.
        seek(&nsqd, "c", "earliest").await;
        nsqd.kill().await;
        nsqd.restart().await;
        assert_eq!(nsqd.channel("t", "c").await.expect("the channel exists").unfinished(), 500);
        let answer = seek(&nsqd, "c", &format!("id:{}", messages[300].id_text())).await;
        assert_eq!(answer["depth"].as_u64(), Some(200), "a forward seek finishes the skipped messages");
        let mut peer = consumer(&nsqd, "t", "c").await;
        assert_eq!(bodies(&peer.consume(200).await), texts(300..500));
        peer.nothing().await;
        assert_eq!(
            nsqd.channel("t", "other").await.expect("the channel exists").depth,
            500,
            "other channels do not move"
        );
        let answer = seek(&nsqd, "other", "latest").await;
        assert_eq!(answer["depth"].as_u64(), Some(0));
    });
}

#[test]
fn answers_to_old_deliveries_do_not_finish_new_ones() {
    test(async {
        let nsqd = Daemon::nsqd().flag(KEEP).start().await;
        let mut peer = consumer(&nsqd, "t", "c").await;
        publish(&nsqd, "t", 0..4).await;
        let messages = peer.messages(4).await;
        peer.finish(&messages[0]).await;
        peer.barrier().await;
        assert_eq!(seek(&nsqd, "c", "earliest").await["depth"].as_u64(), Some(1));
        let first = peer.message().await;
        assert_eq!((first.text(), first.attempts), ("0".to_owned(), 1));
        peer.nothing().await;
        assert_eq!(nsqd.channel("t", "c").await.expect("the channel exists").in_flight_count, 4);
        // Messages in flight at the seek are redelivered once they are answered. No answer is an error.
        for message in &messages[1..] {
            peer.finish(message).await;
        }
        let again = peer.messages(3).await;
        assert_eq!(bodies(&again), texts(1..4));
        assert!(again.iter().all(|message| message.attempts == 1));
        // A forward seek finishes messages in flight, whatever their answer is.
        seek(&nsqd, "c", "latest").await;
        peer.requeue(&again[0], Duration::ZERO).await;
        for message in again[1..].iter().chain([&first]) {
            peer.finish(message).await;
        }
        assert_eq!(peer.barrier().await, []);
        peer.nothing().await;
        assert_eq!(nsqd.channel("t", "c").await.expect("the channel exists").unfinished(), 0);
    });
}

#[test]
fn deferred_messages_are_not_early_in_a_replay() {
    test(async {
        let nsqd = Daemon::nsqd().flag(KEEP).start().await;
        let mut peer = consumer(&nsqd, "t", "c").await;
        peer.publish_deferred("t", Duration::from_secs(600), "later").await;
        publish(&nsqd, "t", 0..2).await;
        peer.consume(2).await;
        peer.barrier().await;
        seek(&nsqd, "c", "earliest").await;
        assert_eq!(bodies(&peer.consume(2).await), texts(0..2));
        nsqd.admin("/channel/create?topic=t&channel=new&start=earliest").await;
        for channel in ["c", "new"] {
            let channel = nsqd.channel("t", channel).await.expect("the channel exists");
            assert_eq!(channel.deferred_count, 1, "{channel:?}");
        }
        let mut new = consumer(&nsqd, "t", "new").await;
        assert_eq!(bodies(&new.consume(2).await), texts(0..2));
        new.nothing().await;
    });
}

#[test]
fn retention_by_bytes_and_by_age_frees_the_disk() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--mem-queue-size=10").start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        nsqd.admin("/topic/retain?topic=t&bytes=4000000").await;
        let mut peer = consumer(&nsqd, "t", "c").await;
        let mut publisher = nsqd.connect().await;
        for _ in 0..12 {
            publisher.publish_batch("t", &vec![vec![b'x'; 1000]; 1000]).await;
            peer.consume(1000).await;
        }
        let segments = nsqd.data_path().join("topics");
        let within = async || {
            let (retained, on_disk) = (retention(&nsqd, "t").await, folder_bytes(&segments));
            let bytes = retained["retained_bytes"].as_u64().unwrap_or(0);
            wait::when((bytes, on_disk), |&(bytes, on_disk)| {
                (2_000_000..=4_000_000).contains(&bytes) && on_disk <= 4_500_000
            })
        };
        wait::until("old segments are deleted", within).await;
        let retained = retention(&nsqd, "t").await;
        assert!(retained["oldest_retained_at"].as_u64() > Some(1_000_000_000_000_000_000), "{retained}");
        assert!(nsqd.get("/stats").await.expect(200).text().contains("retained: "));

        nsqd.admin("/topic/retain?topic=t&for=1s").await;
        let empty = async || {
            let retained = retention(&nsqd, "t").await;
            wait::when((retained["retained_count"].as_u64(), folder_bytes(&segments)), |seen| {
                *seen == (Some(0), 0)
            })
        };
        wait::until("all retained messages have expired", empty).await;
        nsqd.admin("/topic/retain?topic=t&for=default").await;
        assert_eq!(retention(&nsqd, "t").await, Value::Null, "by default, nothing is retained");
    });
}

#[test]
fn invalid_requests_are_refused_with_a_reason() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = consumer(&nsqd, "t", "c").await;
        publish(&nsqd, "t", 0..2).await;
        peer.consume(2).await;
        peer.barrier().await;
        nsqd.admin("/topic/create?topic=e%23ephemeral").await;
        for (target, word) in [
            ("/channel/seek?topic=t&channel=c&to=earliest", "NOTHING_RETAINED"),
            ("/channel/seek?topic=t&channel=c&to=seq:1", "NOTHING_RETAINED"),
            ("/channel/seek?topic=t&channel=c&to=soon", "INVALID_ARG_TO"),
            ("/channel/seek?topic=t&channel=c", "MISSING_ARG_TO"),
            ("/channel/create?topic=t&channel=d&start=1.5", "INVALID_ARG_START"),
            ("/topic/retain?topic=t", "MISSING_ARG_FOR"),
            ("/topic/retain?topic=t&for=1", "INVALID_ARG_FOR"),
            ("/topic/retain?topic=t&bytes=-1", "INVALID_ARG_BYTES"),
            ("/topic/retain?topic=e%23ephemeral&for=1h", "EPHEMERAL_TOPIC"),
        ] {
            let answer = nsqd.post(target, b"").await.expect(400).json();
            assert_eq!(answer["message"], word, "{target}");
        }
        nsqd.post("/channel/seek?topic=t&channel=nobody&to=latest", b"").await.expect(404);
        assert_eq!(
            nsqd.channel("t", "c").await.expect("the channel exists").unfinished(),
            0,
            "nothing was changed"
        );
        assert!(nsqd.channel("t", "d").await.is_none());
        // Without retention, a new channel starts at the default place, and the log gives the reason.
        nsqd.admin("/channel/create?topic=t&channel=d&start=seq:1").await;
        assert_eq!(nsqd.channel("t", "d").await.expect("the channel exists").depth, 0);
        nsqd.log().expect("(the oldest available)").await;
    });
}

#[test]
fn retention_limits_of_a_topic_survive_a_kill() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/topic/retain?topic=t&for=2h&bytes=1000000000").await;
        nsqd.kill().await;
        nsqd.restart().await;
        let limits = |retained: &Value| (retained["retain_for"].as_u64(), retained["retain_bytes"].as_u64());
        let expected = (Some(7_200_000_000_000), Some(1_000_000_000));
        assert_eq!(limits(&retention(&nsqd, "t").await), expected);
        assert!(nsqd.terminate().await.success());
        nsqd.restart().await;
        assert_eq!(limits(&retention(&nsqd, "t").await), expected);
    });
}

#[test]
fn a_million_messages_are_replayed_in_bounded_memory() {
    const COUNT: u32 = 1_000_000;
    test_within(Duration::from_secs(120), async {
        let nsqd = Daemon::nsqd().flag(KEEP).start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        publish(&nsqd, "t", 0..COUNT).await;
        seek(&nsqd, "c", "latest").await;
        let before = resident_bytes(nsqd.pid());
        assert_eq!(seek(&nsqd, "c", "earliest").await["depth"].as_u64(), Some(COUNT.into()));
        let mut peer = consumer(&nsqd, "t", "c").await;
        for first in (0..20_000).step_by(1000) {
            assert_eq!(bodies(&peer.consume(1000).await), texts(first..first + 1000));
        }
        let after = resident_bytes(nsqd.pid());
        assert!(after < before + (32 << 20), "from {before} to {after} bytes");
    });
}

#[test]
fn existing_clients_read_a_rewound_channel() {
    if foreign::left_out() {
        println!("left out: NSQ_TESTS_NO_FOREIGN is set");
        return;
    }
    test_within(Duration::from_secs(60), async {
        for library in Library::ALL {
            let nsqd = Daemon::nsqd().flag(KEEP).start().await;
            publish(&nsqd, "t", 0..100).await;
            let mut peer = consumer(&nsqd, "t", "c").await;
            peer.consume(100).await;
            peer.barrier().await;
            drop(peer);
            seek(&nsqd, "c", "earliest").await;
            let address = nsqd.tcp().to_string();
            let arguments = ["--nsqd", &address, "--topic", "t", "--channel", "c", "--count", "100"];
            let mut program = library.run("consume", &arguments);
            assert_eq!(program.bodies(100).await, texts(0..100), "{library:?}");
            program.finish().await;
            nsqd.channel_until_finished("t", "c").await;
        }
    });
}

#[test]
fn consumer_chooses_where_a_new_channel_starts() {
    test(async {
        let nsqd = Daemon::nsqd().flag(KEEP).start().await;
        let mut peer = consumer(&nsqd, "t", "c").await;
        publish(&nsqd, "t", 0..10).await;
        let messages = peer.consume(10).await;
        let id = messages[5].id_text();
        for (start, expected) in [("earliest", 0..10), (&format!("id:{id}"), 5..10), ("latest", 10..10)] {
            let mut peer = nsqd.connect().await;
            let request = json!({"feature_negotiation": true, "channel_start": start});
            let reply = peer.identify(request).await;
            assert!(reply["channel_start"].is_string(), "{reply}");
            let channel = format!("from_{}", expected.start);
            peer.subscribe("t", &channel).await;
            peer.ready(100).await;
            assert_eq!(bodies(&peer.consume(expected.len()).await), texts(expected));
            peer.nothing().await;
            // `channel_start` does not move an existing channel.
            let mut other = nsqd.connect().await;
            other.identify(json!({"channel_start": "earliest", "feature_negotiation": true})).await;
            other.subscribe("t", &channel).await;
            other.ready(1).await;
            other.nothing().await;
        }
        // Only clients that sent channel_start see it in the reply, and nsqd refuses an invalid value.
        let unaware = nsqd.connect().await.identify(json!({"feature_negotiation": true})).await;
        assert_eq!(unaware.get("channel_start"), None);
        let mut peer = nsqd.connect().await;
        peer.line_and_body("IDENTIFY", json!({"channel_start": "soon"}).to_string()).await;
        peer.refused("E_BAD_BODY IDENTIFY channel start (soon) is invalid").await;
    });
}

#[test]
fn client_library_starts_at_the_oldest_message() {
    test(async {
        let nsqd = Daemon::nsqd().flag(KEEP).start().await;
        let mut peer = consumer(&nsqd, "t", "c").await;
        publish(&nsqd, "t", 0..10).await;
        peer.consume(10).await;
        let builder = nsq::Consumer::builder("t", "late").nsqd(nsqd.tcp().to_string());
        let mut stream = builder.start_at(nsq::StartAt::Earliest).stream().expect("a consumer");
        for expected in texts(0..10) {
            let message = stream.next().await.expect("a message");
            assert_eq!(message.body()[..], *expected.as_bytes());
            message.finish().expect("the message is in flight");
        }
    });
}

#[test]
fn nsq_command_sets_retention_and_seeks_channels() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let nsq = async |line: &str| {
            let mut command = tokio::process::Command::new(binary("nsq"));
            command.args(line.split(' ')).arg("--nsqd").arg(nsqd.http().to_string());
            let output = command.output().await.expect("nsq starts");
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("nsq writes UTF-8");
            let (stdout, stderr) = (text(output.stdout), text(output.stderr));
            assert!(output.status.success(), "nsq {line}: {stdout}{stderr}");
            (stdout, stderr)
        };
        nsqd.admin("/topic/create?topic=t").await;
        nsq("topic retain t --for 24h --bytes 10000000").await;
        let mut peer = consumer(&nsqd, "t", "c").await;
        publish(&nsqd, "t", 0..10).await;
        peer.consume(10).await;
        peer.barrier().await;
        let (printed, _) = nsq("channel seek t/c --to earliest").await;
        assert!(printed.contains("10 messages to be delivered"), "{printed}");
        peer.consume(10).await;
        peer.barrier().await;
        nsq("channel create t d --start 1h").await;
        assert_eq!(nsqd.channel("t", "d").await.expect("the channel exists").depth, 10);
        let (printed, _) = nsq("sub t e --from earliest -n 10").await;
        assert_eq!(printed.lines().collect::<Vec<_>>(), texts(0..10));
        let (table, _) = nsq("stat t --no-rates").await;
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!((rows[0][12], rows[1][12]), ("KEPT", "10"), "{table}");
        nsq("topic retain t --default").await;
        assert_eq!(retention(&nsqd, "t").await, Value::Null);
    });
}
