use std::process::Output;
use std::time::Duration;

use nsq_tests::daemon::binary;
use nsq_tests::{Daemon, test};
use serde_json::Value;

/// Runs `nsq bench` against `nsqd`, with `--json`.
async fn bench(nsqd: &Daemon, line: &str) -> Output {
    let (tcp, http) = (nsqd.tcp().to_string(), nsqd.http().to_string());
    let mut command = tokio::process::Command::new(binary("nsq"));
    command.arg("bench").args(line.split_whitespace());
    command.args(["--nsqd-tcp", &tcp, "--nsqd-http", &http, "--json"]).kill_on_drop(true);
    command.output().await.expect("nsq starts")
}

/// The report of a run that must succeed.
async fn report(nsqd: &Daemon, line: &str) -> Value {
    let output = bench(nsqd, line).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "nsq bench {line}: {stderr}");
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}

async fn topics(nsqd: &Daemon) -> Vec<String> {
    nsqd.topics().await.into_iter().map(|topic| topic.topic_name).collect()
}

#[test]
fn published_count_matches_nsqd() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let modes = [
            "",
            "--batch 7 --connections 3",
            "--http --connections 2",
            "--http --batch 7",
            "--in-flight 1",
            "--connections 5 --rate 2000",
        ];
        for (number, flags) in modes.into_iter().enumerate() {
            let topic = format!("t{number}");
            let report =
                report(&nsqd, &format!("pub --topic {topic} --messages 1001 --size 50 {flags}")).await;
            assert_eq!(report["published"]["messages"], 1001, "{flags}");
            let counted = nsqd.topic(&topic).await.expect("the topic exists");
            assert_eq!((counted.message_count, counted.depth), (1001, 1001), "{flags}");
        }
    });
}

#[test]
fn each_channel_gets_every_message() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let report = report(&nsqd, "fanout --messages 2000 --batch 10 --channels 3 --consumers 2").await;
        assert_eq!(report["published"]["messages"], 2000);
        assert_eq!(report["delivered"]["messages"], 6000);
        assert_eq!(report["messages"], 6000);
    });
}

#[test]
fn a_backlog_is_consumed() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let report = report(&nsqd, "sub --preload 20000 --consumers 2 --rdy 50").await;
        assert_eq!(report["preload"]["messages"], 20_000);
        assert_eq!(report["delivered"]["messages"], 20_000);
    });
}

#[test]
fn requeue_flag_requeues_each_message_once() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let report = report(
            &nsqd,
            "pubsub --topic t --channel c --messages 3000 --channels 2 --consumers 2 --requeue",
        )
        .await;
        assert_eq!(report["delivered"]["messages"], 6000);
        for name in ["c-1", "c-2"] {
            let channel = nsqd.channel("t", name).await.expect("the channel exists");
            assert_eq!((channel.requeue_count, channel.depth, channel.in_flight_count), (3000, 0, 0));
        }
    });
}

#[test]
fn existing_topic_is_consumed_and_kept() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        report(&nsqd, "pub --topic t --messages 500").await;
        let report = report(&nsqd, "sub --topic t --messages 500").await;
        assert_eq!(report["delivered"]["messages"], 500);
        let channel = nsqd.channel("t", "bench").await.expect("the channel exists");
        assert_eq!((channel.depth, channel.in_flight_count), (0, 0), "nsqd has all FINs before the report");
    });
}

#[test]
fn generated_topic_is_deleted_unless_kept() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let generated = report(&nsqd, "pubsub --messages 1000").await;
        assert_eq!(generated["delivered"]["messages"], 1000);
        assert_eq!(topics(&nsqd).await, [""; 0]);
        let kept = report(&nsqd, "pubsub --messages 1000 --keep").await;
        assert_eq!(topics(&nsqd).await, [kept["topic"].as_str().expect("a name")]);
    });
}

#[test]
fn latency_reports_quantiles_at_the_given_rate() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let report = report(&nsqd, "latency --rate 500 --duration 1s --connections 2 --channels 2").await;
        assert_eq!(report["published"]["messages"], 500);
        assert_eq!(report["delivered"]["messages"], 1000);
        let seconds = report["published"]["seconds"].as_f64().expect("a number");
        assert!(seconds > 0.9, "{seconds} s");
        for (what, count) in [("delivered", 1000), ("acknowledged", 500), ("sent", 500)] {
            let quantiles = &report["latency_ms"][what];
            assert_eq!(quantiles["count"], count, "{what}");
            let [p50, p99, max] =
                ["p50", "p99", "max"].map(|name| quantiles[name].as_f64().expect("a number"));
            assert!(0.0 < p50 && p50 <= p99 && p99 <= max, "{what}: {quantiles}");
        }
    });
}

#[test]
fn duration_limits_a_run() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let report = report(&nsqd, "pubsub --duration 300ms --rate 1000").await;
        let published = report["published"]["messages"].as_u64().expect("a number");
        assert!((1..=301).contains(&published), "{published} messages");
        assert_eq!(report["delivered"]["messages"], published);
    });
}

#[test]
#[cfg(target_os = "linux")]
fn server_process_is_found_and_measured() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let report = report(&nsqd, "pub --messages 20000").await;
        assert_eq!(report["nsqd"]["pid"], nsqd.pid());
        assert!(report["server"]["cpu_seconds"].as_f64().expect("a number") > 0.0, "{report}");
        assert!(report["server"]["resident_bytes_peak"].as_u64().expect("a number") > 100_000, "{report}");
        assert!(report["generator"]["cpu_us_per_message"].as_f64().expect("a number") > 0.0, "{report}");
    });
}

#[test]
fn refused_publish_is_reported() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--max-msg-size=100").start().await;
        for flags in ["", "--http"] {
            let output = bench(&nsqd, &format!("pub --size 101 {flags}")).await;
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{stderr}");
            assert!(stderr.contains("too big") || stderr.contains("MSG_TOO_BIG"), "{stderr}");
        }
        assert_eq!(topics(&nsqd).await, [""; 0]);
    });
}

#[test]
fn unreachable_nsqd_fails_at_once() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        nsqd.kill().await;
        let run = tokio::time::timeout(Duration::from_secs(10), bench(&nsqd, "pub"));
        let output = run.await.expect("bench fails at once without an nsqd");
        assert_eq!(output.status.code(), Some(6));
    });
}
