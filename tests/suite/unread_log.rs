//! Daemons whose stderr is a pipe that is not read, as with a log shipper that hangs or has exited.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nsq_tests::daemon::binary;
use nsq_tests::wire::Peer;
use nsq_tests::{http, test, wait};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const BOTH: [&str; 2] = ["nsqd", "nsqlookupd"];

/// A daemon whose log is read only by the test. Killed when dropped.
struct PipedDaemon {
    child: Child,
    log: BufReader<File>,
    tcp: SocketAddr,
    http: SocketAddr,
    _folder: TempDir,
}

impl PipedDaemon {
    /// Starts a daemon with a one-page pipe as stderr, and reads its log up to the last "listening on". The daemon
    /// does not inherit the read end.
    fn start(program: &str) -> Self {
        let folder = TempDir::with_prefix("nsq-tests-").expect("a temporary directory");
        let (reader, writer): (OwnedFd, OwnedFd) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        rustix::pipe::fcntl_setpipe_size(&writer, 4096).expect("a small pipe");
        let mut command = Command::new(binary(program));
        command.args(["--tcp-address=127.0.0.1:0", "--http-address=127.0.0.1:0"]).current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
        let child = command.spawn().expect("the daemon starts");
        // `command` holds our write end of the pipe.
        drop(command);
        let any: SocketAddr = "0.0.0.0:0".parse().expect("an address");
        let mut daemon = PipedDaemon {
            child,
            log: BufReader::new(File::from(reader)),
            tcp: any,
            http: any,
            _folder: folder,
        };
        daemon.tcp = daemon.listening_on(" TCP: listening on ");
        daemon.http = daemon.listening_on(" HTTP: listening on ");
        daemon
    }

    fn listening_on(&mut self, phrase: &str) -> SocketAddr {
        loop {
            let line = self.line().expect("a line with the address");
            if let Some((_, address)) = line.split_once(phrase) {
                return address.parse().expect("an address");
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let bytes = self.log.read_line(&mut line).expect("the pipe can be read");
        (bytes > 0).then(|| line.trim_end().to_owned())
    }

    /// Makes the daemon log more than its log buffer holds.
    async fn flood(&self) {
        let long = "x".repeat(2_000);
        let mut connection = http::Connection::open(self.http).await;
        for _ in 0..3_000 {
            let request = format!("GET /info?{long} HTTP/1.1\r\nHost: h\r\n\r\n");
            connection.send(request.as_bytes()).await;
            connection.answer("GET /info".to_owned()).await.expect("an answer").expect(200);
        }
    }

    async fn dropped(&self) -> f64 {
        let page = http::request(self.http, "GET", "/metrics", b"").await.expect(200).text();
        let line = page
            .lines()
            .find(|line| !line.starts_with('#') && line.contains("log_lines_dropped_total "))
            .expect("the metric is exported");
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
    }

    fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, Signal::TERM).expect("the process accepts the signal");
    }

    async fn exit_code(&mut self) -> Option<i32> {
        wait::until("the daemon exits", async || match self.child.try_wait().expect("a process state") {
            Some(status) => Ok(status.code()),
            None => Err("runs"),
        })
        .await
    }
}

impl Drop for PipedDaemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_unread_log_stops_neither_traffic_nor_the_shutdown() {
    test(async {
        for program in BOTH {
            let mut daemon = PipedDaemon::start(program);
            daemon.flood().await;
            assert!(daemon.dropped().await > 0.0, "{program}");
            if program == "nsqd" {
                Peer::connect(daemon.tcp).await.publish("t", "m").await;
            }
            daemon.terminate();
            assert_eq!(daemon.exit_code().await, Some(0), "{program}");
        }
    });
}

#[test]
fn dropped_lines_are_reported_in_place_and_the_last_lines_are_kept() {
    test(async {
        for program in BOTH {
            let mut daemon = PipedDaemon::start(program);
            daemon.flood().await;
            let dropped = daemon.dropped().await;
            daemon.terminate();
            let mut lines = Vec::new();
            while let Some(line) = daemon.line() {
                lines.push(line);
            }
            assert_eq!(daemon.exit_code().await, Some(0), "{program}");
            let reports: Vec<f64> = lines.iter().filter_map(|line| reported(line)).collect();
            // A few more lines can be dropped between reading the metric and the end.
            assert!(reports.iter().sum::<f64>() >= dropped, "{program}: {reports:?}, {dropped} dropped");
            let requests = lines.iter().filter(|line| line.contains("GET /info")).count();
            assert!(requests > 500 && requests < 3_000, "{program}: {requests}");
            assert!(lines.last().is_some_and(|line| reported(line).is_none()), "{program}");
        }
    });
}

/// The number in a line such as `WARNING: LOG: 12 lines dropped: stderr was not read in time`.
fn reported(line: &str) -> Option<f64> {
    let (_, rest) = line.split_once("WARNING: LOG: ")?;
    rest.strip_suffix(" lines dropped: stderr was not read in time")?.parse().ok()
}

#[test]
fn daemon_keeps_running_after_its_log_reader_exits() {
    test(async {
        for program in BOTH {
            let mut daemon = PipedDaemon::start(program);
            daemon.log = BufReader::new(File::open("/dev/null").expect("the file exists"));
            for _ in 0..10 {
                http::request(daemon.http, "GET", "/info", b"").await.expect(200);
            }
            wait::until("lines are lost", async || wait::when(daemon.dropped().await, |count| *count > 0.0))
                .await;
            daemon.terminate();
            let stopped_at = Instant::now();
            assert_eq!(daemon.exit_code().await, Some(0), "{program}");
            assert!(stopped_at.elapsed() < Duration::from_secs(10), "{program}");
        }
    });
}
