use std::time::{Duration, Instant};

use nsq_tests::{Daemon, test, wait};
use serde_json::{Value, json};

const DELAY: Duration = Duration::from_millis(80);

/// The latencies in `/stats` of the topic and of its channel.
async fn latencies(nsqd: &Daemon) -> (Value, Value) {
    let topic = nsqd.get_json("/stats?format=json&topic=t").await["topics"][0].clone();
    (topic["e2e_processing_latency"].clone(), topic["channels"][0]["e2e_processing_latency"].clone())
}

async fn measures_from_publishing_to_fin(memory: &str) {
    let nsqd = Daemon::nsqd()
        .flag(memory)
        .flag("--e2e-processing-latency-percentile=0.5")
        .flag("--e2e-processing-latency-percentile=1.0,0.2")
        .start()
        .await;
    let begun = Instant::now();
    nsqd.connect().await.publish_deferred("t", DELAY, "late").await;
    nsqd.connect().await.publish_batch("t", &["a", "b", "c"]).await;
    let mut consumer = nsqd.subscribe("t", "c").await;
    consumer.ready(10).await;
    for _ in 0..4 {
        let message = consumer.message().await;
        consumer.finish(&message).await;
    }
    let (topic, channel) = wait::until("all messages are counted", async || {
        let seen = latencies(&nsqd).await;
        wait::when(seen, |(topic, _)| topic["count"] == 4)
    })
    .await;
    assert_eq!(topic, channel, "with one channel, topic and channel agree");
    let percentiles = topic["percentiles"].as_array().expect("a list");
    let quantiles: Vec<&Value> = percentiles.iter().map(|percentile| &percentile["quantile"]).collect();
    assert_eq!(quantiles, [&json!(1), &json!(0.5), &json!(0.2)]);
    let values: Vec<u64> = percentiles
        .iter()
        .map(|percentile| percentile["value"].as_u64().expect("whole nanoseconds"))
        .collect();
    let (least, most) = (DELAY.as_nanos() as u64, begun.elapsed().as_nanos() as u64);
    // The measurement is accurate to 1 %.
    assert!(
        values[0] >= least - least / 100 && values[0] <= most + most / 100,
        "{values:?}, {least} to {most}"
    );
    assert!(values[0] >= values[1] && values[1] >= values[2] && values[2] > 0, "{values:?}");
    let text = nsqd.get("/stats?topic=t").await.text();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("e2e%: ")).collect();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line.matches("s, ").count() == 2 && line.ends_with('s')), "{text}");
}

#[test]
fn latency_is_measured_in_memory() {
    test(measures_from_publishing_to_fin("--mem-queue-size=10000"));
}

#[test]
fn latency_is_measured_on_disk() {
    test(measures_from_publishing_to_fin("--mem-queue-size=0"));
}

#[test]
fn redelivery_is_measured_from_publishing_and_only_finished_messages_count() {
    test(async {
        let flag = "--e2e-processing-latency-percentile=1";
        let mut nsqd = Daemon::nsqd().flag(flag).start().await;
        nsqd.publish("t", "x").await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        let message = consumer.message().await;
        consumer.requeue(&message, DELAY).await;
        nsqd.channel_until("t", "c", "the message is deferred", |channel| channel.deferred_count == 1).await;
        assert_eq!(
            latencies(&nsqd).await.1,
            json!({"count": 0, "percentiles": [{"quantile": 1, "value": 0}]})
        );
        assert!(nsqd.terminate().await.success());
        nsqd.restart().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        let message = consumer.message().await;
        consumer.finish(&message).await;
        let value = wait::until("the message is counted", async || {
            let (_, channel) = latencies(&nsqd).await;
            wait::when(channel, |channel| channel["count"] == 1)
        })
        .await["percentiles"][0]["value"]
            .clone();
        let least = DELAY.as_nanos() as u64;
        assert!(value.as_u64().is_some_and(|value| value >= least - least / 100), "{value}");
    });
}

#[test]
fn topic_latency_includes_all_channels() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--e2e-processing-latency-percentile=0.5").start().await;
        nsqd.publish("t", "x").await;
        let nothing = json!({"count": 0, "percentiles": null});
        assert_eq!(latencies(&nsqd).await.0, nothing, "without a channel there are no percentiles");
        nsqd.admin("/channel/create?topic=t&channel=a").await;
        nsqd.admin("/channel/create?topic=t&channel=b").await;
        nsqd.publish("t", "y").await;
        for channel in ["a", "b"] {
            let mut consumer = nsqd.subscribe("t", channel).await;
            consumer.ready(10).await;
            let message = consumer.message().await;
            consumer.finish(&message).await;
            nsqd.channel_until("t", channel, "one message is finished", |seen| {
                seen.clients.iter().any(|client| client.finish_count == 1)
            })
            .await;
        }
        let (topic, channel) = latencies(&nsqd).await;
        assert_eq!((&topic["count"], &channel["count"]), (&json!(2), &json!(1)));
        let one = nsqd.get_json("/stats?format=json&topic=t&channel=b").await["topics"][0].clone();
        assert_eq!(one["channels"].as_array().map(Vec::len), Some(1));
        assert_eq!(one["e2e_processing_latency"], topic, "the channel filter does not change the topic");
    });
}

#[test]
fn latency_is_off_by_default() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "x").await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        let message = consumer.message().await;
        consumer.finish(&message).await;
        nsqd.channel_until_finished("t", "c").await;
        let nothing = json!({"count": 0, "percentiles": null});
        assert_eq!(latencies(&nsqd).await, (nothing.clone(), nothing));
    });
}
