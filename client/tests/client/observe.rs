//! What traces and metrics show of a consumer and a producer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use nsq::test_util::StubNsqd;
use nsq::{Consumer, Delivery, Producer};
use parking_lot::Mutex;
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};

use crate::wait::{PATIENCE, until};

/// The name and the fields of each span.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<(&'static str, SpanFields)>>>);

type SpanFields = BTreeMap<&'static str, String>;

struct Fields<'a>(&'a mut SpanFields);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl Subscriber for Spans {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut fields = SpanFields::new();
        attributes.record(&mut Fields(&mut fields));
        let mut spans = self.0.lock();
        spans.push((attributes.metadata().name(), fields));
        Id::from_u64(spans.len() as u64)
    }
    fn record(&self, id: &Id, record: &Record<'_>) {
        if let Some((_, fields)) = self.0.lock().get_mut(id.into_u64() as usize - 1) {
            record.record(&mut Fields(fields));
        }
    }
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl Spans {
    fn named(&self, name: &str) -> Vec<SpanFields> {
        self.0.lock().iter().filter(|(other, _)| *other == name).map(|(_, fields)| fields.clone()).collect()
    }
}

async fn handle_one(nsqd: &StubNsqd, body: &'static str) {
    nsqd.offer([body]);
    let consumer = Consumer::builder("orders", "billing")
        .nsqd(&nsqd.address)
        .handler_fn(|order: Delivery| async move { order.json::<u32>().map(drop) })
        .start()
        .unwrap();
    until("an answer", || consumer.stats(), |stats| stats.received == 1 && stats.in_flight == 0).await;
    consumer.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn spans_show_connections_publishes_and_calls_of_handlers() {
    let spans = Spans::default();
    let _guard = tracing::subscriber::set_default(spans.clone());
    let nsqd = StubNsqd::start().await;
    let producer = Producer::new(&nsqd.address).unwrap();
    producer.publish("orders", "7").await.unwrap();
    producer.publish_many("orders", ["8", "9"]).await.unwrap();
    handle_one(&nsqd, "7").await;
    handle_one(&nsqd, "x").await;

    let connects = spans.named("nsq.connect");
    assert!(
        connects.iter().any(|span| span["nsq.role"] == "producer" && span["server.address"] == nsqd.address)
    );
    assert!(connects.iter().any(|span| span["nsq.role"] == "consumer"));
    let publishes = spans.named("nsq.publish");
    assert_eq!(publishes.len(), 2, "{publishes:?}");
    assert_eq!(publishes[0]["messaging.destination.name"], "orders");
    assert_eq!((&*publishes[0]["messaging.message.body.size"], &*publishes[0]["nsq.attempts"]), ("1", "1"));
    assert_eq!(publishes[1]["messaging.batch.message_count"], "2");
    let calls = spans.named("nsq.process");
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert_eq!(calls[0]["messaging.consumer.group.name"], "billing");
    assert_eq!((&*calls[0]["nsq.outcome"], calls[0].contains_key("error")), ("finished", false));
    assert_eq!(calls[1]["nsq.outcome"], "failed");
    assert!(calls[1]["error"].contains("JSON"), "{calls:?}");
}

#[cfg(feature = "metrics")]
mod metered {
    use std::sync::atomic::{AtomicU64, Ordering};

    use metrics::{
        Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString,
        Unit,
    };

    use super::*;

    /// Values of counters and gauges, and the number of values of histograms, by name and labels.
    #[derive(Clone, Default)]
    struct Values(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

    struct Samples(Arc<AtomicU64>);

    impl HistogramFn for Samples {
        fn record(&self, _: f64) {
            self.0.increment(1);
        }
    }

    impl Values {
        fn of(&self, key: &Key) -> Arc<AtomicU64> {
            let labels: Vec<String> =
                key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
            Arc::clone(self.0.lock().entry(format!("{} {}", key.name(), labels.join(" "))).or_default())
        }

        /// Gauges are stored as the bits of a float.
        fn get(&self, name: &str) -> u64 {
            let values = self.0.lock();
            values.get(name).unwrap_or_else(|| panic!("{name}: {values:?}")).load(Ordering::Relaxed)
        }
    }

    impl Recorder for Values {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            self.of(key).into()
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            self.of(key).into()
        }
        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            Arc::new(Samples(self.of(key))).into()
        }
    }

    #[tokio::test]
    async fn metrics_count_publishes_outcomes_and_connections() {
        let values = Values::default();
        let _guard = metrics::set_default_local_recorder(&values);
        let nsqd = StubNsqd::start().await;
        let producer = Producer::new(&nsqd.address).unwrap();
        producer.publish("orders", "7").await.unwrap();
        producer.publish_many("orders", ["8", "9"]).await.unwrap();
        handle_one(&nsqd, "7").await;
        handle_one(&nsqd, "x").await;

        assert_eq!(values.get("nsq_producer_messages_total topic=orders result=published"), 3);
        assert_eq!(values.get("nsq_producer_bytes_total topic=orders"), 3);
        assert_eq!(values.get("nsq_producer_publish_seconds topic=orders"), 2);
        assert_eq!(values.get("nsq_producer_batch_size topic=orders"), 2);
        let of_consumer = "topic=orders channel=billing";
        let answered =
            |outcome| values.get(&format!("nsq_consumer_messages_total {of_consumer} outcome={outcome}"));
        assert_eq!((answered("finished"), answered("requeued")), (2, 0), "the second one is given up");
        assert_eq!(values.get(&format!("nsq_consumer_failures_total {of_consumer}")), 1);
        assert_eq!(values.get(&format!("nsq_consumer_gave_up_total {of_consumer}")), 1);
        assert_eq!(values.get(&format!("nsq_consumer_handle_seconds {of_consumer}")), 2);
        assert_eq!(values.get(&format!("nsq_consumer_in_flight {of_consumer}")), 0, "0.0 has no bits");
        let node = &nsqd.address;
        assert_eq!(values.get(&format!("nsq_connects_total role=consumer node={node}")), 2);
        let open = format!("nsq_connections role=consumer node={node}");
        until("closed connections", || values.get(&open), |open| *open == 0).await;
    }
}
