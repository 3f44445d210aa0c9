//! A node and its archive in one process: what is archived through a store that fails now and then is restored, and a start
//! finds everything there.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nsq_archive::faulty::{Faults, FaultyObjects};
use nsq_archive::objects::Objects;
use nsq_archive::reader::{self, Summary};
use nsq_daemon::log::Logger;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Archive, ArchiveOptions};
use crate::engine::EngineLimits;
use crate::startup::simulation::LIMITS;
use crate::startup::{StartOptions, recover_and_report};
use crate::storage::data_dir::{DataDir, DataDirError};
use crate::storage::file::FileStorage;
use crate::storage::{Durability, Storage};
use crate::topic::registry::Registry;
use crate::upkeep::{self, stop};

const FAULTS: Faults = Faults { refused: 10, lost: 10, repeated: 10, hung: 0 };

/// How long a test waits for a condition.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `holds`, and panics with `what` after [`PATIENCE`]. Calls `holds` again and again.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn start(dir: &Path, limits: EngineLimits) -> Arc<Registry> {
    let storage: Arc<dyn Storage> = Arc::new(FileStorage);
    let begun = Instant::now();
    // Work of a run that was aborted may still hold the directory.
    let data_dir = loop {
        match DataDir::open(&storage, dir) {
            Err(DataDirError::Locked { .. }) if begun.elapsed() < PATIENCE => std::thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    let options = StartOptions {
        data_dir,
        storage,
        durability: Durability::Write,
        limits,
        logger: Logger::silent(),
        oracle: None,
        policies: Arc::default(),
    };
    let recovered = recover_and_report(options).unwrap();
    assert_eq!(recovered.report.warnings(), Vec::<String>::new());
    recovered.registry
}

fn options(max_lag: u64) -> ArchiveOptions {
    ArchiveOptions {
        location: "memory:".parse().unwrap(),
        interval: Duration::from_millis(10),
        snapshot_interval: Duration::from_millis(50),
        retain: Duration::ZERO,
        max_lag,
        owner: "a".to_owned(),
        address: "a:4150".to_owned(),
    }
}

/// A running node with an archive.
struct Node {
    dir: TempDir,
    registry: Arc<Registry>,
    archive: Option<Archive>,
    stop: CancellationToken,
    upkeep: JoinHandle<()>,
}

impl Node {
    async fn start(dir: TempDir, objects: &Arc<dyn Objects>, max_lag: u64) -> Self {
        let registry = start(dir.path(), LIMITS);
        let archive = Archive::start_with(&registry, options(max_lag), objects.clone()).await.unwrap();
        let stop = CancellationToken::new();
        let upkeep = tokio::spawn(upkeep::run(registry.clone(), stop.clone()));
        Node { dir, registry, archive, stop, upkeep }
    }

    async fn publish(&self, topic: &str, count: u64) {
        let topic = self.registry.get_or_create(&topic.parse().unwrap()).await.unwrap();
        for number in 0..count {
            let body = [b'a' + (number % 20) as u8; 100];
            let publication = topic.append([&body[..]].into_iter(), body.len(), None).unwrap();
            publication.committed().await.unwrap();
        }
    }

    /// Waits until everything is archived and a snapshot more was written.
    async fn settled(&self) {
        let stats = || self.registry.engine().archive_stats().unwrap();
        let snapshots = stats().snapshot_count;
        until("everything is archived", async || {
            let stats = stats();
            let is_settled = stats.lag_bytes == 0 && stats.snapshot_count > snapshots;
            if !is_settled {
                self.publish("settle", 1).await;
            }
            is_settled
        })
        .await;
    }

    fn depths(&self) -> Vec<(String, u64)> {
        depths(&self.registry)
    }

    /// As by a `kill -9`.
    async fn kill(mut self) -> TempDir {
        if let Some(archive) = self.archive.take() {
            archive.task.abort();
            let _ = archive.task.await;
        }
        self.stop.cancel();
        self.upkeep.await.unwrap();
        self.dir
    }

    async fn stop(mut self) -> TempDir {
        self.stop.cancel();
        self.upkeep.await.unwrap();
        self.registry.all().iter().for_each(|topic| topic.close());
        stop::at_end(&self.registry).unwrap();
        self.archive.take().unwrap().finish().await;
        self.dir
    }
}

fn depths(registry: &Registry) -> Vec<(String, u64)> {
    registry.all().iter().map(|topic| (topic.name().to_string(), topic.depth().depth)).collect()
}

async fn restore(objects: &Arc<dyn Objects>) -> (Summary, Vec<(String, u64)>) {
    let [(log, about)] = &reader::logs(objects).await.unwrap()[..] else { panic!("one log") };
    assert_eq!(about.as_ref().unwrap().owner, "a");
    let dir = tempfile::tempdir().unwrap();
    let summary = reader::restore(objects, *log, dir.path(), None).await.unwrap();
    (summary, depths(&start(dir.path(), LIMITS)))
}

#[tokio::test]
async fn a_killed_node_is_restored_from_a_store_that_fails_now_and_then() {
    let store = Arc::new(FaultyObjects::new(3, Faults::NONE));
    let objects: Arc<dyn Objects> = store.clone();
    let node = Node::start(tempfile::tempdir().unwrap(), &objects, u64::MAX).await;
    store.set_faults(FAULTS);
    node.publish("t", 300).await;
    node.settled().await;
    node.publish("u", 100).await;
    node.settled().await;
    let expected = node.depths();
    store.set_faults(Faults::NONE);
    let dir = node.kill().await;
    let (summary, restored) = restore(&objects).await;
    assert_eq!(restored, expected);
    assert!(summary.file_count > 1 && summary.damaged.is_empty(), "{summary:?}");

    // The next run owns the next epoch, and its snapshot uses what is archived of the segments.
    let node = Node::start(dir, &objects, u64::MAX).await;
    node.publish("t", 10).await;
    node.settled().await;
    assert_eq!(node.registry.engine().archive_stats().unwrap().epoch, 2);
    let expected = node.depths();
    node.kill().await;
    assert_eq!(restore(&objects).await.1, expected);
}

#[tokio::test]
async fn a_clean_stop_archives_everything_even_if_the_store_refuses_some_calls() {
    for refused in [0, 30] {
        let store = Arc::new(FaultyObjects::new(3, Faults::NONE));
        let objects: Arc<dyn Objects> = store.clone();
        let node = Node::start(tempfile::tempdir().unwrap(), &objects, u64::MAX).await;
        store.set_faults(Faults { refused, ..Faults::NONE });
        node.publish("t", 50).await;
        let expected = node.depths();
        node.stop().await;
        store.set_faults(Faults::NONE);
        assert_eq!(restore(&objects).await.1, expected, "{refused} %");
    }
}

#[tokio::test]
async fn a_store_that_fails_for_long_neither_stops_the_node_nor_fills_its_disk() {
    let store = Arc::new(FaultyObjects::new(3, Faults::NONE));
    let objects: Arc<dyn Objects> = store.clone();
    let node = Node::start(tempfile::tempdir().unwrap(), &objects, 20_000).await;
    node.publish("t", 10).await;
    node.settled().await;
    store.set_faults(Faults { refused: 100, ..Faults::NONE });
    let stats = || node.registry.engine().archive_stats().unwrap();
    let files = || node.registry.engine().store.journal.as_ref().unwrap().size().1;
    // What follows is not in the chunk that fails, which stays in memory.
    until("the error is reported", async || {
        node.publish("t", 1).await;
        stats().error.is_some()
    })
    .await;
    while stats().lag_bytes < 100_000 {
        node.publish("t", 100).await;
    }
    // Files that are not archived are deleted beyond the limit, one check of upkeep later.
    until("files are deleted", async || files() <= 60_000).await;
    store.set_faults(Faults::NONE);
    node.settled().await;
    assert!(stats().gap_count > 0 && stats().error.is_none(), "{:?}", stats());
    let expected = node.depths();
    node.kill().await;
    assert_eq!(restore(&objects).await.1, expected);
}

#[tokio::test]
async fn a_log_that_another_process_owns_is_left_alone() {
    let objects: Arc<dyn Objects> = Arc::new(FaultyObjects::new(3, Faults::NONE));
    let node = Node::start(tempfile::tempdir().unwrap(), &objects, u64::MAX).await;
    node.publish("t", 10).await;
    node.settled().await;
    // A copy of the data directory.
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(node.dir.path().join("archive-log"), copy.path().join("archive-log")).unwrap();
    let second = Node::start(copy, &objects, u64::MAX).await;
    second.publish("t", 10).await;
    second.settled().await;
    let stats = || node.registry.engine().archive_stats().unwrap();
    until("the other one owns the log", async || {
        node.publish("t", 1).await;
        stats().lost
    })
    .await;
    assert!(stats().error.unwrap().contains("a sealed"), "{:?}", stats());
    assert!(node.registry.engine().health().is_ok(), "publishing goes on");
}
