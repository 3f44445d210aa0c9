use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nsq_tests::disk::MemoryDisk;
use nsq_tests::{Daemon, http, test, test_within, wait};
use rand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::cli::{cluster, command, run};
use crate::old_tools::Links;

/// A running bridge, whose log is a file.
struct Bridge {
    child: Child,
    log: PathBuf,
}

impl Bridge {
    fn start(mut command: Command, folder: &Path) -> Self {
        let log = folder.join(format!("log-{}", rand::rng().random::<u64>()));
        let file = std::fs::File::create(&log).expect("a new file");
        Bridge { child: command.stderr(file).spawn().expect("nsq starts"), log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).expect("it runs");
        kill_process(pid, signal).expect("our own child");
    }

    async fn exit_code(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it does not end: {}", self.log())).expect("our own child").code()
    }

    async fn stop(&mut self) {
        self.signal(Signal::TERM);
        let code = self.exit_code().await;
        assert_eq!(code, Some(0), "{}", self.log());
    }

    /// The address of `/metrics`, which the log contains.
    async fn metrics(&self) -> SocketAddr {
        wait::until("the bridge listens", async || {
            let log = self.log();
            let address = log.split("HTTP: listening on ").nth(1).and_then(|rest| rest.lines().next());
            address.and_then(|address| address.parse().ok()).ok_or(log)
        })
        .await
    }
}

/// `nsq` with arguments, for one nsqd.
fn bridge(nsqd: &Daemon, line: &str) -> Command {
    let mut bridge = command(line);
    bridge.env("NSQ_NSQD_TCP", nsqd.tcp().to_string());
    bridge
}

async fn create(nsqd: &Daemon, topic: &str, channel: &str) {
    nsqd.admin(&format!("/topic/create?topic={topic}")).await;
    nsqd.admin(&format!("/channel/create?topic={topic}&channel={channel}")).await;
}

/// The files of a folder and its folders, by their path, decompressed. Panics if one cannot be decompressed.
fn archived(folder: &Path) -> BTreeMap<String, String> {
    fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                collect(root, &path, files);
                continue;
            }
            let name = path.strip_prefix(root).expect("below it").display().to_string();
            let bytes = std::fs::read(&path).expect("a readable file");
            let mut text = String::new();
            match path.extension().and_then(|ending| ending.to_str()) {
                Some("gz") => {
                    let read = flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text);
                    read.unwrap_or_else(|error| panic!("{name}: {error}"));
                }
                Some("zst") => {
                    let bytes = zstd::stream::decode_all(&bytes[..]);
                    let bytes = bytes.unwrap_or_else(|error| panic!("{name}: {error}"));
                    text = String::from_utf8(bytes).expect("text");
                }
                _ => text = String::from_utf8(bytes).expect("text"),
            }
            files.insert(name, text);
        }
    }
    let mut files = BTreeMap::new();
    collect(folder, folder, &mut files);
    files
}

/// A number from the environment, for longer runs.
fn rounds(variable: &str, usual: usize) -> usize {
    std::env::var(variable).ok().map_or(usual, |text| text.parse().expect("a number"))
}

#[test]
fn to_file_archives_lines_and_finishes_them() {
    test(async {
        let folder = TempDir::new().expect("a temporary directory");
        let nsqd = Daemon::nsqd().start().await;
        create(&nsqd, "t", "nsq_to_file").await;
        let out = folder.path().join("out");
        let flags = format!(
            "to-file --topic t --output-dir {} --host-identifier h --datetime-format d",
            out.display()
        );
        for (count, flags) in [(250, flags.clone()), (251, format!("{flags} --metrics-address 127.0.0.1:0"))]
        {
            let mut archiver = Bridge::start(bridge(&nsqd, &flags), folder.path());
            for number in 0..250 {
                nsqd.publish("t", format!("m{number}")).await;
            }
            if count > 250 {
                let metrics = archiver.metrics().await;
                nsqd.publish("t", "m250").await;
                wait::until("the metrics show the records", async || {
                    let page = http::request(metrics, "GET", "/metrics", b"").await.text();
                    wait::when(page, |page| page.contains("\nnsq_to_file_records_total 251\n"))
                })
                .await;
            }
            nsqd.channel_until("t", "nsq_to_file", "all are taken", |channel| channel.depth == 0).await;
            archiver.stop().await;
            let channel = nsqd.channel("t", "nsq_to_file").await.expect("it exists");
            assert_eq!((channel.depth, channel.in_flight_count), (0, 0));
        }
        let files = archived(&out);
        let expected: String = (0..250).chain(0..251).map(|number| format!("m{number}\n")).collect();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["t.h.d.log"]);
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&files["t.h.d.log"]), sorted(&expected));
    });
}

#[test]
fn to_file_runs_a_command_for_each_finished_file() {
    test(async {
        let folder = TempDir::new().expect("a temporary directory");
        let nsqd = Daemon::nsqd().start().await;
        create(&nsqd, "t", "nsq_to_file").await;
        let (out, copies) = (folder.path().join("out"), folder.path().join("copies"));
        std::fs::create_dir(&copies).expect("a new folder");
        let flags = format!(
            "to-file --topic t --output-dir {} --filename-format <TOPIC><REV>.log --rotate-interval 1h --on-newline escape --retain 1d \
             --metrics-address 127.0.0.1:0",
            out.display()
        );
        let mut command = bridge(&nsqd, &flags);
        command.arg("--on-rotate").arg(format!("cp \"$1\" {}; [ \"$NSQ_TOPIC\" != t ]", copies.display()));
        let mut archiver = Bridge::start(command, folder.path());
        nsqd.publish("t", "one\ntwo\\").await;
        nsqd.channel_until("t", "nsq_to_file", "it is taken", |channel| channel.depth == 0).await;
        archiver.signal(Signal::HUP);
        let expected = BTreeMap::from([("t-000000.log".to_owned(), "one\\ntwo\\\\\n".to_owned())]);
        wait::until("the command has copied the file", async || {
            wait::when(archived(&copies), |copied| *copied == expected)
        })
        .await;
        let metrics = archiver.metrics().await;
        wait::until("the metrics show that the command failed", async || {
            let page = http::request(metrics, "GET", "/metrics", b"").await.text();
            wait::when(page, |page| page.contains("\nnsq_to_file_on_rotate_failures_total 1\n"))
        })
        .await;
        archiver.stop().await;
        assert_eq!(archived(&out), expected);
        nsqd.channel_until_finished("t", "nsq_to_file").await;
    });
}

#[test]
fn to_file_touches_messages_until_they_are_synced() {
    test(async {
        let folder = TempDir::new().expect("a temporary directory");
        let nsqd = Daemon::nsqd().start().await;
        create(&nsqd, "t", "nsq_to_file").await;
        let flags = format!(
            "to-file --topic t --output-dir {} --sync-interval 10m -X msg_timeout=1s",
            folder.path().display()
        );
        let mut archiver = Bridge::start(bridge(&nsqd, &flags), folder.path());
        // A new file is synced at once.
        nsqd.publish("t", "first").await;
        nsqd.channel_until("t", "nsq_to_file", "finished", |c| {
            c.client_count == 1 && c.in_flight_count == 0 && c.depth == 0
        })
        .await;
        wait::until("the first message is finished", async || {
            let channel = nsqd.channel("t", "nsq_to_file").await.expect("it exists");
            wait::when(channel.clients.first().map_or(0, |client| client.finish_count), |count| *count == 1)
        })
        .await;
        nsqd.publish("t", "second").await;
        let since = std::time::Instant::now();
        wait::until("several timeouts have passed", async || {
            let channel = nsqd.channel("t", "nsq_to_file").await.expect("it exists");
            assert_eq!(channel.timeout_count, 0);
            wait::when((since.elapsed(), channel.in_flight_count), |(time, n)| {
                *time > Duration::from_secs(3) && *n == 1
            })
        })
        .await;
        archiver.stop().await;
        let channel = nsqd.channel("t", "nsq_to_file").await.expect("it exists");
        assert_eq!(
            (channel.depth, channel.in_flight_count, channel.timeout_count, channel.requeue_count),
            (0, 0, 0, 0)
        );
    });
}

#[test]
fn to_file_with_a_work_dir_survives_hangups_under_load() {
    test_within(Duration::from_secs(120), async {
        let folder = TempDir::new().expect("a temporary directory");
        let nsqd = Daemon::nsqd().start().await;
        create(&nsqd, "t", "nsq_to_file").await;
        let (out, work) = (folder.path().join("out"), folder.path().join("work"));
        let flags = format!(
            "nsq_to_file -topic=t -gzip -output-dir={} -work-dir={} -datetime-format=%Y/x -sync-interval=50ms -nsqd-tcp-address={}",
            out.display(),
            work.display(),
            nsqd.tcp()
        );
        let mut archiver = Bridge::start(Links::new().tool(&flags), folder.path());
        let hangups = rounds("NSQ_TO_FILE_HANGUPS", 30);
        let mut peer = nsqd.connect().await;
        for round in 0..hangups {
            for part in 0..2 {
                let from = round * 40 + part * 20;
                let bodies: Vec<String> = (from..from + 20).map(|number| format!("m{number}")).collect();
                peer.publish_batch("t", &bodies).await;
                if round == 0 {
                    nsqd.channel_until("t", "nsq_to_file", "connected", |channel| channel.client_count == 1)
                        .await;
                }
                archiver.signal(Signal::HUP);
            }
            nsqd.channel_until_finished("t", "nsq_to_file").await;
        }
        nsqd.channel_until_finished("t", "nsq_to_file").await;
        archiver.stop().await;
        let files = archived(&out);
        let mut lines: Vec<usize> = files
            .values()
            .flat_map(|text| text.lines())
            .map(|line| line[1..].parse().expect("a number"))
            .collect();
        lines.sort_unstable();
        assert_eq!(lines, (0..hangups * 40).collect::<Vec<_>>());
        assert!(
            files.len() > 3 && files.keys().all(|name| name.ends_with("/x.log.gz")),
            "{:?}",
            files.keys()
        );
        assert_eq!(archived(&work), BTreeMap::new());
    });
}

#[test]
fn to_file_killed_under_load_loses_nothing() {
    test_within(Duration::from_secs(3600), async {
        let kills = rounds("NSQ_TO_FILE_KILLS", 6);
        let styles = ["", "--gzip", "--compress zstd", "--gzip --work-dir work", "--rotate-size 20000"];
        let folder = TempDir::new().expect("a temporary directory");
        let nsqd = Daemon::nsqd().start().await;
        create(&nsqd, "t", "nsq_to_file").await;
        let archiver = |style: &str| {
            let name = style.replace(['-', ' '], "");
            let line = format!(
                "to-file --topic t --output-dir out-{name} {style} --sync-interval 50ms --max-in-flight 100"
            );
            let mut archiver = bridge(&nsqd, &line);
            archiver.current_dir(folder.path());
            archiver
        };
        let mut published = 0;
        let mut peer = nsqd.connect().await;
        let mut publish = async || {
            let bodies: Vec<String> =
                (published..published + 50).map(|number| format!("message-{number:08}")).collect();
            published += 50;
            peer.publish_batch("t", &bodies).await;
        };
        for round in 0..kills {
            let mut running = Bridge::start(archiver(styles[round % styles.len()]), folder.path());
            publish().await;
            nsqd.channel_until("t", "nsq_to_file", "connected", |channel| channel.client_count == 1).await;
            let pause = Duration::from_millis(rand::rng().random_range(0..150));
            let deadline = tokio::time::Instant::now() + pause;
            while tokio::time::Instant::now() < deadline {
                // Load, but no backlog that grows with the rounds.
                if nsqd.channel("t", "nsq_to_file").await.expect("it exists").depth < 2000 {
                    publish().await;
                }
            }
            running.signal(Signal::KILL);
            running.exit_code().await;
            // The next run must not take the connection of this one for its own.
            nsqd.channel_until("t", "nsq_to_file", "disconnected", |channel| channel.client_count == 0).await;
        }
        // The last runs finish the rest, and what the killed ones left.
        for style in styles {
            let mut running = Bridge::start(archiver(style), folder.path());
            publish().await;
            nsqd.channel_until_finished("t", "nsq_to_file").await;
            running.stop().await;
        }
        let mut seen = vec![false; published];
        for (name, text) in archived(folder.path()).into_iter().filter(|(name, _)| name.starts_with("out-")) {
            let mut lines = text.split_inclusive('\n').peekable();
            while let Some(line) = lines.next() {
                let number = line.strip_prefix("message-").and_then(|rest| rest.strip_suffix('\n'));
                match number.and_then(|number| number.parse::<usize>().ok()) {
                    Some(number) if line.len() == 17 => seen[number] = true,
                    // A kill may cut the last record of a file, which is whole in another one.
                    _ => assert!(!line.ends_with('\n') && lines.peek().is_none(), "{name}: {line:?}"),
                }
            }
        }
        let missing: Vec<usize> = (0..published).filter(|number| !seen[*number]).collect();
        assert!(missing.is_empty(), "{} of {published} are missing: {missing:?}", missing.len());
        assert!(std::fs::read_dir(folder.path().join("work")).expect("it exists").next().is_none());
    });
}

#[test]
fn to_file_finds_topics_by_pattern_at_once() {
    test(async {
        let folder = TempDir::new().expect("a temporary directory");
        let (lookupd, nsqds) = cluster(1).await;
        for topic in ["orders-1", "orders-x", "other"] {
            nsqds[0].publish(topic, format!("of {topic}")).await;
        }
        let line = format!(
            r"to-file --topic-pattern ^orders-\d --output-dir {}/out --record json",
            folder.path().display()
        );
        let mut archiver = command(&line);
        archiver.env("NSQ_LOOKUPD", lookupd.http().to_string());
        let mut archiver = Bridge::start(archiver, folder.path());
        nsqds[0]
            .topic_until("orders-1", "archived", |topic| {
                topic.channels.iter().any(|c| c.message_count == 1 && c.unfinished() == 0)
            })
            .await;
        archiver.stop().await;
        let files = archived(&folder.path().join("out"));
        assert_eq!(files.len(), 1);
        let line: serde_json::Value =
            serde_json::from_str(files.values().next().expect("a file")).expect("JSON");
        assert_eq!(
            (&line["topic_name"], &line["body"], &line["attempts"]),
            (&"orders-1".into(), &"of orders-1".into(), &1.into())
        );
        assert!(nsqds[0].topic("other").await.expect("it exists").channels.is_empty());
    });
}

#[test]
fn bridges_refuse_wrong_settings_before_they_consume() {
    test(async {
        let links = Links::new();
        let nsqd = Daemon::nsqd().start().await;
        let source = format!("--nsqd-tcp={}", nsqd.tcp());
        for line in [
            "to-file --topic t --gzip --filename-format x",
            "to-file --topic t --gzip-level 10",
            "to-file --topic t --retain 5",
            "to-file --topic t --rotate-size-of some",
            "to-file --topic t --record json --on-newline escape",
            "to-file --topic-pattern (",
            "to-file",
            "to-http --topic t",
            "to-http --topic t --get http://h/",
            "to-http --topic t --post http://h/ --mode some",
            "to-http --topic t --post http://h/ --sample 2",
            "to-http --topic t --post http://h/ --header x",
            "to-nsq --topic t",
            "to-nsq --topic t --destination-nsqd-tcp-address h:1 --mode multicast",
            "to-nsq --topic t --destination-nsqd-tcp-address h:1 --require-json-value x",
        ] {
            run(command(&format!("{line} {source}")), b"").await.expect(2);
        }
        let source = format!("-nsqd-tcp-address={}", nsqd.tcp());
        for line in [
            format!("nsq_to_file -topic=t -gzip -filename-format=x {source}"),
            format!("nsq_to_file -topic=t {source} rest"),
            format!("nsq_to_file -topic-pattern=. {source}"),
            "nsq_to_file -topic=t -nsqd-tcp-address=127.0.0.1:1".to_owned(),
            format!("nsq_to_http -topic=t -get=http://h/ {source}"),
            "nsq_to_http -topic=t -post=http://h/ -nsqd-tcp-address=127.0.0.1:1".to_owned(),
            format!("nsq_to_nsq -topic=t {source}"),
        ] {
            run(links.tool(&line), b"").await.expect(1);
        }
        assert!(nsqd.topic("t").await.is_none());
    });
}

/// An HTTP server that answers as `answer` says.
struct Server {
    address: SocketAddr,
    /// Method, target and body of each request that was answered with success.
    good: Arc<std::sync::Mutex<Vec<String>>>,
    requests: Arc<AtomicUsize>,
}

#[derive(Clone, Copy)]
enum Answer {
    Status(u16),
    /// No answer.
    Stall,
}

impl Server {
    async fn start(answer: impl Fn() -> Answer + Clone + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (good, requests) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
        let server = Server { address, good: Arc::clone(&good), requests: Arc::clone(&requests) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (good, requests, answer) = (Arc::clone(&good), Arc::clone(&requests), answer.clone());
                tokio::spawn(async move { serve(stream, &good, &requests, answer).await });
            }
        });
        server
    }

    fn good(&self) -> Vec<String> {
        self.good.lock().expect("no panic").clone()
    }

    fn url(&self) -> String {
        format!("http://{}/in", self.address)
    }
}

async fn serve(
    mut stream: TcpStream,
    good: &std::sync::Mutex<Vec<String>>,
    requests: &AtomicUsize,
    answer: impl Fn() -> Answer,
) -> Option<()> {
    let mut received = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut received).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
        let first = String::from_utf8_lossy(&received[..end]).lines().next()?.to_owned();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        let length: usize = length.unwrap_or(0);
        while received.len() < end + length {
            if stream.read_buf(&mut received).await.ok()? == 0 {
                return None;
            }
        }
        let body = String::from_utf8_lossy(&received[end..end + length]).into_owned();
        received.drain(..end + length);
        requests.fetch_add(1, Ordering::Relaxed);
        match answer() {
            Answer::Stall => std::future::pending::<()>().await,
            Answer::Status(status) => {
                if status == 200 {
                    let id = head.lines().find(|line| line.starts_with("x-nsq-topic: ")).unwrap_or_default();
                    good.lock().expect("no panic").push(format!("{first}|{body}|{id}"));
                }
                stream
                    .write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes())
                    .await
                    .ok()?;
            }
        }
    }
}

#[test]
fn to_http_delivers_everything_to_a_server_that_fails_and_stalls() {
    test_within(Duration::from_secs(120), async {
        let folder = TempDir::new().expect("a temporary directory");
        let nsqd = Daemon::nsqd().start().await;
        create(&nsqd, "t", "nsq_to_http").await;
        let flaky = || match rand::rng().random_range(0..100) {
            0..30 => Answer::Status(500),
            30..35 => Answer::Stall,
            _ => Answer::Status(200),
        };
        let servers = [Server::start(flaky).await, Server::start(flaky).await];
        let bodies: Vec<String> = (0..200).map(|number| format!("m{number}")).collect();
        nsqd.connect().await.publish_batch("t", &bodies).await;
        let line = format!(
            "to-http --topic t --post {} --post {} --mode round-robin --http-client-request-timeout 300ms --nsq-headers \
             --metrics-address 127.0.0.1:0 -X max_backoff_duration=0 -X default_requeue_delay=10ms",
            servers[0].url(),
            servers[1].url()
        );
        let mut forwarder = Bridge::start(bridge(&nsqd, &line), folder.path());
        nsqd.channel_until("t", "nsq_to_http", "connected", |channel| channel.client_count == 1).await;
        wait::until_within(Duration::from_secs(60), "all are delivered", async || {
            let channel = nsqd.channel("t", "nsq_to_http").await.expect("it exists");
            wait::when(channel.unfinished(), |count| *count == 0)
        })
        .await;
        let page = http::request(forwarder.metrics().await, "GET", "/metrics", b"").await.text();
        assert!(page.contains("nsq_bridge_finished_total{topic=\"t\"} 200\n"), "{page}");
        forwarder.stop().await;
        let mut delivered: Vec<String> = servers.iter().flat_map(Server::good).collect();
        delivered.sort();
        delivered.dedup();
        let mut expected: Vec<String> =
            bodies.iter().map(|body| format!("POST /in HTTP/1.1|{body}|x-nsq-topic: t")).collect();
        expected.sort();
        assert_eq!(delivered, expected);
        assert!(servers.iter().all(|server| server.requests.load(Ordering::Relaxed) > 50));
    });
}

#[test]
fn nsq_to_http_makes_get_requests_and_multicasts() {
    test(async {
        let folder = TempDir::new().expect("a temporary directory");
        let nsqd = Daemon::nsqd().start().await;
        create(&nsqd, "t", "nsq_to_http").await;
        nsqd.publish("t", "a b&c").await;
        let [first, second] =
            [Server::start(|| Answer::Status(200)).await, Server::start(|| Answer::Status(200)).await];
        let line = format!(
            "nsq_to_http -topic=t -get={}?m=%s -get={}?m=%s -mode=multi -nsqd-tcp-address={}",
            first.url(),
            second.url(),
            nsqd.tcp()
        );
        let mut forwarder = Bridge::start(Links::new().tool(&line), folder.path());
        nsqd.channel_until("t", "nsq_to_http", "delivered", |channel| {
            channel.client_count == 1 && channel.unfinished() == 0
        })
        .await;
        forwarder.stop().await;
        for server in [&first, &second] {
            assert_eq!(server.good(), ["GET /in?m=a+b%26c HTTP/1.1||"]);
        }
        assert!(forwarder.log().contains("--mode multi is unknown"), "{}", forwarder.log());
    });
}

#[test]
fn to_http_makes_permanent_failures_dead_letters() {
    test(async {
        let folder = TempDir::new().expect("a temporary directory");
        let nsqd = Daemon::nsqd().start().await;
        create(&nsqd, "t", "nsq_to_http").await;
        let mut set = command("channel set t nsq_to_http max_attempts=5");
        set.env("NSQ_NSQD", nsqd.http().to_string());
        run(set, b"").await.expect(0);
        nsqd.publish("t", "never").await;
        let server = Server::start(|| Answer::Status(422)).await;
        let line = format!("to-http --topic t --post {} --permanent 400,422", server.url());
        let mut forwarder = Bridge::start(bridge(&nsqd, &line), folder.path());
        nsqd.topic_until("t.dead", "the message is a dead letter", |topic| topic.message_count == 1).await;
        forwarder.stop().await;
        assert_eq!(server.requests.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn to_nsq_copies_selected_messages_to_all_destinations() {
    test(async {
        let folder = TempDir::new().expect("a temporary directory");
        let nsqd = Daemon::nsqd().start().await;
        let destinations = [Daemon::nsqd().start().await, Daemon::nsqd().start().await];
        create(&nsqd, "t", "nsq_to_nsq").await;
        let bodies: Vec<String> = (0..300)
            .map(|number| {
                format!(
                    r#"{{"z": {number}.0, "region": "{}", "a": 1}}"#,
                    if number % 3 == 0 { "us" } else { "eu" }
                )
            })
            .chain(["not json".to_owned()])
            .collect();
        nsqd.connect().await.publish_batch("t", &bodies).await;
        let line = format!(
            "nsq_to_nsq -topic=t -destination-topic=copy -nsqd-tcp-address={} -destination-nsqd-tcp-address={} \
             -destination-nsqd-tcp-address={} -require-json-field=region -require-json-value=eu -whitelist-json-field=z \
             -whitelist-json-field=a -status-every=100",
            nsqd.tcp(),
            destinations[0].tcp(),
            destinations[1].tcp()
        );
        let mut copier = Bridge::start(Links::new().tool(&line), folder.path());
        nsqd.channel_until("t", "nsq_to_nsq", "copied", |channel| {
            channel.client_count == 1 && channel.unfinished() == 0
        })
        .await;
        copier.stop().await;
        let mut copies = Vec::new();
        for destination in &destinations {
            let count = destination.topic("copy").await.expect("each destination got some").message_count;
            assert!(count > 20, "{count}");
            let mut peer = destination.subscribe("copy", "c").await;
            peer.ready(500).await;
            copies.extend(peer.messages(usize::try_from(count).expect("few")).await.iter().map(|m| m.text()));
        }
        copies.sort();
        let mut expected: Vec<String> =
            (0..300).filter(|n| n % 3 != 0).map(|n| format!(r#"{{"a":1,"z":{n}.0}}"#)).collect();
        expected.sort();
        assert_eq!(copies, expected);
        let log = copier.log();
        assert!(
            log.contains("is no JSON object") && log.contains("[aggregate]: finished 100 - 99th: "),
            "{log}"
        );
    });
}

#[test]
fn to_nsq_keeps_messages_while_its_destination_is_down() {
    test_within(Duration::from_secs(120), async {
        let folder = TempDir::new().expect("a temporary directory");
        let nsqd = Daemon::nsqd().start().await;
        let mut destination = Daemon::nsqd().start().await;
        create(&nsqd, "t", "nsq_to_nsq").await;
        destination.kill().await;
        let line = format!(
            "to-nsq --topic t --destination-nsqd-tcp-address {} -X default_requeue_delay=100ms -X backoff_multiplier=100ms",
            destination.tcp()
        );
        let mut copier = Bridge::start(bridge(&nsqd, &line), folder.path());
        nsqd.publish("t", "patient").await;
        nsqd.channel_until("t", "nsq_to_nsq", "connected", |channel| channel.client_count == 1).await;
        destination.restart().await;
        destination.topic_until("t", "the message is copied", |topic| topic.message_count == 1).await;
        nsqd.channel_until_finished("t", "nsq_to_nsq").await;
        copier.stop().await;
    });
}

/// The examples in a command's help.
async fn examples(name: &str) -> Vec<String> {
    let help = run(command(&format!("{name} --help")), b"").await.expect(0).stdout;
    let (_, text) = help.split_once("Examples:\n").unwrap_or_else(|| panic!("{name} has examples: {help}"));
    // Long lines are wrapped, and some end with a backslash.
    let words = text.split_whitespace().filter(|word| *word != "\\").collect::<Vec<_>>().join(" ");
    words.split(" nsq ").map(|rest| format!("nsq {}", rest.trim_start_matches("nsq "))).collect()
}

#[test]
fn examples_in_the_help_of_tail_and_the_bridges_run() {
    test_within(Duration::from_secs(120), async {
        let bin = Links::new();
        let folder = TempDir::new().expect("a temporary directory");
        let nsqd = Daemon::nsqd().start().await;
        for topic in ["orders", "payments", "refunds"] {
            nsqd.admin(&format!("/topic/create?topic={topic}")).await;
        }
        for (name, channel) in [
            ("tail", "tail-"),
            ("to-file", "nsq_to_file"),
            ("to-http", "nsq_to_http"),
            ("to-nsq", "nsq_to_nsq"),
        ] {
            let examples = examples(name).await;
            assert_eq!(examples.len(), 3, "{examples:?}");
            for example in examples {
                let line = format!("exec {}", example.replace("127.0.0.1:4150", &nsqd.tcp().to_string()));
                let path = format!("{}:{}", bin.path().display(), std::env::var("PATH").unwrap_or_default());
                let mut shell = Command::new("bash");
                shell.args(["-euc", &line]).current_dir(folder.path()).env("PATH", path).kill_on_drop(true);
                shell.env("NSQ_NSQD_TCP", nsqd.tcp().to_string());
                shell.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
                let mut running = Bridge::start(shell, folder.path());
                let is_subscribed = |topic: &nsq_tests::stats::Topic| {
                    topic.channels.iter().any(|c| c.channel_name.starts_with(channel) && c.client_count > 0)
                };
                nsqd.topic_until("orders", &example, is_subscribed).await;
                if example.contains(" -n 5") && name == "tail" {
                    for number in 0..5 {
                        nsqd.publish("orders", format!("order {number}")).await;
                    }
                    assert_eq!(running.exit_code().await, Some(0), "{example}: {}", running.log());
                } else {
                    running.stop().await;
                }
                nsqd.topic_until("orders", "the example has ended", |topic| !is_subscribed(topic)).await;
            }
        }
    });
}

#[test]
fn to_file_waits_while_the_disk_is_full_and_moves_files_between_disks() {
    test_within(Duration::from_secs(120), async {
        let folder = TempDir::new().expect("a temporary directory");
        let small = folder.path().join("small");
        std::fs::create_dir(&small).expect("a new folder");
        let Some(_disk) = MemoryDisk::mount(&small, 1) else { return };
        let nsqd = Daemon::nsqd().start().await;
        create(&nsqd, "t", "nsq_to_file").await;
        let bodies: Vec<String> =
            (0..150).map(|number| format!("{number:04} {}", "x".repeat(5000))).collect();
        let mut peer = nsqd.connect().await;
        let archiver = |flags: &str| {
            let line =
                format!("to-file --topic t --sync-interval 200ms --filename-format <TOPIC><REV>.log {flags}");
            Bridge::start(bridge(&nsqd, &line), folder.path())
        };
        // A file of someone else takes the room.
        std::fs::write(small.join("other"), vec![0; 700 << 10]).expect("there is room");
        let mut running = archiver(&format!("--output-dir {}", small.display()));
        peer.publish_batch("t", &bodies).await;
        wait::until("the disk is full", async || {
            wait::when(running.log(), |log| log.contains("trying again"))
        })
        .await;
        let channel = nsqd.channel("t", "nsq_to_file").await.expect("it exists");
        assert!(channel.unfinished() > 0);
        std::fs::remove_file(small.join("other")).expect("our own file");
        nsqd.channel_until_finished("t", "nsq_to_file").await;
        running.stop().await;
        let mut lines: Vec<String> =
            archived(&small).values().flat_map(|text| text.lines()).map(str::to_owned).collect();
        lines.sort();
        lines.dedup();
        assert_eq!(lines, bodies);

        for (name, _) in archived(&small) {
            std::fs::remove_file(small.join(name)).expect("our own file");
        }
        let work = folder.path().join("work");
        let mut running =
            archiver(&format!("--output-dir {} --work-dir {}", small.display(), work.display()));
        peer.publish_batch("t", &bodies).await;
        nsqd.channel_until("t", "nsq_to_file", "archived", |c| c.message_count == 300 && c.unfinished() == 0)
            .await;
        running.stop().await;
        let files = archived(&small);
        assert_eq!(files.keys().collect::<Vec<_>>(), ["t-000000.log"]);
        assert_eq!(files["t-000000.log"].lines().collect::<Vec<_>>(), bodies);
        assert_eq!(archived(&work), BTreeMap::new());
    });
}
