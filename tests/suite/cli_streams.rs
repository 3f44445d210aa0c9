use std::collections::BTreeSet;
use std::time::Duration;

use nsq_tests::{test, test_within, wait};
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::cli::{Running, cluster, command, nsq, nsq_with, run};

#[test]
fn a_killed_sub_loses_nothing() {
    test_within(Duration::from_secs(120), async {
        const COUNT: usize = 3_000;
        let (lookupd, nsqds) = cluster(1).await;
        nsq(&lookupd, "topic create t --channel c --on all").await.expect(0);
        let input: String = (0..COUNT).map(|n| format!("{n:05}\n")).collect();
        nsq_with(&lookupd, "pub t", input.as_bytes()).await.expect(0);
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let mut line = command("sub t c --max-in-flight 50");
            line.env("NSQ_LOOKUPD", lookupd.http().to_string());
            let mut consumer = Running::start(line);
            for _ in 0..300 {
                seen.insert(consumer.line().await);
            }
            consumer.signal(Signal::KILL);
            // What was printed before the end is in the pipe.
            while let Some(line) = consumer.lines.next_line().await.expect("the pipe can be read") {
                seen.insert(line);
            }
            consumer.exit_code().await;
        }
        let rest = nsq(&lookupd, "sub t c --until-empty").await.expect(0).stdout;
        seen.extend(rest.lines().map(str::to_owned));
        nsqds[0].channel_until_finished("t", "c").await;
        let expected: BTreeSet<String> = (0..COUNT).map(|n| format!("{n:05}")).collect();
        // A line that the kill cut is shorter than a number.
        let lost: Vec<&String> = expected.difference(&seen).collect();
        assert!(lost.is_empty(), "{lost:?}");
    });
}

#[test]
fn messages_whose_program_fails_become_dead_letters_or_are_dropped() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        nsq(&lookupd, "topic create t --channel c --on all").await.expect(0);
        nsq(&lookupd, "topic create t.failed --channel c --on all").await.expect(0);
        nsq(&lookupd, "pub t good bad").await.expect(0);
        let subscribe = |line: &str| {
            let mut command = command(line);
            let script = "b=$(cat); echo $b $NSQ_ATTEMPTS; test $b = good";
            command.args([
                "-X",
                "default_requeue_delay=50ms",
                "-X",
                "backoff_multiplier=10ms",
                "--exec",
                script,
            ]);
            command.env("NSQ_LOOKUPD", lookupd.http().to_string());
            command
        };
        let ran = run(subscribe("sub t c -n 4 --max-attempts 3 --dead-letter t.failed"), b"").await.expect(0);
        let mut lines: Vec<&str> = ran.stdout.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["bad 1", "bad 2", "bad 3", "good 1"]);
        assert!(ran.stderr.contains("failed 3 times: published to t.failed"), "{}", ran.stderr);
        nsqds[0].channel_until_finished("t", "c").await;
        let letter = nsq(&lookupd, "sub t.failed c -n 1 --json").await.expect(0).json();
        assert_eq!((&letter["body"], &letter["headers"]["dead-topic"]), (&json!("bad"), &json!("t")));
        assert_eq!(letter["headers"]["dead-attempts"], "3");

        nsq(&lookupd, "pub t bad").await.expect(0);
        let ran = run(subscribe("sub t c -n 1 --max-attempts 1"), b"").await.expect(0);
        assert!(ran.stderr.contains("failed 1 times: dropped"), "{}", ran.stderr);
        nsqds[0].channel_until_finished("t", "c").await;
        nsq(&lookupd, "sub t c --max-attempts 3").await.expect(2);
        nsq(&lookupd, "sub t c --exec true --dead-letter t.failed").await.expect(2);
    });
}

#[test]
fn empty_messages_are_skipped_or_refused() {
    test(async {
        let (lookupd, _nsqds) = cluster(1).await;
        nsq(&lookupd, "topic create t --channel c --on all").await.expect(0);
        nsq_with(&lookupd, "pub t", b"a\n\nb\n").await.expect(0);
        let refused = nsq_with(&lookupd, "pub t --keep-empty", b"c\n\nd\n").await.expect(2);
        assert!(
            refused.stderr.contains("was not published: the message body is empty"),
            "{}",
            refused.stderr
        );
        nsq_with(&lookupd, "pub t --keep-empty", b"e\n").await.expect(0);
        let taken = nsq(&lookupd, "sub t c -n 4").await.expect(0).stdout;
        assert_eq!(taken.lines().collect::<BTreeSet<_>>(), BTreeSet::from(["a", "b", "c", "e"]));
    });
}

#[test]
fn dev_says_when_it_is_ready() {
    test(async {
        let folder = TempDir::new().expect("a folder");
        let mut shell = tokio::process::Command::new("bash");
        let script = "exec \"$0\" dev --ephemeral-ports --no-admin --ready-fd 3 3>ready";
        shell.args(["-c", script]).arg(nsq_tests::daemon::binary("nsq")).current_dir(folder.path());
        shell.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).kill_on_drop(true);
        let mut dev = Running::start(shell);
        wait::until("the line is there", async || {
            let text = std::fs::read_to_string(folder.path().join("ready")).unwrap_or_default();
            wait::when(text, |text| text == "ready\n")
        })
        .await;
        dev.signal(Signal::INT);
        assert_eq!(dev.exit_code().await, Some(0));
        let wrong = run(command("dev --ready-fd 99"), b"").await.expect(2);
        assert!(wrong.stderr.contains("invalid --ready-fd 99"), "{}", wrong.stderr);
    });
}

#[test]
fn stat_is_sorted_cut_added_up_and_waits_for_a_condition() {
    test(async {
        let (lookupd, nsqds) = cluster(2).await;
        for (topic, count) in [("a", 1), ("b", 3), ("c", 2)] {
            nsq(&lookupd, &format!("topic create {topic} --channel x --on all")).await.expect(0);
            for _ in 0..count {
                nsqds[0].publish(topic, "m").await;
            }
            nsqds[0].channel_until(topic, "x", "it has all", |channel| channel.depth == count).await;
        }
        let sorted = nsq(&lookupd, "stat --no-rates --direct --sort depth --top 2").await.expect(0);
        let names: Vec<(&str, &str)> = sorted.rows().iter().map(|row| (row[0], row[4])).collect();
        assert_eq!(names, [("b", "3"), ("c", "2")]);
        let nodes = nsq(&lookupd, "stat --no-rates --direct --by node --json").await.expect(0).json();
        let mut depths: Vec<i64> = nodes["nodes"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|node| node["depth"].as_i64())
            .collect();
        depths.sort_unstable();
        assert_eq!(depths, [0, 6]);
        let topics = nsq(&lookupd, "stat b --no-rates --direct --by topic").await.expect(0);
        assert_eq!(topics.rows(), [["b", "-", "-", "3", "0", "0", "0", "0", "0", "0", "-"]]);

        nsq(&lookupd, "stat b/x --until depth==3 --interval 50ms").await.expect(0);
        let line = "stat b/x --until depth==0 --interval 50ms --timeout 300ms";
        let late = nsq(&lookupd, line).await.expect(7);
        assert!(late.stderr.contains("depth==0 did not hold within 300ms"), "{}", late.stderr);
        let wrong = nsq(&lookupd, "stat --until depth=0").await.expect(2);
        assert!(wrong.stderr.contains("such as 'depth==0'"), "{}", wrong.stderr);
    });
}
