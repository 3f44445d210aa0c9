use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nsq_tests::daemon::binary;
use nsq_tests::{Daemon, foreign, test};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(30);

/// Exposure of a unit, in tenths, that `systemd-analyze security` may find at most.
const MAX_EXPOSURE: &str = "--threshold=20";

fn tests_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn deploy() -> PathBuf {
    tests_folder().join("../deploy")
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == ending));
    files.sort();
    assert!(!files.is_empty(), "no .{ending} in {}", folder.display());
    files
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; run tests/run once, which installs it"))
}

/// What it printed, if it succeeded.
fn succeed(command: &mut Command) -> String {
    let output = run(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}\n{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A daemon of ours takes these flags. It reads all of them before it prints its version.
fn takes(words: &[&str]) {
    let (program, flags) = words.split_first().expect("a program");
    let name = Path::new(program).file_name().expect("a name").to_string_lossy().into_owned();
    let version = succeed(Command::new(binary(&name)).args(flags).arg("--version"));
    assert!(version.starts_with(&format!("{name} v")), "{version}");
}

#[test]
fn a_flag_that_is_none_would_be_noticed() {
    for program in ["nsqd", "nsqlookupd"] {
        let output = run(Command::new(binary(program)).args(["--no-such-flag=1", "--version"]));
        assert!(!output.status.success(), "{program}");
    }
}

// systemd

/// The units, in a folder of their own, with our binaries in the place of the installed ones.
fn units() -> (TempDir, Vec<PathBuf>) {
    let folder = TempDir::with_prefix("nsq-units-").expect("a temporary directory");
    let programs = binary("nsqd").parent().expect("a folder").display().to_string();
    let place = |path: PathBuf| {
        let unit = read(&path).replace("/usr/local/bin", &programs);
        let copy = folder.path().join(path.file_name().expect("a name"));
        std::fs::write(&copy, unit).expect("it can be written");
        copy
    };
    let units = files(&deploy().join("systemd"), "service").into_iter().map(place).collect();
    (folder, units)
}

#[test]
fn systemd_understands_the_units_and_finds_them_tight() {
    if foreign::left_out() {
        return;
    }
    let (_folder, units) = units();
    assert_eq!(units.len(), 2);
    for unit in &units {
        let output = run(Command::new("systemd-analyze").arg("verify").arg(unit));
        let said = String::from_utf8_lossy(&output.stderr);
        let name = unit.file_name().expect("a name").to_string_lossy();
        // It may have something to say of other units that are installed here.
        let of_ours: Vec<&str> = said.lines().filter(|line| line.contains(&*name)).collect();
        assert_eq!(of_ours, Vec::<&str>::new(), "{name}");
        succeed(Command::new("systemd-analyze").args(["security", "--offline=true", MAX_EXPOSURE]).arg(unit));
    }
}

#[test]
fn the_units_start_what_there_is_with_files_that_are_understood() {
    for unit in files(&deploy().join("systemd"), "service") {
        let unit = read(&unit);
        let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        assert_eq!(value("Type"), Some("notify"));
        assert!(value("WatchdogSec").is_some() && value("NoNewPrivileges") == Some("yes"));
        let config = |word: &str| {
            let name = word.strip_prefix("--config=/etc/nsq/")?;
            Some(format!("--config={}", deploy().join("systemd").join(name).display()))
        };
        let words = value("ExecStart").expect("a command").split(' ');
        let words: Vec<String> = words.map(|word| config(word).unwrap_or_else(|| word.to_owned())).collect();
        assert!(words.iter().any(|word| word.starts_with("--config=")));
        takes(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn the_config_files_start_a_daemon() {
    test(async {
        let config = |name: &str| format!("--config={}", deploy().join("systemd").join(name).display());
        let lookupd = Daemon::lookupd().flag(config("nsqlookupd.cfg")).start().await;
        lookupd.get("/ping").await.expect(200);
        let nsqd = Daemon::nsqd().flag(config("nsqd.cfg")).start().await;
        nsqd.connect().await.still_works().await;
        let addresses = nsqd.get("/config/nsqlookupd_tcp_addresses").await.expect(200).json();
        assert_eq!(addresses, serde_json::json!(["127.0.0.1:4160"]));
    });
}

/// A service manager's end of the `sd_notify` protocol.
struct Manager {
    folder: TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let folder = TempDir::with_prefix("nsq-notify-").expect("a temporary directory");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
        Manager { folder, socket }
    }

    /// A daemon under this manager, on free ports.
    fn start(&self, program: &str) -> std::process::Child {
        let mut command = Command::new(binary(program));
        command
            .args(["--tcp-address=127.0.0.1:0", "--http-address=127.0.0.1:0"])
            .current_dir(self.folder.path());
        command.env("NOTIFY_SOCKET", self.folder.path().join("notify")).env("WATCHDOG_USEC", "200000");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("it starts")
    }

    fn next(&self) -> Option<String> {
        let mut buf = [0; 1000];
        let length = self.socket.recv(&mut buf).ok()?;
        Some(String::from_utf8_lossy(&buf[..length]).into_owned())
    }

    /// The next message that is more than a sign of life.
    fn news(&self) -> String {
        loop {
            match self.next().expect("a message in time") {
                alive if alive == "WATCHDOG=1\n" => {}
                news => return news,
            }
        }
    }
}

fn signal(child: &std::process::Child, signal: rustix::process::Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a process id"), signal).expect("it can be signalled");
}

/// Kills the process when a test fails.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_service_manager_hears_when_a_daemon_is_ready_lives_and_stops() {
    for program in ["nsqd", "nsqlookupd"] {
        let manager = Manager::new();
        let mut daemon = Running(manager.start(program));
        let ready = manager.news();
        assert_eq!(ready, format!("READY=1\nSTATUS=serving\nMAINPID={}\n", daemon.0.id()), "{program}");
        for _ in 0..3 {
            assert_eq!(manager.next().as_deref(), Some("WATCHDOG=1\n"), "{program}");
        }
        // One that does not run gives no signs of life.
        signal(&daemon.0, rustix::process::Signal::STOP);
        manager.socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a limit");
        while manager.next().is_some() {}
        signal(&daemon.0, rustix::process::Signal::CONT);
        manager.socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
        assert_eq!(manager.next().as_deref(), Some("WATCHDOG=1\n"), "{program}");

        signal(&daemon.0, rustix::process::Signal::TERM);
        assert_eq!(manager.news(), "STOPPING=1\nSTATUS=stopping\n", "{program}");
        assert!(daemon.0.wait().expect("its end can be awaited").success(), "{program}");
    }
}

#[test]
fn a_service_manager_that_is_not_there_is_an_error() {
    for program in ["nsqd", "nsqlookupd"] {
        let folder = TempDir::new().expect("a temporary directory");
        let mut command = Command::new(binary(program));
        command.args(["--tcp-address=127.0.0.1:0", "--http-address=127.0.0.1:0"]).current_dir(folder.path());
        let output = run(command.env("NOTIFY_SOCKET", folder.path().join("nobody")));
        assert_eq!(output.status.code(), Some(1), "{program}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot reach the service manager"));
    }
}

// Stopping

#[test]
fn whatever_is_connected_stopping_takes_no_longer() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        for _ in 0..50 {
            nsqd.publish("t", "x").await;
        }
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(10).await;
        consumer.messages(10).await;
        let _silent = nsq_tests::Peer::connect_silently(nsqd.tcp()).await;
        let mut half = nsqd.connect().await;
        half.send(b"PUB t\n\0\0\0\x05he").await;
        let mut request = tokio::net::TcpStream::connect(nsqd.http()).await.expect("nsqd accepts");
        request
            .write_all(b"POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe")
            .await
            .expect("it reads");
        let started = Instant::now();
        assert!(nsqd.terminate().await.success());
        // The grace periods in deploy/ are at least half a minute.
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
        consumer.closed().await;
        nsqd.restart().await;
        assert_eq!(nsqd.channel("t", "c").await.expect("it is back").unfinished(), 50);
    });
}

// Health checks

async fn ping(arguments: &[String]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(binary("nsq"));
    command.arg("ping").args(arguments).env_remove("NSQ_LOOKUPD").env_remove("NSQ_NSQD");
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").expect("it starts");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn ping_succeeds_if_all_that_were_named_are_healthy() {
    test(async {
        let (nsqd, lookupd) = (Daemon::nsqd().start().await, Daemon::lookupd().start().await);
        let of_nsqd = ["--nsqd".to_owned(), nsqd.http().to_string()];
        let of_both = [&of_nsqd[..], &["--lookupd".to_owned(), lookupd.http().to_string()]].concat();
        for arguments in [&of_nsqd[..], &of_both] {
            let (code, printed) = ping(arguments).await;
            assert_eq!(code, Some(0));
            assert_eq!(printed.matches("\tOK\t").count(), arguments.len() / 2, "{printed}");
        }
        let json: Value =
            serde_json::from_str(&ping(&[&of_both[..], &["--json".into()]].concat()).await.1).expect("JSON");
        assert_eq!(json["daemons"][0]["program"], "nsqlookupd");
        assert_eq!(json["daemons"][1]["health"], "OK");

        let (code, _) = ping(&["--nsqd".to_owned(), "127.0.0.1:1".to_owned()]).await;
        assert_eq!(code, Some(6), "nobody is there");
        let (code, _) = ping(&[&of_nsqd[..], &["--lookupd".into(), "127.0.0.1:1".into()]].concat()).await;
        assert_eq!(code, Some(3), "one of them is not there");
    });
}

#[test]
fn ping_fails_if_a_daemon_says_that_it_is_not_healthy() {
    test(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1000]).await;
                let answer =
                    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 15\r\n\r\nNOK - disk full";
                let _ = stream.write_all(answer).await;
            }
        });
        let (code, printed) = ping(&["--nsqd".to_owned(), address]).await;
        assert_eq!(code, Some(1));
        assert!(printed.contains("NOK - disk full"), "{printed}");
    });
}

// Containers

/// The interpreter or the modules that `tests/run` has installed for checking.
fn validator(name: &str) -> PathBuf {
    let path = tests_folder().join(".env").join(name);
    assert!(
        path.exists(),
        "{} is not there: run tests/run once, or set NSQ_TESTS_NO_FOREIGN=1",
        path.display()
    );
    path
}

fn check(paths: &[PathBuf]) -> Command {
    let mut command = Command::new(validator("validators/bin/python"));
    command.arg(tests_folder().join("validators/check.py")).args(paths);
    command
}

#[test]
fn manifests_and_compose_file_are_valid_and_run_what_there_is() {
    if foreign::left_out() {
        return;
    }
    let mut paths = files(&deploy().join("kubernetes"), "yaml");
    paths.push(deploy().join("compose.yaml"));
    let printed = succeed(&mut check(&paths));
    let mut seen = BTreeSet::new();
    for line in printed.lines() {
        let container: Value = serde_json::from_str(line).expect("JSON");
        let words = container["words"].as_array().expect("words");
        let words: Vec<&str> = words.iter().map(|word| word.as_str().expect("text")).collect();
        if !container["image"].as_str().expect("text").starts_with("nsq-rs") {
            continue;
        }
        seen.insert(words[0].to_owned());
        match words[0] {
            program @ ("nsqd" | "nsqlookupd") => {
                takes(&words);
                let standard = if program == "nsqd" { [4150, 4151] } else { [4160, 4161] };
                for (name, port) in container["ports"].as_object().expect("ports") {
                    let expected = match name.rsplit('-').next() {
                        Some("tcp") => standard[0],
                        Some("http") => standard[1],
                        _ => name.parse().expect("the same port outside"),
                    };
                    assert_eq!(*port, expected, "{line}");
                    assert!(standard.contains(&expected), "{line}");
                }
            }
            "nsq" => {
                let help = succeed(Command::new(binary("nsq")).args(&words[1..]).arg("--help"));
                assert!(help.contains("Usage: nsq ping"), "{help}");
            }
            other => panic!("no program of ours: {other}"),
        }
    }
    assert_eq!(seen, ["nsq", "nsqd", "nsqlookupd"].map(str::to_owned).into());
    for (program, ports) in [("nsqd", ["4150", "4151"]), ("nsqlookupd", ["4160", "4161"])] {
        let help = run(Command::new(binary(program)).arg("--help"));
        let help = String::from_utf8_lossy(&help.stderr);
        assert!(ports.iter().all(|port| help.contains(port)), "{program} has other ports by default");
    }
}

#[test]
fn a_manifest_that_is_wrong_would_be_noticed() {
    if foreign::left_out() {
        return;
    }
    let folder = TempDir::new().expect("a temporary directory");
    let cases = [
        ("kubernetes/nsqd.yaml", "terminationGracePeriodSeconds", "terminationGracePeriodSecond"),
        ("kubernetes/nsqlookupd.yaml", "port: http}", "port: htp}"),
        ("compose.yaml", "stop_grace_period: 30s", "stop_grace_period: soon"),
        (
            "compose.yaml",
            "nsqlookupd-2: {condition: service_healthy}",
            "nsqlookupd-3: {condition: service_healthy}",
        ),
    ];
    for (file, right, wrong) in cases {
        let good = read(&deploy().join(file));
        assert!(good.contains(right), "{file}: {right}");
        let copy = folder.path().join(Path::new(file).file_name().expect("a name"));
        std::fs::write(&copy, good.replace(right, wrong)).expect("it can be written");
        assert!(!run(&mut check(&[copy])).status.success(), "{file}: {wrong}");
    }
}

#[test]
fn the_dockerfile_is_well_formed_and_holds_what_the_others_use() {
    let text = read(&deploy().join("Dockerfile"));
    for program in ["nsqd", "nsqlookupd", "nsq"] {
        assert!(text.contains(&format!("target/release/{program} ")), "{program}");
    }
    assert!(text.contains("\nUSER 65532:65532\n") && text.contains("\nHEALTHCHECK "));
    assert!(text.contains("\nEXPOSE 4150 4151 4152 4160 4161\n"));
    // What goes to the builder is what the workspace consists of.
    let ignored = read(&deploy().join("Dockerfile.dockerignore"));
    let workspace = read(&tests_folder().join("../Cargo.toml"));
    let members = workspace.split_once("members = [").expect("members").1.split_once(']').expect("an end").0;
    for member in members.split(',').map(|word| word.trim().trim_matches('"')).filter(|word| !word.is_empty())
    {
        let folder = member.split('/').next().expect("a folder");
        assert!(
            ignored.lines().any(|line| line == format!("!{folder}")),
            "{folder} does not go to the builder"
        );
    }
    if foreign::left_out() {
        return;
    }
    let mut node = Command::new("node");
    node.env("NODE_PATH", validator("validators-node/node_modules"));
    node.arg(tests_folder().join("validators/dockerfile.js"));
    assert_eq!(succeed(node.arg(deploy().join("Dockerfile"))), "");
    let folder = TempDir::new().expect("a temporary directory");
    let wrong = folder.path().join("Dockerfile");
    std::fs::write(&wrong, text.replace("\nUSER ", "\nUSR ")).expect("it can be written");
    assert!(!run(node.arg(&wrong)).status.success());
}
