//! Backoff: a consumer whose handler fails requests fewer messages, and recovers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nsq::{Config, Consumer, ConsumerState, Delivery, Requeue};

use crate::wait::{soon, until};
use nsq::test_util::StubNsqd;

fn quick() -> Config {
    Config::new()
        .max_in_flight(10u32)
        .backoff_multiplier(Duration::from_millis(5))
        .max_backoff_duration(Duration::from_millis(20))
        .low_rdy_idle_timeout(Duration::from_millis(100))
}

#[tokio::test]
async fn failures_pause_then_probe_and_success_restores_full_rdy() {
    let nsqd = StubNsqd::start().await;
    let failing = Arc::new(AtomicBool::new(true));
    let consumer = Consumer::builder("t", "c")
        .nsqd(&nsqd.address)
        .config(quick())
        .handler({
            let failing = Arc::clone(&failing);
            move |_: Delivery| {
                let fails = failing.load(Ordering::Relaxed);
                async move { if fails { Err("down") } else { Ok(()) } }
            }
        })
        .start()
        .unwrap();
    until("full", || nsqd.rdys(), |rdys| *rdys == [10]).await;
    nsqd.offer((0..200).map(|n| n.to_string()));
    let level = |consumer: &Consumer| match consumer.state() {
        ConsumerState::BackingOff { level } => level,
        _ => 0,
    };
    until("the highest level", || level(&consumer), |level| *level == 2).await;
    let probes = || nsqd.received("RDY").iter().filter(|text| *text == "RDY 1").count();
    let before = probes();
    until("probes", probes, |count| *count >= before + 3).await;
    assert!(nsqd.received("RDY").contains(&"RDY 0".to_owned()));
    failing.store(false, Ordering::Relaxed);
    until("recovered", || nsqd.rdys(), |rdys| *rdys == [10]).await;
    until("all done", || nsqd.count("FIN"), |count| *count == 200).await;
    assert!(matches!(consumer.state(), ConsumerState::Running));
}

#[tokio::test]
async fn requeueing_without_backoff_does_not_pause() {
    let nsqd = StubNsqd::start().await;
    nsqd.offer(["x"]);
    let mut messages = Consumer::builder("t", "c").nsqd(&nsqd.address).config(quick()).stream().unwrap();
    for _ in 0..5 {
        let message = soon("message", messages.next()).await.unwrap();
        message.requeue_without_backoff(Requeue::Now).unwrap();
    }
    soon("message", messages.next()).await.unwrap().finish().unwrap();
    assert_eq!(nsqd.received("RDY"), ["RDY 10"]);
}

#[tokio::test]
async fn probe_takes_one_message_at_a_time() {
    let nsqd = StubNsqd::start().await;
    nsqd.offer((0..10).map(|n| n.to_string()));
    let config = quick().max_in_flight(1u32);
    let mut messages = Consumer::builder("t", "c").nsqd(&nsqd.address).config(config).stream().unwrap();
    for _ in 0..4 {
        soon("message", messages.next()).await.unwrap().requeue(Requeue::Now).unwrap();
    }
    assert_eq!(nsqd.state().max_in_flight_seen, 1);
    for _ in 0..10 {
        soon("message", messages.next()).await.unwrap().finish().unwrap();
    }
    until("FINs", || nsqd.count("FIN"), |count| *count == 10).await;
}
