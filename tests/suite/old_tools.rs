use std::os::unix::fs::symlink;
use std::process::Stdio;
use std::time::Duration;

use nsq_tests::daemon::binary;
use nsq_tests::wire::bodies;
use nsq_tests::{Daemon, test, wait};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::process::Command;

use crate::cli::{CommandOutput, Running, cluster, command, run};

/// Links to `nsq` with the names of NSQ's tools.
pub struct Links(TempDir);

impl Links {
    pub fn new() -> Self {
        let folder = TempDir::with_prefix("nsq-links-").expect("a temporary directory");
        for name in ["nsq", "nsq_stat", "nsq_tail", "nsq_to_file", "nsq_to_http", "nsq_to_nsq", "to_nsq"] {
            symlink(binary("nsq"), folder.path().join(name)).expect("a new link");
        }
        Links(folder)
    }

    /// The folder of the links.
    pub fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    /// A tool with its arguments.
    pub fn tool(&self, line: &str) -> Command {
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        let mut tool = Command::new(self.0.path().join(words.next().expect("a tool")));
        tool.args(words).kill_on_drop(true);
        tool.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        tool
    }

    async fn run(&self, line: &str) -> CommandOutput {
        run(self.tool(line), b"").await
    }
}

#[test]
fn old_names_print_their_version_and_exit_as_in_nsq() {
    test(async {
        let links = Links::new();
        for tool in ["nsq_stat", "nsq_tail", "nsq_to_file", "nsq_to_http", "nsq_to_nsq"] {
            assert_eq!(
                links.run(&format!("{tool} -version")).await.expect(0).stdout,
                format!("{tool} v1.3.0\n")
            );
        }
        links.run("to_nsq -version").await.expect(2);
        for tool in ["nsq_stat", "nsq_tail", "nsq_to_file", "nsq_to_http", "nsq_to_nsq", "to_nsq"] {
            let help = links.run(&format!("{tool} -h")).await.expect(0);
            assert!(help.stdout.is_empty() && help.stderr.contains("--topic"), "{}", help.stderr);
            links.run(&format!("{tool} --nope")).await.expect(2);
            assert!(links.run(tool).await.expect(1).stderr.contains(&format!("[{tool}] ")));
            // The same without a link.
            run(command(&format!("compat {tool} -h")), b"").await.expect(0);
            run(command(&format!("compat {tool}")), b"").await.expect(1);
        }
        let unknown = run(command("compat nsq_nothing"), b"").await.expect(2);
        assert!(unknown.stderr.contains("nsq_tail"), "{}", unknown.stderr);
    });
}

#[test]
fn to_nsq_publishes_every_piece_to_every_node() {
    test(async {
        let links = Links::new();
        let (a, b) = (Daemon::nsqd().start().await, Daemon::nsqd().start().await);
        let flags = format!("-topic t --nsqd-tcp-address={} --nsqd-tcp-address={}", a.tcp(), b.tcp());
        run(links.tool(&format!("to_nsq {flags}")), b"one\n\ntwo\nthree").await.expect(0);
        run(links.tool(&format!("to_nsq {flags} --delimiter=,")), b"four,five\n").await.expect(0);
        run(links.tool(&format!("to_nsq {flags} --rate=1000")), b"six").await.expect(0);
        for nsqd in [&a, &b] {
            let mut peer = nsqd.subscribe("t", "c").await;
            peer.ready(10).await;
            assert_eq!(bodies(&peer.messages(6).await), ["one", "two", "three", "four", "five", "six"]);
        }
    });
}

#[test]
fn to_nsq_reports_what_it_could_not_publish() {
    test(async {
        let links = Links::new();
        let nsqd = Daemon::nsqd().flag("--max-msg-size=10").start().await;
        let flags = format!("--nsqd-tcp-address={}", nsqd.tcp());
        let refused =
            run(links.tool(&format!("to_nsq -topic t {flags}")), b"fine\nmuch too long\n").await.expect(1);
        assert!(refused.stderr.contains("message 2"), "{}", refused.stderr);
        nsqd.topic_until("t", "the first message is there", |topic| topic.message_count == 1).await;
        // NSQ publishes to another topic, or lets a newline add a command.
        let bad =
            links.tool("to_nsq").args(["--topic", "bad topic", &flags]).output().await.expect("it runs");
        assert_eq!(bad.status.code(), Some(1));
        assert!(nsqd.topic("bad").await.is_none());
        for line in [
            format!("to_nsq {flags}"),
            "to_nsq --topic=t".to_owned(),
            format!("to_nsq --topic=t {flags} --delimiter=ab"),
        ] {
            links.run(&line).await.expect(1);
        }
    });
}

#[test]
fn nsq_tail_prints_lines_as_nsq_does() {
    test(async {
        let links = Links::new();
        let (lookupd, nsqds) = cluster(1).await;
        let nsqd = &nsqds[0];
        nsqd.admin("/topic/create?topic=a").await;
        nsqd.admin("/topic/create?topic=b").await;
        let flags = format!("-topic a -topic b --print-topic -lookupd-http-address={}", lookupd.http());
        let mut tail = Running::start(links.tool(&format!("nsq_tail {flags}")));
        let channel = wait::until("a channel on both topics", async || {
            let of =
                async |topic: &str| nsqd.topic(topic).await?.channels.first().map(|c| c.channel_name.clone());
            match (of("a").await, of("b").await) {
                (Some(a), Some(b)) if a == b => Ok(a),
                other => Err(other),
            }
        })
        .await;
        let digits = channel.strip_prefix("tail").and_then(|rest| rest.strip_suffix("#ephemeral"));
        assert!(digits.is_some_and(|d| d.len() == 6 && d.bytes().all(|b| b.is_ascii_digit())), "{channel}");
        nsqd.publish("a", "x\ny").await;
        assert_eq!((tail.line().await, tail.line().await), ("a | x".to_owned(), "y".to_owned()));
        nsqd.publish("b", "z").await;
        assert_eq!(tail.line().await, "b | z");
        tail.signal(Signal::TERM);
        assert_eq!(tail.exit_code().await, Some(0));
        wait::until("the channel is gone", async || {
            wait::when(nsqd.channel("a", &channel).await, Option::is_none)
        })
        .await;
    });
}

#[test]
fn nsq_tail_leaves_nothing_in_flight_after_its_limit() {
    test(async {
        let links = Links::new();
        let nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=durable").await;
        for number in 0..10 {
            nsqd.publish("t", format!("m{number}")).await;
        }
        let line = format!("nsq_tail -topic t -channel durable -n 2 --nsqd-tcp-address={}", nsqd.tcp());
        let ran = links.run(&line).await.expect(0);
        assert_eq!(ran.stdout, "m0\nm1\n");
        assert!(ran.stderr.contains("not ephemeral"), "{}", ran.stderr);
        nsqd.channel_until("t", "durable", "nothing is in flight", |c| {
            c.in_flight_count == 0 && c.depth == 8
        })
        .await;
    });
}

#[test]
fn nsq_tail_works_while_one_nsqd_is_down_and_fails_if_all_are() {
    test(async {
        let links = Links::new();
        let nsqd = Daemon::nsqd().start().await;
        let down = "--nsqd-tcp-address=127.0.0.1:1";
        let both = format!("nsq_tail -topic t {down} --nsqd-tcp-address={} -n 1", nsqd.tcp());
        let mut tail = Running::start(links.tool(&both));
        wait::until("the tail is subscribed", async || {
            wait::when(nsqd.topic("t").await, |topic| topic.as_ref().is_some_and(|t| !t.channels.is_empty()))
        })
        .await;
        nsqd.publish("t", "x").await;
        assert_eq!(tail.line().await, "x");
        assert_eq!(tail.exit_code().await, Some(0));
        links.run(&format!("nsq_tail -topic t {down}")).await.expect(1);
    });
}

/// The numbers of a line of nsq_stat.
fn numbers(line: &str) -> Vec<i64> {
    line.split_whitespace().filter(|word| *word != "|").map(|word| word.parse().expect(line)).collect()
}

#[test]
fn nsq_stat_adds_up_the_nodes() {
    test(async {
        let links = Links::new();
        let (lookupd, nsqds) = cluster(2).await;
        for nsqd in &nsqds {
            nsqd.admin("/topic/create?topic=t").await;
            nsqd.admin("/channel/create?topic=t&channel=c").await;
        }
        let flags = format!("-topic t -channel c --interval=100ms --lookupd-http-address={}", lookupd.http());
        let mut stat = Running::start(links.tool(&format!("nsq_stat {flags}")));
        assert!(stat.line().await.starts_with("------rate------+"));
        assert!(stat.line().await.starts_with("ingress  egress |   total"));
        for nsqd in &nsqds {
            nsqd.publish("t", "x").await;
        }
        wait::until("a line with both messages", async || {
            // depth: total, memory, disk; ...; messages, clients
            wait::when(numbers(&stat.line().await), |n| (n[2], n[3], n[9], n[10]) == (2, 2, 2, 0))
        })
        .await;
        stat.signal(Signal::TERM);
        assert_eq!(stat.exit_code().await, Some(0));

        let ran = links.run(&format!("nsq_stat {flags} --count=2")).await.expect(0);
        let lines: Vec<&str> = ran.stdout.lines().collect();
        assert_eq!(lines.len(), 4, "{}", ran.stdout);
        assert_eq!(
            lines[2],
            "      0       0 |       2       2       0     0     0 |       0       0            2       0"
        );
        links.run(&flags.replacen("-topic t", "nsq_stat -topic u", 1)).await.expect(1);
        links.run(&format!("nsq_stat {flags} --count=0")).await.expect(1);
    });
}

#[test]
fn nsq_stat_goes_on_while_a_node_is_down() {
    test(async {
        let links = Links::new();
        let nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        let flags =
            format!("-topic t -channel c --interval=10ms --count=1 --nsqd-http-address={}", nsqd.http());
        let ran = links.run(&format!("nsq_stat {flags} --nsqd-http-address=127.0.0.1:1")).await.expect(0);
        assert_eq!(ran.stdout.lines().count(), 3, "{}", ran.stdout);
        assert!(ran.stderr.contains("127.0.0.1:1"), "{}", ran.stderr);
        links.run("nsq_stat -topic t -channel c --nsqd-http-address=127.0.0.1:1").await.expect(1);
    });
}

#[test]
fn closed_stdout_ends_the_tools_quietly() {
    test(async {
        let links = Links::new();
        let nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        let stat =
            format!("nsq_stat -topic t -channel c --interval=10ms --nsqd-http-address={}", nsqd.http());
        let mut stat = Running::start(links.tool(&stat));
        stat.line().await;
        drop(std::mem::replace(&mut stat.lines, Running::start(links.tool("nsq_stat -h")).lines));
        assert_eq!(stat.exit_code().await, Some(0));

        let tail = format!("tail t --nsqd-tcp={}", nsqd.tcp());
        let mut tail = Running::start(command(&tail));
        nsqd.topic_until("t", "the tail is subscribed", |topic| topic.channels.len() == 2).await;
        nsqd.publish("t", "first").await;
        assert_eq!(tail.line().await, "first");
        drop(std::mem::replace(&mut tail.lines, Running::start(links.tool("nsq_stat -h")).lines));
        // A process that another test is starting may hold the pipe open for a moment, so one message may not be enough.
        let publish = async {
            loop {
                nsqd.publish("t", "more").await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            code = tail.exit_code() => assert_eq!(code, Some(0)),
            () = publish => {}
        }
        nsqd.topic_until("t", "the tail's channel is gone", |topic| topic.channels.len() == 1).await;
    });
}

#[test]
fn tail_of_a_busy_topic_leaves_nothing_behind() {
    test(async {
        let (lookupd, nsqds) = cluster(2).await;
        for nsqd in &nsqds {
            nsqd.admin("/topic/create?topic=t").await;
            nsqd.admin("/channel/create?topic=t&channel=c").await;
        }
        let mut tail = command("tail t -n 3 --print-topic");
        tail.env("NSQ_LOOKUPD", lookupd.http().to_string());
        let mut tail = Running::start(tail);
        let mut number = 0;
        let mut lines = Vec::new();
        while lines.len() < 3 {
            for nsqd in &nsqds {
                number += 1;
                nsqd.publish("t", format!("m{number}")).await;
            }
            while let Ok(line) = tokio::time::timeout(Duration::from_millis(1), tail.lines.next_line()).await
            {
                match line.expect("stdout can be read") {
                    Some(line) => lines.push(line),
                    None => break,
                }
            }
        }
        assert_eq!(tail.exit_code().await, Some(0));
        assert!(lines.len() == 3 && lines.iter().all(|line| line.starts_with("t | m")), "{lines:?}");
        for nsqd in &nsqds {
            nsqd.topic_until("t", "only the durable channel is left", |topic| {
                topic.channels.len() == 1 && topic.channels[0].in_flight_count == 0
            })
            .await;
        }
    });
}

#[test]
fn tail_selects_messages_and_formats_them() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        let tail = |flags: &str| {
            let mut tail = command(&format!("tail t {flags}"));
            tail.env("NSQ_NSQD_TCP", nsqd.tcp().to_string());
            tail
        };
        let mut grep = Running::start(tail(r"-n 1 --grep ^b\d$ --json"));
        nsqd.topic_until("t", "the tail is subscribed", |topic| topic.channels.len() == 1).await;
        for body in ["a1", "b2x", "b3"] {
            nsqd.publish("t", body).await;
        }
        let line: serde_json::Value = serde_json::from_str(&grep.line().await).expect("JSON");
        assert_eq!((&line["topic_name"], &line["body"]), (&"t".into(), &"b3".into()));
        assert_eq!(grep.exit_code().await, Some(0));
        let refused = run(tail("--channel c"), b"").await.expect(2);
        assert!(refused.stderr.contains("nsq sub t c"), "{}", refused.stderr);
        run(tail("--grep ("), b"").await.expect(2);
        run(command("tail t --nsqd-tcp=127.0.0.1:1"), b"").await.expect(6);
    });
}
