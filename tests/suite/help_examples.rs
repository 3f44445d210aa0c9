//! The examples on the help pages of `nsq` run as printed, with free ports in the place of the standard ones.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use nsq_tests::daemon::binary;
use nsq_tests::{Daemon, test, wait};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use crate::cli::{cluster, command, run};

/// No example takes longer.
const LIMIT: Duration = Duration::from_secs(60);
/// A message id in the examples, replaced by that of one of the channel's messages.
const ANY_ID: &str = "0a1b2c3d4e5f6071";
/// Data directories in the examples, replaced by one that no daemon uses.
const ANY_DATA: [&str; 2] = ["/var/lib/nsqd", "/var/lib/nsq"];

/// Commands that run until Ctrl-C, and the flags and words that end them before.
const STREAMS: [(&str, &[&str]); 8] = [
    ("nsq sub ", &["--until-empty"]),
    ("nsq tail ", &[]),
    ("nsq_tail ", &[]),
    ("nsq to-file ", &[]),
    ("nsq to-http ", &[]),
    ("nsq to-nsq ", &["--until-empty"]),
    ("nsq graph ", &["--count"]),
    ("nsq dev", &["dev env"]),
];

/// Exit codes that an example may end with besides 0: what it asks about is not always so.
const OTHER_CODES: [(&str, &[i32]); 9] = [
    // Problems of the cluster.
    ("nsq check", &[1, 2]),
    ("nsq doctor", &[1, 2]),
    // A condition that does not hold in time.
    ("nsq wait ", &[7]),
    ("--until ", &[7]),
    ("--wait-timeout ", &[7]),
    // Differences.
    ("nsq lookup diff", &[3]),
    ("--diff", &[3]),
    // Without a terminal, a question is answered with no.
    ("asks first", &[5]),
    // There are no dead letters.
    ("nsq dead ", &[4]),
];

/// The examples of a help page, each with its comment.
fn examples(page: &str) -> Vec<String> {
    let Some((_, below)) = page.split_once("\nExamples:\n") else { return Vec::new() };
    let mut examples: Vec<String> = Vec::new();
    for line in below.lines().take_while(|line| line.starts_with("  ")) {
        match examples.last_mut() {
            Some(last) if last.ends_with('\\') => *last += &format!("\n{line}"),
            _ => examples.push(line.trim().to_owned()),
        }
    }
    examples
}

/// The commands that a page lists below some heading.
fn commands(page: &str) -> Vec<String> {
    let name = |line: &str| {
        let name = line.strip_prefix("  ")?.split(' ').next()?;
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        (is_name && !name.starts_with('-') && name != "help").then(|| name.to_owned())
    };
    let Some((_, below)) = page.split_once("\nCommands:\n") else { return Vec::new() };
    below.lines().take_while(|line| !line.is_empty()).filter_map(name).collect()
}

/// The help page of a command, in lines of any length.
async fn page(path: &str) -> String {
    let mut command = command(&format!("{path} --help"));
    command.env("COLUMNS", "1000").env("NO_COLOR", "1");
    run(command, b"").await.expect(0).stdout
}

/// All pages below a command, as path and text.
async fn pages(root: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut paths = vec![root.to_owned()];
    while let Some(path) = paths.pop() {
        let text = page(&path).await;
        paths.extend(commands(&text).into_iter().map(|name| format!("{path} {name}")));
        found.push((path, text));
    }
    found
}

/// A cluster, and a folder in which the examples run.
struct Place {
    lookupd: Daemon,
    nsqds: Vec<Daemon>,
    folder: TempDir,
    /// An nsqd of another cluster.
    other: Daemon,
    /// The data directory of an nsqd that was stopped, with an archive.
    stopped: Daemon,
    archive: TempDir,
}

impl Place {
    async fn new() -> Self {
        let (lookupd, nsqds) = cluster(1).await;
        let other = Daemon::nsqd().start().await;
        let archive = TempDir::with_prefix("nsq-archive-").expect("a folder");
        let mut stopped =
            Daemon::nsqd().flag(format!("--archive={}", archive.path().display())).start().await;
        stopped.admin("/topic/create?topic=orders").await;
        stopped.admin("/channel/create?topic=orders&channel=billing").await;
        stopped.publish("orders", "order").await;
        stopped.terminate().await;
        let folder = TempDir::with_prefix("nsq-help-").expect("a folder");
        let path = folder.path();
        for name in ["bin", "work", "config", "config/nsq"] {
            fs::create_dir(path.join(name)).expect("a new folder");
        }
        script(&path.join("bin/nsq"), &format!("exec '{}' \"$@\"", binary("nsq").display()));
        for editor in ["nano", "code"] {
            script(&path.join("bin").join(editor), "true");
        }
        let work = path.join("work");
        script(&work.join("handle"), "cat > /dev/null");
        let write = |name: &str, text: &str| fs::write(work.join(name), text).expect("a new file");
        write("policies.toml", "[[policy]]\ntopic = \"orders*\"\nretain_for = \"14d\"\n");
        write("nsq.toml", "");
        write("password.txt", "correct horse battery\n");
        write("order.json", "{\"total\": 12}\n");
        let place = Place { lookupd, nsqds, folder, other, stopped, archive };
        place.prepare().await;
        place.must("nsq cluster export > cluster.toml").await;
        place
    }

    /// Brings the topics, channels, profiles and messages back that an example may have changed.
    async fn prepare(&self) {
        let nsqd = &self.nsqds[0];
        for topic in ["orders", "payments", "refunds", "orders.dead"] {
            nsqd.admin(&format!("/topic/create?topic={topic}")).await;
        }
        for channel in ["billing", "archive", "retest"] {
            nsqd.admin(&format!("/channel/create?topic=orders&channel={channel}")).await;
        }
        for target in ["/topic/unpause?topic=orders", "/channel/unpause?topic=orders&channel=billing"] {
            nsqd.admin(target).await;
        }
        nsqd.publish("orders", "order").await;
        nsqd.channel_until("orders", "billing", "it has a message", |channel| channel.depth > 0).await;
        for name in ["local", "stage"] {
            self.must(&format!("nsq profile add {name} --nsqd 127.0.0.1:4151 --replace")).await;
        }
    }

    /// What some pages need besides.
    async fn prepare_page(&self, path: &str) {
        match path {
            "undo" => {
                self.must("nsq topic retain orders --for 24h").await;
                self.must("nsq channel empty orders/billing --yes").await;
            }
            "channel seek" => self.must("nsq topic retain orders --for 24h").await,
            _ => {}
        }
    }

    fn on_these_ports(&self, text: &str) -> String {
        let nsqd = &self.nsqds[0];
        let mut text = text
            // A channel's messages would come back for ever.
            .replace("--to-nsqd-tcp 127.0.0.1:4150", &format!("--to-nsqd-tcp {}", self.other.tcp()))
            .replace("127.0.0.1:4150", &nsqd.tcp().to_string())
            .replace("127.0.0.1:4151", &nsqd.http().to_string())
            .replace("127.0.0.1:4161", &self.lookupd.http().to_string())
            .replace("/var/lib/node_exporter/", "")
            .replace("/tmp/", "")
            .replace("--wait-timeout 1m", "--wait-timeout 1s");
        text = text.replace("file:///srv/nsq-archive", &self.archive.path().display().to_string());
        for data in ANY_DATA {
            text = text.replace(data, &self.stopped.data_path().display().to_string());
        }
        for patience in ["--timeout 5m", "--timeout 30s", "--for 2m", "--for 5m"] {
            let (flag, _) = patience.split_once(' ').expect("a flag and its value");
            text = text.replace(patience, &format!("{flag} 1s"));
        }
        text
    }

    fn shell(&self, text: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let folder = self.folder.path();
        let mut command = Command::new("bash");
        command
            .args(["-euo", "pipefail", "-c", text])
            .current_dir(folder.join("work"))
            .env("PATH", format!("{}:{path}", folder.join("bin").display()))
            .env("NSQ_LOOKUPD", self.lookupd.http().to_string())
            .env("XDG_CONFIG_HOME", folder.join("config"))
            .env("EDITOR", "true")
            .env_remove("VISUAL")
            .env_remove("NSQ_PROFILE")
            .env_remove("NSQ_NSQD")
            .env_remove("NSQ_NSQD_TCP")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs a line that must succeed.
    async fn must(&self, line: &str) {
        let Output { status, stderr, .. } =
            self.shell(&self.on_these_ports(line)).output().await.expect("bash is there");
        assert!(status.success(), "{line}: {status}\n{}", String::from_utf8_lossy(&stderr));
    }

    /// The id of a message that waits in the channel.
    async fn message_id(&self) -> String {
        let line = "nsq peek orders/billing --limit 1 --jq '.messages[0].id'";
        let output = self.shell(line).output().await.expect("bash is there");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Runs an example. A command that runs until Ctrl-C gets it once it is ready for it.
    async fn run(&self, path: &str, example: &str) -> Result<(), String> {
        if path == "node drain" {
            // The nsqd refuses publishes otherwise.
            let mut stop = self.shell(&self.on_these_ports("nsq node drain 127.0.0.1:4151 --stop-draining"));
            stop.output().await.expect("bash is there");
        }
        self.prepare().await;
        self.prepare_page(path).await;
        if example.contains("profile add local") {
            self.must("nsq profile rm local").await;
        }
        let mut text = self.on_these_ports(example);
        if text.contains(ANY_ID) {
            text = text.replace(ANY_ID, &self.message_id().await);
        }
        let is_stream = STREAMS
            .iter()
            .any(|(name, ends)| example.contains(name) && !ends.iter().any(|end| example.contains(end)));
        let child = self.shell(&text).spawn().expect("bash is there");
        let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).expect("it has not ended");
        let output = child.wait_with_output();
        tokio::pin!(output);
        let ended = if is_stream {
            tokio::select! {
                output = &mut output => output,
                pids = catching_signals(group) => {
                    // Not the shell, which may not wait for the command yet. A stream that has ended at once, because its words
                    // are wrong, is gone.
                    pids.into_iter().for_each(|pid| _ = kill_process(pid, Signal::INT));
                    timeout(LIMIT, &mut output).await.map_err(|_| "does not end after SIGINT".to_owned())?
                }
            }
        } else {
            timeout(LIMIT, &mut output).await.map_err(|_| "takes too long".to_owned())?
        };
        let Output { status, stdout, stderr } = ended.expect("the output is readable");
        let others = OTHER_CODES.iter().filter(|(words, _)| example.contains(words));
        let codes: Vec<i32> = others.flat_map(|(_, codes)| *codes).copied().chain([0]).collect();
        match status.code() {
            Some(code) if codes.contains(&code) => Ok(()),
            _ => Err(format!(
                "{status}\n{text}\n{}\n{}",
                String::from_utf8_lossy(&stdout),
                String::from_utf8_lossy(&stderr)
            )),
        }
    }
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("a new file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our own file");
}

/// Waits until a process `nsq` of this group handles SIGINT itself, and returns all that do.
async fn catching_signals(group: Pid) -> Vec<Pid> {
    let interrupt = 1u64 << (Signal::INT.as_raw() - 1);
    let caught = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        // Not the shell that starts it: it has the name of its script, and catches signals, too.
        let is_ours = fs::read_link(format!("/proc/{pid}/exe")).ok()? == binary("nsq");
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        Some(is_ours && u64::from_str_radix(mask.trim(), 16).ok()? & interrupt != 0)
    };
    wait::until("nsq handles SIGINT", async || {
        let found = fs::read_dir("/proc").expect("a list of processes").flatten().filter_map(|entry| {
            let name = entry.file_name();
            let pid = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
            let is_in_group = behind.split_whitespace().nth(2) == Some(&*group.as_raw_nonzero().to_string());
            (is_in_group && caught(pid)?).then(|| Pid::from_raw(pid.parse().ok()?))?
        });
        wait::when(found.collect::<Vec<Pid>>(), |found| !found.is_empty())
    })
    .await
}

/// Whether an example is a screen.
fn needs_terminal(example: &str) -> bool {
    example.starts_with("nsq top") && !example.contains("--once")
}

/// Runs the examples of all pages of some commands.
fn run_pages(roots: &'static [&'static str]) {
    test(async {
        let place = Place::new().await;
        let mut failures = Vec::new();
        for root in roots {
            for (path, text) in pages(root).await {
                for example in examples(&text).into_iter().filter(|example| !needs_terminal(example)) {
                    if let Err(why) = place.run(&path, &example).await {
                        failures.push(format!("nsq {path}: {example}\n{why}"));
                    }
                }
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    });
}

#[test]
fn examples_of_publishing_and_consuming_run() {
    run_pages(&["pub", "sub", "tail", "peek", "message", "move", "copy"]);
}

#[test]
fn examples_of_watching_run() {
    run_pages(&["stat", "top", "graph", "find", "wait", "why", "client", "ping", "rtt", "check", "doctor"]);
}

#[test]
fn examples_of_topics_and_channels_run() {
    run_pages(&["topic", "channel", "policy", "undo"]);
}

#[test]
fn examples_of_administration_run() {
    run_pages(&[
        "dead",
        "node",
        "lookup",
        "cluster",
        "data",
        "archive",
        "support-bundle",
        "auth",
        "profile",
        "api",
    ]);
}

#[test]
fn examples_of_bridges_and_load_tests_run() {
    run_pages(&["to-file", "to-http", "to-nsq", "compat", "bench", "dev"]);
}

#[test]
fn examples_of_help_run() {
    run_pages(&["explain", "completion", "manual", "version"]);
}

#[test]
fn every_command_is_in_a_test() {
    test(async {
        let source = include_str!("help_examples.rs");
        let overview = page("").await;
        let groups = overview.split("\nOptions:").next().unwrap_or_default();
        for line in groups.lines().filter(|line| line.starts_with("  ")) {
            let name = line.split_whitespace().next().expect("a word");
            // `nsq admin` is nsqadmin, and `nsq help` has the pages of all.
            let is_other = name == "admin" || name == "help";
            assert!(is_other || source.contains(&format!("\"{name}\"")), "{name}: {line}");
        }
    });
}
