use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nsq_tests::daemon::binary;
use nsq_tests::{Daemon, test, wait};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Maximum time for a command that is expected to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Exit code and output of a command.
#[derive(Debug)]
pub struct CommandOutput {
    pub line: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl CommandOutput {
    /// Panics unless the command ended with this exit code.
    pub fn expect(self, code: i32) -> Self {
        let CommandOutput { line, stdout, stderr, .. } = &self;
        assert_eq!(self.code, Some(code), "nsq {line}\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("nsq {}: {error}: {}", self.line, self.stdout))
    }

    /// The cells of all rows below the headings.
    pub fn rows(&self) -> Vec<Vec<&str>> {
        self.stdout.lines().skip(1).map(|line| line.split('\t').collect()).collect()
    }
}

/// `nsq` with these arguments, without its environment variables.
pub fn command(line: &str) -> Command {
    let mut command = Command::new(binary("nsq"));
    command.args(line.split(' ').filter(|word| !word.is_empty()));
    for name in ["NSQ_LOOKUPD", "NSQ_NSQD", "NSQ_NSQD_TCP", "NSQ_TIMEOUT", "NSQ_PROFILE", "NSQ_OUTPUT"] {
        command.env_remove(name);
    }
    // Without the profiles of the user who runs the tests.
    command.env("XDG_CONFIG_HOME", "/nonexistent");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

pub async fn run(mut command: Command, input: &[u8]) -> CommandOutput {
    command.stdin(Stdio::piped());
    let line = format!("{:?}", command.as_std());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let ended = tokio::time::timeout(PATIENCE, async {
        // The command may end without reading its input.
        let _ = stdin.write_all(input).await;
        drop(stdin);
        child.wait_with_output().await.expect("the output is readable")
    });
    let output = ended.await.unwrap_or_else(|_| panic!("{line} does not end within {PATIENCE:?}"));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("nsq writes UTF-8");
    CommandOutput {
        line,
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

pub async fn nsq(lookupd: &Daemon, line: &str) -> CommandOutput {
    nsq_with(lookupd, line, b"").await
}

pub async fn nsq_with(lookupd: &Daemon, line: &str, input: &[u8]) -> CommandOutput {
    let mut command = command(line);
    command.env("NSQ_LOOKUPD", lookupd.http().to_string());
    run(command, input).await
}

/// A command that keeps running; its output is read line by line.
pub struct Running {
    pub child: Child,
    pub lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::null()).spawn().expect("nsq starts");
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        Running { child, lines }
    }

    pub async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await.expect("a line in time");
        line.expect("stdout can be read").expect("another line")
    }

    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
        rustix::process::kill_process(pid.expect("nsq starts"), signal).expect("nsq accepts the signal");
    }

    pub async fn exit_code(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("nsq ends in time");
        ended.expect("an exit status").code()
    }
}

pub async fn cluster(size: usize) -> (Daemon, Vec<Daemon>) {
    let lookupd = Daemon::lookupd().start().await;
    let mut nsqds = Vec::new();
    for _ in 0..size {
        nsqds.push(Daemon::nsqd().lookupd(&lookupd).start().await);
    }
    let nodes = async || lookupd.get_json("/nodes").await["producers"].as_array().map_or(0, Vec::len);
    wait::until("all nsqds are registered", async || wait::when(nodes().await, |count| *count == size)).await;
    (lookupd, nsqds)
}

#[test]
fn topics_and_channels_are_administered() {
    test(async {
        let (lookupd, nsqds) = cluster(2).await;
        let nsqd = &nsqds[0];
        let ran = nsq(&lookupd, "topic create t --channel c --on all").await.expect(0);
        assert_eq!(ran.stdout.lines().count(), 3, "{}", ran.stdout);
        nsq(&lookupd, "channel create t/d").await.expect(0);
        assert!(nsqd.channel("t", "c").await.is_some() && nsqd.channel("t", "d").await.is_some());

        let listed = nsq(&lookupd, "topic list").await.expect(0);
        assert_eq!(listed.rows()[0][..4], ["t", "2", "2", "0"]);
        let listed = nsq(&lookupd, "channels ls t --json").await.expect(0).json();
        assert_eq!(listed["channels"][1]["channel_name"], "d");
        assert_eq!(listed["channels"][1]["topic_name"], "t");
        assert_eq!(listed["node_errors"].as_array().map(Vec::len), Some(0));

        nsq(&lookupd, "topic pause t").await.expect(0);
        let ran = nsq(&lookupd, "channel pause t c --json").await.expect(0).json();
        assert_eq!(ran["nodes"].as_array().map(Vec::len), Some(2));
        let topic = nsqd.topic("t").await.expect("the topic exists");
        assert!(topic.paused && topic.channels[0].paused && !topic.channels[1].paused);
        assert_eq!(nsq(&lookupd, "topic ls").await.rows()[0][6], "P");
        nsqd.publish("t", "x").await;
        nsq(&lookupd, "topic empty t --yes").await.expect(0);
        assert_eq!(nsqd.topic("t").await.expect("the topic exists").depth, 0);
        nsq(&lookupd, "topic unpause t").await.expect(0);
        nsq(&lookupd, "channel unpause t/c").await.expect(0);
        let topic = nsqd.topic("t").await.expect("the topic exists");
        assert!(!topic.paused && !topic.channels[0].paused);

        nsqd.publish("t", "x").await;
        nsqd.channel_until("t", "d", "the channel has the message", |channel| channel.depth == 1).await;
        nsq(&lookupd, "channel empty t c -y").await.expect(0);
        assert_eq!(nsqd.channel("t", "c").await.expect("the channel exists").depth, 0);
        assert_eq!(nsqd.channel("t", "d").await.expect("the channel exists").depth, 1);
        nsq(&lookupd, "topic empty t -y --channels").await.expect(0);
        assert_eq!(nsqd.channel("t", "d").await.expect("the channel exists").depth, 0);

        nsq(&lookupd, "channel delete t/d --yes").await.expect(0);
        assert!(nsqd.channel("t", "d").await.is_none());
        nsq(&lookupd, "topic rm t --yes").await.expect(0);
        assert!(nsqd.topic("t").await.is_none());
        assert!(nsq(&lookupd, "topic list --inactive").await.expect(0).rows().is_empty());
    });
}

#[test]
fn registered_topic_gets_its_channels_with_the_first_message() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        nsq(&lookupd, "topic create t --channel c").await.expect(0);
        let ran = nsq(&lookupd, "topic pause t").await.expect(4);
        assert!(ran.stderr.contains("only registered") && ran.stderr.contains("--on all"), "{}", ran.stderr);
        assert_eq!(nsq(&lookupd, "channel list t").await.expect(0).rows()[0][..3], ["t", "c", "0"]);
        nsq(&lookupd, "pub t x").await.expect(0);
        nsqds[0].channel_until("t", "c", "the channel has the message", |channel| channel.depth == 1).await;
    });
}

#[test]
fn errors_have_a_message_and_an_exit_code() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        nsqds[0].publish("orders", "x").await;
        for (line, code, word) in [
            ("topic pause no:name", 2, "topic name"),
            ("channel pause orders", 2, "no channel of topic orders is given"),
            ("sub orders", 2, "nsq channel list"),
            ("nonsense", 2, "unrecognized"),
            ("topic pause ordres", 4, "did you mean orders?"),
            ("stat orders/c --no-rates", 4, "there is no channel orders/c"),
            ("channel empty orders c --yes", 4, "there is no channel orders/c"),
            ("topic delete nothing --yes", 4, "there is no topic nothing"),
            ("topic create t --on nowhere:1", 4, "there is no node nowhere:1"),
            ("topic delete orders", 5, "--yes"),
            ("topic list --lookupd 127.0.0.1:1", 6, "NSQ_LOOKUPD"),
            ("pub orders x --nsqd-tcp 127.0.0.1:1 --timeout 300ms", 6, "refused"),
            ("sub orders c --nsqd-tcp 127.0.0.1:1", 6, "refused"),
        ] {
            let ran = nsq(&lookupd, line).await.expect(code);
            assert!(ran.stderr.contains(word), "{line}: {}", ran.stderr);
            assert_eq!(ran.stdout, "", "{line}");
        }
        assert!(nsqds[0].topic("orders").await.is_some());
        let ran = nsq(&lookupd, "topic delete orders --dry-run").await.expect(0);
        assert!(ran.stdout.contains("1 node, 1 unfinished message, 0 consumers"), "{}", ran.stdout);
        let ran = nsq(&lookupd, "topic pause nothing --json").await.expect(4);
        let error: Value = serde_json::from_str(&ran.stderr).expect("errors are JSON");
        assert_eq!(error["error"]["code"], 4);
        assert!(error["error"]["hint"].is_string());
    });
}

#[test]
fn messages_come_from_arguments_files_and_stdin() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        let folder = TempDir::new().expect("a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "f1\n\nf2").expect("a file");
        let file = file.display();
        nsq(&lookupd, "pub t a1 a2").await.expect(0);
        nsq(&lookupd, &format!("pub t --file {file}")).await.expect(0);
        nsq(&lookupd, &format!("pub t --whole --file {file}")).await.expect(0);
        nsq_with(&lookupd, "pub t --skip 1", b"s0\ns1\ns2\n").await.expect(0);
        let ran =
            nsq_with(&lookupd, "pub t --stdin --delimiter , --rate 1000 --json", b"d1,d2,d3").await.expect(0);
        assert_eq!((&ran.json()["message_count"], &ran.json()["message_bytes"]), (&3.into(), &6.into()));
        assert_eq!(ran.json()["nodes"][0], nsqds[0].tcp().to_string());

        let ran = nsq(&lookupd, "sub t c -n 10").await.expect(0);
        assert_eq!(ran.stdout, "a1\na2\nf1\nf2\nf1\n\nf2\ns1\ns2\nd1\nd2\nd3\n");
        nsqds[0].channel_until_finished("t", "c").await;

        nsq(&lookupd, "pub t later --defer 1h").await.expect(0);
        nsqds[0]
            .channel_until("t", "c", "the message is deferred", |channel| channel.deferred_count == 1)
            .await;
    });
}

#[test]
fn failed_publish_says_how_to_continue() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        let nsqd = Daemon::nsqd().flag("--max-msg-size=10").start().await;
        let line = format!("pub t --nsqd {}", nsqd.http());
        let ran = nsq_with(&lookupd, &line, b"one\ntwo\nmuch too long\nfour\n").await.expect(1);
        assert!(ran.stderr.contains("message 3") && ran.stderr.contains("--skip 2"), "{}", ran.stderr);
        let ran = nsq(&lookupd, "pub t x").await.expect(6);
        assert!(ran.stderr.contains("no nsqd is registered"), "{}", ran.stderr);
        nsq(&lookupd, "pub t --file /nowhere/to/be/found").await.expect(6);
        let ran = nsq(&lookupd, &format!("{line} --file /nowhere/to/be/found")).await.expect(1);
        assert!(ran.stderr.contains("/nowhere/to/be/found: No such file"), "{}", ran.stderr);
    });
}

#[test]
fn sub_takes_no_more_than_it_prints() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        let bodies: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        nsq(&lookupd, &format!("pub t {}", bodies.join(" "))).await.expect(0);
        let ran = nsq(&lookupd, "sub t/c -n 1 --json").await.expect(0).json();
        assert_eq!(
            (&ran["body"], &ran["attempts"], &ran["topic_name"]),
            (&"0".into(), &1.into(), &"t".into())
        );
        assert_eq!(ran["id"].as_str().map(str::len), Some(16));
        assert!(ran["timestamp"].as_str().is_some_and(|moment| moment.ends_with('Z')));
        let channel = nsqds[0].channel("t", "c").await.expect("the channel exists");
        assert_eq!((channel.depth, channel.in_flight_count, channel.requeue_count), (19, 0, 0));
        let ran = nsq(&lookupd, "sub t c -n 19").await.expect(0);
        let mut left: Vec<u32> = ran.stdout.lines().map(|line| line.parse().expect("a number")).collect();
        left.sort_unstable();
        assert_eq!(left, (1..20).collect::<Vec<_>>());

        nsqds[0].publish("t", b"\xff\x00".as_slice()).await;
        assert_eq!(nsq(&lookupd, "sub t c -n 1 --json").await.expect(0).json()["body_base64"], "/wA=");
    });
}

#[test]
fn sub_finishes_printed_messages_and_returns_the_rest() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        let nsqd = &nsqds[0];
        let subscribe = || {
            let mut command = command("sub t c");
            command.env("NSQ_LOOKUPD", lookupd.http().to_string());
            Running::start(command)
        };
        // The command subscribes before the topic exists.
        let mut first = subscribe();
        nsqd.publish("t", "one").await;
        assert_eq!(first.line().await, "one");
        nsqd.channel_until_finished("t", "c").await;
        first.signal(Signal::INT);
        assert_eq!(first.exit_code().await, Some(0));

        let second = subscribe();
        nsqd.channel_until("t", "c", "the command is subscribed", |channel| channel.client_count == 1).await;
        let Running { mut child, lines } = second;
        drop(lines);
        // A process that another test starts may hold our end of the pipe for a moment, and then the command can print.
        let ended = loop {
            nsqd.publish("t", "two").await;
            tokio::select! {
                ended = child.wait() => break ended.expect("an exit status"),
                _ = nsqd.channel_until_finished("t", "c") => {}
            }
        };
        assert_eq!(ended.code(), Some(0), "a closed stdout is not a failure");
        let returned =
            |channel: &nsq_tests::stats::Channel| channel.depth == 1 && channel.in_flight_count == 0;
        nsqd.channel_until("t", "c", "the unprinted message is back in the channel", returned).await;
        assert_eq!(nsq(&lookupd, "sub t c -n 1").await.expect(0).stdout, "two\n");
    });
}

#[test]
fn stat_sums_over_all_nodes() {
    test(async {
        let (lookupd, nsqds) = cluster(2).await;
        for nsqd in &nsqds {
            nsqd.publish("t", "x").await;
            nsqd.admin("/channel/create?topic=t&channel=c").await;
        }
        let mut consumer = nsqds[0].subscribe("t", "c").await;
        consumer.ready(1).await;
        consumer.message().await;
        let stat = nsq(&lookupd, "stat t/c --json --interval 100ms").await.expect(0).json();
        let channel = &stat["topics"][0]["channels"][0];
        for (field, count) in [
            ("node_count", 2),
            ("depth", 1),
            ("in_flight_count", 1),
            ("deferred_count", 0),
            ("requeue_count", 0),
            ("timeout_count", 0),
            ("client_count", 1),
            ("message_count", 2),
        ] {
            assert_eq!(channel[field], count, "{field}: {channel}");
        }
        for rate in ["ingress_rate", "egress_rate", "requeue_rate", "timeout_rate"] {
            assert_eq!(channel[rate], 0.0, "{rate}: {channel}");
        }
        let ran = nsq(&lookupd, "stat --no-rates").await.expect(0);
        assert_eq!(ran.rows()[1], ["t", "c", "-", "-", "1", "0", "1", "0", "0", "0", "1", "-"]);

        let mut command = command("stat --watch --json --interval 50ms");
        command.env("NSQ_LOOKUPD", lookupd.http().to_string());
        let mut watch = Running::start(command);
        watch.line().await;
        nsqds[1].publish("t", "y").await;
        while serde_json::from_str::<Value>(&watch.line().await).expect("JSON")["topics"][0]["ingress_rate"]
            == 0.0
        {}
        watch.signal(Signal::TERM);
        assert_eq!(watch.exit_code().await, Some(0));
    });
}

#[test]
fn unreachable_node_is_named_and_the_others_are_shown() {
    test(async {
        let (lookupd, nsqds) = cluster(2).await;
        for nsqd in &nsqds {
            nsqd.publish("t", "x").await;
            nsqd.admin("/channel/create?topic=t&channel=c").await;
        }
        let (live, dead) = (nsqds[0].http(), "127.0.0.1:1");
        let some = format!("--nsqd {live},{dead}");
        for verb in ["stat --no-rates", "topic list", "channel list", "node list", "topic pause t", "pub t x"]
        {
            let ran = run(command(&format!("{verb} {some}")), b"").await;
            if verb.starts_with("pub") {
                ran.expect(0);
                continue;
            }
            let ran = ran.expect(3);
            assert!(ran.stderr.starts_with(&format!("! {dead} ")), "{verb}: {}", ran.stderr);
            let rows =
                ran.stdout.lines().filter(|line| line.starts_with("t\t") || line.contains(&live.to_string()));
            assert!(rows.count() > 0, "{verb}: {}", ran.stdout);
        }
        let ran = run(command(&format!("stat --json --no-rates {some}")), b"").await.expect(3).json();
        let error = &ran["node_errors"][0];
        assert_eq!((&error["node"], &error["code"]), (&dead.into(), &"UNREACHABLE".into()));

        // A node that nsqlookupd still lists but that does not answer.
        nsq_tests::process::stop(nsqds[1].pid()).await;
        let ran = nsq(&lookupd, "stat t --no-rates --timeout 300ms").await.expect(3);
        assert!(ran.stderr.contains(&format!("! {} stats: no answer", nsqds[1].http())), "{}", ran.stderr);
        assert_eq!(ran.rows()[0][11], "P*");
        let ran = nsq(&lookupd, "node list --timeout 300ms --json").await.expect(3).json();
        assert_eq!(ran["nodes"].as_array().map(Vec::len), Some(2));
        nsqds[1].signal(Signal::CONT);
        let row = nsq(&lookupd, "node list").await.expect(0);
        assert!(row.rows().iter().all(|row| row[4] == "OK" && row[8] == "1/1"), "{}", row.stdout);
    });
}

async fn dev(folder: &Path) -> (Running, Value) {
    let mut command = command("dev --ephemeral-ports --json");
    command.current_dir(folder);
    let mut running = Running::start(command);
    let addresses = serde_json::from_str(&running.line().await).expect("the addresses as JSON");
    (running, addresses)
}

#[test]
fn dev_runs_both_daemons_and_keeps_messages() {
    test(async {
        let folder = TempDir::new().expect("a folder");
        let (mut running, addresses) = dev(folder.path()).await;
        let lookupd = addresses["lookupd_http_address"].as_str().expect("an address").to_owned();
        let on_lookupd = |line: &str| command(&format!("{line} --lookupd {lookupd}"));
        run(on_lookupd("pub t one two"), b"").await.expect(0);
        assert_eq!(run(on_lookupd("sub t c -n 1"), b"").await.expect(0).stdout, "one\n");
        assert_eq!(run(on_lookupd("node list"), b"").await.expect(0).rows().len(), 1);

        let mut second = command("dev --ephemeral-ports");
        second.current_dir(folder.path());
        let ran = run(second, b"").await.expect(1);
        assert!(ran.stderr.contains("--data-path"), "{}", ran.stderr);
        let nsqd = addresses["nsqd_http_address"].as_str().expect("an address");
        let port = nsqd.rsplit_once(':').expect("a port").1;
        let taken = format!("dev --data-path {}/other --nsqd-http-port {port}", folder.path().display());
        let taken = format!("{taken} --nsqd-tcp-port 0 --lookupd-tcp-port 0 --lookupd-http-port 0");
        let ran = run(command(&taken), b"").await.expect(1);
        assert!(ran.stderr.contains("--ephemeral-ports"), "{}", ran.stderr);

        running.signal(Signal::INT);
        assert_eq!(running.exit_code().await, Some(0));
        assert_eq!(run(on_lookupd("stat"), b"").await.code, Some(6));
        assert!(folder.path().join("nsq-dev-data").is_dir());

        let (mut running, addresses) = dev(folder.path()).await;
        let lookupd = addresses["lookupd_http_address"].as_str().expect("an address").to_owned();
        let on_lookupd = |line: &str| command(&format!("{line} --lookupd {lookupd}"));
        assert_eq!(run(on_lookupd("sub t c -n 1"), b"").await.expect(0).stdout, "two\n");
        running.signal(Signal::TERM);
        assert_eq!(running.exit_code().await, Some(0));
    });
}

#[test]
fn completion_scripts_version_and_help_work() {
    test(async {
        for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
            let ran = run(command(&format!("completion {shell}")), b"").await.expect(0);
            assert!(ran.stdout.contains("NSQ_COMPLETE"), "{shell}: {}", ran.stdout);
        }
        run(command("completion tcsh"), b"").await.expect(2);
        assert!(run(command("version"), b"").await.expect(0).stdout.starts_with("nsq "));
        assert!(run(command("--help"), b"").await.expect(0).stdout.contains("Exit codes"));
    });
}

#[test]
fn unknown_request_is_not_reported_as_a_missing_topic() {
    test(async {
        // nsqlookupd, like NSQ's nsqd, has no such request.
        let other = Daemon::lookupd().start().await;
        for line in ["topic retain t --for 1h", "channel seek t c --to earliest"] {
            let refused = run(command(&format!("{line} --nsqd {}", other.http())), b"").await.expect(1);
            assert!(refused.stderr.contains("does not know this request"), "{}", refused.stderr);
            assert!(!refused.stderr.contains("registered"), "{}", refused.stderr);
        }
        let refused = run(command(&format!("topic pause t --nsqd {}", other.http())), b"").await;
        assert!(refused.code != Some(0), "{}", refused.stdout);
    });
}

#[test]
fn policies_are_applied_where_they_are_allowed() {
    test(async {
        let (lookupd, nsqds) = cluster(2).await;
        for nsqd in &nsqds {
            for topic in ["orders", "live%23ephemeral"] {
                nsqd.admin(&format!("/topic/create?topic={topic}")).await;
                nsqd.admin(&format!("/channel/create?topic={topic}&channel=c")).await;
            }
        }
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let text = "[[policy]]\ntopic = '*'\nretain_for = '1h'\n\
                    [[policy]]\ntopic = '*'\nchannel = '*'\nretry = 'list 1s'\n";
        std::fs::write(file.path(), text).expect("the file is writable");
        let apply = format!("policy apply {}", file.path().display());
        let ran = nsq(&lookupd, &format!("{apply} --diff")).await.expect(0);
        assert_eq!(ran.stdout.matches(" -> ").count(), 6, "{}", ran.stdout);
        let ran = nsq(&lookupd, &apply).await.expect(0);
        assert_eq!(ran.stdout.matches("orders retain_for: default -> 1h0m0s").count(), 2, "{}", ran.stdout);
        assert_eq!(ran.stdout.matches("live#ephemeral/c retry").count(), 2, "{}", ran.stdout);
        assert!(!ran.stdout.contains("live#ephemeral retain_for"), "{}", ran.stdout);
        let ran = nsq(&lookupd, &apply).await.expect(0);
        assert_eq!(ran.stdout, "");
    });
}

#[test]
fn a_policy_file_is_tested_on_all_nodes() {
    test(async {
        let (lookupd, nsqds) = cluster(2).await;
        for nsqd in &nsqds {
            nsqd.admin("/topic/create?topic=orders").await;
            nsqd.admin("/channel/create?topic=orders&channel=c").await;
            nsqd.post("/pub?topic=orders&id=a", "1").await.expect(200);
            nsqd.post("/pub?topic=orders&id=a", "2").await.expect(200);
        }
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let write = |text: &str| std::fs::write(file.path(), text).expect("the file is writable");
        write(
            "[[policy]]\ntopic = 'orders'\ndedupe = '1h'\nttl = '10ms'\n\
             [[policy]]\ntopic = '*'\nchannel = '*'\nmax_attempts = 6\n",
        );
        let line = format!("policy test {} --since 1h", file.path().display());
        let expired = async || nsq(&lookupd, &line).await.expect(0);
        let ran = wait::until("the messages are old enough", async || {
            wait::when(expired().await, |ran| ran.stdout.contains("orders\tc\t4\t4\t0\t-\t-"))
        })
        .await;
        assert!(
            ran.stdout.contains("orders\t-\t4\t-\t-\t-\t2\t-\tfinished messages are unknown"),
            "{}",
            ran.stdout
        );
        assert!(ran.stderr.contains("line 5: max_attempts=6: go-nsq"), "{}", ran.stderr);
        let ran = nsq(&lookupd, &format!("{line} orders --limit 1 --json")).await.expect(0);
        let answer: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
        let nodes = answer["nodes"].as_array().expect("an array");
        assert_eq!(nodes.len(), 2);
        assert!(nodes.iter().all(|node| node["answer"]["stopped_by"] == "messages"), "{answer}");
        let ran = nsq(&lookupd, &format!("{line} orders --limit 1")).await.expect(0);
        assert!(ran.stderr.contains("the test stopped at a limit (messages)"), "{}", ran.stderr);
        assert!(nsq(&lookupd, &format!("{line} other")).await.code == Some(4), "no such topic");
        write("[[policy]]\ntopic = 'orders'\nttl = 'soon'\n");
        let ran = nsq(&lookupd, &line).await.expect(2);
        assert!(ran.stderr.contains(", line 3: ttl=soon:"), "{}", ran.stderr);
    });
}
