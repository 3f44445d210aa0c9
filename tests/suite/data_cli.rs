//! `nsq data`: inspect reports what nsqd finds in a directory, verify finds exactly the damage, and export contains
//! what consumers would receive.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nsq_tests::daemon::binary;
use nsq_tests::disk::fingerprint;
use nsq_tests::wire::{Frame, Message};
use nsq_tests::{Daemon, test, test_within};
use serde_json::Value;
use tempfile::TempDir;

/// A delay longer than any test.
const LATER: Duration = Duration::from_secs(1000);

/// Exit code and output of a command.
#[derive(Debug)]
struct CommandOutput {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl CommandOutput {
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    fn json_lines(&self) -> Vec<Value> {
        let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout.lines().map(line).collect()
    }
}

/// Runs `nsq data` with these arguments and paths.
async fn data(words: &[&str], paths: &[&Path]) -> CommandOutput {
    let mut command = tokio::process::Command::new(binary("nsq"));
    command.arg("data").args(words).args(paths).kill_on_drop(true);
    let output = command.output().await.expect("nsq starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("nsq writes UTF-8");
    CommandOutput { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Receives and finishes everything that a channel can deliver; deferred messages stay.
async fn drain(nsqd: &Daemon, topic: &str, channel: &str) -> Vec<Message> {
    let mut consumer = nsqd.subscribe(topic, channel).await;
    consumer.ready(2500).await;
    let mut messages = Vec::new();
    loop {
        match consumer.frame_within(Duration::from_millis(200)).await {
            Ok(Frame::Message(message)) => {
                consumer.finish(&message).await;
                messages.push(message);
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => {
                let seen = nsqd.channel(topic, channel).await.expect("the channel exists");
                if seen.depth + seen.in_flight_count == 0 {
                    return messages;
                }
            }
        }
    }
}

/// The data directory of a killed nsqd with a mix of state: channels at different positions, finished, requeued,
/// deferred and in-flight messages, binary bodies, spilled segments, a paused channel, a topic without channels.
async fn nsqd_with_mixed_state() -> Daemon {
    let mut nsqd = Daemon::nsqd().flag("--mem-queue-size=100").start().await;
    for channel in ["busy", "idle", "halted"] {
        nsqd.subscribe("orders", channel).await;
    }
    nsqd.admin("/channel/pause?topic=orders&channel=halted").await;
    let mut publisher = nsqd.connect().await;
    for batch in 0..20 {
        let bodies: Vec<String> = (0..100).map(|n| format!("order {batch}:{n} {:x<1$}", "", 3000)).collect();
        publisher.publish_batch("orders", &bodies).await;
    }
    publisher.publish("orders", b"no text: \xff\xfe\x00").await;
    publisher.publish_deferred("orders", LATER, "deferred by its publisher").await;
    publisher.publish_batch("unread", &["held 1", "held 2", "held 3"]).await;
    publisher.publish_deferred("unread", LATER, "held and deferred").await;

    let mut consumer = nsqd.subscribe("orders", "busy").await;
    consumer.ready(150).await;
    let messages = consumer.messages(150).await;
    consumer.line("RDY 0").await;
    for message in messages[..100].iter().filter(|message| message.attempts == 1).step_by(2) {
        consumer.finish(message).await;
    }
    consumer.requeue(&messages[120], LATER).await;
    consumer.requeue(&messages[121], Duration::ZERO).await;
    consumer.barrier().await;
    // nsqd writes FINs to the journal a few milliseconds later; this publish commits them with it.
    publisher.publish("orders", "the last").await;
    nsqd.kill().await;
    nsqd
}

/// Runs `nsq` with these arguments on a data directory, and with `--json`.
async fn offline(words: &[&str], dir: &Path) -> CommandOutput {
    let mut command = tokio::process::Command::new(binary("nsq"));
    command.args(words).arg("--data").arg(dir).arg("--json").kill_on_drop(true);
    let output = command.output().await.expect("nsq starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("nsq writes UTF-8");
    CommandOutput { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn peek_and_why_of_a_directory_match_those_of_the_next_start() {
    test(async {
        let mut nsqd = nsqd_with_mixed_state().await;
        let dir = nsqd.data_path().to_owned();
        let before = fingerprint(&dir);
        let fields = |message: &Value| {
            // Due times are exact to a second: they are kept on the monotonic clock of the process.
            let due = message["due_at"].as_i64().map(|due| (due + 500_000_000) / 1_000_000_000);
            (["id", "state", "attempts", "body", "timestamp"].map(|name| message[name].clone()), due)
        };
        let peeks = ["busy", "idle", "halted"].map(|channel| format!("orders/{channel}"));
        let mut found = Vec::new();
        for object in &peeks {
            let page = offline(&["peek", object, "--limit", "5000"], &dir).await.expect(0).json();
            assert_eq!(page["messages"][0]["node"], dir.to_str().unwrap());
            found.push(page["messages"].as_array().expect("messages").iter().map(fields).collect::<Vec<_>>());
        }
        let newest =
            offline(&["peek", "orders", "--from", "tail", "--limit", "1"], &dir).await.expect(0).json();
        assert_eq!(newest["messages"][0]["body"], "the last");
        let matching = ["peek", "orders/idle", "--match", "^the last$", "--limit", "3"];
        assert_eq!(
            offline(&matching, &dir).await.expect(0).json()["messages"].as_array().map(Vec::len),
            Some(1)
        );
        let why = offline(&["why", "orders/halted"], &dir).await.expect(0).json();
        let codes: Vec<&str> = why["nodes"][0]["causes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|cause| cause["code"].as_str().unwrap())
            .collect();
        assert_eq!(codes, ["not_running", "channel_paused"]);
        let deferred =
            found[0].iter().find(|(message, _)| message[1] == "deferred").expect("a deferred message");
        let id = deferred.0[0].as_str().unwrap();
        let why = offline(&["why", "orders/busy", id], &dir).await.expect(0).json();
        assert_eq!(why["nodes"][0]["causes"][0]["code"], "retry_later", "{why}");

        let typo = offline(&["peek", "order"], &dir).await.expect(4);
        assert!(typo.stderr.contains("did you mean orders?"), "{typo:#?}");
        offline(&["peek", "orders/nobody"], &dir).await.expect(4);
        let bad = offline(&["peek", "orders", "--from", "yesterday"], &dir).await.expect(2);
        assert!(bad.stderr.contains("before:NUMBER"), "{bad:#?}");
        assert!(fingerprint(&dir) == before, "the directory is unchanged");

        nsqd.restart().await;
        let http = nsqd.http().to_string();
        for (object, found) in peeks.iter().zip(found) {
            let mut command = tokio::process::Command::new(binary("nsq"));
            command.args(["peek", object, "--limit", "5000", "--json", "--nsqd", &http]);
            let output = command.output().await.expect("nsq starts");
            let page: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let live: Vec<_> = page["messages"].as_array().expect("messages").iter().map(fields).collect();
            assert_eq!(live.len(), found.len(), "{object}");
            for ((live, live_due), (found, due)) in live.iter().zip(&found) {
                assert_eq!(live, found, "{object}");
                let apart = live_due.zip(*due).map(|(live, found)| live.abs_diff(found));
                assert!(
                    live_due.is_some() == due.is_some() && apart.is_none_or(|apart| apart <= 1),
                    "{live:?}"
                );
            }
        }
        offline(&["peek", "orders"], &dir).await.expect(5);
    });
}

#[test]
fn inspect_matches_what_a_start_finds_and_changes_nothing() {
    test(async {
        let mut nsqd = nsqd_with_mixed_state().await;
        let dir = nsqd.data_path().to_owned();
        let before = fingerprint(&dir);
        let report = data(&["--json", "inspect"], &[&dir]).await.expect(0).json();
        let text = data(&["inspect"], &[&dir]).await.expect(0).stdout;
        assert!(text.contains("orders\tbusy\t"), "{text}");
        let one = data(&["inspect", "--json", "--topic=unread"], &[&dir]).await.expect(0).json();
        assert_eq!(one["ours"]["topics"].as_array().map(Vec::len), Some(1));
        data(&["inspect", "--topic=nobody"], &[&dir]).await.expect(4);
        data(&["verify"], &[&dir]).await.expect(0);
        data(&["export"], &[&dir, Path::new("-")]).await.expect(0);
        assert!(fingerprint(&dir) == before, "the directory is unchanged");

        nsqd.restart().await;
        let ours = &report["ours"];
        assert_eq!(ours["format_version"], 1);
        assert!(ours["journal"]["files"][0]["records"]["publish"].as_u64() >= Some(22), "{ours}");
        assert!(ours["journal"]["files"][0]["records"]["finish"].as_u64() >= Some(1), "{ours}");
        let stats = nsqd.topics().await;
        let reported = ours["topics"].as_array().expect("topics");
        assert_eq!(reported.len(), stats.len());
        for (reported, stats) in reported.iter().zip(&stats) {
            assert_eq!(reported["topic_name"], stats.topic_name.as_str());
            assert_eq!(reported["depth"], stats.depth, "{reported}");
            assert_eq!(reported["message_count"], stats.message_count);
            assert_eq!(reported["message_bytes"], stats.message_bytes);
            assert_eq!(reported["paused"], stats.paused);
            let channels = reported["channels"].as_array().expect("channels");
            assert_eq!(channels.len(), stats.channels.len());
            for (reported, stats) in channels.iter().zip(&stats.channels) {
                assert_eq!(reported["channel_name"], stats.channel_name.as_str());
                assert_eq!(reported["depth"], stats.depth, "{reported}");
                assert_eq!(reported["in_flight_count"], stats.in_flight_count);
                assert_eq!(reported["deferred_count"], stats.deferred_count, "{reported}");
                assert_eq!(reported["message_count"], stats.message_count);
                assert_eq!(reported["requeue_count"], stats.requeue_count);
                assert_eq!(reported["paused"], stats.paused);
            }
        }
        let busy = &reported[0]["channels"][0];
        assert_eq!((&busy["channel_name"], &busy["deferred_count"]), (&"busy".into(), &2.into()));
        // The journal has no deliveries of messages behind the last requeued one, so these count as undelivered.
        assert_eq!(busy["redelivery_count"], 122 - 50 - 1, "in flight or requeued at the end");
        let segments = &reported[0]["segments"];
        assert!(segments["message_count"].as_u64() > Some(1000), "most messages have spilled: {segments}");
        assert!(segments["oldest_timestamp"].as_str() < segments["newest_timestamp"].as_str(), "{segments}");
    });
}

#[test]
fn directory_in_use_is_refused() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "x").await;
        for words in [&["inspect"][..], &["verify"], &["export"]] {
            let target = nsqd.data_path().join("out");
            let paths = [nsqd.data_path(), target.as_path()];
            let ran = data(words, if words[0] == "export" { &paths } else { &paths[..1] }).await.expect(5);
            assert!(ran.stderr.contains("a daemon is using this directory"), "{ran:#?}");
            assert!(!target.exists());
        }
        nsqd.publish("t", "y").await;
        let nothing = TempDir::new().expect("a temporary directory");
        data(&["inspect"], &[nothing.path()]).await.expect(4);
        data(&["inspect"], &[&nothing.path().join("missing")]).await.expect(4);
        fs::write(nothing.path().join("format"), "99\n").expect("the file is writable");
        let ran = data(&["verify"], &[nothing.path()]).await.expect(5);
        assert!(ran.stderr.contains("format version 99"), "{ran:#?}");
    });
}

/// Id, attempts at the next delivery, body.
type Expected = BTreeSet<(String, u64, Vec<u8>)>;

fn delivered(messages: &[Message]) -> Expected {
    messages
        .iter()
        .map(|message| (message.id_text(), u64::from(message.attempts), message.body.to_vec()))
        .collect()
}

#[test]
fn json_lines_export_matches_what_consumers_receive() {
    test(async {
        let mut nsqd = nsqd_with_mixed_state().await;
        let dir = nsqd.data_path().to_owned();
        let lines = data(&["export", "--format=jsonl"], &[&dir, Path::new("-")]).await.expect(0).json_lines();
        let out = TempDir::new().expect("a temporary directory");
        let target = out.path().join("lines");
        data(&["export", "--topic=orders", "--channel=idle"], &[&dir, &target]).await.expect(0);
        let by_file = fs::read_to_string(target.join("orders.jsonl")).expect("a file per topic");
        assert_eq!(
            fs::read_dir(out.path()).expect("the directory exists").count(),
            1,
            "no other file is left"
        );
        data(&["export"], &[&dir, &target]).await.expect(2);
        data(&["export", "--topic=nobody"], &[&dir, Path::new("-")]).await.expect(4);
        let all = data(&["export", "--all", "--topic=orders"], &[&dir, Path::new("-")])
            .await
            .expect(0)
            .json_lines();
        assert_eq!(all.len(), 2003, "finished messages are included, each once");

        nsqd.restart().await;
        nsqd.admin("/channel/unpause?topic=orders&channel=halted").await;
        let body = |line: &Value| match line["body"].as_str() {
            Some(text) => text.as_bytes().to_vec(),
            None => {
                assert_eq!(line["body_base64"], "bm8gdGV4dDog//4A");
                b"no text: \xff\xfe\x00".to_vec()
            }
        };
        for channel in ["busy", "idle", "halted"] {
            let of_channel = || {
                lines.iter().filter(|line| line["topic_name"] == "orders" && line["channel_name"] == channel)
            };
            let exported: Expected = of_channel()
                .filter(|line| line["deferred_until"].is_null())
                .map(|line| {
                    let attempts = line["attempts"].as_u64().expect("attempts") + 1;
                    (line["id"].as_str().expect("an id").to_owned(), attempts, body(line))
                })
                .collect();
            assert_eq!(exported, delivered(&drain(&nsqd, "orders", channel).await), "{channel}");
            let deferred = of_channel().filter(|line| line["deferred_until"].is_string()).count() as u64;
            let seen = nsqd.channel("orders", channel).await.expect("the channel exists");
            assert_eq!((deferred, seen.depth), (seen.deferred_count, 0), "{channel}");
            if channel == "idle" {
                assert_eq!(by_file.lines().count() as u64, exported.len() as u64 + deferred);
            }
        }
        let held: Vec<&Value> = lines.iter().filter(|line| line["topic_name"] == "unread").collect();
        assert!(held.iter().all(|line| line["channel_name"].is_null()), "{held:?}");
        let bodies: Vec<&str> = held.iter().filter_map(|line| line["body"].as_str()).collect();
        assert_eq!(bodies, ["held 1", "held 2", "held 3", "held and deferred"]);
        assert!(held[3]["deferred_until"].is_string());
    });
}

#[test]
fn nsq_export_is_imported_completely() {
    test(async {
        let mut nsqd = nsqd_with_mixed_state().await;
        let out = TempDir::new().expect("a temporary directory");
        let target = out.path().join("data");
        let exported = data(&["export", "--format=nsq"], &[nsqd.data_path(), &target]).await.expect(0);
        data(&["export", "--format=nsq"], &[nsqd.data_path(), Path::new("-")]).await.expect(2);
        let report = data(&["inspect", "--json"], &[&target]).await.expect(0).json();
        assert!(report["ours"].is_null());
        let counts = report["nsq"]["queues"].as_array().expect("queues").iter();
        let total: u64 = counts.filter_map(|queue| queue["message_count"].as_u64()).sum();
        assert!(exported.stderr.contains(&format!("exported {total} messages")), "{exported:#?}");
        data(&["verify"], &[&target]).await.expect(0);
        let lines = data(&["export"], &[&target, Path::new("-")]).await.expect(0).json_lines();
        assert_eq!(lines.len() as u64, total);

        // `start_in` uses the whole directory as data directory, so the exported files are copied into a new one.
        let folder = Arc::new(TempDir::with_prefix("nsq-tests-").expect("a temporary directory"));
        for entry in fs::read_dir(&target).expect("the directory exists").flatten() {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("the file can be copied");
        }
        let importing = Daemon::nsqd().start_in(folder).await;
        nsqd.restart().await;
        for nsqd in [&nsqd, &importing] {
            nsqd.admin("/channel/unpause?topic=orders&channel=halted").await;
        }
        let summary = |messages: Vec<Message>| -> BTreeSet<(u16, Vec<u8>)> {
            messages.iter().map(|message| (message.attempts, message.body.to_vec())).collect()
        };
        for channel in ["busy", "idle", "halted"] {
            let mut expected = summary(drain(&nsqd, "orders", channel).await);
            let deferred = nsqd.channel("orders", channel).await.expect("the channel exists").deferred_count;
            let imported = summary(drain(&importing, "orders", channel).await);
            let more: Vec<_> = imported.difference(&expected).cloned().collect();
            // NSQ's format has no due times, so deferred messages are delivered at once.
            assert_eq!(more.len() as u64, deferred, "{channel}");
            expected.extend(more);
            assert_eq!(imported, expected, "{channel}");
        }
        assert_eq!(importing.topic("unread").await.map(|topic| topic.depth), Some(4));
    });
}

/// The damage that `nsq data verify` reports: file, offset, bytes, first and last message.
async fn damage(dir: &Path) -> Vec<(String, u64, u64, Option<u64>, Option<u64>)> {
    let ran = data(&["verify", "--json"], &[dir]).await;
    let report = ran.json();
    let number = |finding: &Value, field: &str| finding[field].as_u64();
    let found: Vec<_> = (report["damage"].as_array().expect("damage").iter())
        .map(|finding| {
            (
                finding["file"].as_str().expect("a file").to_owned(),
                number(finding, "offset").expect("an offset"),
                number(finding, "bytes").expect("a length"),
                number(finding, "first_sequence"),
                number(finding, "last_sequence"),
            )
        })
        .collect();
    ran.expect(if found.is_empty() { 0 } else { 7 });
    found
}

/// Flips a bit, runs `check`, and restores the file.
async fn with_flipped_bit(path: &Path, offset: usize, check: impl AsyncFnOnce()) {
    let whole = fs::read(path).expect("the file is readable");
    let mut broken = whole.clone();
    broken[offset] ^= 4;
    fs::write(path, broken).expect("the file is writable");
    check().await;
    fs::write(path, whole).expect("the file is writable");
}

#[test]
fn verify_finds_a_flipped_bit_wherever_it_is() {
    test_within(Duration::from_secs(120), async {
        let mut nsqd = nsqd_with_mixed_state().await;
        // A clean stop writes a checkpoint.
        nsqd.restart().await;
        nsqd.publish("orders", "one more").await;
        assert!(nsqd.terminate().await.success());
        let dir = nsqd.data_path().to_owned();
        assert_eq!(damage(&dir).await, []);
        let below = |path: &Path| -> Vec<PathBuf> {
            let mut found: Vec<PathBuf> = fs::read_dir(path)
                .expect("the directory exists")
                .flatten()
                .map(|entry| entry.path())
                .collect();
            found.sort();
            found
        };
        let name = |path: &Path| path.strip_prefix(&dir).expect("inside").display().to_string();

        with_flipped_bit(&dir.join("format"), 1, async || {
            assert_eq!(damage(&dir).await, [("format".into(), 0, 2, None, None)]);
            let report = data(&["inspect", "--json"], &[&dir]).await.expect(0).json();
            assert!(report["warnings"][0].as_str().is_some_and(|text| text.contains("format")), "{report}");
        })
        .await;
        let checkpoint = dir.join("checkpoint");
        let bytes = fs::metadata(&checkpoint).expect("the file exists").len();
        with_flipped_bit(&checkpoint, bytes as usize / 2, async || {
            assert_eq!(damage(&dir).await, [("checkpoint".into(), 0, bytes, None, None)]);
        })
        .await;

        let journal = below(&dir.join("journal")).remove(0);
        let content = fs::read(&journal).expect("the file is readable");
        let length =
            |at: usize| u32::from_le_bytes(content[at..at + 4].try_into().expect("four bytes")) as usize;
        let header = 12;
        with_flipped_bit(&journal, 20, async || {
            assert_eq!(
                damage(&dir).await,
                [(name(&journal), 0, 64, None, None)],
                "one of the two header copies is damaged"
            );
        })
        .await;
        // Finds the first batch: a record whose content starts with kind 1.
        let mut at = 128;
        while content[at + header] != 1 {
            at += header + length(at);
        }
        let first =
            u64::from_le_bytes(content[at + header + 5..at + header + 13].try_into().expect("eight bytes"));
        let record = (header + length(at)) as u64;
        for inside in [1, header + 1000] {
            with_flipped_bit(&journal, at + inside, async || {
                let expected = (name(&journal), at as u64, record, Some(first), Some(first + 99));
                assert_eq!(damage(&dir).await, [expected], "the batch of 100 messages is damaged");
            })
            .await;
        }

        let segments: Vec<PathBuf> =
            below(&dir.join("topics")).iter().flat_map(|topic| below(topic)).collect();
        assert!(!segments.is_empty());
        let segment = &segments[0];
        let content = fs::read(segment).expect("the file is readable");
        let frames = u32::from_le_bytes(content[68..72].try_into().expect("four bytes"));
        let count = u64::from(u32::from_le_bytes(content[76..80].try_into().expect("four bytes")));
        let first = u64::from_le_bytes(content[80..88].try_into().expect("eight bytes"));
        with_flipped_bit(segment, 64 + 28 + 500, async || {
            let expected = (name(segment), 92, u64::from(frames), Some(first), Some(first + count - 1));
            assert_eq!(damage(&dir).await, [expected], "the content of one block is damaged");
        })
        .await;
        with_flipped_bit(segment, 64 + 9, async || {
            let found = damage(&dir).await;
            assert_eq!((&found[0].0, found[0].1, found[0].2), (&name(segment), 64, u64::from(frames) + 28));
        })
        .await;
        with_flipped_bit(segment, 40, async || {
            assert_eq!(
                damage(&dir).await,
                [(name(segment), 32, 32, None, None)],
                "one of the two header copies is damaged"
            );
        })
        .await;
        assert_eq!(damage(&dir).await, []);

        // An export skips damaged blocks and reports them.
        with_flipped_bit(segment, 64 + 28 + 500, async || {
            let ran = data(&["export", "--all", "--topic=orders"], &[&dir, Path::new("-")]).await.expect(7);
            assert!(ran.stderr.contains("damaged"), "{}", ran.stderr);
        })
        .await;

        let out = TempDir::new().expect("a temporary directory");
        let target = out.path().join("nsq");
        data(&["export", "--format=nsq"], &[&dir, &target]).await.expect(0);
        with_flipped_bit(&target.join("nsqd.dat"), 0, async || {
            assert_eq!(damage(&target).await[0].0, "nsqd.dat");
        })
        .await;
        let queue = target.join("orders:idle.diskqueue.000000.dat");
        let first =
            4 + u32::from_be_bytes(fs::read(&queue).expect("the file exists")[..4].try_into().expect("four"));
        with_flipped_bit(&queue, 0, async || {
            assert_eq!(
                damage(&target).await,
                [("orders:idle.diskqueue.000000.dat".into(), 0, u64::from(first), None, None)]
            );
        })
        .await;
    });
}

/// Retired files leave a journal that does not begin with file 1.
#[test]
fn healthy_directory_verifies_clean_after_its_first_journal_files_are_retired() {
    test_within(Duration::from_secs(120), async {
        let mut nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        let dir = nsqd.data_path().to_owned();
        let first = dir.join("journal/00000000000000000001.journal");
        for _ in 0..8 {
            nsqd.publish("t", "x").await;
            nsqd.kill().await;
            assert_eq!(damage(&dir).await, [], "after a kill");
            nsqd.restart().await;
        }
        nsqd.admin("/channel/empty?topic=t&channel=c").await;
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while first.exists() {
            assert!(std::time::Instant::now() < deadline, "the first journal file is not retired");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(nsqd.terminate().await.success());
        assert_eq!(damage(&dir).await, [], "after a clean stop");
        nsqd.restart().await;
        assert!(!nsqd.log().contains("damaged") && !nsqd.log().contains("missing"), "{}", nsqd.log().text());
    });
}

#[test]
fn newest_journal_file_without_its_first_page_is_reported_and_read() {
    test(async {
        let mut nsqd = Daemon::nsqd().flag("--durability=sync").start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        for _ in 0..20 {
            nsqd.publish("t", [b'x'; 1000]).await;
        }
        nsqd.kill().await;
        let dir = nsqd.data_path().to_owned();
        let journal = dir.join("journal/00000000000000000001.journal");
        let mut content = fs::read(&journal).expect("the file is readable");
        content[..4096].fill(0);
        fs::write(&journal, content).expect("the file is writable");
        assert!(!damage(&dir).await.is_empty());
        nsqd.restart().await;
        assert!(nsqd.log().contains("nsq data verify"), "{}", nsqd.log().text());
        // The record with the topic's name is lost.
        let stats = nsqd.get_json("/stats?format=json").await;
        let depth = stats["topics"][0]["depth"].as_u64().expect("a topic");
        assert!((15..=17).contains(&depth), "{stats}");
    });
}

#[test]
fn export_without_disk_space_leaves_no_files() {
    test(async {
        let nsqd = nsqd_with_mixed_state().await;
        let out = TempDir::new().expect("a temporary directory");
        let target = out.path().join("data");
        // The shell sets the file size limit and ignores the signal that exceeding it sends.
        let script = format!(
            "trap '' XFSZ; ulimit -f 1000; exec {} data export --format=nsq {} {}",
            binary("nsq").display(),
            nsqd.data_path().display(),
            target.display()
        );
        let output =
            tokio::process::Command::new("bash").args(["-c", &script]).output().await.expect("bash starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("cannot write") && stderr.contains("messages with"), "{stderr}");
        assert_eq!(fs::read_dir(out.path()).expect("the directory exists").count(), 0, "{stderr}");
    });
}

#[test]
fn pending_import_is_shown_as_nsq_data() {
    test(async {
        let dir = TempDir::new().expect("a temporary directory");
        let record = |n: u8, attempts: u16| {
            let mut bytes = 27_u32.to_be_bytes().to_vec();
            bytes.extend(1_700_000_000_000_000_000_i64.to_be_bytes());
            bytes.extend(attempts.to_be_bytes());
            bytes.extend(format!("{n:016x}").as_bytes());
            bytes.push(b'a' + n);
            bytes
        };
        let file = |name: &str, content: &[u8]| {
            fs::write(dir.path().join(name), content).expect("the file is writable")
        };
        file(
            "nsqd.dat",
            br#"{"topics":[{"name":"t","paused":true,"channels":[{"name":"c","paused":false}]}]}"#,
        );
        file("t:c.diskqueue.000000.dat", &[record(0, 0), record(1, 2), record(2, 0)].concat());
        file("t:c.diskqueue.meta.dat", b"2\n0,31\n0,93\n");
        file("gone.diskqueue.000000.dat", &record(5, 0));
        let report = data(&["inspect", "--json"], &[dir.path()]).await.expect(0).json();
        assert_eq!(report["nsq"]["takeover_is_due"], true);
        let queues = report["nsq"]["queues"].as_array().expect("queues");
        let found: Vec<(&str, bool, u64)> = queues
            .iter()
            .map(|queue| {
                let name = queue["channel_name"].as_str().or(queue["topic_name"].as_str()).expect("a name");
                (name, queue["listed"] == true, queue["message_count"].as_u64().expect("a count"))
            })
            .collect();
        assert_eq!(found, [("gone", false, 1), ("t", true, 0), ("c", true, 2)]);
        let lines = data(&["export"], &[dir.path(), Path::new("-")]).await.expect(0).json_lines();
        let found: Vec<(&str, u64)> = lines
            .iter()
            .map(|line| (line["body"].as_str().unwrap(), line["attempts"].as_u64().unwrap()))
            .collect();
        assert_eq!(found, [("b", 2), ("c", 0)]);
        let all = data(&["export", "--all"], &[dir.path(), Path::new("-")]).await.expect(0).json_lines();
        assert_eq!(all.len(), 3);
    });
}
