//! nsqd in setups that the harness's `Daemon` does not support: unix sockets, with clients on them, and a JSON log.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nsq::admin::{NsqdClient, StatsQuery};
use nsq::{Config, ConnectStage, Consumer, Producer};
use nsq_tests::daemon::binary;
use nsq_tests::wire::{batch, command};
use nsq_tests::{Certificates, test};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};

const PATIENCE: Duration = Duration::from_secs(15);

/// A running nsqd and its log. Killed when dropped.
struct Nsqd {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Nsqd {
    fn start(folder: &Path, flags: &[&str]) -> Self {
        let mut command = Command::new(binary("nsqd"));
        command.arg(format!("--data-path={}", folder.display())).args(flags).current_dir(folder);
        let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("nsqd starts");
        let log = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        Nsqd { child, log }
    }

    /// The next line of the log; `None` at its end.
    async fn line(&mut self) -> Option<String> {
        let line = tokio::time::timeout(PATIENCE, self.log.next_line()).await.expect("a line in time");
        line.expect("the log can be read")
    }

    /// Reads the log up to a line that contains `phrase`.
    async fn expect_log(&mut self, phrase: &str) {
        while let Some(line) = self.line().await {
            if line.contains(phrase) {
                return;
            }
        }
        panic!("the log ends without {phrase:?}");
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        kill_process(pid.expect("a process id"), signal).expect("the process accepts the signal");
    }

    async fn exit_code(&mut self) -> Option<i32> {
        let exited = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("nsqd exits in time");
        exited.expect("an exit status").code()
    }
}

fn folder() -> TempDir {
    TempDir::with_prefix("nsq-tests-").expect("a temporary directory")
}

/// Sends bytes over a unix socket and reads `answer_bytes` back. Dropping the returned stream closes the connection.
async fn exchange(path: &Path, bytes: &[u8], answer_bytes: usize) -> (Vec<u8>, UnixStream) {
    let mut stream = UnixStream::connect(path).await.expect("nsqd listens");
    stream.write_all(bytes).await.expect("nsqd reads");
    let mut answer = vec![0; answer_bytes];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await;
    read.expect("an answer in time").expect("a whole answer");
    (answer, stream)
}

async fn http(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).await.expect("nsqd listens");
    let head = format!("{request} HTTP/1.1\r\nHost: nsqd\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("nsqd reads");
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
    read.expect("an answer in time").expect("a whole answer");
    answer
}

fn sockets(folder: &TempDir) -> (PathBuf, PathBuf, Vec<String>) {
    let (tcp, http) = (folder.path().join("tcp.sock"), folder.path().join("http.sock"));
    let flags = vec![
        format!("--tcp-address={}", tcp.display()),
        format!("--http-address={}", http.display()),
        "--unix-socket-mode=0600".to_owned(),
    ];
    (tcp, http, flags)
}

const OK_FRAME: &[u8] = b"\0\0\0\x06\0\0\0\0OK";

#[test]
fn unix_sockets_serve_both_protocols_and_are_replaced_after_a_kill() {
    test(async {
        let folder = folder();
        let (tcp, http_socket, flags) = sockets(&folder);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut nsqd = Nsqd::start(folder.path(), &flags);
        nsqd.expect_log(&format!("TCP: listening on {}", tcp.display())).await;
        nsqd.expect_log(&format!("HTTP: listening on {}", http_socket.display())).await;
        for socket in [&tcp, &http_socket] {
            let metadata = std::fs::metadata(socket).expect("the file exists");
            assert!(metadata.file_type().is_socket());
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        }
        let publish = [b"  V2".to_vec(), command("MPUB t", batch(&["a", "b"]))].concat();
        assert_eq!(exchange(&tcp, &publish, OK_FRAME.len()).await.0, OK_FRAME);
        let (subscribed, _consumer) = exchange(&tcp, b"  V2SUB t c\n", OK_FRAME.len()).await;
        assert_eq!(subscribed, OK_FRAME);
        let stats = http(&http_socket, "GET /stats?format=json").await;
        assert!(
            stats.contains(r#""message_count":2"#) && stats.contains(r#""remote_address":"@""#),
            "{stats}"
        );
        let info = http(&http_socket, "GET /info").await;
        assert!(
            info.contains(r#""http_port":-1,"tcp_port":-1"#) || info.contains(r#""tcp_port":-1"#),
            "{info}"
        );

        // A second nsqd on the same sockets fails and does not affect the first.
        let other = self::folder();
        let mut second = Nsqd::start(other.path(), &flags);
        second.expect_log("address already in use").await;
        assert_eq!(second.exit_code().await, Some(1));
        assert!(http(&http_socket, "GET /ping").await.ends_with("OK"));

        nsqd.signal(Signal::KILL);
        nsqd.exit_code().await;
        assert!(tcp.exists() && http_socket.exists());
        let mut nsqd = Nsqd::start(folder.path(), &flags);
        nsqd.expect_log("HTTP: listening on").await;
        assert!(http(&http_socket, "GET /ping").await.ends_with("OK"));
        nsqd.signal(Signal::TERM);
        assert_eq!(nsqd.exit_code().await, Some(0));
        assert!(!tcp.exists() && !http_socket.exists());
    });
}

/// An nsqd on unix sockets, and their paths.
async fn on_sockets(folder: &TempDir, more: &[&str]) -> (Nsqd, String, String) {
    let (tcp, http, flags) = sockets(folder);
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    let mut nsqd = Nsqd::start(folder.path(), &flags);
    nsqd.expect_log(" HTTP: listening on").await;
    let text = |path: PathBuf| path.to_str().expect("a UTF-8 path").to_owned();
    (nsqd, text(tcp), text(http))
}

#[test]
fn client_library_uses_unix_sockets_with_tls_and_compression() {
    test(async {
        let (folder, certificates) = (folder(), Certificates::new());
        let [certificate, key] = certificates.flags();
        let (_nsqd, tcp, http) =
            on_sockets(&folder, &[&certificate, &key, "--https-address=127.0.0.1:0"]).await;
        let admin = NsqdClient::new(&http).expect("a path is an address");
        admin.ping().await.expect("nsqd is healthy");
        let trusting = Config::new().tls_v1(true).tls_root_ca_file(Some(certificates.path("ca.pem").into()));
        let long = "x".repeat(900_000);
        for (topic, snappy, deflate) in
            [("plain", false, false), ("snappy", true, false), ("deflate", false, true)]
        {
            for is_tls in [false, true] {
                let base = if is_tls { trusting.clone() } else { Config::new() };
                let config = base.snappy(snappy).deflate(deflate);
                let producer =
                    Producer::builder().nsqd(&tcp).config(config.clone()).build().expect("a producer");
                let server = producer.ping().await.expect("connected");
                assert_eq!((server.tls, server.snappy, server.deflate), (is_tls, snappy, deflate));
                producer.publish(topic, "short").await.expect("published");
                producer.publish(topic, long.clone()).await.expect("published");
                let mut messages =
                    Consumer::builder(topic, "c").nsqd(&tcp).config(config).stream().expect("a consumer");
                for expected in ["short", &long] {
                    let message = tokio::time::timeout(PATIENCE, messages.next()).await.expect("in time");
                    let message = message.expect("a message");
                    assert!(message.body()[..] == *expected.as_bytes(), "{} bytes", message.body().len());
                    assert_eq!(message.node(), tcp);
                    message.finish().expect("still connected");
                }
                let query =
                    StatsQuery { topic: Some(topic.to_owned()), clients: true, ..StatsQuery::default() };
                let stats = admin.stats(&query).await.expect("statistics");
                let topics = stats.topics.expect("a topic");
                let client = &topics[0].channels[0].clients.as_ref().expect("a consumer")[0];
                assert_eq!((client.tls, client.snappy, client.deflate), (is_tls, snappy, deflate));
            }
        }

        // The certificate is for localhost; a client that expects another name refuses it.
        let config = trusting.tls_server_name(Some("elsewhere".to_owned()));
        let producer = Producer::builder().nsqd(&tcp).config(config).build().expect("a producer");
        assert_eq!(producer.ping().await.expect_err("another name").stage, ConnectStage::Tls);
        let missing_socket = folder.path().join("missing.sock").display().to_string();
        let refused =
            Producer::new(&missing_socket).expect("a producer").ping().await.expect_err("no process listens");
        assert_eq!(refused.stage, ConnectStage::Dial);
        assert!(NsqdClient::new(&missing_socket).expect("a path").ping().await.is_err());
    });
}

#[test]
fn nsq_command_uses_unix_sockets() {
    test(async {
        let folder = folder();
        let (_nsqd, tcp, http) = on_sockets(&folder, &["--broadcast-address=127.0.0.1"]).await;
        let nsq = async |words: &[&str]| {
            let mut command = Command::new(binary("nsq"));
            for name in ["NSQ_LOOKUPD", "NSQ_NSQD", "NSQ_NSQD_TCP", "NSQ_TIMEOUT"] {
                command.env_remove(name);
            }
            command.args(words).stdin(Stdio::null()).kill_on_drop(true);
            let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("nsq ends in time");
            let output = output.expect("nsq starts");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (output.status.code(), text(&output.stdout), text(&output.stderr))
        };
        let done = |stdout: &str| (Some(0), stdout.to_owned(), String::new());
        assert_eq!(nsq(&["pub", "t", "one", "two", "--nsqd-tcp", &tcp]).await, done(""));
        assert_eq!(
            nsq(&["sub", "t", "c", "-n", "2", "--snappy", "--nsqd-tcp", &tcp]).await,
            done("one\ntwo\n")
        );
        let (code, listed, _) = nsq(&["channel", "list", "t", "--nsqd", &http]).await;
        assert!(code == Some(0) && listed.contains("t\tc\t1\t"), "{listed}");
        let (code, table, _) = nsq(&["ping", "--nsqd", &http]).await;
        assert!(code == Some(0) && table.contains(&format!("nsqd\t{http}\tOK")), "{table}");
        let paused = format!("paused t/c at {http}\n");
        assert_eq!(nsq(&["channel", "pause", "t", "c", "--nsqd", &http]).await, done(&paused));

        // The load generator uses both sockets, and it finds the process behind the socket.
        let addresses = format!("--nsqd-tcp {tcp} --nsqd {http}");
        for mode in
            ["pubsub --messages 2000 --batch 10 --connections 2 --snappy", "pub --messages 2000 --http"]
        {
            let line = format!("bench {mode} {addresses} --json");
            let (code, report, stderr) = nsq(&line.split(' ').collect::<Vec<_>>()).await;
            assert_eq!((code, stderr.as_str()), (Some(0), ""), "{report}");
            let report: Value = serde_json::from_str(&report).expect("one line of JSON");
            assert_eq!(report["published"]["messages"], 2000, "{report}");
            assert!(report["nsqd"]["pid"].as_u64().is_some(), "{report}");
        }

        // nsqd's HTTP API does not name the path of its TCP socket, so the command needs --nsqd-tcp.
        let (code, _, stderr) = nsq(&["sub", "t", "c", "-n", "1", "--nsqd", &http]).await;
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains("--nsqd-tcp PATH"), "{stderr}");
        let missing_socket = folder.path().join("missing.sock").display().to_string();
        let (code, _, stderr) = nsq(&["stat", "--nsqd", &missing_socket]).await;
        assert!(code == Some(6) && stderr.contains("No such file"), "{stderr}");
    });
}

#[test]
fn existing_file_at_the_socket_path_is_kept() {
    test(async {
        let folder = folder();
        let (tcp, _, flags) = sockets(&folder);
        std::fs::write(&tcp, "precious").expect("the file is writable");
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut nsqd = Nsqd::start(folder.path(), &flags);
        let path = tcp.display();
        nsqd.expect_log(&format!(
            "listen ({path}) failed - listen unix {path}: bind: address already in use"
        ))
        .await;
        assert_eq!(nsqd.exit_code().await, Some(1));
        assert_eq!(std::fs::read(&tcp).expect("the file exists"), b"precious");
    });
}

#[test]
fn json_log_lines_are_objects() {
    test(async {
        let folder = folder();
        let (_, http_socket, flags) = sockets(&folder);
        let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        flags.push("--log-format=json");
        let mut nsqd = Nsqd::start(folder.path(), &flags);
        let mut lines = Vec::new();
        let mut until = async |nsqd: &mut Nsqd, phrase: &str| loop {
            let line = nsqd.line().await.expect("more lines");
            let object: Value =
                serde_json::from_str(&line).unwrap_or_else(|_| panic!("not a JSON object: {line}"));
            assert!(object["time"].as_str().is_some_and(|time| time.len() == 32), "{line}");
            assert_eq!((&object["level"], &object["prefix"]), (&"info".into(), &"[nsqd]".into()), "{line}");
            let found = object["message"].as_str().expect("a message").contains(phrase);
            lines.push(object);
            if found {
                break;
            }
        };
        until(&mut nsqd, "HTTP: listening on").await;
        http(&http_socket, "GET /info").await;
        until(&mut nsqd, "200 GET /info").await;
        nsqd.signal(Signal::TERM);
        until(&mut nsqd, "NSQ: bye").await;
        let request = lines.iter().find(|line| line["target"] == "/info").expect("a request with fields");
        assert_eq!(
            (&request["status"], &request["method"], &request["remote"]),
            (&200.into(), &"GET".into(), &"@".into())
        );
        assert!(request["duration_seconds"].as_f64().is_some_and(|seconds| (0.0..60.0).contains(&seconds)));

        // The last line of an nsqd that cannot start is also an object.
        std::fs::write(folder.path().join("tcp.sock"), "x").expect("the file is writable");
        let mut nsqd = Nsqd::start(folder.path(), &flags);
        let mut last = String::new();
        while let Some(line) = nsqd.line().await {
            last = line;
        }
        let object: Value =
            serde_json::from_str(&last).unwrap_or_else(|_| panic!("not a JSON object: {last}"));
        assert_eq!(object["level"], "fatal");
    });
}

#[test]
fn the_soft_limit_of_open_files_is_raised_to_the_hard_one() {
    test(async {
        for program in ["nsqd", "nsqlookupd"] {
            let folder = folder();
            let mut command = Command::new("sh");
            command.args(["-c", "ulimit -Sn 64; exec \"$0\" \"$@\""]).arg(binary(program));
            command
                .args(["--tcp-address=127.0.0.1:0", "--http-address=127.0.0.1:0"])
                .current_dir(folder.path());
            let mut child =
                command.stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("the daemon starts");
            let log = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
            let id = child.id().expect("the daemon runs");
            let mut daemon = Nsqd { child, log };
            daemon.expect_log("(soft limit 64 at the start)").await;
            let limits = std::fs::read_to_string(format!("/proc/{id}/limits")).expect("the daemon runs");
            let files =
                limits.lines().find(|line| line.starts_with("Max open files")).expect("the limit is listed");
            let [soft, hard] = files.split_whitespace().skip(3).take(2).collect::<Vec<_>>()[..] else {
                panic!("{files}")
            };
            assert_eq!(soft, hard, "{program}");
            assert_ne!(soft, "64", "{program}");
        }
    });
}
