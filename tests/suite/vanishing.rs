//! Files of nsqd are removed, moved or replaced while it runs. nsqd reports this within seconds, stores the contents of
//! its memory again, and acknowledges only messages that a later start will find.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nsq_tests::wire::{Frame, Peer, command};
use nsq_tests::{Daemon, test, wait};
use tempfile::TempDir;

const MODES: [&str; 3] = ["overflow", "write", "sync"];

/// An nsqd whose data directory lies in a temporary directory, so that the test can move it.
struct Fixture {
    folder: TempDir,
    nsqd: Daemon,
    flags: Vec<String>,
    acknowledged: BTreeSet<String>,
}

impl Fixture {
    async fn start(durability: &str) -> Self {
        let folder = TempDir::with_prefix("nsq-tests-").expect("a temporary directory");
        fs::create_dir(folder.path().join("data")).expect("a new directory");
        let flags = vec![
            format!("--durability={durability}"),
            format!("--data-path={}", folder.path().join("data").display()),
        ];
        let mut start = Daemon::nsqd();
        for flag in &flags {
            start = start.flag(flag);
        }
        let nsqd = start.start().await;
        let fixture = Fixture { folder, nsqd, flags, acknowledged: BTreeSet::new() };
        fixture.nsqd.admin("/topic/create?topic=t").await;
        fixture.nsqd.admin("/channel/create?topic=t&channel=c").await;
        fixture
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    async fn publish(&mut self, count: usize) -> Result<(), String> {
        let mut peer = self.nsqd.connect().await;
        for _ in 0..count {
            let body = format!("message {}", self.acknowledged.len());
            peer.send(command("PUB t", &body)).await;
            match peer.frame().await {
                Frame::Response(_) => self.acknowledged.insert(body),
                Frame::Error(error) => return Err(String::from_utf8_lossy(&error).into_owned()),
                other => panic!("{other:?}"),
            };
        }
        Ok(())
    }

    async fn until_unhealthy(&self, reason: &str) {
        let check = async || {
            let ping = self.nsqd.get("/ping").await;
            wait::when((ping.status, ping.text()), |(status, text)| *status == 500 && text.contains(reason))
        };
        wait::until("/ping gives the reason", check).await;
        self.nsqd.log().expect(reason).await;
    }

    async fn until_healthy(&self) {
        let check = async || wait::when(self.nsqd.get("/ping").await.text(), |text| text == "OK");
        wait::until("/ping returns OK", check).await;
    }

    /// Consumes exactly the acknowledged messages.
    async fn expect_all(&self) {
        let mut consumer = self.nsqd.subscribe("t", "c").await;
        consumer.ready(100).await;
        let messages = consumer.consume(self.acknowledged.len()).await;
        let received: BTreeSet<String> = messages.iter().map(|message| message.text()).collect();
        assert_eq!(received, self.acknowledged);
    }

    /// Starts nsqd in another directory.
    async fn restart_in(&mut self, dir: &Path) {
        let dir = format!("--data-path={}", dir.display());
        self.nsqd = Daemon::nsqd().flag(&self.flags[0]).flag(dir).start().await;
    }
}

#[test]
fn nsqd_without_its_data_directory_refuses_publishes_and_stores_everything_on_stop() {
    test(async {
        for mode in MODES {
            let mut fixture = Fixture::start(mode).await;
            fixture.publish(20).await.expect("nsqd is healthy");
            fs::remove_dir_all(fixture.data()).expect("the test owns the directory");
            // nsqd notices the loss although nothing is published.
            fixture.until_unhealthy("was removed or moved").await;
            fixture.publish(1).await.expect_err("there is no data directory");
            let over_http = fixture.nsqd.post("/pub?topic=t", "x").await;
            assert_eq!(over_http.status, 503, "{}", over_http.text());
            assert!(!fixture.data().exists(), "nsqd does not create the path: another disk may belong there");
            let status = fixture.nsqd.terminate().await;
            assert!(status.success(), "{mode}: {status}: {}", fixture.nsqd.log().text());
            assert!(fixture.nsqd.log().contains("is stored in a new data directory"));
            fixture.restart_in(&fixture.data()).await;
            fixture.expect_all().await;
        }
    });
}

#[test]
fn messages_acknowledged_before_the_loss_is_noticed_are_stored_on_stop() {
    test(async {
        for mode in MODES {
            let mut fixture = Fixture::start(mode).await;
            fixture.publish(10).await.expect("nsqd is healthy");
            fs::remove_dir_all(fixture.data()).expect("the test owns the directory");
            while fixture.publish(1).await.is_ok() {
                assert!(
                    fixture.acknowledged.len() < 1_000_000,
                    "publishes continue without a data directory"
                );
            }
            if mode == "sync" {
                assert_eq!(fixture.acknowledged.len(), 10, "a publish was acknowledged in a removed file");
            }
            fixture.nsqd.terminate().await;
            fixture.restart_in(&fixture.data()).await;
            fixture.expect_all().await;
        }
    });
}

#[test]
fn restored_data_directory_is_used_again() {
    test(async {
        for mode in MODES {
            let mut fixture = Fixture::start(mode).await;
            fixture.publish(10).await.expect("nsqd is healthy");
            let elsewhere = fixture.folder.path().join("elsewhere");
            fs::rename(fixture.data(), &elsewhere).expect("the test owns the directory");
            fixture.until_unhealthy("was removed or moved").await;
            fs::create_dir(fixture.data()).expect("the path is free");
            fs::write(fixture.data().join("notes"), "of another program")
                .expect("the test owns the directory");
            fixture.until_unhealthy("is not the directory that nsqd has locked").await;
            fixture.publish(1).await.expect_err("nsqd refuses another directory");
            fs::remove_dir_all(fixture.data()).expect("the test owns the directory");
            fs::rename(&elsewhere, fixture.data()).expect("the test owns the directory");
            fixture.until_healthy().await;
            fixture.publish(10).await.expect("nsqd is healthy again");
            if mode == "overflow" {
                assert!(fixture.nsqd.terminate().await.success());
            } else {
                fixture.nsqd.kill().await;
            }
            fixture.restart_in(&fixture.data()).await;
            fixture.expect_all().await;
        }
    });
}

#[test]
fn moved_data_directory_is_complete_after_a_stop_with_exit_status_1() {
    test(async {
        for mode in MODES {
            let mut fixture = Fixture::start(mode).await;
            fixture.publish(10).await.expect("nsqd is healthy");
            let elsewhere = fixture.folder.path().join("elsewhere");
            fs::rename(fixture.data(), &elsewhere).expect("the test owns the directory");
            let status = fixture.nsqd.terminate().await;
            assert_eq!(status.code(), Some(1), "{mode}");
            let hint = format!("start nsqd with --data-path={}", elsewhere.display());
            assert!(fixture.nsqd.log().contains(&hint), "{}", fixture.nsqd.log().text());
            assert!(!fixture.data().exists());
            fixture.restart_in(&elsewhere).await;
            fixture.expect_all().await;
        }
    });
}

#[test]
fn stop_without_a_usable_data_directory_fails() {
    test(async {
        for mode in MODES {
            let mut fixture = Fixture::start(mode).await;
            fixture.publish(10).await.expect("nsqd is healthy");
            fs::remove_dir_all(fixture.data()).expect("the test owns the directory");
            fs::create_dir(fixture.data()).expect("the path is free");
            fs::write(fixture.data().join("notes"), "of another program")
                .expect("the test owns the directory");
            let status = fixture.nsqd.terminate().await;
            assert_eq!(status.code(), Some(1), "{mode}");
            assert!(
                fixture.nsqd.log().contains("what nsqd had in memory is lost"),
                "{}",
                fixture.nsqd.log().text()
            );
            assert_eq!(
                fs::read_dir(fixture.data()).expect("the directory exists").count(),
                1,
                "nsqd adds nothing to it"
            );
        }
    });
}

/// The first file with this extension.
fn file(dir: &Path, ending: &str) -> PathBuf {
    let entries = fs::read_dir(dir).expect("the directory exists").flatten().map(|entry| entry.path());
    let mut files = entries.filter(|path| path.extension().is_some_and(|end| end == ending));
    files.next().expect("a file with this extension")
}

#[test]
fn removed_files_are_written_again() {
    test(async {
        for mode in ["write", "sync"] {
            for replaced in [false, true] {
                let mut fixture = Fixture::start(mode).await;
                fixture.publish(10).await.expect("nsqd is healthy");
                let journal = fixture.data().join("journal");
                let removed = file(&journal, "journal");
                fs::remove_file(&removed).expect("the file exists");
                if replaced {
                    fs::write(&removed, "something else").expect("the test owns the directory");
                }
                fixture.nsqd.log().expect("stored the content of removed journal files again").await;
                fixture.until_healthy().await;
                fixture.publish(10).await.expect("nsqd is healthy again");

                fs::remove_dir_all(&journal).expect("the file exists");
                fixture.nsqd.log().expect("journal files [2]").await;
                let checkpoint = fixture.data().join("checkpoint");
                let stored = || fixture.nsqd.log().text().matches("stored the content of removed").count();
                wait::until("everything is stored again", async || wait::when(stored(), |&times| times == 2))
                    .await;
                fs::remove_file(&checkpoint).expect("the file exists");
                fixture.nsqd.log().expect("checkpoint was removed or replaced").await;
                fixture.until_healthy().await;

                fixture.nsqd.kill().await;
                fixture.restart_in(&fixture.data()).await;
                fixture.expect_all().await;
            }
        }
    });
}

#[test]
fn removed_segment_file_is_written_again() {
    test(async {
        let folder = Arc::new(TempDir::with_prefix("nsq-tests-").expect("a temporary directory"));
        let mut nsqd = Daemon::nsqd().flag("--mem-queue-size=10").start_in(folder.clone()).await;
        nsqd.subscribe("t", "c").await;
        let mut peer: Peer = nsqd.connect().await;
        let padding = "x".repeat(10_000);
        let bodies: Vec<String> = (0..200).map(|number| format!("{number}:{padding}")).collect();
        for body in &bodies {
            peer.publish("t", body).await;
        }
        let topic = folder.path().join("topics/1");
        wait::until("messages are in a segment", async || wait::when((), |()| topic.exists())).await;
        fs::remove_file(file(&topic, "segment")).expect("the file exists");
        nsqd.log().expect("their content is stored again").await;
        let check = async || wait::when(nsqd.get("/ping").await.text(), |text| text == "OK");
        wait::until("/ping returns OK", check).await;
        nsqd.kill().await;
        nsqd.restart().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(100).await;
        let received: BTreeSet<String> =
            consumer.consume(bodies.len()).await.iter().map(|m| m.text()).collect();
        assert_eq!(received, bodies.into_iter().collect());
    });
}
