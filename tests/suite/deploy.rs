use std::collections::BTreeSet;
use std::io::ErrorKind;
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

/// Maximum exposure that `systemd-analyze security` may report for a unit, in tenths.
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

/// Runs a command that must succeed; returns its stdout.
fn run_successfully(command: &mut Command) -> String {
    let output = run(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}\n{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Panics unless the daemon `words[0]` accepts the flags after it. It parses all flags before it prints its version.
fn assert_flags_accepted(words: &[&str]) {
    let (program, flags) = words.split_first().expect("a program");
    let name = Path::new(program).file_name().expect("a name").to_string_lossy().into_owned();
    let version = run_successfully(Command::new(binary(&name)).args(flags).arg("--version"));
    // The dashboard is a command of nsq.
    let name = if flags.first() == Some(&"admin") { "nsqadmin" } else { &name };
    assert!(version.starts_with(&format!("{name} v")), "{version}");
}

#[test]
fn unknown_flag_is_refused() {
    for program in ["nsqd", "nsqlookupd"] {
        let output = run(Command::new(binary(program)).args(["--no-such-flag=1", "--version"]));
        assert!(!output.status.success(), "{program}");
    }
}

// systemd

/// Copies of the units in a temporary directory, with our binaries instead of the installed ones.
fn units() -> (TempDir, Vec<PathBuf>) {
    let folder = TempDir::with_prefix("nsq-units-").expect("a temporary directory");
    let programs = binary("nsqd").parent().expect("a folder").display().to_string();
    let place = |path: PathBuf| {
        let unit = read(&path).replace("/usr/local/bin", &programs);
        let copy = folder.path().join(path.file_name().expect("a name"));
        std::fs::write(&copy, unit).expect("the file is writable");
        copy
    };
    let folders = [deploy().join("systemd"), deploy().join("systemd/bridges")];
    let units = folders.iter().flat_map(|folder| files(folder, "service")).map(place).collect();
    (folder, units)
}

#[test]
fn systemd_accepts_the_units_and_rates_their_exposure_low() {
    if foreign::left_out() {
        return;
    }
    let (_folder, units) = units();
    assert_eq!(units.len(), 6);
    for unit in &units {
        let output = run(Command::new("systemd-analyze").arg("verify").arg(unit));
        let stderr = String::from_utf8_lossy(&output.stderr);
        let name = unit.file_name().expect("a name").to_string_lossy();
        // systemd-analyze may also report problems of other installed units.
        let about_unit: Vec<&str> = stderr.lines().filter(|line| line.contains(&*name)).collect();
        assert_eq!(about_unit, Vec::<&str>::new(), "{name}");
        run_successfully(
            Command::new("systemd-analyze").args(["security", "--offline=true", MAX_EXPOSURE]).arg(unit),
        );
    }
}

#[test]
fn units_start_existing_programs_with_valid_config_files() {
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
        assert_flags_accepted(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// Each unit names flags of its command in a comment, as an example.
#[test]
fn units_of_bridges_run_with_the_flags_of_their_example() {
    let units = files(&deploy().join("systemd/bridges"), "service");
    assert_eq!(units.len(), 3);
    for unit in units {
        let unit = read(&unit);
        let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        assert_eq!(value("Type"), Some("notify"));
        let words: Vec<&str> = value("ExecStart").expect("a command").split(' ').collect();
        let ["/usr/local/bin/nsq", command, "$FLAGS"] = words[..] else { panic!("{words:?}") };
        let flags: Vec<&str> = value("#   FLAGS").expect("an example").split(' ').collect();
        let help = [[command, "--help"], ["help", "flags"]];
        let help = help.map(|words| run_successfully(Command::new(binary("nsq")).args(words))).concat();
        for flag in flags {
            let name = flag.split('=').next().unwrap_or_default();
            assert!(help.contains(&format!("{name} ")), "{command} {name}");
        }
        assert!(value("EnvironmentFile") == Some(&*format!("/etc/nsq/{command}-%i.env")));
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

/// The service manager's end of the `sd_notify` protocol.
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
        command.spawn().expect("the daemon starts")
    }

    fn next(&self) -> Option<String> {
        let mut buf = [0; 1000];
        let length = loop {
            match self.socket.recv(&mut buf) {
                // A child process of another test has ended: a wait with a time limit does not continue after a signal.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received.ok()?,
            }
        };
        Some(String::from_utf8_lossy(&buf[..length]).into_owned())
    }

    /// The next message that is not a watchdog ping.
    fn next_status(&self) -> String {
        loop {
            match self.next().expect("a message in time") {
                watchdog if watchdog == "WATCHDOG=1\n" => {}
                status => return status,
            }
        }
    }
}

fn signal(child: &std::process::Child, signal: rustix::process::Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a process id"), signal)
        .expect("the process accepts the signal");
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
fn service_manager_receives_ready_watchdog_and_stopping() {
    for program in ["nsqd", "nsqlookupd"] {
        let manager = Manager::new();
        let mut daemon = Running(manager.start(program));
        let ready = manager.next_status();
        assert_eq!(ready, format!("READY=1\nSTATUS=serving\nMAINPID={}\n", daemon.0.id()), "{program}");
        for _ in 0..3 {
            assert_eq!(manager.next().as_deref(), Some("WATCHDOG=1\n"), "{program}");
        }
        // A stopped daemon sends no watchdog pings.
        signal(&daemon.0, rustix::process::Signal::STOP);
        manager.socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a limit");
        while manager.next().is_some() {}
        signal(&daemon.0, rustix::process::Signal::CONT);
        manager.socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
        assert_eq!(manager.next().as_deref(), Some("WATCHDOG=1\n"), "{program}");

        signal(&daemon.0, rustix::process::Signal::TERM);
        assert_eq!(manager.next_status(), "STOPPING=1\nSTATUS=stopping\n", "{program}");
        assert!(daemon.0.wait().expect("an exit status").success(), "{program}");
    }
}

#[test]
fn unreachable_service_manager_is_an_error() {
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
fn stop_is_fast_with_open_connections() {
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
            .expect("nsqd reads");
        let started = Instant::now();
        assert!(nsqd.terminate().await.success());
        // The grace periods in deploy/ are at least half a minute.
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
        consumer.closed().await;
        nsqd.restart().await;
        assert_eq!(nsqd.channel("t", "c").await.expect("the channel exists").unfinished(), 50);
    });
}

// Health checks

async fn ping(arguments: &[String]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(binary("nsq"));
    command.arg("ping").args(arguments).env_remove("NSQ_LOOKUPD").env_remove("NSQ_NSQD");
    let output =
        tokio::time::timeout(PATIENCE, command.output()).await.expect("nsq ends").expect("nsq starts");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn ping_succeeds_if_all_named_daemons_are_healthy() {
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
        assert_eq!(code, Some(6), "no daemon answers");
        let (code, _) = ping(&[&of_nsqd[..], &["--lookupd".into(), "127.0.0.1:1".into()]].concat()).await;
        assert_eq!(code, Some(3), "one of two daemons does not answer");
    });
}

#[test]
fn ping_fails_if_a_daemon_is_unhealthy() {
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

/// Path of the interpreter or the modules that `tests/run` installs for the validators.
fn validator(name: &str) -> PathBuf {
    let path = tests_folder().join(".env").join(name);
    assert!(
        path.exists(),
        "{} is missing: run tests/run once, or set NSQ_TESTS_NO_FOREIGN=1",
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
fn manifests_and_compose_file_are_valid_and_run_existing_programs() {
    if foreign::left_out() {
        return;
    }
    let mut paths = files(&deploy().join("kubernetes"), "yaml");
    paths.push(deploy().join("compose.yaml"));
    let printed = run_successfully(&mut check(&paths));
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
                assert_flags_accepted(&words);
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
                let help = run_successfully(Command::new(binary("nsq")).args(&words[1..]).arg("--help"));
                assert!(help.contains("Usage: nsq ping"), "{help}");
            }
            "nsqadmin" => {
                let mut line = Command::new(binary("nsq"));
                line.arg("compat").args(&words).arg("--version");
                assert!(run_successfully(&mut line).starts_with("nsqadmin v"), "{words:?}");
                assert_eq!(container["ports"]["4171"], 4171, "{line:?}");
            }
            other => panic!("not one of our programs: {other}"),
        }
    }
    assert_eq!(seen, ["nsq", "nsqadmin", "nsqd", "nsqlookupd"].map(str::to_owned).into());
    for (program, ports) in [("nsqd", ["4150", "4151"]), ("nsqlookupd", ["4160", "4161"])] {
        let help = run(Command::new(binary(program)).arg("--help"));
        let help = String::from_utf8_lossy(&help.stderr);
        assert!(ports.iter().all(|port| help.contains(port)), "the default ports of {program} differ");
    }
}

#[test]
fn invalid_manifests_are_detected() {
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
        std::fs::write(&copy, good.replace(right, wrong)).expect("the file is writable");
        assert!(!run(&mut check(&[copy])).status.success(), "{file}: {wrong}");
    }
}

#[test]
fn dockerfile_is_valid_and_contains_the_programs_the_manifests_use() {
    let text = read(&deploy().join("Dockerfile"));
    for program in ["nsqd", "nsqlookupd", "nsq"] {
        assert!(text.contains(&format!("target/dist/{program} ")), "{program}");
    }
    assert!(text.contains("\nUSER 65532:65532\n") && text.contains("\nHEALTHCHECK "));
    assert!(text.contains("\nEXPOSE 4150 4151 4152 4160 4161 4171\n"));
    // The build context must contain every member of the workspace.
    let ignored = read(&deploy().join("Dockerfile.dockerignore"));
    let workspace = read(&tests_folder().join("../Cargo.toml"));
    let members = workspace.split_once("members = [").expect("members").1.split_once(']').expect("an end").0;
    for member in members.split(',').map(|word| word.trim().trim_matches('"')).filter(|word| !word.is_empty())
    {
        let folder = member.split('/').next().expect("a folder");
        assert!(
            ignored.lines().any(|line| line == format!("!{folder}")),
            "{folder} is missing in the build context"
        );
    }
    if foreign::left_out() {
        return;
    }
    let mut node = Command::new("node");
    node.env("NODE_PATH", validator("validators-node/node_modules"));
    node.arg(tests_folder().join("validators/dockerfile.js"));
    assert_eq!(run_successfully(node.arg(deploy().join("Dockerfile"))), "");
    let folder = TempDir::new().expect("a temporary directory");
    let wrong = folder.path().join("Dockerfile");
    std::fs::write(&wrong, text.replace("\nUSER ", "\nUSR ")).expect("the file is writable");
    assert!(!run(node.arg(&wrong)).status.success());
}
