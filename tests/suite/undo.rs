//! `dry_run=true`, `/channel/undo`, `/topic/undo` and `nsq undo`.

use std::time::Duration;

use nsq_tests::wire::bodies;
use nsq_tests::{Daemon, test};
use serde_json::{Value, json};

/// An nsqd with the topic t, which retains messages, and its channels a and b.
async fn start() -> Daemon {
    let nsqd = Daemon::nsqd().flag("--retain-for=1h").start().await;
    nsqd.admin("/topic/create?topic=t").await;
    nsqd.admin("/channel/create?topic=t&channel=a").await;
    nsqd.admin("/channel/create?topic=t&channel=b").await;
    nsqd
}

/// The topic in `/stats`, without times.
async fn stats(nsqd: &Daemon) -> Value {
    let mut stats = nsqd.get_json("/stats?format=json&include_mem=false").await;
    for channel in stats["topics"][0]["channels"].as_array_mut().into_iter().flatten() {
        channel["clients"] = Value::Null;
    }
    stats["topics"].clone()
}

async fn post(nsqd: &Daemon, target: &str) -> Value {
    nsqd.post(target, "").await.expect(200).json()
}

/// Takes everything that the channel hands out now, and finishes it.
async fn take_all(nsqd: &Daemon, channel: &str, count: usize) -> Vec<String> {
    let mut consumer = nsqd.subscribe("t", channel).await;
    consumer.ready(100).await;
    let messages = consumer.consume(count).await;
    assert_eq!(consumer.barrier().await.len(), 0);
    nsqd.channel_until_finished("t", channel).await;
    bodies(&messages)
}

#[test]
fn dry_runs_say_what_would_happen_and_change_nothing() {
    test(async {
        let nsqd = start().await;
        let mut producer = nsqd.connect().await;
        producer.publish_batch("t", &["1", "2", "3", "4"]).await;
        producer.publish_deferred("t", Duration::from_secs(600), "5").await;
        let mut consumer = nsqd.subscribe("t", "a").await;
        consumer.ready(2).await;
        let held = consumer.messages(2).await;
        let before = stats(&nsqd).await;
        let channel = |name: &str, in_flight: u64, clients: u64| {
            json!({"channel_name": name, "message_count": 5, "in_flight_count": in_flight,
                "deferred_count": 1, "client_count": clients})
        };
        let (a, b) = (channel("a", 2, 1), channel("b", 0, 0));
        for action in ["empty", "delete"] {
            let answer = post(&nsqd, &format!("/channel/{action}?topic=t&channel=a&dry_run=true")).await;
            let expected = json!({"dry_run": true, "topic_name": "t", "held_count": 0, "channels": [a],
                "can_be_undone": action == "empty"});
            assert_eq!(answer, expected);
        }
        let answer = post(&nsqd, "/topic/delete?topic=t&dry_run=true").await;
        assert_eq!(answer["channels"], json!([a, b]));
        assert!(answer["segment_bytes"].is_u64());
        let answer = post(&nsqd, "/topic/empty?topic=t&dry_run=true").await;
        assert_eq!((&answer["held_count"], &answer["channels"]), (&json!(0), &json!([])));
        let answer = post(&nsqd, "/channel/seek?topic=t&channel=b&to=latest&dry_run=true").await;
        assert_eq!((&answer["dry_run"], &answer["depth"]), (&json!(true), &json!(0)));
        let answer = post(&nsqd, "/channel/seek?topic=t&channel=a&to=earliest&dry_run=true").await;
        assert_eq!(answer["depth"], 2, "two are in flight, one is deferred");
        for bad in ["/channel/empty?topic=t&channel=a", "/topic/delete?topic=t", "/topic/empty?topic=t"] {
            nsqd.post(&format!("{bad}&dry_run=perhaps"), "")
                .await
                .expect_error(400, "INVALID_ARG_DRY_RUN: must be true or false");
        }
        nsqd.post("/channel/undo?topic=t&channel=a", "").await.expect(409);
        assert_eq!(stats(&nsqd).await, before);
        // The real thing does what the dry run said.
        let planned =
            post(&nsqd, "/channel/seek?topic=t&channel=a&to=earliest&dry_run=true").await["depth"].clone();
        let moved = post(&nsqd, "/channel/seek?topic=t&channel=a&to=earliest").await["depth"].clone();
        assert_eq!(planned, moved);
        consumer.finish(&held[0]).await;
        assert_eq!(consumer.barrier().await.len(), 0);
    });
}

#[test]
fn undo_restores_exactly_what_was_unfinished() {
    test(async {
        let mut nsqd = start().await;
        let mut producer = nsqd.connect().await;
        producer.publish_batch("t", &["1", "2", "3", "4", "5"]).await;
        let mut consumer = nsqd.subscribe("t", "a").await;
        consumer.ready(3).await;
        let taken = consumer.messages(3).await;
        consumer.finish(&taken[1]).await;
        consumer.requeue(&taken[2], Duration::from_secs(600)).await;
        consumer.ready(0).await;
        nsqd.channel_until("t", "a", "one is deferred", |channel| channel.deferred_count == 1).await;
        drop(consumer);
        nsqd.channel_until("t", "a", "its message is back", |channel| channel.in_flight_count == 0).await;

        nsqd.admin("/channel/empty?topic=t&channel=a").await;
        producer.publish("t", "6").await;
        let planned = post(&nsqd, "/channel/undo?topic=t&channel=a&dry_run=true").await;
        let channel = &planned["channels"][0];
        assert_eq!((&channel["undone"], &channel["message_count"]), (&json!("empty"), &json!(4)));
        assert_eq!(nsqd.channel("t", "a").await.expect("a channel").depth, 1, "a dry run changes nothing");
        // It is remembered after kill -9.
        nsqd.kill().await;
        nsqd.restart().await;
        let undone = post(&nsqd, "/channel/undo?topic=t&channel=a").await;
        assert_eq!((&undone["channels"][0]["message_count"], &undone["dry_run"]), (&json!(4), &Value::Null));
        nsqd.post("/channel/undo?topic=t&channel=a", "").await.expect(409);
        nsqd.kill().await;
        nsqd.restart().await;
        assert_eq!(take_all(&nsqd, "a", 5).await, ["1", "3", "4", "5", "6"]);
        assert_eq!(take_all(&nsqd, "b", 6).await, ["1", "2", "3", "4", "5", "6"]);

        // A seek forward, on all channels, after a clean restart.
        nsqd.publish("t", "7").await;
        for channel in ["a", "b"] {
            nsqd.admin(&format!("/channel/seek?topic=t&channel={channel}&to=latest")).await;
        }
        assert!(nsqd.terminate().await.success());
        nsqd.restart().await;
        let undone = post(&nsqd, "/topic/undo?topic=t").await;
        let names: Vec<_> = undone["channels"].as_array().expect("channels").iter().collect();
        assert_eq!(names.len(), 2);
        assert!(names.iter().all(|channel| channel["undone"] == "seek" && channel["message_count"] == 1));
        for channel in ["a", "b"] {
            assert_eq!(take_all(&nsqd, channel, 1).await, ["7"]);
        }
        let refused = nsqd.post("/topic/undo?topic=t", "").await;
        assert_eq!(refused.status, 409);
        assert!(refused.text().contains("NOTHING_TO_UNDO: "), "{}", refused.text());
    });
}

#[test]
fn undo_is_refused_without_retention_and_works_from_the_command_line() {
    test(async {
        let nsqd = start().await;
        nsqd.publish("t", "1").await;
        let nsq = async |arguments: &str| {
            let mut command = tokio::process::Command::new(nsq_tests::daemon::binary("nsq"));
            command.arg("--nsqd").arg(nsqd.http().to_string()).args(arguments.split(' '));
            let output = command.kill_on_drop(true).output().await.expect("nsq runs");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (output.status.code(), text(&output.stdout), text(&output.stderr))
        };
        let (code, _, stderr) = nsq("undo t/a").await;
        assert_eq!(code, Some(1));
        assert!(stderr.contains("nothing to undo: no node remembers that t/a was emptied"), "{stderr}");
        let (code, ..) = nsq("channel empty t/a --yes").await;
        assert_eq!(code, Some(0));
        let (code, stdout, _) = nsq("--json undo t/a --dry-run").await;
        let planned: Value = serde_json::from_str(&stdout).expect("JSON");
        assert_eq!((code, &planned["nodes"][0]["channels"][0]["message_count"]), (Some(0), &json!(1)));
        let (code, stdout, stderr) = nsq("undo t").await;
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stdout.contains("empty"), "{stdout}");
        assert_eq!(nsqd.channel("t", "a").await.expect("a channel").depth, 1);
        let (_, stdout, _) = nsq("channel seek t/a --to latest --dry-run").await;
        assert!(stdout.contains("would deliver 0 messages"), "{stdout}");
        assert_eq!(nsqd.channel("t", "a").await.expect("a channel").depth, 1);

        nsqd.admin("/channel/empty?topic=t&channel=a").await;
        nsqd.admin("/topic/retain?topic=t&for=0").await;
        let refused = nsqd.post("/channel/undo?topic=t&channel=a", "").await;
        assert_eq!(refused.status, 409);
        assert!(refused.text().contains("NOTHING_RETAINED: "), "{}", refused.text());
    });
}

/// What was emptied is not needed any more, so the end of the retention frees it, even if the topic retains again before a file
/// is deleted.
#[test]
fn undo_is_refused_after_the_topic_retained_nothing_for_a_while() {
    test(async {
        let nsqd = start().await;
        for body in ["1", "2", "3"] {
            nsqd.publish("t", body).await;
        }
        for channel in ["a", "b"] {
            nsqd.admin(&format!("/channel/empty?topic=t&channel={channel}")).await;
        }
        nsqd.admin("/topic/set?topic=t&retain_for=0").await;
        nsqd.post("/channel/undo?topic=t&channel=a", "").await.expect(409);
        nsqd.admin("/topic/set?topic=t&retain_for=1h").await;
        let refused = nsqd.post("/channel/undo?topic=t&channel=a", "").await;
        let text = refused.text();
        assert!(refused.status == 409 && text.contains("3 of 3 messages are no longer retained"), "{text}");
        // What is emptied from now on can come back.
        nsqd.publish("t", "4").await;
        nsqd.admin("/channel/empty?topic=t&channel=a").await;
        assert_eq!(post(&nsqd, "/channel/undo?topic=t&channel=a").await["channels"][0]["message_count"], 1);
        assert_eq!(take_all(&nsqd, "a", 1).await, ["4"]);
    });
}
