//! Small volumes: nsqd uses their space, warns at the start, and frees space.

use std::sync::Arc;
use std::time::Duration;

use nsq_tests::disk::MemoryDisk;
use nsq_tests::{Daemon, process, test_within, wait};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn folder() -> Arc<TempDir> {
    Arc::new(TempDir::with_prefix("nsq-tests-").expect("a temporary directory"))
}

/// Publishes and finishes this number of batches, about 1 MB each.
async fn pass_through(nsqd: &Daemon, batches: usize) {
    let mut consumer = nsqd.subscribe("t", "c").await;
    consumer.ready(100).await;
    let mut publisher = nsqd.connect().await;
    let bodies = vec![vec![b'x'; 100_000]; 10];
    for _ in 0..batches {
        publisher.publish_batch("t", &bodies).await;
        for message in consumer.messages(bodies.len()).await {
            consumer.finish(&message).await;
        }
    }
}

#[test]
fn finished_messages_do_not_fill_a_small_volume() {
    test_within(Duration::from_secs(240), async {
        for mebibytes in [16, 40, 100] {
            for mode in ["write", "sync"] {
                let folder = folder();
                let Some(_disk) = MemoryDisk::mount(folder.path(), mebibytes) else { return };
                let flag = format!("--durability={mode}");
                let mut nsqd = Daemon::nsqd().flag(flag).start_in(folder.clone()).await;
                pass_through(&nsqd, mebibytes as usize * 3 / 2).await;
                assert_eq!(nsqd.get("/ping").await.text(), "OK");
                assert!(nsqd.terminate().await.success());
                nsqd.restart().await;
                pass_through(&nsqd, 2).await;
                nsqd.kill().await;
            }
        }
    });
}

#[test]
fn small_volume_is_a_warning_at_the_start() {
    test_within(Duration::from_secs(60), async {
        for (mebibytes, warning) in
            [(8, "has 8 MiB, and nsqd needs 16 MiB"), (50, "of 50 MiB free"), (100, "")]
        {
            let folder = folder();
            let Some(_disk) = MemoryDisk::mount(folder.path(), mebibytes) else { return };
            let mut nsqd = Daemon::nsqd().start_in(folder.clone()).await;
            nsqd.publish("t", "x").await;
            assert_eq!(nsqd.get("/ping").await.text(), "OK");
            assert_eq!(nsqd.log().contains("the volume of"), !warning.is_empty(), "{}", nsqd.log().text());
            assert!(nsqd.log().contains(warning), "{}", nsqd.log().text());
            nsqd.kill().await;
        }
    });
}

#[test]
fn a_start_on_a_full_volume_serves_consumers() {
    test_within(Duration::from_secs(120), async {
        let folder = folder();
        let Some(_disk) = MemoryDisk::mount(folder.path(), 32) else { return };
        let mut nsqd = Daemon::nsqd().flag("--mem-queue-size=50").start_in(folder.clone()).await;
        nsqd.subscribe("t", "c").await;
        let mut count = 0;
        while nsqd.post("/pub?topic=t", vec![b'x'; 100_000]).await.status == 200 {
            count += 1;
        }
        assert!(count > 150, "{count} messages of 100 kB fit in 32 MiB");
        nsqd.kill().await;
        let ballast = folder.path().join("ballast");
        // Another file takes the remaining space.
        let _ = std::fs::write(&ballast, vec![1; 32 * MIB as usize]);
        nsqd.restart().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(100).await;
        consumer.consume(count).await;
        std::fs::remove_file(&ballast).expect("the file exists");
        let works = async || wait::when(nsqd.post("/pub?topic=t", "x").await.status, |&status| status == 200);
        wait::until("publishing works again", works).await;
        nsqd.kill().await;
    });
}

#[test]
fn an_idle_data_directory_is_small() {
    test_within(Duration::from_secs(240), async {
        let folder = folder();
        let nsqd = Daemon::nsqd().start_in(folder.clone()).await;
        pass_through(&nsqd, 200).await;
        assert!(process::folder_bytes(folder.path()) > 64 * MIB, "journal files are large under load");
        let small = async || wait::when(process::folder_bytes(folder.path()), |&bytes| bytes < 4 * MIB);
        wait::until_within(Duration::from_secs(150), "the idle directory becomes small", small).await;
        nsqd.publish("t", "x").await;
        assert_eq!(nsqd.get("/ping").await.text(), "OK");
    });
}
