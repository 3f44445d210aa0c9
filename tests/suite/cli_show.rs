use std::time::{Duration, Instant};

use nsq_tests::process::stop;
use nsq_tests::{Daemon, test, wait};
use rustix::process::Signal;
use serde_json::json;

use crate::cli::{Running, cluster, command, nsq};

/// `nsq` that asks this nsqlookupd, as a process that keeps running.
fn running(lookupd: &Daemon, line: &str) -> Running {
    let mut command = command(line);
    command.env("NSQ_LOOKUPD", lookupd.http().to_string());
    Running::start(command)
}

#[test]
fn topics_and_channels_are_shown_with_settings_and_consumers() {
    test(async {
        let (lookupd, nsqds) = cluster(2).await;
        nsq(&lookupd, "topic create orders --channel billing --on all").await.expect(0);
        nsq(&lookupd, "topic set orders retain_for=24h").await.expect(0);
        nsqds[0].publish("orders", "a").await;
        nsqds[1].publish("orders", "b").await;
        nsq(&lookupd, "wait orders/billing --depth-under 3").await.expect(0);
        let shown = nsq(&lookupd, "topic show orders --json").await.expect(0).json();
        assert_eq!(shown["topic_name"], "orders");
        assert_eq!(shown["message_count"], 2);
        assert_eq!(shown["nodes"].as_array().map(Vec::len), Some(2));
        assert_eq!(shown["nodes"][0]["message_count"], 1);
        assert_eq!(shown["channels"][0]["channel_name"], "billing");
        let settings = shown["settings"][0]["settings"].as_array().expect("a list");
        let retention = settings.iter().find(|setting| setting["name"] == "retain_for").expect("the setting");
        assert_eq!((&retention["value"], &retention["origin"]), (&json!("24h0m0s"), &json!("api")));

        let mut consumer = running(&lookupd, "sub orders billing --ack none");
        consumer.line().await;
        consumer.line().await;
        let shown = nsq(&lookupd, "channel show orders/billing --json").await.expect(0).json();
        assert_eq!((&shown["channel_name"], &shown["in_flight_count"]), (&json!("billing"), &json!(2)));
        assert_eq!(shown["clients"].as_array().map(Vec::len), Some(2));
        assert_eq!(shown["nodes"][1]["in_flight_count"], 1);
        let text = nsq(&lookupd, "channel show orders billing").await.expect(0).stdout;
        let all: Vec<&str> =
            text.lines().find(|line| line.starts_with("all\t")).expect("sums").split('\t').collect();
        assert_eq!(all[..4], ["all", "0", "0", "2"]);
        assert!(
            text.contains("\nSETTING\tVALUE\tFROM\n") && text.contains("\nTOPIC\tCHANNEL\tCLIENT"),
            "{text}"
        );
        consumer.signal(Signal::INT);
        assert_eq!(consumer.exit_code().await, Some(0));

        assert!(nsq(&lookupd, "topic show order").await.expect(4).stderr.contains("did you mean orders?"));
        nsq(&lookupd, "channel show orders bill").await.expect(4);
        stop(nsqds[1].pid()).await;
        let partial = nsq(&lookupd, "topic show orders --timeout 500ms").await.expect(3);
        assert!(partial.stderr.contains(&nsqds[1].http().to_string()), "{}", partial.stderr);
        assert!(
            partial.stdout.lines().any(|line| line.starts_with("all\t") && line.ends_with('*')),
            "{}",
            partial.stdout
        );
        nsqds[1].signal(Signal::CONT);
    });
}

#[test]
fn a_pause_ends_by_itself_or_with_the_command() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        let nsqd = &nsqds[0];
        nsq(&lookupd, "topic create t --channel c --on all").await.expect(0);
        let planned = nsq(&lookupd, "topic pause t --dry-run").await.expect(0).stdout;
        assert_eq!(planned, format!("t would be paused at {}\n", nsqd.http()));
        assert!(!nsqd.topic("t").await.expect("it exists").paused);

        let started_at = Instant::now();
        let ran = nsq(&lookupd, "topic pause t --for 1s").await.expect(0);
        assert!(started_at.elapsed() >= Duration::from_secs(1));
        assert_eq!(ran.stdout, format!("paused t at {0}\nunpaused t at {0}\n", nsqd.http()));
        assert!(!nsqd.topic("t").await.expect("it exists").paused);

        let mut pause = running(&lookupd, "channel pause t/c --for 1h");
        assert_eq!(pause.line().await, format!("paused t/c at {}", nsqd.http()));
        assert!(nsqd.channel("t", "c").await.expect("it exists").paused);
        pause.signal(Signal::INT);
        assert_eq!(pause.exit_code().await, Some(130));
        assert!(!nsqd.channel("t", "c").await.expect("it exists").paused);
        nsq(&lookupd, "topic pause t --for 0s").await.expect(2);
        nsq(&lookupd, "topic pause nope --for 1h").await.expect(4);
    });
}

#[test]
fn a_pause_waits_until_the_channels_are_drained() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        let nsqd = &nsqds[0];
        nsq(&lookupd, "topic create t --channel c --on all").await.expect(0);
        nsqd.publish("t", "x").await;
        nsqd.channel_until("t", "c", "it has the message", |channel| channel.depth == 1).await;
        let late = nsq(&lookupd, "topic pause t --wait --timeout 300ms").await.expect(7);
        assert!(late.stderr.contains("not drained within 300ms: 1 message is left"), "{}", late.stderr);
        let mut pause = running(&lookupd, "topic pause t --wait");
        assert_eq!(pause.line().await, format!("paused t at {}", nsqd.http()));
        nsqd.publish("t", "held back").await;
        nsq(&lookupd, "sub t c -n 1").await.expect(0);
        assert_eq!(pause.exit_code().await, Some(0));
        let topic = nsqd.topic("t").await.expect("it exists");
        assert!(topic.paused && topic.depth == 1);

        nsq(&lookupd, "topic unpause t").await.expect(0);
        let mut consumer = running(&lookupd, "sub t c --ack none");
        consumer.line().await;
        let mut pause = running(&lookupd, "channel pause t c --wait");
        pause.line().await;
        consumer.signal(Signal::INT);
        assert_eq!(pause.exit_code().await, Some(0));
        wait::until("the message is back", async || {
            wait::when(nsqd.channel("t", "c").await.expect("it exists"), |channel| {
                channel.in_flight_count == 0
            })
        })
        .await;
    });
}
