//! The guides in `docs/` do what they say: their shell examples run, from top to bottom, in an empty directory.
//!
//! A block that is marked `sh daemon` starts a daemon, which runs until the next such block or until `<!-- stop -->`. Each
//! block marked `sh` must succeed. The examples use the standard ports; the test puts free ones in their place.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use nsq_tests::daemon::binary;
use nsq_tests::{test, wait};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// No example takes longer.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq)]
enum Part {
    Daemon(String),
    Shell(String),
    Stop,
}

fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let mut block = || lines.by_ref().take_while(|line| *line != "```").collect::<Vec<_>>().join("\n");
        match line {
            "```sh" => parts.push(Part::Shell(block())),
            "```sh daemon" => parts.push(Part::Daemon(block())),
            _ if line.starts_with("```") => drop(block()),
            _ if line.contains("<!-- stop -->") => parts.push(Part::Stop),
            _ => {}
        }
    }
    parts
}

/// Where a guide's examples run: its commands come first in the path, its daemon listens on free ports.
struct Place {
    folder: TempDir,
    daemon: Option<Child>,
    /// The standard address and the one that is used in its place.
    addresses: Vec<(&'static str, String)>,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::with_prefix("nsq-guide-").expect("a temporary directory");
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).expect("a new directory");
        let free = "--tcp-address=127.0.0.1:0 --http-address=127.0.0.1:0 --https-address=127.0.0.1:0 --broadcast-address=127.0.0.1";
        let script = |name: &str, flags: &str| {
            let path = bin.join(name);
            let text = format!("#!/bin/sh\nexec '{}' {flags} \"$@\"\n", binary(name).display());
            fs::write(&path, text).expect("a new file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
        };
        script("nsqd", free);
        script("nsq", "");
        fs::create_dir(folder.path().join("work")).expect("a new directory");
        Place { folder, daemon: None, addresses: Vec::new() }
    }

    fn shell(&self, text: &str) -> Command {
        let text = self.addresses.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command
            .args(["-euc", &text])
            .current_dir(self.folder.path().join("work"))
            .env("PATH", format!("{}:{path}", self.folder.path().join("bin").display()))
            .env_remove("NSQ_LOOKUPD")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some((_, http)) = self.addresses.iter().find(|(from, _)| from.ends_with(":4151")) {
            command.env("NSQ_NSQD", http);
        }
        command
    }

    async fn start(&mut self, text: &str) {
        self.stop().await;
        let log = self.folder.path().join("log");
        let file = fs::File::create(&log).expect("a new file");
        let mut child = self
            .shell(&text.replace("nsqd --data-path", "exec nsqd --data-path"))
            .stderr(file)
            .spawn()
            .expect("bash is there");
        let serves_http = !text.contains("--http-address= ");
        self.addresses = wait::until("a daemon that listens", async || {
            if let Some(status) = child.try_wait().expect("our own child") {
                panic!("{status}: {text}\n{}", read(&log));
            }
            let log = read(&log);
            let listens = |what: &str| {
                Some(log.split_once(&format!("{what}: listening on "))?.1.lines().next()?.to_owned())
            };
            let tcp = listens("TCP").map(|address| ("127.0.0.1:4150", address));
            let http = listens("HTTP").map(|address| ("127.0.0.1:4151", address));
            let addresses: Vec<_> = tcp.into_iter().chain(http).collect();
            if addresses.len() == 1 + usize::from(serves_http) { Ok(addresses) } else { Err(log) }
        })
        .await;
        self.daemon = Some(child);
    }

    async fn stop(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        let pid = daemon.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).expect("it has not ended");
        kill_process(pid, Signal::TERM).expect("our own child");
        let status = timeout(LIMIT, daemon.wait()).await.expect("it stops in time").expect("our own child");
        assert!(status.success(), "{status}\n{}", read(&self.folder.path().join("log")));
    }

    async fn run(&self, text: &str) {
        let output = timeout(LIMIT, self.shell(text).output()).await;
        let Output { status, stdout, stderr } =
            output.unwrap_or_else(|_| panic!("takes too long:\n{text}")).expect("bash is there");
        let texts = [&stdout, &stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert!(status.success(), "{status}\n{text}\n{}\n{}", texts[0], texts[1]);
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn run_guide(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    let parts = parts(&fs::read_to_string(&path).expect("the guide can be read"));
    assert!(parts.iter().any(|part| matches!(part, Part::Shell(_))), "{name} has examples");
    test(async {
        let mut place = Place::new();
        for part in &parts {
            match part {
                Part::Daemon(text) => place.start(text).await,
                Part::Shell(text) => place.run(text).await,
                Part::Stop => place.stop().await,
            }
        }
        place.stop().await;
    });
}

#[test]
fn examples_of_the_auth_guide_run() {
    run_guide("AUTH.md");
}

#[test]
fn examples_of_the_cli_guide_run() {
    run_guide("CLI.md");
}

#[test]
fn examples_of_the_data_guide_run() {
    run_guide("DATA.md");
}

#[test]
fn examples_of_the_migration_guide_run() {
    run_guide("MIGRATING.md");
}

#[test]
fn examples_of_the_retention_guide_run() {
    run_guide("RETENTION.md");
}

#[test]
fn examples_of_the_tls_guide_run() {
    run_guide("TLS.md");
}

#[test]
fn every_guide_with_examples_is_run() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let own = include_str!("guides.rs");
    for entry in fs::read_dir(docs).expect("the folder can be read").flatten() {
        let has_daemon = parts(&read(&entry.path())).iter().any(|part| matches!(part, Part::Daemon(_)));
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(!has_daemon || own.contains(&format!("run_guide(\"{name}\")")), "no test runs {name}");
    }
}
