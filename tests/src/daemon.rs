//! nsqd and nsqlookupd as processes: the real binaries, on port 0, each in its own data directory.
//!
//! Dropping a [`Daemon`] kills it. If a test is failing at that moment, the log of the daemon is printed.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::certificates::Certificates;
use crate::http::{self, Response};
use crate::upgrade::connect_tls;
use crate::wait;
use crate::wire::Peer;

/// Time limit for a daemon to listen, and to exit after SIGTERM.
const START_OR_STOP: Duration = Duration::from_secs(30);

/// Path of a workspace binary: in `$NSQ_BIN_DIR`, else beside the test executable.
pub fn binary(name: &str) -> PathBuf {
    let folder = match std::env::var_os("NSQ_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let test = std::env::current_exe().expect("a test knows its own path"); // target/debug/deps/suite-…
            test.ancestors().nth(2).expect("a test executable lies in target/<profile>/deps").to_owned()
        }
    };
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} does not exist: run `cargo build --workspace --bins --examples` first (tests/run does) or set NSQ_BIN_DIR",
        path.display()
    );
    path
}

/// A program to start, with its flags.
pub struct Start {
    program: &'static str,
    flags: Vec<OsString>,
}

impl Start {
    /// Adds one flag, such as `--mem-queue-size=10`. A repeated flag is passed on as it is.
    pub fn flag(mut self, flag: impl Into<OsString>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// Gives nsqd a certificate and an HTTPS listener on a free port.
    pub fn tls(self, certificates: &Certificates) -> Self {
        certificates.flags().into_iter().fold(self, Self::flag).flag("--https-address=127.0.0.1:0")
    }

    /// Makes nsqd register with `lookupd`.
    pub fn lookupd(self, lookupd: &Daemon) -> Self {
        let address = lookupd.tcp();
        self.flag(format!("--lookupd-tcp-address={address}"))
    }

    /// Starts the program in a fresh data directory on free ports and waits until it listens on both.
    pub async fn start(self) -> Daemon {
        self.start_in(Arc::new(TempDir::with_prefix("nsq-tests-").expect("a temporary directory"))).await
    }

    /// Starts the program in an existing data directory.
    pub async fn start_in(self, folder: Arc<TempDir>) -> Daemon {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        match Daemon::spawn(self.program, self.flags, folder, any, any).await {
            Ok(daemon) => daemon,
            Err(log) => panic!("{log}"),
        }
    }

    /// Starts the program, waits until it exits by itself, and returns its exit status and log.
    pub async fn expect_exit(self) -> (ExitStatus, Log) {
        let folder = TempDir::with_prefix("nsq-tests-").expect("a temporary directory");
        self.expect_exit_in(folder.path()).await
    }

    /// [`expect_exit`](Self::expect_exit) in an existing data directory.
    pub async fn expect_exit_in(self, folder: &Path) -> (ExitStatus, Log) {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let (mut child, log) = launch(self.program, &self.flags, folder, any, any);
        let status = exit_status(&mut child, self.program, &log).await;
        // Its last log lines may not have been read yet.
        log.ended().await;
        (status, log)
    }
}

/// A running nsqd or nsqlookupd. Killed when dropped.
pub struct Daemon {
    program: &'static str,
    flags: Vec<OsString>,
    folder: Arc<TempDir>,
    tcp: SocketAddr,
    http: SocketAddr,
    child: Child,
    log: Log,
}

impl Daemon {
    /// An nsqd with default flags except for its addresses and its data directory.
    pub fn nsqd() -> Start {
        Start { program: "nsqd", flags: vec!["--broadcast-address=127.0.0.1".into()] }
    }

    /// An nsqlookupd with default flags except for its addresses.
    pub fn lookupd() -> Start {
        Start { program: "nsqlookupd", flags: vec!["--broadcast-address=127.0.0.1".into()] }
    }

    pub fn tcp(&self) -> SocketAddr {
        self.tcp
    }

    pub fn http(&self) -> SocketAddr {
        self.http
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The data directory; empty for nsqlookupd.
    pub fn data_path(&self) -> &Path {
        self.folder.path()
    }

    /// Everything written to stderr since the last start.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// A new connection that has sent the magic.
    pub async fn connect(&self) -> Peer {
        Peer::connect(self.tcp).await
    }

    /// A connection that is subscribed to a channel; RDY is still 0.
    pub async fn subscribe(&self, topic: &str, channel: &str) -> Peer {
        let mut peer = self.connect().await;
        peer.subscribe(topic, channel).await;
        peer
    }

    /// Publishes one message over a new connection and waits for the OK.
    pub async fn publish(&self, topic: &str, body: impl AsRef<[u8]>) {
        self.connect().await.publish(topic, body).await;
    }

    /// `GET target`.
    pub async fn get(&self, target: &str) -> Response {
        http::request(self.http, "GET", target, b"").await
    }

    /// The HTTPS address, read from the log.
    pub async fn https(&self) -> SocketAddr {
        let address = |line: &str| line.split_once(" HTTPS: listening on ")?.1.trim().parse().ok();
        self.log.find(wait::PATIENCE, address).await.expect("an nsqd with a certificate serves HTTPS")
    }

    /// `GET target` over HTTPS; the error is that of a failed handshake.
    pub async fn get_https(&self, target: &str, config: Arc<ClientConfig>) -> std::io::Result<Response> {
        let stream = TcpStream::connect(self.https().await).await?;
        let (stream, _) = connect_tls(Box::new(stream), config).await?;
        let mut connection = http::Connection::over(stream);
        connection.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await;
        let answer = connection.answer(format!("GET {target} over HTTPS")).await;
        // With TLS 1.3 a client learns only here that the server refused its certificate.
        answer.ok_or_else(|| std::io::ErrorKind::ConnectionAborted.into())
    }

    /// `POST target` with a body.
    pub async fn post(&self, target: &str, body: impl AsRef<[u8]>) -> Response {
        http::request(self.http, "POST", target, body.as_ref()).await
    }

    /// `GET target`, which must return 200 with JSON.
    pub async fn get_json(&self, target: &str) -> Value {
        self.get(target).await.expect(200).json()
    }

    /// `POST target` without a body, which must return 200: the administrative calls.
    pub async fn admin(&self, target: &str) {
        self.post(target, b"").await.expect(200);
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL: no handler runs, nothing is flushed.
    pub async fn kill(&mut self) {
        self.child.kill().expect("a running process can be killed");
        self.child.wait().expect("a killed process is reaped");
    }

    /// Sends SIGTERM, waits until the process has exited, and returns its exit status.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.exited().await
    }

    /// Sends a signal and does not wait.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("a process id"), signal)
            .expect("the process can be signalled");
    }

    /// Waits until the process has exited and returns its exit status.
    pub async fn exited(&mut self) -> ExitStatus {
        exit_status(&mut self.child, self.program, &self.log).await
    }

    /// Starts a stopped daemon again with the same flags, data directory and ports.
    pub async fn restart(&mut self) {
        self.restart_with(&[]).await;
    }

    /// [`restart`](Self::restart) with additional flags, which later restarts keep.
    pub async fn restart_with(&mut self, flags: &[&str]) {
        assert!(!self.is_running(), "{} still runs; stop it first", self.program);
        self.flags.extend(flags.iter().map(OsString::from));
        // Another connection may use the port for a moment, because it was free while the daemon was down.
        let deadline = Instant::now() + START_OR_STOP;
        loop {
            let flags = self.flags.clone();
            match Self::spawn(self.program, flags, self.folder.clone(), self.tcp, self.http).await {
                Ok(daemon) => {
                    *self = daemon;
                    return;
                }
                Err(log) => {
                    let taken = log.contains("in use") && Instant::now() < deadline;
                    assert!(taken, "{log}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn spawn(
        program: &'static str,
        flags: Vec<OsString>,
        folder: Arc<TempDir>,
        tcp: SocketAddr,
        http: SocketAddr,
    ) -> Result<Self, String> {
        let (child, log) = launch(program, &flags, folder.path(), tcp, http);
        // Wrapped in a Daemon from here on, so that the process is killed if waiting fails.
        let mut daemon = Daemon { program, flags, folder, tcp, http, child, log };
        daemon.tcp = daemon.listening_on("TCP: listening on ").await?;
        daemon.http = daemon.listening_on("HTTP: listening on ").await?;
        Ok(daemon)
    }

    async fn listening_on(&mut self, phrase: &str) -> Result<SocketAddr, String> {
        let found = |line: &str| {
            // The blank before it keeps "HTTP: …" from matching in "HTTPS: …".
            let (_, address) = line.split_once(&format!(" {phrase}"))?;
            address.trim().parse().ok()
        };
        match self.log.find(START_OR_STOP, found).await {
            Some(address) => Ok(address),
            None => Err(format!("{} did not log \"{phrase}\"; its log:\n{}", self.program, self.log.text())),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {} {} ({}) ---\n{}", self.program, self.pid(), self.tcp, self.log.text());
        }
    }
}

fn launch(
    program: &'static str,
    flags: &[OsString],
    folder: &Path,
    tcp: SocketAddr,
    http: SocketAddr,
) -> (Child, Log) {
    let mut command = Command::new(binary(program));
    command.arg(format!("--tcp-address={tcp}")).arg(format!("--http-address={http}"));
    if program == "nsqd" {
        command.arg(format!("--data-path={}", folder.display()));
    }
    command.args(flags).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
    let log = Log::read(child.stderr.take().expect("stderr is piped"));
    (child, log)
}

async fn exit_status(child: &mut Child, program: &str, log: &Log) -> ExitStatus {
    let deadline = Instant::now() + START_OR_STOP;
    loop {
        if let Some(status) = child.try_wait().expect("the state of a child can be read") {
            return status;
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            panic!("{program} did not exit within {START_OR_STOP:?}; its log:\n{}", log.text());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The stderr of a daemon, read line by line as it is written.
#[derive(Clone)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    /// Number of lines so far; closed at the end of the stream.
    grown: watch::Receiver<usize>,
}

impl Log {
    fn read(stderr: ChildStderr) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (grown_tx, grown) = watch::channel(0);
        let shared = lines.clone();
        // A thread instead of a task: it must keep reading while a test blocks its runtime, or nsqd blocks too.
        std::thread::spawn(move || {
            let mut stderr = BufReader::new(stderr);
            let mut line = Vec::new();
            while stderr.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                let mut lines = shared.lock().expect("the lock is not poisoned");
                lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
                let _ = grown_tx.send(lines.len());
            }
        });
        Log { lines, grown }
    }

    /// Waits for the end of the log, which means that the daemon has exited.
    pub async fn ended(&self) {
        let mut grown = self.grown.clone();
        while grown.changed().await.is_ok() {}
    }

    /// The whole log so far.
    pub fn text(&self) -> String {
        self.lines.lock().expect("the lock is not poisoned").join("\n")
    }

    /// Whether a line contains `phrase`.
    pub fn contains(&self, phrase: &str) -> bool {
        self.lines.lock().expect("the lock is not poisoned").iter().any(|line| line.contains(phrase))
    }

    /// Waits until a line contains `phrase`.
    pub async fn expect(&self, phrase: &str) {
        let found = self.find(wait::PATIENCE, |line| line.contains(phrase).then_some(())).await;
        assert!(found.is_some(), "no line with {phrase:?} in the log:\n{}", self.text());
    }

    /// The first match of `check` in a present or future line; `None` at the end of the log or after `patience`.
    async fn find<T>(&self, patience: Duration, check: impl Fn(&str) -> Option<T>) -> Option<T> {
        let mut grown = self.grown.clone();
        let search = async {
            let mut seen = 0;
            loop {
                let closed = grown.changed().await.is_err();
                {
                    let lines = self.lines.lock().expect("the lock is not poisoned");
                    if let Some(found) = lines[seen..].iter().find_map(|line| check(line)) {
                        return Some(found);
                    }
                    seen = lines.len();
                }
                if closed {
                    return None;
                }
            }
        };
        tokio::time::timeout(patience, search).await.ok().flatten()
    }
}
