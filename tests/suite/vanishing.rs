//! Somebody removes, moves or replaces what nsqd has on disk while it runs. It says so within seconds, stores again what it has in
//! memory, and acknowledges nothing that no start will find.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nsq_tests::wire::{Frame, Peer, command};
use nsq_tests::{Daemon, test, wait};
use tempfile::TempDir;

const MODES: [&str; 3] = ["overflow", "write", "sync"];

/// An nsqd whose data directory is a folder in a folder of ours, so that it can be moved.
struct Victim {
    folder: TempDir,
    nsqd: Daemon,
    flags: Vec<String>,
    acknowledged: BTreeSet<String>,
}

impl Victim {
    async fn start(durability: &str) -> Self {
        let folder = TempDir::with_prefix("nsq-tests-").expect("a temporary directory");
        fs::create_dir(folder.path().join("data")).expect("a fresh folder");
        let flags = vec![
            format!("--durability={durability}"),
            format!("--data-path={}", folder.path().join("data").display()),
        ];
        let mut start = Daemon::nsqd();
        for flag in &flags {
            start = start.flag(flag);
        }
        let nsqd = start.start().await;
        let victim = Victim { folder, nsqd, flags, acknowledged: BTreeSet::new() };
        victim.nsqd.admin("/topic/create?topic=t").await;
        victim.nsqd.admin("/channel/create?topic=t&channel=c").await;
        victim
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
        let look = async || {
            let ping = self.nsqd.get("/ping").await;
            wait::when((ping.status, ping.text()), |(status, text)| *status == 500 && text.contains(reason))
        };
        wait::until("/ping says what is wrong", look).await;
        self.nsqd.log().expect(reason).await;
    }

    async fn until_healthy(&self) {
        let look = async || wait::when(self.nsqd.get("/ping").await.text(), |text| text == "OK");
        wait::until("all is well", look).await;
    }

    /// All that was acknowledged is there, and nothing else.
    async fn expect_all(&self) {
        let mut consumer = self.nsqd.subscribe("t", "c").await;
        consumer.ready(100).await;
        let messages = consumer.consume(self.acknowledged.len()).await;
        let received: BTreeSet<String> = messages.iter().map(|message| message.text()).collect();
        assert_eq!(received, self.acknowledged);
    }

    /// A start in another directory.
    async fn restart_in(&mut self, dir: &Path) {
        let dir = format!("--data-path={}", dir.display());
        self.nsqd = Daemon::nsqd().flag(&self.flags[0]).flag(dir).start().await;
    }
}

#[test]
fn without_its_data_directory_nsqd_refuses_publishes_and_stores_all_at_the_end() {
    test(async {
        for mode in MODES {
            let mut victim = Victim::start(mode).await;
            victim.publish(20).await.expect("nothing is wrong yet");
            fs::remove_dir_all(victim.data()).expect("it is ours");
            // Nobody publishes meanwhile.
            victim.until_unhealthy("was removed or moved").await;
            victim.publish(1).await.expect_err("there is no data directory");
            let over_http = victim.nsqd.post("/pub?topic=t", "x").await;
            assert_eq!(over_http.status, 503, "{}", over_http.text());
            assert!(!victim.data().exists(), "it may be another disk that is to be there");
            let status = victim.nsqd.terminate().await;
            assert!(status.success(), "{mode}: {status}: {}", victim.nsqd.log().text());
            assert!(victim.nsqd.log().contains("is stored in a new data directory"));
            victim.restart_in(&victim.data()).await;
            victim.expect_all().await;
        }
    });
}

#[test]
fn what_is_acknowledged_before_the_loss_is_noticed_is_stored_at_the_end() {
    test(async {
        for mode in MODES {
            let mut victim = Victim::start(mode).await;
            victim.publish(10).await.expect("nothing is wrong yet");
            fs::remove_dir_all(victim.data()).expect("it is ours");
            while victim.publish(1).await.is_ok() {
                assert!(victim.acknowledged.len() < 1_000_000, "publishes go on into nothing");
            }
            if mode == "sync" {
                assert_eq!(victim.acknowledged.len(), 10, "acknowledged in a file without a name");
            }
            victim.nsqd.terminate().await;
            victim.restart_in(&victim.data()).await;
            victim.expect_all().await;
        }
    });
}

#[test]
fn a_data_directory_that_comes_back_is_used_again() {
    test(async {
        for mode in MODES {
            let mut victim = Victim::start(mode).await;
            victim.publish(10).await.expect("nothing is wrong yet");
            let elsewhere = victim.folder.path().join("elsewhere");
            fs::rename(victim.data(), &elsewhere).expect("it is ours");
            victim.until_unhealthy("was removed or moved").await;
            fs::create_dir(victim.data()).expect("there is nothing");
            fs::write(victim.data().join("notes"), "of somebody else").expect("it is ours");
            victim.until_unhealthy("is not the directory that nsqd has locked").await;
            victim.publish(1).await.expect_err("that is another directory");
            fs::remove_dir_all(victim.data()).expect("it is ours");
            fs::rename(&elsewhere, victim.data()).expect("it is ours");
            victim.until_healthy().await;
            victim.publish(10).await.expect("all is well again");
            if mode == "overflow" {
                assert!(victim.nsqd.terminate().await.success());
            } else {
                victim.nsqd.kill().await;
            }
            victim.restart_in(&victim.data()).await;
            victim.expect_all().await;
        }
    });
}

#[test]
fn a_moved_data_directory_has_everything_after_a_stop_and_the_exit_status_tells() {
    test(async {
        for mode in MODES {
            let mut victim = Victim::start(mode).await;
            victim.publish(10).await.expect("nothing is wrong yet");
            let elsewhere = victim.folder.path().join("elsewhere");
            fs::rename(victim.data(), &elsewhere).expect("it is ours");
            let status = victim.nsqd.terminate().await;
            assert_eq!(status.code(), Some(1), "{mode}");
            let hint = format!("start nsqd with --data-path={}", elsewhere.display());
            assert!(victim.nsqd.log().contains(&hint), "{}", victim.nsqd.log().text());
            assert!(!victim.data().exists());
            victim.restart_in(&elsewhere).await;
            victim.expect_all().await;
        }
    });
}

#[test]
fn a_stop_without_a_place_for_what_is_in_memory_is_a_failure() {
    test(async {
        for mode in MODES {
            let mut victim = Victim::start(mode).await;
            victim.publish(10).await.expect("nothing is wrong yet");
            fs::remove_dir_all(victim.data()).expect("it is ours");
            fs::create_dir(victim.data()).expect("there is nothing");
            fs::write(victim.data().join("notes"), "of somebody else").expect("it is ours");
            let status = victim.nsqd.terminate().await;
            assert_eq!(status.code(), Some(1), "{mode}");
            assert!(
                victim.nsqd.log().contains("what nsqd had in memory is lost"),
                "{}",
                victim.nsqd.log().text()
            );
            assert_eq!(
                fs::read_dir(victim.data()).expect("it is there").count(),
                1,
                "nothing is added to it"
            );
        }
    });
}

/// The only file with this ending.
fn file(dir: &Path, ending: &str) -> PathBuf {
    let entries = fs::read_dir(dir).expect("it is there").flatten().map(|entry| entry.path());
    let mut files = entries.filter(|path| path.extension().is_some_and(|end| end == ending));
    files.next().expect("such a file")
}

#[test]
fn files_that_are_removed_are_written_again() {
    test(async {
        for mode in ["write", "sync"] {
            for replaced in [false, true] {
                let mut victim = Victim::start(mode).await;
                victim.publish(10).await.expect("nothing is wrong yet");
                let journal = victim.data().join("journal");
                let removed = file(&journal, "journal");
                fs::remove_file(&removed).expect("it is there");
                if replaced {
                    fs::write(&removed, "something else").expect("it is ours");
                }
                victim.nsqd.log().expect("stored again what removed journal files held").await;
                victim.until_healthy().await;
                victim.publish(10).await.expect("all is well again");

                fs::remove_dir_all(&journal).expect("it is there");
                victim.nsqd.log().expect("journal files [2]").await;
                let checkpoint = victim.data().join("checkpoint");
                let stored = || victim.nsqd.log().text().matches("stored again what removed").count();
                wait::until("everything is stored again", async || wait::when(stored(), |&times| times == 2))
                    .await;
                fs::remove_file(&checkpoint).expect("it is there");
                victim.nsqd.log().expect("checkpoint was removed or replaced").await;
                victim.until_healthy().await;

                victim.nsqd.kill().await;
                victim.restart_in(&victim.data()).await;
                victim.expect_all().await;
            }
        }
    });
}

#[test]
fn a_segment_file_that_is_removed_is_written_again() {
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
        fs::remove_file(file(&topic, "segment")).expect("it is there");
        nsqd.log().expect("what they held is stored again").await;
        let look = async || wait::when(nsqd.get("/ping").await.text(), |text| text == "OK");
        wait::until("all is well", look).await;
        nsqd.kill().await;
        nsqd.restart().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(100).await;
        let received: BTreeSet<String> =
            consumer.consume(bodies.len()).await.iter().map(|m| m.text()).collect();
        assert_eq!(received, bodies.into_iter().collect());
    });
}
