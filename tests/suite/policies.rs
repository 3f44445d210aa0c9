use std::path::PathBuf;
use std::time::{Duration, Instant};

use nsq_tests::foreign::{self, Library};
use nsq_tests::stats::until_equal;
use nsq_tests::{Daemon, test};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// A policy file.
struct PolicyFile {
    _folder: TempDir,
    path: PathBuf,
}

impl PolicyFile {
    fn new(text: &str) -> Self {
        let folder = TempDir::with_prefix("nsq-tests-").expect("a temporary directory");
        let path = folder.path().join("policies.toml");
        let file = PolicyFile { _folder: folder, path };
        file.write(text);
        file
    }

    /// Replaces the file atomically.
    fn write(&self, text: &str) {
        let aside = self.path.with_extension("new");
        std::fs::write(&aside, text).expect("the file is writable");
        std::fs::rename(aside, &self.path).expect("the file can be renamed");
    }

    fn flag(&self) -> String {
        format!("--policy-file={}", self.path.display())
    }
}

/// A setting as `value from origin`, such as `24h0m0s from file 3`.
async fn setting(nsqd: &Daemon, target: &str, name: &str) -> String {
    let answer = nsqd.get_json(&format!("/policy/explain?{target}")).await;
    let settings = answer["settings"].as_array().expect("an array");
    let setting = settings.iter().find(|setting| setting["name"] == name).expect("the setting is listed");
    let text = |key: &str| match &setting[key] {
        Value::Null => String::new(),
        Value::String(text) => format!(" {text}"),
        other => format!(" {other}"),
    };
    format!("{} from{}{}{}", text("value"), text("origin"), text("line"), text("flag")).trim().to_owned()
}

const RETAIN: &str = "[[policy]]\ntopic = 'o*'\nretain_for = '24h'\n";
const RETRY: &str = "[[policy]]\ntopic = '*'\nchannel = 'c'\nretry = 'list 300ms'\n";

#[test]
fn the_first_source_with_a_value_wins() {
    test(async {
        let file = PolicyFile::new(RETAIN);
        let nsqd = Daemon::nsqd().flag(file.flag()).flag("--retain-for=1h").start().await;
        for name in ["orders", "bills"] {
            nsqd.admin(&format!("/topic/create?topic={name}")).await;
        }
        assert_eq!(setting(&nsqd, "topic=bills", "retain_for").await, "1h0m0s from flag retain-for");
        assert_eq!(setting(&nsqd, "topic=orders", "retain_for").await, "24h0m0s from file 1");
        nsqd.admin("/topic/set?topic=orders&retain_for=14d&owner=shop").await;
        assert_eq!(setting(&nsqd, "topic=orders", "retain_for").await, "336h0m0s from api");
        assert_eq!(setting(&nsqd, "topic=orders", "owner").await, "shop from api");
        assert_eq!(setting(&nsqd, "topic=orders", "retain_bytes").await, "from default");
        nsqd.admin("/topic/set?topic=orders&retain_for=default").await;
        assert_eq!(setting(&nsqd, "topic=orders", "retain_for").await, "24h0m0s from file 1");
        let stats = nsqd.get_json("/stats?format=json&topic=orders").await;
        assert_eq!(stats["topics"][0]["retention"]["retain_for"].as_u64(), Some(24 * 3_600_000_000_000));
        // A name that does not exist yet.
        let answer = nsqd.get_json("/policy/explain?topic=other").await;
        assert_eq!((&answer["exists"], &answer["topic_name"]), (&false.into(), &"other".into()));
    });
}

#[test]
fn settings_survive_a_kill_and_a_clean_stop_and_end_with_their_owner() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        nsqd.admin("/topic/set?topic=t&retain_for=1h&owner=me").await;
        nsqd.admin("/channel/set?topic=t&channel=c&retry=list%201s,2s&description=a%20b").await;
        for round in 0..3 {
            match round {
                0 => nsqd.kill().await,
                _ => drop(nsqd.terminate().await),
            }
            nsqd.restart().await;
            assert_eq!(setting(&nsqd, "topic=t", "retain_for").await, "1h0m0s from api", "{round}");
            assert_eq!(setting(&nsqd, "topic=t", "owner").await, "me from api", "{round}");
            assert_eq!(setting(&nsqd, "topic=t&channel=c", "retry").await, "list 1s,2s from api", "{round}");
            assert_eq!(setting(&nsqd, "topic=t&channel=c", "description").await, "a b from api", "{round}");
        }
        nsqd.admin("/channel/delete?topic=t&channel=c").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        assert_eq!(setting(&nsqd, "topic=t&channel=c", "retry").await, "from default");
        nsqd.admin("/topic/delete?topic=t").await;
        nsqd.admin("/topic/create?topic=t").await;
        assert_eq!(setting(&nsqd, "topic=t", "owner").await, "from default");
    });
}

#[test]
fn retain_is_an_alias_for_the_retention_settings() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/topic/retain?topic=t&for=2h").await;
        assert_eq!(setting(&nsqd, "topic=t", "retain_for").await, "2h0m0s from api");
        assert_eq!(setting(&nsqd, "topic=t", "retain_bytes").await, "0 from api");
        nsqd.kill().await;
        nsqd.restart().await;
        assert_eq!(setting(&nsqd, "topic=t", "retain_for").await, "2h0m0s from api");
        nsqd.admin("/topic/retain?topic=t&for=default").await;
        assert_eq!(setting(&nsqd, "topic=t", "retain_for").await, "from default");
    });
}

#[test]
fn a_wrong_setting_changes_nothing() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        nsqd.admin("/topic/create?topic=e%23ephemeral").await;
        for (target, answer) in [
            (
                "/topic/set?topic=t&owner=me&retain_for=5",
                "INVALID_SETTING: retain_for=5: missing unit in duration",
            ),
            (
                "/topic/set?topic=t&owner=me&retian_for=5s",
                "INVALID_SETTING: unknown setting \"retian_for\" (did you mean",
            ),
            (
                "/topic/set?topic=t&owner=me&retry=list%201s",
                "INVALID_SETTING: retry is a setting of channels;",
            ),
            ("/topic/set?topic=t&owner=me&owner=you", "INVALID_SETTING: owner is given twice"),
            ("/topic/set?topic=t", "INVALID_SETTING: no setting is given;"),
            ("/channel/set?topic=t&channel=c&retry=often", "INVALID_SETTING: retry=often: \"often\" is not"),
            ("/topic/set?topic=e%23ephemeral&owner=me&retain_for=1h", "EPHEMERAL_TOPIC"),
        ] {
            let message = nsqd.post(target, b"").await.expect(400).json()["message"].clone();
            let message = message.as_str().expect("a text");
            assert!(message.starts_with(answer), "{target}: {message}");
        }
        nsqd.post("/topic/set?topic=none&owner=me", b"").await.expect_error(404, "TOPIC_NOT_FOUND");
        nsqd.post("/channel/set?topic=t&channel=none&owner=me", b"")
            .await
            .expect_error(404, "CHANNEL_NOT_FOUND");
        for target in ["topic=t", "topic=t&channel=c", "topic=e%23ephemeral"] {
            assert_eq!(setting(&nsqd, target, "owner").await, "from default", "{target}");
        }
    });
}

#[test]
fn the_file_is_read_again_and_a_wrong_one_is_refused_as_a_whole() {
    test(async {
        let file = PolicyFile::new(RETAIN);
        let nsqd = Daemon::nsqd().flag(file.flag()).start().await;
        nsqd.admin("/topic/create?topic=orders").await;
        file.write(&format!("{RETAIN}[[policy]]\ntopic = '*'\nowner = 'all'\n"));
        nsqd.log().expect("POLICY: 2 policies from").await;
        assert_eq!(setting(&nsqd, "topic=orders", "owner").await, "all from file 4");

        file.write(&format!("{RETAIN}[[policy]]\ntopic = '*'\nowner = 'new'\nretain_for = 'long'\n"));
        nsqd.log().expect("POLICY: keeping the current policies - ").await;
        nsqd.log().expect("line 7: retain_for=long: \"long\" is not a duration").await;
        assert_eq!(setting(&nsqd, "topic=orders", "owner").await, "all from file 4");

        file.write("");
        nsqd.log().expect("POLICY: 0 policies from").await;
        assert_eq!(setting(&nsqd, "topic=orders", "owner").await, "from default");
        let stats = nsqd.get_json("/stats?format=json&topic=orders").await;
        assert!(stats["topics"][0]["retention"].is_null(), "{stats}");
    });
}

/// Without certificates and tokens, the policy file is all that SIGHUP reloads.
#[test]
fn sighup_rereads_the_file() {
    test(async {
        let file = PolicyFile::new(RETAIN);
        let mut nsqd = Daemon::nsqd().flag(file.flag()).start().await;
        let reads = async || nsqd.log().text().matches("POLICY: 1 policies from").count();
        until_equal("read at start", 1, reads).await;
        nsqd.signal(Signal::HUP);
        until_equal("read again", 2, reads).await;
        assert!(nsqd.terminate().await.success());
    });
}

#[test]
fn an_invalid_file_at_start_is_an_error() {
    test(async {
        let file = PolicyFile::new("[[policy]]\nowner = 'x'\n");
        let (status, log) = Daemon::nsqd().flag(file.flag()).expect_exit().await;
        assert_eq!(status.code(), Some(1));
        assert!(log.contains("failed to read --policy-file - "), "{}", log.text());
        assert!(log.contains("line 1: the policy has no topic"), "{}", log.text());
    });
}

/// A restart must not free what only the policy file retains.
#[test]
fn retention_by_policy_survives_a_kill() {
    test(async {
        let file = PolicyFile::new(RETAIN);
        let mut nsqd = Daemon::nsqd().flag(file.flag()).flag("--mem-queue-size=10").start().await;
        let mut peer = nsqd.subscribe("orders", "c").await;
        peer.ready(500).await;
        let bodies: Vec<String> = (0..500).map(|number| number.to_string()).collect();
        nsqd.connect().await.publish_batch("orders", &bodies).await;
        peer.consume(500).await;
        peer.barrier().await;
        for _ in 0..2 {
            nsqd.kill().await;
            nsqd.restart().await;
        }
        nsqd.admin("/channel/create?topic=orders&channel=late&start=earliest").await;
        assert_eq!(nsqd.channel("orders", "late").await.expect("the channel exists").depth, 500);
    });
}

const DELAY: Duration = Duration::from_millis(300);

#[test]
fn failed_messages_wait_as_the_schedule_says() {
    test(async {
        let file = PolicyFile::new(RETRY);
        let nsqd = Daemon::nsqd().flag(file.flag()).flag("--msg-timeout=1s").start().await;
        let mut peer = nsqd.subscribe("t", "c").await;
        let mut other = nsqd.subscribe("t", "other").await;
        nsqd.publish("t", "x").await;
        other.ready(1).await;
        let message = other.message().await;
        other.requeue(&message, Duration::ZERO).await;
        assert_eq!(other.message().await.attempts, 2, "a channel without a schedule delivers at once");

        peer.ready(1).await;
        let message = peer.message().await;
        let failed_at = Instant::now();
        peer.requeue(&message, Duration::ZERO).await;
        nsqd.channel_until("t", "c", "the message is held back", |channel| channel.deferred_count == 1).await;
        let again = peer.message().await;
        assert!(failed_at.elapsed() >= DELAY && again.attempts == 2);

        // A delay that the consumer names wins.
        let failed_at = Instant::now();
        peer.requeue(&again, 3 * DELAY).await;
        let again = peer.message().await;
        assert!(failed_at.elapsed() >= 3 * DELAY && again.attempts == 3);

        // It times out after a second, and is held back for the delay.
        let delivered_at = Instant::now();
        let again = peer.message().await;
        assert!(delivered_at.elapsed() >= Duration::from_secs(1) + DELAY && again.attempts == 4);
        peer.finish(&again).await;
        nsqd.channel_until_finished("t", "c").await;
    });
}

#[test]
fn messages_stay_held_back_across_a_kill() {
    test(async {
        let mut nsqd = Daemon::nsqd().flag("--msg-timeout=1s").start().await;
        let mut peer = nsqd.subscribe("t", "c").await;
        nsqd.admin("/channel/set?topic=t&channel=c&retry=list%201h").await;
        nsqd.connect().await.publish_batch("t", &["requeued", "timed out"]).await;
        peer.ready(2).await;
        let messages = peer.messages(2).await;
        peer.requeue(&messages[0], Duration::ZERO).await;
        let held_back = |channel: &nsq_tests::stats::Channel| channel.deferred_count == 2;
        nsqd.channel_until("t", "c", "both messages are held back", held_back).await;
        // Acknowledgements are written with the next publish, or a little later.
        nsqd.publish("other", "x").await;
        nsqd.kill().await;
        nsqd.restart().await;
        let channel = nsqd.channel("t", "c").await.expect("the channel exists");
        assert_eq!((channel.deferred_count, channel.depth), (2, 0));
    });
}

/// The clients requeue without a delay, as they always did.
#[test]
fn unmodified_clients_get_failed_messages_after_the_delay() {
    test(async {
        if foreign::left_out() {
            return;
        }
        let file = PolicyFile::new("[[policy]]\ntopic = '*'\nchannel = '*'\nretry = 'list 700ms'\n");
        let nsqd = Daemon::nsqd().flag(file.flag()).start().await;
        let address = nsqd.tcp().to_string();
        for library in Library::ALL {
            let topic = format!("{library:?}");
            nsqd.publish(&topic, "x").await;
            let arguments = [
                "--nsqd",
                &address,
                "--topic",
                &topic,
                "--channel",
                "c",
                "--count",
                "1",
                "--requeue-ms",
                "0",
            ];
            let mut consumer = library.run("consume", &arguments);
            let (first, second) = (consumer.next("message").await, consumer.next("message").await);
            assert_eq!((&first["attempts"], &second["attempts"]), (&1.into(), &2.into()), "{library:?}");
            let waited = second["at"].as_f64().unwrap_or(0.0) - first["at"].as_f64().unwrap_or(0.0);
            assert!(waited >= 0.69, "{library:?} waited {waited} s");
            consumer.finish().await;
            nsqd.channel_until_finished(&topic, "c").await;
        }
    });
}
