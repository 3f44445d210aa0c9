//! What the system refuses: room on the disk, open files, the data directory. Nothing acknowledged is lost, nothing
//! refused is delivered, and when the system gives again, all goes on without a restart.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use nsq_tests::disk::{MemoryDisk, fingerprint};
use nsq_tests::wire::{Frame, Peer, batch, command};
use nsq_tests::{Daemon, process, test, test_within, wait};
use rustix::process::Resource;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// Large enough to fill a journal file of 64 MiB quickly.
const BODY_BYTES: usize = 100_000;
const BATCH: usize = 10;

fn folder() -> Arc<TempDir> {
    Arc::new(TempDir::with_prefix("nsq-tests-").expect("a temporary directory"))
}

/// What publishers know: numbers of messages that were acknowledged, and of those that were refused.
#[derive(Default)]
struct Ledger {
    next: usize,
    acknowledged: BTreeSet<usize>,
    refused: BTreeSet<usize>,
}

impl Ledger {
    /// Publishes a batch; whether it was acknowledged. The connection stays usable either way.
    async fn publish(&mut self, publisher: &mut Peer, topic: &str) -> Result<(), String> {
        let numbers = self.next..self.next + BATCH;
        self.next += BATCH;
        let padding = "x".repeat(BODY_BYTES);
        let bodies: Vec<String> = numbers.clone().map(|n| format!("{n}:{padding}")).collect();
        publisher.send(command(format!("MPUB {topic}"), batch(&bodies))).await;
        match publisher.frame().await {
            Frame::Response(ok) if ok == "OK" => {
                self.acknowledged.extend(numbers);
                Ok(())
            }
            Frame::Error(error) => {
                self.refused.extend(numbers);
                Err(String::from_utf8_lossy(&error).into_owned())
            }
            other => panic!("{other:?}"),
        }
    }

    /// Publishes until it is refused; the error.
    async fn fill(&mut self, publisher: &mut Peer, topic: &str) -> String {
        loop {
            if let Err(error) = self.publish(publisher, topic).await {
                return error;
            }
        }
    }

    /// Publishes until it is acknowledged again.
    async fn until_acknowledged(&mut self, publisher: &mut Peer, topic: &str) {
        wait::until("publishing works again", async || self.publish(publisher, topic).await).await;
    }
}

/// The number in a body.
fn number(body: &[u8]) -> usize {
    let text = String::from_utf8_lossy(body);
    text.split(':').next().and_then(|number| number.parse().ok()).expect("our own body")
}

/// Receives and finishes all that a channel has, but for at most `keep` in flight elsewhere.
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
            Err(_) if nsqd.channel("t", channel).await.expect("the channel is there").unfinished() == 0 => {
                return numbers;
            }
            Err(_) => {}
        }
    }
}

/// Refused everywhere, and the reason told.
async fn expect_refusing(nsqd: &Daemon, ledger: &mut Ledger, publisher: &mut Peer, reason: &str) {
    let error = ledger.publish(publisher, "t").await.expect_err("there is no room");
    assert!(error.starts_with("E_MPUB_FAILED"), "{error}");
    let over_http = nsqd.post("/pub?topic=t", vec![b'x'; BATCH * BODY_BYTES]).await;
    assert_eq!(over_http.status, 503, "{}", over_http.text());
    let ping = nsqd.get("/ping").await;
    assert_eq!(ping.status, 500, "{}", ping.text());
    assert!(ping.text().contains(reason), "{}", ping.text());
}

/// Publishes until the disk is full; consumers drain; `make_room`; publishing goes on; a kill loses nothing.
async fn full_disk(mut nsqd: Daemon, reason: &str, make_room: impl FnOnce(&Daemon)) {
    let mut ledger = Ledger::default();
    for channel in ["drained", "kept"] {
        nsqd.subscribe("t", channel).await;
    }
    let mut publisher = nsqd.connect().await;
    ledger.fill(&mut publisher, "t").await;
    assert!(ledger.acknowledged.len() >= 100, "only {} acknowledged", ledger.acknowledged.len());
    expect_refusing(&nsqd, &mut ledger, &mut publisher, reason).await;

    assert_eq!(drain(&nsqd, "drained").await, ledger.acknowledged, "consumers go on meanwhile");
    expect_refusing(&nsqd, &mut ledger, &mut publisher, reason).await;

    make_room(&nsqd);
    ledger.until_acknowledged(&mut publisher, "t").await;
    wait::until("all is well", async || match nsqd.get("/ping").await.text() {
        text if text == "OK" => Ok(()),
        text => Err(text),
    })
    .await;
    for _ in 0..3 {
        ledger.publish(&mut publisher, "t").await.expect("there is room");
    }
    let drained = drain(&nsqd, "drained").await;
    assert!(drained.is_disjoint(&ledger.refused) && drained.is_subset(&ledger.acknowledged));

    nsqd.kill().await;
    nsqd.restart().await;
    assert_eq!(drain(&nsqd, "kept").await, ledger.acknowledged, "all that was acknowledged, nothing refused");
    assert!(drain(&nsqd, "drained").await.is_subset(&ledger.acknowledged));
}

#[test]
fn a_full_disk_refuses_publishes_until_there_is_room() {
    test_within(Duration::from_secs(120), async {
        let folder = folder();
        // Where mounting is not permitted, the limit for the size of files (below) must do.
        let Some(disk) = MemoryDisk::mount(folder.path(), 160) else { return };
        let ballast = folder.path().join("ballast");
        fs::write(&ballast, vec![1; 60 * MIB as usize]).expect("there is room");
        let nsqd = Daemon::nsqd().start_in(folder.clone()).await;
        full_disk(nsqd, "No space left on device", |_| fs::remove_file(&ballast).expect("it is there")).await;
        drop(disk);
    });
}

#[test]
fn a_limit_for_the_size_of_files_is_a_full_disk() {
    test_within(Duration::from_secs(120), async {
        let nsqd = Daemon::nsqd().flag("--mem-queue-size=200").start().await;
        nsqd.publish("first#ephemeral", "makes the journal's first file").await;
        process::limit(nsqd.pid(), Resource::Fsize, Some(32 * MIB));
        full_disk(nsqd, "File too large", |nsqd| process::limit(nsqd.pid(), Resource::Fsize, None)).await;
    });
}

#[test]
fn a_disk_that_the_journal_has_filled_is_freed_by_consumers() {
    test_within(Duration::from_secs(120), async {
        let folder = folder();
        let Some(disk) = MemoryDisk::mount(folder.path(), 150) else { return };
        let mut nsqd = Daemon::nsqd().start_in(folder.clone()).await;
        nsqd.subscribe("t", "c").await;
        let mut publisher = nsqd.connect().await;
        let mut ledger = Ledger::default();
        // Two journal files fit.
        ledger.fill(&mut publisher, "t").await;
        let drained = drain(&nsqd, "c").await;
        assert_eq!(drained, ledger.acknowledged);
        ledger.until_acknowledged(&mut publisher, "t").await;
        nsqd.kill().await;
        nsqd.restart().await;
        let again = drain(&nsqd, "c").await;
        let new: BTreeSet<usize> = ledger.acknowledged.difference(&drained).copied().collect();
        assert!(
            again.is_superset(&new) && again.is_subset(&ledger.acknowledged),
            "{again:?} instead of {new:?}"
        );
        drop((nsqd, disk));
    });
}

#[test]
fn without_files_to_open_nsqd_waits_and_goes_on() {
    test(async {
        let mut nsqd = Daemon::nsqd().flag("--mem-queue-size=100").start().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        let mut publisher = nsqd.connect().await;
        let mut ledger = Ledger::default();
        ledger.publish(&mut publisher, "t").await.expect("nothing is wrong yet");
        // Room for a few connections more.
        let limit = process::open_file_count(nsqd.pid()) + 4;
        process::limit(nsqd.pid(), Resource::Nofile, Some(limit));
        let mut crowd = Vec::new();
        for _ in 0..30 {
            crowd.push(Peer::connect(nsqd.tcp()).await);
        }
        let at_limit = async || wait::when(process::open_file_count(nsqd.pid()), |&count| count >= limit);
        wait::until("no more files can be opened", at_limit).await;

        // Waiting for files must not take a core.
        let before = process::cpu_time(nsqd.pid());
        tokio::time::sleep(Duration::from_millis(500)).await;
        let used = process::cpu_time(nsqd.pid()) - before;
        assert!(used < Duration::from_millis(250), "{used:?} of CPU time in half a second of doing nothing");

        // More than memory may hold (segments cannot be opened) and than a journal file does: acknowledged or refused.
        for _ in 0..80 {
            let _ = ledger.publish(&mut publisher, "t").await;
        }
        assert!(nsqd.is_running());
        consumer.ready(1).await;
        consumer.message().await;
        consumer.line("RDY 0").await;
        drop(consumer);

        drop(crowd);
        nsqd.connect().await.still_works().await;
        ledger.until_acknowledged(&mut publisher, "t").await;
        wait::until("all is well", async || match nsqd.get("/ping").await.text() {
            text if text == "OK" => Ok(()),
            text => Err(text),
        })
        .await;
        nsqd.kill().await;
        nsqd.restart().await;
        assert_eq!(drain(&nsqd, "c").await, ledger.acknowledged);
    });
}

#[test]
fn a_data_directory_that_cannot_be_used_is_refused_and_left_alone() {
    test(async {
        let folder = folder();
        let nsqd = Daemon::nsqd().start_in(folder.clone()).await;
        nsqd.publish("t", "x").await;
        let expect_refused = async |reason: &str| {
            let before = fingerprint(folder.path());
            let (status, log) = Daemon::nsqd().expect_exit_in(folder.path()).await;
            assert_eq!(status.code(), Some(1), "{}", log.text());
            assert!(log.text().contains(reason), "{}", log.text());
            assert!(fingerprint(folder.path()) == before, "nothing was touched");
        };
        expect_refused("possibly in use by another instance of nsqd").await;
        nsqd.publish("t", "y").await;
        drop(nsqd);

        let format = folder.path().join("format");
        let known = fs::read(&format).expect("it is there");
        fs::write(&format, "2\n").expect("it can be written");
        expect_refused("has format version 2, newer than this program knows (1)").await;
        fs::write(&format, "one\n").expect("it can be written");
        expect_refused("does not hold a format version").await;
        fs::write(&format, known).expect("it can be written");

        let read_only = TempDir::with_prefix("nsq-tests-").expect("a temporary directory");
        match MemoryDisk::mount(read_only.path(), 1) {
            Some(disk) => {
                disk.make_read_only();
                let (status, log) = Daemon::nsqd().expect_exit_in(read_only.path()).await;
                assert_eq!(status.code(), Some(1), "{}", log.text());
                assert!(log.text().contains("is not writable"), "{}", log.text());
            }
            // Who may not mount is not root, and bound by permissions.
            None => {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).expect("it is ours");
                expect_refused("is not writable").await;
                fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("it is ours");
            }
        }
    });
}
