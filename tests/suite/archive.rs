//! `--archive` and `nsq archive`: a node that is lost with its disk is restored from the store, and a store that fails only delays
//! the archive.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nsq_tests::daemon::Start;
use nsq_tests::{Daemon, test, wait};
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{CommandOutput, command, run};

fn folder() -> TempDir {
    TempDir::with_prefix("nsq-archive-").expect("a folder")
}

/// An nsqd that archives into a folder.
fn archiving(store: &Path) -> Start {
    let archive = format!("--archive=file://{}", store.display());
    Daemon::nsqd().flag(archive).flag("--archive-interval=50ms").flag("--archive-snapshot-interval=1s")
}

/// What `/stats` says about the archive.
async fn archive(nsqd: &Daemon) -> Value {
    nsqd.get_json("/stats?format=json").await["archive"].clone()
}

/// Waits until everything is archived and a snapshot is written.
async fn archived(nsqd: &Daemon) -> Value {
    wait::until("everything is archived", async || {
        wait::when(archive(nsqd).await, |archive| {
            archive["lag_bytes"] == 0 && archive["snapshot_count"].as_u64() > Some(0)
        })
    })
    .await
}

/// Runs `nsq archive COMMAND STORE` with further words.
async fn nsq_archive(subcommand: &str, store: &Path, words: &[&str]) -> CommandOutput {
    let line = format!("archive {subcommand} {} {}", store.display(), words.join(" "));
    run(command(&line), b"").await
}

/// Takes and finishes `count` messages of a channel.
async fn take(nsqd: &Daemon, topic: &str, channel: &str, count: usize) -> BTreeSet<String> {
    let mut consumer = nsqd.subscribe(topic, channel).await;
    consumer.ready(2500).await;
    let mut bodies = BTreeSet::new();
    while bodies.len() < count {
        let message = consumer.message().await;
        consumer.finish(&message).await;
        bodies.insert(String::from_utf8(message.body.to_vec()).expect("text"));
    }
    consumer.barrier().await;
    bodies
}

async fn publish(nsqd: &Daemon, range: std::ops::Range<usize>) {
    let mut publisher = nsqd.connect().await;
    let bodies: Vec<String> = range.map(|number| format!("order {number}")).collect();
    for batch in bodies.chunks(100) {
        publisher.publish_batch("orders", batch).await;
    }
}

#[test]
fn node_that_is_lost_with_its_disk_is_restored() {
    test(async {
        let store = folder();
        let mut nsqd = archiving(store.path()).start().await;
        nsqd.admin("/topic/create?topic=orders").await;
        nsqd.admin("/channel/create?topic=orders&channel=billing").await;
        nsqd.admin("/channel/create?topic=orders&channel=audit").await;
        publish(&nsqd, 0..1000).await;
        archived(&nsqd).await;
        let finished = take(&nsqd, "orders", "billing", 400).await;
        publish(&nsqd, 1000..2000).await;
        archived(&nsqd).await;
        nsqd.kill().await;
        fs::remove_dir_all(nsqd.data_path()).expect("our own folder");

        let listed = nsq_archive("ls", store.path(), &["--json"]).await.expect(0);
        let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
        assert_eq!(listed.as_array().map(Vec::len), Some(1));
        let shown = nsq_archive("show", store.path(), &[]).await.expect(0).stdout;
        assert!(
            shown.contains("snapshots: ") && shown.contains(listed[0]["log"].as_str().expect("an id")),
            "{shown}"
        );
        let verified = nsq_archive("verify", store.path(), &[]).await.expect(0).stdout;
        assert!(verified.contains("can be restored: everything until "), "{verified}");

        let restored = Arc::new(folder());
        let path = restored.path().to_str().expect("text");
        nsq_archive("restore", store.path(), &[path]).await.expect(0);
        let again = nsq_archive("restore", store.path(), &[path]).await.expect(2).stderr;
        assert!(again.contains("is not an empty directory"), "{again}");
        run(command(&format!("data verify {path}")), b"").await.expect(0);

        let nsqd = Daemon::nsqd().start_in(restored).await;
        let all: BTreeSet<String> = (0..2000).map(|number| format!("order {number}")).collect();
        assert_eq!(take(&nsqd, "orders", "audit", 2000).await, all);
        // Finishes of the last seconds may be missing: these messages come again.
        let left: BTreeSet<String> = all.difference(&finished).cloned().collect();
        let depth = nsqd.channel("orders", "billing").await.expect("the channel exists").depth;
        let again = take(&nsqd, "orders", "billing", usize::try_from(depth).expect("a count")).await;
        assert!(again.is_superset(&left) && again.is_subset(&all), "{} of {}", again.len(), left.len());
    });
}

#[test]
fn store_that_fails_delays_only_the_archive() {
    test(async {
        let outer = folder();
        let (store, away) = (outer.path().join("store"), outer.path().join("away"));
        fs::create_dir(&store).expect("a new folder");
        let nsqd = archiving(&store).start().await;
        publish(&nsqd, 0..100).await;
        archived(&nsqd).await;

        fs::rename(&store, &away).expect("our own folder");
        // What is written cannot become a folder.
        fs::write(&store, "no folder").expect("a new file");
        publish(&nsqd, 100..200).await;
        let failing = wait::until("the error is reported", async || {
            wait::when(archive(&nsqd).await, |archive| archive["error"].is_string())
        })
        .await;
        assert!(failing["lag_bytes"].as_u64() > Some(0) && failing["lost"] == false, "{failing}");
        assert_eq!(nsqd.get("/ping").await.text(), "OK");
        let metrics = nsqd.get("/metrics").await.text();
        assert!(metrics.contains("nsq_archive_healthy 0"), "{metrics}");

        fs::remove_file(&store).expect("our own file");
        fs::rename(&away, &store).expect("our own folder");
        let working = wait::until_within(Duration::from_secs(40), "it catches up", async || {
            wait::when(archive(&nsqd).await, |archive| {
                archive["lag_bytes"] == 0 && archive["error"].is_null()
            })
        })
        .await;
        assert!(working["error_count"].as_u64() > Some(0), "{working}");
        nsq_archive("verify", &store, &[]).await.expect(0);
    });
}

#[test]
fn commands_say_what_is_missing() {
    test(async {
        let store = folder();
        let empty = nsq_archive("verify", store.path(), &[]).await.expect(4).stderr;
        assert!(empty.contains("has no logs"), "{empty}");
        let missing = nsq_archive("ls", &store.path().join("none"), &[]).await.expect(1).stderr;
        assert!(missing.contains("cannot open the archive"), "{missing}");
        let wrong = nsq_archive("ls", Path::new("ftp://server/path"), &[]).await.expect(2).stderr;
        assert!(wrong.contains("is not a kind of store"), "{wrong}");
        let (_, log) = archiving(store.path()).flag("--durability=overflow").expect_exit().await;
        assert!(log.text().contains("--archive"), "{}", log.text());
    });
}
