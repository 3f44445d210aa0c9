//! Resources that the system refuses: disk space, file descriptors, the data directory. No acknowledged message is
//! lost, no refused message is delivered, and nsqd recovers without a restart.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nsq_tests::disk::{MemoryDisk, fingerprint};
use nsq_tests::wire::{Frame, Peer, batch, command};
use nsq_tests::{Daemon, process, test, test_within, wait};
use rustix::fs::FlockOperation;
use rustix::process::Resource;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// Large enough to fill a journal file quickly.
const BODY_BYTES: usize = 100_000;
const BATCH: usize = 10;

fn folder() -> Arc<TempDir> {
    Arc::new(TempDir::with_prefix("nsq-tests-").expect("a temporary directory"))
}

/// A publisher, with the numbers of its acknowledged and of its refused messages.
struct Publisher {
    address: SocketAddr,
    /// `None` after an error: nsqd closes the connection, as NSQ does.
    connection: Option<Peer>,
    next: usize,
    acknowledged: BTreeSet<usize>,
    refused: BTreeSet<usize>,
}

impl Publisher {
    async fn connect(nsqd: &Daemon) -> Self {
        Publisher {
            address: nsqd.tcp(),
            connection: Some(nsqd.connect().await),
            next: 0,
            acknowledged: BTreeSet::new(),
            refused: BTreeSet::new(),
        }
    }

    /// Publishes a batch to `t`; returns the error if nsqd refuses it.
    async fn publish(&mut self) -> Result<(), String> {
        let numbers = self.next..self.next + BATCH;
        self.next += BATCH;
        let padding = "x".repeat(BODY_BYTES);
        let bodies: Vec<String> = numbers.clone().map(|n| format!("{n}:{padding}")).collect();
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Peer::connect(self.address).await,
        };
        connection.send(command("MPUB t", batch(&bodies))).await;
        match connection.frame().await {
            Frame::Response(ok) if ok == "OK" => {
                self.acknowledged.extend(numbers);
                self.connection = Some(connection);
                Ok(())
            }
            Frame::Error(error) => {
                self.refused.extend(numbers);
                connection.closed().await;
                Err(String::from_utf8_lossy(&error).into_owned())
            }
            other => panic!("{other:?}"),
        }
    }

    /// Publishes until nsqd refuses.
    async fn fill(&mut self) {
        while self.publish().await.is_ok() {}
        assert!(self.acknowledged.len() >= 100, "only {} acknowledged", self.acknowledged.len());
    }

    /// Publishes until nsqd acknowledges again.
    async fn until_acknowledged(&mut self) {
        wait::until("publishing works again", async || self.publish().await).await;
    }
}

/// The number at the start of a body.
fn number(body: &[u8]) -> usize {
    let text = String::from_utf8_lossy(body);
    text.split(':').next().and_then(|number| number.parse().ok()).expect("a body with its number")
}

/// Receives and finishes all messages of a channel.
async fn drain(nsqd: &Daemon, channel: &str) -> BTreeSet<usize> {
    let mut consumer = nsqd.subscribe("t", channel).await;
    consumer.ready(50).await;
    let mut numbers = BTreeSet::new();
    loop {
        match consumer.frame_within(Duration::from_millis(200)).await {
            Ok(Frame::Message(message)) => {
                numbers.insert(number(&message.body));
                consumer.finish(&message).await;
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) if nsqd.channel("t", channel).await.expect("the channel exists").unfinished() == 0 => {
                return numbers;
            }
            Err(_) => {}
        }
    }
}

/// nsqd refuses publishes over TCP and HTTP, and `/ping` gives the reason.
async fn expect_refusing(nsqd: &Daemon, publisher: &mut Publisher, reason: &str) {
    let error = publisher.publish().await.expect_err("the disk is full");
    assert!(error.starts_with("E_MPUB_FAILED"), "{error}");
    let over_http = nsqd.post("/pub?topic=t", vec![b'x'; BATCH * BODY_BYTES]).await;
    assert_eq!(over_http.status, 503, "{}", over_http.text());
    let ping = nsqd.get("/ping").await;
    assert_eq!(ping.status, 500, "{}", ping.text());
    assert!(ping.text().contains(reason), "{}", ping.text());
}

async fn until_healthy(nsqd: &Daemon) {
    let check = async || wait::when(nsqd.get("/ping").await.text(), |text| text == "OK");
    wait::until("/ping returns OK", check).await;
}

/// Publishes until the disk is full, drains a channel, calls `make_room`, publishes again, and kills nsqd: no
/// acknowledged message is lost.
async fn full_disk(
    mut nsqd: Daemon,
    reason: &str,
    fill_up: impl FnOnce(&Daemon),
    make_room: impl FnOnce(&Daemon),
) {
    for channel in ["drained", "kept"] {
        nsqd.subscribe("t", channel).await;
    }
    let mut publisher = Publisher::connect(&nsqd).await;
    for _ in 0..10 {
        publisher.publish().await.expect("the disk has room");
    }
    fill_up(&nsqd);
    publisher.fill().await;
    expect_refusing(&nsqd, &mut publisher, reason).await;

    assert_eq!(
        drain(&nsqd, "drained").await,
        publisher.acknowledged,
        "consumers work while the disk is full"
    );
    expect_refusing(&nsqd, &mut publisher, reason).await;

    make_room(&nsqd);
    publisher.until_acknowledged().await;
    until_healthy(&nsqd).await;
    for _ in 0..3 {
        publisher.publish().await.expect("the disk has room");
    }
    let drained = drain(&nsqd, "drained").await;
    assert!(drained.is_disjoint(&publisher.refused) && drained.is_subset(&publisher.acknowledged));

    nsqd.kill().await;
    nsqd.restart().await;
    assert_eq!(drain(&nsqd, "kept").await, publisher.acknowledged, "exactly the acknowledged messages");
    assert!(drain(&nsqd, "drained").await.is_subset(&publisher.acknowledged));
}

#[test]
fn a_full_disk_refuses_publishes_until_there_is_room() {
    test_within(Duration::from_secs(120), async {
        let folder = folder();
        // Where mounting is not permitted, the test with the file size limit (below) must suffice.
        let Some(disk) = MemoryDisk::mount(folder.path(), 160) else { return };
        let ballast = folder.path().join("ballast");
        fs::write(&ballast, vec![1; 60 * MIB as usize]).expect("the disk has room");
        let nsqd = Daemon::nsqd().start_in(folder.clone()).await;
        full_disk(
            nsqd,
            "No space left on device",
            |_| {},
            |_| fs::remove_file(&ballast).expect("the file exists"),
        )
        .await;
        drop(disk);
    });
}

#[test]
fn file_size_limit_acts_like_a_full_disk() {
    test_within(Duration::from_secs(120), async {
        let nsqd = Daemon::nsqd().flag("--mem-queue-size=200").start().await;
        let limit = |bytes| move |nsqd: &Daemon| process::limit(nsqd.pid(), Resource::Fsize, bytes);
        // Below the size of the smallest journal file.
        full_disk(nsqd, "File too large", limit(Some(MIB / 2)), limit(None)).await;
    });
}

#[test]
fn consumers_free_a_disk_that_the_journal_filled() {
    test_within(Duration::from_secs(120), async {
        let folder = folder();
        let Some(disk) = MemoryDisk::mount(folder.path(), 150) else { return };
        let mut nsqd = Daemon::nsqd().start_in(folder.clone()).await;
        nsqd.subscribe("t", "c").await;
        let mut publisher = Publisher::connect(&nsqd).await;
        publisher.fill().await;
        let drained = drain(&nsqd, "c").await;
        assert_eq!(drained, publisher.acknowledged);
        publisher.until_acknowledged().await;
        nsqd.kill().await;
        nsqd.restart().await;
        let again = drain(&nsqd, "c").await;
        let new: BTreeSet<usize> = publisher.acknowledged.difference(&drained).copied().collect();
        assert!(
            again.is_superset(&new) && again.is_subset(&publisher.acknowledged),
            "{again:?} instead of {new:?}"
        );
        drop((nsqd, disk));
    });
}

#[test]
fn nsqd_waits_and_recovers_without_file_descriptors() {
    test(async {
        let mut nsqd = Daemon::nsqd().flag("--mem-queue-size=100").start().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        let mut publisher = Publisher::connect(&nsqd).await;
        publisher.publish().await.expect("nsqd is healthy");
        // Allows a few more connections.
        let limit = process::open_file_count(nsqd.pid()) + 4;
        process::limit(nsqd.pid(), Resource::Nofile, Some(limit));
        let mut crowd = Vec::new();
        for _ in 0..30 {
            crowd.push(Peer::connect(nsqd.tcp()).await);
        }
        // nsqd reserves an eighth of the limit for files and HTTP.
        let left = limit / 8;
        let at_limit =
            async || wait::when(process::open_file_count(nsqd.pid()), |&count| count >= limit - left);
        wait::until("no more connections are accepted", at_limit).await;
        nsqd.log().expect("WARNING: TCP: new connections on").await;
        nsqd.get("/ping").await.expect(200);

        // Waiting for file descriptors must not use a whole core.
        let before = process::cpu_time(nsqd.pid());
        tokio::time::sleep(Duration::from_millis(500)).await;
        let used = process::cpu_time(nsqd.pid()) - before;
        assert!(used < Duration::from_millis(250), "{used:?} of CPU time in half a second of waiting");

        // More than memory and one journal file may hold while no segment can be opened: either outcome is fine.
        for _ in 0..80 {
            if publisher.publish().await.is_err() {
                break;
            }
        }
        assert!(nsqd.is_running());
        consumer.ready(1).await;
        consumer.message().await;
        consumer.line("RDY 0").await;
        drop(consumer);

        drop(crowd);
        // The crowd's connections are closed one after the other.
        let works = async || {
            let mut peer = nsqd.connect().await;
            peer.send(command("PUB fresh#ephemeral", "x")).await;
            wait::when(peer.frame().await, |frame| matches!(frame, Frame::Response(ok) if ok == "OK"))
        };
        wait::until("new connections and topics work again", works).await;
        publisher.until_acknowledged().await;
        until_healthy(&nsqd).await;
        nsqd.kill().await;
        nsqd.restart().await;
        assert_eq!(drain(&nsqd, "c").await, publisher.acknowledged);
    });
}

fn segment_count(nsqd: &Daemon) -> usize {
    let topics = fs::read_dir(nsqd.data_path().join("topics")).expect("topics have spilled").flatten();
    topics.map(|topic| fs::read_dir(topic.path()).expect("a topic directory").count()).sum()
}

#[test]
fn backlog_with_more_files_than_the_limit_is_written_and_read() {
    test(async {
        const BATCHES: usize = 80;
        let flags = ["--mem-queue-size=10", "--max-bytes-per-file=65536"];
        let nsqd = flags.into_iter().fold(Daemon::nsqd(), |nsqd, flag| nsqd.flag(flag)).start().await;
        let mut consumers = Vec::new();
        for topic in ["t", "u"] {
            consumers.push(nsqd.subscribe(topic, "c").await);
        }
        let mut publisher = nsqd.connect().await;
        let limit = process::open_file_count(nsqd.pid()) + 12;
        process::limit(nsqd.pid(), Resource::Nofile, Some(limit));
        let body = |number: usize| format!("{number}:{:010000}", 0);
        for first in 0..BATCHES {
            let bodies: Vec<_> = (0..15).map(|index| body(15 * first + index)).collect();
            for topic in ["t", "u"] {
                publisher.publish_batch(topic, &bodies).await;
            }
        }
        let spilled = async || wait::when(segment_count(&nsqd), |&count| count > 2 * limit as usize);
        wait::until("there are more segment files than the limit of open files", spilled).await;
        for consumer in &mut consumers {
            consumer.ready(100).await;
            let mut numbers = BTreeSet::new();
            while numbers.len() < 15 * BATCHES {
                let message = consumer.message().await;
                numbers.insert(number(&message.body));
                consumer.finish(&message).await;
            }
        }
        nsqd.get("/ping").await.expect(200);
    });
}

#[test]
fn missing_file_descriptors_delay_syncing_but_do_not_stop_it() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--sync-timeout=5s").start().await;
        // The publish creates a file, and nsqd must sync its name.
        nsqd.publish("t", "x").await;
        process::limit(nsqd.pid(), Resource::Nofile, Some(1));
        nsqd.log().expect("cannot sync").await;
        process::limit(nsqd.pid(), Resource::Nofile, None);
        until_healthy(&nsqd).await;
        nsqd.publish("t", "y").await;
        let synced = async || {
            let stats = nsqd.get_json("/stats?format=json&include_storage=true").await;
            wait::when(stats["unsynced_bytes"].as_u64(), |bytes| *bytes == Some(0))
        };
        wait::until("everything is synced", synced).await;
        assert_eq!(nsqd.get("/ping").await.text(), "OK");
    });
}

#[test]
fn unusable_data_directory_is_refused_and_unchanged() {
    test(async {
        let folder = folder();
        let nsqd = Daemon::nsqd().start_in(folder.clone()).await;
        nsqd.publish("t", "x").await;
        drop(nsqd);
        let expect_refused = async |reason: &str| {
            let before = fingerprint(folder.path());
            let (status, log) = Daemon::nsqd().expect_exit_in(folder.path()).await;
            assert_eq!(status.code(), Some(1), "{}", log.text());
            assert!(log.text().contains(reason), "{}", log.text());
            assert!(fingerprint(folder.path()) == before, "the directory is unchanged");
        };
        let held = fs::File::open(folder.path()).expect("the directory is readable");
        rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive)
            .expect("no other process holds the lock");
        expect_refused("possibly in use by another instance of nsqd").await;
        expect_refused("stop that one or change --data-path").await;
        drop(held);

        let format = folder.path().join("format");
        let known = fs::read(&format).expect("the file exists");
        fs::write(&format, "2\n").expect("the file is writable");
        expect_refused("has format version 2, newer than this program supports (1)").await;
        fs::write(&format, "one\n").expect("the file is writable");
        expect_refused("does not hold a format version").await;
        expect_refused("write 1 to").await;
        fs::write(&format, known).expect("the file is writable");

        let read_only = TempDir::with_prefix("nsq-tests-").expect("a temporary directory");
        match MemoryDisk::mount(read_only.path(), 1) {
            Some(disk) => {
                disk.make_read_only();
                let (status, log) = Daemon::nsqd().expect_exit_in(read_only.path()).await;
                assert_eq!(status.code(), Some(1), "{}", log.text());
                assert!(log.text().contains("is not writable"), "{}", log.text());
            }
            // Without the right to mount, the test is not root, so file permissions apply.
            None => {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500))
                    .expect("the test owns the directory");
                expect_refused("is not writable").await;
                fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700))
                    .expect("the test owns the directory");
            }
        }
    });
}
