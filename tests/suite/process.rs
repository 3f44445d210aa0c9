//! nsqd where the harness's `Daemon` cannot follow: on unix sockets, or with a log that is JSON.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nsq_tests::daemon::binary;
use nsq_tests::test;
use nsq_tests::wire::{batch, command};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};

const PATIENCE: Duration = Duration::from_secs(15);

/// A running nsqd and the folder it works in. Killed when dropped.
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

    /// The next line of the log; None at its end.
    async fn line(&mut self) -> Option<String> {
        let line = tokio::time::timeout(PATIENCE, self.log.next_line()).await.expect("a line in time");
        line.expect("the log can be read")
    }

    /// Reads the log up to a line with this in it.
    async fn says(&mut self, phrase: &str) {
        while let Some(line) = self.line().await {
            if line.contains(phrase) {
                return;
            }
        }
        panic!("the log ends without {phrase:?}");
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        kill_process(pid.expect("a process id"), signal).expect("it can be signalled");
    }

    async fn exit_code(&mut self) -> Option<i32> {
        let exited = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it exits in time");
        exited.expect("its status can be asked").code()
    }
}

fn folder() -> TempDir {
    TempDir::with_prefix("nsq-tests-").expect("a temporary directory")
}

/// Sends bytes over a unix socket and reads so many back; the connection stays as long as it is held.
async fn exchange(path: &Path, bytes: &[u8], answer_bytes: usize) -> (Vec<u8>, UnixStream) {
    let mut stream = UnixStream::connect(path).await.expect("somebody listens");
    stream.write_all(bytes).await.expect("it reads");
    let mut answer = vec![0; answer_bytes];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await;
    read.expect("an answer in time").expect("a whole answer");
    (answer, stream)
}

async fn http(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).await.expect("somebody listens");
    let head = format!("{request} HTTP/1.1\r\nHost: nsqd\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("it reads");
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
fn unix_sockets_serve_both_protocols_and_outlive_a_kill() {
    test(async {
        let folder = folder();
        let (tcp, http_socket, flags) = sockets(&folder);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut nsqd = Nsqd::start(folder.path(), &flags);
        nsqd.says(&format!("TCP: listening on {}", tcp.display())).await;
        nsqd.says(&format!("HTTP: listening on {}", http_socket.display())).await;
        for socket in [&tcp, &http_socket] {
            let metadata = std::fs::metadata(socket).expect("it is there");
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

        // A second one leaves the first alone.
        let other = self::folder();
        let mut second = Nsqd::start(other.path(), &flags);
        second.says("address already in use").await;
        assert_eq!(second.exit_code().await, Some(1));
        assert!(http(&http_socket, "GET /ping").await.ends_with("OK"));

        nsqd.signal(Signal::KILL);
        nsqd.exit_code().await;
        assert!(tcp.exists() && http_socket.exists());
        let mut nsqd = Nsqd::start(folder.path(), &flags);
        nsqd.says("HTTP: listening on").await;
        assert!(http(&http_socket, "GET /ping").await.ends_with("OK"));
        nsqd.signal(Signal::TERM);
        assert_eq!(nsqd.exit_code().await, Some(0));
        assert!(!tcp.exists() && !http_socket.exists());
    });
}

#[test]
fn a_path_that_is_taken_by_a_file_is_left_alone() {
    test(async {
        let folder = folder();
        let (tcp, _, flags) = sockets(&folder);
        std::fs::write(&tcp, "precious").expect("a file can be written");
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut nsqd = Nsqd::start(folder.path(), &flags);
        let path = tcp.display();
        nsqd.says(&format!("listen ({path}) failed - listen unix {path}: bind: address already in use"))
            .await;
        assert_eq!(nsqd.exit_code().await, Some(1));
        assert_eq!(std::fs::read(&tcp).expect("it is there"), b"precious");
    });
}

#[test]
fn json_lines_are_objects() {
    test(async {
        let folder = folder();
        let (_, http_socket, flags) = sockets(&folder);
        let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        flags.push("--log-format=json");
        let mut nsqd = Nsqd::start(folder.path(), &flags);
        let mut lines = Vec::new();
        let mut until = async |nsqd: &mut Nsqd, phrase: &str| loop {
            let line = nsqd.line().await.expect("more lines");
            let object: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no object: {line}"));
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

        // So is the last word of one that cannot start.
        std::fs::write(folder.path().join("tcp.sock"), "x").expect("a file can be written");
        let mut nsqd = Nsqd::start(folder.path(), &flags);
        let mut last = String::new();
        while let Some(line) = nsqd.line().await {
            last = line;
        }
        let object: Value = serde_json::from_str(&last).unwrap_or_else(|_| panic!("no object: {last}"));
        assert_eq!(object["level"], "fatal");
    });
}
